package ingester

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/index"
)

// indexer gathers stored chunks until their index is written.
type indexer struct {
	bytes atomic.Int64 // on local disk, of what waits
	kick  chan struct{}

	mu      sync.Mutex
	tenants map[string]*unlisted
	all     bool // asked for all that waits
}

// unlisted are a tenant's chunks that wait for an index file.
type unlisted struct {
	chunks   []*openChunk
	failures int       // in a row
	retry    time.Time // after a failure: not before
}

// maxPendingIndex is how many chunks one index file lists at most.
const maxPendingIndex = 50_000

// indexWriters is how many tenants' index files are written at a time.
const indexWriters = 4

func (x *indexer) init() {
	x.kick = make(chan struct{}, 1)
	x.tenants = map[string]*unlisted{}
}

func (x *indexer) add(c *openChunk) {
	x.bytes.Add(c.disk())
	x.mu.Lock()
	id := c.stream.tenant.id
	u := x.tenants[id]
	if u == nil {
		u = new(unlisted)
		x.tenants[id] = u
	}
	u.chunks = append(u.chunks, c)
	full := len(u.chunks) == maxPendingIndex
	x.mu.Unlock()
	if full {
		x.wake()
	}
}

// request asks for the index of all that is stored by now.
func (x *indexer) request() {
	x.mu.Lock()
	x.all = true
	x.mu.Unlock()
	x.wake()
}

func (x *indexer) wake() {
	select {
	case x.kick <- struct{}{}:
	default:
	}
}

// due returns the tenants whose index is to be written at now: all of them if
// that was asked for or every is set, else those that have a full file's worth,
// and those whose next try is due.
func (x *indexer) due(now time.Time, every bool) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	asked := x.all
	x.all = false
	var out []string
	for id, u := range x.tenants {
		switch {
		case asked, u.failures > 0 && !now.Before(u.retry), u.failures == 0 && (every || len(u.chunks) >= maxPendingIndex):
			out = append(out, id)
		}
	}
	return out
}

// next returns when the first retry is due, or at if that is earlier.
func (x *indexer) next(at time.Time) time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, u := range x.tenants {
		if u.failures > 0 && u.retry.Before(at) {
			at = u.retry
		}
	}
	return at
}

// chunks returns the number of chunks that wait.
func (x *indexer) chunks() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for _, u := range x.tenants {
		n += len(u.chunks)
	}
	return n
}

// take returns the first chunks of a tenant, and whether there are any. They
// stay in the list.
func (x *indexer) take(id string) ([]*openChunk, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.tenants[id]
	if u == nil {
		return nil, false
	}
	n := min(len(u.chunks), maxPendingIndex)
	return u.chunks[:n:n], n > 0
}

// listed removes the first n chunks of a tenant and returns how many are left.
func (x *indexer) listed(id string, n int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.tenants[id]
	u.failures = 0
	left := len(u.chunks) - n
	if left == 0 {
		delete(x.tenants, id)
		return 0
	}
	u.chunks = append(make([]*openChunk, 0, left), u.chunks[n:]...)
	return left
}

func (x *indexer) failed(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.tenants[id]
	u.failures++
	u.retry = time.Now().Add(pause(u.failures, longestPark))
}

// indexerLoop writes index files every index-interval, or when asked.
func (i *Ingester) indexerLoop() {
	every := max(i.cfg.IndexInterval, time.Second)
	// Ingesters that were started together do not go to the store together.
	full := time.Now().Add(every/2 + rand.N(every/2))
	for {
		timer := time.NewTimer(time.Until(i.index.next(full)))
		select {
		case <-i.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-i.index.kick:
		}
		timer.Stop()
		now := time.Now()
		all := !now.Before(full)
		if all {
			full = now.Add(every - rand.N(every/10))
		}
		i.writeIndex(i.index.due(now, all))
	}
}

// writeIndex stores the index of what tenants have waiting and lets go of it.
func (i *Ingester) writeIndex(ids []string) {
	work := make(chan string)
	var wg sync.WaitGroup
	for range min(indexWriters, len(ids)) {
		wg.Go(func() {
			for id := range work {
				i.indexTenant(id)
			}
		})
	}
	for _, id := range ids {
		work <- id
	}
	close(work)
	wg.Wait()
}

func (i *Ingester) indexTenant(id string) {
	x := &i.index
	for {
		list, ok := x.take(id)
		if !ok || !i.gate.pass(i.ctx) {
			return
		}
		err := i.putIndex(id, list)
		if i.ctx.Err() != nil {
			return
		}
		if err != nil {
			i.m.flushErrors.Inc()
			i.log.Warn("storing an index failed, it will be tried again", "tenant", id, "chunks", len(list), "err", err)
			x.failed(id)
			return
		}
		left := x.listed(id, len(list))
		i.announce(list)
		i.release(list)
		if left < maxPendingIndex {
			return // what came meanwhile is for the next file
		}
	}
}

// putIndex stores one index file for each table that chunks of a tenant touch.
func (i *Ingester) putIndex(id string, list []*openChunk) error {
	byStream := map[*stream]int{}
	var series []index.Series
	for _, c := range list {
		if len(c.metas) == 0 {
			continue // all of it was lost
		}
		k, ok := byStream[c.stream]
		if !ok {
			ls, err := labels.Parse(c.stream.labels)
			if err != nil {
				return fmt.Errorf("ingester: labels of a stream: %w", err)
			}
			k = len(series)
			byStream[c.stream] = k
			series = append(series, index.Series{Labels: ls, Fingerprint: ls.Fingerprint()})
		}
		series[k].Chunks = append(series[k].Chunks, c.metas...)
	}
	if len(series) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(i.ctx, i.cfg.FlushTimeout)
	defer cancel()
	err := i.deps.Store.PutIndex(ctx, id, series)
	i.report(err)
	return err
}

// release lets go of chunks whose objects and index are stored: first on
// record, durably, then in memory.
func (i *Ingester) release(list []*openChunk) {
	done := make([]blocks.Done, len(list))
	for k, c := range list {
		d := &done[k]
		d.ChunkID = blocks.ChunkID{Stream: c.ref, Chunk: c.seq}
		c.stream.mu.Lock()
		for _, b := range c.blocks {
			d.Refs = append(d.Refs, b.ref)
			b.released = true
		}
		c.stream.mu.Unlock()
	}
	if err := i.blocks.Flushed(done...); err != nil {
		i.log.Warn("noting flushed chunks failed; a restart may store them once more", "chunks", len(list), "err", err)
	}
	for _, c := range list {
		i.forget(c)
	}
	i.wantTrim()
}

// forget takes c off its lane.
func (i *Ingester) forget(c *openChunk) {
	i.index.bytes.Add(-c.disk())
	st := c.stream
	st.mu.Lock()
	ln := c.lane
	for k, o := range ln.closed {
		if o == c {
			ln.closed = append(ln.closed[:k], ln.closed[k+1:]...)
			break
		}
	}
	if len(ln.closed) == 0 {
		ln.closed = nil
	}
	if ln.late && ln.chunk == nil && ln.head == nil && ln.closed == nil && ln.sealed == nil {
		st.late = nil
	}
	n := len(c.blocks)
	st.mu.Unlock()
	i.m.pendingChunks.Add(-1)
	i.m.localBlocks.Add(-int64(n))
	close(c.done)
}
