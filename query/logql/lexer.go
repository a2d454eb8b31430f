package logql

import (
	"strconv"
	"strings"
	"text/scanner"
	"time"
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
	kindBytes    kind = "BYTES"
	kindRange    kind = "RANGE"
	kindFlag     kind = "FUNCTION_FLAG"
)

type token struct {
	kind      kind
	text      string // identifier, keyword or function in lower case; unquoted string; number as written
	odd       bool   // an identifier only by name: a character that LogQL has no use for
	dur       time.Duration
	bytes     uint64
	line, col int
}

// words are tokens wherever they stand, in any case.
var words = setOf("by without bool on ignoring group_left group_right or and unless json regexp logfmt unpack pattern " +
	"label_format line_format ip decolorize drop keep variants of unwrap offset label_replace")

// rangeOps, vectorOps and otherCalls are tokens in front of a parenthesis or a
// grouping only; elsewhere they are identifiers.
var (
	rangeOps = setOf("rate rate_counter count_over_time bytes_rate bytes_over_time avg_over_time sum_over_time min_over_time " +
		"max_over_time stdvar_over_time stddev_over_time quantile_over_time first_over_time last_over_time absent_over_time")
	vectorOps  = setOf("sum avg max min count stddev stdvar bottomk topk sort sort_desc approx_topk")
	otherCalls = setOf("vector label_replace ip bytes duration duration_seconds")
)

// callKinds are the names of call tokens that are not their upper case.
var callKinds = map[string]kind{
	"label_replace": "label_replace", "ip": "ip",
	"bytes": "BYTES_CONV", "duration": "DURATION_CONV", "duration_seconds": "DURATION_SECONDS_CONV",
}

func setOf(words string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		m[w] = true
	}
	return m
}

// symbols of one and two characters.
var symbols = setOf(", . { } = != =~ !~ !> |= |~ |> | ( ) [ ] + - * / % ^ == > >= < <=")

// lexer splits a query into tokens. It follows Go's scanner, since Loki's does,
// down to its positions: those of a token that was looked at character by
// character have no line.
type lexer struct {
	in  string
	s   scanner.Scanner
	err error // the first
}

func newLexer(in string) *lexer {
	l := &lexer{in: in}
	l.s.Init(strings.NewReader(in))
	l.s.Error = func(_ *scanner.Scanner, msg string) { l.fail(msg) }
	return l
}

// fail notes an error at the current token.
func (l *lexer) fail(msg string) {
	if l.err == nil {
		l.err = &ParseError{Line: l.s.Line, Col: l.s.Column, Msg: msg}
	}
}

// rest is what follows the token that was read.
func (l *lexer) rest() string { return l.in[l.s.Pos().Offset:] }

// skip moves over n bytes of the rest.
func (l *lexer) skip(n int) {
	for end := l.s.Pos().Offset + n; l.s.Pos().Offset < end; {
		l.s.Next()
	}
}

func (l *lexer) next() (token, error) {
	var t token
	for again := true; again; {
		t = token{}
		again = !l.token(&t, l.s.Scan())
	}
	t.line, t.col = l.s.Line, l.s.Column
	return t, l.err
}

// token makes a token of what the scanner read; false if that was a comment.
func (l *lexer) token(t *token, r rune) bool {
	t.text = l.s.TokenText()
	switch r {
	case scanner.EOF:
		t.kind = kindEOF
		return true
	case '#':
		n := strings.IndexByte(l.rest(), '\n')
		if n < 0 {
			n = len(l.rest())
		}
		l.skip(n)
		return false
	case scanner.Int, scanner.Float:
		l.number(t)
		return true
	case '-':
		for _, flag := range []string{"--strict", "--keep-empty"} {
			if after, ok := strings.CutPrefix(l.rest(), flag[1:]); ok && wordEnd(after) {
				l.skip(len(flag) - 1)
				t.kind, t.text = kindFlag, flag
				return true
			}
		}
		if l.duration(t) {
			return true
		}
	case scanner.String, scanner.RawString:
		l.unquote(t)
		return true
	case '[':
		l.interval(t)
		return true
	}
	l.word(t, r)
	return true
}

