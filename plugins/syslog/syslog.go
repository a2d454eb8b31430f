// Package syslog receives log messages by the syslog protocols, from rsyslog,
// syslog-ng, logger, and network devices.
//
// # Transports
//
//	TCP    RFC 6587: octet counting, or LF, CR LF or NUL behind each message, as
//	       each message has it
//	TLS    RFC 5425, with client certificates if they are demanded; all that goes
//	       over TCP goes here
//	UDP    RFC 5426: a datagram is a message
//	Unix   a datagram socket such as /dev/log; a datagram is a message
//
// # Messages
//
// RFC 5424 with structured data, and RFC 3164 with what devices make of it: see
// rfc5424 and bsd for what is understood. There are no malformed messages: what
// is not understood is text. A message without a priority has that of
// user.notice, one without a time that of its arrival; a time without a year is
// the newest that is not more than two days ahead of now, and one without a zone
// is in Config.TimeZone.
//
// A message longer than Config.MaxMessage becomes several entries, with the same
// header. A length that says more than 16 times as much is taken for text. What
// a connection leaves of a message is an entry, too.
//
// Octets are kept as they are, invalid UTF-8 too. Not part of the line are the
// byte order mark of RFC 5424, one space behind the tag of RFC 3164, and line
// ends and NULs at the end.
//
// # What becomes of them
//
// A message is mapped as package mapping says, as a record of these fields. The
// names are those that Promtail has, without its prefix __syslog_message_:
//
//	message                the line
//	service_name           the label: the name of the program
//	level                  fatal, critical, error, warn, info or debug
//	severity               emergency, alert, critical, error, warning, notice,
//	                       informational or debug
//	facility               kern, user, mail, ..., local7
//	hostname, app_name, proc_id, msg_id
//	                       as far as the message has them; app_name and proc_id
//	                       are the tag of RFC 3164. Of Cisco's tag, msg_id is all
//	                       and app_name the facility
//	sequence               Cisco's number of the message
//	connection_ip_address  the peer, which may be a relay
//	sd                     structured data: a map of elements, which are maps of
//	                       parameters
//
// So structured data is metadata like sd_exampleSDID_32473_iut, and the path
// sd.exampleSDID@32473.iut is what mapping's settings call it. The labels are
// job="syslog" and service_name; all else is metadata unless label-keys says
// otherwise.
//
// # Durability
//
// The protocol has no acknowledgement. Over TCP the receiver reads, maps what
// has arrived, and goes on reading when that is durable: otherwise it tries
// again until shutdown, and the sender's queue fills. Entries that are refused
// for good become dead letters. Datagrams wait in a bounded queue; when that is
// full the kernel's buffer fills, and then it drops datagrams, which are counted.
//
// # Life cycle
//
// New, Open, Close. A connection has one goroutine, a datagram socket two. Close
// stops accepting, tells clients that their connections end, reads what they
// have sent, stores it, and gives up after Config.DrainTimeout; it waits for all
// goroutines. An idle connection costs its goroutine and 4 KiB. Larger buffers
// have to be admitted by the Sink; those of UDP are bounded by the settings.
package syslog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// Sink takes what the receiver has read.
type Sink interface {
	// Admit asks for n bytes of memory; they are given back by release. It may
	// wait. An error that may pass by itself is waited out.
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
}

// Server receives messages. Its methods may be called concurrently.
type Server struct {
	d       Deps
	cfg     Config
	zone    *time.Location
	words   *keywords
	metrics *metrics
	warn    *warn.Logger
	apart   apart
	workers sync.Pool // *worker
	small   sync.Pool // *[]byte
	large   sync.Pool // *[]byte

	ctx      context.Context // ends when the server will not wait any longer
	cancel   context.CancelFunc
	drainCtx context.Context // ends when Close is called
	drain    context.CancelFunc
	wg       sync.WaitGroup
	accepts  sync.WaitGroup // of listeners
	begin    sync.Once      // Close

	mu        sync.Mutex
	closed    bool      // nothing may be opened any more
	drainBy   time.Time // set before drainCtx ends
	listeners []listener
	datagrams []*datagrams
	conns     map[*conn]struct{}
}

