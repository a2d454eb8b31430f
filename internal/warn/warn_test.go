package warn

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		l := New(slog.New(slog.NewTextHandler(&b, nil)))
		lines := func() int { return strings.Count(b.String(), "\n") }
		for range 100 {
			l.Warn("it broke", "peer", "x")
		}
		if n := lines(); n != burst {
			t.Fatalf("%d lines of 100", n)
		}
		time.Sleep(time.Second)
		for range 5 {
			l.Warn("it broke")
		}
		if n := lines(); n != burst+1 || !strings.Contains(b.String(), "left_out=80") {
			t.Fatalf("%d lines:\n%s", n, b.String())
		}
	})
}
