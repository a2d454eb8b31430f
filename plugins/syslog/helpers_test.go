package syslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stored is an entry as the sink got it.
type stored struct {
	tenant, labels, line string
	ts                   int64
	meta                 map[string]string
}

// String renders all of an entry but its time.
func (e stored) String() string {
	var meta []string
	for k, v := range e.meta {
		meta = append(meta, fmt.Sprintf("%s=%q", k, v))
	}
	slices.Sort(meta)
	return fmt.Sprintf("%s %q %s", e.labels, e.line, strings.Join(meta, " "))
}

// fakeSink remembers what is pushed. onPush, if set, decides on the answer; admit
// likewise.
type fakeSink struct {
	onPush func(ctx context.Context, b *push.Batch) error
	admit  func(ctx context.Context, n int64) error

	mu       sync.Mutex
	entries  []stored
	pushes   int
	admitted int64
	problem  string
	changed  chan struct{} // closed and replaced with each push
}

func (s *fakeSink) Admit(ctx context.Context, n int64) (func(), error) {
	if s.admit != nil {
		if err := s.admit(ctx, n); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admitted += n
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.admitted -= n
	}), nil
}

func (s *fakeSink) Push(ctx context.Context, b *push.Batch) error {
	var err error
	if s.onPush != nil {
		err = s.onPush(ctx, b)
	}
	var some *push.Rejected
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushes++
	if b.Receiver != "syslog" || !b.KeepRefused || b.ID != (push.ID{}) {
		s.problem = fmt.Sprintf("receiver %q, keep refused %v, id %x", b.Receiver, b.KeepRefused, b.ID)
	}
	if err == nil || errors.As(err, &some) {
		s.keep(b)
	}
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return err
}

// keep remembers what b has that is not refused.
func (s *fakeSink) keep(b *push.Batch) {
	for i := range b.Streams {
		st := &b.Streams[i]
		for _, e := range b.StreamEntries(st) {
			if max(st.Reject, e.Reject) != push.OK {
				continue
			}
			out := stored{
				tenant: b.Tenant, labels: string(b.Bytes(st.RawLabels)), line: string(b.Bytes(e.Line)), ts: e.TS,
				meta: map[string]string{},
			}
			for it := b.Pairs(&e); it.Next(); {
				out.meta[string(it.Name)] = string(it.Value)
			}
			s.entries = append(s.entries, out)
		}
	}
}

func (s *fakeSink) all() []stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.entries)
}

func (s *fakeSink) lines() []string {
	var lines []string
	for _, e := range s.all() {
		lines = append(lines, e.line)
	}
	return lines
}

// await waits until there are n entries.
func (s *fakeSink) await(t testing.TB, n int) []stored {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		if len(s.entries) >= n {
			defer s.mu.Unlock()
			return slices.Clone(s.entries)
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		c := s.changed
		s.mu.Unlock()
		select {
		case <-c:
		case <-timeout:
			t.Fatalf("%d entries of %d", len(s.all()), n)
		}
	}
}

// syncBuffer is a log's destination.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// rig is a server with what it works with.
type rig struct {
	*Server
	sink *fakeSink
	log  *syncBuffer
	reg  *prometheus.Registry
}

func newRig(t testing.TB, sink *fakeSink, change func(*Config)) *rig {
	t.Helper()
	m, err := mapping.New(mapping.DefaultConfig(), mapping.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.TimeZone = "UTC"
	cfg.DrainTimeout = 10 * time.Second
	if change != nil {
		change(&cfg)
	}
	r := &rig{sink: sink, log: &syncBuffer{}, reg: prometheus.NewRegistry()}
	r.Server, err = New(Deps{
		Sink: sink, Mapper: m, Metrics: r.reg,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		if t.Failed() {
			t.Logf("the server's log:\n%s", r.log)
		}
		if sink.admitted != 0 || sink.problem != "" {
			t.Errorf("%d bytes still admitted; %s", sink.admitted, sink.problem)
		}
	})
	return r
}

// openRig is newRig with an open TCP port, unless change says otherwise.
func openRig(t testing.TB, sink *fakeSink, change func(*Config)) *rig {
	t.Helper()
	r := newRig(t, sink, func(c *Config) {
		c.ListenTCP = "127.0.0.1:0"
		if change != nil {
			change(c)
		}
	})
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	return r
}

// value returns the sum of a metric over all its labels, or over those whose
// value is label.
func (r *rig) value(t testing.TB, name, label string) float64 {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "loki_go_syslog_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == label }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func (r *rig) expectValue(t testing.TB, name, label string, want float64) {
	t.Helper()
	if got := r.value(t, name, label); got != want {
		t.Fatalf("%s %s is %v, want %v", name, label, got, want)
	}
}

// dial connects to the TCP port.
func (r *rig) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", r.TCPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func send(t testing.TB, c io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

// expectEnd waits until the server has closed its side of the connection.
func expectEnd(t testing.TB, c io.Reader) {
	t.Helper()
	var buf [64]byte
	if n, err := c.Read(buf[:]); n > 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("the connection did not end: got %q, %v", buf[:n], err)
	}
}

// scripted is a client that sends segments, one for each read, and goes away.
type scripted struct {
	segments [][]byte
	closed   bool
}

func (c *scripted) Read(p []byte) (int, error) {
	if len(c.segments) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.segments[0])
	if c.segments[0] = c.segments[0][n:]; len(c.segments[0]) == 0 {
		c.segments = c.segments[1:]
	}
	return n, nil
}

func (c *scripted) Write(p []byte) (int, error)      { return len(p), nil }
func (c *scripted) Close() error                     { c.closed = true; return nil }
func (c *scripted) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *scripted) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711} }
func (c *scripted) SetDeadline(time.Time) error      { return nil }
func (c *scripted) SetReadDeadline(time.Time) error  { return nil }
func (c *scripted) SetWriteDeadline(time.Time) error { return nil }

// play lets the server handle what a scripted client sends in pieces of n
// bytes.
func (r *rig) play(p []byte, n int) *scripted {
	sc := &scripted{}
	for ; len(p) > n; p = p[n:] {
		sc.segments = append(sc.segments, p[:n])
	}
	if len(p) > 0 {
		sc.segments = append(sc.segments, p)
	}
	r.newConn(sc, overTCP).serve()
	return sc
}
