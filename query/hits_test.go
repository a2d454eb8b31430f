package query

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/loki-go/loki-go/internal/find"
)

// TestHits: places are found as bytes.Index finds them, wherever the rare byte
// of the text is.
func TestHits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	text := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ez1"[rng.IntN(3)]
		}
		return b
	}
	found := 0
	for range 20000 {
		content, needle := text(rng.IntN(60)), text(1+rng.IntN(6))
		finder := find.New(needle)
		h := newHits(content, &finder)
		for from := 0; from <= len(content); from++ {
			want := bytes.Index(content[from:], needle)
			if want >= 0 {
				want += from
				found++
			}
			if got := h.places.From(from); got != want {
				t.Fatalf("%q in %q from %d: at %d, want %d", needle, content, from, got, want)
			}
		}
	}
	if found < 1000 {
		t.Errorf("%d hits", found)
	}
}
