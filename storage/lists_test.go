package storage

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/objstore"
)

// listCounter counts lists, and can hold them up after they were made.
type listCounter struct {
	objstore.Bucket
	n     int
	after func()
}

func (b *listCounter) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	b.n++
	keys, err := b.Bucket.List(ctx, prefix, recursive)
	if b.after != nil {
		b.after()
	}
	return keys, err
}

func TestListTTL(t *testing.T) {
	b := &listCounter{Bucket: openBucket(t, vfs.NewMem(), "/objects")}
	c := newClock()
	cfg := DefaultConfig()
	cfg.ListTTL = time.Minute
	s, other := New(b, cfg, Options{Now: c.now}), New(b, cfg, Options{Now: c.now})
	n := 0
	put := func(s *Store) {
		n++
		putIndex(t, s, "t", putChunk(t, s, "t", `{a="b"}`, entry{int64(n) * 10e6, fmt.Sprint(n), ""}))
	}
	f := func(what string, want string, lists int) {
		t.Helper()
		b.n = 0
		found, err := s.Select(t.Context(), "t", nil, 0, day)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, x := range found {
			es, err := loadSeries(x)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range es {
				got += e.line
			}
		}
		if got != want || b.n != lists {
			t.Fatalf("%s: found %q with %d lists, want %q with %d", what, got, b.n, want, lists)
		}
	}
	f("an empty table", "", 1)
	put(s)
	f("after a put", "1", 2)
	f("again", "1", 0)
	put(s)
	f("after another", "12", 2)
	put(other)
	c.t = c.t.Add(59 * time.Second)
	f("what others put", "12", 0)
	c.t = c.t.Add(time.Second)
	f("after the time", "123", 2)
	c.t = c.t.Add(-time.Hour)
	f("with the clock turned back", "123", 2)

	// A list that was made before a put and comes back after it is not kept.
	put(other)
	c.t = c.t.Add(time.Hour)
	once := true
	b.after = func() {
		if once {
			once = false
			put(s)
		}
	}
	if _, err := s.LabelSets(t.Context(), "t", nil, 0, day); err != nil {
		t.Fatal(err)
	}
	b.after = nil
	f("after a put during a list", "12345", 1) // the second list was made after it
}

// TestListTTLReplaced: a compactor may replace files that a remembered list
// has.
func TestListTTLReplaced(t *testing.T) {
	b := openBucket(t, vfs.NewMem(), "/objects")
	cfg := DefaultConfig()
	cfg.ListTTL, cfg.IndexCacheSize = time.Hour, 0
	s, other := New(b, cfg, Options{}), New(b, cfg, Options{})
	x := putChunk(t, s, "t", `{a="b"}`, entry{5, "x", ""})
	putIndex(t, s, "t", x)
	if got := selectAll(t, s, "t", 0, day); got != `{a="b"} x` {
		t.Fatal(got)
	}
	old, err := b.List(t.Context(), tenantDir(tableDir(0), "t"), false)
	if err != nil || len(old) != 1 {
		t.Fatal(old, err)
	}
	putIndex(t, other, "t", x)
	if err := b.Delete(t.Context(), old[0]); err != nil {
		t.Fatal(err)
	}
	if got := selectAll(t, s, "t", 0, day); got != `{a="b"} x` {
		t.Fatal(got)
	}
}

// memoryChunks is a ChunkCache.
type memoryChunks struct {
	objects map[chunk.Key][]byte
	gets    int
}

func (c *memoryChunks) Get(_ context.Context, key chunk.Key) ([]byte, bool) {
	c.gets++
	b, ok := c.objects[key]
	return b, ok
}

func (c *memoryChunks) Put(key chunk.Key, object []byte) {
	c.objects[key] = append([]byte(nil), object...)
}

// TestSharedCache: chunks are put there once the object store has them, found
// there first, and replaced if they are wrong.
func TestSharedCache(t *testing.T) {
	shared := &memoryChunks{objects: map[chunk.Key][]byte{}}
	b := openBucket(t, vfs.NewMem(), "/objects")
	store := func() *Store { return New(b, DefaultConfig(), Options{Cache: shared}) }
	s := store()
	b.fail = func(op, _ string) error {
		if op == "put" && len(shared.objects) > 0 {
			t.Error("cached before it was stored")
		}
		return nil
	}
	x := putChunk(t, s, "t", `{a="b"}`, entry{5, "x", ""})
	b.fail = nil
	putIndex(t, s, "t", x)
	c := x.Chunks[0]
	key := chunk.Key{Tenant: "t", Fingerprint: x.Fingerprint, From: c.MinTime, Through: c.MaxTime, Checksum: c.Checksum}
	good := shared.objects[key]
	if good == nil {
		t.Fatal("not cached when it was stored")
	}
	f := func(what string, object []byte, gets int) {
		t.Helper()
		if delete(shared.objects, key); object != nil {
			shared.objects[key] = object
		}
		clear(b.gets)
		s := store()
		if got := selectAll(t, s, "t", 0, day, []*labels.Matcher{}...); got != `{a="b"} x` {
			t.Fatalf("%s: %s", what, got)
		}
		if n := b.gets[key.String()]; n != gets {
			t.Errorf("%s: fetched %d times", what, n)
		}
		if string(shared.objects[key]) != string(good) {
			t.Errorf("%s: the cache has a wrong object afterwards", what)
		}
	}
	f("in the cache", good, 0)
	f("not in the cache", nil, 1)
	f("damaged", append(append([]byte(nil), good[:len(good)-1]...), good[len(good)-1]+1), 1)
	f("empty", []byte{}, 1)

	boom := fmt.Errorf("boom")
	b.fail = func(op, _ string) error {
		if op == "put" {
			return boom
		}
		return nil
	}
	clear(shared.objects)
	if err := store().PutChunk(t.Context(), key, good); err == nil || len(shared.objects) != 0 {
		t.Fatalf("a chunk that was not stored: %v, %d cached", err, len(shared.objects))
	}
}
