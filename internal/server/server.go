// Package server wires the parts of loki-go together in one process and
// serves them: cmd/loki-go with what the user said, tests with a file layer
// that fails.
//
// Open starts everything and returns while the WAL is still being replayed;
// /ready says when pushes are accepted. Shutdown stops everything in the order
// in which nothing is lost. A Server is safe for concurrent use.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/loki-go/loki-go/cluster"
	"github.com/loki-go/loki-go/gateway"
	"github.com/loki-go/loki-go/gateway/auth"
	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/ingester"
	"github.com/loki-go/loki-go/internal/bounded"
	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/query/level"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/ring/status"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/compactor"
)

// Deps is what a Server needs from outside. All of it must be set but Getenv.
type Deps struct {
	FS       vfs.FS
	Log      *slog.Logger
	Level    *slog.LevelVar // of Log
	Registry *prometheus.Registry
	Getenv   config.Getenv // for files that are read later; nil: nothing is set
	Version  string
	Settings func() []byte // for /config
}

// Server is a running process. See Open.
type Server struct {
	cfg Config
	d   Deps
	log *slog.Logger

	limits    *limits.Overrides
	stored    *storage.Store
	compactor *compactor.Compactor // nil: none here
	ingester  *ingester.Ingester
	gateway   *gateway.Gateway
	front     *gateway.Gateway // of an ingester, for Loki's distributors; nil: they are not served
	members   ring.Membership
	pool      *cluster.Pool   // nil: there are no other processes
	peers     *cluster.Server // nil: none asks this process
	others    *peers          // nil: there are no other replicas of what the ingester has
	telling   sync.Mutex      // held while the ring is told of a state, so that it learns of them in order
	ringMu    sync.Mutex
	self      ring.Instance // of the ingester; State is under ringMu
	auth      *auth.Auth
	sockets   []socket // receivers with listeners of their own
	http      *httpServer
	engine    *query.Engine
	query     *query.Handler
	grpc      *grpc.Server

	httpListener net.Listener
	grpcListener net.Listener

	leaving  atomic.Bool
	draining chan struct{}  // closed when leaving is set
	streams  sync.WaitGroup // handlers of endStreams
	failed   chan error
	asked    chan struct{} // closed when a client asks for the end
	askOnce  sync.Once
	flush    atomic.Bool   // store everything at the end
	drained  chan struct{} // closed when the ingester has stopped
	stopOnce sync.Once
	stopErr  error

	ctx    context.Context // ends when helpers shall stop
	cancel context.CancelFunc
	wg     sync.WaitGroup
	undo   []func() // what an Open that fails has to stop, from the end
	closes []func() // what is closed last, in any case, from the end
}

// Open starts a process with cfg, which must be valid. Errors name the setting
// at fault.
func Open(cfg Config, d Deps) (*Server, error) {
	s := &Server{
		cfg: cfg, d: d, log: d.Log,
		failed: make(chan error, 1), asked: make(chan struct{}), drained: make(chan struct{}), draining: make(chan struct{}),
	}
	s.flush.Store(cfg.Ingester.FlushOnShutdown)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.open(); err != nil {
		s.cancel()
		runFromEnd(s.undo)
		runFromEnd(s.closes)
		return nil, err
	}
	return s, nil
}

func runFromEnd(list []func()) {
	for i := len(list) - 1; i >= 0; i-- {
		list[i]()
	}
}

func (s *Server) open() error {
	steps := []func() error{s.lock, s.listen, s.store, s.meet, s.distribute, s.makeFront, s.receive, s.serve}
	if s.cfg.Target == targetCompactor {
		steps = []func() error{s.listen, s.compact, s.operate, s.serveCompactor}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	s.log.Info("loki-go started", "version", s.d.Version, "target", s.cfg.Target, "data_dir", s.cfg.DataDir, "instance", s.cfg.instanceID())
	return nil
}

// lock makes the data directory ours.
func (s *Server) lock() error {
	dir := s.cfg.DataDir
	if err := s.d.FS.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("data-dir: %w", err)
	}
	lock, err := s.d.FS.Lock(filepath.Join(dir, "LOCK"))
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("data-dir: %s is in use by another process", dir)
	}
	if err != nil {
		return fmt.Errorf("data-dir: %w", err)
	}
	s.closes = append(s.closes, func() { lock.Close() })
	return nil
}

