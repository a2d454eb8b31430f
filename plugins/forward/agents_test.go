//go:build integration

package forward

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/proto/push"
)

// The agents are only run where the environment names them: no package manager
// has the versions that matter.

const agentLines = 20_000

// linesFile has what an agent reads.
func linesFile(t *testing.T, p *place) string {
	t.Helper()
	var b strings.Builder
	for i := range agentLines {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	name := filepath.Join(p.dir, "app.log")
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// expectAgent demands each line once.
func (p *place) expectAgent(t *testing.T, tag string) {
	t.Helper()
	seen := map[string]bool{}
	entries := p.all(t, agentLines)
	for _, e := range entries {
		i, err := strconv.Atoi(strings.TrimPrefix(e.line, "line "))
		if err != nil || seen[e.line] || e.meta["tag"] != tag || time.Since(time.Unix(0, e.ts)).Abs() > time.Hour {
			t.Fatalf("line %d: %+v", i, e)
		}
		seen[e.line] = true
	}
	if len(entries) != agentLines {
		t.Fatalf("%d entries, want %d", len(entries), agentLines)
	}
}

// crashes makes the receiver crash in its first two pushes, when the
// entries are stored and not acknowledged.
func (p *place) crashes() (crashed <-chan struct{}) {
	signal := make(chan struct{})
	pushes := 0
	p.sink.onPush = func(ctx context.Context, _ *push.Batch) error {
		p.sink.mu.Lock()
		pushes++
		n := pushes
		p.sink.mu.Unlock()
		if n <= 2 {
			signal <- struct{}{}
			<-ctx.Done()
		}
		return nil
	}
	return signal
}

// survives holds an agent that has been started against crashes.
func (p *place) survives(t *testing.T, crashed <-chan struct{}) {
	t.Helper()
	addr, sink := p.Addr().String(), p.sink
	for range 2 {
		select {
		case <-crashed:
		case <-time.After(clientTime):
			t.Fatalf("no push comes, log %q", p.log.lines())
		}
		p.crash()
		p.start(t, sink, addr)
	}
	for deadline := time.Now().Add(clientTime); repeatedPushes(sink) < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the pushes that were not acknowledged did not come again")
		}
	}
	p.expectAgent(t, "app")
}

// repeatedPushes returns how many pushes have an id that was there before.
func repeatedPushes(s *fakeSink) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := map[push.ID]bool{}
	n := 0
	for _, b := range s.batches {
		if ids[b.id] {
			n++
		}
		ids[b.id] = true
	}
	return n
}

func (p *place) fluentBit(more string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `[SERVICE]
    flush 0.2
    grace 10
    log_level info
    scheduler.base 1
    scheduler.cap 2
[INPUT]
    name tail
    tag app
    path %s/app.log
    read_from_head true
    buffer_chunk_size 32k
    exit_on_eof %v
[OUTPUT]
    name forward
    match *
    retry_limit no_limits
`, p.dir, !strings.Contains(more, "# keep"))
	if p.unix {
		fmt.Fprintf(&b, "    unix_path %s\n", p.socket())
	} else {
		fmt.Fprintf(&b, "    host 127.0.0.1\n    port %s\n", p.port())
	}
	if p.tls {
		fmt.Fprintf(&b, "    tls on\n    tls.verify on\n    tls.ca_file %s\n    tls.vhost localhost\n", p.certs.CA)
	}
	if p.mutual {
		fmt.Fprintf(&b, "    tls.crt_file %s\n    tls.key_file %s\n", p.certs.ClientCert, p.certs.ClientKey)
	}
	if p.key != "" {
		fmt.Fprintf(&b, "    shared_key %s\n    self_hostname edge.example\n", p.key)
	}
	if len(p.users) > 0 {
		name, password, _ := strings.Cut(p.users[0], ":")
		fmt.Fprintf(&b, "    username %s\n    password %s\n", name, password)
	}
	return b.String() + more
}

