package compactor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// errSlow says that what a file lists may be deleted before the file is there.
var errSlow = errors.New("listing took longer than half of delete-delay")

// job is what is to be done for a tenant in a table.
type job struct {
	day    int64
	tenant string
	files  files
	listed time.Time // when the files were known to be there
	judge  *judge    // nil if nothing can expire
}

// tenant merges the files of a tenant in a table, and drops what has expired.
func (r *run) tenant(ctx context.Context, j job) error {
	if len(j.files) > maxMarkerFiles {
		j.files = j.files[:maxMarkerFiles] // the rest is for the next run
	}
	policy, check := r.policy(j)
	if check {
		j.judge = newJudge(policy, r.now())
	}
	merging := len(j.files) > 1 && (check || r.due(j.files))
	if !merging && !check {
		return nil
	}
	made, expired, err := r.merge(ctx, j)
	if err != nil {
		return err
	}
	if !merging && expired == 0 {
		r.settle(j, policy, j.files[0].Key)
		return nil
	}
	m := superseded{Sources: j.files.keys(), Expired: made == nil}
	if made != nil {
		file, err := r.put(ctx, &j, made)
		if err != nil {
			return err
		}
		m.Covers = []string{file.Key}
	}
	if err := r.supersede(ctx, j.day, m); err != nil {
		return err
	}
	if made != nil && check {
		r.settle(j, policy, m.Covers[0])
	}
	r.expired += expired
	r.m.chunksExpired.Add(float64(expired))
	return nil
}

// policy returns the tenant's policy, and whether something may have expired
// that is in the table.
func (r *run) policy(j job) (Policy, bool) {
	if !r.retain {
		return Policy{}, false
	}
	p := r.retention.Retention(j.tenant)
	shortest := p.shortest().Milliseconds()
	now := r.now().UnixMilli()
	if shortest == 0 || j.day*storage.DayMillis > now-shortest {
		return p, false
	}
	s, ok := r.Compactor.settled[settledKey{j.day, j.tenant}]
	if ok && len(j.files) == 1 && s.file == j.files[0].Key && now < s.until && s.policy == p.String() {
		r.settled[settledKey{j.day, j.tenant}] = s
		return p, false
	}
	return p, true
}

// settle notes when the file must be looked at again.
func (r *run) settle(j job, p Policy, file string) {
	r.settled[settledKey{j.day, j.tenant}] = settledTable{file, p.String(), j.judge.next}
}

// merge returns one index file with what those of j list, without what has
// expired, or nil if that is all. The expired chunks are on record before it
// returns.
func (r *run) merge(ctx context.Context, j job) (made *merged, expired int, err error) {
	var drop *dropper
	m := merger{limit: int64(r.cfg.MaxMemory)}
	if j.judge != nil {
		drop = &dropper{run: r, tenant: j.tenant, judge: j.judge}
		m.keep = j.judge.keep
	}
	err = r.each(ctx, j.files.keys(), func(key string, object []byte) error {
		st, err := storage.StreamIndex(key, object)
		if err != nil {
			return err
		}
		if drop != nil {
			if err := drop.scan(ctx, index.Source{Stream: st}); err != nil {
				return err
			}
		}
		return m.add(st, object)
	})
	if err != nil {
		return nil, 0, err
	}
	if drop != nil {
		if err := drop.flush(ctx); err != nil {
			return nil, 0, err
		}
		expired = drop.n
		if expired == 0 && len(j.files) == 1 {
			return nil, 0, nil
		}
	}
	made, err = m.finish()
	return made, expired, err
}

// each calls f for the objects of index files, of which some are fetched at a
// time.
func (r *run) each(ctx context.Context, keys []string, f func(key string, object []byte) error) error {
	window := 1 // until it is known how large they are
	for len(keys) > 0 {
		some := keys[:min(window, len(keys))]
		keys = keys[len(some):]
		objects, err := r.fetch(ctx, some)
		if err != nil {
			return err
		}
		size := 0
		for i, key := range some {
			size += len(objects[i])
			if err := f(key, objects[i]); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			objects[i] = nil
		}
		// Large objects wait in small numbers.
		average := int64(size/len(some)) + 1
		window = int(min(int64(r.cfg.Concurrency), int64(r.cfg.MaxMemory)/4/average+1))
	}
	return nil
}

