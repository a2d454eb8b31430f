package index

import (
	"encoding/binary"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
)

// Select returns the series that satisfy all matchers and have chunks that
// touch from..through (ms, both inclusive), with those chunks. Series are in
// order of fingerprint and labels. The slices may share memory with each other
// but are the caller's.
func (r *Reader) Select(ms []*labels.Matcher, from, through int64) ([]Series, error) {
	if from > r.info.Through || through < r.info.From {
		return nil, nil
	}
	refs, rest, err := r.match(ms)
	if err != nil {
		return nil, err
	}
	var out []Series
	var ls labels.Labels
	var chunks []ChunkMeta
	for i := range refs {
		s, err := r.record(refs[i])
		if err != nil {
			return nil, err
		}
		ls, chunks = room(ls, 16), room(chunks, 16)
		a, b := len(ls), len(chunks)
		if ls, err = r.labels(&s, ls); err != nil {
			return nil, err
		}
		if !rest.match(ls[a:]) {
			ls = ls[:a]
			continue
		}
		if chunks, err = r.chunks(&s, chunks, from, through); err != nil {
			return nil, err
		}
		if len(chunks) == b {
			ls = ls[:a]
			continue
		}
		out = append(out, Series{Labels: ls[a:len(ls):len(ls)], Fingerprint: s.fp, Chunks: chunks[b:len(chunks):len(chunks)]})
	}
	return out, nil
}

// All returns all series.
func (r *Reader) All() ([]Series, error) { return r.Select(nil, math.MinInt64, math.MaxInt64) }

// room returns s, or a new slice when s is nearly full: results of many series
// share one.
func room[S ~[]E, E any](s S, n int) S {
	if cap(s)-len(s) < n {
		return make(S, 0, min(max(2*cap(s), 4*n), 4096))
	}
	return s
}

// LabelNames returns the label names of all series, sorted.
func (r *Reader) LabelNames() []string { return slices.Clone(r.names) }

// LabelValues returns the values of a label name, sorted.
func (r *Reader) LabelValues(name string) []string {
	span := r.ranges[name]
	if name == "" || span[0] == span[1] {
		return nil
	}
	out := make([]string, 0, span[1]-span[0])
	for i := span[0]; i < span[1]; i++ {
		out = append(out, string(r.entry(i).value))
	}
	return out
}

// entry returns an entry of the postings table, which NewReader has checked.
func (r *Reader) entry(i int) tableEntry {
	e, _ := r.tableEntry(int(r.entries[i]))
	return e
}

// values returns how many values name has.
func (r *Reader) values(name string) int {
	span := r.ranges[name]
	return span[1] - span[0]
}

// find returns the table entry of a label.
func (r *Reader) find(name, value string) (tableEntry, bool) {
	span := r.ranges[name]
	n := span[1] - span[0]
	i := sort.Search(n, func(i int) bool { return string(r.entry(span[0]+i).value) >= value })
	if i == n {
		return tableEntry{}, false
	}
	e := r.entry(span[0] + i)
	return e, string(e.value) == value
}

// list is a checked list of series references as it is in the file.
type list []byte

func (l list) len() int        { return len(l) / 4 }
func (l list) at(i int) uint32 { return binary.BigEndian.Uint32(l[4*i:]) }

func (r *Reader) list(e tableEntry) (list, error) {
	body, err := r.section("postings", e.offset)
	if err != nil {
		return nil, err
	}
	if len(body) < 4 || uint64(binary.BigEndian.Uint32(body))*4 != uint64(len(body)-4) {
		return nil, corrupt("postings", int(e.offset), errLength)
	}
	l := list(body[4:])
	for i := 1; i < l.len(); i++ {
		if l.at(i) <= l.at(i-1) {
			return nil, corrupt("postings", int(e.offset), errOrder)
		}
	}
	return l, nil
}

func (l list) append(dst []uint32) []uint32 {
	for i := range l.len() {
		dst = append(dst, l.at(i))
	}
	return dst
}

// residual are matchers that are applied to the labels of candidates.
type residual []residualMatcher

type residualMatcher struct {
	*labels.Matcher
	seen map[string]bool // results by value
}

func (rs residual) match(ls labels.Labels) bool {
	for i := range rs {
		v := ls.Get(rs[i].Name)
		ok, known := rs[i].seen[v]
		if !known {
			ok = rs[i].Matches(v)
			rs[i].seen[v] = ok
		}
		if !ok {
			return false
		}
	}
	return true
}

