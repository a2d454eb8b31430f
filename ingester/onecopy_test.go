package ingester

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/ingester/coverage"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/proto/push"
)

// replicas are ingesters that have the same streams and store into one bucket.
type replicas struct {
	t     testing.TB
	store *fakeStore
	names []string
	hs    map[string]*harness
	rng   *rand.Rand
	sent  uint64 // parts

	mu    sync.Mutex
	up    map[string]*Ingester
	lost  map[string]bool // notices to it get lost
	block map[string]bool // it does not store for others
}

var errDown = errors.New("connection refused")

func newReplicas(t testing.TB, cfg func(*Config)) *replicas {
	return replicasOn(t, newFakeStore(), cfg, func(string) vfs.FS { return vfs.NewMem() })
}

// replicasOn starts replicas on what store and disks have.
func replicasOn(t testing.TB, store *fakeStore, cfg func(*Config), disk func(name string) vfs.FS) *replicas {
	r := &replicas{
		t: t, store: store, names: []string{"a", "b", "c"}, hs: map[string]*harness{},
		up: map[string]*Ingester{}, lost: map[string]bool{}, block: map[string]bool{}, rng: rand.New(rand.NewPCG(1, 2)),
	}
	for _, n := range r.names {
		h := newHarness()
		h.store, h.fs = r.store, disk(n)
		h.cfg.OneCopyGrace = time.Hour
		if cfg != nil {
			cfg(&h.cfg)
		}
		r.hs[n] = h
		r.start(n)
	}
	t.Cleanup(func() {
		for _, n := range r.names {
			if i := r.get(n); i != nil {
				r.stop(n, false)
			}
		}
	})
	return r
}

func (r *replicas) get(n string) *Ingester {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.up[n]
}

func (r *replicas) start(n string) {
	r.t.Helper()
	h := r.hs[n]
	i, err := Open(h.fs, "/data", h.cfg, Deps{Store: h.store, Limits: func(string) Limits { return h.lim }, Log: h.log, Now: h.now, Peers: &peer{r, n}})
	if err != nil {
		r.t.Fatal(err)
	}
	waitFor(r.t, "ready", func() bool { return i.Ready() == nil })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up[n] = i
}

func (r *replicas) stop(n string, flush bool) {
	r.t.Helper()
	shut(r.t, r.get(n), flush)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.up, n)
}

// kill ends an instance as a crash of its machine does.
func (r *replicas) kill(n string) {
	r.t.Helper()
	i := r.get(n)
	r.mu.Lock()
	delete(r.up, n)
	r.mu.Unlock()
	disk := r.hs[n].fs.(*vfs.Mem).CrashClone(r.rng, vfs.DropUnsynced)
	h := r.hs[n]
	shut(r.t, i, false)
	h.fs = disk
}

// peer is the rest as one of them sees it.
type peer struct {
	r    *replicas
	self string
}

// walk is the order in which instances store a stream.
func (r *replicas) walk(token uint32) []string {
	k := int(token>>8) % len(r.names)
	return slices.Concat(r.names[k:], r.names[:k])
}

func (p *peer) Place(token uint32) (int, []string) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	all := p.r.walk(token)
	var turns []string
	for _, n := range all {
		if n == p.self || p.r.up[n] != nil {
			turns = append(turns, n)
		}
	}
	rank := coverage.Rank(p.self, turns, 3)
	rest := append(turns, all...)
	var others []string
	for _, n := range rest {
		if n != p.self && !slices.Contains(others, n) {
			others = append(others, n)
		}
	}
	return rank, others
}

func (p *peer) Covered(ctx context.Context, n string, ns []coverage.Notice) error {
	p.r.mu.Lock()
	i, lost := p.r.up[n], p.r.lost[n]
	p.r.mu.Unlock()
	if i == nil || lost {
		return errDown
	}
	var clone []coverage.Notice
	for _, x := range ns { // what comes over the network is a copy
		set, err := coverage.Decode(x.Entries.Append(nil))
		if err != nil {
			return err
		}
		x.Entries = set
		clone = append(clone, x)
	}
	return i.Covered(ctx, clone)
}

