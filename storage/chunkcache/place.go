package chunkcache

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// place says which server has a key: an index into the addresses that the
// placement was made of.
type place func(key string) int

func newPlace(kind string, addresses []string) place {
	if kind == Loki {
		return jump(addresses)
	}
	return rendezvous(addresses)
}

// rendezvous gives a key to the server with the highest hash of both. A server
// that is gone leaves its keys to all others, a new one takes from all.
func rendezvous(addresses []string) place {
	seeds := make([]uint64, len(addresses))
	for i, a := range addresses {
		seeds[i] = xxhash.Sum64String(a)
	}
	return func(key string) int {
		h := xxhash.Sum64String(key)
		best, top := 0, uint64(0)
		for i, seed := range seeds {
			hi, lo := bits.Mul64(h^seed, seed^0x9e3779b97f4a7c15)
			if score := hi ^ lo; score > top {
				best, top = i, score
			}
		}
		return best
	}
}

// jump is what Loki's memcached client does: jump consistent hashing (Lamping
// and Veach, 2014) of the key's xxHash64 over the addresses in natural order.
// Only a server at the end can come or go without moving the keys of others.
func jump(addresses []string) place {
	order := make([]int, len(addresses))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return natural(addresses[a], addresses[b]) })
	return func(key string) int { return order[jumpHash(xxhash.Sum64String(key), len(order))] }
}

func jumpHash(key uint64, buckets int) int {
	b, j := int64(0), int64(0)
	for j < int64(buckets) {
		b = j
		key = key*2862933555777941757 + 1
		j = int64(float64(b+1) * (float64(1<<31) / float64(key>>33+1)))
	}
	return int(b)
}

// natural compares texts with the numbers in them by value.
func natural(a, b string) int {
	for a != "" && b != "" {
		x, y := a[:run(a)], b[:run(b)]
		a, b = a[len(x):], b[len(y):]
		if x == y {
			continue
		}
		if digit(x[0]) && digit(y[0]) {
			m, n := strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			return cmp.Or(cmp.Compare(len(m), len(n)), cmp.Compare(m, n), cmp.Compare(len(x), len(y)))
		}
		return cmp.Compare(x, y)
	}
	return cmp.Compare(len(a), len(b))
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// run returns the length of the digits, or of the text without any, that s
// begins with.
func run(s string) int {
	n := 1
	for n < len(s) && digit(s[n]) == digit(s[0]) {
		n++
	}
	return n
}
