package mapping

import (
	"bytes"

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
	shapes   shapes
	at       []int32 // by role: node that has it, or -1
	none     []int32 // what at is at the start of a record
	pairs    []field // what may become metadata
	auto     []field // what may become a label without being named
	seen     int     // fields and maps that walk has looked at
	over     bool    // there is more than metadata can take
	path     []byte
	consumed []int32 // nodes that became a label
	removed  []int32 // nodes that are left out, in order
	used     []int32 // nodes that the receiver has used
	given    []int32 // nodes that became metadata beside a whole record
	skips    skips
	line     []byte
	text     []byte
	tuple    []byte // values of the labels, with lengths
	last     []byte // tuple that labels was made of
	labels   []byte // canonical text of the last label set
}

// field is a node that may become metadata. Without a record it is a tag.
type field struct {
	key  *key
	rec  *Record
	node int32 // or the number of a tag
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
	if !hasFields(in.Meta) {
		if sh := st.shapes.find(rec, in); sh != nil {
			t := g.tenant(in.Tenant)
			if t == nil {
				return false
			}
			before := t.bl.Size()
			if st.writeAs(sh, rec, in, &t.bl) {
				g.added(t, before)
				return true
			}
		}
	}
	st.read(rec, in)
	t := g.tenant(st.tenant(rec, in))
	if t == nil {
		return false
	}
	before := t.bl.Size()
	st.write(rec, in, &t.bl)
	g.added(t, before)
	return true
}

// read finds what matters in rec.
func (st *State) read(rec *Record, in *Input) {
	st.keys.begin()
	copy(st.at, st.none)
	st.consumed, st.removed, st.used, st.auto = st.consumed[:0], st.removed[:0], st.used[:0], st.auto[:0]
	st.pairs = st.pairs[:0]
	st.addTags(in)
	st.walk(rec, walk{collect: st.m.collect, roles: true})
}

// write adds rec, which has been read, to bl.
func (st *State) write(rec *Record, in *Input, bl *push.Builder) {
	m := st.m
	stream := bl.Stream(st.labelText(rec, in))
	if m.format > formatRaw {
		st.whole(rec, in, bl, stream, m.format)
		return
	}
	line := st.lineNode(rec, in.LineKey)
	if line < 0 {
		st.whole(rec, in, bl, stream, formatJSON)
		return
	}
	if hasFields(in.Meta) {
		if m.metadata != metadataNone {
			st.walk(in.Meta, walk{collect: true})
		} else if m.format == formatAuto {
			st.whole(rec, in, bl, stream, formatJSON)
			return
		}
	}
	if st.over || !st.addPairs(in, bl, rec, line) {
		st.whole(rec, in, bl, stream, formatJSON)
		return
	}
	bl.Entry(stream, in.TS, st.lineText(rec, line))
	st.learn(rec, in, line)
}

// lineText returns the text of the line key.
func (st *State) lineText(rec *Record, line int) (t []byte) {
	switch n := &rec.Nodes[line]; {
	case n.Kind == Bytes:
		return n.Str
	case n.Kind >= Array && len(st.removed) > 0:
		st.skips.reset()
		st.skips.add(st.removed...)
		st.line = appendJSON(st.line[:0], rec, line, &st.skips)
		return st.line
	}
	t, st.line = text(st.line, rec, line)
	return t
}

func hasFields(r *Record) bool { return r != nil && len(r.Nodes) > 1 && r.Nodes[0].Kind == Map }

// addTags starts a count of fields, with what becomes of the tag.
func (st *State) addTags(in *Input) {
	st.seen, st.over = 0, false
	if len(in.Tag) == 0 {
		return
	}
	for i, k := range st.keys.tags {
		if len(st.m.tags[i].tagText(in.Tag)) > 0 {
			st.pairs = append(st.pairs, field{key: k, node: int32(i)})
		}
	}
}

// walk says what to look for in a record.
type walk struct {
	collect bool // fields that can become metadata
	roles   bool // it is the record: fields that can become labels or the line
	nested  bool // below the top: st.path has the path of the map
}

