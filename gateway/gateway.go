// Package gateway is the distributor: it stands between receivers and
// ingesters.
//
// A Gateway resolves the tenant of a batch, brings labels into their canonical
// form, validates, limits, and hands what is left to the replicas that the ring
// names. Good entries are stored even when others of the same batch are
// refused; the answer, *push.Rejected, says which and why, in Loki's words.
//
// # Limits
//
// Rates count bytes of lines and of metadata names and values. A tenant's rate
// is all or nothing for a push: what does not fit is refused with the time
// after which it would. A push above the burst, which Loki never lets through,
// passes when the whole burst is unused and leaves the bucket in debt, so that
// the mean is kept. A stream's rate works likewise for all that a push has for
// the stream. Rates are those of one gateway.
//
// # Replication
//
// One push goes to each replica set, with the entries of the streams that the
// set holds. If that is all of the batch and the set is one instance, the batch
// itself is handed over; else the bytes of its streams are copied, not encoded
// again. An entry is stored when RF/2+1 replicas have it. Push returns then,
// and the others finish in the background, within their deadline and within a
// bound on the bytes that may be held that way. A replica that is not ACTIVE is
// not asked; one that is unreachable, about to leave, without disk space or with
// a fault of its own is replaced by the next on the ring. One that is overloaded
// is not: its load would go on to the next.
//
// # Push ids
//
// Ingesters answer a push id that they know with success and store nothing. The
// id that they are given stands for exactly the entries that they are given: it
// is the client's if all entries are acceptable, and else one that follows from
// it and from which ones are not. So a push of which a part was refused for now
// can be sent again with its id, and that part is stored then.
//
// # Dead letters
//
// Some protocols cannot refuse single entries. With Batch.KeepRefused, entries
// that were refused for good, by the gateway or by ingesters, go to the stream
//
//	{job="loki-go-dead-letter", reason="...", service_name="..."}
//
// of their tenant, and so do the pieces of Batch.Dead in any case. (The third
// label is what limits.discover-service-name makes of the others:
// loki-go-dead-letter, as a rule.) They are stored like everything else before
// Push returns; if that fails, so does the push, and is to be sent again. The
// line is the original one, up to dead-letters.max-line-size. The time is the
// present, or that of the push's newest entry if the push has an id, as it may
// come again then. What else is known is structured metadata:
//
//	dead_letter_error              why it was refused
//	dead_letter_receiver           the protocol that it came by
//	dead_letter_stream             the labels that it had
//	dead_letter_time               the time that it had
//	dead_letter_size               the length of the line, if it was cut
//	dead_letter_metadata_left_out  how many pairs of its metadata had no room
//
// and the original's own metadata as far as it fits into the tenant's limits.
//
// Dead letters have a rate of their own, dead-letters.rate for each tenant. They
// are not charged to the tenant's rate and not refused by it: they would be lost
// when a tenant is at its limit, and a client gains no more than that rate by
// sending bad entries. What is beyond the rate or dead-letters.max-per-push is
// dropped, counted and logged. The limit on streams is theirs, too: if it keeps
// a letter from being stored, the push fails, to be sent again. Letters of a
// push have an id if the push has one, so that those of a repetition are not
// stored again. A push that is refused as a whole leaves none, for good or not:
// without a tenant, or with an invalid one, there is no place to keep them, and
// a tenant that is blocked may not store anything.
//
// # Life cycle
//
// New starts nothing. Close refuses new pushes and waits for those under way,
// those in the background included. All methods may be called concurrently.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/loki-go/loki-go/gateway/auth"
	"github.com/loki-go/loki-go/gateway/internal/cache"
	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/gateway/tenant"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/ring"
)

