package elasticsearch

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/proto/push"
)

const ts = `"@timestamp":"2001-09-09T01:46:40.000Z"`

// at is an entry at that time.
func at(line string) string { return `{job="elasticsearch"} 1000000000000000000 ` + line }

func now(n int) string { return fmt.Sprintf(`{job="elasticsearch"} %d `, int64(arrival)+int64(n)) }

func TestBodies(t *testing.T) {
	f := func(path, body, items string, want ...string) {
		t.Helper()
		s := &sink{}
		a := bulk(t, mux(newReceiver(t, s, nil)), newRequest("POST", path, body))
		if a.String() != items || *a.Errors || a.Took == nil {
			t.Errorf("%q: items %s, errors %v, want %s", body, a, *a.Errors, items)
		}
		if got := s.texts(); !reflect.DeepEqual(got, want) {
			t.Errorf("%q:\n got %q\nwant %q", body, got, want)
		}
		if s.held != 0 {
			t.Errorf("%q: %d bytes still held", body, s.held)
		}
	}
	create, doc := `{"create":{"_index":"i"}}`, `{`+ts+`,"message":"a"}`
	for _, body := range []string{
		create + "\n" + doc + "\n", create + "\n" + doc, create + "\r\n" + doc + "\r\n", "\n" + create + "\n" + doc + "\n\n",
		`{ "create" : { "_index" : "i" } } ` + "\n " + doc + " \n",
	} {
		f("/_bulk", body, "create 201", at("a | _index=i"))
		f("/elasticsearch/_bulk?refresh=false&timeout=1m&_source=false", body, "create 201", at("a | _index=i"))
		f("/other/doc/_bulk", body, "create 201", at("a | _index=i"))
	}
	f("/logs/_bulk?pipeline=p", `{"index":{}}`+"\n"+doc, "index 201", at("a | _index=logs | pipeline=p"))
	f("/logs/_bulk?pipeline=p", `{"index":{"_index":null,"pipeline":"q","_type":"_doc","routing":["x"]}}`+"\n"+doc, "index 201", at("a | _index=logs | pipeline=q"))
	f("/_bulk", `{"index":{}}`+"\n"+doc, "index 201", at("a"))
	f("/_bulk", `{"index":{"_index":"\u00fc\"","_id":7}}`+"\n"+doc, "index 201", at(`a | _index=ü"`))
	f("/_bulk", `{"delete":{"_index":"i","_id":"1"}}`+"\n"+create+"\n"+doc+"\n"+`{"delete":{"_index":"i","_id":"2"}}`,
		"delete 404; create 201; delete 404", at("a | _index=i"))
	f("/_bulk", `{"delete":{"_index":"i","_id":"1"}}`, "delete 404")
	up := `{"update":{"_index":"i","_id":"1","retry_on_conflict":3}}` + "\n"
	f("/_bulk", up+`{"doc":`+doc+`,"doc_as_upsert":true}`, "update 201", at("a | _index=i"))
	f("/_bulk", up+`{"script":{"params":{"event":{"x":[1,{"y":2}]}}},"upsert":{`+ts+`,"message":"a","n":{"k":[1,{"z":2}]}}}`, "update 201", at(`a | _index=i | n_k=[1,{"z":2}]`))
	f("/_bulk", up+`{"doc":{},"upsert":`+doc+`}`, "update 201", at("a | _index=i"))
	// Without a time of its own; equal times of a coarse clock.
	f("/_bulk", create+"\n"+`{"message":"a"}`+"\n"+create+"\n"+`{"message":"b"}`, "create 201; create 201", now(0)+"a | _index=i", now(1)+"b | _index=i")
	f("/_bulk", create+"\n"+doc+"\n"+create+"\n"+doc, "create 201; create 201", at("a | _index=i"), `{job="elasticsearch"} 1000000000000000001 a | _index=i`)
	// ECS: log is a map; message is the line.
	f("/_bulk", create+"\n"+`{`+ts+`,"log":{"file":{"path":"/l"}},"message":"a","service":{"name":"api"},"data_stream":{"type":"logs"}}`, "create 201",
		`{job="elasticsearch", service_name="api"} 1000000000000000000 a | _index=i | data_stream_type=logs | log_file_path=/l`)
	f("/_bulk", create+"\n"+`{`+ts+`,"log":{"level":"info"}}`, "create 201", at(`{`+ts+`,"log":{"level":"info"}} | _index=i`))
}

