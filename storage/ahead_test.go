package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/internal/find"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/internal/vfs"
	logquery "github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// slowBucket takes its time for chunks and counts how many are asked for at
// once.
type slowBucket struct {
	objstore.Bucket
	delay time.Duration

	mu        sync.Mutex
	now, most int
	indexGets int
	lists     int
	chunks    []string // in the order in which they were asked for
}

func (b *slowBucket) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	b.mu.Lock()
	b.lists++
	b.mu.Unlock()
	return b.Bucket.List(ctx, prefix, recursive)
}

func (b *slowBucket) Get(ctx context.Context, key string) ([]byte, error) {
	if strings.HasPrefix(key, indexDir) {
		b.mu.Lock()
		b.indexGets++
		b.mu.Unlock()
		return b.Bucket.Get(ctx, key)
	}
	b.mu.Lock()
	b.now++
	b.most = max(b.most, b.now)
	b.chunks = append(b.chunks, key)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.now--
		b.mu.Unlock()
	}()
	select {
	case <-time.After(b.delay):
		return b.Bucket.Get(ctx, key)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func openSlow(t testing.TB, delay time.Duration) *slowBucket {
	t.Helper()
	f, err := objstore.OpenFilesystem(vfs.NewMem(), "/objects")
	if err != nil {
		t.Fatal(err)
	}
	return &slowBucket{Bucket: f, delay: delay}
}

// fill stores chunks of some streams, each with lines of its own minute, so
// that chunks of different streams overlap.
func fill(t testing.TB, s *Store, streams, chunks int) {
	t.Helper()
	var series []index.Series
	for i := range streams {
		ls := fmt.Sprintf(`{app="a%d",n="%d"}`, i%7, i)
		var all index.Series
		for k := range chunks {
			at := int64(k)*60e9 + int64(i)*1e9
			x := putChunk(t, s, "t", ls, entry{at, fmt.Sprintf("%d-%d-first", i, k), ""}, entry{at + 70e9, fmt.Sprintf("%d-%d-last", i, k), ""})
			all.Labels, all.Fingerprint, all.Chunks = x.Labels, x.Fingerprint, append(all.Chunks, x.Chunks...)
		}
		series = append(series, all)
	}
	putIndex(t, s, "t", series...)
}

func engine(t testing.TB, s *Store) *logquery.Engine {
	t.Helper()
	e, err := logquery.New(logquery.Deps{Store: s, Limits: func(string) logquery.Limits { return logquery.Limits{} }}, logquery.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// run runs a query for every line in the range and returns how many there are.
func run(ctx context.Context, t testing.TB, e *logquery.Engine, selector string, d logquery.Direction, from, through int64, limit int) int {
	t.Helper()
	expr, err := logql.Parse(selector)
	if err != nil {
		t.Fatal(err)
	}
	q := expr.(*logql.LogQuery)
	res, err := e.Run(ctx, logquery.Request{Tenant: "t", Query: q, From: from, Through: through, Limit: limit, Direction: d})
	if err != nil {
		t.Fatal(err)
	}
	return len(res.Entries)
}

// TestReadAhead has the engine read everything: in both directions the chunks
// that are fetched ahead are those that it asks for next, and most of the
// waiting is done at once.
func TestReadAhead(t *testing.T) {
	const streams, chunks, delay = 9, 10, 100 * time.Millisecond
	for _, d := range []logquery.Direction{logquery.Backward, logquery.Forward} {
		// The second range cuts through chunks, so that many have the same
		// place in the order by time.
		for _, r := range [][2]int64{{0, day}, {150e9, 400e9}} {
			synctest.Test(t, func(t *testing.T) {
				b := openSlow(t, delay)
				cfg := DefaultConfig()
				cfg.ReadAhead, cfg.ChunkCacheSize = 4, 0
				s := New(b, cfg, Options{})
				defer s.Close()
				fill(t, s, streams, chunks)
				ctx, cancel := context.WithCancel(t.Context())
				start := time.Now()
				got := run(ctx, t, engine(t, s), `{app=~".+"}`, d, r[0], r[1], 10000)
				took := time.Since(start)
				cancel()
				synctest.Wait()
				if got == 0 {
					t.Fatal("no entries")
				}
				n := len(b.chunks)
				if slices.Sort(b.chunks); len(slices.Compact(b.chunks)) != n {
					t.Errorf("direction %d, range %v: chunks were fetched more than once", d, r)
				}
				if unused := testutil.ToFloat64(s.m.aheadUnused); unused > 0 {
					t.Errorf("direction %d, range %v: %v chunks were fetched in vain", d, r, unused)
				}
				if b.most < 4 || b.most > 5 { // its own and those ahead
					t.Errorf("direction %d, range %v: up to %d requests at once", d, r, b.most)
				}
				if limit := time.Duration(n) * delay / 3; took > limit {
					t.Errorf("direction %d, range %v: took %v for %d chunks, want less than %v", d, r, took, n, limit)
				}
				if left := testutil.ToFloat64(s.m.aheadBytes); left != 0 {
					t.Errorf("%v bytes are still set aside", left)
				}
			})
		}
	}
}

// TestReadAheadStartsSmall: a query that is content with one chunk fetches at
// most one more.
func TestReadAheadStartsSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openSlow(t, time.Millisecond)
		s := New(b, DefaultConfig(), Options{})
		defer s.Close()
		fill(t, s, 1, 30)
		ctx, cancel := context.WithCancel(t.Context())
		if got := run(ctx, t, engine(t, s), `{app="a0"}`, logquery.Backward, 0, day, 1); got != 1 {
			t.Fatalf("%d entries", got)
		}
		cancel()
		synctest.Wait()
		if n := len(b.chunks); n > 2 {
			t.Errorf("%d chunks were fetched for one entry", n)
		}
	})
}

