//go:build integration

package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/loki-go/loki-go/internal/testkit"
)

// wholeLoki is stock Loki with all of its parts in one process. What would only
// make answers faster or add labels of its own is off.
var wholeLoki = template.Must(template.New("").Parse(`
auth_enabled: false
analytics: {reporting_enabled: false}
server: {http_listen_address: 127.0.0.1, http_listen_port: {{.HTTP}}, grpc_listen_address: 127.0.0.1, grpc_listen_port: {{.GRPC}}, log_level: error}
common:
  instance_addr: 127.0.0.1
  path_prefix: {{.Dir}}
  replication_factor: 1
  ring: {instance_addr: 127.0.0.1, kvstore: {store: inmemory}}
  storage: {filesystem: {chunks_directory: {{.Dir}}/chunks, rules_directory: {{.Dir}}/rules}}
schema_config:
  configs:
    - {from: 2020-01-01, store: tsdb, object_store: filesystem, schema: v13, index: {prefix: index_, period: 24h}}
querier: {query_ingesters_within: 0}
query_range: {parallelise_shardable_queries: false, cache_results: false}
limits_config:
  {reject_old_samples: false, volume_enabled: true, discover_log_levels: false, discover_service_name: [], max_query_length: 721h}
`))

func startWholeLoki(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	port := testkit.FreePort(t)
	var conf bytes.Buffer
	if err := wholeLoki.Execute(&conf, map[string]any{"HTTP": port, "GRPC": testkit.FreePort(t), "Dir": dir}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "loki.yaml")
	if err := os.WriteFile(file, conf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(tool(t, "loki"), "-config.file="+file)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("loki printed:\n%s", log.String())
		}
	})
	base := "http://127.0.0.1:" + strconv.Itoa(port)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := (&testkit.Client{Base: base}).Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return base
}

