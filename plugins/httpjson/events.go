package httpjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/plugins/msgpack"
	"github.com/loki-go/loki-go/proto/push"
)

// format is how a body is to be read.
type format uint8

const (
	formatNone format = iota // there is nothing in it
	formatJSON
	formatLines   // newline-delimited JSON
	formatMsgpack // log events, one behind the other
	formatText    // one line
	formatForm    // the fields of one event
)

// format finds out what r.body, or its start, is.
func (r *request) format() format {
	kind := contentType(r.req.Header.Get("Content-Type"))
	first := firstByte(r.body)
	isJSON := first == '{' || first == '['
	lines := strings.Contains(kind, "ndjson") || strings.Contains(kind, "jsonl") || strings.Contains(kind, "json-l")
	binary := kind == "application/msgpack" || kind == "application/x-msgpack"
	switch {
	case !r.h.keep && r.h.agent == anyone && binary:
		r.out.err = push.Errorf(push.Malformed, "Content-Type %s is not supported on %s, send JSON", kind, r.req.URL.Path)
		return formatNone
	case !r.h.keep && first == 0:
		r.out.err = push.Errorf(push.Malformed, "empty body: no events")
		return formatNone
	case lines:
		return formatLines
	case strings.Contains(kind, "json") || r.h.agent == anyone:
		return formatJSON
	case len(r.body) == 0:
		return formatNone
	case binary:
		return formatMsgpack
	case kind == "text/plain":
		return formatText
	case isJSON:
		return formatJSON
	case kind == "application/x-www-form-urlencoded":
		return formatForm
	case r.h.agent == fluentBit && isMsgpack(r.body):
		return formatMsgpack
	}
	return formatText
}

// isMsgpack tells a log event as Fluent Bit has it from text: an array of two
// that starts with a time or another array.
func isMsgpack(p []byte) bool {
	return len(p) > 1 && p[0] == 0x92 && (p[1] == 0x92 || p[1] == 0xd7 || p[1] == 0xc7 || p[1] == 0xcb || p[1] == 0xce || p[1] == 0xcf)
}

// json maps all values in the body.
func (r *request) json(lines bool) {
	r.stream.Reset(r.body, lines)
	for r.out.err == nil {
		from := r.stream.Offset()
		more, err := r.value(r.body, from)
		switch {
		case err != nil && r.h.keep:
			r.salvage(from)
		case err != nil:
			errors.As(err, &r.out.broken)
		}
		if !more {
			return
		}
	}
}

// value maps the next value of r.stream, which reads body and is at from. An
// error says that what follows cannot be read.
func (r *request) value(body []byte, from int) (more bool, err error) {
	err = r.stream.Next(&r.rec)
	switch {
	case err == io.EOF:
		return false, nil
	case err != nil && r.stream.Failed():
		return false, err
	case err != nil:
		r.refuse(push.Malformed, bytes.TrimSpace(body[from:r.stream.Offset()]), err.Error())
	case r.rec.Nodes[0].Kind != mapping.Map:
		why := fmt.Sprintf("event before offset %d is %s, not an object", r.stream.Offset(), kindName(r.rec.Nodes[0].Kind))
		r.refuse(push.Malformed, trimValue(body[from:r.stream.Offset()]), why)
	default:
		r.event()
	}
	return true, nil
}

// trimValue cuts off what may separate a value from the one before.
func trimValue(p []byte) []byte { return bytes.TrimLeft(p, " \t\r\n,[]") }

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

// event maps the JSON event in r.rec.
func (r *request) event() {
	r.in.Meta = nil
	timed := r.h.agent == fluentBit && r.unwrap() || r.ownTime()
	if r.h.agent == logstash {
		r.in.LineKey = "message"
		mapping.DropLogstash(&r.rec)
	}
	r.add(&r.rec, timed)
}

// ownTime finds the time among the fields of the event.
func (r *request) ownTime() bool {
	ts, node := mapping.EventTime(&r.rec)
	if node < 0 {
		return false
	}
	r.rec.Nodes[node].Used = true
	r.in.TS = ts
	return true
}

// msgpack maps all events in the body.
func (r *request) msgpack() {
	r.events.OnDrop = func(why msgpack.Drop, piece []byte) {
		r.refuse(push.Malformed, piece, "msgpack: "+why.String())
	}
	now := r.arrival
	for r.events.Reset(r.body, now); r.out.err == nil && r.events.Next(); {
		r.in.TS, r.in.Meta = r.events.TS, r.events.Meta
		r.add(&r.events.Record, r.in.TS != now)
	}
}

// text maps the body as one line.
func (r *request) text() {
	r.rec.Nodes = append(r.rec.Nodes[:0],
		mapping.Node{Kind: mapping.Map, End: 2},
		mapping.Node{Kind: mapping.String, Key: []byte("message"), Str: r.body})
	r.in.LineKey = "message"
	r.add(&r.rec, false)
}

// fields maps the body as the fields of a form.
func (r *request) fields() {
	var all bool
	if r.form, all = parseForm(&r.rec, r.form[:0], r.body); !all {
		r.refuse(push.Malformed, r.body, fmt.Sprintf("form: more than %d fields in one event", mapping.MaxNodes-1))
		return
	}
	r.event()
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
