package ring

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// layout returns n members in zones of uneven sizes.
func layout(rnd *rand.Rand, n, zones int, states ...State) []Instance {
	list := members(n, names["statefulset"])
	for i := range list {
		if zones > 1 {
			list[i].Zone = fmt.Sprint("zone-", min(rnd.IntN(zones), rnd.IntN(zones)))
		}
		list[i].State = states[rnd.IntN(len(states))]
		list[i].Generation = int64(i)
	}
	return list
}

// TestReplicaSets looks at rings of every size from 3 to 200, with zones of any
// size and instances in every state.
func TestReplicaSets(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 200))
	for n := 3; n <= 200; n++ {
		list := layout(rnd, n, 1+n%6, Active, Active, Active, Joining, Leaving)
		r := New(list)
		rnd.Shuffle(n, func(i, j int) { list[i], list[j] = list[j], list[i] })
		again := New(list)
		size := map[string]int{}
		for _, in := range r.Instances() {
			if in.State == Active {
				size[in.Zone]++
			}
		}
		var a, b [MaxReplicas]int
		for range 40 {
			tok := rnd.Uint32()
			for rf := 1; rf <= 5; rf++ {
				set := r.Replicas(tok, rf, a[:0])
				if len(set) != min(rf, r.ActiveCount()) {
					t.Fatalf("n=%d, rf=%d: %d replicas of %d ACTIVE instances", n, rf, len(set), r.ActiveCount())
				}
				if !slices.Equal(set, again.Replicas(tok, rf, b[:0])) {
					t.Fatalf("n=%d, rf=%d: the set depends on the order of the list", n, rf)
				}
				per := map[string]int{}
				for k, i := range set {
					in := r.Instances()[i]
					if in.State != Active || slices.Contains(set[:k], i) {
						t.Fatalf("n=%d, rf=%d: %v has %+v, or it twice", n, rf, set, in)
					}
					per[in.Zone]++
				}
				for zone := range size {
					for other := range size {
						if per[other] > per[zone]+1 && per[zone] < size[zone] {
							t.Fatalf("n=%d, rf=%d: %d replicas in %s, %d in %s, which has %d instances", n, rf, per[other], other, per[zone], zone, size[zone])
						}
					}
				}
			}
		}
	}
}

// TestReadersAgainstSets compares Enough with the replica sets themselves: it
// must never say so when some set has lost more than a quorum can miss, and
// must say so when the missing are few, or of few zones.
func TestReadersAgainstSets(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 5))
	saidYes, saidNo := 0, 0
	for round := range 250 {
		n, rf := 3+rnd.IntN(20), 1+round%5
		r := New(layout(rnd, n, 1+rnd.IntN(6), Active))
		var missing []int
		bad := fmt.Sprint("zone-", rnd.IntN(3))
		for i, in := range r.Instances() {
			if in.Zone == bad && rnd.IntN(3) > 0 || rnd.IntN(8) == 0 {
				missing = append(missing, i)
			}
		}
		worst := 0
		var dst [MaxReplicas]int
		for _, tok := range tokens(2000) {
			lost := 0
			for _, i := range r.Replicas(tok, rf, dst[:0]) {
				if slices.Contains(missing, i) {
					lost++
				}
			}
			worst = max(worst, lost)
		}
		got := r.Readers(rf).Enough(missing)
		if got && worst > rf/2 {
			t.Fatalf("n=%d, rf=%d, missing %v: complete, though a set has lost %d", n, rf, missing, worst)
		}
		if got {
			saidYes++
		} else {
			saidNo++
		}
	}
	if saidYes < 50 || saidNo < 50 {
		t.Fatalf("%d complete, %d not: the test does not see both", saidYes, saidNo)
	}
}

func TestReaders(t *testing.T) {
	f := func(zones []string, rf int, missing []int, want bool) {
		t.Helper()
		list := members(len(zones), names["letter"])
		for i := range list {
			list[i].Zone = zones[i]
		}
		if got := New(list).Readers(rf).Enough(missing); got != want {
			t.Errorf("zones %v, rf %d, missing %v: %v", zones, rf, missing, got)
		}
	}
	none := []string{"", "", "", "", "", ""}
	three := []string{"a", "a", "b", "b", "c", "c"}
	f(none, 1, nil, true)
	f(none, 1, []int{2}, false)
	f(none, 2, []int{2}, true)
	f(none, 3, []int{2}, true)
	f(none, 3, []int{2, 3}, false)
	f(none, 5, []int{2, 3}, true)
	f(three, 3, []int{0, 1}, true) // a whole zone
	f(three, 3, []int{0, 2}, false)
	f(three, 1, []int{0}, false)
	f(three, 5, []int{0, 1}, true) // sets have two of a zone
	f(three, 5, []int{0, 1, 2}, false)
	f([]string{"a", "b"}, 3, []int{0}, true)

	// When it was written others may have been ACTIVE.
	few := members(3, names["letter"])
	few[0].State, few[2].State = Joining, Leaving
	if New(few).Readers(3).Enough([]int{1, 2}) {
		t.Error("complete without two of three that had it")
	}

	// JOINING and LEAVING ones count, too.
	list := members(4, names["letter"])
	list[0].State, list[1].State = Joining, Leaving
	if r := New(list).Readers(3); !r.Enough([]int{0}) || r.Enough([]int{0, 1}) {
		t.Error("members that are not ACTIVE may be ignored")
	}
	for i := range list {
		list[i].State = Joining
	}
	if r := New(list).Readers(3); !r.Enough([]int{0}) || r.Enough([]int{0, 1}) {
		t.Error("a ring without ACTIVE members answers for all")
	}
	if !New(nil).Readers(3).Enough(nil) {
		t.Error("nobody is missing in an empty ring")
	}
}
