package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/vfs"
)

// try appends a record and waits.
func try(l *Log, data string) (rec, error) {
	tk, err := add(l, []byte(data))
	if err == nil {
		err = tk.Wait(ctx)
	}
	return rec{tk.LSN, data}, err
}

// failer makes operations fail while it is armed.
type failer struct {
	mu  sync.Mutex
	on  vfs.Op
	err error
}

func (f *failer) set(op vfs.Op, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on, f.err = op, err
}

func (f *failer) hook(op vfs.Op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if op == f.on && !strings.HasSuffix(path, ballastName) {
		return f.err
	}
	return nil
}

// TestFailures makes each operation of a commit fail, in a segment that is in use
// and at the start of one. The waiter gets the error, later records go elsewhere,
// and after a restart exactly what was acknowledged is there.
func TestFailures(t *testing.T) {
	type test struct {
		op    vfs.Op
		err   error
		fresh bool // at the start of a segment
	}
	var tests []test
	for _, fresh := range []bool{false, true} {
		for _, err := range []error{syscall.EIO, syscall.ENOSPC} {
			for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpDatasync} {
				tests = append(tests, test{op, err, fresh})
			}
			tests = append(tests, test{vfs.OpWrite, vfs.ShortWrite(20, err), fresh}, test{vfs.OpWrite, vfs.ShortWrite(4000, err), fresh})
		}
	}
	for _, op := range []vfs.Op{vfs.OpCreate, vfs.OpPreallocate, vfs.OpSync, vfs.OpRename, vfs.OpSyncDir} {
		tests = append(tests, test{op, syscall.EIO, true}, test{op, syscall.ENOSPC, true})
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %v fresh=%v", tt.op, tt.err, tt.fresh), func(t *testing.T) {
			mem := vfs.NewMem()
			var f failer
			reg := prometheus.NewPedanticRegistry()
			o := Options{SegmentSize: 16 << 10, Registerer: reg}
			l, _, _ := start(t, vfs.Fault(mem, f.hook), o)
			o.Registerer = nil
			want := []rec{put(t, l, payload(0, 5000))}
			size := 5000
			if tt.fresh {
				size = 30000 // no spare is that large
			}
			seg := l.CurrentSegment()
			f.set(tt.op, tt.err)
			for n := range 3 {
				r, err := try(l, payload(100+n, size))
				if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("record %d: %v", r.lsn, err)
				}
				if errors.Is(err, ErrDiskFull) != errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("record %d: %v", r.lsn, err)
				}
			}
			f.set("", nil)
			if l.CurrentSegment() == seg {
				t.Fatal("the segment goes on after a failure")
			}
			want = append(want, put(t, l, payload(1, 5000)), put(t, l, payload(2, 5000)))
			if n := counted(t, reg, "loki_go_wal_write_errors_total"); n < 1 {
				t.Fatalf("%v write errors counted", n)
			}
			clones := []*vfs.Mem{copyMem(mem)}
			for seed := range uint64(10) {
				clones = append(clones, mem.CrashClone(rand.New(rand.NewPCG(seed, 5)), vfs.KeepRandom))
			}
			want2 := append([]rec(nil), want...)
			want2 = append(want2, put(t, l, payload(3, 5000)))
			shut(t, l)
			for i, c := range append(clones, mem) {
				l, got, st := start(t, c, o)
				shut(t, l)
				if i < len(clones) {
					same(t, got, want)
				} else {
					same(t, got, want2)
				}
				if st.Corruptions != 0 {
					t.Fatalf("stats %+v", st)
				}
			}
		})
	}
}

