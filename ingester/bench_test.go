package ingester

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/storage/chunk"
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
