package compactor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/index"
)

const day = 20_000

// short keeps streams of app short for a week, and all others.
func short(t testing.TB) Policy {
	return Policy{Streams: []Rule{{Matchers: []*labels.Matcher{matcher(t, labels.MatchEqual, "app", "short")}, Period: 7 * 24 * time.Hour}}}
}

// fill makes two tables with files of two tenants, one of them with retention,
// files of many tenants, and chunks across midnight, ten days ago.
func fill(t testing.TB) *world {
	w := newWorld(t, dayTime(day).Add(10*24*time.Hour))
	w.policy["a"] = short(t)
	at := dayTime(day).Add(23 * time.Hour)
	for i := range 3 {
		at := at.Add(time.Duration(i) * time.Minute)
		w.index("a", w.chunk("a", `{app="long"}`, at, at.Add(time.Second)), w.chunk("a", `{app="short"}`, at))
		w.index("b", w.chunk("b", `{app="short"}`, at))
	}
	w.index("a", w.chunk("a", `{app="long", x="1"}`, at, at.Add(2*time.Hour)), w.chunk("a", `{app="short", x="1"}`, at, at.Add(2*time.Hour)))
	w.index("only", w.chunk("only", `{app="x"}`, at))
	for i := range 2 {
		w.shared(day, fmt.Sprintf("ingester-%d", i), map[string][]index.Series{
			"a": {w.chunk("a", `{app="long"}`, at.Add(time.Duration(i)*time.Hour/4)), w.chunk("a", `{app="short"}`, at.Add(time.Minute))},
			"c": {w.chunk("c", `{app="long"}`, at.Add(time.Duration(i)*time.Hour/4))},
		})
	}
	w.advance(2 * time.Hour)
	return w
}

// TestCrashes ends the process at every request of all runs that it takes to
// merge, to delete what was merged, and to delete what has expired.
func TestCrashes(t *testing.T) {
	steps := []time.Duration{0, 20 * time.Minute, 2 * time.Hour, 20 * time.Minute}
	requests := 0
	for _, after := range []bool{false, true} {
		for k := 1; ; k++ {
			w := fill(t)
			b := &crashing{Bucket: w.bucket, at: k, after: after}
			for i, d := range steps {
				w.advance(d)
				if err := w.compactor(b).RunOnce(t.Context()); (err != nil) != b.crashed() || err != nil && !errors.Is(err, errCrash) {
					t.Fatalf("request %d (after: %v), run %d: %v", k, after, i, err)
				}
				w.mustCheck(fmt.Sprintf("request %d (after: %v), run %d", k, after, i))
				if b.crashed() && b.at < math.MaxInt {
					requests = max(requests, k)
					b.at = math.MaxInt // the process starts again
				}
			}
			what := fmt.Sprintf("request %d (after: %v): %s", k, after, b.log[min(k, len(b.log))-1])
			w.finish()
			w.wantDone(what)
			if k > len(b.log) {
				break
			}
		}
	}
	if requests < 80 {
		t.Fatalf("there were %d requests only", requests)
	}
}

