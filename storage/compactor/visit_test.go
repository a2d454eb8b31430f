package compactor

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/storage/chunk"
)

// putMarker stores a marker of the chunks k with these numbers.
func (w *world) putMarker(key string, numbers ...uint64) {
	w.t.Helper()
	var keys []chunk.Key
	for _, n := range numbers {
		keys = append(keys, chunk.Key{Tenant: "a", Fingerprint: n, From: 1, Through: 2})
	}
	b, err := json.Marshal(newDeletion("a", keys))
	if err == nil {
		err = w.bucket.Put(w.t.Context(), key, b)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestVisitChunks: what is about to be deleted is named, also when its marker is
// split between the list and the reads.
func TestVisitChunks(t *testing.T) {
	w := newWorld(t, dayTime(day))
	one, two := markerKey(deletesDir+"a/", 5, 1), markerKey(deletesDir+"a/", 6, 2)
	w.putMarker(one, 1, 2, 3)
	split := false
	b := &hooked{Bucket: w.bucket, before: func(op, _ string) {
		if op == "get" && !split {
			split = true
			w.putMarker(two, 1)
			w.putMarker(one, 2, 3)
		}
	}}
	bad := markerKey(deletesDir+"b/", 5, 1)
	if err := w.bucket.Put(t.Context(), bad, []byte(`{"version":1,"tenant":"a","chunks":["1/1:2:0"]}`)); err != nil {
		t.Fatal(err)
	}
	visit := func(tenant string) (chunks map[uint64]bool, wrong []string) {
		t.Helper()
		chunks = map[uint64]bool{}
		err := VisitChunks(t.Context(), b, tenant, Markers{
			Chunk: func(k chunk.Key) { chunks[k.Fingerprint] = k.Tenant == "a" },
			Bad:   func(key string, err error) { wrong = append(wrong, key+": "+err.Error()) },
		})
		if err != nil {
			t.Fatal(err)
		}
		return chunks, wrong
	}
	if chunks, wrong := visit("a"); !split || fmt.Sprint(chunks) != "map[1:true 2:true 3:true]" || len(wrong) > 0 {
		t.Fatalf("tenant a: %v, %v", chunks, wrong)
	}
	if chunks, wrong := visit(""); len(chunks) != 3 || len(wrong) != 1 || !strings.HasPrefix(wrong[0], bad+": ") {
		t.Fatalf("all tenants: %v, %v", chunks, wrong)
	}
	if chunks, _ := visit("c"); len(chunks) > 0 {
		t.Fatalf("tenant c: %v", chunks)
	}
}

// TestVisitFiles: files that were merged are named, as soon as they were.
func TestVisitFiles(t *testing.T) {
	w := newWorld(t, dayTime(day))
	at := dayTime(day)
	for range 3 {
		w.index("a", w.chunk("a", `{app="x"}`, at))
	}
	files := w.keys("index/")
	w.run(w.compactor(w.bucket))
	named := map[string]bool{}
	if err := VisitFiles(t.Context(), w.bucket, Markers{File: func(key string) { named[key] = true }}); err != nil {
		t.Fatal(err)
	}
	if len(named) != 3 {
		t.Fatalf("%d files are named", len(named))
	}
	for _, f := range files {
		if !named[f] {
			t.Errorf("%s is not named", f)
		}
	}
	for _, key := range w.keys(root) {
		if !IsObject(key) {
			t.Errorf("%s is not known", key)
		}
	}
	if IsObject("loki-go/other.json") || IsObject("loki-go/superseded/1/x.json") || !IsObject(leaseKey) {
		t.Error("objects are not told apart")
	}
}
