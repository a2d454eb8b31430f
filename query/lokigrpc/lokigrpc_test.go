package lokigrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/lokipb"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/storage/chunk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a source of blocks.
type memory struct {
	mu     sync.Mutex
	series []chunk.Series
	err    error
}

type block struct {
	from, to int64
	n        int
	content  []byte
}

func (b block) Bounds() (int64, int64) { return b.from, b.to }
func (b block) NumEntries() int        { return b.n }
func (b block) Size() int64            { return int64(len(b.content)) }
func (b block) Load(dst []byte) ([]byte, []string, error) {
	return append(dst, b.content...), nil, nil
}

// add adds a block of lines that are a step apart.
func (m *memory) add(ls string, start, step int64, lines ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := labels.Parse(ls)
	if err != nil {
		panic(err)
	}
	b := block{from: start, to: start + int64(len(lines)-1)*step, n: len(lines)}
	for i, line := range lines {
		b.content = chunk.AppendEntry(b.content, start+int64(i)*step, []byte(line), nil)
	}
	m.series = append(m.series, chunk.Series{Labels: l, Blocks: []chunk.BlockRef{b}})
}

func (m *memory) Select(_ context.Context, tenant string, ms []*labels.Matcher, from, through int64) (out []chunk.Series, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.series {
		if mint, maxt := s.Blocks[0].Bounds(); tenant == "t" && mint < through && maxt >= from && labels.MatchAll(ms, s.Labels) {
			out = append(out, s)
		}
	}
	return out, m.err
}

func (m *memory) LabelSets(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) (out []labels.Labels, err error) {
	series, err := m.Select(ctx, tenant, ms, from, through)
	for _, s := range series {
		out = append(out, s.Labels)
	}
	return out, err
}

// serve starts a server over m and returns a client.
func serve(t *testing.T, m *memory) lokipb.QuerierClient {
	t.Helper()
	cfg := query.DefaultConfig()
	cfg.MaxResultBytes = 10 << 20
	e, err := query.New(query.Deps{Memory: m}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	New(Deps{Engine: e, Source: m, Tenant: func(context.Context) (string, error) { return "t", nil }}).Register(srv)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(ln) })
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		serving.Wait()
	})
	return lokipb.NewQuerierClient(conn)
}

func at(ns int64) *timestamppb.Timestamp { return timestamppb.New(time.Unix(0, ns)) }

// entries asks for entries and returns them, and the sizes of batches.
func entries(t *testing.T, c lokipb.QuerierClient, r *lokipb.QueryRequest) (out []string, sizes []int) {
	t.Helper()
	if r.Start == nil {
		r.Start, r.End = at(0), at(1e15)
	}
	stream, err := c.Query(t.Context(), r)
	for {
		var m *lokipb.QueryResponse
		if err == nil {
			m, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			return out, sizes
		}
		if err != nil {
			t.Fatalf("%v: %v", r, err)
		}
		n := 0
		for _, s := range m.Streams {
			for _, e := range s.Entries {
				out = append(out, fmt.Sprintf("%d %s %s", e.Timestamp.AsTime().UnixNano(), s.Labels, e.Line))
				n++
			}
		}
		sizes = append(sizes, n)
	}
}

func numbered(n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf("line %d", i))
	}
	return lines
}

// TestBatches: answers of any length come in parts, in order, and whole.
func TestBatches(t *testing.T) {
	m := &memory{}
	m.add(`{a="1"}`, 1000, 1, numbered(5000)...)
	c := serve(t, m)
	for _, d := range []lokipb.Direction{lokipb.Direction_FORWARD, lokipb.Direction_BACKWARD} {
		for _, limit := range []int{0, 1, 128, 129, 3000, 5000, 9000} {
			got, sizes := entries(t, c, &lokipb.QueryRequest{Selector: `{a="1"}`, Limit: uint32(limit), Direction: d})
			want := 5000
			if limit > 0 {
				want = min(limit, want)
			}
			if len(got) != want {
				t.Fatalf("%v, limit %d: %d entries", d, limit, len(got))
			}
			for i, e := range got {
				k := i
				if d == lokipb.Direction_BACKWARD {
					k = 4999 - i
				}
				if text := fmt.Sprintf(`%d {a="1"} line %d`, 1000+k, k); e != text {
					t.Fatalf("%v, limit %d: number %d is %s, want %s", d, limit, i, e, text)
				}
			}
			if slices.Max(sizes) > batchEntries || sizes[len(sizes)-1] != 0 {
				t.Fatalf("%v, limit %d: batches of %d", d, limit, sizes)
			}
		}
	}
}

