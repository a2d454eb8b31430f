package pipeline

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"

	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/query/template"
)

// lineFormat replaces the line.
type lineFormat struct {
	tmpl *template.Template
	m    map[string]string
}

func newLineFormat(text string) (stage, error) {
	t, err := template.New("line", text)
	if err != nil {
		return nil, fmt.Errorf("invalid line template: %w", err)
	}
	return &lineFormat{tmpl: t, m: map[string]string{}}, nil
}

func (f *lineFormat) uses() []string { return f.tmpl.Fields() }

func (f *lineFormat) run(ts int64, line []byte, s *state) ([]byte, bool) {
	if name, ok := f.tmpl.Field(); ok {
		v, _ := s.get(name)
		return v, true
	}
	clear(f.m)
	s.intoMap(f.m)
	out, err := f.tmpl.Execute(s.arena, ts, line, f.m)
	if err != nil {
		s.err, s.details = errTemplate, err.Error()
		return line, true
	}
	at := len(s.arena)
	s.arena = out
	return s.written(at), true
}

// labelFormat changes labels.
type labelFormat struct {
	formats []logql.Format
	tmpls   []*template.Template // nil: rename
	m       map[string]string
}

func newLabelFormat(formats []logql.Format) (stage, error) {
	f := &labelFormat{formats: formats, m: map[string]string{}}
	seen := map[string]bool{}
	for _, fm := range formats {
		if fm.Name == ErrorLabel {
			return nil, fmt.Errorf("%s cannot be formatted", fm.Name)
		}
		if seen[fm.Name] {
			return nil, fmt.Errorf("multiple label name '%s' not allowed in a single format operation", fm.Name)
		}
		seen[fm.Name] = true
	}
	for _, fm := range formats {
		var t *template.Template
		if !fm.Rename {
			var err error
			if t, err = template.New("label", fm.Value); err != nil {
				return nil, fmt.Errorf("invalid template for label '%s': %w", fm.Name, err)
			}
		}
		f.tmpls = append(f.tmpls, t)
	}
	return f, nil
}

func (f *labelFormat) uses() (names []string) {
	for i, fm := range f.formats {
		if fm.Rename {
			names = append(names, fm.Value)
		} else {
			names = append(names, f.tmpls[i].Fields()...)
		}
	}
	return names
}

// run gives all templates the labels that the first of them found.
func (f *labelFormat) run(ts int64, line []byte, s *state) ([]byte, bool) {
	clear(f.m)
	for i, fm := range f.formats {
		if fm.Rename {
			if v, ok := s.get(fm.Value); ok {
				s.set(fm.Name, v)
				s.del(fm.Value)
			}
			continue
		}
		if len(f.m) == 0 {
			s.intoMap(f.m)
		}
		out, err := f.tmpls[i].Execute(s.arena, ts, line, f.m)
		if err != nil {
			s.err, s.details = errTemplate, err.Error()
			continue
		}
		at := len(s.arena)
		s.arena = out
		s.set(fm.Name, s.written(at))
	}
	return line, true
}

// colour is an ANSI control sequence: an escape, then parameters and a final
// letter, or text up to a bell.
var colour = regexp.MustCompile("[\u001b\u009b][\\[\\]()#;?]*(?:" +
	"(?:[a-zA-Z\\d]*(?:;[a-zA-Z\\d]*)*)?\u0007|" +
	"(?:\\d{1,4}(?:;\\d{0,4})*)?[\\dA-PRZcf-ntqry=><~])")

type decolorize struct{}

func (decolorize) run(_ int64, line []byte, s *state) ([]byte, bool) {
	if !bytes.ContainsAny(line, "\u001b\u009b") {
		return line, true
	}
	return colour.ReplaceAll(line, nil), true
}

// drop removes labels.
type drop []logql.NamedMatcher

func (d drop) run(_ int64, line []byte, s *state) ([]byte, bool) {
	for _, m := range d {
		switch {
		case m.Name == ErrorLabel:
			if m.Matcher == nil || m.Matcher.Matches(s.err) {
				s.err = ""
			}
		case m.Name == ErrorDetailsLabel:
			if m.Matcher == nil || m.Matcher.Matches(s.details) {
				s.details = ""
			}
		case m.Matcher == nil && s.levels.open(m.Name):
			s.del(m.Name) // without looking for it
		default:
			if v, ok := s.get(m.Name); m.Matcher == nil && ok || m.Matcher != nil && m.Matcher.Matches(string(v)) {
				s.del(m.Name)
			}
		}
	}
	return line, true
}

// keepOnly removes all other labels, but not errors.
type keepOnly []logql.NamedMatcher

func (k keepOnly) run(_ int64, line []byte, s *state) ([]byte, bool) {
	if l := &s.levels; l.pending && !slices.ContainsFunc(k, func(m logql.NamedMatcher) bool { return m.Name == l.name }) {
		s.del(l.name) // without looking for it
	}
	for _, l := range s.all() {
		switch l.Name {
		case ErrorLabel, ErrorDetailsLabel, preserveError:
			continue
		}
		if !k.keeps(l) {
			s.del(l.Name)
		}
	}
	return line, true
}

func (k keepOnly) keeps(l Label) bool {
	for _, m := range k {
		if m.Name == l.Name && (m.Matcher == nil || m.Matcher.Matches(string(l.Value))) {
			return true
		}
	}
	return false
}
