package pipeline

import (
	"slices"
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
)

// Names of labels with a meaning.
const (
	ErrorLabel        = "__error__"
	ErrorDetailsLabel = "__error_details__"
	preserveError     = "__preserve_error__"

	// extracted is the suffix of a name that a label of the stream has already.
	extracted = "_extracted"
)

// Label is a label of an entry. Its value may point into the line.
type Label struct {
	Name  string
	Value []byte
}

// state is the labels of the entry that is being processed: those of its
// stream, its metadata, and what stages made.
type state struct {
	base    []Label // of the stream, sorted by name
	meta    []Label
	parsed  []Label
	deleted []string // of the stream
	err     string
	details string
	hints   *hints
	arena   []byte // what stages wrote

	baseMap map[string]string // of base; nil: not made
	temp    []Label

	levels levels
}

func (s *state) reset() {
	s.meta, s.parsed, s.deleted = s.meta[:0], s.parsed[:0], s.deleted[:0]
	s.err, s.details = "", ""
	s.arena = s.arena[:0]
	s.hints.reset()
	s.levels.reset()
}

// written returns what was appended to the arena from at on.
func (s *state) written(at int) []byte { return s.arena[at:len(s.arena):len(s.arena)] }

func find(ls []Label, name string) int {
	for i := range ls {
		if ls[i].Name == name {
			return i
		}
	}
	return -1
}

func (s *state) baseHas(name string) bool { return find(s.base, name) >= 0 }

// taken reports whether a parser has to give name a suffix.
func (s *state) taken(name string) bool {
	return s.baseHas(name) || find(s.meta, name) >= 0 || s.levels.open(name)
}

func (s *state) get(name string) ([]byte, bool) {
	if s.levels.open(name) {
		s.findLevel()
	}
	if i := find(s.meta, name); i >= 0 {
		return s.meta[i].Value, true
	}
	if i := find(s.parsed, name); i >= 0 {
		return s.parsed[i].Value, true
	}
	if slices.Contains(s.deleted, name) {
		return nil, false
	}
	if i := find(s.base, name); i >= 0 {
		return s.base[i].Value, true
	}
	return nil, false
}

// addMeta adds a pair of metadata, under another name if the stream has a label
// of that name.
func (s *state) addMeta(name string, value []byte) {
	if s.baseHas(name) {
		name += extracted
	}
	switch name {
	case ErrorLabel:
		s.err = string(value)
		return
	case ErrorDetailsLabel:
		s.details = string(value)
		return
	}
	if i := find(s.meta, name); i >= 0 {
		s.meta[i].Value = value
		return
	}
	s.meta = append(s.meta, Label{name, value})
}

// set gives a label that a stage made. It takes the place of metadata.
func (s *state) set(name string, value []byte) {
	s.removeMeta(name)
	if i := find(s.parsed, name); i >= 0 {
		s.parsed[i].Value = value
		return
	}
	s.parsed = append(s.parsed, Label{name, value})
	if !s.hints.has(name) {
		s.hints.found(name)
	}
}

// add is set for a label that no stage has made before.
func (s *state) add(name string, value []byte) {
	s.removeMeta(name)
	s.parsed = append(s.parsed, Label{name, value})
	s.hints.found(name)
}

func remove(ls []Label, name string) []Label {
	if i := find(ls, name); i >= 0 {
		return slices.Delete(ls, i, i+1)
	}
	return ls
}

func (s *state) removeMeta(name string) {
	if s.levels.open(name) {
		s.levels.pending = false
	}
	s.meta = remove(s.meta, name)
}

func (s *state) del(name string) {
	s.removeMeta(name)
	s.parsed = remove(s.parsed, name)
	s.deleted = append(s.deleted, name)
}

// fail notes an error of a parser.
func (s *state) fail(kind string, err error) {
	s.err = kind
	if err != nil {
		s.details = err.Error()
	}
	if s.hints.keepError {
		s.set(preserveError, []byte("true"))
	}
}

// failOnce notes an error of a condition, which must not hide one before it.
func (s *state) failOnce(kind string, err error) {
	if s.err == "" {
		s.err, s.details = kind, err.Error()
	}
}

func (s *state) changed() bool {
	return len(s.meta) > 0 || len(s.parsed) > 0 || len(s.deleted) > 0 || s.levels.pending
}

// ofStream calls f for the labels of the stream that are left.
func (s *state) ofStream(f func(Label)) {
	for _, l := range s.base {
		if !slices.Contains(s.deleted, l.Name) && find(s.meta, l.Name) < 0 && find(s.parsed, l.Name) < 0 {
			f(l)
		}
	}
}

// all returns all labels, in no order. They are valid until it is called again.
func (s *state) all() []Label {
	s.findLevel()
	out := s.temp[:0]
	if !s.changed() {
		out = append(out, s.base...)
	} else {
		s.ofStream(func(l Label) { out = append(out, l) })
		out = append(out, s.meta...)
		out = append(out, s.parsed...)
	}
	if s.err != "" {
		out = append(out, Label{ErrorLabel, []byte(s.err)})
	}
	if s.details != "" {
		out = append(out, Label{ErrorDetailsLabel, []byte(s.details)})
	}
	s.temp = out
	return out
}

// intoMap puts the labels into m, for templates.
func (s *state) intoMap(m map[string]string) {
	if !s.changed() && s.err == "" {
		if s.baseMap == nil {
			s.baseMap = make(map[string]string, len(s.base))
			for _, l := range s.base {
				s.baseMap[l.Name] = string(l.Value)
			}
		}
		for n, v := range s.baseMap {
			m[n] = v
		}
		return
	}
	for _, l := range s.all() {
		m[l.Name] = string(l.Value)
	}
}

func own(ls []Label) labels.Labels {
	if len(ls) == 0 {
		return nil
	}
	out := make(labels.Labels, len(ls))
	for i, l := range ls {
		out[i] = labels.Label{Name: l.Name, Value: string(l.Value)}
	}
	out.Sort()
	return out
}

func borrowed(ls labels.Labels) []Label {
	out := make([]Label, len(ls))
	for i, l := range ls {
		out[i] = Label{l.Name, []byte(l.Value)}
	}
	return out
}

// sortLabels orders by name.
func sortLabels(ls []Label) {
	slices.SortStableFunc(ls, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
}
