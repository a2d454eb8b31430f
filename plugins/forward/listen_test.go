package forward

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
)

// dial connects to an address of the server that is no TCP port of 127.0.0.1,
// say.
func dial(t testing.TB, a net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	return watch(t, c)
}

func watch(t testing.TB, c net.Conn) net.Conn {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// talk sends an event and waits for the ack.
func talk(t testing.TB, c net.Conn, line string) {
	t.Helper()
	id := line[:min(len(line), 40)]
	send(t, c, enc(list{"t", list{event(1, line)}, chunk(id)}))
	expect(t, c, ackOf(id))
}

func TestAddresses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "forward.sock")
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) {
		c.Listen = []string{"127.0.0.1:0", "[::1]:0", "localhost:0"}
		c.UnixListen, c.UnixMode = path, "0600"
		c.Heartbeat = true
	})
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	all := r.Addrs()
	if len(all) != 4 || all[0] != r.Addr() {
		t.Fatalf("addresses %v", all)
	}
	for _, a := range all {
		talk(t, dial(t, a), a.String())
		if a.Network() != "tcp" {
			continue
		}
		beat := watch(t, func() net.Conn {
			c, err := net.Dial("udp", a.String())
			if err != nil {
				t.Fatal(err)
			}
			return c
		}())
		send(t, beat, []byte{0})
		expect(t, beat, []byte{0})
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket %v, %v", info, err)
	}
	if n := len(r.sink.all()); n != 4 {
		t.Fatalf("%d entries", n)
	}
	r.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Fatalf("the socket is left: %v", err)
	}
}

// If one address cannot be had, none is kept.
func TestAddressesAllOrNone(t *testing.T) {
	first := newRig(t, &fakeSink{}, "auto", nil)
	first.connect(t)
	second := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.Listen = []string{"127.0.0.1:0", first.Addr().String()} })
	if err := second.Open(); err == nil || !strings.Contains(err.Error(), first.Addr().String()) {
		t.Fatalf("error %v", err)
	}
	if len(second.Addrs()) > 0 {
		t.Fatalf("addresses %v", second.Addrs())
	}
}

func TestFamily(t *testing.T) {
	f := func(addr, want string, others ...string) {
		t.Helper()
		if got := family(addr, append(others, addr)); got != want {
			t.Errorf("%s beside %v: %q, want %q", addr, others, got, want)
		}
	}
	f(":24224", "")
	f("localhost:24224", "")
	f("0.0.0.0:24224", "4")
	f("10.0.0.1:24224", "4")
	f("[::]:24224", "")
	f("[::]:24224", "6", "0.0.0.0:24224")
	f("[::1]:24224", "6")
	f("[fe80::1%eth0]:24224", "6")
}

// Both unspecified addresses can be had with one port.
func TestBothFamilies(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.Listen = []string{"0.0.0.0:0"} })
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	both := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.Listen = []string{"0.0.0.0:" + port, "[::]:" + port} })
	if err := both.Open(); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		c, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Fatal(err)
		}
		talk(t, watch(t, c), host)
	}
}

func TestUnixSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	open := func() (*rig, error) {
		r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.Listen, c.UnixListen = nil, path })
		return r, r.Open()
	}
	// One that a killed process has left.
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	first, err := open()
	if err != nil {
		t.Fatal(err)
	}
	talk(t, dial(t, first.Addr()), "a")

	// One that is in use.
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Fatalf("error %v", err)
	}
	talk(t, dial(t, first.Addr()), "b")
	first.Close()

	// Something else.
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Fatalf("error %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Fatalf("the file has %q, %v", b, err)
	}
	path = filepath.Join(dir, "missing", "s")
	if _, err := open(); err == nil {
		t.Fatal("no error for a directory that is not there")
	}
}

func tlsRig(t testing.TB, change func(*Config)) (*rig, *testcert.Certs) {
	t.Helper()
	certs := testcert.New(t)
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) {
		c.TLS = tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key}
		if change != nil {
			change(c)
		}
		if c.TLS.ClientCAFile != "" {
			c.TLS.ClientCAFile = certs.CA
		}
	})
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	return r, certs
}

