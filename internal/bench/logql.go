package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
)

// lokiConfig is the read path of stock Loki as it comes, but for the cache of
// results, which would answer a query that is put again.
var lokiConfig = template.Must(template.New("").Parse(`
auth_enabled: false
target: querier,query-frontend,query-scheduler
analytics: {reporting_enabled: false}
server:
  http_listen_address: 127.0.0.1
  http_listen_port: {{.HTTP}}
  grpc_listen_address: 127.0.0.1
  grpc_listen_port: {{.GRPC}}
  http_server_read_timeout: 10m
  http_server_write_timeout: 10m
  log_level: error
common:
  instance_addr: 127.0.0.1
  compactor_grpc_address: 127.0.0.1:1
  path_prefix: {{.Dir}}
  replication_factor: 1
  ring: {instance_addr: 127.0.0.1, kvstore: {store: inmemory}}
storage_config:
  use_thanos_objstore: true
  object_store:
    s3: {endpoint: "{{.S3}}", insecure: true, bucket_name: {{.Bucket}}, region: {{.Region}}, access_key_id: {{.Access}}, secret_access_key: {{.Secret}}, bucket_lookup_type: path}
  tsdb_shipper: {cache_location: {{.Dir}}/tsdb-cache, active_index_directory: {{.Dir}}/tsdb-active}
schema_config:
  configs:
    - {from: 2020-01-01, store: tsdb, object_store: s3, schema: v13, index: {prefix: index_, period: 24h}}
querier: {query_store_only: true}
query_range: {cache_results: false}
frontend: {scheduler_dns_lookup_period: 200ms}
frontend_worker: {dns_lookup_duration: 200ms}
limits_config: {query_timeout: 10m}
`))

// startLoki starts stock Loki on the bucket of store.
func (r *Run) startLoki(ctx context.Context, store *s3, tools string) (*server, error) {
	dir, err := os.MkdirTemp(r.Dir, "loki-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	if s.http, err = freeAddr(); err != nil {
		return nil, err
	}
	grpc, err := freeAddr()
	if err != nil {
		return nil, err
	}
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	var conf bytes.Buffer
	if err := lokiConfig.Execute(&conf, map[string]string{
		"HTTP": port(s.http), "GRPC": port(grpc), "Dir": dir, "S3": strings.TrimPrefix(store.url, "http://"),
		"Bucket": s3Bucket, "Region": s3Region, "Access": s3Access, "Secret": s3Secret,
	}); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "loki.yaml")
	if err := os.WriteFile(file, conf.Bytes(), 0o600); err != nil {
		return nil, err
	}
	program, err := filepath.Abs(filepath.Join(tools, "loki"))
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(program, "-config.file="+file)
	s.cmd.Dir = dir
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (make tools builds it)", err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if resp, err := http.Get("http://" + s.http + "/ready"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			s.stop()
			return nil, fmt.Errorf("loki is not ready:\n%s", s.log.String())
		}
	}
}

const (
	logqlParts = 12              // pieces of the time that is asked for
	logqlPart  = 5 * time.Minute // between the starts of two pieces
	jsonApp    = 1               // the program of loglines that writes JSON
)