// logqlData makes lines of all the kinds that queries take apart: 20 minutes
// from start, in seconds. No two entries have the same time.
func logqlData(start int64) (streams []testkit.Stream) {
	next := int64(0)
	add := func(labels string, every int, line func(i int) string, meta ...func(i int) string) {
		s := testkit.Stream{}
		for kv := range strings.SplitSeq(labels, ",") {
			n, v, _ := strings.Cut(kv, "=")
			s.Labels = append(s.Labels, testkit.Pair{Name: n, Value: v})
		}
		next++
		for i := 0; i*every < 1200; i++ {
			e := testkit.Entry{TS: start + int64(i*every)*1e9 + next*1e6, Line: line(i)}
			for _, m := range meta {
				if n, v, ok := strings.Cut(m(i), "="); ok {
					e.Meta = append(e.Meta, testkit.Pair{Name: n, Value: v})
				}
			}
			s.Entries = append(s.Entries, e)
		}
		streams = append(streams, s)
	}
	pick := func(i int, of ...string) string { return of[i%len(of)] }
	levels := []string{"info", "warn", "error", "debug", "info"}

	jsonLine := func(i int) string {
		switch i % 29 {
		case 7:
			return `{"level":"error","msg":"cut off`
		case 13:
			return `not json at all ` + strconv.Itoa(i)
		case 19:
			return `{"level":"warn","status":500,"nested":{"a":{"b":"deep"},"list":[1,{"x":"y"}]}`
		case 23:
			return `["an","array",{"level":"info"}]`
		}
		return fmt.Sprintf(`{"level":%q, "msg":"request %d \"done\" \u00e9\n", "status":%d, "took":"%dms", "size":"%d.5KB", "ok":%v, "none":null, `+
			`"nested":{"a":{"b":"v%d"},"list":[%d,{"x":"y%d"}], "id":%d}, "odd key!":"o%d", "9th":"n", "app":"inner", "ip":"10.0.%d.%d", "f":%d.25, "empty":""}`,
			pick(i, levels...), i, []int{200, 200, 404, 500}[i%4], i%300, i%50, i%2 == 0, i%3, i, i%2, i%5, i%4, i%3, i%256, i%7)
	}
	add("app=json,env=prod", 5, jsonLine)
	add("app=json,env=dev", 11, jsonLine)

	logfmtLine := func(i int) string {
		switch i % 23 {
		case 5:
			return `level=error msg="not closed`
		case 11:
			return `level=warn msg="bad \q escape" x=1 =y a=b=c`
		case 17:
			return `level= flag msg="" size=  took=1s level=info`
		}
		return fmt.Sprintf(`ts=%d level=%s msg="got %d \"things\"" status=%d took=%d.5s size=%dKiB user.name=u%d app=inner ip=192.168.%d.%d f=%d.5 bad=x%d`,
			i, pick(i, levels...), i, []int{200, 404, 500}[i%3], i%9, i%20, i%4, i%2, i%250, i%11-5, i)
	}
	add("app=logfmt,env=prod", 4, logfmtLine)
	add("app=logfmt,env=dev", 9, logfmtLine)

	add("app=nginx,env=prod", 6, func(i int) string {
		return fmt.Sprintf(`%s - %s [10/Oct/2026:13:%02d:36 +0000] "%s /api/v%d/items?id=%d HTTP/1.1" %d %d "-" "Mozilla/%d.0"`,
			pick(i, "10.0.0.1", "192.168.4.77", "2001:db8::42", "172.16.3.9", "8.8.8.8"), pick(i, "-", "frank", "eve"), i%60,
			pick(i, "GET", "POST", "PUT"), i%3, i, []int{200, 304, 502}[i%3], i*37%5000, i%6)
	})
	add("app=plain,env=dev", 7, func(i int) string {
		return pick(i, "", "tabs\tand\nnewlines", "ünïcödé ſtring Kelvin", "Error: something FAILED at step "+strconv.Itoa(i),
			"error=timeout after 30s", "a.b.c (x) [y] {z} <b>&</b>", `quotes "double" 'single' \back`)
	})
	add("app=color,env=dev", 13, func(i int) string {
		return fmt.Sprintf("\x1b[3%dmlevel\x1b[0m=\x1b[1;31m%s\x1b[0m plain%d", i%8, pick(i, levels...), i)
	})
	add("app=packed,env=prod", 8, func(i int) string {
		return pick(i, fmt.Sprintf(`{"pod":"p%d","app":"inner","n":%d,"_entry":"line %d level=%s"}`, i%4, i, i, pick(i, levels...)),
			`{"pod":"px"}`, `broken {`, fmt.Sprintf(`{"_entry":"{\"a\":%d}","pod":"py"}`, i))
	})
	add("app=meta,env=prod", 5, func(i int) string { return fmt.Sprintf("level=parsed n=%d line", i) },
		func(i int) string { return "level=" + pick(i, levels...) },
		func(i int) string { return "trace_id=" + fmt.Sprintf("%04x", i%6) },
		func(i int) string {
			if i%3 == 0 {
				return "app=other"
			}
			return ""
		})
	for _, host := range []string{"a", "b", "c"} {
		add("app=num,host="+host, 10, func(i int) string {
			k := i + len(host)*3 + int(host[0])
			v := strconv.FormatFloat(float64(k*k%97)/4, 'f', -1, 64)
			switch i % 40 {
			case 11:
				v = "not-a-number"
			case 21:
				v = ""
			}
			return fmt.Sprintf("v=%s c=%d neg=-%d zone=%s dur=%dms size=%dB inf=%s", v, (k*7)%200, k%13, pick(i, "x", "y"), k%2000, k*100, pick(i, "+Inf", "1", "NaN"))
		})
	}
	return streams
}

// logqlCase is a line of testdata/logql.txt.
type logqlCase struct {
	text   string
	path   string
	params url.Values
	flags  string
	known  string // why the answers differ
}

