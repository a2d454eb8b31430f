package pipeline

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
)

// Extractor takes samples from entries. Like a Pipeline, it serves one query
// and one goroutine.
type Extractor struct {
	Pipeline
	group   Grouping
	bytes   bool
	unwrap  *logql.Unwrap
	convert func(string) (float64, error)
	filter  []cond
	by      []string // labels to group by, sorted, if each can be looked up by itself
	levels  bool     // samples show the levels of entries, and the stream has none
}

// NewExtractor compiles the log range of an aggregation. Outer is the grouping
// of a sum around it, which then happens here; nil if there is none.
func NewExtractor(e *logql.RangeAggregation, outer *logql.Grouping) (*Extractor, error) {
	p, err := compile(withoutFormats(e))
	if err != nil {
		return nil, err
	}
	x := &Extractor{Pipeline: *p, unwrap: e.Range.Unwrap}
	given := e.Grouping
	if outer != nil {
		given = outer
	}
	if given != nil {
		x.group = Grouping{Grouping: *given, none: !given.Without && len(given.Labels) == 0}
	}
	if e.Op == "absent_over_time" {
		x.group.none = true
	}
	x.bytes = e.Op == "bytes_over_time" || e.Op == "bytes_rate"
	var use []string
	for _, st := range x.stages {
		if u, ok := st.(user); ok {
			use = append(use, u.uses()...)
		}
	}
	hinting, sample := x.stages, ""
	if u := x.unwrap; u != nil {
		sample = u.Label
		x.convert = converters[u.Convert]
		for _, f := range u.Filters {
			c, err := newCond(f)
			if err != nil {
				return nil, stageError(&logql.LabelFilter{Cond: f}, err)
			}
			x.filter = append(x.filter, c)
			use = f.Names(use)
		}
		if len(u.Filters) == 1 {
			hinting = append(slices.Clone(hinting), &condStage{x.filter[0], u.Filters[0].Names(nil)})
		}
		// The unwrapped label is not one of the sample's.
		if x.group.Without || len(x.group.Labels) == 0 {
			x.group.Without = true
			x.group.Labels = append(slices.Clone(x.group.Labels), u.Label)
		}
	}
	x.by = groupedBy(&x.group)
	x.state.hints = newHints(hinting, use, &x.group, sample)
	return x, nil
}

// groupedBy returns the labels that are kept, nil unless they are all ordinary
// ones: errors and their details are not kept with the others.
func groupedBy(g *Grouping) []string {
	if g.none || g.Without || slices.ContainsFunc(g.Labels, func(n string) bool { return strings.HasPrefix(n, "__") }) {
		return nil
	}
	by := slices.Clone(g.Labels)
	slices.Sort(by)
	return slices.Compact(by)
}

// withoutFormats leaves line_format out where nothing behind it reads the line.
func withoutFormats(e *logql.RangeAggregation) []logql.Stage {
	stages := e.Range.Query.Stages
	if e.Op == "bytes_over_time" || e.Op == "bytes_rate" {
		return stages
	}
	var out []logql.Stage
	for i, st := range stages {
		if _, ok := st.(*logql.LineFormat); ok && !slices.ContainsFunc(stages[i:], readsLine) {
			continue
		}
		out = append(out, st)
	}
	return out
}

func readsLine(st logql.Stage) bool {
	switch st.(type) {
	case *logql.LineFilters, *logql.JSON, *logql.Logfmt, *logql.Regexp, *logql.Pattern, *logql.Unpack:
		return true
	}
	return false
}

var converters = map[logql.Conversion]func(string) (float64, error){
	logql.ConvertNumber:   func(s string) (float64, error) { return strconv.ParseFloat(s, 64) },
	logql.ConvertBytes:    convertBytes,
	logql.ConvertDuration: convertDuration,
	logql.ConvertSeconds:  convertDuration,
}

func convertBytes(s string) (float64, error) {
	n, err := logql.ParseBytes(s)
	return float64(n), err
}

func convertDuration(s string) (float64, error) {
	d, err := time.ParseDuration(s)
	return d.Seconds(), err
}

// For sets the stream of the entries to come.
func (x *Extractor) For(stream labels.Labels) {
	x.Pipeline.For(stream)
	l := &x.state.levels
	x.levels = l.detector != nil && l.ofStream == nil && x.shows(l.name)
}

// shows reports whether the samples have a label, if their entries have it.
func (x *Extractor) shows(name string) bool {
	g := &x.group
	return !g.none && (len(g.Labels) == 0 || slices.Contains(g.Labels, name) != g.Without)
}

// Plain reports whether the sample of an entry without metadata depends on its
// line filters and its stream only.
func (x *Extractor) Plain() bool { return x.Simple() && x.unwrap == nil && !x.levels }

// NoLabels reports whether samples have no labels, unless they fail.
func (x *Extractor) NoLabels() bool { return x.group.none }

// Sample runs the stages and returns the sample of the entry, if it has one.
func (x *Extractor) Sample(ts int64, line []byte) (v float64, ok bool) {
	if !x.Match(ts, line) {
		return 0, false
	}
	if x.unwrap == nil {
		if x.bytes {
			return float64(len(x.line)), true
		}
		return 1, true
	}
	s := &x.state
	text, _ := s.get(x.unwrap.Label)
	if len(text) == 0 {
		return 0, false // lines need not have the label
	}
	v, err := x.convert(string(text))
	if err != nil {
		v = 0
		s.err, s.details = errSample, err.Error()
	}
	for _, f := range x.filter {
		if !f.match(s) {
			return 0, false
		}
	}
	return v, true
}

// Labels returns the labels of the last sample, sorted by name. They are valid
// until the next entry. Failed is the error that the entry has, "" if none or
// if the query asks for errors.
func (x *Extractor) Labels() (ls []Label, failed string) {
	s := &x.state
	switch {
	case s.err != "":
		ls = s.all()
		if find(ls, preserveError) < 0 {
			failed = s.err
		}
	case x.group.none:
		return nil, ""
	case len(x.by) > 0:
		ls = s.temp[:0]
		for _, n := range x.by {
			if v, ok := s.get(n); ok {
				ls = append(ls, Label{n, v})
			}
		}
		s.temp = ls
		return ls, ""
	case s.levels.pending && !x.shows(s.levels.name):
		s.levels.pending = false // without looking for it
		return x.Labels()
	case !s.changed():
		ls = x.grouped(s.base)
	case len(x.group.Labels) == 0:
		ls = x.withoutDetails(s.all())
	default:
		ls = x.grouped(x.withoutDetails(s.all()))
	}
	sortLabels(ls)
	return ls, failed
}

// withoutDetails removes details that have lost their error, which grouping
// does not see.
func (x *Extractor) withoutDetails(ls []Label) []Label {
	if x.state.details == "" || len(x.group.Labels) == 0 {
		return ls
	}
	return remove(ls, ErrorDetailsLabel)
}

// grouped keeps the labels that the grouping keeps.
func (x *Extractor) grouped(ls []Label) []Label {
	out := x.state.temp[:0]
	if len(x.group.Labels) == 0 {
		out = append(out, ls...)
	} else {
		for _, l := range ls {
			if slices.Contains(x.group.Labels, l.Name) != x.group.Without {
				out = append(out, l)
			}
		}
	}
	x.state.temp = out
	return out
}

// Own makes labels that outlive the entry.
func Own(ls []Label) labels.Labels { return own(ls) }
