package compactor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dayTime is the beginning of a table.
func dayTime(day int64) time.Time { return time.UnixMilli(day * storage.DayMillis) }

// world is a bucket and what was put there.
type world struct {
	t      testing.TB
	bucket objstore.Bucket
	store  *storage.Store
	mu     sync.Mutex
	now    time.Time
	policy map[string]Policy
	lines  map[string][]line // by tenant
	n      int
}

// line is an entry that was stored.
type line struct {
	text   string // unique
	labels labels.Labels
	chunk  chunk.Key
}

// Retention is Retention's.
func (w *world) Retention(tenant string) Policy { return w.policy[tenant] }

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// datedBucket says that objects were put at a time; it does not say when if that
// is zero, as the clock of a world is not that of its file system.
type datedBucket struct {
	objstore.Bucket
	at time.Time
}

func (b *datedBucket) Stat(ctx context.Context, key string) (objstore.Info, error) {
	info, err := b.Bucket.Stat(ctx, key)
	info.Modified = b.at
	return info, err
}

func newWorld(t testing.TB, now time.Time) *world {
	t.Helper()
	b, err := objstore.OpenFilesystem(vfs.NewMem(), "/objects")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, bucket: &datedBucket{Bucket: b}, now: now, policy: map[string]Policy{}, lines: map[string][]line{}}
	cfg := storage.DefaultConfig()
	cfg.ChunkCacheSize = 0 // chunks that are gone must not be seen
	w.store = storage.New(b, cfg, storage.Options{Now: w.clock})
	return w
}

