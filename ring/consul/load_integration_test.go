//go:build integration

package consul

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/consulserver"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/ring/ringtest"
)

// TestConsulAtRest counts what a ring that nothing happens to writes, in
// Consul's log and in its keys.
func TestConsulAtRest(t *testing.T) {
	s := consulserver.New(t)
	time.Sleep(3 * time.Second) // what a new Consul has to do for itself
	const rest = 12 * time.Second
	count := func() uint64 {
		before := s.RaftIndex()
		time.Sleep(rest)
		return s.RaftIndex() - before
	}
	alone := count()
	cfg := testConfig(s)
	_, writer, reg := three(t, cfg)
	awaitService(t, s, cfg.Service, map[string]string{"i0": "passing", "i1": "passing", "i2": "passing"})
	before := s.Keys(cfg.Prefix + "/")
	with := count()
	after := s.Keys(cfg.Prefix + "/")
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("keys changed from %v to %v", before, after)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	renewals := 0.0
	for _, f := range families {
		if f.GetName() == "loki_go_ring_session_renewals_total" {
			renewals = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if renewals < 3 {
		t.Errorf("%.0f renewals in %s: the ring was not at rest, but dead", renewals, rest)
	}
	// Consul logs something for itself now and then.
	if with > alone+2 {
		t.Errorf("%d entries in Consul's log in %s, %d without a ring", with, rest, alone)
	}
	t.Logf("in %s: %d entries in Consul's log with a ring of 3, %d without; %.0f session renewals", rest, with, alone, renewals)
	if writer.Status().Stale {
		t.Error("stale")
	}
}

// TestConsul500 has 500 instances in one Consul, each with a session, a key and
// a service of its own, and 500 readers that follow all of them. It prints what
// that costs and how soon readers see a change. All of them share a machine with
// Consul, so most of them take what Consul sends without looking at it, as if
// they did that elsewhere: LOKI_GO_READERS says how many do look.
func TestConsul500(t *testing.T) {
	const n = 500
	watchers := 50
	if text := os.Getenv("LOKI_GO_READERS"); text != "" {
		var err error
		if watchers, err = strconv.Atoi(text); err != nil || watchers < 1 || watchers > n {
			t.Fatalf("LOKI_GO_READERS: %q", text)
		}
	}
	s := consulserver.New(t)
	cfg := DefaultConfig()
	cfg.Address, cfg.Timeout = s.Addr, 30*time.Second
	quiet := Deps{Log: slog.New(slog.DiscardHandler), Owner: "o"}
	var members []*Membership
	for range watchers {
		members = append(members, open(t, cfg, quiet))
	}
	begin, cpu, own := time.Now(), s.CPU(), selfCPU(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 50)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			in := member(i)
			if err := members[i%watchers].Register(ctx, in); err != nil {
				t.Error(err)
			}
			<-slots
		})
	}
	wg.Wait()
	for _, m := range members {
		ringtest.Await(t, m, "all", func(r *ring.Ring) bool { return r.ActiveCount() == n })
	}
	t.Logf("%d instances registered and seen by %d readers after %s; CPU: Consul %s, this process %s",
		n, watchers, time.Since(begin).Round(time.Millisecond), s.CPU()-cpu, selfCPU(t)-own)

	blind := newBlindReaders(t, s, cfg.Prefix, n-watchers)

	// One instance after another changes; every reader says when it saw it.
	var took []time.Duration
	cpu, own = s.CPU(), selfCPU(t)
	const changes = 20
	for c := range changes {
		in := member(c * 7)
		in.State = ring.Leaving
		seen := make([]time.Duration, len(members))
		var readers sync.WaitGroup
		var begin time.Time
		ready := make(chan struct{})
		for i, m := range members {
			readers.Go(func() {
				<-ready
				ringtest.Await(t, m, "the change", func(r *ring.Ring) bool {
					k := r.Find(in.ID)
					return k >= 0 && r.Instances()[k] == in
				})
				seen[i] = time.Since(begin)
			})
		}
		begin = time.Now()
		close(ready)
		if err := members[c*7%watchers].Update(ctx, in); err != nil {
			t.Fatal(err)
		}
		readers.Wait()
		took = append(took, seen...)
		time.Sleep(300 * time.Millisecond)
	}
	if got, want := blind.answers.Load(), int64((n-watchers)*changes/2); got < want {
		t.Errorf("readers elsewhere had %d answers, of at least %d", got, want)
	}
	slices.Sort(took)
	t.Logf("%d changes sent to %d readers, seen by %d: median %s, p99 %s, longest %s; CPU for a change: Consul %s, this process %s", changes, n, watchers,
		took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond),
		((s.CPU() - cpu) / changes).Round(time.Millisecond), ((selfCPU(t) - own) / changes).Round(time.Millisecond))

	// At rest.
	const rest = 20 * time.Second
	before, raft := s.Keys(cfg.Prefix+"/"), s.RaftIndex()
	cpu, own = s.CPU(), selfCPU(t)
	time.Sleep(rest)
	cpu, own = s.CPU()-cpu, selfCPU(t)-own
	raft = s.RaftIndex() - raft
	after := s.Keys(cfg.Prefix + "/")
	writes := 0
	for i := range before {
		if len(after) != len(before) || after[i].ModifyIndex != before[i].ModifyIndex {
			writes++
		}
	}
	if writes > 0 || len(after) != n {
		t.Errorf("%d of %d keys were written at rest", writes, len(after))
	}
	size := 0
	for _, k := range after {
		size += len(k.Value)
	}
	t.Logf("at rest for %s: %d writes of keys, %d entries in Consul's log; CPU: Consul %s, this process %s; a value has %d bytes", rest, writes, raft, cpu, own, size/n)
}

// blindReaders follow the ring without looking at it.
type blindReaders struct{ answers atomic.Int64 }

// newBlindReaders starts n of them; they end with the test.
func newBlindReaders(t *testing.T, s *consulserver.Server, prefix string, n int) *blindReaders {
	t.Helper()
	b := &blindReaders{}
	tr := &http.Transport{}
	ctx, cancel := context.WithCancel(context.Background())
	var running, first sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
		tr.CloseIdleConnections()
	})
	first.Add(n)
	for range n {
		running.Go(func() {
			started := sync.OnceFunc(first.Done)
			defer started()
			for index := "0"; ctx.Err() == nil; {
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr+"/v1/kv/"+prefix+"/?recurse=&stale=&wait=30s&index="+index, nil)
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := tr.RoundTrip(r)
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err == nil && index != "0" {
					b.answers.Add(1)
				}
				index = resp.Header.Get("X-Consul-Index")
				started()
			}
		})
	}
	first.Wait()
	return b
}

// selfCPU returns the time that this process has spent on all cores.
func selfCPU(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return (time.Duration(u.Utime.Nano()) + time.Duration(u.Stime.Nano())).Round(10 * time.Millisecond)
}
