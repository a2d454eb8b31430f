package httpjson

import (
	"bytes"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// parseForm reads body as the fields of one record. A percent sign that no two
// hex digits follow stands for itself. buf takes what is decoded. all is false
// if there are more fields than a record can have.
func parseForm(rec *mapping.Record, buf, body []byte) (_ []byte, all bool) {
	rec.Nodes = append(rec.Nodes[:0], mapping.Node{Kind: mapping.Map})
	for more := true; more; {
		var field []byte
		field, body, more = bytes.Cut(body, []byte{'&'})
		if len(field) == 0 {
			continue
		}
		if len(rec.Nodes) == mapping.MaxNodes {
			return buf, false
		}
		k, v, _ := bytes.Cut(field, []byte{'='})
		from := len(buf)
		buf = appendDecoded(buf, k)
		mid := len(buf)
		buf = appendDecoded(buf, v)
		to := len(buf)
		rec.Nodes = append(rec.Nodes, mapping.Node{Kind: mapping.String, Key: buf[from:mid:mid], Str: buf[mid:to:to]})
	}
	rec.Nodes[0].End = int32(len(rec.Nodes))
	return buf, true
}

func appendDecoded(dst, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 < len(s) && hexDigit(s[i+1]) >= 0 && hexDigit(s[i+2]) >= 0 {
				c = byte(hexDigit(s[i+1])<<4 | hexDigit(s[i+2]))
				i += 2
			}
		}
		dst = append(dst, c)
	}
	return dst
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
