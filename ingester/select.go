package ingester

import (
	"context"
	"fmt"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/storage/chunk"
)

// Select returns the streams of tenant that match and have entries in
// [from, through), ns, with everything of them that is not stored yet, and what
// was stored a moment ago. Blocks are read when they are loaded, also if they
// have been flushed by then. While the WAL is replayed the error is a
// *push.Error.
func (i *Ingester) Select(ctx context.Context, tenantID string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error) {
	var out []chunk.Series
	err := i.match(ctx, tenantID, ms, func(st *stream, ls labels.Labels) {
		var refs []chunk.BlockRef
		st.mu.Lock()
		defer st.mu.Unlock()
		st.lanes(func(ln *lane) {
			inChunk := func(c *openChunk) {
				for _, b := range c.blocks {
					if b.mint < through && b.maxt >= from {
						refs = append(refs, &blockRef{i: i, c: c, b: b, mint: b.mint, maxt: b.maxt, entries: int(b.entries), size: b.size})
					}
				}
			}
			inHead := func(h *head) {
				if h.mint < through && h.maxt >= from {
					refs = append(refs, &headRef{i: i, h: h, mint: h.mint, maxt: h.maxt, entries: int(h.entries), n: len(h.buf.B), disorder: h.disorder})
				}
			}
			for _, c := range ln.closed {
				inChunk(c)
			}
			if ln.chunk != nil {
				inChunk(ln.chunk)
			}
			for _, h := range ln.sealed {
				inHead(h)
			}
			if ln.head != nil {
				inHead(ln.head)
			}
		})
		if len(refs) > 0 {
			out = append(out, chunk.Series{Labels: ls, Blocks: refs})
		}
	})
	return out, err
}

// LabelSets returns the label sets of the streams that match and have entries
// in [from, through).
func (i *Ingester) LabelSets(ctx context.Context, tenantID string, ms []*labels.Matcher, from, through int64) ([]labels.Labels, error) {
	var out []labels.Labels
	err := i.match(ctx, tenantID, ms, func(st *stream, ls labels.Labels) {
		hit := false
		st.mu.Lock()
		defer st.mu.Unlock()
		see := func(mint, maxt int64) { hit = hit || mint < through && maxt >= from }
		st.lanes(func(ln *lane) {
			for _, c := range ln.closed {
				see(c.mint, c.maxt)
			}
			if c := ln.chunk; c != nil {
				see(c.mint, c.maxt)
			}
		})
		if hit {
			out = append(out, ls)
		}
	})
	return out, err
}

// match calls fn for every stream of the tenant whose labels match. It is an
// error while the WAL is replayed: what is not read yet would be missing, and
// nobody could tell.
func (i *Ingester) match(ctx context.Context, tenantID string, ms []*labels.Matcher, fn func(*stream, labels.Labels)) error {
	if state(i.state.Load()) == stateJoining {
		return &push.Error{Reason: push.Replaying, Msg: "replaying the WAL", RetryAfter: time.Second}
	}
	i.tenantsMu.RLock()
	tn := i.tenants[tenantID]
	i.tenantsMu.RUnlock()
	if tn == nil {
		return nil
	}
	var err error
	n := 0
	tn.each(func(st *stream) {
		if n++; n%1024 == 0 && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return
		}
		ls, perr := labels.Parse(st.labels)
		if perr != nil {
			err = fmt.Errorf("ingester: labels of a stream: %w", perr)
			return
		}
		if labels.MatchAll(ms, ls) {
			fn(st, ls)
		}
	})
	return err
}

// blockRef is a cut block.
type blockRef struct {
	i          *Ingester
	c          *openChunk
	b          *block
	mint, maxt int64
	entries    int
	size       int
}

func (r *blockRef) Bounds() (int64, int64) { return r.mint, r.maxt }
func (r *blockRef) NumEntries() int        { return r.entries }

// Size returns about the bytes of lines and metadata.
func (r *blockRef) Size() int64 { return sizeOf(r.size, r.entries) }

// sizeOf takes from the bytes of a content what is not of lines: the time and
// the lengths of each entry.
func sizeOf(content, entries int) int64 {
	const each = 9 + 2 + 2
	return int64(max(content-each*entries, 0))
}

func (r *blockRef) Load(dst []byte) ([]byte, []string, error) {
	st := r.c.stream
	st.mu.Lock()
	b := *r.b
	var symbols []string
	known := r.c.syms != nil
	if known {
		symbols = r.c.syms.List()
	}
	st.mu.Unlock()
	data, err := r.i.blocks.Read(b.ref, nil)
	if err == nil && !known {
		symbols, err = r.i.symbols([]block{b})
	}
	if err != nil {
		return nil, nil, err
	}
	content, err := b.codec.Decompress(dst, data, maxContent(&b))
	return content, symbols, err
}

// headRef is what a head held when it was selected: the first n bytes.
type headRef struct {
	i          *Ingester
	h          *head
	mint, maxt int64
	entries, n int
	disorder   bool
}

func (r *headRef) Bounds() (int64, int64) { return r.mint, r.maxt }
func (r *headRef) NumEntries() int        { return r.entries }

// Size returns about the bytes of lines and metadata.
func (r *headRef) Size() int64 { return sizeOf(r.n, r.entries) }

func (r *headRef) Load(dst []byte) ([]byte, []string, error) {
	h := r.h
	h.stream.mu.Lock()
	if h.block == nil {
		at := len(dst)
		dst = append(dst, h.buf.B[:r.n]...)
		var symbols []string
		if h.chunk.syms != nil {
			symbols = h.chunk.syms.List()
		}
		h.stream.mu.Unlock()
		if r.disorder {
			dst = append(dst[:at], chunk.SortContent(nil, dst[at:])...)
		}
		return dst, symbols, nil
	}
	h.stream.mu.Unlock()
	// It was cut since. The block is sorted and may have entries that came
	// later; those outside the bounds that were given are left out.
	br := blockRef{i: r.i, c: h.chunk, b: h.block}
	at := len(dst)
	dst, symbols, err := br.Load(dst)
	if err != nil {
		return nil, nil, err
	}
	content := dst[at:]
	first, end := len(content), 0
	it := chunk.Entries(content)
	for it.Next() {
		if it.TS >= r.mint && it.TS <= r.maxt {
			first = min(first, it.Off)
			end = it.Off + it.Len
		}
	}
	if err := it.Err(); err != nil {
		return nil, nil, err
	}
	if first > end {
		first = end
	}
	return append(dst[:at], content[first:end]...), symbols, nil
}
