package ingester

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/ingester/coverage"
	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/storage/chunk"
)

// ranked are Peers of which nobody answers: this instance has the rank that the
// function says.
type ranked func() int

func (r ranked) Place(uint32) (int, []string)                           { return r(), nil }
func (ranked) Covered(context.Context, string, []coverage.Notice) error { return errDown }
func (ranked) StoreFor(context.Context, string) error                   { return errDown }

func second() int { return 1 }

// inTurns is the rank of an instance that is the first, and is not, by turns.
func inTurns() ranked {
	var n atomic.Int64
	return func() int { return int(n.Add(1) % 2) }
}

// expectStoredAs says how all blocks in the store are compressed.
func expectStoredAs(t testing.TB, s *fakeStore, want chunk.Codec) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, object := range s.objects {
		c, err := chunk.Decode(object)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		if c.Codec != want {
			t.Errorf("%s is compressed with %v, want %v", key, c.Codec, want)
		}
		for k, b := range c.Blocks {
			content, _, err := c.Ref(k).Load(nil)
			if err != nil {
				t.Fatalf("%s: %v", key, err)
			}
			is, err := chunk.Inspect(content, len(c.Symbols))
			if err != nil || is.Entries != b.Entries || is.MinT != b.MinT || is.MaxT != b.MaxT || !is.Sorted {
				t.Errorf("%s: block %d has %+v, it says %+v (%v)", key, k, is, b, err)
			}
		}
	}
}

// cutAll cuts all heads and waits for it.
func cutAll(t testing.TB, i *Ingester) {
	t.Helper()
	i.eachHead(func(_ *stream, ln *lane, h *head) {
		if !h.sealed {
			i.seal(ln)
		}
	})
	waitFor(t, "heads are cut", func() bool {
		n := 0
		i.eachHead(func(*stream, *lane, *head) { n++ })
		return n == 0
	})
}

// awaitCuts waits until what is sealed is cut: how large a chunk gets depends on
// what its blocks are like.
func awaitCuts(t testing.TB, i *Ingester) {
	t.Helper()
	waitFor(t, "heads are cut", func() bool {
		sealed := 0
		i.eachHead(func(_ *stream, _ *lane, h *head) {
			if h.sealed {
				sealed++
			}
		})
		return sealed == 0
	})
}

// codecs counts the blocks in memory by their codec.
func codecs(i *Ingester, count map[chunk.Codec]int) {
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.lanes(func(ln *lane) {
			all := ln.closed
			if ln.chunk != nil {
				all = append(all[:len(all):len(all)], ln.chunk)
			}
			for _, c := range all {
				for _, b := range c.blocks {
					count[b.codec]++
				}
			}
		})
	})
}

// TestFirstReplicaIsGone kills each replica in turn before anything was stored:
// what it was the first to store the others store, compressed as it would have
// done. Those that are left lose power, too, with blocks of both kinds on disk.
func TestFirstReplicaIsGone(t *testing.T) {
	for _, gone := range []string{"a", "b", "c"} {
		t.Run(gone, func(t *testing.T) {
			r := newReplicas(t, func(c *Config) { c.ChunkTargetSize = 64 << 10 })
			var l load
			r.load(&l, 150)
			for _, n := range r.names {
				i := r.get(n)
				cutAll(t, i)
				i.eachStream(func(st *stream) {
					st.mu.Lock()
					defer st.mu.Unlock()
					rank, _ := i.copies.peers.Place(st.token)
					st.lanes(func(ln *lane) {
						if ln.chunk == nil {
							return
						}
						for _, b := range ln.chunk.blocks {
							if first := rank == 0; first != (b.codec == i.codec) || first == b.interim {
								t.Errorf("rank %d has a block with %v", rank, b.codec)
							}
						}
					})
				})
			}
			r.kill(gone)
			r.load(&l, 50) // some streams have another first replica now
			for _, n := range r.names {
				if i := r.get(n); i != nil {
					cutAll(t, i)
					kinds := map[chunk.Codec]int{}
					codecs(i, kinds)
					if kinds[chunk.ZSTD] == 0 || kinds[interim] == 0 {
						t.Fatalf("%s has blocks of one kind only: %v", n, kinds)
					}
					r.kill(n)
					r.start(n)
				}
			}
			for _, n := range r.names {
				if i := r.get(n); i != nil {
					for ls, lines := range l.want {
						expect(t, i, r.store, "t", ls, lines)
					}
				}
			}
			r.flush()
			r.expectCopies(l.want, 1, 1)
			expectStoredAs(t, r.store, chunk.ZSTD)
			r.start(gone)
			r.flush()
			r.expectCopies(l.want, 1, 2)
			r.expectEmpty()
		})
	}
}

