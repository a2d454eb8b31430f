package httpbody

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

// readPieces reads all of a body, using up all but keep bytes of each piece.
func readPieces(t *testing.T, o Options, total int64, enc string, body []byte, keep int) ([]byte, int, error) {
	t.Helper()
	p, err := o.Pieces(request(bytes.NewReader(body), enc), total)
	if err != nil {
		return nil, 0, err
	}
	defer p.Close()
	var out, buf []byte
	for n := 1; ; n++ {
		buf, err = p.Fill(buf)
		if int64(len(buf)) > o.MaxDecoded && (err == nil || err == io.EOF) {
			t.Fatalf("%s: a piece of %d bytes", enc, len(buf))
		}
		if err != nil {
			out = append(out, buf...)
			if _, again := p.Fill(nil); !errors.Is(again, err) {
				t.Fatalf("%s: %v after %v", enc, again, err)
			}
			return out, n, err
		}
		used := len(buf) - min(keep, len(buf))
		out = append(out, buf[:used]...)
		buf = append(buf[:0], buf[used:]...)
	}
}

func TestPieces(t *testing.T) {
	for _, enc := range []string{"", "gzip", "deflate"} {
		for _, size := range []int{0, 1, 999, 1000, 1001, 2000, 300_000} {
			data := text(size)
			body := compress(t, enc, data)
			var admitted int64
			o := Options{MaxWire: 1, MaxDecoded: 1000, Admit: func(n int64) error { admitted += n; return nil }}
			got, pieces, err := readPieces(t, o, 1<<20, enc, body, 10)
			if err != io.EOF || !bytes.Equal(got, data) {
				t.Fatalf("%s: %d of %d bytes, %v", enc, len(got), size, err)
			}
			if size <= 1000 && pieces != 1 || size > 1000 && pieces == 1 {
				t.Fatalf("%s: %d bytes in %d pieces", enc, size, pieces)
			}
			if admitted > 2*step {
				t.Fatalf("%s: %d bytes admitted for pieces of 1000", enc, admitted)
			}
		}
	}
	for _, enc := range []string{"zstd", "snappy"} {
		data := text(5000)
		body := compress(t, enc, data)
		o := Options{MaxWire: 10_000, MaxDecoded: 5000}
		if got, n, err := readPieces(t, o, 1<<20, enc, body, 0); err != io.EOF || n != 1 || !bytes.Equal(got, data) {
			t.Fatalf("%s: %d bytes, %v", enc, len(got), err)
		}
		o.MaxDecoded--
		_, _, err := readPieces(t, o, 1<<20, enc, body, 0)
		wantReason(t, err, push.BodyTooLarge)
	}
}

func TestPiecesErrors(t *testing.T) {
	o := Options{MaxWire: 1 << 20, MaxDecoded: 1000}
	for _, enc := range []string{"", "gzip", "deflate"} {
		body := compress(t, enc, text(50_000))
		_, _, err := readPieces(t, o, 49_999, enc, body, 0)
		wantReason(t, err, push.BodyTooLarge)
		if enc == "" {
			continue
		}
		got, _, err := readPieces(t, o, 1<<20, enc, body[:len(body)/2], 0)
		wantReason(t, err, push.Malformed)
		if !bytes.HasPrefix(text(50_000), got) || len(got) == 0 {
			t.Fatalf("%s: %d bytes before the damage", enc, len(got))
		}
		_, _, err = readPieces(t, o, 1<<20, enc, []byte("{}"), 0)
		wantReason(t, err, push.Malformed)
	}
	if _, err := o.Pieces(request(strings.NewReader(""), "br"), 1); err == nil {
		t.Fatal("br is taken")
	}
	r := request(strings.NewReader("xyz"), "")
	r.ContentLength = 3
	_, err := o.Pieces(r, 2)
	wantReason(t, err, push.BodyTooLarge)

	gone := errors.New("reset")
	p, err := o.Pieces(request(io.MultiReader(strings.NewReader("abc"), errReader{gone}), ""), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Fill(nil); !errors.Is(err, ErrDisconnected) || !errors.Is(err, gone) {
		t.Fatalf("got %v", err)
	}
}

func TestPiecesAdmit(t *testing.T) {
	full := push.Errorf(push.Overloaded, "too much in flight")
	o := Options{MaxWire: 1, MaxDecoded: 1 << 20, Admit: func(int64) error { return full }}
	if _, _, err := readPieces(t, o, 1<<30, "", []byte("abc"), 0); !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
}
