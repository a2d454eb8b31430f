package logql

import (
	"fmt"
	"math"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/loki-go/loki-go/internal/labels"
)

// printer collects the normal form of an expression. With a limit, it gives up
// behind it: expressions within each other are measured at every level.
type printer struct {
	buf   []byte
	limit int // 0: none
}

func (p *printer) full() bool { return p.limit > 0 && len(p.buf) > p.limit }

func (p *printer) add(texts ...string) {
	for _, s := range texts {
		p.buf = append(p.buf, s...)
	}
}

func text(w interface{ write(*printer) }) string {
	var p printer
	w.write(&p)
	return string(p.buf)
}

// join writes the items with a separator.
func join[T any](items []T, sep string, text func(T) string) string {
	var b strings.Builder
	for i, it := range items {
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(text(it))
	}
	return b.String()
}

// Selector returns the stream selector alone.
func (q *LogQuery) Selector() string {
	return "{" + join(q.Matchers, ", ", (*labels.Matcher).String) + "}"
}

func (q *LogQuery) String() string {
	s := q.Selector()
	for _, st := range q.Stages {
		s += " " + st.String()
	}
	return s
}

// String returns the filter as LogQL.
func (f LineFilter) String() string {
	return string(f.Op) + " " + join(f.Texts, " or ", FilterText.String)
}

// String returns the text as LogQL.
func (t FilterText) String() string {
	if t.IP {
		return "ip(" + strconv.Quote(t.Text) + ")"
	}
	return strconv.Quote(t.Text)
}

func (f *LineFilters) String() string { return join(f.Filters, " ", LineFilter.String) }

func (e Extraction) text() string { return e.Name + "=" + strconv.Quote(e.Path) }

func (s *JSON) String() string {
	if len(s.Labels) == 0 {
		return "| json"
	}
	return "| json " + join(s.Labels, ",", Extraction.text)
}

func (s *Logfmt) String() string {
	text := "| logfmt"
	if s.Strict {
		text += " --strict"
	}
	if s.KeepEmpty {
		text += " --keep-empty"
	}
	if len(s.Labels) > 0 {
		text += " " + join(s.Labels, ",", Extraction.text)
	}
	return text
}

func (s *Regexp) String() string   { return "| regexp " + strconv.Quote(s.Expr) }
func (s *Pattern) String() string  { return "| pattern " + strconv.Quote(s.Expr) }
func (*Unpack) String() string     { return "| unpack" }
func (*Decolorize) String() string { return "| decolorize" }

func (s *LineFormat) String() string { return "| line_format " + strconv.Quote(s.Template) }

func (f Format) text() string {
	if f.Rename {
		return f.Name + "=" + f.Value
	}
	return f.Name + "=" + strconv.Quote(f.Value)
}

func (s *LabelFormat) String() string { return "| label_format " + join(s.Formats, ",", Format.text) }

func (m NamedMatcher) text() string {
	if m.Matcher != nil {
		return m.Matcher.String()
	}
	return m.Name
}

func (s *Drop) String() string { return "| drop " + join(s.Labels, ",", NamedMatcher.text) }
func (s *Keep) String() string { return "| keep " + join(s.Labels, ",", NamedMatcher.text) }

func (s *LabelFilter) String() string { return "| " + s.Cond.String() }

func (c *BoolCond) String() string { return text(c) }

func (c *BoolCond) write(p *printer) {
	op := " or "
	if c.And {
		op = " , "
	}
	p.add("( ")
	writeCond(p, c.Left)
	p.add(op)
	writeCond(p, c.Right)
	p.add(" )")
}

func writeCond(p *printer, c Cond) {
	if b, ok := c.(*BoolCond); ok {
		b.write(p)
	} else {
		p.add(c.String())
	}
}

// String writes a regular expression in backquotes, as Loki does where it is
// none of the simple ones.
func (c *StringCond) String() string {
	m := c.Matcher
	if m.Type == labels.MatchRegexp && !simpleLabelRegexp(m.Value) && utf8.ValidString(m.Value) && !strings.ContainsAny(m.Value, "`\r\x00") {
		return m.Name + "=~`" + m.Value + "`"
	}
	return m.String()
}

// simpleLabelRegexp reports whether Loki sees literals in an expression, with
// any text around at most. It decides about quotes only.
func simpleLabelRegexp(expr string) bool {
	re, err := syntax.Parse(expr, syntax.Perl)
	return err != nil || simpleRegexp(re.Simplify())
}

func simpleRegexp(re *syntax.Regexp) bool {
	re = bare(re)
	switch re.Op {
	case syntax.OpLiteral, syntax.OpEmptyMatch:
		return true
	case syntax.OpStar, syntax.OpPlus:
		return re.Sub[0].Op == syntax.OpAnyCharNotNL
	case syntax.OpAlternate:
		for _, s := range re.Sub {
			if !simpleRegexp(s) {
				return false
			}
		}
		return true
	case syntax.OpConcat:
		return simpleConcat(re.Sub)
	}
	return false
}

// simpleConcat takes one literal, any text before or behind it, and variants of
// what follows it.
func simpleConcat(subs []*syntax.Regexp) bool {
	if len(subs) > 3 {
		return false
	}
	literals := 0
	for _, s := range subs {
		switch s = bare(s); s.Op {
		case syntax.OpEmptyMatch:
		case syntax.OpLiteral:
			literals++
		case syntax.OpStar:
			if s.Sub[0].Op != syntax.OpAnyCharNotNL {
				return false
			}
		case syntax.OpAlternate:
			if literals == 0 {
				return false
			}
			for _, a := range s.Sub {
				if a.Op != syntax.OpEmptyMatch && !simpleRegexp(a) {
					return false
				}
			}
		default:
			return false
		}
	}
	return literals == 1
}

