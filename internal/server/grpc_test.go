package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/proto/lokipb"
)

// openServer opens one in memory and returns a connection to its gRPC server.
func openServer(t *testing.T, change func(*Config)) (*Server, *grpc.ClientConn) {
	t.Helper()
	cfg := DefaultConfig()
	cfg.DataDir, cfg.Server.Listen, cfg.Server.GRPCListen = "/data", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Forward.Listen, cfg.OTLP.GRPCListen = nil, ""
	if change != nil {
		change(&cfg)
	}
	if errs := cfg.Validate(); len(errs) > 0 {
		t.Fatal(errors.Join(errs...))
	}
	s, err := Open(cfg, Deps{
		FS: vfs.NewMem(), Log: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar), Registry: prometheus.NewRegistry(),
		Settings: func() []byte { return nil }, Getenv: func(string) (string, bool) { return "", false },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(s.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return s, conn
}

// within is the context of one call, which on a busy machine may take a while.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestHealth(t *testing.T) {
	s, conn := openServer(t, nil)
	client := healthpb.NewHealthClient(conn)
	watch, err := client.Watch(within(t), &healthpb.HealthCheckRequest{Service: "logproto.Pusher"})
	if err != nil {
		t.Fatal(err)
	}
	next := func() healthpb.HealthCheckResponse_ServingStatus {
		t.Helper()
		r, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	for next() != healthpb.HealthCheckResponse_SERVING { // before, the WAL may be read
	}
	for _, name := range []string{"", "logproto.Pusher", "grpc.health.v1.Health"} {
		r, err := client.Check(within(t), &healthpb.HealthCheckRequest{Service: name})
		if err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v, %v", name, r, err)
		}
	}
	if _, err := client.Check(within(t), &healthpb.HealthCheckRequest{Service: "no.Such"}); status.Code(err) != codes.NotFound {
		t.Errorf("no.Such: %v, want NotFound", err)
	}
	list, err := client.List(within(t), &healthpb.HealthListRequest{})
	if err != nil || list.Statuses["logproto.Pusher"].GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("list: %v, %v", list, err)
	}
	// The end is said before it comes, and does not wait for who watches.
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	if got := next(); got != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("at the end: %v", got)
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
		t.Errorf("at the end: %v, want Unavailable", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestHealthNotReady asks before the server is ready.
func TestHealthNotReady(t *testing.T) {
	s, conn := openServer(t, nil)
	s.leaving.Store(true)
	r, err := healthpb.NewHealthClient(conn).Check(within(t), &healthpb.HealthCheckRequest{})
	if err != nil || r.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("%v, %v", r, err)
	}
}

// TestLokiReads: the tenant of Loki's queriers is checked as that of others, and
// their calls end with the process.
func TestLokiReads(t *testing.T) {
	s, conn := openServer(t, func(c *Config) { c.Auth.Enabled = true })
	client := lokipb.NewQuerierClient(conn)
	if _, err := client.TailersCount(within(t), &lokipb.TailersCountRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("no tenant: %v", err)
	}
	for s.Ready() != nil {
		time.Sleep(time.Millisecond)
	}
	ctx := metadata.AppendToOutgoingContext(within(t), "x-scope-orgid", "team-a")
	if r, err := client.Label(ctx, &lokipb.LabelRequest{}); err != nil || len(r.Values) != 0 {
		t.Errorf("labels: %v, %v", r, err)
	}
	tail, err := client.Tail(ctx, &lokipb.TailRequest{Query: `{a="b"}`})
	if err != nil {
		t.Fatal(err)
	}
	for n := uint32(0); n == 0; {
		r, err := client.TailersCount(ctx, &lokipb.TailersCountRequest{})
		if err != nil {
			t.Fatal(err)
		}
		n = r.Count
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := tail.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("at the end: %v, want Unavailable", err)
	}
}

// services asks a server for its services by reflection.
func services(stream grpc.BidiStreamingClient[reflectpb.ServerReflectionRequest, reflectpb.ServerReflectionResponse]) (names []string, err error) {
	req := &reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	r, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	for _, s := range r.GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	return names, nil
}

func TestReflection(t *testing.T) {
	s, conn := openServer(t, nil)
	stream, err := reflectpb.NewServerReflectionClient(conn).ServerReflectionInfo(within(t))
	if err != nil {
		t.Fatal(err)
	}
	names, err := services(stream)
	if err != nil || !slices.Contains(names, "logproto.Pusher") || !slices.Contains(names, "grpc.health.v1.Health") {
		t.Errorf("%q, %v", names, err)
	}
	// A client that keeps its call open must not hold the process up.
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the call goes on after the end")
	}
}

func TestReflectionOff(t *testing.T) {
	_, conn := openServer(t, func(c *Config) { c.Server.GRPCReflection = false })
	stream, err := reflectpb.NewServerReflectionClient(conn).ServerReflectionInfo(within(t))
	if err == nil {
		_, err = services(stream)
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("%v, want Unimplemented", err)
	}
}

// TestHealthNeedsNoCredentials: where clients have to show who they are, health
// is as open as /ready, and reflection is not.
func TestHealthNeedsNoCredentials(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(users, []byte("users: [{name: shop, password: secret, tenants: [shop]}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(want codes.Code, change func(*Config)) {
		t.Helper()
		_, conn := openServer(t, func(c *Config) {
			c.Auth.Enabled, c.Auth.UsersFile = true, users
			if change != nil {
				change(c)
			}
		})
		_, err := healthpb.NewHealthClient(conn).Check(within(t), &healthpb.HealthCheckRequest{})
		if status.Code(err) != want {
			t.Errorf("health: %v, want %v", err, want)
		}
		stream, err := reflectpb.NewServerReflectionClient(conn).ServerReflectionInfo(within(t))
		if err == nil {
			_, err = services(stream)
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("reflection: %v, want Unauthenticated", err)
		}
	}
	f(codes.OK, nil)
	f(codes.Unauthenticated, func(c *Config) { c.Auth.Exempt = []string{"/metrics"} })
}
