package pipeline

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/loki-go/loki-go/query/logql"
)

// logfmtReader reads key=value pairs. What is wrong with a pair is noted, and
// the reader goes on behind it; texts of errors are Loki's.
type logfmtReader struct {
	line []byte
	pos  int
	err  error

	key, value []byte
}

func (r *logfmtReader) start(line []byte) { *r = logfmtReader{line: line} }

func (r *logfmtReader) done() bool { return r.pos >= len(r.line) }

func (r *logfmtReader) fail(what string) bool {
	r.err = fmt.Errorf("logfmt syntax error at pos %d : %s", r.pos+1, what)
	return false
}

// skip moves to the next white space.
func (r *logfmtReader) skip() bool {
	for r.pos < len(r.line) && r.line[r.pos] > ' ' {
		r.pos++
	}
	return false
}

// unexpected fails at a byte and moves on.
func (r *logfmtReader) unexpected() bool {
	r.fail("unexpected " + strconv.QuoteRune(rune(r.line[r.pos])))
	return r.skip()
}

// next reads a pair; false if there is none, or a wrong one. Value is written
// to s if it has escapes.
func (r *logfmtReader) next(s *state) bool {
	r.key, r.value = nil, nil
	for r.pos < len(r.line) && r.line[r.pos] <= ' ' {
		r.pos++
	}
	if r.done() {
		return false
	}
	start := r.pos
	for r.pos < len(r.line) && r.line[r.pos] > ' ' && r.line[r.pos] != '=' && r.line[r.pos] != '"' {
		r.pos++
	}
	r.key = r.line[start:r.pos]
	assigned := r.pos < len(r.line) && r.line[r.pos] == '='
	switch {
	case r.pos < len(r.line) && r.line[r.pos] == '"', assigned && len(r.key) == 0:
		r.key = nil
		return r.unexpected()
	case bytes.ContainsRune(r.key, utf8.RuneError):
		r.fail("invalid key")
		if assigned {
			return r.skip()
		}
		return false
	case !assigned:
		return true
	}
	r.pos++
	if r.done() || r.line[r.pos] <= ' ' {
		return true
	}
	if r.line[r.pos] == '"' {
		return r.quoted(s)
	}
	start = r.pos
	for ; r.pos < len(r.line) && r.line[r.pos] > ' '; r.pos++ {
		if c := r.line[r.pos]; c == '=' || c == '"' {
			return r.unexpected()
		}
	}
	r.value = r.line[start:r.pos]
	return true
}

func (r *logfmtReader) quoted(s *state) bool {
	start := r.pos + 1
	end, escaped := stringEnd(r.line, start)
	if end < 0 {
		r.pos = len(r.line)
		return r.fail("unterminated quoted value")
	}
	r.pos = end + 1
	r.value = r.line[start:end]
	if escaped {
		at := len(s.arena)
		out, ok := unquote(s.arena, r.value)
		if !ok {
			r.value = nil
			return r.fail("invalid quoted value")
		}
		s.arena = out
		r.value = s.written(at)
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

// logfmtStage extracts all pairs.
type logfmtStage struct {
	strict, keepEmpty bool
	reader            logfmtReader
	names             nameCache
}

func (l *logfmtStage) run(_ int64, line []byte, s *state) ([]byte, bool) {
	if s.hints.nothing() {
		return line, true
	}
	r := &l.reader
	r.start(line)
	for !r.done() {
		if !r.next(s) {
			if l.strict {
				break
			}
			continue
		}
		name := l.names.name(r.key)
		if name == "" {
			continue
		}
		if s.taken(name) {
			name = l.names.suffixed(name)
		}
		if s.hints.skip(name) {
			continue
		}
		v := s.valid(r.value)
		if len(v) == 0 && !l.keepEmpty {
			continue
		}
		s.add(name, v)
		if !s.hints.goOn(name, s) {
			return line, false
		}
		if s.hints.complete() {
			break
		}
	}
	if l.strict && r.err != nil {
		s.fail(errLogfmt, r.err)
		return line, s.hints.goOn(ErrorLabel, s)
	}
	return line, true
}

// logfmtKeys extracts the values of keys under other names.
type logfmtKeys struct {
	strict bool
	names  []string
	keys   []string
	reader logfmtReader
	cache  nameCache
}

func newLogfmtKeys(e *logql.Logfmt) (stage, error) {
	l := &logfmtKeys{strict: e.Strict}
	for _, x := range e.Labels {
		key, err := parseLogfmtKey(x.Path)
		if err != nil {
			return nil, fmt.Errorf("cannot parse expression [%s]: %w", x.Path, err)
		}
		l.names, l.keys = append(l.names, x.Name), append(l.keys, key)
	}
	return l, nil
}

func (l *logfmtKeys) run(_ int64, line []byte, s *state) ([]byte, bool) {
	if s.hints.nothing() {
		return line, true
	}
	for _, n := range l.names {
		if !s.taken(n) {
			s.set(n, nil)
		}
	}
	r := &l.reader
	r.start(line)
	for !r.done() {
		if !r.next(s) {
			if l.strict {
				break
			}
			continue
		}
		if !l.pair(s, r.value, l.cache.name(r.key)) {
			break
		}
	}
	if l.strict && r.err != nil {
		s.fail(errLogfmt, r.err)
	}
	return line, true
}

// pair enters a value under the names that want it; false if it was the last.
func (l *logfmtKeys) pair(s *state, v []byte, key string) bool {
	if key == "" || !l.named(key) && s.hints.skip(key) {
		return true
	}
	if bytes.ContainsRune(v, utf8.RuneError) {
		v = nil
	}
	asked := false
	for i, k := range l.keys {
		if k == key {
			asked = true
			if !l.enter(s, l.names[i], v) {
				return false
			}
		}
	}
	if !asked && l.named(key) { // a pair that has the new name already
		return l.enter(s, key, v)
	}
	return true
}

func (l *logfmtKeys) named(key string) bool {
	for _, n := range l.names {
		if n == key {
			return true
		}
	}
	return false
}

func (l *logfmtKeys) enter(s *state, name string, v []byte) bool {
	if s.taken(name) {
		if name = l.cache.suffixed(name); s.hints.skip(name) {
			return false
		}
	}
	s.set(name, v)
	return !s.hints.complete()
}
