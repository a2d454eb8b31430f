package otlp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// pair is a name, normalised, and a value.
type pair struct{ name, value []byte }

// scope is an InstrumentationScope. over says why its records cannot be kept.
type scope struct {
	name, version []byte
	attrs         *mapping.Record
	dropped       uint32
	over          error
}

// logRecord is a LogRecord. Attributes are the top nodes of attrs, the body is
// node 0 of body, if there is one. Ids are bytes, or text if idText is set.
type logRecord struct {
	time, observed  uint64
	severity        int32
	severityText    []byte
	body, attrs     *mapping.Record
	dropped, flags  uint32
	traceID, spanID []byte
	idText          bool
	event           []byte
	over            error
}

// emitter maps records to entries, as the package comment says. A decoder
// calls resource, scope and record as they follow each other in a request.
type emitter struct {
	labelKeys             map[string]struct{}
	maxValues, maxRecords int
	now                   func() int64
	bl                    *push.Builder
	mem                   memory
	tooMany               error // a record has more than maxValues

	records  int
	timeless bool // a record had no time of its own
	refused  int  // records
	why      string

	resOver error // why records of this resource cannot be kept
	over    error // the same, or for those of this scope
	label   []pair
	text    []byte // of the labels
	stream  int    // of the resource in bl, or -1

	shared []pair // metadata of resource and scope, in order of names
	res    []pair // of the resource
	sc     []pair // of the scope
	own    []pair // of a record
	// What pairs point to: of the resource, the scope, the record.
	resBuf, scBuf, buf []byte
}

func (e *emitter) reset(bl *push.Builder, now func() int64, mem memory) {
	e.bl, e.now, e.mem = bl, now, mem
	e.records, e.timeless, e.refused, e.why = 0, false, 0, ""
	e.resOver, e.over, e.stream = nil, nil, -1
}

// release lets go of what belongs to a request.
func (e *emitter) release() {
	e.bl, e.mem = nil, memory{}
	for _, p := range []*[]pair{&e.label, &e.shared, &e.res, &e.sc, &e.own} {
		clear((*p)[:cap(*p)])
	}
}

func (e *emitter) size() int {
	return cap(e.resBuf) + cap(e.scBuf) + cap(e.buf) + cap(e.text) + 48*(cap(e.own)+cap(e.shared)+cap(e.res)+cap(e.sc))
}

// maxNames bounds the names and rendered values of one record: a nested
// attribute has the names of all maps that it is in.
const maxNames = 1 << 20

// What makes a single record impossible to keep.
var (
	errTooDeep    = errors.New("a value is nested deeper than 100")
	errTooMuch    = errors.New("names and values of nested attributes are larger than 1 MiB")
	nameObserved  = []byte("observed_timestamp")
	nameNumber    = []byte("severity_number")
	nameText      = []byte("severity_text")
	nameDropped   = []byte("dropped_attributes_count")
	nameFlags     = []byte("flags")
	nameTrace     = []byte("trace_id")
	nameSpan      = []byte("span_id")
	nameEvent     = []byte("event_name")
	nameScope     = []byte("scope_name")
	nameVersion   = []byte("scope_version")
	nameScDropped = []byte("scope_dropped_attributes_count")
)

// refuses reports whether err is about a single record.
func (e *emitter) refuses(err error) bool {
	return err != nil && (err == errTooDeep || err == errTooMuch || err == e.tooMany)
}

// resource begins a resource; its attributes are the top nodes of attrs.
func (e *emitter) resource(attrs *mapping.Record, over error) {
	e.res, e.label, e.resBuf = e.res[:0], e.label[:0], e.resBuf[:0]
	e.stream, e.resOver = -1, over
	for i := 0; i < len(attrs.Nodes) && e.resOver == nil; i = attrs.Next(i) {
		if _, ok := e.labelKeys[string(attrs.Nodes[i].Key)]; ok {
			e.label, e.resBuf, e.resOver = flatten(e.label, e.resBuf, attrs, i, nil)
		} else {
			e.res, e.resBuf, e.resOver = flatten(e.res, e.resBuf, attrs, i, nil)
		}
	}
	e.scope(&scope{})
}