// fetch returns objects, which are fetched together.
func (r *run) fetch(ctx context.Context, keys []string) ([][]byte, error) {
	objects := make([][]byte, len(keys))
	g, ctx := errgroup.WithContext(ctx)
	for i, key := range keys {
		g.Go(func() (err error) {
			objects[i], err = r.bucket.Get(ctx, key)
			r.m.bytesRead.Add(float64(len(objects[i])))
			return err
		})
	}
	return objects, g.Wait()
}

// open fetches an index file.
func (c *Compactor) open(ctx context.Context, key string) (*index.Stream, error) {
	object, err := c.bucket.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	c.m.bytesRead.Add(float64(len(object)))
	return storage.StreamIndex(key, object)
}

// muchMemory is from where what is left of fetching, and of the merge before,
// is given back before a merge. That takes a small part of the time of the
// merge, and without it twice the memory may be in use.
const muchMemory = 64 << 20

// merged is a new index file.
type merged struct {
	object []byte // compressed
	info   index.Info
	series int
}

// mergedKey is a key that says that an object is compressed.
const mergedKey = "merged.tsdb.gz"

// merger merges files as they come, so that about limit bytes of them and the
// result are in memory.
type merger struct {
	limit   int64
	keep    index.Keep
	batch   []index.Source
	size    int64   // of the batch in memory
	objects int     // bytes of its objects
	result  *merged // of batches before; it is in the batch
}

// add takes a file.
func (m *merger) add(st *index.Stream, object []byte) error {
	m.batch = append(m.batch, index.Source{Stream: st})
	m.size += int64(st.Size() + len(object))
	m.objects += len(object)
	if m.size < m.limit || len(m.batch) < 2 {
		return nil
	}
	made, err := m.merge()
	if err != nil || made == nil {
		return err
	}
	if st, err = storage.StreamIndex(mergedKey, made.object); err != nil {
		return fmt.Errorf("check the merged file: %w", err)
	}
	m.result = made
	m.batch = append(m.batch, index.Source{Stream: st})
	m.size, m.objects = int64(st.Size()+len(made.object)), len(made.object)
	return nil
}

// merge returns what was added, or nil if nothing is left of it, and lets go of
// it.
func (m *merger) merge() (*merged, error) {
	if m.size > muchMemory {
		debug.FreeOSMemory()
	}
	made, err := mergeSources(m.batch, m.keep, m.objects)
	clear(m.batch)
	m.batch, m.size, m.objects, m.result = m.batch[:0], 0, 0, nil
	if errors.Is(err, index.ErrNoSeries) {
		return nil, nil
	}
	return made, err
}

// mergeSources merges sources to an object of about size bytes.
func mergeSources(sources []index.Source, keep index.Keep, size int) (*merged, error) {
	made := &merged{}
	var err error
	made.object, err = storage.PackIndexTo(make([]byte, 0, size), func(w io.Writer) (err error) {
		made.info, made.series, err = index.MergeTo(w, sources, keep)
		return err
	})
	return made, err
}

// finish is the last merge.
func (m *merger) finish() (*merged, error) {
	if m.result != nil && len(m.batch) == 1 {
		return m.result, nil
	}
	return m.merge()
}

// put stores a file and returns what it is called.
func (r *run) put(ctx context.Context, j *job, made *merged) (storage.IndexFile, error) {
	st, err := storage.StreamIndex(mergedKey, made.object)
	if err == nil {
		err = st.Check()
	}
	if err != nil {
		return storage.IndexFile{}, fmt.Errorf("check the merged file: %w", err)
	}
	number, err := r.number(j.files)
	if err != nil {
		return storage.IndexFile{}, err
	}
	file, err := storage.ParseIndexKey(storage.TenantIndexKey(j.day, j.tenant, number, made.info))
	if err != nil {
		return storage.IndexFile{}, err
	}
	if err := r.stillThere(ctx, j); err != nil {
		return storage.IndexFile{}, err
	}
	if err := r.bucket.Put(ctx, file.Key, made.object); err != nil {
		return storage.IndexFile{}, err
	}
	r.written++
	r.m.merges.Inc()
	r.m.series.Add(float64(made.series))
	r.m.bytesWritten.Add(float64(len(made.object)))
	return file, nil
}

