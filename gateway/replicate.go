package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/ring"
)

// send stores what is not refused of b, size bytes, and adds to rej what the
// replicas refuse.
func (g *Gateway) send(ctx context.Context, b *push.Batch, size int, rej *push.Rejected) error {
	r := g.d.Ring.Current()
	if r.ActiveCount() == 1 && g.cfg.ReplicationFactor == 1 && !b.Stale {
		return g.sendAll(ctx, r, b, rej)
	}
	parts, err := g.divide(r, b)
	if err != nil {
		return err
	}
	return g.replicate(ctx, r, parts, b, size, rej)
}

// sendAll is for the one process that is all there is: no copy, no goroutine.
func (g *Gateway) sendAll(ctx context.Context, r *ring.Ring, b *push.Batch, rej *push.Rejected) error {
	var buf [1]int
	replica, err := g.d.Dial(r.Instances()[r.Replicas(0, 1, buf[:0])[0]])
	if err == nil {
		err = replica.Push(ctx, b)
	}
	var refused *push.Rejected
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		rej.Merge(refused)
		return nil
	}
	g.m.failures.Inc()
	return err
}

// set is a replica set: sorted instance numbers, and -1.
type set [MaxReplicationFactor]int32

// divide groups the streams of b by replica set.
func (g *Gateway) divide(r *ring.Ring, b *push.Batch) ([]*part, error) {
	rf := g.cfg.ReplicationFactor
	quorum := rf/2 + 1
	if n := r.ActiveCount(); n < quorum {
		e := push.Errorf(push.NoQuorum, "gateway: at least %d live replicas required, could only find %d", quorum, n)
		e.RetryAfter = time.Second
		return nil, e
	}
	if r.ActiveCount() < rf {
		g.m.underReplicated.Inc()
	}
	groups := make(map[set]int)
	var sets [][]int32
	var buf [ring.MaxReplicas]int
	for i := range b.Streams {
		s := &b.Streams[i]
		if !anyGood(b, s) {
			continue
		}
		key := setOf(r.Replicas(s.Token, rf, buf[:0]))
		k, ok := groups[key]
		if !ok {
			k = len(sets)
			groups[key] = k
			sets = append(sets, nil)
		}
		sets[k] = append(sets[k], int32(i))
	}
	parts := make([]*part, len(sets))
	for k, streams := range sets {
		p := g.newPart(b, streams, len(sets) == 1)
		// A replacement is looked for on the walk of the first stream and serves
		// for all: it is needed only until the ring knows what happened.
		p.walk = r.Replicas(b.Streams[streams[0]].Token, ring.MaxReplicas, p.walk[:0])
		p.state.init(min(rf, len(p.walk)), quorum)
		parts[k] = p
	}
	return parts, nil
}

func anyGood(b *push.Batch, s *push.Stream) bool {
	return s.Reject == push.OK &&
		slices.ContainsFunc(b.StreamEntries(s), func(e push.Entry) bool { return e.Reject == push.OK })
}

func setOf(replicas []int) set {
	var s set
	for i := range s {
		s[i] = -1
	}
	for i, n := range replicas {
		s[i] = int32(n)
	}
	slices.Sort(s[:])
	return s
}

// call is one push on its way to replicas.
type call struct {
	g      *Gateway
	ring   *ring.Ring
	ctx    context.Context // the client's, but going on when that ends
	first  context.Context // with the deadline that all have who are asked at once
	cancel context.CancelFunc

	mu        sync.Mutex
	undecided int           // parts
	err       error         // of the first part that failed
	decided   chan struct{} // closed when undecided is 0 or err is set
	running   int           // goroutines
	finished  chan struct{} // closed when running is 0
	size      int64
	detached  bool // the push was answered: the last goroutine gives size back
}

// partState counts the answers for a part. It is guarded by call.mu.
type partState struct {
	quorum   int
	next     int           // in walk: whom to ask next
	pending  int           // replicas that are being asked
	views    []*push.Batch // of the replicas that are or were asked
	answers  []answer      // of the replicas that stored it
	done     bool
	disputed []answer // when done: all answers, if one of them refuses anything
	err      error    // the most telling failure
}

type answer struct {
	view *push.Batch
	rej  *push.Rejected // nil: all is stored
}

func (s *partState) init(replicas, quorum int) {
	s.quorum, s.next, s.pending = quorum, replicas, replicas
	for len(s.views) < replicas {
		s.views = append(s.views, new(push.Batch))
	}
}

