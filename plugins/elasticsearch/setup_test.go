package elasticsearch

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/units"
)

// others are the routes of the server, of all kinds.
var others = []string{
	"GET /ready", "GET /config", "GET /services", "GET /ring", "GET /log_level", "POST /log_level", "POST /flush",
	"POST /ingester/shutdown", "GET /metrics", "GET /debug/pprof/", "GET /debug/pprof/trace",
	"/ingest/logstash", "/ingest/json", "/ingest/fluentbit", "/loki/api/v1/push", "/api/prom/push", "/otlp/v1/logs", "/v1/logs",
	"GET /loki/api/v1/label/{name}/values", "POST /loki/api/v1/label/{name}/values", "GET /loki/api/v1/query", "/loki/",
}

func TestBesideOthers(t *testing.T) {
	for _, first := range []bool{true, false} {
		m := http.NewServeMux()
		r := newReceiver(t, &sink{}, nil)
		if first {
			r.Register(m)
		}
		for _, p := range others {
			m.HandleFunc(p, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, p) })
		}
		if !first {
			r.Register(m)
		}
		f := func(method, path string, code int, body, allow string) {
			t.Helper()
			rec := do(m, newRequest(method, path, "{}"))
			if rec.Code != code || body != "" && rec.Body.String() != body || rec.Header().Get("Allow") != allow {
				t.Errorf("%s %s: %d %s, allowed %q, want %d %s", method, path, rec.Code, rec.Body, rec.Header().Get("Allow"), code, body)
			}
		}
		f("GET", "/ready", 200, "GET /ready", "")
		f("GET", "/debug/pprof/heap", 200, "GET /debug/pprof/", "")
		f("POST", "/ingest/logstash", 200, "/ingest/logstash", "")
		f("PUT", "/loki/api/v1/nothing", 200, "/loki/", "")
		f("GET", "/loki/api/v1/label/x/values", 200, "GET /loki/api/v1/label/{name}/values", "")
		// What others do not serve is answered as without us.
		f("POST", "/ready", 405, "", "GET")
		f("PUT", "/ready", 405, "", "GET")
		f("PUT", "/log_level", 405, "", "GET, POST")
		f("GET", "/ingester/shutdown", 405, "", "POST")
		f("GET", "/favicon.ico", 404, "", "")
		f("HEAD", "/healthz", 404, "", "")
		f("GET", "/a/b/c/d/e/f/g", 404, "", "")
		f("POST", "/ingest/thing", 404, "", "")
		// Indices may have any name.
		f("GET", "/_bulk", 405, "", "POST, PUT")
		f("POST", "/ingest/_bulk", 400, "", "")
		f("POST", "/loki/_bulk", 200, "/loki/", "") // theirs is a whole tree
	}
}

func TestProductCheck(t *testing.T) {
	h := mux(newReceiver(t, &sink{}, func(c *Config) { c.Version = "9.2.1" }))
	for _, path := range []string{"/", "/?filter_path=version", "/elasticsearch", "/elasticsearch/", "/insert/elasticsearch"} {
		for _, method := range []string{"GET", "HEAD"} {
			rec := do(h, newRequest(method, path, ""))
			if rec.Code != 200 || rec.Header().Get("X-Elastic-Product") != "Elasticsearch" || rec.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%s %s: %d %v", method, path, rec.Code, rec.Header())
			}
			if method == "HEAD" {
				continue
			}
			var info struct {
				Tagline string
				UUID    string `json:"cluster_uuid"`
				Version struct {
					Number string
					Flavor string `json:"build_flavor"`
				}
			}
			decode(t, rec, &info)
			if info.Version.Number != "9.2.1" || info.Version.Flavor != "default" || info.Tagline != "You Know, for Search" || len(info.UUID) != 22 {
				t.Errorf("%s: %s", path, rec.Body)
			}
		}
	}
}

