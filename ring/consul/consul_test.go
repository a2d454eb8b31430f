package consul

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/testkit/fakeconsul"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/ring/ringtest"
)

func fakeConfig(s *fakeconsul.Server) Config {
	c := DefaultConfig()
	c.Address, c.SessionTTL, c.Wait, c.Timeout = s.Addr, time.Second, 10*time.Second, 2*time.Second
	return c
}

func openFake(t *testing.T, cfg Config, d Deps) *Membership {
	t.Helper()
	m, err := Open(cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func minute(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

func active(id string, generation int64) ring.Instance {
	return ring.Instance{ID: id, Addr: "10.0.0.1:9095", Zone: "z", State: ring.Active, Generation: generation}
}

func TestAcceptance(t *testing.T) {
	ringtest.Acceptance(t, func(t *testing.T) (ring.Membership, ring.Membership) {
		cfg := fakeConfig(fakeconsul.New(t))
		return openFake(t, cfg, Deps{Owner: "o"}), openFake(t, cfg, Deps{Owner: "o"})
	})
}

func TestEntersAgain(t *testing.T) {
	for name, lose := range map[string]func(*fakeconsul.Server){
		"expired": (*fakeconsul.Server).ExpireAll,
		"wiped":   (*fakeconsul.Server).Wipe,
	} {
		t.Run(name, func(t *testing.T) {
			s := fakeconsul.New(t)
			reg := prometheus.NewRegistry()
			m := openFake(t, fakeConfig(s), Deps{Metrics: reg})
			in := active("a", 1)
			if err := m.Register(minute(t), in); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				lose(s)
				eventually(t, "the key", func() bool { return len(s.Keys()) == 1 })
				eventually(t, "the service", func() bool { return s.Services()["loki-go-a"] == "passing" })
			}
			ringtest.Await(t, m, "the instance", ringtest.Has(in))
			m.Close()
			if n, err := reg.Gather(); err != nil || len(n) > 0 {
				t.Fatalf("metrics stay after Close: %v, %v", n, err)
			}
		})
	}
}

// TestHungRenewal: a renewal that gets no answer is tried again before the session
// can expire, however long other requests may take.
func TestHungRenewal(t *testing.T) {
	s := fakeconsul.New(t)
	cfg := fakeConfig(s)
	cfg.Timeout = time.Hour
	var tried atomic.Int32
	s.SetHook(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v1/session/renew/") && tried.Add(1) == 1 {
			<-r.Context().Done()
			return true
		}
		return false
	})
	m := openFake(t, cfg, Deps{})
	if err := m.Register(minute(t), active("a", 1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another renewal", func() bool { return tried.Load() > 1 })
	cfg.Timeout, cfg.SessionTTL = 5*time.Second, 15*time.Second
	if got := cfg.renewTimeout(); got != 5*time.Second {
		t.Errorf("a renewal may take %v, want what any request may", got)
	}
}

// TestWipedRing follows a Consul that loses its data: members stay for a while.
func TestWipedRing(t *testing.T) {
	s := fakeconsul.New(t)
	cfg := fakeConfig(s)
	reader := openFake(t, cfg, Deps{})
	dead := openFake(t, cfg, Deps{})
	a := active("a", 1)
	if err := dead.Register(minute(t), a); err != nil {
		t.Fatal(err)
	}
	ringtest.Await(t, reader, "the instance", ringtest.Has(a))
	dead.Close() // it will not come back
	s.Wipe()
	eventually(t, "the loss to be noticed", func() bool {
		st := reader.Status()
		return len(st.Members) == 1 && st.Members[0].Missing && !st.Members[0].Deadline.IsZero()
	})
	ringtest.Await(t, reader, "the end of what is missing", ringtest.Has())
}

// TestWatchErrors answers the watch with every kind of nonsense: the ring stays
// as it is, and the watch is not a storm.
func TestWatchErrors(t *testing.T) {
	isList := func(r *http.Request) bool { return strings.Contains(r.URL.RawQuery, "recurse") }
	for name, fault := range map[string]fakeconsul.Hook{
		"500": func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return true
		},
		"403": func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return true
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) bool { fmt.Fprint(w, "<html>"); return true },
		"cut":     func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
		"stale for ever": func(w http.ResponseWriter, r *http.Request) bool {
			if _, ok := r.URL.Query()["stale"]; !ok {
				http.Error(w, "No cluster leader", http.StatusInternalServerError)
				return true
			}
			w.Header().Set("X-Consul-Index", "3")
			w.Header().Set("X-Consul-Knownleader", "true")
			w.Header().Set("X-Consul-Lastcontact", "3600000")
			fmt.Fprint(w, "[]")
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := fakeconsul.New(t)
			m := openFake(t, fakeConfig(s), Deps{})
			a := active("a", 1)
			if err := m.Register(minute(t), a); err != nil {
				t.Fatal(err)
			}
			ringtest.Await(t, m, "the instance", ringtest.Has(a))
			var mu sync.Mutex
			lists := 0
			s.SetHook(func(w http.ResponseWriter, r *http.Request) bool {
				if !isList(r) {
					return false
				}
				mu.Lock()
				lists++
				mu.Unlock()
				return fault(w, r)
			})
			s.Put("loki-go/ring/x", "wakes the watch")
			begin := time.Now()
			eventually(t, "the watch to fail", func() bool { return m.Status().Stale })
			eventually(t, "some attempts", func() bool { mu.Lock(); defer mu.Unlock(); return lists >= 4 })
			mu.Lock()
			n := lists
			mu.Unlock()
			// Two requests for an attempt at most, and pauses of at least 50 ms.
			if most := 4 + int(time.Since(begin)/(25*time.Millisecond)); n > most {
				t.Errorf("%d requests in %s", n, time.Since(begin))
			}
			if st := m.Status(); len(st.Members) != 1 || st.Problem == "" {
				t.Errorf("status %+v", st)
			}
			if !ringtest.Has(a)(m.Current()) || m.staleValue() != 1 || m.contactAge() < 0 {
				t.Errorf("the ring is %v", m.Current().Instances())
			}
			s.SetHook(nil)
			eventually(t, "the watch to work", func() bool { return !m.Status().Stale })
			if !ringtest.Has(a)(m.Current()) {
				t.Errorf("the ring is %v", m.Current().Instances())
			}
		})
	}
}

