//go:build integration

package otlp

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/proto/push"
)

// tool returns the path of a program that is built for the tests.
func tool(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("LOKI_GO_TOOLS")
	if dir == "" {
		t.Fatal("LOKI_GO_TOOLS does not name the directory of loki, otelcollector and otelsdk: use make integration")
	}
	return filepath.Join(dir, name)
}

// run starts a program that ends with the test.
func run(t *testing.T, name string, args ...string) *bytes.Buffer {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Dir = t.TempDir()
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(name), log.String())
		}
	})
	return &log
}

var lokiConfig = template.Must(template.New("").Parse(`
auth_enabled: false
target: all
analytics: {reporting_enabled: false}
server: {http_listen_address: 127.0.0.1, http_listen_port: {{.HTTP}}, grpc_listen_address: 127.0.0.1, grpc_listen_port: {{.GRPC}}, log_level: warn}
common:
  instance_addr: 127.0.0.1
  path_prefix: {{.Dir}}
  replication_factor: 1
  storage: {filesystem: {chunks_directory: {{.Dir}}/chunks, rules_directory: {{.Dir}}/rules}}
  ring: {instance_addr: 127.0.0.1, kvstore: {store: inmemory}}
schema_config:
  configs:
    - {from: 2020-01-01, store: tsdb, object_store: filesystem, schema: v13, index: {prefix: index_, period: 24h}}
# What our gateway adds, or leaves to queries, is not what is compared; and the
# requests have more labels than the default allows.
limits_config: {discover_log_levels: false, max_label_names_per_series: 30}
`))

