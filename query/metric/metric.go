// Package metric evaluates the metric queries of LogQL.
//
// Eval computes the value of an expression at every step of a range, one step
// after the other. The leaves of an expression are range aggregations, which
// get their samples from a Cursor that the caller opens. Where the order of
// samples does not matter (counts, bytes, extremes, the first and the last), a
// cursor gives them stream by stream, and what is kept is a cell for each series
// and step in which it has samples. Where it does (sums of fractions, quantiles
// and others), samples come in order of time, and those of the current window
// are kept. Either way memory is counted, and a query that needs too much fails.
//
// An interval begins behind its start and ends with its end: at t, [1m] is what
// is later than t-1m and not later than t.
package metric

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
)

// Sample is a value at a time, of a series that its Cursor has numbered.
type Sample struct {
	TS     int64 // ns
	Value  float64
	Series int
}

// Cursor gives the samples of a range aggregation.
type Cursor interface {
	// Next returns the next sample; ok is false at the end.
	Next() (s Sample, ok bool, err error)
	// Labels returns the labels of a series, sorted by name. Failed is the error
	// that its entries have, for which the query fails.
	Labels(series int) (ls labels.Labels, failed string)
	Close()
}

// Selection is what a range aggregation reads.
type Selection struct {
	Aggregation *logql.RangeAggregation
	Outer       *logql.Grouping // of the sum around it, which the cursor does; nil if there is none
	From        int64           // ns, exclusive
	Through     int64           // ns, inclusive
	Ordered     bool            // by time; else by time within each stream of the index
}

// Params are the range of an evaluation.
type Params struct {
	Start, End int64 // ns; both are steps
	Step       int64 // ns; not used if Start is End
	MaxSeries  int   // of the result; 0: any number
	MaxBytes   int64 // of memory, about
	Open       func(context.Context, Selection) (Cursor, error)
}

// Error is an error of the one who asks.
type Error struct{ Msg string }

func (e *Error) Error() string { return e.Msg }

func failure(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Point is a value of a result.
type Point struct {
	MS    int64 // time in ms
	Value float64
}

// Line is a series of a result with its values.
type Line struct {
	Labels labels.Labels
	Points []Point
}

// budget counts memory.
type budget struct{ left, all int64 }

var errMemory = errors.New("too much memory")

func (b *budget) take(n int) error {
	if b.left -= int64(n); b.left < 0 {
		return errMemory
	}
	return nil
}

// value is a series' value at a step.
type value struct {
	series *Series
	v      float64
}

// node computes a part of an expression. Next is called once for every step, in
// order; what it returns is valid until it is called again.
type node interface {
	next(ctx context.Context) ([]value, error)
	close()
}

// evaluation is what the nodes share.
type evaluation struct {
	Params
	registry
	budget budget
	steps  int
}

// Eval computes a metric query. The result is ordered by labels; for an
// instant (Start is End) with sort or sort_desc outermost, by value. Errors are
// *Error, an error of the context, or what a cursor reported.
func Eval(ctx context.Context, e logql.Expr, p Params) ([]Line, error) {
	ev := &evaluation{Params: p, steps: 1, budget: budget{left: p.MaxBytes, all: p.MaxBytes}}
	ev.registry = registry{byKey: map[string]*Series{}, budget: &ev.budget}
	if p.End > p.Start {
		ev.steps = int((p.End-p.Start)/p.Step) + 1
	}
	lines, err := ev.run(ctx, e)
	if errors.Is(err, errMemory) {
		return nil, failure("the query needs more memory than max-result-bytes (%d bytes); ask for fewer series, a shorter range or a longer step", p.MaxBytes)
	}
	return lines, err
}

func (ev *evaluation) run(ctx context.Context, e logql.Expr) ([]Line, error) {
	n, err := ev.node(ctx, e)
	if err != nil {
		return nil, err
	}
	defer n.close()
	at := map[*Series]int{}
	var lines []Line
	for k := range ev.steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		vs, err := n.next(ctx)
		if err != nil {
			return nil, err
		}
		if k == 0 && ev.MaxSeries > 0 && len(vs) > ev.MaxSeries {
			return nil, ev.tooMany()
		}
		ms := (ev.Start + int64(k)*ev.Step) / 1e6
		for _, v := range vs {
			i, ok := at[v.series]
			if !ok {
				i = len(lines)
				at[v.series] = i
				lines = append(lines, Line{Labels: v.series.Labels})
			}
			if err := ev.budget.take(16); err != nil {
				return nil, err
			}
			lines[i].Points = append(lines[i].Points, Point{ms, v.v})
		}
		if ev.MaxSeries > 0 && len(lines) > ev.MaxSeries {
			return nil, ev.tooMany()
		}
	}
	if !sorts(e) || ev.Start != ev.End {
		slices.SortStableFunc(lines, func(a, b Line) int { return compareLabels(a.Labels, b.Labels) })
	}
	return lines, nil
}

func (ev *evaluation) tooMany() error {
	return failure("maximum number of series (%d) reached for a single query; consider reducing query cardinality by adding more specific "+
		"stream selectors, reducing the time range, or aggregating results with functions like sum(), count() or topk()", ev.MaxSeries)
}

// sorts reports whether there is a sort in the expression.
func sorts(e logql.Expr) bool {
	found := false
	logql.Walk(e, func(e logql.Expr) {
		if a, ok := e.(*logql.VectorAggregation); ok && (a.Op == "sort" || a.Op == "sort_desc") {
			found = true
		}
	})
	return found
}

func (ev *evaluation) node(ctx context.Context, e logql.Expr) (node, error) {
	if v, ok := logql.Constant(e); ok {
		return &constant{ev: ev, v: v}, nil
	}
	switch e := e.(type) {
	case *logql.Vector:
		return &constant{ev: ev, v: e.Value}, nil
	case *logql.RangeAggregation:
		return ev.rangeAggregation(ctx, e, nil)
	case *logql.VectorAggregation:
		return ev.vectorAggregation(ctx, e)
	case *logql.BinaryOp:
		return ev.binary(ctx, e)
	case *logql.LabelReplace:
		return ev.labelReplace(ctx, e)
	case *logql.Variants:
		return nil, failure("multi variant queries are disabled for this instance")
	}
	return nil, failure("unexpected type (%T): cannot evaluate", e)
}

// constant is a vector of one sample without labels.
type constant struct {
	ev  *evaluation
	v   float64
	out []value
}

func (c *constant) next(context.Context) ([]value, error) {
	if c.out == nil {
		s, err := c.ev.get(nil)
		if err != nil {
			return nil, err
		}
		c.out = []value{{series: s}}
	}
	c.out[0].v = c.v
	return c.out, nil
}

func (c *constant) close() {}

// pipelineError is Loki's error for entries with errors in a metric query.
func pipelineError(ls labels.Labels, kind string) error {
	return failure("pipeline error: '%s' for series: '%s'.\n"+
		"Use a label filter to intentionally skip this error. (e.g | __error__!=\"%s\").\n"+
		"To skip all potential errors you can match empty errors.(e.g __error__=\"\")\n"+
		"The label filter can also be specified after unwrap. (e.g | unwrap latency | __error__=\"\" )\n", kind, ls, kind)
}
