package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// layers calls fn for every implementation with an empty directory.
func layers(t *testing.T, fn func(t *testing.T, fsys FS, dir string)) {
	pass := func(Op, string) error { return nil }
	mem := func(t *testing.T) (*Mem, string) {
		m := NewMem()
		if err := m.MkdirAll("/base/dir", 0o755); err != nil {
			t.Fatal(err)
		}
		return m, "/base/dir"
	}
	t.Run("os", func(t *testing.T) { fn(t, OS, t.TempDir()) })
	t.Run("mem", func(t *testing.T) { m, dir := mem(t); fn(t, m, dir) })
	t.Run("fault over mem", func(t *testing.T) { m, dir := mem(t); fn(t, Fault(m, pass), dir) })
	t.Run("fault over os", func(t *testing.T) { fn(t, Fault(OS, pass), t.TempDir()) })
}

func create(t *testing.T, fsys FS, name string, content string) File {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t *testing.T, fsys FS, name, content string) {
	t.Helper()
	do(t, create(t, fsys, name, content).Close())
}

func read(t *testing.T, fsys FS, name string) string {
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
	return string(b)
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func names(t *testing.T, fsys FS, dir string) string {
	t.Helper()
	list, err := fsys.ReadDir(dir)
	do(t, err)
	s := ""
	for _, e := range list {
		s += e.Name()
		if e.IsDir() {
			s += "/"
		}
		s += " "
	}
	return s
}

// TestAcceptance is what every layer has to do alike.
func TestAcceptance(t *testing.T) {
	tests := map[string]func(t *testing.T, fsys FS, dir string){
		"write and read": func(t *testing.T, fsys FS, dir string) {
			name := filepath.Join(dir, "a")
			f := create(t, fsys, name, "hello world")
			if _, err := f.WriteAt([]byte("WORLD, far away"), 6); err != nil {
				t.Fatal(err)
			}
			p := make([]byte, 5)
			if n, err := f.ReadAt(p, 6); n != 5 || err != nil || string(p) != "WORLD" {
				t.Fatalf("ReadAt: %d %v %q", n, err, p)
			}
			if n, err := f.ReadAt(p, 18); n != 3 || err != io.EOF {
				t.Fatalf("ReadAt at the end: %d %v", n, err)
			}
			if off, err := f.Seek(-4, io.SeekEnd); off != 17 || err != nil {
				t.Fatalf("Seek: %d %v", off, err)
			}
			if n, err := f.Read(p); n != 4 || err != nil || string(p[:4]) != "away" {
				t.Fatalf("Read: %d %v %q", n, err, p)
			}
			if _, err := f.Read(p); err != io.EOF {
				t.Fatalf("Read at the end: %v", err)
			}
			if f.Name() != name {
				t.Fatalf("Name: %q", f.Name())
			}
			do(t, f.Sync())
			do(t, f.Datasync())
			do(t, f.Close())
			if _, err := f.Write(p); !errors.Is(err, fs.ErrClosed) {
				t.Fatalf("Write after Close: %v", err)
			}
			if got := read(t, fsys, name); got != "hello WORLD, far away" {
				t.Fatalf("read %q", got)
			}
		},
		"open flags": func(t *testing.T, fsys FS, dir string) {
			name := filepath.Join(dir, "a")
			_, err := fsys.OpenFile(name, os.O_RDWR, 0)
			wantErr(t, err, fs.ErrNotExist)
			write(t, fsys, name, "abc")
			_, err = fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
			wantErr(t, err, fs.ErrExist)
			f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
			do(t, err)
			_, err = f.Write([]byte("def"))
			do(t, err)
			if _, err := f.Read(make([]byte, 1)); err == nil {
				t.Fatal("read from a write-only file")
			}
			do(t, f.Close())
			if got := read(t, fsys, name); got != "abcdef" {
				t.Fatalf("read %q", got)
			}
			f, err = fsys.OpenFile(name, os.O_RDWR|os.O_TRUNC, 0)
			do(t, err)
			do(t, f.Close())
			if got := read(t, fsys, name); got != "" {
				t.Fatalf("read %q after O_TRUNC", got)
			}
			f, err = fsys.OpenFile(name, os.O_RDONLY, 0)
			do(t, err)
			if _, err := f.Write([]byte("x")); err == nil {
				t.Fatal("wrote to a read-only file")
			}
			do(t, f.Close())
		},
		"rename and remove": func(t *testing.T, fsys FS, dir string) {
			a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
			write(t, fsys, a, "A")
			write(t, fsys, b, "B")
			old, err := fsys.OpenFile(b, os.O_RDONLY, 0)
			do(t, err)
			do(t, fsys.Rename(a, b))
			if got := read(t, fsys, b); got != "A" {
				t.Fatalf("b is %q", got)
			}
			p := make([]byte, 1)
			if _, err := old.ReadAt(p, 0); err != nil || p[0] != 'B' {
				t.Fatalf("a file that was replaced reads as %q, %v to who has it open", p, err)
			}
			do(t, old.Close())
			wantErr(t, fsys.Rename(a, c), fs.ErrNotExist)
			do(t, fsys.SyncDir(dir))
			if got := names(t, fsys, dir); got != "b " {
				t.Fatalf("files %q", got)
			}
			f, err := fsys.OpenFile(b, os.O_RDONLY, 0)
			do(t, err)
			do(t, fsys.Remove(b))
			if _, err := f.ReadAt(p, 0); err != nil || p[0] != 'A' {
				t.Fatalf("a file that was removed reads as %q, %v to who has it open", p, err)
			}
			do(t, f.Close())
			wantErr(t, fsys.Remove(b), fs.ErrNotExist)
			_, err = fsys.Stat(b)
			wantErr(t, err, fs.ErrNotExist)
		},
		"directories": func(t *testing.T, fsys FS, dir string) {
			deep := filepath.Join(dir, "x", "y", "z")
			do(t, fsys.MkdirAll(deep, 0o755))
			do(t, fsys.MkdirAll(deep, 0o755))
			write(t, fsys, filepath.Join(deep, "f"), "1234")
			if got := names(t, fsys, filepath.Join(dir, "x", "y")); got != "z/ " {
				t.Fatalf("directory %q", got)
			}
			info, err := fsys.Stat(filepath.Join(deep, "f"))
			do(t, err)
			if info.Size() != 4 || info.IsDir() || info.Name() != "f" || info.ModTime().IsZero() {
				t.Fatalf("file info %v", info)
			}
			if info, err := fsys.Stat(deep); err != nil || !info.IsDir() {
				t.Fatalf("directory info %v %v", info, err)
			}
			if err := fsys.MkdirAll(filepath.Join(deep, "f", "g"), 0o755); !errors.Is(err, syscall.ENOTDIR) {
				t.Fatalf("directory in a file: %v", err)
			}
			wantErr(t, fsys.Remove(deep), syscall.ENOTEMPTY)
			do(t, fsys.Remove(filepath.Join(deep, "f")))
			do(t, fsys.Remove(deep))
			_, err = fsys.ReadDir(deep)
			wantErr(t, err, fs.ErrNotExist)
			wantErr(t, fsys.SyncDir(deep), fs.ErrNotExist)
			_, err = fsys.OpenFile(filepath.Join(deep, "f"), os.O_RDWR|os.O_CREATE, 0o644)
			wantErr(t, err, fs.ErrNotExist)
		},
		"truncate and preallocate": func(t *testing.T, fsys FS, dir string) {
			name := filepath.Join(dir, "a")
			f := create(t, fsys, name, "0123456789")
			do(t, f.Truncate(4))
			do(t, f.Truncate(8))
			if got := read(t, fsys, name); got != "0123\x00\x00\x00\x00" {
				t.Fatalf("after truncations %q", got)
			}
			do(t, f.Preallocate(2, 20000))
			info, err := f.Stat()
			do(t, err)
			if info.Size() != 20002 {
				t.Fatalf("size %d", info.Size())
			}
			if got := read(t, fsys, name); got != "0123"+string(make([]byte, 19998)) {
				t.Fatal("preallocation changed the content")
			}
			_, err = f.WriteAt([]byte("x"), 20001)
			do(t, err)
			if info, _ := f.Stat(); info.Size() != 20002 {
				t.Fatalf("size %d after a write into preallocated space", info.Size())
			}
			do(t, f.Close())
		},
		"locks": func(t *testing.T, fsys FS, dir string) {
			name := filepath.Join(dir, "LOCK")
			l, err := fsys.Lock(name)
			do(t, err)
			_, err = fsys.Lock(name)
			wantErr(t, err, ErrLocked)
			do(t, l.Close())
			l, err = fsys.Lock(name)
			do(t, err)
			do(t, l.Close())
		},
		"free space": func(t *testing.T, fsys FS, dir string) {
			free, total, err := fsys.Free(dir)
			if err != nil || free == 0 || total < free {
				t.Fatalf("free %d of %d, %v", free, total, err)
			}
		},
		"random writes": func(t *testing.T, fsys FS, dir string) {
			rng := rand.New(rand.NewPCG(1, 1))
			f := create(t, fsys, filepath.Join(dir, "a"), "")
			var want []byte
			for range 300 {
				p := make([]byte, rng.IntN(9000))
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				off := rng.IntN(30000)
				switch rng.IntN(6) {
				case 0:
					do(t, f.Truncate(int64(off)))
					want = append(want, make([]byte, max(0, off-len(want)))...)[:off]
				case 1:
					do(t, f.Datasync())
				default:
					_, err := f.WriteAt(p, int64(off))
					do(t, err)
					if len(p) > 0 {
						want = append(want, make([]byte, max(0, off+len(p)-len(want)))...)
						copy(want[off:], p)
					}
				}
				got := make([]byte, len(want))
				if n, err := f.ReadAt(got, 0); n != len(want) || err != nil && err != io.EOF {
					t.Fatalf("read %d of %d: %v", n, len(want), err)
				}
				if !bytes.Equal(got, want) {
					t.Fatal("content differs")
				}
			}
			do(t, f.Close())
		},
	}
	for name, fn := range tests {
		t.Run(name, func(t *testing.T) { layers(t, fn) })
	}
}

func clone(m *Mem, mode CrashMode, seed uint64) *Mem {
	return m.CrashClone(rand.New(rand.NewPCG(seed, 0)), mode)
}

func TestMkdirAndSyncAll(t *testing.T) {
	for name, fsys := range map[string]FS{"os": OS, "mem": NewMem(), "fault": Fault(NewMem(), func(Op, string) error { return nil })} {
		dir := filepath.Join(t.TempDir(), "x")
		do(t, fsys.MkdirAll(dir, 0o755))
		sub := filepath.Join(dir, "sub")
		do(t, fsys.Mkdir(sub, 0o755))
		if err := fsys.Mkdir(sub, 0o755); !errors.Is(err, fs.ErrExist) {
			t.Fatalf("%s: again: %v", name, err)
		}
		if err := fsys.Mkdir(filepath.Join(dir, "no", "parent"), 0o755); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: without a parent: %v", name, err)
		}
		write(t, fsys, filepath.Join(sub, "f"), "content")
		do(t, fsys.SyncAll(dir))
		if err := fsys.SyncAll(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: SyncAll of what is not there: %v", name, err)
		}
		if got := read(t, fsys, filepath.Join(sub, "f")); got != "content" {
			t.Fatalf("%s: read %q", name, got)
		}
	}
	m := NewMem()
	do(t, m.MkdirAll("/d", 0o755))
	do(t, m.Mkdir("/d/kept", 0o755))
	write(t, m, "/d/kept/f", "1")
	do(t, m.SyncAll("/"))
	do(t, m.Mkdir("/d/lost", 0o755))
	write(t, m, "/d/kept/g", "2")
	c := clone(m, DropUnsynced, 1)
	if got := names(t, c, "/d") + names(t, c, "/d/kept") + read(t, c, "/d/kept/f"); got != "kept/ f 1" {
		t.Fatalf("after a crash: %q", got)
	}
}

