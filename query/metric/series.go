package metric

import (
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
)

// Series is a set of labels. Within an evaluation there is one of each set, so
// that series are the same if their pointers are.
type Series struct {
	Labels labels.Labels
	key    string
}

// registry knows all series of an evaluation.
type registry struct {
	byKey  map[string]*Series
	budget *budget
	buf    []byte
}

// seriesBytes is what a series costs besides its labels, about.
const seriesBytes = 200

func (r *registry) get(ls labels.Labels) (*Series, error) {
	r.buf = ls.AppendString(r.buf[:0])
	if s, ok := r.byKey[string(r.buf)]; ok {
		return s, nil
	}
	s := &Series{Labels: ls, key: string(r.buf)}
	r.byKey[s.key] = s
	return s, r.budget.take(3*len(s.key) + seriesBytes)
}

// compareLabels orders sets of labels by their first difference.
func compareLabels(a, b labels.Labels) int {
	for i := range min(len(a), len(b)) {
		if c := strings.Compare(a[i].Name, b[i].Name); c != 0 {
			return c
		}
		if c := strings.Compare(a[i].Value, b[i].Value); c != 0 {
			return c
		}
	}
	return len(a) - len(b)
}

// withValue returns the labels that have a value. Parsers make labels without
// one, which Loki keeps until an operation takes labels apart.
func withValue(ls labels.Labels) labels.Labels {
	for i, l := range ls {
		if l.Value == "" {
			out := append(labels.Labels(nil), ls[:i]...)
			for _, l := range ls[i:] {
				if l.Value != "" {
					out = append(out, l)
				}
			}
			return out
		}
	}
	return ls
}

// set returns ls with a label of a value; without it if that is empty.
func set(ls labels.Labels, name, value string) labels.Labels {
	out := make(labels.Labels, 0, len(ls)+1)
	for _, l := range ls {
		if l.Name != name {
			out = append(out, l)
		}
	}
	if value != "" {
		out = append(out, labels.Label{Name: name, Value: value})
		out.Sort()
	}
	return out
}

// only returns the labels that are, or are not, named.
func only(ls labels.Labels, names []string, named bool) labels.Labels {
	var out labels.Labels
	for _, l := range ls {
		if contains(names, l.Name) == named {
			out = append(out, l)
		}
	}
	return out
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}
