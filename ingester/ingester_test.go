package ingester

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

// fakeStore keeps what it is given; it outlives an ingester as a bucket does.
type fakeStore struct {
	mu      sync.Mutex
	objects map[string][]byte
	listed  map[string]map[chunk.Key]bool // tenant and labels -> keys in an index
	fail    error
	puts    int

	// hook is called when a call begins and before it returns, and may fail it.
	hook    func(step, tenant string) error
	order   []chunk.Key // of all chunks put, in this order
	tried   int         // chunks that were to be put
	indexes int         // index files
	running int
	most    int // that ran at a time
}

func (s *fakeStore) call(step, tenant string) error {
	if s.hook != nil {
		return s.hook(step, tenant)
	}
	return nil
}

// copy returns a store with what s has, without hooks and counts.
func (s *fakeStore) copy() *fakeStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copyLocked()
}

func (s *fakeStore) copyLocked() *fakeStore {
	c := newFakeStore()
	for k, v := range s.objects {
		c.objects[k] = v
	}
	for id, keys := range s.listed {
		c.listed[id] = map[chunk.Key]bool{}
		for k := range keys {
			c.listed[id][k] = true
		}
	}
	return c
}

func newFakeStore() *fakeStore {
	return &fakeStore{objects: map[string][]byte{}, listed: map[string]map[chunk.Key]bool{}}
}

func (s *fakeStore) PutChunk(ctx context.Context, key chunk.Key, object []byte) error {
	s.mu.Lock()
	s.tried++
	s.running++
	s.most = max(s.most, s.running)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running--
		s.mu.Unlock()
	}()
	if err := s.call("put chunk", key.Tenant); err != nil {
		return err
	}
	s.mu.Lock()
	if s.fail != nil {
		defer s.mu.Unlock()
		return s.fail
	}
	s.puts++
	s.order = append(s.order, key)
	s.objects[key.String()] = append([]byte(nil), object...)
	s.mu.Unlock()
	return s.call("chunk is put", key.Tenant)
}

func (s *fakeStore) PutIndex(ctx context.Context, tenant string, series []index.Series) error {
	if err := s.call("put index", tenant); err != nil {
		return err
	}
	if err := s.list(tenant, series); err != nil {
		return err
	}
	return s.call("index is put", tenant)
}

func (s *fakeStore) list(tenant string, series []index.Series) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.indexes++
	for _, se := range series {
		id := tenant + se.Labels.String()
		if s.listed[id] == nil {
			s.listed[id] = map[chunk.Key]bool{}
		}
		for _, c := range se.Chunks {
			key := chunk.Key{Tenant: tenant, Fingerprint: se.Fingerprint, From: c.MinTime, Through: c.MaxTime, Checksum: c.Checksum}
			if s.objects[key.String()] == nil {
				return fmt.Errorf("index lists %s, which is not stored", key)
			}
			s.listed[id][key] = true
		}
	}
	return nil
}

func (s *fakeStore) setFail(err error) {
	s.mu.Lock()
	s.fail = err
	s.mu.Unlock()
}

// lines returns "ts line name=value..." of every listed entry of a stream.
func (s *fakeStore) lines(t testing.TB, tenant, ls string) []string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for key := range s.listed[tenant+ls] {
		c, err := chunk.Decode(s.objects[key.String()])
		if err != nil {
			t.Fatal(err)
		}
		for k := range c.Blocks {
			out = append(out, loadLines(t, c.Ref(k))...)
		}
	}
	return out
}

