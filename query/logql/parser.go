package logql

import (
	"errors"
	"fmt"
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
)

const (
	maxQuery = 128 << 10 // bytes of a query, Loki's bound
	maxNodes = 2500      // operators, stages, conditions and such
	maxDepth = 10_000    // parentheses and calls around each other; more than the normal form of so many nodes can have
)

// ParseError says why a query is not understood, in Loki's words. Line and Col
// are 0 if the error concerns the query as a whole; Line alone is 0 where Loki
// has lost it.
type ParseError struct {
	Line, Col int
	Msg       string
}

func (e *ParseError) Error() string {
	if e.Line == 0 && e.Col == 0 {
		return "parse error : " + e.Msg
	}
	return fmt.Sprintf("parse error at line %d, col %d: %s", e.Line, e.Col, e.Msg)
}

// fault is an error that concerns the query as a whole.
func fault(format string, args ...any) error { return &ParseError{Msg: fmt.Sprintf(format, args...)} }

const emptyCompatible = "queries require at least one regexp or equality matcher that does not have an " +
	"empty-compatible value. For instance, app=~\".*\" does not meet this requirement, but app=~\".+\" will"

// Parse reads a query. Errors are *ParseError.
func Parse(query string) (Expr, error) {
	e, err := parse(query)
	if err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	return e, nil
}

func parse(query string) (Expr, error) {
	p, err := newParser(query)
	if err != nil {
		return nil, err
	}
	e, err := p.root()
	if err != nil {
		return nil, err
	}
	if p.tok.kind != kindEOF {
		return nil, p.unexpected()
	}
	return e, nil
}

// ErrNotSelector refuses a query that is more than a stream selector.
var ErrNotSelector = errors.New("only label matchers are supported")

// ParseSelector reads a stream selector with nothing behind it. {} selects
// everything and gives no matchers; any other selector needs a matcher that
// the empty value does not satisfy, as in a query.
func ParseSelector(s string) ([]*labels.Matcher, error) {
	e, err := parse(s)
	if err != nil {
		return nil, err
	}
	if q, ok := e.(*LogQuery); ok && len(q.Stages) == 0 && len(q.Matchers) == 0 {
		return nil, nil
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	q, ok := e.(*LogQuery)
	if !ok || len(q.Stages) > 0 {
		return nil, ErrNotSelector
	}
	return q.Matchers, nil
}

type parser struct {
	lex    *lexer
	tok    token // look-ahead
	tokens int   // read so far
	depth  int
	nodes  int
}

func newParser(s string) (*parser, error) {
	if len(s) >= maxQuery {
		return nil, fault("input size too long (%d > %d)", len(s), maxQuery)
	}
	p := &parser{lex: newLexer(s)}
	return p, p.next()
}

func (p *parser) next() (err error) {
	p.tokens++
	p.tok, err = p.lex.next()
	return err
}

func (p *parser) at(k kind) bool { return p.tok.kind == k }

// unexpected refuses the look-ahead; expected are the tokens that would do,
// where Loki names them.
func (p *parser) unexpected(expected ...string) error {
	msg := "syntax error: unexpected " + string(p.tok.kind)
	if len(expected) > 0 {
		msg += ", expecting " + strings.Join(expected, " or ")
	}
	return &ParseError{Line: p.tok.line, Col: p.tok.col, Msg: msg}
}

// expect moves over a token that has to be of a kind.
func (p *parser) expect(k kind, expected ...string) error {
	if !p.at(k) || p.tok.odd {
		if expected == nil {
			expected = []string{string(k)}
		}
		return p.unexpected(expected...)
	}
	return p.next()
}

// text takes the text of a token that has to be of a kind.
func (p *parser) text(k kind, expected ...string) (string, error) {
	s := p.tok.text
	return s, p.expect(k, expected...)
}

// deeper counts what is around each other. It returns what leaves it again.
// The error comes with the next token.
func (p *parser) deeper() func() {
	if p.depth++; p.depth > maxDepth && p.lex.err == nil {
		p.lex.err = &ParseError{Line: p.tok.line, Col: p.tok.col, Msg: fmt.Sprintf("more than %d nested parentheses", maxDepth)}
	}
	return func() { p.depth-- }
}

// node counts what a query consists of.
func (p *parser) node() error {
	if p.nodes++; p.nodes > maxNodes {
		return &ParseError{Line: p.tok.line, Col: p.tok.col, Msg: fmt.Sprintf("more than %d operators, stages and conditions", maxNodes)}
	}
	return nil
}

// root reads a query; variants are one only as a whole.
func (p *parser) root() (Expr, error) {
	if p.at("variants") {
		return p.variants()
	}
	return p.expr(0)
}

// selector reads {name op "value", ...}.
func (p *parser) selector() ([]*labels.Matcher, error) {
	if err := p.expect("{"); err != nil {
		return nil, err
	}
	if p.at("}") {
		return nil, p.next()
	}
	var ms []*labels.Matcher
	for {
		want := []string{string(kindIdent)}
		if len(ms) == 0 {
			want = append(want, "}")
		}
		name, err := p.text(kindIdent, want...)
		if err != nil {
			return nil, err
		}
		m, err := p.matcher(name)
		if err != nil {
			return nil, err
		}
		if err := p.node(); err != nil {
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

// matcher reads what follows the name of a matcher.
func (p *parser) matcher(name string) (*labels.Matcher, error) {
	typ, ok := matchTypes[p.tok.kind]
	if !ok {
		return nil, p.unexpected("=", "=~", "!~", "!=")
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	value, err := p.text(kindString)
	if err != nil {
		return nil, err
	}
	return newMatcher(typ, name, value)
}

func newMatcher(typ labels.MatchType, name, value string) (*labels.Matcher, error) {
	if typ == labels.MatchRegexp || typ == labels.MatchNotRegexp {
		if err := checkMatcherRegexp(value); err != nil {
			return nil, &ParseError{Msg: err.Error()}
		}
	}
	m, err := labels.NewMatcher(typ, name, value)
	if err != nil {
		return nil, &ParseError{Msg: err.Error()}
	}
	return m, nil
}

// variants reads variants(metric, ...) of (log range).
func (p *parser) variants() (Expr, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	if err := p.expect("("); err != nil {
		return nil, err
	}
	v := &Variants{}
	for {
		e, err := p.expr(0)
		if err != nil {
			return nil, err
		}
		v.Exprs = append(v.Exprs, e)
		if !p.at(",") {
			break
		}
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	for _, k := range []kind{")", "of", "("} {
		if err := p.expect(k); err != nil {
			return nil, err
		}
	}
	var err error
	if v.Range, err = p.logRange("{", "("); err != nil {
		return nil, err
	}
	return v, p.expect(")")
}
