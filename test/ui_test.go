//go:build integration

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/chromium"
	"github.com/loki-go/loki-go/internal/ui"
)

const hostile = `<img src=x onerror="window.pwned=1"><script>window.pwned=2</script> & "quoted" \u003cb\u003e`

// explored is what the page is tried with: one line for every level and form.
var explored = []struct{ line, level string }{
	{`level=debug msg="cache miss" key=42 took=3ms`, "debug"},
	{`{"level":"error","msg":"payment failed","order":{"id":9007199254740993,"to":"<b>x</b>"},"retry":true}`, "error"},
	{`WARN disk is nearly full`, "warn"},
	{`{"severity":"INFO","msg":"ready"}`, "info"},
	{`2026-01-02 FATAL cannot go on`, "critical"},
	{hostile, "unknown"},
	{`level=trace msg=enter fn=main`, "trace"},
	{`just a sentence`, "unknown"},
}

func uiServer(t *testing.T, args ...string) *testkit.Server {
	t.Helper()
	s := testkit.NewServer(t, t.TempDir(), args...)
	s.Start()
	s.WaitReady()
	return s
}

// pushLine stores one line now and waits until that is acknowledged.
func pushLine(t *testing.T, c *testkit.Client, job, line string, ts int64, meta ...testkit.Pair) {
	t.Helper()
	if err := c.Push(context.Background(), []testkit.Stream{{
		Labels:  []testkit.Pair{{Name: "env", Value: "test"}, {Name: "job", Value: job}},
		Entries: []testkit.Entry{{TS: ts, Line: line, Meta: meta}},
	}}); err != nil {
		t.Fatal(err)
	}
}

