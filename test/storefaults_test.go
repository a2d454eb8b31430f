//go:build integration

package test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/faultproxy"
	"github.com/loki-go/loki-go/internal/testkit/s3server"
)

// manyLines is the limit of a query that is to see all at once.
const manyLines = "1000000"

func allAtOnce(c *testkit.Client) *testkit.Client {
	c.Page = 1_000_000
	return c
}

// running is a workload that runs.
type running struct {
	*testkit.Workload
	cancel context.CancelFunc
	done   chan error
}

func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
}

// pushing starts a workload and waits until something of it is acknowledged.
func pushing(t *testing.T, w *testkit.Workload) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{w, cancel, make(chan error, 1)}
	go func() { r.done <- w.Run(ctx) }()
	t.Cleanup(cancel)
	eventually(t, "a push is acknowledged", func() bool { return w.Acked() > 0 })
	return r
}

// queries reads all the time until stop is called. An answer has all that was
// acknowledged before the question, once, or it is an error.
type queries struct {
	wg             sync.WaitGroup
	end            atomic.Bool
	answers, errs  atomic.Int64
	last           atomic.Pointer[error]
	client         *testkit.Client
	w              *testkit.Workload
	pause, timeout time.Duration
}

func querying(t *testing.T, q *queries, readers int) *queries {
	for range readers {
		q.wg.Go(func() {
			for !q.end.Load() {
				ctx, cancel := context.WithTimeout(t.Context(), q.timeout)
				_, err := q.w.Check(ctx, q.client)
				cancel()
				var failed *testkit.QueryError
				switch {
				case errors.As(err, &failed):
					q.errs.Add(1)
					q.last.Store(&err)
				case err != nil:
					t.Errorf("an answer is wrong: %v", err)
				default:
					q.answers.Add(1)
				}
				time.Sleep(q.pause)
			}
		})
	}
	t.Cleanup(q.stop)
	return q
}

func (q *queries) stop() {
	q.end.Store(true)
	q.wg.Wait()
}

func (q *queries) lastError() error {
	if e := q.last.Load(); e != nil {
		return *e
	}
	return nil
}

// memoryBudget is what the process may use at most in the tests with faults:
// heads of 16 MB, caches of 32 MB, requests under way, and the program itself.
const memoryBudget = 300 << 20

