package httpjson

import (
	"bytes"
	"io"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/proto/push"
)

// large works on a body of which r.body is the start only.
func (r *request) large(p *httpbody.Pieces) {
	r.out.bytes = len(r.body)
	switch f := r.format(); f {
	case formatJSON, formatLines:
		r.pieces(p, splitter{lines: f == formatLines})
	case formatMsgpack:
		// Nobody sends so much: Fluent Bit's chunks have 2 MB.
		r.out.err = tooLarge("request", r.h.cfg)
	default:
		r.bury(push.BodyTooLarge, r.body, tooLarge("event", r.h.cfg).Msg)
		for more := true; more && r.out.err == nil; {
			more = r.fill(p, 0)
		}
	}
	if r.out.err == nil {
		r.push()
	}
}

func tooLarge(what string, c Config) *push.Error {
	return push.Errorf(push.BodyTooLarge, "%s of more than %d bytes", what, int64(c.MaxDecoded))
}

// fill makes r.body what it has from byte used on, and what follows. It returns
// false if that is the rest, or if it fails.
func (r *request) fill(p *httpbody.Pieces, used int) (more bool) {
	n := copy(r.body, r.body[used:])
	var err error
	r.body, err = p.Fill(r.body[:n])
	r.out.bytes += len(r.body) - n
	if err != nil && err != io.EOF {
		r.out.err = err
	}
	return err == nil
}

// pieces maps the values of a body that is read piece by piece. Each piece has
// a push of its own, or several: an id stands for one piece.
func (r *request) pieces(p *httpbody.Pieces, s splitter) {
	at := len(r.body) - len(bytes.TrimPrefix(r.body, []byte("\xef\xbb\xbf")))
	for more := true; ; at = 0 {
		left := r.split(s, at, !more)
		if r.out.err != nil || !r.push() || !more {
			return
		}
		if left == 0 && len(r.body) >= int(r.h.cfg.MaxDecoded) {
			left, more = r.pass(p, s)
			r.body = r.body[:copy(r.body, r.body[left:])]
		} else {
			more = r.fill(p, left)
		}
		if r.out.err != nil {
			return
		}
	}
}

// pass passes over a value that fills all of r.body and does not end there, of
// which it buries the start. The value ends at byte left of what then is in
// r.body.
func (r *request) pass(p *httpbody.Pieces, s splitter) (left int, more bool) {
	r.bury(push.BodyTooLarge, r.body, tooLarge("event", r.h.cfg).Msg)
	var e extent
	if s.lines {
		e.kind = '\n'
	}
	e.feed(r.body)
	for more = true; more; {
		more = r.fill(p, len(r.body))
		n, done := e.feed(r.body)
		if left = n; done {
			break
		}
	}
	return left, more
}
