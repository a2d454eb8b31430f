//go:build integration

package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/faultproxy"
	"github.com/loki-go/loki-go/internal/testkit/s3server"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/fsck"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/s3"
)

// newSeed returns a random seed, or that of LOKI_GO_SEED, and prints it.
func newSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("LOKI_GO_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("LOKI_GO_SEED: %v", err)
		}
	}
	t.Logf("LOKI_GO_SEED=%d", seed)
	return seed
}

// faultyStore is a bucket of a real S3 service, and a proxy that makes it fail.
type faultyStore struct {
	proxy   *faultproxy.Proxy
	through bucket // the bucket by way of the proxy
	direct  bucket
	objects objstore.Bucket // without the proxy
	dir     string          // of the bucket
}

func newFaultyStore(t *testing.T, server *s3server.Server, name string, seed uint64) *faultyStore {
	t.Helper()
	s := &faultyStore{direct: s3Bucket(server, name), dir: filepath.Join(server.Dir, name)}
	var err error
	if s.proxy, err = faultproxy.Start(server.URL, seed); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.proxy.Close)
	s.through = s3Bucket(&s3server.Server{URL: s.proxy.URL}, name)
	c := s3.DefaultConfig()
	c.Endpoint, c.Bucket, c.PathStyle = server.URL, name, true
	c.AccessKey, c.SecretKey = s3server.AccessKey, s3server.SecretKey
	b, err := s3.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	s.objects = b
	return s
}

// contents is what is in a bucket.
type contents struct {
	stored map[string]bool // keys of chunks
	listed map[string]int  // keys of chunks that index files list, and how many do
	// tables counts the index files of each folder.
	tables map[string]int
	others []string // what is neither chunk nor index
}

func (s *faultyStore) contents(t *testing.T) contents {
	t.Helper()
	ctx := t.Context()
	c := contents{stored: map[string]bool{}, listed: map[string]int{}, tables: map[string]int{}}
	keys, err := s.objects.List(ctx, "", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		switch {
		case strings.HasPrefix(key, storage.TablesPrefix):
			c.tables[path.Dir(key)]++
			s.list(t, key, c.listed)
		case strings.HasPrefix(key, "loki-go/"):
			c.others = append(c.others, key)
		default:
			c.stored[key] = true
		}
	}
	return c
}

