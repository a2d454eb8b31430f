package gateway

import (
	"sync"
	"time"
)

// seldom keeps a log line to one a second. The zero value is ready.
type seldom struct {
	mu    sync.Mutex
	last  time.Time
	quiet int // what was noted since then
}

// note reports whether it is time for a line, and if so, how many were noted
// without one.
func (s *seldom) note(now time.Time, n int) (quiet int, ok bool) {
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
