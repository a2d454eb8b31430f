// Package httpbody is what the HTTP receivers share: reading and decompressing
// a request body within limits, and rendering a refusal as an HTTP answer.
//
// Nothing here has state of its own but pools of decoders; all functions may
// be called from any number of goroutines. No size that a client announces is
// trusted: buffers grow with what has arrived, by steps that Options.Admit may
// refuse.
//
// Content-Encoding may be absent, identity, gzip (any number of members),
// deflate (raw, as Loki reads it, or in a zlib envelope, as the RFC wants it),
// zstd, or snappy (one raw block, no framing).
package httpbody

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/loki-go/loki-go/proto/push"
)

// TenantHeader names the tenant of a request.
const TenantHeader = "X-Scope-OrgID"

// ErrDisconnected says that the client went away, or fell silent until the
// server's deadline, before it had sent its whole body. It is no fault of the
// server and not worth a line in its log.
var ErrDisconnected = errors.New("client did not send the whole body")

// Options are the limits of a Read.
type Options struct {
	// MaxWire bounds the body as sent, MaxDecoded as decompressed; both in bytes.
	MaxWire, MaxDecoded int64
	// KeepSnappy says that what the client calls its body is one snappy block in
	// any case: with Content-Encoding snappy or none it is left as it is.
	KeepSnappy bool
	// Admit, if set, is asked before n more bytes of memory are used for the
	// body. Its error is returned as it is.
	Admit func(n int64) error
}

// Read is Options.Read with limits only.
func Read(r *http.Request, dst []byte, maxWire, maxDecoded int64) ([]byte, error) {
	return Options{MaxWire: maxWire, MaxDecoded: maxDecoded}.Read(r, dst)
}

// Read appends the decompressed body of r to dst and returns the result, which
// is valid memory (dst or its successor) even with an error. Errors are a
// *push.Error (BodyTooLarge or Malformed), ErrDisconnected in a wrapper, or
// what Admit returned.
func (o Options) Read(r *http.Request, dst []byte) ([]byte, error) {
	enc, err := encoding(r.Header)
	if err != nil {
		return dst, err
	}
	if r.ContentLength > o.MaxWire {
		return dst, tooLarge("request body", o.MaxWire)
	}
	w := &wire{r: r.Body, left: o.MaxWire, max: o.MaxWire}
	g := grower{admit: o.Admit}
	switch {
	case o.KeepSnappy && (enc == "" || enc == "snappy"):
		g.hint = r.ContentLength
		dst, err = g.readAll(dst, w, o.MaxWire, "request body")
	case enc == "":
		g.hint = r.ContentLength
		dst, err = g.readAll(dst, w, min(o.MaxWire, o.MaxDecoded), "request body")
	case enc == "snappy":
		dst, err = readSnappy(&g, w, dst, o)
	case enc == "zstd":
		dst, err = readZstd(&g, w, dst, o)
	default:
		dst, err = readInflate(&g, w, dst, o, enc)
	}
	return dst, w.blame(err)
}

// encoding returns the one content encoding of a request, "" for none.
func encoding(h http.Header) (string, error) {
	raw := strings.Join(h.Values("Content-Encoding"), ", ")
	switch e := strings.ToLower(strings.TrimSpace(raw)); e {
	case "", "identity":
		return "", nil
	case "x-gzip":
		return "gzip", nil
	case "gzip", "deflate", "zstd", "snappy":
		return e, nil
	}
	if len(raw) > 100 {
		raw = raw[:100]
	}
	return "", push.Errorf(push.Malformed, "Content-Encoding %q not supported", raw)
}

func tooLarge(what string, limit int64) error {
	return push.Errorf(push.BodyTooLarge, "%s is larger than the limit of %d bytes", what, limit)
}

// wire reads the body as sent and remembers its own errors, so that they are
// not taken for those of a decoder that reads from it.
type wire struct {
	r         io.Reader
	left, max int64
	err       error
}

