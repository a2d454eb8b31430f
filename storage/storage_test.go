package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/internal/find"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/internal/golden"
	"github.com/loki-go/loki-go/storage/objstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const goldenDir = "testdata/golden"

// bucket counts what is asked of it, and can fail.
type bucket struct {
	objstore.Bucket
	mu   sync.Mutex
	gets map[string]int
	fail func(op, key string) error
}

func (b *bucket) do(op, key string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if op == "get" {
		b.gets[key]++
	}
	if b.fail != nil {
		return b.fail(op, key)
	}
	return nil
}

func (b *bucket) Get(ctx context.Context, key string) ([]byte, error) {
	if err := b.do("get", key); err != nil {
		return nil, err
	}
	return b.Bucket.Get(ctx, key)
}

func (b *bucket) Put(ctx context.Context, key string, body []byte) error {
	if err := b.do("put", key); err != nil {
		return err
	}
	return b.Bucket.Put(ctx, key, body)
}

func (b *bucket) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	if err := b.do("list", prefix); err != nil {
		return nil, err
	}
	return b.Bucket.List(ctx, prefix, recursive)
}

func openBucket(t testing.TB, fsys vfs.FS, root string) *bucket {
	t.Helper()
	f, err := objstore.OpenFilesystem(fsys, root)
	if err != nil {
		t.Fatal(err)
	}
	return &bucket{Bucket: f, gets: map[string]int{}}
}

func newStore(t testing.TB, o Options) (*Store, *bucket) {
	b := openBucket(t, vfs.NewMem(), "/objects")
	return New(b, DefaultConfig(), o), b
}

func parse(t testing.TB, s string) labels.Labels {
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

type entry struct {
	ts   int64
	line string
	meta string
}

// putChunk stores a chunk with these entries, some in a block, and returns its
// series for the index.
func putChunk(t testing.TB, s *Store, tenant, ls string, es ...entry) index.Series {
	t.Helper()
	symbols := chunk.NewSymbols(nil)
	var blocks []chunk.Block
	for part := range slices.Chunk(es, 3) {
		var content []byte
		for _, e := range part {
			var refs []uint32
			if e.meta != "" {
				n, v, _ := strings.Cut(e.meta, "=")
				refs = []uint32{symbols.Intern([]byte(n)), symbols.Intern([]byte(v))}
			}
			content = chunk.AppendEntry(content, e.ts, []byte(e.line), refs)
		}
		b, err := chunk.NewBlock(chunk.Snappy, nil, content)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, b)
	}
	m := chunk.NewMeta(tenant, parse(t, ls), es[0].ts, es[len(es)-1].ts)
	object, err := chunk.Encode(nil, m, chunk.Snappy, symbols.List(), blocks)
	if err != nil {
		t.Fatal(err)
	}
	key := chunk.KeyOf(object, m)
	if err := s.PutChunk(t.Context(), key, object); err != nil {
		t.Fatal(err)
	}
	return index.Series{Labels: m.Labels, Fingerprint: m.Fingerprint, Chunks: []index.ChunkMeta{{
		MinTime: key.From, MaxTime: key.Through, KB: chunk.KB(symbols.Bytes(), blocks), Entries: uint32(len(es)), Checksum: key.Checksum,
	}}}
}

func putIndex(t testing.TB, s *Store, tenant string, series ...index.Series) {
	t.Helper()
	if err := s.PutIndex(t.Context(), tenant, series); err != nil {
		t.Fatal(err)
	}
}

// loadSeries returns all entries of a series in the order of its blocks.
func loadSeries(s chunk.Series) ([]entry, error) {
	var out []entry
	for _, ref := range s.Blocks {
		content, symbols, err := ref.Load([]byte("pre"))
		if err != nil {
			return nil, err
		}
		mint, maxt := ref.Bounds()
		last := int64(math.MinInt64)
		it := chunk.Entries(content[3:])
		for it.Next() {
			if it.TS < last || it.TS < mint || it.TS > maxt {
				return nil, fmt.Errorf("time %d after %d, bounds %d to %d", it.TS, last, mint, maxt)
			}
			last = it.TS
			e := entry{ts: it.TS, line: string(it.Line)}
			for i := range it.NumPairs {
				e.meta += symbols[it.Sym(2*i)] + "=" + symbols[it.Sym(2*i+1)] + ";"
			}
			out = append(out, e)
		}
		if it.Err() != nil {
			return nil, it.Err()
		}
	}
	return out, nil
}

