package test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

func TestOperationalEndpoints(t *testing.T) {
	s := testkit.NewServer(t, t.TempDir(), "-storage.s3.secret-key=hunter2", "-auth.enabled=true", "-ingester.id=one")
	s.Start()
	s.WaitReady()
	ctx := context.Background()
	c := s.Client("team-a")
	if err := c.Push(ctx, []testkit.Stream{{
		Labels:  []testkit.Pair{{Name: "job", Value: "x"}},
		Entries: []testkit.Entry{{TS: time.Now().UnixNano(), Line: "hello", Meta: []testkit.Pair{{Name: "k", Value: "v"}}}},
	}}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		"/ready":                        {"ready\n"},
		"/metrics":                      {"go_goroutines", "process_open_fds", "loki_go_server_request_duration_seconds_count", "loki_go_ingester_"},
		"/config":                       {"secret-key: <secret>\n", "data-dir: " + s.Dir + "\n", "enabled: true\n"},
		"/services":                     {"http => running " + s.HTTP, "forward => running " + s.Fwd, "grpc => running " + s.GRPC, "ingester => ACTIVE"},
		"/ring":                         {`"id": "one"`, `"state": "ACTIVE"`},
		"/log_level":                    {`"level": "info"`},
		"/debug/pprof/goroutine":        {""},
		"/loki/api/v1/status/buildinfo": {`"version"`, `"goVersion"`},
		"/loki/api/v1/labels":           {`"job"`},
	} {
		body, err := c.Get(ctx, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s lacks %q:\n%s", path, w, body)
			}
		}
		if strings.Contains(body, "hunter2") {
			t.Errorf("%s shows the secret", path)
		}
	}
	if _, err := c.Do(ctx, http.MethodPost, "/log_level", "application/x-www-form-urlencoded", []byte(url.Values{"log_level": {"debug"}}.Encode())); err != nil {
		t.Error(err)
	}
	if body, err := c.Get(ctx, "/log_level"); err != nil || !strings.Contains(body, "debug") {
		t.Errorf("log level is %s, %v", body, err)
	}
	for path, want := range map[string]string{"/log_level?log_level=loud": "400", "/flush?wait=maybe": "400", "/nowhere": "404", "/ready": "405"} {
		if _, err := c.Do(ctx, http.MethodPost, path, "", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("POST %s: %v, want %s", path, err, want)
		}
	}
	// Without a tenant nothing is read or written; operations need none.
	nobody := s.Client("")
	if _, err := nobody.Get(ctx, "/loki/api/v1/labels"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("labels without a tenant: %v", err)
	}
	if err := nobody.Push(ctx, []testkit.Stream{{Labels: []testkit.Pair{{Name: "a", Value: "b"}}, Entries: []testkit.Entry{{TS: 1, Line: "x"}}}}); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("push without a tenant: %v", err)
	}
	if err := nobody.Flush(ctx); err != nil {
		t.Error(err)
	}
	if objects(t, s.Dir) < 2 {
		t.Error("a flush stored no chunk and index")
	}
	if got, err := s.Client("team-b").QueryAll(ctx, `{job="x"}`, time.Now().Add(-time.Hour).UnixNano(), time.Now().UnixNano()); err != nil || len(got) > 0 {
		t.Errorf("another tenant sees %v, %v", got, err)
	}
	// A client can end the process.
	if _, err := c.Do(ctx, http.MethodPost, "/ingester/shutdown", "", nil); err != nil {
		t.Error(err)
	}
	if err := s.Wait(20 * time.Second); err != nil {
		t.Errorf("ended with %v", err)
	}
}
