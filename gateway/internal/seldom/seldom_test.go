package seldom_test

import (
	"testing"
	"time"

	"github.com/loki-go/loki-go/gateway/internal/seldom"
)

func TestOneASecond(t *testing.T) {
	var l seldom.Line
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := func(after time.Duration, n, wantQuiet int, wantOK bool) {
		t.Helper()
		now = now.Add(after)
		if quiet, ok := l.Note(now, n); quiet != wantQuiet || ok != wantOK {
			t.Errorf("after %v: %d, %v, want %d, %v", after, quiet, ok, wantQuiet, wantOK)
		}
	}
	f(0, 7, 0, true)
	f(0, 2, 0, false)
	f(999*time.Millisecond, 3, 0, false)
	f(time.Millisecond, 1, 5, true)
	f(time.Hour, 1, 0, true)
	f(-time.Hour, 1, 0, true) // a clock that was set back does not silence it
}
