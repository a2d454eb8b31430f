package compactor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/objstore"
)

// Options say what a Compactor works on. Zero values but Bucket are defaults.
type Options struct {
	Bucket     objstore.Bucket
	FileKeys   bool                  // chunks are named as Loki's filesystem client does
	Retention  Retention             // keeps all if nil
	Owner      string                // of the lease, unique for each process; random if ""
	Now        func() time.Time      // time.Now if nil
	Log        *slog.Logger          // drops everything if nil
	Registerer prometheus.Registerer // for metrics, may be nil
}

// Compactor merges index files and applies retention.
type Compactor struct {
	cfg       Config
	bucket    objstore.Bucket
	fileKeys  bool
	retention Retention
	now       func() time.Time
	random    func() uint32
	log       *slog.Logger
	m         *metrics
	lease     *lease // nil in tests that do without
	owner     atomic.Bool

	lastRetention time.Time
	// settled is what retention has to do next where it found nothing.
	settled map[settledKey]settledTable
}

type settledKey struct {
	day    int64
	tenant string
}

// settledTable says that the only file of a tenant in a table has nothing that
// expires before a time, by a policy.
type settledTable struct {
	file, policy string
	until        int64 // ms
}

// New returns a compactor.
func New(cfg Config, o Options) *Compactor {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Retention == nil {
		o.Retention = NoRetention{}
	}
	if o.Owner == "" {
		o.Owner = fmt.Sprintf("compactor-%016x", rand.Uint64())
	}
	c := &Compactor{
		cfg: cfg, bucket: o.Bucket, fileKeys: o.FileKeys, retention: o.Retention, now: o.Now, random: rand.Uint32,
		log: o.Log, m: newMetrics(o.Registerer), settled: map[settledKey]settledTable{},
	}
	c.lease = &lease{bucket: o.Bucket, owner: o.Owner, ttl: cfg.LeaseTTL, now: o.Now, sleep: sleep}
	return c
}

// releaseTimeout bounds how long the end of a compactor takes.
const releaseTimeout = 10 * time.Second

// Run takes the lease when it is free and then looks at the bucket every
// interval, until ctx ends. What fails is logged and tried again.
func (c *Compactor) Run(ctx context.Context) {
	defer c.release(ctx)
	step := min(c.cfg.Interval, c.cfg.LeaseTTL/3)
	var last time.Time
	for {
		if c.own(ctx) && (last.IsZero() || c.now().Sub(last) >= c.cfg.Interval) {
			last = c.now()
			retain := c.lastRetention.IsZero() || last.Sub(c.lastRetention) >= c.cfg.RetentionInterval
			if err := c.run(ctx, retain); err != nil && ctx.Err() == nil {
				c.log.Error("compaction failed, it is tried again", "error", err, "after", c.cfg.Interval)
			}
		}
		if err := sleep(ctx, step); err != nil {
			return
		}
	}
}

// own takes or renews the lease.
func (c *Compactor) own(ctx context.Context) bool {
	err := c.lease.acquire(ctx)
	switch {
	case err == nil:
		c.setOwner(true)
		return true
	case ctx.Err() == nil && !errors.Is(err, ErrLeased):
		c.m.errors.Inc()
		c.log.Error("taking the compactor's lease failed", "error", err)
	}
	c.setOwner(false)
	return false
}

// Owner reports whether this process had the lease when it last looked. It may
// be called at any time.
func (c *Compactor) Owner() bool { return c.owner.Load() }

func (c *Compactor) setOwner(is bool) {
	c.owner.Store(is)
	value := 0.0
	if is {
		value = 1
	}
	c.m.owner.Set(value)
}

func (c *Compactor) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := c.lease.release(ctx); err != nil {
		c.log.Warn("the compactor's lease was not released; it expires", "error", err, "after", c.cfg.LeaseTTL)
	}
	c.setOwner(false)
}