// knows reports whether the server has an endpoint of the query API.
func knows(t *testing.T, s *testkit.Server, path string) bool {
	t.Helper()
	resp, err := http.Get("http://" + s.HTTP + "/loki/api/v1/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode != http.StatusNotFound
}

// quiet fails if the page has reported an error but those that contain one of
// expected.
func quiet(t *testing.T, p *chromium.Page, expected ...string) {
	t.Helper()
next:
	for _, n := range p.Noted() {
		for _, e := range expected {
			if strings.Contains(n, e) {
				continue next
			}
		}
		t.Errorf("the page reports: %s", n)
	}
}

const probes = "/loki/api/v1/" // what the server refuses is logged by the browser

func ask(p *chromium.Page, query string) {
	p.Key("Escape")
	p.Key("/")
	p.Eval(`document.querySelector("#query").select(), 0`, nil)
	p.Type(query)
	p.Key("Control+Enter")
}

const answered = `document.querySelector("#results").getAttribute("aria-busy") === "false" && document.querySelector("#status").textContent !== "asking…"`

func TestExplorer(t *testing.T) {
	s := uiServer(t)
	c := s.Client("")
	now := time.Now()
	for i, e := range explored {
		pushLine(t, c, "api", e.line, now.Add(-time.Duration(len(explored)-i)*time.Minute).UnixNano(),
			testkit.Pair{Name: "trace_id", Value: fmt.Sprint("t", i)}, testkit.Pair{Name: "html", Value: "<i>meta</i>"})
	}
	pushLine(t, c, `<b>web</b>`, "from another job", now.UnixNano())
	b := chromium.Start(t)
	p := b.Open("http://"+s.HTTP+"/ui", nil)

	t.Run("labels", func(t *testing.T) {
		p := p.For(t)
		p.Wait(`document.querySelector('#label-list details[data-name="job"]')`)
		p.Click(`#label-list details[data-name="job"] summary`)
		p.Wait(`document.querySelectorAll("#label-list li button").length === 2`)
		if got := p.Text(`[...document.querySelectorAll("#label-list li button")].map(b => b.textContent).join("|")`); got != "<b>web</b>|api" {
			t.Errorf("values of job: %s", got)
		}
		p.Click(`#label-list li:nth-child(2) button`)
		p.Wait(fmt.Sprintf(`document.querySelectorAll(".lines > li").length === %d`, len(explored)))
		if got := p.Text(`document.querySelector("#query").value`); got != `{job="api"}` {
			t.Errorf("query %s", got)
		}
		if got := p.Text(`document.querySelector("#status").textContent`); !strings.HasPrefix(got, fmt.Sprintf("%d lines in ", len(explored))) {
			t.Errorf("status %q", got)
		}
		quiet(t, p, probes)
	})

	t.Run("lines", func(t *testing.T) {
		p := p.For(t)
		var rows []struct{ Text, Level, Color string }
		p.Eval(`[...document.querySelectorAll(".lines .head")].map(h => ({text: h.querySelector(".text").textContent,
			level: h.querySelector(".level").textContent, color: getComputedStyle(h.querySelector(".level")).color}))`, &rows)
		colors := map[string]string{}
		for i, r := range rows {
			want := explored[len(explored)-1-i] // newest first
			level := strings.ReplaceAll(r.Level, "–", "unknown")
			if r.Text != want.line || level != want.level {
				t.Errorf("line %d is %q with level %s, want %q with %s", i, r.Text, level, want.line, want.level)
			}
			if was, ok := colors[r.Color]; ok && was != level {
				t.Errorf("%s and %s have the same colour %s", was, level, r.Color)
			}
			colors[r.Color] = level
		}
		if len(colors) != 7 {
			t.Errorf("%d colours for 7 levels: %v", len(colors), colors)
		}
		if got := p.Text(`typeof window.pwned + document.querySelectorAll("#results img, #results script, #results b, #results i").length`); got != "undefined0" {
			t.Errorf("logged HTML became elements: %s", got)
		}
		quiet(t, p, probes)
	})

	t.Run("volume", func(t *testing.T) {
		p := p.For(t)
		p.Wait(`document.querySelectorAll("#chart rect.bar").length >= 7`)
		if got := p.Text(`document.querySelector("#chart svg").getAttribute("aria-label")`); !strings.HasPrefix(got, fmt.Sprintf("%d lines, ", len(explored))) {
			t.Errorf("chart of %s", got)
		}
		// Drag over the newest quarter: a range of its own, with fewer lines.
		var box struct{ X, Y, Width, Height float64 }
		p.Eval(`document.querySelector("#chart svg").scrollIntoView(), document.querySelector("#chart svg").getBoundingClientRect().toJSON()`, &box)
		y := box.Y + box.Height/2
		p.Drag(box.X+box.Width*0.93, y, box.X+box.Width-2, y)
		p.Wait(`!document.querySelector("#absolute").hidden && location.hash.includes("to=")`)
		p.Wait(answered)
		var left int
		p.Eval(`document.querySelectorAll(".lines > li").length`, &left)
		if left == 0 || left >= len(explored) {
			t.Errorf("%d lines in a part of the range", left)
		}
		// The address has all of it: back in history is back to the hour.
		p.Eval(`history.back(), 0`, nil)
		p.Wait(fmt.Sprintf(`document.querySelector("#range").value === "1h" && document.querySelectorAll(".lines > li").length === %d`, len(explored)))
		quiet(t, p, probes)
	})

	t.Run("keyboard", func(t *testing.T) {
		p := p.For(t)
		p.Key("Escape")
		p.Key("/")
		if got := p.Text(`document.activeElement.id`); got != "query" {
			t.Errorf("/ leads to %s", got)
		}
		p.Key("Escape")
		focused := `[...document.querySelectorAll(".lines > li")].findIndex(l => l.contains(document.activeElement))`
		for _, step := range []struct{ key, want string }{{"j", "0"}, {"j", "1"}, {"j", "2"}, {"k", "1"}, {"G", fmt.Sprint(len(explored) - 1)}, {"j", fmt.Sprint(len(explored) - 1)}, {"g", "0"}, {"k", "0"}} {
			p.Key(step.key)
			if got := p.Text(focused); got != step.want {
				t.Errorf("after %s line %s has the focus, want %s", step.key, got, step.want)
			}
		}
		if got := p.Text(`getComputedStyle(document.activeElement).outlineStyle`); got != "solid" {
			t.Errorf("the focus cannot be seen: outline %s", got)
		}
		p.Key("Enter")
		if got := p.Text(`document.activeElement.getAttribute("aria-expanded") + document.querySelectorAll(".detail").length`); got != "true1" {
			t.Errorf("Enter does not open the line: %s", got)
		}
		p.Key("Escape")
		if got := p.Text(`document.activeElement.getAttribute("aria-expanded") + document.querySelectorAll(".detail").length`); got != "false0" {
			t.Errorf("Escape does not close the line: %s", got)
		}
		p.Key("?")
		p.Wait(`document.querySelector("#help").open`)
		p.Key("Escape")
		p.Wait(`!document.querySelector("#help").open`)
		p.Key("w")
		if got := p.Text(`getComputedStyle(document.querySelector(".head .text")).whiteSpace`); !strings.Contains(got, "pre-wrap") {
			t.Errorf("w does not wrap: %s", got)
		}
		p.Key("w")
		// All can be reached by Tab, too: from the query to a line.
		p.Key("/")
		reached := false
		for range 60 {
			p.Key("Tab")
			if reached = p.Text(`document.activeElement.classList.contains("head")`) == "true"; reached {
				break
			}
		}
		if !reached {
			t.Error("Tab does not lead to the lines")
		}
		quiet(t, p, probes)
	})

	t.Run("detail", func(t *testing.T) {
		p := p.For(t)
		row := fmt.Sprintf(".lines > li:nth-child(%d)", len(explored)-1) // the JSON one
		p.Click(row + " .head time")
		p.Wait(fmt.Sprintf("document.querySelector(%q)", row+" .detail"))
		// A number that JavaScript cannot hold is shown as it was logged.
		for _, want := range []string{"trace_id\tt1", "html\t<i>meta</i>", "job\tapi", `"id": 9007199254740993`, `"to": "<b>x</b>"`, "order_to\t<b>x</b>"} {
			if got := p.Text(fmt.Sprintf("document.querySelector(%q).innerText", row+" .detail")); !strings.Contains(got, want) {
				t.Errorf("detail lacks %q:\n%s", want, got)
			}
		}
		p.Click(row + ` .detail button.raw`)
		if got := p.Text(fmt.Sprintf("document.querySelector(%q).textContent", row+` .detail pre:not([hidden])`)); got != explored[1].line {
			t.Errorf("as logged: %s", got)
		}
		p.Click(row + ` .detail .of-label button[aria-label="without job api"]`)
		p.Wait(`document.querySelector("#query").value === '{job="api", job!="api"}'`)
		p.Wait(answered)
		ask(p, `{job="api"}`)
		p.Wait(fmt.Sprintf(`document.querySelectorAll(".lines > li").length === %d`, len(explored)))
		p.Key("Escape")
		p.Key("g")
		p.Key("Enter")
		p.Click(`.detail .of-field button[aria-label="only trace_id t7"]`)
		p.Wait(`document.querySelector("#query").value === '{job="api"} | trace_id="t7"'`)
		p.Wait(answered)
		quiet(t, p, probes)
	})

	t.Run("policy", func(t *testing.T) {
		p := p.For(t)
		for what, try := range map[string]string{
			"HTML of a string":       `(document.querySelector("#status").innerHTML = "<b>x</b>")`,
			"a script of a string":   `(() => { const s = document.createElement("script"); s.textContent = "window.pwned = 3"; document.body.append(s); })()`,
			"eval":                   `window.setTimeout("window.pwned = 4")`,
			"a request to elsewhere": `fetch("http://127.0.0.1:1/").catch(e => { throw new TypeError(String(e)); })`,
		} {
			var got string
			p.Eval(fmt.Sprintf(`(async () => { try { await %s; return "done"; } catch (e) { return e.name; } })()`, try), &got)
			if got != "TypeError" && got != "EvalError" {
				t.Errorf("%s: %s", what, got)
			}
		}
		if got := p.Text(`typeof window.pwned`); got != "undefined" {
			t.Error("a script ran")
		}
		p.Noted() // the browser's reports of the above
	})

	t.Run("errors", func(t *testing.T) {
		p := p.For(t)
		ask(p, `{job="api"} |= `)
		p.Wait(`!document.querySelector("#query-error").hidden`)
		if got := p.Text(`document.querySelector("#error-text").textContent`); !strings.Contains(got, "parse error at line 1, col ") {
			t.Errorf("error %q", got)
		}
		var where struct {
			Text       string
			Start, End int
		}
		p.Eval(`({text: document.querySelector("#error-where").textContent, start: document.querySelector("#query").selectionStart, end: document.querySelector("#query").selectionEnd})`, &where)
		query, caret, _ := strings.Cut(where.Text, "\n")
		if query != `{job="api"} |= ` || strings.TrimLeft(caret, " ") != "^" || len(caret) < 12 || where.Start < 11 {
			t.Errorf("the place is %+v", where)
		}
		ask(p, `{job="api"} |= "sentence"`)
		p.Wait(`document.querySelector("#query-error").hidden && document.querySelectorAll(".lines > li").length === 1`)
		quiet(t, p, probes)
	})

	t.Run("history and download", func(t *testing.T) {
		p := p.For(t)
		p.Key("Escape")
		p.Key("h")
		p.Wait(`document.querySelector("#history").open`)
		if got := p.Text(`document.querySelector("#history-list button").textContent`); got != `{job="api"} |= "sentence"` {
			t.Errorf("the last query is %s", got)
		}
		p.Key("Escape")
		dir := t.TempDir()
		p.Downloads(dir)
		for kind, check := range map[string]func(string) bool{
			"text": func(got string) bool { return strings.HasSuffix(got, "Z just a sentence\n") },
			"jsonl": func(got string) bool {
				var e struct {
					Timestamp, Line    string
					Labels             map[string]string
					StructuredMetadata map[string]string
				}
				return json.Unmarshal([]byte(got), &e) == nil && e.Line == "just a sentence" && e.Labels["job"] == "api" && e.StructuredMetadata["trace_id"] == "t7" && len(e.Timestamp) == 19
			},
		} {
			p.Eval(fmt.Sprintf(`(() => { const d = document.querySelector("#download"); d.value = %q; d.dispatchEvent(new Event("change")); return 0; })()`, kind), nil)
			name := filepath.Join(dir, "*."+map[string]string{"text": "log", "jsonl": "jsonl"}[kind])
			eventually(t, "download as "+kind, func() bool {
				files, _ := filepath.Glob(name)
				if len(files) != 1 {
					return false
				}
				got, err := os.ReadFile(files[0])
				return err == nil && check(string(got))
			})
		}
		quiet(t, p, probes)
	})

	t.Run("live", func(t *testing.T) {
		p := p.For(t)
		// By socket where there is one, else by asking every second.
		live(t, p, c, !knows(t, s, "tail"))
		quiet(t, p, probes)
	})
}

// lokiOfPage is a stock Loki with all of its parts, and levels that it detects.
var lokiOfPage = template.Must(template.New("").Parse(`
auth_enabled: false
target: all
analytics: {reporting_enabled: false}
server: {http_listen_address: 127.0.0.1, http_listen_port: {{.HTTP}}, grpc_listen_address: 127.0.0.1, grpc_listen_port: {{.GRPC}}, log_level: warn}
common:
  instance_addr: 127.0.0.1
  path_prefix: {{.Dir}}
  replication_factor: 1
  ring: {instance_addr: 127.0.0.1, kvstore: {store: inmemory}}
  storage: {filesystem: {chunks_directory: {{.Dir}}/chunks, rules_directory: {{.Dir}}/rules}}
schema_config:
  configs:
    - {from: 2020-01-01, store: tsdb, object_store: filesystem, schema: v13, index: {prefix: index_, period: 24h}}
`))

// TestExplorerOfLoki: the page in front of a stock Loki, so that it keeps to the
// API as Loki has it: counts by level, metric queries, live by WebSocket.
func TestExplorerOfLoki(t *testing.T) {
	loki := runLoki(t, lokiOfPage, bucket{})
	target, err := url.Parse(loki.url)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ui.New()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	h.Register(mux)
	mux.Handle("/", httputil.NewSingleHostReverseProxy(target))
	front := httptest.NewServer(mux)
	defer front.Close()
	c := &testkit.Client{Base: front.URL}
	live(t, explore(t, c), c, false)
}

// TestExplorerMetrics: the same with loki-go.
func TestExplorerMetrics(t *testing.T) {
	explore(t, uiServer(t).Client(""))
}

// explore tries what needs metric queries, and returns the page.
func explore(t *testing.T, c *testkit.Client) *chromium.Page {
	t.Helper()
	now := time.Now()
	for i, e := range explored {
		pushLine(t, c, "api", e.line, now.Add(-time.Duration(len(explored)-i)*time.Minute).UnixNano(), testkit.Pair{Name: "trace_id", Value: fmt.Sprint("t", i)})
	}
	b := chromium.Start(t)
	p := b.Open(c.Base+"/ui/", nil)
	p.Wait(`document.querySelector('#label-list details[data-name="job"]')`)
	ask(p, `{job="api"}`)
	p.Wait(fmt.Sprintf(`document.querySelectorAll(".lines > li").length === %d && document.querySelector("#chart svg")`, len(explored)))
	if got := p.Text(`document.querySelector("#volume-note").textContent`); got != "" {
		t.Errorf("the server did not count: %s", got)
	}
	want := "critical 1,error 1,warn 1,info 1,debug 1,trace 1,unknown 2"
	if got := p.Text(`[...document.querySelectorAll("#legend li")].map(e => e.textContent).join()`); got != want {
		t.Errorf("levels %s, want %s", got, want)
	}
	if got := p.Text(`[...document.querySelectorAll("#chart rect.bar")].length`); got != fmt.Sprint(len(explored)) {
		t.Errorf("%s bars for %d lines in as many minutes", got, len(explored))
	}
	ask(p, `{job="api"} | logfmt | level="debug"`)
	p.Wait(`document.querySelectorAll(".lines > li").length === 1 && document.querySelector("#legend li")?.textContent === "debug 1"`)
	p.Key("Escape")
	p.Key("j")
	p.Key("Enter")
	p.Wait(`document.querySelector(".detail")?.innerText.includes("Parsed by the query")`)
	ask(p, `sum by (job) (count_over_time({env="test"}[1h]))`)
	p.Wait(`document.querySelectorAll("#results svg.graph path.series").length === 1`)
	if got := p.Text(`[...document.querySelectorAll("#results table.series tbody td")].map(e => e.textContent).join(" ")`); got != fmt.Sprintf(`{job="api"} %[1]d %[1]d`, len(explored)) {
		t.Errorf("the series is %q", got)
	}
	ask(p, `sum by (job, trace_id) (count_over_time({env="test"}[5m]))`)
	p.Wait(fmt.Sprintf(`document.querySelectorAll("#results svg.graph path.series").length === %d`, len(explored)))
	readable(t, "series", p)
	check(t, "series", p.Screenshot())
	ask(p, `sum(rate({env="test"}[1h])`)
	p.Wait(`document.querySelector("#error-text").textContent.includes("parse error at line 1, col ")`)
	quiet(t, p, probes)
	return p
}

// live turns live on and waits for lines.
func live(t *testing.T, p *chromium.Page, c *testkit.Client, byAsking bool) {
	t.Helper()
	ask(p, `{job="live"}`)
	p.Wait(answered)
	p.Key("Escape")
	p.Key("l")
	p.Wait(`document.querySelector("#live").getAttribute("aria-pressed") === "true" && document.querySelector("#status").textContent.startsWith("Live")`)
	for i := range 3 {
		pushLine(t, c, "live", fmt.Sprintf("INFO tick %d", i), time.Now().UnixNano())
		p.Wait(fmt.Sprintf(`document.querySelectorAll(".lines > li").length === %d`, i+1))
	}
	if got := p.Text(`[...document.querySelectorAll(".lines .text")].map(e => e.textContent).join(",")`); got != "INFO tick 2,INFO tick 1,INFO tick 0" {
		t.Errorf("live shows %s", got)
	}
	if got := p.Text(`document.querySelector("#status").textContent`); strings.Contains(got, "asking") != byAsking {
		t.Errorf("live says %q", got)
	}
	p.Key("l")
	p.Wait(`document.querySelector("#live").getAttribute("aria-pressed") === "false"`)
}

// TestExplorerPages: a result of many pages, among it many lines of one time, is
// reached whole, and the page keeps a bounded part of it.
func TestExplorerPages(t *testing.T) {
	s := uiServer(t)
	const total = 6500
	entries := make([]testkit.Entry, total)
	base := time.Now().Add(-10 * time.Minute).UnixNano()
	for i := range entries {
		ts := base + int64(i)*1e6
		if i >= 200 && i < 350 {
			ts = base + 200*1e6 // more than a page of 100 at one time
		}
		entries[i] = testkit.Entry{TS: ts, Line: fmt.Sprintf("INFO line %d %s", i, strings.Repeat("x", i%300))}
	}
	if err := s.Client("").Push(context.Background(), []testkit.Stream{{Labels: []testkit.Pair{{Name: "job", Value: "many"}}, Entries: entries}}); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("0123456789", 20000) + "end"
	pushLine(t, s.Client(""), "long", long, time.Now().UnixNano())
	b := chromium.Start(t)
	link := url.Values{"q": {`{job="many"}`}, "from": {"now-3h"}, "limit": {"2000"}, "dir": {"backward"}}
	p := b.Open("http://"+s.HTTP+"/ui/#"+strings.ReplaceAll(link.Encode(), "+", "%20"), nil)
	p.Wait(`document.querySelectorAll(".lines > li").length === 2000 && !document.querySelector("#more").hidden`)
	if got := p.Text("history.length"); got != "2" { // about:blank, and the link
		t.Errorf("a link leaves %s steps in the history", got)
	}
	// The volume is that of the range, not of the page.
	p.Wait(fmt.Sprintf(`document.querySelector("#chart svg").getAttribute("aria-label").startsWith("%d lines")`, total))
	for _, want := range []string{"1999 more lines, 3999 in all", "1999 more lines, 5000 in all; 998 at the other end", "502 more lines, 5000 in all; 1500 at the other end"} {
		p.Wait(answered)
		p.Key("n")
		p.Wait(fmt.Sprintf(`document.querySelector("#status").textContent.startsWith(%q)`, want))
	}
	p.Wait(`document.querySelector("#more").hidden`)
	if got := p.Text(`document.querySelector(".lines").lastChild.querySelector(".text").textContent`); !strings.HasPrefix(got, "INFO line 0") {
		t.Errorf("the oldest line is %q", got)
	}

	// Oldest first, in pages that are smaller than what there is at one time.
	link.Set("dir", "forward")
	link.Set("limit", "100")
	p.Go("http://" + s.HTTP + "/ui/?again#" + strings.ReplaceAll(link.Encode(), "+", "%20"))
	p.Wait(`document.querySelectorAll(".lines > li").length === 100`)
	for have := 100; have < 600; {
		p.Wait(answered)
		p.Key("n")
		p.Wait(fmt.Sprintf(`document.querySelectorAll(".lines > li").length > %d`, have))
		p.Eval(`document.querySelectorAll(".lines > li").length`, &have)
	}
	p.Wait(answered)
	if got := p.Text(`[...document.querySelectorAll(".lines .text")].map(e => Number(e.textContent.split(" ")[2])).sort((a, b) => a - b).findIndex((n, i) => n !== i)`); got != "-1" {
		t.Errorf("line %s is left out", got)
	}

	// A long line is shown in part, and whole when it is opened.
	ask(p, `{job="long"}`)
	p.Wait(`document.querySelectorAll(".lines > li").length === 1`)
	if got := p.Text(`document.querySelector(".lines .text").textContent.length`); len(got) != 4 {
		t.Errorf("%s characters are shown", got)
	}
	p.Key("Escape")
	p.Key("j")
	p.Key("Enter")
	if got := p.Text(`document.querySelector(".detail pre").textContent`); !strings.HasPrefix(got, long[:200000]) || !strings.HasSuffix(got, " … 3 more characters") {
		t.Errorf("%d characters are shown when it is open: ...%s", len(got), got[max(0, len(got)-60):])
	}
	quiet(t, p, probes)
}

// TestExplorerTenants: the page behind a proxy with a path, against a server
// that asks for credentials and tells tenants apart.
func TestExplorerTenants(t *testing.T) {
	dir := t.TempDir()
	users := filepath.Join(dir, "users.yaml")
	if err := os.WriteFile(users, []byte("users:\n  - {name: ops, password: secret, tenants: [red, blue]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := uiServer(t, "-auth.enabled=true", "-auth.users-file="+users)
	for _, tenant := range []string{"red", "blue"} {
		c := s.Client(tenant)
		c.HTTP = &http.Client{Transport: withPassword{}}
		pushLine(t, c, "api", "ERROR of "+tenant, time.Now().UnixNano())
	}
	target := &url.URL{Scheme: "http", Host: s.HTTP}
	proxy := httptest.NewServer(http.StripPrefix("/logs/eu", httputil.NewSingleHostReverseProxy(target)))
	defer proxy.Close()
	b := chromium.Start(t)
	// What a browser sends once its user has answered the question for a password.
	p := b.Open(proxy.URL+"/logs/eu/ui", map[string]string{"Authorization": "Basic b3BzOnNlY3JldA=="})
	p.Wait(`document.querySelector('#label-list details[data-name="job"]')`)
	for _, tenant := range []string{"blue", "red"} {
		p.Click("#tenant")
		p.Eval(`document.querySelector("#tenant").select(), 0`, nil)
		p.Type(tenant)
		ask(p, `{job="api"}`)
		p.Wait(fmt.Sprintf(`document.querySelector(".lines .text")?.textContent === %q`, "ERROR of "+tenant))
		if hash := p.Text("location.hash"); !strings.Contains(hash, "tenant="+tenant) {
			t.Errorf("the link lacks the tenant: %s", hash)
		}
	}
	// A browser sends no tenant with a socket: the page asks.
	c := s.Client("red")
	c.HTTP = &http.Client{Transport: withPassword{}}
	live(t, p, c, true)
	// It is remembered, and a tenant that is not allowed is told.
	p.Go(proxy.URL + "/logs/eu/ui/?again")
	p.Wait(`document.querySelector("#tenant").value === "red"`)
	p.Click("#tenant")
	p.Eval(`document.querySelector("#tenant").select(), 0`, nil)
	p.Type("green")
	ask(p, `{job="api"}`)
	p.Wait(`document.querySelector("#error-text").textContent.includes("credentials are not for this tenant")`)
	// A browser that has no credentials is asked for them.
	resp, err := http.Get(proxy.URL + "/logs/eu/ui/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Basic ") {
		t.Errorf("without credentials: %d %v", resp.StatusCode, resp.Header)
	}
	quiet(t, p, probes)
}

type withPassword struct{}

func (withPassword) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.SetBasicAuth("ops", "secret")
	return http.DefaultTransport.RoundTrip(r)
}

// TestExplorerIngest: what comes in is shown by tenant and receiver, and what is
// refused by reason.
func TestExplorerIngest(t *testing.T) {
	s := uiServer(t, "-auth.enabled=true")
	b := chromium.Start(t)
	p := b.Open("http://"+s.HTTP+"/ui/#view=ingest", nil)
	p.Wait(`document.querySelectorAll(".tile").length > 5`)
	ctx := context.Background()
	for i := 0; ; i++ {
		for _, tenant := range []string{"red", "blue"} {
			pushLine(t, s.Client(tenant), "api", fmt.Sprint("INFO line ", i), time.Now().UnixNano())
		}
		if err := s.Client("blue").Events(ctx, []testkit.Stream{{Labels: []testkit.Pair{{Name: "job", Value: "x"}}, Entries: []testkit.Entry{{TS: time.Now().UnixNano(), Line: "event"}}}}); err != nil {
			t.Fatal(err)
		}
		// Too old to be taken.
		_ = s.Client("red").Push(ctx, []testkit.Stream{{Labels: []testkit.Pair{{Name: "job", Value: "old"}}, Entries: []testkit.Entry{{TS: 1e18, Line: "old"}}}})
		time.Sleep(200 * time.Millisecond)
		var rows []string
		p.Eval(`[...document.querySelectorAll("#ingest-in tbody tr, #ingest-refused tbody tr")].map(r => [...r.cells].map(c => c.textContent).slice(0, 3).join(" "))`, &rows)
		all := strings.Join(rows, "\n")
		if strings.Contains(all, "blue json ") && strings.Contains(all, "red loki ") && strings.Contains(all, "red greater_than_max_sample_age ") && !strings.Contains(all, " 0\n") && !strings.Contains(all, "–") {
			break
		}
		if i == 200 {
			t.Fatalf("the page shows\n%s", p.Text("document.body.innerText"))
		}
	}
	tiles := p.Text(`document.querySelector("#ingest-tiles").innerText`)
	for _, want := range []string{"lines received", "to an acknowledgement, median", "lines refused"} {
		if !strings.Contains(tiles, want) {
			t.Errorf("tiles lack %q:\n%s", want, tiles)
		}
	}
	p.Wait(`[...document.querySelectorAll(".tile")].some(e => e.textContent.includes("median") && /\d (ms|s|µs)/.test(e.textContent))`)
	p.Wait(`document.querySelectorAll("#ingest-in svg.spark").length >= 3`)
	for _, scheme := range []string{"light", "dark"} {
		p.Prefer(map[string]string{"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"})
		readable(t, "ingest "+scheme, p)
		check(t, "ingest "+scheme, p.Screenshot())
	}
	p.Key("i")
	p.Wait(`!document.querySelector("#explore").hidden`)
	quiet(t, p, probes)
}

// TestExplorerThemes: in both themes the window shows something, and text can be
// read: its contrast to what is behind it is that of WCAG's level AA.
func TestExplorerThemes(t *testing.T) {
	s := uiServer(t)
	for i, e := range explored {
		pushLine(t, s.Client(""), "api", e.line, time.Now().Add(-time.Duration(i)*time.Minute).UnixNano())
	}
	b := chromium.Start(t)
	p := b.Open("http://"+s.HTTP+"/ui/#q=%7Bjob%3D%22api%22%7D", nil)
	p.Wait(fmt.Sprintf(`document.querySelectorAll(".lines > li").length === %d && document.querySelectorAll("#chart rect").length > 3`, len(explored)))
	p.Key("j")
	p.Key("Enter")
	p.Eval(`document.querySelector('#label-list details').open = true, 0`, nil)
	p.Wait(`document.querySelector("#label-list li button")`)
	brightness := map[string]float64{}
	// The button overrules the system.
	for _, c := range []struct{ system, button string }{{"light", ""}, {"dark", ""}, {"dark", "light"}, {"light", "dark"}} {
		p.Prefer(map[string]string{"prefers-color-scheme": c.system, "prefers-reduced-motion": "reduce"})
		for range 3 {
			if p.Text(`document.documentElement.dataset.theme ?? ""`) == c.button {
				break
			}
			p.Key("t")
		}
		name := c.system + " " + c.button
		img := p.Screenshot()
		brightness[name] = check(t, name, img)
		readable(t, name, p)
	}
	for _, pair := range [][2]string{{"light ", "dark "}, {"dark light", "light dark"}} {
		if brightness[pair[0]] < 0.7 || brightness[pair[1]] > 0.3 {
			t.Errorf("brightness: %v", brightness)
		}
	}
	// Nothing is wider than a narrow window, but what scrolls by itself.
	for _, width := range []int{360, 700, 1280} {
		p.Call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false}, nil)
		p.Wait(fmt.Sprintf(`innerWidth === %d`, width))
		if got := p.Text(`document.documentElement.scrollWidth`); got != fmt.Sprint(width) {
			t.Errorf("in a window of %d the page is %s wide", width, got)
		}
	}
	if got := p.Text(`[...document.querySelectorAll("button, input, select, textarea")].filter(e => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim())).map(e => e.outerHTML).join()`); got != "" {
		t.Errorf("without a name for a screen reader: %s", got)
	}
	if got := p.Text(`[...document.querySelectorAll("[aria-labelledby], [aria-describedby], label[for]")].flatMap(e => (e.getAttribute("aria-labelledby") ?? e.getAttribute("aria-describedby") ?? e.htmlFor).split(" ")).filter(id => !document.getElementById(id)).join()`); got != "" {
		t.Errorf("names of elements that are not there: %s", got)
	}
	quiet(t, p, probes)
}

