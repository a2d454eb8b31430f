package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fakeReplica keeps what it is given; push, if set, decides the answer.
type fakeReplica struct {
	mu    sync.Mutex
	got   map[string][]string // by labels
	ids   []push.ID
	parts map[push.Part]string // the body of each
	calls int
	push  func(ctx context.Context, b *push.Batch) error
}

func (r *fakeReplica) Push(ctx context.Context, b *push.Batch) error {
	r.mu.Lock()
	r.calls++
	r.mu.Unlock()
	var err error
	if r.push != nil {
		err = r.push(ctx, b)
	}
	var rej *push.Rejected
	if err != nil && !errors.As(err, &rej) {
		return err
	}
	if err := sound(b); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = append(r.ids, b.ID)
	if r.parts == nil {
		r.parts = make(map[push.Part]string)
	}
	r.parts[b.Part] += string(b.Body)
	if r.got == nil {
		r.got = make(map[string][]string)
	}
	for i := range b.Streams {
		s := &b.Streams[i]
		if s.Reject != push.OK {
			continue
		}
		for _, e := range b.StreamEntries(s) {
			if e.Reject != push.OK {
				continue
			}
			text := fmt.Sprintf("%d %s", e.TS, b.Bytes(e.Line))
			for p := b.Pairs(&e); p.Next(); {
				text += fmt.Sprintf(" %s=%s", p.Name, p.Value)
			}
			r.got[s.Labels] = append(r.got[s.Labels], text)
		}
	}
	return err
}

// sound checks that a batch's body decodes to what its entries say.
func sound(b *push.Batch) error {
	if b.Stale {
		return errors.New("a replica got a stale batch")
	}
	again := push.Get()
	defer again.Release()
	if err := again.SetBody(b.Body, b.Codec, 0); err != nil {
		return fmt.Errorf("a replica got a bad body: %w", err)
	}
	if len(again.Streams) != len(b.Streams) || len(again.Entries) != len(b.Entries) {
		return fmt.Errorf("body has %d streams, %d entries; the batch %d, %d",
			len(again.Streams), len(again.Entries), len(b.Streams), len(b.Entries))
	}
	for i := range b.Entries {
		x, y := &b.Entries[i], &again.Entries[i]
		if x.TS != y.TS || !bytes.Equal(b.Bytes(x.Line), again.Bytes(y.Line)) || !bytes.Equal(b.Bytes(x.Meta), again.Bytes(y.Meta)) {
			return fmt.Errorf("entry %d differs from the body's", i)
		}
	}
	for i := range b.Streams {
		s := &b.Streams[i]
		if s.Reject == push.OK && s.Token != labels.Token(b.Tenant, s.Labels) {
			return fmt.Errorf("stream %s has token %d", s.Labels, s.Token)
		}
		if !bytes.Equal(b.Bytes(s.Raw), again.Bytes(again.Streams[i].Raw)) {
			return fmt.Errorf("stream %d: Raw differs from the body's", i)
		}
	}
	return nil
}

func (r *fakeReplica) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, lines := range r.got {
		n += len(lines)
	}
	return n
}

// env is a gateway under test.
type env struct {
	t        testing.TB
	g        *Gateway
	ring     *ring.Memory
	replicas map[string]*fakeReplica
	lim      atomic.Pointer[limits.Limits]
	tenants  sync.Map // tenant -> *limits.Limits
	now      atomic.Int64
	reg      *prometheus.Registry
}

func (e *env) For(tenant string) *limits.Limits {
	if l, ok := e.tenants.Load(tenant); ok {
		return l.(*limits.Limits)
	}
	return e.lim.Load()
}

