//go:build integration

package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/faultproxy"
	"github.com/loki-go/loki-go/internal/testkit/netns"
)

// balanced is a client behind a load balancer: what a gateway does not take, the
// other one gets.
type balanced struct {
	first, second testkit.Sender
	failed        *atomic.Pointer[error] // the last error of both
}

func (b balanced) Send(ctx context.Context, id uint64, streams []testkit.Stream) error {
	var errs []error
	// The first one again, as its connection may have been to a process that is gone.
	for i, s := range []testkit.Sender{b.first, b.second, b.first} {
		if i > 0 {
			s.Close()
		}
		// A gateway that is frozen must leave time for the other one.
		one, cancel := context.WithTimeout(ctx, 4*time.Second)
		err := s.Send(one, id, streams)
		cancel()
		var se *testkit.StatusError
		if err == nil || errors.As(err, &se) && se.Status != 503 {
			return err
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	b.failed.Store(&err)
	return err
}

func (b balanced) Close() {
	b.first.Close()
	b.second.Close()
}

// balancedSenders push over Loki's API and over forward with acknowledgements.
func (c *chaos) balancedSenders() (all []testkit.Sender) {
	a, b := c.gateways[0], c.gateways[1]
	for range 2 {
		for range 2 {
			all = append(all,
				balanced{testkit.SenderFunc(a.Client("").Push), testkit.SenderFunc(b.Client("").Push), &c.failed},
				balanced{forwardTo(a), forwardTo(b), &c.failed})
		}
		a, b = b, a
	}
	return all
}

func forwardTo(s *testkit.Server) testkit.Sender {
	return testkit.ForwardSender(&testkit.ForwardClient{Addr: s.Fwd, Tag: "chaos"})
}

// chaos does harm to a cluster under load.
type chaos struct {
	*clusterOf
	rng   *rand.Rand
	store *faultyStore
	net   *netns.Network
	hosts map[*testkit.Server]*netns.Host
	load  *running
	long  bool

	failed atomic.Pointer[error]
}

// harm is one thing that goes wrong. It returns when the cluster is whole again,
// except that an instance may still be missing in the ring.
type harm struct {
	name string
	do   func(c *chaos)
}

var harms = []harm{
	{"an ingester is killed", (*chaos).killIngester},
	{"a gateway is killed", (*chaos).killGateway},
	{"an ingester is frozen", (*chaos).freezeIngester},
	{"a gateway is frozen", (*chaos).freezeGateway},
	{"consul is killed", (*chaos).killConsul},
	{"consul is killed and loses its data", (*chaos).wipeConsul},
	{"the store refuses", (*chaos).refuseStore},
	{"an ingester is cut off", (*chaos).cutIngester},
	{"an ingester is cut off from one gateway", (*chaos).cutPair},
	{"an ingester is cut off from consul", (*chaos).cutFromConsul},
	{"all are restarted in turn", (*chaos).rollingRestart},
	{"one ingester more, and one less", (*chaos).scale},
}

// during lets some time pass with what is wrong.
func (c *chaos) during(short, long time.Duration) {
	if c.long {
		short = long
	}
	time.Sleep(short/2 + time.Duration(c.rng.Int64N(int64(short))))
}

func pick[T any](c *chaos, list []T) T { return list[c.rng.IntN(len(list))] }

func (c *chaos) killIngester() {
	s := pick(c, c.ingesters)
	s.Kill()
	c.during(time.Second, 5*time.Second)
	s.Start()
	s.WaitReady()
}

func (c *chaos) killGateway() {
	s := pick(c, c.gateways)
	s.Kill()
	c.during(time.Second, 5*time.Second)
	s.Start()
	s.WaitReady()
}

func (c *chaos) freezeIngester() { c.freeze(pick(c, c.ingesters)) }
func (c *chaos) freezeGateway()  { c.freeze(pick(c, c.gateways)) }

func (c *chaos) freeze(s *testkit.Server) {
	c.signal(s, syscall.SIGSTOP)
	c.during(5*time.Second, 30*time.Second)
	c.signal(s, syscall.SIGCONT)
}

func (c *chaos) signal(s *testkit.Server, sig os.Signal) {
	if err := s.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chaos) killConsul() {
	c.consul.Kill()
	c.during(3*time.Second, 20*time.Second)
	c.consul.Start()
}

func (c *chaos) wipeConsul() {
	c.consul.Kill()
	c.consul.Wipe()
	c.during(3*time.Second, 20*time.Second)
	c.consul.Start()
}

func (c *chaos) refuseStore() {
	c.store.proxy.SetRules(faultproxy.Rule{Action: faultproxy.SlowDown, Rate: 1})
	c.during(3*time.Second, 30*time.Second)
	if c.rng.IntN(2) == 0 {
		c.store.proxy.Down()
		c.during(2*time.Second, 10*time.Second)
		if err := c.store.proxy.Up(); err != nil {
			c.t.Fatal(err)
		}
	}
	c.store.proxy.SetRules()
}

// cutIngester loses all packets to and from an ingester, or only one of both.
func (c *chaos) cutIngester() {
	ip := c.hosts[pick(c, c.ingesters)].IP
	ways := 1 + c.rng.IntN(3)
	others := []string{c.net.IP}
	for _, h := range c.hosts {
		others = append(others, h.IP)
	}
	for _, other := range others {
		if other != ip && ways&1 != 0 {
			c.net.Cut(ip, other)
		}
		if other != ip && ways&2 != 0 {
			c.net.Cut(other, ip)
		}
	}
	c.during(6*time.Second, 30*time.Second)
	c.net.Heal()
}

func (c *chaos) cutPair() {
	a, b := c.hosts[pick(c, c.ingesters)].IP, c.hosts[pick(c, c.gateways)].IP
	c.net.Cut(a, b)
	c.net.Cut(b, a)
	c.during(4*time.Second, 30*time.Second)
	c.net.Heal()
}

// cutFromConsul cuts an ingester off from what is on the test's own host, the
// store included.
func (c *chaos) cutFromConsul() {
	ip := c.hosts[pick(c, c.ingesters)].IP
	c.net.Cut(ip, c.net.IP)
	c.during(6*time.Second, 30*time.Second)
	c.net.Heal()
}

// rollingRestart is what no client may notice.
func (c *chaos) rollingRestart() {
	before := c.load.Retries()
	for _, s := range c.servers() {
		if err := s.Stop(time.Minute); err != nil {
			c.t.Fatal(err)
		}
		s.Start()
		s.WaitReady()
		c.waitActive(len(c.ingesters))
	}
	if n := c.load.Retries() - before; n > 0 {
		c.t.Errorf("clients saw %d errors during a rolling restart, the last one: %v", n, *c.failed.Load())
	}
}

// scale adds an ingester and sends another one away, which must leave nothing
// behind that is still needed.
func (c *chaos) scale() {
	c.start("ingester").WaitReady()
	c.waitActive(len(c.ingesters))
	c.during(time.Second, 5*time.Second)
	i := c.rng.IntN(len(c.ingesters))
	s := c.ingesters[i]
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := s.Client("").Do(ctx, "POST", "/ingester/shutdown", "", nil); err != nil {
		c.t.Fatal(err)
	}
	if err := s.Wait(time.Minute); err != nil {
		c.t.Fatal(err)
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		c.t.Fatal(err)
	}
	c.ingesters = slices.Delete(c.ingesters, i, i+1)
	c.waitActive(len(c.ingesters))
}

func (c *chaos) servers() []*testkit.Server { return slices.Concat(c.ingesters, c.gateways) }

// start starts a process on a host of its own.
func (c *chaos) start(target string) *testkit.Server {
	args := append([]string{"-target=" + target}, c.args...)
	if target == "ingester" {
		args = append(args, fmt.Sprintf("-ingester.id=ingester-%d", len(c.hosts)))
	}
	s := testkit.NewServer(c.t, filepath.Join(c.t.TempDir(), "data"), args...)
	h := c.net.AddHost()
	s.Under, c.hosts[s] = h.Under(), h
	s.HTTP, s.GRPC, s.Fwd = h.IP+":3100", h.IP+":9095", h.IP+":24224"
	s.Start()
	if target == "ingester" {
		c.ingesters = append(c.ingesters, s)
	} else {
		c.gateways = append(c.gateways, s)
	}
	return s
}

// waitWhole waits until Consul has all instances and no others, and gateways
// know. They show instances that Consul lost for some time, so they are asked
// last.
func (c *chaos) waitWhole() {
	c.t.Helper()
	eventually(c.t, "all instances in Consul", func() bool {
		n := 0
		for _, k := range c.consul.Keys("loki-go/ring/") {
			if k.Session != "" {
				n++
			}
		}
		return n == len(c.ingesters)
	})
	c.waitActive(len(c.ingesters))
}

// check asks a server for all that was acknowledged. For a moment it may still
// answer with an error.
func (c *chaos) check(when string, client *testkit.Client) {
	c.t.Helper()
	n, err, begin := 0, error(nil), time.Time{}
	var failed *testkit.QueryError
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(c.t.Context(), 6*time.Minute)
		begin = time.Now()
		n, err = c.load.Check(ctx, client)
		cancel()
		if !errors.As(err, &failed) || time.Now().After(deadline) {
			break
		}
		c.t.Logf("%s: asked again: %v", when, err)
	}
	if err != nil {
		if errors.As(err, &failed) {
			c.goroutines()
		}
		c.t.Fatalf("%s: %v", when, err)
	}
	c.t.Logf("%s: %d lines in %v; %d batches acknowledged, %d sent again", when, n,
		time.Since(begin).Round(10*time.Millisecond), c.load.Acked(), c.load.Retries())
}

// goroutines shows what all processes are doing.
func (c *chaos) goroutines() {
	for _, s := range c.servers() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), 10*time.Second)
		text, err := s.Client("").Get(ctx, "/debug/pprof/goroutine?debug=1")
		cancel()
		c.t.Logf("%s does: %v\n%s", s.HTTP, err, text)
	}
}

