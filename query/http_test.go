package query

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/storage"
)

const base = int64(1_700_000_000_000_000_000) // the tests' clock

func newMux(t testing.TB, memory, store Source) (*http.ServeMux, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	e, err := New(Deps{Memory: memory, Store: store, Metrics: reg}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	NewHandler(HandlerDeps{
		Engine: e,
		Tenant: func(r *http.Request) (string, error) {
			switch id := r.Header.Get("X-Scope-OrgID"); id {
			case "":
				return "", errors.New("no org id")
			case "a/b":
				return "", push.Errorf(push.InvalidTenant, "tenant ID 'a/b' contains unsupported character '/'")
			default:
				return id, nil
			}
		},
		Build: BuildInfo{Version: "1.2.3", GoVersion: "go1.26"},
		Now:   func() time.Time { return time.Unix(0, base) },
	}).Register(mux)
	return mux, reg
}

func get(mux http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	return do(mux, r, header...)
}

func do(mux http.Handler, r *http.Request, header ...string) *httptest.ResponseRecorder {
	r.Header.Set("X-Scope-OrgID", "t")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

// beforeStats returns the answer to a query up to its statistics, and checks
// that the whole is JSON.
func beforeStats(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	body := w.Body.String()
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, body)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/json; charset=UTF-8" {
		t.Fatalf("content type %q", ct)
	}
	if !json.Valid([]byte(body)) {
		t.Fatalf("not JSON: %s", body)
	}
	head, _, ok := strings.Cut(body, `,"stats":`)
	if !ok {
		t.Fatalf("no stats: %s", body)
	}
	return head
}

