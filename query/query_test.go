package query

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/query/metric"
	"github.com/loki-go/loki-go/query/pipeline"
	"github.com/loki-go/loki-go/storage/chunk"
)

// entry is an entry of a test: time, line, and metadata as name=value.
type entry struct {
	ts   int64
	line string
	meta string // "a=1,b=2"
}

func (e entry) String() string { return fmt.Sprintf("%d %s {%s}", e.ts, e.line, e.meta) }

type testBlock struct {
	mint, maxt int64
	n          int
	content    []byte
	symbols    []string
	err        error
	loads      atomic.Int64
	onLoad     func()
}

func (b *testBlock) Bounds() (int64, int64) { return b.mint, b.maxt }
func (b *testBlock) NumEntries() int        { return b.n }
func (b *testBlock) Load(dst []byte) ([]byte, []string, error) {
	b.loads.Add(1)
	if b.onLoad != nil {
		b.onLoad()
	}
	if b.err != nil {
		return nil, nil, b.err
	}
	return append(dst, b.content...), b.symbols, nil
}

func newBlock(es ...entry) *testBlock {
	b := &testBlock{n: len(es), mint: es[0].ts, maxt: es[len(es)-1].ts}
	number := map[string]uint32{}
	for _, e := range es {
		var syms []uint32
		for kv := range strings.SplitSeq(e.meta, ",") {
			n, v, ok := strings.Cut(kv, "=")
			if !ok {
				continue
			}
			for _, s := range []string{n, v} {
				if _, ok := number[s]; !ok {
					number[s] = uint32(len(b.symbols))
					b.symbols = append(b.symbols, s)
				}
				syms = append(syms, number[s])
			}
		}
		b.content = chunk.AppendEntry(b.content, e.ts, []byte(e.line), syms)
	}
	return b
}

// fake is a source that holds what it is given.
type fake struct {
	series []chunk.Series
	err    error
	asked  func()
}

func (f *fake) add(ls string, blocks ...*testBlock) *fake {
	l, err := labels.Parse(ls)
	if err != nil {
		panic(err)
	}
	s := chunk.Series{Labels: l}
	for _, b := range blocks {
		s.Blocks = append(s.Blocks, b)
	}
	f.series = append(f.series, s)
	return f
}

func (f *fake) Select(_ context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error) {
	if f.asked != nil {
		f.asked()
	}
	if f.err != nil {
		return nil, f.err
	}
	var out []chunk.Series
	for _, s := range f.series {
		if tenant == "t" && labels.MatchAll(ms, s.Labels) {
			out = append(out, s)
		}
	}
	return out, nil
}

func (f *fake) LabelSets(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]labels.Labels, error) {
	series, err := f.Select(ctx, tenant, ms, from, through)
	var out []labels.Labels
	for _, s := range series {
		for _, b := range s.Blocks {
			if mint, maxt := b.Bounds(); maxt >= from && mint < through {
				out = append(out, s.Labels)
				break
			}
		}
	}
	return out, err
}

func logQuery(t testing.TB, s string) *logql.LogQuery {
	t.Helper()
	e, err := logql.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return e.(*logql.LogQuery)
}

func newEngine(t testing.TB, memory, store Source) *Engine {
	t.Helper()
	e, err := New(Deps{Memory: memory, Store: store}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func text(r *Result) []string {
	var out []string
	for _, e := range r.Entries {
		var meta []string
		for {
			n, v, ok := e.Meta.Next()
			if !ok {
				break
			}
			meta = append(meta, string(n)+"="+string(v))
		}
		out = append(out, fmt.Sprintf("%s %v", r.Streams[e.Stream], entry{e.TS, string(e.Line), strings.Join(meta, ",")}))
	}
	return out
}

// shorter removes the label sets that most tests do not need.
func shorter(lines []string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.Join(lines, " | "), `{a="b"} `, ""), " {}", "")
}

