//go:build integration

package otlp

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFluentBit runs the opentelemetry output of the Fluent Bit that FLUENT_BIT
// names against the receiver, which refuses for now what comes first.
func TestFluentBit(t *testing.T) {
	bin := os.Getenv("FLUENT_BIT")
	if bin == "" {
		t.Log("FLUENT_BIT names no Fluent Bit to run")
		return
	}
	const n = 500
	for name, options := range map[string]string{
		"http": "", "gzip": "compress gzip", "zstd": "compress zstd\n    logs_uri /otlp/v1/logs", "grpc": "grpc on",
	} {
		c := newCollecting(2)
		url, grpcAddr := serveBoth(t, c)
		to := strings.TrimPrefix(url, "http://")
		if name == "grpc" {
			to = grpcAddr
		}
		host, port, err := net.SplitHostPort(to)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		var lines bytes.Buffer
		for i := range n {
			fmt.Fprintf(&lines, `{"log":"line %03d \"quoted\" é","stream":"stdout","nested":{"a":[1,null],"b":{"c":%d}}}`+"\n", i, i)
		}
		conf := fmt.Sprintf(`
[SERVICE]
    flush 0.2
    scheduler.base 1
    scheduler.cap 1
    parsers_file %s/parsers.conf
[INPUT]
    name tail
    path %s/app.log
    read_from_head on
    parser json
[OUTPUT]
    name opentelemetry
    match *
    host %s
    port %s
    header X-Scope-OrgID %s
    logs_body_key $log
    logs_body_key_attributes true
    retry_limit no_limits
    %s
`, dir, dir, host, port, name, options)
		for file, text := range map[string]string{
			"app.log": lines.String(), "fb.conf": conf, "parsers.conf": "[PARSER]\n    name json\n    format json\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		var log bytes.Buffer
		cmd := exec.Command(bin, "-c", filepath.Join(dir, "fb.conf"))
		cmd.Stdout, cmd.Stderr = &log, &log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				t.Logf("%s: Fluent Bit printed:\n%s", name, log.String())
			}
		})
		got := c.wait(t, name, n)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || len(got) != n {
			t.Fatalf("%s: %d entries of %d, %v", name, len(got), n, err)
		}
		for i, g := range got {
			if want := fmt.Sprintf(`"line %03d \"quoted\" é" nested_a="[1,null]" nested_b_c="%d" stream="stdout"`, i, i); !strings.Contains(g, want) {
				t.Fatalf("%s: entry %d is %s", name, i, g)
			}
		}
	}
}
