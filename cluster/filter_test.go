package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/storage/chunk"
)

// cutBlock is a block of real content.
type cutBlock struct {
	from, to int64
	entries  int
	content  []byte
	symbols  []string
	loads    atomic.Int64
	onLoad   func()
}

func (b *cutBlock) Bounds() (int64, int64) { return b.from, b.to }
func (b *cutBlock) NumEntries() int        { return b.entries }
func (b *cutBlock) Load(dst []byte) ([]byte, []string, error) {
	b.loads.Add(1)
	if b.onLoad != nil {
		b.onLoad()
	}
	return append(dst, b.content...), b.symbols, nil
}

// cut makes blocks of n entries each.
func cut(s testkit.Stream, n int) chunk.Series {
	var out chunk.Series
	for _, l := range s.Labels {
		out.Labels = append(out.Labels, labels.Label(l))
	}
	out.Labels.Sort()
	for es := range slices.Chunk(s.Entries, n) {
		b := &cutBlock{from: es[0].TS, to: es[len(es)-1].TS, entries: len(es)}
		table := chunk.NewSymbols([]string{"not", "in", "use"})
		for _, e := range es {
			var refs []uint32
			for _, m := range e.Meta {
				refs = append(refs, table.Intern([]byte(m.Name)), table.Intern([]byte(m.Value)))
			}
			b.content = chunk.AppendEntry(b.content, e.TS, []byte(e.Line), refs)
		}
		b.symbols = table.List()
		out.Blocks = append(out.Blocks, b)
	}
	return out
}

// network counts the bytes that come over connections.
type network struct{ in atomic.Int64 }

func (n *network) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (n *network) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}
func (n *network) HandleConn(context.Context, stats.ConnStats) {}
func (n *network) HandleRPC(_ context.Context, s stats.RPCStats) {
	if p, ok := s.(*stats.InPayload); ok {
		n.in.Add(int64(p.WireLength))
	}
}

// group is ingesters, asked where they are or over the network.
type group struct {
	ring    *ring.Ring
	fakes   map[string]*fake
	pool    *Pool
	net     network
	servers []*Server
	refused atomic.Int64 // filters that were not understood
	stops   []func()
}

func newGroup(t testing.TB, cfg Config, filter bool, fakes ...*fake) *group {
	t.Helper()
	g := &group{fakes: map[string]*fake{}, pool: newPool(t, cfg, nil)}
	g.pool.dial = append(g.pool.dial, grpc.WithStatsHandler(&g.net))
	var list []ring.Instance
	for i, f := range fakes {
		d := ServerDeps{Ingester: f, Log: slog.New(slog.DiscardHandler)}
		if filter {
			d.Filter = func(text string, from, through int64) (Filter, error) {
				f, err := query.NewFilter(text, from, through)
				if err != nil {
					g.refused.Add(1)
				}
				return f, err
			}
		}
		s, err := NewServer(d, cfg)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := grpc.NewServer(grpc.WaitForHandlers(true))
		s.Register(srv)
		var serving sync.WaitGroup
		serving.Go(func() { _ = srv.Serve(ln) })
		stop := sync.OnceFunc(func() {
			srv.Stop()
			serving.Wait()
			s.Wait()
		})
		t.Cleanup(stop)
		id := fmt.Sprint(i)
		g.servers, g.stops = append(g.servers, s), append(g.stops, stop)
		g.fakes[id] = f
		list = append(list, ring.Instance{ID: id, Addr: ln.Addr().String(), State: ring.Active, Generation: 1})
	}
	g.ring = ring.New(list)
	return g
}

// members reads from the group.
func (g *group) members(remote bool) *Members {
	return &Members{
		Ring: fixed{g.ring}, ReplicationFactor: 2, Log: warn.New(slog.New(slog.DiscardHandler)),
		Source: func(in ring.Instance) (Source, error) {
			if remote {
				return g.pool.Source(in)
			}
			return g.fakes[in.ID], nil
		},
	}
}