func testData() (memory, store *fake) {
	at := func(d int64, line, meta string) entry { return entry{base + d, line, meta} }
	memory = new(fake).
		add(`{app="web", host="h1"}`, newBlock(at(-20, "one", ""), at(-10, `two <b> & "q" \`, "level=info,trace=x"))).
		add(`{app="web", __stream_shard__="3"}`, newBlock(at(-15, "shard\t\x01\xff\u2028é", "app=other,app_extracted=third")))
	store = new(fake).
		add(`{app="web", host="h1"}`, newBlock(at(-40, "zero", "level=warn"), at(-20, "one", ""))).
		add(`{app="db"}`, newBlock(at(-30, "select", "host=h1,none=")))
	return memory, store
}

func TestQueryRange(t *testing.T) {
	memory, store := testData()
	mux, _ := newMux(t, memory, store)
	f := func(params, flags, want string) {
		t.Helper()
		v, err := url.ParseQuery(strings.ReplaceAll(params, "+", "%2B"))
		if err != nil {
			t.Fatal(err)
		}
		got := beforeStats(t, get(mux, "/loki/api/v1/query_range?"+v.Encode(), "X-Loki-Response-Encoding-Flags", flags))
		if want = `{"status":"success","data":{"resultType":` + want; got != want {
			t.Fatalf("GET %s:\n got %s\nwant %s", params, got, want)
		}
		r := httptest.NewRequest(http.MethodPost, "/loki/api/v1/query_range", strings.NewReader(v.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if got := beforeStats(t, do(mux, r, "X-Loki-Response-Encoding-Flags", flags)); got != want {
			t.Fatalf("POST %s:\n got %s\nwant %s", params, got, want)
		}
	}
	f(`query={app="web",host="h1"}`, "", `"streams","result":[`+
		`{"stream":{"app":"web","detected_level":"info","host":"h1","level":"info","trace":"x"},"values":[["1699999999999999990","two \u003cb\u003e \u0026 \"q\" \\"]]},`+
		`{"stream":{"app":"web","detected_level":"unknown","host":"h1"},"values":[["1699999999999999980","one"]]},`+
		`{"stream":{"app":"web","detected_level":"warn","host":"h1","level":"warn"},"values":[["1699999999999999960","zero"]]}]`)
	f(`query={app="web",host="h1"}&direction=forward`, "categorize-labels", `"streams","encodingFlags":["categorize-labels"],"result":[`+
		`{"stream":{"app":"web","host":"h1"},"values":[["1699999999999999960","zero",{"structuredMetadata":{"detected_level":"warn","level":"warn"}}],`+
		`["1699999999999999980","one",{"structuredMetadata":{"detected_level":"unknown"}}],`+
		`["1699999999999999990","two \u003cb\u003e \u0026 \"q\" \\",{"structuredMetadata":{"detected_level":"info","level":"info","trace":"x"}}]]}]`)
	f(`query={app="web",host=""}`, "x, categorize-labels", `"streams","encodingFlags":["categorize-labels"],"result":[`+
		`{"stream":{"app":"web"},"values":[["1699999999999999985","shard\t\u0001\ufffd\u2028é",{"structuredMetadata":{"app_extracted":"third","detected_level":"unknown"}}]]}]`)
	// A label from metadata makes the same set as one of the index: app=db with host, next to it.
	f(`query={app=~"db|web"} |= "e"&limit=3`, "", `"streams","result":[`+
		`{"stream":{"app":"db","detected_level":"unknown","host":"h1"},"values":[["1699999999999999970","select"]]},`+
		`{"stream":{"app":"web","detected_level":"unknown","host":"h1"},"values":[["1699999999999999980","one"]]},`+
		`{"stream":{"app":"web","detected_level":"warn","host":"h1","level":"warn"},"values":[["1699999999999999960","zero"]]}]`)
	f(`query={app=~".+"} |= "absent"`, "", `"streams","result":[]`)
	f(`query={app=~".+"}&limit=1`, "", `"streams","result":[{"stream":{"app":"web","detected_level":"info","host":"h1","level":"info","trace":"x"},"values":[["1699999999999999990","two \u003cb\u003e \u0026 \"q\" \\"]]}]`)
	f(`query={app="db"}&start=1699999999999999970&end=1699999999999999971`, "", `"streams","result":[{"stream":{"app":"db","detected_level":"unknown","host":"h1"},"values":[["1699999999999999970","select"]]}]`)
	f(`query={app="db"}&start=1699999999999999971`, "", `"streams","result":[]`)
	f(`query={app="db"}&end=1699999999999999970`, "", `"streams","result":[]`)
	f(`query={app="db"}&since=1m&step=5&interval=2s`, "", `"streams","result":[{"stream":{"app":"db","detected_level":"unknown","host":"h1"},"values":[["1699999999999999970","select"]]}]`)
	f(`query={app="web",host="h1"}&interval=0.000000015`, "categorize-labels", `"streams","encodingFlags":["categorize-labels"],"result":[`+
		`{"stream":{"app":"web","host":"h1"},"values":[["1699999999999999990","two \u003cb\u003e \u0026 \"q\" \\",{"structuredMetadata":{"detected_level":"info","level":"info","trace":"x"}}],["1699999999999999960","zero",{"structuredMetadata":{"detected_level":"warn","level":"warn"}}]]}]`)
	f(`query=vector(1)+vector(1)&start=1700000000&end=1700000002.5&step=1`, "", `"matrix","result":[{"metric":{},"values":[[1700000000,"2"],[1700000001,"2"],[1700000002,"2"],[1700000003,"2"]]}]`)
}

// TestSameShownLabels has streams that differ only in whether a name is a
// label or metadata: they are shown as one, in order.
func TestSameShownLabels(t *testing.T) {
	mux, _ := newMux(t, new(fake).
		add(`{a="1", b="2"}`, newBlock(entry{base - 3, "x", ""}, entry{base - 1, "z", ""})).
		add(`{a="1"}`, newBlock(entry{base - 2, "y", "b=2"})), nil)
	got := beforeStats(t, get(mux, "/loki/api/v1/query_range?query="+url.QueryEscape(`{a="1"}`)))
	want := `{"status":"success","data":{"resultType":"streams","result":[{"stream":{"a":"1","b":"2","detected_level":"unknown"},"values":[` +
		`["1699999999999999999","z"],["1699999999999999998","y"],["1699999999999999997","x"]]}]`
	if got != want {
		t.Fatalf("got %s", got)
	}
}

func TestInstantQuery(t *testing.T) {
	mux, _ := newMux(t, nil, nil)
	f := func(params, want string) {
		t.Helper()
		v, err := url.ParseQuery(strings.ReplaceAll(params, "+", "%2B"))
		if err != nil {
			t.Fatal(err)
		}
		if got := beforeStats(t, get(mux, "/loki/api/v1/query?"+v.Encode())); got != want {
			t.Fatalf("%s: got %s", params, got)
		}
	}
	f(`query=vector(1)+vector(1)&time=4000000000`, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[4000000000,"2"]}]`)
	f(`query=vector(1)+vector(1)&time=1700000000123456789`, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1700000000.123,"2"]}]`)
	f(`query=1/3`, `{"status":"success","data":{"resultType":"scalar","result":[1700000000,"0.3333333333333333"]`)
	f(`query=1/0`, `{"status":"success","data":{"resultType":"scalar","result":[1700000000,"NaN"]`)
}

func TestErrors(t *testing.T) {
	bad := newBlock(entry{base - 1, "x", ""})
	bad.err = errors.New("chunk t/1234/5:6:7 is missing")
	mux, _ := newMux(t, new(fake).add(`{a="b"}`, bad), nil)
	f := func(path string, code int, want string, header ...string) {
		t.Helper()
		w := get(mux, "/loki/api/v1/"+path, header...)
		if w.Code != code || w.Body.String() != want || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Fatalf("%s: got %d %q %s", path, w.Code, w.Body, w.Header())
		}
	}
	q := url.QueryEscape
	ok := q(`{a="b"}`)
	f("query_range?query="+ok, 500, `cannot read a block of stream {a="b"}, 2023-11-14T22:13:19.999999999Z to 2023-11-14T22:13:19.999999999Z: chunk t/1234/5:6:7 is missing`)
	f("query_range?query="+ok, 401, "no org id", "X-Scope-OrgID", "")
	f("labels", 400, "tenant ID 'a/b' contains unsupported character '/'", "X-Scope-OrgID", "a/b")
	f("query_range?query="+q(`{a="b"`), 400, "parse error at line 1, col 7: syntax error: unexpected $end, expecting } or ,")
	f("query_range", 400, "parse error : syntax error: unexpected $end")
	f("query_range?query="+q(`rate({a="b"}[1m])`), 500, `cannot read a block of stream {a="b"}, 2023-11-14T22:13:19.999999999Z to 2023-11-14T22:13:19.999999999Z: chunk t/1234/5:6:7 is missing`)
	f("query_range?query="+q(`{a="b"} |~ "("`), 400, "parse error : stage '|~ \"(\"' : error parsing regexp: missing closing ): `(`")
	f("query_range?query="+ok+"&limit=5001", 400, "max entries limit per query exceeded, limit > max_entries_limit_per_query (5001 > 5000)")
	f("query_range?query="+ok+"&limit=0", 400, "limit must be a positive value")
	f("query_range?query="+ok+"&limit=x", 400, `strconv.Atoi: parsing "x": invalid syntax`)
	f("query_range?query="+ok+"&direction=up", 400, "invalid direction 'up'")
	f("query_range?query="+ok+"&start=2&end=1", 400, "end timestamp must not be before or equal to start time")
	f("query_range?query="+ok+"&start=yesterday", 400, `could not parse 'start' parameter: strconv.ParseInt: parsing "yesterday": invalid syntax`)
	f("query_range?query="+ok+"&end=99999999999999999999", 400, `could not parse 'end' parameter: strconv.ParseInt: parsing "99999999999999999999": value out of range`)
	f("query_range?query="+ok+"&end=1.0e300", 400, `could not parse 'end' parameter: timestamp "1.0e300" is out of range`)
	f("query_range?query="+ok+"&since=-1h", 400, `could not parse 'since' parameter: not a valid duration string: "-1h"`)
	f("query_range?query="+ok+"&since=x", 400, `could not parse 'since' parameter: not a valid duration string: "x"`)
	f("query_range?query="+ok+"&step=0", 400, "zero or negative query resolution step widths are not accepted. Try a positive integer")
	f("query_range?query="+ok+"&step=x", 400, `cannot parse "x" to a valid duration`)
	f("query_range?query="+ok+"&step=0.001", 400, "exceeded maximum resolution of 11,000 points per time series. Try increasing the value of the step parameter")
	f("query_range?query="+ok+"&interval=-1", 400, "interval must be >= 0")
	f("query_range?query="+ok+"&since=800h", 400, "the query time range exceeds the limit (query length: 800h0m0s, limit: 30d1h)")
	f("labels?since=800h", 400, "the query time range exceeds the limit (query length: 800h0m0s, limit: 30d1h)")
	f("query?query="+ok, 400, "log queries are not supported as an instant query type, please change your query to a range query type")
	f("query?query=1&time=x", 400, `strconv.ParseInt: parsing "x": invalid syntax`)
	f("query?query=1&direction=x", 400, "invalid direction 'x'")
	f("series?match[]=", 400, "parse error : syntax error: unexpected $end")
	f("series?match[]="+q(`{a="b"} |= "x"`), 400, "only label matchers are supported")
	f("series?match[]="+q(`{a=""}`), 400, `parse error : queries require at least one regexp or equality matcher that does not have an `+
		`empty-compatible value. For instance, app=~".*" does not meet this requirement, but app=~".+" will`)
	f("labels?query="+q(`{a=`), 400, "parse error at line 1, col 4: syntax error: unexpected $end, expecting STRING")
	f("labels?%zz", 400, `cannot read the form: invalid URL escape "%zz"`)
}

func TestErrorStatus(t *testing.T) {
	src := &fake{}
	mux, reg := newMux(t, src, nil)
	f := func(err error, code int, want, retry string) {
		t.Helper()
		src.err = err
		w := get(mux, "/loki/api/v1/labels")
		if w.Code != code || w.Body.String() != want || w.Header().Get("Retry-After") != retry {
			t.Fatalf("%v: got %d %q, retry %q", err, w.Code, w.Body, w.Header().Get("Retry-After"))
		}
		if n, cerr := testutil.GatherAndCount(reg, "loki_go_query_requests_total"); cerr != nil || n == 0 {
			t.Fatalf("no count: %v", cerr)
		}
	}
	f(errors.New("boom"), 500, "boom", "")
	f(fmt.Errorf("load: %w", &storage.LimitError{Msg: "too many chunks"}), 400, "load: too many chunks", "")
	f(fmt.Errorf("memory: %w", &push.Error{Reason: push.Replaying, Msg: "replaying", RetryAfter: 1500 * time.Millisecond}), 503, "memory: replaying", "2")
	f(context.Canceled, 499, "The request was cancelled by the client.", "")
	f(fmt.Errorf("x: %w", context.DeadlineExceeded), 504, "Request timed out, decrease the duration of the request or add more label matchers "+
		"(prefer exact match over regex match) to reduce the amount of data processed.", "")
}

func TestLabelsAndSeries(t *testing.T) {
	memory, store := testData()
	mux, _ := newMux(t, memory, store)
	f := func(path, want string) {
		t.Helper()
		path, query, _ := strings.Cut(path, "?")
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if w := get(mux, "/loki/api/v1/"+path+"?"+v.Encode()); w.Code != 200 || w.Body.String() != want+"\n" {
			t.Fatalf("GET %s: got %d %s", path, w.Code, w.Body)
		}
		r := httptest.NewRequest(http.MethodPost, "/loki/api/v1/"+path, strings.NewReader(v.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if w := do(mux, r); w.Code != 200 || w.Body.String() != want+"\n" {
			t.Fatalf("POST %s: got %d %s", path, w.Code, w.Body)
		}
	}
	f(`labels`, `{"status":"success","data":["app","host"]}`)
	f(`label`, `{"status":"success","data":["app","host"]}`)
	f(`labels?query={app="db"}`, `{"status":"success","data":["app"]}`)
	f(`labels?query={}`, `{"status":"success","data":["app","host"]}`)
	f(`labels?start=1&end=2`, `{"status":"success"}`)
	f(`labels?start=2&end=1`, `{"status":"success"}`)
	f(`label/app/values`, `{"status":"success","data":["db","web"]}`)
	f(`label/app/values?query={host="h1"}`, `{"status":"success","data":["web"]}`)
	f(`label/nope/values`, `{"status":"success"}`)
	f(`series?match[]={}`, `{"status":"success","data":[{"app":"db"},{"app":"web","host":"h1"},{"app":"web"}]}`)
	f(`series?match[]={app="db"}&match[]={host="h1"}&match[]={app=~"d.*"}`, `{"status":"success","data":[{"app":"db"},{"app":"web","host":"h1"}]}`)
	f(`series`, `{"status":"success","data":[{"app":"db"},{"app":"web","host":"h1"},{"app":"web"}]}`)
	f(`labels?query=`, `{"status":"success","data":["app","host"]}`)
	f(`series?match={app="x"}`, `{"status":"success","data":[]}`)
	// The end of the range is included.
	f(`series?match[]={}&start=1699999999999999000&end=1699999999999999960`, `{"status":"success","data":[{"app":"web","host":"h1"}]}`)
	f(`format_query?query={a="b"}|="x"`, `{"status":"success","data":"{a=\"b\"} |= \"x\""}`)
}

func TestFormatQueryError(t *testing.T) {
	mux, _ := newMux(t, nil, nil)
	w := get(mux, "/loki/api/v1/format_query?query="+url.QueryEscape(`{a="\d"}`))
	want := `{"status":"invalid-query","error":"parse error at line 1, col 4: invalid char escape"}` + "\n"
	if w.Code != 400 || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json; charset=UTF-8" {
		t.Fatalf("got %d %s %s", w.Code, w.Body, w.Header())
	}
}

func TestAlign(t *testing.T) {
	f := func(start, end, step, wantStart, wantEnd int64) {
		t.Helper()
		if s, e := align(start, end, step); s != wantStart || e != wantEnd {
			t.Fatalf("got %d, %d", s, e)
		}
	}
	f(5, 11, 5, 5, 15)
	f(-7, -1, 5, -10, 0)
	f(10, 10, 5, 10, 10)
	f(-1<<63, 1<<63-1, 1<<62+1, -1<<63, 1<<63-1)
}

func TestBuildInfo(t *testing.T) {
	mux, _ := newMux(t, nil, nil)
	w := get(mux, "/loki/api/v1/status/buildinfo", "X-Scope-OrgID", "")
	want := `{"version":"1.2.3","revision":"","branch":"","buildUser":"","buildDate":"","goVersion":"go1.26"}` + "\n"
	if w.Code != 200 || w.Body.String() != want {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
}

// TestStats compares the names of the statistics with those that Loki sends,
// and checks that numbers arrive.
func TestStats(t *testing.T) {
	want, err := os.ReadFile("testdata/stats.json")
	if err != nil {
		t.Fatal(err)
	}
	j := jsonWriter{w: io.Discard}
	j.stats(&Stats{})
	var compact bytes.Buffer
	if err := json.Compact(&compact, want); err != nil {
		t.Fatal(err)
	}
	if string(j.buf) != compact.String() {
		t.Fatalf("got %s\nwant %s", j.buf, compact.String())
	}
	memory, store := testData()
	mux, _ := newMux(t, memory, store)
	var answer struct {
		Data struct {
			Stats struct {
				Summary struct{ TotalBytesProcessed, TotalLinesProcessed, TotalEntriesReturned, TotalPostFilterLines int64 }
				Querier struct {
					Store struct{ TotalChunksRef, TotalChunksDownloaded int64 }
				}
				Ingester struct {
					TotalReached int64
					Store        struct {
						Chunk struct{ HeadChunkLines, TotalDuplicates int64 }
					}
				}
			}
		}
	}
	w := get(mux, "/loki/api/v1/query_range?query="+url.QueryEscape(`{app="web"} != "zero"`))
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	s := answer.Data.Stats
	if s.Summary.TotalLinesProcessed != 5 || s.Summary.TotalEntriesReturned != 3 || s.Summary.TotalPostFilterLines != 4 || s.Summary.TotalBytesProcessed == 0 ||
		s.Querier.Store.TotalChunksRef != 1 || s.Querier.Store.TotalChunksDownloaded != 1 || s.Ingester.TotalReached != 1 || s.Ingester.Store.Chunk.HeadChunkLines != 3 {
		t.Fatalf("got %+v", s)
	}
}

func TestGzip(t *testing.T) {
	src := &fake{}
	var es []entry
	for i := range int64(3000) {
		es = append(es, entry{base - 4000 + i, fmt.Sprintf("line %d of some length, so that several pieces are sent", i), ""})
	}
	src.add(`{a="b"}`, newBlock(es...))
	mux, _ := newMux(t, src, nil)
	path := "/loki/api/v1/query_range?limit=3000&query=" + url.QueryEscape(`{a="b"}`)
	plain := get(mux, path, "Accept-Encoding", "gzip;q=0, br")
	if plain.Header().Get("Content-Encoding") != "" {
		t.Fatal("compressed though refused")
	}
	for range 3 { // writers are used again
		w := get(mux, path, "Accept-Encoding", "br, gzip;q=0.5")
		if w.Header().Get("Content-Encoding") != "gzip" || w.Body.Len() > plain.Body.Len()/4 {
			t.Fatalf("encoding %q, %d bytes of %d", w.Header().Get("Content-Encoding"), w.Body.Len(), plain.Body.Len())
		}
		zr, err := gzip.NewReader(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(zr)
		if err != nil {
			t.Fatal(err)
		}
		got, want := httptest.NewRecorder(), httptest.NewRecorder()
		got.Header().Set("Content-Type", w.Header().Get("Content-Type"))
		want.Header().Set("Content-Type", plain.Header().Get("Content-Type"))
		got.Body.Write(body)
		want.Body.Write(plain.Body.Bytes())
		if g, w := beforeStats(t, got), beforeStats(t, want); g != w || strings.Count(g, "line ") != 3000 {
			t.Fatal("the compressed answer differs")
		}
	}
	if w := get(mux, "/loki/api/v1/labels", "Accept-Encoding", "gzip"); w.Header().Get("Content-Encoding") != "" {
		t.Fatal("a small answer is compressed")
	}
}

func TestParseTime(t *testing.T) {
	f := func(in string, want int64) {
		t.Helper()
		got, err := parseTime(in, 42)
		if err != nil || got != want {
			t.Fatalf("%s: got %d, %v", in, got, err)
		}
	}
	f("", 42)
	f("1700000000", 1700000000e9)
	f("0", 0)
	f("-5", -5e9)
	f("1700000000123", 1700000000123)
	f("1700000000123456789", 1700000000123456789)
	f("1700000000.25", 1700000000250000000)
	f("1700000000.123", 1700000000123000000)
	f("1.7e9", 1700000000e9)
	f("-0.5", -5e8)
	f("2023-11-14T22:13:20Z", 1700000000e9)
	f("2023-11-14T23:13:20.000000001+01:00", 1700000000000000001)
	for _, bad := range []string{"x", "1,5", "2023-11-14", "0001-01-01T00:00:00Z", "1e30", "1.0e30", "1e9"} {
		if v, err := parseTime(bad, 0); err == nil {
			t.Fatalf("%s: no error, got %d", bad, v)
		}
	}
}

func TestTimeRange(t *testing.T) {
	f := func(query string, start, end int64) {
		t.Helper()
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		s, e, err := timeRange(v, base)
		if err != nil || s != start || e != end {
			t.Fatalf("%s: got %d, %d, %v", query, s, e, err)
		}
	}
	const hour = 3600e9
	f("", base-hour, base)
	f("since=2h", base-2*hour, base)
	f("end=1600000000", 1600000000e9-hour, 1600000000e9)
	f("end=1900000000", base-hour, 1900000000e9)
	f("start=1600000000&since=2h", 1600000000e9, base)
}

func TestAppendJSON(t *testing.T) {
	f := func(in, plain, html string) {
		t.Helper()
		for _, got := range [][2]string{
			{string(appendJSON(nil, in, false)), plain},
			{string(appendJSON(nil, []byte(in), false)), plain},
			{string(appendJSON(nil, in, true)), html},
			{string(appendJSON(nil, []byte(in), true)), html},
		} {
			if got[0] != got[1] {
				t.Fatalf("%q: got %s, want %s", in, got[0], got[1])
			}
		}
	}
	f("", `""`, `""`)
	f("plain é 世 😀", `"plain é 世 😀"`, `"plain é 世 😀"`)
	f("\"\\\n\r\t\b\x00\x1f\x7f", `"\"\\\n\r\t\u0008\u0000\u001f`+"\x7f\"", `"\"\\\n\r\t\u0008\u0000\u001f`+"\x7f\"")
	f("<a&b>", `"<a&b>"`, `"\u003ca\u0026b\u003e"`)
	f("\u2028\u2029", "\"\u2028\u2029\"", `"\u2028\u2029"`)
	f("a\xffb\xc3", `"a\ufffdb\ufffd"`, `"a\ufffdb\ufffd"`)
	f("\ufffd", "\"\ufffd\"", "\"\ufffd\"")
}

func FuzzAppendJSON(f *testing.F) {
	for _, s := range []string{"", "a<b>&\u2028\xff\"\\\n\x01é", "\xf0\x9f\x98", "\xed\xa0\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := string([]rune(s)) // invalid bytes come out as U+FFFD
		for _, html := range []bool{false, true} {
			b := appendJSON(nil, s, html)
			var got string
			if err := json.Unmarshal(b, &got); err != nil || got != want || !utf8.Valid(b) {
				t.Fatalf("%q: wrote %q, read %q, %v", s, b, got, err)
			}
			if !bytes.Equal(b, appendJSON(nil, []byte(s), html)) {
				t.Fatalf("%q: bytes and string differ", s)
			}
		}
	})
}

func FuzzParams(f *testing.F) {
	for _, s := range []string{
		"start=1&end=2&limit=3&step=4&interval=5&direction=forward", "since=1h&end=1700000000.5", "start=2023-11-14T22:13:20Z&step=1m30s",
		"start=-9223372036854775808&end=9223372036854775807&step=1e9", "interval=1e10",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := url.ParseQuery(s)
		if err != nil {
			return
		}
		p, err := parseRange(v, base)
		if err != nil {
			var bad *RequestError
			if !errors.As(err, &bad) {
				t.Fatalf("%q: error of type %v", s, reflect.TypeOf(err))
			}
			return
		}
		if p.end < p.start || p.limit <= 0 || p.step <= 0 || p.interval < 0 || (uint64(p.end)-uint64(p.start))/uint64(p.step) > maxPoints {
			t.Fatalf("%q: accepted as %+v", s, p)
		}
		if start, end := align(p.start, p.end, int64(p.step)); start > p.start || end < p.end {
			t.Fatalf("%q: aligned to %d, %d", s, start, end)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	src, _ := benchBlocks(10, 0)
	r, err := newEngine(b, src, nil).Run(context.Background(), Request{Tenant: "t", Query: logQuery(b, `{a="b"}`), Through: 1e9, Limit: 5000})
	if err != nil {
		b.Fatal(err)
	}
	for _, cat := range []bool{false, true} {
		b.Run(fmt.Sprintf("categorize=%v", cat), func(b *testing.B) {
			var n counter
			j := jsonWriter{w: &n}
			j.streams(r, cat)
			j.flush()
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				j.streams(r, cat)
				j.flush()
			}
		})
	}
}

type counter int

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}
