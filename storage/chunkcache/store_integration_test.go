//go:build integration

package chunkcache

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// gets counts chunks that are fetched.
type gets struct {
	objstore.Bucket
	n atomic.Int64
}

func (b *gets) Get(ctx context.Context, key string) ([]byte, error) {
	if filepath.Dir(filepath.Dir(key)) == "t" {
		b.n.Add(1)
	}
	return b.Bucket.Get(ctx, key)
}

func openBucket(t testing.TB, dir string) *gets {
	t.Helper()
	f, err := objstore.OpenFilesystem(vfs.OS, dir)
	if err != nil {
		t.Fatal(err)
	}
	return &gets{Bucket: f}
}

// newStore makes a store without a memory of its own.
func newStore(t testing.TB, b objstore.Bucket, c *Cache) *storage.Store {
	t.Helper()
	cfg := storage.DefaultConfig()
	cfg.ChunkCacheSize = 0
	s := storage.New(b, cfg, storage.Options{FileKeys: true, Cache: c})
	t.Cleanup(s.Close)
	return s
}

const lines = 40 // in a chunk

// flush stores n chunks as an ingester does, and calls at before each.
func flush(t testing.TB, s *storage.Store, n int, start int64, at func(i int)) {
	t.Helper()
	var series []index.Series
	for i := range n {
		at(i)
		ls, err := labels.Parse(fmt.Sprintf(`{app="a%d",service_name="a%d"}`, i%5, i%5))
		if err != nil {
			t.Fatal(err)
		}
		var content []byte
		first := start + int64(i)*1e9
		for k := range int64(lines) {
			content = chunk.AppendEntry(content, first+k, []byte(line(i, int(k))), nil)
		}
		b, err := chunk.NewBlock(chunk.Snappy, nil, content)
		if err != nil {
			t.Fatal(err)
		}
		m := chunk.NewMeta("t", ls, first, first+lines-1)
		object, err := chunk.Encode(nil, m, chunk.Snappy, nil, []chunk.Block{b})
		if err != nil {
			t.Fatal(err)
		}
		key := chunk.KeyOf(object, m)
		if err := s.PutChunk(t.Context(), key, object); err != nil {
			t.Fatalf("chunk %d: %v", i, err)
		}
		clear(object) // the ingester uses it again
		series = append(series, index.Series{Labels: ls, Fingerprint: m.Fingerprint, Chunks: []index.ChunkMeta{{
			MinTime: key.From, MaxTime: key.Through, KB: chunk.KB(0, []chunk.Block{b}), Entries: lines, Checksum: key.Checksum,
		}}})
	}
	if err := s.PutIndex(t.Context(), "t", merge(series)); err != nil {
		t.Fatal(err)
	}
}

func line(chunk, i int) string { return fmt.Sprintf("line %d of chunk %d", i, chunk) }

// merge puts the chunks of equal series together.
func merge(series []index.Series) []index.Series {
	var out []index.Series
	for _, s := range series {
		i := slices.IndexFunc(out, func(o index.Series) bool { return slices.Equal(o.Labels, s.Labels) })
		if i < 0 {
			out = append(out, s)
		} else {
			out[i].Chunks = append(out[i].Chunks, s.Chunks...)
		}
	}
	return out
}