// newEnv makes a gateway in front of n ACTIVE instances named a, b, c...
func newEnv(t testing.TB, n int, change func(cfg *Config, lim *limits.Limits)) *env {
	t.Helper()
	e := &env{t: t, ring: ring.NewMemory(), replicas: map[string]*fakeReplica{}, reg: prometheus.NewRegistry()}
	for i := range n {
		id := string(rune('a' + i))
		e.replicas[id] = &fakeReplica{}
		e.setState(id, ring.Active)
	}
	cfg, lim := DefaultConfig(), limits.Default()
	if change != nil {
		change(&cfg, &lim)
	}
	e.lim.Store(&lim)
	e.now.Store(start.UnixNano())
	g, err := New(Deps{
		Ring:    e.ring,
		Dial:    func(in ring.Instance) (Replica, error) { return e.replicas[in.ID], nil },
		Limits:  e,
		Metrics: e.reg,
		Now:     func() time.Time { return time.Unix(0, e.now.Load()).UTC() },
	}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.g = g
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *env) setState(id string, s ring.State) {
	if err := e.ring.Register(context.Background(), ring.Instance{ID: id, State: s}); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) setLimits(change func(lim *limits.Limits)) {
	l := *e.lim.Load()
	change(&l)
	e.lim.Store(&l)
}

// line is an entry to push: its time relative to now, its text, its metadata.
type line struct {
	at   time.Duration
	text string
	meta []string
}

func at(d time.Duration, text string, meta ...string) line { return line{d, text, meta} }

// stream is a stream to push.
type stream struct {
	labels string
	lines  []line
}

func (e *env) batch(streams ...stream) *push.Batch {
	bl := push.NewBuilder(push.Get())
	for _, s := range streams {
		k := bl.Stream([]byte(s.labels))
		for _, l := range s.lines {
			for i := 0; i+1 < len(l.meta); i += 2 {
				bl.Pair([]byte(l.meta[i]), []byte(l.meta[i+1]))
			}
			bl.EntryExact(k, e.now.Load()+int64(l.at), []byte(l.text))
		}
	}
	b := bl.Finish()
	b.Receiver = "test"
	return b
}

func (e *env) push(streams ...stream) error {
	b := e.batch(streams...)
	defer b.Release()
	return e.g.Push(context.Background(), b)
}

func one(labels string, lines ...line) stream { return stream{labels, lines} }

// value returns the sum of a metric's samples that have the label values.
func (e *env) value(name string, want ...string) float64 {
	e.t.Helper()
	families, err := e.reg.Gather()
	if err != nil {
		e.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "loki_go_gateway_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			if !slices.ContainsFunc(want, func(v string) bool {
				return !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == v })
			}) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func (e *env) wantRefusal(err error, reason push.Reason, status int, text string) {
	e.t.Helper()
	var rej *push.Rejected
	if !errors.As(err, &rej) {
		e.t.Fatalf("got %v, want *push.Rejected %s", err, reason)
	}
	if len(rej.Groups) != 1 || rej.Groups[0].Reason != reason || rej.Status() != status {
		e.t.Fatalf("got %d %+v, want %d %s", rej.Status(), rej.Groups, status, reason)
	}
	if got := rej.Groups[0].First; got != text {
		e.t.Fatalf("%s:\ngot  %s\nwant %s", reason, got, text)
	}
}

func (e *env) wantStored(id string, want map[string][]string) {
	e.t.Helper()
	r := e.replicas[id]
	r.mu.Lock()
	defer r.mu.Unlock()
	if fmt.Sprint(r.got) != fmt.Sprint(want) {
		e.t.Fatalf("%s has %v\nwant %v", id, r.got, want)
	}
}

