//go:build integration

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/bench"
	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/loglines"
)

// TestThroughput has one Fluent Bit tail a file of 500 MB and send it to
// nowhere, through its forward output with acknowledgements, and through the
// plugin. It prints what that takes: seconds on the wall from start to end of
// Fluent Bit, its CPU seconds, and those of the gateway for a GB of lines. With
// the host there is no Fluent Bit and no forward; 50 MB go through the plugin.
func TestThroughput(t *testing.T) {
	bin := fluentBitBinary(t)
	if bin == "" {
		hostThroughput(t, 50e6)
		return
	}
	file := filepath.Join(t.TempDir(), "app.log")
	size, lines := writeLines(t, file, 500e6)
	t.Logf("%d lines, %d bytes; %s", lines, size, bin)
	t.Logf("%-28s %8s %12s %14s %18s %8s", "output", "wall s", "agent CPU s", "gateway CPU s", "gateway CPU s/GB", "retries")
	null := tail(t, bin, "null", file, nil, lines, "name null")
	_, so := build(t)
	runs := []usage{null}
	for _, workers := range []string{"1", "2"} {
		runs = append(runs,
			tail(t, bin, "forward with ack, workers "+workers, file, newGateway(t), lines, "name forward", "host 127.0.0.1", "require_ack_response on", "workers "+workers),
			tail(t, bin, "loki-go, workers "+workers, file, newGateway(t), lines, "name loki-go", "workers "+workers, "so "+so))
	}
	for _, r := range runs {
		t.Logf("%-28s %8.1f %12.1f %14.1f %18.1f %8d", r.name, r.wall.Seconds(), r.agent, r.gateway, r.gateway/float64(size)*1e9, r.retries)
	}
}

// usage is what a run took.
type usage struct {
	name           string
	wall           time.Duration
	agent, gateway float64 // CPU s
	retries        int
}

func newGateway(t *testing.T) *testkit.Server {
	s := testkit.NewServer(t, t.TempDir(), generous...)
	s.Start()
	s.WaitReady()
	return s
}

// writeLines makes a log file of at least n bytes.
func writeLines(t *testing.T, name string, n int64) (size int64, lines int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	gen := loglines.New(7)
	var line []byte
	for size < n {
		line = append(gen.AppendLine(line[:0], lines%5, 1_790_000_000_000_000_000+int64(lines)*1_000_003), '\n')
		if _, err := w.Write(line); err != nil {
			t.Fatal(err)
		}
		size += int64(len(line))
		lines++
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return size, lines
}

// tail runs Fluent Bit until it has sent the file, and looks for all lines in
// the gateway, if there is one.
func tail(t *testing.T, bin, name, file string, gateway *testkit.Server, lines int, options ...string) usage {
	t.Helper()
	dir := t.TempDir()
	so := "" // Fluent Bit loads a library only where it is used
	out := "[OUTPUT]\n    match *\n    retry_limit no_limits\n"
	for _, o := range options {
		if p, ok := strings.CutPrefix(o, "so "); ok {
			so = p
			o = "Address " + gateway.GRPC
		}
		if o == "host 127.0.0.1" {
			_, port, _ := strings.Cut(gateway.Fwd, ":")
			o += "\n    port " + port
		}
		out += "    " + o + "\n"
	}
	const common = "    flush 1\n    grace 60\n    scheduler.base 1\n    scheduler.cap 2\n"
	conf := "[SERVICE]\n    log_level info\n" + common
	if so != "" {
		conf = service(dir, so, common)
	}
	conf += "[INPUT]\n    name tail\n    path " + file + "\n    tag app\n    read_from_head on\n    exit_on_eof on\n" +
		"    buffer_chunk_size 512k\n    buffer_max_size 512k\n    mem_buf_limit 200M\n" + out
	path := filepath.Join(dir, "fluent-bit.conf")
	if err := os.WriteFile(path, []byte(conf), 0o666); err != nil {
		t.Fatal(err)
	}
	before := 0.0
	if gateway != nil {
		before = cpuOf(t, gateway.PID())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "-c", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	log, err := cmd.CombinedOutput()
	u := usage{name: name, wall: time.Since(start)}
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, log)
	}
	u.retries = strings.Count(string(log), "failed to flush chunk")
	u.agent = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	if gateway == nil {
		return u
	}
	if got := received(t, gateway); got != lines {
		t.Fatalf("%s: %d of %d lines arrived\n%s", name, got, lines, log)
	}
	if err := gateway.Client("").Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	u.gateway = cpuOf(t, gateway.PID()) - before
	if err := gateway.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	return u
}

func cpuOf(t *testing.T, pid int) float64 {
	t.Helper()
	u, err := bench.ReadUsage(pid)
	if err != nil {
		t.Fatal(err)
	}
	return u.CPU
}

// received returns how many entries the gateway has taken.
func received(t *testing.T, gateway *testkit.Server) int {
	t.Helper()
	text, err := gateway.Client("").Get(context.Background(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "loki_go_ingester_received_entries_total "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatal("no such metric")
	return 0
}

// hostThroughput sends chunks as in_tail makes them, one after the other.
func hostThroughput(t *testing.T, n int64) {
	t.Helper()
	gateway := newGateway(t)
	p, lines := start(t, []string{"Address=" + gateway.GRPC})
	if len(lines) != 2 || lines[1] != "init 1" {
		t.Fatalf("got %q\n%s", lines, p.end())
	}
	gen := loglines.New(7)
	before, size, count := cpuOf(t, gateway.PID()), int64(0), 0
	var took time.Duration
	for k := 0; size < n; k++ {
		chunk := events(uint32(time.Now().Unix()), 10_000, func(p []byte, i int) []byte {
			line := gen.AppendLine(nil, i%5, int64(count))
			size += int64(len(line)) + 1
			count++
			return appendText(appendText(append(p, 0x81), "log"), fmt.Sprintf("%s %d", line, count))
		})
		name := write(t, chunk)
		start := time.Now()
		if got := p.do("flush 0 app %s", name); got != isOK {
			t.Fatalf("got %s\n%s", got, p.end())
		}
		took += time.Since(start)
	}
	if got := received(t, gateway); got != count {
		t.Fatalf("%d of %d lines arrived", got, count)
	}
	if err := gateway.Client("").Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	cpu := cpuOf(t, gateway.PID()) - before
	t.Logf("with the host: %d lines, %d bytes, %.1f s in flushes, %.1f gateway CPU s/GB", count, size, took.Seconds(), cpu/float64(size)*1e9)
}