func TestCrashDropsWhatWasNotSynced(t *testing.T) {
	m := NewMem()
	do(t, m.MkdirAll("/d", 0o755))
	f := create(t, m, "/d/data", "synced")
	do(t, f.Datasync())
	write(t, m, "/d/renamed", "R")
	write(t, m, "/d/removed", "X")
	do(t, m.SyncDir("/d"))
	_, err := f.WriteAt([]byte("UNSYNCED, longer"), 0)
	do(t, err)
	do(t, m.Rename("/d/renamed", "/d/new name"))
	do(t, m.Remove("/d/removed"))
	write(t, m, "/d/created", "C")
	_, err = m.Lock("/d/LOCK")
	do(t, err)

	c := clone(m, DropUnsynced, 1)
	if got := names(t, c, "/d"); got != "data removed renamed " {
		t.Fatalf("files %q", got)
	}
	if got := read(t, c, "/d/data"); got != "synced" {
		t.Fatalf("data %q", got)
	}
	if got := read(t, c, "/d/renamed"); got != "" {
		t.Fatalf("content that was never synced: %q", got)
	}
	if _, err := c.Lock("/d/LOCK"); err != nil {
		t.Fatalf("lock of a dead process: %v", err)
	}

	do(t, f.Datasync())
	do(t, m.SyncDir("/d"))
	c = clone(m, DropUnsynced, 1)
	if got := names(t, c, "/d"); got != "LOCK created data new name " {
		t.Fatalf("files %q", got)
	}
	if got := read(t, c, "/d/data"); got != "UNSYNCED, longer" {
		t.Fatalf("data %q", got)
	}
	// A clone and what it came from are apart.
	write(t, c, "/d/data", "clone")
	if got := read(t, m, "/d/data"); got != "UNSYNCED, longer" {
		t.Fatalf("writing to a clone changed the original to %q", got)
	}
	_, err = f.WriteAt([]byte("original"), 0)
	do(t, err)
	if got := read(t, c, "/d/data"); got != "cloneCED, longer" {
		t.Fatalf("writing to the original changed the clone to %q", got)
	}
}

