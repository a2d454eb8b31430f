// Package msgpack reads MessagePack from memory, for receivers that take it
// from strangers: the forward receiver and the Fluent Bit plugin.
//
// There are four tools, each a plain value that is re-used and belongs to one
// goroutine:
//
//   - Frame finds the end of a value while its bytes arrive.
//   - Skip, ReadString, ReadInt and the like step through a value by hand.
//   - Scanner makes a mapping.Record of a value.
//   - Events walks log events as Fluentd and Fluent Bit write them.
//
// Nothing is copied: records point into the input. Nothing is allocated because
// of a count or length that the input announces, so a hostile value costs at
// most what its own bytes cost: a node of 64 bytes for each value in it, up to
// mapping.MaxNodes. Time is linear in the input. All headers are read in every
// width that the format has, whether or not a shorter one would do.
package msgpack

import (
	"encoding/binary"
	"errors"
)

// MaxDepth is how deep maps and arrays may nest in a record, itself included.
const MaxDepth = 64

// Errors of Skip and Scanner. They are compared with ==.
var (
	ErrShort   = errors.New("msgpack: value is cut short")
	ErrInvalid = errors.New("msgpack: 0xc1 is not the start of a value")
	ErrDepth   = errors.New("msgpack: nested too deep")
	ErrTooMany = errors.New("msgpack: too many values in one record")
	ErrKey     = errors.New("msgpack: map key is too large or has such a key in it")
)

// wideHead describes the values that start with 0xc0 to 0xdf.
type wideHead struct {
	size uint8 // of all bytes that are always there; 0: no value starts so
	lens uint8 // how many bytes behind the first one hold a length or count
	kids uint8 // how many values follow for each one counted: 0 (bytes follow), 1 or 2
}

var wide = [32]wideHead{
	0x00: {size: 1},                  // nil
	0x02: {size: 1}, 0x03: {size: 1}, // false, true
	0x04: {2, 1, 0}, 0x05: {3, 2, 0}, 0x06: {5, 4, 0}, // bin
	0x07: {3, 1, 0}, 0x08: {4, 2, 0}, 0x09: {6, 4, 0}, // ext
	0x0a: {size: 5}, 0x0b: {size: 9}, // float
	0x0c: {size: 2}, 0x0d: {size: 3}, 0x0e: {size: 5}, 0x0f: {size: 9}, // uint
	0x10: {size: 2}, 0x11: {size: 3}, 0x12: {size: 5}, 0x13: {size: 9}, // int
	0x14: {size: 3}, 0x15: {size: 4}, 0x16: {size: 6}, 0x17: {size: 10}, 0x18: {size: 18}, // fixext
	0x19: {2, 1, 0}, 0x1a: {3, 2, 0}, 0x1b: {5, 4, 0}, // str
	0x1c: {3, 2, 1}, 0x1d: {5, 4, 1}, // array
	0x1e: {3, 2, 2}, 0x1f: {5, 4, 2}, // map
}

// count reads a big-endian number of n bytes (1, 2 or 4) at p.
func count(p []byte, n uint8) uint64 {
	switch n {
	case 1:
		return uint64(p[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(p))
	}
	return uint64(binary.BigEndian.Uint32(p))
}

// Skip returns the index behind the value at p[i:]. It has no limit of depth
// and uses no memory.
func Skip(p []byte, i int) (int, error) {
	if i >= len(p) {
		return i, ErrShort
	}
	var f Frame
	done, err := f.Scan(p[i:])
	if err != nil {
		return i, err
	}
	if !done {
		return i, ErrShort
	}
	return i + f.Size(), nil
}

// ReadString reads the str or bin at p[i:]; ok is false for anything else and
// for one that is cut short.
func ReadString(p []byte, i int) (s []byte, next int, ok bool) {
	if i >= len(p) {
		return nil, i, false
	}
	n, from := uint64(0), i+1
	switch c := p[i]; {
	case c&0xe0 == 0xa0:
		n = uint64(c & 0x1f)
	case c >= 0xc4 && c <= 0xc6 || c >= 0xd9 && c <= 0xdb:
		w := &wide[c-0xc0]
		if from = i + int(w.size); from > len(p) {
			return nil, i, false
		}
		n = count(p[i+1:], w.lens)
	default:
		return nil, i, false
	}
	if n > uint64(len(p)-from) {
		return nil, i, false
	}
	next = from + int(n)
	return p[from:next:next], next, true
}

// ReadArray reads the header of the array at p[i:]; next is the index of its
// first element.
func ReadArray(p []byte, i int) (n uint32, next int, ok bool) {
	return readHead(p, i, 0x90, 0xdc)
}

// ReadMap reads the header of the map at p[i:]; next is the index of its first
// key.
func ReadMap(p []byte, i int) (n uint32, next int, ok bool) {
	return readHead(p, i, 0x80, 0xde)
}

func readHead(p []byte, i int, fix, wide16 byte) (n uint32, next int, ok bool) {
	if i >= len(p) {
		return 0, i, false
	}
	switch rest := p[i+1:]; {
	case p[i]&0xf0 == fix:
		return uint32(p[i] & 0x0f), i + 1, true
	case p[i] == wide16 && len(rest) >= 2:
		return uint32(binary.BigEndian.Uint16(rest)), i + 3, true
	case p[i] == wide16+1 && len(rest) >= 4:
		return binary.BigEndian.Uint32(rest), i + 5, true
	}
	return 0, i, false
}

// ReadInt reads the integer at p[i:]; ok is false for one above the range of
// int64, for anything else, and for one that is cut short.
func ReadInt(p []byte, i int) (v int64, next int, ok bool) {
	if i >= len(p) {
		return 0, i, false
	}
	c := p[i]
	if c < 0x80 || c >= 0xe0 {
		return int64(int8(c)), i + 1, true
	}
	if c < 0xcc || c > 0xd3 {
		return 0, i, false
	}
	next = i + int(wide[c-0xc0].size)
	if next > len(p) {
		return 0, i, false
	}
	v, big := wideInt(c, p[i+1:])
	return v, next, !big
}

// wideInt reads an integer of more than one byte; b starts behind its first
// one, c. big says that v is a uint64 above the range of int64.
func wideInt(c byte, b []byte) (v int64, big bool) {
	switch c {
	case 0xcc:
		return int64(b[0]), false
	case 0xcd:
		return int64(binary.BigEndian.Uint16(b)), false
	case 0xce:
		return int64(binary.BigEndian.Uint32(b)), false
	case 0xd0:
		return int64(int8(b[0])), false
	case 0xd1:
		return int64(int16(binary.BigEndian.Uint16(b))), false
	case 0xd2:
		return int64(int32(binary.BigEndian.Uint32(b))), false
	case 0xd3:
		return int64(binary.BigEndian.Uint64(b)), false
	}
	u := binary.BigEndian.Uint64(b)
	return int64(u), u > 1<<63-1
}
