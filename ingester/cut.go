package ingester

import (
	"sort"
	"time"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/storage/chunk"
)

// seal takes the head from ln and queues it for a cutter. Call with the
// stream's mutex held.
func (i *Ingester) seal(ln *lane) {
	h := ln.head
	if h == nil {
		return
	}
	ln.head = nil
	h.sealed = true
	ln.sealed = append(ln.sealed, h)
	c := h.chunk
	c.cutting++
	c.rawSealed += h.size
	i.m.sealedBytes.Add(int64(cap(h.buf.B)))
	i.cutq.put(h)
	if i.estimate(c) >= i.targetSize*c.growth() {
		i.closeChunk(ln, reasonFull)
	}
}

// estimate is the compressed size of c when its sealed heads are cut too.
func (i *Ingester) estimate(c *openChunk) int {
	n := c.stored()
	if c.raw > 0 {
		n += int(float64(c.rawSealed) * float64(n) / float64(c.raw))
	} else {
		n += c.rawSealed / 8
	}
	if c.syms != nil {
		n += c.syms.Bytes()
	}
	return n
}

// closeChunk ends ln's open chunk, its head included, and hands it to the
// flushers once it is cut. Call with the stream's mutex held.
func (i *Ingester) closeChunk(ln *lane, reason string) {
	c := ln.chunk
	if c == nil {
		return
	}
	if ln.head != nil {
		// seal may find the chunk full and come back here.
		ln.chunk = nil
		i.seal(ln)
	}
	ln.chunk = nil
	if c.closed {
		return
	}
	c.closed, c.reason = true, reason
	c.put, c.done = make(chan struct{}), make(chan struct{})
	ln.closed = append(ln.closed, c)
	i.m.pendingChunks.Add(1)
	if c.cutting == 0 {
		i.complete(c)
	}
}

// complete hands a closed chunk whose heads are all cut to the flushers. Its
// symbols are in its blocks on disk. Call with the stream's mutex held.
func (i *Ingester) complete(c *openChunk) {
	c.syms, c.rows = nil, nil
	if !i.holdBack(c) {
		i.flushq.put(c)
	}
}

// cutter turns sealed heads into blocks.
func (i *Ingester) cutter() {
	var w cutWork
	for {
		h, ok := i.cutq.get()
		if !ok {
			return
		}
		i.cut(&w, h)
	}
}

// cutWork is the scratch memory of a cutter.
type cutWork struct {
	sorted, data, sample []byte
	used                 map[uint32]struct{}
}

func (i *Ingester) cut(w *cutWork, h *head) {
	began := time.Now()
	content := h.buf.B // nobody writes to it any more
	if h.disorder {
		w.sorted = chunk.SortContent(w.sorted[:0], content)
		content = w.sorted
	}
	c := h.chunk
	codec, err := i.compress(w, c, content)
	if err != nil {
		// Compressing in memory fails for a bug only; the entries stay in the
		// WAL and in the sealed head.
		i.log.Error("compressing a block failed", "stream", h.stream.labels, "err", err)
		return
	}
	h.stream.mu.Lock()
	opened := c.opened // moves while the chunk is open
	h.stream.mu.Unlock()
	rec := blocks.Block{
		Tenant: h.stream.tenant.id, Labels: h.stream.labels, Stream: c.ref, Chunk: c.seq, Late: c.lane.late,
		Codec: uint8(codec), Entries: h.entries, MinT: h.mint, MaxT: h.maxt, Size: h.size, Opened: opened,
		Symbols: i.usedSymbols(w, h, content), Cover: h.cover, Data: w.data,
	}
	if names := h.pushes.Set(); len(names) > 0 {
		rec.Pushes = names.Append(nil)
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		if err = i.blocks.Append(&rec); err == nil {
			break
		}
		i.m.blockErrors.Inc()
		i.log.Warn("writing a block failed, trying again", "err", err, "wait", wait)
		i.room.low.Store(true)
		select {
		case <-time.After(wait):
		case <-i.ctx.Done():
			return
		}
	}
	bl := &block{ref: rec.Ref, codec: codec, interim: codec != i.codec, entries: h.entries, size: h.size, mint: h.mint, maxt: h.maxt, symbols: len(rec.Symbols) > 0, started: h.started}
	st := h.stream
	st.mu.Lock()
	h.block = bl
	buf := h.buf
	h.buf.B = nil
	ln := c.lane
	for k, o := range ln.sealed {
		if o == h {
			ln.sealed = append(ln.sealed[:k], ln.sealed[k+1:]...)
			break
		}
	}
	if len(ln.sealed) == 0 {
		ln.sealed = nil
	}
	c.cutting--
	c.rawSealed -= h.size
	c.add(bl)
	i.m.localBlocks.Add(1)
	if h.inherit(bl) {
		i.letGo(c, map[*block]bool{bl: true})
	}
	if c.closed && c.cutting == 0 {
		i.complete(c)
	}
	st.mu.Unlock()
	n := int64(cap(buf.B))
	i.slabs.Put(buf)
	i.m.sealedBytes.Add(-n)
	i.memory.signal()
	i.m.blockSize.Observe(float64(rec.Ref.Len()))
	i.m.cutSeconds.Observe(time.Since(began).Seconds())
}

// usedSymbols lists the symbols that content refers to, so that a block can be
// understood without the blocks before it.
func (i *Ingester) usedSymbols(w *cutWork, h *head, content []byte) []blocks.Symbol {
	h.stream.mu.Lock()
	if h.chunk.syms == nil {
		h.stream.mu.Unlock()
		return nil
	}
	list := h.chunk.syms.List() // what is in it never changes, it only grows
	h.stream.mu.Unlock()
	if w.used == nil {
		w.used = map[uint32]struct{}{}
	}
	clear(w.used)
	// There is no more to find once all are known to be used, as they are where
	// every entry has the same few pairs.
	for it := chunk.Entries(content); len(w.used) < len(list) && it.Next(); {
		for k := range 2 * it.NumPairs {
			if id := it.Sym(k); int(id) < len(list) {
				w.used[id] = struct{}{}
			}
		}
	}
	out := make([]blocks.Symbol, 0, len(w.used))
	for id := range w.used {
		out = append(out, blocks.Symbol{ID: id, Text: list[id]})
	}
	sort.Slice(out, func(a, b int) bool { return out[a].ID < out[b].ID })
	return out
}

// squeezer cuts heads when they hold more than their memory: the fullest
// first, the oldest among equals, until they are back at 85 %.
func (i *Ingester) squeezer() {
	type candidate struct {
		st      *stream
		ln      *lane
		n, size int
		started int64
	}
	for {
		select {
		case <-i.ctx.Done():
			return
		case <-i.squeeze:
		}
		excess := i.slabs.InUse() - i.m.sealedBytes.Load() - i.headMemory
		if excess <= 0 {
			continue
		}
		excess += i.headMemory * 15 / 100
		var all []candidate
		i.eachStream(func(st *stream) {
			st.mu.Lock()
			st.lanes(func(ln *lane) {
				if h := ln.head; h != nil {
					all = append(all, candidate{st, ln, len(h.buf.B), cap(h.buf.B), h.started})
				}
			})
			st.mu.Unlock()
		})
		sort.Slice(all, func(a, b int) bool {
			if all[a].n != all[b].n {
				return all[a].n > all[b].n
			}
			return all[a].started < all[b].started
		})
		for _, c := range all {
			if excess <= 0 {
				break
			}
			c.st.mu.Lock()
			i.seal(c.ln)
			c.st.mu.Unlock()
			excess -= int64(c.size)
			i.m.earlyCuts.Inc()
		}
	}
}
