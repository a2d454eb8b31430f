//go:build integration

package test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// grafanaCall is a request as Grafana's data source for Loki, or its Logs
// Drilldown, makes it, and what it needs of the answer.
type grafanaCall struct {
	name   string
	method string // GET if empty
	path   string // below /loki/api/v1/
	params url.Values
	header map[string]string
	check  func(t *testing.T, v map[string]any)
	code   int  // 200 if 0
	alone  bool // answers of stock Loki are not the same: they tell its own settings
}

// grafanaData is a minute in which two streams write a line a second.
func grafanaData(start int64) []testkit.Stream {
	levels := []string{"info", "warn", "error"}
	streams := []testkit.Stream{
		{Labels: []testkit.Pair{{Name: "level", Value: "info"}, {Name: "pod", Value: "shop-1"}, {Name: "service_name", Value: "shop"}}},
		{Labels: []testkit.Pair{{Name: "pod", Value: "cart-1"}, {Name: "service_name", Value: "cart"}}},
	}
	for i := range 60 {
		ts := start + int64(i)*1e9
		streams[0].Entries = append(streams[0].Entries, testkit.Entry{
			TS: ts + 1e6, Line: fmt.Sprintf(`{"n":%d,"user":"u%d","nested":{"took":"%dms"}}`, i, i%4, i),
			Meta: []testkit.Pair{{Name: "trace_id", Value: fmt.Sprintf("t%02d", i)}},
		})
		streams[1].Entries = append(streams[1].Entries, testkit.Entry{
			TS: ts + 2e6, Line: fmt.Sprintf(`level=%s n=%d size=%dKB msg="the cart of a visitor was looked at once more, and nothing was bought"`, levels[i%3], i, i),
		})
	}
	return streams
}