func (p *peer) StoreFor(ctx context.Context, n string) error {
	p.r.mu.Lock()
	i, blocked := p.r.up[n], p.r.block[n]
	p.r.mu.Unlock()
	if i == nil || blocked {
		return errDown
	}
	return i.StoreFor(ctx, p.self)
}

// push gives lines to instances, all that are up if none are named.
func (r *replicas) push(streams map[string][]line, to ...string) {
	r.t.Helper()
	if len(to) == 0 {
		to = r.names
	}
	b := mkBatch("t", streams)
	defer b.Release()
	r.sent++
	b.Part = push.Part{Gateway: 7, Number: r.sent}
	for _, n := range to {
		i := r.get(n)
		if i == nil {
			continue
		}
		c := mkBatch("t", streams)
		c.Part = b.Part
		if err := i.Push(context.Background(), c); err != nil {
			r.t.Fatal(err)
		}
		c.Release()
	}
}

func (r *replicas) flush(names ...string) {
	r.t.Helper()
	if len(names) == 0 {
		names = r.names
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range names {
		if i := r.get(n); i != nil {
			wg.Go(func() {
				if err := i.Flush(ctx, true); err != nil {
					r.t.Errorf("%s: %v", n, err)
				}
			})
		}
	}
	wg.Wait()
	if r.t.Failed() {
		r.t.FailNow()
	}
}

// copies returns how often each line of a stream is in the store.
func (r *replicas) copies(ls string) map[string]int {
	n := map[string]int{}
	for _, l := range r.store.lines(r.t, "t", ls) {
		n[l]++
	}
	return n
}

// expectCopies says how often each line may be stored, and returns how many
// copies too many there are.
func (r *replicas) expectCopies(want map[string][]line, least, most int) (extra int) {
	r.t.Helper()
	total := 0
	for ls, lines := range want {
		got := r.copies(ls)
		for _, l := range lines {
			n := got[l.String()]
			if n < least || n > most {
				r.t.Fatalf("%s: %q is stored %d times, want %d to %d", ls, l, n, least, most)
			}
			extra += max(0, n-1)
			total++
		}
		if len(got) != len(lines) {
			r.t.Fatalf("%s: %d lines stored, want %d", ls, len(got), len(lines))
		}
	}
	r.t.Logf("%d lines, %d extra copies, %d objects", total, extra, len(r.store.objects))
	return extra
}

// expectEmpty says that nobody has anything left.
func (r *replicas) expectEmpty() {
	r.t.Helper()
	for _, n := range r.names {
		i := r.get(n)
		if i == nil {
			continue
		}
		for _, c := range []struct {
			what string
			n    int64
		}{{"blocks", i.m.localBlocks.Load()}, {"closed chunks", i.m.pendingChunks.Load()}} {
			if c.n != 0 {
				r.t.Errorf("%s has %d %s left", n, c.n, c.what)
			}
		}
		i.eachStream(func(st *stream) {
			st.mu.Lock()
			defer st.mu.Unlock()
			if !st.empty() {
				r.t.Errorf("%s has something of %s left", n, st.labels)
			}
		})
		if live := i.blocks.Stats().Live; live != 0 {
			r.t.Errorf("%s: %d bytes of blocks count as alive", n, live)
		}
	}
}

// load makes lines of some streams, n pushes of them.
type load struct {
	want map[string][]line
	n    int
}

func (l *load) next(rng *rand.Rand) map[string][]line {
	if l.want == nil {
		l.want = map[string][]line{}
	}
	out := map[string][]line{}
	for range 1 + rng.IntN(3) {
		ls := fmt.Sprintf(`{app="%d"}`, rng.IntN(5))
		for range 1 + rng.IntN(4) {
			x := line{ts: t0 + int64(l.n)*sec, text: fmt.Sprintf("line %d, which nobody else has: %x", l.n, rng.Uint64())}
			if l.n%5 == 0 {
				x.meta = []string{"trace", fmt.Sprint(l.n)}
			}
			if l.n%13 == 0 {
				x.ts -= 20 * sec
			}
			if l.n%101 == 100 {
				x.ts -= 5 * 3600 * sec // late lane
			}
			l.n++
			out[ls] = append(out[ls], x)
			l.want[ls] = append(l.want[ls], x)
		}
	}
	return out
}

func (r *replicas) load(l *load, pushes int, to ...string) {
	r.t.Helper()
	for range pushes {
		r.push(l.next(r.rng), to...)
	}
}

// TestOneCopy stores what three replicas have: once, whoever is asked to flush,
// and all of them let go of it.
func TestOneCopy(t *testing.T) {
	for _, who := range [][]string{{"a", "b", "c"}, {"b"}, {"c", "a"}} {
		t.Run(fmt.Sprint(who), func(t *testing.T) {
			r := newReplicas(t, nil)
			var l load
			for range 3 {
				r.load(&l, 150)
				r.flush(who...)
			}
			if len(who) < 3 {
				r.flush()
			}
			r.expectCopies(l.want, 1, 1)
			r.expectEmpty()
		})
	}
}

// TestOneCopyOfFullChunks has chunks fill up in different places: what one
// replica has in its open chunk another has in a closed one.
func TestOneCopyOfFullChunks(t *testing.T) {
	r := newReplicas(t, nil)
	var l load
	for range 20 {
		r.load(&l, 50)
		// Early cuts, at one of them.
		i := r.get(r.names[r.rng.IntN(3)])
		i.eachHead(func(st *stream, ln *lane, h *head) {
			if !h.sealed && r.rng.IntN(3) == 0 {
				i.seal(ln)
			}
		})
		for _, n := range r.names {
			r.get(n).index.request()
		}
	}
	waitFor(t, "something is let go of before it is asked for", func() bool {
		n := 0.0
		for _, name := range r.names {
			n += testutil.ToFloat64(r.get(name).m.coveredEntries)
		}
		return n > 0
	})
	r.flush()
	r.expectCopies(l.want, 1, 1)
	r.expectEmpty()
}

// TestOneCopyRestarts restarts replicas in between; what was let go of stays so.
func TestOneCopyRestarts(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprint(crash), func(t *testing.T) {
			r := newReplicas(t, nil)
			var l load
			for round := range 6 {
				r.load(&l, 100)
				r.flush(r.names[round%3])
				n := r.names[r.rng.IntN(3)]
				if crash {
					r.kill(n)
				} else {
					r.stop(n, false)
				}
				r.start(n)
				i := r.get(n)
				for ls, lines := range l.want {
					got, doubles := visible(t, i, r.store, "t", ls)
					if doubles > 0 || len(got) != len(lines) {
						t.Fatalf("%s: %d lines, want %d; %d twice in memory", ls, len(got), len(lines), doubles)
					}
				}
			}
			r.flush()
			r.expectCopies(l.want, 1, 1)
			r.expectEmpty()
		})
	}
}

