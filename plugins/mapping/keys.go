package mapping

import (
	"slices"
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
	path  string
	name  []byte // of the metadata
	roles []int
	rank  uint32 // order among all keys in the cache, by name and path
	next  *key   // the key that came next the last time
}

// keyCache finds keys by path. Records of one source have the same fields in
// the same order, so it first looks at the key that followed the last one.
type keyCache struct {
	m      *Mapper
	byPath map[string]*key
	sorted []*key
	bytes  int
	prev   *key
	first  key // stands before the first key of a record
	tag    *key
}

func (c *keyCache) init(m *Mapper) {
	*c = keyCache{m: m, byPath: make(map[string]*key)}
	c.tag = c.add("tag")
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
	k := &key{path: path, name: push.NormaliseName(nil, []byte(path)), roles: c.m.roles[path]}
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
	c.byPath[path] = k
	c.bytes += len(path) + len(k.name)
	return k
}
