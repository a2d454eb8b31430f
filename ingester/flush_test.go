package ingester

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/storage/chunk"
)

// openChunks counts chunks that are being filled.
func openChunks(i *Ingester) int {
	n := 0
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.lanes(func(ln *lane) {
			if ln.chunk != nil {
				n++
			}
		})
	})
	return n
}

// TestDeadlinesAreSpread creates 10,000 streams at once and lets them get old,
// with a restart on the way, and in another round idle: their flushes are spread
// evenly over the last tenth of the time.
func TestDeadlinesAreSpread(t *testing.T) {
	const slices = 20
	f := func(name string, streams int, restart bool, period func(*Config) *time.Duration) {
		t.Run(name, func(t *testing.T) {
			h := newHarness()
			ck := newClock()
			h.now = ck.now
			h.cfg.HeadMemory = 256 << 20
			h.cfg.WAL.MaxSize = 1 << 30
			h.cfg.FlushCheckPeriod = time.Hour // the test looks for old chunks
			h.cfg.MaxChunkAge, h.cfg.ChunkIdlePeriod = 100*time.Hour, 100*time.Hour
			*period(&h.cfg) = time.Hour
			i := h.open(t)
			defer func() { shut(t, i, false) }()
			all := map[string][]line{}
			for n := range streams {
				all[fmt.Sprintf(`{app="%d"}`, n)] = []line{{ts: t0, text: "x"}}
			}
			if err := pushLines(t, i, "t", all); err != nil {
				t.Fatal(err)
			}
			if restart {
				ck.advance(20 * time.Minute)
				shut(t, i, false)
				i = h.open(t)
			}
			sweepAt := func(d time.Duration) int {
				i.sweep(t0 + int64(d))
				return openChunks(i)
			}
			if n := sweepAt(54*time.Minute - time.Second); n != streams {
				t.Fatalf("%d of %d chunks are open before nine tenths of their time", n, streams)
			}
			left, least, most := streams, streams, 0
			for k := 1; k <= slices; k++ {
				n := sweepAt(54*time.Minute + time.Duration(k)*6*time.Minute/slices)
				least, most = min(least, left-n), max(most, left-n)
				left = n
			}
			if left != 0 {
				t.Fatalf("%d chunks are open after their time", left)
			}
			if least < streams/slices/2 || most > streams/slices*3/2 {
				t.Fatalf("in %d slices of time %d to %d flushes, %d on average", slices, least, most, streams/slices)
			}
			t.Logf("%d to %d flushes in slices of 18 s, %d on average", least, most, streams/slices)
		})
	}
	f("age", 10_000, false, func(c *Config) *time.Duration { return &c.MaxChunkAge })
	f("age after a restart", 2000, true, func(c *Config) *time.Duration { return &c.MaxChunkAge })
	f("idle", 2000, false, func(c *Config) *time.Duration { return &c.ChunkIdlePeriod })
	f("idle after a restart", 2000, true, func(c *Config) *time.Duration { return &c.ChunkIdlePeriod })
}

// TestClockSetBack: what was open when a clock that was years ahead is set is
// flushed in time all the same.
func TestClockSetBack(t *testing.T) {
	f := func(name string, restart bool, period func(*Config) *time.Duration) {
		h := newHarness()
		ck := newClock()
		right := ck.now()
		h.now = ck.now
		h.cfg.FlushCheckPeriod = time.Hour // the test looks for old chunks
		h.cfg.MaxChunkAge, h.cfg.ChunkIdlePeriod = 100*time.Hour, 100*time.Hour
		*period(&h.cfg) = time.Hour
		ck.advance(3 * 365 * 24 * time.Hour)
		i := h.open(t)
		defer func() { shut(t, i, false) }()
		if err := pushLines(t, i, "t", map[string][]line{`{app="a"}`: {{ts: ck.now().UnixNano(), text: "x"}}}); err != nil {
			t.Fatal(err)
		}
		if restart {
			// Leaves a block with the time at which its chunk was opened.
			i.eachStream(func(st *stream) {
				st.mu.Lock()
				defer st.mu.Unlock()
				i.seal(&st.main)
			})
			waitFor(t, "a block", func() bool { return i.blocks.Stats().Bytes > 0 })
			shut(t, i, false)
		}
		ck.ns.Store(right.UnixNano())
		if restart {
			i = h.open(t)
		}
		for d := time.Duration(0); d <= time.Hour; d += time.Minute {
			i.sweep(right.Add(d).UnixNano())
		}
		if n := openChunks(i); n != 0 {
			t.Errorf("%s: %d chunks are open an hour after the clock was set", name, n)
		}
	}
	f("age", false, func(c *Config) *time.Duration { return &c.MaxChunkAge })
	f("age after a restart", true, func(c *Config) *time.Duration { return &c.MaxChunkAge })
	f("idle", false, func(c *Config) *time.Duration { return &c.ChunkIdlePeriod })
	f("idle after a restart", true, func(c *Config) *time.Duration { return &c.ChunkIdlePeriod })
}