func (c *NumberCond) String() string {
	return c.Name + string(c.Op) + number(c.Value, strconv.FormatFloat(c.Value, 'f', -1, 64))
}

// number returns the text of a number, but for -0, which would read as a
// duration.
func number(v float64, text string) string {
	if v == 0 && math.Signbit(v) {
		return "-00"
	}
	return text
}

func (c *DurationCond) String() string { return c.Name + string(c.Op) + c.Value.String() }
func (c *BytesCond) String() string    { return c.Name + string(c.Op) + formatBytes(c.Value) }

func (c *IPCond) String() string {
	op := "="
	if c.Negate {
		op = "!="
	}
	return c.Name + op + "ip(" + strconv.Quote(c.Pattern) + ")"
}

// Names appends the labels that the condition looks at.
func (c *BoolCond) Names(dst []string) []string { return c.Right.Names(c.Left.Names(dst)) }

// Names appends the label that the condition looks at.
func (c *StringCond) Names(dst []string) []string { return append(dst, c.Matcher.Name) }

// Names appends the label that the condition looks at.
func (c *NumberCond) Names(dst []string) []string { return append(dst, c.Name) }

// Names appends the label that the condition looks at.
func (c *DurationCond) Names(dst []string) []string { return append(dst, c.Name) }

// Names appends the label that the condition looks at.
func (c *BytesCond) Names(dst []string) []string { return append(dst, c.Name) }

// Names appends the label that the condition looks at.
func (c *IPCond) Names(dst []string) []string { return append(dst, c.Name) }

func (u *Unwrap) lines() []string {
	first := "| unwrap " + u.Label
	if u.Convert != ConvertNumber {
		first = "| unwrap " + string(u.Convert) + "(" + u.Label + ")"
	}
	out := []string{first}
	for _, f := range u.Filters {
		out = append(out, "| "+f.String())
	}
	return out
}

func (r *LogRange) String() string {
	s := r.Query.String()
	if r.Unwrap != nil {
		s += " " + strings.Join(r.Unwrap.lines(), " ")
	}
	s += "[" + FormatDuration(r.Interval) + "]"
	if r.Offset != 0 {
		s += " offset " + r.Offset.String()
	}
	return s
}

func (g *Grouping) text(sep string) string {
	word := " by "
	if g.Without {
		word = " without "
	}
	return word + "(" + strings.Join(g.Labels, sep) + ")"
}

func (q *LogQuery) write(p *printer) { p.add(q.String()) }

func (e *RangeAggregation) String() string { return text(e) }

func (e *RangeAggregation) write(p *printer) {
	p.add(e.Op, "(")
	if e.HasParam {
		p.add(strconv.FormatFloat(e.Param, 'f', -1, 64), ",")
	}
	p.add(e.Range.String(), ")")
	if e.Grouping != nil {
		p.add(e.Grouping.text(","))
	}
}

func (e *VectorAggregation) String() string { return text(e) }

func (e *VectorAggregation) write(p *printer) {
	p.add(e.Op)
	if e.Grouping.Without || len(e.Grouping.Labels) > 0 {
		p.add(e.Grouping.text(","))
	}
	p.add("(")
	if e.K != 0 {
		p.add(strconv.Itoa(e.K), ",")
	}
	if p.full() {
		return
	}
	e.Inner.write(p)
	p.add(")")
}

// head writes the operator with its modifiers.
func (e *BinaryOp) head(sep string) string {
	s := e.Op
	if e.Bool {
		s += " bool"
	}
	m := &e.Matching
	if !m.On && len(m.Labels) == 0 && m.Many == NoSide {
		return s
	}
	word := "ignoring"
	if m.On {
		word = "on"
	}
	s += " " + word + " (" + strings.Join(m.Labels, sep) + ") "
	switch m.Many {
	case LeftSide:
		s += "group_left"
	case RightSide:
		s += "group_right"
	}
	if len(m.Include) > 0 {
		s += " (" + strings.Join(m.Include, sep) + ")"
	}
	return s
}

func (e *BinaryOp) String() string { return text(e) }

func (e *BinaryOp) write(p *printer) {
	p.add("(")
	if p.full() {
		return
	}
	e.Left.write(p)
	p.add(" ", e.head(","), " ")
	if p.full() {
		return
	}
	e.Right.write(p)
	p.add(")")
}

func (e *Number) String() string   { return number(e.Value, fmt.Sprint(e.Value)) }
func (e *Number) write(p *printer) { p.add(e.String()) }
func (e *Vector) write(p *printer) { p.add(e.String()) }

// String writes Loki's form, if that says all.
func (e *Vector) String() string {
	digits := 6
	if r := math.Round(e.Value*1e6) / 1e6; r != e.Value {
		digits = -1
	}
	return "vector(" + strconv.FormatFloat(e.Value, 'f', digits, 64) + ")"
}

func (e *LabelReplace) args() []string {
	return []string{strconv.Quote(e.Target), strconv.Quote(e.Replacement), strconv.Quote(e.Source), strconv.Quote(e.Pattern)}
}

func (e *LabelReplace) String() string { return text(e) }

func (e *LabelReplace) write(p *printer) {
	p.add("label_replace(")
	if p.full() {
		return
	}
	e.Inner.write(p)
	p.add(",", strings.Join(e.args(), ","), ")")
}

func (e *Variants) String() string { return text(e) }

func (e *Variants) write(p *printer) {
	p.add("variants(", join(e.Exprs, ", ", Expr.String), ") of (", e.Range.String(), ")")
}
