package storage

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/internal/vfs"
)

const diskDir = "/data/index-cache"

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func openTestDisk(fsys vfs.FS, maxBytes int64, c *clock) (*diskCache, *metrics) {
	m := newMetrics(nil)
	return openDisk(fsys, diskDir, maxBytes, c.now, slog.New(slog.DiscardHandler), m), m
}

func newClock() *clock { return &clock{time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)} }

func fileOf(key string) []byte { return bytes.Repeat([]byte(key+"|"), 1000/(len(key)+1)) }

// has returns which of a..z the cache has, and checks what it returns.
func has(t testing.TB, d *diskCache) string {
	t.Helper()
	out := ""
	for c := 'a'; c <= 'z'; c++ {
		d.mu.Lock()
		_, ok := d.files[string(c)]
		d.mu.Unlock()
		if !ok {
			continue
		}
		if b, ok := d.get(string(c)); !ok || !bytes.Equal(b, fileOf(string(c))) {
			t.Fatalf("%c: %v, %d bytes", c, ok, len(b))
		}
		out += string(c)
	}
	return out
}

// stored returns the bytes of all files in the folder, and how many there are.
func stored(t testing.TB, fsys vfs.FS) (total int64, n int) {
	t.Helper()
	es, err := fsys.ReadDir(diskDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total, len(es)
}

// TestDiskLRU: within the budget, those not used for longest go first, and a
// new process knows what was used.
func TestDiskLRU(t *testing.T) {
	fsys, c := vfs.NewMem(), newClock()
	d, _ := openTestDisk(fsys, 5500, c)
	for i := range 5 {
		d.put(string(rune('a'+i)), fileOf(string(rune('a'+i))))
		c.t = c.t.Add(time.Hour)
	}
	d.get("a")
	c.t = c.t.Add(time.Hour)
	d.put("f", fileOf("f")) // b goes
	if got := has(t, d); got != "acdef" {
		t.Fatalf("%s are kept", got)
	}
	c.t = c.t.Add(time.Hour)
	d.get("c")
	if total, n := stored(t, fsys); total != d.used || n != 5 || total > 5500 {
		t.Fatalf("%d files with %d bytes, counted %d", n, total, d.used)
	}
	d, m := openTestDisk(fsys, 3300, c) // a smaller budget: three are left
	if got := has(t, d); !strings.Contains(got, "c") || len(got) != 3 {
		t.Fatalf("%s are kept after a restart", got)
	}
	if n := testutil.ToFloat64(m.diskErrors); n != 0 {
		t.Fatalf("%v errors", n)
	}
	d.put("huge", make([]byte, 4000))
	if _, ok := d.get("huge"); ok || len(has(t, d)) != 3 {
		t.Fatal("a file above the budget is kept, or drives others out")
	}
}

// TestDiskRestartOrder: the last use is on disk.
func TestDiskRestartOrder(t *testing.T) {
	fsys, c := vfs.NewMem(), newClock()
	d, _ := openTestDisk(fsys, 1<<20, c)
	for _, key := range []string{"a", "b", "c"} {
		d.put(key, fileOf(key))
		c.t = c.t.Add(time.Hour)
	}
	d.get("a")
	d, _ = openTestDisk(fsys, 2200, c)
	if got := has(t, d); got != "ac" {
		t.Fatalf("%s are kept, want a, which was used last, and c", got)
	}
}

// TestDiskDamage spoils files in every way: what is wrong is never returned,
// and makes room for a good copy, after a restart or without.
func TestDiskDamage(t *testing.T) {
	name := filepath.Join(diskDir, diskName("a"))
	write := func(fsys vfs.FS, name string, b []byte) {
		f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	good := append(appendDiskHeader(nil, "a", fileOf("a"), time.Unix(1, 0)), fileOf("a")...)
	f := func(what string, damage func(fsys vfs.FS)) {
		t.Helper()
		for _, restart := range []bool{false, true} {
			fsys, c := vfs.NewMem(), newClock()
			d, m := openTestDisk(fsys, 1<<20, c)
			d.put("a", fileOf("a"))
			damage(fsys)
			if restart {
				d, m = openTestDisk(fsys, 1<<20, c)
			}
			if b, ok := d.get("a"); ok {
				t.Errorf("%s, restart %v: %d bytes are returned", what, restart, len(b))
			}
			if n := testutil.ToFloat64(m.diskErrors); n == 0 && what != "gone" {
				t.Errorf("%s, restart %v: not counted", what, restart)
			}
			d.put("a", fileOf("a"))
			if got := has(t, d); got != "a" {
				t.Errorf("%s, restart %v: not replaced", what, restart)
			}
			if total, n := stored(t, fsys); n != 1 || total != d.used {
				t.Errorf("%s, restart %v: %d files, %d bytes, counted %d", what, restart, n, total, d.used)
			}
		}
	}
	for _, n := range []int{0, 1, diskFixed, len(good) - len(fileOf("a")), len(good) - 1} {
		f(fmt.Sprint("cut to ", n), func(fsys vfs.FS) { write(fsys, name, good[:n]) })
	}
	for _, at := range []int{0, 13, 20, 24, 28, 29, 500, len(good) - 1} {
		f(fmt.Sprint("flipped at ", at), func(fsys vfs.FS) {
			b := bytes.Clone(good)
			b[at] ^= 0x10
			write(fsys, name, b)
		})
	}
	f("longer", func(fsys vfs.FS) { write(fsys, name, append(bytes.Clone(good), 'x')) })
	f("of another key", func(fsys vfs.FS) {
		write(fsys, name, append(appendDiskHeader(nil, "b", fileOf("a"), time.Unix(1, 0)), fileOf("a")...))
	})
	f("gone", func(fsys vfs.FS) {
		if err := fsys.Remove(name); err != nil {
			t.Fatal(err)
		}
	})

	// What a killed process leaves.
	fsys := vfs.NewMem()
	d, _ := openTestDisk(fsys, 1<<20, newClock())
	d.put("a", fileOf("a"))
	write(fsys, filepath.Join(diskDir, "7"+tempSuffix), []byte("half a file"))
	d, _ = openTestDisk(fsys, 1<<20, newClock())
	if _, n := stored(t, fsys); n != 1 || has(t, d) != "a" {
		t.Errorf("%d files are left beside a temporary one", n)
	}
}

// TestDiskPowerLoss loses what was not synced, at random.
func TestDiskPowerLoss(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		mem, c := vfs.NewMem(), newClock()
		d, _ := openTestDisk(mem, 1<<20, c)
		for _, key := range []string{"a", "b", "c", "d"} {
			d.put(key, fileOf(key))
		}
		d, _ = openTestDisk(mem.CrashClone(rng, vfs.KeepRandom), 1<<20, c)
		for _, key := range []string{"a", "b", "c", "d"} {
			if b, ok := d.get(key); ok && !bytes.Equal(b, fileOf(key)) {
				t.Fatalf("%s: %q", key, b)
			}
			d.put(key, fileOf(key))
		}
		if got := has(t, d); got != "abcd" {
			t.Fatalf("%s are kept after the crash", got)
		}
	}
}

// TestDiskFaults: a disk that fails costs the copy, nothing else.
func TestDiskFaults(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpCreate, vfs.OpWrite, vfs.OpClose, vfs.OpRename} {
		failing := false
		fault := vfs.Fault(vfs.NewMem(), func(o vfs.Op, _ string) error {
			switch {
			case failing && o == op && op == vfs.OpWrite:
				return vfs.ShortWrite(5, syscall.ENOSPC)
			case failing && o == op:
				return syscall.ENOSPC
			}
			return nil
		})
		d, m := openTestDisk(fault, 1<<20, newClock())
		failing = true
		d.put("a", fileOf("a"))
		if _, ok := d.get("a"); ok || testutil.ToFloat64(m.diskErrors) != 1 || d.used != 0 {
			t.Errorf("%v fails: found: %v, %v errors, %d bytes", op, ok, testutil.ToFloat64(m.diskErrors), d.used)
		}
		failing = false
		if _, n := stored(t, fault); n != 0 {
			t.Errorf("%v fails: %d files are left", op, n)
		}
		d.put("a", fileOf("a"))
		if has(t, d) != "a" {
			t.Errorf("%v works again: not kept", op)
		}
	}
}

