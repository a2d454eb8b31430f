package chunkcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/storage/chunk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a server's client that does as it is told.
type fake struct {
	mu      sync.Mutex
	objects map[string][]byte
	fail    error
	delay   time.Duration
	gets    int
	sets    int
	pings   int
	closed  bool
}

func (f *fake) do(ctx context.Context, n *int) error {
	f.mu.Lock()
	*n++
	delay, fail := f.delay, f.fail
	f.mu.Unlock()
	select {
	case <-time.After(delay):
		return fail
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fake) get(ctx context.Context, key string) ([]byte, error) {
	if err := f.do(ctx, &f.gets); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.objects[key]
	if !ok {
		return nil, errMiss
	}
	return bytes.Clone(b), nil
}

func (f *fake) set(ctx context.Context, key string, object []byte) error {
	if err := f.do(ctx, &f.sets); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects[key] = bytes.Clone(object)
	return nil
}

func (f *fake) ping(ctx context.Context) error { return f.do(ctx, &f.pings) }

func (f *fake) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

func (f *fake) be(fail error, delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.delay = fail, delay
}

func (f *fake) stored() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.objects)
}

func (f *fake) count() (gets, sets, pings int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gets, f.sets, f.pings
}

func testConfig(kind string, addresses ...string) Config {
	cfg := DefaultConfig()
	cfg.Type, cfg.Addresses = kind, addresses
	return cfg
}

// fakes makes a cache over servers that are fakes.
func fakes(t testing.TB, cfg Config, d Deps) (*Cache, []*fake) {
	t.Helper()
	if errs := cfg.Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	var all []*fake
	c := newCache(cfg, d, func(string) client {
		f := &fake{objects: map[string][]byte{}}
		all = append(all, f)
		return f
	})
	t.Cleanup(c.Close)
	return c, all
}

// object returns an object of n bytes and its key.
func object(i, n int) (chunk.Key, []byte) {
	b := bytes.Repeat([]byte(fmt.Sprintf("%08d", i)), n/8+1)[:n]
	return chunk.Key{Tenant: "t", Fingerprint: uint64(i), From: 1, Through: 2, Checksum: chunk.Checksum(b)}, b
}

func counted(v *prometheus.CounterVec, label string) float64 {
	return testutil.ToFloat64(v.WithLabelValues(label))
}

func TestPutAndGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		c, servers := fakes(t, testConfig(Memcached, "a:1", "b:1", "c:1"), Deps{Metrics: reg})
		for i := range 60 {
			key, b := object(i, 100)
			if _, ok := c.Get(t.Context(), key); ok {
				t.Fatal("found before it was put")
			}
			c.Put(key, b)
			clear(b) // the caller's buffer is used again
			synctest.Wait()
		}
		synctest.Wait()
		for i := range 60 {
			key, b := object(i, 100)
			if got, ok := c.Get(t.Context(), key); !ok || !bytes.Equal(got, b) {
				t.Fatalf("%d: %v, %q", i, ok, got)
			}
		}
		for i, s := range servers {
			if n := s.stored(); n < 8 {
				t.Errorf("server %d has %d of 60 objects", i, n)
			}
		}
		for name, want := range map[string]float64{"hits": 60, "misses": 60, "read_bytes": 6000, "written_bytes": 6000} {
			if got := gathered(t, reg, "loki_go_chunkcache_"+name+"_total"); got != want {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
		if n := testutil.ToFloat64(c.m.queued); n != 0 {
			t.Errorf("%v bytes are queued", n)
		}
	})
}