// TestCrashKeepsAnySubset counts the outcomes of a crash: each page, the size
// and each directory operation has to be seen lost and kept, in all
// combinations.
func TestCrashKeepsAnySubset(t *testing.T) {
	m := NewMem()
	old, cur := bytes.Repeat([]byte("o"), 2*pageSize), bytes.Repeat([]byte("n"), 2*pageSize)
	f := create(t, m, "/data", string(old))
	do(t, f.Sync())
	write(t, m, "/gone", "")
	do(t, m.SyncDir("/"))
	_, err := f.WriteAt(cur, 0)
	do(t, err)
	_, err = f.WriteAt([]byte("tail"), 2*pageSize)
	do(t, err)
	do(t, m.Remove("/gone"))
	write(t, m, "/new", "")

	seen := map[string]int{}
	for seed := range uint64(2000) {
		c := clone(m, KeepRandom, seed)
		got := read(t, c, "/data")
		for i, p := range []string{got[:pageSize], got[pageSize : 2*pageSize]} {
			if p != string(old[:pageSize]) && p != string(cur[:pageSize]) {
				t.Fatalf("page %d is neither old nor new", i)
			}
		}
		tail := got[2*pageSize:]
		if tail != "" && tail != "tail" && tail != "\x00\x00\x00\x00" {
			t.Fatalf("tail %q", tail)
		}
		seen[fmt.Sprintf("%c%c %q %s", got[0], got[pageSize], tail, names(t, c, "/"))]++
	}
	if len(seen) != 2*2*3*4 {
		t.Fatalf("%d outcomes, want 48: %v", len(seen), seen)
	}
	one, two := read(t, clone(m, KeepRandom, 7), "/data"), read(t, clone(m, KeepRandom, 7), "/data")
	if one != two {
		t.Fatal("one seed, two outcomes")
	}
}

