package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/ring"
)

// rememberIDs makes replicas do what ingesters do with ids: a push whose id is
// known from one that was stored as a whole is not stored again. before says what
// the replica refuses.
func (e *env) rememberIDs(before func(b *push.Batch) error) {
	for _, r := range e.replicas {
		var mu sync.Mutex
		known := map[push.ID]bool{}
		r.push = func(_ context.Context, b *push.Batch) error {
			mu.Lock()
			defer mu.Unlock()
			if b.ID != (push.ID{}) && known[b.ID] {
				return errKnown
			}
			if before != nil {
				if err := before(b); err != nil {
					return err
				}
			}
			known[b.ID] = true
			return nil
		}
	}
}

// errKnown keeps fakeReplica from storing; the gateway is told success.
var errKnown = errors.New("known")

// success turns errKnown into nil.
type success struct{ *fakeReplica }

func (r success) Push(ctx context.Context, b *push.Batch) error {
	if err := r.fakeReplica.Push(ctx, b); !errors.Is(err, errKnown) {
		return err
	}
	return nil
}

func TestAcceptedID(t *testing.T) {
	e := newEnv(t, 1, nil)
	b := e.batch(one(`{a="1"}`, at(0, "x"), at(1, "y")), one(`{a="2"}`, at(0, "z")), one(`{a="3"}`, at(0, "u"), at(0, "v")))
	defer b.Release()
	if id := acceptedID(b); id != (push.ID{}) {
		t.Fatalf("a push without id gets %x", id)
	}
	b.ID = push.ID{1}
	seen := map[push.ID]string{b.ID: "the client's"}
	for choice := range 1 << 5 {
		for i := range b.Entries {
			b.Entries[i].Reject = push.OK
			if choice>>i&1 != 0 {
				b.Entries[i].Reject = push.Reason(1 + (choice+i)%10)
			}
		}
		id := acceptedID(b)
		if was, ok := seen[id]; ok {
			t.Fatalf("%b has the id of %s", choice, was)
		}
		seen[id] = fmt.Sprintf("%b", choice)
	}
	// How it is marked does not matter.
	for i := range b.Entries {
		b.Entries[i].Reject = push.OK
	}
	b.Streams[0].Reject = push.InvalidLabels
	byStream := acceptedID(b)
	b.Streams[0].Reject = push.OK
	b.Entries[0].Reject, b.Entries[1].Reject = push.TooOld, push.StreamRateLimit
	if acceptedID(b) != byStream {
		t.Error("the marked stream and its marked entries have different ids")
	}
	b.ID = push.ID{2}
	if acceptedID(b) == byStream {
		t.Error("the id does not depend on the client's")
	}
}

// idEnv is an env whose replicas remember ids.
func idEnv(t *testing.T, n, rf int, change func(cfg *Config, l *limits.Limits)) *env {
	e := newEnv(t, n, func(cfg *Config, l *limits.Limits) {
		cfg.ReplicationFactor = rf
		if change != nil {
			change(cfg, l)
		}
	})
	e.rememberIDs(nil)
	e.g.d.Dial = func(in ring.Instance) (Replica, error) { return success{e.replicas[in.ID]}, nil }
	return e
}

// TestRefusedForNowIsNotLost: what a push could not store the first time is
// stored when it comes again under its id.
func TestRefusedForNowIsNotLost(t *testing.T) {
	for _, c := range []struct{ instances, rf int }{{1, 1}, {3, 3}, {7, 3}} {
		e := idEnv(t, c.instances, c.rf, func(_ *Config, l *limits.Limits) {
			l.PerStreamRateLimit, l.PerStreamRateLimitBurst = 10, 10
		})
		streams := []stream{
			one(`{service_name="slow"}`, at(0, "123456789")), one(`{service_name="slow"}`, at(1, "987654321")), one(`{service_name="other"}`, at(0, "x")),
		}
		send := func() error {
			b := e.batch(streams[0], streams[2])
			defer b.Release()
			b.ID = push.ID{7}
			err := e.g.Push(context.Background(), b)
			if b.ID != (push.ID{7}) {
				t.Errorf("the batch's id is %x now", b.ID)
			}
			return err
		}
		// Someone else has used up the stream's rate.
		if err := e.push(streams[1]); err != nil {
			t.Fatal(err)
		}
		var rej *push.Rejected
		if err := send(); !errors.As(err, &rej) || !rej.Retryable() || rej.Entries != 1 {
			t.Fatalf("got %v", err)
		}
		e.drain()
		if n := e.stored("123456789"); n != 0 {
			t.Fatalf("stored %d times although it was refused", n)
		}
		e.now.Add(int64(time.Minute))
		streams[0].lines[0].at = -time.Minute // the same push: its times are as they were
		streams[2].lines[0].at = -time.Minute
		for range 3 {
			if err := send(); err != nil {
				t.Fatal(err)
			}
			e.now.Add(int64(time.Minute))
			streams[0].lines[0].at -= time.Minute
			streams[2].lines[0].at -= time.Minute
		}
		e.drain()
		if n := e.stored("123456789"); n != c.rf {
			t.Errorf("%d instances: stored %d times, want %d", c.instances, n, c.rf)
		}
	}
}