// reset empties s and keeps its memory.
func (s *partState) reset() {
	for _, v := range s.views {
		clear(v.Streams)
		*v = push.Batch{Streams: v.Streams[:0], Entries: v.Entries[:0]}
		if cap(v.Entries) > maxPooledPart/32 {
			*v = push.Batch{}
		}
	}
	clear(s.answers)
	clear(s.disputed)
	*s = partState{views: s.views, answers: s.answers[:0]}
}

// replicate sends the parts of b and returns when all of them are decided.
func (g *Gateway) replicate(ctx context.Context, r *ring.Ring, parts []*part, b *push.Batch, size int, rej *push.Rejected) error {
	c := &call{
		g: g, ring: r, undecided: len(parts), size: int64(size),
		decided: make(chan struct{}), finished: make(chan struct{}),
	}
	for _, p := range parts {
		c.running += p.state.pending
	}
	g.running.Add(c.running)
	c.ctx = context.WithoutCancel(ctx)
	c.first, c.cancel = context.WithTimeout(c.ctx, g.cfg.ReplicaTimeout)
	for _, p := range parts {
		n := p.state.pending
		p.refs.Store(int32(n) + 1)
		for i, view := range p.state.views[:n] {
			go c.run(p, p.walk[i], view)
		}
	}
	err := c.wait(ctx, parts)
	if err == nil {
		for _, p := range parts {
			p.collect(b, rej)
		}
	}
	c.detach()
	for _, p := range parts {
		p.release()
	}
	return err
}

// wait returns when all parts are decided. Until then, now and again, it has
// one more instance asked for each of those that are not.
func (c *call) wait(ctx context.Context, parts []*part) error {
	slow := time.NewTicker(c.g.cfg.HedgeDelay)
	defer slow.Stop()
	for {
		select {
		case <-c.decided:
			return c.err
		case <-ctx.Done():
			return ctx.Err()
		case <-slow.C:
			for _, p := range parts {
				c.hedge(p)
			}
		}
	}
}

// hedge asks the next instance for p, if it is undecided and there is one: a
// replica that says nothing must not take the time that the client has.
func (c *call) hedge(p *part) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &p.state
	if s.done || s.pending == 0 || s.next >= len(p.walk) {
		return
	}
	view := new(push.Batch)
	s.views = append(s.views, view)
	s.next++
	s.pending++
	c.running++
	c.g.running.Add(1)
	p.refs.Add(1)
	c.g.m.hedged.Inc()
	next := p.walk[s.next-1]
	go func() {
		p.view(view)
		c.finish(p, view, c.askNext(next, view))
	}()
}

// detach lets goroutines that are left run on, if what they hold is within the
// bound; else it waits for them, which their deadlines bound.
func (c *call) detach() {
	c.mu.Lock()
	left := c.running > 0
	if left && c.g.background.TryAcquire(c.size) {
		c.detached = true
		left = false
	}
	c.mu.Unlock()
	if left {
		<-c.finished
	}
}

// run asks an instance for p.
func (c *call) run(p *part, instance int, view *push.Batch) {
	p.view(view)
	c.finish(p, view, c.ask(c.first, instance, view))
}

// finish notes what an instance said, and asks those that take its place.
func (c *call) finish(p *part, view *push.Batch, err error) {
	defer c.g.running.Done()
	defer p.release()
	for {
		next, again := c.answered(p, view, err)
		if !again {
			return
		}
		p.view(view)
		err = c.askNext(next, view)
	}
}

// askNext is ask with a deadline of its own.
func (c *call) askNext(instance int, view *push.Batch) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.g.cfg.ReplicaTimeout)
	defer cancel()
	return c.ask(ctx, instance, view)
}

func (c *call) ask(ctx context.Context, instance int, view *push.Batch) error {
	in := c.ring.Instances()[instance]
	replica, err := c.g.d.Dial(in)
	if err == nil {
		err = replica.Push(ctx, view)
	}
	var rej *push.Rejected
	if err != nil && !errors.As(err, &rej) {
		c.g.m.failures.Inc()
		c.g.d.Log.Debug("replica failed to store a push", "instance", in.ID, "err", err)
		var e *push.Error
		if !errors.As(err, &e) {
			return fmt.Errorf("instance %s: %w", in.ID, err)
		}
	}
	return err
}

