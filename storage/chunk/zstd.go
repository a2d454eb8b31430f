package chunk

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	zstdMagic     = 0xFD2FB528
	zstdSkippable = 0x184D2A50 // low four bits are free
	zstdMaxBlock  = 128 << 10  // most that one block of a frame can hold
	// zstdWindow is larger than a block of a chunk, and small enough to keep
	// the encoder's history out of the way.
	zstdWindow = 1 << 20
)

var errZstd = errors.New("malformed zstd frame")

var (
	zstdEncoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault),
			zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
		if err != nil { // only options are checked
			panic(err)
		}
		return e
	}}
	zstdDecoders = sync.Pool{New: func() any {
		// The output may not outgrow the slice it is given, which is sized
		// from the blocks in the input; the window is then part of the output.
		// The chunk's own checksums have been compared before.
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.IgnoreChecksum(true))
		if err != nil {
			panic(err)
		}
		return d
	}}
)

func compressZstd(dst, src []byte) []byte {
	if len(src) == 0 {
		return dst // as a stream would; EncodeAll writes an empty frame
	}
	e := zstdEncoders.Get().(*zstd.Encoder)
	defer zstdEncoders.Put(e)
	return e.EncodeAll(src, dst)
}

func decompressZstd(dst, src []byte, maxSize int) ([]byte, error) {
	bound, err := zstdBound(src)
	if err != nil {
		return dst, err
	}
	// The slack lets the decoder copy in whole words up to the end.
	dst = slices.Grow(dst, int(min(bound, int64(maxSize)))+64)
	d := zstdDecoders.Get().(*zstd.Decoder)
	defer zstdDecoders.Put(d)
	out, err := d.DecodeAll(src, dst)
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = ErrTooLarge
	}
	if err != nil {
		return dst, err
	}
	return out, nil
}

// zstdBound walks the blocks of all frames in src and returns the most that
// they can hold.
func zstdBound(src []byte) (int64, error) {
	var total int64
	for len(src) > 0 {
		if len(src) < 8 {
			return 0, errZstd
		}
		magic := binary.LittleEndian.Uint32(src)
		if magic&^0xf == zstdSkippable {
			n := binary.LittleEndian.Uint32(src[4:])
			if uint64(n) > uint64(len(src)-8) {
				return 0, errZstd
			}
			src = src[8+n:]
			continue
		}
		if magic != zstdMagic {
			return 0, errors.New("no zstd frame")
		}
		n, rest, err := zstdFrameBound(src[4:])
		if err != nil {
			return 0, err
		}
		total += n
		src = rest
	}
	return total, nil
}

func zstdFrameBound(src []byte) (bound int64, rest []byte, err error) {
	desc := src[0]
	single, sum := desc>>5&1, desc>>2&1
	head := 1 + 1 - int(single) + [4]int{0, 1, 2, 4}[desc&3]
	fcs := [4]int{int(single), 2, 4, 8}[desc>>6]
	if len(src) < head+fcs {
		return 0, nil, errZstd
	}
	said := zstdContentSize(src[head : head+fcs])
	src = src[head+fcs:]
	for last := false; !last; {
		if len(src) < 3 {
			return 0, nil, errZstd
		}
		h := int(src[0]) | int(src[1])<<8 | int(src[2])<<16
		last = h&1 != 0
		size, n := h>>3, h>>3
		switch h >> 1 & 3 {
		case 0:
			bound += int64(size)
		case 1:
			bound += int64(size)
			n = 1
		case 2:
			bound += zstdMaxBlock
		default:
			return 0, nil, errZstd
		}
		if size > zstdMaxBlock || len(src) < 3+n {
			return 0, nil, errZstd
		}
		src = src[3+n:]
	}
	if len(src) < 4*int(sum) {
		return 0, nil, errZstd
	}
	if said >= 0 {
		bound = min(bound, said)
	}
	return bound, src[4*sum:], nil
}

// zstdContentSize returns the size that a frame header announces, -1 if none.
func zstdContentSize(b []byte) int64 {
	switch len(b) {
	case 1:
		return int64(b[0])
	case 2:
		return int64(binary.LittleEndian.Uint16(b)) + 256
	case 4:
		return int64(binary.LittleEndian.Uint32(b))
	case 8:
		return int64(binary.LittleEndian.Uint64(b) &^ (1 << 63))
	}
	return -1
}
