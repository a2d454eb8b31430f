package otlp

import (
	"encoding/binary"
	"errors"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// fields walks over one message in protobuf. It trusts nothing, and it is
// lenient: strings need not be UTF-8, and a field of an unexpected wire type is
// one that is not known.
type fields struct {
	p   []byte
	num uint64
	typ protowire.Type
	n   uint64 // varint, fixed32, fixed64
	b   []byte // bytes
	bad bool   // the message breaks off, or is none
}

// next moves to the next field.
func (f *fields) next() bool {
	if len(f.p) == 0 {
		return false
	}
	tag, ok := f.varint()
	if f.num, f.typ = tag>>3, protowire.Type(tag&7); !ok || f.num == 0 || f.num > uint64(protowire.MaxValidNumber) {
		return f.fail()
	}
	switch f.typ {
	case protowire.VarintType:
		f.n, ok = f.varint()
	case protowire.BytesType:
		var n uint64
		if n, ok = f.varint(); ok {
			if ok = n <= uint64(len(f.p)); ok {
				f.b, f.p = f.p[:n:n], f.p[n:]
			}
		}
	case protowire.Fixed64Type:
		if ok = len(f.p) >= 8; ok {
			f.n, f.p = binary.LittleEndian.Uint64(f.p), f.p[8:]
		}
	case protowire.Fixed32Type:
		if ok = len(f.p) >= 4; ok {
			f.n, f.p = uint64(binary.LittleEndian.Uint32(f.p)), f.p[4:]
		}
	default:
		n := protowire.ConsumeFieldValue(protowire.Number(f.num), f.typ, f.p)
		if ok = n >= 0; ok {
			f.p = f.p[n:]
		}
	}
	return ok || f.fail()
}

func (f *fields) varint() (uint64, bool) {
	if len(f.p) > 0 && f.p[0] < 0x80 {
		v := uint64(f.p[0])
		f.p = f.p[1:]
		return v, true
	}
	v, n := protowire.ConsumeVarint(f.p)
	if n < 0 {
		return 0, false
	}
	f.p = f.p[n:]
	return v, true
}

func (f *fields) fail() bool {
	f.bad, f.p = true, nil
	return false
}

// is reports whether the field is number num and holds bytes.
func (f *fields) is(num uint64) bool { return f.num == num && f.typ == protowire.BytesType }

var errTruncated error = push.Errorf(push.Malformed, "protobuf: a message breaks off or is none")

func (f *fields) err() error {
	if f.bad {
		return errTruncated
	}
	return nil
}

// protoDecoder reads an ExportLogsServiceRequest in protobuf. Field numbers are
// those of opentelemetry/proto/{logs,common,resource}/v1, release 1.x.
type protoDecoder struct {
	e     *emitter
	attrs mapping.Record // of a resource, a scope or a log record
	body  mapping.Record
}

func (d *protoDecoder) decode(p []byte) error {
	f := fields{p: p}
	for f.next() {
		if f.is(1) {
			if err := d.resourceLogs(f.b); err != nil {
				return err
			}
		}
	}
	return f.err()
}

// resourceLogs reads the resource first: it may be written behind its records.
func (d *protoDecoder) resourceLogs(p []byte) error {
	d.attrs.Reset()
	var over error
	f := fields{p: p}
	for f.next() {
		if f.is(1) {
			g := fields{p: f.b}
			for g.next() {
				if g.is(1) && over == nil {
					over = d.attribute(&d.attrs, g.b)
				}
			}
			if g.bad {
				return errTruncated
			}
		}
	}
	if f.bad || errors.Is(over, errTruncated) {
		return errTruncated
	}
	d.e.resource(&d.attrs, over)
	f = fields{p: p}
	for f.next() {
		// 1000 are the records of instrumentation libraries, as scopes were
		// called up to release 0.15; their messages have the same fields.
		if f.is(2) || f.is(1000) {
			if err := d.scopeLogs(f.b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *protoDecoder) scopeLogs(p []byte) error {
	d.attrs.Reset()
	var s scope
	f := fields{p: p}
	for f.next() {
		if f.is(1) {
			if err := d.scope(&s, f.b); err != nil {
				return err
			}
		}
	}
	if f.bad || errors.Is(s.over, errTruncated) {
		return errTruncated
	}
	s.attrs = &d.attrs
	d.e.scope(&s)
	f = fields{p: p}
	for f.next() {
		if f.is(2) {
			if err := d.logRecord(f.b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *protoDecoder) scope(s *scope, p []byte) error {
	f := fields{p: p}
	for f.next() {
		switch {
		case f.is(1):
			s.name = f.b
		case f.is(2):
			s.version = f.b
		case f.is(3) && s.over == nil:
			s.over = d.attribute(&d.attrs, f.b)
		case f.num == 4 && f.typ == protowire.VarintType:
			s.dropped = uint32(f.n)
		}
	}
	return f.err()
}

func (d *protoDecoder) logRecord(p []byte) error {
	d.attrs.Reset()
	d.body.Reset()
	r := logRecord{attrs: &d.attrs, body: &d.body}
	f := fields{p: p}
	for f.next() {
		switch f.typ {
		case protowire.BytesType:
			d.bytesField(&r, f.num, f.b)
		case protowire.Fixed64Type:
			switch f.num {
			case 1:
				r.time = f.n
			case 11:
				r.observed = f.n
			}
		case protowire.VarintType:
			switch f.num {
			case 2:
				r.severity = int32(f.n)
			case 7:
				r.dropped = uint32(f.n)
			}
		case protowire.Fixed32Type:
			if f.num == 8 {
				r.flags = uint32(f.n)
			}
		}
	}
	if f.bad || errors.Is(r.over, errTruncated) {
		return errTruncated
	}
	return d.e.record(&r)
}

func (d *protoDecoder) bytesField(r *logRecord, num uint64, b []byte) {
	if r.over != nil {
		return
	}
	switch num {
	case 3:
		r.severityText = b
	case 5:
		d.body.Reset()
		r.over = d.value(&d.body, nil, b, 0)
	case 6:
		r.over = d.attribute(&d.attrs, b)
	case 9:
		r.traceID = b
	case 10:
		r.spanID = b
	case 12:
		r.event = b
	}
}

// attribute adds a KeyValue to a list of attributes.
func (d *protoDecoder) attribute(rec *mapping.Record, p []byte) error {
	return d.keyValue(rec, p, 0)
}

func (d *protoDecoder) keyValue(rec *mapping.Record, p []byte, depth int) error {
	var key, value []byte
	f := fields{p: p}
	for f.next() {
		switch {
		case f.is(1):
			key = f.b
		case f.is(2):
			value = f.b
		}
	}
	if f.bad {
		return errTruncated
	}
	return d.value(rec, key, value, depth)
}

// value adds an AnyValue to rec. Of several values the last counts.
func (d *protoDecoder) value(rec *mapping.Record, key, p []byte, depth int) error {
	if len(rec.Nodes) >= d.e.maxValues {
		return d.e.tooMany
	}
	n := mapping.Node{Key: key}
	var inner []byte
	f := fields{p: p}
	for f.next() {
		switch {
		case f.is(1):
			n.Kind, n.Str = mapping.String, f.b
		case f.is(5):
			n.Kind, inner = mapping.Array, f.b
		case f.is(6):
			n.Kind, inner = mapping.Map, f.b
		case f.is(7):
			n.Kind, n.Str = mapping.Bytes, f.b
		case f.num == 2 && f.typ == protowire.VarintType:
			n.Kind, n.Num = mapping.Bool, min(f.n, 1)
		case f.num == 3 && f.typ == protowire.VarintType:
			n.Kind, n.Num = mapping.Int, f.n
		case f.num == 4 && f.typ == protowire.Fixed64Type:
			n.Kind, n.Num = mapping.Float, f.n
		}
	}
	if f.bad {
		return errTruncated
	}
	at := len(rec.Nodes)
	rec.Nodes = append(rec.Nodes, n)
	if n.Kind < mapping.Array {
		return nil
	}
	if depth == mapping.MaxDepth {
		return errTooDeep
	}
	f = fields{p: inner}
	for f.next() {
		if !f.is(1) {
			continue
		}
		var err error
		if n.Kind == mapping.Map {
			err = d.keyValue(rec, f.b, depth+1)
		} else {
			err = d.value(rec, nil, f.b, depth+1)
		}
		if err != nil {
			return err
		}
	}
	rec.Nodes[at].End = int32(len(rec.Nodes))
	return f.err()
}

// release lets go of what belongs to a request.
func (d *protoDecoder) release() { releaseRecords(&d.attrs, &d.body) }

func releaseRecords(records ...*mapping.Record) {
	for _, r := range records {
		clear(r.Nodes[:cap(r.Nodes)])
	}
}
