package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Salvaged is what can be read of an object, for people who look at it.
type Salvaged struct {
	Chunk         // what is damaged is left out: Tenant is empty without metadata
	Size          int
	Format        int
	MetadataBytes int // at the start of the object, with their length; 0: unknown
	Symbols       Part
	Table         Part
	Blocks        []SalvagedBlock
	Problems      []error // mostly *CorruptionError, whose Offset is that in the object
}

// Part is where something is in an object, its checksum included. A Part with
// Len 0 was not found.
type Part struct{ Offset, Len int }

// SalvagedBlock is a block of the table.
type SalvagedBlock struct {
	Block
	Part
	Checksum uint32 // of Data, as it is stored
	Err      error  // why it cannot be read
}

// Salvage reads as much as possible of an object, which may be damaged.
func Salvage(object []byte) *Salvaged {
	s := &Salvaged{Size: len(object)}
	inner, at, err := s.decodeEnvelope(object)
	if err != nil {
		s.problem(err)
		inner, at = s.findInner(object)
	}
	if inner != nil {
		s.MetadataBytes = max(0, at-4)
		s.inner(inner, at)
	}
	return s
}

func (s *Salvaged) problem(err error) { s.Problems = append(s.Problems, err) }

// findInner looks for the inner chunk without knowing how long what is before it
// is.
func (s *Salvaged) findInner(object []byte) ([]byte, int) {
	var head [5]byte
	binary.BigEndian.PutUint32(head[:], magic)
	head[4] = format
	at := bytes.Index(object, head[:])
	if at < 4 {
		return nil, 0
	}
	if n := binary.BigEndian.Uint32(object[at-4:]); uint64(n) < uint64(len(object)-at) && n > headSize {
		return object[at : at+int(n)], at
	}
	return object[at:], at
}

func (s *Salvaged) inner(b []byte, at int) {
	bad := func(part string, off int, err error) { s.problem(&CorruptionError{part, at + off, err}) }
	if len(b) < headSize {
		bad("header", 0, errTruncated)
		return
	}
	if binary.BigEndian.Uint32(b) != magic {
		bad("header", 0, errors.New("no chunk"))
	}
	s.Format, s.Codec = int(b[4]), Codec(b[5])
	if b[4] != format || !s.Codec.Valid() {
		bad("header", 4, fmt.Errorf("format %d with %v is not supported", b[4], s.Codec))
		return
	}
	end := len(b) - trailerSize
	if end < headSize+2*(1+crcSize) {
		bad("trailer", len(b), errTruncated)
		return
	}
	symLen, tabLen, tabOff := binary.BigEndian.Uint64(b[end:]), binary.BigEndian.Uint64(b[end+16:]), binary.BigEndian.Uint64(b[end+24:])
	room := uint64(end)
	if binary.BigEndian.Uint64(b[end+8:]) != headSize || symLen == 0 || symLen > room || symLen+headSize+crcSize > room ||
		tabOff > room || tabLen > room-tabOff || tabLen != room-tabOff-crcSize || tabOff < symLen+headSize+crcSize {
		bad("trailer", end, errors.New("the parts that it names do not fit"))
		return
	}
	s.Symbols = Part{at + headSize, int(symLen) + crcSize}
	s.Table = Part{at + int(tabOff), int(tabLen) + crcSize}
	known := -1 // symbols that there are
	if text, ok := checked(b[:headSize+symLen+crcSize], headSize); !ok {
		bad("symbols", headSize, errCRC)
	} else if err := s.decodeSymbols(text); err != nil {
		s.Chunk.Symbols = nil
		bad("symbols", headSize, err)
	} else {
		known = len(s.Chunk.Symbols)
	}
	table, ok := checked(b[:end], int(tabOff))
	if !ok {
		bad("table", int(tabOff), errCRC)
	}
	// A table whose checksum differs may still be right where it counts.
	if err := s.decodeTable(b, table, headSize+int(symLen)+crcSize, int(tabOff)); err != nil {
		bad("table", int(tabOff), err)
	}
	off := s.Symbols.Offset + s.Symbols.Len
	for i := range s.Chunk.Blocks {
		blk := SalvagedBlock{Block: s.Chunk.Blocks[i], Part: Part{off, len(s.Chunk.Blocks[i].Data) + crcSize}, Checksum: s.crcs[i]}
		if _, err := s.content(i, known); err != nil {
			blk.Err = err
			s.problem(&CorruptionError{fmt.Sprintf("block %d", i), off, err})
		}
		s.Blocks = append(s.Blocks, blk)
		off += blk.Len
	}
}

// content returns the content of block i, whose references must be below known
// symbols, or may be anything if that is negative.
func (s *Salvaged) content(i, known int) ([]byte, error) {
	b := &s.Chunk.Blocks[i]
	if crc32.Checksum(b.Data, castagnoli) != s.crcs[i] {
		return nil, errCRC
	}
	out, err := s.Codec.Decompress(nil, b.Data, b.maxContent())
	if err != nil {
		return nil, err
	}
	if _, err := Inspect(out, known); err != nil {
		return nil, err
	}
	return out, nil
}

// BlockContent returns the content of a block that has no Err. Symbols to which
// it refers may be missing.
func (s *Salvaged) BlockContent(i int) ([]byte, error) { return s.content(i, -1) }
