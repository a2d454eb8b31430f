package server

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/fakeconsul"
	"github.com/loki-go/loki-go/ring"
)

// TestConsulLostAtStart: a ring that cannot be told that the replay is done, and
// then that the process is about to end, holds up neither /ready nor the end.
func TestConsulLostAtStart(t *testing.T) {
	consul := fakeconsul.New(t)
	var entered, refused atomic.Int64
	consul.SetHook(func(w http.ResponseWriter, r *http.Request) bool {
		if entered.Load() == 0 {
			if strings.HasPrefix(r.URL.Path, "/v1/kv/") && r.Method == http.MethodPut {
				entered.Add(1) // the entry as JOINING
			}
			return false
		}
		if r.Method == http.MethodPut {
			refused.Add(1)
		}
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
		return true
	})
	s, _ := openServer(t, func(c *Config) {
		c.Ring.Store, c.Ring.Consul.Address = "consul", consul.Addr
		c.Server.ShutdownTimeout, c.Ring.Consul.LeavingTimeout = time.Hour, 2*time.Hour
		c.Ingester.FlushOnShutdown = false
		// A store that does not answer is no reason not to start.
		c.Storage.Type, c.Storage.S3.Endpoint, c.Storage.S3.Bucket = "s3", "http://127.0.0.1:1", "logs"
		c.Storage.S3.AccessKey, c.Storage.S3.SecretKey, c.Storage.Requests.Attempts = "key", "secret", 1
	})
	deadline := time.Now().Add(time.Minute)
	for refused.Load() == 0 || s.ringState() != ring.Active {
		if time.Now().After(deadline) {
			t.Fatal("the ring was not to be told of ACTIVE within a minute")
		}
		time.Sleep(time.Millisecond)
	}
	if err := s.Ready(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("the process does not end")
	}
}
