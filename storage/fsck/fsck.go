package fsck

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/objstore"
)

// SetAsideDir is where index files are moved that cannot be read.
const SetAsideDir = compactor.Root + "damaged/"

// Objects of others that are known: a file that stock Loki writes to its bucket,
// and the folder of its requests to delete logs.
const (
	lokiSeed    = "loki_cluster_seed.json"
	lokiDeletes = "index/delete_requests/"
	// checkPrefix begins the name of what is written for a moment at start, see
	// objstore.Check.
	checkPrefix = compactor.Root + "check-"
	indexRoot   = "index/"
)

// Checker looks at a bucket. See the package comment.
type Checker struct {
	cfg   Config
	d     Deps
	slots chan struct{} // one for each chunk that may be in memory

	phase    atomic.Pointer[string]
	chunks   atomic.Int64
	bytes    atomic.Int64
	files    atomic.Int64
	findings atomic.Int64

	mu      sync.Mutex
	summary Summary

	// damaged are index files that cannot be read.
	damaged map[string]damagedFile
	// broken are the tables, by tenant, in which there is one: what is not
	// listed there does not wait for its flush.
	broken map[tableOf]bool
	strays map[string]bool // objects in tables that are no index files
	number int64           // newest number in a name of an index file
}

type damagedFile struct {
	file  storage.IndexFile
	found Finding
	keep  bool // it may be of use to others
}

type tableOf struct {
	tenant string // "": of many
	day    int64
}

// New returns a Checker for one run. cfg must be valid.
func New(cfg Config, d Deps) *Checker {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Retention == nil {
		d.Retention = compactor.NoRetention{}
	}
	c := &Checker{
		cfg: cfg, d: d, slots: make(chan struct{}, cfg.Concurrency),
		damaged: map[string]damagedFile{}, broken: map[tableOf]bool{}, strays: map[string]bool{},
		summary: Summary{Tenants: map[string]*Counts{}},
	}
	c.enter("start")
	return c
}

// Progress is how far a run is.
type Progress struct {
	Phase              string
	IndexFiles         int64 // read, some of them more than once
	Chunks, ChunkBytes int64 // looked at, and read
	Findings           int64
	ListingsAtMost     int64 // in memory at a time
	ChunkNamesAtMost   int64 // of streams that have fewer chunks
	ObjectsAtMost      int   // chunks, and index files
}

// Progress may be called at any time.
func (c *Checker) Progress() Progress {
	return Progress{
		Phase: *c.phase.Load(), IndexFiles: c.files.Load(), Chunks: c.chunks.Load(), ChunkBytes: c.bytes.Load(),
		Findings: c.findings.Load(), ListingsAtMost: c.maxListings(),
		ChunkNamesAtMost: int64(c.cfg.Concurrency) * maxGroup, ObjectsAtMost: c.cfg.Concurrency,
	}
}

func (c *Checker) enter(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	c.phase.Store(&s)
}

func (c *Checker) maxListings() int64 { return int64(c.cfg.MaxMemory) / listingBytes }

// errFull says that a part of the bucket lists more than fits into memory.
var errFull = errors.New("fsck: too many listings")

// hexDigits are those that a fingerprint's text has.
const hexDigits = "0123456789abcdef"

// maxPart bounds into how small parts a bucket is divided.
const maxPart = 4

