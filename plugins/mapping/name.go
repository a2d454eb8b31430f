package mapping

import "unicode/utf8"

// AppendLabelName appends the label name that stands for name. It is total:
// every input gives a name that Loki takes, [a-zA-Z_][a-zA-Z0-9_]* and not
// starting with two underscores, which Loki keeps for itself. Every run of
// other characters becomes one underscore, underscores at the start become
// one, a leading digit gets one in front, the empty name is "_". A name that
// the function returned stays as it is.
func AppendLabelName(dst []byte, name []byte) []byte {
	start := len(dst)
	bad := false
	for i := 0; i < len(name); {
		c := name[i]
		if !nameByte(c) {
			bad = true
			if c < utf8.RuneSelf {
				i++
				continue
			}
			_, n := utf8.DecodeRune(name[i:])
			i += n
			continue
		}
		if bad {
			dst = appendUnderscore(dst, start)
			bad = false
		}
		switch {
		case c == '_':
			dst = appendUnderscore(dst, start)
		case c <= '9' && len(dst) == start:
			dst = append(dst, '_', c)
		default:
			dst = append(dst, c)
		}
		i++
	}
	if bad || len(dst) == start {
		dst = appendUnderscore(dst, start)
	}
	return dst
}

// appendUnderscore appends an underscore unless it would be the second one of
// the name that starts at start.
func appendUnderscore(dst []byte, start int) []byte {
	if len(dst) == start+1 && dst[start] == '_' {
		return dst
	}
	return append(dst, '_')
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}
