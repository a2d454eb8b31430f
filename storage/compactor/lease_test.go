package compactor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loki-go/loki-go/storage/objstore"
)

// newLease returns a lease of an owner over b, in the time of the test.
func newLease(b objstore.Bucket, owner string) *lease {
	return &lease{bucket: b, owner: owner, ttl: time.Minute, now: time.Now, sleep: sleep}
}

func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, time.Now())
		a, b := newLease(w.bucket, "a"), newLease(w.bucket, "b")
		ctx := t.Context()
		f := func(what string, err error, ok bool) {
			t.Helper()
			if (err == nil) != ok || err != nil && !errors.Is(err, ErrLeased) {
				t.Fatalf("%s: %v", what, err)
			}
		}
		f("nobody has it", a.check(ctx), false)
		f("a takes it", a.acquire(ctx), true)
		f("b tries", b.acquire(ctx), false)
		f("a has it", a.check(ctx), true)
		f("b has it not", b.check(ctx), false)
		f("b cannot renew it", b.renew(ctx), false)
		f("b lets go of what it has not", b.release(ctx), true)
		time.Sleep(40 * time.Second)
		f("a renews it", a.acquire(ctx), true)
		time.Sleep(40 * time.Second)
		f("b tries again", b.acquire(ctx), false)
		time.Sleep(21 * time.Second)
		f("a was away for too long", a.check(ctx), false)
		f("b takes it over", b.acquire(ctx), true)
		f("a cannot renew it", a.renew(ctx), false)
		f("b lets go", b.release(ctx), true)
		f("a takes it at once", a.acquire(ctx), true)
	})
}

// TestClock: who has a clock that is wrong, by that of the store, leaves
// everything as it is.
func TestClock(t *testing.T) {
	w := newWorld(t, time.Now())
	for n := range 3 {
		w.index("a", w.chunk("a", `{app="x"}`, w.now.Add(-time.Duration(n+1)*time.Minute)))
	}
	b := &datedBucket{Bucket: w.bucket}
	f := func(ahead time.Duration, known, ok bool) {
		t.Helper()
		c := w.compactor(b)
		c.lease = newLease(b, "a")
		c.lease.now = w.clock
		if b.at = (time.Time{}); known {
			b.at = w.clock().Add(-ahead)
		}
		before := w.keys("")
		err := c.RunOnce(t.Context())
		switch {
		case ok && err != nil:
			t.Fatalf("%s ahead: %v", ahead, err)
		case !ok && (err == nil || !strings.Contains(err.Error(), "differ by")):
			t.Fatalf("%s ahead: %v", ahead, err)
		case !ok && fmt.Sprint(w.keys("")) != fmt.Sprint(before):
			t.Fatalf("%s ahead: %q, was %q", ahead, w.keys(""), before)
		}
	}
	f(24*time.Hour, true, false)
	f(-24*time.Hour, true, false)
	f(16*time.Minute, true, false)
	f(10*time.Minute, true, true)
	if got := w.keys(""); len(got) == 0 {
		t.Error("nothing is left")
	}
	f(365*24*time.Hour, false, true) // the store does not say
}

// TestLeaseTogether has many that find the lease free at the same time: one
// gets it.
func TestLeaseTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, time.Now())
		const n = 10
		results := make(chan error, n)
		for i := range n {
			go func() { results <- newLease(w.bucket, fmt.Sprint(i)).acquire(t.Context()) }()
		}
		owners := 0
		for range n {
			switch err := <-results; {
			case err == nil:
				owners++
			case !errors.Is(err, ErrLeased):
				t.Fatal(err)
			}
		}
		if owners != 1 {
			t.Fatalf("%d have the lease", owners)
		}
	})
}

