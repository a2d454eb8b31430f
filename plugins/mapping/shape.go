package mapping

import (
	"bytes"
	"encoding/binary"

	"github.com/loki-go/loki-go/proto/push"
)

// Records of one source mostly have the same fields in the same order, so that
// where their labels, metadata and line are is known from the record before. A
// shape is what a State remembers of that: records with the same keys, kinds and
// nesting, from the same receiver with the same tag, are mapped without a walk
// over their fields. A label whose value is empty falls back to other fields,
// and metadata has limits: such records are mapped as if nothing was known.
type shape struct {
	nodes   []outline
	keys    []byte // of nodes, one behind the other
	job     string
	lineKey string
	tag     []byte
	line    int32
	labels  []part // of the tuple, in its order
	pairs   []part // of the metadata, in its order
	texts   []byte // of parts that are no nodes
	encoded []byte // the metadata as it is in entries, once it is known, if no value changes
}

// outline is a node without its value.
type outline struct {
	kind Kind
	used bool
	end  int32
	key  int32 // length
}

// part is a value: that of a node, or a text that does not change.
type part struct {
	name []byte // of metadata
	node int32  // -1: a text
	trim bool
	text span
}

type span struct{ from, to int32 }

const (
	// maxShapes is how many shapes a State remembers.
	maxShapes = 4
	// maxOutline is how many nodes a record with a shape can have.
	maxOutline = 64
	// learnEvery is how many records of unknown shapes it takes until one is
	// remembered: where hardly two are alike, that would be for nothing.
	learnEvery = 8
)

// shapes are those that a State remembers.
type shapes struct {
	known  [maxShapes]shape
	last   int // that matched last
	oldest int
	misses uint
}

// find returns the shape of rec, or nil.
func (s *shapes) find(rec *Record, in *Input) *shape {
	if sh := &s.known[s.last]; sh.matches(rec, in) {
		return sh
	}
	for i := range s.known {
		if sh := &s.known[i]; i != s.last && sh.matches(rec, in) {
			s.last = i
			return sh
		}
	}
	return nil
}

func (sh *shape) matches(rec *Record, in *Input) bool {
	if len(sh.nodes) != len(rec.Nodes) || len(sh.nodes) == 0 {
		return false
	}
	keys := sh.keys
	for i := range rec.Nodes {
		n, o := &rec.Nodes[i], &sh.nodes[i]
		if n.Kind != o.kind || n.Used != o.used || len(n.Key) != int(o.key) || n.Kind >= Array && n.End != o.end {
			return false
		}
		if string(n.Key) != string(keys[:o.key]) {
			return false
		}
		keys = keys[o.key:]
	}
	return sh.job == in.Job && sh.lineKey == in.LineKey && bytes.Equal(sh.tag, in.Tag)
}

// learn remembers the shape of rec, which has been read, and whose line is a
// node. Nothing is remembered of what the shape does not decide alone.
func (st *State) learn(rec *Record, in *Input, line int) {
	s := &st.shapes
	if s.misses++; s.misses%learnEvery != 1 {
		return
	}
	m := st.m
	if m.auto || m.removes || len(m.tenants) > 0 || hasFields(in.Meta) || len(rec.Nodes) > maxOutline {
		return
	}
	if k := rec.Nodes[line].Kind; k != String && k != Bytes {
		return
	}
	sh := &s.known[s.oldest]
	sh.nodes, sh.keys = sh.nodes[:0], sh.keys[:0]
	sh.labels, sh.pairs, sh.texts, sh.encoded = sh.labels[:0], sh.pairs[:0], sh.texts[:0], sh.encoded[:0]
	if !sh.addLabels(st, rec, in) {
		return // without nodes it matches nothing
	}
	sh.addPairs(st, in, line)
	for i := range rec.Nodes {
		n := &rec.Nodes[i]
		sh.nodes = append(sh.nodes, outline{n.Kind, n.Used, n.End, int32(len(n.Key))})
		sh.keys = append(sh.keys, n.Key...)
	}
	sh.job, sh.lineKey, sh.tag, sh.line = in.Job, in.LineKey, append(sh.tag[:0], in.Tag...), int32(line)
	s.last, s.oldest = s.oldest, (s.oldest+1)%maxShapes
}

