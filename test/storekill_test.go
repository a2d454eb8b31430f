//go:build integration

package test

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/faultproxy"
	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/internal/testkit/s3server"
)

// night is a midnight that has passed.
var night = time.Now().UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour).UnixNano()

// nightStreams are streams of a tenant that reach over midnight, so that every
// chunk is in two tables. Parts continue each other.
func nightStreams(tenant string, part int) []testkit.Stream {
	gen := loglines.New(uint64(len(tenant) + part))
	var out []testkit.Stream
	for app := range nightApps {
		s := testkit.Stream{Labels: []testkit.Pair{{Name: "app", Value: loglines.AppName(app)}, {Name: "service_name", Value: "svc"}}}
		for i := range 90 {
			// From an hour before midnight to half an hour behind it, for every part.
			ts := night - 3600e9 + int64(i)*60e9 + int64(part)*1e9 + int64(app)
			e := testkit.Entry{TS: ts, Line: fmt.Sprintf("%s %d %d %s", tenant, part, i, gen.AppendLine(nil, app, ts))}
			if i%5 == 0 {
				e.Meta = []testkit.Pair{{Name: "pod", Value: "pod-" + strconv.Itoa(i%7)}}
			}
			s.Entries = append(s.Entries, e)
		}
		out = append(out, s)
	}
	return out
}

const nightApps = 5

var nightTenants = []string{"team-a", "team-b"}

// nightRead compares all of both tenants with the parts that were pushed.
func nightRead(t *testing.T, when string, s *testkit.Server, parts int) {
	t.Helper()
	day := int64(24 * time.Hour)
	for _, tenant := range nightTenants {
		var want []testkit.Stream
		for part := range parts {
			want = append(want, nightStreams(tenant, part)...)
		}
		got, err := s.Client(tenant).QueryAll(t.Context(), `{service_name="svc"}`, night-day, night+day)
		if err != nil {
			t.Fatalf("%s: %s: %v", when, tenant, err)
		}
		compare(t, when+": "+tenant, got, want)
	}
}

// TestKillInAFlush kills the process at every step of a flush of ten chunks in
// two tables of two tenants, starts it again and flushes. Every acknowledged
// line must be found once, by this process and by one that has nothing but the
// bucket, and index and chunks must fit each other.
//
// If nothing was pushed after the kill, the second flush uploads what the first
// one has, under the same keys, and no chunk is left without an index. If
// something was, chunks that were stored and not indexed in all tables have gone
// on filling and get another key: what the first flush stored of those stays as
// it is, and takes space only.
func TestKillInAFlush(t *testing.T) {
	seed := newSeed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	server := s3server.New(t)
	chunks := len(nightTenants) * nightApps
	indexes := 2 * len(nightTenants)
	points := map[string]killPoint{
		"before the first chunk":               {what: isChunk, nth: 1, phase: faultproxy.Before},
		"first chunk stored, answer lost":      {what: isChunk, nth: 1, phase: faultproxy.After},
		"before some chunk":                    {what: isChunk, nth: 2 + rng.IntN(chunks-2), phase: faultproxy.Before},
		"some chunk stored, answer lost":       {what: isChunk, nth: 2 + rng.IntN(chunks-2), phase: faultproxy.After},
		"last chunk stored, answer lost":       {what: isChunk, nth: chunks, phase: faultproxy.After},
		"before the first index":               {what: isIndex, nth: 1, phase: faultproxy.Before},
		"first index stored, answer lost":      {what: isIndex, nth: 1, phase: faultproxy.After},
		"before some index":                    {what: isIndex, nth: 2 + rng.IntN(indexes-1), phase: faultproxy.Before},
		"some index stored, answer lost":       {what: isIndex, nth: 2 + rng.IntN(indexes-2), phase: faultproxy.After},
		"last index stored, answer lost":       {what: isIndex, nth: indexes, phase: faultproxy.After},
		"after the last answer, at once":       {what: isIndex, nth: indexes, phase: faultproxy.After, wait: time.Nanosecond},
		"after the last answer, a little":      {what: isIndex, nth: indexes, phase: faultproxy.After, wait: time.Duration(1 + rng.IntN(500_000))},
		"after the last answer, a little more": {what: isIndex, nth: indexes, phase: faultproxy.After, wait: time.Duration(500_000 + rng.IntN(3_000_000))},
	}
	n := 0
	for name, p := range points {
		for _, more := range []bool{false, true} {
			n++
			bucket := "logs" + strconv.Itoa(n)
			full := name
			if more {
				full += ", and pushes go on"
			}
			t.Run(full, func(t *testing.T) {
				t.Parallel()
				server.MakeBucket(bucket)
				killInAFlush(t, newFaultyStore(t, server, bucket, seed), p, more)
			})
		}
	}
}