// LogQL fills a bucket of an S3 service with the lines of spec twice: those of
// all programs, and those of one that writes JSON. Then loki-go and stock Loki
// answer the same queries from it. All of an hour is asked for, and each query
// has to look at every line. A server is cold when it has just started, and
// warm when it has answered the query once. The answers are compared.
func (r *Run) LogQL(ctx context.Context, spec Spec, tools string) error {
	dir, err := os.MkdirTemp(r.Dir, "s3-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := startS3(ctx, tools, dir)
	if err != nil {
		return err
	}
	defer store.stop()
	const span = logqlParts * logqlPart
	end := time.Now().Add(-10 * time.Minute).Truncate(logqlPart)
	mixed, js := end.Add(-2*span-logqlPart), end.Add(-span)
	rawMixed, err := r.fill(ctx, store, spec, logqlParts, mixed, logqlPart)
	if err != nil {
		return err
	}
	spec.App = loglines.AppName(jsonApp)
	rawJSON, err := r.fill(ctx, store, spec, logqlParts, js, logqlPart)
	if err != nil {
		return err
	}
	stored, err := DirSize(dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.Out, "bucket: %.2f GB of lines of all programs, %.2f GB of JSON, %d streams each over %v, stored in %.1f MB\n",
		float64(rawMixed)/1e9, float64(rawJSON)/1e9, spec.Streams, span, float64(stored)/1e6)
	fmt.Fprintf(r.Out, "%-61s %-5s %9s %9s %9s %9s %8s %7s %7s\n", "", "", "wall s", "CPU s", "Loki wall", "Loki CPU", "CPU/Loki", "RSS MB", "Loki MB")
	for _, q := range []struct {
		name, query string
		from        time.Time
	}{
		{`all |= "needle"`, `{job="bench"} |= "no such needle"`, mixed},
		{`all |~ "(?i)haystack|needle at all"`, `{job="bench"} |~ "(?i)haystack|needle at all"`, mixed},
		{`all != "=" != ":" (every line has one)`, `{job="bench"} != "=" != ":"`, mixed},
		{`all | logfmt | status>=500 and duration>1h`, `{job="bench"} | logfmt | status >= 500 and duration > 1h`, mixed},
		{`JSON | json | user="x"`, `{job="bench"} | json | user="nobody at all"`, js},
		{`JSON | json | status>=500 and duration_ms>1e9`, `{job="bench"} | json | status >= 500 and duration_ms > 1e9`, js},
		{`sum by (level) (count_over_time(JSON | json [1m]))`, `sum by (level) (count_over_time({job="bench"} | json [1m]))`, js},
		{`sum by (app) (count_over_time(all |= "error" [1m]))`, `sum by (app) (count_over_time({job="bench"} |= "error" [1m]))`, mixed},
		{`topk(1, sum by (method) (count_over_time(JSON | json | ..)))`, `topk(1, sum by (method) (count_over_time({job="bench"} | json | status >= 500 [5m])))`, js},
		{`max_over_time(JSON | json | unwrap .. [1m]) by (method)`, `max_over_time({job="bench"} | json | __error__="" | unwrap duration_ms [1m]) by (method)`, js},
		{`quantile_over_time(.99, JSON | json | unwrap .. [5m]) by ..`, `quantile_over_time(0.99, {job="bench"} | json | __error__="" | unwrap duration_ms [5m]) by (method)`, js},
	} {
		v := url.Values{
			"query": {q.query}, "limit": {"1000"}, "step": {"60"},
			"start": {strconv.FormatInt(q.from.UnixNano(), 10)}, "end": {strconv.FormatInt(q.from.Add(span).UnixNano(), 10)},
		}
		if err := r.both(ctx, store, tools, q.name, "/loki/api/v1/query_range?"+v.Encode()); err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
	}
	return nil
}

// both puts a query to loki-go and to Loki, and prints what it cost.
func (r *Run) both(ctx context.Context, store *s3, tools, name, path string) error {
	ours, err := r.start(ctx, store.args()...)
	if err != nil {
		return err
	}
	defer ours.stop()
	loki, err := r.startLoki(ctx, store, tools)
	if err != nil {
		return err
	}
	defer loki.stop()
	for _, state := range []string{"cold", "warm"} {
		a, err := ours.ask(ctx, path)
		if err != nil {
			return fmt.Errorf("loki-go: %w\n%s", err, ours.log.String())
		}
		b, err := loki.ask(ctx, path)
		if err != nil {
			return fmt.Errorf("loki: %w\n%s", err, loki.log.String())
		}
		if !maps.Equal(a.sums, b.sums) {
			return fmt.Errorf("the answers differ: %.2000s, Loki's are %.2000s", fmt.Sprint(a.sums), fmt.Sprint(b.sums))
		}
		fmt.Fprintf(r.Out, "%-61s %-5s %9.2f %9.2f %9.2f %9.2f %7.2fx %7.0f %7.0f\n", name, state, a.seconds, a.cpu, b.seconds, b.cpu, a.cpu/b.cpu,
			float64(a.peak)/1e6, float64(b.peak)/1e6)
	}
	return nil
}

// asked is an answer and its cost.
type asked struct {
	seconds, cpu float64
	peak         int64              // RSS since the server started, bytes
	sums         map[string]float64 // by series: the values, or the entries
}

func (s *server) ask(ctx context.Context, path string) (a asked, err error) {
	before, err := ReadUsage(s.cmd.Process.Pid)
	if err != nil {
		return a, err
	}
	begin := time.Now()
	body, err := s.get(ctx, path)
	if err != nil {
		return a, err
	}
	a.seconds = time.Since(begin).Seconds()
	after, err := ReadUsage(s.cmd.Process.Pid)
	if err != nil {
		return a, err
	}
	a.cpu, a.peak = after.CPU-before.CPU, after.PeakRSS
	a.sums, err = sums([]byte(body))
	return a, err
}

// sums adds up the values of each series of an answer to a range query, and
// counts the entries of each stream.
func sums(body []byte) (map[string]float64, error) {
	var v struct {
		Data struct {
			ResultType string
			Result     []struct {
				Metric, Stream map[string]string
				Values         [][]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for _, s := range v.Data.Result {
		labels := s.Metric
		if v.Data.ResultType == "streams" {
			labels = s.Stream
		}
		key, sum := fmt.Sprint(labels), float64(len(s.Values))
		if v.Data.ResultType == "matrix" {
			sum = 0
			for _, p := range s.Values {
				if len(p) != 2 {
					return nil, fmt.Errorf("a point of %d parts in the answer", len(p))
				}
				var text string
				if err := json.Unmarshal(p[1], &text); err != nil {
					return nil, err
				}
				f, err := strconv.ParseFloat(text, 64)
				if err != nil {
					return nil, err
				}
				sum += f
			}
		}
		out[key] += sum
	}
	return out, nil
}
