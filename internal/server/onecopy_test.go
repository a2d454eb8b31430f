package server

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loki-go/loki-go/ring"
)

// TestPlace: who stores, and who is told.
func TestPlace(t *testing.T) {
	states := map[string]ring.State{}
	var current *ring.Ring
	set := func(change map[string]ring.State, gone ...string) {
		for id, s := range change {
			states[id] = s
		}
		for _, id := range gone {
			delete(states, id)
		}
		var all []ring.Instance
		for id, s := range states {
			all = append(all, ring.Instance{ID: id, State: s})
		}
		current = ring.New(all)
	}
	const token = 12345
	ps := map[string]*peers{}
	ids := []string{"a", "b", "c", "d", "e"}
	for _, id := range ids {
		ps[id] = newPeers(3, id)
		if rank, others := ps[id].Place(token); rank != 3 || others != nil {
			t.Fatal("a replica has a place without a ring")
		}
		ps[id].meet(func() *ring.Ring { return current }, nil)
	}
	set(map[string]ring.State{"a": ring.Active, "b": ring.Active, "c": ring.Active, "d": ring.Active, "e": ring.Active})
	var walk []string
	for _, k := range current.Replicas(token, 5, nil) {
		walk = append(walk, current.Instances()[k].ID)
	}
	want := func(when, id string, rank int, others ...string) {
		t.Helper()
		r, o := ps[id].Place(token)
		if r != rank || !slices.Equal(o, others) {
			t.Errorf("%s: %s has rank %d and %v, want %d and %v", when, id, r, o, rank, others)
		}
	}
	want("all are there", walk[0], 0, walk[1:5]...)
	want("all are there", walk[2], 2, walk[0], walk[1], walk[3], walk[4])
	want("all are there", walk[4], 4, walk[:4]...)
	set(map[string]ring.State{walk[0]: ring.Leaving})
	want("the first is leaving", walk[1], 1, walk[0], walk[2], walk[3], walk[4])
	set(map[string]ring.State{walk[0]: ring.Joining})
	want("the first is joining", walk[1], 0, walk[2], walk[3], walk[0], walk[4])
	want("the first is joining", walk[0], 4, walk[1:5]...)
	set(nil, walk[0])
	want("the first is gone", walk[1], 0, walk[2], walk[3], walk[0], walk[4])
	set(map[string]ring.State{walk[0]: ring.Active})
	want("the first is back", walk[1], 1, walk[0], walk[2], walk[3], walk[4])
	if _, err := ps["a"].peer("x"); err == nil {
		t.Error("there is no instance x")
	}
}

// TestGoneInstanceIsToldForAWhile: an instance that leaves a ring in which nothing
// had changed for a day may be back within the hour.
func TestGoneInstanceIsToldForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := func(ids ...string) *ring.Ring {
			var all []ring.Instance
			for _, id := range ids {
				all = append(all, ring.Instance{ID: id, State: ring.Active})
			}
			return ring.New(all)
		}
		current := of("a", "b", "c")
		p := newPeers(3, "a")
		p.meet(func() *ring.Ring { return current }, nil)
		told := func(when string, want bool) {
			t.Helper()
			if _, others := p.Place(1); slices.Contains(others, "b") != want {
				t.Errorf("%s: told are %v", when, others)
			}
		}
		told("at first", true)
		time.Sleep(24 * time.Hour)
		current = of("a", "c")
		told("just gone", true)
		time.Sleep(remembered - time.Minute)
		current = of("a", "c", "d")
		told("gone for less than an hour", true)
		time.Sleep(2 * time.Minute)
		current = of("a", "c")
		told("gone for more than an hour", false)
	})
}
