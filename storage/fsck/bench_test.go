package fsck

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// made is a bucket of one tenant whose keys are made when they are listed.
type made struct {
	streams []string // folders, sorted
	fps     map[string]uint64
	days    int
	perDay  int // chunks of a stream
	index   map[string][]byte
}

func newMade(tb testing.TB, streams, days, perDay int) *made {
	m := &made{fps: map[string]uint64{}, days: days, perDay: perDay, index: map[string][]byte{}}
	series := make([]index.Series, streams)
	for i := range streams {
		ls := labels.FromMap(map[string]string{"app": fmt.Sprint("app-", i%100), "pod": fmt.Sprintf("pod-%06d", i)})
		fp := ls.Fingerprint()
		name := fmt.Sprintf("%x", fp)
		m.streams, m.fps[name] = append(m.streams, name), fp
		series[i] = index.Series{Labels: ls, Fingerprint: fp}
	}
	slices.Sort(m.streams)
	for d := range days {
		for i := range series {
			series[i].Chunks = nil
			for c := range perDay {
				k := m.key(series[i].Fingerprint, d, c)
				series[i].Chunks = append(series[i].Chunks, index.ChunkMeta{MinTime: k.From, MaxTime: k.Through, Checksum: k.Checksum, KB: 1500, Entries: 9000})
			}
		}
		file, info, err := index.Build(nil, series)
		if err != nil {
			tb.Fatal(err)
		}
		packed, err := storage.PackIndex(file)
		if err != nil {
			tb.Fatal(err)
		}
		m.index[storage.TenantIndexKey(int64(19000+d), "a", int64(1e18), info)] = packed
	}
	return m
}

func (m *made) key(fp uint64, day, c int) chunk.Key {
	from := int64(19000+day)*storage.DayMillis + int64(c)*1000
	return chunk.Key{Tenant: "a", Fingerprint: fp, From: from, Through: from + 900, Checksum: uint32(fp) ^ uint32(from)}
}

func (m *made) List(_ context.Context, prefix string, recursive bool) ([]string, error) {
	switch {
	case prefix == "":
		return []string{"a/", "index/"}, nil
	case strings.HasPrefix(prefix, "index/"), strings.HasPrefix(prefix, "loki-go/"):
		var out []string
		for k := range m.index {
			if !strings.HasPrefix(k, prefix) {
				continue
			}
			if !recursive {
				k = k[:len(prefix)+strings.IndexByte(k[len(prefix):], '/')+1]
			}
			out = append(out, k)
		}
		slices.Sort(out)
		return slices.Compact(out), nil
	}
	start, exact := strings.CutSuffix(strings.TrimPrefix(prefix, "a/"), "/")
	var out []string
	for i := sort.SearchStrings(m.streams, start); i < len(m.streams) && strings.HasPrefix(m.streams[i], start); i++ {
		if exact && start != "" && m.streams[i] != start {
			continue
		}
		if !recursive {
			out = append(out, "a/"+m.streams[i]+"/")
			continue
		}
		for d := range m.days {
			for c := range m.perDay {
				out = append(out, m.key(m.fps[m.streams[i]], d, c).String())
			}
		}
	}
	return out, nil
}

func (m *made) Get(_ context.Context, key string) ([]byte, error) {
	if b, ok := m.index[key]; ok {
		return slices.Clone(b), nil
	}
	return nil, objstore.ErrNotFound
}

func (m *made) Stat(context.Context, string) (objstore.Info, error) {
	return objstore.Info{}, objstore.ErrNotFound
}

func (m *made) Put(context.Context, string, []byte) error { return objstore.ErrNotFound }
func (m *made) Delete(context.Context, string) error      { return objstore.ErrNotFound }

// BenchmarkQuick compares the lists of a bucket with a million chunks, at once
// and in parts. MB is the largest heap during the run, beyond that before it.
func BenchmarkQuick(b *testing.B) {
	m := newMade(b, 20_000, 10, 5)
	for _, memory := range []units.Bytes{256 * units.MiB, 8 * units.MiB} {
		b.Run(memory.String(), func(b *testing.B) {
			cfg := DefaultConfig()
			cfg.Quick, cfg.MaxMemory, cfg.Concurrency = true, memory, 2
			most := uint64(0)
			for b.Loop() {
				runtime.GC()
				var s runtime.MemStats
				runtime.ReadMemStats(&s)
				before := s.HeapAlloc
				c := New(cfg, Deps{Bucket: m, Report: func(f Finding) { b.Errorf("%+v", f) }})
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for {
						select {
						case <-stop:
							return
						case <-time.After(5 * time.Millisecond):
							var s runtime.MemStats
							runtime.ReadMemStats(&s)
							most = max(most, s.HeapAlloc-min(before, s.HeapAlloc))
						}
					}
				}()
				sum, err := c.Run(b.Context())
				close(stop)
				<-stopped
				if n := sum.Tenants["a"]; err != nil || n.Chunks != 1_000_000 || n.Listings != 1_000_000 {
					b.Fatal(err, n)
				}
				b.ReportMetric(float64(sum.Parts), "parts")
			}
			b.ReportMetric(float64(most)/1e6, "MB")
		})
	}
}
