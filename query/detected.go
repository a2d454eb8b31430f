package query

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/query/pipeline"
)

// DetectedLabel is a label with the number of its values.
type DetectedLabel struct {
	Name   string
	Values int
}

// DetectedLabels returns the labels of streams that tell something: not those
// whose values are all numbers or UUIDs, unless they are known to be of use.
func DetectedLabels(sets []labels.Labels) []DetectedLabel {
	values := map[string]map[string]struct{}{}
	for _, ls := range sets {
		for _, l := range ls {
			if values[l.Name] == nil {
				values[l.Name] = map[string]struct{}{}
			}
			values[l.Name][l.Value] = struct{}{}
		}
	}
	var out []DetectedLabel
	for name, vs := range values {
		switch name {
		case "cluster", "namespace", "instance", "pod":
		default:
			if onlyIDs(vs) {
				continue
			}
		}
		out = append(out, DetectedLabel{name, len(vs)})
	}
	slices.SortFunc(out, func(a, b DetectedLabel) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func onlyIDs(values map[string]struct{}) bool {
	switches := len(values) <= 2
	for v := range values {
		if v != "0" && v != "1" {
			switches = false
		}
		if _, err := strconv.ParseFloat(v, 64); err != nil && !uuid(v) {
			return false
		}
	}
	return !switches
}

// uuid reports whether s is a UUID in one of its usual notations.
func uuid(s string) bool {
	s = strings.TrimPrefix(s, "urn:uuid:")
	if len(s) == 38 && s[0] == '{' {
		s = s[1:37]
	}
	if len(s) == 36 {
		if s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
			return false
		}
		s = s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	}
	return len(s) == 32 && strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}

// DetectedField is a field of lines or of their metadata.
type DetectedField struct {
	Name    string
	Type    string // int, float, boolean, duration, bytes or string
	Parsers []string
	Path    []string // of a field of JSON, as its keys
	Values  map[string]struct{}
}

// fieldType tells what a value is.
func fieldType(v string) string {
	if _, err := strconv.ParseInt(v, 10, 64); err == nil {
		return "int"
	}
	if _, err := strconv.ParseFloat(v, 64); err == nil {
		return "float"
	}
	if _, err := strconv.ParseBool(v); err == nil {
		return "boolean"
	}
	if _, err := time.ParseDuration(v); err == nil {
		return "duration"
	}
	if _, err := logql.ParseBytes(v); err == nil {
		return "bytes"
	}
	return "string"
}

// DetectedFields looks at the entries of a log query for fields, at most limit
// of them, ordered by name.
func DetectedFields(r *Result, limit int) []*DetectedField {
	fields := map[string]*DetectedField{}
	visitFields(r, func(name, value, parser string, path []string) bool {
		f := fields[name]
		if f == nil {
			if len(fields) >= limit {
				return true
			}
			f = &DetectedField{Name: name, Values: map[string]struct{}{}}
			fields[name] = f
		}
		if parser != "" && !slices.Contains(f.Parsers, parser) {
			f.Parsers = append(f.Parsers, parser)
		}
		if parser == "json" {
			f.Path = path
		}
		f.Type = fieldType(value)
		f.Values[value] = struct{}{}
		return true
	})
	out := make([]*DetectedField, 0, len(fields))
	for _, f := range fields {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b *DetectedField) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// DetectedValues returns values of a field, about limit at most. Numbers of
// bytes of lines are written as a query can have them.
func DetectedValues(r *Result, field string, limit int) []string {
	values := map[string]struct{}{}
	visitFields(r, func(name, value, parser string, _ []string) bool {
		if name != field {
			return true
		}
		if n, err := logql.ParseBytes(value); err == nil && parser != metaParser && unitAtEnd(value) {
			value = logql.FormatBytes(n)
		}
		values[value] = struct{}{}
		return len(values) < limit
	})
	return sorted(values)
}

func unitAtEnd(v string) bool {
	last := strings.ToLower(v[len(v)-1:])
	return strings.Contains("bikmgtpe", last) && last != "i" || strings.HasSuffix(strings.ToLower(v), "i") && len(v) > 1
}

// metaParser stands for metadata in the place of a parser.
const metaParser = ""

// visitFields calls f for the fields of the entries until it returns false: for
// metadata, for what the stages of the query made, and for what JSON or else
// logfmt finds in the line.
func visitFields(r *Result, f func(name, value, parser string, path []string) bool) {
	d := pipeline.NewDetector()
	for _, s := range group(r, true) {
		d.For(s.labels)
		for _, i := range s.entries {
			e := &r.Entries[i]
			l := &r.Labels[e.Labels]
			for _, m := range l.Meta {
				if !f(m.Name, m.Value, metaParser, nil) {
					return
				}
			}
			found, parser, paths := d.Parse(e.Line)
			for _, p := range l.Parsed {
				switch p.Name {
				case pipeline.ErrorLabel, pipeline.ErrorDetailsLabel:
					continue
				}
				if !f(p.Name, p.Value, parser, paths[p.Name]) {
					return
				}
			}
			for _, p := range found {
				if !f(p.Name, p.Value, parser, paths[p.Name]) {
					return
				}
			}
		}
	}
}

// sample returns the newest entries of a log query, in which fields are looked
// for.
func (e *Engine) sample(ctx context.Context, tenant string, q *logql.LogQuery, from, through int64, lines int) (*Result, error) {
	return e.Run(ctx, Request{Tenant: tenant, Query: q, From: from, Through: min(through, math.MaxInt64-1), Limit: lines, Direction: Backward})
}
