package syslog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/loki-go/loki-go/internal/unixsocket"
)

// dropsAt is SK_MEMINFO_DROPS of linux/sock_diag.h: where SO_MEMINFO has the
// number of datagrams that were dropped.
const dropsAt = 8

// kernelDrops asks the kernel how many datagrams it has dropped at a socket,
// modulo 2^32. ok is false if it does not say.
func kernelDrops(c net.Conn) (n uint32, ok bool) {
	sc, is := c.(syscall.Conn)
	if !is {
		return 0, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info [dropsAt + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	err = raw.Control(func(fd uintptr) {
		_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		ok = e == 0 && uintptr(size) == unsafe.Sizeof(info)
	})
	return info[dropsAt], ok && err == nil
}

// receiveNow reads a datagram if the kernel has one.
func receiveNow(c net.Conn, buf []byte) (n int, from netip.Addr, ok bool) {
	sc, is := c.(syscall.Conn)
	if !is {
		return 0, from, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, from, false
	}
	var sender unix.Sockaddr
	rerr := raw.Read(func(fd uintptr) bool {
		for {
			n, sender, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
			if !errors.Is(err, unix.EINTR) {
				return true
			}
		}
	})
	switch a := sender.(type) {
	case *unix.SockaddrInet4:
		from = netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		from = netip.AddrFrom16(a.Addr).Unmap()
	}
	return n, from, err == nil && rerr == nil
}

// listenUDP opens n sockets that share a port: the kernel gives all datagrams
// of one sender to one of them, so that they stay in order.
func (s *Server) listenUDP(n int) (all []*net.UDPConn, err error) {
	defer func() {
		if err != nil {
			for _, c := range all {
				c.Close()
			}
		}
	}()
	// Sockets that share would share with another process, too. That the port
	// is free shows when it is taken without sharing.
	alone, err := net.ListenPacket("udp", s.cfg.ListenUDP)
	if err != nil {
		return nil, err
	}
	addr := alone.LocalAddr().String()
	if n == 1 {
		all = append(all, alone.(*net.UDPConn))
	} else if err := alone.Close(); err != nil {
		return nil, err
	}
	share := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return setOption(c, unix.SO_REUSEPORT, 1)
	}}
	for len(all) < n {
		c, err := share.ListenPacket(context.Background(), "udp", addr)
		if err != nil {
			return all, err
		}
		all = append(all, c.(*net.UDPConn))
	}
	for _, c := range all {
		if err := s.setBuffer(c); err != nil {
			return all, err
		}
	}
	return all, nil
}

// setBuffer asks for the receive buffer, beyond the system's limit where that
// is allowed.
func (s *Server) setBuffer(c *net.UDPConn) error {
	want := int(s.cfg.UDPBuffer)
	if want == 0 {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if setOption(raw, unix.SO_RCVBUFFORCE, want) == nil {
		return nil
	}
	if err := c.SetReadBuffer(want); err != nil {
		return fmt.Errorf("set receive buffer: %w", err)
	}
	// The kernel doubles what it is asked for.
	if got, err := option(raw, unix.SO_RCVBUF); err == nil && got/2 < want {
		s.warn.Warn("syslog receive buffer for UDP is smaller than udp-buffer, net.core.rmem_max limits it", "want", want, "got", got/2)
	}
	return nil
}

func setOption(c syscall.RawConn, opt, v int) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt, v) }); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt", err)
}

func option(c syscall.RawConn, opt int) (v int, err error) {
	if cerr := c.Control(func(fd uintptr) { v, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, opt) }); cerr != nil {
		return 0, cerr
	}
	return v, os.NewSyscallError("getsockopt", err)
}

// socketMode are the permissions of the Unix socket: everybody may log.
const socketMode = 0o666

// listenUnix opens the Unix datagram socket.
func (s *Server) listenUnix() (*net.UnixConn, error) {
	path := s.cfg.ListenUnix
	if err := unixsocket.RemoveStale("unixgram", path); err != nil {
		return nil, err
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		c.Close()
		return nil, fmt.Errorf("set permissions of the unix socket: %w", err)
	}
	return c, nil
}
