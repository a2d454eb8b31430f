package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/loki-go/loki-go/ingester/coverage"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/storage/chunk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is an ingester that remembers what it was given.
type fake struct {
	mu     sync.Mutex
	lines  []string // stream, id and line
	push   func(ctx context.Context, b *push.Batch) error
	series []chunk.Series
	err    error
	parts  []push.Part // of each line
	told   []coverage.Notice
	asked  []string // for whom to store
}

func (f *fake) Push(ctx context.Context, b *push.Batch) error {
	f.mu.Lock()
	answer := f.push
	f.mu.Unlock()
	if answer != nil {
		if err := answer(ctx, b); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range b.Streams {
		s := &b.Streams[i]
		if s.Reject == push.OK && s.Token != labels.Token(b.Tenant, s.Labels) {
			return fmt.Errorf("stream %s has the token %d", s.Labels, s.Token)
		}
		for _, e := range b.StreamEntries(s) {
			if max(s.Reject, e.Reject) == push.OK {
				f.parts = append(f.parts, b.Part)
				f.lines = append(f.lines, fmt.Sprintf("%s %s %s %x %d %s", b.Tenant, b.Receiver, s.Labels, b.ID[:2], e.TS, b.Bytes(e.Line)))
			}
		}
	}
	return nil
}

func (f *fake) Covered(_ context.Context, ns []coverage.Notice) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, ns...)
	return f.err
}

func (f *fake) StoreFor(_ context.Context, instance string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, instance)
	return f.err
}

// answerWith makes f answer pushes with what g says.
func (f *fake) answerWith(g func(ctx context.Context, b *push.Batch) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.push = g
}

func (f *fake) failReads(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fake) Select(_ context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error) {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return nil, err
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
		out = append(out, s.Labels)
	}
	return out, err
}

// serve starts a server for f; it returns the instance and what stops it.
func serve(t testing.TB, f *fake, cfg Config, addr string) (ring.Instance, func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return serveAt(t, f, cfg, ln)
}

func serveAt(t testing.TB, f *fake, cfg Config, ln net.Listener) (ring.Instance, func()) {
	t.Helper()
	s, err := NewServer(ServerDeps{Ingester: f, Log: slog.New(slog.DiscardHandler)}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.WaitForHandlers(true))
	s.Register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(ln) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			g.Stop()
			<-done
			s.Wait()
		})
	}
	t.Cleanup(stop)
	return ring.Instance{ID: "a", Addr: ln.Addr().String(), State: ring.Active, Generation: 1}, stop
}

