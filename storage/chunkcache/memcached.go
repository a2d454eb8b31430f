package chunkcache

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"
)

// memcached speaks memcached's text protocol
// (https://github.com/memcached/memcached/blob/master/doc/protocol.txt) with
// one server. It needs three of its commands, but each within a deadline that
// covers everything, cancelled with the query, and without the memory that a
// reply only announces.
type memcached struct {
	address    string
	dial       func(ctx context.Context, network, address string) (net.Conn, error)
	idle       chan *memcachedConn
	maxItem    int
	expiration time.Duration
}

// memcachedConn is a connection without a request under way.
type memcachedConn struct {
	net.Conn
	r *bufio.Reader
}

func memcachedConnector(c Config) (func(address string) client, error) {
	dial := new(net.Dialer).DialContext
	if c.TLS.Enabled {
		conf, err := c.TLS.Config()
		if err != nil {
			return nil, fmt.Errorf("tls.%w", err)
		}
		dial = (&tls.Dialer{Config: conf}).DialContext
	}
	return func(address string) client {
		return &memcached{
			address: address, dial: dial, idle: make(chan *memcachedConn, c.Connections),
			maxItem: c.maxItem(), expiration: c.Expiration,
		}
	}, nil
}

// legalKey reports whether memcached takes the key.
func legalKey(key string) bool {
	if key == "" || len(key) > 250 {
		return false
	}
	for i := 0; i < len(key); i++ {
		if key[i] <= ' ' || key[i] == 0x7f {
			return false
		}
	}
	return true
}

func (m *memcached) get(ctx context.Context, key string) (object []byte, err error) {
	err = m.do(ctx, func(c *memcachedConn) error {
		if _, err := c.Write([]byte("get " + key + "\r\n")); err != nil {
			return err
		}
		object, err = readValue(c.r, key, m.maxItem)
		return err
	})
	return object, err
}

func (m *memcached) set(ctx context.Context, key string, object []byte) error {
	return m.do(ctx, func(c *memcachedConn) error {
		header := fmt.Appendf(nil, "set %s 0 %d %d\r\n", key, exptime(m.expiration, time.Now()), len(object))
		request := net.Buffers{header, object, []byte("\r\n")}
		if _, err := request.WriteTo(c.Conn); err != nil {
			return err
		}
		return readStored(c.r)
	})
}

func (m *memcached) ping(ctx context.Context) error {
	return m.do(ctx, func(c *memcachedConn) error {
		if _, err := c.Write([]byte("version\r\n")); err != nil {
			return err
		}
		line, err := readLine(c.r)
		if err == nil && !bytes.HasPrefix(line, []byte("VERSION ")) {
			err = unexpected(line)
		}
		return err
	})
}

func (m *memcached) close() {
	for {
		select {
		case c := <-m.idle:
			c.Close()
		default:
			return
		}
	}
}

// exptime returns what memcached is told: seconds up to 30 days, else when.
func exptime(d time.Duration, now time.Time) int64 {
	if d > 30*24*time.Hour {
		return now.Add(d).Unix()
	}
	return int64(d / time.Second)
}

// do runs a request on a connection. Requests may be repeated, and are if an
// idle connection turns out to be broken: the server may have been restarted.
func (m *memcached) do(ctx context.Context, request func(*memcachedConn) error) error {
	for {
		var c *memcachedConn
		used := true
		select {
		case c = <-m.idle:
		default:
			conn, err := m.dial(ctx, "tcp", m.address)
			if err != nil {
				return err
			}
			c, used = &memcachedConn{conn, bufio.NewReader(conn)}, false
		}
		err := m.exchange(ctx, c, request)
		if err == nil || !used || ctx.Err() != nil || !broken(err) {
			return err
		}
	}
}

// exchange runs a request, and keeps or closes the connection.
func (m *memcached) exchange(ctx context.Context, c *memcachedConn, request func(*memcachedConn) error) error {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	err := request(c)
	if !stop() || err != nil && !errors.Is(err, errMiss) || c.r.Buffered() > 0 {
		// Cut short, or the server and we disagree about where replies end.
		c.Close()
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return err
	}
	select {
	case m.idle <- c:
	default:
		c.Close()
	}
	return err
}

// broken reports whether err is one of the connection, not of what was said.
func broken(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// readLine returns a line without its end, valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	body, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return nil, unexpected(line)
	}
	return body, nil
}

func unexpected(line []byte) error {
	const most = 200
	return fmt.Errorf("unexpected reply %.*q", most, line)
}

// readValue reads the reply to a get of one key:
// "VALUE key flags bytes", the value, and "END", or the latter alone.
func readValue(r *bufio.Reader, key string, maxItem int) ([]byte, error) {
	line, err := readLine(r)
	if err != nil {
		return nil, err
	}
	if string(line) == "END" {
		return nil, errMiss
	}
	rest, ok := bytes.CutPrefix(line, []byte("VALUE "+key+" "))
	_, size, ok2 := bytes.Cut(rest, []byte(" "))
	n, err := strconv.ParseUint(string(size), 10, 32)
	if !ok || !ok2 || err != nil {
		return nil, unexpected(line)
	}
	if n > uint64(maxItem) {
		return nil, fmt.Errorf("the value has %d bytes, the limit is %d", n, maxItem)
	}
	value, err := readBytes(r, int(n))
	if err != nil {
		return nil, err
	}
	for _, want := range []string{"", "END"} { // the value's line end, the reply's
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		if string(line) != want {
			return nil, unexpected(line)
		}
	}
	return value, nil
}

// readBytes reads n bytes into memory that grows as they come.
func readBytes(r io.Reader, n int) ([]byte, error) {
	const step = 2 << 20
	b := make([]byte, 0, min(n, step))
	for len(b) < n {
		have := len(b)
		b = slices.Grow(b, min(n-have, max(step, have)))
		b = b[:min(n, cap(b))]
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return b, nil
}

// readStored reads the reply to a set.
func readStored(r *bufio.Reader) error {
	line, err := readLine(r)
	switch {
	case err != nil:
		return err
	case string(line) == "STORED":
		return nil
	case bytes.HasPrefix(line, []byte("SERVER_ERROR object too large")):
		return errTooLarge
	case bytes.HasPrefix(line, []byte("SERVER_ERROR out of memory")), string(line) == "NOT_STORED":
		return fmt.Errorf("%w: %.*q", errRefused, 200, line)
	}
	return unexpected(line)
}
