package grpcpush

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/plugins/grpcpush/pushclient"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/proto/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink keeps what is pushed in the plainest form, and does as it is told.
type sink struct {
	mu       sync.Mutex
	pushes   int
	got      []string
	tenant   string
	receiver string
	id       push.ID
	held     int64
	full     int64 // bytes that are admitted at most; 0: any number
	do       func(ctx context.Context, b *push.Batch) error
}

func (s *sink) Admit(_ context.Context, n int64) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full > 0 && s.held+n > s.full {
		return nil, push.Errorf(push.Overloaded, "too many bytes in flight")
	}
	s.held += n
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held -= n
	}, nil
}

func (s *sink) Push(ctx context.Context, b *push.Batch) error {
	s.mu.Lock()
	s.pushes++
	s.got = plain(b)
	s.tenant, s.receiver, s.id = strings.Clone(b.Tenant), strings.Clone(b.Receiver), b.ID
	s.mu.Unlock()
	if s.do != nil {
		return s.do(ctx, b)
	}
	return nil
}

func (s *sink) heldNow() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// plain writes every entry as one text, with what refuses it.
func plain(b *push.Batch) []string {
	var out []string
	for i := range b.Streams {
		st := &b.Streams[i]
		for j := range b.StreamEntries(st) {
			e := &b.StreamEntries(st)[j]
			t := fmt.Sprintf("%s %d %q", b.Bytes(st.RawLabels), e.TS, b.Bytes(e.Line))
			for it := b.Pairs(e); it.Next(); {
				t += fmt.Sprintf(" %s=%q", it.Name, it.Value)
			}
			if st.Reject != push.OK || e.Reject != push.OK {
				t += fmt.Sprintf(" (%s %s)", st.Reject, e.Reject)
			}
			out = append(out, t)
		}
	}
	return out
}

func sample(n int) *push.Batch {
	gen := loglines.New(1)
	bl := push.NewBuilder(push.Get())
	for i := range n {
		ts := int64(1_790_000_000_000_000_000) + int64(i)*1_234_567
		bl.Pair([]byte("pod"), fmt.Appendf(nil, "web-%d", i%9))
		bl.EntryExact(bl.Stream(fmt.Appendf(nil, `{app="%s"}`, loglines.AppName(i%5))), ts, gen.AppendLine(nil, i%5, ts))
	}
	b := bl.Finish()
	b.Tenant, b.Receiver = "team-a", "fluentbit"
	return b
}