// TestWhoCompressesForGood has the first replica, and one that is alone, compress
// as ever, and nobody put off what is cheap.
func TestWhoCompressesForGood(t *testing.T) {
	f := func(encoding string, p Peers, oneCopy bool, want chunk.Codec) {
		t.Helper()
		h := newHarness()
		h.cfg.ChunkEncoding, h.cfg.OneCopy, h.peers = encoding, oneCopy, p
		i := h.open(t)
		defer func() { shut(t, i, false) }()
		if err := pushLines(t, i, "t", map[string][]line{app1: seq(0, 200)}); err != nil {
			t.Fatal(err)
		}
		cutAll(t, i)
		kinds := map[chunk.Codec]int{}
		codecs(i, kinds)
		if len(kinds) != 1 || kinds[want] == 0 {
			t.Errorf("%s, one-copy %t: blocks with %v, want %v", encoding, oneCopy, kinds, want)
		}
		expect(t, i, h.store, "t", app1, seq(0, 200))
		if err := i.Flush(context.Background(), true); err != nil {
			t.Fatal(err)
		}
		stored, _ := chunk.ParseCodec(encoding)
		expectStoredAs(t, h.store, stored)
		if n := testutil.ToFloat64(i.m.recompressed); (n > 0) != (want != stored) {
			t.Errorf("%s: %v blocks were compressed anew", encoding, n)
		}
		if n := len(h.store.lines(t, "t", app1)); n != 200 {
			t.Errorf("%s: %d lines stored", encoding, n)
		}
	}
	f("zstd", nil, true, chunk.ZSTD)
	f("zstd", ranked(func() int { return 0 }), true, chunk.ZSTD)
	f("zstd", ranked(second), false, chunk.ZSTD)
	f("zstd", ranked(second), true, interim)
	f("zstd", ranked(func() int { return 3 }), true, interim)
	f("gzip", ranked(second), true, interim)
	f("flate", ranked(second), true, interim)
	f("lz4", ranked(second), true, chunk.LZ4)
	f("snappy", ranked(second), true, chunk.Snappy)
	f("none", ranked(second), true, chunk.None)
}

// TestAnotherEncoding restarts with another encoding: what is on disk is stored
// with it.
func TestAnotherEncoding(t *testing.T) {
	h := newHarness()
	h.cfg.ChunkTargetSize = 1 << 20
	var all []line
	for _, encoding := range []string{"zstd", "none", "snappy", "gzip"} {
		h.cfg.ChunkEncoding = encoding
		i := h.open(t)
		expect(t, i, h.store, "t", app1, all)
		lines := seq(len(all), 300)
		all = append(all, lines...)
		if err := pushLines(t, i, "t", map[string][]line{app1: lines}); err != nil {
			t.Fatal(err)
		}
		cutAll(t, i)
		shut(t, i, false)
	}
	h.cfg.ChunkEncoding, h.peers = "zstd", ranked(second)
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	kinds := map[chunk.Codec]int{}
	codecs(i, kinds)
	if len(kinds) != 4 {
		t.Fatalf("blocks of %v", kinds)
	}
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	expectStoredAs(t, h.store, chunk.ZSTD)
	if got := len(h.store.lines(t, "t", app1)); got != len(all) {
		t.Fatalf("%d lines stored, want %d", got, len(all))
	}
}

// TestSizesOfInterimChunks has the second of two replicas close chunks when the
// first does or a little later, whatever the lines are like, and stores them: they
// are of about the size that is wanted.
func TestSizesOfInterimChunks(t *testing.T) {
	const target = 64 << 10
	logs := loglines.New(5)
	rng := rand.New(rand.NewPCG(1, 1))
	kinds := map[string]func(n int) string{
		"logs":  func(n int) string { return string(logs.AppendLine(nil, 3, t0+int64(n)*1e6)) },
		"noise": func(int) string { return noise(rng, 300) },
		"alike": func(n int) string {
			return strings.Repeat("the same words again and again, in every line of this program; ", 4) + fmt.Sprint(n)
		},
	}
	for name, text := range kinds {
		t.Run(name, func(t *testing.T) {
			var all []line
			size := 0
			is := [2]*Ingester{}
			hs := [2]*harness{}
			for k := range is {
				hs[k] = newHarness()
				hs[k].cfg.ChunkBlockSize, hs[k].cfg.ChunkTargetSize = 16<<10, target
				hs[k].cfg.OneCopyGrace = time.Hour
				hs[k].peers = ranked(func() int { return k })
				is[k] = hs[k].open(t)
				defer func() { shut(t, is[k], false) }()
			}
			full := func(k int) int {
				return int(is[k].m.pendingChunks.Load()) + int(testutil.ToFloat64(is[k].m.flushed.WithLabelValues(reasonFull)))
			}
			// at is how much there was when the first two chunks were full.
			var at [2][2]int
			for n := 0; full(1) < 2; {
				var lines []line
				for range 20 {
					lines = append(lines, line{ts: t0 + int64(n)*1e6, text: text(n)})
					size += len(lines[len(lines)-1].text)
					n++
				}
				all = append(all, lines...)
				for k, i := range is {
					if err := pushLines(t, i, "t", map[string][]line{app1: lines}); err != nil {
						t.Fatal(err)
					}
					awaitCuts(t, i)
					for c := range min(2, full(k)) {
						if at[k][c] == 0 {
							at[k][c] = size
						}
					}
				}
				if size > 256<<20 {
					t.Fatalf("no end: full after %v", at)
				}
			}
			if at[1][0] < at[0][0]*9/10 || at[1][0] > at[0][0]*3/2 {
				t.Errorf("the second's chunk was full after %d bytes, the first's after %d", at[1][0], at[0][0])
			}
			for k, i := range is {
				if err := i.Flush(context.Background(), true); err != nil {
					t.Fatal(err)
				}
				expectStoredAs(t, hs[k].store, chunk.ZSTD)
				if got := len(hs[k].store.lines(t, "t", app1)); got != len(all) {
					t.Fatalf("%d: %d lines stored, want %d", k, got, len(all))
				}
			}
			var sizes []int
			for _, object := range hs[1].store.objects {
				sizes = append(sizes, len(object))
			}
			slices.Sort(sizes)
			for _, n := range sizes[max(0, len(sizes)-2):] { // what is behind the full ones is small
				if n < target*3/4 || n > target*3/2 {
					t.Errorf("objects of the second have %v bytes, %d are wanted", sizes, target)
				}
			}
			t.Logf("full after %v bytes, objects of %v", at, sizes)
		})
	}
}