func TestCrashAfterTruncation(t *testing.T) {
	m := NewMem()
	f := create(t, m, "/a", string(bytes.Repeat([]byte("x"), 3*pageSize)))
	do(t, f.Sync())
	do(t, m.SyncDir("/"))
	do(t, f.Truncate(100))
	if got := len(read(t, clone(m, DropUnsynced, 1), "/a")); got != 3*pageSize {
		t.Fatalf("%d bytes: a truncation that was not synced was kept", got)
	}
	do(t, f.Truncate(2*pageSize))
	do(t, f.Sync())
	want := string(bytes.Repeat([]byte("x"), 100)) + string(make([]byte, 2*pageSize-100))
	if got := read(t, clone(m, DropUnsynced, 1), "/a"); got != want {
		t.Fatal("bytes behind a truncation came back")
	}
}

func TestRenameAcrossDirectories(t *testing.T) {
	m := NewMem()
	do(t, m.MkdirAll("/a", 0o755))
	do(t, m.MkdirAll("/b", 0o755))
	f := create(t, m, "/a/f", "1")
	do(t, f.Sync())
	do(t, m.SyncDir("/a"))
	do(t, m.Rename("/a/f", "/b/f"))
	do(t, m.SyncDir("/b"))
	c := clone(m, DropUnsynced, 1)
	if names(t, c, "/a") != "f " || names(t, c, "/b") != "f " {
		t.Fatal("the old name has to stay until its directory is synced")
	}
	do(t, m.SyncDir("/a"))
	c = clone(m, DropUnsynced, 1)
	if names(t, c, "/a") != "" || read(t, c, "/b/f") != "1" {
		t.Fatal("the file did not move")
	}
}

