package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/loki-go/loki-go/internal/testkit"
)

// find returns the entries that query has, from memory and the store.
func find(t *testing.T, c *testkit.Client, query string) []testkit.Stream {
	t.Helper()
	got, err := c.QueryAll(context.Background(), query, time.Now().Add(-2*time.Hour).UnixNano(), time.Now().Add(time.Hour).UnixNano())
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return got
}

func count(streams []testkit.Stream) (n int) {
	for _, s := range streams {
		n += len(s.Entries)
	}
	return n
}

// TestEveryReceiver sends one line by each protocol and reads it back.
func TestEveryReceiver(t *testing.T) {
	syslog, otlp := fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)), fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))
	s := testkit.NewServer(t, t.TempDir(), "-syslog.listen-tcp="+syslog, "-otlp.grpc-listen="+otlp)
	s.Start()
	s.WaitReady()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := s.Client("")
	post := func(path, contentType, body string) func() error {
		return func() error {
			_, err := c.Do(ctx, http.MethodPost, path, contentType, []byte(body))
			return err
		}
	}
	now := time.Now()
	line := func(text string) []testkit.Stream {
		return []testkit.Stream{{Labels: []testkit.Pair{{Name: "job", Value: "test"}}, Entries: []testkit.Entry{{TS: now.UnixNano(), Line: text}}}}
	}
	call := func(addr, method string, req []byte) error {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		var answer []byte
		return conn.Invoke(ctx, method, &req, &answer, grpc.ForceCodec(rawCodec{}))
	}
	write := func(addr, text string) error {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte(text))
		return errors.Join(err, conn.Close())
	}
	otlpJSON := func(text string) string {
		return fmt.Sprintf(`{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},`+
			`"scopeLogs":[{"logRecords":[{"timeUnixNano":"%d","severityText":"WARN","body":{"stringValue":%q}}]}]}]}`, now.UnixNano(), text)
	}
	for name, x := range map[string]struct {
		send func() error
		want string // labels
	}{
		"loki push":      {func() error { return c.Push(ctx, line("via loki push")) }, `{job="test", service_name="test"}`},
		"loki push json": {func() error { return c.PushJSON(ctx, line("via loki push json")) }, `{job="test", service_name="test"}`},
		"loki gRPC":      {func() error { return call(s.GRPC, "/logproto.Pusher/Push", testkit.PushRequest(line("via loki gRPC"))) }, `{job="test", service_name="test"}`},
		"json":           {post("/ingest/json", "application/json", `{"message":"via json"}`), `job="json"`},
		"logstash":       {post("/ingest/logstash", "application/json", `[{"@timestamp":"`+now.UTC().Format(time.RFC3339Nano)+`","message":"via logstash"}]`), `job="logstash"`},
		"fluentbit":      {post("/ingest/fluentbit", "application/json", fmt.Sprintf(`[{"date":%d.5,"log":"via fluentbit"}]`, now.Unix())), `job="fluentbit"`},
		"elasticsearch":  {post("/_bulk", "application/x-ndjson", "{\"create\":{\"_index\":\"i\"}}\n{\"message\":\"via elasticsearch\"}\n"), `job="elasticsearch"`},
		"otlp":           {post("/otlp/v1/logs", "application/json", otlpJSON("via otlp")), `{service_name="shop"}`},
		"otlp gRPC": {func() error {
			return call(otlp, "/opentelemetry.proto.collector.logs.v1.LogsService/Export", otlpRequest(now, "via otlp gRPC"))
		}, `{service_name="unknown_service"}`},
		"syslog": {func() error {
			return write(syslog, "<13>1 "+now.UTC().Format("2006-01-02T15:04:05.000Z")+" host app 1 - - via syslog\n")
		}, `{job="syslog", service_name="app"}`},
		"forward": {func() error {
			f := &testkit.ForwardClient{Addr: s.Fwd}
			defer f.Close()
			return f.Send(ctx, f.Batch(1, line("via forward")))
		}, `job="forward"`},
	} {
		t.Run(name, func(t *testing.T) {
			if err := x.send(); err != nil {
				t.Fatal(err)
			}
			var got []testkit.Stream
			// Syslog has no answer.
			eventually(t, "the line", func() bool { got = find(t, c, `{service_name=~".+"} |~ "via `+name+`$"`); return len(got) > 0 })
			if len(got) != 1 || count(got) != 1 || !strings.Contains(testkit.LabelText(got[0].Labels), x.want) {
				t.Fatalf("%d entries in %d streams, the first is %s; want one in %s", count(got), len(got), testkit.LabelText(got[0].Labels), x.want)
			}
		})
	}
}

// rawCodec sends messages that are encoded already.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(p []byte, v any) error { *v.(*[]byte) = p; return nil }
func (rawCodec) Name() string                    { return "proto" }

