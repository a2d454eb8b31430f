package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/loki-go/loki-go/internal/find"
)

// Chunk is a decoded object. Blocks stay compressed until their Content is
// asked for.
type Chunk struct {
	Meta
	Codec   Codec
	Symbols []string
	Blocks  []Block
	crcs    []uint32

	tail     int  // bytes behind the blocks
	compared bool // the checksums of the blocks have been
}

// CorruptionError says where an object does not check out: Part is metadata,
// length, header, symbols, table, trailer or block, Offset counts from the
// start of what was given to Decode.
type CorruptionError struct {
	Part   string
	Offset int
	Err    error
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("chunk: %s at offset %d: %v", e.Part, e.Offset, e.Err)
}

func (e *CorruptionError) Unwrap() error { return e.Err }

var (
	errTruncated = errors.New("truncated")
	errLength    = errors.New("length does not fit")
	errCRC       = errors.New("checksum differs")
)

// Decode reads an object, all but the content of its blocks. The chunk refers
// to object, which must not change.
func Decode(object []byte) (*Chunk, error) {
	c := new(Chunk)
	inner, at, err := c.decodeEnvelope(object)
	if err != nil {
		return nil, err
	}
	if err := c.decodeInner(inner, at); err != nil {
		return nil, err
	}
	return c, nil
}

// decodeEnvelope reads the metadata and returns the inner chunk and its offset.
func (c *Chunk) decodeEnvelope(object []byte) (inner []byte, at int, err error) {
	fail := func(part string, at int, err error) ([]byte, int, error) {
		return nil, 0, &CorruptionError{part, at, err}
	}
	if len(object) < 8 {
		return fail("metadata", 0, errTruncated)
	}
	m := uint64(binary.BigEndian.Uint32(object))
	if m < 4 || m > uint64(len(object)-4) {
		return fail("metadata", 0, errLength)
	}
	text, err := decodeSnappyFrame(nil, object[4:m], maxMetadata)
	if err != nil && m+8 <= uint64(len(object)) {
		// Some writers do not count the length itself.
		var err2 error
		if text, err2 = decodeSnappyFrame(nil, object[4:m+4], maxMetadata); err2 == nil {
			m, err = m+4, nil
		}
	}
	if err == nil {
		c.Meta, err = parseMetadata(text)
	}
	if err != nil {
		return fail("metadata", 4, err)
	}
	if inner = object[m+4:]; uint64(binary.BigEndian.Uint32(object[m:])) != uint64(len(inner)) {
		return fail("length", int(m), errLength)
	}
	return inner, int(m + 4), nil
}

func (c *Chunk) decodeInner(b []byte, at int) error {
	fail := func(part string, off int, err error) error { return &CorruptionError{part, at + off, err} }
	if len(b) < headSize+trailerSize+2*(1+crcSize) {
		return fail("header", 0, errTruncated)
	}
	if binary.BigEndian.Uint32(b) != magic {
		return fail("header", 0, errors.New("no chunk"))
	}
	c.Codec = Codec(b[5])
	if b[4] != format || !c.Codec.Valid() {
		return fail("header", 4, fmt.Errorf("format %d with %v is not supported", b[4], c.Codec))
	}
	end := len(b) - trailerSize
	symLen, symOff := binary.BigEndian.Uint64(b[end:]), binary.BigEndian.Uint64(b[end+8:])
	tabLen, tabOff := binary.BigEndian.Uint64(b[end+16:]), binary.BigEndian.Uint64(b[end+24:])
	// The sections lie back to back, which leaves one value for each offset.
	if symOff != headSize || symLen == 0 || tabLen == 0 || tabOff > uint64(end) || symLen > tabOff ||
		symLen+headSize+crcSize > tabOff || tabLen != uint64(end)-tabOff-crcSize || uint64(end)-tabOff < crcSize {
		return fail("trailer", end, errLength)
	}
	symbols, ok := checked(b[:headSize+symLen+crcSize], headSize)
	if !ok {
		return fail("symbols", headSize, errCRC)
	}
	table, ok := checked(b[:end], int(tabOff))
	if !ok {
		return fail("table", int(tabOff), errCRC)
	}
	if err := c.decodeSymbols(symbols); err != nil {
		return fail("symbols", headSize, err)
	}
	c.tail = len(b) - int(tabOff)
	if err := c.decodeTable(b, table, headSize+int(symLen)+crcSize, int(tabOff)); err != nil {
		return fail("table", int(tabOff), err)
	}
	return nil
}

