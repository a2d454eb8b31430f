// Package logql parses LogQL, Loki's query language.
//
// Parse gives an Expr: a *LogQuery, or a metric query of the other node types.
// Nodes are read-only after construction and may be shared by goroutines. What
// a log query does to lines is compiled by package pipeline, what a metric
// query computes is evaluated by package metric; line filters, which run on raw
// bytes, are compiled here.
package logql

import (
	"time"

	"github.com/loki-go/loki-go/internal/labels"
)

// Expr is a parsed query. String gives its normal form on one line, Pretty the
// same, broken into lines where it is long. Both parse to an equal Expr.
type Expr interface {
	String() string
	Pretty() string
	write(*printer)
	pretty(level int) string
	check() error
}

// LogQuery selects streams and lines, and changes lines and labels.
type LogQuery struct {
	Matchers []*labels.Matcher
	Stages   []Stage
}

// Stage is a step of a pipeline: *LineFilters, *JSON, *Logfmt, *Regexp,
// *Pattern, *Unpack, *LabelFilter, *LineFormat, *LabelFormat, *Decolorize,
// *Drop or *Keep.
type Stage interface {
	String() string
	pretty(level int) string
}

// FilterOp is the operator of a line filter.
type FilterOp string

// Line filter operators.
const (
	Contains    FilterOp = "|="
	NotContains FilterOp = "!="
	Matches     FilterOp = "|~"
	NotMatches  FilterOp = "!~"
	Like        FilterOp = "|>"
	NotLike     FilterOp = "!>"
)

// negative reports whether the filter keeps lines that do not match.
func (op FilterOp) negative() bool { return op[0] == '!' }

// FilterText is what a line filter looks for: a text, or an address, a range of
// addresses or a prefix of addresses in the line.
type FilterText struct {
	Text string
	IP   bool
}

// LineFilter keeps the lines in which one of the texts is found (or with a
// negative operator: none of them).
type LineFilter struct {
	Op    FilterOp
	Texts []FilterText // at least one; Parse gives more only for "or" with a positive operator
}

// LineFilters are line filters behind each other.
type LineFilters struct{ Filters []LineFilter }

// Extraction names a label and where its value is in the line.
type Extraction struct{ Name, Path string }

// JSON extracts labels from lines in JSON: all values, or those that are named.
type JSON struct{ Labels []Extraction }

// Logfmt extracts labels from key=value pairs: all, or those that are named.
type Logfmt struct {
	Strict, KeepEmpty bool
	Labels            []Extraction
}

// Regexp extracts the named groups of a regular expression.
type Regexp struct{ Expr string }

// Pattern extracts the named captures of a pattern such as "<ip> - <_> <user>".
type Pattern struct{ Expr string }

// Unpack undoes Promtail's pack stage.
type Unpack struct{}

// LineFormat replaces the line by what a template makes.
type LineFormat struct{ Template string }

// Format gives a label a value: that of another label, which is removed, or
// what a template makes.
type Format struct {
	Name, Value string
	Rename      bool
}

// LabelFormat changes labels.
type LabelFormat struct{ Formats []Format }

// Decolorize removes ANSI colour sequences from lines.
type Decolorize struct{}

// NamedMatcher names a label, or matches its value if Matcher is not nil.
type NamedMatcher struct {
	Name    string
	Matcher *labels.Matcher
}

// Drop removes labels.
type Drop struct{ Labels []NamedMatcher }

// Keep removes all other labels.
type Keep struct{ Labels []NamedMatcher }

// LabelFilter keeps entries by their labels.
type LabelFilter struct{ Cond Cond }

// Cond is a condition on labels: *BoolCond, *StringCond, *NumberCond,
// *DurationCond, *BytesCond or *IPCond.
type Cond interface {
	String() string
	// Names appends the labels that the condition looks at.
	Names(dst []string) []string
}

// CompareOp compares a label's value with a constant.
type CompareOp string