// TestHold renews while something runs, and ends it when the lease is lost.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, time.Now())
		a, b := newLease(w.bucket, "a"), newLease(w.bucket, "b")
		if err := a.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := a.hold(t.Context(), func(ctx context.Context) error {
			if err := sleep(ctx, time.Hour); err != nil {
				return err
			}
			return a.check(ctx)
		})
		if err != nil {
			t.Fatalf("an hour: %v", err)
		}
		err = a.hold(t.Context(), func(ctx context.Context) error {
			if err := b.write(ctx); err != nil {
				return err
			}
			return sleep(ctx, time.Hour)
		})
		if !errors.Is(err, ErrLeased) || !strings.Contains(err.Error(), `"b"`) {
			t.Fatalf("another took it: %v", err)
		}
		// The store is away for longer than the lease is good for.
		if err := a.write(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.bucket = &crashing{Bucket: w.bucket}
		start := time.Now()
		err = a.hold(t.Context(), func(ctx context.Context) error { return sleep(ctx, time.Hour) })
		if !errors.Is(err, errCrash) || time.Since(start) > 2*time.Minute {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
		boom := errors.New("boom")
		if err := a.hold(t.Context(), func(context.Context) error { return boom }); err != boom {
			t.Fatal(err)
		}
	})
}

// TestLostLease: a run whose lease is taken deletes nothing more.
func TestLostLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := fill(t)
		offset := time.Until(w.clock())
		now := func() time.Time { return time.Now().Add(offset) }
		b := &hooked{Bucket: w.bucket}
		c := New(testConfig(), Options{Bucket: b, Retention: w, Now: now, Owner: "a"})
		if err := c.RunOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		other := newLease(w.bucket, "b")
		other.now = now
		b.after = func(op, key string) {
			if op == "get" && strings.Contains(key, "-compactor-") {
				if err := other.write(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
		n := len(w.keys(""))
		err := c.RunOnce(t.Context())
		if !errors.Is(err, ErrLeased) {
			t.Fatal(err)
		}
		if left := len(w.keys("")); left != n+1 { // the lease
			t.Fatalf("%d objects, had %d", left, n)
		}
		if err := c.RunOnce(t.Context()); !errors.Is(err, ErrLeased) {
			t.Fatal(err)
		}
	})
}

func TestDecodeLease(t *testing.T) {
	good := `{"version":1,"owner":"a","renewed":5,"ttl":60000}`
	if r, err := decodeLease([]byte(good)); err != nil || r != (leaseRecord{1, "a", 5, 60000}) {
		t.Fatalf("%v, %v", r, err)
	}
	for _, bad := range []string{
		"", "{", "null", `{"version":2,"owner":"a","ttl":1}`, `{"version":1,"owner":"","ttl":1}`, `{"version":1,"owner":"a"}`,
		`{"version":1,"owner":"a","ttl":-1}`, `{"version":1,"owner":"a","ttl":9000000000000000000}`,
		`{"version":1,"owner":"` + strings.Repeat("x", 300) + `","ttl":1}`, good + strings.Repeat(" ", maxLeaseSize),
	} {
		if r, err := decodeLease([]byte(bad)); err == nil {
			t.Fatalf("%.100s is accepted: %v", bad, r)
		}
	}
	at := time.UnixMilli(5)
	for d, want := range map[time.Duration]bool{0: false, time.Minute: false, time.Minute + 1: true, -time.Minute: false, -time.Minute - 1: true} {
		if got := (leaseRecord{1, "a", 5, 60000}).expired(at.Add(d)); got != want {
			t.Fatalf("%v later: expired: %v", d, got)
		}
	}
	// One that cannot be read is nobody's to take.
	w := newWorld(t, time.Now())
	if err := w.bucket.Put(t.Context(), leaseKey, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := newLease(w.bucket, "a").acquire(t.Context()); err == nil || errors.Is(err, ErrLeased) || !strings.Contains(err.Error(), leaseKey) {
		t.Fatal(err)
	}
}

func FuzzLease(f *testing.F) {
	f.Add([]byte(`{"version":1,"owner":"a","renewed":1728864000000,"ttl":120000}`))
	f.Add([]byte(`{"version":1,"owner":"\u0000","renewed":-9223372036854775808,"ttl":1}`))
	f.Add([]byte(`[1]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeLease(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := decodeLease(again); err != nil || s != r {
			t.Fatalf("%s is %v: %v", again, s, err)
		}
		// Whatever it says, in a day nobody waits for it who has the time.
		if r.Renewed > 0 && r.Renewed < 1<<42 && !r.expired(time.UnixMilli(r.Renewed).Add(maxTTL+1)) {
			t.Fatalf("%s lasts for longer than %v", b, maxTTL)
		}
	})
}
