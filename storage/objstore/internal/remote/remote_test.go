package remote

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/storage/objstore"
)

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"https://storage.example.com": "https://storage.example.com", "127.0.0.1:9000": "https://127.0.0.1:9000",
		"http://127.0.0.1:1/account": "http://127.0.0.1:1/account",
		"ftp://x":                    "", "http://": "", "https://u:p@x": "", "https://x?sig=1": "", "https://x#y": "", "http://%zz": "",
	} {
		u, err := Endpoint(in)
		if want == "" && err == nil || want != "" && (err != nil || u.String() != want) {
			t.Errorf("%s: %v, %v; want %q", in, u, err, want)
		}
	}
}

func TestReadBody(t *testing.T) {
	for _, x := range []struct {
		announced int64
		ok        bool
	}{{5, true}, {-1, true}, {6, false}, {4, false}, {0, false}} {
		got, err := ReadBody(strings.NewReader("hello"), x.announced)
		if x.ok && (err != nil || string(got) != "hello") || !x.ok && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d announced: %q, %v", x.announced, got, err)
		}
	}
	broken := io.MultiReader(strings.NewReader("he"), iotest{errors.New("reset")})
	if _, err := ReadBody(broken, 5); err == nil || !strings.Contains(err.Error(), "after 2 bytes: reset") {
		t.Errorf("got %v", err)
	}
}

type iotest struct{ err error }

func (i iotest) Read([]byte) (int, error) { return 0, i.err }

func TestNetwork(t *testing.T) {
	for want, err := range map[string]error{
		"storage.x.tls.ca-file":  x509.UnknownAuthorityError{},
		"x.tls.server-name":      x509.HostnameError{Certificate: &x509.Certificate{}},
		"is storage.x.endpoint":  &net.DNSError{},
		"listen at storage.x.en": &net.OpError{Op: "dial", Err: errors.New("refused")},
	} {
		kind, hint := Network(&url.Error{Op: "Get", URL: "https://x", Err: err}, "storage.x")
		denied := strings.Contains(want, "tls")
		if !strings.Contains(hint, want) || (kind == objstore.Denied) != denied {
			t.Errorf("%v: %s, %q; want %q", err, kind, hint, want)
		}
	}
	if kind, hint := Network(io.ErrUnexpectedEOF, "storage.x"); kind != objstore.Transient || hint != "" {
		t.Errorf("cut connection: %s, %q", kind, hint)
	}
}

func TestCauseHidesURLs(t *testing.T) {
	err := Cause(&url.Error{Op: "Get", URL: "https://host:1/c/k?sig=secret", Err: context.Canceled})
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "secret") || !strings.HasPrefix(err.Error(), "host:1: ") {
		t.Errorf("got %v", err)
	}
	if err := Cause(io.EOF); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		" two\r\nlines\t": "two lines", "bad \xff\x1b[31m": "bad ??[31m", "": "",
		strings.Repeat("é", 500): strings.Repeat("é", 200) + "...", "x" + strings.Repeat("é", 500): "x" + strings.Repeat("é", 199) + "...",
	} {
		if got := Text(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func TestClientNamesBadFiles(t *testing.T) {
	if _, err := Client(tlsconf.Client{CAFile: "/nowhere"}); err == nil || !strings.HasPrefix(err.Error(), "tls.ca-file: ") {
		t.Errorf("got %v", err)
	}
}
