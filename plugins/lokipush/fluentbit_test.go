//go:build integration

package lokipush

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/proto/push"
)

// refusingAtFirst stores what comes after a few refusals that pass.
type refusingAtFirst struct {
	mu   sync.Mutex
	left []error
	sink
	more chan struct{}
}

func (s *refusingAtFirst) Push(ctx context.Context, b *push.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.left) > 0 {
		err := s.left[0]
		s.left = s.left[1:]
		return err
	}
	before := s.got
	err := s.sink.Push(ctx, b)
	s.got = append(before, s.got...)
	select {
	case s.more <- struct{}{}:
	default:
	}
	return err
}

func (s *refusingAtFirst) Admit(context.Context, int64) (func(), error) { return func() {}, nil }

// wait returns the entries when there are n.
func (s *refusingAtFirst) wait(t *testing.T, n int) []string {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		s.mu.Lock()
		got := slices.Clone(s.got)
		s.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-s.more:
		case <-timeout:
			t.Fatalf("%d of %d entries", len(got), n)
		}
	}
}

// TestFluentBit runs the loki output of the Fluent Bit that FLUENT_BIT names
// against the handler, which refuses for now what comes first.
func TestFluentBit(t *testing.T) {
	bin := os.Getenv("FLUENT_BIT")
	if bin == "" {
		t.Log("FLUENT_BIT names no Fluent Bit to run")
		return
	}
	const n = 500
	for name, options := range map[string]string{
		"labels, metadata": "labels job=fluent-bit, env=prod, $stream\n    structured_metadata $pod\n    remove_keys file",
		"gzip, tenant":     "labels job=fluent-bit, env=prod, $stream\n    structured_metadata $pod\n    compress gzip\n    tenant_id team-a",
		"key_value":        "labels job=fluent-bit, env=prod, $stream\n    structured_metadata $pod\n    line_format key_value",
	} {
		dir := t.TempDir()
		var lines bytes.Buffer
		for i := range n {
			fmt.Fprintf(&lines, `{"log":"line %03d \"quoted\" é","stream":"stdout","pod":"p%d","nested":{"a":[1,null]}}`+"\n", i, i%3)
		}
		if err := os.WriteFile(filepath.Join(dir, "app.log"), lines.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		s := &refusingAtFirst{more: make(chan struct{}, 1), left: []error{
			push.Errorf(push.Overloaded, "not now"), push.Errorf(push.RateLimited, "not so fast"), fmt.Errorf("a fault"),
		}}
		mux := http.NewServeMux()
		receiverForSink(t, s).Register(mux)
		srv := httptest.NewServer(mux)
		host, port, err := net.SplitHostPort(srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
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
    name loki
    match *
    host %s
    port %s
    retry_limit no_limits
    %s
`, dir, dir, host, port, options)
		for file, text := range map[string]string{"fb.conf": conf, "parsers.conf": "[PARSER]\n    name json\n    format json\n"} {
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
		got := s.wait(t, n)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err = cmd.Wait()
		srv.Close()
		if err != nil || len(got) != n {
			t.Fatalf("%s: %d entries of %d, %v\n%s", name, len(got), n, err, log.String())
		}
		for i := range n {
			text := fmt.Sprintf("line %03d ", i)
			at := slices.IndexFunc(got, func(g string) bool { return bytes.Contains([]byte(g), []byte(text)) })
			if at < 0 {
				t.Fatalf("%s: no entry of line %d", name, i)
			}
			prefix, suffix := `{env="prod", job="fluent-bit", stream="stdout"} `, fmt.Sprintf(` pod="p%d"`, i%3)
			if g := got[at]; g[:len(prefix)] != prefix || g[len(g)-len(suffix):] != suffix {
				t.Fatalf("%s: entry %s", name, g)
			}
		}
		if (s.tenant == "team-a") != (name == "gzip, tenant") {
			t.Fatalf("%s: tenant %q", name, s.tenant)
		}
	}
}

func receiverForSink(t *testing.T, s Sink) *Receiver {
	t.Helper()
	rc, err := New(Deps{Sink: s}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return rc
}
