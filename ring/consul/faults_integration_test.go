//go:build integration

package consul

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/internal/testkit/consulserver"
	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/ring/ringtest"
)

// startChild starts a process that is a member, and returns when it says so.
// The returned function kills it with SIGKILL.
func startChild(t *testing.T, job childJob) (kill func()) {
	t.Helper()
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dead := false
	kill = func() {
		if !dead {
			dead = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "registered: <nil>\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	return kill
}

// recorder keeps all rings that a membership has had.
type recorder struct {
	stop context.CancelFunc
	done chan struct{}
	seen []*ring.Ring
}

func record(m ring.Membership) *recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r := &recorder{stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for {
			now, changed := m.Watch()
			r.seen = append(r.seen, now)
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return r
}

// fewest returns the smallest ring, after the recorder has been stopped.
func (r *recorder) fewest() int {
	r.stop()
	<-r.done
	return len(slices.MinFunc(r.seen, func(a, b *ring.Ring) int { return len(a.Instances()) - len(b.Instances()) }).Instances())
}

func member(i int) ring.Instance {
	return ring.Instance{ID: fmt.Sprint("i", i), Addr: fmt.Sprintf("10.0.0.%d:9095", i), Zone: string(rune('a' + i%3)), State: ring.Active, Generation: 1}
}

func TestConsulKilledMember(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	cfg := testConfig(s)
	reader := open(t, cfg, Deps{})
	first, second := member(1), member(1)
	second.Generation = 2
	kill := startChild(t, childJob{cfg, "disk-1", first})
	ringtest.Await(t, reader, "the first process", ringtest.Has(first))
	seen := record(reader)
	kill()
	// The next process with the same data directory does not wait for the TTL:
	// the ring never misses the instance.
	kill = startChild(t, childJob{cfg, "disk-1", second})
	ringtest.Await(t, reader, "the second process", ringtest.Has(second))
	if n := seen.fewest(); n != 1 {
		t.Errorf("the ring had %d members in between", n)
	}
	kill()
	begin := time.Now()
	ringtest.Await(t, reader, "the end of a dead process", ringtest.Has())
	t.Logf("a killed process left the ring after %s, the TTL is %s", time.Since(begin).Round(time.Millisecond), testTTL)
	if keys := s.Keys(cfg.Prefix + "/"); len(keys) != 0 {
		t.Errorf("keys left: %v", keys)
	}
}

// metric waits until a membership's metric has a value.
func metric(t *testing.T, reg *prometheus.Registry, name, want string) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range families {
			for _, m := range f.GetMetric() {
				label := ""
				for _, l := range m.GetLabel() {
					label = "{" + l.GetValue() + "}"
				}
				if f.GetName() == "loki_go_ring_"+name || f.GetName()+label == "loki_go_ring_"+name {
					got = append(got, fmt.Sprint(m.GetGauge().GetValue()+m.GetCounter().GetValue()))
				}
			}
		}
		if len(got) == 1 && got[0] == want {
			return
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("%s is %v, want %s", name, got, want)
		}
	}
}

// three returns a reader, three members in one membership, and its registry.
func three(t *testing.T, cfg Config) (reader, writer *Membership, reg *prometheus.Registry) {
	t.Helper()
	reg = prometheus.NewRegistry()
	writer = open(t, cfg, Deps{Metrics: reg, Owner: "o", Version: "v1"})
	reader = open(t, cfg, Deps{})
	for i := range 3 {
		if err := writer.Register(timeout(t), member(i)); err != nil {
			t.Fatal(err)
		}
	}
	ringtest.Await(t, reader, "three", ringtest.Has(member(0), member(1), member(2)))
	return reader, writer, reg
}

func TestConsulRestarted(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	reader, _, reg := three(t, testConfig(s))
	seen := record(reader)
	s.Kill()
	metric(t, reg, "stale", "1")
	time.Sleep(3 * testTTL) // longer than sessions live without renewal
	if st := reader.Status(); !st.Stale || st.Problem == "" || len(st.Members) != 3 || time.Since(st.Contact) < testTTL {
		t.Errorf("while Consul is gone: %+v", st)
	}
	s.Start()
	metric(t, reg, "stale", "0")
	metric(t, reg, "members{ACTIVE}", "3")
	time.Sleep(3 * testTTL) // sessions that nobody renews would be gone
	if n := seen.fewest(); n != 3 {
		t.Errorf("the ring had %d members in between", n)
	}
	metric(t, reg, "registrations_total{session_lost}", "0")
	metric(t, reg, "registered", "3")
	if st := reader.Status(); st.Stale || st.Problem != "" {
		t.Errorf("Consul is back: %+v", st)
	}
}

func TestConsulWiped(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	cfg := testConfig(s)
	cfg.SessionTTL = 10 * time.Second
	reader, writer, reg := three(t, cfg)
	kill := startChild(t, childJob{cfg, "other", member(3)})
	ringtest.Await(t, reader, "four", ringtest.Has(member(0), member(1), member(2), member(3)))
	seen := record(reader)
	s.Kill()
	kill()
	// A change meanwhile is made up for.
	leaving := member(2)
	leaving.State = ring.Leaving
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := writer.Update(ctx, leaving)
	if err == nil {
		t.Error("an update reached a Consul that is gone")
	}
	t.Log(err)
	s.Wipe()
	s.Start()
	begin := time.Now()
	for len(s.Keys(cfg.Prefix+"/")) != 3 {
		if time.Since(begin) > cfg.SessionTTL {
			t.Fatalf("one TTL after an empty Consul came back it has %d of 3 instances", len(s.Keys(cfg.Prefix+"/")))
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("all instances were back in an empty Consul after %s, the TTL is %s", time.Since(begin).Round(time.Millisecond), cfg.SessionTTL)
	ringtest.Await(t, reader, "all but the dead", ringtest.Has(member(0), member(1), leaving))
	t.Logf("the one that died meanwhile was out after %s", time.Since(begin).Round(time.Millisecond))
	if n := seen.fewest(); n != 3 {
		t.Errorf("the ring had %d members in between", n)
	}
	metric(t, reg, "registered", "3")
	// The services came back, too.
	awaitService(t, s, cfg.Service, map[string]string{"i0": "passing", "i1": "passing", "i2": "warning"})
}

// awaitService waits until Consul's catalog has these instances and their
// health.
func awaitService(t *testing.T, s *consulserver.Server, service string, want map[string]string) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		var list []struct {
			Service struct {
				Address string
				Port    int
				Meta    map[string]string
			}
			Checks []struct{ CheckID, Status string }
		}
		if err := s.Do(context.Background(), http.MethodGet, "/v1/health/service/"+service, "", &list); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, e := range list {
			for _, c := range e.Checks {
				if c.CheckID == service+"-"+e.Service.Meta["instance"] {
					got[e.Service.Meta["instance"]] = c.Status
				}
			}
			if e.Service.Port != 9095 || !strings.HasPrefix(e.Service.Address, "10.0.0.") {
				t.Fatalf("service %+v", e.Service)
			}
		}
		if fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("Consul's catalog has %v, want %v", got, want)
		}
	}
}

