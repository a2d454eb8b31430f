package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/loki-go/loki-go/plugins/msgpack"
)

// closeError ends a connection. reason is one of few words, for the metric.
type closeError struct {
	reason string
	err    error
}

func (e *closeError) Error() string { return e.err.Error() }
func (e *closeError) Unwrap() error { return e.err }

// malformed says what is wrong with a message.
func malformed(err error) error {
	return &closeError{reason: "malformed", err: fmt.Errorf("bad message: %w", err)}
}

var (
	errShutdown = &closeError{reason: "shutdown", err: errors.New("the server stops")}
	errIdle     = &closeError{reason: "idle", err: errors.New("no message for as long as allowed")}
	errEnd      = &closeError{reason: "end", err: io.EOF}
)

// framer finds the end of a message in bytes that arrive piece by piece.
type framer interface {
	// Scan looks at the message's bytes so far; see msgpack.Frame.
	Scan(p []byte) (done bool, err error)
	// Size returns the size of a whole message, or the least that it can have.
	Size() int
}

// conn is a connection. One goroutine runs serve; wake and abort may be called
// from others.
type conn struct {
	s      *Server
	nc     net.Conn
	peer   string
	tenant string

	greetBy time.Time // until when TLS and the handshake have to be done; zero: they are
	unknown bool      // it is counted in Server.unknown; under Server.mu

	buf    []byte // buf[r:w] has been read and not been handled
	r, w   int
	held   reservation // for buf
	usual  int         // size of the last message
	filled bool        // the last read has filled the buffer
	began  time.Time   // when the first byte of the message came

	frame  msgpack.Frame
	json   *jsonFrame // not nil: the connection speaks JSON
	sniff  bool       // the first byte is still to be looked at
	worker *worker    // while there is something to do
	ack    []byte
	asked  bool // an ack has been asked for
	deaf   bool // the client has sent messages, and never asked for an ack

	overdraft bool // see admit

	mu      sync.Mutex // for the deadline of nc
	waiting bool       // the deadline is that of a shutdown
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{s: s, nc: nc, peer: nc.RemoteAddr().String(), tenant: s.cfg.Tenant, sniff: true}
	if nc.RemoteAddr().Network() == "unix" {
		c.peer = "unix socket"
	}
	if _, ok := nc.(*tls.Conn); ok || s.auth != nil {
		c.greetBy = time.Now().Add(s.cfg.HandshakeTimeout)
	}
	return c
}

// serve reads and handles messages until the connection ends.
func (c *conn) serve() {
	err := c.greet()
	if err == nil {
		err = c.run()
	}
	// What is whole and wants no ack has no other copy.
	if ferr := c.flush(); ferr != nil && (err == error(errEnd) || err == error(errIdle)) {
		err = ferr
	}
	c.nc.Close()
	c.putWorker()
	c.s.buffers.put(c.buf)
	c.held.release()
	c.settle()
	c.ended(err)
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
		c.s.d.Log.Debug("forward connection closed", "peer", c.peer, "reason", reason)
	case "io":
		c.s.d.Log.Debug("forward connection lost", "peer", c.peer, "err", err)
	default:
		c.s.logs.Warn("forward connection closed", "peer", c.peer, "reason", reason, "err", err)
	}
}

// greet does what has to be done before the first message.
func (c *conn) greet() error {
	if c.greetBy.IsZero() {
		return nil
	}
	if t, ok := c.nc.(*tls.Conn); ok {
		if err := c.startTLS(t); err != nil {
			return err
		}
	}
	if c.s.auth != nil {
		if err := c.authenticate(c.s.auth); err != nil {
			return err
		}
	}
	c.greetBy = time.Time{}
	c.s.known(c)
	return nil
}

func (c *conn) startTLS(t *tls.Conn) error {
	ctx, cancel := context.WithDeadline(c.s.ctx, c.greetBy)
	defer cancel()
	err := t.HandshakeContext(ctx)
	var header tls.RecordHeaderError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF): // a heartbeat, or a look whether the port is open
		return errEnd
	case c.s.draining():
		return errShutdown
	case ctx.Err() != nil:
		return &closeError{reason: "too_slow", err: errors.New("TLS did not start in time")}
	case errors.As(err, &header):
		return &closeError{reason: "tls", err: errors.New("the client does not speak TLS, which this port demands")}
	}
	return &closeError{reason: "tls", err: fmt.Errorf("start TLS: %w", err)}
}

// run returns why the connection must end.
func (c *conn) run() error {
	for {
		whole, err := c.next()
		if err != nil {
			return err
		}
		if !whole {
			if err := c.flush(); err != nil {
				return err
			}
			c.putWorker()
			if err := c.fill(); err != nil {
				return err
			}
			continue
		}
		size := c.framer().Size()
		if err := c.handle(c.buf[c.r : c.r+size]); err != nil {
			return err
		}
		c.consume(size)
	}
}

func (c *conn) framer() framer {
	if c.json != nil {
		return c.json
	}
	return &c.frame
}

// next reports whether the buffer starts with a whole message.
func (c *conn) next() (whole bool, err error) {
	if c.json != nil && c.json.pos == 0 {
		for c.r < c.w && jsonSpace(c.buf[c.r]) {
			c.r++
		}
		if c.r == c.w {
			c.consume(0)
		}
	}
	p := c.buf[c.r:c.w]
	if len(p) == 0 {
		return false, nil
	}
	if c.sniff {
		c.sniff = false
		if p[0] == '[' || p[0] == '{' {
			c.json = new(jsonFrame)
		}
	}
	if c.json == nil {
		if err := firstByte(p[0]); err != nil {
			return false, malformed(err)
		}
	}
	f := c.framer()
	whole, err = f.Scan(p)
	if err != nil {
		return false, malformed(err)
	}
	if limit := int(c.s.cfg.MaxMessage); f.Size() > limit {
		return false, &closeError{reason: "too_large", err: fmt.Errorf("a message has at least %d bytes, more than %d", f.Size(), limit)}
	}
	return whole, nil
}