// What clients call before they send, and the fields of the answers that they
// look at.
func TestSetup(t *testing.T) {
	h := mux(newReceiver(t, &sink{}, nil))
	f := func(method, path, want string, fields ...string) {
		t.Helper()
		req := newRequest(method, path, `{"body":"`+strings.Repeat("x", 300<<10)+`"}`)
		req.Host = "gateway.example:3100"
		rec := do(h, req)
		if rec.Code != 200 || rec.Header().Get("X-Elastic-Product") != "Elasticsearch" {
			t.Errorf("%s %s: %d %v %s", method, path, rec.Code, rec.Header(), rec.Body)
			return
		}
		if rest, _ := req.Body.Read(make([]byte, 1)); rest > 0 && method != "GET" && method != "HEAD" {
			t.Errorf("%s %s: the body was not read, so the client may not see the answer", method, path)
		}
		if want == "" {
			return
		}
		var v any
		decode(t, rec, &v)
		for _, field := range fields {
			switch x := v.(type) {
			case map[string]any:
				v = x[field]
			case []any:
				if len(x) == 0 {
					t.Errorf("%s %s: empty list, want %s: %s", method, path, field, rec.Body)
					return
				}
				v = x[0].(map[string]any)[field]
			}
		}
		got, _ := json.Marshal(v)
		if string(got) != want {
			t.Errorf("%s %s: %v is %s, want %s", method, path, fields, got, want)
		}
	}
	// Logstash: the license decides whether the connection is alive.
	f("GET", "/_license", `"active"`, "license", "status")
	f("GET", "/_license?human=false", `"basic"`, "license", "type")
	f("HEAD", "/_index_template/logstash", "")
	f("PUT", "/_index_template/logstash", "true", "acknowledged")
	f("GET", "/_ilm/policy/logstash-policy", "1", "logstash-policy", "version")
	f("PUT", "/_ilm/policy/logstash-policy", "true", "acknowledged")
	f("PUT", "/%3Clogstash-%7Bnow%2Fd%7D-000001%3E", "true", "acknowledged")
	f("GET", "/_nodes/http", `"gateway.example:3100"`, "nodes", nodeID, "http", "publish_address")
	f("GET", "/_xpack", "true", "features", "ilm", "available")
	// Beats.
	f("GET", "/_xpack/license", `"active"`, "license", "status")
	f("HEAD", "/_alias/filebeat-8.19.0", "")
	f("GET", "/_data_stream/filebeat-8.19.0", `"filebeat-8.19.0"`, "data_streams", "name")
	f("PUT", "/_data_stream/filebeat-8.19.0", "true", "acknowledged")
	f("GET", "/_index_template/filebeat-8.19.0", `"filebeat-8.19.0"`, "index_templates", "name")
	f("GET", "/_ingest/pipeline/filebeat-nginx", "[]", "filebeat-nginx", "processors")
	f("PUT", "/elasticsearch/_ingest/pipeline/filebeat-nginx", "true", "acknowledged")
	f("GET", "/_template/filebeat", "0", "filebeat", "order")
	f("GET", "/_component_template/x", `"x"`, "component_templates", "name")
	f("GET", "/_index_template/x*", "[]", "index_templates")
	f("GET", "/_ilm/policy", "{}")
	f("GET", "/_ilm/status", `"RUNNING"`, "operation_mode")
	// Vector and rsyslog.
	f("GET", "/_cluster/health", `"green"`, "status")
	f("GET", "/_cluster/health/index?wait_for_status=yellow", "false", "timed_out")
	f("GET", "/_cluster/state/version", "8", "version")
	f("GET", "/_cluster/settings", "{}", "persistent")
	f("GET", "/_cat/health?format=json", `"green"`, "status")
	f("GET", "/_cat/indices?format=json", "[]")
	// fluent-plugin-elasticsearch, curator, people.
	f("GET", "/logs/_alias", "{}", "logs", "aliases")
	f("GET", "/logs/_mapping", "{}", "logs", "mappings")
	f("PUT", "/logs/_settings", "true", "acknowledged")
	f("POST", "/logs/_refresh", "true", "acknowledged")
	f("POST", "/_aliases", "true", "acknowledged")
	f("GET", "/_aliases", "{}")
	f("DELETE", "/_template/x", "true", "acknowledged")

	rec := do(h, newRequest("GET", "/_cat/health", ""))
	if rec.Code != 200 || !strings.HasPrefix(rec.Body.String(), "1800000000 08:00:00 loki-go green") {
		t.Errorf("_cat/health: %d %s", rec.Code, rec.Body)
	}
	for _, c := range [][2]string{
		{"GET", "/_search"},
		{"POST", "/logs/_search"},
		{"GET", "/_nothing"},
		{"POST", "/_monitoring/bulk"},
		{"POST", "/_xpack"},
		{"GET", "/_cluster/nothing"},
		{"GET", "/logs/_doc/1"},
	} {
		rec := do(h, newRequest(c[0], c[1], "{}"))
		var e struct{ Error struct{ Type, Reason string } }
		decode(t, rec, &e)
		if rec.Code != 404 || e.Error.Type != "resource_not_found_exception" || !strings.Contains(e.Error.Reason, c[1]) {
			t.Errorf("%s %s: %d %s", c[0], c[1], rec.Code, rec.Body)
		}
	}
}

// A template of a megabyte is read, so that the client comes to see the answer.
func TestLargeTemplate(t *testing.T) {
	srv := httptest.NewServer(mux(newReceiver(t, &sink{}, nil)))
	defer srv.Close()
	req, _ := http.NewRequest("PUT", srv.URL+"/_index_template/x", strings.NewReader(strings.Repeat(" ", 4<<20)))
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 || res.Close {
		t.Errorf("%s, connection closed: %v", res.Status, res.Close)
	}
}

func TestConfig(t *testing.T) {
	f := func(change func(*Config), want string) {
		t.Helper()
		c := DefaultConfig()
		change(&c)
		errs := c.Validate()
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("%v, want %q", errs, want)
		}
		if _, err := New(Deps{}, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v, want %q", err, want)
		}
	}
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Error(errs)
	}
	f(func(c *Config) { c.MaxBody = 0 }, "max-body")
	f(func(c *Config) { c.MaxDecoded = 2 * units.GiB }, "max-decoded")
	f(func(c *Config) { c.MaxDocument = 0 }, "max-document")
	f(func(c *Config) { c.MaxActions = 0 }, "max-actions")
	f(func(c *Config) { c.Version = "8.x" }, "version")
	f(func(c *Config) { c.PathPrefixes = []string{"es"} }, "path-prefixes")
	f(func(c *Config) { c.PathPrefixes = []string{"/es/"} }, "path-prefixes")
	f(func(c *Config) { c.KeepRefusedAgents = []string{""} }, "keep-refused-agents")
}
