// Package testkit is what tests of the whole system are made of: the real
// binary as a process that can be killed, clients of every protocol that share
// no code with the servers, and log lines.
package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var build struct {
	once sync.Once
	path string
	err  error
}

// Binary builds cmd/loki-go once for the test process and returns its path.
// LOKI_GO_BINARY names one that is built already.
func Binary(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		if build.path = os.Getenv("LOKI_GO_BINARY"); build.path != "" {
			return
		}
		dir, err := os.MkdirTemp("", "loki-go-test-")
		if err != nil {
			build.err = err
			return
		}
		build.path = filepath.Join(dir, "loki-go")
		out, err := exec.Command("go", "build", "-o", build.path, "github.com/loki-go/loki-go/cmd/loki-go").CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("build loki-go: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

// RemoveBinary deletes what Binary built. Call it at the end of TestMain.
func RemoveBinary() {
	if build.path != "" && os.Getenv("LOKI_GO_BINARY") == "" {
		os.RemoveAll(filepath.Dir(build.path))
	}
}

// ports are those that FreePort has given out.
var ports sync.Map

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on. It is below
// those that the system gives to outgoing connections: until a server listens
// there, and while it is down, nobody else is likely to take it.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 10000 + rand.IntN(22000)
		if _, taken := ports.LoadOrStore(port, true); taken {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// Server is a loki-go process, and what a new one needs to take its place.
// Its ports stay the same over restarts. It is for one goroutine, except that
// its addresses may be read by many.
type Server struct {
	t      testing.TB
	bin    string
	Dir    string
	Args   []string
	Under  []string // what the command line begins with, if not with the program
	HTTP   string   // host:port
	GRPC   string
	Fwd    string
	cmd    *exec.Cmd
	exited chan struct{}
	state  error
	mu     sync.Mutex
	output bytes.Buffer
}

// NewServer prepares a process with its data in dir. args are added to the
// addresses and the directory. It is killed at the end of the test.
func NewServer(t testing.TB, dir string, args ...string) *Server {
	t.Helper()
	s := &Server{t: t, bin: Binary(t), Dir: dir, Args: args}
	addr := func() string { return "127.0.0.1:" + strconv.Itoa(FreePort(t)) }
	s.HTTP, s.GRPC, s.Fwd = addr(), addr(), addr()
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("last output of loki-go:\n%s", tail(s.Output(), 4000))
		}
	})
	return s
}

// Client returns an HTTP client for tenant.
func (s *Server) Client(tenant string) *Client {
	return &Client{Base: "http://" + s.HTTP, Tenant: tenant}
}

// Start starts the process and returns at once.
func (s *Server) Start() {
	s.t.Helper()
	args := append([]string{
		"-data-dir=" + s.Dir, "-server.http-listen=" + s.HTTP, "-server.grpc-listen=" + s.GRPC,
		"-forward.listen=" + s.Fwd, "-otlp.grpc-listen=",
	}, s.Args...)
	line := append(append(slices.Clone(s.Under), s.bin), args...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = (*output)(s), (*output)(s)
	// The process must not outlive a test binary that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		s.state = cmd.Wait()
		close(exited)
	}()
}

// WaitReady waits until /ready says so.
func (s *Server) WaitReady() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	exited := s.exited
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := s.Client("").Ready(ctx); err != nil {
		s.t.Fatalf("%v\n%s", err, tail(s.Output(), 4000))
	}
}

// PID returns the process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Kill ends the process without a chance to tidy up.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	// An error means that it has ended already.
	_ = s.cmd.Process.Kill()
	<-s.exited
	s.cmd = nil
}

// Stop asks the process to end and waits until it has.
func (s *Server) Stop(within time.Duration) error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.Wait(within)
}

// Signal sends sig.
func (s *Server) Signal(sig os.Signal) error { return s.cmd.Process.Signal(sig) }

// Wait waits until the process has ended; the error is that of its exit code.
func (s *Server) Wait(within time.Duration) error {
	select {
	case <-s.exited:
		s.cmd = nil
		return s.state
	case <-time.After(within):
		return errors.New("loki-go did not end")
	}
}

// Output returns what the processes have printed so far.
func (s *Server) Output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.output.String()
}

type output Server

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.output.Write(p)
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "..." + s[strings.IndexByte(s[len(s)-n:], '\n')+len(s)-n:]
}
