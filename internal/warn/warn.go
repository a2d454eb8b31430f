// Package warn limits how often warnings are logged: what peers do wrong must
// not fill the disk.
package warn

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Logger writes warnings: up to burst at once, then one a second, and says how
// many it left out. It may be used concurrently.
type Logger struct {
	log     *slog.Logger
	mu      sync.Mutex
	used    float64
	last    time.Time
	skipped int
}

const burst = 20

// New returns a Logger that writes to log.
func New(log *slog.Logger) *Logger { return &Logger{log: log} }

// Warn logs msg, unless there have been too many warnings just now.
func (l *Logger) Warn(msg string, args ...any) { l.Log(slog.LevelWarn, msg, args...) }

// Log is Warn for another level.
func (l *Logger) Log(level slog.Level, msg string, args ...any) {
	skipped, ok := l.allow(time.Now())
	if !ok {
		return
	}
	if skipped > 0 {
		args = append(args, "left_out", skipped)
	}
	l.log.Log(context.Background(), level, msg, args...)
}

func (l *Logger) allow(now time.Time) (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = max(0, l.used-now.Sub(l.last).Seconds())
	l.last = now
	if l.used+1 > burst {
		l.skipped++
		return 0, false
	}
	l.used++
	skipped, l.skipped = l.skipped, 0
	return skipped, true
}
