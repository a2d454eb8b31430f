package compactor

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
)

// root is the folder of what is not Loki's. A tenant of this name is no
// problem: its folders are fingerprints.
const (
	root          = "loki-go/"
	supersededDir = root + "superseded/"
	deletesDir    = root + "deletes/"
)

const (
	maxMarkerSize   = 16 << 20
	maxMarkerFiles  = 10_000
	maxMarkerCovers = 100_000
	maxMarkerChunks = 50_000
)

// markerKey names a marker that was made at now (ns).
func markerKey(dir string, now int64, random uint32) string {
	return fmt.Sprintf("%s%020d-%08x.json", dir, now, random)
}

// markerTime returns when the marker with this key was made.
func markerTime(key string) (time.Time, error) {
	name := key[strings.LastIndexByte(key, '/')+1:]
	number, rest, ok := strings.Cut(name, "-")
	ns, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || ns < 0 || !strings.HasSuffix(rest, ".json") {
		return time.Time{}, fmt.Errorf("%q is no name of a marker", key)
	}
	return time.Unix(0, ns), nil
}

// superseded says that everything that sources list is listed by covers, or
// has expired.
type superseded struct {
	Version int      `json:"version"`
	Sources []string `json:"sources"`
	Covers  []string `json:"covers"`
	Expired bool     `json:"expired,omitempty"` // all of it, there is no cover
}

func decodeSuperseded(b []byte) (superseded, error) {
	var m superseded
	if err := unmarshal(b, &m); err != nil {
		return m, err
	}
	if m.Version != 1 {
		return m, fmt.Errorf("marker of version %d", m.Version)
	}
	if err := m.check(); err != nil {
		return m, fmt.Errorf("marker: %w", err)
	}
	return m, nil
}

func unmarshal(b []byte, v any) error {
	if len(b) > maxMarkerSize {
		return fmt.Errorf("marker of %d bytes", len(b))
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode marker: %w", err)
	}
	return nil
}

// check holds to what makes deleting the sources safe: covers have greater
// numbers than sources, in one table.
func (m superseded) check() error {
	if len(m.Sources) == 0 || len(m.Sources) > maxMarkerFiles {
		return fmt.Errorf("%d sources", len(m.Sources))
	}
	if (len(m.Covers) == 0) != m.Expired || len(m.Covers) > maxMarkerCovers {
		return fmt.Errorf("%d covers, expired: %v", len(m.Covers), m.Expired)
	}
	sources, err := parseFiles(m.Sources)
	if err != nil {
		return err
	}
	covers, err := parseFiles(m.Covers)
	if err != nil {
		return err
	}
	newest, day, tenant := int64(0), sources[0].Day, sources[0].Tenant
	for _, s := range sources {
		newest = max(newest, s.Number)
		if s.Day != day || s.Tenant != tenant {
			return errors.New("sources are of several tables or tenants")
		}
	}
	for _, c := range covers {
		switch {
		case c.Day != day || c.Tenant == "" || tenant != "" && c.Tenant != tenant:
			return fmt.Errorf("%s is not of the table and tenant of its sources", c.Key)
		case c.Number <= newest:
			return fmt.Errorf("%s is not newer than its sources", c.Key)
		}
	}
	return nil
}

func parseFiles(keys []string) ([]storage.IndexFile, error) {
	out := make([]storage.IndexFile, len(keys))
	for i, k := range keys {
		var err error
		if out[i], err = storage.ParseIndexKey(k); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// deletion names chunks of a tenant that are to be deleted.
type deletion struct {
	Version int    `json:"version"`
	Tenant  string `json:"tenant"`
	// Unlisted is when no index listed them any more (ms), 0 if one did when
	// they were looked for.
	Unlisted int64    `json:"unlisted,omitempty"`
	Chunks   []string `json:"chunks"` // their keys without the tenant

	keys []chunk.Key // what Chunks says
}

func newDeletion(tenant string, keys []chunk.Key) deletion {
	d := deletion{Version: 1, Tenant: tenant, keys: keys, Chunks: make([]string, len(keys))}
	for i, k := range keys {
		d.Chunks[i] = strings.TrimPrefix(k.String(), tenant+"/")
	}
	return d
}

func decodeDeletion(b []byte) (deletion, error) {
	var d deletion
	if err := unmarshal(b, &d); err != nil {
		return d, err
	}
	switch {
	case d.Version != 1:
		return d, fmt.Errorf("marker of version %d", d.Version)
	case len(d.Chunks) == 0 || len(d.Chunks) > maxMarkerChunks:
		return d, fmt.Errorf("marker: %d chunks", len(d.Chunks))
	case d.Unlisted < 0:
		return d, errors.New("marker: a time before 1970")
	}
	d.keys = make([]chunk.Key, len(d.Chunks))
	for i, c := range d.Chunks {
		k, err := chunk.ParseKey(d.Tenant + "/" + c)
		if err != nil || k.Through < k.From || storage.TableOf(k.Through)-storage.TableOf(k.From) > maxChunkTables {
			return d, fmt.Errorf("marker: %q of tenant %q is no chunk", c, d.Tenant)
		}
		d.keys[i] = k
	}
	return d, nil
}

// maxChunkTables bounds over how many days a chunk may reach to be deleted.
const maxChunkTables = 1000
