package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/plugins/grpcpush"
	"github.com/loki-go/loki-go/proto/push"
)

// The tests load the plugin as Fluent Bit does: a C program opens the library
// and calls its entry points; a real gRPC server answers.

var built struct {
	once       sync.Once
	host, so   string
	err        error
	dir        string
	chunkSmall string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// build makes the library and the host, once. LOKI_GO_PLUGIN names a library
// that is built already.
func build(t *testing.T) (host, so string) {
	t.Helper()
	built.once.Do(func() {
		var err error
		if built.dir, err = os.MkdirTemp("", "loki-go-plugin"); err != nil {
			built.err = err
			return
		}
		built.so = filepath.Join(built.dir, "out_loki-go.so")
		if so := os.Getenv("LOKI_GO_PLUGIN"); so != "" {
			built.so = so
		}
		built.host = filepath.Join(built.dir, "host")
		for _, args := range [][]string{
			{"go", "build", "-buildmode=c-shared", "-o", built.so, "."},
			{"gcc", "-O1", "-Wall", "-Werror", "-o", built.host, "testdata/host.c", "-ldl", "-lpthread"},
		} {
			if args[0] == "go" && os.Getenv("LOKI_GO_PLUGIN") != "" {
				continue
			}
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
			if out, err := cmd.CombinedOutput(); err != nil {
				built.err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
				return
			}
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.host, built.so
}

// process is a running host.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	log  bytes.Buffer // stderr
	done bool
}

// start runs the host with the sections and returns it with its first lines.
func start(t *testing.T, sections ...[]string) (*process, []string) {
	t.Helper()
	host, so := build(t)
	args := []string{so}
	for i, s := range sections {
		if i > 0 {
			args = append(args, "--")
		}
		args = append(args, s...)
	}
	p := &process{t: t, cmd: exec.Command(host, args...)}
	p.cmd.Stderr = &p.log
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !p.done {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	lines := []string{p.line()}
	for range sections {
		if l := p.line(); l != "" {
			lines = append(lines, l)
		}
	}
	return p, lines
}

func (p *process) line() string {
	if !p.out.Scan() {
		return ""
	}
	return p.out.Text()
}

// do sends a command and returns the answer.
func (p *process) do(format string, args ...any) string {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.t.Fatalf("the host is gone: %v\n%s", err, p.end())
	}
	l := p.line()
	if l == "" {
		p.t.Fatalf("the host is gone\n%s", p.end())
	}
	return l
}

// end waits for the host and returns what it logged.
func (p *process) end() string {
	if !p.done {
		p.done = true
		p.in.Close()
		for p.out.Scan() {
		}
		_ = p.cmd.Wait()
	}
	return p.log.String()
}

// sink answers pushes as it is told and counts them.
type sink struct {
	mu      sync.Mutex
	entries int
	dead    int
	ids     map[push.ID]int
	last    string
	answer  func(b *push.Batch) error
}

func (s *sink) Admit(context.Context, int64) (func(), error) { return func() {}, nil }

func (s *sink) Push(_ context.Context, b *push.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = map[push.ID]int{}
	}
	s.ids[b.ID]++
	s.entries += len(b.Entries)
	s.dead += len(b.Dead)
	if len(b.Entries) == 0 {
		return nil
	}
	s.last = fmt.Sprintf("%s %s %s %s", b.Tenant, b.Receiver, b.Bytes(b.Streams[0].RawLabels), b.Bytes(b.Entries[0].Line))
	if s.answer != nil {
		return s.answer(b)
	}
	return nil
}

func (s *sink) set(answer func(b *push.Batch) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *sink) counts() (entries, ids int, last string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries, len(s.ids), s.last
}

func serve(t *testing.T, s *sink, addr string, opts ...grpc.ServerOption) (string, func()) {
	t.Helper()
	cfg := grpcpush.DefaultConfig()
	rc, err := grpcpush.New(grpcpush.Deps{Sink: s, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(append(cfg.ServerOptions(), opts...)...)
	rc.Register(srv)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	var once sync.Once
	stop := func() { once.Do(func() { srv.Stop(); <-done }) }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func write(t *testing.T, chunk []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "chunk")
	if err := os.WriteFile(name, chunk, 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

const chunkFile = "flush/testdata/tail.chunk" // 6 records that Fluent Bit wrote

// What the entry points return, as the host prints it.
const isError, isOK, isRetry = "0", "1", "2"

func TestPlugin(t *testing.T) {
	s := &sink{}
	addr, stop := serve(t, s, "127.0.0.1:0")
	p, lines := start(t, []string{"Address=" + addr, "TenantID=team-a", `Labels={env="prod"}`, "label_keys=stream", "Timeout=2s"})
	if len(lines) != 2 || lines[0] != "registered loki-go type=2 proxy=11" || lines[1] != "init 1" {
		t.Fatalf("got %q\n%s", lines, p.end())
	}
	flush := func(file, want string) {
		t.Helper()
		if got := p.do("flush 0 kube.a %s", file); got != want {
			t.Fatalf("flush: got %s, want %s\n%s", got, want, p.end())
		}
	}
	flush(chunkFile, isOK)
	entries, _, last := s.counts()
	want := `team-a fluentbit {app="web", container="web", env="prod", job="fluent-bit", namespace="default", service_name="wéb-ü", stream="stdout"} GET /`
	if entries != 6 || !strings.HasPrefix(last, want) {
		t.Fatalf("%d entries, %q", entries, last)
	}

	// The server answers in all its ways.
	answer := func(err error) { s.set(func(*push.Batch) error { return err }) }
	part := &push.Rejected{Total: 6}
	part.Add(push.TooOld, "{}", 2, 10, func() string { return "two are too old" })
	answer(part)
	flush(chunkFile, isOK)
	all := &push.Rejected{Total: 6}
	all.Add(push.LineTooLong, "{}", 6, 10, func() string { return "all are too long" })
	answer(all)
	flush(chunkFile, isError)
	answer(push.Errorf(push.InvalidTenant, "bad tenant"))
	flush(chunkFile, isError)
	answer(push.Errorf(push.RateLimited, "slow down"))
	flush(chunkFile, isRetry)
	answer(push.Errorf(push.DiskLow, "disk is full"))
	flush(chunkFile, isRetry)
	answer(errors.New("boom"))
	flush(chunkFile, isRetry)
	answer(nil)
	flush(chunkFile, isOK)
	if _, ids, _ := s.counts(); ids != 1 {
		t.Fatalf("one chunk, flushed again and again, has %d ids", ids)
	}
	s.mu.Lock()
	if s.dead != 0 {
		t.Fatalf("%d dead letters of a good chunk", s.dead)
	}
	s.mu.Unlock()

	// Chunks that are none.
	for _, chunk := range []string{"\x01", "\xc0", "\xc1", "\xdf\xff\xff\xff\xff", strings.Repeat("\x91", 100_000), "\x92\xd7\x00\x00"} {
		flush(write(t, []byte(chunk)), isError)
	}
	flush(write(t, nil), isOK)
	s.mu.Lock()
	if s.dead != 6 {
		t.Fatalf("%d dead letters of 6", s.dead)
	}
	s.mu.Unlock()

	// The server goes and comes back.
	stop()
	flush(chunkFile, isRetry)
	serve(t, s, addr)
	deadline := time.Now().Add(20 * time.Second)
	for p.do("flush 0 kube.a %s", chunkFile) != isOK {
		if time.Now().After(deadline) {
			t.Fatalf("a server that came back is not found\n%s", p.end())
		}
	}

	if got := p.do("exit 0"); got != isOK {
		t.Fatalf("exit: got %s", got)
	}
	flush(chunkFile, isRetry) // a chunk that comes too late stays Fluent Bit's
	if got := p.do("quit"); got != "bye" {
		t.Fatalf("quit: got %s", got)
	}
	log := p.end()
	if !p.cmd.ProcessState.Success() {
		t.Fatalf("the host ended with %v\n%s", p.cmd.ProcessState, log)
	}
	for _, want := range []string{
		"set retry_limit no_limits", "workers 1", "reason=greater_than_max_sample_age", "two are too old",
		"reason=line_too_long", "reason=invalid_tenant", "sent again", "entries are lost", "dead letters",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log:\n%s", want, log)
		}
	}
	if strings.Contains(log, "panic") {
		t.Errorf("a panic:\n%s", log)
	}
}

// TestInstances has two sections and many threads.
func TestInstances(t *testing.T) {
	a, b := &sink{}, &sink{}
	addrA, _ := serve(t, a, "127.0.0.1:0")
	addrB, _ := serve(t, b, "127.0.0.1:0")
	p, lines := start(t, []string{"Address=" + addrA, "TenantID=a", "Timeout=10s"}, []string{"Address=" + addrB, "TenantID=b", "Timeout=10s"})
	if len(lines) != 3 {
		t.Fatalf("got %q\n%s", lines, p.end())
	}
	if got := p.do("flood 0 tag.a %s 200 4", chunkFile); got != "0 200 0 0" {
		t.Fatalf("got %s\n%s", got, p.end())
	}
	if got := p.do("flush 1 tag.b %s", chunkFile); got != isOK {
		t.Fatalf("got %s\n%s", got, p.end())
	}
	if got := p.do("exit 0"); got != isOK {
		t.Fatalf("got %s", got)
	}
	// The end of one does not touch the other.
	if got := p.do("flush 1 tag.b %s", chunkFile); got != isOK {
		t.Fatalf("got %s\n%s", got, p.end())
	}
	entriesA, _, lastA := a.counts()
	entriesB, _, lastB := b.counts()
	if entriesA != 1200 || entriesB != 12 || !strings.HasPrefix(lastA, "a ") || !strings.HasPrefix(lastB, "b ") {
		t.Fatalf("%d entries %q, %d entries %q", entriesA, lastA, entriesB, lastB)
	}
}

func TestBadConfiguration(t *testing.T) {
	f := func(want string, section ...string) {
		t.Helper()
		p, lines := start(t, section)
		log := p.end()
		if len(lines) != 2 || lines[1] != "init 0" || p.cmd.ProcessState.ExitCode() != 5 {
			t.Fatalf("%q: got %q, exit code %d\n%s", section, lines, p.cmd.ProcessState.ExitCode(), log)
		}
		if strings.Count(log, "\n") != 1 || !strings.Contains(log, want) {
			t.Fatalf("%q: logged %s, want one line with %s", section, log, want)
		}
	}
	f("want HOST:PORT", "Address=localhost")
	f("localhost:3100 is the port for HTTP; this output speaks gRPC", "URL=http://localhost:3100/loki/api/v1/push")
	f("is not auto, raw, json or logfmt", "LineFormat=xml", "Address=localhost:9095")
	f("write LabelKeys", "LabelKey=a", "Address=localhost:9095")
	f("no such file", "Address=localhost:9095", "ca_file=/nowhere/ca.pem")
	f("no such file", "Address=https://localhost:9095", "BearerTokenFile=/nowhere/token")
}

// TestSecured pushes with TLS, a client certificate and a user.
func TestSecured(t *testing.T) {
	certs := testcert.New(t)
	conf, err := tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key, ClientCAFile: certs.CA}.Config(nil, "h2")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var authorization []string
	s := &sink{}
	addr, _ := serve(t, s, "127.0.0.1:0", grpc.Creds(credentials.NewTLS(conf)),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			mu.Lock()
			authorization = md.Get("authorization")
			mu.Unlock()
			if len(authorization) != 1 || authorization[0] != "Basic dTpwQHNz" {
				return nil, status.Error(codes.Unauthenticated, "who are you?")
			}
			return next(ctx, req)
		}))
	section := func(user string, more ...string) []string {
		return append([]string{"URL=https://" + user + addr, "ca_file=" + certs.CA, "Timeout=2s"}, more...)
	}
	p, lines := start(t,
		section("u:p%40ss@", "cert_file="+certs.ClientCert, "key_file="+certs.ClientKey),
		section("u:wrong@", "cert_file="+certs.ClientCert, "key_file="+certs.ClientKey),
		section("u:p%40ss@"),
		[]string{"Address=" + addr, "HTTPUser=u", "HTTPPasswd=p@ss", "Timeout=2s"},
	)
	if len(lines) != 5 {
		t.Fatalf("got %q\n%s", lines, p.end())
	}
	for i, want := range []string{isOK, isRetry, isRetry, isRetry} {
		if got := p.do("flush %d kube.a %s", i, chunkFile); got != want {
			t.Fatalf("section %d: got %s, want %s\n%s", i, got, want, p.end())
		}
	}
	if entries, _, _ := s.counts(); entries != 6 {
		t.Fatalf("%d entries", entries)
	}
	for i := range 4 {
		if got := p.do("exit %d", i); got != isOK {
			t.Fatalf("exit: got %s", got)
		}
	}
	log := p.end()
	if !strings.Contains(log, "who are you?") || !strings.Contains(log, "goes over the network as it is") || strings.Contains(log, "p@ss") || strings.Contains(log, "wrong") {
		t.Fatalf("log: %s", log)
	}
}
