package syslog

import "sync"

// apart keeps times of coarse clocks apart. Messages say the second at best
// and come from many hosts on many connections, so that what is the same line
// at the same time in one stream happens; it is two events. push.Builder sees to
// that within a push, apart from one push to the next: the n-th message of a
// time gets n ns more. Times of finer clocks stay as they are.
type apart struct {
	mu    sync.Mutex
	slots [256]struct{ ts, n int64 }
}

func (a *apart) time(ts int64) int64 {
	const step = 1_000_000 // what is finer is no coarse clock
	if ts%step != 0 {
		return ts
	}
	// Two times in one slot make each other start anew, which costs nothing
	// unless they take turns.
	slot := uint64(ts/step) * 0x9E3779B97F4A7C15 >> 56
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &a.slots[slot]
	if s.ts != ts {
		s.ts, s.n = ts, 0
		return ts
	}
	s.n = (s.n + 1) % step
	return ts + s.n
}
