package pipeline

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// The JSON of log lines is read leniently: from the front, no further than
// needed, and what comes before an error counts. Texts of errors are those of
// the library that Loki uses, since __error_details__ shows them.
const (
	errMalformed   jsonError = "Malformed JSON error"
	errObject      jsonError = "Value looks like object, but can't find closing '}' symbol"
	errArray       jsonError = "Value is array, but can't find closing ']' symbol"
	errString      jsonError = "Value is string, but can't find closing '\"' symbol"
	errUnknownType jsonError = "Unknown value type"
	errEscape      jsonError = "Encountered an invalid escape sequence in a string"
)

// jsonError is an error in the JSON of a line.
type jsonError string

func (e jsonError) Error() string { return string(e) }

// jsonKind is the kind of a JSON value.
type jsonKind uint8

const (
	jsonString jsonKind = iota
	jsonNumber
	jsonBool
	jsonNull
	jsonObject
	jsonArray
)

// blank returns the offset of the first byte from i on that is not white space,
// or -1.
func blank(b []byte, i int) int {
	for ; i < len(b); i++ {
		switch b[i] {
		case ' ', '\n', '\r', '\t':
		default:
			return i
		}
	}
	return -1
}

// jsonText is JSON, of which is known whether there are no escapes in it.
type jsonText struct {
	b     []byte
	plain bool
}

func newJSONText(b []byte) jsonText { return jsonText{b, bytes.IndexByte(b, '\\') < 0} }

func (t jsonText) stringEnd(i int) (end int, escaped bool) {
	if !t.plain {
		return stringEnd(t.b, i)
	}
	n := bytes.IndexByte(t.b[i:], '"')
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

// blockEnd returns the offset behind the bracket that closes the one at i, or
// -1.
func (t jsonText) blockEnd(i int) int {
	b := t.b
	open := b[i]
	closing := open + 2 // ] and } are two behind [ and {
	for level := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			if i, _ = t.stringEnd(i + 1); i < 0 {
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

// value reads the value at or behind i. A string comes without its quotes, with
// its escapes. End is the offset behind it.
func (t jsonText) value(i int) (v []byte, kind jsonKind, end int, err error) {
	b := t.b
	if i = blank(b, i); i < 0 {
		return nil, 0, 0, errMalformed
	}
	switch b[i] {
	case '"':
		end, _ := t.stringEnd(i + 1)
		if end < 0 {
			return nil, 0, 0, errString
		}
		return b[i+1 : end], jsonString, end + 1, nil
	case '[':
		if end = t.blockEnd(i); end < 0 {
			return nil, 0, 0, errArray
		}
		return b[i:end], jsonArray, end, nil
	case '{':
		if end = t.blockEnd(i); end < 0 {
			return nil, 0, 0, errObject
		}
		return b[i:end], jsonObject, end, nil
	}
	for end = i; end < len(b) && !endsToken(b[end]); end++ {
	}
	v = b[i:end]
	switch c := b[i]; {
	case c >= '0' && c <= '9', c == '-':
		kind = jsonNumber
	case string(v) == "true", string(v) == "false":
		kind = jsonBool
	case string(v) == "null":
		kind = jsonNull
	default:
		return nil, 0, 0, errUnknownType
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

// object calls f for the pairs of the object that t begins with. Keys come
// without escapes; they are in scratch if they had any. An error of f ends it.
func (t jsonText) object(scratch *[]byte, f func(key, v []byte, kind jsonKind) error) error {
	b := t.b
	i := blank(b, 0)
	if i < 0 || b[i] != '{' {
		return errObject
	}
	if i = blank(b, i+1); i < 0 {
		return errMalformed
	}
	for i < len(b) {
		switch b[i] {
		case '}':
			return nil
		case '"':
		default:
			return errObject
		}
		end, escaped := t.stringEnd(i + 1)
		if end < 0 {
			return errMalformed
		}
		key := b[i+1 : end]
		if escaped {
			at := len(*scratch)
			out, ok := unescape(*scratch, key)
			if !ok {
				return errEscape
			}
			*scratch = out
			key = out[at:len(out):len(out)]
		}
		if i = blank(b, end+1); i < 0 || b[i] != ':' {
			return errMalformed
		}
		v, kind, end, err := t.value(i + 1)
		if err != nil {
			return err
		}
		if err := f(key, v, kind); err != nil {
			return err
		}
		if i = blank(b, end); i < 0 {
			return errArray
		}
		switch b[i] {
		case '}':
			return nil
		case ',':
		default:
			return errObject
		}
		if i = blank(b, i+1); i < 0 {
			return errArray
		}
	}
	return errObject
}

// unescape appends s with its escapes resolved.
func unescape(dst, s []byte) ([]byte, bool) {
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

// text returns a JSON string without its escapes, and a space for every byte or
// character that is not valid; nothing if an escape is wrong.
func (s *state) text(v []byte) []byte {
	if bytes.IndexByte(v, '\\') >= 0 {
		at := len(s.arena)
		out, ok := unescape(s.arena, v)
		if !ok {
			return nil
		}
		s.arena = out
		v = s.written(at)
	}
	return s.valid(v)
}

// valid returns v with spaces in place of what is not UTF-8.
func (s *state) valid(v []byte) []byte {
	if isASCII(v) || !bytes.ContainsRune(v, utf8.RuneError) {
		return v
	}
	at := len(s.arena)
	for len(v) > 0 {
		r, n := utf8.DecodeRune(v)
		if r == utf8.RuneError {
			s.arena = append(s.arena, ' ')
		} else {
			s.arena = append(s.arena, v[:n]...)
		}
		v = v[n:]
	}
	return s.written(at)
}

func isASCII(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
