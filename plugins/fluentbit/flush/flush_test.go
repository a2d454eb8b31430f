package flush

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/proto/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a pusher that keeps what is pushed, in the plainest form, and
// answers as it is told.
type server struct {
	mu     sync.Mutex
	got    []string
	ids    []push.ID
	dead   []string
	tenant string
	sizes  []int
	answer func(ctx context.Context, b *push.Batch) error
	closed bool
}

func (s *server) Push(ctx context.Context, b *push.Batch) error {
	s.mu.Lock()
	s.got = append(s.got, plain(b)...)
	s.ids = append(s.ids, b.ID)
	s.tenant = b.Tenant
	for _, d := range b.Dead {
		s.dead = append(s.dead, fmt.Sprintf("%s %s %s %q", b.Tenant, d.Reason, d.Text, d.Raw))
	}
	s.sizes = append(s.sizes, len(b.Data))
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		return answer(ctx, b)
	}
	return nil
}

func (s *server) Close() error { s.closed = true; return nil }

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
			out = append(out, t)
		}
	}
	return out
}

// soon is a timeout for flushes that are to fail: it bounds how long they try.
func soon(c *Config) { c.Timeout = 10 * time.Millisecond }

// output returns an Output, and what it logs.
func output(t testing.TB, s *server, change func(*Config)) (*Output, *logBuffer) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Timeout = 10 * time.Second
	if change != nil {
		change(&cfg)
	}
	buf := new(logBuffer)
	o, err := newOutput(cfg, slog.New(slog.NewTextHandler(buf, nil)), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o, buf
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// --- chunks -----------------------------------------------------------------

func appendString(p []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(append(p, 0xdb), uint32(len(s))), s...)
}

// appendEvent appends an event as Fluent Bit's inputs make them.
func appendEvent(p []byte, ts int64, kv ...string) []byte {
	p = append(p, 0x92, 0x92, 0xd7, 0x00)
	p = binary.BigEndian.AppendUint32(p, uint32(ts/1e9))
	p = binary.BigEndian.AppendUint32(p, uint32(ts%1e9))
	p = append(p, 0x80, 0x80|byte(len(kv)/2))
	for _, s := range kv {
		p = appendString(p, s)
	}
	return p
}

const t0 = int64(1_790_000_000_000_000_000)

// logs is a chunk of n lines.
func logs(n int) []byte {
	gen := loglines.New(1)
	var p []byte
	for i := range n {
		ts := t0 + int64(i)*1_000_003
		p = appendEvent(p, ts, "log", string(gen.AppendLine(nil, i%3, ts)), "stream", "stdout", "pod", fmt.Sprint("web-", i%4))
	}
	return p
}