// listen takes the ports first: that fails fast, and a client that comes
// during the replay waits instead of being turned away.
func (s *Server) listen() error {
	for _, l := range []struct {
		setting, addr string
		to            *net.Listener
	}{
		{"server.http-listen", s.cfg.Server.Listen, &s.httpListener},
		{"server.grpc-listen", s.cfg.Server.GRPCListen, &s.grpcListener},
	} {
		if l.addr == "" || l.to == &s.grpcListener && s.cfg.Target == targetCompactor {
			continue
		}
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			return fmt.Errorf("%s: %w", l.setting, err)
		}
		*l.to = ln
		s.undo = append(s.undo, func() { ln.Close() })
	}
	return nil
}

// store opens what keeps data: the bucket and the ingester, whose replay begins.
func (s *Server) store() error {
	bucket, err := s.bucket()
	if err != nil {
		return err
	}
	if err := s.readLimits(); err != nil {
		return err
	}
	if err := s.openStore(bucket); err != nil || !s.cfg.ingests() {
		return err
	}
	deps := ingester.Deps{Store: s.stored, Limits: s.ingesterLimits, Log: s.log, Registerer: s.d.Registry}
	if s.cfg.clustered() && s.cfg.Ring.ReplicationFactor > 1 && s.cfg.Ingester.OneCopy {
		s.others = newPeers(s.cfg.Ring.ReplicationFactor, s.cfg.instanceID())
		deps.Peers = s.others
	}
	s.ingester, err = ingester.Open(s.d.FS, s.cfg.DataDir, s.cfg.Ingester, deps)
	if err != nil {
		return fmt.Errorf("data-dir: %w", err)
	}
	s.undo = append(s.undo, func() { s.ingester.Shutdown(s.ctx, false) })
	return nil
}

func (s *Server) readLimits() (err error) {
	if s.limits, err = limits.New(s.cfg.Limits, s.d.Getenv, s.log); err != nil {
		return fmt.Errorf("limits.overrides-file: %w", err)
	}
	return nil
}

func (s *Server) ingesterLimits(id string) ingester.Limits {
	l := s.limits.For(id)
	return ingester.Limits{MaxStreams: l.MaxGlobalStreamsPerUser, Unordered: l.UnorderedWrites, Horizon: l.Horizon()}
}

func (s *Server) queryLimits(id string) query.Limits {
	l := s.limits.For(id)
	return query.Limits{
		MaxEntries: l.MaxEntriesLimitPerQuery, MaxQueryLength: l.MaxQueryLength, MaxQueryRange: l.MaxQueryRange,
		MaxQuerySeries: l.MaxQuerySeries, QueryTimeout: l.QueryTimeout,
		Levels: level.Config{Discover: l.DiscoverLogLevels && l.AllowStructuredMetadata, Fields: l.LogLevelFields, JSONDepth: l.LogLevelFromJSONMaxDepth},
	}
}

// distribute makes the gateway.
func (s *Server) distribute() (err error) {
	if s.cfg.distributes() {
		s.gateway, err = gateway.New(gateway.Deps{
			Ring: s.members, Dial: s.replica, Limits: s.limits, Log: s.log, Metrics: s.d.Registry,
		}, s.cfg.gateway())
	}
	return err
}

func (s *Server) serveHTTP() {
	if s.httpListener != nil {
		s.start(func() { s.fail("http", s.http.Serve(s.httpListener)) })
	}
}

// serve starts what answers clients, and the helpers.
func (s *Server) serve() error {
	s.serveHTTP()
	if s.grpc != nil {
		most, full := s.cfg.Server.GRPCMaxConnections, warn.New(s.log)
		l := bounded.New(s.grpcListener, most, func() { full.Warn("there are as many gRPC connections as allowed, others wait", "limit", most) })
		s.start(func() { s.fail("grpc", s.grpc.Serve(l)) })
	}
	s.start(func() { s.limits.Run(s.ctx) })
	if s.compactor != nil {
		s.start(func() { s.compactor.Run(s.ctx) })
	}
	if s.pool != nil {
		s.start(s.follow)
	}
	if s.ingester != nil {
		s.start(s.join)
	}
	return nil
}

func (s *Server) start(f func()) { s.wg.Go(f) }

func (s *Server) fail(what string, err error) {
	if err == nil {
		return
	}
	select {
	case s.failed <- fmt.Errorf("%s server: %w", what, err):
	default:
	}
}

func (s *Server) ringState() ring.State {
	s.ringMu.Lock()
	defer s.ringMu.Unlock()
	return s.self.State
}

