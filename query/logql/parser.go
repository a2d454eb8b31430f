package logql

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
)

const (
	maxQuery = 128 << 10 // bytes of a query
	maxDepth = 200       // parentheses around each other
	maxOps   = 1000      // operators of a metric query
)

// ParseError says why a query is not understood, in Loki's words. Line and Col
// are 0 if the error concerns the query as a whole.
type ParseError struct {
	Line, Col   int
	Msg         string
	Unsupported bool // valid LogQL that this version cannot answer
}

func (e *ParseError) Error() string {
	if e.Line == 0 && e.Col == 0 {
		return "parse error : " + e.Msg
	}
	return fmt.Sprintf("parse error at line %d, col %d: %s", e.Line, e.Col, e.Msg)
}

func errorAt(t token, msg string) error { return &ParseError{Line: t.line, Col: t.col, Msg: msg} }

func unsupported(t token, what string) error {
	return &ParseError{Line: t.line, Col: t.col, Msg: what + " is not supported by this version", Unsupported: true}
}

const emptyCompatible = "queries require at least one regexp or equality matcher that does not have an " +
	"empty-compatible value. For instance, app=~\".*\" does not meet this requirement, but app=~\".+\" will"

// functions of LogQL that are valid where an expression begins.
var functions = setOf("rate rate_counter count_over_time bytes_rate bytes_over_time absent_over_time sum_over_time " +
	"avg_over_time max_over_time min_over_time first_over_time last_over_time stddev_over_time stdvar_over_time " +
	"quantile_over_time sum avg min max count stddev stdvar topk bottomk approx_topk sort sort_desc label_replace " +
	"variants")

var stages = setOf("json logfmt regexp pattern unpack unwrap line_format label_format decolorize drop keep")

