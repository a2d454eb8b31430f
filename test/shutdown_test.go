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

// during starts a workload and returns a function that stops and returns it.
func during(t *testing.T, s *testkit.Server, senders []testkit.Sender) func() *testkit.Workload {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &testkit.Workload{Senders: senders}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return func() *testkit.Workload {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return w
	}
}

// objects counts the objects that are stored.
func objects(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(filepath.Join(dir, "objects"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return n
}

// TestGracefulEnd: SIGTERM under load finishes what is under way, exits with 0,
// and stores everything or keeps it in the WAL, as ingester.flush-on-shutdown
// says. Nothing acknowledged is missing after the next start.
func TestGracefulEnd(t *testing.T) {
	for name, flush := range map[string]bool{"stores": true, "keeps the WAL": false} {
		t.Run(name, func(t *testing.T) {
			arg := "-ingester.flush-on-shutdown=false"
			if flush {
				arg = "-ingester.flush-on-shutdown=true"
			}
			s := testkit.NewServer(t, t.TempDir(), testkit.MappedArgs, arg, "-forward.drain-timeout=500ms",
				"-limits.ingestion-rate-mb=1000", "-limits.ingestion-burst-size-mb=1000")
			s.Start()
			s.WaitReady()
			stop := during(t, s, senders(s.HTTP, s.Fwd))
			time.Sleep(500 * time.Millisecond)
			if err := s.Stop(30 * time.Second); err != nil {
				t.Fatalf("%v\n%s", err, s.Output())
			}
			w := stop()
			if n := objects(t, s.Dir); (n > 0) != flush {
				t.Errorf("%d objects are stored", n)
			}
			s.Start()
			s.WaitReady()
			n, err := w.Check(context.Background(), s.Client(""))
			if err != nil || n == 0 {
				t.Errorf("%d lines: %v", n, err)
			}
		})
	}
}

// TestSecondSignalEndsAtOnce: a store that does not work holds up the end,
// /ready tells so meanwhile, and nobody has to wait for it.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	s := testkit.NewServer(t, t.TempDir(), testkit.MappedArgs)
	s.Start()
	s.WaitReady()
	stop := during(t, s, []testkit.Sender{testkit.SenderFunc(s.Client("").Push)})
	time.Sleep(200 * time.Millisecond)
	w := stop()
	blockObjects(t, s.Dir)
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not ready", func() bool {
		_, err := s.Client("").Get(context.Background(), "/ready")
		return err != nil && strings.Contains(err.Error(), "503") && strings.Contains(err.Error(), "leaving")
	})
	if err := s.Client("").Push(context.Background(), []testkit.Stream{{
		Labels:  []testkit.Pair{{Name: "a", Value: "b"}},
		Entries: []testkit.Entry{{TS: time.Now().UnixNano(), Line: "late"}},
	}}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a push while leaving: %v", err)
	}
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(5 * time.Second); err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("ended with %v", err)
	}
	unblockObjects(t, s.Dir)
	s.Start()
	s.WaitReady()
	if n, err := w.Check(context.Background(), s.Client("")); err != nil || n == 0 {
		t.Errorf("%d lines: %v", n, err)
	}
}

// blockObjects puts a file where the object store has its directory.
func blockObjects(t *testing.T, dir string) {
	t.Helper()
	objects := filepath.Join(dir, "objects")
	if err := os.Rename(objects, objects+".away"); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(objects, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func unblockObjects(t *testing.T, dir string) {
	t.Helper()
	objects := filepath.Join(dir, "objects")
	if err := os.Remove(objects); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(objects+".away", objects); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
