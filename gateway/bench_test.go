package gateway

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/ring"
)

type nullReplica struct{}

func (nullReplica) Push(context.Context, *push.Batch) error { return nil }

// benchBatch has n streams with lines of 150 bytes, with or without three pairs
// of metadata, and the size of the lines and the metadata.
func benchBatch(e *env, n, lines int, meta bool) (*push.Batch, int) {
	var streams []stream
	size := 0
	for i := range n {
		s := stream{labels: fmt.Sprintf(`{cluster="eu-1", namespace="shop", app="app-%d", container="main", pod="app-%d-7c9f"}`, i, i)}
		for j := range lines {
			l := at(time.Duration(j), strings.Repeat("GET /api/v1/items ", 8)+fmt.Sprintf("%6d", j))
			if meta {
				l.meta = []string{"trace_id", fmt.Sprintf("%032x", j), "level", "info", "thread", "main"}
			}
			s.lines = append(s.lines, l)
			size += len(l.text) + len(strings.Join(l.meta, ""))
		}
		streams = append(streams, s)
	}
	return e.batch(streams...), size
}

func benchEnv(b *testing.B, n, rf int) *env {
	e := newEnv(b, n, func(cfg *Config, l *limits.Limits) {
		cfg.ReplicationFactor = rf
		l.IngestionRateMB, l.IngestionBurstSizeMB = 1e6, 1e6
		l.PerStreamRateLimit, l.PerStreamRateLimitBurst = 1<<50, 1<<50
	})
	e.g.d.Dial = func(ring.Instance) (Replica, error) { return nullReplica{}, nil }
	return e
}

func BenchmarkPush(b *testing.B) {
	for _, c := range []struct {
		streams, lines int
		meta           bool
	}{{100, 50, false}, {100, 500, false}, {100, 50, true}, {1, 5000, false}, {5000, 1, false}} {
		b.Run(fmt.Sprintf("streams=%d/lines=%d/meta=%v", c.streams, c.lines, c.meta), func(b *testing.B) {
			e := benchEnv(b, 1, 1)
			batch, size := benchBatch(e, c.streams, c.lines, c.meta)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := e.g.Push(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReplicate has three replicas, of three instances (the whole batch
// goes to all) and of ten (it is divided and compressed anew).
func BenchmarkReplicate(b *testing.B) {
	for _, n := range []int{3, 10} {
		b.Run(fmt.Sprintf("instances=%d/rf=3", n), func(b *testing.B) {
			e := benchEnv(b, n, 3)
			batch, size := benchBatch(e, 100, 50, false)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := e.g.Push(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
			e.drain()
		})
	}
}

func BenchmarkLabelCache(b *testing.B) {
	e := newEnv(b, 1, nil)
	lim := e.lim.Load()
	raw := []byte(`{cluster="eu-1", namespace="shop", app="app-17", container="main", pod="app-17-7c9f"}`)
	b.Run("hit", func(b *testing.B) {
		tn := e.g.tenant("fake")
		b.ReportAllocs()
		for b.Loop() {
			e.g.labels.lookup(tn, lim, raw)
		}
	})
	b.Run("miss", func(b *testing.B) {
		tn := e.g.tenant("fake")
		b.ReportAllocs()
		for b.Loop() {
			newStreamInfo(tn, lim, string(raw))
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	e := newEnv(b, 1, nil)
	b.ReportAllocs()
	for b.Loop() {
		release, err := e.g.Admit(context.Background(), 1<<20)
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}

// TestPushAllocations: what a push allocates does not depend on how many
// streams and entries it has.
func TestPushAllocations(t *testing.T) {
	f := func(streams, lines int, meta bool) float64 {
		e := newEnv(t, 1, func(_ *Config, l *limits.Limits) { l.IngestionRateMB, l.PerStreamRateLimit = 0, 1<<50 })
		e.g.d.Dial = func(ring.Instance) (Replica, error) { return nullReplica{}, nil }
		b, _ := benchBatch(e, streams, lines, meta)
		defer b.Release()
		return testing.AllocsPerRun(20, func() {
			if err := e.g.Push(context.Background(), b); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, n := range []float64{f(1, 1, false), f(100, 50, false), f(100, 50, true), f(3, 3000, true)} {
		if n > 5 {
			t.Errorf("%v allocations", n)
		}
	}
}
