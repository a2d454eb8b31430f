package chunk

import (
	"testing"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
)

// BenchmarkBuildChunk makes a chunk of 8 MB of one program's lines, from the
// lines to the object: records, blocks of 256 KiB, compression, envelope. MB/s
// are those of lines.
func BenchmarkBuildChunk(b *testing.B) {
	const start = int64(1_700_000_000_000_000_000)
	var lines [][]byte
	gen := loglines.New(7)
	raw := 0
	for i := 0; raw < 8<<20; i++ {
		line := gen.AppendLine(nil, 3, start+int64(i)*1e6)
		lines = append(lines, line)
		raw += len(line)
	}
	m := NewMeta("tenant", mustParse(b, `{app="api", env="prod", host="h1"}`), start, start+int64(len(lines))*1e6)
	for _, codec := range []Codec{None, GZIP, LZ4, Snappy, ZSTD} {
		b.Run(codec.String(), func(b *testing.B) {
			b.SetBytes(int64(raw))
			b.ReportAllocs()
			var content, object []byte
			var blocks []Block
			var bufs [64][]byte
			for b.Loop() {
				content, blocks = content[:0], blocks[:0]
				cut := func() {
					buf := &bufs[len(blocks)]
					bl, err := NewBlock(codec, (*buf)[:0], content)
					if err != nil {
						b.Fatal(err)
					}
					if len(bl.Data) > cap(*buf) {
						*buf = bl.Data
					}
					content, blocks = content[:0], append(blocks, bl)
				}
				for i, line := range lines {
					if content = AppendEntry(content, start+int64(i)*1e6, line, nil); len(content) >= 256<<10 {
						cut()
					}
				}
				cut()
				var err error
				if object, err = Encode(object[:0], m, codec, nil, blocks); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(raw)/float64(len(object)), "ratio")
		})
	}
}
