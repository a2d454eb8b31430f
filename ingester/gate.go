package ingester

import (
	"context"
	"sync"
	"time"
)

// gate says how many uploads may run. After a few failures in a row the store
// counts as down: one upload at a time tries it, and all wait in between for a
// random time that grows with the failures. When one succeeds another may run
// beside it, and so on up to the most, so that a backlog starts slowly.
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
	for ctx.Err() == nil {
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
	}
	return false
}

// leave ends an upload that entered.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	g.wake()
}

// outage is after how many failures in a row the store counts as down.
const outage = 3

// report tells what the store made of a request. It returns true if the store
// had been down before.
func (g *gate) report(ok bool) (back bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ok {
		back = g.failures >= outage
		g.failures, g.until = 0, time.Time{}
		g.limit = min(g.limit+1, g.most)
		g.wake()
		return back
	}
	// Those that had started before the last pause are no news.
	if now := time.Now(); now.After(g.until) {
		if g.failures++; g.failures >= outage {
			g.limit = 1
			g.until = now.Add(pause(g.failures-outage+1, probeEvery))
		}
	}
	return false
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

// state returns how many uploads may run, and whether the store counts as down.
func (g *gate) state() (limit int, down bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.limit, g.failures >= outage
}
