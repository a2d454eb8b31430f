package explain

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/plugins/msgpack"
)

// run is one Run.
type run struct {
	o    Options
	p    *printer
	now  time.Time
	st   *mapping.State
	g    mapping.Batches
	in   mapping.Input
	http *httpReceiver // for JSON; nil: st maps
}

func (r *run) open() (err error) {
	m, err := mapping.New(r.o.Mapping.For(r.o.Receiver), r.o.Limits)
	if err != nil {
		return err
	}
	r.st = m.Acquire()
	r.in = mapping.Input{Job: r.o.Receiver, Tenant: r.o.Tenant, Tag: []byte(r.o.Tag)}
	switch r.o.Receiver {
	case "json", "logstash", "fluentbit":
		r.http, err = newHTTPReceiver(r, m)
	case "elasticsearch", "syslog":
		r.in.LineKey = "message"
	}
	return err
}

// isMsgpack tells MessagePack from JSON: its records are maps and arrays, whose
// first bytes are no ASCII.
func isMsgpack(data []byte) bool {
	if len(data) == 0 {
		return false
	}
	c := data[0]
	return c >= 0x80 && c < 0xa0 || c >= 0xdc && c <= 0xdf
}

// json explains the JSON values in data. Behind a broken one it goes on with the
// next line.
func (r *run) json(data []byte) {
	var s mapping.Stream
	var rec mapping.Record
	for s.Reset(data, true); ; {
		from := s.Offset()
		err := s.Next(&rec)
		if err == io.EOF {
			return
		}
		if err == nil && rec.Nodes[0].Kind == mapping.Map {
			// Only white space, commas and brackets can stand before it.
			from += max(bytes.IndexByte(data[from:], '{'), 0)
			r.jsonRecord(&rec, data[from:s.Offset()], from)
			continue
		}
		from += len(data[from:]) - len(bytes.TrimLeft(data[from:], " \t\r\n,"))
		r.p.problem(jsonProblem(err, from))
	}
}

func jsonProblem(err error, from int) (offset int, text string) {
	var syntax *mapping.SyntaxError
	var value *mapping.ValueError
	switch {
	case errors.As(err, &syntax):
		return syntax.Offset, "not JSON: " + syntax.Msg
	case errors.As(err, &value):
		return value.Offset, "not a record: " + value.Msg
	case err != nil:
		return from, err.Error()
	}
	return from, "the value here is not an object"
}

func (r *run) jsonRecord(rec *mapping.Record, text []byte, offset int) {
	if r.http != nil {
		if problem := r.http.take(text); problem != "" {
			r.p.problem(offset, problem)
		}
		return
	}
	ts, node := int64(0), -1
	if r.o.Receiver == "elasticsearch" {
		ts, node = mapping.EventTime(rec)
	}
	if node >= 0 {
		rec.Nodes[node].Used = true
	} else {
		ts = r.now.UnixNano()
	}
	r.record(rec, nil, ts)
}

// record explains one record.
func (r *run) record(rec, meta *mapping.Record, ts int64) {
	r.in.TS, r.in.Meta = ts, meta
	r.st.Add(rec, &r.in, &r.g) // there is room for one tenant
	for _, b := range r.g.Finish() {
		r.p.batch(b, r.now)
	}
	r.g.Reset()
}

// msgpack explains the values in data: runs of entries, which may have markers
// of groups between them, and maps.
func (r *run) msgpack(data []byte) {
	for at := 0; at < len(data); {
		from := at
		for at < len(data) && !isMap(data[at]) {
			next, err := msgpack.Skip(data, at)
			if err != nil {
				r.events(data[from:at], from)
				r.p.problem(at, err.Error())
				return
			}
			at = next
		}
		r.events(data[from:at], from)
		if at == len(data) {
			return
		}
		next, err := msgpack.Skip(data, at)
		if err != nil {
			r.p.problem(at, err.Error())
			return
		}
		r.msgpackMap(data, at)
		at = next
	}
}

func isMap(c byte) bool { return c >= 0x80 && c < 0x90 || c == 0xde || c == 0xdf }

func (r *run) msgpackMap(data []byte, at int) {
	var s msgpack.Scanner
	var rec mapping.Record
	if _, err := s.Scan(&rec, data, at); err != nil {
		r.p.problem(at, err.Error())
		return
	}
	r.record(&rec, nil, r.now.UnixNano())
}

// events explains a run of entries, which starts at an offset of the input.
func (r *run) events(p []byte, offset int) {
	var ev msgpack.Events
	ev.OnDrop = func(why msgpack.Drop, piece []byte) {
		r.p.problem(offset+cap(p)-cap(piece), fmt.Sprintf("not a log event: %s", why))
	}
	for ev.Reset(p, r.now.UnixNano()); ev.Next(); {
		r.record(&ev.Record, ev.Meta, ev.TS)
	}
}
