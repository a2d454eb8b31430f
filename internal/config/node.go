package config

import "go.yaml.in/yaml/v3"

// LoadNode is LoadYAML for a mapping within a file that the caller has parsed.
func (b *Binding) LoadNode(file string, n *yaml.Node, getenv Getenv) []error {
	l := loader{b: b, file: file, getenv: getenv}
	l.section(n, "")
	return l.errs
}
