package fsck

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
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

// site is a bucket and what was stored there.
type site struct {
	t        testing.TB
	fs       *vfs.Mem
	bucket   objstore.Bucket
	fileKeys bool
	codec    chunk.Codec
	store    *storage.Store
	mu       sync.Mutex
	lines    map[string][]string // by tenant
	n        int
	first    string // key of a chunk
}

func newSite(t testing.TB, fileKeys bool) *site {
	t.Helper()
	s := &site{t: t, fs: vfs.NewMem(), fileKeys: fileKeys, codec: chunk.ZSTD, lines: map[string][]string{}}
	b, err := objstore.OpenFilesystem(s.fs, "/objects")
	if err != nil {
		t.Fatal(err)
	}
	s.bucket = b
	s.reopen()
	return s
}

// reopen makes a store that has nothing in its caches.
func (s *site) reopen() {
	if s.store != nil {
		s.store.Close()
	}
	cfg := storage.DefaultConfig()
	cfg.ChunkCacheSize, cfg.IndexCacheSize = 0, 0
	s.store = storage.New(s.bucket, cfg, storage.Options{FileKeys: s.fileKeys})
}

// midnight is the beginning of a table.
var midnight = time.Date(2024, 5, 17, 0, 0, 0, 0, time.UTC)

func parse(t testing.TB, s string) labels.Labels {
	t.Helper()
	ls, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

// chunk stores a chunk of a few blocks with lines, one a minute, in the middle
// of which is at, and returns what an index says of it.
func (s *site) chunk(b objstore.Bucket, tenant, stream string, at time.Time, lines int) (index.Series, chunk.Key) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var blocks []chunk.Block
	first := at.Add(-time.Duration(lines/2) * time.Minute)
	symbols := []string{"trace", "abc"}
	var texts []string
	size := 0
	for i := 0; i < lines; {
		var content []byte
		for range 3 {
			if i == lines {
				break
			}
			s.n++
			text := fmt.Sprintf("%s line %d of %s", tenant, s.n, stream)
			texts = append(texts, text)
			content = chunk.AppendEntry(content, first.Add(time.Duration(i)*time.Minute).UnixNano(), []byte(text), []uint32{0, 1})
			i++
		}
		blk, err := chunk.NewBlock(s.codec, nil, content)
		if err != nil {
			s.t.Fatal(err)
		}
		size += blk.Size
		blocks = append(blocks, blk)
	}
	m := chunk.NewMeta(tenant, parse(s.t, stream), first.UnixNano(), first.Add(time.Duration(lines-1)*time.Minute).UnixNano())
	object, err := chunk.Encode(nil, m, s.codec, symbols, blocks)
	if err != nil {
		s.t.Fatal(err)
	}
	key := chunk.KeyOf(object, m)
	if err := b.Put(s.t.Context(), s.object(key), object); err != nil {
		s.t.Fatal(err)
	}
	s.lines[tenant] = append(s.lines[tenant], texts...)
	meta := index.ChunkMeta{MinTime: key.From, MaxTime: key.Through, KB: chunk.KB(8, blocks), Entries: uint32(lines), Checksum: key.Checksum}
	return index.Series{Labels: m.Labels, Fingerprint: m.Fingerprint, Chunks: []index.ChunkMeta{meta}}, key
}

func (s *site) object(k chunk.Key) string {
	if s.fileKeys {
		return k.FileKey()
	}
	return k.String()
}

// index lists chunks, as a flush does.
func (s *site) index(tenant string, series ...index.Series) {
	s.t.Helper()
	if err := s.store.PutIndex(s.t.Context(), tenant, series); err != nil {
		s.t.Fatal(err)
	}
}

// fill stores two tenants with streams over three days, among them chunks that
// cross midnight, in several index files.
func fill(t testing.TB, fileKeys bool) *site {
	s := newSite(t, fileKeys)
	for _, tenant := range []string{"team-a", "index", "loki-go"} {
		for day := range 3 {
			var series []index.Series
			for stream := range 4 {
				for part := range 2 {
					at := midnight.Add(time.Duration(day*24+part*12)*time.Hour + time.Duration(stream)*time.Minute)
					one, _ := s.chunk(s.bucket, tenant, fmt.Sprintf(`{app="app-%d", pod="p"}`, stream), at, 8)
					series = append(series, one)
				}
			}
			s.index(tenant, series[:4]...)
			s.index(tenant, series[4:]...)
		}
	}
	return s
}

