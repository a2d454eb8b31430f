package logql

import (
	"bytes"
	"errors"
	"fmt"
)

// Captures is a pattern of texts and captures in turn.
type Captures struct {
	parts []part
	names []string
}

// part is a text, or a capture if its text is nil.
type part struct {
	text []byte
	name string // of a capture; "_" takes what it is not asked for
}

var (
	errNoCapture    = errors.New("at least one capture is required")
	errNamedCapture = errors.New("named captures are not allowed")
	errPattern      = errors.New("invalid expression")
)

func parsePattern(s string) []part {
	var parts []part
	for len(s) > 0 {
		if n := captureLen(s); n > 0 {
			parts = append(parts, part{name: s[1 : n-1]})
			s = s[n:]
			continue
		}
		if k := len(parts); k > 0 && parts[k-1].text != nil {
			parts[k-1].text = append(parts[k-1].text, s[0])
		} else {
			parts = append(parts, part{text: []byte{s[0]}})
		}
		s = s[1:]
	}
	return parts
}

// captureLen returns the length of the <name> that s begins with, or 0.
func captureLen(s string) int {
	if s[0] != '<' {
		return 0
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '_', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9' && i > 1:
		case c == '>' && i > 1:
			return i + 1
		default:
			return 0
		}
	}
	return 0
}

func checkParts(parts []part) error {
	for i := 1; i < len(parts); i++ {
		if parts[i].text == nil && parts[i-1].text == nil {
			return fmt.Errorf("found consecutive capture '<%s><%s>': %w", parts[i-1].name, parts[i].name, errPattern)
		}
	}
	return nil
}

// NewCaptures compiles the pattern of a pattern stage.
func NewCaptures(s string) (*Captures, error) {
	if s == "" {
		return nil, errors.New("parse error at line 1, col 1: syntax error: unexpected $end, expecting IDENTIFIER or LITERAL")
	}
	c := &Captures{parts: parsePattern(s)}
	seen := map[string]bool{}
	var double error
	for _, p := range c.parts {
		if p.text != nil || p.name == "_" {
			continue
		}
		if seen[p.name] && double == nil {
			double = fmt.Errorf("duplicate capture name (%s): %w", p.name, errPattern)
		}
		seen[p.name] = true
		c.names = append(c.names, p.name)
	}
	if len(c.names) == 0 {
		return nil, errNoCapture
	}
	if err := checkParts(c.parts); err != nil {
		return nil, err
	}
	return c, double
}

// Names returns the names of the captures, in order.
func (c *Captures) Names() []string { return c.names }

// Match calls found with the number of each name and what the pattern finds for
// it, until that returns false. A text that is missing ends the search: the
// capture before it takes the rest of the line.
func (c *Captures) Match(line []byte, found func(name int, value []byte) bool) {
	parts := c.parts
	if len(line) == 0 {
		return
	}
	if parts[0].text != nil {
		if !bytes.HasPrefix(line, parts[0].text) {
			return
		}
		line, parts = line[len(parts[0].text):], parts[1:]
	}
	name := 0
	for len(parts) > 0 {
		end, next, missing := len(line), len(line), true
		if len(parts) > 1 {
			if i := bytes.Index(line, parts[1].text); i >= 0 {
				end, next, missing = i, i+len(parts[1].text), false
			}
		}
		if parts[0].name != "_" {
			if !found(name, line[:end]) {
				return
			}
			name++
		}
		if missing {
			return
		}
		line, parts = line[next:], parts[2:]
	}
}

// like is a pattern of a line filter. Its captures take at least a character.
type like []part

func newLike(s string) (lineMatcher, error) {
	parts := parsePattern(s)
	if err := checkParts(parts); err != nil {
		return nil, err
	}
	for _, p := range parts {
		if p.text == nil && p.name != "_" {
			return nil, fmt.Errorf("%w: found '<%s>'", errNamedCapture, p.name)
		}
	}
	return like(parts), nil
}

func (m like) match(line []byte) bool {
	if len(line) == 0 || len(m) == 0 {
		return len(line) == 0 && len(m) == 0
	}
	for i, p := range m {
		if p.text == nil {
			continue
		}
		at := bytes.Index(line, p.text)
		if at < 0 || at == 0 && i > 0 {
			return false
		}
		line = line[at+len(p.text):]
	}
	return (m[len(m)-1].text == nil) == (len(line) > 0)
}

func (m like) needle() []byte {
	var best []byte
	for _, p := range m {
		if len(p.text) > len(best) {
			best = p.text
		}
	}
	return best
}

func (m like) slow() bool { return false }
