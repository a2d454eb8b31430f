// Package consul is the ring's membership in Consul's key-value store.
//
// # Entries
//
// Every instance has one small key, PREFIX/ID, whose value is JSON: address,
// zone, state, generation, cluster and protocol version. A session holds the
// key, with a TTL, the behaviour "delete" and no lock delay: an instance that
// dies takes its key along. At rest nobody writes to the store; sessions are
// renewed three times in a TTL, which costs no entry in Consul's log. Entries
// of other clusters or protocol versions, without a session, or that cannot be
// read are no members; they are logged and counted.
//
// # One process for an id
//
// A key that a session holds cannot be taken by another one. A start that finds
// its id held does one of two things. If the entry has the same owner
// (ring.Identity, a name of the data directory that the starting process has
// locked), the process that made it is dead: the key changes hands at once, in
// one transaction. Otherwise nobody can tell whether the holder lives, but for
// the TTL: the start waits until the key goes, at most twice the TTL and a
// moment, and then fails with ring.ErrInUse. An instance whose key is held by
// somebody else when it has to enter again ends the same way, and Deps.Lost
// is told.
//
// # Failures
//
// A reader that cannot reach Consul keeps the ring that it has and tries again,
// for ever, with growing, random pauses. When it sees a list again after such a
// gap, or when the index has gone backwards, members that are missing stay for
// one more TTL: a Consul that lost its data looks as if everybody had died. An
// instance enters again, with the state that it has by then, as soon as its
// session or its key turns out to be gone.
//
// # Life cycle
//
// Open starts following; Register enters an instance and keeps it in the ring
// until Deregister. Close stops everything and leaves entries to their TTL. All
// methods may be called concurrently.
package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/ring"
)

// Deps are what a Membership works with. All of it may be left out.
type Deps struct {
	// Owner is that of ring.Identity; empty: no entry is taken over.
	Owner   string
	Version string // of the program, for people
	// Lost is called when an instance left the ring for good against its will:
	// its id is held by another process, or it was LEAVING for too long. Close
	// waits for it, so it must not call Close.
	Lost    func(in ring.Instance, err error)
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Membership is a ring.Membership in Consul.
type Membership struct {
	cfg  Config
	d    Deps
	cl   *client
	log  *slog.Logger
	warn *warn.Logger
	m    *metrics

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	view    *view
	members []ring.Member
	ring    *ring.Ring
	changed chan struct{}
	refresh *time.Timer // makes members anew when one's time is up
	contact time.Time
	problem string // why the list cannot be read
	keepers map[string]*keeper
	closed  bool
}

// Open connects to nothing yet: it starts to follow the members, and returns
// at once, with an empty ring.
func Open(cfg Config, d Deps) (*Membership, error) {
	cl, err := newClient(cfg)
	if err != nil {
		return nil, err
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	log := d.Log.With("component", "ring")
	m := &Membership{
		cfg: cfg, d: d, cl: cl, log: log, warn: warn.New(log),
		view: newView(cfg.Prefix, cfg.Cluster, cfg.SessionTTL),
		ring: ring.New(nil), changed: make(chan struct{}), keepers: map[string]*keeper{},
	}
	m.m = newMetrics(m)
	if err := m.m.register(d.Metrics); err != nil {
		return nil, fmt.Errorf("ring: %w", err)
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.wg.Go(m.follow)
	return m, nil
}

// Close stops everything. Instances that were not deregistered stay in the ring
// until their sessions expire.
func (m *Membership) Close() {
	m.mu.Lock()
	m.closed = true
	if m.refresh != nil {
		m.refresh.Stop()
	}
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
	m.cl.close()
	m.m.unregister(m.d.Metrics)
}

// Current implements ring.Membership.
func (m *Membership) Current() *ring.Ring {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ring
}

// Watch implements ring.Membership.
func (m *Membership) Watch() (*ring.Ring, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ring, m.changed
}

// Status implements ring.Membership.
func (m *Membership) Status() ring.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := ring.Status{
		Store: m.cfg.place(),
		Ring:  m.ring, Members: slices.Clone(m.members), Ignored: m.view.strangers(),
		Contact: m.contact, Stale: m.problem != "", Problem: m.problem,
	}
	for _, k := range m.keepers {
		if p := k.problem(); p != "" && s.Problem == "" {
			s.Problem = p
		}
	}
	return s
}

func (m *Membership) contactAge() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.contact.IsZero() {
		return -1
	}
	return time.Since(m.contact).Seconds()
}

func (m *Membership) staleValue() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.problem != "" {
		return 1
	}
	return 0
}

// answered notes that Consul did.
func (m *Membership) answered() {
	m.mu.Lock()
	m.contact = time.Now()
	m.mu.Unlock()
}

// Pauses between requests for the list.
const (
	// minPause puts changes that come close together into one list. It grows by
	// perMember, because a list costs Consul some 5 µs for each member and
	// reader.
	minPause  = 100 * time.Millisecond
	perMember = time.Millisecond
	mostPause = 500 * time.Millisecond
	maxPause  = 5 * time.Second // after failures
)

// backoff returns the pause after n failures in a row, with some chance, so
// that not everybody comes back at once.
func backoff(n int, longest time.Duration) time.Duration {
	d := min(minPause<<min(n, 10), longest)
	return d/2 + rand.N(d/2+1)
}

