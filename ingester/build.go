package ingester

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

// flushWork is the scratch memory of a flusher.
type flushWork struct {
	data, object []byte
	raw, content []byte // of one block
	blocks       []chunk.Block
}

// upload stores the objects of c, one after the other, and notes in c what the
// index is to say of them. Every attempt, also after a restart, makes the same
// objects under the same keys.
func (i *Ingester) upload(w *flushWork, c *openChunk) error {
	i.seclude(c)
	st := c.stream
	bls := i.intact(c)
	c.metas = c.metas[:0]
	if len(bls) == 0 {
		return nil
	}
	ls, err := labels.Parse(st.labels)
	if err != nil {
		return fmt.Errorf("ingester: labels of a stream: %w", err)
	}
	side, build := [][]block{bls}, i.copyBlocks
	if i.needsMerge(bls) {
		shrink, err := i.shrink(w, bls)
		if err != nil {
			return i.damaged(c, bls, err)
		}
		if side = i.rows(bls, shrink); side == nil {
			side, build = i.parts(bls, shrink), i.mergeBlocks
			i.m.merged.Inc()
		}
	}
	for _, row := range side {
		if err := build(w, c, row); err != nil {
			return err
		}
		symbols, err := i.symbols(row)
		if err != nil {
			return i.damaged(c, row, err)
		}
		if err := i.put(w, c, ls, symbols); err != nil {
			return err
		}
	}
	if cap(w.object) > 16<<20 {
		w.object, w.data = nil, nil
	}
	if cap(w.content) > 4<<20 {
		w.raw, w.content = nil, nil
	}
	clear(w.blocks[:cap(w.blocks)])
	return nil
}

// seclude makes durable that c is closed and what is in it, so that a restart
// does not go on filling it. If that fails it is stored all the same: then a
// crash may lead to a second copy, of which queries see one.
func (i *Ingester) seclude(c *openChunk) {
	var err error
	if !c.note.Valid() {
		if c.note, err = i.blocks.CloseChunk(blocks.ChunkID{Stream: c.ref, Chunk: c.seq}); err != nil {
			i.log.Warn("noting that a chunk is closed failed", "err", err)
			return
		}
	}
	refs := []blocks.Ref{c.note}
	c.stream.mu.Lock()
	for _, b := range c.blocks {
		refs = append(refs, b.ref)
	}
	c.stream.mu.Unlock()
	if err = i.blocks.Ensure(refs...); err != nil {
		i.log.Warn("making a chunk durable before it is stored failed", "err", err)
	}
}

// intact returns the blocks of c that can be read, in order of time. The order
// depends on nothing but the blocks.
func (i *Ingester) intact(c *openChunk) []block {
	c.stream.mu.Lock()
	bls := make([]block, 0, len(c.blocks))
	for _, b := range c.blocks {
		if !b.lost {
			bls = append(bls, *b)
		}
	}
	c.stream.mu.Unlock()
	slices.SortFunc(bls, func(a, b block) int {
		return cmp.Or(cmp.Compare(a.mint, b.mint), cmp.Compare(a.maxt, b.maxt), cmp.Compare(a.entries, b.entries),
			cmp.Compare(a.size, b.size), cmp.Compare(a.ref.Checksum(), b.ref.Checksum()))
	})
	return bls
}

// giveUp is after how many tries a damaged block is left out.
const giveUp = 3

// damaged deals with a block of c that does not check out. Its entries are lost:
// after some tries the rest of the chunk is stored without it.
func (i *Ingester) damaged(c *openChunk, row []block, err error) error {
	var bad *blocks.CorruptionError
	if !errors.As(err, &bad) || c.tries < giveUp {
		return err
	}
	for _, b := range row {
		data, rerr := i.blocks.Read(b.ref, nil)
		if rerr == nil {
			_, rerr = b.content(nil, data)
		}
		if rerr == nil {
			_, rerr = i.blocks.Symbols(b.ref)
		}
		if !errors.As(rerr, &bad) {
			continue
		}
		c.stream.mu.Lock()
		for _, o := range c.blocks {
			o.lost = o.lost || o.ref == b.ref
		}
		c.stream.mu.Unlock()
		i.m.lostEntries.Add(float64(b.entries))
		i.log.Error("a block on local disk is damaged, its entries are lost; the rest of its chunk is stored", "tenant", c.stream.tenant.id,
			"stream", c.stream.labels, "entries", b.entries, "from_ns", b.mint, "to_ns", b.maxt, "err", rerr)
	}
	return err
}

