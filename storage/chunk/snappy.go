package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy"
)

// The snappy framing format: chunks of a type byte, a three-byte length and a
// body; data chunks start with a masked CRC32C of at most 64 KiB of content.
// It is written and read on whole slices, which spares the copies and buffers
// that a stream needs.
const (
	snappyBlock   = 64 << 10
	snappyData    = 0x00
	snappyRaw     = 0x01
	snappyPadding = 0xfe
	snappyStream  = 0xff
)

var snappyID = []byte("\xff\x06\x00\x00sNaPpY")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errSnappy = errors.New("malformed snappy frame")

func maskedCRC(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// FastSnappy appends src, compressed, to dst, as Snappy.Decompress reads it. It
// takes about half the time of Snappy.Compress and a twentieth more space: for
// what is not kept for long. The result depends on src alone.
func FastSnappy(dst, src []byte) []byte { return appendSnappy(dst, src, s2.EncodeSnappy) }

func appendSnappyFrame(dst, src []byte) []byte { return appendSnappy(dst, src, snappy.Encode) }

// appendSnappy appends the stream for src; nothing for an empty src.
func appendSnappy(dst, src []byte, encode func(dst, src []byte) []byte) []byte {
	if len(src) == 0 {
		return dst
	}
	dst = append(dst, snappyID...)
	for len(src) > 0 {
		part := src[:min(len(src), snappyBlock)]
		src = src[len(part):]
		crc := maskedCRC(part)
		dst = slices.Grow(dst, 8+snappy.MaxEncodedLen(len(part)))
		at := len(dst)
		body := encode(dst[at+8:cap(dst)], part)
		kind, n := byte(snappyData), len(body)
		if n >= len(part)-len(part)/8 {
			// Less than 12.5 % saved is not worth decoding.
			kind, n = snappyRaw, len(part)
			copy(dst[at+8:cap(dst)], part)
		}
		dst = dst[:at+8+n]
		binary.LittleEndian.PutUint32(dst[at:], uint32(kind)|uint32(n+4)<<8)
		binary.LittleEndian.PutUint32(dst[at+4:], crc)
	}
	return dst
}

func decodeSnappyFrame(dst, src []byte, maxSize int) ([]byte, error) {
	if !bytes.HasPrefix(src, snappyID) {
		return dst, errors.New("no snappy stream identifier")
	}
	base := len(dst)
	for len(src) > 0 {
		if len(src) < 4 {
			return dst, errSnappy
		}
		kind, n := src[0], int(binary.LittleEndian.Uint32(src)>>8)
		if n > len(src)-4 {
			return dst, errSnappy
		}
		body := src[4 : 4+n]
		src = src[4+n:]
		var err error
		switch {
		case kind == snappyData || kind == snappyRaw:
			dst, err = decodeSnappyChunk(dst, body, kind, maxSize-(len(dst)-base))
		case kind == snappyStream:
			if !bytes.Equal(body, snappyID[4:]) {
				err = errSnappy
			}
		case kind < 0x80:
			err = errors.New("snappy frame has a chunk of an unknown kind")
		}
		if err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func decodeSnappyChunk(dst, body []byte, kind byte, room int) ([]byte, error) {
	if len(body) < 4 {
		return dst, errSnappy
	}
	crc, body := binary.LittleEndian.Uint32(body), body[4:]
	n := len(body)
	if kind == snappyData {
		var err error
		if n, err = snappy.DecodedLen(body); err != nil {
			return dst, err
		}
	}
	if n > snappyBlock {
		return dst, errSnappy
	}
	if n > room {
		return dst, ErrTooLarge
	}
	at := len(dst)
	dst = slices.Grow(dst, n)[:at+n]
	if kind == snappyRaw {
		copy(dst[at:], body)
	} else if _, err := snappy.Decode(dst[at:at+n:at+n], body); err != nil {
		return dst[:at], err
	}
	if maskedCRC(dst[at:]) != crc {
		return dst[:at], errors.New("checksum of a snappy chunk differs")
	}
	return dst, nil
}
