//go:build integration

package elasticsearch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/proto/push"
)

// Real clients against a receiver in this process: Elastic's Go client
// (tools/esclient), rsyslog of Debian, and Fluent Bit where FLUENT_BIT names it.

const clientTime = 60 * time.Second

// moody is a sink that refuses its first pushes in a way that a client has to
// repeat, and then some lines for good.
func moody(failures int32) *sink {
	var n atomic.Int32
	refuse := rejectEvery(map[string]push.Reason{"line 7": push.TooOld, "line 99": push.LineTooLong})
	return &sink{changed: make(chan struct{}, 1), answer: func(b *push.Batch) error {
		if n.Add(1) <= failures {
			return push.Errorf(push.Overloaded, "come again")
		}
		return refuse(b)
	}}
}

func serve(t *testing.T, s *sink) *httptest.Server {
	t.Helper()
	h := mux(newReceiver(t, s, nil))
	var mu sync.Mutex
	var seen []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		seen = append(seen, req.Method+" "+req.URL.String()+" of "+req.UserAgent())
		mu.Unlock()
		h.ServeHTTP(w, req)
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%d requests, at first %q", len(seen), seen[:min(len(seen), 20)])
		}
	})
	return srv
}

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("%s:\n%s", name, out.String())
		}
	})
}

// wait waits until n different lines are stored and returns how often each is.
func (s *sink) wait(t *testing.T, n int) map[string]int {
	t.Helper()
	deadline := time.After(clientTime)
	for {
		lines := map[string]int{}
		s.mu.Lock()
		for _, e := range s.entries {
			lines[e.line]++
		}
		s.mu.Unlock()
		if len(lines) >= n {
			return lines
		}
		select {
		case <-s.changed:
		case <-deadline:
			t.Fatalf("%d of %d lines are stored", len(lines), n)
		}
	}
}

// numbered writes a file of n lines.
func numbered(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	path := filepath.Join(t.TempDir(), "app.log")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// expect demands every line but those that moody refuses.
func expect(t *testing.T, lines map[string]int, n int) {
	t.Helper()
	for i := range n {
		line := fmt.Sprintf("line %d", i)
		want := 1
		if i == 7 || i == 99 {
			want = 0
		}
		if lines[line] != want {
			t.Errorf("%s is stored %d times, want %d", line, lines[line], want)
		}
	}
}

func TestElasticClient(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "esclient")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Dir = "../../tools/esclient"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build esclient: %v\n%s", err, out)
	}
	s := moody(0)
	out, err := exec.Command(bin, "-address", serve(t, s).URL, "-n", "1000").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got struct {
		Version, Document string
		Indexed, Failed   int
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// It is told of the two that are refused.
	if got.Version != DefaultConfig().Version || got.Document != "created" || got.Indexed != 997 || got.Failed != 2 {
		t.Errorf("the client says %s", out)
	}
	expect(t, s.wait(t, 998), 1000)
	for _, e := range s.entries {
		if want := "logs-bulk"; e.line != "line 0" && e.meta["_index"] != want {
			t.Fatalf("%v", e)
		}
	}
}

// rsyslog of Debian drops what gets an error for an answer.
func TestRsyslog(t *testing.T) {
	for _, bulkmode := range []string{"on", "off"} {
		t.Run("bulkmode_"+bulkmode, func(t *testing.T) {
			const n = 200
			s := moody(3)
			srv := serve(t, s)
			dir := t.TempDir()
			conf := fmt.Sprintf(`
global(workDirectory=%[1]q)
module(load="imfile")
module(load="omelasticsearch")
template(name="doc" type="list" option.jsonf="on") {
	property(outname="@timestamp" name="timegenerated" dateFormat="rfc3339" format="jsonf")
	property(outname="message" name="msg" format="jsonf")
	property(outname="tag" name="syslogtag" format="jsonf")
}
ruleset(name="out") {
	action(type="omelasticsearch" server="127.0.0.1" serverport=%[2]q searchIndex="rsyslog" template="doc"
		bulkmode=%[3]q queue.type="LinkedList" queue.dequeueBatchSize="50"
		action.resumeRetryCount="-1" action.resumeInterval="1" errorfile="%[1]s/errors.json")
}
input(type="imfile" file=%[4]q tag="app" ruleset="out")
`, dir, srv.URL[strings.LastIndexByte(srv.URL, ':')+1:], bulkmode, numbered(t, n))
			path := filepath.Join(dir, "rsyslog.conf")
			if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
				t.Fatal(err)
			}
			start(t, "rsyslogd", "-n", "-f", path, "-i", filepath.Join(dir, "pid"))
			expect(t, s.wait(t, n-2), n)
			for _, e := range s.entries {
				if e.meta["_index"] != "rsyslog" || e.meta["tag"] != "app" || time.Since(time.Unix(0, e.ts)) > time.Hour {
					t.Fatalf("%v", e)
				}
			}
			if p, err := os.ReadFile(dir + "/errors.json"); err == nil {
				t.Errorf("rsyslog dropped something: %s", p)
			}
		})
	}
}

func TestFluentBit(t *testing.T) {
	bin := os.Getenv("FLUENT_BIT")
	if bin == "" {
		t.Log("FLUENT_BIT names no binary")
		return
	}
	const n = 2000
	s := moody(2)
	srv := serve(t, s)
	dir := t.TempDir()
	conf := fmt.Sprintf(`
service:
  flush: 0.2
  grace: 2
  log_level: info
  scheduler.base: 1
  scheduler.cap: 1
pipeline:
  inputs:
    - name: tail
      path: %s
      tag: app
      read_from_head: on
  outputs:
    - name: es
      match: '*'
      host: 127.0.0.1
      port: %s
      index: fluent
      suppress_type_name: on
      generate_id: on
      compress: gzip
      retry_limit: no_limits
`, numbered(t, n), srv.URL[strings.LastIndexByte(srv.URL, ':')+1:])
	path := filepath.Join(dir, "fluent-bit.yaml")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, bin, "-c", path)
	expect(t, s.wait(t, n-2), n)
	for _, b := range s.batches {
		if !b.KeepRefused || b.ID == (push.ID{}) {
			t.Fatalf("%+v", b)
		}
	}
}
