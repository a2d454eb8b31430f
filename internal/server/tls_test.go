package server

import (
	"bytes"
	"io"
	stdlog "log"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/internal/warn"
)

// TestHandshakesFillNoLog: whoever connects to a port with TLS and leaves again.
func TestHandshakesFillNoLog(t *testing.T) {
	var log bytes.Buffer
	c := complaints{warn.New(slog.New(slog.NewTextHandler(&log, nil)))}
	l := stdlog.New(c, "", 0)
	for range 1000 {
		l.Printf("http: TLS handshake error from %s: EOF", "192.0.2.1:1")
	}
	if n := strings.Count(log.String(), "TLS handshake error"); n == 0 || n > 100 {
		t.Fatalf("%d lines for 1000 handshakes", n)
	}
}

// TestHTTPOverTLS posts a body over HTTP/1.1 and HTTP/2, with a client's
// certificate and without.
func TestHTTPOverTLS(t *testing.T) {
	certs := testcert.New(t)
	cfg := DefaultHTTPConfig()
	cfg.TLS = tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key, ClientCAFile: certs.CA}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write([]byte(r.Proto + " " + string(body)))
	})
	addr, _ := serve(t, cfg, mux)
	post := func(c tlsconf.Client, h2 bool) (string, error) {
		t.Helper()
		tc, err := c.Config()
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: h2}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Post("https://"+addr+"/echo", "text/plain", strings.NewReader("hello"))
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	client := tlsconf.Client{CAFile: certs.CA, CertFile: certs.ClientCert, KeyFile: certs.ClientKey}
	for h2, want := range map[bool]string{false: "HTTP/1.1 hello", true: "HTTP/2.0 hello"} {
		if got, err := post(client, h2); got != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	if got, err := post(tlsconf.Client{CAFile: certs.CA}, false); err == nil {
		t.Errorf("without a certificate: %q, want an error", got)
	}
}
