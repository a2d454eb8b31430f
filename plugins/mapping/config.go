package mapping

import (
	"fmt"
	"slices"
	"strings"
)

// Config is what a user says about mapping. The package comment says what the
// settings mean together, and how paths are written.
type Config struct {
	Labels       []string `yaml:"labels" help:"labels: name=value for all records (job= for none), or as in label-keys with $ before the path"`
	LabelKeys    []string `yaml:"label-keys" help:"record fields that become labels: a,b.c or $a['b'], named by the path, or name=$path"`
	LabelMapFile string   `yaml:"label-map-file" help:"JSON file, an object like a record with the names of labels in place of values"`
	// LabelMap is what LabelMapFile would hold; it goes before the file.
	LabelMap             []byte   `yaml:"-"`
	DefaultLabels        bool     `yaml:"default-labels" help:"labels service_name, namespace, container and app of the fields that usually have them"`
	AutoKubernetesLabels bool     `yaml:"auto-kubernetes-labels" help:"all of kubernetes.labels become labels, as far as the limit for labels allows"`
	RemoveKeys           []string `yaml:"remove-keys" help:"record fields that are left out of line and metadata, as paths"`
	LineKeys             []string `yaml:"line-keys" help:"record fields that can be the line, as paths; the first that a record has is it"`
	LineFormat           string   `yaml:"line-format" help:"auto (the line key, else JSON), raw (also where fields get lost), json or logfmt (the whole record)"`
	StripLine            bool     `yaml:"strip-line" help:"a line that is the whole record lacks what became label, metadata or time"`
	DropSingleKey        string   `yaml:"drop-single-key" help:"a line that would be a record of one field: off, on (its value as JSON), raw (its value as text)"`
	StructuredMetadata   string   `yaml:"structured-metadata" help:"fields that become metadata: all that are neither line nor label, listed or none"`
	MetadataKeys         []string `yaml:"metadata-keys" help:"record fields that are metadata also where others are not, as in label-keys"`
	MetadataMapKeys      []string `yaml:"metadata-map-keys" help:"record fields whose keys are metadata by their own names, as paths"`
	TenantKeys           []string `yaml:"tenant-keys" help:"record fields that name the tenant, as paths, $TAG or a part of it ($TAG[0]); the first that a record has is it"`
}

// DefaultConfig returns labels that are safe for a cluster of any size.
func DefaultConfig() Config {
	return Config{
		DefaultLabels: true, LineKeys: []string{"log", "message", "msg"}, LineFormat: "auto",
		DropSingleKey: "off", StructuredMetadata: "all",
	}
}

// Validate returns every problem of c. It reads LabelMapFile.
func (c Config) Validate() []error {
	_, errs := c.parse()
	return errs
}

// parsed is a Config in the form that New works with.
type parsed struct {
	format   lineFormat
	single   singleKey
	metadata metadataMode
	static   map[string]string
	labels   []keyed // best first, of those with one name
	lines    []ref
	removed  []ref
	listed   []keyed
	mapKeys  []ref
	tenants  []ref
}

func (c Config) parse() (*parsed, []error) {
	p := &parsed{static: map[string]string{}}
	var errs []error
	bad := func(setting string, err error) { errs = append(errs, fmt.Errorf("%s: %w", setting, err)) }
	var ok bool
	if p.format, ok = lineFormats[c.LineFormat]; !ok {
		bad("line-format", fmt.Errorf("%q is not auto, raw, json or logfmt", clip(c.LineFormat)))
	}
	if p.single, ok = singleKeys[strings.ToLower(c.DropSingleKey)]; !ok {
		bad("drop-single-key", fmt.Errorf("%q is not off, on or raw", clip(c.DropSingleKey)))
	}
	if p.metadata, ok = metadataModes[c.StructuredMetadata]; !ok {
		bad("structured-metadata", fmt.Errorf("%q is not all, listed or none", clip(c.StructuredMetadata)))
	}
	if p.metadata == metadataNone && len(c.MetadataKeys)+len(c.MetadataMapKeys) > 0 {
		bad("structured-metadata", fmt.Errorf("none, but there are metadata-keys or metadata-map-keys"))
	}
	p.addLabels(c.Labels, bad)
	p.labels = append(p.labels, keyedList("label-keys", c.LabelKeys, true, bad)...)
	fromMap, err := c.labelMap()
	if err != nil {
		bad("label-map-file", err)
	}
	p.labels = append(p.labels, fromMap...)
	for _, l := range p.labels {
		if _, twice := p.static[l.name]; twice && l.name != "" {
			bad("labels", fmt.Errorf("%s has a fixed value and comes from %s", l.name, l.ref))
		}
	}
	p.lines = fields("line-keys", c.LineKeys, bad)
	p.removed = fields("remove-keys", c.RemoveKeys, bad)
	p.listed = keyedList("metadata-keys", c.MetadataKeys, false, bad)
	p.mapKeys = fields("metadata-map-keys", c.MetadataMapKeys, bad)
	p.tenants = refs("tenant-keys", c.TenantKeys, bad)
	return p, errs
}

