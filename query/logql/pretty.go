package logql

import (
	"strconv"
	"strings"
)

// prettyWidth is the length up to which an expression stays on one line.
const prettyWidth = 100

func indent(level int) string { return strings.Repeat("  ", level) }

func long(s string) bool { return len(s) > prettyWidth }

// maxLevel is how deep expressions within each other are broken into lines.
const maxLevel = 50

// short returns the normal form of e if it stays on one line.
func short(e Expr, level int) (string, bool) {
	if level >= maxLevel {
		return e.String(), true
	}
	p := printer{limit: prettyWidth}
	e.write(&p)
	return string(p.buf), !p.full()
}

// Pretty puts the stages of a long query on lines of their own.
func (q *LogQuery) Pretty() string { return q.pretty(0) }

func (q *LogQuery) pretty(level int) string {
	if s := q.String(); len(q.Stages) == 0 || !long(s) {
		return indent(level) + s
	}
	s := indent(level) + q.Selector()
	for _, st := range q.Stages {
		s += "\n" + st.pretty(level+1)
	}
	return s
}

func (f *LineFilters) pretty(level int) string {
	if s := f.String(); !long(s) {
		return indent(level) + s
	}
	return join(f.Filters, "\n", func(f LineFilter) string { return indent(level) + f.String() })
}

func (s *JSON) pretty(level int) string        { return indent(level) + s.String() }
func (s *Logfmt) pretty(level int) string      { return indent(level) + s.String() }
func (s *Regexp) pretty(level int) string      { return indent(level) + s.String() }
func (s *Pattern) pretty(level int) string     { return indent(level) + s.String() }
func (s *Unpack) pretty(level int) string      { return indent(level) + s.String() }
func (s *LabelFilter) pretty(level int) string { return indent(level) + s.String() }
func (s *LineFormat) pretty(level int) string  { return indent(level) + s.String() }
func (s *LabelFormat) pretty(level int) string { return indent(level) + s.String() }
func (s *Decolorize) pretty(int) string        { return s.String() } // never indented, in Loki
func (s *Drop) pretty(level int) string        { return indent(level) + s.String() }
func (s *Keep) pretty(level int) string        { return indent(level) + s.String() }

func (r *LogRange) pretty(level int) string {
	s := r.Query.pretty(level)
	if r.Unwrap != nil {
		for _, line := range r.Unwrap.lines() {
			s += "\n" + indent(level+1) + line
		}
	}
	s += " [" + FormatDuration(r.Interval) + "]"
	if r.Offset != 0 {
		// Finer than a millisecond, Prometheus's notation has no words.
		off := FormatDuration(r.Offset)
		if d, _ := ParseDuration(strings.TrimPrefix(off, "-")); d != r.Offset && -d != r.Offset {
			off = r.Offset.String()
		}
		s += " offset " + off
	}
	return s
}

// pretty writes the grouping of a call, which has none if it is without effect.
func (g *Grouping) pretty() string {
	if g.Without && len(g.Labels) == 0 {
		return " without ()"
	}
	if len(g.Labels) == 0 {
		return ""
	}
	return g.text(", ")
}

// Pretty is String, broken if it is long.
func (e *RangeAggregation) Pretty() string { return e.pretty(0) }

func (e *RangeAggregation) pretty(level int) string {
	if s, ok := short(e, level); ok {
		return indent(level) + s
	}
	s := indent(level) + e.Op + "(\n"
	if e.HasParam {
		s += indent(level+1) + strconv.FormatFloat(e.Param, 'f', -1, 64) + ",\n"
	}
	s += e.Range.pretty(level+1) + "\n" + indent(level) + ")"
	if e.Grouping != nil {
		if len(e.Grouping.Labels) == 0 {
			return s + e.Grouping.text("")
		}
		s += e.Grouping.pretty()
	}
	return s
}

func call(level int, head string, args []string) string {
	return indent(level) + head + "(\n" + strings.Join(args, ",\n") + "\n" + indent(level) + ")"
}

// Pretty is String, broken if it is long.
func (e *VectorAggregation) Pretty() string { return e.pretty(0) }

func (e *VectorAggregation) pretty(level int) string {
	if s, ok := short(e, level); ok {
		return indent(level) + s
	}
	var args []string
	if e.K != 0 {
		args = append(args, indent(level+1)+strconv.Itoa(e.K))
	}
	return call(level, e.Op+e.Grouping.pretty(), append(args, e.Inner.pretty(level+1)))
}

// Pretty is String, broken if it is long.
func (e *BinaryOp) Pretty() string { return e.pretty(0) }

// pretty writes parentheses around a broken operation inside another, so that
// it reads as it was.
func (e *BinaryOp) pretty(level int) string {
	if s, ok := short(e, level); ok {
		return indent(level) + s
	}
	return e.side(e.Left, level) + "\n" + indent(level) + e.head(", ") + "\n" + e.side(e.Right, level)
}

func (e *BinaryOp) side(s Expr, level int) string {
	if _, nested := s.(*BinaryOp); nested {
		if one, ok := short(s, level+1); ok {
			return indent(level+1) + one
		}
		return indent(level+1) + "(\n" + s.pretty(level+1) + "\n" + indent(level+1) + ")"
	}
	return s.pretty(level + 1)
}

// Pretty is String.
func (e *Number) Pretty() string          { return e.String() }
func (e *Number) pretty(level int) string { return indent(level) + e.String() }

// Pretty is String.
func (e *Vector) Pretty() string          { return e.String() }
func (e *Vector) pretty(level int) string { return indent(level) + e.String() }

// Pretty is String, broken if it is long.
func (e *LabelReplace) Pretty() string { return e.pretty(0) }

func (e *LabelReplace) pretty(level int) string {
	if s, ok := short(e, level); ok {
		return indent(level) + s
	}
	args := []string{e.Inner.pretty(level + 1)}
	for _, a := range e.args() {
		args = append(args, indent(level+1)+a)
	}
	return call(level, "label_replace", args)
}

// Pretty is String, broken.
func (e *Variants) Pretty() string { return e.pretty(0) }

func (e *Variants) pretty(level int) string {
	return call(level, "variants", []string{join(e.Exprs, ",\n", func(v Expr) string { return v.pretty(level + 1) })}) +
		" of (\n" + e.Range.pretty(level+1) + "\n" + indent(level) + ")"
}
