package query

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/chunk"
)

// growing is a source to which entries are added while it is read.
type growing struct {
	mu sync.Mutex
	fake
}

func (g *growing) push(ls string, es ...entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.add(ls, newBlock(es...))
}

func (g *growing) Select(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.fake.Select(ctx, tenant, ms, from, through)
}

// wsClient is a client of a WebSocket, with as much of it as the tests need.
type wsClient struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dialTail(t *testing.T, base, params string, header ...string) (*wsClient, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r, err := http.NewRequest(http.MethodGet, base+"/loki/api/v1/tail?"+params, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range append([]string{
		"X-Scope-OrgID: t", "Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}, header...) {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, r)
	if err != nil {
		t.Fatal(err)
	}
	return &wsClient{t, conn, in}, resp
}

// read returns the next frame that is not a ping.
func (c *wsClient) read() (op byte, payload string) {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	for {
		head := make([]byte, 2, 10)
		if _, err := io.ReadFull(c.in, head); err != nil {
			c.t.Fatal(err)
		}
		n := uint64(head[1])
		if n >= 126 {
			ext := make([]byte, map[uint64]int{126: 2, 127: 8}[n])
			if _, err := io.ReadFull(c.in, ext); err != nil {
				c.t.Fatal(err)
			}
			n = binary.BigEndian.Uint64(append(make([]byte, 8-len(ext)), ext...))
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(c.in, b); err != nil {
			c.t.Fatal(err)
		}
		if op = head[0] & 0xf; op != opPing {
			return op, string(b)
		}
	}
}

func (c *wsClient) write(op byte, payload string) {
	c.t.Helper()
	b := []byte{0x80 | op, 0x80 | byte(len(payload)), 1, 2, 3, 4}
	for i := range len(payload) {
		b = append(b, payload[i]^byte(i%4+1))
	}
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func tailServer(t *testing.T, src Source) (*Handler, string) {
	t.Helper()
	e, err := New(Deps{Memory: src}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	h := NewHandler(HandlerDeps{Engine: e, Tenant: func(r *http.Request) (string, error) {
		if id := r.Header.Get("X-Scope-OrgID"); id != "none" {
			return id, nil
		}
		return "", errors.New("no org id")
	}})
	mux := http.NewServeMux()
	h.Register(mux)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	t.Cleanup(h.Close)
	return h, s.URL
}

func TestTail(t *testing.T) {
	src := &growing{}
	now := time.Now().UnixNano()
	src.push(`{a="b"}`, entry{now - 3e9, "three", ""}, entry{now - 2e9, "two", "k=v"}, entry{now - 1e9, "one", ""})
	h, base := tailServer(t, src)
	q := "query=" + url.QueryEscape(`{a="b"} != "not"`)
	c, resp := dialTail(t, base, q+"&limit=2", "X-Loki-Response-Encoding-Flags: categorize-labels")
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("got %d, %v", resp.StatusCode, resp.Header)
	}
	f := func(want string) {
		t.Helper()
		if op, got := c.read(); op != opText || got != want {
			t.Fatalf("got %d %s\nwant %s", op, got, want)
		}
	}
	f(fmt.Sprintf(`{"streams":[{"stream":{"a":"b"},"values":[["%d","two",{"structuredMetadata":{"detected_level":"unknown","k":"v"}}],["%d","one",{"structuredMetadata":{"detected_level":"unknown"}}]]}],"encodingFlags":["categorize-labels"]}`, now-2e9, now-1e9))
	// What comes in late is shown. What was shown, does not match, or was left out by the limit is not.
	src.push(`{a="b"}`, entry{now - 15e8, "late", ""})
	src.push(`{a="b", c="d"}`, entry{now - 15e8, "not this", ""})
	f(fmt.Sprintf(`{"streams":[{"stream":{"a":"b"},"values":[["%d","late",{"structuredMetadata":{"detected_level":"unknown"}}]]}],"encodingFlags":["categorize-labels"]}`, now-15e8))
	src.push(`{a="b"}`, entry{time.Now().UnixNano(), strings.Repeat("long ", 20000), ""})
	if op, got := c.read(); op != opText || len(got) < 100_000 {
		t.Fatalf("got %d %.100s", op, got)
	}
	c.write(opPing, "hello")
	if op, got := c.read(); op != opPong || got != "hello" {
		t.Fatalf("got %d %q", op, got)
	}
	c.write(opClose, "\x03\xe8")
	if op, got := c.read(); op != opClose || got != "\x03\xe8" {
		t.Fatalf("got %d %q", op, got)
	}

	// Closing the handler closes what is open, and nothing begins any more.
	c, _ = dialTail(t, base, q)
	c.read()
	closed := make(chan struct{})
	go func() { h.Close(); close(closed) }()
	if op, got := c.read(); op != opClose || got != "\x03\xe8the server is about to stop" {
		t.Fatalf("got %d %q", op, got)
	}
	<-closed
	if _, resp := dialTail(t, base, q); resp.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("got %d", resp.StatusCode)
	}
}

func TestTailErrors(t *testing.T) {
	src := &growing{}
	src.push(`{a="b"}`, entry{time.Now().UnixNano() - 1e9, "x", ""})
	_, base := tailServer(t, src)
	q := "query=" + url.QueryEscape(`{a="b"}`)
	f := func(params string, code int, want string, header ...string) {
		t.Helper()
		_, resp := dialTail(t, base, params, header...)
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != code || !strings.HasPrefix(string(b), want) {
			t.Fatalf("%s: got %d %s, %v", params, resp.StatusCode, b, err)
		}
	}
	f("query={", 400, "parse error at line 1, col 2")
	f("query=vector(1)", 400, "only log selector is supported")
	f(q+"&limit=0", 400, "limit must be a positive value")
	f(q+"&delay_for=6", 400, "delay_for can't be greater than 5")
	f(q+"&delay_for=x", 400, `strconv.Atoi: parsing "x": invalid syntax`)
	f(q+"&start=x", 400, "could not parse 'start' parameter")
	f(q, 401, "no org id", "X-Scope-OrgID: none")
	f(q, 400, "Bad Request: this is for WebSocket clients", "Upgrade: h2c")
	f(q, 426, "Bad Request: WebSocket version 13", "Sec-WebSocket-Version: 8")
	f(q, 400, "Bad Request: Sec-WebSocket-Key", "Sec-WebSocket-Key: short")

	// A frame that is not masked, and one that is too long.
	for _, b := range [][]byte{{0x81, 1, 'x'}, {0x81, 0xff, 0, 0, 0, 0, 1, 0, 0, 0}, {0x81, 0xfe, 0x10, 1}} {
		c, _ := dialTail(t, base, q)
		c.read()
		if _, err := c.conn.Write(b); err != nil {
			t.Fatal(err)
		}
		if op, got := c.read(); op != opClose || !strings.HasPrefix(got, "\x03\xf1") {
			t.Fatalf("%x: got %d %q", b, op, got)
		}
	}

	// A tenant has so many, and may have others when they are closed.
	var open []*wsClient
	deadline := time.Now().Add(20 * time.Second)
	for len(open) < maxTails {
		c, resp := dialTail(t, base, q)
		if resp.StatusCode == http.StatusSwitchingProtocols {
			open = append(open, c)
		} else if time.Now().After(deadline) { // those from before count until the server has let go of them
			t.Fatal(resp.Status)
		}
	}
	f(q, 400, "max concurrent tail requests limit exceeded, count > limit (11 > 10)")
	open[0].read()
	open[0].write(opClose, "")
	open[0].read()
	if _, err := io.ReadAll(open[0].in); err != nil {
		t.Fatal(err)
	}
	for {
		_, resp := dialTail(t, base, q)
		if resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}

	// What a source reports closes the connection.
	src = &growing{}
	src.err = errors.New("broken")
	_, base = tailServer(t, src)
	c, _ := dialTail(t, base, q)
	if op, got := c.read(); op != opClose || got != "\x03\xf3broken" {
		t.Fatalf("got %d %q", op, got)
	}
}
