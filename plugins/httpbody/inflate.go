package httpbody

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/loki-go/loki-go/proto/push"
)

// inflater is one decoder of each format of the deflate family, made when
// first needed, behind a buffer that spares the decoders small reads.
type inflater struct {
	in   *bufio.Reader
	gzip *gzip.Reader
	zlib io.ReadCloser
	raw  io.ReadCloser
}

var inflaters = sync.Pool{New: func() any { return &inflater{in: bufio.NewReaderSize(nil, 16<<10)} }}

// open returns a reader of what src holds in the given encoding.
func (f *inflater) open(src io.Reader, enc string) (io.Reader, error) {
	f.in.Reset(src)
	if enc == "gzip" {
		if f.gzip == nil {
			f.gzip = new(gzip.Reader)
		}
		return f.gzip, f.gzip.Reset(f.in)
	}
	head, err := f.in.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(head) == 2 && zlibHeader(head[0], head[1]) {
		if f.zlib == nil {
			f.zlib, err = zlib.NewReader(f.in)
			return f.zlib, err
		}
		return f.zlib, f.zlib.(zlib.Resetter).Reset(f.in, nil)
	}
	if f.raw == nil {
		f.raw = flate.NewReader(f.in)
		return f.raw, nil
	}
	return f.raw, f.raw.(flate.Resetter).Reset(f.in, nil)
}

// zlibHeader tells a zlib envelope from raw deflate. In raw deflate these bits
// would be a stored block with padding that is not zero, which no encoder
// writes.
func zlibHeader(a, b byte) bool {
	return a&0x0f == 8 && a>>4 <= 7 && b&0x20 == 0 && (uint(a)<<8|uint(b))%31 == 0
}

func readInflate(g *grower, w *wire, dst []byte, o Options, enc string) ([]byte, error) {
	f := inflaters.Get().(*inflater)
	defer func() {
		f.in.Reset(nil)
		inflaters.Put(f)
	}()
	src, err := f.open(w, enc)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return dst, &decodeError{enc, err}
	}
	g.enc = enc
	return g.readAll(dst, src, o.MaxDecoded, "decompressed body")
}

// wireBuffers hold compressed bodies whose decoder wants them whole.
var wireBuffers = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled bounds what a pooled buffer may keep.
const maxPooled = 4 << 20

// whole reads the compressed body and calls use with it.
func whole(g *grower, w *wire, o Options, dst []byte, use func(body []byte) ([]byte, error)) ([]byte, error) {
	buf := wireBuffers.Get().(*[]byte)
	body, err := g.readAll((*buf)[:0], w, o.MaxWire, "request body")
	defer func() {
		if cap(body) <= maxPooled {
			*buf = body[:0]
			wireBuffers.Put(buf)
		}
	}()
	if err != nil {
		return dst, err
	}
	return use(body)
}

// maxWindow is the largest zstd window that is accepted: what the format's
// specification asks every decoder for, and more than any level below --ultra
// uses.
const maxWindow = 8 << 20

// zstdDecoders holds as many decoders as can run at once. Each may have to
// allocate a window because a frame of ten bytes says so; a body is read to
// its end before it waits for one of these, so that slow clients cannot hold
// them.
var zstdDecoders = newZstdDecoders()

func newZstdDecoders() chan *zstd.Decoder {
	n := runtime.GOMAXPROCS(0)
	c := make(chan *zstd.Decoder, n)
	for range n {
		c <- nil
	}
	return c
}

func readZstd(g *grower, w *wire, dst []byte, o Options) ([]byte, error) {
	return whole(g, w, o, dst, func(body []byte) ([]byte, error) {
		d := <-zstdDecoders
		defer func() { zstdDecoders <- d }()
		in := bytes.NewReader(body)
		var err error
		if d == nil {
			// One at a time means in the caller: no goroutines.
			d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxWindow(maxWindow))
			if err != nil {
				return dst, err
			}
		}
		if err = d.Reset(in); err != nil {
			return dst, &decodeError{"zstd", err}
		}
		g.enc = "zstd"
		dst, err = g.readAll(dst, d, o.MaxDecoded, "decompressed body")
		if rerr := d.Reset(nil); rerr != nil {
			d = nil
		}
		return dst, err
	})
}

func readSnappy(g *grower, w *wire, dst []byte, o Options) ([]byte, error) {
	return whole(g, w, o, dst, func(body []byte) ([]byte, error) {
		n, err := push.DecodedLen(body)
		if err != nil {
			return dst, &decodeError{"snappy", err}
		}
		if int64(n) > o.MaxDecoded {
			return dst, tooLarge("decompressed body", o.MaxDecoded)
		}
		if o.Admit != nil {
			if err := o.Admit(int64(n)); err != nil {
				return dst, err
			}
		}
		at := len(dst)
		if cap(dst)-at < n {
			grown := make([]byte, at, at+n)
			copy(grown, dst)
			dst = grown
		}
		if _, err := s2.Decode(dst[at:at+n:at+n], body); err != nil {
			return dst, &decodeError{"snappy", err}
		}
		return dst[:at+n], nil
	})
}
