//go:build integration

package chunkcache

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/internal/units"
)

var kinds = []string{Memcached, Redis}

// written waits until all that was put is written.
func written(t testing.TB, c *Cache) {
	t.Helper()
	eventually(t, "writing", func() bool { return testutil.ToFloat64(c.m.queued) == 0 })
}

// TestRealRoundTrip: objects of all sizes up to the limit come back as they
// were, from as many servers.
func TestRealRoundTrip(t *testing.T) {
	for _, kind := range kinds {
		for _, n := range []int{1, 3} {
			var addresses []string
			for range n {
				addresses = append(addresses, startBackend(t, kind).address())
			}
			c := open(t, kind, func(cfg *Config) {
				if kind == Redis {
					cfg.MaxItemSize = 4 * units.MiB
				}
			}, addresses...)
			sizes := []int{0, 1, 100, 4096, 100_000, 700_000, c.maxItem - 1, c.maxItem}
			for i, size := range sizes {
				key, b := object(i, size)
				key.Tenant = strings.Repeat("t", 180) // memcached counts the key
				if _, ok := c.Get(t.Context(), key); ok {
					t.Fatalf("%s: found before it was put", describe(kind, n))
				}
				c.Put(key, b)
			}
			written(t, c)
			for i, size := range sizes {
				key, b := object(i, size)
				key.Tenant = strings.Repeat("t", 180)
				got, ok := c.Get(t.Context(), key)
				if !ok || !bytes.Equal(got, b) {
					t.Errorf("%s: %d bytes: found: %v, %d bytes", describe(kind, n), size, ok, len(got))
				}
			}
			if sets, gets := counted(c.m.errors, "set"), counted(c.m.errors, "get"); sets+gets+counted(c.m.skipped, tooLarge) != 0 {
				t.Errorf("%s: %v, %v errors, %v skipped", describe(kind, n), sets, gets, counted(c.m.skipped, tooLarge))
			}
			key, b := object(100, c.maxItem+1)
			c.Put(key, b)
			if counted(c.m.skipped, tooLarge) != 1 {
				t.Errorf("%s: an object above the limit is not skipped", describe(kind, n))
			}
		}
	}
}

// TestRealItemLimit: a memcached with a smaller limit than it is said to have.
func TestRealItemLimit(t *testing.T) {
	b := startBackend(t, Memcached, "-I", "512k")
	c := open(t, Memcached, nil, b.address())
	for i := range 10 {
		key, b := object(i, 600<<10)
		c.Put(key, b)
	}
	small, ob := object(100, 1000)
	c.Put(small, ob)
	written(t, c)
	if n := counted(c.m.skipped, tooLarge); n != 10 || testutil.ToFloat64(c.m.down) != 0 {
		t.Errorf("%v skipped, %v down", n, testutil.ToFloat64(c.m.down))
	}
	if _, ok := c.Get(t.Context(), small); !ok {
		t.Error("a small object is not found")
	}
}

