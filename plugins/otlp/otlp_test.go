package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink keeps what is pushed in the plainest form, and answers as it is told.
type sink struct {
	mu       sync.Mutex
	got      []string
	pushes   int
	tenant   string
	receiver string
	id       push.ID
	full     int64 // bytes that are admitted at most; 0: any number
	held     int64
	do       func(*push.Batch) error
}

func (s *sink) Admit(_ context.Context, n int64) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full > 0 && s.held+n > s.full {
		return nil, push.Errorf(push.Overloaded, "too many bytes in flight")
	}
	s.held += n
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held -= n
	}, nil
}

func (s *sink) Push(_ context.Context, b *push.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushes++
	s.got = append(s.got, plain(b)...)
	s.tenant, s.receiver, s.id = strings.Clone(b.Tenant), b.Receiver, b.ID
	if s.do != nil {
		return s.do(b)
	}
	return nil
}

// plain writes every entry as one text.
func plain(b *push.Batch) []string {
	var out []string
	for i := range b.Streams {
		st := &b.Streams[i]
		for j := range b.StreamEntries(st) {
			e := &b.StreamEntries(st)[j]
			t := fmt.Sprintf("%s %d %q", b.Bytes(st.RawLabels), e.TS, b.Bytes(e.Line))
			for it := b.Pairs(e); it.Next(); {
				t += fmt.Sprintf(" %s=%q", it.Name, it.Value)
			}
			out = append(out, t)
		}
	}
	return out
}

const now = int64(1_800_000_000_123_456_789)

