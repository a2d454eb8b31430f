package compactor

import (
	"fmt"
	"runtime"
	"runtime/debug"
	rtmetrics "runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// benchIndex puts files of the same n streams, each with two chunks of its own,
// and returns how large they are, uncompressed.
func benchIndex(b *testing.B, w *world, files, n int) int64 {
	size := int64(0)
	for f := range files {
		series := make([]index.Series, n)
		for i := range series {
			ls := labels.Labels{
				{Name: "app", Value: fmt.Sprint("app-", i%500)},
				{Name: "cluster", Value: "eu-1"},
				{Name: "container", Value: "main"},
				{Name: "namespace", Value: fmt.Sprint("ns-", i%50)},
				{Name: "pod", Value: fmt.Sprintf("app-%d-5d89f7c-%05x", i%500, i)},
				{Name: "stream", Value: []string{"stdout", "stderr"}[i%2]},
			}
			from := day*storage.DayMillis + int64(f)*3_600_000 + int64(i%1000)
			series[i] = index.Series{Labels: ls, Fingerprint: ls.Fingerprint(), Chunks: []index.ChunkMeta{
				{MinTime: from, MaxTime: from + 1_800_000, KB: 300, Entries: 2000, Checksum: uint32(i)},
				{MinTime: from + 1_800_000, MaxTime: from + 3_599_000, KB: 300, Entries: 2000, Checksum: uint32(i)},
			}}
		}
		file, info, err := index.Build(nil, series)
		if err != nil {
			b.Fatal(err)
		}
		object, err := storage.PackIndex(file)
		if err != nil {
			b.Fatal(err)
		}
		if err := w.bucket.Put(b.Context(), storage.TenantIndexKey(day, "a", int64(f), info), object); err != nil {
			b.Fatal(err)
		}
		size += int64(len(file))
	}
	return size
}

// peak calls f and returns the most memory that the process had meanwhile.
func peak(f func()) uint64 {
	done := make(chan struct{})
	var wg sync.WaitGroup
	var most uint64
	wg.Go(func() {
		s := []rtmetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		for {
			rtmetrics.Read(s)
			most = max(most, s[0].Value.Uint64()-s[1].Value.Uint64())
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	f()
	close(done)
	wg.Wait()
	return most
}

// mergeAll merges what benchIndex has put, b.N times.
func mergeAll(b *testing.B, files, n int) {
	w := newWorld(b, dayTime(day+2))
	var err error
	if w.bucket, err = objstore.OpenFilesystem(vfs.OS, b.TempDir()); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchIndex(b, w, files, n))
	runtime.GC()
	debug.FreeOSMemory()
	b.ReportAllocs()
	b.ResetTimer()
	most := peak(func() {
		for b.Loop() {
			r := run{Compactor: w.compactor(w.bucket)}
			r.cfg = DefaultConfig()
			all, err := r.list(b.Context(), day)
			if err != nil || len(all) != files {
				b.Fatal(len(all), err)
			}
			j := job{day: day, tenant: "a", files: all, listed: w.clock()}
			file, _, err := r.merge(b.Context(), j)
			if err != nil {
				b.Fatal(err)
			}
			made, err := r.put(b.Context(), &j, file)
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := w.bucket.Delete(b.Context(), made.Key); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.ReportMetric(float64(most)/(1<<20), "peak-MiB")
	if most > 2<<30 {
		b.Fatalf("%d MiB of memory", most>>20)
	}
}

// BenchmarkMerge merges 24 files of 10,000 streams.
func BenchmarkMerge(b *testing.B) { mergeAll(b, 24, 10_000) }

// BenchmarkMillionSeries merges 4 files of the same 1,000,000 streams, which
// must take less than 2 GiB.
func BenchmarkMillionSeries(b *testing.B) { mergeAll(b, 4, 1_000_000) }
