package storage

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"github.com/loki-go/loki-go/internal/find"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/chunk"
)

// selection is what one Select has found.
type selection struct {
	s             *Store
	ctx           context.Context
	from, through int64 // ns; blocks out of this range are left out
	limits        QueryLimits
	refs          []chunkRef
	read          atomic.Int64 // bytes that were loaded
	ahead         readAhead
}

// chunkRef is a chunk as the index lists it.
type chunkRef struct {
	sel         *selection
	key         chunk.Key
	labels      labels.Labels
	entries, kb uint32
	n, series   int32 // number in sel.refs, and of the series
}

// Bounds is BlockRef's; they are those of the whole chunk.
func (r *chunkRef) Bounds() (mint, maxt int64) {
	return millisToNanos(r.key.From), millisToNanos(r.key.Through)
}

func millisToNanos(ms int64) int64 {
	const most = math.MaxInt64 / 1_000_000
	switch {
	case ms > most:
		return math.MaxInt64
	case ms < -most:
		return math.MinInt64
	}
	return ms * 1e6
}

// NumEntries is BlockRef's; it counts the whole chunk.
func (r *chunkRef) NumEntries() int { return int(r.entries) }

// Size tells how much there is to load, about: in KiB, as the index has it.
func (r *chunkRef) Size() int64 { return int64(r.kb) << 10 }

// Load is BlockRef's.
func (r *chunkRef) Load(dst []byte) ([]byte, []string, error) {
	p, err := r.open()
	if err != nil {
		return dst, nil, err
	}
	for i := range p.Len() {
		if dst, _, err = p.Load(i, dst, &find.Finder{}); err != nil {
			return dst, nil, err
		}
	}
	return dst, p.Symbols(), nil
}

// Parts is PartedRef's. They are the blocks of the chunk, if those do not
// overlap.
func (r *chunkRef) Parts() (chunk.Parts, error) {
	p, err := r.open()
	if err != nil {
		return nil, err
	}
	return p, nil
}

// open fetches the chunk.
func (r *chunkRef) open() (*chunkParts, error) {
	sel := r.sel
	if err := sel.limits.checkBytes(sel.read.Load()); err != nil {
		return nil, err
	}
	c, err := sel.ahead.load(r)
	if err == nil && !slices.Equal(c.Labels, r.labels) {
		err = fmt.Errorf("labels are %s, the index has %s", c.Labels, r.labels)
	}
	if err != nil {
		return nil, r.failed(err)
	}
	return newChunkParts(r, c), nil
}

func (r *chunkRef) failed(err error) error {
	r.sel.s.m.loadErrors.Inc()
	return fmt.Errorf("storage: load chunk %s: %w", r.key, err)
}

// chunkParts are the blocks of a chunk that touch the range of a selection.
type chunkParts struct {
	ref    *chunkRef
	chunk  *chunk.Chunk
	blocks []int32 // numbers in the chunk
	mixed  bool    // they overlap: all are one part
}

func newChunkParts(r *chunkRef, c *chunk.Chunk) *chunkParts {
	p := &chunkParts{ref: r, chunk: c, blocks: make([]int32, 0, len(c.Blocks))}
	last := int64(math.MinInt64)
	for i := range c.Blocks {
		b := &c.Blocks[i]
		if b.MaxT < r.sel.from || b.MinT >= r.sel.through {
			continue
		}
		p.mixed = p.mixed || b.MinT < last
		last = max(last, b.MaxT)
		p.blocks = append(p.blocks, int32(i))
	}
	return p
}

func (p *chunkParts) Symbols() []string { return p.chunk.Symbols }

func (p *chunkParts) Len() int {
	if p.mixed {
		return 1
	}
	return len(p.blocks)
}

func (p *chunkParts) Info(i int) chunk.PartInfo {
	if !p.mixed {
		b := &p.chunk.Blocks[p.blocks[i]]
		return chunk.PartInfo{MinT: b.MinT, MaxT: b.MaxT, Entries: b.Entries, Off: p.chunk.MaxContent(int(p.blocks[i]))}
	}
	part := chunk.PartInfo{MinT: math.MaxInt64, MaxT: math.MinInt64}
	for _, n := range p.blocks {
		b := &p.chunk.Blocks[n]
		part.MinT, part.MaxT = min(part.MinT, b.MinT), max(part.MaxT, b.MaxT)
		part.Entries += b.Entries
	}
	return part
}

func (p *chunkParts) Load(i int, dst []byte, text *find.Finder) (content []byte, at int, err error) {
	sel := p.ref.sel
	if err := sel.limits.checkBytes(sel.read.Load()); err != nil {
		return dst, -1, err
	}
	if p.mixed {
		content, at, err = p.all(dst, text)
	} else {
		content, at, err = p.chunk.Find(int(p.blocks[i]), dst, text)
	}
	if err != nil {
		return dst, -1, p.ref.failed(err)
	}
	sel.read.Add(int64(len(content) - len(dst)))
	return content, at, nil
}

// all appends the entries of all blocks in order of time.
func (p *chunkParts) all(dst []byte, text *find.Finder) ([]byte, int, error) {
	start := len(dst)
	for _, n := range p.blocks {
		var err error
		if dst, err = p.chunk.Content(int(n), dst); err != nil {
			return dst, -1, err
		}
	}
	dst = append(dst[:start], chunk.SortContent(nil, dst[start:])...)
	return dst, text.Index(dst[start:]), nil
}

// getChunk returns a chunk that was checked against its key: from memory, the
// shared cache, or the object store.
func (s *Store) getChunk(ctx context.Context, key chunk.Key) (*chunk.Chunk, error) {
	return s.chunks.get(ctx, key.String(), func() (*chunk.Chunk, int64, error) {
		if object, ok := s.shared.Get(ctx, key); ok {
			// If there is something wrong with it the store's copy may be
			// better.
			if c, err := openChunk(key, object); err == nil {
				return c, memoryOf(c), nil
			}
		}
		object, err := s.bucket.Get(ctx, s.objectKey(key))
		if err != nil {
			return nil, 0, err
		}
		s.m.chunksRead.Inc()
		s.m.chunkBytesRead.Add(float64(len(object)))
		c, err := openChunk(key, object)
		if err != nil {
			return nil, 0, err
		}
		s.shared.Put(key, object)
		return c, memoryOf(c), nil
	})
}

// openChunk decodes an object, which the chunk refers to, if it is key's.
func openChunk(key chunk.Key, object []byte) (*chunk.Chunk, error) {
	c, err := chunk.Open(object, key.Checksum)
	if err != nil {
		return nil, err
	}
	if c.Tenant != key.Tenant || c.Fingerprint != key.Fingerprint || c.From != key.From || c.Through != key.Through {
		return nil, fmt.Errorf("the object is chunk %s", chunk.KeyOf(object, c.Meta))
	}
	return c, nil
}

// memoryOf returns about how much memory a decoded chunk takes.
func memoryOf(c *chunk.Chunk) int64 {
	n := 512 + c.SymbolBytes() + 16*len(c.Symbols) + 80*len(c.Blocks)
	for i := range c.Blocks {
		n += len(c.Blocks[i].Data)
	}
	return int64(n)
}