func killInAFlush(t *testing.T, store *faultyStore, p killPoint, more bool) {
	args := []string{
		"-auth.enabled=true", "-ingester.chunk-block-size=4KB", "-ingester.flush-concurrency=1", "-ingester.index-interval=1h",
		"-limits.reject-old-samples=false", "-log.level=warn",
	}
	s := testkit.NewServer(t, t.TempDir(), append(args, store.through.Args...)...)
	s.Start()
	s.WaitReady()
	push := func(part int) {
		t.Helper()
		for _, tenant := range nightTenants {
			if err := s.Client(tenant).Push(t.Context(), nightStreams(tenant, part)); err != nil {
				t.Fatal(err)
			}
		}
	}
	push(0)
	pid := make(chan int, 1)
	pid <- s.PID()
	killed := store.kill(pid, p)
	flushed := make(chan error, 1)
	go func() { flushed <- s.Client("").Flush(t.Context()) }()
	select {
	case <-killed:
	case <-time.After(time.Minute):
		t.Fatalf("the process did not get there\n%s", s.Output())
	}
	if err := <-flushed; err == nil && p.wait == 0 {
		t.Fatal("the flush that was killed had no error")
	}
	s.Kill()
	store.proxy.OnRequest(nil)
	store.contents(t).check(t, "after the kill")
	before := store.whole(t, "after the kill")

	s.Start()
	s.WaitReady()
	nightRead(t, "after the start", s, 1)
	parts := 1
	if more {
		push(1)
		parts = 2
		nightRead(t, "with more pushes", s, parts)
	}
	flushWithin(t, s, time.Minute)
	nightRead(t, "after a flush", s, parts)
	once := store.contents(t)
	orphans := once.check(t, "after a flush")
	unlisted := store.whole(t, "after a flush")
	if !more && unlisted > 0 || unlisted > before || len(orphans) > unlisted {
		t.Errorf("%d chunks are not listed everywhere, %d were after the kill; nowhere: %q", unlisted, before, orphans)
	}
	if !more && len(once.stored) != len(nightTenants)*nightApps {
		t.Errorf("%d chunks are stored", len(once.stored))
	}
	flushWithin(t, s, time.Minute)
	if twice := store.contents(t); len(twice.stored) != len(once.stored) || fmt.Sprint(twice.tables) != fmt.Sprint(once.tables) {
		t.Errorf("a second flush stores %d chunks for %d, index files %v for %v", len(twice.stored), len(once.stored), twice.tables, once.tables)
	}
	fresh := testkit.NewServer(t, t.TempDir(), append(args, store.direct.Args...)...)
	fresh.Start()
	fresh.WaitReady()
	nightRead(t, "from the bucket alone", fresh, parts)
	if strings.Contains(s.Output(), "panic") {
		t.Error(s.Output())
	}
}

// The two streams of a tenant at a day that a rule lets expire, and those that
// stay, in three flushes.
const (
	expiryArg    = `-limits.retention-stream={lives="no"} 1 24h`
	expiryParts  = 3
	expirySpan   = 72 * time.Hour
	expiryPhases = 3 // merge and mark; delete files and note; delete chunks
)

// expiryStreams: team-a has streams that stay and one that does not in an old
// table, team-b has one there that does not stay. Both have new streams.
func expiryStreams(tenant string, part int, now time.Time) []testkit.Stream {
	gen := loglines.New(uint64(len(tenant) + part))
	var out []testkit.Stream
	add := func(app, lives string, start time.Time) {
		s := testkit.Stream{Labels: []testkit.Pair{{Name: "app", Value: app}, {Name: "lives", Value: lives}, {Name: "service_name", Value: "svc"}}}
		for i := range 60 {
			ts := start.UnixNano() + int64(part)*1e9 + int64(i)*5e9
			s.Entries = append(s.Entries, testkit.Entry{TS: ts, Line: fmt.Sprintf("%s %s %d %d %s", tenant, app, part, i, gen.AppendLine(nil, i, ts))})
		}
		out = append(out, s)
	}
	old, young := now.Add(-60*time.Hour), now.Add(-40*time.Minute)
	add("new-1", "yes", young)
	add("new-2", "yes", young)
	add("gone", "no", old)
	if tenant == nightTenants[0] {
		add("old", "yes", old)
	}
	return out
}

