package chunk

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"

	"github.com/pierrec/lz4/v4"
)

// The LZ4 frame format, written and read on whole slices: the library's
// stream types hold two buffers of the frame's block size (4 MiB for "lz4"),
// a waste for blocks of 256 KiB. Written are independent blocks without
// checksums; read is everything but dictionaries.
const (
	lz4Magic     = 0x184D2204
	lz4Skippable = 0x184D2A50 // low four bits are free
	lz4RawBit    = 1 << 31
	lz4History   = 64 << 10
	lz4Flags     = 1<<6 | 1<<5 // version 1, independent blocks
)

var errLZ4 = errors.New("malformed lz4 frame")

// lz4SizeID returns the format's number for the block size of c.
func lz4SizeID(c Codec) byte {
	switch c {
	case LZ4x64k:
		return 4
	case LZ4x256k:
		return 5
	case LZ4x1M:
		return 6
	}
	return 7
}

func lz4BlockSize(id byte) int { return 1 << (8 + 2*uint(id)) }

func appendLZ4Frame(dst, src []byte, sizeID byte) ([]byte, error) {
	dst = binary.LittleEndian.AppendUint32(dst, lz4Magic)
	desc := [2]byte{lz4Flags, sizeID << 4}
	dst = append(dst, desc[0], desc[1], byte(xxh32(desc[:])>>8))
	size := lz4BlockSize(sizeID)
	for len(src) > 0 {
		part := src[:min(len(src), size)]
		src = src[len(part):]
		dst = slices.Grow(dst, 4+len(part))
		at := len(dst) + 4
		// Room for the input and no more: what does not shrink is kept raw.
		n, err := lz4.CompressBlock(part, dst[at:at+len(part)], nil)
		if err != nil && !errors.Is(err, lz4.ErrInvalidSourceShortBuffer) {
			return dst, err
		}
		head := uint32(n)
		if n == 0 || err != nil {
			n = copy(dst[at:at+len(part)], part)
			head = uint32(n) | lz4RawBit
		}
		dst = dst[:at+n]
		binary.LittleEndian.PutUint32(dst[at-4:], head)
	}
	return append(dst, 0, 0, 0, 0), nil
}

// lz4Frame is the header of a frame being read.
type lz4Frame struct {
	linked, blockSum, contentSum bool
	contentSize                  int64 // -1: not said
	blockSize                    int
}

func decodeLZ4Frame(dst, src []byte, maxSize int) ([]byte, error) {
	base := len(dst)
	for len(src) > 0 {
		if len(src) < 8 {
			return dst, errLZ4
		}
		magic := binary.LittleEndian.Uint32(src)
		if magic&^0xf == lz4Skippable {
			n := binary.LittleEndian.Uint32(src[4:])
			if uint64(n) > uint64(len(src)-8) {
				return dst, errLZ4
			}
			src = src[8+n:]
			continue
		}
		if magic != lz4Magic {
			return dst, errors.New("no lz4 frame")
		}
		f, rest, err := readLZ4Header(src[4:])
		if err != nil {
			return dst, err
		}
		if dst, src, err = f.decodeBlocks(dst, rest, maxSize-(len(dst)-base)); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func readLZ4Header(src []byte) (f lz4Frame, rest []byte, err error) {
	if len(src) < 3 {
		return f, nil, errLZ4
	}
	flags, bd := src[0], src[1]
	n := 2
	f.contentSize = -1
	if flags&(1<<3) != 0 {
		if len(src) < 11 {
			return f, nil, errLZ4
		}
		f.contentSize = int64(binary.LittleEndian.Uint64(src[2:]) &^ (1 << 63))
		n += 8
	}
	if flags>>6 != 1 || flags&0b11 != 0 || bd&0x8f != 0 || bd>>4 < 4 || byte(xxh32(src[:n])>>8) != src[n] {
		return f, nil, errLZ4
	}
	f.linked, f.blockSum, f.contentSum = flags&(1<<5) == 0, flags&(1<<4) != 0, flags&(1<<2) != 0
	f.blockSize = lz4BlockSize(bd >> 4)
	return f, src[n+1:], nil
}

func (f *lz4Frame) decodeBlocks(dst, src []byte, room int) (out, rest []byte, err error) {
	start := len(dst)
	for {
		if len(src) < 4 {
			return dst, nil, errLZ4
		}
		head := binary.LittleEndian.Uint32(src)
		src = src[4:]
		if head == 0 {
			break
		}
		n := int(head &^ lz4RawBit)
		if n > f.blockSize || n > len(src) {
			return dst, nil, errLZ4
		}
		data := src[:n]
		src = src[n:]
		if f.blockSum {
			if len(src) < 4 || binary.LittleEndian.Uint32(src) != xxh32(data) {
				return dst, nil, errors.New("checksum of an lz4 block differs")
			}
			src = src[4:]
		}
		if dst, err = f.decodeBlock(dst, start, data, head&lz4RawBit != 0, room-(len(dst)-start)); err != nil {
			return dst, nil, err
		}
	}
	if f.contentSize >= 0 && f.contentSize != int64(len(dst)-start) {
		return dst, nil, errLZ4
	}
	if f.contentSum {
		if len(src) < 4 || binary.LittleEndian.Uint32(src) != xxh32(dst[start:]) {
			return dst, nil, errors.New("checksum of an lz4 frame differs")
		}
		src = src[4:]
	}
	return dst, src, nil
}

func (f *lz4Frame) decodeBlock(dst []byte, start int, data []byte, raw bool, room int) ([]byte, error) {
	if raw {
		if len(data) > room {
			return dst, ErrTooLarge
		}
		return append(dst, data...), nil
	}
	// A byte of input stands for at most 255 bytes of output.
	n := min(f.blockSize, 255*len(data)+64, room)
	at := len(dst)
	dst = slices.Grow(dst, n)
	var m int
	var err error
	if f.linked && at > start {
		m, err = lz4.UncompressBlockWithDict(data, dst[at:at+n], dst[max(start, at-lz4History):at])
	} else {
		m, err = lz4.UncompressBlock(data, dst[at:at+n])
	}
	if err != nil {
		return dst, err
	}
	return dst[:at+m], nil
}

// xxh32 is XXH32 with seed 0, the checksum of LZ4 frames.
func xxh32(b []byte) uint32 {
	const p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
	h := uint32(p5)
	n := len(b)
	if n >= 16 {
		v := [4]uint32{(p1 + p2) & 0xffffffff, p2, 0, 1<<32 - p1}
		for ; len(b) >= 16; b = b[16:] {
			for i := range v {
				v[i] = bits.RotateLeft32(v[i]+binary.LittleEndian.Uint32(b[4*i:])*p2, 13) * p1
			}
		}
		h = bits.RotateLeft32(v[0], 1) + bits.RotateLeft32(v[1], 7) + bits.RotateLeft32(v[2], 12) + bits.RotateLeft32(v[3], 18)
	}
	h += uint32(n)
	for ; len(b) >= 4; b = b[4:] {
		h = bits.RotateLeft32(h+binary.LittleEndian.Uint32(b)*p3, 17) * p4
	}
	for _, c := range b {
		h = bits.RotateLeft32(h+uint32(c)*p5, 11) * p1
	}
	h = (h ^ h>>15) * p2
	h = (h ^ h>>13) * p3
	return h ^ h>>16
}