// shared stores an index file of many tenants, as Loki's ingesters do.
func (s *site) shared(day int64, name string, tenants map[string][]index.Series) string {
	s.t.Helper()
	var all []index.Series
	for tenant, series := range tenants {
		for _, one := range series {
			m := one.Labels.Map()
			m[storage.TenantLabel] = tenant
			all = append(all, index.Series{Labels: labels.FromMap(m), Fingerprint: one.Fingerprint, Chunks: one.Chunks})
		}
	}
	file, _, err := index.Build(nil, all)
	if err != nil {
		s.t.Fatal(err)
	}
	object, err := storage.PackIndex(file)
	if err != nil {
		s.t.Fatal(err)
	}
	key := fmt.Sprintf("%s%d-%s.tsdb.gz", storage.TableDir(day), midnight.Unix(), name)
	if err := s.bucket.Put(s.t.Context(), key, object); err != nil {
		s.t.Fatal(err)
	}
	return key
}

// visible returns all lines of a tenant that a query finds, sorted.
func (s *site) visible(tenant string) ([]string, error) {
	series, err := s.store.Select(context.Background(), tenant, nil, math.MinInt64, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, one := range series {
		for _, b := range one.Blocks {
			content, _, err := b.Load(nil)
			if err != nil {
				return nil, err
			}
			it := chunk.Entries(content)
			for it.Next() {
				out = append(out, string(it.Line))
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// wantAll fails unless every line that was stored is found, once.
func (s *site) wantAll(when string) {
	s.t.Helper()
	s.reopen()
	for tenant, lines := range s.lines {
		got, err := s.visible(tenant)
		if err != nil {
			s.t.Fatalf("%s: tenant %s: %v", when, tenant, err)
		}
		if want := slices.Sorted(slices.Values(lines)); !slices.Equal(got, want) {
			s.t.Fatalf("%s: tenant %s: %d lines are found, want %d", when, tenant, len(got), len(want))
		}
	}
}

func (s *site) keys(prefix string) []string {
	s.t.Helper()
	keys, err := s.bucket.List(s.t.Context(), prefix, true)
	if err != nil {
		s.t.Fatal(err)
	}
	return keys
}

func (s *site) get(key string) []byte {
	s.t.Helper()
	b, err := s.bucket.Get(s.t.Context(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *site) put(key string, body []byte) {
	s.t.Helper()
	if err := s.bucket.Put(s.t.Context(), key, body); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) delete(key string) {
	s.t.Helper()
	if err := s.bucket.Delete(s.t.Context(), key); err != nil {
		s.t.Fatal(err)
	}
}

// chunkKeys and indexKeys return what is in the bucket.
func (s *site) chunkKeys() []string {
	return slices.DeleteFunc(s.keys(""), func(k string) bool {
		_, err := storage.ParseIndexKey(k)
		return err == nil || strings.HasPrefix(k, "loki-go/compactor/") || strings.HasPrefix(k, SetAsideDir)
	})
}

func (s *site) indexKeys() []string {
	return slices.DeleteFunc(s.keys("index/index_"), func(k string) bool {
		_, err := storage.ParseIndexKey(k)
		return err != nil
	})
}

// contents is the whole bucket.
func (s *site) contents() map[string]string {
	out := map[string]string{}
	for _, k := range s.keys("") {
		out[k] = string(s.get(k))
	}
	return out
}

// testConfig takes nothing for recent.
func testConfig() Config {
	c := DefaultConfig()
	c.Grace, c.Concurrency = 0, 3
	return c
}

// run looks at b and returns the findings in order, without those that are
// named.
func (s *site) run(b objstore.Bucket, cfg Config) ([]Finding, *Summary, error) {
	var out []Finding
	c := New(cfg, Deps{Bucket: b, FileKeys: s.fileKeys, Report: func(f Finding) { out = append(out, f) }})
	sum, err := c.Run(s.t.Context())
	slices.SortFunc(out, func(a, b Finding) int {
		return strings.Compare(string(a.Kind)+a.Key+a.Index, string(b.Kind)+b.Key+b.Index)
	})
	return out, sum, err
}

func (s *site) check(cfg Config) ([]Finding, *Summary) {
	s.t.Helper()
	found, sum, err := s.run(s.bucket, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return found, sum
}

// brief is findings as text: kind and key.
func brief(found []Finding) []string {
	out := make([]string, len(found))
	for i, f := range found {
		out[i] = string(f.Kind) + " " + f.Key
	}
	return out
}

func wantFindings(t testing.TB, when string, got []Finding, want ...string) {
	t.Helper()
	slices.Sort(want)
	if b := brief(got); !slices.Equal(b, want) {
		t.Fatalf("%s:\ngot  %q\nwant %q", when, b, want)
	}
}

// without returns a Finding list without notes.
func without(found []Finding, notes bool) []Finding {
	return slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return f.Kind.Note() == notes })
}

var errCrash = errors.New("crashed")

// crashing is a bucket whose process dies at a request: before or after that
// took effect. All later requests fail.
type crashing struct {
	objstore.Bucket
	mu    sync.Mutex
	n, at int
	after bool
	last  string
}

func (c *crashing) begin(op, key string) (do bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	switch {
	case c.n < c.at:
		return true, nil
	case c.n == c.at:
		c.last = op + " " + key
		if c.after {
			return true, errCrash
		}
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

func (c *crashing) Delete(ctx context.Context, key string) error {
	do, err := c.begin("delete", key)
	if do {
		err = errors.Join(c.Bucket.Delete(ctx, key), err)
	}
	return err
}

// slow is a bucket whose requests take some time, so that those of others come
// between.
type slow struct {
	objstore.Bucket
	most time.Duration
}

func (s slow) wait() { time.Sleep(rand.N(s.most)) }

func (s slow) Put(ctx context.Context, key string, body []byte) error {
	s.wait()
	return s.Bucket.Put(ctx, key, body)
}

func (s slow) Get(ctx context.Context, key string) ([]byte, error) {
	s.wait()
	return s.Bucket.Get(ctx, key)
}

func (s slow) Stat(ctx context.Context, key string) (objstore.Info, error) {
	s.wait()
	return s.Bucket.Stat(ctx, key)
}

func (s slow) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	s.wait()
	return s.Bucket.List(ctx, prefix, recursive)
}

func (s slow) Delete(ctx context.Context, key string) error {
	s.wait()
	return s.Bucket.Delete(ctx, key)
}

func equalContents(a, b map[string]string) bool { return maps.Equal(a, b) }

// failing is a crashing whose reads fail, too.
type failing struct{ crashing }

func (f *failing) Get(ctx context.Context, key string) ([]byte, error) {
	if do, err := f.begin("get", key); !do {
		return nil, err
	}
	return f.Bucket.Get(ctx, key)
}

func (f *failing) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	if do, err := f.begin("list", prefix); !do {
		return nil, err
	}
	return f.Bucket.List(ctx, prefix, recursive)
}

func (f *failing) Stat(ctx context.Context, key string) (objstore.Info, error) {
	if do, err := f.begin("stat", key); !do {
		return objstore.Info{}, err
	}
	return f.Bucket.Stat(ctx, key)
}

// hooked is a bucket in which something happens before requests.
type hooked struct {
	objstore.Bucket
	before func(op, key string)
}

func (h *hooked) Get(ctx context.Context, key string) ([]byte, error) {
	h.before("get", key)
	return h.Bucket.Get(ctx, key)
}

func (h *hooked) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	h.before("list", prefix)
	return h.Bucket.List(ctx, prefix, recursive)
}

func (h *hooked) Stat(ctx context.Context, key string) (objstore.Info, error) {
	h.before("stat", key)
	return h.Bucket.Stat(ctx, key)
}

// gunzip returns the index file in an object.
func gunzip(object []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}