// maxSide is how many objects a chunk becomes at most.
const maxSide = 8

// rows puts blocks, sorted by their first time, into rows in which no block
// begins before its predecessor ends. It returns nil if all are in order, or if
// they had better be merged.
//
// A reader that takes the blocks of a chunk one after the other, as Loki's
// querier does, must not find any overlap in it. Chunks may overlap. So blocks
// that overlap a little, as those of a stream that comes over several
// connections do, go as they are into a few chunks side by side, unless these
// would be small: an object has a price of its own.
func (i *Ingester) rows(bls []block, shrink float64) [][]block {
	total := 0
	var ends [maxSide]int64
	var of []int8
	n := 0
	for _, b := range bls {
		r := 0
		for r < n && b.mint < ends[r] {
			r++
		}
		if r == maxSide {
			return nil
		}
		n = max(n, r+1)
		ends[r] = b.maxt
		of = append(of, int8(r))
		total += b.weight(shrink)
	}
	if n < 2 || total < n*i.targetSize/2 || i.areSmall(bls) {
		return nil
	}
	out := make([][]block, n)
	for k, b := range bls {
		out[of[k]] = append(out[of[k]], b)
	}
	return out
}

// parts divides blocks that are to be merged into runs of about the target size:
// the chunk may have grown beyond that when it seemed that rows would do.
func (i *Ingester) parts(bls []block, shrink float64) [][]block {
	var out [][]block
	from, size := 0, 0
	for k, b := range bls {
		if size += b.weight(shrink); k > from && size > i.targetSize*5/4 {
			out = append(out, bls[from:k])
			from, size = k, b.weight(shrink)
		}
	}
	return append(out, bls[from:])
}

// areSmall reports whether blocks are mostly too small, from early cuts.
func (i *Ingester) areSmall(bls []block) bool {
	total := 0
	for _, b := range bls {
		total += b.size
	}
	return len(bls) > 1 && total/len(bls) < i.blockSize/8
}

// needsMerge reports whether blocks, sorted by their first time, overlap, or are
// mostly too small.
func (i *Ingester) needsMerge(bls []block) bool {
	for k, b := range bls {
		if k > 0 && b.mint < bls[k-1].maxt {
			return true
		}
	}
	return i.areSmall(bls)
}

// copyBlocks makes w.blocks what is in bls. Blocks that are compressed otherwise
// (by a replica that is not the first, or before the setting was changed) are
// compressed anew, one after the other, by as many flushers at a time as there are
// cores: pushes need some, too.
func (i *Ingester) copyBlocks(w *flushWork, c *openChunk, bls []block) error {
	w.blocks, w.data = w.blocks[:0], w.data[:0]
	total := 0
	for _, b := range bls {
		total += b.ref.Len()
	}
	w.data = slices.Grow(w.data, total)
	if slices.ContainsFunc(bls, func(b block) bool { return b.interim }) {
		if err := i.enterMerge(); err != nil {
			return err
		}
		defer i.leaveMerge()
	}
	for k := range bls {
		if err := i.copyBlock(w, &bls[k]); err != nil {
			return i.damaged(c, bls, err)
		}
	}
	return nil
}

// enterMerge waits until one more flusher may decompress and compress.
func (i *Ingester) enterMerge() error {
	select {
	case i.merges <- struct{}{}:
		return nil
	case <-i.ctx.Done():
		return i.ctx.Err()
	}
}

func (i *Ingester) leaveMerge() { <-i.merges }

// copyBlock appends b to w.blocks.
func (i *Ingester) copyBlock(w *flushWork, b *block) error {
	from := len(w.data)
	if err := i.readStored(w, b); err != nil {
		return err
	}
	if b.interim {
		i.m.recompressed.Inc()
	}
	w.blocks = append(w.blocks, chunk.Block{Entries: int(b.entries), MinT: b.mint, MaxT: b.maxt, Size: b.size, Data: w.data[from:len(w.data):len(w.data)]})
	return nil
}

