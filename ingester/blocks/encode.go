package blocks

import (
	"encoding/binary"
	"errors"
)

// Cover says which entries of one stream are in a block: for each push, by its
// number in the WAL, all of the stream's entries or ranges of them. It is kept
// encoded, as a head gathers it push by push: per piece
//
//	uvarint(zigzag(lsn - previous lsn) << 1 | partial) [· uvarint from · uvarint to]
//
// where from and to number the stream's entries within that push.
type Cover struct {
	enc  []byte
	last uint64
	min  uint64
	max  uint64
}

// All is the upper bound of a piece that takes in all entries of the push.
const All = 1<<32 - 1

// Add notes entries [from, to) of the push with number lsn; from 0 to All
// takes in all.
func (c *Cover) Add(lsn uint64, from, to uint32) {
	d := int64(lsn - c.last)
	z := uint64(d<<1) ^ uint64(d>>63)
	if from == 0 && to == All {
		c.enc = binary.AppendUvarint(c.enc, z<<1)
	} else {
		c.enc = binary.AppendUvarint(c.enc, z<<1|1)
		c.enc = binary.AppendUvarint(c.enc, uint64(from))
		c.enc = binary.AppendUvarint(c.enc, uint64(to))
	}
	if c.min == 0 || lsn < c.min {
		c.min = lsn
	}
	c.last, c.max = lsn, max(c.max, lsn)
}

// Min and Max return the smallest and largest push number, 0 if there is none.
func (c *Cover) Min() uint64 { return c.min }
func (c *Cover) Max() uint64 { return c.max }

// Piece is one range of entries of one push.
type Piece struct {
	LSN      uint64
	From, To uint32
}

// Pieces appends the pieces to dst.
func (c *Cover) Pieces(dst []Piece) ([]Piece, error) {
	p := c.enc
	last := uint64(0)
	for len(p) > 0 {
		v, n := binary.Uvarint(p)
		if n <= 0 {
			return dst, errHeader
		}
		p = p[n:]
		z := v >> 1
		last += uint64(int64(z>>1) ^ -int64(z&1))
		pc := Piece{LSN: last, To: All}
		if v&1 == 1 {
			from, n := binary.Uvarint(p)
			if n <= 0 {
				return dst, errHeader
			}
			to, m := binary.Uvarint(p[n:])
			if m <= 0 || from > to || to > All {
				return dst, errHeader
			}
			p = p[n+m:]
			pc.From, pc.To = uint32(from), uint32(to)
		}
		dst = append(dst, pc)
	}
	return dst, nil
}

var errHeader = errors.New("bad block header")

// encode appends the header of a block record:
//
//	str tenant · str labels · uvarint stream · uvarint chunk · u8 flags (1 late) · u8 codec ·
//	uvarint entries · varint min ns · varint max ns · uvarint size · varint opened ns ·
//	uvarint n · n × (uvarint id · str text) · str cover [· str pushes]
//
// where str is a uvarint length and the bytes.
func (b *Block) encode(dst []byte) []byte {
	dst = appendStr(dst, b.Tenant)
	dst = appendStr(dst, b.Labels)
	dst = binary.AppendUvarint(dst, b.Stream)
	dst = binary.AppendUvarint(dst, b.Chunk)
	flags := byte(0)
	if b.Late {
		flags = 1
	}
	dst = append(dst, flags, b.Codec)
	dst = binary.AppendUvarint(dst, uint64(b.Entries))
	dst = binary.AppendVarint(dst, b.MinT)
	dst = binary.AppendVarint(dst, b.MaxT)
	dst = binary.AppendUvarint(dst, uint64(b.Size))
	dst = binary.AppendVarint(dst, b.Opened)
	dst = binary.AppendUvarint(dst, uint64(len(b.Symbols)))
	for _, s := range b.Symbols {
		dst = binary.AppendUvarint(dst, uint64(s.ID))
		dst = appendStr(dst, s.Text)
	}
	dst = appendStr(dst, string(b.Cover.enc))
	if len(b.Pushes) > 0 {
		dst = appendStr(dst, string(b.Pushes))
	}
	return dst
}

func appendStr(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

type reader struct {
	p   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.p)
	if n <= 0 {
		r.bad, r.p = true, nil
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.p)
	if n <= 0 {
		r.bad, r.p = true, nil
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.p) == 0 {
		r.bad = true
		return 0
	}
	c := r.p[0]
	r.p = r.p[1:]
	return c
}

func (r *reader) str() string {
	n := r.uvarint()
	if n > uint64(len(r.p)) {
		r.bad, r.p = true, nil
		return ""
	}
	s := string(r.p[:n])
	r.p = r.p[n:]
	return s
}

func (b *Block) decode(hdr []byte) error {
	r := reader{p: hdr}
	b.Tenant, b.Labels = r.str(), r.str()
	b.Stream, b.Chunk = r.uvarint(), r.uvarint()
	b.Late = r.byte()&1 != 0
	b.Codec = r.byte()
	b.Entries = uint32(r.uvarint())
	b.MinT, b.MaxT = r.varint(), r.varint()
	b.Size = int(r.uvarint())
	b.Opened = r.varint()
	n := r.uvarint()
	for ; n > 0 && !r.bad; n-- {
		b.Symbols = append(b.Symbols, Symbol{uint32(r.uvarint()), r.str()})
	}
	b.Cover.enc = []byte(r.str())
	if len(r.p) > 0 {
		b.Pushes = []byte(r.str())
	}
	if r.bad || len(r.p) > 0 {
		return errHeader
	}
	pieces, err := b.Cover.Pieces(nil)
	if err != nil {
		return err
	}
	for _, p := range pieces {
		b.Cover.max = max(b.Cover.max, p.LSN)
		if b.Cover.min == 0 || p.LSN < b.Cover.min {
			b.Cover.min = p.LSN
		}
		b.Cover.last = p.LSN
	}
	return nil
}

// Covered says that entries of a stream were stored by another replica.
type Covered struct {
	Tenant, Labels string
	LSN            uint64 // no record of the WAL above it has any of them
	Entries        []byte // as the caller encodes them
}

// encode appends the header of such a record: str tenant · str labels ·
// uvarint lsn · str entries.
func (c *Covered) encode(dst []byte) []byte {
	dst = appendStr(appendStr(dst, c.Tenant), c.Labels)
	return appendStr(binary.AppendUvarint(dst, c.LSN), string(c.Entries))
}

func (c *Covered) decode(hdr []byte) error {
	r := reader{p: hdr}
	c.Tenant, c.Labels, c.LSN, c.Entries = r.str(), r.str(), r.uvarint(), []byte(r.str())
	if r.bad || len(r.p) > 0 {
		return errHeader
	}
	return nil
}