// wordEnd reports whether a flag may end before s.
func wordEnd(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return r != '-' && !unicode.IsLetter(r)
}

func (l *lexer) word(t *token, r rune) {
	lower := strings.ToLower(t.text)
	call := rangeOps[lower] || vectorOps[lower] || otherCalls[lower]
	switch {
	case call && calls(l.rest()):
		t.kind, t.text = callKinds[lower], lower
		if t.kind == "" {
			t.kind = kind(strings.ToUpper(lower))
		}
		return
	case call:
		t.kind = kindIdent
		return
	}
	if c, n := utf8.DecodeRuneInString(l.rest()); n > 0 && symbols[t.text+string(c)] {
		t.kind = kind(t.text + string(c))
		l.s.Next()
		return
	}
	switch {
	case words[lower]:
		t.kind, t.text = kind(lower), lower
	case symbols[t.text]:
		t.kind = kind(t.text)
	default:
		t.kind, t.odd = kindIdent, r != scanner.Ident
	}
}

// calls reports whether s begins with a parenthesis, or with one behind a
// grouping's word.
func calls(s string) bool {
	s = strings.TrimLeftFunc(s, unicode.IsSpace)
	for _, word := range []string{"by", "without"} {
		if len(s) >= len(word) && strings.EqualFold(s[:len(word)], word) {
			s = strings.TrimLeftFunc(s[len(word):], unicode.IsSpace)
			break
		}
	}
	return strings.HasPrefix(s, "(")
}

// number decides between a number, a duration and a number of bytes.
func (l *lexer) number(t *token) {
	if l.duration(t) {
		return
	}
	if n := runLen(l.rest(), "BikKMGTP"); n > 0 {
		if b, err := ParseBytes(t.text + l.rest()[:n]); err == nil {
			t.kind, t.bytes = kindBytes, b
			l.skip(n)
			return
		}
	}
	t.kind = kindNumber
}

// duration reads the units behind a number or a sign, if they make a duration.
func (l *lexer) duration(t *token) bool {
	n := runLen(l.rest(), "nuµmshdwy")
	if n == 0 {
		return false
	}
	d, ok := parseAnyDuration(t.text + l.rest()[:n])
	if ok {
		t.kind, t.dur = kindDuration, d
		l.skip(n)
	}
	return ok
}

// runLen is the length of the digits, points and letters that s begins with.
func runLen(s, letters string) int {
	for i, r := range s {
		if r != '.' && !unicode.IsNumber(r) && !strings.ContainsRune(letters, r) {
			return i
		}
	}
	return len(s)
}

func (l *lexer) unquote(t *token) {
	t.kind = kindString
	if l.err != nil {
		return
	}
	if !utf8.ValidString(t.text) {
		l.fail("invalid UTF-8 rune")
		return
	}
	s, ok := unquote(t.text)
	if !ok {
		l.fail("invalid syntax")
	}
	t.text = s
}

func (l *lexer) interval(t *token) {
	t.kind = kindRange
	n := strings.IndexByte(l.rest(), ']')
	if n < 0 {
		l.skip(len(l.rest()))
		l.fail("missing closing ']' in duration")
		return
	}
	text := l.rest()[:n]
	l.skip(n + 1)
	d, err := ParseDuration(text)
	if err != nil {
		l.fail(err.Error())
	}
	t.dur = d
}

// unquote reads a string: with escapes in double quotes, as it is in
// backquotes.
func unquote(s string) (string, bool) {
	if s[0] == '`' {
		return s[1 : len(s)-1], true
	}
	out, err := strconv.Unquote(s)
	return out, err == nil
}
