// Package mapping turns records, the nested maps that agents send, into
// streams and entries.
package mapping

// Kind is the type of a Node.
type Kind uint8

const (
	Null   Kind = iota
	Bool        // Num 0 or 1
	Int         // Num holds an int64
	Uint        // Num, for values above the range of int64
	Float       // Num holds math.Float64bits
	Number      // Str holds the decimal text of a JSON number
	String      // Str; need not be UTF-8
	Bytes       // Str; binary in the source format
	Ext         // Str; an opaque extension value
	Array       // children follow, up to End
	Map         // children follow, up to End; each has a Key
)

// Node is one value of a Record.
type Node struct {
	Kind Kind
	End  int32 // Array, Map: index in Nodes of the first node behind the subtree
	Num  uint64
	Key  []byte // in a Map: the key as text; else nil
	Str  []byte
}

// Record is one record as a flat list of nodes in pre-order; Nodes[0] is the
// top map, the children of node i start at i+1, and the sibling behind a child
// j is at j+1, or at Nodes[j].End for arrays and maps. Decoders fill and
// re-use one Record: keys and strings point into the decoder's input, so that
// a record costs no allocation.
type Record struct {
	Nodes []Node
}

// Reset empties the record and keeps its memory.
func (r *Record) Reset() { r.Nodes = r.Nodes[:0] }

// Next returns the index of the node behind the subtree of node i.
func (r *Record) Next(i int) int {
	if n := &r.Nodes[i]; n.Kind >= Array {
		return int(n.End)
	}
	return i + 1
}
