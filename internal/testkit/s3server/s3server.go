// Package s3server starts a real S3 service, versitygw, for tests. make tools
// builds it; LOKI_GO_TOOLS names the folder.
package s3server

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// Credentials and region of every server.
const (
	AccessKey = "test-access"
	SecretKey = "test-secret"
	Region    = "us-east-1"
)

// Server is a running service. Its buckets are folders of Dir.
type Server struct {
	URL string // http://127.0.0.1:PORT
	Dir string

	t    testing.TB
	port int
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// New starts a server with these buckets; it ends with the test.
func New(t testing.TB, buckets ...string) *Server {
	t.Helper()
	s := &Server{t: t, Dir: t.TempDir(), port: testkit.FreePort(t)}
	s.URL = fmt.Sprintf("http://127.0.0.1:%d", s.port)
	for _, b := range buckets {
		s.MakeBucket(b)
	}
	s.Start()
	t.Cleanup(s.Kill)
	return s
}

// MakeBucket adds an empty bucket.
func (s *Server) MakeBucket(name string) {
	s.t.Helper()
	if err := os.Mkdir(filepath.Join(s.Dir, name), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

// Start starts the server anew after Kill, with what it had.
func (s *Server) Start() {
	s.t.Helper()
	tools := os.Getenv("LOKI_GO_TOOLS")
	if tools == "" {
		s.t.Fatal("LOKI_GO_TOOLS is not set: run make integration")
	}
	s.out, s.done = &output{}, make(chan struct{})
	s.cmd = exec.Command(filepath.Join(tools, "versitygw"),
		"--port", fmt.Sprintf("127.0.0.1:%d", s.port), "--region", Region, "--quiet", "posix", s.Dir)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // killed in any case
		close(done)
	}(s.cmd, s.done)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			return
		}
		select {
		case <-s.done:
			s.t.Fatalf("the S3 server ended:\n%s", s.out)
		case <-ctx.Done():
			s.t.Fatalf("the S3 server does not answer:\n%s", s.out)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Kill ends the server at once. What was stored stays.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.done
}
