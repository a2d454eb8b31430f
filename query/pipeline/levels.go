package pipeline

import (
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/level"
)

// levels give entries the metadata detected_level, when something looks for it:
// a stage, the grouping of samples, or whoever asks for a result. Until then it
// is pending, which has to look as if it were there.
type levels struct {
	detector *level.Detector // nil: entries have the metadata that they have
	ofStream []byte          // the level that the stream gives to its entries
	name     string          // under which an entry gets it

	pending bool
	meta    []Label // of the entry, as it came
	line    []byte  // as it came
}

// Detect gives entries the metadata detected_level, if c says so and they do not
// have it. It is called before For.
func (p *Pipeline) Detect(c level.Config) { p.state.levels.detector = level.New(c) }

// Detects reports whether entries get the metadata detected_level.
func (p *Pipeline) Detects() bool { return p.state.levels.detector != nil }

// Level returns the level that the entry gets, nil if none. Its metadata has
// been added.
func (p *Pipeline) Level(line []byte) []byte {
	l := &p.state.levels
	if !l.pending {
		return nil
	}
	l.line = line
	return l.find()
}

func (l *levels) reset() { l.pending, l.meta = l.detector != nil, l.meta[:0] }

// setStream prepares for a stream.
func (l *levels) setStream(stream labels.Labels) {
	if l.detector == nil {
		return
	}
	l.ofStream, l.name = l.detector.Stream(stream), level.Label
	if stream.Get(level.Label) != "" {
		l.name += extracted
	}
}

// add notes metadata of the entry, and returns its value as it is shown.
func (l *levels) add(name string, value []byte) []byte {
	if name == level.Label {
		l.pending = false
		return level.Normal(value)
	}
	if l.pending && l.ofStream == nil {
		l.meta = append(l.meta, Label{name, value})
	}
	return value
}

// open reports whether a name is that of a level which is pending.
func (l *levels) open(name string) bool { return l.pending && name == l.name }

func (l *levels) find() []byte {
	if l.ofStream != nil {
		return l.ofStream
	}
	l.detector.Begin()
	for _, m := range l.meta {
		l.detector.Meta(m.Name, m.Value)
	}
	return l.detector.Level(l.line)
}

// findLevel adds the level that is pending, if one is.
func (s *state) findLevel() {
	if s.levels.pending {
		s.levels.pending = false
		s.addMeta(level.Label, s.levels.find())
	}
}
