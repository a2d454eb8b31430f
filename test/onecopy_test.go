//go:build integration

package test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
)

// inBucket is what a bucket has.
type inBucket struct {
	objects       int
	bytes, chunks int64
	copies        map[string]int // of each line
}

func (c *clusterOf) bucket() inBucket {
	c.t.Helper()
	ctx := context.Background()
	b := s3Bucket(c.store, "logs").Open(c.t)
	keys, err := b.List(ctx, "", true)
	if err != nil {
		c.t.Fatal(err)
	}
	out := inBucket{copies: map[string]int{}}
	for _, key := range keys {
		if strings.HasPrefix(key, "loki-go/") {
			continue
		}
		body, err := b.Get(ctx, key)
		if err != nil {
			c.t.Fatal(err)
		}
		out.objects++
		out.bytes += int64(len(body))
		if strings.HasPrefix(key, storage.TablesPrefix) {
			continue
		}
		out.chunks += int64(len(body))
		obj, err := chunk.Decode(body)
		if err != nil {
			c.t.Fatalf("%s: %v", key, err)
		}
		for k := range obj.Blocks {
			content, _, err := obj.Ref(k).Load(nil)
			if err != nil {
				c.t.Fatalf("%s: %v", key, err)
			}
			it := chunk.Entries(content)
			for it.Next() {
				out.copies[fmt.Sprintf("%d %s", it.TS, it.Line)]++
			}
			if it.Err() != nil {
				c.t.Fatalf("%s: %v", key, it.Err())
			}
		}
	}
	return out
}

// most returns the largest number of copies of a line, and how many lines have
// more than one.
func (b inBucket) most() (most, several int) {
	for _, n := range b.copies {
		most = max(most, n)
		if n > 1 {
			several++
		}
	}
	return most, several
}

// feed sends the same lines over both gateways, on a few connections each.
type feed struct {
	streams, batches, lines int
	start                   int64
}

