package mapping

import (
	"slices"

	"github.com/loki-go/loki-go/proto/push"
)

// whole adds an entry whose line is the whole record.
func (st *State) whole(rec *Record, in *Input, bl *push.Builder, stream int, format lineFormat) {
	beside := st.wholePairs(rec, in, bl)
	if beside && format == formatLogfmt {
		format = formatJSON
	}
	st.leaveOut()
	st.line = st.wholeText(st.line[:0], rec, format, beside)
	if beside && hasFields(in.Meta) {
		st.line = appendInternal(st.line, in.Meta)
	}
	bl.Entry(stream, in.TS, st.line)
}

// wholePairs gives the builder the metadata of an entry whose line is the whole
// record. It reports whether what is beside the record has no place in it.
func (st *State) wholePairs(rec *Record, in *Input, bl *push.Builder) (beside bool) {
	m := st.m
	st.given = st.given[:0]
	if m.metadata == metadataNone {
		return hasFields(in.Meta)
	}
	// Fields of the record are metadata as well if they are listed; of a record
	// that has been read in part only, none.
	if over := st.over; over || len(m.listed) == 0 {
		st.pairs = st.pairs[:0]
	}
	st.pairs = slices.DeleteFunc(st.pairs, func(f field) bool { return f.rec != rec || !f.key.listed })
	if m.strip {
		for i := range st.pairs {
			st.given = append(st.given, st.pairs[i].node)
		}
	}
	st.addTags(in)
	if hasFields(in.Meta) {
		st.walk(in.Meta, walk{collect: true})
	}
	if !st.over && st.addPairs(in, bl, rec, -1) {
		return false
	}
	st.given = st.given[:0]
	for i, k := range st.keys.tags {
		if value := m.tags[i].tagText(in.Tag); len(value) > 0 {
			bl.Pair(k.name, value)
		}
	}
	return true
}

// leaveOut sets what the line is without.
func (st *State) leaveOut() {
	st.skips.reset()
	st.skips.add(st.removed...)
	if st.m.strip {
		st.skips.add(st.consumed...)
		st.skips.add(st.used...)
		st.skips.add(st.given...)
	}
	st.skips.sort()
}

func (st *State) wholeText(dst []byte, rec *Record, format lineFormat, beside bool) []byte {
	var sk *skips
	if len(st.skips.nodes) > 0 {
		sk = &st.skips
	}
	if st.m.single != singleOff && !beside {
		if i := st.skips.single(rec); i >= 0 {
			st.skips.rewind()
			if format == formatJSON && st.m.single == singleOn || rec.Nodes[i].Kind >= Array {
				return appendJSON(dst, rec, i, sk)
			}
			return AppendText(dst, rec, i)
		}
		st.skips.rewind()
	}
	if format == formatLogfmt {
		return appendLogfmt(dst, rec, 0, sk)
	}
	return appendJSON(dst, rec, 0, sk)
}

// appendInternal adds what is beside a record to its JSON, where Fluent Bit's
// JSON has it.
func appendInternal(line []byte, meta *Record) []byte {
	line = line[:len(line)-1] // the closing brace
	if len(line) > 1 {
		line = append(line, ',')
	}
	line = append(line, `"__internal__":{"log_metadata":`...)
	line = AppendJSON(line, meta, 0)
	return append(line, '}', '}')
}