func TestLogstashDocuments(t *testing.T) {
	doc := `{` + ts + `,"@version":"1","message":"a","event":{"original":"a"}}`
	for agent, want := range map[string]string{
		"Logstash/8.19.0 (OS=Linux)": at("a | _index=i"),
		"Filebeat/8.19.0":            at("a | _index=i | _version=1 | event_original=a"),
	} {
		s := &sink{}
		bulk(t, mux(newReceiver(t, s, nil)), newRequest("POST", "/_bulk", `{"create":{"_index":"i"}}`+"\n"+doc, "User-Agent", agent))
		if got := s.texts(); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", agent, got, want)
		}
	}
}

func TestEncodings(t *testing.T) {
	body := []byte(`{"create":{"_index":"i"}}` + "\n{" + ts + `,"message":"a"}` + "\n")
	gz := func(open func(io.Writer) io.WriteCloser) string {
		var b bytes.Buffer
		w := open(&b)
		_, _ = w.Write(body)
		_ = w.Close()
		return b.String()
	}
	for enc, wire := range map[string]string{
		"gzip":    gz(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
		"deflate": gz(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }),
		"zstd":    gz(func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z }),
	} {
		s := &sink{}
		a := bulk(t, mux(newReceiver(t, s, nil)), newRequest("POST", "/_bulk", wire, "Content-Encoding", enc))
		if a.String() != "create 201" || len(s.entries) != 1 {
			t.Errorf("%s: %s", enc, a)
		}
	}
}

func TestRefusedDocuments(t *testing.T) {
	good := `{"create":{"_index":"i","_id":"g"}}` + "\n{" + ts + `,"message":"a"}` + "\n"
	const typ = " 400 document_parsing_exception: "
	f := func(body, items string, stored int) {
		t.Helper()
		s := &sink{}
		a := bulk(t, mux(newReceiver(t, s, func(c *Config) { c.MaxDocument = 60 })), newRequest("POST", "/_bulk", body))
		if a.String() != items || !*a.Errors || len(s.entries) != stored {
			t.Errorf("%q:\n got %s\nwant %s\n%d stored, errors %v", body, a, items, len(s.entries), *a.Errors)
		}
		if len(s.batches) > 0 && len(s.batches[0].Dead) > 0 {
			t.Errorf("%q: dead letters of a client that was told", body)
		}
	}
	c := `{"create":{}}` + "\n"
	f(good+c+"{broken\n"+good, "create 201; create"+typ+`document in line 4: json: expected a key in double quotes, found 'b' at offset 1; create 201`, 2)
	f(c+"[1]\n"+good, "create"+typ+"document in line 2: not an object; create 201", 1)
	f(c+"\n"+good, "create"+typ+"document in line 2: not an object; create 201", 1)
	f(c+`{"a":1}{"b":2}`+"\n"+good, "create"+typ+"document in line 2: more than one object; create 201", 1)
	f(c+`{"a":"`+strings.Repeat("x", 60)+`"}`+"\n"+good, "create"+typ+"document in line 2: 68 bytes, limit 60; create 201", 1)
	f(good+`{"index":{}}`, "create 201; index"+typ+"no document behind the action in line 3", 1)
	f(`{"update":{}}`+"\n"+`{"script":{"source":"x"}}`+"\n"+good, "update"+typ+"document in line 2: an update needs doc or upsert, as there is no document here that a script could change; create 201", 1)
	// A broken action takes its document with it, not the next action.
	f(good+`{"crate":{}}`+"\n"+`{"message":"a"}`+"\n"+good, "create 201; index"+typ+`malformed action in line 3: unknown action "crate", want create, index, update or delete; create 201`, 2)
	f(good+"{\n"+good, "create 201; index"+typ+"malformed action in line 3: json: unexpected end of input at offset 1; create 201", 2)
	f(good+`{"index":{},"x":1}`+"\n{}\n"+good, "create 201; index"+typ+"malformed action in line 3: not an object with one field, the action; create 201", 2)
	f(good+`{"index":1}`+"\n{}\n", "create 201; index"+typ+"malformed action in line 3: the parameters of index are not an object", 1)
	f(good+`{"index":{}} x`+"\n{}\n", "create 201; index"+typ+"malformed action in line 3: more than an object in one line", 1)
	f(good+`{"index":{"_id":"`+strings.Repeat("i", maxAction)+`"}}`+"\n{}\n", fmt.Sprintf("create 201; index"+typ+"malformed action in line 3: action of %d bytes, limit %d", maxAction+20, maxAction), 1)
}