// Ready returns nil when the process does its work, which may be to accept
// pushes, else why not.
func (s *Server) Ready() error {
	if s.leaving.Load() {
		return errors.New("leaving: the process is about to end")
	}
	if s.ingester == nil {
		return nil // nothing to wait for: what others are ready for is their own
	}
	if err := s.ingester.Ready(); err != nil {
		return err
	}
	if st := s.ringState(); st != ring.Active {
		return fmt.Errorf("instance is %s in the ring", st)
	}
	return nil
}

// HTTPAddr and GRPCAddr return where the process listens, or "".
func (s *Server) HTTPAddr() string { return listenerAddr(s.httpListener) }
func (s *Server) GRPCAddr() string { return listenerAddr(s.grpcListener) }

func listenerAddr(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

func (s *Server) ops() *ops {
	o := &ops{
		ready: s.Ready, services: s.services, config: s.d.Settings,
		ring:  status.New(s.members, status.Options{ReplicationFactor: s.cfg.Ring.ReplicationFactor, Self: s.selfID()}),
		level: s.d.Level, metrics: s.d.Registry, log: s.log,
	}
	if s.ingester != nil {
		o.flush, o.shutdown = s.ingester.Flush, s.requestShutdown
	}
	return o
}

// selfID is the name of this instance in the ring, if it is in it.
func (s *Server) selfID() string {
	if s.ingester == nil {
		return ""
	}
	return s.self.ID
}

func (s *Server) services() []service {
	var list []service
	if s.ingester != nil {
		list = append(list, service{"ingester", s.ingester.State(), ""}, service{"ring", s.ringState().String(), s.self.ID})
	}
	if s.compactor != nil {
		list = append(list, s.compactorService())
	}
	list = append(list, s.listening("http", s.HTTPAddr()), s.listening("grpc", s.GRPCAddr()))
	for _, r := range s.sockets {
		list = append(list, s.listening(r.name, r.address()))
	}
	return list
}

func (s *Server) listening(name, addr string) service {
	state := "running"
	if addr == "" {
		state = "off"
	} else if s.leaving.Load() {
		state = "stopping"
	}
	return service{name, state, addr}
}

// Failed yields an error after which the process cannot go on.
func (s *Server) Failed() <-chan error { return s.failed }

// ShutdownRequested is closed when a client asked for the end of the process.
func (s *Server) ShutdownRequested() <-chan struct{} { return s.asked }

func (s *Server) requestShutdown(ctx context.Context, flush bool) error {
	s.askOnce.Do(func() {
		s.flush.Store(flush)
		close(s.asked)
	})
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown ends the process: receivers read what was sent already and stop,
// pushes in flight finish, the ingester stores what it has or leaves it in the
// WAL, and the HTTP server goes last. It returns when all is closed; an error
// says what was not stored, and is in the WAL.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopOnce.Do(func() { s.stopErr = s.shutdown(ctx) })
	return s.stopErr
}

func (s *Server) shutdown(ctx context.Context) error {
	begin := time.Now()
	s.leaving.Store(true)
	close(s.draining)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Server.ShutdownTimeout)
	defer cancel()
	var err error
	if s.members != nil {
		err = s.drain(ctx)
	} else {
		s.cancel() // the compactor releases its lease
	}
	close(s.drained)

	// Answers that are under way may take a moment, but not the time that the
	// flush had.
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancelLast()
	if s.query != nil {
		s.query.Close() // connections that the HTTP server knows nothing of any more
	}
	s.http.Shutdown(last)
	s.cancel()
	s.wg.Wait()
	s.streams.Wait()
	runFromEnd(s.closes)
	s.log.Info("stopped", "took", time.Since(begin).Round(time.Millisecond))
	return err
}

// drain ends what takes pushes and stores or keeps what came. In a cluster
// gateways turn to other ingesters first, and queries are answered to the last.
func (s *Server) drain(ctx context.Context) error {
	if s.pool != nil {
		s.leave(ctx)
	}
	var receivers sync.WaitGroup
	for _, r := range s.sockets {
		receivers.Go(func() { s.closeSocket(r) })
	}
	if s.grpc != nil && s.peers == nil {
		receivers.Go(func() { stopGRPC(ctx, s.grpc) })
	}
	receivers.Wait()

	var errs []error
	for _, g := range []*gateway.Gateway{s.gateway, s.front} {
		if g != nil {
			errs = append(errs, g.Close(ctx))
		}
	}
	if s.ingester != nil {
		s.leave(ctx)
		errs = append(errs, s.ingester.Shutdown(ctx, s.flush.Load()))
	}
	s.part(ctx)
	return errors.Join(errs...)
}

// stopGRPC waits for calls under way until ctx ends.
func stopGRPC(ctx context.Context, g *grpc.Server) {
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	g.GracefulStop()
}
