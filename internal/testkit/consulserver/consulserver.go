// Package consulserver starts a real Consul for tests: one agent that is a
// server, on loopback. make tools builds it; LOKI_GO_TOOLS names the folder.
package consulserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
)

// Server is an agent. Its ports stay the same over restarts. It is for one
// goroutine, except that Addr may be read by many.
type Server struct {
	Addr  string // HOST:PORT of the HTTP API, with TLS if there is any
	Certs *testcert.Certs
	// Token is the management token, if access control is on.
	Token string

	t    testing.TB
	dir  string
	conf map[string]any
	http *http.Client
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Option changes what New starts.
type Option func(*Server)

// WithTLS makes the API speak TLS only, and demand client certificates of the
// same CA.
func WithTLS(certs *testcert.Certs) Option {
	return func(s *Server) { s.Certs = certs }
}

// WithACL denies everything to who has no token.
func WithACL() Option {
	return func(s *Server) {
		s.Token = "11111111-2222-3333-4444-555555555555"
		s.conf["acl"] = map[string]any{
			"enabled": true, "default_policy": "deny", "enable_token_persistence": true,
			"tokens": map[string]any{"initial_management": s.Token, "agent": s.Token},
		}
	}
}

// WithConfig changes a setting of the agent's configuration.
func WithConfig(name string, value any) Option {
	return func(s *Server) { s.conf[name] = value }
}

// NewCluster starts n servers that elect a leader among them.
func NewCluster(t testing.TB, n int) []*Server {
	t.Helper()
	var list []*Server
	var join []string
	for i := range n {
		s := prepare(t, WithConfig("node_name", "test-"+strconv.Itoa(i)), WithConfig("bootstrap_expect", n))
		s.conf["leave_on_terminate"] = false
		join = append(join, fmt.Sprintf("127.0.0.1:%d", s.conf["ports"].(map[string]any)["serf_lan"]))
		list = append(list, s)
	}
	for _, s := range list {
		s.conf["retry_join"], s.conf["retry_interval"] = join, "200ms"
		s.launch()
	}
	for _, s := range list {
		s.await()
	}
	return list
}

// Leader returns which of the servers of a cluster leads it, as s knows it.
func (s *Server) Leader(of []*Server) *Server {
	s.t.Helper()
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(50 * time.Millisecond) {
		var addr string
		if err := s.Do(context.Background(), http.MethodGet, "/v1/status/leader", "", &addr); err != nil {
			s.t.Fatal(err)
		}
		for _, c := range of {
			if addr == fmt.Sprintf("127.0.0.1:%d", c.conf["ports"].(map[string]any)["server"]) {
				return c
			}
		}
	}
	s.t.Fatal("consul has no leader")
	return nil
}

// New starts an agent that lives until the end of the test and accepts session
// TTLs from 1s on.
func New(t testing.TB, options ...Option) *Server {
	t.Helper()
	s := prepare(t, options...)
	s.Start()
	return s
}

func prepare(t testing.TB, options ...Option) *Server {
	t.Helper()
	port := func() int { return testkit.FreePort(t) }
	httpPort := port()
	s := &Server{
		Addr: "127.0.0.1:" + strconv.Itoa(httpPort), t: t, dir: t.TempDir(), http: &http.Client{},
	}
	ports := map[string]any{
		"http": httpPort, "https": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
		"serf_lan": port(), "serf_wan": -1, "server": port(),
	}
	s.conf = map[string]any{
		"node_name": "test", "server": true, "bootstrap_expect": 1,
		"bind_addr": "127.0.0.1", "client_addr": "127.0.0.1", "ports": ports,
		"performance": map[string]any{"raft_multiplier": 1}, "session_ttl_min": "1s", "log_level": "warn",
		"disable_update_check": true, "limits": map[string]any{"http_max_conns_per_client": 10000},
	}
	for _, o := range options {
		o(s)
	}
	if s.Certs != nil {
		ports["http"], ports["https"] = -1, httpPort
		s.conf["tls"] = map[string]any{"https": map[string]any{
			"ca_file": s.Certs.CA, "cert_file": s.Certs.Cert, "key_file": s.Certs.Key, "verify_incoming": true,
		}}
		s.http.Transport = s.transport()
	}
	t.Cleanup(func() {
		if s.cmd != nil {
			s.Kill()
		}
		s.http.CloseIdleConnections()
		if t.Failed() {
			t.Logf("consul printed:\n%.4000s", s.out)
		}
	})
	return s
}

// Start starts the agent anew after Kill, with the data that it had, and waits
// until it can write.
func (s *Server) Start() {
	s.t.Helper()
	s.launch()
	s.await()
}

func (s *Server) launch() {
	s.t.Helper()
	tools := os.Getenv("LOKI_GO_TOOLS")
	if tools == "" {
		s.t.Fatal("LOKI_GO_TOOLS is not set: run make integration")
	}
	s.conf["data_dir"] = filepath.Join(s.dir, "data")
	conf, err := json.Marshal(s.conf)
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.dir, "consul.json")
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.out, s.done = &output{}, make(chan struct{})
	s.cmd = exec.Command(filepath.Join(tools, "consul"), "agent", "-config-file="+file)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	// It must not outlive a test binary that is killed.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // killed in any case
		close(done)
	}(s.cmd, s.done)
}

