// Package grafana holds tests of the dashboard and the alerts in this folder:
// Grafana and Prometheus read them as they are, and loki-go has all that they
// ask for.
package grafana

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.yaml.in/yaml/v3"

	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/internal/server"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/ring/consul"
	"github.com/loki-go/loki-go/storage/objstore"
)

// exported returns the metrics of a process that has everything on, each with
// the names of its labels.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	users := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(users, []byte("users: [{name: a, password: b, tenants: [c]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := server.DefaultConfig()
	b, err := config.Bind(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	parsed, errs := config.ParseArgs([]string{
		"-data-dir=/data", "-server.http-listen=127.0.0.1:0", "-server.grpc-listen=127.0.0.1:0", "-otlp.grpc-listen=127.0.0.1:0",
		"-forward.listen=127.0.0.1:0", "-forward.heartbeat=false", "-forward.drain-timeout=10ms", "-compactor.enabled=true",
		"-cache.type=memcached", "-cache.addresses=127.0.0.1:1", "-auth.enabled=true", "-auth.users-file=" + users,
	}, b)
	errs = append(errs, config.Apply(parsed, func(string) (string, bool) { return "", false })...)
	if errs = append(errs, cfg.Validate()...); len(errs) > 0 {
		t.Fatal(errors.Join(errs...))
	}
	reg := prometheus.NewRegistry()
	// As the program does.
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s, err := server.Open(cfg, server.Deps{
		FS: vfs.NewMem(), Log: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar), Registry: reg, Settings: func() []byte { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	// What only a remote store and a ring in Consul have.
	store, err := objstore.OpenFilesystem(vfs.NewMem(), "/objects")
	if err != nil {
		t.Fatal(err)
	}
	objstore.Resilient(store, cfg.Storage.Requests, reg)
	members := cfg.Ring.InConsul()
	members.Address = "127.0.0.1:1"
	ring, err := consul.Open(members, consul.Deps{Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	return describe(t, reg)
}

var (
	descName   = regexp.MustCompile(`fqName: "([^"]+)"`)
	descLabels = regexp.MustCompile(`variableLabels: \{([^}]*)\}`)
)

// describe lists what is registered, also vectors that have nothing in them yet.
func describe(t *testing.T, reg *prometheus.Registry) map[string][]string {
	t.Helper()
	descs := make(chan *prometheus.Desc)
	go func() {
		reg.Describe(descs)
		close(descs)
	}()
	out := map[string][]string{}
	for d := range descs {
		name, labels := descName.FindStringSubmatch(d.String()), descLabels.FindStringSubmatch(d.String())
		if name == nil || labels == nil {
			t.Fatalf("cannot read %s", d)
		}
		var list []string
		if labels[1] != "" {
			list = strings.Split(labels[1], ",")
		}
		out[name[1]] = list
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if out[name[1]+suffix] == nil {
				out[name[1]+suffix] = slices.Concat(list, []string{"le"})
			}
		}
	}
	return out
}

var (
	stringLit = regexp.MustCompile(`"(?:\\.|[^"\\])*"`)
	reference = regexp.MustCompile(`\b([a-z]+_[a-z_0-9]+)(\{[^}]*\})?(\s*\()?`)
	matcher   = regexp.MustCompile(`([A-Za-z_]+)\s*(?:=~|!~|!=|=)""`)
	grouping  = regexp.MustCompile(`\b(?:by|on)\s*\(([^)]*)\)`)
)

// functions of PromQL that look like metrics.
var functions = []string{"histogram_quantile", "label_values"}

// use is what an expression needs.
type use struct {
	metrics map[string][]string // name to labels
	by      []string            // labels of the result
}

func parse(t *testing.T, expr string) use {
	t.Helper()
	u := use{metrics: map[string][]string{}}
	bare := stringLit.ReplaceAllString(expr, `""`)
	for _, pair := range []string{"()", "{}", "[]"} {
		if strings.Count(bare, pair[:1]) != strings.Count(bare, pair[1:]) {
			t.Errorf("%s: %s do not match", expr, pair)
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(bare, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			u.by = append(u.by, strings.TrimSpace(l))
		}
	}
	bare = grouping.ReplaceAllString(strings.ReplaceAll(bare, "$__rate_interval", "1m"), "")
	for _, m := range reference.FindAllStringSubmatch(bare, -1) {
		if slices.Contains(functions, m[1]) && m[3] != "" {
			continue
		}
		labels := u.metrics[m[1]]
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			labels = append(labels, l[1])
		}
		u.metrics[m[1]] = labels
	}
	return u
}

// check fails if loki-go does not have what expr asks for.
func check(t *testing.T, have map[string][]string, where, expr string) use {
	t.Helper()
	u := parse(t, expr)
	if len(u.metrics) == 0 && !strings.HasPrefix(expr, "up{") {
		t.Errorf("%s: no metric in %s", where, expr)
	}
	scraped := []string{"job", "instance"} // added by Prometheus
	all := slices.Clone(scraped)
	for name, labels := range u.metrics {
		of, ok := have[name]
		if !ok {
			t.Errorf("%s: loki-go has no metric %s", where, name)
		}
		for _, l := range labels {
			if !slices.Contains(scraped, l) && !slices.Contains(of, l) {
				t.Errorf("%s: %s has no label %s, but %v", where, name, l, of)
			}
		}
		all = append(all, of...)
	}
	for _, l := range u.by {
		if !slices.Contains(all, l) {
			t.Errorf("%s: no metric has the label %s: %s", where, l, expr)
		}
	}
	return u
}

type dashboard struct {
	UID, Title string
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []panel
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Datasource  struct{ UID string }
	Targets     []struct {
		RefID, Expr, LegendFormat string
		Datasource                struct{ UID string }
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text, err := os.ReadFile("dashboards/loki-go.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestExpressions(t *testing.T) {
	have := exported(t)
	d := readDashboard(t)
	used := map[string]bool{}
	legend := regexp.MustCompile(`\{\{(\w+)\}\}`)
	note := func(u use) {
		for name := range u.metrics {
			used[name] = true
		}
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			where := fmt.Sprintf("panel %q", p.Title)
			u := check(t, have, where, target.Expr)
			note(u)
			for _, m := range legend.FindAllStringSubmatch(target.LegendFormat, -1) {
				if !slices.Contains(u.by, m[1]) {
					t.Errorf("%s: the legend has %s, which %s does not keep", where, m[1], target.Expr)
				}
			}
			if !strings.Contains(target.Expr, `{job=~"$job", instance=~"$instance"`) {
				t.Errorf("%s takes no notice of the variables: %s", where, target.Expr)
			}
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			check(t, have, "variable "+v.Name, v.Definition)
		}
	}
	for _, r := range readAlerts(t) {
		u := check(t, have, r.Alert, r.Expr)
		note(u)
		aggregated := strings.Contains(r.Expr, "sum by")
		for _, text := range r.Annotations {
			for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(text, -1) {
				if l := m[1]; aggregated && !slices.Contains(u.by, l) || !aggregated && l != "instance" {
					t.Errorf("%s: the text has the label %s, which the expression does not keep", r.Alert, l)
				}
			}
		}
	}
	if len(used) < 50 {
		t.Errorf("only %d metrics are used: %v", len(used), slices.Sorted(maps.Keys(used)))
	}
}

func TestPanels(t *testing.T) {
	d := readDashboard(t)
	if d.UID == "" || d.Title == "" || len(d.Panels) < 30 {
		t.Errorf("dashboard %q %q with %d panels", d.UID, d.Title, len(d.Panels))
	}
	variables := map[string]bool{}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
	}
	if !variables["datasource"] || !variables["job"] || !variables["instance"] {
		t.Errorf("variables: %v", variables)
	}
	ids, titles, cells := map[int]bool{}, map[string]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || titles[p.Title] || p.Title == "" {
			t.Errorf("panel %d %q: not the only one", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		g := p.GridPos
		if g.X < 0 || g.Y < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			t.Errorf("%q is outside: %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, taken := cells[[2]int{x, y}]; taken {
					t.Fatalf("%q lies over %q", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != "${datasource}" {
			t.Errorf("%q: %d targets, unit %q, data source %q", p.Title, len(p.Targets), p.FieldConfig.Defaults.Unit, p.Datasource.UID)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if refs[target.RefID] || target.RefID == "" || target.Datasource.UID != "${datasource}" {
				t.Errorf("%q: target %q of %q", p.Title, target.RefID, target.Datasource.UID)
			}
			refs[target.RefID] = true
		}
	}
}

type alert struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

// strict reads a YAML file, in which there must be nothing else than into has.
func strict(t *testing.T, file string, into any) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func readAlerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []alert
		}
	}
	strict(t, "prometheus/alerts.yml", &file)
	var out []alert
	for _, g := range file.Groups {
		out = append(out, g.Rules...)
	}
	return out
}

func TestAlerts(t *testing.T) {
	list := readAlerts(t)
	if len(list) < 10 {
		t.Errorf("%d alerts", len(list))
	}
	names := map[string]bool{}
	for _, a := range list {
		if names[a.Alert] || !strings.HasPrefix(a.Alert, "LokiGo") {
			t.Errorf("name %q", a.Alert)
		}
		names[a.Alert] = true
		if s := a.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q", a.Alert, s)
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s does not say what to do", a.Alert)
		}
		if _, err := time.ParseDuration(a.For); a.For != "" && err != nil {
			t.Errorf("%s: %v", a.Alert, err)
		}
	}
}

func TestProvisioning(t *testing.T) {
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, UID, Type, Access, URL string
			IsDefault                    bool           `yaml:"isDefault"`
			JSONData                     map[string]any `yaml:"jsonData"`
		}
	}
	strict(t, "provisioning/datasources/loki-go.yaml", &sources)
	types := map[string]string{}
	for _, s := range sources.Datasources {
		types[s.Type] = s.URL
		if s.Access != "proxy" || s.UID == "" || s.Name == "" {
			t.Errorf("data source %+v", s)
		}
	}
	if want := map[string]string{"loki": "${LOKI_GO_URL}", "prometheus": "${PROMETHEUS_URL}"}; !maps.Equal(types, want) || sources.APIVersion != 1 {
		t.Errorf("data sources: %v", types)
	}
	var dashboards struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Folder, Type string
			AllowUIUpdates     bool `yaml:"allowUiUpdates"`
			Options            struct{ Path string }
		}
	}
	strict(t, "provisioning/dashboards/loki-go.yaml", &dashboards)
	if len(dashboards.Providers) != 1 || dashboards.Providers[0].Type != "file" || dashboards.Providers[0].Options.Path != "${LOKI_GO_DASHBOARDS}" {
		t.Errorf("providers: %+v", dashboards.Providers)
	}
	var prom struct {
		Global struct {
			ScrapeInterval     string `yaml:"scrape_interval"`
			EvaluationInterval string `yaml:"evaluation_interval"`
		}
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string                       `yaml:"job_name"`
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	strict(t, "prometheus/prometheus.yml", &prom)
	for _, f := range prom.RuleFiles {
		if _, err := os.Stat(filepath.Join("prometheus", f)); err != nil {
			t.Error(err)
		}
	}
	// The alert for a process that is gone names the job.
	if len(prom.ScrapeConfigs) != 1 || prom.ScrapeConfigs[0].JobName != "loki-go" || len(prom.RuleFiles) != 1 {
		t.Errorf("prometheus.yml: %+v", prom)
	}
}
