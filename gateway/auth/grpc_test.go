package auth

import (
	"context"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/proto/ingestpb"
)

// service notes what it is called with.
type service struct {
	ingestpb.UnimplementedIngestServer
	ctx context.Context
	req *ingestpb.PushRequest
}

func (s *service) Push(ctx context.Context, req *ingestpb.PushRequest) (*ingestpb.PushResponse, error) {
	s.ctx, s.req = ctx, req
	return &ingestpb.PushResponse{}, nil
}

// serve starts a server with the interceptors of a.
func serve(t *testing.T, a *Auth) (*service, *grpc.ClientConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := grpc.NewServer(grpc.ChainUnaryInterceptor(a.Unary()), grpc.ChainStreamInterceptor(a.Stream()))
	s := &service{}
	ingestpb.RegisterIngestServer(srv, s)
	grpc_health_v1.RegisterHealthServer(srv, health.NewServer())
	done := make(chan error)
	go func() { done <- srv.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() {
		must(t, conn.Close())
		srv.Stop()
		must(t, <-done)
	})
	return s, conn
}

func TestUnaryCalls(t *testing.T) {
	e := newEnv(t, users, nil)
	s, conn := serve(t, e.a)
	f := func(want codes.Code, got string, inMessage string, md ...string) {
		t.Helper()
		s.req = nil
		ctx := metadata.AppendToOutgoingContext(t.Context(), md...)
		_, err := ingestpb.NewIngestClient(conn).Push(ctx, &ingestpb.PushRequest{Tenant: inMessage})
		if status.Code(err) != want || (s.req != nil) != (want == codes.OK) {
			t.Fatalf("%q, %q: %v, want %s", inMessage, md, err, want)
		}
		if s.req == nil {
			return
		}
		in, _ := metadata.FromIncomingContext(s.ctx)
		if named := strings.Join(in.Get("x-scope-orgid"), ","); s.req.Tenant != got || named != got {
			t.Errorf("%q, %q: tenants %q and %q, want %q", inMessage, md, s.req.Tenant, named, got)
		}
		if len(in.Get("authorization")) > 0 {
			t.Error("the handler sees the credentials")
		}
		if id := FromContext(s.ctx); id == nil || got != "" && !id.May(got) {
			t.Errorf("identity %+v", id)
		}
	}
	ops, shop := basic("ops", "secret"), basic("shop", "correct horse")
	f(codes.OK, "shop", "", "authorization", shop)
	f(codes.OK, "shop", "shop", "authorization", shop)
	f(codes.OK, "shop", "", "authorization", shop, "x-scope-orgid", "shop")
	f(codes.OK, "shop", "", "authorization", ops, "x-scope-orgid", "shop")
	f(codes.OK, "shop", "shop", "authorization", ops)
	f(codes.OK, "ops", "", "authorization", ops)
	f(codes.OK, "ci", "", "authorization", "Bearer token-of-ci")
	f(codes.OK, "any", "any", "authorization", basic("admin", "plain: one"))
	f(codes.OK, "", "", "authorization", basic("admin", "plain: one"))
	f(codes.PermissionDenied, "", "ops", "authorization", shop)
	f(codes.PermissionDenied, "", "", "authorization", shop, "x-scope-orgid", "ops")
	f(codes.PermissionDenied, "", "ops", "authorization", shop, "x-scope-orgid", "shop")
	f(codes.PermissionDenied, "", "ops", "authorization", ops, "x-scope-orgid", "shop")
	f(codes.Unauthenticated, "", "shop")
	f(codes.Unauthenticated, "", "shop", "authorization", basic("shop", "wrong"))
	f(codes.Unauthenticated, "", "shop", "authorization", shop, "authorization", ops)

	e.write("users.yaml", "users: [")
	e.later()
	f(codes.Unavailable, "", "", "authorization", "Bearer new")
	f(codes.OK, "ci", "", "authorization", "Bearer token-of-ci")
}

func TestStreams(t *testing.T) {
	e := newEnv(t, users, func(cfg *Config) { cfg.Exempt = append(cfg.Exempt, "/grpc.health.v1.Health/Check") })
	_, conn := serve(t, e.a)
	client := grpc_health_v1.NewHealthClient(conn)
	if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("an exempt method: %v", err)
	}
	f := func(want codes.Code, md ...string) {
		t.Helper()
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), md...))
		defer cancel()
		s, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != want {
			t.Errorf("%q: %v, want %s", md, err, want)
		}
	}
	f(codes.Unauthenticated)
	f(codes.PermissionDenied, "authorization", "Bearer token-of-ci", "x-scope-orgid", "shop")
	f(codes.OK, "authorization", "Bearer token-of-ci")
}

// TestStreamContext: the handler of a stream sees what that of a call sees.
func TestStreamContext(t *testing.T) {
	e := newEnv(t, users, nil)
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer token-of-ci"))
	called := false
	err := e.a.Stream()(nil, &stream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: "/x/Y"}, func(_ any, s grpc.ServerStream) error {
		called = true
		md, _ := metadata.FromIncomingContext(s.Context())
		if got := md.Get("x-scope-orgid"); len(got) != 1 || got[0] != "ci" || FromContext(s.Context()).Name != "ci" {
			t.Errorf("metadata %v", md)
		}
		return nil
	})
	if err != nil || !called {
		t.Error(err, called)
	}
}

func TestCallsAreNotCheckedWithoutAFile(t *testing.T) {
	a, err := New(Deps{}, DefaultConfig())
	must(t, err)
	s, conn := serve(t, a)
	if _, err := ingestpb.NewIngestClient(conn).Push(t.Context(), &ingestpb.PushRequest{Tenant: "x"}); err != nil || s.req.Tenant != "x" {
		t.Errorf("%v, tenant %q", err, s.req.Tenant)
	}
}
