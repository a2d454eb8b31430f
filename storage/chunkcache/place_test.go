package chunkcache

import (
	"fmt"
	"slices"
	"testing"
)

func addresses(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("cache-%d:11211", i)
	}
	return out
}

func keys(n int) []string {
	out := make([]string, n)
	for i := range out {
		key, _ := object(i, 8)
		out[i] = key.String()
	}
	return out
}

// TestRendezvous: shares are even, and a server that comes or goes moves its
// own share only.
func TestRendezvous(t *testing.T) {
	const servers, n = 10, 20000
	all := addresses(servers + 1)
	before, after := rendezvous(all[:servers]), rendezvous(all)
	share := make([]int, servers)
	moved := 0
	for _, key := range keys(n) {
		a, b := before(key), after(key)
		share[a]++
		if a != b {
			moved++
			if b != servers {
				t.Fatalf("%s went from server %d to %d", key, a, b)
			}
		}
	}
	for i, got := range share {
		if got < n/servers*9/10 || got > n/servers*11/10 {
			t.Errorf("server %d has %d of %d keys", i, got, n)
		}
	}
	if moved < n/(servers+1)*9/10 || moved > n/(servers+1)*11/10 {
		t.Errorf("%d of %d keys moved to a new server", moved, n)
	}
	// One in the middle goes.
	without := slices.Delete(addresses(servers), 4, 5)
	left := rendezvous(without)
	for _, key := range keys(n) {
		if a := before(key); a != 4 && all[a] != without[left(key)] {
			t.Fatalf("%s moved from %s, which is still there", key, all[a])
		}
	}
}

// lokiPlaces has the servers of TestLokiPlacement's keys, by the number of
// servers.
var lokiPlaces = map[int][]int{
	1:  {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	2:  {0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0},
	3:  {0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 0, 2, 0, 1, 0, 2, 0, 0, 0, 2, 2, 2, 1, 0, 1, 2, 0, 1, 0, 1, 0, 2, 1, 2, 1, 0, 2, 2, 0, 0},
	12: {5, 11, 9, 6, 5, 11, 8, 0, 0, 3, 11, 4, 11, 6, 0, 4, 11, 10, 7, 2, 2, 10, 7, 0, 3, 6, 10, 1, 5, 1, 0, 10, 4, 10, 8, 4, 2, 2, 0, 0},
}

// TestLokiPlacement compares with what the selector of Loki 3.7 returned for
// these keys.
func TestLokiPlacement(t *testing.T) {
	for n, want := range lokiPlaces {
		// In any order of addresses.
		for _, reverse := range []bool{false, true} {
			var list []string
			for i := range n {
				list = append(list, fmt.Sprintf("127.0.0.%d:11211", i+1))
			}
			if reverse {
				slices.Reverse(list)
			}
			place := newPlace(Loki, list)
			for i, server := range want {
				key := fmt.Sprintf("tenant/%x/%x:%x:%x", i*7919, 1700000000000+i, 1700000000000+2*i, i*104729)
				if got := list[place(key)]; got != fmt.Sprintf("127.0.0.%d:11211", server+1) {
					t.Fatalf("%d servers: %s is at %s, Loki has it at server %d", n, key, got, server)
				}
			}
		}
	}
}

func TestNatural(t *testing.T) {
	// Of equal numbers the one with fewer digits is first.
	sorted := []string{"", "1:2", "10.0.0.2:1", "10.0.0.10:1", "10.0.0.10:02", "a", "a1", "a1b", "a2", "a02", "a10", "a10a", "b"}
	for i, a := range sorted {
		for k, b := range sorted {
			got := natural(a, b)
			if (got < 0) != (i < k) || (got > 0) != (i > k) {
				t.Errorf("%q, %q: %d", a, b, got)
			}
		}
	}
}
