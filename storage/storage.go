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
// With Config.ListTTL a list may be that old. Selects still see all that the
// same Store has put before, but what other processes put only after that
// time: they must not let go of data earlier, or the setting must be 0.
//
// # Caches
//
// Index files stay open, and chunks in memory, in two caches that are bounded
// in bytes. Behind the first may be a folder on local disk, where index files
// are uncompressed (disk.go); behind the second a cache that processes share,
// such as package chunkcache, which PutChunk and loads fill.
//
// # Reading ahead
//
// Whoever loads blocks of a Select one after the other, newest or oldest
// first, finds that the next ones are being fetched (ahead.go). That stops
// when the Select's context ends.
//
// # Life cycle
//
// New starts nothing. Close waits for what reads ahead; a Store that is closed
// still works, without that. A Store is safe for concurrent use.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// Config holds the settings of a Store.
type Config struct {
	IndexCacheSize units.Bytes   `yaml:"index-cache-size" help:"memory for open index files"`
	IndexDiskSize  units.Bytes   `yaml:"index-disk-size" help:"local disk for index files that were fetched; 0: none"`
	ChunkCacheSize units.Bytes   `yaml:"chunk-cache-size" help:"memory for compressed chunks that were read"`
	Concurrency    int           `yaml:"concurrency" help:"lists and index files that one query fetches at a time"`
	ReadAhead      int           `yaml:"read-ahead" help:"chunks that a query fetches before it needs them; 0: none"`
	ReadAheadSize  units.Bytes   `yaml:"read-ahead-size" help:"memory for chunks that all queries together fetch before they need them"`
	ListTTL        time.Duration `yaml:"list-ttl" help:"how old the list of a table's index files may be; above 0 only if no other process writes to the bucket, or queries may miss what one has just stored"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		IndexCacheSize: 128 * units.MiB, IndexDiskSize: units.GiB, ChunkCacheSize: 64 * units.MiB,
		Concurrency: 8, ReadAhead: 8, ReadAheadSize: 128 * units.MiB,
	}
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
	if c.IndexDiskSize < 0 {
		errs = append(errs, errors.New("index-disk-size must not be negative"))
	}
	if c.Concurrency < 1 {
		errs = append(errs, errors.New("concurrency must be at least 1"))
	}
	if c.ReadAhead < 0 || c.ReadAhead > maxReadAhead {
		errs = append(errs, fmt.Errorf("read-ahead must be from 0 to %d", maxReadAhead))
	}
	if c.ReadAheadSize < 0 {
		errs = append(errs, errors.New("read-ahead-size must not be negative"))
	}
	if c.ListTTL < 0 {
		errs = append(errs, errors.New("list-ttl must not be negative"))
	}
	return errs
}

// Options say how a Store is used. Zero values are defaults.
type Options struct {
	FileKeys   bool                  // name chunks as Loki's filesystem client does
	Now        func() time.Time      // time.Now if nil
	Registerer prometheus.Registerer // for metrics, may be nil
	Log        *slog.Logger          // may be nil

	// Cache is a cache of chunks that processes share; nil: there is none.
	Cache ChunkCache
	// IndexDir is a folder of FS (nil: vfs.OS) for index files that were
	// fetched, which no other Store uses. Empty: they are not kept on disk.
	FS       vfs.FS
	IndexDir string
	// Limits returns what a query of a tenant may read; nil: anything.
	Limits func(tenant string) QueryLimits
}

// ChunkCache keeps copies of chunk objects. It may forget them at any time,
// and must not block for long.
type ChunkCache interface {
	// Get returns the object, whose checksum is the key's, or false.
	Get(ctx context.Context, key chunk.Key) (object []byte, ok bool)
	// Put does not keep object.
	Put(key chunk.Key, object []byte)
}

// noChunks is the ChunkCache where there is none.
type noChunks struct{}

func (noChunks) Get(context.Context, chunk.Key) ([]byte, bool) { return nil, false }
func (noChunks) Put(chunk.Key, []byte)                         {}

// Store reads and writes chunks and index files in a bucket.
type Store struct {
	bucket   objstore.Bucket
	fileKeys bool
	fetches  int
	now      func() time.Time
	limits   func(tenant string) QueryLimits
	m        *metrics
	lists    *lists
	indexes  *cache[*index.Reader]
	disk     *diskCache // nil: there is none
	chunks   *cache[*chunk.Chunk]
	shared   ChunkCache
	ahead    *prefetcher

	mu   sync.Mutex
	last int64 // newest number in a name of an index file
}

// New returns a store over b.
func New(b objstore.Bucket, cfg Config, o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FS == nil {
		o.FS = vfs.OS
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Cache == nil {
		o.Cache = noChunks{}
	}
	if o.Limits == nil {
		o.Limits = func(string) QueryLimits { return QueryLimits{} }
	}
	m := newMetrics(o.Registerer)
	s := &Store{
		bucket: b, fileKeys: o.FileKeys, fetches: max(cfg.Concurrency, 1), now: o.Now, limits: o.Limits, m: m,
		lists:   newLists(b, cfg.ListTTL, o.Now),
		indexes: newCache[*index.Reader](int64(cfg.IndexCacheSize), m.cache("index")),
		chunks:  newCache[*chunk.Chunk](int64(cfg.ChunkCacheSize), m.cache("chunk")),
		shared:  o.Cache,
	}
	s.ahead = newPrefetcher(s, cfg.ReadAhead, int64(cfg.ReadAheadSize))
	if o.IndexDir != "" && cfg.IndexDiskSize > 0 {
		s.disk = openDisk(o.FS, o.IndexDir, int64(cfg.IndexDiskSize), o.Now, o.Log, m)
	}
	return s
}

// Close ends reading ahead and waits for it.
func (s *Store) Close() { s.ahead.close() }

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
	s.shared.Put(key, object)
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
		var info index.Info
		packed, err := PackIndexTo(nil, func(w io.Writer) (err error) {
			info, err = index.BuildTo(w, tables[day])
			return err
		})
		if err != nil {
			return fmt.Errorf("storage: put index of tenant %s, day %d: %w", tenant, day, err)
		}
		key := tenantIndexKey(day, tenant, s.uniqueNow(), info)
		err = s.bucket.Put(ctx, key, packed)
		s.lists.forget(tableDir(day), tenant) // it may be there after an error, too
		if err != nil {
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

// indexLevel is that of gzip for index files: a twentieth smaller than with
// the fastest, at a third more time.
const indexLevel = 5

var gzipWriters = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, indexLevel)
	if err != nil { // only an invalid level is an error
		panic(err)
	}
	return w
}}

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
// is an error. Loads stop with ctx. An error may be a *LimitError, here and
// when loading.
func (s *Store) Select(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error) {
	found, err := s.find(ctx, tenant, ms, from, through)
	if err != nil {
		return nil, err
	}
	n := 0
	for i := range found {
		n += len(found[i].Chunks)
	}
	sel := &selection{s: s, ctx: ctx, from: from, through: through, limits: s.limits(tenant)}
	if err := sel.limits.checkChunks(n); err != nil {
		return nil, err
	}
	sel.refs = make([]chunkRef, 0, n)
	blocks := make([]chunk.BlockRef, 0, n)
	out := make([]chunk.Series, len(found))
	for i := range found {
		f := &found[i]
		first := len(blocks)
		for _, c := range f.Chunks {
			sel.refs = append(sel.refs, chunkRef{
				sel: sel, n: int32(len(sel.refs)), series: int32(i), labels: f.Labels, entries: c.Entries, kb: c.KB,
				key: chunk.Key{Tenant: tenant, Fingerprint: f.Fingerprint, From: c.MinTime, Through: c.MaxTime, Checksum: c.Checksum},
			})
			blocks = append(blocks, &sel.refs[len(sel.refs)-1])
		}
		out[i] = chunk.Series{Labels: f.Labels, Blocks: blocks[first:len(blocks):len(blocks)]}
	}
	return out, nil
}
