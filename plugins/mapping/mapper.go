package mapping

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Limits are those of one entry; 0 is Loki's default. A record that has more
// structured metadata becomes one JSON line, and so does one with a path of
// more than 1024 bytes, or with more than 256 maps and 4 x Pairs fields.
type Limits struct {
	Pairs  int // of metadata; default 128
	Bytes  int // of their names and values; default 64 KiB
	Labels int // up to which AutoKubernetesLabels adds some; default 15
}

// maxPath is the longest path of a field that becomes metadata. A record with
// a longer one becomes one JSON line: names are kept, and this bounds how much.
const maxPath = 1024

// Mapper says how records become entries. It does not change and may be shared.
type Mapper struct {
	format   lineFormat
	single   singleKey
	metadata metadataMode
	strip    bool // a whole record is a line without what is elsewhere
	auto     bool // fields below autoPrefix become labels
	collect  bool // every field matters, not only those with roles
	leftover bool // fields that are not listed can be metadata, or forbid a line
	renames  bool // listed gives fields of the record other names
	limits   Limits
	slots    []slot // in order of label names
	lines    []line // best first
	listed   []listed
	tags     []keyed          // metadata that the tag becomes
	tenants  []source         // best first
	rules    map[string]*rule // by path
	nroles   int
	removes  bool // some rule does
	states   sync.Pool
}

// rule is what the settings say of a path.
type rule struct {
	roles  []int
	remove bool // the field is left out
	deeper bool // a path below it has a rule, too
}

// autoPrefix starts the paths of a pod's labels.
const autoPrefix = "kubernetes.labels."

// line is a line key.
type line struct {
	path string
	role int
}

func (m *Mapper) isLineKey(path string) bool {
	return slices.ContainsFunc(m.lines, func(l line) bool { return l.path == path })
}

// listed is a field that is metadata by name. If it is a map, all below it are:
// by their names in it if it is bare.
type listed struct {
	path, name string
	bare       bool
}

// slot is one label and where it can come from.
type slot struct {
	name   string
	from   []source // best first
	job    bool     // the receiver's name, if it comes from nowhere else
	static string   // the value of all records; then there is no from
}

func (m *Mapper) isSlot(name string) bool {
	return slices.ContainsFunc(m.slots, func(s slot) bool { return s.name == name })
}

// source is where a value can come from: the field that has the role, or the
// tag.
type source struct {
	role int  // if tag is nil
	trim bool // without the slash that Docker puts before names
	tag  *ref
}

// usual is a label and the fields that it comes from.
type usual struct {
	label string
	paths []string
}

