package index

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/loki-go/loki-go/internal/labels"
)

// ErrNoSeries says that a merge has nothing to write.
var ErrNoSeries = errors.New("index: no series")

// Source is what Merge and Each read: a file, or the part of it that has one
// label. The file is either in memory or a stream; a part of a stream takes as
// long to read as all of it.
type Source struct {
	Reader *Reader
	Stream *Stream
	// Only, if it has a name, is the label that series must have. It is left
	// out of what is given on.
	Only labels.Label
}

// NumSeries returns the number of series of s.
func (s Source) NumSeries() (int, error) {
	c, err := s.cursor()
	if err != nil || c.stream == nil {
		return c.refs.len(), err
	}
	if err := c.rewind(); err != nil {
		return 0, err
	}
	for n := 0; ; n++ {
		if ok, err := c.next(); !ok || err != nil {
			return n, err
		}
	}
}

// Keep decides which chunks of a series stay: it returns chunks or a part of
// it, and may move what is in there. Merge may call it twice for a series. The
// arguments are valid during the call.
type Keep func(ls labels.Labels, fp uint64, chunks []ChunkMeta) []ChunkMeta

// Each calls f for every series, in order of the fingerprint, until it returns
// an error. What f is called with is valid during the call.
func (s Source) Each(f func(ls labels.Labels, fp uint64, chunks []ChunkMeta) error) error {
	c, err := s.cursor()
	if err != nil {
		return err
	}
	if err := c.rewind(); err != nil {
		return err
	}
	var ids []uint32
	var ls labels.Labels
	var chunks []ChunkMeta
	for {
		ok, err := c.next()
		if !ok || err != nil {
			return err
		}
		if ids, chunks, err = c.read(ids[:0], chunks[:0]); err != nil {
			return err
		}
		ls = ls[:0]
		for i := 0; i < len(ids); i += 2 {
			name, _ := c.r.symbol(uint64(ids[i]))
			value, _ := c.r.symbol(uint64(ids[i+1]))
			ls = append(ls, labels.Label{Name: name, Value: value})
		}
		if err := f(ls, c.rec.fp, chunks); err != nil {
			return err
		}
	}
}

// Merge appends to dst an index file that lists what the sources list, each
// series and chunk once, and of that what keep returns; a nil keep keeps all.
// The result is byte for byte what Build makes of the same series, but the
// series are never in memory together. If nothing is left it returns
// ErrNoSeries.
func Merge(dst []byte, sources []Source, keep Keep) ([]byte, Info, error) {
	m := merge{keep: keep, b: builder{start: len(dst), buf: dst}}
	if err := m.run(sources); err != nil {
		return dst, Info{}, mergeError(err)
	}
	return m.b.buf, m.b.info, nil
}

// MergeTo is Merge with the file written to w as it comes into being. It
// returns the number of series, too. What is in memory are the symbols of all
// sources, and 12 bytes for each label of each series of the result.
func MergeTo(w io.Writer, sources []Source, keep Keep) (Info, int, error) {
	m := merge{keep: keep, b: builder{sink: w}}
	if err := m.run(sources); err != nil {
		return Info{}, 0, mergeError(err)
	}
	return m.b.info, len(m.b.refs), nil
}

func mergeError(err error) error {
	if errors.Is(err, ErrNoSeries) {
		return err
	}
	return fmt.Errorf("index: merge: %w", err)
}

type merge struct {
	keep    Keep
	cursors []*cursor
	symbols []string // of all sources, sorted, each once
	rank    []uint32 // place of each in the file, if not all are there
	b       builder

	// One group of series with the same fingerprint.
	items  []item
	ids    []uint32
	chunks []ChunkMeta
	joined []ChunkMeta
	ls     labels.Labels
}

// item is a series of a group, as parts of merge.ids and merge.chunks.
type item struct{ ids, idsEnd, chunks, chunksEnd int }

func (m *merge) run(sources []Source) error {
	part, largest := m.keep != nil, 0
	for _, s := range sources {
		c, err := s.cursor()
		if err != nil {
			return err
		}
		m.cursors = append(m.cursors, &c)
		part = part || s.Only.Name != ""
		if s.Reader != nil {
			largest = max(largest, len(s.Reader.b))
		}
	}
	if err := m.mergeSymbols(); err != nil {
		return err
	}
	b := &m.b
	b.symbols = m.symbols
	if part {
		if err := m.dropUnused(); err != nil {
			return err
		}
	}
	if b.sink == nil {
		if len(sources) > 1 {
			largest += largest / 4
		}
		b.buf = slices.Grow(b.buf, largest)
	}
	b.be32(magic)
	b.buf = append(b.buf, version)
	b.writeSymbols()
	b.startSeries(m.guess())
	if err := m.groups(m.add); err != nil {
		return err
	}
	if len(b.refs) == 0 {
		return ErrNoSeries
	}
	b.endSeries()
	b.writeLabelIndices()
	b.writePostings()
	b.writeTables()
	b.spill(0)
	return b.err
}

