package metric

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
)

// data is samples by series; time in seconds.
type data map[string][][2]float64

// fixed gives the samples of data, whatever it is asked for.
type fixed struct {
	labels  []labels.Labels
	failed  string
	samples []Sample
	err     error
	closed  *int
}

func (f *fixed) Next() (Sample, bool, error) {
	if len(f.samples) == 0 {
		return Sample{}, false, f.err
	}
	s := f.samples[0]
	f.samples = f.samples[1:]
	return s, true, nil
}

func (f *fixed) Labels(n int) (labels.Labels, string) { return f.labels[n], f.failed }
func (f *fixed) Close()                               { *f.closed++ }

func (d data) cursor(sel Selection, closed *int) *fixed {
	c := &fixed{closed: closed}
	var names []string
	for n := range d {
		names = append(names, n)
	}
	slices.Sort(names)
	for i, n := range names {
		ls, err := labels.Parse(n)
		if err != nil {
			panic(err)
		}
		c.labels = append(c.labels, ls)
		for _, s := range d[n] {
			if ts := int64(s[0] * 1e9); ts > sel.From && ts <= sel.Through {
				c.samples = append(c.samples, Sample{ts, s[1], i})
			}
		}
	}
	if sel.Ordered {
		slices.SortStableFunc(c.samples, func(a, b Sample) int { return int(a.TS - b.TS) })
	}
	return c
}

// eval evaluates a query whose selectors name their data: {app="x"} reads d["x"].
func eval(t testing.TB, q string, d map[string]data, p Params) ([]Line, error) {
	t.Helper()
	e, err := logql.Parse(q)
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	opened, closed := 0, 0
	p.Open = func(_ context.Context, sel Selection) (Cursor, error) {
		opened++
		return d[sel.Aggregation.Range.Query.Matchers[0].Value].cursor(sel, &closed), nil
	}
	if p.MaxBytes == 0 {
		p.MaxBytes = 1 << 20
	}
	lines, err := Eval(context.Background(), e, p)
	if opened != closed {
		t.Fatalf("%s: %d cursors opened, %d closed", q, opened, closed)
	}
	return lines, err
}

