// Package mapping turns records, the nested maps that agents send, into
// streams and entries.
//
// A decoder (Stream for JSON, package msgpack for MessagePack) fills a Record. A
// Mapper, made once from the configuration and shared by all, knows what becomes
// a label; a State, one for each goroutine, applies it and adds the entry to
// Batches, which hold a push.Batch for each tenant. The same record and the same
// input give the same entry, whatever a State saw before: a batch that is sent
// again maps to what it mapped to the first time.
//
// # What goes where
//
// Labels are job (the receiver), service_name, namespace, container and app as
// far as the record has them (see New; not with default-labels false), and what
// labels, label-keys and label-map-file name. A fixed value goes before any
// field. With auto-kubernetes-labels all fields below kubernetes.labels are
// labels by their own names, in order of these and as far as Limits.Labels goes;
// one that has the name of another label stays what it was.
//
//	line-format auto or raw, the record has a line key:
//	    line      the value of the first line key that the record has as text,
//	              else of the first that is a number or boolean, else as JSON of
//	              the first that is a map or array; null is as if it were not there
//	    metadata  the tag as "tag", and every field that is neither the line
//	              nor a label nor null nor used by the receiver (its time)
//	line-format auto or raw, no line key; json; logfmt:
//	    line      the whole record, labels and time included
//	    metadata  the tag, and fields that metadata-keys or metadata-map-keys name
//
// Metadata that the agent keeps beside the record (Input.Meta) is metadata in
// both cases. Where all that is more than the limits for structured metadata
// allow, the line is the whole record as JSON, so that no field is lost; if it
// is Input.Meta that does not fit, it joins that line under the name that
// Fluent Bit's JSON has for it, __internal__.log_metadata.
//
// structured-metadata listed makes metadata of the fields only that metadata-keys
// and metadata-map-keys name (and of the tag, if $TAG is among them); none makes
// metadata of nothing, not even of Input.Meta. With line-format auto a record
// that has other fields becomes one JSON line then, with raw they are lost.
//
// remove-keys takes fields out of line and metadata; they can still be labels or
// name the tenant. strip-line takes out of a line that is the whole record what
// became a label or metadata and what the receiver has used, and maps that are
// empty then. Where one field is left, drop-single-key makes its value the line:
// on, in the format of the line, raw, as text.
//
// The tenant of a record is the first of tenant-keys that can name one, else
// Input.Tenant.
//
// # Paths
//
// A path names a field by its keys with dots between: kubernetes.labels.app is
// app in labels in kubernetes. Keys may have dots themselves, so service.name
// is found as a nested field and as a flat one. The record accessors of Fluent
// Bit and Fluentd are paths as well: $kubernetes['labels']['app'], $.a.b; there
// is none for an element of an array. $TAG is the tag, $TAG[1] what is behind its
// first dot, $TAG[-1] what is behind its last.
//
// A label is named by the path (AppendLabelName), metadata by the path normalised
// as Loki's (push.NormaliseName): kubernetes_labels_app. name=$path gives another
// name, for metadata to all that is in a map: name_app. Fields in a map that
// metadata-map-keys names are metadata by their path in it: app. Where two fields
// get one name, equal values are one pair; else the second by order of paths gets
// the suffix _2, and so on. The tag comes before a field "tag".
//
// # Values as text
//
// Strings are kept as they are, invalid UTF-8 included; in JSON each invalid
// byte becomes \ufffd, in a label value U+FFFD. Numbers keep the digits of
// their source. Arrays are JSON text. Binary values and extension types are
// strings where they are valid UTF-8, else "base64:" and standard base64; only
// a binary value that is the line is kept as it is. Floats that JSON cannot say
// are the strings NaN, +Inf and -Inf.
package mapping

// MaxDepth is how deep maps and arrays may nest, the record itself included.
// Decoders refuse what is deeper.
const MaxDepth = 100

// MaxNodes is how many values a record may have. A node takes 64 bytes, so that
// a record of two-byte values grows 32-fold; this bounds it at 4 MiB.
const MaxNodes = 1 << 16

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
	Used bool  // the receiver has used this field (time, tag): not metadata again
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

// Field returns the index of the child of map i with this key, the first if
// there are several, or -1. A node that is not a map has no children.
func (r *Record) Field(i int, key string) int {
	if i >= len(r.Nodes) || r.Nodes[i].Kind != Map {
		return -1
	}
	for j, end := i+1, int(r.Nodes[i].End); j < end; j = r.Next(j) {
		if string(r.Nodes[j].Key) == key {
			return j
		}
	}
	return -1
}