// parseLogqlCase reads
//
//	KIND[@name=value,...] QUERY
//
// KIND is log, range, instant, or the name of another endpoint. Times are in
// seconds from the start of the data. A line that begins with "!" gives, in the
// words up to "!", why the answer of the next line is known to differ.
func parseLogqlCase(t *testing.T, line string, start int64) logqlCase {
	t.Helper()
	head, query, _ := strings.Cut(line, " ")
	kind, opts, _ := strings.Cut(head, "@")
	c := logqlCase{text: line, params: url.Values{"query": {query}}}
	if strings.HasPrefix(query, `"`) {
		var q string
		if err := json.Unmarshal([]byte(query), &q); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		c.params.Set("query", q)
	}
	at := func(seconds string) string {
		s, err := strconv.ParseFloat(seconds, 64)
		if err != nil {
			return seconds // to be refused
		}
		return strconv.FormatInt(start+int64(s*1e9), 10)
	}
	c.params.Set("start", at("0"))
	c.params.Set("end", at("1200"))
	switch kind {
	case "log":
		c.path = "query_range"
		c.params.Set("limit", "1000")
	case "range":
		c.path = "query_range"
		c.params.Set("step", "60")
	case "instant":
		c.path = "query"
		c.params = url.Values{"query": c.params["query"], "time": {at("1200")}}
	default:
		c.path = kind
	}
	for o := range strings.SplitSeq(opts, ",") {
		n, v, _ := strings.Cut(o, "=")
		switch n {
		case "":
		case "start", "end", "time":
			c.params.Set(n, at(v))
		case "cat":
			c.flags = "categorize-labels"
		case "no":
			c.params.Del(v)
		default:
			c.params.Set(n, v)
		}
	}
	return c
}

func readLogqlCases(t *testing.T, start int64) (cases []logqlCase) {
	t.Helper()
	known := ""
	for _, file := range []string{"logql.txt", "logql_random.txt"} {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSuffix(line, "\n")
			switch {
			case line == "" || line[0] == '#':
				continue
			case line[0] == '!':
				known = strings.TrimSpace(line[1:])
				continue
			}
			c := parseLogqlCase(t, line, start)
			c.known = known
			known = ""
			cases = append(cases, c)
		}
	}
	return cases
}

type answer struct {
	code int
	body string
}

func (c *logqlCase) ask(base string) (answer, error) {
	req, err := http.NewRequest(http.MethodGet, base+"/loki/api/v1/"+c.path+"?"+c.params.Encode(), nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("X-Loki-Response-Encoding-Flags", c.flags)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(b)}, err
}

// normal is the answer without statistics, its keys and its series in order.
// Loki gives series in an order that maps decide; what sort() ordered stays so.
func (c *logqlCase) normal(a answer) string {
	// Of several entries with errors, Loki names one by chance.
	if before, after, ok := strings.Cut(a.body, " for series: '"); ok {
		_, after, _ = strings.Cut(after, "'.\n")
		a.body = before + after
	}
	if a.code != http.StatusOK {
		return strconv.Itoa(a.code) + " " + strings.TrimSpace(a.body)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		return "not JSON: " + a.body
	}
	if data, ok := v["data"].(map[string]any); ok {
		delete(data, "stats")
		if list, ok := data["result"].([]any); ok && data["resultType"] != "scalar" && !strings.HasPrefix(c.params.Get("query"), "sort") {
			sortJSON(list)
		}
	}
	for _, list := range v {
		if l, ok := list.([]any); ok {
			sortJSON(l)
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func sortJSON(list []any) {
	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		return string(b)
	}
	slices.SortFunc(list, func(a, b any) int { return strings.Compare(text(a), text(b)) })
}

// sameNumbers reports whether two texts are equal but for numbers that differ
// by a part of their size.
func sameNumbers(a, b string, part float64) bool {
	x, y := strings.Split(a, `"`), strings.Split(b, `"`)
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i] == y[i] {
			continue
		}
		f, err1 := strconv.ParseFloat(x[i], 64)
		g, err2 := strconv.ParseFloat(y[i], 64)
		if err1 != nil || err2 != nil || math.Abs(f-g) > part*math.Max(math.Abs(f), math.Abs(g)) {
			return false
		}
	}
	return true
}

// precision is how near numbers have to be. Loki adds the values of series in
// an order that maps decide, so that last digits differ. Volumes are estimates,
// and a sixth of the entries is twice in loki-go here.
func (c *logqlCase) precision() float64 {
	if strings.HasPrefix(c.path, "index/volume") {
		return 0.4
	}
	return 1e-12
}

