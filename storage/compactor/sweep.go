package compactor

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// dropper puts expired chunks on record.
type dropper struct {
	run    *run
	tenant string
	judge  *judge
	keys   []chunk.Key
	n      int
}

// scan notes the chunks of s that have expired.
func (d *dropper) scan(ctx context.Context, s index.Source) error {
	return s.Each(func(ls labels.Labels, fp uint64, chunks []index.ChunkMeta) error {
		before, _, ok := d.judge.expires(ls)
		if !ok {
			return nil
		}
		for _, c := range chunks {
			if c.MaxTime >= before {
				continue
			}
			d.n++
			d.keys = append(d.keys, chunk.Key{Tenant: d.tenant, Fingerprint: fp, From: c.MinTime, Through: c.MaxTime, Checksum: c.Checksum})
			if len(d.keys) == maxMarkerChunks {
				if err := d.flush(ctx); err != nil {
					return err
				}
			}
		}
		d.judge.keep(ls, fp, chunks) // notes when the others expire
		return nil
	})
}

// flush stores a marker of the chunks that were noted.
func (d *dropper) flush(ctx context.Context) error {
	if len(d.keys) == 0 {
		return nil
	}
	err := d.run.putDeletion(ctx, newDeletion(d.tenant, d.keys), "")
	d.keys = d.keys[:0]
	return err
}

// putDeletion stores d, under a new key if it has none.
func (r *run) putDeletion(ctx context.Context, d deletion, key string) error {
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if key == "" {
		key = markerKey(deletesDir+d.Tenant+"/", r.mark(), r.random())
	}
	return r.bucket.Put(ctx, key, b)
}

const (
	// sweepChunks is about how many chunks are looked for in the index at a
	// time.
	sweepChunks = 200_000
	// markerLife is how long a marker waits for chunks that stay listed. Who
	// takes them out of the index later makes a new one.
	markerLife = 7 * 24 * time.Hour
	// listAttempts bounds how often a table is listed again because files
	// that were listed are gone.
	listAttempts = 5
)

// mark is a deletion that is under way.
type mark struct {
	deletion
	key string
	at  time.Time
}

// sweep deletes expired chunks whose time has come.
func (r *run) sweep(ctx context.Context) error {
	keys, err := r.bucket.List(ctx, deletesDir, true)
	if err != nil {
		return fmt.Errorf("list markers: %w", err)
	}
	var some []mark
	n := 0
	for _, key := range keys {
		m, ok, err := r.readDeletion(ctx, key)
		if err != nil {
			r.note(ctx, "reading marker "+key, err)
		}
		if !ok {
			continue
		}
		if len(some) > 0 && (some[0].Tenant != m.Tenant || n+len(m.keys) > sweepChunks) {
			r.note(ctx, "expired chunks of tenant "+some[0].Tenant, r.sweepTenant(ctx, some))
			some, n = some[:0], 0
		}
		some = append(some, m)
		n += len(m.keys)
	}
	if len(some) > 0 {
		r.note(ctx, "expired chunks of tenant "+some[0].Tenant, r.sweepTenant(ctx, some))
	}
	return nil
}

// readDeletion reads a marker, if its time has come.
func (r *run) readDeletion(ctx context.Context, key string) (mark, bool, error) {
	at, err := markerTime(key)
	if err != nil || r.now().Sub(at) < r.cfg.RetentionDeleteDelay {
		return mark{}, false, err
	}
	b, err := r.bucket.Get(ctx, key)
	if objstore.IsNotFound(err) {
		return mark{}, false, nil // another compactor is done with it
	}
	if err != nil {
		return mark{}, false, err
	}
	d, err := decodeDeletion(b)
	if err == nil && !strings.HasPrefix(key, deletesDir+d.Tenant+"/") {
		err = fmt.Errorf("marker is of tenant %q", d.Tenant)
	}
	return mark{d, key, at}, err == nil, err
}

