package ingester

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"
)

// flushQueue holds closed chunks until they are stored, the one that was opened
// first in front. One that could not be stored is parked for a while and then
// has its turn behind those that were not tried: if the fault is its own it does
// not hold up the others. If it was the store's, promote puts it in front again.
// What is in the queue is on local disk: an entry costs a pointer.
type flushQueue struct {
	mu     sync.Mutex
	cond   sync.Cond
	fresh  oldest
	tried  oldest
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
	heap.Push(&q.fresh, c)
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
		heap.Push(&q.tried, c)
		q.cond.Signal()
	}
}

// hurry puts back all that is parked.
func (q *flushQueue) hurry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for c, t := range q.parked {
		t.Stop()
		heap.Push(&q.tried, c)
	}
	clear(q.parked)
	q.cond.Broadcast()
}

// promote puts the oldest n of those that were tried in front.
func (q *flushQueue) promote(n int) {
	q.hurry()
	q.mu.Lock()
	defer q.mu.Unlock()
	for ; n > 0 && len(q.tried) > 0; n-- {
		heap.Push(&q.fresh, heap.Pop(&q.tried))
	}
}

// wait returns when there is a chunk to take, which somebody else may take
// first. It returns false once the queue is closed.
func (q *flushQueue) wait() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.fresh)+len(q.tried) == 0 && !q.closed {
		q.cond.Wait()
	}
	return !q.closed
}

// take returns the next chunk, nil if there is none.
func (q *flushQueue) take() *openChunk {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return nil
	case len(q.fresh) > 0:
		return heap.Pop(&q.fresh).(*openChunk)
	case len(q.tried) > 0:
		return heap.Pop(&q.tried).(*openChunk)
	}
	return nil
}

func (q *flushQueue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.fresh) + len(q.tried) + len(q.parked)
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
