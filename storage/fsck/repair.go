package fsck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

// rebuild makes index files for chunks of a tenant that are not listed.
type rebuild struct {
	c      *Checker
	tenant string

	mine     chan struct{} // has room for one, who may use what follows
	n        int
	days     map[int64][]index.Series
	findings []Finding // reported when they are mended
}

func newRebuild(c *Checker, tenant string) *rebuild {
	return &rebuild{c: c, tenant: tenant, mine: make(chan struct{}, 1), days: map[int64][]index.Series{}}
}

// add lists a chunk, with others.
func (r *rebuild) add(ctx context.Context, f *found, finding Finding) error {
	if err := acquire(ctx, r.mine); err != nil {
		return err
	}
	defer func() { <-r.mine }()
	for _, d := range f.missing {
		r.days[d] = append(r.days[d], index.Series{Labels: f.head.labels, Fingerprint: f.key.Fingerprint, Chunks: []index.ChunkMeta{f.head.meta}})
	}
	r.findings = append(r.findings, finding)
	if r.n++; r.n < maxRebuild {
		return nil
	}
	return r.put(ctx)
}

// flush lists what was added.
func (r *rebuild) flush(ctx context.Context) error {
	if err := acquire(ctx, r.mine); err != nil {
		return err
	}
	defer func() { <-r.mine }()
	return r.put(ctx)
}

// put stores an index file for each table. It is called by add and flush.
func (r *rebuild) put(ctx context.Context) error {
	var err error
	for _, day := range slices.Sorted(maps.Keys(r.days)) {
		if err = r.putTable(ctx, day, r.days[day]); err != nil {
			break
		}
	}
	for _, f := range r.findings {
		if err == nil {
			f.Repair = "listed in a new index file"
		}
		r.c.report(f)
	}
	r.n, r.findings = 0, nil
	clear(r.days)
	return err
}

func (r *rebuild) putTable(ctx context.Context, day int64, series []index.Series) error {
	file, info, err := index.Build(nil, series)
	if err != nil {
		return fmt.Errorf("repair: index of table %d: %w", day, err)
	}
	_, err = r.c.putIndex(ctx, day, r.tenant, 0, file, info)
	return err
}

// numberJitter keeps processes that work in the same moment from using the same
// number.
const numberJitter = 1_000_000

// putIndex stores an index file of a tenant, whose number is above that of an
// older one.
func (c *Checker) putIndex(ctx context.Context, day int64, tenant string, older int64, file []byte, info index.Info) (string, error) {
	if older > math.MaxInt64-2*numberJitter {
		return "", fmt.Errorf("repair: no number is above %d", older)
	}
	packed, err := storage.PackIndex(file)
	if err != nil {
		return "", fmt.Errorf("repair: %w", err)
	}
	c.mu.Lock()
	c.number = max(c.d.Now().UnixNano(), older+1, c.number+1) + rand.Int64N(numberJitter)
	number := c.number
	c.mu.Unlock()
	key := storage.TenantIndexKey(day, tenant, number, info)
	if err := c.d.Bucket.Put(ctx, key, packed); err != nil {
		return "", fmt.Errorf("repair: %w", err)
	}
	return key, nil
}

// rewrite replaces an index file by one without some listings.
func (c *Checker) rewrite(ctx context.Context, file storage.IndexFile, dead map[listing]bool) (what string, err error) {
	r, err := c.open(ctx, file)
	if isNotFound(err) {
		return "", nil // it was merged; the next run sees the result
	}
	if err != nil {
		return "", err
	}
	sources := map[string]index.Source{file.Tenant: {Reader: r}}
	if file.Tenant == "" {
		clear(sources)
		for _, t := range r.LabelValues(storage.TenantLabel) {
			sources[t] = index.Source{Reader: r, Only: labels.Label{Name: storage.TenantLabel, Value: t}}
		}
	}
	var made []string
	for _, tenant := range slices.Sorted(maps.Keys(sources)) {
		own := hashTenant(tenant)
		merged, info, err := index.Merge(nil, []index.Source{sources[tenant]}, func(_ labels.Labels, fp uint64, chunks []index.ChunkMeta) []index.ChunkMeta {
			return slices.DeleteFunc(chunks, func(m index.ChunkMeta) bool {
				return dead[hashListing(own, file.Day, keyOf(tenant, fp, m))]
			})
		})
		if errors.Is(err, index.ErrNoSeries) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("repair: %s: %w", file.Key, err)
		}
		key, err := c.putIndex(ctx, file.Day, tenant, file.Number, merged, info)
		if err != nil {
			return "", err
		}
		made = append(made, key)
	}
	if len(made) == 0 {
		to, err := c.setAside(ctx, file.Key)
		return "the index file, of which nothing is left, was moved to " + to, err
	}
	if err := c.d.Bucket.Delete(ctx, file.Key); err != nil {
		return "", fmt.Errorf("repair: %w", err)
	}
	return "the index file was replaced by " + strings.Join(made, ", "), nil
}

// setAside moves an object to SetAsideDir, and returns the key of the copy. A
// copy's name depends on what it has, so that no other is overwritten.
func (c *Checker) setAside(ctx context.Context, key string) (to string, err error) {
	body, err := c.d.Bucket.Get(ctx, key)
	if isNotFound(err) {
		return "nowhere: it is gone", nil
	}
	if err != nil {
		return "", fmt.Errorf("repair: %w", err)
	}
	to = fmt.Sprintf("%s%s.%08x", SetAsideDir, key, chunk.Checksum(body))
	if err := c.d.Bucket.Put(ctx, to, body); err != nil {
		return "", fmt.Errorf("repair: copy %s: %w", key, err)
	}
	copied, err := c.d.Bucket.Get(ctx, to)
	if err != nil {
		return "", fmt.Errorf("repair: copy %s: %w", key, err)
	}
	if !bytes.Equal(copied, body) {
		return "", fmt.Errorf("repair: copy %s: %s came back different", key, to)
	}
	if err := c.d.Bucket.Delete(ctx, key); err != nil {
		return "", fmt.Errorf("repair: %w", err)
	}
	return to, nil
}