// stillThere returns an error if files of j are gone. Then chunks that only they
// listed may be gone too, and must not be listed again. If all are there it is
// good for half of delete-delay.
func (r *run) stillThere(ctx context.Context, j *job) error {
	if r.now().Sub(j.listed) <= r.cfg.DeleteDelay/4 {
		return nil
	}
	at := r.now()
	all, err := r.list(ctx, j.day)
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(all))
	for _, f := range all {
		there[f.Key] = true
	}
	for _, f := range j.files {
		if !there[f.Key] {
			return fmt.Errorf("%s was merged by another: %w", f.Key, objstore.ErrNotFound)
		}
	}
	if r.now().Sub(at) > r.cfg.DeleteDelay/2 {
		return errSlow
	}
	j.listed = at
	return nil
}

// numberJitter keeps compactors that merge in the same moment from using the
// same number.
const numberJitter = 1_000_000

// number returns the time, and in any case a number above those of f.
func (r *run) number(f files) (int64, error) {
	newest := f.newest()
	if newest > math.MaxInt64-2*numberJitter {
		return 0, fmt.Errorf("no number is above %d", newest)
	}
	return max(r.now().UnixNano(), newest+1) + int64(r.random()%numberJitter), nil
}

// split makes, of files of many tenants, one for each tenant. It returns those
// that it made, even with an error.
func (r *run) split(ctx context.Context, day int64, shared files, listed time.Time) (files, error) {
	var made files
	var batch []index.Source
	size, first := int64(0), 0
	end := func(n int) error {
		some, err := r.splitBatch(ctx, job{day: day, files: shared[first:n], listed: listed}, batch)
		made = append(made, some...)
		batch, size, first = nil, 0, n
		return err
	}
	n := 0
	err := r.each(ctx, shared.keys(), func(key string, object []byte) error {
		// Not as a stream, which would be read once for each tenant.
		rd, err := storage.UnpackIndex(key, object)
		if err != nil {
			return err
		}
		batch = append(batch, index.Source{Reader: rd})
		size += int64(rd.Size())
		n++
		if size >= int64(r.cfg.MaxMemory) || len(batch) == maxMarkerFiles {
			return end(n)
		}
		return nil
	})
	if err == nil && len(batch) > 0 {
		err = end(n)
	}
	return made, err
}

func (r *run) splitBatch(ctx context.Context, j job, batch []index.Source) (files, error) {
	tenants, err := tenantsOf(batch)
	if err != nil {
		return nil, err
	}
	var made files
	for _, tenant := range tenants {
		for i := range batch {
			batch[i].Only = labels.Label{Name: storage.TenantLabel, Value: tenant}
		}
		one, err := mergeSources(batch, nil, 0)
		if err != nil {
			return made, err
		}
		j.tenant = tenant
		f, err := r.put(ctx, &j, one)
		if err != nil {
			return made, err
		}
		made = append(made, f)
	}
	return made, r.supersede(ctx, j.day, superseded{Sources: j.files.keys(), Covers: made.keys()})
}

// tenantsOf returns the tenants of files, sorted. It is an error if there is a
// series without one: it would be lost.
func tenantsOf(batch []index.Source) ([]string, error) {
	var out []string
	for _, s := range batch {
		all, err := s.NumSeries()
		if err != nil {
			return nil, err
		}
		for _, t := range s.Reader.LabelValues(storage.TenantLabel) {
			n, err := index.Source{Reader: s.Reader, Only: labels.Label{Name: storage.TenantLabel, Value: t}}.NumSeries()
			if err != nil {
				return nil, err
			}
			all -= n
			out = append(out, t)
		}
		if all != 0 {
			return nil, fmt.Errorf("%d series without a tenant", all)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