// TestAnswersAreBounded gets an answer without an end.
func TestAnswersAreBounded(t *testing.T) {
	sent := make(chan int, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n, err := 0, error(nil)
		for ; err == nil; n++ {
			_, err = w.Write(bytes.Repeat([]byte("[ "), 500))
		}
		sent <- n
	}))
	defer srv.Close()
	for range 2 {
		tr := &transport{base: http.DefaultTransport, most: 1 << 20}
		req, err := http.NewRequestWithContext(minute(t), http.MethodGet, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if n != 1<<20 || !errors.Is(err, errTooLarge) {
			t.Errorf("read %d bytes, %v", n, err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		<-sent
	}
}

// TestStaleServer turns to the leader when the server that answers has not
// heard of it for long.
func TestStaleServer(t *testing.T) {
	s := fakeconsul.New(t)
	s.SetHook(func(w http.ResponseWriter, r *http.Request) bool {
		if _, ok := r.URL.Query()["stale"]; !ok {
			return false
		}
		w.Header().Set("X-Consul-Index", "3")
		w.Header().Set("X-Consul-Knownleader", "true")
		w.Header().Set("X-Consul-Lastcontact", "60000")
		fmt.Fprint(w, "[]")
		return true
	})
	m := openFake(t, fakeConfig(s), Deps{})
	a := active("a", 1)
	if err := m.Register(minute(t), a); err != nil {
		t.Fatal(err)
	}
	ringtest.Await(t, m, "what the leader knows", ringtest.Has(a))
}

// TestNoStorm counts requests while nothing happens but changes of the store
// that are not of the ring.
func TestNoStorm(t *testing.T) {
	s := fakeconsul.New(t)
	m := openFake(t, fakeConfig(s), Deps{})
	eventually(t, "the first list", func() bool { return !m.Status().Contact.IsZero() })
	before, begin := len(s.Requests()), time.Now()
	for time.Since(begin) < time.Second {
		s.Put("elsewhere", "x")
		time.Sleep(time.Millisecond)
	}
	if n := len(s.Requests()) - before; n > 15 {
		t.Errorf("%d requests in a second without news", n)
	}
}

func TestRegisterFails(t *testing.T) {
	s := fakeconsul.New(t)
	cfg := fakeConfig(s)
	m := openFake(t, cfg, Deps{})
	for id, want := range map[string]string{
		"": "1 to 128", "a/b": "letters", "..": "dots", strings.Repeat("x", 129): "1 to 128", "ä": "letters",
	} {
		if err := m.Register(minute(t), ring.Instance{ID: id}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	s.SetHook(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/session/create" {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return true
		}
		return false
	})
	if err := m.Register(minute(t), active("a", 1)); err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("not allowed: %v", err)
	}
	// What may pass is tried again until the context ends.
	tries := make(chan struct{}, 100)
	s.SetHook(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/session/create" {
			tries <- struct{}{}
			http.Error(w, "rpc error: No cluster leader", http.StatusInternalServerError)
			return true
		}
		return false
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-tries
		<-tries
		cancel()
	}()
	if err := m.Register(ctx, active("a", 1)); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "No cluster leader") {
		t.Errorf("no leader: %v", err)
	}
	s.SetHook(nil)
	if len(s.Keys()) > 0 {
		t.Errorf("keys %v", s.Keys())
	}
	if err := m.Register(minute(t), active("a", 1)); err != nil {
		t.Error(err)
	}
	m.Close()
	if err := m.Register(minute(t), active("b", 1)); err == nil {
		t.Error("registered after Close")
	}
}

