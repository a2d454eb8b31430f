package ingester

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"sync"
	"time"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

// Reasons of a flush.
const (
	reasonFull      = "full"
	reasonIdle      = "idle"
	reasonMaxAge    = "max_age"
	reasonRequested = "requested"
)

// sweeper closes chunks that are idle or old and removes streams that are
// empty.
func (i *Ingester) sweeper() {
	for {
		// Jitter, so that ingesters do not go to the store together.
		d := i.cfg.FlushCheckPeriod
		d += time.Duration(rand.Int64N(int64(d)/4 + 1))
		select {
		case <-i.ctx.Done():
			return
		case <-time.After(d):
		}
		if state(i.state.Load()) == stateActive {
			i.sweep(i.deps.Now().UnixNano())
		}
	}
}

func (i *Ingester) sweep(now int64) {
	idle := int64(i.cfg.ChunkIdlePeriod)
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		quiet := now-st.touched >= idle
		st.lanes(func(ln *lane) {
			if c := ln.chunk; c != nil {
				if quiet {
					i.closeChunk(ln, reasonIdle)
				} else if now-c.opened >= i.maxAge {
					i.closeChunk(ln, reasonMaxAge)
				}
			}
		})
		gone := quiet && st.empty()
		st.mu.Unlock()
		if gone {
			i.removeStream(st, now-idle)
		}
	})
}

// removeStream forgets a stream that has nothing and was not touched since.
func (i *Ingester) removeStream(st *stream, since int64) {
	sh := st.tenant.shard(st.token)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st.pending.Load() != 0 {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.empty() && st.touched <= since && sh.m[st.labels] == st {
		delete(sh.m, st.labels)
		st.tenant.active.Add(-1)
	}
}

// Flush closes every chunk, late ones too. With wait it returns when all that
// was pushed before the call is in the store, chunks and index, or with an
// error when ctx ends first.
func (i *Ingester) Flush(ctx context.Context, wait bool) error {
	if state(i.state.Load()) == stateJoining {
		return i.Ready()
	}
	var all []*openChunk
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.lanes(func(ln *lane) {
			i.closeChunk(ln, reasonRequested)
			all = append(all, ln.closed...)
		})
	})
	if !wait {
		i.index.request()
		return nil
	}
	for _, c := range all {
		select {
		case <-c.put:
		case <-ctx.Done():
			return i.flushTimeout(ctx, all)
		}
	}
	i.index.request()
	for _, c := range all {
		select {
		case <-c.done:
		case <-ctx.Done():
			return i.flushTimeout(ctx, all)
		}
	}
	return nil
}

func (i *Ingester) flushTimeout(ctx context.Context, all []*openChunk) error {
	left := 0
	for _, c := range all {
		select {
		case <-c.done:
		default:
			left++
		}
	}
	return fmt.Errorf("ingester: flush: %w: %d of %d chunks are not stored yet (they are safe on local disk and will be)", ctx.Err(), left, len(all))
}

// flusher uploads closed chunks.
func (i *Ingester) flusher() {
	var w flushWork
	for {
		c, ok := i.flushq.get()
		if !ok {
			return
		}
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Minute) {
			began := time.Now()
			meta, err := i.upload(&w, c)
			i.m.flushSeconds.Observe(time.Since(began).Seconds())
			if err == nil {
				i.m.flushed.WithLabelValues(c.reason).Inc()
				i.index.add(c, meta)
				close(c.put)
				break
			}
			i.m.flushErrors.Inc()
			i.log.Warn("storing a chunk failed, trying again", "tenant", c.stream.tenant.id, "stream", c.stream.labels, "err", err)
			select {
			case <-time.After(wait/2 + time.Duration(rand.Int64N(int64(wait)))):
			case <-i.ctx.Done():
				return
			}
		}
	}
}

// flushWork is the scratch memory of a flusher.
type flushWork struct {
	data, object []byte
	blocks       []chunk.Block
}

// upload stores the object of c and returns what the index says of it.
func (i *Ingester) upload(w *flushWork, c *openChunk) (index.ChunkMeta, error) {
	st := c.stream
	st.mu.Lock()
	bls := make([]block, len(c.blocks))
	for k, b := range c.blocks {
		bls[k] = *b
	}
	var symbols []string
	if c.syms != nil {
		symbols = c.syms.List()
	}
	st.mu.Unlock()
	sort.SliceStable(bls, func(a, b int) bool { return bls[a].mint < bls[b].mint })
	w.blocks, w.data = w.blocks[:0], w.data[:0]
	var err error
	if i.needsMerge(bls) {
		if w.blocks, err = i.merge(bls); err != nil {
			return index.ChunkMeta{}, err
		}
	} else {
		total := 0
		for _, b := range bls {
			total += b.ref.Len()
		}
		if cap(w.data) < total {
			w.data = make([]byte, 0, total)
		}
		for _, b := range bls {
			from := len(w.data)
			if w.data, err = i.blocks.Read(b.ref, w.data); err != nil {
				return index.ChunkMeta{}, err
			}
			w.blocks = append(w.blocks, chunk.Block{Entries: int(b.entries), MinT: b.mint, MaxT: b.maxt, Size: b.size, Data: w.data[from:len(w.data):len(w.data)]})
		}
	}
	ls, err := labels.Parse(st.labels)
	if err != nil {
		return index.ChunkMeta{}, fmt.Errorf("ingester: labels of a stream: %w", err)
	}
	first, last := w.blocks[0].MinT, w.blocks[0].MaxT
	symbolBytes, entries := 0, 0
	for k := range w.blocks {
		b := &w.blocks[k]
		first, last = min(first, b.MinT), max(last, b.MaxT)
		entries += b.Entries
	}
	for _, s := range symbols {
		symbolBytes += len(s)
	}
	meta := chunk.Meta{Tenant: st.tenant.id, Labels: ls, Fingerprint: ls.Fingerprint()}
	meta.From, meta.Through = chunk.Bounds(first, last)
	if w.object, err = chunk.Encode(w.object[:0], meta, i.codec, symbols, w.blocks); err != nil {
		return index.ChunkMeta{}, err
	}
	key := chunk.KeyOf(w.object, meta)
	ctx, cancel := context.WithTimeout(i.ctx, i.cfg.FlushTimeout)
	defer cancel()
	if err := i.deps.Store.PutChunk(ctx, key, w.object); err != nil {
		return index.ChunkMeta{}, err
	}
	i.m.flushedBytes.Add(float64(len(w.object)))
	if cap(w.object) > 16<<20 {
		w.object, w.data = nil, nil
	}
	return index.ChunkMeta{
		MinTime: key.From, MaxTime: key.Through, KB: chunk.KB(symbolBytes, w.blocks), Entries: uint32(entries), Checksum: key.Checksum,
	}, nil
}