func (w *wire) Read(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.left+1 {
		p = p[:w.left+1]
	}
	n, err := w.r.Read(p)
	if w.left -= int64(n); w.left < 0 {
		w.err = tooLarge("request body", w.max)
		return 0, w.err
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", ErrDisconnected, err)
	}
	w.err = err
	return n, err
}

// blame returns the error that began it: the wire's if it failed, err if that
// is a refusal already, else a refusal that quotes the decoder.
func (w *wire) blame(err error) error {
	if err == nil {
		return nil
	}
	if w.err != nil && w.err != io.EOF {
		return w.err
	}
	var d *decodeError
	if errors.As(err, &d) {
		return push.Errorf(push.Malformed, "%s", d.Error())
	}
	return err
}

// decodeError is what a decompressor says of its input.
type decodeError struct {
	enc string
	err error
}

func (e *decodeError) Error() string { return "decompress " + e.enc + " body: " + e.err.Error() }
func (e *decodeError) Unwrap() error { return e.err }

// step is the smallest amount by which a buffer grows and memory is asked for.
const step = 64 << 10

// maxHint bounds how far an announced length decides on a buffer's size.
const maxHint = 1 << 20

// grower reads into buffers that grow only with what has arrived.
type grower struct {
	admit    func(int64) error
	admitted int64
	held     int64
	hint     int64
	enc      string // set: errors of the source are those of this decoder
}

// room makes sure that dst can take more, and that this is admitted.
func (g *grower) room(dst []byte, limit int64) ([]byte, error) {
	if g.held >= g.admitted {
		n := max(step, g.held/2)
		if g.admit != nil {
			if err := g.admit(n); err != nil {
				return dst, err
			}
		}
		g.admitted += n
	}
	if len(dst) == cap(dst) {
		n := max(step, len(dst))
		if g.hint > 0 {
			n = max(n, int(min(g.hint, maxHint))+1)
		}
		grown := make([]byte, len(dst), len(dst)+int(min(int64(n), limit+1)))
		copy(grown, dst)
		dst = grown
	}
	return dst, nil
}

// readAll appends all of src to dst, at most limit bytes.
func (g *grower) readAll(dst []byte, src io.Reader, limit int64, what string) ([]byte, error) {
	g.held, g.admitted = 0, 0
	var err error
	for idle := 0; ; {
		if dst, err = g.room(dst, limit); err != nil {
			return dst, err
		}
		p := dst[len(dst):cap(dst)]
		if free := g.admitted - g.held; int64(len(p)) > free {
			p = p[:free]
		}
		n, err := src.Read(p)
		dst = dst[:len(dst)+n]
		g.held += int64(n)
		if g.held > limit {
			return dst, tooLarge(what, limit)
		}
		switch {
		case err == io.EOF:
			return dst, nil
		case err != nil && g.enc != "":
			return dst, &decodeError{g.enc, err}
		case err != nil:
			return dst, err
		}
		if idle++; n > 0 {
			idle = 0
		} else if idle > 100 {
			return dst, io.ErrNoProgress
		}
	}
}

// PushID returns an id for the push of body under the name that the client
// gave it in Idempotency-Key or X-Request-Id, or the zero id. The body is part
// of it: proxies and tracing hand one X-Request-Id to all requests of a chain,
// and two different pushes must not pass for one.
func PushID(h http.Header, body []byte) push.ID {
	key := h.Get("Idempotency-Key")
	if key == "" {
		key = h.Get("X-Request-Id")
	}
	if key == "" {
		return push.ID{}
	}
	return BodyID(key, body)
}

// BodyID returns an id for the push of body under a name. Without a name of the
// client's, it is for bodies of which two that are equal are one, sent again.
func BodyID(name string, body []byte) push.ID {
	buf := make([]byte, 16, 16+len(name))
	binary.LittleEndian.PutUint64(buf, xxhash.Sum64(body))
	binary.LittleEndian.PutUint64(buf[8:], uint64(len(body)))
	sum := sha256.Sum256(append(buf, name...))
	return push.ID(sum[:16])
}
