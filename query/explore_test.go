package query

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// sized is a block of which the length is known, and that must not be loaded.
type sized struct {
	*testBlock
	bytes int64
}

func (s sized) Size() int64 { return s.bytes }

func exploreData(t testing.TB) (memory, store *fake) {
	at := func(d int64, line, meta string) entry { return entry{base + d*1e9, line, meta} }
	memory = new(fake).
		add(`{app="web", host="h1"}`, newBlock(at(-20, `{"level":"info","took":"12ms","n":{"id":7}}`, "trace=x"),
			at(-10, `{"level":"warn","took":"1s","n":{"id":"x"},"app":"in"}`, ""))).
		add(`{app="web", host="h2"}`, newBlock(at(-15, `level=error size=12.5KB ok=true`, "")))
	store = new(fake)
	store.add(`{app="db", id="17"}`)
	stored := newBlock(at(-100, "x", ""), at(-1, "y", ""))
	stored.onLoad = func() { t.Error("a block of known length was loaded") }
	store.series[0].Blocks = append(store.series[0].Blocks, sized{stored, 1000})
	return memory, store
}

func TestExplore(t *testing.T) {
	memory, store := exploreData(t)
	mux, _ := newMux(t, memory, store)
	f := func(path, query, want string) {
		t.Helper()
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			form := url.Values{"query": {query}}
			path, params, _ := strings.Cut(path, "?")
			more, err := url.ParseQuery(params)
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range more {
				form[k] = v
			}
			r := httptest.NewRequest(method, "/loki/api/v1/"+path+"?"+form.Encode(), nil)
			if method == http.MethodPost {
				r = httptest.NewRequest(method, "/loki/api/v1/"+path, strings.NewReader(form.Encode()))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			w := do(mux, r)
			got, _, _ := strings.Cut(w.Body.String(), `,"stats":`)
			if w.Code != 200 || !json.Valid(w.Body.Bytes()) || strings.TrimSuffix(got, "\n") != want {
				t.Fatalf("%s %s %s: status %d\n got %s\nwant %s", method, path, query, w.Code, w.Body, want)
			}
		}
	}
	// Lines have 43, 54 and 31 bytes, metadata 6; half of the block of known length is in the last 50 s.
	f(`index/stats`, `{app="web"}`, `{"streams":2,"chunks":2,"bytes":134,"entries":3}`)
	f(`index/stats?start=1699999985`, `{app="web"}`, `{"streams":2,"chunks":2,"bytes":85,"entries":2}`)
	f(`index/stats`, `{app="db"}`, `{"streams":1,"chunks":1,"bytes":1000,"entries":2}`)
	f(`index/stats?start=1699999949.5`, `{app="db"}`, `{"streams":1,"chunks":1,"bytes":500,"entries":1}`)
	f(`index/stats`, `{app="none"}`, `{"streams":0,"chunks":0,"bytes":0,"entries":0}`)

	const vector, matrix = `{"status":"success","data":{"resultType":"vector","result":`, `{"status":"success","data":{"resultType":"matrix","result":`
	f(`index/volume`, `{app=~".+"}`, vector+`[{"metric":{"app":"db"},"value":[1700000000,"1000"]},{"metric":{"app":"web"},"value":[1700000000,"134"]}]`)
	f(`index/volume?limit=1`, `{}`, vector+`[{"metric":{"app":"db","id":"17"},"value":[1700000000,"1000"]}]`)
	f(`index/volume?targetLabels=host`, `{app=~".+"}`, vector+`[{"metric":{"host":"h1"},"value":[1700000000,"103"]},{"metric":{"host":"h2"},"value":[1700000000,"31"]}]`)
	f(`index/volume?aggregateBy=labels`, `{app="web"}`, vector+`[{"metric":{"app":""},"value":[1700000000,"134"]},{"metric":{"host":""},"value":[1700000000,"134"]}]`)
	f(`index/volume?aggregateBy=labels&targetLabels=host,app`, `{}`, vector+`[{"metric":{"app":""},"value":[1700000000,"134"]},{"metric":{"host":""},"value":[1700000000,"134"]}]`)
	f(`index/volume`, `{app="none"}`, vector+`[]`)
	f(`index/volume_range?step=10&start=1699999975&end=1699999995`, `{host="h1"}`,
		matrix+`[{"metric":{"host":"h1"},"values":[[1699999989.999,"49"],[1699999995,"54"]]}]`)

	f(`detected_labels`, ``, `{"detectedLabels":[{"label":"app","cardinality":2},{"label":"host","cardinality":2}]}`)
	f(`detected_labels`, `{app="none"}`, `{}`)
	f(`detected_fields`, `{app="web"}`, `{"fields":[`+
		`{"label":"app_extracted","type":"string","cardinality":1,"parsers":["json"],"jsonPath":["app"]},`+
		`{"label":"detected_level","type":"string","cardinality":3,"parsers":null},`+
		`{"label":"level","type":"string","cardinality":3,"parsers":["json","logfmt"],"jsonPath":["level"]},`+
		`{"label":"n_id","type":"int","cardinality":2,"parsers":["json"],"jsonPath":["n","id"]},`+
		`{"label":"ok","type":"boolean","cardinality":1,"parsers":["logfmt"]},`+
		`{"label":"size","type":"bytes","cardinality":1,"parsers":["logfmt"]},`+
		`{"label":"took","type":"duration","cardinality":2,"parsers":["json"],"jsonPath":["took"]},`+
		`{"label":"trace","type":"string","cardinality":1,"parsers":null}],"limit":1000}`)
	f(`detected_fields?line_limit=1&limit=1`, `{app="web"} | json | drop app_extracted, level, detected_level`, `{"fields":[{"label":"n_id","type":"string","cardinality":1,"parsers":["json"],"jsonPath":["n","id"]}],"limit":1}`)
	f(`detected_fields`, `{app="none"}`, `{}`)
	f(`detected_field/level/values`, `{app="web"}`, `{"values":["error","info","warn"],"limit":1000}`)
	f(`detected_field/size/values?limit=5`, `{app="web"}`, `{"values":["12kB"],"limit":5}`)
	f(`detected_field/trace/values`, `{app="web"}`, `{"values":["x"],"limit":1000}`)
	f(`detected_field/none/values`, `{app="web"}`, `{}`)
}