// check returns the mean brightness of a picture, from 0 to 1, which must have
// more in it than one colour.
func check(t *testing.T, name string, img image.Image) float64 {
	t.Helper()
	colors := map[color.Color]int{}
	sum, r := 0.0, img.Bounds()
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			c := img.At(x, y)
			colors[c]++
			sum += float64(color.GrayModel.Convert(c).(color.Gray).Y) / 255
		}
	}
	n := r.Dx() * r.Dy()
	most := 0
	for _, k := range colors {
		most = max(most, k)
	}
	if n < 500000 || len(colors) < 50 || most > n*97/100 {
		t.Errorf("%s: a picture of %d pixels with %d colours, one of them in %d", name, n, len(colors), most)
	}
	return sum / float64(n)
}

// readable fails for text without the contrast that WCAG's level AA wants.
func readable(t *testing.T, name string, p *chromium.Page) {
	t.Helper()
	list := contrasts(p)
	if len(list) < 20 {
		t.Errorf("%s: only %d pieces of text", name, len(list))
	}
	for _, l := range list {
		if l.Ratio < 4.5 {
			t.Errorf("%s: contrast of %q (%s) is %.2f: %s on %s", name, l.Text, l.Where, l.Ratio, l.Color, l.Back)
		}
	}
}

type contrast struct {
	Text, Where, Color, Back string
	Ratio                    float64
}