// serve starts a server and returns its address and a function that stops it.
func serve(t testing.TB, s Sink, addr string, cfg Config, internal bool) (string, func()) {
	t.Helper()
	rc, err := New(Deps{Sink: s, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: prometheus.NewRegistry(), Internal: internal}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(cfg.ServerOptions()...)
	rc.Register(srv)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); err != nil {
			t.Error(err)
		}
	}()
	var once sync.Once
	stop := func() { once.Do(func() { srv.Stop(); <-done }) }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func dial(t testing.TB, addrs ...string) *pushclient.Client {
	t.Helper()
	c, err := pushclient.New(pushclient.Options{Addresses: addrs, UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	t.Cleanup(cancel)
	return c
}

func TestPush(t *testing.T) {
	s := &sink{}
	addr, _ := serve(t, s, "127.0.0.1:0", DefaultConfig(), false)
	c := dial(t, addr)
	b := sample(1000)
	b.ID = push.ID{1, 2, 3}
	if err := c.Push(ctx(t), b); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.got, plain(b)) || s.tenant != "team-a" || s.id != b.ID || s.receiver != "fluentbit" {
		t.Fatalf("%d entries, tenant %q, id %x, receiver %q", len(s.got), s.tenant, s.id, s.receiver)
	}
	b.Receiver, b.ID = "anything", push.ID{}
	if err := c.Push(ctx(t), b); err != nil {
		t.Fatal(err)
	}
	if s.receiver != "grpc" || s.id != (push.ID{}) {
		t.Fatalf("receiver %q, id %x", s.receiver, s.id)
	}
	// A body that is not compressed.
	plainBody := push.Get()
	if err := plainBody.SetBody(b.Data, push.CodecNone, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Push(ctx(t), plainBody); err != nil || len(s.got) != 1000 {
		t.Fatalf("%d entries, %v", len(s.got), err)
	}
	// What to say of no entries at all is the sink's business.
	if err := c.Push(ctx(t), push.NewBuilder(push.Get()).Finish()); err != nil || len(s.got) != 0 {
		t.Fatalf("no entries: %v, pushed %q", err, s.got)
	}
	if n := s.heldNow(); n != 0 {
		t.Fatalf("%d bytes not given back", n)
	}
}

func TestRefusals(t *testing.T) {
	s := &sink{}
	addr, _ := serve(t, s, "127.0.0.1:0", DefaultConfig(), false)
	c := dial(t, addr)
	rejected := &push.Rejected{Total: 10}
	rejected.Add(push.TooOld, `{app="x"}`, 3, 100, func() string { return "entry too old" })
	rejected.Groups[0].OldestOK = 12345
	s.do = func(_ context.Context, b *push.Batch) error {
		b.Streams[1].Reject = push.InvalidLabels
		b.Entries[0].Reject = push.TooOld
		return rejected
	}
	b := sample(10)
	var got *push.Rejected
	if err := c.Push(ctx(t), b); !errors.As(err, &got) || !reflect.DeepEqual(got, rejected) {
		t.Fatalf("got %#v", err)
	}
	if b.Streams[1].Reject != push.InvalidLabels || b.Entries[0].Reject != push.TooOld || b.Entries[1].Reject != push.OK {
		t.Fatalf("marks: %v", plain(b))
	}
	for r := push.MissingLabels; r <= push.Internal; r++ {
		want := &push.Error{Reason: r, Msg: "no: " + r.String(), RetryAfter: 1500 * time.Millisecond}
		s.do = func(context.Context, *push.Batch) error { return want }
		var e *push.Error
		if err := c.Push(ctx(t), sample(1)); !errors.As(err, &e) || *e != *want {
			t.Fatalf("%s: got %#v", r, err)
		}
	}
	s.do = func(context.Context, *push.Batch) error { return errors.New("boom") }
	var e *push.Error
	if err := c.Push(ctx(t), sample(1)); !errors.As(err, &e) || e.Reason != push.Internal || e.Msg != "boom" {
		t.Fatalf("got %#v", err)
	}
	stale := sample(1)
	stale.Stale = true
	if err := c.Push(ctx(t), stale); err == nil {
		t.Fatal("a stale batch was sent")
	}
}

func TestBadRequests(t *testing.T) {
	s := &sink{}
	cfg := DefaultConfig()
	cfg.MaxDecodedSize = 1 << 20
	rc, err := New(Deps{Sink: s}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Clone(sample(3).Body)
	f := func(req *ingestpb.PushRequest, want string) {
		t.Helper()
		_, err := rc.Push(context.Background(), req)
		st, _ := status.FromError(err)
		if st.Code() != codes.InvalidArgument || st.Message() != want {
			t.Fatalf("got %v, want %s", err, want)
		}
		if s.pushes != 0 || s.heldNow() != 0 {
			t.Fatalf("%d pushes, %d bytes not given back", s.pushes, s.heldNow())
		}
	}
	f(&ingestpb.PushRequest{Body: body, Codec: 1, PushId: []byte{1}}, "push_id has 1 bytes; it must have 16 or none")
	f(&ingestpb.PushRequest{Body: body, Codec: 9}, "unknown codec 9")
	f(&ingestpb.PushRequest{Body: body, Codec: 257}, "unknown codec 257")
	f(&ingestpb.PushRequest{Codec: 1}, "snappy: s2: corrupt input")
	f(&ingestpb.PushRequest{Codec: 1, Body: []byte{0x80, 0x80, 0x80, 0x80, 0x04, 0, 0}}, "snappy: announced length differs from the content's")
	f(&ingestpb.PushRequest{Body: []byte{0x0a, 9}}, "truncated protobuf")
	f(&ingestpb.PushRequest{Body: make([]byte, 1<<20+1)}, "decompressed push is larger than the limit of 1048576 bytes")
	f(&ingestpb.PushRequest{Body: body, Codec: 1, Refused: []*ingestpb.Refused{{}}}, "entries are marked as refused; only servers may do that")
	rc.d.Internal = true
	f(&ingestpb.PushRequest{Body: body, Codec: 1, Refused: []*ingestpb.Refused{{Stream: 99}}}, "ingestpb: stream 99 of 3 is marked as refused")

	s.full = 10
	if _, err := rc.Push(context.Background(), &ingestpb.PushRequest{Body: body, Codec: 1}); status.Code(err) != codes.Unavailable {
		t.Fatalf("no memory for the body: %v", err)
	}
	s.full = int64(len(body)) + 10
	if _, err := rc.Push(context.Background(), &ingestpb.PushRequest{Body: body, Codec: 1}); status.Code(err) != codes.Unavailable {
		t.Fatalf("no memory for what it decodes to: %v", err)
	}
	if s.pushes != 0 || s.heldNow() != 0 {
		t.Fatalf("%d pushes, %d bytes not given back", s.pushes, s.heldNow())
	}
	if _, err := New(Deps{Sink: s}, Config{}); err == nil {
		t.Fatal("limits of 0 are accepted")
	}
}

// TestInternal passes on what one server says to another.
func TestInternal(t *testing.T) {
	s := &sink{}
	addr, _ := serve(t, s, "127.0.0.1:0", DefaultConfig(), true)
	b := sample(10)
	b.Receiver = "forward"
	b.Streams[2].Reject = push.LineTooLong
	b.Entries[1].Reject = push.TooNew
	if err := dial(t, addr).Push(ctx(t), b); err != nil {
		t.Fatal(err)
	}
	if s.receiver != "forward" || !slices.Equal(s.got, plain(b)) {
		t.Fatalf("receiver %q, got %q, want %q", s.receiver, s.got, plain(b))
	}
}

// TestKeepRefused hands on what a plugin says of its dead letters, and answers
// with what was refused all the same.
func TestKeepRefused(t *testing.T) {
	var kept bool
	var left int
	var dead []string
	s := &sink{do: func(_ context.Context, b *push.Batch) error {
		kept, left, dead = b.KeepRefused, b.DeadLeft, nil
		for _, d := range b.Dead {
			dead = append(dead, fmt.Sprintf("%s %s %q %d", d.Reason, d.Text, d.Raw, d.TS))
		}
		if len(b.Entries) == 0 {
			return nil
		}
		b.Entries[0].Reject = push.TooOld
		r := &push.Rejected{Total: len(b.Entries)}
		r.Add(push.TooOld, "{}", 1, 1, func() string { return "old" })
		return r
	}}
	addr, _ := serve(t, s, "127.0.0.1:0", DefaultConfig(), false)
	c := dial(t, addr)
	b := sample(10)
	b.KeepRefused, b.DeadLeft = true, 2
	b.Bury(push.Malformed, "no event", []byte("\xc1"))
	var rejected *push.Rejected
	if err := c.Push(ctx(t), b); !errors.As(err, &rejected) || rejected.Entries != 1 || b.Entries[0].Reject != push.TooOld {
		t.Fatalf("got %v", err)
	}
	want := []string{`malformed no event "\xc1" 0`}
	if !kept || left != 2 || !slices.Equal(dead, want) {
		t.Fatalf("kept %v, %d left, %q", kept, left, dead)
	}
	only := push.NewBuilder(push.Get()).Finish()
	only.Bury(push.Malformed, "no event", []byte("\xc1"))
	if err := c.Push(ctx(t), only); err != nil || kept || !slices.Equal(dead, want) {
		t.Fatalf("dead letters only: %v, %q", err, dead)
	}
}

func TestTooLargeForGRPC(t *testing.T) {
	s := &sink{}
	cfg := DefaultConfig()
	cfg.MaxRecvSize = 1000
	addr, _ := serve(t, s, "127.0.0.1:0", cfg, false)
	var e *push.Error
	if err := dial(t, addr).Push(ctx(t), sample(1000)); !errors.As(err, &e) || e.Reason != push.BodyTooLarge {
		t.Fatalf("got %#v", err)
	}
}

func TestFailover(t *testing.T) {
	a, b := &sink{}, &sink{}
	addrA, stopA := serve(t, a, "127.0.0.1:0", DefaultConfig(), false)
	addrB, stopB := serve(t, b, "127.0.0.1:0", DefaultConfig(), false)
	c := dial(t, addrA, addrB)
	// Both get a share.
	for range 100 {
		if err := c.Push(ctx(t), sample(1)); err != nil {
			t.Fatal(err)
		}
		if a.pushes > 0 && b.pushes > 0 {
			break
		}
	}
	if a.pushes == 0 || b.pushes == 0 {
		t.Fatalf("%d pushes to one server, %d to the other", a.pushes, b.pushes)
	}
	// One says that it is leaving: nobody notices.
	a.do = func(context.Context, *push.Batch) error { return push.Errorf(push.Leaving, "leaving") }
	for range 10 {
		if err := c.Push(ctx(t), sample(1)); err != nil {
			t.Fatal(err)
		}
	}
	// It is gone.
	stopA()
	before := b.pushes
	for range 10 {
		if err := c.Push(ctx(t), sample(1)); err != nil {
			t.Fatal(err)
		}
	}
	if b.pushes-before != 10 {
		t.Fatalf("%d pushes to the server that is left", b.pushes-before)
	}
	// Both are gone: a retry may help. Then one comes back.
	stopB()
	var e *push.Error
	if err := c.Push(ctx(t), sample(1)); !errors.As(err, &e) || !e.Reason.Retryable() {
		t.Fatalf("no server: %#v", err)
	}
	again := &sink{}
	serve(t, again, addrA, DefaultConfig(), false)
	deadline := ctx(t)
	for again.pushes == 0 {
		err := c.Push(deadline, sample(1))
		if deadline.Err() != nil {
			t.Fatalf("a server that came back is not found: %v", err)
		}
	}
}

func TestDeadline(t *testing.T) {
	s := &sink{do: func(ctx context.Context, _ *push.Batch) error { <-ctx.Done(); return ctx.Err() }}
	addr, _ := serve(t, s, "127.0.0.1:0", DefaultConfig(), false)
	c := dial(t, addr)
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.Push(short, sample(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %#v", err)
	}
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Push(stopped, sample(1)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %#v", err)
	}
	// Nobody listens, and packets may be lost: the deadline holds.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	mute := dial(t, l.Addr().String())
	short2, cancel2 := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel2()
	if err := mute.Push(short2, sample(1)); err == nil {
		t.Fatal("pushed to a server that says nothing")
	}
}

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"", "host", "host:", ":9095", "host:0", "host:70000", "http://host:1", "a b:1"} {
		if _, err := pushclient.New(pushclient.Options{Addresses: []string{bad}}); err == nil {
			t.Fatalf("%q is accepted", bad)
		}
	}
	if _, err := pushclient.New(pushclient.Options{}); err == nil {
		t.Fatal("no address is accepted")
	}
	for _, good := range []string{"host:1", "127.0.0.1:9095", "[::1]:9095", "a.b-c.d:65535"} {
		if err := pushclient.CheckAddress(good); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzPush(f *testing.F) {
	for _, b := range []*push.Batch{sample(3), sample(0)} {
		req, err := ingestpb.NewRequest(b)
		if err != nil {
			f.Fatal(err)
		}
		req.Refused = []*ingestpb.Refused{{Stream: 1, First: 0, Count: 1, Reason: "too_old"}}
		req.KeepRefused, req.DeadLeft = true, 1
		req.Dead = []*ingestpb.Dead{{Reason: "malformed", Text: "why", Raw: []byte("x"), Size: 9, Time: 1}}
		p, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	s := &sink{full: 64 << 20}
	rc, err := New(Deps{Sink: s, Internal: true}, DefaultConfig())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var req ingestpb.PushRequest
		if proto.Unmarshal(p, &req) != nil {
			return
		}
		_, err := rc.Push(context.Background(), &req)
		if c := status.Code(err); c != codes.OK && c != codes.InvalidArgument && c != codes.Unavailable {
			t.Fatalf("got %v", err)
		}
		if n := s.heldNow(); n != 0 {
			t.Fatalf("%d bytes not given back", n)
		}
	})
}

type nullSink struct{}

func (nullSink) Admit(context.Context, int64) (func(), error) { return func() {}, nil }
func (nullSink) Push(_ context.Context, b *push.Batch) error  { return nil }

func BenchmarkPush(b *testing.B) {
	addr, _ := serve(b, nullSink{}, "127.0.0.1:0", DefaultConfig(), false)
	c := dial(b, addr)
	batch := sample(5000)
	b.SetBytes(int64(len(batch.Data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Push(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
	}
}
