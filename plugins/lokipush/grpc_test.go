package lokipush

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/loki-go/loki-go/plugins/rawgrpc"
	"github.com/loki-go/loki-go/proto/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pusher starts a server with the service and returns a client's Push.
func pusher(t *testing.T, s *sink, change func(*Config)) func(body []byte, opts ...grpc.CallOption) error {
	t.Helper()
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	rc, err := New(Deps{Sink: s}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(rawgrpc.ServerOption(), grpc.MaxRecvMsgSize(1<<20))
	rc.RegisterGRPC(srv)
	done := make(chan error)
	go func() { done <- srv.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(body []byte, opts ...grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, "x-scope-orgid", "team-a", "x-request-id", "r1")
		var req, resp emptypb.Empty // without fields of its own it carries any
		req.ProtoReflect().SetUnknown(body)
		return conn.Invoke(ctx, "/logproto.Pusher/Push", &req, &resp, opts...)
	}
}

func TestGRPC(t *testing.T) {
	_, pb, want := sample(1000, 10)
	s := &sink{}
	pushTo := pusher(t, s, nil)
	for _, enc := range []string{"identity", "gzip", "snappy", "zstd"} {
		s.got = nil
		if err := pushTo(pb, grpc.UseCompressor(enc)); err != nil {
			t.Fatalf("%s: %v", enc, err)
		}
		if !slices.Equal(s.got, want) || s.tenant != "team-a" || s.receiver != "loki" || s.id == (push.ID{}) {
			t.Fatalf("%s: other entries than were sent, or tenant %q, id %x", enc, s.tenant, s.id)
		}
		if len(s.body) == 0 || len(s.body) >= len(pb) {
			t.Fatalf("%s: the batch has a body of %d bytes", enc, len(s.body))
		}
	}
	if s.held != 0 {
		t.Fatalf("%d bytes not given back", s.held)
	}
}

func TestGRPCAnswers(t *testing.T) {
	_, pb, _ := sample(10, 1)
	s := &sink{}
	pushTo := pusher(t, s, func(c *Config) { c.MaxDecodedSize = 500_000 })
	f := func(body []byte, err error, code int, headers, want string) {
		t.Helper()
		s.err = err
		st := status.Convert(pushTo(body))
		if int(st.Code()) != code || st.Message() != want {
			t.Fatalf("%v: got %d %q", err, st.Code(), st.Message())
		}
		details := st.Proto().Details
		if len(details) != 1 || details[0].TypeUrl != "type.googleapis.com/httpgrpc.HTTPResponse" {
			t.Fatalf("%v: details %v", err, details)
		}
		var gotCode uint64
		var body2, hs string
		for p := details[0].Value; len(p) > 0; {
			num, typ, n := protowire.ConsumeTag(p)
			p = p[n:]
			if typ == protowire.VarintType {
				gotCode, n = protowire.ConsumeVarint(p)
			} else {
				var b []byte
				b, n = protowire.ConsumeBytes(p)
				if num == 3 {
					body2 = string(b)
				} else {
					hs += string(b)
				}
			}
			p = p[n:]
		}
		if int(gotCode) != code || body2 != want || hs != headers {
			t.Fatalf("%v: HTTPResponse %d %q %q", err, gotCode, body2, hs)
		}
	}
	rejected := &push.Rejected{Total: 2}
	rejected.Add(push.LineTooLong, `{a="1"}`, 1, 10, func() string { return "max entry size exceeded" })
	f(pb, rejected, 400, "", "1 errors like: max entry size exceeded (1 of 2 entries refused, the rest is stored)")
	f(pb, &push.Error{Reason: push.RateLimited, Msg: "slow down", RetryAfter: 2500 * time.Millisecond}, 429, "\x0a\x0bRetry-After\x12\x013", "slow down")
	f(pb, push.Errorf(push.NoTenant, "no org id"), 401, "", "no org id")
	f(pb, push.Errorf(push.DiskLow, "disk is full"), 503, "\x0a\x0bRetry-After\x12\x011", "disk is full")
	f(pb, errors.New(strings.Repeat("x", 5000)), 500, "", strings.Repeat("x", 2048)+"...")
	f([]byte{0x0a, 5}, nil, 400, "", "truncated protobuf")
	f(nil, nil, 422, "", "error at least one valid stream is required for ingestion")
	f(make([]byte, 0, 1), nil, 422, "", "error at least one valid stream is required for ingestion")
	f(append([]byte{0x12, 0xa0, 0xc2, 0x1e}, make([]byte, 500_000)...), nil, 413, "", "decompressed push is larger than the limit of 500000 bytes")
	s.err, s.full = nil, 100
	f(pb, nil, 503, "\x0a\x0bRetry-After\x12\x011", "too many bytes in flight")
	if s.held != 0 {
		t.Fatalf("%d bytes not given back", s.held)
	}
}
