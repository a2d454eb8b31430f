package mapping

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
	"unsafe"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
)

// Input is what a receiver knows about a record beside its fields.
type Input struct {
	Job    string  // the receiver; label job
	Tenant string  // of records for which the configuration names no other
	Tag    []byte  // metadata tag, if not empty
	TS     int64   // nanoseconds since the epoch
	Meta   *Record // metadata that the agent keeps beside the record; may be nil

	// LineKey, if it is one of the line keys, goes before the others, whatever
	// its value, and the others must then be text, numbers or booleans. With
	// "message", log.file.path of an ECS event does not make log the line.
	LineKey string
}

// State maps records for one goroutine at a time. It remembers the names of
// fields and the last label set, so that a record which is like others before
// it costs no allocation. The result never depends on what it remembers.
type State struct {
	m        *Mapper
	keys     keyCache
	at       []int32 // by role: node that has it, or -1
	none     []int32 // what at is at the start of a record
	pairs    []field // what may become metadata
	seen     int     // fields and maps that walk has looked at
	over     bool    // there is more than metadata can take
	path     []byte
	consumed []int32 // nodes that became a label
	line     []byte
	text     []byte
	tuple    []byte // values of the labels, with lengths
	last     []byte // tuple that labels was made of
	labels   []byte // canonical text of the last label set
}

// field is a node that may become metadata. Without a record it is the tag.
type field struct {
	key  *key
	rec  *Record
	node int32
}

func (m *Mapper) newState() *State {
	st := &State{m: m, at: make([]int32, m.nroles), none: make([]int32, m.nroles)}
	for i := range st.none {
		st.none[i] = -1
	}
	st.keys.init(m)
	return st
}

// Add adds rec to g as one entry of its tenant. The top of rec must be a map.
// Nothing of rec and in is kept. It returns false, and has added nothing, if g
// has MaxTenants other tenants: push what g has, Reset it, and add rec again.
func (st *State) Add(rec *Record, in *Input, g *Batches) bool {
	t := g.tenant(in.Tenant)
	if t == nil {
		return false
	}
	before := t.bl.Size()
	st.Map(rec, in, &t.bl)
	g.added(t, before)
	return true
}

// Map adds rec to bl as one entry. The top of rec must be a map. Nothing of rec
// and in is kept.
func (st *State) Map(rec *Record, in *Input, bl *push.Builder) {
	st.begin(in)
	st.walk(rec, walk{collect: st.m.format == formatAuto, roles: true})
	stream := bl.Stream(st.labelText(rec, in.Job))
	if st.m.format != formatAuto {
		st.whole(rec, in, bl, stream, st.m.format)
		return
	}
	line := st.lineNode(rec, in.LineKey)
	if line < 0 {
		st.whole(rec, in, bl, stream, formatJSON)
		return
	}
	if hasFields(in.Meta) {
		st.walk(in.Meta, walk{collect: true})
	}
	if st.over || !st.addPairs(in, bl, rec, line) {
		st.whole(rec, in, bl, stream, formatJSON)
		return
	}
	t := rec.Nodes[line].Str
	if rec.Nodes[line].Kind != Bytes {
		t, st.line = text(st.line, rec, line)
	}
	bl.Entry(stream, in.TS, t)
}

func hasFields(r *Record) bool { return r != nil && len(r.Nodes) > 1 && r.Nodes[0].Kind == Map }

func (st *State) begin(in *Input) {
	st.keys.begin()
	copy(st.at, st.none)
	st.consumed = st.consumed[:0]
	st.resetPairs(in)
}

// resetPairs forgets all metadata but the tag.
func (st *State) resetPairs(in *Input) {
	st.pairs, st.seen, st.over = st.pairs[:0], 0, false
	if len(in.Tag) > 0 {
		st.pairs = append(st.pairs, field{key: st.keys.tag})
	}
}

