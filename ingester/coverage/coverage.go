// Package coverage is the protocol by which replicas store one copy of what all
// of them have: which entries a stored chunk covers, what another replica may
// let go when it is told, and who stores what, when. docs/replication.md
// describes it and its failures.
//
// It is pure: no I/O, no clock, no goroutines. The ingester and the simulation
// that checks the protocol call the same functions.
//
// # Names of entries
//
// A gateway numbers the pushes that it sends to replica sets. Its start (a
// random number) and this number name a push in all replicas that get it, and
// they get the same entries in the same order. So (push, place in the push)
// names an entry everywhere, whatever blocks and chunks each replica makes.
package coverage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
)

// Push names a push as it was sent to the replicas of a set. The zero Push is
// none: what came with it is known to nobody else.
type Push struct{ Gateway, Number uint64 }

// Run is entries [From, To) of a push, by their place in it.
type Run struct {
	Push
	From, To uint32
}

func (r Run) compare(o Run) int {
	return cmp.Or(cmp.Compare(r.Gateway, o.Gateway), cmp.Compare(r.Number, o.Number), cmp.Compare(r.From, o.From))
}

// Set is entries of one stream: runs in order, apart from each other and not
// empty. Sets are values: nothing here changes one.
type Set []Run

// Of returns the set of the entries in runs, which it takes over. Those of the
// zero Push are left out.
func Of(runs ...Run) Set {
	slices.SortFunc(runs, Run.compare)
	out := runs[:0]
	for _, r := range runs {
		if r.From >= r.To || r.Push == (Push{}) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].Push == r.Push && r.From <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return Set(out)
}

// Entries returns how many there are.
func (s Set) Entries() int {
	n := 0
	for _, r := range s {
		n += int(r.To - r.From)
	}
	return n
}

// Union returns what is in s or o.
func (s Set) Union(o Set) Set {
	if len(s) == 0 || len(o) == 0 {
		return append(s, o...)
	}
	return Of(slices.Concat(s, o)...)
}

// Minus returns what is in s and not in o, and whether anything was taken away.
func (s Set) Minus(o Set) (Set, bool) {
	var out Set
	cut := false
	for n, r := range s {
		// The first run of o that does not end before r begins.
		k, _ := slices.BinarySearchFunc(o, r, func(a, r Run) int {
			if c := cmp.Or(cmp.Compare(a.Gateway, r.Gateway), cmp.Compare(a.Number, r.Number)); c != 0 {
				return c
			}
			if a.To <= r.From {
				return -1
			}
			return 1
		})
		for ; k < len(o) && o[k].Push == r.Push && o[k].From < r.To; k++ {
			if !cut {
				cut = true
				out = append(out, s[:n]...)
			}
			if r.From < o[k].From {
				out = append(out, Run{r.Push, r.From, o[k].From})
			}
			r.From = min(r.To, o[k].To)
		}
		if cut && r.From < r.To {
			out = append(out, r)
		}
	}
	if !cut {
		return s, false
	}
	return out, true
}

// Has reports whether entry number k of p is in s.
func (s Set) Has(p Push, k uint32) bool {
	n, _ := slices.BinarySearchFunc(s, k, func(r Run, k uint32) int {
		if c := cmp.Or(cmp.Compare(r.Gateway, p.Gateway), cmp.Compare(r.Number, p.Number)); c != 0 {
			return c
		}
		if r.To <= k {
			return -1
		}
		return 1
	})
	return n < len(s) && s[n].Push == p && s[n].From <= k
}

// Parts splits s into sets of n runs at most.
func (s Set) Parts(n int) []Set {
	var out []Set
	for len(s) > n {
		out, s = append(out, s[:n:n]), s[n:]
	}
	return append(out, s)
}