// TestLogQLLikeLoki puts the same lines into loki-go and into stock Loki, and
// compares the answers to the queries of testdata/logql.txt.
func TestLogQLLikeLoki(t *testing.T) {
	ctx := context.Background()
	start := time.Now().Add(-90 * time.Minute).Truncate(10 * time.Minute).UnixNano()
	streams := logqlData(start)

	s := testkit.NewServer(t, t.TempDir(), "-limits.discover-service-name=")
	s.Start()
	loki := startWholeLoki(t)
	s.WaitReady()
	if err := (&testkit.Client{Base: loki}).Push(ctx, streams); err != nil {
		t.Fatal(err)
	}
	// A part is stored, a part in memory, and some entries are there twice.
	var early, late []testkit.Stream
	for _, st := range streams {
		n := len(st.Entries)
		early = append(early, testkit.Stream{Labels: st.Labels, Entries: st.Entries[:n*2/3]})
		late = append(late, testkit.Stream{Labels: st.Labels, Entries: st.Entries[n/2:]})
	}
	c := s.Client("")
	if err := c.Push(ctx, early); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Push(ctx, late); err != nil {
		t.Fatal(err)
	}
	compareLogql(t, "http://"+s.HTTP, loki, start)
}

func compareLogql(t *testing.T, ours, loki string, start int64) {
	cases := readLogqlCases(t, start)
	type pair struct{ got, want string }
	answers := make([]pair, len(cases))
	var g errgroup.Group
	g.SetLimit(4)
	for i := range cases {
		g.Go(func() error {
			c := &cases[i]
			got, err := c.ask(ours)
			if err != nil {
				return fmt.Errorf("%s: loki-go: %w", c.text, err)
			}
			want, err := c.ask(loki)
			if err != nil {
				return fmt.Errorf("%s: loki: %w", c.text, err)
			}
			answers[i] = pair{c.normal(got), c.normal(want)}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	equal, digits, known := 0, 0, 0
	for i, c := range cases {
		got, want := answers[i].got, answers[i].want
		switch {
		case got == want && c.known != "":
			t.Errorf("%s:\nis not known to differ any more", c.text)
		case got == want:
			equal++
		case c.known != "":
			known++
		case sameNumbers(got, want, c.precision()):
			digits++
		default:
			t.Errorf("%s:\n ours %s\n loki %s", c.text, around(got, want), around(want, got))
		}
	}
	t.Logf("%d queries: %d answers equal, %d equal but for the precision of numbers, %d known to differ", len(cases), equal, digits, known)
}

// around returns the part of a long text where it differs from another.
func around(s, other string) string {
	i := 0
	for i < len(s) && i < len(other) && s[i] == other[i] {
		i++
	}
	from, to := max(i-150, 0), min(i+250, len(s))
	return fmt.Sprintf("(%d bytes, differs at %d) %s", len(s), i, s[from:to])
}

// TestLogcliTail follows lines with Loki's own client.
func TestLogcliTail(t *testing.T) {
	s := testkit.NewServer(t, t.TempDir())
	s.Start()
	s.WaitReady()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool(t, "logcli"), "--addr=http://"+s.HTTP, "--quiet", "query", "--tail", "--output=raw", `{app="tail"} | logfmt | level="error"`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for i := range 3 {
		st := testkit.Stream{Labels: []testkit.Pair{{Name: "app", Value: "tail"}}}
		for k, level := range []string{"info", "error"} {
			st.Entries = append(st.Entries, testkit.Entry{TS: time.Now().UnixNano() + int64(k), Line: fmt.Sprintf("level=%s n=%d", level, i)})
		}
		if err := s.Client("").Push(ctx, []testkit.Stream{st}); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != fmt.Sprintf("level=error n=%d", i) {
			t.Fatalf("got %q, %v; logcli printed:\n%s", lines.Text(), lines.Err(), log.String())
		}
	}
	// A server that stops does not wait for those who follow.
	if err := s.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = cmd.Wait()
}
