package server

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestForeignForms: programs and pages from here may flush, end the process and
// set the level; forms of pages from elsewhere may not.
func TestForeignForms(t *testing.T) {
	done := 0
	do := func(context.Context, bool) error { done++; return nil }
	o := &ops{
		ready: func() error { return nil }, flush: do, shutdown: do,
		level: new(slog.LevelVar), metrics: prometheus.NewRegistry(), log: slog.New(slog.DiscardHandler),
	}
	mux := http.NewServeMux()
	o.register(mux)
	f := func(path string, want int, header ...string) {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, "http://logs.example"+path, nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s %q: status %d, want %d", path, header, w.Code, want)
		}
	}
	for path, ok := range map[string]int{"/flush": 204, "/ingester/shutdown": 204, "/log_level?log_level=error": 200} {
		f(path, ok)
		f(path, ok, "Origin", "http://logs.example")
		f(path, ok, "Sec-Fetch-Site", "none")
		f(path, http.StatusForbidden, "Origin", "http://evil.example")
		f(path, http.StatusForbidden, "Sec-Fetch-Site", "cross-site")
	}
	if done != 6 || o.level.Level() != slog.LevelError {
		t.Errorf("%d of 6 were done, level %s", done, o.level.Level())
	}
}
