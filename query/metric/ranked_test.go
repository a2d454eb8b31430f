package metric

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func same(a, b float64) bool { return a == b || a != a && b != b }

func TestRankedIsThatOfSorting(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	kinds := map[string]func(i, n int) float64{
		"any":        func(int, int) float64 { return r.NormFloat64() },
		"few":        func(int, int) float64 { return float64(r.IntN(3)) },
		"one":        func(int, int) float64 { return 7 },
		"rising":     func(i, _ int) float64 { return float64(i) },
		"falling":    func(i, _ int) float64 { return float64(-i) },
		"organ pipe": func(i, n int) float64 { return float64(min(i, n-i)) },
		"odd": func(int, int) float64 {
			return []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1, 2, 0}[r.IntN(6)]
		},
		"no numbers": func(int, int) float64 { return math.NaN() },
	}
	for name, kind := range kinds {
		for range 300 {
			vs := make([]float64, 1+r.IntN(400)>>r.IntN(8))
			for i := range vs {
				vs[i] = kind(i, len(vs))
			}
			sorted := slices.Sorted(slices.Values(vs))
			k := r.IntN(len(vs))
			at, next := ranked(vs, k)
			if want := sorted[min(k+1, len(vs)-1)]; !same(at, sorted[k]) || !same(next, want) {
				t.Fatalf("%s, value %d of %d: got %v and %v, want %v and %v", name, k, len(vs), at, next, sorted[k], want)
			}
			slices.Sort(vs)
			if !slices.EqualFunc(vs, sorted, same) {
				t.Fatalf("%s: other values than before", name)
			}
		}
	}
}

func BenchmarkQuantile(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	vs := make([]float64, 50_000)
	for i := range vs {
		vs[i] = r.ExpFloat64() * 100
	}
	buf := make([]float64, len(vs))
	for b.Loop() {
		copy(buf, vs)
		quantile(0.99, buf)
	}
}
