package index

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"

	"github.com/loki-go/loki-go/internal/labels"
)

// Reader looks into an index file. It refers to the file's bytes, which must
// not change, and is safe for concurrent use. What it returns does not refer to
// them.
type Reader struct {
	b    []byte
	toc  [9]uint64
	info Info

	text  string   // of the symbols section; labels given out are parts of it
	ends  []uint32 // of each symbol in text, with the lengths between them
	heads []uint32 // start of each symbol in text

	table   []byte            // body of the postings table
	entries []uint32          // of the table, offsets in it
	names   []string          // sorted
	ranges  map[string][2]int // entries of a name
}

// NewReader opens the file b. It checks the symbols and the tables; series and
// postings are checked when they are read.
func NewReader(b []byte) (*Reader, error) {
	r := &Reader{b: b}
	if err := r.readTOC(); err != nil {
		return nil, err
	}
	if err := r.readSymbols(); err != nil {
		return nil, err
	}
	if err := r.readTable(); err != nil {
		return nil, err
	}
	if err := r.checkUnused(); err != nil {
		return nil, err
	}
	return r, nil
}

func corrupt(section string, offset int, err error) error {
	return &CorruptionError{section, int64(offset), err}
}

// Info returns the file's summary.
func (r *Reader) Info() Info { return r.info }

// Size returns about how much memory the reader takes, the file included.
func (r *Reader) Size() int {
	return len(r.b) + len(r.text) + 4*(len(r.heads)+len(r.ends)+len(r.entries)) + 64*len(r.names)
}

func (r *Reader) readTOC() error {
	if len(r.b) < headerSize+tocSize {
		return corrupt("header", 0, errors.New("truncated"))
	}
	if err := checkHeader(r.b); err != nil {
		return err
	}
	at := len(r.b) - tocSize
	return r.setTOC(r.b[at:], at)
}

// setTOC reads the table of contents b, which is at offset at.
func (r *Reader) setTOC(b []byte, at int) error {
	toc := b[:tocSize-4]
	r.info.Checksum = binary.BigEndian.Uint32(b[tocSize-4:])
	if crc32.Checksum(toc, castagnoli) != r.info.Checksum {
		return corrupt("table of contents", at, errCRC)
	}
	for i := range r.toc {
		r.toc[i] = binary.BigEndian.Uint64(toc[8*i:])
		if i <= tocFingerprints && r.toc[i] > uint64(at) {
			return corrupt("table of contents", at+8*i, errLength)
		}
	}
	if r.toc[tocSymbols] != headerSize {
		return corrupt("table of contents", at, errLength)
	}
	r.info.From, r.info.Through = int64(r.toc[tocFrom]), int64(r.toc[tocThrough])
	return nil
}

// checkUnused looks at tables that other readers use.
func (r *Reader) checkUnused() error {
	if _, err := r.section("label index table", r.toc[tocLabelTable]); err != nil {
		return err
	}
	body, err := r.section("fingerprint table", r.toc[tocFingerprints])
	if err == nil && r.toc[tocFingerprints]+uint64(len(body))+8 != uint64(len(r.b)-tocSize) {
		err = corrupt("fingerprint table", int(r.toc[tocFingerprints]), errLength)
	}
	return err
}

// section returns the body of the framed section at off.
func (r *Reader) section(what string, off uint64) ([]byte, error) {
	end := uint64(len(r.b) - tocSize)
	if off > end || end-off < 8 {
		return nil, corrupt(what, int(min(off, end)), errLength)
	}
	n := uint64(binary.BigEndian.Uint32(r.b[off:]))
	if n > end-off-8 {
		return nil, corrupt(what, int(off), errLength)
	}
	body := r.b[off+4 : off+4+n]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(r.b[off+4+n:]) {
		return nil, corrupt(what, int(off), errCRC)
	}
	return body, nil
}

func (r *Reader) readSymbols() error {
	body, err := r.section("symbols", headerSize)
	if err != nil {
		return err
	}
	return r.setSymbols(string(body))
}

// setSymbols finds the symbols in the body of their section.
func (r *Reader) setSymbols(body string) error {
	fail := func() error { return corrupt("symbols", headerSize, errLength) }
	if len(body) < 4 {
		return fail()
	}
	n, text := binary.BigEndian.Uint32([]byte(body[:4])), body[4:]
	if uint64(n) > uint64(len(text)) {
		return fail()
	}
	r.text = text
	r.heads, r.ends = make([]uint32, n), make([]uint32, n)
	p := 0
	for i := range r.heads {
		size, k := uvarintOf(text[p:])
		if k <= 0 || size > uint64(len(text)-p-k) {
			return fail()
		}
		r.heads[i] = uint32(p + k)
		p += k + int(size)
		r.ends[i] = uint32(p)
	}
	if p != len(text) {
		return fail()
	}
	return nil
}

// uvarintOf is binary.Uvarint of a string.
func uvarintOf(s string) (uint64, int) {
	if len(s) > 0 && s[0] < 0x80 {
		return uint64(s[0]), 1
	}
	var b [binary.MaxVarintLen64]byte
	return binary.Uvarint(b[:copy(b[:], s)])
}

// tableEntry is one entry of the postings table; name and value are parts of
// the file.
type tableEntry struct {
	name, value []byte
	offset      uint64
	next        int // offset in the table of what follows
}

