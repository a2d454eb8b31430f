package logql

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind is a token's kind. Its text is what error messages call it.
type kind string

const (
	kindEOF      kind = "$end"
	kindIdent    kind = "IDENTIFIER"
	kindString   kind = "STRING"
	kindNumber   kind = "NUMBER"
	kindDuration kind = "DURATION"
	kindRange    kind = "RANGE"
)

type token struct {
	kind      kind
	text      string // identifier; unquoted string; number as written
	num       float64
	line, col int
}

// operators, the longer ones first.
var operators = []string{
	"|=", "|~", "|>", "!=", "!~", "!>", "=~", "==", ">=", "<=",
	"{", "}", "(", ")", ",", "=", "|", ">", "<", "+", "-", "*", "/", "%", "^", ".",
}

// lexer splits a query into tokens. Positions count characters from 1, as
// Loki's messages do.
type lexer struct {
	s         string
	i         int
	line, col int
}

func newLexer(s string) lexer { return lexer{s: s, line: 1, col: 1} }

func (l *lexer) advance(n int) {
	for _, r := range l.s[l.i : l.i+n] {
		if r == '\n' {
			l.line++
			l.col = 1
		} else {
			l.col++
		}
	}
	l.i += n
}

// skip moves over white space and comments.
func (l *lexer) skip() {
	for l.i < len(l.s) {
		switch c := l.s[l.i]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			l.advance(1)
		case c == '#':
			n := strings.IndexByte(l.s[l.i:], '\n')
			if n < 0 {
				n = len(l.s) - l.i
			}
			l.advance(n)
		default:
			return
		}
	}
}

func (l *lexer) next() (token, error) {
	l.skip()
	t := token{line: l.line, col: l.col}
	if l.i == len(l.s) {
		if l.s == "" {
			t.line, t.col = 0, 0
		}
		t.kind = kindEOF
		return t, nil
	}
	switch c := l.s[l.i]; {
	case c == '"' || c == '`':
		return l.quoted(t)
	case c >= '0' && c <= '9', c == '.' && l.i+1 < len(l.s) && l.s[l.i+1] >= '0' && l.s[l.i+1] <= '9':
		return l.number(t)
	case c == '[':
		return l.rangeToken(t)
	}
	if n := identLen(l.s[l.i:]); n > 0 {
		t.kind, t.text = kindIdent, l.s[l.i:l.i+n]
		l.advance(n)
		return t, nil
	}
	for _, op := range operators {
		if strings.HasPrefix(l.s[l.i:], op) {
			t.kind = kind(op)
			l.advance(len(op))
			return t, nil
		}
	}
	r, _ := utf8.DecodeRuneInString(l.s[l.i:])
	return t, errorAt(t, "syntax error: unexpected character "+strconv.QuoteRune(r))
}

func identLen(s string) int {
	for i, r := range s {
		if r == '_' || unicode.IsLetter(r) || i > 0 && unicode.IsDigit(r) {
			continue
		}
		return i
	}
	return len(s)
}

// quoted reads a string: with escapes in double quotes, on one line; as it is
// in backquotes, on any number.
func (l *lexer) quoted(t token) (token, error) {
	t.kind = kindString
	q := l.s[l.i]
	for j := l.i + 1; j < len(l.s); j++ {
		switch c := l.s[j]; {
		case c == q:
			raw := l.s[l.i : j+1]
			t.text = raw[1 : len(raw)-1]
			if q == '"' {
				var err error
				if t.text, err = strconv.Unquote(raw); err != nil {
					return t, errorAt(t, "invalid char escape")
				}
			}
			l.advance(len(raw))
			return t, nil
		case q == '`':
		case c == '\\':
			j++
		case c == '\n':
			return t, errorAt(t, "literal not terminated")
		}
	}
	return t, errorAt(t, "literal not terminated")
}

// number reads a number or a duration. Where neither can be made of all that
// follows, the digits alone are a number.
func (l *lexer) number(t token) (token, error) {
	t.text = l.s[l.i : l.i+numberLen(l.s[l.i:])]
	t.kind = kindNumber
	if v, err := strconv.ParseFloat(t.text, 64); err == nil {
		t.num = v
	} else if v, err := strconv.ParseInt(t.text, 0, 64); err == nil {
		t.num = float64(v)
	} else if isDuration(t.text) {
		t.kind = kindDuration
	} else {
		t.text = t.text[:len(t.text)-len(strings.TrimLeft(t.text, "0123456789"))]
		if t.num, err = strconv.ParseFloat(t.text, 64); err != nil {
			return t, errorAt(t, "syntax error: invalid number")
		}
	}
	l.advance(len(t.text))
	return t, nil
}

// numberLen returns the length of what may be a number or a duration.
func numberLen(s string) int {
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '.' || c == '_' {
			continue
		}
		if (c == '+' || c == '-') && (s[i-1] == 'e' || s[i-1] == 'E') && !isHex(s[:i]) {
			continue
		}
		return i
	}
	return len(s)
}

func isHex(s string) bool { return len(s) > 1 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') }

func (l *lexer) rangeToken(t token) (token, error) {
	t.kind = kindRange
	n := strings.IndexByte(l.s[l.i:], ']')
	if n < 0 {
		return t, errorAt(t, "missing closing ']' in duration")
	}
	t.text = l.s[l.i+1 : l.i+n]
	l.advance(n + 1)
	return t, nil
}
