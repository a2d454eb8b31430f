package query

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/loki-go/loki-go/internal/find"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/level"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/query/pipeline"
	"github.com/loki-go/loki-go/storage/chunk"
)

// FilteringSource is a Source in another process, which spares the network what
// a query would throw away. Filter is for NewFilter; the blocks that are
// returned may be chunk.FilteredRef.
type FilteringSource interface {
	Source
	SelectFiltered(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64, filter string) ([]chunk.Series, error)
}

// maxFilter is the longest LogQL, in bytes, that a query is sent with: what a
// parser takes. maxSent is the longest filter, which has it as JSON.
const (
	maxFilter = 128 << 10
	maxSent   = 1 << 20
)

// anyStream is the selector of a filter, which has to have one and does not use
// it.
var anyStream = func() []*labels.Matcher {
	m, err := labels.NewMatcher(labels.MatchEqual, "stream", "any")
	if err != nil {
		panic(err)
	}
	return []*labels.Matcher{m}
}()

// sentFilter is what a filter is, as JSON. Those who do not know a field, which
// may change what a query keeps, do not apply the filter.
type sentFilter struct {
	Query  string      `json:"query"`            // LogQL
	Levels *sentLevels `json:"levels,omitempty"` // nil: the query keeps the same whatever levels entries have
}

// sentLevels is how the levels of entries are found.
type sentLevels struct {
	Fields    []string `json:"fields,omitempty"`
	JSONDepth int      `json:"json_depth,omitempty"`
}

// logFilter returns the filter of a log query, "" if it is too long for one.
func logFilter(q *logql.LogQuery, levels level.Config) string {
	if onlyLines(q.Stages) {
		levels.Discover = false
	}
	return encodeFilter(&logql.LogQuery{Matchers: anyStream, Stages: q.Stages}, q.Stages, levels)
}

// sampleFilter returns that of a range aggregation, of which outer is a sum's
// grouping around it. What is left out depends on both, see pipeline.Extractor.
func sampleFilter(a *logql.RangeAggregation, outer *logql.Grouping, levels level.Config) string {
	inner, logs := *a, *a.Range
	logs.Query = &logql.LogQuery{Matchers: anyStream, Stages: a.Range.Query.Stages}
	inner.Range = &logs
	var e fmt.Stringer = &inner
	if outer != nil {
		e = &logql.VectorAggregation{Op: "sum", Grouping: *outer, Inner: &inner}
	}
	if a.Range.Unwrap == nil && onlyLines(a.Range.Query.Stages) {
		levels.Discover = false
	}
	return encodeFilter(e, a.Range.Query.Stages, levels)
}

func encodeFilter(e fmt.Stringer, stages []logql.Stage, levels level.Config) string {
	f := sentFilter{Query: e.String()}
	valid := utf8.ValidString(f.Query)
	if levels.Discover && seesLevels(f.Query, stages) {
		f.Levels = &sentLevels{Fields: levels.Fields, JSONDepth: levels.JSONDepth}
		for _, name := range levels.Fields {
			valid = valid && utf8.ValidString(name)
		}
	}
	b, err := json.Marshal(f)
	if err != nil || len(f.Query) > maxFilter || len(b) > maxSent || !valid {
		return "" // JSON and messages have UTF-8 alone
	}
	return string(b)
}

// onlyLines reports whether lines alone decide what is kept.
func onlyLines(stages []logql.Stage) bool {
	return !slices.ContainsFunc(stages, func(st logql.Stage) bool {
		_, ok := st.(*logql.LineFilters)
		return !ok
	})
}

// wholeDot is in templates that may look at labels that they do not name: all of
// them, which are a dot or a dollar, stand there by themselves.
var wholeDot = regexp.MustCompile(`[.](?:[^a-zA-Z_]|$)|[$](?:[^a-zA-Z_.]|$)`)

// seesLevels reports whether what a query keeps may depend on the levels that its
// entries get: whether it names their label, or goes through all labels. It may
// say so of queries that do neither; an ingester of before does not filter them.
func seesLevels(query string, stages []logql.Stage) bool {
	if strings.Contains(query, level.Label) {
		return true
	}
	return slices.ContainsFunc(stages, func(st logql.Stage) bool {
		switch st := st.(type) {
		case *logql.LineFormat:
			return wholeDot.MatchString(st.Template)
		case *logql.LabelFormat:
			return slices.ContainsFunc(st.Formats, func(f logql.Format) bool { return wholeDot.MatchString(f.Value) })
		}
		return false
	})
}