// TestReadAheadBudget loads by hand and looks at what is set aside.
func TestReadAheadBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openSlow(t, time.Second)
		cfg := DefaultConfig()
		cfg.ReadAheadSize = 3 * minReserve
		s := New(b, cfg, Options{})
		defer s.Close()
		fill(t, s, 3, 20)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		series, err := s.Select(ctx, "t", nil, 0, day)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range newestFirst(series) {
			if _, _, err := ref.Load(nil); err != nil {
				t.Fatal(err)
			}
			if used := setAside(s); used > int64(cfg.ReadAheadSize) {
				t.Fatalf("%d bytes are set aside, the budget is %d", used, cfg.ReadAheadSize)
			}
		}
		if b.most > 4 {
			t.Errorf("%d requests at once", b.most)
		}
		if testutil.ToFloat64(s.m.ahead) < 20 {
			t.Errorf("only %v of 60 chunks were fetched ahead", testutil.ToFloat64(s.m.ahead))
		}
	})
}

func setAside(s *Store) int64 {
	s.ahead.mu.Lock()
	defer s.ahead.mu.Unlock()
	return s.ahead.used
}

func (b *slowBucket) underWay() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func newestFirst(series []chunk.Series) []chunk.BlockRef {
	var refs []chunk.BlockRef
	for _, s := range series {
		refs = append(refs, s.Blocks...)
	}
	slices.SortStableFunc(refs, func(a, b chunk.BlockRef) int {
		_, x := a.Bounds()
		_, y := b.Bounds()
		return int((y - x) / 1e6)
	})
	return refs
}

// everything returns all blocks of a store, in the order of newestFirst.
func everything(t *testing.T, ctx context.Context, s *Store) []chunk.BlockRef {
	t.Helper()
	series, err := s.Select(ctx, "t", nil, 0, day)
	if err != nil {
		t.Fatal(err)
	}
	return newestFirst(series)
}