func TestEveryLimit(t *testing.T) {
	const day = 24 * time.Hour
	f := func(change func(l *limits.Limits), s stream, reason push.Reason, status int, text string) {
		t.Helper()
		e := newEnv(t, 1, func(_ *Config, l *limits.Limits) {
			if change != nil {
				change(l)
			}
		})
		err := e.push(s)
		if reason == push.OK {
			if err != nil {
				t.Fatalf("%s: refused: %v", s.labels, err)
			}
			if e.replicas["a"].count() != len(s.lines) {
				t.Fatalf("%s: %d lines stored", s.labels, e.replicas["a"].count())
			}
			return
		}
		e.wantRefusal(err, reason, status, text)
		if e.replicas["a"].count() != 0 {
			t.Fatalf("%s: a refused line was stored", s.labels)
		}
		if n := e.value("discarded_entries_total", "fake", reason.String()); n != 1 {
			t.Fatalf("%s: %v entries counted as %s", s.labels, n, reason)
		}
	}
	noDiscovery := func(l *limits.Limits) { l.DiscoverServiceName = nil }
	lbl := `{service_name="s"}`

	// Lines.
	f(nil, one(lbl, at(0, strings.Repeat("x", 262144))), push.OK, 0, "")
	f(nil, one(lbl, at(0, strings.Repeat("x", 262145))), push.LineTooLong, 400,
		`max entry size '262144' bytes exceeded for stream '{service_name="s"}' while adding an entry with length '262145' bytes`)
	f(func(l *limits.Limits) { l.MaxLineSize = 3 }, one(lbl, at(0, "four")), push.LineTooLong, 400,
		`max entry size '3' bytes exceeded for stream '{service_name="s"}' while adding an entry with length '4' bytes`)
	f(func(l *limits.Limits) { l.MaxLineSize = 0 }, one(lbl, at(0, strings.Repeat("x", 1<<20))), push.OK, 0, "")
	f(nil, one(lbl, at(0, "")), push.OK, 0, "")

	// Times.
	f(nil, one(lbl, at(-7*day, "x")), push.OK, 0, "")
	f(nil, one(lbl, at(-7*day-1, "x")), push.TooOld, 400,
		`entry for stream '{service_name="s"}' has timestamp too old: 2025-12-26T03:04:04Z, oldest acceptable timestamp is: 2025-12-26T03:04:05Z`)
	f(func(l *limits.Limits) { l.RejectOldSamples = false }, one(lbl, at(-3000*day, "x")), push.OK, 0, "")
	f(nil, one(lbl, at(10*time.Minute, "x")), push.OK, 0, "")
	f(nil, one(lbl, at(10*time.Minute+1, "x")), push.TooNew, 400,
		`entry for stream '{service_name="s"}' has timestamp too new: 2026-01-02T03:14:05Z`)
	f(func(l *limits.Limits) { l.CreationGracePeriod = 1<<63 - 1 }, one(lbl, at(1000*day, "x")), push.OK, 0, "")

	// Labels.
	f(nil, one(`{`, at(0, "x")), push.InvalidLabels, 400, `couldn't parse labels: "{": expected a label name at offset 1`)
	f(nil, one(``, at(0, "x")), push.InvalidLabels, 400, `couldn't parse labels: "": expected '{' at offset 0`)
	f(nil, one(`{a="1", b="2", a="3"}`, at(0, "x")), push.DuplicateLabel, 400,
		`stream '{a="1", b="2", a="3"}' has duplicate label name: 'a'`)
	f(nil, one(`{}`, at(0, "x")), push.OK, 0, "")
	f(noDiscovery, one(`{}`, at(0, "x")), push.MissingLabels, 400, `error at least one label pair is required per stream`)
	f(noDiscovery, one(`{a=""}`, at(0, "x")), push.MissingLabels, 400, `error at least one label pair is required per stream`)
	f(func(l *limits.Limits) { l.MaxLabelNamesPerSeries = 2 }, one(`{a="1", b="2"}`, at(0, "x")), push.OK, 0, "")
	f(func(l *limits.Limits) { l.MaxLabelNamesPerSeries = 2 }, one(`{a="1", b="2", service_name="s"}`, at(0, "x")), push.OK, 0, "")
	f(func(l *limits.Limits) { l.MaxLabelNamesPerSeries = 2 }, one(`{c="3",b="2",a="1"}`, at(0, "x")), push.MaxLabelNames, 400,
		`entry for stream '{a="1", b="2", c="3", service_name="unknown_service"}' has 3 label names; limit 2`)
	f(func(l *limits.Limits) { l.MaxLabelNameLength = 3; noDiscovery(l) }, one(`{abcd="1"}`, at(0, "x")), push.LabelNameTooLong, 400,
		`stream '{abcd="1"}' has label name too long: 'abcd'`)
	f(func(l *limits.Limits) { l.MaxLabelValueLength = 3; noDiscovery(l) }, one(`{a="1234"}`, at(0, "x")), push.LabelValueTooLong, 400,
		`stream '{a="1234"}' has label value too long: '1234'`)
	f(nil, one(`{app="`+strings.Repeat("v", 2048)+`"}`, at(0, "x")), push.OK, 0, "")
	long := strings.Repeat("v", 2049)
	f(nil, one(`{app="`+long+`"}`, at(0, "x")), push.LabelValueTooLong, 400,
		`stream '{app="`+long+`", service_name="`+long+`"}' has label value too long: '`+long+`'`)

	// Metadata.
	f(nil, one(lbl, at(0, "x", "trace", "1")), push.OK, 0, "")
	f(func(l *limits.Limits) { l.AllowStructuredMetadata = false }, one(lbl, at(0, "x", "trace", "1")), push.MetadataDisallowed, 400,
		"stream '{service_name=\"s\"}' includes structured metadata, but this feature is disallowed. Please see `limits_config.allow_structured_metadata` or contact your Loki administrator to enable it.")
	f(func(l *limits.Limits) { l.MaxStructuredMetadataSize = 6 }, one(lbl, at(0, "x", "trace", "1")), push.OK, 0, "")
	f(func(l *limits.Limits) { l.MaxStructuredMetadataSize = 5 }, one(lbl, at(0, "x", "trace", "1")), push.MetadataTooLarge, 400,
		"stream '{service_name=\"s\"}' has structured metadata too large: '6' bytes, limit: '5' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it.")
	f(func(l *limits.Limits) { l.MaxStructuredMetadataEntriesCount = 1 }, one(lbl, at(0, "x", "a", "1", "b", "2")), push.MetadataTooMany, 400,
		"stream '{service_name=\"s\"}' has too many structured metadata labels: '2', limit: '1'. Please see `limits_config.max_structured_metadata_entries_count` or contact your Loki administrator to increase it.")
}

func TestServiceName(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		e := newEnv(t, 1, nil)
		if err := e.push(one(in, at(0, "x"))); err != nil {
			t.Fatal(err)
		}
		e.wantStored("a", map[string][]string{want: {fmt.Sprint(start.UnixNano(), " x")}})
	}
	f(`{}`, `{service_name="unknown_service"}`)
	f(`{pod="p"}`, `{pod="p", service_name="unknown_service"}`)
	f(`{job="j"}`, `{job="j", service_name="j"}`)
	f(`{job="j", app="a"}`, `{app="a", job="j", service_name="a"}`)
	f(`{container="c",name="n"}`, `{container="c", name="n", service_name="n"}`)
	f(`{zone="z", service="s"}`, `{service="s", service_name="s", zone="z"}`)
	f(`{job="j", service_name="mine"}`, `{job="j", service_name="mine"}`)
	f(`{job="j", service_name=""}`, `{job="j", service_name="j"}`)
}