func loadLines(t testing.TB, ref chunk.BlockRef) []string {
	t.Helper()
	content, symbols, err := ref.Load(nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	last := int64(never)
	it := chunk.Entries(content)
	for it.Next() {
		if it.TS < last {
			t.Fatal("block is not sorted")
		}
		last = it.TS
		l := fmt.Sprintf("%d %s", it.TS, it.Line)
		for k := range it.NumPairs {
			l += fmt.Sprintf(" %s=%s", symbols[it.Sym(2*k)], symbols[it.Sym(2*k+1)])
		}
		out = append(out, l)
	}
	if it.Err() != nil {
		t.Fatal(it.Err())
	}
	return out
}

// visible returns what memory and store have of a stream, sorted, each once,
// and how many of them were there more than once in memory.
func visible(t testing.TB, i *Ingester, s *fakeStore, tenant, ls string) (lines []string, doubles int) {
	t.Helper()
	m, err := labels.NewMatcher(labels.MatchRegexp, "app", ".*")
	if err != nil {
		t.Fatal(err)
	}
	series, err := i.Select(context.Background(), tenant, []*labels.Matcher{m}, 0, 1<<62)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, se := range series {
		if se.Labels.String() != ls {
			continue
		}
		for _, r := range se.Blocks {
			for _, l := range loadLines(t, r) {
				if seen[l]++; seen[l] > 1 {
					doubles++
				}
			}
		}
	}
	for _, l := range s.lines(t, tenant, ls) {
		seen[l]++
	}
	for l := range seen {
		lines = append(lines, l)
	}
	sort.Strings(lines)
	return lines, doubles
}

func testConfig() Config {
	c := DefaultConfig()
	c.ChunkBlockSize = 4096
	c.ChunkTargetSize = 8192
	c.HeadMemory = 4 << 20
	c.WAL.MaxSize = 4 << 20
	c.FlushCheckPeriod = 20 * time.Millisecond
	c.IndexInterval = 0
	return c
}

type harness struct {
	now   func() time.Time
	fs    vfs.FS
	store *fakeStore
	cfg   Config
	lim   Limits
	log   *slog.Logger
	peers Peers
}

func newHarness() *harness {
	return &harness{fs: vfs.NewMem(), store: newFakeStore(), cfg: testConfig(), lim: Limits{Unordered: true, Horizon: 7 * 24 * time.Hour}}
}

func (h *harness) open(t testing.TB) *Ingester {
	t.Helper()
	i, err := Open(h.fs, "/data", h.cfg, Deps{Store: h.store, Limits: func(string) Limits { return h.lim }, Log: h.log, Now: h.now, Peers: h.peers})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "ready", func() bool { return i.Ready() == nil })
	return i
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func shut(t testing.TB, i *Ingester, flush bool) {
	t.Helper()
	if err := i.Shutdown(context.Background(), flush); err != nil {
		t.Fatal(err)
	}
}

type line struct {
	ts   int64
	text string
	meta []string
}

// mkBatch makes a batch of lines by stream.
func mkBatch(tenant string, streams map[string][]line) *push.Batch {
	bl := push.NewBuilder(push.Get())
	names := make([]string, 0, len(streams))
	for ls := range streams {
		names = append(names, ls)
	}
	sort.Strings(names)
	for _, ls := range names {
		s := bl.Stream([]byte(ls))
		for _, l := range streams[ls] {
			for k := 0; k+1 < len(l.meta); k += 2 {
				bl.Pair([]byte(l.meta[k]), []byte(l.meta[k+1]))
			}
			bl.EntryExact(s, l.ts, []byte(l.text))
		}
	}
	b := bl.Finish()
	b.Tenant = tenant
	for k := range b.Streams {
		b.Streams[k].Labels = string(b.Bytes(b.Streams[k].RawLabels))
		b.Streams[k].Token = labels.Token(tenant, b.Streams[k].Labels)
	}
	return b
}

func pushLines(t testing.TB, i *Ingester, tenant string, streams map[string][]line) error {
	t.Helper()
	b := mkBatch(tenant, streams)
	defer b.Release()
	return i.Push(context.Background(), b)
}

func (l line) String() string {
	s := fmt.Sprintf("%d %s", l.ts, l.text)
	for k := 0; k+1 < len(l.meta); k += 2 {
		s += " " + l.meta[k] + "=" + l.meta[k+1]
	}
	return s
}

func expect(t testing.TB, i *Ingester, s *fakeStore, tenant, ls string, want []line) {
	t.Helper()
	got, doubles := visible(t, i, s, tenant, ls)
	var w []string
	for _, l := range want {
		w = append(w, l.String())
	}
	sort.Strings(w)
	if strings.Join(got, "\n") != strings.Join(w, "\n") {
		t.Fatalf("%s: %d lines, want %d\n%s", ls, len(got), len(w), diff(got, w))
	}
	if doubles > 0 {
		t.Fatalf("%s: %d lines twice in memory", ls, doubles)
	}
}

func diff(got, want []string) string {
	have := map[string]bool{}
	for _, g := range got {
		have[g] = true
	}
	n, out := 0, ""
	for _, w := range want {
		if !have[w] {
			if n++; n < 5 {
				out += "missing: " + w + "\n"
			}
		}
		delete(have, w)
	}
	for g := range have {
		if n++; n < 10 {
			out += "extra: " + g + "\n"
		}
	}
	return out
}

const (
	app1 = `{app="one"}`
	sec  = int64(time.Second)
)

var t0 = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).UnixNano()