func show(lines []Line) string {
	var out []string
	for _, l := range lines {
		s := l.Labels.String()
		for _, p := range l.Points {
			s += fmt.Sprintf(" %g@%g", p.Value, float64(p.MS)/1000)
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

var testData = map[string]data{
	"a": {`{h="1", z="p"}`: {{10, 1}, {20, 2}, {30, 4}}, `{h="2", z="p"}`: {{20, 10}, {21, 20}}, `{h="3", z="q"}`: {{30, 5}}},
	"b": {`{h="1"}`: {{15, 100}, {25, 200}}, `{h="2"}`: {{25, 300}}},
	"n": {`{h="1"}`: {{10, math.NaN()}, {11, 3}, {12, math.Inf(1)}}},
}

func TestEval(t *testing.T) {
	f := func(q, want string) {
		t.Helper()
		lines, err := eval(t, q, testData, Params{Start: 10e9, End: 40e9, Step: 10e9})
		if err != nil {
			t.Fatalf("%s: %v", q, err)
		}
		if got := show(lines); got != want {
			t.Errorf("%s:\n got %s\nwant %s", q, got, want)
		}
	}
	const unwrap = `{app="a"} | unwrap v `
	// The start of an interval is not in it, the end is.
	f(`count_over_time({app="a"}[10s])`, `{h="1", z="p"} 1@10 1@20 1@30; {h="2", z="p"} 1@20 1@30; {h="3", z="q"} 1@30`)
	f(`count_over_time({app="a"}[20s])`, `{h="1", z="p"} 1@10 2@20 2@30 1@40; {h="2", z="p"} 1@20 2@30 1@40; {h="3", z="q"} 1@30 1@40`)
	f(`count_over_time({app="a"}[1s])`, `{h="1", z="p"} 1@10 1@20 1@30; {h="2", z="p"} 1@20; {h="3", z="q"} 1@30`)
	f(`count_over_time({app="a"}[10s] offset 10s)`, `{h="1", z="p"} 1@20 1@30 1@40; {h="2", z="p"} 1@30 1@40; {h="3", z="q"} 1@40`)
	f(`count_over_time({app="a"}[10s] offset -10s)`, `{h="1", z="p"} 1@10 1@20; {h="2", z="p"} 1@10 1@20; {h="3", z="q"} 1@20`)
	f(`rate({app="b"}[20s])`, `{h="1"} 0.05@20 0.1@30 0.05@40; {h="2"} 0.05@30 0.05@40`)
	f(`bytes_over_time({app="b"}[20s])`, `{h="1"} 100@20 300@30 200@40; {h="2"} 300@30 300@40`)
	f(`bytes_rate({app="b"}[20s])`, `{h="1"} 5@20 15@30 10@40; {h="2"} 15@30 15@40`)
	f(`absent_over_time({app="b"}[10s])`, `{app="b"} 1@10 1@40`)
	f(`absent_over_time({app="b", app!="c", d="e", d="f"}[10s])`, `{} 1@10 1@40`)
	f(`sum_over_time(`+unwrap+`[20s])`, `{h="1", z="p"} 1@10 3@20 6@30 4@40; {h="2", z="p"} 10@20 30@30 20@40; {h="3", z="q"} 5@30 5@40`)
	f(`sum_over_time(`+unwrap+`[5s])`, `{h="1", z="p"} 1@10 2@20 4@30; {h="2", z="p"} 10@20; {h="3", z="q"} 5@30`)
	f(`avg_over_time(`+unwrap+`[20s])`, `{h="1", z="p"} 1@10 1.5@20 3@30 4@40; {h="2", z="p"} 10@20 15@30 20@40; {h="3", z="q"} 5@30 5@40`)
	f(`max_over_time(`+unwrap+`[20s])`, `{h="1", z="p"} 1@10 2@20 4@30 4@40; {h="2", z="p"} 10@20 20@30 20@40; {h="3", z="q"} 5@30 5@40`)
	f(`min_over_time(`+unwrap+`[20s])`, `{h="1", z="p"} 1@10 1@20 2@30 4@40; {h="2", z="p"} 10@20 10@30 20@40; {h="3", z="q"} 5@30 5@40`)
	f(`first_over_time(`+unwrap+`[20s])`, `{h="1", z="p"} 1@10 1@20 2@30 4@40; {h="2", z="p"} 10@20 10@30 20@40; {h="3", z="q"} 5@30 5@40`)
	f(`last_over_time(`+unwrap+`[20s])`, `{h="1", z="p"} 1@10 2@20 4@30 4@40; {h="2", z="p"} 10@20 20@30 20@40; {h="3", z="q"} 5@30 5@40`)
	f(`stdvar_over_time(`+unwrap+`[20s])`, `{h="1", z="p"} 0@10 0.25@20 1@30 0@40; {h="2", z="p"} 0@20 25@30 0@40; {h="3", z="q"} 0@30 0@40`)
	f(`stddev_over_time(`+unwrap+`[20s])`, `{h="1", z="p"} 0@10 0.5@20 1@30 0@40; {h="2", z="p"} 0@20 5@30 0@40; {h="3", z="q"} 0@30 0@40`)
	f(`quantile_over_time(0.25, `+unwrap+`[20s])`, `{h="1", z="p"} 1@10 1.25@20 2.5@30 4@40; {h="2", z="p"} 10@20 12.5@30 20@40; {h="3", z="q"} 5@30 5@40`)
	f(`quantile_over_time(2, `+unwrap+`[5s])`, `{h="1", z="p"} +Inf@10 +Inf@20 +Inf@30; {h="2", z="p"} +Inf@20; {h="3", z="q"} +Inf@30`)
	f(`rate(`+unwrap+`[20s])`, `{h="1", z="p"} 0.05@10 0.15@20 0.3@30 0.2@40; {h="2", z="p"} 0.5@20 1.5@30 1@40; {h="3", z="q"} 0.25@30 0.25@40`)
	f(`max_over_time({app="n"} | unwrap v [5s])`, `{h="1"} NaN@10`)
	f(`max_over_time({app="n"} | unwrap v [20s])`, `{h="1"} NaN@10 +Inf@20 +Inf@30`)
	f(`min_over_time({app="n"} | unwrap v [20s])`, `{h="1"} NaN@10 3@20 3@30`)
	f(`quantile_over_time(0, {app="n"} | unwrap v [20s])`, `{h="1"} NaN@10 NaN@20 NaN@30`) // infinity by 0

	f(`sum(count_over_time({app="a"}[10s])) by (z) + 0`, `{z="p"} 1@10 2@20 2@30; {z="q"} 1@30`)
	f(`avg without (h) (max_over_time(`+unwrap+`[20s]))`, `{z="p"} 1@10 6@20 12@30 12@40; {z="q"} 5@30 5@40`)
	f(`max(max_over_time(`+unwrap+`[20s]))`, `{} 1@10 10@20 20@30 20@40`)
	f(`min(max_over_time(`+unwrap+`[20s]))`, `{} 1@10 2@20 4@30 4@40`)
	f(`count by (z) (max_over_time(`+unwrap+`[20s]))`, `{z="p"} 1@10 2@20 2@30 2@40; {z="q"} 1@30 1@40`)
	f(`stdvar(max_over_time({app="a"} | unwrap v [10s]))`, `{} 0@10 16@20 53.55555555555555@30`)
	f(`topk(1, max_over_time(`+unwrap+`[20s]))`, `{h="1", z="p"} 1@10; {h="2", z="p"} 10@20 20@30 20@40`)
	f(`bottomk by (z) (1, max_over_time(`+unwrap+`[20s]))`, `{h="1", z="p"} 1@10 2@20 4@30 4@40; {h="3", z="q"} 5@30 5@40`)
	f(`count_over_time({app="a"}[10s]) * on(h) bytes_over_time({app="b"}[20s])`, `{h="1"} 100@20 300@30; {h="2"} 300@30`)
	f(`count_over_time({app="a"}[10s]) * on(h) group_left(x) bytes_over_time({app="b"}[20s])`, `{h="1", z="p"} 100@20 300@30; {h="2", z="p"} 300@30`)
	f(`bytes_over_time({app="b"}[20s]) - ignoring(z) count_over_time({app="a"}[10s])`, `{h="1"} 99@20 299@30; {h="2"} 299@30`)
	f(`bytes_over_time({app="b"}[20s]) / on(h) group_right count_over_time({app="a"}[20s])`, `{h="1", z="p"} 50@20 150@30 200@40; {h="2", z="p"} 150@30 300@40`)
	f(`bytes_over_time({app="b"}[20s]) > 200`, `{h="1"} 300@30; {h="2"} 300@30 300@40`)
	f(`bytes_over_time({app="b"}[20s]) > bool 200`, `{h="1"} 0@20 1@30 0@40; {h="2"} 1@30 1@40`)
	f(`200 >= bytes_over_time({app="b"}[20s])`, `{h="1"} 100@20 200@40`)
	f(`bytes_over_time({app="b"}[20s]) == bytes_over_time({app="b"}[10s])`, `{h="1"} 100@20; {h="2"} 300@30`)
	f(`bytes_over_time({app="b"}[20s]) and on(h) count_over_time({app="a"} [1s])`, `{h="1"} 100@20 300@30`)
	f(`bytes_over_time({app="b"}[20s]) unless on(h) count_over_time({app="a"} [1s])`, `{h="1"} 200@40; {h="2"} 300@30 300@40`)
	f(`bytes_over_time({app="b"}[10s]) or on(h) count_over_time({app="a"} [1s])`, `{h="1"} 100@20 200@30; {h="1", z="p"} 1@10; {h="2"} 300@30; {h="2", z="p"} 1@20; {h="3", z="q"} 1@30`)
	f(`vector(1) + vector(2) * 3`, `{} 7@10 7@20 7@30 7@40`)
	f(`1 / 0`, `{} NaN@10 NaN@20 NaN@30 NaN@40`)
	f(`sum(count_over_time({app="none"}[1s])) or vector(0)`, `{} 0@10 0@20 0@30 0@40`)
	f(`label_replace(count_over_time({app="b"}[10s]), "x", "<$1>", "h", "(1)")`, `{h="1", x="<1>"} 1@20 1@30; {h="2"} 1@30`)
	f(`label_replace(count_over_time({app="b"}[10s]), "h", "", "h", ".*")`, `{} 1@20 1@30 1@30`)
	f(`approx_topk(1, sum by (h) (count_over_time({app="a"}[10s])))`, `{h="1"} 1@10 1@20 1@30`)
}

func TestEvalInstant(t *testing.T) {
	f := func(q, want string) {
		t.Helper()
		lines, err := eval(t, q, testData, Params{Start: 30e9, End: 30e9})
		if err != nil {
			t.Fatalf("%s: %v", q, err)
		}
		if got := show(lines); got != want {
			t.Errorf("%s:\n got %s\nwant %s", q, got, want)
		}
	}
	const sums = `sum_over_time({app="a"} | unwrap v [20s])`
	f(sums, `{h="1", z="p"} 6@30; {h="2", z="p"} 30@30; {h="3", z="q"} 5@30`)
	f(`sort(`+sums+`)`, `{h="3", z="q"} 5@30; {h="1", z="p"} 6@30; {h="2", z="p"} 30@30`)
	f(`sort_desc(`+sums+`)`, `{h="2", z="p"} 30@30; {h="1", z="p"} 6@30; {h="3", z="q"} 5@30`)
	f(`topk(2, `+sums+`)`, `{h="1", z="p"} 6@30; {h="2", z="p"} 30@30`)
	f(`count_over_time({app="a"}[1s])`, `{h="1", z="p"} 1@30; {h="3", z="q"} 1@30`)
	f(`rate_counter({app="a"} | unwrap v [20s])`, `{h="1", z="p"} 0.10000020000000001@30; {h="2", z="p"} 0.50001@30; {h="3", z="q"} 0@30`)
}

func TestErrors(t *testing.T) {
	f := func(q, want string, p Params) {
		t.Helper()
		p.Start, p.End, p.Step = 10e9, 40e9, 10e9
		_, err := eval(t, q, testData, p)
		var me *Error
		if !errors.As(err, &me) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", q, err, want)
		}
	}
	f(`count_over_time({app="a"}[10s])`, "maximum number of series (2) reached for a single query;", Params{MaxSeries: 2})
	f(`count_over_time({app="a"}[10s])`, "the query needs more memory than max-result-bytes (1000 bytes)", Params{MaxBytes: 1000})
	f(`sum_over_time({app="a"} | unwrap v [10s])`, "the query needs more memory than max-result-bytes (700 bytes)", Params{MaxBytes: 700})
	f(`count_over_time({app="a"}[10s]) + on(z) count_over_time({app="a"}[10s])`, "found duplicate series on the right hand-side;many-to-many", Params{})
	f(`count_over_time({app="a"}[10s]) + on(z) sum by (z) (count_over_time({app="a"}[10s]))`, "multiple matches for labels: many-to-one", Params{})
	f(`sum by (z) (count_over_time({app="a"}[10s])) + on(z) group_right count_over_time({app="a"}[10s]) + on(z) group_right vector(1)`,
		"found duplicate series on the left hand-side", Params{})
	f(`variants(count_over_time({app="a"}[10s])) of ({app="a"}[10s])`, "multi variant queries are disabled", Params{})

	e, err := logql.Parse(`count_over_time({app="a"}[10s])`)
	if err != nil {
		t.Fatal(err)
	}
	closed := 0
	broken := errors.New("broken")
	for _, c := range []*fixed{
		{failed: "JSONParserErr", labels: []labels.Labels{{{Name: "a", Value: "b"}}}, samples: []Sample{{20e9, 1, 0}}, closed: &closed},
		{err: broken, closed: &closed},
	} {
		_, err := Eval(context.Background(), e, Params{
			Start: 10e9, End: 40e9, Step: 10e9, MaxBytes: 1 << 20,
			Open: func(context.Context, Selection) (Cursor, error) { return c, nil },
		})
		if c.err == nil && !strings.HasPrefix(fmt.Sprint(err), `pipeline error: 'JSONParserErr' for series: '{a="b"}'.`) || c.err != nil && !errors.Is(err, broken) {
			t.Fatalf("got %v", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Eval(ctx, e, Params{Start: 10e9, End: 40e9, Step: 10e9, Open: func(context.Context, Selection) (Cursor, error) {
		return testData["a"].cursor(Selection{}, &closed), nil
	}}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// TestRandom compares aggregations of random samples, steps and intervals with
// ones that look at all samples for every step.
func TestRandom(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	naive := map[string]func(vs []float64, seconds float64) float64{
		"count_over_time": func(vs []float64, _ float64) float64 { return float64(len(vs)) },
		"rate":            func(vs []float64, s float64) float64 { return float64(len(vs)) / s },
		"bytes_over_time": func(vs []float64, _ float64) float64 { return total(vs) },
		"sum_over_time":   func(vs []float64, _ float64) float64 { return total(vs) },
		"max_over_time":   func(vs []float64, _ float64) float64 { return slices.Max(vs) },
		"min_over_time":   func(vs []float64, _ float64) float64 { return slices.Min(vs) },
		"first_over_time": func(vs []float64, _ float64) float64 { return vs[0] },
		"last_over_time":  func(vs []float64, _ float64) float64 { return vs[len(vs)-1] },
	}
	for range 300 {
		for op, compute := range naive {
			var points [][2]float64
			at := 0.0
			for range rng.Intn(60) {
				at += float64(rng.Intn(40)) / 4
				points = append(points, [2]float64{at, float64(rng.Intn(100))})
			}
			start := int64(rng.Intn(50)) * 1e9
			step := int64(rng.Intn(40)+1) * 25e7
			p := Params{Start: start, End: start + step*int64(rng.Intn(200)), Step: step}
			interval := float64(rng.Intn(400)+1) / 4
			offset := float64(rng.Intn(9)-4) * 2.5
			text := `{app="x"}`
			if strings.HasSuffix(op, "_over_time") && op != "count_over_time" && op != "bytes_over_time" {
				text += " | unwrap v "
			}
			q := fmt.Sprintf("%s(%s [%dms] offset %dms)", op, text, int64(interval*1000), int64(offset*1000))
			var want []Line
			for ts := p.Start; ts <= p.End; ts += step {
				to := float64(ts)/1e9 - offset
				var vs []float64
				for _, s := range points {
					if s[0] > to-interval && s[0] <= to {
						vs = append(vs, s[1])
					}
				}
				if len(vs) > 0 {
					if want == nil {
						want = []Line{{Labels: labels.Labels{{Name: "h", Value: "1"}}}}
					}
					want[0].Points = append(want[0].Points, Point{ts / 1e6, compute(vs, interval)})
				}
			}
			got, err := eval(t, q, map[string]data{"x": {`{h="1"}`: points}}, p)
			if err != nil {
				t.Fatalf("%s: %v", q, err)
			}
			if show(got) != show(want) {
				t.Fatalf("%s, %+v, %v:\n got %s\nwant %s", q, p, points, show(got), show(want))
			}
		}
	}
}

func total(vs []float64) (sum float64) {
	for _, v := range vs {
		sum += v
	}
	return sum
}
