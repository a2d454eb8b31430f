package httpjson

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// TestBrokenBodies checks that what can be read is stored, the rest is buried,
// and the sender hears of success.
func TestBrokenBodies(t *testing.T) {
	f := func(path, kind, body string, wantLines string, wantDead ...string) {
		t.Helper()
		s := &sink{}
		rec := do(mux(newReceiver(t, s, nil)), post(path, body, "Content-Type", kind))
		var lines []string
		for _, e := range s.entries {
			lines = append(lines, strings.SplitN(e, " ", 3)[2])
		}
		if got := strings.Join(lines, ","); got != wantLines || !reflect.DeepEqual(s.dead, wantDead) {
			t.Fatalf("%.80q: stored %s\nwant %s\ndead %q\nwant %q", body, got, wantLines, s.dead, wantDead)
		}
		want := 200
		if len(wantDead) == 0 {
			want = 204
		}
		if rec.Code != want || len(wantDead) > 0 && !strings.Contains(rec.Body.String(), fmt.Sprintf(`"rejected":%d,`, len(wantDead))) {
			t.Fatalf("%.80q: %d %s", body, rec.Code, rec.Body)
		}
	}
	const (
		logs, flb = "/ingest/logstash", "/ingest/fluentbit"
		js, nd    = "application/json", "application/x-ndjson"
	)
	for _, path := range []string{logs, flb, "/ingest/json?refused=keep"} {
		f(path, js, ``, ``)
		f(path, js, `[]`, ``)
		f(path, js, `hello`, ``, `malformed json: expected a value, found 'h' at offset 0: hello`)
		f(path, js, "hello\nworld\n", ``,
			`malformed json: expected a value, found 'h' at offset 0: hello`,
			`malformed json: expected a value, found 'w' at offset 0: world`)
		f(path, js, `{"log":"a"}{"log":"b"`, `a`, `malformed json: unexpected end of input at offset 10: {"log":"b"`)
		f(path, js, `[{"log":"a"},{"log":"b"},{log},{"log":"c"}]`, `a,b,c`,
			`malformed json: expected a key in double quotes, found 'l' at offset 1: {log}`)
		f(path, js, `[{"log":"a"},{"log":tru,"x":{"y":"}"}},{"log":"c"}]{"log":"d"}`, `a,c,d`,
			`malformed json: expected a value, found 't' at offset 7: {"log":tru,"x":{"y":"}"}}`)
		f(path, js, `[{"log":"a"} {"log":"b"}]`, `a,b`)
		f(path, js, `[{"log":"a"},"x\"{",{"log":"b"},12,null,[{}],{"log":"c"}]`, `a,b,c`,
			`malformed event before offset 19 is a string, not an object: "x\"{"`,
			`malformed event before offset 34 is a number, not an object: 12`,
			`malformed event before offset 39 is null, not an object: null`,
			`malformed event before offset 44 is an array, not an object: {}]`)
		f(path, nd, "{\"log\":\"a\"}\n{\"log\":\n\n{\"log\":\"b\"}\n", `a,b`,
			`malformed json: unexpected end of input at offset 33: {"log":`)
		f(path, js, `{"log":"a"}`+strings.Repeat(`{"a":`, 101)+"1"+strings.Repeat("}", 101)+`{"log":"b"}`, `a,b`,
			`malformed json: value at offset 11: nested deeper than 100 (offset 511): `+strings.Repeat(`{"a":`, 101)+"1"+strings.Repeat("}", 101))
	}
	// Content types that nobody knows.
	f(logs, "application/vnd.api+json", `{"log":"a"}`, `a`)
	f(logs, "", ` [{"log":"a"}]`, `a`)
	f(logs, "application/octet-stream", `[{"log":"a"}]`, `a`)
	f(logs, "application/octet-stream", "a line\nof two", "a line\nof two")
	f(logs, "text/csv", `a,b`, `a,b`)
	f(flb, "text/plain", `{"raw":1}`, `{"raw":1}`)
	f(flb, "", "\x92\xce\x6a\xb1\x3b\x80\x81\xa3log\xa1a", `a`)
	f(flb, "application/octet-stream", `{"log":"a"}`, `a`)
	// MessagePack: between the good ones what is no event, then garbage.
	good := "\x92\xce\x6a\xb1\x3b\x80\x81\xa3log\xa1"
	f(flb, "application/msgpack", good+"a\x01"+good+"b\x92\xa1x\x80"+good+"c\xc1rest", `a,b,c`,
		"malformed msgpack: not_an_event: \x01", "malformed msgpack: bad_time: \x92\xa1x\x80", "malformed msgpack: garbage: \xc1rest")
	f(flb, "application/msgpack", "", ``)
	f(logs, "application/x-www-form-urlencoded", strings.Repeat("&", 100)+"message=a", `a`)
	many := strings.Repeat("a&", mapping.MaxNodes)
	f(logs, "application/x-www-form-urlencoded", many, ``, "malformed form: more than 65535 fields in one event: "+many[:push.MaxDeadRaw])
}

