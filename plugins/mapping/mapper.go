package mapping

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Config is what a user says about mapping.
type Config struct {
	LabelKeys  []string `yaml:"label-keys" help:"record fields that become labels, as paths (a,b.c)"`
	LineKeys   []string `yaml:"line-keys" help:"record fields that can be the line, as paths; the first that a record has is it"`
	LineFormat string   `yaml:"line-format" help:"auto (the line key, else JSON), json or logfmt (the whole record)"`
}

// DefaultConfig returns labels that are safe for a cluster of any size.
func DefaultConfig() Config {
	return Config{LineKeys: []string{"log", "message", "msg"}, LineFormat: "auto"}
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	switch c.LineFormat {
	case "", "auto", "json", "logfmt":
	default:
		errs = append(errs, fmt.Errorf("line-format: %q is not auto, json or logfmt", c.LineFormat))
	}
	errs = append(errs, checkKeys("label-keys", c.LabelKeys)...)
	return append(errs, checkKeys("line-keys", c.LineKeys)...)
}

func checkKeys(name string, keys []string) []error {
	var errs []error
	for i, k := range keys {
		switch {
		case k == "":
			errs = append(errs, fmt.Errorf("%s: empty path", name))
		case len(k) > maxPath:
			errs = append(errs, fmt.Errorf("%s: path %.40q... is longer than %d bytes", name, k, maxPath))
		case slices.Contains(keys[:i], k):
			errs = append(errs, fmt.Errorf("%s: %q is there twice", name, k))
		}
	}
	return errs
}

// Limits are those of structured metadata for one entry; 0 is Loki's default.
// A record that has more becomes one JSON line, and so does one with a path of
// more than 1024 bytes, or with more than 256 maps and 4 x Pairs fields.
type Limits struct {
	Pairs int // default 128
	Bytes int // of names and values; default 64 KiB
}

// maxPath is the longest path of a field that becomes metadata. A record with
// a longer one becomes one JSON line: names are kept, and this bounds how much.
const maxPath = 1024

// Mapper says how records become entries. It does not change and may be shared.
type Mapper struct {
	format lineFormat
	limits Limits
	slots  []slot // in order of label names
	lines  []line // best first
	roles  map[string][]int
	nroles int
	prefix map[string]struct{} // paths that have a path in roles below them
	states sync.Pool
}

type lineFormat uint8

const (
	formatAuto lineFormat = iota
	formatJSON
	formatLogfmt
)

// line is a line key.
type line struct {
	path string
	role int
}

func (m *Mapper) isLineKey(path string) bool {
	return slices.ContainsFunc(m.lines, func(l line) bool { return l.path == path })
}

// slot is one label and the fields that it can come from.
type slot struct {
	name  string
	roles []int // best first
	job   bool  // the receiver's name, if no field has it
	trim  int   // the role whose values Docker starts with a slash, or -1
}

// source is a label and where it comes from.
type source struct {
	label string
	paths []string
}

// builtin lists the labels that every record can have, and the fields that
// they come from: as Fluent Bit and Fluentd name them, then as Beats and
// Vector do.
var builtin = []source{
	{"job", nil},
	{"service_name", []string{
		"service_name", "service.name", "service",
		"kubernetes.labels.app.kubernetes.io/name", "kubernetes.labels.app_kubernetes_io/name",
		"kubernetes.labels.app", "kubernetes.pod_labels.app",
		"kubernetes.container_name", "kubernetes.container.name", "container_name",
	}},
	{"namespace", []string{"kubernetes.namespace_name", "kubernetes.namespace", "kubernetes.pod_namespace"}},
	{"container", []string{"kubernetes.container_name", "kubernetes.container.name"}},
	{"app", []string{
		"kubernetes.labels.app", "kubernetes.labels.app.kubernetes.io/name",
		"kubernetes.labels.app_kubernetes_io/name", "kubernetes.pod_labels.app",
	}},
}

// New returns a Mapper for c, which must be valid.
//
// The label service_name is the first of these fields that is there and not
// empty: service_name, service.name, service, the Kubernetes labels
// app.kubernetes.io/name and app, kubernetes.container_name, container_name
// (without the leading slash that Docker has). Without any it is left out; the
// distributor then finds one. namespace, container and app come from
// kubernetes.namespace_name, kubernetes.container_name, and the Kubernetes
// labels app or app.kubernetes.io/name.
//
// A label key is named by AppendLabelName of its path. If that is the name of
// one of the labels above, its field comes first for that label; if it is that
// of a label key before it, the name gets the suffix _2, and so on.
func New(c Config, l Limits) (*Mapper, error) {
	if errs := c.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("mapping: %w", errs[0])
	}
	if l.Pairs <= 0 {
		l.Pairs = 128
	}
	if l.Bytes <= 0 {
		l.Bytes = 64 << 10
	}
	m := &Mapper{limits: l, roles: map[string][]int{}, prefix: map[string]struct{}{}}
	switch c.LineFormat {
	case "json":
		m.format = formatJSON
	case "logfmt":
		m.format = formatLogfmt
	}
	for _, k := range c.LineKeys {
		m.lines = append(m.lines, line{k, m.role(k)})
	}
	m.addSlots(c.LabelKeys)
	m.states.New = func() any { return m.newState() }
	return m, nil
}

func (m *Mapper) addSlots(keys []string) {
	first := map[string][]int{} // label keys that are named like a built-in label
	taken := map[string]bool{}
	isBuiltin := func(name string) bool {
		return slices.ContainsFunc(builtin, func(b source) bool { return b.label == name })
	}
	for _, k := range keys {
		base := string(AppendLabelName(nil, []byte(k)))
		if isBuiltin(base) {
			first[base] = append(first[base], m.role(k))
			continue
		}
		name := base
		for i := 2; taken[name] || isBuiltin(name); i++ {
			name = fmt.Sprintf("%s_%d", base, i)
		}
		taken[name] = true
		m.slots = append(m.slots, slot{name: name, roles: []int{m.role(k)}, trim: -1})
	}
	for _, b := range builtin {
		s := slot{name: b.label, roles: first[b.label], job: b.label == "job", trim: -1}
		for _, p := range b.paths {
			r := m.role(p)
			s.roles = append(s.roles, r)
			if p == "container_name" {
				s.trim = r
			}
		}
		m.slots = append(m.slots, s)
	}
	slices.SortFunc(m.slots, func(a, b slot) int { return strings.Compare(a.name, b.name) })
}

// role gives the field at path a new number, under which a walk over a record
// notes where it is.
func (m *Mapper) role(path string) int {
	n := m.nroles
	m.nroles++
	m.roles[path] = append(m.roles[path], n)
	for i := range path {
		if path[i] == '.' {
			m.prefix[path[:i]] = struct{}{}
		}
	}
	return n
}

// Acquire returns a State; Release gives it back. A goroutine that lives long
// may keep one.
func (m *Mapper) Acquire() *State   { return m.states.Get().(*State) }
func (m *Mapper) Release(st *State) { m.states.Put(st) }