// TestRestartKeepsOldLogsApart replays logs that are years old, of which nobody
// knows when they came: their deadlines are spread, and none is over.
func TestRestartKeepsOldLogsApart(t *testing.T) {
	h := newHarness()
	ck := newClock()
	ck.advance(10 * 365 * 24 * time.Hour)
	h.now = ck.now
	h.cfg.FlushCheckPeriod = time.Hour
	i := h.open(t)
	all := map[string][]line{}
	for n := range 1000 {
		all[fmt.Sprintf(`{app="%d"}`, n)] = []line{{ts: t0, text: "x"}}
	}
	if err := pushLines(t, i, "t", all); err != nil {
		t.Fatal(err)
	}
	shut(t, i, false)
	i = h.open(t)
	defer func() { shut(t, i, false) }()
	now := ck.now().UnixNano()
	var opened, touched []int64
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		opened, touched = append(opened, now-st.main.chunk.opened), append(touched, now-st.touched)
	})
	f := func(what string, ages []int64, most time.Duration) {
		t.Helper()
		slices.Sort(ages)
		if ages[0] < 0 || ages[999] > int64(most) || ages[750]-ages[250] < int64(most)/3 {
			t.Errorf("%s: %v to %v ago, the middle half from %v to %v", what, time.Duration(ages[0]), time.Duration(ages[999]), time.Duration(ages[250]), time.Duration(ages[750]))
		}
	}
	f("opened", opened, h.cfg.MaxChunkAge/2)
	f("touched", touched, h.cfg.ChunkIdlePeriod/2)
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		g.init(8)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		down := atomic.Bool{}
		down.Store(true)
		var tries, running, most, good atomic.Int64
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for g.enter(ctx) {
					tries.Add(1)
					n := running.Add(1)
					most.Store(max(most.Load(), n))
					if before := good.Load(); !down.Load() && n > before+1 {
						t.Errorf("%d run after %d good ones", n, before)
					}
					time.Sleep(time.Second)
					ok := !down.Load()
					if ok {
						good.Add(1)
					}
					g.report(ok)
					running.Add(-1)
					g.leave()
				}
			})
		}
		time.Sleep(time.Minute)
		if limit, failing := g.state(); limit != 1 || !failing {
			t.Errorf("after a minute of failures %d may run, down: %v", limit, failing)
		}
		tries.Store(0)
		most.Store(0)
		time.Sleep(time.Hour)
		if n := tries.Load(); n < 100 || n > 600 || most.Load() != 1 {
			t.Errorf("%d tries in an hour of outage, %d at a time", n, most.Load())
		}
		down.Store(false)
		most.Store(0)
		time.Sleep(time.Minute) // one tries every 15 s or so
		if n := most.Load(); n != 8 {
			t.Errorf("%d uploads at a time when the store works, want 8", n)
		}
		cancel()
		wg.Wait()
	})
}

func TestGateReportsTheEndOfAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		g.init(4)
		for _, ok := range []bool{false, false, true} {
			if g.report(ok) {
				t.Error("two failures are taken for an outage")
			}
		}
		for range outage {
			g.report(false)
		}
		if g.report(false) || !g.report(true) || g.report(true) {
			t.Error("the end of an outage is not told, or twice")
		}
		for range outage {
			g.report(false)
		}
		began := time.Now()
		g.hurry()
		if !g.pass(t.Context()) || time.Since(began) > 0 {
			t.Error("waited in spite of hurry")
		}
	})
}

func TestFlushQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q flushQueue
		q.init()
		c := make([]*openChunk, 6)
		for k := range c {
			c[k] = &openChunk{opened: int64(k)}
		}
		for _, k := range []int{3, 1, 4, 5} {
			q.put(c[k])
		}
		f := func(want ...int) {
			t.Helper()
			for _, k := range want {
				if got := q.take(); got != c[k] {
					t.Fatalf("got %+v, want number %d", got, k)
				}
			}
		}
		f(1)
		q.park(c[1], time.Minute)
		q.park(c[0], 2*time.Minute)
		q.park(c[2], time.Hour)
		f(3)
		time.Sleep(3 * time.Minute)
		f(4, 5, 0, 1) // those that failed come last
		if q.take() != nil || q.len() != 1 {
			t.Fatal("the one that is parked came early")
		}
		q.hurry()
		if !q.wait() {
			t.Fatal("closed")
		}
		f(2)
		q.park(c[1], time.Hour)
		q.park(c[0], time.Hour)
		q.put(c[2])
		q.promote(1)
		f(0, 2, 1)
		q.park(c[1], time.Hour)
		q.close()
		if q.wait() || q.take() != nil {
			t.Fatal("gave something out after close")
		}
		q.park(c[2], 0)
		synctest.Wait()
	})
}

