package chunk

import (
	"errors"
	"hash/crc32"
)

// ErrChecksum is returned by Open for an object whose checksum is not that of
// its key.
var ErrChecksum = errors.New("the object's checksum is not that of its key")

// Open is Decode of an object whose checksum has to be sum. It compares the
// checksums of all blocks, too, with one look at each byte; Content and Find do
// without that then.
func Open(object []byte, sum uint32) (*Chunk, error) {
	c, err := Decode(object)
	if err == nil {
		err = c.compare(object, sum)
	}
	if err != nil {
		// Whatever is wrong with it, it may just not be what was stored.
		if Checksum(object) != sum {
			err = ErrChecksum
		}
		return nil, err
	}
	c.compared = true
	return c, nil
}

// compare finds the checksum of object from those of its blocks.
func (c *Chunk) compare(object []byte, want uint32) error {
	at := len(object) // of the first block
	for i := range c.Blocks {
		at -= len(c.Blocks[i].Data) + crcSize
	}
	at -= c.tail
	sum := crc32.Checksum(object[:at], castagnoli)
	for i := range c.Blocks {
		data := c.Blocks[i].Data
		own := crc32.Checksum(data, castagnoli)
		if own != c.crcs[i] {
			return c.blockError(i, errCRC)
		}
		at += len(data)
		sum = joinSums(sum, own, len(data))
		sum = crc32.Update(sum, castagnoli, object[at:at+crcSize])
		at += crcSize
	}
	if crc32.Update(sum, castagnoli, object[at:]) != want {
		return ErrChecksum
	}
	return nil
}

// joinSums returns the checksum of two pieces behind each other from those of
// the pieces. A CRC is a remainder of polynomials over GF(2): n more bytes
// multiply that of what is before them by x^(8n).
func joinSums(first, second uint32, n int) uint32 {
	for k, bits := 0, uint64(n)*8; bits > 0; k, bits = k+1, bits>>1 {
		if bits&1 != 0 {
			first = mulSums(powers[k], first)
		}
	}
	return first ^ second
}

// mulSums multiplies two polynomials, whose highest bit is that of x^0.
func mulSums(a, b uint32) uint32 {
	p := uint32(0)
	for ; a != 0; a <<= 1 {
		if a&(1<<31) != 0 {
			p ^= b
		}
		odd := b & 1
		b >>= 1
		if odd != 0 {
			b ^= crc32.Castagnoli
		}
	}
	return p
}

// powers are x^(2^k).
var powers = func() (p [64]uint32) {
	p[0] = 1 << 30
	for k := 1; k < len(p); k++ {
		p[k] = mulSums(p[k-1], p[k-1])
	}
	return p
}()
