// Package gcsserver starts an emulator of Google Cloud Storage, fake-gcs-server,
// for tests. make tools builds it; LOKI_GO_TOOLS names the folder.
package gcsserver

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/testkit"
)

// Server is a running emulator. What it holds is in its memory.
type Server struct {
	URL string // http://127.0.0.1:PORT

	t testing.TB
}

// New starts an emulator with these buckets; it ends with the test.
func New(t testing.TB, buckets ...string) *Server {
	t.Helper()
	tools := os.Getenv("LOKI_GO_TOOLS")
	if tools == "" {
		t.Fatal("LOKI_GO_TOOLS is not set: run make integration")
	}
	port := testkit.FreePort(t)
	s := &Server{t: t, URL: fmt.Sprintf("http://127.0.0.1:%d", port)}
	testkit.StartTool(t, http.DefaultClient, s.URL+"/_internal/healthcheck", nil, filepath.Join(tools, "fake-gcs-server"),
		"-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", strconv.Itoa(port), "-public-host", strings.TrimPrefix(s.URL, "http://"))
	for _, b := range buckets {
		s.MakeBucket(b)
	}
	return s
}

// MakeBucket adds an empty bucket.
func (s *Server) MakeBucket(name string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, s.URL+"/storage/v1/b?project=test", strings.NewReader(`{"name":"`+name+`"}`))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("make bucket %s: %s", name, resp.Status)
	}
}
