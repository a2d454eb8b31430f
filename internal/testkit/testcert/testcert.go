// Package testcert makes certificates for tests: a CA, a server's for loopback
// and a client's, in files of the test's temporary directory.
package testcert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certs names PEM files. The server's certificate is good for 127.0.0.1, ::1
// and localhost, the client's has the common name "client".
type Certs struct {
	CA, Cert, Key, ClientCert, ClientKey string

	dir    string
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	serial int64
}

// New makes a CA and both certificates, good for an hour.
func New(t testing.TB) *Certs {
	t.Helper()
	c := &Certs{dir: t.TempDir()}
	key := newKey(t)
	tmpl := c.template("loki-go test CA")
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.caKey = key
	c.CA = c.write(t, "ca.pem", "CERTIFICATE", der)
	c.Cert, c.Key = filepath.Join(c.dir, "server.pem"), filepath.Join(c.dir, "server.key")
	c.RenewServer(t)
	c.ClientCert, c.ClientKey = c.issue(t, "client", func(x *x509.Certificate) {
		x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	return c
}

// RenewServer replaces the server's certificate and key in their files.
func (c *Certs) RenewServer(t testing.TB) {
	t.Helper()
	c.issue(t, "server", func(x *x509.Certificate) {
		x.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		x.DNSNames = []string{"localhost"}
		x.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	})
}

func (c *Certs) template(name string) *x509.Certificate {
	c.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(c.serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func (c *Certs) issue(t testing.TB, name string, change func(*x509.Certificate)) (cert, key string) {
	t.Helper()
	k := newKey(t)
	tmpl := c.template(name)
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.ca, &k.PublicKey, c.caKey)
	if err != nil {
		t.Fatal(err)
	}
	p, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return c.write(t, name+".pem", "CERTIFICATE", der), c.write(t, name+".key", "PRIVATE KEY", p)
}

func (c *Certs) write(t testing.TB, name, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(c.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