// TestStoreFaults lets 30 % of all requests to the store fail, in every way at
// once, from the start, while lines are pushed, stored, queried and compacted;
// kills the process in the middle and lets hours pass, so that the compactor
// deletes, too. Queries are complete or have an error. Without the faults
// everything comes back once: from this process, from one that has nothing but
// the bucket, and from stock Loki.
func TestStoreFaults(t *testing.T) {
	t.Parallel()
	const half = 8 * time.Second
	seed := newSeed(t)
	server := s3server.New(t, "logs")
	store := newFaultyStore(t, server, "logs", seed)
	rules := faultproxy.Everything(0.3)
	for i := range rules {
		rules[i].Drip = 200 * time.Millisecond
	}
	store.proxy.SetRules(rules...)
	args := slices.Concat(busy, []string{
		"-ingester.chunk-block-size=4KB", "-ingester.chunk-target-size=8KB", "-ingester.head-memory=16MB", "-ingester.flush-timeout=10s",
		"-storage.requests.timeout=500ms", "-storage.requests.attempts=3", "-storage.read-ahead=32", "-storage.chunk-cache-size=16MB", "-storage.index-cache-size=16MB",
		"-compactor.interval=1s", "-compactor.min-files=2", "-compactor.min-age=0s", "-compactor.lease-ttl=10s",
		"-limits.max-entries-limit-per-query=" + manyLines, "-limits.query-timeout=15s",
	})
	s := testkit.NewServer(t, t.TempDir(), slices.Concat(args, store.through.Args, []string{"-compactor.enabled=true"})...)
	s.Start()
	s.WaitReady()
	w := pushing(t, &testkit.Workload{Senders: senders(s.HTTP, s.Fwd), Pause: 100 * time.Millisecond})
	q := querying(t, &queries{client: allAtOnce(s.Client("")), w: w.Workload, pause: 100 * time.Millisecond, timeout: 20 * time.Second}, 2)
	time.Sleep(half)
	eventually(t, "index files are merged", func() bool {
		marks, err := store.objects.List(t.Context(), "loki-go/superseded/", true)
		if err != nil {
			t.Fatal(err)
		}
		return len(marks) > 0
	})
	memory := peakMemory(t, s)
	merged := metricSum(t, s, "loki_go_compactor_files_merged_total")
	failed := metricSum(t, s, "loki_go_ingester_flush_errors_total")
	s.Kill()
	store.contents(t).check(t, "after the kill")
	unlisted := store.whole(t, "after the kill")
	store.age(t, 3*time.Hour)
	s.Start()
	s.WaitReady()
	time.Sleep(half)
	w.stop(t)
	q.stop()
	stats := store.proxy.TakeStats()
	t.Logf("requests %v, faults %v", stats.Requests, stats.Faults)
	t.Logf("%d queries answered, %d had errors, the last: %v", q.answers.Load(), q.errs.Load(), q.lastError())
	for _, r := range rules {
		if stats.Faults[r.Action] == 0 {
			t.Errorf("%s did not happen", r.Action)
		}
	}

	store.proxy.SetRules()
	flushWithin(t, s, time.Minute)
	eventually(t, "merged files are deleted", func() bool { return metricSum(t, s, "loki_go_compactor_files_deleted_total") > 0 })
	check := func(when string, c *testkit.Client) {
		t.Helper()
		n, err := w.Check(t.Context(), c)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		t.Logf("%s: %d lines; %d batches acknowledged, %d sent again", when, n, w.Acked(), w.Retries())
	}
	check("after a flush", allAtOnce(s.Client("")))
	memory = max(memory, peakMemory(t, s))
	merged += metricSum(t, s, "loki_go_compactor_files_merged_total")
	failed += metricSum(t, s, "loki_go_ingester_flush_errors_total")
	t.Logf("%d MB of memory, %v index files merged, %v uploads failed", memory>>20, merged, failed)
	if memory > memoryBudget {
		t.Errorf("%d bytes of memory, more than %d", memory, memoryBudget)
	}
	if merged == 0 || q.answers.Load() == 0 || w.Acked() < 100 {
		t.Error("too little happened")
	}
	if err := s.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	store.contents(t).check(t, "in the end")
	if n := store.whole(t, "in the end"); n > unlisted {
		t.Errorf("%d chunks are not listed, %d were when the process was killed", n, unlisted)
	}
	fresh := testkit.NewServer(t, t.TempDir(), slices.Concat(args, store.direct.Args)...)
	fresh.Start()
	fresh.WaitReady()
	check("from the bucket alone", allAtOnce(fresh.Client("")))
	check("by stock Loki", &testkit.Client{Base: startLoki(t, store.direct), Tenant: "fake"})
	if strings.Contains(s.Output(), "panic") {
		t.Error(s.Output())
	}
}