// match returns the references of series that may satisfy ms, and what is
// still to be checked. Matchers whose values follow from their text narrow the
// candidates first. Another one has to look at all values of its label, or at
// all candidates, whichever are fewer.
func (r *Reader) match(ms []*labels.Matcher) ([]uint32, residual, error) {
	var lists []list
	var sets, without [][]uint32
	var others []*labels.Matcher
	for _, m := range ms {
		values, negative, ok := literals(m)
		if !ok {
			others = append(others, m)
			continue
		}
		found, err := r.lists(m.Name, values)
		switch {
		case err != nil:
			return nil, nil, err
		case negative:
			without = append(without, union(found))
		case len(found) == 0:
			return nil, nil, nil
		case len(found) == 1:
			lists = append(lists, found[0])
		default:
			sets = append(sets, union(found))
		}
	}
	refs, err := r.narrow(lists, sets)
	if err != nil {
		return nil, nil, err
	}
	for _, set := range without {
		refs = subtract(refs, set)
	}
	var rest residual
	for _, m := range others {
		if len(refs) < r.values(m.Name) {
			rest = append(rest, residualMatcher{m, map[string]bool{}})
			continue
		}
		if refs, err = r.byValues(m, refs); err != nil {
			return nil, nil, err
		}
	}
	return refs, rest, nil
}

// lists returns the lists of those values that occur.
func (r *Reader) lists(name string, values []string) ([]list, error) {
	var found []list
	for _, v := range values {
		e, ok := r.find(name, v)
		if !ok {
			continue
		}
		l, err := r.list(e)
		if err != nil {
			return nil, err
		}
		found = append(found, l)
	}
	return found, nil
}

// narrow intersects lists and sets; without any it returns all series.
func (r *Reader) narrow(lists []list, sets [][]uint32) ([]uint32, error) {
	if len(lists)+len(sets) == 0 {
		all, err := r.list(r.entry(0))
		return all.append(make([]uint32, 0, all.len())), err
	}
	sort.Slice(lists, func(i, j int) bool { return len(lists[i]) < len(lists[j]) })
	sort.Slice(sets, func(i, j int) bool { return len(sets[i]) < len(sets[j]) })
	var refs []uint32
	if len(sets) == 0 || len(lists) > 0 && lists[0].len() <= len(sets[0]) {
		refs, lists = lists[0].append(make([]uint32, 0, lists[0].len())), lists[1:]
	} else {
		refs, sets = sets[0], sets[1:]
	}
	for _, l := range lists {
		refs = intersect(refs, l.len(), l.at)
	}
	for _, s := range sets {
		refs = intersect(refs, len(s), func(i int) uint32 { return s[i] })
	}
	return refs, nil
}

// byValues keeps the refs that satisfy m by looking at each value of its label.
func (r *Reader) byValues(m *labels.Matcher, refs []uint32) ([]uint32, error) {
	span := r.ranges[m.Name]
	// Series without the label have the empty value: when that matches, those
	// with a value that does not match are taken away.
	without := m.Matches("")
	var found []list
	for i := span[0]; i < span[1]; i++ {
		e := r.entry(i)
		if m.Matches(string(e.value)) == without {
			continue
		}
		l, err := r.list(e)
		if err != nil {
			return nil, err
		}
		found = append(found, l)
	}
	set := union(found)
	if without {
		return subtract(refs, set), nil
	}
	return intersect(refs, len(set), func(i int) uint32 { return set[i] }), nil
}

// subtract keeps in refs what is not in set, both sorted.
func subtract(refs, set []uint32) []uint32 {
	out, k := refs[:0], 0
	for _, ref := range refs {
		for k < len(set) && set[k] < ref {
			k++
		}
		if k == len(set) || set[k] != ref {
			out = append(out, ref)
		}
	}
	return out
}

// union returns the sorted union of lists that have nothing in common, as
// those of different values of one label.
func union(lists []list) []uint32 {
	n := 0
	for _, l := range lists {
		n += l.len()
	}
	out := make([]uint32, 0, n)
	for _, l := range lists {
		out = l.append(out)
	}
	if len(lists) > 1 {
		slices.Sort(out)
		out = slices.Compact(out) // damaged files know no rules
	}
	return out
}

// intersect keeps in refs what is among the n values of at, both sorted. It
// searches in steps that double, so that a short list against a long one costs
// little.
func intersect(refs []uint32, n int, at func(int) uint32) []uint32 {
	out, k := refs[:0], 0
	for _, ref := range refs {
		step := 1
		for k+step < n && at(k+step) < ref {
			k += step
			step *= 2
		}
		end := min(k+step+1, n)
		k += sort.Search(end-k, func(i int) bool { return at(k+i) >= ref })
		if k == n {
			break
		}
		if at(k) == ref {
			out = append(out, ref)
		}
	}
	return out
}

// literals returns the only values that m matches, or, if negative, the only
// ones that it does not match, when they follow from its text and the empty
// value is not among them.
func literals(m *labels.Matcher) (values []string, negative, ok bool) {
	negative = m.Type == labels.MatchNotEqual || m.Type == labels.MatchNotRegexp
	if m.Type == labels.MatchEqual || m.Type == labels.MatchNotEqual {
		return []string{m.Value}, negative, m.Value != ""
	}
	text := m.Value
	if strings.HasPrefix(text, "(") && strings.HasSuffix(text, ")") {
		text = strings.TrimPrefix(text[1:len(text)-1], "?:")
	}
	if strings.ContainsAny(text, `\.+*?()[]{}^$`) {
		return nil, negative, false
	}
	values = strings.Split(text, "|")
	slices.Sort(values)
	values = slices.Compact(values)
	return values, negative, values[0] != ""
}