// stored counts how often replicas have a line.
func (e *env) stored(text string) int {
	n := 0
	for _, r := range e.replicas {
		r.mu.Lock()
		for _, lines := range r.got {
			for _, l := range lines {
				if _, line, _ := strings.Cut(l, " "); line == text || strings.HasPrefix(line, text+" ") {
					n++
				}
			}
		}
		r.mu.Unlock()
	}
	return n
}

// TestRepetitionDoesNotMultiplyLetters: nor does it lose them.
func TestRepetitionDoesNotMultiplyLetters(t *testing.T) {
	for _, c := range []struct{ instances, rf int }{{1, 1}, {3, 3}, {7, 3}} {
		e := idEnv(t, c.instances, c.rf, nil)
		const old = -1000 * time.Hour
		send := func(id byte, lines ...line) {
			t.Helper()
			b := e.batch(one(lone, lines...))
			defer b.Release()
			if id != 0 {
				b.ID = push.ID{id}
			}
			b.Bury(push.Malformed, "broken", []byte("garbage"))
			var rej *push.Rejected
			if err := e.keep(b); !errors.As(err, &rej) {
				t.Fatalf("got %v", err)
			}
			e.drain()
		}
		want := func(good, refused, buried int) {
			t.Helper()
			if g, r, b := e.stored("good"), e.stored("old"), e.stored("garbage"); g != good*c.rf || r != refused*c.rf || b != buried*c.rf {
				t.Fatalf("%d instances: stored %d, %d and %d times, want %d, %d and %d times %d", c.instances, g, r, b, good, refused, buried, c.rf)
			}
		}
		send(1, at(0, "good"), at(old, "old"))
		send(1, at(0, "good"), at(old, "old"))
		want(1, 1, 1)
		// More of it is too old by now: the letters are others, with the same times.
		send(1, at(old, "good"), at(old, "old"))
		want(2, 2, 2)
		// Another push, and one without id.
		send(2, at(0, "good"), at(old, "old"))
		want(3, 3, 3)
		send(0, at(0, "good"), at(old, "old"))
		send(0, at(0, "good"), at(old, "old"))
		want(5, 5, 5)
	}
}

// TestLettersOfAPushWithIDHaveItsTime: so those of a repetition have the same
// times even where their id is not known any more.
func TestLettersOfAPushWithIDHaveItsTime(t *testing.T) {
	e := newEnv(t, 1, nil)
	send := func(id push.ID, newest time.Duration) []string {
		t.Helper()
		e.replicas["a"].got = nil
		b := e.batch(one(lone, at(newest, "x"), at(-1000*time.Hour, "old"), at(newest-1, "y")))
		defer b.Release()
		b.ID = id
		var rej *push.Rejected
		if err := e.keep(b); !errors.As(err, &rej) {
			t.Fatalf("got %v", err)
		}
		return e.dead("a", push.TooOld)
	}
	first := send(push.ID{1, 1}, 0)
	e.now.Add(int64(3 * time.Minute))
	again := send(push.ID{1, 1}, -3*time.Minute)
	if ts := fmt.Sprint(start.UnixNano() + 257); len(first) != 1 || !strings.HasPrefix(first[0], ts+" ") {
		t.Errorf("%q does not begin with %s", first, ts)
	}
	stamp := func(l []string) string { s, _, _ := strings.Cut(l[0], " "); return s }
	if stamp(first) != stamp(again) {
		t.Errorf("%s, then %s", stamp(first), stamp(again))
	}
	if other := send(push.ID{2, 1}, -3*time.Minute); stamp(other) == stamp(again) {
		t.Error("another push's letters have the same time")
	}
	for _, c := range []struct {
		id     push.ID
		newest time.Duration
		before int64 // letters
	}{{push.ID{}, 0, 0}, {push.ID{3}, -time.Hour, 0}, {push.ID{3}, time.Hour, 1}} {
		if got := send(c.id, c.newest); stamp(got) != fmt.Sprint(e.now.Load()+c.before) {
			t.Errorf("%x, %v: %s, want now", c.id, c.newest, stamp(got))
		}
	}
}

// TestIngesterRefusesOfAPushWithID: an ingester does not remember a push that it
// refused a part of; the letters of that part are stored once all the same.
func TestIngesterRefusesOfAPushWithID(t *testing.T) {
	e := idEnv(t, 1, 1, nil)
	e.rememberIDs(func(b *push.Batch) error { return late(context.Background(), b) })
	for range 3 {
		b := e.batch(one(lone, at(0, "good"), at(0, "late")))
		b.ID = push.ID{4}
		var rej *push.Rejected
		if err := e.keep(b); !errors.As(err, &rej) || rej.Entries != 1 {
			t.Fatalf("got %v", err)
		}
		b.Release()
	}
	if n := e.stored("late"); n != 1 {
		t.Errorf("%d letters", n)
	}
	ids := slices.Clone(e.replicas["a"].ids)
	slices.SortFunc(ids, func(a, b push.ID) int { return slices.Compare(a[:], b[:]) })
	if ids = slices.Compact(ids); len(ids) != 2 {
		t.Errorf("ids %x", ids)
	}
}