func TestFluentBit(t *testing.T) {
	bin := os.Getenv("FLUENT_BIT")
	if bin == "" {
		t.Log("FLUENT_BIT names no Fluent Bit to run")
		return
	}
	run := func(t *testing.T, p *place, more string) *running {
		t.Helper()
		linesFile(t, p)
		conf := filepath.Join(p.dir, "fluent-bit.conf")
		if err := os.WriteFile(conf, []byte(p.fluentBit(more)), 0o600); err != nil {
			t.Fatal(err)
		}
		return startClient(t, bin, "-c", conf)
	}
	const ack = "    require_ack_response on\n"
	f := func(s setting, more string) {
		t.Helper()
		t.Run(s.name+" "+strings.Join(strings.Fields(more), " "), func(t *testing.T) {
			p := newPlace(t, s)
			r := run(t, p, more)
			p.expectAgent(t, "app")
			p.expectHealthy(t)
			r.wait(t)
			if acks := p.value(t, "acks_total", ""); (acks > 0) != strings.Contains(more, ack) {
				t.Fatalf("%v acks", acks)
			}
		})
	}
	for _, s := range []setting{open, keyed, withUser, encrypted, mutual, everything, unixSocket} {
		f(s, ack)
	}
	f(open, "")
	f(keyed, "")
	f(open, ack+"    compress gzip\n")
	f(everything, ack+"    compress gzip\n")
	f(open, ack+"    time_as_integer on\n")
	f(open, ack+"    retain_metadata_in_forward_mode off\n")
	f(open, "    send_options on\n    add_option k v\n")
	f(open, ack+"    workers 1\n    net.keepalive off\n")
	t.Run("crash", func(t *testing.T) {
		p := newPlace(t, keyed)
		crashed := p.crashes()
		r := run(t, p, ack+"# keep running\n")
		p.survives(t, crashed)
		r.stop(t)
	})
}

func (p *place) fluentd(more string) string {
	var server, security, outer strings.Builder
	if p.key != "" {
		fmt.Fprintf(&security, "  <security>\n    self_hostname edge.example\n    shared_key %s\n  </security>\n", p.key)
	}
	if len(p.users) > 0 {
		name, password, _ := strings.Cut(p.users[0], ":")
		fmt.Fprintf(&server, "    username %s\n    password %s\n", name, password)
	}
	if p.tls {
		fmt.Fprintf(&outer, "  transport tls\n  tls_cert_path %s\n  tls_verify_hostname true\n", p.certs.CA)
		fmt.Fprintf(&server, "    name localhost\n")
	}
	if p.mutual {
		fmt.Fprintf(&outer, "  tls_client_cert_path %s\n  tls_client_private_key_path %s\n", p.certs.ClientCert, p.certs.ClientKey)
	}
	return fmt.Sprintf(`<source>
  @type tail
  tag app
  path %[1]s/app.log
  pos_file %[1]s/pos
  read_from_head true
  read_lines_limit 500
  <parse>
    @type none
  </parse>
</source>
<match app>
  @type forward
%[2]s%[3]s%[4]s  <server>
    host %[5]s
    port %[6]s
%[7]s  </server>
  <buffer>
    @type memory
    chunk_limit_size 32k
    flush_interval 0.2s
    flush_thread_interval 0.05
    flush_thread_burst_interval 0.01
    retry_wait 0.3s
    retry_max_interval 1s
    retry_forever true
  </buffer>
</match>
`, p.dir, more, outer.String(), security.String(), "localhost", p.port(), server.String())
}

func TestFluentd(t *testing.T) {
	bin := os.Getenv("FLUENTD")
	if bin == "" {
		t.Log("FLUENTD names no Fluentd to run")
		return
	}
	run := func(t *testing.T, p *place, more string) *running {
		t.Helper()
		linesFile(t, p)
		conf := filepath.Join(p.dir, "fluent.conf")
		if err := os.WriteFile(conf, []byte(p.fluentd(more)), 0o600); err != nil {
			t.Fatal(err)
		}
		return startClient(t, bin, "--no-supervisor", "-c", conf)
	}
	const ack = "  require_ack_response true\n  ack_response_timeout 20s\n"
	f := func(s setting, more string) {
		t.Helper()
		t.Run(s.name+" "+strings.Join(strings.Fields(more), " "), func(t *testing.T) {
			p := newPlace(t, s)
			r := run(t, p, more)
			p.expectAgent(t, "app")
			p.expectHealthy(t)
			if acks := p.value(t, "acks_total", ""); (acks > 0) != strings.Contains(more, ack) {
				t.Fatalf("%v acks", acks)
			}
			r.stop(t)
		})
	}
	for _, s := range []setting{open, keyed, withUser, encrypted, mutual, everything} {
		f(s, ack)
	}
	f(open, "")
	f(open, ack+"  compress gzip\n")
	f(open, ack+"  keepalive true\n")
	f(keyed, ack+"  keepalive true\n  compress gzip\n")
	f(open, ack+"  heartbeat_type udp\n")
	f(open, ack+"  heartbeat_type none\n  time_as_integer true\n")
	t.Run("crash", func(t *testing.T) {
		p := newPlace(t, keyed)
		crashed := p.crashes()
		r := run(t, p, ack)
		p.survives(t, crashed)
		r.stop(t)
	})
}
