package httpjson

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
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
	dead     []string
	left     int          // dead letters that were too many
	batches  []push.Batch // tenant, receiver, id and what is kept only
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
	s.batches = append(s.batches, push.Batch{Tenant: b.Tenant, Receiver: b.Receiver, ID: b.ID, KeepRefused: b.KeepRefused})
	if s.answer != nil {
		if err := s.answer(b); err != nil {
			return err
		}
	}
	return s.store(b)
}

func (s *sink) store(b *push.Batch) error {
	for _, d := range b.Dead {
		s.dead = append(s.dead, fmt.Sprintf("%s %s: %s", d.Reason, d.Text, d.Raw))
	}
	s.left += b.DeadLeft
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

func TestTenantTagAndID(t *testing.T) {
	s := &sink{}
	h := mux(newReceiver(t, s, nil))
	do(h, post("/ingest/json", `{"log":"1"}`, "X-Scope-OrgID", "tenant-1", "X-FLB-Tag", "a.b"))
	if b := &s.batches[0]; b.Tenant != "tenant-1" || b.Receiver != "json" || b.ID != (push.ID{}) || b.KeepRefused {
		t.Fatalf("%+v", b)
	}
	if !strings.HasSuffix(s.entries[0], " | tag=a.b") {
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
	f("/ingest/logstash", ``, "text/plain", 204, 0, ``)
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
				want := map[string]int{"/ingest/json": 400, "/ingest/logstash": 503}[path]
				if rec := do(mux(newReceiver(t, &sink{}, nil)), post(path, wire[:len(wire)/2], "Content-Encoding", name)); rec.Code != want {
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
	change := func(c *Config) { c.MaxBody, c.MaxDecoded, c.MaxEvents = 256<<10, 1<<20, 1000 }
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
		if n := after.TotalAlloc - before.TotalAlloc; n > 25<<20 {
			t.Fatalf("%s: %d MiB allocated", name, n>>20)
		}
		if s.held != 0 {
			t.Fatalf("%s: %d bytes still held", name, s.held)
		}
	}
	f("large body", strings.Repeat(" ", 512<<10), "limit of 262144 bytes")
	f("gzip", zeros(16), "limit of 1048576 bytes", "Content-Encoding", "gzip")
	f("events", strings.Repeat("{}", 1001), "more than 1000 events")
	f("refused events", strings.Repeat("1 ", 1001), "more than 1000 events")
	f("broken lines", strings.Repeat("x\n", 1001), "more than 1000 events", "Content-Type", "application/x-ndjson")
	f("long names", strings.Repeat(blowUp, 150), "with labels and metadata, limit 2097152")
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
	r.config.log = r.refused.log
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
	do(h, post("/ingest/logstash", `[{"log":"a"},{"secret"}]`))
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
		"loki_go_httpjson_requests_total 204 json": 1, "loki_go_httpjson_requests_total 200 json": 50, "loki_go_httpjson_requests_total 200 logstash": 1,
		"loki_go_httpjson_body_bytes_total json": 27 + 50*18, "loki_go_httpjson_body_bytes_total logstash": 24,
		"loki_go_httpjson_events_total json": 52, "loki_go_httpjson_events_total logstash": 1,
		"loki_go_httpjson_rejected_events_total malformed json": 50, "loki_go_httpjson_rejected_events_total malformed logstash": 1,
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func TestConfig(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	if errs := (Config{MaxDecoded: 1 << 40}).Validate(); len(errs) != 4 {
		t.Fatalf("%v", errs)
	}
	if _, err := New(Deps{}, Config{}); err == nil {
		t.Fatal("New takes a bad config")
	}
}

// Each path has a mapper of its own, or the common one.
func TestMappers(t *testing.T) {
	mapper := func(key string) *mapping.Mapper {
		c := mapping.DefaultConfig()
		c.LabelKeys = []string{key}
		m, err := mapping.New(c, mapping.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	s := &sink{}
	r, err := New(Deps{Sink: s, Mapper: mapper("a"), Logstash: mapper("b")}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time with what the first has given back
		s.entries = nil
		for _, path := range []string{"json", "logstash", "fluentbit"} {
			do(mux(r), post("/ingest/"+path, `{"message":"m","a":"A","b":"B"}`))
		}
		got := strings.Join(s.entries, "\n")
		for _, want := range []string{`{a="A", job="json"}`, `{b="B", job="logstash"}`, `{a="A", job="fluentbit"}`} {
			if !strings.Contains(got, want) {
				t.Fatalf("no %s in %s", want, got)
			}
		}
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
