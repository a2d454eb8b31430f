// Package query answers Loki's read API: log queries, labels and series.
//
// # Sources
//
// An Engine reads from two Sources: the memory of the ingesters and the store.
// Memory is asked first, always. Data moves from memory to the store and
// leaves memory only when the store can show it, so what memory no longer had
// when it was asked is in the store when that is asked afterwards; the other
// order could miss what moves in between. What is in both is seen twice, which
// is why entries are deduplicated: of entries of one stream that are equal in
// time, line and structured metadata, one is shown. Streams are the same if
// their labels are, apart from __stream_shard__, which no answer shows.
//
// # Order
//
// Entries come out by time; at equal times by stream (its label text), then by
// age: what the store has before what memory has, block by block. An entry that
// is there more than once has the place of its first copy. Backward is the same
// from the end. A limit takes the first entries of that order (if it cuts
// through entries of one time, it may count an entry by another of its copies).
//
// # How a log query runs
//
// The engine keeps the best entries that it has met, at most as many as the
// limit, and visits blocks in the order of the best entry that each can hold.
// Once the collection is full, blocks that cannot better its worst entry are
// not loaded any more; nor are such parts of blocks that can be had in parts.
// They are loaded one at a time into one buffer, filters see the raw lines in
// it, and only an entry that enters the collection is copied: memory is bounded
// by the entries of the answer, however many streams and blocks overlap, and a
// line that does not match costs no allocation.
//
// Stages behind the line filters see an entry where it lies, too. What they make
// of it is thrown away: the entries that are chosen go through them once more.
//
// # How a metric query runs
//
// Package metric evaluates the expression step by step and asks for samples;
// cursor takes them from the blocks of one stream after the other, each block
// when its time comes. Of a block only its samples are kept, and those are given
// up when no other block can have one before them. Copies of an entry are known
// by a hash of line and metadata among those of one time.
//
// # Failures
//
// A block that cannot be loaded fails the query; nothing is left out silently.
// The context is checked between blocks and within large ones.
//
// An Engine and a Handler are safe for concurrent use. The only goroutines that
// are started read from the clients of tails; Handler.Close ends them.
package query

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/level"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/query/pipeline"
	"github.com/loki-go/loki-go/storage/chunk"
)

// Source is where entries are. Times are ns, from inclusive, through
// exclusive. No matchers select every stream.
type Source interface {
	// Select returns the streams that match, with the blocks that may hold
	// entries in the range. A stream may be returned in several parts. Blocks
	// must stay loadable for as long as the query runs, even if they move.
	Select(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error)
	// LabelSets returns the streams that may have entries in the range.
	LabelSets(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]labels.Labels, error)
}

