package gateway

import (
	"sync"
	"time"
)

// bucket is a token bucket. The zero value is a full one.
type bucket struct {
	mu    sync.Mutex
	used  float64 // what is missing to a full bucket; above the burst: debt
	since int64   // time of used, ns
}

// take takes n if that much is there, or if the bucket is full and n could
// never fit. Else it says how long it takes until a repetition succeeds,
// provided that nobody else takes anything.
func (b *bucket) take(now int64, n, rate, burst float64) (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch gone := now - b.since; {
	case gone > 0:
		b.used = max(0, b.used-float64(gone)/1e9*rate)
		b.since = now
	case gone < -int64(disorder):
		b.since = now // or it would not fill before the clock is there again
	}
	const rounding = 1e-6 // bytes; far above that of float64
	if missing := b.used + min(n, burst) - burst; missing > rounding {
		const day = 24 * time.Hour // beyond it nobody waits, and it must fit
		return time.Duration(min(missing/rate*1e9+1, float64(day))), false
	}
	b.used += n
	return 0, true
}

// disorder is by how much pushes that run side by side may bring the time out of
// order. By more it was set back.
const disorder = time.Second

// give returns n that was taken.
func (b *bucket) give(n float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = max(0, b.used-n)
}
