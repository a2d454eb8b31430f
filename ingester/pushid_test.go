package ingester

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/proto/push"
)

func pushWithID(i *Ingester, tenant string, id push.ID, streams map[string][]line) error {
	b := mkBatch(tenant, streams)
	defer b.Release()
	b.ID = id
	return i.Push(context.Background(), b)
}

func repeated(i *Ingester) int { return int(testutil.ToFloat64(i.m.repeated)) }

// TestRepeatedPush sends pushes again, at once and after a restart.
func TestRepeatedPush(t *testing.T) {
	h := newHarness()
	i := h.open(t)
	lines := map[string][]line{app1: seq(0, 10)}
	push2 := func(tenant string, id push.ID, want int) {
		t.Helper()
		if err := pushWithID(i, tenant, id, lines); err != nil {
			t.Fatal(err)
		}
		if got := repeated(i); got != want {
			t.Fatalf("%d repetitions recognised, want %d", got, want)
		}
	}
	push2("t", push.ID{1}, 0)
	push2("t", push.ID{1}, 1)
	expect(t, i, h.store, "t", app1, seq(0, 10))
	push2("other", push.ID{1}, 1) // ids are a tenant's own
	expect(t, i, h.store, "other", app1, seq(0, 10))
	push2("none", push.ID{}, 1)
	push2("none", push.ID{}, 1)
	if _, doubles := visible(t, i, h.store, "none", app1); doubles != 10 {
		t.Fatalf("%d lines twice, want all 10: pushes without an id are all stored", doubles)
	}
	shut(t, i, false)

	i = h.open(t)
	push2("t", push.ID{1}, 1)
	push2("other", push.ID{1}, 2)
	push2("t", push.ID{2}, 2)
	if _, doubles := visible(t, i, h.store, "t", app1); doubles != 10 {
		t.Fatalf("%d lines twice, want all 10: another id is another push", doubles)
	}
	shut(t, i, true)

	// All is flushed, and still the ids are known.
	i = h.open(t)
	push2("t", push.ID{1}, 1)
	push2("t", push.ID{2}, 2)
	shut(t, i, false)
}

