package rawgrpc

import (
	"io"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/encoding"
)

// maxWindow is the largest zstd window that is accepted: what the format's
// specification asks every decoder for.
const maxWindow = 8 << 20

// gRPC has one registry of compressions in a process, to be filled at start.
func init() {
	encoding.RegisterCompressor(&compressor{
		name: "zstd",
		newReader: func() (resettable, error) {
			d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
			return zstdReader{d}, err
		},
		newWriter: func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstd.MinWindowSize))
		},
	})
	encoding.RegisterCompressor(&compressor{
		name:      "snappy",
		newReader: func() (resettable, error) { return snappyReader{snappy.NewReader(nil)}, nil },
		newWriter: func(w io.Writer) (io.WriteCloser, error) { return snappy.NewBufferedWriter(w), nil },
	})
}

// compressor is a compression of gRPC. Requests are what it is for: it keeps
// decoders, while answers are a few bytes.
type compressor struct {
	name      string
	newReader func() (resettable, error)
	newWriter func(io.Writer) (io.WriteCloser, error)
	readers   sync.Pool
}

type resettable interface {
	io.Reader
	reset(io.Reader) error
}

type zstdReader struct{ *zstd.Decoder }

func (r zstdReader) reset(src io.Reader) error { return r.Reset(src) }

type snappyReader struct{ *snappy.Reader }

func (r snappyReader) reset(src io.Reader) error { r.Reset(src); return nil }

func (c *compressor) Name() string { return c.name }

func (c *compressor) Compress(w io.Writer) (io.WriteCloser, error) { return c.newWriter(w) }

func (c *compressor) Decompress(src io.Reader) (io.Reader, error) {
	r, ok := c.readers.Get().(resettable)
	if !ok {
		var err error
		if r, err = c.newReader(); err != nil {
			return nil, err
		}
	}
	if err := r.reset(src); err != nil {
		return nil, err
	}
	return &pooled{c: c, r: r}, nil
}

// pooled gives its decoder back at the end of the message. One that fails, or
// is not read to the end, is left to the garbage collector.
type pooled struct {
	c *compressor
	r resettable
}

func (p *pooled) Read(b []byte) (int, error) {
	if p.r == nil {
		return 0, io.EOF
	}
	n, err := p.r.Read(b)
	if err == io.EOF {
		p.c.readers.Put(p.r)
		p.r = nil
	}
	return n, err
}
