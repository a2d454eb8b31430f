package gateway

import (
	"testing"
	"time"
)

// A clock that was ahead, as that of a machine may be until it is set, and goes
// back must not keep a bucket from filling until it is there again.
func TestBucketClockSetBack(t *testing.T) {
	const rate, burst = 100, 1000
	right := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var b bucket
	take := func(at time.Time, n float64, want bool) {
		t.Helper()
		if wait, ok := b.take(at.UnixNano(), n, rate, burst); ok != want {
			t.Fatalf("%v of %v in use: got %v, wait %v", b.used, burst, ok, wait)
		}
	}
	take(right.AddDate(3, 0, 0), burst, true)
	take(right, 1, false)
	take(right.Add(5*time.Second), 600, false)
	take(right.Add(5*time.Second), 500, true)
	// Pushes that overtake each other do not fill it twice.
	for range 100 {
		take(right.Add(4500*time.Millisecond), 1, false)
		take(right.Add(5*time.Second), 1, false)
	}
}