// TestIDsOutliveTheirSegments pushes until the WAL segments that had the first
// ids are deleted.
func TestIDsOutliveTheirSegments(t *testing.T) {
	h := newHarness()
	i := h.open(t)
	const early = 20
	for n := range early {
		if err := pushWithID(i, fmt.Sprint("t", n%3), push.ID{1, byte(n)}, map[string][]line{app1: seq(n, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	first := i.wal.Oldest()
	rng := rand.NewChaCha8([32]byte{1})
	big := make([]byte, 100<<10)
	for n := 0; i.wal.Oldest() == first; n++ {
		if n > 5000 {
			t.Fatal("the WAL is not shortened")
		}
		rng.Read(big) // what does not compress fills the WAL
		ls := map[string][]line{`{app="big"}`: {{ts: t0 + int64(n)*sec, text: string(big)}}}
		if err := pushWithID(i, "big", push.ID{2, byte(n), byte(n >> 8)}, ls); err != nil {
			t.Fatal(err)
		}
		i.wantTrim()
	}
	for life := range 3 {
		for n := range early {
			if err := pushWithID(i, fmt.Sprint("t", n%3), push.ID{1, byte(n)}, map[string][]line{app1: seq(n, 1)}); err != nil {
				t.Fatal(err)
			}
		}
		if got := repeated(i); got != early {
			t.Fatalf("life %d: %d repetitions recognised, want %d", life, got, early)
		}
		shut(t, i, life == 0)
		i = h.open(t)
	}
	shut(t, i, false)
}

// TestSimultaneousRepetitions sends one push many times at once.
func TestSimultaneousRepetitions(t *testing.T) {
	h := newHarness()
	i := h.open(t)
	const rounds, many = 50, 8
	var want []line
	for n := range rounds {
		want = append(want, seq(10*n, 10)...)
		var wg sync.WaitGroup
		for range many {
			wg.Go(func() {
				if err := pushWithID(i, "t", push.ID{9, byte(n)}, map[string][]line{app1: seq(10*n, 10)}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	expect(t, i, h.store, "t", app1, want)
	if got := repeated(i); got != rounds*(many-1) {
		t.Fatalf("%d repetitions recognised, want %d", got, rounds*(many-1))
	}
	shut(t, i, false)
}

// TestRefusedPushIsNotRemembered repeats a push of which a part was refused: the
// answer has to be the same.
func TestRefusedPushIsNotRemembered(t *testing.T) {
	h := newHarness()
	h.lim.Unordered = false
	i := h.open(t)
	if err := pushLines(t, i, "t", map[string][]line{app1: seq(5, 1)}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := pushWithID(i, "t", push.ID{4}, map[string][]line{app1: seq(0, 1), `{app="two"}`: seq(0, 1)})
		var rej *push.Rejected
		if !errors.As(err, &rej) || rej.Entries != 1 {
			t.Fatalf("got %v, want one entry refused", err)
		}
	}
	shut(t, i, false)
	i = h.open(t)
	if n := i.ids.len(); n != 0 {
		t.Fatalf("%d ids remembered, want none", n)
	}
	shut(t, i, false)
}

// TestFailedPushIsNotRemembered repeats a push whose WAL record could not be
// written, and one that waits for another which fails.
func TestFailedPushIsNotRemembered(t *testing.T) {
	h := newHarness()
	var full atomic.Bool
	h.fs = vfs.Fault(h.fs, func(op vfs.Op, path string) error {
		if full.Load() && op == vfs.OpWrite && strings.Contains(path, "/wal/") {
			return syscall.ENOSPC
		}
		return nil
	})
	i := h.open(t)
	full.Store(true)
	if err := pushWithID(i, "t", push.ID{3}, map[string][]line{app1: seq(0, 1)}); err == nil {
		t.Fatal("stored on a full disk")
	}
	full.Store(false)
	waitFor(t, "space", func() bool { return !i.room.low.Load() })
	if err := pushWithID(i, "t", push.ID{3}, map[string][]line{app1: seq(0, 1)}); err != nil {
		t.Fatal(err)
	}
	expect(t, i, h.store, "t", app1, seq(0, 1))

	key := pushKey{i.tenant("t"), push.ID{5}}
	if stored, err := i.ids.enter(context.Background(), key); stored || err != nil {
		t.Fatal(stored, err)
	}
	waiting := make(chan error)
	go func() { waiting <- pushWithID(i, "t", push.ID{5}, map[string][]line{app1: seq(1, 1)}) }()
	i.ids.leave(key, 0, 0) // as a push that failed does
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	if got := repeated(i); got != 0 {
		t.Fatalf("%d repetitions recognised, want none", got)
	}
	expect(t, i, h.store, "t", app1, append(seq(0, 1), seq(1, 1)...))

	ctx, cancel := context.WithCancel(context.Background())
	key.id = push.ID{6}
	if _, err := i.ids.enter(ctx, key); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := i.ids.enter(ctx, key); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the end of the context", err)
	}
	i.ids.leave(key, 0, 0)
	shut(t, i, false)
}

func TestIDsAreBounded(t *testing.T) {
	var p pushIDs
	p.init(int64(time.Hour), 100)
	tn := &tenant{id: "t"}
	key := func(n int) pushKey { return pushKey{tn, push.ID{1, byte(n), byte(n >> 8)}} }
	for n := range 1000 {
		p.add(key(n), uint64(n+1), 0)
		if p.len() > 100 {
			t.Fatalf("%d ids kept, more than 100", p.len())
		}
		for k := max(0, n-49); k <= n; k++ {
			if !p.has(key(k)) {
				t.Fatalf("id %d is forgotten after %d", k, n)
			}
		}
	}
	// By time: half of the window at least, all of it at most.
	p.init(int64(time.Hour), 100)
	p.add(key(0), 1, 0)
	p.add(key(1), 2, int64(31*time.Minute))
	if !p.has(key(0)) {
		t.Fatal("forgotten after 31 minutes")
	}
	p.add(key(2), 3, int64(63*time.Minute))
	if p.has(key(0)) || !p.has(key(1)) {
		t.Fatal("after 63 minutes the first must be forgotten, the second not")
	}
}

func FuzzIDRecord(f *testing.F) {
	a, b := &tenant{id: "a"}, &tenant{id: "tenant-b"}
	f.Add(appendIDs(nil, []loggedID{{pushKey{a, push.ID{1}}, 1}, {pushKey{b, push.ID{2, 3}}, 1}}))
	f.Add([]byte{idRecord})
	f.Add([]byte{idRecord, 200, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) == 0 || p[0] != idRecord {
			return
		}
		var ids []loggedID
		if decodeIDs(p[1:], func(tn []byte, id push.ID) {
			ids = append(ids, loggedID{key: pushKey{&tenant{id: string(tn)}, id}})
		}) != nil {
			return
		}
		var again int
		if err := decodeIDs(appendIDs(nil, ids)[1:], func(tn []byte, id push.ID) {
			if ids[again].key.tenant.id != string(tn) || ids[again].key.id != id {
				t.Fatalf("id %d comes back different", again)
			}
			again++
		}); err != nil || again != len(ids) {
			t.Fatalf("%d of %d ids come back, %v", again, len(ids), err)
		}
	})
}