// otlpRequest is an ExportLogsServiceRequest with one record.
func otlpRequest(now time.Time, text string) []byte {
	field := func(number int, b []byte) []byte { return append([]byte{byte(number<<3 | 2), byte(len(b))}, b...) }
	ts := []byte{1<<3 | 1}
	for n := now.UnixNano(); len(ts) < 9; n >>= 8 {
		ts = append(ts, byte(n))
	}
	record := append(ts, field(5, field(1, []byte(text)))...)
	return field(1, field(2, field(2, record)))
}

// TestDeadLetters: what cannot be stored and cannot be refused is kept, with
// the reason.
func TestDeadLetters(t *testing.T) {
	s := testkit.NewServer(t, t.TempDir())
	s.Start()
	s.WaitReady()
	ctx := context.Background()
	c := s.Client("")
	old := time.Now().Add(-400 * 24 * time.Hour).UTC().Format(time.RFC3339)
	if _, err := c.Do(ctx, http.MethodPost, "/ingest/logstash", "application/json",
		[]byte(`[{"message":"good"},{"@timestamp":"`+old+`","message":"too old"},{"message":"broken`)); err != nil {
		t.Fatal(err)
	}
	f := &testkit.ForwardClient{Addr: s.Fwd}
	defer f.Close()
	if err := f.Send(ctx, f.Batch(7, []testkit.Stream{{Entries: []testkit.Entry{{TS: 1e18, Line: "old by forward"}}}})); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		for query, want := range map[string]int{
			`{job="logstash"} |= "good"`: 1,
			`{job="logstash"}`:           1,
			`{job="loki-go-dead-letter", reason="greater_than_max_sample_age"} |= "too old"`:        1,
			`{job="loki-go-dead-letter", reason="greater_than_max_sample_age"} |= "old by forward"`: 1,
			`{job="loki-go-dead-letter", reason="malformed"} |= "broken"`:                           1,
			`{job="loki-go-dead-letter"}`: 3,
		} {
			if got := count(find(t, c, query)); got != want {
				t.Errorf("%s: %s has %d entries, want %d", when, query, got, want)
			}
		}
	}
	check("at once")
	s.Kill()
	s.Start()
	s.WaitReady()
	check("after a kill")
}

// TestRepeatedPushIsStoredOnce: a push under one id, sent again, also after the
// process was killed, is in memory and store once.
func TestRepeatedPushIsStoredOnce(t *testing.T) {
	s := testkit.NewServer(t, t.TempDir())
	s.Start()
	s.WaitReady()
	ctx := context.Background()
	send := func() {
		t.Helper()
		f := &testkit.ForwardClient{Addr: s.Fwd}
		defer f.Close()
		if err := f.Send(ctx, f.Batch(42, []testkit.Stream{{Entries: []testkit.Entry{{TS: time.Now().Add(-time.Minute).Truncate(time.Minute).UnixNano(), Line: "once"}}}})); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(want string) {
		t.Helper()
		text, err := s.Client("").Get(ctx, "/metrics")
		if err != nil || !strings.Contains(text, "loki_go_ingester_repeated_pushes_total "+want+"\n") {
			t.Fatalf("repeated pushes are not %s: %v", want, err)
		}
	}
	send()
	send()
	stored("1")
	s.Kill()
	s.Start()
	s.WaitReady()
	send()
	stored("1")
}

// TestAuthentication: credentials decide which tenants a client may use.
func TestAuthentication(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(users, []byte("users:\n  - name: shop\n    password: secret\n    tenants: [shop]\ntokens:\n  - name: ops\n    token: t0ken\n    tenants: [ops, shop]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := testkit.NewServer(t, t.TempDir(), "-auth.enabled=true", "-auth.users-file="+users)
	s.Start()
	s.WaitReady()
	do := func(method, path, body string, header ...string) int {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+s.HTTP+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	basic, bearer := "Basic c2hvcDpzZWNyZXQ=", "Bearer t0ken"
	event := `{"message":"hello"}`
	for _, x := range []struct {
		want   int
		method string
		path   string
		header []string
	}{
		{401, "POST", "/ingest/json", nil},
		{401, "POST", "/ingest/json", []string{"X-Scope-OrgID", "shop"}},
		{401, "POST", "/ingest/json", []string{"Authorization", "Basic eDp5"}},
		{204, "POST", "/ingest/json", []string{"Authorization", basic}},
		{403, "POST", "/ingest/json", []string{"Authorization", basic, "X-Scope-OrgID", "ops"}},
		{204, "POST", "/ingest/json", []string{"Authorization", bearer, "X-Scope-OrgID", "shop"}},
		{401, "GET", "/loki/api/v1/labels", nil},
		{200, "GET", "/loki/api/v1/labels", []string{"Authorization", bearer}},
		{401, "GET", "/config", nil},
		{200, "GET", "/metrics", nil},
		{200, "GET", "/ready", nil},
	} {
		if got := do(x.method, x.path, event, x.header...); got != x.want {
			t.Errorf("%s %s %q: %d, want %d", x.method, x.path, x.header, got, x.want)
		}
	}
}
