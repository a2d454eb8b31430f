//go:build integration

package forward

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/proto/push"
)

// Real clients against a receiver in this process: python3-fluent-logger of
// Debian, fluent-logger-golang (tools/fluentlogger), @fluent-org/logger of npm
// (in a directory that NODE_PATH names), and, where FLUENTD and FLUENT_BIT name
// them, Fluentd and Fluent Bit.

const (
	clientStart = 1790000000_000000000
	clientTime  = 60 * time.Second
)

// setting is a way to reach a receiver.
type setting struct {
	name        string
	unix        bool
	tls, mutual bool
	key         string
	users       []string
}

var (
	open       = setting{name: "open"}
	unixSocket = setting{name: "unix", unix: true}
	keyed      = setting{name: "key", key: "s3cr3t-kéy"}
	withUser   = setting{name: "user", key: "k", users: []string{"alice:p:ä55"}}
	encrypted  = setting{name: "tls", tls: true}
	mutual     = setting{name: "mtls", tls: true, mutual: true}
	everything = setting{name: "mtls+key+user", tls: true, mutual: true, key: "k", users: []string{"alice:p:ä55"}}
)

// place is a receiver that was set up as a setting says.
type place struct {
	*rig
	setting
	certs *testcert.Certs
	dir   string
}

func newPlace(t *testing.T, s setting) *place {
	t.Helper()
	p := &place{setting: s, certs: testcert.New(t), dir: t.TempDir()}
	p.start(t, &fakeSink{}, "127.0.0.1:0")
	return p
}

func (p *place) start(t *testing.T, sink *fakeSink, addr string) {
	t.Helper()
	p.rig = newRig(t, sink, "auto", func(c *Config) {
		c.Listen, c.Heartbeat, c.Hostname = []string{addr}, true, "receiver.example"
		c.SharedKey, c.Users, c.Tenant = p.key, p.users, "acme"
		if p.unix {
			c.UnixListen = p.socket()
		}
		if p.tls {
			c.TLS = tlsconf.Server{CertFile: p.certs.Cert, KeyFile: p.certs.Key}
		}
		if p.mutual {
			c.TLS.ClientCAFile = p.certs.CA
		}
	})
	if err := p.Open(); err != nil {
		t.Fatal(err)
	}
}

func (p *place) socket() string { return filepath.Join(p.dir, "forward.sock") }

func (p *place) port() string {
	a := p.Addr().String()
	return a[strings.LastIndexByte(a, ':')+1:]
}

// crash ends the receiver as a kill does: connections break, whatever is on its
// way, and what was pushed may be unacknowledged.
func (p *place) crash() {
	p.abort()
	p.Close()
}

// client runs a program until it is done.
func client(t *testing.T, name string, args ...string) {
	t.Helper()
	startClient(t, name, args...).wait(t)
}

type running struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan error
}

func startClient(t *testing.T, name string, args ...string) *running {
	t.Helper()
	r := &running{cmd: exec.Command(name, args...), done: make(chan error, 1)}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	t.Cleanup(func() { r.cmd.Process.Kill(); <-r.done })
	return r
}

func (r *running) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		if err != nil {
			t.Fatalf("%s: %v\n%s", r.cmd, err, r.out.String())
		}
	case <-time.After(clientTime):
		t.Fatalf("%s does not end", r.cmd)
	}
}

// stop lets a program that runs for ever end.
func (r *running) stop(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-r.done:
		r.done <- err
	case <-time.After(clientTime):
		t.Fatalf("%s does not stop", r.cmd)
	}
}

// all waits until n different lines have come, and returns the entries. Batches
// with an id that has been there are left out, as the ingester does.
func (p *place) all(t *testing.T, n int) []stored {
	t.Helper()
	for deadline := time.Now().Add(clientTime); ; time.Sleep(10 * time.Millisecond) {
		entries := unique(p.sink)
		lines := map[string]bool{}
		for _, e := range entries {
			lines[e.line] = true
		}
		if len(lines) >= n {
			return entries
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d lines came, log %q", len(lines), n, p.log.lines())
		}
	}
}

func unique(s *fakeSink) []stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []stored
	seen := map[push.ID]bool{}
	for _, b := range s.batches {
		if b.id != (push.ID{}) && seen[b.id] {
			continue
		}
		seen[b.id] = true
		all = append(all, b.entries...)
	}
	return all
}

