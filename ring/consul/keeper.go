package consul

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/loki-go/loki-go/ring"
)

// keeper keeps one instance of this process in the ring.
type keeper struct {
	m          *Membership
	id, key    string
	generation int64
	started    int64 // Unix seconds
	ctx        context.Context
	cancel     context.CancelFunc
	ended      chan struct{} // closed when run has returned
	poke       chan struct{} // look at the state
	pokeCheck  chan struct{} // the same for the health check

	mu       sync.Mutex
	want     ring.Instance
	version  int // of want
	written  int // the version that Consul has; 0: never entered
	holds    bool
	unsure   bool // the watch does not see the key
	session  string
	leaveBy  time.Time
	progress chan struct{} // closed and made anew when any of these change
	trouble  string
	err      error // why it is over
	stopped  bool
}

func newKeeper(m *Membership, in ring.Instance) *keeper {
	k := &keeper{
		m: m, id: in.ID, key: m.cfg.Prefix + "/" + in.ID, generation: in.Generation, started: time.Now().Unix(),
		ended: make(chan struct{}), poke: make(chan struct{}, 1), pokeCheck: make(chan struct{}, 1),
		progress: make(chan struct{}),
	}
	k.ctx, k.cancel = context.WithCancel(m.ctx)
	k.setWant(in)
	return k
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// setWant returns the version of in.
func (k *keeper) setWant(in ring.Instance) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.version == 0 || k.want != in {
		if in.State != ring.Leaving {
			k.leaveBy = time.Time{}
		} else if k.leaveBy.IsZero() {
			k.leaveBy = time.Now().Add(k.m.cfg.LeavingTimeout)
		}
		k.want = in
		k.version++
		signal(k.poke)
		signal(k.pokeCheck)
	}
	return k.version
}

// set makes in the entry and waits until Consul has it.
func (k *keeper) set(ctx context.Context, in ring.Instance) error { return k.await(ctx, k.setWant(in)) }

// await waits until Consul has a version.
func (k *keeper) await(ctx context.Context, version int) error {
	for {
		k.mu.Lock()
		err, done, progress, trouble, stopped := k.err, k.written >= version, k.progress, k.trouble, k.stopped
		k.mu.Unlock()
		switch {
		case done:
			return nil
		case err != nil:
			return err
		case stopped:
			return errStopped
		}
		select {
		case <-progress:
		case <-ctx.Done():
			if trouble != "" {
				return fmt.Errorf("%w: %s", ctx.Err(), trouble)
			}
			return ctx.Err()
		}
	}
}

// locked changes the state and tells those who wait.
func (k *keeper) locked(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
	close(k.progress)
	k.progress = make(chan struct{})
}

func (k *keeper) entered() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.written > 0
}

// over reports whether the keeper has given up.
func (k *keeper) over() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err != nil
}

func (k *keeper) problem() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.err != nil:
		return fmt.Sprintf("instance %s is not in the ring any more: %v", k.id, k.err)
	case k.trouble != "":
		return fmt.Sprintf("instance %s: %s", k.id, k.trouble)
	}
	return ""
}

// listed reports whether a list that has s as the entry is as it should be.
func (k *keeper) listed(s *seen) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.holds || s != nil && s.session == k.session
}

// doubt makes the keeper look whether Consul still has its entry.
func (k *keeper) doubt() {
	k.mu.Lock()
	k.unsure = true
	k.mu.Unlock()
	signal(k.poke)
}

// stop ends run and waits for it. The entry stays.
func (k *keeper) stop() {
	k.cancel()
	<-k.ended
}

// leave removes the entry, after stop.
func (k *keeper) leave(ctx context.Context) error {
	k.mu.Lock()
	session, registered := k.session, k.written > 0
	if registered && k.holds {
		k.m.m.registered.Dec()
	}
	k.holds = false
	k.mu.Unlock()
	if registered {
		k.withdraw(ctx)
	}
	if session == "" {
		return nil
	}
	return k.m.cl.destroySession(ctx, session)
}

// Errors that end a keeper.
var (
	errForeign = errors.New("ring: the key is in use for something else")
	errTooLong = errors.New("ring: LEAVING for longer than ring.consul.leaving-timeout")
)

var errStopped = errors.New("ring: the instance was deregistered meanwhile, or its membership was closed")

func final(err error) bool {
	return errors.Is(err, ring.ErrInUse) || errors.Is(err, ring.ErrSuperseded) || errors.Is(err, errForeign) || errors.Is(err, errTooLong)
}

