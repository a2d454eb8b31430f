package storage

import (
	"context"
	"fmt"
	"testing"

	"github.com/loki-go/loki-go/internal/vfs"
	logquery "github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// manySeries returns as many series of one chunk each.
func manySeries(t testing.TB, n int) []index.Series {
	t.Helper()
	out := make([]index.Series, n)
	for i := range out {
		ls := parse(t, fmt.Sprintf(`{app="a%d",cluster="eu-west-1",host="host-%d",namespace="ns%d"}`, i%100, i, i%17))
		out[i] = index.Series{Labels: ls, Fingerprint: ls.Fingerprint(), Chunks: []index.ChunkMeta{{MinTime: int64(i), MaxTime: int64(i) + 1000, KB: 100, Entries: 10, Checksum: uint32(i)}}}
	}
	return out
}

// BenchmarkOpenIndex opens an index file of 100,000 series from local disk,
// and from an object store on local disk, which means to decompress it.
func BenchmarkOpenIndex(b *testing.B) {
	bucket, err := objstore.OpenFilesystem(vfs.OS, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.IndexCacheSize = 0
	putIndex(b, New(bucket, cfg, Options{}), "t", manySeries(b, 100_000)...)
	keys, err := bucket.List(b.Context(), TablesPrefix, true)
	if err != nil || len(keys) != 1 {
		b.Fatal(keys, err)
	}
	f := func(name string, o Options) {
		b.Run(name, func(b *testing.B) {
			s := New(bucket, cfg, o)
			r, err := s.openIndex(b.Context(), keys[0])
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(r.Size()))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.openIndex(b.Context(), keys[0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	f("disk", Options{IndexDir: b.TempDir()})
	f("gunzip", Options{})
}

// BenchmarkTenThousandStreams asks for the 100 lines of one of 100 apps in a
// table of 10,000 streams, with chunks in memory or not.
func BenchmarkTenThousandStreams(b *testing.B) {
	for _, cached := range []bool{true, false} {
		b.Run(fmt.Sprintf("cached=%v", cached), func(b *testing.B) {
			bucket := openSlow(b, 0)
			cfg := DefaultConfig()
			if !cached {
				cfg.ChunkCacheSize = 0
			}
			s := New(bucket, cfg, Options{})
			defer s.Close()
			tenThousand(b, s)
			e := engine(b, s)
			b.ReportAllocs()
			for b.Loop() {
				ctx, cancel := context.WithCancel(b.Context())
				if n := run(ctx, b, e, `{app="a42"}`, logquery.Backward, 0, day, 5000); n != 100 {
					b.Fatal(n)
				}
				cancel()
			}
		})
	}
}
