package compactor

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/loki-go/loki-go/storage/objstore"
)

// readPending reads the markers of files that were merged, oldest first.
func (r *run) readPending(ctx context.Context) error {
	keys, err := r.bucket.List(ctx, supersededDir, true)
	if err != nil {
		return fmt.Errorf("compactor: list markers: %w", err)
	}
	for _, key := range keys {
		p, err := r.readMarker(ctx, key)
		switch {
		case objstore.IsNotFound(err): // another compactor is done with it
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			// Without it its files are merged again, which does no harm.
			r.note(ctx, "reading marker "+key, err)
		default:
			r.pending = append(r.pending, p)
		}
	}
	return nil
}

func (r *run) readMarker(ctx context.Context, key string) (pending, error) {
	at, err := markerTime(key)
	if err != nil {
		return pending{}, err
	}
	b, err := r.bucket.Get(ctx, key)
	if err != nil {
		return pending{}, err
	}
	m, err := decodeSuperseded(b)
	return pending{key, at, m}, err
}

// supersede notes that sources can go after the delay.
func (r *run) supersede(ctx context.Context, day int64, m superseded) error {
	m.Version = 1
	if err := m.check(); err != nil {
		return fmt.Errorf("refusing to replace index files: %w", err)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	now := r.mark()
	key := markerKey(supersededDir+strconv.FormatInt(day, 10)+"/", now, r.random())
	if err := r.bucket.Put(ctx, key, b); err != nil {
		return err
	}
	r.pending = append(r.pending, pending{key, time.Unix(0, now), m})
	r.merged += len(m.Sources)
	r.m.filesMerged.Add(float64(len(m.Sources)))
	return nil
}

// removeSources deletes the files of a marker, if what covers them is there and
// whole, and then the marker.
func (r *run) removeSources(ctx context.Context, p pending) error {
	for _, cover := range p.Covers {
		_, err := r.open(ctx, cover)
		if objstore.IsNotFound(err) {
			return r.void(ctx, p)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", cover, err)
		}
	}
	if err := r.guard(ctx); err != nil {
		return err
	}
	if err := r.deleteAll(ctx, p.Sources); err != nil {
		return err
	}
	r.deleted += len(p.Sources)
	r.m.filesDeleted.Add(float64(len(p.Sources)))
	return r.bucket.Delete(ctx, p.key)
}

// void removes a marker that says nothing: its files are as good as any.
func (r *run) void(ctx context.Context, p pending) error {
	r.m.voided.Inc()
	r.log.Info("a merged index file is gone, what it was made of is merged again", "marker", p.key)
	return r.bucket.Delete(ctx, p.key)
}

// deleteAll deletes objects, some at a time.
func (r *run) deleteAll(ctx context.Context, keys []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.cfg.Concurrency)
	for _, key := range keys {
		g.Go(func() error { return r.bucket.Delete(ctx, key) })
	}
	return g.Wait()
}
