package logql

import "github.com/loki-go/loki-go/internal/labels"

// logQuery reads a selector and the stages behind it.
func (p *parser) logQuery() (*LogQuery, error) {
	ms, err := p.selector()
	if err != nil {
		return nil, err
	}
	q := &LogQuery{Matchers: ms}
	unwrap, err := p.stages(q)
	if err == nil && unwrap {
		err = p.unexpected() // has its place in a range only
	}
	return q, err
}

// stages reads stages up to something else. If that is unwrap, it stops at the
// word, behind the bar.
func (p *parser) stages(q *LogQuery) (unwrap bool, err error) {
	for {
		if err := p.node(); err != nil {
			return false, err
		}
		switch p.tok.kind {
		case "|=", "!=", "|~", "!~", "|>", "!>":
			f, err := p.lineFilters()
			if err != nil {
				return false, err
			}
			q.Stages = append(q.Stages, f)
		case "|":
			if err := p.next(); err != nil {
				return false, err
			}
			if p.at("unwrap") {
				return true, nil
			}
			st, err := p.stage()
			if err != nil {
				return false, err
			}
			q.Stages = append(q.Stages, st)
		default:
			return false, nil
		}
	}
}

// lineFilters reads all line filters that follow.
func (p *parser) lineFilters() (*LineFilters, error) {
	fs := &LineFilters{}
	for {
		switch p.tok.kind {
		case "|=", "!=", "|~", "!~", "|>", "!>":
		default:
			return fs, nil
		}
		f, err := p.lineFilter()
		if err != nil {
			return nil, err
		}
		if !f.Op.negative() {
			fs.Filters = append(fs.Filters, f)
			continue
		}
		for _, t := range f.Texts { // neither one nor the other
			fs.Filters = append(fs.Filters, LineFilter{f.Op, []FilterText{t}})
		}
	}
}

func (p *parser) lineFilter() (LineFilter, error) {
	f := LineFilter{Op: FilterOp(p.tok.kind)}
	for {
		if err := p.node(); err != nil {
			return f, err
		}
		if err := p.next(); err != nil {
			return f, err
		}
		t := FilterText{IP: p.at("ip")}
		var err error
		if t.IP {
			t.Text, err = p.ip()
		} else {
			t.Text, err = p.text(kindString, string(kindString), "ip")
		}
		if err != nil {
			return f, err
		}
		f.Texts = append(f.Texts, t)
		// Behind "or ip()", which Loki takes at the end only, another "or" begins
		// a new alternative all the same.
		if !p.at("or") {
			return f, nil
		}
	}
}

// ip reads ip("pattern").
func (p *parser) ip() (string, error) {
	if err := p.next(); err != nil {
		return "", err
	}
	if err := p.expect("("); err != nil {
		return "", err
	}
	s, err := p.text(kindString)
	if err != nil {
		return "", err
	}
	return s, p.expect(")")
}

// stage reads what follows a bar.
func (p *parser) stage() (Stage, error) {
	switch p.tok.kind {
	case "json":
		return p.json()
	case "logfmt":
		return p.logfmt()
	case "regexp":
		s, err := p.wordAndString()
		if err != nil {
			return nil, err
		}
		if err := checkRegexpStage(s); err != nil {
			return nil, fault("invalid regexp parser: %v", err)
		}
		return &Regexp{s}, nil
	case "pattern":
		s, err := p.wordAndString()
		if err != nil {
			return nil, err
		}
		if _, err := NewCaptures(s); err != nil {
			return nil, fault("invalid pattern parser: %v", err)
		}
		return &Pattern{s}, nil
	case "unpack":
		return &Unpack{}, p.next()
	case "decolorize":
		return &Decolorize{}, p.next()
	case "line_format":
		s, err := p.wordAndString()
		return &LineFormat{s}, err
	case "label_format":
		return p.labelFormat()
	case "drop":
		ms, err := p.namedMatchers()
		return &Drop{ms}, err
	case "keep":
		ms, err := p.namedMatchers()
		return &Keep{ms}, err
	case kindIdent, "(":
		c, err := p.cond(0)
		return &LabelFilter{c}, err
	}
	return nil, p.unexpected()
}

func (p *parser) wordAndString() (string, error) {
	if err := p.next(); err != nil {
		return "", err
	}
	return p.text(kindString)
}

func (p *parser) json() (Stage, error) {
	err := p.next()
	s := &JSON{}
	if err == nil && p.at(kindIdent) {
		s.Labels, err = p.extractions()
	}
	return s, err
}