// Config are the settings of an Engine.
type Config struct {
	MaxConcurrent  int   `yaml:"max-concurrent" help:"queries that run at a time; others wait"`
	MaxResultBytes int64 `yaml:"max-result-bytes" help:"lines and metadata that one query may return, in bytes"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{MaxConcurrent: 16, MaxResultBytes: 256 << 20} }

// Validate returns all problems.
func (c Config) Validate() []error {
	var errs []error
	if c.MaxConcurrent <= 0 {
		errs = append(errs, fmt.Errorf("max-concurrent: %d is not positive", c.MaxConcurrent))
	}
	if c.MaxResultBytes <= 0 {
		errs = append(errs, fmt.Errorf("max-result-bytes: %d is not positive", c.MaxResultBytes))
	}
	return errs
}

// Limits are a tenant's limits, by Loki's names; 0 means none.
type Limits struct {
	MaxEntries     int           `yaml:"max-entries-limit-per-query" help:"entries that one log query may ask for (0: any number)"`
	MaxQueryLength time.Duration `yaml:"max-query-length" help:"longest time range of a query (0: any)"`
	MaxQueryRange  time.Duration `yaml:"max-query-range" help:"longest interval of a metric query, as in rate({}[1h]) (0: any)"`
	MaxQuerySeries int           `yaml:"max-query-series" help:"series that a metric query may return (0: any number)"`
	QueryTimeout   time.Duration `yaml:"query-timeout" help:"time after which a query is given up (0: never)"`
	Levels         level.Config  `yaml:"-"` // whether entries have detected_level
}

// DefaultLimits returns Loki's defaults.
func DefaultLimits() Limits {
	return Limits{MaxEntries: 5000, MaxQueryLength: 721 * time.Hour, MaxQuerySeries: 500, QueryTimeout: time.Minute, Levels: level.DefaultConfig()}
}

// Validate returns all problems.
func (l Limits) Validate() []error {
	var errs []error
	if l.MaxEntries < 0 {
		errs = append(errs, fmt.Errorf("max-entries-limit-per-query: %d is negative", l.MaxEntries))
	}
	if l.MaxQueryLength < 0 {
		errs = append(errs, fmt.Errorf("max-query-length: %v is negative", l.MaxQueryLength))
	}
	if l.MaxQueryRange < 0 {
		errs = append(errs, fmt.Errorf("max-query-range: %v is negative", l.MaxQueryRange))
	}
	if l.MaxQuerySeries < 0 {
		errs = append(errs, fmt.Errorf("max-query-series: %d is negative", l.MaxQuerySeries))
	}
	if l.QueryTimeout < 0 {
		errs = append(errs, fmt.Errorf("query-timeout: %v is negative", l.QueryTimeout))
	}
	return errs
}

// Deps is what an Engine needs.
type Deps struct {
	Memory, Store Source                     // nil: there is none
	Limits        func(tenant string) Limits // nil: DefaultLimits
	Metrics       prometheus.Registerer      // nil: none
}

// RequestError is an error of the one who asks.
type RequestError struct {
	Msg   string
	cause error
}

func (e *RequestError) Error() string { return e.Msg }
func (e *RequestError) Unwrap() error { return e.cause }

func badRequest(format string, args ...any) error {
	return &RequestError{Msg: fmt.Sprintf(format, args...)}
}

// Engine runs queries.
type Engine struct {
	cfg     Config
	deps    Deps
	slots   chan struct{}
	metrics *metrics
}

// New returns an engine.
func New(deps Deps, cfg Config) (*Engine, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("query: %w", errors.Join(errs...))
	}
	if deps.Limits == nil {
		deps.Limits = func(string) Limits { return DefaultLimits() }
	}
	return &Engine{cfg: cfg, deps: deps, slots: make(chan struct{}, cfg.MaxConcurrent), metrics: newMetrics(deps.Metrics)}, nil
}

// Direction is the order of entries.
type Direction uint8

// Directions.
const (
	Forward Direction = iota
	Backward
)

// Request is a log query.
type Request struct {
	Tenant        string
	Query         *logql.LogQuery
	From, Through int64 // ns; from inclusive, through exclusive
	Limit         int
	Direction     Direction
	Interval      time.Duration // least distance between entries; 0: any
}

// Entry is a line of an answer.
type Entry struct {
	TS     int64
	Stream int // number in Result.Streams
	Line   []byte
	Meta   Pairs
	Labels int // number in Result.Labels
}

// EntryLabels are the labels of an entry by where they are from, as the stages
// of the query left them. Each part is sorted by name.
type EntryLabels struct {
	Stream, Meta, Parsed labels.Labels
}

// Result is the answer to a log query: entries in the order asked for.
type Result struct {
	Streams []labels.Labels // of the selected streams, sorted by their text
	Labels  []EntryLabels   // of the entries
	Entries []Entry
	Stats   Stats
}

// Stats say what a query cost.
type Stats struct {
	Memory, Store SourceStats
	Exec, Queue   time.Duration
	Entries       int
}

func (s *Stats) sources() [2]*SourceStats { return [2]*SourceStats{&s.Memory, &s.Store} }

// SourceStats is what a query took from one source.
type SourceStats struct {
	Asked        bool
	Select       time.Duration
	Load         time.Duration
	Blocks       int // that overlap the range
	BlocksLoaded int
	Bytes        int64 // uncompressed, of loaded blocks
	Lines        int64
	MetaBytes    int64 // of the entries that passed the filters
	Kept         int64 // lines that passed the filters
	Duplicates   int64
}

// streamShard is the label by which Loki spreads a stream over several.
const streamShard = "__stream_shard__"

// Run executes a log query. Errors are *RequestError, an error of the context,
// or what a source reported.
func (e *Engine) Run(ctx context.Context, r Request) (*Result, error) {
	if most := e.deps.Limits(r.Tenant).MaxEntries; most > 0 && r.Limit > most {
		return nil, badRequest("max entries limit per query exceeded, limit > max_entries_limit_per_query (%d > %d)", r.Limit, most)
	}
	return e.runAny(ctx, r)
}

// runAny is Run for any number of entries.
func (e *Engine) runAny(ctx context.Context, r Request) (*Result, error) {
	return again(ctx, func() (*Result, error) { return e.run(ctx, r) })
}

func (e *Engine) run(ctx context.Context, r Request) (*Result, error) {
	lim := e.deps.Limits(r.Tenant)
	if r.Limit <= 0 {
		return nil, badRequest("limit must be a positive value")
	}
	if err := checkLength(lim, r.From, r.Through); err != nil {
		return nil, err
	}
	pipe, err := pipeline.New(r.Query.Stages)
	if err != nil {
		return nil, err
	}
	pipe.Detect(lim.Levels)
	ctx, release, waited, err := e.begin(ctx, lim)
	if err != nil {
		return nil, err
	}
	defer release()
	start := time.Now()
	res := &Result{}
	res.Stats.Queue = waited
	p := plan{backward: r.Direction == Backward, stats: res.Stats.sources(), filter: logFilter(r.Query, lim.Levels)}
	if err := e.selectBlocks(ctx, &p, r.Tenant, r.Query.Matchers, r.From, r.Through); err != nil {
		return nil, err
	}
	res.Streams = p.streams
	s := newScan(&p, pipe, e.cfg.MaxResultBytes)
	defer s.free()
	if res.Entries, err = s.run(ctx, r); err != nil {
		return nil, err
	}
	pipe.Decide(false)
	res.finish(pipe)
	res.Stats.Exec, res.Stats.Entries = time.Since(start), len(res.Entries)
	e.metrics.done(&res.Stats)
	return res, nil
}

// finish makes the lines and labels that are shown. The entries that were chosen
// go through the pipeline once more: a query keeps what its stages made for
// these only.
func (r *Result) finish(pipe *pipeline.Pipeline) {
	bySource := map[string]int{} // stream, metadata and level; of simple pipelines
	byText := map[string]int{}
	last := -1
	begin := func(e *Entry) {
		if e.Stream != last {
			pipe.For(r.Streams[e.Stream])
			last = e.Stream
		}
		pipe.Begin()
		e.addMeta(pipe)
	}
	var id []byte
	for _, i := range r.byStream() {
		e := &r.Entries[i]
		if pipe.Simple() {
			id = binary.LittleEndian.AppendUint32(id[:0], uint32(e.Stream))
			if pipe.Detects() {
				begin(e)
				id = appendText(id, pipe.Level(e.Line))
			}
			id = append(id, e.Meta...)
			if n, ok := bySource[string(id)]; ok {
				e.Labels = n
				continue
			}
		}
		if !pipe.Simple() || !pipe.Detects() {
			begin(e)
		}
		if pipe.Match(e.TS, e.Line) && !pipe.Simple() {
			e.Line = bytes.Clone(pipe.Line())
		}
		var l EntryLabels
		l.Stream, l.Meta, l.Parsed = pipe.Result()
		if pipe.Simple() {
			e.Labels = len(r.Labels)
			r.Labels, bySource[string(id)] = append(r.Labels, l), e.Labels
			continue
		}
		id = l.Stream.AppendString(id[:0])
		id = l.Meta.AppendString(id)
		id = l.Parsed.AppendString(id)
		n, ok := byText[string(id)]
		if !ok {
			n = len(r.Labels)
			r.Labels, byText[string(id)] = append(r.Labels, l), n
		}
		e.Labels = n
	}
}

// byStream returns the indices of the entries, those of a stream together: to take
// a pipeline to a stream costs more than an entry does.
func (r *Result) byStream() []int {
	out := make([]int, len(r.Entries))
	for i := range out {
		out[i] = i
	}
	slices.SortStableFunc(out, func(a, b int) int { return cmp.Compare(r.Entries[a].Stream, r.Entries[b].Stream) })
	return out
}

// addMeta hands a pipeline the metadata of an entry.
func (e *Entry) addMeta(pipe *pipeline.Pipeline) {
	for p := e.Meta; ; {
		name, value, ok := p.Next()
		if !ok {
			return
		}
		if len(value) > 0 {
			// The entry owns the bytes, and nothing changes them any more.
			pipe.Meta(unsafe.String(unsafe.SliceData(name), len(name)), unsafe.String(unsafe.SliceData(value), len(value)))
		}
	}
}

// begin waits for a slot and starts the clock of the query's timeout.
func (e *Engine) begin(ctx context.Context, lim Limits) (_ context.Context, release func(), waited time.Duration, err error) {
	cancel := func() {}
	if lim.QueryTimeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, lim.QueryTimeout)
	}
	start := time.Now()
	select {
	case e.slots <- struct{}{}:
	case <-ctx.Done():
		cancel()
		return nil, nil, 0, ctx.Err()
	}
	return ctx, func() { <-e.slots; cancel() }, time.Since(start), nil
}

// checkLength applies max_query_length.
func checkLength(lim Limits, from, through int64) error {
	if lim.MaxQueryLength <= 0 || through <= from {
		return nil
	}
	length := uint64(through) - uint64(from) // does not overflow, unlike the difference
	if length <= uint64(lim.MaxQueryLength) {
		return nil
	}
	return badRequest("the query time range exceeds the limit (query length: %s, limit: %s)",
		time.Duration(min(length, math.MaxInt64)).Truncate(time.Millisecond), logql.FormatDuration(lim.MaxQueryLength))
}

// plan is what is to be read.
type plan struct {
	backward bool
	filter   string // for sources in other processes; "": none
	streams  []labels.Labels
	blocks   []block
	stats    [2]*SourceStats // memory, store
}

// block is a block and its place in the order of entries.
type block struct {
	ref        chunk.BlockRef
	mint, maxt int64
	stream     uint32 // number in plan.streams
	seq        uint32 // among the blocks of the stream, by age
	source     uint8  // index in plan.stats
}

// selectBlocks asks the sources, memory first (see the package comment).
func (e *Engine) selectBlocks(ctx context.Context, p *plan, tenant string, ms []*labels.Matcher, from, through int64) error {
	if from >= through {
		return nil
	}
	numbers := map[string]uint32{}
	var texts []string
	for i, src := range []Source{e.deps.Memory, e.deps.Store} {
		if src == nil {
			continue
		}
		start := time.Now()
		var series []chunk.Series
		var err error
		if f, ok := src.(FilteringSource); ok && p.filter != "" {
			series, err = f.SelectFiltered(ctx, tenant, ms, from, through, p.filter)
		} else {
			series, err = src.Select(ctx, tenant, ms, from, through)
		}
		if err != nil {
			return err
		}
		p.stats[i].Asked = true
		p.stats[i].Select += time.Since(start)
		for _, s := range series {
			ls := visible(s.Labels)
			text := ls.String()
			n, ok := numbers[text]
			if !ok {
				n = uint32(len(p.streams))
				numbers[text] = n
				p.streams, texts = append(p.streams, ls), append(texts, text)
			}
			p.add(s.Blocks, n, uint8(i), from, through)
		}
	}
	p.order(texts)
	return nil
}

// visible returns ls without the label that no answer shows.
func visible(ls labels.Labels) labels.Labels {
	if ls.Get(streamShard) == "" {
		return ls
	}
	out := make(labels.Labels, 0, len(ls)-1)
	for _, l := range ls {
		if l.Name != streamShard {
			out = append(out, l)
		}
	}
	return out
}

func (p *plan) add(refs []chunk.BlockRef, stream uint32, source uint8, from, through int64) {
	for _, ref := range refs {
		mint, maxt := ref.Bounds()
		if maxt < from || mint >= through {
			continue
		}
		p.stats[source].Blocks++
		p.blocks = append(p.blocks, block{ref: ref, mint: mint, maxt: maxt, stream: stream, source: source})
	}
}

// order numbers streams by their text, and blocks within a stream by age: the
// store's before those in memory, then by time.
func (p *plan) order(texts []string) {
	perm := make([]int, len(texts))
	for i := range perm {
		perm[i] = i
	}
	sort.Slice(perm, func(i, j int) bool { return texts[perm[i]] < texts[perm[j]] })
	streams, rank := make([]labels.Labels, len(texts)), make([]uint32, len(texts))
	for i, old := range perm {
		streams[i], rank[old] = p.streams[old], uint32(i)
	}
	p.streams = streams
	for i := range p.blocks {
		p.blocks[i].stream = rank[p.blocks[i].stream]
	}
	slices.SortStableFunc(p.blocks, func(a, b block) int {
		return cmp.Or(cmp.Compare(a.stream, b.stream), cmp.Compare(b.source, a.source), cmp.Compare(a.mint, b.mint), cmp.Compare(a.maxt, b.maxt))
	})
	for i := 1; i < len(p.blocks); i++ {
		if p.blocks[i].stream == p.blocks[i-1].stream {
			p.blocks[i].seq = p.blocks[i-1].seq + 1
		}
	}
}

// LabelSets returns the label sets of all streams that satisfy one of the
// selectors (no selector at all: every stream), sorted by their text.
func (e *Engine) LabelSets(ctx context.Context, tenant string, selectors [][]*labels.Matcher, from, through int64) ([]labels.Labels, error) {
	lim := e.deps.Limits(tenant)
	if err := checkLength(lim, from, through); err != nil {
		return nil, err
	}
	ctx, release, _, err := e.begin(ctx, lim)
	if err != nil {
		return nil, err
	}
	defer release()
	if len(selectors) == 0 {
		selectors = [][]*labels.Matcher{nil}
	}
	seen := map[string]labels.Labels{}
	for _, src := range []Source{e.deps.Memory, e.deps.Store} {
		if src == nil || from >= through {
			continue
		}
		for _, ms := range selectors {
			sets, err := src.LabelSets(ctx, tenant, ms, from, through)
			if err != nil {
				return nil, err
			}
			for _, ls := range sets {
				ls = visible(ls)
				seen[ls.String()] = ls
			}
		}
	}
	texts := make([]string, 0, len(seen))
	for t := range seen {
		texts = append(texts, t)
	}
	sort.Strings(texts)
	out := make([]labels.Labels, len(texts))
	for i, t := range texts {
		out[i] = seen[t]
	}
	return out, nil
}
