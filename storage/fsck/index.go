package fsck

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

// part is what is known of the streams whose fingerprints begin with some
// digits.
type part struct {
	prefix string
	set    *set

	mu     sync.Mutex
	files  map[string]storage.IndexFile // that were read, or are gone
	seq    int64
	relist map[int64]int64 // when a table was listed last, in terms of seq
	counts map[string]*Counts
	late   map[listing]bool // what was listed after the set was sealed

	recheck chan struct{} // has room for one: a look at what has come since
}

func newPart(prefix string, listings int) *part {
	return &part{prefix: prefix, set: &set{max: listings}, files: map[string]storage.IndexFile{}, relist: map[int64]int64{}, counts: map[string]*Counts{}, late: map[listing]bool{}, recheck: make(chan struct{}, 1)}
}

// tick returns a number that is greater than those before.
func (p *part) tick() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	return p.seq
}

func (p *part) count(tenant string, listings int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.counts[tenant]
	if n == nil {
		n = new(Counts)
		p.counts[tenant] = n
	}
	n.IndexFiles++
	n.Listings += listings
}

func (p *part) has(fp uint64) bool {
	if p.prefix == "" {
		return true
	}
	var b [16]byte
	return strings.HasPrefix(string(strconv.AppendUint(b[:0], fp, 16)), p.prefix)
}

// read notes a file; it reports whether that is new.
func (p *part) read(f storage.IndexFile) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.files[f.Key]
	p.files[f.Key] = f
	return !ok
}

// damage says that an object is not what it should be.
type damage struct{ err error }

func (d *damage) Error() string { return d.err.Error() }
func (d *damage) Unwrap() error { return d.err }

