package logql

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"unicode/utf8"

	"github.com/loki-go/loki-go/internal/find"
)

const (
	maxRegexp  = 32 << 10 // bytes of an expression
	maxProgram = 50_000   // instructions that it compiles to, about
)

// Filter decides about lines. The zero value keeps all.
type Filter struct {
	all    []lineMatcher // cheap ones first
	needle []byte
	finder find.Finder
}

// Match reports whether the query keeps line.
func (f *Filter) Match(line []byte) bool {
	for _, m := range f.all {
		if !m.match(line) {
			return false
		}
	}
	return true
}

// Needle returns a text that is in every line that the filter keeps, nil if
// none is known. Who has many lines in one piece can look for it there first.
func (f *Filter) Needle() []byte { return f.needle }

// Finder returns what finds in many lines at once those that the filter may
// keep: any line that it keeps has one of the texts.
func (f *Filter) Finder() *find.Finder { return &f.finder }

// KeepsAll reports whether the filter is without effect.
func (f *Filter) KeepsAll() bool { return len(f.all) == 0 }

// CompileFilters makes one filter of line filters behind each other.
func CompileFilters(fs []LineFilter) (*Filter, error) {
	f := &Filter{}
	var slow []lineMatcher
	for _, lf := range fs {
		m, err := lf.compile()
		if err != nil {
			return nil, err
		}
		if isAlways(m) {
			continue
		}
		if n := m.needle(); len(n) > len(f.needle) {
			f.needle = n
		}
		if m.slow() {
			slow = append(slow, m)
		} else {
			f.all = append(f.all, m)
		}
	}
	f.all = append(f.all, slow...)
	f.finder = find.New(f.needle)
	if f.needle == nil {
		f.finder = anyText(f.all)
	}
	return f, nil
}

// anyText returns a Finder of the texts of which a line has to contain one,
// those of the matcher that has most of them in the way.
func anyText(ms []lineMatcher) find.Finder {
	var best []find.Text
	score := 0
	for _, m := range ms {
		texts := alternatives(m)
		shortest := 0
		for _, t := range texts {
			// What is not ASCII is rare, as short as it may be.
			if n := len(t.Text); t.Text[0] < utf8.RuneSelf && (shortest == 0 || n < shortest) {
				shortest = n
			}
		}
		if len(texts) <= find.MaxTexts && shortest > score {
			best, score = texts, shortest
		}
	}
	return find.NewAny(best)
}

// alternatives returns texts of which every line has one that m matches, nil if
// none are known.
func alternatives(m lineMatcher) (texts []find.Text) {
	switch m := m.(type) {
	case anyOf:
		for _, o := range m {
			more := alternatives(o)
			if more == nil {
				return nil
			}
			texts = append(texts, more...)
		}
	case fold:
		texts = append(texts, find.Text{Text: m.text, Fold: true})
		if m.re != nil {
			for letter, other := range map[byte]string{'k': "\u212a", 's': "\u017f"} {
				if bytes.IndexByte(m.text, letter) >= 0 {
					texts = append(texts, find.Text{Text: []byte(other)})
				}
			}
		}
	default:
		if n := m.needle(); len(n) > 0 {
			texts = append(texts, find.Text{Text: n})
		}
	}
	return texts
}

func (f LineFilter) compile() (lineMatcher, error) {
	ms := make([]lineMatcher, 0, len(f.Texts))
	for _, t := range f.Texts {
		m, err := f.Op.compile(t)
		if err != nil {
			return nil, err
		}
		ms = append(ms, m)
	}
	// Loki passes over an alternative that every line has, if there are others.
	if some := slices.DeleteFunc(slices.Clone(ms), isAlways); len(some) > 0 {
		ms = some
	}
	m := oneOf(ms)
	if f.Op.negative() {
		m = not{m}
	}
	return m, nil
}

func (op FilterOp) compile(t FilterText) (lineMatcher, error) {
	switch op {
	case Contains, NotContains:
		if !t.IP {
			return newContains(t.Text), nil
		}
		m, err := NewIPMatcher(t.Text)
		return ipLine{m}, err
	}
	if t.IP {
		return nil, errors.New("ip: invalid operation")
	}
	if op == Like || op == NotLike {
		return newLike(t.Text)
	}
	re, err := parseLineRegexp(t.Text)
	if err != nil {
		return nil, err
	}
	if m := simplify(re); m != nil {
		return m, nil
	}
	return newRegexp(t.Text, re)
}

// lineMatcher is a predicate on lines.
type lineMatcher interface {
	match(line []byte) bool
	needle() []byte // in every line that matches; may be nil
	slow() bool
}

type always struct{}

func (always) match([]byte) bool { return true }
func (always) needle() []byte    { return nil }
func (always) slow() bool        { return false }

func isAlways(m lineMatcher) bool {
	_, ok := m.(always)
	return ok
}

type contains []byte

func newContains(s string) lineMatcher {
	if s == "" {
		return always{}
	}
	return contains(s)
}

func (m contains) match(line []byte) bool { return bytes.Contains(line, m) }
func (m contains) needle() []byte         { return m }
func (m contains) slow() bool             { return false }