// add writes a series of the result.
func (m *merge) add(fp uint64, ids []uint32, chunks []ChunkMeta) error {
	if m.rank != nil {
		for i, id := range ids {
			ids[i] = m.rank[id]
		}
	}
	return m.b.add(fp, ids, chunks)
}

// guess returns about how many series and labels there will be.
func (m *merge) guess() (series, labels int) {
	for _, c := range m.cursors {
		n := c.refs.len()
		if c.stream != nil {
			n = c.stream.numSeries()
		}
		series = max(series, n)
	}
	return series, 6 * series
}

// mergeSymbols makes one list of the symbols of all sources, and tells the
// cursors which of it each of theirs is.
func (m *merge) mergeSymbols() error {
	type head struct {
		text string
		c    *cursor
		i    uint64
	}
	h := minHeap[head]{less: func(a, b head) bool { return a.text < b.text }}
	most := 0
	for _, c := range m.cursors {
		most = max(most, len(c.r.heads))
	}
	m.symbols = make([]string, 0, most+most/4)
	for _, c := range m.cursors {
		c.remap = make([]uint32, len(c.r.heads))
		if s, ok := c.r.symbol(0); ok {
			h.push(head{s, c, 0})
		}
	}
	for h.len() > 0 {
		t := h.top()
		if n := len(m.symbols); n == 0 || m.symbols[n-1] != t.text {
			m.symbols = append(m.symbols, t.text)
		}
		t.c.remap[t.i] = uint32(len(m.symbols) - 1)
		next, ok := t.c.r.symbol(t.i + 1)
		switch {
		case !ok:
			h.pop()
		case next <= t.text:
			return corrupt("symbols", headerSize, errOrder)
		default:
			h.replaceTop(head{next, t.c, t.i + 1})
		}
	}
	return nil
}