// TestReadAheadEnds: what is under way ends with the query, and its memory is
// given back; so does closing the store.
func TestReadAheadEnds(t *testing.T) {
	for _, how := range []string{"cancel", "close"} {
		synctest.Test(t, func(t *testing.T) {
			b := openSlow(t, time.Hour)
			s := New(b, DefaultConfig(), Options{})
			defer s.Close()
			fill(t, s, 2, 20)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			refs := everything(t, ctx, s)
			loaded := make(chan error, 1)
			go func() {
				_, _, err := refs[0].Load(nil)
				if err == nil {
					_, _, err = refs[1].Load(nil)
				}
				loaded <- err
			}()
			synctest.Wait()
			if n := b.underWay(); n != 2 {
				t.Fatalf("%d requests are under way, want a load and one ahead", n)
			}
			if how == "cancel" {
				cancel()
				if err := <-loaded; !errors.Is(err, context.Canceled) {
					t.Fatalf("load of a query that was cancelled: %v", err)
				}
				synctest.Wait()
				if n, used := b.underWay(), setAside(s); n != 0 || used != 0 {
					t.Fatalf("%d requests are under way, %d bytes set aside", n, used)
				}
				return
			}
			s.Close()
			synctest.Wait()
			if n, used := b.underWay(), setAside(s); n != 1 || used != 0 {
				t.Fatalf("%d requests are under way, want the query's own; %d bytes set aside", n, used)
			}
			// The query goes on without.
			if err := <-loaded; err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestReadAheadErrors: a chunk that cannot be fetched fails the load that asks
// for it, and no other.
func TestReadAheadErrors(t *testing.T) {
	s, b := newStore(t, Options{})
	defer s.Close()
	fill(t, s, 1, 20)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	refs := everything(t, ctx, s)
	lost := refs[7].(*chunkRef).key.String()
	b.fail = func(op, key string) error {
		if key == lost {
			return objstore.ErrNotFound
		}
		return nil
	}
	for i, ref := range refs {
		if _, _, err := ref.Load(nil); (err != nil) != (i == 7) || i == 7 && !objstore.IsNotFound(err) {
			t.Fatalf("chunk %d: %v", i, err)
		}
	}
}

// TestReadAheadAnyOrder: loads in no order are right, and reading ahead gives
// up.
func TestReadAheadAnyOrder(t *testing.T) {
	for _, loaders := range []int{1, 4} { // refs may be used by many
		t.Run(fmt.Sprint(loaders), func(t *testing.T) {
			b := openSlow(t, 0)
			cfg := DefaultConfig()
			cfg.ChunkCacheSize = 0
			s := New(b, cfg, Options{})
			defer s.Close()
			fill(t, s, 4, 50)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			refs := everything(t, ctx, s)
			rand.New(rand.NewPCG(1, 1)).Shuffle(len(refs), func(i, k int) { refs[i], refs[k] = refs[k], refs[i] })
			var wg sync.WaitGroup
			for part := range slices.Chunk(refs, len(refs)/loaders) {
				wg.Go(func() {
					for _, ref := range part {
						content, _, err := ref.Load(nil)
						mint, _ := ref.Bounds()
						if it := chunk.Entries(content); err != nil || !it.Next() || it.TS != mint {
							t.Errorf("load: %v", err)
						}
					}
				})
			}
			wg.Wait()
			// How many were fetched until then is up to the scheduler if there
			// are several loaders.
			if n := testutil.ToFloat64(s.m.ahead); loaders == 1 && n > 60 {
				t.Errorf("%v chunks were fetched ahead", n)
			}
			a := &refs[0].(*chunkRef).sel.ahead
			a.mu.Lock()
			defer a.mu.Unlock()
			if !a.off || len(a.pending) > 0 {
				t.Errorf("off: %v, %d under way", a.off, len(a.pending))
			}
		})
	}
}

// TestNestedChunks: bounds that fit both orders do not keep it from deciding.
func TestNestedChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openSlow(t, time.Millisecond)
		s := New(b, DefaultConfig(), Options{})
		defer s.Close()
		var all index.Series
		for i := range int64(20) {
			x := putChunk(t, s, "t", `{a="b"}`, entry{i * 1e9, fmt.Sprint(i), ""}, entry{(100 - i) * 1e9, fmt.Sprint(i), ""})
			all.Labels, all.Fingerprint, all.Chunks = x.Labels, x.Fingerprint, append(all.Chunks, x.Chunks...)
		}
		putIndex(t, s, "t", all)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if got := run(ctx, t, engine(t, s), `{a="b"}`, logquery.Backward, 0, day, 1000); got != 40 {
			t.Fatalf("%d entries", got)
		}
		if n := testutil.ToFloat64(s.m.ahead); n < 10 {
			t.Errorf("%v chunks were fetched ahead", n)
		}
	})
}

// TestTenThousandStreams: a query over a day of them asks the object store for
// one list of the table and one of the tenant, for one index file, and for the
// chunks that match.
func TestTenThousandStreams(t *testing.T) {
	b := openSlow(t, 0)
	s := New(b, DefaultConfig(), Options{})
	defer s.Close()
	tenThousand(t, s)
	b.lists = 0
	ctx, cancel := context.WithCancel(t.Context())
	if got := run(ctx, t, engine(t, s), `{app="a42"}`, logquery.Backward, 0, day, 5000); got != 100 {
		t.Fatalf("%d entries, want 100", got)
	}
	cancel()
	s.Close() // waits for what was under way
	if b.indexGets != 1 || b.lists != 2 {
		t.Errorf("%d index files were fetched and %d lists", b.indexGets, b.lists)
	}
	if n := testutil.ToFloat64(s.m.indexesRead); n != 1 || testutil.ToFloat64(s.m.indexBytesRead) <= 0 {
		t.Errorf("%v index files were counted", n)
	}
	if slices.Sort(b.chunks); len(b.chunks) != 100 || len(slices.Compact(b.chunks)) != 100 {
		t.Errorf("%d chunks were fetched, 100 match", len(b.chunks))
	}
}

// tenThousand stores a chunk for each of as many streams of 100 apps.
func tenThousand(t testing.TB, s *Store) {
	t.Helper()
	var series []index.Series
	for i := range 10000 {
		at := int64(i) * 8e9
		series = append(series, putChunk(t, s, "t", fmt.Sprintf(`{app="a%d",host="h%d"}`, i%100, i), entry{at, fmt.Sprint("line ", i), ""}))
	}
	putIndex(t, s, "t", series...)
}

func TestLimits(t *testing.T) {
	reg := prometheus.NewRegistry()
	lim := QueryLimits{}
	s, _ := newStore(t, Options{Registerer: reg, Limits: func(tenant string) QueryLimits {
		if tenant != "t" {
			t.Errorf("limits of tenant %q", tenant)
		}
		return lim
	}})
	fill(t, s, 1, 10)
	load := func() error {
		series, err := s.Select(t.Context(), "t", nil, 0, day)
		if err == nil {
			_, err = loadSeries(series[0])
		}
		return err
	}
	f := func(l QueryLimits, want string) {
		t.Helper()
		lim = l
		err := load()
		var le *LimitError
		if want == "" && err != nil || want != "" && (!errors.As(err, &le) || !strings.Contains(le.Msg, want)) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	f(QueryLimits{}, "")
	f(QueryLimits{MaxChunks: 10, MaxBytes: units.MiB}, "")
	f(QueryLimits{MaxChunks: 9}, "matches 10 chunks, the limit max-chunks-per-query is 9")
	f(QueryLimits{MaxBytes: 100}, "the limit max-query-bytes-read is 100")

	// It is asked before each part, too.
	lim = QueryLimits{MaxBytes: 1}
	series, err := s.Select(t.Context(), "t", nil, 0, day)
	if err != nil {
		t.Fatal(err)
	}
	p, err := series[0].Blocks[0].(chunk.PartedRef).Parts()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Load(0, nil, &find.Finder{}); err != nil {
		t.Fatal(err)
	}
	var le *LimitError
	if content, at, err := p.Load(0, nil, &find.Finder{}); !errors.As(err, &le) || at >= 0 || len(content) > 0 {
		t.Errorf("loaded %q over the limit: %v", content, err)
	}
}