func TestConsulService(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	_, writer, _ := three(t, testConfig(s))
	joining := member(1)
	joining.State = ring.Joining
	if err := writer.Update(timeout(t), joining); err != nil {
		t.Fatal(err)
	}
	awaitService(t, s, "loki-go", map[string]string{"i0": "passing", "i1": "warning", "i2": "passing"})
	if err := writer.Deregister(timeout(t), member(0)); err != nil {
		t.Fatal(err)
	}
	awaitService(t, s, "loki-go", map[string]string{"i1": "warning", "i2": "passing"})
}

func TestConsulACL(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t, consulserver.WithACL())
	cfg := testConfig(s)
	rules := func(mode string) string {
		return fmt.Sprintf(`key_prefix "loki-go/ring/" { policy = %q } session_prefix "" { policy = %q } service_prefix "loki-go" { policy = %q }`, mode, mode, mode)
	}
	cfg.Token = s.MakeToken(rules("read"))
	reading := open(t, cfg, Deps{})
	err := reading.Register(timeout(t), member(1))
	if err == nil || !strings.Contains(err.Error(), "403") {
		t.Fatalf("registered without the right to: %v", err)
	}
	t.Log(err)
	// A token that is replaced in its file needs no restart.
	cfg.TokenFile = filepath.Join(t.TempDir(), "token")
	writeToken := func(token string) {
		if err := os.WriteFile(cfg.TokenFile, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeToken("00000000-0000-0000-0000-000000000001")
	writing := open(t, cfg, Deps{})
	for begin := time.Now(); !strings.Contains(writing.Status().Problem, "403"); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatalf("an unknown token: %+v", writing.Status())
		}
	}
	writeToken(s.MakeToken(rules("write")))
	if err := writing.Register(timeout(t), member(1)); err != nil {
		t.Fatal(err)
	}
	ringtest.Await(t, reading, "the member", ringtest.Has(member(1)))
	ringtest.Await(t, writing, "the member", ringtest.Has(member(1)))
	awaitService(t, s, "loki-go", map[string]string{"i1": "passing"})
	if err := writing.Deregister(timeout(t), member(1)); err != nil {
		t.Fatal(err)
	}
}