func seq(from, n int) []line {
	var out []line
	for k := range n {
		l := line{ts: t0 + int64(from+k)*sec, text: fmt.Sprintf("line %d of the stream", from+k)}
		if k%3 == 0 {
			l.meta = []string{"trace", fmt.Sprint(k % 7), "user", "u"}
		}
		out = append(out, l)
	}
	return out
}

func TestVisibleAtOnceAndAfterRestart(t *testing.T) {
	h := newHarness()
	i := h.open(t)
	want := seq(0, 500) // several blocks
	if err := pushLines(t, i, "t", map[string][]line{app1: want[:100]}); err != nil {
		t.Fatal(err)
	}
	expect(t, i, h.store, "t", app1, want[:100])
	if err := pushLines(t, i, "t", map[string][]line{app1: want[100:]}); err != nil {
		t.Fatal(err)
	}
	expect(t, i, h.store, "t", app1, want)
	shut(t, i, false)
	if len(h.store.objects) != 0 {
		t.Fatal("chunks were stored without being asked for")
	}
	i = h.open(t)
	expect(t, i, h.store, "t", app1, want)
	more := seq(500, 10)
	if err := pushLines(t, i, "t", map[string][]line{app1: more}); err != nil {
		t.Fatal(err)
	}
	expect(t, i, h.store, "t", app1, append(want, more...))
	shut(t, i, true)
	i = h.open(t)
	defer shut(t, i, false)
	expect(t, i, h.store, "t", app1, append(want, more...))
	if got := len(h.store.lines(t, "t", app1)); got != 510 {
		t.Fatalf("%d lines in the store, want 510", got)
	}
}

func TestOneStreamTwiceInAPush(t *testing.T) {
	h := newHarness()
	i := h.open(t)
	a, b := seq(0, 300), seq(300, 300)
	x, y := mkBatch("t", map[string][]line{app1: a}), mkBatch("t", map[string][]line{app1: b})
	defer x.Release()
	defer y.Release()
	both := push.Get()
	defer both.Release()
	if err := both.SetData(append(append([]byte(nil), x.Data...), y.Data...)); err != nil {
		t.Fatal(err)
	}
	both.Tenant = "t"
	for k := range both.Streams {
		both.Streams[k].Labels, both.Streams[k].Token = app1, labels.Token("t", app1)
	}
	if err := i.Push(context.Background(), both); err != nil {
		t.Fatal(err)
	}
	want := append(a, b...)
	expect(t, i, h.store, "t", app1, want)
	waitFor(t, "cut", func() bool { return i.blocks.Stats().Live > 0 && i.m.sealedBytes.Load() == 0 })
	shut(t, i, false)
	i = h.open(t)
	defer shut(t, i, false)
	expect(t, i, h.store, "t", app1, want)
}

