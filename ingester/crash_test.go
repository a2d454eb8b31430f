package ingester

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/proto/push"
)

// TestPowerLoss pushes from several goroutines, takes the power away at a random
// moment, and opens what a disk would have: every acknowledged line must be
// there, in memory and store together, and nothing that was never pushed. Odd
// rounds lose everything that was not synced, even ones a random part of it.
func TestPowerLoss(t *testing.T) {
	rounds := 10
	if testing.Short() {
		rounds = 4
	}
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) { powerLoss(t, uint64(round)) })
	}
}

// ackedPush is a push that was acknowledged.
type ackedPush struct {
	id      push.ID
	streams map[string][]line
}

// repeatAll sends acknowledged pushes again; every one must be recognised.
func repeatAll(t *testing.T, i *Ingester, pushes []ackedPush) {
	t.Helper()
	for _, p := range pushes {
		if err := pushWithID(i, "t", p.id, p.streams); err != nil {
			t.Fatal(err)
		}
	}
	if got := repeated(i); got != len(pushes) {
		t.Fatalf("%d of %d repetitions recognised", got, len(pushes))
	}
}

func powerLoss(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 77))
	h := newHarness()
	h.cfg.ChunkBlockSize = 2048
	h.cfg.HeadMemory = 1 << 20
	if seed%3 == 0 { // blocks of two kinds
		h.peers, h.cfg.OneCopyGrace = inTurns(), 10*time.Millisecond
	}
	mem := h.fs.(*vfs.Mem)
	acked := map[string][]line{} // by stream
	var ids []ackedPush
	pushed := map[string]bool{}
	next := 0
	for life := range 4 {
		i := h.open(t)
		check(t, i, h, acked, pushed)
		repeatAll(t, i, ids)
		check(t, i, h, acked, pushed)
		var mu sync.Mutex
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for g := range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				rng := rand.New(rand.NewPCG(seed*100+uint64(life), uint64(g)))
				for {
					select {
					case <-stop:
						return
					default:
					}
					streams := map[string][]line{}
					mu.Lock()
					for range 1 + rng.IntN(3) {
						ls := fmt.Sprintf(`{app="%d"}`, rng.IntN(5))
						for range 1 + rng.IntN(20) {
							l := line{ts: t0 + int64(next)*sec/10, text: fmt.Sprintf("line %d %x", next, rng.Uint64())}
							if rng.IntN(3) == 0 {
								l.meta = []string{"trace", fmt.Sprint(rng.IntN(50))}
							}
							if rng.IntN(50) == 0 {
								l.ts -= 3 * 3600 * sec // late lane
							}
							next++
							streams[ls] = append(streams[ls], l)
							pushed[l.String()] = true
						}
					}
					id := push.ID{byte(next), byte(next >> 8), byte(next >> 16)}
					mu.Unlock()
					if err := pushWithID(i, "t", id, streams); err != nil {
						return
					}
					mu.Lock()
					ids = append(ids, ackedPush{id, streams})
					for ls, lines := range streams {
						acked[ls] = append(acked[ls], lines...)
					}
					mu.Unlock()
					if rng.IntN(40) == 0 {
						_ = i.Flush(context.Background(), false)
					}
				}
			}()
		}
		// The clone is what a disk has at this moment; the acknowledged lines
		// are those of the moment before.
		n := 20 + rng.IntN(400)
		for {
			mu.Lock()
			enough := 0
			for _, l := range acked {
				enough += len(l)
			}
			mu.Unlock()
			if enough >= n*(life+1) {
				break
			}
		}
		if rng.IntN(2) == 0 {
			i.wantTrim()
		}
		mu.Lock()
		before := map[string][]line{}
		for ls, lines := range acked {
			before[ls] = append([]line(nil), lines...)
		}
		idsBefore := len(ids)
		mu.Unlock()
		mode := vfs.DropUnsynced
		if seed%2 == 0 {
			mode = vfs.KeepRandom
		}
		h.store.mu.Lock() // objects stored later than the clone do not exist for it
		clone := mem.CrashClone(rng, mode)
		store := h.store.copyLocked()
		h.store.mu.Unlock()
		close(stop)
		wg.Wait()
		_ = i.Shutdown(context.Background(), false)
		mem, h.fs, h.store, acked = clone, clone, store, before
		ids = ids[:idsBefore]
	}
	i := h.open(t)
	check(t, i, h, acked, pushed)
	repeatAll(t, i, ids)
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	check(t, i, h, acked, pushed)
	shut(t, i, false)
}

// check finds every acknowledged line and no line that was never pushed. Lines
// that were pushed but not acknowledged may be there.
func check(t *testing.T, i *Ingester, h *harness, acked map[string][]line, pushed map[string]bool) {
	t.Helper()
	for k := range 5 {
		ls := fmt.Sprintf(`{app="%d"}`, k)
		got, doubles := visible(t, i, h.store, "t", ls)
		if doubles > 0 {
			t.Fatalf("%s: %d lines twice in memory", ls, doubles)
		}
		have := map[string]bool{}
		for _, g := range got {
			have[g] = true
			if !pushed[g] {
				t.Fatalf("%s: line that was never pushed: %s", ls, g)
			}
		}
		missing := 0
		for _, l := range acked[ls] {
			if !have[l.String()] {
				if missing++; missing < 4 {
					t.Errorf("%s: lost: %s", ls, l)
				}
			}
		}
		if missing > 0 {
			t.Fatalf("%s: %d of %d acknowledged lines lost", ls, missing, len(acked[ls]))
		}
	}
}
