package pipeline

import (
	"errors"
	"regexp"

	"github.com/loki-go/loki-go/query/lenient"
	"github.com/loki-go/loki-go/query/logql"
)

// regexpStage extracts the named groups of the first match.
type regexpStage struct {
	re    *regexp.Regexp
	names []string // by group; "" has none
	cache nameCache
}

func newRegexp(expr string) (stage, error) {
	re, err := logql.CompileRegexp(expr)
	if err != nil {
		return nil, err
	}
	r := &regexpStage{re: re}
	for _, n := range re.SubexpNames() {
		r.names = append(r.names, string(appendName(nil, []byte(n))))
	}
	return r, nil
}

func (r *regexpStage) run(_ int64, line []byte, s *state) ([]byte, bool) {
	m := r.re.FindSubmatchIndex(line)
	for i, name := range r.names {
		if name == "" || m == nil {
			continue
		}
		if s.taken(name) {
			name = r.cache.suffixed(name)
		}
		if s.hints.skip(name) {
			continue
		}
		var v []byte
		if m[2*i] >= 0 {
			v = line[m[2*i]:m[2*i+1]]
		}
		s.set(name, v)
		if !s.hints.goOn(name, s) {
			return line, false
		}
	}
	return line, true
}

// patternStage extracts the captures of a pattern.
type patternStage struct {
	captures *logql.Captures
	cache    nameCache
}

func newPattern(expr string) (stage, error) {
	c, err := logql.NewCaptures(expr)
	return &patternStage{captures: c}, err
}

func (p *patternStage) run(_ int64, line []byte, s *state) ([]byte, bool) {
	if s.hints.nothing() {
		return line, true
	}
	keep := true
	names := p.captures.Names()
	p.captures.Match(line, func(i int, v []byte) bool {
		name := names[i]
		if s.taken(name) {
			name = p.cache.suffixed(name)
		}
		if s.hints.skip(name) {
			return true
		}
		s.set(name, v)
		keep = s.hints.goOn(name, s)
		return keep
	})
	return line, keep
}

// packedEntry is the key of the line in what Promtail's pack stage makes.
const packedEntry = "_entry"

var errNotObject = errors.New("expecting json object(6), but it is not")

// unpack makes labels of the strings of an object, if it has a packed line.
type unpack struct {
	names  nameCache
	pairs  []Label
	blanks []byte
}

func (u *unpack) run(_ int64, line []byte, s *state) ([]byte, bool) {
	if len(line) == 0 || s.hints.nothing() {
		return line, true
	}
	if line[0] != '{' {
		s.fail(errJSON, errNotObject)
		return line, true
	}
	u.pairs, u.blanks = u.pairs[:0], u.blanks[:0]
	entry, packed := line, false
	err := lenient.NewJSON(line).Object(&u.blanks, func(key, v []byte, kind lenient.Kind) error {
		if kind != lenient.String {
			return nil
		}
		if string(key) == packedEntry {
			at := len(s.arena)
			out, ok := lenient.Unescape(s.arena, v)
			if !ok {
				return lenient.ErrEscape
			}
			s.arena = out
			entry, packed = s.written(at), true
			return nil
		}
		name := u.names.as(key)
		if s.taken(name) {
			name = u.names.suffixed(name)
		}
		if s.hints.skip(name) {
			return nil
		}
		u.pairs = append(u.pairs, Label{string(appendName(nil, []byte(name))), s.text(v)})
		return nil
	})
	if err != nil {
		s.fail(errJSON, err)
		return line, true
	}
	if !packed {
		return line, true
	}
	for _, p := range u.pairs {
		s.set(p.Name, p.Value)
		if !s.hints.goOn(p.Name, s) {
			return entry, false
		}
	}
	return entry, true
}
