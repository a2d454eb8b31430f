package metric

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/loki-go/loki-go/query/logql"
)

// vectorNode is a vector aggregation.
type vectorNode struct {
	ev     *evaluation
	e      *logql.VectorAggregation
	inner  node
	groups map[*Series]*group // of the series of inner
	byOwn  map[*Series]*group // by the group's own series
	used   []*group           // in this step
	out    []value
}

type group struct {
	series *Series
	n      int
	v      float64 // sum, extreme or squares
	mean   float64
	list   []value // of topk and the like
}

func (ev *evaluation) vectorAggregation(ctx context.Context, e *logql.VectorAggregation) (node, error) {
	v := &vectorNode{ev: ev, e: e, groups: map[*Series]*group{}, byOwn: map[*Series]*group{}}
	var err error
	if r, ok := e.Inner.(*logql.RangeAggregation); ok && e.Op == "sum" && r.Grouping == nil && Sums(r.Op) {
		v.inner, err = ev.rangeAggregation(ctx, r, &e.Grouping)
	} else {
		v.inner, err = ev.node(ctx, e.Inner)
	}
	return v, err
}

// Sums reports whether a sum of the results is the result of all samples.
func Sums(op string) bool {
	switch op {
	case "count_over_time", "rate", "bytes_over_time", "bytes_rate", "sum_over_time":
		return true
	}
	return false
}

func (v *vectorNode) close() { v.inner.close() }

func (v *vectorNode) next(ctx context.Context) ([]value, error) {
	vs, err := v.inner.next(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range v.used {
		*g = group{series: g.series, list: g.list[:0]}
	}
	v.used = v.used[:0]
	for _, x := range vs {
		g, err := v.group(x.series)
		if err != nil {
			return nil, err
		}
		if g.n++; g.n == 1 {
			v.used = append(v.used, g)
		}
		v.add(g, x)
	}
	v.out = v.out[:0]
	for _, g := range v.used {
		v.finish(g)
	}
	return v.out, nil
}

func (v *vectorNode) group(s *Series) (*group, error) {
	g, ok := v.groups[s]
	if ok {
		return g, nil
	}
	ls := only(s.Labels, v.e.Grouping.Labels, !v.e.Grouping.Without)
	if v.e.Grouping.Without {
		ls = withValue(ls)
	}
	own, err := v.ev.get(ls)
	if err != nil {
		return nil, err
	}
	if g = v.byOwn[own]; g == nil {
		g = &group{series: own}
		v.byOwn[own] = g
	}
	v.groups[s] = g
	return g, v.ev.budget.take(64)
}

func (v *vectorNode) add(g *group, x value) {
	switch v.e.Op {
	case "sum":
		g.v += x.v
	case "avg":
		if g.n == 1 {
			g.mean = x.v
		} else {
			g.mean += (x.v - g.mean) / float64(g.n)
		}
	case "max":
		if g.n == 1 || g.v < x.v || math.IsNaN(g.v) {
			g.v = x.v
		}
	case "min":
		if g.n == 1 || g.v > x.v || math.IsNaN(g.v) {
			g.v = x.v
		}
	case "count":
	case "stddev", "stdvar":
		if g.n == 1 {
			g.mean = x.v
			return
		}
		d := x.v - g.mean
		g.mean += d / float64(g.n)
		g.v += d * (x.v - g.mean)
	default:
		g.list = append(g.list, x)
	}
}

func (v *vectorNode) finish(g *group) {
	out := g.v
	switch v.e.Op {
	case "avg":
		out = g.mean
	case "count":
		out = float64(g.n)
	case "stddev":
		out = math.Sqrt(g.v / float64(g.n))
	case "stdvar":
		out = g.v / float64(g.n)
	case "topk", "approx_topk", "sort_desc":
		v.order(g, func(a, b float64) int { return cmp.Compare(b, a) })
		return
	case "bottomk", "sort":
		v.order(g, cmp.Compare[float64])
		return
	}
	v.out = append(v.out, value{g.series, out})
}

// order adds the first of a group's values. Those that are equal come in the
// order of their labels, and what is not a number comes last.
func (v *vectorNode) order(g *group, compare func(a, b float64) int) {
	slices.SortStableFunc(g.list, func(a, b value) int {
		if an, bn := math.IsNaN(a.v), math.IsNaN(b.v); an != bn {
			if an {
				return 1
			}
			return -1
		}
		return cmp.Or(compare(a.v, b.v), compareLabels(a.series.Labels, b.series.Labels))
	})
	n := len(g.list)
	if v.e.K > 0 {
		n = min(n, v.e.K)
	}
	v.out = append(v.out, g.list[:n]...)
}