// collect reads all index files.
func (c *Checker) collect(ctx context.Context, p *part) error {
	dirs, err := c.d.Bucket.List(ctx, storage.TablesPrefix, false)
	if err != nil {
		return fmt.Errorf("fsck: list tables: %w", err)
	}
	for i, dir := range dirs {
		day, ok := storage.ParseTableDir(dir)
		if !ok {
			continue // walk finds it
		}
		c.enter("read index, table %d of %d", i+1, len(dirs))
		err := c.table(ctx, p, day, func(s []listing) error {
			if !p.set.add(s) {
				return errFull
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// table gives those listings of a table to f, some at a time, that are in files
// that were not read before. Files that are gone when their turn comes were
// merged into others, which a new list has.
func (c *Checker) table(ctx context.Context, p *part, day int64, f func([]listing) error) error {
	for range maxRelists {
		began := p.tick()
		files, err := c.listTable(ctx, p, day)
		if err != nil {
			return err
		}
		var mu sync.Mutex
		gone := false
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(c.cfg.Concurrency)
		for _, file := range files {
			g.Go(func() error {
				err := c.indexFile(gctx, p, file, f)
				if isNotFound(err) {
					mu.Lock()
					gone, err = true, nil
					mu.Unlock()
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return fmt.Errorf("table %d: %w", day, err)
		}
		if !gone {
			p.mu.Lock()
			p.relist[day] = began
			p.mu.Unlock()
			return nil
		}
	}
	return fmt.Errorf("table %d: its index files change faster than they are read", day)
}

// listTable returns index files that were not read before, and reports what is
// none.
func (c *Checker) listTable(ctx context.Context, p *part, day int64) ([]storage.IndexFile, error) {
	dir := storage.TableDir(day)
	keys, err := c.d.Bucket.List(ctx, dir, true)
	if err != nil {
		return nil, fmt.Errorf("list table %d: %w", day, err)
	}
	var out []storage.IndexFile
	for _, key := range keys {
		f, err := storage.ParseIndexKey(key)
		tenant, _, inTenant := strings.Cut(strings.TrimPrefix(key, dir), "/")
		if err != nil {
			f = storage.IndexFile{Key: key, Day: day}
			if inTenant {
				f.Tenant = tenant
			}
		}
		switch {
		case f.Tenant != "" && !c.wanted(f.Tenant):
		case err == nil:
			if p.read(f) {
				out = append(out, f)
			}
		case c.cfg.Tenant == "" || f.Tenant != "":
			c.unknownOnce(f.Tenant, key, "an index file has another name")
		}
	}
	return out, nil
}

// first reports whether p is the part that looks at what is in none.
func (p *part) first() bool { return strings.Trim(p.prefix, "0") == "" }

// indexFile gives the listings of a file to f.
func (c *Checker) indexFile(ctx context.Context, p *part, file storage.IndexFile, f func([]listing) error) error {
	c.mu.Lock()
	_, bad := c.damaged[file.Key]
	c.mu.Unlock()
	if bad {
		return nil
	}
	const batch = 4096
	var all []listing
	n := int64(0)
	collect := func(tenant string, _ labels.Labels, fp uint64, chunks []index.ChunkMeta) error {
		if !c.wanted(tenant) || !p.has(fp) {
			return nil
		}
		own := hashTenant(tenant)
		for _, m := range chunks {
			all = append(all, hashListing(own, file.Day, keyOf(tenant, fp, m)))
		}
		n += int64(len(chunks))
		return nil
	}
	err := c.eachSeries(ctx, file, true, collect)
	var d *damage
	if errors.As(err, &d) { // what came may not be what is there
		all, n = nil, 0
		err = c.eachSeries(ctx, file, true, collect)
	}
	if errors.As(err, &d) {
		c.damagedIndex(file, d.err)
		return nil
	}
	if err != nil {
		return err
	}
	c.files.Add(1)
	p.count(file.Tenant, n)
	for some := range slices.Chunk(all, batch) {
		if err := f(some); err != nil {
			return err
		}
	}
	return nil
}

func keyOf(tenant string, fp uint64, m index.ChunkMeta) chunk.Key {
	return chunk.Key{Tenant: tenant, Fingerprint: fp, From: m.MinTime, Through: m.MaxTime, Checksum: m.Checksum}
}

// eachSeries reads an index file and calls f for its series, without the label
// of the tenant. With all it reads what others read of a file, too. Errors are
// those of the store, a *damage, or f's.
func (c *Checker) eachSeries(ctx context.Context, file storage.IndexFile, all bool, f func(tenant string, ls labels.Labels, fp uint64, chunks []index.ChunkMeta) error) error {
	r, err := c.open(ctx, file)
	if err != nil {
		return err
	}
	if all {
		if err := checkIndex(file, r); err != nil {
			return &damage{err}
		}
	}
	var own error
	err = index.Source{Reader: r}.Each(func(ls labels.Labels, fp uint64, chunks []index.ChunkMeta) error {
		tenant := file.Tenant
		if tenant == "" {
			if tenant = ls.Get(storage.TenantLabel); tenant == "" {
				return errors.New("a series names no tenant")
			}
			ls = slices.DeleteFunc(slices.Clone(ls), func(l labels.Label) bool { return l.Name == storage.TenantLabel })
		}
		for _, m := range chunks {
			if storage.TableOf(m.MaxTime)-storage.TableOf(m.MinTime) >= maxTables {
				return fmt.Errorf("a chunk from %d to %d ms cannot be", m.MinTime, m.MaxTime)
			}
		}
		own = f(tenant, ls, fp, chunks)
		return own
	})
	if err != nil && own == nil {
		err = &damage{err}
	}
	return err
}

// open fetches an index file.
func (c *Checker) open(ctx context.Context, file storage.IndexFile) (*index.Reader, error) {
	object, err := c.d.Bucket.Get(ctx, file.Key)
	if err != nil {
		return nil, err
	}
	r, err := storage.UnpackIndex(file.Key, object)
	if err != nil {
		return nil, &damage{err}
	}
	return r, nil
}

// checkIndex reads the lists that are read for a label, and compares the name
// of the file with what it has: queries go by the bounds there.
func checkIndex(file storage.IndexFile, r *index.Reader) error {
	if file.Tenant != "" {
		got, ok := storage.ParseIndexInfo(file.Key)
		info := r.Info()
		switch {
		case !ok:
			return errors.New("the name does not say what is in there")
		case got.Checksum != info.Checksum:
			return fmt.Errorf("the name is that of a file with checksum %x, this one has %x", got.Checksum, info.Checksum)
		case got.From > info.From || got.Through < info.Through:
			return fmt.Errorf("the name says %d to %d ms, there are chunks from %d to %d", got.From, got.Through, info.From, info.Through)
		}
	}
	for _, name := range r.LabelNames() {
		for _, value := range r.LabelValues(name) {
			if _, err := (index.Source{Reader: r, Only: labels.Label{Name: name, Value: value}}).NumSeries(); err != nil {
				return err
			}
		}
	}
	return nil
}

// damagedIndex notes a file that cannot be read.
func (c *Checker) damagedIndex(file storage.IndexFile, err error) {
	var ce *index.CorruptionError
	newer := errors.As(err, &ce) && ce.Section == "header" && ce.Offset == 4
	f := Finding{Kind: DamagedIndex, Tenant: file.Tenant, Key: file.Key, Detail: err.Error()}
	c.mu.Lock()
	c.damaged[file.Key] = damagedFile{file, f, newer}
	c.broken[tableOf{file.Tenant, file.Day}] = true
	c.mu.Unlock()
}

// isBroken reports whether what is not listed in one of these tables may have
// been, by a file that cannot be read.
func (c *Checker) isBroken(tenant string, days []int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(days, func(d int64) bool { return c.broken[tableOf{tenant, d}] || c.broken[tableOf{"", d}] })
}

// finishDamaged reports index files that cannot be read and moves them aside,
// now that all that they may have listed is listed.
func (c *Checker) finishDamaged(ctx context.Context) error {
	c.enter("move index files that cannot be read")
	c.mu.Lock()
	damaged := maps.Clone(c.damaged)
	c.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(damaged)) {
		d := damaged[key]
		var err error
		switch {
		case d.keep:
			d.found.Detail += "; it may be of a newer Loki and is left alone"
		case c.cfg.Repair && d.file.Tenant == "" && c.cfg.Tenant != "":
			d.found.Detail += "; it is of many tenants and is left alone while -tenant is given"
		case c.cfg.Repair:
			var to string
			if to, err = c.setAside(ctx, key); err == nil {
				d.found.Repair = "moved to " + to
			}
		}
		c.report(d.found)
		if err != nil {
			return err
		}
	}
	return nil
}
