package chunkcache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// script is a server that reads a line (and, after a set, what it announces)
// and answers with what say returns; closing the connection if that is "".
type script struct {
	net.Listener
	mu    sync.Mutex
	say   func(line string) string
	conns []net.Conn
	wg    sync.WaitGroup

	always []byte // instead of say
}

func startScript(t testing.TB, say func(line string) string) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{Listener: l, say: say}
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		l.Close()
		s.hangUp()
		s.wg.Wait()
	})
	return s
}

func (s *script) accept() {
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(c) })
	}
}

func (s *script) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		var key string
		var flags, exp, n int
		if _, err := fmt.Sscanf(line, "set %s %d %d %d\r\n", &key, &flags, &exp, &n); err == nil {
			if _, err := io.CopyN(io.Discard, r, int64(n)+2); err != nil {
				return
			}
		}
		if s.always != nil {
			if _, err := c.Write(s.always); err != nil {
				return
			}
			continue
		}
		s.mu.Lock()
		say := s.say
		s.mu.Unlock()
		answer := say(strings.TrimSpace(line))
		if _, err := io.WriteString(c, answer); err != nil || answer == "" {
			return
		}
	}
}

// hangUp closes all connections.
func (s *script) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *script) set(say func(line string) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.say = say
}

func newMemcached(t testing.TB, address string, change func(*Config)) *memcached {
	t.Helper()
	cfg := testConfig(Memcached, address)
	if change != nil {
		change(&cfg)
	}
	connect, err := cfg.connector()
	if err != nil {
		t.Fatal(err)
	}
	m := connect(address).(*memcached)
	t.Cleanup(m.close)
	return m
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestReplies: each reply leads to one result, and a connection goes on after
// those that leave it in order.
func TestReplies(t *testing.T) {
	s := startScript(t, nil)
	m := newMemcached(t, s.Addr().String(), func(c *Config) { c.MaxItemSize = 1000 })
	get := func(reply, want string, err string, keeps bool) {
		t.Helper()
		s.set(func(line string) string {
			if line != "get key" {
				t.Errorf("request %q", line)
			}
			return reply
		})
		got, e := m.get(soon(t), "key")
		check(t, reply, e, err)
		if string(got) != want || len(m.idle) == 1 != keeps {
			t.Errorf("%q: got %q, connection kept: %v", reply, got, len(m.idle) == 1)
		}
		m.close()
	}
	get("VALUE key 0 5\r\nhello\r\nEND\r\n", "hello", "", true)
	get("VALUE key 32 0\r\n\r\nEND\r\n", "", "", true)
	get("VALUE key 0 9\r\na\r\nEND\r\nb\r\nEND\r\n", "a\r\nEND\r\nb", "", true)
	get("END\r\n", "", errMiss.Error(), true)
	get("END\r\nEND\r\n", "", errMiss.Error(), false)
	get("VALUE other 0 5\r\nhello\r\nEND\r\n", "", "unexpected reply", false)
	get("VALUE key 0 5\r\nhello\r\nVALUE key 0 5\r\nhello\r\nEND\r\n", "", "unexpected reply", false)
	get("VALUE key 0 1001\r\n", "", "the value has 1001 bytes, the limit is 1000", false)
	get("VALUE key 0 4294967296\r\n", "", "unexpected reply", false)
	get("VALUE key 0 -1\r\n", "", "unexpected reply", false)
	get("VALUE key 0\r\n", "", "unexpected reply", false)
	get("VALUE key 0 4\r\nhello\r\nEND\r\n", "", "unexpected reply", false)
	get("SERVER_ERROR out of memory\r\n", "", `unexpected reply "SERVER_ERROR out of memory"`, false)
	get("ERROR\r\n", "", "unexpected reply", false)
	get("END\n", "", "unexpected reply", false)
	get(strings.Repeat("x", 10000)+"\r\n", "", bufio.ErrBufferFull.Error(), false)
	get("", "", io.EOF.Error(), false)

	set := func(reply, err string, keeps bool) {
		t.Helper()
		s.set(func(line string) string {
			if line != "set key 0 86400 5" {
				t.Errorf("request %q", line)
			}
			return reply
		})
		check(t, reply, m.set(soon(t), "key", []byte("hello")), err)
		if len(m.idle) == 1 != keeps {
			t.Errorf("%q: connection kept: %v", reply, len(m.idle) == 1)
		}
		m.close()
	}
	set("STORED\r\n", "", true)
	set("SERVER_ERROR object too large for cache\r\n", errTooLarge.Error(), false)
	set("SERVER_ERROR out of memory storing object\r\n", errRefused.Error(), false)
	set("NOT_STORED\r\n", errRefused.Error(), false)
	set("CLIENT_ERROR bad data chunk\r\n", "unexpected reply", false)

	s.set(func(string) string { return "VERSION 1.6.18\r\n" })
	check(t, "version", m.ping(soon(t)), "")
	s.set(func(string) string { return "ERROR\r\n" })
	check(t, "no version", m.ping(soon(t)), "unexpected reply")
}

func check(t testing.TB, what string, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%q: error %v, want %q", what, err, want)
	}
}

