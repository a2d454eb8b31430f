// Package jsonscan walks over a JSON document in memory whose shape its caller
// knows: the caller says what to do with the members of an object and the
// elements of an array, and gets strings without a copy where they have no
// escapes. What it does not know it steps over. A document is read once, and
// nothing is built of it. For documents of any shape see mapping.Stream.
//
// Strings are taken as they are, with control characters and bytes that are
// not UTF-8; a lone surrogate becomes U+FFFD.
//
// A Scanner has no recursion of its own: what Skip passes over may nest as deep
// as it likes. It is for one goroutine.
package jsonscan

import (
	"bytes"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/loki-go/loki-go/proto/push"
)

// Scanner reads one document.
type Scanner struct {
	p     []byte
	i     int
	key   []byte // a key that had escapes
	where func() string
}

// Reset makes s read src, and keeps its buffer. where, which may be nil, is
// asked for the place in the document when an error occurs; it is a prefix.
func (s *Scanner) Reset(src []byte, where func() string) { s.p, s.i, s.where = src, 0, where }

// Offset returns how far s has read. Seek makes it go on somewhere else.
func (s *Scanner) Offset() int { return s.i }
func (s *Scanner) Seek(i int)  { s.i = i }

// Step steps over one byte, which Peek has shown.
func (s *Scanner) Step() { s.i++ }

// Fail returns a *push.Error that says where in the document it is.
func (s *Scanner) Fail(format string, args ...any) error {
	where := ""
	if s.where != nil {
		where = s.where()
	}
	return push.Errorf(push.Malformed, "json: %s%s at offset %d", where, fmt.Sprintf(format, args...), min(s.i, len(s.p)))
}

// End returns an error if there is anything but white space left.
func (s *Scanner) End() error {
	if s.Space(); s.i < len(s.p) {
		return s.Fail("text behind the end of the push")
	}
	return nil
}

// Raw steps over one value of any kind and returns its text.
func (s *Scanner) Raw() ([]byte, error) {
	start := s.i
	err := s.Skip()
	return s.p[start:s.i], err
}

// Peek returns the next byte, or 0 at the end.
func (s *Scanner) Peek() byte {
	if s.i < len(s.p) {
		return s.p[s.i]
	}
	return 0
}

// Space steps over white space.
func (s *Scanner) Space() {
	for s.i < len(s.p) {
		switch s.p[s.i] {
		case ' ', '\n', '\r', '\t':
			s.i++
		default:
			return
		}
	}
}

// Null steps over the word, if it is there.
func (s *Scanner) Null() bool {
	if bytes.HasPrefix(s.p[min(s.i, len(s.p)):], []byte("null")) {
		s.i += 4
		return true
	}
	return false
}

// Object reads an object: member is called behind each key's colon, and must
// read the value. The key is valid until it reads a string into s.key.
func (s *Scanner) Object(member func(key []byte) error) error {
	s.Space()
	if s.Peek() != '{' {
		return s.Fail("expected an object")
	}
	s.i++
	s.Space()
	if s.Peek() == '}' {
		s.i++
		return nil
	}
	for {
		if s.Space(); s.Peek() != '"' {
			return s.Fail("expected a key")
		}
		key, err := s.Str(&s.key)
		if err != nil {
			return err
		}
		if s.Space(); s.Peek() != ':' {
			return s.Fail("expected ':'")
		}
		s.i++
		s.Space()
		if err := member(key); err != nil {
			return err
		}
		s.Space()
		switch s.Peek() {
		case ',':
			s.i++
		case '}':
			s.i++
			return nil
		default:
			return s.Fail("expected ',' or '}'")
		}
	}
}

// Array reads an array: element must read each.
func (s *Scanner) Array(element func() error) error {
	s.Space()
	if s.Peek() != '[' {
		return s.Fail("expected an array")
	}
	s.i++
	if s.Space(); s.Peek() == ']' {
		s.i++
		return nil
	}
	for {
		s.Space()
		if err := element(); err != nil {
			return err
		}
		s.Space()
		switch s.Peek() {
		case ',':
			s.i++
		case ']':
			s.i++
			return nil
		default:
			return s.Fail("expected ',' or ']'")
		}
	}
}

