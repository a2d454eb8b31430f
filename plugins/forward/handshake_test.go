package forward

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/plugins/msgpack"
)

// sha is a digest as the protocol defines it, written on its own.
func sha(parts ...string) string {
	sum := sha512.Sum512([]byte(strings.Join(parts, "")))
	return hex.EncodeToString(sum[:])
}

const (
	testNonce = "0123456789abcdef"
	testSalt  = "ABCDEFGHIJKLMNOP"
)

func pingOf(key, user, password string) list {
	return list{"PING", "edge", "salt", sha("salt", "edge", testNonce, key), user, sha(testSalt, user, password)}
}

// authRig returns a server whose random bytes are those above.
func authRig(t testing.TB, sink *fakeSink, change func(*Config)) *rig {
	t.Helper()
	r := newRig(t, sink, "auto", func(c *Config) {
		c.SharedKey, c.Hostname = "key", "gateway"
		if change != nil {
			change(c)
		}
	})
	r.auth.rand = &endlessly{p: []byte(testNonce + testSalt)}
	if r.auth.users == nil {
		r.auth.rand = &endlessly{p: []byte(testNonce)}
	}
	return r
}

func withUsers(c *Config) {
	c.Tenant = "default"
	c.Users = []string{"alice:pw:with colon", "bob:", "carol:x"}
	c.UserTenants = []string{"bob=tenant-of-bob"}
}

func pongOf(ok bool, reason string) []byte {
	if !ok {
		return slices.Concat([]byte("\x95\xa4PONG\xc2"), []byte{0xa0 | byte(len(reason))}, []byte(reason), []byte("\xa0\xa0"))
	}
	return append([]byte("\x95\xa4PONG\xc3\xa0\xa7gateway\xd9\x80"), sha("salt", "gateway", testNonce, "key")...)
}

func TestHandshake(t *testing.T) {
	message := enc(list{"t", list{event(1, "a")}, chunk("c")})
	f := func(name string, change func(*Config), first []byte, reason, end string) {
		t.Helper()
		in := append(bytes.Clone(first), message...)
		for _, step := range []int{1, 7, len(in)} {
			r := authRig(t, &fakeSink{}, change)
			got := r.play(pieces(in, step)...)
			if len(got.answers) == 0 || !bytes.HasPrefix(got.answers[0], []byte("\x92\xa4HELO\x83\xa5nonce\xc4\x10"+testNonce+"\xa4auth\xc4")) {
				t.Fatalf("%s: answered %q", name, got.answers)
			}
			want := [][]byte{pongOf(true, ""), ackOf("c")}
			switch {
			case reason != "":
				want = [][]byte{pongOf(false, reason)}
			case end != "":
				want = nil
			}
			if !slices.EqualFunc(got.answers[1:], want, bytes.Equal) {
				t.Fatalf("%s: answered %q, want %q", name, got.answers[1:], want)
			}
			if stored := len(r.sink.all()); stored != 0 && end != "" || stored != 1 && end == "" {
				t.Fatalf("%s: %d entries", name, stored)
			}
			if !got.closed || end != "" && r.value(t, "closed_connections_total", end) != 1 {
				t.Fatalf("%s: did not end for %s: %q", name, end, r.log.lines())
			}
			if logged := len(r.log.lines()); logged != 0 && end == "" || logged != 1 && end != "" {
				t.Fatalf("%s: logged %q", name, r.log.lines())
			}
		}
	}
	f("key", nil, enc(pingOf("key", "", "")), "", "")
	f("user though none is asked for", nil, enc(pingOf("key", "mallory", "?")), "", "")
	f("salt is bin", nil, enc(list{"PING", "edge", []byte("salt"), sha("salt", "edge", testNonce, "key"), nil, nil}), "", "")
	f("user", withUsers, enc(pingOf("key", "alice", "pw:with colon")), "", "")
	f("user without password", withUsers, enc(pingOf("key", "bob", "")), "", "")
	f("user, empty key", func(c *Config) { withUsers(c); c.SharedKey = "" }, enc(pingOf("", "carol", "y")), "username/password mismatch", "bad_user")

	f("wrong key", nil, enc(pingOf("kez", "", "")), "shared_key mismatch", "bad_shared_key")
	f("no key", nil, enc(pingOf("", "", "")), "shared_key mismatch", "bad_shared_key")
	f("short digest", nil, enc(list{"PING", "edge", "salt", "abc", "", ""}), "shared_key mismatch", "bad_shared_key")
	f("digest in capitals", nil, enc(list{"PING", "edge", "salt", strings.ToUpper(sha("salt", "edge", testNonce, "key")), "", ""}), "shared_key mismatch", "bad_shared_key")
	f("wrong password", withUsers, enc(pingOf("key", "alice", "pw")), "username/password mismatch", "bad_user")
	f("unknown user", withUsers, enc(pingOf("key", "mallory", "")), "username/password mismatch", "bad_user")
	f("no user", withUsers, enc(pingOf("key", "", "")), "username/password mismatch", "bad_user")
	f("wrong key and user", withUsers, enc(pingOf("kez", "mallory", "")), "shared_key mismatch", "bad_shared_key")

	f("message before PING", nil, message, "invalid ping message", "bad_ping")
	f("nil before PING", nil, enc(nil), "invalid ping message", "bad_ping")
	f("five elements", nil, enc(pingOf("key", "", "")[:5]), "invalid ping message", "bad_ping")
	f("seven elements", nil, enc(append(pingOf("key", "", ""), "")), "invalid ping message", "bad_ping")
	f("PONG", nil, enc(append(list{"PONG"}, pingOf("key", "", "")[1:]...)), "invalid ping message", "bad_ping")
	f("numbers", nil, enc(list{"PING", 1, 2, 3, 4, 5}), "invalid ping message", "bad_ping")
	f("maps", nil, enc(list{"PING", pairs{}, pairs{1, 2}, nil, nil, nil}), "invalid ping message", "bad_ping")
	f("JSON", nil, []byte(`["PING","edge"]`), "", "malformed")
	f("HTTP", nil, []byte("GET / HTTP/1.1\r\n\r\n"), "", "malformed")
	f("no MessagePack", nil, []byte("\x96\xc1"), "", "malformed")
	f("too large", nil, enc(list{"PING", "edge", strings.Repeat("s", maxPing), "", "", ""}), "", "too_large")
	f("2^32-1 elements", nil, []byte("\x96\xa4PING\xdd\xff\xff\xff\xff"), "", "too_large")
}