// expectLines demands n events, each of them once, with their times, which are
// whole multiples of step and a few nanoseconds more where several had one.
func (p *place) expectLines(t *testing.T, n int, tag string, step time.Duration) {
	t.Helper()
	entries := p.all(t, n)
	if len(entries) != n {
		t.Fatalf("%d entries, want %d", len(entries), n)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		i, err := strconv.Atoi(strings.TrimPrefix(e.line, "line "))
		if err != nil || seen[e.line] {
			t.Fatalf("line %q came twice, or is none", e.line)
		}
		seen[e.line] = true
		want := clientStart + int64(time.Duration(i)*time.Millisecond/step*step)
		if e.ts < want || e.ts > want+int64(n) || e.meta["tag"] != tag || e.meta["n"] != strconv.Itoa(i) {
			t.Fatalf("line %d: %+v, want the time %d", i, e, want)
		}
	}
	p.expectHealthy(t)
}

func (p *place) expectHealthy(t *testing.T) {
	t.Helper()
	for _, l := range p.log.lines() {
		if strings.Contains(l, "level=WARN") || strings.Contains(l, "level=ERROR") {
			t.Fatalf("logged %s", l)
		}
	}
	for _, b := range p.sink.batches {
		if b.tenant != "acme" {
			t.Fatalf("tenant %q", b.tenant)
		}
	}
}

func TestPythonLogger(t *testing.T) {
	for _, mode := range []string{"int", "nano", "async", "nano+async"} {
		for _, s := range []setting{open, unixSocket} {
			t.Run(mode+" "+s.name, func(t *testing.T) {
				p := newPlace(t, s)
				host := "127.0.0.1"
				if s.unix {
					host = "unix://" + p.socket()
				}
				client(t, "/usr/bin/python3", "testdata/clients/python.py", host, p.port(), "2500", mode)
				step := time.Second
				if strings.Contains(mode, "nano") {
					step = time.Millisecond
				}
				p.expectPython(t, 2500, step)
			})
		}
	}
}

// expectPython is expectLines but for the floats that this library makes
// nanoseconds of.
func (p *place) expectPython(t *testing.T, n int, step time.Duration) {
	t.Helper()
	entries := p.all(t, n)
	seen := map[string]bool{}
	for _, e := range entries {
		i, err := strconv.Atoi(strings.TrimPrefix(e.line, "line "))
		want := clientStart + int64(time.Duration(i)*time.Millisecond/step*step)
		if err != nil || seen[e.line] || max(e.ts-want, want-e.ts) > 10_000 || e.meta["tag"] != "py.app" {
			t.Fatalf("line %d: %+v, want the time %d", i, e, want)
		}
		seen[e.line] = true
	}
	if len(entries) != n {
		t.Fatalf("%d entries, want %d", len(entries), n)
	}
	p.expectHealthy(t)
}

// buildGoLogger builds the Go client.
func buildGoLogger(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "fluentlogger")
	cmd := exec.Command("go", "build", "-o", bin, ".")
	cmd.Dir = "../../tools/fluentlogger"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build fluentlogger: %v\n%s", err, out)
	}
	return bin
}

func (p *place) goArgs(flags ...string) []string {
	args := append([]string{"-address=127.0.0.1:" + p.port()}, flags...)
	switch {
	case p.unix:
		args[0] = "-address=" + p.socket()
		return append(args, "-network=unix")
	case p.tls:
		return append(args, "-network=tls")
	}
	return args
}

func TestGoLogger(t *testing.T) {
	bin := buildGoLogger(t)
	var modes [][]string
	for bits := range 16 {
		var flags []string
		for i, f := range []string{"-async", "-ack", "-json", "-subsecond"} {
			if bits>>i&1 == 1 {
				flags = append(flags, f)
			}
		}
		modes = append(modes, flags)
	}
	f := func(s setting, flags []string) {
		t.Run(s.name+strings.Join(flags, ""), func(t *testing.T) {
			p := newPlace(t, s)
			client(t, bin, p.goArgs(append(flags, "-n=500")...)...)
			step := time.Second
			// In JSON the library has whole seconds only.
			if slices.Contains(flags, "-subsecond") && !slices.Contains(flags, "-json") {
				step = time.Millisecond
			}
			p.expectLines(t, 500, "go.app", step)
		})
	}
	for _, m := range modes {
		f(open, m)
	}
	f(unixSocket, []string{"-ack", "-subsecond"})
	f(encrypted, []string{"-ack", "-subsecond"})
	f(encrypted, []string{"-async"})
}