// TestOneCopyLostNotices loses what one replica is to be told: it stores a second
// copy of that, and nothing is missing.
func TestOneCopyLostNotices(t *testing.T) {
	r := newReplicas(t, func(c *Config) { c.OneCopyGrace = 50 * time.Millisecond })
	r.lost["b"] = true
	r.block["a"], r.block["c"] = true, true
	var l load
	for k := range 8 {
		r.load(&l, 25)
		i := r.get(r.names[k%2]) // so that they make different chunks
		i.eachHead(func(_ *stream, ln *lane, h *head) {
			if !h.sealed {
				i.seal(ln)
			}
		})
	}
	r.flush("a")
	r.flush("b")
	r.flush("c")
	if extra := r.expectCopies(l.want, 1, 2); extra == 0 {
		t.Error("no second copy of anything: nothing was lost")
	}
	r.mu.Lock()
	r.lost["b"] = false
	r.mu.Unlock()
	waitFor(t, "notices are told again", func() bool {
		_, n := r.get("a").copies.pending()
		_, m := r.get("c").copies.pending()
		return n+m == 0
	})
	r.expectEmpty()
}

// TestOneCopyUploaderGone kills one replica for good: the others store what it
// would have.
func TestOneCopyUploaderGone(t *testing.T) {
	r := newReplicas(t, func(c *Config) {
		c.OneCopyGrace = 100 * time.Millisecond
		c.ChunkIdlePeriod = 300 * time.Millisecond
		c.IndexInterval = 0
	})
	var l load
	r.load(&l, 100)
	r.kill("a")
	r.load(&l, 20)
	waitFor(t, "all is stored", func() bool {
		for _, n := range []string{"b", "c"} {
			i := r.get(n)
			i.index.request()
			if i.m.pendingChunks.Load()+i.m.localBlocks.Load() != 0 {
				return false
			}
		}
		for ls, lines := range l.want {
			if len(r.copies(ls)) != len(lines) {
				return false
			}
		}
		return true
	})
	r.start("a")
	r.flush()
	r.expectCopies(l.want, 1, 2)
	r.expectEmpty()
}