// await waits until the agent can write.
func (s *Server) await() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		err := s.Do(ctx, http.MethodPut, "/v1/kv/consulserver-ready", "", nil)
		if err == nil {
			err = s.Do(ctx, http.MethodDelete, "/v1/kv/consulserver-ready", "", nil)
		}
		// Sessions need the node to be in the catalog.
		var nodes []json.RawMessage
		if err == nil {
			err = s.Do(ctx, http.MethodGet, "/v1/catalog/nodes", "", &nodes)
		}
		if err == nil && len(nodes) > 0 {
			return
		}
		select {
		case <-s.done:
			s.t.Fatalf("consul ended:\n%s", s.out)
		case <-ctx.Done():
			s.t.Fatalf("consul cannot be used: %v\n%s", err, s.out)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the agent at once. Its data stays.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.done
}

// Signal sends sig to the agent.
func (s *Server) Signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Wipe removes the data of an agent that is killed.
func (s *Server) Wipe() {
	s.t.Helper()
	if err := os.RemoveAll(filepath.Join(s.dir, "data")); err != nil {
		s.t.Fatal(err)
	}
}

// CPU returns the time that the agent has spent on all cores.
func (s *Server) CPU() time.Duration {
	s.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	// The name of the program, in parentheses, may have spaces.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] { // user and system, counted from the state
		n, err := strconv.Atoi(f)
		if err != nil {
			s.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100)
}

// Do sends a request with the management token and decodes the answer into out,
// if that is not nil.
func (s *Server) Do(ctx context.Context, method, path, body string, out any) error {
	scheme := "http"
	if s.Certs != nil {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+"://"+s.Addr+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	if s.Token != "" {
		req.Header.Set("X-Consul-Token", s.Token)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, data)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// RaftIndex returns how many entries the log has had: every write is one.
func (s *Server) RaftIndex() uint64 {
	s.t.Helper()
	var self struct {
		Stats struct {
			Raft struct {
				AppliedIndex string `json:"applied_index"`
			} `json:"raft"`
		}
	}
	if err := s.Do(context.Background(), http.MethodGet, "/v1/agent/self", "", &self); err != nil {
		s.t.Fatal(err)
	}
	n, err := strconv.ParseUint(self.Stats.Raft.AppliedIndex, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// Key is one of the key-value store.
type Key struct {
	Key         string
	Session     string
	ModifyIndex uint64
	Value       []byte
}

// Keys returns what is below prefix.
func (s *Server) Keys(prefix string) []Key {
	s.t.Helper()
	var keys []Key
	err := s.Do(context.Background(), http.MethodGet, "/v1/kv/"+prefix+"?recurse", "", &keys)
	if err != nil && !strings.Contains(err.Error(), "404") {
		s.t.Fatal(err)
	}
	return keys
}

// MakeToken returns the secret of a new token with these rules, in HCL.
func (s *Server) MakeToken(rules string) string {
	s.t.Helper()
	ctx := context.Background()
	name := "p" + strconv.FormatInt(time.Now().UnixNano(), 36)
	policy, _ := json.Marshal(map[string]string{"Name": name, "Rules": rules})
	if err := s.Do(ctx, http.MethodPut, "/v1/acl/policy", string(policy), nil); err != nil {
		s.t.Fatal(err)
	}
	var out struct{ SecretID string }
	if err := s.Do(ctx, http.MethodPut, "/v1/acl/token", `{"Policies":[{"Name":"`+name+`"}]}`, &out); err != nil {
		s.t.Fatal(err)
	}
	return out.SecretID
}

func (s *Server) transport() *http.Transport {
	c, err := tlsconf.Client{CAFile: s.Certs.CA, CertFile: s.Certs.ClientCert, KeyFile: s.Certs.ClientKey}.Config()
	if err != nil {
		s.t.Fatal(err)
	}
	return &http.Transport{TLSClientConfig: c}
}
