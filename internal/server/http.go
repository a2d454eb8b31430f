package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/bounded"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/internal/warn"
)

// HTTPConfig holds the settings of the HTTP server.
type HTTPConfig struct {
	Listen            string         `yaml:"http-listen" help:"address of the HTTP server: push, query, operations; empty switches it off"`
	ReadHeaderTimeout time.Duration  `yaml:"http-read-header-timeout" help:"time in which a client must send the headers of a request"`
	BodyTimeout       time.Duration  `yaml:"http-body-timeout" help:"time in which a client must send the next 16 KiB of a body (or what is left of it); large bodies may take as many of these as they need"`
	WriteTimeout      time.Duration  `yaml:"http-write-timeout" help:"time in which a client must take the next piece of an answer"`
	IdleTimeout       time.Duration  `yaml:"http-idle-timeout" help:"an idle connection is closed after this long"`
	MaxHeaderBytes    int            `yaml:"http-max-header-bytes" help:"largest headers of a request"`
	MaxConnections    int            `yaml:"http-max-connections" help:"most connections at a time; others wait"`
	TLS               tlsconf.Server `yaml:"http-tls"`
}

// DefaultHTTPConfig returns the defaults.
func DefaultHTTPConfig() HTTPConfig {
	return HTTPConfig{
		Listen:            ":3100",
		ReadHeaderTimeout: 10 * time.Second,
		BodyTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		MaxConnections:    10000,
	}
}

func (c HTTPConfig) validate() (errs []error) {
	for name, d := range map[string]time.Duration{
		"http-read-header-timeout": c.ReadHeaderTimeout, "http-body-timeout": c.BodyTimeout,
		"http-write-timeout": c.WriteTimeout, "http-idle-timeout": c.IdleTimeout,
	} {
		if d <= 0 {
			errs = append(errs, errors.New("server."+name+": must be above 0"))
		}
	}
	if c.MaxConnections <= 0 {
		errs = append(errs, errors.New("server.http-max-connections: must be above 0"))
	}
	if c.MaxHeaderBytes < 4096 {
		errs = append(errs, errors.New("server.http-max-header-bytes: must be 4096 or more"))
	}
	for _, err := range c.TLS.Validate() {
		errs = append(errs, fmt.Errorf("server.http-tls.%w", err))
	}
	return errs
}

// progress is the number of body bytes that move the body deadline on. It
// bounds what a client that trickles its body can hold: a connection that
// brings less than this in BodyTimeout is cut.
const progress = 16 << 10

// httpServer serves one handler with deadlines that follow progress, so that
// a slow upload lives and a stalled one does not. Serve runs until Shutdown.
type httpServer struct {
	cfg  HTTPConfig
	warn *warn.Logger
	srv  *http.Server
	took *prometheus.HistogramVec
	busy prometheus.Gauge
}

func newHTTPServer(cfg HTTPConfig, mux *http.ServeMux, guard func(http.Handler) http.Handler, log *slog.Logger, reg prometheus.Registerer) (*httpServer, error) {
	s := &httpServer{
		cfg: cfg, warn: warn.New(log),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "loki_go_server_request_duration_seconds",
			Help:    "Time from a request's headers to its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route", "status"}),
		busy: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "loki_go_server_requests_in_flight_count", Help: "Requests being served.",
		}),
	}
	if reg != nil {
		reg.MustRegister(s.took, s.busy)
	}
	s.srv = &http.Server{
		Handler:           s.wrap(guard(noteRoute(mux))),
		ReadHeaderTimeout: cfg.ReadHeaderTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    cfg.MaxHeaderBytes,
		ErrorLog:          stdlog.New(complaints{s.warn}, "", 0),
	}
	if cfg.TLS.Enabled() {
		var err error
		if s.srv.TLSConfig, err = cfg.TLS.Config(log, "h2", "http/1.1"); err != nil {
			return nil, fmt.Errorf("server.http-tls: %w", err)
		}
	}
	return s, nil
}

// Serve accepts connections from l until Shutdown.
func (s *httpServer) Serve(l net.Listener) error {
	l = bounded.New(l, s.cfg.MaxConnections, func() {
		s.warn.Warn("there are as many HTTP connections as allowed, others wait", "limit", s.cfg.MaxConnections)
	})
	l = &listener{Listener: l, warn: s.warn}
	serve := s.srv.Serve
	if s.srv.TLSConfig != nil {
		serve = func(l net.Listener) error { return s.srv.ServeTLS(l, "", "") }
	}
	err := serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown stops accepting, waits for requests in flight until ctx ends, then
// cuts what is left.
func (s *httpServer) Shutdown(ctx context.Context) {
	if s.srv.Shutdown(ctx) != nil {
		s.srv.Close()
	}
}

// noteRoute leaves the pattern of a request with its response: a guard in
// between may hand the handler another request than it got itself.
func noteRoute(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r)
		if out, ok := w.(*response); ok {
			out.route = r.Pattern
		}
	})
}

