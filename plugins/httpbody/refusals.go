package httpbody

import (
	"log/slog"
	"sync"
	"time"
)

// RefusalLog writes at most one line a second and says how many it left out: a
// sender that is wrong is wrong often. Set Log before use.
type RefusalLog struct {
	Log *slog.Logger

	mu   sync.Mutex
	last time.Time
	more int // left out since last
}

// Note logs that something of a request was refused, and why.
func (l *RefusalLog) Note(receiver, peer string, status int, text string) {
	l.mu.Lock()
	now := time.Now()
	if now.Sub(l.last) < time.Second {
		l.more++
		l.mu.Unlock()
		return
	}
	more := l.more
	l.last, l.more = now, 0
	l.mu.Unlock()
	const most = 500
	if len(text) > most {
		text = text[:most] + "..."
	}
	l.Log.Warn("events refused", "receiver", receiver, "peer", peer, "status", status, "err", text, "more", more)
}
