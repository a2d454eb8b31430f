package wal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, fsys vfs.FS, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(fsys, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

type rec struct {
	lsn     LSN
	payload string
}

func replay(t testing.TB, l *Log) ([]rec, ReplayStats) {
	t.Helper()
	var out []rec
	stats, err := l.Replay(context.Background(), func(lsn LSN, p []byte) error {
		out = append(out, rec{lsn, string(p)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, stats
}

// add appends one record and returns its ticket.
func add(l *Log, payload string) (Ticket, error) {
	seg := l.CurrentSegment()
	for {
		half := len(payload) / 2
		tk, cur, err := l.Append(seg, []byte(payload[:half]), []byte(payload[half:]))
		if !errors.Is(err, ErrSegment) {
			return tk, err
		}
		seg = cur
	}
}

func commit(t testing.TB, l *Log, payload string) LSN {
	t.Helper()
	tk, err := add(l, payload)
	if err == nil {
		err = tk.Wait(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	return tk.LSN
}

func shut(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func payload(n int) string { return fmt.Sprintf("record %d %s", n, bytes.Repeat([]byte{'x'}, n%200)) }

func TestRoundTripOverSegments(t *testing.T) {
	fsys := vfs.NewMem()
	o := Options{SegmentSize: 2048}
	l := open(t, fsys, "/w", o)
	var want []rec
	for n := range 100 {
		want = append(want, rec{commit(t, l, payload(n)), payload(n)})
	}
	big := string(bytes.Repeat([]byte{'B'}, 10000)) // larger than a segment
	want = append(want, rec{commit(t, l, big), big})
	want = append(want, rec{commit(t, l, "after"), "after"})
	if n := len(l.Segments()); n < 6 {
		t.Fatalf("%d segments", n)
	}
	shut(t, l)
	for life := range 3 {
		l = open(t, fsys, "/w", o)
		got, stats := replay(t, l)
		if fmt.Sprint(got) != fmt.Sprint(want) || stats.Corruptions != 0 || stats.Records != len(want) {
			t.Fatalf("life %d: %d records, want %d, %+v", life, len(got), len(want), stats)
		}
		p := fmt.Sprint("life ", life)
		want = append(want, rec{commit(t, l, p), p})
		shut(t, l)
	}
	for n := 1; n < len(want); n++ {
		if want[n].lsn != want[n-1].lsn+1 {
			t.Fatalf("record %d has number %d behind %d", n, want[n].lsn, want[n-1].lsn)
		}
	}
}

func TestTruncate(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, "/w", Options{SegmentSize: 1024})
	var last LSN
	for n := range 100 {
		last = commit(t, l, payload(n))
	}
	segs := l.Segments()
	mid := segs[len(segs)/2].First
	if err := l.Truncate(mid); err != nil {
		t.Fatal(err)
	}
	if l.Oldest() != mid {
		t.Fatalf("oldest is %d, want %d", l.Oldest(), mid)
	}
	if err := l.Truncate(last + 100); err != nil {
		t.Fatal(err)
	}
	if n := len(l.Segments()); n != 1 {
		t.Fatalf("%d segments left, want the current one", n)
	}
	oldest := l.Oldest()
	shut(t, l)
	l = open(t, fsys, "/w", Options{SegmentSize: 1024})
	defer shut(t, l)
	got, stats := replay(t, l)
	if stats.Corruptions != 0 || len(got) == 0 || got[0].lsn != oldest || got[len(got)-1].lsn != last {
		t.Fatalf("%d records, %+v", len(got), stats)
	}
}

// TestNumbersAreNotUsedTwice: what is known elsewhere of records may be newer
// than what the log still has.
func TestNumbersAreNotUsedTwice(t *testing.T) {
	l := open(t, vfs.NewMem(), "/w", Options{First: 1000})
	defer shut(t, l)
	if lsn := commit(t, l, "x"); lsn != 1000 {
		t.Fatalf("number %d", lsn)
	}
}

// written makes a log of five records in one real file and returns its bytes.
func written(t testing.TB) (data []byte, ends []int) {
	t.Helper()
	dir := t.TempDir()
	l := open(t, vfs.OS, dir, Options{SegmentSize: 4096, Sync: SyncNever})
	for n := range 5 {
		commit(t, l, payload(n*37))
		ends = append(ends, int(l.Size()))
	}
	shut(t, l)
	data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%016x%s", 1, suffix)))
	if err != nil {
		t.Fatal(err)
	}
	return data, ends
}

// reopen opens a log that has data as its segments 1, 2, ...
func reopen(t testing.TB, segments ...[]byte) ([]rec, ReplayStats, *Log) {
	t.Helper()
	fsys := vfs.NewMem()
	fsys.MkdirAll("/w", 0o755)
	for k, data := range segments {
		if data == nil {
			continue
		}
		f, err := fsys.OpenFile(fmt.Sprintf("/w/%016x%s", k+1, suffix), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteAt(data, 0)
		f.Close()
	}
	l := open(t, fsys, "/w", Options{SegmentSize: 4096})
	got, stats := replay(t, l)
	return got, stats, l
}

func TestDamage(t *testing.T) {
	whole, ends := written(t)
	last := ends[4]
	cases := map[string]struct {
		damage func(d []byte) []byte
		want   []int // records that are left
		bad    int
	}{
		"none":                   {func(d []byte) []byte { return d }, []int{0, 1, 2, 3, 4}, 0},
		"torn last record":       {func(d []byte) []byte { clear(d[last-20:]); return d }, []int{0, 1, 2, 3}, 0},
		"cut last record":        {func(d []byte) []byte { return d[:last-9] }, []int{0, 1, 2, 3}, 0},
		"bad checksum in middle": {func(d []byte) []byte { d[ends[1]+recordHeader+3] ^= 1; return d }, []int{0, 1, 3, 4}, 1},
		"zeroed record":          {func(d []byte) []byte { clear(d[ends[1]:ends[2]]); return d }, []int{0, 1, 3, 4}, 1},
		"two records zeroed":     {func(d []byte) []byte { clear(d[ends[0]:ends[2]]); return d }, []int{0, 3, 4}, 1},
		"length of 2^31":         {func(d []byte) []byte { binary.LittleEndian.PutUint32(d[ends[1]+4:], 1<<31); return d }, []int{0, 1, 3, 4}, 1},
		"trailing garbage":       {func(d []byte) []byte { copy(d[last:], bytes.Repeat([]byte{0xab}, 500)); return d }, []int{0, 1, 2, 3, 4}, 0},
		"header lost":            {func(d []byte) []byte { d[3] ^= 1; return d }, nil, 0},
		"empty file":             {func(d []byte) []byte { return d[:0] }, nil, 0},
		"record copied behind": {func(d []byte) []byte {
			copy(d[last:], d[ends[0]:ends[1]])
			return d
		}, []int{0, 1, 2, 3, 4}, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, stats, l := reopen(t, c.damage(bytes.Clone(whole)))
			defer shut(t, l)
			if len(got) != len(c.want) || stats.Corruptions != c.bad {
				t.Fatalf("%d records, %d corruptions; want %d, %d", len(got), stats.Corruptions, len(c.want), c.bad)
			}
			for k, n := range c.want {
				if got[k].payload != payload(n*37) || got[k].lsn != LSN(n+1) {
					t.Fatalf("record %d: %+v", k, got[k])
				}
			}
			// It goes on behind what is left.
			if lsn := commit(t, l, "next"); len(got) > 0 && lsn <= got[len(got)-1].lsn {
				t.Fatalf("next record has number %d", lsn)
			}
		})
	}
}

func TestMissingAndHeadlessSegments(t *testing.T) {
	fsys := vfs.NewMem()
	l := open(t, fsys, "/w", Options{SegmentSize: 1024})
	for n := range 120 {
		commit(t, l, payload(n))
	}
	segs := l.Segments()
	shut(t, l)
	if err := fsys.Remove(l.path(segs[2].ID)); err != nil {
		t.Fatal(err)
	}
	f, err := fsys.OpenFile(l.path(segs[4].ID), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte{1, 2, 3}, 0)
	f.Close()
	l = open(t, fsys, "/w", Options{SegmentSize: 1024})
	defer shut(t, l)
	got, stats := replay(t, l)
	lost := int(segs[3].First-segs[2].First) + int(segs[5].First-segs[4].First)
	if len(got) != 120-lost || stats.Corruptions != 2 {
		t.Fatalf("%d records, %d corruptions; want %d, 2", len(got), stats.Corruptions, 120-lost)
	}
}

// TestFlipAnyByte: only the record that was hit is lost, and not in silence
// unless it is the last one.
func TestFlipAnyByte(t *testing.T) {
	whole, ends := written(t)
	for at := segmentHeader; at < ends[4]; at++ {
		mut := bytes.Clone(whole)
		mut[at] ^= 0x40
		got, stats, l := reopen(t, mut)
		shut(t, l)
		hit := 0
		for hit < 5 && at >= ends[hit] {
			hit++
		}
		left := map[string]bool{}
		for _, r := range got {
			left[r.payload] = true
		}
		for n := range 5 {
			if !left[payload(n*37)] && n != hit {
				t.Fatalf("byte %d: record %d is gone, %d was hit", at, n, hit)
			}
		}
		if len(got) < 5 && hit < 4 && stats.Corruptions != 1 {
			t.Fatalf("byte %d: %d corruptions reported", at, stats.Corruptions)
		}
	}
}

func TestCutAnywhere(t *testing.T) {
	whole, ends := written(t)
	for n := range ends[4] {
		got, stats, l := reopen(t, whole[:n])
		shut(t, l)
		want := 0
		for _, e := range ends {
			if n >= e {
				want++
			}
		}
		// The padding behind a record may be missing.
		if len(got) != want && !(len(got) == want+1 && n > ends[want]-8) || stats.Corruptions != 0 {
			t.Fatalf("cut at %d: %d records, %d corruptions; want %d", n, len(got), stats.Corruptions, want)
		}
	}
}

// TestPowerLoss takes the power away at random moments under four writers.
func TestPowerLoss(t *testing.T) {
	for round := range 60 {
		rng := rand.New(rand.NewPCG(uint64(round), 5))
		mem := vfs.NewMem()
		var acked, appended sync.Map
		var n atomic.Int64
		for range 4 {
			l := open(t, mem, "/w", Options{SegmentSize: int64(1024 + rng.IntN(4096))})
			got, stats := replay(t, l)
			if stats.Corruptions > 0 && round%2 == 1 {
				t.Fatalf("round %d: %d corruptions", round, stats.Corruptions)
			}
			have := map[string]LSN{}
			last := LSN(0)
			for _, r := range got {
				if _, ok := appended.Load(r.payload); !ok || have[r.payload] != 0 || r.lsn <= last {
					t.Fatalf("round %d: record %+v was not appended, is there twice or out of order", round, r)
				}
				have[r.payload], last = r.lsn, r.lsn
			}
			acked.Range(func(p, lsn any) bool {
				if have[p.(string)] != lsn.(LSN) {
					t.Fatalf("round %d: acknowledged record %v %q is gone", round, lsn, p)
				}
				return true
			})
			var wg sync.WaitGroup
			stop := make(chan struct{})
			var mu sync.Mutex // no acknowledgement between the clone and its list
			dead := false
			for g := range 4 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for {
						select {
						case <-stop:
							return
						default:
						}
						p := payload(int(n.Add(1))) + fmt.Sprint(" by ", g)
						appended.Store(p, true)
						tk, err := add(l, p)
						if err == nil {
							err = tk.Wait(context.Background())
						}
						if err != nil {
							return
						}
						mu.Lock()
						if !dead {
							acked.Store(p, tk.LSN)
						}
						mu.Unlock()
					}
				}()
			}
			for target := n.Load() + int64(rng.IntN(200)); n.Load() < target; {
				time.Sleep(50 * time.Microsecond)
			}
			mode := vfs.DropUnsynced
			if round%2 == 0 {
				mode = vfs.KeepRandom
			}
			mu.Lock()
			clone := mem.CrashClone(rng, mode)
			dead = true
			mu.Unlock()
			close(stop)
			wg.Wait()
			shut(t, l)
			mem = clone
		}
	}
}

func TestLyingSyncLoses(t *testing.T) {
	mem := vfs.NewMem()
	var lying atomic.Bool
	l := open(t, vfs.Fault(mem, func(op vfs.Op, path string) error {
		if lying.Load() && op == vfs.OpDatasync {
			return vfs.Lie
		}
		return nil
	}), "/w", Options{})
	commit(t, l, "first")
	lying.Store(true)
	commit(t, l, "second")
	clone := mem.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.DropUnsynced)
	shut(t, l)
	l = open(t, clone, "/w", Options{})
	defer shut(t, l)
	if got, _ := replay(t, l); len(got) != 1 || got[0].payload != "first" {
		t.Fatalf("with a disk that lies: %v", got)
	}
}

func TestFailedSync(t *testing.T) {
	mem := vfs.NewMem()
	var failing atomic.Bool
	l := open(t, vfs.Fault(mem, func(op vfs.Op, path string) error {
		if failing.Load() && op == vfs.OpDatasync {
			return syscall.EIO
		}
		return nil
	}), "/w", Options{})
	commit(t, l, "before")
	failing.Store(true)
	tk, err := add(l, "in doubt")
	if err != nil {
		t.Fatal(err)
	}
	if err := tk.Wait(context.Background()); !errors.Is(err, syscall.EIO) {
		t.Fatalf("commit with a failing sync: %v", err)
	}
	failing.Store(false)
	commit(t, l, "after")
	if n := len(l.Segments()); n != 2 {
		t.Fatalf("%d segments, want a new one after a failed sync", n)
	}
	clone := mem.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.DropUnsynced)
	shut(t, l)
	l = open(t, clone, "/w", Options{})
	defer shut(t, l)
	got, stats := replay(t, l)
	if len(got) != 2 || got[0].payload != "before" || got[1].payload != "after" || stats.Corruptions != 0 {
		t.Fatalf("%v %+v", got, stats)
	}
}

func TestFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, "/w", Options{SegmentSize: 4096})
	var want []rec
	var full error
	mem.SetCapacity(20 << 10)
	for n := range 1000 {
		tk, err := add(l, payload(n))
		if err == nil {
			err = tk.Wait(context.Background())
		}
		if err != nil {
			full = err
			break
		}
		want = append(want, rec{tk.LSN, payload(n)})
	}
	if !errors.Is(full, ErrDiskFull) {
		t.Fatalf("on a full disk: %v", full)
	}
	if _, err := add(l, "still full"); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("on a full disk: %v", err)
	}
	mem.SetCapacity(60 << 10)
	want = append(want, rec{commit(t, l, "space again"), "space again"})
	shut(t, l)
	// A start on a full disk reads everything and can be truncated.
	mem.SetCapacity(mem.Used())
	l = open(t, mem, "/w", Options{SegmentSize: 4096})
	defer shut(t, l)
	got, stats := replay(t, l)
	if fmt.Sprint(got) != fmt.Sprint(want) || stats.Corruptions != 0 {
		t.Fatalf("%d records, want %d, %+v", len(got), len(want), stats)
	}
	if _, err := add(l, "full"); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("on a full disk: %v", err)
	}
	if err := l.Truncate(want[len(want)-1].lsn); err != nil {
		t.Fatal(err)
	}
	commit(t, l, "after truncation")
}