// nodeOptions are those of FluentClient, as JSON.
func (p *place) nodeOptions(mode string, ack bool, more map[string]any) string {
	port, err := strconv.Atoi(p.port())
	if err != nil {
		panic(err)
	}
	socket := map[string]any{"host": "127.0.0.1", "port": port, "timeout": 10000}
	if p.unix {
		socket = map[string]any{"path": p.socket()}
	}
	if p.tls {
		t := map[string]any{"ca": p.certs.CA, "servername": "localhost"}
		if p.mutual {
			t["cert"], t["key"] = p.certs.ClientCert, p.certs.ClientKey
		}
		socket["tls"] = t
	}
	options := map[string]any{"eventMode": mode, "socket": socket}
	if ack {
		options["ack"] = map[string]any{"ackTimeout": 20000}
	}
	if p.key != "" {
		security := map[string]any{"clientHostname": "node.example", "sharedKey": p.key}
		if len(p.users) > 0 {
			name, password, _ := strings.Cut(p.users[0], ":")
			security["username"], security["password"] = name, password
		}
		options["security"] = security
	}
	for k, v := range more {
		options[k] = v
	}
	out, err := json.Marshal(options)
	if err != nil {
		panic(err)
	}
	return string(out)
}

func TestNodeLogger(t *testing.T) {
	const n = 1000
	f := func(s setting, mode string, ack bool, times string, more map[string]any, step time.Duration) {
		t.Helper()
		t.Run(fmt.Sprintf("%s %s ack=%v %s %v", s.name, mode, ack, times, more), func(t *testing.T) {
			p := newPlace(t, s)
			client(t, "node", "testdata/clients/node.js", p.nodeOptions(mode, ack, more), strconv.Itoa(n), times)
			p.expectLines(t, n, "node.app", step)
			if ack && p.value(t, "acks_total", "") == 0 {
				t.Fatal("no acks")
			}
		})
	}
	batches := map[string]any{"flushInterval": 20, "sendQueueIntervalFlushLimit": map[string]any{"length": 100}}
	for _, mode := range []string{"Message", "Forward", "PackedForward", "CompressedPackedForward"} {
		for _, s := range []setting{open, keyed, withUser, everything} {
			f(s, mode, true, "event", batches, time.Millisecond)
		}
		f(encrypted, mode, true, "event", nil, time.Millisecond)
		f(unixSocket, mode, false, "event", batches, time.Millisecond)
		f(open, mode, false, "date", batches, time.Second)
		// Seconds that are milliseconds.
		f(open, mode, true, "date", map[string]any{"milliseconds": true}, time.Millisecond)
	}
	f(mutual, "PackedForward", true, "event", batches, time.Millisecond)
}

// The wrong key, user or certificate: nothing arrives, and the log says why.
func TestNodeLoggerRefused(t *testing.T) {
	f := func(s setting, change func(*place), reason string) {
		t.Helper()
		t.Run(reason, func(t *testing.T) {
			p := newPlace(t, s)
			client := *p
			change(&client)
			r := startClient(t, "node", "testdata/clients/node.js", client.nodeOptions("Forward", true, nil), "1", "event")
			for deadline := time.Now().Add(clientTime); p.value(t, "closed_connections_total", reason) == 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("not refused for %s: %q, client %s", reason, p.log.lines(), r.out.String())
				}
			}
			if len(p.sink.all()) > 0 {
				t.Fatalf("stored %v", p.sink.all())
			}
		})
	}
	f(keyed, func(c *place) { c.key = "other" }, "bad_shared_key")
	f(withUser, func(c *place) { c.users = []string{"alice:other"} }, "bad_user")
	f(mutual, func(c *place) { c.mutual = false }, "tls")
	f(keyed, func(c *place) { c.tls = true }, "malformed")
	f(encrypted, func(c *place) { c.tls = false }, "tls")
}

// TestGoLoggerSurvivesCrashes breaks the receiver under a client that wants
// acks: every event is stored once.
func TestGoLoggerSurvivesCrashes(t *testing.T) {
	const n = 2000
	bin := buildGoLogger(t)
	p := newPlace(t, open)
	addr, sink := p.Addr().String(), p.sink
	r := startClient(t, bin, p.goArgs("-ack", "-subsecond", "-n="+strconv.Itoa(n), "-pause=200us")...)
	for i := range 4 {
		for deadline := time.Now().Add(clientTime); len(sink.all()) < (i+1)*n/6; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("only %d events, client %s", len(sink.all()), r.out.String())
			}
		}
		p.crash()
		p.start(t, sink, addr)
	}
	r.wait(t)
	p.expectLines(t, n, "go.app", time.Millisecond)
}
