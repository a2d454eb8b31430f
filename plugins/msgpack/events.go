package msgpack

import (
	"encoding/binary"
	"encoding/hex"
	"math"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// MaxEvent is the largest event that Events returns, in bytes. It bounds the
// memory that one record can take on its way.
const MaxEvent = 16 << 20

// What the metadata of a group may have. It is repeated with each event of the
// group, which may be five bytes long.
const (
	maxGroupBytes = 16 << 10
	maxGroupNodes = 256
)

// Drop says why Events has passed something over.
type Drop uint8

const (
	DropShape   Drop = iota // not an array of a time and a record
	DropTime                // the time is not one
	DropRecord              // the record is not a map
	DropDepth               // nested deeper than MaxDepth
	DropValues              // more than mapping.MaxNodes values
	DropKey                 // a map key that is too large, or has such a key inside
	DropSize                // larger than MaxEvent
	DropGarbage             // what is not MessagePack, or is cut short; all behind it is lost
	DropGroup               // metadata of a group that is too large; its events are not dropped
	NumDrops
)

var dropNames = [NumDrops]string{
	DropShape: "not_an_event", DropTime: "bad_time", DropRecord: "not_a_map", DropDepth: "too_deep",
	DropValues: "too_many_values", DropKey: "bad_key", DropSize: "too_large", DropGarbage: "garbage",
	DropGroup: "group_too_large",
}

func (d Drop) String() string {
	if d < NumDrops {
		return dropNames[d]
	}
	return "unknown"
}

// Events walks log events in the forms that Fluentd and Fluent Bit have, one
// behind the other:
//
//	[time, record]
//	[[time, metadata], record]
//
// A time is an EventTime (ext type 0: seconds and nanoseconds), an integer or a
// float. Numbers are seconds; those that would be later than the year 5138 are
// milliseconds, microseconds or nanoseconds, as their size suggests (one
// library for Node.js sends milliseconds). Floats are good for microseconds at
// most and rounded to that. nil and a time within the second 0 mean now.
//
// What is not an event is passed over and counted in Drops.
//
// Fluent Bit puts OTLP records between two markers, which look like events of
// the year 2106: the first one has the resource and the scope as its record.
// Events does not return markers. The events between them get the attributes
// of resource and scope as metadata under their own names, and what else there
// is as resource.schema_url, scope.name, scope.version. In metadata the fields
// below otlp stand for themselves (severity_text, not otlp.severity_text), so
// do those below otlp.attributes, and trace_id and span_id are hexadecimal:
// names and values are as Loki's OTLP receiver makes them.
//
//	var e msgpack.Events
//	for e.Reset(data, now); e.Next(); {
//		use(e.TS, &e.Record, e.Meta)
//	}
//
// An Events keeps its memory from one Reset to the next.
type Events struct {
	TS     int64           // of the event, in nanoseconds since the epoch
	Record mapping.Record  // of the event; the top is a map
	Meta   *mapping.Record // nil if there is none
	Drops  [NumDrops]int   // since Reset
	// OnDrop, if set, is shown every piece of the input that Next passes over.
	// The piece is part of the input.
	OnDrop func(why Drop, piece []byte)

	p   []byte
	at  int
	now int64

	records, metas, groups Scanner // each keeps what its last record refers to
	own                    mapping.Record
	joined                 mapping.Record
	group                  mapping.Record // metadata for the events of the group; no nodes: none
	ids                    []byte
}

// Reset makes e walk p, which must not change while the events are used. now
// stands in for times that are not given.
func (e *Events) Reset(p []byte, now int64) {
	e.p, e.at, e.now = p, 0, now
	e.Drops = [NumDrops]int{}
	e.Meta = nil
	e.group.Reset()
}

// Dropped returns how many entries have been passed over since Reset.
func (e *Events) Dropped() int {
	n := 0
	for d, c := range e.Drops {
		if Drop(d) != DropGroup {
			n += c
		}
	}
	return n
}

// Next moves to the next event. TS, Record and Meta are valid until the next
// call and refer to the input.
func (e *Events) Next() bool {
	for e.at < len(e.p) {
		next, drop := e.entry(e.at)
		if drop == none || drop == marker {
			e.at = next
			if drop == none {
				return true
			}
			continue
		}
		from := e.at
		if next, err := Skip(e.p, e.at); err == nil {
			e.at = next
		} else {
			e.at, drop = len(e.p), DropGarbage
		}
		e.Drops[drop]++
		if e.OnDrop != nil {
			e.OnDrop(drop, e.p[from:e.at])
		}
	}
	return false
}

func (e *Events) drop(why Drop, raw []byte) {
	e.Drops[why]++
	if e.OnDrop != nil {
		e.OnDrop(why, raw)
	}
}

// Single makes e hold the one event whose time and record lie at two places of
// p, as in a message of the forward protocol. meta is its metadata, a value of
// its own; none if it is empty. Single returns false if there is no event,
// having counted why.
func (e *Events) Single(p []byte, timeAt, recordAt int, meta []byte, now int64) bool {
	e.Reset(p, now)
	drop := e.single(timeAt, recordAt, meta)
	if drop < NumDrops {
		end, err := Skip(p, recordAt)
		if err != nil {
			end = len(p)
		}
		e.drop(drop, p[timeAt:end])
	}
	return drop == none
}

func (e *Events) single(timeAt, recordAt int, meta []byte) Drop {
	t, _, ok := e.time(timeAt)
	if !ok {
		return DropTime
	}
	e.own.Reset()
	if len(meta) > 0 {
		if _, err := e.metas.Scan(&e.own, meta, 0); err != nil {
			return dropOf(err)
		}
	}
	_, drop := e.body(t, recordAt)
	return drop
}

// What entry and body say if there is nothing to count.
const (
	none   = NumDrops + iota // an event
	marker                   // the start or end of a group
)

// entry reads the entry at i. next is the index behind it unless it is to be
// dropped.
func (e *Events) entry(i int) (next int, drop Drop) {
	n, at, ok := ReadArray(e.p, i)
	if !ok || n < 2 {
		return i, DropShape
	}
	inner, j, withMeta := ReadArray(e.p, at)
	if withMeta {
		if inner != 2 {
			return i, DropTime
		}
		at = j
	}
	t, at, ok := e.time(at)
	if !ok {
		return i, DropTime
	}
	e.own.Reset()
	if withMeta {
		var err error
		if at, err = e.metas.Scan(&e.own, e.p, at); err != nil {
			return i, dropOf(err)
		}
	}
	next, drop = e.body(t, at)
	for ; n > 2 && drop >= NumDrops; n-- { // nobody sends more than two; they mean nothing
		var err error
		if next, err = Skip(e.p, next); err != nil {
			return i, DropGarbage
		}
	}
	if next-i > MaxEvent && drop == none {
		return i, DropSize
	}
	return next, drop
}

// body reads the record at i, whose metadata is in e.own.
func (e *Events) body(t stamp, i int) (next int, drop Drop) {
	if t.mark == groupEnd {
		e.group.Reset()
		next, err := Skip(e.p, i)
		if err != nil {
			return i, DropGarbage
		}
		return next, marker
	}
	if _, _, ok := ReadMap(e.p, i); !ok {
		return i, DropRecord
	}
	if t.mark == groupStart {
		return e.startGroup(i)
	}
	next, err := e.records.Scan(&e.Record, e.p, i)
	if err != nil {
		return i, dropOf(err)
	}
	if next-i > MaxEvent {
		return i, DropSize
	}
	e.TS = t.ns
	e.Meta = e.join()
	return next, none
}

func dropOf(err error) Drop {
	switch err {
	case ErrDepth:
		return DropDepth
	case ErrTooMany:
		return DropValues
	case ErrKey:
		return DropKey
	}
	return DropGarbage
}

// stamp is the time of an entry.
type stamp struct {
	ns   int64
	mark uint8
}

const (
	groupStart = iota + 1
	groupEnd
)

const eventTimeSize = 8

// time reads the time at i.
func (e *Events) time(i int) (t stamp, next int, ok bool) {
	if len(e.p)-i < 1 {
		return t, i, false
	}
	switch c, rest := e.p[i], e.p[i:]; {
	case c == 0xd7 && len(rest) >= 2+eventTimeSize && rest[1] == 0:
		return e.eventTime(rest[2:]), i + 2 + eventTimeSize, true
	case c == 0xc7 && len(rest) >= 3+eventTimeSize && rest[1] == eventTimeSize && rest[2] == 0:
		return e.eventTime(rest[3:]), i + 3 + eventTimeSize, true
	case c == 0xca && len(rest) >= 5:
		t.ns, ok = e.float(float64(math.Float32frombits(binary.BigEndian.Uint32(rest[1:]))))
		return t, i + 5, ok
	case c == 0xcb && len(rest) >= 9:
		t.ns, ok = e.float(math.Float64frombits(binary.BigEndian.Uint64(rest[1:])))
		return t, i + 9, ok
	case c == 0xc0:
		t.ns = e.now
		return t, i + 1, true
	}
	v, next, ok := ReadInt(e.p, i)
	if ok {
		t.ns = e.integer(v)
	}
	return t, next, ok
}

func (e *Events) eventTime(b []byte) stamp {
	sec, ns := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	switch {
	case sec == 0:
		return stamp{ns: e.now}
	case sec == 0xffffffff && ns == 0:
		return stamp{mark: groupStart}
	case sec == 0xfffffffe && ns == 0:
		return stamp{mark: groupEnd}
	}
	return stamp{ns: int64(sec)*1e9 + int64(ns)}
}

// Numbers that are larger than these are milliseconds, microseconds,
// nanoseconds.
const (
	maxSeconds = 1e11
	maxMillis  = 1e14
	maxMicros  = 1e17
)

// The years of int64 nanoseconds end before those of seconds below maxSeconds;
// times outside are clamped, for the distributor to refuse with a reason.
const maxExact = math.MaxInt64 / 1_000_000_000

func (e *Events) integer(v int64) int64 {
	switch a := max(v, -v); {
	case v == 0:
		return e.now
	case a < 0: // the least int64
		return v
	case a < maxSeconds:
		return min(max(v, -maxExact), maxExact) * 1e9
	case a < maxMillis:
		return min(max(v, -maxExact*1e3), maxExact*1e3) * 1e6
	case a < maxMicros:
		v = min(max(v, -maxExact*1e6), maxExact*1e6)
		return v * 1e3
	}
	return v
}

func (e *Events) float(f float64) (int64, bool) {
	a := math.Abs(f)
	switch {
	case !(a < math.MaxInt64): // NaN, too
		return 0, false
	case a < 1:
		return e.now, true
	case a < maxSeconds:
		f *= 1e6
	case a < maxMillis:
		f *= 1e3
	case a >= maxMicros:
		return int64(f), true
	}
	const most = math.MaxInt64 / 1000
	return int64(math.Round(min(max(f, -most), most))) * 1000, true
}

// startGroup reads the record of a group's start, and makes of it what the
// events of the group get as metadata.
func (e *Events) startGroup(i int) (next int, drop Drop) {
	e.group.Reset()
	next, err := e.groups.Scan(&e.joined, e.p, i)
	if err != nil {
		return i, dropOf(err)
	}
	if next-i > maxGroupBytes || len(e.joined.Nodes) > maxGroupNodes {
		e.drop(DropGroup, e.p[i:next])
		return next, marker
	}
	e.lift(&e.joined)
	return next, marker
}

// lift makes of r, the record of a group's start, what its events get.
func (e *Events) lift(r *mapping.Record) {
	nodes := append(e.group.Nodes[:0], mapping.Node{Kind: mapping.Map})
	for j := 1; j < len(r.Nodes); j = r.Next(j) {
		nodes = appendLifted(nodes, r, j)
	}
	if nodes[0].End = int32(len(nodes)); len(nodes) == 1 {
		nodes = nodes[:0]
	}
	e.group.Nodes = nodes
}

// Join makes the metadata of an event from its own and that of its group, as
// Next does, for a receiver that has read them from another format. Both are
// maps, or nil; they are not kept. The result, nil if there is none, is valid
// until another method of e is called, and while the two are.
func (e *Events) Join(group, own *mapping.Record) *mapping.Record {
	e.group.Reset()
	if group != nil {
		e.lift(group)
	}
	e.own.Reset()
	if own != nil {
		e.own.Nodes = append(e.own.Nodes, own.Nodes...)
	}
	return e.join()
}

// appendLifted appends node i of r; what its field attributes has comes before
// it, without the path. Of a map that then is empty nothing is left.
func appendLifted(dst []mapping.Node, r *mapping.Record, i int) []mapping.Node {
	n := &r.Nodes[i]
	if n.Kind != mapping.Map {
		return appendTree(dst, r, i)
	}
	attrs := r.Field(i, "attributes")
	if attrs >= 0 && r.Nodes[attrs].Kind == mapping.Map {
		dst = appendFields(dst, r, attrs)
	} else {
		attrs = -1
	}
	at := len(dst)
	dst = append(dst, *n)
	for j := i + 1; j < int(n.End); j = r.Next(j) {
		if j != attrs {
			dst = appendTree(dst, r, j)
		}
	}
	if len(dst) == at+1 {
		return dst[:at]
	}
	dst[at].End = int32(len(dst))
	return dst
}

// appendFields appends what is in map i of r.
func appendFields(dst []mapping.Node, r *mapping.Record, i int) []mapping.Node {
	for j, end := i+1, int(r.Nodes[i].End); j < end; j = r.Next(j) {
		dst = appendTree(dst, r, j)
	}
	return dst
}

// appendTree appends node i of r and all below it.
func appendTree(dst []mapping.Node, r *mapping.Record, i int) []mapping.Node {
	shift := int32(len(dst) - i)
	from := len(dst)
	dst = append(dst, r.Nodes[i:r.Next(i)]...)
	for k := from; k < len(dst); k++ {
		dst[k].End += shift // of no meaning but in maps and arrays
	}
	return dst
}

// join makes the metadata of an event: that of its group and its own.
func (e *Events) join() *mapping.Record {
	own := len(e.own.Nodes) > 1 && e.own.Nodes[0].Kind == mapping.Map
	grouped := len(e.group.Nodes) > 0
	switch {
	case !own && !grouped:
		return nil
	case !own:
		return &e.group
	case !grouped && e.own.Field(0, "otlp") < 0:
		return &e.own
	}
	e.ids = e.ids[:0]
	nodes := append(e.joined.Nodes[:0], e.group.Nodes...)
	if !grouped {
		nodes = append(nodes, mapping.Node{Kind: mapping.Map})
	}
	for j := 1; j < len(e.own.Nodes); j = e.own.Next(j) {
		if n := &e.own.Nodes[j]; n.Kind == mapping.Map && string(n.Key) == "otlp" {
			nodes = e.appendOTLP(nodes, j)
		} else {
			nodes = appendTree(nodes, &e.own, j)
		}
	}
	e.joined.Nodes = nodes
	if nodes[0].End = int32(len(nodes)); len(nodes) == 1 {
		return nil
	}
	return &e.joined
}

// appendOTLP appends the fields of node i of e.own, those of a log record of
// OTLP.
func (e *Events) appendOTLP(dst []mapping.Node, i int) []mapping.Node {
	for j, end := i+1, int(e.own.Nodes[i].End); j < end; j = e.own.Next(j) {
		switch n := &e.own.Nodes[j]; {
		case n.Kind == mapping.Map && string(n.Key) == "attributes":
			dst = appendFields(dst, &e.own, j)
		case n.Kind == mapping.Bytes && (string(n.Key) == "trace_id" || string(n.Key) == "span_id"):
			from := len(e.ids)
			e.ids = hex.AppendEncode(e.ids, n.Str)
			dst = append(dst, mapping.Node{Kind: mapping.String, Key: n.Key, Str: e.ids[from:len(e.ids):len(e.ids)]})
		default:
			dst = appendTree(dst, &e.own, j)
		}
	}
	return dst
}