// Config has the settings of a gateway.
type Config struct {
	AuthEnabled       bool `yaml:"-"` // false: everything belongs to the tenant "fake"
	ReplicationFactor int  `yaml:"-"`

	MaxInflight    units.Bytes   `yaml:"max-inflight" help:"memory for requests that are being read and stored; others wait, then get 503"`
	AdmitWait      time.Duration `yaml:"admit-wait" help:"how long a request waits for that memory"`
	ReplicaTimeout time.Duration `yaml:"replica-timeout" help:"how long a replica may take to store a push"`
	HedgeDelay     time.Duration `yaml:"hedge-delay" help:"after this long, and again and again, the next instance on the ring is asked to store what has no quorum yet"`
	MaxBackground  units.Bytes   `yaml:"max-background" help:"bytes that may still be on their way to slow replicas when their push is answered"`
	LabelCache     units.Bytes   `yaml:"label-cache-size" help:"memory for label texts that were parsed and validated"`
	DeadLetters    DeadLetters   `yaml:"dead-letters"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		ReplicationFactor: 1,
		MaxInflight:       512 * units.MiB,
		AdmitWait:         2 * time.Second,
		ReplicaTimeout:    10 * time.Second,
		HedgeDelay:        time.Second,
		MaxBackground:     128 * units.MiB,
		LabelCache:        64 * units.MiB,
		DeadLetters:       defaultDeadLetters(),
	}
}

// MaxReplicationFactor leaves some of ring.MaxReplicas to turn to.
const MaxReplicationFactor = 5

// Validate returns everything that is wrong.
func (c Config) Validate() []error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.ReplicationFactor >= 1 && c.ReplicationFactor <= MaxReplicationFactor,
		"replication-factor: must be 1 to %d", MaxReplicationFactor)
	check(c.MaxInflight >= units.MiB, "max-inflight: must be at least 1MB")
	check(c.AdmitWait >= 0, "admit-wait: must not be negative")
	check(c.ReplicaTimeout > 0, "replica-timeout: must be greater than 0")
	check(c.HedgeDelay > 0, "hedge-delay: must be greater than 0")
	check(c.MaxBackground >= 0, "max-background: must not be negative")
	check(c.LabelCache >= units.MiB, "label-cache-size: must be at least 1MB")
	return append(errs, c.DeadLetters.validate()...)
}

// Replica stores batches; see docs/architecture.md for what Push means. The
// streams of a batch have canonical labels and tokens. Entries and streams that
// are already marked as refused are not for storing.
type Replica interface {
	Push(ctx context.Context, b *push.Batch) error
}

// Deps are what a Gateway works with.
type Deps struct {
	// Ring returns the present ring.
	Ring interface{ Current() *ring.Ring }
	// Dial returns the replica that an instance is. It is called for every push
	// and must not block; an error counts as an unreachable replica.
	Dial func(in ring.Instance) (Replica, error)
	// Limits returns a tenant's limits. The same pointer must mean the same
	// limits.
	Limits interface {
		For(tenant string) *limits.Limits
	}
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: no metrics
	Now     func() time.Time      // nil: time.Now
}

// Gateway is the distributor.
type Gateway struct {
	d   Deps
	cfg Config
	m   *metrics

	inflight   *semaphore.Weighted
	background *semaphore.Weighted
	tenants    *cache.Cache[string, *tenantState]
	labels     *labelCache
	checks     sync.Pool // *check
	parts      sync.Pool // *part
	deadLog    *warn.Logger
	start      uint64        // a number of this start, for names of parts
	sent       atomic.Uint64 // the number of the last part

	mu      sync.RWMutex
	closed  bool
	running sync.WaitGroup // pushes and their goroutines; Add only under mu while open, or by one of them
}

// New returns a gateway that is ready.
func New(d Deps, cfg Config) (*Gateway, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("gateway: %w", errors.Join(errs...))
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{
		d:          d,
		cfg:        cfg,
		inflight:   semaphore.NewWeighted(int64(cfg.MaxInflight)),
		background: semaphore.NewWeighted(int64(cfg.MaxBackground)),
		tenants:    cache.New[string, *tenantState](maxTenants),
		labels:     newLabelCache(int64(cfg.LabelCache)),
		deadLog:    warn.New(d.Log),
		start:      max(1, rand.Uint64()),
	}
	g.checks.New = func() any { return new(check) }
	g.parts.New = func() any { return new(part) }
	var err error
	g.m, err = newMetrics(d.Metrics, g)
	if err != nil {
		return nil, fmt.Errorf("gateway: register metrics: %w", err)
	}
	return g, nil
}

// Close refuses new pushes and waits for those under way. It returns an error
// if ctx ends first.
func (g *Gateway) Close(ctx context.Context) error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	done := make(chan struct{})
	go func() {
		g.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("gateway: pushes are still under way: %w", context.Cause(ctx))
	}
}

func (g *Gateway) enter() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return false
	}
	g.running.Add(1)
	return true
}

// Push stores what is acceptable of b. It sets b.Tenant, the streams' labels
// and tokens, and the marks of what is refused. Errors are as
// docs/architecture.md has them for every Push.
func (g *Gateway) Push(ctx context.Context, b *push.Batch) error {
	if !g.enter() {
		return &push.Error{Reason: push.Leaving, Msg: "gateway: shutting down", RetryAfter: time.Second}
	}
	defer g.running.Done()
	start := g.d.Now()
	id, err := g.resolve(ctx, b.Tenant)
	if err != nil {
		g.m.refuse(g.m.nobody, b, err)
		g.m.duration("error", g.d.Now().Sub(start))
		return err
	}
	b.Tenant = id
	tn := g.tenant(id)
	err = g.push(ctx, tn, b, start)
	result := "ok"
	if err != nil {
		result = g.m.refuse(tn.metrics, b, err)
	}
	g.m.duration(result, g.d.Now().Sub(start))
	return err
}

// resolve returns the tenant of a batch. A tenant that follows from records must
// be one that the request's credentials are for, like one that it names.
func (g *Gateway) resolve(ctx context.Context, named string) (string, error) {
	id, err := tenant.Resolve(g.cfg.AuthEnabled, named)
	if err != nil || !g.cfg.AuthEnabled {
		return id, err
	}
	if who := auth.FromContext(ctx); who != nil && !who.May(id) {
		return "", push.Errorf(push.InvalidTenant, "the credentials of '%s' are not for tenant '%s'", who.Name, id)
	}
	return id, nil
}

func (g *Gateway) push(ctx context.Context, tn *tenantState, b *push.Batch, now time.Time) error {
	if len(b.Streams) == 0 && len(b.Dead) == 0 && b.DeadLeft == 0 {
		return push.Errorf(push.NoStreams, "error at least one valid stream is required for ingestion")
	}
	lim := g.d.Limits.For(tn.name)
	if until := lim.BlockIngestionUntil; now.Before(until.Time) {
		return push.Errorf(push.BlockedIngestion, "ingestion blocked for user %s until '%s' with status code '%d'",
			tn.name, until.Format(time.RFC3339), push.BlockedIngestion.Status())
	}
	c := g.newCheck(tn, lim, b, now)
	defer c.release()
	c.run()
	tn.metrics.receiver(b.Receiver).add(len(b.Entries), c.received)
	if c.accepted > 0 {
		if err := c.limit(); err != nil {
			return err
		}
	}
	if c.accepted > 0 {
		if err := c.store(ctx); err != nil {
			return err
		}
	}
	if err := c.keepDead(ctx); err != nil {
		return err
	}
	if c.rej.Entries > 0 {
		c.rej.Total = len(b.Entries)
		rej := c.rej
		return &rej
	}
	return nil
}