// list adds the chunks of an index file to listed.
func (s *faultyStore) list(t *testing.T, key string, listed map[string]int) {
	t.Helper()
	f, err := storage.ParseIndexKey(key)
	if err != nil {
		t.Fatal(err)
	}
	object, err := s.objects.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	rd, err := storage.UnpackIndex(key, object)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	err = index.Source{Reader: rd}.Each(func(_ labels.Labels, fp uint64, metas []index.ChunkMeta) error {
		for _, m := range metas {
			k := chunk.Key{Tenant: f.Tenant, Fingerprint: fp, From: m.MinTime, Through: m.MaxTime, Checksum: m.Checksum}
			listed[k.String()]++
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
}

// check reports chunks that are listed and not there, and returns those that
// are there and not listed.
func (c contents) check(t *testing.T, when string) (orphans []string) {
	t.Helper()
	for key := range c.listed {
		if !c.stored[key] {
			t.Errorf("%s: the index lists %s, which is not there", when, key)
		}
	}
	for key := range c.stored {
		if c.listed[key] == 0 {
			orphans = append(orphans, key)
		}
	}
	return orphans
}

// fsck lets loki-go fsck read all of the bucket, with more settings, and returns
// how many findings there are of each kind.
func (s *faultyStore) fsck(t *testing.T, more ...string) map[fsck.Kind]int {
	t.Helper()
	args := slices.Concat([]string{"fsck", "-json", "-grace=0s", "-data-dir=" + t.TempDir()}, s.direct.Args, more)
	cmd := exec.CommandContext(t.Context(), testkit.Binary(t), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("fsck: %v\n%s", err, &stderr)
	}
	found := map[fsck.Kind]int{}
	for line := range bytes.Lines(out) {
		var f struct {
			fsck.Finding
			Summary json.RawMessage
		}
		if err := json.Unmarshal(line, &f); err != nil {
			t.Fatalf("fsck printed %q: %v", line, err)
		}
		if f.Summary == nil {
			if found[f.Kind]++; !f.Kind.Note() && f.Kind != fsck.Unindexed {
				t.Logf("fsck: %s", line)
			}
		}
	}
	return found
}

// whole wants fsck to find nothing but notes and chunks that are not listed in
// all of their tables, and returns how many of those there are.
func (s *faultyStore) whole(t *testing.T, when string, more ...string) (unlisted int) {
	t.Helper()
	for kind, n := range s.fsck(t, more...) {
		switch {
		case kind == fsck.Unindexed:
			unlisted = n
		case !kind.Note():
			t.Errorf("%s: fsck finds %d of the kind %s", when, n, kind)
		}
	}
	return unlisted
}

// age makes the bucket look as if d had passed: it changes the times in the
// names of the compactor's markers, in their content, and in its lease.
func (s *faultyStore) age(t *testing.T, d time.Duration) {
	t.Helper()
	ctx := t.Context()
	keys, err := s.objects.List(ctx, "loki-go/", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		body, err := s.objects.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		to := key
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.UseNumber()
		switch {
		case strings.HasPrefix(key, "loki-go/check-"):
			continue // of a process that was killed when it started
		case strings.HasPrefix(key, "loki-go/compactor/"):
		default:
			number, rest, _ := strings.Cut(path.Base(key), "-")
			ns, err := strconv.ParseInt(number, 10, 64)
			if err != nil {
				t.Fatalf("%s: %v", key, err)
			}
			to = fmt.Sprintf("%s/%020d-%s", path.Dir(key), ns-int64(d), rest)
		}
		if err := dec.Decode(&fields); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		for _, name := range []string{"renewed", "unlisted"} {
			n, ok := fields[name].(json.Number)
			if !ok {
				continue
			}
			ms, err := n.Int64()
			if err != nil {
				t.Fatalf("%s: %v", key, err)
			}
			fields[name] = ms - d.Milliseconds()
		}
		if body, err = json.Marshal(fields); err != nil {
			t.Fatal(err)
		}
		if err := s.objects.Put(ctx, to, body); err != nil {
			t.Fatal(err)
		}
		if to != key {
			if err := s.objects.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// killPoint is a moment of a process's work with the store.
type killPoint struct {
	what  func(method, key string) bool
	nth   int // of the requests that what selects, from 1
	phase faultproxy.Phase
	// wait lets the request pass and kills that much later; 0: the request does
	// not get any further.
	wait time.Duration
}

// kill makes the proxy kill a process at p. Nothing of the process reaches the
// store after that. The process may start later; pid yields its id then. The
// channel is closed when the signal was sent.
func (s *faultyStore) kill(pid <-chan int, p killPoint) <-chan struct{} {
	killed := make(chan struct{})
	end := func() {
		_ = syscall.Kill(<-pid, syscall.SIGKILL) // it may have ended by itself, which the test sees
		close(killed)
	}
	var mu sync.Mutex
	n, dead := 0, false
	s.proxy.OnRequest(func(method, key string, phase faultproxy.Phase) faultproxy.Action {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case dead:
			return faultproxy.Silence
		case phase != p.phase || !p.what(method, key):
			return faultproxy.Pass
		}
		if n++; n < p.nth {
			return faultproxy.Pass
		}
		if p.wait > 0 {
			if n == p.nth {
				time.AfterFunc(p.wait, end)
			}
			return faultproxy.Pass
		}
		dead = true
		end()
		return faultproxy.Silence
	})
	return killed
}

// isIndex, isChunk and mutates select requests of a process; what a start does
// to see whether the bucket can be used is not of interest.
func isIndex(method, key string) bool {
	return method == "PUT" && strings.HasPrefix(key, storage.TablesPrefix)
}

func isChunk(method, key string) bool {
	return method == "PUT" && !strings.HasPrefix(key, storage.TablesPrefix) && !strings.HasPrefix(key, "loki-go/")
}

func mutates(method, key string) bool {
	return (method == "PUT" || method == "DELETE") && !strings.HasPrefix(key, "loki-go/check-")
}

// metricSum returns the sum of a metric's series whose labels contain all of
// having.
func metricSum(t *testing.T, s *testkit.Server, name string, having ...string) float64 {
	t.Helper()
	text, err := s.Client("").Get(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for line := range strings.Lines(text) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || series != name && !strings.HasPrefix(series, name+"{") ||
			slices.ContainsFunc(having, func(h string) bool { return !strings.Contains(series, h) }) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		sum += v
	}
	return sum
}

// peakMemory returns the most physical memory that a process has had, in bytes.
func peakMemory(t *testing.T, s *testkit.Server) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	f := strings.Fields(rest)
	if len(f) < 2 {
		t.Fatalf("no VmHWM in %q", b)
	}
	kb, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// flushWithin stores everything.
func flushWithin(t *testing.T, s *testkit.Server, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := s.Client("").Flush(ctx); err != nil {
		t.Fatalf("flush: %v\n%s", err, lastLines(s.Output(), 20))
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
