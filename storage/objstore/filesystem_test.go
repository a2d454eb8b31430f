package objstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/objstoretest"
)

// script logs operations with paths relative to root, and fails when told to.
type script struct {
	mu   sync.Mutex
	root string
	ops  []string
	fail func(op vfs.Op, path string) error
}

func (s *script) hook(op vfs.Op, path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rel, err := filepath.Rel(s.root, path)
	if err != nil {
		return err
	}
	if strings.HasPrefix(rel, ".loki-go-tmp") {
		rel = "temp"
	}
	s.ops = append(s.ops, string(op)+" "+rel)
	if s.fail != nil {
		return s.fail(op, rel)
	}
	return nil
}

func openBucket(t *testing.T, fsys vfs.FS, root string) *objstore.Filesystem {
	t.Helper()
	b, err := objstore.OpenFilesystem(fsys, root)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFilesystem(t *testing.T) {
	for name, fsys := range map[string]func() vfs.FS{
		"disk":   func() vfs.FS { return vfs.OS },
		"memory": func() vfs.FS { return vfs.NewMem() },
	} {
		t.Run(name, func(t *testing.T) {
			objstoretest.AcceptanceTest(t, func(t *testing.T) objstore.Bucket {
				b := openBucket(t, fsys(), filepath.Join(t.TempDir(), "objects"))
				t.Cleanup(func() {
					if err := b.Close(); err != nil {
						t.Error(err)
					}
				})
				return b
			})
		})
	}
}

// TestOrder checks that nothing is visible before it is durable, and that Put
// returns when all is.
func TestOrder(t *testing.T) {
	root := t.TempDir()
	s := &script{root: root}
	b := openBucket(t, vfs.Fault(vfs.OS, s.hook), root)
	put := func(key string, want ...string) {
		t.Helper()
		s.ops = nil
		if err := b.Put(t.Context(), key, []byte("x")); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, op := range s.ops {
			switch verb, _, _ := strings.Cut(op, " "); verb {
			case "create", "write", "sync", "mkdirall", "syncdir":
				got = append(got, op)
			case "rename":
				got = append(got, verb)
			}
		}
		want = append([]string{"create temp", "write temp", "sync temp"}, want...)
		if !slices.Equal(got, want) {
			t.Fatalf("put %s: %q, want %q", key, got, want)
		}
	}
	// MkdirAll makes durable what it makes, but not what it finds.
	put("a/b/c", "mkdirall a/b", "rename", "syncdir a/b")
	put("a/b/d", "rename", "syncdir a/b")
	put("a/e/f", "mkdirall a/e", "rename", "syncdir a/e")
	if err := os.Mkdir(filepath.Join(root, "h"), 0o755); err != nil {
		t.Fatal(err)
	}
	put("h/i/j", "mkdirall h/i", "syncdir .", "rename", "syncdir h/i")
	put("g", "rename", "syncdir .")
	// Another process may remove folders.
	if err := os.RemoveAll(filepath.Join(root, "a")); err != nil {
		t.Fatal(err)
	}
	put("a/b/c", "rename", "mkdirall a/b", "rename", "syncdir a/b")
}

// TestFaults lets every operation of a Put fail in turn: the old object stays,
// no temporary file does, and the next Put works.
func TestFaults(t *testing.T) {
	root := t.TempDir()
	s := &script{root: root}
	b := openBucket(t, vfs.Fault(vfs.OS, s.hook), root)
	old, body := []byte("old"), bytes.Repeat([]byte("new"), 1000)
	if err := os.Mkdir(filepath.Join(root, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.ops = nil
	if err := b.Put(t.Context(), "x/y", old); err != nil {
		t.Fatal(err)
	}
	count := len(s.ops)
	for n := range count {
		key := fmt.Sprintf("x%d/y", n)
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(key)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, key), old, 0o644); err != nil {
			t.Fatal(err)
		}
		k := 0
		s.fail = func(op vfs.Op, path string) error {
			if k++; k != n+1 {
				return nil
			}
			err := fmt.Errorf("%s %s: %w", op, path, syscall.ENOSPC)
			if op == vfs.OpWrite {
				return vfs.ShortWrite(100, err)
			}
			return err
		}
		err := b.Put(t.Context(), key, body)
		s.fail = nil
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), key) {
			t.Fatalf("operation %d of %d fails: %v", n, count, err)
		}
		got, err := b.Get(t.Context(), key)
		last := n == count-1 // renamed already
		if err != nil || bytes.Equal(got, body) != last || bytes.Equal(got, old) == last {
			t.Fatalf("operation %d of %d failed: object of %d bytes: %v", n, count, len(got), err)
		}
		if err := b.Put(t.Context(), key, body); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(root, ".loki-go-tmp"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v, %v", entries, err)
	}
}

