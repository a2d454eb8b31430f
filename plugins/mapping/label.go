package mapping

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
	"unsafe"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
)

// stringOf returns b as a string without a copy. It is good as long as b does not
// change.
func stringOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// tenant returns the tenant of rec. What cannot be the name of one is passed
// over: it would cost the record its place. The result may be memory that is
// used again.
func (st *State) tenant(rec *Record, in *Input) string {
	for i := range st.m.tenants {
		st.text = st.m.tenants[i].appendText(st.text[:0], st, rec, in)
		if id := stringOf(st.text); push.ValidTenant(id) {
			return id
		}
	}
	return in.Tenant
}

// appendText appends the value of s: nothing if there is none, or if it is a map
// or an array.
func (s *source) appendText(dst []byte, st *State, rec *Record, in *Input) []byte {
	if s.tag != nil {
		return append(dst, s.tag.tagText(in.Tag)...)
	}
	node := st.at[s.role]
	if node < 0 || rec.Nodes[node].Kind >= Array {
		return dst
	}
	from := len(dst)
	dst = AppendText(dst, rec, int(node))
	if v := dst[from:]; s.trim && len(v) > 0 && v[0] == '/' {
		copy(v, v[1:])
		dst = dst[:len(dst)-1]
	}
	return dst
}

// labelText returns the canonical text of the record's labels.
func (st *State) labelText(rec *Record, in *Input) []byte {
	st.tuple = st.tuple[:0]
	count, service := 0, false
	for i := range st.m.slots {
		s := &st.m.slots[i]
		if s.static != "" {
			count++
			service = service || s.name == "service_name"
			continue
		}
		at := len(st.tuple)
		st.tuple = append(st.tuple, 0, 0, 0, 0)
		if !st.value(rec, in, s) && s.job {
			st.tuple = append(st.tuple, in.Job...)
		}
		n := len(st.tuple) - at - 4
		binary.LittleEndian.PutUint32(st.tuple[at:], uint32(n))
		if n > 0 {
			count++
			service = service || s.name == "service_name"
		}
	}
	if len(st.auto) > 0 {
		if !service {
			count++ // the distributor adds one
		}
		st.addAuto(rec, st.m.limits.Labels-count)
	}
	return st.labelsOf()
}

// labelsOf returns the canonical text of the labels in st.tuple.
func (st *State) labelsOf() []byte {
	if len(st.labels) == 0 || !bytes.Equal(st.tuple, st.last) {
		st.last = append(st.last[:0], st.tuple...)
		st.labels = st.m.appendLabels(st.labels[:0], st.tuple)
	}
	return st.labels
}

// value appends the value of s to the tuple. It reports whether there is one.
func (st *State) value(rec *Record, in *Input, s *slot) bool {
	from := len(st.tuple)
	for i := range s.from {
		src := &s.from[i]
		if src.tag == nil && st.at[src.role] < 0 {
			continue // so are most
		}
		if st.tuple = src.appendText(st.tuple, st, rec, in); len(st.tuple) > from {
			if src.tag == nil {
				st.consumed = append(st.consumed, st.at[src.role])
			}
			return true
		}
	}
	return false
}

const (
	// maxAuto is how many fields of a record can become labels without being
	// named.
	maxAuto = 256
	// maxAutoValue is the longest value of such a label. Those of Kubernetes have
	// 63 characters.
	maxAutoValue = 256
)

// noteAuto notes node j, if its value can be a label, as one that becomes a label
// without being named.
func (st *State) noteAuto(k *key, rec *Record, j int) {
	if rec.Nodes[j].Kind < Array && len(st.auto) < maxAuto {
		st.auto = append(st.auto, field{k, rec, int32(j)})
	}
}

// addAuto appends the first n labels of st.auto, by name, to the tuple: length
// and text of name and value. Which they are does not depend on the order of the
// fields, so that records of one pod are one stream.
func (st *State) addAuto(rec *Record, n int) {
	sortAuto(st.auto)
	var last []byte
	for i := range st.auto {
		f := &st.auto[i]
		if n <= 0 {
			return
		}
		if last != nil && bytes.Equal(f.key.auto, last) {
			continue
		}
		st.text = AppendText(st.text[:0], rec, int(f.node))
		if len(st.text) == 0 || len(st.text) > maxAutoValue {
			continue
		}
		last = f.key.auto
		st.tuple = appendCounted(appendCounted(st.tuple, last), st.text)
		st.consumed = append(st.consumed, f.node)
		n--
	}
}

// sortAuto sorts by the names of labels, then by paths.
func sortAuto(f []field) {
	for i := 1; i < len(f); i++ {
		x := f[i]
		j := i
		for ; j > 0 && autoLess(x.key, f[j-1].key); j-- {
			f[j] = f[j-1]
		}
		f[j] = x
	}
}

func autoLess(a, b *key) bool {
	if c := bytes.Compare(a.auto, b.auto); c != 0 {
		return c < 0
	}
	return a.path < b.path
}

func appendCounted(dst, s []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// counted reads what appendCounted wrote.
func counted(p []byte) (s, rest []byte) {
	n := 4 + binary.LittleEndian.Uint32(p)
	return p[4:n], p[n:]
}

// appendLabels renders a tuple as labels.Labels.AppendString would.
func (m *Mapper) appendLabels(dst, tuple []byte) []byte {
	autos := tuple
	for i := range m.slots {
		if m.slots[i].static == "" {
			_, autos = counted(autos)
		}
	}
	dst = append(dst, '{')
	start := len(dst)
	for i := range m.slots {
		s := &m.slots[i]
		value := s.static
		if value == "" {
			var v []byte
			if v, tuple = counted(tuple); len(v) == 0 {
				continue
			}
			value = stringOf(v)
		}
		dst, autos = appendAutos(dst, start, autos, s.name)
		dst = appendLabel(dst, start, s.name, value)
	}
	dst, _ = appendAutos(dst, start, autos, "")
	return append(dst, '}')
}

// appendAutos appends the labels whose names are before the given one; "" means
// all.
func appendAutos(dst []byte, start int, autos []byte, before string) (out, rest []byte) {
	for len(autos) > 0 {
		name, next := counted(autos)
		if before != "" && stringOf(name) > before {
			break
		}
		var value []byte
		value, autos = counted(next)
		dst = appendLabel(dst, start, stringOf(name), stringOf(value))
	}
	return dst, autos
}

func appendLabel(dst []byte, start int, name, value string) []byte {
	if len(dst) > start {
		dst = append(dst, ',', ' ')
	}
	dst = append(dst, name...)
	dst = append(dst, '=')
	if !utf8.ValidString(value) {
		value = string(bytes.ToValidUTF8([]byte(value), []byte("\uFFFD")))
	}
	return labels.AppendValue(dst, value)
}
