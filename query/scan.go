package query

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/loki-go/loki-go/internal/find"
	"github.com/loki-go/loki-go/query/pipeline"
	"github.com/loki-go/loki-go/storage/chunk"
)

// scan reads the blocks of a plan. Its buffers serve many queries.
type scan struct {
	plan     *plan
	pipe     *pipeline.Pipeline
	maxBytes int64
	*buffers
}

type buffers struct {
	content []byte // of the part of a block that is being read
	spans   []span // of its entries that may match
	data    []byte // of an entry, for top
}

type span struct{ off, len int }

const (
	keepBuffer = 4 << 20 // larger ones are not kept for other queries
	checkEvery = 4096    // entries between two looks at the context
)

var bufferPool = sync.Pool{New: func() any { return new(buffers) }}

func newScan(p *plan, pipe *pipeline.Pipeline, maxBytes int64) *scan {
	pipe.Decide(true)
	return &scan{plan: p, pipe: pipe, maxBytes: maxBytes, buffers: bufferPool.Get().(*buffers)}
}

func (s *scan) free() {
	if cap(s.content) <= keepBuffer && cap(s.data) <= keepBuffer && cap(s.spans) <= keepBuffer/16 {
		bufferPool.Put(s.buffers)
	}
	s.buffers = nil
}

// run returns the entries of the answer.
func (s *scan) run(ctx context.Context, r Request) (entries []Entry, err error) {
	if r.Interval > 0 {
		entries, err = s.runInterval(ctx, r)
	} else {
		t := newTop(r.Limit, s.plan.backward, s.maxBytes)
		if err = s.fill(ctx, t, r.From, r.Through); err == nil {
			entries = t.shown()
		}
	}
	if errors.Is(err, errTooLarge) {
		err = &RequestError{
			Msg:   fmt.Sprintf("the answer exceeds max-result-bytes (%d bytes); ask for fewer lines or a shorter range", s.maxBytes),
			cause: errTooLarge,
		}
	}
	return entries, err
}

// runInterval keeps entries that are at least the interval apart, beginning
// with the first. Each round takes the next entries, thins them out, and goes
// on where the next entry may be: ranges of the rounds do not overlap.
func (s *scan) runInterval(ctx context.Context, r Request) ([]Entry, error) {
	var out []Entry
	from, through := r.From, r.Through
	left := s.maxBytes
	for len(out) < r.Limit && from < through {
		want := r.Limit - len(out)
		t := newTop(want, s.plan.backward, left)
		if err := s.fill(ctx, t, from, through); err != nil {
			return nil, err
		}
		more := t.full()
		for _, e := range t.chosen() {
			if e.TS < from || e.TS >= through {
				continue
			}
			out = append(out, e)
			left -= int64(cap(e.Line) + cap(e.Meta))
			if s.plan.backward {
				through = addTime(e.TS, -r.Interval) + 1
			} else {
				from = addTime(e.TS, r.Interval)
			}
		}
		if !more {
			break
		}
	}
	return out, nil
}

// addTime adds without overflow; the result leaves room for 1 more.
func addTime(ts int64, d time.Duration) int64 {
	sum := ts + int64(d)
	if d > 0 && sum < ts {
		return math.MaxInt64 - 1
	}
	if d < 0 && sum > ts {
		return math.MinInt64
	}
	return sum
}

