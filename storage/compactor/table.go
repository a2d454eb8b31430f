package compactor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/objstore"
)

// files are index files in order of their numbers.
type files []storage.IndexFile

func (f files) keys() []string {
	out := make([]string, len(f))
	for i := range f {
		out[i] = f[i].Key
	}
	return out
}

// newest returns the greatest number of f.
func (f files) newest() int64 {
	n := int64(0)
	for i := range f {
		n = max(n, f[i].Number)
	}
	return n
}

// numberTime returns the time that a number stands for.
func numberTime(n int64) time.Time {
	if n > 1e15 { // seconds would be in the year 31 million
		return time.Unix(0, n)
	}
	return time.Unix(n, 0)
}

// list returns the index files of a table.
func (c *Compactor) list(ctx context.Context, day int64) (files, error) {
	keys, err := c.bucket.List(ctx, storage.TableDir(day), true)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	out := make(files, 0, len(keys))
	for _, key := range keys {
		if f, err := storage.ParseIndexKey(key); err == nil {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b storage.IndexFile) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Key, b.Key))
	})
	return out, nil
}

// live returns those of all files of a table that are not going to be deleted.
func (r *run) live(all files) files {
	there := make(map[string]bool, len(all))
	for i := range all {
		there[all[i].Key] = true
	}
	gone := map[string]bool{}
	for _, p := range r.pending {
		if slices.ContainsFunc(p.Covers, func(c string) bool { return !there[c] }) {
			continue
		}
		for _, s := range p.Sources {
			gone[s] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(f storage.IndexFile) bool { return gone[f.Key] })
}

// due reports whether files are worth to be merged: many, or none new for a
// while.
func (r *run) due(f files) bool {
	return len(f) >= r.cfg.MinFiles || len(f) > 0 && r.now().Sub(numberTime(f.newest())) >= r.cfg.MinAge
}

// table merges the files of a table: first those of many tenants into one for
// each tenant, then those of each tenant.
func (r *run) table(ctx context.Context, day int64) error {
	listed := r.now()
	all, err := r.list(ctx, day)
	if err != nil {
		return err
	}
	tenants := map[string]files{}
	for _, f := range r.live(all) {
		tenants[f.Tenant] = append(tenants[f.Tenant], f)
	}
	if shared := tenants[""]; r.due(shared) {
		made, err := r.split(ctx, day, shared, listed)
		r.note(ctx, fmt.Sprintf("table %d, files of many tenants", day), ignoreConflict(r, err))
		for _, f := range made {
			tenants[f.Tenant] = append(tenants[f.Tenant], f)
		}
	}
	delete(tenants, "")
	for _, tenant := range slices.Sorted(maps.Keys(tenants)) {
		err := r.tenant(ctx, job{day: day, tenant: tenant, files: tenants[tenant], listed: listed})
		r.note(ctx, fmt.Sprintf("table %d, tenant %s", day, tenant), ignoreConflict(r, err))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// ignoreConflict drops an error that says that a file is gone that was listed:
// another compactor was at work, and the next run sees what it has done.
func ignoreConflict(r *run, err error) error {
	if objstore.IsNotFound(err) {
		r.m.conflicts.Inc()
		r.log.Info("an index file is gone that was listed, it is left to the next run", "error", err)
		return nil
	}
	return err
}
