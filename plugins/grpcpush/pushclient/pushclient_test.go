package pushclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/proto/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server counts calls and answers as it is told.
type server struct {
	ingestpb.UnimplementedIngestServer
	addr   string
	stop   func()
	calls  atomic.Int64
	mu     sync.Mutex
	md     metadata.MD
	answer func(ctx context.Context) error
}

func (s *server) Push(ctx context.Context, _ *ingestpb.PushRequest) (*ingestpb.PushResponse, error) {
	s.calls.Add(1)
	s.mu.Lock()
	s.md, _ = metadata.FromIncomingContext(ctx)
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		if err := answer(ctx); err != nil {
			return nil, ingestpb.StatusError(err)
		}
	}
	return &ingestpb.PushResponse{}, nil
}

func (s *server) set(answer func(ctx context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func serve(t *testing.T, addr string, opts ...grpc.ServerOption) *server {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String()}
	srv := grpc.NewServer(opts...)
	ingestpb.RegisterIngestServer(srv, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	s.stop = func() { srv.Stop(); <-done }
	t.Cleanup(s.stop)
	return s
}

func dial(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func batch() *push.Batch {
	bl := push.NewBuilder(push.Get())
	bl.EntryExact(bl.Stream([]byte(`{a="b"}`)), 1, []byte("line"))
	return bl.Finish()
}

// connect pushes until every server has had one.
func connect(t *testing.T, c *Client, servers ...*server) {
	t.Helper()
	ctx := within(t, 10*time.Second)
	for slices.ContainsFunc(servers, func(s *server) bool { return s.calls.Load() == 0 }) {
		if err := c.Push(ctx, batch()); err != nil {
			t.Fatal(err)
		}
	}
}

func busy(context.Context) error { return push.Errorf(push.Overloaded, "busy") }

// TestEachServerOnce asks every server once, however many pushes there are at
// the same time.
func TestEachServerOnce(t *testing.T) {
	var servers []*server
	var addrs []string
	for range 3 {
		s := serve(t, "127.0.0.1:0")
		servers, addrs = append(servers, s), append(addrs, s.addr)
	}
	c := dial(t, Options{Addresses: addrs})
	connect(t, c, servers...)
	for _, s := range servers {
		s.set(busy)
		s.calls.Store(0)
	}
	const pushes = 64
	var wg sync.WaitGroup
	for range pushes {
		wg.Go(func() {
			var e *push.Error
			if err := c.Push(within(t, 10*time.Second), batch()); !errors.As(err, &e) || e.Reason != push.Overloaded {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	for _, s := range servers {
		if n := s.calls.Load(); n != pushes {
			t.Fatalf("%d calls of one server for %d pushes", n, pushes)
		}
	}
	// One can: all pushes end there.
	servers[1].set(nil)
	for range 20 {
		if err := c.Push(within(t, 10*time.Second), batch()); err != nil {
			t.Fatal(err)
		}
	}
	// What no server would take goes to one only.
	for _, s := range servers {
		s.calls.Store(0)
		s.set(func(context.Context) error { return push.Errorf(push.Malformed, "no") })
	}
	_ = c.Push(within(t, 10*time.Second), batch())
	if n := servers[0].calls.Load() + servers[1].calls.Load() + servers[2].calls.Load(); n != 1 {
		t.Fatalf("%d calls for a push that is malformed", n)
	}
}

// TestOneServer is not asked again at once when it has said that it is busy.
func TestOneServer(t *testing.T) {
	s := serve(t, "127.0.0.1:0")
	c := dial(t, Options{Addresses: []string{s.addr}})
	connect(t, c, s)
	s.calls.Store(0)
	s.set(busy)
	if err := c.Push(within(t, 5*time.Second), batch()); err == nil || s.calls.Load() != 1 {
		t.Fatalf("%d calls, %v", s.calls.Load(), err)
	}
	s.set(func(context.Context) error { return context.DeadlineExceeded })
	if err := c.Push(within(t, 5*time.Second), batch()); err == nil || s.calls.Load() != 2 {
		t.Fatalf("%d calls, %v", s.calls.Load(), err)
	}
}

// TestMute has a server that takes a push and says nothing more.
func TestMute(t *testing.T) {
	a, b := serve(t, "127.0.0.1:0"), serve(t, "127.0.0.1:0")
	c := dial(t, Options{Addresses: []string{a.addr, b.addr}})
	connect(t, c, a, b)
	a.set(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	for range 4 {
		if err := c.Push(within(t, 400*time.Millisecond), batch()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNames moves a name to another server while pushes go on.
func TestNames(t *testing.T) {
	s := serve(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(s.addr)
	other := serve(t, "[::1]:"+port)
	var mu sync.Mutex
	ips, lookups := []string{"127.0.0.1"}, 0
	c := dial(t, Options{Addresses: []string{"gateway.test:" + port}, lookup: func(_ context.Context, host string) ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		if lookups++; host != "gateway.test" || lookups == 1 {
			return nil, errors.New("no such host " + host)
		}
		return ips, nil
	}})
	// The first look-up fails; the next is soon.
	ctx := within(t, 10*time.Second)
	err := c.Push(ctx, batch())
	if err == nil || !strings.Contains(err.Error(), "no such host gateway.test") {
		t.Fatalf("got %v", err)
	}
	for c.Push(ctx, batch()) != nil {
		if ctx.Err() != nil {
			t.Fatal("a name that can be looked up is not used")
		}
	}
	mu.Lock()
	ips = []string{"::1"}
	mu.Unlock()
	s.stop()
	for c.Push(ctx, batch()) != nil {
		if ctx.Err() != nil {
			t.Fatal("a name's new address is not used")
		}
	}
	if s.calls.Load() == 0 || other.calls.Load() == 0 {
		t.Fatalf("%d and %d calls", s.calls.Load(), other.calls.Load())
	}
}

// TestLook keeps what a name stood for while it cannot be looked up, and leaves
// out what two names have in common.
func TestLook(t *testing.T) {
	var fail atomic.Bool
	servers := new(atomic.Int64)
	b := &resolverBuilder{
		addresses: []string{"a:1", "10.0.0.9:2", "b:1", "[::1]:3"}, servers: servers,
		lookup: func(_ context.Context, host string) ([]string, error) {
			if host == "a" && fail.Load() {
				return nil, errors.New("no such host")
			}
			return map[string][]string{"a": {"10.0.0.1", "10.0.0.2", "10.0.0.1"}, "b": {"fe80::1"}}[host], nil
		},
	}
	cc := &clientConn{states: make(chan resolver.State)}
	r, err := b.Build(resolver.Target{}, cc, resolver.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want := "10.0.0.1:1 a:1, 10.0.0.2:1 a:1, 10.0.0.9:2 10.0.0.9:2, [fe80::1]:1 b:1, [::1]:3 [::1]:3"
	for range 2 {
		var got []string
		for _, a := range (<-cc.states).Addresses {
			got = append(got, a.Addr+" "+a.ServerName)
		}
		if strings.Join(got, ", ") != want {
			t.Fatalf("got %q", got)
		}
		fail.Store(true)
		r.ResolveNow(resolver.ResolveNowOptions{})
	}
	if servers.Load() != 5 {
		t.Fatalf("%d servers", servers.Load())
	}
}

type clientConn struct {
	resolver.ClientConn
	states chan resolver.State
}

func (c *clientConn) UpdateState(s resolver.State) error { c.states <- s; return nil }

func TestTLS(t *testing.T) {
	certs, others := testcert.New(t), testcert.New(t)
	conf, err := tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key, ClientCAFile: certs.CA}.Config(nil, "h2")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, "127.0.0.1:0", grpc.Creds(credentials.NewTLS(conf)))
	_, port, _ := net.SplitHostPort(s.addr)
	push := func(address string, c tlsconf.Client) error {
		t.Helper()
		conf, err := c.Config()
		if err != nil {
			t.Fatal(err)
		}
		return dial(t, Options{Addresses: []string{address}, TLS: conf}).Push(within(t, 5*time.Second), batch())
	}
	good := tlsconf.Client{CAFile: certs.CA, CertFile: certs.ClientCert, KeyFile: certs.ClientKey}
	for _, a := range []string{s.addr, "localhost:" + port} {
		if err := push(a, good); err != nil {
			t.Fatalf("%s: %v", a, err)
		}
	}
	named := good
	named.ServerName = "example.org"
	if err := push(s.addr, named); err == nil || !strings.Contains(err.Error(), "example.org") {
		t.Fatalf("another name: %v", err)
	}
	named.ServerName = "localhost"
	if err := push(s.addr, named); err != nil {
		t.Fatal(err)
	}
	strange := good
	strange.CAFile = others.CA
	if err := push(s.addr, strange); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Fatalf("another CA: %v", err)
	}
	if err := push(s.addr, tlsconf.Client{CAFile: certs.CA}); err == nil {
		t.Fatal("a client without a certificate may push")
	}
	plain := dial(t, Options{Addresses: []string{s.addr}})
	if err := plain.Push(within(t, time.Second), batch()); err == nil {
		t.Fatal("a client without TLS may push")
	}
}

func TestMetadata(t *testing.T) {
	s := serve(t, "127.0.0.1:0")
	n := 0
	c := dial(t, Options{Addresses: []string{s.addr}, UserAgent: "tester/1", Metadata: func() ([]string, error) {
		if n++; n == 3 {
			return nil, errors.New("no token")
		}
		return []string{"authorization", fmt.Sprint("Bearer ", n), "x-a", "b"}, nil
	}})
	for i := 1; i < 3; i++ {
		if err := c.Push(within(t, 5*time.Second), batch()); err != nil {
			t.Fatal(err)
		}
		if got := s.md.Get("authorization"); len(got) != 1 || got[0] != fmt.Sprint("Bearer ", i) || s.md.Get("x-a")[0] != "b" ||
			!strings.HasPrefix(s.md.Get("user-agent")[0], "tester/1") {
			t.Fatalf("got %v", s.md)
		}
	}
	var e *push.Error
	if err := c.Push(within(t, 5*time.Second), batch()); !errors.As(err, &e) || !e.Reason.Retryable() || !strings.Contains(e.Msg, "no token") {
		t.Fatalf("got %v", err)
	}
}