func TestKeepMethods(t *testing.T) {
	for _, method := range []string{"PUT", "PATCH", "DELETE", "GET"} {
		s := &sink{}
		rec := do(mux(newReceiver(t, s, nil)), httptest.NewRequest(method, "/ingest/logstash", strings.NewReader(`{"message":"m"}`)))
		if rec.Code != 204 || len(s.entries) != 1 {
			t.Fatalf("%s: %d, %q", method, rec.Code, s.entries)
		}
	}
	if rec := do(mux(newReceiver(t, &sink{}, nil)), httptest.NewRequest("GET", "/ingest/logstash", nil)); rec.Code != 405 {
		t.Fatalf("GET without a body: %d", rec.Code)
	}
}

func TestSinkAnswers(t *testing.T) {
	const body = `{"log":"a"}{"log":"b"}`
	f := func(path string, s *sink, body string, wantCode int, wantText, wantRetry string) {
		t.Helper()
		rec := do(mux(newReceiver(t, s, nil)), post(path, body))
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
	const js, logs = "/ingest/json", "/ingest/logstash"
	for _, path := range []string{js, logs, "/ingest/fluentbit"} {
		f(path, answer(rejected(1, push.LineTooLong, "line of 9 bytes, limit 8")), body, 200,
			`{"stored":1,"rejected":1,"errors":[{"reason":"line_too_long","count":1,"first":"line of 9 bytes, limit 8"}]}`, "")
		f(path, answer(rejected(1, push.TooOld, "too old")), body+`5`, 200,
			`{"stored":1,"rejected":2,"errors":[{"reason":"malformed","count":1,"first":"event before offset 23 is a number, not an object"},{"reason":"greater_than_max_sample_age","count":1,"first":"too old"}]}`, "")
		f(path, answer(rejected(2, push.StreamLimit, "streams")), body, 429, `2 errors like: streams (2 of 2 entries refused, the rest is stored)`, "1")
		f(path, answer(rejected(1, push.StreamLimit, "streams")), body, 429, `1 errors like: streams (1 of 2 entries refused, the rest is stored)`, "1")
		f(path, answer(&push.Error{Reason: push.RateLimited, Msg: "rate", RetryAfter: 7 * time.Second}), body, 429, `rate`, "7")
		f(path, answer(&push.Error{Reason: push.DiskLow, Msg: "disk"}), body, 503, `disk`, "1")
		// What was read of a broken body is not known to be stored: try again.
		f(path, answer(&push.Error{Reason: push.NoQuorum, Msg: "quorum"}), body+`{`, 503, `quorum`, "1")
		f(path, &sink{admitErr: &push.Error{Reason: push.Overloaded, Msg: "full", RetryAfter: time.Second}}, body, 503, `full`, "1")
	}
	f(js, answer(rejected(2, push.TooOld, "too old")), body, 400, `2 errors like: too old (2 of 2 entries refused, the rest is stored)`, "")
	f(js, answer(&push.Error{Reason: push.NoTenant, Msg: "no org id"}), body, 401, `no org id`, "")
	f(js, answer(errors.New("boom")), body, 500, `boom`, "")
	f(js, answer(push.Errorf(push.BlockedIngestion, "blocked")), body, 260, `blocked`, "")

	const all = `{"stored":0,"rejected":2,"errors":[{"reason":"%s","count":2,"first":"%s"}]}`
	for _, path := range []string{logs, "/ingest/fluentbit", "/ingest/json?refused=keep"} {
		f(path, answer(rejected(2, push.TooOld, "too old")), body, 200, fmt.Sprintf(all, "greater_than_max_sample_age", "too old"), "")
		f(path, answer(push.Errorf(push.BlockedIngestion, "blocked")), body, 200, fmt.Sprintf(all, "blocked_ingestion", "blocked"), "")
		for _, r := range []push.Reason{push.NoTenant, push.InvalidTenant, push.Malformed, push.BodyTooLarge, push.NoStreams, push.Internal} {
			f(path, answer(push.Errorf(r, "why")), body, 503, `why`, "1")
		}
		f(path, answer(errors.New("boom")), body, 503, `boom`, "1")
	}
}

// TestConfigurationLog checks that what needs a change of the configuration
// says so in one line, at level error.
func TestConfigurationLog(t *testing.T) {
	f := func(s *sink, req *http.Request, want string) {
		t.Helper()
		var logs bytes.Buffer
		r := newReceiver(t, s, func(c *Config) { c.MaxBody, c.MaxDecoded, c.MaxRequest = 1000, 1000, 1000 })
		r.config.log = slog.New(slog.NewTextHandler(&logs, nil))
		h := mux(r)
		if rec := do(h, req); rec.Code != 503 || len(s.entries)+len(s.dead) > 0 {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
		if n := strings.Count(logs.String(), "\n"); n != 1 || !strings.Contains(logs.String(), "level=ERROR") || !strings.Contains(logs.String(), want) {
			t.Fatalf("logged %q, want %q", &logs, want)
		}
	}
	noTenant := &sink{answer: func(*push.Batch) error { return push.Errorf(push.NoTenant, "no org id") }}
	f(noTenant, post("/ingest/logstash", `{}`), "no org id: have the sender set the header X-Scope-OrgID")
	f(&sink{}, post("/ingest/fluentbit", `{}`, "Content-Encoding", "br"), `Content-Encoding \"br\" not supported`)
	f(&sink{}, post("/ingest/logstash", `{}`, "Content-Encoding", "gzip"), "decompress gzip body")
	f(&sink{}, post("/ingest/fluentbit", strings.Repeat(" ", 1001)), "raise json.max-request")
	f(&sink{}, post("/ingest/fluentbit", string(snappy.Encode(nil, make([]byte, 1001))), "Content-Encoding", "snappy"), "raise json.max-request")
	chunked := post("/ingest/fluentbit", strings.Repeat("\x92", 1002), "Content-Type", "application/msgpack")
	chunked.ContentLength = -1
	f(&sink{}, chunked, "limit of 1000 bytes")
}

func gzipped(t testing.TB, body string) string {
	t.Helper()
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return gz.String()
}

// TestLargeBodies sends bodies above max-decoded, which are stored in pieces.
func TestLargeBodies(t *testing.T) {
	const limit = 2000
	change := func(c *Config) { c.MaxBody, c.MaxDecoded, c.MaxRequest = 1000, limit, 1<<20 }
	f := func(kind, body string, wantStored int, wantDead ...string) {
		t.Helper()
		for _, enc := range []string{"", "gzip"} {
			wire := body
			if enc == "gzip" {
				wire = gzipped(t, body)
			}
			s := &sink{}
			rec := do(mux(newReceiver(t, s, change)), post("/ingest/logstash", wire, "Content-Type", kind, "Content-Encoding", enc))
			if len(wantDead) == 0 && rec.Code != 204 || len(wantDead) > 0 && rec.Code != 200 {
				t.Fatalf("%s: %d %s", enc, rec.Code, rec.Body)
			}
			if !reflect.DeepEqual(s.dead, wantDead) {
				t.Fatalf("%s: dead %.300q\nwant %.300q", enc, s.dead, wantDead)
			}
			if len(s.entries) != wantStored || s.held != 0 {
				t.Fatalf("%s: %d entries, want %d", enc, len(s.entries), wantStored)
			}
			for i, e := range s.entries {
				if !strings.Contains(e, fmt.Sprintf(" event %d |", i)) {
					t.Fatalf("%s: entry %d is %q", enc, i, e)
				}
			}
			ids := map[push.ID]bool{}
			for _, b := range s.batches {
				ids[b.ID] = true
			}
			if wantStored > 3 && len(s.batches) < 2 || len(wantDead) == 0 && len(ids) != len(s.batches) {
				t.Fatalf("%s: %d pushes with %d ids", enc, len(s.batches), len(ids))
			}
		}
	}
	event := func(i, n int) string {
		return fmt.Sprintf(`{"@timestamp":"2026-09-21T14:13:20.%09dZ","message":"event %d","pad":"]}\"{%s"}`, i, i, strings.Repeat("x", n))
	}
	list := func(n, size int, sep string) string {
		var all []string
		for i := range n {
			all = append(all, event(i, size+i%7))
		}
		return strings.Join(all, sep)
	}
	const js, nd = "application/json", "application/x-ndjson"
	for _, n := range []int{17, 18, 19, 20, 200} {
		f(js, "\xef\xbb\xbf["+list(n, 100, ",\n")+"]", n)
		f(js, list(n, 90, "")+" ", n)
		f(nd, list(n, 90, "\n")+"\n", n)
		f(nd, list(n, 90, "\n"), n)
	}
	f(js, "["+list(3, 1900-80, ",")+"]", 3) // one in each piece
	f(js, strings.Repeat(" ", 10*limit)+list(3, 100, " "), 3)

	// One event that is too large, between others.
	huge := `{"message":"` + strings.Repeat(`\"{`, 5*limit) + `"}`
	const why = "body_too_large event of more than 2000 bytes: "
	two := func(sep string) string { return event(0, 1500) + sep + huge + sep + event(1, 1500) }
	f(js, "["+two(",")+"]", 2, why+huge[:limit])
	f(nd, two("\n"), 2, why+huge[:limit])
	f(js, huge+huge, 0, why+huge[:limit], why+huge[:limit])
	f(js, two(",")+`{"cut":"`, 2, why+huge[:limit], `malformed json: unexpected end of input in a string at offset 8: {"cut":"`)
	f(nd, huge, 0, why+huge[:limit])
	f(js, strings.Repeat("no json ", limit), 0, why+strings.Repeat("no json ", limit)[:limit])
	f("text/plain", strings.Repeat("x", 3*limit), 0, why+strings.Repeat("x", limit))
	f("application/x-www-form-urlencoded", "message="+strings.Repeat("x", 3*limit), 0, why+"message="+strings.Repeat("x", limit-8))
	// A broken one.
	f(js, "["+event(0, 1500)+`,{"a":tru},`+event(1, 1500)+"]", 2, `malformed json: expected a value, found 't' at offset 5: {"a":tru}`)
	f(nd, event(0, 1500)+"\n{\"a\":\n"+event(1, 1500), 2, `malformed json: unexpected end of input at offset 5: {"a":`)
}

// TestLargeDeadLetter checks that a large piece becomes several dead letters,
// within bounds.
func TestLargeDeadLetter(t *testing.T) {
	s := &sink{}
	body := `{"log":"a"}{"broken` + strings.Repeat("0123456789", 4000)
	if rec := do(mux(newReceiver(t, s, nil)), post("/ingest/logstash", body)); rec.Code != 200 || !strings.Contains(rec.Body.String(), `"rejected":1,`) {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	got := ""
	for _, d := range s.dead {
		_, raw, _ := strings.Cut(d, "offset 40008: ")
		got += raw
	}
	if len(s.dead) != 3 || got != body[len(`{"log":"a"}`):] {
		t.Fatalf("%d dead letters, %d bytes", len(s.dead), len(got))
	}
	s = &sink{}
	if rec := do(mux(newReceiver(t, s, nil)), post("/ingest/logstash", `{"`+strings.Repeat("0123456789", 1<<18))); rec.Code != 200 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	if n := len(s.dead) + s.left; n != 64 || s.left > 8 {
		t.Fatalf("%d dead letters, %d left out", len(s.dead), s.left)
	}
}

// TestManyEvents has more in one request than a push may have.
func TestManyEvents(t *testing.T) {
	s := &sink{}
	r := newReceiver(t, s, func(c *Config) { c.MaxEvents = 10 })
	if rec := do(mux(r), post("/ingest/logstash", strings.Repeat(`{"ts":1790000000,"log":"a"}`, 25))); rec.Code != 204 || len(s.entries) != 25 || len(s.batches) != 3 {
		t.Fatalf("%d %s, %d entries in %d pushes", rec.Code, rec.Body, len(s.entries), len(s.batches))
	}
	if s.batches[0].ID == s.batches[1].ID {
		t.Fatal("two parts have one id")
	}
}

// TestRetryAfterFailure lets a push in the middle of a request fail: what was
// stored before is known when the request comes again.
func TestRetryAfterFailure(t *testing.T) {
	var body strings.Builder
	for i := range 200 {
		fmt.Fprintf(&body, `{"@timestamp":"2026-09-21T14:13:20.%09dZ","message":"event %d"}`, i, i)
	}
	seen, pushes := map[push.ID]bool{}, 0
	s := &sink{answer: nil}
	s.answer = func(b *push.Batch) error {
		pushes++
		if pushes == 3 {
			return push.Errorf(push.DiskLow, "disk")
		}
		if seen[b.ID] || b.ID == (push.ID{}) {
			b.Streams = nil // stored before
		}
		seen[b.ID] = true
		return nil
	}
	h := mux(newReceiver(t, s, func(c *Config) { c.MaxDecoded, c.MaxRequest = 2000, 1<<20 }))
	send := func() int { return do(h, post("/ingest/logstash", body.String())).Code }
	if first, second := send(), send(); first != 503 || second != 204 {
		t.Fatalf("%d, then %d", first, second)
	}
	lines := map[string]int{}
	for _, e := range s.entries {
		lines[e]++
	}
	if len(lines) != 200 || len(s.entries) != 200 {
		t.Fatalf("%d entries, %d different ones", len(s.entries), len(lines))
	}
}

func TestContentID(t *testing.T) {
	id := func(path, body string, headers ...string) push.ID {
		t.Helper()
		s := &sink{}
		if rec := do(mux(newReceiver(t, s, nil)), post(path, body, headers...)); rec.Code != 204 || len(s.batches) != 1 {
			t.Fatalf("%s: %d %s", body, rec.Code, rec.Body)
		}
		return s.batches[0].ID
	}
	const timed = `[{"ts":1790000000,"log":"a"},{"ts":1790000001,"log":"b"}]`
	for _, path := range []string{"/ingest/json", "/ingest/logstash", "/ingest/fluentbit"} {
		a := id(path, timed)
		if a == (push.ID{}) || a != id(path, timed) || a != id(path, gzipped(t, timed), "Content-Encoding", "gzip") {
			t.Fatalf("%s: a retry is not recognised", path)
		}
		for _, other := range []push.ID{
			id(path, timed+" "), id(path, timed, "X-Scope-OrgID", "b"), id(path, timed, "X-Tag", "b"),
			id(path, timed, "X-Request-Id", "r"), id(path, strings.Replace(timed, "b", "c", 1)),
		} {
			if other == a || other == (push.ID{}) {
				t.Fatalf("%s: another push has the id %x", path, other)
			}
		}
		if id(path, `[{"ts":1790000000,"log":"a"},{"log":"b"}]`) != (push.ID{}) {
			t.Fatalf("%s: events without a time have an id", path)
		}
	}
	if id("/ingest/json", timed) == id("/ingest/logstash", timed) {
		t.Fatal("two receivers give one id")
	}
	const kind = "application/msgpack"
	if id("/ingest/fluentbit", "\x92\xce\x6a\xb1\x3b\x80\x80", "Content-Type", kind) == (push.ID{}) {
		t.Fatal("msgpack: no id")
	}
	if id("/ingest/fluentbit", "\x92\xce\x6a\xb1\x3b\x80\x80\x92\xc0\x80", "Content-Type", kind) != (push.ID{}) {
		t.Fatal("msgpack: an event without a time has an id")
	}
}

// TestTenants has events of several tenants in one request.
func TestTenants(t *testing.T) {
	c := mapping.DefaultConfig()
	c.TenantKeys = []string{"team"}
	m, err := mapping.New(c, mapping.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	send := func(s *sink, body string) int {
		r, err := New(Deps{Sink: s, Mapper: m}, DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		return do(mux(r), post("/ingest/logstash", body, "X-Scope-OrgID", "default")).Code
	}
	event := func(team, time string) string {
		return `{"message":"of ` + team + `","team":"` + team + `"` + time + `}`
	}
	const timed = `,"ts":1790000000`

	s := &sink{}
	if code := send(s, event("a", timed)+event("b", timed)+event("a", timed)+`{"message":"x","ts":1790000000} 1`); code != 200 || len(s.entries) != 4 || len(s.dead) != 1 {
		t.Fatalf("%d, stored %q, dead %q", code, s.entries, s.dead)
	}
	ids := map[push.ID]bool{}
	tenants := ""
	for _, b := range s.batches {
		ids[b.ID] = true
		tenants += b.Tenant + " "
	}
	if tenants != "a b default " || len(ids) != 3 || ids[push.ID{}] {
		t.Fatalf("tenants %q, %d ids", tenants, len(ids))
	}
	// One is over its limit: the others are stored if that can be repeated.
	for time, want := range map[string]int{timed: 1, "": 0} {
		s := &sink{answer: func(b *push.Batch) error {
			if b.Tenant == "a" {
				return push.Errorf(push.RateLimited, "rate")
			}
			return nil
		}}
		if code := send(s, event("a", time)+event("b", time)); code != 429 || len(s.entries) != want {
			t.Fatalf("%d, %d stored, want %d", code, len(s.entries), want)
		}
	}
	// More tenants than batches may be: the rest is a part of its own.
	s = &sink{}
	var many strings.Builder
	for i := range mapping.MaxTenants {
		many.WriteString(event(fmt.Sprint("t", i), timed))
	}
	if code := send(s, many.String()+event("u", "")+event("v", timed)); code != 204 || len(s.entries) != mapping.MaxTenants+2 {
		t.Fatalf("%d, %d stored", code, len(s.entries))
	}
	for i, b := range s.batches {
		if last := i >= mapping.MaxTenants; (b.ID == push.ID{}) != last {
			t.Fatalf("batch %d of tenant %s has the id %x", i, b.Tenant, b.ID)
		}
	}
}
