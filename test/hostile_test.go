package test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/bench"
	"github.com/loki-go/loki-go/internal/testkit"
)

// bomb is a gigabyte of c that gzip makes small.
func bomb(t *testing.T, c string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	block := bytes.Repeat([]byte(c), 1<<20/len(c))
	for range 1 << 10 {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestHostileInput: each attack costs bounded memory and one line in the log,
// and the next one who comes is served.
func TestHostileInput(t *testing.T) {
	s := testkit.NewServer(t, t.TempDir(), "-server.http-read-header-timeout=1s", "-server.http-body-timeout=1s",
		"-forward.read-timeout=1s", "-forward.hold=1s", "-json.max-decoded=64MB", "-loki-push.max-decoded-size=64MB")
	s.Start()
	s.WaitReady()

	post := func(path, contentType, encoding string, body []byte) func() string {
		return func() string {
			req, err := http.NewRequest(http.MethodPost, "http://"+s.HTTP+path, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", contentType)
			if encoding != "" {
				req.Header.Set("Content-Encoding", encoding)
			}
			resp, err := http.DefaultClient.Do(req)
			if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
				return "413: the server closed while it was still being sent to" // instead of reading on
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			return fmt.Sprint(resp.StatusCode, " ", string(text))
		}
	}
	// closed sends data and waits until the other side has closed.
	closed := func(addr string, data []byte) func() string {
		return func() string {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() { _, _ = c.Write(data) }() // the server need not read all of it
			if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Error(err)
			}
			answer, err := io.ReadAll(c)
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				return "still open"
			}
			return "closed " + string(answer)
		}
	}
	snappyLie := append(binary.AppendUvarint(nil, 1<<31-1), 0, 0)
	const forwardHead = "\x93\xa3tag"
	nested := strings.Repeat(`{"a":[`, 10_000) + strings.Repeat(`]}`, 10_000)
	last := map[string]time.Time{}
	for _, a := range []struct {
		name, receiver string
		attack         func() string
		want           string
	}{
		{"gzip bomb to the push API", "loki", post("/loki/api/v1/push", "application/json", "gzip", bomb(t, " ")), "413"},
		{"2 GiB announced in forward", "forward", closed(s.Fwd, []byte(forwardHead+"\xc6\x7f\xff\xff\xff")), "closed"},
		{"gzip bomb of events", "json", post("/ingest/json", "application/json", "gzip", bomb(t, `{"message":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}`)), "413"},
		{"snappy that announces 2 GiB", "loki", post("/loki/api/v1/push", "application/x-protobuf", "", snappyLie), "4"},
		{"slow headers", "http", closed(s.HTTP, []byte("POST /loki/api/v1/push HTTP/1.1\r\nHost: x\r\n")), "closed"},
		{"2^32 elements announced in forward", "forward", closed(s.Fwd, []byte(forwardHead+"\xdd\xff\xff\xff\xff")), "closed"},
		{"nested events", "json", post("/ingest/json", "application/json", "", []byte(nested)), "400"},
		{"nested push", "loki", post("/loki/api/v1/push", "application/json", "", []byte(`{"streams":`+nested+`}`)), "400"},
		{"slow body", "http", closed(s.HTTP, []byte("POST /ingest/json HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")), "closed"},
		{"nested forward", "forward", closed(s.Fwd, []byte(forwardHead+"\x00"+strings.Repeat("\x91", 10_000))), "closed"},
		{"not the forward protocol", "forward", closed(s.Fwd, []byte("GET / HTTP/1.1\r\n\r\n")), "closed"},
		{"slow forward", "forward", closed(s.Fwd, []byte(forwardHead+"\xc6\x00\x00\x10\x00")), "closed"},
	} {
		t.Run(a.name, func(t *testing.T) {
			// Receivers log one refusal a second, and the number of those between.
			time.Sleep(time.Until(last[a.receiver].Add(1100 * time.Millisecond)))
			defer func() { last[a.receiver] = time.Now() }()
			before := strings.Count(s.Output(), "\n")
			if got := a.attack(); !strings.HasPrefix(got, a.want) {
				t.Errorf("answer %.200q, want %s", got, a.want)
			}
			eventually(t, "a line in the log", func() bool { return strings.Count(s.Output(), "\n") > before })
			if err := s.Client("").Push(context.Background(), []testkit.Stream{{
				Labels:  []testkit.Pair{{Name: "after", Value: "attack"}},
				Entries: []testkit.Entry{{TS: time.Now().UnixNano(), Line: a.name}},
			}}); err != nil {
				t.Errorf("afterwards a push fails: %v", err)
			}
			if lines := strings.Split(s.Output(), "\n"); len(lines) != before+2 {
				t.Errorf("not one line in the log:\n%s", strings.Join(lines[before:], "\n"))
			}
		})
	}
	u, err := bench.ReadUsage(s.PID())
	if err != nil {
		t.Fatal(err)
	}
	if u.PeakRSS > 400<<20 {
		t.Errorf("peak of memory is %d MB", u.PeakRSS>>20)
	}
	t.Logf("peak of memory is %d MB", u.PeakRSS>>20)
}