// run enters the instance and keeps it there until it is stopped. old kept the
// same instance before, or is nil.
func (k *keeper) run(old *keeper) {
	defer close(k.ended)
	defer k.locked(func() { k.stopped = true })
	defer k.cancel()
	predecessor := ""
	if old != nil {
		old.stop()
		old.mu.Lock()
		predecessor = old.session
		if old.holds {
			old.holds = false
			k.m.m.registered.Dec()
		}
		old.mu.Unlock()
	}
	var check sync.WaitGroup
	defer check.Wait()
	if k.m.cfg.Service != "" {
		check.Go(k.announce)
	}
	lost, failures := atStart, 0
	renewAt := time.Now()
	for {
		err := k.step(&lost, &renewAt, predecessor)
		if k.ctx.Err() != nil {
			return
		}
		if final(err) || err != nil && permanent(err) && !k.entered() {
			k.give(err, lost)
			return
		}
		wait := time.Until(renewAt)
		if err != nil {
			wait = backoff(failures, k.m.cfg.renewEvery())
			if failures == 0 {
				k.m.log.Warn("an instance cannot be kept in the ring; trying again", "instance", k.id, "err", err)
			}
			failures++
			k.locked(func() { k.trouble = err.Error() })
		} else {
			if failures > 0 {
				k.m.log.Info("the instance is in the ring again", "instance", k.id)
			}
			failures = 0
			k.locked(func() { k.trouble = "" })
			k.m.answered()
		}
		if by := k.leavingUntil(); !by.IsZero() {
			wait = min(wait, time.Until(by))
		}
		t := time.NewTimer(max(0, wait))
		select {
		case <-t.C:
		case <-k.poke:
			t.Stop()
			// A new state goes out at once; what the watch missed may be so for
			// many instances.
			if k.isUnsure() && !sleep(k.ctx, rand.N(min(500*time.Millisecond, k.m.cfg.SessionTTL/10))) {
				return
			}
		case <-k.ctx.Done():
			t.Stop()
			return
		}
	}
}

func (k *keeper) leavingUntil() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.leaveBy
}

func (k *keeper) isUnsure() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unsure
}

// give ends the keeper for err.
func (k *keeper) give(err error, lost string) {
	k.locked(func() {
		if k.holds {
			k.m.m.registered.Dec()
		}
		k.holds, k.err = false, err
	})
	if lost == atStart {
		return // Register returns err
	}
	k.m.log.Error("an instance of this process is not in the ring any more", "instance", k.id, "err", err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), k.m.cfg.Timeout)
	defer cancel()
	if e := k.leave(ctx); e != nil {
		k.m.log.Warn("the entry is left to its TTL", "instance", k.id, "err", e)
	}
	if k.m.d.Lost != nil {
		k.mu.Lock()
		in := k.want
		k.mu.Unlock()
		k.m.wg.Go(func() { k.m.d.Lost(in, err) })
	}
}

// step does what is due. lost says why the instance has to enter, or is empty.
func (k *keeper) step(lost *string, renewAt *time.Time, predecessor string) error {
	cl := k.m.cl
	now := time.Now()
	if by := k.leavingUntil(); !by.IsZero() && !now.Before(by) {
		if *lost == atStart {
			*lost = sessionLost
		}
		return errTooLong
	}
	if *lost == "" && !now.Before(*renewAt) {
		alive, err := cl.renewSession(k.ctx, k.held())
		if err != nil {
			return k.failed("renew", err)
		}
		k.m.m.renewals.Inc()
		*renewAt = k.nextRenewal()
		if !alive {
			k.locked(func() { k.session = "" })
			*lost = sessionLost
		}
	}
	if *lost == "" && k.isUnsure() {
		p, _, err := cl.get(k.ctx, k.key, 0, 0)
		if err != nil {
			return k.failed("read", err)
		}
		k.locked(func() { k.unsure = false })
		if p == nil || p.Session != k.held() {
			*lost = keyLost
		}
	}
	if *lost == "" {
		value, version, news := k.value()
		if !news {
			return nil
		}
		ok, err := cl.acquire(k.ctx, k.key, k.held(), value)
		if err != nil {
			return k.failed("write", err)
		}
		if ok {
			k.locked(func() { k.written = version })
			return nil
		}
		*lost = keyLost
	}
	k.locked(func() {
		if k.holds {
			k.m.m.registered.Dec()
		}
		k.holds = false
	})
	if *lost != atStart {
		k.m.log.Warn("the instance has to enter the ring again", "instance", k.id, "reason", *lost)
	}
	if err := k.enter(*lost == atStart, predecessor); err != nil {
		return k.failed("enter", err)
	}
	k.m.m.registrations.WithLabelValues(*lost).Inc()
	k.m.m.registered.Inc()
	*lost, *renewAt = "", k.nextRenewal()
	signal(k.pokeCheck)
	return nil
}

