package fsck

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/loki-go/loki-go/storage/chunk"
)

// listing is a hash of a chunk in a table.
type listing uint64

// hashListing hashes a chunk of a tenant, whose own hash is known, in the table
// of a day.
func hashListing(tenant uint64, day int64, k chunk.Key) listing {
	var b [44]byte
	le := binary.LittleEndian
	le.PutUint64(b[0:], tenant)
	le.PutUint64(b[8:], uint64(day))
	le.PutUint64(b[16:], k.Fingerprint)
	le.PutUint64(b[24:], uint64(k.From))
	le.PutUint64(b[32:], uint64(k.Through))
	le.PutUint32(b[40:], k.Checksum)
	return listing(xxhash.Sum64(b[:]))
}

func hashTenant(tenant string) uint64 { return xxhash.Sum64String(tenant) }

// set is what index files list. Listings are added, then it is sealed, then
// those are claimed that are there.
type set struct {
	max int // listings

	mu      sync.Mutex
	list    []listing
	claimed []uint64 // a bit for each
}

// add reports whether there was room.
func (s *set) add(some []listing) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list)+len(some) > s.max {
		s.sort()
	}
	if len(s.list)+len(some) > s.max {
		return false
	}
	s.list = append(s.list, some...)
	return true
}

func (s *set) sort() {
	slices.Sort(s.list)
	s.list = slices.Compact(s.list)
}

func (s *set) seal() {
	s.sort()
	s.claimed = make([]uint64, (len(s.list)+63)/64)
}

// has reports whether l was added.
func (s *set) has(l listing) bool {
	_, ok := slices.BinarySearch(s.list, l)
	return ok
}

// claim notes that the chunks of some listings are there.
func (s *set) claim(some []listing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range some {
		if i, ok := slices.BinarySearch(s.list, l); ok {
			s.claimed[i/64] |= 1 << (i % 64)
		}
	}
}

// open reports whether l was added and not claimed. Nothing may be claimed at
// the same time.
func (s *set) open(l listing) bool {
	i, ok := slices.BinarySearch(s.list, l)
	return ok && s.claimed[i/64]&(1<<(i%64)) == 0
}

// anyOpen reports whether there is a listing that was not claimed.
func (s *set) anyOpen() bool {
	for i := range s.list {
		if s.claimed[i/64]&(1<<(i%64)) == 0 {
			return true
		}
	}
	return false
}
