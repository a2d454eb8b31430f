package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/gateway/limits"
)

func TestRetention(t *testing.T) {
	file := filepath.Join(t.TempDir(), "overrides.yaml")
	if err := os.WriteFile(file, []byte(`overrides:
  shop:
    retention-period: 30d
    retention-stream: ['{app="debug", env=~"dev|test"} 2 24h', '{app="audit"} 1 0']
  broken:
    retention-period: 1d
    retention-stream: ['{app=} 1 24h']
`), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := limits.DefaultConfig()
	cfg.OverridesFile = file
	o, err := limits.New(cfg, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := retention{o, slog.New(slog.DiscardHandler)}
	p := r.Retention("shop")
	if p.Period != 30*24*time.Hour || len(p.Streams) != 2 {
		t.Fatalf("policy %+v", p)
	}
	if s := p.Streams[0]; len(s.Matchers) != 2 || s.Priority != 2 || s.Period != 24*time.Hour {
		t.Fatalf("rule %+v", s)
	}
	if s := p.Streams[1]; s.Priority != 1 || s.Period != 0 {
		t.Fatalf("rule %+v", s)
	}
	for _, tenant := range []string{"broken", "other"} {
		if p := r.Retention(tenant); p.Period != 0 || len(p.Streams) != 0 {
			t.Fatalf("%s: policy %+v, want one that keeps all", tenant, p)
		}
	}
}

func TestBadRetentionStream(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "two more words",
		`{app="a"} 1`:              "two more words",
		`app 1 24h`:                "two more words",
		`{app="a"} one 24h`:        "invalid syntax",
		`{app="a"} 1 soon`:         "soon",
		`{app="a"} 1 -1h`:          "negative",
		`{app="a"} |= "{x}" 1 24h`: "two more words",
		`{app="a"} |= "x}`:         "",
		`{} 1 24h`:                 "retention-stream",
	} {
		if _, err := retentionRules([]string{text}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
