package coverage

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// entry is one entry, for sets that are made the simple way.
type entry struct {
	Push
	k uint32
}

func entries(s Set) map[entry]bool {
	out := map[entry]bool{}
	for _, r := range s {
		for k := r.From; k < r.To; k++ {
			out[entry{r.Push, k}] = true
		}
	}
	return out
}

func randomRuns(rng *rand.Rand, n int) []Run {
	var out []Run
	for range rng.IntN(n + 1) {
		from := rng.Uint32N(20)
		out = append(out, Run{Push{1 + rng.Uint64N(3), rng.Uint64N(4)}, from, from + rng.Uint32N(6)})
	}
	return out
}

// TestSets compares sets with maps of entries.
func TestSets(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 4000 {
		runs := randomRuns(rng, 12)
		want := entries(runs)
		a := Of(slices.Clone(runs)...)
		if !reflect.DeepEqual(entries(a), want) || a.Entries() != len(want) {
			t.Fatalf("Of(%v) is %v", runs, a)
		}
		b := Of(randomRuns(rng, 12)...)
		before := fmt.Sprint(a, b)
		both := map[entry]bool{}
		rest := map[entry]bool{}
		for e := range want {
			both[e] = true
			if !b.Has(e.Push, e.k) {
				rest[e] = true
			}
		}
		for e := range entries(b) {
			both[e] = true
			if !b.Has(e.Push, e.k) || a.Has(e.Push, e.k) != want[e] {
				t.Fatalf("%v: Has(%v) is wrong", b, e)
			}
		}
		if got := entries(a.Union(b)); !reflect.DeepEqual(got, both) {
			t.Fatalf("%v and %v are %v", a, b, got)
		}
		got, cut := a.Minus(b)
		if !reflect.DeepEqual(entries(got), rest) || cut != (len(rest) != len(want)) {
			t.Fatalf("%v without %v is %v, %t", a, b, got, cut)
		}
		if fmt.Sprint(a, b) != before {
			t.Fatal("a set has changed")
		}
		_, effect := Take(a, b)
		if want := map[bool]Effect{true: Part, false: Nothing}[cut]; effect != want && (effect != Whole || !cut || len(rest) != 0) {
			t.Fatalf("taking %v from %v is %d", b, a, effect)
		}
		enc := a.Append(nil)
		back, err := Decode(enc)
		if err != nil || !slices.Equal(back, a) {
			t.Fatalf("%v is read as %v: %v", a, back, err)
		}
		var l Log
		for _, r := range runs {
			l.Add(r.Push, r.From, r.To)
		}
		if got := l.Set(); !slices.Equal(got, a) {
			t.Fatalf("a log of %v has %v", runs, got)
		}
		var parts []Run
		for _, p := range a.Parts(3) {
			if len(p) > 3 {
				t.Fatal("a part is too large")
			}
			parts = append(parts, p...)
		}
		if !slices.Equal(Of(parts...), a) {
			t.Fatal("parts are not the whole")
		}
	}
}

// TestUnnamed has entries that nobody else can know.
func TestUnnamed(t *testing.T) {
	var l Log
	l.Add(Push{1, 1}, 0, 5)
	l.Add(Push{}, 0, 1)
	l.Add(Push{1, 2}, 0, 5)
	if s := l.Set(); len(s) != 0 {
		t.Fatalf("a log with an unnamed entry has %v", s)
	}
	if s := Of(Run{Push{}, 0, 3}); len(s) != 0 {
		t.Fatalf("%v", s)
	}
	if _, e := Take(nil, Of(Run{Push{1, 1}, 0, 5})); e != Nothing {
		t.Fatal("what is not known was taken for covered")
	}
}

// TestLogIsSmall says what a push costs in memory.
func TestLogIsSmall(t *testing.T) {
	var l Log
	for n := range uint64(1000) {
		l.Add(Push{math.MaxUint64 - n%2, 1<<40 + 7*n}, 0, 3)
	}
	if n := len(l.enc); n > 5*1000+20 {
		t.Fatalf("1000 pushes take %d bytes", n)
	}
	if n := len(l.Set().Append(nil)); n > 4*1000+40 {
		t.Fatalf("1000 pushes take %d bytes on disk", n)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(Of(Run{Push{1, 2}, 0, 3}, Run{Push{1, 2}, 5, 6}, Run{Push{9, 1 << 60}, 7, 8}).Append(nil))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 2, 1, 0, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := Decode(p)
		if err != nil {
			return
		}
		if !slices.Equal(Of(slices.Clone(s)...), s) {
			t.Fatalf("%v is no set", s)
		}
		again, err := Decode(s.Append(nil))
		if err != nil || !slices.Equal(again, s) {
			t.Fatalf("%v: %v, %v", s, again, err)
		}
		// Numbers have one shortest form, which is what Append writes.
		if len(s.Append(nil)) > len(p) || len(s) > len(p) {
			t.Fatalf("%d bytes are %d runs", len(p), len(s))
		}
		if bytes.Equal(p, nil) != (len(s) == 0) {
			t.Fatal("something is nothing")
		}
	})
}