// TestStoreFaultsInQueries lets all requests of one kind fail in one way, and
// then half of them: lists of tables, index files, chunks. Queries, of lines,
// labels and streams, have an error or everything, and everything when the faults
// are over.
func TestStoreFaultsInQueries(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	server := s3server.New(t, "logs")
	store := newFaultyStore(t, server, "logs", seed)
	args := []string{
		"-auth.enabled=true", "-ingester.chunk-block-size=4KB", "-limits.reject-old-samples=false", "-log.level=warn",
		"-storage.chunk-cache-size=0", "-storage.index-cache-size=0", "-storage.index-disk-size=0", "-storage.requests.timeout=300ms", "-storage.requests.attempts=2",
	}
	s := testkit.NewServer(t, t.TempDir(), slices.Concat(args, store.direct.Args)...)
	s.Start()
	s.WaitReady()
	for part := range 3 { // of which each makes an index file in each table
		for _, tenant := range nightTenants {
			if err := s.Client(tenant).Push(t.Context(), nightStreams(tenant, part)); err != nil {
				t.Fatal(err)
			}
		}
		flushWithin(t, s, time.Minute)
	}
	s.Kill()
	s = testkit.NewServer(t, t.TempDir(), slices.Concat(args, store.through.Args)...)
	s.Start()
	s.WaitReady()
	nightRead(t, "before", s, 3)

	c := s.Client(nightTenants[0])
	times := fmt.Sprintf("start=%d&end=%d", night-int64(24*time.Hour), night+int64(24*time.Hour))
	asked := map[string]string{} // and what they are answered
	for _, path := range []string{"/loki/api/v1/labels?", "/loki/api/v1/label/app/values?", "/loki/api/v1/series?match[]={app!=%22%22}&"} {
		body, err := c.Get(t.Context(), path+times)
		if err != nil || !strings.Contains(body, "success") {
			t.Fatalf("%s: %q, %v", path, body, err)
		}
		asked[path+times] = body
	}
	errs, answers := 0, 0
	// see judges one answer. An error has to say that the server or the store is
	// at fault.
	see := func(what string, err error, mustFail, mustAnswer bool) {
		t.Helper()
		var se *testkit.StatusError
		switch {
		case err == nil && mustFail:
			t.Errorf("%s: there is an answer", what)
		case err == nil:
			answers++
		case mustAnswer || !errors.As(err, &se) || se.Status < 500:
			t.Errorf("%s: %v", what, err)
		default:
			errs++
		}
	}
	ask := func(what string, chunks, mustFail, mustAnswer bool) {
		t.Helper()
		var want []testkit.Stream
		for part := range 3 {
			want = append(want, nightStreams(c.Tenant, part)...)
		}
		got, err := c.QueryAll(t.Context(), `{service_name="svc"}`, night-int64(24*time.Hour), night+int64(24*time.Hour))
		if see(what, err, mustFail, mustAnswer); err == nil {
			compare(t, what, got, want)
		}
		if chunks && !mustAnswer {
			return // labels and streams need none
		}
		for path, want := range asked {
			body, err := c.Get(t.Context(), path)
			if see(what+": "+path, err, mustFail, mustAnswer); err == nil && body != want {
				t.Errorf("%s: %s: %q, want %q", what, path, body, want)
			}
		}
	}
	for _, kind := range []faultproxy.Rule{
		{Method: []string{"LIST"}}, {Method: []string{"GET"}, Key: regexp.MustCompile("^index/")}, {Method: []string{"GET"}, Key: regexp.MustCompile("^team-")},
	} {
		chunks := kind.Key != nil && kind.Key.MatchString("team-a/")
		for _, r := range faultproxy.Everything(1) {
			r.Method, r.Key, r.Drip = kind.Method, kind.Key, 50*time.Millisecond
			slow := r.Action == faultproxy.Drip
			what := fmt.Sprintf("%s %v, %s, %s", r.Method, r.Key, r.Phase, r.Action)
			r.Rate = 1
			store.proxy.SetRules(r)
			ask(what, chunks, !slow, slow)
			r.Rate = 0.4
			store.proxy.SetRules(r)
			ask(what+", some", chunks, false, slow)
		}
		store.proxy.SetRules()
		ask(fmt.Sprintf("%s %v, without faults", kind.Method, kind.Key), chunks, false, true)
	}
	t.Logf("%d answers, %d errors", answers, errs)
	if strings.Contains(s.Output(), "panic") {
		t.Error(s.Output())
	}
}

// TestStoreOutage takes the store away for the whole of a load. Pushes go on
// until the local disk has what it may have, and are refused with 503 and
// Retry-After then. When the store is back all of it is stored, by no more
// requests at a time than are set, and pushes are taken again: by itself, or
// sooner if somebody asks for a flush.
func TestStoreOutage(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	server := s3server.New(t)
	for name, o := range map[string]struct {
		bucket   string
		asked    bool // for a flush
		out, end func(*faultproxy.Proxy) error
	}{
		"no answer": {"silent", true, func(p *faultproxy.Proxy) error {
			p.SetRules(faultproxy.Rule{Action: faultproxy.Silence, Rate: 1})
			return nil
		}, rulesOff},
		"503": {"slow", true, func(p *faultproxy.Proxy) error {
			p.SetRules(faultproxy.Rule{Action: faultproxy.SlowDown, Rate: 1})
			return nil
		}, rulesOff},
		"connection refused": {"refused", false, func(p *faultproxy.Proxy) error {
			p.Down()
			return nil
		}, (*faultproxy.Proxy).Up},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server.MakeBucket(o.bucket)
			storeOutage(t, newFaultyStore(t, server, o.bucket, seed), o.asked, o.out, o.end)
		})
	}
}

