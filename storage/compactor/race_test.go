package compactor

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

// TestSlowMerge: a merge that took long is stored all the same, if what it has
// read is still there.
func TestSlowMerge(t *testing.T) {
	w := fill(t)
	w.run(w.compactor(&hooked{Bucket: w.bucket, after: func(op, _ string) {
		if op == "get" {
			w.advance(8 * time.Minute)
		}
	}}))
	w.finish()
	w.wantDone("after a slow run")

	w = fill(t)
	err := w.compactor(&hooked{Bucket: w.bucket, after: func(op, key string) {
		if op == "list" && strings.HasPrefix(key, storage.TablesPrefix) {
			w.advance(8 * time.Minute)
		}
	}}).RunOnce(t.Context())
	if !errors.Is(err, errSlow) {
		t.Fatal(err)
	}
	if n := len(w.keys("index/")); n != 11 {
		t.Fatalf("%d index files", n)
	}
	w.mustCheck("after a listing that is too slow")
}

// all lets another compactor go through all that there is to do.
func (w *world) all() {
	other := w.compactor(w.bucket)
	for _, d := range []time.Duration{0, 20 * time.Minute, 2 * time.Hour, 20 * time.Minute} {
		w.advance(d)
		w.run(other)
	}
}

// TestStaleMerge: while a merge that knows no retention has files of tenant a
// in memory, another compactor deletes these and the chunks that have expired.
func TestStaleMerge(t *testing.T) {
	w := fill(t)
	n := 0
	b := &hooked{Bucket: w.bucket}
	b.after = func(op, key string) {
		if op == "get" && strings.HasPrefix(key, storage.TableDir(day)+"a/") {
			if n++; n == 4 {
				w.all()
			}
		}
	}
	c := w.compactor(b)
	// Without the files of many, so that those of a are read first.
	c.cfg.MinFiles, c.cfg.MinAge = 4, 1000*time.Hour
	before := len(w.keys("a/"))
	if err := c.run(t.Context(), false); err != nil || n != 4 {
		t.Fatalf("%d files were read: %v", n, err)
	}
	if testutil.ToFloat64(c.m.conflicts) != 1 || len(w.keys("a/")) == before {
		t.Fatalf("%v conflicts, %d chunks", testutil.ToFloat64(c.m.conflicts), len(w.keys("a/")))
	}
	w.wantDone("after a merge of files that are gone")
}

// TestLateMerge: a merge stores its result just after another compactor has
// found that no index lists the expired chunks.
func TestLateMerge(t *testing.T) {
	w := fill(t)
	other := w.compactor(w.bucket)
	dir := storage.TableDir(day)
	gets, lists, late := 0, 0, ""
	b := &hooked{Bucket: w.bucket}
	b.after = func(op, key string) {
		if op == "get" && strings.HasPrefix(key, dir+"a/") {
			if gets++; gets == 4 {
				w.run(other)
				w.advance(2*time.Hour + 10*time.Minute)
			}
		}
		if op == "list" && key == dir {
			if lists++; lists == 2 { // all are still there
				w.run(other)
			}
		}
	}
	b.before = func(op, key string) {
		if op == "put" && strings.HasPrefix(key, dir+"a/") {
			w.advance(6 * time.Minute)
			w.run(other)
			late = key
		}
	}
	c := w.compactor(b)
	c.cfg.MinFiles, c.cfg.MinAge = 4, 1000*time.Hour
	before := len(w.keys("a/"))
	if err := c.run(t.Context(), false); err != nil || late == "" {
		t.Fatalf("late file %q: %v", late, err)
	}
	if n := len(w.keys("a/")); n != before {
		t.Fatalf("%d chunks, had %d", n, before)
	}
	w.mustCheck("after a late merge")
	for range 5 {
		w.advance(time.Minute)
		w.run(other)
		w.mustCheck("later")
	}
	w.finish()
	w.wantDone("at the end")
}

