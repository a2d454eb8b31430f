package ingester

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/objstore"
)

// benchBatch makes a push of each lines for each of streams; it also returns
// the bytes of the lines.
func benchBatch(streams, each int, ts int64) (*push.Batch, int64) {
	g := loglines.New(uint64(ts))
	bl := push.NewBuilder(push.Get())
	size := int64(0)
	var line []byte
	for s := range streams {
		n := bl.Stream([]byte(fmt.Sprintf(`{app="%s", instance="i-%d"}`, loglines.AppName(s), s)))
		for k := range each {
			line = g.AppendLine(line[:0], s, ts+int64(k)*1e6)
			bl.EntryExact(n, ts+int64(k)*1e6, line)
			size += int64(len(line))
		}
	}
	b := bl.Finish()
	b.Tenant = "t"
	for k := range b.Streams {
		b.Streams[k].Labels = string(b.Bytes(b.Streams[k].RawLabels))
		b.Streams[k].Token = labels.Token("t", b.Streams[k].Labels)
	}
	return b, size
}

func benchIngester(b *testing.B, dir string) *Ingester {
	cfg := DefaultConfig()
	cfg.WAL.Sync = "never"
	i, err := Open(vfs.OS, dir, cfg, Deps{Store: newFakeStore(), Limits: func(string) Limits { return Limits{Unordered: true, Horizon: time.Hour} }})
	if err != nil {
		b.Fatal(err)
	}
	for i.Ready() != nil {
		time.Sleep(time.Millisecond)
	}
	return i
}