// Comparisons.
const (
	Equal          CompareOp = "=="
	NotEqual       CompareOp = "!="
	Greater        CompareOp = ">"
	GreaterOrEqual CompareOp = ">="
	Less           CompareOp = "<"
	LessOrEqual    CompareOp = "<="
)

// BoolCond joins two conditions.
type BoolCond struct {
	And         bool // else or
	Left, Right Cond
}

// StringCond matches the text of a label.
type StringCond struct{ Matcher *labels.Matcher }

// NumberCond compares a label as a number.
type NumberCond struct {
	Name  string
	Op    CompareOp
	Value float64
}

// DurationCond compares a label as a duration in Go's notation.
type DurationCond struct {
	Name  string
	Op    CompareOp
	Value time.Duration
}

// BytesCond compares a label as a number of bytes, such as 5KB or 1MiB.
type BytesCond struct {
	Name  string
	Op    CompareOp
	Value uint64
}

// IPCond looks for an address in a label.
type IPCond struct {
	Name    string
	Negate  bool
	Pattern string
}

// Conversion is how a label's value becomes a number.
type Conversion string

// Conversions.
const (
	ConvertNumber   Conversion = ""
	ConvertBytes    Conversion = "bytes"
	ConvertDuration Conversion = "duration"
	ConvertSeconds  Conversion = "duration_seconds"
)

// Unwrap takes samples from a label.
type Unwrap struct {
	Label   string
	Convert Conversion
	Filters []Cond // behind the conversion
}

// LogRange is a log query over the time before each step.
type LogRange struct {
	Query    *LogQuery
	Unwrap   *Unwrap // nil: none
	Interval time.Duration
	Offset   time.Duration
}

// Grouping says which labels an aggregation keeps.
type Grouping struct {
	Without bool
	Labels  []string
}

// RangeAggregation computes a value from the samples of a log range.
type RangeAggregation struct {
	Op       string
	Param    float64 // of quantile_over_time
	HasParam bool
	Range    *LogRange
	Grouping *Grouping // nil: none
	err      error
}

// VectorAggregation computes values from those of several series.
type VectorAggregation struct {
	Op       string
	K        int // of topk, bottomk and approx_topk
	Grouping Grouping
	Inner    Expr
	err      error
}

// Matching says which series of two sides belong together.
type Matching struct {
	On      bool // else all labels but those
	Labels  []string
	Many    Side     // side that may have several series for one of the other
	Include []string // labels of the one side that the result gets
}

// Side is a side of a binary operation.
type Side uint8

// Sides.
const (
	NoSide Side = iota
	LeftSide
	RightSide
)

// BinaryOp computes from two sides. Logical operators are and, or, unless.
type BinaryOp struct {
	Op          string
	Bool        bool // comparisons give 0 and 1
	Matching    Matching
	Left, Right Expr
	err         error
}

// Number is a literal.
type Number struct {
	Value float64
	err   error
}

// Vector is vector(n): an instant vector of one sample without labels.
type Vector struct {
	Value float64
	err   error
}

// LabelReplace sets a label from another.
type LabelReplace struct {
	Inner                                Expr
	Target, Replacement, Source, Pattern string
	err                                  error
}

// Variants is a query for several aggregations of the same lines. It is parsed
// only: Loki answers it only where an operator enabled it.
type Variants struct {
	Exprs []Expr
	Range *LogRange
}

// Comparison reports whether op compares.
func Comparison(op string) bool {
	switch op {
	case "==", "!=", ">", ">=", "<", "<=":
		return true
	}
	return false
}

// Logical reports whether op is a set operation.
func Logical(op string) bool { return op == "and" || op == "or" || op == "unless" }

// Walk calls f for e and every metric expression in it, parents first.
func Walk(e Expr, f func(Expr)) {
	f(e)
	switch e := e.(type) {
	case *VectorAggregation:
		Walk(e.Inner, f)
	case *LabelReplace:
		Walk(e.Inner, f)
	case *BinaryOp:
		Walk(e.Left, f)
		Walk(e.Right, f)
	case *Variants:
		for _, v := range e.Exprs {
			Walk(v, f)
		}
	}
}
