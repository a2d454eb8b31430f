package wal

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/loki-go/loki-go/internal/vfs"
)

func incompressible(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// benchLog opens a log on the real disk.
func benchLog(b *testing.B, o Options) (*Log, string) {
	b.Helper()
	d := filepath.Join(b.TempDir(), "wal")
	l, err := Open(vfs.OS, d, o)
	if err == nil {
		_, err = l.Replay(ctx, func(LSN, []byte) error { return nil })
	}
	if err != nil {
		b.Fatal(err)
	}
	return l, d
}

// BenchmarkCommit appends and commits from 8 goroutines. The log is truncated
// as it goes.
func BenchmarkCommit(b *testing.B) {
	for _, mode := range []SyncMode{SyncAlways, SyncInterval, SyncNever} {
		for _, size := range []int{1 << 10, 300 << 10} {
			b.Run(fmt.Sprintf("sync=%s/size=%d", mode, size), func(b *testing.B) {
				l, _ := benchLog(b, Options{Sync: mode})
				data := incompressible(size)
				var left atomic.Int64
				left.Store(int64(b.N))
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				done := make(chan error, 8)
				for range 8 {
					go func() {
						for left.Add(-1) >= 0 {
							tk, err := add(l, data[:100], data[100:])
							if err == nil {
								err = tk.Wait(ctx)
							}
							if err == nil && tk.LSN%512 == 0 {
								err = l.Truncate(tk.LSN - 256)
							}
							if err != nil {
								done <- err
								return
							}
						}
						done <- nil
					}()
				}
				for range 8 {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				shut(b, l)
			})
		}
	}
}

// BenchmarkAppend is the cost of a record before any disk: its copy and checksum.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{100, 10 << 10, 300 << 10} {
		b.Run(fmt.Sprint("size=", size), func(b *testing.B) {
			fsys := vfs.Fault(vfs.NewMem(), func(op vfs.Op, _ string) error {
				if op == vfs.OpWrite {
					return vfs.ErrLie
				}
				return nil
			})
			l, _, _ := start(b, fsys, Options{Sync: SyncNever})
			data := incompressible(size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				tk, err := add(l, data)
				if err != nil {
					b.Fatal(err)
				}
				if tk.LSN%1024 == 0 {
					if err := l.Truncate(tk.LSN - 1); err != nil {
						b.Fatal(err)
					}
				}
			}
			shut(b, l)
		})
	}
}

func BenchmarkReplay(b *testing.B) {
	for _, size := range []int{1 << 10, 300 << 10} {
		b.Run(fmt.Sprint("size=", size), func(b *testing.B) {
			l, d := benchLog(b, Options{Sync: SyncNever})
			data := incompressible(size)
			for n := 0; n < 256<<20; n += size {
				if _, err := add(l, data); err != nil {
					b.Fatal(err)
				}
			}
			total := l.Size()
			shut(b, l)
			b.SetBytes(total)
			b.ReportAllocs()
			for b.Loop() {
				l, err := Open(vfs.OS, d, Options{Sync: SyncNever})
				if err != nil {
					b.Fatal(err)
				}
				st, err := l.Replay(ctx, func(LSN, []byte) error { return nil })
				if err != nil || st.Corruptions > 0 {
					b.Fatal(st, err)
				}
				shut(b, l)
			}
		})
	}
}
