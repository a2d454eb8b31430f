package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/ring"
)

// sets returns the ids of the replica set of a stream, by the present ring.
func (e *env) set(stream string, rf int) []string {
	r := e.ring.Current()
	var ids []string
	for _, i := range r.Replicas(labels.Token("fake", stream), rf, nil) {
		ids = append(ids, r.Instances()[i].ID)
	}
	return ids
}

// many makes n streams with three lines each, with metadata that lies in the
// protobuf and metadata that was normalised.
func many(n int) []stream {
	var out []stream
	for i := range n {
		out = append(out, one(fmt.Sprintf(`{service_name="s%d"}`, i),
			at(1, fmt.Sprint("plain ", i)), at(2, fmt.Sprint("with metadata ", i), "trace", fmt.Sprint(i)), at(3, "")))
	}
	return out
}

// raw makes a batch as a Loki client sends it: metadata is not yet normal.
func (e *env) raw(streams []stream) *push.Batch {
	str := func(tag byte, s string) []byte { return append([]byte{tag, byte(len(s))}, s...) }
	msg := func(tag byte, body []byte) []byte {
		return append([]byte{tag, byte(len(body) | 0x80), byte(len(body) >> 7)}, body...)
	}
	varint := func(v int64) []byte {
		var out []byte
		for ; v >= 0x80; v >>= 7 {
			out = append(out, byte(v)|0x80)
		}
		return append(out, byte(v))
	}
	var data []byte
	for _, s := range streams {
		body := str(1<<3|2, s.labels)
		for _, l := range s.lines {
			ts := e.now.Load() + int64(l.at)
			stamp := append([]byte{1 << 3}, varint(ts/1e9)...)
			stamp = append(append(stamp, 2<<3), varint(ts%1e9)...)
			entry := append(msg(1<<3|2, stamp), str(2<<3|2, l.text)...)
			for i := 0; i+1 < len(l.meta); i += 2 {
				entry = append(entry, msg(3<<3|2, append(str(1<<3|2, l.meta[i]), str(2<<3|2, l.meta[i+1])...))...)
			}
			body = append(body, msg(2<<3|2, entry)...)
		}
		data = append(data, msg(1<<3|2, body)...)
	}
	b := push.Get()
	if err := b.SetData(data); err != nil {
		e.t.Fatal(err)
	}
	b.Receiver = "test"
	return b
}

// drain waits for what runs in the background.
func (e *env) drain() { e.g.running.Wait() }

func (e *env) wantEverywhere(streams []stream, rf int) {
	e.t.Helper()
	e.drain()
	want := map[string]map[string][]string{}
	for id := range e.replicas {
		want[id] = map[string][]string{}
	}
	for _, s := range streams {
		for _, id := range e.set(s.labels, rf) {
			for _, l := range s.lines {
				text := fmt.Sprint(start.UnixNano()+int64(l.at), " ", l.text)
				for i := 0; i+1 < len(l.meta); i += 2 {
					text += fmt.Sprintf(" %s=%s", push.NormaliseName(nil, []byte(l.meta[i])), l.meta[i+1])
				}
				want[id][s.labels] = append(want[id][s.labels], text)
			}
		}
	}
	for id := range e.replicas {
		e.wantStored(id, want[id])
	}
}

func TestReplicaSetsGetTheirStreams(t *testing.T) {
	for _, rf := range []int{1, 2, 3, 5} {
		for _, n := range []int{rf, 5, 9} {
			e := newEnv(t, n, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = rf })
			streams := many(40)
			if err := e.push(streams...); err != nil {
				t.Fatal(err)
			}
			e.wantEverywhere(streams, rf)
		}
	}
}