// consume forgets a message that has been handled.
func (c *conn) consume(size int) {
	c.frame = msgpack.Frame{}
	if c.json != nil {
		*c.json = jsonFrame{}
	}
	c.usual = size
	if c.r += size; c.r == c.w {
		c.r, c.w = 0, 0
		c.settle()
		return
	}
	c.began = time.Now()
}

// fastBuffer is what a connection gets, in steps, whose client sends faster
// than it is read: many small messages are then pushed together.
const (
	fastBuffer = 256 << 10
	fastWait   = 250 * time.Millisecond // for how long it may keep it in silence
)

// fill reads more bytes into the buffer, once.
func (c *conn) fill() error {
	if err := c.room(); err != nil {
		return err
	}
	p := c.buf[c.w:]
	if c.overdraft {
		// No byte of the next message, so that after this one all is given back.
		p = p[:min(len(p), c.framer().Size()-(c.w-c.r))]
	}
	n, err := c.read(p)
	if n > 0 && c.r == c.w {
		c.began = time.Now()
	}
	c.w += n
	c.filled = n == len(p)
	return err
}

// room makes room for a read.
func (c *conn) room() error {
	have := c.w - c.r
	fast := smallBuffer
	if c.filled {
		fast = min(4*len(c.buf), fastBuffer)
	}
	if have == 0 {
		if size := max(fast, smallBuffer); len(c.buf) != size {
			c.s.buffers.put(c.buf)
			c.buf = nil
			c.held.release()
			return c.grow(size)
		}
		return nil
	}
	if fast > len(c.buf) {
		return c.grow(fast)
	}
	if c.w < len(c.buf) {
		return nil
	}
	if have <= len(c.buf)/2 {
		copy(c.buf, c.buf[c.r:c.w])
		c.r, c.w = 0, have
		return nil
	}
	// Four times what has come at most, whatever has been announced, or as much
	// as the last message had: a client's messages are often alike.
	return c.grow(max(2*len(c.buf), min(4*len(c.buf), c.framer().Size()), c.usual))
}

func (c *conn) grow(size int) error {
	grown, err := c.buffer(&c.held, size)
	if err != nil {
		return err
	}
	copy(grown, c.buf[c.r:c.w])
	c.s.buffers.put(c.buf)
	c.buf, c.r, c.w = grown, 0, c.w-c.r
	return nil
}

// What a message may take to arrive, beside Config.ReadTimeout.
const slowestBytes = 64 << 10 // a second

// quiet is how long a client has to be silent, after the server began to stop,
// to have sent all that it will.
const quiet = 250 * time.Millisecond

// read is one read within the deadline for what is being waited for.
func (c *conn) read(p []byte) (int, error) {
	for {
		waiting := c.setDeadline()
		n, err := c.nc.Read(p)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			continue
		case errors.Is(err, io.EOF) && c.r == c.w:
			return 0, errEnd
		case errors.Is(err, io.EOF):
			return 0, &closeError{reason: "cut_short", err: fmt.Errorf("the client went away within a message, after %d bytes", c.w-c.r)}
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, err
		case waiting:
			return 0, errShutdown
		case c.s.draining():
			// wake has interrupted a read under another deadline.
		case !c.greetBy.IsZero():
			return 0, &closeError{reason: "too_slow", err: errors.New("the client did not identify itself in time")}
		case c.r == c.w && len(c.buf) > smallBuffer:
			return 0, nil
		case c.r == c.w:
			return 0, errIdle
		default:
			return 0, &closeError{reason: "too_slow", err: fmt.Errorf("a message did not arrive in time, only %d bytes of at least %d", c.w-c.r, c.framer().Size())}
		}
	}
}

// setDeadline sets the deadline of the next read. It reports whether that is
// the one of a server that stops.
func (c *conn) setDeadline() (draining bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	draining = c.s.draining()
	have := c.w - c.r
	var t time.Time
	switch {
	case draining:
		if t = c.s.drainBy; have == 0 {
			if quietBy := time.Now().Add(quiet); quietBy.Before(t) {
				t = quietBy
			}
		}
		c.halfClose()
	case !c.greetBy.IsZero():
		t = c.greetBy
	case have > 0:
		t = c.began.Add(c.s.cfg.ReadTimeout + time.Duration(have/slowestBytes)*time.Second)
	case len(c.buf) > smallBuffer:
		t = time.Now().Add(fastWait)
	case c.s.cfg.IdleTimeout > 0:
		t = time.Now().Add(c.s.cfg.IdleTimeout)
	}
	// A connection on which this fails fails in the read, too.
	_ = c.nc.SetReadDeadline(t)
	return draining
}

// halfClose tells a client that does not wait for acks, and so never listens
// for long, that it should send elsewhere.
func (c *conn) halfClose() {
	if w, ok := c.nc.(interface{ CloseWrite() error }); ok && c.deaf && !c.waiting {
		_ = w.CloseWrite()
	}
	c.waiting = true
}

// wake interrupts a read, after the server began to stop.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.waiting {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

// abort makes all reads and writes fail.
func (c *conn) abort() { c.nc.Close() }

const writeTimeout = 10 * time.Second

// write sends an answer in one write: clients read only once, and only a small
// piece.
func (c *conn) write(p []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.nc.Write(p)
	return err
}

func (c *conn) writeAck(ack []byte) error {
	if err := c.write(ack); err != nil {
		return fmt.Errorf("write ack: %w", err)
	}
	c.s.metrics.acks.Inc()
	return nil
}
