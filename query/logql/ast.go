// Package logql parses LogQL, Loki's query language, and makes line filters
// that run on raw bytes.
//
// Parse gives an Expr: a *LogQuery (stream selector and line filters) or a
// constant expression of numbers and vector(). What LogQL has beyond that is
// recognised and refused by name (ParseError.Unsupported). Expressions and
// filters are read-only after construction and may be shared by goroutines.
package logql

import (
	"math"
	"strconv"
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
)

// Expr is a parsed query. String gives its normal form on one line, Pretty the
// same, broken into lines where it is long. Both parse to an equal Expr.
type Expr interface {
	String() string
	Pretty() string
}

// FilterOp is the operator of a line filter.
type FilterOp string

// Line filter operators.
const (
	Contains    FilterOp = "|="
	NotContains FilterOp = "!="
	Matches     FilterOp = "|~"
	NotMatches  FilterOp = "!~"
)

// negative reports whether the filter keeps lines that do not match.
func (op FilterOp) negative() bool { return op == NotContains || op == NotMatches }

// LineFilter keeps the lines in which one of the texts is found (or with a
// negative operator: none of them).
type LineFilter struct {
	Op    FilterOp
	Texts []string // at least one; Parse gives more only for "or" with a positive operator
}

// String returns the filter as LogQL.
func (f LineFilter) String() string {
	var b strings.Builder
	b.WriteString(string(f.Op))
	for i, t := range f.Texts {
		if i > 0 {
			b.WriteString(" or")
		}
		b.WriteByte(' ')
		b.WriteString(strconv.Quote(t))
	}
	return b.String()
}

// LogQuery selects streams and lines.
type LogQuery struct {
	Matchers []*labels.Matcher
	Filters  []LineFilter
}

// Selector returns the stream selector alone.
func (q *LogQuery) Selector() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, m := range q.Matchers {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(m.String())
	}
	b.WriteByte('}')
	return b.String()
}

func (q *LogQuery) String() string { return q.join(" ") }

// prettyWidth is the length up to which a query stays on one line.
const prettyWidth = 100

// Pretty puts each filter on a line of its own if the query is long.
func (q *LogQuery) Pretty() string {
	if s := q.String(); len(s) <= prettyWidth {
		return s
	}
	return q.join("\n  ")
}

func (q *LogQuery) join(sep string) string {
	var b strings.Builder
	b.WriteString(q.Selector())
	for _, f := range q.Filters {
		b.WriteString(sep)
		b.WriteString(f.String())
	}
	return b.String()
}

// Number is a literal.
type Number float64

// Vector is vector(n): an instant vector of one sample without labels.
type Vector float64

// BinaryOp is arithmetic on two constant expressions.
type BinaryOp struct {
	Op          byte // one of + - * / % ^
	Left, Right Expr
}

func (n Number) String() string { return strconv.FormatFloat(float64(n), 'f', -1, 64) }

// Pretty is String.
func (n Number) Pretty() string { return n.String() }

func (v Vector) String() string {
	digits := 6 // Loki's form, if it says all
	if r := math.Round(float64(v)*1e6) / 1e6; r != float64(v) {
		digits = -1
	}
	return "vector(" + strconv.FormatFloat(float64(v), 'f', digits, 64) + ")"
}

// Pretty is String.
func (v Vector) Pretty() string { return v.String() }

func (o *BinaryOp) String() string {
	return "(" + o.Left.String() + " " + string(o.Op) + " " + o.Right.String() + ")"
}

// Pretty is String.
func (o *BinaryOp) Pretty() string { return o.String() }

// Constant evaluates an expression that reads no logs. The value is that of a
// scalar, or of the only sample of a vector. Ok is false for log queries.
func Constant(e Expr) (value float64, vector, ok bool) {
	switch e := e.(type) {
	case Number:
		return float64(e), false, true
	case Vector:
		return float64(e), true, true
	case *BinaryOp:
		l, lv, lok := Constant(e.Left)
		r, rv, rok := Constant(e.Right)
		return arith(e.Op, l, r), lv || rv, lok && rok
	}
	return 0, false, false
}

func arith(op byte, l, r float64) float64 {
	switch op {
	case '+':
		return l + r
	case '-':
		return l - r
	case '*':
		return l * r
	case '/':
		// Loki's division by zero is not a number, unlike that of Go.
		if r == 0 {
			return math.NaN()
		}
		return l / r
	case '%':
		return math.Mod(l, r)
	default:
		return math.Pow(l, r)
	}
}