// sleep reports whether ctx lasted.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow reads the list whenever it changes, until the membership is closed.
func (m *Membership) follow() {
	var index uint64
	gap, failures, idle := false, 0, 0
	for m.ctx.Err() == nil {
		began := time.Now()
		pairs, meta, err := m.cl.list(m.ctx, index, m.cfg.MaxStale > 0)
		if err == nil && m.cfg.MaxStale > 0 && (meta.LastContact > m.cfg.MaxStale || !meta.KnownLeader) {
			pairs, meta, err = m.cl.list(m.ctx, 0, false)
		}
		if err != nil {
			if m.ctx.Err() != nil {
				return
			}
			m.unreachable(err, failures)
			// What Consul has now may have nothing to do with that index.
			index, gap = 0, true
			failures++
			sleep(m.ctx, backoff(failures, maxPause))
			continue
		}
		failures = 0
		next := meta.LastIndex
		if next < index {
			// Consul's data was restored or lost.
			next, gap = 0, true
		}
		changed := m.take(pairs, gap)
		index, gap = next, false
		pause := min(max(minPause, time.Duration(len(pairs))*perMember), mostPause)
		if changed || time.Since(began) >= m.cfg.Wait/2 {
			idle = 0
		} else {
			// Answers without news, such as while no member is left: then every
			// change of the store ends the wait.
			idle++
			pause = max(pause, backoff(min(idle, 3), maxPause))
		}
		sleep(m.ctx, pause-time.Since(began))
	}
}

func (m *Membership) unreachable(err error, failures int) {
	m.m.watchErrors.Inc()
	m.mu.Lock()
	m.problem = err.Error()
	m.mu.Unlock()
	if failures == 0 {
		m.log.Warn("members cannot be read from Consul; the last known ring is used", "err", err)
	} else {
		m.log.Debug("members cannot be read from Consul", "err", err, "failures", failures+1)
	}
}

// take reports whether the list is news.
func (m *Membership) take(pairs api.KVPairs, gap bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.problem != "" {
		m.log.Info("members can be read from Consul again")
	}
	m.contact, m.problem = time.Now(), ""
	for _, s := range m.view.apply(pairs, gap, m.contact) {
		m.log.Error("ignoring a key that is no member of this ring; two clusters need a ring.prefix each", "key", s.Key, "reason", s.Reason)
	}
	for _, k := range m.keepers {
		if !k.listed(m.view.entries[k.key]) {
			k.doubt()
		}
	}
	return m.publish(m.contact)
}

// publish makes the ring anew. It must be called under mu, and reports whether
// there was a change.
func (m *Membership) publish(now time.Time) bool {
	if m.closed {
		return false
	}
	members, next := m.view.members(now)
	changed := !slices.EqualFunc(m.members, members, func(a, b ring.Member) bool { return a.Instance == b.Instance })
	m.members = members
	m.m.show(members, len(m.view.ignored))
	if m.refresh != nil {
		m.refresh.Stop()
		m.refresh = nil
	}
	if !next.IsZero() {
		m.refresh = time.AfterFunc(next.Sub(now)+time.Millisecond, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.publish(time.Now())
		})
	}
	if !changed {
		return false
	}
	list := make([]ring.Instance, len(members))
	for i := range members {
		list[i] = members[i].Instance
	}
	m.ring = ring.New(list)
	m.m.updates.Inc()
	close(m.changed)
	m.changed = make(chan struct{})
	return true
}

// Register implements ring.Membership. While Consul cannot be reached it tries
// again until ctx ends; it fails at once when Consul refuses the request.
func (m *Membership) Register(ctx context.Context, in ring.Instance) error {
	if err := validID(in.ID); err != nil {
		return fmt.Errorf("ring: register: %w", err)
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return errClosed
	}
	old := m.keepers[in.ID]
	if old != nil && !old.over() {
		switch has := old.generation; {
		case has > in.Generation:
			m.mu.Unlock()
			return fmt.Errorf("register %s: %w", in.ID, ring.ErrSuperseded)
		case has == in.Generation:
			m.mu.Unlock()
			return old.set(ctx, in)
		}
	}
	k := newKeeper(m, in)
	m.keepers[in.ID] = k
	m.wg.Go(func() { k.run(old) })
	m.mu.Unlock()
	err := k.await(ctx, 1)
	if err != nil && k.entered() {
		return nil // just in time
	}
	if err != nil {
		m.remove(k)
		k.stop()
		// What it may have made already; if this fails it expires.
		tidy, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.Timeout)
		defer cancel()
		_ = k.leave(tidy)
		err = fmt.Errorf("register %s: %w", in.ID, err)
	}
	return err
}

var errClosed = errors.New("ring: membership is closed")

func splitAddress(addr string) (host string, port int) {
	h, p, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, 0
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		return h, 0
	}
	return h, n
}

// remove takes k out of the keepers, if it is there.
func (m *Membership) remove(k *keeper) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keepers[k.id] == k {
		delete(m.keepers, k.id)
	}
}

// Update implements ring.Membership.
func (m *Membership) Update(ctx context.Context, in ring.Instance) error {
	m.mu.Lock()
	k := m.keepers[in.ID]
	m.mu.Unlock()
	switch {
	case k == nil || k.generation < in.Generation:
		return fmt.Errorf("update %s: %w", in.ID, ring.ErrNotRegistered)
	case k.generation > in.Generation:
		return fmt.Errorf("update %s: %w", in.ID, ring.ErrSuperseded)
	}
	if err := k.set(ctx, in); err != nil {
		return fmt.Errorf("update %s: %w", in.ID, err)
	}
	return nil
}

// Deregister implements ring.Membership. If Consul cannot be reached, the entry
// is left to its TTL.
func (m *Membership) Deregister(ctx context.Context, in ring.Instance) error {
	m.mu.Lock()
	k := m.keepers[in.ID]
	m.mu.Unlock()
	if k == nil || k.generation != in.Generation {
		return nil
	}
	m.remove(k)
	k.stop()
	if err := k.leave(ctx); err != nil {
		return fmt.Errorf("deregister %s: the entry goes within %s: %w", in.ID, m.cfg.expiry(), err)
	}
	return nil
}