// BenchmarkPush is everything between a decoded batch and the answer, but for
// the fsync.
func BenchmarkPush(b *testing.B) {
	for _, streams := range []int{1, 100, 5000} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			i := benchIngester(b, b.TempDir())
			defer i.Shutdown(context.Background(), false)
			batch, size := benchBatch(streams, max(1, 5000/streams), t0)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if err := i.Push(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHeadAppend is the copy of entries into a head. Heads are thrown away
// when they are full.
func BenchmarkHeadAppend(b *testing.B) {
	i := benchIngester(b, b.TempDir())
	defer i.Shutdown(context.Background(), false)
	batch, size := benchBatch(1, 1000, t0)
	st := i.stream(i.tenant("t"), batch.Streams[0].Labels, 0, 0)
	app := appender{i: i, st: st, now: t0}
	none := func(int) bool { return false }
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		app.lsn++
		st.mu.Lock()
		app.append(batch, &batch.Streams[0], none)
		if h := st.main.head; h != nil {
			i.slabs.Put(h.buf)
			st.main.head = nil
		}
		st.mu.Unlock()
	}
}

// BenchmarkCut turns a full head into a block in a block file.
func BenchmarkCut(b *testing.B) {
	batch, _ := benchBatch(1, 1300, t0)
	for _, codec := range []chunk.Codec{chunk.None, chunk.LZ4, chunk.Snappy, chunk.GZIP, chunk.ZSTD} {
		b.Run(codec.String(), func(b *testing.B) {
			i := benchIngester(b, b.TempDir())
			defer i.Shutdown(context.Background(), false)
			i.codec = codec
			st := i.stream(i.tenant("t"), batch.Streams[0].Labels, 0, 0)
			c := &openChunk{stream: st, lane: &st.main}
			h := &head{stream: st, chunk: c, entries: batch.Streams[0].Count}
			for _, e := range batch.Entries {
				h.buf.B = chunk.AppendEntry(h.buf.B, e.TS, batch.Bytes(e.Line), nil)
				h.size += int(e.Line.Len)
			}
			content, cover := h.buf.B, blocks.Cover{}
			cover.Add(1, 0, blocks.All)
			var w cutWork
			b.SetBytes(int64(h.size))
			b.ReportAllocs()
			for b.Loop() {
				h.buf.B, h.block, h.cover = content, nil, cover
				i.cut(&w, h)
				c.blocks = c.blocks[:0]
			}
		})
	}
}

// BenchmarkRecovery opens an ingester on a WAL of 64 MB of lines that are all in
// heads.
func BenchmarkRecovery(b *testing.B) {
	dir := b.TempDir()
	i := benchIngester(b, dir)
	size := int64(0)
	for n := 0; size < 64e6; n++ {
		batch, s := benchBatch(1000, 5, t0+int64(n)*1e9)
		if err := i.Push(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
		batch.Release()
		size += s
	}
	if err := i.Shutdown(context.Background(), false); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		i := benchIngester(b, dir)
		b.StopTimer()
		i.Shutdown(context.Background(), false)
		b.StartTimer()
	}
}

// benchRecord makes a block record of stream 1.
func benchRecord(n int, data []byte) *blocks.Block {
	b := &blocks.Block{Tenant: "t", Labels: `{app="bench"}`, Stream: 1, Codec: uint8(chunk.ZSTD), Entries: 1, Opened: int64(n), Data: data}
	b.Cover.Add(uint64(n+1), 0, blocks.All)
	return b
}

// nowhere is a bucket that forgets everything.
type nowhere struct{}

func (nowhere) Put(context.Context, string, []byte) error   { return nil }
func (nowhere) Get(context.Context, string) ([]byte, error) { return nil, objstore.ErrNotFound }
func (nowhere) Stat(context.Context, string) (objstore.Info, error) {
	return objstore.Info{}, objstore.ErrNotFound
}
func (nowhere) List(context.Context, string, bool) ([]string, error) { return nil, nil }
func (nowhere) Delete(context.Context, string) error                 { return nil }

// cpu returns the CPU time of this process.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// perGB reports the CPU time since began for each GB of n rounds of size bytes.
func perGB(b *testing.B, began time.Duration, size int64, n int) {
	b.Helper()
	b.ReportMetric((cpu(b)-began).Seconds()/(float64(size)*float64(n)/1e9), "cpu-s/GB")
}

// benchChunk makes a closed chunk of full blocks of log lines. Each block is
// step lines behind the one before it, of 1000 or so that it has.
func benchChunk(b *testing.B, i *Ingester, name string, step int) (*openChunk, int64) {
	b.Helper()
	ls := fmt.Sprintf(`{app="bench", number="%s"}`, name)
	st := i.stream(i.tenant("t"), ls, labels.Token("t", ls), 0)
	c := &openChunk{stream: st, lane: &st.main, ref: st.ref.Load(), opened: t0}
	g := loglines.New(1)
	size := int64(0)
	var line, content, data []byte
	for n := 0; c.compressed < i.targetSize*c.growth(); n++ {
		bl := block{codec: i.codec, mint: t0 + int64(n*step)*1e6}
		content = content[:0]
		for len(content) < i.blockSize-1000 {
			bl.maxt = bl.mint + int64(bl.entries)*1e6
			line = g.AppendLine(line[:0], 1, bl.maxt)
			content = chunk.AppendEntry(content, bl.maxt, line, nil)
			bl.size += len(line)
			bl.entries++
		}
		var err error
		if data, err = i.codec.Compress(data[:0], content); err != nil {
			b.Fatal(err)
		}
		rec := benchRecord(n, data)
		if err := i.blocks.Append(rec); err != nil {
			b.Fatal(err)
		}
		bl.ref = rec.Ref
		c.add(&bl)
		size += int64(bl.size)
	}
	return c, size
}

// BenchmarkFlush makes the objects of a full chunk from its blocks on disk, and
// the index of such chunks: in order, overlapping a little (what several
// connections lead to), and overlapping so much that all is compressed again.
func BenchmarkFlush(b *testing.B) {
	for _, o := range []struct {
		name string
		step int
	}{{"in order", 2000}, {"slight overlap", 900}, {"deep overlap", 100}} {
		b.Run(o.name, func(b *testing.B) {
			i := benchIngester(b, b.TempDir())
			defer i.Shutdown(context.Background(), false)
			i.deps.Store = storage.New(nowhere{}, storage.DefaultConfig(), storage.Options{})
			c, size := benchChunk(b, i, "1", o.step)
			var w flushWork
			n, began := 0, cpu(b)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				n++
				if err := i.upload(&w, c); err != nil {
					b.Fatal(err)
				}
			}
			perGB(b, began, size, n)
			b.ReportMetric(float64(len(c.metas)), "objects")
		})
	}
	b.Run("index of 1000 streams", func(b *testing.B) {
		i := benchIngester(b, b.TempDir())
		defer i.Shutdown(context.Background(), false)
		i.deps.Store = storage.New(nowhere{}, storage.DefaultConfig(), storage.Options{})
		c, size := benchChunk(b, i, "1", 2000)
		var w flushWork
		if err := i.upload(&w, c); err != nil {
			b.Fatal(err)
		}
		var all []*openChunk
		for n := range 1000 {
			ls := fmt.Sprintf(`{app="bench", number="%d"}`, n)
			all = append(all, &openChunk{stream: i.stream(i.tenant("t"), ls, labels.Token("t", ls), 0), metas: c.metas})
		}
		n, began := 0, cpu(b)
		b.SetBytes(size * int64(len(all)))
		b.ReportAllocs()
		for b.Loop() {
			n++
			if err := i.putIndex("t", all); err != nil {
				b.Fatal(err)
			}
		}
		perGB(b, began, size*int64(len(all)), n)
	})
}