// selectAll renders what a Select gives.
func selectAll(t testing.TB, s *Store, tenant string, from, through int64, ms ...*labels.Matcher) string {
	t.Helper()
	series, err := s.Select(t.Context(), tenant, ms, from, through)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, x := range series {
		es, err := loadSeries(x)
		if err != nil {
			t.Fatal(err)
		}
		text := x.Labels.String()
		for _, e := range es {
			text += " " + e.line
		}
		lines = append(lines, text)
	}
	sets, err := s.LabelSets(t.Context(), tenant, ms, from, through)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sets {
		if i >= len(series) || !slices.Equal(sets[i], series[i].Labels) {
			t.Fatalf("label sets %v of %d series", sets, len(series))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

const (
	always = math.MaxInt64
	never  = math.MinInt64
	day    = int64(24 * time.Hour)
)

// copyTree copies the golden objects of one codec, so that nothing is written
// beside the originals.
func copyTree(t testing.TB, from string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return root
}

// TestGolden reads buckets that Loki wrote, with index files of many tenants,
// and one that its compactor was at.
func TestGolden(t *testing.T) {
	streams := golden.Streams(t, goldenDir)
	for _, c := range chunk.Codecs() {
		root := copyTree(t, filepath.Join(goldenDir, c.String()))
		checkGolden(t, New(openBucket(t, vfs.OS, root), DefaultConfig(), Options{FileKeys: true}), streams, c.String())
	}
	root := copyTree(t, filepath.Join(goldenDir, "snappy"))
	if err := os.RemoveAll(filepath.Join(root, "index")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(root, os.DirFS(filepath.Join(goldenDir, "compacted-by-loki"))); err != nil {
		t.Fatal(err)
	}
	checkGolden(t, New(openBucket(t, vfs.OS, root), DefaultConfig(), Options{FileKeys: true}), streams, "compacted")
}

func checkGolden(t *testing.T, s *Store, streams map[string]golden.Stream, what string) {
	t.Helper()
	found := 0
	for _, tenant := range []string{"golden-a", "golden-b", "nobody"} {
		series, err := s.Select(t.Context(), tenant, nil, never, always)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, x := range series {
			want, ok := streams[fmt.Sprintf("%s/%016x", tenant, x.Labels.Fingerprint())]
			if !ok || want.Tenant != tenant || !slices.Equal(labels.FromMap(want.Labels), x.Labels) {
				t.Fatalf("%s: unknown stream %s of %s", what, x.Labels, tenant)
			}
			got, err := loadSeries(x)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if len(x.Blocks) != 1 || len(got) != len(want.Entries) || x.Blocks[0].NumEntries() != len(got) {
				t.Fatalf("%s: %s has %d blocks with %d entries, want %d", what, x.Labels, len(x.Blocks), len(got), len(want.Entries))
			}
			for i, raw := range want.Entries {
				if e := goldenEntry(t, raw); e != got[i] {
					t.Fatalf("%s: %s: entry %d is %+v, want %+v", what, x.Labels, i, got[i], e)
				}
			}
			found++
		}
	}
	if found != len(streams) {
		t.Fatalf("%s: %d streams, want %d", what, found, len(streams))
	}
}

func goldenEntry(t *testing.T, raw []json.RawMessage) (e entry) {
	t.Helper()
	var ts string
	meta := map[string]string{}
	for i, v := range []any{&ts, &e.line, &meta} {
		if i < len(raw) {
			if err := json.Unmarshal(raw[i], v); err != nil {
				t.Fatal(err)
			}
		}
	}
	var err error
	if e.ts, err = strconv.ParseInt(ts, 10, 64); err != nil {
		t.Fatal(err)
	}
	for _, l := range labels.FromMap(meta) {
		e.meta += l.Name + "=" + l.Value + ";"
	}
	return e
}

// TestGoldenMatchers selects in files of many tenants.
func TestGoldenMatchers(t *testing.T) {
	root := copyTree(t, filepath.Join(goldenDir, "snappy"))
	s := New(openBucket(t, vfs.OS, root), DefaultConfig(), Options{FileKeys: true})
	f := func(tenant string, want int, ms ...*labels.Matcher) {
		t.Helper()
		sets, err := s.LabelSets(t.Context(), tenant, ms, never, always)
		if err != nil || len(sets) != want {
			t.Fatalf("%s %v: %v, want %d: %v", tenant, ms, sets, want, err)
		}
		for _, ls := range sets {
			if ls.Get(tenantLabel) != "" {
				t.Fatalf("%s has the tenant's label", ls)
			}
		}
	}
	f("golden-a", 6)
	f("golden-b", 1)
	f("golden-a", 2, matcher(t, labels.MatchEqual, "app", "api"))
	f("golden-b", 1, matcher(t, labels.MatchEqual, "app", "api"))
	f("golden-a", 1, matcher(t, labels.MatchEqual, "app", "api"), matcher(t, labels.MatchNotEqual, "env", "prod"))
	f("golden-a", 4, matcher(t, labels.MatchNotRegexp, "app", "a.*"))
}

func TestPutAndSelect(t *testing.T) {
	for _, fileKeys := range []bool{false, true} {
		s, b := newStore(t, Options{FileKeys: fileKeys, Registerer: prometheus.NewRegistry()})
		one := putChunk(t, s, "t", `{app="a", env="x"}`, entry{1, "1", ""}, entry{2, "2", "k=v"}, entry{3, "3", ""}, entry{1_000_000_000, "4", ""})
		two := putChunk(t, s, "t", `{app="a", env="x"}`, entry{2_000_000_000, "5", ""})
		other := putChunk(t, s, "t", `{app="b", env="x"}`, entry{5, "6", ""})
		foreign := putChunk(t, s, "u", `{app="a", env="x"}`, entry{5, "7", ""})
		if got := selectAll(t, s, "t", never, always); got != "" {
			t.Fatalf("before the index: %s", got)
		}
		putIndex(t, s, "t", one, other)
		if got := selectAll(t, s, "t", never, always); got != "{app=\"a\", env=\"x\"} 1 2 3 4\n{app=\"b\", env=\"x\"} 6" {
			t.Fatalf("after the first index: %s", got)
		}
		putIndex(t, s, "t", two, one) // again, and more
		putIndex(t, s, "u", foreign)
		f := func(tenant string, from, through int64, want string, ms ...*labels.Matcher) {
			t.Helper()
			if got := selectAll(t, s, tenant, from, through, ms...); got != want {
				t.Fatalf("%s %d to %d %v: got\n%s\nwant\n%s", tenant, from, through, ms, got, want)
			}
		}
		f("t", never, always, `{app="a", env="x"} 1 2 3 4 5`, matcher(t, labels.MatchEqual, "app", "a"))
		f("t", never, always, `{app="b", env="x"} 6`, matcher(t, labels.MatchNotEqual, "app", "a"))
		f("t", 0, 1e9, `{app="a", env="x"} 1 2 3`, matcher(t, labels.MatchEqual, "app", "a")) // not its second block
		f("t", 1e9, 1e9+1, `{app="a", env="x"} 4`)
		f("t", 2e9, 3e9, `{app="a", env="x"} 5`)
		f("t", 3e9, always, ``)
		f("t", 7, 7, ``)
		f("u", never, always, `{app="a", env="x"} 7`)
		f("nobody", never, always, ``)
		keys, err := b.Bucket.List(t.Context(), "", true)
		if err != nil {
			t.Fatal(err)
		}
		chunks := 0
		for _, k := range keys {
			if strings.HasPrefix(k, "index/") {
				continue
			}
			chunks++
			parseKey := chunk.ParseKey
			if fileKeys {
				parseKey = chunk.ParseFileKey
			}
			if _, err := parseKey(k); err != nil {
				t.Fatal(err)
			}
		}
		if chunks != 4 {
			t.Fatalf("%d chunks in %q", chunks, keys)
		}
	}
}

func TestTables(t *testing.T) {
	now := time.Unix(0, 42)
	s, b := newStore(t, Options{Now: func() time.Time { return now }})
	over := putChunk(t, s, "t", `{a="over"}`, entry{day - 1, "x", ""}, entry{2*day + 1, "y", ""})
	edge := putChunk(t, s, "t", `{a="edge"}`, entry{5*day - 1, "z", ""}) // its bound is midnight
	old := putChunk(t, s, "t", `{a="old"}`, entry{-day, "w", ""})
	putIndex(t, s, "t", over, edge, old)
	putIndex(t, s, "t", over)
	keys, err := b.Bucket.List(t.Context(), "index/", true)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, k := range keys {
		table, file, _ := strings.Cut(strings.TrimPrefix(k, "index/"), "/t/")
		parts := strings.SplitN(file, "-", 3)
		if len(parts) != 3 || parts[1] != "compactor" || !strings.HasSuffix(file, ".tsdb.gz") {
			t.Fatalf("index file %s", k)
		}
		r, err := s.openIndex(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		info := r.Info()
		if want := fmt.Sprintf("%d-%d-%x.tsdb.gz", info.From, info.Through, info.Checksum); parts[2] != want {
			t.Fatalf("index file %s, want ...%s", k, want)
		}
		names = append(names, table+" "+parts[0])
	}
	slices.Sort(names)
	want := []string{"index_-1 42", "index_0 43", "index_0 48", "index_1 44", "index_1 49", "index_2 45", "index_2 50", "index_4 46", "index_5 47"}
	if !slices.Equal(names, want) {
		t.Fatalf("tables and numbers %q, want %q", names, want)
	}
	f := func(from, through int64, want string) {
		t.Helper()
		if got := selectAll(t, s, "t", from, through); got != want {
			t.Fatalf("%d to %d: got\n%s\nwant\n%s", from, through, got, want)
		}
	}
	f(never, always, "{a=\"edge\"} z\n{a=\"old\"} w\n{a=\"over\"} x y")
	f(0, 10*day, "{a=\"edge\"} z\n{a=\"over\"} x y")
	f(day, day+1, `{a="over"} x y`)
	f(2*day, 3*day, `{a="over"} x y`)
	f(3*day, 4*day, ``)
	f(5*day-1, 5*day, `{a="edge"} z`)
	f(-day, -day+1, `{a="old"} w`)
	f(-100*day, -day, ``)
}

// TestForeignFiles has files that are no index in the folders of tables.
func TestForeignFiles(t *testing.T) {
	s, b := newStore(t, Options{})
	c := putChunk(t, s, "t", `{a="b"}`, entry{5, "x", ""})
	putIndex(t, s, "t", c)
	for _, key := range []string{"index/readme", "index/index_0/readme", "index/index_0/t/readme", "index/index_x/y.tsdb", "index/index_00/y.tsdb", "index/index_0/t/deep/y.tsdb"} {
		if err := b.Put(t.Context(), key, []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	for _, span := range []int64{1, 1000} {
		if got := selectAll(t, s, "t", 0, span*day); got != `{a="b"} x` {
			t.Fatalf("over %d days: %s", span, got)
		}
	}
	// An uncompressed file is one.
	file, _, err := index.Build(nil, []index.Series{putChunk(t, s, "t", `{a="plain"}`, entry{6, "y", ""})})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), "index/index_0/t/1-compactor-0-1-1.tsdb", file); err != nil {
		t.Fatal(err)
	}
	if got := selectAll(t, s, "t", 0, day); got != "{a=\"b\"} x\n{a=\"plain\"} y" {
		t.Fatalf("with a plain file: %s", got)
	}
}

// TestDamage shows that what cannot be read is an error, and nothing is left
// out.
func TestDamage(t *testing.T) {
	s, b := newStore(t, Options{})
	c := putChunk(t, s, "t", `{a="b"}`, entry{5, "x", ""})
	putIndex(t, s, "t", c)
	key := chunk.Key{Tenant: "t", Fingerprint: c.Fingerprint, From: c.Chunks[0].MinTime, Through: c.Chunks[0].MaxTime, Checksum: c.Chunks[0].Checksum}
	object, err := b.Get(t.Context(), key.String())
	if err != nil {
		t.Fatal(err)
	}
	files, err := b.List(t.Context(), "index/", true)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	file, err := b.Get(t.Context(), files[0])
	if err != nil {
		t.Fatal(err)
	}
	// A store without caches sees every change.
	s = New(b, Config{Concurrency: 1}, Options{})
	loadError := func(what string, is func(error) bool) {
		t.Helper()
		series, err := s.Select(t.Context(), "t", nil, 0, day)
		if err != nil || len(series) != 1 {
			t.Fatalf("%s: %v, %v", what, series, err)
		}
		if _, err = loadSeries(series[0]); err == nil || !strings.Contains(err.Error(), key.String()) || !is(err) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	has := func(text string) func(error) bool {
		return func(err error) bool { return strings.Contains(err.Error(), text) }
	}
	set := func(key string, body []byte) {
		t.Helper()
		if err := b.Put(t.Context(), key, body); err != nil {
			t.Fatal(err)
		}
	}
	for i := range object {
		bad := bytes.Clone(object)
		bad[i] ^= 1 << (i % 8)
		set(key.String(), bad)
		loadError(fmt.Sprintf("byte %d", i), has("checksum"))
	}
	set(key.String(), object[:len(object)/2])
	loadError("half", has("checksum"))
	set(key.String(), nil)
	loadError("empty", has("checksum"))
	if err := b.Delete(t.Context(), key.String()); err != nil {
		t.Fatal(err)
	}
	loadError("missing", objstore.IsNotFound)
	set(key.String(), object)
	if got := selectAll(t, s, "t", 0, day); got != `{a="b"} x` {
		t.Fatalf("repaired: %s", got)
	}

	// The right object under the name of another chunk.
	other := index.Series{Labels: parse(t, `{a="c"}`), Fingerprint: 77, Chunks: c.Chunks}
	set(chunk.Key{Tenant: "t", Fingerprint: 77, From: key.From, Through: key.Through, Checksum: key.Checksum}.String(), object)
	putIndex(t, s, "t", other)
	series, err := s.Select(t.Context(), "t", []*labels.Matcher{matcher(t, labels.MatchEqual, "a", "c")}, 0, day)
	if err != nil || len(series) != 1 {
		t.Fatalf("%v, %v", series, err)
	}
	if _, err := loadSeries(series[0]); err == nil || !strings.Contains(err.Error(), "the object is chunk "+key.String()) {
		t.Fatalf("object of another stream: %v", err)
	}
	// Same stream id, other labels.
	putIndex(t, s, "t", index.Series{Labels: parse(t, `{a="d"}`), Fingerprint: c.Fingerprint, Chunks: c.Chunks})
	series, err = s.Select(t.Context(), "t", []*labels.Matcher{matcher(t, labels.MatchEqual, "a", "d")}, 0, day)
	if err != nil || len(series) != 1 {
		t.Fatalf("%v, %v", series, err)
	}
	if _, err := loadSeries(series[0]); err == nil || !strings.Contains(err.Error(), `labels are {a="b"}`) {
		t.Fatalf("object with other labels: %v", err)
	}

	accepted := 0
	for i := range len(file) {
		bad := bytes.Clone(file)
		bad[i] ^= 1 << (i % 8)
		set(files[0], bad)
		r, err := s.openIndex(t.Context(), files[0])
		if err == nil {
			// Some bits of gzip mean nothing.
			var all []index.Series
			if all, err = r.All(); err == nil && fmt.Sprint(all) != fmt.Sprint([]index.Series{c}) {
				t.Fatalf("byte %d of the index file: accepted with other content", i)
			}
			accepted++
			continue
		}
		if _, err = s.Select(t.Context(), "t", nil, 0, day); err == nil || !strings.Contains(err.Error(), files[0]) {
			t.Fatalf("byte %d of the index file: %v", i, err)
		}
	}
	if accepted > 10 {
		t.Fatalf("%d of %d damaged index files are accepted", accepted, len(file))
	}
	set(files[0], file[:len(file)-1])
	if _, err := s.LabelSets(t.Context(), "t", nil, 0, day); err == nil {
		t.Fatal("truncated index file: no error")
	}
	set(files[0], nil)
	if _, err := s.LabelSets(t.Context(), "t", nil, 0, day); err == nil {
		t.Fatal("empty index file: no error")
	}
}

// TestCompactor has index files replaced between listing and reading.
func TestCompactor(t *testing.T) {
	s, b := newStore(t, Options{})
	c := putChunk(t, s, "t", `{a="b"}`, entry{5, "x", ""})
	putIndex(t, s, "t", c)
	files, err := b.List(t.Context(), "index/", true)
	if err != nil {
		t.Fatal(err)
	}
	once := false
	b.fail = func(op, key string) error {
		if op == "get" && key == files[0] && !once {
			once = true
			return errors.Join(b.Bucket.Delete(context.Background(), key), s.PutIndex(context.Background(), "t", []index.Series{c}), objstore.ErrNotFound)
		}
		return nil
	}
	unlocked := b.fail
	b.fail = func(op, key string) error { // PutIndex comes here too
		b.mu.Unlock()
		defer b.mu.Lock()
		return unlocked(op, key)
	}
	if got := selectAll(t, s, "t", 0, day); got != `{a="b"} x` || !once {
		t.Fatalf("%s", got)
	}
	b.fail = func(op, key string) error {
		if op == "get" {
			return objstore.ErrNotFound
		}
		return nil
	}
	s = New(b, DefaultConfig(), Options{})
	if _, err := s.LabelSets(t.Context(), "t", nil, 0, day); !objstore.IsNotFound(err) {
		t.Fatalf("a file that is listed and never there: %v", err)
	}
}

func TestErrors(t *testing.T) {
	s, b := newStore(t, Options{})
	c := putChunk(t, s, "t", `{a="b"}`, entry{5, "x", ""})
	for _, tenant := range []string{"", ".", "..", "a/b", "../t", `a\b`} {
		_, err1 := s.Select(t.Context(), tenant, nil, never, always)
		_, err2 := s.LabelSets(t.Context(), tenant, nil, never, always)
		if err1 == nil || err2 == nil || s.PutIndex(t.Context(), tenant, []index.Series{c}) == nil || s.PutChunk(t.Context(), chunk.Key{Tenant: tenant}, nil) == nil {
			t.Fatalf("tenant %q is accepted", tenant)
		}
	}
	if err := s.PutChunk(t.Context(), chunk.Key{Tenant: "t", Checksum: 1}, []byte("x")); err == nil {
		t.Fatal("chunk under a wrong key: no error")
	}
	if err := s.PutIndex(t.Context(), "t", []index.Series{{Labels: labels.Labels{{Name: "b", Value: ""}}, Chunks: c.Chunks}}); err == nil {
		t.Fatal("malformed labels: no error")
	}
	if err := s.PutIndex(t.Context(), "t", nil); err != nil {
		t.Fatalf("nothing to list: %v", err)
	}
	for _, op := range []string{"put", "list", "get"} {
		s, b := newStore(t, Options{})
		c := putChunk(t, s, "t", `{a="b"}`, entry{5, "x", ""})
		if op != "put" {
			putIndex(t, s, "t", c)
		}
		boom := errors.New("boom")
		b.fail = func(o, key string) error {
			if o == op {
				return boom
			}
			return nil
		}
		var err error
		if op == "put" {
			err = s.PutIndex(t.Context(), "t", []index.Series{c})
		} else {
			_, err = s.Select(t.Context(), "t", nil, 0, day)
		}
		if !errors.Is(err, boom) {
			t.Fatalf("%s fails: %v", op, err)
		}
	}
	// The loads of a query end with it.
	putIndex(t, s, "t", c)
	ctx, cancel := context.WithCancel(t.Context())
	series, err := s.Select(ctx, "t", nil, 0, day)
	if err != nil || len(series) != 1 {
		t.Fatalf("%v, %v", series, err)
	}
	cancel()
	if _, err := loadSeries(series[0]); !errors.Is(err, context.Canceled) {
		t.Fatalf("load after its query was cancelled: %v", err)
	}
	_ = b
}

// TestSelectSeesPutIndex has writers and readers at once: what PutIndex has
// returned for is found.
func TestSelectSeesPutIndex(t *testing.T) {
	s, _ := newStore(t, Options{})
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			ls := fmt.Sprintf(`{w="%d"}`, w)
			m := matcher(t, labels.MatchEqual, "w", fmt.Sprint(w))
			want := ls
			for i := range 15 {
				putIndex(t, s, "t", putChunk(t, s, "t", ls, entry{int64(i) * 10e6, fmt.Sprint(i), ""}))
				want += fmt.Sprint(" ", i)
				if got := selectAll(t, s, "t", 0, day, m); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		})
	}
	wg.Wait()
}

func TestCaching(t *testing.T) {
	s, b := newStore(t, Options{})
	for i := range 5 {
		putIndex(t, s, "t", putChunk(t, s, "t", `{a="b"}`, entry{int64(i) * 10e6, fmt.Sprint(i), ""}))
	}
	for range 3 {
		if got := selectAll(t, s, "t", 0, day); got != `{a="b"} 0 1 2 3 4` {
			t.Fatal(got)
		}
	}
	if len(b.gets) != 10 {
		t.Fatalf("%d objects were fetched, want 10", len(b.gets))
	}
	for key, n := range b.gets {
		if n != 1 {
			t.Fatalf("%s was fetched %d times", key, n)
		}
	}
}

func TestCacheBounds(t *testing.T) {
	c := newCache[int](1000, newMetrics(nil).cache("x"))
	get := func(key string, size int64) (loaded bool) {
		t.Helper()
		v, err := c.get(t.Context(), key, func() (int, int64, error) {
			loaded = true
			return len(key), size, nil
		})
		if err != nil || v != len(key) {
			t.Fatalf("%s: %d, %v", key, v, err)
		}
		return loaded
	}
	f := func(key string, size int64, want bool) {
		t.Helper()
		if got := get(key, size); got != want {
			t.Fatalf("%s: loaded: %v", key, got)
		}
	}
	f("a", 200, true)
	f("b", 200, true)
	f("a", 200, false)
	f("c", 200, true) // 3 × 329
	f("a", 200, false)
	f("d", 200, true) // b goes
	f("a", 200, false)
	f("b", 200, true) // c goes
	f("d", 200, false)
	f("huge", 5000, true)
	f("huge", 5000, true)
	f("d", 200, false)
	if c.size > c.max || c.order.Len() != len(c.entries) {
		t.Fatalf("%d bytes, %d entries", c.size, len(c.entries))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		get(fmt.Sprint(r.IntN(50)), int64(r.IntN(300)))
		total := int64(0)
		for e := c.order.Front(); e != nil; e = e.Next() {
			total += e.Value.(*cached[int]).size
		}
		if total != c.size || c.size > c.max {
			t.Fatalf("%d bytes counted, %d kept", c.size, total)
		}
	}
}

// TestCacheTogether has many ask for a value that is being loaded.
func TestCacheTogether(t *testing.T) {
	c := newCache[int](1<<20, newMetrics(nil).cache("x"))
	started, release := make(chan struct{}), make(chan error)
	results := make(chan error, 10)
	go func() {
		_, err := c.get(t.Context(), "k", func() (int, int64, error) {
			close(started)
			return 1, 1, <-release
		})
		results <- err
	}()
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.get(ctx, "k", nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("a waiter that gave up: %v", err)
	}
	var loads sync.Map
	for i := range 5 {
		go func() {
			v, err := c.get(t.Context(), "k", func() (int, int64, error) {
				loads.Store(i, true)
				return 2, 1, nil
			})
			if err == nil && v != 2 {
				err = fmt.Errorf("got %d", v)
			}
			results <- err
		}()
	}
	boom := errors.New("boom")
	release <- boom // the first fails, one of the others loads for all
	failed := 0
	for range 6 {
		if err := <-results; err == boom {
			failed++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	loads.Range(func(any, any) bool { n++; return true })
	if failed != 1 || n != 1 {
		t.Fatalf("%d failed, %d loaded", failed, n)
	}
}

// TestOverlap reads a chunk of another writer whose blocks overlap.
func TestOverlap(t *testing.T) {
	s, _ := newStore(t, Options{})
	var blocks []chunk.Block
	for _, ts := range [][]int64{{1, 5, 9}, {2, 5, 6}, {9, 10}} {
		var content []byte
		for _, x := range ts {
			content = chunk.AppendEntry(content, x, fmt.Append(nil, len(blocks), ":", x), nil)
		}
		b, err := chunk.NewBlock(chunk.None, nil, content)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, b)
	}
	m := chunk.NewMeta("t", parse(t, `{a="b"}`), 1, 10)
	object, err := chunk.Encode(nil, m, chunk.None, nil, blocks)
	if err != nil {
		t.Fatal(err)
	}
	key := chunk.KeyOf(object, m)
	if err := s.PutChunk(t.Context(), key, object); err != nil {
		t.Fatal(err)
	}
	putIndex(t, s, "t", index.Series{Labels: m.Labels, Fingerprint: m.Fingerprint, Chunks: []index.ChunkMeta{{MinTime: key.From, MaxTime: key.Through, Entries: 8, Checksum: key.Checksum}}})
	if got := selectAll(t, s, "t", 0, day); got != `{a="b"} 0:1 1:2 0:5 1:5 1:6 0:9 2:9 2:10` {
		t.Fatal(got)
	}
	if got := partsOf(t, s, 0, day, "2:9"); got != "[1 10 8 0 has]" {
		t.Errorf("parts that overlap: %s", got)
	}
	// Those that the range touches do not.
	if got := partsOf(t, s, 7, day, "2:9"); got != "[1 9 3 0 no] [9 10 2 214 has]" {
		t.Errorf("parts: %s", got)
	}
}

// partsOf loads the parts of the only chunk, and looks for a text in them. It
// returns the bounds, number and place of the entries, and whether they have it.
func partsOf(t *testing.T, s *Store, from, through int64, text string) (out string) {
	t.Helper()
	series, err := s.Select(t.Context(), "t", nil, from, through)
	if err != nil {
		t.Fatal(err)
	}
	p, err := series[0].Blocks[0].(chunk.PartedRef).Parts()
	if err != nil {
		t.Fatal(err)
	}
	finder := find.New([]byte(text))
	for i := range p.Len() {
		content, at, err := p.Load(i, []byte("before"), &finder)
		if err != nil {
			t.Fatal(err)
		}
		has := "no"
		if at >= 0 {
			has = "has"
			if !bytes.HasPrefix(content[len("before")+at:], []byte(text)) {
				t.Errorf("%q is not at %d of %q", text, at, content)
			}
		}
		info := p.Info(i)
		out += fmt.Sprintf(" [%d %d %d %d %s]", info.MinT, info.MaxT, info.Entries, info.Off, has)
	}
	return strings.TrimPrefix(out, " ")
}

func TestConfig(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	if errs := (Config{IndexCacheSize: -1, ChunkCacheSize: -1}).Validate(); len(errs) != 3 {
		t.Fatal(errs)
	}
}

func TestMillisToNanos(t *testing.T) {
	for ms, want := range map[int64]int64{0: 0, -1: -1e6, 5: 5e6, math.MaxInt64: math.MaxInt64, math.MinInt64: math.MinInt64, math.MaxInt64 / 1_000_000: math.MaxInt64 / 1_000_000 * 1e6} {
		if got := millisToNanos(ms); got != want {
			t.Fatalf("%d: %d, want %d", ms, got, want)
		}
	}
}

func BenchmarkSelect(b *testing.B) {
	s, _ := newStore(b, Options{})
	r := rand.New(rand.NewPCG(1, 2))
	for f := range 20 {
		series := make([]index.Series, 1000)
		for i := range series {
			ls := labels.FromMap(map[string]string{"app": fmt.Sprint("app-", i%50), "pod": fmt.Sprint("pod-", i)})
			from := int64(f) * 60_000
			series[i] = index.Series{Labels: ls, Fingerprint: ls.Fingerprint(), Chunks: []index.ChunkMeta{{MinTime: from, MaxTime: from + 60_000, KB: 1, Entries: 1, Checksum: r.Uint32()}}}
		}
		putIndex(b, s, "t", series...)
	}
	ms := []*labels.Matcher{matcher(b, labels.MatchEqual, "app", "app-7")}
	b.ReportAllocs()
	for b.Loop() {
		got, err := s.Select(b.Context(), "t", ms, 0, day)
		if err != nil || len(got) != 20 || len(got[0].Blocks) != 20 {
			b.Fatal(len(got), err)
		}
	}
}

func BenchmarkPutIndex(b *testing.B) {
	s, _ := newStore(b, Options{})
	series := make([]index.Series, 10_000)
	for i := range series {
		ls := labels.FromMap(map[string]string{"app": fmt.Sprint("app-", i%50), "pod": fmt.Sprint("pod-", i)})
		series[i] = index.Series{Labels: ls, Fingerprint: ls.Fingerprint(), Chunks: []index.ChunkMeta{{MinTime: 1, MaxTime: 60_000, KB: 1, Entries: 1, Checksum: uint32(i)}}}
	}
	b.ReportAllocs()
	for b.Loop() {
		putIndex(b, s, "t", series...)
	}
}
