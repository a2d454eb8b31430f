package ring

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/loki-go/loki-go/internal/labels"
)

// names are the ways in which instances get their ids; placement must not
// depend on it.
var names = map[string]func(i int) string{
	"statefulset": func(i int) string { return fmt.Sprintf("ingester-%d", i) },
	"address":     func(i int) string { return fmt.Sprintf("10.0.%d.%d:9095", i/250, i%250) },
	"letter":      func(i int) string { return string(rune('a' + i)) },
	"random": func(i int) string {
		return fmt.Sprintf("%016x", rand.New(rand.NewPCG(uint64(i), 7)).Uint64())
	},
}

func members(n int, name func(int) string) []Instance {
	list := make([]Instance, n)
	for i := range list {
		list[i] = Instance{ID: name(i), State: Active}
	}
	return list
}

// tokens returns evenly spaced tokens, which measure how the token space is
// divided without the noise of sampling at random.
func tokens(n int) []uint32 {
	out := make([]uint32, n)
	for i := range out {
		out[i] = uint32(uint64(i) << 32 / uint64(n))
	}
	return out
}

// load counts, for each instance, the tokens that have it among their first rf.
func load(r *Ring, toks []uint32, rf int) []int {
	count := make([]int, len(r.Instances()))
	var dst [MaxReplicas]int
	for _, tok := range toks {
		for _, i := range r.Replicas(tok, rf, dst[:0]) {
			count[i]++
		}
	}
	return count
}

// sizes samples 3..200.
var sizes = []int{3, 4, 5, 7, 11, 20, 40, 90, 200}

// walks counts, for each instance of a ring without zones, the tokens that it
// is the first for, and those that it is among the first three for. It is
// Replicas without the race detector's eyes on every step: its arrays are on
// the stack, and it knows no zones. TestOwnership compares the two.
func walks(r *Ring, toks []uint32, check func(i int, set [3]int)) (first, all []int) {
	const most = 200
	n := len(r.Instances())
	var seeds [most]uint64
	for i, in := range r.Instances() {
		seeds[i] = xxhash.Sum64String(in.ID)
	}
	var firsts, alls [most]int
	for k, tok := range toks {
		key := spread(tok)
		var best [3]uint64
		var set [3]int
		for i := 0; i < n; i++ {
			s := score(key, seeds[i])
			if s <= best[2] && i > 2 {
				continue
			}
			at := 2
			for ; at > 0 && (s > best[at-1] || i < at); at-- {
				best[at], set[at] = best[at-1], set[at-1]
			}
			best[at], set[at] = s, i
		}
		firsts[set[0]]++
		for _, i := range set {
			alls[i]++
		}
		if k%100 == 0 {
			check(k, set)
		}
	}
	return slices.Clone(firsts[:n]), slices.Clone(alls[:n])
}

func TestOwnership(t *testing.T) {
	// The number of tokens keeps the counting noise (its root) far below the
	// limit.
	f := func(kind string, n, perInstance int, limit float64) {
		t.Helper()
		r := New(members(n, names[kind]))
		toks := tokens(n * perInstance)
		var dst [MaxReplicas]int
		first, all := walks(r, toks, func(k int, set [3]int) {
			if got := r.Replicas(toks[k], 3, dst[:0]); !slices.Equal(got, set[:]) {
				t.Fatalf("%s, n=%d, token %d: the walk is %v, the highest scores have %v", kind, n, toks[k], got, set)
			}
		})
		for rf, counts := range map[int][]int{1: first, 3: all} {
			mean := float64(perInstance * rf)
			most, least := float64(slices.Max(counts))/mean, float64(slices.Min(counts))/mean
			if most > 1+limit || least < 1-limit {
				t.Errorf("%s, n=%d, rf=%d: the busiest has %.4f of the mean, the idlest %.4f", kind, n, rf, most, least)
			}
			t.Logf("%s, n=%d, rf=%d: busiest %.4f, idlest %.4f", kind, n, rf, most, least)
		}
	}
	for _, n := range append([]int{60, 130, 170}, sizes...) {
		f("statefulset", n, 6_000, 0.05)
	}
	for kind := range names {
		f(kind, 3, 200_000, 0.01)
		f(kind, 20, 8_000, 0.05)
	}
	f("address", 60, 8_000, 0.05)
}

