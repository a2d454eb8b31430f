package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/internal/server"
	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/vfs"
)

// inProcess is a server within the test, wired as cmd/loki-go wires it, over a
// file layer in memory. Its ports stay the same over restarts.
type inProcess struct {
	t   *testing.T
	cfg server.Config
	mem *vfs.Mem
	srv *server.Server

	mu    sync.RWMutex
	down  bool // what is acknowledged now does not count
	epoch int
}

func newInProcess(t *testing.T, args ...string) *inProcess {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	p := &inProcess{t: t, cfg: server.DefaultConfig(), mem: vfs.NewMem()}
	b, err := config.Bind(&p.cfg)
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{
		"-data-dir=/data", "-forward.heartbeat=false", "-forward.drain-timeout=10ms", "-otlp.grpc-listen=", "-server.grpc-listen=",
		fmt.Sprintf("-server.http-listen=127.0.0.1:%d", testkit.FreePort(t)), fmt.Sprintf("-forward.listen=127.0.0.1:%d", testkit.FreePort(t)),
	}, args...)
	parsed, errs := config.ParseArgs(args, b)
	errs = append(errs, config.Apply(parsed, func(string) (string, bool) { return "", false })...)
	if errs = append(errs, p.cfg.Validate()...); len(errs) > 0 {
		t.Fatal(errors.Join(errs...))
	}
	p.open()
	t.Cleanup(func() {
		p.stop()
		http.DefaultClient.CloseIdleConnections()
		if err := goleak.Find(leaks); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *inProcess) open() {
	p.t.Helper()
	level := new(slog.LevelVar)
	log, err := server.NewLogger(server.LogConfig{Level: "error", Format: "logfmt"}, level, p.t.Output())
	if err != nil {
		p.t.Fatal(err)
	}
	p.srv, err = server.Open(p.cfg, server.Deps{
		FS: p.mem, Log: log, Level: level, Registry: prometheus.NewRegistry(), Settings: func() []byte { return nil },
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *inProcess) client() *testkit.Client {
	return &testkit.Client{Base: "http://" + p.cfg.Server.Listen}
}

func (p *inProcess) waitReady() {
	p.t.Helper()
	eventually(p.t, "ready", func() bool { return p.srv.Ready() == nil })
}

// stop ends the server without waiting for a flush.
func (p *inProcess) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// The flush was cut short; everything is in the WAL.
	_ = p.srv.Shutdown(ctx)
}

// crash cuts the power: of the files only what a disk would have is left.
func (p *inProcess) crash(rng *rand.Rand, mode vfs.CrashMode) {
	p.t.Helper()
	p.mu.Lock()
	left := p.mem.CrashClone(rng, mode)
	p.down = true
	p.mu.Unlock()
	p.stop()
	p.mem = left
	p.mu.Lock()
	p.down = false
	p.epoch++
	p.mu.Unlock()
	p.open()
}

// counted makes a sender to which an acknowledgement that arrives after the
// power was cut is none.
type counted struct {
	testkit.Sender
	p *inProcess
}

var errPower = errors.New("the power was cut before the answer arrived")

func (c counted) Send(ctx context.Context, id uint64, streams []testkit.Stream) error {
	c.p.mu.RLock()
	epoch := c.p.epoch
	c.p.mu.RUnlock()
	err := c.Sender.Send(ctx, id, streams)
	c.p.mu.RLock()
	defer c.p.mu.RUnlock()
	if err == nil && (c.p.down || c.p.epoch != epoch) {
		return errPower
	}
	return err
}

func (p *inProcess) senders() []testkit.Sender {
	var out []testkit.Sender
	for _, s := range senders(p.cfg.Server.Listen, p.cfg.Forward.Listen[0]) {
		out = append(out, counted{s, p})
	}
	return out
}

// TestPowerLoss is TestKillUnderLoad with a disk that forgets what was not
// synced, or keeps a random part of it.
func TestPowerLoss(t *testing.T) {
	p := newInProcess(t, busy...)
	p.waitReady()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &testkit.Workload{Senders: p.senders()}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for i := range powerCuts {
		time.Sleep(time.Duration(rng.Int64N(int64(killWithin))))
		mode := vfs.DropUnsynced
		if i%2 == 1 {
			mode = vfs.KeepRandom
		}
		p.crash(rng, mode)
	}
	p.waitReady()
	time.Sleep(200 * time.Millisecond) // some pushes after the last cut
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	n, err := w.Check(context.Background(), p.client())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d lines found; %d batches acknowledged, %d sent again", n, w.Acked(), w.Retries())
	if err := p.client().Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Check(context.Background(), p.client()); err != nil {
		t.Fatalf("after a flush: %v", err)
	}
	p.crash(rng, vfs.DropUnsynced)
	p.waitReady()
	if _, err := w.Check(context.Background(), p.client()); err != nil {
		t.Fatalf("after a last cut: %v", err)
	}
}

// TestDiskFullInProcess: when there is no space, pushes get 503 and nothing
// acknowledged is lost, also when the power is cut then; when there is space
// again, pushes are taken again without anybody's help.
func TestDiskFullInProcess(t *testing.T) {
	p := newInProcess(t, append(busy, "-ingester.chunk-idle-period=1h", "-ingester.index-interval=1h")...)
	p.waitReady()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	refused := make(chan error, 1)
	var sends []testkit.Sender
	for _, s := range p.senders() {
		sends = append(sends, noting{s, refused})
	}
	w := &testkit.Workload{Senders: sends}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()

	fillUp := func() {
		t.Helper()
		p.mem.SetCapacity(p.mem.Used() + 3<<20)
		select {
		case <-refused:
		case <-time.After(60 * time.Second):
			t.Fatalf("nothing was refused; %d bytes are used", p.mem.Used())
		}
	}
	resumes := func() {
		t.Helper()
		acked := w.Acked()
		eventually(t, "pushes are acknowledged again", func() bool { return w.Acked() > acked+20 })
		select {
		case <-refused:
		default:
		}
	}
	fillUp()
	p.mem.SetCapacity(0)
	resumes()
	fillUp()
	p.crash(rand.New(rand.NewPCG(1, 1)), vfs.DropUnsynced)
	p.mem.SetCapacity(0)
	p.waitReady()
	resumes()

	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	n, err := w.Check(context.Background(), p.client())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d lines found; %d batches sent again", n, w.Retries())
}

// noting notices refusals for want of disk space: 503, and when to come again.
type noting struct {
	testkit.Sender
	seen chan error
}

func (n noting) Send(ctx context.Context, id uint64, streams []testkit.Stream) error {
	err := n.Sender.Send(ctx, id, streams)
	var se *testkit.StatusError
	if errors.As(err, &se) && se.Status == http.StatusServiceUnavailable && se.RetryAfter != "" && strings.Contains(se.Body, "disk") {
		select {
		case n.seen <- err:
		default:
		}
	}
	return err
}
