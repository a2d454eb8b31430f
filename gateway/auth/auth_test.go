package auth

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shopHash was made by htpasswd -nbB -C 5; its password is "correct horse".
const shopHash = "$2y$05$0X4wDoRjVyDowoHpz7W6tesKdA7FQeVDlbC3IYdhikqT6A4kw44Z."

const apiToken = "token-of-the-api"

// users is a file with one of each kind.
var users = fmt.Sprintf(`
users:
  - name: shop
    password-hash: %s
    tenants: [shop]
  - name: ops
    password-file: ops.password
    tenants: [ops, shop]
  - name: admin
    password: "plain: one"
    tenants: ["*"]
tokens:
  - {name: ci, token: token-of-ci, tenants: [ci]}
  - {name: api, token-sha256: %s, tenants: [api, shop]}
`, shopHash, hex.EncodeToString(sum(apiToken)))

func sum(s string) []byte { d := sha256.Sum256([]byte(s)); return d[:] }

// env is an Auth with files and a clock.
type env struct {
	t   *testing.T
	a   *Auth
	dir string
	now atomic.Int64
	log bytes.Buffer
	reg *prometheus.Registry
}

func (e *env) file() string { return filepath.Join(e.dir, "users.yaml") }

// write replaces a file, as those who provision files do.
func (e *env) write(name, text string) {
	e.t.Helper()
	tmp := filepath.Join(e.dir, ".tmp")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(e.dir, name)); err != nil {
		e.t.Fatal(err)
	}
}

func newEnv(t *testing.T, text string, change func(cfg *Config)) *env {
	t.Helper()
	e := &env{t: t, dir: t.TempDir(), reg: prometheus.NewRegistry()}
	e.now.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	e.write("users.yaml", text)
	e.write("ops.password", "secret\n")
	cfg := DefaultConfig()
	cfg.UsersFile = e.file()
	if change != nil {
		change(&cfg)
	}
	var err error
	e.a, err = New(Deps{
		Log: slog.New(slog.NewTextHandler(&e.log, nil)), Metrics: e.reg,
		Now: func() time.Time { return time.Unix(0, e.now.Load()) },
	}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// later lets the files be looked at again.
func (e *env) later() { e.now.Add(int64(lookEvery)) }

func basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

func apiKey(name, password string) string {
	return "ApiKey" + strings.TrimPrefix(basic(name, password), "Basic")
}

// get sends a request and returns the status and what the handler saw.
func (e *env) get(path, authorization, tenant string) (status int, seen *http.Request) {
	e.t.Helper()
	h := e.a.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen = r }))
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader("body"))
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	if tenant != "" {
		r.Header.Set("X-Scope-OrgID", tenant)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
		e.t.Error("401 without a challenge")
	}
	if w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") != "5" {
		e.t.Error("503 without Retry-After")
	}
	return w.Code, seen
}

// want sends a push and checks the status, and the tenant if it is let in.
func (e *env) want(authorization, tenant string, status int, got string) {
	e.t.Helper()
	code, r := e.get("/loki/api/v1/push", authorization, tenant)
	if code != status || (r != nil) != (status == 200) {
		e.t.Fatalf("%q for %q: %d, want %d", authorization, tenant, code, status)
	}
	if r == nil {
		return
	}
	if v := r.Header.Values("X-Scope-OrgID"); strings.Join(v, ",") != got {
		e.t.Fatalf("%q for %q: tenant %q, want %q", authorization, tenant, v, got)
	}
	if r.Header.Get("Authorization") != "" {
		e.t.Fatal("the handler sees the credentials")
	}
	if id := FromContext(r.Context()); id == nil || got != "" && !id.May(got) {
		e.t.Fatalf("identity %+v", id)
	}
}

func TestHTTP(t *testing.T) {
	e := newEnv(t, users, nil)
	// Basic, with each kind of password.
	e.want(basic("shop", "correct horse"), "", 200, "shop")
	e.want(basic("shop", "correct horse"), "shop", 200, "shop")
	e.want(basic("shop", "correct horse"), "ops", 403, "")
	e.want(basic("shop", "correct horse"), "shop|ops", 403, "")
	e.want(basic("shop", "correct horse!"), "", 401, "")
	e.want(basic("shop", ""), "", 401, "")
	e.want(basic("ops", "secret"), "", 200, "ops")
	e.want(basic("ops", "secret"), "shop", 200, "shop")
	e.want(basic("ops", "secret\n"), "", 401, "")
	e.want(basic("admin", "plain: one"), "whatever", 200, "whatever")
	e.want(basic("admin", "plain: one"), "", 200, "") // receivers ask for one
	e.want(basic("admin", "plain"), "whatever", 401, "")
	e.want(basic("nobody", "correct horse"), "", 401, "")
	e.want(basic("", ""), "", 401, "")
	// Bearer.
	e.want("Bearer token-of-ci", "", 200, "ci")
	e.want("bearer  token-of-ci ", "", 200, "ci")
	e.want("Bearer token-of-ci", "shop", 403, "")
	e.want("Bearer "+apiToken, "shop", 200, "shop")
	e.want("Bearer token-of-cj", "", 401, "")
	e.want("Bearer "+hex.EncodeToString(sum(apiToken)), "", 401, "")
	e.want("Bearer plain: one", "", 401, "")
	// ApiKey: a token, or a user's name and password.
	e.want("ApiKey token-of-ci", "", 200, "ci")
	e.want(apiKey("shop", "correct horse"), "", 200, "shop")
	e.want(apiKey("shop", "incorrect"), "", 401, "")
	// A token is not a password, nor the reverse.
	e.want(basic("ci", "token-of-ci"), "", 401, "")
	e.want("Bearer secret", "", 401, "")
	// No credentials at all.
	for _, h := range []string{"", "Basic", "Basic ", "Basic !!!", "Basic " + base64.StdEncoding.EncodeToString([]byte("no colon")), "Digest x", "Bearer ", "Negotiate abc=="} {
		e.want(h, "shop", 401, "")
	}
}

