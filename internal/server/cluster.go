package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/loki-go/loki-go/cluster"
	"github.com/loki-go/loki-go/gateway"
	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/ring/consul"
)

// meet makes the ring: one in memory, with this process as the only member, or
// one that other processes are in.
func (s *Server) meet() error {
	s.self = ring.Instance{
		ID: s.cfg.instanceID(), Addr: s.cfg.Ingester.Advertise, Zone: s.cfg.Ingester.Zone, State: ring.Joining,
	}
	if !s.cfg.clustered() {
		s.self.Generation = time.Now().UnixNano()
		s.members = ring.NewMemory()
		return s.members.Register(s.ctx, s.self)
	}
	d := consul.Deps{Version: s.d.Version, Log: s.log, Metrics: s.d.Registry}
	if s.ingester != nil {
		id, err := ring.NewIdentity(s.d.FS, s.cfg.DataDir)
		if err != nil {
			return fmt.Errorf("data-dir: %w", err)
		}
		s.self.Generation, d.Owner = id.Generation, id.Owner
		if s.self.Addr == "" {
			if s.self.Addr, err = advertised(s.grpcListener.Addr()); err != nil {
				return fmt.Errorf("ingester.advertise: %w", err)
			}
		}
		d.Lost = func(_ ring.Instance, err error) { s.fail("ring", err) }
		s.peers, err = cluster.NewServer(cluster.ServerDeps{
			Ingester: s.ingester, Filter: filter, Log: s.log, Metrics: s.d.Registry,
		}, s.cfg.Cluster)
		if err != nil {
			return err
		}
	}
	members, err := consul.Open(s.cfg.Ring.InConsul(), d)
	if err != nil {
		return fmt.Errorf("ring.consul: %w", err)
	}
	s.closes = append(s.closes, members.Close)
	if s.pool, err = cluster.NewPool(s.cfg.Cluster, s.d.Registry); err != nil {
		return err
	}
	s.closes = append(s.closes, s.pool.Close)
	s.members = members
	if s.others != nil {
		s.others.meet(members.Current, s.pool)
	}
	return nil
}

// filter makes the filter that a query of another process sends.
func filter(filter string, from, through int64) (cluster.Filter, error) {
	return query.NewFilter(filter, from, through)
}

// advertised returns where others reach a listener: at its own address, or at
// the first one of the machine that is not its own alone.
func advertised(addr net.Addr) (string, error) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return "", fmt.Errorf("%s is no TCP address", addr)
	}
	if !tcp.IP.IsUnspecified() {
		return tcp.String(), nil
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	var found []net.IP
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			found = append(found, n.IP)
		}
	}
	if len(found) == 0 {
		return "", errors.New("the machine has no address but loopback; say at which HOST:PORT others reach this ingester")
	}
	// IPv4 before IPv6, else as the system has them.
	slices.SortStableFunc(found, func(a, b net.IP) int { return len(a.To4())/4*-1 + len(b.To4())/4 })
	return (&net.TCPAddr{IP: found[0], Port: tcp.Port}).String(), nil
}

// replica returns what stores pushes in an instance.
func (s *Server) replica(in ring.Instance) (gateway.Replica, error) {
	if s.own(in) {
		return s.ingester, nil
	}
	return s.pool.Replica(in)
}

func (s *Server) own(in ring.Instance) bool {
	return s.ingester != nil && in.ID == s.self.ID && in.Generation == s.self.Generation
}

// memory returns where entries are that are not stored yet.
func (s *Server) memory() query.Source {
	if s.pool == nil {
		return s.ingester
	}
	return &cluster.Members{
		Ring: s.members, ReplicationFactor: s.cfg.Ring.ReplicationFactor, Log: warn.New(s.log),
		Source: func(in ring.Instance) (cluster.Source, error) {
			if s.own(in) {
				return s.ingester, nil
			}
			return s.pool.Source(in)
		},
	}
}

// follow lets go of connections to instances that have left.
func (s *Server) follow() {
	for {
		r, changed := s.members.Watch()
		s.pool.Retain(r)
		select {
		case <-changed:
		case <-s.ctx.Done():
			return
		}
	}
}

// join enters the ring, and is ACTIVE there when the replay is done.
func (s *Server) join() {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.start(func() {
		select {
		case <-s.draining: // from here on there is another state to tell
			cancel()
		case <-ctx.Done():
		}
	})
	if s.pool != nil {
		if err := s.members.Register(ctx, s.self); err != nil {
			if ctx.Err() == nil {
				s.fail("ring", err)
			}
			return
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for s.ingester.Ready() != nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	s.setState(ctx, ring.Active)
	s.log.Info("ready", "state", s.ingester.State())
}

// setState tells the ring; LEAVING is final. It returns when the ring has been
// told, or when ctx ends: then it is told as soon as it can be reached.
func (s *Server) setState(ctx context.Context, state ring.State) {
	s.telling.Lock()
	defer s.telling.Unlock()
	self, ok := s.become(state)
	if !ok {
		return
	}
	if err := s.members.Update(ctx, self); err != nil {
		s.log.Error("ring was not told of a change", "state", state, "err", err)
	}
}

// become changes the state of this instance, unless it is LEAVING, or there is
// none.
func (s *Server) become(state ring.State) (ring.Instance, bool) {
	s.ringMu.Lock()
	defer s.ringMu.Unlock()
	if s.ingester == nil || s.self.State == ring.Leaving {
		return ring.Instance{}, false
	}
	s.self.State = state
	return s.self, true
}

// leave tells the ring that this instance is LEAVING. A ring that cannot be
// reached must not take the time that storing needs.
func (s *Server) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, partTime)
	defer cancel()
	s.setState(ctx, ring.Leaving)
}

// partTime is how long the ring may take to note that an instance is about to go,
// and that it is gone.
const partTime = 5 * time.Second

// part leaves the ring, and ends what other processes have asked for.
func (s *Server) part(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), partTime)
	defer cancel()
	if s.ingester != nil && s.pool != nil {
		if err := s.members.Deregister(ctx, s.self); err != nil {
			s.log.Warn("ring was not told of the end", "err", err)
		}
	}
	if s.peers != nil {
		s.peers.Drain()
		stopGRPC(ctx, s.grpc)
		s.peers.Wait()
	}
}