// scope begins a scope of the resource.
func (e *emitter) scope(s *scope) {
	if e.over = e.resOver; e.over == nil {
		e.over = s.over
	}
	e.sc, e.scBuf = e.sc[:0], e.scBuf[:0]
	if s.attrs != nil {
		for i := 0; i < len(s.attrs.Nodes) && e.over == nil; i = s.attrs.Next(i) {
			e.sc, e.scBuf, e.over = flatten(e.sc, e.scBuf, s.attrs, i, nil)
		}
	}
	if len(s.name) > 0 {
		e.sc = append(e.sc, pair{nameScope, s.name})
	}
	if len(s.version) > 0 {
		e.sc = append(e.sc, pair{nameVersion, s.version})
	}
	if s.dropped > 0 {
		from := len(e.scBuf)
		e.scBuf = strconv.AppendUint(e.scBuf, uint64(s.dropped), 10)
		e.sc = append(e.sc, pair{nameScDropped, e.scBuf[from:]})
	}
	e.shared = append(append(e.shared[:0], e.res...), e.sc...)
	sortPairs(e.shared)
}

// flatten appends the pairs that the attribute at node i makes: one, or those
// of all values in a map. Their names and texts are in buf, which grows.
func flatten(dst []pair, buf []byte, r *mapping.Record, i int, prefix []byte) ([]pair, []byte, error) {
	n := &r.Nodes[i]
	from := len(buf)
	if prefix == nil {
		buf = push.NormaliseName(buf, n.Key)
	} else {
		buf = append(append(append(buf, prefix...), '_'), n.Key...)
		raw := buf[from:]
		from = len(buf)
		buf = push.NormaliseName(buf, raw)
	}
	name := buf[from:len(buf):len(buf)]
	if len(buf) > maxNames {
		return dst, buf, errTooMuch
	}
	if n.Kind == mapping.Map {
		var err error
		for j, end := i+1, int(n.End); j < end && err == nil; j = r.Next(j) {
			dst, buf, err = flatten(dst, buf, r, j, name)
		}
		return dst, buf, err
	}
	value, buf := text(buf, r, i)
	if len(value) == 0 { // to Loki it is as if it were not there
		return dst, buf, nil
	}
	return append(dst, pair{name, value}), buf, nil
}

// sortPairs sorts by name and keeps equal ones in order. Pairs are few and
// often nearly sorted; many are left to a sort that does not mind disorder.
func sortPairs(p []pair) {
	if len(p) > 40 {
		slices.SortStableFunc(p, func(a, b pair) int { return bytes.Compare(a.name, b.name) })
		return
	}
	for i := 1; i < len(p); i++ {
		x := p[i]
		j := i
		for ; j > 0 && bytes.Compare(p[j-1].name, x.name) > 0; j-- {
			p[j] = p[j-1]
		}
		p[j] = x
	}
}

// record adds a record as an entry, or counts it as refused. An error ends the
// request.
func (e *emitter) record(r *logRecord) error {
	if e.records++; e.records > e.maxRecords {
		return push.Errorf(push.BodyTooLarge, "more than %d log records in one request", e.maxRecords)
	}
	if e.over != nil {
		return e.refuse(e.over)
	}
	if r.over != nil {
		return e.refuse(r.over)
	}
	e.own, e.buf = e.own[:0], e.buf[:0]
	for i := 0; i < len(r.attrs.Nodes); i = r.attrs.Next(i) {
		var err error
		if e.own, e.buf, err = flatten(e.own, e.buf, r.attrs, i, nil); err != nil {
			return e.refuse(err)
		}
	}
	ts := r.time
	switch {
	case ts != 0:
		if r.observed != 0 {
			e.number(nameObserved, int64(r.observed))
		}
	case r.observed != 0:
		ts = r.observed
	default:
		ts, e.timeless = uint64(e.now()), true
	}
	e.fields(r)
	var line []byte
	if len(r.body.Nodes) > 0 {
		line, e.buf = text(e.buf, r.body, 0)
	}
	if e.stream < 0 {
		e.stream = e.bl.Stream(e.labels())
	}
	e.addPairs()
	e.bl.EntryExact(e.stream, int64(ts), line)
	return e.mem.grow(e.bl)
}

