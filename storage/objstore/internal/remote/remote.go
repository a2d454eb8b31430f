// Package remote has what the stores behind HTTP services share: the client,
// the reading of bodies, and words for errors of the network.
package remote

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/storage/objstore"
)

// Client returns an HTTP client for many requests to one service. The requests
// bring their deadlines. Redirects are answers like others: no object store
// sends one that would lead to the bucket.
func Client(cfg tlsconf.Client) (*http.Client, error) {
	tlsCfg, err := cfg.Config()
	if err != nil {
		return nil, fmt.Errorf("tls.%w", err)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = tlsCfg
	// Objects of megabytes go faster over a connection each than over the one
	// that HTTP/2 would share.
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.MaxIdleConnsPerHost = 64
	t.IdleConnTimeout = 30 * time.Second // before services close them
	t.DisableCompression = true
	return &http.Client{
		Transport:     ByProgress(t),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// Endpoint reads the URL of a service; HOST:PORT alone is https.
func Endpoint(s string) (*url.URL, error) {
	full := s
	if !strings.Contains(full, "://") {
		full = "https://" + full
	}
	u, err := url.Parse(full)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("%q is not http://HOST:PORT or https://HOST:PORT", s)
	}
	return u, nil
}

// maxHint bounds how far an announced length decides on a buffer.
const maxHint = 64 << 20

// ReadBody reads all of r, which must have as many bytes as were announced;
// below 0: nothing was.
func ReadBody(r io.Reader, announced int64) ([]byte, error) {
	var buf bytes.Buffer
	if announced > 0 {
		buf.Grow(int(min(announced, maxHint)) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(r)
	if err != nil {
		return nil, fmt.Errorf("after %d bytes: %w", n, err)
	}
	if announced >= 0 && n != announced {
		return nil, fmt.Errorf("%d of %d bytes: %w", n, announced, io.ErrUnexpectedEOF)
	}
	return buf.Bytes(), nil
}

// Network explains an error that came without an answer of the service. setting
// is the prefix of the store's settings, as storage.gcs.
func Network(err error, setting string) (objstore.Kind, string) {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &unknown):
		return objstore.Denied, "name the service's CA in " + setting + ".tls.ca-file"
	case errors.As(err, &host):
		return objstore.Denied, "correct " + setting + ".endpoint or " + setting + ".tls.server-name"
	case errors.As(err, &dns):
		return objstore.Transient, "is " + setting + ".endpoint right?"
	case errors.As(err, &op) && op.Op == "dial":
		return objstore.Transient, "does a service listen at " + setting + ".endpoint?"
	}
	return objstore.Transient, ""
}

// Cause takes the URL out of an error of net/http: it may hold a signature, and
// whoever has that can read the bucket.
func Cause(err error) error {
	var u *url.Error
	if !errors.As(err, &u) {
		return err
	}
	host := "the service"
	if at, perr := url.Parse(u.URL); perr == nil && at.Host != "" {
		host = at.Host
	}
	return fmt.Errorf("%s: %w", host, u.Err)
}

// maxText is how much of what a service says goes into an error.
const maxText = 400

// Text makes one line of a text that a service sent.
func Text(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "..."
	}
	return s
}