func captured(t testing.TB) []byte {
	t.Helper()
	p, err := os.ReadFile("testdata/tail.chunk")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// --- tests --------------------------------------------------------------------

func TestFlush(t *testing.T) {
	s := &server{}
	o, log := output(t, s, func(c *Config) {
		c.Tenant = "team-a"
		c.Mapping.Labels = []string{"env=prod", "job=mine"}
		c.Mapping.LabelKeys = []string{"stream", "k.app"}
	})
	chunk := appendEvent(nil, t0, "log", "one", "stream", "stdout", "x.y", "1")
	chunk = appendEvent(chunk, t0+1, "log", "two", "stream", "stderr")
	chunk = appendEvent(chunk, t0+2, "a", "1")
	if r := o.Flush("kube.a", chunk); r != OK {
		t.Fatalf("got %s: %s", r, log)
	}
	want := []string{
		fmt.Sprintf(`{env="prod", job="mine", stream="stdout"} %d "one" tag="kube.a" x_y="1"`, t0),
		fmt.Sprintf(`{env="prod", job="mine", stream="stderr"} %d "two" tag="kube.a"`, t0+1),
		fmt.Sprintf(`{env="prod", job="mine"} %d "{\"a\":\"1\"}" tag="kube.a"`, t0+2),
	}
	if !slices.Equal(s.got, want) || s.tenant != "team-a" {
		t.Fatalf("tenant %q, got %q", s.tenant, s.got)
	}
	if log.String() != "" {
		t.Fatalf("logged: %s", log)
	}
	// Without labels of its own the output has its job.
	s2 := &server{}
	o2, _ := output(t, s2, nil)
	o2.Flush("kube.a", appendEvent(nil, t0, "log", "one"))
	if want := fmt.Sprintf(`{job="fluent-bit"} %d "one" tag="kube.a"`, t0); !slices.Equal(s2.got, []string{want}) {
		t.Fatalf("got %q", s2.got)
	}
}

// TestCaptured flushes what Fluent Bit wrote: all kinds of values, invalid
// UTF-8, an event that is not a log line.
func TestCaptured(t *testing.T) {
	s := &server{}
	o, log := output(t, s, nil)
	if r := o.Flush("kube.var.log", captured(t)); r != OK {
		t.Fatalf("got %s: %s", r, log)
	}
	if len(s.got) != 6 {
		t.Fatalf("%d entries: %q", len(s.got), s.got)
	}
	for _, want := range []string{
		`1790000000123456789 "GET /índex?q=日本語 HTTP/1.1 200 😀\n"`,
		`1790000001000000000 "{\"level\":\"warn\",\"msg\":\"nested json, tab\\t quote \\\" ok\"}"`,
		`bad \xff\xfe utf8`,
	} {
		if !strings.Contains(strings.Join(s.got, "\n"), want) {
			t.Fatalf("no entry with %s in\n%s", want, strings.Join(s.got, "\n"))
		}
	}
}

func TestIDs(t *testing.T) {
	id := func(tenant, label, tag string, chunk []byte) push.ID {
		s := &server{}
		o, _ := output(t, s, func(c *Config) {
			c.Tenant = tenant
			c.Mapping.Labels = []string{"node=" + label}
		})
		o.Flush(tag, chunk)
		o.Flush(tag, chunk) // again: the same
		if len(s.ids) != 2 || s.ids[0] != s.ids[1] || s.ids[0] == (push.ID{}) {
			t.Fatalf("ids %x", s.ids)
		}
		return s.ids[0]
	}
	seen := map[push.ID]bool{}
	for _, x := range []push.ID{
		id("a", "n1", "t", logs(10)), id("b", "n1", "t", logs(10)), id("a", "n2", "t", logs(10)),
		id("a", "n1", "u", logs(10)), id("a", "n1", "t", logs(11)),
	} {
		if seen[x] {
			t.Fatal("two different pushes have one id")
		}
		seen[x] = true
	}
}

func TestResults(t *testing.T) {
	rejected := func(n int, reasons ...push.Reason) error {
		r := &push.Rejected{Total: 10}
		for _, x := range reasons {
			r.Add(x, `{a="1"}`, n, 5, func() string { return "first text" })
		}
		return r
	}
	f := func(err error, want Result, logged ...string) {
		t.Helper()
		s := &server{answer: func(context.Context, *push.Batch) error { return err }}
		o, log := output(t, s, soon)
		if got := o.Flush("t", logs(10)); got != want {
			t.Fatalf("%v: got %s, want %s", err, got, want)
		}
		for _, w := range logged {
			if !strings.Contains(log.String(), w) {
				t.Fatalf("%v: no %q in the log: %s", err, w, log)
			}
		}
		if len(logged) == 0 && log.String() != "" {
			t.Fatalf("%v: logged %s", err, log)
		}
	}
	f(nil, OK)
	f(rejected(3, push.TooOld), OK, "reason=greater_than_max_sample_age", "entries=3", "of=10", "first text")
	f(rejected(10, push.LineTooLong), Error, "reason=line_too_long", "entries=10")
	f(rejected(5, push.TooOld, push.LineTooLong), Error, "reason=line_too_long", "greater_than_max_sample_age")
	f(rejected(3, push.StreamRateLimit), Retry, "sent again")
	f(rejected(3, push.TooOld, push.StreamLimit), Retry, "sent again")
	f(errors.New("boom"), Retry, "boom")
	f(context.DeadlineExceeded, Retry, "deadline")
	for r := push.MissingLabels; r <= push.Internal; r++ {
		want := Error
		if r.Retryable() || r == push.NoTenant {
			want = Retry
		}
		f(push.Errorf(r, "server says no"), want, "server says no")
	}
}

func TestBadChunks(t *testing.T) {
	good := appendEvent(nil, t0, "log", "good")
	f := func(name string, chunk []byte, want Result, entries int, logged string) {
		t.Helper()
		s := &server{}
		o, log := output(t, s, nil)
		if got := o.Flush("t", chunk); got != want || len(s.got) != entries {
			t.Fatalf("%s: got %s and %d entries, want %s and %d", name, got, len(s.got), want, entries)
		}
		if logged != "" && !strings.Contains(log.String(), logged) || logged == "" && log.String() != "" {
			t.Fatalf("%s: logged %q, want %q", name, log, logged)
		}
	}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	f("empty", nil, OK, 0, "")
	f("an integer", []byte{1}, Error, 0, "entries=1")
	f("nil", []byte{0xc0}, Error, 0, "entries=1")
	f("not MessagePack", []byte{0xc1, 0xc1}, Error, 0, "garbage: 1")
	f("bad between good", cat(good, []byte{1}, []byte{0x92, 0xc3, 0x80}, good), OK, 2, "entries=2")
	f("cut short", cat(good, good[:len(good)-2]), OK, 1, "entries=1")
	f("announces 4 GiB", cat(good, []byte{0x92, 0xd7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xdf, 0xff, 0xff, 0xff, 0xff}), OK, 1, "entries=1")
	f("nested 10,000 deep", cat(good, []byte{0x92, 1, 0x81, 0xa1, 'a'}, bytes.Repeat([]byte{0x91}, 10_000), []byte{1}, good), OK, 2, "entries=1")
	f("group markers only", []byte{0x92, 0x92, 0xd7, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0x80, 0x80, 0x92, 0x92, 0xd7, 0, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 0, 0x80, 0x80}, OK, 0, "")
}

func TestLargeChunk(t *testing.T) {
	s := &server{}
	o, log := output(t, s, nil)
	o.maxPush = 64 << 10
	if r := o.Flush("t", logs(1000)); r != OK {
		t.Fatalf("got %s: %s", r, log)
	}
	if len(s.sizes) < 2 || slices.Max(s.sizes) > 80<<10 || len(s.got) != 1000 {
		t.Fatalf("%d entries in pushes of %v", len(s.got), s.sizes)
	}
}

// TestParts fails the second push of a chunk: when all comes again the first,
// which is stored, is not sent, and the ids are the same.
func TestParts(t *testing.T) {
	s := &server{}
	o, log := output(t, s, soon)
	o.maxPush = 64 << 10
	chunk := logs(1000)
	n := 0
	s.answer = func(context.Context, *push.Batch) error {
		if n++; n >= 2 {
			return push.Errorf(push.Overloaded, "busy")
		}
		return nil
	}
	if r := o.Flush("t", chunk); r != Retry {
		t.Fatalf("got %s: %s", r, log)
	}
	first := s.ids[0]
	for _, id := range s.ids[1:] {
		if id == first || id != s.ids[1] {
			t.Fatalf("after a push that failed came another, or it had another id: %x", s.ids)
		}
	}
	failed := s.ids[1]
	s.ids, s.answer = nil, nil
	if r := o.Flush("t", chunk); r != OK {
		t.Fatalf("got %s", r)
	}
	if s.ids[0] != failed || slices.Contains(s.ids, first) {
		t.Fatalf("sent again what was stored: %x", s.ids)
	}
	// All is stored and forgotten: the same chunk is one for the server to judge.
	s.ids = nil
	if r := o.Flush("t", chunk); r != OK || s.ids[0] != first {
		t.Fatalf("got %s, %x", r, s.ids)
	}
}

func TestTimeout(t *testing.T) {
	s := &server{answer: func(ctx context.Context, _ *push.Batch) error { <-ctx.Done(); return ctx.Err() }}
	o, log := output(t, s, func(c *Config) { c.Timeout = 20 * time.Millisecond })
	if r := o.Flush("t", logs(1)); r != Retry || !strings.Contains(log.String(), "deadline") {
		t.Fatalf("got %s: %s", r, log)
	}
}

func TestClose(t *testing.T) {
	entered := make(chan struct{})
	s := &server{answer: func(ctx context.Context, _ *push.Batch) error { close(entered); <-ctx.Done(); return ctx.Err() }}
	o, _ := output(t, s, nil)
	result := make(chan Result)
	go func() { result <- o.Flush("t", logs(1)) }()
	<-entered
	closed := make(chan struct{})
	go func() { o.Close(); close(closed) }()
	if r := <-result; r != Retry {
		t.Fatalf("got %s", r)
	}
	<-closed
	if !s.closed {
		t.Fatal("connections are left open")
	}
	if r := o.Flush("t", logs(1)); r != Retry {
		t.Fatalf("after Close: got %s", r)
	}
}

func TestPanic(t *testing.T) {
	s := &server{answer: func(context.Context, *push.Batch) error { panic("bug") }}
	o, log := output(t, s, nil)
	if r := o.Flush("t", logs(1)); r != Retry || !strings.Contains(log.String(), "panic=bug") {
		t.Fatalf("got %s: %s", r, log)
	}
	s.answer = nil
	if r := o.Flush("t", logs(1)); r != OK {
		t.Fatalf("after a panic: got %s", r)
	}
}

func TestRepeatedWarnings(t *testing.T) {
	s := &server{answer: func(context.Context, *push.Batch) error { return push.Errorf(push.Overloaded, "busy") }}
	o, log := output(t, s, soon)
	for range 100 {
		o.Flush("t", logs(1))
	}
	if n := strings.Count(log.String(), "\n"); n == 0 || n > 25 {
		t.Fatalf("%d lines for 100 failures: %s", n, log)
	}
}

func TestConcurrent(t *testing.T) {
	s := &server{}
	o, _ := output(t, s, func(c *Config) { c.Mapping.Labels = []string{"env=prod"} })
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for range 20 {
				if r := o.Flush(fmt.Sprint("tag", w), logs(50)); r != OK {
					t.Errorf("got %s", r)
				}
			}
		})
	}
	wg.Wait()
	if len(s.got) != 4*20*50 {
		t.Fatalf("%d entries", len(s.got))
	}
	ids := map[push.ID]int{}
	for _, id := range s.ids {
		ids[id]++
	}
	if len(ids) != 4 {
		t.Fatalf("%d ids for 4 different chunks", len(ids))
	}
}