// needsMerge reports whether blocks, sorted by their first time, overlap, were
// compressed differently (the setting was changed), or are mostly too small.
func (i *Ingester) needsMerge(bls []block) bool {
	total := 0
	for k, b := range bls {
		if b.codec != i.codec || k > 0 && b.mint < bls[k-1].maxt {
			return true
		}
		total += b.size
	}
	return len(bls) > 1 && total/len(bls) < i.blockSize/8
}

// merge decodes blocks and makes new ones of full size in order of time.
func (i *Ingester) merge(bls []block) ([]chunk.Block, error) {
	var contents [][]byte
	var data []byte
	for _, b := range bls {
		var err error
		if data, err = i.blocks.Read(b.ref, data[:0]); err != nil {
			return nil, err
		}
		content, err := b.codec.Decompress(nil, data, maxContent(&b))
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	return chunk.Merge(i.codec, contents, i.blockSize)
}

// maxContent bounds the decompressed size of b: what its entries can take.
func maxContent(b *block) int { return 2*b.size + 64*int(b.entries) + 1024 }

// indexer gathers stored chunks until their index is written.
type indexer struct {
	mu      sync.Mutex
	pending []indexed
	kick    chan struct{}
}

type indexed struct {
	c    *openChunk
	meta index.ChunkMeta
}

func (x *indexer) add(c *openChunk, m index.ChunkMeta) {
	x.mu.Lock()
	x.pending = append(x.pending, indexed{c, m})
	n := len(x.pending)
	x.mu.Unlock()
	if n >= maxPendingIndex {
		x.request()
	}
}

// maxPendingIndex is how many chunks one index file lists at most.
const maxPendingIndex = 50_000

func (x *indexer) request() {
	select {
	case x.kick <- struct{}{}:
	default:
	}
}

func (i *Ingester) indexerLoop() {
	timer := time.NewTicker(max(i.cfg.IndexInterval, time.Second))
	defer timer.Stop()
	for {
		select {
		case <-i.ctx.Done():
			return
		case <-timer.C:
		case <-i.index.kick:
		}
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, time.Minute) {
			err := i.writeIndex()
			if err == nil {
				break
			}
			i.m.flushErrors.Inc()
			i.log.Warn("storing an index failed, trying again", "err", err)
			select {
			case <-time.After(wait/2 + time.Duration(rand.Int64N(int64(wait)))):
			case <-i.ctx.Done():
				return
			}
		}
	}
}

// writeIndex stores the index of what is pending and lets go of its blocks.
func (i *Ingester) writeIndex() error {
	x := &i.index
	x.mu.Lock()
	pending := x.pending
	x.pending = nil
	x.mu.Unlock()
	byTenant := map[string][]indexed{}
	for _, p := range pending {
		id := p.c.stream.tenant.id
		byTenant[id] = append(byTenant[id], p)
	}
	var errs []error
	for id, list := range byTenant {
		if err := i.indexTenant(id, list); err != nil {
			errs = append(errs, err)
			x.mu.Lock()
			x.pending = append(x.pending, list...)
			x.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

func (i *Ingester) indexTenant(id string, list []indexed) error {
	byStream := map[*stream][]index.ChunkMeta{}
	for _, p := range list {
		byStream[p.c.stream] = append(byStream[p.c.stream], p.meta)
	}
	series := make([]index.Series, 0, len(byStream))
	for st, metas := range byStream {
		ls, err := labels.Parse(st.labels)
		if err != nil {
			return fmt.Errorf("ingester: labels of a stream: %w", err)
		}
		series = append(series, index.Series{Labels: ls, Fingerprint: ls.Fingerprint(), Chunks: metas})
	}
	ctx, cancel := context.WithTimeout(i.ctx, i.cfg.FlushTimeout)
	defer cancel()
	if err := i.deps.Store.PutIndex(ctx, id, series); err != nil {
		return err
	}
	for _, p := range list {
		i.release(p.c)
	}
	i.wantTrim()
	return nil
}

// release lets go of a chunk that chunk object and index are stored of.
func (i *Ingester) release(c *openChunk) {
	st := c.stream
	refs := make([]blocks.Ref, 0, len(c.blocks))
	st.mu.Lock()
	for _, b := range c.blocks {
		refs = append(refs, b.ref)
		b.released = true
	}
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
	st.mu.Unlock()
	if err := i.blocks.Flushed(st.ref.Load(), c.seq, refs); err != nil {
		i.log.Warn("noting a flushed chunk failed; a restart will store it once more", "err", err)
	}
	i.m.pendingChunks.Add(-1)
	close(c.done)
}
