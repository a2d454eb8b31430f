package syslog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// closeError ends a connection. reason is one of few words, for the metric.
type closeError struct {
	reason string
	err    error
}

func (e *closeError) Error() string { return e.err.Error() }
func (e *closeError) Unwrap() error { return e.err }

var (
	errShutdown = &closeError{reason: "shutdown", err: errors.New("the server stops")}
	errIdle     = &closeError{reason: "idle", err: errors.New("no message for as long as allowed")}
	errEnd      = &closeError{reason: "end", err: io.EOF}
	errSlow     = &closeError{reason: "too_slow", err: errors.New("the rest of a message did not come in time")}
)

const (
	// smallBuffer is what an idle connection has. It needs no admission.
	smallBuffer = 4 << 10
	// largeBuffer is what one gets whose client sends faster than it is read,
	// or a message that is larger than the small one. It may be larger still.
	largeBuffer = 256 << 10
	// fastWait is how long a silent connection keeps a large buffer.
	fastWait = 250 * time.Millisecond
	// quiet is how long a client has to be silent, after it was told that the
	// connection ends, to have sent all that it will. Those that look only before
	// they send need not answer; the others have this long, on a busy machine.
	quiet    = time.Second
	lastLook = 20 * time.Millisecond
)

// conn is a connection. One goroutine runs serve; wake and abort may be called
// from others.
type conn struct {
	s    *Server
	nc   net.Conn
	src  source
	buf  []byte // buf[r:w] has been read and not been handled
	r, w int

	release func()    // gives back the admission of a large buffer
	last    int       // bytes of the last read
	filled  bool      // it has filled the buffer
	began   time.Time // when the first byte of the message came
	now     time.Time // of the last read
	frames  framer
	timeUp  bool    // the time is up; what has come by now is read
	worker  *worker // while there is something to do

	mu    sync.Mutex // for the deadline of nc
	endBy time.Time  // set: the client was told that the connection ends
}

func (s *Server) newConn(nc net.Conn, t transport) *conn {
	c := &conn{
		s: s, nc: nc, frames: framer{max: int(s.cfg.MaxMessage)},
		src: source{name: nc.RemoteAddr().String(), transport: t, together: smallTogether},
	}
	if a, err := netip.ParseAddrPort(c.src.name); err == nil {
		c.src.ip = a.Addr().Unmap().AppendTo(nil)
	}
	return c
}

// serve reads and handles messages until the connection ends.
func (c *conn) serve() {
	err := c.handshake()
	if err == nil {
		err = c.run()
	}
	c.nc.Close()
	c.putWorker()
	c.setBuffer(nil, nil)
	c.ended(err)
}

// handshake is TLS's, if the connection has it.
func (c *conn) handshake() error {
	t, ok := c.nc.(*tls.Conn)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.s.ctx, c.s.cfg.ReadTimeout)
	defer cancel()
	stop := context.AfterFunc(c.s.drainCtx, cancel)
	defer stop()
	if err := t.HandshakeContext(ctx); err != nil {
		return &closeError{reason: "handshake", err: fmt.Errorf("tls handshake: %w", err)}
	}
	return nil
}

// ended counts and logs why the connection is no more.
func (c *conn) ended(err error) {
	reason := "io"
	var ce *closeError
	if errors.As(err, &ce) {
		reason = ce.reason
	}
	c.s.metrics.closed.WithLabelValues(reason).Inc()
	switch reason {
	case "end", "idle", "shutdown":
		c.s.d.Log.Debug("syslog connection closed", "peer", c.src.name, "reason", reason)
	case "io":
		c.s.d.Log.Debug("syslog connection lost", "peer", c.src.name, "err", err)
	default:
		c.s.warn.Warn("syslog connection closed", "peer", c.src.name, "reason", reason, "err", err)
	}
}

// run returns why the connection must end. What has come of a message is stored
// then, too: there may be no other copy.
func (c *conn) run() error {
	for {
		err := c.fill()
		if herr := c.handle(err != nil); herr != nil {
			return herr
		}
		if err != nil {
			return err
		}
	}
}

// handle stores the messages that the buffer has.
func (c *conn) handle(eof bool) error {
	took := false
	for {
		fr, n, ok := c.frames.next(c.buf[c.r:c.w], eof)
		c.r += n
		if !ok {
			break
		}
		took = true
		c.count(&fr)
		if err := c.getWorker().deliver(&c.src, &fr, c.now); err != nil {
			return err
		}
	}
	if c.r == c.w {
		c.r, c.w = 0, 0
	} else if took {
		c.began = c.now
	}
	if c.worker == nil {
		return nil
	}
	defer c.putWorker()
	return c.worker.push(&c.src)
}

func (c *conn) count(fr *frame) {
	if fr.cut {
		c.s.metrics.framing.WithLabelValues("cut_short").Inc()
		c.s.warn.Warn("syslog connection ended within a message, what came of it is stored", "peer", c.src.name, "bytes", len(fr.text))
	}
	if fr.disbelieved {
		c.s.metrics.framing.WithLabelValues("count").Inc()
		c.s.warn.Warn("syslog message with a length that is too large, it is taken for text", "peer", c.src.name)
	}
}

