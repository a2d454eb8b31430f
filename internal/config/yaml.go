package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// LoadYAML sets what data says; name is used in errors, which start with
// NAME:LINE. An unknown key, a key given twice, and a value of the wrong kind
// are errors. A key without a value leaves the default.
func (b *Binding) LoadYAML(name string, data []byte, getenv Getenv) []error {
	l := loader{b: b, file: name, getenv: getenv}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil // an empty file
	} else if err != nil {
		return []error{syntaxError(name, err)}
	}
	if err := dec.Decode(&second); err == nil {
		l.failf(&second, "a second document; the file must hold one")
	} else if !errors.Is(err, io.EOF) {
		return []error{syntaxError(name, err)}
	}
	l.section(doc.Content[0], "")
	return l.errs
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// syntaxError puts the line of the parser's message where ours is.
func syntaxError(file string, err error) error {
	msg := err.Error()
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		return fmt.Errorf("%s:%s: %s", file, m[1], msg[len(m[0]):])
	}
	return fmt.Errorf("%s: %s", file, strings.TrimPrefix(msg, "yaml: "))
}

type loader struct {
	b      *Binding
	file   string
	getenv Getenv
	errs   []error
}

func (l *loader) failf(n *yaml.Node, format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf("%s:%d: %s", l.file, n.Line, fmt.Sprintf(format, args...)))
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// section walks a mapping along the known sections, so that neither its depth
// nor aliases in it matter.
func (l *loader) section(n *yaml.Node, prefix string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		l.failf(n, "%s must be a mapping of settings", describe(prefix))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		name := prefix + key.Value
		if line, ok := seen[key.Value]; ok {
			l.failf(key, "%s is already given in line %d", name, line)
			continue
		}
		seen[key.Value] = key.Line
		switch s := l.b.byName[name]; {
		case s != nil:
			l.setting(s, val)
		case l.b.sections[name]:
			l.section(val, name+".")
		default:
			l.failf(key, "unknown setting %s%s", name, hint(name, l.b))
		}
	}
}

func describe(prefix string) string {
	if prefix == "" {
		return "the file"
	}
	return strings.TrimSuffix(prefix, ".")
}

func (l *loader) setting(s *Setting, n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case isNull(n):
		return
	case n.Kind == yaml.ScalarNode:
		text, err := Expand(n.Value, l.getenv)
		if err == nil {
			err = s.set(text)
		}
		if err != nil {
			l.failf(n, "%s: %v", s.Name, err)
		}
	case n.Kind == yaml.SequenceNode && s.isList():
		l.list(s, n)
	default:
		l.failf(n, "%s must be a single value", s.Name)
	}
}

func (l *loader) list(s *Setting, n *yaml.Node) {
	items := make([]string, 0, len(n.Content))
	for _, c := range n.Content {
		if c.Kind == yaml.AliasNode {
			c = c.Alias
		}
		if c.Kind != yaml.ScalarNode {
			l.failf(c, "%s must be a list of single values", s.Name)
			return
		}
		text, err := Expand(c.Value, l.getenv)
		if err != nil {
			l.failf(c, "%s: %v", s.Name, err)
			return
		}
		items = append(items, text)
	}
	s.setList(items)
}

// YAML returns the present values as a file that LoadYAML reads, with secrets
// masked. Settings that have no value are left out.
func (b *Binding) YAML() []byte {
	root := &yaml.Node{Kind: yaml.MappingNode}
	sections := map[string]*yaml.Node{"": root}
	for _, s := range b.settings {
		if s.missing() {
			continue
		}
		parent, key := "", s.Name
		if i := strings.LastIndexByte(s.Name, '.'); i >= 0 {
			parent, key = s.Name[:i], s.Name[i+1:]
		}
		n := section(sections, parent)
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, s.node())
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	// Scalars and mappings of our own making into memory: neither can fail.
	_ = enc.Encode(root)
	_ = enc.Close()
	return out.Bytes()
}

func section(known map[string]*yaml.Node, name string) *yaml.Node {
	if n := known[name]; n != nil {
		return n
	}
	parent, key := "", name
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		parent, key = name[:i], name[i+1:]
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	p := section(known, parent)
	p.Content = append(p.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, n)
	known[name] = n
	return n
}

func (s *Setting) node() *yaml.Node {
	if s.isList() && !s.Secret {
		n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, it := range s.list() {
			n.Content = append(n.Content, stringNode(it))
		}
		return n
	}
	if s.quoted() {
		return stringNode(s.Value())
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: s.Value()}
}

// quoted reports whether the value is text that YAML might take for another
// type.
func (s *Setting) quoted() bool {
	return isText(s.value) || s.kind() == reflect.String || s.isList() || s.Secret
}

func stringNode(text string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(strings.ReplaceAll(text, "${", "$${"))
	return n
}