// checked returns b from off to the CRC at its end, and whether that matches.
func checked(b []byte, off int) ([]byte, bool) {
	n := len(b) - crcSize
	return b[off:n], crc32.Checksum(b[off:n], castagnoli) == binary.BigEndian.Uint32(b[n:])
}

func (c *Chunk) decodeSymbols(b []byte) error {
	count, n := binary.Uvarint(b)
	if n <= 0 || count > maxSymbols {
		return errLength
	}
	if count == 0 {
		return nil // what an empty stream looks like depends on the writer
	}
	text, err := c.Codec.Decompress(nil, b[n:], maxSymbols)
	if err != nil {
		return err
	}
	if count > uint64(len(text)) {
		return errLength
	}
	all := string(text) // one allocation that all symbols share
	c.Symbols = make([]string, 0, count)
	p := 0
	for range count {
		size, n := uvarint(text[p:])
		if n <= 0 || size > uint64(len(text)-p-n) {
			return errLength
		}
		p += n
		c.Symbols = append(c.Symbols, all[p:p+int(size)])
		p += int(size)
	}
	if p != len(text) {
		return errLength
	}
	return nil
}

// decodeTable reads the table of the blocks, which lie between from and to.
func (c *Chunk) decodeTable(b, table []byte, from, to int) error {
	r := reader{b: table}
	count := r.uvarint()
	// A block takes at least 6 bytes in the table.
	if r.bad || count > uint64(len(table))/6 {
		return errLength
	}
	c.Blocks = make([]Block, 0, count)
	c.crcs = make([]uint32, 0, count)
	for range count {
		entries, mint, maxt := r.uvarint(), r.varint(), r.varint()
		off, size, n := r.uvarint(), r.uvarint(), r.uvarint()
		if r.bad || off != uint64(from) || n > uint64(to-from) || uint64(to-from)-n < crcSize ||
			size > maxBlockSize || entries == 0 || entries > maxBlockSize/4 || mint > maxt {
			return fmt.Errorf("block %d: %w", len(c.Blocks), errLength)
		}
		end := from + int(n)
		c.Blocks = append(c.Blocks, Block{Entries: int(entries), MinT: mint, MaxT: maxt, Size: int(size), Data: b[from:end:end]})
		c.crcs = append(c.crcs, binary.BigEndian.Uint32(b[end:]))
		from = end + crcSize
	}
	if len(r.b) > 0 || from != to {
		return errLength
	}
	return nil
}

// reader takes varints off a slice.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Content appends the content of block i to dst, checked in all respects:
// checksum, structure, order, symbol references, and that the table gives the
// number of entries and encloses their times.
func (c *Chunk) Content(i int, dst []byte) ([]byte, error) {
	out, _, err := c.Find(i, dst, &find.Finder{})
	return out, err
}

// Find is Content with the first place of a text in the content, -1 if it is
// not there. Content without the text has passed its checksum, but structure
// and order are not looked at: wherever its entries begin and end, none has
// the text.
func (c *Chunk) Find(i int, dst []byte, text *find.Finder) (content []byte, at int, err error) {
	b := &c.Blocks[i]
	fail := func(err error) ([]byte, int, error) { return dst, -1, c.blockError(i, err) }
	if !c.compared && crc32.Checksum(b.Data, castagnoli) != c.crcs[i] {
		return fail(errCRC)
	}
	start := len(dst)
	out, err := c.Codec.Decompress(dst, b.Data, b.maxContent())
	if err != nil {
		return fail(err)
	}
	if at = text.Index(out[start:]); at < 0 {
		return out, -1, nil
	}
	s, err := Inspect(out[start:], len(c.Symbols))
	if err != nil {
		return fail(err)
	}
	if !s.Sorted || s.Entries != b.Entries || s.MinT < b.MinT || s.MaxT > b.MaxT {
		return fail(errors.New("entries are not what the table says"))
	}
	return out, at, nil
}

func (c *Chunk) blockError(i int, err error) error {
	return fmt.Errorf("chunk: block %d of %d: %w", i, len(c.Blocks), err)
}

// NumEntries returns the number of entries in all blocks.
func (c *Chunk) NumEntries() int {
	n := 0
	for i := range c.Blocks {
		n += c.Blocks[i].Entries
	}
	return n
}

// SymbolBytes returns the total length of the symbols.
func (c *Chunk) SymbolBytes() int {
	n := 0
	for _, s := range c.Symbols {
		n += len(s)
	}
	return n
}
