package query

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// The server's side of WebSocket (RFC 6455), as far as a stream of text needs
// it: clients send nothing but control frames.

const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10

	closeNormal   = 1000
	closeTooLarge = 1009
	closeInternal = 1011

	maxFrame     = 4 << 10          // bytes of a client's frame
	writeTimeout = 30 * time.Second // for a client to take a message
	maxReason    = 123              // bytes of a close frame's text
)

// socket is a WebSocket connection. Messages may be written by several
// goroutines; Read is for one.
type socket struct {
	conn net.Conn
	in   *bufio.Reader
	mu   sync.Mutex // for writing
}

// origins tells pages of other origins. A browser opens WebSockets for any page,
// with the credentials that its user has here, and lets the page read what comes.
var origins http.CrossOriginProtection

// foreign reports whether a browser sent the request for a page from elsewhere.
func foreign(r *http.Request) bool {
	// Check takes GET for harmless, which it is not when the answer can be read.
	return origins.Check(&http.Request{Method: http.MethodPost, Header: r.Header, Host: r.Host, URL: r.URL}) != nil
}

// upgrade makes a socket of a request. If it returns nil, the request has its
// answer.
func upgrade(w http.ResponseWriter, r *http.Request) *socket {
	key := r.Header.Get("Sec-WebSocket-Key")
	raw, err := base64.StdEncoding.DecodeString(key)
	switch {
	case r.Method != http.MethodGet || !hasToken(r.Header, "Connection", "upgrade") || !hasToken(r.Header, "Upgrade", "websocket"):
		http.Error(w, "Bad Request: this is for WebSocket clients", http.StatusBadRequest)
		return nil
	case foreign(r):
		http.Error(w, "a page of another origin may not follow lines", http.StatusForbidden)
		return nil
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		w.Header().Set("Sec-WebSocket-Version", "13")
		http.Error(w, "Bad Request: WebSocket version 13 is wanted", http.StatusUpgradeRequired)
		return nil
	case err != nil || len(raw) != 16:
		http.Error(w, "Bad Request: Sec-WebSocket-Key is not 16 bytes in base64", http.StatusBadRequest)
		return nil
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "the connection cannot become a WebSocket: "+err.Error(), http.StatusInternalServerError)
		return nil
	}
	s := &socket{conn: conn, in: buf.Reader}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_ = conn.SetReadDeadline(time.Time{})
	_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	if err != nil {
		conn.Close()
		return nil
	}
	return s
}

func hasToken(h http.Header, name, token string) bool {
	for _, v := range h.Values(name) {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// frame sends a message of one frame.
func (s *socket) frame(op byte, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	head := append(make([]byte, 0, 10), 0x80|op)
	switch {
	case len(b) < 126:
		head = append(head, byte(len(b)))
	case len(b) <= 0xffff:
		head = binary.BigEndian.AppendUint16(append(head, 126), uint16(len(b)))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 127), uint64(len(b)))
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := (&net.Buffers{head, b}).WriteTo(s.conn)
	return err
}

// end sends the reason for which the connection is closed.
func (s *socket) end(code uint16, reason string) {
	b := binary.BigEndian.AppendUint16(nil, code)
	_ = s.frame(opClose, append(b, strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")...)) // the client may be gone
}

var errClosed = errors.New("closed by the client")

// serve answers the client's control frames until it closes the connection or
// does what it must not.
func (s *socket) serve() error {
	for {
		op, payload, err := s.read()
		if err != nil {
			return err
		}
		switch op {
		case opPing:
			err = s.frame(opPong, payload)
		case opClose:
			s.end(closeNormal, "")
			return errClosed
		}
		if err != nil {
			return err
		}
	}
}

// read returns the client's next frame.
func (s *socket) read() (op byte, payload []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(s.in, head[:2]); err != nil {
		return 0, nil, err
	}
	op = head[0] & 0xf
	masked, n := head[1]&0x80 != 0, uint64(head[1]&0x7f)
	switch n {
	case 126:
		if _, err := io.ReadFull(s.in, head[:2]); err != nil {
			return 0, nil, err
		}
		n = uint64(binary.BigEndian.Uint16(head[:2]))
	case 127:
		if _, err := io.ReadFull(s.in, head[:8]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(head[:8])
	}
	if !masked || n > maxFrame {
		s.end(closeTooLarge, "the frame is too long, or not masked")
		return 0, nil, errors.New("a frame is too long, or not masked")
	}
	var mask [4]byte
	if _, err := io.ReadFull(s.in, mask[:]); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(s.in, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return op, payload, nil
}