// compaction is a bucket that is compacted while somebody reads from it.
type compaction struct {
	store  *faultyStore
	dir    string // of the compactor's process
	now    time.Time
	reader *testkit.Server
}

var expiryArgs = []string{"-auth.enabled=true", "-ingester.index-interval=1h", "-limits.reject-old-samples=false", "-log.level=warn"}

// newCompaction is for a bucket that is a copy of one that was filled at now.
func newCompaction(t *testing.T, server *s3server.Server, from, name string, seed uint64, now time.Time) *compaction {
	t.Helper()
	// With the attributes, in which the service has checksums.
	if out, err := exec.Command("cp", "-a", filepath.Join(server.Dir, from), filepath.Join(server.Dir, name)).CombinedOutput(); err != nil {
		t.Fatalf("copy a bucket: %v\n%s", err, out)
	}
	c := &compaction{store: newFaultyStore(t, server, name, seed), dir: t.TempDir(), now: now}
	c.reader = testkit.NewServer(t, t.TempDir(), append(expiryArgs, c.store.direct.Args...)...)
	c.reader.Start()
	c.reader.WaitReady()
	return c
}

func (c *compaction) query(t *testing.T, tenant, lives string) ([]testkit.Stream, error) {
	return c.reader.Client(tenant).QueryAll(t.Context(), `{lives="`+lives+`"}`, c.now.Add(-expirySpan).UnixNano(), c.now.UnixNano())
}

// sent returns what was pushed with the label lives.
func (c *compaction) sent(tenant, lives string) []testkit.Stream {
	var out []testkit.Stream
	for part := range expiryParts {
		for _, s := range expiryStreams(tenant, part, c.now) {
			if s.Labels[1].Value == lives {
				out = append(out, s)
			}
		}
	}
	return out
}

// read wants all that stays once, and what expires once or not at all.
func (c *compaction) read(t *testing.T, when string) error {
	t.Helper()
	for _, tenant := range nightTenants {
		got, err := c.query(t, tenant, "yes")
		if err != nil {
			return fmt.Errorf("%s: %s: %w", when, tenant, err)
		}
		compare(t, when+": "+tenant, got, c.sent(tenant, "yes"))
		if got, err = c.query(t, tenant, "no"); err != nil {
			return fmt.Errorf("%s: %s: what expires: %w", when, tenant, err)
		}
		sent := map[string]bool{}
		for _, line := range flat(c.sent(tenant, "no")) {
			sent[line] = true
		}
		for _, line := range flat(got) {
			if !sent[line] {
				t.Errorf("%s: %s: a line twice, or never sent: %s", when, tenant, line)
			}
			sent[line] = false
		}
	}
	return nil
}

// reading reads all the time until the function that it returns is called, or
// the test ends. An answer is complete, or it is an error.
func (c *compaction) reading(t *testing.T) (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	answers, errs := 0, 0
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			default:
			}
			if err := c.read(t, "meanwhile"); err != nil {
				errs++
				t.Logf("a query had an error, which it may have where hours pass in a moment: %v", err)
			} else {
				answers++
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	stop = sync.OnceFunc(func() {
		close(end)
		<-done
		if answers == 0 {
			t.Errorf("no query was answered, %d had errors", errs)
		}
	})
	t.Cleanup(stop)
	return stop
}

// run starts a process that compacts once and ends it. It returns the number of
// its requests that change something, and whether it was killed at p.
func (c *compaction) run(t *testing.T, p *killPoint) (requests int, killed bool) {
	t.Helper()
	pid := make(chan int, 1)
	var end <-chan struct{}
	count := make(chan int, 1)
	count <- 0
	if p != nil {
		end = c.store.kill(pid, *p)
	} else {
		c.store.proxy.OnRequest(func(method, key string, phase faultproxy.Phase) faultproxy.Action {
			if phase == faultproxy.Before && mutates(method, key) {
				count <- 1 + <-count
			}
			return faultproxy.Pass
		})
	}
	s := testkit.NewServer(t, c.dir, slices.Concat(expiryArgs, c.store.through.Args, []string{
		"-compactor.enabled=true", "-compactor.interval=1h", "-compactor.min-files=2", "-compactor.min-age=0s", "-compactor.concurrency=4", expiryArg,
	})...)
	s.Start()
	pid <- s.PID()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		select {
		case <-end:
			s.Kill()
			c.store.proxy.OnRequest(nil)
			return 0, true
		default:
		}
		text, err := s.Client("").Get(t.Context(), "/metrics")
		if err == nil && strings.Contains(text, `loki_go_compactor_runs_total{result="done"} 1`) {
			break
		}
		if err == nil && strings.Contains(text, `loki_go_compactor_runs_total{result="failed"}`) {
			t.Fatalf("a run failed\n%s", s.Output())
		}
		if time.Now().After(deadline) {
			t.Fatalf("the compactor did not finish\n%s", s.Output())
		}
	}
	if err := s.Stop(30 * time.Second); err != nil { // which releases the lease
		select {
		case <-end: // which is closed a moment after the kill
			killed = true
		case <-time.After(10 * time.Second):
			t.Fatalf("%v\n%s", err, s.Output())
		}
	}
	c.store.proxy.OnRequest(nil)
	return <-count, killed
}