// mergeBlocks makes w.blocks, in order of time, of what is in bls: blocks that
// overlap become new ones of full size, the others are copied. It takes the memory
// of all that overlap decompressed, so only a few flushers do it at a time.
func (i *Ingester) mergeBlocks(w *flushWork, c *openChunk, bls []block) error {
	if err := i.enterMerge(); err != nil {
		return err
	}
	defer i.leaveMerge()
	w.blocks, w.data = w.blocks[:0], w.data[:0]
	for _, run := range i.runs(bls) {
		var err error
		if len(run) == 1 {
			err = i.copyBlock(w, &run[0])
		} else {
			err = i.mergeRun(w, run)
		}
		if err != nil {
			return i.damaged(c, bls, err)
		}
	}
	return nil
}

// runs divides blocks, sorted by their first time, where none of those in front
// ends behind the beginning of the next. Blocks that are mostly small stay
// together: they are to become fewer.
func (i *Ingester) runs(bls []block) [][]block {
	if i.areSmall(bls) {
		return [][]block{bls}
	}
	var out [][]block
	from, end := 0, bls[0].maxt
	for k, b := range bls {
		if k > from && b.mint >= end {
			out = append(out, bls[from:k])
			from = k
		}
		end = max(end, b.maxt)
	}
	return append(out, bls[from:])
}

// mergeRun appends blocks of full size to w.blocks that have what is in run.
func (i *Ingester) mergeRun(w *flushWork, run []block) error {
	contents := make([][]byte, 0, len(run))
	for _, b := range run {
		var err error
		if w.raw, err = i.blocks.Read(b.ref, w.raw[:0]); err != nil {
			return err
		}
		content, err := b.content(make([]byte, 0, b.size+b.size/8+16*int(b.entries)), w.raw)
		if err != nil {
			return err
		}
		contents = append(contents, content)
	}
	made, err := chunk.Merge(i.codec, contents, i.blockSize)
	w.blocks = append(w.blocks, made...)
	return err
}

// maxContent bounds the decompressed size of b: what its entries can take.
func maxContent(b *block) int { return 2*b.size + 64*int(b.entries) + 1024 }

// symbols returns the symbols that blocks of one chunk refer to, each at its
// number. Those that only other blocks need are empty.
func (i *Ingester) symbols(bls []block) ([]string, error) {
	var out []string
	for _, b := range bls {
		if !b.symbols {
			continue
		}
		list, err := i.blocks.Symbols(b.ref)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			if s.ID > maxSymbol {
				return nil, fmt.Errorf("ingester: symbol number %d in a block", s.ID)
			}
			for len(out) <= int(s.ID) {
				out = append(out, "")
			}
			out[s.ID] = s.Text
		}
	}
	return out, nil
}

// maxSymbol is above what a chunk can have.
const maxSymbol = 1 << 24

// put stores the object that has w.blocks.
func (i *Ingester) put(w *flushWork, c *openChunk, ls labels.Labels, symbols []string) error {
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
	meta := chunk.NewMeta(c.stream.tenant.id, ls, first, last)
	var err error
	if w.object, err = chunk.Encode(w.object[:0], meta, i.codec, symbols, w.blocks); err != nil {
		return err
	}
	key := chunk.KeyOf(w.object, meta)
	ctx, cancel := context.WithTimeout(i.ctx, i.cfg.FlushTimeout)
	defer cancel()
	err = i.deps.Store.PutChunk(ctx, key, w.object)
	i.report(err)
	if err != nil {
		return err
	}
	i.m.flushedBytes.Add(float64(len(w.object)))
	c.metas = append(c.metas, index.ChunkMeta{
		MinTime: key.From, MaxTime: key.Through, KB: chunk.KB(symbolBytes, w.blocks), Entries: uint32(entries), Checksum: key.Checksum,
	})
	return nil
}

// report tells the gate of an answer of the store.
func (i *Ingester) report(err error) {
	if i.ctx.Err() != nil {
		return
	}
	if i.gate.report(err == nil) {
		i.log.Info("the store takes data again", "pending_chunks", i.m.pendingChunks.Load())
		i.flushq.promote(1)
	}
}
