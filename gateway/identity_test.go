package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/loki-go/loki-go/gateway/auth"
	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/proto/push"
)

// TestTenantOfARecordMustBeTheUsers: a tenant that follows from a record, or is
// in a message, counts like one that the request names.
func TestTenantOfARecordMustBeTheUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(file, []byte("tokens: [{name: ci, token: t, tenants: [a, b]}, {name: all, token: u, tenants: ['*']}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := auth.New(auth.Deps{}, auth.Config{UsersFile: file})
	if err != nil {
		t.Fatal(err)
	}
	e := newEnv(t, 1, func(cfg *Config, _ *limits.Limits) { cfg.AuthEnabled = true })
	pushAs := func(ctx context.Context, tenant string) error {
		b := e.batch(one(lone, at(0, "x")))
		defer b.Release()
		b.Tenant = tenant
		return e.g.Push(ctx, b)
	}
	f := func(token, tenant string, ok bool) {
		t.Helper()
		called := false
		h := a.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			called = true
			err := pushAs(r.Context(), tenant)
			var pe *push.Error
			if ok && err != nil || !ok && (!errors.As(err, &pe) || pe.Reason != push.InvalidTenant) {
				t.Errorf("%s pushes for %s: %v", token, tenant, err)
			}
		}))
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		h.ServeHTTP(httptest.NewRecorder(), r)
		if !called {
			t.Error("not admitted")
		}
	}
	f("t", "a", true)
	f("t", "b", true)
	f("t", "c", false)
	f("u", "c", true)
	if err := pushAs(t.Context(), "c"); err != nil { // by a protocol with credentials of its own
		t.Error(err)
	}
	// Without tenants there is nothing to keep apart.
	e.g.cfg.AuthEnabled = false
	f("t", "c", true)
}
