package otlp

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/loki-go/loki-go/internal/bounded"
	"github.com/loki-go/loki-go/plugins/rawgrpc"
)

// RegisterGRPC adds the service to a server, which must have been made with
// rawgrpc.ServerOption.
func (rc *Receiver) RegisterGRPC(s grpc.ServiceRegistrar) {
	s.RegisterService(rawgrpc.Desc("opentelemetry.proto.collector.logs.v1.LogsService", "Export", rc.exportGRPC), rc)
}

func (rc *Receiver) exportGRPC(ctx context.Context, req []byte) ([]byte, error) {
	p := request{rc: rc, ctx: ctx, tenant: rawgrpc.Tenant(ctx)}
	defer p.release()
	w := rc.work.Get().(*work)
	defer rc.put(w)
	// gRPC has read the request already; this makes it count.
	o := outcome{err: p.admit(int64(len(req)))}
	if o.err == nil {
		o = p.export(w, req)
	}
	from := ""
	if pr, ok := peer.FromContext(ctx); ok {
		from = pr.Addr.String()
	}
	if o.err == nil {
		rc.note(&p, &o, "grpc", "OK", from)
		return o.response(), nil
	}
	s := grpcStatus(o.err)
	rc.note(&p, &o, "grpc", s.Code().String(), from)
	return nil, s.Err()
}

// Open starts the gRPC server, if there is an address for it.
func (rc *Receiver) Open() error {
	if rc.cfg.GRPCListen == "" {
		return nil
	}
	opts, err := rc.serverOptions()
	if err != nil {
		return fmt.Errorf("otlp: %w", err)
	}
	l, err := net.Listen("tcp", rc.cfg.GRPCListen)
	if err != nil {
		return fmt.Errorf("otlp: %w", err)
	}
	rc.listener = l
	rc.server = grpc.NewServer(append(opts, rc.d.GRPC...)...)
	rc.RegisterGRPC(rc.server)
	rc.serving.Go(func() {
		if err := rc.server.Serve(bounded.New(l, rc.cfg.GRPCMaxConnections, nil)); err != nil {
			rc.d.Log.Error("gRPC server failed", "receiver", receiver, "err", err)
		}
	})
	return nil
}

func (rc *Receiver) serverOptions() ([]grpc.ServerOption, error) {
	opts := []grpc.ServerOption{
		rawgrpc.ServerOption(),
		grpc.MaxRecvMsgSize(int(rc.cfg.GRPCMaxRecvSize)),
		grpc.MaxConcurrentStreams(uint32(min(rc.cfg.GRPCMaxStreams, 1<<20))),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: rc.cfg.GRPCIdleTimeout, Time: time.Minute, Timeout: 20 * time.Second,
		}),
	}
	if rc.cfg.GRPCTLS.Enabled() {
		tls, err := rc.cfg.GRPCTLS.Config(rc.d.Log, "h2")
		if err != nil {
			return nil, fmt.Errorf("grpc-tls: %w", err)
		}
		opts = append(opts, grpc.Creds(credentials.NewTLS(tls)))
	}
	return opts, nil
}

// Addr returns the address of the gRPC server, or nil.
func (rc *Receiver) Addr() net.Addr {
	if rc.listener == nil {
		return nil
	}
	return rc.listener.Addr()
}

// Close stops the gRPC server: it takes no more requests, and waits for those
// under way, but no longer than the drain timeout.
func (rc *Receiver) Close() error {
	if rc.server == nil {
		return nil
	}
	timeout := time.AfterFunc(rc.cfg.GRPCDrainTimeout, rc.server.Stop)
	rc.server.GracefulStop()
	timeout.Stop()
	rc.serving.Wait()
	return nil
}