// TestOneCopyMissed gives each push to two of three: what the first replica of a
// stream missed the others store.
func TestOneCopyMissed(t *testing.T) {
	r := newReplicas(t, nil)
	var l load
	for range 300 {
		k := r.rng.IntN(3)
		r.push(l.next(r.rng), r.names[k], r.names[(k+1)%3])
	}
	r.flush()
	r.expectCopies(l.want, 1, 2)
	r.expectEmpty()
}

// TestOneCopyRefused has replicas that refuse different entries, as those of a
// tenant with strict order do: what one refused it does not claim.
func TestOneCopyRefused(t *testing.T) {
	r := newReplicas(t, nil)
	for _, n := range r.names {
		h := r.hs[n]
		h.lim = Limits{}
		r.stop(n, false)
		r.start(n)
	}
	ls := `{app="x"}`
	first := r.walk(token("t", ls))[0]
	// The first one is ahead, so that it refuses what comes to all.
	ahead := mkBatch("t", map[string][]line{ls: {{ts: t0 + 100*sec, text: "ahead"}}})
	ahead.Part = push.Part{Gateway: 9, Number: 1}
	if err := r.get(first).Push(context.Background(), ahead); err != nil {
		t.Fatal(err)
	}
	var lines []line
	for k := range 50 {
		lines = append(lines, line{ts: t0 + int64(80+k)*sec, text: fmt.Sprintf("line %d", k)})
	}
	want := map[string][]line{ls: append(slices.Clip(lines), line{ts: t0 + 100*sec, text: "ahead"})}
	for _, n := range r.names {
		b := mkBatch("t", map[string][]line{ls: lines})
		b.Part = push.Part{Gateway: 9, Number: 2}
		err := r.get(n).Push(context.Background(), b)
		var rej *push.Rejected
		if (err != nil) != (n == first) || err != nil && !errors.As(err, &rej) {
			t.Fatal(n, err)
		}
	}
	r.flush()
	r.expectCopies(want, 1, 2)
	r.expectEmpty()
}

