//go:build integration

package otlp

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/proto/push"
)

// collecting keeps what is pushed by tenant. Its first answers to each tenant
// are refusals that pass.
type collecting struct {
	mu       sync.Mutex
	refusals int
	refused  map[string]int
	got      map[string][]string
	ids      map[push.ID]bool
	more     chan struct{} // has something whenever there is more
}

func newCollecting(refusals int) *collecting {
	return &collecting{
		refusals: refusals, refused: map[string]int{}, got: map[string][]string{}, ids: map[push.ID]bool{}, more: make(chan struct{}, 1),
	}
}

func (c *collecting) Admit(context.Context, int64) (func(), error) { return func() {}, nil }

func (c *collecting) Push(_ context.Context, b *push.Batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	tenant := strings.Clone(b.Tenant)
	if c.refused[tenant] < c.refusals {
		c.refused[tenant]++
		e := push.Errorf(push.Overloaded, "not now")
		if c.refused[tenant]%2 == 0 {
			e = push.Errorf(push.RateLimited, "not so fast")
		}
		return e
	}
	if b.ID == (push.ID{}) || c.ids[b.ID] {
		return fmt.Errorf("id %x: %d entries are stored already, or there is none", b.ID, len(b.Entries))
	}
	id := b.ID
	id[0] ^= byte(len(tenant)) // ids are a tenant's own
	c.ids[id] = true
	c.got[tenant] = append(c.got[tenant], plain(b)...)
	select {
	case c.more <- struct{}{}:
	default:
	}
	return nil
}

// wait returns the entries of a tenant, sorted, when there are n.
func (c *collecting) wait(t *testing.T, tenant string, n int) []string {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		c.mu.Lock()
		got := slices.Clone(c.got[tenant])
		c.mu.Unlock()
		if len(got) >= n {
			slices.Sort(got)
			return got
		}
		select {
		case <-c.more:
		case <-timeout:
			t.Fatalf("tenant %q: %d of %d entries", tenant, len(got), n)
		}
	}
}

// serveBoth starts a receiver for HTTP and gRPC.
func serveBoth(t *testing.T, s Sink) (url, grpcAddr string) {
	t.Helper()
	rc := open(t, s)
	mux := http.NewServeMux()
	rc.Register(mux)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL, rc.Addr().String()
}

// sdkEntry is what the program otelsdk makes of record i.
func sdkEntry(i int, meta string) string {
	return fmt.Sprintf(`{service_name="sdk"} %d "record %d" host_name="h1" i="%d" list="[\"a\",1.5]" m_ok="true" m_raw="/w=="%s`+
		` observed_timestamp="1790000001000000000" process_pid="7" scope_name="lib" scope_version="1.0" severity_number="10" severity_text="INFO"`,
		1_790_000_000_000_000_000+i, i, i, meta)
}

func wantSDK(t *testing.T, got []string, n int) {
	t.Helper()
	var want []string
	for i := range n {
		want = append(want, sdkEntry(i, ""))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%d entries of %d, the first:\ngot  %s\nwant %s", len(got), n, at(got, 0), want[0])
	}
}

// TestSDK logs through OpenTelemetry's SDK for Go.
func TestSDK(t *testing.T) {
	const n = 2000
	for _, compress := range []string{"", "gzip"} {
		c := newCollecting(1)
		url, grpcAddr := serveBoth(t, c)
		for name, to := range map[string]string{"http": url + "/otlp/v1/logs", "default": url + "/v1/logs", "grpc": "grpc://" + grpcAddr} {
			out, err := exec.Command(tool(t, "otelsdk"), "-to", to, "-n", fmt.Sprint(n), "-compress", compress, "-tenant", name).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Fatalf("%s %s: %v\n%s", name, compress, err, out)
			}
			wantSDK(t, c.wait(t, name, n), n)
		}
	}
}

// refusing refuses every other entry for good.
type refusing struct{ *collecting }

func (r refusing) Push(ctx context.Context, b *push.Batch) error {
	if err := r.collecting.Push(ctx, b); err != nil {
		return err
	}
	rejected := &push.Rejected{Total: len(b.Entries)}
	rejected.Add(push.TooOld, "{}", len(b.Entries)/2, 1, func() string { return "has timestamp too old" })
	return rejected
}

// TestSDKToldOfRefusals: what partial_success says reaches the SDK's user, and
// nothing is sent again.
func TestSDKToldOfRefusals(t *testing.T) {
	c := newCollecting(0)
	url, grpcAddr := serveBoth(t, refusing{c})
	for name, to := range map[string]string{"http": url + "/v1/logs", "grpc": "grpc://" + grpcAddr} {
		out, _ := exec.Command(tool(t, "otelsdk"), "-to", to, "-n", "100", "-tenant", name).CombinedOutput()
		if text := string(out); !strings.Contains(text, "has timestamp too old") || !strings.Contains(text, "50") {
			t.Fatalf("%s: the SDK says %q", name, text)
		}
		if got := c.wait(t, name, 100); len(got) != 100 {
			t.Fatalf("%s: %d entries", name, len(got))
		}
	}
}