func TestNormalisedMetadataGoesAlong(t *testing.T) {
	for _, n := range []int{3, 7} {
		e := newEnv(t, n, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
		var streams []stream
		for i := range 20 {
			streams = append(streams, one(fmt.Sprintf(`{service_name="s%d"}`, i),
				at(1, "a", "service.name", "x"), at(2, "b"), at(3, "c", "plain", "y"), at(4, "d", "k8s/pod", "z")))
		}
		b := e.raw(streams)
		defer b.Release()
		if err := e.g.Push(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		e.wantEverywhere(streams, 3)
	}
}

func TestZonesAreKeptApart(t *testing.T) {
	e := newEnv(t, 0, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	for i := range 9 {
		id := string(rune('a' + i))
		e.replicas[id] = &fakeReplica{}
		in := ring.Instance{ID: id, Zone: fmt.Sprint("z", i%3), State: ring.Active}
		if err := e.ring.Register(context.Background(), in); err != nil {
			t.Fatal(err)
		}
	}
	streams := many(30)
	if err := e.push(streams...); err != nil {
		t.Fatal(err)
	}
	e.wantEverywhere(streams, 3)
	perZone := map[string]int{}
	for _, in := range e.ring.Current().Instances() {
		perZone[in.Zone] += e.replicas[in.ID].count()
	}
	if perZone["z0"] != 90 || perZone["z1"] != 90 || perZone["z2"] != 90 {
		t.Fatalf("entries by zone: %v", perZone)
	}
}

// fails makes a replica answer with err.
func (e *env) fails(id string, err error) {
	e.replicas[id].push = func(context.Context, *push.Batch) error { return err }
}

const lone = `{service_name="s"}`

func TestOneOfThreeFails(t *testing.T) {
	e := newEnv(t, 5, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	set := e.set(lone, 3)
	e.fails(set[1], push.Errorf(push.Overloaded, "busy"))
	if err := e.push(one(lone, at(0, "x"))); err != nil {
		t.Fatal(err)
	}
	e.drain()
	for id, r := range e.replicas {
		want := 0
		if id == set[0] || id == set[2] {
			want = 1
		}
		if r.count() != want {
			t.Errorf("%s has %d entries, want %d", id, r.count(), want)
		}
	}
	if n := e.value("replica_failures_total"); n != 1 {
		t.Errorf("%v failures", n)
	}
}

func TestTwoOfThreeFail(t *testing.T) {
	e := newEnv(t, 5, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	set := e.set(lone, 3)
	e.fails(set[0], &push.Error{Reason: push.Overloaded, Msg: "busy", RetryAfter: 7 * time.Second})
	e.fails(set[2], &push.Error{Reason: push.Overloaded, Msg: "busy", RetryAfter: 7 * time.Second})
	err := e.push(one(lone, at(0, "x")))
	var pe *push.Error
	if !errors.As(err, &pe) || pe.Reason != push.NoQuorum || pe.Reason.Status() != 503 || pe.RetryAfter != 7*time.Second {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "of 2 replicas needed have stored the push: busy") {
		t.Fatalf("got %v", err)
	}
	e.drain()
	for id, r := range e.replicas {
		if !slices.Contains(set, id) && r.calls != 0 {
			t.Errorf("%s was asked in the place of an overloaded one", id)
		}
	}
	if n := e.value("discarded_entries_total", "no_quorum"); n != 1 {
		t.Errorf("%v entries counted", n)
	}
}

// TestReplacement: who cannot take a push is replaced by the next on the ring.
func TestReplacement(t *testing.T) {
	for name, err := range map[string]error{
		"leaving":     push.Errorf(push.Leaving, "shutting down"),
		"replaying":   push.Errorf(push.Replaying, "replaying the WAL"),
		"disk low":    push.Errorf(push.DiskLow, "disk is full"),
		"broken disk": push.Errorf(push.Internal, "ingester: wal: write segment 7: input/output error"),
		"unreachable": errors.New("connection refused"),
	} {
		e := newEnv(t, 5, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
		walk := e.set(lone, 5)
		e.fails(walk[0], err)
		e.fails(walk[3], err) // the first replacement fails, too
		if err := e.push(one(lone, at(0, "x"))); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		e.drain()
		for k, want := range []int{0, 1, 1, 0, 1} {
			if got := e.replicas[walk[k]].count(); got != want {
				t.Errorf("%s: number %d on the walk has %d entries, want %d", name, k, got, want)
			}
		}
		if n := e.value("replaced_replicas_total"); n != 2 {
			t.Errorf("%s: %v replaced", name, n)
		}

		for _, id := range walk[1:4] {
			e.fails(id, err)
		}
		err := e.push(one(lone, at(0, "y")))
		var pe *push.Error
		if !errors.As(err, &pe) || pe.Reason != push.NoQuorum {
			t.Fatalf("%s: got %v", name, err)
		}
		e.drain()
	}
}

func TestDialFailureIsReplaced(t *testing.T) {
	e := newEnv(t, 4, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	walk := e.set(lone, 4)
	dial := e.g.d.Dial
	e.g.d.Dial = func(in ring.Instance) (Replica, error) {
		if in.ID == walk[1] {
			return nil, errors.New("no such host")
		}
		return dial(in)
	}
	if err := e.push(one(lone, at(0, "x"))); err != nil {
		t.Fatal(err)
	}
	e.drain()
	if e.replicas[walk[1]].count() != 0 || e.replicas[walk[3]].count() != 1 {
		t.Fatal("the fourth did not take the place of the second")
	}
}

func TestNotActiveAreNotAsked(t *testing.T) {
	e := newEnv(t, 5, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	walk := e.set(lone, 5)
	e.setState(walk[0], ring.Joining)
	e.setState(walk[2], ring.Leaving)
	if err := e.push(one(lone, at(0, "x"))); err != nil {
		t.Fatal(err)
	}
	e.drain()
	for k, want := range []int{0, 1, 0, 1, 1} {
		if got := e.replicas[walk[k]].count(); got != want {
			t.Errorf("number %d on the walk has %d entries, want %d", k, got, want)
		}
	}
	if n := e.value("under_replicated_pushes_total"); n != 0 {
		t.Errorf("%v under-replicated", n)
	}

	// Two are a quorum of three, one is not.
	e.setState(walk[1], ring.Leaving)
	if err := e.push(one(lone, at(0, "y"))); err != nil {
		t.Fatal(err)
	}
	if n := e.value("under_replicated_pushes_total"); n != 1 {
		t.Errorf("%v under-replicated", n)
	}
	e.setState(walk[3], ring.Leaving)
	err := e.push(one(lone, at(0, "z")))
	var pe *push.Error
	if !errors.As(err, &pe) || pe.Reason != push.NoQuorum || pe.RetryAfter <= 0 ||
		err.Error() != "gateway: at least 2 live replicas required, could only find 1" {
		t.Fatalf("got %v", err)
	}
	e.drain()
}

func TestSingleReplicaSaysWhyItCannot(t *testing.T) {
	for _, n := range []int{1, 3} {
		e := newEnv(t, n, nil)
		for id := range e.replicas {
			e.fails(id, &push.Error{Reason: push.DiskLow, Msg: "disk is full", RetryAfter: 5 * time.Second})
		}
		err := e.push(one(lone, at(0, "x")))
		var pe *push.Error
		if !errors.As(err, &pe) || pe.Reason != push.DiskLow || pe.RetryAfter != 5*time.Second {
			t.Fatalf("got %v", err)
		}
	}
	e := newEnv(t, 0, nil)
	err := e.push(one(lone, at(0, "x")))
	var pe *push.Error
	if !errors.As(err, &pe) || pe.Reason != push.NoQuorum {
		t.Fatalf("got %v", err)
	}
}

func TestSingleReplicaGetsTheBatchItself(t *testing.T) {
	e := newEnv(t, 1, nil)
	b := e.batch(one(lone, at(0, "x")), one(`{`, at(0, "y")))
	defer b.Release()
	var got *push.Batch
	e.replicas["a"].push = func(_ context.Context, b *push.Batch) error { got = b; return nil }
	var rej *push.Rejected
	if err := e.g.Push(context.Background(), b); !errors.As(err, &rej) || rej.Entries != 1 {
		t.Fatal(err)
	}
	if got != b {
		t.Fatal("a copy was made")
	}
}

// refuses makes a replica refuse the lines that start with a prefix.
func (e *env) refuses(id, prefix string, reason push.Reason) {
	e.replicas[id].push = func(_ context.Context, b *push.Batch) error {
		var rej push.Rejected
		for i := range b.Streams {
			s := &b.Streams[i]
			if s.Reject != push.OK {
				continue
			}
			for j := range b.StreamEntries(s) {
				en := &b.StreamEntries(s)[j]
				if en.Reject == push.OK && strings.HasPrefix(string(b.Bytes(en.Line)), prefix) {
					en.Reject = reason
					rej.Add(reason, s.Labels, 1, int(en.Line.Len), func() string { return "says " + id })
					rej.Groups[len(rej.Groups)-1].OldestOK = 77
				}
			}
		}
		if rej.Entries > 0 {
			rej.Total = len(b.Entries)
			return &rej
		}
		return nil
	}
}

func TestReplicasRefuse(t *testing.T) {
	lines := []line{at(0, "good one"), at(-999*time.Hour, "old"), at(1, "late one"), at(2, "late two"), at(3, "good two")}
	f := func(name string, n, rf, refusing int, stale bool, wantRefused int) {
		t.Helper()
		e := newEnv(t, n, func(cfg *Config, l *limits.Limits) {
			cfg.ReplicationFactor = rf
			l.IncrementDuplicateTimestamp = stale
		})
		set := e.set(lone, rf)
		for _, id := range set[:refusing] {
			e.refuses(id, "late", push.TooFarBehind)
		}
		sent := lines
		if stale { // two that must move apart
			sent = append(slices.Clone(lines), at(3, "good three"))
		}
		b := e.batch(one(`{`, at(0, "x")), one(lone, sent...), one(`{service_name="other"}`, at(0, "fine")))
		defer b.Release()
		err := e.g.Push(context.Background(), b)
		var rej *push.Rejected
		if !errors.As(err, &rej) {
			t.Fatalf("%s: got %v", name, err)
		}
		if rej.Entries != 2+wantRefused || rej.Total != len(b.Entries) {
			t.Fatalf("%s: %+v", name, rej)
		}
		g := group(rej, push.TooFarBehind)
		if wantRefused == 0 {
			if g != nil {
				t.Fatalf("%s: a minority's refusal counts: %+v", name, g)
			}
		} else if g == nil || g.Count != 2 || g.Bytes != 16 || g.OldestOK != 77 || !strings.HasPrefix(g.First, "says ") || g.Stream != lone {
			t.Fatalf("%s: %+v", name, g)
		}
		for i := range b.Entries {
			text := string(b.Bytes(b.Entries[i].Line))
			want := push.OK
			switch {
			case text == "old":
				want = push.TooOld
			case strings.HasPrefix(text, "late") && wantRefused > 0:
				want = push.TooFarBehind
			}
			if got := b.Entries[i].Reject; got != want {
				t.Errorf("%s: %q is marked %s, want %s", name, text, got, want)
			}
		}
		e.drain()
		if n := e.value("discarded_entries_total", "too_far_behind"); n != float64(wantRefused) {
			t.Errorf("%s: %v counted", name, n)
		}
	}
	f("the only one refuses", 1, 1, 1, false, 2)
	f("one of several instances", 4, 1, 1, false, 2)
	f("one, after a change", 1, 1, 1, true, 2)
	f("one of three", 3, 3, 1, false, 0)
	f("two of three", 3, 3, 2, false, 2)
	f("all three", 3, 3, 3, false, 2)
	f("two of three, of seven", 7, 3, 2, false, 2)
	f("three of three, of seven, after a change", 7, 3, 3, true, 2)
}

// TestWholeStreamRefused: a replica may mark streams instead of entries.
func TestWholeStreamRefused(t *testing.T) {
	e := newEnv(t, 3, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	for id := range e.replicas {
		e.replicas[id].push = func(_ context.Context, b *push.Batch) error {
			s := &b.Streams[1]
			s.Reject = push.StreamLimit
			rej := &push.Rejected{Total: len(b.Entries)}
			rej.Add(push.StreamLimit, s.Labels, int(s.Count), 2, func() string { return "too many streams" })
			return rej
		}
	}
	err := e.push(one(`{service_name="a"}`, at(0, "x")), one(`{service_name="b"}`, at(0, "y"), at(1, "z")))
	e.wantRefusal(err, push.StreamLimit, 429, "too many streams")
	e.drain()
	for id := range e.replicas {
		e.wantStored(id, map[string][]string{`{service_name="a"}`: {fmt.Sprint(start.UnixNano(), " x")}})
	}
}

// TestAnswerAtQuorum: the answer does not wait for the slowest, which still
// gets everything, from memory that the caller does not own.
func TestAnswerAtQuorum(t *testing.T) {
	for _, n := range []int{3, 6} {
		e := newEnv(t, n, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
		hold := make(chan struct{})
		slow := e.set(lone, 3)[0]
		e.replicas[slow].push = func(context.Context, *push.Batch) error { <-hold; return nil }
		b := e.batch(one(lone, at(0, "text"), at(1, "more", "k", "v")), one(`{`, at(0, "refused")))
		var rej *push.Rejected
		if err := e.g.Push(context.Background(), b); !errors.As(err, &rej) || rej.Entries != 1 {
			t.Fatalf("got %v", err)
		}
		clear(b.Data)
		clear(b.Body)
		clear(b.Entries)
		b.Release()
		if e.replicas[slow].count() != 0 {
			t.Fatal("the slow one was waited for")
		}
		close(hold)
		if err := e.g.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		ns := start.UnixNano()
		e.wantStored(slow, map[string][]string{lone: {fmt.Sprint(ns, " text"), fmt.Sprint(ns+1, " more k=v")}})
	}
}

// TestBackgroundIsBounded: when too much is on its way already, the answer
// waits.
func TestBackgroundIsBounded(t *testing.T) { synctest.Test(t, testBackgroundIsBounded) }

func testBackgroundIsBounded(t *testing.T) {
	e := newEnv(t, 3, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor, cfg.MaxBackground = 3, 10 })
	hold := make(chan struct{})
	slow := e.set(lone, 3)[0]
	e.replicas[slow].push = func(context.Context, *push.Batch) error { <-hold; return nil }
	if err := e.push(one(lone, at(0, "12345678"))); err != nil {
		t.Fatal(err)
	}
	second := make(chan error)
	go func() { second <- e.push(one(lone, at(0, "12345678"))) }()
	synctest.Wait()
	select {
	case err := <-second:
		t.Fatalf("answered with more in the background than allowed: %v", err)
	default:
	}
	close(hold)
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	e.drain()
	if err := e.push(one(lone, at(0, "12345678"))); err != nil { // the bytes were given back
		t.Fatal(err)
	}
	e.drain()
	if !e.g.background.TryAcquire(10) {
		t.Fatal("background bytes leak")
	}
}

func TestSlowReplicaTimesOut(t *testing.T) { synctest.Test(t, testSlowReplicaTimesOut) }

func testSlowReplicaTimesOut(t *testing.T) {
	e := newEnv(t, 3, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	began := time.Now()
	for _, id := range e.set(lone, 3)[:2] {
		e.replicas[id].push = func(ctx context.Context, _ *push.Batch) error { <-ctx.Done(); return ctx.Err() }
	}
	err := e.push(one(lone, at(0, "x")))
	var pe *push.Error
	if !errors.As(err, &pe) || pe.Reason != push.NoQuorum || !strings.Contains(err.Error(), "deadline exceeded") {
		t.Fatalf("got %v", err)
	}
	if took := time.Since(began); took != 10*time.Second { // of the bubble's clock
		t.Fatalf("answered after %v", took)
	}
}

// TestSlowReplicasAreHedged: the next instances on the ring make the quorum
// that two of three keep everybody waiting for. What the slow ones say later
// does no harm.
func TestSlowReplicasAreHedged(t *testing.T) { synctest.Test(t, testSlowReplicasAreHedged) }

func testSlowReplicasAreHedged(t *testing.T) {
	e := newEnv(t, 6, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	hold := make(chan struct{})
	set := e.set(lone, 5)
	for _, id := range set[:2] {
		e.replicas[id].push = func(context.Context, *push.Batch) error { <-hold; return nil }
	}
	began := time.Now()
	if err := e.push(one(lone, at(0, "x"))); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took != time.Second { // of the bubble's clock
		t.Fatalf("answered after %v", took)
	}
	close(hold)
	e.drain()
	for i, id := range set {
		if n := e.replicas[id].count(); n != 1 && i < 4 || n != 0 && i == 4 {
			t.Errorf("instance %d has %d entries", i, n)
		}
	}
	// All of them slow: as many as there are.
	e.replicas[set[0]].push = nil
	for _, r := range e.replicas {
		r.push = func(ctx context.Context, _ *push.Batch) error { <-ctx.Done(); return ctx.Err() }
	}
	if err := e.push(one(lone, at(0, "y"))); err == nil {
		t.Fatal("stored")
	}
}

func TestClientGoesAway(t *testing.T) {
	e := newEnv(t, 3, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	hold, held := make(chan struct{}), make(chan struct{}, 3)
	for _, r := range e.replicas {
		r.push = func(ctx context.Context, _ *push.Batch) error { held <- struct{}{}; <-hold; return ctx.Err() }
	}
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan error)
	b := e.batch(one(lone, at(0, "x")))
	defer b.Release()
	go func() { got <- e.g.Push(ctx, b) }()
	for range 3 {
		<-held
	}
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	close(hold)
	e.drain()
	for id, r := range e.replicas { // replicas are not interrupted by it
		if r.count() != 1 {
			t.Errorf("%s has %d entries", id, r.count())
		}
	}
}

func TestPartIDs(t *testing.T) {
	e := newEnv(t, 7, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	send := func(id push.ID) map[string][]push.ID {
		t.Helper()
		b := e.batch(many(50)...)
		defer b.Release()
		b.ID = id
		if err := e.g.Push(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		e.drain()
		got := map[string][]push.ID{}
		for name, r := range e.replicas {
			got[name] = r.ids
			r.ids = nil
			slices.SortFunc(got[name], func(a, b push.ID) int { return slices.Compare(a[:], b[:]) })
		}
		return got
	}
	first := send(push.ID{1, 2, 3})
	again := send(push.ID{1, 2, 3})
	if fmt.Sprint(first) != fmt.Sprint(again) {
		t.Fatal("a repeated push has other ids")
	}
	for name, ids := range first {
		for i := range ids {
			if i > 0 && ids[i] == ids[i-1] {
				t.Fatalf("%s got two parts with one id", name)
			}
		}
	}
	for _, ids := range send(push.ID{}) {
		for _, id := range ids {
			if id != (push.ID{}) {
				t.Fatal("a push without id got one")
			}
		}
	}
	all := newEnv(t, 3, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	e = all
	for _, ids := range send(push.ID{9}) {
		if len(ids) != 1 || ids[0] != (push.ID{9}) {
			t.Fatalf("a push that was not divided has the ids %v", ids)
		}
	}
}

// TestPartsHaveNames: all replicas know a part by the same name, and no other by
// that one.
func TestPartsHaveNames(t *testing.T) {
	for _, rf := range []int{1, 3} {
		e := newEnv(t, 5, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = rf })
		for range 3 {
			if err := e.push(many(20)...); err != nil {
				t.Fatal(err)
			}
		}
		e.drain()
		bodies, copies := map[push.Part]string{}, map[push.Part]int{}
		for _, r := range e.replicas {
			for part, body := range r.parts {
				if rf == 1 {
					if part != (push.Part{}) {
						t.Fatalf("%v is the name of what has no other replica", part)
					}
					continue
				}
				if part == (push.Part{}) || bodies[part] != "" && bodies[part] != body {
					t.Fatalf("%v is the name of two parts", part)
				}
				bodies[part] = body
				copies[part]++
			}
		}
		for part, n := range copies {
			if n != rf {
				t.Fatalf("%d replicas know a part as %v", n, part)
			}
		}
		if rf > 1 && len(copies) < 3 {
			t.Fatalf("%d parts", len(copies))
		}
	}
}
