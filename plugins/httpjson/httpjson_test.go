package httpjson

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

const arrival = 1_800_000_000_000_000_001

// sink keeps what was pushed, as text.
type sink struct {
	mu       sync.Mutex
	entries  []string
	batches  []push.Batch // tenant, receiver and id only
	admitted int64
	held     int64
	admitErr error
	answer   func(b *push.Batch) error
}

func (s *sink) Admit(_ context.Context, n int64) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admitErr != nil {
		return nil, s.admitErr
	}
	s.admitted += n
	s.held += n
	return func() { s.mu.Lock(); s.held -= n; s.mu.Unlock() }, nil
}

func (s *sink) Push(_ context.Context, b *push.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, push.Batch{Tenant: b.Tenant, Receiver: b.Receiver, ID: b.ID})
	if s.answer != nil {
		if err := s.answer(b); err != nil {
			return err
		}
	}
	for i := range b.Streams {
		st := &b.Streams[i]
		for j := range b.StreamEntries(st) {
			e := &b.StreamEntries(st)[j]
			text := fmt.Sprintf("%s %d %s", b.Bytes(st.RawLabels), e.TS, b.Bytes(e.Line))
			for p := b.Pairs(e); p.Next(); {
				text += fmt.Sprintf(" | %s=%s", p.Name, p.Value)
			}
			s.entries = append(s.entries, text)
		}
	}
	return nil
}