func (s *httpServer) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		s.busy.Inc()
		defer s.busy.Dec()
		rc := http.NewResponseController(w)
		out := &response{ResponseWriter: w, rc: rc, timeout: s.cfg.WriteTimeout}
		if r.ContentLength != 0 {
			b := &body{body: r.Body, rc: rc, timeout: s.cfg.BodyTimeout, left: progress}
			b.allow(start.Add(b.timeout))
			r.Body, out.body = b, b
		}
		h.ServeHTTP(out, r)
		route := out.route
		if route == "" {
			route = "other"
		}
		s.took.WithLabelValues(route, strconv.Itoa(out.code())).Observe(time.Since(start).Seconds())
	})
}

// body gives a client BodyTimeout for each part of its body. Only the time
// that is spent waiting for the client counts: a server that is busy with what
// it has read must not take that for a client that stalls.
type body struct {
	body     io.ReadCloser
	rc       *http.ResponseController
	timeout  time.Duration
	left     int           // bytes of this part
	waited   time.Duration // for this part
	deadline time.Time     // as the connection has it
	done     bool
}

func (b *body) Read(p []byte) (int, error) {
	start := time.Now()
	b.allow(start.Add(b.timeout - b.waited))
	n, err := b.body.Read(p)
	b.waited += time.Since(start)
	if b.left -= n; b.left <= 0 {
		b.left, b.waited = progress, 0
	}
	if errors.Is(err, io.EOF) {
		// The deadline was for the body: a handler that now waits for a disk
		// must not lose its connection.
		b.done = true
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// allow moves the deadline to t, if that is worth the call.
func (b *body) allow(t time.Time) {
	if t.Sub(b.deadline) > b.timeout/16 {
		// A connection without deadlines (tests) is as good as any.
		_ = b.rc.SetReadDeadline(t)
		b.deadline = t
	}
}

func (b *body) Close() error { return b.body.Close() }

// response notes the status and moves the write deadline on.
type response struct {
	http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
	body    *body // of the request, if it has one
	status  int
	route   string // pattern of the handler
	moved   time.Time
}

func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *response) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}

// begin is called before anything is written. That is when net/http reads what
// the handler left of a body; it must neither wait for that forever nor find a
// deadline that passed while the handler was busy.
func (r *response) begin(code int) {
	if r.status != 0 {
		return
	}
	r.status = code
	if r.body != nil && !r.body.done {
		r.body.allow(time.Now().Add(r.body.timeout))
	}
}

func (r *response) WriteHeader(code int) {
	r.begin(code)
	r.ResponseWriter.WriteHeader(code)
}

func (r *response) Write(p []byte) (int, error) {
	r.begin(http.StatusOK)
	if now := time.Now(); now.Sub(r.moved) > r.timeout/16 {
		_ = r.rc.SetWriteDeadline(now.Add(r.timeout))
		r.moved = now
	}
	return r.ResponseWriter.Write(p)
}

// Flush implements http.Flusher for streaming handlers.
func (r *response) Flush() { _ = r.rc.Flush() }

// complaints takes what net/http has to say of connections: of handshakes that
// fail, as with each look of a load balancer whether a port with TLS is open.
type complaints struct{ warn *warn.Logger }

func (c complaints) Write(p []byte) (int, error) {
	c.warn.Warn("http connection failed", "err", string(bytes.TrimSpace(p)))
	return len(p), nil
}

// listener wraps connections so that a client which stalls in the middle of a
// request leaves one line in the log. net/http closes it without a word.
type listener struct {
	net.Listener
	warn *warn.Logger
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, warn: l.warn}, nil
}

type conn struct {
	net.Conn
	warn   *warn.Logger
	unread atomic.Int64 // bytes read since something was last written
	woken  atomic.Bool  // the read deadline was set to the past, to end a read
}

// SetReadDeadline takes note of the server ending a read of its own, which it
// does when a handler takes the connection over.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.woken.Store(!t.IsZero() && t.Before(time.Now()))
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if got := c.unread.Add(int64(n)); got > 0 && errors.Is(err, os.ErrDeadlineExceeded) && !c.woken.Load() {
		c.unread.Store(0)
		c.warn.Warn("request cut: the client stopped sending", "peer", c.RemoteAddr().String(), "received", got)
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	c.unread.Store(0)
	return c.Conn.Write(p)
}
