package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/chunk"
)

// chunkRef is a chunk as the index lists it.
type chunkRef struct {
	s             *Store
	ctx           context.Context // of the Select that returned it
	key           chunk.Key
	labels        labels.Labels
	entries       int
	from, through int64 // ns; blocks out of this range are left out
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
func (r *chunkRef) NumEntries() int { return r.entries }

// Load is BlockRef's.
func (r *chunkRef) Load(dst []byte) ([]byte, []string, error) {
	c, err := r.s.getChunk(r.ctx, r.key)
	if err == nil && !slices.Equal(c.Labels, r.labels) {
		err = fmt.Errorf("labels are %s, the index has %s", c.Labels, r.labels)
	}
	if err == nil {
		dst, err = content(c, dst, r.from, r.through)
	}
	if err != nil {
		r.s.m.loadErrors.Inc()
		return dst, nil, fmt.Errorf("storage: load chunk %s: %w", r.key, err)
	}
	return dst, c.Symbols, nil
}

// content appends the entries of all blocks that touch the range.
func content(c *chunk.Chunk, dst []byte, from, through int64) ([]byte, error) {
	start, sorted := len(dst), true
	last := int64(math.MinInt64)
	for i := range c.Blocks {
		b := &c.Blocks[i]
		if b.MaxT < from || b.MinT >= through {
			continue
		}
		sorted = sorted && b.MinT >= last
		last = max(last, b.MaxT)
		var err error
		if dst, err = c.Content(i, dst); err != nil {
			return dst, err
		}
	}
	if !sorted {
		dst = append(dst[:start], chunk.SortContent(nil, dst[start:])...)
	}
	return dst, nil
}

// getChunk fetches and decodes a chunk, and checks it against its key.
func (s *Store) getChunk(ctx context.Context, key chunk.Key) (*chunk.Chunk, error) {
	return s.chunks.get(ctx, key.String(), func() (*chunk.Chunk, int64, error) {
		object, err := s.bucket.Get(ctx, s.objectKey(key))
		if err != nil {
			return nil, 0, err
		}
		s.m.chunksRead.Inc()
		s.m.chunkBytesRead.Add(float64(len(object)))
		if chunk.Checksum(object) != key.Checksum {
			return nil, 0, errors.New("the object's checksum is not that of its key")
		}
		c, err := chunk.Decode(object)
		if err != nil {
			return nil, 0, err
		}
		if c.Tenant != key.Tenant || c.Fingerprint != key.Fingerprint || c.From != key.From || c.Through != key.Through {
			return nil, 0, fmt.Errorf("the object is chunk %s", chunk.KeyOf(object, c.Meta))
		}
		return c, int64(len(object) + c.SymbolBytes() + 16*len(c.Symbols) + 80*len(c.Blocks)), nil
	})
}
