package find

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// Every place of a pair, at every alignment and in every length that the loops
// treat differently, next to bytes that must not be looked at.
func TestPairFindsEachPlace(t *testing.T) {
	all := bytes.Repeat([]byte{'a'}, 400)
	for n, distance := range []int{1, 2, 15, 16, 17, 70} {
		fold := byte(n % 2 * ('a' - 'A'))
		for size := 0; size <= 150; size++ {
			for start := 20; start < 36; start += 7 {
				b := all[start : start+size+distance]
				for at := -1; at < size; at++ {
					// A pair right before b, one right behind its last place,
					// and halves of one in it.
					set(all, start-1, distance)
					set(all, start+size, distance)
					if at >= 0 {
						set(all, start+at, distance)
					}
					want := pairGeneric(b, distance, 'x', 'y', fold, fold)
					if at >= 0 && want != at {
						t.Fatalf("distance %d, %d places: pairGeneric is %d, want %d", distance, size, want, at)
					}
					if got := pair(b, distance, 'x', 'y', fold, fold); got != want {
						t.Fatalf("distance %d, %d places, start %d: got %d, want %d", distance, size, start, got, want)
					}
					for i := range all {
						all[i] = 'a'
					}
				}
			}
		}
	}
}

func set(b []byte, at, distance int) { b[at], b[at+distance] = 'x', 'y' }

func TestPairWithoutPlaces(t *testing.T) {
	for n := range 5 {
		if got := pair(make([]byte, n), 4, 0, 0, 0, 0); got != -1 {
			t.Errorf("%d bytes at distance 4: found at %d", n, got)
		}
	}
}

func TestIndexIsThatOfBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	text := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ab e"[r.IntN(4)]
		}
		return b
	}
	found := 0
	for range 20_000 {
		b, what := text(r.IntN(300)), text(r.IntN(9))
		f := New(what)
		want := bytes.Index(b, what)
		if got := f.Index(b); got != want {
			t.Fatalf("%q in %q: got %d, want %d", what, b, got, want)
		}
		if want >= 0 {
			found++
		}
	}
	if found < 1000 {
		t.Errorf("only %d texts were there", found)
	}
}

// TestAny: the places of some texts, in any case or not, are those that looking
// at each byte finds.
func TestAny(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	text := func(n int, from string) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = from[r.IntN(len(from))]
		}
		return b
	}
	found := 0
	for range 4000 {
		b := text(r.IntN(300), "abAB [{")
		var texts []Text
		for range r.IntN(MaxTexts + 1) {
			if r.IntN(2) == 0 {
				texts = append(texts, Text{text(1+r.IntN(6), "ab [{"), true})
			} else {
				texts = append(texts, Text{text(1+r.IntN(6), "abAB [{"), false})
			}
		}
		from := func(i int) int {
			for ; i < len(b); i++ {
				for _, x := range texts {
					if len(b)-i >= len(x.Text) && (bytes.Equal(b[i:i+len(x.Text)], x.Text) || x.Fold && bytes.Equal(bytes.ToLower(b[i:i+len(x.Text)]), x.Text)) {
						return i
					}
				}
			}
			return -1
		}
		f := NewAny(texts)
		if len(texts) == 0 {
			if f.Index(b) != 0 || !f.Everywhere() {
				t.Fatal("no text is not found everywhere")
			}
			continue
		}
		first := f.Index(b)
		if want := from(0); first != want {
			t.Fatalf("%+v in %q: got %d, want %d", texts, b, first, want)
		}
		p := f.Places(b, first)
		for i := max(first, 0); i <= len(b); i += 1 + r.IntN(20) {
			got, want := p.From(i), from(i)
			if got != want {
				t.Fatalf("%+v in %q from %d: got %d, want %d", texts, b, i, got, want)
			}
			if got >= 0 {
				found++
			}
		}
	}
	if found < 2000 {
		t.Errorf("%d places", found)
	}
	if f := NewAny(make([]Text, MaxTexts+1)); !f.Everywhere() {
		t.Error("too many texts are looked for")
	}
}

// Texts in which the pair is everywhere, and what is looked for is not or is
// at the end.
func TestIndexAmongManyPairs(t *testing.T) {
	what := bytes.Repeat([]byte("qz"), 200)
	b := bytes.Repeat(append(bytes.Repeat([]byte("qz"), 199), '.'), 50)
	f := New(what)
	if got := f.Index(b); got != -1 {
		t.Errorf("found at %d", got)
	}
	if got := f.Index(append(b[:len(b):len(b)], what...)); got != len(b) {
		t.Errorf("found at %d, want %d", got, len(b))
	}
}

func TestChoosesRareBytes(t *testing.T) {
	f := func(text string, first, second int) {
		t.Helper()
		x := newFinder(Text{Text: []byte(text)})
		if x.first != first || x.second != second {
			t.Errorf("%q: places %d and %d, want %d and %d", text, x.first, x.second, first, second)
		}
	}
	f("z", 0, 0)
	f("ez", 0, 1)
	f("ze", 0, 1)
	f("ee", 0, 1)
	f("eee", 0, 1)
	f("exez", 1, 3)
	f("xeez", 0, 3)
	f("eeqz", 2, 3)
	f("zq  ", 0, 1)
}

func TestIndexDoesNotAllocate(t *testing.T) {
	b := bytes.Repeat([]byte("level=info "), 1000)
	what := []byte("level=error")
	f := New(what)
	if n := testing.AllocsPerRun(10, func() {
		if f.Index(b) >= 0 {
			t.Error("found")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte("level=error msg=x"), []byte("error"))
	f.Add(bytes.Repeat([]byte("ab"), 100), []byte("ba"))
	f.Add(append(bytes.Repeat([]byte("ab"), 64), 'b'), []byte("bb"))
	f.Add([]byte("x"), []byte("xy"))
	f.Fuzz(func(t *testing.T, b, what []byte) {
		x := New(what)
		if got, want := x.Index(b), bytes.Index(b, what); got != want {
			t.Fatalf("%q in %q: got %d, want %d", what, b, got, want)
		}
	})
}

func BenchmarkIndex(b *testing.B) {
	text := bytes.Repeat([]byte(`ts=2026-01-01T00:00:00Z level=info caller=server.go:12 msg="request served" method=GET path=/api/v1/items status=200 duration_ms=12 `), 2000)
	for _, what := range []string{"no such needle", "error", "timeout"} {
		b.Run(fmt.Sprint(what), func(b *testing.B) {
			f := New([]byte(what))
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				f.Index(text)
			}
		})
		b.Run(fmt.Sprint(what, "/bytes"), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				bytes.Index(text, []byte(what))
			}
		})
	}
}