func TestCapacity(t *testing.T) {
	m := NewMem()
	m.SetCapacity(4 * pageSize)
	a := create(t, m, "/a", string(make([]byte, pageSize+1)))
	if got := m.Used(); got != 2*pageSize {
		t.Fatalf("used %d", got)
	}
	n, err := a.WriteAt(make([]byte, 4*pageSize), pageSize)
	if !errors.Is(err, syscall.ENOSPC) || n != 3*pageSize {
		t.Fatalf("wrote %d, %v", n, err)
	}
	if free, total, _ := m.Free("/"); free != 0 || total != 4*pageSize {
		t.Fatalf("free %d of %d", free, total)
	}
	if _, err := a.WriteAt(make([]byte, 2*pageSize), 0); err != nil {
		t.Fatalf("overwriting needs no space: %v", err)
	}
	b := create(t, m, "/b", "")
	wantErr(t, b.Preallocate(0, 1), syscall.ENOSPC)
	do(t, a.Truncate(2*pageSize))
	do(t, b.Preallocate(0, 2*pageSize))
	wantErr(t, a.Preallocate(2*pageSize, 1), syscall.ENOSPC)
	if _, err := b.WriteAt(make([]byte, 2*pageSize), 0); err != nil {
		t.Fatalf("write into preallocated space: %v", err)
	}
	do(t, m.Remove("/a"))
	if got := m.Used(); got != 4*pageSize {
		t.Fatalf("used %d: a file that is open keeps its space", got)
	}
	do(t, a.Close())
	do(t, m.Rename("/b", "/c"))
	write(t, m, "/a", "x")
	do(t, m.Rename("/a", "/c"))
	do(t, b.Close())
	if got := m.Used(); got != pageSize {
		t.Fatalf("used %d in the end", got)
	}
	do(t, m.SyncDir("/"))
	if got := clone(m, KeepRandom, 1).Used(); got > pageSize {
		t.Fatalf("clone uses %d", got)
	}
	m.SetCapacity(0)
	write(t, m, "/a", string(make([]byte, 100*pageSize)))
}