var collectorConfig = template.Must(template.New("").Parse(`
receivers:
  otlp: {protocols: {grpc: {endpoint: "127.0.0.1:{{.Port}}"}}}
  file_log: {include: ["{{.File}}"], start_at: beginning, poll_interval: 50ms}
processors:
  batch: {timeout: 100ms, send_batch_size: 300}
exporters:
{{- range .Exporters}}
  {{.Kind}}/{{.Name}}:
    endpoint: {{.To}}
    compression: {{.Compression}}
    {{- if .Encoding}}
    encoding: {{.Encoding}}{{end}}
    headers: {X-Scope-OrgID: {{.Name}}}
    tls: {insecure: true}
    retry_on_failure: {initial_interval: 20ms, max_interval: 100ms}
{{- end}}
service:
  telemetry: {metrics: {level: none}, logs: {level: info}}
  pipelines:
    logs/sdk: {receivers: [otlp], processors: [batch], exporters: [{{range .Exporters}}{{if ne .Name "files"}}{{.Kind}}/{{.Name}}, {{end}}{{end}}]}
    logs/file: {receivers: [file_log], processors: [batch], exporters: [otlp_grpc/files]}
`))

type exporterOf struct{ Kind, Name, To, Compression, Encoding string }

// TestCollector sends through the OpenTelemetry Collector's exporters, each with
// its queue and retries, in every encoding and compression that they have.
func TestCollector(t *testing.T) {
	const n = 1000
	c := newCollecting(4)
	url, grpcAddr := serveBoth(t, c)
	exporters := []exporterOf{
		{"otlp_http", "proto-gzip", url, "gzip", "proto"},
		{"otlp_http", "proto-zstd", url + "/otlp", "zstd", "proto"},
		{"otlp_http", "proto-plain", url, "none", "proto"},
		{"otlp_http", "json-plain", url + "/otlp", "none", "json"},
		{"otlp_http", "json-gzip", url, "gzip", "json"},
		{"otlp_grpc", "grpc-gzip", grpcAddr, "gzip", ""},
		{"otlp_grpc", "grpc-zstd", grpcAddr, "zstd", ""},
		{"otlp_grpc", "grpc-snappy", grpcAddr, "snappy", ""},
		{"otlp_grpc", "grpc-plain", grpcAddr, "none", ""},
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "app.log")
	var lines bytes.Buffer
	for i := range n {
		fmt.Fprintf(&lines, "line %04d of a file\n", i)
	}
	if err := os.WriteFile(file, lines.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	port := testkit.FreePort(t)
	var conf bytes.Buffer
	err := collectorConfig.Execute(&conf, map[string]any{
		"Port": port, "File": file, "Exporters": append(exporters, exporterOf{"otlp_grpc", "files", grpcAddr, "gzip", ""}),
	})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "collector.yaml")
	if err := os.WriteFile(name, conf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, tool(t, "otelcollector"), "--config", name)
	// The SDK tries again while the collector starts.
	out, err := exec.Command(tool(t, "otelsdk"), "-to", fmt.Sprintf("grpc://127.0.0.1:%d", port), "-n", fmt.Sprint(n)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, e := range exporters {
		wantSDK(t, c.wait(t, e.Name, n), n)
	}
	var fromFile []string
	for _, e := range c.wait(t, "files", n) {
		line := e[strings.Index(e, `"line `):]
		if !strings.Contains(line, ` of a file" log_file_name="app.log" scope_name=`) {
			t.Fatalf("entry %s", e)
		}
		fromFile = append(fromFile, line)
	}
	slices.Sort(fromFile)
	for i, e := range fromFile {
		if !strings.HasPrefix(e, fmt.Sprintf(`"line %04d `, i)) || len(fromFile) != n {
			t.Fatalf("entry %d of %d is %s", i, len(fromFile), e)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range exporters {
		if c.refused[e.Name] != 4 {
			t.Fatalf("%s was refused %d times", e.Name, c.refused[e.Name])
		}
	}
}

// TestCollectorExample runs the example's configuration.
func TestCollectorExample(t *testing.T) {
	const n = 100
	c := newCollecting(1)
	url, _ := serveBoth(t, c)
	config, err := filepath.Abs("../../examples/otel-collector/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "app.log")
	if err := os.WriteFile(file, []byte("before the start\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))
	t.Setenv("LOKI_URL", url)
	t.Setenv("OTLP_LISTEN", addr)
	t.Setenv("LOG_FILES", file)
	run(t, tool(t, "otelcollector"), "--config", config)
	out, err := exec.Command(tool(t, "otelsdk"), "-to", "grpc://"+addr, "-n", fmt.Sprint(n)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantSDK(t, c.wait(t, "", n), n)
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("after the start\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	got := c.wait(t, "", n+1)
	if last := got[0]; !strings.HasPrefix(last, `{service_name="files"} `) || !strings.Contains(last, ` "after the start" `) {
		t.Fatalf("entry of the file: %s", last)
	}
}