func receiverFor(t testing.TB, s Sink, change ...func(*Config)) *Receiver {
	t.Helper()
	cfg := DefaultConfig()
	cfg.GRPCListen = ""
	for _, c := range change {
		c(&cfg)
	}
	rc, err := New(Deps{
		Sink: s, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: prometheus.NewRegistry(),
		Now: func() time.Time { return time.Unix(0, now) },
	}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return rc
}

const (
	protobuf = "application/x-protobuf"
	jsonType = "application/json"
)

func post(rc http.Handler, contentType string, body []byte, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/v1/logs", bytes.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	rc.ServeHTTP(w, r)
	return w
}

// one is a request of one record.
func one(attrs kvs, l record) resourceOf {
	return resourceOf{Attrs: attrs, Scopes: []scopeOf{{Records: []record{l}}}}
}

// TestMapping sends each request as protobuf and as JSON.
func TestMapping(t *testing.T) {
	f := func(r []resourceOf, want ...string) {
		t.Helper()
		for contentType, body := range map[string][]byte{protobuf: protoRequest(r...), jsonType: jsonRequest(r...)} {
			s := &sink{}
			w := post(receiverFor(t, s), contentType, body)
			answer := ""
			if contentType == jsonType {
				answer = "{}"
			}
			if w.Code != 200 || w.Body.String() != answer || w.Header().Get("Content-Type") != contentType {
				t.Fatalf("%s: %d %q %s", contentType, w.Code, w.Body, w.Header())
			}
			if !slices.Equal(s.got, want) {
				t.Fatalf("%s:\ngot  %q\nwant %q", contentType, s.got, want)
			}
			if s.held != 0 {
				t.Fatalf("%d bytes not given back", s.held)
			}
		}
	}
	line := func(v any, want string) {
		t.Helper()
		f([]resourceOf{one(nil, record{Time: 5, Body: v})}, "{} 5 "+want)
	}
	f(nil)
	f([]resourceOf{{Attrs: kvs{{"service.name", "a"}}}})
	// Bodies.
	line(nil, `""`)
	line("plain \"x\"\n\x00 é", `"plain \"x\"\n\x00 é"`)
	line("", `""`)
	line(true, `"true"`)
	line(false, `"false"`)
	line(int64(math.MinInt64), `"-9223372036854775808"`)
	line(1.5, `"1.5"`)
	line(float64(7), `"7"`)
	line(1e21, `"1e+21"`)
	line(1.5e-7, `"1.5e-7"`)
	line(-2.5e-300, `"-2.5e-300"`)
	line(math.NaN(), `"NaN"`)
	line(math.Inf(1), `"Infinity"`)
	line(math.Inf(-1), `"-Infinity"`)
	line([]byte("\x00\xff"), `"AP8="`)
	line([]any{int64(1), "a<b>&", nil, 2.5, true, []any{}, kvs{}, []byte("x")}, `"[1,\"a<b>&\",null,2.5,true,[],{},\"eA==\"]"`)
	line(kvs{{"b", int64(1)}, {"a", kvs{{"\u2028\u2029", "\b\f\n\r\t\x01\x7f"}}}, {"b", int64(2)}},
		`"{\"a\":{\"\\u2028\\u2029\":\"\\b\\f\\n\\r\\t\\u0001\x7f\"},\"b\":2}"`)
	line([]any{math.NaN(), math.Inf(-1)}, `"[\"NaN\",\"-Infinity\"]"`)
	// Labels and metadata of the resource.
	f([]resourceOf{one(kvs{
		{"service.name", "shop"},
		{"host.name", "h1"},
		{"k8s.pod.name", "p"},
		{"process.pid", int64(7)},
		{"deployment.environment.name", "prod"},
		{"cloud.region", ""},
		{"service.version", "1"},
	}, record{Time: 5, Body: "x"})},
		`{deployment_environment_name="prod", k8s_pod_name="p", service_name="shop"} 5 "x" host_name="h1" process_pid="7" service_version="1"`)
	f([]resourceOf{one(kvs{{"service.name", "a"}, {"service.name", "b\"\n"}}, record{Time: 5})}, `{service_name="b\"\n"} 5 ""`)
	f([]resourceOf{one(kvs{{"service.name", kvs{{"x.y", "1"}, {"z", []any{"2"}}}}}, record{Time: 5})},
		`{service_name_x_y="1", service_name_z="[\"2\"]"} 5 ""`)
	// Attributes of all kinds, nested ones.
	f([]resourceOf{{Attrs: kvs{{"r", "1"}}, Scopes: []scopeOf{
		{
			Name: "lib", Version: "2", Dropped: 3, Attrs: kvs{{"s", true}},
			Records: []record{{
				Time: 5, Observed: 6, Severity: 9, SeverityText: "INFO", Body: "x", Dropped: 1, Flags: 1, Event: "ev",
				Trace: []byte{0: 1, 15: 0xab}, Span: []byte{0: 0xff, 7: 0},
				Attrs: kvs{{"http.request.method", "GET"}, {"m", kvs{{"a", int64(1)}, {"b", kvs{{"c", nil}, {"d", ""}}}, {"e", kvs{}}}}, {"l", []any{int64(1)}}},
			}},
		},
		{Records: []record{{Time: 7, Body: "y", Trace: make([]byte, 16), Span: make([]byte, 8)}}},
	}}},
		`{} 5 "x" dropped_attributes_count="1" event_name="ev" flags="1" http_request_method="GET" l="[1]" m_a="1" observed_timestamp="6" r="1" `+
			`s="true" scope_dropped_attributes_count="3" scope_name="lib" scope_version="2" severity_number="9" severity_text="INFO" `+
			`span_id="ff00000000000000" trace_id="010000000000000000000000000000ab"`,
		`{} 7 "y" r="1"`)
	// One name from several places: the record's own comes first, nothing is lost.
	f([]resourceOf{{Attrs: kvs{{"n", "r"}, {"same", "1"}}, Scopes: []scopeOf{{Attrs: kvs{{"n", "s"}}, Records: []record{{
		Time: 5, Attrs: kvs{{"n", "own"}, {"same", "1"}, {"trace.id", "t"}}, Trace: []byte{15: 1},
	}}}}}}, `{} 5 "" n="own" n_2="r" n_3="s" same="1" trace_id="t" trace_id_4="00000000000000000000000000000001"`)
	// Names.
	f([]resourceOf{one(nil, record{Time: 5, Attrs: kvs{{"", "a"}, {"1x", "b"}, {"a__b..c", "c"}, {"☃", "d"}, {"__x__", "e"}}})},
		`{} 5 "" __x__="e" a_b_c="c" key="a" key_1x="b" key_2="d"`)
	// Times.
	f([]resourceOf{one(nil, record{Observed: 6})}, `{} 6 ""`)
	f([]resourceOf{one(nil, record{})}, fmt.Sprintf(`{} %d ""`, now))
	f([]resourceOf{one(nil, record{Time: math.MaxUint64})}, `{} -1 ""`)
	// Several resources with one label set are one stream; equal times stay.
	f([]resourceOf{
		one(kvs{{"service.name", "a"}, {"x", "1"}}, record{Time: 5, Body: "1"}), one(kvs{{"service.name", "b"}}, record{Time: 5, Body: "2"}),
		one(kvs{{"service.name", "a"}}, record{Time: 5, Body: "1"}),
	}, `{service_name="a"} 5 "1" x="1"`, `{service_name="a"} 5 "1"`, `{service_name="b"} 5 "2"`)
	// Many attributes, out of order.
	var many kvs
	var text string
	for i := range 100 {
		many = append(many, kv{fmt.Sprintf("a.%03d", (i*37)%100), int64((i * 37) % 100)})
		text += fmt.Sprintf(` a_%03d="%d"`, i, i)
	}
	f([]resourceOf{one(nil, record{Time: 5, Attrs: many})}, `{} 5 ""`+text)
}

// TestLenientProtobuf sends what an encoder might, but Go's does not.
func TestLenientProtobuf(t *testing.T) {
	f := func(body []byte, want ...string) {
		t.Helper()
		s := &sink{}
		if w := post(receiverFor(t, s), protobuf, body); w.Code != 200 || !slices.Equal(s.got, want) {
			t.Fatalf("%d %s\ngot  %q\nwant %q", w.Code, w.Body, s.got, want)
		}
	}
	bad := "\xff\xfe\xc3"
	f(protoRequest(one(kvs{{"service.name", bad}}, record{Time: 5, Body: bad, SeverityText: bad, Attrs: kvs{{"k" + bad, bad}, {"m", []any{bad}}}})),
		"{service_name=\"\uFFFD\"} 5 \"\\xff\\xfe\\xc3\" k_=\"\\xff\\xfe\\xc3\" m=\"[\\\"\\\\ufffd\\\\ufffd\\\\ufffd\\\"]\" severity_text=\"\\xff\\xfe\\xc3\"")
	// Fields that are not known, of every wire type, and of wrong ones.
	unknown := num(nil, 200, 1)
	unknown = fix64(unknown, 201, 1)
	unknown = blob(unknown, 202, []byte("x"))
	unknown = append(protowire.AppendTag(unknown, 203, protowire.Fixed32Type), 1, 2, 3, 4)
	unknown = append(protowire.AppendTag(unknown, 204, protowire.StartGroupType), num(nil, 1, 2)...)
	unknown = protowire.AppendTag(unknown, 204, protowire.EndGroupType)
	l := append(record{Time: 5, Body: "x"}.proto(), unknown...)
	l = blob(l, 1, []byte("not a time"))
	l = num(l, 3, 7)
	scope := append(append(bytes.Clone(unknown), blob(nil, 2, l)...), num(nil, 1, 3)...)
	res := append(append(bytes.Clone(unknown), blob(nil, 2, scope)...), unknown...)
	f(append(append(bytes.Clone(unknown), blob(nil, 1, res)...), unknown...), `{} 5 "x"`)
	// The resource and the scope behind the records, the value before its key.
	attr := blob(blob(nil, 2, protoValue("v")), 1, []byte("k"))
	scope = blob(blob(nil, 2, record{Time: 5}.proto()), 1, blob(nil, 3, attr))
	f(blob(nil, 1, blob(blob(nil, 2, scope), 1, protoAttrs(nil, 1, kvs{{"service.name", "a"}}))), `{service_name="a"} 5 "" k="v"`)
	// A message in two parts is merged; of several values the last counts.
	l = append(record{Time: 5, Body: "x"}.proto(), record{Time: 6, Body: int64(7)}.proto()...)
	res = append(blob(nil, 1, protoAttrs(nil, 1, kvs{{"a", "1"}})), blob(nil, 1, protoAttrs(nil, 1, kvs{{"b", "2"}}))...)
	f(blob(nil, 1, blob(res, 2, blob(nil, 2, l))), `{} 6 "7" a="1" b="2"`)
	// Records as OTLP 0.14 had them.
	f(blob(nil, 1, blob(nil, 1000, scopeOf{Name: "lib", Records: []record{{Time: 5}}}.proto())), `{} 5 "" scope_name="lib"`)
	// Ids of other lengths.
	f(protoRequest(one(nil, record{Time: 5, Trace: []byte{1}, Span: []byte{0, 0, 2}})), `{} 5 "" span_id="000002" trace_id="01"`)
}

func TestLenientJSON(t *testing.T) {
	f := func(body string, want ...string) {
		t.Helper()
		s := &sink{}
		if w := post(receiverFor(t, s), "application/json; charset=utf-8", []byte(body)); w.Code != 200 || !slices.Equal(s.got, want) {
			t.Fatalf("%s: %d %s\ngot  %q\nwant %q", body, w.Code, w.Body, s.got, want)
		}
	}
	rec := func(l string, want string) {
		t.Helper()
		f(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[`+l+`]}]}]}`, want)
	}
	f(`{}`)
	f(`null`)
	f(`{"resourceLogs":null}`)
	f(` {"resourceLogs":[null,{"resource":null,"scopeLogs":null},{"scopeLogs":[null,{"scope":null,"logRecords":[null]}]}],"x":[{}]} `)
	rec(`{}`, fmt.Sprintf(`{} %d ""`, now))
	rec(`{"timeUnixNano":5,"severityNumber":"SEVERITY_NUMBER_ERROR3","body":{"intValue":-7},"flags":"1"}`, `{} 5 "-7" flags="1" severity_number="19"`)
	rec(`{"time_unix_nano":"5","observed_time_unix_nano":6,"severity_number":"9","severity_text":"I","trace_id":"AB","span_id":"0000","event_name":"e","dropped_attributes_count":2}`,
		`{} 5 "" dropped_attributes_count="2" event_name="e" observed_timestamp="6" severity_number="9" severity_text="I" trace_id="ab"`)
	rec(`{"timeUnixNano":1.79e18,"severityNumber":"SEVERITY_NUMBER_UNSPECIFIED","traceId":null}`, `{} 1790000000000000000 ""`)
	rec(`{"timeUnixNano":5,"traceId":"S/kvNXezTaajzpKdDg5HNg=="}`, `{} 5 "" trace_id="S/kvNXezTaajzpKdDg5HNg=="`)
	rec(`{"timeUnixNano":5,"body":{"string_value":"\u0041\n\ud83d\ude00\ud83d"},"attributes":[{"value":{"bool_value":"true"},"key":"\u0041.b"},{"key":"c\n"},null]}`,
		"{} 5 \"A\\n😀\uFFFD\" A_b=\"true\"")
	rec(`{"timeUnixNano":5,"body":{"stringValue":null},"attributes":[{"key":"a","value":null},{"key":"b","value":{"intValue":"x"}},{"key":"c","value":{"doubleValue":"1e-7"}},{"key":"d","value":{"boolValue":1}},{"key":"e","value":{"intValue":18446744073709551616}}]}`,
		`{} 5 "" b="x" c="1e-7" d="1" e="18446744073709551616"`)
	rec(`{"timeUnixNano":5,"body":{"stringValue":"x","intValue":7}}`, `{} 5 "7"`)
	rec(`{"timeUnixNano":5,"body":{"arrayValue":{"values":[{"kvlist_value":{"values":[{"key":"\"","value":{"array_value":{}}}]}},{}]}}}`, `{} 5 "[{\"\\\"\":[]},null]"`)
	// Heads behind lists.
	f(`{"resource_logs":[{"scope_logs":[{"log_records":[{"timeUnixNano":5}],"scope":{"name":"n\n","version":"v","attributes":[{"key":"k","value":{"stringValue":"\t"}}],"droppedAttributesCount":1}}],"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"\u0061"}},{"key":"host","value":{"stringValue":"\u0062"}}]},"schemaUrl":"u"}]}`,
		`{service_name="a"} 5 "" host="b" k="\t" scope_dropped_attributes_count="1" scope_name="n\n" scope_version="v"`)
	// Bytes that are not UTF-8.
	rec("{\"timeUnixNano\":5,\"body\":{\"stringValue\":\"\xff\x00\"}}", `{} 5 "\xff\x00"`)
	// Strings with escapes survive the growth of the buffer that holds them.
	var attrs, want strings.Builder
	for i := range 200 {
		fmt.Fprintf(&attrs, `{"key":"k\u002e%03d","value":{"stringValue":"\n%d%s"}},`, i, i, strings.Repeat("x", i))
		fmt.Fprintf(&want, ` k_%03d="\n%d%s"`, i, i, strings.Repeat("x", i))
	}
	rec(`{"timeUnixNano":5,"attributes":[`+attrs.String()+`null]}`, `{} 5 ""`+want.String())
}

func TestMalformed(t *testing.T) {
	f := func(contentType, body, want string) {
		t.Helper()
		s := &sink{}
		rc := receiverFor(t, s)
		for range 2 { // the second with a decoder that has been used
			w := post(rc, contentType, []byte(body))
			st := statusOf(t, w)
			if w.Code != 400 || st.Message != want || st.Code != 3 || s.pushes != 0 {
				t.Fatalf("%.200q: %d %q (%d), pushed %q", body, w.Code, st.Message, st.Code, s.got)
			}
			if s.held != 0 {
				t.Fatalf("%.200q: %d bytes not given back", body, s.held)
			}
		}
	}
	const broken = "protobuf: a message breaks off or is none"
	whole := string(protoRequest(resourceOf{Attrs: kvs{{"a", []any{"b", kvs{{"c", 1.5}}}}}, Scopes: []scopeOf{{Name: "n", Attrs: kvs{{"d", true}}, Records: []record{
		{Time: 5, Severity: 300, Body: kvs{{"e", "f"}}, Flags: 1, Attrs: kvs{{"g", "h"}}},
	}}}}))
	for n := 1; n < len(whole); n++ {
		f(protobuf, whole[:n], broken)
	}
	// Each length within is made too large.
	for i := range whole {
		b := []byte(whole)
		if b[i] == 0 || b[i] > 0x70 {
			continue
		}
		b[i] = 0x7f
		s := &sink{}
		if w := post(receiverFor(t, s), protobuf, b); w.Code != 200 && w.Code != 400 {
			t.Fatalf("byte %d: %d %s", i, w.Code, w.Body)
		}
	}
	f(protobuf, "\x00", broken)
	f(protobuf, "{}", broken)
	f(protobuf, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", broken)
	f(protobuf, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", broken)
	f(protobuf, "\x0c", broken)                          // the end of a group
	f(protobuf, strings.Repeat("\x0b", 100_000), broken) // groups without an end
	f(jsonType, ``, "json: expected an object at offset 0")
	f(jsonType, `[]`, "json: expected an object at offset 0")
	f(jsonType, `{"resourceLogs":{}}`, "json: expected an array at offset 16")
	f(jsonType, `{"resourceLogs":[1]}`, "json: resource 0: record 0: expected an object at offset 17")
	f(jsonType, `{"resourceLogs":[]} x`, "json: text behind the end of the push at offset 20")
	f(jsonType, `{"resourceLogs":[{"resource":{},"resource":{}}]}`, `json: resource 0: record 0: "resource" occurs twice at offset 43`)
	f(jsonType, `{"resourceLogs":[{"scopeLogs":[],"scopeLogs":[]}]}`, `json: resource 0: record 0: "scopeLogs" occurs twice at offset 45`)
	head := `{"resourceLogs":[{"resource":{},"scopeLogs":[{"scope":{},"logRecords":[{},`
	rec := func(l, want string) {
		t.Helper()
		f(jsonType, head+l+`]}]}]}`, "json: resource 0: record 1: "+want)
	}
	rec(`7`, `expected an object at offset 74`)
	rec(`{"timeUnixNano":"x"}`, `"x" is not an integer at offset 90`)
	rec(`{"timeUnixNano":-1}`, `"-1" is not an integer at offset 90`)
	rec(`{"timeUnixNano":1.5}`, `"1.5" is not an integer at offset 90`)
	rec(`{"timeUnixNano":[]}`, `expected a string, a number, true or false at offset 90`)
	rec(`{"severityNumber":"INFO"}`, `"INFO" is not a severity number at offset 92`)
	rec(`{"severityText":7}`, `expected a string at offset 90`)
	rec(`{"traceId":7}`, `expected a string at offset 85`)
	rec(`{"body":"x"}`, `expected an object at offset 82`)
	rec(`{"body":{"stringValue":{}}}`, `expected a string, a number, true or false at offset 97`)
	rec(`{"body":{"arrayValue":[]}}`, `expected an object at offset 96`)
	rec(`{"attributes":{}}`, `expected an array at offset 88`)
	rec(`{"attributes":[{"key":7}]}`, `expected a string at offset 96`)
	f(jsonType, head+`{"body":{"stringValue":"x`, `json: resource 0: record 1: string without an end at offset 97`)
}

// statusOf reads the google.rpc.Status of an answer, in its encoding.
func statusOf(t *testing.T, w *httptest.ResponseRecorder) *spb.Status {
	t.Helper()
	var s spb.Status
	var err error
	switch w.Header().Get("Content-Type") {
	case jsonType:
		err = protojson.Unmarshal(w.Body.Bytes(), &s)
	case protobuf:
		err = proto.Unmarshal(w.Body.Bytes(), &s)
	default:
		err = fmt.Errorf("content type %q", w.Header().Get("Content-Type"))
	}
	if err != nil {
		t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	return &s
}

// partialOf reads an ExportLogsServiceResponse.
func partialOf(t *testing.T, contentType string, body []byte) (refused int64, text string) {
	t.Helper()
	if contentType == jsonType {
		var r struct {
			PartialSuccess struct {
				RejectedLogRecords int64 `json:",string"`
				ErrorMessage       string
			}
		}
		if err := json.Unmarshal(body, &r); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		return r.PartialSuccess.RejectedLogRecords, r.PartialSuccess.ErrorMessage
	}
	f := fields{p: body}
	for f.next() {
		if f.is(1) {
			for g := (fields{p: f.b}); g.next(); {
				if g.num == 1 {
					refused = int64(g.n)
				} else if g.is(2) {
					text = string(g.b)
				}
			}
		}
	}
	if f.bad {
		t.Fatalf("answer %q", body)
	}
	return refused, text
}

func TestAnswers(t *testing.T) {
	rejected := &push.Rejected{Total: 3}
	rejected.Add(push.LineTooLong, `{a="1"}`, 2, 10, func() string { return "line\xff \"too long\"" })
	limited := &push.Rejected{Total: 2}
	limited.Add(push.LineTooLong, `{a="1"}`, 1, 10, func() string { return "too long" })
	limited.Add(push.StreamRateLimit, `{a="1"}`, 1, 10, func() string { return "too fast" })
	body := []resourceOf{one(nil, record{Time: 5, Body: "x"}), one(nil, record{Time: 6}), one(nil, record{Time: 7})}
	f := func(err error, code int, retry string, grpcCode int32, want string) {
		t.Helper()
		for contentType, b := range map[string][]byte{protobuf: protoRequest(body...), jsonType: jsonRequest(body...)} {
			w := post(receiverFor(t, &sink{do: func(*push.Batch) error { return err }}), contentType, b)
			if w.Code != code || w.Header().Get("Retry-After") != retry {
				t.Fatalf("%v: got %d %q, Retry-After %q", err, w.Code, w.Body, w.Header().Get("Retry-After"))
			}
			st := statusOf(t, w)
			if st.Message != want || st.Code != grpcCode {
				t.Fatalf("%v: got %d %q", err, st.Code, st.Message)
			}
			if (retry != "") != (len(st.Details) == 1) {
				t.Fatalf("%v: details %v", err, st.Details)
			}
		}
	}
	partial := func(err error, n int64, want string) {
		t.Helper()
		for contentType, b := range map[string][]byte{protobuf: protoRequest(body...), jsonType: jsonRequest(body...)} {
			w := post(receiverFor(t, &sink{do: func(*push.Batch) error { return err }}), contentType, b)
			refused, text := partialOf(t, contentType, w.Body.Bytes())
			if w.Code != 200 || refused != n || text != want {
				t.Fatalf("%s: %d, %d refused, %q", contentType, w.Code, refused, text)
			}
		}
	}
	partial(rejected, 2, "2 errors like: line\uFFFD \"too long\" (2 of 3 entries refused, the rest is stored)")
	partial(push.Errorf(push.BlockedIngestion, "blocked"), 3, "blocked")
	f(limited, 429, "1", 8, "1 errors like: too long; 1 errors like: too fast (2 of 2 entries refused, the rest is stored)")
	f(&push.Error{Reason: push.RateLimited, Msg: "slow down", RetryAfter: 2500 * time.Millisecond}, 429, "3", 8, "slow down")
	f(push.Errorf(push.DiskLow, "disk is full"), 503, "1", 14, "disk is full")
	f(push.Errorf(push.Internal, "boom"), 503, "1", 14, "boom")
	f(errors.New("boom"), 503, "1", 14, "boom")
	f(push.Errorf(push.NoTenant, "no org id"), 401, "", 16, "no org id")
	f(push.Errorf(push.InvalidTenant, "bad tenant"), 400, "", 3, "bad tenant")
	f(errors.New(strings.Repeat("é", 3000)), 503, "1", 14, strings.Repeat("é", 1024)+"...")
}

func TestRefusedRequests(t *testing.T) {
	f := func(contentType, encoding string, code int, want string) {
		t.Helper()
		s := &sink{}
		w := post(receiverFor(t, s), contentType, []byte("x"), "Content-Encoding", encoding)
		if st := statusOf(t, w); w.Code != code || st.Message != want || st.Code != 3 || s.held != 0 {
			t.Fatalf("got %d %q", w.Code, st.Message)
		}
	}
	f("", "", 415, `Content-Type "" is not application/x-protobuf or application/json`)
	f("text/plain", "", 415, `Content-Type "text/plain" is not application/x-protobuf or application/json`)
	f(protobuf, "br", 400, `Content-Encoding "br" not supported`)
	f(jsonType, "gzip", 400, "decompress gzip body: unexpected EOF")
	w := httptest.NewRecorder()
	receiverFor(t, &sink{}).ServeHTTP(w, httptest.NewRequest("GET", "/v1/logs", nil))
	if w.Code != 405 || w.Header().Get("Allow") != "POST" {
		t.Fatalf("GET: %d", w.Code)
	}
}

func compress(t testing.TB, enc string, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if enc == "zstd" {
		z, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHeadersAndIDs(t *testing.T) {
	s := &sink{}
	rc := receiverFor(t, s)
	mux := http.NewServeMux()
	rc.Register(mux)
	body := protoRequest(one(nil, record{Time: 5, Body: "x"}))
	send := func(body []byte, headers ...string) push.ID {
		t.Helper()
		r := httptest.NewRequest("POST", "/otlp/v1/logs", bytes.NewReader(body))
		r.Header.Set("Content-Type", protobuf)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != 200 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return s.id
	}
	first := send(body, "X-Scope-OrgID", "team-a")
	if s.tenant != "team-a" || s.receiver != "otlp" || first == (push.ID{}) {
		t.Fatalf("tenant %q, receiver %q, id %x", s.tenant, s.receiver, first)
	}
	for _, enc := range []string{"gzip", "zstd"} {
		if id := send(compress(t, enc, body), "Content-Encoding", enc); id != first {
			t.Fatalf("%s: the same content has another id", enc)
		}
	}
	if send(protoRequest(one(nil, record{Time: 6, Body: "x"}))) == first {
		t.Fatal("other content has the same id")
	}
	timeless := protoRequest(one(nil, record{Time: 5}), one(nil, record{Body: "x"}))
	if send(timeless) != (push.ID{}) {
		t.Fatal("a record without a time has an id: an equal one would pass for it")
	}
	named := send(timeless, "Idempotency-Key", "k")
	if named == (push.ID{}) || named != send(timeless, "Idempotency-Key", "k") {
		t.Fatal("the client's own id is not used")
	}
}

func TestLabelAttributes(t *testing.T) {
	s := &sink{}
	rc := receiverFor(t, s, func(c *Config) { c.LabelAttributes = []string{"team", "m"} })
	post(rc, protobuf, protoRequest(one(kvs{{"service.name", "a"}, {"team", "b"}, {"m", kvs{{"z", int64(1)}, {"y", "2"}}}}, record{Time: 5})))
	if want := []string{`{m_y="2", m_z="1", team="b"} 5 "" service_name="a"`}; !slices.Equal(s.got, want) {
		t.Fatalf("got %q", s.got)
	}
}

// nested returns a value with n lists around it.
func nested(n int) any {
	var v any = "x"
	for range n {
		v = []any{v}
	}
	return v
}

// TestSingleRecordsRefused: what is wrong with one record leaves the others.
func TestSingleRecordsRefused(t *testing.T) {
	f := func(r []resourceOf, refused int64, want string, stored ...string) {
		t.Helper()
		for contentType, body := range map[string][]byte{protobuf: protoRequest(r...), jsonType: jsonRequest(r...)} {
			s := &sink{}
			w := post(receiverFor(t, s, func(c *Config) { c.MaxValues = 200 }), contentType, body)
			n, text := partialOf(t, contentType, w.Body.Bytes())
			if w.Code != 200 || n != refused || text != want || !slices.Equal(s.got, stored) {
				t.Fatalf("%s: %d, %d refused, %q\ngot  %.300q\nwant %.300q", contentType, w.Code, n, text, s.got, stored)
			}
		}
	}
	good, other := record{Time: 5, Body: "x"}, record{Time: 6, Body: "y"}
	with := func(bad record) []resourceOf {
		return []resourceOf{{Scopes: []scopeOf{{Records: []record{good, bad, other}}}}}
	}
	kept := []string{`{} 5 "x"`, `{} 6 "y"`}
	deep := "1 errors like: a value is nested deeper than 100"
	f(with(record{Body: nested(mapping.MaxDepth + 1)}), 1, deep, kept...)
	f(with(record{Attrs: kvs{{"a", nested(mapping.MaxDepth + 1)}}}), 1, deep, kept...)
	f(with(record{Attrs: kvs{{"a", kvs{{"b", nested(mapping.MaxDepth)}}}, {"c", "d"}}}), 1, deep, kept...)
	f(with(record{Time: 5, Body: nested(mapping.MaxDepth)}), 0, "", kept[0], `{} 5 "`+strings.Repeat("[", 100)+`\"x\"`+strings.Repeat("]", 100)+`"`, kept[1])
	var many kvs
	var list []any
	for i := range 201 {
		many, list = append(many, kv{fmt.Sprint("k", i), "v"}), append(list, int64(i))
	}
	f(with(record{Attrs: many}), 1, "1 errors like: more than 200 values in one log record", kept...)
	f(with(record{Body: list}), 1, "1 errors like: more than 200 values in one log record", kept...)
	var empty kvs
	for range 201 {
		empty = append(empty, kv{"k", nil})
	}
	f(with(record{Attrs: empty}), 1, "1 errors like: more than 200 values in one log record", kept...)
	// A resource or a scope that cannot be kept costs its own records only.
	r := with(good)
	f([]resourceOf{{Attrs: many, Scopes: r[0].Scopes}, {Scopes: []scopeOf{{Attrs: many, Records: []record{good}}, {Records: []record{other}}}}},
		4, "4 errors like: more than 200 values in one log record", kept[1])
	// Names that nest.
	long := strings.Repeat("n", 300_000)
	f(with(record{Attrs: kvs{{long, kvs{{long, kvs{{"a", "1"}, {"b", "2"}}}}}}}), 1, "1 errors like: names and values of nested attributes are larger than 1 MiB", kept...)
}

func TestLimits(t *testing.T) {
	f := func(contentType string, body []byte, code int, change func(*Config), full int64) {
		t.Helper()
		s := &sink{full: full}
		w := post(receiverFor(t, s, change), contentType, body)
		if w.Code != code || s.held != 0 || code != 200 && s.pushes != 0 {
			t.Fatalf("%d %s, want %d; %d bytes not given back", w.Code, w.Body, code, s.held)
		}
	}
	body, js := benchRequest(1000)
	for contentType, b := range map[string][]byte{protobuf: body, jsonType: js} {
		f(contentType, b, 200, func(*Config) {}, 0)
		f(contentType, b, 413, func(c *Config) { c.MaxRecvSize = 1000 }, 0)
		f(contentType, b, 413, func(c *Config) { c.MaxDecodedSize = 1000 }, 0)
		f(contentType, b, 413, func(c *Config) { c.MaxRecords = 999 }, 0)
		f(contentType, b, 200, func(c *Config) { c.MaxRecords = 1000 }, 0)
		f(contentType, b, 503, func(*Config) {}, int64(len(b))/2)
	}
	// Empty records of a resource with large attributes: a little becomes a lot.
	r := resourceOf{Attrs: kvs{{"big", strings.Repeat("x", 10_000)}}, Scopes: []scopeOf{{Records: make([]record, 1500)}}}
	f(protobuf, protoRequest(r), 413, func(c *Config) { c.MaxDecodedSize = 4 << 20 }, 0)
	f(protobuf, protoRequest(r), 503, func(*Config) {}, 8<<20)
	f(jsonType, jsonRequest(r), 503, func(*Config) {}, 8<<20)
	// Attributes without values count, too.
	s := &sink{}
	keys := `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"attributes":[` + strings.Repeat(`{"key":"k"},`, 5000) + `null]}]}]}]}`
	w := post(receiverFor(t, s), jsonType, []byte(keys))
	if n, _ := partialOf(t, jsonType, w.Body.Bytes()); n != 1 || s.pushes != 0 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if _, err := New(Deps{Sink: &sink{}}, Config{LabelAttributes: []string{""}, GRPCDrainTimeout: -1}); err == nil || strings.Count(err.Error(), "\n") != 9 {
		t.Fatalf("limits of 0: %v", err)
	}
}