// Filter leaves out of blocks the entries of which a query makes nothing: what
// the stages of its pipeline drop, and what is outside of its range. The others
// stay as they are, to go through the whole query where it runs; so what the
// filter keeps without need does no harm. It serves one goroutine.
type Filter struct {
	pipe          *pipeline.Pipeline
	x             *pipeline.Extractor // of metric queries
	lines         bool                // line filters decide alone
	all           bool                // so do times
	from, through int64
	content       []byte // of the block that is being read
	symbols       renumbering
}

// NewFilter compiles what logFilter or sampleFilter returned, for [from, through)
// in ns. Errors are *logql.ParseError.
func NewFilter(filter string, from, through int64) (*Filter, error) {
	var sent sentFilter
	if len(filter) > maxSent {
		return nil, &logql.ParseError{Msg: fmt.Sprintf("a filter of more than %d bytes", maxSent)}
	}
	d := json.NewDecoder(strings.NewReader(filter))
	d.DisallowUnknownFields()
	if err := d.Decode(&sent); err != nil {
		return nil, &logql.ParseError{Msg: "a filter that is none: " + err.Error()}
	}
	e, err := logql.Parse(sent.Query)
	if err != nil {
		return nil, err
	}
	f := &Filter{from: from, through: through}
	var outer *logql.Grouping
	if v, ok := e.(*logql.VectorAggregation); ok && v.Op == "sum" {
		outer, e = &v.Grouping, v.Inner
	}
	switch e := e.(type) {
	case *logql.LogQuery:
		if f.pipe, err = pipeline.New(e.Stages); err != nil {
			return nil, err
		}
		f.pipe.Decide(true)
		f.lines, f.all = f.pipe.Simple(), len(e.Stages) == 0
	case *logql.RangeAggregation:
		if f.x, err = pipeline.NewExtractor(e, outer); err != nil {
			return nil, err
		}
		f.pipe = &f.x.Pipeline
		f.lines = f.pipe.Simple() && e.Range.Unwrap == nil
		f.all = f.lines && len(e.Range.Query.Stages) == 0
	default:
		return nil, &logql.ParseError{Msg: fmt.Sprintf("%T is no filter", e)}
	}
	if l := sent.Levels; l != nil {
		f.pipe.Detect(level.Config{Discover: true, Fields: l.Fields, JSONDepth: l.JSONDepth})
	}
	return f, nil
}

// Load appends to dst the entries of a block of a stream that the query has a
// use for. The symbols are valid until the next call.
func (f *Filter) Load(dst []byte, stream labels.Labels, ref chunk.BlockRef) (chunk.Filtered, error) {
	if mint, maxt := ref.Bounds(); f.all && f.from <= mint && maxt < f.through {
		content, symbols, err := ref.Load(dst)
		return chunk.Filtered{Content: content, Symbols: symbols, Whole: true}, err
	}
	content, symbols, err := ref.Load(f.content[:0])
	if err != nil {
		return chunk.Filtered{}, err
	}
	f.content = content
	out := chunk.Filtered{Content: dst, Bytes: int64(len(content)), Entries: int64(ref.NumEntries())}
	hits := newHits(content, f.pipe.Finder())
	if hits.next < 0 {
		return out, nil
	}
	if !f.lines {
		f.pipe.For(visible(stream))
	}
	f.symbols.begin(symbols)
	it := chunk.Entries(content)
	for out.Entries = 0; it.Next() && it.TS < f.through; out.Entries++ {
		if !hits.in(it.Off+it.Len) || it.TS < f.from || !f.pipe.MatchLine(it.Line) {
			continue
		}
		ok, err := f.stages(&it, symbols)
		if err != nil {
			return chunk.Filtered{}, err
		}
		if !ok {
			continue
		}
		if it.NumPairs == 0 {
			out.Content = append(out.Content, content[it.Off:it.Off+it.Len]...)
			continue
		}
		refs, err := f.symbols.of(&it)
		if err != nil {
			return chunk.Filtered{}, err
		}
		out.Content = chunk.AppendEntry(out.Content, it.TS, it.Line, refs)
	}
	out.Symbols = f.symbols.used
	return out, it.Err()
}