// contrasts computes that of every piece of text that is shown.
func contrasts(p *chromium.Page) []contrast {
	var found []struct {
		Text, Where string
		Color, Back [4]float64
	}
	p.Eval(`(() => {
		const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
		const rgba = (c) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3]]; };
		const out = [];
		const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
		for (let n; (n = walk.nextNode());) {
			const e = n.parentElement;
			if (!n.data.trim() || !e.checkVisibility() || e.closest("noscript, option, title")) continue;
			const svg = e.closest("svg") && e.tagName === "text";
			let back = [0, 0, 0, 0];
			for (let b = e; b && back[3] < 255; b = b.parentElement) { const c = rgba(getComputedStyle(b).backgroundColor); if (c[3] === 255) back = c; }
			out.push({text: n.data.trim().slice(0, 40), where: e.tagName + "." + (e.className.baseVal ?? e.className), color: rgba(svg ? getComputedStyle(e).fill : getComputedStyle(e).color), back});
		}
		return out;
	})()`, &found)
	var out []contrast
	for _, f := range found {
		a, b := luminance(f.Color), luminance(f.Back)
		out = append(out, contrast{f.Text, f.Where, fmt.Sprint(f.Color), fmt.Sprint(f.Back), (max(a, b) + 0.05) / (min(a, b) + 0.05)})
	}
	return out
}