// Run looks at the bucket and returns what it saw, in part if there is an
// error: then it could not look at the rest.
func (c *Checker) Run(ctx context.Context) (*Summary, error) {
	tenants, err := c.roots(ctx)
	if err == nil {
		err = c.markers(ctx)
	}
	parts := []string{""}
	for len(parts) > 0 && err == nil {
		part := parts[0]
		parts = parts[1:]
		if err = c.part(ctx, part, tenants); errors.Is(err, errFull) && len(part) < maxPart {
			err = nil
			for _, d := range hexDigits {
				parts = append(parts, part+string(d))
			}
			continue
		}
		c.summary.Parts++
	}
	if err == nil {
		err = c.finishDamaged(ctx)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return &c.summary, err
}

// part looks at the streams whose fingerprints begin with part.
func (c *Checker) part(ctx context.Context, part string, tenants []string) error {
	p := newPart(part, int(c.maxListings()))
	if err := c.collect(ctx, p); err != nil {
		return err
	}
	p.set.seal()
	for tenant, n := range p.counts {
		c.count(tenant, func(sum *Counts) {
			if p.first() {
				sum.IndexFiles = n.IndexFiles
			}
			sum.Listings += n.Listings
		})
	}
	for _, tenant := range tenants {
		if err := c.walk(ctx, p, tenant); err != nil {
			return fmt.Errorf("tenant %s: %w", tenant, err)
		}
	}
	return c.missing(ctx, p)
}

// count changes the counts of a tenant.
func (c *Checker) count(tenant string, f func(*Counts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.summary.Tenants[tenant]
	if n == nil {
		n = &Counts{Findings: map[Kind]int{}}
		c.summary.Tenants[tenant] = n
	}
	f(n)
}

// report gives a finding out.
func (c *Checker) report(f Finding) {
	c.count(f.Tenant, func(n *Counts) {
		n.Findings[f.Kind]++
		if f.Repair != "" {
			n.Repaired++
		}
		if !f.Kind.Note() {
			c.findings.Add(1)
		}
		c.d.Report(f)
	})
}

// wanted reports whether tenant is to be looked at.
func (c *Checker) wanted(tenant string) bool { return c.cfg.Tenant == "" || c.cfg.Tenant == tenant }

// roots returns the tenants that have a folder, and reports what is at the top
// and belongs to nothing.
func (c *Checker) roots(ctx context.Context) ([]string, error) {
	c.enter("list tenants")
	if c.cfg.Tenant != "" {
		return []string{c.cfg.Tenant}, nil
	}
	top, err := c.d.Bucket.List(ctx, "", false)
	if err != nil {
		return nil, fmt.Errorf("fsck: list the bucket: %w", err)
	}
	var tenants []string
	for _, key := range top {
		tenant, folder := strings.CutSuffix(key, "/")
		switch {
		case folder:
			tenants = append(tenants, tenant)
		case key != lokiSeed:
			c.unknown("", key, "no object at the top of a bucket is Loki's or loki-go's")
		}
	}
	return tenants, nil
}

// unknown reports an object that belongs to nothing.
func (c *Checker) unknown(tenant, key, why string) {
	c.report(Finding{Kind: UnknownObject, Tenant: tenant, Key: key, Detail: why})
}

// unknownOnce is unknown for what is come upon in every part.
func (c *Checker) unknownOnce(tenant, key, why string) {
	c.mu.Lock()
	known := c.strays[key]
	c.strays[key] = true
	c.mu.Unlock()
	if !known {
		c.unknown(tenant, key, why)
	}
}

// folder looks at a folder of a tenant that is no stream, which may have another
// meaning where the tenant is called as a folder of ours.
func (c *Checker) folder(ctx context.Context, tenant, dir string) error {
	if _, ok := storage.ParseTableDir(dir); ok || dir == lokiDeletes {
		return nil
	}
	keys, err := c.d.Bucket.List(ctx, dir, true)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, key := range keys {
		switch {
		case compactor.IsObject(key):
		case strings.HasPrefix(key, SetAsideDir):
			c.report(Finding{Kind: SetAside, Key: key, Detail: "copy of an index file that a repair has replaced"})
		default:
			c.unknown(ownerOf(tenant), key, "no stream, table or marker has such a folder")
		}
	}
	return nil
}

// ownerOf returns the tenant that objects in a folder are counted for.
func ownerOf(folder string) string {
	if folder+"/" == indexRoot || folder+"/" == compactor.Root {
		return ""
	}
	return folder
}

// markers reports which index files wait to be deleted, and markers that cannot
// be read.
func (c *Checker) markers(ctx context.Context) error {
	c.enter("read markers")
	seen := map[string]bool{}
	v := compactor.Markers{
		File: func(key string) {
			f, err := storage.ParseIndexKey(key)
			if err != nil || seen[key] || c.cfg.Tenant != "" && f.Tenant != c.cfg.Tenant {
				return
			}
			seen[key] = true
			c.report(Finding{Kind: PendingDeletion, Tenant: f.Tenant, Key: key, Detail: "merged by the compactor, which is going to delete it"})
		},
		Bad: func(key string, err error) {
			if c.cfg.Tenant == "" {
				c.report(Finding{Kind: DamagedMarker, Key: key, Detail: err.Error() + "; the compactor leaves it alone, it may be deleted"})
			}
		},
	}
	if err := compactor.VisitFiles(ctx, c.d.Bucket, v); err != nil {
		return err
	}
	return compactor.VisitChunks(ctx, c.d.Bucket, c.cfg.Tenant, compactor.Markers{Bad: v.Bad})
}

// object returns where the chunk k is, and where it would be in a store of the
// other kind.
func (c *Checker) object(k chunk.Key) (key, other string) {
	if c.d.FileKeys {
		return k.FileKey(), k.String()
	}
	return k.String(), k.FileKey()
}

// parse reads the key of a chunk.
func (c *Checker) parse(key string) (k chunk.Key, why string) {
	own, other, name := chunk.ParseKey, chunk.ParseFileKey, "filesystem"
	if c.d.FileKeys {
		own, other, name = other, own, "s3"
	}
	k, err := own(key)
	switch {
	case err == nil && (k.Through < k.From || storage.TableOf(k.Through)-storage.TableOf(k.From) >= maxTables):
		return k, fmt.Sprintf("a chunk from %d to %d ms cannot be", k.From, k.Through)
	case err == nil:
		return k, ""
	}
	if _, err2 := other(key); err2 == nil {
		return k, "a chunk, named as storage.type=" + name + " names them; no query finds it here"
	}
	return k, err.Error()
}

// isNotFound is objstore's.
func isNotFound(err error) bool { return objstore.IsNotFound(err) }
