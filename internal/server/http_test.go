package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// logBuffer collects log lines and lets a test wait for one.
type logBuffer struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	lines chan string
}

func newLogBuffer() *logBuffer { return &logBuffer{lines: make(chan string, 100)} }

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines <- string(p)
	return b.buf.Write(p)
}

func testHTTPConfig() HTTPConfig {
	c := DefaultHTTPConfig()
	c.ReadHeaderTimeout, c.BodyTimeout = 150*time.Millisecond, 150*time.Millisecond
	return c
}

func serve(t *testing.T, cfg HTTPConfig, mux *http.ServeMux) (string, *logBuffer) {
	t.Helper()
	out := newLogBuffer()
	s, err := newHTTPServer(cfg, mux, func(h http.Handler) http.Handler { return h }, slog.New(slog.NewTextHandler(out, nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), out
}

func TestStalledRequestsAreCutWithOneLine(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /p", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), 400)
		}
	})
	mux.HandleFunc("POST /refuse", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 400) })
	addr, out := serve(t, testHTTPConfig(), mux)
	for name, sent := range map[string]string{
		"in the headers": "POST /p HTTP/1.1\r\nHost: x\r\nX-A: ",
		"in the body":    "POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
		"unread body":    "POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
		"in a chunk":     "POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprint(c, sent)
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Fatalf("connection was not closed: %v", err)
			}
			if line := <-out.lines; !strings.Contains(line, "stopped sending") || !strings.Contains(line, c.LocalAddr().String()) {
				t.Errorf("logged %q", line)
			}
			select {
			case line := <-out.lines:
				t.Errorf("a second line: %q", line)
			default:
			}
		})
	}
}

// A handler that takes its connection over ends a read of the server's, which
// is no fault of the client's.
func TestHijackIsNoStall(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(50 * time.Millisecond) // until the server waits for more
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprint(c, "over")
	})
	addr, out := serve(t, testHTTPConfig(), mux)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || string(b) != "over" {
		t.Fatalf("%q, %v", b, err)
	}
	select {
	case line := <-out.lines:
		t.Errorf("logged %q", line)
	default:
	}
}

// With room for one connection the second is served when the first has gone.
func TestMaxConnections(t *testing.T) {
	cfg := testHTTPConfig()
	cfg.MaxConnections = 1
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	addr, out := serve(t, cfg, mux)
	ask := func() (*bufio.Reader, net.Conn) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		return bufio.NewReader(c), c
	}
	answer := func(r *bufio.Reader) {
		t.Helper()
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
	}
	r, first := ask()
	answer(r)
	r, second := ask()
	if line := <-out.lines; !strings.Contains(line, "as many HTTP connections as allowed") {
		t.Errorf("logged %q", line)
	}
	first.Close()
	answer(r)
	second.Close()
}

func TestSlowUploadLives(t *testing.T) {
	cfg := testHTTPConfig()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /p", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		// The body is over: its deadline must not end the request.
		select {
		case <-r.Context().Done():
			t.Error("request cancelled after its body")
		case <-time.After(2 * cfg.BodyTimeout):
		}
		fmt.Fprint(w, n, err)
	})
	addr, _ := serve(t, cfg, mux)
	r, w := io.Pipe()
	go func() {
		part := make([]byte, progress)
		for range 10 { // six times the timeout in all, each part well within it
			time.Sleep(cfg.BodyTimeout * 6 / 10)
			if _, err := w.Write(part); err != nil {
				return
			}
		}
		w.Close()
	}()
	resp, err := http.Post("http://"+addr+"/p", "", r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	if got, _ := io.ReadAll(resp.Body); string(got) != fmt.Sprint(10*progress, " <nil>") {
		t.Errorf("answer %q", got)
	}
}

func TestBusyServerIsNotASlowClient(t *testing.T) {
	cfg := testHTTPConfig()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /p", func(w http.ResponseWriter, r *http.Request) {
		n, buf := 0, make([]byte, 4<<10)
		for {
			k, err := io.ReadFull(r.Body, buf)
			n += k
			if err != nil {
				fmt.Fprint(w, n, err)
				return
			}
			time.Sleep(cfg.BodyTimeout / 2) // decompressing, say
		}
	})
	addr, _ := serve(t, cfg, mux)
	resp, err := http.Post("http://"+addr+"/p", "", bytes.NewReader(make([]byte, 42<<10)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	if got, _ := io.ReadAll(resp.Body); string(got) != fmt.Sprint(42<<10, " unexpected EOF") {
		t.Errorf("answer %q", got)
	}
}

func TestIdleConnectionIsNotLogged(t *testing.T) {
	cfg := testHTTPConfig()
	cfg.IdleTimeout = 50 * time.Millisecond
	mux := http.NewServeMux()
	mux.HandleFunc("GET /g", func(w http.ResponseWriter, r *http.Request) {})
	addr, out := serve(t, cfg, mux)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /g HTTP/1.1\r\nHost: x\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Fatalf("connection was not closed: %v", err)
	}
	select {
	case line := <-out.lines:
		t.Errorf("logged %q", line)
	default:
	}
}

func TestHugeHeadersAreRefused(t *testing.T) {
	cfg := testHTTPConfig()
	cfg.MaxHeaderBytes = 4096
	addr, _ := serve(t, cfg, http.NewServeMux())
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /g HTTP/1.1\r\nHost: x\r\nX-A: %s\r\n\r\n", strings.Repeat("a", 16<<10))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %v, %v", resp, err)
	}
}
