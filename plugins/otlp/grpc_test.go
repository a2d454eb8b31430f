package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/proto/push"
)

// open starts a receiver with a gRPC server on a free port.
func open(t *testing.T, s Sink, change ...func(*Config)) *Receiver {
	t.Helper()
	change = append(change, func(c *Config) { c.GRPCListen = "127.0.0.1:0" })
	rc := receiverFor(t, s, change...)
	if err := rc.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rc.Close(); err != nil {
			t.Error(err)
		}
	})
	return rc
}

func dial(t *testing.T, addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// export makes a call. A message without fields of its own carries any bytes.
func export(conn *grpc.ClientConn, body []byte, meta []string, opts ...grpc.CallOption) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, meta...)
	var req, resp emptypb.Empty
	req.ProtoReflect().SetUnknown(body)
	err := conn.Invoke(ctx, "/opentelemetry.proto.collector.logs.v1.LogsService/Export", &req, &resp, opts...)
	return resp.ProtoReflect().GetUnknown(), err
}

func TestGRPC(t *testing.T) {
	s := &sink{}
	rc := open(t, s)
	conn := dial(t, rc.Addr().String(), insecure.NewCredentials())
	body, _ := benchRequest(200)
	post(receiverFor(t, s), protobuf, body)
	want, id := s.got, s.id
	if len(want) != 200 {
		t.Fatalf("%d entries over HTTP", len(want))
	}
	for _, enc := range []string{"identity", "gzip", "zstd", "snappy", "gzip", "zstd", "snappy"} {
		s.got = nil
		answer, err := export(conn, body, []string{"x-scope-orgid", "team-a"}, grpc.UseCompressor(enc))
		if err != nil || len(answer) != 0 {
			t.Fatalf("%s: %q, %v", enc, answer, err)
		}
		if !slices.Equal(s.got, want) || s.tenant != "team-a" || s.receiver != "otlp" || s.id != id {
			t.Fatalf("%s: other entries than over HTTP, or tenant %q", enc, s.tenant)
		}
	}
	if answer, err := export(conn, nil, nil); err != nil || len(answer) != 0 {
		t.Fatalf("empty request: %q, %v", answer, err)
	}
	if s.held != 0 {
		t.Fatalf("%d bytes not given back", s.held)
	}
}

func TestGRPCAnswers(t *testing.T) {
	s := &sink{}
	rc := open(t, s, func(c *Config) { c.GRPCMaxRecvSize = 1 << 20 })
	conn := dial(t, rc.Addr().String(), insecure.NewCredentials())
	body := protoRequest(one(nil, record{Time: 5, Body: "x"}))
	f := func(body []byte, err error, code codes.Code, wait time.Duration, want string) {
		t.Helper()
		s.do = func(*push.Batch) error { return err }
		_, got := export(conn, body, nil)
		st := status.Convert(got)
		if st.Code() != code || !strings.Contains(st.Message(), want) {
			t.Fatalf("%v: got %v", err, got)
		}
		var retry time.Duration
		for _, d := range st.Details() {
			if r, ok := d.(*errdetails.RetryInfo); ok {
				retry = r.RetryDelay.AsDuration()
			}
		}
		if retry != wait {
			t.Fatalf("%v: retry after %s", err, retry)
		}
	}
	f(body, &push.Error{Reason: push.RateLimited, Msg: "slow down", RetryAfter: 2500 * time.Millisecond}, codes.ResourceExhausted, 2500*time.Millisecond, "slow down")
	f(body, push.Errorf(push.Overloaded, "full"), codes.Unavailable, time.Second, "full")
	f(body, errors.New("boom"), codes.Unavailable, time.Second, "boom")
	f(body, push.Errorf(push.NoTenant, "no org id"), codes.Unauthenticated, 0, "no org id")
	f([]byte{0x0a, 5}, nil, codes.InvalidArgument, 0, "protobuf: a message breaks off")
	f(bytes.Repeat([]byte{0x80, 1, 1}, 1<<19), nil, codes.ResourceExhausted, 0, "larger than max")
	s.do = func(b *push.Batch) error {
		r := &push.Rejected{Total: 1}
		r.Add(push.LineTooLong, "{}", 1, 1, func() string { return "too long" })
		return r
	}
	answer, err := export(conn, body, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, text := partialOf(t, protobuf, answer); n != 1 || !strings.Contains(text, "too long") {
		t.Fatalf("%d refused, %q", n, text)
	}
	for _, enc := range []string{"gzip", "zstd", "snappy"} { // what is small and becomes large
		_, err := export(conn, bytes.Repeat([]byte{0x80, 1, 1}, 1<<19), nil, grpc.UseCompressor(enc))
		if status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("%s: %v", enc, err)
		}
	}
}

func TestGRPCWithTLS(t *testing.T) {
	certs := testcert.New(t)
	s := &sink{}
	rc := open(t, s, func(c *Config) {
		c.GRPCTLS.CertFile, c.GRPCTLS.KeyFile, c.GRPCTLS.ClientCAFile = certs.Cert, certs.Key, certs.CA
	})
	pem, err := os.ReadFile(certs.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(certs.ClientCert, certs.ClientKey)
	if err != nil {
		t.Fatal(err)
	}
	body := protoRequest(one(nil, record{Time: 5, Body: "x"}))
	conn := dial(t, rc.Addr().String(), credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}))
	if _, err := export(conn, body, nil); err != nil || len(s.got) != 1 {
		t.Fatalf("%v, %d entries", err, len(s.got))
	}
	stranger := dial(t, rc.Addr().String(), credentials.NewTLS(&tls.Config{RootCAs: pool}))
	if _, err := export(stranger, body, nil); err == nil {
		t.Fatal("a client without a certificate was served")
	}
}

// TestClose: a request under way is answered, later ones are not taken.
func TestClose(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := &sink{do: func(*push.Batch) error { close(entered); <-leave; return nil }}
	rc := open(t, s)
	conn := dial(t, rc.Addr().String(), insecure.NewCredentials())
	done := make(chan error)
	go func() {
		_, err := export(conn, protoRequest(one(nil, record{Time: 5})), nil)
		done <- err
	}()
	<-entered
	closed := make(chan struct{})
	go func() { _ = rc.Close(); close(closed) }()
	close(leave)
	if err := <-done; err != nil {
		t.Fatalf("request under way: %v", err)
	}
	<-closed
	if c, err := net.Dial("tcp", rc.Addr().String()); err == nil {
		_ = c.Close()
		t.Fatal("still listening")
	}
}

// TestBoundedListener: with room for one, the second connection is served when
// the first has gone.
func TestBoundedListener(t *testing.T) {
	s := &sink{}
	rc := open(t, s, func(c *Config) { c.GRPCMaxConnections = 1 })
	body := protoRequest(one(nil, record{Time: 5}))
	first := dial(t, rc.Addr().String(), insecure.NewCredentials())
	if _, err := export(first, body, nil); err != nil {
		t.Fatal(err)
	}
	second := dial(t, rc.Addr().String(), insecure.NewCredentials())
	done := make(chan error)
	go func() {
		_, err := export(second, body, nil, grpc.WaitForReady(true))
		done <- err
	}()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
