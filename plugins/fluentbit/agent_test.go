//go:build integration

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// agent is what stands between those who log and the plugin: Fluent Bit, or for
// machines that have none a host that does with the plugin what Fluent Bit
// does. It keeps what it has taken until the plugin says that it is stored,
// over restarts.
type agent interface {
	senders(n int) []testkit.Sender
	reload()      // with what SIGHUP does
	restart()     // with SIGTERM
	pending() int // chunks that are kept
}

// fluentBitBinary returns the Fluent Bit that FLUENT_BIT names, or "".
func fluentBitBinary(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("FLUENT_BIT")
	if bin == "" {
		return ""
	}
	out, err := exec.Command(bin, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Fluent Bit") {
		t.Fatalf("FLUENT_BIT=%s is no Fluent Bit: %v\n%s", bin, err, out)
	}
	return bin
}

// newAgent starts an agent whose plugin pushes to gateway.
func newAgent(t *testing.T, gateway string) agent {
	t.Helper()
	_, so := build(t)
	section := []string{"Address=" + gateway, "LabelKeys=workload,stream"}
	if bin := fluentBitBinary(t); bin != "" {
		t.Logf("with Fluent Bit %s", bin)
		return newFluentBit(t, bin, so, section)
	}
	t.Log("with the host of testdata, as FLUENT_BIT names no Fluent Bit")
	return newHostAgent(t, section)
}

// waitEmpty waits until a keeps nothing any more.
func waitEmpty(t *testing.T, a agent, within time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(within); a.pending() > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d chunks are left after %s", a.pending(), within)
		}
	}
}

// --- Fluent Bit -----------------------------------------------------------------

type fluentBit struct {
	t        *testing.T
	bin, dir string
	forward  string // address of its forward input
	cmd      *exec.Cmd
	exited   chan struct{}
	mu       sync.Mutex
	out      bytes.Buffer
}

func (f *fluentBit) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Write(p)
}

func (f *fluentBit) output() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.String()
}

// service is the part of the configuration that all runs have.
func service(dir, so, more string) string {
	plugins := filepath.Join(dir, "plugins.conf")
	if err := os.WriteFile(plugins, []byte("[PLUGINS]\n    path "+so+"\n"), 0o666); err != nil {
		panic(err)
	}
	return "[SERVICE]\n    log_level info\n    plugins_file " + plugins + "\n" + more
}

func newFluentBit(t *testing.T, bin, so string, section []string) *fluentBit {
	t.Helper()
	f := &fluentBit{t: t, bin: bin, dir: t.TempDir(), forward: fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t))}
	conf := service(f.dir, so, "    flush 0.2\n    grace 5\n    hot_reload on\n    scheduler.base 1\n    scheduler.cap 2\n"+
		"    storage.path "+f.storage()+"\n    storage.backlog.mem_limit 50M\n")
	_, port, _ := strings.Cut(f.forward, ":")
	conf += "[INPUT]\n    name forward\n    listen 127.0.0.1\n    port " + port + "\n    storage.type filesystem\n"
	conf += "[OUTPUT]\n    name loki-go\n    match *\n    retry_limit no_limits\n    workers 2\n"
	for _, s := range section {
		conf += "    " + strings.Replace(s, "=", " ", 1) + "\n"
	}
	if err := os.WriteFile(f.conf(), []byte(conf), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = f.cmd.Process.Kill()
		<-f.exited
		if t.Failed() {
			out := f.output()
			t.Logf("last output of Fluent Bit:\n%s", out[max(0, len(out)-6000):])
		}
	})
	f.start()
	return f
}

func (f *fluentBit) conf() string    { return filepath.Join(f.dir, "fluent-bit.conf") }
func (f *fluentBit) storage() string { return filepath.Join(f.dir, "storage") }

func (f *fluentBit) start() {
	f.t.Helper()
	f.cmd = exec.Command(f.bin, "-c", f.conf())
	f.cmd.Stdout, f.cmd.Stderr = f, f
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	n := f.started()
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	cmd, exited := f.cmd, make(chan struct{})
	f.exited = exited
	go func() { _ = cmd.Wait(); close(exited) }()
	f.waitStarted(n)
}

// started counts how often the plugin has said that it has.
func (f *fluentBit) started() int { return strings.Count(f.output(), `msg="started;`) }

