package metric

import (
	"context"
	"regexp"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
)

func (ev *evaluation) binary(ctx context.Context, e *logql.BinaryOp) (node, error) {
	if v, ok := logql.Constant(e.Left); ok {
		inner, err := ev.node(ctx, e.Right)
		return &scalarNode{e: e, inner: inner, v: v, left: true}, err
	}
	if v, ok := logql.Constant(e.Right); ok {
		inner, err := ev.node(ctx, e.Left)
		return &scalarNode{e: e, inner: inner, v: v}, err
	}
	l, err := ev.node(ctx, e.Left)
	if err != nil {
		return nil, err
	}
	r, err := ev.node(ctx, e.Right)
	if err != nil {
		l.close()
		return nil, err
	}
	return &binaryNode{ev: ev, e: e, left: l, right: r, keys: map[*Series]*Series{}, results: map[[2]*Series]*Series{}}, nil
}

// scalarNode computes with a number.
type scalarNode struct {
	e     *logql.BinaryOp
	inner node
	v     float64
	left  bool // the number is the left operand
	out   []value
}

func (n *scalarNode) close() { n.inner.close() }

func (n *scalarNode) next(ctx context.Context) ([]value, error) {
	vs, err := n.inner.next(ctx)
	if err != nil {
		return nil, err
	}
	n.out = n.out[:0]
	for _, x := range vs {
		l, r := x.v, n.v
		if n.left {
			l, r = r, l
		}
		v := logql.Apply(n.e.Op, l, r)
		if logql.Comparison(n.e.Op) && !n.e.Bool {
			if v == 0 {
				continue
			}
			v = x.v // a comparison is a filter of the vector
		}
		n.out = append(n.out, value{x.series, v})
	}
	return n.out, nil
}

// binaryNode computes from two vectors.
type binaryNode struct {
	ev          *evaluation
	e           *logql.BinaryOp
	left, right node
	keys        map[*Series]*Series // what series are matched by
	results     map[[2]*Series]*Series
	out         []value
}

func (n *binaryNode) close() {
	n.left.close()
	n.right.close()
}

func (n *binaryNode) next(ctx context.Context) ([]value, error) {
	r, err := n.right.next(ctx)
	if err != nil {
		return nil, err
	}
	l, err := n.left.next(ctx)
	if err != nil {
		return nil, err
	}
	n.out = n.out[:0]
	if logql.Logical(n.e.Op) {
		err = n.logical(l, r)
	} else {
		err = n.arithmetic(l, r)
	}
	return n.out, err
}

// key returns the labels by which a series is matched.
func (n *binaryNode) key(s *Series) (*Series, error) {
	k, ok := n.keys[s]
	if ok {
		return k, nil
	}
	m := &n.e.Matching
	k, err := n.ev.get(withValue(only(s.Labels, m.Labels, m.On)))
	if err != nil {
		return nil, err
	}
	n.keys[s] = k
	return k, n.ev.budget.take(32)
}

func (n *binaryNode) keySet(vs []value) (map[*Series]bool, error) {
	out := make(map[*Series]bool, len(vs))
	for _, x := range vs {
		k, err := n.key(x.series)
		if err != nil {
			return nil, err
		}
		out[k] = true
	}
	return out, nil
}

func (n *binaryNode) logical(l, r []value) error {
	if n.e.Op == "or" {
		n.out = append(n.out, l...)
		l, r = r, l // those of the right that the left has not
	}
	other, err := n.keySet(r)
	if err != nil {
		return err
	}
	for _, x := range l {
		k, err := n.key(x.series)
		if err != nil {
			return err
		}
		if other[k] == (n.e.Op == "and") {
			n.out = append(n.out, x)
		}
	}
	return nil
}

func (n *binaryNode) arithmetic(l, r []value) error {
	swap := n.e.Matching.Many == logql.RightSide
	many, one := l, r
	if swap {
		many, one = r, l
	}
	byKey := make(map[*Series]value, len(one))
	for _, x := range one {
		k, err := n.key(x.series)
		if err != nil {
			return err
		}
		if _, double := byKey[k]; double {
			side := "right"
			if swap {
				side = "left"
			}
			return failure("found duplicate series on the %s hand-side;many-to-many matching not allowed: matching labels must be unique on one side", side)
		}
		byKey[k] = x
	}
	matched := map[*Series]bool{}
	inserted := map[[2]*Series]bool{}
	for _, x := range many {
		k, err := n.key(x.series)
		if err != nil {
			return err
		}
		y, ok := byKey[k]
		if !ok {
			continue
		}
		res, err := n.result(x.series, y.series)
		if err != nil {
			return err
		}
		if n.e.Matching.Many == logql.NoSide {
			if matched[k] {
				return failure("multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)")
			}
			matched[k] = true
		} else {
			if inserted[[2]*Series{k, res}] {
				return failure("multiple matches for labels: grouping labels must ensure unique matches")
			}
			inserted[[2]*Series{k, res}] = true
		}
		if swap {
			x, y = y, x
		}
		v := logql.Apply(n.e.Op, x.v, y.v)
		if logql.Comparison(n.e.Op) && !n.e.Bool {
			if v == 0 {
				continue
			}
			v = x.v
		}
		n.out = append(n.out, value{res, v})
	}
	return nil
}

// result returns the labels of what is computed of two series, the first being
// of the side that may have many.
func (n *binaryNode) result(many, one *Series) (*Series, error) {
	id := [2]*Series{many, one}
	if s, ok := n.results[id]; ok {
		return s, nil
	}
	m := &n.e.Matching
	ls := withValue(many.Labels)
	if m.Many == logql.NoSide {
		ls = only(ls, m.Labels, m.On)
	}
	for _, name := range m.Include {
		ls = set(ls, name, one.Labels.Get(name))
	}
	s, err := n.ev.get(ls)
	if err != nil {
		return nil, err
	}
	n.results[id] = s
	return s, n.ev.budget.take(48)
}

// replaceNode is label_replace.
type replaceNode struct {
	ev    *evaluation
	e     *logql.LabelReplace
	re    *regexp.Regexp
	inner node
	cache map[*Series]*Series
	out   []value
}

func (ev *evaluation) labelReplace(ctx context.Context, e *logql.LabelReplace) (node, error) {
	re, err := logql.CompileAnchored(e.Pattern)
	if err != nil {
		return nil, failure("invalid regex in label_replace: %v", err)
	}
	inner, err := ev.node(ctx, e.Inner)
	return &replaceNode{ev: ev, e: e, re: re, inner: inner, cache: map[*Series]*Series{}}, err
}

func (n *replaceNode) close() { n.inner.close() }

func (n *replaceNode) next(ctx context.Context) ([]value, error) {
	vs, err := n.inner.next(ctx)
	if err != nil {
		return nil, err
	}
	n.out = n.out[:0]
	for _, x := range vs {
		s, ok := n.cache[x.series]
		if !ok {
			if s, err = n.ev.get(n.replace(x.series.Labels)); err != nil {
				return nil, err
			}
			n.cache[x.series] = s
		}
		n.out = append(n.out, value{s, x.v})
	}
	return n.out, nil
}

func (n *replaceNode) replace(ls labels.Labels) labels.Labels {
	src := ls.Get(n.e.Source)
	at := n.re.FindStringSubmatchIndex(src)
	if at == nil {
		return ls
	}
	return set(withValue(ls), n.e.Target, string(n.re.ExpandString(nil, n.e.Replacement, src, at)))
}
