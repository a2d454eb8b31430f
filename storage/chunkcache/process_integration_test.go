//go:build integration

package chunkcache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// backend is a real memcached or redis-server process. Its port stays the same
// over restarts.
type backend struct {
	t       testing.TB
	kind    string
	port    int
	args    []string
	cmd     *exec.Cmd
	out     bytes.Buffer
	stopped chan struct{}
}

func startBackend(t testing.TB, kind string, args ...string) *backend {
	t.Helper()
	b := &backend{t: t, kind: kind, port: testkit.FreePort(t), args: args}
	t.Cleanup(func() {
		b.kill()
		if t.Failed() {
			t.Logf("%s printed:\n%s", kind, &b.out)
		}
	})
	b.start()
	return b
}

func (b *backend) address() string { return "127.0.0.1:" + strconv.Itoa(b.port) }

// start starts the process and waits until it listens.
func (b *backend) start() {
	b.t.Helper()
	port := strconv.Itoa(b.port)
	var cmd *exec.Cmd
	switch b.kind {
	case Memcached:
		cmd = exec.Command("memcached", append([]string{"-u", "nobody", "-l", "127.0.0.1", "-p", port, "-U", "0", "-m", "64"}, b.args...)...)
	case Redis:
		cmd = exec.Command("redis-server", append([]string{"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", b.t.TempDir()}, b.args...)...)
		if len(b.args) == 0 || b.args[0] != "--tls-port" {
			cmd.Args = append(cmd.Args, "--port", port)
		}
	default:
		b.t.Fatalf("no server for %q", b.kind)
	}
	cmd.Stdout, cmd.Stderr = &b.out, &b.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("start %s (Debian has it as a package of that name): %v", b.kind, err)
	}
	b.cmd, b.stopped = cmd, make(chan struct{})
	go func(stopped chan struct{}) {
		// It is killed, or tells why it ended in its output.
		_ = cmd.Wait()
		close(stopped)
	}(b.stopped)
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", b.address())
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-b.stopped:
			b.t.Fatalf("%s ended:\n%s", b.kind, &b.out)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			b.t.Fatal(err)
		}
	}
}

func (b *backend) kill() {
	if b.cmd == nil {
		return
	}
	// An error means that it has ended already.
	_ = b.cmd.Process.Kill()
	<-b.stopped
	b.cmd = nil
}

// hang makes it accept connections and say nothing.
func (b *backend) hang() {
	b.t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		b.t.Fatal(err)
	}
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 seconds", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// slowProxy passes bytes on to a server, and holds all that comes back up for
// a time.
type slowProxy struct {
	net.Listener
	ctx context.Context
	wg  sync.WaitGroup
}

func startSlowProxy(t testing.TB, to string, delay time.Duration) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &slowProxy{Listener: l, ctx: ctx}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.pass(c, to, delay) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		p.wg.Wait()
	})
	return l.Addr().String()
}

func (p *slowProxy) pass(c net.Conn, to string, delay time.Duration) {
	defer c.Close()
	s, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer s.Close()
	stop := context.AfterFunc(p.ctx, func() { c.Close(); s.Close() })
	defer stop()
	p.wg.Go(func() {
		io.Copy(s, c) // ends with either
		s.Close()
	})
	buf := make([]byte, 64<<10)
	for {
		n, err := s.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-time.After(delay):
		case <-p.ctx.Done():
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// open makes a cache with settings that suit a machine under load.
func open(t testing.TB, kind string, change func(*Config), addresses ...string) *Cache {
	t.Helper()
	cfg := testConfig(kind, addresses...)
	cfg.Timeout, cfg.RetryAfter = 10*time.Second, 50*time.Millisecond
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func describe(kind string, n int) string { return fmt.Sprintf("%s, %d servers", kind, n) }
