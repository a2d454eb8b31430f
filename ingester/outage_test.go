package ingester

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/proto/push"
)

// clock is a wall clock that a test moves.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.ns.Store(t0)
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// noise returns a line that does not compress much.
func noise(rng *rand.Rand, n int) string {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		for x, k := rng.Uint64(), 0; k < 8; k++ {
			b = append(b, '!'+byte(x>>(8*k))%90)
		}
	}
	return string(b[:n])
}

// TestOutageOfHours pushes three hours of logs, by the ingester's clock, with
// the store down, until local disk has taken its budget; restarts; and lets the
// store come back.
func TestOutageOfHours(t *testing.T) {
	h := newHarness()
	ck := newClock()
	h.now = ck.now
	h.cfg.DiskBudget = 16 << 20
	h.cfg.ChunkBlockSize = 16 << 10
	h.cfg.ChunkTargetSize = 64 << 10
	h.cfg.MaxChunkAge = 20 * time.Minute
	h.cfg.IndexInterval = time.Hour
	i := h.open(t)
	h.store.setFail(errors.New("connection refused"))
	rng := rand.New(rand.NewPCG(3, 3))
	want := map[string][]line{}
	sent := 0
	send := func() error {
		streams := map[string][]line{}
		for s := range 40 {
			ls := fmt.Sprintf(`{app="%d"}`, s)
			ck.advance(time.Second)
			l := line{ts: ck.now().UnixNano(), text: noise(rng, 700)}
			if s%4 == 0 {
				l.meta = []string{"trace", fmt.Sprint("id-", sent)}
			}
			streams[ls] = []line{l}
		}
		err := pushLines(t, i, "t", streams)
		if err == nil {
			sent++
			for ls, l := range streams {
				want[ls] = append(want[ls], l...)
			}
		}
		return err
	}
	isRefused := func(err error) bool {
		var e *push.Error
		return errors.As(err, &e) && e.Reason == push.DiskLow && e.Reason.Status() == 503 && e.Reason.Retryable() && e.RetryAfter > 0
	}
	look := func() {
		t.Helper()
		for _, k := range []int{0, 1, 39} {
			ls := fmt.Sprintf(`{app="%d"}`, k)
			expect(t, i, h.store, "t", ls, want[ls])
		}
	}
	var err error
	for err == nil {
		if err = send(); sent > 5000 {
			t.Fatalf("the budget is not enforced: %d bytes", i.room.used.Load())
		}
	}
	if !isRefused(err) {
		t.Fatalf("with the budget used up: %v", err)
	}
	if d := ck.now().Sub(time.Unix(0, t0)); d < 3*time.Hour {
		t.Fatalf("only %s of logs went in", d)
	}
	if n := i.wal.Size() + i.blocks.Stats().Bytes; n > 18<<20 {
		t.Fatalf("%d bytes on disk with a budget of 16 MB", n)
	}
	if n := testutil.ToFloat64(i.m.refused.WithLabelValues("disk_low")); n == 0 {
		t.Fatal("refused pushes are not counted")
	}
	if limit, failing := i.gate.state(); limit != 1 || !failing {
		t.Fatalf("%d uploads may run while the store is down", limit)
	}
	if n := h.store.tried; n > 200 {
		t.Fatalf("%d uploads were tried while the store was down", n)
	}
	// Memory: what is closed and on disk has no symbols in memory.
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		for _, c := range st.main.closed {
			if c.cutting == 0 && c.syms != nil {
				t.Errorf("%s: a closed chunk has its symbols in memory", st.labels)
			}
		}
	})
	look()

	// A restart changes nothing.
	shut(t, i, false)
	i = h.open(t)
	defer func() { shut(t, i, false) }()
	for err = nil; err == nil && sent < 5000; {
		err = send() // there is some room again, but not much
	}
	if !isRefused(err) {
		t.Fatalf("after a restart with the budget used up: %v", err)
	}
	look()

	// The store comes back. Uploads start one by one.
	h.store.mu.Lock()
	h.store.fail, h.store.order, h.store.puts, h.store.most = nil, nil, 0, 0
	h.store.hook = func(step, _ string) error {
		defer time.Sleep(time.Millisecond)
		h.store.mu.Lock()
		defer h.store.mu.Unlock()
		if step == "put chunk" && h.store.running > 1+h.store.puts {
			t.Errorf("%d uploads run when %d have succeeded", h.store.running, h.store.puts)
		}
		return nil
	}
	h.store.mu.Unlock()
	backlog := i.m.pendingChunks.Load()
	waitFor(t, "a push is accepted again", func() bool { return send() == nil })
	if used := i.room.used.Load(); used > 16<<20*9/10 {
		t.Errorf("accepted again with %d bytes on disk, which is more than nine tenths of the budget", used)
	}
	for range 20 {
		if err := send(); err != nil && !isRefused(err) {
			t.Fatal(err)
		}
	}
	waitFor(t, "the backlog is stored", func() bool { return i.flushq.len() == 0 && i.room.used.Load() < 16<<20*3/4 })
	h.store.mu.Lock()
	order, indexes, puts, objects, most := slices.Clone(h.store.order), h.store.indexes, h.store.puts, len(h.store.objects), h.store.most
	h.store.mu.Unlock()
	t.Logf("%d chunks of backlog: %d uploads, %d at a time at most, %d objects, %d index files; %d pushes", backlog, puts, most, objects, indexes, sent)
	if puts != objects {
		t.Errorf("%d uploads for %d objects", puts, objects)
	}
	if indexes > 14 || indexes*8 > objects {
		t.Errorf("%d index files for %d objects", indexes, objects)
	}
	if most < 2 || most > h.cfg.FlushConcurrency {
		t.Errorf("%d uploads at a time", most)
	}
	// Oldest first: the older half is stored before the newest fifth.
	var from []int64
	for _, k := range order {
		from = append(from, k.From)
	}
	sorted := slices.Sorted(slices.Values(from))
	half := sorted[len(sorted)/2]
	for n, f := range from[len(from)*4/5:] {
		if f < half {
			t.Errorf("a chunk of the older half was stored as number %d of %d", n+len(from)*4/5, len(from))
		}
	}
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	for ls, lines := range want {
		if got := h.store.lines(t, "t", ls); len(got) != len(lines) {
			t.Errorf("%s: %d lines stored, want %d", ls, len(got), len(lines))
		}
	}
}

