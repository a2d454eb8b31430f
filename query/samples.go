package query

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/query/metric"
	"github.com/loki-go/loki-go/query/pipeline"
	"github.com/loki-go/loki-go/storage/chunk"
)

// MetricRequest is a metric query. With an End that is its Start it is asked for
// one instant.
type MetricRequest struct {
	Tenant           string
	Query            logql.Expr
	Start, End, Step int64 // ns
}

// MetricResult is the answer to a metric query.
type MetricResult struct {
	Series []metric.Line
	Stats  Stats
}

// RunMetric executes a metric query. Errors are those of Run, *metric.Error and
// *logql.ParseError.
func (e *Engine) RunMetric(ctx context.Context, r MetricRequest) (*MetricResult, error) {
	return again(ctx, func() (*MetricResult, error) { return e.runMetric(ctx, r) })
}

func (e *Engine) runMetric(ctx context.Context, r MetricRequest) (*MetricResult, error) {
	lim := e.deps.Limits(r.Tenant)
	if err := checkLength(lim, r.Start, r.End); err != nil {
		return nil, err
	}
	if r.End > r.Start {
		if r.Step <= 0 {
			return nil, errStep
		}
		if (uint64(r.End)-uint64(r.Start))/uint64(r.Step) > maxPoints+2 { // the ends may have been aligned
			return nil, errPoints
		}
	}
	if longest, _ := logql.MaxInterval(r.Query); lim.MaxQueryRange > 0 && longest > lim.MaxQueryRange {
		return nil, badRequest("[interval] value exceeds limit: [%s] > [%s]", logql.FormatDuration(longest), logql.FormatDuration(lim.MaxQueryRange))
	}
	ctx, release, waited, err := e.begin(ctx, lim)
	if err != nil {
		return nil, err
	}
	defer release()
	start := time.Now()
	res := &MetricResult{}
	res.Stats.Queue = waited
	res.Series, err = metric.Eval(ctx, r.Query, metric.Params{
		Start: r.Start, End: r.End, Step: r.Step, MaxSeries: lim.MaxQuerySeries, MaxBytes: e.cfg.MaxResultBytes,
		Open: func(ctx context.Context, sel metric.Selection) (metric.Cursor, error) {
			c, err := e.open(ctx, r.Tenant, sel, &res.Stats)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
	})
	if err != nil {
		return nil, err
	}
	res.Stats.Exec = time.Since(start)
	for _, s := range res.Series {
		res.Stats.Entries += len(s.Points)
	}
	e.metrics.done(&res.Stats)
	return res, nil
}

// open prepares the samples of a range aggregation.
func (e *Engine) open(ctx context.Context, tenant string, sel metric.Selection, stats *Stats) (*cursor, error) {
	x, err := pipeline.NewExtractor(sel.Aggregation, sel.Outer)
	if err != nil {
		return nil, err
	}
	levels := e.deps.Limits(tenant).Levels
	x.Detect(levels)
	c := &cursor{
		ctx: ctx, plan: plan{stats: stats.sources(), filter: sampleFilter(sel.Aggregation, sel.Outer, levels)}, x: x, from: addTime(sel.From, 1), through: addTime(sel.Through, 1), ordered: sel.Ordered,
		bytes: sel.Aggregation.Op == "bytes_over_time" || sel.Aggregation.Op == "bytes_rate", byKey: map[string]int{},
	}
	if err := e.selectBlocks(ctx, &c.plan, tenant, sel.Aggregation.Range.Query.Matchers, c.from, c.through); err != nil {
		return nil, err
	}
	c.buffers = bufferPool.Get().(*buffers)
	for blocks := c.plan.blocks; len(blocks) > 0; {
		n := 1
		for n < len(blocks) && blocks[n].stream == blocks[0].stream {
			n++
		}
		s := &streamSamples{stream: blocks[0].stream, blocks: blocks[:n:n], plain: -1}
		// What the store has comes before what memory has, at equal times.
		slices.SortStableFunc(s.blocks, func(a, b block) int { return cmp.Compare(a.mint, b.mint) })
		c.streams = append(c.streams, s)
		blocks = blocks[n:]
	}
	return c, nil
}

// cursor gives the samples of the streams of a plan: by time within each stream,
// one stream after the other; or ordered, by time of all. Blocks are read when
// their time comes, and given up when they are read: what is kept of them is
// their samples.
type cursor struct {
	ctx           context.Context
	plan          plan
	x             *pipeline.Extractor
	from, through int64 // [from, through)
	ordered       bool
	bytes         bool
	streams       []*streamSamples // those that may have more
	begun         bool
	unread        []*streamSamples // if ordered: those of which no block has been read

	hashes  bool   // samples have hashes as Loki's have; if so, ordered
	current origin // of the last sample, if hashes

	series []sampleSeries
	byKey  map[string]int
	key    []byte
	*buffers
}

type sampleSeries struct {
	labels labels.Labels
	failed string
	text   string // of the labels, if the cursor has hashes
}

// origin is where a sample is from.
type origin struct {
	stream uint32
	hash   uint64
}

// streamSamples are the samples of one stream.
type streamSamples struct {
	stream  uint32
	blocks  []block // not read yet, by their first time
	samples []rawSample
	pos     int // of the next
	plain   int // series of entries without metadata, if labels are not changed; -1: not known
}

// rawSample is a sample with a hash of its entry, by which copies of an entry
// are known. The hash is 0 if no other entry has its time.
type rawSample struct {
	metric.Sample
	hash uint64
}

func (c *cursor) Labels(n int) (labels.Labels, string) { return c.series[n].labels, c.series[n].failed }

func (c *cursor) Close() {
	if cap(c.content) <= keepBuffer && cap(c.data) <= keepBuffer {
		bufferPool.Put(c.buffers)
	}
	c.buffers = nil
}

// Next returns the next sample.
func (c *cursor) Next() (metric.Sample, bool, error) {
	if c.ordered {
		return c.nextOrdered()
	}
	for len(c.streams) > 0 {
		s := c.streams[0]
		ok, err := c.fill(s)
		if err != nil {
			return metric.Sample{}, false, err
		}
		if ok {
			s.pos++
			return s.samples[s.pos-1].Sample, true, nil
		}
		if c.streams = c.streams[1:]; len(c.streams) > 0 {
			c.streams[0].samples = s.samples[:0] // its memory is free now
		}
	}
	return metric.Sample{}, false, nil
}

// streamHeap has the stream with the earliest sample first.
type streamHeap []*streamSamples

func (h streamHeap) Len() int           { return len(h) }
func (h streamHeap) Less(i, j int) bool { return h[i].head().TS < h[j].head().TS }
func (h streamHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *streamHeap) Push(x any)        { *h = append(*h, x.(*streamSamples)) }
func (h *streamHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (s *streamSamples) head() *rawSample { return &s.samples[s.pos] }

func (c *cursor) nextOrdered() (metric.Sample, bool, error) {
	h := (*streamHeap)(&c.streams)
	if !c.begun {
		c.begun = true
		all := c.streams
		c.streams = nil
		for i, s := range all {
			c.unread = all[i+1:]
			ok, err := c.fill(s)
			if err != nil {
				return metric.Sample{}, false, err
			}
			if ok {
				heap.Push(h, s)
			}
		}
	}
	if len(c.streams) == 0 {
		return metric.Sample{}, false, nil
	}
	s := c.streams[0]
	out := s.head().Sample
	if c.hashes {
		c.current = origin{s.stream, s.head().hash}
	}
	s.pos++
	ok, err := c.fill(s)
	if err != nil {
		return metric.Sample{}, false, err
	}
	if ok {
		heap.Fix(h, 0)
	} else {
		heap.Pop(h)
	}
	return out, true, nil
}

// fill sees to it that the next sample is there and that no block can have an
// earlier one; false if there is none.
func (c *cursor) fill(s *streamSamples) (bool, error) {
	for len(s.blocks) > 0 && (s.pos == len(s.samples) || s.head().TS >= s.blocks[0].mint) {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		if err := c.read(s); err != nil {
			return false, err
		}
	}
	return s.pos < len(s.samples), nil
}

// read takes the samples of the next block.
func (c *cursor) read(s *streamSamples) error {
	b := s.blocks[0]
	s.blocks = s.blocks[1:]
	old := len(s.samples) - s.pos
	copy(s.samples, s.samples[s.pos:])
	s.samples, s.pos = s.samples[:old], 0
	// Copies of its entries can be in a block that overlaps with it.
	overlap := old > 0 || len(s.blocks) > 0 && s.blocks[0].mint <= b.maxt
	if err := c.block(s, &b, overlap); err != nil {
		return err
	}
	if old > 0 {
		slices.SortStableFunc(s.samples, func(a, b rawSample) int { return cmp.Compare(a.TS, b.TS) })
	}
	n := len(s.samples)
	s.samples = unique(s.samples)
	c.plan.stats[b.source].Duplicates += int64(n - len(s.samples))
	return nil
}

// coming gives the blocks that are likely to be read after the current one of s:
// the rest of the stream's, of which some are read at once if it has no samples,
// and those of the streams whose turn has not come.
func (c *cursor) coming(s *streamSamples) iter.Seq[chunk.BlockRef] {
	later := c.unread
	if !c.ordered {
		later = c.streams[1:]
	}
	return func(yield func(chunk.BlockRef) bool) {
		for ref := range refs(s.blocks) {
			if !yield(ref) {
				return
			}
		}
		for _, o := range later {
			for ref := range refs(o.blocks) {
				if !yield(ref) {
					return
				}
			}
		}
	}
}

// unique removes samples of which the entry is there before, at the same time.
func unique(s []rawSample) []rawSample {
	out := s[:0]
	first := 0 // of those in out that have the current time
	for _, x := range s {
		if len(out) == 0 || out[len(out)-1].TS != x.TS {
			first = len(out)
		}
		if x.hash == 0 || !slices.ContainsFunc(out[first:], func(o rawSample) bool { return o.hash == x.hash }) {
			out = append(out, x)
		}
	}
	return out
}

// block reads a block.
func (c *cursor) block(s *streamSamples, b *block, overlap bool) error {
	st := c.plan.stats[b.source]
	l, err := c.plan.load(b, c.content[:0], c.coming(s))
	if err != nil {
		return err
	}
	defer l.count(st, st.Lines)
	c.x.For(c.plan.streams[b.stream])
	r := blockSamples{cursor: c, stream: s, symbols: l.parts.Symbols(), overlap: overlap, stats: st}
	for i := range l.parts.Len() {
		p := l.parts.Info(i)
		if p.MaxT < c.from || p.MinT >= c.through {
			continue
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if c.content, r.hits, err = c.plan.part(b, &l, i, c.content[:0], c.x.Finder()); err != nil {
			return err
		}
		if r.hits.next < 0 {
			st.Lines += int64(p.Entries)
			continue
		}
		err := r.run()
		if err == nil && i+1 < l.parts.Len() {
			err = r.leave()
		}
		if err != nil {
			if errors.Is(err, chunk.ErrContent) {
				return c.plan.broken(b, err)
			}
			return err
		}
	}
	return nil
}

// blockSamples is the reading of one block.
type blockSamples struct {
	*cursor
	stream  *streamSamples
	symbols []string
	hits    hits // in the part that is read
	overlap bool
	stats   *SourceStats
	last    span // record of the last sample, if that is of this part
}

func (r *blockSamples) run() error {
	it := chunk.Entries(r.content)
	for n := 1; it.Next(); n++ {
		r.stats.Lines++
		if n%checkEvery == 0 && r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		if it.TS >= r.through {
			return nil
		}
		if !r.hits.in(it.Off+it.Len) || it.TS < r.from || !r.x.MatchLine(it.Line) {
			continue
		}
		v, series, ok, err := r.sample(&it)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		r.stats.Kept++
		if err := r.add(&it, v, series); err != nil {
			return err
		}
	}
	return it.Err()
}

// sample returns the sample of an entry. Where the stages change nothing, those
// without metadata are all of one series.
func (r *blockSamples) sample(it *chunk.EntryIter) (v float64, series int, ok bool, err error) {
	plain := r.x.Plain() && (it.NumPairs == 0 || r.x.NoLabels())
	if plain && r.stream.plain >= 0 {
		if r.bytes {
			return float64(len(it.Line)), r.stream.plain, true, nil
		}
		return 1, r.stream.plain, true, nil
	}
	r.x.Begin()
	if !plain {
		off := it.Off
		if err := addMeta(&r.x.Pipeline, it, r.symbols, off); err != nil {
			return 0, 0, false, err
		}
	}
	if v, ok = r.x.Sample(it.TS, it.Line); !ok {
		return 0, 0, false, nil
	}
	series = r.seriesOf()
	if plain {
		r.stream.plain = series
	}
	return v, series, true, nil
}

// seriesOf numbers the labels of the last sample.
func (c *cursor) seriesOf() int {
	ls, failed := c.x.Labels()
	key := c.key[:0]
	for _, l := range ls {
		key = appendText(appendText(key, l.Name), l.Value)
	}
	c.key = key
	n, ok := c.byKey[string(key)]
	if !ok {
		n = len(c.series)
		c.series = append(c.series, sampleSeries{labels: pipeline.Own(ls), failed: failed})
		c.byKey[string(key)] = n
	}
	return n
}

func (r *blockSamples) add(it *chunk.EntryIter, v float64, series int) error {
	x := rawSample{Sample: metric.Sample{TS: it.TS, Value: v, Series: series}}
	list := r.stream.samples
	tie := len(list) > 0 && list[len(list)-1].TS == it.TS
	if r.hashes {
		x.hash = r.lokiHash(series, it.Line)
	} else if r.overlap || tie {
		var err error
		if x.hash, err = r.hash(it, it.Off); err != nil {
			return err
		}
	}
	if tie {
		if err := r.hashLast(); err != nil {
			return err
		}
	}
	r.stream.samples, r.last = append(list, x), span{it.Off, it.Len}
	return nil
}

// hashLast gives the last sample its hash.
func (r *blockSamples) hashLast() error {
	if r.last.len == 0 {
		return nil
	}
	last := &r.stream.samples[len(r.stream.samples)-1]
	if last.hash != 0 {
		return nil
	}
	it := chunk.Entries(r.content[r.last.off : r.last.off+r.last.len])
	it.Next()
	var err error
	last.hash, err = r.hash(&it, r.last.off)
	return err
}

// leave ends the reading of a part that others follow: its memory is used for
// the next, whose first entry may have the time of its last.
func (r *blockSamples) leave() error {
	err := r.hashLast()
	r.last = span{}
	return err
}

// hash is one of an entry's line and metadata, never 0.
func (r *blockSamples) hash(it *chunk.EntryIter, off int) (uint64, error) {
	if it.NumPairs == 0 {
		return max(xxhash.Sum64(it.Line), 1), nil
	}
	data := append(r.data[:0], it.Line...)
	for i := range 2 * it.NumPairs {
		text, err := symbol(it, i, r.symbols, off)
		if err != nil {
			return 0, err
		}
		data = appendText(data, text)
	}
	r.data = data
	return max(xxhash.Sum64(data), 1), nil
}