func TestConsulTLS(t *testing.T) {
	t.Parallel()
	certs := testcert.New(t)
	s := consulserver.New(t, consulserver.WithTLS(certs))
	cfg := testConfig(s)
	cfg.TLS.Enabled, cfg.TLS.CAFile = true, certs.CA
	anonymous := open(t, cfg, Deps{})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := anonymous.Register(ctx, member(1))
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Fatalf("registered without a client certificate: %v", err)
	}
	t.Log(err)
	cfg.TLS.CertFile, cfg.TLS.KeyFile = certs.ClientCert, certs.ClientKey
	m := open(t, cfg, Deps{})
	if err := m.Register(timeout(t), member(1)); err != nil {
		t.Fatal(err)
	}
	ringtest.Await(t, m, "the member", ringtest.Has(member(1)))
}

// TestConsulForeign writes what is not of this ring below its prefix.
func TestConsulForeign(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	cfg := testConfig(s)
	other := cfg
	other.Cluster = "tempo"
	theirs := open(t, other, Deps{})
	if err := theirs.Register(timeout(t), member(7)); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"garbage": "\x00\x01", "old": `{"cluster":"loki-go","protocol":99}`,
		"free": `{"cluster":"loki-go","protocol":1,"id":"free","state":"ACTIVE","generation":1}`,
	} {
		if err := s.Do(context.Background(), http.MethodPut, "/v1/kv/"+cfg.Prefix+"/"+key, value, nil); err != nil {
			t.Fatal(err)
		}
	}
	reader, writer, reg := three(t, cfg)
	metric(t, reg, "ignored_entries", "4")
	text := fmt.Sprint(reader.Status().Ignored)
	for _, want := range []string{`ring/garbage it is no entry`, `ring/old it has protocol version 99`, `ring/free no session holds it`, `ring/i7 it belongs to cluster "tempo"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	err := writer.Register(timeout(t), member(7))
	if err == nil || !strings.Contains(err.Error(), "ring.prefix") {
		t.Errorf("an id that another cluster has below the same prefix: %v", err)
	}
	t.Log(err)
	ringtest.Await(t, theirs, "what is theirs", ringtest.Has(member(7)))
}

// TestConsulLosesID takes the key from a living instance: its process is told,
// and does not fight.
func TestConsulLosesID(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	cfg := testConfig(s)
	lost := make(chan error, 1)
	old := open(t, cfg, Deps{Owner: "copied", Lost: func(_ ring.Instance, err error) { lost <- err }})
	in := member(1)
	if err := old.Register(timeout(t), in); err != nil {
		t.Fatal(err)
	}
	in.Generation = 2
	now := open(t, cfg, Deps{Owner: "copied"})
	if err := now.Register(timeout(t), in); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-lost:
		t.Log(err)
	case <-time.After(time.Minute):
		t.Fatalf("nobody was told: %+v", old.Status())
	}
	ringtest.Await(t, old, "the other process", ringtest.Has(in))
	if p := old.Status().Problem; !strings.Contains(p, "not in the ring any more") {
		t.Errorf("problem %q", p)
	}
}

// TestConsulForgotten removes keys behind their instances' backs.
func TestConsulForgotten(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	cfg := testConfig(s)
	reader, _, reg := three(t, cfg)
	for _, session := range []bool{false, true} {
		path := "/v1/kv/" + cfg.Prefix + "/i1"
		method := http.MethodDelete
		reason := "registrations_total{key_lost}"
		if session {
			path, method = "/v1/session/destroy/"+s.Keys(cfg.Prefix + "/i1")[0].Session, http.MethodPut
			reason = "registrations_total{session_lost}"
		}
		if err := s.Do(context.Background(), method, path, "", nil); err != nil {
			t.Fatal(err)
		}
		if !session {
			metric(t, reg, reason, "1")
		} else {
			// Which of the two is noticed first is a matter of chance.
			for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
				if testutil.CollectAndCount(reg, "loki_go_ring_registered") == 1 && len(s.Keys(cfg.Prefix+"/i1")) == 1 {
					break
				}
				if time.Since(begin) > time.Minute {
					t.Fatal("the instance did not come back")
				}
			}
		}
		ringtest.Await(t, reader, "all again", ringtest.Has(member(0), member(1), member(2)))
	}
}

func TestConsulLeavingTooLong(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	cfg := testConfig(s)
	cfg.LeavingTimeout = 2 * time.Second
	lost := make(chan error, 1)
	m := open(t, cfg, Deps{Lost: func(_ ring.Instance, err error) { lost <- err }})
	in := member(1)
	if err := m.Register(timeout(t), in); err != nil {
		t.Fatal(err)
	}
	in.State = ring.Leaving
	if err := m.Update(timeout(t), in); err != nil {
		t.Fatal(err)
	}
	ringtest.Await(t, m, "LEAVING", ringtest.Has(in))
	if d := m.Status().Members[0].Deadline; d.IsZero() || time.Until(d) > cfg.LeavingTimeout {
		t.Errorf("deadline %s", d)
	}
	ringtest.Await(t, m, "nobody", ringtest.Has())
	select {
	case err := <-lost:
		t.Log(err)
	case <-time.After(time.Minute):
		t.Fatal("nobody was told")
	}
	for begin := time.Now(); len(s.Keys(cfg.Prefix+"/")) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("the key stays")
		}
	}
}

// TestConsulFrozen stops Consul without closing a connection, as a network that
// drops packets would.
func TestConsulFrozen(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	cfg := testConfig(s)
	cfg.Wait, cfg.Timeout = time.Second, time.Second
	reader, _, reg := three(t, cfg)
	seen := record(reader)
	s.Signal(syscall.SIGSTOP)
	metric(t, reg, "stale", "1")
	s.Signal(syscall.SIGCONT)
	metric(t, reg, "stale", "0")
	metric(t, reg, "registered", "3")
	if n := seen.fewest(); n != 3 {
		t.Errorf("the ring had %d members in between", n)
	}
}

// TestConsulLeaderDies kills the leader of three servers, of which the members
// use the others.
func TestConsulLeaderDies(t *testing.T) {
	t.Parallel()
	servers := consulserver.NewCluster(t, 3)
	leader := servers[0].Leader(servers)
	var rest []*consulserver.Server
	for _, s := range servers {
		if s != leader {
			rest = append(rest, s)
		}
	}
	_, writer, reg := three(t, testConfig(rest[0]))
	reader := open(t, testConfig(rest[1]), Deps{})
	ringtest.Await(t, reader, "three", ringtest.Has(member(0), member(1), member(2)))
	seen := record(reader)
	leader.Kill()
	leaving := member(2)
	leaving.State = ring.Leaving
	if err := writer.Update(timeout(t), leaving); err != nil {
		t.Fatal(err)
	}
	ringtest.Await(t, reader, "a change under the next leader", ringtest.Has(member(0), member(1), leaving))
	time.Sleep(3 * testTTL)
	leader.Start()
	time.Sleep(testTTL)
	if n := seen.fewest(); n != 3 {
		t.Errorf("the ring had %d members in between", n)
	}
	metric(t, reg, "registered", "3")
	metric(t, reg, "registrations_total{session_lost}", "0")
}

// TestConsulRefusesTTL has a session-ttl that Consul does not take.
func TestConsulRefusesTTL(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t, consulserver.WithConfig("session_ttl_min", "10s"))
	err := open(t, testConfig(s), Deps{}).Register(timeout(t), member(1))
	if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "TTL") {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
}

// TestConsulForget removes a dead member by hand.
func TestConsulForget(t *testing.T) {
	t.Parallel()
	s := consulserver.New(t)
	cfg := testConfig(s)
	cfg.SessionTTL = time.Hour
	m := open(t, cfg, Deps{})
	if err := m.Register(timeout(t), member(1)); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if f, err := Forget(timeout(t), cfg, "i1", true); err != nil || f.Instance != member(1) || len(s.Keys(cfg.Prefix+"/")) != 1 {
		t.Fatalf("dry run: %+v, %v", f, err)
	}
	if st, err := Show(timeout(t), cfg); err != nil || len(st.Members) != 1 {
		t.Fatalf("%+v, %v", st, err)
	}
	if _, err := Forget(timeout(t), cfg, "i1", false); err != nil {
		t.Fatal(err)
	}
	if keys := s.Keys(cfg.Prefix + "/"); len(keys) != 0 {
		t.Errorf("keys %v", keys)
	}
}
