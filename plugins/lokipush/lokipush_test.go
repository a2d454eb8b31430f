package lokipush

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
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
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/proto/push"
)

// sink keeps what is pushed in the plainest form, and answers as it is told.
type sink struct {
	got      []string
	tenant   string
	receiver string
	id       push.ID
	body     []byte
	codec    push.Codec
	err      error
	full     int64 // bytes that are admitted at most; 0: any number
	held     int64
	most     int64
}

func (s *sink) Admit(_ context.Context, n int64) (func(), error) {
	if s.full > 0 && s.held+n > s.full {
		return nil, push.Errorf(push.Overloaded, "too many bytes in flight")
	}
	s.held += n
	s.most = max(s.most, s.held)
	return func() { s.held -= n }, nil
}

func (s *sink) Push(_ context.Context, b *push.Batch) error {
	s.got = plain(b)
	s.tenant, s.receiver, s.id = b.Tenant, b.Receiver, b.ID
	s.body, s.codec = bytes.Clone(b.Body), b.Codec
	if len(b.Streams) == 0 {
		return push.Errorf(push.NoStreams, "error at least one valid stream is required for ingestion")
	}
	return s.err
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

func receiverFor(t testing.TB, s *sink) *Receiver {
	t.Helper()
	rc, err := New(Deps{Sink: s, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: prometheus.NewRegistry()}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return rc
}

func post(rc http.Handler, contentType, encoding string, body []byte, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/loki/api/v1/push", bytes.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if encoding != "" {
		r.Header.Set("Content-Encoding", encoding)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	rc.ServeHTTP(w, r)
	return w
}

// A disk that is broken fails every push; the log must not fill the next one.
func TestFailuresFillNoLog(t *testing.T) {
	var log bytes.Buffer
	rc, err := New(Deps{Sink: &sink{err: push.Errorf(push.Internal, "disk on fire")}, Log: slog.New(slog.NewTextHandler(&log, nil))}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if w := post(rc, "application/json", "", []byte(`{"streams":[{"stream":{"a":"b"},"values":[["1","x"]]}]}`)); w.Code != 500 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n == 0 || n > 100 {
		t.Fatalf("%d lines for 1000 failures", n)
	}
}

func TestJSON(t *testing.T) {
	f := func(body string, want ...string) {
		t.Helper()
		s := &sink{}
		w := post(receiverFor(t, s), "application/json", "", []byte(body))
		if w.Code != 204 || w.Body.Len() != 0 {
			t.Fatalf("%s: %d %s", body, w.Code, w.Body)
		}
		if !slices.Equal(s.got, want) {
			t.Fatalf("%s:\ngot  %q\nwant %q", body, s.got, want)
		}
		if s.held != 0 {
			t.Fatalf("%s: %d bytes not given back", body, s.held)
		}
	}
	f(`{"streams":[{"stream":{"b":"2","a":"1"},"values":[["5","x"],["6","y"]]}]}`, `{a="1", b="2"} 5 "x"`, `{a="1", b="2"} 6 "y"`)
	f(" {\n\"streams\" :\t[ { \"stream\" : { \"a\" : \"1\" } , \"values\" : [ [ \"5\" , \"x\" ] ] } ] } \r\n", `{a="1"} 5 "x"`)
	// Entries before labels, other keys anywhere.
	f(`{"x":[{"}":"]"},1.5e3,true,null],"streams":[{"values":[["5","x"]],"y":{},"stream":{"a":"1"},"z":"\""}]}`, `{a="1"} 5 "x"`)
	f(`{"streams":[{"entries":[{"line":"x","ts":"1970-01-01T00:00:01Z"}],"labels":"{a='1'}"}]}`, `{a='1'} 1000000000 "x"`)
	// Structured metadata, also as queries return it.
	f(`{"streams":[{"stream":{"a":"1"},"values":[["5","x",{"t":"1","s.u":"é\n"}]]}]}`, `{a="1"} 5 "x" s_u="é\n" t="1"`)
	f(`{"streams":[{"stream":{"a":"1"},"values":[["5","x",{}]]}]}`, `{a="1"} 5 "x"`)
	f(`{"streams":[{"stream":{"a":"1"},"values":[["5","x",{"structuredMetadata":{"t":"1"},"parsed":{"p":"2"}}]]}]}`, `{a="1"} 5 "x" t="1"`)
	f(`{"streams":[{"stream":{"a":"1"},"values":[["5","x",{"structuredMetadata":"1","parsed":"2"}]]}]}`, `{a="1"} 5 "x" parsed="2" structuredMetadata="1"`)
	// Metadata of an entry does not reach the next.
	f(`{"streams":[{"stream":{"a":"1"},"values":[["5","x",{"t":"1"}],["6","y"]]}]}`, `{a="1"} 5 "x" t="1"`, `{a="1"} 6 "y"`)
	// Older form.
	f(`{"streams":[{"labels":"{a=\"1\"}","entries":[{"ts":"2026-09-21T14:13:20.123456789Z","line":"x","structuredMetadata":{"t":"1"}}]}]}`,
		`{a="1"} 1790000000123456789 "x" t="1"`)
	f(`{"streams":[{"labels":"{a=\"1\"}","entries":[{"ts":"2026-09-21T16:13:20+02:00","line":"x","structuredMetadata":null,"u":[1]}]}]}`,
		`{a="1"} 1790000000000000000 "x"`)
	// Labels.
	f(`{"streams":[{"stream":{},"values":[["5","x"]]}]}`, `{} 5 "x"`)
	f(`{"streams":[{"values":[["5","x"]]}]}`, `{} 5 "x"`)
	f(`{"streams":[{"stream":null,"values":[["5","x"]]}]}`, `{} 5 "x"`)
	f(`{"streams":[{"stream":{"a":"","b":null,"c":7,"d":true,"e":"1","e":"2"},"values":[["5","x"]]}]}`, `{c="7", d="true", e="2"} 5 "x"`)
	f(`{"streams":[{"stream":{"a.b":"\"\n\u00e9"},"values":[["5","x"]]}]}`, `{"a.b"="\"\né"} 5 "x"`)
	f(`{"streams":[{"stream":{"\u0061":"1"},"values":[["5","x"]]},{"stream":{"a":"1"},"values":[["6","y"]]}]}`, `{a="1"} 5 "x"`, `{a="1"} 6 "y"`)
	// One stream written many times, as Fluent Bit does.
	f(`{"streams":[{"stream":{"a":"1"},"values":[["5","x"]]},{"stream":{"a":"2"},"values":[["5","x"]]},{"stream":{"a":"1"},"values":[["5","z"]]}]}`,
		`{a="1"} 5 "x"`, `{a="1"} 5 "z"`, `{a="2"} 5 "x"`)
	// Times.
	f(`{"streams":[{"stream":{"a":"1"},"values":[["9223372036854775807",""],["-1",""],["-9223372036854775808",""],["007",""],["5","x"],["5","x"]]}]}`,
		`{a="1"} 9223372036854775807 ""`, `{a="1"} -1 ""`, `{a="1"} -9223372036854775808 ""`, `{a="1"} 7 ""`, `{a="1"} 5 "x"`, `{a="1"} 5 "x"`)
	// Lines, exactly.
	f(`{"streams":[{"stream":{"a":"1"},"values":[["5","\"\\\/\b\f\n\r\t\u00e9\u0000"],["6","\ud83d\ude00 \ud83d \ude00\ud83d\u0041"]]}]}`,
		`{a="1"} 5 "\"\\/\b\f\n\r\té\x00"`, `{a="1"} 6 "😀 � ��A"`)
	f("{\"streams\":[{\"stream\":{\"a\":\"1\"},\"values\":[[\"5\",\"\xff\xfe\x00\t \\\" \xc3\"]]}]}", `{a="1"} 5 "\xff\xfe\x00\t \" \xc3"`)
	// Nothing to store.
	f(`{"streams":[{"stream":{"a":"1"},"values":[]}]}`)
	f(`{"streams":[{"stream":{"a":"1"},"values":null}]}`)
}

func TestJSONErrors(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		s := &sink{}
		rc := receiverFor(t, s)
		for range 2 { // the second with a decoder that has been used
			w := post(rc, "application/json; charset=utf-8", "", []byte(body))
			if w.Code != 400 || s.got != nil {
				t.Fatalf("%.200s: %d %s, pushed %q", body, w.Code, w.Body, s.got)
			}
			if got := strings.TrimSuffix(w.Body.String(), "\n"); got != want {
				t.Fatalf("%.200s:\ngot  %s\nwant %s", body, got, want)
			}
		}
		if s.held != 0 {
			t.Fatalf("%.200s: %d bytes not given back", body, s.held)
		}
	}
	f(``, `json: expected an object at offset 0`)
	f(`[]`, `json: expected an object at offset 0`)
	f(`{"streams":{}}`, `json: expected an array at offset 11`)
	f(`{"streams":[1]}`, `json: stream 0: expected an object at offset 12`)
	f(`{"streams":[]} x`, `json: text behind the end of the push at offset 15`)
	f(`{"streams":[{"stream":{"a":"1"},"values":[["5","x"]]}`, `json: stream 1: expected ',' or ']' at offset 53`)
	const head = `{"streams":[{"stream":{"a":"1"},"values":[`
	entry := func(e, want string) {
		t.Helper()
		f(head+`["1","a"],`+e+`]}]}`, `json: stream 0: entry 1: `+want)
	}
	entry(`{}`, `not an array at offset 52`)
	entry(`[]`, `timestamp is not a string at offset 53`)
	entry(`[5,"x"]`, `timestamp is not a string at offset 53`)
	entry(`["5"]`, `expected a timestamp and a line at offset 56`)
	entry(`["5",7]`, `line is not a string at offset 57`)
	entry(`["5",null]`, `line is not a string at offset 57`)
	entry(`["","x"]`, `timestamp "" is not a number of nanoseconds at offset 53`)
	entry(`["5s","x"]`, `timestamp "5s" is not a number of nanoseconds at offset 53`)
	entry(`["5.0","x"]`, `timestamp "5.0" is not a number of nanoseconds at offset 53`)
	entry(`["9223372036854775808","x"]`, `timestamp "9223372036854775808" is not a number of nanoseconds at offset 53`)
	entry(`["18446744073709551617","x"]`, `timestamp "18446744073709551617" is not a number of nanoseconds at offset 53`)
	entry(`["5","x",{"t":1}]`, `value of structured metadata "t" is not a string at offset 66`)
	entry(`["5","x",{"t":null}]`, `value of structured metadata "t" is not a string at offset 66`)
	entry(`["5","x",null]`, `structured metadata is not an object at offset 61`)
	entry(`["5","x","y"]`, `structured metadata is not an object at offset 61`)
	entry(`["5","x",{},1]`, `expected the end of the entry at offset 63`)
	entry(`["5","\x"]`, `bad escape sequence at offset 58`)
	entry(`["5","\u12g4"]`, `bad escape sequence at offset 58`)
	f(head+`["5","x`, `json: stream 0: entry 0: string without an end at offset 47`)
	f(head+`["5","x\`, `json: stream 0: entry 0: string without an end at offset 47`)
	f(head+`["5","x\"`, `json: stream 0: entry 0: string without an end at offset 47`)
	f(`{"streams":[{"stream":{"a":"1"}}]}`, `json: stream 0: neither "values" nor "entries" at offset 32`)
	f(`{"streams":[{"stream":{"a":"1"},"valeus":[["5","x"]]}]}`, `json: stream 0: neither "values" nor "entries" at offset 53`)
	f(`{"streams":[{"stream":{"a":"1"},"stream":{"a":"2"},"values":[]}]}`, `json: stream 0: labels occur twice at offset 41`)
	f(`{"streams":[{"values":[["5","x"]],"values":[["6","y"]],"stream":{"a":"1"}}]}`, `json: stream 0: entries occur twice at offset 43`)
	f(`{"streams":[{"stream":{"a":{}},"values":[]}]}`, `json: stream 0: value of label "a" is not a string at offset 27`)
	f(`{"streams":[{"labels":{"a":"1"},"entries":[]}]}`, `json: stream 0: "labels" is not a string at offset 22`)
	f(`{"streams":[{"labels":"{}","entries":[{"ts":"yesterday","line":"x"}]}]}`, `json: stream 0: entry 0: timestamp "yesterday" is not a time by RFC 3339 at offset 44`)
	f(`{"streams":[{"labels":"{}","entries":[{"ts":"0001-01-01T00:00:00Z","line":"x"}]}]}`, `json: stream 0: entry 0: timestamp "0001-01-01T00:00:00Z" is out of range at offset 44`)
	f(`{"streams":[{"labels":"{}","entries":[{"ts":"2026-09-21T14:13:20Z"}]}]}`, `json: stream 0: entry 0: "ts" or "line" is missing at offset 67`)
	f(`{"x":`+strings.Repeat("[", 10_000), `json: unexpected end at offset 10005`)
	f(`{"x":]}`, `json: expected a value at offset 6`)
	f(`{"x":,}`, `json: expected a value at offset 5`)
	f(`{"x":@}`, `json: unexpected '@' at offset 5`)
	many := strings.Builder{}
	for i := range maxLabels + 1 {
		fmt.Fprintf(&many, `"l%d":"1",`, i)
	}
	f(`{"streams":[{"stream":{`+many.String()+`"x":"1"},"values":[]}]}`, fmt.Sprintf(`json: stream 0: more than %d labels at offset %d`, maxLabels, 23+many.Len()-1))
	// Deep nesting that closes is passed over.
	s := &sink{}
	if w := post(receiverFor(t, s), "application/json", "", []byte(`{"x":`+strings.Repeat("[", 1e6)+strings.Repeat("]", 1e6)+`,"streams":[]}`)); w.Code != 422 {
		t.Fatalf("deep nesting: %d %s", w.Code, w.Body)
	}
}

func compress(t testing.TB, enc string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch enc {
	case "":
		return data
	case "snappy":
		return snappy.Encode(nil, data)
	case "gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w, err = flate.NewWriter(&b, 6)
	case "zstd":
		w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sample returns one push of n lines in both formats.
func sample(n, streams int) (jsonBody, protobuf []byte, want []string) {
	gen := loglines.New(1)
	bl := push.NewBuilder(push.Get())
	type stream struct {
		Stream map[string]string `json:"stream"`
		Values [][]any           `json:"values"`
	}
	doc := struct {
		Streams []stream `json:"streams"`
	}{make([]stream, streams)}
	for i := range n {
		k := i % streams
		ts := int64(1_790_000_000_000_000_000) + int64(i)*1_234_567
		line := gen.AppendLine(nil, k, ts)
		ls := map[string]string{"app": loglines.AppName(k), "host": fmt.Sprint("h", k)}
		value := []any{strconv.FormatInt(ts, 10), string(line)}
		if i%5 == 0 {
			bl.Pair([]byte("trace_id"), fmt.Appendf(nil, "%032x", i))
			value = append(value, map[string]string{"trace_id": fmt.Sprintf("%032x", i)})
		}
		bl.EntryExact(bl.Stream([]byte(labels.FromMap(ls).String())), ts, line)
		doc.Streams[k].Stream = ls
		doc.Streams[k].Values = append(doc.Streams[k].Values, value)
	}
	b := bl.Finish()
	protobuf, err := s2.Decode(nil, b.Body)
	if err != nil {
		panic(err)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		panic(err)
	}
	return buf.Bytes(), protobuf, plain(b)
}

func TestEncodings(t *testing.T) {
	js, pb, want := sample(1000, 10)
	s := &sink{}
	rc := receiverFor(t, s)
	f := func(contentType, encoding string, body []byte) {
		t.Helper()
		s.got = nil
		w := post(rc, contentType, encoding, body)
		if w.Code != 204 {
			t.Fatalf("%s %s: %d %s", contentType, encoding, w.Code, w.Body)
		}
		if !slices.Equal(s.got, want) {
			t.Fatalf("%s %s: other entries than were sent", contentType, encoding)
		}
		if s.held != 0 || s.most == 0 {
			t.Fatalf("%s %s: %d bytes admitted, %d not given back", contentType, encoding, s.most, s.held)
		}
	}
	for _, enc := range []string{"", "gzip", "deflate", "zstd", "snappy"} {
		f("application/json", enc, compress(t, enc, js))
	}
	f("application/json; charset=utf-8", "", js)
	block := snappy.Encode(nil, pb)
	f("application/x-protobuf", "", block)
	f("application/x-protobuf", "snappy", block)
	if !bytes.Equal(s.body, block) || s.codec != push.CodecSnappy {
		t.Fatal("the client's own compression was not kept")
	}
	f("application/octet-stream", "", block)
	f("text/plain; charset=x", "", block)
	f("application/x-protobuf", "", s2.EncodeBetter(nil, pb))
	for _, enc := range []string{"gzip", "deflate", "zstd"} {
		f("application/x-protobuf", enc, compress(t, enc, block))
	}
}

func TestRefusedRequests(t *testing.T) {
	f := func(contentType, encoding string, body string, code int, want string) {
		t.Helper()
		s := &sink{}
		w := post(receiverFor(t, s), contentType, encoding, []byte(body))
		if got := strings.TrimSuffix(w.Body.String(), "\n"); w.Code != code || got != want {
			t.Fatalf("got %d %q, want %d %q", w.Code, got, code, want)
		}
		if s.got != nil || s.held != 0 {
			t.Fatalf("pushed %q, %d bytes not given back", s.got, s.held)
		}
	}
	f("", "", "x", 400, "mime: no media type")
	f("a b/c", "", "x", 400, "mime: expected slash after first token")
	f("application/json", "br", "{}", 400, `Content-Encoding "br" not supported`)
	f("application/x-protobuf", "snappy, gzip", "{}", 400, `Content-Encoding "snappy, gzip" not supported`)
	f("application/json", "", `{}`, 422, "error at least one valid stream is required for ingestion")
	f("application/json", "", `{"streams":null}`, 422, "error at least one valid stream is required for ingestion")
	f("application/x-protobuf", "", "\x00", 422, "error at least one valid stream is required for ingestion")
	f("application/x-protobuf", "", "", 400, "snappy: s2: corrupt input")
	f("application/x-protobuf", "", string(binaryProtobuf(t)), 400, "snappy: s2: corrupt input")
	f("application/x-protobuf", "", "\x02\x04\x0a\x05", 400, "truncated protobuf")
	f("application/x-protobuf", "gzip", "x", 400, "decompress gzip body: unexpected EOF")
	f("application/json", "gzip", "{}............", 400, "decompress gzip body: gzip: invalid header")

	w := httptest.NewRecorder()
	receiverFor(t, &sink{}).ServeHTTP(w, httptest.NewRequest("GET", "/loki/api/v1/push", nil))
	if w.Code != 405 || w.Header().Get("Allow") != "POST" {
		t.Fatalf("GET: %d", w.Code)
	}
}

func binaryProtobuf(t *testing.T) []byte {
	_, pb, _ := sample(10, 1)
	return pb
}

func TestAnswers(t *testing.T) {
	rejected := &push.Rejected{Total: 2}
	rejected.Add(push.LineTooLong, `{a="1"}`, 1, 10, func() string { return "max entry size exceeded" })
	limited := &push.Rejected{Total: 2}
	limited.Add(push.StreamRateLimit, `{a="1"}`, 1, 10, func() string { return "too fast" })
	f := func(err error, code int, retry, want string) {
		t.Helper()
		s := &sink{err: err}
		w := post(receiverFor(t, s), "application/json", "", []byte(`{"streams":[{"stream":{"a":"1"},"values":[["5","x"]]}]}`))
		if got := strings.TrimSuffix(w.Body.String(), "\n"); w.Code != code || got != want || w.Header().Get("Retry-After") != retry {
			t.Fatalf("%v: got %d %q, Retry-After %q", err, w.Code, got, w.Header().Get("Retry-After"))
		}
	}
	f(nil, 204, "", "")
	f(rejected, 400, "", "1 errors like: max entry size exceeded (1 of 2 entries refused, the rest is stored)")
	f(limited, 429, "1", "1 errors like: too fast (1 of 2 entries refused, the rest is stored)")
	f(&push.Error{Reason: push.RateLimited, Msg: "slow down", RetryAfter: 2500 * time.Millisecond}, 429, "3", "slow down")
	f(push.Errorf(push.NoTenant, "no org id"), 401, "", "no org id")
	f(push.Errorf(push.DiskLow, "disk is full"), 503, "1", "disk is full")
	f(errors.New("boom"), 500, "", "boom")
}

func TestHeaders(t *testing.T) {
	s := &sink{}
	rc := receiverFor(t, s)
	body := []byte(`{"streams":[{"stream":{"a":"1"},"values":[["5","x"]]}]}`)
	post(rc, "application/json", "", body, "X-Scope-OrgID", "team-a", "X-Request-Id", "r1")
	if s.tenant != "team-a" || s.receiver != "loki" || s.id == (push.ID{}) {
		t.Fatalf("tenant %q, receiver %q, id %x", s.tenant, s.receiver, s.id)
	}
	first := s.id
	post(rc, "application/json", "gzip", compress(t, "gzip", body), "X-Request-Id", "r1")
	if s.id != first || s.tenant != "" {
		t.Fatalf("a retry has another id, or the tenant %q", s.tenant)
	}
	post(rc, "application/json", "", body)
	byContent := s.id
	if byContent == first || byContent == (push.ID{}) {
		t.Fatalf("id %x without a name of the client's", byContent)
	}
	post(rc, "application/json", "", body)
	if s.id != byContent {
		t.Fatal("a retry without a name has another id")
	}
	post(rc, "application/json", "", bytes.Replace(body, []byte(`"5"`), []byte(`"6"`), 1))
	if s.id == byContent {
		t.Fatal("two pushes have one id")
	}
}

func TestLimits(t *testing.T) {
	js, pb, _ := sample(1000, 10)
	block := snappy.Encode(nil, pb)
	f := func(cfg Config, contentType string, body []byte, code int) {
		t.Helper()
		s := &sink{}
		rc, err := New(Deps{Sink: s}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if w := post(rc, contentType, "", body); w.Code != code {
			t.Fatalf("%+v: %d %s, want %d", cfg, w.Code, w.Body, code)
		}
	}
	cfg := DefaultConfig()
	cfg.MaxRecvSize = 1000
	f(cfg, "application/json", js, 413)
	f(cfg, "application/x-protobuf", block, 413)
	cfg = DefaultConfig()
	cfg.MaxDecodedSize = 10_000
	f(cfg, "application/x-protobuf", block, 413)
	cfg.MaxRecvSize = 1 << 30
	f(cfg, "application/json", compress(t, "", js), 413)
	f(DefaultConfig(), "application/json", js, 204)
	if _, err := New(Deps{Sink: &sink{}}, Config{}); err == nil {
		t.Fatal("limits of 0 are accepted")
	}
}

// TestAdmission sends what is small and becomes large.
func TestAdmission(t *testing.T) {
	js, pb, _ := sample(8000, 10)
	var small strings.Builder
	small.WriteString(`{"streams":[{"stream":{},"values":[`)
	for range 100_000 {
		small.WriteString(`["1",""],`)
	}
	small.WriteString(`["1",""]]}]}`)
	for name, c := range map[string]struct {
		contentType, enc string
		body             []byte
		full             int64
	}{
		"gzip json":        {"application/json", "gzip", compress(t, "gzip", js), int64(len(js)) / 2},
		"json":             {"application/json", "", js, int64(len(js)) / 2},
		"protobuf":         {"application/x-protobuf", "", snappy.Encode(nil, pb), int64(len(pb)) / 2},
		"tiny entries":     {"application/json", "", []byte(small.String()), 4 * int64(small.Len())},
		"snappy of zeros":  {"application/x-protobuf", "", s2.Encode(nil, make([]byte, 40<<20)), 20 << 20},
		"zstd gzip bomb":   {"application/json", "zstd", compress(t, "zstd", make([]byte, 32<<20)), 8 << 20},
		"announced 1 GiB":  {"application/json", "snappy", append([]byte{0x80, 0x80, 0x80, 0x80, 0x04}, make([]byte, 64)...), 1 << 20},
		"protobuf, 32 GiB": {"application/x-protobuf", "", append([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, make([]byte, 64)...), 1 << 20},
	} {
		s := &sink{full: c.full}
		w := post(receiverFor(t, s), c.contentType, c.enc, c.body)
		want := 503
		if strings.HasPrefix(name, "announced") || strings.HasSuffix(name, "GiB") {
			want = 400
		}
		if w.Code != want {
			t.Fatalf("%s: %d %s, want %d", name, w.Code, w.Body, want)
		}
		if s.held != 0 || s.got != nil {
			t.Fatalf("%s: %d bytes not given back, pushed %d", name, s.held, len(s.got))
		}
	}
}

// --- captured requests ------------------------------------------------------

// captured returns the requests of real clients.
func captured(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/*.bin")
	if err != nil || len(files) == 0 {
		t.Fatalf("no captured requests: %v", err)
	}
	out := map[string][]byte{}
	for _, name := range files {
		p, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(name)] = p
	}
	return out
}

// TestCaptured replays what real clients sent and compares JSON pushes with
// what encoding/json reads.
func TestCaptured(t *testing.T) {
	for name, raw := range captured(t) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s := &sink{}
		w := httptest.NewRecorder()
		body := raw[bytes.Index(raw, []byte("\r\n\r\n"))+4:]
		receiverFor(t, s).ServeHTTP(w, r)
		if w.Code != 204 || len(s.got) == 0 {
			t.Fatalf("%s: %d %s, %d entries", name, w.Code, w.Body, len(s.got))
		}
		if s.tenant != r.Header.Get("X-Scope-OrgID") {
			t.Fatalf("%s: tenant %q", name, s.tenant)
		}
		if r.Header.Get("Content-Type") != "application/json" {
			if !bytes.Equal(s.body, body) {
				t.Fatalf("%s: the client's own compression was not kept", name)
			}
			continue
		}
		if r.Header.Get("Content-Encoding") == "gzip" {
			zr, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(zr); err != nil {
				t.Fatal(err)
			}
		}
		want, err := standard(body)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := slices.Clone(s.got)
		if !utf8.Valid(body) {
			for i := range got {
				got[i] = requote(got[i])
			}
		}
		sort.Strings(got)
		sort.Strings(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%s:\ngot  %q\nwant %q", name, got, want)
		}
	}
}

// requote replaces what is not UTF-8 as encoding/json does.
func requote(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		if strings.HasPrefix(s, `\x`) {
			b.WriteString("\uFFFD")
			s = s[4:]
			continue
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}

// standard reads a push with encoding/json; it knows the newer form only.
func standard(body []byte) ([]string, error) {
	var doc struct {
		Streams []struct {
			Stream map[string]string   `json:"stream"`
			Values [][]json.RawMessage `json:"values"`
		} `json:"streams"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, err
	}
	var out []string
	for _, s := range doc.Streams {
		name := labels.FromMap(s.Stream).String()
		for _, v := range s.Values {
			var ts, line string
			if len(v) < 2 {
				return nil, errors.New("short entry")
			}
			if err := json.Unmarshal(v[0], &ts); err != nil {
				return nil, err
			}
			if err := json.Unmarshal(v[1], &line); err != nil {
				return nil, err
			}
			n, err := strconv.ParseInt(ts, 10, 64)
			if err != nil {
				return nil, err
			}
			t := fmt.Sprintf("%s %d %q", name, n, line)
			if len(v) > 2 {
				var m map[string]string
				if err := json.Unmarshal(v[2], &m); err != nil {
					return nil, err
				}
				bl := push.NewBuilder(push.Get())
				for k, x := range m {
					bl.Pair([]byte(k), []byte(x))
				}
				bl.EntryExact(bl.Stream([]byte(name)), n, []byte(line))
				t = plain(bl.Finish())[0]
			}
			out = append(out, t)
		}
	}
	return out, nil
}

// --- fuzz -------------------------------------------------------------------

func FuzzJSON(f *testing.F) {
	for _, raw := range captured(f) {
		f.Add(raw[bytes.Index(raw, []byte("\r\n\r\n"))+4:])
	}
	js, _, _ := sample(3, 2)
	f.Add(js)
	f.Add([]byte(`{"streams":[{"labels":"{a=\"1\"}","entries":[{"ts":"2026-09-21T14:13:20.123456789Z","line":"x","structuredMetadata":{"t":"1"}}]}]}`))
	f.Add([]byte(`{"streams":[{"values":[["5","\ud83d\ude00\ud83d",{"structuredMetadata":{"t":"1"},"parsed":{}}]],"stream":{"a":"1","a":"2"}}]}`))
	s := &sink{}
	rc := receiverFor(f, s)
	f.Fuzz(func(t *testing.T, body []byte) {
		s.got = nil
		w := post(rc, "application/json", "", body)
		if w.Code != 204 && w.Code != 400 && w.Code != 422 || w.Code != 204 && s.got != nil {
			t.Fatalf("%d %s, pushed %q", w.Code, w.Body, s.got)
		}
		if s.held != 0 {
			t.Fatalf("%d bytes not given back", s.held)
		}
		if !json.Valid(body) || !utf8.Valid(body) {
			return
		}
		want, err := standard(body)
		if err != nil || odd(body) {
			return
		}
		if w.Code == 400 {
			t.Fatalf("%s: refused with %s", body, w.Body)
		}
		got := slices.Clone(s.got)
		sort.Strings(got)
		sort.Strings(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%s:\ngot  %q\nwant %q", body, got, want)
		}
	})
}

// odd reports whether encoding/json reads a document differently by design:
// keys in other case, keys that occur twice, null for a string, null labels,
// keys of the other form, longer entries.
func odd(body []byte) bool {
	low := strings.ToLower(string(body))
	for _, word := range []string{"null", "labels", "entries", "structuredmetadata", "parsed", "\\u"} {
		if strings.Contains(low, word) {
			return true
		}
	}
	var doc map[string]json.RawMessage
	if json.Unmarshal(body, &doc) != nil {
		return true
	}
	keys := func(m map[string]json.RawMessage, raw string, allowed ...string) bool {
		n := 0
		for k := range m {
			if slices.Contains(allowed, k) {
				n++
			} else if slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, k) }) {
				return false
			}
		}
		for _, a := range allowed {
			if strings.Count(raw, `"`+a+`"`) > 1 {
				return false
			}
		}
		return n == len(allowed)
	}
	if !keys(doc, "", "streams") || strings.Count(low, `"streams"`) > 1 {
		return true
	}
	var streams []json.RawMessage
	if json.Unmarshal(doc["streams"], &streams) != nil {
		return true
	}
	for _, raw := range streams {
		var s map[string]json.RawMessage
		if json.Unmarshal(raw, &s) != nil || !keys(s, string(raw), "stream", "values") {
			return true
		}
		var values [][]json.RawMessage
		var ls map[string]string
		if json.Unmarshal(s["values"], &values) != nil || json.Unmarshal(s["stream"], &ls) != nil || len(ls) > maxLabels {
			return true
		}
		for _, v := range values {
			if len(v) > 3 || len(v) == 3 && strings.Count(string(v[2]), ":") > 1 {
				return true
			}
			var ts string
			if json.Unmarshal(v[0], &ts) != nil || strings.HasPrefix(ts, "+") || len(ts) > 19 {
				return true
			}
		}
	}
	return false
}

func FuzzProtobuf(f *testing.F) {
	for _, raw := range captured(f) {
		if bytes.Contains(raw, []byte("x-protobuf")) {
			f.Add(raw[bytes.Index(raw, []byte("\r\n\r\n"))+4:])
		}
	}
	_, pb, _ := sample(3, 2)
	f.Add(snappy.Encode(nil, pb))
	f.Add(s2.EncodeBest(nil, pb))
	s := &sink{full: 256 << 20}
	rc := receiverFor(f, s)
	f.Fuzz(func(t *testing.T, body []byte) {
		s.got = nil
		w := post(rc, "application/x-protobuf", "", body)
		switch w.Code {
		case 204:
			if s.got != nil && !bytes.Equal(s.body, body) {
				t.Fatal("the client's own compression was not kept")
			}
		case 400, 413, 422, 503:
			if s.got != nil {
				t.Fatalf("%d, pushed %q", w.Code, s.got)
			}
		default:
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if s.held != 0 {
			t.Fatalf("%d bytes not given back", s.held)
		}
	})
}

// --- benchmarks ---------------------------------------------------------------

type nullSink struct{ entries int }

func (s *nullSink) Admit(context.Context, int64) (func(), error) { return func() {}, nil }
func (s *nullSink) Push(_ context.Context, b *push.Batch) error {
	s.entries += len(b.Entries)
	return nil
}

// nullWriter is an answer that nobody reads.
type nullWriter struct{ h http.Header }

func (w nullWriter) Header() http.Header         { return w.h }
func (w nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w nullWriter) WriteHeader(int)             {}

func BenchmarkPush(b *testing.B) {
	js, pb, _ := sample(5000, 20)
	for _, c := range []struct {
		name, contentType, enc string
		body                   []byte
		size                   int
	}{
		{"protobuf", "application/x-protobuf", "", snappy.Encode(nil, pb), len(pb)},
		{"json", "application/json", "", js, len(js)},
		{"json-gzip", "application/json", "gzip", compress(b, "gzip", js), len(js)},
		{"json-zstd", "application/json", "zstd", compress(b, "zstd", js), len(js)},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := &nullSink{}
			rc, err := New(Deps{Sink: s}, DefaultConfig())
			if err != nil {
				b.Fatal(err)
			}
			in := bytes.NewReader(nil)
			r := httptest.NewRequest("POST", "/loki/api/v1/push", nil)
			r.Header.Set("Content-Type", c.contentType)
			if c.enc != "" {
				r.Header.Set("Content-Encoding", c.enc)
			}
			r.Body, r.ContentLength = io.NopCloser(in), int64(len(c.body))
			w := nullWriter{http.Header{}}
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			for b.Loop() {
				in.Reset(c.body)
				s.entries = 0
				rc.ServeHTTP(w, r)
				if s.entries != 5000 {
					b.Fatal(s.entries)
				}
			}
		})
	}
}
