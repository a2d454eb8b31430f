//go:build integration

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/consulserver"
	"github.com/loki-go/loki-go/internal/testkit/s3server"
)

// clusterOf is a cluster with a Consul, an S3 server, two gateways and some
// ingesters, each of them a process.
type clusterOf struct {
	t         *testing.T
	consul    *consulserver.Server
	store     *s3server.Server
	args      []string
	gateways  []*testkit.Server
	ingesters []*testkit.Server
}

func newCluster(t *testing.T, ingesters int, args ...string) *clusterOf {
	t.Helper()
	c := newServices(t)
	c.args = slices.Concat(clusterArgs(c.consul.Addr), s3Bucket(c.store, "logs").Args, busy, args)
	for range ingesters {
		c.addIngester()
	}
	for range 2 {
		g := testkit.NewServer(t, t.TempDir(), append([]string{"-target=gateway"}, c.args...)...)
		g.Start()
		c.gateways = append(c.gateways, g)
	}
	for _, g := range c.gateways {
		g.WaitReady()
	}
	c.waitActive(ingesters)
	return c
}

// newServices starts what a cluster needs.
func newServices(t *testing.T) *clusterOf {
	t.Helper()
	return &clusterOf{t: t, consul: consulserver.New(t), store: s3server.New(t, "logs")}
}

// clusterArgs are settings of all processes of a cluster.
func clusterArgs(consul string) []string {
	return []string{
		"-ring.store=consul", "-ring.consul.address=" + consul, "-ring.consul.session-ttl=2s",
		"-ring.replication-factor=3", "-cluster.secret=of this test", "-gateway.replica-timeout=3s",
	}
}

func (c *clusterOf) addIngester() *testkit.Server {
	id := fmt.Sprintf("-ingester.id=ingester-%d", len(c.ingesters))
	s := testkit.NewServer(c.t, c.t.TempDir(), append([]string{"-target=ingester", id}, c.args...)...)
	s.Start()
	c.ingesters = append(c.ingesters, s)
	return s
}

// waitActive waits until every gateway sees n ACTIVE instances and no others.
func (c *clusterOf) waitActive(n int) {
	c.t.Helper()
	for _, g := range c.gateways {
		eventually(c.t, fmt.Sprintf("%d ACTIVE instances", n), func() bool {
			body, err := g.Client("").Do(context.Background(), "GET", "/ring", "", nil)
			var r struct{ Instances []struct{ State string } }
			if err != nil || json.Unmarshal(body, &r) != nil || len(r.Instances) != n {
				return false
			}
			for _, in := range r.Instances {
				if in.State != "ACTIVE" {
					return false
				}
			}
			return true
		})
	}
}

// senders are connections to both gateways.
func (c *clusterOf) senders() []testkit.Sender {
	var all []testkit.Sender
	for _, g := range c.gateways {
		all = append(all, senders(g.HTTP, g.Fwd)[:4]...)
	}
	return all
}

// TestCluster kills ingesters and gateways under load, restarts all of them in
// turn, and then looks for every acknowledged line: in memory and bucket
// together, and in the bucket alone.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &testkit.Workload{Senders: c.senders(), Pause: 40 * time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	time.Sleep(time.Second)

	check := func(when string) {
		t.Helper()
		n, err := w.Check(context.Background(), c.gateways[0].Client(""))
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		t.Logf("%s: %d lines found; %d batches acknowledged, %d sent again", when, n, w.Acked(), w.Retries())
	}
	check("before anything happens")

	for range 4 {
		victim := c.ingesters[rand.N(3)]
		victim.Kill()
		check("without an ingester")
		time.Sleep(rand.N(killWithin))
		victim.Start()
		victim.WaitReady()
	}
	c.waitActive(3)
	g := c.gateways[1]
	g.Kill()
	time.Sleep(rand.N(time.Second))
	g.Start()
	g.WaitReady()
	c.waitActive(3)
	time.Sleep(500 * time.Millisecond)

	before := w.Retries()
	for _, s := range c.ingesters {
		if err := s.Stop(30 * time.Second); err != nil {
			t.Fatal(err)
		}
		check("during a rolling restart")
		s.Start()
		s.WaitReady()
		c.waitActive(3)
	}
	if n := w.Retries() - before; n > 0 {
		t.Errorf("clients saw %d errors during a rolling restart", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	check("at the end")
	for _, s := range c.ingesters {
		if err := s.Client("").Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	check("after a flush")
	for _, s := range append(c.ingesters, c.gateways...) {
		if err := s.Stop(30 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	alone := testkit.NewServer(t, t.TempDir(), s3Bucket(c.store, "logs").Args...)
	alone.Start()
	alone.WaitReady()
	n, err := w.Check(context.Background(), alone.Client(""))
	if err != nil {
		t.Fatalf("from the bucket alone: %v", err)
	}
	t.Logf("from the bucket alone: %d lines", n)
	if strings.Contains(c.gateways[0].Output(), "level=ERROR") {
		t.Errorf("a gateway logged errors:\n%.3000s", c.gateways[0].Output())
	}
}
