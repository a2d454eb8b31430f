// Package forward receives log events by Fluentd's forward protocol, from
// Fluentd, Fluent Bit, Docker, and the fluent-logger libraries.
//
// # Protocol
//
// A client sends MessagePack values one behind the other, with nothing between
// them. nil is a sign of life and ignored; all else is a message, an array:
//
//	[tag, time, record, option]             Message
//	[tag, [[time, record], ...], option]    Forward
//	[tag, entries, option]                  PackedForward: entries in a str or bin,
//	                                        compressed with gzip or zstd or not
//
// The option may be missing. Entries are in the forms that msgpack.Events
// knows, with Fluent Bit's metadata and groups. If the option has a chunk, the
// client waits for {"ack": chunk}, the value byte for byte as it came, in one
// segment; acks are sent in the order of messages. Messages with a
// fluent_signal that is not 0 have metrics or traces: they are acknowledged,
// dropped and counted.
//
// A connection whose first byte is [ or { speaks JSON, with arrays of the first
// two forms, and gets JSON for an ack.
//
// With Config.SharedKey or Config.Users a connection begins with a handshake,
// in MessagePack: the server sends HELO, the client PING, the server PONG. What
// they have is written down beside the type greeting. Before a PING that proves
// that the client knows the key, and is one of the users, nothing is read but
// 2 KiB at most, within Config.HandshakeTimeout. Whoever fails is told why, and
// the connection ends. A client that sees that the server does not know the key
// leaves by itself.
//
// With Config.TLS the ports speak TLS only. At Config.UnixListen the protocol is
// the same, without TLS.
//
// On the UDP port of the same number a datagram is answered with one null byte.
//
// # What happens to entries
//
// A message is read and checked whole, then mapped as package mapping says (the
// label is job="forward") and pushed, in several batches if it is large or its
// records belong to several tenants. Then, and only then, it is acknowledged.
//
//	entry that is none (no map, no time)  kept as a dead letter, logged, counted;
//	                                      the rest is stored and acknowledged
//	body that cannot be decompressed      the same for all of it
//	entries refused for good              the same, by the gateway: sent again
//	                                      they would be refused again
//	entry refused for the moment (a       pushed again, alone, as in the next case
//	limit on rate or streams)
//	nothing is known to be stored         tried again for Config.Hold; then the
//	                                      connection is closed without an ack, and
//	                                      the client sends the chunk again. A
//	                                      message without a chunk has no other
//	                                      copy, it is tried again until shutdown
//	message that is none                  the connection is closed, with a log
//	                                      line that names the peer
//
// While a message waits to be stored, or for memory, its connection is not
// read: TCP makes the client wait.
//
// Messages without a chunk that have arrived together are pushed together.
//
// The tenant is the one that the record or the tag names, if the mapping is so
// configured, else that of the user who sends, else Config.Tenant.
//
// A push has an id, so that a chunk which is sent again is known: a hash of the
// chunk id, the tag, the size of the entries, the part of the message and the
// tenant. The chunk id alone would not do. Fluent Bit's is a hash of the content,
// so that equal records with two tags have the same one.
//
// # Life cycle
//
// New, then Open (or Serve with listeners of one's own), then Close. A
// connection has one goroutine; Close waits for all of them: it stops accepting,
// reads what clients have sent already, acknowledges it, and closes what is left
// after Config.DrainTimeout. An idle connection costs its goroutine and 4 KiB.
// What a client announces costs nothing: buffers grow with what has arrived, and
// what is larger than 16 KiB has to be admitted by the Sink.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// Sink takes what the receiver has read.
type Sink interface {
	// Admit asks for n bytes of memory for a message; they are given back by
	// release. It may wait. An error that may pass by itself is waited out.
	Admit(ctx context.Context, n int64) (release func(), err error)
	// Push returns when the batch is durable, or *push.Rejected, *push.Error or
	// another error: see docs/architecture.md. It does not keep the batch. After
	// an error that may pass it is called with the same batch again.
	Push(ctx context.Context, b *push.Batch) error
}

// Deps are what a Server works with. Sink and Mapper must be set.
type Deps struct {
	Sink    Sink
	Mapper  *mapping.Mapper
	Log     *slog.Logger          // nil: no logs
	Metrics prometheus.Registerer // nil: no metrics
	Now     func() time.Time      // nil: time.Now; stands in for times that events lack
}

// Server receives events. Its methods may be called concurrently.
type Server struct {
	d         Deps
	cfg       Config
	metrics   *metrics
	logs      *warn.Logger
	buffers   buffers
	free      chan *worker // used before workers: what the pool has is lost again and again
	workers   sync.Pool    // *worker
	overdraft chan struct{}
	auth      *auth // nil: clients need not identify themselves

	ctx     context.Context // ends when the server will not wait any longer
	cancel  context.CancelFunc
	drain   chan struct{}  // closed by Close
	wg      sync.WaitGroup // of connections
	accepts sync.WaitGroup // of what takes connections and heartbeats
	begin   sync.Once      // Close

	mu      sync.Mutex
	ended   bool      // nothing is opened any more
	closed  bool      // no connection is begun any more
	drainBy time.Time // set before drain is closed
	open    []interface{ Close() error }
	conns   map[*conn]struct{}
	unknown int // connections that have not been greeted
	addrs   []net.Addr
}

