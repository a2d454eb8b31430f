package elasticsearch

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// op is what an action does.
type op uint8

const (
	opIndex op = iota + 1
	opCreate
	opUpdate
	opDelete
)

func (o op) String() string { return [...]string{"", "index", "create", "update", "delete"}[o] }

func opByName(s []byte) op {
	switch string(s) {
	case "index":
		return opIndex
	case "create":
		return opCreate
	case "update":
		return opUpdate
	case "delete":
		return opDelete
	}
	return 0
}

// span is a range of work.names.
type span struct{ from, to uint32 }

func (s span) empty() bool { return s.from == s.to }

// action is an action line.
type action struct {
	op       op
	index    span
	id       span
	pipeline span
}

// maxAction is the longest action line. Names in it go into every answer.
const maxAction = 64 << 10

// actions reads action lines. A line that is like the one before it, as most
// are, is not read again.
type actions struct {
	stream mapping.Stream
	rec    mapping.Record
	line   []byte // of last, in the body
	last   action
}

func (a *actions) reset() { a.line, a.last = nil, action{} }

// parse reads line. Names are appended to names, which holds those of before;
// base has what the line leaves out.
func (a *actions) parse(line []byte, base *action, names *[]byte) (action, error) {
	if a.line != nil && bytes.Equal(a.line, line) {
		return a.last, nil
	}
	node, op, err := a.read(line)
	if err != nil {
		return action{}, err
	}
	act := *base
	act.op, act.id = op, span{}
	for j, end := node+1, int(a.rec.Nodes[node].End); j < end; j = a.rec.Next(j) {
		var to *span
		switch string(a.rec.Nodes[j].Key) {
		case "_index":
			to = &act.index
		case "_id":
			to = &act.id
		case "pipeline":
			to = &act.pipeline
		}
		if k := a.rec.Nodes[j].Kind; to == nil || k == mapping.Null || k >= mapping.Array {
			continue
		}
		from := len(*names)
		*names = mapping.AppendText(*names, &a.rec, j)
		// One index after the other is the rule.
		if old := a.last.index; to == &act.index && bytes.Equal((*names)[from:], (*names)[old.from:old.to]) {
			*names, *to = (*names)[:from], old
			continue
		}
		*to = span{uint32(from), uint32(len(*names))}
	}
	a.line, a.last = line, act
	return act, nil
}

// read returns the node with the parameters of the action, in a.rec.
func (a *actions) read(line []byte) (node int, o op, err error) {
	if len(line) > maxAction {
		return 0, 0, fmt.Errorf("action of %d bytes, limit %d", len(line), maxAction)
	}
	if len(line) == 0 || line[0] != '{' {
		return 0, 0, errors.New("not an object in one line")
	}
	a.stream.Reset(line, false)
	if err := a.stream.Next(&a.rec); err != nil {
		return 0, 0, err
	}
	if !blank(line[a.stream.Offset():]) {
		return 0, 0, errors.New("more than an object in one line")
	}
	if len(a.rec.Nodes) < 2 || a.rec.Next(1) != len(a.rec.Nodes) {
		return 0, 0, errors.New("not an object with one field, the action")
	}
	n := &a.rec.Nodes[1]
	if o = opByName(n.Key); o == 0 {
		return 0, 0, fmt.Errorf("unknown action %q, want create, index, update or delete", clip(string(n.Key), 40))
	}
	if n.Kind != mapping.Map {
		return 0, 0, fmt.Errorf("the parameters of %s are not an object", o)
	}
	return 1, o, nil
}

// lines cuts a body into lines.
type lines struct {
	src []byte
	at  int
	n   int // number of the line that next has returned
}

// next returns a line without its end.
func (l *lines) next() (line []byte, ok bool) {
	if l.at >= len(l.src) {
		return nil, false
	}
	l.n++
	line = l.src[l.at:]
	if n := bytes.IndexByte(line, '\n'); n >= 0 {
		line = line[:n]
		l.at += n + 1
	} else {
		l.at = len(l.src)
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, true
}

func blank(s []byte) bool { return skipSpace(s) == len(s) }

// skipSpace returns the index of the first byte that is not white space.
func skipSpace(s []byte) int {
	for i, c := range s {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return i
		}
	}
	return len(s)
}
