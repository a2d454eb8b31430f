//go:build integration

package test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/s3server"
)

// TestCompactorsTakeTurns: of two processes that compact the same bucket one
// works and the other waits. When the first is killed the other goes on, and
// when that one ends in peace a third does, while lines come in.
func TestCompactorsTakeTurns(t *testing.T) {
	t.Parallel()
	t.Run("filesystem", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		compactorsTakeTurns(t, dir, filesystemBucket(dir))
	})
	t.Run("s3", func(t *testing.T) {
		t.Parallel()
		compactorsTakeTurns(t, t.TempDir(), s3Bucket(s3server.New(t, "logs"), "logs"))
	})
}

func compactorsTakeTurns(t *testing.T, dir string, store bucket) {
	ctx := context.Background()
	all := testkit.NewServer(t, dir, store.Args...)
	all.Start()
	all.WaitReady()
	var want []testkit.Entry
	fill := func() {
		t.Helper()
		for range 3 {
			e := testkit.Entry{TS: time.Now().UnixNano() | 1, Line: fmt.Sprint("line ", len(want))}
			want = append(want, e)
			err := all.Client("").Push(ctx, []testkit.Stream{{Labels: jobX, Entries: []testkit.Entry{e}}})
			if err == nil {
				err = all.Client("").Flush(ctx)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	start := func() *testkit.Server {
		t.Helper()
		d := t.TempDir()
		if store.Type == "filesystem" {
			d = dir
		}
		c := testkit.NewServer(t, d, append([]string{
			"-target=compactor", "-compactor.lease-ttl=10s", "-compactor.interval=1s", "-compactor.min-files=2",
		}, store.Args...)...)
		c.Start()
		c.WaitReady()
		return c
	}
	// turn waits until c has the lease and has merged files.
	turn := func(c *testkit.Server) {
		t.Helper()
		fill()
		eventually(t, "the lease and a merge", func() bool {
			return metric(t, c, "loki_go_compactor_lease_owner") == 1 && metric(t, c, "loki_go_compactor_merges_total") > 0
		})
	}
	idle := func(c *testkit.Server) {
		t.Helper()
		if metric(t, c, "loki_go_compactor_lease_owner") != 0 || metric(t, c, "loki_go_compactor_tables_total") != 0 {
			t.Fatal("a process without the lease is at work")
		}
	}
	first := start()
	turn(first)
	second := start()
	before := metric(t, first, `loki_go_compactor_runs_total{result="done"}`)
	eventually(t, "more runs", func() bool { return metric(t, first, `loki_go_compactor_runs_total{result="done"}`) >= before+3 })
	idle(second)
	first.Kill()
	turn(second)
	third := start()
	idle(third)
	if err := second.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
	turn(third)

	from, to := want[0].TS, time.Now().UnixNano()
	got, err := all.Client("").QueryAll(ctx, `{job="x"}`, from, to)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "after three compactors", got, []testkit.Stream{{Labels: jobX, Entries: want}})
	if store.Type == "filesystem" {
		return
	}
	for _, c := range []*testkit.Server{first, second, third} {
		if left, err := os.ReadDir(c.Dir); err != nil || len(left) != 0 {
			t.Errorf("a compactor left %v in its data directory, %v", left, err)
		}
	}
}

var jobX = []testkit.Pair{{Name: "job", Value: "x"}, {Name: "service_name", Value: "x"}}

// metric returns a value that a server exports.
func metric(t *testing.T, s *testkit.Server, name string) float64 {
	t.Helper()
	body, err := s.Client("").Get(context.Background(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return 0
}
