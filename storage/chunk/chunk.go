// Package chunk reads and writes chunk objects in Loki's format 4, and has the
// types that reads are made of.
//
// An object is one stream's entries over some time. It starts with an envelope
// (labels, tenant, bounds; JSON in a snappy frame), followed by the chunk
// proper: a symbol table for metadata names and values, blocks of entries, and
// a table of the blocks. All of it is big-endian and under CRC-32C:
//
//	be32 M: bytes up to here+len · snappy(JSON) · be32 rest · rest:
//	be32 magic · u8 4 · u8 codec
//	uvarint symbols · compressed(symbols × (uvarint len · bytes)) · be32 crc
//	blocks × (compressed content · be32 crc)
//	uvarint blocks · blocks × (uvarint entries · varint mint · varint maxt ·
//	uvarint offset · uvarint uncompressed size · uvarint len) · be32 crc
//	be64 symbols len · be64 symbols offset · be64 table len · be64 table offset
//
// Writers collect records with AppendEntry, compress them with Codec.Compress,
// and assemble the object with Encode, which decides every byte from its
// arguments. Readers Open an object whose checksum they know, which checks all
// but the content of blocks, or Decode it, which leaves their checksums, too.
// They ask for the Content of a block, which is checked then. Merge puts blocks
// that overlap, or that are too small, in order.
//
// Functions may be called from many goroutines; a Chunk is read-only. A Chunk
// refers to the object that it was decoded from.
package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

const (
	magic        = 0x012EE56A
	format       = 4
	headSize     = 6
	trailerSize  = 32
	crcSize      = 4
	maxBlockSize = 1 << 28 // uncompressed; blocks are 256 KiB, or as large as one line
	maxSymbols   = 1 << 28 // bytes of a symbol table
)

// Block is a compressed run of entries in order of time.
type Block struct {
	Entries    int
	MinT, MaxT int64  // ns, of the first and last entry
	Size       int    // uncompressed size as Loki counts it, see EntrySize
	Data       []byte // compressed content, without its CRC
}

// maxContent returns the most bytes that the content of b can have: a record
// has at most 30 bytes beside line and references, and a pair of references,
// which counts as 8, at most 10.
func (b *Block) maxContent() int { return b.Size + b.Size/4 + 32*b.Entries }

// MaxContent returns the most bytes that the content of the first n blocks can
// have.
func (c *Chunk) MaxContent(n int) int {
	size := 0
	for i := range c.Blocks[:n] {
		size += c.Blocks[i].maxContent()
	}
	return size
}

// NewBlock compresses content, which must be sorted, and describes it. The
// data is appended to dst.
func NewBlock(codec Codec, dst, content []byte) (Block, error) {
	s, err := Inspect(content, -1)
	if err != nil {
		return Block{}, err
	}
	if !s.Sorted || s.Entries == 0 {
		return Block{}, errors.New("chunk: content of a new block is empty or not in order of time")
	}
	at := len(dst)
	if dst, err = codec.Compress(dst, content); err != nil {
		return Block{}, fmt.Errorf("chunk: %w", err)
	}
	return Block{Entries: s.Entries, MinT: s.MinT, MaxT: s.MaxT, Size: s.Size, Data: dst[at:len(dst):len(dst)]}, nil
}

// Encode appends a whole object to dst. The blocks must be in order of time
// and compressed with codec; there must be at least one entry, within the
// bounds of m.
func Encode(dst []byte, m Meta, codec Codec, symbols []string, blocks []Block) ([]byte, error) {
	err := checkBlocks(&m, codec, blocks)
	var text []byte
	if err == nil {
		text, err = compressSymbols(codec, symbols)
	}
	if err == nil {
		dst, err = assemble(dst, &m, codec, len(symbols), text, blocks)
	}
	if err != nil {
		return dst, fmt.Errorf("chunk: encode: %w", err)
	}
	return dst, nil
}

func compressSymbols(codec Codec, symbols []string) ([]byte, error) {
	size := 0
	for _, s := range symbols {
		size += len(s) + uvarintLen(uint64(len(s)))
	}
	if size > maxSymbols {
		return nil, fmt.Errorf("%d bytes of symbols are too many", size)
	}
	text := make([]byte, 0, size)
	for _, s := range symbols {
		text = binary.AppendUvarint(text, uint64(len(s)))
		text = append(text, s...)
	}
	if codec == None {
		return text, nil
	}
	return codec.Compress(nil, text)
}

// assemble puts the compressed parts together.
func assemble(dst []byte, m *Meta, codec Codec, symbols int, text []byte, blocks []Block) ([]byte, error) {
	start := len(dst)
	size := 1024 + len(text)
	for i := range blocks {
		size += len(blocks[i].Data) + 64
	}
	dst = slices.Grow(dst, size)
	dst = append(dst, 0, 0, 0, 0)
	dst = appendSnappyFrame(dst, appendMetadata(nil, m))
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start))
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = appendInner(dst, codec, symbols, text, blocks)
	if n := len(dst) - at - 4; uint64(n) > 1<<32-1 {
		return dst, fmt.Errorf("%d bytes do not fit", n)
	}
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst, nil
}

func checkBlocks(m *Meta, codec Codec, blocks []Block) error {
	if !codec.Valid() {
		return fmt.Errorf("unknown %v", codec)
	}
	if len(blocks) == 0 {
		return errors.New("no entries")
	}
	for i := range blocks {
		b := &blocks[i]
		if b.Entries <= 0 || b.MinT > b.MaxT || b.Size < 0 {
			return fmt.Errorf("block %d of %d has %d entries from %d to %d", i, len(blocks), b.Entries, b.MinT, b.MaxT)
		}
		if i > 0 && b.MinT < blocks[i-1].MinT {
			return fmt.Errorf("block %d of %d begins before its predecessor", i, len(blocks))
		}
		if floorDiv(b.MinT, 1e6) < m.From || floorDiv(b.MaxT-1, 1e6) >= m.Through {
			return fmt.Errorf("block %d of %d reaches over the bounds of the chunk, %d to %d ms", i, len(blocks), m.From, m.Through)
		}
	}
	return nil
}

func appendInner(dst []byte, codec Codec, symbols int, text []byte, blocks []Block) []byte {
	inner := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, magic)
	dst = append(dst, format, byte(codec))
	dst = binary.AppendUvarint(dst, uint64(symbols))
	dst = append(dst, text...)
	symbolsLen := len(dst) - inner - headSize
	dst = appendCRC(dst, inner+headSize)
	offsets := make([]int, len(blocks))
	for i := range blocks {
		offsets[i] = len(dst) - inner
		dst = append(dst, blocks[i].Data...)
		dst = appendCRC(dst, inner+offsets[i])
	}
	table := len(dst) - inner
	dst = binary.AppendUvarint(dst, uint64(len(blocks)))
	for i := range blocks {
		b := &blocks[i]
		dst = binary.AppendUvarint(dst, uint64(b.Entries))
		dst = binary.AppendVarint(dst, b.MinT)
		dst = binary.AppendVarint(dst, b.MaxT)
		dst = binary.AppendUvarint(dst, uint64(offsets[i]))
		dst = binary.AppendUvarint(dst, uint64(b.Size))
		dst = binary.AppendUvarint(dst, uint64(len(b.Data)))
	}
	tableLen := len(dst) - inner - table
	dst = appendCRC(dst, inner+table)
	for _, v := range [4]int{symbolsLen, headSize, tableLen, table} {
		dst = binary.BigEndian.AppendUint64(dst, uint64(v))
	}
	return dst
}

func appendCRC(dst []byte, from int) []byte {
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[from:], castagnoli))
}
