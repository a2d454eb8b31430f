package chunk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// Codec says how blocks and symbols of a chunk are compressed. The values are
// those of the format.
type Codec uint8

// Codecs. The LZ4 ones differ in the block size of the LZ4 frame.
const (
	None     Codec = 0
	GZIP     Codec = 1
	LZ4x64k  Codec = 3
	Snappy   Codec = 4 // framing format
	LZ4x256k Codec = 5
	LZ4x1M   Codec = 6
	LZ4      Codec = 7 // 4 MiB
	Flate    Codec = 8
	ZSTD     Codec = 9
	numCodec       = 10
)

var codecNames = [numCodec]string{
	None: "none", GZIP: "gzip", LZ4x64k: "lz4-64k", Snappy: "snappy", LZ4x256k: "lz4-256k",
	LZ4x1M: "lz4-1M", LZ4: "lz4", Flate: "flate", ZSTD: "zstd",
}

// ErrTooLarge is returned by Decompress when the output would exceed the
// caller's limit, as far as that can be told from damaged input.
var ErrTooLarge = errors.New("decompressed data is larger than allowed")

// Codecs returns all codecs in the order of their numbers.
func Codecs() []Codec {
	return []Codec{None, GZIP, LZ4x64k, Snappy, LZ4x256k, LZ4x1M, LZ4, Flate, ZSTD}
}

// ParseCodec returns the codec with this name, as in Loki's configuration.
func ParseCodec(name string) (Codec, error) {
	for c, n := range codecNames {
		if n == name && n != "" {
			return Codec(c), nil
		}
	}
	return 0, fmt.Errorf("unknown chunk encoding %q, want one of none, gzip, lz4-64k, snappy, lz4-256k, lz4-1M, lz4, flate, zstd", name)
}

// Valid reports whether c is a codec of the format.
func (c Codec) Valid() bool { return c < numCodec && codecNames[c] != "" }