func gathered(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	fams, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fams {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestCorrupt: what does not have the key's checksum is a miss.
func TestCorrupt(t *testing.T) {
	c, servers := fakes(t, testConfig(Redis, "a:1"), Deps{})
	key, b := object(1, 100)
	b[50]++
	servers[0].objects[key.String()] = b
	if _, ok := c.Get(t.Context(), key); ok {
		t.Fatal("a damaged object is a hit")
	}
	if testutil.ToFloat64(c.m.corrupt) != 1 || testutil.ToFloat64(c.m.misses) != 1 || testutil.ToFloat64(c.m.hits) != 0 {
		t.Fatal("not counted")
	}
}

func TestSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, servers := fakes(t, testConfig(Memcached, "a:1"), Deps{})
		put := func(n int) {
			key, b := object(n, n)
			c.Put(key, b)
			synctest.Wait()
		}
		put(1<<20 - 512)
		put(1<<20 - 511)
		if n := counted(c.m.skipped, tooLarge); n != 1 || servers[0].stored() != 1 {
			t.Fatalf("%v skipped, %d stored", n, servers[0].stored())
		}
		for _, tenant := range []string{strings.Repeat("t", 250), "with space", "ctrl\x01"} {
			key, b := object(5, 10)
			key.Tenant = tenant
			c.Put(key, b)
			if _, ok := c.Get(t.Context(), key); ok {
				t.Error("found what was skipped")
			}
		}
		if gets, sets, _ := servers[0].count(); counted(c.m.skipped, badKey) != 3 || gets != 0 || sets != 1 {
			t.Errorf("%v keys skipped, %d gets, %d sets", counted(c.m.skipped, badKey), gets, sets)
		}
		// The server's own limit is smaller than we know.
		servers[0].be(errTooLarge, 0)
		for i := range 10 {
			put(100 + i)
		}
		if n := counted(c.m.skipped, tooLarge); n != 11 || testutil.ToFloat64(c.m.down) != 0 {
			t.Errorf("%v skipped, %v servers down", n, testutil.ToFloat64(c.m.down))
		}
	})
}

// TestQueue: Put never waits, and what waits is bounded in bytes and number.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(Redis, "a:1", "b:1")
		cfg.QueueSize, cfg.Timeout = 20<<10, time.Hour
		c, servers := fakes(t, cfg, Deps{})
		for _, s := range servers {
			s.be(nil, time.Minute)
		}
		start := time.Now()
		for i := range 100 {
			key, b := object(i, 1<<10)
			c.Put(key, b)
		}
		if took := time.Since(start); took != 0 {
			t.Fatalf("Put waited %v", took)
		}
		if n := counted(c.m.dropped, queueFull); n != 80 {
			t.Fatalf("%v objects dropped, want 80", n)
		}
		if n := testutil.ToFloat64(c.m.queued); n != 20<<10 {
			t.Fatalf("%v bytes are queued", n)
		}
		time.Sleep(11 * time.Minute)
		if n := servers[0].stored() + servers[1].stored(); n != 20 {
			t.Fatalf("%d objects are stored", n)
		}
		for i := range 10 * queueLength { // tiny ones, by number
			key, b := object(i, 1)
			c.Put(key, b)
		}
		if n := counted(c.m.dropped, queueFull); n != 80+8*queueLength-2 && n != 80+8*queueLength {
			t.Fatalf("%v objects dropped", n)
		}
	})
}

// TestDown: a server that fails is left alone, costs nothing then, and is used
// again when it answers.
func TestDown(t *testing.T) {
	for _, slow := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			cfg := testConfig(Memcached, "a:1", "b:1")
			c, servers := fakes(t, cfg, Deps{Log: slog.New(slog.NewTextHandler(&log, nil))})
			at := func(server int) (chunk.Key, []byte) {
				for i := 0; ; i++ {
					if key, b := object(i, 100); c.place(key.String()) == server {
						return key, b
					}
				}
			}
			key, b := at(0)
			other, ob := at(1)
			c.Put(key, b)
			c.Put(other, ob)
			synctest.Wait()

			if slow {
				servers[0].be(nil, time.Hour)
			} else {
				servers[0].be(errors.New("connection refused"), 0)
			}
			start := time.Now()
			for range 1000 {
				if _, ok := c.Get(t.Context(), key); ok {
					t.Fatal("found on a server that does not answer")
				}
				c.Put(key, b)
				if _, ok := c.Get(t.Context(), other); !ok {
					t.Fatal("the other server's object is lost")
				}
			}
			if took := time.Since(start); took > time.Duration(cfg.Failures)*cfg.Timeout {
				t.Errorf("reads waited %v in all", took)
			}
			synctest.Wait()
			if gets, sets, _ := servers[0].count(); gets+sets > cfg.Failures+4 {
				t.Errorf("it was asked %d times after it failed", gets+sets)
			}
			if counted(c.m.dropped, serverOff) < 990 || testutil.ToFloat64(c.m.queued) != 0 || testutil.ToFloat64(c.m.down) != 1 {
				t.Errorf("%v dropped, %v bytes queued, %v down", counted(c.m.dropped, serverOff), testutil.ToFloat64(c.m.queued), testutil.ToFloat64(c.m.down))
			}
			time.Sleep(10 * cfg.RetryAfter)
			if _, _, pings := servers[0].count(); pings < 8 || pings > 10 {
				t.Errorf("%d pings in 10 pauses", pings)
			}
			servers[0].be(nil, 0)
			time.Sleep(cfg.RetryAfter + cfg.Timeout)
			synctest.Wait()
			if got, ok := c.Get(t.Context(), key); !ok || !bytes.Equal(got, b) {
				t.Error("not used again")
			}
			if n := testutil.ToFloat64(c.m.down); n != 0 {
				t.Errorf("%v servers down", n)
			}
			if n := strings.Count(log.String(), "\n"); n != 2 {
				t.Errorf("%d lines logged:\n%s", n, &log)
			}
		})
	}
}

