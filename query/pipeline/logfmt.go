package pipeline

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/loki-go/loki-go/query/lenient"
	"github.com/loki-go/loki-go/query/logql"
)

// logfmtStage extracts all pairs.
type logfmtStage struct {
	strict, keepEmpty bool
	reader            lenient.Logfmt
	names             nameCache
}

func (l *logfmtStage) run(_ int64, line []byte, s *state) ([]byte, bool) {
	if s.hints.nothing() {
		return line, true
	}
	r := &l.reader
	r.Start(line)
	for !r.Done() {
		if !r.Next(&s.arena) {
			if l.strict {
				break
			}
			continue
		}
		if len(r.Value) == 0 && !l.keepEmpty {
			continue // as are all words of text, whose names would fill the cache
		}
		name := l.names.name(r.Key)
		if name == "" {
			continue
		}
		if s.taken(name) {
			name = l.names.suffixed(name)
		}
		if s.hints.skip(name) {
			continue
		}
		v := s.valid(r.Value)
		if len(v) == 0 && !l.keepEmpty {
			continue
		}
		s.add(name, v)
		if !s.hints.goOn(name, s) {
			return line, false
		}
		if s.hints.complete() || !l.strict && s.hints.decided() {
			break
		}
	}
	if l.strict && r.Err() != nil {
		s.fail(errLogfmt, r.Err())
		return line, s.hints.goOn(ErrorLabel, s)
	}
	return line, true
}

// logfmtKeys extracts the values of keys under other names.
type logfmtKeys struct {
	strict bool
	names  []string
	keys   []string
	reader lenient.Logfmt
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
	r.Start(line)
	for !r.Done() {
		if !r.Next(&s.arena) {
			if l.strict {
				break
			}
			continue
		}
		if !l.pair(s, r.Value, l.cache.name(r.Key)) {
			break
		}
	}
	if l.strict && r.Err() != nil {
		s.fail(errLogfmt, r.Err())
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