// TestBacklogMemory has many streams and tiny blocks, so that what is not stored
// takes little disk and much memory.
func TestBacklogMemory(t *testing.T) {
	h := newHarness()
	h.cfg.HeadMemory = 1 << 20
	h.cfg.WAL.MaxSize = 4 << 20
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	h.store.setFail(errors.New("connection refused"))
	i.room.memory = 100_000 // some 100 chunks
	var err error
	for n := 0; err == nil && n < 2000; n++ {
		err = pushLines(t, i, "t", map[string][]line{fmt.Sprintf(`{app="%d"}`, n): seq(n, 1)})
		_ = i.Flush(context.Background(), false)
		if n%50 == 0 {
			i.watch()
		}
	}
	var e *push.Error
	if !errors.As(err, &e) || e.Reason != push.Overloaded || !strings.Contains(e.Msg, "memory") {
		t.Fatalf("with much that waits to be stored: %v", err)
	}
	h.store.setFail(nil)
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a push is accepted again", func() bool {
		i.watch()
		return pushLines(t, i, "t", map[string][]line{app1: seq(0, 1)}) == nil
	})
	if n := i.m.localBlocks.Load(); n > 2 {
		t.Fatalf("%d blocks are counted when all is stored", n)
	}
}

// TestLowDisk takes the volume's space away and gives it back.
func TestLowDisk(t *testing.T) {
	h := newHarness()
	mem := h.fs.(*vfs.Mem)
	mem.SetCapacity(200 << 20)
	h.cfg.DiskReserve = 8 << 20
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	if i.room.budget != 150<<20 || i.room.minFree != 8<<20 {
		t.Fatalf("budget %d and reserve %d on a volume of 200 MB", i.room.budget, i.room.minFree)
	}
	push1 := func() error { return pushLines(t, i, "t", map[string][]line{app1: seq(0, 1)}) }
	free := func(n int64) { // bytes that are left
		mem.SetCapacity(mem.Used() + n)
		i.watch()
	}
	f := func(left int64, refused bool) {
		t.Helper()
		free(left)
		var e *push.Error
		if err := push1(); refused != (errors.As(err, &e) && e.Reason == push.DiskLow) {
			t.Fatalf("with %d bytes free: %v", left, err)
		}
	}
	f(20<<20, false)
	f(7<<20, true)
	f(8<<20+100<<10, true) // not yet a tenth more
	f(10<<20, false)
}