// TestSameTime: more entries of one time than a page has.
func TestSameTime(t *testing.T) {
	m := &memory{}
	m.add(`{a="1"}`, 500, 0, numbered(3000)...)
	m.add(`{a="2"}`, 500, 0, numbered(2500)...)
	m.add(`{a="3"}`, 499, 0, "before")
	m.add(`{a="3"}`, 501, 0, "behind")
	c := serve(t, m)
	for _, selector := range []string{`{a=~".+"}`, `{a=~".+"} | line_format "{{ __line__ | trunc 8 }}"`} {
		for _, d := range []lokipb.Direction{lokipb.Direction_FORWARD, lokipb.Direction_BACKWARD} {
			got, _ := entries(t, c, &lokipb.QueryRequest{Selector: selector, Direction: d})
			ends := []string{`499 {a="3"} before`, `501 {a="3"} behind`}
			if d == lokipb.Direction_BACKWARD {
				slices.Reverse(ends)
			}
			if len(got) != 5502 || got[0] != ends[0] || got[5501] != ends[1] {
				t.Fatalf("%s, %v: %d entries, from %s to %s", selector, d, len(got), got[0], got[len(got)-1])
			}
			slices.Sort(got)
			if n := len(slices.Compact(got)); !strings.Contains(selector, "trunc") && n != 5502 {
				t.Fatalf("%v: %d entries twice", d, 5502-n)
			}
		}
	}
}

// TestLongLines: messages stay small, and what one answer must not have comes in
// several.
func TestLongLines(t *testing.T) {
	m := &memory{}
	var lines []string
	for i := range 60 {
		lines = append(lines, fmt.Sprint(i, strings.Repeat("x", 600<<10)))
	}
	m.add(`{a="1"}`, 1000, 1, lines...)
	got, sizes := entries(t, serve(t, m), &lokipb.QueryRequest{Selector: `{a="1"}`})
	if len(got) != 60 || slices.Max(sizes) != 1 {
		t.Fatalf("%d entries in batches of %d", len(got), sizes)
	}
}

func samples(c lokipb.QuerierClient, ctx context.Context, r *lokipb.SampleQueryRequest) (out []string, sizes []int, err error) {
	stream, err := c.QuerySample(ctx, r)
	for {
		var m *lokipb.SampleQueryResponse
		if err == nil {
			m, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			return out, sizes, nil
		}
		if err != nil {
			return out, sizes, err
		}
		n := 0
		for _, s := range m.Series {
			for _, x := range s.Samples {
				out = append(out, fmt.Sprintf("%d %s %v", x.Timestamp, s.Labels, x.Value))
				n++
			}
		}
		sizes = append(sizes, n)
	}
}

