package tlsconf_test

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
)

// serve answers each connection with one byte.
func serve(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(5 * time.Second))
			c.Write([]byte{'x'})
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// call returns the serial number of the server's certificate.
func call(t *testing.T, addr string, c tlsconf.Client) (string, error) {
	t.Helper()
	cfg, err := c.Config()
	if err != nil {
		return "", err
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, cfg)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(conn); err != nil {
		return "", err
	}
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

func TestServerAndClient(t *testing.T) {
	certs, others := testcert.New(t), testcert.New(t)
	plain, err := tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key}.Config(nil)
	if err != nil {
		t.Fatal(err)
	}
	mutual, err := tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key, ClientCAFile: certs.CA, MinVersion: "1.3"}.Config(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name   string
		server *tls.Config
		client tlsconf.Client
		want   string
	}{
		{"server only", plain, tlsconf.Client{CAFile: certs.CA}, ""},
		{"other ca", plain, tlsconf.Client{CAFile: others.CA}, "unknown authority"},
		{"system cas", plain, tlsconf.Client{}, "certificate"},
		{"unverified", plain, tlsconf.Client{InsecureSkipVerify: true}, ""},
		{"name", plain, tlsconf.Client{CAFile: certs.CA, ServerName: "localhost"}, ""},
		{"wrong name", plain, tlsconf.Client{CAFile: certs.CA, ServerName: "example.org"}, "example.org"},
		{"mutual", mutual, tlsconf.Client{CAFile: certs.CA, CertFile: certs.ClientCert, KeyFile: certs.ClientKey}, ""},
		{"no client certificate", mutual, tlsconf.Client{CAFile: certs.CA}, "certificate required"},
		{"client of another ca", mutual, tlsconf.Client{CAFile: certs.CA, CertFile: others.ClientCert, KeyFile: others.ClientKey}, "remote error"},
	} {
		_, err := call(t, serve(t, x.server), x.client)
		if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s: %v, want %q", x.name, err, x.want)
		}
	}
}

// TestReload renews a certificate in place; a broken file in between changes
// nothing.
func TestReload(t *testing.T) {
	certs := testcert.New(t)
	cfg, err := tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key}.Config(nil)
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, cfg)
	client := tlsconf.Client{CAFile: certs.CA}
	first, err := call(t, addr, client)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(certs.Cert, []byte("half a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // files are looked at once a second
	if s, err := call(t, addr, client); err != nil || s != first {
		t.Fatalf("serial %s, %v; want the first, %s", s, err, first)
	}
	certs.RenewServer(t)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s, err := call(t, addr, client)
		if err != nil {
			t.Fatal(err)
		}
		if s != first {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the renewed certificate is not used")
		}
	}
}

func TestErrors(t *testing.T) {
	certs := testcert.New(t)
	garbage := filepath.Join(t.TempDir(), "garbage.pem")
	if err := os.WriteFile(garbage, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := func(c tlsconf.Server) error { _, err := c.Config(nil); return err }
	client := func(c tlsconf.Client) error { _, err := c.Config(); return err }
	for want, err := range map[string]error{
		"key-file: must be set":       server(tlsconf.Server{CertFile: certs.Cert}),
		"cert-file: must be set":      client(tlsconf.Client{KeyFile: certs.Key}),
		"client-ca-file: needs":       server(tlsconf.Server{ClientCAFile: certs.CA}),
		`min-version: "1.1"`:          server(tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key, MinVersion: "1.1"}),
		"no such file":                server(tlsconf.Server{CertFile: "nowhere.pem", KeyFile: certs.Key}),
		"ca-file: " + garbage:         client(tlsconf.Client{CAFile: garbage}),
		"client-ca-file: " + garbage:  server(tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key, ClientCAFile: garbage}),
		"cert-file " + garbage + ", ": client(tlsconf.Client{CertFile: garbage, KeyFile: certs.Key}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
