package push

import (
	"bytes"
	"encoding/binary"
	"sort"
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
// m itself is returned; else a rewritten copy is put behind Data.
func (b *Batch) normaliseMeta(m Span) (Span, error) {
	good := true
	var prev []byte
	p := b.Bytes(m)
	for len(p) > 0 {
		name, value, n, ok := pair(p)
		if !ok {
			return Span{}, errTruncated
		}
		if !normalName(name) || prev != nil && bytes.Compare(prev, name) >= 0 || bytes.Contains(value, replacement) {
			good = false
		}
		prev, p = name, p[n:]
	}
	if good {
		return m, nil
	}
	type kv struct{ name, value []byte }
	var pairs []kv
	for it := PairsOf(b.Bytes(m)); it.Next(); {
		pairs = append(pairs, kv{NormaliseName(nil, it.Name), bytes.ReplaceAll(it.Value, replacement, nil)})
	}
	sort.SliceStable(pairs, func(i, j int) bool { return bytes.Compare(pairs[i].name, pairs[j].name) < 0 })
	// Two names that normalise to one: equal values are one pair, others get a
	// number, so that no value is lost.
	out := pairs[:0]
	seen := map[string]bool{}
	renamed := false
	for _, kv := range pairs {
		name := string(kv.name)
		if seen[name] {
			if k := len(out) - 1; bytes.Equal(out[k].value, kv.value) {
				continue
			}
			for i := 2; seen[name]; i++ {
				name = string(kv.name) + "_" + strconv.Itoa(i)
			}
			kv.name = []byte(name)
			renamed = true
		}
		seen[name] = true
		out = append(out, kv)
	}
	if renamed {
		sort.SliceStable(out, func(i, j int) bool { return bytes.Compare(out[i].name, out[j].name) < 0 })
	}
	start := len(b.Data)
	for _, kv := range out {
		b.Data = appendPair(b.Data, kv.name, kv.value)
	}
	return span(start, len(b.Data)), nil
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