// TestUpdateWhileAway makes a change while Consul fails: it is made up for.
func TestUpdateWhileAway(t *testing.T) {
	s := fakeconsul.New(t)
	m := openFake(t, fakeConfig(s), Deps{})
	in := active("a", 1)
	if err := m.Register(minute(t), in); err != nil {
		t.Fatal(err)
	}
	s.SetHook(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return true
		}
		return false
	})
	in.State = ring.Leaving
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := m.Update(ctx, in); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	eventually(t, "the failure to show", func() bool { return strings.Contains(m.Status().Problem, "No cluster leader") })
	s.SetHook(nil)
	ringtest.Await(t, m, "LEAVING", ringtest.Has(in))
	eventually(t, "the failure to end", func() bool { return m.Status().Problem == "" })
	// Deregistering may fail, too.
	s.SetHook(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v1/session/destroy/") {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return true
		}
		return false
	})
	if err := m.Deregister(minute(t), in); err == nil || !strings.Contains(err.Error(), "within 2s") {
		t.Fatalf("got %v", err)
	}
}

// TestCloseEndsWaiting closes a membership while others wait for it.
func TestCloseEndsWaiting(t *testing.T) {
	s := fakeconsul.New(t)
	m := openFake(t, fakeConfig(s), Deps{})
	in := active("a", 1)
	if err := m.Register(minute(t), in); err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 100)
	s.SetHook(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		// Without the body the server does not look whether the client is there.
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		<-r.Context().Done()
		return true
	})
	errs := make(chan error, 2)
	in.State = ring.Leaving
	go func() { errs <- m.Update(minute(t), in) }()
	<-asked
	go func() { errs <- m.Register(minute(t), active("b", 1)) }()
	<-asked
	m.Close()
	for range 2 {
		if err := <-errs; !errors.Is(err, errStopped) && !errors.Is(err, context.Canceled) && !errors.Is(err, errClosed) {
			t.Errorf("got %v", err)
		}
	}
}

