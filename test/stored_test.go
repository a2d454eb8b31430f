//go:build integration

package test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/loki-go/loki-go/internal/bench"
	"github.com/loki-go/loki-go/internal/testkit"
)

// writerConfig is a stock Loki that takes pushes, with zstd and its defaults
// for the size of blocks and chunks.
var writerConfig = template.Must(template.New("").Parse(`
auth_enabled: false
target: all
analytics: {reporting_enabled: false}
server: {http_listen_address: 127.0.0.1, http_listen_port: {{.HTTP}}, grpc_listen_address: 127.0.0.1, grpc_listen_port: {{.GRPC}}, log_level: error}
common:
  instance_addr: 127.0.0.1
  path_prefix: {{.Dir}}
  replication_factor: 1
  ring: {instance_addr: 127.0.0.1, kvstore: {store: inmemory}}
storage_config:
  use_thanos_objstore: true
  object_store:
    filesystem: {dir: {{.Dir}}/objects}
schema_config:
  configs:
    - {from: 2020-01-01, store: tsdb, object_store: filesystem, schema: v13, index: {prefix: index_, period: 24h}}
ingester: {chunk_encoding: zstd}
limits_config: {ingestion_rate_mb: 10000, ingestion_burst_size_mb: 10000, per_stream_rate_limit: 10GB, per_stream_rate_limit_burst: 10GB, discover_service_name: [], discover_log_levels: false}
`))

// TestStoredBytes: chunks and index of the same lines take no more bytes than
// those that stock Loki writes with zstd.
func TestStoredBytes(t *testing.T) {
	t.Parallel()
	f := func(name string, spec bench.Spec) {
		t.Run(name, func(t *testing.T) {
			var batches []bench.Batch
			raw := int64(0)
			for c := range spec.Conns {
				for _, b := range spec.Batches(c) {
					batches = append(batches, b)
					raw += b.Bytes
				}
			}
			ours := storedByUs(t, batches)
			theirs := storedByLoki(t, batches)
			ratio := func(n int64) string { return fmt.Sprintf("%d (%.4f)", n, float64(n)/float64(raw)) }
			t.Logf("%d bytes of lines in %d streams: loki-go stores chunks %s, index %s; Loki with zstd chunks %s, index %s",
				raw, spec.Streams, ratio(ours.chunks), ratio(ours.index), ratio(theirs.chunks), ratio(theirs.index))
			if ours.chunks == 0 || ours.index == 0 || theirs.chunks == 0 || theirs.index == 0 {
				t.Fatal("something was not stored")
			}
			if a, b := ours.chunks+ours.index, theirs.chunks+theirs.index; a > b {
				t.Errorf("loki-go stores %d bytes, Loki %d", a, b)
			}
		})
	}
	start := time.Now().Add(-15 * time.Minute).UnixNano()
	f("full chunks", bench.Spec{Protocol: "loki", Streams: 12, Bytes: 200_000_000, Batch: 512 << 10, Conns: 2, Seed: 1, Start: start})
	f("small chunks", bench.Spec{Protocol: "loki", Streams: 1000, Bytes: 40_000_000, Batch: 512 << 10, Conns: 2, Seed: 2, Start: start})
}

// stored is what is in a bucket.
type stored struct{ chunks, index int64 }

func storedIn(t *testing.T, objects string) (s stored) {
	t.Helper()
	err := filepath.WalkDir(objects, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(objects, path)
		switch dir, _, _ := strings.Cut(rel, string(filepath.Separator)); dir {
		case "index":
			s.index += info.Size()
		case "fake":
			s.chunks += info.Size()
		default:
			t.Errorf("unexpected object %s", rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t *testing.T, url string, batches []bench.Batch) {
	t.Helper()
	for _, b := range batches {
		resp, err := http.Post(url+"/loki/api/v1/push", "application/x-protobuf", bytes.NewReader(b.Body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			t.Fatalf("push: status %d", resp.StatusCode)
		}
	}
}

func storedByUs(t *testing.T, batches []bench.Batch) stored {
	t.Helper()
	s := testkit.NewServer(t, t.TempDir(), append([]string{"-limits.discover-service-name="}, bench.Unlimited...)...)
	s.Start()
	s.WaitReady()
	send(t, "http://"+s.HTTP, batches)
	if err := s.Stop(3 * time.Minute); err != nil {
		t.Fatal(err)
	}
	return storedIn(t, filepath.Join(s.Dir, "objects"))
}

func storedByLoki(t *testing.T, batches []bench.Batch) stored {
	t.Helper()
	l := runLoki(t, writerConfig, bucket{})
	send(t, l.url, batches)
	resp, err := http.Post(l.url+"/ingester/shutdown?flush=true&terminate=true", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	select {
	case <-l.done:
	case <-ctx.Done():
		t.Fatal("Loki does not end")
	}
	return storedIn(t, filepath.Join(l.dir, "objects"))
}
