package httpjson

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestExamples checks that the examples send to paths that there are, in a way
// that keeps what is refused.
func TestExamples(t *testing.T) {
	paths := regexp.MustCompile(`/ingest/[a-z?=]+`)
	for file, want := range map[string]string{
		"fluent-bit/http.conf":   "/ingest/fluentbit",
		"logstash/logstash.conf": "/ingest/logstash",
		"vector/vector.yaml":     "/ingest/json?refused=keep",
	} {
		raw, err := os.ReadFile("../../examples/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if got := paths.FindAllString(string(raw), -1); len(got) != 1 || got[0] != want {
			t.Fatalf("%s sends to %q, want %s", file, got, want)
		}
		s := &sink{}
		if rec := do(mux(newReceiver(t, s, nil)), post(want, `{"message":"m"}`)); rec.Code != http.StatusNoContent || !s.batches[0].KeepRefused {
			t.Fatalf("%s: %d, %+v", want, rec.Code, s.batches)
		}
	}
}

// TestVectorExample makes the request that Vector's example would make, as far as
// the configuration says what it looks like.
func TestVectorExample(t *testing.T) {
	raw, err := os.ReadFile("../../examples/vector/vector.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Sinks map[string]struct {
			Type, URI, Method, Compression string
			Encoding                       struct{ Codec string }
			Framing                        struct{ Method string }
		}
	}
	if err := yaml.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	c := config.Sinks["loki_go"]
	if c.Type != "http" || c.Compression != "gzip" || c.Encoding.Codec != "json" || c.Framing.Method != "newline_delimited" {
		t.Fatalf("%+v", c)
	}
	_, uri, _ := strings.Cut(c.URI, ":-")
	u, err := url.Parse(strings.Replace(uri, "}", "", 1))
	if err != nil {
		t.Fatal(err)
	}
	body := `{"host":"web-1","message":"one","service":"shop","source_type":"demo_logs","timestamp":"2026-09-21T14:13:20.123456789Z"}` + "\n" +
		`{"host":"web-1","message":"two` + "\n" +
		`{"host":"web-1","message":"three","source_type":"demo_logs","timestamp":"2026-09-21T14:13:21Z"}`
	req := httptest.NewRequest(strings.ToUpper(c.Method), u.RequestURI(), strings.NewReader(gzipped(t, body)))
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Content-Encoding", c.Compression)
	s := &sink{}
	rec := do(mux(newReceiver(t, s, nil)), req)
	want := []string{
		`{job="json", service_name="shop"} 1790000000123456789 one | host=web-1 | source_type=demo_logs`,
		`{job="json"} 1790000001000000000 three | host=web-1 | source_type=demo_logs`,
	}
	if rec.Code != 200 || strings.Join(s.entries, "\n") != strings.Join(want, "\n") || len(s.dead) != 1 || !strings.HasSuffix(s.dead[0], `{"host":"web-1","message":"two`) {
		t.Fatalf("%d %s\n got %q\nwant %q\ndead %q", rec.Code, rec.Body, s.entries, want, s.dead)
	}
}
