package lenient

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Logfmt reads key=value pairs. What is wrong with a pair is noted, and the
// reader goes on behind it.
type Logfmt struct {
	Key, Value []byte // of the last pair

	line    []byte
	pos     int
	wrong   string // of the last wrong pair
	wrongAt int
}

// unexpectedByte stands for an error that has the byte behind it.
const unexpectedByte = "unexpected "

// Start begins with a line.
func (r *Logfmt) Start(line []byte) { *r = Logfmt{line: line} }

// Done reports whether the line is read.
func (r *Logfmt) Done() bool { return r.pos >= len(r.line) }

// Err tells what is wrong with the last wrong pair, in Loki's words; nil if
// there was none.
func (r *Logfmt) Err() error {
	if r.wrong == "" {
		return nil
	}
	what := r.wrong
	if what == unexpectedByte {
		what += strconv.QuoteRune(rune(r.line[r.wrongAt]))
	}
	return fmt.Errorf("logfmt syntax error at pos %d : %s", r.wrongAt+1, what)
}

func (r *Logfmt) fail(what string) bool {
	r.wrong, r.wrongAt = what, r.pos
	return false
}

// skip moves to the next white space.
func (r *Logfmt) skip() bool {
	for r.pos < len(r.line) && r.line[r.pos] > ' ' {
		r.pos++
	}
	return false
}

// unexpected fails at a byte and moves on.
func (r *Logfmt) unexpected() bool {
	r.fail(unexpectedByte)
	return r.skip()
}

// Next reads a pair; false if there is none, or a wrong one. A value that has
// escapes is appended to scratch without them.
func (r *Logfmt) Next(scratch *[]byte) bool {
	r.Key, r.Value = nil, nil
	for r.pos < len(r.line) && r.line[r.pos] <= ' ' {
		r.pos++
	}
	if r.Done() {
		return false
	}
	start := r.pos
	high := byte(0) // of all bytes of the key together
	for r.pos < len(r.line) && r.line[r.pos] > ' ' && r.line[r.pos] != '=' && r.line[r.pos] != '"' {
		high |= r.line[r.pos]
		r.pos++
	}
	r.Key = r.line[start:r.pos]
	assigned := r.pos < len(r.line) && r.line[r.pos] == '='
	switch {
	case r.pos < len(r.line) && r.line[r.pos] == '"', assigned && len(r.Key) == 0:
		r.Key = nil
		return r.unexpected()
	case high >= utf8.RuneSelf && bytes.ContainsRune(r.Key, utf8.RuneError):
		r.fail("invalid key")
		if assigned {
			return r.skip()
		}
		return false
	case !assigned:
		return true
	}
	r.pos++
	if r.Done() || r.line[r.pos] <= ' ' {
		return true
	}
	if r.line[r.pos] == '"' {
		return r.quoted(scratch)
	}
	start = r.pos
	for ; r.pos < len(r.line) && r.line[r.pos] > ' '; r.pos++ {
		if c := r.line[r.pos]; c == '=' || c == '"' {
			return r.unexpected()
		}
	}
	r.Value = r.line[start:r.pos]
	return true
}

func (r *Logfmt) quoted(scratch *[]byte) bool {
	start := r.pos + 1
	end, escaped := stringEnd(r.line, start)
	if end < 0 {
		r.pos = len(r.line)
		return r.fail("unterminated quoted value")
	}
	r.pos = end + 1
	r.Value = r.line[start:end]
	if escaped {
		at := len(*scratch)
		out, ok := unquote(*scratch, r.Value)
		if !ok {
			r.Value = nil
			return r.fail("invalid quoted value")
		}
		*scratch = out
		r.Value = out[at:len(out):len(out)]
	}
	return true
}

// unquote appends a string in Go's JSON notation, stricter than that of log
// lines in JSON: no control characters, and U+FFFD for what is not UTF-8.
func unquote(dst, v []byte) ([]byte, bool) {
	for i := 0; i < len(v); {
		c := v[i]
		switch {
		case c < ' ':
			return dst, false
		case c == '\\' && i+1 < len(v) && v[i+1] == 'u':
			r, ok := hex4(v[i:])
			if !ok {
				return dst, false
			}
			i += 6
			if utf16.IsSurrogate(r) {
				low, ok := hex4(v[i:])
				if ok && v[i] == '\\' && v[i+1] == 'u' {
					if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
						dst, i = utf8.AppendRune(dst, pair), i+6
						continue
					}
				}
				r = utf8.RuneError
			}
			dst = utf8.AppendRune(dst, r)
		case c == '\\':
			if i+1 == len(v) {
				return dst, false
			}
			at := bytes.IndexByte([]byte(`"\/'bfnrt`), v[i+1])
			if at < 0 {
				return dst, false
			}
			dst = append(dst, "\"\\/'\b\f\n\r\t"[at])
			i += 2
		default:
			r, n := utf8.DecodeRune(v[i:])
			dst = utf8.AppendRune(dst, r)
			i += n
		}
	}
	return dst, true
}