func parseLabels(t testing.TB, s string) labels.Labels {
	t.Helper()
	ls, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

func matcher(t testing.TB, typ labels.MatchType, name, value string) *labels.Matcher {
	t.Helper()
	m, err := labels.NewMatcher(typ, name, value)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// chunk stores a chunk with one line for each time, and returns what an index
// says of it.
func (w *world) chunk(tenant, stream string, times ...time.Time) index.Series {
	w.t.Helper()
	var content []byte
	var texts []string
	for _, at := range times {
		w.n++
		texts = append(texts, fmt.Sprintf("%s-%s-%d", tenant, at.UTC().Format("0102T150405.000"), w.n))
		content = chunk.AppendEntry(content, at.UnixNano(), []byte(texts[len(texts)-1]), nil)
	}
	b, err := chunk.NewBlock(chunk.Snappy, nil, content)
	if err != nil {
		w.t.Fatal(err)
	}
	m := chunk.NewMeta(tenant, parseLabels(w.t, stream), times[0].UnixNano(), times[len(times)-1].UnixNano())
	object, err := chunk.Encode(nil, m, chunk.Snappy, nil, []chunk.Block{b})
	if err != nil {
		w.t.Fatal(err)
	}
	key := chunk.KeyOf(object, m)
	if err := w.store.PutChunk(w.t.Context(), key, object); err != nil {
		w.t.Fatal(err)
	}
	for _, text := range texts {
		w.lines[tenant] = append(w.lines[tenant], line{text, m.Labels, key})
	}
	return index.Series{Labels: m.Labels, Fingerprint: m.Fingerprint, Chunks: []index.ChunkMeta{{MinTime: key.From, MaxTime: key.Through, Entries: uint32(len(times)), Checksum: key.Checksum}}}
}

// index stores an index file of a tenant for each table.
func (w *world) index(tenant string, series ...index.Series) {
	w.t.Helper()
	if err := w.store.PutIndex(w.t.Context(), tenant, series); err != nil {
		w.t.Fatal(err)
	}
}

// shared stores an index file of many tenants, as Loki's ingesters do.
func (w *world) shared(day int64, name string, tenants map[string][]index.Series) {
	w.t.Helper()
	var all []index.Series
	for tenant, series := range tenants {
		for _, s := range series {
			m := s.Labels.Map()
			m[storage.TenantLabel] = tenant
			all = append(all, index.Series{Labels: labels.FromMap(m), Fingerprint: s.Fingerprint, Chunks: s.Chunks})
		}
	}
	file, _, err := index.Build(nil, all)
	if err != nil {
		w.t.Fatal(err)
	}
	object, err := storage.PackIndex(file)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.bucket.Put(w.t.Context(), fmt.Sprintf("%s%d-%s.tsdb.gz", storage.TableDir(day), w.clock().Unix(), name), object); err != nil {
		w.t.Fatal(err)
	}
}

// visible returns all lines of a tenant that can be read, sorted. A chunk that
// is listed and cannot be loaded is an error.
func (w *world) visible(tenant string) ([]string, error) {
	series, err := w.store.Select(context.Background(), tenant, nil, math.MinInt64, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range series {
		for _, b := range s.Blocks {
			content, _, err := b.Load(nil)
			if err != nil {
				return nil, err
			}
			it := chunk.Entries(content)
			for it.Next() {
				out = append(out, string(it.Line))
			}
			if it.Err() != nil {
				return nil, it.Err()
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// expired reports whether retention may have removed l by now.
func (w *world) expired(tenant string, l line) bool {
	p := w.policy[tenant].period(l.labels)
	return p > 0 && l.chunk.Through < w.clock().Add(-p).UnixMilli()
}

// check returns an error unless every line that is kept is visible once, and
// what is listed is there.
func (w *world) check() error {
	for tenant, lines := range w.lines {
		got, err := w.visible(tenant)
		if err != nil {
			return err
		}
		if once := slices.Compact(slices.Clone(got)); len(once) != len(got) {
			return fmt.Errorf("tenant %s: lines are visible twice", tenant)
		}
		known := map[string]bool{}
		for _, l := range lines {
			known[l.text] = true
			if _, ok := slices.BinarySearch(got, l.text); !ok && !w.expired(tenant, l) {
				return fmt.Errorf("tenant %s: %s is not visible, %d of %d lines are", tenant, l.text, len(got), len(lines))
			}
		}
		for _, g := range got {
			if !known[g] {
				return fmt.Errorf("tenant %s: %s was not stored", tenant, g)
			}
		}
	}
	return nil
}

func (w *world) mustCheck(when string) {
	w.t.Helper()
	if err := w.check(); err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
}

// keys returns what is in the bucket.
func (w *world) keys(prefix string) []string {
	w.t.Helper()
	keys, err := w.bucket.List(w.t.Context(), prefix, true)
	if err != nil {
		w.t.Fatal(err)
	}
	return keys
}

// wantDone fails unless the bucket has one index file for each tenant and table
// that has something to list, exactly the chunks that are listed, no expired
// lines, and nothing that is left to do.
func (w *world) wantDone(when string) {
	w.t.Helper()
	w.mustCheck(when)
	if left := w.keys(root); len(left) > 0 {
		w.t.Fatalf("%s: left in the bucket: %q", when, left)
	}
	files, listed := map[string]int{}, map[string]bool{}
	for tenant, lines := range w.lines {
		for _, l := range lines {
			if w.expired(tenant, l) {
				continue
			}
			listed[l.chunk.String()] = true
			for d := storage.TableOf(l.chunk.From); d <= storage.TableOf(l.chunk.Through); d++ {
				files[storage.TableDir(d)+tenant] = 1
			}
		}
		got, err := w.visible(tenant)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, l := range lines {
			if _, ok := slices.BinarySearch(got, l.text); ok && w.expired(tenant, l) {
				w.t.Fatalf("%s: %s has expired and is visible", when, l.text)
			}
		}
	}
	found := map[string]int{}
	for _, key := range w.keys("") {
		if f, err := storage.ParseIndexKey(key); err == nil {
			found[storage.TableDir(f.Day)+f.Tenant]++
			continue
		}
		if !listed[key] {
			w.t.Fatalf("%s: %s is in the bucket and not listed", when, key)
		}
		delete(listed, key)
	}
	if !maps.Equal(found, files) {
		w.t.Fatalf("%s: index files %v, want %v", when, found, files)
	}
	if len(listed) > 0 {
		w.t.Fatalf("%s: chunks are gone: %v", when, listed)
	}
}

// testConfig merges as soon as there are three files.
func testConfig() Config {
	c := DefaultConfig()
	c.MinFiles, c.Concurrency = 3, 1
	return c
}

// compactor returns one over b that needs no lease.
func (w *world) compactor(b objstore.Bucket) *Compactor {
	c := New(testConfig(), Options{Bucket: b, Retention: w, Now: w.clock})
	c.lease = nil
	return c
}

func (w *world) run(c *Compactor) {
	w.t.Helper()
	if err := c.RunOnce(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// finish runs a compactor until all delays are over.
func (w *world) finish() {
	w.t.Helper()
	c := w.compactor(w.bucket)
	for range 8 {
		w.run(c)
		w.advance(2 * time.Hour)
	}
}

var errCrash = errors.New("crashed")

// crashing is a bucket whose process dies at the nth request: before or after
// that took effect. All later requests fail.
type crashing struct {
	objstore.Bucket
	mu    sync.Mutex
	n, at int
	after bool
	log   []string
}

// begin counts a request. It returns whether to do it, and what to return.
func (c *crashing) begin(op, key string) (do bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.log = append(c.log, op+" "+key)
	switch {
	case c.n < c.at:
		return true, nil
	case c.n == c.at && c.after:
		return true, errCrash
	}
	return false, errCrash
}

func (c *crashing) crashed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n >= c.at
}

func (c *crashing) Put(ctx context.Context, key string, body []byte) error {
	do, err := c.begin("put", key)
	if do {
		err = errors.Join(c.Bucket.Put(ctx, key, body), err)
	}
	return err
}

func (c *crashing) Get(ctx context.Context, key string) ([]byte, error) {
	do, err := c.begin("get", key)
	if do && err == nil {
		return c.Bucket.Get(ctx, key)
	}
	return nil, err
}

func (c *crashing) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	do, err := c.begin("list", prefix)
	if do && err == nil {
		return c.Bucket.List(ctx, prefix, recursive)
	}
	return nil, err
}

func (c *crashing) Delete(ctx context.Context, key string) error {
	do, err := c.begin("delete", key)
	if do {
		err = errors.Join(c.Bucket.Delete(ctx, key), err)
	}
	return err
}

func countPrefix(keys []string, prefix string) int {
	n := 0
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) {
			n++
		}
	}
	return n
}

// hooked is a bucket that tells of each request but deletes: before and after
// it.
type hooked struct {
	objstore.Bucket
	before, after func(op, key string)
}

func (h *hooked) tell(f func(op, key string), op, key string) {
	if f != nil {
		f(op, key)
	}
}

func (h *hooked) Put(ctx context.Context, key string, body []byte) error {
	h.tell(h.before, "put", key)
	defer h.tell(h.after, "put", key)
	return h.Bucket.Put(ctx, key, body)
}

func (h *hooked) Get(ctx context.Context, key string) ([]byte, error) {
	h.tell(h.before, "get", key)
	defer h.tell(h.after, "get", key)
	return h.Bucket.Get(ctx, key)
}

func (h *hooked) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	h.tell(h.before, "list", prefix)
	defer h.tell(h.after, "list", prefix)
	return h.Bucket.List(ctx, prefix, recursive)
}