func newReceiver(t testing.TB, s Sink, change func(*Config)) *Receiver {
	t.Helper()
	m, err := mapping.New(mapping.DefaultConfig(), mapping.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	r, err := New(Deps{Sink: s, Mapper: m, Now: func() time.Time { return time.Unix(0, arrival) }}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mux(r *Receiver) http.Handler {
	m := http.NewServeMux()
	r.Register(m)
	return m
}

func post(path, body string, headers ...string) *http.Request {
	req := httptest.NewRequest("POST", path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

func do(h http.Handler, req *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec
}

// captured returns a request as a client sent it, but to path.
func captured(t testing.TB, name, path string) *http.Request {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name + ".req0.bin")
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Path, req.URL.RawQuery = path, ""
	return req
}

const (
	msg  = "GET /índex 200 日本 😀"
	meta = ` | bytes=1234 | duration=0.25 | host_name=web-1 | log_file_path=/var/log/app.log | ok=true | tags=["prod","edge"]`
)

func TestLogstashFixtures(t *testing.T) {
	f := func(name string, want ...string) {
		t.Helper()
		s := &sink{}
		if rec := do(mux(newReceiver(t, s, nil)), captured(t, name, "/ingest/logstash")); rec.Code != 204 || rec.Body.Len() > 0 {
			t.Fatalf("%s: %d %s", name, rec.Code, rec.Body)
		}
		if !reflect.DeepEqual(s.entries, want) {
			t.Fatalf("%s:\n got %q\nwant %q", name, s.entries, want)
		}
		if s.held != 0 || s.admitted == 0 {
			t.Fatalf("%s: %d bytes admitted, %d still held", name, s.admitted, s.held)
		}
	}
	first := `{job="logstash"} 1790000000123456789 ` + msg + meta
	batch := []string{
		first,
		`{job="logstash"} 1790000001500000000 {broken json | host_name=web-1 | tags=["_jsonparsefailure"]`,
		`{job="logstash"} 1790000002000000000 non-ECS event, host is a string | host=legacy-host | type=syslog`,
	}
	f("constructed_logstash_json", first)
	f("constructed_logstash_json_batch", batch...)
	f("constructed_logstash_json_batch_gzip", batch...)
	f("constructed_logstash_message", fmt.Sprintf(`{job="logstash"} %d %s`, int64(arrival), msg))
	f("constructed_logstash_form", `{job="logstash"} 1790000000123456789 `+msg+
		` | bytes=1234 | duration=0.25 | event={'original': '`+msg+`'} | host={'name': 'web-1'} | log={'file': {'path': '/var/log/app.log'}}`+
		` | nil=None | ok=True | tags=['prod', 'edge']`)
}

func TestFluentBitFixtures(t *testing.T) {
	files, err := filepath.Glob("testdata/flb_http_*.req0.bin")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".req0.bin")
		if name == "flb_http_msgpack" {
			continue
		}
		s := &sink{}
		rec := do(mux(newReceiver(t, s, nil)), captured(t, name, "/ingest/json"))
		if rec.Code != 204 {
			t.Fatalf("%s: %d %s", name, rec.Code, rec.Body)
		}
		// The first record: its own time has ns, so it wins over Fluent Bit's.
		ts := int64(1790000000123456789)
		if name == "flb_http_json_lines_date_iso" { // there its own is @timestamp
			ts = 1790000000123456000
		}
		first := fmt.Sprintf(`{app="web", container="web", job="json", namespace="default", service_name="wéb-ü"} %d `, ts) +
			"GET /índex?q=日本語 HTTP/1.1 200 😀\n"
		if !strings.HasPrefix(s.entries[0], first) {
			t.Fatalf("%s: first entry %q", name, s.entries[0])
		}
		for _, want := range []string{" | kubernetes_pod_name=web-7c9b", " | kubernetes_labels_pod_template_hash=7c9b", " | stream=stdout"} {
			if !strings.Contains(s.entries[0], want) {
				t.Fatalf("%s: no %q in %q", name, want, s.entries[0])
			}
		}
		if n := len(s.entries); name != "flb_http_metadata_json" && n != 6 {
			t.Fatalf("%s: %d entries", name, n)
		}
		all := strings.Join(s.entries, "\n")
		if !strings.Contains(all, `"u64":18446744073709551615`) {
			t.Fatalf("%s: no JSON line of the third record in %s", name, all)
		}
	}
}

// The times of all formats that Fluent Bit has, to the digit.
func TestFluentBitTimes(t *testing.T) {
	f := func(name string, want ...int64) {
		t.Helper()
		s := &sink{}
		if rec := do(mux(newReceiver(t, s, nil)), captured(t, name, "/ingest/json")); rec.Code != 204 {
			t.Fatalf("%s: %d %s", name, rec.Code, rec.Body)
		}
		all := strings.Join(s.entries, "\n")
		for _, ts := range want {
			if !strings.Contains(all, fmt.Sprintf(" %d ", ts)) {
				t.Fatalf("%s: no entry at %d in\n%s", name, ts, all)
			}
		}
	}
	f("flb_http_json", 1790000001e9, 1790000002000005000, 1790000002000006000, 1790000003000007000)
	f("flb_http_json_date_double", 1790000001e9, 1790000002000005000)
	f("flb_http_json_date_epoch", 1790000001e9, 1790000002e9)
	f("flb_http_json_date_epoch_ms", 1790000001e9, 1790000001999e6, 1790000002e9)
	f("flb_http_json_date_java_sql_timestamp", 1790000001e9, 1790000001999999e3, 1790000002000005e3)
	f("flb_http_json_lines_date_iso", 1790000001e9, 1790000001999999e3, 1790000002000005e3)
	f("flb_http_json_date_off", 1790000000123456789, arrival, arrival+1, arrival+2, arrival+3, arrival+4)
}

func TestTenantTagAndID(t *testing.T) {
	s := &sink{}
	h := mux(newReceiver(t, s, nil))
	if rec := do(h, captured(t, "flb_http_headers_auth", "/ingest/json")); rec.Code != 204 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	if b := &s.batches[0]; b.Tenant != "tenant-1" || b.Receiver != "json" || b.ID != (push.ID{}) {
		t.Fatalf("%+v", b)
	}
	if tag := " | tag=kube.var.log.containers.web-7c9b_default_web-0a1b2c.log"; strings.Count(strings.Join(s.entries, "\n"), tag) != 6 {
		t.Fatalf("tag is missing: %q", s.entries)
	}
	ids := map[push.ID]bool{}
	for _, c := range []struct{ header, key, body string }{
		{"X-Request-Id", "a", `{"log":"1"}`},
		{"X-Request-Id", "b", `{"log":"1"}`},
		{"Idempotency-Key", "c", `{"log":"1"}`},
		{"X-Request-Id", "a", `{"log":"1"}`},
		{"X-Request-Id", "a", `{"log":"2"}`},
	} {
		do(h, post("/ingest/json", c.body, c.header, c.key))
		id := s.batches[len(s.batches)-1].ID
		if id == (push.ID{}) {
			t.Fatalf("%+v: no id", c)
		}
		ids[id] = true
	}
	if len(ids) != 4 {
		t.Fatalf("%d different ids of 4", len(ids))
	}
}

func TestBodies(t *testing.T) {
	at := func(line string) string { return `{job="json"} 1000000000000000000 ` + line }
	one, two := `{"ts":1000000000,"log":"a"}`, "{\"ts\":1000000000000,\r\n\"log\":\"b\"}"
	f := func(body string, want ...string) {
		t.Helper()
		s := &sink{}
		if rec := do(mux(newReceiver(t, s, nil)), post("/ingest/json", body, "X-Tag", "")); rec.Code != 204 || rec.Body.Len() > 0 {
			t.Fatalf("%s: %d %s", body, rec.Code, rec.Body)
		}
		if !reflect.DeepEqual(s.entries, want) {
			t.Fatalf("%s:\n got %q\nwant %q", body, s.entries, want)
		}
	}
	f(`[]`)
	f("\n [ ] \n")
	f(one, at("a"))
	f(" \t"+one+"\n\n", at("a"))
	for _, body := range []string{
		"[" + one + "," + two + "]", one + two, one + "\n" + two + "\n", one + "\r\n" + two, "[" + one + "]" + two, one + "[\n" + two + "\n]",
		"\xef\xbb\xbf" + one + " " + two, "[" + one + "][" + two + "]",
	} {
		f(body, at("a"), `{job="json"} 1000000000000000001 b`)
	}
	f(`{"@timestamp":"2001-09-09T01:46:40Z","time":1,"log":"x"}`, at("x | time=1"))
	f(`{"time":"12:30","date":1e9,"log":"x"}`, at("x | time=12:30"))
	f(`{"time":0.25,"ts":"1000000000","log":"x"}`, at("x | time=0.25"))
	f(`{"timestamp":"1000000000.0","log":"x"}`, at("x"))
	f(`{"_time":"2001-09-09 01:46:40.000000","log":"x"}`, at("x"))
	f(`{"ts":{"a":1},"log":"x"}`, fmt.Sprintf(`{job="json"} %d x | ts_a=1`, int64(arrival)))
	f(`{"ts":"1970-01-01T00:00:00Z","log":"x"}`, `{job="json"} 0 x`)
	f(`{"log":"x"}{"log":"x"}`, fmt.Sprintf(`{job="json"} %d x`, int64(arrival)), fmt.Sprintf(`{job="json"} %d x`, int64(arrival+1)))
	f(`{"ts":1000000000,"a":1}`, at(`{"ts":1000000000,"a":1}`))
	f(`{"ts":1000000000,"@version":"1","log":"x"}`, at("x | _version=1"))
}

func TestLogstashEvents(t *testing.T) {
	f := func(body, kind, want string) {
		t.Helper()
		s := &sink{}
		if rec := do(mux(newReceiver(t, s, nil)), post("/ingest/logstash", body, "Content-Type", kind)); rec.Code != 204 {
			t.Fatalf("%s: %d %s", body, rec.Code, rec.Body)
		}
		if len(s.entries) != 1 || s.entries[0] != want {
			t.Fatalf("%s:\n got %q\nwant %q", body, s.entries, want)
		}
	}
	const ts = `"@timestamp":"2001-09-09T01:46:40.000Z","@version":"1"`
	now := fmt.Sprintf(`{job="logstash"} %d `, int64(arrival))
	f(`{`+ts+`,"message":"m","event":{"original":"other","module":"x"}}`, "application/json",
		`{job="logstash"} 1000000000000000000 m | event_module=x | event_original=other`)
	f(`{`+ts+`,"message":"m","service":{"name":"api"},"host":"h","path":"/l","type":"t"}`, "application/json; charset=UTF-8",
		`{job="logstash", service_name="api"} 1000000000000000000 m | host=h | path=/l | type=t`)
	f(`{`+ts+`,"status":200}`, "", `{job="logstash"} 1000000000000000000 {`+ts+`,"status":200}`)
	f(`{`+ts+`,"log":{"file":{"path":"p"}},"n":1}`, "", `{job="logstash"} 1000000000000000000 {`+ts+`,"log":{"file":{"path":"p"}},"n":1}`)
	f(`{`+ts+`,"message":{"a":1}}`, "", `{job="logstash"} 1000000000000000000 {"a":1}`)
	f("two\nlines", "text/plain; charset=utf-8", now+"two\nlines")
	f(`{"not":"parsed"}`, "text/plain", now+`{"not":"parsed"}`)
	f(" ", "text/plain", now+" ")
	f(`{"message":"curl"}`, "application/x-www-form-urlencoded", now+"curl")
	f(`message=a%2Bb+c%zz%&x=&&flag&%e9=1`, "application/x-www-form-urlencoded", now+"a+b c%zz% | flag= | key=1 | x=")
}

func TestRefusedBodies(t *testing.T) {
	f := func(path, body, kind string, wantCode, wantStored int, wantText string) {
		t.Helper()
		s := &sink{}
		rec := do(mux(newReceiver(t, s, nil)), post(path, body, "Content-Type", kind))
		if rec.Code != wantCode || strings.TrimSpace(rec.Body.String()) != wantText || len(s.entries) != wantStored {
			t.Fatalf("%.80q: %d, %d stored, %s\nwant %d, %d, %s", body, rec.Code, len(s.entries), rec.Body, wantCode, wantStored, wantText)
		}
	}
	const path, js = "/ingest/json", "application/json"
	f(path, ``, js, 400, 0, `empty body: no events`)
	f(path, " \n", js, 400, 0, `empty body: no events`)
	f("/ingest/logstash", ``, "text/plain", 400, 0, `empty body: no events`)
	f(path, `hello`, js, 400, 0, `json: expected a value, found 'h' at offset 0; 0 events before it are stored`)
	f(path, `{"log":"a"}{"log":"b"`, js, 400, 1, `json: unexpected end of input at offset 21; 1 events before it are stored`)
	f(path, `[{"log":"a"},{"log":"b"},{log}]`, js, 400, 2, `json: expected a key in double quotes, found 'l' at offset 26; 2 events before it are stored`)
	f(path, `[1,{"log":"a"},x]`, js, 400, 1, `json: expected a value, found 'x' at offset 15; 1 events before it are stored; `+
		`1 errors like: event before offset 2 is a number, not an object (1 of 2 entries refused, the rest is stored)`)
	f(path, `[1,"x"]`, js, 400, 0, `2 errors like: event before offset 2 is a number, not an object (2 of 2 entries refused, the rest is stored)`)
	f(path, `[{"log":"a"},null,{"log":"b"},[]]`, js, 200, 2,
		`{"stored":2,"rejected":2,"errors":[{"reason":"malformed","count":2,"first":"event before offset 17 is null, not an object"}]}`)
	f(path, "{\"log\":\"a\"}\n{\"log\":\n\n{\"log\":\"b\"}\n", "application/x-ndjson", 200, 2,
		`{"stored":2,"rejected":1,"errors":[{"reason":"malformed","count":1,"first":"json: unexpected end of input at offset 33"}]}`)
	f(path, "{\"log\":\"a\"}\n[{\"log\":\n\n{\"log\":\"b\"}\n", "application/x-ndjson", 400, 1,
		`json: unexpected end of input at offset 34; 1 events before it are stored`)
	f(path, "\x92\x01", "application/msgpack", 400, 0, `Content-Type application/msgpack is not supported on /ingest/json, send JSON`)
	deep := strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000)
	f(path, deep, js, 400, 0, `1 errors like: json: value at offset 0: nested deeper than 100 (offset 500) (1 of 1 entries refused, the rest is stored)`)
	f(path, `{"log":"a"}`+deep, js, 200, 1, `{"stored":1,"rejected":1,"errors":[{"reason":"malformed","count":1,"first":"json: value at offset 11: nested deeper than 100 (offset 511)"}]}`)
	f(path, strings.Repeat("[", 10000), js, 400, 0, `json: unexpected end of input at offset 10000; 0 events before it are stored`)
}

func TestMethods(t *testing.T) {
	h := mux(newReceiver(t, &sink{}, nil))
	for _, method := range []string{"GET", "DELETE", "PATCH", "HEAD"} {
		rec := do(h, httptest.NewRequest(method, "/ingest/json", strings.NewReader(`{}`)))
		if rec.Code != 405 || rec.Header().Get("Allow") != "POST, PUT" {
			t.Fatalf("%s: %d", method, rec.Code)
		}
	}
	if rec := do(h, httptest.NewRequest("PUT", "/ingest/json", strings.NewReader(`{}`))); rec.Code != 204 {
		t.Fatalf("PUT: %d", rec.Code)
	}
}

func TestEncodings(t *testing.T) {
	const body = `{"ts":1000000000,"log":"a"}{"ts":1000000000,"log":"b"}`
	var gz, zl bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, _ = w.Write([]byte(body))
	_ = w.Close()
	w2 := zlib.NewWriter(&zl)
	_, _ = w2.Write([]byte(body))
	_ = w2.Close()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	for name, wire := range map[string]string{
		"gzip": gz.String(), "deflate": zl.String(), "zstd": string(enc.EncodeAll([]byte(body), nil)), "snappy": string(snappy.Encode(nil, []byte(body))), "identity": body,
	} {
		for _, path := range []string{"/ingest/json", "/ingest/logstash"} {
			s := &sink{}
			if rec := do(mux(newReceiver(t, s, nil)), post(path, wire, "Content-Encoding", name)); rec.Code != 204 || len(s.entries) != 2 {
				t.Fatalf("%s: %d %s, %q", name, rec.Code, rec.Body, s.entries)
			}
			if name != "identity" {
				if rec := do(mux(newReceiver(t, &sink{}, nil)), post(path, wire[:len(wire)/2], "Content-Encoding", name)); rec.Code != 400 {
					t.Fatalf("%s cut short: %d %s", name, rec.Code, rec.Body)
				}
			}
		}
	}
	if rec := do(mux(newReceiver(t, &sink{}, nil)), post("/ingest/json", body, "Content-Encoding", "br")); rec.Code != 400 {
		t.Fatalf("br: %d", rec.Code)
	}
}

// Bombs of every kind cost a bounded amount of memory and an answer of 413.
func TestBombs(t *testing.T) {
	zeros := func(n int) string {
		var gz bytes.Buffer
		w := gzip.NewWriter(&gz)
		chunk := bytes.Repeat([]byte{' '}, 1<<20)
		for range n {
			_, _ = w.Write(chunk)
		}
		_ = w.Close()
		return gz.String()
	}
	fat := strings.Repeat("k", 900)
	blowUp := `{"log":"x","` + fat + `":{"a":1`
	for i := range 60 {
		blowUp += fmt.Sprintf(`,"%d":1`, i)
	}
	blowUp += "}}"
	change := func(c *Config) { c.MaxBody, c.MaxDecoded, c.MaxEvents = 1<<20, 4<<20, 10000 }
	f := func(name, body, wantText string, headers ...string) {
		t.Helper()
		s := &sink{}
		h := mux(newReceiver(t, s, change))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		rec := do(h, post("/ingest/json", body, headers...))
		runtime.ReadMemStats(&after)
		if rec.Code != 413 || len(s.entries) > 0 || !strings.Contains(rec.Body.String(), wantText) {
			t.Fatalf("%s: %d %s, %d stored", name, rec.Code, rec.Body, len(s.entries))
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 100<<20 {
			t.Fatalf("%s: %d MiB allocated", name, n>>20)
		}
		if s.held != 0 {
			t.Fatalf("%s: %d bytes still held", name, s.held)
		}
	}
	f("large body", strings.Repeat(" ", 2<<20), "limit of 1048576 bytes")
	f("gzip", zeros(64), "limit of 4194304 bytes", "Content-Encoding", "gzip")
	f("events", strings.Repeat("{}", 10001), "more than 10000 events")
	f("refused events", strings.Repeat("1 ", 10001), "more than 10000 events")
	f("broken lines", strings.Repeat("x\n", 10001), "more than 10000 events", "Content-Type", "application/x-ndjson")
	f("long names", strings.Repeat(blowUp, 600), "with labels and metadata, limit 8388608")
}

func TestSinkAnswers(t *testing.T) {
	const body = `{"log":"a"}{"log":"b"}`
	f := func(s *sink, body string, wantCode int, wantText, wantRetry string) {
		t.Helper()
		rec := do(mux(newReceiver(t, s, nil)), post("/ingest/logstash", body))
		if rec.Code != wantCode || strings.TrimSpace(rec.Body.String()) != wantText || rec.Header().Get("Retry-After") != wantRetry {
			t.Fatalf("got %d %q Retry-After %q\nwant %d %q %q", rec.Code, rec.Body, rec.Header().Get("Retry-After"), wantCode, wantText, wantRetry)
		}
		if s.held != 0 {
			t.Fatalf("%d bytes still held", s.held)
		}
	}
	answer := func(err error) *sink { return &sink{answer: func(*push.Batch) error { return err }} }
	rejected := func(n int, r push.Reason, text string) *push.Rejected {
		rej := &push.Rejected{Total: 2}
		rej.Add(r, "{}", n, 10, func() string { return text })
		return rej
	}
	f(answer(rejected(1, push.LineTooLong, "line of 9 bytes, limit 8")), body, 200,
		`{"stored":1,"rejected":1,"errors":[{"reason":"line_too_long","count":1,"first":"line of 9 bytes, limit 8"}]}`, "")
	f(answer(rejected(1, push.TooOld, "too old")), body+`5`, 200,
		`{"stored":1,"rejected":2,"errors":[{"reason":"malformed","count":1,"first":"event before offset 23 is a number, not an object"},{"reason":"greater_than_max_sample_age","count":1,"first":"too old"}]}`, "")
	f(answer(rejected(2, push.TooOld, "too old")), body, 400, `2 errors like: too old (2 of 2 entries refused, the rest is stored)`, "")
	f(answer(rejected(2, push.StreamLimit, "streams")), body, 429, `2 errors like: streams (2 of 2 entries refused, the rest is stored)`, "1")
	f(answer(&push.Error{Reason: push.RateLimited, Msg: "rate", RetryAfter: 7 * time.Second}), body, 429, `rate`, "7")
	f(answer(&push.Error{Reason: push.DiskLow, Msg: "disk"}), body, 503, `disk`, "1")
	f(answer(&push.Error{Reason: push.NoTenant, Msg: "no org id"}), body, 401, `no org id`, "")
	f(answer(errors.New("boom")), body, 500, `boom`, "")
	// What was read of a broken body is not known to be stored: try again.
	f(answer(&push.Error{Reason: push.NoQuorum, Msg: "quorum"}), body+`{`, 503, `quorum`, "1")
	f(&sink{admitErr: &push.Error{Reason: push.Overloaded, Msg: "full", RetryAfter: time.Second}}, body, 503, `full`, "1")
}

// A request that is sent again gives the same entries, equal events of a coarse
// clock included.
func TestRetry(t *testing.T) {
	body := `[{"date":1790000000,"log":"same"},{"date":1790000000,"log":"same"},{"date":1790000000.5,"log":"x"},{"date":1790000000,"log":"same"}]`
	s := &sink{}
	r := newReceiver(t, s, nil)
	do(mux(r), post("/ingest/json", body))
	first := s.entries
	s.entries = nil
	do(mux(r), post("/ingest/json", `{"z":{"y":1},"log":"between"}`))
	s.entries = nil
	do(mux(newReceiver(t, s, nil)), post("/ingest/json", body))
	if !reflect.DeepEqual(first, s.entries) || len(first) != 4 {
		t.Fatalf("first %q\nthen %q", first, s.entries)
	}
	seen := map[string]bool{}
	for _, e := range first {
		seen[e] = true
	}
	if len(seen) != 4 {
		t.Fatalf("equal events hide each other: %q", first)
	}
}

func TestDisconnect(t *testing.T) {
	var logs bytes.Buffer
	s := &sink{}
	r := newReceiver(t, s, nil)
	r.refused.log = slog.New(slog.NewTextHandler(&logs, nil))
	req := httptest.NewRequest("POST", "/ingest/json", io.MultiReader(strings.NewReader(`{"log":"a"}`), brokenReader{}))
	if rec := do(mux(r), req); rec.Code != 503 || len(s.entries) > 0 || s.held != 0 {
		t.Fatalf("%d %s, %q", rec.Code, rec.Body, s.entries)
	}
	if logs.Len() > 0 {
		t.Fatalf("logged: %s", &logs)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestLogAndMetrics(t *testing.T) {
	var logs bytes.Buffer
	reg := prometheus.NewRegistry()
	m, err := mapping.New(mapping.DefaultConfig(), mapping.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	d := Deps{Sink: &sink{}, Mapper: m, Metrics: reg, Log: slog.New(slog.NewTextHandler(&logs, nil))}
	r, err := New(d, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(d, DefaultConfig()); err == nil {
		t.Fatal("the same metrics twice are no error")
	}
	h := mux(r)
	do(h, post("/ingest/json", `{"log":"secret"}{"log":"b"}`))
	for range 50 {
		do(h, post("/ingest/json", `{"log":"secret"} 1`))
	}
	do(h, post("/ingest/logstash", `x`))
	if n := strings.Count(logs.String(), "\n"); n == 0 || n > 5 || strings.Contains(logs.String(), "secret") {
		t.Fatalf("%d log lines: %s", n, &logs)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"loki_go_httpjson_requests_total 204 json": 1, "loki_go_httpjson_requests_total 200 json": 50, "loki_go_httpjson_requests_total 400 logstash": 1,
		"loki_go_httpjson_body_bytes_total json": 27 + 50*18, "loki_go_httpjson_body_bytes_total logstash": 1,
		"loki_go_httpjson_events_total json": 52, "loki_go_httpjson_events_total logstash": 0,
		"loki_go_httpjson_rejected_events_total malformed json": 50,
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func TestConfig(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	if errs := (Config{MaxDecoded: 1 << 40}).Validate(); len(errs) != 3 {
		t.Fatalf("%v", errs)
	}
	if _, err := New(Deps{}, Config{}); err == nil {
		t.Fatal("New takes a bad config")
	}
}

// Many clients over real connections, all at once.
func TestConcurrent(t *testing.T) {
	s := &sink{}
	srv := httptest.NewServer(mux(newReceiver(t, s, nil)))
	defer srv.Close()
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range 20 {
				body := fmt.Sprintf(`[{"log":"%d-%d","ts":1790000000},{"log":"%[1]d-%[2]d!","ts":1790000000,"f%[2]d":1}]`, c, i)
				resp, err := http.Post(srv.URL+"/ingest/json", "application/json", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
				if resp.StatusCode != 204 {
					t.Errorf("status %d", resp.StatusCode)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, e := range s.entries {
		seen[e] = true
	}
	if len(seen) != 8*20*2 || s.held != 0 {
		t.Fatalf("%d entries, %d bytes held", len(seen), s.held)
	}
}

// FuzzBody looks for panics, and holds what is stored and refused against the
// body, read by encoding/json.
func FuzzBody(f *testing.F) {
	files, err := filepath.Glob("testdata/*.bin")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		head, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
		kind := "application/json"
		for _, k := range []string{"application/x-www-form-urlencoded", "text/plain", "application/x-ndjson"} {
			if bytes.Contains(head, []byte(k)) {
				kind = k
			}
		}
		f.Add(body, kind, true)
	}
	for _, s := range []string{`{}`, `[]`, `[1,{"time":1e9}]`, `{"event":{"original":"m"},"message":"m"}`, `a=1&b=%zz&&=`, "{\"log\":\"a\"}\n{\n{\"log\":\"b\"}"} {
		f.Add([]byte(s), "application/x-ndjson", false)
	}
	f.Fuzz(func(t *testing.T, body []byte, kind string, logstash bool) {
		s := &sink{}
		r := newReceiver(t, s, nil)
		path := "/ingest/json"
		if logstash {
			path = "/ingest/logstash"
		}
		rec := do(mux(r), post(path, string(body), "Content-Type", kind))
		switch rec.Code {
		case 200, 204, 400:
		default:
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		if s.held != 0 {
			t.Fatalf("%d bytes still held", s.held)
		}
		if strings.Contains(kind, "form") || strings.Contains(kind, "plain") || strings.Contains(kind, "msgpack") {
			return
		}
		// Objects of a body that encoding/json takes too, if they are not deep.
		if !json.Valid(body) || bytes.Count(body, []byte("{"))+bytes.Count(body, []byte("[")) > mapping.MaxDepth {
			return
		}
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			return // a number beyond float64
		}
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		objects := 0
		for _, e := range list {
			if _, ok := e.(map[string]any); ok {
				objects++
			}
		}
		if len(s.entries) != objects {
			t.Fatalf("%d of %d objects stored: %d %s", len(s.entries), objects, rec.Code, rec.Body)
		}
	})
}

type nullSink struct{}

func (nullSink) Admit(context.Context, int64) (func(), error) { return func() {}, nil }
func (nullSink) Push(context.Context, *push.Batch) error      { return nil }

// events returns a body like Logstash's json_batch.
func events(n int) []byte {
	var b bytes.Buffer
	b.WriteByte('[')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		line := fmt.Sprintf("10.0.%d.%d - - [21/Sep/2026:14:13:%02d +0000] \\\"GET /api/v1/items/%d?page=%d HTTP/1.1\\\" 200 %d \\\"-\\\" \\\"Mozilla/5.0 (X11; Linux x86_64)\\\"", i%256, i*7%256, i%60, i*7919%100000, i%9, 200+i*31%9000)
		fmt.Fprintf(&b, `{"@timestamp":"2026-09-21T14:13:%02d.%09dZ","@version":"1","message":"%s","event":{"original":"%[3]s"},`+
			`"host":{"name":"web-%d"},"log":{"file":{"path":"/var/log/nginx/access.log"}},"service":{"name":"shop-%d"},"tags":["prod","edge"],"bytes":%d,"duration":0.%d}`,
			i%60, i*1234567%1e9, line, i%4, i%3, i*31, i)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// BenchmarkHandler is a whole request of 125 events, from the body in memory
// to the sink, compression of the batch included.
func BenchmarkHandler(b *testing.B) {
	for _, c := range []struct {
		name string
		gz   bool
	}{{"identity", false}, {"gzip", true}} {
		b.Run(c.name, func(b *testing.B) {
			plain := events(125)
			wire := plain
			if c.gz {
				var gz bytes.Buffer
				w := gzip.NewWriter(&gz)
				_, _ = w.Write(plain)
				_ = w.Close()
				wire = gz.Bytes()
			}
			h := newReceiver(b, nullSink{}, nil).Logstash()
			req := httptest.NewRequest("POST", "/ingest/logstash", nil)
			req.Header.Set("Content-Type", "application/json")
			req.ContentLength = int64(len(wire))
			if c.gz {
				req.Header.Set("Content-Encoding", "gzip")
			}
			body := bytes.NewReader(nil)
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				body.Reset(wire)
				req.Body = io.NopCloser(body)
				w := answer{header: http.Header{}}
				h.ServeHTTP(&w, req)
				if w.code != 204 {
					b.Fatal(w.code)
				}
				n += 125
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

type answer struct {
	header http.Header
	code   int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(p []byte) (int, error) { return len(p), nil }