func TestRefusedRequests(t *testing.T) {
	good := `{"create":{"_index":"i"}}` + "\n{" + ts + `,"message":"a"}` + "\n"
	f := func(s *sink, body string, code int, typ, reason string, headers ...string) http.Header {
		t.Helper()
		h := mux(newReceiver(t, s, func(c *Config) { c.MaxBody, c.MaxDecoded, c.MaxActions = 2*units.KiB, 4*units.KiB, 10 }))
		rec := do(h, newRequest("POST", "/_bulk", body, headers...))
		var e struct {
			Error struct {
				Type, Reason string
				Root         []struct{ Type, Reason string } `json:"root_cause"`
			}
			Status int
		}
		decode(t, rec, &e)
		if rec.Code != code || e.Status != code || e.Error.Type != typ || !strings.Contains(e.Error.Reason, reason) || len(e.Error.Root) != 1 {
			t.Errorf("%.60q: %d %s, want %d %s %s", body, rec.Code, rec.Body, code, typ, reason)
		}
		if rec.Header().Get("X-Elastic-Product") != "Elasticsearch" || s.held != 0 {
			t.Errorf("%.60q: %v, %d bytes held", body, rec.Header(), s.held)
		}
		return rec.Header()
	}
	answer := func(err error) *sink { return &sink{answer: func(*push.Batch) error { return err }} }
	const bad, full = "illegal_argument_exception", "es_rejected_execution_exception"
	f(&sink{}, "", 400, bad, "no actions")
	f(&sink{}, "\r\n \n", 400, bad, "no actions")
	f(&sink{}, "{\n  \"create\": {}\n}\n{}\n", 400, bad, "malformed action in line 1: json: unexpected end")
	f(&sink{}, `[{"create":{}}]`, 400, bad, "not an object in one line")
	f(&sink{}, `{"message":"a"}`, 400, bad, `unknown action "message"`)
	f(&sink{}, good, 400, bad, "decompress gzip", "Content-Encoding", "gzip")
	f(&sink{}, good, 400, bad, "not supported", "Content-Encoding", "br")
	f(&sink{}, strings.Repeat(good, 40), 413, "content_too_long_exception", "limit of 2048 bytes")
	f(&sink{}, strings.Repeat(good, 11), 413, "content_too_long_exception", "more than 10 actions")
	f(answer(push.Errorf(push.RateLimited, "slow down")), good, 429, full, "slow down")
	f(answer(push.Errorf(push.Overloaded, "full")), good, 429, full, "full")
	f(answer(push.Errorf(push.Leaving, "bye")), good, 503, "unavailable_shards_exception", "bye")
	f(answer(push.Errorf(push.NoTenant, "who?")), good, 401, "security_exception", "who?")
	f(answer(push.Errorf(push.BlockedIngestion, "no")), good, 403, "cluster_block_exception", "no")
	f(answer(errors.New("odd")), good, 500, "internal_server_error", "odd")
	f(&sink{admitErr: push.Errorf(push.Overloaded, "no memory")}, good, 429, full, "no memory")
	h := f(answer(&push.Error{Reason: push.RateLimited, Msg: "slow", RetryAfter: 1500 * time.Millisecond}), good, 429, full, "slow")
	if h.Get("Retry-After") != "2" {
		t.Errorf("Retry-After %q, want 2", h.Get("Retry-After"))
	}
}

// What documents become must not take much more memory than they do.
func TestExpansion(t *testing.T) {
	s := &sink{}
	h := mux(newReceiver(t, s, func(c *Config) { c.MaxDecoded = 4 * units.KiB }))
	body := `{"create":{"_index":"` + strings.Repeat("i", 250) + `"}}` + "\n{\"message\":\"a\"}\n"
	body += strings.Repeat(`{"index":{}}`+"\n{}\n", 200)
	if rec := do(h, newRequest("POST", "/"+strings.Repeat("n", 200)+"/_bulk", body)); rec.Code != 413 || len(s.entries) > 0 {
		t.Errorf("%d %s, %d stored", rec.Code, rec.Body, len(s.entries))
	}
}