func (r *rig) connectTLS(t testing.TB, c tlsconf.Client) (*tls.Conn, error) {
	t.Helper()
	cfg, err := c.Config()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", r.Addr().String(), cfg)
	if err != nil {
		return nil, err
	}
	watch(t, nc)
	return nc, nil
}

func TestTLS(t *testing.T) {
	r, certs := tlsRig(t, func(c *Config) { c.SharedKey, c.Hostname = "key", "gateway" })
	r.auth.rand = &endlessly{p: []byte(testNonce)}
	c, err := r.connectTLS(t, tlsconf.Client{CAFile: certs.CA})
	if err != nil {
		t.Fatal(err)
	}
	readHelo(t, c)
	send(t, c, enc(pingOf("key", "", "")))
	expect(t, c, pongOf(true, ""))
	for _, line := range []string{"a", strings.Repeat("b", 60_000), "c"} {
		talk(t, c, line)
	}
	if lines := r.log.lines(); slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "WARN") }) {
		t.Fatalf("logged %q", lines)
	}
}

func TestMutualTLS(t *testing.T) {
	r, certs := tlsRig(t, func(c *Config) { c.TLS.ClientCAFile = "that of the certificates" })
	c, err := r.connectTLS(t, tlsconf.Client{CAFile: certs.CA, CertFile: certs.ClientCert, KeyFile: certs.ClientKey})
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, "a")
	if c, err = r.connectTLS(t, tlsconf.Client{CAFile: certs.CA}); err == nil {
		expectEnd(t, c) // TLS 1.3 clients learn of it when they read
	}
	for r.value(t, "closed_connections_total", "tls") != 1 {
		time.Sleep(time.Millisecond)
	}
	if len(r.sink.all()) != 1 {
		t.Fatalf("stored %v", r.sink.all())
	}
}

// What does not speak TLS is told so in the log; a look at the port is not.
func TestTLSPortWithoutTLS(t *testing.T) {
	r, _ := tlsRig(t, func(c *Config) { c.HandshakeTimeout = 100 * time.Millisecond })
	silent := r.connect(t)
	plain := r.connect(t)
	send(t, plain, enc(list{"t", list{event(1, "a")}, chunk("c")}))
	var buf [64]byte
	if n, err := plain.Read(buf[:]); n > 0 && buf[0] != 0x15 || n == 0 && err == nil {
		t.Fatalf("answered %q, %v", buf[:n], err)
	}
	look := r.connect(t)
	look.Close()
	expectEnd(t, silent)
	for r.value(t, "closed_connections_total", "") != 3 {
		time.Sleep(time.Millisecond)
	}
	lines := strings.Join(r.log.lines()[1:], "\n")
	if strings.Count(lines, "WARN") != 2 || !strings.Contains(lines, "does not speak TLS") || !strings.Contains(lines, "did not start in time") {
		t.Fatalf("logged %s", lines)
	}
}

// A stop over TLS reads what has been sent, and says goodbye.
func TestTLSDrains(t *testing.T) {
	r, certs := tlsRig(t, nil)
	c, err := r.connectTLS(t, tlsconf.Client{CAFile: certs.CA})
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, "a")
	send(t, c, enc(list{"t", list{event(2, "b")}, chunk("b")}))
	r.Close()
	expect(t, c, ackOf("b"))
	expectEnd(t, c)
	if got := strings.Join(r.sink.lines(), " "); got != "a b" {
		t.Fatalf("stored %s", got)
	}
}

func TestTLSFiles(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.TLS = tlsconf.Server{CertFile: "nowhere.pem", KeyFile: "nowhere.key"} })
	if err := r.Open(); err == nil || !strings.Contains(err.Error(), "forward: tls: cert-file nowhere.pem") {
		t.Fatalf("error %v", err)
	}
	c := DefaultConfig()
	c.TLS.CertFile, c.UnixMode, c.Hostname = "a", "999", strings.Repeat("h", 256)
	if errs := c.Validate(); len(errs) != 3 || !strings.HasPrefix(errs[0].Error(), "tls.key-file:") {
		t.Fatalf("problems %v", errs)
	}
}
