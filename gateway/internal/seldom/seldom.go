// Package seldom keeps repeated log lines rare.
package seldom

import (
	"sync"
	"time"
)

// Line is a log line that is written once a second at most. The zero value is
// ready. It is safe for concurrent use.
type Line struct {
	mu    sync.Mutex
	last  time.Time
	quiet int // events since then
}

// Note counts n events. It reports whether it is time for a line, and if so, how
// many events there were without one.
func (s *Line) Note(now time.Time, n int) (quiet int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := now.Sub(s.last); since >= 0 && since < time.Second {
		s.quiet += n
		return 0, false
	}
	quiet = s.quiet
	s.last, s.quiet = now, 0
	return quiet, true
}
