//go:build integration

package chunkcache

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

const lokiConfig = `
auth_enabled: true
target: querier,query-frontend,query-scheduler
analytics: {reporting_enabled: false}
server: {http_listen_address: 127.0.0.1, http_listen_port: %d, grpc_listen_address: 127.0.0.1, grpc_listen_port: %d, log_level: warn}
common:
  instance_addr: 127.0.0.1
  compactor_grpc_address: 127.0.0.1:1
  path_prefix: %[3]s
  replication_factor: 1
  ring: {instance_addr: 127.0.0.1, kvstore: {store: inmemory}}
storage_config:
  use_thanos_objstore: true
  object_store: {filesystem: {dir: %[4]s}}
  tsdb_shipper: {cache_location: %[3]s/cache, active_index_directory: %[3]s/active, resync_interval: 5s}
schema_config:
  configs:
    - {from: 2020-01-01, store: tsdb, object_store: filesystem, schema: v13, index: {prefix: index_, period: 24h}}
querier: {query_store_only: true}
limits_config: {max_query_length: 0}
chunk_store_config:
  chunk_cache_config: {%[5]s}
`

// startLoki starts the read path of stock Loki on a bucket and a cache.
func startLoki(t *testing.T, objects, cache string) *testkit.Client {
	t.Helper()
	tools := os.Getenv("LOKI_GO_TOOLS")
	if tools == "" {
		t.Fatal("LOKI_GO_TOOLS does not name the directory of loki: use make integration")
	}
	dir := t.TempDir()
	port := testkit.FreePort(t)
	file := filepath.Join(dir, "loki.yaml")
	conf := fmt.Sprintf(lokiConfig, port, testkit.FreePort(t), dir, objects, cache)
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(tools, "loki"), "-config.file="+file)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("loki printed:\n%s", log.String())
		}
	})
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c := &testkit.Client{Base: "http://127.0.0.1:" + strconv.Itoa(port), Tenant: "t", HTTP: &http.Client{Transport: transport}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestLokiReadsTheCache takes the chunks out of the bucket: stock Loki finds
// them in the cache that a flush has filled, in each of two memcached, and in
// Redis.
func TestLokiReadsTheCache(t *testing.T) {
	const n = 40
	for kind, servers := range map[string]int{Memcached: 2, Redis: 1} {
		var addresses []string
		for range servers {
			addresses = append(addresses, startBackend(t, kind).address())
		}
		dir := t.TempDir()
		c := open(t, kind, func(cfg *Config) { cfg.Placement = Loki }, addresses...)
		start := time.Now().Add(-3 * time.Hour).Truncate(time.Hour).UnixNano()
		flush(t, newStore(t, openBucket(t, dir), c), n, start, nothing)
		written(t, c)
		if err := os.RemoveAll(filepath.Join(dir, "t")); err != nil {
			t.Fatal(err)
		}
		list := strings.Join(addresses, ",")
		conf := map[string]string{
			Memcached: "memcached_client: {addresses: '" + list + "', consistent_hash: true, timeout: 5s}",
			Redis:     "redis: {endpoint: '" + list + "', timeout: 5s}",
		}[kind]
		got, err := startLoki(t, dir, conf).QueryAll(soon(t), `{app=~".+"}`, start, start+3600e9)
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, s := range got {
			total += len(s.Entries)
		}
		if total != n*lines {
			t.Errorf("%s: Loki shows %d lines of %d", kind, total, n*lines)
		}
	}
}