// The tenant of a user is that of the events.
func TestUserTenants(t *testing.T) {
	f := func(user, password, tenant string) {
		t.Helper()
		r := authRig(t, &fakeSink{}, withUsers)
		r.play(enc(pingOf("key", user, password), list{"t", list{event(1, "a"), 7}, chunk("c")}, list{"t", list{event(2, "b")}}))
		if b := r.sink.batches; len(b) != 2 || b[0].tenant != tenant || b[1].tenant != tenant || len(b[0].dead) != 1 {
			t.Fatalf("%s: batches %+v, log %q", user, b, r.log.lines())
		}
	}
	f("alice", "pw:with colon", "default")
	f("bob", "", "tenant-of-bob")
}

// After the handshake a connection is one like all others, but for JSON.
func TestNoJSONAfterHandshake(t *testing.T) {
	r := authRig(t, &fakeSink{}, nil)
	r.play(append(enc(pingOf("key", "", "")), `["t",1,{"log":"a"}]`...))
	if len(r.sink.all()) != 0 || r.value(t, "closed_connections_total", "malformed") != 1 {
		t.Fatalf("stored %v, log %q", r.sink.all(), r.log.lines())
	}
}

// Fluentd looks every second whether a server is there, up to HELO or PONG.
func TestHandshakeOnly(t *testing.T) {
	r := authRig(t, &fakeSink{}, nil)
	r.play()
	r.play(enc(pingOf("key", "", "")))
	if n := r.value(t, "closed_connections_total", "end"); n != 2 || len(r.log.lines()) > 0 {
		t.Fatalf("%v ended, log %q", n, r.log.lines())
	}
}

func readHelo(t testing.TB, c net.Conn) []byte {
	t.Helper()
	p := make([]byte, 49)
	if n, err := io.ReadFull(c, p); err != nil || !bytes.HasPrefix(p, []byte("\x92\xa4HELO")) {
		t.Fatalf("HELO is %q, %v", p[:n], err)
	}
	return p
}

func TestNonceIsFresh(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.SharedKey = "key" })
	if !strings.HasPrefix(r.auth.hostname, "loki-go.") {
		t.Fatalf("hostname %q", r.auth.hostname)
	}
	seen := map[string]bool{}
	for range 20 {
		h := string(readHelo(t, r.connect(t)))
		if seen[h] {
			t.Fatalf("the HELO %q came twice", h)
		}
		seen[h] = true
	}
}

// Who does not identify himself in time, or does so slowly, is gone.
func TestHandshakeTimeout(t *testing.T) {
	r := authRig(t, &fakeSink{}, func(c *Config) { c.HandshakeTimeout, c.ReadTimeout = 50*time.Millisecond, time.Hour })
	silent, slow := r.connect(t), r.connect(t)
	readHelo(t, silent)
	readHelo(t, slow)
	send(t, slow, []byte("\x96\xa4PI"))
	expectEnd(t, silent)
	expectEnd(t, slow)
	for r.value(t, "closed_connections_total", "too_slow") != 2 { // counted behind the close
		time.Sleep(time.Millisecond)
	}
}

