package mapping

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// SyntaxError says that a body is not JSON, and where (byte offset).
type SyntaxError struct {
	Offset int
	Msg    string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("json: %s at offset %d", e.Msg, e.Offset) }

// ValueError says that one value of a body is JSON but is more than a record
// may be. The values around it are good.
type ValueError struct {
	Offset int // where the value starts
	Msg    string
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("json: value at offset %d: %s", e.Offset, e.Msg)
}

// Stream reads JSON values from a body in memory: values with any white space
// or none between them, and arrays, whose elements are values like the others.
// Only the outermost arrays are taken apart.
//
// It is lenient where strictness would only lose logs: invalid UTF-8 and
// control characters in strings are kept, a lone surrogate becomes U+FFFD, keys
// may repeat. Its memory is the Record and one buffer for strings with escapes,
// at most as large as the value. Its time is linear in the input.
type Stream struct {
	src     []byte
	at      int
	inArray bool
	comma   bool // inArray: a value was read, a comma or the end must follow
	lines   bool
	bound   bool // lines: there was an error, no value may go beyond its line now
	failed  bool
	p       parser
}

// Reset makes s read src, which must not change before the last record of it
// has been used. lines says that src is newline-delimited: after a syntax error
// the stream goes on with the next line.
func (s *Stream) Reset(src []byte, lines bool) {
	s.src, s.at, s.lines = src, 0, lines
	s.inArray, s.comma, s.bound, s.failed = false, false, false, false
	if len(src) >= 3 && src[0] == 0xef && src[1] == 0xbb && src[2] == 0xbf {
		s.at = 3
	}
}

// Offset returns how far the stream has read.
func (s *Stream) Offset() int { return s.at }

// Failed reports whether an error has ended the stream before its end.
func (s *Stream) Failed() bool { return s.failed }

// Next reads the next value into rec; Nodes[0] is not a Map if the value is no
// object. The record is valid until the next call. The error is io.EOF at the
// end, *ValueError for a value that was passed over, after which the stream
// goes on, or *SyntaxError, after which it goes on if it has lines and was not in
// an array: else it has Failed, and every further call returns io.EOF.
func (s *Stream) Next(rec *Record) error {
	rec.Reset()
	if s.failed {
		return io.EOF
	}
	start, err := s.start()
	src := s.src
	if s.bound && !s.inArray {
		if n := bytes.IndexByte(src[start:], '\n'); n >= 0 {
			src = src[:start+n]
		}
	}
	if err == nil {
		s.at, err = s.p.value(rec, src, start)
	}
	switch e := err.(type) {
	case nil:
		s.comma = s.inArray
		return nil
	case *ValueError:
		next, ok := skipValue(src, start)
		if ok {
			s.at, s.comma = next, s.inArray
			return e
		}
		err = unexpectedEnd(src)
	}
	if err == io.EOF {
		return err
	}
	s.recover(start)
	return err
}

// recover moves to the line behind the start of a broken value, or ends the
// stream. What is behind that start is read a second time; that this happens
// once only is what bound is for.
func (s *Stream) recover(start int) {
	if !s.lines || s.inArray {
		s.failed = true
		return
	}
	s.bound, s.at = true, len(s.src)
	if n := bytes.IndexByte(s.src[start:], '\n'); n >= 0 {
		s.at = start + n + 1
	}
}

// start moves to the start of the next value. On an error it returns the
// offset of what is wrong.
func (s *Stream) start() (int, error) {
	for {
		i := space(s.src, s.at)
		if i >= len(s.src) {
			s.at = i
			if s.inArray {
				return i, &SyntaxError{Offset: i, Msg: "unexpected end of input in array"}
			}
			return i, io.EOF
		}
		c := s.src[i]
		switch {
		case !s.inArray:
			if c != '[' {
				return i, nil
			}
			s.inArray, s.comma = true, false
			s.at = i + 1
			if j := space(s.src, s.at); j < len(s.src) && s.src[j] == ']' {
				s.inArray, s.at = false, j+1
			}
		case !s.comma:
			return i, nil
		case c == ',':
			s.comma = false
			s.at = i + 1
		case c == ']':
			s.inArray = false
			s.at = i + 1
		default:
			return i, &SyntaxError{Offset: i, Msg: "expected ',' or ']' in array, found " + quoteByte(c)}
		}
	}
}

func quoteByte(c byte) string { return fmt.Sprintf("%q", rune(c)) }

// space returns the index of the first byte at or behind i that is not white
// space.
func space(p []byte, i int) int {
	for i < len(p) && (p[i] == ' ' || p[i] == '\n' || p[i] == '\t' || p[i] == '\r') {
		i++
	}
	return i
}