// New returns a Server that does nothing yet. cfg must be valid.
func New(d Deps, cfg Config) (*Server, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("forward: %w", errors.Join(errs...))
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	a, err := newAuth(cfg)
	if err != nil {
		return nil, fmt.Errorf("forward: %w", err)
	}
	m, err := newMetrics(d.Metrics)
	if err != nil {
		return nil, fmt.Errorf("forward: register metrics: %w", err)
	}
	s := &Server{
		d: d, cfg: cfg, metrics: m, auth: a,
		free:      make(chan *worker, 2*runtime.GOMAXPROCS(0)),
		overdraft: make(chan struct{}, 1),
		drain:     make(chan struct{}),
		conns:     map[*conn]struct{}{},
	}
	s.logs = warn.New(d.Log)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.workers.New = func() any { return newWorker(d.Mapper.Acquire()) }
	return s, nil
}

// Open listens at all that Config names, and serves until Close. It does nothing
// if Config names nothing.
func (s *Server) Open() error {
	all, err := s.listen()
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	for i, l := range all {
		if !s.serve(l) {
			for _, l := range all[i:] {
				l.Close()
			}
			return errClosed
		}
		s.d.Log.Info("forward receiver listens", "addr", l.Addr().String(), "heartbeat", l.heartbeats != nil, "tls", s.cfg.TLS.Enabled() && l.Addr().Network() == "tcp", "identified", s.auth != nil)
	}
	return nil
}

var errClosed = errors.New("forward: the server is closed")

// serve starts what answers at l, unless the server is closed.
func (s *Server) serve(l listener) bool {
	if !s.start(l, func() { s.accept(l) }) {
		return false
	}
	// If the server has been closed since, l is, and this one ends at once.
	return l.heartbeats == nil || s.start(l.heartbeats, func() { s.serveHeartbeats(l.heartbeats) })
}

// Addr returns the address of the first listener, or nil.
func (s *Server) Addr() net.Addr {
	if all := s.Addrs(); len(all) > 0 {
		return all[0]
	}
	return nil
}

// Addrs returns the addresses of all listeners, in the order of Config.Listen,
// with the Unix socket at the end.
func (s *Server) Addrs() []net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.addrs)
}

// Serve accepts connections from ln until Close, which closes ln. It is what
// Open does, for a listener that does more than TCP.
func (s *Server) Serve(ln net.Listener) error {
	done := make(chan struct{})
	if !s.start(ln, func() { defer close(done); s.accept(ln) }) {
		ln.Close()
		return errClosed
	}
	<-done
	return nil
}

// start runs f, which ends when c is closed, unless the server is closed.
func (s *Server) start(c interface{ Close() error }, f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	if ln, ok := c.(net.Listener); ok {
		s.addrs = append(s.addrs, ln.Addr())
	}
	s.open = append(s.open, c)
	s.accepts.Go(f)
	return true
}

// accept takes connections until ln is closed.
func (s *Server) accept(ln net.Listener) {
	const most = time.Second
	pause := 5 * time.Millisecond
	for {
		nc, err := ln.Accept()
		if err != nil {
			if s.draining() || errors.Is(err, net.ErrClosed) {
				return
			}
			// Too many open files, say; it passes.
			s.logs.Warn("accept forward connection", "err", err)
			s.sleep(pause)
			pause = min(2*pause, most)
			continue
		}
		pause = 5 * time.Millisecond
		s.startConn(nc)
	}
}

// startConn serves nc, unless there are too many connections already.
func (s *Server) startConn(nc net.Conn) {
	c := newConn(s, nc)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		nc.Close()
		return
	case len(s.conns) >= s.cfg.MaxConnections:
		s.turnAway(c, "too_many", s.cfg.MaxConnections)
		return
	case !c.greetBy.IsZero() && s.unknown >= s.cfg.MaxUnidentified:
		s.turnAway(c, "too_many_unidentified", s.cfg.MaxUnidentified)
		return
	}
	s.conns[c] = struct{}{}
	if !c.greetBy.IsZero() {
		c.unknown = true
		s.unknown++
	}
	s.metrics.connections.Inc()
	s.wg.Go(func() {
		defer s.forget(c)
		c.serve()
	})
}

func (s *Server) turnAway(c *conn, reason string, limit int) {
	s.metrics.closed.WithLabelValues(reason).Inc()
	c.nc.Close()
	s.logs.Warn("forward connection refused: there are as many as allowed", "peer", c.peer, "reason", reason, "limit", limit)
}

// known notes that c has got through what is demanded before its first message.
func (s *Server) known(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.unknown {
		c.unknown = false
		s.unknown--
	}
}

func (s *Server) forget(c *conn) {
	s.known(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.metrics.connections.Dec()
}

// draining reports whether Close has been called.
func (s *Server) draining() bool {
	select {
	case <-s.drain:
		return true
	default:
		return false
	}
}

// sleep waits for d, or until the server will not wait any longer.
func (s *Server) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.ctx.Done():
	}
}

// Close stops the server: see the package comment. It returns when nothing of
// it runs any longer, also if another Close has begun that.
func (s *Server) Close() error {
	s.begin.Do(func() {
		s.stopAccepting()
		s.beginDrain()
	})
	stop := time.AfterFunc(time.Until(s.drainBy), s.abort)
	defer stop.Stop()
	s.wg.Wait()
	s.cancel()
	return nil
}

// stopAccepting ends accepting for good. That comes first: a client that saw
// the end of its connection while a listener was still open would make another
// one, and what it sends there without wanting an ack would be lost with the
// listener's backlog.
func (s *Server) stopAccepting() {
	s.mu.Lock()
	s.ended = true
	open := s.open
	s.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	s.accepts.Wait()
}

// beginDrain tells all connections to read what is under way and end.
func (s *Server) beginDrain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.drainBy = time.Now().Add(s.cfg.DrainTimeout)
	close(s.drain)
	for c := range s.conns {
		c.wake()
	}
}

// abort ends all that still waits.
func (s *Server) abort() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.abort()
	}
}
