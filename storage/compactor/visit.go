package compactor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/objstore"
)

// Root is the folder of everything in a bucket that is not Loki's. What a
// compactor keeps in it IsObject tells.
const Root = root

// IsObject reports whether key is the lease or can be a marker.
func IsObject(key string) bool {
	if key == leaseKey {
		return true
	}
	_, err := markerTime(key)
	return err == nil && (strings.HasPrefix(key, supersededDir) || strings.HasPrefix(key, deletesDir))
}

// Expires returns how long chunks of a stream are kept by p; 0: for ever.
func (p Policy) Expires(ls labels.Labels) time.Duration { return p.period(ls) }

// Markers are called with what the markers of a bucket say. Nil ones are not.
type Markers struct {
	// File gets each index file that was replaced and is going to be deleted.
	File func(key string)
	// Chunk gets each chunk that the index has dropped, or is about to drop,
	// and that is going to be deleted.
	Chunk func(chunk.Key)
	// Bad gets markers that cannot be read. They have no effect.
	Bad func(key string, err error)
}

// maxVisits bounds how often markers are read because there are new ones.
const maxVisits = 10

// VisitFiles reads the markers of merged index files.
func VisitFiles(ctx context.Context, b objstore.Bucket, v Markers) error {
	return visit(ctx, b, supersededDir, v.Bad, func(_ string, body []byte) error {
		m, err := decodeSuperseded(body)
		if err == nil && v.File != nil {
			for _, s := range m.Sources {
				v.File(s)
			}
		}
		return err
	})
}

// VisitChunks reads the markers of a tenant's expired chunks; of all tenants if
// tenant is empty. A chunk that no index file lists because of retention is
// named to it, however a compactor moves markers meanwhile. It may be named more
// than once.
func VisitChunks(ctx context.Context, b objstore.Bucket, tenant string, v Markers) error {
	dir := deletesDir
	if tenant != "" {
		dir += tenant + "/"
	}
	return visit(ctx, b, dir, v.Bad, func(key string, body []byte) error {
		d, err := decodeDeletion(body)
		if err == nil && !strings.HasPrefix(key, deletesDir+d.Tenant+"/") {
			err = fmt.Errorf("marker is of tenant %q", d.Tenant)
		}
		if err == nil && v.Chunk != nil {
			for _, k := range d.keys {
				v.Chunk(k)
			}
		}
		return err
	})
}

// visit reads markers until there are none that it has not seen: a marker is
// split by putting the new one before the old one shrinks.
func visit(ctx context.Context, b objstore.Bucket, dir string, bad func(string, error), f func(key string, body []byte) error) error {
	seen := map[string]bool{}
	for range maxVisits {
		keys, err := b.List(ctx, dir, true)
		if err != nil {
			return fmt.Errorf("compactor: list markers: %w", err)
		}
		keys = slices.DeleteFunc(keys, func(k string) bool { return seen[k] || !IsObject(k) })
		if len(keys) == 0 {
			return nil
		}
		for _, key := range keys {
			seen[key] = true
			body, err := b.Get(ctx, key)
			if objstore.IsNotFound(err) {
				continue // a compactor is done with it
			}
			if err != nil {
				return fmt.Errorf("compactor: read marker %s: %w", key, err)
			}
			if err := f(key, body); err != nil && bad != nil {
				bad(key, err)
			}
		}
	}
	return fmt.Errorf("compactor: markers in %s change faster than they are read", dir)
}