// TestRelief fills three quarters of the budget with chunks that are open: with
// a store that works the largest are flushed early, and pushes go on.
func TestRelief(t *testing.T) {
	h := newHarness()
	h.cfg.DiskBudget = 16 << 20
	h.cfg.ChunkBlockSize = 16 << 10
	h.cfg.ChunkTargetSize = 1 << 30 // none gets full
	h.cfg.IndexInterval = time.Hour
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	rng := rand.New(rand.NewPCG(3, 3))
	for n := range 1200 {
		ls := fmt.Sprintf(`{app="%d"}`, n%7)
		var lines []line
		for k := range 20 {
			lines = append(lines, line{ts: t0 + int64(20*n+k)*1e6, text: noise(rng, 700)})
		}
		var e *push.Error
		err := pushLines(t, i, "t", map[string][]line{ls: lines})
		if errors.As(err, &e) && e.Reason == push.DiskLow {
			time.Sleep(10 * time.Millisecond) // it is pushed faster than stored
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n := testutil.ToFloat64(i.m.flushed.WithLabelValues(reasonDisk)); n == 0 {
		t.Fatal("no chunk was flushed for the sake of local disk")
	}
	if n := h.store.indexes; n == 0 || n > 60 {
		t.Fatalf("%d index files", n)
	}
}

// TestOneBadChunk has a stream that the store refuses; the others are stored,
// and the tenant's index too.
func TestOneBadChunk(t *testing.T) {
	h := newHarness()
	h.cfg.FlushConcurrency = 2
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	bad := atomic.Bool{}
	bad.Store(true)
	h.store.hook = func(step, tenant string) error {
		if tenant == "bad" && bad.Load() {
			return errors.New("access denied")
		}
		return nil
	}
	for n := range 30 {
		for _, tenant := range []string{"bad", "good"} {
			if err := pushLines(t, i, tenant, map[string][]line{fmt.Sprintf(`{app="%d"}`, n): seq(0, 10)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = i.Flush(context.Background(), false)
	waitFor(t, "the good ones are stored", func() bool {
		i.index.request()
		h.store.mu.Lock()
		defer h.store.mu.Unlock()
		return len(h.store.listed) == 30
	})
	bad.Store(false)
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	if n := len(h.store.listed); n != 60 {
		t.Fatalf("%d streams stored", n)
	}
}

// TestFailingIndexOfOneTenant tries one tenant's index again and again, which
// must not lead to many files of another.
func TestFailingIndexOfOneTenant(t *testing.T) {
	h := newHarness()
	h.cfg.IndexInterval = time.Hour
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	tries := atomic.Int64{}
	h.store.hook = func(step, tenant string) error {
		if step == "put index" && tenant == "bad" {
			tries.Add(1)
			return errors.New("access denied")
		}
		return nil
	}
	for _, tenant := range []string{"bad", "good"} {
		if err := pushLines(t, i, tenant, map[string][]line{app1: seq(0, 10)}); err != nil {
			t.Fatal(err)
		}
	}
	closeAll(i)
	waitFor(t, "chunks are stored", func() bool { return i.index.chunks() == 2 })
	i.index.request()
	for n := 1; tries.Load() < 4; n++ {
		if err := pushLines(t, i, "good", map[string][]line{app1: seq(n*10, 10)}); err != nil {
			t.Fatal(err)
		}
		closeAll(i)
		time.Sleep(10 * time.Millisecond)
	}
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	if h.store.indexes != 1 {
		t.Fatalf("%d index files of the good tenant, want 1", h.store.indexes)
	}
}

// closeAll hands all open chunks to the flushers, without asking for an index.
func closeAll(i *Ingester) {
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		i.closeChunk(&st.main, reasonRequested)
	})
}

// TestDamagedBlock damages one block of a chunk on disk: the others are stored,
// and what is lost is counted.
func TestDamagedBlock(t *testing.T) {
	for name, p := range map[string]Peers{"alone": nil, "second": ranked(second)} {
		t.Run(name, func(t *testing.T) { damagedBlock(t, p) })
	}
}

func damagedBlock(t *testing.T, p Peers) {
	h := newHarness()
	h.peers = p
	h.cfg.ChunkTargetSize = 1 << 20
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	rng := rand.New(rand.NewPCG(3, 3))
	var lines []line
	for n := range 30 {
		lines = append(lines, line{ts: t0 + int64(n)*sec, text: noise(rng, 900)})
	}
	if err := pushLines(t, i, "t", map[string][]line{app1: lines}); err != nil {
		t.Fatal(err)
	}
	var st *stream
	i.eachStream(func(s *stream) { st = s })
	chunkNow := func() (c *openChunk, blocks []*block) {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.main.chunk, append([]*block(nil), st.main.chunk.blocks...)
	}
	waitFor(t, "blocks are cut", func() bool { _, b := chunkNow(); return len(b) >= 4 })
	_, bls := chunkNow()
	data, err := i.blocks.Read(bls[1].ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, h.fs, "/data/blocks", data)
	if _, err := i.blocks.Read(bls[1].ref, nil); !errors.As(err, new(*blocks.CorruptionError)) {
		t.Fatalf("the block is not damaged: %v", err)
	}
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	lost := int(testutil.ToFloat64(i.m.lostEntries))
	if lost != int(bls[1].entries) {
		t.Fatalf("%d entries counted as lost, the block had %d", lost, bls[1].entries)
	}
	if n := len(h.store.lines(t, "t", app1)); n != len(lines)-lost {
		t.Fatalf("%d lines stored of %d, %d of them lost", n, len(lines), lost)
	}
}

// TestDamagedStraggler: the last blocks of an old file are moved on, but for one
// that is damaged.
func TestDamagedStraggler(t *testing.T) {
	h := newHarness()
	h.cfg.ChunkTargetSize = 64 << 10
	h.cfg.WAL.MaxSize = 4 << 20 // and files of a quarter of it
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	rng := rand.New(rand.NewPCG(4, 4))
	n := int64(0)
	send := func(app string, count int) {
		var lines []line
		for range count {
			n++
			lines = append(lines, line{ts: t0 + n*1e6, text: noise(rng, 900)})
		}
		for {
			err := pushLines(t, i, "t", map[string][]line{app: lines})
			var busy *push.Error
			if err == nil {
				return
			}
			if !errors.As(err, &busy) || !busy.Reason.Retryable() {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	send(app1, 30)
	var st *stream
	i.eachStream(func(s *stream) { st = s })
	blocksNow := func() []*block {
		st.mu.Lock()
		defer st.mu.Unlock()
		if st.main.chunk == nil {
			return nil
		}
		return slices.Clone(st.main.chunk.blocks)
	}
	waitFor(t, "blocks are cut", func() bool { return len(blocksNow()) >= 4 })
	slow, oldest := blocksNow(), i.blocks.Stats().Oldest
	data, err := i.blocks.Read(slow[1].ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, h.fs, "/data/blocks", data)
	in := func(b *block) bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return b.ref.InFile(oldest)
	}
	for begin := time.Now(); in(slow[0]) || in(slow[2]) || in(slow[3]); {
		if time.Since(begin) > time.Minute {
			t.Fatal("blocks behind the damaged one were not moved within a minute")
		}
		send(`{app="2"}`, 100)
	}
	if !in(slow[1]) {
		t.Error("the damaged block was moved")
	}
}

// overwrite finds data in a file of dir and changes a byte of it.
func overwrite(t *testing.T, fsys vfs.FS, dir string, data []byte) {
	t.Helper()
	names, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		f, err := fsys.OpenFile(dir+"/"+n.Name(), 2 /* read and write */, 0)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		all := make([]byte, info.Size())
		if _, err := f.ReadAt(all, 0); err != nil {
			t.Fatal(err)
		}
		if at := strings.Index(string(all), string(data)); at >= 0 {
			if _, err := f.WriteAt([]byte{^data[len(data)/2]}, int64(at+len(data)/2)); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no file has the block")
}
