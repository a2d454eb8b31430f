package bounded

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
)

// With room for two the third connection is accepted when one of them has gone,
// however often it is closed.
func TestListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var full atomic.Int32
	l := New(inner, 2, func() { full.Add(1) })
	accepted, ended := make(chan net.Conn), make(chan error)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- c
		}
	}()
	for range 4 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first, second := <-accepted, <-accepted
	select {
	case <-accepted:
		t.Fatal("a third connection")
	default:
	}
	for range 2 { // the second time it is closed already
		_ = first.Close()
	}
	third := <-accepted
	select {
	case <-accepted:
		t.Fatal("one connection made room for two")
	default:
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	if full.Load() < 1 {
		t.Error("nobody was told that there is no room")
	}
	second.Close()
	third.Close()
}
