package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// client is Consul's API as far as it is needed, with a deadline for every
// request.
type client struct {
	cfg  Config
	api  *api.Client
	base *http.Transport
}

// newClient connects to nothing. Errors name the setting at fault.
func newClient(cfg Config) (*client, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("ring.%w", errs[0])
	}
	base := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: cfg.Timeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: cfg.Timeout, MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second,
		// The agent is near; compressing its answers costs more than it saves.
		DisableCompression: true,
		ForceAttemptHTTP2:  false,
	}
	scheme := "http"
	if cfg.TLS.Enabled {
		scheme = "https"
		t, err := cfg.TLS.Config()
		if err != nil {
			return nil, fmt.Errorf("ring.consul.tls.%w", err)
		}
		base.TLSClientConfig = t
	}
	tr := &transport{base: base, token: cfg.Token, file: cfg.TokenFile, most: maxAnswer}
	if cfg.TokenFile != "" {
		if _, err := readToken(cfg.TokenFile); err != nil {
			return nil, fmt.Errorf("ring.consul.token-file: %w", err)
		}
	}
	a, err := api.NewClient(&api.Config{
		Address: cfg.Address, Scheme: scheme, HttpClient: &http.Client{Transport: tr},
		// Anything, to keep the library from looking for one in the environment:
		// the transport has the token.
		Token:      "none",
		Datacenter: cfg.Datacenter, Namespace: cfg.Namespace, Partition: cfg.Partition,
	})
	if err != nil {
		return nil, fmt.Errorf("ring.consul: %w", err)
	}
	return &client{cfg: cfg, api: a, base: base}, nil
}

func (c *client) close() { c.base.CloseIdleConnections() }

// maxAnswer bounds what an answer may have, in bytes: some 50,000 members.
const maxAnswer = 32 << 20

// transport adds the token, which may change, and bounds answers. What the
// environment says of tokens does not count: all settings are in one place.
type transport struct {
	base http.RoundTripper
	file string
	most int64 // bytes of an answer

	mu    sync.Mutex
	token string // the last one known
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if token := t.current(); token != "" {
		r.Header.Set("X-Consul-Token", token)
	} else {
		r.Header.Del("X-Consul-Token")
	}
	resp, err := t.base.RoundTrip(r)
	if err == nil {
		resp.Body = &bounded{resp.Body, t.most}
	}
	return resp, err
}

func (t *transport) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file != "" {
		// A file that is being replaced leaves the token of before.
		if token, err := readToken(t.file); err == nil {
			t.token = token
		}
	}
	return t.token
}

const maxToken = 4096

func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsAny(token, " \r\n\t") {
		return "", fmt.Errorf("%s has no token, or more than one", file)
	}
	return token, nil
}

type bounded struct {
	io.ReadCloser
	left int64
}

var errTooLarge = errors.New("the answer is too large for a ring")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// status returns the HTTP status that err is, or 0.
func status(err error) int {
	var s api.StatusError
	if errors.As(err, &s) {
		return s.Code
	}
	return 0
}

// permanent reports whether Consul has understood the request and refuses it:
// settings have to change.
func permanent(err error) bool {
	if errors.Is(err, errTTL) {
		return true
	}
	s := status(err)
	return s >= 400 && s < 500 && s != http.StatusTooManyRequests && s != http.StatusRequestTimeout && s != http.StatusNotFound
}

var errTTL = errors.New("ring.consul.session-ttl is not within Consul's limits")

func (c *client) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.cfg.Timeout)
}

// createSession starts a session that ends with the TTL only: not with the
// health of the agent, which may restart while the instance works on. The key
// goes with it, and may be taken at once.
func (c *client) createSession(ctx context.Context, name string) (string, error) {
	ctx, cancel := c.deadline(ctx)
	defer cancel()
	in := map[string]any{
		"Name": name, "TTL": c.cfg.SessionTTL.String(), "Behavior": api.SessionBehaviorDelete,
		"LockDelay": "0s", "NodeChecks": []string{},
	}
	var out struct{ ID string }
	if _, err := c.api.Raw().Write("/v1/session/create", in, &out, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		// Consul calls this an error of its own, with status 500.
		if strings.Contains(err.Error(), "Invalid Session TTL") {
			return "", fmt.Errorf("create session: %w: %w", errTTL, err)
		}
		return "", fmt.Errorf("create session: %w", err)
	}
	return out.ID, nil
}

// renewSession reports whether the session still lives.
func (c *client) renewSession(ctx context.Context, id string) (alive bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.renewTimeout())
	defer cancel()
	_, err = c.api.Raw().Write("/v1/session/renew/"+id, nil, nil, (&api.WriteOptions{}).WithContext(ctx))
	if status(err) == http.StatusNotFound {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("renew session: %w", err)
	}
	return true, nil
}

// destroySession ends a session, with which its key goes. It is no error if
// there is none.
func (c *client) destroySession(ctx context.Context, id string) error {
	ctx, cancel := c.deadline(ctx)
	defer cancel()
	if _, err := c.api.Session().Destroy(id, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("destroy session: %w", err)
	}
	return nil
}

// get reads a key as the leader has it; nil: there is none. With an index it
// waits for a change, at most wait.
func (c *client) get(ctx context.Context, key string, index uint64, wait time.Duration) (*api.KVPair, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout+wait+wait/16)
	defer cancel()
	q := &api.QueryOptions{WaitIndex: index, WaitTime: wait, RequireConsistent: index == 0}
	p, meta, err := c.api.KV().Get(key, q.WithContext(ctx))
	if err != nil {
		return nil, 0, fmt.Errorf("read key %s: %w", key, err)
	}
	return p, meta.LastIndex, nil
}

// acquire writes a key that no other session holds.
func (c *client) acquire(ctx context.Context, key, session string, value []byte) (bool, error) {
	ctx, cancel := c.deadline(ctx)
	defer cancel()
	ok, _, err := c.api.KV().Acquire(&api.KVPair{Key: key, Value: value, Session: session}, (&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return false, fmt.Errorf("write key %s: %w", key, err)
	}
	return ok, nil
}

// takeOver replaces a key that the session of old holds, in one step, so that
// no reader sees a moment without it.
func (c *client) takeOver(ctx context.Context, old *api.KVPair, session string, value []byte) (bool, error) {
	ctx, cancel := c.deadline(ctx)
	defer cancel()
	ok, _, _, err := c.api.KV().Txn(api.KVTxnOps{
		{Verb: api.KVCheckIndex, Key: old.Key, Index: old.ModifyIndex},
		{Verb: api.KVUnlock, Key: old.Key, Session: old.Session, Value: old.Value},
		{Verb: api.KVLock, Key: old.Key, Session: session, Value: value},
	}, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return false, fmt.Errorf("take over key %s: %w", old.Key, err)
	}
	return ok, nil
}

// list returns all keys below the prefix and the index to wait for next. It
// waits for a change after index, if that is not 0.
func (c *client) list(ctx context.Context, index uint64, stale bool) (api.KVPairs, *api.QueryMeta, error) {
	wait := time.Duration(0)
	if index > 0 {
		wait = c.cfg.Wait
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout+wait+wait/16) // Consul adds up to a 16th
	defer cancel()
	q := &api.QueryOptions{WaitIndex: index, WaitTime: wait, AllowStale: stale}
	pairs, meta, err := c.api.KV().List(c.cfg.Prefix+"/", q.WithContext(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("list keys of %s: %w", c.cfg.Prefix, err)
	}
	return pairs, meta, nil
}
