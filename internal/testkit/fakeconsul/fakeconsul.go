// Package fakeconsul is as much of Consul's HTTP API, in memory, as a ring
// needs. It is for faults that a real one does not have on demand, and for
// tests that must run without one; consulserver has the real one. Sessions end
// when a test says so: there is no clock.
package fakeconsul

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server is a fake Consul. Its methods may be called concurrently.
type Server struct {
	Addr string // HOST:PORT

	mu       sync.Mutex
	index    uint64
	changed  chan struct{}
	keys     map[string]*key
	sessions map[string]bool
	services map[string]string // health by id
	next     int
	requests []string
	hook     Hook
}

// Hook sees a request first. It answers and returns true, or leaves it to the
// fake.
type Hook func(w http.ResponseWriter, r *http.Request) bool

// key is as Consul shows it.
type key struct {
	Key                                 string
	Value                               []byte
	Session                             string `json:",omitempty"`
	Flags                               uint64
	CreateIndex, ModifyIndex, LockIndex uint64
}

// New returns a server that ends with the test.
func New(t testing.TB) *Server {
	s := &Server{index: 10, changed: make(chan struct{}), keys: map[string]*key{}, sessions: map[string]bool{}, services: map[string]string{}}
	srv := httptest.NewServer(s)
	s.Addr = srv.Listener.Addr().String()
	t.Cleanup(func() {
		srv.CloseClientConnections() // those that wait
		srv.Close()
	})
	return s
}

// SetHook replaces the hook; nil: none.
func (s *Server) SetHook(h Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = h
}

// Requests returns "METHOD PATH?QUERY" of all requests so far.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Services returns the health of services by id.
func (s *Server) Services() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.services)
}

// Keys returns the sorted names of all keys.
func (s *Server) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.keys))
}

// Wipe loses all data, and sets the index back.
func (s *Server) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.keys)
	clear(s.sessions)
	clear(s.services)
	s.index = 5
	s.wake()
}

// ExpireAll ends all sessions, as if their TTLs were over.
func (s *Server) ExpireAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.sessions {
		s.destroy(id)
	}
}

// Put writes a key that no session holds.
func (s *Server) Put(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(name, []byte(value), "")
}

// wake must be called under mu, as all that follow.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) write(name string, value []byte, session string) {
	s.index++
	k := s.keys[name]
	if k == nil {
		k = &key{Key: name, CreateIndex: s.index}
	}
	now := *k // others may be showing the old one
	now.Value, now.Session, now.ModifyIndex = value, session, s.index
	s.keys[name] = &now
	s.wake()
}

func (s *Server) destroy(session string) {
	delete(s.sessions, session)
	for name, k := range s.keys {
		if k.Session == session {
			s.index++
			delete(s.keys, name)
		}
	}
	s.wake()
}

const maxBody = 1 << 20

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI())
	hook := s.hook
	s.mu.Unlock()
	if hook != nil && hook(w, r) {
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return
	}
	path := r.URL.Path
	last := path[strings.LastIndexByte(path, '/')+1:]
	if name, ok := strings.CutPrefix(path, "/v1/kv/"); ok && r.Method == http.MethodGet {
		s.read(w, r, name)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case path == "/v1/session/create":
		s.next++
		id := fmt.Sprintf("session-%d", s.next)
		s.sessions[id] = true
		answer(w, map[string]string{"ID": id})
	case strings.HasPrefix(path, "/v1/session/renew/"):
		if !s.sessions[last] {
			http.Error(w, "Session id '"+last+"' not found", http.StatusNotFound)
			return
		}
		answer(w, []map[string]string{{"ID": last}})
	case strings.HasPrefix(path, "/v1/session/destroy/"):
		s.destroy(last)
		answer(w, true)
	case strings.HasPrefix(path, "/v1/kv/") && r.Method == http.MethodPut:
		answer(w, s.lock(strings.TrimPrefix(path, "/v1/kv/"), r.FormValue("acquire"), body))
	case strings.HasPrefix(path, "/v1/kv/") && r.Method == http.MethodDelete:
		delete(s.keys, strings.TrimPrefix(path, "/v1/kv/"))
		s.index++
		s.wake()
		answer(w, true)
	case path == "/v1/txn":
		s.txn(w, body)
	case path == "/v1/agent/service/register":
		var in struct {
			ID    string
			Check struct{ Status string }
		}
		if json.Unmarshal(body, &in) != nil {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		s.services[in.ID] = in.Check.Status
	case strings.HasPrefix(path, "/v1/agent/check/update/"):
		var in struct{ Status string }
		if s.services[last] == "" || json.Unmarshal(body, &in) != nil {
			http.Error(w, "Unknown check ID "+last, http.StatusNotFound)
			return
		}
		s.services[last] = in.Status
	case strings.HasPrefix(path, "/v1/agent/service/deregister/"):
		delete(s.services, last)
	default:
		http.Error(w, "the fake does not know "+path, http.StatusNotImplemented)
	}
}

func (s *Server) lock(name, session string, value []byte) bool {
	k := s.keys[name]
	if !s.sessions[session] || k != nil && k.Session != "" && k.Session != session {
		return false
	}
	s.write(name, value, session)
	return true
}

// txn does the one transaction that a ring needs: check, unlock, lock.
func (s *Server) txn(w http.ResponseWriter, body []byte) {
	var ops []struct {
		KV struct {
			Verb, Key, Session string
			Value              []byte
			Index              uint64
		}
	}
	if json.Unmarshal(body, &ops) != nil || len(ops) != 3 {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	check, unlock, lock := ops[0].KV, ops[1].KV, ops[2].KV
	k := s.keys[check.Key]
	if k == nil || k.ModifyIndex != check.Index || k.Session != unlock.Session || !s.sessions[lock.Session] {
		w.WriteHeader(http.StatusConflict)
		answer(w, map[string]any{"Errors": []any{map[string]any{"OpIndex": 0, "What": "conflict"}}})
		return
	}
	s.write(lock.Key, lock.Value, lock.Session)
	answer(w, map[string]any{"Results": []any{}})
}

// read answers for a key or, with recurse, for all below it; with an index it
// waits for a change.
func (s *Server) read(w http.ResponseWriter, r *http.Request, name string) {
	after, _ := strconv.ParseUint(r.FormValue("index"), 10, 64)
	wait, err := time.ParseDuration(r.FormValue("wait"))
	if err != nil || wait <= 0 {
		wait = 5 * time.Minute
	}
	limit := time.NewTimer(wait)
	defer limit.Stop()
	_, recurse := r.URL.Query()["recurse"]
	for {
		s.mu.Lock()
		index, changed := s.index, s.changed
		found := []*key{}
		for _, k := range slices.Sorted(maps.Keys(s.keys)) {
			if k == name || recurse && strings.HasPrefix(k, name) {
				found = append(found, s.keys[k])
			}
		}
		s.mu.Unlock()
		if after == 0 || index != after {
			w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
			w.Header().Set("X-Consul-Knownleader", "true")
			w.Header().Set("X-Consul-Lastcontact", "0")
			if len(found) == 0 {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			answer(w, found)
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			after = 0
		case <-r.Context().Done():
			return
		}
	}
}

func answer(w http.ResponseWriter, v any) {
	// An error is one of the connection.
	_ = json.NewEncoder(w).Encode(v)
}
