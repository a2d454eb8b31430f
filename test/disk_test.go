//go:build integration

package test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// TestDiskFullOnASmallVolume fills the small volume that the process has. It
// takes the rights to mount one; TestDiskFullInProcess, which is in make test,
// needs none.
func TestDiskFullOnASmallVolume(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Fatalf("mount a small volume (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := testkit.NewServer(t, dir, append(busy, "-ingester.chunk-idle-period=1h", "-ingester.index-interval=1h")...)
	s.Start()
	s.WaitReady()

	// Somebody else takes all but a little of the space.
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	full := make(chan error, 1)
	var sends []testkit.Sender
	for range 4 {
		c := s.Client("")
		sends = append(sends, noting{testkit.SenderFunc(c.Push), full})
	}
	stop := during(t, s, sends)
	select {
	case <-full:
	case <-time.After(60 * time.Second):
		t.Fatalf("no push was refused with 503 and Retry-After\n%s", s.Output())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	// It resumes by itself.
	push := func() bool {
		return s.Client("").Push(context.Background(), []testkit.Stream{{
			Labels: []testkit.Pair{{Name: "a", Value: "b"}}, Entries: []testkit.Entry{{TS: time.Now().UnixNano(), Line: "again"}},
		}}) == nil
	}
	eventually(t, "a push is accepted again", push)
	w := stop()
	if n, err := w.Check(context.Background(), s.Client("")); err != nil || n == 0 {
		t.Fatalf("%d lines: %v", n, err)
	}
	s.Kill()
	s.Start()
	s.WaitReady()
	n, err := w.Check(context.Background(), s.Client(""))
	if err != nil || n == 0 {
		t.Fatalf("after a kill: %d lines: %v", n, err)
	}
	t.Logf("%d lines; %d batches sent again", n, w.Retries())
	if strings.Contains(s.Output(), "panic") {
		t.Error(s.Output())
	}
}

// fill writes to name until the volume is full.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
