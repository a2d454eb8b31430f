package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/loki-go/loki-go/cluster"
	"github.com/loki-go/loki-go/gateway/auth"
	"github.com/loki-go/loki-go/gateway/tenant"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/internal/ui"
	"github.com/loki-go/loki-go/plugins/elasticsearch"
	"github.com/loki-go/loki-go/plugins/forward"
	"github.com/loki-go/loki-go/plugins/grpcpush"
	"github.com/loki-go/loki-go/plugins/httpjson"
	"github.com/loki-go/loki-go/plugins/lokipush"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/plugins/otlp"
	"github.com/loki-go/loki-go/plugins/rawgrpc"
	"github.com/loki-go/loki-go/plugins/syslog"
	"github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/query/lokigrpc"
)

// socket is a receiver with listeners of its own.
type socket struct {
	name  string // of its settings
	addrs func() []net.Addr
	close func() error
}

// address returns where it listens, "" if it is off.
func (r *socket) address() string {
	var out []string
	for _, a := range r.addrs() {
		if a != nil {
			out = append(out, a.String())
		}
	}
	return strings.Join(out, ",")
}

func (s *Server) closeSocket(r socket) {
	if err := r.close(); err != nil {
		s.log.Warn("close of a receiver failed", "receiver", r.name, "err", err)
	}
}

// ForwardAddr and OTLPAddr return where these receivers listen, or "".
func (s *Server) ForwardAddr() string { return s.socketAddr("forward") }
func (s *Server) OTLPAddr() string    { return s.socketAddr("otlp") }

func (s *Server) socketAddr(name string) string {
	for _, r := range s.sockets {
		if r.name == name {
			return r.address()
		}
	}
	return ""
}

// receive makes everything that faces clients, and other processes.
func (s *Server) receive() error {
	if err := s.authenticate(); err != nil {
		return err
	}
	mux := http.NewServeMux()
	s.ops().register(mux)
	if err := s.newGRPC(); err != nil {
		return err
	}
	steps := []func(*http.ServeMux) error{s.page, s.reads}
	if s.grpc != nil && s.ingester != nil && (s.gateway != nil || s.front != nil) {
		steps = append(steps, s.lokiReads)
	}
	if s.gateway != nil {
		steps = append(steps, s.lokiReceivers, s.recordReceivers, s.socketReceivers)
	}
	if s.front != nil {
		steps = append(steps, s.frontReceiver)
	}
	for _, f := range steps {
		if err := f(mux); err != nil {
			return err
		}
	}
	return s.newHTTP(mux)
}

// authenticate makes what knows clients. Other processes of ours are none: they
// have cluster.secret.
func (s *Server) authenticate() (err error) {
	cfg := s.cfg.Auth.Config
	if s.peers != nil {
		cfg.Exempt = append(slices.Clone(cfg.Exempt), cluster.Methods()...)
	}
	if slices.Contains(cfg.Exempt, "/ready") {
		cfg.Exempt = append(slices.Clone(cfg.Exempt), healthMethods...) // the same over gRPC
	}
	if s.auth, err = auth.New(auth.Deps{Log: s.log, Metrics: s.d.Registry}, cfg); err != nil {
		return fmt.Errorf("auth.users-file: %w", err)
	}
	return nil
}

func (s *Server) newHTTP(mux *http.ServeMux) (err error) {
	s.http, err = newHTTPServer(s.cfg.Server.HTTPConfig, mux, s.auth.Wrap, s.log, s.d.Registry)
	return err
}

// page adds the explorer for people.
func (s *Server) page(mux *http.ServeMux) error {
	h, err := ui.New()
	if err != nil {
		return err
	}
	h.Register(mux)
	return nil
}

// reads adds the query API.
func (s *Server) reads(mux *http.ServeMux) error {
	engine, err := query.New(query.Deps{Memory: s.memory(), Store: s.stored, Limits: s.queryLimits, Metrics: s.d.Registry}, s.cfg.Query)
	if err != nil {
		return err
	}
	s.engine = engine
	s.query = query.NewHandler(query.HandlerDeps{
		Engine: engine, Log: s.log,
		Tenant: func(r *http.Request) (string, error) {
			return tenant.Resolve(s.cfg.Auth.Enabled, r.Header.Get(tenant.Header))
		},
		Build: query.BuildInfo{Version: s.d.Version, Revision: s.d.Version, GoVersion: runtime.Version()},
	})
	s.query.Register(mux)
	return nil
}

// lokiReads serves the queriers of a Loki, which read from ingesters over gRPC.
func (s *Server) lokiReads(*http.ServeMux) error {
	lokigrpc.New(lokigrpc.Deps{
		Engine: s.engine, Source: s.ingester,
		Tenant: func(ctx context.Context) (string, error) {
			return tenant.Resolve(s.cfg.Auth.Enabled, rawgrpc.Tenant(ctx))
		},
	}).Register(s.grpc)
	return nil
}

