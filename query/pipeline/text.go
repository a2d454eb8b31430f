package pipeline

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"

	"github.com/loki-go/loki-go/query/lenient"
)

// text returns a JSON string without its escapes, and a space for every byte or
// character that is not valid; nothing if an escape is wrong.
func (s *state) text(v []byte) []byte {
	if bytes.IndexByte(v, '\\') >= 0 {
		at := len(s.arena)
		out, ok := lenient.Unescape(s.arena, v)
		if !ok {
			return nil
		}
		s.arena = out
		v = s.written(at)
	}
	return s.valid(v)
}

// valid returns v with spaces in place of what is not UTF-8.
func (s *state) valid(v []byte) []byte {
	if isASCII(v) || !bytes.ContainsRune(v, utf8.RuneError) {
		return v
	}
	at := len(s.arena)
	for len(v) > 0 {
		r, n := utf8.DecodeRune(v)
		if r == utf8.RuneError {
			s.arena = append(s.arena, ' ')
		} else {
			s.arena = append(s.arena, v[:n]...)
		}
		v = v[n:]
	}
	return s.written(at)
}

func isASCII(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
