package limits

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/internal/units"
)

func TestDefaultsAreLokis(t *testing.T) {
	cfg := DefaultConfig()
	if errs := cfg.Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	b, err := config.Bind(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range b.Settings() {
		got[s.Name] = s.Default
		if s.Help == "" {
			t.Errorf("%s has no help", s.Name)
		}
	}
	for name, want := range map[string]string{
		"ingestion-rate-mb":                     "4",
		"ingestion-burst-size-mb":               "6",
		"per-stream-rate-limit":                 "3MB",
		"per-stream-rate-limit-burst":           "15MB",
		"max-global-streams-per-user":           "5000",
		"max-line-size":                         "256KB",
		"max-line-size-truncate":                "false",
		"max-label-name-length":                 "1024",
		"max-label-value-length":                "2048",
		"max-label-names-per-series":            "15",
		"discover-log-levels":                   "true",
		"log-level-fields":                      "",
		"log-level-from-json-max-depth":         "2",
		"reject-old-samples":                    "true",
		"reject-old-samples-max-age":            "168h",
		"creation-grace-period":                 "10m",
		"allow-structured-metadata":             "true",
		"max-structured-metadata-size":          "64KB",
		"max-structured-metadata-entries-count": "128",
		"increment-duplicate-timestamp":         "false",
		"unordered-writes":                      "true",
		"out-of-order-horizon":                  "auto",
		"block-ingestion-until":                 "",
		"max-query-length":                      "721h",
		"max-entries-limit-per-query":           "5000",
		"query-timeout":                         "1m",
		"overrides-file":                        "",
	} {
		if g, ok := got[name]; !ok || g != want {
			t.Errorf("%s: got %q, want %q", name, g, want)
		}
	}
	if want := "service,app,application,app_name,name,app_kubernetes_io_name,container,container_name," +
		"k8s_container_name,component,workload,job,k8s_job_name"; got["discover-service-name"] != want {
		t.Errorf("discover-service-name: got %s", got["discover-service-name"])
	}
	l := Default()
	if rate, burst := l.Rate(); rate != 4<<20 || burst != 6<<20 {
		t.Errorf("rate %v, burst %v", rate, burst)
	}
}

func TestValidate(t *testing.T) {
	f := func(want string, change func(l *Limits)) {
		t.Helper()
		l := Default()
		change(&l)
		errs := l.Validate()
		if len(errs) != 1 || errs[0].Error() != want {
			t.Fatalf("got %v, want %s", errs, want)
		}
	}
	f("ingestion-rate-mb: must be a number that is not negative", func(l *Limits) { l.IngestionRateMB = -1 })
	f("ingestion-burst-size-mb: must be greater than 0 when there is a rate", func(l *Limits) { l.IngestionBurstSizeMB = 0 })
	f("per-stream-rate-limit-burst: must be greater than 0 when there is a rate", func(l *Limits) { l.PerStreamRateLimitBurst = 0 })
	f("max-line-size: must be a number that is not negative", func(l *Limits) { l.MaxLineSize = -1 })
	f("max-label-names-per-series: must be greater than 0", func(l *Limits) { l.MaxLabelNamesPerSeries = 0 })
	f("reject-old-samples-max-age: must be greater than 0", func(l *Limits) { l.RejectOldSamplesMaxAge = 0 })
	f("query-timeout: must be greater than 0", func(l *Limits) { l.QueryTimeout = 0 })

	bad := Default()
	bad.MaxLabelNameLength, bad.MaxLabelValueLength, bad.CreationGracePeriod = 0, 0, -1
	if errs := bad.Validate(); len(errs) != 3 {
		t.Fatalf("not all problems are reported: %v", errs)
	}
	off := Default()
	off.IngestionRateMB, off.IngestionBurstSizeMB, off.MaxGlobalStreamsPerUser = 0, 0, 0
	off.RejectOldSamples, off.RejectOldSamplesMaxAge = false, 0
	if errs := off.Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
}

func TestHorizon(t *testing.T) {
	f := func(text string, want time.Duration, again string) {
		t.Helper()
		l := Default()
		l.RejectOldSamplesMaxAge = 5 * time.Hour
		if err := l.OutOfOrderHorizon.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if l.Horizon() != want || l.OutOfOrderHorizon.String() != again {
			t.Fatalf("%s: got %v, %s", text, l.Horizon(), l.OutOfOrderHorizon)
		}
	}
	f("auto", 5*time.Hour, "auto")
	f("0", 0, "0s")
	f("0s", 0, "0s")
	f("2d", 48*time.Hour, "48h")
	for _, bad := range []string{"", "-1h", "-1ns", "soon"} {
		var h Horizon
		if err := h.UnmarshalText([]byte(bad)); err == nil {
			t.Fatalf("%q was accepted", bad)
		}
	}
}

func TestTime(t *testing.T) {
	var at Time
	if err := at.UnmarshalText([]byte("2026-01-02T03:04:05Z")); err != nil || at.Unix() != 1767323045 {
		t.Fatalf("got %v, %v", at, err)
	}
	if text, err := at.MarshalText(); err != nil || string(text) != "2026-01-02T03:04:05Z" {
		t.Fatalf("got %s, %v", text, err)
	}
	if err := at.UnmarshalText(nil); err != nil || !at.IsZero() {
		t.Fatalf("got %v, %v", at, err)
	}
	if err := at.UnmarshalText([]byte("tomorrow")); err == nil {
		t.Fatal("accepted")
	}
}

// files is an overrides file under test.
type files struct {
	t    *testing.T
	name string
	logs bytes.Buffer
}

func newFiles(t *testing.T) *files {
	return &files{t: t, name: filepath.Join(t.TempDir(), "overrides.yaml")}
}

func (f *files) write(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.name, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *files) open() (*Overrides, error) {
	cfg := DefaultConfig()
	cfg.MaxLineSize = 1000
	cfg.OverridesFile = f.name
	env := func(name string) (string, bool) { return "77", name == "STREAMS" }
	return New(cfg, env, slog.New(slog.NewTextHandler(&f.logs, nil)))
}

func TestOverrides(t *testing.T) {
	f := newFiles(t)
	f.write(`
overrides:
  team-a:
    ingestion-rate-mb: 10.5
    max-line-size: 1.5MB
    discover-service-name: []
    max-global-streams-per-user: ${STREAMS}
  "team.b":
    reject-old-samples-max-age: 30d
    out-of-order-horizon: 0
    block-ingestion-until: 2026-01-02T03:04:05Z
  empty:
`)
	o, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	a, b, other := o.For("team-a"), o.For("team.b"), o.For("other")
	if a.IngestionRateMB != 10.5 || a.MaxLineSize != 1536*units.KiB || len(a.DiscoverServiceName) != 0 ||
		a.MaxGlobalStreamsPerUser != 77 || a.IngestionBurstSizeMB != 6 {
		t.Fatalf("team-a: %+v", a)
	}
	if b.RejectOldSamplesMaxAge != 30*24*time.Hour || b.Horizon() != 0 || b.MaxLineSize != 1000 ||
		b.BlockIngestionUntil.Unix() != 1767323045 {
		t.Fatalf("team.b: %+v", b)
	}
	if other.MaxLineSize != 1000 || other.IngestionRateMB != 4 || len(other.DiscoverServiceName) != 13 {
		t.Fatalf("other: %+v", other)
	}
	if o.For("empty").MaxLineSize != 1000 || o.For("other") != o.For("more") {
		t.Fatal("tenants without overrides differ")
	}
}

func TestReload(t *testing.T) {
	f := newFiles(t)
	f.write("overrides: {a: {max-line-size: 10}, b: {max-line-size: 20}}")
	o, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	a, b := o.For("a"), o.For("b")

	f.write("overrides: {a: {max-line-size: 10}, b: {max-line-size: 21}, c: {query-timeout: 5s}}")
	if err := o.Reload(); err != nil {
		t.Fatal(err)
	}
	if o.For("a") != a {
		t.Error("an unchanged tenant got a new pointer")
	}
	if o.For("b") == b || o.For("b").MaxLineSize != 21 || b.MaxLineSize != 20 {
		t.Errorf("b: %v, was %v", o.For("b").MaxLineSize, b.MaxLineSize)
	}
	if o.For("c").QueryTimeout != 5*time.Second {
		t.Error("c has no override")
	}

	// One bad value keeps everything as it was.
	f.write("overrides: {a: {max-line-size: 99}, b: {max-line-size: much}}")
	if err := o.Reload(); err == nil {
		t.Fatal("a bad file was accepted")
	}
	if err := os.Remove(f.name); err != nil {
		t.Fatal(err)
	}
	if err := o.Reload(); err == nil {
		t.Fatal("a missing file was accepted")
	}
	if o.For("a") != a || o.For("b").MaxLineSize != 21 {
		t.Fatal("a failed reload changed limits")
	}

	f.write("")
	if err := o.Reload(); err != nil {
		t.Fatal(err)
	}
	if o.For("a") != o.For("zzz") {
		t.Fatal("an empty file did not remove the overrides")
	}
}

func TestOverridesErrors(t *testing.T) {
	f := func(text string, wants ...string) {
		t.Helper()
		fs := newFiles(t)
		fs.write(text)
		_, err := fs.open()
		if err == nil {
			t.Fatalf("%s: accepted", text)
		}
		for _, want := range wants {
			want = strings.ReplaceAll(want, "F:", fs.name+":")
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s:\ngot  %v\nwant %s", text, err, want)
			}
		}
	}
	f("overrides:\n  a:\n    max-line-siez: 1\n    query-timeout: soon\n",
		"F:3: unknown setting max-line-siez, did you mean max-line-size?", "F:4: query-timeout: ")
	f("overrides:\n  a: {max-line-size: -1}\n", "F:2: max-line-size: ")
	f("overrides:\n  a: {ingestion-rate-mb: -1}\n", "F:2: tenant a: ingestion-rate-mb: must be a number that is not negative")
	f("overrides:\n  a: {}\n  b: 7\n", "F:3: ")
	f("overrides:\n  a: {}\n  a: {}\n", "F:3: a is already given in line 2")
	f("tenants: {}\n", "F:1: unknown key tenants")
	f("[1, 2]\n", "F:1: the file must be a mapping")
	f("overrides: [a]\n", "F:1: overrides must be a mapping")
	f("overrides: {a: {overrides-file: x}}\n", "F:1: unknown setting overrides-file")
	f("overrides:\n  a:\n    max-line-size: ${UNSET}\n", "F:3: ", "UNSET")
	f("a: b: c\n", "limits: parse ")

	missing := newFiles(t)
	if _, err := missing.open(); err == nil {
		t.Fatal("a missing file was accepted")
	}
}

func TestRunFollowsTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t)
		f.write("overrides: {a: {max-line-size: 1}}")
		o, err := f.open()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); o.Run(ctx) }()
		step := func(text string, want units.Bytes, lines int) {
			t.Helper()
			f.write(text)
			for range 3 {
				time.Sleep(11 * time.Second) // of the bubble's clock
			}
			synctest.Wait()
			if got := o.For("a").MaxLineSize; got != want {
				t.Fatalf("limit %v, want %v", got, want)
			}
			if got := strings.Count(f.logs.String(), "\n"); got != lines {
				t.Fatalf("%d lines logged, want %d:\n%s", got, lines, f.logs.String())
			}
		}
		step("overrides: {a: {max-line-size: 1}}", 1, 0)
		step("overrides: {a: {max-line-size: 2}}", 2, 1)
		step("overrides: {a: {max-line-size: x}}", 2, 2) // reported once
		step("overrides: {a: {max-line-size: 3}}", 3, 3)
		step("overrides: {a: {max-line-size: x}}", 3, 4)
		step("overrides: {a: {max-line-size: 3}}", 3, 5) // all is well again
		cancel()
		<-done
	})
}

func TestStatic(t *testing.T) {
	l := Default()
	l.MaxLineSize = 5
	o := Static(l)
	if o.For("a").MaxLineSize != 5 || o.For("a") != o.For("b") {
		t.Fatal("not static")
	}
	if err := o.Reload(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkFor(b *testing.B) {
	tenants := map[string]*Limits{}
	for i := range 1000 {
		tenants[fmt.Sprintf("tenant-%d", i)] = &Limits{}
	}
	o := Static(Default())
	o.current.Store(&set{defaults: o.For(""), tenants: tenants})
	b.ReportAllocs()
	for b.Loop() {
		o.For("tenant-500")
	}
}