// TestChaos does all that can be done to a cluster without losing two ingesters
// at once, in random order, while clients push and query. No answer may lack an
// acknowledged line, or have one twice; at the end the bucket has all of them,
// for loki-go as for stock Loki. LOKI_GO_CHAOS says for how long all of it is done,
// over and over (1h); LOKI_GO_SEED repeats the choices.
func TestChaos(t *testing.T) {
	var end time.Time
	var args []string
	pause := 150 * time.Millisecond
	if text := os.Getenv("LOKI_GO_CHAOS"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("LOKI_GO_CHAOS: %v", err)
		}
		end = time.Now().Add(d)
		args = overHours
		pause *= 4
	}
	c := newChaos(t, args...)
	c.long = args != nil
	c.load = pushing(t, &testkit.Workload{Senders: c.balancedSenders(), Lines: 10, Pause: pause})
	asked := querying(t, &queries{
		client: allAtOnce(c.gateways[0].Client("")), w: c.load.Workload, pause: time.Second, timeout: 20 * time.Second,
	}, 1)
	for first := true; first || time.Now().Before(end); first = false {
		for _, i := range c.rng.Perm(len(harms)) {
			acked, retries, begin := c.load.Acked(), c.load.Retries(), time.Now()
			harms[i].do(c)
			c.waitWhole()
			t.Logf("%s: %v, %d batches acknowledged, %d sent again", harms[i].name,
				time.Since(begin).Round(10*time.Millisecond), c.load.Acked()-acked, c.load.Retries()-retries)
			if c.load.Acked() == acked {
				t.Errorf("%s: nothing was acknowledged meanwhile", harms[i].name)
			}
			c.check("afterwards", allAtOnce(c.gateways[1].Client("")))
		}
	}
	asked.stop()
	t.Logf("%d queries were answered in full, %d with an error, the last one: %v", asked.answers.Load(), asked.errs.Load(), asked.lastError())
	c.load.stop(t)
	for _, g := range c.gateways {
		c.check("at the end", allAtOnce(g.Client("")))
	}
	for _, s := range c.servers() {
		if err := s.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	alone := testkit.NewServer(t, t.TempDir(), slices.Concat(manyEntries, args, c.store.direct.Args)...)
	alone.Start()
	alone.WaitReady()
	c.check("from the bucket alone", allAtOnce(alone.Client("")))
	c.check("from the bucket alone, by stock Loki", &testkit.Client{Base: startLoki(t, c.store.direct), Tenant: "fake"})
	for _, s := range c.servers() {
		for line := range strings.Lines(s.Output()) {
			if strings.Contains(line, "level=ERROR") {
				t.Logf("an error in a log: %s", line)
			}
		}
	}
}

