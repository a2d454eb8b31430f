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

	mu   sync.Mutex
	rate float64 // at most: no bound
	// Requests are numbered. Those up to served may be sent; served grows by
	// rate, up to the number of the next one.
	taken, served float64
	moved         time.Time // served
	grown         time.Time // until when growth is in the rate
	cut           time.Time // when the rate was last cut
	count         float64   // requests since window
	window        time.Time
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

// lookAgain is how often one who waits finds out whether the rate has changed.
const lookAgain = 200 * time.Millisecond

// Wait returns when the next request may be sent, or when ctx ends.
func (p *Pacer) Wait(ctx context.Context) error {
	n, d := p.reserve()
	for d > 0 {
		t := time.NewTimer(min(d, lookAgain))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			p.giveBack()
			return ctx.Err()
		}
		d = p.off(n)
	}
	return ctx.Err()
}

// reserve takes the next number and returns how far its turn is off.
func (p *Pacer) reserve() (n float64, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.measure(now)
	p.move(now)
	n = p.taken
	p.taken++
	return n, p.until(n)
}

// giveBack lets the others move up when one waits no more.
func (p *Pacer) giveBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served = min(p.served+1, p.taken)
}

// off returns how far the turn of a number is off by now.
func (p *Pacer) off(n float64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.move(p.now())
	return p.until(n)
}

func (p *Pacer) until(n float64) time.Duration {
	return time.Duration(max(n-p.served, 0) / p.rate * float64(time.Second))
}

// move brings rate and served up to now.
func (p *Pacer) move(now time.Time) {
	p.served += p.rate * max(now.Sub(p.moved), 0).Seconds()
	p.grow(now)
	if p.rate >= p.most {
		p.served = p.taken
	}
	p.served, p.moved = min(p.served, p.taken), now
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
	p.move(now)
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
	p.move(p.now())
	if p.rate >= p.most {
		return 0
	}
	return p.rate
}
