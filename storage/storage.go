// Package storage keeps chunks and their index in an object store, laid out as
// Loki does, and finds them again.
//
// # Layout
//
//	<tenant>/<fingerprint>/<from>:<through>:<checksum>     a chunk, see chunk.Key
//	index/index_<day>/<tenant>/<ns>-compactor-<from>-<through>-<checksum>.tsdb.gz
//	index/index_<day>/<seconds>-<name>.tsdb.gz
//
// The last part of a chunk's key is in base64 where Loki's filesystem client
// has it so. Every UTC day is a table; a chunk is listed in all tables that its
// bounds touch. A table has any number of index files: of one tenant, which is
// what PutIndex writes, or of many, as Loki's ingesters upload them, with the
// tenant as a label of each series. Files are never changed: Loki reads a name
// once.
//
// # Use
//
// A writer puts chunks, then the index that lists them, and may let go of the
// data when PutIndex has returned: a Select that begins later sees it, in this
// process and in all others, since tables are listed anew each time. Repeating
// a put is harmless; what is listed twice is found once.
//
// A Store has no life cycle of its own and is safe for concurrent use. Index
// files stay open, and chunks decoded, in two caches that are bounded in bytes.
package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// Config holds the settings of a Store.
type Config struct {
	IndexCacheSize units.Bytes `yaml:"index-cache-size" help:"memory for open index files"`
	ChunkCacheSize units.Bytes `yaml:"chunk-cache-size" help:"memory for compressed chunks that were read"`
	Concurrency    int         `yaml:"concurrency" help:"index files that one query fetches at a time"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{IndexCacheSize: 128 * units.MiB, ChunkCacheSize: 64 * units.MiB, Concurrency: 8}
}

// Validate returns all that is wrong with c.
func (c Config) Validate() []error {
	var errs []error
	if c.IndexCacheSize < 0 {
		errs = append(errs, errors.New("index-cache-size must not be negative"))
	}
	if c.ChunkCacheSize < 0 {
		errs = append(errs, errors.New("chunk-cache-size must not be negative"))
	}
	if c.Concurrency < 1 {
		errs = append(errs, errors.New("concurrency must be at least 1"))
	}
	return errs
}

// Options say how a Store is used. Zero values are defaults.
type Options struct {
	FileKeys   bool                  // name chunks as Loki's filesystem client does
	Now        func() time.Time      // time.Now if nil
	Registerer prometheus.Registerer // for metrics, may be nil
}

// Store reads and writes chunks and index files in a bucket.
type Store struct {
	bucket   objstore.Bucket
	fileKeys bool
	fetches  int
	now      func() time.Time
	m        *metrics
	indexes  *cache[*index.Reader]
	chunks   *cache[*chunk.Chunk]

	mu   sync.Mutex
	last int64 // newest number in a name of an index file
}

// New returns a store over b.
func New(b objstore.Bucket, cfg Config, o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	m := newMetrics(o.Registerer)
	return &Store{
		bucket: b, fileKeys: o.FileKeys, fetches: max(cfg.Concurrency, 1), now: o.Now, m: m,
		indexes: newCache[*index.Reader](int64(cfg.IndexCacheSize), m.cache("index")),
		chunks:  newCache[*chunk.Chunk](int64(cfg.ChunkCacheSize), m.cache("chunk")),
	}
}

// objectKey returns where the chunk k is.
func (s *Store) objectKey(k chunk.Key) string {
	if s.fileKeys {
		return k.FileKey()
	}
	return k.String()
}

// PutChunk stores a chunk object under its key. It is found once an index lists
// it.
func (s *Store) PutChunk(ctx context.Context, key chunk.Key, object []byte) error {
	if err := checkTenant(key.Tenant); err != nil {
		return err
	}
	if sum := chunk.Checksum(object); sum != key.Checksum {
		return fmt.Errorf("storage: put chunk %s: the object's checksum is %x", key, sum)
	}
	if err := s.bucket.Put(ctx, s.objectKey(key), object); err != nil {
		return fmt.Errorf("storage: put chunk: %w", err)
	}
	s.m.chunksPut.Inc()
	s.m.chunkBytesPut.Add(float64(len(object)))
	return nil
}

// PutIndex lists chunks of one tenant, so that they are found. Labels must be in
// normal form. After an error some tables may list them, and others not; the
// call may be repeated with the same or more series.
func (s *Store) PutIndex(ctx context.Context, tenant string, series []index.Series) error {
	if err := checkTenant(tenant); err != nil {
		return err
	}
	tables := splitByDay(series)
	for _, day := range sortedDays(tables) {
		file, info, err := index.Build(nil, tables[day])
		if err != nil {
			return fmt.Errorf("storage: put index of tenant %s, day %d: %w", tenant, day, err)
		}
		packed, err := compress(file)
		if err != nil {
			return fmt.Errorf("storage: put index of tenant %s, day %d: %w", tenant, day, err)
		}
		key := tenantIndexKey(day, tenant, s.uniqueNow(), info)
		if err := s.bucket.Put(ctx, key, packed); err != nil {
			return fmt.Errorf("storage: put index: %w", err)
		}
		s.m.indexesPut.Inc()
		s.m.indexBytesPut.Add(float64(len(packed)))
		s.m.seriesPut.Add(float64(len(tables[day])))
	}
	return nil
}

// uniqueNow returns the time in ns, later than all times that it returned
// before: the name of an index file must never be used again.
func (s *Store) uniqueNow() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = max(s.now().UnixNano(), s.last+1)
	return s.last
}

var gzipWriters = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil { // only an invalid level is an error
		panic(err)
	}
	return w
}}

func compress(b []byte) ([]byte, error) {
	w := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(w)
	var out bytes.Buffer
	out.Grow(len(b)/4 + 1024)
	w.Reset(&out)
	_, err := w.Write(b)
	if err == nil {
		err = w.Close()
	}
	w.Reset(io.Discard) // lets go of out
	return out.Bytes(), err
}

// LabelSets returns the label sets of the series that match and have chunks
// that may hold entries in from..through (ns, through exclusive), from the index
// alone.
func (s *Store) LabelSets(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]labels.Labels, error) {
	found, err := s.find(ctx, tenant, ms, from, through)
	if err != nil {
		return nil, err
	}
	out := make([]labels.Labels, len(found))
	for i := range found {
		out[i] = found[i].Labels
	}
	return out, nil
}

// Select returns the series that match and have chunks that may hold entries in
// from..through (ns, through exclusive). Every chunk is one block, which is
// fetched when it is loaded, checked, and gives the entries of all those blocks
// of the chunk that touch the range. Loading a chunk that is missing or damaged
// is an error. Loads stop with ctx.
func (s *Store) Select(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error) {
	found, err := s.find(ctx, tenant, ms, from, through)
	if err != nil {
		return nil, err
	}
	out := make([]chunk.Series, len(found))
	for i := range found {
		f := &found[i]
		refs := make([]chunkRef, len(f.Chunks))
		blocks := make([]chunk.BlockRef, len(f.Chunks))
		for k, c := range f.Chunks {
			refs[k] = chunkRef{
				s: s, ctx: ctx, labels: f.Labels, from: from, through: through, entries: int(c.Entries),
				key: chunk.Key{Tenant: tenant, Fingerprint: f.Fingerprint, From: c.MinTime, Through: c.MaxTime, Checksum: c.Checksum},
			}
			blocks[k] = &refs[k]
		}
		out[i] = chunk.Series{Labels: f.Labels, Blocks: blocks}
	}
	return out, nil
}
