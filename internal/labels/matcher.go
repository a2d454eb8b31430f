package labels

import (
	"fmt"
	"regexp"
	"strconv"
)

// MatchType is the operator of a Matcher.
type MatchType uint8

const (
	MatchEqual     MatchType = iota // =
	MatchNotEqual                   // !=
	MatchRegexp                     // =~
	MatchNotRegexp                  // !~
)

func (t MatchType) String() string { return [...]string{"=", "!=", "=~", "!~"}[t] }

// Matcher selects label values. A label that is absent has the value "".
type Matcher struct {
	Type        MatchType
	Name, Value string
	re          *regexp.Regexp
}

// NewMatcher compiles a matcher. Regular expressions are anchored at both ends
// and "." matches a newline, as in Loki.
func NewMatcher(t MatchType, name, value string) (*Matcher, error) {
	m := &Matcher{Type: t, Name: name, Value: value}
	if t == MatchRegexp || t == MatchNotRegexp {
		re, err := regexp.Compile("^(?s:" + value + ")$")
		if err != nil {
			return nil, fmt.Errorf("error parsing regexp: %w", err)
		}
		m.re = re
	}
	return m, nil
}

// Matches reports whether value satisfies m.
func (m *Matcher) Matches(value string) bool {
	switch m.Type {
	case MatchEqual:
		return value == m.Value
	case MatchNotEqual:
		return value != m.Value
	case MatchRegexp:
		return m.re.MatchString(value)
	default:
		return !m.re.MatchString(value)
	}
}

func (m *Matcher) String() string {
	return m.Name + m.Type.String() + strconv.Quote(m.Value)
}

// MatchAll reports whether ls satisfies every matcher.
func MatchAll(ms []*Matcher, ls Labels) bool {
	for _, m := range ms {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}