func TestMerge(t *testing.T) {
	e := func(ts int64, line string) entry { return entry{ts, line, ""} }
	m := func(ts int64, line, meta string) entry { return entry{ts, line, meta} }
	f := func(memory, store *fake, query string, limit int, fwd, bwd string) {
		t.Helper()
		for dir, want := range map[Direction]string{Forward: fwd, Backward: bwd} {
			r, err := newEngine(t, memory, store).Run(context.Background(), Request{
				Tenant: "t", Query: logQuery(t, query), From: 0, Through: 100, Limit: limit, Direction: dir,
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := shorter(text(r)); got != want {
				t.Fatalf("direction %d: got %s, want %s", dir, got, want)
			}
		}
	}
	const ab = `{a="b"}`
	none := &fake{}
	f(none, none, ab, 10, "", "")
	f(new(fake).add(ab, newBlock(e(1, "x"), e(2, "y"))), none, ab, 10, "1 x | 2 y", "2 y | 1 x")
	// The same in both sources, and partly.
	f(new(fake).add(ab, newBlock(e(2, "y"), e(3, "z"))), new(fake).add(ab, newBlock(e(1, "x"), e(2, "y"))), ab, 10,
		"1 x | 2 y | 3 z", "3 z | 2 y | 1 x")
	// Equal times keep their order, and the store is older than memory.
	f(new(fake).add(ab, newBlock(e(5, "b"), e(5, "c"), e(5, "d"))), new(fake).add(ab, newBlock(e(5, "a"), e(5, "b"))), ab, 10,
		"5 a | 5 b | 5 c | 5 d", "5 d | 5 c | 5 b | 5 a")
	f(new(fake).add(ab, newBlock(e(5, "b"), e(5, "c"), e(5, "d"))), new(fake).add(ab, newBlock(e(5, "a"), e(5, "b"))), ab, 2,
		"5 a | 5 b", "5 d | 5 c")
	// A retry within one block and across blocks of one source.
	f(new(fake).add(ab, newBlock(e(1, "x"), e(1, "y"), e(1, "x")), newBlock(e(1, "x"), e(2, "z"))), none, ab, 10,
		"1 x | 1 y | 2 z", "2 z | 1 y | 1 x")
	// Other metadata is another entry; equal metadata under other symbol numbers is not.
	f(new(fake).add(ab, newBlock(m(1, "x", "k=v"), m(1, "x", "k=w"), m(1, "x", ""))),
		new(fake).add(ab, newBlock(m(1, "x", "j=w"), m(1, "x", "k=w"), m(1, "x", "k=v"))), ab, 10,
		"1 x {j=w} | 1 x {k=w} | 1 x {k=v} | 1 x", "1 x | 1 x {k=v} | 1 x {k=w} | 1 x {j=w}")
	// Line and metadata do not run into each other.
	f(new(fake).add(ab, newBlock(m(1, "x", "k=v"), e(1, "x\x01k\x01v"))), none, ab, 10, "1 x {k=v} | 1 x\x01k\x01v", "1 x\x01k\x01v | 1 x {k=v}")
	// Streams with equal entries are apart; shards of one stream are not.
	f(new(fake).add(`{a="c"}`, newBlock(e(1, "x"))).add(ab, newBlock(e(1, "x"))), none, `{a=~"b|c"}`, 10,
		`1 x | {a="c"} 1 x`, `{a="c"} 1 x | 1 x`)
	f(new(fake).add(`{a="b", __stream_shard__="1"}`, newBlock(e(1, "x"))), new(fake).add(`{a="b", __stream_shard__="2"}`, newBlock(e(1, "x"), e(2, "y"))), ab, 10,
		"1 x | 2 y", "2 y | 1 x")
	// Overlapping blocks, blocks out of order, the range, an empty line.
	f(new(fake).add(ab, newBlock(e(4, "d"), e(8, "h")), newBlock(e(-1, "no"), e(0, "0"), e(5, ""), e(99, "last"), e(100, "no"))), none, ab, 10,
		"0 0 | 4 d | 5  | 8 h | 99 last", "99 last | 8 h | 5  | 4 d | 0 0")
	// Filters see the line only.
	f(new(fake).add(ab, newBlock(m(1, "x", "needle=needle"), e(2, "a needle"), e(3, "needl"), e(4, "e"), e(5, "needleneedle"))), none, ab+` |= "needle"`, 10,
		"2 a needle | 5 needleneedle", "5 needleneedle | 2 a needle")
	f(new(fake).add(ab, newBlock(e(1, "x"), e(2, "y"), e(3, "x"))), none, ab+` != "x"`, 10, "2 y", "2 y")
	f(new(fake).add(ab, newBlock(e(1, "x"))), none, `{a="c"}`, 10, "", "")
}

// TestLoadsOnlyWhatCounts checks which blocks a limit and a range leave alone.
func TestLoadsOnlyWhatCounts(t *testing.T) {
	f := func(dir Direction, limit int, from, through int64, query string, want ...int64) {
		t.Helper()
		src := &fake{}
		var blocks []*testBlock
		for i := range int64(6) {
			b := newBlock(entry{10 * i, "x", ""}, entry{10*i + 5, "y", ""}, entry{10*i + 9, "z", ""})
			blocks = append(blocks, b)
			src.add(`{a="b"}`, b)
		}
		e := newEngine(t, src, nil)
		if _, err := e.Run(context.Background(), Request{Tenant: "t", Query: logQuery(t, query), From: from, Through: through, Limit: limit, Direction: dir}); err != nil {
			t.Fatal(err)
		}
		var got []int64
		for i, b := range blocks {
			if n := b.loads.Load(); n > 1 {
				t.Fatalf("block %d was loaded %d times", i, n)
			} else if n == 1 {
				got = append(got, int64(i))
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("loaded %v, want %v", got, want)
		}
	}
	f(Forward, 1, 0, 100, `{a="b"}`, 0)
	f(Forward, 3, 0, 100, `{a="b"}`, 0)
	f(Forward, 4, 0, 100, `{a="b"}`, 0, 1)
	f(Backward, 3, 0, 100, `{a="b"}`, 5)
	f(Backward, 4, 0, 100, `{a="b"}`, 4, 5)
	f(Forward, 100, 20, 40, `{a="b"}`, 2, 3)
	f(Forward, 100, 29, 30, `{a="b"}`, 2)
	f(Backward, 2, 0, 36, `{a="b"}`, 3)
	f(Backward, 3, 0, 36, `{a="b"}`, 2, 3)
	f(Forward, 2, 0, 100, `{a="b"} |= "y"`, 0, 1)
	f(Backward, 100, 0, 100, `{a="b"} |= "nothing"`, 0, 1, 2, 3, 4, 5)
	f(Backward, 100, 60, 60, `{a="b"}`)
}

func TestInterval(t *testing.T) {
	src := new(fake)
	var b []entry
	for ts := int64(0); ts < 50; ts++ {
		b = append(b, entry{ts, "x", ""})
	}
	src.add(`{a="b"}`, newBlock(b[:20]...), newBlock(b[20:]...)).add(`{a="c"}`, newBlock(entry{7, "y", ""}))
	f := func(dir Direction, limit int, interval time.Duration, want ...int64) {
		t.Helper()
		r, err := newEngine(t, src, nil).Run(context.Background(), Request{
			Tenant: "t", Query: logQuery(t, `{a=~".+"}`), From: 0, Through: 100, Limit: limit, Direction: dir, Interval: interval,
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, e := range r.Entries {
			got = append(got, e.TS)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	f(Forward, 10, 10, 0, 10, 20, 30, 40)
	f(Forward, 2, 10, 0, 10)
	f(Forward, 1, 10, 0)
	f(Backward, 10, 10, 49, 39, 29, 19, 9)
	f(Backward, 3, 20, 49, 29, 9)
	f(Forward, 10, 1<<62, 0)
	f(Backward, 10, 1<<62, 49)
}

// TestDifferential compares the engine with an implementation that holds
// everything and sorts it.
func TestDifferential(t *testing.T) {
	seed := time.Now().UnixNano()
	rng := rand.New(rand.NewSource(seed))
	t.Logf("seed %d", seed)
	for range 1500 {
		c := randomCase(rng)
		e := newEngine(t, c.memory, c.store)
		r, err := e.Run(context.Background(), c.req)
		if err != nil {
			t.Fatal(err)
		}
		got, want := text(r), c.naive()
		if len(want) == c.req.Limit && c.req.Interval == 0 {
			// Cut through entries of one time: their order is that of any copies.
			last := r.Entries[len(r.Entries)-1].TS
			n := len(got)
			for n > 0 && r.Entries[n-1].TS == last {
				n--
			}
			slices.Sort(got[n:])
			slices.Sort(want[n:])
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: request %+v of %s\n got %v\nwant %v", seed, c.req, c.req.Query, got, want)
		}
		if n := r.Stats.Memory.BlocksLoaded + r.Stats.Store.BlocksLoaded; c.req.Interval == 0 && n > r.Stats.Memory.Blocks+r.Stats.Store.Blocks {
			t.Fatalf("seed %d: %d loads of fewer blocks", seed, n)
		}
	}
}

type placed struct {
	entry
	labels              string
	source, block, rank int
}

type testCase struct {
	memory, store *fake
	req           Request
	all           []placed
}

func randomCase(rng *rand.Rand) *testCase {
	c := &testCase{memory: &fake{}, store: &fake{}}
	metas := []string{"", "", "k=v", "k=w", "j=v,k=v"}
	words := []string{"foo", "bar", "Foo", "", "x", "foobar"}
	for s := range 1 + rng.Intn(4) {
		ls := fmt.Sprintf(`{a="%d"}`, s)
		for source, f := range []*fake{c.memory, c.store} {
			var blocks []*testBlock
			var lists [][]entry
			for range rng.Intn(5) {
				var es []entry
				for range 1 + rng.Intn(12) {
					es = append(es, entry{int64(rng.Intn(60)), words[rng.Intn(6)] + words[rng.Intn(6)], metas[rng.Intn(5)]})
				}
				slices.SortStableFunc(es, func(a, b entry) int { return int(a.ts - b.ts) })
				lists = append(lists, es)
			}
			slices.SortStableFunc(lists, func(a, b []entry) int {
				if d := a[0].ts - b[0].ts; d != 0 {
					return int(d)
				}
				return int(a[len(a)-1].ts - b[len(b)-1].ts)
			})
			for i, es := range lists {
				blocks = append(blocks, newBlock(es...))
				for k, e := range es {
					c.all = append(c.all, placed{e, ls, source, i, k})
				}
			}
			if len(blocks) > 0 {
				f.add(ls, blocks...)
			}
		}
	}
	queries := []string{`{a=~".+"}`, `{a=~"1|2"} |= "foo"`, `{a=~".+"} != "x"`, `{a=~".+"} |~ "(?i)foo" |= "x" or "b"`, `{a=~".+"} |~ "^foo.+r$"`}
	e, _ := logql.Parse(queries[rng.Intn(len(queries))])
	c.req = Request{
		Tenant: "t", Query: e.(*logql.LogQuery), From: int64(rng.Intn(30)), Through: int64(20 + rng.Intn(45)),
		Limit: 1 + rng.Intn(40), Direction: Direction(rng.Intn(2)), Interval: time.Duration(rng.Intn(3) * rng.Intn(10)),
	}
	return c
}

func before(a, b placed) bool {
	switch {
	case a.ts != b.ts:
		return a.ts < b.ts
	case a.labels != b.labels:
		return a.labels < b.labels
	case a.source != b.source:
		return a.source > b.source
	case a.block != b.block:
		return a.block < b.block
	}
	return a.rank < b.rank
}

func (c *testCase) naive() []string {
	sort.SliceStable(c.all, func(i, j int) bool { return before(c.all[i], c.all[j]) })
	if c.req.Direction == Backward {
		slices.Reverse(c.all)
	}
	pipe, err := pipeline.New(c.req.Query.Stages)
	if err != nil {
		panic(err)
	}
	var out []placed
	chosen := map[string]int{}
	last := int64(-1 << 62)
	for _, p := range c.all {
		ls, _ := labels.Parse(p.labels)
		if p.ts < c.req.From || p.ts >= c.req.Through || !labels.MatchAll(c.req.Query.Matchers, ls) || !pipe.MatchLine([]byte(p.line)) {
			continue
		}
		if i, ok := chosen[p.id()]; ok {
			if i >= 0 && c.req.Direction == Backward {
				out[i] = p // an earlier copy
			}
			continue
		}
		chosen[p.id()] = -1
		if d := p.ts - last; len(out) == c.req.Limit || last > -1<<62 && max(d, -d) < int64(c.req.Interval) {
			continue
		}
		last = p.ts
		chosen[p.id()] = len(out)
		out = append(out, p)
	}
	if c.req.Direction == Backward {
		sort.SliceStable(out, func(i, j int) bool { return before(out[j], out[i]) })
	}
	var lines []string
	for _, p := range out {
		lines = append(lines, p.id())
	}
	return lines
}

func (p placed) id() string { return p.labels + " " + p.entry.String() }

func TestMemoryIsAskedFirst(t *testing.T) {
	var order []string
	memory, store := &fake{}, &fake{}
	memory.asked = func() { order = append(order, "memory") }
	store.asked = func() { order = append(order, "store") }
	e := newEngine(t, memory, store)
	if _, err := e.Run(context.Background(), Request{Tenant: "t", Query: logQuery(t, `{a="b"}`), Through: 1, Limit: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.LabelSets(context.Background(), "t", nil, 0, 1); err != nil {
		t.Fatal(err)
	}
	if want := []string{"memory", "store", "memory", "store"}; !slices.Equal(order, want) {
		t.Fatalf("got %v", order)
	}
}

func TestRunErrors(t *testing.T) {
	src := new(fake).add(`{a="b"}`, newBlock(entry{1, "x", ""}), newBlock(entry{2, "y", ""}))
	run := func(src Source, change func(*Request)) error {
		r := Request{Tenant: "t", Query: logQuery(t, `{a="b"}`), Through: 100, Limit: 10}
		if change != nil {
			change(&r)
		}
		_, err := newEngine(t, src, nil).Run(context.Background(), r)
		return err
	}
	f := func(err error, want string) {
		t.Helper()
		if err == nil || err.Error() != want {
			t.Fatalf("got %v, want %s", err, want)
		}
	}
	f(run(src, func(r *Request) { r.Limit = 5001 }), "max entries limit per query exceeded, limit > max_entries_limit_per_query (5001 > 5000)")
	f(run(src, func(r *Request) { r.Limit = 0 }), "limit must be a positive value")
	f(run(src, func(r *Request) { r.Through = int64(800*time.Hour + time.Millisecond) }),
		"the query time range exceeds the limit (query length: 800h0m0.001s, limit: 30d1h)")
	f(run(src, func(r *Request) { r.From, r.Through = -1<<63, 1<<63-1 }),
		"the query time range exceeds the limit (query length: 2562047h47m16.854s, limit: 30d1h)")
	f(run(&fake{err: errors.New("boom")}, nil), "boom")

	bad := newBlock(entry{1, "x", ""})
	bad.err = errors.New(`object "t/chunk" is missing`)
	f(run(new(fake).add(`{a="b"}`, bad), nil),
		`cannot read a block of stream {a="b"}, 1970-01-01T00:00:00.000000001Z to 1970-01-01T00:00:00.000000001Z: object "t/chunk" is missing`)
	torn := newBlock(entry{1, "x", ""}, entry{2, "a long line", ""})
	torn.content = torn.content[:len(torn.content)-3]
	for dir := range Direction(2) {
		if err := run(new(fake).add(`{a="b"}`, torn), func(r *Request) { r.Direction = dir }); !errors.Is(err, chunk.ErrContent) {
			t.Fatalf("torn block: got %v", err)
		}
	}
	wild := newBlock(entry{1, "x", "k=v"})
	wild.symbols = wild.symbols[:1]
	if err := run(new(fake).add(`{a="b"}`, wild), nil); !errors.Is(err, chunk.ErrContent) {
		t.Fatalf("symbol out of range: got %v", err)
	}
}

func TestResultBytesAreBounded(t *testing.T) {
	src := &fake{}
	for i := range int64(50) {
		src.add(`{a="b"}`, newBlock(entry{i, strings.Repeat("x", 1000) + fmt.Sprint(i), ""}))
	}
	cfg := DefaultConfig()
	cfg.MaxResultBytes = 20_000
	e, err := New(Deps{Store: src}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, interval := range []time.Duration{0, 1} {
		r := Request{Tenant: "t", Query: logQuery(t, `{a="b"}`), Through: 100, Limit: 10, Interval: interval}
		if _, err := e.Run(context.Background(), r); err != nil {
			t.Fatal(err)
		}
		r.Limit = 40
		_, err = e.Run(context.Background(), r)
		var re *RequestError
		if !errors.As(err, &re) || !strings.Contains(re.Msg, "max-result-bytes (20000 bytes)") {
			t.Fatalf("got %v", err)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	first, second := newBlock(entry{1, "x", ""}), newBlock(entry{2, "y", ""})
	first.onLoad = cancel
	e := newEngine(t, new(fake).add(`{a="b"}`, first, second), nil)
	_, err := e.Run(ctx, Request{Tenant: "t", Query: logQuery(t, `{a="b"}`), Through: 100, Limit: 10})
	if !errors.Is(err, context.Canceled) || second.loads.Load() != 0 {
		t.Fatalf("got %v, loaded %d more", err, second.loads.Load())
	}
}

// TestSlots checks that a query beyond max-concurrent waits, and gives up with
// its context.
func TestSlots(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	b := newBlock(entry{1, "x", ""})
	b.onLoad = func() { inside <- struct{}{}; <-leave }
	cfg := DefaultConfig()
	cfg.MaxConcurrent = 1
	e, err := New(Deps{Store: new(fake).add(`{a="b"}`, b)}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Tenant: "t", Query: logQuery(t, `{a="b"}`), Through: 100, Limit: 10}
	done := make(chan error, 1)
	go func() {
		_, err := e.Run(context.Background(), r)
		done <- err
	}()
	<-inside
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := e.Run(ctx, r); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if b.loads.Load() != 1 {
		t.Fatal("the second query ran")
	}
}

func TestTimeout(t *testing.T) {
	src := &fake{}
	lim := DefaultLimits()
	lim.QueryTimeout = time.Nanosecond
	e, err := New(Deps{Store: src, Limits: func(string) Limits { return lim }}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	b := newBlock(entry{1, "x", ""})
	src.add(`{a="b"}`, b)
	if _, err = e.Run(context.Background(), Request{Tenant: "t", Query: logQuery(t, `{a="b"}`), Through: 100, Limit: 10}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestConfig(t *testing.T) {
	if errs := append(DefaultConfig().Validate(), DefaultLimits().Validate()...); len(errs) > 0 {
		t.Fatal(errs)
	}
	if errs := append(Config{}.Validate(), Limits{MaxEntries: -1, MaxQueryLength: -1, MaxQueryRange: -1, MaxQuerySeries: -1, QueryTimeout: -1}.Validate()...); len(errs) != 7 {
		t.Fatal(errs)
	}
	if _, err := New(Deps{}, Config{}); err == nil {
		t.Fatal("no error")
	}
}

// benchBlocks makes n blocks of about 256 KiB for one stream each.
func benchBlocks(n int, needleEvery int) (*fake, int64) {
	rng := rand.New(rand.NewSource(1))
	src, size, line := &fake{}, int64(0), 0
	for i := range n {
		b := &testBlock{symbols: []string{"pod", "api-1"}}
		for len(b.content) < 256<<10 {
			text := fmt.Appendf(nil, "level=info caller=main.go:%d msg=\"handled a request\" path=/api/v1/%d status=%d took=%dms", rng.Intn(1000), rng.Intn(1e6), 200+rng.Intn(300), rng.Intn(1e4))
			if line++; needleEvery > 0 && line%needleEvery == 0 {
				text = append(text, " needle"...)
			}
			b.content = chunk.AppendEntry(b.content, int64(b.n), text, []uint32{0, 1})
			b.n++
		}
		b.maxt = int64(b.n - 1)
		size += int64(len(b.content))
		src.add(fmt.Sprintf(`{a="b", n="%03d"}`, i), b)
	}
	return src, size
}

func benchRun(b *testing.B, src *fake, size int64, query string, limit int) {
	b.Helper()
	e := newEngine(b, src, nil)
	q := logQuery(b, query)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		r, err := e.Run(context.Background(), Request{Tenant: "t", Query: q, Through: 1e9, Limit: limit, Direction: Backward})
		if err != nil {
			b.Fatal(err)
		}
		if r.Stats.Memory.BlocksLoaded == 0 {
			b.Fatal("nothing was read")
		}
	}
}

func BenchmarkScan(b *testing.B) {
	for _, c := range []struct {
		name, query string
		every       int
	}{
		{"absent", `{a="b"} |= "needle"`, 0},
		{"rare", `{a="b"} |= "needle"`, 1000},
		{"not", `{a="b"} != "level"`, 0},
		{"fold", `{a="b"} |~ "(?i)needle"`, 0},
		{"regexp", `{a="b"} |~ "status=6\\d\\d"`, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			src, size := benchBlocks(64, c.every)
			benchRun(b, src, size, c.query, 5000)
		})
	}
}

// BenchmarkMetric counts all lines of the blocks, those of a level, and by level.
func BenchmarkMetric(b *testing.B) {
	src, size := benchBlocks(100, 0)
	e := newEngine(b, src, nil)
	for _, q := range []string{
		`sum(count_over_time({a="b"}[1m]))`, `count_over_time({a="b"} |= "needle" [1m])`, `sum(count_over_time({a="b"} | logfmt | level="info" [1m]))`,
		`sum(sum_over_time({a="b"} | logfmt | unwrap duration(took) [1m]))`, `sum(count_over_time({a="b"} | detected_level="info" [1m]))`,
		`sum by (detected_level) (count_over_time({a="b"}[1m]))`, `sum by (detected_level) (count_over_time({a="b"} |= "needle" [1m]))`,
	} {
		expr, err := logql.Parse(q)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(strings.ReplaceAll(q, "/", ""), func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.RunMetric(context.Background(), MetricRequest{Tenant: "t", Query: expr, End: 100e9, Step: 1e9}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMerge returns lines of 100 streams that overlap.
func BenchmarkMerge(b *testing.B) {
	for _, limit := range []int{100, 5000} {
		b.Run(fmt.Sprintf("limit=%d", limit), func(b *testing.B) {
			src, size := benchBlocks(100, 0)
			benchRun(b, src, size, `{a="b"}`, limit)
		})
	}
}

// TestNoAllocationPerLine holds the claim of the package comment.
func TestNoAllocationPerLine(t *testing.T) {
	lines := func(query string, n int) float64 {
		var es []entry
		for i := range n {
			es = append(es, entry{int64(i), "a line without it", "k=v"})
		}
		e := newEngine(t, new(fake).add(`{a="b"}`, newBlock(es...)), nil)
		q := logQuery(t, query)
		return testing.AllocsPerRun(20, func() {
			if _, err := e.Run(context.Background(), Request{Tenant: "t", Query: q, Through: 1e9, Limit: 10}); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, query := range []string{
		// Not one that needs the regexp engine, whose pools the race detector empties.
		`{a="b"} |= "line" |~ "(?i)without" |~ "^a" !~ "pin|needle" != "it"`,
		`{a="b"} | detected_level="error"`,
	} {
		if few, many := lines(query, 10), lines(query, 10_000); many > few+5 {
			t.Errorf("%s: 10 lines take %v allocations, 10,000 take %v", query, few, many)
		}
	}
}

// TestCollisions gives different entries the same hash.
func TestCollisions(t *testing.T) {
	rng := rand.New(rand.NewSource(3))
	for range 300 {
		tp := newTop(5, rng.Intn(2) == 0, 1<<20)
		best := map[int64]bool{}
		for range 40 {
			ts := int64(rng.Intn(25))
			k := key{ts: ts, off: uint32(rng.Intn(3))}
			best[ts] = true
			if tp.useless(k) {
				continue
			}
			if _, err := tp.enter(k, appendTail([]byte("x"), key{ts: ts}), 1, uint64(ts%3)); err != nil {
				t.Fatal(err)
			}
		}
		var want, got []int64
		for ts := range best {
			want = append(want, ts)
		}
		slices.Sort(want)
		if tp.backward {
			slices.Reverse(want)
		}
		for _, e := range tp.shown() {
			got = append(got, e.TS)
		}
		if !slices.Equal(got, want[:min(5, len(want))]) {
			t.Fatalf("backward %v: got %v, want the first of %v", tp.backward, got, want)
		}
	}
}

// FuzzScan reads blocks of any content.
func FuzzScan(f *testing.F) {
	b := newBlock(entry{1, "a needle", "k=v"}, entry{1, "", ""}, entry{5, "needle", "k=v,j=w"})
	f.Add(b.content, "needle", 10)
	f.Add(b.content[:len(b.content)-2], "", 1)
	f.Add([]byte{2, 1, 'x', 3, 1, 0xff, 0x01}, "x", 2)
	f.Fuzz(func(t *testing.T, content []byte, needle string, limit int) {
		block := &testBlock{mint: -1 << 63, maxt: 1<<63 - 1, content: content, symbols: []string{"k", "v"}}
		q := logQuery(t, `{a="b"}`)
		q.Stages = []logql.Stage{&logql.LineFilters{Filters: []logql.LineFilter{{Op: logql.Contains, Texts: []logql.FilterText{{Text: needle}}}}}}
		e, err := New(Deps{Store: new(fake).add(`{a="b"}`, block), Limits: func(string) Limits { return Limits{} }}, DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{`sum by (k) (count_over_time({a="b"} |= "x" [1m]))`, `rate({a="b"} | logfmt | unwrap v [1m])`} {
			expr, err := logql.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			var me *metric.Error
			if _, err := e.RunMetric(context.Background(), MetricRequest{Tenant: "t", Query: expr, Start: 0, End: 60e9, Step: 60e9}); err != nil && !errors.Is(err, chunk.ErrContent) && !errors.As(err, &me) {
				t.Fatal(err)
			}
		}
		for dir := range Direction(2) {
			r, err := e.Run(context.Background(), Request{Tenant: "t", Query: q, From: -1 << 63, Through: 1<<63 - 1, Limit: 1 + max(limit, 0)%100, Direction: dir})
			if err != nil {
				if !errors.Is(err, chunk.ErrContent) {
					t.Fatal(err)
				}
				continue
			}
			for _, e := range r.Entries {
				if !strings.Contains(string(e.Line), needle) {
					t.Fatalf("%q has no %q", e.Line, needle)
				}
			}
			j := jsonWriter{w: io.Discard}
			j.streams(r, dir == Forward)
		}
	})
}

func TestPairs(t *testing.T) {
	p := Pairs(appendText(appendText(nil, "name"), strings.Repeat("v", 200)))
	n, v, ok := p.Next()
	if !ok || string(n) != "name" || !bytes.Equal(v, bytes.Repeat([]byte("v"), 200)) {
		t.Fatalf("got %q, %q, %v", n, v, ok)
	}
	if _, _, ok := p.Next(); ok {
		t.Fatal("one pair too many")
	}
}

// TestRunMetric compares metric queries of random blocks, which overlap and hold
// copies of entries, with what the distinct entries give.
func TestRunMetric(t *testing.T) {
	rng := rand.New(rand.NewSource(2))
	for round := range 200 {
		memory, store := new(fake), new(fake)
		type id struct{ stream, entry string }
		seen := map[id]entry{}
		for stream := range 3 {
			ls := fmt.Sprintf(`{a="b", s="%d"}`, stream)
			for _, src := range []*fake{memory, store} {
				for range rng.Intn(4) {
					var es []entry
					ts := int64(rng.Intn(60))
					for range 1 + rng.Intn(10) {
						ts += int64(rng.Intn(4))
						e := entry{ts, fmt.Sprintf("n=%d", rng.Intn(4)), []string{"", "k=v", "k=w"}[rng.Intn(3)]}
						es = append(es, e)
						seen[id{ls, e.String()}] = e
					}
					src.add(ls, newBlock(es...))
				}
			}
		}
		whole := []*fake{memory, store}
		for _, q := range []struct {
			text string
			of   func(stream string, e entry) (labels string, v float64, ok bool)
		}{
			{`sum by (s) (count_over_time({a="b"}[7ns]))`, func(s string, _ entry) (string, float64, bool) { return s, 1, true }},
			{`sum by (k) (count_over_time({a="b"} |= "n=1" [7ns]))`, func(_ string, e entry) (string, float64, bool) { return e.meta, 1, e.line == "n=1" }},
			{`sum by (k) (sum_over_time({a="b"} | logfmt | unwrap n [7ns]))`, func(_ string, e entry) (string, float64, bool) {
				return e.meta, float64(e.line[2] - '0'), true
			}},
			{`sum by (n) (bytes_over_time({a="b"} | logfmt | n>1 [7ns]))`, func(_ string, e entry) (string, float64, bool) {
				return e.line, 3, e.line > "n=1"
			}},
		} {
			expr, err := logql.Parse(strings.ReplaceAll(q.text, "7ns", "1s"))
			if err != nil {
				t.Fatal(err)
			}
			logql.Walk(expr, func(e logql.Expr) {
				if r, ok := e.(*logql.RangeAggregation); ok {
					r.Range.Interval = 7 // ns, which no query can say
				}
			})
			want := map[string]float64{}
			for id, e := range seen {
				group, v, ok := q.of(id.stream, e)
				for at := int64(10); ok && at <= 60; at += 5 {
					if e.ts > at-7 && e.ts <= at {
						want[fmt.Sprintf("%s@%d", strings.NewReplacer(`{a="b", `, "", `}`, "", `"`, "").Replace(group), at)] += v
					}
				}
			}
			if round%2 > 0 {
				few := func() int { return rng.Intn(4) }
				memory, store = inParts(whole[0], few), inParts(whole[1], few)
			}
			r, err := newEngine(t, memory, store).RunMetric(context.Background(), MetricRequest{Tenant: "t", Query: expr, Start: 10, End: 60, Step: 5})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]float64{}
			for _, s := range r.Series {
				name := strings.NewReplacer("{", "", "}", "", `"`, "").Replace(s.Labels.String())
				for at, i := int64(10), 0; i < len(s.Points); at += 5 {
					// Points have no finer time than ms: they are those of want, in order.
					if _, ok := want[fmt.Sprintf("%s@%d", name, at)]; ok {
						got[fmt.Sprintf("%s@%d", name, at)] = s.Points[i].Value
						i++
					} else if at > 60 {
						t.Fatalf("round %d, %s: too many points of %s", round, q.text, name)
					}
				}
			}
			if !maps.Equal(got, want) {
				t.Fatalf("round %d, %s:\n got %v\nwant %v", round, q.text, got, want)
			}
		}
	}
}
