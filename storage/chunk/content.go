package chunk

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// A block's content is a row of records:
//
//	varint ts · uvarint len · line · uvarint bytes of the rest · uvarint pairs ·
//	pairs × (uvarint name symbol · uvarint value symbol)

// AppendEntry appends one record. Syms alternates name and value symbols.
func AppendEntry(dst []byte, ts int64, line []byte, syms []uint32) []byte {
	dst = binary.AppendVarint(dst, ts)
	dst = binary.AppendUvarint(dst, uint64(len(line)))
	dst = append(dst, line...)
	if len(syms) == 0 {
		return append(dst, 1, 0)
	}
	pairs := uint64(len(syms) / 2)
	n := uvarintLen(pairs)
	for _, s := range syms {
		n += uvarintLen(uint64(s))
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	dst = binary.AppendUvarint(dst, pairs)
	for _, s := range syms {
		dst = binary.AppendUvarint(dst, uint64(s))
	}
	return dst
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// ErrContent is the cause of every error about a block's content.
var ErrContent = errors.New("malformed block content")

// EntryIter walks the records of a block's content. It holds no memory of its
// own: Line is a part of the content.
//
//	for it := chunk.Entries(content); it.Next(); { use(it.TS, it.Line) }
type EntryIter struct {
	TS       int64
	Line     []byte
	NumPairs int
	Off, Len int // the record in the content

	content []byte
	refs    []byte // symbol references of the record
	at      []byte // those behind the one that Sym gave last
	next    int    // number of the first of them
	err     error
}

// Entries returns an iterator that stands before the first record.
func Entries(content []byte) EntryIter { return EntryIter{content: content} }

// Err returns why Next ended early, nil at the end of the content.
func (it *EntryIter) Err() error { return it.err }

// Next moves to the next record. It checks the whole record, references
// included, so that Sym cannot fail.
func (it *EntryIter) Next() bool {
	start := it.Off + it.Len
	b := it.content[start:]
	if len(b) == 0 || it.err != nil {
		return false
	}
	ts, n := binary.Varint(b)
	if n <= 0 {
		return it.fail(start, "time")
	}
	p := n
	size, n := uvarint(b[p:])
	p += n
	if n <= 0 || size > uint64(len(b)-p) {
		return it.fail(start, "line")
	}
	line := b[p : p+int(size) : p+int(size)]
	p += int(size)
	size, n = uvarint(b[p:])
	p += n
	if n <= 0 || size > uint64(len(b)-p) {
		return it.fail(start, "metadata")
	}
	meta := b[p : p+int(size)]
	p += int(size)
	pairs, n := uvarint(meta)
	// Two references of a byte each are the least that a pair takes.
	if n <= 0 || pairs > uint64(len(meta)-n)/2 || !refsValid(meta[n:], 2*int(pairs)) {
		return it.fail(start, "metadata")
	}
	it.TS, it.Line, it.NumPairs = ts, line, int(pairs)
	it.Off, it.Len = start, p
	it.refs, it.at, it.next = meta[n:], meta[n:], 0
	return true
}

func (it *EntryIter) fail(at int, what string) bool {
	it.err = fmt.Errorf("%w: %s of the entry at offset %d", ErrContent, what, at)
	it.Line, it.NumPairs = nil, 0
	return false
}

// refsValid reports whether b is exactly n varints of at most 32 bits.
func refsValid(b []byte, n int) bool {
	run := 0
	for _, c := range b {
		if c >= 0x80 {
			if run++; run > 4 {
				return false
			}
			continue
		}
		if run == 4 && c > 0x0f {
			return false
		}
		run = 0
		n--
	}
	return n == 0 && run == 0
}

// Sym returns symbol reference i of the record, 0 <= i < 2*NumPairs: names at
// even numbers, each followed by its value. Asking in ascending order is
// cheapest.
func (it *EntryIter) Sym(i int) uint32 {
	if i < it.next {
		it.at, it.next = it.refs, 0
	}
	for {
		v, n := uvarint(it.at)
		if n <= 0 {
			panic("chunk: EntryIter.Sym out of range")
		}
		it.at = it.at[n:]
		it.next++
		if it.next > i {
			return uint32(v)
		}
	}
}

// uvarint is binary.Uvarint with the one-byte case inlined.
func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	if len(b) > 1 && b[1] < 0x80 { // as the lengths of most lines
		return uint64(b[0]&0x7f) | uint64(b[1])<<7, 2
	}
	return binary.Uvarint(b)
}

// Stats describe a block's content.
type Stats struct {
	Entries    int
	MinT, MaxT int64 // ns; of the whole content, sorted or not
	Size       int   // uncompressed size as Loki counts it: lines and 4 bytes a reference
	Sorted     bool
}

// Inspect checks content and describes it. Symbol references must be below
// symbols; a negative number leaves them alone.
func Inspect(content []byte, symbols int) (Stats, error) {
	s := Stats{Sorted: true}
	last := int64(0)
	it := Entries(content)
	for it.Next() {
		if s.Entries == 0 {
			s.MinT, s.MaxT, last = it.TS, it.TS, it.TS
		}
		if it.TS < last {
			s.Sorted = false
		}
		last = it.TS
		s.MinT, s.MaxT = min(s.MinT, last), max(s.MaxT, last)
		s.Entries++
		s.Size += EntrySize(len(it.Line), it.NumPairs)
		for i := range 2 * it.NumPairs {
			if v := it.Sym(i); symbols >= 0 && uint64(v) >= uint64(symbols) {
				return s, fmt.Errorf("%w: entry at offset %d refers to symbol %d of %d", ErrContent, it.Off, v, symbols)
			}
		}
	}
	return s, it.Err()
}

// EntrySize is what an entry adds to the uncompressed size of its block, as
// Loki counts it.
func EntrySize(line, pairs int) int { return line + 8*pairs }

type record struct {
	ts       int64
	off, len int
}

var recordLists = sync.Pool{New: func() any { return new([]record) }}

// SortContent appends the records of content to dst in order of time; records
// with equal times keep their order. Bytes that are not a record are kept at
// the end, where reading stops.
func SortContent(dst, content []byte) []byte {
	p := recordLists.Get().(*[]record)
	defer recordLists.Put(p)
	recs := (*p)[:0]
	it := Entries(content)
	for it.Next() {
		recs = append(recs, record{it.TS, it.Off, it.Len})
	}
	slices.SortFunc(recs, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.ts, b.ts), cmp.Compare(a.off, b.off))
	})
	dst = slices.Grow(dst, len(content))
	for _, r := range recs {
		dst = append(dst, content[r.off:r.off+r.len]...)
	}
	*p = recs
	return append(dst, content[it.Off+it.Len:]...)
}