// lokiReceivers adds Loki push over HTTP, and over gRPC that of the Fluent Bit
// plugin and Loki's.
func (s *Server) lokiReceivers(mux *http.ServeMux) error {
	loki, err := lokipush.New(lokipush.Deps{Sink: s.gateway, Log: s.log, Metrics: s.d.Registry}, s.cfg.LokiPush)
	if err != nil {
		return err
	}
	loki.Register(mux)
	if s.grpc == nil {
		return nil
	}
	pushes, err := grpcpush.New(grpcpush.Deps{Sink: s.gateway, Log: s.log, Metrics: s.d.Registry}, s.cfg.GRPCPush)
	if err != nil {
		return err
	}
	pushes.Register(s.grpc)
	loki.RegisterGRPC(s.grpc)
	return nil
}

func (s *Server) grpcAuth() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(s.auth.Unary()), grpc.ChainStreamInterceptor(s.auth.Stream())}
}

// grpcTLS returns what makes a gRPC server speak TLS, if c says so.
func grpcTLS(c tlsconf.Server, log *slog.Logger) ([]grpc.ServerOption, error) {
	if !c.Enabled() {
		return nil, nil
	}
	cfg, err := c.Config(log, "h2")
	if err != nil {
		return nil, err
	}
	return []grpc.ServerOption{grpc.Creds(credentials.NewTLS(cfg))}, nil
}

// mapper returns how a receiver's records become entries.
func (s *Server) mapper(receiver string) (*mapping.Mapper, error) {
	m, err := mapping.New(s.cfg.Mapping.For(receiver), s.cfg.MappingLimits())
	if err != nil {
		return nil, fmt.Errorf("mapping.%s: %w", receiver, err)
	}
	return m, nil
}

// recordReceivers adds those that take records over HTTP.
func (s *Server) recordReceivers(mux *http.ServeMux) error {
	mappers := map[string]*mapping.Mapper{}
	for _, name := range []string{"json", "logstash", "fluentbit", "elasticsearch"} {
		m, err := s.mapper(name)
		if err != nil {
			return err
		}
		mappers[name] = m
	}
	events, err := httpjson.New(httpjson.Deps{
		Sink: s.gateway, Mapper: mappers["json"], Logstash: mappers["logstash"], FluentBit: mappers["fluentbit"],
		Log: s.log, Metrics: s.d.Registry,
	}, s.cfg.JSON)
	if err != nil {
		return err
	}
	events.Register(mux)
	bulk, err := elasticsearch.New(elasticsearch.Deps{
		Sink: s.gateway, Mapper: mappers["elasticsearch"], Log: s.log, Metrics: s.d.Registry,
	}, s.cfg.Elasticsearch)
	if err != nil {
		return err
	}
	bulk.Register(mux)
	return nil
}

// socketReceivers opens those that have listeners of their own.
func (s *Server) socketReceivers(mux *http.ServeMux) error {
	m, err := s.mapper("forward")
	if err != nil {
		return err
	}
	fwd, err := forward.New(forward.Deps{Sink: s.gateway, Mapper: m, Log: s.log, Metrics: s.d.Registry}, s.cfg.Forward)
	if err != nil {
		return err
	}
	if err := s.openSocket(socket{"forward", fwd.Addrs, fwd.Close}, fwd.Open); err != nil {
		return err
	}
	if m, err = s.mapper("syslog"); err != nil {
		return err
	}
	sys, err := syslog.New(syslog.Deps{Sink: s.gateway, Mapper: m, Log: s.log, Metrics: s.d.Registry}, s.cfg.Syslog)
	if err != nil {
		return err
	}
	sysAddrs := func() []net.Addr { return []net.Addr{sys.TCPAddr(), sys.TLSAddr(), sys.UDPAddr()} }
	if err := s.openSocket(socket{"syslog", sysAddrs, sys.Close}, sys.Open); err != nil {
		return err
	}
	logs, err := otlp.New(otlp.Deps{Sink: s.gateway, Log: s.log, Metrics: s.d.Registry, GRPC: s.grpcAuth()}, s.cfg.OTLP)
	if err != nil {
		return err
	}
	logs.Register(mux)
	if err := s.openSocket(socket{"otlp", func() []net.Addr { return []net.Addr{logs.Addr()} }, logs.Close}, logs.Open); err != nil {
		return err
	}
	s.warnTenants()
	return nil
}

func (s *Server) openSocket(r socket, open func() error) error {
	if err := open(); err != nil {
		return err // it names the receiver
	}
	s.sockets = append(s.sockets, r)
	s.undo = append(s.undo, func() { s.closeSocket(r) })
	return nil
}

// warnTenants says at start what would else be found out by missing data.
func (s *Server) warnTenants() {
	if !s.cfg.Auth.Enabled {
		return
	}
	for _, r := range []struct{ name, tenant string }{{"forward", s.cfg.Forward.Tenant}, {"syslog", s.cfg.Syslog.Tenant}} {
		if s.socketAddr(r.name) != "" && r.tenant == "" {
			s.log.Warn("with auth.enabled, what comes without a tenant is not taken; senders keep it as long as they can",
				"receiver", r.name, "set", r.name+".tenant")
		}
	}
}