func newEngine(t testing.TB, memory, store query.Source) *query.Engine {
	t.Helper()
	e, err := query.New(query.Deps{Memory: memory, Store: store}, query.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// whole hides that a source can filter, as a query of an earlier version does.
type whole struct{ query.Source }

// moving is what in an answer depends on time and on which lines were looked at
// before it was known that they are not needed.
var moving = regexp.MustCompile(`"(\w+Time|\w+PerSecond|totalLinesProcessed|headChunkLines)":[^,}]*`)

// TestFilteredQueries: an answer does not depend on where a query's filters run.
// The queries are those that are compared with Loki's answers.
func TestFilteredQueries(t *testing.T) {
	start := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	cases, err := testkit.ReadLogQLCases("../test/testdata", start)
	if err != nil {
		t.Fatal(err)
	}
	fakes, store := []*fake{{}, {}, {}}, &fake{}
	for i, s := range testkit.LogQLStreams(start) {
		// Two replicas, which cut blocks in different places; a part is stored, too.
		for _, m := range []int{i % 3, (i + 1) % 3} {
			fakes[m].series = append(fakes[m].series, cut(s, 17+11*m))
		}
		s.Entries = s.Entries[:len(s.Entries)/3]
		store.series = append(store.series, cut(s, 40))
	}
	g := newGroup(t, DefaultConfig(), true, fakes...)
	old := newGroup(t, DefaultConfig(), false, fakes...)
	handler := func(memory query.Source) http.Handler {
		mux := http.NewServeMux()
		h := query.NewHandler(query.HandlerDeps{
			Engine: newEngine(t, memory, store), Tenant: func(*http.Request) (string, error) { return "t", nil },
			Now: func() time.Time { return time.Unix(0, start+1200e9) },
		})
		t.Cleanup(h.Close)
		h.Register(mux)
		return mux
	}
	local, all := handler(g.members(false)), []struct {
		name string
		http.Handler
	}{
		{"filtered there", handler(g.members(true))},
		{"old ingesters", handler(old.members(true))},
		{"an old query", handler(whole{g.members(true)})},
	}
	answers, asked := 0, 0
	for i, c := range cases {
		if i%caseStep != 0 {
			continue
		}
		asked++
		ask := func(h http.Handler) string {
			r := httptest.NewRequest(http.MethodGet, "/loki/api/v1/"+c.Path+"?"+c.Params.Encode(), nil)
			r.Header.Set("X-Loki-Response-Encoding-Flags", c.Flags)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return fmt.Sprint(w.Code, " ", moving.ReplaceAllString(w.Body.String(), ""))
		}
		want := ask(local)
		if strings.HasPrefix(want, "200") && strings.Contains(want, `"values":[`) {
			answers++
		}
		for k, other := range all {
			if k > 0 && i%(3*caseStep) != 0 {
				continue // which differs in little
			}
			if got := ask(other); got != want {
				t.Errorf("%s, %s:\n got %.2000s\nwant %.2000s", c.Text, other.name, got, want)
			}
		}
	}
	if answers < asked/2 {
		t.Errorf("%d of %d queries have an answer that says something", answers, asked)
	}
	if n := g.refused.Load(); n > 0 {
		t.Errorf("%d filters were not understood", n)
	}
}

// logs makes streams of lines of which one in so many has a needle.
func logs(streams, entries, every int) (out []testkit.Stream) {
	n := 0
	for i := range streams {
		s := testkit.Stream{Labels: []testkit.Pair{{Name: "app", Value: "x"}, {Name: "n", Value: fmt.Sprint(i)}}}
		for k := range entries {
			word := "hay"
			if n++; n%every == 0 {
				word = "needle"
			}
			s.Entries = append(s.Entries, testkit.Entry{
				TS:   int64(k)*1e6 + int64(i),
				Line: fmt.Sprintf("level=info ts=%d caller=main.go:%d msg=%q duration=%dms path=/api/v1/items/%d", k, k%100, word, k%977, k),
				Meta: []testkit.Pair{{Name: "trace_id", Value: fmt.Sprintf("%08x", k)}},
			})
		}
		out = append(out, s)
	}
	return out
}

func logQuery(t testing.TB, text string) *logql.LogQuery {
	t.Helper()
	e, err := logql.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return e.(*logql.LogQuery)
}

// TestFilteredStats: a query counts what was read for it, wherever that was, and
// gets little more than it needs, in few messages.
func TestFilteredStats(t *testing.T) {
	f := &fake{}
	blocks := 0
	for _, s := range logs(10, 3000, 3000) {
		f.series = append(f.series, cut(s, 100))
		blocks += 30
	}
	g := newGroup(t, DefaultConfig(), true, f)
	local, remote := newEngine(t, g.members(false), nil), newEngine(t, g.members(true), nil)
	all := query.Request{Tenant: "t", Query: logQuery(t, `{app="x"} |= "needle"`), Through: 1e12, Limit: 1000}
	want, err := local.Run(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	got, err := remote.Run(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	a, b := want.Stats.Memory, got.Stats.Memory
	a.Select, a.Load, b.Select, b.Load = 0, 0, 0, 0
	if a != b || a.Bytes == 0 || a.Lines != 30000 || len(got.Entries) != 10 {
		t.Errorf("%d entries, stats %+v, want %+v", len(got.Entries), b, a)
	}
	if n := g.net.in.Load(); n > int64(blocks)*64 {
		t.Errorf("%d bytes came for %d blocks", n, blocks)
	}
	for _, s := range f.series {
		for _, b := range s.Blocks {
			if n := b.(*cutBlock).loads.Load(); n != 2 {
				t.Fatalf("a block was loaded %d times for each query", n-1)
			}
		}
	}
}

// TestFilteredLimit: blocks that come before they are asked for are few.
func TestFilteredLimit(t *testing.T) {
	f := &fake{}
	for _, s := range logs(4, 30000, 10) {
		f.series = append(f.series, cut(s, 500))
	}
	g := newGroup(t, DefaultConfig(), true, f)
	for _, d := range []query.Direction{query.Forward, query.Backward} {
		before := g.net.in.Load()
		r, err := newEngine(t, g.members(true), nil).Run(t.Context(), query.Request{
			Tenant: "t", Query: logQuery(t, `{app="x"} |= "needle"`), Through: 1e12, Limit: 20, Direction: d,
		})
		if err != nil || len(r.Entries) != 20 {
			t.Fatalf("%v, %v", r, err)
		}
		if n := g.net.in.Load() - before; n > 4*moreKept {
			t.Errorf("%d bytes came for 20 lines", n)
		}
	}
}

// TestFilteredCancel: a query that ends takes what runs for it elsewhere along.
func TestFilteredCancel(t *testing.T) {
	f := &fake{}
	for _, s := range logs(3, 1000, 1000) {
		f.series = append(f.series, cut(s, 10))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var loads atomic.Int64
	for _, s := range f.series {
		for _, b := range s.Blocks {
			b.(*cutBlock).onLoad = func() {
				if loads.Add(1) == 20 {
					cancel()
					<-ctx.Done()
				}
			}
		}
	}
	g := newGroup(t, DefaultConfig(), true, f)
	_, err := newEngine(t, g.members(true), nil).Run(ctx, query.Request{
		Tenant: "t", Query: logQuery(t, `{app="x"} |= "needle"`), Through: 1e12, Limit: 1000,
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	g.stops[0]() // waits for the call
	if n := loads.Load(); n >= 300 {
		t.Fatalf("%d blocks were loaded", n)
	}
}

// TestFilteredErrors: a block that went with another and is damaged is told of
// where it is needed, by the query that needs it.
func TestFilteredErrors(t *testing.T) {
	f := &fake{}
	for _, s := range logs(1, 100, 50) {
		f.series = append(f.series, cut(s, 10))
	}
	bad := f.series[0].Blocks[9].(*cutBlock)
	bad.content = bad.content[:len(bad.content)-1]
	g := newGroup(t, DefaultConfig(), true, f)
	e := newEngine(t, g.members(true), nil)
	r := query.Request{Tenant: "t", Query: logQuery(t, `{app="x"} |= "msg"`), Through: 1e12, Limit: 5}
	if _, err := e.Run(t.Context(), r); err != nil {
		t.Fatalf("5 lines: %v", err)
	}
	r.Limit = 1000
	if _, err := e.Run(t.Context(), r); err == nil || !strings.Contains(err.Error(), "malformed block content") {
		t.Fatalf("all lines: %v", err)
	}
}

// The selection of a query that is wrong ends the call, or is answered with all.
func TestFilteredRequests(t *testing.T) {
	f := &fake{}
	for _, s := range logs(1, 100, 50) {
		f.series = append(f.series, cut(s, 10))
	}
	g := newGroup(t, DefaultConfig(), true, f)
	s := source(t, g.pool, g.ring.Instances()[0]).(filtering)
	for _, filter := range []string{"", "rubbish", `{"query":"{a=\"b\"} | unknown"}`, `{"query":"vector(1)"}`, `{"query":"count_over_time({a=\"b\"}[5m]) + 1"}`, "\xff", strings.Repeat("x", 1<<20)} {
		got, err := s.SelectFiltered(t.Context(), "t", nil, 0, 1e12, filter)
		if err != nil {
			t.Fatal(err)
		}
		b := got[0].Blocks[3].(chunk.FilteredRef)
		content, err := b.LoadFiltered(nil, slices.Values(got[0].Blocks[4:]))
		if err != nil || !content.Whole || string(content.Content) != string(f.series[0].Blocks[3].(*cutBlock).content) {
			t.Errorf("%.20q: %d bytes, %v", filter, len(content.Content), err)
		}
	}
	got, err := s.SelectFiltered(t.Context(), "t", nil, 0, 1e12, `{"query":"{a=\"b\"} |= \"needle\""}`)
	if err != nil {
		t.Fatal(err)
	}
	others := slices.Concat(got[0].Blocks[5:], []chunk.BlockRef{&remoteBlock{s: got[0].Blocks[0].(*remoteBlock).s, number: 10}})
	if c, err := got[0].Blocks[4].(chunk.FilteredRef).LoadFiltered([]byte("before "), slices.Values(others)); err != nil || c.Whole || c.Entries != 10 || !strings.HasPrefix(string(c.Content), "before ") {
		t.Errorf("a block before one that does not exist: %+v, %v", c, err)
	}
	if _, _, err := others[len(others)-1].Load(nil); err == nil || !strings.Contains(err.Error(), "block 10 of 10") {
		t.Errorf("a block that does not exist: %v", err)
	}
}
