//go:build integration

package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/proto/lokipb"
	"github.com/loki-go/loki-go/query/logql"
)

// querier is a gRPC service logproto.Querier.
type querier struct {
	name string
	lokipb.QuerierClient
}

func dialQuerier(t *testing.T, name, addr string) querier {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return querier{name, lokipb.NewQuerierClient(conn)}
}

// known fails if a message has fields that the descriptor does not have.
func known(t *testing.T, m proto.Message) {
	t.Helper()
	var check func(protoreflect.Message)
	check = func(m protoreflect.Message) {
		if u := m.GetUnknown(); len(u) > 0 {
			t.Errorf("%s has unknown fields: %x", m.Descriptor().FullName(), u)
		}
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case f.IsMap() && f.MapValue().Message() != nil:
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { check(v.Message()); return true })
			case f.IsList() && f.Message() != nil:
				for i := range v.List().Len() {
					check(v.List().Get(i).Message())
				}
			case f.Message() != nil && !f.IsMap():
				check(v.Message())
			}
			return true
		})
	}
	check(m.ProtoReflect())
}

// received gathers what a call sends.
func received[T proto.Message](t *testing.T, stream interface{ Recv() (T, error) }, err error, f func(T)) error {
	t.Helper()
	for err == nil {
		var m T
		if m, err = stream.Recv(); err == nil {
			known(t, m)
			f(m)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func pairText(ps []*lokipb.Pair) string {
	var out []string
	for _, p := range ps {
		out = append(out, fmt.Sprintf("%s=%q", p.Name, p.Value))
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// entries returns the entries of an answer as texts, in order of time and of
// labels, and checks that each batch is in the order that was asked for.
func (q querier) entries(t *testing.T, ctx context.Context, r *lokipb.QueryRequest) ([]string, error) {
	t.Helper()
	var out []string
	most := 0
	last := int64(0)
	stream, err := q.Query(ctx, r)
	err = received(t, stream, err, func(m *lokipb.QueryResponse) {
		n := 0
		var times []int64
		for _, s := range m.Streams {
			n += len(s.Entries)
			for _, e := range s.Entries {
				times = append(times, e.Timestamp.AsTime().UnixNano())
				out = append(out, fmt.Sprintf("%d %s %d %q meta %s parsed %s", e.Timestamp.AsTime().UnixNano(), s.Labels, s.Hash, e.Line, pairText(e.StructuredMetadata), pairText(e.Parsed)))
			}
		}
		slices.Sort(times)
		if r.Direction == lokipb.Direction_BACKWARD {
			slices.Reverse(times)
		}
		if n > 0 && last != 0 && (times[0] < last) != (r.Direction == lokipb.Direction_BACKWARD) && times[0] != last {
			t.Errorf("%s, %s: a batch begins with %d, the one before ended with %d", r.Selector, q.name, times[0], last)
		}
		if n > 0 {
			last = times[n-1]
		}
		most = max(most, n)
	})
	if most > 128 {
		t.Errorf("%s, %s: a batch of %d entries", r.Selector, q.name, most)
	}
	slices.Sort(out)
	return out, err
}

// samples returns the samples of an answer as texts.
func (q querier) samples(t *testing.T, ctx context.Context, r *lokipb.SampleQueryRequest) ([]string, error) {
	t.Helper()
	var out []string
	last := int64(0)
	stream, err := q.QuerySample(ctx, r)
	err = received(t, stream, err, func(m *lokipb.SampleQueryResponse) {
		first, end := int64(0), int64(0)
		for _, s := range m.Series {
			for _, x := range s.Samples {
				if first == 0 || x.Timestamp < first {
					first = x.Timestamp
				}
				end = max(end, x.Timestamp)
				out = append(out, fmt.Sprintf("%d %s %d %v %d", x.Timestamp, s.Labels, s.StreamHash, x.Value+0, x.Hash)) // -0 is 0: Loki does not send it
			}
		}
		if first != 0 && first < last {
			t.Errorf("%s, %s: a batch begins with %d, the one before ended with %d", r.Selector, q.name, first, last)
		}
		last = max(last, end)
	})
	slices.Sort(out)
	return out, err
}

// same compares two answers. Messages of errors differ in how they are wrapped.
func same(t *testing.T, what string, ours, lokis []string, err, lokiErr error) (answered bool) {
	t.Helper()
	if (err == nil) != (lokiErr == nil) {
		t.Errorf("%s:\n ours %d, %v\n loki %d, %v", what, len(ours), err, len(lokis), lokiErr)
		return false
	}
	if err != nil {
		return false
	}
	for i := range max(len(ours), len(lokis)) {
		if i >= len(ours) || i >= len(lokis) || ours[i] != lokis[i] {
			at := func(s []string) string {
				if i < len(s) {
					return fmt.Sprintf("%.700s", s[i])
				}
				return "nothing"
			}
			t.Errorf("%s: %d and %d, number %d differs:\n ours %s\n loki %s", what, len(ours), len(lokis), i, at(ours), at(lokis))
			return false
		}
	}
	return len(ours) > 0
}

// aggregationsOf returns the range aggregations of a query, with sums around them.
func aggregationsOf(text string) (out []logql.Expr) {
	e, err := logql.Parse(text)
	if err != nil {
		return nil
	}
	inSum := map[logql.Expr]bool{}
	logql.Walk(e, func(e logql.Expr) {
		switch e := e.(type) {
		case *logql.VectorAggregation:
			if r, ok := e.Inner.(*logql.RangeAggregation); ok && e.Op == "sum" {
				out, inSum[r] = append(out, e), true
			}
		case *logql.RangeAggregation:
			if !inSum[e] {
				out = append(out, e)
			}
		}
	})
	return out
}

// TestQuerierLikeLoki asks the gRPC service of an ingester and that of stock
// Loki's, which hold the same lines, the same: messages, entries, labels, hashes
// and samples must be equal. Loki stores no levels: loki-go stores none, and gives
// those who read its chunks, too, the entries as they are there.
func TestQuerierLikeLoki(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-scope-orgid", "fake")
	start := time.Now().Add(-30 * time.Minute).Truncate(time.Minute).UnixNano()
	streams := testkit.LogQLStreams(start)
	s := testkit.NewServer(t, t.TempDir(), "-limits.discover-service-name=")
	s.Start()
	base, addr := startLokiWithGRPC(t, "discover_log_levels: false")
	s.WaitReady()
	for _, c := range []*testkit.Client{s.Client(""), {Base: base}} {
		if err := c.Push(ctx, streams); err != nil {
			t.Fatal(err)
		}
	}
	us, loki := dialQuerier(t, "loki-go", s.GRPC), dialQuerier(t, "loki", addr)
	cases, err := testkit.ReadLogQLCases("testdata", start)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("Query", func(t *testing.T) { compareEntries(t, ctx, us, loki, cases) })
	t.Run("QuerySample", func(t *testing.T) { compareSamples(t, ctx, us, loki, cases, start) })
	t.Run("index", func(t *testing.T) { compareIndex(t, ctx, us, loki, start) })
	t.Run("Tail", func(t *testing.T) { compareTails(t, ctx, us, loki, s.Client(""), &testkit.Client{Base: base}) })
	t.Run("refused", func(t *testing.T) { refusedQueries(t, ctx, us) })
}

func paramTime(t *testing.T, c *testkit.LogQLCase, name string) (*timestamppb.Timestamp, bool) {
	n, err := strconv.ParseInt(c.Params.Get(name), 10, 64)
	return timestamppb.New(time.Unix(0, n)), err == nil
}

func compareEntries(t *testing.T, ctx context.Context, us, loki querier, cases []testkit.LogQLCase) {
	asked, answered := 0, 0
	for _, c := range cases {
		if !strings.HasPrefix(c.Text, "log") || c.Known != "" {
			continue
		}
		from, ok1 := paramTime(t, &c, "start")
		through, ok2 := paramTime(t, &c, "end")
		limit, err := strconv.ParseUint(c.Params.Get("limit"), 10, 32)
		if !ok1 || !ok2 || err != nil {
			continue // about parameters of HTTP
		}
		r := &lokipb.QueryRequest{Selector: c.Params.Get("query"), Start: from, End: through, Limit: uint32(limit), Direction: lokipb.Direction_BACKWARD}
		if c.Params.Get("direction") == "forward" {
			r.Direction = lokipb.Direction_FORWARD
		}
		got, err := us.entries(t, ctx, r)
		want, lokiErr := loki.entries(t, ctx, r)
		asked++
		if same(t, c.Text, got, want, err, lokiErr) {
			answered++
		}
	}
	t.Logf("%d queries, of which %d find entries", asked, answered)
	if answered < asked/2 {
		t.Error("too few queries find anything")
	}
	// All of everything, and shards of it.
	all := func(r *lokipb.QueryRequest) int {
		r.Selector, r.Start, r.End = `{app=~".+"}`, timestamppb.New(time.Now().Add(-time.Hour)), timestamppb.New(time.Now().Add(time.Hour))
		r.Direction = lokipb.Direction_FORWARD
		got, err := us.entries(t, ctx, r)
		want, lokiErr := loki.entries(t, ctx, r)
		same(t, fmt.Sprint(r), got, want, err, lokiErr)
		return len(got)
	}
	total, sum := all(&lokipb.QueryRequest{}), 0
	for i := range 4 {
		n := all(&lokipb.QueryRequest{Shards: []string{fmt.Sprintf("%d_of_4", i)}})
		if n == total {
			t.Errorf("shard %d has all", i)
		}
		sum += n
	}
	if sum != total || total < 1000 {
		t.Errorf("%d entries in shards, of %d", sum, total)
	}
}

func compareSamples(t *testing.T, ctx context.Context, us, loki querier, cases []testkit.LogQLCase, start int64) {
	asked, answered := 0, 0
	done := map[string]bool{}
	for _, c := range cases {
		if c.Known != "" {
			continue
		}
		for _, e := range aggregationsOf(c.Params.Get("query")) {
			text := e.String()
			// Loki's queriers leave out what changes lines for nothing, its ingesters look
			// at it.
			if done[text] || strings.Contains(text, `line_format "{{nope"`) {
				continue
			}
			done[text] = true
			r := &lokipb.SampleQueryRequest{Selector: text, Start: timestamppb.New(time.Unix(0, start+60e9)), End: timestamppb.New(time.Unix(0, start+400e9))}
			got, err := us.samples(t, ctx, r)
			want, lokiErr := loki.samples(t, ctx, r)
			asked++
			if same(t, text, got, want, err, lokiErr) {
				answered++
			}
		}
	}
	t.Logf("%d aggregations, of which %d have samples", asked, answered)
	if answered < asked/2 {
		t.Error("too few aggregations have samples")
	}
}

func texts(list [][]byte) (out []string) {
	for _, b := range list {
		out = append(out, string(b))
	}
	slices.Sort(out)
	return out
}

func compareIndex(t *testing.T, ctx context.Context, us, loki querier, start int64) {
	from, through := timestamppb.New(time.Unix(0, start)), timestamppb.New(time.Unix(0, start+3600e9))
	both := func(what string, ask func(q querier) ([]string, error)) {
		t.Helper()
		got, err := ask(us)
		want, lokiErr := ask(loki)
		if !same(t, what, got, want, err, lokiErr) {
			t.Errorf("%s: nothing to compare: %v, %v", what, err, lokiErr)
		}
	}
	for _, r := range []*lokipb.LabelRequest{{}, {Values: true, Name: "app"}, {Query: `{app="num"}`}, {Values: true, Name: "host", Query: `{app="num"}`}} {
		r.Start, r.End = from, through
		both(fmt.Sprint("labels ", r), func(q querier) ([]string, error) {
			m, err := q.Label(ctx, r)
			if err != nil {
				return nil, err
			}
			known(t, m)
			return texts(m.Values), nil
		})
	}
	for _, groups := range [][]string{nil, {`{app="num"}`}, {`{app="num"}`, `{env="prod"}`, `{host="a"}`}} {
		both(fmt.Sprint("series ", groups), func(q querier) (out []string, err error) {
			m, err := q.Series(ctx, &lokipb.SeriesRequest{Start: from, End: through, Groups: groups})
			if err != nil {
				return nil, err
			}
			known(t, m)
			for _, s := range m.Series {
				var ls []string
				for _, l := range s.Labels {
					ls = append(ls, fmt.Sprintf("%s=%q", l.Key, l.Value))
				}
				slices.Sort(ls)
				out = append(out, strings.Join(ls, ","))
			}
			slices.Sort(out)
			return out, nil
		})
	}
	both("detected labels", func(q querier) (out []string, err error) {
		m, err := q.GetDetectedLabels(ctx, &lokipb.DetectedLabelsRequest{Start: from, End: through})
		if err != nil {
			return nil, err
		}
		known(t, m)
		for name, values := range m.Labels {
			out = append(out, fmt.Sprint(name, texts(values.Values)))
		}
		slices.Sort(out)
		return out, nil
	})
	near := func(a, b uint64) bool { return float64(max(a, b)) <= 1.2*float64(min(a, b)) }
	stats := func(q querier) *lokipb.IndexStatsResponse {
		t.Helper()
		m, err := q.GetStats(ctx, &lokipb.IndexStatsRequest{From: start / 1e6, Through: start/1e6 + 3600e3, Matchers: `{app=~"num|json"}`})
		if err != nil {
			t.Fatal(q.name, err)
		}
		known(t, m)
		return m
	}
	if a, b := stats(us), stats(loki); a.Streams != b.Streams || a.Entries != b.Entries || !near(a.Bytes, b.Bytes) || a.Entries == 0 {
		t.Errorf("stats: ours %v, Loki's %v", a, b)
	}
	for _, r := range []*lokipb.VolumeRequest{{}, {AggregateBy: "labels"}, {TargetLabels: []string{"env"}}, {Limit: 2, TargetLabels: []string{"app"}}} {
		r.From, r.Through, r.Matchers = start/1e6, start/1e6+3600e3, `{app=~"num|json|logfmt"}`
		if r.Limit == 0 {
			r.Limit = 100
		}
		volumes := func(q querier) map[string]uint64 {
			m, err := q.GetVolume(ctx, r)
			if err != nil {
				t.Fatal(q.name, err)
			}
			known(t, m)
			out := map[string]uint64{}
			for _, v := range m.Volumes {
				out[string(v.Name)] = v.Volume
			}
			return out
		}
		ours, lokis := volumes(us), volumes(loki)
		if len(ours) != len(lokis) || len(ours) == 0 {
			t.Errorf("%v: ours %v, Loki's %v", r, ours, lokis)
		}
		for name, v := range ours {
			if !near(v, lokis[name]) {
				t.Errorf("%v: %s: ours %d, Loki's %d", r, name, v, lokis[name])
			}
		}
	}
	for _, q := range []querier{us, loki} {
		ids, err := q.GetChunkIDs(ctx, &lokipb.GetChunkIDsRequest{Matchers: `{app="num"}`, Start: from, End: through})
		if err != nil || len(ids.ChunkIds) != 0 {
			t.Errorf("%s: chunks %v, %v", q.name, ids, err)
		}
	}
}

// compareTails follows lines on both.
func compareTails(t *testing.T, ctx context.Context, us, loki querier, clients ...*testkit.Client) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tails := map[string]grpc.ServerStreamingClient[lokipb.TailResponse]{}
	for _, q := range []querier{us, loki} {
		stream, err := q.Tail(ctx, &lokipb.TailRequest{Query: `{app="tail"} | logfmt | n!="3"`, Start: timestamppb.Now(), Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		tails[q.name] = stream
		for { // until the call is known there
			n, err := q.TailersCount(ctx, &lokipb.TailersCountRequest{})
			if err != nil {
				t.Fatal(q.name, err)
			}
			if n.Count == 1 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	push := func(c *testkit.Client, lines ...string) error {
		st := testkit.Stream{Labels: []testkit.Pair{{Name: "app", Value: "tail"}}}
		now := time.Now().UnixNano()
		for i, line := range lines {
			st.Entries = append(st.Entries, testkit.Entry{TS: now + int64(i), Line: line, Meta: []testkit.Pair{{Name: "id", Value: fmt.Sprint(i)}}})
		}
		return c.Push(ctx, []testkit.Stream{st})
	}
	// What is there when a tail begins is not new: it has begun when it shows a line.
	for i, q := range []querier{us, loki} {
		begun, stop := context.WithCancel(ctx)
		done := make(chan error)
		go func() {
			var err error
			for err == nil && begun.Err() == nil {
				err = push(clients[i], "n=begin")
				time.Sleep(200 * time.Millisecond)
			}
			done <- err
		}()
		_, err := tails[q.name].Recv()
		stop()
		if err := errors.Join(err, <-done); err != nil {
			t.Fatal(q.name, err)
		}
	}
	var lines []string
	for i := range 6 {
		lines = append(lines, fmt.Sprintf("n=%d level=info", i))
	}
	for _, c := range clients {
		if err := push(c, lines...); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string][]string{}
	for name, stream := range tails {
		for len(got[name]) < 5 {
			m, err := stream.Recv()
			if err != nil {
				t.Fatalf("%s: %v, after %q", name, err, got[name])
			}
			known(t, m)
			for _, e := range m.Stream.Entries {
				if string(e.Line) == "n=begin" {
					continue
				}
				got[name] = append(got[name], fmt.Sprintf("%s %q meta %s parsed %s", m.Stream.Labels, e.Line, pairText(e.StructuredMetadata), pairText(e.Parsed)))
			}
		}
		slices.Sort(got[name])
	}
	same(t, "tail", got[us.name], got[loki.name], nil, nil)
}

// refusedQueries: what is not served is told.
func refusedQueries(t *testing.T, ctx context.Context, us querier) {
	f := func(want codes.Code, text string, r *lokipb.QueryRequest) {
		t.Helper()
		_, err := us.entries(t, ctx, r)
		if s := status.Convert(err); s.Code() != want || !strings.Contains(s.Message(), text) {
			t.Errorf("%v: %v, want %s with %q", r, err, want, text)
		}
	}
	f(codes.Unimplemented, "needed as text", &lokipb.QueryRequest{Plan: &lokipb.Plan{Raw: []byte(`{"log_selector":{}}`)}})
	f(codes.Unimplemented, "deletes", &lokipb.QueryRequest{Selector: `{a="b"}`, Deletes: []*lokipb.Delete{{Selector: `{a="b"}`}}})
	f(400, "parse error", &lokipb.QueryRequest{Selector: `{a="b"`})
	f(400, "only log selector", &lokipb.QueryRequest{Selector: `rate({a="b"}[1m])`})
	f(400, "no shard", &lokipb.QueryRequest{Selector: `{a="b"}`, Shards: []string{"1_of_3"}})
	if _, err := us.GetDetectedFields(ctx, &lokipb.DetectedFieldsRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("detected fields: %v", err)
	}
}
