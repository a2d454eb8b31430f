package metric

import (
	"math"
	"math/bits"
	"slices"
)

// ranked returns values k and k+1 of vs as they would be if vs were sorted, what
// is not a number first; if there is no k+1, value k twice. It reorders vs.
func ranked(vs []float64, k int) (at, next float64) {
	n := 0 // of those that are not a number, which go to the front
	for i, v := range vs {
		if v != v {
			vs[i], vs[n] = vs[n], v
			n++
		}
	}
	if k >= n {
		place(vs[n:], k-n)
	}
	switch {
	case k+1 == len(vs):
		return vs[k], vs[k]
	case k+1 < n:
		return vs[k], math.NaN()
	}
	return vs[k], slices.Min(vs[k+1:])
}

// place brings value k to where it would be if vs were sorted, with none larger
// before it and none smaller behind it. It is Hoare's way, with the median of
// three values to divide by; should that go wrong too often, vs is sorted.
func place(vs []float64, k int) {
	for tries := 2 * bits.Len(uint(len(vs))); len(vs) > 12 && tries > 0; tries-- {
		a, b, c := vs[0], vs[len(vs)/2], vs[len(vs)-1]
		pivot := max(min(a, b), min(max(a, b), c))
		i, j := 0, len(vs)-1
		for i <= j {
			for vs[i] < pivot {
				i++
			}
			for vs[j] > pivot {
				j--
			}
			if i <= j {
				vs[i], vs[j] = vs[j], vs[i]
				i++
				j--
			}
		}
		switch {
		case k <= j:
			vs = vs[:j+1]
		case k >= i:
			vs, k = vs[i:], k-i
		default:
			return // between j and i are values like the pivot
		}
	}
	slices.Sort(vs)
}