// affix is a literal at the beginning, at the end, or at both.
type affix struct {
	text       []byte
	start, end bool
}

func (m affix) match(line []byte) bool {
	switch {
	case !m.end:
		return bytes.HasPrefix(line, m.text)
	case !m.start:
		return bytes.HasSuffix(line, m.text)
	}
	return bytes.Equal(line, m.text)
}
func (m affix) needle() []byte { return m.text }
func (m affix) slow() bool     { return false }

type not struct{ m lineMatcher }

func (m not) match(line []byte) bool { return !m.m.match(line) }
func (m not) needle() []byte         { return nil }
func (m not) slow() bool             { return m.m.slow() }

type anyOf []lineMatcher

func oneOf(ms []lineMatcher) lineMatcher {
	if slices.ContainsFunc(ms, isAlways) {
		return always{}
	}
	if len(ms) == 1 {
		return ms[0]
	}
	return anyOf(ms)
}

func (m anyOf) match(line []byte) bool {
	for _, o := range m {
		if o.match(line) {
			return true
		}
	}
	return false
}
func (m anyOf) needle() []byte { return nil }
func (m anyOf) slow() bool     { return slices.ContainsFunc(m, lineMatcher.slow) }

// fold looks for an ASCII text in any case. Where the text has a k or an s, a
// line with other than ASCII may also have the Kelvin sign or the long s,
// which regular expressions take for those letters: re then decides.
type fold struct {
	text []byte // lower case
	at   int    // byte that is looked for first
	re   *regexp.Regexp
}

func newFold(text []byte, re *regexp.Regexp) fold {
	lower := bytes.ToLower(text)
	return fold{text: lower, at: find.RareByte(lower), re: re}
}

func (m fold) match(line []byte) bool {
	if m.find(line) {
		return true
	}
	return m.re != nil && slices.ContainsFunc(line, func(c byte) bool { return c >= utf8.RuneSelf }) && m.re.Match(line)
}

func (m fold) find(line []byte) bool {
	text := m.text
	if len(line) < len(text) {
		return false
	}
	// Candidates for the chosen byte, at least m.at from the start and far
	// enough from the end.
	area := line[m.at : len(line)-len(text)+m.at+1]
	lo, hi := text[m.at], text[m.at]
	if lo >= 'a' && lo <= 'z' {
		hi -= 'a' - 'A'
	}
	nextLo, nextHi := indexFrom(area, lo, 0), -1
	if hi != lo {
		nextHi = indexFrom(area, hi, 0)
	}
	for nextLo >= 0 || nextHi >= 0 {
		at := nextLo
		if at < 0 || nextHi >= 0 && nextHi < at {
			at = nextHi
		}
		if equalFold(line[at:at+len(text)], text) {
			return true
		}
		if at == nextLo {
			nextLo = indexFrom(area, lo, at+1)
		} else {
			nextHi = indexFrom(area, hi, at+1)
		}
	}
	return false
}

func indexFrom(b []byte, c byte, from int) int {
	i := bytes.IndexByte(b[from:], c)
	if i < 0 {
		return -1
	}
	return from + i
}

func equalFold(b, lower []byte) bool {
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func (m fold) needle() []byte { return nil }
func (m fold) slow() bool     { return false }

// expression is a regular expression that nothing simpler can stand for. A
// literal that every match contains is looked for first.
type expression struct {
	re      *regexp.Regexp
	literal []byte
}

func newRegexp(expr string, tree *syntax.Regexp) (lineMatcher, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	return expression{re, required(tree)}, nil
}

func (m expression) match(line []byte) bool {
	return bytes.Contains(line, m.literal) && m.re.Match(line)
}
func (m expression) needle() []byte { return m.literal }
func (m expression) slow() bool     { return true }

// parseLineRegexp parses the regular expression of a line filter.
func parseLineRegexp(expr string) (*syntax.Regexp, error) {
	return parseRegexp(expr, syntax.Perl)
}

// checkMatcherRegexp checks the regular expression of a label matcher, which
// differs in that its dot takes a newline.
func checkMatcherRegexp(expr string) error {
	_, err := parseRegexp(expr, syntax.Perl|syntax.DotNL)
	return err
}

// CompileRegexp compiles a regular expression of bounded size.
func CompileRegexp(expr string) (*regexp.Regexp, error) {
	if _, err := parseRegexp(expr, syntax.Perl); err != nil {
		return nil, err
	}
	return regexp.Compile(expr)
}

// CompileAnchored is CompileRegexp for an expression of the whole text.
func CompileAnchored(expr string) (*regexp.Regexp, error) { return CompileRegexp("^(?:" + expr + ")$") }

// checkRegexpStage checks the expression of a regexp stage.
func checkRegexpStage(expr string) error {
	re, err := parseRegexp(expr, syntax.Perl)
	if err != nil {
		return err
	}
	seen := map[string]bool{"": true}
	for _, n := range re.CapNames() {
		if seen[n] && n != "" {
			return fmt.Errorf("duplicate extracted label name '%s'", n)
		}
		seen[n] = true
	}
	if len(seen) == 1 {
		return errors.New("at least one named capture must be supplied")
	}
	return nil
}

func parseRegexp(expr string, flags syntax.Flags) (*syntax.Regexp, error) {
	if len(expr) > maxRegexp {
		return nil, fmt.Errorf("regular expression too long (%d > %d bytes)", len(expr), maxRegexp)
	}
	re, err := syntax.Parse(expr, flags)
	if err != nil {
		return nil, err
	}
	if n := programSize(re); n > maxProgram {
		return nil, fmt.Errorf("regular expression too complex (%d > %d instructions)", n, maxProgram)
	}
	return re, nil
}

// programSize estimates how many instructions re compiles to.
func programSize(re *syntax.Regexp) int {
	n := 1
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpRepeat:
		times := re.Max
		if times < 0 {
			times = re.Min + 1
		}
		return 1 + times*(1+programSize(re.Sub[0]))
	}
	for _, sub := range re.Sub {
		n += 1 + programSize(sub)
	}
	return n
}