// TestOwnershipOfStreams measures with the tokens of label sets instead of
// even ones.
func TestOwnershipOfStreams(t *testing.T) {
	const n, streams = 7, 100_000
	r := New(members(n, names["statefulset"]))
	toks := make([]uint32, streams)
	for i := range toks {
		toks[i] = labels.Token("fake", fmt.Sprintf(`{app="a%d", pod="p%d"}`, i%50, i))
	}
	for _, rf := range []int{1, 3} {
		mean := float64(streams) * float64(rf) / n
		for i, c := range load(r, toks, rf) {
			if dev := float64(c)/mean - 1; dev > 0.05 || dev < -0.05 {
				t.Errorf("rf=%d: instance %d has %+.2f %% of the mean", rf, i, 100*dev)
			}
		}
	}
}

func TestMovement(t *testing.T) {
	f := func(kind string, n, rf, perInstance int) {
		t.Helper()
		list := members(n+1, names[kind])
		before, after := New(list[:n]), New(list)
		newcomer := after.Find(list[n].ID)
		toks := tokens((n + 1) * perInstance)
		moved := 0
		var a, b [MaxReplicas]int
		for _, tok := range toks {
			was, is := before.Replicas(tok, rf, a[:0]), after.Replicas(tok, rf, b[:0])
			if !slices.Contains(is, newcomer) {
				for i := range is {
					if before.Instances()[was[i]].ID != after.Instances()[is[i]].ID {
						t.Fatalf("%s, n=%d: token %d moved between old instances", kind, n, tok)
					}
				}
				continue
			}
			moved++
			// Whoever is left of the old set keeps its place in the order.
			k := 0
			for _, i := range is {
				if i == newcomer {
					continue
				}
				if before.Instances()[was[k]].ID != after.Instances()[i].ID {
					t.Fatalf("%s, n=%d: token %d: the others changed order", kind, n, tok)
				}
				k++
			}
		}
		share := float64(moved) / float64(len(toks)*rf)
		if limit := 1.2 / float64(n+1); share > limit || share < 0.8/float64(n+1) {
			t.Errorf("%s, n=%d, rf=%d: %.5f of the keys moved, limit %.5f", kind, n, rf, share, limit)
		}
	}
	for _, n := range sizes {
		f("statefulset", n, 3, 400) // 1200 keys of the newcomer are 3 % of noise
	}
	for kind := range names {
		f(kind, 3, 1, 10_000)
		f(kind, 30, 1, 3_000)
	}
	f("statefulset", 199, 1, 400)
}

// TestLeavingSpreads checks that what a lost instance held goes to all others
// evenly, and that this is what the walk announced.
func TestLeavingSpreads(t *testing.T) {
	const n = 12
	list := members(n, names["statefulset"])
	all := New(list)
	for _, gone := range []State{Joining, Leaving} {
		list[5].State = gone
		rest := New(list)
		lost := rest.Find(list[5].ID)
		heirs := make([]int, n)
		total := 0
		var a, b [MaxReplicas]int
		for _, tok := range tokens(150_000) {
			walk, now := all.Replicas(tok, 4, a[:0]), rest.Replicas(tok, 3, b[:0])
			want := slices.DeleteFunc(slices.Clone(walk), func(i int) bool { return i == lost })[:3]
			if !slices.Equal(now, want) {
				t.Fatalf("token %d: walk %v, without %d it is %v", tok, walk, lost, now)
			}
			if slices.Contains(walk[:3], lost) {
				heirs[now[2]]++
				total++
			}
		}
		mean := float64(total) / (n - 1)
		for i, c := range heirs {
			if i != lost && (float64(c) > 1.1*mean || float64(c) < 0.9*mean) {
				t.Errorf("instance %d inherits %d, the mean is %.0f", i, c, mean)
			}
		}
	}
}

