package otlp

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// The test's own form of a request, with encoders that are written from the
// protocol's description and share nothing with the decoders.

type kv struct {
	K string
	V any // nil, string, bool, int64, float64, []byte, []any or kvs
}

type kvs []kv

type record struct {
	Time, Observed uint64
	Severity       int32
	SeverityText   string
	Body           any
	Attrs          kvs
	Dropped, Flags uint32
	Trace, Span    []byte
	Event          string
}

type scopeOf struct {
	Name, Version string
	Attrs         kvs
	Dropped       uint32
	Records       []record
}

type resourceOf struct {
	Attrs  kvs
	Scopes []scopeOf
}

func num(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

func fix64(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendFixed64(protowire.AppendTag(dst, field, protowire.Fixed64Type), v)
}

func blob(dst []byte, field protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, field, protowire.BytesType), b)
}

func opt(dst []byte, field protowire.Number, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	return blob(dst, field, b)
}

func protoValue(v any) []byte {
	switch v := v.(type) {
	case string:
		return blob(nil, 1, []byte(v))
	case bool:
		n := uint64(0)
		if v {
			n = 1
		}
		return protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), n)
	case int64:
		return protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), uint64(v))
	case float64:
		return protowire.AppendFixed64(protowire.AppendTag(nil, 4, protowire.Fixed64Type), math.Float64bits(v))
	case []any:
		var list []byte
		for _, e := range v {
			list = blob(list, 1, protoValue(e))
		}
		return blob(nil, 5, list)
	case kvs:
		return blob(nil, 6, protoAttrs(nil, 1, v))
	case []byte:
		return blob(nil, 7, v)
	}
	return nil
}

func protoAttrs(dst []byte, field protowire.Number, attrs kvs) []byte {
	for _, a := range attrs {
		m := opt(nil, 1, []byte(a.K))
		if a.V != nil {
			m = blob(m, 2, protoValue(a.V))
		}
		dst = blob(dst, field, m)
	}
	return dst
}

func (r record) proto() []byte {
	m := fix64(nil, 1, r.Time)
	m = num(m, 2, uint64(r.Severity))
	m = opt(m, 3, []byte(r.SeverityText))
	if r.Body != nil {
		m = blob(m, 5, protoValue(r.Body))
	}
	m = protoAttrs(m, 6, r.Attrs)
	m = num(m, 7, uint64(r.Dropped))
	if r.Flags != 0 {
		m = binary.LittleEndian.AppendUint32(protowire.AppendTag(m, 8, protowire.Fixed32Type), r.Flags)
	}
	m = opt(m, 9, r.Trace)
	m = opt(m, 10, r.Span)
	m = fix64(m, 11, r.Observed)
	return opt(m, 12, []byte(r.Event))
}

func (s scopeOf) proto() []byte {
	m := opt(nil, 1, []byte(s.Name))
	m = opt(m, 2, []byte(s.Version))
	m = protoAttrs(m, 3, s.Attrs)
	m = num(m, 4, uint64(s.Dropped))
	out := opt(nil, 1, m)
	for _, r := range s.Records {
		out = blob(out, 2, r.proto())
	}
	return out
}

func protoRequest(resources ...resourceOf) []byte {
	var out []byte
	for _, r := range resources {
		m := opt(nil, 1, protoAttrs(nil, 1, r.Attrs))
		for _, s := range r.Scopes {
			m = blob(m, 2, s.proto())
		}
		out = blob(out, 1, m)
	}
	return out
}

type object = map[string]any

func jsonValue(v any) any {
	switch v := v.(type) {
	case string:
		return object{"stringValue": v}
	case bool:
		return object{"boolValue": v}
	case int64:
		return object{"intValue": strconv.FormatInt(v, 10)}
	case float64:
		switch {
		case math.IsNaN(v):
			return object{"doubleValue": "NaN"}
		case math.IsInf(v, 1):
			return object{"doubleValue": "Infinity"}
		case math.IsInf(v, -1):
			return object{"doubleValue": "-Infinity"}
		}
		return object{"doubleValue": v}
	case []any:
		list := []any{}
		for _, e := range v {
			list = append(list, jsonValue(e))
		}
		return object{"arrayValue": object{"values": list}}
	case kvs:
		return object{"kvlistValue": object{"values": jsonAttrs(v)}}
	case []byte:
		return object{"bytesValue": base64.StdEncoding.EncodeToString(v)}
	}
	return object{}
}

func jsonAttrs(attrs kvs) []any {
	list := []any{}
	for _, a := range attrs {
		list = append(list, object{"key": a.K, "value": jsonValue(a.V)})
	}
	return list
}

func jsonRequest(resources ...resourceOf) []byte {
	rs := []any{}
	for _, r := range resources {
		ss := []any{}
		for _, s := range r.Scopes {
			records := []any{}
			for _, l := range s.Records {
				o := object{
					"timeUnixNano": strconv.FormatUint(l.Time, 10), "observedTimeUnixNano": strconv.FormatUint(l.Observed, 10),
					"severityNumber": l.Severity, "severityText": l.SeverityText, "attributes": jsonAttrs(l.Attrs),
					"droppedAttributesCount": l.Dropped, "flags": l.Flags, "traceId": hex.EncodeToString(l.Trace),
					"spanId": hex.EncodeToString(l.Span), "eventName": l.Event,
				}
				if l.Body != nil {
					o["body"] = jsonValue(l.Body)
				}
				records = append(records, o)
			}
			ss = append(ss, object{
				"scope": object{
					"name": s.Name, "version": s.Version, "attributes": jsonAttrs(s.Attrs), "droppedAttributesCount": s.Dropped,
				},
				"logRecords": records,
			})
		}
		rs = append(rs, object{"resource": object{"attributes": jsonAttrs(r.Attrs)}, "scopeLogs": ss})
	}
	b, err := json.Marshal(object{"resourceLogs": rs})
	if err != nil {
		panic(err)
	}
	return b
}