func TestFlushReleasesLocalData(t *testing.T) {
	h := newHarness()
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	var want []line
	for k := range 40 {
		part := seq(k*100, 100)
		want = append(want, part...)
		if err := pushLines(t, i, "t", map[string][]line{app1: part}); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	if n := len(h.store.lines(t, "t", app1)); n != len(want) {
		t.Fatalf("%d lines stored, want %d", n, len(want))
	}
	expect(t, i, h.store, "t", app1, want)
	if in := i.slabs.InUse(); in != 0 {
		t.Fatalf("heads hold %d bytes after a flush", in)
	}
	if st := i.blocks.Stats(); st.Live != 0 {
		t.Fatalf("%d bytes of blocks are still held after a flush", st.Live)
	}
	if i.m.pendingChunks.Load() != 0 {
		t.Fatal("chunks pending after a flush")
	}
}

func TestOrderingRules(t *testing.T) {
	h := newHarness()
	h.lim.Horizon = 24 * time.Hour
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	day := 24 * 3600 * sec
	now := line{ts: t0, text: "now"}
	late := line{ts: t0 - 30*60*sec, text: "in the window"}
	later := line{ts: t0 - 20*3600*sec, text: "in the late lane"}
	tooLate := line{ts: t0 - day - 1, text: "behind the horizon"}
	for _, l := range []line{now, late, later} {
		if err := pushLines(t, i, "t", map[string][]line{app1: {l}}); err != nil {
			t.Fatal(err)
		}
	}
	err := pushLines(t, i, "t", map[string][]line{app1: {tooLate, {ts: t0 + 1, text: "good"}}})
	var rej *push.Rejected
	if !errors.As(err, &rej) || rej.Entries != 1 || rej.Groups[0].Reason != push.TooFarBehind || rej.Groups[0].OldestOK != t0-day {
		t.Fatalf("too late: %v", err)
	}
	want := []line{now, late, later, {ts: t0 + 1, text: "good"}}
	expect(t, i, h.store, "t", app1, want)
	if st := i.blocks.Stats(); st.Bytes > 0 {
		t.Fatal("late entries cut blocks")
	}

	h.lim.Horizon = 0 // Loki's rule: half of max-chunk-age
	if err := pushLines(t, i, "t", map[string][]line{app1: {later}}); !errors.As(err, &rej) || rej.Groups[0].Reason != push.TooFarBehind {
		t.Fatalf("horizon 0: %v", err)
	}
	h.lim.Unordered = false
	if err := pushLines(t, i, "t", map[string][]line{app1: {{ts: t0, text: "x"}}}); !errors.As(err, &rej) || rej.Groups[0].Reason != push.OutOfOrder {
		t.Fatalf("ordered: %v", err)
	}
	same := line{ts: t0 + 1, text: "same time is in order"}
	if err := pushLines(t, i, "t", map[string][]line{app1: {same}}); err != nil {
		t.Fatal(err)
	}
	want = append(want, same)
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	expect(t, i, h.store, "t", app1, want)
}

func TestDisorderIsSortedInStoredChunks(t *testing.T) {
	h := newHarness()
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	lines := seq(0, 1200)
	rng := rand.New(rand.NewPCG(3, 4))
	rng.Shuffle(len(lines), func(a, b int) { lines[a], lines[b] = lines[b], lines[a] })
	for k := 0; k < len(lines); k += 50 {
		if err := pushLines(t, i, "t", map[string][]line{app1: lines[k : k+50]}); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, i, h.store, "t", app1, lines)
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	expect(t, i, h.store, "t", app1, lines)
	for _, obj := range h.store.objects {
		c, err := chunk.Decode(obj)
		if err != nil {
			t.Fatal(err)
		}
		for k := 1; k < len(c.Blocks); k++ {
			if c.Blocks[k].MinT < c.Blocks[k-1].MaxT {
				t.Fatal("blocks of a stored chunk overlap")
			}
		}
	}
}

func TestStreamLimit(t *testing.T) {
	h := newHarness()
	h.lim.MaxStreams = 2
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	all := map[string][]line{}
	for k := range 4 {
		all[fmt.Sprintf(`{app="%d"}`, k)] = seq(0, 2)
	}
	err := pushLines(t, i, "t", all)
	var rej *push.Rejected
	if !errors.As(err, &rej) || rej.Entries != 4 || rej.Groups[0].Reason != push.StreamLimit {
		t.Fatalf("got %v", err)
	}
	expect(t, i, h.store, "t", `{app="0"}`, all[`{app="0"}`])
	expect(t, i, h.store, "t", `{app="1"}`, all[`{app="1"}`])
	if err := pushLines(t, i, "other", map[string][]line{app1: seq(0, 1)}); err != nil {
		t.Fatalf("the limit of one tenant hit another: %v", err)
	}
}

func TestStoreOutage(t *testing.T) {
	h := newHarness()
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	h.store.setFail(errors.New("503 slow down"))
	want := seq(0, 500)
	if err := pushLines(t, i, "t", map[string][]line{app1: want}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := i.Flush(ctx, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("flush with the store down: %v", err)
	}
	expect(t, i, h.store, "t", app1, want)
	h.store.setFail(nil)
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	if n := len(h.store.lines(t, "t", app1)); n != 500 {
		t.Fatalf("%d lines stored, want 500", n)
	}
}

// TestBudgets pushes much more than heads and WAL may hold.
func TestBudgets(t *testing.T) {
	h := newHarness()
	h.cfg.ChunkBlockSize = 256 << 10
	h.cfg.ChunkTargetSize = 1 << 20
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	rng := rand.New(rand.NewPCG(9, 9))
	want := map[string][]line{}
	idle := line{ts: t0, text: "the stream that pins the WAL"}
	if err := pushLines(t, i, "t", map[string][]line{`{app="idle"}`: {idle}}); err != nil {
		t.Fatal(err)
	}
	high := int64(0)
	for k := range 200 {
		streams := map[string][]line{}
		for s := range 100 {
			ls := fmt.Sprintf(`{app="%d"}`, s)
			l := line{ts: t0 + int64(k)*sec, text: noise(rng, 500)}
			streams[ls] = []line{l}
			want[ls] = append(want[ls], l)
		}
		if err := pushLines(t, i, "t", streams); err != nil {
			t.Fatal(err)
		}
		high = max(high, i.slabs.InUse())
	}
	// Above 5/4 of the budget pushes wait; one that was let in may add its part.
	if high > 7<<20 {
		t.Fatalf("heads held %d bytes with a budget of 4 MiB", high)
	}
	waitFor(t, "WAL within its size", func() bool { i.wantTrim(); return i.wal.Size() <= 4<<20+2<<20 })
	for ls, lines := range want {
		expect(t, i, h.store, "t", ls, lines)
	}
	expect(t, i, h.store, "t", `{app="idle"}`, []line{idle})
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	for ls, lines := range want {
		expect(t, i, h.store, "t", ls, lines)
	}
	// What is left is what the last segments of the WAL still have.
	waitFor(t, "block files gone", func() bool { i.wantTrim(); return i.blocks.Stats().Bytes <= 8<<20 })
}

func TestIdleStreamsAreFlushedAndForgotten(t *testing.T) {
	h := newHarness()
	h.cfg.ChunkIdlePeriod = 50 * time.Millisecond
	h.cfg.IndexInterval = time.Second
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	want := seq(0, 10)
	if err := pushLines(t, i, "t", map[string][]line{app1: want}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "stream forgotten", func() bool { return i.tenant("t").active.Load() == 0 })
	expect(t, i, h.store, "t", app1, want)
	more := seq(10, 10)
	if err := pushLines(t, i, "t", map[string][]line{app1: more}); err != nil {
		t.Fatal(err)
	}
	expect(t, i, h.store, "t", app1, append(want, more...))
}

func TestReplayAfterDroppedStreamIsExact(t *testing.T) {
	h := newHarness()
	h.cfg.ChunkIdlePeriod = 10 * time.Millisecond
	i := h.open(t)
	first := seq(0, 10)
	if err := pushLines(t, i, "t", map[string][]line{app1: first}); err != nil {
		t.Fatal(err)
	}
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "stream forgotten", func() bool { return i.tenant("t").active.Load() == 0 })
	second := seq(10, 10)
	if err := pushLines(t, i, "t", map[string][]line{app1: second}); err != nil {
		t.Fatal(err)
	}
	h.cfg.ChunkIdlePeriod = time.Hour
	shut(t, i, false)
	i = h.open(t)
	defer func() { shut(t, i, false) }()
	m, _ := labels.NewMatcher(labels.MatchEqual, "app", "one")
	series, err := i.Select(context.Background(), "t", []*labels.Matcher{m}, 0, 1<<62)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range series {
		for _, r := range s.Blocks {
			n += len(loadLines(t, r))
		}
	}
	if n > 10 {
		t.Fatalf("%d lines came back from the WAL, 10 of them had been stored", n)
	}
	expect(t, i, h.store, "t", app1, append(first, second...))
}
