package logql

import (
	"strconv"
	"time"
)

// binding gives operators their strength.
func binding(k kind) int {
	switch k {
	case "or":
		return 1
	case "and", "unless":
		return 2
	case "==", "!=", ">", ">=", "<", "<=":
		return 3
	case "+", "-":
		return 4
	case "*", "/", "%":
		return 5
	case "^":
		return 6
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
		op := p.tok.kind
		b := binding(op)
		if b <= min {
			return left, nil
		}
		if err := p.node(); err != nil {
			return nil, err
		}
		if err := p.next(); err != nil {
			return nil, err
		}
		e := &BinaryOp{Op: string(op), Left: left}
		if err := p.modifiers(e); err != nil {
			return nil, err
		}
		if op == "^" {
			b-- // associates to the right, all others to the left
		}
		if e.Right, err = p.expr(b); err != nil {
			return nil, err
		}
		left = e.reduce()
	}
}

// modifiers reads bool, on or ignoring, and group_left or group_right.
func (p *parser) modifiers(e *BinaryOp) (err error) {
	if p.at("bool") {
		e.Bool = true
		if err := p.next(); err != nil {
			return err
		}
	}
	m := &e.Matching
	if !p.at("on") && !p.at("ignoring") {
		return nil
	}
	m.On = p.at("on")
	if err := p.next(); err != nil {
		return err
	}
	if m.Labels, err = p.labelList(); err != nil {
		return err
	}
	switch p.tok.kind {
	case "group_left":
		m.Many = LeftSide
	case "group_right":
		m.Many = RightSide
	default:
		return nil
	}
	if err := p.next(); err != nil {
		return err
	}
	if p.at("(") {
		m.Include, err = p.labelList()
	}
	return err
}

// labelList reads names in parentheses.
func (p *parser) labelList() (names []string, err error) {
	if err := p.expect("("); err != nil {
		return nil, err
	}
	if p.at(")") {
		return nil, p.next()
	}
	for {
		want := []string{string(kindIdent)}
		if len(names) == 0 {
			want = append(want, ")")
		}
		name, err := p.text(kindIdent, want...)
		if err != nil {
			return nil, err
		}
		if err := p.node(); err != nil {
			return nil, err
		}
		names = append(names, name)
		switch p.tok.kind {
		case ")":
			return names, p.next()
		case ",":
			if err := p.next(); err != nil {
				return nil, err
			}
		default:
			return nil, p.unexpected(",", ")")
		}
	}
}

// goType is what Loki's messages call a log query.
func goType(e Expr) (string, bool) {
	q, ok := e.(*LogQuery)
	switch {
	case !ok:
		return "", false
	case len(q.Stages) == 0:
		return "*syntax.MatchersExpr", true
	}
	return "*syntax.PipelineExpr", true
}

// reduce checks the operands, and computes what is of literals only.
func (e *BinaryOp) reduce() Expr {
	if typ, ok := goType(e.Left); ok {
		e.err = fault("unexpected type for left leg of binary operation (%s): %s", e.Op, typ)
		return e
	}
	if typ, ok := goType(e.Right); ok {
		e.err = fault("unexpected type for right leg of binary operation (%s): %s", e.Op, typ)
		return e
	}
	l, lok := e.Left.(*Number)
	r, rok := e.Right.(*Number)
	if lok && l.err != nil {
		e.err = l.err
		return e
	}
	if rok && r.err != nil {
		e.err = r.err
		return e
	}
	switch {
	case Logical(e.Op) && lok:
		e.err = fault("unexpected literal for left leg of logical/set binary operation (%s): %f", e.Op, l.Value)
	case Logical(e.Op) && rok:
		e.err = fault("unexpected literal for right leg of logical/set binary operation (%s): %f", e.Op, r.Value)
	case lok && rok:
		// What is not a number has no notation as one.
		if v := Apply(e.Op, l.Value, r.Value); v-v == 0 {
			return &Number{Value: v}
		}
	}
	return e
}

func (p *parser) operand() (Expr, error) {
	switch k := p.tok.kind; {
	case k == "{":
		return p.logQuery()
	case k == "(":
		return p.parenthesised()
	case k == "+", k == "-", k == kindNumber:
		return p.literal()
	case k == "VECTOR":
		return p.vector()
	case k == "label_replace":
		return p.labelReplace()
	case k == kindIdent:
		return nil, p.unexpected()
	case rangeOps[p.tok.text]:
		return p.rangeAggregation()
	case vectorOps[p.tok.text]:
		return p.vectorAggregation()
	}
	return nil, p.unexpected()
}