func (f *fluentBit) waitStarted(before int) {
	f.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); f.started() <= before; {
		select {
		case <-f.exited:
			f.t.Fatal("Fluent Bit has ended")
		case <-time.After(20 * time.Millisecond):
			if time.Now().After(deadline) {
				f.t.Fatal("the plugin does not start")
			}
		}
	}
}

func (f *fluentBit) senders(n int) []testkit.Sender {
	var out []testkit.Sender
	for range n {
		out = append(out, testkit.ForwardSender(&testkit.ForwardClient{Addr: f.forward, Tag: "load"}))
	}
	return out
}

func (f *fluentBit) reload() {
	f.t.Helper()
	n := f.started()
	if err := f.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		f.t.Fatal(err)
	}
	f.waitStarted(n)
}

func (f *fluentBit) restart() {
	f.t.Helper()
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		f.t.Fatal(err)
	}
	select {
	case <-f.exited:
	case <-time.After(60 * time.Second):
		f.t.Fatal("Fluent Bit does not end")
	}
	f.start()
}

func (f *fluentBit) pending() int {
	names, err := filepath.Glob(filepath.Join(f.storage(), "*", "*.flb"))
	if err != nil {
		f.t.Fatal(err)
	}
	return len(names)
}

// --- the host ---------------------------------------------------------------------

// hostAgent is a queue before the host. What Fluent Bit keeps in files it keeps
// in memory, as the test outlives the host.
type hostAgent struct {
	t       *testing.T
	options []string
	dir     string

	mu    sync.Mutex // of the host
	host  *process
	qmu   sync.Mutex // of the queue
	queue [][]byte
	quit  chan struct{}
	done  chan struct{}
}

func newHostAgent(t *testing.T, section []string) *hostAgent {
	t.Helper()
	a := &hostAgent{t: t, options: section, dir: t.TempDir(), quit: make(chan struct{}), done: make(chan struct{})}
	a.start()
	go a.run()
	t.Cleanup(func() {
		close(a.quit)
		<-a.done
		if t.Failed() {
			t.Logf("output of the host:\n%s", a.host.end())
		}
	})
	return a
}

func (a *hostAgent) start() {
	a.t.Helper()
	p, lines := start(a.t, a.options)
	if len(lines) != 2 || lines[1] != "init 1" {
		a.t.Fatalf("got %q\n%s", lines, p.end())
	}
	a.host = p
}

// ask sends a command to the host.
func (a *hostAgent) ask(format string, args ...any) string {
	if _, err := fmt.Fprintf(a.host.in, format+"\n", args...); err != nil {
		return err.Error()
	}
	return a.host.line()
}

// run flushes chunks by turns until they are stored.
func (a *hostAgent) run() {
	defer close(a.done)
	for {
		select {
		case <-a.quit:
			return
		default:
		}
		if !a.flushOne() {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func (a *hostAgent) flushOne() bool {
	chunk := a.first()
	if chunk == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	name := filepath.Join(a.dir, "chunk")
	if err := os.WriteFile(name, chunk, 0o666); err != nil {
		a.t.Error(err)
		return false
	}
	got := a.ask("flush 0 load %s", name)
	a.qmu.Lock()
	defer a.qmu.Unlock()
	switch got {
	case isOK:
		a.queue = a.queue[1:]
	case isRetry:
		a.queue = append(a.queue[1:], chunk)
	default:
		a.t.Errorf("flush: %q", got)
		a.queue = nil
	}
	return true
}

func (a *hostAgent) first() []byte {
	a.qmu.Lock()
	defer a.qmu.Unlock()
	if len(a.queue) == 0 {
		return nil
	}
	return a.queue[0]
}

func (a *hostAgent) senders(n int) []testkit.Sender {
	var out []testkit.Sender
	for range n {
		out = append(out, testkit.SenderFunc(func(_ context.Context, streams []testkit.Stream) error {
			chunk, _ := testkit.Events(streams)
			a.qmu.Lock()
			defer a.qmu.Unlock()
			a.queue = append(a.queue, chunk)
			return nil
		}))
	}
	return out
}

func (a *hostAgent) reload() {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if got := a.ask("reload"); got != "1" {
		a.t.Fatalf("reload: %q\n%s", got, a.host.end())
	}
}

func (a *hostAgent) restart() {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if got := a.ask("exit 0"); got != isOK {
		a.t.Fatalf("exit: %q", got)
	}
	a.host.end()
	a.start()
}

func (a *hostAgent) pending() int {
	a.qmu.Lock()
	defer a.qmu.Unlock()
	return len(a.queue)
}
