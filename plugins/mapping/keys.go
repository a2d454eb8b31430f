package mapping

import (
	"slices"
	"strconv"
	"strings"

	"github.com/loki-go/loki-go/proto/push"
)

// What a keyCache keeps from one record to the next.
const (
	maxKeys     = 4096
	maxKeyBytes = 512 << 10
)

// key is what a State knows about the path of a field.
type key struct {
	path   string
	name   []byte // of the metadata
	auto   []byte // of the label that it becomes without being named; nil: none
	roles  []int
	label  bool   // it can become a label
	listed bool   // it becomes metadata where not all fields do
	remove bool   // it is left out
	rank   uint32 // order among all keys in the cache, by name and path
	next   *key   // the key that came next the last time
}

// beside starts the paths of fields that are not in the record but beside it,
// where settings give names to fields of the record.
const beside = "\xff"

// keyCache finds keys by path. Records of one source have the same fields in
// the same order, so it first looks at the key that followed the last one.
type keyCache struct {
	m      *Mapper
	byPath map[string]*key
	sorted []*key
	bytes  int
	prev   *key
	first  key    // stands before the first key of a record
	tags   []*key // of Mapper.tags
}

func (c *keyCache) init(m *Mapper) {
	*c = keyCache{m: m, byPath: make(map[string]*key)}
	for i := range m.tags {
		// Such a path sorts before that of a field with this name.
		k := &key{path: "\x00" + strconv.Itoa(i), name: push.NormaliseName(nil, []byte(m.tags[i].name)), listed: true}
		c.insert(k)
		c.tags = append(c.tags, k)
	}
}

// begin starts a record. Only here may keys be forgotten, as ranks are good
// for one set of keys.
func (c *keyCache) begin() {
	if len(c.sorted) > maxKeys || c.bytes > maxKeyBytes {
		c.init(c.m)
	}
	c.prev = &c.first
}

func (c *keyCache) get(path []byte) *key {
	k := c.prev.next
	if k == nil || k.path != string(path) {
		var ok bool
		if k, ok = c.byPath[string(path)]; !ok {
			k = c.add(string(path))
		}
		c.prev.next = k
	}
	c.prev = k
	return k
}

func (c *keyCache) add(path string) *key {
	k := c.m.newKey(path)
	c.insert(k)
	c.byPath[path] = k
	return k
}

func (c *keyCache) insert(k *key) {
	at, _ := slices.BinarySearchFunc(c.sorted, k, func(a, b *key) int {
		if n := strings.Compare(string(a.name), string(b.name)); n != 0 {
			return n
		}
		return strings.Compare(a.path, b.path)
	})
	c.sorted = slices.Insert(c.sorted, at, k)
	for i, k := range c.sorted[at:] {
		k.rank = uint32(at + i)
	}
	c.bytes += len(k.path) + len(k.name) + len(k.auto)
}

// newKey works out what the settings say of a path.
func (m *Mapper) newKey(path string) *key {
	if own, ok := strings.CutPrefix(path, beside); ok && m.renames {
		return &key{path: path, name: push.NormaliseName(nil, []byte(own))}
	}
	k := &key{path: path}
	if r := m.rules[path]; r != nil {
		k.roles, k.remove = r.roles, r.remove
	}
	name, ok := m.listedName(path)
	k.listed = ok
	k.name = push.NormaliseName(nil, []byte(name))
	if label, ok := strings.CutPrefix(path, autoPrefix); ok && m.auto {
		if k.auto = AppendLabelName(nil, []byte(label)); m.isSlot(string(k.auto)) {
			k.auto = nil
		}
	}
	k.label = len(k.roles) > 0 || k.auto != nil
	return k
}

// listedName returns the name that the field at path has as metadata, and
// whether it is listed. The longest path that a setting names counts.
func (m *Mapper) listedName(path string) (name string, ok bool) {
	name = path
	best := -1
	for i := range m.listed {
		l := &m.listed[i]
		below, inside := "", path == l.path && !l.bare
		if rest, cut := strings.CutPrefix(path, l.path); cut && rest != "" && rest[0] == '.' {
			below, inside = rest[1:], true
		}
		if !inside || len(l.path) <= best {
			continue
		}
		best, ok = len(l.path), true
		switch {
		case l.bare:
			name = below
		case l.name == "":
			name = path
		case below == "":
			name = l.name
		default:
			name = l.name + "." + below
		}
	}
	return name, ok
}
