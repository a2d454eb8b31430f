//go:build integration

package main

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// generous takes the limits out of the way.
var generous = []string{
	"-log.level=warn", "-limits.ingestion-rate-mb=10000", "-limits.ingestion-burst-size-mb=10000",
	"-limits.per-stream-rate-limit=10GB", "-limits.per-stream-rate-limit-burst=10GB",
}

// lineSize is about what a line of a Workload is long.
const lineSize = 150

// TestKillGateway kills the gateway again and again while 100 MB go through it.
// A rate limit makes that take a while, and gives the plugin refusals of another
// kind as well. Every line must be there once.
func TestKillGateway(t *testing.T) {
	const linesPerBatch = 2000
	args := append(append([]string{}, generous...), "-limits.ingestion-rate-mb=20", "-limits.ingestion-burst-size-mb=20")
	gateway := testkit.NewServer(t, t.TempDir(), args...)
	gateway.Start()
	gateway.WaitReady()
	a := newAgent(t, gateway.GRPC)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &testkit.Workload{Senders: a.senders(4), Lines: linesPerBatch}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()

	bytes := func() int64 { return w.Acked() * linesPerBatch * lineSize }
	kills, busy := 0, 0
	for ; ctx.Err() == nil || a.pending() > 0 && kills < 25; kills++ {
		time.Sleep(200*time.Millisecond + rand.N(time.Second))
		if bytes() >= 100e6 {
			cancel()
		}
		if a.pending() > 0 {
			busy++
		}
		gateway.Kill()
		gateway.Start()
		if kills%3 > 0 { // else the next one may well meet it before it is ready
			gateway.WaitReady()
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	gateway.WaitReady()
	waitEmpty(t, a, 2*time.Minute)
	n, err := w.Check(context.Background(), gateway.Client(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d lines, about %d MB; killed %d times, %d of them with chunks on their way", n, bytes()/1e6, kills, busy)
	if busy < 3 || bytes() < 100e6 {
		t.Fatal("too little happened")
	}
}

// TestReloadUnderLoad reloads the agent's configuration and restarts it while
// lines come in. None may be lost.
func TestReloadUnderLoad(t *testing.T) {
	gateway := testkit.NewServer(t, t.TempDir(), generous...)
	gateway.Start()
	gateway.WaitReady()
	a := newAgent(t, gateway.GRPC)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &testkit.Workload{Senders: a.senders(4), Lines: 100, Pause: 5 * time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()

	for _, step := range []func(){a.reload, a.restart, a.reload, a.restart, a.restart, a.reload} {
		time.Sleep(300*time.Millisecond + rand.N(700*time.Millisecond))
		before := w.Acked()
		step()
		for deadline := time.Now().Add(30 * time.Second); w.Acked() == before; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("nothing gets through any more")
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	waitEmpty(t, a, time.Minute)
	n, err := w.Check(context.Background(), gateway.Client(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d lines over 3 reloads and 3 restarts", n)
	if n < 1000 {
		t.Fatal("too little happened")
	}
}