// Skip steps over one value of any kind: brackets are counted, not matched.
func (s *Scanner) Skip() error {
	depth := 0
	for {
		s.Space()
		switch c := s.Peek(); c {
		case '"':
			if err := s.skipString(); err != nil {
				return err
			}
		case '{', '[':
			depth++
			s.i++
			continue
		case '}', ']':
			depth--
			s.i++
		case ',', ':':
			if depth == 0 {
				return s.Fail("expected a value")
			}
			s.i++
			continue
		case 0:
			return s.Fail("unexpected end")
		default:
			start := s.i
			for s.i < len(s.p) && word[s.p[s.i]] {
				s.i++
			}
			if s.i == start {
				return s.Fail("unexpected %q", c)
			}
		}
		if depth == 0 {
			return nil
		}
		if depth < 0 {
			return s.Fail("expected a value")
		}
	}
}

// word marks the bytes of numbers, true, false and null.
var word = func() (w [256]bool) {
	for _, c := range "+-.0123456789Eaeflnrstu" {
		w[c] = true
	}
	return w
}()

func (s *Scanner) skipString() error {
	start := s.i
	i := s.i + 1
	for {
		i = special(s.p, i)
		if i >= len(s.p)-1 && (i >= len(s.p) || s.p[i] != '"') {
			s.i = start
			return s.Fail("string without an end")
		}
		if s.p[i] == '"' {
			s.i = i + 1
			return nil
		}
		i += 2
	}
}

// special returns the index of the first quote or backslash at or behind i, or
// len(p).
func special(p []byte, i int) int {
	if i >= len(p) {
		return len(p)
	}
	rest := p[i:]
	n := bytes.IndexByte(rest, '"')
	if n < 0 {
		n = len(rest)
	}
	if m := bytes.IndexByte(rest[:n], '\\'); m >= 0 {
		n = m
	}
	return i + n
}

// str reads the string at s.i. The result points into the body, or into *buf
// if there were escapes.
func (s *Scanner) Str(buf *[]byte) ([]byte, error) {
	start := s.i + 1
	i := special(s.p, start)
	if i < len(s.p) && s.p[i] == '"' {
		s.i = i + 1
		return s.p[start:i], nil
	}
	out := append((*buf)[:0], s.p[start:i]...)
	for i < len(s.p) {
		// Quotes come in swarms in lines that are JSON: no call for each byte.
		if c := s.p[i]; c == '"' {
			*buf = out
			s.i = i + 1
			return out, nil
		} else if c != '\\' {
			j := i + 1
			for j < len(s.p) && s.p[j] != '"' && s.p[j] != '\\' {
				j++
			}
			out = append(out, s.p[i:j]...)
			i = j
			continue
		}
		if i+1 >= len(s.p) {
			break
		}
		c := escapes[s.p[i+1]]
		switch {
		case c != 0:
			out = append(out, c)
			i += 2
		case s.p[i+1] == 'u':
			r, n := unicodeEscape(s.p[i:])
			if n == 0 {
				*buf, s.i = out, i
				return nil, s.Fail("bad escape sequence")
			}
			out = utf8.AppendRune(out, r)
			i += n
		default:
			*buf, s.i = out, i
			return nil, s.Fail("bad escape sequence")
		}
	}
	*buf, s.i = out, start-1
	return nil, s.Fail("string without an end")
}

var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unicodeEscape reads \uXXXX, or two that are a surrogate pair, and returns the
// number of bytes read, 0 for bad ones.
func unicodeEscape(p []byte) (rune, int) {
	r, ok := hex4(p, 2)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if len(p) >= 8 && p[6] == '\\' && p[7] == 'u' {
		if low, ok := hex4(p, 8); ok {
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				return both, 12
			}
		}
	}
	return utf8.RuneError, 6
}

func hex4(p []byte, i int) (rune, bool) {
	if len(p) < i+4 {
		return 0, false
	}
	var r rune
	for _, c := range p[i : i+4] {
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
