package server

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOperationsAreNotForTenants: who may use one tenant may not end the process,
// or look into the memory that it has for all.
func TestOperationsAreNotForTenants(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users.yaml")
	text := `users: [{name: shop, password: one, tenants: [shop]}, {name: admin, password: two, tenants: ["*"]}]`
	if err := os.WriteFile(users, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := openServer(t, func(c *Config) { c.Auth.Enabled, c.Auth.UsersFile = true, users })
	do := func(method, path, user, password string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(within(t), method, "http://"+s.HTTPAddr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			req.SetBasicAuth(user, password)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, o := range []string{
		"GET /config", "POST /log_level?log_level=info", "GET /debug/pprof/", "GET /debug/pprof/heap", "GET /debug/pprof/symbol", "POST /flush",
	} {
		method, path, _ := strings.Cut(o, " ")
		if got := do(method, path, "", ""); got != http.StatusUnauthorized {
			t.Errorf("%s without credentials: %d", o, got)
		}
		if got := do(method, path, "shop", "one"); got != http.StatusForbidden {
			t.Errorf("%s with those of a tenant: %d", o, got)
		}
		if got := do(method, path, "admin", "two"); got >= 300 && got != http.StatusServiceUnavailable { // it may be replaying
			t.Errorf("%s with those of all: %d", o, got)
		}
	}
	if got := do("POST", "/ingester/shutdown", "shop", "one"); got != http.StatusForbidden {
		t.Errorf("shutdown with the credentials of a tenant: %d", got)
	}
	if got := do("GET", "/services", "shop", "one"); got != http.StatusOK {
		t.Errorf("services with the credentials of a tenant: %d", got)
	}
	if got := do("GET", "/debug/pprof/cmdline", "admin", "two"); got != http.StatusNotFound {
		t.Errorf("the command line, which may have secrets: %d", got)
	}
}

// TestClusterSecret: where clients need credentials there must be no door without.
func TestClusterSecret(t *testing.T) {
	f := func(want bool, change func(*Config)) {
		t.Helper()
		c := DefaultConfig()
		c.Ring.Store, c.Storage.Type, c.Storage.S3.Bucket = "consul", "s3", "logs"
		c.Auth.Enabled, c.Auth.UsersFile = true, "users.yaml"
		change(&c)
		got := false
		for _, err := range c.Validate() {
			got = got || strings.HasPrefix(err.Error(), "cluster.secret: ")
		}
		if got != want {
			t.Errorf("cluster.secret is missing: %v, want %v", got, want)
		}
	}
	f(true, func(*Config) {})
	f(true, func(c *Config) { c.Target = targetIngester })
	f(false, func(c *Config) { c.Cluster.Secret = "s" })
	f(false, func(c *Config) { c.Target = targetGateway })
	f(false, func(c *Config) { c.Auth.UsersFile = "" })
	f(false, func(c *Config) { c.Ring.Store = "memory" })
}