func newPool(t testing.TB, cfg Config, reg prometheus.Registerer) *Pool {
	t.Helper()
	p, err := NewPool(cfg, reg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func replica(t testing.TB, p *Pool, in ring.Instance) Replica {
	t.Helper()
	r, err := p.Replica(in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// batch returns a checked push with these lines, in a stream each.
func batch(id byte, lines ...string) *push.Batch {
	bl := push.NewBuilder(push.Get())
	for i, line := range lines {
		bl.EntryExact(bl.Stream(fmt.Appendf(nil, `{n="%d"}`, i)), int64(i+1), []byte(line))
	}
	b := bl.Finish()
	b.Tenant, b.Receiver, b.ID = "t", "loki", push.ID{id, id}
	for i := range b.Streams {
		s := &b.Streams[i]
		s.Labels = fmt.Sprintf(`{n="%d", service_name="x"}`, i)
		s.Token = labels.Token(b.Tenant, s.Labels)
	}
	return b
}

func TestPush(t *testing.T) {
	f := &fake{}
	in, _ := serve(t, f, DefaultConfig(), "127.0.0.1:0")
	r := replica(t, newPool(t, DefaultConfig(), nil), in)
	b := batch(7, "one", "two", "three", "four")
	b.Streams[1].Reject = push.InvalidLabels
	b.Entries[2].Reject = push.LineTooLong
	b.Streams[3].Labels = `{n="3"}` // as the client wrote it
	b.Part = push.Part{Gateway: 1 << 63, Number: 9}
	if err := r.Push(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	want := []string{`t loki {n="0", service_name="x"} 0707 1 one`, `t loki {n="3"} 0707 4 four`}
	if !slices.Equal(f.lines, want) {
		t.Fatalf("stored %q, want %q", f.lines, want)
	}
	if f.parts[1] != b.Part {
		t.Fatalf("the part is %v", f.parts[1])
	}
}

// What the ingester says comes back as it was.
func TestPushErrors(t *testing.T) {
	f := &fake{}
	in, _ := serve(t, f, DefaultConfig(), "127.0.0.1:0")
	r := replica(t, newPool(t, DefaultConfig(), nil), in)

	f.answerWith(func(context.Context, *push.Batch) error {
		e := push.Errorf(push.DiskLow, "no room")
		e.RetryAfter = 3 * time.Second
		return e
	})
	var e *push.Error
	if err := r.Push(t.Context(), batch(1, "x")); !errors.As(err, &e) || e.Reason != push.DiskLow || e.RetryAfter != 3*time.Second || e.Msg != "no room" {
		t.Fatalf("got %v", err)
	}
	f.answerWith(func(context.Context, *push.Batch) error { return errors.New("broken") })
	if err := r.Push(t.Context(), batch(1, "x")); !errors.As(err, &e) || e.Reason != push.Internal {
		t.Fatalf("got %v", err)
	}
	f.answerWith(func(_ context.Context, b *push.Batch) error {
		b.Entries[1].Reject = push.OutOfOrder
		var rej push.Rejected
		rej.Add(push.OutOfOrder, b.Streams[1].Labels, 1, 3, func() string { return "too old" })
		rej.Total = 2
		return &rej
	})
	b := batch(1, "x", "y")
	var rej *push.Rejected
	if err := r.Push(t.Context(), b); !errors.As(err, &rej) || rej.Entries != 1 || rej.Groups[0].First != "too old" {
		t.Fatalf("got %v", err)
	}
	if b.Entries[0].Reject != push.OK || b.Entries[1].Reject != push.OutOfOrder {
		t.Fatalf("marks %v, %v", b.Entries[0].Reject, b.Entries[1].Reject)
	}
	f.answerWith(func(ctx context.Context, _ *push.Batch) error {
		<-ctx.Done() // the deadline travels with the push
		return ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Push(ctx, b); err == nil {
		t.Fatal("no error after the deadline")
	}
	// The call goes on.
	f.answerWith(nil)
	if err := r.Push(t.Context(), batch(1, "x")); err != nil {
		t.Fatal(err)
	}
}

// Pushes that come while others are sent, or while there is no connection yet,
// travel together.
func TestManyPushes(t *testing.T) {
	f := &fake{}
	reg := prometheus.NewRegistry()
	p := newPool(t, DefaultConfig(), reg)
	ln, err := net.Listen("tcp", "127.0.0.1:0") // nobody answers there yet
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.conn(ring.Instance{ID: "a", Addr: ln.Addr().String(), State: ring.Active, Generation: 1})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	const workers, each = 64, 20
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				if err := c.Push(t.Context(), batch(1, fmt.Sprintf("%d.%d", w, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for queued := 0; queued < workers; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		queued = len(c.queue)
		c.mu.Unlock()
	}
	if n := testutil.ToFloat64(p.m.messages); n != 0 {
		t.Fatalf("%v messages sent to nobody", n)
	}
	serveAt(t, f, DefaultConfig(), ln)
	wg.Wait()
	slices.Sort(f.lines)
	if n := len(slices.Compact(f.lines)); n != workers*each {
		t.Fatalf("%d different lines", n)
	}
	if n := testutil.ToFloat64(p.m.pushes); n != workers*each {
		t.Fatalf("%v pushes sent", n)
	}
	// The first ones of all workers are one message.
	if n := testutil.ToFloat64(p.m.messages); n > workers*(each-1)+1 {
		t.Fatalf("%v messages for %d pushes", n, workers*each)
	}
}

func noise(n int) string {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(p)
	for i := range p {
		p[i] = ' ' + p[i]%94
	}
	return string(p)
}

// A push that is larger than a message takes several.
func TestLargePush(t *testing.T) {
	f := &fake{}
	in, _ := serve(t, f, DefaultConfig(), "127.0.0.1:0")
	r := replica(t, newPool(t, DefaultConfig(), nil), in)
	line := noise(3*maxMessage + 12345)
	for range 2 {
		if err := r.Push(t.Context(), batch(1, line, "small")); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.lines) != 4 || !strings.HasSuffix(f.lines[2], line) || !strings.HasSuffix(f.lines[3], "small") {
		t.Fatalf("%d lines", len(f.lines))
	}
}

// Pushes fail when the other side goes away, and are taken when it is back.
func TestBrokenConnection(t *testing.T) {
	started := make(chan struct{}, 1)
	f := &fake{push: func(ctx context.Context, _ *push.Batch) error {
		started <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}}
	in, stop := serve(t, f, DefaultConfig(), "127.0.0.1:0")
	r := replica(t, newPool(t, DefaultConfig(), nil), in)
	failed := make(chan error)
	go func() { failed <- r.Push(context.Background(), batch(1, "x")) }()
	<-started
	stop()
	var e *push.Error
	if err := <-failed; err == nil || errors.As(err, &e) && e.Reason != push.Overloaded {
		t.Fatalf("got %v", err)
	}
	if err := r.Push(t.Context(), batch(1, "x")); err == nil || errors.As(err, &e) || !strings.Contains(err.Error(), in.Addr) {
		t.Fatalf("got %v", err)
	}
	back := &fake{}
	serve(t, back, DefaultConfig(), in.Addr)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := r.Push(t.Context(), batch(1, "again"))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if len(back.lines) != 1 {
		t.Fatalf("stored %q", back.lines)
	}
}

// An instance that is too slow does not fill the memory.
func TestQueueIsBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // which nobody answers at
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cfg := DefaultConfig()
	cfg.MaxQueued, cfg.DialTimeout = 1<<20, 20*time.Second
	p := newPool(t, cfg, nil)
	r := replica(t, p, ring.Instance{ID: "a", Addr: ln.Addr().String(), Generation: 1})
	ctx, cancel := context.WithCancel(t.Context())
	line := noise(400 << 10)
	var wg sync.WaitGroup
	full := make(chan struct{})
	var once sync.Once
	for range 6 {
		wg.Go(func() {
			if err := r.Push(ctx, batch(1, line)); err == nil {
				t.Error("stored")
			} else if strings.Contains(err.Error(), "max-queued") {
				once.Do(func() { close(full) })
			}
		})
	}
	<-full
	cancel()
	wg.Wait()
}

func TestPoolGenerations(t *testing.T) {
	f := &fake{}
	in, _ := serve(t, f, DefaultConfig(), "127.0.0.1:0")
	p := newPool(t, DefaultConfig(), nil)
	old := replica(t, p, in)
	if replica(t, p, in) != old {
		t.Fatal("another connection to the same instance")
	}
	in.Generation = 2
	if replica(t, p, in) == old {
		t.Fatal("the connection to an earlier start")
	}
	if err := old.Push(t.Context(), batch(1, "x")); err == nil {
		t.Fatal("a push to an instance that is no more")
	}
	in.Generation = 1
	if _, err := p.Replica(in); err == nil {
		t.Fatal("a connection to an earlier start")
	}
	p.Close()
	if _, err := p.Replica(in); err == nil {
		t.Fatal("a connection after the end")
	}
}

// TestPoolRetain: an instance that leaves the ring keeps its connection for a
// while, and for good if it comes back.
func TestPoolRetain(t *testing.T) {
	f := &fake{}
	in, _ := serve(t, f, DefaultConfig(), "127.0.0.1:0")
	left := func(p *Pool) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.conns) == 0 && len(p.retired) == 0
	}
	nobody, all := ring.New(nil), ring.New([]ring.Instance{in})

	p := newPool(t, DefaultConfig(), nil) // 30 s
	c := replica(t, p, in)
	for range 2 {
		p.Retain(nobody)
	}
	if err := c.Push(t.Context(), batch(1, "x")); err != nil {
		t.Errorf("a push that was under way when the instance left: %v", err)
	}
	p.Retain(all)
	if left(p) || len(p.retired) != 0 || replica(t, p, in) != c {
		t.Error("an instance that came back has another connection")
	}
	p.Retain(nobody)
	p.Close()
	if !left(p) {
		t.Error("a connection after the end")
	}

	cfg := DefaultConfig()
	cfg.QueryTimeout = time.Millisecond
	p = newPool(t, cfg, nil)
	replica(t, p, in)
	p.Retain(nobody)
	for deadline := time.Now().Add(10 * time.Second); !left(p); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("an instance that left still has a connection")
		}
	}
}

// memBlock is a block in memory.
type memBlock struct {
	from, to int64
	content  []byte
	symbols  []string
	err      error
}

func (b memBlock) Bounds() (int64, int64) { return b.from, b.to }
func (b memBlock) NumEntries() int        { return 3 }
func (b memBlock) Size() int64            { return int64(len(b.content)) }
func (b memBlock) Load(dst []byte) ([]byte, []string, error) {
	if b.err != nil {
		return nil, nil, b.err
	}
	return append(dst, b.content...), b.symbols, nil
}

func seriesOf(n int) []chunk.Series {
	var all []chunk.Series
	for i := range n {
		s := chunk.Series{Labels: labels.Labels{{Name: "n", Value: fmt.Sprint(i)}}}
		for k := range 2 {
			s.Blocks = append(s.Blocks, memBlock{from: int64(i), to: int64(i + k), content: fmt.Appendf(nil, "content %d.%d", i, k), symbols: []string{"a", fmt.Sprint(k)}})
		}
		all = append(all, s)
	}
	return all
}

func source(t testing.TB, p *Pool, in ring.Instance) Source {
	t.Helper()
	s, err := p.Source(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func matcher(t *testing.T, typ labels.MatchType, name, value string) *labels.Matcher {
	m, err := labels.NewMatcher(typ, name, value)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSelect(t *testing.T) {
	f := &fake{series: seriesOf(20000)}
	in, _ := serve(t, f, DefaultConfig(), "127.0.0.1:0")
	s := source(t, newPool(t, DefaultConfig(), nil), in)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, err := s.Select(ctx, "t", []*labels.Matcher{matcher(t, labels.MatchRegexp, "n", "1.*")}, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 11111 {
		t.Fatalf("%d streams", len(got))
	}
	for _, i := range []int{0, 5000, 11110, 3} {
		st := got[i]
		for k, b := range st.Blocks {
			content, symbols, err := b.Load([]byte("before "))
			n := st.Labels.Get("n")
			if want := fmt.Sprintf("before content %s.%d", n, k); err != nil || string(content) != want || !slices.Equal(symbols, []string{"a", fmt.Sprint(k)}) {
				t.Fatalf("%q, %q, %v; want %q", content, symbols, err, want)
			}
			if from, to := b.Bounds(); fmt.Sprint(from) != n || to != from+int64(k) || b.NumEntries() != 3 || b.(sized).Size() != int64(len(content)-len("before ")) {
				t.Fatalf("bounds %d, %d", from, to)
			}
		}
	}
	sets, err := s.LabelSets(ctx, "t", nil, 0, 10)
	if err != nil || len(sets) != 20000 || sets[19999].String() != `{n="19999"}` {
		t.Fatalf("%d label sets, %v", len(sets), err)
	}
	if none, err := s.Select(ctx, "other", nil, 0, 10); err != nil || len(none) != 0 {
		t.Fatalf("%v, %v", none, err)
	}
	cancel()
	if _, _, err := got[0].Blocks[0].Load(nil); err == nil {
		t.Fatal("a block after the end of the query")
	}
}

func TestSelectErrors(t *testing.T) {
	f := &fake{series: seriesOf(2)}
	cfg := DefaultConfig()
	cfg.MaxSelects, cfg.SelectIdle = 1, 200*time.Millisecond
	in, _ := serve(t, f, cfg, "127.0.0.1:0")
	s := source(t, newPool(t, cfg, nil), in)
	damaged := f.series[0].Blocks[0].(memBlock)
	damaged.err = errors.New("bad checksum")
	f.series[0].Blocks[0] = damaged
	got, err := s.Select(t.Context(), "t", nil, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := got[0].Blocks[0].Load(nil); err == nil || err.Error() != "bad checksum" {
		t.Fatalf("got %v", err)
	}
	if _, _, err := got[0].Blocks[1].Load(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Select(t.Context(), "t", nil, 0, 10); err == nil || !strings.Contains(err.Error(), "max-selects") {
		t.Fatalf("got %v", err)
	}
	// It is forgotten after a while.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := s.Select(t.Context(), "none", nil, 0, 10); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if _, _, err := got[0].Blocks[1].Load(nil); err == nil || !strings.Contains(err.Error(), "no request") {
		t.Fatalf("got %v", err)
	}
	f.failReads(push.Errorf(push.Replaying, "replaying the WAL"))
	var e *push.Error
	if _, err := s.LabelSets(t.Context(), "t", nil, 0, 10); !errors.As(err, &e) || e.Reason != push.Replaying {
		t.Fatalf("got %v", err)
	}
}

// TestSelectLeft: package query is told when an instance goes away, and not when
// the query itself has ended or a block is bad.
func TestSelectLeft(t *testing.T) {
	left := func(err error) bool {
		var l interface{ InstanceLeft() }
		return errors.As(err, &l)
	}
	f := func(what string, want bool, block0 error, do func(stop, cancel func())) {
		t.Helper()
		fk := &fake{series: seriesOf(1)}
		bad := fk.series[0].Blocks[0].(memBlock)
		bad.err = block0
		fk.series[0].Blocks[0] = bad
		in, stop := serve(t, fk, DefaultConfig(), "127.0.0.1:0")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		got, err := source(t, newPool(t, DefaultConfig(), nil), in).Select(ctx, "t", nil, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if do != nil {
			do(stop, cancel)
		}
		if _, _, err := got[0].Blocks[0].Load(nil); err == nil || left(err) != want {
			t.Errorf("%s: %v", what, err)
		}
		if _, _, err := got[0].Blocks[1].Load(nil); left(err) != want {
			t.Errorf("%s, another block: %v", what, err)
		}
	}
	f("the instance is killed", true, nil, func(stop, _ func()) { stop() })
	f("the instance ends", true, fmt.Errorf("read: %w", os.ErrClosed), nil)
	f("the query ends", false, nil, func(_, cancel func()) { cancel() })
	f("a bad block", false, errors.New("bad checksum"), nil)
}

// fixed is a ring that does not change.
type fixed struct{ r *ring.Ring }

func (f fixed) Current() *ring.Ring { return f.r }

// A read is complete without as many instances as a quorum can miss.
func TestMembers(t *testing.T) {
	var list []ring.Instance
	sources := map[string]*fake{}
	for i, id := range []string{"a", "b", "c"} {
		list = append(list, ring.Instance{ID: id, State: ring.State(i)}) // one of each state
		sources[id] = &fake{series: seriesOf(i + 1)}
	}
	m := &Members{
		Ring: fixed{ring.New(list)}, ReplicationFactor: 3, Log: warn.New(slog.New(slog.DiscardHandler)),
		Source: func(in ring.Instance) (Source, error) { return sources[in.ID], nil },
	}
	count := func() (int, error) {
		got, err := m.Select(t.Context(), "t", nil, 0, 1)
		return len(got), err
	}
	if n, err := count(); n != 6 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	sources["b"].err = errors.New("gone")
	if n, err := count(); n != 4 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	sources["c"].err = errors.New("gone")
	if _, err := count(); err == nil || !strings.Contains(err.Error(), "2 of 3 instances") {
		t.Fatalf("got %v", err)
	}
	sources["c"].err, m.ReplicationFactor = nil, 1
	if _, err := count(); err == nil {
		t.Fatal("complete without the only copy")
	}
}

func TestSecret(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Secret = "s3cret"
	in, _ := serve(t, &fake{series: seriesOf(1)}, cfg, "127.0.0.1:0")
	for secret, ok := range map[string]bool{"s3cret": true, "": false, "s3cres": false} {
		cfg.Secret = secret
		p := newPool(t, cfg, nil)
		if err := replica(t, p, in).Push(t.Context(), batch(1, "x")); (err == nil) != ok {
			t.Errorf("%q: push: %v", secret, err)
		}
		if _, err := source(t, p, in).Select(t.Context(), "t", nil, 0, 1); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "cluster.secret") {
			t.Errorf("%q: select: %v", secret, err)
		}
		if _, err := source(t, p, in).LabelSets(t.Context(), "t", nil, 0, 1); (err == nil) != ok {
			t.Errorf("%q: label sets: %v", secret, err)
		}
	}
}

// What has come when a server drains is stored and answered.
func TestDrain(t *testing.T) {
	started, goOn := make(chan struct{}), make(chan struct{})
	f := &fake{push: func(context.Context, *push.Batch) error {
		close(started)
		<-goOn
		return nil
	}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(ServerDeps{Ingester: f, Log: slog.New(slog.DiscardHandler)}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.WaitForHandlers(true))
	s.Register(g)
	var serving sync.WaitGroup
	serving.Go(func() { g.Serve(ln) })
	r := replica(t, newPool(t, DefaultConfig(), nil), ring.Instance{ID: "a", Addr: ln.Addr().String(), Generation: 1})
	answer := make(chan error, 1)
	go func() { answer <- r.Push(context.Background(), batch(1, "x")) }()
	<-started
	s.Drain()
	stopped := make(chan struct{})
	go func() {
		g.GracefulStop()
		close(stopped)
	}()
	close(goOn)
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	<-stopped
	serving.Wait()
	s.Wait()
}

func TestConfig(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	if errs := (Config{}).Validate(); len(errs) != 6 {
		t.Fatal(errs)
	}
}

func BenchmarkPush(b *testing.B) {
	f := &fake{push: func(context.Context, *push.Batch) error { return &push.Rejected{} }}
	in, _ := serve(b, f, DefaultConfig(), "127.0.0.1:0")
	r := replica(b, newPool(b, DefaultConfig(), nil), in)
	for _, size := range []int{1 << 10, 100 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			x := batch(1, strings.Repeat(noise(500), size/500))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := r.Push(context.Background(), x); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