// finished reports whether nothing is left to do, and what is.
func (c *compaction) finished(t *testing.T) (bool, contents) {
	t.Helper()
	now := c.store.contents(t)
	for _, files := range now.tables {
		if files > 1 {
			return false, now
		}
	}
	for key := range now.stored {
		if now.listed[key] == 0 {
			return false, now
		}
	}
	return len(now.others) == 0, now
}

// TestKillInACompaction lets a process merge index files, apply retention and
// delete what is due, counts the requests with which it changes the bucket, and
// then kills it before or after one of them, in each of the three phases
// between which hours pass, four times over. Whoever reads meanwhile sees all
// that stays, once, or an error; in the end nothing is left that should not be.
func TestKillInACompaction(t *testing.T) {
	seed := newSeed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	server := s3server.New(t, "filled")
	now := time.Now()
	filled := newFaultyStore(t, server, "filled", seed)
	s := testkit.NewServer(t, t.TempDir(), append(expiryArgs, filled.direct.Args...)...)
	s.Start()
	s.WaitReady()
	for part := range expiryParts {
		for _, tenant := range nightTenants {
			if err := s.Client(tenant).Push(t.Context(), expiryStreams(tenant, part, now)); err != nil {
				t.Fatal(err)
			}
		}
		flushWithin(t, s, time.Minute)
	}
	s.Kill()

	var requests [expiryPhases]int
	whole := newCompaction(t, server, "filled", "whole", seed, now)
	for phase := range requests {
		requests[phase], _ = whole.run(t, nil)
		whole.store.age(t, 3*time.Hour)
	}
	if ok, left := whole.finished(t); !ok {
		t.Fatalf("without a kill there is something left: %+v", left)
	}
	if err := whole.read(t, "without a kill"); err != nil {
		t.Fatal(err)
	}
	t.Logf("the phases change the bucket with %v requests", requests)

	const rounds = 4
	// Requests that are killed at, without a repetition, for each phase.
	var picked [expiryPhases][]int
	for phase, n := range requests {
		picked[phase] = rng.Perm(2 * n)
	}
	for round := range rounds {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			t.Parallel()
			c := newCompaction(t, server, "filled", "round"+strconv.Itoa(round), seed, now)
			stop := c.reading(t)
			kills := 0
			for phase := range requests {
				pick := picked[phase][round]
				p := killPoint{what: mutates, nth: 1 + pick/2, phase: faultproxy.Phase(pick % 2)}
				name := fmt.Sprintf("phase %d, %s request %d of %d", phase+1, p.phase, p.nth, requests[phase])
				if _, killed := c.run(t, &p); killed {
					kills++
					c.look(t, name+", killed")
					// The lease of the killed process expires.
					c.store.age(t, 3*time.Minute)
					c.run(t, nil)
				}
				c.look(t, name)
				c.store.age(t, 3*time.Hour)
			}
			// What a kill has held up needs another run, or two.
			ok, left := c.finished(t)
			for more := 0; !ok && more < 3; more++ {
				c.run(t, nil)
				c.store.age(t, 3*time.Hour)
				ok, left = c.finished(t)
			}
			stop()
			if !ok {
				t.Errorf("left in the bucket: %+v", left)
			}
			if kills == 0 {
				t.Error("no kill took place")
			}
			c.look(t, "in the end")
			for _, tenant := range nightTenants {
				if got, err := c.query(t, tenant, "no"); err != nil || len(got) > 0 {
					t.Errorf("%s: %d streams that have expired: %v", tenant, len(got), err)
				}
			}
		})
	}
}

// look reads, and holds index and chunks against each other.
func (c *compaction) look(t *testing.T, when string) {
	t.Helper()
	c.store.contents(t).check(t, when)
	if n := c.store.whole(t, when, expiryArg); n > 0 {
		t.Errorf("%s: %d chunks are not listed", when, n)
	}
	if err := c.read(t, when); err != nil {
		t.Fatal(err)
	}
}