func TestFault(t *testing.T) {
	m := NewMem()
	var decide func(op Op, path string) error
	var seen []string
	fsys := Fault(m, func(op Op, path string) error {
		seen = append(seen, string(op)+" "+path)
		if decide == nil {
			return nil
		}
		return decide(op, path)
	})
	on := func(op Op, err error) {
		decide = func(o Op, _ string) error {
			if o == op {
				return err
			}
			return nil
		}
	}
	f := create(t, fsys, "/a", "12345")
	if len(seen) != 2 || seen[0] != "create /a" || seen[1] != "write /a" {
		t.Fatalf("hook saw %q", seen)
	}

	on(OpWrite, syscall.EIO)
	_, err := f.WriteAt([]byte("x"), 0)
	wantErr(t, err, syscall.EIO)
	var pe *fs.PathError
	if !errors.As(err, &pe) || pe.Path != "/a" {
		t.Fatalf("error %#v has no path", err)
	}
	on(OpWrite, ShortWrite(2, syscall.ENOSPC))
	n, err := f.WriteAt([]byte("abc"), 0)
	wantErr(t, err, syscall.ENOSPC)
	if n != 2 || read(t, m, "/a") != "ab345" {
		t.Fatalf("short write of %d left %q", n, read(t, m, "/a"))
	}
	on(OpWrite, ErrLie)
	if n, err := f.WriteAt([]byte("zzz"), 0); n != 3 || err != nil || read(t, m, "/a") != "ab345" {
		t.Fatalf("lying write: %d, %v, %q", n, err, read(t, m, "/a"))
	}

	on(OpDatasync, ErrLie)
	do(t, f.Datasync())
	do(t, m.SyncDir("/"))
	if got := read(t, clone(m, DropUnsynced, 1), "/a"); got != "" {
		t.Fatalf("a lying sync kept %q", got)
	}
	do(t, f.Sync())
	if got := read(t, clone(m, DropUnsynced, 1), "/a"); got != "ab345" {
		t.Fatalf("an honest sync kept %q", got)
	}

	calls := map[Op]func() error{
		OpOpen:        func() error { _, err := fsys.OpenFile("/a", os.O_RDONLY, 0); return err },
		OpCreate:      func() error { _, err := fsys.OpenFile("/b", os.O_RDWR|os.O_CREATE, 0o644); return err },
		OpRename:      func() error { return fsys.Rename("/a", "/c") },
		OpRemove:      func() error { return fsys.Remove("/a") },
		OpMkdirAll:    func() error { return fsys.MkdirAll("/d", 0o755) },
		OpReadDir:     func() error { _, err := fsys.ReadDir("/"); return err },
		OpStat:        func() error { _, err := fsys.Stat("/a"); return err },
		OpSyncDir:     func() error { return fsys.SyncDir("/") },
		OpFree:        func() error { _, _, err := fsys.Free("/"); return err },
		OpLock:        func() error { _, err := fsys.Lock("/l"); return err },
		OpRead:        func() error { _, err := f.ReadAt(make([]byte, 1), 0); return err },
		OpWrite:       func() error { _, err := f.Write([]byte("x")); return err },
		OpSync:        f.Sync,
		OpDatasync:    f.Datasync,
		OpTruncate:    func() error { return f.Truncate(0) },
		OpPreallocate: func() error { return f.Preallocate(0, 10) },
		OpClose:       f.Close,
	}
	for op, call := range calls {
		if op == OpClose {
			continue
		}
		on(op, syscall.EIO)
		if err := call(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("%s: %v", op, err)
		}
	}
	on(OpClose, syscall.EIO)
	wantErr(t, f.Close(), syscall.EIO)
	if got := names(t, m, "/"); got != "a " || read(t, m, "/a") != "ab345" {
		t.Fatalf("operations that failed changed something: %q %q", got, read(t, m, "/a"))
	}
	decide = nil
	for _, op := range []Op{OpCreate, OpMkdirAll, OpReadDir, OpStat, OpSyncDir, OpFree, OpLock, OpRename, OpOpen, OpRemove} {
		if err := calls[op](); err != nil && op != OpOpen && op != OpRemove { // /a has been renamed
			t.Fatalf("%s: %v", op, err)
		}
	}
}

func TestFillZeros(t *testing.T) {
	m := NewMem()
	m.SetCapacity(1 << 20)
	f := create(t, m, "/a", "head")
	do(t, fillZeros(f, 600<<10))
	if got := read(t, m, "/a"); len(got) != 600<<10 || got[:4] != "head" || got[4:] != string(make([]byte, 600<<10-4)) {
		t.Fatal("content is wrong")
	}
	wantErr(t, fillZeros(f, 2<<20), syscall.ENOSPC)
}

// TestConcurrentUse is for the race detector: handles, names and clones at once.
func TestConcurrentUse(t *testing.T) {
	m := NewMem()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for i := range 200 {
				name := fmt.Sprintf("/f%d", rng.IntN(5))
				f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
				if err != nil {
					t.Error(err)
					return
				}
				f.WriteAt(make([]byte, rng.IntN(10000)), int64(rng.IntN(10000)))
				f.ReadAt(make([]byte, 100), 0)
				if i%3 == 0 {
					f.Sync()
					m.SyncDir("/")
				}
				if i%7 == 0 {
					m.Rename(name, "/g")
				}
				if i%50 == 0 {
					c := m.CrashClone(rng, KeepRandom)
					if _, err := c.ReadDir("/"); err != nil {
						t.Error(err)
					}
				}
				f.Close()
			}
		}()
	}
	wg.Wait()
}
