package httpjson

import (
	"bytes"

	"github.com/loki-go/loki-go/proto/push"
)

// splitter finds values by their brackets and quotes alone, for bodies that are
// broken or too large to be read at once. Commas and the brackets of arrays
// between values mean nothing to it. With lines a value is a line.
type splitter struct{ lines bool }

// next finds the value at or behind p[i:]. If there is none that is whole, ok
// is false and from is where what is left begins.
func (s splitter) next(p []byte, i int) (from, to int, ok bool) {
	if s.lines {
		return nextLine(p, i)
	}
	for i < len(p) && separates(p[i]) {
		i++
	}
	if i == len(p) {
		return i, i, false
	}
	var e extent
	n, done := e.feed(p[i:])
	return i, i + n, done
}

func nextLine(p []byte, i int) (from, to int, ok bool) {
	for i < len(p) && (p[i] == '\n' || p[i] == '\r' || p[i] == ' ' || p[i] == '\t') {
		i++
	}
	n := bytes.IndexByte(p[i:], '\n')
	if n < 0 {
		return i, len(p), false
	}
	return i, i + n, true
}

func separates(c byte) bool {
	return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',' || c == '[' || c == ']'
}

// extent finds the end of a value that arrives in pieces. What starts neither
// like an object nor like a string ends with its line, or before the next
// object.
type extent struct {
	kind    byte // its first byte, or '\n': it is a line; 0: nothing has come yet
	depth   int
	quoted  bool
	escaped bool
}

// feed looks at the next piece. It returns how much of it belongs to the value
// and whether that has ended.
func (e *extent) feed(p []byte) (n int, done bool) {
	if e.kind == 0 && len(p) > 0 {
		e.kind = max(p[0], 1) // NUL is as good a start of what is no value as any
	}
	switch e.kind {
	case '{', '"':
		return e.structure(p)
	case '\n':
		n = bytes.IndexByte(p, '\n')
	default:
		n = bytes.IndexAny(p, "\n{")
	}
	if n < 0 {
		return len(p), false
	}
	return n, true
}

func (e *extent) structure(p []byte) (n int, done bool) {
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case e.escaped:
			e.escaped = false
		case e.quoted && c == '\\':
			e.escaped = true
		case c == '"':
			if e.quoted = !e.quoted; !e.quoted && e.depth == 0 {
				return i + 1, true
			}
		case e.quoted:
		case c == '{' || c == '[':
			e.depth++
		case c == '}' || c == ']':
			if e.depth--; e.depth == 0 {
				return i + 1, true
			}
		}
	}
	return len(p), false
}

// salvage maps what can be read of the body behind from, where it is broken,
// and buries the rest.
func (r *request) salvage(from int) { r.split(splitter{}, from, true) }

// split maps the values in r.body from i on. It returns where what is left
// begins; with last that is mapped or buried, too.
func (r *request) split(s splitter, i int, last bool) int {
	for r.out.err == nil {
		from, to, ok := s.next(r.body, i)
		if !ok && !last {
			return from
		}
		if from < to {
			r.values(r.body[from:to])
		}
		if i = to; !ok {
			break
		}
	}
	return i
}

// values maps what is in a part of the body, most often one value. What cannot
// be read is buried.
func (r *request) values(p []byte) {
	r.stream.Reset(p, false)
	for r.out.err == nil {
		from := r.stream.Offset()
		more, err := r.value(p, from)
		if err != nil {
			r.bury(push.Malformed, trimValue(p[from:]), err.Error())
		}
		if !more {
			return
		}
	}
}

// bury refuses a piece of input of any size; a large one becomes several dead
// letters.
func (r *request) bury(reason push.Reason, raw []byte, why string) {
	first := raw[:min(len(raw), push.MaxDeadRaw)]
	r.refuse(reason, first, why)
	raw = raw[len(first):min(len(raw), push.MaxDeadBytes)]
	for len(raw) > 0 {
		n := min(len(raw), push.MaxDeadRaw)
		r.batches.Bury(r.in.Tenant, reason, "goes on: "+why, raw[:n])
		raw = raw[n:]
	}
}
