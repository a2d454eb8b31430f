package otlp

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unsafe"

	"github.com/loki-go/loki-go/plugins/jsonscan"
	"github.com/loki-go/loki-go/plugins/mapping"
)

// jsonDecoder reads an ExportLogsServiceRequest in JSON: the mapping of
// protobuf to JSON with OTLP's own rules, ids in hex and enums as numbers. It
// takes what writers make of that: names with underscores, 64-bit integers as
// strings or numbers, enums by name. null is as if it were not there, keys that
// are not known are passed over.
type jsonDecoder struct {
	jsonscan.Scanner
	e     *emitter
	attrs mapping.Record // of a log record
	body  mapping.Record
	outer mapping.Record // attributes of a resource or a scope
	arena []byte         // strings that had escapes, of a record
	keep  []byte         // the same, of a resource and its scope

	resources, records int // numbers of what is being read, for errors
	inResource         bool
}

func (d *jsonDecoder) decode(p []byte) error {
	d.Reset(p, d.place)
	d.resources, d.records, d.inResource = 0, 0, false
	d.Space()
	err := d.message(func(key string) error {
		if key != "resourceLogs" && key != "resource_logs" {
			return d.Skip()
		}
		return d.list(func() error {
			d.inResource, d.records = true, 0
			err := d.resourceLogs()
			d.resources++
			return err
		})
	})
	if err != nil {
		return err
	}
	d.inResource = false
	return d.End()
}

// place says where in the request an error is.
func (d *jsonDecoder) place() string {
	if !d.inResource {
		return ""
	}
	return fmt.Sprintf("resource %d: record %d: ", d.resources, d.records)
}

// message reads an object, or null. member gets the known keys by name without
// allocating: it must compare them only.
func (d *jsonDecoder) message(member func(key string) error) error {
	if d.Null() {
		return nil
	}
	return d.Object(func(key []byte) error {
		if d.Null() {
			return nil
		}
		return member(noEscape(key))
	})
}

func (d *jsonDecoder) list(element func() error) error {
	if d.Null() {
		return nil
	}
	return d.Array(element)
}

// resourceLogs reads a resource and its records. Those that are written before
// the resource are come back to when it is known.
func (d *jsonDecoder) resourceLogs() error {
	d.keep = d.keep[:0]
	read := func() error { return d.list(d.scopeLogs) }
	return d.parts("resource", d.resource, "scopeLogs", "scope_logs", read)
}

func (d *jsonDecoder) scopeLogs() error {
	read := func() error { return d.list(d.countRecord) }
	return d.parts("scope", d.scope, "logRecords", "log_records", read)
}

// parts reads an object that has a head and a list, or its other name: the head
// first, or without one that there is none.
func (d *jsonDecoder) parts(head string, readHead func(there bool) error, list, list2 string, readList func() error) error {
	seen, early := false, -1
	err := d.message(func(key string) error {
		switch key {
		case head:
			if seen {
				return d.Fail("%q occurs twice", head)
			}
			seen = true
			return readHead(true)
		case list, list2:
			if seen {
				return readList()
			}
			if early >= 0 {
				return d.Fail("%q occurs twice", list)
			}
			early = d.Offset()
		}
		return d.Skip()
	})
	if err != nil {
		return err
	}
	if !seen {
		if err := readHead(false); err != nil {
			return err
		}
	}
	if early >= 0 {
		end := d.Offset()
		d.Seek(early)
		err = readList()
		d.Seek(end)
	}
	return err
}

func (d *jsonDecoder) resource(there bool) (err error) {
	d.outer.Reset()
	var over error
	if there {
		err = d.message(func(key string) error {
			if key != "attributes" {
				return d.Skip()
			}
			return d.attributes(&d.outer, &d.keep, &over)
		})
	}
	if err == nil {
		d.e.resource(&d.outer, over)
	}
	return err
}

func (d *jsonDecoder) scope(there bool) (err error) {
	d.outer.Reset()
	s := scope{attrs: &d.outer}
	if there {
		err = d.message(func(key string) (err error) {
			switch key {
			case "name":
				s.name, err = d.str(&d.keep)
			case "version":
				s.version, err = d.str(&d.keep)
			case "attributes":
				err = d.attributes(&d.outer, &d.keep, &s.over)
			case "droppedAttributesCount", "dropped_attributes_count":
				var n uint64
				n, err = d.unsigned()
				s.dropped = uint32(n)
			default:
				err = d.Skip()
			}
			return err
		})
	}
	if err == nil {
		d.e.scope(&s)
	}
	return err
}