type listener struct {
	*net.TCPListener
	transport transport
	tls       *tls.Config
}

// New returns a Server that does nothing yet. cfg must be valid.
func New(d Deps, cfg Config) (*Server, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("syslog: %w", errors.Join(errs...))
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	zone, err := time.LoadLocation(cfg.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("syslog: time-zone: %w", err)
	}
	s := &Server{d: d, cfg: cfg, zone: zone, words: newKeywords(), warn: warn.New(d.Log), conns: map[*conn]struct{}{}}
	if s.metrics, err = newMetrics(d.Metrics, s.kernelDrops); err != nil {
		return nil, fmt.Errorf("syslog: register metrics: %w", err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.drainCtx, s.drain = context.WithCancel(context.Background())
	s.workers.New = func() any { return s.newWorker() }
	s.small.New = func() any { p := make([]byte, smallBuffer); return &p }
	s.large.New = func() any { p := make([]byte, s.largeSize()); return &p }
	return s, nil
}

// largeSize leaves room for a line and what comes of a message before it.
func (s *Server) largeSize() int { return max(largeBuffer, int(s.cfg.MaxMessage)+smallBuffer) }

// Open listens wherever the configuration says, and serves until Close.
func (s *Server) Open() error {
	if err := s.open(); err != nil {
		s.Close()
		return fmt.Errorf("syslog: %w", err)
	}
	return nil
}

func (s *Server) open() error {
	if addr := s.cfg.ListenTCP; addr != "" {
		if err := s.openStream(addr, overTCP, nil); err != nil {
			return fmt.Errorf("listen-tcp: %w", err)
		}
	}
	if addr := s.cfg.ListenTLS; addr != "" {
		c, err := s.cfg.TLS.Config(s.d.Log)
		if err != nil {
			return fmt.Errorf("tls: %w", err)
		}
		if err := s.openStream(addr, overTLS, c); err != nil {
			return fmt.Errorf("listen-tls: %w", err)
		}
	}
	if s.cfg.ListenUDP != "" {
		if err := s.openUDP(); err != nil {
			return fmt.Errorf("listen-udp: %w", err)
		}
	}
	if s.cfg.ListenUnix != "" {
		c, err := s.listenUnix()
		if err != nil {
			return fmt.Errorf("listen-unix: %w", err)
		}
		return s.startDatagrams(c, overUnix)
	}
	return nil
}

var errClosed = errors.New("the server is closed")

func (s *Server) openStream(addr string, t transport, c *tls.Config) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		ln.Close()
		return errClosed
	}
	l := listener{ln.(*net.TCPListener), t, c}
	s.listeners = append(s.listeners, l)
	s.accepts.Go(func() { s.accept(l) })
	s.d.Log.Info("syslog receiver listens", "transport", t.String(), "addr", ln.Addr().String())
	return nil
}

func (s *Server) openUDP() error {
	n := s.cfg.UDPReaders
	if n == 0 {
		n = min(runtime.GOMAXPROCS(0), 4)
	}
	conns, err := s.listenUDP(n)
	if err != nil {
		return err
	}
	for i, c := range conns {
		if err := s.startDatagrams(c, overUDP); err != nil {
			for _, c := range conns[i+1:] {
				c.Close()
			}
			return err
		}
	}
	return nil
}

func (s *Server) startDatagrams(c net.Conn, t transport) error {
	d := s.newDatagrams(c, t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return errClosed
	}
	s.datagrams = append(s.datagrams, d)
	s.wg.Go(func() {
		d.read()
		d.dropped() // for the last time
		d.conn.Close()
	})
	s.wg.Go(d.store)
	s.d.Log.Info("syslog receiver listens", "transport", t.String(), "addr", c.LocalAddr().String())
	return nil
}