// simplify returns a matcher that finds what re finds, unanchored, without the
// regexp engine; nil if there is none.
func simplify(re *syntax.Regexp) lineMatcher {
	re = bare(re)
	if nullable(re) {
		return always{}
	}
	switch re.Op {
	case syntax.OpLiteral:
		return simplifyLiteral(re)
	case syntax.OpPlus:
		return simplify(re.Sub[0])
	case syntax.OpAlternate:
		ms := make([]lineMatcher, len(re.Sub))
		for i, sub := range re.Sub {
			if ms[i] = simplify(sub); ms[i] == nil {
				return nil
			}
		}
		return oneOf(ms)
	case syntax.OpConcat:
		return simplifyConcat(re.Sub)
	}
	return nil
}

// bare strips capture groups.
func bare(re *syntax.Regexp) *syntax.Regexp {
	for re.Op == syntax.OpCapture {
		re = re.Sub[0]
	}
	return re
}

// nullable reports whether re matches the empty text everywhere.
func nullable(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpStar, syntax.OpQuest, syntax.OpEmptyMatch:
		return true
	case syntax.OpRepeat:
		return re.Min == 0 || nullable(re.Sub[0])
	case syntax.OpCapture, syntax.OpPlus:
		return nullable(re.Sub[0])
	case syntax.OpAlternate:
		return slices.ContainsFunc(re.Sub, nullable)
	case syntax.OpConcat:
		return !slices.ContainsFunc(re.Sub, func(s *syntax.Regexp) bool { return !nullable(s) })
	}
	return false
}

func simplifyLiteral(re *syntax.Regexp) lineMatcher {
	text, ok := literal(re)
	if !ok {
		return nil
	}
	if re.Flags&syntax.FoldCase == 0 {
		return newContains(string(text))
	}
	for _, c := range text {
		if c >= utf8.RuneSelf {
			return nil
		}
	}
	if !bytes.ContainsAny(text, "kKsS") {
		return newFold(text, nil)
	}
	return newFold(text, regexp.MustCompile("(?i:"+regexp.QuoteMeta(string(text))+")"))
}

// literal returns the text of a literal. The engine takes U+FFFD for every
// invalid byte, which a search for bytes would not find.
func literal(re *syntax.Regexp) ([]byte, bool) {
	if re.Op != syntax.OpLiteral || slices.Contains(re.Rune, utf8.RuneError) {
		return nil, false
	}
	return []byte(string(re.Rune)), true
}

// simplifyConcat drops what may match nothing from both ends: a match is there
// with it if and only if one is there without. What is left may be one
// expression, or a literal between anchors.
func simplifyConcat(sub []*syntax.Regexp) lineMatcher {
	for len(sub) > 0 && nullable(sub[0]) {
		sub = sub[1:]
	}
	for len(sub) > 0 && nullable(sub[len(sub)-1]) {
		sub = sub[:len(sub)-1]
	}
	if len(sub) == 1 {
		return simplify(sub[0])
	}
	m := affix{}
	if sub[0].Op == syntax.OpBeginText {
		m.start, sub = true, sub[1:]
	}
	if n := len(sub); n > 0 && sub[n-1].Op == syntax.OpEndText {
		m.end, sub = true, sub[:n-1]
	}
	if len(sub) != 1 || !m.start && !m.end {
		return nil
	}
	text, ok := literal(bare(sub[0]))
	if !ok || bare(sub[0]).Flags&syntax.FoldCase != 0 {
		return nil
	}
	m.text = text
	return m
}

// required returns a literal that every match of re contains, the longest that
// is found; nil if there is none.
func required(re *syntax.Regexp) []byte {
	switch re.Op {
	case syntax.OpLiteral:
		if text, ok := literal(re); ok && re.Flags&syntax.FoldCase == 0 {
			return text
		}
	case syntax.OpCapture, syntax.OpPlus:
		return required(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return required(re.Sub[0])
		}
	case syntax.OpConcat:
		var best []byte
		for _, sub := range re.Sub {
			if text := required(sub); len(text) > len(best) {
				best = text
			}
		}
		return best
	}
	return nil
}