func (d *jsonDecoder) countRecord() error {
	err := d.logRecord()
	d.records++
	return err
}

func (d *jsonDecoder) logRecord() error {
	if d.Null() {
		return nil
	}
	d.attrs.Reset()
	d.body.Reset()
	d.arena = d.arena[:0]
	r := logRecord{attrs: &d.attrs, body: &d.body, idText: true}
	err := d.message(func(key string) error { return d.recordField(&r, key) })
	if err != nil {
		return err
	}
	return d.e.record(&r)
}

func (d *jsonDecoder) recordField(r *logRecord, key string) (err error) {
	var n uint64
	switch key {
	case "timeUnixNano", "time_unix_nano":
		r.time, err = d.unsigned()
	case "observedTimeUnixNano", "observed_time_unix_nano":
		r.observed, err = d.unsigned()
	case "severityNumber", "severity_number":
		r.severity, err = d.severity()
	case "severityText", "severity_text":
		r.severityText, err = d.str(&d.arena)
	case "body":
		d.body.Reset()
		at := d.Offset()
		err = d.value(&d.body, &d.arena, 0)
		if d.e.refuses(err) {
			r.over = err
			d.Seek(at)
			err = d.Skip()
		}
	case "attributes":
		err = d.attributes(&d.attrs, &d.arena, &r.over)
	case "droppedAttributesCount", "dropped_attributes_count":
		n, err = d.unsigned()
		r.dropped = uint32(n)
	case "flags":
		n, err = d.unsigned()
		r.flags = uint32(n)
	case "traceId", "trace_id":
		r.traceID, err = d.hexID()
	case "spanId", "span_id":
		r.spanID, err = d.hexID()
	case "eventName", "event_name":
		r.event, err = d.str(&d.arena)
	default:
		err = d.Skip()
	}
	return err
}

// attributes reads a list of KeyValue. over gets the reason if there is more
// than can be kept; the rest is passed over then.
func (d *jsonDecoder) attributes(rec *mapping.Record, arena *[]byte, over *error) error {
	return d.list(func() error {
		if *over != nil {
			return d.Skip()
		}
		at := d.Offset()
		err := d.keyValue(rec, arena, 0)
		if d.e.refuses(err) {
			*over = err
			d.Seek(at)
			return d.Skip()
		}
		return err
	})
}

func (d *jsonDecoder) keyValue(rec *mapping.Record, arena *[]byte, depth int) error {
	if d.Null() {
		return nil
	}
	at := len(rec.Nodes)
	if at >= d.e.maxValues {
		return d.e.tooMany
	}
	rec.Nodes = append(rec.Nodes, mapping.Node{})
	var name []byte
	err := d.message(func(key string) (err error) {
		switch key {
		case "key":
			name, err = d.str(arena)
		case "value":
			rec.Nodes = rec.Nodes[:at]
			err = d.value(rec, arena, depth)
		default:
			err = d.Skip()
		}
		return err
	})
	if err == nil {
		rec.Nodes[at].Key = name
	}
	return err
}

// value reads an AnyValue. Of several values the last counts.
func (d *jsonDecoder) value(rec *mapping.Record, arena *[]byte, depth int) error {
	if len(rec.Nodes) >= d.e.maxValues {
		return d.e.tooMany
	}
	at := len(rec.Nodes)
	rec.Nodes = append(rec.Nodes, mapping.Node{})
	return d.message(func(key string) (err error) {
		rec.Nodes = rec.Nodes[:at+1]
		n := mapping.Node{Kind: mapping.String}
		switch key {
		case "stringValue", "string_value", "bytesValue", "bytes_value":
			n.Str, err = d.scalar(arena)
		case "boolValue", "bool_value":
			if n.Str, err = d.scalar(arena); string(n.Str) == "true" || string(n.Str) == "false" {
				n = mapping.Node{Kind: mapping.Bool, Num: uint64(len("false") - len(n.Str))}
			}
		case "intValue", "int_value":
			if n.Str, err = d.scalar(arena); err == nil {
				if v, err := strconv.ParseInt(noEscape(n.Str), 10, 64); err == nil {
					n = mapping.Node{Kind: mapping.Int, Num: uint64(v)}
				}
			}
		case "doubleValue", "double_value":
			if n.Str, err = d.scalar(arena); err == nil {
				if v, err := strconv.ParseFloat(noEscape(n.Str), 64); err == nil {
					n = mapping.Node{Kind: mapping.Float, Num: math.Float64bits(v)}
				}
			}
		case "arrayValue", "array_value":
			return d.container(rec, arena, depth, mapping.Array)
		case "kvlistValue", "kvlist_value":
			return d.container(rec, arena, depth, mapping.Map)
		default:
			return d.Skip()
		}
		rec.Nodes[at] = n
		return err
	})
}

