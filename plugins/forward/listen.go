package forward

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/loki-go/loki-go/internal/unixsocket"
)

// listener is one open port, or socket.
type listener struct {
	net.Listener
	heartbeats net.PacketConn // nil: none
}

func (l listener) Close() error {
	if l.heartbeats != nil {
		l.heartbeats.Close()
	}
	return l.Listener.Close()
}

// listen opens all that the configuration names, or nothing.
func (s *Server) listen() (all []listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			all = nil
		}
	}()
	var tlsConfig *tls.Config
	if s.cfg.TLS.Enabled() {
		if tlsConfig, err = s.cfg.TLS.Config(s.d.Log); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
	}
	for _, addr := range s.cfg.Listen {
		l, err := s.listenTCP(addr)
		if err != nil {
			return all, err
		}
		if tlsConfig != nil {
			l.Listener = tls.NewListener(l.Listener, tlsConfig)
		}
		all = append(all, l)
	}
	if s.cfg.UnixListen != "" {
		ln, err := s.listenUnix()
		if err != nil {
			return all, err
		}
		all = append(all, listener{Listener: ln})
	}
	return all, nil
}

// listenTCP opens a port for TCP, and for UDP if there are heartbeats. Where the
// system chooses the port, it may choose one whose twin is taken.
func (s *Server) listenTCP(addr string) (listener, error) {
	family := family(addr, s.cfg.Listen)
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{
		Enable: s.cfg.KeepAlive > 0, Idle: s.cfg.KeepAlive, Interval: keepAliveProbe, Count: keepAliveProbes,
	}}
	if s.cfg.KeepAlive == 0 {
		lc.KeepAlive = -1
	}
	for try := 0; ; try++ {
		ln, err := lc.Listen(context.Background(), "tcp"+family, addr)
		if err != nil || !s.cfg.Heartbeat {
			return listener{Listener: ln}, err
		}
		pc, err := net.ListenPacket("udp"+family, ln.Addr().String())
		if err == nil {
			return listener{ln, pc}, nil
		}
		ln.Close()
		if _, port, perr := net.SplitHostPort(addr); perr != nil || port != "0" || try == 16 {
			return listener{}, err
		}
	}
}

// A client that does not answer this many probes is gone.
const (
	keepAliveProbe  = 15 * time.Second
	keepAliveProbes = 4
)

// family says what an address means for IPv4 and IPv6: one in digits means its
// own kind; a name, or none, means both. So does [::], unless an IPv4 address
// is listed beside it: both could not be had then.
func family(addr string, all []string) string {
	switch kind := literal(addr); {
	case kind == "6" && isAny(addr) && !slices.ContainsFunc(all, func(a string) bool { return literal(a) == "4" }):
		return ""
	default:
		return kind
	}
}

// literal returns 4 or 6 for an address in digits.
func literal(addr string) string {
	ap, err := netip.ParseAddrPort(addr)
	switch {
	case err != nil:
		return ""
	case ap.Addr().Is4():
		return "4"
	}
	return "6"
}

func isAny(addr string) bool {
	ap, err := netip.ParseAddrPort(addr)
	return err == nil && ap.Addr().IsUnspecified()
}

// listenUnix opens the Unix socket. One that a process has left behind, which
// nobody listens at, is replaced; anything else of that name is not.
func (s *Server) listenUnix() (net.Listener, error) {
	path := s.cfg.UnixListen
	mode, err := s.cfg.unixMode()
	if err != nil {
		return nil, err
	}
	if err := unixsocket.RemoveStale("unix", path); err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		ln.Close()
		return nil, fmt.Errorf("set permissions of the unix socket: %w", err)
	}
	return ln, nil
}
