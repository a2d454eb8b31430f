package forward

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// compression is that of a packed message.
type compression uint8

const (
	plain compression = iota
	gzipped
	zstandard
)

// undecodable says why a packed body cannot be decompressed, now or ever.
type undecodable struct{ err error }

func (e *undecodable) Error() string { return e.err.Error() }
func (e *undecodable) Unwrap() error { return e.err }

func undecodablef(format string, args ...any) error {
	return &undecodable{fmt.Errorf(format, args...)}
}

// detect finds out how a packed body is compressed. Magic bytes count more
// than the option, as with Fluent Bit: entries never start like that.
func detect(body, option []byte) (compression, error) {
	switch {
	case bytes.HasPrefix(body, []byte{0x1f, 0x8b}):
		return gzipped, nil
	case bytes.HasPrefix(body, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstandard, nil
	}
	switch string(option) {
	case "", "text":
		return plain, nil
	case "gzip", "zstd":
		if len(body) == 0 {
			return plain, nil
		}
		return plain, undecodablef("the entries are not compressed with %s, as it says", option)
	}
	if len(option) > 32 {
		option = option[:32]
	}
	return plain, undecodablef("the compression %q is unknown", option)
}

// maxWindow is the largest zstd window that is accepted: what the format's
// specification asks of every decoder.
const maxWindow = 8 << 20

// inflater holds a decoder of each kind, made when first needed. Several gzip
// members, or zstd frames, one behind the other are one text.
type inflater struct {
	src  bytes.Reader
	gzip *gzip.Reader
	zstd *zstd.Decoder
}

func (f *inflater) open(body []byte, how compression) (io.Reader, error) {
	f.src.Reset(body)
	if how == gzipped {
		if f.gzip == nil {
			f.gzip = new(gzip.Reader)
		}
		return f.gzip, f.gzip.Reset(&f.src)
	}
	if f.zstd == nil {
		// One at a time means in the caller: no goroutines.
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		f.zstd = d
	}
	return f.zstd, f.zstd.Reset(&f.src)
}

// inflate decompresses body into the memory of w. It grows with what comes out
// of the decoder, as far as c may take memory.
func (c *conn) inflate(w *worker, body []byte, how compression) ([]byte, error) {
	if how == zstandard {
		// A frame of ten bytes can ask for this much.
		if err := c.admit(&w.held, maxWindow); err != nil {
			return nil, err
		}
	}
	src, err := w.inflater.open(body, how)
	if err != nil {
		return nil, undecodablef("the entries cannot be decompressed: %w", err)
	}
	limit := int(c.s.cfg.MaxDecompressed)
	if w.plain == nil {
		if w.plain, err = c.buffer(&w.held, min(4*len(body), limit)); err != nil {
			return nil, err
		}
	}
	n := 0
	var one [1]byte
	for {
		room := w.plain[n:]
		if n >= limit {
			room = one[:] // only to see whether there is more
		} else if n == len(w.plain) {
			grown, err := c.buffer(&w.held, 2*n)
			if err != nil {
				return nil, err
			}
			copy(grown, w.plain)
			c.s.buffers.put(w.plain)
			w.plain, room = grown, grown[n:]
		}
		k, err := src.Read(room)
		if n += k; n > limit {
			return nil, &closeError{reason: "too_large", err: fmt.Errorf("a message decompresses to more than %d bytes", limit)}
		}
		if errors.Is(err, io.EOF) {
			return w.plain[:n], nil
		}
		if err != nil {
			return nil, undecodablef("the entries cannot be decompressed: %w", err)
		}
	}
}
