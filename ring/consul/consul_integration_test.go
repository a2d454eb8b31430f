//go:build integration

package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/consulserver"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/ring/ringtest"
)

// testTTL makes expiry fast; Consul waits for twice this.
const testTTL = 2 * time.Second

func testConfig(s *consulserver.Server) Config {
	c := DefaultConfig()
	c.Address, c.SessionTTL, c.Wait, c.Timeout = s.Addr, testTTL, 5*time.Second, 3*time.Second
	c.Token = s.Token
	return c
}

func open(t testing.TB, cfg Config, d Deps) *Membership {
	t.Helper()
	if d.Log == nil && testing.Verbose() {
		d.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	m, err := Open(cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestConsulAcceptance(t *testing.T) {
	s := consulserver.New(t)
	n := 0
	ringtest.Acceptance(t, func(t *testing.T) (ring.Membership, ring.Membership) {
		n++
		cfg := testConfig(s)
		cfg.Prefix = fmt.Sprint("acceptance/", n)
		d := Deps{Owner: "o"}
		return open(t, cfg, d), open(t, cfg, d)
	})
	if keys := s.Keys("acceptance/2"); len(keys) != 0 {
		t.Fatalf("left behind: %v", keys)
	}
}

func TestConsulSameIDTwice(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	cfg := testConfig(s)
	a := ring.Instance{ID: "a", Addr: "10.0.0.1:1", State: ring.Active, Generation: 1}
	living := open(t, cfg, Deps{Owner: "one"})
	if err := living.Register(timeout(t), a); err != nil {
		t.Fatal(err)
	}
	second := open(t, cfg, Deps{Owner: "two"})
	b := ring.Instance{ID: "a", Addr: "10.0.0.2:1", State: ring.Active, Generation: 2}
	err := second.Register(timeout(t), b)
	if !errors.Is(err, ring.ErrInUse) {
		t.Fatalf("a second process: %v", err)
	}
	t.Log(err)
	ringtest.Await(t, second, "the first", ringtest.Has(a))
	// The first dies without a word; the second waits for its session.
	living.Close()
	begin := time.Now()
	if err := second.Register(timeout(t), b); err != nil {
		t.Fatal(err)
	}
	t.Logf("entered after %s, the TTL is %s", time.Since(begin).Round(time.Millisecond), testTTL)
	ringtest.Await(t, second, "the second", ringtest.Has(b))
}
