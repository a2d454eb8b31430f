package flush

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// Config is what an [OUTPUT] section says.
type Config struct {
	Addresses []string // of gateways, HOST:PORT
	UseTLS    bool
	TLS       tlsconf.Client
	Auth      Auth
	Headers   []header
	Tenant    string // empty: the server's default
	Mapping   mapping.Config
	Timeout   time.Duration // for one flush
	LogLevel  slog.Level
	// Notes say, one line each, what a part of the section does not do here.
	Notes []string
}

// DefaultConfig returns what holds where an [OUTPUT] section says nothing. The
// time for a flush is less than the grace that Fluent Bit grants at its end
// (5 s): it waits for flushes under way, and for no longer.
func DefaultConfig() Config {
	return Config{
		Addresses: []string{"127.0.0.1:9095"},
		Mapping:   mapping.DefaultConfig(),
		Timeout:   4 * time.Second,
	}
}

// grace is how long Fluent Bit waits for flushes at its end, by default.
const grace = 5 * time.Second

// Read makes a Config of what get returns for the keys of a section ("" for
// keys that are not there). The error names all that is wrong, on one line.
func Read(get func(key string) string) (Config, error) {
	s := section{Config: DefaultConfig(), get: get}
	for i := range options {
		o := &options[i]
		v, err := s.either(o.name)
		if err == nil && v != "" {
			err = o.set(&s, v)
		}
		if err != nil {
			s.problem(o.name, err)
		}
	}
	for _, f := range foreign {
		if v, err := s.either(f.name); v != "" || err != nil {
			s.problems = append(s.problems, f.name+" is not an option of loki-go: "+f.hint)
		}
	}
	s.noteIdle()
	s.finish()
	if len(s.problems) > 0 {
		return Config{}, errors.New(strings.Join(s.problems, "; "))
	}
	return s.Config, nil
}

// section is a Config while it is being read.
type section struct {
	Config
	get      func(string) string
	problems []string

	endpoints map[string]endpoints // by option: Address, URL
	tls       string               // the first option of TLS that is there
	useTLS    *bool
	keys      bool // there are options that take fields out of the record
}

func (s *section) problem(name string, err error) {
	s.problems = append(s.problems, name+": "+oneLine(err))
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (s *section) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// either returns the value of a key, with or without underscores between its
// words.
func (s *section) either(name string) (string, error) {
	a := strings.TrimSpace(s.get(name))
	snake := snakeCase(name)
	if strings.EqualFold(snake, name) {
		return a, nil
	}
	b := strings.TrimSpace(s.get(snake))
	if a != "" && b != "" && a != b {
		return "", fmt.Errorf("%s and %s say different things", name, snake)
	}
	if a == "" {
		return b, nil
	}
	return a, nil
}

// snakeCase makes label_keys of LabelKeys and tenant_id of TenantID.
func snakeCase(name string) string {
	var b strings.Builder
	upper := func(i int) bool { return i < len(name) && name[i] >= 'A' && name[i] <= 'Z' }
	for i := range len(name) {
		if i > 0 && upper(i) && (!upper(i-1) || i+1 < len(name) && !upper(i+1)) {
			b.WriteByte('_')
		}
		b.WriteByte(name[i])
	}
	return strings.ToLower(b.String())
}

// noteIdle says which options of other outputs are here and have nothing to do.
func (s *section) noteIdle() {
	byReason := map[string][]string{}
	for _, o := range idle {
		for _, name := range o.names {
			if v, err := s.either(name); v != "" || err != nil {
				byReason[o.why] = append(byReason[o.why], name)
			}
		}
	}
	for _, o := range idle {
		if names := byReason[o.why]; names != nil {
			s.note("%s: %s", strings.Join(names, ", "), o.why)
		}
	}
}

// finish looks at what options say together.
func (s *section) finish() {
	s.finishAddress()
	s.finishTLS()
	if err := s.Auth.validate(); err != nil {
		s.problems = append(s.problems, oneLine(err))
	}
	if s.Tenant == "" {
		s.finishTenant()
	}
	if s.Auth != (Auth{}) && !s.UseTLS {
		s.note("the user's or token's secret goes over the network as it is; UseTLS, or https://, protects it")
	}
	if s.Timeout >= grace {
		s.note("Timeout %s is not less than the grace of [SERVICE] (%s by default): let grace be more, or Fluent Bit ends before a flush has its answer", s.Timeout, grace)
	}
	if s.keys {
		s.Mapping.StripLine = true
	}
	for _, err := range s.Mapping.Validate() {
		s.problems = append(s.problems, oneLine(err))
	}
}

func (s *section) finishAddress() {
	a, hasA := s.endpoints["Address"]
	u, hasU := s.endpoints["URL"]
	switch {
	case hasA && hasU:
		s.problems = append(s.problems, "Address and URL: one is enough")
	case hasA:
		s.setEndpoints(a)
	case hasU:
		s.setEndpoints(u)
	}
}

func (s *section) setEndpoints(e endpoints) {
	s.Addresses = e.addresses
	s.UseTLS = e.scheme == "https"
	if e.user != nil {
		s.setUser(e.user)
	}
	switch {
	case e.scheme == "" && s.useTLS == nil:
		s.UseTLS = s.tls != ""
	case e.scheme == "" || s.useTLS == nil:
	case *s.useTLS != s.UseTLS:
		s.problems = append(s.problems, fmt.Sprintf("UseTLS %t and %s:// say different things", *s.useTLS, e.scheme))
	}
}

func (s *section) setUser(u *url.Userinfo) {
	if s.Auth != (Auth{}) {
		s.problems = append(s.problems, "the address has a user, and there is another or a token: one is enough")
		return
	}
	s.Auth.User = u.Username()
	s.Auth.Password, _ = u.Password()
}

func (s *section) finishTLS() {
	if s.endpoints == nil {
		s.UseTLS = s.tls != ""
	}
	if s.useTLS != nil {
		s.UseTLS = *s.useTLS
	}
	for _, err := range s.TLS.Validate() {
		s.problems = append(s.problems, oneLine(err))
	}
	if s.tls != "" && !s.UseTLS {
		s.note("%s and the like have no effect: the connections are without TLS", s.tls)
	}
}

// finishTenant takes the tenant from the header that other outputs have it in.
func (s *section) finishTenant() {
	for _, h := range s.Headers {
		if h.name == "x-scope-orgid" {
			if err := push.CheckTenant(h.value); err != nil {
				s.problem("Header", err)
			}
			s.Tenant = h.value
		}
	}
}