// TestRestartedServer: connections that broke while they were idle are no
// failure.
func TestRestartedServer(t *testing.T) {
	s := startScript(t, func(line string) string { return "END\r\n" })
	m := newMemcached(t, s.Addr().String(), nil)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := m.get(soon(t), "key"); !errors.Is(err, errMiss) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s.hangUp()
	if _, err := m.get(soon(t), "key"); !errors.Is(err, errMiss) {
		t.Error(err)
	}
	if n := len(m.idle); n != 1 {
		t.Errorf("%d connections are kept", n)
	}
}

// TestDeadline: connecting, sending and waiting end with the context.
func TestDeadline(t *testing.T) {
	block := make(chan struct{})
	s := startScript(t, func(string) string { <-block; return "" })
	defer close(block)
	m := newMemcached(t, s.Addr().String(), nil)
	big := make([]byte, 64<<20) // more than the kernel's buffers take
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	for what, request := range map[string]func(ctx context.Context) error{
		"get":  func(ctx context.Context) error { _, err := m.get(ctx, "key"); return err },
		"ping": m.ping,
		"set": func(ctx context.Context) error {
			return newMemcached(t, hole.Addr().String(), nil).set(ctx, "key", big)
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		start := time.Now()
		err := request(ctx)
		if took := time.Since(start); took > 5*time.Second || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v after %v", what, err, took)
		}
		cancel()
		if len(m.idle) != 0 {
			t.Errorf("%s: the connection is used again", what)
		}
	}
}

func TestExptime(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	for d, want := range map[time.Duration]int64{
		0: 0, time.Hour: 3600, 30 * 24 * time.Hour: 2592000, 31 * 24 * time.Hour: 1_000_000_000 + 31*86400,
	} {
		if got := exptime(d, now); got != want {
			t.Errorf("%v: %d, want %d", d, got, want)
		}
	}
}

func FuzzReadValue(f *testing.F) {
	for _, s := range []string{
		"END\r\n", "VALUE k 0 5\r\nhello\r\nEND\r\n", "VALUE k 0 4294967295\r\nx", "SERVER_ERROR x\r\n", "VALUE k 0 0\r\n\r\nEND\r\n", "VALUE k",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, reply []byte) {
		r := bufio.NewReader(bytes.NewReader(reply))
		value, err := readValue(r, "k", 1<<20)
		if err != nil {
			if value != nil {
				t.Fatal("a value and an error")
			}
			return
		}
		head, _, _ := bytes.Cut(reply, []byte("\r\n"))
		want := append(append(bytes.Clone(head), "\r\n"...), value...)
		if !bytes.HasPrefix(reply, append(want, "\r\nEND\r\n"...)) {
			t.Fatalf("%q gives %q", reply, value)
		}
	})
}

func FuzzReadStored(f *testing.F) {
	for _, s := range []string{"STORED\r\n", "NOT_STORED\r\n", "SERVER_ERROR object too large for cache\r\n", "x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, reply []byte) {
		err := readStored(bufio.NewReader(bytes.NewReader(reply)))
		if (err == nil) != bytes.HasPrefix(reply, []byte("STORED\r\n")) {
			t.Fatalf("%q: %v", reply, err)
		}
	})
}

func TestReadBytes(t *testing.T) {
	for _, n := range []int{0, 1, 2<<20 - 1, 2 << 20, 5<<20 + 3} {
		b := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
		got, err := readBytes(bytes.NewReader(b), n)
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%d: %d, %v", n, len(got), err)
		}
		if _, err := readBytes(bytes.NewReader(b), n+1); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d, cut: %v", n, err)
		}
	}
	// An announced length costs nothing until the bytes come.
	allocated := testing.AllocsPerRun(1, func() { readBytes(strings.NewReader("x"), 1<<30) })
	if allocated > 5 {
		t.Errorf("%v allocations", allocated)
	}
}
