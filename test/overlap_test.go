//go:build integration

package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// TestStockLokiReadsOverlappingBlocks stores a stream that came over several
// connections side by side, so that its blocks overlap. Loki's querier takes the
// blocks of a chunk one after the other; its answers and ours have to be the
// right lines in the right order in both directions, also where a limit or a
// border ends in the middle of an overlap.
func TestStockLokiReadsOverlappingBlocks(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := t.TempDir()
	s := testkit.NewServer(t, dir, "-ingester.chunk-block-size=16384", "-ingester.chunk-target-size=32768", "-ingester.index-interval=1h")
	s.Start()
	s.WaitReady()

	const conns, each, run = 4, 900, 15
	rng := rand.New(rand.NewPCG(4, 4))
	start := time.Now().Add(-time.Hour).Truncate(time.Second).UnixNano()
	labels := []testkit.Pair{{Name: "app", Value: "overlap"}}
	var want []testkit.Entry
	next := make([]int64, conns)
	for sent := 0; sent < conns*each; sent += run {
		c := rng.IntN(conns)
		if least := slices.Min(next); next[c] > least+run || next[c] >= each {
			c = slices.Index(next, least)
		}
		var entries []testkit.Entry
		for range run {
			e := testkit.Entry{TS: start + next[c]*1e9 + int64(c)*1e6, Line: fmt.Sprintf("conn %d, line %d: %x%x%x%x", c, next[c], rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64())}
			for range 10 {
				e.Line += strconv.FormatUint(rng.Uint64(), 36)
			}
			if c == 1 {
				e.Meta = []testkit.Pair{{Name: "trace_id", Value: fmt.Sprintf("%x", rng.Uint64())}}
			}
			entries = append(entries, e)
			next[c]++
		}
		if err := s.Client("").Push(ctx, []testkit.Stream{{Labels: labels, Entries: entries}}); err != nil {
			t.Fatal(err)
		}
		want = append(want, entries...)
	}
	slices.SortFunc(want, func(a, b testkit.Entry) int { return int(a.TS - b.TS) })
	if err := s.Client("").Flush(ctx); err != nil {
		t.Fatal(err)
	}
	metrics, err := s.Client("").Get(ctx, "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	sum := func(name string) (n int) {
		for _, m := range regexp.MustCompile(`(?m)^loki_go_ingester_`+name+`(?:\{.*\})? (\d+)$`).FindAllStringSubmatch(metrics, -1) {
			v, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			n += v
		}
		return n
	}
	chunks, merged := sum("flushed_chunks_total"), sum("merged_chunks_total")
	objects := 0
	err = filepath.WalkDir(filepath.Join(dir, "objects", "fake"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			objects++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d chunks, %d of them merged, %d objects", chunks, merged, objects)
	if chunks < 3 || merged > chunks/2 || objects < chunks+chunks/2 {
		t.Fatal("the blocks of hardly any chunk overlap, this tests nothing")
	}

	loki := &testkit.Client{Base: startLoki(t, filesystemBucket(dir)), Tenant: "fake"}
	ask := func(c *testkit.Client, direction string, from, to int64, limit int) []testkit.Entry {
		t.Helper()
		v := url.Values{
			"query": {`{app="overlap"}`}, "direction": {direction}, "limit": {strconv.Itoa(limit)},
			"start": {strconv.FormatInt(from, 10)}, "end": {strconv.FormatInt(to, 10)},
		}
		body, err := c.Get(ctx, "/loki/api/v1/query_range?"+v.Encode())
		if err != nil {
			t.Fatal(err)
		}
		streams, err := testkit.ParseStreams([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		var out []testkit.Entry
		for _, st := range streams { // one for each set of metadata
			out = append(out, st.Entries...)
		}
		slices.SortStableFunc(out, func(a, b testkit.Entry) int {
			if direction == "forward" {
				return int(a.TS - b.TS)
			}
			return int(b.TS - a.TS)
		})
		return out
	}
	compared := 0
	f := func(direction string, from, to int64, limit int) {
		t.Helper()
		var expected []testkit.Entry
		for _, e := range want {
			if e.TS >= from && e.TS < to {
				expected = append(expected, e)
			}
		}
		if direction == "backward" {
			slices.Reverse(expected)
		}
		expected = expected[:min(limit, len(expected))]
		for who, c := range map[string]*testkit.Client{"we": s.Client(""), "loki": loki} {
			got := ask(c, direction, from, to, limit)
			same := slices.EqualFunc(got, expected, func(a, b testkit.Entry) bool { return a.TS == b.TS && a.Line == b.Line })
			if !same {
				for k := range min(len(got), len(expected)) {
					if got[k].TS != expected[k].TS {
						t.Errorf("%s, %s, %d ns long, limit %d: entry %d of %d has time %d, want %d", who, direction, to-from, limit, k, len(got), got[k].TS-start, expected[k].TS-start)
						return
					}
				}
				t.Errorf("%s, %s, %d ns long, limit %d: %d entries, want %d", who, direction, to-from, limit, len(got), len(expected))
			}
			compared += len(got)
		}
	}
	end := start + each*int64(time.Second) + 1e9
	for _, direction := range []string{"forward", "backward"} {
		for _, limit := range []int{1, 10, 64, 65, 100, 129, 333, 1000, 2500, 5000} {
			f(direction, start, end, limit)
		}
		for range 15 {
			from := start + rng.Int64N(each*int64(time.Second))
			f(direction, from, from+rng.Int64N(end-from), 1+rng.IntN(600))
		}
	}
	if compared < 10_000 {
		t.Errorf("only %d entries compared", compared)
	}
}