// RunOnce looks at the whole bucket once: it merges, applies retention, and
// deletes what earlier runs have left to delete. If another process has the
// lease the error is ErrLeased. What fails does not keep it from the rest; the
// error has the first of what failed.
func (c *Compactor) RunOnce(ctx context.Context) error {
	if c.lease == nil {
		return c.run(ctx, true)
	}
	if err := c.lease.acquire(ctx); err != nil {
		return err
	}
	c.setOwner(true)
	defer c.release(ctx)
	return c.run(ctx, true)
}

// run is one run, with the lease held.
func (c *Compactor) run(ctx context.Context, retain bool) error {
	start := c.now()
	r := run{Compactor: c, retain: retain}
	var err error
	if c.lease == nil {
		err = r.all(ctx)
	} else {
		err = c.lease.hold(ctx, r.all)
	}
	took := c.now().Sub(start)
	c.m.seconds.Observe(took.Seconds())
	if err != nil {
		c.m.runs.WithLabelValues("failed").Inc()
		return err
	}
	c.m.runs.WithLabelValues("done").Inc()
	c.m.lastRun.Set(float64(c.now().UnixNano()) / 1e9)
	if retain {
		c.lastRetention = start
	}
	if r.written+r.deleted+r.chunks > 0 {
		c.log.Info("compacted", "written", r.written, "merged", r.merged, "deleted", r.deleted, "chunks_expired", r.expired, "chunks_deleted", r.chunks, "took", took)
	}
	return nil
}

// run is the state of one run.
type run struct {
	*Compactor
	retain  bool
	pending []pending
	settled map[settledKey]settledTable // for the next run
	errs    []error
	failed  int

	marked int64 // number of the newest marker

	written, merged, deleted, expired, chunks int
}

// mark returns the time in ns for the name of a marker, later than those
// before: a marker that rests on a file comes before the one that lets go of
// that file.
func (r *run) mark() int64 {
	r.marked = max(r.now().UnixNano(), r.marked+1)
	return r.marked
}

// pending is a marker of files that are going to be deleted.
type pending struct {
	key string
	at  time.Time
	superseded
}

func (r *run) all(ctx context.Context) error {
	if r.lease != nil {
		if err := r.lease.clock(ctx); err != nil {
			return err
		}
	}
	if err := r.readPending(ctx); err != nil {
		return err
	}
	for _, p := range r.pending {
		if r.now().Sub(p.at) >= r.cfg.DeleteDelay {
			r.note(ctx, "deleting merged index files", r.removeSources(ctx, p))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	days, err := r.days(ctx)
	if err != nil {
		return err
	}
	r.settled = map[settledKey]settledTable{}
	for _, day := range days {
		if err := r.guard(ctx); err != nil {
			return err
		}
		r.note(ctx, fmt.Sprintf("table %d", day), r.table(ctx, day))
		r.m.tables.Inc()
	}
	if r.retain {
		r.Compactor.settled = r.settled
		r.note(ctx, "deleting expired chunks", r.sweep(ctx))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if r.failed > len(r.errs) {
		r.errs = append(r.errs, fmt.Errorf("and %d more", r.failed-len(r.errs)))
	}
	return errors.Join(r.errs...)
}

// maxErrors is how many errors of a run are returned.
const maxErrors = 10

// note keeps an error that does not end the run.
func (r *run) note(ctx context.Context, what string, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	r.m.errors.Inc()
	r.failed++
	if len(r.errs) < maxErrors {
		r.errs = append(r.errs, fmt.Errorf("compactor: %s: %w", what, err))
	}
}

// guard returns an error if the lease is not ours any more. It is called before
// every step that takes something away.
func (c *Compactor) guard(ctx context.Context) error {
	if c.lease == nil {
		return ctx.Err()
	}
	return c.lease.check(ctx)
}

// days returns the tables of the bucket.
func (c *Compactor) days(ctx context.Context) ([]int64, error) {
	dirs, err := c.bucket.List(ctx, storage.TablesPrefix, false)
	if err != nil {
		return nil, fmt.Errorf("compactor: list tables: %w", err)
	}
	var days []int64
	for _, d := range dirs {
		if day, ok := storage.ParseTableDir(d); ok {
			days = append(days, day)
		}
	}
	return days, nil
}