// grafanaCalls lists the requests. The range is two minutes around the data.
func grafanaCalls(start int64) []grafanaCall {
	nano := func(seconds float64) string { return strconv.FormatInt(start+int64(seconds*1e9), 10) }
	flags := map[string]string{"X-Loki-Response-Encoding-Flags": "categorize-labels", "User-Agent": "Grafana/12.0.0"}
	tags := func(source string) map[string]string {
		h := map[string]string{"X-Query-Tags": "Source=" + source}
		for k, v := range flags {
			h[k] = v
		}
		return h
	}
	in := func(kv ...string) url.Values {
		v := url.Values{"start": {nano(-30)}, "end": {nano(90)}}
		for i := 0; i < len(kv); i += 2 {
			v.Set(kv[i], kv[i+1])
		}
		return v
	}
	only := func(kv ...string) url.Values {
		v := in(kv...)
		v.Del("start")
		v.Del("end")
		return v
	}
	list := func(want string) func(*testing.T, map[string]any) {
		return func(t *testing.T, v map[string]any) {
			t.Helper()
			if got := fmt.Sprint(v["data"]); v["status"] != "success" || got != want {
				t.Errorf("got %v, want %s", v, want)
			}
		}
	}
	const all = `{service_name=~".+"}`
	calls := []grafanaCall{
		{name: "health", path: "query", header: flags, params: url.Values{"query": {"vector(1)+vector(1)"}, "direction": {"backward"}, "time": {"4000000000"}}, check: func(t *testing.T, v map[string]any) {
			t.Helper()
			data := dig(v, "data").(map[string]any)
			// Grafana means 4 s; ten digits are seconds to Loki.
			if data["resultType"] != "vector" || fmt.Sprint(dig(data, "result", 0, "value")) != "[4e+09 2]" {
				t.Errorf("got %v", v)
			}
		}},
		{name: "build information", path: "status/buildinfo", params: url.Values{}, alone: true, check: func(t *testing.T, v map[string]any) {
			t.Helper()
			if s, ok := v["version"].(string); !ok || s == "" {
				t.Errorf("got %v", v)
			}
		}},

		{name: "labels", path: "labels", params: in(), check: list("[level pod service_name]")},
		{name: "labels of a selector", path: "labels", params: in("query", `{service_name="cart"}`), check: list("[pod service_name]")},
		{name: "values", path: "label/pod/values", params: in(), check: list("[cart-1 shop-1]")},
		{name: "values of a selector", path: "label/pod/values", params: in("query", `{service_name="cart"}`), check: list("[cart-1]")},
		{name: "series", path: "series", params: in("match[]", `{service_name="cart"}`), check: list("[map[pod:cart-1 service_name:cart]]")},
		{name: "labels of a dashboard variable", method: http.MethodPost, path: "labels", params: in(), check: list("[level pod service_name]")},

		{name: "stats before a query", path: "index/stats", params: in("query", all), check: func(t *testing.T, v map[string]any) {
			t.Helper()
			if v["streams"] != 2.0 || v["entries"] != 120.0 || !(v["chunks"].(float64) >= 2) || !(v["bytes"].(float64) > 1000) {
				t.Errorf("got %v", v)
			}
		}},

		{name: "lines", path: "query_range", header: flags, params: in("query", all, "direction", "backward", "limit", "1000", "step", "100ms"), check: func(t *testing.T, v map[string]any) {
			t.Helper()
			if fmt.Sprint(dig(v, "data", "encodingFlags")) != "[categorize-labels]" {
				t.Errorf("flags are %v", dig(v, "data", "encodingFlags"))
			}
			if _, ok := dig(v, "data", "stats", "summary").(map[string]any); !ok {
				t.Error("no stats")
			}
			n := 0
			for _, s := range dig(v, "data", "result").([]any) {
				for _, e := range dig(s, "values").([]any) {
					if _, ok := dig(e, 2, "structuredMetadata").(map[string]any); !ok {
						t.Fatalf("entry %v has no metadata", e)
					}
					n++
				}
			}
			if n != 120 {
				t.Errorf("%d lines", n)
			}
		}},
		{name: "parsed lines", path: "query_range", header: flags, params: in("query", `{service_name="shop"} | json | n > 50`, "direction", "backward", "limit", "1000", "step", "100ms"), check: func(t *testing.T, v map[string]any) {
			t.Helper()
			values := dig(v, "data", "result", 0, "values").([]any)
			if len(values) != 9 || dig(values, 0, 2, "parsed", "nested_took") != "59ms" || dig(values, 0, 2, "structuredMetadata", "trace_id") != "t59" {
				t.Errorf("got %v", values)
			}
		}},
		{name: "lines, limited", path: "query_range", header: flags, params: in("query", all+" |= ``", "direction", "backward", "limit", "7", "step", "100ms"), check: entries(7)},
		{name: "sample of lines", path: "query_range", header: tags("logsample"), params: in("query", all, "direction", "backward", "limit", "10", "step", "500ms"), check: entries(10)},
		{name: "context before", path: "query_range", header: flags, params: url.Values{
			"query": {`{pod="cart-1",service_name="cart"}`}, "direction": {"backward"}, "limit": {"50"}, "step": {"7200ms"}, "start": {nano(-7200)}, "end": {nano(30)},
		}, check: entries(30)},
		{name: "context after", path: "query_range", header: flags, params: url.Values{
			"query": {`{pod="cart-1",service_name="cart"}`}, "direction": {"forward"}, "limit": {"10"}, "step": {"7200ms"}, "start": {nano(30.002)}, "end": {nano(7200)},
		}, check: entries(10)},

		{name: "volume of lines", path: "query_range", header: tags("logvolhist"), params: in("query", `sum by (level, detected_level) (count_over_time(`+all+` | drop __error__[10s]))`,
			"direction", "backward", "limit", "1000", "step", "10000ms"), check: func(t *testing.T, v map[string]any) {
			t.Helper()
			sums := map[string]int{}
			for _, s := range dig(v, "data", "result").([]any) {
				for _, p := range dig(s, "values").([]any) {
					n, err := strconv.Atoi(dig(p, 1).(string))
					if err != nil {
						t.Fatal(err)
					}
					sums[fmt.Sprint(dig(s, "metric"))] += n
				}
			}
			if want := "map[map[detected_level:error]:20 map[detected_level:info level:info]:60 map[detected_level:info]:20 map[detected_level:warn]:20]"; fmt.Sprint(sums) != want {
				t.Errorf("got %v, want %s", sums, want)
			}
		}},
		{name: "instant metric", path: "query", header: flags, params: url.Values{"query": {`topk(1, sum by (user) (count_over_time({service_name="shop"} | json | user="u1" [2m])))`}, "direction": {"backward"}, "limit": {"1000"}, "time": {nano(90)}}, check: func(t *testing.T, v map[string]any) {
			t.Helper()
			if fmt.Sprint(dig(v, "data", "result", 0, "metric")) != "map[user:u1]" || dig(v, "data", "result", 0, "value", 1) != "15" {
				t.Errorf("got %v", v)
			}
		}},
		{name: "range metric, POST", method: http.MethodPost, path: "query_range", header: flags, params: in("query", `sum(rate(`+all+`[1m]))`, "direction", "backward", "step", "15000ms"), check: func(t *testing.T, v map[string]any) {
			t.Helper()
			if dig(v, "data", "resultType") != "matrix" || len(dig(v, "data", "result", 0, "values").([]any)) < 6 {
				t.Errorf("got %v", v)
			}
		}},
		{name: "no lines", path: "query_range", header: flags, params: in("query", `{service_name="none"}`, "direction", "backward", "limit", "100", "step", "1000ms"), check: entries(0)},

		{name: "drilldown: services", path: "index/volume", params: in("query", `{service_name=~`+"`.+`"+`}`, "limit", "5000", "targetLabels", "service_name"), check: func(t *testing.T, v map[string]any) {
			t.Helper()
			got := map[any]bool{}
			for _, s := range dig(v, "data", "result").([]any) {
				got[dig(s, "metric", "service_name")] = len(dig(s, "value").([]any)) == 2
			}
			if dig(v, "data", "resultType") != "vector" || len(got) != 2 || !got["shop"] || !got["cart"] {
				t.Errorf("got %v", v)
			}
		}},
		{name: "drilldown: labels", path: "detected_labels", params: in("query", `{service_name="shop"}`), check: func(t *testing.T, v map[string]any) {
			t.Helper()
			if fmt.Sprint(v["detectedLabels"]) != "[map[cardinality:1 label:level] map[cardinality:1 label:pod] map[cardinality:1 label:service_name]]" {
				t.Errorf("got %v", v)
			}
		}},
		{name: "drilldown: fields", path: "detected_fields", params: in("query", `{service_name="shop"}`, "limit", "1000"), check: func(t *testing.T, v map[string]any) {
			t.Helper()
			got := map[any]string{}
			for _, f := range v["fields"].([]any) {
				got[dig(f, "label")] = fmt.Sprint(dig(f, "type"), dig(f, "cardinality"), dig(f, "parsers"))
			}
			if len(got) != 5 || got["detected_level"] != "string1 <nil>" || got["user"] != "string4 [json]" || !strings.HasPrefix(got["nested_took"], "duration") || !strings.HasPrefix(got["n"], "int") || got["trace_id"] == "" {
				t.Errorf("got %v", got)
			}
		}},
		{name: "drilldown: values of a field", path: "detected_field/user/values", params: in("query", `{service_name="shop"} | json`, "limit", "1000"), check: func(t *testing.T, v map[string]any) {
			t.Helper()
			if values, ok := v["values"].([]any); !ok || len(values) != 4 {
				t.Errorf("got %v", v)
			}
		}},
		{name: "drilldown: limits", path: "drilldown-limits", params: url.Values{}, alone: true, check: func(t *testing.T, v map[string]any) {
			t.Helper()
			if dig(v, "limits", "volume_enabled") != true || v["pattern_ingester_enabled"] != false || !(dig(v, "limits", "max_entries_limit_per_query").(float64) > 0) {
				t.Errorf("got %v", v)
			}
		}},
		// Without patterns Loki has no such endpoint, and Grafana hides the tab.
		{name: "drilldown: patterns", path: "patterns", params: in("query", `{service_name="shop"}`), code: http.StatusNotFound},
		{name: "drilldown: a field over time", path: "query_range", header: flags, params: in("query", `sum by (user) (count_over_time({service_name="shop"} | json user="user" | drop __error__, __error_details__ | user!="" [10s]))`,
			"direction", "backward", "step", "10000ms"), check: func(t *testing.T, v map[string]any) {
			t.Helper()
			if n := len(dig(v, "data", "result").([]any)); n != 4 {
				t.Errorf("%d series", n)
			}
		}},

		{name: "a query that is wrong", path: "query_range", header: flags, params: in("query", `{service_name="shop"`, "direction", "backward", "step", "1000ms"), code: http.StatusBadRequest},
		{name: "format", path: "format_query", params: only("query", `{service_name="shop"}|json`), check: list(`{service_name="shop"} | json`)},
	}
	return calls
}

