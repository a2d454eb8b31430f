package metric

import (
	"context"
	"slices"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
)

// rangeNode is a range aggregation.
type rangeNode struct {
	ev       *evaluation
	op       string
	interval int64
	offset   int64
	step     int64
	cursor   Cursor
	series   []*Series // by the cursor's number
	k        int       // the step to come
	out      []value
}

func (ev *evaluation) rangeAggregation(ctx context.Context, e *logql.RangeAggregation, outer *logql.Grouping) (node, error) {
	n := rangeNode{ev: ev, op: e.Op, interval: int64(e.Range.Interval), offset: int64(e.Range.Offset), step: max(ev.Step, 1)}
	last := ev.Start + int64(ev.steps-1)*n.step
	sel := Selection{
		Aggregation: e, Outer: outer, Ordered: ordered(e),
		From: ev.Start - n.offset - n.interval, Through: last - n.offset,
	}
	var err error
	if n.cursor, err = ev.Open(ctx, sel); err != nil {
		return nil, err
	}
	var out node
	switch {
	case sel.Ordered:
		out = &windowNode{rangeNode: n, compute: computation(e)}
	case e.Op == "min_over_time" || e.Op == "max_over_time" || e.Op == "first_over_time" || e.Op == "last_over_time":
		out = &extremeNode{rangeNode: n}
	default:
		seconds := 1.0
		if e.Op == "rate" || e.Op == "bytes_rate" {
			seconds = e.Range.Interval.Seconds()
		}
		out = &countNode{rangeNode: n, bytes: e.Op == "bytes_over_time" || e.Op == "bytes_rate", seconds: seconds}
	}
	if e.Op == "absent_over_time" {
		return &absentNode{node: out, ev: ev, labels: absentLabels(e.Range.Query.Matchers)}, nil
	}
	return out, nil
}

// ordered reports whether a result depends on the order of samples, if only in
// the last digit.
func ordered(e *logql.RangeAggregation) bool {
	switch e.Op {
	case "count_over_time", "bytes_over_time", "bytes_rate", "absent_over_time", "min_over_time", "max_over_time",
		"first_over_time", "last_over_time":
		return false
	case "rate":
		return e.Range.Unwrap != nil
	}
	return true
}

func (n *rangeNode) close() { n.cursor.Close() }

// at returns the time of step k as the samples see it.
func (n *rangeNode) at(k int) int64 { return n.ev.Start - n.offset + int64(k)*n.step }

// stepsOf returns the steps in whose interval ts is, which may be none.
func (n *rangeNode) stepsOf(ts int64) (from, to int) {
	since := ts - n.at(0)
	if since > 0 {
		from = int((since + n.step - 1) / n.step)
	}
	// The last is the last that is before ts+interval.
	if until := since + n.interval - 1; until < 0 {
		to = -1
	} else {
		to = int(min(until/n.step, int64(n.ev.steps-1)))
	}
	return from, to
}

// named returns a series of the cursor.
func (n *rangeNode) named(number int) (*Series, error) {
	for len(n.series) <= number {
		ls, failed := n.cursor.Labels(len(n.series))
		if failed != "" {
			return nil, pipelineError(ls, failed)
		}
		s, err := n.ev.get(ls)
		if err != nil {
			return nil, err
		}
		n.series = append(n.series, s)
	}
	return n.series[number], nil
}

// checkEvery is how many samples pass between two looks at the context.
const checkEvery = 4096

// all reads the cursor to its end.
func (n *rangeNode) all(ctx context.Context, add func(Sample) error) error {
	for i := 0; ; i++ {
		if i%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		s, ok, err := n.cursor.Next()
		if err != nil || !ok {
			return err
		}
		if _, err := n.named(s.Series); err != nil {
			return err
		}
		if err := add(s); err != nil {
			return err
		}
	}
}

// pageCells is how many steps share a piece of memory.
const pageCells = 64

// pages hold a cell for each step in which a series has samples.
type pages[T any] struct{ list [][]T }

// cell returns the cell of step k, which is made if it is not there.
func (p *pages[T]) cell(k int, ev *evaluation, size int) (*T, error) {
	i := k / pageCells
	if i >= len(p.list) {
		if err := ev.budget.take(24 * (i + 1 - len(p.list))); err != nil {
			return nil, err
		}
		p.list = append(p.list, make([][]T, i+1-len(p.list))...)
	}
	if p.list[i] == nil {
		cells := min(pageCells, ev.steps-i*pageCells)
		if err := ev.budget.take(cells * size); err != nil {
			return nil, err
		}
		p.list[i] = make([]T, cells)
	}
	return &p.list[i][k%pageCells], nil
}

// peek returns the cell of step k, nil if there is none.
func (p *pages[T]) peek(k int) *T {
	i := k / pageCells
	if i >= len(p.list) || p.list[i] == nil {
		return nil
	}
	return &p.list[i][k%pageCells]
}

// countNode counts lines or bytes. A sample counts from its first step on and
// no more behind its last, so that the cells hold differences.
type countNode struct {
	rangeNode
	bytes   bool
	seconds float64
	diffs   []pages[countCell] // by the cursor's number
	now     []countCell
	read    bool
}

type countCell struct {
	n int64
	v float64 // whole numbers, which are exact
}