// TestRealRedisFull: a Redis that takes no more is still read.
func TestRealRedisFull(t *testing.T) {
	b := startBackend(t, Redis, "--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
	c := open(t, Redis, nil, b.address())
	first, ob := object(0, 1000)
	c.Put(first, ob)
	written(t, c)
	for i := range 10 {
		key, b := object(1+i, 1<<20)
		c.Put(key, b)
	}
	written(t, c)
	if n := counted(c.m.errors, "set"); n < 5 || testutil.ToFloat64(c.m.down) != 0 {
		t.Errorf("%v errors, %v down", n, testutil.ToFloat64(c.m.down))
	}
	if _, ok := c.Get(t.Context(), first); !ok {
		t.Error("what was stored before is not found")
	}
}

// TestRealExpiration: chunks go after their time.
func TestRealExpiration(t *testing.T) {
	for _, kind := range kinds {
		b := startBackend(t, kind)
		c := open(t, kind, func(cfg *Config) { cfg.Expiration = time.Second }, b.address())
		key, ob := object(1, 100)
		c.Put(key, ob)
		written(t, c)
		eventually(t, kind+": expiry", func() bool {
			_, ok := c.Get(t.Context(), key)
			return !ok
		})
		if testutil.ToFloat64(c.m.down) != 0 || counted(c.m.errors, "get") != 0 {
			t.Errorf("%s: a miss is an error", kind)
		}
	}
}

// TestRealRestart: a server that was restarted is empty and in use, one that
// was away comes back.
func TestRealRestart(t *testing.T) {
	for _, kind := range kinds {
		b := startBackend(t, kind)
		c := open(t, kind, nil, b.address())
		key, ob := object(1, 100_000)
		put := func() {
			t.Helper()
			eventually(t, kind+": put", func() bool {
				c.Put(key, ob)
				written(t, c)
				_, ok := c.Get(t.Context(), key)
				return ok
			})
		}
		put()
		b.kill()
		b.start()
		if _, ok := c.Get(t.Context(), key); ok {
			t.Fatalf("%s: found on an empty server", kind)
		}
		if n := counted(c.m.errors, "get"); n != 0 {
			t.Errorf("%s: idle connections that broke count as %v errors", kind, n)
		}
		put()
		b.kill()
		eventually(t, kind+": being left alone", func() bool {
			c.Get(t.Context(), key)
			return testutil.ToFloat64(c.m.down) == 1
		})
		b.start()
		eventually(t, kind+": coming back", func() bool { return testutil.ToFloat64(c.m.down) == 0 })
		put()
	}
}

// TestRealTLS: both speak TLS, and check the server's certificate.
func TestRealTLS(t *testing.T) {
	certs := testcert.New(t)
	for _, kind := range kinds {
		var b *backend
		if kind == Memcached {
			b = startBackend(t, kind, "-Z", "-o", "ssl_chain_cert="+certs.Cert+",ssl_key="+certs.Key)
		} else {
			b = startTLSRedis(t, certs)
		}
		with := func(c tlsconf.Client) *Cache {
			return open(t, kind, func(cfg *Config) { cfg.TLS = TLS{Enabled: true, Client: c} }, b.address())
		}
		c := with(tlsconf.Client{CAFile: certs.CA})
		key, ob := object(1, 700_000)
		c.Put(key, ob)
		written(t, c)
		if got, ok := c.Get(t.Context(), key); !ok || !bytes.Equal(got, ob) {
			t.Errorf("%s: not found over TLS", kind)
		}
		c = with(tlsconf.Client{})
		if _, ok := c.Get(t.Context(), key); ok || counted(c.m.errors, "get") != 1 {
			t.Errorf("%s: a server with an unknown certificate is trusted", kind)
		}
	}
}

func startTLSRedis(t testing.TB, certs *testcert.Certs) *backend {
	t.Helper()
	b := &backend{t: t, kind: Redis, port: testkit.FreePort(t)}
	b.args = []string{
		"--tls-port", strconv.Itoa(b.port), "--port", "0", "--tls-auth-clients", "no",
		"--tls-cert-file", certs.Cert, "--tls-key-file", certs.Key, "--tls-ca-cert-file", certs.CA,
	}
	t.Cleanup(b.kill)
	b.start()
	return b
}

// TestRealRedisSettings: password and database.
func TestRealRedisSettings(t *testing.T) {
	b := startBackend(t, Redis, "--requirepass", "s3cret")
	with := func(password string, db int) *Cache {
		return open(t, Redis, func(cfg *Config) { cfg.Redis = RedisConfig{Password: password, DB: db} }, b.address())
	}
	c := with("s3cret", 3)
	key, ob := object(1, 100)
	c.Put(key, ob)
	written(t, c)
	if _, ok := c.Get(t.Context(), key); !ok {
		t.Error("not found with the password")
	}
	if _, ok := with("s3cret", 4).Get(t.Context(), key); ok {
		t.Error("found in another database")
	}
	if c := with("wrong", 3); !failsWithin(t.Context(), c, 3) {
		t.Error("a wrong password is no failure")
	}
}

// failsWithin reports whether n reads are failures after which the server is
// left alone.
func failsWithin(ctx context.Context, c *Cache, n int) bool {
	for i := range n {
		key, _ := object(i, 10)
		if _, ok := c.Get(ctx, key); ok {
			return false
		}
	}
	return counted(c.m.errors, "get") == float64(n) && testutil.ToFloat64(c.m.down) == 1
}