func (sh *shape) addText(name, text []byte) part {
	from := int32(len(sh.texts))
	sh.texts = append(sh.texts, text...)
	return part{name: name, node: -1, text: span{from, int32(len(sh.texts))}}
}

// addLabels notes where the values of the tuple come from. It returns false if
// that depends on values.
func (sh *shape) addLabels(st *State, rec *Record, in *Input) bool {
	for i := range st.m.slots {
		s := &st.m.slots[i]
		if s.static != "" {
			continue
		}
		p := sh.addText(nil, nil)
		if s.job {
			p = sh.addText(nil, []byte(in.Job))
		}
		for j := range s.from {
			src := &s.from[j]
			if src.tag != nil {
				if text := src.tag.tagText(in.Tag); len(text) > 0 {
					p = sh.addText(nil, text)
					break
				}
				continue
			}
			node := st.at[src.role]
			if node < 0 || rec.Nodes[node].Kind >= Array {
				continue
			}
			if src.emptyIn(rec, node) {
				return false
			}
			p = part{node: node, trim: src.trim}
			break
		}
		sh.labels = append(sh.labels, p)
	}
	return true
}

// emptyIn reports whether node has no text.
func (s *source) emptyIn(rec *Record, node int32) bool { return empty(&rec.Nodes[node], s.trim) }

func empty(n *Node, trim bool) bool {
	if n.Kind < Number {
		return false
	}
	return len(n.Str) == 0 || trim && len(n.Str) == 1 && n.Str[0] == '/'
}

// addPairs notes where the metadata comes from, which has been sorted.
func (sh *shape) addPairs(st *State, in *Input, line int) {
	for i := range st.pairs {
		f := &st.pairs[i]
		switch {
		case f.rec == nil:
			sh.pairs = append(sh.pairs, sh.addText(f.key.name, st.m.tags[f.node].tagText(in.Tag)))
		case st.isMetadata(f, line):
			sh.pairs = append(sh.pairs, part{name: f.key.name, node: f.node})
		}
	}
}

// isMetadata reports whether a field of the record becomes metadata beside the
// line.
func (st *State) isMetadata(f *field, line int) bool {
	return int(f.node) != line && !(f.key.label && st.isConsumed(f.node)) && (st.m.metadata == metadataAll || f.key.listed)
}

// writeAs adds rec, which has the shape sh, to bl. It returns false, and has
// added no entry, if the shape is not all that matters.
func (st *State) writeAs(sh *shape, rec *Record, in *Input, bl *push.Builder) bool {
	tuple := st.tuple[:0]
	for i := range sh.labels {
		p := &sh.labels[i]
		at := len(tuple)
		tuple = append(tuple, 0, 0, 0, 0)
		if p.node < 0 {
			tuple = append(tuple, sh.texts[p.text.from:p.text.to]...)
		} else {
			n := &rec.Nodes[p.node]
			if empty(n, p.trim) {
				st.tuple = tuple
				return false
			}
			tuple = AppendText(tuple, rec, int(p.node))
			if p.trim && tuple[at+4] == '/' {
				copy(tuple[at+4:], tuple[at+5:])
				tuple = tuple[:len(tuple)-1]
			}
		}
		binary.LittleEndian.PutUint32(tuple[at:], uint32(len(tuple)-at-4))
	}
	st.tuple = tuple
	stream := bl.Stream(st.labelsOf())
	if len(sh.encoded) > 0 {
		bl.AddEncoded(sh.encoded, len(sh.pairs))
		bl.Entry(stream, in.TS, rec.Nodes[sh.line].Str)
		return true
	}
	size, fixed := 0, true
	for i := range sh.pairs {
		p := &sh.pairs[i]
		fixed = fixed && p.node < 0
		value := sh.texts[p.text.from:p.text.to]
		if p.node >= 0 {
			value, st.text = text(st.text, rec, int(p.node))
		}
		if size += len(p.name) + len(value); size > st.m.limits.Bytes {
			bl.DropPairs()
			return false
		}
		bl.Pair(p.name, value)
	}
	if fixed {
		var ok bool
		if sh.encoded, ok = bl.EncodedPairs(sh.encoded); !ok {
			sh.encoded = sh.encoded[:0]
		}
	}
	bl.Entry(stream, in.TS, rec.Nodes[sh.line].Str)
	return true
}
