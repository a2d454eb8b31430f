package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// countingVerifier accepts one password and counts comparisons.
func countingVerifier(right string) (*verifier, *atomic.Int64) {
	v, n := newVerifier(), new(atomic.Int64)
	v.compare = func(_, password []byte) error {
		n.Add(1)
		if string(password) != right {
			return errors.New("wrong")
		}
		return nil
	}
	return v, n
}

func TestVerifiedPasswordsAreRemembered(t *testing.T) {
	v, n := countingVerifier("right")
	u := &user{hash: []byte("h1")}
	f := func(u *user, name, password string, want bool, compared int64) {
		t.Helper()
		before := n.Load()
		if ok, err := v.verify(t.Context(), u, name, password); err != nil || ok != want {
			t.Errorf("%s, %s: %v, %v", name, password, ok, err)
		}
		if got := n.Load() - before; got != compared {
			t.Errorf("%s, %s: %d comparisons, want %d", name, password, got, compared)
		}
	}
	f(u, "a", "right", true, 1)
	f(u, "a", "right", true, 0)
	f(u, "a", "wrong", false, 1)
	f(u, "a", "wrong", false, 0)
	f(&user{hash: []byte("h2")}, "a", "right", true, 1) // changed
	f(u, "b", "right", true, 1)
	// A flood of wrong ones is bounded, and leaves the right ones.
	for i := range 3 * maxWrong {
		f(u, "a", fmt.Sprint(i), false, 1)
	}
	if v.wrong.Size() > maxWrong+1 {
		t.Errorf("%d are remembered", v.wrong.Size())
	}
	f(u, "a", "right", true, 0)
	f(u, "a", "wrong", false, 1)
}

func TestUnknownUsersAreComparedToo(t *testing.T) {
	v, n := countingVerifier("right")
	d, err := parse([]byte("users: [{name: shop, password-hash: "+shopHash+", tenants: [shop]}]"), readTest)
	if err != nil {
		t.Fatal(err)
	}
	// Even where the password is that of the one who stands in.
	for _, c := range []credentials{{name: "nobody", password: "right", isUser: true}, {name: "nobody", password: "x", isUser: true}} {
		before := n.Load()
		if id, err := d.identify(t.Context(), v, c); err != nil || id != nil {
			t.Errorf("%+v: %+v, %v", c, id, err)
		}
		if n.Load() != before+1 {
			t.Errorf("%+v: %d comparisons", c, n.Load()-before)
		}
	}
}

func TestComparisonsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		slots := cap(v.slots)
		hold := make(chan struct{})
		var running, most atomic.Int64
		v.compare = func(_, _ []byte) error {
			most.Store(max(most.Load(), running.Add(1)))
			<-hold
			running.Add(-1)
			return nil
		}
		var wg sync.WaitGroup
		var served, busy atomic.Int64
		for i := range slots + 5 {
			wg.Go(func() {
				ok, err := v.verify(t.Context(), &user{hash: []byte("h")}, "a", fmt.Sprint(i))
				switch {
				case err == nil && ok:
					served.Add(1)
				case errors.Is(err, errBusy):
					busy.Add(1)
				default:
					t.Error(ok, err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := v.verify(ctx, &user{hash: []byte("h")}, "a", "gone"); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		time.Sleep(slotWait)
		synctest.Wait()
		close(hold)
		wg.Wait()
		if most.Load() != int64(slots) || served.Load() != int64(slots) || busy.Load() != 5 {
			t.Errorf("%d at a time, %d served, %d refused", most.Load(), served.Load(), busy.Load())
		}
	})
}

func TestOneComparisonForManyAtOnce(t *testing.T) {
	v, n := countingVerifier("right")
	v.slots = make(chan struct{}, 1)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if ok, err := v.verify(t.Context(), &user{hash: []byte("h")}, "a", "right"); !ok || err != nil {
				t.Error(ok, err)
			}
		})
	}
	wg.Wait()
	if n.Load() != 1 {
		t.Errorf("%d comparisons", n.Load())
	}
}

func TestBusyIs503(t *testing.T) {
	e := newEnv(t, users, nil)
	e.a.verifier.wait = 0
	for range cap(e.a.verifier.slots) {
		e.a.verifier.slots <- struct{}{}
	}
	e.want(basic("shop", "correct horse"), "", 503, "")
	e.want(basic("ops", "secret"), "", 200, "ops") // no bcrypt
}
