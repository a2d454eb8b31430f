package forward

import (
	"errors"
	"net"
	"time"
)

// heartbeatsPerSecond bounds the answers: Fluentd sends one a second.
const heartbeatsPerSecond = 1000

// serveHeartbeats answers datagrams until pc is closed. An answer is never
// larger than what it answers, so it is of no use for an attack on others.
func (s *Server) serveHeartbeats(pc net.PacketConn) {
	var buf [16]byte
	second, answered := int64(0), 0
	for {
		n, from, err := pc.ReadFrom(buf[:])
		if err != nil {
			if s.draining() || errors.Is(err, net.ErrClosed) {
				return
			}
			// An answer that did not arrive, reported by its host.
			s.sleep(time.Millisecond)
			continue
		}
		if now := time.Now().Unix(); now != second {
			second, answered = now, 0
		}
		if answered++; n == 0 || answered > heartbeatsPerSecond {
			continue
		}
		// Nobody can be told of a failure; the next one comes in a second.
		_, _ = pc.WriteTo([]byte{0}, from)
	}
}