// dropUnused finds the symbols that series of the result have: only they go
// into the file.
func (m *merge) dropUnused() error {
	used := make([]bool, len(m.symbols))
	err := m.groups(func(_ uint64, ids []uint32, _ []ChunkMeta) error {
		for _, id := range ids {
			used[id] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	// keep needs the texts of all symbols again: they stay where they are.
	m.rank = make([]uint32, len(used))
	var kept []string
	for i, u := range used {
		if u {
			m.rank[i] = uint32(len(kept))
			kept = append(kept, m.symbols[i])
		}
	}
	m.b.symbols = kept
	return nil
}

// groups calls emit for every series of the result, in order.
func (m *merge) groups(emit func(fp uint64, ids []uint32, chunks []ChunkMeta) error) error {
	h := minHeap[*cursor]{less: func(a, b *cursor) bool { return a.rec.fp < b.rec.fp }}
	for _, c := range m.cursors {
		if err := c.rewind(); err != nil {
			return err
		}
		ok, err := c.next()
		if err != nil {
			return err
		}
		if ok {
			h.push(c)
		}
	}
	for h.len() > 0 {
		fp := h.top().rec.fp
		m.items, m.ids, m.chunks = m.items[:0], m.ids[:0], m.chunks[:0]
		for h.len() > 0 && h.top().rec.fp == fp {
			c := h.top()
			if err := m.take(c); err != nil {
				return err
			}
			ok, err := c.next()
			if err != nil {
				return err
			}
			if ok {
				h.replaceTop(c)
			} else {
				h.pop()
			}
		}
		if err := m.group(fp, emit); err != nil {
			return err
		}
	}
	return nil
}

// take adds the series that c is at to the group.
func (m *merge) take(c *cursor) (err error) {
	it := item{ids: len(m.ids), chunks: len(m.chunks)}
	if m.ids, m.chunks, err = c.read(m.ids, m.chunks); err != nil {
		return err
	}
	for i, id := range m.ids[it.ids:] {
		m.ids[it.ids+i] = c.remap[id]
	}
	it.idsEnd, it.chunksEnd = len(m.ids), len(m.chunks)
	m.items = append(m.items, it)
	return nil
}

// group gives on the series of a group. Their symbols are in the order of
// their texts, so that comparing numbers compares labels.
func (m *merge) group(fp uint64, emit func(fp uint64, ids []uint32, chunks []ChunkMeta) error) error {
	compare := func(a, b item) int { return slices.Compare(m.ids[a.ids:a.idsEnd], m.ids[b.ids:b.idsEnd]) }
	if !slices.IsSortedFunc(m.items, compare) {
		slices.SortStableFunc(m.items, compare)
	}
	for i := 0; i < len(m.items); {
		it := m.items[i]
		k := i + 1
		m.joined = append(m.joined[:0], m.chunks[it.chunks:it.chunksEnd]...)
		for ; k < len(m.items) && compare(it, m.items[k]) == 0; k++ {
			m.joined = append(m.joined, m.chunks[m.items[k].chunks:m.items[k].chunksEnd]...)
		}
		i = k
		ids, chunks := m.ids[it.ids:it.idsEnd], SortChunks(m.joined)
		if m.keep != nil {
			m.ls = m.ls[:0]
			for n := 0; n < len(ids); n += 2 {
				m.ls = append(m.ls, labels.Label{Name: m.symbols[ids[n]], Value: m.symbols[ids[n+1]]})
			}
			chunks = m.keep(m.ls, fp, chunks)
		}
		if len(chunks) == 0 {
			continue
		}
		if err := emit(fp, ids, chunks); err != nil {
			return err
		}
	}
	return nil
}

// cursor walks the series of a source: those of a list, or those of a stream
// as they come.
type cursor struct {
	r      *Reader
	only   labels.Label
	refs   list
	pos    int
	stream *Stream
	scan   *scan
	rec    record
	remap  []uint32 // symbols of the file to those of the result
}

// cursor returns one that must be rewound before it is used.
func (s Source) cursor() (cursor, error) {
	if s.Stream != nil {
		return cursor{r: s.Stream.r, stream: s.Stream, only: s.Only}, nil
	}
	c := cursor{r: s.Reader, only: s.Only}
	e, ok := c.r.entry(0), true
	if c.only.Name != "" {
		e, ok = c.r.find(c.only.Name, c.only.Value)
	}
	if !ok {
		return c, nil
	}
	var err error
	c.refs, err = c.r.list(e)
	return c, err
}

// rewind goes before the first series.
func (c *cursor) rewind() (err error) {
	c.pos, c.rec.fp = 0, 0
	if c.stream != nil {
		c.scan, err = c.stream.scan()
	}
	return err
}

// next goes to the next series; rec is that, until next is called again.
func (c *cursor) next() (ok bool, err error) {
	last := c.rec.fp
	if c.stream != nil {
		ok, err = c.nextScanned()
	} else if ok = c.pos < c.refs.len(); ok {
		c.rec, err = c.r.record(c.refs.at(c.pos))
		c.pos++
	}
	if !ok || err != nil {
		return false, err
	}
	if c.rec.fp < last {
		return false, corrupt("series", c.rec.at, errOrder)
	}
	return true, nil
}

func (c *cursor) nextScanned() (ok bool, err error) {
	for {
		if c.rec, ok, err = c.scan.next(); !ok || err != nil {
			return ok, err
		}
		if c.only.Name == "" || c.hasLabel() {
			return true, nil
		}
	}
}

// hasLabel reports whether the series has the only label. If its record does
// not make sense that is found out when it is read.
func (c *cursor) hasLabel() bool {
	d := c.rec.rest
	for range d.uvarint() {
		name, ok := c.r.symbol(d.uvarint())
		value, ok2 := c.r.symbol(d.uvarint())
		if d.bad || !ok || !ok2 {
			return true
		}
		if name == c.only.Name {
			return value == c.only.Value
		}
	}
	return false
}

// read appends the symbols, as the file numbers them, and the chunks of the
// series.
func (c *cursor) read(ids []uint32, chunks []ChunkMeta) ([]uint32, []ChunkMeta, error) {
	d := &c.rec.rest
	start, n, last := len(ids), d.uvarint(), ""
	if n > uint64(len(d.b))/2 {
		return ids, chunks, corrupt("series", c.rec.at, errLength)
	}
	for range n {
		a, b := d.uvarint(), d.uvarint()
		name, ok := c.r.symbol(a)
		if d.bad || !ok || b >= uint64(len(c.r.heads)) {
			return ids, chunks, corrupt("series", c.rec.at, errors.New("unknown symbol"))
		}
		if len(ids) > start && name <= last {
			return ids, chunks, corrupt("series", c.rec.at, errOrder)
		}
		last = name
		if name != c.only.Name {
			ids = append(ids, uint32(a), uint32(b))
		}
	}
	chunks, err := c.r.chunks(&c.rec, chunks, math.MinInt64, math.MaxInt64)
	return ids, chunks, err
}

// minHeap is a heap with the least on top.
type minHeap[T any] struct {
	s    []T
	less func(a, b T) bool
}

func (h *minHeap[T]) len() int { return len(h.s) }
func (h *minHeap[T]) top() T   { return h.s[0] }

func (h *minHeap[T]) push(v T) {
	h.s = append(h.s, v)
	for i := len(h.s) - 1; i > 0 && h.less(h.s[i], h.s[(i-1)/2]); i = (i - 1) / 2 {
		h.s[i], h.s[(i-1)/2] = h.s[(i-1)/2], h.s[i]
	}
}

func (h *minHeap[T]) pop() {
	n := len(h.s) - 1
	last := h.s[n]
	h.s = h.s[:n]
	if n > 0 {
		h.replaceTop(last)
	}
}

// replaceTop puts v in the place of the top.
func (h *minHeap[T]) replaceTop(v T) {
	i := 0
	for {
		k := 2*i + 1
		if k >= len(h.s) {
			break
		}
		if k+1 < len(h.s) && h.less(h.s[k+1], h.s[k]) {
			k++
		}
		if !h.less(h.s[k], v) {
			break
		}
		h.s[i] = h.s[k]
		i = k
	}
	h.s[i] = v
}
