// Package tlsconf makes TLS configurations of settings, for every listener and
// client of the project.
//
// A server's certificate, its key and the certificates of its clients' CA are
// read again when their files change, at most once a second and only when a
// client connects: certificates that are renewed in place need no restart. A
// change that cannot be read leaves what there was, and is logged once.
//
// What Config returns may be used by any number of goroutines.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Server are the settings of a listener. TLS is on when a certificate is named.
type Server struct {
	CertFile     string `yaml:"cert-file" help:"PEM file with the certificate and its chain; empty: no TLS"`
	KeyFile      string `yaml:"key-file" help:"PEM file with the certificate's key"`
	ClientCAFile string `yaml:"client-ca-file" help:"PEM file with the CAs of client certificates, which are demanded then; empty: none are"`
	MinVersion   string `yaml:"min-version" help:"oldest TLS version: 1.2 or 1.3"`
}

// Client are the settings of a connection to a server.
type Client struct {
	CAFile             string `yaml:"ca-file" help:"PEM file with the CAs of the server's certificate; empty: those of the system"`
	CertFile           string `yaml:"cert-file" help:"PEM file with the client's own certificate; empty: none"`
	KeyFile            string `yaml:"key-file" help:"PEM file with the key of the client's certificate"`
	ServerName         string `yaml:"server-name" help:"name in the server's certificate; empty: the host that is called"`
	MinVersion         string `yaml:"min-version" help:"oldest TLS version: 1.2 or 1.3"`
	InsecureSkipVerify bool   `yaml:"insecure-skip-verify" help:"accept any certificate"`
}

// Enabled reports whether the listener speaks TLS.
func (c Server) Enabled() bool { return c.CertFile != "" }

// Validate returns every problem of c that can be seen without its files.
func (c Server) Validate() []error {
	errs := checkPair(c.CertFile, c.KeyFile)
	if c.ClientCAFile != "" && !c.Enabled() {
		errs = append(errs, errors.New("client-ca-file: needs cert-file and key-file"))
	}
	return append(errs, checkVersion(c.MinVersion)...)
}

// Validate returns every problem of c that can be seen without its files.
func (c Client) Validate() []error {
	return append(checkPair(c.CertFile, c.KeyFile), checkVersion(c.MinVersion)...)
}

func checkPair(cert, key string) []error {
	switch {
	case cert != "" && key == "":
		return []error{errors.New("key-file: must be set when cert-file is")}
	case cert == "" && key != "":
		return []error{errors.New("cert-file: must be set when key-file is")}
	}
	return nil
}

func checkVersion(v string) []error {
	if _, err := version(v); err != nil {
		return []error{err}
	}
	return nil
}

func version(v string) (uint16, error) {
	switch v {
	case "", "1.2":
		return tls.VersionTLS12, nil
	case "1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("min-version: %q is neither 1.2 nor 1.3", v)
}

// Config reads the files. protos are the protocols to agree on by ALPN, best
// first. log may be nil. Errors name the file at fault.
func (c Server) Config(log *slog.Logger, protos ...string) (*tls.Config, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &reloader{c: c, log: log, protos: protos}
	if err := r.load(); err != nil {
		return nil, err
	}
	// A config of its own for each change, so that session tickets end with the
	// certificates that they stand for.
	first := r.current
	return &tls.Config{
		MinVersion: first.MinVersion, NextProtos: protos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return r.get(), nil },
		// Servers that look for a certificate before they serve find this one.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &r.get().Certificates[0], nil },
	}, nil
}

// Config reads the files. Errors name the file at fault.
func (c Client) Config() (*tls.Config, error) {
	if errs := c.Validate(); len(errs) > 0 {
		return nil, errs[0]
	}
	v, _ := version(c.MinVersion)
	out := &tls.Config{MinVersion: v, ServerName: c.ServerName, InsecureSkipVerify: c.InsecureSkipVerify}
	if c.CAFile != "" {
		pool, err := readPool(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca-file: %w", err)
		}
		out.RootCAs = pool
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert-file %s, key-file %s: %w", c.CertFile, c.KeyFile, err)
		}
		out.Certificates = []tls.Certificate{cert}
	}
	return out, nil
}

func readPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in PEM form", file)
	}
	return pool, nil
}

// checkEvery is how often files are looked at, at most.
const checkEvery = time.Second

// stamp is what a file looked like when it was read.
type stamp struct {
	size int64
	mod  time.Time
}

// reloader holds a server's configuration and renews it.
type reloader struct {
	c      Server
	log    *slog.Logger
	protos []string

	mu      sync.Mutex
	current *tls.Config
	stamps  [3]stamp
	checked time.Time
}

// get returns the configuration that the files have now.
func (r *reloader) get() *tls.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.checked) >= checkEvery {
		r.checked = now
		if r.look() != r.stamps {
			if err := r.load(); err != nil {
				r.log.Error("changed TLS files cannot be used, the former ones stay", "err", err)
			} else {
				r.log.Info("TLS files changed and were read", "cert_file", r.c.CertFile)
			}
		}
	}
	return r.current
}

func (r *reloader) look() (s [3]stamp) {
	for i, f := range []string{r.c.CertFile, r.c.KeyFile, r.c.ClientCAFile} {
		if f == "" {
			continue
		}
		if info, err := os.Stat(f); err == nil {
			s[i] = stamp{info.Size(), info.ModTime()}
		}
	}
	return s
}

// load reads all files. After a failure it is tried again when they change
// once more.
func (r *reloader) load() error {
	if errs := r.c.Validate(); len(errs) > 0 {
		return errs[0]
	}
	r.stamps = r.look()
	v, _ := version(r.c.MinVersion)
	cfg := &tls.Config{MinVersion: v, NextProtos: r.protos}
	cert, err := tls.LoadX509KeyPair(r.c.CertFile, r.c.KeyFile)
	if err != nil {
		return fmt.Errorf("cert-file %s, key-file %s: %w", r.c.CertFile, r.c.KeyFile, err)
	}
	cfg.Certificates = []tls.Certificate{cert}
	if r.c.ClientCAFile != "" {
		if cfg.ClientCAs, err = readPool(r.c.ClientCAFile); err != nil {
			return fmt.Errorf("client-ca-file: %w", err)
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	r.current = cfg
	return nil
}