// luminance is WCAG's relative luminance of a colour.
func luminance(c [4]float64) float64 {
	lin := func(v float64) float64 {
		if v /= 255; v <= 0.04045 {
			return v / 12.92
		}
		return math.Pow((v+0.055)/1.055, 2.4)
	}
	return 0.2126*lin(c[0]) + 0.7152*lin(c[1]) + 0.0722*lin(c[2])
}

// TestExplorerText: the functions of the page that read queries, lines and
// metrics, in the browser's own JavaScript.
func TestExplorerText(t *testing.T) {
	s := uiServer(t)
	p := chromium.Start(t).Open("http://"+s.HTTP+"/ui/", nil)
	for _, m := range []string{"logql", "text", "time", "ingest"} {
		p.Eval(fmt.Sprintf(`import("./%[1]s.js").then(m => { window.%[1]s_ = m; return 0; })`, m), nil)
	}
	for _, c := range []struct{ expr, want string }{
		{`logql_.toggle('', 'job', 'a"b\\c')`, `{job="a\"b\\c"}`},
		{`logql_.toggle('{job="a"}', 'job', 'b.c')`, `{job=~"a|b\\.c"}`},
		{`logql_.toggle('{job=~"a|b\\\\.c"}', 'job', 'b.c')`, `{job="a"}`},
		{`logql_.toggle('{job="a"}', 'job', 'a')`, ``},
		{`logql_.toggle('{job="a"} |= "x"', 'job', 'a')`, `{} |= "x"`},
		{"logql_.toggle('{env=\"x\", job=~\"a.*\"} |= `{`', 'job', 'b')", "{env=\"x\", job=~\"a.*\", job=\"b\"} |= `{`"},
		{`logql_.toggle('sum(rate({job="a"} | json [5m])) # {', 'env', 'p')`, `sum(rate({job="a", env="p"} | json [5m])) # {`},
		{`logql_.toggle('{job=', 'env', 'p')`, `null`},
		{`logql_.toggle('# {a="b"}\n{c="d"}', 'e', 'f')`, "# {a=\"b\"}\n{c=\"d\", e=\"f\"}"},
		{`logql_.filterLabel('{job="a"} |= "q"', 'env', '!=', 'x')`, `{job="a", env!="x"} |= "q"`},
		{`logql_.filterLabel('{job=~"a|b", env="x"}', 'job', '=', 'b')`, `{env="x", job="b"}`},
		{`logql_.filterField('{a="b"}', 'k', '=', 'v', 'json')`, `{a="b"} | json | k="v"`},
		{`logql_.filterField('{a="b"} | json', 'k', '!=', 'v', 'json')`, `{a="b"} | json | k!="v"`},
		{`logql_.filterField('{a="b"} |= "| json"', 'k', '=', 'v', 'json')`, `{a="b"} |= "| json" | json | k="v"`},
		{`logql_.filterField('{a="b"} # all', 'k', '=', 'v')`, "{a=\"b\"} # all\n| k=\"v\""},
		{`logql_.others('{a="b", c=~".*"}', 'a')`, ``},
		{`logql_.others('{a="b", c="d"}', 'a')`, `{c="d"}`},
		{`logql_.isMetric('{a="b"}') + "," + logql_.isMetric('sum(rate({a="b"}[1m]))') + "," + logql_.isMetric('# x\n {a="b"}')`, `false,true,false`},
		{`JSON.stringify(logql_.errorPlace('parse error at line 2, col 17: syntax error'))`, `{"line":2,"column":17}`},
		{`logql_.fieldName('0a.b-c')`, `_0a_b_c`},
		{`text_.entryLevel({level: "Warning"}, {}, "ERROR x")`, `warn`},
		{`text_.entryLevel({}, {detected_level: "debug"}, "ERROR x")`, `debug`},
		{`text_.entryLevel({}, {}, "no terror here, information only")`, `unknown`},
		{`text_.entryLevel({}, {}, '{"log.level":"warn","m":"error"}')`, `warn`},
		{`text_.entryLevel({}, {}, 'E[31m ts=1 lvl=eror msg="info"')`, `error`},
		{`text_.visible("\x1b[31mred\x1b[0m\0\t\u202eabc\x7f")`, "red␀\t[U+202E]abc␡"},
		{`text_.cut("abcdef", 4) + text_.cut("abcd", 4)`, "abcd … 2 more charactersabcd"},
		{`JSON.stringify(text_.pretty('a=1 b="x y" c="q\\"t"').fields)`, `[["a","1"],["b","x y"],["c","q\"t"]]`},
		{`text_.pretty('the answer is x=42 today') + "," + text_.pretty('{broken') + "," + text_.pretty('<a b="c">')`, `null,null,null`},
		{`text_.pretty('{"a":{"b":[1,2],"c":null},"d":12345678901234567890}').text.replace(/\s+/g, "")`, `{"a":{"b":[1,2],"c":null},"d":12345678901234567890}`},
		{`JSON.stringify(text_.pretty('{"a":{"b":"x"},"c":1}').fields)`, `[["a_b","x"],["c","1"]]`},
		{`time_.full("1700000000123456789", true)`, `2023-11-14 22:13:20.123456789 UTC`},
		{`time_.next("1700000000999999999")`, `1700000001000000000`},
		{`time_.step(3600e3, 80) + "," + time_.step(30 * 86400e3, 80) + "," + time_.step(1000, 80)`, `60,43200,1`},
		{`time_.parse("now-90m", 1e13) + "," + time_.parse("yesterday", 0)`, `9999994600000,NaN`},
		{
			`JSON.stringify(ingest_.parseMetrics('# HELP x\nloki_go_gateway_received_entries_total{tenant="a\\"}{,\\\\b",receiver="x"} 12 1700\nloki_go_wal_size_bytes 1e+06\nother 3\nloki_go_gateway_push_seconds_bucket{result="ok",le="+Inf"} 4\n').get("loki_go_gateway_received_entries_total"))`,
			`[{"labels":{"tenant":"a\"}{,\\b","receiver":"x"},"value":12}]`,
		},
		{`ingest_.quantile(.5, [[.1, 10], [.2, 20], [Infinity, 20]]) + "," + ingest_.quantile(.99, [[.1, 1], [Infinity, 2]]) + "," + ingest_.quantile(.5, [])`, `0.1,0.1,NaN`},
	} {
		if got := p.Text(c.expr); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.expr, got, c.want)
		}
	}
	// Text that is made to be slow to search is read in no time that matters.
	p.Eval(`[1, 2, 3].map(() => text_.pretty("a=" + "\"\\".repeat(200000)) ?? text_.entryLevel({}, {}, "x".repeat(1e6)) ?? logql_.selector("{" + " ".repeat(1e5) + "a".repeat(1e5))).length`, nil)
	quiet(t, p, probes)
}
