package httpbody

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"

	"github.com/loki-go/loki-go/proto/push"
)

type writeCloser interface {
	io.WriteCloser
}

func compress(t testing.TB, enc string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w writeCloser
	var err error
	switch enc {
	case "", "identity":
		return data
	case "gzip", "x-gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w, err = flate.NewWriter(&b, 6)
	case "zlib":
		w = zlib.NewWriter(&b)
	case "zstd":
		w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	case "snappy":
		return snappy.Encode(nil, data)
	default:
		t.Fatalf("no encoder for %q", enc)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func request(body io.Reader, enc string) *http.Request {
	r := httptest.NewRequest("POST", "/", body)
	if enc != "" {
		r.Header.Set("Content-Encoding", enc)
	}
	return r
}

// text makes n bytes that compress like logs.
func text(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "ts=%d level=info msg=\"request %x done\" status=%d\n", b.Len(), rnd.Uint64(), 200+rnd.IntN(4))
	}
	return b.Bytes()[:n]
}

// hidden keeps httptest.NewRequest from finding out the length.
type hidden struct{ io.Reader }

func TestRead(t *testing.T) {
	f := func(enc, how string, size int) {
		t.Helper()
		data := text(size)
		body := compress(t, how, data)
		for _, known := range []bool{true, false} {
			var src io.Reader = bytes.NewReader(body)
			if !known {
				src = hidden{src}
			}
			got, err := Read(request(src, enc), []byte("x"), int64(len(body)), int64(size))
			if err != nil {
				t.Fatalf("%s/%s %d bytes: %v", enc, how, size, err)
			}
			if string(got) != "x"+string(data) {
				t.Fatalf("%s/%s %d bytes: got %d other bytes", enc, how, size, len(got))
			}
			if size == 0 {
				continue
			}
			_, err = Read(request(bytes.NewReader(body), enc), nil, int64(len(body))-1, 1<<40)
			wantReason(t, err, push.BodyTooLarge)
			src = bytes.NewReader(body)
			if !known {
				src = hidden{src}
			}
			_, err = Read(request(src, enc), nil, 1<<40, int64(size)-1)
			wantReason(t, err, push.BodyTooLarge)
		}
	}
	for _, size := range []int{0, 1, 1000, step - 1, step, step + 1, 200_000} {
		f("", "", size)
		f("identity", "", size)
		f("gzip", "gzip", size)
		f("GZIP", "gzip", size)
		f("x-gzip", "gzip", size)
		f("deflate", "deflate", size)
		f("deflate", "zlib", size)
		f("zstd", "zstd", size)
		f("snappy", "snappy", size)
	}
}

func wantReason(t testing.TB, err error, want push.Reason) {
	t.Helper()
	var e *push.Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v (%T), want a *push.Error with %s", err, err, want)
	}
	if e.Reason != want {
		t.Fatalf("got %s (%v), want %s", e.Reason, err, want)
	}
}

func TestMembersAndFrames(t *testing.T) {
	a, b := text(1000), text(100_000)
	for _, enc := range []string{"gzip", "zstd"} {
		body := append(bytes.Clone(compress(t, enc, a)), compress(t, enc, b)...)
		got, err := Read(request(bytes.NewReader(body), enc), nil, 1<<20, 1<<20)
		if err != nil {
			t.Fatalf("%s: %v", enc, err)
		}
		if !bytes.Equal(got, append(bytes.Clone(a), b...)) {
			t.Fatalf("%s: two members give %d bytes", enc, len(got))
		}
	}
}

func TestUnsupported(t *testing.T) {
	f := func(want string, values ...string) {
		t.Helper()
		r := request(strings.NewReader("x"), "")
		r.Header["Content-Encoding"] = values
		_, err := Read(r, nil, 10, 10)
		wantReason(t, err, push.Malformed)
		if err.Error() != want {
			t.Fatalf("got %q, want %q", err, want)
		}
	}
	f(`Content-Encoding "br" not supported`, "br")
	f(`Content-Encoding "gzip, snappy" not supported`, "gzip, snappy")
	f(`Content-Encoding "gzip, snappy" not supported`, "gzip", "snappy")
	f(`Content-Encoding "`+strings.Repeat("z", 100)+`" not supported`, strings.Repeat("z", 1000))
}

func TestKeepSnappy(t *testing.T) {
	body := compress(t, "snappy", text(1000))
	got, err := Options{MaxWire: 2000, MaxDecoded: 2000, KeepSnappy: true}.Read(request(bytes.NewReader(body), "snappy"), nil)
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("got %d bytes, %v; want the %d as sent", len(got), err, len(body))
	}
}