// TestOneCopyShutdown ends all replicas at the same time, each of which is to
// store everything.
func TestOneCopyShutdown(t *testing.T) {
	r := newReplicas(t, nil)
	var l load
	r.load(&l, 200)
	var wg sync.WaitGroup
	for _, n := range r.names {
		i := r.get(n)
		wg.Go(func() {
			if err := i.Shutdown(context.Background(), true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	clear(r.up)
	r.expectCopies(l.want, 1, 1)
}

// TestOneCopyUnnamed has pushes without a name, as gateways of before have sent
// them: every replica stores them.
func TestOneCopyUnnamed(t *testing.T) {
	r := newReplicas(t, nil)
	ls := `{app="x"}`
	lines := map[string][]line{ls: {{ts: t0, text: "unnamed"}}}
	for _, n := range r.names {
		if err := pushLines(t, r.get(n), "t", lines); err != nil {
			t.Fatal(err)
		}
	}
	named := line{ts: t0 + sec, text: "named"}
	r.push(map[string][]line{ls: {named}})
	r.flush()
	if n := len(r.store.objects); n != 1 { // with the same content, so under one key
		t.Fatalf("%d objects", n)
	}
	r.expectCopies(map[string][]line{ls: append(lines[ls], named)}, 1, 1)
	r.expectEmpty()
}

// TestOneCopyUnderLoad pushes while replicas flush, restart and lose notices, and
// a reader looks: at every moment two replicas and the store together have every
// line that two replicas have stored.
func TestOneCopyUnderLoad(t *testing.T) {
	r := newReplicas(t, func(c *Config) {
		c.OneCopyGrace = 200 * time.Millisecond
		c.ChunkIdlePeriod = time.Second
	})
	var l load
	for round := range 12 {
		down := ""
		if round%3 == 0 {
			down = r.names[r.rng.IntN(3)]
			r.kill(down)
		}
		r.load(&l, 30)
		var wg sync.WaitGroup
		wg.Go(func() {
			for _, n := range r.names {
				if i := r.get(n); i != nil && n != down {
					_ = i.Flush(context.Background(), false)
				}
			}
		})
		for ls, lines := range l.want {
			seen := map[string]bool{}
			for _, n := range r.names {
				if i := r.get(n); i != nil {
					got, _ := visible(t, i, newFakeStore(), "t", ls)
					for _, x := range got {
						seen[x] = true
					}
				}
			}
			for _, x := range r.store.lines(t, "t", ls) {
				seen[x] = true
			}
			if len(seen) != len(lines) {
				t.Fatalf("round %d: %s: %d lines, want %d", round, ls, len(seen), len(lines))
			}
		}
		wg.Wait()
		if down != "" {
			r.start(down)
		}
	}
	r.flush()
	r.expectCopies(l.want, 1, 3)
	r.expectEmpty()
}

// TestOneCopyPowerLoss has all machines lose power at every step of a flush: when
// a chunk is put and was put, when an index is and was, and at every write and
// sync of block files, records of what others have stored among them. Each time
// every line has to be there after that, and stored twice at most.
func TestOneCopyPowerLoss(t *testing.T) {
	var mu sync.Mutex
	on := false
	steps := map[string]int{}
	mems := map[string]*vfs.Mem{}
	type moment struct {
		step  string
		store *fakeStore
		disks map[string]*vfs.Mem
	}
	var moments []moment
	rng := rand.New(rand.NewPCG(3, 4))
	store := newFakeStore()
	take := func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		if !on {
			return nil
		}
		if steps[step]++; steps[step] > 2 { // of many alike
			return nil
		}
		m := moment{step, store.copy(), map[string]*vfs.Mem{}}
		for n, mem := range mems {
			m.disks[n] = mem.CrashClone(rng, []vfs.CrashMode{vfs.DropUnsynced, vfs.KeepRandom}[len(moments)%2])
		}
		moments = append(moments, m)
		return nil
	}
	r := replicasOn(t, store, func(c *Config) { c.FlushConcurrency = 2 }, func(n string) vfs.FS {
		mem := vfs.NewMem()
		mu.Lock()
		mems[n] = mem
		mu.Unlock()
		return vfs.Fault(mem, func(op vfs.Op, path string) error {
			if strings.Contains(path, "blocks") && (op == vfs.OpWrite || op == vfs.OpDatasync || op == vfs.OpRemove) {
				return take(n + " " + string(op))
			}
			return nil
		})
	})
	store.hook = func(step, _ string) error { return take(step) }
	var l load
	r.load(&l, 150)
	r.flush("b")
	r.load(&l, 150)
	mu.Lock()
	on = true
	mu.Unlock()
	r.flush()
	mu.Lock()
	on = false
	mu.Unlock()
	r.expectCopies(l.want, 1, 1)
	for _, step := range []string{"put chunk", "chunk is put", "put index", "index is put", "a " + string(vfs.OpWrite), "b " + string(vfs.OpDatasync)} {
		if steps[step] == 0 {
			t.Errorf("there was no step %q", step)
		}
	}
	t.Logf("%d moments: %v", len(moments), steps)
	for k, m := range moments {
		t.Run(fmt.Sprint(k, " ", m.step), func(t *testing.T) {
			r := replicasOn(t, m.store, nil, func(n string) vfs.FS { return m.disks[n] })
			for _, n := range r.names {
				for ls, lines := range l.want {
					got, doubles := visible(t, r.get(n), m.store, "t", ls)
					if doubles > 0 || len(got) != len(lines) {
						t.Fatalf("%s: %s: %d lines, want %d; %d twice in memory", n, ls, len(got), len(lines), doubles)
					}
				}
			}
			r.flush()
			r.expectCopies(l.want, 1, 2)
			r.expectEmpty()
		})
	}
}
