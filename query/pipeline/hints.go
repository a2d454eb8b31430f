package pipeline

import (
	"slices"
	"strings"

	"github.com/loki-go/loki-go/query/logql"
)

// hints let parsers of metric queries extract no more than is asked for, and
// let parsers give up lines that a condition behind them will drop. Loki has
// them for speed, but they can be seen: what is not parsed has no errors, and
// a condition counts for what a parser finds even if another stage changes the
// label in between.
type hints struct {
	none      bool                // no labels are wanted at all
	required  []string            // nil: all are
	keepError bool                // the query asks for __error__
	made      []string            // labels that stages have made, or the first of them
	madeMore  map[string]struct{} // the others
	conds     []condHint

	// While deciding, labels that are not in only are not made: whether an
	// entry is kept does not depend on them. Nothing of this can be seen:
	// lines are parsed to their end all the same, so that errors are found.
	deciding bool
	only     []string
}

type condHint struct {
	name string
	cond cond
}

// maxMade is how many labels are looked for one by one.
const maxMade = 32

// found notes that a stage has made a label, which it had not before.
func (h *hints) found(name string) {
	if len(h.made) < maxMade {
		h.made = append(h.made, name)
		return
	}
	if h.madeMore == nil {
		h.madeMore = map[string]struct{}{}
	}
	h.madeMore[name] = struct{}{}
}

func (h *hints) reset() {
	h.made = h.made[:0]
	if len(h.madeMore) > 0 {
		clear(h.madeMore)
	}
}

// has reports whether a stage has made the label already.
func (h *hints) has(name string) bool {
	for _, n := range h.made {
		if n == name {
			return true
		}
	}
	if len(h.madeMore) == 0 {
		return false
	}
	_, ok := h.madeMore[name]
	return ok
}

func (h *hints) wants(name string) bool {
	if h.deciding {
		return slices.Contains(h.only, name)
	}
	return len(h.required) == 0 || slices.Contains(h.required, name)
}

// skip reports whether a parser has no use for a label.
func (h *hints) skip(name string) bool { return !h.wants(name) || h.has(name) }

// wantsPrefix reports whether a label that begins so may be wanted.
func (h *hints) wantsPrefix(prefix []byte) bool {
	if len(h.required) == 0 {
		return true
	}
	for _, r := range h.required {
		if strings.HasPrefix(r, string(prefix)) {
			return true
		}
	}
	return false
}

// nothing reports whether a parser need not run.
func (h *hints) nothing() bool { return h.none || h.complete() }

// complete reports whether all that is required is there.
func (h *hints) complete() bool {
	if len(h.required) == 0 || len(h.made) < min(len(h.required), maxMade) {
		return false
	}
	for _, r := range h.required {
		if !h.has(r) {
			return false
		}
	}
	return true
}

// decided reports whether a parser that finds no errors can stop.
func (h *hints) decided() bool {
	return h.deciding && len(h.made) >= min(len(h.only), maxMade) && !slices.ContainsFunc(h.only, func(n string) bool { return !h.has(n) })
}

// decisive returns the labels on which it depends whether stages keep an entry;
// false if that is more than the labels that conditions have.
func decisive(stages []stage) (names []string, ok bool) {
	for _, st := range stages {
		switch st := st.(type) {
		case *condStage:
			names = append(names, st.names...)
		case *jsonStage, *logfmtStage, lineStage:
		default:
			return nil, false
		}
	}
	return required(names), true
}

// goOn reports whether the line may pass the condition on a label that was just
// made.
func (h *hints) goOn(name string, s *state) bool {
	for i := range h.conds {
		if h.conds[i].name == name {
			return h.conds[i].cond.match(s)
		}
	}
	return true
}

// newHints makes the hints of a query for the stages of which use are the
// labels that they use.
func newHints(stages []stage, use []string, g *Grouping, sample string) *hints {
	h := &hints{}
	for _, st := range stages {
		c, ok := st.(*condStage)
		if !ok {
			continue
		}
		if _, two := c.cond.(*boolCond); !two {
			for _, n := range c.names {
				h.conds = append(h.conds, condHint{n, c.cond})
			}
		}
	}
	if g == nil {
		return h
	}
	required := required(slices.Concat(use, g.Labels, []string{sample}))
	keep := slices.Contains(required, ErrorLabel)
	switch {
	case g.none && len(required) > 0:
		h.required, h.keepError = required, keep
	case g.none:
		return &hints{none: true}
	case !g.Without && len(g.Labels) > 0:
		return &hints{required: required, keepError: keep}
	}
	return h
}

// required returns the names without repetition, and with a suffix of
// duplicates also without it.
func required(names []string) []string {
	var out []string
	add := func(n string) {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	for _, n := range names {
		add(n)
		if short, ok := strings.CutSuffix(n, extracted); ok {
			add(short)
		}
	}
	return out
}

// Grouping says which labels of samples are kept.
type Grouping struct {
	logql.Grouping
	none bool // no labels at all
}