// replaceable reports whether another instance may do better.
func replaceable(err error) bool {
	var e *push.Error
	if !errors.As(err, &e) {
		return true // unreachable, or too slow
	}
	switch e.Reason {
	case push.Leaving, push.Replaying, push.DiskLow, push.Internal: // the last is that of a disk that is broken
		return true
	}
	return false
}

// answered notes what a replica said. It returns the instance to ask in its
// place, if there is one.
func (c *call) answered(p *part, view *push.Batch, err error) (next int, again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &p.state
	var rej *push.Rejected
	switch {
	case err == nil || errors.As(err, &rej):
		s.answers = append(s.answers, answer{view, rej})
	case replaceable(err) && s.next < len(p.walk):
		s.next++
		c.g.m.replaced.Inc()
		return p.walk[s.next-1], true
	default:
		s.fail(err)
	}
	s.pending--
	if !s.done {
		if done, err := s.decide(); done {
			s.done = true
			c.undecided--
			if c.err == nil && (err != nil || c.undecided == 0) {
				c.err = err
				close(c.decided)
			}
		}
	}
	c.running--
	if c.running == 0 {
		c.cancel()
		close(c.finished)
		if c.detached {
			c.g.background.Release(c.size)
		}
	}
	return 0, false
}

// fail keeps the failure that tells the client most: one with a reason.
func (s *partState) fail(err error) {
	var e *push.Error
	if s.err == nil || errors.As(err, &e) {
		s.err = err
	}
}

// decide reports whether it is known what becomes of the part: it is stored, or
// cannot be any more. A replica that refuses entries makes it wait for the
// others: an entry that a quorum of them has is stored.
func (s *partState) decide() (done bool, err error) {
	agree := true
	for _, a := range s.answers {
		agree = agree && a.rej == nil
	}
	switch {
	case len(s.answers)+s.pending < s.quorum:
		return true, s.noQuorum()
	case s.pending == 0 && !agree:
		s.disputed = s.answers // nobody will add to them
		return true, nil
	case agree && len(s.answers) >= s.quorum:
		return true, nil
	}
	return false, nil
}

func (s *partState) noQuorum() error {
	var e *push.Error
	wait := time.Second
	if errors.As(s.err, &e) {
		if s.quorum == 1 {
			return e // the one that could have stored it knows best
		}
		wait = max(wait, e.RetryAfter)
	}
	return &push.Error{
		Reason: push.NoQuorum, RetryAfter: wait,
		Msg: fmt.Sprintf("gateway: %d of %d replicas needed have stored the push: %v", len(s.answers), s.quorum, s.err),
	}
}

// collect marks in b what is refused of p: what less than a quorum has stored.
// It is called once p is decided. If there is a dispute, all have answered, so
// that nobody writes to the views any more.
func (p *part) collect(b *push.Batch, rej *push.Rejected) {
	s := &p.state
	if len(s.disputed) == 0 {
		return
	}
	for k := range p.b.Streams {
		if p.b.Streams[k].Reject != push.OK {
			continue
		}
		for j := range p.b.StreamEntries(&p.b.Streams[k]) {
			at := int(p.b.Streams[k].First) + j
			if p.b.Entries[at].Reject != push.OK {
				continue
			}
			stored := 0
			var refusal answer
			reason := push.OK
			for _, a := range s.disputed {
				if r := max(a.view.Streams[k].Reject, a.view.Entries[at].Reject); r == push.OK {
					stored++
				} else if reason == push.OK {
					reason, refusal = r, a
				}
			}
			if stored >= s.quorum || reason == push.OK {
				continue
			}
			e := &b.Entries[p.parent(b, k, j)]
			e.Reject = reason
			refusal.add(rej, reason, p.b.Streams[k].Labels, b, e)
		}
	}
}

// add adds entry e to rej with the replica's words.
func (a answer) add(rej *push.Rejected, reason push.Reason, stream string, b *push.Batch, e *push.Entry) {
	var said *push.RejectGroup
	if a.rej != nil {
		said = group(a.rej, reason)
	}
	rej.Add(reason, stream, 1, entrySize(b, e), func() string {
		if said == nil {
			return fmt.Sprintf("entry for stream '%s' refused: %s", stream, reason)
		}
		return said.First
	})
	if g := group(rej, reason); said != nil {
		g.OldestOK = max(g.OldestOK, said.OldestOK)
	}
}
