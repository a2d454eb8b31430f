package objstore

import (
	"context"
	"sync"
	"time"
)

// Pacer bounds the rate of requests to a service that said it is too high:
// one token bucket for all workers. Additive increase, multiplicative decrease:
// Slow halves the rate, every quiet second adds to it, and when it is back at
// the most there is no bound. A Pacer has no goroutine; it may be used by any
// number of them.
type Pacer struct {
	most, least float64 // requests a second
	now         func() time.Time

	mu     sync.Mutex
	rate   float64 // at most: no bound
	next   time.Time
	grown  time.Time // until when growth is in the rate
	cut    time.Time // when the rate was last cut
	count  float64   // requests since window
	window time.Time
}

const (
	// A service throttles in bursts: what comes within this time of a cut is
	// about requests that were sent before it.
	cutEvery = 500 * time.Millisecond
	// growth is how much of the most a quiet second adds.
	growth = 0.05
)

// NewPacer returns a Pacer that allows most requests a second at most, least at
// least.
func NewPacer(most, least float64) *Pacer {
	return &Pacer{most: most, least: min(least, most), rate: most, now: time.Now}
}

// Wait returns when the next request may be sent, or when ctx ends.
func (p *Pacer) Wait(ctx context.Context) error {
	d := p.reserve()
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reserve takes the next place and returns how long it is off.
func (p *Pacer) reserve() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.grow(now)
	p.measure(now)
	if p.rate >= p.most {
		return 0
	}
	if p.next.Before(now) {
		p.next = now
	}
	d := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(time.Second) / p.rate))
	return d
}

// measure counts requests, so that the first cut starts from what there were.
func (p *Pacer) measure(now time.Time) {
	if now.Sub(p.window) > time.Second {
		p.window, p.count = now, 0
	}
	p.count++
}

func (p *Pacer) grow(now time.Time) {
	if p.rate >= p.most {
		return
	}
	if quiet := now.Sub(p.grown).Seconds(); quiet > 0 {
		p.rate = min(p.most, p.rate+quiet*growth*p.most)
		p.grown = now
	}
}

// Slow says that the service refused a request because there are too many.
func (p *Pacer) Slow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.grow(now)
	if now.Sub(p.cut) < cutEvery {
		return
	}
	from := p.rate
	if from >= p.most {
		from = min(p.most, p.count) // what it was, in the last second at most
	}
	p.rate = max(from/2, p.least)
	p.cut, p.grown = now, now.Add(cutEvery)
}

// Rate returns the present bound in requests a second, 0 if there is none.
func (p *Pacer) Rate() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grow(p.now())
	if p.rate >= p.most {
		return 0
	}
	return p.rate
}
