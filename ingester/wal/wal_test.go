package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const dir = "/wal"

var ctx = context.Background()

// rec is a record as a test knows it.
type rec struct {
	lsn  LSN
	data string
}

func open(t testing.TB, fsys vfs.FS, o Options) *Log {
	t.Helper()
	l, err := Open(fsys, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// start opens a log and replays it.
func start(t testing.TB, fsys vfs.FS, o Options) (*Log, []rec, ReplayStats) {
	t.Helper()
	l := open(t, fsys, o)
	got, st := replayAll(t, l)
	return l, got, st
}

func replayAll(t testing.TB, l *Log) ([]rec, ReplayStats) {
	t.Helper()
	var got []rec
	st, err := l.Replay(ctx, func(lsn LSN, p []byte) error {
		got = append(got, rec{lsn, string(p)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if st.Records != len(got) {
		t.Fatalf("%d records in the stats, %d replayed", st.Records, len(got))
	}
	if done, total := l.Progress(); done != total || st.Bytes != total {
		t.Fatalf("progress %d of %d, stats say %d", done, total, st.Bytes)
	}
	return got, st
}

// add appends to whatever segment is current.
func add(l *Log, data ...[]byte) (Ticket, error) {
	seg := l.CurrentSegment()
	for {
		tk, cur, err := l.Append(seg, data...)
		if !errors.Is(err, ErrSegment) {
			return tk, err
		}
		seg = cur
	}
}

func put(t testing.TB, l *Log, data string) rec {
	t.Helper()
	tk, err := add(l, []byte(data))
	if err == nil {
		err = tk.Wait(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	return rec{tk.LSN, data}
}

func shut(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func same(t testing.TB, got, want []rec) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("record %d of %d is %d %.40q, want %d %.40q", i, len(got), got[i].lsn, got[i].data, want[i].lsn, want[i].data)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
}

// payload makes content that says which record it is of.
func payload(n, size int) string {
	s := fmt.Sprintf("record %d ", n)
	return s + strings.Repeat("x", max(0, size-len(s)))
}

// segmentFiles returns the paths of segments.
func segmentFiles(t testing.TB, fsys vfs.FS) []string {
	t.Helper()
	return filesLike(t, fsys, suffix)
}

func filesLike(t testing.TB, fsys vfs.FS, end string) []string {
	t.Helper()
	list, err := fsys.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		if strings.HasSuffix(e.Name(), end) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}

func readFile(t testing.TB, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, fsys vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = fsys.SyncDir(filepath.Dir(name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func copyMem(m *vfs.Mem) *vfs.Mem {
	return m.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.DropUnsynced)
}

func TestAppendAndReplay(t *testing.T) {
	for _, mode := range []SyncMode{SyncAlways, SyncInterval, SyncNever} {
		t.Run(mode.String(), func(t *testing.T) {
			fsys := vfs.NewMem()
			o := Options{Sync: mode, SyncInterval: time.Millisecond, SegmentSize: 4096}
			var want []rec
			for life := range 4 {
				l, got, st := start(t, fsys, o)
				same(t, got, want)
				if st.Corruptions != 0 || st.Lost != 0 {
					t.Fatalf("stats %+v", st)
				}
				if l.Next() != LSN(len(want)+1) {
					t.Fatalf("next is %d after %d records", l.Next(), len(want))
				}
				for n := range 40 {
					want = append(want, put(t, l, payload(n, n*life*5)))
					if want[len(want)-1].lsn != LSN(len(want)) {
						t.Fatalf("number %d is not %d", want[len(want)-1].lsn, len(want))
					}
				}
				shut(t, l)
				if _, err := add(l, nil); !errors.Is(err, ErrClosed) {
					t.Fatalf("append after close: %v", err)
				}
				if err := l.Close(); !errors.Is(err, ErrClosed) {
					t.Fatalf("second close: %v", err)
				}
			}
		})
	}
}

func TestOnRealDisk(t *testing.T) {
	d := filepath.Join(t.TempDir(), "a", "b")
	var want []rec
	for range 3 {
		l, err := Open(vfs.OS, d, Options{SegmentSize: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		got, st := replayAll(t, l)
		same(t, got, want)
		if st.Corruptions != 0 {
			t.Fatalf("stats %+v", st)
		}
		for n := range 20 {
			want = append(want, put(t, l, payload(n, 10000)))
		}
		if len(l.Segments()) < 3 {
			t.Fatalf("%d segments", len(l.Segments()))
		}
		shut(t, l)
	}
}

func TestUse(t *testing.T) {
	l := open(t, vfs.NewMem(), Options{})
	defer shut(t, l)
	if _, err := add(l, []byte("x")); !errors.Is(err, errNotReplayed) {
		t.Fatalf("append before replay: %v", err)
	}
	if _, st := replayAll(t, l); st.Records != 0 {
		t.Fatalf("an empty log has %d records", st.Records)
	}
	if _, err := l.Replay(ctx, nil); err == nil {
		t.Fatal("replayed twice")
	}
	if l.Oldest() != 1 || l.Next() != 1 || l.Size() != 0 || l.CurrentSegment() != 1 {
		t.Fatalf("oldest %d, next %d, size %d, segment %d", l.Oldest(), l.Next(), l.Size(), l.CurrentSegment())
	}
	huge := make([]byte, 1<<20)
	var pieces [][]byte
	for range maxRecord/len(huge) + 1 {
		pieces = append(pieces, huge)
	}
	if _, err := add(l, pieces...); err == nil {
		t.Fatal("a record above the limit was taken")
	}
	if s := put(t, l, ""); s.lsn != 1 {
		t.Fatalf("an empty record got number %d", s.lsn)
	}
	for _, s := range []string{"always", "interval", "never"} {
		if m, err := ParseSyncMode(s); err != nil || m.String() != s {
			t.Fatalf("mode %s is %v, %v", s, m, err)
		}
	}
	if _, err := ParseSyncMode("sometimes"); err == nil {
		t.Fatal("mode sometimes")
	}
}

func TestFirstIsALowerBound(t *testing.T) {
	fsys := vfs.NewMem()
	l, _, _ := start(t, fsys, Options{First: 100})
	want := []rec{put(t, l, "a")}
	shut(t, l)
	l, got, _ := start(t, fsys, Options{First: 50})
	same(t, got, want)
	want = append(want, put(t, l, "b"))
	shut(t, l)
	l, _, _ = start(t, fsys, Options{First: 1000})
	want = append(want, put(t, l, "c"))
	shut(t, l)
	l, got, st := start(t, fsys, Options{})
	defer shut(t, l)
	same(t, got, want)
	if got[0].lsn != 100 || got[1].lsn != 101 || got[2].lsn != 1000 || st.Corruptions != 0 {
		t.Fatalf("numbers %d %d %d, stats %+v", got[0].lsn, got[1].lsn, got[2].lsn, st)
	}
}

// TestSegments checks that a record goes to the segment it was made for or to
// none.
func TestSegments(t *testing.T) {
	fsys := vfs.NewMem()
	l, _, _ := start(t, fsys, Options{SegmentSize: 4096})
	first := l.CurrentSegment()
	tk, cur, err := l.Append(first, make([]byte, 3000))
	if err != nil || cur != first || tk.Wait(ctx) != nil {
		t.Fatalf("append: %v, segment %d", err, cur)
	}
	if _, cur, err = l.Append(first+7, []byte("x")); !errors.Is(err, ErrSegment) || cur != first {
		t.Fatalf("append to another segment: %v, %d", err, cur)
	}
	if _, cur, err = l.Append(first, make([]byte, 2000)); !errors.Is(err, ErrSegment) || cur != first+1 || l.CurrentSegment() != cur {
		t.Fatalf("append that does not fit: %v, segment %d", err, cur)
	}
	if l.Next() != 2 {
		t.Fatalf("refused records took numbers: next is %d", l.Next())
	}
	if _, again, err := l.Append(first, []byte("x")); !errors.Is(err, ErrSegment) || again != cur {
		t.Fatalf("append to a full segment: %v, segment %d", err, again)
	}
	if tk, _, err = l.Append(cur, make([]byte, 2000)); err != nil || tk.Wait(ctx) != nil || tk.LSN != 2 {
		t.Fatalf("append to the next segment: %v", err)
	}
	// A record beyond the size of a segment.
	big := put(t, l, payload(3, 20000))
	put(t, l, "small")
	segs := l.Segments()
	if len(segs) != 3 || segs[0].First != 1 || segs[1].First != 2 || segs[2].First != big.lsn || segs[2].Bytes < 20000 {
		t.Fatalf("segments %+v", segs)
	}
	if l.Size() != segs[0].Bytes+segs[1].Bytes+segs[2].Bytes {
		t.Fatalf("size %d of %+v", l.Size(), segs)
	}
	shut(t, l)
	for i, name := range segmentFiles(t, fsys) {
		if n := int64(len(readFile(t, fsys, name))); n != segs[i].Bytes {
			t.Fatalf("segment %d has %d bytes in a file of %d: it was not cut", i, segs[i].Bytes, n)
		}
	}
	l, got, st := start(t, fsys, Options{SegmentSize: 4096})
	defer shut(t, l)
	if len(got) != 4 || got[2] != big || st.Corruptions != 0 {
		t.Fatalf("%d records, %+v", len(got), st)
	}
	if id := l.CurrentSegment(); id != segs[2].ID+1 {
		t.Fatalf("after a start the current segment is %d, which is not new", id)
	}
}

func TestTruncate(t *testing.T) {
	fsys := vfs.NewMem()
	o := Options{SegmentSize: 4096}
	l, _, _ := start(t, fsys, o)
	var want []rec
	for n := range 40 {
		want = append(want, put(t, l, payload(n, 900)))
	}
	segs := l.Segments()
	keep := segs[4].First + 1
	if err := l.Truncate(keep); err != nil {
		t.Fatal(err)
	}
	if l.Oldest() != segs[4].First || len(l.Segments()) != len(segs)-4 {
		t.Fatalf("oldest %d, %d of %d segments", l.Oldest(), len(l.Segments()), len(segs))
	}
	c := copyMem(fsys)
	l2, got, st := start(t, c, o)
	same(t, got, want[segs[4].First-1:])
	if st.Corruptions != 0 {
		t.Fatalf("truncation looks like damage: %+v", st)
	}
	shut(t, l2)

	// The newest segment stays, or numbers would begin at 1 again.
	if err := l.Truncate(1 << 60); err != nil {
		t.Fatal(err)
	}
	if len(l.Segments()) != 1 {
		t.Fatalf("%d segments", len(l.Segments()))
	}
	next := l.Next()
	shut(t, l)
	l, _, _ = start(t, fsys, o)
	if l.Next() != next {
		t.Fatalf("next is %d, was %d", l.Next(), next)
	}
	shut(t, l)
}

// TestTruncationLosesNoMiddle takes the power away between the removals.
func TestTruncationLosesNoMiddle(t *testing.T) {
	mem := vfs.NewMem()
	rng := rand.New(rand.NewPCG(3, 3))
	var clones []*vfs.Mem
	fsys := vfs.Fault(mem, func(op vfs.Op, path string) error {
		if op == vfs.OpRemove || op == vfs.OpSyncDir {
			for range 4 {
				clones = append(clones, mem.CrashClone(rng, vfs.KeepRandom))
			}
		}
		return nil
	})
	o := Options{SegmentSize: 4096}
	l, _, _ := start(t, fsys, o)
	for n := range 40 {
		put(t, l, payload(n, 900))
	}
	shutNow := clones
	clones = nil
	if err := l.Truncate(35); err != nil {
		t.Fatal(err)
	}
	after := clones
	shut(t, l)
	if len(shutNow) == 0 || len(after) < 10 {
		t.Fatal("no clones")
	}
	for _, c := range after {
		l, got, st := start(t, c, o)
		if st.Corruptions != 0 || got[len(got)-1].lsn != 40 || got[0].lsn > 35 {
			t.Fatalf("records %d to %d, %+v", got[0].lsn, got[len(got)-1].lsn, st)
		}
		shut(t, l)
	}
}

// counter counts operations on segment files.
type counter struct {
	n [2]atomic.Int64
}

func (c *counter) hook(op vfs.Op, path string) error {
	switch op {
	case vfs.OpWrite:
		c.n[0].Add(1)
	case vfs.OpDatasync:
		c.n[1].Add(1)
	}
	return nil
}

// TestOneSyncServesAll holds up a sync until 50 others wait, and counts.
func TestOneSyncServesAll(t *testing.T) {
	var c counter
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	hold := atomic.Bool{}
	fsys := vfs.Fault(vfs.NewMem(), func(op vfs.Op, path string) error {
		if op == vfs.OpDatasync && hold.Load() {
			once.Do(func() { close(held); <-release })
		}
		return c.hook(op, path)
	})
	l, _, _ := start(t, fsys, Options{})
	defer shut(t, l)
	put(t, l, "begin")
	hold.Store(true)
	tk, err := add(l, []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	<-held
	writes, syncs := c.n[0].Load(), c.n[1].Load()
	var wg sync.WaitGroup
	appended := make(chan struct{}, 50)
	for n := range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			tk, err := add(l, []byte(payload(n, 100)))
			appended <- struct{}{}
			if err == nil {
				err = tk.Wait(ctx)
			}
			if err != nil {
				t.Error(err)
			}
		}()
	}
	for range 50 {
		<-appended
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := tk.Wait(short); !errors.Is(err, context.Canceled) {
		t.Fatalf("wait with a context that has ended: %v", err)
	}
	close(release)
	wg.Wait()
	if err := tk.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	// The sync that was held, and one for the 50.
	if w, s := c.n[0].Load()-writes, c.n[1].Load()-syncs; w != 1 || s != 2 {
		t.Fatalf("%d writes and %d syncs, want 1 and 2", w, s)
	}
}

func TestConcurrentCommitters(t *testing.T) {
	mem := vfs.NewMem()
	o := Options{SegmentSize: 64 << 10}
	l, _, _ := start(t, mem, o)
	var mu sync.Mutex
	want := map[LSN]string{}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range 200 {
				data := payload(g*1000+n, n*7)
				tk, err := add(l, []byte(data[:len(data)/2]), []byte(data[len(data)/2:]))
				if err == nil {
					err = tk.Wait(ctx)
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want[tk.LSN] = data
				mu.Unlock()
				if n%50 == 0 {
					l.Segments()
					l.Size()
					_ = l.Truncate(1)
				}
			}
		}()
	}
	wg.Wait()
	c := copyMem(mem) // what was acknowledged is durable before Close
	shut(t, l)
	for _, fsys := range []*vfs.Mem{mem, c} {
		l, got, st := start(t, fsys, o)
		if len(got) != 1600 || st.Corruptions != 0 {
			t.Fatalf("%d records, %+v", len(got), st)
		}
		for i, r := range got {
			if r.lsn != LSN(i+1) || want[r.lsn] != r.data {
				t.Fatalf("record %d is %d %.30q", i, r.lsn, r.data)
			}
		}
		shut(t, l)
	}
}

// TestPendingIsBounded holds the writer up and appends until Append blocks.
func TestPendingIsBounded(t *testing.T) {
	release := make(chan struct{})
	hold := atomic.Bool{}
	fsys := vfs.Fault(vfs.NewMem(), func(op vfs.Op, path string) error {
		if op == vfs.OpWrite && hold.Load() {
			<-release
		}
		return nil
	})
	l, _, _ := start(t, fsys, Options{Sync: SyncNever, SegmentSize: 4 << 20})
	put(t, l, "begin")
	l.bound = 64 << 10
	hold.Store(true)
	data := make([]byte, 8<<10)
	done := make(chan int, 100)
	go func() {
		for n := range 20 {
			if _, err := add(l, data); err != nil {
				t.Error(err)
			}
			done <- n
		}
		close(done)
	}()
	// What the writer holds counts, too: the bound and the record that went over.
	for n := range 8 {
		if <-done != n {
			t.Fatal("out of order")
		}
	}
	l.mu.Lock()
	pending := l.pending
	l.mu.Unlock()
	if pending > l.bound+len(data)+recordHeader {
		t.Fatalf("%d bytes pending", pending)
	}
	select {
	case <-done:
		t.Fatal("append went on beyond the bound")
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	for range done {
	}
	shut(t, l)
}

// TestIntervalSyncs waits until the ticker has made a record durable.
func TestIntervalSyncs(t *testing.T) {
	mem := vfs.NewMem()
	synced := make(chan struct{}, 100)
	fsys := vfs.Fault(mem, func(op vfs.Op, path string) error {
		if op == vfs.OpSyncDir {
			select {
			case synced <- struct{}{}:
			default:
			}
		}
		return nil
	})
	o := Options{Sync: SyncInterval, SyncInterval: time.Millisecond}
	l, _, _ := start(t, fsys, o)
	want := []rec{put(t, l, "a")}
	<-synced
	deadline := time.Now().Add(10 * time.Second)
	for {
		l2, got, _ := start(t, copyMem(mem), o)
		shut(t, l2)
		if len(got) == 1 {
			same(t, got, want)
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not durable after 10 s with an interval of 1 ms")
		}
	}
	shut(t, l)
}

func TestReplayStops(t *testing.T) {
	fsys := vfs.NewMem()
	l, _, _ := start(t, fsys, Options{SegmentSize: 64 << 10})
	for n := range 100 {
		put(t, l, payload(n, 5000))
	}
	shut(t, l)
	l = open(t, fsys, Options{})
	mine := errors.New("mine")
	if _, err := l.Replay(ctx, func(lsn LSN, _ []byte) error {
		if lsn == 10 {
			return mine
		}
		return nil
	}); !errors.Is(err, mine) {
		t.Fatalf("replay: %v", err)
	}
	if _, err := add(l, nil); !errors.Is(err, errNotReplayed) {
		t.Fatalf("append after a replay that failed: %v", err)
	}
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	n := 0
	if _, err := l.Replay(short, func(LSN, []byte) error {
		if n++; n == 20 {
			cancel()
		}
		return nil
	}); !errors.Is(err, context.Canceled) || n != 20 {
		t.Fatalf("replay: %v after %d records", err, n)
	}
	shut(t, l)
}

func TestReadErrorsAreNotDamage(t *testing.T) {
	mem := vfs.NewMem()
	l, _, _ := start(t, mem, Options{SegmentSize: 64 << 10})
	for n := range 100 {
		put(t, l, payload(n, 5000))
	}
	shut(t, l)
	size := len(readFile(t, mem, segmentFiles(t, mem)[7]))
	for after := range 30 {
		reads := 0
		fsys := vfs.Fault(mem, func(op vfs.Op, path string) error {
			if op == vfs.OpRead {
				if reads++; reads > after {
					return syscall.EIO
				}
			}
			return nil
		})
		l, err := Open(fsys, dir, Options{})
		if err == nil {
			_, err = l.Replay(ctx, func(LSN, []byte) error { return nil })
			shut(t, l)
		}
		if err != nil && !errors.Is(err, syscall.EIO) {
			t.Fatalf("%d reads: %v", after, err)
		}
		if err == nil && reads > after {
			t.Fatalf("a disk that fails after %d reads was taken for a log", after)
		}
	}
	if n := len(readFile(t, mem, segmentFiles(t, mem)[7])); n != size {
		t.Fatalf("a segment that could not be read was cut from %d to %d bytes", size, n)
	}
}

func TestLeftoverFiles(t *testing.T) {
	fsys := vfs.NewMem()
	o := Options{SegmentSize: 4096}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, fsys, dir+"/notes.txt", []byte("not ours"))
	writeFile(t, fsys, dir+"/17.wal", []byte("not a segment's name"))
	writeFile(t, fsys, dir+"/00000000000000000005.new", make([]byte, 4096)) // can be used
	writeFile(t, fsys, dir+"/00000000000000000006.new", make([]byte, 4095)) // wrong size
	writeFile(t, fsys, dir+"/00000000000000000007.new", bytes.Repeat([]byte{1}, 4096))
	l, _, _ := start(t, fsys, o)
	put(t, l, "x")
	shut(t, l)
	if got := filesLike(t, fsys, ".new"); len(got) > 1 {
		t.Fatalf("spares %q", got)
	}
	if readFile(t, fsys, dir+"/notes.txt") == nil || len(filesLike(t, fsys, "17.wal")) != 1 {
		t.Fatal("files that are not ours are gone")
	}
	l, got, _ := start(t, fsys, o)
	defer shut(t, l)
	if len(got) != 1 {
		t.Fatalf("%d records", len(got))
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	l, _, _ := start(t, vfs.NewMem(), Options{Registerer: reg})
	put(t, l, "12345678")
	put(t, l, "")
	got := map[string]float64{}
	fams, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fams {
		m := f.Metric[0]
		switch {
		case m.Counter != nil:
			got[f.GetName()] = m.Counter.GetValue()
		case m.Gauge != nil:
			got[f.GetName()] = m.Gauge.GetValue()
		case m.Histogram != nil:
			got[f.GetName()] = float64(m.Histogram.GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"appended_bytes_total": 40 + 32, "records_total": 2, "commits_total": 2, "fsync_seconds": 2, "corruptions_total": 0,
		"segments": 1, "size_bytes": 64 + 40 + 32, "write_errors_total": 0,
	} {
		if v, ok := got["loki_go_wal_"+name]; !ok || v != want {
			t.Errorf("loki_go_wal_%s is %v, want %v", name, v, want)
		}
	}
	shut(t, l)
}

// logged keeps log lines.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *logged) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *logged) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

func (w *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