func TestMalformed(t *testing.T) {
	data := text(10_000)
	for _, enc := range []string{"gzip", "deflate", "zstd", "snappy"} {
		body := compress(t, enc, data)
		for name, bad := range map[string][]byte{
			"empty":     {},
			"garbage":   []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffgarbage"),
			"truncated": body[:len(body)/2],
		} {
			if enc == "zstd" && name == "empty" {
				continue // no frame at all is an empty zstd stream
			}
			_, err := Read(request(bytes.NewReader(bad), enc), nil, 1<<20, 1<<20)
			var e *push.Error
			if !errors.As(err, &e) || e.Reason != push.Malformed {
				t.Fatalf("%s %s: got %v (%T), want malformed", enc, name, err, err)
			}
		}
		// The decoders that failed must serve the next request.
		if got, err := Read(request(bytes.NewReader(body), enc), nil, 1<<20, 1<<20); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s after failures: %d bytes, %v", enc, len(got), err)
		}
	}
}

// TestBombs sends 32 MiB of zeros, compressed, and announcements of it.
func TestBombs(t *testing.T) {
	zeros := make([]byte, 1<<20)
	const limit = 4 << 20
	for _, enc := range []string{"gzip", "deflate", "zstd"} {
		pr, pw := io.Pipe()
		var w io.WriteCloser
		switch enc {
		case "gzip":
			w = gzip.NewWriter(pw)
		case "deflate":
			w, _ = flate.NewWriter(pw, 1)
		case "zstd":
			w, _ = zstd.NewWriter(pw, zstd.WithEncoderConcurrency(1))
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 32 {
				if _, err := w.Write(zeros); err != nil {
					return
				}
			}
			w.Close()
			pw.Close()
		}()
		var admitted int64
		o := Options{MaxWire: 100 << 20, MaxDecoded: limit, Admit: func(n int64) error { admitted += n; return nil }}
		got, err := o.Read(request(pr, enc), nil)
		pr.Close()
		<-done
		wantReason(t, err, push.BodyTooLarge)
		if cap(got) > 3*limit || admitted > 3*limit {
			t.Fatalf("%s: buffer of %d bytes, %d admitted, limit %d", enc, cap(got), admitted, limit)
		}
	}
	// A block of ten bytes that announces 2 GiB, and a frame that wants a window
	// of 1 GiB.
	o := Options{MaxWire: 1 << 20, MaxDecoded: 1 << 40, Admit: func(n int64) error {
		if n > 1<<20 {
			t.Fatalf("asked for %d bytes", n)
		}
		return nil
	}}
	_, err := o.Read(request(bytes.NewReader([]byte("\x80\x80\x80\x80\x08\x00a\x00b\x00c")), "snappy"), nil)
	wantReason(t, err, push.Malformed)
	_, err = o.Read(request(bytes.NewReader([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x01, 0x00, 0x00}), "zstd"), nil)
	wantReason(t, err, push.Malformed)
	if !strings.Contains(err.Error(), "window") {
		t.Fatalf("got %v, want a word on the window", err)
	}
}

// TestAdmit checks that memory is asked for before it is used and that the
// answer is passed on.
func TestAdmit(t *testing.T) {
	full := push.Errorf(push.Overloaded, "too much in flight")
	for _, enc := range []string{"", "gzip", "deflate", "zstd", "snappy"} {
		data := text(1 << 20)
		body := compress(t, enc, data)
		var sum int64
		o := Options{MaxWire: 1 << 30, MaxDecoded: 1 << 30, Admit: func(n int64) error {
			if sum+n > 512<<10 {
				return full
			}
			sum += n
			return nil
		}}
		got, err := o.Read(request(bytes.NewReader(body), enc), nil)
		if !errors.Is(err, full) {
			t.Fatalf("%s: got %v", enc, err)
		}
		if len(got) > 512<<10 {
			t.Fatalf("%s: %d bytes read with 512 KiB admitted", enc, len(got))
		}
	}
}

// TestContentLengthLies announces more than is sent, over a real connection.
func TestContentLengthLies(t *testing.T) {
	type result struct {
		n   int
		err error
	}
	results := make(chan result, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := Read(r, nil, 1<<30, 1<<30)
		if cap(got) > 4<<20 {
			err = fmt.Errorf("buffer of %d bytes for 10", cap(got))
		}
		results <- result{len(got), err}
		WriteError(w, err)
	}))
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000\r\n\r\n0123456789")
	c.Close()
	res := <-results
	if res.n != 10 || !errors.Is(res.err, ErrDisconnected) {
		t.Fatalf("got %d bytes, %v", res.n, res.err)
	}
	var e *push.Error
	if errors.As(res.err, &e) {
		t.Fatalf("a disconnect counts as a refusal: %v", res.err)
	}
}

