// Package lenient reads JSON and logfmt from log lines in the way in which Loki
// does: from the front, no further than needed, and what comes before an error
// counts.
//
// What it returns points into the line, or into a buffer of the caller if it had
// to be written anew. Nothing is allocated otherwise.
package lenient

import (
	"bytes"
	"unicode/utf8"
)

// Errors of JSON. Their texts are those of the library that Loki uses, since
// __error_details__ shows them.
const (
	ErrMalformed   Error = "Malformed JSON error"
	ErrObject      Error = "Value looks like object, but can't find closing '}' symbol"
	ErrArray       Error = "Value is array, but can't find closing ']' symbol"
	ErrString      Error = "Value is string, but can't find closing '\"' symbol"
	ErrUnknownType Error = "Unknown value type"
	ErrEscape      Error = "Encountered an invalid escape sequence in a string"
)

// Error is an error in the JSON of a line.
type Error string

func (e Error) Error() string { return string(e) }

// Kind is the kind of a JSON value.
type Kind uint8

// The kinds of values.
const (
	String Kind = iota
	Number
	Bool
	Null
	Object
	Array
)

// Blank returns the offset of the first byte from i on that is not white space,
// or -1.
func Blank(b []byte, i int) int {
	for ; i < len(b); i++ {
		switch b[i] {
		case ' ', '\n', '\r', '\t':
		default:
			return i
		}
	}
	return -1
}

// JSON is JSON, of which is known whether there are no escapes in it.
type JSON struct {
	Text  []byte
	Plain bool // no backslash in it
}

// NewJSON looks for backslashes in b.
func NewJSON(b []byte) JSON { return JSON{b, bytes.IndexByte(b, '\\') < 0} }

// StringEnd returns the offset of the quote that ends the string whose text
// begins at i, or -1, and whether there are escapes in it.
func (t JSON) StringEnd(i int) (end int, escaped bool) {
	if !t.Plain {
		return stringEnd(t.Text, i)
	}
	n := bytes.IndexByte(t.Text[i:], '"')
	if n < 0 {
		return -1, false
	}
	return i + n, false
}

// stringEnd returns the offset of the quote that ends the string whose text
// begins at i, or -1, and whether there are escapes in it.
func stringEnd(b []byte, i int) (end int, escaped bool) {
	for from := i; ; from = end + 1 {
		n := bytes.IndexByte(b[from:], '"')
		if n < 0 {
			return -1, escaped
		}
		end = from + n
		if !escaped && bytes.IndexByte(b[from:end], '\\') >= 0 {
			escaped = true
		}
		back := end
		for escaped && back > i && b[back-1] == '\\' {
			back--
		}
		if (end-back)%2 == 0 {
			return end, escaped
		}
	}
}

// BlockEnd returns the offset behind the bracket that closes the one at i, or
// -1.
func (t JSON) BlockEnd(i int) int {
	b := t.Text
	open := b[i]
	closing := open + 2 // ] and } are two behind [ and {
	for level := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			if i, _ = t.StringEnd(i + 1); i < 0 {
				return -1
			}
		case open:
			level++
		case closing:
			if level--; level == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// Value reads the value at or behind i. A string comes without its quotes, with
// its escapes. End is the offset behind it.
func (t JSON) Value(i int) (v []byte, kind Kind, end int, err error) {
	b := t.Text
	if i = Blank(b, i); i < 0 {
		return nil, 0, 0, ErrMalformed
	}
	switch b[i] {
	case '"':
		end, _ := t.StringEnd(i + 1)
		if end < 0 {
			return nil, 0, 0, ErrString
		}
		return b[i+1 : end], String, end + 1, nil
	case '[':
		if end = t.BlockEnd(i); end < 0 {
			return nil, 0, 0, ErrArray
		}
		return b[i:end], Array, end, nil
	case '{':
		if end = t.BlockEnd(i); end < 0 {
			return nil, 0, 0, ErrObject
		}
		return b[i:end], Object, end, nil
	}
	for end = i; end < len(b) && !endsToken(b[end]); end++ {
	}
	v = b[i:end]
	switch c := b[i]; {
	case c >= '0' && c <= '9', c == '-':
		kind = Number
	case string(v) == "true", string(v) == "false":
		kind = Bool
	case string(v) == "null":
		kind = Null
	default:
		return nil, 0, 0, ErrUnknownType
	}
	return v, kind, end, nil
}

func endsToken(c byte) bool {
	switch c {
	case ' ', '\n', '\r', '\t', ',', '}', ']':
		return true
	}
	return false
}

// Object calls f for the pairs of the object that t begins with. Keys come
// without escapes; they are in scratch if they had any. An error of f ends it.
func (t JSON) Object(scratch *[]byte, f func(key, v []byte, kind Kind) error) error {
	b := t.Text
	i := Blank(b, 0)
	if i < 0 || b[i] != '{' {
		return ErrObject
	}
	if i = Blank(b, i+1); i < 0 {
		return ErrMalformed
	}
	for i < len(b) {
		switch b[i] {
		case '}':
			return nil
		case '"':
		default:
			return ErrObject
		}
		end, escaped := t.StringEnd(i + 1)
		if end < 0 {
			return ErrMalformed
		}
		key := b[i+1 : end]
		if escaped {
			at := len(*scratch)
			out, ok := Unescape(*scratch, key)
			if !ok {
				return ErrEscape
			}
			*scratch = out
			key = out[at:len(out):len(out)]
		}
		if i = Blank(b, end+1); i < 0 || b[i] != ':' {
			return ErrMalformed
		}
		v, kind, end, err := t.Value(i + 1)
		if err != nil {
			return err
		}
		if err := f(key, v, kind); err != nil {
			return err
		}
		if i = Blank(b, end); i < 0 {
			return ErrArray
		}
		switch b[i] {
		case '}':
			return nil
		case ',':
		default:
			return ErrObject
		}
		if i = Blank(b, i+1); i < 0 {
			return ErrArray
		}
	}
	return ErrObject
}

// Unescape appends s with its escapes resolved; false if one is wrong.
func Unescape(dst, s []byte) ([]byte, bool) {
	for {
		n := bytes.IndexByte(s, '\\')
		if n < 0 {
			return append(dst, s...), true
		}
		dst = append(dst, s[:n]...)
		s = s[n:]
		if len(s) < 2 {
			return dst, false
		}
		if s[1] == 'u' {
			r, n := codePoint(s)
			if n == 0 {
				return dst, false
			}
			dst = utf8.AppendRune(dst, r)
			s = s[n:]
			continue
		}
		c := bytes.IndexByte([]byte(`"\/bfnrt`), s[1])
		if c < 0 {
			return dst, false
		}
		dst = append(dst, "\"\\/\b\f\n\r\t"[c])
		s = s[2:]
	}
}

// codePoint reads the \uXXXX, or the two that are a surrogate pair, that s
// begins with. N is 0 if it is none.
func codePoint(s []byte) (r rune, n int) {
	hi, ok := hex4(s)
	if !ok {
		return 0, 0
	}
	if hi < 0xd800 || hi > 0xdfff {
		return hi, 6
	}
	lo, ok := hex4(s[6:])
	if !ok || lo < 0xdc00 {
		return 0, 0
	}
	return 0x10000 + (hi-0xd800)<<10 + (lo - 0xdc00), 12
}

// hex4 reads the four digits behind the first two bytes of s.
func hex4(s []byte) (r rune, ok bool) {
	if len(s) < 6 {
		return 0, false
	}
	for _, c := range s[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
