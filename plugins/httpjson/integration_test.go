//go:build integration

package httpjson

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/proto/push"
)

// runFluentBit runs a Fluent Bit with a config until done, and ends it.
func runFluentBit(t *testing.T, bin, config string, done <-chan struct{}) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fluent-bit.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(bin, "-c", file)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-done:
	case err := <-ended:
		t.Fatalf("Fluent Bit ended: %v\n%s", err, &out)
	case <-time.After(time.Minute):
		t.Error("not everything has come within a minute")
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := <-ended; err != nil || t.Failed() {
		t.Fatalf("Fluent Bit: %v\n%s", err, &out)
	}
}

// gate lets the first pushes of each tenant fail, and tells when all is there.
type gate struct {
	sink
	mu      sync.Mutex
	refused map[string][]push.ID // by tenant
	ids     map[string][]push.ID
	lines   map[string][]string
	want    map[string]int
	done    chan struct{}
}

func newGate(want map[string]int) *gate {
	return &gate{refused: map[string][]push.ID{}, ids: map[string][]push.ID{}, lines: map[string][]string{}, want: want, done: make(chan struct{})}
}

// Push refuses the first two pushes of each tenant.
func (g *gate) push(b *push.Batch) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := b.Tenant
	if n := len(g.refused[name]); n < 2 {
		g.refused[name] = append(g.refused[name], b.ID)
		if n == 0 {
			return push.Errorf(push.DiskLow, "not now")
		}
		return push.Errorf(push.RateLimited, "too much")
	}
	var s sink
	_ = s.store(b)
	g.lines[name] = append(g.lines[name], s.entries...)
	g.ids[name] = append(g.ids[name], b.ID)
	for name, n := range g.want {
		if len(g.lines[name]) < n {
			return nil
		}
	}
	select {
	case <-g.done:
	default:
		close(g.done)
	}
	return nil
}

// TestFluentBit has a Fluent Bit send the same lines in every format with every
// compression, and in every format of time; each output is refused twice at
// first.
func TestFluentBit(t *testing.T) {
	bin := os.Getenv("FLUENT_BIT")
	if bin == "" {
		t.Log("FLUENT_BIT names no Fluent Bit to run")
		return
	}
	const lines = 200
	dir := t.TempDir()
	var log bytes.Buffer
	for i := range lines {
		fmt.Fprintf(&log, "line %d ünï \"quoted\" \\ 日本 😀\n", i)
	}
	log.WriteString("bad \xff( utf8\n")
	if err := os.WriteFile(dir+"/app.log", log.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	type output struct{ name, settings string }
	var outputs []output
	want := map[string]int{}
	add := func(name, settings string) {
		outputs = append(outputs, output{name, settings})
		want[name] = lines + 1
	}
	for _, format := range []string{"json", "json_lines", "json_stream", "msgpack"} {
		for _, compress := range []string{"", "gzip", "zstd", "snappy"} {
			settings := "format " + format + "\n"
			if compress != "" {
				settings += "    compress " + compress + "\n"
			}
			add(strings.Trim(format+"-"+compress, "-"), settings)
		}
	}
	for _, date := range []string{"double", "epoch", "epoch_ms", "iso8601", "java_sql_timestamp"} {
		add("date-"+date, "format json\n    json_date_format "+date+"\n")
	}
	g := newGate(want)
	g.answer = g.push
	srv := httptest.NewServer(mux(newReceiver(t, g, nil)))
	defer srv.Close()
	host, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	config := fmt.Sprintf(`[SERVICE]
    flush 0.2
    grace 5
    log_level warn
    scheduler.base 1
    scheduler.cap 1
[INPUT]
    name tail
    path %s/app.log
    tag app.web
    read_from_head on
`, dir)
	for _, o := range outputs {
		config += fmt.Sprintf(`[OUTPUT]
    name http
    match *
    host %s
    port %s
    uri /ingest/fluentbit
    header X-Scope-OrgID %s
    header_tag X-Tag
    retry_limit no_limits
    %s`, host, port, o.name, o.settings)
	}
	start := time.Now()
	runFluentBit(t, bin, config, g.done)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range outputs {
		got := g.lines[o.name]
		if len(got) != lines+1 {
			t.Errorf("%s: %d lines, want %d", o.name, len(got), lines+1)
			continue
		}
		seen := map[string]bool{}
		for i, e := range got {
			line := fmt.Sprintf("line %d ünï \"quoted\" \\ 日本 😀", i)
			if i == lines {
				line = "bad \ue0ff( utf8"
				if strings.HasPrefix(o.name, "msgpack") {
					line = "bad \xff( utf8"
				}
			}
			parts := strings.SplitN(e, " ", 3)
			var ts int64
			fmt.Sscan(parts[1], &ts)
			if age := time.Unix(0, ts).Sub(start); age < -2*time.Second || age > time.Minute {
				t.Errorf("%s: time %d", o.name, ts)
			}
			if want := line + " | tag=app.web"; parts[0] != `{job="fluentbit"}` || parts[2] != want || seen[e] {
				t.Errorf("%s: entry %d is %q, want %q", o.name, i, e, want)
				break
			}
			seen[e] = true
		}
		// What was refused came again, under the same id.
		for _, id := range g.refused[o.name] {
			if id == (push.ID{}) || id != g.ids[o.name][0] {
				t.Errorf("%s: refused %x, stored %x", o.name, g.refused[o.name], g.ids[o.name])
			}
		}
	}
}

// TestFluentBitExample runs the example.
func TestFluentBitExample(t *testing.T) {
	bin := os.Getenv("FLUENT_BIT")
	if bin == "" {
		t.Log("FLUENT_BIT names no Fluent Bit to run")
		return
	}
	config, err := os.ReadFile("../../examples/fluent-bit/http.conf")
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(map[string]int{"": 1})
	g.answer = g.push
	srv := httptest.NewServer(mux(newReceiver(t, g, nil)))
	defer srv.Close()
	host, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	t.Setenv("LOKI_HOST", host)
	t.Setenv("LOKI_PORT", port)
	// The example waits for longer before it tries again.
	runFluentBit(t, bin, strings.Replace(string(config), "[SERVICE]", "[SERVICE]\n    scheduler.base 1\n    scheduler.cap 1", 1), g.done)
	g.mu.Lock()
	defer g.mu.Unlock()
	parts := strings.SplitN(g.lines[""][0], " 1", 2)
	if want := `{job="fluentbit", service_name="example"}`; parts[0] != want || !strings.HasSuffix(parts[1], " hello from Fluent Bit | level=info | tag=example.dummy") {
		t.Fatalf("got %q", g.lines)
	}
}

// TestFluentBitGroup has a Fluent Bit pass on records of OTLP, as JSON and as
// MessagePack: both must become the same entries.
func TestFluentBitGroup(t *testing.T) {
	bin := os.Getenv("FLUENT_BIT")
	if bin == "" {
		t.Log("FLUENT_BIT names no Fluent Bit to run")
		return
	}
	g := newGate(map[string]int{"json": 3, "msgpack": 3})
	g.answer = g.push
	srv := httptest.NewServer(mux(newReceiver(t, g, nil)))
	defer srv.Close()
	host, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	in := l.Addr().String()
	_ = l.Close()
	_, inPort, _ := net.SplitHostPort(in)
	config := fmt.Sprintf("[SERVICE]\n    flush 0.2\n    log_level warn\n    scheduler.base 1\n    scheduler.cap 1\n[INPUT]\n    name forward\n    listen 127.0.0.1\n    port %s\n", inPort)
	for _, format := range []string{"json", "msgpack"} {
		config += fmt.Sprintf("[OUTPUT]\n    name http\n    match *\n    host %s\n    port %s\n    uri /ingest/fluentbit\n    header X-Scope-OrgID %s\n    format %[3]s\n    retry_limit no_limits\n", host, port, format)
	}
	var sent sync.WaitGroup
	sent.Go(func() { sendForward(t, in, otlpChunk()) })
	runFluentBit(t, bin, config, g.done)
	sent.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	want := []string{
		`{job="fluentbit"} 1790000000500000000 one | k=v | resource_schema_url=u | scope_name=lib | service_name=shop | severity_number=9` +
			` | span_id=00f067aa0ba902b7 | trace_id=4bf92f3577b34da6a3ce929d0e0e4736`,
		`{job="fluentbit"} 1790000001500000000 two | resource_schema_url=u | scope_name=lib | service_name=shop`,
		`{job="fluentbit"} 1790000002500000000 three`,
	}
	for name, got := range g.lines {
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s:\n got %q\nwant %q", name, got, want)
		}
	}
}

