// Package ringtest has the test that every ring.Membership has to pass.
package ringtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/ring"
)

const patience = time.Minute

// Await returns the first ring of m for which ok holds.
func Await(t testing.TB, m ring.Membership, what string, ok func(*ring.Ring) bool) *ring.Ring {
	t.Helper()
	limit := time.After(patience)
	for {
		r, changed := m.Watch()
		if ok(r) {
			return r
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("waiting for %s: the ring is %v, status %+v", what, r.Instances(), m.Status())
		}
	}
}

// Has reports whether r has exactly these members.
func Has(list ...ring.Instance) func(*ring.Ring) bool {
	want := ring.New(list)
	return func(r *ring.Ring) bool {
		if len(r.Instances()) != len(want.Instances()) {
			return false
		}
		for i, in := range want.Instances() {
			if r.Instances()[i] != in {
				return false
			}
		}
		return true
	}
}

// Acceptance tests memberships without members. Two that newMembership returns
// are of one store and one owner.
func Acceptance(t *testing.T, newMembership func(t *testing.T) (writer, reader ring.Membership)) {
	want := func(t *testing.T, err, target error) {
		t.Helper()
		if !errors.Is(err, target) {
			t.Fatalf("got %v, want %v", err, target)
		}
	}
	t.Run("life", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		w, r := newMembership(t)
		first, _ := r.Watch()
		if len(first.Instances()) != 0 {
			t.Fatalf("a new membership has %v", first.Instances())
		}
		in := ring.Instance{ID: "a", Addr: "10.0.0.1:9095", Zone: "z1", State: ring.Joining, Generation: 5}
		want(t, w.Update(ctx, in), ring.ErrNotRegistered)
		for _, s := range []ring.State{ring.Joining, ring.Active, ring.Leaving} {
			in.State = s
			if s == ring.Joining {
				want(t, w.Register(ctx, in), nil)
			} else {
				want(t, w.Update(ctx, in), nil)
			}
			Await(t, r, s.String(), Has(in))
			st := r.Status()
			if len(st.Members) != 1 || st.Members[0].Instance != in || st.Stale || st.Contact.IsZero() ||
				st.Members[0].Started.IsZero() || st.Members[0].Seen.IsZero() {
				t.Fatalf("status %+v", st)
			}
		}
		if len(first.Instances()) != 0 {
			t.Fatal("a ring that was handed out changed")
		}
		want(t, w.Deregister(ctx, in), nil)
		Await(t, r, "nobody", Has())
		want(t, w.Deregister(ctx, in), nil)
		want(t, w.Update(ctx, in), ring.ErrNotRegistered)
	})
	t.Run("generations", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		w, r := newMembership(t)
		old, now := ring.Instance{ID: "a", Generation: 1}, ring.Instance{ID: "a", State: ring.Active, Generation: 2}
		want(t, w.Register(ctx, old), nil)
		want(t, w.Register(ctx, old), nil)
		want(t, w.Update(ctx, now), ring.ErrNotRegistered)
		want(t, w.Register(ctx, now), nil)
		want(t, w.Register(ctx, old), ring.ErrSuperseded)
		want(t, w.Update(ctx, old), ring.ErrSuperseded)
		want(t, w.Deregister(ctx, old), nil) // a late farewell of the past
		Await(t, r, "the new generation", Has(now))
		want(t, w.Deregister(ctx, now), nil)
		Await(t, r, "nobody", Has())
	})
	t.Run("concurrent", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		w, r := newMembership(t)
		const n = 20
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				in := ring.Instance{ID: fmt.Sprint("i", i), Generation: 1}
				if err := w.Register(ctx, in); err != nil {
					t.Error(err)
				}
				in.State = ring.Active
				if err := w.Update(ctx, in); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		Await(t, r, "all", func(r *ring.Ring) bool { return r.ActiveCount() == n })
	})
}