// TestNotToBlame: a query that gives up, and an object that is refused, say
// nothing about the server.
func TestNotToBlame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, servers := fakes(t, testConfig(Redis, "a:1"), Deps{})
		servers[0].be(nil, 100*time.Millisecond)
		for i := range 10 {
			key, _ := object(i, 10)
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			c.Get(ctx, key)
			cancel()
		}
		servers[0].be(fmt.Errorf("%w: out of memory", errRefused), 0)
		for i := range 10 {
			key, b := object(i, 10)
			c.Put(key, b)
			synctest.Wait()
		}
		if n := testutil.ToFloat64(c.m.down); n != 0 {
			t.Fatal("the server is left alone")
		}
		if get, set := counted(c.m.errors, "get"), counted(c.m.errors, "set"); get != 0 || set != 10 {
			t.Fatalf("%v, %v errors", get, set)
		}
	})
}

// TestClose ends writes under way and drops the rest.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(Redis, "a:1")
		cfg.Timeout = time.Hour
		c, servers := fakes(t, cfg, Deps{})
		servers[0].be(nil, time.Hour)
		for i := range 5 {
			key, b := object(i, 10)
			c.Put(key, b)
		}
		synctest.Wait()
		start := time.Now()
		c.Close()
		if took := time.Since(start); took != 0 || !servers[0].closed {
			t.Fatalf("closed: %v, after %v", servers[0].closed, took)
		}
		key, b := object(9, 10)
		c.Put(key, b)
		if n := counted(c.m.dropped, closing); n != 5 {
			t.Fatalf("%v dropped, want 4 that waited and one that came later", n)
		}
	})
}

func TestNone(t *testing.T) {
	c, err := New(DefaultConfig(), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key, b := object(1, 10)
	c.Put(key, b)
	if _, ok := c.Get(t.Context(), key); ok {
		t.Fatal("found in no cache")
	}
	if n := testutil.ToFloat64(c.m.misses); n != 0 {
		t.Fatalf("%v misses of no cache", n)
	}
}

func TestConfig(t *testing.T) {
	good := testConfig(Memcached, "a:1", "[::1]:2")
	if errs := append(good.Validate(), DefaultConfig().Validate()...); len(errs) > 0 {
		t.Fatal(errs)
	}
	f := func(want string, change func(c *Config)) {
		t.Helper()
		c := good
		change(&c)
		if errs := c.Validate(); len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("%v, want %s", errs, want)
		}
		if _, err := New(c, Deps{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v, want %s", err, want)
		}
	}
	f("type:", func(c *Config) { c.Type = "groupcache" })
	f("placement:", func(c *Config) { c.Placement = "" })
	f("timeout:", func(c *Config) { c.Timeout = 0 })
	f("failures:", func(c *Config) { c.Failures = 0 })
	f("retry-after:", func(c *Config) { c.RetryAfter = -1 })
	f("expiration:", func(c *Config) { c.Expiration = time.Millisecond })
	f("max-item-size:", func(c *Config) { c.MaxItemSize = 1 << 30 })
	f("queue-size:", func(c *Config) { c.QueueSize = -1 })
	f("connections:", func(c *Config) { c.Connections = 0 })
	f("redis.db:", func(c *Config) { c.Redis.DB = -1 })
	f("tls.key-file:", func(c *Config) { c.TLS.CertFile = "x" })
	f("addresses: must be set", func(c *Config) { c.Addresses = nil })
	f("addresses: \"a\" is not HOST:PORT", func(c *Config) { c.Addresses = []string{"a"} })
	f("addresses: \"a:1\" is there twice", func(c *Config) { c.Addresses = []string{"a:1", "a:1"} })
	c := good
	c.TLS = TLS{Enabled: true, Client: tlsconf.Client{CAFile: "/does/not/exist"}}
	for _, c.Type = range []string{Memcached, Redis} {
		if _, err := New(c, Deps{}); err == nil || !strings.Contains(err.Error(), "tls.ca-file") {
			t.Errorf("a CA file that is missing: %v", err)
		}
	}
}