// literal reads a number with an optional sign.
func (p *parser) literal() (*Number, error) {
	neg := p.at("-")
	if neg || p.at("+") {
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	text, err := p.text(kindNumber)
	if err != nil {
		return nil, err
	}
	n := &Number{}
	if n.Value, err = strconv.ParseFloat(text, 64); err != nil {
		n.err = fault("unable to parse literal as a float: %v", err)
	}
	if neg {
		n.Value = -n.Value
	}
	return n, nil
}

func (p *parser) parenthesised() (Expr, error) {
	defer p.deeper()()
	if err := p.next(); err != nil {
		return nil, err
	}
	e, err := p.expr(0)
	if err != nil {
		return nil, err
	}
	if !p.at(")") {
		return nil, p.unexpected()
	}
	return e, p.next()
}

func (p *parser) vector() (Expr, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	if err := p.expect("("); err != nil {
		return nil, err
	}
	text, err := p.text(kindNumber)
	if err != nil {
		return nil, err
	}
	v := &Vector{}
	if v.Value, err = strconv.ParseFloat(text, 64); err != nil {
		v.err = fault("unable to parse vectorExpr as a float: %v", err)
	}
	return v, p.expect(")")
}

// metric reads an expression that Loki's grammar wants to be a metric query. A
// log query in its place is refused at what follows it.
func (p *parser) metric() (Expr, error) {
	e, err := p.expr(0)
	if err != nil {
		return nil, err
	}
	if _, isLog := e.(*LogQuery); isLog {
		return nil, p.unexpected()
	}
	return e, nil
}

func (p *parser) labelReplace() (Expr, error) {
	defer p.deeper()()
	if err := p.next(); err != nil {
		return nil, err
	}
	if err := p.expect("("); err != nil {
		return nil, err
	}
	inner, err := p.metric()
	if err != nil {
		return nil, err
	}
	e := &LabelReplace{Inner: inner}
	for i, arg := range []*string{&e.Target, &e.Replacement, &e.Source, &e.Pattern} {
		if !p.at(",") {
			if i == 0 {
				return nil, p.unexpected()
			}
			return nil, p.unexpected(",")
		}
		if *arg, err = p.wordAndString(); err != nil {
			return nil, err
		}
	}
	if _, err := CompileAnchored(e.Pattern); err != nil {
		e.err = fault("invalid regex in label_replace: %v", err)
	}
	return e, p.expect(")")
}

// grouping reads by or without and labels, if they are there.
func (p *parser) grouping() (*Grouping, error) {
	if !p.at("by") && !p.at("without") {
		return nil, nil
	}
	g := &Grouping{Without: p.at("without")}
	err := p.next()
	if err == nil {
		g.Labels, err = p.labelList()
	}
	return g, err
}

func (p *parser) rangeAggregation() (Expr, error) {
	e := &RangeAggregation{Op: p.tok.text}
	if err := p.next(); err != nil {
		return nil, err
	}
	if err := p.expect("("); err != nil {
		return nil, err
	}
	var param *string
	want := []string{string(kindNumber), "{", "("}
	if p.at(kindNumber) {
		text := p.tok.text
		param = &text
		if err := p.next(); err != nil {
			return nil, err
		}
		if err := p.expect(","); err != nil {
			return nil, err
		}
		want = want[1:]
	}
	var err error
	if e.Range, err = p.logRange(want...); err != nil {
		return nil, err
	}
	if err := p.expect(")"); err != nil {
		return nil, err
	}
	if e.Grouping, err = p.grouping(); err != nil {
		return nil, err
	}
	e.err = e.validate(param)
	return e, nil
}

func (e *RangeAggregation) validate(param *string) error {
	switch {
	case param != nil && e.Op != "quantile_over_time":
		return fault("parameter %s not supported for operation %s", *param, e.Op)
	case param == nil && e.Op == "quantile_over_time":
		return fault("parameter required for operation %s", e.Op)
	case param != nil:
		var err error
		if e.Param, err = strconv.ParseFloat(*param, 64); err != nil {
			return fault("invalid parameter for operation %s: %s", e.Op, err)
		}
		e.HasParam = true
	}
	switch e.Op {
	case "avg_over_time", "stddev_over_time", "stdvar_over_time", "quantile_over_time", "max_over_time", "min_over_time",
		"first_over_time", "last_over_time":
	default:
		if e.Grouping != nil {
			return fault("grouping not allowed for %s aggregation", e.Op)
		}
	}
	if e.Range.Unwrap != nil {
		switch e.Op {
		case "count_over_time", "bytes_over_time", "bytes_rate":
			return fault("invalid aggregation %s with unwrap", e.Op)
		}
		return nil
	}
	switch e.Op {
	case "bytes_over_time", "bytes_rate", "count_over_time", "rate", "absent_over_time":
		return nil
	}
	return fault("invalid aggregation %s without unwrap", e.Op)
}

// logRange reads a log query with its interval, which Loki takes at several
// places: behind the stages, behind the selector, behind parentheses around
// either.
func (p *parser) logRange(want ...string) (*LogRange, error) {
	defer p.deeper()()
	if p.at("(") {
		return p.logRangeInParentheses()
	}
	if !p.at("{") {
		return nil, p.unexpected(want...)
	}
	r := &LogRange{}
	if err := p.rangeQuery(r); err != nil {
		return nil, err
	}
	return r, p.interval(r)
}

// rangeQuery reads selector, stages and unwrap.
func (p *parser) rangeQuery(r *LogRange) error {
	ms, err := p.selector()
	if err != nil {
		return err
	}
	r.Query = &LogQuery{Matchers: ms}
	return p.rangeStages(r)
}

func (p *parser) rangeStages(r *LogRange) error {
	unwrap, err := p.stages(r.Query)
	if err != nil || !unwrap {
		return err
	}
	r.Unwrap, err = p.unwrap()
	return err
}

func (p *parser) logRangeInParentheses() (*LogRange, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	var r *LogRange
	var err error
	switch {
	case p.at("("):
		r, err = p.logRange()
	case p.at("{"):
		r = &LogRange{Interval: -1} // not there yet
		err = p.rangeQuery(r)
		if err == nil && p.at(kindRange) {
			err = p.interval(r)
		}
	default:
		return nil, p.unexpected("{", "(")
	}
	if err != nil {
		return nil, err
	}
	if r.Interval >= 0 {
		return r, p.expect(")")
	}
	if !p.at(")") {
		if r.Unwrap != nil {
			return nil, p.unexpected(string(kindRange), ")", "|")
		}
		return nil, p.unexpected()
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if !p.at(kindRange) {
		return nil, p.unexpected(string(kindRange))
	}
	return r, p.intervalBehind(r, len(r.Query.Stages) == 0 && r.Unwrap == nil, false)
}

// interval reads the interval and what may follow it.
func (p *parser) interval(r *LogRange) error {
	if !p.at(kindRange) {
		if r.Unwrap != nil {
			return p.unexpected(string(kindRange), "|")
		}
		return p.unexpected()
	}
	bare := len(r.Query.Stages) == 0 && r.Unwrap == nil
	return p.intervalBehind(r, bare, bare)
}

// intervalBehind reads the interval and the offset; behind a selector alone,
// unwrap or stages may follow.
func (p *parser) intervalBehind(r *LogRange, unwrap, stages bool) error {
	r.Interval = p.tok.dur
	if err := p.next(); err != nil {
		return err
	}
	if p.at("offset") {
		if err := p.next(); err != nil {
			return err
		}
		r.Offset = p.tok.dur
		if err := p.expect(kindDuration); err != nil {
			return err
		}
	}
	switch {
	case stages:
		return p.rangeStages(r)
	case unwrap && p.at("|"):
		if err := p.next(); err != nil {
			return err
		}
		if !p.at("unwrap") {
			return p.unexpected("unwrap")
		}
		var err error
		r.Unwrap, err = p.unwrap()
		return err
	}
	return nil
}

// unwrap reads the stage and the conditions behind it.
func (p *parser) unwrap() (*Unwrap, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	u := &Unwrap{}
	var err error
	switch p.tok.kind {
	case "BYTES_CONV", "DURATION_CONV", "DURATION_SECONDS_CONV":
		u.Convert = Conversion(p.tok.text)
		if err := p.next(); err != nil {
			return nil, err
		}
		if err := p.expect("("); err != nil {
			return nil, err
		}
		if u.Label, err = p.text(kindIdent); err != nil {
			return nil, err
		}
		err = p.expect(")")
	default:
		u.Label, err = p.text(kindIdent, string(kindIdent), "BYTES_CONV", "DURATION_CONV", "DURATION_SECONDS_CONV")
	}
	for err == nil && p.at("|") {
		if err := p.next(); err != nil {
			return nil, err
		}
		if !p.at(kindIdent) && !p.at("(") {
			return nil, p.unexpected(string(kindIdent), "(")
		}
		var c Cond
		if c, err = p.cond(0); err == nil {
			u.Filters = append(u.Filters, c)
		}
	}
	return u, err
}

func (p *parser) vectorAggregation() (Expr, error) {
	defer p.deeper()()
	e := &VectorAggregation{Op: p.tok.text}
	if err := p.next(); err != nil {
		return nil, err
	}
	g, err := p.grouping()
	if err != nil {
		return nil, err
	}
	if err := p.expect("(", "(", "by", "without"); err != nil {
		return nil, err
	}
	param, inner, err := p.arguments()
	if err != nil {
		return nil, err
	}
	e.Inner = inner
	if !p.at(")") {
		return nil, p.unexpected()
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if g == nil {
		if g, err = p.grouping(); err != nil {
			return nil, err
		}
	}
	e.err = e.validate(param, g)
	if g != nil {
		e.Grouping = *g
	}
	return e, nil
}

// arguments reads an expression, and the number and the comma in front of it if
// they are there.
func (p *parser) arguments() (param *string, inner Expr, err error) {
	first, tokens := p.tok, p.tokens
	if inner, err = p.metric(); err != nil {
		return nil, nil, err
	}
	if first.kind == kindNumber && p.tokens == tokens+1 && p.at(",") {
		param = &first.text
		if err := p.next(); err != nil {
			return nil, nil, err
		}
		inner, err = p.metric()
	}
	return param, inner, err
}

func (e *VectorAggregation) validate(param *string, g *Grouping) error {
	switch e.Op {
	case "topk", "bottomk", "approx_topk":
		if param == nil {
			return fault("parameter required for operation %s", e.Op)
		}
		k, err := strconv.Atoi(*param)
		if err != nil {
			return fault("invalid parameter %s(%s,", e.Op, *param)
		}
		if k <= 0 {
			return fault("invalid parameter (must be greater than 0) %s(%s", e.Op, *param)
		}
		if e.Op == "approx_topk" && g != nil {
			return fault("grouping not allowed for %s aggregation", e.Op)
		}
		e.K = k
	default:
		if param != nil {
			return fault("unsupported parameter for operation %s(%s,", e.Op, *param)
		}
	}
	return nil
}

func (e *RangeAggregation) check() error {
	if e.err != nil {
		return e.err
	}
	return e.Range.Query.check()
}

func (e *VectorAggregation) check() error {
	if e.err != nil {
		return e.err
	}
	if (e.Op == "sort" || e.Op == "sort_desc") && len(e.Grouping.Labels) > 0 {
		return fault("sort and sort_desc doesn't allow grouping by ")
	}
	return e.Inner.check()
}

func (e *BinaryOp) check() error {
	if e.err != nil {
		return e.err
	}
	if err := e.Left.check(); err != nil {
		return err
	}
	return e.Right.check()
}

func (e *Number) check() error { return e.err }
func (e *Vector) check() error { return e.err }

func (e *LabelReplace) check() error {
	if e.err != nil {
		return e.err
	}
	return e.Inner.check()
}

func (e *Variants) check() error {
	if err := e.Range.Query.check(); err != nil {
		return err
	}
	for _, v := range e.Exprs {
		if err := v.check(); err != nil {
			return err
		}
	}
	return nil
}

// MaxInterval returns the longest interval of a metric query, and the longest
// time before a step that the query reads.
func MaxInterval(e Expr) (interval, before time.Duration) {
	Walk(e, func(e Expr) {
		if r, ok := e.(*RangeAggregation); ok {
			interval = max(interval, r.Range.Interval)
			before = max(before, r.Range.Interval+r.Range.Offset)
		}
	})
	return interval, before
}