// TestSteps looks at what each run leaves in the bucket.
func TestSteps(t *testing.T) {
	w := fill(t)
	reg := prometheus.NewPedanticRegistry()
	c := New(testConfig(), Options{Bucket: w.bucket, Retention: w, Now: w.clock, Registerer: reg})
	c.lease = nil
	expect := func(when string, index, superseded, deletes, chunksOfA int) {
		t.Helper()
		w.mustCheck(when)
		keys := w.keys("")
		if a, b, d, e := countPrefix(keys, "index/"), countPrefix(keys, supersededDir), countPrefix(keys, deletesDir), countPrefix(keys, "a/"); a != index || b != superseded || d != deletes || e != chunksOfA {
			t.Fatalf("%s: %d index files, %d and %d markers, %d chunks; want %d, %d, %d, %d:\n%s", when, a, b, d, e, index, superseded, deletes, chunksOfA, strings.Join(keys, "\n"))
		}
	}
	// Day 0: a 4, b 3, only 1, of many 2; day 1: a 1.
	expect("at first", 11, 0, 0, 12)
	w.run(c)
	// Made: a and c out of those of many, then a and b; a on day 1. That of c
	// is the only one.
	expect("merged", 16, 4, 2, 12)
	w.run(c)
	expect("merged again", 16, 4, 2, 12)
	w.advance(14 * time.Minute)
	w.run(c)
	expect("within the delay", 16, 4, 2, 12)
	w.advance(time.Minute + time.Second)
	w.run(c)
	expect("after the delay", 5, 0, 2, 12)
	w.advance(2 * time.Hour)
	w.run(c)
	expect("chunks are not listed", 5, 0, 2, 12)
	w.advance(14 * time.Minute)
	w.run(c)
	expect("within the second delay", 5, 0, 2, 12)
	w.advance(time.Minute + time.Second)
	w.run(c)
	expect("after the second delay", 5, 0, 0, 6)
	w.wantDone("at the end")
	const want = `
# HELP loki_go_compactor_chunks_deleted_total Chunks deleted.
# TYPE loki_go_compactor_chunks_deleted_total counter
loki_go_compactor_chunks_deleted_total 7
# HELP loki_go_compactor_chunks_expired_total Chunks that retention took out of the index, counted for each table.
# TYPE loki_go_compactor_chunks_expired_total counter
loki_go_compactor_chunks_expired_total 7
# HELP loki_go_compactor_errors_total Steps that failed; they are repeated in the next run.
# TYPE loki_go_compactor_errors_total counter
loki_go_compactor_errors_total 0
# HELP loki_go_compactor_files_deleted_total Index files deleted after they were merged.
# TYPE loki_go_compactor_files_deleted_total counter
loki_go_compactor_files_deleted_total 11
# HELP loki_go_compactor_files_merged_total Index files that were merged into others.
# TYPE loki_go_compactor_files_merged_total counter
loki_go_compactor_files_merged_total 11
`
	names := []string{"chunks_deleted_total", "chunks_expired_total", "errors_total", "files_deleted_total", "files_merged_total"}
	for i := range names {
		names[i] = "loki_go_compactor_" + names[i]
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), names...); err != nil {
		t.Fatal(err)
	}
}

// TestWorth: few new files are left alone, many are not.
func TestWorth(t *testing.T) {
	w := newWorld(t, dayTime(day).Add(time.Hour))
	c := w.compactor(w.bucket)
	add := func() { w.index("a", w.chunk("a", `{a="b"}`, w.clock())); w.advance(time.Minute) }
	files := func(want int) {
		t.Helper()
		w.run(c)
		w.mustCheck("after a run")
		if keys := w.keys("index/"); len(keys) != want {
			t.Fatalf("%d files, want %d", len(keys), want)
		}
	}
	add()
	add()
	files(2)
	add()
	files(4) // merged, the three are still there
	add()
	files(5)
	w.advance(15 * time.Minute)
	files(2)
	w.advance(30 * time.Minute)
	files(2)
	w.advance(20 * time.Minute) // none is new
	files(3)
	w.advance(15 * time.Minute)
	files(1)
	w.advance(1000 * time.Hour)
	files(1)
	w.wantDone("at the end")
}

// TestBatches merges with memory for two files at a time.
func TestBatches(t *testing.T) {
	w := fill(t)
	for i := range 20 {
		w.index("a", w.chunk("a", fmt.Sprintf(`{app="long", i="%d"}`, i%7), dayTime(day).Add(time.Duration(i)*time.Minute)))
		w.shared(day, fmt.Sprint("more-", i), map[string][]index.Series{"c": {w.chunk("c", `{app="long"}`, dayTime(day).Add(time.Duration(i)*time.Minute))}})
	}
	for range 6 {
		c := w.compactor(w.bucket)
		c.cfg.MaxMemory, c.cfg.Concurrency = 1, 4
		w.run(c)
		w.mustCheck("after a run")
		w.advance(2 * time.Hour)
	}
	w.wantDone("at the end")
}

