// Package ring says which ingesters hold a stream.
//
// A Ring is an immutable value made from a member list; it does no I/O and has
// no clock. Membership is where member lists come from: Memory within a
// process.
//
// # Placement
//
// Seen from a token, all instances stand in one order, the walk: by their
// score, a hash of token and instance id, highest first (rendezvous hashing).
// The replica set of a token is the first RF instances of its walk that are
// ACTIVE and, as far as there are zones, in zones of their own. Compared with a
// circle of random points:
//
//   - Every instance owns 1/n of the tokens to within the noise of a 32-bit
//     space (0.1 % at n = 200). A circle needs 16,384 points for each instance
//     to stay below 5 %.
//   - An instance that comes takes 1/(n+1) of the tokens, the same share from
//     each of the others; one that goes leaves its share to all others evenly.
//     No other token moves. The order of the others never changes.
//   - There is no table to build, store or agree on: 16 bytes for an instance.
//
// The price is that a lookup looks at every instance, which takes about 2 ns
// each.
//
// A Ring is safe for concurrent use.
package ring

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// MaxReplicas bounds the length of a walk.
const MaxReplicas = 8

// State is what an instance is ready for.
type State uint8

// States. Only ACTIVE instances are written to; all three may be read from.
const (
	Joining State = iota // replaying its WAL
	Active
	Leaving // finishes what it has
)