func (k *keeper) failed(op string, err error) error {
	if k.ctx.Err() == nil {
		k.m.m.requestErrors.WithLabelValues(op).Inc()
	}
	return err
}

func (k *keeper) held() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.session
}

// nextRenewal spreads the renewals of many instances.
func (k *keeper) nextRenewal() time.Time {
	d := k.m.cfg.renewEvery()
	return time.Now().Add(d - d/10 + rand.N(d/5))
}

// value returns the entry to be, its version, and whether Consul lacks it.
func (k *keeper) value() (value []byte, version int, news bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := entry{
		Cluster: k.m.cfg.Cluster, Protocol: Protocol, ID: k.id, Address: k.want.Addr, Zone: k.want.Zone,
		State: k.want.State, Generation: k.generation, Owner: k.m.d.Owner, Started: k.started, Version: k.m.d.Version,
	}
	if k.want.State == ring.Leaving {
		e.LeaveWithin = int64(max(time.Second, time.Until(k.leaveBy)).Round(time.Second) / time.Second)
	}
	return e.encode(), k.version, k.written < k.version
}

// enter writes the key with a session that lives.
func (k *keeper) enter(first bool, predecessor string) error {
	cl := k.m.cl
	var holder string // whom we wait for
	var index uint64
	var until time.Time
	for {
		wait := time.Duration(0)
		if holder != "" {
			wait = max(time.Second, min(time.Until(until), k.m.cfg.Wait))
		}
		p, next, err := cl.get(k.ctx, k.key, index, wait)
		if err != nil {
			return err
		}
		if next < index {
			next = 0
		}
		index = next
		free, err := k.mayTake(p, predecessor)
		if err != nil {
			return err
		}
		if free {
			done, err := k.write(p)
			if err != nil || done {
				return err
			}
			index = 0 // somebody was faster
		} else if err := k.wait(p, first, &holder, &until); err != nil {
			return err
		}
		if !sleep(k.ctx, minPause) {
			return k.ctx.Err()
		}
	}
}

// mayTake reports whether the key p, or none, is for this instance to write.
func (k *keeper) mayTake(p *api.KVPair, predecessor string) (bool, error) {
	if p == nil {
		return true, nil
	}
	e, err := decode(p.Key, k.m.cfg.Cluster, p.Value)
	if err != nil {
		return false, fmt.Errorf("%w: %s: %w; two clusters need a ring.prefix each", errForeign, p.Key, err)
	}
	if p.Session == "" || p.Session == predecessor || p.Session == k.held() {
		return true, nil
	}
	return e.Owner != "" && e.Owner == k.m.d.Owner && e.Generation <= k.generation, nil
}

// write makes the key this instance's; p is what it is now.
func (k *keeper) write(p *api.KVPair) (done bool, err error) {
	cl := k.m.cl
	session := k.held()
	if session != "" {
		alive, err := cl.renewSession(k.ctx, session)
		if err != nil {
			return false, err
		}
		if !alive {
			session = ""
		}
	}
	if session == "" {
		if session, err = cl.createSession(k.ctx, "loki-go "+k.id); err != nil {
			return false, err
		}
		k.locked(func() { k.session = session })
	}
	value, version, _ := k.value()
	if p != nil && p.Session != "" && p.Session != session {
		done, err = cl.takeOver(k.ctx, p, session, value)
	} else {
		done, err = cl.acquire(k.ctx, k.key, session, value)
	}
	if err != nil || !done {
		return false, err
	}
	if p != nil && p.Session != "" && p.Session != session {
		k.m.log.Info("the instance took over the entry of its past", "instance", k.id)
		// It holds nothing any more. If this fails it expires.
		_ = cl.destroySession(k.ctx, p.Session)
	}
	k.locked(func() { k.written, k.holds, k.unsure = version, true, false })
	return true, nil
}