// TestDamaged: an index file that cannot be read keeps its tenant's table as it
// is, and nothing else.
func TestDamaged(t *testing.T) {
	w := fill(t)
	lost := storage.TenantIndexKey(day, "b", 1, index.Info{})
	put := func(key, body string) {
		t.Helper()
		if err := w.bucket.Put(t.Context(), key, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	put(lost, "nonsense")
	put(supersededDir+"1/nonsense", "{}")
	put(markerKey(supersededDir+"1/", 1, 1), "{}")
	put(markerKey(deletesDir+"a/", 1, 1), "{}")
	c := w.compactor(w.bucket)
	for range 6 {
		err := c.RunOnce(t.Context())
		for _, want := range []string{"table 20000, tenant b: " + lost, "superseded/1/nonsense", "superseded/1/00", "deletes/a/00"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("%q is missing: %v", want, err)
			}
		}
		w.advance(2 * time.Hour)
	}
	if keys := w.keys(storage.TableDir(day)); countPrefix(keys, storage.TableDir(day)+"b/") != 4 || len(keys) != 7 {
		t.Fatalf("%q", keys)
	}
	for _, key := range append(w.keys(root), lost) {
		if err := w.bucket.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	w.finish()
	w.wantDone("repaired")
}

// TestDamagedCover: what was merged is not deleted if the result cannot be
// read.
func TestDamagedCover(t *testing.T) {
	w := fill(t)
	c := w.compactor(w.bucket)
	before := w.keys(storage.TableDir(day) + "b/")
	w.run(c)
	var cover string
	for _, k := range w.keys(storage.TableDir(day) + "b/") {
		if !strings.Contains(strings.Join(before, " "), k) {
			cover = k
		}
	}
	good, err := w.bucket.Get(t.Context(), cover)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	if err := w.bucket.Put(t.Context(), cover, bad); err != nil {
		t.Fatal(err)
	}
	w.advance(20 * time.Minute)
	if err := c.RunOnce(t.Context()); err == nil || !strings.Contains(err.Error(), cover) {
		t.Fatalf("%v", err)
	}
	if n := len(w.keys(storage.TableDir(day) + "b/")); n != 4 {
		t.Fatalf("%d files", n)
	}
	// Without it they are merged again.
	if err := w.bucket.Delete(t.Context(), cover); err != nil {
		t.Fatal(err)
	}
	w.finish()
	w.wantDone("repaired")
}

// TestForeign: series without a tenant in a file of many are no reason to lose
// them.
func TestForeign(t *testing.T) {
	w := fill(t)
	file, _, err := index.Build(nil, []index.Series{{Labels: parseLabels(t, `{a="b"}`), Fingerprint: 1, Chunks: []index.ChunkMeta{{}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.bucket.Put(t.Context(), storage.TableDir(day)+"5-x.tsdb", file); err != nil {
		t.Fatal(err)
	}
	if err := w.compactor(w.bucket).RunOnce(t.Context()); err == nil || !strings.Contains(err.Error(), "1 series without a tenant") {
		t.Fatal(err)
	}
	w.mustCheck("after a run")
	if n := countPrefix(w.keys(""), storage.TableDir(day)+"5-x"); n != 1 {
		t.Fatal("the file is gone")
	}
}

// TestRun has two processes over one bucket, of which one ends.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fill(t)
		// Time passes by itself here.
		offset := time.Until(w.clock())
		now := func() time.Time { return time.Now().Add(offset) }
		var log bytes.Buffer
		start := func(owner string) (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			c := New(testConfig(), Options{Bucket: w.bucket, Retention: w, Now: now, Owner: owner, Log: slog.New(slog.NewTextHandler(&log, nil))})
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.Run(ctx)
			}()
			return func() { cancel(); <-done }
		}
		owner := func(want string) {
			t.Helper()
			synctest.Wait()
			b, err := w.bucket.Get(t.Context(), leaseKey)
			if err != nil || !strings.Contains(string(b), `"owner":"`+want+`"`) {
				t.Fatalf("the lease is %s, want %s: %v", b, want, err)
			}
		}
		stopA := start("a")
		time.Sleep(3 * time.Second)
		stopB := start("b")
		time.Sleep(time.Hour)
		owner("a")
		stopA()
		time.Sleep(time.Minute)
		owner("b")
		time.Sleep(4 * time.Hour)
		stopB()
		w.advance(5 * time.Hour)
		w.wantDone("at the end")
		if strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "msg=compacted") {
			t.Fatal(log.String())
		}
	})
}

func TestConfig(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	if errs := (Config{MinAge: -1, RetentionDeleteDelay: -1}).Validate(); len(errs) != 9 {
		t.Fatal(errs)
	}
}