// kernelDrops returns how many datagrams were dropped before they were read.
func (s *Server) kernelDrops() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := uint64(0)
	for _, d := range s.datagrams {
		n += d.dropped()
	}
	return float64(n)
}

// TCPAddr, TLSAddr and UDPAddr return where the server listens, or nil.
func (s *Server) TCPAddr() net.Addr { return s.streamAddr(overTCP) }
func (s *Server) TLSAddr() net.Addr { return s.streamAddr(overTLS) }

func (s *Server) UDPAddr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.datagrams {
		if d.transport == overUDP {
			return d.conn.LocalAddr()
		}
	}
	return nil
}

func (s *Server) streamAddr(t transport) net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		if l.transport == t {
			return l.Addr()
		}
	}
	return nil
}

// accept takes connections until stopAccepting, and closes l.
func (s *Server) accept(l listener) {
	defer l.Close()
	const least, most = 5 * time.Millisecond, time.Second
	pause := least
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = least
			if l.tls != nil {
				nc = tls.Server(nc, l.tls)
			}
			s.startConn(nc, l.transport)
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			return
		default:
			// Too many open files, say; it passes.
			s.warn.Warn("accept syslog connection", "err", err)
			s.sleep(pause)
			pause = min(2*pause, most)
		}
	}
}

// lastAccepts is for how long a shutdown takes connections that clients have
// made by then: they may have sent something.
const lastAccepts = 10 * time.Millisecond

// stopAccepting returns when nobody can connect any more. Clients must not be
// told that their connections end before that: they would make others.
func (s *Server) stopAccepting() {
	s.mu.Lock()
	for _, l := range s.listeners {
		// It fails only on one that is closed.
		_ = l.SetDeadline(time.Now().Add(lastAccepts))
	}
	s.mu.Unlock()
	s.accepts.Wait()
}

func (s *Server) startConn(nc net.Conn, t transport) {
	c := s.newConn(nc, t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.cfg.MaxConnections {
		nc.Close()
		s.metrics.closed.WithLabelValues("too_many").Inc()
		s.warn.Warn("syslog connection refused: there are as many as allowed", "peer", c.src.name, "limit", s.cfg.MaxConnections)
		return
	}
	s.conns[c] = struct{}{}
	s.metrics.connections.Inc()
	s.wg.Go(func() {
		defer s.forget(c)
		c.serve()
	})
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.metrics.connections.Dec()
}

const (
	admitTry   = 20 * time.Millisecond
	admitPause = 50 * time.Millisecond
)

// admit asks for the memory that a large buffer and what comes of it take. If
// it must be had, admit waits for it; else release may be nil.
func (s *Server) admit(must bool) (release func(), err error) {
	n := int64(s.largeSize() + 2*togetherSize)
	if !must {
		ctx, cancel := context.WithTimeout(s.ctx, admitTry)
		defer cancel()
		if release, err = s.d.Sink.Admit(ctx, n); err != nil {
			return nil, nil // it goes on with a small one
		}
		return release, nil
	}
	for {
		if release, err = s.d.Sink.Admit(s.ctx, n); err == nil {
			return release, nil
		}
		if s.ctx.Err() != nil {
			return nil, errShutdown
		}
		s.metrics.waits.Inc()
		s.sleep(admitPause)
	}
}

// draining reports whether Close has been called.
func (s *Server) draining() bool { return s.drainCtx.Err() != nil }

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
	s.begin.Do(s.beginClose)
	stop := time.AfterFunc(time.Until(s.drainBy), s.abort)
	defer stop.Stop()
	s.wg.Wait()
	s.cancel()
	return nil
}

func (s *Server) beginClose() {
	s.mu.Lock()
	s.closed = true
	s.drainBy = time.Now().Add(s.cfg.DrainTimeout)
	s.mu.Unlock()
	s.stopAccepting()
	s.drain()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.datagrams {
		d.wake()
	}
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