// TestKeptAfterAll: retention becomes longer when chunks are on record to be
// deleted; one of two is listed again.
func TestKeptAfterAll(t *testing.T) {
	w := newWorld(t, dayTime(day).Add(10*24*time.Hour))
	w.policy["a"] = short(t)
	at := dayTime(day).Add(time.Hour)
	first, second := w.chunk("a", `{app="short"}`, at), w.chunk("a", `{app="short"}`, at.Add(time.Hour))
	w.index("a", first, second)
	c := w.compactor(w.bucket)
	step := func(d time.Duration, markers, chunks int) {
		t.Helper()
		w.advance(d)
		w.run(c)
		if m, n := len(w.keys(deletesDir)), len(w.keys("a/")); m != markers || n != chunks {
			t.Fatalf("%d markers, %d chunks; want %d, %d", m, n, markers, chunks)
		}
	}
	step(0, 1, 2)
	if n := len(w.keys("index/")); n != 1 {
		t.Fatalf("%d index files", n)
	}
	step(20*time.Minute, 1, 2)
	if n := len(w.keys("index/")); n != 0 {
		t.Fatalf("%d index files", n)
	}
	step(2*time.Hour, 1, 2) // found to be unlisted
	w.policy["a"] = Policy{}
	w.index("a", second)
	step(20*time.Minute, 1, 2) // not any more
	step(time.Minute, 2, 2)    // one is
	step(20*time.Minute, 1, 1)
	w.lines["a"] = w.lines["a"][1:]
	w.mustCheck("the other is kept")
	step(6*24*time.Hour, 1, 1)
	step(2*24*time.Hour, 0, 1)
	w.wantDone("at the end")
}

// TestMidnight: a chunk in two tables is deleted when the second has let go of
// it.
func TestMidnight(t *testing.T) {
	w := newWorld(t, dayTime(day).Add(10*24*time.Hour))
	w.policy["a"] = short(t)
	at := dayTime(day + 1).Add(-time.Hour)
	c := w.compactor(w.bucket)
	w.index("a", w.chunk("a", `{app="short"}`, at, at.Add(2*time.Hour)))
	keys := w.keys(storage.TableDir(day + 1))
	if len(keys) != 1 {
		t.Fatalf("%q", keys)
	}
	good, err := w.bucket.Get(t.Context(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	// The second table cannot be read, then it can.
	if err := w.bucket.Put(t.Context(), keys[0], []byte("x")); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := c.RunOnce(t.Context()); err == nil {
			t.Fatal("no error")
		}
		w.advance(3 * time.Hour)
	}
	if n := len(w.keys("a/")); n != 1 || len(w.keys(storage.TableDir(day))) != 0 {
		t.Fatalf("%d chunks, %q", n, w.keys("index/"))
	}
	if err := w.bucket.Put(t.Context(), keys[0], good); err != nil {
		t.Fatal(err)
	}
	w.mustCheck("with the second table")
	w.finish()
	w.wantDone("at the end")
}

// TestManyExpired has more chunks than one marker holds.
func TestManyExpired(t *testing.T) {
	w := newWorld(t, dayTime(day).Add(10*24*time.Hour))
	w.policy["a"] = Policy{Period: 24 * time.Hour}
	at := dayTime(day).Add(time.Hour)
	real := w.chunk("a", `{app="x"}`, at)
	chunks := make([]index.ChunkMeta, maxMarkerChunks+10)
	for i := range chunks {
		ms := at.UnixMilli() + int64(i)
		chunks[i] = index.ChunkMeta{MinTime: ms, MaxTime: ms + 1, Entries: 1, Checksum: uint32(i)}
	}
	w.index("a", real, index.Series{Labels: real.Labels, Fingerprint: real.Fingerprint, Chunks: chunks})
	c := w.compactor(w.bucket)
	w.run(c)
	markers := w.keys(deletesDir)
	if len(markers) != 2 {
		t.Fatalf("%q", markers)
	}
	n := 0
	for _, key := range markers {
		b, err := w.bucket.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		d, err := decodeDeletion(b)
		if err != nil || len(b) > maxMarkerSize/3 {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		n += len(d.keys)
	}
	if n != len(chunks)+1 {
		t.Fatalf("%d chunks are on record", n)
	}
	w.finish()
	w.wantDone("at the end")
}

// TestFileKeys: chunks are deleted under the names that Loki's filesystem
// client has for them.
func TestFileKeys(t *testing.T) {
	w := newWorld(t, dayTime(day).Add(10*24*time.Hour))
	w.store = storage.New(w.bucket, storage.DefaultConfig(), storage.Options{Now: w.clock, FileKeys: true})
	w.policy["a"] = Policy{Period: 24 * time.Hour}
	w.index("a", w.chunk("a", `{app="x"}`, dayTime(day)))
	c := w.compactor(w.bucket)
	c.fileKeys = true
	if keys := w.keys("a/"); len(keys) != 1 {
		t.Fatalf("%q", keys)
	} else if _, err := chunk.ParseFileKey(keys[0]); err != nil {
		t.Fatal(err)
	}
	for range 6 {
		w.run(c)
		w.advance(3 * time.Hour)
	}
	if keys := w.keys(""); len(keys) != 0 {
		t.Fatalf("%q", keys)
	}
}