func TestDisconnectInsideCompression(t *testing.T) {
	gone := errors.New("connection reset")
	for _, enc := range []string{"gzip", "deflate", "zstd", "snappy"} {
		body := compress(t, enc, text(100_000))
		r := request(io.MultiReader(bytes.NewReader(body[:len(body)/2]), errReader{gone}), enc)
		_, err := Read(r, nil, 1<<20, 1<<20)
		if !errors.Is(err, ErrDisconnected) || !errors.Is(err, gone) {
			t.Fatalf("%s: got %v", enc, err)
		}
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestWriteError(t *testing.T) {
	f := func(err error, code int, retry, text string) {
		t.Helper()
		w := httptest.NewRecorder()
		if got := WriteError(w, err); got != code || w.Code != code {
			t.Fatalf("%v: status %d, written %d, want %d", err, got, w.Code, code)
		}
		if got := w.Header().Get("Retry-After"); got != retry {
			t.Fatalf("%v: Retry-After %q, want %q", err, got, retry)
		}
		if got := w.Body.String(); got != text {
			t.Fatalf("%v: body %q, want %q", err, got, text)
		}
	}
	f(nil, 204, "", "")
	f(push.Errorf(push.BodyTooLarge, "big"), 413, "", "big\n")
	f(push.Errorf(push.Malformed, "a\nb\x00"), 400, "", "a b \n")
	f(&push.Error{Reason: push.RateLimited, Msg: "slow", RetryAfter: 1100 * time.Millisecond}, 429, "2", "slow\n")
	f(&push.Error{Reason: push.RateLimited, Msg: "slow", RetryAfter: 2 * time.Second}, 429, "2", "slow\n")
	f(push.Errorf(push.Overloaded, "full"), 503, "1", "full\n")
	f(fmt.Errorf("wrapped: %w", push.Errorf(push.NoTenant, "no org id")), 401, "", "wrapped: no org id\n")
	f(fmt.Errorf("%w: reset", ErrDisconnected), 503, "1", "client did not send the whole body: reset\n")
	f(errors.New("boom"), 500, "", "boom\n")
	rej := &push.Rejected{Total: 3}
	rej.Add(push.TooOld, `{a="b"}`, 1, 10, func() string { return "too old" })
	f(rej, 400, "", "1 errors like: too old (1 of 3 entries refused, the rest is stored)\n")
	long := strings.Repeat("é", maxText)
	w := httptest.NewRecorder()
	WriteError(w, errors.New(long))
	if got := w.Body.String(); len(got) > maxText+10 || !strings.HasSuffix(got, "é...\n") {
		t.Fatalf("long text: %d bytes, ends %q", len(got), got[len(got)-10:])
	}
}

func TestPushID(t *testing.T) {
	f := func(body string, kv ...string) push.ID {
		h := http.Header{}
		for i := 0; i < len(kv); i += 2 {
			h.Set(kv[i], kv[i+1])
		}
		return PushID(h, []byte(body))
	}
	if f("x") != (push.ID{}) {
		t.Fatal("an id without a name")
	}
	a := f("x", "X-Request-Id", "1")
	if a == (push.ID{}) || a != f("x", "X-Request-Id", "1") {
		t.Fatal("the id of a retry differs")
	}
	if a == f("y", "X-Request-Id", "1") {
		t.Fatal("two bodies under one request id have one id")
	}
	if a == f("x", "X-Request-Id", "2") {
		t.Fatal("two request ids give one id")
	}
	if f("x", "Idempotency-Key", "k", "X-Request-Id", "1") != f("x", "Idempotency-Key", "k", "X-Request-Id", "2") {
		t.Fatal("Idempotency-Key does not take precedence")
	}
}

func FuzzRead(f *testing.F) {
	data := text(500)
	for i, enc := range fuzzEncodings {
		how := enc
		if enc == "deflate" {
			f.Add(uint8(i), compress(f, "zlib", data))
		}
		f.Add(uint8(i), compress(f, how, data))
	}
	f.Add(uint8(4), s2.EncodeBest(nil, make([]byte, 2<<20)))
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		enc := fuzzEncodings[int(which)%len(fuzzEncodings)]
		const limit = 1 << 20
		got, err := Read(request(bytes.NewReader(body), enc), nil, limit, limit)
		var e *push.Error
		switch {
		case err == nil && len(got) > limit:
			t.Fatalf("%d bytes with a limit of %d", len(got), limit)
		case err != nil && !errors.As(err, &e):
			t.Fatalf("error without a reason: %v", err)
		case cap(got) > 3*limit:
			t.Fatalf("buffer of %d bytes", cap(got))
		}
	})
}

var fuzzEncodings = []string{"", "gzip", "deflate", "zstd", "snappy"}

func BenchmarkRead(b *testing.B) {
	data := text(1 << 20)
	for _, enc := range []string{"identity", "gzip", "deflate", "zstd", "snappy"} {
		b.Run(enc, func(b *testing.B) {
			body := compress(b, enc, data)
			r := request(nil, enc)
			in := bytes.NewReader(body)
			r.Body, r.ContentLength = io.NopCloser(in), int64(len(body))
			var buf []byte
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				in.Reset(body)
				var err error
				if buf, err = Read(r, buf[:0], 1<<30, 1<<30); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
