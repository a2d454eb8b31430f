package pipeline

import (
	"bytes"
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
)

// must is a text that a line has to contain for one of its labels to have the
// value that a condition asks for. Lines without it need not be parsed.
//
// It holds for labels that parsers take from the line. Those that the stream or
// the metadata have are looked up by the condition as ever, and a line with a
// backslash may have the text in another form.
type must struct {
	label string
	text  []byte
}

// mustContain returns the texts that conditions directly behind parsers ask
// for. Other stages may make labels of their own.
func mustContain(stages []logql.Stage) (out []must) {
	parsers := 0
	for _, st := range stages {
		switch st := st.(type) {
		case *logql.LineFilters:
		case *logql.JSON, *logql.Logfmt, *logql.Regexp, *logql.Pattern:
			parsers++
		case *logql.LabelFilter:
			if parsers > 0 {
				out = appendMust(out, st.Cond)
			}
		default:
			return out
		}
	}
	return out
}

func appendMust(out []must, c logql.Cond) []must {
	switch c := c.(type) {
	case *logql.BoolCond:
		if c.And {
			return appendMust(appendMust(out, c.Left), c.Right)
		}
	case *logql.StringCond:
		m := c.Matcher
		if m.Type != labels.MatchEqual || strings.HasPrefix(m.Name, "__") {
			return out
		}
		// A space stands for what is not UTF-8.
		text := ""
		for part := range strings.SplitSeq(m.Value, " ") {
			if len(part) > len(text) {
				text = part
			}
		}
		if text != "" {
			out = append(out, must{m.Name, []byte(text)})
		}
	}
	return out
}

// hopeless reports whether the line lacks a text without which it is dropped.
func (p *Pipeline) hopeless(line []byte) bool {
	for i := range p.musts {
		m := &p.musts[i]
		if !bytes.Contains(line, m.text) && !p.state.taken(m.label) && bytes.IndexByte(line, '\\') < 0 {
			return true
		}
	}
	return false
}