// rejectEvery refuses entries by line.
func rejectEvery(reasons map[string]push.Reason) func(b *push.Batch) error {
	return func(b *push.Batch) error {
		var rej push.Rejected
		for i := range b.Streams {
			st := &b.Streams[i]
			if r, ok := reasons[string(b.Bytes(st.RawLabels))]; ok {
				st.Reject = r
				rej.Add(r, "", int(st.Count), 1, func() string { return "the stream" })
				continue
			}
			for j := range b.StreamEntries(st) {
				e := &b.StreamEntries(st)[j]
				if r, ok := reasons[string(b.Bytes(e.Line))]; ok {
					e.Reject = r
					rej.Add(r, "", 1, 1, func() string { return "line " + string(b.Bytes(e.Line)) })
				}
			}
		}
		if rej.Entries == 0 {
			return nil
		}
		rej.Total = len(b.Entries)
		return &rej
	}
}

// mixed has documents of three streams in turn.
func mixed(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"create":{"_index":"i","_id":"%d"}}`+"\n"+`{"@timestamp":"2026-09-21T14:13:20.%09dZ","message":"m%[1]d","service_name":"s%[3]d"}`+"\n", i, i, i%3)
	}
	return b.String()
}

func TestItemsOfRefusedEntries(t *testing.T) {
	s := &sink{answer: rejectEvery(map[string]push.Reason{
		"m1": push.LineTooLong, "m4": push.TooOld, "m7": push.StreamLimit, "m10": push.LineTooLong, "m3": push.Leaving,
		`{job="elasticsearch", service_name="s2"}`: push.StreamLimit,
	})}
	reg := prometheus.NewRegistry()
	r := newReceiver(t, s, nil)
	var err error
	if r.metrics, err = newMetrics(reg); err != nil {
		t.Fatal(err)
	}
	a := bulk(t, mux(r), newRequest("POST", "/_bulk", mixed(12)))
	want := map[int]string{
		1: "400 line_too_long, like: line m1", 10: "400 line_too_long, like: line m1",
		4: "400 greater_than_max_sample_age, like: line m4", 7: "429 stream_limit, like: line m7", 3: "503 leaving, like: line m3",
		2: "429 stream_limit, like: line m7", 5: "429 stream_limit, like: line m7", 8: "429 stream_limit, like: line m7", 11: "429 stream_limit, like: line m7",
	}
	if len(a.Items) != 12 || !*a.Errors {
		t.Fatalf("%d items, errors %v", len(a.Items), *a.Errors)
	}
	types := map[int]string{400: "document_parsing_exception", 429: "circuit_breaking_exception", 503: "unavailable_shards_exception"}
	for i, it := range a.Items {
		v := it["create"]
		if v.Index != "i" || v.ID != fmt.Sprint(i) {
			t.Errorf("item %d is %s/%s", i, v.Index, v.ID)
		}
		got := ""
		if v.Error != nil {
			got = fmt.Sprintf("%d %s", v.Status, v.Error.Reason)
			if v.Error.Type != types[v.Status] {
				t.Errorf("item %d has status %d and type %s", i, v.Status, v.Error.Type)
			}
		}
		if got != want[i] || v.Error == nil && (v.Status != 201 || v.Result != "created") {
			t.Errorf("item %d: %q, want %q", i, got, want[i])
		}
	}
	if n := testutil.ToFloat64(r.metrics.stored); n != 3 || len(s.entries) != 3 {
		t.Errorf("%v counted, %d stored, want 3", n, len(s.entries))
	}
	if n := testutil.ToFloat64(r.metrics.rejected.WithLabelValues("line_too_long")); n != 2 {
		t.Errorf("%v counted as too long", n)
	}
}

// All refused for good is still an answer for each: an error for the whole
// would be sent for ever by Logstash.
func TestAllRefused(t *testing.T) {
	s := &sink{answer: rejectEvery(map[string]push.Reason{"m0": push.TooOld, "m1": push.TooOld})}
	a := bulk(t, mux(newReceiver(t, s, nil)), newRequest("POST", "/_bulk", mixed(2)))
	want := "400 document_parsing_exception: greater_than_max_sample_age, like: line m0"
	if a.String() != "create "+want+"; create "+want {
		t.Errorf("got %s", a)
	}
}

// Fluent Bit loses what is refused beside something that is accepted.
func TestClientsThatCannotBeTold(t *testing.T) {
	for _, agent := range []string{"Fluent-Bit", "Vector/0.50.0 (x86_64-unknown-linux-gnu)", ""} {
		req := func(body string) *http.Request { return newRequest("POST", "/_bulk", body, "User-Agent", agent) }
		// For good: answered as created, and kept.
		s := &sink{answer: rejectEvery(map[string]push.Reason{"m1": push.TooOld})}
		a := bulk(t, mux(newReceiver(t, s, nil)), req(mixed(2)+`{"create":{}}`+"\n{broken\n{bad}\n{}\n"+mixed(1)))
		if a.String() != "create 201; create 201; create 201; index 201; create 201" || *a.Errors {
			t.Errorf("%s: %s", agent, a)
		}
		b := s.batches[0]
		if !b.KeepRefused || len(b.Dead) != 2 || string(b.Dead[0].Raw) != "{broken" || !strings.Contains(b.Dead[0].Text, "document in line 6") || string(b.Dead[1].Raw) != "{}" {
			t.Errorf("%s: %+v", agent, b)
		}
		// Nothing but garbage: there is a batch for it all the same.
		s = &sink{}
		a = bulk(t, mux(newReceiver(t, s, nil)), req(`{"create":{}}`+"\n{broken\n"))
		if a.String() != "create 201" || len(s.batches) != 1 || len(s.batches[0].Dead) != 1 {
			t.Errorf("%s: %s, %+v", agent, a, s.batches)
		}
	}
	// Not for good: the whole request has to come again.
	for _, c := range []struct {
		answer func(*push.Batch) error
		code   int
	}{
		{rejectEvery(map[string]push.Reason{"m1": push.StreamLimit, "m0": push.TooOld}), 429},
		{func(*push.Batch) error { return push.Errorf(push.Overloaded, "full") }, 429},
		{func(*push.Batch) error { return push.Errorf(push.NoQuorum, "alone") }, 503},
	} {
		s := &sink{answer: c.answer}
		h := mux(newReceiver(t, s, nil))
		if rec := do(h, newRequest("POST", "/_bulk", mixed(3), "User-Agent", "Fluent-Bit")); rec.Code != c.code {
			t.Errorf("%d %s, want %d", rec.Code, rec.Body, c.code)
		}
		srv := httptest.NewServer(h)
		req, _ := http.NewRequest("POST", srv.URL+"/_bulk", strings.NewReader(mixed(3)))
		req.Header.Set("User-Agent", "")
		if res, err := srv.Client().Do(req); err == nil {
			t.Errorf("a client without User-Agent got %s, it drops what is answered", res.Status)
			res.Body.Close()
		}
		srv.Close()
		if s.held != 0 {
			t.Errorf("%d bytes still held", s.held)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	s := &sink{}
	h := mux(newReceiver(t, s, nil))
	timed := `{"create":{}}` + "\n{" + ts + `,"message":"a"}` + "\n"
	named := `{"create":{"_id":"1"}}` + "\n" + `{"message":"a"}` + "\n"
	plain := `{"create":{}}` + "\n" + `{"message":"a"}` + "\n"
	id := func(path, body string, headers ...string) push.ID {
		t.Helper()
		bulk(t, h, newRequest("POST", path, body, headers...))
		return s.lastID(t)
	}
	zero := push.ID{}
	for _, body := range []string{timed, named} {
		if a := id("/_bulk", body); a == zero || a != id("/_bulk", body, "X-Request-Id", "r", "X-Opaque-Id", "o") {
			t.Errorf("%q is not known by its content", body)
		}
		if id("/_bulk", body) == id("/x/_bulk", body) || id("/_bulk", body) == id("/_bulk?pipeline=x", body) {
			t.Errorf("%q is the same for every index and pipeline", body)
		}
		if a := id("/_bulk", body, "Idempotency-Key", "1"); a == zero || a == id("/_bulk", body, "Idempotency-Key", "2") || a != id("/_bulk", body, "Idempotency-Key", "1") {
			t.Errorf("%q: the client's key is not what counts", body)
		}
	}
	if id("/_bulk", plain) != zero || id("/_bulk", timed+plain) != zero || id("/_bulk", plain, "X-Opaque-Id", "app") != zero {
		t.Error("two equal events without a time are taken for one that was repeated")
	}
	if a := id("/_bulk", plain, "X-Request-Id", "1"); a == zero || a == id("/_bulk", plain, "X-Request-Id", "2") {
		t.Error("X-Request-Id does not count")
	}
}

func TestTenant(t *testing.T) {
	s := &sink{}
	bulk(t, mux(newReceiver(t, s, nil)), newRequest("POST", "/_bulk", mixed(1), "X-Scope-OrgID", "team-a"))
	if s.batches[0].Tenant != "team-a" || s.entries[0].tenant != "team-a" {
		t.Errorf("%+v", s.batches[0])
	}
}

func TestFilterPath(t *testing.T) {
	s := &sink{answer: rejectEvery(map[string]push.Reason{"m1": push.TooOld})}
	h := mux(newReceiver(t, s, nil))
	const e = `{"type":"document_parsing_exception","reason":"greater_than_max_sample_age, like: line m1"}`
	f := func(path, want string) {
		t.Helper()
		req := newRequest("POST", "/_bulk?filter_path="+path, mixed(2))
		if got := do(h, req).Body.String(); got != want {
			t.Errorf("%s:\n got %s\nwant %s", path, got, want)
		}
	}
	f("errors,items.*.error,items.*.status", `{"errors":true,"items":[{"create":{"status":201}},{"create":{"error":`+e+`,"status":400}}]}`)
	f("errors", `{"errors":true}`)
	f("items.*._id,items.create.error.type,%20items.*.failure_store", `{"items":[{"create":{"_index":"i","_id":"0"}},{"create":{"_index":"i","_id":"1","error":`+e+`}}]}`)
	f("items.*.result", `{"items":[{"create":{"_version":1,"result":"created"}},{"create":{}}]}`)
	all := `"errors":true,"items":[{"create":{"_index":"i","_id":"0","_version":1,"result":"created","status":201}},{"create":{"_index":"i","_id":"1","error":` + e + `,"status":400}}]}`
	for _, path := range []string{"", "took,errors,items", "-took", "took,errors,items.*.*", "items.*.nonsense"} {
		got := do(h, newRequest("POST", "/_bulk?filter_path="+path, mixed(2))).Body.String()
		if !strings.HasPrefix(got, `{"took":`) || !strings.HasSuffix(got, ","+all) {
			t.Errorf("%s: %s", path, got)
		}
	}
}

// largest notes the largest piece that is written.
type largest struct {
	*httptest.ResponseRecorder
	n int
}

func (l *largest) Write(p []byte) (int, error) {
	l.n = max(l.n, len(p))
	return l.ResponseRecorder.Write(p)
}

// An answer is written in pieces, so that it takes no memory.
func TestLargeAnswer(t *testing.T) {
	w := &largest{ResponseRecorder: httptest.NewRecorder()}
	mux(newReceiver(t, &sink{}, nil)).ServeHTTP(w, newRequest("POST", "/_bulk", mixed(5000)))
	a := parseAnswer(t, w.Body.Bytes())
	if len(a.Items) != 5000 || *a.Errors || a.Items[4999]["create"].ID != "4999" {
		t.Errorf("%d items", len(a.Items))
	}
	if w.n > 2*flushAt {
		t.Errorf("a piece of the answer has %d bytes", w.n)
	}
}

// Texts of refusals take no more memory than a few of them.
func TestManyRefusals(t *testing.T) {
	s := &sink{}
	a := bulk(t, mux(newReceiver(t, s, nil)), newRequest("POST", "/_bulk", `{"create":{}}`+"\n{}\n"+strings.Repeat(`{"create":{}}`+"\n[]\n", 3000)))
	if n := len(a.Items); n != 3001 || a.Items[3000]["create"].Status != 400 || a.Items[3000]["create"].Error.Reason != "refused, like others before it in this request" {
		t.Errorf("%d items, the last one %+v", n, a.Items[n-1])
	}
}

func TestDocuments(t *testing.T) {
	f := func(method, path, body string, code int, want string) {
		t.Helper()
		s := &sink{}
		rec := do(mux(newReceiver(t, s, nil)), newRequest(method, path, body))
		got := strings.Join(s.texts(), "; ")
		if rec.Code != code || got != want {
			t.Errorf("%s %s: %d %s, stored %q, want %d %q", method, path, rec.Code, rec.Body, got, code, want)
		}
		if code != 201 {
			return
		}
		var v struct {
			ID     string `json:"_id"`
			Index  string `json:"_index"`
			Result string
			Shards struct{ Successful int } `json:"_shards"`
		}
		decode(t, rec, &v)
		if v.Index != "i" || v.ID == "" || v.Result != "created" || v.Shards.Successful != 1 {
			t.Errorf("%s %s: %s", method, path, rec.Body)
		}
	}
	doc := "{\n " + ts + ",\n \"message\": \"a\"\n}\n"
	f("POST", "/i/_doc", doc, 201, at("a | _index=i"))
	f("POST", "/elasticsearch/i/_doc?pipeline=p&refresh", doc, 201, at("a | _index=i | pipeline=p"))
	f("PUT", "/i/_doc/1", doc, 201, at("a | _index=i"))
	f("POST", "/i/events", doc, 201, at("a | _index=i"))
	f("PUT", "/i/doc/1", doc, 201, at("a | _index=i"))
	f("POST", "/i/_create", doc, 404, "")
	f("PUT", "/i/_doc/a%2Fb%20c", doc, 201, at("a | _index=i"))
	f("PUT", "/i/_create/1", doc, 201, at("a | _index=i"))
	f("POST", "/i/_update/1", `{"doc":`+doc+`}`, 201, at("a | _index=i"))
	f("POST", "/i/_doc", "{", 400, "")
	f("POST", "/i/_doc", "", 400, "")
	f("GET", "/i/_doc/1", "", 404, "")
	f("POST", "/i/thing/1", doc, 404, "")
	f("POST", "/i/_doc/1/x", doc, 404, "")
	f("POST", "/"+strings.Repeat("i", maxIndex+1)+"/_doc", doc, 404, "")
}

// Operators see what was refused, and how often a client was cut off.
func TestLogAndMetrics(t *testing.T) {
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	s := &sink{answer: rejectEvery(map[string]push.Reason{"m1": push.TooOld})}
	r := newReceiver(t, s, nil)
	r, err := New(Deps{Sink: s, Mapper: r.d.Mapper, Log: slog.New(slog.NewTextHandler(&log, nil)), Metrics: reg}, r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(r.d, r.cfg); err == nil {
		t.Error("the same metrics were registered twice")
	}
	h := mux(r)
	bulk(t, h, newRequest("POST", "/_bulk", mixed(3)+`{"delete":{"_id":"1"}}`))
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "documents refused") || !strings.Contains(text, "line m1") {
		t.Errorf("log: %s", text)
	}
	s.answer = func(*push.Batch) error { return errors.New("disk on fire") }
	do(h, newRequest("POST", "/_bulk", mixed(1)))
	if text := log.String(); !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "disk on fire") {
		t.Errorf("log: %s", text)
	}
	func() {
		defer func() {
			if recover() != http.ErrAbortHandler {
				t.Error("the connection was not cut")
			}
		}()
		do(h, newRequest("POST", "/_bulk", mixed(1), "User-Agent", ""))
	}()
	for metric, want := range map[prometheus.Collector]float64{
		r.metrics.stored: 2, r.metrics.ignored: 1, r.metrics.rejected.WithLabelValues("greater_than_max_sample_age"): 1,
		r.metrics.requests.WithLabelValues("200"): 1, r.metrics.requests.WithLabelValues("500"): 1, r.metrics.requests.WithLabelValues("499"): 1,
	} {
		if got := testutil.ToFloat64(metric); got != want {
			t.Errorf("%v is %v, want %v", metric.(prometheus.Metric).Desc(), got, want)
		}
	}
}
