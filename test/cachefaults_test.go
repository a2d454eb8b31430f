//go:build integration

package test

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// cacheServer is a real memcached or redis-server process, at the same port
// over restarts.
type cacheServer struct {
	t      *testing.T
	kind   string
	port   string
	cmd    *exec.Cmd
	exited chan struct{}
}

func startCache(t *testing.T, kind string) *cacheServer {
	t.Helper()
	c := &cacheServer{t: t, kind: kind, port: strconv.Itoa(testkit.FreePort(t))}
	c.start()
	t.Cleanup(c.kill)
	return c
}

func (c *cacheServer) address() string { return "127.0.0.1:" + c.port }

// start starts the process and waits until it listens.
func (c *cacheServer) start() {
	c.t.Helper()
	args := []string{"memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", c.port, "-U", "0", "-m", "64"}
	if c.kind == "redis" {
		args = []string{"redis-server", "--bind", "127.0.0.1", "--port", c.port, "--save", "", "--appendonly", "no", "--dir", c.t.TempDir()}
	}
	var out bytes.Buffer
	c.cmd = exec.Command(args[0], args[1:]...)
	c.cmd.Stdout, c.cmd.Stderr = &out, &out
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatalf("start %s (Debian has it as a package of that name): %v", args[0], err)
	}
	exited := make(chan struct{})
	c.exited = exited
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait() // it is killed, or its port says that it has ended
		close(exited)
	}(c.cmd)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", c.address())
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-exited:
			c.t.Fatalf("%s ended: %s", c.kind, &out)
		default:
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s does not listen: %v", c.kind, err)
		}
	}
}

func (c *cacheServer) kill() {
	_ = c.cmd.Process.Kill() // it may have ended
	<-c.exited
}

func (c *cacheServer) signal(sig syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
}

// TestCacheFaults kills the cache, or makes it hang, while lines are pushed,
// stored and queried, at a random moment. No push, flush or query fails or lacks anything: the
// cache's errors are counted, and when it is back it is used again.
func TestCacheFaults(t *testing.T) {
	t.Parallel()
	seed := newSeed(t)
	for _, kind := range []string{"memcached", "redis"} {
		for name, f := range map[string]struct{ out, end func(*cacheServer) }{
			"killed":  {(*cacheServer).kill, (*cacheServer).start},
			"stopped": {func(c *cacheServer) { c.signal(syscall.SIGSTOP) }, func(c *cacheServer) { c.signal(syscall.SIGCONT) }},
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(seed, uint64(len(kind+name))))
				cacheFaults(t, startCache(t, kind), 2*time.Second+time.Duration(rng.IntN(2e9)), f.out, f.end)
			})
		}
	}
}

func cacheFaults(t *testing.T, cache *cacheServer, phase time.Duration, out, end func(*cacheServer)) {
	args := slices.Concat(busy, []string{
		// Queries find chunks in the cache or in the store, not in memory.
		"-storage.chunk-cache-size=0", "-cache.type=" + cache.kind, "-cache.addresses=" + cache.address(), "-cache.retry-after=500ms",
		"-ingester.chunk-target-size=16KB", "-limits.max-entries-limit-per-query=" + manyLines,
	})
	s := testkit.NewServer(t, t.TempDir(), args...)
	s.Start()
	s.WaitReady()
	count := func(name string, having ...string) float64 {
		return metricSum(t, s, "loki_go_chunkcache_"+name, having...)
	}
	var sends []testkit.Sender
	for range 4 {
		sends = append(sends, testkit.SenderFunc(s.Client("").Push))
	}
	w := pushing(t, &testkit.Workload{Senders: sends, Pause: 50 * time.Millisecond})
	q := querying(t, &queries{client: allAtOnce(s.Client("")), w: w.Workload, pause: 50 * time.Millisecond, timeout: time.Minute}, 2)
	time.Sleep(phase)
	eventually(t, "the cache is used", func() bool { return count("written_bytes_total") > 0 && count("hits_total") > 0 })
	before := count("errors_total") // a busy machine may exceed a time limit
	flushed := metricSum(t, s, "loki_go_ingester_flushed_chunks_total")
	answers := q.answers.Load()
	out(cache)
	time.Sleep(phase)
	eventually(t, "flushes go on", func() bool { return metricSum(t, s, "loki_go_ingester_flushed_chunks_total") > flushed })
	eventually(t, "queries go on", func() bool { return q.answers.Load() > answers+2 })
	eventually(t, "the server is left alone", func() bool { return count("servers_down") == 1 })
	failed := count("errors_total") - before
	if failed == 0 {
		t.Error("the cache's errors are not counted")
	}
	end(cache)
	hits := count("hits_total")
	eventually(t, "the cache is used again", func() bool { return count("servers_down") == 0 && count("hits_total") > hits })
	w.stop(t)
	q.stop()
	flushWithin(t, s, time.Minute)
	out(cache)
	n, err := w.Check(t.Context(), allAtOnce(s.Client("")))
	if err != nil {
		t.Fatalf("%d lines: %v", n, err)
	}
	if w.Retries() != 0 || q.errs.Load() != 0 || metricSum(t, s, "loki_go_ingester_flush_errors_total") != 0 {
		t.Errorf("%d pushes failed, %d queries (%v), %v flushes", w.Retries(), q.errs.Load(), q.lastError(), metricSum(t, s, "loki_go_ingester_flush_errors_total"))
	}
	t.Logf("%d lines, %d queries; %v errors of the cache while it was out", n, q.answers.Load(), failed)

	// A process that starts without the cache.
	s.Kill()
	s.Start()
	s.WaitReady()
	if n, err := w.Check(t.Context(), allAtOnce(s.Client(""))); err != nil {
		t.Fatalf("after a start without the cache: %d lines: %v", n, err)
	}
}
