package gateway

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/loki-go/loki-go/proto/push"
)

// Ingesters remember the ids of pushes and do not store one twice. An id that
// they are given must therefore stand for exactly the entries that they are
// given with it. A push with all of its entries has the id that its client gave
// it; every other choice of entries has an id that is derived from it.

// Purposes of derived ids, so that they differ.
const (
	forAccepted = "accepted"
	forLetters  = "dead letters"
)

// acceptedID is the id of those entries of b that are not refused, if some are.
// It does not depend on why the others are refused, nor on whether their stream
// is marked or they are.
func acceptedID(b *push.Batch) push.ID {
	if b.ID == (push.ID{}) {
		return b.ID
	}
	d := newDigest(b.ID, forAccepted)
	run, good := uint64(0), true // entries like the one before
	for i := range b.Streams {
		s := &b.Streams[i]
		for j := range b.StreamEntries(s) {
			ok := s.Reject == push.OK && b.Entries[int(s.First)+j].Reject == push.OK
			if ok != good {
				d.add(run)
				run, good = 0, ok
			}
			run++
		}
	}
	d.add(run)
	return d.id()
}

// digest derives an id.
type digest struct{ buf []byte }

func newDigest(id push.ID, purpose string) *digest {
	return &digest{append(append(make([]byte, 0, 256), id[:]...), purpose...)}
}

func (d *digest) add(v uint64) { d.buf = binary.AppendUvarint(d.buf, v) }

func (d *digest) id() push.ID {
	sum := sha256.Sum256(d.buf)
	return push.ID(sum[:16])
}

// partID is the push id of a part. Two parts of one push may come to the same
// instance, which must not take the second for a repetition of the first; a
// repetition of the push, divided likewise, must give the same id.
func partID(id push.ID, b *push.Batch) push.ID {
	if id == (push.ID{}) {
		return id
	}
	h := xxhash.New()
	h.Write(id[:])
	for i := range b.Streams {
		h.WriteString(b.Streams[i].Labels)
	}
	binary.LittleEndian.PutUint64(id[8:], h.Sum64())
	return id
}
