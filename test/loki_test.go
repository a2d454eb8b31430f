//go:build integration

package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
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

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/internal/testkit/s3server"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/s3"
)

// tool returns the path of a program that `make tools` builds.
func tool(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("LOKI_GO_TOOLS")
	if dir == "" {
		t.Fatal("LOKI_GO_TOOLS does not name the directory of loki and logcli: use make integration")
	}
	return filepath.Join(dir, name)
}

var lokiConfig = template.Must(template.New("").Parse(`
auth_enabled: true
target: querier,query-frontend,query-scheduler
analytics: {reporting_enabled: false}
server: {http_listen_address: 127.0.0.1, http_listen_port: {{.HTTP}}, grpc_listen_address: 127.0.0.1, grpc_listen_port: {{.GRPC}}, log_level: warn}
common:
  instance_addr: 127.0.0.1
  compactor_grpc_address: 127.0.0.1:1
  path_prefix: {{.Dir}}
  replication_factor: 1
  ring: {instance_addr: 127.0.0.1, kvstore: {store: inmemory}}
storage_config:
  use_thanos_objstore: true
  object_store:
    {{.Store.YAML}}
  tsdb_shipper:
    cache_location: {{.Dir}}/tsdb-cache
    active_index_directory: {{.Dir}}/tsdb-active
    resync_interval: 5s
schema_config:
  configs:
    - {from: 2020-01-01, store: tsdb, object_store: {{.Store.Type}}, schema: v13, index: {prefix: index_, period: 24h}}
querier: {query_store_only: true}
# Else the parts find each other only after ten seconds.
frontend: {scheduler_dns_lookup_period: 200ms}
frontend_worker: {dns_lookup_duration: 200ms}
limits_config: {max_query_length: 0, volume_enabled: true}
`))

// bucket is an object store as loki-go and stock Loki name it.
type bucket struct {
	Type string
	YAML string   // for Loki
	Args []string // for loki-go
	Open func(t *testing.T) objstore.Bucket
}

func filesystemBucket(dataDir string) bucket {
	objects := filepath.Join(dataDir, "objects")
	return bucket{
		Type: "filesystem",
		YAML: "filesystem: {dir: " + objects + "}",
		Open: func(t *testing.T) objstore.Bucket {
			t.Helper()
			b, err := objstore.OpenFilesystem(vfs.OS, objects)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			return b
		},
	}
}

