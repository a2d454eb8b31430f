package pipeline

import (
	"errors"
	"fmt"
	"strconv"
)

// pathToken is a token of a JSON path. Its kind is what error messages call it.
type pathToken struct {
	kind string
	text string
}

// pathLexer splits a path such as a.b["c d"][0]. Like Loki's, it ends at what is
// not a token; err then says what that was.
type pathLexer struct {
	in  []rune
	err error
}

func (l *pathLexer) stop(format string, args ...any) pathToken {
	l.err = fmt.Errorf(format, args...)
	return pathToken{kind: "$end"}
}

func letter(r rune) bool { return r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }
func digit(r rune) bool  { return r >= '0' && r <= '9' }

// take returns the first characters for which f holds.
func (l *pathLexer) take(f func(rune) bool) string {
	n := 0
	for n < len(l.in) && f(l.in[n]) {
		n++
	}
	s := string(l.in[:n])
	l.in = l.in[n:]
	return s
}

func (l *pathLexer) space() { l.take(func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' }) }

func (l *pathLexer) next() pathToken {
	l.space()
	if len(l.in) == 0 {
		return pathToken{kind: "$end"}
	}
	switch r := l.in[0]; {
	case r == '.' || r == '[' || r == ']':
		l.in = l.in[1:]
		return pathToken{kind: map[rune]string{'.': "DOT", '[': "LSB", ']': "RSB"}[r]}
	case letter(r):
		return pathToken{"FIELD", l.take(func(r rune) bool { return letter(r) || digit(r) })}
	case digit(r):
		return l.index()
	case r == '"':
		l.in = l.in[1:]
		text := l.take(func(r rune) bool { return r != '"' && r != ']' })
		if len(l.in) > 0 {
			l.in = l.in[1:]
		}
		return pathToken{"STRING", text}
	default:
		return l.stop("unexpected char %c", r)
	}
}

func (l *pathLexer) index() pathToken {
	text := l.take(digit)
	switch {
	case len(l.in) == 0:
		return l.stop("non-integer value: %c", 0)
	case l.in[0] == '.':
		return l.stop("cannot use float as array index")
	case l.in[0] != ']' && l.in[0] != ' ' && l.in[0] != '\t' && l.in[0] != '\n':
		return l.stop("non-integer value: %c", l.in[0])
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return l.stop("%s", err)
	}
	return pathToken{"INDEX", strconv.Itoa(n)}
}

// parseJSONPath reads a path. Texts of errors are Loki's.
func parseJSONPath(s string) (jsonPath, error) {
	l := pathLexer{in: []rune(s)}
	var path jsonPath
	unexpected := func(t pathToken, expecting string) error {
		return errors.New("syntax error: unexpected " + t.kind + expecting)
	}
	for t := l.next(); ; t = l.next() {
		switch {
		case t.kind == "LSB":
			key := l.next()
			switch key.kind {
			case "STRING":
				path = append(path, key.text)
			case "INDEX":
				path = append(path, "["+key.text+"]")
			default:
				return nil, unexpected(key, ", expecting STRING or INDEX")
			}
			if end := l.next(); end.kind != "RSB" {
				return nil, unexpected(end, ", expecting RSB")
			}
		case len(path) == 0 && t.kind == "FIELD":
			path = append(path, t.text)
		case len(path) == 0:
			return nil, unexpected(t, ", expecting LSB or FIELD")
		case t.kind == "DOT":
			f := l.next()
			if f.kind != "FIELD" {
				return nil, unexpected(f, ", expecting FIELD")
			}
			path = append(path, f.text)
		case t.kind == "$end":
			return path, l.err
		default:
			return nil, unexpected(t, "")
		}
	}
}

// parseLogfmtKey reads a key, bare or in quotes. Texts of errors are Loki's.
func parseLogfmtKey(s string) (string, error) {
	l := pathLexer{in: []rune(s)}
	l.space()
	if len(l.in) == 0 {
		return "", errors.New("syntax error: unexpected $end, expecting STRING or KEY")
	}
	if !letter(l.in[0]) && l.in[0] != '"' {
		return "", errors.New("syntax error: unexpected $end, expecting STRING or KEY")
	}
	key := l.next().text
	l.space()
	switch {
	case len(l.in) == 0:
		return key, nil
	case letter(l.in[0]):
		return "", errors.New("syntax error: unexpected KEY")
	}
	return "", fmt.Errorf("unexpected char %c", l.in[0])
}