func TestMixedBatch(t *testing.T) {
	e := newEnv(t, 1, func(_ *Config, l *limits.Limits) { l.DiscoverServiceName = nil; l.MaxLineSize = 10 })
	b := e.batch(
		one(`{app="one"}`, at(1, "first"), at(-200*time.Hour, "old"), at(2, "much too long"), at(3, "second"), at(-300*time.Hour, "older")),
		one(`{app="bad"`, at(1, "lost"), at(2, "lost too")),
		one(`{app="two"}`, at(4, "third", "k", "v")),
	)
	defer b.Release()
	err := e.g.Push(context.Background(), b)
	var rej *push.Rejected
	if !errors.As(err, &rej) {
		t.Fatalf("got %v", err)
	}
	if rej.Status() != 400 || rej.Entries != 5 || rej.Total != 8 {
		t.Fatalf("got %d %+v", rej.Status(), rej)
	}
	ns := start.UnixNano()
	e.wantStored("a", map[string][]string{
		`{app="one"}`: {fmt.Sprint(ns+1, " first"), fmt.Sprint(ns+3, " second")},
		`{app="two"}`: {fmt.Sprint(ns+4, " third k=v")},
	})
	old := group(rej, push.TooOld)
	if old.Count != 2 || old.Bytes != 8 || old.Stream != `{app="one"}` || old.OldestOK != ns-int64(168*time.Hour) {
		t.Fatalf("too old: %+v", old)
	}
	if g := group(rej, push.InvalidLabels); g.Count != 2 || g.Bytes != 12 || g.Stream != `{app="bad"` {
		t.Fatalf("invalid labels: %+v", g)
	}
	if g := group(rej, push.LineTooLong); g.Count != 1 || g.Bytes != 13 {
		t.Fatalf("too long: %+v", g)
	}
	if want := `2 errors like: entry for stream '{app="one"}' has timestamp too old: 2025-12-24T19:04:05Z, oldest acceptable timestamp is: 2025-12-26T03:04:05Z`; !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("got  %s\nwant %s...", err, want)
	}
	marks := ""
	for i := range b.Streams {
		marks += fmt.Sprint(b.Streams[i].Reject, ":")
		for _, en := range b.StreamEntries(&b.Streams[i]) {
			marks += fmt.Sprint(" ", en.Reject)
		}
		marks += "\n"
	}
	if want := "ok: ok greater_than_max_sample_age line_too_long ok greater_than_max_sample_age\ninvalid_labels: ok ok\nok: ok\n"; marks != want {
		t.Fatalf("marks:\n%s", marks)
	}
	for name, want := range map[string]float64{"discarded_entries_total": 5, "discarded_bytes_total": 33, "received_entries_total": 8} {
		if got := e.value(name, "fake"); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if got := e.value("received_bytes_total", "fake", "test"); got != 33+5+6+5+2 {
		t.Errorf("received bytes: %v", got)
	}
}

