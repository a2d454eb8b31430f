package mapping

import (
	"encoding/base64"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/loki-go/loki-go/proto/push"
)

// AppendJSON appends node i of r, with all below it, as compact JSON. The
// result is always valid JSON and valid UTF-8.
func AppendJSON(dst []byte, r *Record, i int) []byte { return appendJSON(dst, r, i, nil) }

// appendJSON is AppendJSON without the fields in sk, which may be nil, and
// without the maps that are empty for want of them.
func appendJSON(dst []byte, r *Record, i int, sk *skips) []byte {
	n := &r.Nodes[i]
	switch n.Kind {
	case Null:
		return append(dst, "null"...)
	case Bool, Int, Uint, Number:
		return AppendText(dst, r, i)
	case Float:
		f := math.Float64frombits(n.Num)
		if math.IsNaN(f) || math.IsInf(f, 0) {
			dst = append(dst, '"')
			dst = AppendText(dst, r, i)
			return append(dst, '"')
		}
		return AppendText(dst, r, i)
	case String:
		return appendQuoted(dst, n.Str)
	case Bytes, Ext:
		if utf8.Valid(n.Str) {
			return appendQuoted(dst, n.Str)
		}
		dst = append(dst, '"')
		dst = appendBase64(dst, n.Str)
		return append(dst, '"')
	}
	opener, closer := byte('{'), byte('}')
	if n.Kind == Array {
		opener, closer = '[', ']'
	}
	dst = append(dst, opener)
	first := len(dst)
	for j, end := i+1, int(n.End); j < end; j = r.Next(j) {
		if sk != nil && sk.has(j) {
			continue
		}
		before := len(dst)
		if before > first {
			dst = append(dst, ',')
		}
		if n.Kind == Map {
			dst = appendQuoted(dst, r.Nodes[j].Key)
			dst = append(dst, ':')
		}
		from := len(dst)
		dst = appendJSON(dst, r, j, sk)
		if sk != nil && len(dst) == from+2 && sk.emptied(r, j) {
			dst = dst[:before]
		}
	}
	return append(dst, closer)
}

// AppendText appends node i of r as the text that a line, a label or metadata
// shows: see the package comment. Null is the empty text.
func AppendText(dst []byte, r *Record, i int) []byte {
	n := &r.Nodes[i]
	switch n.Kind {
	case Null:
		return dst
	case Bool:
		return strconv.AppendBool(dst, n.Num != 0)
	case Int:
		return strconv.AppendInt(dst, int64(n.Num), 10)
	case Uint:
		return strconv.AppendUint(dst, n.Num, 10)
	case Float:
		return appendFloat(dst, math.Float64frombits(n.Num))
	case Number, String:
		return append(dst, n.Str...)
	case Bytes, Ext:
		if utf8.Valid(n.Str) {
			return append(dst, n.Str...)
		}
		return appendBase64(dst, n.Str)
	}
	return AppendJSON(dst, r, i)
}

// text is AppendText without a copy where the node has the text; buf is used
// where it has not.
func text(buf []byte, r *Record, i int) (t, buf2 []byte) {
	switch n := &r.Nodes[i]; n.Kind {
	case Number, String:
		return n.Str, buf
	case Null:
		return nil, buf
	}
	buf = AppendText(buf[:0], r, i)
	return buf, buf
}

func appendBase64(dst, s []byte) []byte {
	return base64.StdEncoding.AppendEncode(append(dst, "base64:"...), s)
}

// appendFloat writes the shortest text that reads back as f, in plain notation
// where that is not absurdly long.
func appendFloat(dst []byte, f float64) []byte {
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	}
	return strconv.AppendFloat(dst, f, 'f', -1, 64)
}

// jsonPlain marks the bytes that stand for themselves in a JSON string.
var jsonPlain = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// appendQuoted appends s as a JSON string.
func appendQuoted(dst, s []byte) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if jsonPlain[c] {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			if r, n := utf8.DecodeRune(s[i:]); r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
		}
		dst = append(dst, s[from:i]...)
		dst = appendEscape(dst, c)
		i++
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	const hex = "0123456789abcdef"
	switch {
	case c >= utf8.RuneSelf: // not UTF-8
		return append(dst, `\ufffd`...)
	case c == '"' || c == '\\':
		return append(dst, '\\', c)
	case c == '\n':
		return append(dst, '\\', 'n')
	case c == '\t':
		return append(dst, '\\', 't')
	case c == '\r':
		return append(dst, '\\', 'r')
	}
	return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}

// AppendLogfmt appends map i of r as logfmt: one name=value for every field,
// nested maps flattened, names as those of metadata. Values with spaces,
// quotes, = or control characters are quoted as in JSON; null is written as
// such, the text "null" in quotes. Two fields may have one name.
func AppendLogfmt(dst []byte, r *Record, i int) []byte {
	return appendLogfmt(dst, r, i, nil)
}

// appendLogfmt is AppendLogfmt without the fields in sk, which may be nil.
func appendLogfmt(dst []byte, r *Record, i int, sk *skips) []byte {
	var path [256]byte
	dst, _ = appendLogfmtMap(dst, r, i, path[:0], len(dst), false, sk)
	return dst
}

func appendLogfmtMap(dst []byte, r *Record, i int, path []byte, start int, nested bool, sk *skips) (out, path2 []byte) {
	prefix := len(path)
	for j, end := i+1, int(r.Nodes[i].End); j < end; j = r.Next(j) {
		if sk != nil && sk.has(j) {
			continue
		}
		n := &r.Nodes[j]
		path = path[:prefix]
		if nested {
			path = append(path, '.')
		}
		path = append(path, n.Key...)
		if n.Kind == Map && n.End > int32(j+1) {
			dst, path = appendLogfmtMap(dst, r, j, path, start, true, sk)
			continue
		}
		if len(dst) > start {
			dst = append(dst, ' ')
		}
		dst = push.NormaliseName(dst, path)
		dst = append(dst, '=')
		dst = appendLogfmtValue(dst, r, j)
	}
	return dst, path[:prefix]
}

func appendLogfmtValue(dst []byte, r *Record, i int) []byte {
	if r.Nodes[i].Kind == Null {
		return append(dst, "null"...)
	}
	from := len(dst)
	dst = AppendText(dst, r, i)
	if v := dst[from:]; len(v) > 0 && string(v) != "null" && logfmtBare(v) {
		return dst
	}
	// Quoting reads what it replaces, so it works behind it and moves down.
	to := len(dst)
	dst = appendQuoted(dst, dst[from:to])
	return append(dst[:from], dst[to:]...)
}

// logfmtBare reports whether v needs no quotes.
func logfmtBare(v []byte) bool {
	for _, c := range v {
		if c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7f {
			return false
		}
	}
	return utf8.Valid(v)
}
