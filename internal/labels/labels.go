// Package labels holds label sets in the normal form that Loki stores:
// sorted by name, no empty values, rendered as {a="b", c="d"}.
//
// The canonical string is the identity of a stream. The fingerprint and the
// ring token are functions of the label set and are computed here so that no
// two packages can disagree about them.
package labels

import (
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// Label is one name and its value.
type Label struct{ Name, Value string }

// Labels is a label set sorted by name, without empty values and without
// duplicate names. It is read-only after construction.
type Labels []Label

// Get returns the value of name, or "" if the set lacks it.
func (ls Labels) Get(name string) string {
	for i := range ls {
		if ls[i].Name == name {
			return ls[i].Value
		}
	}
	return ""
}

// FromMap returns the normal form of m: empty values dropped, sorted by name.
func FromMap(m map[string]string) Labels {
	ls := make(Labels, 0, len(m))
	for n, v := range m {
		if v != "" {
			ls = append(ls, Label{n, v})
		}
	}
	ls.Sort()
	return ls
}

// Map returns the set as a map that the caller owns.
func (ls Labels) Map() map[string]string {
	m := make(map[string]string, len(ls))
	for _, l := range ls {
		m[l.Name] = l.Value
	}
	return m
}

// Sort orders the set by name, bytewise. Equal names keep their order.
func (ls Labels) Sort() {
	sort.SliceStable(ls, func(i, j int) bool { return ls[i].Name < ls[j].Name })
}

// String returns the canonical text {a="b", c="d"}.
func (ls Labels) String() string { return string(ls.AppendString(nil)) }

// AppendString appends the canonical text to b.
func (ls Labels) AppendString(b []byte) []byte {
	b = append(b, '{')
	for i, l := range ls {
		if i > 0 {
			b = append(b, ',', ' ')
		}
		b = AppendName(b, l.Name)
		b = append(b, '=')
		b = AppendValue(b, l.Value)
	}
	return append(b, '}')
}

// AppendName appends a label name; one that the legacy rule does not allow is
// quoted as a value is.
func AppendName(b []byte, name string) []byte {
	if ValidName(name) {
		return append(b, name...)
	}
	return AppendValue(b, name)
}

// AppendValue appends v in double quotes with Go's escapes, as Loki writes it.
func AppendValue(b []byte, v string) []byte {
	plain := true
	for i := 0; i < len(v); i++ {
		if c := v[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			plain = false
			break
		}
	}
	if plain {
		b = append(b, '"')
		b = append(b, v...)
		return append(b, '"')
	}
	return strconv.AppendQuote(b, v)
}

// ValidName reports whether name is [a-zA-Z_][a-zA-Z0-9_]*.
func ValidName(name string) bool {
	if name == "" {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || i > 0 && c >= '0' && c <= '9' {
			continue
		}
		return false
	}
	return true
}

// MetricName is the label that Loki adds inside chunk metadata; it is never
// part of a fingerprint.
const MetricName = "__name__"

// Fingerprint returns the stream id on disk: xxhash64 over name 0xFF value
// 0xFF of every label but __name__, in order of names.
func (ls Labels) Fingerprint() uint64 {
	var buf [512]byte
	b := buf[:0]
	for _, l := range ls {
		if l.Name == MetricName {
			continue
		}
		b = append(b, l.Name...)
		b = append(b, 0xff)
		b = append(b, l.Value...)
		b = append(b, 0xff)
	}
	return xxhash.Sum64(b)
}

// Token returns the ring token of a stream as Loki computes it: FNV-1 (32 bit)
// over the tenant followed by the canonical label text.
func Token(tenant, canonical string) uint32 {
	h := uint32(0x811C9DC5)
	for i := 0; i < len(tenant); i++ {
		h = h*16777619 ^ uint32(tenant[i])
	}
	for i := 0; i < len(canonical); i++ {
		h = h*16777619 ^ uint32(canonical[i])
	}
	return h
}

// ParseError says what is wrong with a label text and where (byte offset).
type ParseError struct {
	Text   string
	Offset int
	Msg    string
}

func (e *ParseError) Error() string {
	t := e.Text
	if len(t) > 200 {
		t = t[:200] + "..."
	}
	return "couldn't parse labels: " + strconv.Quote(t) + ": " + e.Msg + " at offset " + strconv.Itoa(e.Offset)
}

// DuplicateError names a label that occurs twice.
type DuplicateError struct{ Name string }

func (e *DuplicateError) Error() string { return "duplicate label name: " + strconv.Quote(e.Name) }

// Parse reads a label text in Prometheus metric syntax ({a="b", c='d'}) and
// returns its normal form. White space is free, a comma may trail, values are
// double-quoted, single-quoted or in backquotes, names may be quoted. Errors
// are *ParseError or *DuplicateError.
func Parse(s string) (Labels, error) {
	p := parser{s: s}
	p.space()
	if !p.eat('{') {
		return nil, p.fail("expected '{'")
	}
	var ls Labels
	for p.space(); !p.eat('}'); p.space() {
		if len(ls) > 0 && !p.eat(',') {
			return nil, p.fail("expected ',' or '}'")
		}
		p.space()
		if len(ls) > 0 && p.eat('}') {
			break
		}
		name, err := p.name()
		if err != nil {
			return nil, err
		}
		p.space()
		if !p.eat('=') {
			return nil, p.fail("expected '='")
		}
		p.space()
		v, err := p.quoted()
		if err != nil {
			return nil, err
		}
		if ls == nil {
			ls = make(Labels, 0, 8)
		}
		ls = append(ls, Label{name, v})
	}
	p.space()
	if p.i != len(p.s) {
		return nil, p.fail("unexpected text after '}'")
	}
	sorted := true
	for i := 1; i < len(ls); i++ {
		if ls[i-1].Name >= ls[i].Name {
			sorted = false
			break
		}
	}
	if !sorted {
		ls.Sort()
		for i := 1; i < len(ls); i++ {
			if ls[i-1].Name == ls[i].Name {
				return nil, &DuplicateError{ls[i].Name}
			}
		}
	}
	out := ls[:0]
	for _, l := range ls {
		if l.Value != "" {
			out = append(out, l)
		}
	}
	return out, nil
}

type parser struct {
	s string
	i int
}

func (p *parser) fail(msg string) error { return &ParseError{Text: p.s, Offset: p.i, Msg: msg} }

func (p *parser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *parser) eat(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *parser) name() (string, error) {
	if p.i < len(p.s) && p.s[p.i] == '"' {
		n, err := p.quoted()
		if err != nil {
			return "", err
		}
		if n == "" {
			return "", p.fail("empty label name")
		}
		return n, nil
	}
	start := p.i
	for p.i < len(p.s) {
		c := p.s[p.i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || p.i > start && c >= '0' && c <= '9' {
			p.i++
			continue
		}
		break
	}
	if p.i == start {
		return "", p.fail("expected a label name")
	}
	return p.s[start:p.i], nil
}

func (p *parser) quoted() (string, error) {
	if p.i >= len(p.s) {
		return "", p.fail("expected a quoted value")
	}
	q := p.s[p.i]
	if q != '"' && q != '\'' && q != '`' {
		return "", p.fail("expected a quoted value")
	}
	start := p.i
	p.i++
	escaped := false
	for p.i < len(p.s) {
		c := p.s[p.i]
		if c == '\\' && q != '`' {
			escaped = true
			p.i += 2
			continue
		}
		if c == q {
			raw := p.s[start+1 : p.i]
			p.i++
			if !escaped {
				return raw, nil
			}
			return p.unescape(raw, q, start)
		}
		p.i++
	}
	p.i = start
	return "", p.fail("unterminated quoted value")
}

func (p *parser) unescape(raw string, q byte, at int) (string, error) {
	var b strings.Builder
	b.Grow(len(raw))
	for len(raw) > 0 {
		r, multi, tail, err := strconv.UnquoteChar(raw, q)
		if err != nil {
			p.i = at
			return "", p.fail("bad escape sequence in value")
		}
		raw = tail
		if r < utf8.RuneSelf || !multi {
			b.WriteByte(byte(r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String(), nil
}