func TestGroupCommit(t *testing.T) {
	var syncs atomic.Int64
	block := make(chan struct{})
	var once atomic.Bool
	l := open(t, vfs.Fault(vfs.NewMem(), func(op vfs.Op, path string) error {
		if op == vfs.OpDatasync {
			if syncs.Add(1); once.CompareAndSwap(false, true) {
				<-block
			}
		}
		return nil
	}), "/w", Options{})
	defer shut(t, l)
	first, err := add(l, "first")
	if err != nil {
		t.Fatal(err)
	}
	for syncs.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	var waiting []Ticket
	for n := range 100 {
		tk, err := add(l, payload(n))
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, tk)
	}
	close(block)
	for _, tk := range append(waiting, first) {
		if err := tk.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if n := syncs.Load(); n > 3 {
		t.Fatalf("%d syncs for 101 records, 100 of which waited together", n)
	}
}

func TestIntervalAndNever(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, "/w", Options{Sync: SyncInterval, SyncInterval: time.Millisecond})
	commit(t, l, "one")
	deadline := time.Now().Add(10 * time.Second)
	for {
		c := mem.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.DropUnsynced)
		k := open(t, c, "/w", Options{})
		got, _ := replay(t, k)
		shut(t, k)
		if len(got) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not synced within 10 s at an interval of 1 ms")
		}
	}
	shut(t, l)
	l = open(t, mem, "/w", Options{Sync: SyncNever})
	commit(t, l, "two")
	shut(t, l) // a clean end syncs in any mode
	l = open(t, mem.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.DropUnsynced), "/w", Options{})
	defer shut(t, l)
	if got, _ := replay(t, l); len(got) != 2 {
		t.Fatalf("%d records after a clean end", len(got))
	}
}

