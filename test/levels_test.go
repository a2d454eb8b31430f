//go:build integration

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// TestLevelsInACluster: a gateway's settings decide which levels its ingesters
// find when they leave out what a query drops, whatever their own are. Each entry
// counts once, in memory and in the store.
func TestLevelsInACluster(t *testing.T) {
	t.Parallel()
	c := newServices(t)
	c.args = slices.Concat(clusterArgs(c.consul.Addr), s3Bucket(c.store, "logs").Args, []string{"-log.level=warn", "-limits.discover-service-name="})
	for range 3 {
		c.addIngester()
	}
	gateway := func(args ...string) *testkit.Server {
		g := testkit.NewServer(t, t.TempDir(), slices.Concat([]string{"-target=gateway"}, c.args, args)...)
		g.Start()
		c.gateways = append(c.gateways, g)
		return g
	}
	usual, own, none := gateway(), gateway("-limits.log-level-fields=prio"), gateway("-limits.discover-log-levels=false")
	for _, g := range c.gateways {
		g.WaitReady()
	}
	c.waitActive(3)

	const n = 2000
	start := time.Now().Add(-10 * time.Minute).Truncate(time.Minute).UnixNano()
	var streams []testkit.Stream
	for k := range 2 {
		st := testkit.Stream{Labels: []testkit.Pair{{Name: "job", Value: "x"}, {Name: "k", Value: strconv.Itoa(k)}}}
		for i := range n / 2 {
			e := testkit.Entry{TS: start + int64(i)*1e6, Line: fmt.Sprintf(`prio=debug level=info n=%d%s`, i, strings.Repeat(" text", 20))}
			switch i % 100 {
			case 7:
				e.Line = strings.Replace(e.Line, "info", "Err", 1)
			case 8:
				e.Line = strings.Replace(e.Line, "debug", "fatal", 1)
			case 9:
				e.Meta = []testkit.Pair{{Name: "detected_level", Value: "critical"}}
			}
			st.Entries = append(st.Entries, e)
		}
		streams = append(streams, st)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := usual.Client("").Push(ctx, streams); err != nil {
		t.Fatal(err)
	}

	ask := func(g *testkit.Server, path, query string, v any) {
		t.Helper()
		p := url.Values{"query": {query}, "limit": {"5000"}, "start": {strconv.FormatInt(start, 10)}, "end": {strconv.FormatInt(start+60e9, 10)}, "time": {strconv.FormatInt(start+60e9, 10)}}
		body, err := g.Client("").Do(ctx, http.MethodGet, "/loki/api/v1/"+path+"?"+p.Encode(), "", nil)
		if err == nil {
			err = json.Unmarshal(body, v)
		}
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	lines := func(g *testkit.Server, filter string, want int) {
		t.Helper()
		var r struct {
			Data struct {
				Result []struct{ Values [][2]string }
			}
		}
		ask(g, "query_range", `{job="x"} `+filter, &r)
		got := 0
		for _, s := range r.Data.Result {
			got += len(s.Values)
		}
		if got != want {
			t.Errorf("%s: %d lines, want %d", filter, got, want)
		}
	}
	counts := func(g *testkit.Server, want string) {
		t.Helper()
		var r struct {
			Data struct {
				Result []struct {
					Metric map[string]string
					Value  [2]any
				}
			}
		}
		ask(g, "query", `sum by (detected_level) (count_over_time({job="x"}[2m]))`, &r)
		var got []string
		for _, s := range r.Data.Result {
			got = append(got, fmt.Sprint(s.Metric["detected_level"], "=", s.Value[1]))
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != want {
			t.Errorf("got %s, want %s", text, want)
		}
	}
	check := func() {
		t.Helper()
		counts(usual, "critical=20 error=20 info=1960")
		counts(own, "critical=20 debug=1960 fatal=20")
		counts(none, "=1980 critical=20")
		lines(usual, `| detected_level="error"`, 20)
		lines(usual, `| detected_level="fatal"`, 0)
		lines(own, `| detected_level="error"`, 0)
		lines(own, `|= "n=" | detected_level=~"fatal|critical"`, 40)
		lines(none, `| detected_level!=""`, 20)
	}
	check()
	// What the query drops stays where it is.
	sent := func() (n float64) {
		for _, s := range c.ingesters {
			n += metric(t, s, "loki_go_cluster_sent_block_bytes_total")
		}
		return n
	}
	before := sent()
	lines(own, `| detected_level="fatal"`, 20)
	few := sent() - before
	lines(own, ``, n)
	if all := sent() - before - few; few <= 0 || few > all/5 {
		t.Errorf("for 1 line of 100, ingesters sent %v bytes, for all %v", few, all)
	}
	for _, s := range c.ingesters {
		if err := s.Client("").Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	check()
}

// TestLevelSettingsLikeLoki: with other settings than the usual ones, entries have
// the levels that they have in a stock Loki with the same.
func TestLevelSettingsLikeLoki(t *testing.T) {
	t.Parallel()
	s := testkit.NewServer(t, t.TempDir(), "-limits.discover-service-name=", "-limits.log-level-fields=prio,Level_Name,log.level,lvl,prio", "-limits.log-level-from-json-max-depth=3")
	s.Start()
	base, _ := startLokiWithGRPC(t, "log_level_fields: [prio, Level_Name, log.level, lvl, prio], log_level_from_json_max_depth: 3")
	s.WaitReady()
	start := time.Now().Add(-30 * time.Minute).Truncate(time.Minute).UnixNano()
	streams := testkit.LogQLStreams(start)
	for kind, lines := range map[string][]string{
		"json": {
			`{"a":{"b":{"prio":"err"}}}`, `{"a":{"b":{"c":{"prio":"err"}}}}`, `{"Level_Name":"wrn","prio":"err"}`, `{"level":"err"}`, `{"LEVEL_NAME":"err"}`,
			`{"log":{"level":"err"}}`, `{"log.level":"err"}`, `{"a":{"b":{"c":{}},"prio":"dbg"}}`, `{"lvl":"trc","msg":"fatal"}`,
		},
		"logfmt": {"prio=err level=info", "level=info", "LEVEL_NAME=dbg", "lvl=trc prio=wrn", "prio=9 lvl=trc", "log.level=fatal", "severity=err error"},
	} {
		st := testkit.Stream{Labels: []testkit.Pair{{Name: "app", Value: "set"}, {Name: "kind", Value: kind}}}
		for i, l := range lines {
			st.Entries = append(st.Entries, testkit.Entry{TS: start + int64(i), Line: l})
		}
		streams = append(streams, st)
	}
	for i, m := range []testkit.Pair{{Name: "prio", Value: "custom"}, {Name: "level", Value: "err"}, {Name: "Level_Name", Value: "Warning"}, {Name: "severity_number", Value: "9"}} {
		streams = append(streams, testkit.Stream{
			Labels:  []testkit.Pair{{Name: "app", Value: "set"}, {Name: "kind", Value: "meta"}, {Name: "n", Value: strconv.Itoa(i)}},
			Entries: []testkit.Entry{{TS: start, Line: "an error", Meta: []testkit.Pair{m}}},
		}, testkit.Stream{
			Labels:  []testkit.Pair{{Name: "app", Value: "set"}, {Name: "kind", Value: "label"}, m},
			Entries: []testkit.Entry{{TS: start, Line: "an error"}},
		})
	}
	var texts [2][]string
	levels := map[string]int{}
	for i, c := range []*testkit.Client{s.Client(""), {Base: base}} {
		if err := c.Push(t.Context(), streams); err != nil {
			t.Fatal(err)
		}
		got, err := c.QueryRange(t.Context(), `{app=~"set|level|meta"}`, start, start+3600e9, 5000)
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range got {
			for _, e := range st.Entries {
				texts[i] = append(texts[i], fmt.Sprintf("%s %d %q %v", testkit.LabelText(st.Labels), e.TS, e.Line, e.Meta))
				for _, p := range e.Meta {
					if p.Name == "detected_level" {
						levels[p.Value]++
					}
				}
			}
		}
		slices.Sort(texts[i])
	}
	if len(texts[0]) != len(texts[1]) {
		t.Fatalf("%d entries, Loki has %d", len(texts[0]), len(texts[1]))
	}
	for i := range texts[0] {
		if texts[0][i] != texts[1][i] {
			t.Errorf("ours %s\nloki %s", texts[0][i], texts[1][i])
		}
	}
	t.Logf("%d entries, of both: %v", len(texts[0]), levels)
	if len(levels) < 9 || levels["error"] < 20 {
		t.Errorf("too few entries with levels: %v", levels)
	}
}
