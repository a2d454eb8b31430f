// Package pipeline runs the stages of a log query on entries.
//
// A Pipeline is made for one query and used by one goroutine. For takes it to a
// stream; Match then says whether an entry of that stream is kept, and Result
// gives what has become of it. Stages work on bytes: labels that are extracted
// point into the line or into an arena that the next entry overwrites, and
// become strings only when a result is asked for.
package pipeline

import (
	"fmt"
	"slices"
	"unsafe"

	textfind "github.com/loki-go/loki-go/internal/find"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
)

// stage is a step. It returns the line for the next one, and whether the entry
// is kept. It must not change the line in place.
type stage interface {
	run(ts int64, line []byte, s *state) ([]byte, bool)
}

// user is a stage that looks at labels.
type user interface{ uses() []string }

// Pipeline processes entries.
type Pipeline struct {
	filter *logql.Filter // line filters in front of all other stages
	stages []stage
	musts  []must
	state  state
	line   []byte // of the last match

	decides bool // there is less to do if only the decision is wanted
}

// New compiles the stages of a log query. Errors are *logql.ParseError.
func New(stages []logql.Stage) (*Pipeline, error) {
	p, err := compile(stages)
	if err != nil {
		return nil, err
	}
	h := newHints(p.stages, nil, nil, "")
	h.only, p.decides = decisive(p.stages)
	p.state.hints = h
	return p, nil
}

// Decide has Match tell whether entries are kept, and do no more than that takes:
// neither Line nor Result are to be asked for.
func (p *Pipeline) Decide(on bool) { p.state.hints.deciding = on && p.decides }

func compile(stages []logql.Stage) (*Pipeline, error) {
	p := &Pipeline{filter: &logql.Filter{}, musts: mustContain(stages)}
	for i, st := range order(stages) {
		f, ok := st.(*logql.LineFilters)
		if !ok {
			c, err := compileStage(st)
			if err != nil {
				return nil, stageError(st, err)
			}
			if c != nil {
				p.stages = append(p.stages, c)
			}
			continue
		}
		filter, err := logql.CompileFilters(f.Filters)
		if err != nil {
			return nil, stageError(st, err)
		}
		if i == 0 {
			p.filter = filter
		} else if !filter.KeepsAll() {
			p.stages = append(p.stages, lineStage{filter})
		}
	}
	return p, nil
}

func stageError(st logql.Stage, err error) error {
	text := st.String()
	if len(text) > 1000 {
		text = text[:1000] + "..."
	}
	return &logql.ParseError{Msg: fmt.Sprintf("stage '%s' : %v", text, err)}
}

// order moves line filters forward, to the last stage before them that changes
// lines or drops entries.
func order(stages []logql.Stage) []logql.Stage {
	var out, others []logql.Stage
	var filters []logql.LineFilter
	flush := func() {
		if len(filters) > 0 {
			out = append(out, &logql.LineFilters{Filters: filters})
		}
		out = append(out, others...)
		filters, others = nil, nil
	}
	for _, st := range stages {
		switch st := st.(type) {
		case *logql.LabelFilter:
			flush()
			out = append(out, st)
		case *logql.LineFilters:
			filters = append(filters, st.Filters...)
		case *logql.LineFormat, *logql.Unpack:
			others = append(others, st)
			flush()
		default:
			others = append(others, st)
		}
	}
	flush()
	return out
}

func compileStage(st logql.Stage) (stage, error) {
	switch st := st.(type) {
	case *logql.JSON:
		if len(st.Labels) > 0 {
			return newJSONPaths(st.Labels)
		}
		return newJSON(), nil
	case *logql.Logfmt:
		if len(st.Labels) > 0 {
			return newLogfmtKeys(st)
		}
		return &logfmtStage{strict: st.Strict, keepEmpty: st.KeepEmpty}, nil
	case *logql.Regexp:
		return newRegexp(st.Expr)
	case *logql.Pattern:
		return newPattern(st.Expr)
	case *logql.Unpack:
		return &unpack{}, nil
	case *logql.LabelFilter:
		return newCondStage(st.Cond)
	case *logql.LineFormat:
		return newLineFormat(st.Template)
	case *logql.LabelFormat:
		return newLabelFormat(st.Formats)
	case *logql.Decolorize:
		return decolorize{}, nil
	case *logql.Drop:
		return drop(st.Labels), nil
	case *logql.Keep:
		return keepOnly(st.Labels), nil
	}
	return nil, fmt.Errorf("unknown stage %T", st)
}

// lineStage filters lines behind another stage.
type lineStage struct{ filter *logql.Filter }

func (f lineStage) run(_ int64, line []byte, _ *state) ([]byte, bool) {
	return line, f.filter.Match(line)
}

// Finder finds texts of which every line that the pipeline keeps has one.
func (p *Pipeline) Finder() *textfind.Finder { return p.filter.Finder() }

// Simple reports whether the pipeline is line filters alone: it then changes
// neither lines nor labels, and does not look at metadata.
func (p *Pipeline) Simple() bool { return len(p.stages) == 0 }

// MatchLine applies the line filters in front of all other stages.
func (p *Pipeline) MatchLine(line []byte) bool { return p.filter.Match(line) }

// For sets the stream of the entries to come.
func (p *Pipeline) For(stream labels.Labels) {
	p.state.base, p.state.baseMap = borrowed(stream), nil
	p.state.levels.setStream(stream)
}

// Begin starts with an entry whose line MatchLine has passed.
func (p *Pipeline) Begin() { p.state.reset() }

// Meta adds a pair of the entry's metadata.
func (p *Pipeline) Meta(name, value string) {
	b := unsafe.Slice(unsafe.StringData(value), len(value)) // which is only read
	if p.state.levels.detector != nil {
		b = p.state.levels.add(name, b)
	}
	p.state.addMeta(name, b)
}

// Match runs the stages and reports whether the entry is kept.
func (p *Pipeline) Match(ts int64, line []byte) bool {
	p.state.levels.line = line
	if p.hopeless(line) {
		return false
	}
	for _, st := range p.stages {
		var ok bool
		if line, ok = st.run(ts, line, &p.state); !ok {
			return false
		}
	}
	p.line = line
	return true
}

// Line returns the line of the last match, until the next.
func (p *Pipeline) Line() []byte { return p.line }

// Result returns the labels of the last match by where they are from. The
// caller owns them.
func (p *Pipeline) Result() (stream, meta, parsed labels.Labels) {
	s := &p.state
	s.findLevel()
	var left []Label
	s.ofStream(func(l Label) { left = append(left, l) })
	made := slices.Clone(s.parsed)
	if s.err != "" || s.changed() {
		if s.err != "" {
			made = append(made, Label{ErrorLabel, []byte(s.err)})
		}
		if s.details != "" {
			made = append(made, Label{ErrorDetailsLabel, []byte(s.details)})
		}
	}
	return own(left), own(s.meta), own(made)
}