// walk says what to look for in a record.
type walk struct {
	collect bool // fields that can become metadata
	roles   bool // fields that can become labels or the line
	nested  bool // below the top: st.path has the path of the map
}

func (st *State) walk(rec *Record, w walk) {
	st.path = st.path[:0]
	if len(rec.Nodes) > 0 && rec.Nodes[0].Kind == Map {
		st.walkMap(rec, 0, w)
	}
}

func (st *State) walkMap(rec *Record, i int, w walk) {
	prefix := len(st.path)
	for j, end := i+1, int(rec.Nodes[i].End); j < end; j = rec.Next(j) {
		n := &rec.Nodes[j]
		if n.Kind == Null {
			continue
		}
		st.path = st.path[:prefix]
		if w.nested {
			st.path = append(st.path, '.')
		}
		st.path = append(st.path, n.Key...)
		st.field(rec, j, w)
	}
}

// field looks at node j, whose path is st.path.
func (st *State) field(rec *Record, j int, w walk) {
	n := &rec.Nodes[j]
	if w.collect && !st.over {
		st.seen++
		lim := &st.m.limits
		st.over = len(st.path) > maxPath || len(st.pairs) > lim.Pairs+len(st.m.slots)+1 || st.seen > 4*lim.Pairs+256
	}
	isMap := n.Kind == Map && int(n.End) > j+1
	if !w.collect || st.over {
		w.collect = false
		if w.roles && len(st.path) <= maxPath {
			st.note(st.m.roles[string(st.path)], j)
			if _, ok := st.m.prefix[string(st.path)]; ok && isMap {
				w.nested = true
				st.walkMap(rec, j, w)
			}
		}
		return
	}
	k := st.keys.get(st.path)
	if w.roles {
		st.note(k.roles, j)
	}
	switch {
	case isMap:
		w.nested = true
		w.collect = !n.Used
		st.walkMap(rec, j, w)
	case !n.Used:
		st.pairs = append(st.pairs, field{k, rec, int32(j)})
	}
}

func (st *State) note(roles []int, node int) {
	for _, r := range roles {
		if st.at[r] < 0 {
			st.at[r] = int32(node)
		}
	}
}

// lineNode returns the node that is the line, or -1. Text goes before numbers
// and those before maps and arrays: "log" may be the line in one record and a
// map of details beside "message" in another.
func (st *State) lineNode(rec *Record, first string) int {
	best, class := -1, 3
	for i := range st.m.lines {
		l := &st.m.lines[i]
		n := st.at[l.role]
		if l.path == first {
			if n >= 0 {
				return int(n)
			}
		}
		if n < 0 {
			continue
		}
		c := 1
		switch k := rec.Nodes[n].Kind; {
		case k == String || k == Bytes:
			c = 0
		case k >= Array:
			c = 2
		}
		if c < class {
			best, class = int(n), c
		}
	}
	if class == 2 && st.m.isLineKey(first) {
		return -1
	}
	return best
}

// labelText returns the canonical text of the record's labels.
func (st *State) labelText(rec *Record, job string) []byte {
	st.tuple = st.tuple[:0]
	for i := range st.m.slots {
		s := &st.m.slots[i]
		at := len(st.tuple)
		st.tuple = append(st.tuple, 0, 0, 0, 0)
		if !st.value(rec, s) && s.job {
			st.tuple = append(st.tuple, job...)
		}
		binary.LittleEndian.PutUint32(st.tuple[at:], uint32(len(st.tuple)-at-4))
	}
	if len(st.labels) == 0 || !bytes.Equal(st.tuple, st.last) {
		st.last = append(st.last[:0], st.tuple...)
		st.labels = st.m.appendLabels(st.labels[:0], st.tuple)
	}
	return st.labels
}

