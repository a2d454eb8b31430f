package ingester

import (
	"context"
	"sync"
	"time"
)

// gate says how many uploads may run. A failed one halves their number, a good
// one adds one, up to the most; when one failed, all wait for a random time that
// grows with the failures in a row. So while the store is down a single upload
// now and then finds out, and when it is back the backlog starts slowly.
type gate struct {
	most int

	mu       sync.Mutex
	limit    int
	running  int
	failures int       // in a row
	until    time.Time // nothing starts before
	changed  chan struct{}
}

// probeEvery is about how often a store that is down is tried.
const probeEvery = 15 * time.Second

func (g *gate) init(most int) {
	g.most, g.limit = most, most
	g.changed = make(chan struct{})
}

// enter waits until an upload may start. It returns false when ctx ends.
func (g *gate) enter(ctx context.Context) bool {
	return g.await(ctx, func() bool {
		if g.running >= g.limit {
			return false
		}
		g.running++
		return true
	})
}

// pass waits like enter for something that is not counted: there is one of its
// kind.
func (g *gate) pass(ctx context.Context) bool {
	return g.await(ctx, func() bool { return true })
}

func (g *gate) await(ctx context.Context, take func() bool) bool {
	for {
		g.mu.Lock()
		d := time.Until(g.until)
		if d <= 0 && take() {
			g.mu.Unlock()
			return true
		}
		changed := g.changed
		g.mu.Unlock()
		var due <-chan time.Time
		var t *time.Timer
		if d > 0 {
			t = time.NewTimer(d)
			due = t.C
		}
		select {
		case <-due:
		case <-changed:
		case <-ctx.Done():
		}
		if t != nil {
			t.Stop()
		}
		if ctx.Err() != nil {
			return false
		}
	}
}

// leave ends an upload that entered.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	g.wake()
}

// report tells what the store made of a request.
func (g *gate) report(ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ok {
		g.failures, g.until = 0, time.Time{}
		g.limit = min(g.limit+1, g.most)
		g.wake()
		return
	}
	g.limit = max(g.limit/2, 1)
	// Those that had started before the first of them failed are no news.
	if now := time.Now(); now.After(g.until) {
		g.failures++
		g.until = now.Add(pause(g.failures, probeEvery))
	}
}

// hurry lets the next upload start now.
func (g *gate) hurry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.until = time.Time{}
	g.wake()
}

func (g *gate) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// state returns how many uploads may run, and whether the store failed last.
func (g *gate) state() (limit int, failing bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.limit, g.failures > 0
}
