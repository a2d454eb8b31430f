package ingester

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/vfs"
)

// moment is what disk and store have at some step of a flush.
type moment struct {
	step  string
	disk  *vfs.Mem
	store *fakeStore
}

// TestCrashBetweenSteps stores some chunks and takes, at every step of that, what
// a machine that loses power there would find: when a chunk is put and was put,
// when an index is and was, and at every write, sync and removal of block files.
// Each of these is opened and has to show every line once, and no line that is
// listed without its chunk; when all is stored every line has to be in one
// object only, and every object in an index: nothing was stored under two keys.
func TestCrashBetweenSteps(t *testing.T) {
	t.Run("unsynced is lost", func(t *testing.T) { crashBetweenSteps(t, vfs.DropUnsynced, nil) })
	t.Run("some of unsynced is lost, blocks of two kinds", func(t *testing.T) { crashBetweenSteps(t, vfs.KeepRandom, inTurns()) })
}

func crashBetweenSteps(t *testing.T, mode vfs.CrashMode, p Peers) {
	h := newHarness()
	h.peers = p
	h.cfg.IndexInterval = time.Hour // the index is written when it is asked for
	h.cfg.FlushConcurrency = 2
	h.cfg.WAL.MaxSize = 4 << 20
	mem := h.fs.(*vfs.Mem)
	var mu sync.Mutex
	var moments []moment
	steps := map[string]int{}
	on := atomic.Bool{}
	rng := rand.New(rand.NewPCG(uint64(mode), 5))
	take := func(step string) error {
		if !on.Load() {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		// The store first: what it gets after that, the disk may know of only
		// if it was there before.
		steps[step]++
		if steps[step] > 4 { // of many alike
			return nil
		}
		m := moment{step: step, store: h.store.copy()}
		m.disk = mem.CrashClone(rng, mode)
		moments = append(moments, m)
		return nil
	}
	h.store.hook = func(step, _ string) error { return take(step) }
	h.fs = vfs.Fault(mem, func(op vfs.Op, path string) error {
		if strings.Contains(path, "blocks") && (op == vfs.OpWrite || op == vfs.OpDatasync || op == vfs.OpRemove) {
			return take(string(op) + " blocks")
		}
		return nil
	})

	i := h.open(t)
	want := map[string][]line{}
	n := 0
	add := func(count int) {
		streams := map[string][]line{}
		for range count {
			ls := fmt.Sprintf(`{app="%d"}`, n%5)
			l := line{ts: t0 + int64(n)*sec, text: fmt.Sprintf("line %d of a stream that is stored in steps %x", n, rand.Uint64())}
			if n%7 == 0 {
				l.meta = []string{"trace", fmt.Sprint(n)}
			}
			if n%11 == 0 {
				l.ts -= 30 * sec
			}
			streams[ls] = append(streams[ls], l)
			want[ls] = append(want[ls], l)
			n++
		}
		if err := pushLines(t, i, "t", streams); err != nil {
			t.Fatal(err)
		}
	}
	for range 40 {
		add(50)
	}
	on.Store(true)
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	i.wantTrim()
	on.Store(false)
	for ls, lines := range want {
		expect(t, i, h.store, "t", ls, lines)
	}
	shut(t, i, false)

	for _, step := range []string{"put chunk", "chunk is put", "put index", "index is put", "write blocks", "datasync blocks"} {
		if steps[step] == 0 {
			t.Errorf("there was no step %q", step)
		}
	}
	t.Logf("%d moments: %v", len(moments), steps)
	for k, m := range moments {
		h := newHarness()
		h.fs, h.store, h.cfg.IndexInterval, h.peers = m.disk, m.store, time.Hour, p
		i := h.open(t)
		all := maps.Clone(want)
		look := func(when string) {
			t.Helper()
			for ls, lines := range all {
				got, doubles := visible(t, i, m.store, "t", ls)
				if doubles > 0 || len(got) != len(lines) {
					t.Fatalf("crash %d, at %q, %s: %s: %d lines, want %d; %d twice in memory", k, m.step, when, ls, len(got), len(lines), doubles)
				}
			}
		}
		look("after the restart")
		// Whatever was being stored must not be filled any further.
		for ls := range all {
			l := line{ts: t0 + int64(n)*sec, text: "a line that comes after the crash"}
			if err := pushLines(t, i, "t", map[string][]line{ls: {l}}); err != nil {
				t.Fatal(err)
			}
			all[ls] = append(slices.Clip(all[ls]), l)
		}
		if err := i.Flush(context.Background(), true); err != nil {
			t.Fatal(err)
		}
		look("when all is stored")
		// fakeStore refuses an index that lists what is not there.
		for ls, lines := range all {
			if stored := m.store.lines(t, "t", ls); len(stored) != len(lines) {
				t.Fatalf("crash %d, at %q: %s: %d lines in the store, want %d, each once", k, m.step, ls, len(stored), len(lines))
			}
		}
		known := map[string]bool{}
		for _, keys := range m.store.listed {
			for key := range keys {
				known[key.String()] = true
			}
		}
		for key := range m.store.objects {
			if !known[key] {
				t.Errorf("crash %d, at %q: object %s was stored once more under another key: no index lists it", k, m.step, key)
			}
		}
		shut(t, i, false)
	}
}
