package config

import (
	"fmt"
	"strings"
)

// Arg is one flag of a command line.
type Arg struct {
	Setting *Setting
	Text    string
}

// ParseArgs resolves a command line against the settings of bs: -name=value,
// -name value, and -name alone for booleans, with one dash or two. It changes
// no setting; see Apply. Where a flag is repeated the last one counts.
func ParseArgs(args []string, bs ...*Binding) ([]Arg, []error) {
	var out []Arg
	var errs []error
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			errs = append(errs, fmt.Errorf("unexpected argument %q: settings are given as -name=value", a))
			continue
		}
		name, text, hasText := strings.Cut(strings.TrimPrefix(a[1:], "-"), "=")
		s := find(name, bs)
		if s == nil {
			errs = append(errs, fmt.Errorf("unknown flag -%s%s", name, hint(name, bs...)))
			continue
		}
		if !hasText {
			switch {
			case s.isBool():
				text = "true"
			case i+1 < len(args):
				i++
				text = args[i]
			default:
				errs = append(errs, fmt.Errorf("flag -%s needs a value", name))
				continue
			}
		}
		out = append(out, Arg{s, text})
	}
	return out, errs
}

func find(name string, bs []*Binding) *Setting {
	for _, b := range bs {
		if s := b.byName[name]; s != nil {
			return s
		}
	}
	return nil
}

// Apply sets what args say.
func Apply(args []Arg, getenv Getenv) []error {
	var errs []error
	for _, a := range args {
		text, err := Expand(a.Text, getenv)
		if err == nil {
			err = a.Setting.set(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("flag -%s: %w", a.Setting.Name, err))
		}
	}
	return errs
}

// hint names the known setting that is most like name, if one is close.
func hint(name string, bs ...*Binding) string {
	best, dist := "", len(name)/3+2
	for _, b := range bs {
		for _, s := range b.settings {
			if d := distance(name, s.Name, dist); d < dist {
				best, dist = s.Name, d
			}
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %s?", best)
}

// distance is the number of edits that turn a into b, or limit if that is less.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, diag+1, row[j]+1)
		}
	}
	return min(row[len(b)], limit)
}
