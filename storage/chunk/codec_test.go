package chunk

import (
	"bytes"
	stdflate "compress/flate"
	stdgzip "compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
)

// logText is 280 KB of lines such as a cluster writes.
func logText(t testing.TB) []byte {
	t.Helper()
	g := loglines.New(1)
	var b []byte
	for n := 0; len(b) < 280<<10; n++ {
		b = append(g.AppendLine(b, n, 1795521600e9+int64(n)*1e7), '\n')
	}
	return b
}

// samples are contents of all the shapes that compressors treat differently.
func samples(t testing.TB, textSize int) map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 70_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	text := logText(t)[:textSize]
	return map[string][]byte{
		"empty": {}, "one byte": {7}, "short": []byte("hello"), "zeros": make([]byte, 140_000), "noise": noise,
		"text": text, "one block": text[:64<<10], "one block and a byte": text[:64<<10+1],
		"text, noise, text": append(append(bytes.Clone(text), noise...), text...),
	}
}

func TestCodecRoundTrip(t *testing.T) {
	for _, c := range Codecs() {
		all := samples(t, 66_000)
		if c != GZIP && c != Flate { // those know no blocks
			all["5 MiB"] = bytes.Repeat(all["text"][:100], 5<<20/100)
		}
		for name, src := range all {
			z, err := c.Compress([]byte("pre"), src)
			if err != nil || !bytes.HasPrefix(z, []byte("pre")) {
				t.Fatalf("%v, %s: compress: %v", c, name, err)
			}
			z = z[3:]
			got, err := c.Decompress([]byte("pre"), z, len(src))
			if err != nil || !bytes.Equal(got[3:], src) || string(got[:3]) != "pre" {
				t.Fatalf("%v, %s: decompress gave %d bytes, want %d: %v", c, name, len(got)-3, len(src), err)
			}
			if len(src) > 0 {
				if got, err := c.Decompress(nil, z, len(src)-1); err == nil {
					t.Fatalf("%v, %s: %d bytes decompressed with a limit of %d", c, name, len(got), len(src)-1)
				}
			}
			again, err := c.Compress(nil, src)
			if err != nil || !bytes.Equal(again, z) {
				t.Fatalf("%v, %s: compressing again gives other bytes (%v)", c, name, err)
			}
		}
	}
}

// TestFastSnappy reads what is compressed quickly as what Snappy compresses, with
// the reader here and with another.
func TestFastSnappy(t *testing.T) {
	for name, src := range samples(t, 280<<10) {
		z := FastSnappy([]byte("pre"), src)
		if !bytes.HasPrefix(z, []byte("pre")) || !bytes.Equal(FastSnappy(nil, src), z[3:]) {
			t.Fatalf("%s: compressing again gives other bytes", name)
		}
		z = z[3:]
		got, err := Snappy.Decompress(nil, z, len(src))
		if err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%s: decompress gave %d bytes, want %d: %v", name, len(got), len(src), err)
		}
		if got, err = io.ReadAll(snappy.NewReader(bytes.NewReader(z))); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%s: another reader found %d bytes, want %d: %v", name, len(got), len(src), err)
		}
		if better, _ := Snappy.Compress(nil, src); len(z) > len(better)*5/4+64 {
			t.Errorf("%s: %d bytes, Snappy makes %d", name, len(z), len(better))
		}
	}
}