func (c *conn) getWorker() *worker {
	if c.worker == nil {
		c.worker = c.s.workers.Get().(*worker)
	}
	return c.worker
}

func (c *conn) putWorker() {
	if c.worker != nil {
		c.s.workers.Put(c.worker)
		c.worker = nil
	}
}

// fill reads more bytes into the buffer, once.
func (c *conn) fill() error {
	if err := c.room(); err != nil {
		return err
	}
	n, err := c.read()
	c.now = time.Now()
	if n > 0 && c.r == c.w {
		c.began = c.now
	}
	c.w += n
	c.last, c.filled = n, c.w == len(c.buf)
	return err
}

// room makes room for a read.
func (c *conn) room() error {
	large := len(c.buf) > smallBuffer
	switch {
	case c.buf == nil, large && c.r == c.w && c.last < smallBuffer:
		c.setBuffer(c.s.small.Get().(*[]byte), nil)
	case c.filled && !large:
		// It must be had if the buffer is full of one message. A large one never
		// is.
		if err := c.grow(c.w-c.r == len(c.buf)); err != nil {
			return err
		}
	}
	if c.w == len(c.buf) {
		copy(c.buf, c.buf[c.r:c.w])
		c.r, c.w = 0, c.w-c.r
	}
	return nil
}

// setBuffer changes the buffer, and keeps what is in it.
func (c *conn) setBuffer(p *[]byte, release func()) {
	old, oldRelease := c.buf, c.release
	c.buf, c.release = nil, release
	if p != nil {
		c.buf = *p
		c.r, c.w = 0, copy(c.buf, old[c.r:c.w])
	}
	c.src.together = smallTogether
	if len(c.buf) > smallBuffer {
		c.src.together = togetherSize
	}
	switch {
	case len(old) > smallBuffer:
		c.s.large.Put(&old)
	case old != nil:
		c.s.small.Put(&old)
	}
	if oldRelease != nil {
		oldRelease()
	}
}

// grow asks for a large buffer. If it must be had, the connection waits until
// there is memory, and is not read: it holds none then that another one could
// wait for.
func (c *conn) grow(must bool) error {
	release, err := c.s.admit(must)
	if err != nil {
		return err
	}
	if release != nil {
		c.setBuffer(c.s.large.Get().(*[]byte), release)
	}
	return nil
}

// read is one read within the deadline for what is being waited for.
func (c *conn) read() (int, error) {
	for {
		ending := c.setDeadline()
		n, err := c.nc.Read(c.buf[c.w:])
		switch {
		case n > 0:
			c.timeUp = false
			return n, nil
		case err == nil:
			continue
		case errors.Is(err, io.EOF):
			return 0, errEnd
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, err
		case ending && !c.timeUp:
			// Data may have come while this process did not run: a read that is
			// late does not look.
			c.timeUp = true
		case ending && c.s.draining():
			return 0, errShutdown
		case ending:
			return 0, errIdle
		case c.s.draining():
			c.end(c.s.drainBy) // wake has interrupted a read under another deadline
		case c.unfinished():
			return 0, errSlow
		case len(c.buf) > smallBuffer:
			c.setBuffer(c.s.small.Get().(*[]byte), nil)
		default:
			c.end(time.Now().Add(c.s.cfg.DrainTimeout))
		}
	}
}

// unfinished reports whether a part of a message is being waited for.
func (c *conn) unfinished() bool { return c.r < c.w || c.frames.started() }

// setDeadline sets the deadline of the next read. It reports whether the
// connection is about to end.
func (c *conn) setDeadline() (ending bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var t time.Time
	now := time.Now()
	switch idle := c.s.cfg.IdleTimeout; {
	case !c.endBy.IsZero() && c.timeUp:
		ending, t = true, now.Add(lastLook)
	case !c.endBy.IsZero():
		ending, t = true, c.endBy
		if quietBy := now.Add(quiet); !c.unfinished() && quietBy.Before(t) {
			t = quietBy
		}
	case c.s.draining():
		t = time.Unix(1, 0)
	case c.unfinished():
		t = c.began.Add(c.s.cfg.ReadTimeout)
	case len(c.buf) > smallBuffer:
		t = now.Add(fastWait)
	case idle > 0:
		t = now.Add(idle)
	}
	// A connection on which this fails fails in the read, too.
	_ = c.nc.SetReadDeadline(t)
	return ending
}

// end tells the client that the connection ends, so that it sends elsewhere:
// rsyslog and syslog-ng look before they send. What they have sent by then is
// read until it stops, or until by.
func (c *conn) end(by time.Time) {
	if w, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // if it fails, so does the read
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endBy = by
}

// wake interrupts a read, after the server began to stop.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endBy.IsZero() {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// abort makes all reads fail.
func (c *conn) abort() { c.nc.Close() }