func TestTooManyUnidentified(t *testing.T) {
	r := authRig(t, &fakeSink{}, func(c *Config) { c.MaxUnidentified = 2 })
	first, second := r.connect(t), r.connect(t)
	readHelo(t, first)
	readHelo(t, second)
	expectEnd(t, r.connect(t))
	send(t, first, enc(pingOf("key", "", "")))
	expect(t, first, pongOf(true, ""))
	send(t, first, enc(list{"t", list{event(1, "a")}, chunk("c")}))
	expect(t, first, ackOf("c"))
	third := r.connect(t) // in the place of the first
	readHelo(t, third)
	expectEnd(t, r.connect(t))
	second.Close() // a place is also given back by one that goes away
	third.Close()
	for r.value(t, "open_connections", "") != 1 {
		time.Sleep(time.Millisecond)
	}
	readHelo(t, r.connect(t))
	if n := r.value(t, "closed_connections_total", "too_many_unidentified"); n != 2 {
		t.Fatalf("%v turned away", n)
	}
}

// A server that stops does not wait for those who have not identified
// themselves for longer than for others.
func TestCloseDuringHandshake(t *testing.T) {
	r := authRig(t, &fakeSink{}, func(c *Config) { c.HandshakeTimeout = time.Hour })
	c := r.connect(t)
	readHelo(t, c)
	began := time.Now()
	r.Close()
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("Close took %s", took)
	}
	expectEnd(t, c)
}

func TestUserSettings(t *testing.T) {
	f := func(users, tenants []string, want ...string) {
		t.Helper()
		c := DefaultConfig()
		c.Users, c.UserTenants = users, tenants
		errs := c.Validate()
		for i, err := range errs {
			if i >= len(want) || err.Error() != want[i] {
				t.Fatalf("problems %q, want %q", errs, want)
			}
		}
		if len(errs) != len(want) {
			t.Fatalf("problems %q, want %q", errs, want)
		}
	}
	f([]string{"a:b", "c:d:e"}, []string{"a=t", "c=x=y"})
	f([]string{"secret", ":x"}, nil, "users: number 1 is not of the form name:password", "users: number 2 is not of the form name:password")
	f([]string{"a:b", "a:c"}, []string{"a", "a=", "b=t", "a=t", "a=u"}, `users: "a" is there twice`,
		`user-tenants: "a" is not of the form name=tenant`, `user-tenants: "a=" is not of the form name=tenant`,
		`user-tenants: "b" is not among the users`, `user-tenants: "a" is there twice`)
}

// FuzzHandshake lets a client start with anything. Nothing is stored unless that
// is a PING of who knows the key, as a reader of its own finds.
func FuzzHandshake(f *testing.F) {
	good := enc(pingOf("key", "carol", "x"))
	f.Add(good, uint16(3))
	f.Add(enc(pingOf("key", "carol", "y")), uint16(1000))
	f.Add(enc(list{"PING", []byte("edge"), []byte("salt"), sha("salt", "edge", testNonce, "key"), "bob", sha(testSalt, "bob")}), uint16(1))
	for _, fx := range fixtures(f) {
		if fx.Server != nil {
			f.Add(readFile(f, fx.Connections[0].Sent), uint16(299))
		}
	}
	r := authRig(f, &fakeSink{}, withUsers)
	message := enc(list{"t", list{event(1, "a")}, chunk("c")})
	f.Fuzz(func(t *testing.T, p []byte, step uint16) {
		r.auth.rand = &endlessly{p: []byte(testNonce + testSalt)}
		r.sink.batches = nil
		r.log.reset()
		got := r.play(pieces(append(bytes.Clone(p), message...), int(step)+1)...)
		if len(r.sink.batches) > 0 && !knowsKey(append(bytes.Clone(p), message...)) {
			t.Fatalf("stored %v after %q", r.sink.batches, p)
		}
		if len(got.answers) == 0 || !got.closed || r.unknown != 0 {
			t.Fatalf("answered %q, closed %v, %d unknown", got.answers, got.closed, r.unknown)
		}
	})
}

func knowsKey(p []byte) bool {
	n, i, ok := msgpack.ReadArray(p, 0)
	if !ok || n != 6 {
		return false
	}
	var v [6]string
	for k := range v {
		if i < len(p) && p[i] == 0xc0 {
			i++
			continue
		}
		s, next, ok := msgpack.ReadString(p, i)
		if !ok {
			return false
		}
		v[k], i = string(s), next
	}
	password, known := map[string]string{"alice": "pw:with colon", "bob": "", "carol": "x"}[v[4]]
	return known && v[0] == "PING" && v[3] == sha(v[2], v[1], testNonce, "key") && v[5] == sha(testSalt, v[4], password)
}

func BenchmarkHandshake(b *testing.B) {
	s, _ := benchServer(b)
	cfg := DefaultConfig()
	cfg.SharedKey = "key"
	var err error
	if s.auth, err = newAuth(cfg); err != nil {
		b.Fatal(err)
	}
	s.auth.rand = &endlessly{p: []byte(testNonce)}
	p := enc(pingOf("key", "", ""))
	b.ReportAllocs()
	for b.Loop() {
		sc := &scripted{segments: [][]byte{p}}
		newConn(s, sc).serve()
		if len(sc.answers) != 2 {
			b.Fatalf("%q", sc.answers)
		}
	}
}
