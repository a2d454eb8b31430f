// Package template executes the templates of line_format and label_format:
// Go's text/template with the functions that Loki documents.
//
// The names of functions and what they do are those of Loki and of the library
// sprig, of which Loki offers a part. Templates come from users and run for
// every line, so that they are bounded: in what they write, in the length of the
// texts that they make on the way, and in the rounds of their loops. Templates
// within templates (define, block, template) are not there.
package template

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"text/template"
	"text/template/parse"
	"time"
)

// maxOutput is how many bytes a template may write for one entry, and how long
// a text is that a function may make of less.
const maxOutput = 1 << 20

// maxRounds is how many rounds the loops of a template may take for one entry.
const maxRounds = 10_000

var (
	errTooLong = errors.New("the template makes a text of more than 1MiB")
	errRounds  = fmt.Errorf("the template takes more than %d rounds in loops", maxRounds)
	errNested  = errors.New("templates within templates are not supported")
)

// Template is a parsed template. It is used by one goroutine at a time.
type Template struct {
	t     *template.Template
	field string // of a template that is one field alone
	ts    int64
	line  []byte
	left  int // rounds
}

// New parses a template. The name is in the texts of errors.
func New(name, text string) (*Template, error) {
	t := &Template{}
	parsed, err := template.New(name).Option("missingkey=zero").Funcs(functions).Funcs(template.FuncMap{
		"__line__":      func() string { return string(t.line) },
		"__timestamp__": func() time.Time { return time.Unix(0, t.ts) },
		roundsOf:        t.rounds,
	}).Parse(text)
	if err != nil {
		return nil, err
	}
	if len(parsed.Templates()) > 1 || !guard(parsed.Root) {
		return nil, errNested
	}
	t.t = parsed
	if nodes := parsed.Root.Nodes; len(nodes) == 1 {
		if a, ok := nodes[0].(*parse.ActionNode); ok && len(a.Pipe.Cmds) == 1 && len(a.Pipe.Cmds[0].Args) == 1 {
			if f, ok := a.Pipe.Cmds[0].Args[0].(*parse.FieldNode); ok && len(f.Ident) == 1 {
				t.field = f.Ident[0]
			}
		}
	}
	return t, nil
}

// roundsOf is the function that counts the rounds of a loop in advance. It has
// a name that no template can use.
const roundsOf = "\u02d1"

// rounds passes on what is looped over.
func (t *Template) rounds(v reflect.Value) (reflect.Value, error) {
	r := v
	for r.IsValid() && (r.Kind() == reflect.Interface || r.Kind() == reflect.Pointer) {
		r = r.Elem()
	}
	n := int64(1)
	switch {
	case !r.IsValid():
	case r.CanInt():
		n = r.Int()
	case r.CanUint():
		n = int64(min(r.Uint(), math.MaxInt64))
	default:
		switch r.Kind() {
		case reflect.Slice, reflect.Array, reflect.Map, reflect.String:
			n = int64(r.Len())
		}
	}
	if n > int64(t.left) {
		return v, errRounds
	}
	t.left -= int(max(n, 0))
	return v, nil
}

// guard lets loops count their rounds; false if there are templates within.
func guard(n parse.Node) bool {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, c := range n.Nodes {
				if !guard(c) {
					return false
				}
			}
		}
	case *parse.IfNode:
		return guard(n.List) && guard(n.ElseList)
	case *parse.WithNode:
		return guard(n.List) && guard(n.ElseList)
	case *parse.RangeNode:
		f := parse.NewIdentifier(roundsOf).SetPos(n.Pipe.Pos)
		n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pipe.Pos, Args: []parse.Node{f}})
		return guard(n.List) && guard(n.ElseList)
	case *parse.TemplateNode:
		return false
	}
	return true
}

// Field returns the field that the template is, if it is one alone.
func (t *Template) Field() (name string, ok bool) { return t.field, t.field != "" }

// Execute appends the output for an entry to dst. In an error dst is not used.
func (t *Template) Execute(dst []byte, ts int64, line []byte, labels map[string]string) ([]byte, error) {
	t.ts, t.line, t.left = ts, line, maxRounds
	w := &limited{buf: *bytes.NewBuffer(dst), left: maxOutput}
	err := t.t.Execute(w, labels)
	return w.buf.Bytes(), err
}

type limited struct {
	buf  bytes.Buffer
	left int
}

func (w *limited) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errTooLong
	}
	return w.buf.Write(b)
}

// Fields returns the names of the fields that the template looks at.
func (t *Template) Fields() []string { return fields(nil, t.t.Root) }

func fields(dst []string, n parse.Node) []string {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, c := range n.Nodes {
				dst = fields(dst, c)
			}
		}
	case *parse.PipeNode:
		if n != nil {
			for _, c := range n.Cmds {
				dst = fields(dst, c)
			}
		}
	case *parse.CommandNode:
		for _, a := range n.Args {
			dst = fields(dst, a)
		}
	case *parse.ActionNode:
		dst = fields(dst, n.Pipe)
	case *parse.IfNode:
		dst = branch(dst, &n.BranchNode)
	case *parse.WithNode:
		dst = branch(dst, &n.BranchNode)
	case *parse.RangeNode:
		dst = branch(dst, &n.BranchNode)
	case *parse.FieldNode:
		dst = append(dst, n.Ident...)
	}
	return dst
}

func branch(dst []string, b *parse.BranchNode) []string {
	return fields(fields(fields(dst, b.Pipe), b.List), b.ElseList)
}
