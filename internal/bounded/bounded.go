// Package bounded limits how many connections of a listener there are.
package bounded

import (
	"net"
	"sync"
)

// Listener accepts no more connections than it has room for; others wait in the
// kernel's queue.
type Listener struct {
	net.Listener
	free   chan struct{}
	full   func()
	once   sync.Once
	closed chan struct{}
}

// New returns a Listener of up to n connections of l. When somebody may have to
// wait it calls full, if that is not nil.
func New(l net.Listener, n int, full func()) *Listener {
	return &Listener{Listener: l, free: make(chan struct{}, n), full: full, closed: make(chan struct{})}
}

// Accept waits for room, and for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	default:
		if l.full != nil {
			l.full()
		}
		select {
		case l.free <- struct{}{}:
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &conn{Conn: c, release: sync.OnceFunc(func() { <-l.free })}, nil
}

// Close ends Accept, also while that waits for room.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type conn struct {
	net.Conn
	release func()
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