// TestTurns says when replicas store.
func TestTurns(t *testing.T) {
	f := func(name string, turn Turn, rank func(now int64) int, want int64) {
		t.Helper()
		for now := int64(100); now < 10_000; now++ {
			if turn.Come(now, rank(now), 100) {
				if now != want {
					t.Errorf("%s: at %d, want %d", name, now, want)
				}
				return
			}
		}
		t.Errorf("%s: never", name)
	}
	always := func(r int) func(int64) int { return func(int64) int { return r } }
	f("first", Turn{Closed: 100}, always(0), 100)
	f("second", Turn{Closed: 100}, always(1), 200)
	f("third", Turn{Closed: 100}, always(2), 300)
	f("first, after a start", Turn{Closed: 100, Restored: 100}, always(0), 125)
	f("first, long after a start", Turn{Closed: 200, Restored: 100}, always(0), 125)
	f("second, and then first", Turn{Closed: 100}, func(now int64) int { return map[bool]int{true: 1}[now < 150] }, 150)
	f("third, and then second", Turn{Closed: 100}, func(now int64) int { return 1 + map[bool]int{true: 1}[now < 150] }, 250)
	f("first, with a clock that was set back", Turn{Closed: 1 << 40, Restored: 1 << 40}, always(0), 125)
	f("second, with a clock that was set back", Turn{Closed: 1 << 40}, always(1), 200)
	f("the ring changes all the time", Turn{Closed: 100}, func(now int64) int { return 1 + int(now/50)%2 }, 1700)
}

// A clock that is set back after a turn was asked for puts it off by a grace at
// most.
func TestTurnClockSetBack(t *testing.T) {
	turn := Turn{Closed: 1 << 40, Restored: 1 << 40}
	for _, now := range []int64{1 << 40, 1000, 1090} {
		if turn.Come(now, 1, 100) {
			t.Fatalf("come at %d", now)
		}
	}
	if !turn.Come(1100, 1, 100) {
		t.Fatal("not come after a grace")
	}
}

func TestRank(t *testing.T) {
	f := func(self string, walk []string, want int) {
		t.Helper()
		if got := Rank(self, walk, 3); got != want {
			t.Errorf("%s in %v: %d, want %d", self, walk, got, want)
		}
	}
	walk := []string{"b", "a", "d", "c"}
	f("b", walk, 0)
	f("d", walk, 2)
	f("c", walk, 3)
	f("x", walk, 4)
	f("a", nil, 3)
	f("a", []string{"a"}, 0)
}

// TestStages: nothing is claimed before it is stored, nothing taken away once it
// may be.
func TestStages(t *testing.T) {
	for s := Held; s <= Told; s++ {
		if s.Shrinks() != (s == Held) || s.Claims() != (s >= Stored) || s.Ends() != (s == Told) || s.Claims() && s.Shrinks() {
			t.Errorf("stage %d", s)
		}
	}
	if Restored(true).Shrinks() || !Restored(false).Shrinks() {
		t.Error("restored chunks")
	}
}

func TestOutbox(t *testing.T) {
	n := func(k int) Notice {
		return Notice{Labels: fmt.Sprint(k), Entries: Of(Run{Push{1, uint64(k)}, 0, 1})}
	}
	one := n(1)
	size := one.Size()
	o := Outbox{Max: 3 * size}
	if o.Peek("a", 1) != nil || o.Len() != 0 {
		t.Fatal("a new one is not empty")
	}
	if f := o.Add("a", n(1), n(2)); f != 0 {
		t.Fatal(f)
	}
	o.Add("b", n(1))
	taken := o.Peek("a", 1<<20)
	if len(taken) != 2 || len(o.Peek("a", 1)) != 1 {
		t.Fatalf("%v", taken)
	}
	// While they are on their way, more come, and the oldest is forgotten.
	if f := o.Add("a", n(3), n(4)); f != 1 {
		t.Fatalf("%d forgotten", f)
	}
	o.Done("a", taken)
	if got := o.Peek("a", 1<<20); len(got) != 2 || got[0].Labels != "3" || o.Len() != 3 {
		t.Fatalf("%v", got)
	}
	o.Done("a", taken) // once more
	o.Done("a", o.Peek("a", 1<<20))
	if got := o.Replicas(); !slices.Equal(got, []string{"b"}) {
		t.Fatalf("%v", got)
	}
	if n, m := o.Forget("b"), o.Forget("b"); n != 1 || m != 0 || o.Len() != 0 {
		t.Fatal(n, m)
	}
}