func startLoki(t *testing.T) *testkit.Client {
	t.Helper()
	dir, port := t.TempDir(), testkit.FreePort(t)
	var conf bytes.Buffer
	if err := lokiConfig.Execute(&conf, map[string]any{"HTTP": port, "GRPC": testkit.FreePort(t), "Dir": dir}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "loki.yaml")
	if err := os.WriteFile(file, conf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, tool(t, "loki"), "-config.file="+file)
	c := &testkit.Client{Base: fmt.Sprintf("http://127.0.0.1:%d", port)}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAgainstLoki sends the same requests to stock Loki and to the receiver,
// as protobuf and as JSON, and compares streams, lines and metadata.
func TestAgainstLoki(t *testing.T) {
	loki := startLoki(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	start := time.Now().Add(-time.Hour).UnixNano()
	requests := lokiRequests(uint64(start))
	s := &sink{}
	var got []string
	s.do = func(b *push.Batch) error { got = append(got, stored(t, b)...); return nil }
	rc := receiverFor(t, s)
	for i, r := range requests {
		contentType, body := protobuf, protoRequest(r...)
		if i%2 == 1 {
			contentType, body = jsonType, jsonRequest(r...)
		}
		if _, err := loki.Do(ctx, "POST", "/otlp/v1/logs", contentType, body); err != nil {
			t.Fatalf("loki, request %d: %v", i, err)
		}
		if w := post(rc, contentType, body); w.Code != 200 {
			t.Fatalf("request %d: %d %s", i, w.Code, w.Body)
		}
	}
	streams, err := loki.QueryAll(ctx, `{service_name=~".+"}`, start-int64(time.Hour), start+int64(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, st := range streams {
		for _, e := range st.Entries {
			want = append(want, fmt.Sprintf("%s %d %q %v", testkit.LabelText(st.Labels), e.TS-start, e.Line, e.Meta))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("entry %d of %d, Loki has %d:\ngot  %s\nloki %s", i, len(got), len(want), at(got, i), at(want, i))
		}
	}
	t.Logf("%d entries of %d requests are the same", len(got), len(requests))
}

func at(s []string, i int) string {
	if i < len(s) {
		return s[i]
	}
	return "-"
}

// stored writes what a batch holds as a query shows it, with the label that the
// gateway adds.
func stored(t *testing.T, b *push.Batch) []string {
	var out []string
	for i := range b.Streams {
		st := &b.Streams[i]
		ls, err := labels.Parse(string(b.Bytes(st.RawLabels)))
		if err != nil {
			t.Fatal(err)
		}
		set := ls.Map()
		if set["service_name"] == "" {
			set["service_name"] = "unknown_service"
			for _, name := range slices.Backward(limits.Default().DiscoverServiceName) {
				if v := set[name]; v != "" {
					set["service_name"] = v
				}
			}
		}
		var pairs []testkit.Pair
		for _, l := range labels.FromMap(set) {
			pairs = append(pairs, testkit.Pair{Name: l.Name, Value: l.Value})
		}
		for j := range b.StreamEntries(st) {
			e := &b.StreamEntries(st)[j]
			var meta []testkit.Pair
			for it := b.Pairs(e); it.Next(); {
				meta = append(meta, testkit.Pair{Name: string(it.Name), Value: string(it.Value)})
			}
			out = append(out, fmt.Sprintf("%s %d %q %v", testkit.LabelText(pairs), e.TS-startOf, b.Bytes(e.Line), meta))
		}
	}
	return out
}

var startOf int64

// lokiRequests makes requests of every kind whose mapping Loki defines. Left out
// is what it refuses (names without a letter or digit) or loses (one of two
// values with one name, NaN in JSON).
func lokiRequests(start uint64) [][]resourceOf {
	startOf = int64(start)
	next := start
	rec := func(r record) record {
		next += 1_000_003
		r.Time = next
		return r
	}
	var out [][]resourceOf
	add := func(attrs kvs, records ...record) {
		for i := range records {
			records[i] = rec(records[i])
		}
		r := []resourceOf{{Attrs: attrs, Scopes: []scopeOf{{Records: records}}}}
		out = append(out, r, r)
		// The second is sent as JSON; it has times of its own.
		second := slices.Clone(records)
		for i := range second {
			second[i] = rec(second[i])
		}
		out[len(out)-1] = []resourceOf{{Attrs: attrs, Scopes: []scopeOf{{Records: second}}}}
	}
	values := []any{
		nil, "", "text \"q\" \\ \n\t\x01 é 😀", "<a&b>", true, false, int64(0), int64(math.MinInt64), int64(math.MaxInt64),
		0.0, math.Copysign(0, -1), 1.5, float64(7), 1e20, 1e21, 1.5e-6, 1.5e-7, 123456789.123, math.MaxFloat64, math.SmallestNonzeroFloat64,
		math.NaN(), math.Inf(1), math.Inf(-1),
		[]byte{},
		[]byte("\x00\xff\x80abc"),
		[]any{},
		[]any{"a", int64(1), nil, 1.5e-7, []any{true}, kvs{{"k", "<v>"}}, []byte{1}, "\u2028\b\f"},
		kvs{},
		kvs{{"b", int64(1)}, {"a", kvs{{"z.y", []any{nil}}, {"x", ""}}}, {"1", 2.5}},
	}
	for _, v := range values {
		add(kvs{{"service.name", "bodies"}}, record{Body: v})
		add(kvs{{"service.name", "attributes"}, {"res.attr", v}}, record{Body: "x", Attrs: kvs{{"log.attr", v}}})
		add(kvs{{"service.name", "labels"}, {"k8s.pod.name", v}}, record{Body: "x"})
		out = append(out, []resourceOf{{Attrs: kvs{{"service.name", "scopes"}}, Scopes: []scopeOf{{Attrs: kvs{{"scope.attr", v}}, Records: []record{rec(record{})}}}}})
	}
	var all kvs
	for _, a := range DefaultConfig().LabelAttributes {
		all = append(all, kv{a, "value of " + a})
	}
	add(all, record{Body: "all labels"})
	add(kvs{{"service.name", ""}, {"k8s.job.name", "j"}}, record{Body: "x"})
	add(kvs{{"container.name", "c"}}, record{Body: "x"})
	add(kvs{{"k8s.container.name", "kc"}, {"service.namespace", "n"}}, record{Body: "x"})
	add(nil, record{Body: "x"})
	add(kvs{{"host.name", "h"}}, record{Body: "x"})
	add(kvs{{"service.name", "first"}, {"service.name", "second"}}, record{Body: "x"})
	add(kvs{{"service.name", int64(5)}, {"service", "s"}, {"cloud.region", "r\"\n\\"}}, record{Body: "x"})
	add(kvs{{"service.name", "names"}}, record{Attrs: kvs{
		{"a.b", "1"},
		{"a__b__c", "2"},
		{"1st", "3"},
		{"__reserved__", "4"},
		{"_x", "5"},
		{"ünï", "6"},
		{"q-r/s t", "7"},
		{"UPPER", "8"},
		{"m", kvs{{"n.o", kvs{{"p__q", "9"}}}, {"2nd", "10"}, {"", "11"}}},
	}})
	add(kvs{{"service.name", "fields"}},
		record{Severity: 9, SeverityText: "INFO", Observed: start + 5, Dropped: 3, Flags: 0xffffffff, Trace: []byte{15: 1}, Span: []byte{0: 0xab, 7: 0}},
		record{Severity: 24, SeverityText: "weird ☃", Trace: make([]byte, 16), Span: make([]byte, 8)},
		record{Severity: -1, Flags: 1})
	for range 2 {
		out = append(out, []resourceOf{
			{Attrs: kvs{{"service.name", "scopes"}, {"r", "1"}}, Scopes: []scopeOf{
				{Name: "lib", Version: "1.0", Dropped: 2, Attrs: kvs{{"s", "2"}}, Records: []record{rec(record{Attrs: kvs{{"l", "3"}}})}},
				{Records: []record{rec(record{}), rec(record{Body: "y"})}},
			}},
			{Attrs: kvs{{"service.name", "other"}}, Scopes: []scopeOf{{Name: "n", Records: []record{rec(record{})}}}},
		})
	}
	// Without a time of its own a record has the one at which it was observed.
	for range 2 {
		next += 1_000_003
		out = append(out, []resourceOf{one(kvs{{"service.name", "observed"}}, record{Observed: next, Body: "x"})})
	}
	return out
}