func (p *parser) logfmt() (Stage, error) {
	s := &Logfmt{}
	if err := p.next(); err != nil {
		return nil, err
	}
	for p.at(kindFlag) {
		if p.tok.text == "--strict" {
			s.Strict = true
		} else {
			s.KeepEmpty = true
		}
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	var err error
	if p.at(kindIdent) {
		s.Labels, err = p.extractions()
	}
	return s, err
}

// list reads items with commas between them.
func (p *parser) list(item func() error) error {
	for {
		if err := p.node(); err != nil {
			return err
		}
		if err := item(); err != nil {
			return err
		}
		if !p.at(",") {
			return nil
		}
		if err := p.next(); err != nil {
			return err
		}
	}
}

func (p *parser) extractions() (out []Extraction, err error) {
	err = p.list(func() error {
		name, err := p.text(kindIdent)
		if err != nil {
			return err
		}
		e := Extraction{name, name}
		if p.at("=") {
			if e.Path, err = p.wordAndString(); err != nil {
				return err
			}
		}
		out = append(out, e)
		return nil
	})
	return out, err
}

func (p *parser) labelFormat() (Stage, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	s := &LabelFormat{}
	return s, p.list(func() error {
		name, err := p.text(kindIdent)
		if err != nil {
			return err
		}
		if err := p.expect("="); err != nil {
			return err
		}
		f := Format{Name: name, Value: p.tok.text, Rename: p.at(kindIdent)}
		s.Formats = append(s.Formats, f)
		if p.at(kindString) {
			return p.next()
		}
		return p.expect(kindIdent, string(kindIdent), string(kindString))
	})
}

func (p *parser) namedMatchers() (out []NamedMatcher, err error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	err = p.list(func() error {
		name, err := p.text(kindIdent)
		if err != nil {
			return err
		}
		m := NamedMatcher{Name: name}
		if _, ok := matchTypes[p.tok.kind]; ok {
			if m.Matcher, err = p.matcher(name); err != nil {
				return err
			}
		}
		out = append(out, m)
		return nil
	})
	return out, err
}

// Strength of the operators of conditions. A comma and nothing at all join
// conditions too, and take everything behind them.
const (
	condOr = 1 + iota
	condAnd
)

// cond reads a condition up to an operator that does not bind stronger.
func (p *parser) cond(strength int) (Cond, error) {
	left, err := p.condOperand()
	if err != nil {
		return nil, err
	}
	for {
		b, inner := &BoolCond{And: true, Left: left}, 0
		switch p.tok.kind {
		case "or":
			b.And, inner = false, condOr
		case "and":
			inner = condAnd
		case ",", kindIdent, "(":
			if p.tok.odd {
				return left, nil
			}
		default:
			return left, nil
		}
		if inner > 0 && inner <= strength {
			return left, nil
		}
		if inner > 0 || p.at(",") {
			if err := p.next(); err != nil {
				return nil, err
			}
		}
		if b.Right, err = p.cond(inner); err != nil {
			return nil, err
		}
		left = b
	}
}

func (p *parser) condOperand() (Cond, error) {
	if p.at("(") {
		defer p.deeper()()
		if err := p.next(); err != nil {
			return nil, err
		}
		c, err := p.cond(0)
		if err != nil {
			return nil, err
		}
		if !p.at(")") {
			return nil, p.unexpected()
		}
		return c, p.next()
	}
	name, err := p.text(kindIdent, string(kindIdent), "(")
	if err != nil {
		return nil, err
	}
	if err := p.node(); err != nil {
		return nil, err
	}
	op := p.tok.kind
	switch op {
	case "=~", "!~":
		m, err := p.matcher(name)
		return &StringCond{m}, err
	case "=", "!=", "==", ">", ">=", "<", "<=":
		if err := p.next(); err != nil {
			return nil, err
		}
		return p.comparison(name, op)
	}
	return nil, p.unexpected()
}

// comparison reads the right side of a condition.
func (p *parser) comparison(name string, op kind) (Cond, error) {
	cmp := CompareOp(op)
	if op == "=" {
		cmp = Equal
	}
	switch {
	case p.at(kindString) && (op == "=" || op == "!="):
		m, err := newMatcher(matchTypes[op], name, p.tok.text)
		if err != nil {
			return nil, err
		}
		return &StringCond{m}, p.next()
	case p.at("ip") && (op == "=" || op == "!="):
		s, err := p.ip()
		return &IPCond{name, op == "!=", s}, err
	case p.at(kindDuration):
		return &DurationCond{name, cmp, p.tok.dur}, p.next()
	case p.at(kindBytes):
		return &BytesCond{name, cmp, p.tok.bytes}, p.next()
	case p.at(kindNumber), p.at("+"), p.at("-"):
		n, err := p.literal()
		if err != nil {
			return nil, err
		}
		if n.err != nil {
			return nil, n.err
		}
		return &NumberCond{name, cmp, n.Value}, nil
	}
	return nil, p.unexpected()
}

// check refuses what would touch every stream.
func (q *LogQuery) check() error { return checkMatchers(q.Matchers) }

func checkMatchers(ms []*labels.Matcher) error {
	for _, m := range ms {
		if !m.Matches("") {
			return nil
		}
	}
	return &ParseError{Msg: emptyCompatible}
}