// skipValue steps over the array or object at src[i], looking at brackets and
// strings only. ok is false if it does not end.
func skipValue(src []byte, i int) (next int, ok bool) {
	depth := 0
	for ; i < len(src); i++ {
		switch src[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth <= 0 {
				return i + 1, true
			}
		case '"':
			for i++; i < len(src) && src[i] != '"'; i++ {
				if src[i] == '\\' {
					i++
				}
			}
		}
	}
	return len(src), false
}

// parser reads one value. It has no recursion: open holds the indices of the
// maps and arrays that are open.
type parser struct {
	buf  []byte // strings that had escapes
	open [MaxDepth]int32
}

// value reads the value at src[i:] (no white space before it) into rec and
// returns the index behind it.
func (p *parser) value(rec *Record, src []byte, i int) (int, error) {
	p.buf = p.buf[:0]
	nodes := rec.Nodes[:0]
	next, nodes, err := p.parse(nodes, src, i)
	rec.Nodes = nodes
	return next, err
}

func (p *parser) parse(nodes []Node, src []byte, i int) (int, []Node, error) {
	start, depth := i, 0
	var key []byte
	var err error
	for {
		if i >= len(src) {
			return i, nodes, unexpectedEnd(src)
		}
		if len(nodes) >= MaxNodes {
			return i, nodes, &ValueError{start, fmt.Sprintf("more than %d values in one event", MaxNodes)}
		}
		switch c := src[i]; c {
		case '"':
			var s []byte
			if s, i, err = p.str(src, i+1); err != nil {
				return i, nodes, err
			}
			nodes = append(nodes, Node{Kind: String, Key: key, Str: s})
		case '{', '[':
			if depth == MaxDepth {
				return i, nodes, &ValueError{start, fmt.Sprintf("nested deeper than %d (offset %d)", MaxDepth, i)}
			}
			kind, closer := Map, byte('}')
			if c == '[' {
				kind, closer = Array, ']'
			}
			at := len(nodes)
			nodes = append(nodes, Node{Kind: kind, Key: key})
			i = space(src, i+1)
			if i < len(src) && src[i] == closer {
				nodes[at].End = int32(at + 1)
				i++
				break
			}
			p.open[depth] = int32(at)
			depth++
			key = nil
			if kind == Map {
				if key, i, err = p.key(src, i); err != nil {
					return i, nodes, err
				}
			}
			continue
		case 't', 'f', 'n':
			var n Node
			if n, i, err = literal(src, i); err != nil {
				return i, nodes, err
			}
			n.Key = key
			nodes = append(nodes, n)
		default:
			end, err := number(src, i)
			if err != nil {
				return i, nodes, err
			}
			nodes = append(nodes, Node{Kind: Number, Key: key, Str: src[i:end:end]})
			i = end
		}

		// Behind a value: close what ends here, go on to the next one.
		for {
			if depth == 0 {
				return i, nodes, nil
			}
			if i < len(src) && src[i] <= ' ' {
				i = space(src, i)
			}
			if i >= len(src) {
				return i, nodes, unexpectedEnd(src)
			}
			top := &nodes[p.open[depth-1]]
			c := src[i]
			if c == ',' {
				i = space(src, i+1)
				if top.Kind == Map {
					if key, i, err = p.key(src, i); err != nil {
						return i, nodes, err
					}
				}
				break
			}
			if top.Kind == Map && c != '}' || top.Kind == Array && c != ']' {
				what := "object"
				if top.Kind == Array {
					what = "array"
				}
				return i, nodes, &SyntaxError{i, "expected ',' or the end of the " + what + ", found " + quoteByte(c)}
			}
			top.End = int32(len(nodes))
			depth--
			i++
			if depth > 0 && nodes[p.open[depth-1]].Kind == Array {
				key = nil
			}
		}
	}
}

func unexpectedEnd(src []byte) error {
	return &SyntaxError{Offset: len(src), Msg: "unexpected end of input"}
}

// key reads an object's key and the colon; the index is that of the value.
func (p *parser) key(src []byte, i int) ([]byte, int, error) {
	if i >= len(src) {
		return nil, i, unexpectedEnd(src)
	}
	if src[i] != '"' {
		return nil, i, &SyntaxError{i, "expected a key in double quotes, found " + quoteByte(src[i])}
	}
	k, i, err := p.str(src, i+1)
	if err != nil {
		return nil, i, err
	}
	i = space(src, i)
	if i >= len(src) {
		return nil, i, unexpectedEnd(src)
	}
	if src[i] != ':' {
		return nil, i, &SyntaxError{i, "expected ':' after a key, found " + quoteByte(src[i])}
	}
	return k, space(src, i+1), nil
}

const (
	everyByte = 0x0101010101010101
	highBits  = 0x8080808080808080
	quotes    = '"' * everyByte
	slashes   = '\\' * everyByte
)

