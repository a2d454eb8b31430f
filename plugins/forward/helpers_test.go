package forward

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
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
	labels, line string
	ts           int64
	meta         map[string]string
}

// pushed is a batch as the sink got it.
type pushed struct {
	id       push.ID
	receiver string
	tenant   string
	keep     bool
	entries  []stored
	dead     []string // reason, text, bytes
}

func copyBatch(b *push.Batch) pushed {
	p := pushed{id: b.ID, receiver: b.Receiver, tenant: b.Tenant, keep: b.KeepRefused}
	for _, d := range b.Dead {
		p.dead = append(p.dead, fmt.Sprintf("%s|%s|%s", d.Reason, d.Text, d.Raw))
	}
	for i := range b.Streams {
		s := &b.Streams[i]
		for _, e := range b.StreamEntries(s) {
			out := stored{labels: string(b.Bytes(s.RawLabels)), line: string(b.Bytes(e.Line)), ts: e.TS, meta: map[string]string{}}
			for it := b.Pairs(&e); it.Next(); {
				out.meta[string(it.Name)] = string(it.Value)
			}
			p.entries = append(p.entries, out)
		}
	}
	return p
}

// fakeSink remembers what is pushed. onPush, if set, decides on the answer; admit
// likewise.
type fakeSink struct {
	onPush func(ctx context.Context, b *push.Batch) error
	admit  func(ctx context.Context, n int64) error

	mu       sync.Mutex
	batches  []pushed
	admitted int64
	most     int64
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
	s.most = max(s.most, s.admitted)
	var once sync.Once
	return func() {
		once.Do(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.admitted -= n
		})
	}, nil
}

func (s *fakeSink) Push(ctx context.Context, b *push.Batch) error {
	var err error
	if s.onPush != nil {
		err = s.onPush(ctx, b)
	}
	var some *push.Rejected
	if err == nil || errors.As(err, &some) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.batches = append(s.batches, copyBatch(b))
	}
	return err
}

func (s *fakeSink) all() []stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []stored
	for _, b := range s.batches {
		all = append(all, b.entries...)
	}
	return all
}

// dead returns the dead letters of all batches.
func (s *fakeSink) dead() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, b := range s.batches {
		all = append(all, b.dead...)
	}
	return all
}

func (s *fakeSink) lines() []string {
	var lines []string
	for _, e := range s.all() {
		lines = append(lines, e.line)
	}
	return lines
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

func (b *syncBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.b.Len() == 0 {
		return nil
	}
	return strings.Split(strings.TrimSpace(b.b.String()), "\n")
}

func (b *syncBuffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Reset()
}

// rig is a server with what it works with.
type rig struct {
	*Server
	sink *fakeSink
	log  *syncBuffer
	reg  *prometheus.Registry
}

const testNow = 1790000099_000000000

func newRig(t testing.TB, sink *fakeSink, format string, change func(*Config)) *rig {
	t.Helper()
	mc := mapping.DefaultConfig()
	mc.LineFormat = format
	return newMappingRig(t, sink, mc, change)
}

func newMappingRig(t testing.TB, sink *fakeSink, mc mapping.Config, change func(*Config)) *rig {
	t.Helper()
	m, err := mapping.New(mc, mapping.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Listen = []string{"127.0.0.1:0"}
	cfg.Heartbeat = false
	cfg.DrainTimeout = 10 * time.Second
	if change != nil {
		change(&cfg)
	}
	r := &rig{sink: sink, log: &syncBuffer{}, reg: prometheus.NewRegistry()}
	r.Server, err = New(Deps{
		Sink: sink, Mapper: m, Metrics: r.reg,
		Log: slog.New(slog.NewTextHandler(r.log, nil)),
		Now: func() time.Time { return time.Unix(0, testNow) },
	}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
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
		if f.GetName() != "loki_go_forward_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || hasLabel(m, label) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func hasLabel(m *dto.Metric, value string) bool {
	for _, l := range m.GetLabel() {
		if l.GetValue() == value {
			return true
		}
	}
	return false
}

// connect opens the server, if that has not been done, and returns a client.
func (r *rig) connect(t testing.TB) *net.TCPConn {
	t.Helper()
	if r.Addr() == nil {
		if err := r.Open(); err != nil {
			t.Fatal(err)
		}
	}
	c, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

func send(t testing.TB, c net.Conn, p []byte) {
	t.Helper()
	if _, err := c.Write(p); err != nil {
		t.Fatal(err)
	}
}

// expect reads exactly want.
func expect(t testing.TB, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

// expectEnd waits until the server has closed the connection, with nothing more
// sent.
func expectEnd(t testing.TB, c net.Conn) {
	t.Helper()
	var buf [64]byte
	n, err := c.Read(buf[:])
	if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection did not end: got %q, %v", buf[:n], err)
	}
}

// scripted is a client that sends segments, one for each read, and goes away.
type scripted struct {
	segments [][]byte
	answers  [][]byte // by write
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

func (c *scripted) Write(p []byte) (int, error) {
	c.answers = append(c.answers, bytes.Clone(p))
	return len(p), nil
}

func (c *scripted) Close() error                     { c.closed = true; return nil }
func (c *scripted) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *scripted) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711} }
func (c *scripted) SetDeadline(time.Time) error      { return nil }
func (c *scripted) SetReadDeadline(time.Time) error  { return nil }
func (c *scripted) SetWriteDeadline(time.Time) error { return nil }

// play lets the server handle what a scripted client sends, and returns all
// that the client gets.
func (r *rig) play(segments ...[]byte) *scripted {
	sc := &scripted{}
	for _, s := range segments {
		if len(s) > 0 {
			sc.segments = append(sc.segments, s)
		}
	}
	newConn(r.Server, sc).serve()
	return sc
}

// pieces cuts p into pieces of n bytes.
func pieces(p []byte, n int) [][]byte {
	var out [][]byte
	for ; len(p) > n; p = p[n:] {
		out = append(out, p[:n])
	}
	return append(out, p)
}

// --- a small encoder, written from the format's description ------------------

type (
	raw   []byte // bytes that are MessagePack already
	pairs []any
	ext   struct {
		sec, ns uint32
	}
)

func enc(vs ...any) []byte {
	var b []byte
	for _, v := range vs {
		b = appendValue(b, v)
	}
	return b
}

func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, 0xc0)
	case raw:
		return append(b, v...)
	case int:
		return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(v))
	case string:
		return append(binary.BigEndian.AppendUint16(append(b, 0xda), uint16(len(v))), v...)
	case []byte:
		return append(binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(len(v))), v...)
	case ext:
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(append(b, 0xd7, 0), v.sec), v.ns)
	case []any:
		b = binary.BigEndian.AppendUint32(append(b, 0xdd), uint32(len(v)))
		for _, e := range v {
			b = appendValue(b, e)
		}
		return b
	case pairs:
		b = binary.BigEndian.AppendUint32(append(b, 0xdf), uint32(len(v)/2))
		for _, e := range v {
			b = appendValue(b, e)
		}
		return b
	}
	panic("appendValue: type not known")
}

type list = []any

// ackOf returns the ack for a chunk that enc has written as a string.
func ackOf(chunk string) []byte { return append([]byte("\x81\xa3ack"), enc(chunk)...) }

func event(ts int, line string) list { return list{ts, pairs{"log", line}} }