func TestSnakeCase(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := snakeCase(in); got != want {
			t.Fatalf("%s: got %s, want %s", in, got, want)
		}
	}
	f("LabelKeys", "label_keys")
	f("TenantID", "tenant_id")
	f("TenantIDKey", "tenant_id_key")
	f("CAFile", "ca_file")
	f("HTTPUser", "http_user")
	f("URL", "url")
}

func TestNew(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	cfg := DefaultConfig()
	o, err := New(cfg, log, "test")
	if err != nil {
		t.Fatal(err)
	}
	o.Close()
	cfg.Addresses = nil
	if _, err := New(cfg, log, "test"); err == nil {
		t.Fatal("no address is accepted")
	}
}

func FuzzFlush(f *testing.F) {
	p, err := os.ReadFile("testdata/tail.chunk")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add(logs(3))
	f.Add(append(appendEvent(nil, t0, "log", "x"), 0xc1))
	s := &server{}
	o, _ := output(f, s, func(c *Config) { c.Mapping.Labels = []string{"env=prod"} })
	f.Fuzz(func(t *testing.T, chunk []byte) {
		s.got = nil
		r := o.Flush("fuzz", chunk)
		if r == Retry {
			t.Fatal("a panic, or an error of the server that it did not make")
		}
		if r == Error && len(s.got) > 0 {
			t.Fatal("entries were stored, and the result is error")
		}
		for _, e := range s.got {
			if !strings.Contains(e, `env="prod"`) {
				t.Fatalf("no label: %s", e)
			}
		}
	})
}

type nullServer struct{ entries int }

func (s *nullServer) Push(_ context.Context, b *push.Batch) error {
	s.entries = len(b.Entries)
	return nil
}
func (s *nullServer) Close() error { return nil }

func BenchmarkFlush(b *testing.B) {
	cfg := DefaultConfig()
	cfg.Mapping.LabelKeys = []string{"stream"}
	cfg.Mapping.Labels = []string{"env=prod"}
	s := &nullServer{}
	o, err := newOutput(cfg, slog.New(slog.NewTextHandler(io.Discard, nil)), s)
	if err != nil {
		b.Fatal(err)
	}
	defer o.Close()
	chunk := logs(5000)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		if o.Flush("kube.var.log", chunk) != OK || s.entries != 5000 {
			b.Fatal(s.entries)
		}
	}
}