// otlpChunk is what Fluent Bit's OTLP input makes of two records, and one record
// of another input.
func otlpChunk() []byte {
	var b []byte
	str := func(list ...string) {
		for _, s := range list {
			b = append(append(b, 0xa0|byte(len(s))), s...)
		}
	}
	event := func(sec, ns uint32) {
		b = append(b, 0x92, 0x92, 0xd7, 0)
		b = binary.BigEndian.AppendUint32(b, sec)
		b = binary.BigEndian.AppendUint32(b, ns)
	}
	event(0xffffffff, 0)
	b = append(b, 0x81)
	str("schema", "otlp")
	b = append(b, 0x82)
	str("resource")
	b = append(b, 0x82)
	str("attributes")
	b = append(b, 0x81)
	str("service.name", "shop", "schema_url", "u", "scope")
	b = append(b, 0x81)
	str("name", "lib")
	event(1790000000, 500000000)
	b = append(b, 0x81)
	str("otlp")
	b = append(b, 0x84)
	str("severity_number")
	b = append(b, 9)
	str("attributes")
	b = append(b, 0x81)
	str("k", "v", "trace_id")
	b = append(b, "\xc4\x10\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36"...)
	str("span_id")
	b = append(b, "\xc4\x08\x00\xf0\x67\xaa\x0b\xa9\x02\xb7\x81"...)
	str("log", "one")
	event(1790000001, 500000000)
	b = append(b, 0x80, 0x81)
	str("log", "two")
	event(0xfffffffe, 0)
	b = append(b, 0x80, 0x80)
	event(1790000002, 500000000)
	b = append(b, 0x80, 0x81)
	str("log", "three")
	return b
}

// sendForward sends a chunk as a message of the forward protocol, as soon as
// somebody listens.
func sendForward(t *testing.T, addr string, chunk []byte) {
	msg := append([]byte("\x92\xa3app\xc5"), byte(len(chunk)>>8), byte(len(chunk)))
	msg = append(msg, chunk...)
	for range 600 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			time.Sleep(50 * time.Millisecond) // Fluent Bit does not say when it listens
			continue
		}
		defer conn.Close()
		if _, err := conn.Write(msg); err != nil {
			t.Error(err)
		}
		return
	}
	t.Error("nobody listens on " + addr)
}