// addLabels reads what Labels has: name=value, $path, name=$path.
func (p *parsed) addLabels(list []string, bad func(string, error)) {
	var dynamic []string
	for _, l := range list {
		name, value, ok := strings.Cut(l, "=")
		if l != "" && l[0] == '$' || ok && strings.HasPrefix(value, "$") && !strings.HasPrefix(value, "$$") {
			dynamic = append(dynamic, l)
			continue
		}
		name = strings.TrimSpace(name)
		if !ok {
			bad("labels", fmt.Errorf("%q: want name=value, name=$path or $path", clip(l)))
			continue
		}
		if err := checkLabelName(name); err != nil {
			bad("labels", err)
			continue
		}
		if _, twice := p.static[name]; twice {
			bad("labels", fmt.Errorf("%s is there twice", name))
		}
		if strings.HasPrefix(value, "$$") {
			value = value[1:]
		}
		p.static[name] = value
	}
	p.labels = append(p.labels, keyedList("labels", dynamic, true, bad)...)
}

// StaticLabel returns the entry of Config.Labels that gives all records a label.
func StaticLabel(name, value string) string {
	if strings.HasPrefix(value, "$") {
		value = "$" + value
	}
	return name + "=" + value
}

func keyedList(setting string, list []string, labels bool, bad func(string, error)) []keyed {
	var out []keyed
	for _, text := range list {
		k, err := parseKeyed(text)
		if err == nil && labels && k.name != "" {
			err = checkLabelName(k.name)
		}
		switch {
		case err != nil:
			bad(setting, err)
		case slices.Contains(out, k):
			bad(setting, fmt.Errorf("%q is there twice", text))
		default:
			out = append(out, k)
		}
	}
	return out
}

func refs(setting string, list []string, bad func(string, error)) []ref {
	var out []ref
	for _, text := range list {
		r, err := parseRef(text)
		switch {
		case err != nil:
			bad(setting, err)
		case slices.Contains(out, r):
			bad(setting, fmt.Errorf("%q is there twice", text))
		default:
			out = append(out, r)
		}
	}
	return out
}

// fields is refs for settings where the tag has no meaning.
func fields(setting string, list []string, bad func(string, error)) []ref {
	out := refs(setting, list, bad)
	return slices.DeleteFunc(out, func(r ref) bool {
		if r.tag {
			bad(setting, fmt.Errorf("the tag is no field of the record"))
		}
		return r.tag
	})
}

type lineFormat uint8

const (
	formatAuto lineFormat = iota
	formatRaw
	formatJSON
	formatLogfmt
)

var lineFormats = map[string]lineFormat{
	"": formatAuto, "auto": formatAuto, "raw": formatRaw, "json": formatJSON,
	"logfmt": formatLogfmt, "key_value": formatLogfmt, // what other outputs call it
}

type singleKey uint8

const (
	singleOff singleKey = iota
	singleOn
	singleRaw
)

var singleKeys = map[string]singleKey{
	"": singleOff, "off": singleOff, "false": singleOff, "on": singleOn, "true": singleOn, "raw": singleRaw,
}

type metadataMode uint8

const (
	metadataAll metadataMode = iota
	metadataListed
	metadataNone
)

var metadataModes = map[string]metadataMode{
	"": metadataAll, "all": metadataAll, "listed": metadataListed, "none": metadataNone,
}
