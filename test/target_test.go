package test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// TestCompactorTarget: a process that only compacts works beside one that
// fills the same directory, has no receiver, no WAL and no data of its own,
// and gives the lease back when it ends.
func TestCompactorTarget(t *testing.T) {
	dir := t.TempDir()
	all := testkit.NewServer(t, dir)
	all.Start()
	all.WaitReady()
	ctx := context.Background()
	storeLine(t, all, "before")

	files := func() (names []string) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	before := files()
	c := testkit.NewServer(t, dir, "-target=compactor")
	c.Start()
	c.WaitReady()
	for path, want := range map[string]string{"/services": "compactor => ", "/metrics": "loki_go_compactor_lease_owner", "/config": "target: compactor\n", "/log_level": "info"} {
		if body, err := c.Client("").Get(ctx, path); err != nil || !strings.Contains(body, want) {
			t.Errorf("%s lacks %q: %v\n%s", path, want, err, body)
		}
	}
	for _, path := range []string{"/loki/api/v1/push", "/flush", "/ingester/shutdown", "/ingest/json", "/otlp/v1/logs"} {
		if _, err := c.Client("").Do(ctx, "POST", path, "", nil); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("POST %s: %v, want 404", path, err)
		}
	}
	eventually(t, "the lease", func() bool {
		body, err := c.Client("").Get(ctx, "/services")
		return err == nil && strings.Contains(body, "compactor => running")
	})
	if after := files(); strings.Join(after, " ") != strings.Join(before, " ") {
		t.Errorf("data directory has %q, had %q", after, before)
	}
	storeLine(t, all, "meanwhile")
	lease := filepath.Join(dir, "objects", "loki-go", "compactor", "lease.json")
	if _, err := os.Stat(lease); err != nil {
		t.Error(err)
	}
	if err := c.Stop(20 * time.Second); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(lease); !os.IsNotExist(err) {
		t.Errorf("the lease is still there: %v", err)
	}
	// Without a process beside it, and on an empty directory, it works too.
	alone := testkit.NewServer(t, t.TempDir(), "-target=compactor")
	alone.Start()
	alone.WaitReady()
	if err := alone.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := alone.Wait(20 * time.Second); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(alone.Dir); err != nil || len(entries) != 1 || entries[0].Name() != "objects" {
		t.Errorf("data directory has %v, %v", entries, err)
	}
}

// storeLine stores one line with an index file of its own.
func storeLine(t *testing.T, s *testkit.Server, line string) {
	t.Helper()
	ctx := context.Background()
	err := s.Client("").Push(ctx, []testkit.Stream{{
		Labels:  []testkit.Pair{{Name: "job", Value: "x"}},
		Entries: []testkit.Entry{{TS: time.Now().UnixNano(), Line: line}},
	}})
	if err == nil {
		err = s.Client("").Flush(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}