// stages runs what is behind the line filters.
func (f *Filter) stages(it *chunk.EntryIter, symbols []string) (bool, error) {
	if f.lines {
		return true, nil
	}
	f.pipe.Begin()
	if err := addMeta(f.pipe, it, symbols, it.Off); err != nil {
		return false, err
	}
	if f.x == nil {
		return f.pipe.Match(it.TS, it.Line), nil
	}
	_, ok := f.x.Sample(it.TS, it.Line)
	return ok, nil
}

// renumbering numbers those symbols of a block that are in use.
type renumbering struct {
	symbols []string
	used    []string
	number  []uint32 // by symbol: 1 + its number in used; 0: not in use
	touched []uint32 // symbols in use
	refs    []uint32
}

func (r *renumbering) begin(symbols []string) {
	for _, n := range r.touched {
		r.number[n] = 0
	}
	r.symbols, r.used, r.touched = symbols, r.used[:0], r.touched[:0]
	if len(r.number) < len(symbols) {
		r.number = make([]uint32, len(symbols))
	}
}

// of returns the references of an entry.
func (r *renumbering) of(it *chunk.EntryIter) ([]uint32, error) {
	r.refs = r.refs[:0]
	for i := range 2 * it.NumPairs {
		text, err := symbol(it, i, r.symbols, it.Off)
		if err != nil {
			return nil, err
		}
		n := &r.number[it.Sym(i)]
		if *n == 0 {
			r.touched = append(r.touched, it.Sym(i))
			r.used = append(r.used, text)
			*n = uint32(len(r.used))
		}
		r.refs = append(r.refs, *n-1)
	}
	return r.refs, nil
}

// loaded is a block that can be read.
type loaded struct {
	parts   chunk.Parts
	lines   int64 // that were looked at elsewhere; -1: none
	counted bool  // in the statistics, as bytes that were read
}

// load prepares the reading of a block, for which dst is free. Next are the
// blocks whose turn is then.
func (p *plan) load(b *block, dst []byte, next iter.Seq[chunk.BlockRef]) (loaded, error) {
	st := p.stats[b.source]
	start := time.Now()
	l := loaded{lines: -1}
	var err error
	switch ref := b.ref.(type) {
	case chunk.FilteredRef:
		var f chunk.Filtered
		f, err = ref.LoadFiltered(dst, next)
		l.parts, l.counted = &onePart{b, f.Content, f.Symbols}, true
		if f.Whole {
			st.Bytes += int64(len(f.Content))
		} else {
			st.Bytes, l.lines = st.Bytes+f.Bytes, f.Entries
		}
	case chunk.PartedRef:
		l.parts, err = ref.Parts()
	default:
		one := &onePart{block: b}
		one.content, one.symbols, err = ref.Load(dst)
		l.parts = one
	}
	st.Load += time.Since(start)
	if err != nil {
		return l, p.broken(b, err)
	}
	st.BlocksLoaded++
	return l, nil
}

// part loads part i of b into dst and returns it with the places of a text.
func (p *plan) part(b *block, l *loaded, i int, dst []byte, text *find.Finder) ([]byte, hits, error) {
	st := p.stats[b.source]
	start := time.Now()
	content, at, err := l.parts.Load(i, dst, text)
	st.Load += time.Since(start)
	if err != nil {
		return dst, hits{}, p.broken(b, err)
	}
	if !l.counted {
		st.Bytes += int64(len(content))
	}
	return content, hits{text.Places(content, at), at}, nil
}

// onePart is a block that was loaded in one piece.
type onePart struct {
	block   *block
	content []byte
	symbols []string
}

func (p *onePart) Len() int          { return 1 }
func (p *onePart) Symbols() []string { return p.symbols }

func (p *onePart) Info(int) chunk.PartInfo {
	return chunk.PartInfo{MinT: p.block.mint, MaxT: p.block.maxt, Entries: p.block.ref.NumEntries()}
}

// Load returns the content without a copy.
func (p *onePart) Load(_ int, _ []byte, text *find.Finder) ([]byte, int, error) {
	return p.content, text.Index(p.content), nil
}

// count counts the lines of the block where before have been counted, and those
// that the query saw of it have been added.
func (l *loaded) count(st *SourceStats, before int64) {
	if l.lines >= 0 {
		st.Lines = before + l.lines
	}
}

// refs gives the blocks.
func refs(blocks []block) iter.Seq[chunk.BlockRef] {
	return func(yield func(chunk.BlockRef) bool) {
		for i := range blocks {
			if !yield(blocks[i].ref) {
				return
			}
		}
	}
}