func (c *countNode) next(ctx context.Context) ([]value, error) {
	if !c.read {
		c.read = true
		if err := c.all(ctx, c.add); err != nil {
			return nil, err
		}
		c.now = make([]countCell, len(c.series))
	}
	c.out = c.out[:0]
	for i := range c.now {
		now := &c.now[i]
		if i < len(c.diffs) {
			if d := c.diffs[i].peek(c.k); d != nil {
				now.n += d.n
				now.v += d.v
			}
		}
		if now.n == 0 {
			continue
		}
		v := float64(now.n)
		if c.bytes {
			v = now.v
		}
		if c.seconds != 1 {
			v /= c.seconds
		}
		c.out = append(c.out, value{c.series[i], v})
	}
	c.k++
	return c.out, nil
}

func (c *countNode) add(s Sample) error {
	from, to := c.stepsOf(s.TS)
	if from > to {
		return nil
	}
	for s.Series >= len(c.diffs) {
		c.diffs = append(c.diffs, pages[countCell]{})
	}
	d, err := c.diffs[s.Series].cell(from, c.ev, 16)
	if err != nil {
		return err
	}
	d.n++
	d.v += s.Value
	if to+1 < c.ev.steps {
		if d, err = c.diffs[s.Series].cell(to+1, c.ev, 16); err != nil {
			return err
		}
		d.n--
		d.v -= s.Value
	}
	return nil
}

// extremeNode keeps one sample of each step: the least, the greatest, the first
// or the last.
type extremeNode struct {
	rangeNode
	cells []pages[extremeCell] // by the cursor's number
	read  bool
}

type extremeCell struct {
	ok bool
	ts int64
	v  float64
}

func (e *extremeNode) next(ctx context.Context) ([]value, error) {
	if !e.read {
		e.read = true
		if err := e.all(ctx, e.add); err != nil {
			return nil, err
		}
	}
	e.out = e.out[:0]
	for i := range e.cells {
		if c := e.cells[i].peek(e.k); c != nil && c.ok {
			e.out = append(e.out, value{e.series[i], c.v})
		}
	}
	e.k++
	return e.out, nil
}

func (e *extremeNode) add(s Sample) error {
	from, to := e.stepsOf(s.TS)
	for s.Series >= len(e.cells) {
		e.cells = append(e.cells, pages[extremeCell]{})
	}
	for k := from; k <= to; k++ {
		c, err := e.cells[s.Series].cell(k, e.ev, 24)
		if err != nil {
			return err
		}
		if !c.ok || e.better(s, c) {
			*c = extremeCell{true, s.TS, s.Value}
		}
	}
	return nil
}

// better reports whether a sample takes the place of another. What is not a
// number gives way to one.
func (e *extremeNode) better(s Sample, c *extremeCell) bool {
	switch e.op {
	case "min_over_time":
		return s.Value < c.v || c.v != c.v
	case "max_over_time":
		return s.Value > c.v || c.v != c.v
	case "first_over_time":
		return s.TS < c.ts
	default:
		return s.TS >= c.ts
	}
}

// windowNode keeps the samples of the current interval.
type windowNode struct {
	rangeNode
	compute func([]Sample) float64
	windows []window // by the cursor's number
	ahead   Sample
	more    bool
	started bool
}

type window struct {
	samples []Sample // from head on
	head    int
}

func (w *windowNode) next(ctx context.Context) ([]value, error) {
	if !w.started {
		w.started = true
		if err := w.advance(); err != nil {
			return nil, err
		}
	}
	to := w.at(w.k)
	from := to - w.interval
	w.k++
	for i := 0; w.more && w.ahead.TS <= to; i++ {
		if i%checkEvery == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if w.ahead.TS > from {
			if err := w.add(w.ahead); err != nil {
				return nil, err
			}
		}
		if err := w.advance(); err != nil {
			return nil, err
		}
	}
	w.out = w.out[:0]
	for i := range w.windows {
		win := &w.windows[i]
		head := win.head
		for win.head < len(win.samples) && win.samples[win.head].TS <= from {
			win.head++
		}
		w.ev.budget.left += int64(24 * (win.head - head))
		if win.head == len(win.samples) {
			win.samples, win.head = win.samples[:0], 0
			continue
		}
		w.out = append(w.out, value{w.series[i], w.compute(win.samples[win.head:])})
	}
	return w.out, nil
}

func (w *windowNode) advance() (err error) {
	w.ahead, w.more, err = w.cursor.Next()
	return err
}

func (w *windowNode) add(s Sample) error {
	if _, err := w.named(s.Series); err != nil {
		return err
	}
	for s.Series >= len(w.windows) {
		w.windows = append(w.windows, window{})
	}
	win := &w.windows[s.Series]
	if win.head > 64 && win.head > len(win.samples)/2 {
		win.samples = append(win.samples[:0], win.samples[win.head:]...)
		win.head = 0
	}
	win.samples = append(win.samples, s)
	return w.ev.budget.take(24)
}

// absentNode has a sample where its node has none.
type absentNode struct {
	node
	ev     *evaluation
	labels labels.Labels
	out    []value
}

func (a *absentNode) next(ctx context.Context) ([]value, error) {
	vs, err := a.node.next(ctx)
	if err != nil || len(vs) > 0 {
		return nil, err
	}
	if a.out == nil {
		s, err := a.ev.get(a.labels)
		if err != nil {
			return nil, err
		}
		a.out = []value{{s, 1}}
	}
	return a.out, nil
}

// absentLabels are those that the selector gives one value.
func absentLabels(ms []*labels.Matcher) labels.Labels {
	var ls labels.Labels
	var without []string
	for _, m := range ms {
		if m.Name == labels.MetricName {
			continue
		}
		if m.Type == labels.MatchEqual && ls.Get(m.Name) == "" && !slices.Contains(without, m.Name) {
			ls = set(ls, m.Name, m.Value)
		} else {
			without = append(without, m.Name)
		}
	}
	return only(ls, without, false)
}
