package fsck

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/index"
)

// confirm looks again at chunks, listed at began, that no index file lists, and
// reports those for which it is still so.
func (c *Checker) confirm(ctx context.Context, p *part, r *rebuild, began int64, some []*found) error {
	some, err := c.dropListed(ctx, p, r.tenant, began, some)
	if err != nil || len(some) == 0 {
		return err
	}
	pending := make(map[chunk.Key]bool, len(some))
	for _, f := range some {
		pending[f.key] = false
	}
	// After the index was read: a marker is there before the index changes.
	err = compactor.VisitChunks(ctx, c.d.Bucket, r.tenant, compactor.Markers{Chunk: func(k chunk.Key) {
		if _, ok := pending[k]; ok {
			pending[k] = true
		}
	}})
	if err != nil {
		return err
	}
	modified := make([]time.Time, len(some))
	gone := make([]bool, len(some))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Concurrency)
	for i, f := range some {
		g.Go(func() error {
			info, err := c.d.Bucket.Stat(gctx, f.object)
			if gone[i] = isNotFound(err); gone[i] {
				return nil
			}
			modified[i] = info.Modified
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, f := range some {
		if !gone[i] {
			if err := c.judge(ctx, r, f, pending[f.key], modified[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropListed reads index files that have come since the tables were read, and
// returns those of some that they do not list.
func (c *Checker) dropListed(ctx context.Context, p *part, tenant string, began int64, some []*found) ([]*found, error) {
	days := map[int64]bool{}
	own := hashTenant(tenant)
	for _, f := range some {
		for _, d := range f.missing {
			days[d] = true
		}
	}
	if err := acquire(ctx, p.recheck); err != nil {
		return nil, err
	}
	defer func() { <-p.recheck }()
	for _, d := range slices.Sorted(maps.Keys(days)) {
		p.mu.Lock()
		fresh := p.relist[d] > began
		p.mu.Unlock()
		if fresh {
			continue // another group has just done it
		}
		err := c.table(ctx, p, d, func(some []listing) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, l := range some {
				if !p.set.has(l) { // files that were merged list what is known
					p.late[l] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(some, func(f *found) bool {
		f.missing = slices.DeleteFunc(f.missing, func(d int64) bool { return p.late[hashListing(own, d, f.key)] })
		return len(f.missing) == 0
	}), nil
}

// judge decides what a chunk is that is not listed.
func (c *Checker) judge(ctx context.Context, r *rebuild, f *found, pending bool, modified time.Time) error {
	note := Finding{Tenant: f.key.Tenant, Key: f.object}
	now := c.d.Now()
	// What a file that is moved aside may have listed does not wait for a flush.
	if modified.IsZero() {
		modified = time.UnixMilli(f.key.Through) // it was put later
	}
	age := now.Sub(modified)
	where := "any table"
	if len(f.missing) < len(f.days) {
		where = tableNames(f.missing)
	}
	switch {
	case pending:
		note.Kind, note.Detail = PendingDeletion, "the compactor has taken it out of the index of "+where+" and is going to delete it"
	case age < c.cfg.Grace && !(c.cfg.Repair && c.isBroken(f.key.Tenant, f.missing)):
		note.Kind, note.Detail = Recent, fmt.Sprintf("stored %s ago, no index file lists it in %s yet", max(age, 0).Round(time.Second), where)
	default:
		note.Kind, note.Detail = Unindexed, "no index file lists it in "+where
		if f.head != nil && c.expired(f, now) {
			note.Detail += "; it is older than its tenant's retention, which deletes it once it is listed"
		}
		if c.cfg.Repair {
			return r.add(ctx, f, note)
		}
	}
	c.report(note)
	return nil
}

func (c *Checker) expired(f *found, now time.Time) bool {
	period := c.d.Retention.Retention(f.key.Tenant).Expires(f.head.labels)
	return period > 0 && f.key.Through < now.Add(-period).UnixMilli()
}

// confirmBatch is how many listings of one file are looked at again together.
const confirmBatch = 4096

// missing reports listings without a chunk.
func (c *Checker) missing(ctx context.Context, p *part) error {
	if !p.set.anyOpen() {
		return nil
	}
	for i, key := range slices.Sorted(maps.Keys(p.files)) {
		c.enter("look for missing chunks, index file %d of %d", i+1, len(p.files))
		c.mu.Lock()
		_, bad := c.damaged[key]
		c.mu.Unlock()
		if bad {
			continue
		}
		err := c.missingIn(ctx, p, p.files[key])
		var d *damage
		switch {
		case errors.As(err, &d): // it was whole before
			c.damagedIndex(p.files[key], d.err)
		case err != nil && !isNotFound(err):
			return err
		}
	}
	return nil
}

// missingIn looks at one index file. That it is gone is an error that says so.
func (c *Checker) missingIn(ctx context.Context, p *part, file storage.IndexFile) error {
	var some []chunk.Key
	dead := map[listing]bool{}
	var findings []Finding
	end := func() error {
		lost, err := c.lost(ctx, file, some)
		some = some[:0]
		for _, k := range lost {
			dead[hashListing(hashTenant(k.Tenant), file.Day, k)] = true
			object, _ := c.object(k)
			f := Finding{Kind: MissingChunk, Tenant: k.Tenant, Key: object, Index: file.Key, Detail: "the index lists it, there is no such object"}
			if c.cfg.Repair {
				findings = append(findings, f)
			} else {
				c.report(f)
			}
		}
		return err
	}
	err := c.eachSeries(ctx, file, false, func(tenant string, _ labels.Labels, fp uint64, chunks []index.ChunkMeta) error {
		if !c.wanted(tenant) || !p.has(fp) {
			return nil
		}
		own := hashTenant(tenant)
		for _, m := range chunks {
			if k := keyOf(tenant, fp, m); p.set.open(hashListing(own, file.Day, k)) {
				some = append(some, k)
			}
			if len(some) == confirmBatch {
				if err := end(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil {
		err = end()
	}
	if err == nil && len(dead) > 0 && c.cfg.Repair {
		var what string
		what, err = c.rewrite(ctx, file, dead)
		for i := range findings {
			findings[i].Repair = what
		}
	}
	for _, f := range findings {
		c.report(f)
	}
	return err
}

// lost returns those of some chunks that a file lists and that are not there.
func (c *Checker) lost(ctx context.Context, file storage.IndexFile, some []chunk.Key) ([]chunk.Key, error) {
	if len(some) == 0 {
		return nil, nil
	}
	// While there is a file that lists it no chunk is deleted.
	if _, err := c.d.Bucket.Stat(ctx, file.Key); err != nil {
		return nil, err
	}
	gone := make([]bool, len(some))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Concurrency)
	for i, k := range some {
		g.Go(func() error {
			own, other := c.object(k)
			for _, key := range [2]string{own, other} { // the other is reported as an unknown object
				if _, err := c.d.Bucket.Stat(gctx, key); !isNotFound(err) {
					return err
				}
			}
			gone[i] = true
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var lost []chunk.Key
	for i, k := range some {
		if gone[i] {
			lost = append(lost, k)
		}
	}
	return lost, nil
}
