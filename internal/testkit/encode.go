package testkit

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"

	"github.com/klauspost/compress/s2"
)

// Pair is a name and a value.
type Pair struct{ Name, Value string }

// Entry is a log entry as a test sees it.
type Entry struct {
	TS   int64 // ns since the epoch
	Line string
	Meta []Pair
}

// Stream is entries with one set of labels.
type Stream struct {
	Labels  []Pair
	Entries []Entry
}

// The encoders below are written from the protocols' descriptions and share
// nothing with the decoders that they test.

// PushRequest returns streams as a logproto.PushRequest, not compressed.
func PushRequest(streams []Stream) []byte {
	var out []byte
	for _, s := range streams {
		out = appendBytes(out, 1, StreamMessage(s))
	}
	return out
}

// StreamMessage returns s as a logproto.Stream.
func StreamMessage(s Stream) []byte {
	m := appendBytes(nil, 1, []byte(LabelText(s.Labels)))
	for _, e := range s.Entries {
		m = appendBytes(m, 2, entryMessage(e))
	}
	return m
}

func entryMessage(e Entry) []byte {
	ts := appendVarint(nil, 1, uint64(e.TS/1e9))
	ts = appendVarint(ts, 2, uint64(e.TS%1e9))
	m := appendBytes(nil, 1, ts)
	m = appendBytes(m, 2, []byte(e.Line))
	for _, p := range e.Meta {
		pair := appendBytes(nil, 1, []byte(p.Name))
		pair = appendBytes(pair, 2, []byte(p.Value))
		m = appendBytes(m, 3, pair)
	}
	return m
}

func appendBytes(dst []byte, field int, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(field)<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendVarint(dst []byte, field int, v uint64) []byte {
	dst = binary.AppendUvarint(dst, uint64(field)<<3)
	return binary.AppendUvarint(dst, v)
}

// LabelText returns labels as a selector.
func LabelText(labels []Pair) string {
	text := "{"
	for i, l := range labels {
		if i > 0 {
			text += ", "
		}
		text += l.Name + "=" + strconv.Quote(l.Value)
	}
	return text + "}"
}

// PushBody returns streams as clients send them: PushRequest with snappy.
func PushBody(streams []Stream) []byte { return s2.EncodeSnappy(nil, PushRequest(streams)) }

// PushJSON returns streams in the JSON form of Loki's push API.
func PushJSON(streams []Stream) []byte {
	type jsonStream struct {
		Stream map[string]string `json:"stream"`
		Values [][]any           `json:"values"`
	}
	req := struct {
		Streams []jsonStream `json:"streams"`
	}{}
	for _, s := range streams {
		js := jsonStream{Stream: toMap(s.Labels), Values: [][]any{}}
		for _, e := range s.Entries {
			v := []any{strconv.FormatInt(e.TS, 10), e.Line}
			if len(e.Meta) > 0 {
				v = append(v, toMap(e.Meta))
			}
			js.Values = append(js.Values, v)
		}
		req.Streams = append(req.Streams, js)
	}
	return mustJSON(req)
}

func toMap(pairs []Pair) map[string]string {
	m := map[string]string{}
	for _, p := range pairs {
		m[p.Name] = p.Value
	}
	return m
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps and strings only
	}
	return b
}

// EventsJSON returns every entry as an event for /ingest/json: an array of
// objects with @timestamp, message, the labels and the metadata.
func EventsJSON(streams []Stream) []byte {
	events := []map[string]string{}
	for _, s := range streams {
		for _, e := range s.Entries {
			ev := toMap(s.Labels)
			for _, p := range e.Meta {
				ev[p.Name] = p.Value
			}
			ev["@timestamp"] = formatTime(e.TS)
			ev["message"] = e.Line
			events = append(events, ev)
		}
	}
	return mustJSON(events)
}

// Forward returns the entries as one PackedForward message of Fluentd's
// protocol. Records hold the line as log, the labels and the metadata; the
// receiver is asked to acknowledge chunk, if that is not empty.
func Forward(tag, chunk string, streams []Stream) []byte {
	events, n := Events(streams)
	out := msgpackString([]byte{0x93}, tag)
	out = append(out, 0xc6)
	out = binary.BigEndian.AppendUint32(out, uint32(len(events)))
	out = append(out, events...)
	if chunk == "" {
		return msgpackInt(msgpackString(append(out, 0x81), "size"), n)
	}
	out = msgpackInt(msgpackString(append(out, 0x82), "size"), n)
	return msgpackString(msgpackString(out, "chunk"), chunk)
}

// Events returns the entries as events of Fluentd and Fluent Bit, and their
// number. The line is the field log; labels and metadata are fields, too.
func Events(streams []Stream) (events []byte, n int) {
	for _, s := range streams {
		for _, e := range s.Entries {
			events = append(events, 0x92, 0xd7, 0x00)
			events = binary.BigEndian.AppendUint32(events, uint32(e.TS/1e9))
			events = binary.BigEndian.AppendUint32(events, uint32(e.TS%1e9))
			fields := append(append([]Pair{{"log", e.Line}}, s.Labels...), e.Meta...)
			events = append(events, 0xde)
			events = binary.BigEndian.AppendUint16(events, uint16(len(fields)))
			for _, f := range fields {
				events = msgpackString(msgpackString(events, f.Name), f.Value)
			}
			n++
		}
	}
	return events, n
}

// ChunkID makes the chunk option of a forward message from a number.
func ChunkID(n uint64) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[8:], n)
	return base64.StdEncoding.EncodeToString(b[:])
}

func msgpackString(dst []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		dst = append(dst, 0xa0|byte(n))
	case n <= math.MaxUint8:
		dst = append(dst, 0xd9, byte(n))
	case n <= math.MaxUint16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0xda), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, 0xdb), uint32(n))
	}
	return append(dst, s...)
}

func msgpackInt(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 0xce), uint32(n))
}