// wait is told that another session holds the key; it returns an error when
// that is known to live.
func (k *keeper) wait(p *api.KVPair, first bool, holder *string, until *time.Time) error {
	e, err := decode(p.Key, k.m.cfg.Cluster, p.Value)
	if err != nil {
		return err // mayTake has read it
	}
	newer := e.Generation > k.generation
	say := func(sentinel error) error {
		return fmt.Errorf("%w: %s (generation %d) is a living process with the id %q; every instance needs an ingester.id of its own",
			sentinel, e.Address, e.Generation, k.id)
	}
	switch {
	case newer && !first:
		return say(ring.ErrSuperseded)
	case *holder == "":
		*holder = p.Session
		*until = time.Now().Add(k.m.cfg.expiry() + k.m.cfg.Timeout)
		k.m.log.Warn("another process has this instance's id; waiting until its session expires, if it is dead",
			"instance", k.id, "address", e.Address, "generation", e.Generation, "longest", k.m.cfg.expiry()+k.m.cfg.Timeout)
		k.locked(func() {
			k.trouble = fmt.Sprintf("waiting for the entry of %s (generation %d), which has the same id, to expire", e.Address, e.Generation)
		})
	case *holder != p.Session || !time.Now().Before(*until):
		if newer {
			return say(ring.ErrSuperseded)
		}
		return say(ring.ErrInUse)
	}
	return nil
}

// criticalFor is how long a service whose instance is silent stays in Consul's
// catalog, for people to see it.
const criticalFor = 10 * time.Minute

func (k *keeper) service() string { return k.m.cfg.Service + "-" + k.id }

// announce registers the service and keeps its check passing.
func (k *keeper) announce() {
	var has ring.Instance
	registered, failing := false, false
	for {
		k.mu.Lock()
		in, holds := k.want, k.holds
		k.mu.Unlock()
		var err error
		if holds && (!registered || has != in) {
			if err = k.register(in); err == nil {
				registered, has = true, in
			}
		}
		if registered && err == nil {
			if err = k.report(in, holds); status(err) == http.StatusNotFound {
				// The agent forgot everything.
				registered = false
				err = nil
				signal(k.pokeCheck)
			}
		}
		if k.ctx.Err() != nil {
			return
		}
		if err != nil {
			k.m.m.requestErrors.WithLabelValues("service").Inc()
			if !failing {
				k.m.log.Warn("the service cannot be registered with Consul's agent; the ring does not need it", "instance", k.id, "err", err)
			}
		}
		failing = err != nil
		t := time.NewTimer(2 * time.Until(k.nextRenewal())) // a third of the check's TTL
		select {
		case <-t.C:
		case <-k.pokeCheck:
			t.Stop()
			if !sleep(k.ctx, minPause) {
				return
			}
		case <-k.ctx.Done():
			t.Stop()
			return
		}
	}
}

func (k *keeper) register(in ring.Instance) error {
	ctx, cancel := k.m.cl.deadline(k.ctx)
	defer cancel()
	status, _ := health(in, true)
	r := &api.AgentServiceRegistration{
		ID: k.service(), Name: k.m.cfg.Service,
		Meta: map[string]string{
			"cluster": k.m.cfg.Cluster, "instance": in.ID, "zone": in.Zone, "state": in.State.String(),
			"generation": fmt.Sprint(in.Generation), "version": k.m.d.Version,
		},
		Check: &api.AgentServiceCheck{
			CheckID: k.service(), Name: "in the ring of " + k.m.cfg.Cluster, TTL: k.m.cfg.expiry().String(),
			Status: status, DeregisterCriticalServiceAfter: criticalFor.String(),
		},
	}
	r.Address, r.Port = splitAddress(in.Addr)
	return k.m.cl.api.Agent().ServiceRegisterOpts(r, api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx))
}

func (k *keeper) report(in ring.Instance, holds bool) error {
	ctx, cancel := k.m.cl.deadline(k.ctx)
	defer cancel()
	status, output := health(in, holds)
	return k.m.cl.api.Agent().UpdateTTLOpts(k.service(), output, status, (&api.QueryOptions{}).WithContext(ctx))
}

// health returns a text that changes with the status only: others would be
// written to Consul's catalog each time.
func health(in ring.Instance, holds bool) (status, output string) {
	switch {
	case !holds:
		return api.HealthCritical, "not in the ring"
	case in.State == ring.Active:
		return api.HealthPassing, in.State.String()
	}
	return api.HealthWarning, in.State.String()
}

// withdraw removes the service. An error leaves it to its check.
func (k *keeper) withdraw(ctx context.Context) {
	if k.m.cfg.Service == "" {
		return
	}
	ctx, cancel := k.m.cl.deadline(ctx)
	defer cancel()
	if err := k.m.cl.api.Agent().ServiceDeregisterOpts(k.service(), (&api.QueryOptions{}).WithContext(ctx)); err != nil && status(err) != http.StatusNotFound {
		k.m.log.Warn("the service stays in Consul's catalog until its check is critical for a while", "instance", k.id, "err", err)
	}
}