func TestZones(t *testing.T) {
	f := func(zones []string, rf int, want []int) { // want: replicas per zone, most first
		t.Helper()
		list := members(len(zones), names["statefulset"])
		for i := range list {
			list[i].Zone = zones[i]
		}
		r := New(list)
		var dst, longer [MaxReplicas]int
		for _, tok := range tokens(5_000) {
			set := r.Replicas(tok, rf, dst[:0])
			per := map[string]int{}
			for k, i := range set {
				if slices.Contains(set[:k], i) {
					t.Fatalf("token %d: %v has an instance twice", tok, set)
				}
				per[r.Instances()[i].Zone]++
			}
			got := []int{}
			for _, c := range per {
				got = append(got, c)
			}
			slices.SortFunc(got, func(a, b int) int { return b - a })
			if !slices.Equal(got, want) {
				t.Fatalf("zones %v, rf %d, token %d: %v replicas per zone, want %v", zones, rf, tok, got, want)
			}
			if more := r.Replicas(tok, rf+1, longer[:0]); !slices.Equal(more[:len(set)], set) {
				t.Fatalf("token %d: %v is no prefix of %v", tok, set, more)
			}
		}
	}
	f([]string{"", "", "", ""}, 3, []int{3})
	f([]string{"a", "b", "c"}, 3, []int{1, 1, 1})
	f([]string{"a", "a", "b", "b", "c", "c"}, 3, []int{1, 1, 1})
	f([]string{"a", "a", "a", "b", "b"}, 3, []int{2, 1})
	f([]string{"a", "b", "b", "b", "b"}, 3, []int{2, 1})
	f([]string{"a", "b", "b", "b", "b"}, 4, []int{3, 1})
	f([]string{"a", "b", "c", "d", "e"}, 3, []int{1, 1, 1})
	f([]string{"a", "a", "b", "b", "c", "c"}, 5, []int{2, 2, 1})
	f([]string{"a", "b"}, 3, []int{1, 1})
}

// TestZoneLoad checks that zones of one size load their instances evenly.
func TestZoneLoad(t *testing.T) {
	for _, perZone := range []int{1, 2, 5, 20} {
		list := members(4*perZone, names["statefulset"])
		for i := range list {
			list[i].Zone = string(rune('a' + i%4))
		}
		toks := tokens(len(list) * 8_000)
		mean := float64(len(toks)) * 3 / float64(len(list))
		for i, c := range load(New(list), toks, 3) {
			if dev := float64(c)/mean - 1; dev > 0.05 || dev < -0.05 {
				t.Errorf("%d instances in 4 zones: instance %d has %+.2f %%", len(list), i, 100*dev)
			}
		}
	}
}

func TestDeterminism(t *testing.T) {
	list := members(50, names["random"])
	for i := range list {
		list[i].Zone = string(rune('a' + i%3))
		list[i].State = State(1 + i%7/6)
	}
	want := New(list)
	rnd := rand.New(rand.NewPCG(1, 2))
	var a, b [MaxReplicas]int
	for range 20 {
		rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		got := New(list)
		if !slices.Equal(got.Instances(), want.Instances()) {
			t.Fatal("instances depend on the order of members")
		}
		for _, tok := range tokens(500) {
			if g, w := got.Replicas(tok, 4, a[:0]), want.Replicas(tok, 4, b[:0]); !slices.Equal(g, w) {
				t.Fatalf("token %d: %v, then %v", tok, w, g)
			}
		}
	}
}