func setOf(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// Parse reads a query. Errors are *ParseError.
func Parse(query string) (Expr, error) {
	p, err := newParser(query)
	if err != nil {
		return nil, err
	}
	e, err := p.expr(0)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != kindEOF {
		return nil, p.unexpected()
	}
	if q, ok := e.(*LogQuery); ok {
		if err := q.check(); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// ErrNotSelector refuses a query that is more than a stream selector.
var ErrNotSelector = errors.New("only label matchers are supported")

// ParseSelector reads a stream selector with nothing behind it. {} selects
// everything and gives no matchers; any other selector needs a matcher that
// the empty value does not satisfy, as in a query.
func ParseSelector(s string) ([]*labels.Matcher, error) {
	p, err := newParser(s)
	if err != nil {
		return nil, err
	}
	if p.tok.kind == "{" {
		ms, err := p.selector()
		if err != nil {
			return nil, err
		}
		if len(ms) == 0 && p.tok.kind == kindEOF {
			return nil, nil
		}
	}
	e, err := Parse(s)
	if err != nil {
		return nil, err
	}
	q, ok := e.(*LogQuery)
	if !ok || len(q.Filters) > 0 {
		return nil, ErrNotSelector
	}
	return q.Matchers, nil
}

func (q *LogQuery) check() error {
	for _, m := range q.Matchers {
		if !m.Matches("") {
			return nil
		}
	}
	return &ParseError{Msg: emptyCompatible}
}

type parser struct {
	lex   lexer
	tok   token // look-ahead
	depth int
	ops   int
}

func newParser(s string) (*parser, error) {
	if len(s) > maxQuery {
		return nil, &ParseError{Msg: fmt.Sprintf("input size too long (%d > %d)", len(s), maxQuery)}
	}
	p := &parser{lex: newLexer(s)}
	return p, p.next()
}

func (p *parser) next() (err error) {
	p.tok, err = p.lex.next()
	return err
}

// unexpected refuses the look-ahead; expected are the tokens that would do,
// named when there are few.
func (p *parser) unexpected(expected ...string) error {
	msg := "syntax error: unexpected " + string(p.tok.kind)
	if len(expected) > 0 {
		msg += ", expecting " + strings.Join(expected, " or ")
	}
	return errorAt(p.tok, msg)
}

// binding gives operators their strength.
func binding(k kind) int {
	switch k {
	case "+", "-":
		return 1
	case "*", "/", "%":
		return 2
	case "^":
		return 3
	}
	return 0
}

// expr reads operands joined by operators that bind stronger than min.
func (p *parser) expr(min int) (Expr, error) {
	left, err := p.operand()
	if err != nil {
		return nil, err
	}
	for {
		op := p.tok
		b := binding(op.kind)
		if _, isLog := left.(*LogQuery); isLog {
			if b > 0 {
				return nil, notOperand("left", op)
			}
			return left, nil
		}
		if err := p.refuseOperator(); err != nil {
			return nil, err
		}
		if b <= min {
			return left, nil
		}
		if p.ops++; p.ops > maxOps {
			return nil, errorAt(op, fmt.Sprintf("more than %d operators", maxOps))
		}
		if err := p.next(); err != nil {
			return nil, err
		}
		if op.kind == "^" {
			b-- // associates to the right, all others to the left
		}
		right, err := p.expr(b)
		if err != nil {
			return nil, err
		}
		if _, isLog := right.(*LogQuery); isLog {
			return nil, notOperand("right", op)
		}
		left = newBinaryOp(op.kind[0], left, right)
	}
}

func notOperand(side string, op token) error {
	return &ParseError{Msg: fmt.Sprintf("unexpected type for %s leg of binary operation (%s): log query", side, op.kind)}
}

// refuseOperator names the operators of metric queries that are not there yet.
func (p *parser) refuseOperator() error {
	switch p.tok.kind {
	case "==", ">", ">=", "<", "<=":
		return unsupported(p.tok, "the operator "+string(p.tok.kind))
	case kindIdent:
		switch p.tok.text {
		case "and", "or", "unless":
			return unsupported(p.tok, "the operator "+p.tok.text)
		}
	}
	return nil
}

// newBinaryOp folds literals, so that 1 + 1 reads as 2.
func newBinaryOp(op byte, l, r Expr) Expr {
	if ln, ok := l.(Number); ok {
		if rn, ok := r.(Number); ok {
			// What is not a number has no notation as one.
			if v := arith(op, float64(ln), float64(rn)); !math.IsNaN(v) && !math.IsInf(v, 0) {
				return Number(v)
			}
		}
	}
	return &BinaryOp{Op: op, Left: l, Right: r}
}

func (p *parser) operand() (Expr, error) {
	switch p.tok.kind {
	case "{":
		return p.logQuery()
	case "(":
		return p.parenthesised()
	case "+", "-":
		neg := p.tok.kind == "-"
		if err := p.next(); err != nil {
			return nil, err
		}
		if p.tok.kind != kindNumber {
			return nil, p.unexpected(string(kindNumber))
		}
		n, err := p.number()
		if neg {
			n = -n
		}
		return n, err
	case kindNumber:
		return p.number()
	case kindIdent:
		return p.function()
	}
	return nil, p.unexpected()
}

func (p *parser) number() (Number, error) {
	n := Number(p.tok.num)
	return n, p.next()
}

func (p *parser) parenthesised() (Expr, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, errorAt(p.tok, fmt.Sprintf("more than %d nested parentheses", maxDepth))
	}
	defer func() { p.depth-- }()
	if err := p.next(); err != nil {
		return nil, err
	}
	e, err := p.expr(0)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != ")" {
		return nil, p.unexpected()
	}
	return e, p.next()
}

func (p *parser) expect(k kind) error {
	if p.tok.kind != k {
		return p.unexpected(string(k))
	}
	return p.next()
}

func (p *parser) function() (Expr, error) {
	name := p.tok
	ahead := p.lex // a function is one only in front of its parenthesis
	after, err := ahead.next()
	call := err == nil && (after.kind == "(" || after.kind == kindIdent && (after.text == "by" || after.text == "without"))
	if call && functions[name.text] {
		return nil, unsupported(name, "the function "+name.text)
	}
	if name.text != "vector" || !call {
		return nil, p.unexpected()
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if err := p.expect("("); err != nil {
		return nil, err
	}
	if p.tok.kind != kindNumber {
		return nil, p.unexpected(string(kindNumber))
	}
	n, err := p.number()
	if err != nil {
		return nil, err
	}
	return Vector(n), p.expect(")")
}

func (p *parser) logQuery() (Expr, error) {
	ms, err := p.selector()
	if err != nil {
		return nil, err
	}
	q := &LogQuery{Matchers: ms}
	for {
		switch k := p.tok.kind; k {
		case "|=", "!=", "|~", "!~":
			f, err := p.lineFilter(FilterOp(k))
			if err != nil {
				return nil, err
			}
			if !f.Op.negative() {
				q.Filters = append(q.Filters, f)
				continue
			}
			for _, t := range f.Texts { // neither one nor the other
				q.Filters = append(q.Filters, LineFilter{f.Op, []string{t}})
			}
		case "|>", "!>":
			return nil, unsupported(p.tok, "the pattern filter "+string(k))
		case "|":
			return nil, p.refuseStage()
		default:
			return q, nil
		}
	}
}

// selector reads {name op "value", ...}.
func (p *parser) selector() ([]*labels.Matcher, error) {
	if p.tok.kind != "{" {
		return nil, p.unexpected("{")
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.tok.kind == "}" {
		return nil, p.next()
	}
	var ms []*labels.Matcher
	for {
		if p.tok.kind != kindIdent {
			if len(ms) == 0 {
				return nil, p.unexpected(string(kindIdent), "}")
			}
			return nil, p.unexpected(string(kindIdent))
		}
		m, err := p.matcher()
		if err != nil {
			return nil, err
		}
		ms = append(ms, m)
		switch p.tok.kind {
		case "}":
			return ms, p.next()
		case ",":
			if err := p.next(); err != nil {
				return nil, err
			}
		default:
			return nil, p.unexpected("}", ",")
		}
	}
}

var matchTypes = map[kind]labels.MatchType{
	"=": labels.MatchEqual, "!=": labels.MatchNotEqual, "=~": labels.MatchRegexp, "!~": labels.MatchNotRegexp,
}

func (p *parser) matcher() (*labels.Matcher, error) {
	name := p.tok.text
	if err := p.next(); err != nil {
		return nil, err
	}
	typ, ok := matchTypes[p.tok.kind]
	if !ok {
		return nil, p.unexpected("=", "=~", "!~", "!=")
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.tok.kind != kindString {
		return nil, p.unexpected(string(kindString))
	}
	value := p.tok.text
	if typ == labels.MatchRegexp || typ == labels.MatchNotRegexp {
		if err := checkMatcherRegexp(value); err != nil {
			return nil, &ParseError{Msg: err.Error()}
		}
	}
	m, err := labels.NewMatcher(typ, name, value)
	if err != nil {
		return nil, &ParseError{Msg: err.Error()}
	}
	return m, p.next()
}

func (p *parser) lineFilter(op FilterOp) (LineFilter, error) {
	f := LineFilter{Op: op}
	for {
		if err := p.next(); err != nil {
			return f, err
		}
		if p.tok.kind == kindIdent && p.tok.text == "ip" {
			return f, unsupported(p.tok, "the filter ip()")
		}
		if p.tok.kind != kindString {
			return f, p.unexpected(string(kindString), "ip")
		}
		if op == Matches || op == NotMatches {
			if _, err := parseLineRegexp(p.tok.text); err != nil {
				return f, badStage(op, p.tok.text, err)
			}
		}
		f.Texts = append(f.Texts, p.tok.text)
		if err := p.next(); err != nil {
			return f, err
		}
		if p.tok.kind != kindIdent || p.tok.text != "or" {
			return f, nil
		}
	}
}

func badStage(op FilterOp, text string, err error) error {
	if len(text) > 100 {
		text = strings.ToValidUTF8(text[:100], "") + "..."
	}
	return &ParseError{Msg: fmt.Sprintf("stage '%s' : %v", LineFilter{op, []string{text}}, err)}
}

// refuseStage names the pipeline stage behind "|".
func (p *parser) refuseStage() error {
	bar := p.tok
	if err := p.next(); err != nil {
		return err
	}
	switch {
	case p.tok.kind == kindIdent && stages[p.tok.text]:
		return unsupported(bar, "the stage | "+p.tok.text)
	case p.tok.kind == kindIdent || p.tok.kind == "(":
		return unsupported(bar, "a label filter")
	}
	return p.unexpected()
}