func TestSamples(t *testing.T) {
	m := &memory{}
	m.add(`{a="1"}`, 1000, 2, numbered(1000)...)
	m.add(`{a="1"}`, 1000, 2, numbered(1000)...) // a copy
	m.add(`{a="2"}`, 1001, 2, numbered(1000)...)
	c := serve(t, m)
	got, sizes, err := samples(c, t.Context(), &lokipb.SampleQueryRequest{Selector: `max by (a) (bytes_over_time({a=~".+"}[1m]))`, Start: at(1000), End: at(2990)})
	if err != nil || len(got) != 1990 || got[0] != `1000 {a="1"} 6` || got[1989] != `2989 {a="2"} 8` || slices.Max(sizes) > batchSamples || sizes[len(sizes)-1] != 0 {
		t.Fatalf("%d samples, batches of %d, %v", len(got), sizes, err)
	}
	got, _, err = samples(c, t.Context(), &lokipb.SampleQueryRequest{Selector: `sum(rate({a=~".+"} |= "line 99" [1m]))`, Start: at(0), End: at(1e9)})
	if err != nil || len(got) != 22 || !strings.HasSuffix(got[0], " {} 1") {
		t.Fatalf("%q, %v", got, err)
	}
	for _, bad := range []string{`{a="1"}`, `rate({a="1"}[1m]) + rate({a="2"}[1m])`, `vector(1)`, `rate({a="1"`} {
		if _, _, err := samples(c, t.Context(), &lokipb.SampleQueryRequest{Selector: bad, Start: at(0), End: at(1e9)}); status.Code(err) != 400 {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestCancel: a call whose client has enough ends.
func TestCancel(t *testing.T) {
	m := &memory{}
	m.add(`{a="1"}`, 1000, 1, numbered(100_000)...)
	c := serve(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.Query(ctx, &lokipb.QueryRequest{Selector: `{a="1"}`, Start: at(0), End: at(1e15)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	// The server's handlers are waited for at the end of the test.
}

func TestErrors(t *testing.T) {
	m := &memory{err: push.Errorf(push.Replaying, "replaying the WAL")}
	c := serve(t, m)
	_, err := c.Label(t.Context(), &lokipb.LabelRequest{})
	if s := status.Convert(err); s.Code() != codes.Unavailable || s.Message() != "replaying the WAL" {
		t.Errorf("replaying: %v", err)
	}
	m.err = errors.New("disk on fire")
	if _, err := c.Series(t.Context(), &lokipb.SeriesRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("a fault: %v", err)
	}
	m.err = nil
	if _, err := c.Series(t.Context(), &lokipb.SeriesRequest{Groups: []string{"{"}}); status.Code(err) != 400 {
		t.Errorf("a bad selector: %v", err)
	}
	if _, err := c.GetVolume(t.Context(), &lokipb.VolumeRequest{AggregateBy: "x"}); status.Code(err) != 400 {
		t.Errorf("a bad aggregation: %v", err)
	}
	nobody := New(Deps{Source: m, Tenant: func(context.Context) (string, error) { return "", push.Errorf(push.NoTenant, "no org id") }})
	if _, err := nobody.TailersCount(t.Context(), nil); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no tenant: %v", err)
	}
}

// TestTail shows what comes, once, and lets no tenant have many.
func TestTail(t *testing.T) {
	m := &memory{}
	now := time.Now().UnixNano()
	m.add(`{a="1"}`, now-1e9, 1, "old")
	c := serve(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var streams []grpc.ServerStreamingClient[lokipb.TailResponse]
	for range maxTails {
		s, err := c.Tail(ctx, &lokipb.TailRequest{Query: `{a="1"}`})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	for n := uint32(0); n < maxTails; time.Sleep(time.Millisecond) {
		r, err := c.TailersCount(ctx, &lokipb.TailersCountRequest{})
		if err != nil {
			t.Fatal(err)
		}
		n = r.Count
	}
	more, err := c.Tail(ctx, &lokipb.TailRequest{Query: `{a="1"}`})
	if err == nil {
		_, err = more.Recv()
	}
	if status.Code(err) != 400 || !strings.Contains(err.Error(), "max concurrent tail requests") {
		t.Errorf("one too many: %v", err)
	}
	// The first look takes what is there; each line behind it comes once.
	ctx2, enough := context.WithCancel(ctx)
	var adding sync.WaitGroup
	adding.Go(func() {
		for i := 0; ctx2.Err() == nil; i++ {
			m.add(`{a="1"}`, time.Now().UnixNano(), 1, fmt.Sprint(i))
			time.Sleep(100 * time.Millisecond)
		}
	})
	next := -1
	for n := 0; n < 20; {
		r, err := streams[0].Recv()
		if err != nil || string(r.Stream.Labels) != `{a="1"}` {
			t.Fatalf("%v, %v", r, err)
		}
		for _, e := range r.Stream.Entries {
			i, err := strconv.Atoi(string(e.Line))
			if err != nil || next >= 0 && i != next {
				t.Fatalf("line %q, want %d", e.Line, next)
			}
			next = i + 1
			n++
		}
	}
	enough()
	adding.Wait()
	cancel()
	for err = nil; err == nil; {
		_, err = streams[0].Recv()
	}
	if status.Code(err) != codes.Canceled {
		t.Error(err)
	}
}

func TestShards(t *testing.T) {
	f := func(text string, want fingerprints, ok bool) {
		t.Helper()
		if got, is := parseShard(text); is != ok || got != want {
			t.Errorf("%s: %x, %v", text, got, is)
		}
	}
	f("0_of_2", fingerprints{0, math.MaxUint64 / 2}, true)
	f("1_of_2", fingerprints{math.MaxUint64/2 + 1, math.MaxUint64}, true)
	f("15_of_16", fingerprints{0xf << 60, math.MaxUint64}, true)
	f(`{"bounds":{"min":5,"max":18446744073709551615},"stats":null}`, fingerprints{5, math.MaxUint64}, true)
	for _, bad := range []string{"", "2_of_2", "0_of_1", "0_of_3", "-1_of_2", "0_of_0", "x", "1_of_", "{}", `{"bounds":{"min":6,"max":5}}`, "0_of_8589934592"} {
		f(bad, fingerprints{}, false)
	}
}

func TestTimes(t *testing.T) {
	f := func(in *timestamppb.Timestamp, want int64) {
		t.Helper()
		if got := nanos(in, 7); got != want {
			t.Errorf("%v: %d, want %d", in, got, want)
		}
	}
	f(nil, 7)
	f(timestamppb.New(time.Time{}), math.MinInt64)
	f(&timestamppb.Timestamp{Seconds: math.MaxInt64}, math.MaxInt64)
	for _, ns := range []int64{0, 1, -1, 1e9, -1e9, 1_790_000_000_123_456_789, math.MaxInt64 - 1e9, math.MinInt64 + 1e9} {
		f(timestamp(&timestamppb.Timestamp{}, ns), ns)
	}
	if fromMillis(math.MaxInt64) < 0 || fromMillis(math.MinInt64) > 0 || fromMillis(-5) != -5e6 {
		t.Error("times in ms overflow")
	}
}

func FuzzShard(f *testing.F) {
	for _, s := range []string{"0_of_2", "15_of_16", `{"bounds":{"min":5,"max":7}}`, "0_of_1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, ok := parseShard(s); ok && got.Min > got.Max {
			t.Fatalf("%q: %x", s, got)
		}
	})
}