func (r *Reader) tableEntry(at int) (e tableEntry, ok bool) {
	d := decoder{b: r.table[at:]}
	d.bad = d.uvarint() != 2
	e.name, e.value = d.bytes(), d.bytes()
	e.offset = d.uvarint()
	e.next = len(r.table) - len(d.b)
	return e, !d.bad
}

// readTable walks the postings table once, to know where its entries are.
func (r *Reader) readTable() error {
	off := r.toc[tocPostingsTable]
	body, err := r.section("postings table", off)
	if err != nil {
		return err
	}
	fail := func(at int, err error) error { return corrupt("postings table", int(off)+8+at, err) }
	if len(body) < 4 {
		return fail(0, errLength)
	}
	n := binary.BigEndian.Uint32(body)
	r.table = body[4:]
	// An entry has four varints at least.
	if n == 0 || uint64(n) > uint64(len(r.table))/4 {
		return fail(0, errLength)
	}
	r.entries = make([]uint32, n)
	r.ranges = map[string][2]int{}
	at, first := 0, 0
	var last tableEntry
	for i := range r.entries {
		e, ok := r.tableEntry(at)
		if !ok {
			return fail(at, errLength)
		}
		same := string(e.name) == string(last.name)
		switch {
		case i == 0:
			if len(e.name)+len(e.value) > 0 {
				return fail(at, errors.New("no list of all series"))
			}
		case string(e.name) < string(last.name) || same && string(e.value) <= string(last.value):
			return fail(at, errOrder)
		case !same:
			r.closeName(last.name, first, i)
			first = i
		}
		r.entries[i] = uint32(at)
		at, last = e.next, e
	}
	r.closeName(last.name, first, len(r.entries))
	if at != len(r.table) {
		return fail(at, errLength)
	}
	return nil
}

// closeName notes that the entries first to end of the table are those of name.
func (r *Reader) closeName(name []byte, first, end int) {
	n := string(name)
	r.ranges[n] = [2]int{first, end}
	if n != "" {
		r.names = append(r.names, n)
	}
}

// symbol returns symbol i.
func (r *Reader) symbol(i uint64) (string, bool) {
	if i >= uint64(len(r.heads)) {
		return "", false
	}
	return r.text[r.heads[i]:r.ends[i]], true
}

// decoder takes values off a slice; bad says that something was missing.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		v := d.b[0]
		d.b = d.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte { return d.take(d.uvarint()) }

func (d *decoder) be32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// record is a series record whose labels were not looked at yet.
type record struct {
	at   int
	fp   uint64
	rest decoder
}

func (r *Reader) record(ref uint32) (s record, err error) {
	s.at = int(ref) * align
	lo, hi := r.toc[tocSeries], r.toc[tocLabelIndices]
	if uint64(s.at) < lo || uint64(s.at) >= hi {
		return s, corrupt("series", s.at, errLength)
	}
	d := decoder{b: r.b[s.at:hi]}
	body := d.bytes()
	if sum := d.be32(); d.bad || len(body) < 8 {
		return s, corrupt("series", s.at, errLength)
	} else if crc32.Checksum(body, castagnoli) != sum {
		return s, corrupt("series", s.at, errCRC)
	}
	s.fp = binary.BigEndian.Uint64(body)
	s.rest.b = body[8:]
	return s, nil
}

// labels appends the labels of s to dst.
func (r *Reader) labels(s *record, dst labels.Labels) (labels.Labels, error) {
	d := &s.rest
	n := d.uvarint()
	if n > uint64(len(d.b))/2 {
		return dst, corrupt("series", s.at, errLength)
	}
	start := len(dst)
	for range n {
		name, ok1 := r.symbol(d.uvarint())
		value, ok2 := r.symbol(d.uvarint())
		if d.bad || !ok1 || !ok2 {
			return dst, corrupt("series", s.at, errors.New("unknown symbol"))
		}
		if len(dst) > start && name <= dst[len(dst)-1].Name {
			return dst, corrupt("series", s.at, errOrder)
		}
		dst = append(dst, labels.Label{Name: name, Value: value})
	}
	return dst, nil
}

// chunks appends the chunks of s that touch from..through (ms, inclusive).
// The labels must have been read.
func (r *Reader) chunks(s *record, dst []ChunkMeta, from, through int64) ([]ChunkMeta, error) {
	d := &s.rest
	fail := func(err error) ([]ChunkMeta, error) { return dst, corrupt("series", s.at, err) }
	n := d.uvarint()
	d.take(uint64(d.be32())) // page markers, which only help to skip
	if d.bad || n > uint64(len(d.b))/minChunkLen {
		return fail(errLength)
	}
	last, lastMin := int64(0), int64(math.MinInt64)
	for range n {
		var c ChunkMeta
		c.MinTime = last + d.varint()
		size := d.uvarint()
		kb, entries := d.uvarint(), d.uvarint()
		c.Checksum = d.be32()
		if d.bad || size > math.MaxInt64 || kb > math.MaxUint32 || entries > math.MaxUint32 {
			return fail(errLength)
		}
		c.MaxTime = c.MinTime + int64(size)
		if c.MaxTime < c.MinTime || c.MinTime < lastMin {
			return fail(errOrder)
		}
		last, lastMin = c.MaxTime, c.MinTime
		if c.MinTime > through {
			return dst, nil // they are in order of MinTime
		}
		if c.MaxTime >= from {
			c.KB, c.Entries = uint32(kb), uint32(entries)
			dst = append(dst, c)
		}
	}
	if len(d.b) != 0 {
		return fail(errLength)
	}
	return dst, nil
}