// sweepTenant goes one step on with markers of one tenant.
func (r *run) sweepTenant(ctx context.Context, marks []mark) error {
	listed := map[chunk.Key]bool{}
	for _, m := range marks {
		for _, k := range m.keys {
			listed[k] = false
		}
	}
	// Taken before looking: what was deleted before that cannot come back
	// later than half of delete-delay from here.
	now := r.now()
	if err := r.findListed(ctx, marks[0].Tenant, listed); err != nil {
		return err
	}
	for _, m := range marks {
		if err := r.advance(ctx, m, listed, now); err != nil {
			return fmt.Errorf("%s: %w", m.key, err)
		}
	}
	return nil
}

// advance takes the next step with a marker.
func (r *run) advance(ctx context.Context, m mark, listed map[chunk.Key]bool, now time.Time) error {
	var still, gone []chunk.Key
	for _, k := range m.keys {
		if listed[k] {
			still = append(still, k)
		} else {
			gone = append(gone, k)
		}
	}
	switch {
	case len(still) == 0 && m.Unlisted > 0:
		if now.Sub(time.UnixMilli(m.Unlisted)) < r.cfg.DeleteDelay {
			return nil
		}
		return r.deleteChunks(ctx, m)
	case len(still) > 0 && now.Sub(m.at) >= markerLife+r.cfg.RetentionDeleteDelay && len(gone) == 0:
		r.m.voided.Inc()
		return r.bucket.Delete(ctx, m.key)
	case len(still) > 0 && m.Unlisted > 0:
		return r.putDeletion(ctx, newDeletion(m.Tenant, m.keys), m.key)
	case len(gone) == 0:
		return nil
	}
	ready := newDeletion(m.Tenant, gone)
	ready.Unlisted = r.now().UnixMilli()
	if len(still) == 0 {
		return r.putDeletion(ctx, ready, m.key)
	}
	// The first part has the time of the whole, so that it is due at once.
	if err := r.putDeletion(ctx, ready, markerKey(deletesDir+m.Tenant+"/", m.at.UnixNano(), r.random())); err != nil {
		return err
	}
	return r.putDeletion(ctx, newDeletion(m.Tenant, still), m.key)
}

func (r *run) deleteChunks(ctx context.Context, m mark) error {
	if err := r.guard(ctx); err != nil {
		return err
	}
	objects := make([]string, len(m.keys))
	for i, k := range m.keys {
		objects[i] = k.String()
		if r.fileKeys {
			objects[i] = k.FileKey()
		}
	}
	if err := r.deleteAll(ctx, objects); err != nil {
		return err
	}
	r.chunks += len(objects)
	r.m.chunksDeleted.Add(float64(len(objects)))
	return r.bucket.Delete(ctx, m.key)
}

// findListed sets those of the chunks to true that an index file lists, also
// one that is going to be deleted.
func (r *run) findListed(ctx context.Context, tenant string, chunks map[chunk.Key]bool) error {
	days := map[int64]bool{}
	for k := range chunks {
		for d := storage.TableOf(k.From); d <= storage.TableOf(k.Through); d++ {
			days[d] = true
		}
	}
	for day := range days {
		for attempt := 1; ; attempt++ {
			err := r.findInTable(ctx, day, tenant, chunks)
			if err == nil {
				break
			}
			if !objstore.IsNotFound(err) || attempt == listAttempts {
				return fmt.Errorf("table %d: %w", day, err)
			}
		}
	}
	return nil
}

func (r *run) findInTable(ctx context.Context, day int64, tenant string, chunks map[chunk.Key]bool) error {
	all, err := r.list(ctx, day)
	if err != nil {
		return err
	}
	for _, f := range all {
		if f.Tenant != "" && f.Tenant != tenant {
			continue
		}
		st, err := r.open(ctx, f.Key)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Key, err)
		}
		s := index.Source{Stream: st}
		if f.Tenant == "" {
			s.Only = labels.Label{Name: storage.TenantLabel, Value: tenant}
		}
		err = s.Each(func(_ labels.Labels, fp uint64, cs []index.ChunkMeta) error {
			for _, c := range cs {
				k := chunk.Key{Tenant: tenant, Fingerprint: fp, From: c.MinTime, Through: c.MaxTime, Checksum: c.Checksum}
				if _, ok := chunks[k]; ok {
					chunks[k] = true
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", f.Key, err)
		}
	}
	return nil
}
