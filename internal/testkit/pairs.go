package testkit

import "sort"

func sortedPairs(m map[string]string) []Pair {
	var out []Pair
	for k, v := range m {
		out = append(out, Pair{k, v})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