func (f feed) run(t *testing.T, c *clusterOf) int {
	t.Helper()
	var wg sync.WaitGroup
	conns := 4
	for k := range conns {
		client := c.gateways[k%len(c.gateways)].Client("")
		gen := loglines.New(uint64(k))
		wg.Go(func() {
			ts := f.start
			for range f.batches {
				var all []testkit.Stream
				for s := range 3 {
					st := testkit.Stream{Labels: []testkit.Pair{{Name: "app", Value: fmt.Sprintf("app-%d-%d", k, (int(ts)/1000+s)%f.streams)}}}
					for range f.lines {
						ts += 1000
						st.Entries = append(st.Entries, testkit.Entry{TS: ts + int64(k), Line: string(gen.AppendLine(nil, s, ts))})
					}
					all = append(all, st)
				}
				if err := client.Push(context.Background(), all); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return conns * f.batches * 3 * f.lines
}

func (c *clusterOf) flush() {
	c.t.Helper()
	for _, s := range c.ingesters {
		if err := s.Client("").Flush(context.Background()); err != nil {
			c.t.Fatal(err)
		}
	}
}

// TestOneCopy stores the same lines with one and with three replicas, which is
// to take the same space in the bucket.
func TestOneCopy(t *testing.T) {
	t.Parallel()
	f := feed{streams: 8, batches: 400, lines: 40, start: time.Now().Add(-10 * time.Minute).UnixNano()}
	args := []string{
		"-ingester.chunk-block-size=64KB", "-ingester.chunk-target-size=128KB", "-ingester.chunk-idle-period=1h",
		"-ingester.one-copy-grace=10m", "-ingester.index-interval=500ms",
	}
	measure := func(name string, steps func(c *clusterOf), more ...string) inBucket {
		c := newCluster(t, 3, append(args, more...)...)
		n := f.run(t, c)
		steps(c)
		b := c.bucket()
		before, several := b.most()
		t.Logf("%s: %d lines, %d objects, %d bytes, %d of them chunks; at most %d copies, %d lines have several", name, n, b.objects, b.bytes, b.chunks, before, several)
		if len(b.copies) != n {
			t.Errorf("%s: %d lines are stored, of %d", name, len(b.copies), n)
		}
		for _, s := range append(c.ingesters, c.gateways...) {
			if err := s.Stop(30 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
		// Who had ended before the others told it what they stored has that still.
		after := c.bucket()
		if most, _ := after.most(); most > max(2, before) || after.chunks > b.chunks+b.chunks/50 {
			t.Errorf("%s: the end of the processes stored %d bytes more; at most %d copies", name, after.chunks-b.chunks, most)
		}
		return b
	}
	flush := func(c *clusterOf) { c.flush() }
	one := measure("1 replica", flush, "-ring.replication-factor=1")
	three := measure("3 replicas", flush)
	stop := func(c *clusterOf) {
		var wg sync.WaitGroup
		for _, s := range c.ingesters {
			wg.Go(func() {
				if err := s.Stop(30 * time.Second); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, s := range c.ingesters {
			s.Start()
			s.WaitReady()
		}
		c.waitActive(3)
	}
	together := measure("3 replicas, ended together", stop)
	all := measure("3 replicas, all of which store", flush, "-ingester.one-copy=false")
	for name, b := range map[string]inBucket{"3 replicas": three, "3 replicas, ended together": together} {
		// A push is answered when two replicas have it: the third, which may be
		// the first to store it, may get it after the flush has begun.
		if most, several := b.most(); most > 2 || several > len(b.copies)/50 {
			t.Errorf("%s: %d lines are stored more than once", name, several)
		}
		if ratio := float64(b.bytes) / float64(one.bytes); ratio > 1.1 {
			t.Errorf("%s: %.3f of the bytes of 1 replica", name, ratio)
		}
	}
	// Replicas that happen to make the same chunk store it under the same key: how
	// many do is a matter of luck.
	if all.chunks < one.chunks*11/10 {
		t.Errorf("without one-copy %d bytes of chunks are stored, with 1 replica %d: this test measures nothing", all.chunks, one.chunks)
	}
	t.Logf("bytes at RF 3 / RF 1: %.3f; ended together %.3f; without one-copy %.3f",
		float64(three.bytes)/float64(one.bytes), float64(together.bytes)/float64(one.bytes), float64(all.bytes)/float64(one.bytes))
}

// TestOneCopyKills kills an ingester with what it was to store: from the bucket
// alone every acknowledged line is there, in two copies at most.
func TestOneCopyKills(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "-ingester.one-copy-grace=8s", "-ingester.chunk-idle-period=1s")
	w := c.killUnderLoad(c.ingesters[0])
	c.flush()
	if most := c.checkBucket(w); most > 2 {
		t.Errorf("a line is stored %d times", most)
	}
}

// TestOneCopyManyKills kills one ingester after the other, the last one for good,
// with a grace so short that all of them store.
func TestOneCopyManyKills(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "-ingester.one-copy-grace=500ms")
	w := c.killUnderLoad(c.ingesters...)
	c.ingesters[2].Kill()
	for _, s := range c.ingesters[:2] {
		if err := s.Stop(30 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	c.checkBucket(w)
}

// killUnderLoad sends lines while it kills ingesters and starts them again.
func (c *clusterOf) killUnderLoad(victims ...*testkit.Server) *testkit.Workload {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &testkit.Workload{Senders: c.senders(), Pause: 40 * time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for _, victim := range victims {
		time.Sleep(1500 * time.Millisecond)
		victim.Kill()
		if _, err := w.Check(context.Background(), c.gateways[0].Client("")); err != nil {
			c.t.Fatalf("without an ingester: %v", err)
		}
		time.Sleep(time.Second)
		victim.Start()
		victim.WaitReady()
		c.waitActive(len(c.ingesters))
	}
	time.Sleep(time.Second)
	cancel()
	if err := <-done; err != nil {
		c.t.Fatal(err)
	}
	return w
}

// checkBucket looks for all acknowledged lines in the bucket alone, each of which
// a query has to show once. It returns how many copies of a line there are.
func (c *clusterOf) checkBucket(w *testkit.Workload) int {
	c.t.Helper()
	alone := testkit.NewServer(c.t, c.t.TempDir(), s3Bucket(c.store, "logs").Args...)
	alone.Start()
	alone.WaitReady()
	n, err := w.Check(context.Background(), alone.Client(""))
	if err != nil {
		c.t.Fatalf("from the bucket alone: %v", err)
	}
	b := c.bucket()
	most, several := b.most()
	c.t.Logf("from the bucket alone: %d lines; %d objects, at most %d copies, %d lines have several; %d batches sent again", n, b.objects, most, several, w.Retries())
	return most
}