func TestExploreErrors(t *testing.T) {
	mux, _ := newMux(t, new(fake), nil)
	f := func(path string, code int, want string) {
		t.Helper()
		w := get(mux, "/loki/api/v1/"+path)
		if w.Code != code || w.Body.String() != want {
			t.Fatalf("%s: got %d %q", path, w.Code, w.Body)
		}
	}
	q := url.QueryEscape
	f("index/stats?query="+q(`{a=`), 400, "parse error at line 1, col 4: syntax error: unexpected $end, expecting STRING")
	f("index/stats?query="+q(`{}`), 400, "parse error : "+`queries require at least one regexp or equality matcher that does not have an `+
		`empty-compatible value. For instance, app=~".*" does not meet this requirement, but app=~".+" will`)
	f("index/stats?query="+q(`{a="b"} |= "x"`), 400, "only label matchers are supported")
	f("index/stats?query="+q(`{a="b"}`)+"&start=2&end=1", 400, "end timestamp must not be before or equal to start time")
	f("index/volume?query="+q(`{a="b"}`)+"&limit=-1", 400, "limit must be a positive value")
	f("index/volume?query="+q(`{a="b"}`)+"&aggregateBy=x", 400, "invalid aggregation option")
	f("index/volume_range?query="+q(`{a="b"}`)+"&step=0", 400, "zero or negative query resolution step widths are not accepted. Try a positive integer")
	f("index/volume?query="+q(`{a="b"}`)+"&since=800h", 400, "the query time range exceeds the limit (query length: 800h0m0s, limit: 30d1h)")
	f("detected_fields?query="+q(`rate({a="b"}[1m])`), 400, "only log selector is supported")
	f("detected_fields?query="+q(`{a="b"}`)+"&line_limit=0", 400, "limit must be a positive value")
	f("detected_fields?query="+q(`{a="b"}`)+"&line_limit=6000", 400, "max entries limit per query exceeded, limit > max_entries_limit_per_query (6000 > 5000)")
	f("patterns?query="+q(`{a="b"}`), 404, "")
	f("drilldown-limits", 200, `{"limits":{"max_entries_limit_per_query":5000,"max_query_length":"30d1h","max_query_range":"0s","max_query_series":500,`+
		`"metric_aggregation_enabled":false,"pattern_persistence_enabled":false,"query_timeout":"1m","volume_enabled":true,"volume_max_series":1000},`+
		`"pattern_ingester_enabled":false,"version":"1.2.3"}`+"\n")
}

func TestOnlyIDs(t *testing.T) {
	f := func(want bool, values ...string) {
		t.Helper()
		set := map[string]struct{}{}
		for _, v := range values {
			set[v] = struct{}{}
		}
		if got := onlyIDs(set); got != want {
			t.Fatalf("%v: got %v", values, got)
		}
	}
	f(true, "17", "2.5")
	f(true, "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8", "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}", "6BA7B8109DAD11D180B400C04FD430C8")
	f(false, "0", "1")
	f(true, "0", "2")
	f(true, "0", "1", "2")
	f(false, "17", "x")
	f(false, "6ba7b810-9dad-11d1-80b4-00c04fd430cx")
	f(false, "6ba7b810+9dad+11d1+80b4+00c04fd430c8")
}
