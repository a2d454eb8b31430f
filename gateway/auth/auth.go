// Package auth knows who may use which tenant: it checks the credentials of
// HTTP requests and gRPC calls against a file of users and tokens.
//
// # The file
//
//	users:
//	  - name: shop                      # Basic authentication
//	    password-hash: $2y$10$...       # bcrypt: htpasswd -B, or HashPassword
//	    tenants: [shop]
//	  - name: ops
//	    password-file: ops.password     # relative to this file; or password: ...
//	    tenants: [ops, shop]
//	  - name: admin
//	    password: a plain one
//	    tenants: ["*"]                  # all
//	tokens:
//	  - name: ci                        # for logs
//	    token: ...                      # or token-file, or token-sha256 (hex)
//	    tenants: [ci]
//
// Basic authentication takes users, Bearer takes tokens. The scheme ApiKey, which
// clients of Elasticsearch use, takes a token, or the base64 form of id:key with
// a user's name and password. A request without a tenant gets the first that its
// credentials are for; one that names another than those is refused. Whoever
// may use all tenants has to name one.
//
// The file, and those it refers to, are read again when they change: they are
// looked at once a second at most, and only when a request comes. While they
// cannot be used, the credentials of before remain good, and a request whose
// credentials are not among them is answered with 503 instead of 401 or 403:
// many agents drop what they are told 401 or 403 for, and the file might have
// the answer. Config.RetryRefused makes that 503 in all cases.
//
// # Cost
//
// Passwords and tokens are compared in a time that does not depend on them. As
// bcrypt is slow on purpose, what it has found is remembered (by a keyed hash of
// the credentials), and few comparisons run at a time: others wait for a moment,
// then get 503.
//
// An Auth may be used by any number of goroutines. It has none of its own.
package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/warn"
)

// Config has the settings of authentication.
type Config struct {
	UsersFile    string   `yaml:"users-file" help:"YAML file with users and tokens and the tenants they may use; empty: requests are not authenticated"`
	Exempt       []string `yaml:"exempt" help:"HTTP paths and gRPC methods that need no credentials"`
	RetryRefused bool     `yaml:"retry-refused" help:"answer 503 instead of 401 and 403: agents that drop data at those keep it and try again"`
}

// DefaultConfig returns the defaults: no authentication.
func DefaultConfig() Config { return Config{Exempt: []string{"/ready", "/metrics"}} }

// Enabled reports whether requests are authenticated.
func (c Config) Enabled() bool { return c.UsersFile != "" }

// Validate returns everything that is wrong. It does not read the file.
func (c Config) Validate() []error {
	var errs []error
	for _, p := range c.Exempt {
		if !strings.HasPrefix(p, "/") {
			errs = append(errs, fmt.Errorf("exempt: %q does not begin with /", p))
		}
	}
	return errs
}

// Deps are what an Auth works with.
type Deps struct {
	Log     *slog.Logger          // nil: no logs
	Metrics prometheus.Registerer // nil: no metrics
	Now     func() time.Time      // nil: time.Now
}

// Auth checks credentials.
type Auth struct {
	d      Deps
	cfg    Config
	exempt map[string]bool

	current  atomic.Pointer[state]
	checked  atomic.Int64 // when the files were looked at, ns
	loading  sync.Mutex
	stamps   stamps // of the files that current was made from
	failed   string // the last failure
	verifier *verifier

	warn    *warn.Logger
	refused *prometheus.CounterVec
	reloads *prometheus.CounterVec
}

// state is what the files say.
type state struct {
	*directory
	broken bool // the files have changed since then and cannot be used
}

// New reads the file. If cfg names none, the Auth lets everything through.
func New(d Deps, cfg Config) (*Auth, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("auth: %w", errors.Join(errs...))
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	a := &Auth{
		d: d, cfg: cfg, exempt: make(map[string]bool, len(cfg.Exempt)), verifier: newVerifier(),
		warn: warn.New(d.Log),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loki_go_auth_refused_requests_total", Help: "Requests refused, by reason.",
		}, []string{"reason"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loki_go_auth_reloads_total", Help: "Changes of the users file, by result: ok, error.",
		}, []string{"result"}),
	}
	for _, p := range cfg.Exempt {
		a.exempt[p] = true
	}
	if !cfg.Enabled() {
		return a, nil
	}
	if err := a.Reload(); err != nil {
		return nil, err
	}
	if d.Metrics == nil {
		return a, nil
	}
	usable := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "loki_go_auth_users_file_usable", Help: "1 if the users file could be read when it was last looked at, else 0.",
	}, a.usable)
	for _, c := range []prometheus.Collector{a.refused, a.reloads, usable} {
		if err := d.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("auth: register metrics: %w", err)
		}
	}
	return a, nil
}

func (a *Auth) usable() float64 {
	if a.current.Load().broken {
		return 0
	}
	return 1
}

// Reload reads the files now, whether they have changed or not. If they cannot
// be used, all stays as it was.
func (a *Auth) Reload() error {
	if !a.cfg.Enabled() {
		return nil
	}
	a.loading.Lock()
	defer a.loading.Unlock()
	return a.load()
}

// lookEvery is how often files are looked at, at most.
const lookEvery = time.Second

// state returns what the files say now.
func (a *Auth) state() *state {
	now, last := a.d.Now().UnixNano(), a.checked.Load()
	if d := now - last; d >= 0 && d < int64(lookEvery) || !a.loading.TryLock() {
		return a.current.Load()
	}
	defer a.loading.Unlock()
	a.checked.Store(now)
	if s := a.current.Load(); s.broken || !a.stamps.same() {
		a.follow()
	}
	return a.current.Load()
}

// follow takes in a change and reports how that went, once for each failure.
func (a *Auth) follow() {
	err := a.load()
	switch {
	case err == nil:
		a.reloads.WithLabelValues("ok").Inc()
		a.d.Log.Info("users file read again", "file", a.cfg.UsersFile)
		a.failed = ""
	case err.Error() != a.failed:
		a.reloads.WithLabelValues("error").Inc()
		a.d.Log.Error("users stay as they were, the users file cannot be used", "err", err)
		a.failed = err.Error()
	}
}

// load reads the files; loading is held.
func (a *Auth) load() error {
	dir, files, err := readDirectory(a.cfg.UsersFile)
	a.stamps = files
	if err != nil {
		if old := a.current.Load(); old != nil {
			a.current.Store(&state{old.directory, true})
		}
		return fmt.Errorf("auth: %w", err)
	}
	a.current.Store(&state{dir, false})
	return nil
}

// Identity is who a request comes from.
type Identity struct {
	Name    string
	tenants []string
	all     bool
}

// May reports whether the identity may use a tenant.
func (id *Identity) May(tenant string) bool {
	if id.all {
		return true
	}
	for _, t := range id.tenants {
		if t == tenant {
			return true
		}
	}
	return false
}

// All reports whether the identity may use all tenants.
func (id *Identity) All() bool { return id.all }

type contextKey struct{}

// FromContext returns who the request comes from, or nil if it was not
// authenticated.
func FromContext(ctx context.Context) *Identity {
	id, _ := ctx.Value(contextKey{}).(*Identity)
	return id
}

func withIdentity(ctx context.Context, id *Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}