func FuzzSegment(f *testing.F) {
	whole, ends := written(f)
	f.Add(whole)
	f.Add(whole[:ends[2]+5])
	mut := bytes.Clone(whole)
	mut[ends[1]+3] ^= 8
	f.Add(mut)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, _, l := reopen(t, data)
		last := LSN(0)
		for _, r := range got {
			if r.lsn <= last {
				t.Fatal("numbers out of order")
			}
			last = r.lsn
		}
		if lsn := commit(t, l, "next"); lsn <= last {
			t.Fatal("number used twice")
		}
		shut(t, l)
	})
}

func BenchmarkAppendCommit(b *testing.B) {
	for _, mode := range []string{"always", "never"} {
		b.Run(mode, func(b *testing.B) {
			m, _ := ParseSyncMode(mode)
			l := open(b, vfs.OS, b.TempDir(), Options{Sync: m})
			defer l.Close()
			p := make([]byte, 300<<10)
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					seg := l.CurrentSegment()
					for {
						tk, cur, err := l.Append(seg, p)
						if errors.Is(err, ErrSegment) {
							seg = cur
							continue
						}
						if err == nil {
							err = tk.Wait(context.Background())
						}
						if err != nil {
							b.Error(err)
						}
						break
					}
				}
				if l.Size() > 512<<20 {
					l.Truncate(l.Next())
				}
			})
		})
	}
}

func BenchmarkReplay(b *testing.B) {
	fsys, dir := vfs.OS, b.TempDir()
	l := open(b, fsys, dir, Options{Sync: SyncNever})
	p := string(make([]byte, 300<<10))
	for range 500 {
		commit(b, l, p)
	}
	size := l.Size()
	shut(b, l)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		l := open(b, fsys, dir, Options{})
		replay(b, l)
		shut(b, l)
	}
}