// TestCodecOthers checks the frames written here with other readers, and
// frames of other writers here.
func TestCodecOthers(t *testing.T) {
	readers := map[Codec]func(io.Reader) (io.Reader, error){
		GZIP:   func(r io.Reader) (io.Reader, error) { return stdgzip.NewReader(r) },
		Flate:  func(r io.Reader) (io.Reader, error) { return stdflate.NewReader(r), nil },
		Snappy: func(r io.Reader) (io.Reader, error) { return snappy.NewReader(r), nil },
		ZSTD:   func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) },
	}
	lz4Reader := func(r io.Reader) (io.Reader, error) { return lz4.NewReader(r), nil }
	for _, c := range []Codec{LZ4x64k, LZ4x256k, LZ4x1M, LZ4} {
		readers[c] = lz4Reader
	}
	for c, open := range readers {
		for name, src := range samples(t, 66_000) {
			z, err := c.Compress(nil, src)
			if err != nil {
				t.Fatal(err)
			}
			if len(src) == 0 && c == ZSTD {
				continue // zero bytes
			}
			r, err := open(bytes.NewReader(z))
			if err != nil {
				t.Fatalf("%v, %s: %v", c, name, err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, src) {
				t.Fatalf("%v, %s: another reader got %d bytes of %d: %v", c, name, len(got), len(src), err)
			}
		}
	}
	lz4With := func(o ...lz4.Option) func(io.Writer) io.WriteCloser {
		return func(w io.Writer) io.WriteCloser {
			z := lz4.NewWriter(w)
			if err := z.Apply(o...); err != nil {
				t.Fatal(err)
			}
			return z
		}
	}
	zstdWith := func(o ...zstd.EOption) func(io.Writer) io.WriteCloser {
		return func(w io.Writer) io.WriteCloser {
			z, err := zstd.NewWriter(w, append(o, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(128<<10))...)
			if err != nil {
				t.Fatal(err)
			}
			return z
		}
	}
	writers := []struct {
		c    Codec
		name string
		open func(io.Writer) io.WriteCloser
	}{
		{GZIP, "stdlib", func(w io.Writer) io.WriteCloser { return stdgzip.NewWriter(w) }},
		{Snappy, "stream", func(w io.Writer) io.WriteCloser { return snappy.NewBufferedWriter(w) }},
		{LZ4, "checksums", lz4With(lz4.ChecksumOption(true), lz4.BlockChecksumOption(true), lz4.BlockSizeOption(lz4.Block64Kb))},
		{LZ4, "high compression", lz4With(lz4.CompressionLevelOption(lz4.Level5), lz4.BlockSizeOption(lz4.Block256Kb))},
		{ZSTD, "fastest", zstdWith(zstd.WithEncoderLevel(zstd.SpeedFastest))},
		{ZSTD, "better, no checksum", zstdWith(zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))},
	}
	for _, w := range writers {
		for name, src := range samples(t, 66_000) {
			var buf bytes.Buffer
			// Twice, since streams may be concatenated.
			for range 2 {
				z := w.open(&buf)
				if _, err := z.Write(src); err != nil {
					t.Fatal(err)
				}
				if err := z.Close(); err != nil {
					t.Fatal(err)
				}
			}
			got, err := w.c.Decompress(nil, buf.Bytes(), 2*len(src))
			if err != nil || !bytes.Equal(got, append(bytes.Clone(src), src...)) {
				t.Fatalf("%v by %s, %s: %d bytes of %d: %v", w.c, w.name, name, len(got), 2*len(src), err)
			}
		}
	}
}

// TestLZ4Linked reads a frame of linked blocks with a content size, which the
// Go library does not write.
func TestLZ4Linked(t *testing.T) {
	first := bytes.Repeat([]byte("0123456789abcdef"), 10)
	frame := binary.LittleEndian.AppendUint32(nil, lz4Skippable+3)
	frame = append(frame, 2, 0, 0, 0, 'x', 'y')
	frame = binary.LittleEndian.AppendUint32(frame, lz4Magic)
	desc := []byte{1<<6 | 1<<3 | 1<<2, 4 << 4}
	desc = binary.LittleEndian.AppendUint64(desc, uint64(len(first)+20+5))
	frame = append(append(frame, desc...), byte(xxh32(desc)>>8))
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(first))|lz4RawBit)
	frame = append(frame, first...)
	// 20 bytes from 160 back, that is from the first block; then 5 literals.
	second := []byte{0x0f, 160, 0, 1, 0x50, 'h', 'e', 'l', 'l', 'o'}
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(second)))
	frame = append(append(frame, second...), 0, 0, 0, 0)
	want := append(append(bytes.Clone(first), first[:20]...), "hello"...)
	frame = binary.LittleEndian.AppendUint32(frame, xxh32(want))
	got, err := LZ4.Decompress(nil, frame, len(want))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%q, %v", got, err)
	}
	for i := 10; i < len(frame); i++ {
		bad := bytes.Clone(frame)
		bad[i] ^= 1
		if got, err := LZ4.Decompress(nil, bad, 1<<20); err == nil && !bytes.Equal(got, want) {
			t.Fatalf("bit of byte %d flipped: accepted as %q", i, got)
		}
	}
}

func TestXXH32(t *testing.T) {
	f := func(in string, want uint32) {
		t.Helper()
		if got := xxh32([]byte(in)); got != want {
			t.Fatalf("%q: %08x, want %08x", in, got, want)
		}
	}
	f("", 0x02cc5d05)
	f("a", 0x550d7456)
	f("abc", 0x32d153ff)
	f("Nobody inspects the spammish repetition", 0xe2293b2f)
}

// TestBombs has small inputs that are, or claim to be, huge.
func TestBombs(t *testing.T) {
	zeros := make([]byte, 4<<20)
	bombs := map[string]struct {
		c Codec
		z []byte
	}{}
	for _, c := range Codecs()[1:] {
		z, err := c.Compress(nil, zeros)
		if err != nil {
			t.Fatal(err)
		}
		bombs[c.String()] = struct {
			c Codec
			z []byte
		}{c, z}
	}
	claim := binary.LittleEndian.AppendUint32(nil, zstdMagic)
	claim = append(claim, 3<<6|1<<5)
	claim = binary.LittleEndian.AppendUint64(claim, 1<<40)
	bombs["zstd that claims 1 TiB"] = struct {
		c Codec
		z []byte
	}{ZSTD, append(claim, 1|5<<3, 0, 0, 'h', 'e', 'l', 'l', 'o')}
	window := binary.LittleEndian.AppendUint32(nil, zstdMagic)
	window = append(window, 0, 0xff) // a window of 3.75 TiB
	bombs["zstd with a huge window"] = struct {
		c Codec
		z []byte
	}{ZSTD, append(window, 1|5<<3, 0, 0, 'h', 'e', 'l', 'l', 'o')}
	dst := make([]byte, 0, 4096)
	for name, b := range bombs {
		_, _ = b.c.Decompress(dst, b.z, 100) // fills the pools
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := b.c.Decompress(dst, b.z, 256<<10)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20 {
			t.Fatalf("%s: %d bytes were allocated", name, n)
		}
	}
}