// container reads an ArrayValue or a KeyValueList into the last node.
func (d *jsonDecoder) container(rec *mapping.Record, arena *[]byte, depth int, kind mapping.Kind) error {
	if depth == mapping.MaxDepth {
		return errTooDeep
	}
	at := len(rec.Nodes) - 1
	rec.Nodes[at] = mapping.Node{Kind: kind}
	err := d.message(func(key string) error {
		if key != "values" {
			return d.Skip()
		}
		return d.list(func() error {
			if kind == mapping.Map {
				return d.keyValue(rec, arena, depth+1)
			}
			return d.value(rec, arena, depth+1)
		})
	})
	rec.Nodes[at].End = int32(len(rec.Nodes))
	return err
}

// str reads a string; if it has escapes, into the arena.
func (d *jsonDecoder) str(arena *[]byte) ([]byte, error) {
	if d.Peek() != '"' {
		return nil, d.Fail("expected a string")
	}
	free := (*arena)[len(*arena):]
	buf := free
	s, err := d.Str(&buf)
	switch {
	case len(buf) == 0:
	case cap(buf) == cap(free):
		*arena = (*arena)[:len(*arena)+len(buf)]
	default: // it grew; what is in the old one stays there
		*arena = buf
	}
	return s[:len(s):len(s)], err
}

// scalar reads a string, or the text of a number, true or false.
func (d *jsonDecoder) scalar(arena *[]byte) ([]byte, error) {
	switch d.Peek() {
	case '"':
		return d.str(arena)
	case '{', '[':
		return nil, d.Fail("expected a string, a number, true or false")
	}
	return d.Raw()
}

// unsigned reads an integer that is not negative. Numbers with an exponent are
// what JavaScript makes of large ones.
func (d *jsonDecoder) unsigned() (uint64, error) {
	at := d.Offset()
	s, err := d.scalar(&d.arena)
	if err != nil {
		return 0, err
	}
	if v, err := strconv.ParseUint(noEscape(s), 10, 64); err == nil {
		return v, nil
	}
	if v, err := strconv.ParseFloat(noEscape(s), 64); err == nil && v >= 0 && v < 1<<63 && v == math.Trunc(v) {
		return uint64(v), nil
	}
	if len(s) == 0 {
		return 0, nil
	}
	d.Seek(at)
	return 0, d.Fail("%q is not an integer", s[:min(len(s), 100)])
}

// severity reads a SeverityNumber: a number, or SEVERITY_NUMBER_INFO2.
func (d *jsonDecoder) severity() (int32, error) {
	at := d.Offset()
	s, err := d.scalar(&d.arena)
	if err != nil {
		return 0, err
	}
	if v, err := strconv.ParseInt(noEscape(s), 10, 32); err == nil {
		return int32(v), nil
	}
	name, ok := strings.CutPrefix(noEscape(s), "SEVERITY_NUMBER_")
	if ok && name == "UNSPECIFIED" {
		return 0, nil
	}
	step := int32(0)
	if n := len(name); n > 0 && name[n-1] >= '2' && name[n-1] <= '4' {
		step, name = int32(name[n-1]-'1'), name[:n-1]
	}
	for i, level := range [...]string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"} {
		if ok && name == level {
			return int32(4*i+1) + step, nil
		}
	}
	d.Seek(at)
	return 0, d.Fail("%q is not a severity number", s[:min(len(s), 100)])
}

// hexID reads an id. Text that is no hex is kept as it is: some writers have
// base64, as protobuf's own rules want it.
func (d *jsonDecoder) hexID() ([]byte, error) {
	s, err := d.str(&d.arena)
	for _, c := range s {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
			return s, err
		}
	}
	for _, c := range s {
		if c >= 'A' && c <= 'F' {
			from := len(d.arena)
			d.arena = append(d.arena, bytes.ToLower(s)...)
			return d.arena[from:len(d.arena):len(d.arena)], err
		}
	}
	return s, err
}

// noEscape returns b as a string that is good for as long as b does not change:
// for a comparison or a parser of numbers.
func noEscape(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// release lets go of what belongs to a request.
func (d *jsonDecoder) release() {
	d.Reset(nil, nil)
	releaseRecords(&d.attrs, &d.body, &d.outer)
}

func (d *jsonDecoder) size() int { return cap(d.arena) + cap(d.keep) }
