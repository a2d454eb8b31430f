package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/cluster"
	"github.com/loki-go/loki-go/gateway"
	"github.com/loki-go/loki-go/plugins/lokipush"
	"github.com/loki-go/loki-go/plugins/rawgrpc"
	"github.com/loki-go/loki-go/ring"
)

// newGRPC makes the gRPC server.
func (s *Server) newGRPC() error {
	if s.grpcListener == nil {
		return nil
	}
	tls, err := grpcTLS(s.cfg.Server.GRPCTLS, s.log)
	if err != nil {
		return fmt.Errorf("server.grpc-tls: %w", err)
	}
	opts := append(s.cfg.GRPCPush.ServerOptions(), rawgrpc.ServerOption(), grpc.WaitForHandlers(true))
	opts = append(append(opts, tls...), grpc.ChainStreamInterceptor(s.endStreams))
	s.grpc = grpc.NewServer(append(opts, s.grpcAuth()...)...)
	if s.peers != nil {
		s.peers.Register(s.grpc)
	}
	healthpb.RegisterHealthServer(s.grpc, &health{s: s})
	if s.cfg.Server.GRPCReflection {
		reflection.Register(s.grpc)
	}
	return nil
}

// endStreams ends calls that last for as long as their client likes when the
// process is about to end. Those of other processes of ours end by themselves.
func (s *Server) endStreams(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if slices.Contains(cluster.Methods(), info.FullMethod) {
		return next(srv, stream)
	}
	done := make(chan error, 1)
	s.streams.Go(func() { done <- next(srv, stream) }) // it ends with the call
	select {
	case err := <-done:
		return err
	case <-s.draining:
	}
	select {
	case err := <-done: // it has heard itself
		return err
	case <-time.After(goodbye):
		return status.Error(codes.Unavailable, "the process is about to end")
	}
}

// goodbye is how long a stream may take for its last message.
const goodbye = 100 * time.Millisecond

// health is what load balancers and Kubernetes ask over gRPC, as others ask
// /ready. The specification is gRPC's: doc/health-checking.md.
type health struct {
	healthpb.UnimplementedHealthServer
	s *Server
}

// healthMethods are those of the service.
var healthMethods = []string{healthpb.Health_Check_FullMethodName, healthpb.Health_Watch_FullMethodName, healthpb.Health_List_FullMethodName}

func (h *health) state() *healthpb.HealthCheckResponse {
	if h.s.Ready() != nil {
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}
}

// known reports whether there is a service of that name; "" are all of them.
func (h *health) known(name string) bool {
	_, ok := h.s.grpc.GetServiceInfo()[name]
	return ok || name == ""
}

func (h *health) Check(_ context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if !h.known(req.Service) {
		return nil, status.Errorf(codes.NotFound, "no service %.100q here", req.Service)
	}
	return h.state(), nil
}

func (h *health) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	all := map[string]*healthpb.HealthCheckResponse{"": h.state()}
	for name := range h.s.grpc.GetServiceInfo() {
		all[name] = h.state()
	}
	return &healthpb.HealthListResponse{Statuses: all}, nil
}

// watchEvery is how often a Watch looks for a change.
const watchEvery = 500 * time.Millisecond

func (h *health) Watch(req *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var last *healthpb.HealthCheckResponse
	for {
		now := &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVICE_UNKNOWN}
		if h.known(req.Service) {
			now = h.state()
		}
		if last == nil || now.Status != last.Status {
			if err := stream.Send(now); err != nil {
				return err
			}
			last = now
		}
		if h.s.leaving.Load() {
			return status.Error(codes.Unavailable, "the process is about to end")
		}
		select {
		case <-tick.C:
		case <-h.s.draining:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

// makeFront makes what stands between the distributors of a Loki and the ingester
// of this process: a gateway whose only replica it is, because what they send has
// to be checked, and its labels made canonical, like anybody's. They cannot show
// cluster.secret, so there is none where that is set.
func (s *Server) makeFront() (err error) {
	if s.gateway != nil || s.ingester == nil || s.cfg.Cluster.Secret != "" {
		return nil
	}
	alone := ring.NewMemory()
	self := s.self
	self.State = ring.Active
	if err := alone.Register(s.ctx, self); err != nil {
		return err
	}
	cfg := s.cfg.gateway()
	cfg.ReplicationFactor = 1
	s.front, err = gateway.New(gateway.Deps{
		Ring: alone, Dial: func(ring.Instance) (gateway.Replica, error) { return s.ingester, nil },
		Limits: s.limits, Log: s.log, Metrics: s.d.Registry,
	}, cfg)
	return err
}

// frontReceiver takes pushes for front.
func (s *Server) frontReceiver(*http.ServeMux) error {
	loki, err := lokipush.New(lokipush.Deps{Sink: s.front, Log: s.log, Metrics: s.d.Registry}, s.cfg.LokiPush)
	if err != nil {
		return err
	}
	loki.RegisterGRPC(s.grpc)
	return nil
}
