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
// make answers faster, or add labels of streams, is off.
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
  {reject_old_samples: false, volume_enabled: true, discover_service_name: [], max_query_length: 721h, {{.Limits}}}
`))

func startWholeLoki(t *testing.T) string {
	base, _ := startLokiWithGRPC(t, "")
	return base
}

// startLokiWithGRPC is startWholeLoki that says where gRPC is, too, and has more
// limits.
func startLokiWithGRPC(t *testing.T, limits string) (base, grpc string) {
	t.Helper()
	dir := t.TempDir()
	port, grpcPort := testkit.FreePort(t), testkit.FreePort(t)
	var conf bytes.Buffer
	if err := wholeLoki.Execute(&conf, map[string]any{"HTTP": port, "GRPC": grpcPort, "Dir": dir, "Limits": limits}); err != nil {
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
	base = "http://127.0.0.1:" + strconv.Itoa(port)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := (&testkit.Client{Base: base}).Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return base, "127.0.0.1:" + strconv.Itoa(grpcPort)
}

// logqlCase is a query that both are asked.
type logqlCase struct{ testkit.LogQLCase }

type answer struct {
	code int
	body string
}

func (c *logqlCase) ask(base string) (answer, error) {
	req, err := http.NewRequest(http.MethodGet, base+"/loki/api/v1/"+c.Path+"?"+c.Params.Encode(), nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("X-Loki-Response-Encoding-Flags", c.Flags)
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
		if list, ok := data["result"].([]any); ok && data["resultType"] != "scalar" && !strings.HasPrefix(c.Params.Get("query"), "sort") {
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
	if strings.HasPrefix(c.Path, "index/volume") {
		return 0.4
	}
	return 1e-12
}

// TestLogQLLikeLoki puts the same lines into loki-go and into stock Loki, and
// compares the answers to the queries of testdata/logql.txt.
func TestLogQLLikeLoki(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	start := time.Now().Add(-90 * time.Minute).Truncate(10 * time.Minute).UnixNano()
	streams := testkit.LogQLStreams(start)

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
	cases, err := testkit.ReadLogQLCases("testdata", start)
	if err != nil {
		t.Fatal(err)
	}
	type pair struct{ got, want string }
	answers := make([]pair, len(cases))
	var g errgroup.Group
	g.SetLimit(4)
	for i := range cases {
		g.Go(func() error {
			c := logqlCase{cases[i]}
			got, err := c.ask(ours)
			if err != nil {
				return fmt.Errorf("%s: loki-go: %w", c.Text, err)
			}
			want, err := c.ask(loki)
			if err != nil {
				return fmt.Errorf("%s: loki: %w", c.Text, err)
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
		case got == want && c.Known != "":
			t.Errorf("%s:\nis not known to differ any more", c.Text)
		case got == want:
			equal++
		case c.Known != "":
			known++
		case sameNumbers(got, want, (&logqlCase{c}).precision()):
			digits++
		default:
			t.Errorf("%s:\n ours %s\n loki %s", c.Text, around(got, want), around(want, got))
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