// read loads all chunks, newest first, and calls at before each. Every line has
// to be there.
func read(t testing.TB, s *storage.Store, chunks int, at func(i int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	series, err := s.Select(ctx, "t", nil, 0, 1<<62)
	if err != nil {
		t.Fatal(err)
	}
	var refs []chunk.BlockRef
	for _, x := range series {
		refs = append(refs, x.Blocks...)
	}
	slices.SortFunc(refs, func(a, b chunk.BlockRef) int {
		_, x := a.Bounds()
		_, y := b.Bounds()
		return int((y - x) / 1e6)
	})
	if len(refs) != chunks {
		t.Fatalf("%d chunks are found, want %d", len(refs), chunks)
	}
	for i, ref := range refs {
		at(i)
		content, _, err := ref.Load(nil)
		if err != nil {
			t.Fatalf("chunk %d: %v", i, err)
		}
		k := 0
		it := chunk.Entries(content)
		for ; it.Next(); k++ {
			if string(it.Line) != line(chunks-1-i, k) {
				t.Fatalf("chunk %d: line %d is %q", i, k, it.Line)
			}
		}
		if it.Err() != nil || k != lines {
			t.Fatalf("chunk %d: %d lines, %v", i, k, it.Err())
		}
	}
}

func nothing(int) {}

// TestStoreUsesCache: what a flush has cached is not fetched; what is missing
// is, once.
func TestStoreUsesCache(t *testing.T) {
	const n = 100
	for _, kind := range kinds {
		server := startBackend(t, kind)
		bucket := openBucket(t, t.TempDir())
		c := open(t, kind, nil, server.address())
		flush(t, newStore(t, bucket, c), n, 1e18, nothing)
		written(t, c)
		read(t, newStore(t, bucket, c), n, nothing)
		if got := bucket.n.Load(); got != 0 {
			t.Errorf("%s: %d chunks were fetched that are cached", kind, got)
		}
		server.kill()
		server.start()
		read(t, newStore(t, bucket, c), n, nothing)
		written(t, c)
		read(t, newStore(t, bucket, c), n, nothing)
		if got := bucket.n.Load(); got != n {
			t.Errorf("%s: %d chunks were fetched, want each once", kind, got)
		}
	}
}

// failures are what happens to a server. The timeout is long where a caller
// that waited for the server would be found out by the time it takes.
var failures = []struct {
	name    string
	timeout time.Duration
	strike  func(b *backend)
}{
	{"killed", 10 * time.Second, (*backend).kill},
	{"hangs", time.Minute, (*backend).hang},
}

// TestFailsDuringFlush: a flush goes on as if nothing had happened.
func TestFailsDuringFlush(t *testing.T) {
	const n = 100
	for _, kind := range kinds {
		for _, f := range failures {
			server := startBackend(t, kind)
			bucket := openBucket(t, t.TempDir())
			c := open(t, kind, func(cfg *Config) { cfg.Timeout = f.timeout }, server.address())
			s := newStore(t, bucket, c)
			start := time.Now()
			flush(t, s, n, 1e18, func(i int) {
				if i == n/2 {
					f.strike(server)
				}
			})
			if took := time.Since(start); took > f.timeout/2 {
				t.Errorf("%s %s: the flush took %v", kind, f.name, took)
			}
			c.Close() // does not wait for it either
			read(t, newStore(t, bucket, open(t, kind, nil, startBackend(t, kind).address())), n, nothing)
		}
	}
}

// TestFailsDuringQuery: a query that reads from the cache goes on with the
// object store, and waits for the server no longer than it takes to give it
// up.
func TestFailsDuringQuery(t *testing.T) {
	const n = 100
	for _, kind := range kinds {
		for _, f := range failures {
			server := startBackend(t, kind)
			bucket := openBucket(t, t.TempDir())
			c := open(t, kind, func(cfg *Config) { cfg.Timeout, cfg.RetryAfter = 500*time.Millisecond, time.Hour }, server.address())
			flush(t, newStore(t, bucket, c), n, 1e18, nothing)
			written(t, c)
			var start time.Time
			read(t, newStore(t, bucket, c), n, func(i int) {
				if i == n/2 {
					f.strike(server)
					start = time.Now()
				}
			})
			// Without giving up it would be half a second for each of 50.
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("%s %s: the query took %v", kind, f.name, took)
			}
			if got := bucket.n.Load(); got < 30 || got > 60 {
				t.Errorf("%s %s: %d chunks were fetched from the object store, want about half of %d", kind, f.name, got, n)
			}
			if testutil.ToFloat64(c.m.down) != 1 {
				t.Errorf("%s %s: the server is not left alone", kind, f.name)
			}
		}
	}
}

// TestSlowServer: through a proxy that holds replies up, nothing fails and
// little is waited for.
func TestSlowServer(t *testing.T) {
	const n = 60
	for _, kind := range kinds {
		server := startBackend(t, kind)
		proxy := startSlowProxy(t, server.address(), 30*time.Second)
		bucket := openBucket(t, t.TempDir())
		c := open(t, kind, func(cfg *Config) { cfg.Timeout = 300 * time.Millisecond }, proxy)
		start := time.Now()
		s := newStore(t, bucket, c)
		flush(t, s, n, 1e18, nothing)
		read(t, newStore(t, bucket, c), n, nothing)
		if took := time.Since(start); took > 15*time.Second {
			t.Errorf("%s: took %v", kind, took)
		}
		eventually(t, kind+": being left alone", func() bool {
			key, _ := object(1, 1)
			c.Get(t.Context(), key)
			return testutil.ToFloat64(c.m.down) == 1
		})
		if testutil.ToFloat64(c.m.hits) != 0 {
			t.Errorf("%s: hits through a proxy that gives nothing in time", kind)
		}
	}
}

// TestOneOfTwoDies: its half comes from the object store, the other half still
// from the cache; and it has its half again when it is back.
func TestOneOfTwoDies(t *testing.T) {
	const n = 100
	for _, kind := range kinds {
		servers := []*backend{startBackend(t, kind), startBackend(t, kind)}
		bucket := openBucket(t, t.TempDir())
		c := open(t, kind, nil, servers[0].address(), servers[1].address())
		flush(t, newStore(t, bucket, c), n, 1e18, nothing)
		written(t, c)
		servers[0].kill()
		read(t, newStore(t, bucket, c), n, nothing)
		fetched := bucket.n.Load()
		if fetched < n/4 || fetched > n*3/4 {
			t.Errorf("%s: %d of %d chunks were fetched", kind, fetched, n)
		}
		read(t, newStore(t, bucket, c), n, nothing)
		if again := bucket.n.Load() - fetched; again != fetched {
			t.Errorf("%s: %d chunks were fetched at first, %d later: keys have moved", kind, fetched, again)
		}
		servers[0].start()
		eventually(t, kind+": coming back", func() bool { return testutil.ToFloat64(c.m.down) == 0 })
		read(t, newStore(t, bucket, c), n, nothing)
		written(t, c)
		before := bucket.n.Load()
		read(t, newStore(t, bucket, c), n, nothing)
		if got := bucket.n.Load() - before; got != 0 {
			t.Errorf("%s: %d chunks were fetched with both servers", kind, got)
		}
	}
}