// builtin lists the labels that every record can have, and the fields that
// they come from: as Fluent Bit and Fluentd name them, then as Beats and
// Vector do.
var builtin = []usual{
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
// A label key without a name of its own is named by AppendLabelName of its path.
// If that is the name of one of the labels above, its field comes first for that
// label; if another label has it, the name gets the suffix _2, and so on. Label
// keys that are given one name are alternatives: the first that a record has
// counts.
func New(c Config, l Limits) (*Mapper, error) {
	p, errs := c.parse()
	if len(errs) > 0 {
		return nil, fmt.Errorf("mapping: %w", errs[0])
	}
	if l.Pairs <= 0 {
		l.Pairs = 128
	}
	if l.Bytes <= 0 {
		l.Bytes = 64 << 10
	}
	if l.Labels <= 0 {
		l.Labels = 15
	}
	m := &Mapper{
		format: p.format, single: p.single, metadata: p.metadata, strip: c.StripLine, auto: c.AutoKubernetesLabels,
		limits: l, rules: map[string]*rule{},
	}
	for _, r := range p.lines {
		m.lines = append(m.lines, line{r.path, m.role(r.path)})
	}
	m.addSlots(p, c.DefaultLabels)
	m.addMetadata(p)
	for _, r := range p.removed {
		m.rule(r.path).remove = true
		m.removes = true
	}
	for _, r := range p.tenants {
		m.tenants = append(m.tenants, m.source(r))
	}
	if m.auto {
		m.deepen(autoPrefix)
	}
	m.collect = m.format <= formatRaw || m.auto || len(m.listed) > 0
	m.leftover = m.format == formatAuto || m.format == formatRaw && m.metadata == metadataAll
	m.states.New = func() any { return m.newState() }
	return m, nil
}

func (m *Mapper) addMetadata(p *parsed) {
	for _, k := range p.listed {
		if !k.tag {
			m.listed = append(m.listed, listed{path: k.path, name: k.name})
			continue
		}
		if k.name == "" {
			k.name = tagName(k.ref)
		}
		m.tags = append(m.tags, k)
	}
	for _, r := range p.mapKeys {
		m.listed = append(m.listed, listed{path: r.path, bare: true})
	}
	m.renames = len(m.listed) > 0
	whole := func(k keyed) bool { return !k.cut }
	if m.metadata == metadataAll && !slices.ContainsFunc(m.tags, whole) {
		m.tags = append(m.tags, keyed{"tag", ref{tag: true}})
	}
}

// tagName names a value that is made of the tag.
func tagName(r ref) string {
	if r.cut {
		return fmt.Sprintf("tag_%d", r.part)
	}
	return "tag"
}

func (m *Mapper) source(r ref) source {
	if r.tag {
		return source{tag: &r}
	}
	return source{role: m.role(r.path)}
}

func (m *Mapper) addSlots(p *parsed, defaults bool) {
	usuals := builtin
	if !defaults {
		usuals = builtin[:1]
	}
	byName := map[string]*slot{}
	get := func(name string) *slot {
		if byName[name] == nil {
			byName[name] = &slot{name: name}
		}
		return byName[name]
	}
	isUsual := func(name string) bool {
		_, fixed := p.static[name]
		return !fixed && slices.ContainsFunc(usuals, func(u usual) bool { return u.label == name })
	}
	given := func(name string) bool {
		_, fixed := p.static[name]
		return fixed || slices.ContainsFunc(p.labels, func(k keyed) bool { return k.name == name })
	}
	for _, k := range p.labels {
		name := k.name
		if name == "" {
			base := k.path
			if k.tag {
				base = tagName(k.ref)
			}
			base = string(AppendLabelName(nil, []byte(base)))
			name = base
			for i := 2; !isUsual(base) && (byName[name] != nil || given(name) || isUsual(name)); i++ {
				name = fmt.Sprintf("%s_%d", base, i)
			}
		}
		s := get(name)
		s.from = append(s.from, m.source(k.ref))
	}
	for _, u := range usuals {
		if !isUsual(u.label) {
			continue
		}
		s := get(u.label)
		s.job = u.label == "job"
		for _, path := range u.paths {
			s.from = append(s.from, source{role: m.role(path), trim: path == "container_name"})
		}
	}
	for name, value := range p.static {
		if value != "" {
			get(name).static = value
		}
	}
	for _, s := range byName {
		m.slots = append(m.slots, *s)
	}
	slices.SortFunc(m.slots, func(a, b slot) int { return strings.Compare(a.name, b.name) })
}

// role gives the field at path a new number, under which a walk over a record
// notes where it is.
func (m *Mapper) role(path string) int {
	n := m.nroles
	m.nroles++
	r := m.rule(path)
	r.roles = append(r.roles, n)
	return n
}

// rule returns the rule for path, adding it if there is none.
func (m *Mapper) rule(path string) *rule {
	m.deepen(path)
	return m.ruleAt(path)
}

func (m *Mapper) ruleAt(path string) *rule {
	if m.rules[path] == nil {
		m.rules[path] = new(rule)
	}
	return m.rules[path]
}

// deepen makes fields above path be looked into.
func (m *Mapper) deepen(path string) {
	for i := range path {
		if path[i] == '.' {
			m.ruleAt(path[:i]).deeper = true
		}
	}
}

// Acquire returns a State; Release gives it back. A goroutine that lives long
// may keep one.
func (m *Mapper) Acquire() *State   { return m.states.Get().(*State) }
func (m *Mapper) Release(st *State) { m.states.Put(st) }
