package httpjson

import (
	"slices"
	"unicode/utf8"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// flbWork is what taking Fluent Bit's JSON events apart needs.
type flbWork struct {
	first      [2]mapping.Node // the first field as a record
	group, own mapping.Record
	ids        []byte // binary ids
}

func (w *flbWork) size() int { return max(cap(w.group.Nodes), cap(w.own.Nodes)) }

// unwrap takes out of the event in r.rec what Fluent Bit has put into it: the
// time, and metadata. It returns false if there was no time.
func (r *request) unwrap() bool {
	rec := &r.rec
	if len(rec.Nodes) < 2 {
		return false
	}
	at, timed := 1, r.flbTime()
	if timed {
		at = rec.Next(at)
	}
	if at < len(rec.Nodes) && r.internal(at) {
		at = rec.Next(at)
	}
	behead(rec, at)
	return timed
}

// flbTime reads the first field as the time, if it is json_date_key. With
// json_date_key false the first field is one of the record itself; if it looks
// like a time it is taken for the time, too.
func (r *request) flbTime() bool {
	n := r.rec.Nodes[1]
	if slices.Contains(r.h.cfg.DateKeys, string(n.Key)) {
		n.Key = dateKey
	}
	r.flb.first = [2]mapping.Node{{Kind: mapping.Map, End: 2}, n}
	view := mapping.Record{Nodes: r.flb.first[:]}
	if n.Kind >= mapping.Array {
		return false
	}
	ts, node := mapping.EventTime(&view)
	if node >= 0 {
		r.in.TS = ts
	}
	return node >= 0
}

var dateKey = []byte("date")

// internal makes the event's metadata of node at, if that is where Fluent Bit
// puts it.
func (r *request) internal(at int) bool {
	rec := &r.rec
	if n := &rec.Nodes[at]; n.Kind != mapping.Map || string(n.Key) != "__internal__" {
		return false
	}
	var group, own *mapping.Record
	for j, end := at+1, int(rec.Nodes[at].End); j < end; j = rec.Next(j) {
		n := &rec.Nodes[j]
		switch {
		case n.Kind == mapping.Map && string(n.Key) == "group_attributes" && group == nil:
			group = subtree(&r.flb.group, rec, j)
		case n.Kind == mapping.Map && string(n.Key) == "log_metadata" && own == nil:
			own = subtree(&r.flb.own, rec, j)
		default:
			return false
		}
	}
	if own != nil {
		r.flb.binaryIDs()
	}
	r.in.Meta = r.events.Join(group, own)
	return true
}

// binaryIDs makes bytes again of the OTLP ids in w.own, which msgpack has as
// such.
func (w *flbWork) binaryIDs() {
	w.ids = w.ids[:0]
	otlp := w.own.Field(0, "otlp")
	for _, id := range [...]struct {
		name string
		size int
	}{{"trace_id", 16}, {"span_id", 8}} {
		j := w.own.Field(max(otlp, 0), id.name)
		if otlp < 0 || j < 0 || w.own.Nodes[j].Kind != mapping.String {
			continue
		}
		from := len(w.ids)
		w.ids = appendBinary(w.ids, w.own.Nodes[j].Str)
		if to := len(w.ids); to-from == id.size {
			w.own.Nodes[j].Kind, w.own.Nodes[j].Str = mapping.Bytes, w.ids[from:to:to]
		}
	}
}

// appendBinary appends the bytes that Fluent Bit has made the text s of: what
// is no UTF-8 became characters of the private use area.
func appendBinary(dst, s []byte) []byte {
	for len(s) > 0 {
		c, n := utf8.DecodeRune(s)
		if c >= 0xe000 && c <= 0xe0ff {
			dst = append(dst, byte(c))
		} else {
			dst = append(dst, s[:n]...)
		}
		s = s[n:]
	}
	return dst
}

// subtree makes dst the record that node j of r is.
func subtree(dst, r *mapping.Record, j int) *mapping.Record {
	dst.Nodes = append(dst.Nodes[:0], r.Nodes[j:r.Next(j)]...)
	dst.Nodes[0].Key = nil
	for i := range dst.Nodes {
		dst.Nodes[i].End -= int32(j) // of no meaning but in maps and arrays
	}
	return dst
}

// behead takes the fields before node to of the top map out of r.
func behead(r *mapping.Record, to int) {
	n := int32(to - 1)
	if n == 0 {
		return
	}
	r.Nodes = append(r.Nodes[:1], r.Nodes[to:]...)
	for i := range r.Nodes {
		r.Nodes[i].End -= n // likewise
	}
}