// TestLost takes the id of a living instance over; being told, it deregisters.
func TestLost(t *testing.T) {
	s := fakeconsul.New(t)
	told := make(chan error, 1)
	var old *Membership
	ready := make(chan struct{})
	old = openFake(t, fakeConfig(s), Deps{Owner: "o", Lost: func(in ring.Instance, err error) {
		<-ready
		told <- errors.Join(err, old.Deregister(minute(t), in))
	}})
	close(ready)
	if err := old.Register(minute(t), active("a", 1)); err != nil {
		t.Fatal(err)
	}
	now := openFake(t, fakeConfig(s), Deps{Owner: "o"})
	if err := now.Register(minute(t), active("a", 2)); err != nil {
		t.Fatal(err)
	}
	if err := <-told; !errors.Is(err, ring.ErrSuperseded) {
		t.Errorf("told %v", err)
	}
	ringtest.Await(t, old, "the other", ringtest.Has(active("a", 2)))
	if err := old.Update(minute(t), active("a", 1)); !errors.Is(err, ring.ErrNotRegistered) {
		t.Errorf("update: %v", err)
	}
	if keys := s.Keys(); len(keys) != 1 {
		t.Errorf("keys %v", keys)
	}
}

// TestServiceIsOptional lets the agent refuse the service: the ring works.
func TestServiceIsOptional(t *testing.T) {
	s := fakeconsul.New(t)
	s.SetHook(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v1/agent/") {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return true
		}
		return false
	})
	var mu sync.Mutex
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(lockedWriter{&mu, &out}, nil))
	m := openFake(t, fakeConfig(s), Deps{Log: log})
	a := active("a", 1)
	if err := m.Register(minute(t), a); err != nil {
		t.Fatal(err)
	}
	ringtest.Await(t, m, "the instance", ringtest.Has(a))
	eventually(t, "a warning", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(out.String(), "the ring does not need it")
	})
	s.SetHook(nil)
	eventually(t, "the service", func() bool { return s.Services()["loki-go-a"] == "passing" })

	without := fakeConfig(fakeconsul.New(t))
	without.Service = ""
	m = openFake(t, without, Deps{})
	if err := m.Register(minute(t), a); err != nil {
		t.Fatal(err)
	}
	if err := m.Deregister(minute(t), a); err != nil {
		t.Fatal(err)
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

// TestRequestsCarryOptions looks at what is asked of Consul.
func TestRequestsCarryOptions(t *testing.T) {
	s := fakeconsul.New(t)
	var mu sync.Mutex
	tokens := map[string]bool{}
	s.SetHook(func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		tokens[r.Header.Get("X-Consul-Token")] = true
		mu.Unlock()
		return false
	})
	cfg := fakeConfig(s)
	cfg.Datacenter, cfg.Namespace, cfg.Partition = "paris", "team", "east"
	cfg.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(cfg.TokenFile, []byte("secret-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := openFake(t, cfg, Deps{})
	if err := m.Register(minute(t), active("a", 1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a service", func() bool { return len(s.Services()) == 1 })
	for _, r := range s.Requests() {
		for _, want := range []string{"dc=paris", "ns=team", "partition=east"} {
			if !strings.Contains(r, want) {
				t.Errorf("no %s in %s", want, r)
			}
		}
	}
	if err := os.WriteFile(cfg.TokenFile, []byte("secret-2"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new token", func() bool { mu.Lock(); defer mu.Unlock(); return tokens["secret-2"] })
	mu.Lock()
	defer mu.Unlock()
	if len(tokens) != 2 || !tokens["secret-1"] {
		t.Errorf("tokens %v", tokens)
	}
}

func TestConfig(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	f := func(want string, change func(*Config)) {
		t.Helper()
		c := DefaultConfig()
		change(&c)
		errs := c.Validate()
		if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), want+":") {
			t.Errorf("%v, want one about %s", errs, want)
		}
		if _, err := Open(c, Deps{}); err == nil || !strings.HasPrefix(err.Error(), "ring."+want) {
			t.Errorf("Open: %v", err)
		}
	}
	f("prefix", func(c *Config) { c.Prefix = "" })
	f("prefix", func(c *Config) { c.Prefix = "/x" })
	f("cluster", func(c *Config) { c.Cluster = "" })
	f("cluster", func(c *Config) { c.Cluster = "a\nb" })
	f("consul.address", func(c *Config) { c.Address = "localhost" })
	f("consul.address", func(c *Config) { c.Address = "localhost:0" })
	f("consul.session-ttl", func(c *Config) { c.SessionTTL = 0 })
	f("consul.leaving-timeout", func(c *Config) { c.LeavingTimeout = 0 })
	f("consul.timeout", func(c *Config) { c.Timeout = 0 })
	f("consul.wait", func(c *Config) { c.Wait = time.Hour })
	f("consul.max-stale", func(c *Config) { c.MaxStale = -1 })
	f("consul.service", func(c *Config) { c.Service = "a b" })
	f("consul.tls.key-file", func(c *Config) { c.TLS.Enabled, c.TLS.CertFile = true, "x" })
	for want, change := range map[string]func(*Config){
		"ring.consul.token-file: open": func(c *Config) { c.TokenFile = "/nowhere" },
		"ring.consul.tls.ca-file":      func(c *Config) { c.TLS.Enabled, c.TLS.CAFile = true, "/nowhere" },
	} {
		c := DefaultConfig()
		change(&c)
		if _, err := Open(c, Deps{}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestShowAndForget(t *testing.T) {
	s := fakeconsul.New(t)
	cfg := fakeConfig(s)
	m := openFake(t, cfg, Deps{})
	a := active("a", 1)
	if err := m.Register(minute(t), a); err != nil {
		t.Fatal(err)
	}
	other := cfg
	other.Cluster = "tempo"
	theirs := openFake(t, other, Deps{})
	if err := theirs.Register(minute(t), active("b", 1)); err != nil {
		t.Fatal(err)
	}
	st, err := Show(minute(t), cfg)
	if err != nil || len(st.Members) != 1 || st.Members[0].Instance != a || len(st.Ignored) != 1 || st.Ring.ActiveCount() != 1 {
		t.Fatalf("%+v, %v", st, err)
	}
	f, err := Forget(minute(t), cfg, "a", true)
	if err != nil || f.Instance != a || f.Session == "" || len(s.Keys()) != 2 {
		t.Fatalf("dry run: %+v, %v", f, err)
	}
	if _, err := Forget(minute(t), cfg, "c", false); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown instance: %v", err)
	}
	if _, err := Forget(minute(t), cfg, "b", false); err == nil || !strings.Contains(err.Error(), "left alone") {
		t.Errorf("an instance of another cluster: %v", err)
	}
	if _, err := Forget(minute(t), cfg, "../x", false); err == nil {
		t.Error("an id with a slash")
	}
	m.Close() // else it would enter again
	if f, err = Forget(minute(t), cfg, "a", false); err != nil || f.Instance != a {
		t.Fatalf("%+v, %v", f, err)
	}
	if keys := s.Keys(); len(keys) != 1 || keys[0] != cfg.Prefix+"/b" {
		t.Errorf("keys %v", keys)
	}
	// A key that no session holds.
	s.Put(cfg.Prefix+"/d", `{"cluster":"loki-go","protocol":1,"id":"d","state":"ACTIVE"}`)
	if f, err = Forget(minute(t), cfg, "d", false); err != nil || f.Session != "" || len(s.Keys()) != 1 {
		t.Fatalf("%+v, %v, keys %v", f, err, s.Keys())
	}
}
