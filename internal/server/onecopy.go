package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/loki-go/loki-go/cluster"
	"github.com/loki-go/loki-go/ingester/coverage"
	"github.com/loki-go/loki-go/ring"
)

// peers is what an ingester knows of the other replicas of its streams; it
// implements ingester.Peers.
type peers struct {
	rf   int
	self string

	mu    sync.Mutex
	ring  func() *ring.Ring // nil before meet
	pool  *cluster.Pool
	seen  map[string]member
	from  *ring.Ring // what the others were made of
	turns *ring.Ring // who stores: all that are ACTIVE or LEAVING, as if ACTIVE
	all   *ring.Ring // who may have entries: those, and all that were members of late
}

type member struct {
	ring.Instance
	at time.Time // last seen
}

// remembered is how long an instance that has left the ring is told of what is
// stored: one that crashed has all that on its disk when it comes back.
const remembered = time.Hour

func newPeers(rf int, self string) *peers {
	return &peers{rf: rf, self: self, seen: map[string]member{}}
}

// meet says where the ring and the connections are.
func (p *peers) meet(current func() *ring.Ring, pool *cluster.Pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ring, p.pool = current, pool
}

// rings returns turns and all, nil before meet.
func (p *peers) rings() (turns, all *ring.Ring) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ring == nil {
		return nil, nil
	}
	r := p.ring()
	if r == p.from {
		return p.turns, p.all
	}
	now := time.Now()
	if p.from != nil {
		for _, in := range p.from.Instances() { // until now they were there
			p.seen[in.ID] = member{in, now}
		}
	}
	var store, have []ring.Instance
	for _, in := range r.Instances() {
		p.seen[in.ID] = member{in, now}
		if in.State != ring.Joining {
			in.State = ring.Active
			store = append(store, in)
		}
	}
	for id, m := range p.seen {
		if now.Sub(m.at) > remembered {
			delete(p.seen, id)
			continue
		}
		m.State = ring.Active
		have = append(have, m.Instance)
	}
	p.from, p.turns, p.all = r, ring.New(store), ring.New(have)
	return p.turns, p.all
}

// Place implements ingester.Peers. Beside the replica set, one more instance may
// have got a push, and one more have been in the set before the ring changed.
func (p *peers) Place(token uint32) (rank int, others []string) {
	turns, all := p.rings()
	if turns == nil {
		return p.rf, nil
	}
	var walk []string
	var buf [ring.MaxReplicas]int
	for _, k := range turns.Replicas(token, ring.MaxReplicas, buf[:0]) {
		walk = append(walk, turns.Instances()[k].ID)
	}
	rank = coverage.Rank(p.self, walk, p.rf)
	add := func(id string) {
		for _, o := range others {
			if o == id {
				return
			}
		}
		if id != p.self {
			others = append(others, id)
		}
	}
	for _, id := range walk[:min(p.rf, len(walk))] {
		add(id)
	}
	for _, k := range all.Replicas(token, min(p.rf+2, ring.MaxReplicas), buf[:0]) {
		add(all.Instances()[k].ID)
	}
	return rank, others
}

// peer returns the connection to an instance.
func (p *peers) peer(id string) (cluster.Peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ring == nil {
		return nil, errors.New("the ring is not known yet")
	}
	r := p.ring()
	k := r.Find(id)
	if k < 0 {
		return nil, fmt.Errorf("instance %s is not in the ring", id)
	}
	return p.pool.Peer(r.Instances()[k])
}

// Covered implements ingester.Peers.
func (p *peers) Covered(ctx context.Context, instance string, ns []coverage.Notice) error {
	peer, err := p.peer(instance)
	if err != nil {
		return err
	}
	return peer.Covered(ctx, ns)
}

// StoreFor implements ingester.Peers.
func (p *peers) StoreFor(ctx context.Context, instance string) error {
	peer, err := p.peer(instance)
	if err != nil {
		return err
	}
	return peer.StoreFor(ctx, p.self)
}