// TestFailureTakesTheSegmentAlong checks the promise that lets a caller define
// things in the first record of a segment: with a group, all that waits behind it
// for the same segment fails.
func TestFailureTakesTheSegmentAlong(t *testing.T) {
	mem := vfs.NewMem()
	held, release := make(chan struct{}), make(chan struct{})
	var armed, once atomic.Bool
	fsys := vfs.Fault(mem, func(op vfs.Op, path string) error {
		if op == vfs.OpDatasync && armed.Load() && once.CompareAndSwap(false, true) {
			close(held)
			<-release
			return syscall.EIO
		}
		return nil
	})
	l, _, _ := start(t, fsys, small)
	want := []rec{put(t, l, "kept")}
	armed.Store(true)
	a, err := add(l, []byte("definition"))
	if err != nil {
		t.Fatal(err)
	}
	<-held
	seg := l.CurrentSegment()
	b, _, err := l.Append(seg, []byte("refers to the definition"))
	if err != nil {
		t.Fatal(err)
	}
	close(release)
	if err := a.Wait(ctx); !errors.Is(err, syscall.EIO) {
		t.Fatalf("group that failed: %v", err)
	}
	if err := b.Wait(ctx); !errors.Is(err, syscall.EIO) {
		t.Fatalf("group behind it: %v", err)
	}
	if _, _, err := l.Append(seg, []byte("late")); !errors.Is(err, ErrSegment) {
		t.Fatalf("append to a segment that was given up: %v", err)
	}
	want = append(want, put(t, l, "next segment"))
	if want[1].lsn <= b.LSN {
		t.Fatalf("number %d after %d had been given", want[1].lsn, b.LSN)
	}
	shut(t, l)
	l, got, _ := start(t, mem, small)
	defer shut(t, l)
	same(t, got, want)
}

// TestLaterSegmentSurvives has a group of the next segment wait behind one that
// fails.
func TestLaterSegmentSurvives(t *testing.T) {
	mem := vfs.NewMem()
	held, release := make(chan struct{}), make(chan struct{})
	var armed, once atomic.Bool
	fsys := vfs.Fault(mem, func(op vfs.Op, path string) error {
		if op == vfs.OpWrite && armed.Load() && once.CompareAndSwap(false, true) {
			close(held)
			<-release
			return syscall.EIO
		}
		return nil
	})
	l, _, _ := start(t, fsys, small)
	want := []rec{put(t, l, payload(0, 1000))}
	armed.Store(true)
	a, err := add(l, []byte(payload(1, 1000)))
	if err != nil {
		t.Fatal(err)
	}
	<-held
	b, err := add(l, []byte(payload(2, 3500)))
	if err != nil {
		t.Fatal(err)
	}
	close(release)
	if err := a.Wait(ctx); !errors.Is(err, syscall.EIO) {
		t.Fatalf("group that failed: %v", err)
	}
	if err := b.Wait(ctx); err != nil {
		t.Fatalf("group of another segment: %v", err)
	}
	want = append(want, rec{b.LSN, payload(2, 3500)})
	shut(t, l)
	l, got, st := start(t, mem, small)
	defer shut(t, l)
	same(t, got, want)
	if st.Corruptions != 0 {
		t.Fatalf("stats %+v", st)
	}
}

// TestIntervalSyncFails: what was acknowledged cannot be taken back, but the
// segment is not used any more.
func TestIntervalSyncFails(t *testing.T) {
	mem := vfs.NewMem()
	var f failer
	failed := make(chan struct{}, 1)
	fsys := vfs.Fault(mem, func(op vfs.Op, path string) error {
		err := f.hook(op, path)
		if err != nil {
			select {
			case failed <- struct{}{}:
			default:
			}
		}
		return err
	})
	var out logged
	l, _, _ := start(t, fsys, Options{Sync: SyncInterval, SyncInterval: 1e6, SegmentSize: 4096, Log: out.logger()})
	want := []rec{put(t, l, "a")}
	f.set(vfs.OpDatasync, syscall.EIO)
	want = append(want, put(t, l, "b"))
	<-failed
	f.set("", nil)
	// The writer that failed the sync takes the next group only after it has
	// given the segment up.
	var r rec
	for err := errors.New("none"); err != nil; {
		r, err = try(l, "c")
	}
	want = append(want, r)
	if n := len(l.Segments()); n != 2 {
		t.Fatalf("%d segments", n)
	}
	if !strings.Contains(out.String(), "level=ERROR") {
		t.Fatalf("log: %s", out.String())
	}
	shut(t, l)
	l, got, st := start(t, mem, small)
	defer shut(t, l)
	same(t, got, want)
	if st.Corruptions != 0 {
		t.Fatalf("stats %+v", st)
	}
}