// TestDiskSpace: the last tenth of the volume is for others.
func TestDiskSpace(t *testing.T) {
	fsys := vfs.NewMem()
	fsys.SetCapacity(100 << 10)
	d, _ := openTestDisk(fsys, 1<<30, newClock())
	for c := 'a'; c <= 'z'; c++ {
		d.put(string(c), bytes.Repeat([]byte{byte(c)}, 8000))
	}
	free, total, err := fsys.Free(diskDir)
	if err != nil || free < total/keepFree {
		t.Fatalf("%d of %d bytes are free, %v", free, total, err)
	}
	if _, n := stored(t, fsys); n < 8 {
		t.Fatalf("only %d files are kept", n)
	}
}

// TestDiskCannotOpen: a folder that cannot be made leaves a store without one.
func TestDiskCannotOpen(t *testing.T) {
	var log bytes.Buffer
	b := openBucket(t, vfs.NewMem(), "/objects")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := New(b, DefaultConfig(), Options{IndexDir: file, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if s.disk != nil || !strings.Contains(log.String(), "not kept on local disk") {
		t.Fatalf("log: %s", &log)
	}
	putIndex(t, s, "t", putChunk(t, s, "t", `{a="b"}`, entry{5, "x", ""}))
	if got := selectAll(t, s, "t", 0, day); got != `{a="b"} x` {
		t.Fatal(got)
	}
}

// TestIndexOnDisk: a new process finds index files on disk, and a file there
// that is no index is fetched.
func TestIndexOnDisk(t *testing.T) {
	b := openBucket(t, vfs.NewMem(), "/objects")
	local := vfs.NewMem()
	store := func() *Store { return New(b, DefaultConfig(), Options{FS: local, IndexDir: diskDir}) }
	s := store()
	for i := range 3 {
		putIndex(t, s, "t", putChunk(t, s, "t", `{a="b"}`, entry{int64(i) * 10e6, fmt.Sprint(i), ""}))
	}
	indexGets := func(s *Store) int {
		t.Helper()
		clear(b.gets)
		if got := selectAll(t, s, "t", 0, day); got != `{a="b"} 0 1 2` {
			t.Fatal(got)
		}
		n := 0
		for key := range b.gets {
			if strings.HasPrefix(key, indexDir) {
				n++
			}
		}
		return n
	}
	if n := indexGets(s); n != 3 {
		t.Fatalf("%d index files were fetched", n)
	}
	if n := indexGets(store()); n != 0 {
		t.Fatalf("%d index files were fetched after a restart", n)
	}
	s = store()
	for key := range s.disk.files {
		s.disk.remove(key)
		s.disk.put(key, []byte("no index"))
		break
	}
	if n := indexGets(s); n != 1 {
		t.Fatalf("%d index files were fetched for one that is none", n)
	}
	if n := indexGets(store()); n != 0 {
		t.Fatalf("%d index files were fetched after that", n)
	}
}

func FuzzDiskHeader(f *testing.F) {
	f.Add(appendDiskHeader(nil, "index/index_1/t/5-compactor-1-2-ab.tsdb.gz", []byte("x"), time.Unix(1, 0)))
	f.Add(append(appendDiskHeader(nil, "", nil, time.Unix(0, 0)), "content"...))
	f.Add([]byte("LDX1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseDiskHeader(b)
		if err != nil {
			return
		}
		if h.size > len(b) || h.length < 0 || len(h.key) > maxDiskKey {
			t.Fatalf("%+v of %d bytes", h, len(b))
		}
		rest := b[h.size:]
		if again, err := parseDiskHeader(appendDiskHeader(nil, h.key, rest, h.used)); err != nil || again.key != h.key || again.length != int64(len(rest)) {
			t.Fatalf("%+v, %v", again, err)
		}
	})
}