func (st *State) walk(rec *Record, w walk) {
	st.path = st.path[:0]
	if !w.roles && st.m.renames {
		st.path = append(st.path, beside...)
	}
	if len(rec.Nodes) > 0 && rec.Nodes[0].Kind == Map {
		st.walkMap(rec, 0, w)
	}
}

func (st *State) walkMap(rec *Record, i int, w walk) {
	prefix := len(st.path)
	for j, end := i+1, int(rec.Nodes[i].End); j < end; j = rec.Next(j) {
		n := &rec.Nodes[j]
		if n.Kind == Null && !st.m.removes {
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
	if n.Kind == Null {
		if r := st.m.rules[string(st.path)]; r != nil && r.remove && w.roles {
			st.removed = append(st.removed, int32(j))
		}
		return
	}
	if w.collect && !st.over {
		st.seen++
		lim := &st.m.limits
		st.over = len(st.path) > maxPath || len(st.pairs) > lim.Pairs+len(st.m.slots)+1 || st.seen > 4*lim.Pairs+256
	}
	isMap := n.Kind == Map && int(n.End) > j+1
	if n.Used && w.roles && st.m.strip {
		st.used = append(st.used, int32(j))
	}
	if !w.collect || st.over {
		w.collect = false
		if w.roles && len(st.path) <= maxPath {
			st.rolesOnly(rec, j, w, isMap)
		}
		return
	}
	k := st.keys.get(st.path)
	gone := false
	if w.roles {
		st.note(k.roles, j)
		if k.auto != nil {
			st.noteAuto(k, rec, j)
		}
		if gone = k.remove; gone {
			st.removed = append(st.removed, int32(j))
		}
	}
	switch {
	case isMap:
		w.nested = true
		w.collect = !n.Used && !gone
		st.walkMap(rec, j, w)
	case !n.Used && !gone && (k.listed || st.m.leftover || !w.roles):
		st.pairs = append(st.pairs, field{k, rec, int32(j)})
	}
}

// rolesOnly is field where metadata does not matter.
func (st *State) rolesOnly(rec *Record, j int, w walk, isMap bool) {
	m := st.m
	if m.auto && len(st.auto) < maxAuto && bytes.HasPrefix(st.path, autoBytes) {
		if k := st.keys.get(st.path); k.auto != nil {
			st.noteAuto(k, rec, j)
		}
	}
	r := m.rules[string(st.path)]
	if r == nil {
		return
	}
	st.note(r.roles, j)
	if r.remove {
		st.removed = append(st.removed, int32(j))
	}
	if r.deeper && isMap {
		w.nested = true
		st.walkMap(rec, j, w)
	}
}

var autoBytes = []byte(autoPrefix)

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
		if n >= 0 && len(st.removed) > 0 && st.isRemoved(rec, n) {
			n = -1
		}
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

func (st *State) isRemoved(rec *Record, node int32) bool {
	for _, r := range st.removed {
		if node >= r && int(node) < rec.Next(int(r)) {
			return true
		}
	}
	return false
}

// addPairs gives the builder the metadata of the next entry: st.pairs without
// what became a label or the line. With line < 0 the line is the whole record,
// and metadata only what is listed or not in it. If that is more than the limits
// it gives nothing and returns false; so it does if fields have no place beside a
// line and must not be lost.
func (st *State) addPairs(in *Input, bl *push.Builder, rec *Record, line int) bool {
	m := st.m
	sortFields(st.pairs)
	count, size, lineEnd := 0, 0, 0
	if line >= 0 {
		lineEnd = rec.Next(line)
	}
	for i := range st.pairs {
		f := &st.pairs[i]
		var value []byte
		if f.rec == nil {
			value = m.tags[f.node].tagText(in.Tag)
		} else {
			node := int(f.node)
			if f.rec == rec {
				if node >= line && node < lineEnd || f.key.label && st.isConsumed(f.node) {
					continue
				}
				if m.metadata != metadataAll && !f.key.listed {
					if m.format == formatAuto {
						bl.DropPairs()
						return false
					}
					continue
				}
			}
			value, st.text = text(st.text, f.rec, node)
		}
		count++
		size += len(f.key.name) + len(value)
		if count > m.limits.Pairs || size > m.limits.Bytes {
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
