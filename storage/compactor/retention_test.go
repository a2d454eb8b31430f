package compactor

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/index"
)

func TestPeriod(t *testing.T) {
	const d = 24 * time.Hour
	rule := func(priority int, period time.Duration, ms ...*labels.Matcher) Rule {
		return Rule{ms, priority, period}
	}
	dev := matcher(t, labels.MatchEqual, "env", "dev")
	api := matcher(t, labels.MatchRegexp, "app", "api.*")
	p := Policy{Period: 30 * d, Streams: []Rule{rule(1, 7*d, dev), rule(2, 90*d, api), rule(2, 60*d, api, dev), rule(9, 0, matcher(t, labels.MatchEqual, "audit", "yes"))}}
	f := func(p Policy, ls string, want time.Duration) {
		t.Helper()
		if got := p.period(parseLabels(t, ls)); got != want {
			t.Fatalf("%s: %v, want %v", ls, got, want)
		}
	}
	f(p, `{app="x"}`, 30*d)
	f(p, `{app="x", env="dev"}`, 7*d)
	f(p, `{app="api-1"}`, 90*d)
	f(p, `{app="api-1", env="dev"}`, 60*d) // equal priority: the shorter
	f(p, `{app="api-1", env="dev", audit="yes"}`, 0)
	f(Policy{}, `{app="x"}`, 0)
	f(Policy{Period: -1}, `{app="x"}`, 0)
	f(Policy{Streams: []Rule{rule(0, 0, dev), rule(0, d, dev)}}, `{env="dev"}`, d)
	f(Policy{Streams: []Rule{rule(0, d, dev), rule(0, 0, dev)}}, `{env="dev"}`, d)
	for _, c := range []struct {
		p    Policy
		want time.Duration
	}{{p, 7 * d}, {Policy{}, 0}, {Policy{Period: d}, d}, {short(t), 7 * d}, {Policy{Period: d, Streams: []Rule{{Period: 0}}}, d}} {
		if got := c.p.shortest(); got != c.want {
			t.Fatalf("%v: shortest is %v, want %v", c.p, got, c.want)
		}
	}
	if one, two := short(t), short(t); p.String() == one.String() || one.String() != two.String() {
		t.Fatal("texts of policies")
	}
}

func TestJudge(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	j := newJudge(Policy{Period: time.Second * 100}, now)
	got := j.keep(nil, 0, []index.ChunkMeta{{MaxTime: 899_999}, {MaxTime: 900_000}, {MaxTime: 950_000}})
	if len(got) != 2 || got[0].MaxTime != 900_000 || j.next != 1_000_001 {
		t.Fatalf("%v, next %d", got, j.next)
	}
	j = newJudge(Policy{}, now)
	if got := j.keep(nil, 0, []index.ChunkMeta{{MaxTime: 1}}); len(got) != 1 || j.next != math.MaxInt64 {
		t.Fatalf("%v, next %d", got, j.next)
	}
}

// TestRetention: in a table that nobody merges, streams go one after the other
// as their periods end, and files are not read again before.
func TestRetention(t *testing.T) {
	w := newWorld(t, dayTime(day+1).Add(-time.Minute))
	const d = 24 * time.Hour
	w.policy["a"] = Policy{Period: 3 * d, Streams: []Rule{
		{[]*labels.Matcher{matcher(t, labels.MatchEqual, "app", "short")}, 1, d},
		{[]*labels.Matcher{matcher(t, labels.MatchEqual, "app", "audit")}, 1, 0},
	}}
	at := dayTime(day).Add(time.Hour)
	for _, tenant := range []string{"a", "b"} {
		w.index(tenant, w.chunk(tenant, `{app="short"}`, at), w.chunk(tenant, `{app="x"}`, at), w.chunk(tenant, `{app="audit"}`, at))
	}
	gets := 0
	b := &hooked{Bucket: w.bucket, after: func(op, key string) {
		if op == "get" {
			gets++
		}
	}}
	c := w.compactor(b)
	step := func(d time.Duration, a int, read bool) {
		t.Helper()
		w.advance(d)
		gets = 0
		w.run(c)
		w.mustCheck("after a run")
		got, err := w.visible("a")
		if err != nil || len(got) != a || gets > 0 != read {
			t.Fatalf("%d lines of a, want %d; %d objects were read, want some: %v; %v", len(got), a, gets, read, err)
		}
	}
	step(0, 3, false)              // the table is too young
	step(61*time.Minute, 3, true)  // nothing has expired
	step(time.Second, 3, true)     // the first: its last ms is over, and it is there for readers
	step(time.Minute, 3, true)     // the markers
	step(20*time.Minute, 2, true)  // and gone
	step(2*time.Hour, 2, true)     // the chunk's marker
	step(20*time.Minute, 2, true)  // is done with
	step(20*time.Minute, 2, false) // nothing is to be done
	step(d, 2, false)
	step(d, 2, true)
	step(20*time.Minute, 1, true)
	step(3*time.Hour, 1, true)
	step(3*time.Hour, 1, true)
	step(1000*d, 1, false)
	w.policy["a"] = Policy{Period: 3 * d}
	step(0, 1, true)
	w.finish()
	w.wantDone("at the end")
	if n := len(w.keys("b/")) + countPrefix(w.keys(storage.TableDir(day)), storage.TableDir(day)+"b/"); n != 4 {
		t.Fatalf("%d objects of a tenant without retention", n)
	}
}

// TestRetentionRandom compares with what the rules say for many streams.
func TestRetentionRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := newWorld(t, dayTime(day+20))
	values := []string{"a", "b", "c"}
	for _, tenant := range []string{"t1", "t2", "t3"} {
		p := Policy{Period: time.Duration(rng.IntN(10)) * 24 * time.Hour}
		for range 4 {
			p.Streams = append(p.Streams, Rule{
				Matchers: []*labels.Matcher{matcher(t, labels.MatchType(rng.IntN(2)), "x", values[rng.IntN(3)])},
				Priority: rng.IntN(2), Period: time.Duration(rng.IntN(20)) * 24 * time.Hour,
			})
		}
		w.policy[tenant] = p
		for range 60 {
			at := dayTime(day + int64(rng.IntN(20))).Add(time.Duration(17+rng.IntN(2)) * time.Hour) // none expires between the runs
			w.index(tenant, w.chunk(tenant, `{x="`+values[rng.IntN(3)]+`"}`, at, at.Add(time.Duration(rng.IntN(3))*time.Hour)))
		}
	}
	w.mustCheck("at first")
	w.finish()
	w.wantDone("at the end")
}