// special returns the index of the first quote or backslash at or behind i, or
// len(src). It looks at eight bytes at a time: a byte of x is zero where the
// wanted one is, and the lowest high bit of m marks the first such byte.
func special(src []byte, i int) int {
	for ; i+8 <= len(src); i += 8 {
		w := binary.LittleEndian.Uint64(src[i:])
		x, y := w^quotes, w^slashes
		if m := ((x-everyByte)&^x | (y-everyByte)&^y) & highBits; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for i < len(src) && src[i] != '"' && src[i] != '\\' {
		i++
	}
	return i
}

// str reads the string whose first byte behind the quote is src[i]. The result
// points into src, or into p.buf if there were escapes.
func (p *parser) str(src []byte, i int) ([]byte, int, error) {
	end := special(src, i)
	if end < len(src) && src[end] == '"' {
		return src[i:end:end], end + 1, nil
	}
	from := len(p.buf)
	for {
		if end >= len(src) {
			return nil, end, &SyntaxError{Offset: len(src), Msg: "unexpected end of input in a string"}
		}
		p.buf = append(p.buf, src[i:end]...)
		if src[end] == '"' {
			to := len(p.buf)
			return p.buf[from:to:to], end + 1, nil
		}
		var err error
		if i, err = p.escape(src, end+1); err != nil {
			return nil, i, err
		}
		end = special(src, i)
	}
}

// escape appends what the escape sequence behind a backslash stands for.
func (p *parser) escape(src []byte, i int) (int, error) {
	if i >= len(src) {
		return i, &SyntaxError{Offset: len(src), Msg: "unexpected end of input in a string"}
	}
	c := src[i]
	switch c {
	case '"', '\\', '/':
	case 'n':
		c = '\n'
	case 't':
		c = '\t'
	case 'r':
		c = '\r'
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'u':
		r, ok := hex4(src, i+1)
		if !ok {
			return i, &SyntaxError{i - 1, "bad \\u escape in a string"}
		}
		i += 5
		if utf16.IsSurrogate(r) {
			low, ok := rune(0), false
			if i+1 < len(src) && src[i] == '\\' && src[i+1] == 'u' {
				low, ok = hex4(src, i+2)
			}
			// A lone surrogate is one U+FFFD; what follows it stands for itself.
			if r = utf16.DecodeRune(r, low); ok && r != utf8.RuneError {
				i += 6
			}
		}
		p.buf = utf8.AppendRune(p.buf, r)
		return i, nil
	default:
		return i, &SyntaxError{i - 1, "bad escape \\" + string(rune(c)) + " in a string"}
	}
	p.buf = append(p.buf, c)
	return i + 1, nil
}

func hex4(src []byte, i int) (r rune, ok bool) {
	if i+4 > len(src) {
		return 0, false
	}
	for _, c := range src[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func literal(src []byte, i int) (Node, int, error) {
	switch rest := src[i:]; {
	case len(rest) >= 4 && string(rest[:4]) == "true":
		return Node{Kind: Bool, Num: 1}, i + 4, nil
	case len(rest) >= 5 && string(rest[:5]) == "false":
		return Node{Kind: Bool}, i + 5, nil
	case len(rest) >= 4 && string(rest[:4]) == "null":
		return Node{}, i + 4, nil
	}
	return Node{}, i, notValue(src, i)
}

func notValue(src []byte, i int) error {
	return &SyntaxError{i, "expected a value, found " + quoteByte(src[i])}
}

// number returns the index behind the number at src[i:], which must be one by
// JSON's grammar.
func number(src []byte, i int) (int, error) {
	at := i
	if src[i] == '-' {
		i++
	}
	switch {
	case i < len(src) && src[i] == '0':
		i++
	default:
		j := digits(src, i)
		if j == i {
			return i, notNumber(src, at, i)
		}
		i = j
	}
	if i < len(src) && src[i] == '.' {
		j := digits(src, i+1)
		if j == i+1 {
			return i, notNumber(src, at, j)
		}
		i = j
	}
	if i < len(src) && src[i]|0x20 == 'e' {
		j := i + 1
		if j < len(src) && (src[j] == '+' || src[j] == '-') {
			j++
		}
		k := digits(src, j)
		if k == j {
			return i, notNumber(src, at, j)
		}
		i = k
	}
	// 01, 1.2.3 and 12ab would else be read as two values.
	if i < len(src) {
		if c := src[i]; c >= '0' && c <= '9' || c == '.' || c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' {
			return i, notNumber(src, at, i)
		}
	}
	return i, nil
}

func notNumber(src []byte, at, i int) error {
	switch {
	case i >= len(src):
		return unexpectedEnd(src)
	case at == i:
		return notValue(src, i)
	}
	return &SyntaxError{i, "bad number: found " + quoteByte(src[i])}
}

func digits(src []byte, i int) int {
	for i < len(src) && src[i] >= '0' && src[i] <= '9' {
		i++
	}
	return i
}
