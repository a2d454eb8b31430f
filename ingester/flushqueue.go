package ingester

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"
)

// flushQueue holds closed chunks until they are stored, the one that was opened
// first in front. One that could not be stored is parked for a while, so that
// it does not hold up the others. What is in it is on local disk: an entry
// costs a pointer.
type flushQueue struct {
	mu     sync.Mutex
	cond   sync.Cond
	ready  oldest
	parked map[*openChunk]*time.Timer
	last   uint64
	closed bool
}

func (q *flushQueue) init() {
	q.cond.L = &q.mu
	q.parked = map[*openChunk]*time.Timer{}
}

func (q *flushQueue) put(c *openChunk) {
	q.mu.Lock()
	q.last++
	c.place = q.last
	heap.Push(&q.ready, c)
	q.mu.Unlock()
	q.cond.Signal()
}

// park puts c back after d.
func (q *flushQueue) park(c *openChunk, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.parked[c] = time.AfterFunc(d, func() { q.unpark(c) })
	}
}

func (q *flushQueue) unpark(c *openChunk) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.parked[c]; ok && !q.closed {
		delete(q.parked, c)
		heap.Push(&q.ready, c)
		q.cond.Signal()
	}
}

// hurry puts back all that is parked.
func (q *flushQueue) hurry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for c, t := range q.parked {
		t.Stop()
		heap.Push(&q.ready, c)
	}
	clear(q.parked)
	q.cond.Broadcast()
}

// get waits for a chunk. It returns false once the queue is closed.
func (q *flushQueue) get() (*openChunk, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ready) == 0 && !q.closed {
		q.cond.Wait()
	}
	if q.closed {
		return nil, false
	}
	return heap.Pop(&q.ready).(*openChunk), true
}

func (q *flushQueue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ready) + len(q.parked)
}

func (q *flushQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, t := range q.parked {
		t.Stop()
	}
	clear(q.parked)
	q.cond.Broadcast()
}

// oldest is a heap of chunks by the time at which they were opened.
type oldest []*openChunk

func (o oldest) Len() int { return len(o) }
func (o oldest) Less(a, b int) bool {
	if o[a].opened != o[b].opened {
		return o[a].opened < o[b].opened
	}
	return o[a].place < o[b].place
}
func (o oldest) Swap(a, b int) { o[a], o[b] = o[b], o[a] }
func (o *oldest) Push(x any)   { *o = append(*o, x.(*openChunk)) }
func (o *oldest) Pop() any {
	n := len(*o) - 1
	c := (*o)[n]
	(*o)[n] = nil
	*o = (*o)[:n]
	return c
}

// pause returns how long to wait after so many failures in a row: a random time
// that doubles up to longest.
func pause(failures int, longest time.Duration) time.Duration {
	d := longest
	if failures < 20 {
		d = min(longest, 100*time.Millisecond<<max(failures-1, 0))
	}
	return d/2 + rand.N(d/2+1)
}
