package pipeline

import (
	"strconv"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
)

// Kinds of errors, values of __error__.
const (
	errJSON     = "JSONParserErr"
	errLogfmt   = "LogfmtParserErr"
	errSample   = "SampleExtractionErr"
	errFilter   = "LabelFilterErr"
	errTemplate = "TemplateFormatErr"
)

// cond decides by labels. A value that cannot be converted is an error of the
// entry, which is kept then.
type cond interface{ match(*state) bool }

type condStage struct {
	cond  cond
	names []string
}

func (c *condStage) run(_ int64, line []byte, s *state) ([]byte, bool) { return line, c.cond.match(s) }
func (c *condStage) uses() []string                                    { return c.names }

func newCondStage(c logql.Cond) (stage, error) {
	out, err := newCond(c)
	if err != nil {
		return nil, err
	}
	if _, ok := out.(anything); ok {
		return nil, nil
	}
	return &condStage{out, c.Names(nil)}, nil
}

func newCond(c logql.Cond) (cond, error) {
	switch c := c.(type) {
	case *logql.BoolCond:
		l, err := newCond(c.Left)
		if err != nil {
			return nil, err
		}
		r, err := newCond(c.Right)
		return &boolCond{c.And, l, r}, err
	case *logql.StringCond:
		return newStringCond(c.Matcher)
	case *logql.NumberCond:
		return (*numberCond)(c), nil
	case *logql.DurationCond:
		return (*durationCond)(c), nil
	case *logql.BytesCond:
		return (*bytesCond)(c), nil
	}
	ip := c.(*logql.IPCond)
	m, err := logql.NewIPMatcher(ip.Pattern)
	return &ipCond{ip.Name, ip.Negate, m}, err
}

type boolCond struct {
	and         bool
	left, right cond
}

// match looks at both sides where Loki does: errors of either are seen.
func (c *boolCond) match(s *state) bool {
	l := c.left.match(s)
	if l && !c.and {
		return true
	}
	r := c.right.match(s)
	if c.and {
		return l && r
	}
	return r
}

// anything passes all entries.
type anything struct{}

func (anything) match(*state) bool { return true }

// stringCond matches a text. A label that is not there has the empty one.
type stringCond struct {
	name   string
	match_ func([]byte) bool
}

func newStringCond(m *labels.Matcher) (cond, error) {
	c := &stringCond{name: m.Name}
	switch m.Type {
	case labels.MatchEqual:
		c.match_ = func(v []byte) bool { return string(v) == m.Value }
	case labels.MatchNotEqual:
		c.match_ = func(v []byte) bool { return string(v) != m.Value }
	default:
		if m.Value == ".*" && m.Type == labels.MatchRegexp {
			return anything{}, nil
		}
		// Unlike in a selector, a dot does not match a newline here.
		re, err := logql.CompileAnchored(m.Value)
		if err != nil {
			return nil, err
		}
		want := m.Type == labels.MatchRegexp
		c.match_ = func(v []byte) bool { return re.Match(v) == want }
	}
	return c, nil
}

func (c *stringCond) match(s *state) bool {
	if c.name == ErrorLabel {
		return c.match_([]byte(s.err))
	}
	v, _ := s.get(c.name)
	return c.match_(v)
}

type numberCond logql.NumberCond

func (c *numberCond) match(s *state) bool {
	v, ok := s.get(c.Name)
	if !ok {
		return false
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil {
		s.failOnce(errFilter, err)
		return true
	}
	return logql.Compare(c.Op, f, c.Value)
}

type durationCond logql.DurationCond

func (c *durationCond) match(s *state) bool {
	v, ok := s.get(c.Name)
	if !ok {
		return false
	}
	d, err := time.ParseDuration(string(v))
	if err != nil {
		s.failOnce(errFilter, err)
		return true
	}
	return logql.Compare(c.Op, int64(d), int64(c.Value))
}

type bytesCond logql.BytesCond

func (c *bytesCond) match(s *state) bool {
	v, ok := s.get(c.Name)
	if !ok {
		return false
	}
	n, err := logql.ParseBytes(string(v))
	if err != nil {
		s.failOnce(errFilter, err)
		return true
	}
	return logql.Compare(c.Op, n, c.Value)
}

type ipCond struct {
	name   string
	negate bool
	ip     *logql.IPMatcher
}

func (c *ipCond) match(s *state) bool {
	if s.err != "" {
		return true // only texts decide about errors
	}
	v, ok := s.get(c.name)
	return ok && c.ip.Match(v) != c.negate
}
