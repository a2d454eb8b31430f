package msgpack

import "math"

// Frame finds the end of one value in bytes that arrive piece by piece. It
// remembers how far it has looked, so all calls together take time linear in
// the value, and it remembers only a position and how many values are still to
// come, so nesting costs nothing. The zero Frame is ready; assign one to start
// over.
//
// If the value is an array, Frame also notes where its first elements end.
type Frame struct {
	pos     uint64 // of the next value; may lie behind the bytes seen
	left    uint64 // values to come
	seen    int
	started bool

	array  bool
	elems  uint32
	ends   [maxElems]uint64
	noted  uint8
	target uint64 // what left is when the next element ends
}

// maxElems is how many elements of an array Frame notes.
const maxElems = 4

const never = math.MaxUint64

// Scan looks at p, which starts with the value: at the bytes of the last call
// and those that came since. It reports whether the value is whole. After an
// error (ErrInvalid) the Frame must not be used on.
func (f *Frame) Scan(p []byte) (done bool, err error) {
	if !f.started {
		if len(p) == 0 {
			return false, nil
		}
		f.started, f.left, f.target = true, 1, never
		if n, _, ok := ReadArray(p, 0); ok {
			f.array, f.elems, f.target = true, n, uint64(n)-1
		} else if c := p[0]; c == 0xdc || c == 0xdd {
			f.started = false // the header is not whole
			f.seen = len(p)
			return false, nil
		}
	}
	f.seen = len(p)
	pos, left := f.pos, f.left
	for left > 0 && pos < uint64(len(p)) {
		c := p[pos]
		left--
		switch {
		case c < 0x80 || c >= 0xe0:
			pos++
		case c < 0x90:
			pos++
			left += 2 * uint64(c&0x0f)
		case c < 0xa0:
			pos++
			left += uint64(c & 0x0f)
		case c < 0xc0:
			pos += 1 + uint64(c&0x1f)
		default:
			w := &wide[c-0xc0]
			if w.size == 0 {
				return false, ErrInvalid
			}
			if w.lens > 0 {
				if uint64(len(p))-pos < 1+uint64(w.lens) {
					f.pos, f.left = pos, left+1
					return false, nil
				}
				n := count(p[pos+1:], w.lens)
				if w.kids == 0 {
					pos += n
				} else {
					left += n * uint64(w.kids)
				}
			}
			pos += uint64(w.size)
		}
		if left == f.target {
			f.note(pos, left)
		}
	}
	f.pos, f.left = pos, left
	return left == 0 && pos <= uint64(len(p)), nil
}

// note remembers that an element ends at pos.
func (f *Frame) note(pos, left uint64) {
	f.ends[f.noted] = pos
	f.noted++
	if f.target = left - 1; f.noted == maxElems || left == 0 {
		f.target = never
	}
}

// Size returns the size of the value in bytes once it is whole; before that,
// the least size that it can have, which is more than has been seen.
func (f *Frame) Size() int {
	if f.left == 0 && f.started && f.pos <= uint64(f.seen) {
		return int(f.pos)
	}
	least := max(f.pos+f.left, uint64(f.seen)+1)
	return int(min(least, math.MaxInt))
}

// Elems returns the number of elements that the value announces, if it is an
// array.
func (f *Frame) Elems() (n int, ok bool) { return int(min(f.elems, math.MaxInt32)), f.array }

// Elem returns where element k (0 to 3) of a whole array lies.
func (f *Frame) Elem(p []byte, k int) (from, to int) {
	if k > 0 {
		return int(f.ends[k-1]), int(f.ends[k])
	}
	_, from, _ = ReadArray(p, 0)
	return from, int(f.ends[0])
}
