package msgpack

import (
	"encoding/binary"
	"math"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// maxOddKey is the largest map key, in encoded bytes, that is not a string.
const maxOddKey = 4096

// Scanner makes records of values. Keys that are neither str nor bin become
// their text: numbers in decimal, true and false, null, maps and arrays as
// JSON.
type Scanner struct {
	text  []byte         // of such keys
	key   mapping.Record // one that is being read
	inKey bool
}

// level is a map or array that is open.
type level struct {
	at    int32
	left  uint32 // values to come, or pairs
	isMap bool
}

// Scan reads the value at p[i:] into rec and returns the index behind it. The
// record points into p and into memory of s: it is valid until the next Scan.
// The error is one of the package's; rec then holds what came before.
func (s *Scanner) Scan(rec *mapping.Record, p []byte, i int) (next int, err error) {
	s.text = s.text[:0]
	rec.Nodes, next, err = s.scan(rec.Nodes[:0], p, i)
	return next, err
}

func (s *Scanner) scan(nodes []mapping.Node, p []byte, i int) ([]mapping.Node, int, error) {
	var open [MaxDepth]level
	depth := 0
	var key []byte
	for {
		if i >= len(p) {
			return nodes, i, ErrShort
		}
		if len(nodes) >= mapping.MaxNodes {
			return nodes, i, ErrTooMany
		}
		if len(nodes) < cap(nodes) {
			nodes = nodes[:len(nodes)+1]
		} else {
			nodes = append(nodes, mapping.Node{})
		}
		n := &nodes[len(nodes)-1]
		*n = mapping.Node{Key: key}

		c := p[i]
		kids, isMap, inner := uint32(0), false, false
		switch {
		case c < 0x80 || c >= 0xe0:
			n.Kind, n.Num = mapping.Int, uint64(int64(int8(c)))
			i++
		case c >= 0xa0 && c < 0xc0:
			to := i + 1 + int(c&0x1f)
			if to > len(p) {
				return nodes, i, ErrShort
			}
			n.Kind, n.Str = mapping.String, p[i+1:to:to]
			i = to
		case c < 0x90:
			kids, isMap, inner = uint32(c&0x0f), true, true
			i++
		case c < 0xa0:
			kids, inner = uint32(c&0x0f), true
			i++
		default:
			w := &wide[c-0xc0]
			if w.size == 0 {
				return nodes, i, ErrInvalid
			}
			from := i + int(w.size)
			if from > len(p) {
				return nodes, i, ErrShort
			}
			if w.kids > 0 {
				kids, isMap, inner = uint32(count(p[i+1:], w.lens)), w.kids == 2, true
				i = from
				break
			}
			to := from
			if w.lens > 0 {
				size := count(p[i+1:], w.lens)
				if size > uint64(len(p)-from) {
					return nodes, i, ErrShort
				}
				to = from + int(size)
			}
			scalar(n, c, p[i:to:to], int(w.size))
			i = to
		}

		if inner {
			at := int32(len(nodes) - 1)
			if n.Kind = mapping.Array; isMap {
				n.Kind = mapping.Map
			}
			if depth == MaxDepth {
				return nodes, i, ErrDepth
			}
			open[depth] = level{at: at, left: kids, isMap: isMap}
			depth++
		}

		// Close what ends here and go on to the next value.
		for {
			if depth == 0 {
				return nodes, i, nil
			}
			top := &open[depth-1]
			if top.left > 0 {
				top.left--
				key = nil
				if top.isMap {
					var err error
					if key, i, err = s.readKey(p, i); err != nil {
						return nodes, i, err
					}
				}
				break
			}
			nodes[top.at].End = int32(len(nodes))
			depth--
		}
	}
}

// scalar fills n from a value that starts with c (0xc0 to 0xdf). v is the whole
// of it, head the size of what comes before its bytes, if it is of such.
func scalar(n *mapping.Node, c byte, v []byte, head int) {
	switch {
	case c == 0xc0:
		n.Kind = mapping.Null
	case c <= 0xc3:
		n.Kind, n.Num = mapping.Bool, uint64(c&1)
	case c <= 0xc6:
		n.Kind, n.Str = mapping.Bytes, v[head:]
	case c <= 0xc9:
		n.Kind, n.Str = mapping.Ext, v[head:]
	case c == 0xca:
		n.Kind = mapping.Float
		n.Num = math.Float64bits(float64(math.Float32frombits(binary.BigEndian.Uint32(v[1:]))))
	case c == 0xcb:
		n.Kind, n.Num = mapping.Float, binary.BigEndian.Uint64(v[1:])
	case c <= 0xd3:
		i, big := wideInt(c, v[1:])
		if n.Kind, n.Num = mapping.Int, uint64(i); big {
			n.Kind = mapping.Uint
		}
	case c <= 0xd8:
		n.Kind, n.Str = mapping.Ext, v[2:]
	default:
		n.Kind, n.Str = mapping.String, v[head:]
	}
}

func (s *Scanner) readKey(p []byte, i int) ([]byte, int, error) {
	if i < len(p) && p[i]&0xe0 == 0xa0 {
		if to := i + 1 + int(p[i]&0x1f); to <= len(p) {
			return p[i+1 : to : to], to, nil
		}
	}
	if k, next, ok := ReadString(p, i); ok {
		return k, next, nil
	}
	return s.oddKey(p, i)
}

// isString reports whether c starts a str or bin.
func isString(c byte) bool {
	return c >= 0xa0 && c < 0xc0 || c >= 0xc4 && c <= 0xc6 || c >= 0xd9 && c <= 0xdb
}

// oddKey reads a key that is not a string. One that has such a key inside is
// refused: JSON in JSON in JSON grows twofold with each level.
func (s *Scanner) oddKey(p []byte, i int) ([]byte, int, error) {
	if i >= len(p) || isString(p[i]) {
		return nil, i, ErrShort
	}
	if s.inKey {
		return nil, i, ErrKey
	}
	// What is too large is found too large without a look at all of it.
	end := min(len(p), i+maxOddKey)
	s.inKey = true
	nodes, next, err := s.scan(s.key.Nodes[:0], p[:end], i)
	s.inKey, s.key.Nodes = false, nodes
	if err == ErrShort && end < len(p) {
		err = ErrKey
	}
	if err != nil {
		return nil, next, err
	}
	from := len(s.text)
	if nodes[0].Kind == mapping.Null {
		s.text = append(s.text, "null"...)
	} else {
		s.text = mapping.AppendText(s.text, &s.key, 0)
	}
	to := len(s.text)
	return s.text[from:to:to], next, nil
}