func TestSeveralHeaders(t *testing.T) {
	e := newEnv(t, users, nil)
	f := func(status int, authorization, tenants []string) {
		t.Helper()
		h := e.a.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if v := r.Header.Values("X-Scope-OrgID"); len(v) != 1 {
				t.Errorf("tenants %q", v)
			}
		}))
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Authorization"], r.Header["X-Scope-Orgid"] = authorization, tenants
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != status {
			t.Errorf("%q, %q: %d, want %d", authorization, tenants, w.Code, status)
		}
	}
	ops, shop := basic("ops", "secret"), basic("shop", "correct horse")
	f(401, []string{ops, shop}, nil)
	f(401, []string{shop, shop}, nil)
	f(200, []string{shop}, []string{"shop", "shop"})
	f(403, []string{shop}, []string{"shop", "ops"})
	f(403, []string{ops}, []string{"shop", "ops"}) // which of them?
}

func TestExempt(t *testing.T) {
	e := newEnv(t, users, func(cfg *Config) { cfg.Exempt = append(cfg.Exempt, "/open") })
	for path, want := range map[string]int{
		"/ready": 200, "/metrics": 200, "/open": 200, "/open/": 401, "/ready/x": 401, "/": 401, "//ready": 401, "/x/../ready": 401,
	} {
		if got, _ := e.get(path, "", ""); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

func TestNothingToCheck(t *testing.T) {
	a, err := New(Deps{}, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	var seen *http.Request
	h := a.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r }))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Basic whatever")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if seen == nil || seen.Header.Get("Authorization") == "" || FromContext(seen.Context()) != nil {
		t.Error("a request was touched")
	}
}

func TestPatternIsSeenOutside(t *testing.T) {
	e := newEnv(t, users, nil)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /loki/api/v1/push", func(http.ResponseWriter, *http.Request) {})
	r := httptest.NewRequest(http.MethodPost, "/loki/api/v1/push", nil)
	r.Header.Set("Authorization", "Bearer token-of-ci")
	e.a.Wrap(mux).ServeHTTP(httptest.NewRecorder(), r)
	if r.Pattern != "POST /loki/api/v1/push" {
		t.Errorf("pattern %q", r.Pattern)
	}
	if r.Header.Get("Authorization") == "" {
		t.Error("the request of whoever has wrapped this was changed")
	}
}

func TestRetryRefused(t *testing.T) {
	e := newEnv(t, users, func(cfg *Config) { cfg.RetryRefused = true })
	e.want(basic("shop", "wrong"), "", 503, "")
	e.want(basic("shop", "correct horse"), "ops", 503, "")
	e.want("", "", 503, "")
	e.want(basic("shop", "correct horse"), "", 200, "shop")
}

func TestReload(t *testing.T) {
	e := newEnv(t, users, nil)
	old := basic("shop", "correct horse")
	e.want(old, "", 200, "shop")

	// A change takes effect, but not before the files are looked at.
	e.write("users.yaml", "users: [{name: shop, password: new, tenants: [shop2]}]")
	e.want(old, "", 200, "shop")
	e.later()
	e.want(basic("shop", "new"), "", 200, "shop2")
	e.want(old, "", 401, "")
	e.want("Bearer token-of-ci", "", 401, "")

	// So does one of a file that it refers to.
	e.write("users.yaml", users)
	e.later()
	e.want(basic("ops", "secret"), "", 200, "ops")
	e.write("ops.password", "other")
	e.later()
	e.want(basic("ops", "secret"), "", 401, "")
	e.want(basic("ops", "other"), "", 200, "ops")
	if n := testutil.ToFloat64(e.a.reloads.WithLabelValues("ok")); n != 3 {
		t.Errorf("%v reloads", n)
	}

	// Reload does not wait for that.
	e.write("users.yaml", "users: [{name: a, password: b, tenants: [c]}]")
	if err := e.a.Reload(); err != nil {
		t.Fatal(err)
	}
	e.want(basic("a", "b"), "", 200, "c")
}