// value appends the value of s to the tuple. It reports whether there is one.
func (st *State) value(rec *Record, s *slot) bool {
	for _, r := range s.roles {
		node := st.at[r]
		if node < 0 || rec.Nodes[node].Kind >= Array {
			continue
		}
		from := len(st.tuple)
		st.tuple = AppendText(st.tuple, rec, int(node))
		if v := st.tuple[from:]; r == s.trim && len(v) > 0 && v[0] == '/' {
			copy(v, v[1:])
			st.tuple = st.tuple[:len(st.tuple)-1]
		}
		if len(st.tuple) > from {
			st.consumed = append(st.consumed, node)
			return true
		}
	}
	return false
}

// appendLabels renders a tuple as labels.Labels.AppendString would.
func (m *Mapper) appendLabels(dst, tuple []byte) []byte {
	dst = append(dst, '{')
	first := true
	for i := range m.slots {
		n := binary.LittleEndian.Uint32(tuple)
		v := tuple[4 : 4+n]
		tuple = tuple[4+n:]
		if n == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',', ' ')
		}
		first = false
		dst = append(dst, m.slots[i].name...)
		dst = append(dst, '=')
		if !utf8.Valid(v) {
			v = bytes.ToValidUTF8(v, []byte("\uFFFD"))
		}
		// AppendValue reads the bytes and keeps nothing.
		dst = labels.AppendValue(dst, unsafe.String(unsafe.SliceData(v), len(v)))
	}
	return append(dst, '}')
}

// addPairs gives the builder the metadata of the next entry: st.pairs without
// what became a label or the line. If that is more than the limits it gives
// nothing and returns false.
func (st *State) addPairs(in *Input, bl *push.Builder, rec *Record, line int) bool {
	sortFields(st.pairs)
	count, size, lineEnd := 0, 0, 0
	if line >= 0 {
		lineEnd = rec.Next(line)
	}
	for i := range st.pairs {
		f := &st.pairs[i]
		value := in.Tag
		if f.rec != nil {
			node := int(f.node)
			if f.rec == rec && (node >= line && node < lineEnd || len(f.key.roles) > 0 && st.isConsumed(f.node)) {
				continue
			}
			value, st.text = text(st.text, f.rec, node)
		}
		count++
		size += len(f.key.name) + len(value)
		if count > st.m.limits.Pairs || size > st.m.limits.Bytes {
			bl.DropPairs()
			return false
		}
		bl.Pair(f.key.name, value)
	}
	return true
}

func (st *State) isConsumed(node int32) bool {
	for _, n := range st.consumed {
		if n == node {
			return true
		}
	}
	return false
}

// sortFields sorts by name. It is an insertion sort because fields are few and
// often nearly sorted, and because equal ones must stay in order.
func sortFields(f []field) {
	for i := 1; i < len(f); i++ {
		x := f[i]
		j := i
		for ; j > 0 && f[j-1].key.rank > x.key.rank; j-- {
			f[j] = f[j-1]
		}
		f[j] = x
	}
}

// whole adds an entry whose line is the whole record.
func (st *State) whole(rec *Record, in *Input, bl *push.Builder, stream int, format lineFormat) {
	st.resetPairs(in)
	if hasFields(in.Meta) {
		st.walk(in.Meta, walk{collect: true})
	}
	beside := false
	if st.over || !st.addPairs(in, bl, rec, -1) {
		beside, format = true, formatJSON
		if len(in.Tag) > 0 {
			bl.Pair(st.keys.tag.name, in.Tag)
		}
	}
	if format == formatLogfmt {
		st.line = AppendLogfmt(st.line[:0], rec, 0)
	} else {
		st.line = AppendJSON(st.line[:0], rec, 0)
	}
	if beside && hasFields(in.Meta) {
		st.line = st.line[:len(st.line)-1] // the closing brace
		if len(st.line) > 1 {
			st.line = append(st.line, ',')
		}
		st.line = append(st.line, `"__internal__":{"log_metadata":`...)
		st.line = AppendJSON(st.line, in.Meta, 0)
		st.line = append(st.line, '}', '}')
	}
	bl.Entry(stream, in.TS, st.line)
}
