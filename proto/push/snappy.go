package push

import (
	"errors"

	"github.com/klauspost/compress/s2"
)

var errLiar = errors.New("announced length differs from the content's")

// DecodedLen returns the number of bytes that a block of snappy or S2 decodes
// to. The length that a block announces is only believed if its size makes it
// plausible; else the operations in the block are added up. So a caller may
// allocate what DecodedLen says: it is either less than suspicious times the
// block's size, or true.
func DecodedLen(block []byte) (int, error) {
	n, err := s2.DecodedLen(block)
	if err != nil {
		return 0, err
	}
	if n > 1<<20 && n/suspicious > len(block) && contentLen(block) != n {
		return 0, errLiar
	}
	return n, nil
}

// suspicious is a compression ratio that snappy does not reach (64/3 at most)
// but S2 does, whose repeats make 16 MiB of 5 bytes.
const suspicious = 32

// contentLen adds up the lengths of the operations in a block. It returns -1
// for a block that is cut off; offsets are left to the decoder.
func contentLen(block []byte) int {
	_, i := uvarint(block, 0)
	if i < 0 {
		return -1
	}
	total := 0
	for i < len(block) {
		tag := int(block[i])
		var n, extra int
		switch tag & 3 {
		case 0: // literal
			n, i = tag>>2, i+1
			if n >= 60 {
				extra = n - 59
				if n = littleEndian(block, i, extra); n < 0 {
					return -1
				}
				i += extra
			}
			n++
			if n > len(block)-i {
				return -1
			}
			i += n
		case 1: // copy; offset 0 means a repeat, which may be longer
			if i+1 >= len(block) {
				return -1
			}
			n = tag >> 2 & 7
			repeat := tag&0xe0 == 0 && block[i+1] == 0
			i += 2
			if repeat && n >= 5 {
				extra = n - 4
				base := [...]int{4, 1 << 8, 1 << 16}[n-5]
				if n = littleEndian(block, i, extra); n < 0 {
					return -1
				}
				n += base
				i += extra
			}
			n += 4
		case 2:
			n, i = tag>>2+1, i+3
		case 3:
			n, i = tag>>2+1, i+5
		}
		if i > len(block) {
			return -1
		}
		total += n
	}
	return total
}

// littleEndian reads n bytes at p[i:], or returns -1.
func littleEndian(p []byte, i, n int) int {
	if n > len(p)-i {
		return -1
	}
	v := 0
	for k := range n {
		v |= int(p[i+k]) << (8 * k)
	}
	return v
}
