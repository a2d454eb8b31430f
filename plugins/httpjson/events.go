package httpjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// work is what one request needs; it is used again for others.
type work struct {
	body    []byte
	form    []byte // decoded form fields
	stream  mapping.Stream
	rec     mapping.Record
	st      *mapping.State
	bl      *push.Builder
	in      mapping.Input
	arrival int64 // time of the next event that has none
}

func newWork(st *mapping.State) *work { return &work{st: st, bl: push.NewBuilder(nil)} }

// fill maps the events in w.body to w.bl.
func (w *work) fill(h *handler, req *http.Request) outcome {
	w.in = mapping.Input{Job: h.job}
	for _, name := range h.cfg.TagHeaders {
		if tag := req.Header.Get(name); tag != "" {
			w.in.Tag = []byte(tag)
			break
		}
	}
	w.arrival = h.d.Now().UnixNano()

	kind := contentType(req.Header.Get("Content-Type"))
	first := firstByte(w.body)
	var out outcome
	switch {
	case kind == "application/msgpack" || kind == "application/x-msgpack":
		out.err = push.Errorf(push.Malformed, "Content-Type %s is not supported on %s, send JSON", kind, req.URL.Path)
	case first == 0 && !(h.logstash && kind == "text/plain" && len(w.body) > 0):
		out.err = push.Errorf(push.Malformed, "empty body: no events")
	case h.logstash && kind == "text/plain":
		w.rec.Nodes = append(w.rec.Nodes[:0],
			mapping.Node{Kind: mapping.Map, End: 2},
			mapping.Node{Kind: mapping.String, Key: []byte("message"), Str: w.body})
		w.event(h)
	case h.logstash && kind == "application/x-www-form-urlencoded" && first != '{' && first != '[':
		w.form = parseForm(&w.rec, w.form[:0], w.body)
		w.event(h)
	default:
		w.json(h, &out, strings.Contains(kind, "ndjson") || strings.Contains(kind, "jsonl") || strings.Contains(kind, "json-l"))
	}
	if n := int64(w.bl.Size()); out.err == nil && n > 2*int64(h.cfg.MaxDecoded) {
		out.err = w.tooMuch(h)
	}
	return out
}

// json maps all values in the body.
func (w *work) json(h *handler, out *outcome, lines bool) {
	w.stream.Reset(w.body, lines)
	for {
		from := w.stream.Offset()
		err := w.stream.Next(&w.rec)
		switch {
		case err == io.EOF:
			return
		case err != nil:
			var se *mapping.SyntaxError
			if errors.As(err, &se) && w.stream.Failed() {
				out.broken = se
				return
			}
			out.refuse(w.stream.Offset()-from, err.Error)
		case w.rec.Nodes[0].Kind != mapping.Map:
			kind := kindName(w.rec.Nodes[0].Kind)
			out.refuse(w.stream.Offset()-from, func() string {
				return fmt.Sprintf("event before offset %d is %s, not an object", w.stream.Offset(), kind)
			})
		default:
			w.event(h)
		}
		if w.bl.Len()+out.rejected.Entries > h.cfg.MaxEvents || int64(w.bl.Size()) > 2*int64(h.cfg.MaxDecoded) {
			out.err = w.tooMuch(h)
			return
		}
	}
}

func (w *work) tooMuch(h *handler) error {
	if n := int64(w.bl.Size()); n > 2*int64(h.cfg.MaxDecoded) {
		return push.Errorf(push.BodyTooLarge, "events take %d bytes with labels and metadata, limit %d", n, 2*int64(h.cfg.MaxDecoded))
	}
	return push.Errorf(push.BodyTooLarge, "more than %d events in one request", h.cfg.MaxEvents)
}

func kindName(k mapping.Kind) string {
	switch k {
	case mapping.Null:
		return "null"
	case mapping.Bool:
		return "a boolean"
	case mapping.Number:
		return "a number"
	case mapping.Array:
		return "an array"
	}
	return "a string"
}

// event maps the record.
func (w *work) event(h *handler) {
	ts, node := mapping.EventTime(&w.rec)
	if node >= 0 {
		w.rec.Nodes[node].Used = true
	} else {
		ts = w.arrival
		w.arrival++
	}
	if h.logstash {
		w.in.LineKey = "message"
		mapping.DropLogstash(&w.rec)
	}
	w.in.TS = ts
	w.st.Map(&w.rec, &w.in, w.bl)
}

// contentType returns the media type without parameters, in lower case.
func contentType(s string) string {
	s, _, _ = strings.Cut(s, ";")
	return strings.ToLower(strings.TrimSpace(s))
}

// firstByte returns the first byte that is not white space, or 0.
func firstByte(p []byte) byte {
	if p = bytes.TrimLeft(p, " \t\r\n"); len(p) > 0 {
		return p[0]
	}
	return 0
}

// parseForm reads body as the fields of one record. A percent sign that no two
// hex digits follow stands for itself. buf takes what is decoded.
func parseForm(rec *mapping.Record, buf, body []byte) []byte {
	rec.Nodes = append(rec.Nodes[:0], mapping.Node{Kind: mapping.Map})
	for more := true; more && len(rec.Nodes) < mapping.MaxNodes; {
		var field []byte
		field, body, more = bytes.Cut(body, []byte{'&'})
		if len(field) == 0 {
			continue
		}
		k, v, _ := bytes.Cut(field, []byte{'='})
		from := len(buf)
		buf = appendDecoded(buf, k)
		mid := len(buf)
		buf = appendDecoded(buf, v)
		to := len(buf)
		rec.Nodes = append(rec.Nodes, mapping.Node{Kind: mapping.String, Key: buf[from:mid:mid], Str: buf[mid:to:to]})
	}
	rec.Nodes[0].End = int32(len(rec.Nodes))
	return buf
}

func appendDecoded(dst, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 < len(s) && hex(s[i+1]) >= 0 && hex(s[i+2]) >= 0 {
				c = byte(hex(s[i+1])<<4 | hex(s[i+2]))
				i += 2
			}
		}
		dst = append(dst, c)
	}
	return dst
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
