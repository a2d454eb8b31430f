//go:build integration

package consul

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/consulserver"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/ring/ringtest"
)

// link is a TCP connection to Consul that can be cut.
type link struct {
	addr   string
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{addr: ln.Addr().String(), target: target, ln: ln, conns: map[net.Conn]bool{}}
	l.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.forward(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		l.set(true)
		l.wg.Wait()
	})
	return l
}

// set cuts the link, or mends it.
func (l *link) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		for c := range l.conns {
			c.Close()
		}
	}
}

func (l *link) add(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		c.Close()
		return false
	}
	l.conns[c] = true
	return true
}

func (l *link) forward(client net.Conn) {
	if !l.add(client) {
		return
	}
	defer client.Close()
	server, err := net.Dial("tcp", l.target)
	if err != nil || !l.add(server) {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	for _, p := range [][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			_, _ = io.Copy(p[0], p[1])
			p[0].Close()
			p[1].Close()
		})
	}
	both.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, client)
	delete(l.conns, server)
}

// TestConsulPartition cuts one instance off from Consul.
func TestConsulPartition(t *testing.T) {
	s := consulserver.New(t)
	cfg := testConfig(s)
	reader := open(t, cfg, Deps{})
	l := newLink(t, s.Addr)
	far := cfg
	far.Address = l.addr
	lost := make(chan error, 1)
	m := open(t, far, Deps{Owner: "o", Lost: func(_ ring.Instance, err error) { lost <- err }})
	in := member(1)
	if err := m.Register(timeout(t), in); err != nil {
		t.Fatal(err)
	}
	ringtest.Await(t, reader, "the instance", ringtest.Has(in))
	ringtest.Await(t, m, "itself", ringtest.Has(in))
	l.set(true)
	ringtest.Await(t, reader, "nobody", ringtest.Has())
	if !ringtest.Has(in)(m.Current()) || !m.Status().Stale {
		t.Errorf("cut off, the instance sees %v, status %+v", m.Current().Instances(), m.Status())
	}
	l.set(false)
	ringtest.Await(t, reader, "the instance again", ringtest.Has(in))
	select {
	case err := <-lost:
		t.Error(err)
	default:
	}
}

// TestConsulChaos does everything at once, for a while. In the end all see the
// same ring, of all who live, and nothing else is in Consul.
func TestConsulChaos(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	s := consulserver.New(t)
	const n, rounds = 6, 40
	var links [n]*link
	var members [n]*Membership
	var now [n]ring.Instance
	unwanted := make(chan error, 100)
	enter := func(i int) {
		cfg := testConfig(s)
		cfg.Address = links[i].addr
		now[i].Generation++
		now[i].State = ring.Joining
		in := now[i]
		m, err := Open(cfg, Deps{
			Owner: fmt.Sprint("disk-", i), Log: slog.New(slog.DiscardHandler),
			Lost: func(in ring.Instance, err error) { unwanted <- fmt.Errorf("%+v: %w", in, err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		members[i] = m
		t.Cleanup(m.Close)
		if err := m.Register(timeout(t), in); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		links[i] = newLink(t, s.Addr)
		now[i] = member(i)
		enter(i)
	}
	var cut [n]bool
	for range rounds {
		i := rnd.IntN(n)
		switch action := rnd.IntN(12); {
		case action < 3: // cut off, or not any more
			cut[i] = !cut[i]
			links[i].set(cut[i])
		case action < 6 && !cut[i]: // the process dies and starts again
			members[i].Close()
			enter(i)
		case action < 9: // a change, which may have to wait
			now[i].State = ring.State(rnd.IntN(3))
			m, in := members[i], now[i]
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			_ = m.Update(ctx, in)
			cancel()
		case action == 9:
			s.Signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			s.Signal(syscall.SIGCONT)
		case action == 10:
			s.Kill()
			s.Start()
		case action == 11:
			s.Kill()
			s.Wipe()
			s.Start()
		}
		time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
	}
	for i := range n {
		links[i].set(false)
	}
	reader := open(t, testConfig(s), Deps{})
	ringtest.Await(t, reader, "all", ringtest.Has(now[:]...))
	for i := range n {
		ringtest.Await(t, members[i], fmt.Sprint("all, seen by ", i), ringtest.Has(now[:]...))
		if err := members[i].Update(timeout(t), now[i]); err != nil {
			t.Error(err)
		}
	}
	if keys := s.Keys("loki-go/ring/"); len(keys) != n {
		t.Errorf("keys %v", keys)
	}
	time.Sleep(3 * testTTL)
	ringtest.Await(t, reader, "all, still", ringtest.Has(now[:]...))
	close(unwanted)
	for err := range unwanted {
		t.Errorf("given up: %v", err)
	}
}
