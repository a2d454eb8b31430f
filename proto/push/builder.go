package push

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Builder makes a Batch from records that arrive one by one, in any order of
// streams. It groups them by stream, encodes every entry once, and keeps equal
// events apart (see Entry). A Builder is for one goroutine.
//
//	bl := push.NewBuilder(push.Get())
//	s := bl.Stream(labels)
//	bl.Pair(name, value) // metadata of the next entry
//	bl.Entry(s, ts, line)
//	b := bl.Finish()
type Builder struct {
	b       *Batch
	streams []bstream
	byName  map[string]int
	last    int      // stream that Stream returned last
	arena   []byte   // entries as protobuf fields of Stream, in order of arrival
	entries []bentry // where they are
	pairs   []byte   // metadata of the next entry, as it was given
	npairs  int      // how many there are
	odd     bool     // they are not normal
	name    Span     // of the last one, in pairs
	norm    normaliser
}

type bstream struct {
	labels string
	count  int
	bytes  int
	max    int64              // newest time given out
	next   map[int64]int64    // after a step back in time: where to look for a free time
	used   map[int64]struct{} // after a step back in time: times given out
}

type bentry struct {
	stream   uint32
	off, len uint32 // in arena, tag included
	line     Span   // Off relative to the entry's start
	meta     Span   // likewise
	ts       int64
}

// NewBuilder returns a builder that fills b.
func NewBuilder(b *Batch) *Builder {
	return &Builder{b: b, byName: make(map[string]int), last: -1}
}

// Reset makes the builder ready to fill b, keeping its buffers.
func (bl *Builder) Reset(b *Batch) {
	clear(bl.byName)
	clear(bl.streams)
	bl.b, bl.last = b, -1
	bl.streams, bl.entries = bl.streams[:0], bl.entries[:0]
	bl.arena = bl.arena[:0]
	bl.DropPairs()
}

// Len returns the number of entries so far, Size their encoded size in bytes.
func (bl *Builder) Len() int  { return len(bl.entries) }
func (bl *Builder) Size() int { return len(bl.arena) }

// Stream returns the number of the stream with this label text, adding it if
// it is new. The text should be canonical.
func (bl *Builder) Stream(labels []byte) int {
	if bl.last >= 0 && bl.streams[bl.last].labels == string(labels) {
		return bl.last
	}
	i, ok := bl.byName[string(labels)]
	if !ok {
		i = len(bl.streams)
		name := string(labels)
		bl.streams = append(bl.streams, bstream{labels: name, max: -1 << 63})
		bl.byName[name] = i
	}
	bl.last = i
	return i
}

// LastStream returns what Stream returned last, -1 before that. After Finish,
// the entries of a stream are in the order in which they were added.
func (bl *Builder) LastStream() int { return bl.last }

// Pair adds metadata to the entry that comes next. Name and value are copied;
// the name need not be normalised.
func (bl *Builder) Pair(name, value []byte) {
	if !bl.odd {
		bl.odd = !normalName(name) || bl.npairs > 0 && bytes.Compare(bl.lastName(), name) >= 0 || bytes.Contains(value, replacement)
	}
	bl.npairs++
	bl.pairs = appendPair(bl.pairs, name, value)
	end := len(bl.pairs) - len(value) - uvarintLen(uint64(len(value))) - 1
	bl.name = span(end-len(name), end)
}

// EncodedPairs appends the metadata of the entry that comes next to dst, to be
// given to other entries with AddEncoded. It returns false if it has to be
// normalised first.
func (bl *Builder) EncodedPairs(dst []byte) ([]byte, bool) {
	return append(dst, bl.pairs...), !bl.odd
}

// AddEncoded adds all the metadata of the entry that comes next, n pairs that
// EncodedPairs returned.
func (bl *Builder) AddEncoded(pairs []byte, n int) {
	bl.DropPairs()
	bl.pairs, bl.npairs = append(bl.pairs, pairs...), n
}

func (bl *Builder) lastName() []byte { return bl.pairs[bl.name.Off : bl.name.Off+bl.name.Len] }

// DropPairs forgets the metadata given since the last entry.
func (bl *Builder) DropPairs() { bl.pairs, bl.npairs, bl.odd = bl.pairs[:0], 0, false }

// resolution guesses the step of the clock that gave ts, in nanoseconds.
func resolution(ts int64) int64 {
	switch {
	case ts%1e9 == 0:
		return 1e9
	case ts%1e6 == 0:
		return 1e6
	case ts%1e3 == 0:
		return 1e3
	}
	return 1
}

// Entry adds an entry at ts (ns since the epoch). Agents with coarse clocks
// send different events with one time: such an entry moves to just behind its
// predecessor in the stream, by 1 ns, so that order is kept, all are visible,
// and the same records give the same times again. An entry that is older than
// its predecessor by more than the step of its clock keeps its own time (plus
// as many ns as it takes to be apart from its equals). Times that look like
// those of a nanosecond clock stay as they are.
func (bl *Builder) Entry(stream int, ts int64, line []byte) {
	s := &bl.streams[stream]
	if ts > s.max {
		s.max = ts
		if s.used != nil {
			s.used[ts] = struct{}{}
		}
	} else if res := resolution(ts); res > 1 {
		ts = bl.apart(stream, ts, res)
	}
	bl.EntryExact(stream, ts, line)
}