// TestPlacementIsFixed guards the hash: a changed one would move the streams of
// every running cluster.
func TestPlacementIsFixed(t *testing.T) {
	r := New(members(10, names["statefulset"]))
	f := func(token uint32, want ...int) {
		t.Helper()
		if got := r.Replicas(token, 3, nil); !slices.Equal(got, want) {
			t.Fatalf("token %d: %v, want %v", token, got, want)
		}
	}
	f(0, 1, 5, 9)
	f(1, 5, 2, 8)
	f(1<<31, 6, 0, 9)
	f(1<<32-1, 4, 8, 1)
}

func TestDuplicatesAndBounds(t *testing.T) {
	old := Instance{ID: "a", Addr: "old:1", State: Leaving, Generation: 1}
	now := Instance{ID: "a", Addr: "new:1", State: Active, Generation: 2}
	for _, list := range [][]Instance{{old, now}, {now, old}, {now, now, old}} {
		r := New(list)
		if got := r.Instances(); len(got) != 1 || got[0] != now {
			t.Fatalf("got %v", got)
		}
		if got := r.Replicas(77, 3, nil); !slices.Equal(got, []int{0}) {
			t.Fatalf("got %v", got)
		}
	}
	// Equal generations that disagree must not depend on the order either.
	other := now
	other.Addr = "other:1"
	if a, b := New([]Instance{now, other}), New([]Instance{other, now}); a.Instances()[0] != b.Instances()[0] {
		t.Fatalf("%v, %v", a.Instances(), b.Instances())
	}
	empty := New(nil)
	if got := empty.Replicas(1, 3, nil); len(got) != 0 {
		t.Fatalf("an empty ring gave %v", got)
	}
	if empty.Find("a") != -1 || empty.Zones() != 0 || empty.ActiveCount() != 0 {
		t.Fatal("an empty ring is not empty")
	}
	many := New(members(100, names["statefulset"]))
	if got := many.Replicas(1, 1000, nil); len(got) != MaxReplicas {
		t.Fatalf("got %d replicas", len(got))
	}
	if got := many.Replicas(1, -1, []int{9}); !slices.Equal(got, []int{9}) {
		t.Fatalf("got %v", got)
	}
}

func TestStateText(t *testing.T) {
	for _, s := range []State{Joining, Active, Leaving} {
		text, err := s.MarshalText()
		if err != nil || string(text) != s.String() {
			t.Fatalf("%d: %q, %v", s, text, err)
		}
		var back State = 9
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Fatalf("%s: read back as %v, %v", s, back, err)
		}
	}
	var s State
	if err := s.UnmarshalText([]byte("active")); err == nil {
		t.Fatal("an unknown name was accepted")
	}
	if _, err := State(9).MarshalText(); err == nil || State(9).String() != "State(9)" {
		t.Fatal("an unknown state was written")
	}
}

func TestReplicasDoesNotAllocate(t *testing.T) {
	list := members(60, names["statefulset"])
	for i := range list {
		list[i].Zone = string(rune('a' + i%3))
	}
	r := New(list)
	var dst [MaxReplicas]int
	tok := uint32(0)
	if n := testing.AllocsPerRun(100, func() {
		tok += 1e6
		r.Replicas(tok, 3, dst[:0])
	}); n != 0 {
		t.Fatalf("%v allocations for a lookup", n)
	}
}

func BenchmarkReplicas(b *testing.B) {
	for _, n := range []int{1, 3, 10, 50, 200} {
		for _, zones := range []int{1, 3} {
			list := members(n, names["statefulset"])
			for i := range list {
				list[i].Zone = string(rune('a' + i%zones))
			}
			r := New(list)
			b.Run(fmt.Sprintf("n=%d/zones=%d/rf=3", n, zones), func(b *testing.B) {
				b.ReportAllocs()
				var dst [MaxReplicas]int
				tok := uint32(1)
				for b.Loop() {
					tok = tok*1664525 + 1013904223
					r.Replicas(tok, 3, dst[:0])
				}
			})
		}
	}
}

func BenchmarkNew(b *testing.B) {
	list := members(200, names["statefulset"])
	b.ReportAllocs()
	for b.Loop() {
		New(list)
	}
}