// TestPowerLoss loses power after every operation of two Puts: an object whose
// Put returned is there, any other one is whole or as before.
func TestPowerLoss(t *testing.T) {
	bodies := map[string][]byte{"a/b/old": []byte("old"), "a/b/new": bytes.Repeat([]byte("n"), 10_000), "c/d": bytes.Repeat([]byte("d"), 5000)}
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		mode := vfs.CrashMode(seed % 2)
		mem := vfs.NewMem()
		done := map[string]bool{}
		check := func(when string) {
			t.Helper()
			clone := mem.CrashClone(rng, mode)
			b := openBucket(t, clone, "/objects")
			for key, body := range bodies {
				got, err := b.Get(t.Context(), key)
				if objstore.IsNotFound(err) && !done[key] {
					continue
				}
				if err != nil || !bytes.Equal(got, body) {
					t.Fatalf("seed %d, %s: %s has %d bytes of %d: %v", seed, when, key, len(got), len(body), err)
				}
			}
			keys, err := b.List(t.Context(), "", true)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range keys {
				if bodies[k] == nil {
					t.Fatalf("seed %d, %s: unknown object %s", seed, when, k)
				}
			}
			if left, err := clone.ReadDir("/objects/.loki-go-tmp"); err != nil || len(left) > 1 {
				t.Fatalf("seed %d, %s: unfinished objects stay: %v, %v", seed, when, left, err)
			}
		}
		b := openBucket(t, vfs.Fault(mem, func(op vfs.Op, path string) error {
			check("before " + string(op))
			return nil
		}), "/objects")
		for _, key := range []string{"a/b/old", "a/b/new", "c/d"} {
			if err := b.Put(t.Context(), key, bodies[key]); err != nil {
				t.Fatal(err)
			}
			done[key] = true
			check("after put")
		}
	}
}

func TestLeftovers(t *testing.T) {
	root := t.TempDir()
	alive := openBucket(t, vfs.OS, root)
	temp := filepath.Join(root, ".loki-go-tmp")
	own, err := os.ReadDir(temp)
	if err != nil || len(own) != 1 {
		t.Fatalf("%v, %v", own, err)
	}
	id := strings.TrimSuffix(own[0].Name(), ".lock")
	for _, name := range []string{"1.lock", "1.1", "1.27", "2.3", id + ".5"} {
		if err := os.WriteFile(filepath.Join(temp, name), []byte("half"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	second := openBucket(t, vfs.OS, root)
	entries, err := os.ReadDir(temp)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if err != nil || len(names) != 3 || !slices.Contains(names, id+".5") || !slices.Contains(names, id+".lock") {
		t.Fatalf("left in the folder of temporary files: %v, %v", names, err)
	}
	if err := errors.Join(alive.Put(t.Context(), "a", nil), second.Put(t.Context(), "b", nil)); err != nil {
		t.Fatal(err)
	}
	keys, err := second.List(t.Context(), "", true)
	if err != nil || !slices.Equal(keys, []string{"a", "b"}) {
		t.Fatalf("%v, %v", keys, err)
	}
	for _, key := range []string{".loki-go-tmp", ".loki-go-tmp/" + id + ".5"} {
		if _, err := second.Get(t.Context(), key); err == nil || objstore.IsNotFound(err) {
			t.Fatalf("get %s: %v", key, err)
		}
		if err := second.Put(t.Context(), key, nil); err == nil {
			t.Fatalf("put %s: no error", key)
		}
	}
	if err := errors.Join(alive.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	third := openBucket(t, vfs.OS, root)
	if entries, err := os.ReadDir(temp); err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenErrors(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := objstore.OpenFilesystem(vfs.OS, filepath.Join(root, "file")); err == nil {
		t.Fatal("a file as root: no error")
	}
	if err := os.MkdirAll(filepath.Join(root, ".loki-go-tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, ".loki-go-tmp", "1.1"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := &script{root: root, fail: func(op vfs.Op, path string) error { return syscall.EIO }}
	if _, err := objstore.OpenFilesystem(vfs.Fault(vfs.OS, s.hook), root); !errors.Is(err, syscall.EIO) {
		t.Fatalf("removing fails: %v", err)
	}
}

func FuzzCheckKey(f *testing.F) {
	for _, s := range []string{"a", "a/b", "../a", "a/../../b", "/", "a//b", "\x00", `..\a`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if objstore.CheckKey(key) != nil {
			return
		}
		if !filepath.IsLocal(key) || filepath.Clean(key) != key {
			t.Fatalf("%q is accepted", key)
		}
		if err := objstore.CheckPrefix(key); err != nil {
			t.Fatalf("%q is a key and no prefix: %v", key, err)
		}
	})
}

func BenchmarkPut(b *testing.B) {
	root := b.TempDir()
	bucket, err := objstore.OpenFilesystem(vfs.OS, root)
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 1<<20)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := bucket.Put(b.Context(), "tenant/1372f89b3ccb0f15/object", body); err != nil {
			b.Fatal(err)
		}
	}
}