func TestRequestRefusals(t *testing.T) {
	e := newEnv(t, 1, func(cfg *Config, _ *limits.Limits) { cfg.AuthEnabled = true })
	f := func(b *push.Batch, tenant string, reason push.Reason, status int, text string) {
		t.Helper()
		defer b.Release()
		b.Tenant = tenant
		err := e.g.Push(context.Background(), b)
		var pe *push.Error
		if !errors.As(err, &pe) || pe.Reason != reason || reason.Status() != status || err.Error() != text {
			t.Fatalf("got %v, want %s", err, text)
		}
	}
	good := func() *push.Batch { return e.batch(one(`{a="b"}`, at(0, "x"))) }
	f(good(), "", push.NoTenant, 401, "no org id")
	f(good(), "a/b", push.InvalidTenant, 400, "tenant ID 'a/b' contains unsupported character '/'")
	f(push.Get(), "t", push.NoStreams, 422, "error at least one valid stream is required for ingestion")

	blocked := *e.lim.Load()
	blocked.BlockIngestionUntil.Time = start.Add(time.Hour)
	e.tenants.Store("blocked", &blocked)
	f(good(), "blocked", push.BlockedIngestion, 260, "ingestion blocked for user blocked until '2026-01-02T04:04:05Z' with status code '260'")
	e.now.Add(int64(time.Hour))
	b := good()
	defer b.Release()
	b.Tenant = "blocked"
	if err := e.g.Push(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	if n := e.value("discarded_entries_total", "(none)"); n != 2 {
		t.Fatalf("%v entries without tenant counted", n)
	}
	if n := e.value("discarded_entries_total", "blocked", "blocked_ingestion"); n != 1 {
		t.Fatalf("%v blocked entries counted", n)
	}
}

func TestAuthOffIgnoresTheHeader(t *testing.T) {
	e := newEnv(t, 1, nil)
	b := e.batch(one(`{a="b"}`, at(0, "x")))
	defer b.Release()
	b.Tenant = "a/b"
	if err := e.g.Push(context.Background(), b); err != nil || b.Tenant != "fake" {
		t.Fatalf("%q: %v", b.Tenant, err)
	}
}

func TestStreamWithoutEntries(t *testing.T) {
	e := newEnv(t, 1, nil)
	if err := e.push(one(`{a="b"}`)); err != nil {
		t.Fatal(err)
	}
	if e.replicas["a"].calls != 0 {
		t.Fatal("an ingester was bothered")
	}
}

// TestTimesBeyondNanoseconds: what int64 cannot say is refused whatever the
// limits allow.
func TestTimesBeyondNanoseconds(t *testing.T) {
	e := newEnv(t, 1, func(_ *Config, l *limits.Limits) { l.RejectOldSamples = false; l.CreationGracePeriod = 1<<63 - 1 })
	for ts, want := range map[int64]push.Reason{-1 << 63: push.TooOld, 1<<63 - 1: push.TooNew} {
		b := e.batch(one(`{a="b"}`, at(0, "x")))
		b.Entries[0].TS = ts
		err := e.g.Push(context.Background(), b)
		b.Release()
		var rej *push.Rejected
		if !errors.As(err, &rej) || rej.Groups[0].Reason != want {
			t.Fatalf("%d: %v", ts, err)
		}
	}
}

func TestTruncate(t *testing.T) {
	e := newEnv(t, 1, func(_ *Config, l *limits.Limits) { l.MaxLineSize = 5; l.MaxLineSizeTruncate = true })
	err := e.push(
		one(`{service_name="s"}`, at(1, "short"), at(2, "longer", "k", "v"), at(3, "abcdé"), at(4, "\xff\xff\xff\xff\xff\xff\xff"), at(-999*time.Hour, "old and long")),
		one(`{ service_name = "s" }`, at(5, "same stream"), at(6, "x")),
	)
	e.wantRefusal(err, push.TooOld, 400,
		`entry for stream '{service_name="s"}' has timestamp too old: 2025-11-21T12:04:05Z, oldest acceptable timestamp is: 2025-12-26T03:04:05Z`)
	ns := start.UnixNano()
	e.wantStored("a", map[string][]string{`{service_name="s"}`: {
		fmt.Sprint(ns+1, " short"), fmt.Sprint(ns+2, " longe k=v"), fmt.Sprint(ns+3, " abcd"), fmt.Sprint(ns+4, " \xff\xff\xff\xff\xff"),
		fmt.Sprint(ns+5, " same "), fmt.Sprint(ns+6, " x"),
	}})
	if n := e.value("truncated_entries_total", "fake"); n != 4 {
		t.Fatalf("%v truncated", n)
	}
}

func TestIncrementDuplicateTimestamp(t *testing.T) {
	lines := []line{at(0, "a"), at(0, "b"), at(0, "b"), at(0, "c"), at(2, "d"), at(2, "e"), at(9, "f"), at(1, "g")}
	f := func(on bool, want ...string) {
		t.Helper()
		e := newEnv(t, 1, func(_ *Config, l *limits.Limits) { l.IncrementDuplicateTimestamp = on })
		if err := e.push(one(`{service_name="s"}`, lines...)); err != nil {
			t.Fatal(err)
		}
		for i, w := range want {
			var off int64
			var text string
			if _, err := fmt.Sscan(w, &off, &text); err != nil {
				t.Fatal(err)
			}
			want[i] = fmt.Sprint(start.UnixNano()+off, " ", text)
		}
		e.wantStored("a", map[string][]string{`{service_name="s"}`: want})
	}
	f(false, "0 a", "0 b", "0 b", "0 c", "2 d", "2 e", "9 f", "1 g")
	f(true, "0 a", "1 b", "1 b", "2 c", "3 d", "4 e", "9 f", "1 g")
}

func TestCacheFollowsLimits(t *testing.T) {
	e := newEnv(t, 1, func(cfg *Config, _ *limits.Limits) { cfg.AuthEnabled = true })
	pushAs := func(tenant string) error {
		b := e.batch(one(`{a="1234", b="2"}`, at(0, "x")))
		defer b.Release()
		b.Tenant = tenant
		return e.g.Push(context.Background(), b)
	}
	reason := func(err error) push.Reason {
		var rej *push.Rejected
		if errors.As(err, &rej) {
			return rej.Groups[0].Reason
		}
		if err != nil {
			t.Fatal(err)
		}
		return push.OK
	}
	want := func(tenant string, r push.Reason) {
		t.Helper()
		for range 3 {
			if got := reason(pushAs(tenant)); got != r {
				t.Fatalf("tenant %s: %s, want %s", tenant, got, r)
			}
		}
	}
	strict := *e.lim.Load()
	strict.MaxLabelValueLength = 3
	e.tenants.Store("strict", &strict)
	want("free", push.OK)
	want("strict", push.LabelValueTooLong) // not what the cache knows of free
	want("free", push.OK)
	e.setLimits(func(l *limits.Limits) { l.MaxLabelNamesPerSeries = 1 })
	want("free", push.MaxLabelNames)
	want("strict", push.LabelValueTooLong)
	e.setLimits(func(l *limits.Limits) { l.MaxLabelNamesPerSeries = 15 })
	want("free", push.OK)
	e.setLimits(func(l *limits.Limits) { l.DiscoverServiceName = nil })
	e.replicas["a"].got = nil
	want("free", push.OK)
	ns := start.UnixNano()
	x := fmt.Sprint(ns, " x")
	e.wantStored("a", map[string][]string{`{a="1234", b="2"}`: {x, x, x}})

	// Tokens are the tenant's.
	if labels.Token("free", `{a="1"}`) == labels.Token("other", `{a="1"}`) {
		t.Fatal("tenants share tokens")
	}
	want("other", push.OK) // the replica compares tokens
}

func TestCacheIsBounded(t *testing.T) {
	e := newEnv(t, 1, func(cfg *Config, l *limits.Limits) { cfg.LabelCache = 1 << 20; l.IngestionRateMB = 0 })
	pad := strings.Repeat("x", 500)
	for i := range 5000 {
		if err := e.push(one(fmt.Sprintf(`{app="%d", pad="%s"}`, i, pad), at(0, "x"))); err != nil {
			t.Fatal(err)
		}
		if i%500 == 0 {
			if n := e.value("label_cache_bytes"); n > 1<<20 {
				t.Fatalf("%v bytes after %d streams", n, i)
			}
		}
	}
	if n := e.value("label_cache_bytes"); n > 1<<20 || n < 1<<18 {
		t.Fatalf("%v bytes", n)
	}
	before := e.value("label_cache_hits_total")
	for range 3 {
		if err := e.push(one(fmt.Sprintf(`{app="%d", pad="%s"}`, 4999, pad), at(0, "x"))); err != nil {
			t.Fatal(err)
		}
	}
	if got := e.value("label_cache_hits_total") - before; got != 3 {
		t.Fatalf("%v hits", got)
	}
}

func TestCacheHitDoesNotAllocate(t *testing.T) {
	e := newEnv(t, 1, nil)
	tn, lim, raw := e.g.tenant("fake"), e.lim.Load(), []byte(`{app="a", env="b"}`)
	e.g.labels.lookup(tn, lim, raw)
	if n := testing.AllocsPerRun(100, func() {
		if _, hit := e.g.labels.lookup(e.g.tenant("fake"), lim, raw); !hit {
			t.Fatal("no hit")
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestRateLimit(t *testing.T) {
	e := newEnv(t, 1, func(_ *Config, l *limits.Limits) {
		l.IngestionRateMB, l.IngestionBurstSizeMB = 1.0/1024, 2.0/1024
	})
	const kb = 1 << 10
	send := func(size int) error {
		return e.push(one(`{service_name="s"}`, at(0, strings.Repeat("x", size/2)), at(0, strings.Repeat("x", size/2-6), "trace", "1")))
	}
	limited := func(size int, wait time.Duration) {
		t.Helper()
		err := send(size)
		var pe *push.Error
		if !errors.As(err, &pe) || pe.Reason != push.RateLimited || pe.Reason.Status() != 429 {
			t.Fatalf("got %v", err)
		}
		if want := fmt.Sprintf("ingestion rate limit exceeded for user fake (limit: 1024 bytes/sec) while attempting to ingest '2' lines totaling '%d' bytes, reduce log volume or contact your Loki administrator to see if the limit can be increased", size); err.Error() != want {
			t.Fatalf("got  %s\nwant %s", err, want)
		}
		if d := pe.RetryAfter - wait; d < 0 || d > time.Microsecond {
			t.Fatalf("retry after %v, want %v", pe.RetryAfter, wait)
		}
		// One moment earlier is too early, then it fits.
		e.now.Add(int64(wait) - 1000)
		if err := send(size); err == nil {
			t.Fatal("it fitted earlier")
		}
		e.now.Add(int64(pe.RetryAfter-wait) + 1000)
		if err := send(size); err != nil {
			t.Fatalf("it does not fit after %v: %v", pe.RetryAfter, err)
		}
	}
	ok := func(size int) {
		t.Helper()
		if err := send(size); err != nil {
			t.Fatal(err)
		}
	}
	ok(2 * kb)
	limited(kb/2, time.Second/2)
	limited(2*kb, 2*time.Second)
	e.now.Add(int64(time.Hour)) // no more than the burst is saved up
	ok(kb)
	ok(kb)
	limited(kb, time.Second)

	// Above the burst: passes once the bucket is full, and is paid for later.
	limited(5*kb, 2*time.Second)
	limited(kb, 4*time.Second)

	if n := e.value("discarded_entries_total", "rate_limited"); n != 20 {
		t.Fatalf("%v entries counted", n)
	}
}

func TestRateLimitCountsOnlyWhatIsGood(t *testing.T) {
	e := newEnv(t, 1, func(_ *Config, l *limits.Limits) {
		l.IngestionRateMB, l.IngestionBurstSizeMB, l.PerStreamRateLimit = 1.0/1024, 1.0/1024, 0
	})
	kb := strings.Repeat("x", 1024)
	var rej *push.Rejected
	if err := e.push(one(`{`, at(0, kb)), one(`{a="b"}`, at(-999*time.Hour, kb), at(0, kb))); !errors.As(err, &rej) {
		t.Fatalf("refused lines were charged: %v", err)
	}
	// Tenants do not share.
	if err := e.push(one(`{a="b"}`, at(0, "x"))); err == nil {
		t.Fatal("nothing was charged")
	}
	e.g.cfg.AuthEnabled = true
	b := e.batch(one(`{a="b"}`, at(0, kb)))
	defer b.Release()
	b.Tenant = "other"
	if err := e.g.Push(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

func TestStreamRateLimit(t *testing.T) {
	const kb = 1 << 10
	e := newEnv(t, 1, func(_ *Config, l *limits.Limits) {
		l.IngestionRateMB, l.IngestionBurstSizeMB = 4.0/1024, 21.0/1024
		l.PerStreamRateLimit, l.PerStreamRateLimitBurst = 3*kb, 15*kb
	})
	big := strings.Repeat("x", 5*kb)
	hot := one(`{service_name="hot"}`, at(0, big), at(-999*time.Hour, "old"), at(0, big))
	var rej *push.Rejected
	if err := e.push(hot); !errors.As(err, &rej) || rej.Entries != 1 {
		t.Fatalf("got %v", err)
	}
	b := e.batch(hot, one(`{service_name="cold"}`, at(0, "fine")))
	defer b.Release()
	err := e.g.Push(context.Background(), b)
	if !errors.As(err, &rej) || rej.Entries != 3 || rej.Total != 4 {
		t.Fatalf("got %v", err)
	}
	g := group(rej, push.StreamRateLimit)
	if g == nil || g.Count != 2 || g.Bytes != 10*kb {
		t.Fatalf("got %+v", rej.Groups)
	}
	if want := `Per stream rate limit exceeded (limit: 3KB/sec) while attempting to ingest for stream '{service_name="hot"}' totaling 10KB, consider splitting a stream via additional labels or contact your Loki administrator to see if the limit can be increased`; g.First != want {
		t.Fatalf("got  %s\nwant %s", g.First, want)
	}
	if got := b.Entries[0].Reject; got != push.StreamRateLimit {
		t.Fatalf("mark: %s", got)
	}
	e.replicas["a"].mu.Lock()
	hots, colds := len(e.replicas["a"].got[`{service_name="hot"}`]), len(e.replicas["a"].got[`{service_name="cold"}`])
	e.replicas["a"].mu.Unlock()
	if hots != 2 || colds != 1 {
		t.Fatalf("%d hot, %d cold lines", hots, colds)
	}
	// What was refused is not charged to the tenant: nearly 11 of 21 KB are left.
	if err := e.push(one(`{service_name="third"}`, at(0, big+big+"x"))); err != nil {
		t.Fatal(err)
	}
	// All that a push has is refused, then time passes.
	e.setLimits(func(l *limits.Limits) { l.IngestionRateMB = 0 })
	if err := e.push(hot); !errors.As(err, &rej) || rej.Entries != 1 {
		t.Fatalf("got %v", err)
	}
	only := e.push(one(`{service_name="hot"}`, at(0, strings.Repeat("x", 6*kb))))
	e.now.Add(int64(2 * time.Second))
	e.wantRefusal(only, push.StreamRateLimit, 429,
		`Per stream rate limit exceeded (limit: 3KB/sec) while attempting to ingest for stream '{service_name="hot"}' totaling 6KB, consider splitting a stream via additional labels or contact your Loki administrator to see if the limit can be increased`)
	if err := e.push(one(`{service_name="hot"}`, at(0, big))); err != nil {
		t.Fatal(err)
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 283: "283B", 1024: "1KB", 3 << 20: "3MB", 8238: "8238B", 1536 << 10: "1536KB", 5 << 40: "5TB"} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestAdmit(t *testing.T) {
	e := newEnv(t, 1, func(cfg *Config, _ *limits.Limits) { cfg.MaxInflight = 1 << 20; cfg.AdmitWait = time.Millisecond })
	ctx := context.Background()
	admit := func(n int64) func() {
		t.Helper()
		release, err := e.g.Admit(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	a, b := admit(1<<19), admit(1<<19-100)
	if n := e.value("inflight_bytes"); n != 1<<20-100 {
		t.Fatalf("%v bytes in flight", n)
	}
	_, err := e.g.Admit(ctx, 101)
	var pe *push.Error
	if !errors.As(err, &pe) || pe.Reason != push.Overloaded || pe.RetryAfter <= 0 || pe.Reason.Status() != 503 {
		t.Fatalf("got %v", err)
	}
	admit(100)()
	a()
	admit(1 << 40)() // counts as half
	b()
	if n := e.value("inflight_bytes"); n != 0 {
		t.Fatalf("%v bytes in flight", n)
	}
	admit(-1)()
	if n := e.value("not_admitted_total"); n != 1 {
		t.Fatalf("%v refused", n)
	}

	// Who waits gets what is released; who gives up says why.
	e.g.cfg.AdmitWait = time.Hour
	a, b = admit(1<<19), admit(1<<19)
	got := make(chan error)
	go func() {
		release, err := e.g.Admit(ctx, 1000)
		if err == nil {
			release()
		}
		got <- err
	}()
	a()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	a = admit(1 << 19)
	if _, err := e.g.Admit(gone, 1000); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	a()
	b()
}

func TestClose(t *testing.T) {
	e := newEnv(t, 1, nil)
	hold, held := make(chan struct{}), make(chan struct{})
	e.replicas["a"].push = func(context.Context, *push.Batch) error { close(held); <-hold; return nil }
	first := make(chan error)
	go func() { first <- e.push(one(`{a="b"}`, at(0, "x"))) }()
	<-held
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.g.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Close did not wait: %v", err)
	}
	err := e.push(one(`{a="b"}`, at(0, "x")))
	var pe *push.Error
	if !errors.As(err, &pe) || pe.Reason != push.Leaving {
		t.Fatalf("got %v", err)
	}
	close(hold)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if err := e.g.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestConfig(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	bad := Config{ReplicationFactor: 6, AdmitWait: -1, MaxBackground: -1}
	if errs := bad.Validate(); len(errs) != 11 {
		t.Fatalf("got %v", errs)
	}
	if _, err := New(Deps{}, bad); err == nil {
		t.Fatal("New accepted a bad configuration")
	}
	e := newEnv(t, 1, nil)
	if _, err := New(Deps{Metrics: e.reg}, DefaultConfig()); err == nil {
		t.Fatal("metrics were registered twice")
	}
	if _, err := New(Deps{}, DefaultConfig()); err != nil {
		t.Fatal(err)
	}
}

func TestTenantLabelsAreBounded(t *testing.T) {
	e := newEnv(t, 1, func(cfg *Config, _ *limits.Limits) { cfg.AuthEnabled = true })
	for i := range maxTenantLabels + 50 {
		b := e.batch(one(`{a="b"}`, at(0, "x")))
		b.Tenant = fmt.Sprint("t", i)
		if err := e.g.Push(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	if n := e.value("received_entries_total", "(all other)"); n != 50 {
		t.Fatalf("%v entries of others", n)
	}
	if n := e.value("received_entries_total"); n != maxTenantLabels+50 {
		t.Fatalf("%v entries", n)
	}
}

func TestConcurrentPushes(t *testing.T) {
	e := newEnv(t, 5, func(cfg *Config, l *limits.Limits) {
		cfg.AuthEnabled, cfg.ReplicationFactor = true, 3
		cfg.HedgeDelay = time.Hour // no further copies, however busy the machine is
		l.IngestionRateMB = 0
	})
	var wg sync.WaitGroup
	const workers, pushes, streams = 8, 40, 12
	for w := range workers {
		wg.Go(func() {
			for i := range pushes {
				var ss []stream
				for s := range streams {
					ss = append(ss, one(fmt.Sprintf(`{app="%d"}`, s), at(time.Duration(i), fmt.Sprint(w, i)), at(-999*time.Hour, "old")))
				}
				b := e.batch(ss...)
				b.Tenant = fmt.Sprint("t", w%3)
				var rej *push.Rejected
				if err := e.g.Push(context.Background(), b); !errors.As(err, &rej) || rej.Entries != streams {
					t.Errorf("got %v", err)
				}
				b.Release()
				if i%10 == 0 {
					e.setLimits(func(l *limits.Limits) { l.MaxLineSize++ })
				}
			}
		})
	}
	wg.Wait()
	if err := e.g.Close(context.Background()); err != nil { // the third replicas
		t.Fatal(err)
	}
	total := 0
	for _, r := range e.replicas {
		total += r.count()
	}
	if want := workers * pushes * streams * 3; total != want {
		t.Fatalf("%d copies of entries, want %d", total, want)
	}
}