func TestRows(t *testing.T) {
	h := newHarness()
	h.cfg.ChunkBlockSize, h.cfg.ChunkTargetSize = 1<<20, 1<<20
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	// bl makes blocks of bytes that are stored compressed in a tenth.
	type span struct{ from, to int64 }
	bl := func(size int, spans ...span) []block {
		var out []block
		for n, s := range spans {
			rec := benchRecord(n, make([]byte, size/10))
			if err := i.blocks.Append(rec); err != nil {
				t.Fatal(err)
			}
			out = append(out, block{ref: rec.Ref, codec: i.codec, entries: 1, size: size, mint: s.from, maxt: s.to})
		}
		return out
	}
	f := func(name string, bls []block, want ...int) {
		t.Helper()
		side := i.rows(bls, 1)
		var got []int
		for _, row := range side {
			got = append(got, len(row))
			for k := 1; k < len(row); k++ {
				if row[k].mint < row[k-1].maxt {
					t.Errorf("%s: a row has an overlap", name)
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: rows of %v blocks, want %v", name, got, want)
		}
		if sorted := name == "in order" || name == "all at one time"; len(want) == 0 && i.needsMerge(bls) == sorted {
			t.Errorf("%s: merged or not", name)
		}
	}
	const full = 1 << 20
	var order, slight, deep []span
	for n := range int64(20) {
		order = append(order, span{10 * n, 10*n + 10})
		slight = append(slight, span{10 * n, 10*n + 12})
		deep = append(deep, span{10 * n, 10*n + 95})
	}
	f("in order", bl(full, order...))
	f("slight overlap", bl(full, slight...), 10, 10)
	f("each over nine others", bl(10*full, deep...))
	f("three side by side", bl(10*full, span{0, 10}, span{1, 11}, span{2, 12}, span{10, 20}, span{11, 21}, span{12, 22}), 2, 2, 2)
	f("one inside another", bl(10*full, span{0, 100}, span{10, 20}, span{30, 40}), 1, 2)
	f("overlap, but too little for two objects", bl(full, slight[:5]...))
	f("small blocks", bl(full/10, append(slight, slight...)...))
	other := bl(full, slight...)
	other[3].codec = chunk.None
	f("another codec", other, 10, 10)
	at := bl(full, slight...)
	for k := range at {
		at[k].mint, at[k].maxt = 5, 5
	}
	f("all at one time", at) // equal times are in order
}

// interleave returns n lines of each of conns connections, as they arrive: every
// connection sends runs in order, and is behind or ahead of the others a little.
func interleave(conns, n int, step int64) []line {
	var out []line
	rng := rand.New(rand.NewPCG(1, 2))
	next := make([]int64, conns)
	for len(out) < conns*n {
		c := rng.IntN(conns)
		if least := slices.Min(next); next[c] > least+20 {
			c = slices.Index(next, least)
		}
		for range 20 {
			ts := t0 + next[c]*step + int64(c)
			next[c]++
			out = append(out, line{ts: ts, text: fmt.Sprintf("conn %d %s", c, noise(rng, 200)), meta: []string{"conn", fmt.Sprint(c), "seq", fmt.Sprint(next[c])}})
		}
	}
	return out
}

// TestOverlapIsStoredSideBySide pushes what comes over several connections.
// Nothing is compressed twice, every object is in order for readers that do not
// look for overlaps, and has the symbols that it needs.
func TestOverlapIsStoredSideBySide(t *testing.T) {
	for name, p := range map[string]Peers{"alone": nil, "second": ranked(second)} {
		t.Run(name, func(t *testing.T) { storedSideBySide(t, p) })
	}
}

func storedSideBySide(t *testing.T, p Peers) {
	h := newHarness()
	h.peers = p
	h.cfg.ChunkBlockSize, h.cfg.ChunkTargetSize = 32<<10, 128<<10
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	lines := interleave(4, 1000, 1e6)
	for k := 0; k < len(lines); k += 20 {
		if err := pushLines(t, i, "t", map[string][]line{app1: lines[k:min(k+20, len(lines))]}); err != nil {
			t.Fatal(err)
		}
		awaitCuts(t, i)
	}
	expect(t, i, h.store, "t", app1, lines)
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	flushed := testutil.ToFloat64(i.m.flushed.WithLabelValues(reasonFull))
	merged := testutil.ToFloat64(i.m.merged)
	if merged > 1 { // the last one is not full
		t.Errorf("%v chunks of %v were compressed twice", merged, flushed)
	}
	if n := len(h.store.objects); float64(n) < flushed*3/2 {
		t.Errorf("%d objects of %v chunks", n, flushed)
	}
	blank := 0
	for key, object := range h.store.objects {
		c, err := chunk.Decode(object)
		if err != nil {
			t.Fatal(err)
		}
		last := int64(never)
		for k, b := range c.Blocks {
			if b.MinT < last {
				t.Errorf("%s: block %d begins before its predecessor ends", key, k)
			}
			last = b.MaxT
		}
		for _, s := range c.Symbols {
			if s == "" {
				blank++
			}
		}
	}
	if blank == 0 {
		t.Error("objects side by side all have all symbols")
	}
	got := h.store.lines(t, "t", app1)
	var want []string
	for _, l := range lines {
		want = append(want, l.String())
	}
	sort.Strings(got)
	sort.Strings(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%d lines stored, want %d\n%s", len(got), len(want), diff(got, want))
	}
	t.Logf("%v chunks, %v merged, %d objects", flushed, merged, len(h.store.objects))
}

// TestFlushesAreTheSameAgain stores chunks twice, the second time after a
// restart with blocks found in another order: the objects have the same keys.
func TestFlushesAreTheSameAgain(t *testing.T) {
	for name, p := range map[string]Peers{"alone": nil, "in turns": inTurns()} {
		t.Run(name, func(t *testing.T) { sameAgain(t, p) })
	}
}

func sameAgain(t *testing.T, p Peers) {
	h := newHarness()
	h.peers, h.cfg.OneCopyGrace = p, time.Millisecond
	h.cfg.IndexInterval = time.Hour
	i := h.open(t)
	h.store.hook = func(step, _ string) error {
		if step == "put index" {
			return errors.New("no index today")
		}
		return nil
	}
	lines := interleave(3, 400, 1e6)
	for k := 0; k < len(lines); k += 20 {
		if err := pushLines(t, i, "t", map[string][]line{app1: lines[k:min(k+20, len(lines))]}); err != nil {
			t.Fatal(err)
		}
	}
	_ = i.Flush(context.Background(), false)
	waitFor(t, "chunks are stored", func() bool { return i.flushq.len() == 0 && int64(i.index.chunks()) == i.m.pendingChunks.Load() })
	n := len(h.store.objects)
	for range 3 {
		shut(t, i, false)
		i = h.open(t)
		waitFor(t, "chunks are stored", func() bool { return i.flushq.len() == 0 && int64(i.index.chunks()) == i.m.pendingChunks.Load() })
		if len(h.store.objects) != n {
			t.Fatalf("%d objects after a restart, %d before", len(h.store.objects), n)
		}
	}
	h.store.hook = nil
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	expect(t, i, h.store, "t", app1, lines)
	if got := len(h.store.lines(t, "t", app1)); got != len(lines) || len(h.store.objects) != n {
		t.Fatalf("%d lines in %d objects, want %d in %d", got, len(h.store.objects), len(lines), n)
	}
	shut(t, i, false)
}

// TestParts divides what is merged into runs of about the target size, and each
// becomes an object of its own.
func TestParts(t *testing.T) {
	h := newHarness()
	h.cfg.ChunkBlockSize, h.cfg.ChunkTargetSize = 16<<10, 32<<10
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	var bls []block
	for n := range 10 {
		rec := benchRecord(n, make([]byte, 10<<10))
		if err := i.blocks.Append(rec); err != nil {
			t.Fatal(err)
		}
		bls = append(bls, block{ref: rec.Ref})
	}
	var got []int
	for _, p := range i.parts(bls, 1) {
		got = append(got, len(p))
	}
	if !slices.Equal(got, []int{4, 4, 2}) {
		t.Errorf("parts of %v blocks of 10 KB", got)
	}
	if p := i.parts(bls[:1], 1); len(p) != 1 || len(p[0]) != 1 {
		t.Errorf("one block makes %d parts", len(p))
	}
}

// TestOnlyOverlapIsMadeAnew stores a chunk in which two of many blocks overlap:
// the others are stored as they are on local disk.
func TestOnlyOverlapIsMadeAnew(t *testing.T) {
	h := newHarness()
	h.cfg.ChunkTargetSize = 1 << 20
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	lines := seq(0, 800)
	lines[400].ts, lines[401].ts = lines[401].ts+300*sec, lines[400].ts // an early one, which ends a block late
	for k := range lines {
		lines[k].text += noise(rand.New(rand.NewPCG(1, uint64(k))), 50)
	}
	if err := pushLines(t, i, "t", map[string][]line{app1: lines[:402]}); err != nil {
		t.Fatal(err)
	}
	cutAll(t, i)
	if err := pushLines(t, i, "t", map[string][]line{app1: lines[402:]}); err != nil {
		t.Fatal(err)
	}
	cutAll(t, i)
	var local []block
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		local = values(st.main.chunk.blocks)
	})
	overlap := 0
	had := map[string]bool{}
	for k, b := range local {
		for n, o := range local {
			if k != n && b.mint < o.maxt && o.mint < b.maxt {
				overlap++
				break
			}
		}
		data, err := i.blocks.Read(b.ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		had[string(data)] = true
	}
	if overlap < 2 || overlap > len(local)*3/4 {
		t.Fatalf("%d of %d blocks overlap", overlap, len(local))
	}
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(i.m.merged); n != 1 || len(h.store.objects) != 1 {
		t.Fatalf("%v chunks merged, %d objects", n, len(h.store.objects))
	}
	copied := 0
	last := int64(never)
	for _, object := range h.store.objects {
		c, err := chunk.Decode(object)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range c.Blocks {
			if had[string(b.Data)] {
				copied++
			}
			if b.MinT < last {
				t.Errorf("a block begins at %d, its predecessor ends at %d", b.MinT, last)
			}
			last = b.MaxT
		}
	}
	if copied != len(local)-overlap {
		t.Errorf("%d blocks were copied, want %d of %d", copied, len(local)-overlap, len(local))
	}
	expectStoredAs(t, h.store, chunk.ZSTD)
	expect(t, i, h.store, "t", app1, lines)
	if n := len(h.store.lines(t, "t", app1)); n != len(lines) {
		t.Errorf("%d lines stored, want %d", n, len(lines))
	}
}