func s3Bucket(s *s3server.Server, name string) bucket {
	return bucket{
		Type: "s3",
		YAML: fmt.Sprintf("s3: {endpoint: %s, insecure: true, bucket_name: %s, region: %s, access_key_id: %s, secret_access_key: %s, bucket_lookup_type: path}",
			strings.TrimPrefix(s.URL, "http://"), name, s3server.Region, s3server.AccessKey, s3server.SecretKey),
		Args: []string{
			"-storage.type=s3", "-storage.s3.endpoint=" + s.URL, "-storage.s3.bucket=" + name, "-storage.s3.region=" + s3server.Region,
			"-storage.s3.access-key=" + s3server.AccessKey, "-storage.s3.secret-key=" + s3server.SecretKey, "-storage.s3.path-style=true",
		},
		Open: func(t *testing.T) objstore.Bucket {
			t.Helper()
			c := s3.DefaultConfig()
			c.Endpoint, c.Bucket, c.PathStyle = s.URL, name, true
			c.AccessKey, c.SecretKey = s3server.AccessKey, s3server.SecretKey
			b, err := s3.Open(context.Background(), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			return objstore.Resilient(b, objstore.DefaultRetryConfig(), nil)
		},
	}
}

// startLoki starts the read path of stock Loki on a bucket and returns its URL.
func startLoki(t *testing.T, store bucket) string {
	t.Helper()
	return runLoki(t, lokiConfig, store).url
}

// lokiProcess is a stock Loki.
type lokiProcess struct {
	url, dir string
	done     chan struct{} // closed when it has ended
}

// runLoki starts stock Loki and waits until it is ready.
func runLoki(t *testing.T, config *template.Template, store bucket) lokiProcess {
	t.Helper()
	dir := t.TempDir()
	http := testkit.FreePort(t)
	var conf bytes.Buffer
	if err := config.Execute(&conf, map[string]any{"HTTP": http, "GRPC": testkit.FreePort(t), "Dir": dir, "Store": store}); err != nil {
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
	l := lokiProcess{url: "http://127.0.0.1:" + strconv.Itoa(http), dir: dir, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // killed, or asked to end
		close(l.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-l.done
		if t.Failed() {
			t.Logf("loki printed:\n%s", log.String())
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := (&testkit.Client{Base: l.url}).Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return l
}

// lateBy is how far the last lines of a corpus are behind the others: more
// than an open chunk takes.
const lateBy = 90 * time.Minute

// corpus makes streams for one codec and tenant: programs of different kinds,
// metadata on some lines, entries out of order, of equal times and far too
// late, lines of no bytes and of many, odd bytes. It begins lateBy before start.
func corpus(codec, tenant string, start int64) []testkit.Stream {
	var out []testkit.Stream
	gen := loglines.New(uint64(crc32.ChecksumIEEE([]byte(tenant + "/" + codec))))
	for app := range 6 {
		s := testkit.Stream{Labels: []testkit.Pair{
			{Name: "app", Value: loglines.AppName(app)},
			{Name: "codec", Value: codec},
			{Name: "odd", Value: "quote \" and \\ and ünï"},
			{Name: "service_name", Value: "svc"},
		}}
		for i := range 700 {
			ts := start + int64(i)*1e9 + int64(app)
			switch {
			case i%50 == 49:
				ts -= 20e9
			case i%40 == 1:
				ts -= 1e9 // equal to the one before
			case i >= 660:
				ts -= int64(lateBy)
			}
			e := testkit.Entry{TS: ts, Line: string(gen.AppendLine(nil, app, ts))}
			switch {
			case i%97 == 0:
				e.Line = ""
			case i%97 == 1:
				e.Line = "tabs\tand\nnewlines and \"quotes\" ünïcödé 日本語 \U0001f600 " + tenant
			case i == 123+app:
				e.Line = string(bytes.Repeat([]byte(e.Line), 100<<10/len(e.Line)))
			}
			if i%3 == 0 {
				e.Meta = []testkit.Pair{{Name: "pod", Value: fmt.Sprintf("pod-%d-ü", i%7)}, {Name: "trace_id", Value: fmt.Sprintf("%032x", i)}}
			}
			s.Entries = append(s.Entries, e)
		}
		out = append(out, s)
	}
	return out
}

// flat is every entry of streams as text, sorted.
func flat(streams []testkit.Stream) []string {
	var out []string
	for _, s := range streams {
		for _, e := range s.Entries {
			out = append(out, fmt.Sprintf("%s %d %q %v", testkit.LabelText(s.Labels), e.TS, e.Line, e.Meta))
		}
	}
	slices.Sort(out)
	return out
}

func compare(t *testing.T, what string, got, want []testkit.Stream) {
	t.Helper()
	a, b := flat(got), flat(want)
	if slices.Equal(a, b) {
		return
	}
	t.Errorf("%s: %d entries, want %d", what, len(a), len(b))
	shown := 0
	for i := 0; i < len(a) && i < len(b) && shown < 3; i++ {
		if a[i] != b[i] {
			t.Errorf("got  %s\nwant %s", a[i], b[i])
			shown++
		}
	}
}

// TestS3Outage pushes while the store is gone, at the start too: everything is
// taken, and stored when it is back.
func TestS3Outage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	store := s3server.New(t, "logs")
	store.Kill()
	s := testkit.NewServer(t, t.TempDir(), append([]string{"-auth.enabled=true", "-storage.requests.attempts=2"}, s3Bucket(store, "logs").Args...)...)
	s.Start()
	s.WaitReady()
	start := time.Now().Add(-time.Hour).Truncate(time.Second).UnixNano()
	want := corpus("zstd", "team-a", start)
	if err := s.Client("team-a").Push(ctx, want); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client("").Do(ctx, "POST", "/flush", "", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a failed upload", func() bool { return strings.Contains(s.Output(), "storing a chunk failed") })
	s.Kill()
	s.Start()
	s.WaitReady()
	store.Start()
	if err := s.Client("").Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	// A new process has nothing but the bucket.
	s = testkit.NewServer(t, t.TempDir(), s.Args...)
	s.Start()
	s.WaitReady()
	got, err := s.Client("team-a").QueryAll(ctx, `{codec="zstd"}`, start-int64(lateBy), time.Now().UnixNano())
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "from the bucket alone", got, want)
}

// TestS3Misconfigured: the process does not start and says what to mend.
func TestS3Misconfigured(t *testing.T) {
	store := s3server.New(t, "logs")
	s := testkit.NewServer(t, t.TempDir(), s3Bucket(store, "missing").Args...)
	s.Start()
	if err := s.Wait(30 * time.Second); err == nil || !strings.Contains(s.Output(), "create the bucket missing or correct storage.s3.bucket") {
		t.Fatalf("%v\n%s", err, s.Output())
	}
}

// logcli runs Loki's command line client against a server.
func logcli(t *testing.T, s *testkit.Server, args ...string) string {
	t.Helper()
	cmd := exec.Command(tool(t, "logcli"), args...)
	cmd.Env = append(os.Environ(), "LOKI_ADDR=http://"+s.HTTP, "LOKI_ORG_ID=team-a")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("logcli %v: %v\n%s", args, err, stderr.String())
	}
	return string(out)
}

// TestLogcliReadsFromUs: Loki's own client sees labels, series and every line,
// from memory and from the store.
func TestLogcliReadsFromUs(t *testing.T) {
	s := testkit.NewServer(t, t.TempDir(), "-auth.enabled=true")
	s.Start()
	s.WaitReady()
	ctx := context.Background()
	start := time.Now().Add(-time.Hour).Truncate(time.Second).UnixNano()
	streams := corpus("zstd", "team-a", start)
	if err := s.Client("team-a").Push(ctx, streams); err != nil {
		t.Fatal(err)
	}
	from, to := time.Unix(0, start).Add(-lateBy).UTC().Format(time.RFC3339), time.Now().Add(time.Minute).UTC().Format(time.RFC3339)
	check := func(when string) {
		t.Helper()
		if got := strings.Fields(logcli(t, s, "labels", "--quiet", "--from="+from, "--to="+to)); !slices.Equal(got, []string{"app", "codec", "odd", "service_name"}) {
			t.Errorf("%s: labels %q", when, got)
		}
		if got := strings.Fields(logcli(t, s, "labels", "app", "--quiet", "--from="+from, "--to="+to)); len(got) != 6 {
			t.Errorf("%s: values of app %q", when, got)
		}
		if got := strings.Count(logcli(t, s, "series", "--quiet", "--from="+from, "--to="+to, `{codec="zstd"}`), "\n"); got != 6 {
			t.Errorf("%s: %d series", when, got)
		}
		for _, s2 := range streams {
			query := fmt.Sprintf(`{app=%q}`, s2.Labels[0].Value)
			out := logcli(t, s, "query", "--quiet", "--limit=0", "--batch=300", "--forward", "--output=jsonl", "--from="+from, "--to="+to, query)
			compare(t, when+": "+query, parseJSONL(t, out), []testkit.Stream{{Entries: withoutMeta(s2.Entries)}})
		}
		want := 0
		for _, s2 := range streams {
			for _, e := range s2.Entries {
				if strings.Contains(e.Line, "ünï") {
					want++
				}
			}
		}
		out := logcli(t, s, "query", "--quiet", "--limit=4000", "--output=jsonl", "--from="+from, "--to="+to, `{codec="zstd"} |= "ünï" != "nothing"`)
		if got := strings.Count(out, "\n"); got != want || want == 0 {
			t.Errorf("%s: filter finds %d lines, want %d", when, got, want)
		}
	}
	check("from memory")
	if err := s.Client("").Flush(ctx); err != nil {
		t.Fatal(err)
	}
	check("after a flush")
	s.Kill()
	s.Start()
	s.WaitReady()
	check("after a kill")
}

func withoutMeta(entries []testkit.Entry) []testkit.Entry {
	out := slices.Clone(entries)
	for i := range out {
		out[i].Meta = nil
	}
	return out
}

func parseJSONL(t *testing.T, text string) []testkit.Stream {
	t.Helper()
	var s testkit.Stream
	for line := range strings.Lines(text) {
		var v struct {
			Line      string
			Timestamp time.Time
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("logcli printed %q: %v", line, err)
		}
		s.Entries = append(s.Entries, testkit.Entry{TS: v.Timestamp.UnixNano(), Line: v.Line})
	}
	return []testkit.Stream{s}
}

// TestExamples runs the examples that need nothing but curl and logcli.
func TestExamples(t *testing.T) {
	s := testkit.NewServer(t, t.TempDir())
	s.Start()
	s.WaitReady()
	run := func(script string) string {
		t.Helper()
		cmd := exec.Command("sh", filepath.Join("..", "examples", script))
		cmd.Env = append(os.Environ(), "LOKI_URL=http://"+s.HTTP, "PATH="+os.Getenv("LOKI_GO_TOOLS")+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	if got := run("curl/send.sh"); got != "push: 204\njson: 204\nlogstash: 204\n" {
		t.Errorf("send printed %q", got)
	}
	for _, script := range []string{"curl/read.sh", "logcli/read.sh"} {
		got := run(script)
		for _, want := range []string{"hello from curl", "hello from an event", "hello from logstash", "0af7651916cd43dd"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s does not print %q:\n%s", script, want, got)
			}
		}
	}
}