var stateNames = [...]string{Joining: "JOINING", Active: "ACTIVE", Leaving: "LEAVING"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText and UnmarshalText give states their names in stored members.
func (s State) MarshalText() ([]byte, error) {
	if int(s) >= len(stateNames) {
		return nil, fmt.Errorf("ring: unknown state %d", uint8(s))
	}
	return []byte(stateNames[s]), nil
}

func (s *State) UnmarshalText(text []byte) error {
	for i, name := range stateNames {
		if name == string(text) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("ring: unknown state %q", text)
}

// Instance is one member.
type Instance struct {
	ID         string // stable across restarts; the only thing that placement depends on
	Addr       string // host:port of its gRPC server
	Zone       string // "" when zones are not used
	State      State
	Generation int64 // grows with every start; tells a restarted instance from its past
}

// Ring is a member list, ready for lookups.
type Ring struct {
	instances []Instance // by ID
	zones     []zone     // those with ACTIVE instances, by name
	active    int
	depth     [MaxReplicas + 1]int // how far Replicas(n) may have to go into a zone
}

// zone has the ACTIVE instances of a zone by ID.
type zone struct {
	seeds   []uint64
	indices []int32 // in Ring.instances
}

// New returns the ring of members, which it copies; their order is free. Of
// several members with one ID the highest generation counts.
func New(members []Instance) *Ring {
	all := slices.Clone(members)
	slices.SortFunc(all, func(a, b Instance) int {
		if c := strings.Compare(a.ID, b.ID); c != 0 {
			return c
		}
		return compareVersions(b, a)
	})
	all = slices.CompactFunc(all, func(a, b Instance) bool { return a.ID == b.ID })
	r := &Ring{instances: all}
	var names []string
	for i := range all {
		if all[i].State == Active {
			names = append(names, all[i].Zone)
			r.active++
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	r.zones = make([]zone, len(names))
	for i := range all {
		if all[i].State == Active {
			k, _ := slices.BinarySearch(names, all[i].Zone)
			z := &r.zones[k]
			z.seeds = append(z.seeds, xxhash.Sum64String(all[i].ID))
			z.indices = append(z.indices, int32(i))
		}
	}
	for n := range r.depth {
		r.depth[n] = r.rounds(min(n, r.active))
	}
	return r
}

// rounds returns how many rounds through the zones it takes to get n instances.
func (r *Ring) rounds(n int) int {
	for round := 0; ; round++ {
		got := 0
		for i := range r.zones {
			got += min(round, len(r.zones[i].seeds))
		}
		if got >= n {
			return round
		}
	}
}

// compareVersions orders entries of one instance; any total order will do for
// equal generations, so long as everybody uses the same.
func compareVersions(a, b Instance) int {
	switch {
	case a.Generation != b.Generation:
		return int(min(1, max(-1, a.Generation-b.Generation)))
	case a.State != b.State:
		return int(a.State) - int(b.State)
	case a.Addr != b.Addr:
		return strings.Compare(a.Addr, b.Addr)
	}
	return strings.Compare(a.Zone, b.Zone)
}

// Instances returns all members by ID. The slice must not be changed.
func (r *Ring) Instances() []Instance { return r.instances }

// ActiveCount returns the number of ACTIVE instances.
func (r *Ring) ActiveCount() int { return r.active }

// Zones returns the number of zones that have an ACTIVE instance.
func (r *Ring) Zones() int { return len(r.zones) }

// Find returns the index of an instance in Instances, or -1.
func (r *Ring) Find(id string) int {
	i, ok := slices.BinarySearchFunc(r.instances, id, func(in Instance, id string) int {
		return strings.Compare(in.ID, id)
	})
	if !ok {
		return -1
	}
	return i
}

// Replicas appends to dst the indices (in Instances) of the first n ACTIVE
// instances on the token's walk and returns it. The walk goes through the
// zones in rounds, so that no zone is asked for a second instance before every
// zone has given one. There are fewer than n when there are not more ACTIVE
// ones; n is at most MaxReplicas. What Replicas returns for n is the beginning
// of what it returns for n+1: the rest are those to turn to when one fails.
func (r *Ring) Replicas(token uint32, n int, dst []int) []int {
	n = min(n, r.active, MaxReplicas)
	if n <= 0 {
		return dst
	}
	var top topList
	key := spread(token)
	if len(r.zones) == 1 {
		r.zones[0].best(&top, key, n)
	} else {
		r.merge(&top, key, n)
	}
	for i := range top.n {
		dst = append(dst, int(top.hits[i].index))
	}
	return dst
}

// merge takes the best of every zone by round, then score.
func (r *Ring) merge(top *topList, key uint64, n int) {
	var zone topList
	for i := range r.zones {
		zone.n = 0
		r.zones[i].best(&zone, key, r.depth[n])
		for round := range zone.n {
			h := zone.hits[round]
			h.round = int32(round)
			if top.n < n || h.before(&top.hits[n-1]) {
				top.insert(h, n)
			}
		}
	}
}

// spread makes a well mixed word from a token (splitmix64's finaliser): tokens
// are FNV-1 hashes of label texts, whose last characters barely mix.
func spread(token uint32) uint64 {
	x := uint64(token) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// score is a hash of the token's key and the instance's seed. One wide
// multiplication of two well mixed words, folded, is enough: the tests measure
// what it gives.
func score(key, seed uint64) uint64 {
	hi, lo := bits.Mul64(key^seed, seed^0xa0761d6478bd642f)
	return hi ^ lo
}

type hit struct {
	score uint64
	index int32
	round int32
}

func (a *hit) before(b *hit) bool {
	switch {
	case a.round != b.round:
		return a.round < b.round
	case a.score != b.score:
		return a.score > b.score
	}
	return a.index < b.index
}

// topList keeps the first few of many hits, in order.
type topList struct {
	hits [MaxReplicas]hit
	n    int
}

// insert adds h, which must belong in front of the last hit if the list has
// limit hits already.
func (t *topList) insert(h hit, limit int) {
	i := t.n
	if i == limit {
		i--
	} else {
		t.n++
	}
	for ; i > 0 && h.before(&t.hits[i-1]); i-- {
		t.hits[i] = t.hits[i-1]
	}
	t.hits[i] = h
}

// best fills t, which is empty, with the limit best instances of the zone.
func (z *zone) best(t *topList, key uint64, limit int) {
	indices := z.indices[:len(z.seeds)]
	fill := min(limit, len(z.seeds))
	for i, seed := range z.seeds[:fill] {
		t.insert(hit{score: score(key, seed), index: indices[i]}, limit)
	}
	if fill == 0 {
		return
	}
	worst := t.hits[fill-1].score
	for i := fill; i < len(z.seeds); i++ {
		// Nearly all scores are too low. An equal one is too: the lower index
		// goes first.
		if s := score(key, z.seeds[i]); s > worst {
			t.insert(hit{score: s, index: indices[i]}, limit)
			worst = t.hits[fill-1].score
		}
	}
}