func TestEmptyInput(t *testing.T) {
	for _, c := range Codecs() {
		z, err := c.Compress(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		empty := c == None || c == Snappy || c == ZSTD
		if (len(z) == 0) != empty {
			t.Fatalf("%v: empty input gives %x", c, z)
		}
		if _, err := c.Decompress(nil, nil, 10); (err != nil) != (c == GZIP) {
			t.Fatalf("%v: zero bytes: %v", c, err)
		}
	}
	if z, _ := LZ4x64k.Compress(nil, nil); len(z) != 11 {
		t.Fatalf("empty lz4 frame of %d bytes", len(z))
	}
}

func TestCodecNames(t *testing.T) {
	for _, c := range Codecs() {
		got, err := ParseCodec(c.String())
		if err != nil || got != c {
			t.Fatalf("%v: %v, %v", c, got, err)
		}
		text, err := c.MarshalText()
		var u Codec
		if err != nil || u.UnmarshalText(text) != nil || u != c {
			t.Fatalf("%v as text: %s, %v", c, text, u)
		}
	}
	for _, s := range []string{"", "LZ4", "brotli", "codec(2)"} {
		if _, err := ParseCodec(s); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Fatalf("%q: %v", s, err)
		}
	}
	for _, c := range []Codec{2, 10, 255} {
		if c.Valid() {
			t.Fatalf("%v is valid", c)
		}
		if _, err := c.Compress(nil, []byte("x")); err == nil {
			t.Fatalf("%v compresses", c)
		}
		if _, err := c.Decompress(nil, []byte("x"), 10); err == nil {
			t.Fatalf("%v decompresses", c)
		}
	}
}

func TestCodecConcurrent(t *testing.T) {
	text := logText(t)
	var wg sync.WaitGroup
	for _, c := range Codecs() {
		for k := range 2 {
			wg.Go(func() {
				src := text[k*1000 : 50_000+k*7000]
				for range 5 {
					z, err := c.Compress(nil, src)
					if err == nil {
						var got []byte
						if got, err = c.Decompress(nil, z, len(src)); err == nil && !bytes.Equal(got, src) {
							err = errors.New("other content")
						}
					}
					if err != nil {
						t.Errorf("%v: %v", c, err)
					}
				}
			})
		}
	}
	wg.Wait()
}

func FuzzDecompress(f *testing.F) {
	text := logText(f)[:3000]
	for _, c := range Codecs() {
		z, err := c.Compress(nil, text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(c), z)
	}
	f.Add(uint8(Snappy), FastSnappy(nil, text))
	f.Fuzz(func(t *testing.T, codec uint8, z []byte) {
		const limit = 1 << 16
		got, err := Codec(codec).Decompress([]byte("pre"), z, limit)
		if err == nil && (len(got)-3 > limit || string(got[:3]) != "pre") {
			t.Fatalf("%d bytes", len(got))
		}
	})
}

// benchContent is the content of a block of n bytes of real lines.
func benchContent(b testing.TB, n int) []byte {
	content := make([]byte, 0, n)
	ts := int64(1_700_000_000_000_000_000)
	lines := bytes.Split(logText(b), []byte("\n"))
	for i := 0; ; i++ {
		ts += int64(i*7919%5_000_000 + 1)
		// A step that is prime to the number of lines mixes the sources.
		line := lines[i*101%len(lines)]
		if len(content)+len(line)+20 > n {
			return content
		}
		content = AppendEntry(content, ts, line, nil)
	}
}

func BenchmarkCompress(b *testing.B) {
	content := benchContent(b, 256<<10)
	for _, c := range Codecs() {
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				var err error
				if dst, err = c.Compress(dst[:0], content); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(content))/float64(len(dst)), "ratio")
		})
	}
}

// BenchmarkFastSnappy is to be compared with what BenchmarkCompress says of snappy.
func BenchmarkFastSnappy(b *testing.B) {
	content := benchContent(b, 256<<10)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		dst = FastSnappy(dst[:0], content)
	}
	b.ReportMetric(float64(len(content))/float64(len(dst)), "ratio")
}

func BenchmarkDecompress(b *testing.B) {
	content := benchContent(b, 256<<10)
	for _, c := range Codecs() {
		z, err := c.Compress(nil, content)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				if dst, err = c.Decompress(dst[:0], z, len(content)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
