package otlp

import (
	"bytes"
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// Values (AnyValue) are held as nodes of a mapping.Record, so that one that
// comes as protobuf and one that comes as JSON are rendered by the same code:
// as Loki does, which is not how package mapping renders records.

// text returns node i as the text that a line, a label or metadata shows. It is
// a string's own bytes, else it is appended to buf, which is returned.
func text(buf []byte, r *mapping.Record, i int) (t, buf2 []byte) {
	switch n := &r.Nodes[i]; n.Kind {
	case mapping.String, mapping.Number:
		return n.Str, buf
	case mapping.Null:
		return nil, buf
	}
	from := len(buf)
	buf = appendText(buf, r, i)
	return buf[from:len(buf):len(buf)], buf
}

func appendText(dst []byte, r *mapping.Record, i int) []byte {
	switch n := &r.Nodes[i]; n.Kind {
	case mapping.Float:
		return appendFloat(dst, math.Float64frombits(n.Num))
	case mapping.Bytes:
		return base64.StdEncoding.AppendEncode(dst, n.Str)
	case mapping.Array, mapping.Map:
		return appendJSON(dst, r, i)
	}
	return mapping.AppendText(dst, r, i)
}

// appendJSON appends node i as JSON: compact, the keys of a map in order, the
// last of several equal ones. Infinities and NaN, of which Loki makes an empty
// text, are strings.
func appendJSON(dst []byte, r *mapping.Record, i int) []byte {
	n := &r.Nodes[i]
	switch n.Kind {
	case mapping.Null:
		return append(dst, "null"...)
	case mapping.String:
		return appendQuoted(dst, n.Str)
	case mapping.Bytes:
		dst = base64.StdEncoding.AppendEncode(append(dst, '"'), n.Str)
		return append(dst, '"')
	case mapping.Float:
		if f := math.Float64frombits(n.Num); math.IsNaN(f) || math.IsInf(f, 0) {
			dst = appendFloat(append(dst, '"'), f)
			return append(dst, '"')
		}
		return appendText(dst, r, i)
	case mapping.Array:
		dst = append(dst, '[')
		for j, end := i+1, int(n.End); j < end; j = r.Next(j) {
			if j > i+1 {
				dst = append(dst, ',')
			}
			dst = appendJSON(dst, r, j)
		}
		return append(dst, ']')
	case mapping.Map:
		return appendMap(dst, r, i)
	}
	return appendText(dst, r, i)
}

func appendMap(dst []byte, r *mapping.Record, i int) []byte {
	var few [32]int
	children := few[:0]
	for j, end := i+1, int(r.Nodes[i].End); j < end; j = r.Next(j) {
		children = append(children, j)
	}
	slices.SortStableFunc(children, func(a, b int) int { return bytes.Compare(r.Nodes[a].Key, r.Nodes[b].Key) })
	dst = append(dst, '{')
	some := false
	for k, j := range children {
		if k+1 < len(children) && bytes.Equal(r.Nodes[j].Key, r.Nodes[children[k+1]].Key) {
			continue
		}
		if some {
			dst = append(dst, ',')
		}
		some = true
		dst = appendQuoted(dst, r.Nodes[j].Key)
		dst = append(dst, ':')
		dst = appendJSON(dst, r, j)
	}
	return append(dst, '}')
}

// appendFloat writes f as JavaScript does.
func appendFloat(dst []byte, f float64) []byte {
	switch a := math.Abs(f); {
	case math.IsNaN(f):
		return append(dst, "NaN"...)
	case a > math.MaxFloat64:
		if f < 0 {
			dst = append(dst, '-')
		}
		return append(dst, "Infinity"...)
	case a != 0 && (a < 1e-6 || a >= 1e21):
		dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
		if n := len(dst); string(dst[n-4:n-1]) == "e-0" { // 1e-07 is 1e-7
			dst = append(dst[:n-2], dst[n-1])
		}
		return dst
	}
	return strconv.AppendFloat(dst, f, 'f', -1, 64)
}

const hexDigits = "0123456789abcdef"

// appendQuoted appends s as a JSON string as encoding/json writes it without
// escapes for HTML, which is what Loki stores.
func appendQuoted(dst, s []byte) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		n := 1
		if c >= utf8.RuneSelf {
			var r rune
			r, n = utf8.DecodeRune(s[i:])
			if !(r == utf8.RuneError && n == 1) && r != '\u2028' && r != '\u2029' {
				i += n
				continue
			}
			dst = append(dst, s[from:i]...)
			switch r {
			case '\u2028':
				dst = append(dst, `\u2028`...)
			case '\u2029':
				dst = append(dst, `\u2029`...)
			default:
				dst = append(dst, `\ufffd`...)
			}
		} else {
			dst = append(dst, s[from:i]...)
			dst = appendEscape(dst, c)
		}
		i += n
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
	case '\b':
		c = 'b'
	case '\f':
		c = 'f'
	case '\n':
		c = 'n'
	case '\r':
		c = 'r'
	case '\t':
		c = 't'
	default:
		return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
	}
	return append(dst, '\\', c)
}