func (e *emitter) refuse(err error) error {
	if e.refused++; e.refused == 1 {
		e.why = err.Error()
	}
	return nil
}

// fields adds the pairs of what is not an attribute.
func (e *emitter) fields(r *logRecord) {
	if r.severity != 0 {
		e.number(nameNumber, int64(r.severity))
	}
	if len(r.severityText) > 0 {
		e.own = append(e.own, pair{nameText, r.severityText})
	}
	if r.dropped != 0 {
		e.number(nameDropped, int64(r.dropped))
	}
	if r.flags != 0 {
		e.number(nameFlags, int64(r.flags))
	}
	e.id(nameTrace, r.traceID, r.idText)
	e.id(nameSpan, r.spanID, r.idText)
	if len(r.event) > 0 {
		e.own = append(e.own, pair{nameEvent, r.event})
	}
}

func (e *emitter) number(name []byte, v int64) {
	from := len(e.buf)
	e.buf = strconv.AppendInt(e.buf, v, 10)
	e.own = append(e.own, pair{name, e.buf[from:len(e.buf):len(e.buf)]})
}

// id adds an id in hex. One of zeros only is none.
func (e *emitter) id(name, id []byte, isText bool) {
	zero := byte(0)
	if isText {
		zero = '0'
	}
	for i := 0; ; i++ {
		if i == len(id) {
			return
		}
		if id[i] != zero {
			break
		}
	}
	if !isText {
		from := len(e.buf)
		e.buf = hex.AppendEncode(e.buf, id)
		id = e.buf[from:len(e.buf):len(e.buf)]
	}
	e.own = append(e.own, pair{name, id})
}

// addPairs gives the builder the metadata of the next entry in order of names,
// so that it need not sort. Of equal names the record's own comes first.
func (e *emitter) addPairs() {
	sortPairs(e.own)
	shared := e.shared
	for _, p := range e.own {
		for len(shared) > 0 && bytes.Compare(shared[0].name, p.name) < 0 {
			e.bl.Pair(shared[0].name, shared[0].value)
			shared = shared[1:]
		}
		e.bl.Pair(p.name, p.value)
	}
	for _, p := range shared {
		e.bl.Pair(p.name, p.value)
	}
}

// labels returns the canonical label text of the resource. Of equal names the
// last counts.
func (e *emitter) labels() []byte {
	sortPairs(e.label)
	t := append(e.text[:0], '{')
	for i, l := range e.label {
		if len(l.value) == 0 || i+1 < len(e.label) && bytes.Equal(l.name, e.label[i+1].name) {
			continue
		}
		if len(t) > 1 {
			t = append(t, ", "...)
		}
		v := l.value
		if !utf8.Valid(v) {
			v = bytes.ToValidUTF8(v, []byte("\uFFFD"))
		}
		t = append(append(t, l.name...), '=')
		// AppendValue reads the bytes and keeps nothing.
		t = labels.AppendValue(t, unsafe.String(unsafe.SliceData(v), len(v)))
	}
	e.text = append(t, '}')
	return e.text
}

// refusal returns what was refused here, for the answer.
func (e *emitter) refusal() string {
	if e.refused == 0 {
		return ""
	}
	return fmt.Sprintf("%d errors like: %s", e.refused, e.why)
}

// What an entry costs in the builder and in the batch besides its bytes, and
// the step in which memory is asked for.
const (
	entryCost = 56 + 32
	growStep  = 1 << 20
)

// memory asks for what a builder takes.
type memory struct {
	admit func(int64) error
	used  int64
	limit int64 // on the size of the builder
}

func (m *memory) grow(bl *push.Builder) error {
	held := 2*int64(bl.Size()) + int64(bl.Len())*entryCost
	if held <= m.used {
		return nil
	}
	if int64(bl.Size()) > m.limit {
		return push.Errorf(push.BodyTooLarge, "decoded request, with the attributes of its resources in every record, is larger than the limit of %d bytes", m.limit)
	}
	n := max(growStep, m.used/2)
	m.used += n
	return m.admit(n)
}