// fill offers t every entry that passes the filters in [from, through) and may
// be good enough. Blocks that can hold the best entries come first.
func (s *scan) fill(ctx context.Context, t *top, from, through int64) error {
	blocks := s.blocksIn(from, through)
	for i := range blocks {
		b := &blocks[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		best := s.best(b, from, through)
		if t.beyond(best.ts) {
			return nil // and so are all that follow
		}
		if t.useless(best) {
			continue
		}
		if err := s.block(ctx, t, b, blocks[i+1:], from, through); err != nil {
			return err
		}
	}
	return nil
}

// best returns the best place that an entry of b in [from, through) can have.
func (s *scan) best(b *block, from, through int64) key {
	if s.plan.backward {
		return key{ts: min(b.maxt, through-1), stream: b.stream, block: b.seq, off: math.MaxUint32}
	}
	return key{ts: max(b.mint, from), stream: b.stream, block: b.seq}
}

func (s *scan) blocksIn(from, through int64) []block {
	blocks := make([]block, 0, len(s.plan.blocks))
	for _, b := range s.plan.blocks {
		if b.maxt >= from && b.mint < through {
			blocks = append(blocks, b)
		}
	}
	slices.SortFunc(blocks, func(x, y block) int {
		a, b := s.best(&x, from, through), s.best(&y, from, through)
		if a.less(b) != s.plan.backward {
			return -1
		}
		return 1
	})
	return blocks
}

// block loads b, which next come after, and offers its entries.
func (s *scan) block(ctx context.Context, t *top, b *block, next []block, from, through int64) error {
	st := s.plan.stats[b.source]
	l, err := s.plan.load(b, s.content[:0], refs(next))
	if err != nil {
		return err
	}
	defer l.count(st, st.Lines)
	if !s.pipe.Simple() {
		s.pipe.For(s.plan.streams[b.stream])
	}
	v := visit{scan: s, ctx: ctx, top: t, block: b, stats: st, symbols: l.parts.Symbols(), from: from, through: through}
	for n := range l.parts.Len() {
		i := n
		if s.plan.backward {
			i = l.parts.Len() - 1 - n
		}
		if done, err := v.part(&l, i); done || err != nil {
			return err
		}
	}
	return nil
}

// part offers the entries of a part of the block. It reports whether no part
// further on can have better ones.
func (v *visit) part(l *loaded, i int) (done bool, err error) {
	p := l.parts.Info(i)
	first := max(p.MinT, v.from)
	if v.plan.backward {
		first = min(p.MaxT, v.through-1)
	}
	if v.top.beyond(first) {
		return true, nil
	}
	if p.MaxT < v.from || p.MinT >= v.through {
		return false, nil
	}
	if err := v.ctx.Err(); err != nil {
		return false, err
	}
	v.base = p.Off
	if v.scan.content, v.hits, err = v.plan.part(v.block, l, i, v.scan.content[:0], v.pipe.Finder()); err != nil {
		return false, err
	}
	if v.hits.next < 0 {
		v.stats.Lines += int64(p.Entries)
		return false, nil
	}
	if v.plan.backward {
		err = v.backward()
	} else {
		err = v.forward()
	}
	if errors.Is(err, chunk.ErrContent) {
		err = v.plan.broken(v.block, err)
	}
	return false, err
}

// broken says which block cannot be read, by its name if it has one.
func (p *plan) broken(b *block, err error) error {
	name := ""
	if n, ok := b.ref.(fmt.Stringer); ok {
		name = " (" + n.String() + ")"
	}
	return fmt.Errorf("cannot read a block of stream %s, %s to %s%s: %w",
		p.streams[b.stream], rfc3339(b.mint), rfc3339(b.maxt), name, err)
}

func rfc3339(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

// hits finds the places of texts in a block, so that entries without them are
// passed over unseen.
type hits struct {
	places find.Places
	next   int // the first place not yet passed; -1: there is none
}

func newHits(content []byte, text *find.Finder) hits {
	first := text.Index(content)
	return hits{text.Places(content, first), first}
}

// in reports whether a text may be in content[:end], behind what was asked for
// before.
func (h *hits) in(end int) bool {
	if h.next < 0 || h.next >= end {
		return false
	}
	h.next = h.places.From(end)
	return true
}

// visit is the reading of one block.
type visit struct {
	*scan
	ctx           context.Context
	top           *top
	block         *block
	stats         *SourceStats
	symbols       []string
	from, through int64
	base          int // place of the part in the block
	hits          hits
}

func (v *visit) forward() error {
	it := chunk.Entries(v.content)
	for n := 1; it.Next(); n++ {
		v.stats.Lines++
		if n%checkEvery == 0 && v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		if it.TS >= v.through || v.top.beyond(it.TS) {
			return nil
		}
		if !v.hits.in(it.Off+it.Len) || it.TS < v.from || !v.pipe.MatchLine(it.Line) {
			continue
		}
		if ok, err := v.stages(&it, it.Off); !ok {
			if err != nil {
				return err
			}
			continue
		}
		if err := v.offer(&it, it.Off); err != nil {
			return err
		}
	}
	return it.Err()
}

// backward walks to find where entries are, then takes them from the end.
func (v *visit) backward() error {
	spans := v.spans[:0]
	it := chunk.Entries(v.content)
	for n := 1; it.Next() && it.TS < v.through; n++ {
		v.stats.Lines++
		if n%checkEvery == 0 && v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		if v.hits.in(it.Off+it.Len) && it.TS >= v.from && !v.top.beyond(it.TS) && v.pipe.MatchLine(it.Line) {
			spans = append(spans, span{it.Off, it.Len})
		}
	}
	v.spans = spans
	if err := it.Err(); err != nil {
		return err
	}
	for i := len(spans) - 1; i >= 0; i-- {
		if i%checkEvery == 0 && v.ctx.Err() != nil {
			return v.ctx.Err()
		}
		e := chunk.Entries(v.content[spans[i].off : spans[i].off+spans[i].len])
		if !e.Next() {
			return e.Err()
		}
		if v.top.beyond(e.TS) {
			return nil
		}
		if ok, err := v.stages(&e, spans[i].off); !ok {
			if err != nil {
				return err
			}
			continue
		}
		if err := v.offer(&e, spans[i].off); err != nil {
			return err
		}
	}
	return nil
}

// stages runs what is behind the line filters.
func (v *visit) stages(it *chunk.EntryIter, off int) (bool, error) {
	if v.pipe.Simple() {
		return true, nil
	}
	v.pipe.Begin()
	if err := addMeta(v.pipe, it, v.symbols, off); err != nil {
		return false, err
	}
	return v.pipe.Match(it.TS, it.Line), nil
}

// addMeta hands a pipeline the metadata of an entry. Like a label, metadata
// without a value is not there.
func addMeta(pipe *pipeline.Pipeline, it *chunk.EntryIter, symbols []string, off int) error {
	for i := 0; i < 2*it.NumPairs; i += 2 {
		name, err := symbol(it, i, symbols, off)
		if err != nil {
			return err
		}
		value, err := symbol(it, i+1, symbols, off)
		if err != nil {
			return err
		}
		if value != "" {
			pipe.Meta(name, value)
		}
	}
	return nil
}

// symbol returns a text that an entry refers to.
func symbol(it *chunk.EntryIter, i int, symbols []string, off int) (string, error) {
	n := it.Sym(i)
	if uint64(n) >= uint64(len(symbols)) {
		return "", fmt.Errorf("%w: entry at offset %d refers to symbol %d of %d", chunk.ErrContent, off, n, len(symbols))
	}
	return symbols[n], nil
}

// offer hands the entry to the collection, with its metadata spelled out: the
// symbols of different blocks do not compare.
func (v *visit) offer(it *chunk.EntryIter, off int) error {
	v.stats.Kept++
	k := key{ts: it.TS, stream: v.block.stream, block: v.block.seq, off: uint32(v.base + off)}
	if v.top.useless(k) {
		return nil
	}
	data := append(v.data[:0], it.Line...)
	for i := range 2 * it.NumPairs {
		text, err := symbol(it, i, v.symbols, off)
		if err != nil {
			return err
		}
		data = appendText(data, text)
	}
	v.stats.MetaBytes += int64(len(data) - len(it.Line))
	data = appendTail(data, k)
	v.data = data
	dup, err := v.top.offer(k, data, len(it.Line))
	if dup {
		v.stats.Duplicates++
	}
	return err
}