func (bl *Builder) apart(stream int, ts, res int64) int64 {
	s := &bl.streams[stream]
	if s.max-ts < res {
		s.max++
		if s.used != nil {
			s.used[s.max] = struct{}{}
		}
		return s.max
	}
	if s.used == nil {
		s.used, s.next = make(map[int64]struct{}), make(map[int64]int64)
		for i := range bl.entries {
			if e := &bl.entries[i]; int(e.stream) == stream {
				s.used[e.ts] = struct{}{}
			}
		}
	}
	out := ts
	if next, ok := s.next[ts]; ok {
		out = next
	}
	for {
		if _, taken := s.used[out]; !taken {
			break
		}
		out++
	}
	s.used[out] = struct{}{}
	s.next[ts] = out + 1
	s.max = max(s.max, out)
	return out
}

// EntryExact is Entry without the rule on equal times.
func (bl *Builder) EntryExact(stream int, ts int64, line []byte) {
	s := &bl.streams[stream]
	pairs := bl.pairs
	if bl.odd && bl.npairs <= MaxPairs {
		bl.pairs = bl.norm.rewrite(pairs, pairs)
		pairs = bl.pairs[len(pairs):]
	}
	sec, nanos := ts/1e9, ts%1e9
	if nanos < 0 {
		sec, nanos = sec-1, nanos+1e9
	}
	tsLen := 0
	if sec != 0 {
		tsLen += 1 + uvarintLen(uint64(sec))
	}
	if nanos != 0 {
		tsLen += 1 + uvarintLen(uint64(nanos))
	}
	n := 2 + tsLen + 1 + uvarintLen(uint64(len(line))) + len(line) + len(pairs)
	start := len(bl.arena)
	a := append(bl.arena, 2<<3|2)
	a = binary.AppendUvarint(a, uint64(n))
	a = append(a, 1<<3|2, byte(tsLen))
	if sec != 0 {
		a = append(a, 1<<3)
		a = binary.AppendUvarint(a, uint64(sec))
	}
	if nanos != 0 {
		a = append(a, 2<<3)
		a = binary.AppendUvarint(a, uint64(nanos))
	}
	a = append(a, 2<<3|2)
	a = binary.AppendUvarint(a, uint64(len(line)))
	lineAt := len(a) - start
	a = append(a, line...)
	metaAt := len(a) - start
	a = append(a, pairs...)
	bl.arena = a
	bl.DropPairs()
	size := len(a) - start
	bl.entries = append(bl.entries, bentry{
		stream: uint32(stream), off: uint32(start), len: uint32(size), ts: ts,
		line: Span{uint32(lineAt), uint32(len(line))}, meta: Span{uint32(metaAt), uint32(len(pairs))},
	})
	s.count++
	s.bytes += size
}

// MapLabels replaces the label text of every stream by what f makes of it. Two
// streams that get one text stay two. Only Finish or Reset may follow.
func (bl *Builder) MapLabels(f func(labels string) string) {
	for i := range bl.streams {
		bl.streams[i].labels = f(bl.streams[i].labels)
	}
	clear(bl.byName)
	bl.last = -1
}

// Finish lays the entries out by stream, compresses them into Body, and
// returns the batch. The builder must be Reset before it is used again.
func (bl *Builder) Finish() *Batch {
	b := bl.b
	total := 0
	for i := range bl.streams {
		s := &bl.streams[i]
		body := 1 + uvarintLen(uint64(len(s.labels))) + len(s.labels) + s.bytes
		total += 1 + uvarintLen(uint64(body)) + body
	}
	data := slices.Grow(b.Data[:0], total)
	b.Entries = slices.Grow(b.Entries[:0], len(bl.entries))[:len(bl.entries)]
	b.Streams = slices.Grow(b.Streams[:0], len(bl.streams))
	first := uint32(0)
	cursors := make([]cursor, len(bl.streams))
	for i := range bl.streams {
		s := &bl.streams[i]
		body := 1 + uvarintLen(uint64(len(s.labels))) + len(s.labels) + s.bytes
		data = append(data, 1<<3|2)
		data = binary.AppendUvarint(data, uint64(body))
		raw := span(len(data), len(data)+body)
		data = append(data, 1<<3|2)
		data = binary.AppendUvarint(data, uint64(len(s.labels)))
		at := len(data)
		data = append(data, s.labels...)
		b.Streams = append(b.Streams, Stream{
			RawLabels: span(at, len(data)), First: first, Count: uint32(s.count), Raw: raw,
		})
		cursors[i] = cursor{first, uint32(len(data))}
		data = data[:len(data)+s.bytes]
		first += uint32(s.count)
	}
	// Entries that came one after the other for one stream are one copy.
	for from := 0; from < len(bl.entries); {
		to, end := from, bl.entries[from].off
		for ; to < len(bl.entries) && bl.entries[to].stream == bl.entries[from].stream; to++ {
			end += bl.entries[to].len
		}
		copy(data[cursors[bl.entries[from].stream].off:], bl.arena[bl.entries[from].off:end])
		bl.place(b, bl.entries[from:to], &cursors[bl.entries[from].stream])
		from = to
	}
	b.Data = data
	b.compress(len(data))
	return b
}

// cursor is where the next entry of a stream goes.
type cursor struct{ entry, off uint32 }

// place notes where entries are that go to c one after the other.
func (bl *Builder) place(b *Batch, entries []bentry, c *cursor) {
	for i := range entries {
		e := &entries[i]
		out := Entry{TS: e.ts, Line: Span{c.off + e.line.Off, e.line.Len}}
		if e.meta.Len > 0 {
			out.Meta = Span{c.off + e.meta.Off, e.meta.Len}
		}
		b.Entries[c.entry] = out
		c.entry++
		c.off += e.len
	}
}
