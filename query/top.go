package query

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// key is an entry's place in the order of all entries.
type key struct {
	ts     int64
	stream uint32
	block  uint32 // the stream's blocks, by age
	off    uint32 // in the block
}

func (k key) less(o key) bool {
	switch {
	case k.ts != o.ts:
		return k.ts < o.ts
	case k.stream != o.stream:
		return k.stream < o.stream
	case k.block != o.block:
		return k.block < o.block
	}
	return k.off < o.off
}

// candidate is an entry that may be part of the answer. Data is line, metadata,
// time and stream: two candidates are duplicates if it is equal.
type candidate struct {
	key         // the best place of all its copies, by which it was chosen
	first   key // the earliest, by which it is shown
	data    []byte
	line    int // bytes of data that are the line
	hash    uint64
	next    int32 // further candidate with this hash, or -1
	heapPos int32
}

const tailSize = 12 // time and stream in candidate.data

var errTooLarge = errors.New("answer too large")

// top keeps the best entries of those that are offered, at most limit, without
// duplicates.
type top struct {
	backward bool
	limit    int
	maxBytes int64

	cands  []candidate
	heap   []int32 // the worst candidate first
	byHash map[uint64]int32
	bytes  int64 // capacity of all data
}

func newTop(limit int, backward bool, maxBytes int64) *top {
	return &top{backward: backward, limit: limit, maxBytes: maxBytes, byHash: map[uint64]int32{}}
}

// better reports whether a comes before b in the answer.
func (t *top) better(a, b key) bool {
	if t.backward {
		return b.less(a)
	}
	return a.less(b)
}

// full reports whether an entry now has to be better than the worst.
func (t *top) full() bool { return len(t.cands) == t.limit }

func (t *top) worst() *candidate { return &t.cands[t.heap[0]] }

// useless reports whether an entry at k would be turned away, whatever it is.
func (t *top) useless(k key) bool { return t.full() && !t.better(k, t.worst().key) }

// beyond reports whether no entry at ts or further on can enter.
func (t *top) beyond(ts int64) bool {
	if !t.full() {
		return false
	}
	if t.backward {
		return ts < t.worst().ts
	}
	return ts > t.worst().ts
}

// appendTail completes data for offer.
func appendTail(data []byte, k key) []byte {
	data = binary.LittleEndian.AppendUint64(data, uint64(k.ts))
	return binary.LittleEndian.AppendUint32(data, k.stream)
}

// offer enters an entry if it is good enough. Data is copied then. It reports
// whether the entry is a duplicate.
func (t *top) offer(k key, data []byte, line int) (duplicate bool, err error) {
	if t.useless(k) {
		return false, nil
	}
	return t.enter(k, data, line, xxhash.Sum64(data))
}

// enter is offer behind its first check.
func (t *top) enter(k key, data []byte, line int, hash uint64) (duplicate bool, err error) {
	if i := t.find(hash, data, line); i >= 0 {
		c := &t.cands[i]
		if k.less(c.first) {
			c.first = k
		}
		if t.better(k, c.key) {
			c.key = k
			t.down(int(c.heapPos))
		}
		return true, nil
	}
	i := int32(len(t.cands))
	if t.full() {
		i = t.heap[0]
		t.forget(i)
	} else {
		t.cands = append(t.cands, candidate{heapPos: i})
		t.heap = append(t.heap, i)
	}
	c := &t.cands[i]
	t.bytes -= int64(cap(c.data))
	if cap(c.data) < len(data) || cap(c.data) > 2*len(data)+256 {
		c.data = make([]byte, 0, len(data))
	}
	c.key, c.first, c.data, c.line, c.hash = k, k, append(c.data[:0], data...), line, hash
	t.bytes += int64(cap(c.data))
	c.next = -1
	if head, ok := t.byHash[hash]; ok {
		c.next = head
	}
	t.byHash[hash] = i
	t.up(int(c.heapPos))
	t.down(int(c.heapPos))
	if t.bytes > t.maxBytes {
		return false, errTooLarge
	}
	return false, nil
}

func (t *top) find(hash uint64, data []byte, line int) int32 {
	i, ok := t.byHash[hash]
	if !ok {
		return -1
	}
	for ; i >= 0; i = t.cands[i].next {
		if c := &t.cands[i]; c.line == line && bytes.Equal(c.data, data) {
			return i
		}
	}
	return -1
}

// forget takes candidate i out of byHash.
func (t *top) forget(i int32) {
	c := &t.cands[i]
	at, next := t.byHash[c.hash], c.next
	if at == i {
		if next < 0 {
			delete(t.byHash, c.hash)
		} else {
			t.byHash[c.hash] = next
		}
		return
	}
	for t.cands[at].next != i {
		at = t.cands[at].next
	}
	t.cands[at].next = next
}

func (t *top) swap(i, j int) {
	t.heap[i], t.heap[j] = t.heap[j], t.heap[i]
	t.cands[t.heap[i]].heapPos = int32(i)
	t.cands[t.heap[j]].heapPos = int32(j)
}

// worse reports whether heap element i comes behind element j in the answer.
func (t *top) worse(i, j int) bool { return t.better(t.cands[t.heap[j]].key, t.cands[t.heap[i]].key) }

func (t *top) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !t.worse(i, parent) {
			return
		}
		t.swap(i, parent)
		i = parent
	}
}

func (t *top) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(t.heap) {
			return
		}
		if c+1 < len(t.heap) && t.worse(c+1, c) {
			c++
		}
		if !t.worse(c, i) {
			return
		}
		t.swap(i, c)
		i = c
	}
}

// chosen returns the candidates in the order in which they were chosen, shown
// in that of the answer. The difference is in entries of one time that have
// copies in several places: shown, they are where the first copy is, so that
// backward is forward turned round. The entries own their bytes.
func (t *top) chosen() []Entry { return t.entries(false) }
func (t *top) shown() []Entry  { return t.entries(true) }

// entries ends the use of t.
func (t *top) entries(byFirst bool) []Entry {
	slices.SortFunc(t.heap, func(i, j int32) int {
		a, b := &t.cands[i], &t.cands[j]
		x, y := a.key, b.key
		if byFirst {
			x, y = a.first, b.first
		}
		if t.better(x, y) {
			return -1
		}
		return 1
	})
	out := make([]Entry, len(t.heap))
	for n, i := range t.heap {
		c := &t.cands[i]
		meta := len(c.data) - tailSize
		out[n] = Entry{TS: c.ts, Stream: int(c.stream), Line: c.data[:c.line:c.line], Meta: Pairs(c.data[c.line:meta:meta])}
	}
	return out
}
