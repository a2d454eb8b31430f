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
	q := query{s: s, tenant: tenant, ms: ms, from: floorDiv(from, 1e6), through: floorDiv(through-1, 1e6), slots: make(chan struct{}, s.fetches)}
	q.shared = append(slices.Clone(ms), &labels.Matcher{Type: labels.MatchEqual, Name: tenantLabel, Value: tenant})
	days, err := s.tables(ctx, floorDiv(q.from, dayMillis), floorDiv(q.through, dayMillis))
	if err != nil {
		return nil, fmt.Errorf("storage: list tables: %w", err)
	}
	tables := make([][][]index.Series, len(days))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.fetches)
	for i, day := range days {
		g.Go(func() (err error) {
			if tables[i], err = q.table(ctx, day); err != nil {
				return fmt.Errorf("storage: read table %d: %w", day, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	m := merger{byFingerprint: map[uint64][]int{}}
	for _, parts := range tables {
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
	slots         chan struct{} // one for each request that may be under way
}

// slot waits for one.
func (q *query) slot(ctx context.Context) (release func(), err error) {
	select {
	case q.slots <- struct{}{}:
		return func() { <-q.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
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
		q.s.lists.forget(tableDir(day), q.tenant)
	}
}

// files lists the files of a table that may have something.
func (q *query) files(ctx context.Context, day int64) ([]file, error) {
	release, err := q.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	dir := tableDir(day)
	shared, err := q.s.lists.list(ctx, dir)
	if err != nil {
		return nil, err
	}
	var out []file
	own := false
	for _, key := range shared {
		if isIndexFile(key) {
			out = append(out, file{key, true})
		}
		own = own || key == tenantDir(dir, q.tenant)
	}
	if !own {
		return out, nil
	}
	keys, err := q.s.lists.list(ctx, tenantDir(dir, q.tenant))
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
		g.Go(func() (err error) {
			if out[i], err = q.file(ctx, f); err != nil {
				return fmt.Errorf("%s: %w", f.key, err)
			}
			return nil
		})
	}
	return out, g.Wait()
}

func (q *query) file(ctx context.Context, f file) ([]index.Series, error) {
	release, err := q.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := q.s.openIndex(ctx, f.key)
	if err != nil {
		return nil, err
	}
	if !f.shared {
		return r.Select(q.ms, q.from, q.through)
	}
	found, err := r.Select(q.shared, q.from, q.through)
	dropTenant(found)
	return found, err
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
		if b, ok := s.disk.get(key); ok {
			if r, err := index.NewReader(b); err == nil {
				return r, int64(r.Size()), nil
			}
			s.disk.remove(key)
		}
		b, err := s.bucket.Get(ctx, key)
		if err != nil {
			return nil, 0, err
		}
		s.m.indexesRead.Inc()
		s.m.indexBytesRead.Add(float64(len(b)))
		if b, err = unpackIndex(nil, key, b); err != nil {
			return nil, 0, err
		}
		r, err := index.NewReader(b)
		if err != nil {
			return nil, 0, err
		}
		s.disk.put(key, b)
		return r, int64(r.Size()), nil
	})
}

// decompress unpacks b, into dst if that is large enough.
func decompress(dst, b []byte) ([]byte, error) {
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
	if int64(cap(dst)) < size+bytes.MinRead {
		dst = make([]byte, 0, size+bytes.MinRead)
	}
	out := bytes.NewBuffer(dst[:0])
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