func (c Codec) String() string {
	if c.Valid() {
		return codecNames[c]
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// MarshalText and UnmarshalText make a Codec a setting.
func (c Codec) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func (c *Codec) UnmarshalText(b []byte) error {
	v, err := ParseCodec(string(b))
	if err == nil {
		*c = v
	}
	return err
}

// Compress appends src, compressed, to dst. The result depends on src alone.
// Empty input gives what the format wants for a chunk without symbols.
func (c Codec) Compress(dst, src []byte) ([]byte, error) {
	switch c {
	case None:
		return append(dst, src...), nil
	case GZIP:
		return compressGzip(dst, src)
	case Flate:
		return compressFlate(dst, src)
	case Snappy:
		return appendSnappyFrame(dst, src), nil
	case LZ4x64k, LZ4x256k, LZ4x1M, LZ4:
		return appendLZ4Frame(dst, src, lz4SizeID(c))
	case ZSTD:
		return compressZstd(dst, src), nil
	}
	return dst, fmt.Errorf("compress: unknown %v", c)
}

// Decompress appends the decompressed src to dst. It fails when that would be
// more than maxSize bytes. The memory it takes is bounded by what src can
// really hold and by maxSize; sizes that src merely announces cost nothing.
// After an error the content of the returned slice behind dst is undefined.
func (c Codec) Decompress(dst, src []byte, maxSize int) ([]byte, error) {
	if maxSize < 0 {
		maxSize = 0
	}
	if len(src) == 0 && c != GZIP && c.Valid() {
		return dst, nil
	}
	base := len(dst)
	var err error
	switch c {
	case None:
		if len(src) > maxSize {
			return dst, ErrTooLarge
		}
		return append(dst, src...), nil
	case GZIP:
		dst, err = decompressGzip(dst, src, maxSize)
	case Flate:
		dst, err = decompressFlate(dst, src, maxSize)
	case Snappy:
		dst, err = decodeSnappyFrame(dst, src, maxSize)
	case LZ4x64k, LZ4x256k, LZ4x1M, LZ4:
		dst, err = decodeLZ4Frame(dst, src, maxSize)
	case ZSTD:
		dst, err = decompressZstd(dst, src, maxSize)
	default:
		err = fmt.Errorf("unknown %v", c)
	}
	if err == nil && len(dst)-base > maxSize {
		err = ErrTooLarge
	}
	if err != nil {
		return dst, fmt.Errorf("decompress %v: %w", c, err)
	}
	return dst, nil
}

// appender is an io.Writer over a slice.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// deflater and inflater hold the state of one stream between uses.
type deflater[W any] struct {
	out appender
	w   W
}

type inflater[R any] struct {
	in bytes.Reader
	r  R
}

var (
	gzipWriters  = sync.Pool{New: func() any { return newGzipWriter() }}
	flateWriters = sync.Pool{New: func() any { return newFlateWriter() }}
	gzipReaders  = sync.Pool{New: func() any { return &inflater[*gzip.Reader]{r: new(gzip.Reader)} }}
	flateReaders = sync.Pool{New: func() any {
		return &inflater[io.ReadCloser]{r: flate.NewReader(bytes.NewReader(nil))}
	}}
)

func newGzipWriter() *deflater[*gzip.Writer] {
	d := new(deflater[*gzip.Writer])
	d.w = gzip.NewWriter(&d.out)
	return d
}

func newFlateWriter() *deflater[*flate.Writer] {
	d := new(deflater[*flate.Writer])
	w, err := flate.NewWriter(&d.out, flate.DefaultCompression)
	if err != nil { // only an invalid level is an error
		panic(err)
	}
	d.w = w
	return d
}

func compressGzip(dst, src []byte) ([]byte, error) {
	d := gzipWriters.Get().(*deflater[*gzip.Writer])
	defer gzipWriters.Put(d)
	d.out.b = dst
	d.w.Reset(&d.out)
	return finish(&d.out, d.w, src)
}

func compressFlate(dst, src []byte) ([]byte, error) {
	d := flateWriters.Get().(*deflater[*flate.Writer])
	defer flateWriters.Put(d)
	d.out.b = dst
	d.w.Reset(&d.out)
	return finish(&d.out, d.w, src)
}

func finish(out *appender, w io.WriteCloser, src []byte) ([]byte, error) {
	_, err := w.Write(src)
	if err == nil {
		err = w.Close()
	}
	dst := out.b
	out.b = nil
	return dst, err
}

func decompressGzip(dst, src []byte, maxSize int) ([]byte, error) {
	d := gzipReaders.Get().(*inflater[*gzip.Reader])
	defer gzipReaders.Put(d)
	d.in.Reset(src)
	defer d.in.Reset(nil)
	if err := d.r.Reset(&d.in); err != nil {
		return dst, noEOF(err)
	}
	return readAll(dst, d.r, maxSize)
}

func decompressFlate(dst, src []byte, maxSize int) ([]byte, error) {
	d := flateReaders.Get().(*inflater[io.ReadCloser])
	defer flateReaders.Put(d)
	d.in.Reset(src)
	defer d.in.Reset(nil)
	if err := d.r.(flate.Resetter).Reset(&d.in, nil); err != nil {
		return dst, noEOF(err)
	}
	dst, err := readAll(dst, d.r, maxSize)
	if err == nil && d.in.Len() > 0 {
		err = errors.New("data behind the end of the stream")
	}
	return dst, err
}

// readAll appends what r has to dst, at most maxSize bytes.
func readAll(dst []byte, r io.Reader, maxSize int) ([]byte, error) {
	base := len(dst)
	for {
		if len(dst) == cap(dst) {
			dst = slices.Grow(dst, min(max(cap(dst)-base, 4096), maxSize-(len(dst)-base)+1))
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
		if len(dst)-base > maxSize {
			return dst, ErrTooLarge
		}
	}
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