// entries checks how many lines there are, each with its time and its metadata.
func entries(want int) func(*testing.T, map[string]any) {
	return func(t *testing.T, v map[string]any) {
		t.Helper()
		n := 0
		for _, s := range dig(v, "data", "result").([]any) {
			for _, e := range dig(s, "values").([]any) {
				if len(e.([]any)) != 3 {
					t.Errorf("entry %v", e)
				}
				n++
			}
		}
		if dig(v, "data", "resultType") != "streams" || n != want {
			t.Errorf("%d lines in %v, want %d", n, v, want)
		}
	}
}

// dig follows keys and indexes into decoded JSON; nil is what is not there.
func dig(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[p]
		case int:
			l, ok := v.([]any)
			if !ok || p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func (c *grafanaCall) ask(base string) (answer, error) {
	method, target, body := c.method, base+"/loki/api/v1/"+c.path, io.Reader(nil)
	if method == "" {
		method = http.MethodGet
	}
	if method == http.MethodPost {
		body = strings.NewReader(c.params.Encode())
	} else {
		target += "?" + c.params.Encode()
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		return answer{}, err
	}
	for k, v := range c.header {
		req.Header.Set(k, v)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(b)}, err
}

// TestGrafana makes the requests that Grafana makes: each is answered with
// what Grafana needs, and as stock Loki answers it.
func TestGrafana(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	start := time.Now().Add(-20 * time.Minute).Truncate(time.Minute).UnixNano()
	s := testkit.NewServer(t, t.TempDir(), "-limits.discover-service-name=")
	s.Start()
	loki := startWholeLoki(t)
	s.WaitReady()
	ours, streams := "http://"+s.HTTP, grafanaData(start)
	for _, c := range []*testkit.Client{s.Client(""), {Base: loki}} {
		if err := c.Push(ctx, streams); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		for _, c := range grafanaCalls(start) {
			t.Run(when+"/"+c.name, func(t *testing.T) {
				got, err := c.ask(ours)
				if err != nil {
					t.Fatal(err)
				}
				if want := max(c.code, http.StatusOK); got.code != want {
					t.Fatalf("status %d, want %d: %s", got.code, want, got.body)
				}
				if c.check != nil {
					var v map[string]any
					if err := json.Unmarshal([]byte(got.body), &v); err != nil {
						t.Fatalf("%v: %s", err, got.body)
					}
					c.check(t, v)
				}
				if c.alone {
					return
				}
				want, err := c.ask(loki)
				if err != nil {
					t.Fatal(err)
				}
				q := logqlCase{testkit.LogQLCase{Path: c.path, Params: c.params}}
				if a, b := q.normal(got), q.normal(want); a != b && !sameNumbers(a, b, q.precision()) && !strings.HasPrefix(c.path, "index/stats") {
					t.Errorf("\n ours %s\n loki %s", around(a, b), around(b, a))
				}
			})
		}
	}
	check("memory")
	if err := s.Client("").Flush(ctx); err != nil {
		t.Fatal(err)
	}
	check("store")
}

// TestGrafanaLive follows lines as Grafana's backend does, over a WebSocket,
// on loki-go and on stock Loki. Loki misses lines that come after it has read
// what is there and before its ingester knows of the follower, where a second
// follower finds them; and it shows those twice that come the other way round.
func TestGrafanaLive(t *testing.T) {
	t.Parallel()
	s := testkit.NewServer(t, t.TempDir(), "-limits.discover-service-name=")
	s.Start()
	loki := startWholeLoki(t)
	s.WaitReady()
	ctx := context.Background()
	now := time.Now().UnixNano()
	const query = `{service_name="shop"} | json | n < 2`
	var answers [][]string
	for _, base := range []string{"http://" + s.HTTP, loki} {
		next := followLines(t, base, query)
		c := &testkit.Client{Base: base}
		for i := range 3 {
			st := testkit.Stream{
				Labels:  []testkit.Pair{{Name: "service_name", Value: "shop"}},
				Entries: []testkit.Entry{{TS: now + int64(i), Line: fmt.Sprintf(`{"n":%d}`, i), Meta: []testkit.Pair{{Name: "trace_id", Value: "x"}}}},
			}
			if err := c.Push(ctx, []testkit.Stream{st}); err != nil {
				t.Fatal(err)
			}
		}
		within := 2 * time.Minute
		if base == loki {
			within = 20 * time.Second
		}
		got, err := twoLines(next, within)
		if base == loki && errors.Is(err, os.ErrDeadlineExceeded) {
			got, err = twoLines(followLines(t, base, query), 2*time.Minute)
		}
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if base == loki {
			got = slices.Compact(got)
		}
		answers = append(answers, got)
	}
	if !slices.Equal(answers[0], answers[1]) || !strings.Contains(answers[0][0], "trace_id:x") {
		t.Errorf("ours:\n%q\nloki:\n%q", answers[0], answers[1])
	}
}

// twoLines returns the lines of messages until two of them differ.
func twoLines(next func(time.Duration) (string, error), within time.Duration) (got []string, err error) {
	for seen := map[string]bool{}; len(seen) < 2; {
		text, err := next(within)
		if err != nil {
			return nil, err
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return nil, err
		}
		streams, ok := v["streams"].([]any)
		if !ok {
			return nil, fmt.Errorf("got %v", v)
		}
		for _, st := range streams {
			for _, e := range dig(st, "values").([]any) {
				line := fmt.Sprint(dig(st, "stream"), e)
				got, seen[line] = append(got, line), true
			}
		}
	}
	return got, nil
}

// followLines asks for new lines and returns what waits for the next message.
func followLines(t *testing.T, base, query string) (next func(within time.Duration) (string, error)) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r, err := http.NewRequest(http.MethodGet, base+"/loki/api/v1/tail?"+url.Values{"query": {query}}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		"X-Loki-Response-Encoding-Flags": "categorize-labels",
	} {
		r.Header.Set(k, v)
	}
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d", resp.StatusCode)
	}
	return func(within time.Duration) (string, error) {
		if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
			return "", err
		}
		for {
			head := make([]byte, 2)
			if _, err := io.ReadFull(in, head); err != nil {
				return "", err
			}
			n := uint64(head[1])
			if n >= 126 {
				ext := make([]byte, 8)
				if _, err := io.ReadFull(in, ext[8-map[uint64]int{126: 2, 127: 8}[n]:]); err != nil {
					return "", err
				}
				n = binary.BigEndian.Uint64(ext)
			}
			b := make([]byte, n)
			if _, err := io.ReadFull(in, b); err != nil {
				return "", err
			}
			if head[0]&0xf == 1 { // text
				return string(b), nil
			}
		}
	}
}