func rulesOff(p *faultproxy.Proxy) error {
	p.SetRules()
	return nil
}

func storeOutage(t *testing.T, store *faultyStore, asked bool, out, end func(*faultproxy.Proxy) error) {
	const concurrency = 4
	args := slices.Concat(busy, []string{
		"-ingester.head-memory=16MB", "-ingester.disk-budget=16MB", "-ingester.flush-concurrency=4", "-ingester.flush-timeout=5s",
		"-storage.requests.timeout=1s", "-storage.requests.attempts=2", "-limits.max-entries-limit-per-query=" + manyLines,
	})
	s := testkit.NewServer(t, t.TempDir(), slices.Concat(args, store.through.Args)...)
	s.Start()
	s.WaitReady()
	if err := out(store.proxy); err != nil {
		t.Fatal(err)
	}
	full := make(chan error, 1)
	var sends []testkit.Sender
	for range 4 {
		sends = append(sends, noting{testkit.SenderFunc(s.Client("").Push), full})
	}
	w := pushing(t, &testkit.Workload{Senders: sends, Lines: 50, Pad: 1000})
	select {
	case <-full:
	case <-time.After(time.Minute):
		t.Fatalf("no push was refused with 503 and Retry-After\n%s", s.Output())
	}
	taken := w.Acked()
	time.Sleep(2 * time.Second) // pushes are tried again all the time
	used, most := metricSum(t, s, "loki_go_ingester_local_disk_bytes"), metricSum(t, s, "loki_go_ingester_local_disk_limit_bytes")
	// Pushes that were under way when the disk was found full go through, and
	// blocks are smaller than the WAL that they take the place of.
	if most != 16<<20 || used < most/2 || used > most+8<<20 {
		t.Errorf("%v bytes of local disk are in use, %v are allowed", used, most)
	}
	if n := metricSum(t, s, "loki_go_ingester_flushed_chunks_total"); n != 0 {
		t.Errorf("%v chunks were stored without a store", n)
	}
	store.proxy.TakeStats()
	if err := end(store.proxy); err != nil {
		t.Fatal(err)
	}
	if asked {
		if _, err := s.Client("").Do(t.Context(), "POST", "/flush", "", nil); err != nil {
			t.Fatal(err)
		}
	}
	back := w.Acked()
	for deadline := time.Now().Add(time.Minute); w.Acked() < back+20; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no pushes are taken after the store is back\n%s", lastLines(s.Output(), 20))
		}
	}
	w.stop(t)
	flushWithin(t, s, time.Minute)
	stats := store.proxy.TakeStats()
	// One more, as index files are written beside the chunks.
	if stats.Most["PUT"] > concurrency+1 {
		t.Errorf("%d PUT requests at one time", stats.Most["PUT"])
	}
	if n := metricSum(t, s, "loki_go_ingester_pending_chunks"); n != 0 {
		t.Errorf("%v chunks are left", n)
	}
	memory := peakMemory(t, s)
	if memory > memoryBudget {
		t.Errorf("%d bytes of memory, more than %d", memory, memoryBudget)
	}
	t.Logf("%d batches taken before the first refusal, %d in all; then %v requests, at most %v at one time; %d MB of memory",
		taken, w.Acked(), stats.Requests, stats.Most, memory>>20)
	n, err := w.Check(t.Context(), allAtOnce(s.Client("")))
	if err != nil {
		t.Fatalf("%d lines: %v", n, err)
	}
	store.contents(t).check(t, "in the end")
	if n := store.whole(t, "in the end"); n > 0 {
		t.Errorf("%d chunks are not listed", n)
	}
	s.Kill()
	fresh := testkit.NewServer(t, t.TempDir(), slices.Concat(args, store.direct.Args)...)
	fresh.Start()
	fresh.WaitReady()
	if n, err := w.Check(t.Context(), allAtOnce(fresh.Client(""))); err != nil {
		t.Fatalf("from the bucket alone: %d lines: %v", n, err)
	}
}