// Append encodes s:
//
//	per gateway: u64 gateway, little-endian · uvarint n · n × run
//	run: uvarint (number - that of the run before) << 1 | (from > 0) [· uvarint from] · uvarint (to - from)
func (s Set) Append(dst []byte) []byte {
	for len(s) > 0 {
		n := 1
		for n < len(s) && s[n].Gateway == s[0].Gateway {
			n++
		}
		dst = binary.LittleEndian.AppendUint64(dst, s[0].Gateway)
		dst = binary.AppendUvarint(dst, uint64(n))
		last := uint64(0)
		for _, r := range s[:n] {
			d := (r.Number - last) << 1
			last = r.Number
			if r.From > 0 {
				dst = binary.AppendUvarint(dst, d|1)
				dst = binary.AppendUvarint(dst, uint64(r.From))
			} else {
				dst = binary.AppendUvarint(dst, d)
			}
			dst = binary.AppendUvarint(dst, uint64(r.To-r.From))
		}
		s = s[n:]
	}
	return dst
}

var errSet = errors.New("coverage: malformed set of entries")

// maxPlace bounds places in a push.
const maxPlace = 1 << 31

// Decode reads what Append made. It accepts nothing else.
func Decode(p []byte) (Set, error) {
	var out Set
	ok := true
	next := func() uint64 {
		v, n := binary.Uvarint(p)
		if n <= 0 {
			ok, p = false, nil
			return 0
		}
		p = p[n:]
		return v
	}
	for len(p) > 0 {
		if len(p) < 9 {
			return nil, errSet
		}
		var r Run
		r.Gateway, p = binary.LittleEndian.Uint64(p), p[8:]
		n := next()
		if n == 0 || n > uint64(len(p)) {
			return nil, errSet
		}
		for ; n > 0; n-- {
			v := next()
			r.Number += v >> 1
			from := uint64(0)
			if v&1 == 1 {
				from = next()
			}
			size := next()
			if !ok || v>>1 > 1<<62 || from > maxPlace || size == 0 || size > maxPlace || v&1 == 1 && from == 0 {
				return nil, errSet
			}
			r.From, r.To = uint32(from), uint32(from+size)
			if k := len(out); k > 0 && (out[k-1].compare(r) >= 0 || out[k-1].Push == r.Push && out[k-1].To >= r.From) {
				return nil, errSet
			}
			if r.Push == (Push{}) {
				return nil, errSet
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// Log gathers runs as they come, in a few bytes each. The zero Log is empty.
type Log struct {
	gateways []source
	enc      []byte // uvarint place in gateways · varint number minus that gateway's last · uvarint from · uvarint to - from
	unnamed  bool
}

type source struct{ id, last uint64 }

// Add notes entries [from, to) of p. If p is none the log's entries have no
// names that others know, and Set is empty for good.
func (l *Log) Add(p Push, from, to uint32) {
	if from >= to || l.unnamed {
		return
	}
	if p == (Push{}) {
		*l = Log{unnamed: true}
		return
	}
	k := 0
	for k < len(l.gateways) && l.gateways[k].id != p.Gateway {
		k++
	}
	if k == len(l.gateways) {
		l.gateways = append(l.gateways, source{id: p.Gateway})
	}
	g := &l.gateways[k]
	l.enc = binary.AppendUvarint(l.enc, uint64(k))
	l.enc = binary.AppendVarint(l.enc, int64(p.Number-g.last))
	l.enc = binary.AppendUvarint(l.enc, uint64(from))
	l.enc = binary.AppendUvarint(l.enc, uint64(to-from))
	g.last = p.Number
}

// Set returns what was noted; nothing if some of it has no name.
func (l *Log) Set() Set {
	var out []Run
	last := make([]uint64, len(l.gateways))
	for p := l.enc; len(p) > 0; {
		k, n := binary.Uvarint(p)
		d, m := binary.Varint(p[n:])
		p = p[n+m:]
		from, n := binary.Uvarint(p)
		size, m := binary.Uvarint(p[n:])
		p = p[n+m:]
		last[k] += uint64(d)
		out = append(out, Run{Push{l.gateways[k].id, last[k]}, uint32(from), uint32(from + size)})
	}
	return Of(out...)
}
