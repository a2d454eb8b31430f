package flush

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"time"
)

// Auth says who pushes. At most one of a user and a token is set.
type Auth struct {
	User, Password, PasswordFile string
	Token, TokenFile             string
}

// header is one name, in lower case, and its value, sent with every push.
type header struct{ name, value string }

// parseHeaders reads "K: V; K2: V2", and "K V" as Fluent Bit's own outputs have
// it.
func parseHeaders(v string) ([]header, error) {
	var out []header
	for part := range strings.SplitSeq(v, ";") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, ":")
		if !ok || strings.ContainsAny(strings.TrimSpace(name), " \t") {
			name, value, ok = strings.Cut(part, " ")
		}
		name, value = strings.ToLower(strings.TrimSpace(name)), textproto.TrimString(value)
		switch {
		case !ok || !headerName(name):
			return nil, fmt.Errorf("%q: want NAME: VALUE; NAME: VALUE", part)
		case reservedHeader(name):
			return nil, fmt.Errorf("%q belongs to gRPC", name)
		case !headerValue(value):
			return nil, fmt.Errorf("%s: the value must be printable ASCII", name)
		}
		out = append(out, header{name, value})
	}
	return out, nil
}

func headerName(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return s != ""
}

func headerValue(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

func reservedHeader(name string) bool {
	switch name {
	case "content-type", "content-length", "host", "te", "connection", "user-agent", "transfer-encoding":
		return true
	}
	return strings.HasPrefix(name, "grpc-") || strings.HasSuffix(name, "-bin")
}

func (a Auth) validate() error {
	user := a.User != "" || a.Password != "" || a.PasswordFile != ""
	switch {
	case a.User == "" && user:
		return errors.New("HTTPPasswd: there is no HTTPUser")
	case strings.Contains(a.User, ":"):
		return errors.New("HTTPUser: must be without a colon")
	case a.Password != "" && a.PasswordFile != "":
		return errors.New("HTTPPasswd and HTTPPasswdFile: one is enough")
	case a.Token != "" && a.TokenFile != "":
		return errors.New("BearerToken and BearerTokenFile: one is enough")
	case user && (a.Token != "" || a.TokenFile != ""):
		return errors.New("HTTPUser and BearerToken: one is enough")
	}
	return nil
}

// credentials makes what every push carries beside its entries.
type credentials struct {
	headers []string // by turns
	scheme  string   // Basic, Bearer; empty: none
	user    string
	secret  secret
}

// newCredentials reads the files for the first time.
func newCredentials(a Auth, headers []header) (*credentials, error) {
	c := &credentials{}
	for _, h := range headers {
		c.headers = append(c.headers, h.name, h.value)
	}
	switch {
	case a.User != "":
		c.scheme, c.user, c.secret = "Basic", a.User, secret{file: a.PasswordFile, value: a.Password}
	case a.Token != "" || a.TokenFile != "":
		c.scheme, c.secret = "Bearer", secret{file: a.TokenFile, value: a.Token, inHeader: true}
	}
	if c.secret.file == "" {
		return c, nil
	}
	var err error
	c.secret.value, err = c.secret.read()
	return c, err
}

// metadata returns names and values by turns.
func (c *credentials) metadata() ([]string, error) {
	if c.scheme == "" {
		return c.headers, nil
	}
	s := c.secret.get()
	if c.scheme == "Basic" {
		s = base64.StdEncoding.EncodeToString([]byte(c.user + ":" + s))
	}
	return append(c.headers[:len(c.headers):len(c.headers)], "authorization", c.scheme+" "+s), nil
}

// secretEvery is how often the file of a secret is looked at, at most.
const secretEvery = time.Second

// maxSecret is the largest file that is taken for a secret.
const maxSecret = 64 << 10

// secret is a password or token. One in a file is read again when the file
// changes; while it cannot be read the former one stays.
type secret struct {
	file     string // empty: value is all there is
	inHeader bool   // it goes into a header as it is
	mu       sync.Mutex
	value    string
	checked  time.Time
}

func (s *secret) get() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.file != "" && now.Sub(s.checked) >= secretEvery {
		s.checked = now
		if v, err := s.read(); err == nil {
			s.value = v
		}
	}
	return s.value
}

func (s *secret) read() (string, error) {
	f, err := os.Open(s.file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", err
	}
	v := strings.TrimSpace(string(p))
	if len(p) > maxSecret || v == "" || s.inHeader && !headerValue(v) {
		return "", fmt.Errorf("%s: want one line of printable ASCII", s.file)
	}
	return v, nil
}