// TestBlockThatDoesNotDecompress stores a chunk without a block that has the right
// checksum and is not what it says.
func TestBlockThatDoesNotDecompress(t *testing.T) {
	for _, small := range []bool{false, true} { // copied, and merged
		t.Run(fmt.Sprint(small), func(t *testing.T) {
			h := newHarness()
			h.cfg.ChunkTargetSize, h.peers = 1<<20, ranked(second)
			if small {
				h.cfg.ChunkBlockSize = 1 << 20
			}
			i := h.open(t)
			lines := seq(0, 300)
			for k := 0; k < len(lines); k += 50 {
				if err := pushLines(t, i, "t", map[string][]line{app1: lines[k : k+50]}); err != nil {
					t.Fatal(err)
				}
				cutAll(t, i)
			}
			var st *stream
			i.eachStream(func(s *stream) { st = s })
			st.mu.Lock()
			c, b := st.main.chunk, st.main.chunk.blocks[2]
			bad := blocks.Block{
				Tenant: "t", Labels: app1, Stream: c.ref, Chunk: c.seq, Codec: uint8(b.codec), Entries: b.entries,
				MinT: b.mint, MaxT: b.maxt, Size: b.size, Data: []byte("no snappy"),
			}
			if err := i.blocks.Append(&bad); err != nil {
				t.Fatal(err)
			}
			was := b.ref
			b.ref = bad.Ref
			lost := int(b.entries)
			st.mu.Unlock()
			i.blocks.Drop(was)
			if err := i.Flush(context.Background(), true); err != nil {
				t.Fatal(err)
			}
			if n := testutil.ToFloat64(i.m.merged); (n > 0) != small {
				t.Errorf("%v chunks were merged", n)
			}
			if n := int(testutil.ToFloat64(i.m.lostEntries)); n != lost {
				t.Errorf("%d entries count as lost, the block had %d", n, lost)
			}
			if n := len(h.store.lines(t, "t", app1)); n != len(lines)-lost {
				t.Errorf("%d lines stored of %d, %d of them lost", n, len(lines), lost)
			}
			shut(t, i, false)
		})
	}
}

// TestFilesOfBefore opens the data directory of a version that knew one codec for
// all blocks: three blocks of a closed chunk, some of an open one, and lines in the
// WAL. It goes on with blocks of another kind, and stores them together.
func TestFilesOfBefore(t *testing.T) {
	h := newHarness()
	h.cfg.ChunkTargetSize, h.peers = 1<<20, ranked(second)
	from := os.DirFS("testdata/zstd-only")
	err := fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return errors.Join(err, h.fs.MkdirAll("/data/"+name, 0o755))
		}
		data, err := fs.ReadFile(from, name)
		if err != nil {
			return err
		}
		f, err := h.fs.OpenFile("/data/"+name, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(data, 0)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	i := h.open(t)
	defer func() { shut(t, i, false) }()
	before := slices.Concat(seq(0, 200), seq(200, 200), seq(400, 7))
	now := seq(407, 300)
	all := slices.Concat(before, now)
	if n := testutil.ToFloat64(i.m.badRecords); n > 0 {
		t.Errorf("%v bad records", n)
	}
	kinds := map[chunk.Codec]int{}
	codecs(i, kinds)
	if len(kinds) != 1 || kinds[chunk.ZSTD] == 0 {
		t.Fatalf("blocks of %v", kinds)
	}
	expect(t, i, h.store, "t", app1, before)
	if err := pushLines(t, i, "t", map[string][]line{app1: now}); err != nil {
		t.Fatal(err)
	}
	cutAll(t, i)
	if codecs(i, kinds); kinds[interim] == 0 {
		t.Fatalf("blocks of %v", kinds)
	}
	expect(t, i, h.store, "t", app1, all)
	if err := i.Flush(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	expectStoredAs(t, h.store, chunk.ZSTD)
	if n := len(h.store.lines(t, "t", app1)); n != len(all) {
		t.Errorf("%d lines stored, want %d", n, len(all))
	}
}
