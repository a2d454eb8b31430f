package test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
)

// busy are settings with which blocks are cut and chunks flushed every moment,
// so that a kill meets every step of a line's way.
var busy = []string{
	testkit.MappedArgs, "-log.level=warn",
	"-ingester.chunk-block-size=16KB", "-ingester.chunk-target-size=32KB", "-ingester.wal.max-size=4MB",
	"-ingester.chunk-idle-period=300ms", "-ingester.flush-check-period=100ms", "-ingester.index-interval=300ms",
	"-limits.ingestion-rate-mb=1000", "-limits.ingestion-burst-size-mb=1000",
	"-limits.per-stream-rate-limit=1GB", "-limits.per-stream-rate-limit-burst=1GB",
}

// senders are eight connections over three protocols.
func senders(http, forward string) []testkit.Sender {
	var out []testkit.Sender
	for i := range 8 {
		c := &testkit.Client{Base: "http://" + http}
		switch i % 4 {
		case 0:
			out = append(out, testkit.SenderFunc(c.Push))
		case 1:
			out = append(out, testkit.SenderFunc(c.PushJSON))
		case 2:
			out = append(out, testkit.ForwardSender(&testkit.ForwardClient{Addr: forward, Tag: "kill"}))
		default:
			out = append(out, testkit.SenderFunc(c.Events))
		}
	}
	return out
}

// TestKillUnderLoad kills the process at random moments while eight
// connections push over Loki's API, forward with acknowledgements, and JSON,
// and starts it again. Every acknowledged line must then be found once: from
// memory and store together, after a flush, and after another start.
func TestKillUnderLoad(t *testing.T) {
	s := testkit.NewServer(t, t.TempDir(), busy...)
	s.Start()
	s.WaitReady()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &testkit.Workload{Senders: senders(s.HTTP, s.Fwd)}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()

	for range kills {
		// The moment is random in time and so in the state of every request; some
		// kills also hit the replay of the one before.
		time.Sleep(rand.N(killWithin))
		s.Kill()
		s.Start()
	}
	s.WaitReady()
	time.Sleep(200 * time.Millisecond) // some pushes after the last start
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		n, err := w.Check(context.Background(), s.Client(""))
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		t.Logf("%s: %d lines found; %d batches acknowledged, %d sent again", when, n, w.Acked(), w.Retries())
		if w.Acked() < 50 || w.Retries() == 0 {
			t.Errorf("%s: too little happened", when)
		}
	}
	check("after the last kill")
	if err := s.Client("").Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	check("after a flush")
	if err := s.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	s.Start()
	s.WaitReady()
	check("after a graceful end")
}