func TestUnusableFile(t *testing.T) {
	for name, spoil := range map[string]func(e *env){
		"gone":           func(e *env) { must(t, os.Remove(e.file())) },
		"a directory":    func(e *env) { must(t, os.Remove(e.file())); must(t, os.Mkdir(e.file(), 0o700)) },
		"broken":         func(e *env) { e.write("users.yaml", "users: [") },
		"password gone":  func(e *env) { must(t, os.Remove(filepath.Join(e.dir, "ops.password"))) },
		"password empty": func(e *env) { e.write("ops.password", "\n") },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, users, nil)
			spoil(e)
			for range 3 {
				e.later()
				// Those who were known stay so. Others may be in the file.
				e.want(basic("shop", "correct horse"), "", 200, "shop")
				e.want(basic("shop", "changed"), "", 503, "")
				e.want(basic("new", "x"), "", 503, "")
				e.want(basic("shop", "correct horse"), "ops", 503, "")
				e.want("Bearer new", "", 503, "")
				e.want("", "", 401, "")
			}
			if n := strings.Count(e.log.String(), "cannot be used"); n != 1 {
				t.Errorf("%d lines:\n%s", n, &e.log)
			}
			if v := gauge(t, e.reg, "loki_go_auth_users_file_usable"); v != 0 {
				t.Errorf("usable: %v", v)
			}
			if err := e.a.Reload(); err == nil {
				t.Error("Reload succeeds")
			}
			_ = os.Remove(e.file())
			e.write("users.yaml", "users: [{name: new, password: x, tenants: [y]}]")
			e.later()
			e.want(basic("new", "x"), "", 200, "y")
			e.want(basic("shop", "correct horse"), "", 401, "")
			if v := gauge(t, e.reg, "loki_go_auth_users_file_usable"); v != 1 {
				t.Errorf("usable: %v", v)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestRefusalsAreCountedAndLogged(t *testing.T) {
	e := newEnv(t, users, nil)
	e.want("", "", 401, "")
	e.want(basic("shop", "hunter2"), "", 401, "")
	e.want(basic("shop", "correct horse"), "ops", 403, "")
	for _, reason := range []string{"no_credentials", "bad_credentials", "wrong_tenant"} {
		if n := testutil.ToFloat64(e.a.refused.WithLabelValues(reason)); n != 1 {
			t.Errorf("%s: %v", reason, n)
		}
	}
	out := e.log.String()
	for _, want := range []string{"reason=bad_credentials user=shop", "reason=wrong_tenant user=shop tenant=[ops]", "peer=192.0.2.1:1234"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in the log:\n%s", want, out)
		}
	}
	for _, secret := range []string{"hunter2", "correct horse"} {
		if strings.Contains(out, secret) {
			t.Errorf("%q is in the log:\n%s", secret, out)
		}
	}
}

func TestNewFails(t *testing.T) {
	cfg := DefaultConfig()
	cfg.UsersFile = filepath.Join(t.TempDir(), "none.yaml")
	if _, err := New(Deps{}, cfg); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("got %v", err)
	}
	cfg = DefaultConfig()
	cfg.Exempt = []string{"ready"}
	if _, err := New(Deps{}, cfg); err == nil {
		t.Error("a bad path was accepted")
	}
	e := newEnv(t, users, nil)
	if _, err := New(Deps{Metrics: e.reg}, e.a.cfg); err == nil {
		t.Error("metrics were registered twice")
	}
}

func TestConfigBinds(t *testing.T) {
	cfg := DefaultConfig()
	b, err := config.Bind(&cfg)
	must(t, err)
	got := ""
	for _, s := range b.Settings() {
		got += s.Name + "=" + s.Default + ";"
		if s.Help == "" {
			t.Errorf("%s has no help", s.Name)
		}
	}
	if want := "users-file=;exempt=/ready,/metrics;retry-refused=false;"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func BenchmarkWrap(b *testing.B) {
	t := &testing.T{}
	e := &env{t: t, dir: b.TempDir()}
	e.write("users.yaml", users)
	e.write("ops.password", "secret\n")
	cfg := DefaultConfig()
	cfg.UsersFile = e.file()
	a, err := New(Deps{}, cfg)
	if err != nil {
		b.Fatal(err)
	}
	h := a.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for name, authorization := range map[string]string{
		"bcrypt": basic("shop", "correct horse"), "plain": basic("ops", "secret"), "token": "Bearer token-of-ci",
	} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodPost, "/loki/api/v1/push", nil)
			r.Header.Set("Authorization", authorization)
			w := httptest.NewRecorder()
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
			if w.Code != 200 {
				b.Fatal(w.Code)
			}
		})
	}
}
