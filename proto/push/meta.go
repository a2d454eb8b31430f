package push

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
)

// PairIter walks the metadata pairs of one entry, in order of names.
type PairIter struct {
	Name, Value []byte
	p           []byte
}

// Pairs returns an iterator over the metadata of e.
func (b *Batch) Pairs(e *Entry) PairIter { return PairIter{p: b.Bytes(e.Meta)} }

// PairsOf is Pairs over the bytes of an Entry's Meta span.
func PairsOf(meta []byte) PairIter { return PairIter{p: meta} }

// Next moves to the next pair.
func (it *PairIter) Next() bool {
	if len(it.p) == 0 {
		return false
	}
	name, value, n, ok := pair(it.p)
	if !ok { // Meta is checked when it is decoded; a caller's own bytes may be bad
		it.p = nil
		return false
	}
	it.Name, it.Value, it.p = name, value, it.p[n:]
	return true
}

// pair reads one `LabelPair` field, tag included, and says how long it is.
func pair(p []byte) (name, value []byte, n int, ok bool) {
	_, i := uvarint(p, 0)
	if i < 0 {
		return nil, nil, 0, false
	}
	from, to, ok := lenField(p, i, len(p))
	if !ok {
		return nil, nil, 0, false
	}
	for i := from; i < to; {
		tag, j := uvarint(p[:to], i)
		if j < 0 {
			return nil, nil, 0, false
		}
		if tag == 1<<3|2 || tag == 2<<3|2 {
			f, t, ok := lenField(p, j, to)
			if !ok {
				return nil, nil, 0, false
			}
			if tag>>3 == 1 {
				name = p[f:t]
			} else {
				value = p[f:t]
			}
			i = t
			continue
		}
		if i = skipField(p, j, to, tag&7); i < 0 {
			return nil, nil, 0, false
		}
	}
	return name, value, to, true
}

// appendPair appends a LabelPair as field 3 of an Entry.
func appendPair(dst, name, value []byte) []byte {
	n := 1 + uvarintLen(uint64(len(name))) + len(name) + 1 + uvarintLen(uint64(len(value))) + len(value)
	dst = append(dst, 3<<3|2)
	dst = binary.AppendUvarint(dst, uint64(n))
	dst = append(dst, 1<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(name)))
	dst = append(dst, name...)
	dst = append(dst, 2<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(value)))
	return append(dst, value...)
}

var replacement = []byte("\uFFFD")

// normaliseMeta makes the pairs in m what Loki's reader needs: names
// normalised, sorted and unique, no U+FFFD in values. Where they already are,
// or are more than MaxPairs, m itself is returned; else a rewritten copy is put
// behind Data.
func (b *Batch) normaliseMeta(m Span) (Span, error) {
	normal, size, err := b.norm.check(b.Bytes(m))
	if err != nil || normal {
		return m, err
	}
	if size > maxSpan-len(b.Data) {
		return Span{}, ErrTooLarge
	}
	start := len(b.Data)
	b.Data = b.norm.rewrite(b.Data, b.Bytes(m))
	return span(start, len(b.Data)), nil
}

// normaliser rewrites metadata. Its fields are scratch space.
type normaliser struct {
	pairs []npair
	names []byte
}

type npair struct {
	from, to       int // the name, in names
	newFrom, newTo int // its new name, if newTo is not 0
	drop           bool
	value          []byte // in the input
}

func (n *normaliser) size() int            { return cap(n.names) + 72*cap(n.pairs) }
func (n *normaliser) name(p *npair) []byte { return n.names[p.from:p.to] }

// MaxPairs is the number of pairs up to which metadata is normalised. An entry
// with more keeps its pairs as they came, so that a hostile one costs no more
// than its bytes; it is for validation to refuse it.
const MaxPairs = 1 << 14

// check reports whether the pairs in p are normal, or too many, and a bound for
// the size of what rewrite makes of them.
func (n *normaliser) check(p []byte) (normal bool, size int, err error) {
	normal = true
	count := 0
	var prev []byte
	for len(p) > 0 {
		count++
		name, value, n, ok := pair(p)
		if !ok {
			return false, 0, errTruncated
		}
		if normal {
			normal = normalName(name) && (prev == nil || bytes.Compare(prev, name) < 0) && !bytes.Contains(value, replacement)
		}
		// Tags and lengths, the prefix key_, a number.
		size += len(name) + len(value) + 40
		prev, p = name, p[n:]
	}
	return normal || count > MaxPairs, size, nil
}

