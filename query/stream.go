package query

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/query/metric"
)

// The methods of this file are for those who pass on what is found as they get
// it: their answers are of any length.

// On returns an engine that reads from one source alone, with the settings, slots
// and metrics of e. It gives entries as they are, without detected_level unless
// it is stored: who gets them may read others, or copies of them, elsewhere.
func (e *Engine) On(memory Source) *Engine {
	out := *e
	out.deps.Memory, out.deps.Store = memory, nil
	out.deps.Limits = func(tenant string) Limits {
		l := e.deps.Limits(tenant)
		l.Levels.Discover = false
		return l
	}
	return &out
}

// page is how many entries of a long answer are in memory at a time.
const page = 2048

// Pages calls f with the entries of a log query, in order, some at a time. A
// limit of 0 means all of them; the tenant's limit of entries is for those who
// want an answer in one piece, and does not apply. Errors are those of Run and of
// f, which owns the result.
func (e *Engine) Pages(ctx context.Context, r Request, f func(*Result) error) error {
	size, left := page, r.Limit
	edge := pageEdge{backward: r.Direction == Backward, sent: map[string]int{}}
	for {
		want := size
		if r.Limit > 0 {
			want = min(want, left)
		}
		next := r
		next.Limit = want + edge.n
		res, err := e.runAny(ctx, next)
		if errors.Is(err, errTooLarge) && want > 1 {
			size = want / 2 // long lines
			continue
		}
		if err != nil {
			return err
		}
		more := len(res.Entries) == next.Limit
		edge.pass(res)
		left -= len(res.Entries)
		if len(res.Entries) > 0 || !more {
			if err := f(res); err != nil {
				return err
			}
		}
		if !more || r.Limit > 0 && left <= 0 {
			return nil
		}
		if edge.backward {
			r.Through = edge.ts + 1
		} else {
			r.From = edge.ts
		}
	}
}

// pageEdge is the time with which a page ends and the next one begins: of the
// entries that have it, those that have been sent are left out.
type pageEdge struct {
	backward bool
	ts       int64
	sent     map[string]int // entries of that time, as texts
	n        int            // how many
}

// pass removes from a page what has been sent, and notes what is at its end.
func (p *pageEdge) pass(r *Result) {
	if len(r.Entries) == 0 {
		return
	}
	last := r.Entries[len(r.Entries)-1].TS
	again := map[string]int{}
	for i := range r.Entries {
		if e := &r.Entries[i]; e.TS == last {
			again[r.identity(e)]++
		}
	}
	if p.n > 0 {
		left, ts := maps.Clone(p.sent), p.ts
		r.Entries = slices.DeleteFunc(r.Entries, func(e Entry) bool {
			if e.TS != ts {
				return false
			}
			id := r.identity(&e)
			left[id]--
			return left[id] >= 0
		})
	}
	if last != p.ts {
		clear(p.sent)
		p.n = 0
	}
	p.ts = last
	for id, n := range again {
		p.n += max(p.sent[id], n) - p.sent[id]
		p.sent[id] = max(p.sent[id], n)
	}
}

// identity is the stream, the labels and the line of an entry.
func (r *Result) identity(e *Entry) string {
	id := r.Streams[e.Stream].AppendString(nil)
	id = r.Labels[e.Labels].Parsed.AppendString(id)
	id = append(append(id, e.Meta...), 0xff)
	return string(append(id, e.Line...))
}

// All returns the labels of an entry together, sorted by name.
func (l *EntryLabels) All() labels.Labels {
	if len(l.Meta)+len(l.Parsed) == 0 {
		return l.Stream
	}
	ls := slices.Concat(l.Stream, l.Meta, l.Parsed)
	ls.Sort()
	return ls
}

// SampleRequest asks for the samples that a metric query is computed from.
type SampleRequest struct {
	Tenant        string
	Query         logql.Expr // has one range aggregation, to which others may be applied
	From, Through int64      // ns; from inclusive, through exclusive
}

// OneSample is a sample of an entry.
type OneSample struct {
	TS     int64 // ns
	Value  float64
	Labels string // of its series, as text
	Hash   uint64 // of the entry among those of its time, by Loki's rule
	Stream uint64 // fingerprint of the entry's stream
}

// Samples calls f with samples in order of time. An error of f ends it.
func (e *Engine) Samples(ctx context.Context, r SampleRequest, f func(OneSample) error) (Stats, error) {
	a, outer, err := aggregation(r.Query)
	if err != nil {
		return Stats{}, err
	}
	lim := e.deps.Limits(r.Tenant)
	if err := checkLength(lim, r.From, r.Through); err != nil {
		return Stats{}, err
	}
	ctx, release, waited, err := e.begin(ctx, lim)
	if err != nil {
		return Stats{}, err
	}
	defer release()
	if r.From >= r.Through {
		return Stats{}, nil
	}
	stats := Stats{Queue: waited}
	c, err := e.open(ctx, r.Tenant, metric.Selection{
		Aggregation: a, Outer: outer, From: max(r.From, math.MinInt64+1) - 1, Through: r.Through - 1, Ordered: true,
	}, &stats)
	if err != nil {
		return stats, err
	}
	defer c.Close()
	c.hashes = true
	fingerprints := make([]uint64, len(c.plan.streams))
	for i, ls := range c.plan.streams {
		fingerprints[i] = ls.Fingerprint()
	}
	for {
		x, ok, err := c.Next()
		if err != nil {
			return stats, err
		}
		if !ok {
			e.metrics.done(&stats)
			return stats, nil
		}
		stats.Entries++
		err = f(OneSample{TS: x.TS, Value: x.Value, Labels: c.text(x.Series), Hash: c.current.hash, Stream: fingerprints[c.current.stream]})
		if err != nil {
			return stats, err
		}
	}
}

// text returns the labels of a series as text.
func (c *cursor) text(n int) string {
	s := &c.series[n]
	if s.text == "" {
		s.text = s.labels.String()
	}
	return s.text
}

// lokiHash is the hash of a sample by which Loki knows its copies: of the labels
// of its series, a colon, and the line.
func (c *cursor) lokiHash(series int, line []byte) uint64 {
	c.data = append(append(append(c.data[:0], c.text(series)...), ':'), line...)
	return xxhash.Sum64(c.data)
}

// aggregation returns the range aggregation of an expression, and the grouping of
// a sum around it that does not need the series one by one.
func aggregation(e logql.Expr) (*logql.RangeAggregation, *logql.Grouping, error) {
	switch e := e.(type) {
	case *logql.RangeAggregation:
		return e, nil, nil
	case *logql.VectorAggregation:
		if r, ok := e.Inner.(*logql.RangeAggregation); ok && e.Op == "sum" && r.Grouping == nil && metric.Sums(r.Op) {
			return r, &e.Grouping, nil
		}
		return aggregation(e.Inner)
	case *logql.LabelReplace:
		return aggregation(e.Inner)
	}
	return nil, nil, badRequest("samples are of one range aggregation, as in sum(rate({...}[1m])); not of %s", e)
}