// TestDiskFull fills the disk: commits fail, what was acknowledged is read by a
// start on the full disk, the log can be truncated, and goes on by itself.
func TestDiskFull(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(256 << 10)
	o := Options{SegmentSize: 32 << 10}
	l, _, _ := start(t, mem, o)
	var want []rec
	fill := func() {
		t.Helper()
		for n := 0; ; n++ {
			r, err := try(l, payload(n, 3000))
			if errors.Is(err, ErrDiskFull) {
				return
			}
			if err != nil || n > 1000 {
				t.Fatalf("record %d: %v", n, err)
			}
			want = append(want, r)
		}
	}
	fill()
	for range 5 {
		if _, err := try(l, payload(0, 3000)); !errors.Is(err, ErrDiskFull) {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	if len(filesLike(t, mem, ballastName)) != 0 {
		t.Fatal("the ballast was not released")
	}
	if free, _, _ := mem.Free(dir); free < 8<<10 {
		t.Fatalf("%d bytes free for others", free)
	}
	// Somebody else takes the rest.
	f, err := mem.OpenFile("/other", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(0); ; n++ {
		if _, err := f.WriteAt(make([]byte, 4096), n*4096); err != nil {
			break
		}
	}
	if err := mem.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []vfs.CrashMode{vfs.DropUnsynced, vfs.KeepRandom} {
		c := mem.CrashClone(rand.New(rand.NewPCG(1, 1)), mode)
		c.SetCapacity(c.Used())
		l, got, st := start(t, c, o)
		same(t, got, want)
		if st.Corruptions != 0 {
			t.Fatalf("stats %+v", st)
		}
		if _, err := try(l, payload(0, 3000)); !errors.Is(err, ErrDiskFull) {
			t.Fatalf("after a start on a full disk: %v", err)
		}
		// Truncation is all it takes.
		if err := l.Truncate(l.Next() - 1); err != nil {
			t.Fatal(err)
		}
		more := put(t, l, payload(1, 3000))
		if more.lsn <= want[len(want)-1].lsn {
			t.Fatalf("number %d", more.lsn)
		}
		shut(t, l)
	}
	shut(t, l)
	l, got, _ := start(t, mem, o)
	same(t, got, want)
	mem.SetCapacity(512 << 10)
	fill()
	mem.SetCapacity(0)
	want = append(want, put(t, l, "space again"))
	shut(t, l)
	l, got, st := start(t, mem, o)
	defer shut(t, l)
	same(t, got, want)
	if st.Corruptions != 0 {
		t.Fatalf("stats %+v", st)
	}
}

// TestFailuresAreLoggedOnce: a full disk refuses each push, and may last.
func TestFailuresAreLoggedOnce(t *testing.T) {
	var f failer
	var out logged
	l, _, _ := start(t, vfs.Fault(vfs.NewMem(), f.hook), Options{SegmentSize: 4096, Log: out.logger()})
	for range 2 {
		f.set(vfs.OpWrite, syscall.EIO)
		for range 50 {
			if _, err := try(l, "x"); err == nil {
				t.Fatal("no error")
			}
		}
		f.set("", nil)
		put(t, l, "x")
	}
	shut(t, l)
	if e, i := strings.Count(out.String(), "level=ERROR"), strings.Count(out.String(), "level=INFO"); e != 2 || i != 2 {
		t.Fatalf("%d errors, %d infos: %s", e, i, out.String())
	}
}

// TestLyingDisk shows that the crash tests can fail: a disk that does not do what
// it says loses acknowledged records.
func TestLyingDisk(t *testing.T) {
	mem := vfs.NewMem()
	fsys := vfs.Fault(mem, func(op vfs.Op, path string) error {
		if op == vfs.OpDatasync {
			return vfs.ErrLie
		}
		return nil
	})
	l, _, _ := start(t, fsys, small)
	for n := range 10 {
		put(t, l, payload(n, 1000))
	}
	c := copyMem(mem)
	shut(t, l)
	l, got, _ := start(t, c, small)
	shut(t, l)
	if len(got) == 10 {
		t.Fatal("nothing was lost")
	}
}

// TestCrash takes the power away at random operations, with random faults
// before, over several lives: what was acknowledged is replayed, in order,
// once, nothing is replayed that was never appended, and nothing is called
// corrupt.
func TestCrash(t *testing.T) {
	rounds := 50
	if testing.Short() {
		rounds = 20
	}
	for _, mode := range []vfs.CrashMode{vfs.DropUnsynced, vfs.KeepRandom} {
		for _, faults := range []bool{false, true} {
			t.Run(fmt.Sprintf("mode %d faults=%v", mode, faults), func(t *testing.T) {
				for round := range rounds {
					crash(t, mode, faults, uint64(round))
				}
			})
		}
	}
}

// crasher is the state of a crash test.
type crasher struct {
	mu     sync.Mutex
	rng    *rand.Rand
	mem    *vfs.Mem
	mode   vfs.CrashMode
	faults bool
	left   int // operations until the power is gone

	appended map[string]bool
	acked    map[LSN]string
	keep     LSN // records below may be gone

	clone      *vfs.Mem // what the crash left
	cloneAcked map[LSN]string
}

func (c *crasher) hook(op vfs.Op, path string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left == 0 {
		c.clone = c.mem.CrashClone(c.rng, c.mode)
		c.cloneAcked = map[LSN]string{}
		for lsn, data := range c.acked {
			c.cloneAcked[lsn] = data
		}
	}
	if !c.faults || c.rng.IntN(15) != 0 {
		return nil
	}
	err := []error{syscall.EIO, syscall.ENOSPC}[c.rng.IntN(2)]
	switch op {
	case vfs.OpWrite:
		if c.rng.IntN(2) == 0 {
			return vfs.ShortWrite(c.rng.IntN(5000), err)
		}
		return err
	case vfs.OpDatasync, vfs.OpSync, vfs.OpSyncDir, vfs.OpRename, vfs.OpCreate, vfs.OpPreallocate, vfs.OpTruncate:
		return err
	case vfs.OpRemove:
		return syscall.EIO
	}
	return nil
}

func crash(t *testing.T, mode vfs.CrashMode, faults bool, seed uint64) {
	t.Helper()
	c := &crasher{rng: rand.New(rand.NewPCG(seed, uint64(mode))), mode: mode, faults: faults, appended: map[string]bool{}, acked: map[LSN]string{}, keep: 1}
	c.mem = vfs.NewMem()
	for life := range 4 {
		c.mu.Lock()
		c.left, c.clone = 1+c.rng.IntN(120), nil
		c.mu.Unlock()
		l := open(t, vfs.Fault(c.mem, c.hook), Options{SegmentSize: 16 << 10})
		got, st := replayAll(t, l)
		c.check(t, got, st, seed, life)
		c.live(l, life)
		_ = l.Close()
		c.mu.Lock()
		if c.clone == nil { // the power lasted
			c.clone, c.cloneAcked = c.mem, c.acked
		}
		c.mem, c.acked = c.clone, c.cloneAcked
		c.mu.Unlock()
	}
	l, got, st := start(t, c.mem, Options{SegmentSize: 16 << 10})
	c.check(t, got, st, seed, 9)
	shut(t, l)
}

// live appends from three goroutines.
func (c *crasher) live(l *Log, life int) {
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range 15 {
				c.mu.Lock()
				data := fmt.Sprintf("life %d goroutine %d record %d %s", life, g, n, strings.Repeat("x", c.rng.IntN(9000)))
				c.appended[data] = true
				truncate := c.rng.IntN(12) == 0
				c.mu.Unlock()
				r, err := try(l, data)
				c.mu.Lock()
				if err == nil {
					c.acked[r.lsn] = data
				}
				keep := c.keep
				if truncate && r.lsn > 10 && r.lsn-10 > keep {
					keep = r.lsn - 10
					c.keep = keep
				}
				c.mu.Unlock()
				if truncate {
					_ = l.Truncate(keep)
				}
			}
		}()
	}
	wg.Wait()
}

func (c *crasher) check(t *testing.T, got []rec, st ReplayStats, seed uint64, life int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.Corruptions != 0 || st.Lost != 0 {
		t.Fatalf("seed %d, life %d: %+v", seed, life, st)
	}
	have := map[LSN]string{}
	seen := map[string]bool{}
	last := LSN(0)
	for _, r := range got {
		if r.lsn <= last {
			t.Fatalf("seed %d, life %d: record %d behind %d", seed, life, r.lsn, last)
		}
		if !c.appended[r.data] {
			t.Fatalf("seed %d, life %d: record %d was never appended: %.60q", seed, life, r.lsn, r.data)
		}
		if seen[r.data] {
			t.Fatalf("seed %d, life %d: %.60q is there twice", seed, life, r.data)
		}
		last, have[r.lsn], seen[r.data] = r.lsn, r.data, true
	}
	for lsn, data := range c.acked {
		if lsn >= c.keep && have[lsn] != data {
			t.Fatalf("seed %d, life %d: record %d is %.60q, acknowledged was %.60q", seed, life, lsn, have[lsn], data)
		}
	}
	// What was replayed stays.
	c.acked = have
}
