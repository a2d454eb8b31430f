package forward

import (
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ugorji/go/codec"
)

// The handshake, on a connection of its own each time:
//
//	S  ["HELO", {"nonce": 16 random bytes, "auth": 16 more, or none without users, "keepalive": true}]
//	C  ["PING", host, salt, digest(salt, host, nonce, key), user, digest(auth, user, password)]
//	S  ["PONG", true, "", our name, digest(salt, our name, nonce, key)]
//	   ["PONG", false, reason, "", ""], and the connection ends
//
// A digest is the SHA-512 of its parts, one behind the other, in hexadecimal.

// heloOptions are written in the types that all clients take: random bytes as
// bin, keys as str.
type heloOptions struct {
	Nonce     []byte `codec:"nonce"`
	Auth      []byte `codec:"auth"` // not nil
	Keepalive bool   `codec:"keepalive"`
}

// ping has bytes where clients send strings: a salt can be either, and need not
// be UTF-8 where it is a string.
type ping struct{ host, salt, digest, user, pass []byte }

const (
	pingElems = 6
	maxPing   = 2 << 10 // Fluentd and Fluent Bit stay below 1 KiB
	nonceSize = 16
)

// refusal is an answer of no: as the client is told it, in Fluentd's words, and
// as the connection's end is counted.
type refusal struct{ text, reason string }

var (
	badPing = &refusal{"invalid ping message", "bad_ping"}
	badKey  = &refusal{"shared_key mismatch", "bad_shared_key"}
	badUser = &refusal{"username/password mismatch", "bad_user"}
)

// auth is what a server demands of its clients. It does not change.
type auth struct {
	key      []byte
	hostname string
	users    map[string]user // nil: none are asked for
	rand     io.Reader
	handle   codec.MsgpackHandle
}

type user struct {
	password string
	tenant   string // empty: that of the receiver
}

// newAuth returns nil if c demands nothing.
func newAuth(c Config) (*auth, error) {
	users, errs := c.users()
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if c.SharedKey == "" && users == nil {
		return nil, nil
	}
	a := &auth{key: []byte(c.SharedKey), hostname: c.Hostname, users: users, rand: rand.Reader}
	a.handle.WriteExt = true // str and bin, not the former raw
	if a.hostname == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("find the name of this host: %w", err)
		}
		// Fluentd leaves a server that has its own name.
		a.hostname = "loki-go." + host
	}
	return a, nil
}

// digest is the hexadecimal SHA-512 of the parts.
func digest(parts ...[]byte) []byte {
	h := sha512.New()
	for _, p := range parts {
		h.Write(p)
	}
	return hex.AppendEncode(nil, h.Sum(nil))
}

func same(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// greeting holds the random bytes of one connection.
type greeting struct{ nonce, salt []byte }

func (a *auth) greet() (g greeting, err error) {
	n := nonceSize
	if a.users != nil {
		n *= 2
	}
	random := make([]byte, n)
	if _, err = io.ReadFull(a.rand, random); err != nil {
		return g, fmt.Errorf("make a nonce: %w", err)
	}
	return greeting{nonce: random[:nonceSize:nonceSize], salt: random[nonceSize:]}, nil
}

func (a *auth) helo(g greeting) ([]byte, error) {
	return a.encode("HELO", heloOptions{Nonce: g.nonce, Auth: g.salt, Keepalive: true})
}

// encode returns an array of its arguments.
func (a *auth) encode(v ...any) (out []byte, err error) {
	err = codec.NewEncoderBytes(&out, &a.handle).Encode(v)
	return out, err
}

// parsePing reads a whole message.
func (a *auth) parsePing(raw []byte) (p ping, ok bool) {
	var v [][]byte
	err := codec.NewDecoderBytes(raw, &a.handle).Decode(&v)
	if err != nil || len(v) != pingElems || string(v[0]) != "PING" {
		return p, false
	}
	return ping{host: v[1], salt: v[2], digest: v[3], user: v[4], pass: v[5]}, true
}

// check returns who has sent p, or why the answer is no.
func (a *auth) check(p ping, g greeting) (u user, no *refusal) {
	keyOK := same(p.digest, digest(p.salt, p.host, g.nonce, a.key))
	userOK := true
	if a.users != nil {
		var known bool
		u, known = a.users[string(p.user)]
		// As much work for a name that is not known.
		userOK = same(p.pass, digest(g.salt, p.user, []byte(u.password))) && known
	}
	switch {
	case !keyOK:
		return user{}, badKey
	case !userOK:
		return user{}, badUser
	}
	return u, nil
}

// pong is the answer to p.
func (a *auth) pong(p ping, g greeting, no *refusal) ([]byte, error) {
	if no != nil {
		return a.encode("PONG", false, no.text, "", "")
	}
	d := digest(p.salt, []byte(a.hostname), g.nonce, a.key)
	return a.encode("PONG", true, "", a.hostname, string(d))
}

// authenticate does the handshake. Each of the server's messages is one write.
// After it, what the client has sent behind its PING is in the buffer.
func (c *conn) authenticate(a *auth) error {
	g, err := a.greet()
	if err != nil {
		return err
	}
	out, err := a.helo(g)
	if err != nil {
		return err
	}
	if err := c.write(out); err != nil {
		return fmt.Errorf("write HELO: %w", err)
	}
	size, err := c.readPing()
	if err != nil {
		return err
	}
	p, ok := a.parsePing(c.buf[c.r : c.r+size])
	u, no := user{}, badPing
	if ok {
		u, no = a.check(p, g)
	}
	if out, err = a.pong(p, g, no); err != nil {
		return err
	}
	if err := c.write(out); err != nil {
		return fmt.Errorf("write PONG: %w", err)
	}
	if no != nil {
		return &closeError{reason: no.reason, err: fmt.Errorf("the client was told: %s", no.text)}
	}
	if u.tenant != "" {
		c.tenant = u.tenant
	}
	c.consume(size)
	c.sniff = false // authenticated clients speak MessagePack
	return nil
}

// readPing reads until the first message is whole, and returns its size.
func (c *conn) readPing() (int, error) {
	for {
		if p := c.buf[c.r:c.w]; len(p) > 0 {
			if err := firstByte(p[0]); err != nil {
				return 0, malformed(fmt.Errorf("no PING: %w", err))
			}
			whole, err := c.frame.Scan(p)
			if err != nil {
				return 0, malformed(fmt.Errorf("no PING: %w", err))
			}
			size := c.frame.Size()
			if size > maxPing {
				return 0, &closeError{reason: "too_large", err: fmt.Errorf("a PING has at least %d bytes, more than %d", size, maxPing)}
			}
			if whole {
				return size, nil
			}
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
}