// overHours is for a chaos that goes on: every check reads all that there is, so
// it takes longer and longer, from chunks of a few seconds instead of a few lines.
var overHours = []string{"-limits.query-timeout=5m", "-ingester.chunk-idle-period=3s"}

// manyEntries lets a query see all at once.
var manyEntries = []string{"-limits.max-entries-limit-per-query=" + manyLines}

func newChaos(t *testing.T, args ...string) *chaos {
	t.Helper()
	seed := newSeed(t)
	c := &chaos{rng: rand.New(rand.NewPCG(seed, 1)), net: netns.New(t), hosts: map[*testkit.Server]*netns.Host{}}
	c.clusterOf = newServices(t)
	c.store = newFaultyStore(t, c.clusterOf.store, "logs", seed)
	through := *c.clusterOf.store
	through.URL = "http://" + c.net.Relay(strings.TrimPrefix(c.store.proxy.URL, "http://"))
	c.args = slices.Concat(clusterArgs(c.net.Relay(c.consul.Addr)), s3Bucket(&through, "logs").Args, busy, manyEntries,
		[]string{"-ingester.index-interval=1s", "-ingester.flush-on-shutdown=true"}, args)
	for range 3 {
		c.start("ingester")
	}
	for range 2 {
		c.start("gateway")
	}
	for _, s := range c.servers() {
		s.WaitReady()
	}
	c.waitActive(3)
	return c
}
