package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

const (
	// manyTables is from where listing all tables is cheaper than asking for
	// each one in a range.
	manyTables = 32
	// listAttempts bounds how often a table is listed again because a file
	// that was listed is gone: compactors replace files.
	listAttempts = 5
	// maxIndexFile bounds an index file in memory.
	maxIndexFile = 2 << 30
)

// find returns the series that match and their chunks that touch the range
// (ns, through exclusive), in order of fingerprint, each once.
func (s *Store) find(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]index.Series, error) {
	if err := checkTenant(tenant); err != nil {
		return nil, err
	}
	if from >= through {
		return nil, nil
	}
	q := query{s: s, tenant: tenant, ms: ms, from: floorDiv(from, 1e6), through: floorDiv(through-1, 1e6)}
	q.shared = append(slices.Clone(ms), &labels.Matcher{Type: labels.MatchEqual, Name: tenantLabel, Value: tenant})
	days, err := s.tables(ctx, floorDiv(q.from, dayMillis), floorDiv(q.through, dayMillis))
	if err != nil {
		return nil, fmt.Errorf("storage: list tables: %w", err)
	}
	m := merger{byFingerprint: map[uint64][]int{}}
	for _, day := range days {
		parts, err := q.table(ctx, day)
		if err != nil {
			return nil, fmt.Errorf("storage: read table %d: %w", day, err)
		}
		for _, p := range parts {
			m.add(p)
		}
	}
	return m.finish(), nil
}

// tables returns the days from first to last that may have a table.
func (s *Store) tables(ctx context.Context, first, last int64) ([]int64, error) {
	var days []int64
	if last-first < manyTables {
		for d := first; d <= last; d++ {
			days = append(days, d)
		}
		return days, nil
	}
	dirs, err := s.bucket.List(ctx, indexDir+tablePrefix, false)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if d, ok := parseTableDir(dir); ok && first <= d && d <= last {
			days = append(days, d)
		}
	}
	slices.Sort(days)
	return days, nil
}

// query is a search in tables. Times are ms, inclusive.
type query struct {
	s             *Store
	tenant        string
	ms, shared    []*labels.Matcher // for files of the tenant, and of many
	from, through int64
}

// file is an index file of a table.
type file struct {
	key    string
	shared bool
}

// table returns what the files of a table have.
func (q *query) table(ctx context.Context, day int64) ([][]index.Series, error) {
	for attempt := 1; ; attempt++ {
		files, err := q.files(ctx, day)
		if err != nil {
			return nil, err
		}
		parts, err := q.search(ctx, files)
		if !objstore.IsNotFound(err) || attempt == listAttempts {
			return parts, err
		}
	}
}

// files lists the files of a table that may have something.
func (q *query) files(ctx context.Context, day int64) ([]file, error) {
	dir := tableDir(day)
	shared, err := q.s.bucket.List(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	var out []file
	own := false
	for _, key := range shared {
		if isIndexFile(key) {
			out = append(out, file{key, true})
		}
		own = own || key == dir+q.tenant+"/"
	}
	if !own {
		return out, nil
	}
	keys, err := q.s.bucket.List(ctx, dir+q.tenant+"/", false)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if from, through, ok := tenantFileBounds(key); ok && (from > q.through || through < q.from) {
			continue
		}
		if isIndexFile(key) {
			out = append(out, file{key, false})
		}
	}
	return out, nil
}

// search looks into files, some at a time.
func (q *query) search(ctx context.Context, files []file) ([][]index.Series, error) {
	out := make([][]index.Series, len(files))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(q.s.fetches)
	for i, f := range files {
		g.Go(func() error {
			r, err := q.s.openIndex(ctx, f.key)
			if err == nil {
				ms := q.ms
				if f.shared {
					ms = q.shared
				}
				out[i], err = r.Select(ms, q.from, q.through)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", f.key, err)
			}
			if f.shared {
				dropTenant(out[i])
			}
			return nil
		})
	}
	return out, g.Wait()
}

// dropTenant removes the label that files of many tenants add.
func dropTenant(series []index.Series) {
	for i := range series {
		series[i].Labels = slices.DeleteFunc(series[i].Labels, func(l labels.Label) bool { return l.Name == tenantLabel })
	}
}

// openIndex returns the index file with this key.
func (s *Store) openIndex(ctx context.Context, key string) (*index.Reader, error) {
	return s.indexes.get(ctx, key, func() (*index.Reader, int64, error) {
		b, err := s.bucket.Get(ctx, key)
		if err != nil {
			return nil, 0, err
		}
		r, err := UnpackIndex(key, b)
		if err != nil {
			return nil, 0, err
		}
		return r, int64(r.Size()), nil
	})
}

func decompress(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	// The last four bytes say how long the file is; they are believed within
	// what is likely.
	size := min(int64(binary.LittleEndian.Uint32(b[len(b)-4:])), 32*int64(len(b)))
	out := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	n, err := out.ReadFrom(io.LimitReader(z, maxIndexFile+1))
	if err == nil && n > maxIndexFile {
		err = errors.New("the file is too large")
	}
	return out.Bytes(), err
}

// merger puts the results of index files together.
type merger struct {
	series        []index.Series
	byFingerprint map[uint64][]int
}

func (m *merger) add(part []index.Series) {
next:
	for _, s := range part {
		for _, i := range m.byFingerprint[s.Fingerprint] {
			if slices.Equal(m.series[i].Labels, s.Labels) {
				m.series[i].Chunks = append(m.series[i].Chunks, s.Chunks...)
				continue next
			}
		}
		m.byFingerprint[s.Fingerprint] = append(m.byFingerprint[s.Fingerprint], len(m.series))
		m.series = append(m.series, s)
	}
}

// finish sorts series and chunks and drops what was listed twice.
func (m *merger) finish() []index.Series {
	for i := range m.series {
		m.series[i].Chunks = index.SortChunks(m.series[i].Chunks)
	}
	slices.SortStableFunc(m.series, index.CompareSeries)
	return m.series
}