// rewrite appends to dst the normal form of the pairs in p, which check has
// found sound. Two names may normalise to one: equal values are one pair then,
// others get a number behind their name, so that no value is lost.
func (n *normaliser) rewrite(dst, p []byte) []byte {
	n.pairs, n.names = n.pairs[:0], n.names[:0]
	for it := PairsOf(p); it.Next(); {
		from := len(n.names)
		n.names = NormaliseName(n.names, it.Name)
		n.pairs = append(n.pairs, npair{from: from, to: len(n.names), value: it.Value})
	}
	n.sort()
	if n.apart() {
		n.sort()
	}
	for i := range n.pairs {
		if v := n.pairs[i].value; bytes.Contains(v, replacement) {
			from := len(n.names)
			n.names = appendWithout(n.names, v, replacement)
			n.pairs[i].value = n.names[from:]
		}
		dst = appendPair(dst, n.name(&n.pairs[i]), n.pairs[i].value)
	}
	clear(n.pairs) // they point into the input
	return dst
}

// sort orders the pairs by name; those of one name stay in order.
func (n *normaliser) sort() {
	slices.SortStableFunc(n.pairs, func(a, b npair) int { return bytes.Compare(n.name(&a), n.name(&b)) })
}

// apart drops pairs that occur twice and renames those that share only the
// name. It reports whether it renamed any. One counter serves all of them, so
// that new names differ from each other by their number; from the old names
// they are kept apart by looking.
func (n *normaliser) apart() (renamed bool) {
	first, number, drop := 0, 1, false
	for i := 1; i < len(n.pairs); i++ {
		p := &n.pairs[i]
		switch {
		case !bytes.Equal(n.name(&n.pairs[first]), n.name(p)):
			first = i
		case bytes.Equal(n.pairs[first].value, p.value):
			p.drop, drop = true, true
		default:
			number = n.rename(p, number)
			renamed = true
		}
	}
	if drop {
		n.pairs = slices.DeleteFunc(n.pairs, func(p npair) bool { return p.drop })
	}
	if renamed {
		for i := range n.pairs {
			if p := &n.pairs[i]; p.newTo > 0 {
				p.from, p.to = p.newFrom, p.newTo
			}
		}
	}
	return renamed
}

// rename finds a new name for p with a number above the given one, which no
// pair had before, and returns that number.
func (n *normaliser) rename(p *npair, number int) int {
	at := len(n.names)
	for {
		number++
		n.names = append(append(n.names[:at], n.name(p)...), '_')
		n.names = strconv.AppendInt(n.names, int64(number), 10)
		raw := len(n.names)
		n.names = NormaliseName(n.names, n.names[at:raw])
		p.newFrom, p.newTo = raw, len(n.names)
		_, taken := slices.BinarySearchFunc(n.pairs, n.names[raw:], func(q npair, name []byte) int {
			return bytes.Compare(n.name(&q), name)
		})
		if !taken {
			return number
		}
	}
}

func appendWithout(dst, s, cut []byte) []byte {
	for {
		i := bytes.Index(s, cut)
		if i < 0 {
			return append(dst, s...)
		}
		dst, s = append(dst, s[:i]...), s[i+len(cut):]
	}
}

func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// normalName reports whether NormaliseName would leave name as it is.
func normalName(name []byte) bool {
	if len(name) == 0 || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	some := false
	for i, c := range name {
		if alnum(c) {
			some = true
			continue
		}
		if c != '_' || i > 0 && name[i-1] == '_' {
			return false
		}
	}
	return some
}

// NormaliseName appends the form that Loki's reader accepts of a structured
// metadata name: every run of characters that are not ASCII letters or digits
// becomes one underscore, __x__ keeps its double underscores, a leading digit
// gets the prefix key_. Loki refuses a push with a name of no letter or digit;
// such a name becomes "key" here, so that one odd field costs nobody a line.
// The result is never empty and is a fixed point of the function.
func NormaliseName(dst, name []byte) []byte {
	if n := len(name); n > 4 && bytes.HasPrefix(name, []byte("__")) && bytes.HasSuffix(name, []byte("__")) {
		inner := name[2 : n-2]
		if normalName(inner) && inner[0] != '_' && inner[len(inner)-1] != '_' {
			return append(dst, name...)
		}
	}
	some := false
	for _, c := range name {
		if alnum(c) {
			some = true
			break
		}
	}
	if !some {
		return append(dst, "key"...)
	}
	if name[0] >= '0' && name[0] <= '9' {
		dst = append(dst, "key_"...)
	}
	under := false
	for _, c := range name {
		if alnum(c) {
			dst = append(dst, c)
			under = false
		} else if !under {
			dst = append(dst, '_')
			under = true
		}
	}
	return dst
}
