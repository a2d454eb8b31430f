package index

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"

	"github.com/loki-go/loki-go/internal/labels"
)

// Build appends an index file to dst. Series may come in any order; of one
// that comes twice the chunks are put together, and a chunk that is listed
// twice is listed once. Labels must be in normal form, and no series may be
// without chunks. The arguments are not changed.
func Build(dst []byte, series []Series) ([]byte, Info, error) {
	b := builder{series: series, start: len(dst), buf: dst}
	if err := b.build(); err != nil {
		return dst, Info{}, fmt.Errorf("index: build: %w", err)
	}
	return b.buf, b.info, nil
}

// BuildTo is Build with the file written to w as it comes into being.
func BuildTo(w io.Writer, series []Series) (Info, error) {
	b := builder{series: series, sink: w}
	if err := b.build(); err != nil {
		return Info{}, fmt.Errorf("index: build: %w", err)
	}
	return b.info, nil
}

func (b *builder) build() error {
	if err := b.check(); err != nil {
		return err
	}
	b.sort()
	b.collectSymbols()
	b.header()
	b.writeSymbols()
	if err := b.writeSeries(); err != nil {
		return err
	}
	b.writeLabelIndices()
	b.writePostings()
	b.writeTables()
	b.spill(0)
	return b.err
}

// posting says that a series has a label; name and value are symbols.
type posting struct{ name, value, ref uint32 }

// section is where a label index or a list of postings was written.
type section struct {
	name, value uint32
	offset      int
}

type builder struct {
	series []Series
	order  []int32 // of the series in the file
	start  int     // of the file in buf
	buf    []byte
	sink   io.Writer // gets what is done, if not nil
	spilt  int       // bytes that it got
	err    error     // its first
	toc    [9]uint64
	info   Info

	symbols  []string // sorted
	ids      []uint32 // name and value symbol of all labels of all series, in order
	refs     []uint32 // of the series in the file
	fps      []uint64 // likewise
	postings []posting
	labels   []section
	lists    []section
	w        seriesWriter
}

func (b *builder) check() error {
	if len(b.series) == 0 {
		return errors.New("no series")
	}
	for i := range b.series {
		s := &b.series[i]
		if len(s.Chunks) == 0 {
			return fmt.Errorf("series %s has no chunks", s.Labels)
		}
		for k, l := range s.Labels {
			if l.Name == "" || l.Value == "" || k > 0 && l.Name <= s.Labels[k-1].Name {
				return fmt.Errorf("labels %s are not in normal form", s.Labels)
			}
		}
		for _, c := range s.Chunks {
			if c.MaxTime < c.MinTime {
				return fmt.Errorf("series %s has a chunk from %d to %d", s.Labels, c.MinTime, c.MaxTime)
			}
		}
	}
	return nil
}

func compareLabels(a, b labels.Labels) int {
	for i := range min(len(a), len(b)) {
		if c := cmp.Or(cmp.Compare(a[i].Name, b[i].Name), cmp.Compare(a[i].Value, b[i].Value)); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// CompareSeries orders series as a file does: by fingerprint, then by labels.
func CompareSeries(a, b Series) int {
	if c := cmp.Compare(a.Fingerprint, b.Fingerprint); c != 0 {
		return c
	}
	return compareLabels(a.Labels, b.Labels)
}

func (b *builder) compare(x, y int32) int { return CompareSeries(b.series[x], b.series[y]) }

func (b *builder) sort() {
	b.order = make([]int32, len(b.series))
	for i := range b.order {
		b.order[i] = int32(i)
	}
	slices.SortFunc(b.order, func(x, y int32) int { return cmp.Or(b.compare(x, y), cmp.Compare(x, y)) })
}

func (b *builder) collectSymbols() {
	n := 0
	for i := range b.series {
		n += 2 * len(b.series[i].Labels)
	}
	b.ids = make([]uint32, 0, n)
	first := make(map[string]uint32, len(b.series)) // in order of first use
	id := func(s string) uint32 {
		i, ok := first[s]
		if !ok {
			i = uint32(len(b.symbols))
			first[s] = i
			b.symbols = append(b.symbols, s)
		}
		return i
	}
	for _, i := range b.order {
		for _, l := range b.series[i].Labels {
			b.ids = append(b.ids, id(l.Name), id(l.Value))
		}
	}
	by := make([]uint32, len(b.symbols))
	for i := range by {
		by[i] = uint32(i)
	}
	slices.SortFunc(by, func(x, y uint32) int { return cmp.Compare(b.symbols[x], b.symbols[y]) })
	rank := make([]uint32, len(by))
	sorted := make([]string, len(by))
	for r, i := range by {
		rank[i], sorted[r] = uint32(r), b.symbols[i]
	}
	for i, v := range b.ids {
		b.ids[i] = rank[v]
	}
	b.symbols = sorted
}

func (b *builder) offset() int { return b.spilt + len(b.buf) - b.start }

// spillSize is how much is given to the sink at a time.
const spillSize = 256 << 10

// spill gives what is in buf to the sink, if that is more than a number of
// bytes. No section may be open.
func (b *builder) spill(most int) {
	if b.sink == nil || len(b.buf) <= most {
		return
	}
	if b.err == nil {
		_, b.err = b.sink.Write(b.buf)
	}
	b.spilt += len(b.buf)
	b.buf = b.buf[:0]
}

func (b *builder) pad(n int) {
	for b.offset()%n != 0 {
		b.buf = append(b.buf, 0)
	}
}

func (b *builder) be32(v uint32)  { b.buf = binary.BigEndian.AppendUint32(b.buf, v) }
func (b *builder) be64(v uint64)  { b.buf = binary.BigEndian.AppendUint64(b.buf, v) }
func (b *builder) uvarint(v int)  { b.buf = binary.AppendUvarint(b.buf, uint64(v)) }
func (b *builder) str(s string)   { b.uvarint(len(s)); b.buf = append(b.buf, s...) }
func (b *builder) crc(from int)   { b.be32(crc32.Checksum(b.buf[from:], castagnoli)) }
func (b *builder) open() (at int) { b.be32(0); return len(b.buf) }
func (b *builder) close(at int) {
	binary.BigEndian.PutUint32(b.buf[at-4:], uint32(len(b.buf)-at))
	b.crc(at)
	b.spill(spillSize)
}
func (b *builder) mark(toc int)         { b.toc[toc] = uint64(b.offset()) }
func (b *builder) text(i uint32) string { return b.symbols[i] }

// Positions in the table of contents.
const (
	tocSymbols = iota
	tocSeries
	tocLabelIndices
	tocLabelTable
	tocPostings
	tocPostingsTable
	tocFingerprints
	tocFrom
	tocThrough
)

func (b *builder) header() {
	if b.sink == nil {
		// Labels are once in the symbols and once in a table; a guess is enough.
		size := 1024 + 48*len(b.series) + 10*len(b.ids)
		for _, s := range b.symbols {
			size += 2*len(s) + 24
		}
		b.buf = slices.Grow(b.buf, size)
	}
	b.be32(magic)
	b.buf = append(b.buf, version)
}

func (b *builder) writeSymbols() {
	b.mark(tocSymbols)
	size := 16
	for _, s := range b.symbols {
		size += len(s) + binary.MaxVarintLen32
	}
	b.buf = slices.Grow(b.buf, size)
	at := b.open()
	b.be32(uint32(len(b.symbols)))
	for _, s := range b.symbols {
		b.str(s)
	}
	b.close(at)
}

func (b *builder) writeSeries() error {
	b.startSeries(len(b.order), len(b.ids)/2)
	ids := b.ids
	var chunks []ChunkMeta
	for i := 0; i < len(b.order); {
		s := &b.series[b.order[i]]
		own := ids[:2*len(s.Labels)]
		chunks = append(chunks[:0], s.Chunks...)
		ids = ids[2*len(s.Labels):]
		for i++; i < len(b.order) && b.compare(b.order[i-1], b.order[i]) == 0; i++ {
			chunks = append(chunks, b.series[b.order[i]].Chunks...)
			ids = ids[2*len(s.Labels):]
		}
		chunks = SortChunks(chunks)
		if err := b.add(s.Fingerprint, own, chunks); err != nil {
			return err
		}
	}
	b.endSeries()
	return nil
}

// startSeries makes room for about this many series and labels of them.
func (b *builder) startSeries(series, labels int) {
	b.mark(tocSeries)
	b.info.From, b.info.Through = math.MaxInt64, math.MinInt64
	b.postings = make([]posting, 0, labels)
	b.refs = make([]uint32, 0, series)
	b.fps = make([]uint64, 0, series)
}

// add writes the next series: ids are the symbols of its labels, chunks are
// sorted.
func (b *builder) add(fp uint64, ids []uint32, chunks []ChunkMeta) error {
	b.pad(align)
	ref := b.offset() / align
	if ref > math.MaxUint32 {
		return errors.New("the file would exceed 64 GiB")
	}
	for k := 0; k < len(ids); k += 2 {
		b.postings = append(b.postings, posting{ids[k], ids[k+1], uint32(ref)})
	}
	b.refs = append(b.refs, uint32(ref))
	b.fps = append(b.fps, fp)
	for k := range chunks {
		b.info.From, b.info.Through = min(b.info.From, chunks[k].MinTime), max(b.info.Through, chunks[k].MaxTime)
	}
	body := b.w.encode(fp, ids, chunks)
	b.uvarint(len(body))
	at := len(b.buf)
	b.buf = append(b.buf, body...)
	b.crc(at)
	b.spill(spillSize)
	return b.err
}

func (b *builder) endSeries() {
	b.toc[tocFrom], b.toc[tocThrough] = uint64(b.info.From), uint64(b.info.Through)
}

func compareChunks(a, b ChunkMeta) int {
	return cmp.Or(cmp.Compare(a.MinTime, b.MinTime), cmp.Compare(a.MaxTime, b.MaxTime), cmp.Compare(a.Checksum, b.Checksum))
}

// SortChunks sorts c as a file does, by bounds and checksum, in place, and
// drops repetitions.
func SortChunks(c []ChunkMeta) []ChunkMeta {
	if !slices.IsSortedFunc(c, compareChunks) {
		slices.SortStableFunc(c, compareChunks)
	}
	return slices.CompactFunc(c, func(a, b ChunkMeta) bool { return compareChunks(a, b) == 0 })
}

// seriesWriter encodes series records; it keeps its buffers.
type seriesWriter struct{ body, pages, chunks []byte }

// encode returns the body of a record, valid until the next call.
func (w *seriesWriter) encode(fp uint64, ids []uint32, chunks []ChunkMeta) []byte {
	w.pages = binary.AppendUvarint(w.pages[:0], uint64((len(chunks)+pageChunks-1)/pageChunks))
	w.chunks = w.chunks[:0]
	last := int64(0)
	for page := range slices.Chunk(chunks, pageChunks) {
		w.page(page)
		for i := range page {
			c := &page[i]
			w.chunks = binary.AppendVarint(w.chunks, c.MinTime-last)
			w.chunks = binary.AppendUvarint(w.chunks, uint64(c.MaxTime-c.MinTime))
			w.chunks = binary.AppendUvarint(w.chunks, uint64(c.KB))
			w.chunks = binary.AppendUvarint(w.chunks, uint64(c.Entries))
			w.chunks = binary.BigEndian.AppendUint32(w.chunks, c.Checksum)
			last = c.MaxTime
		}
	}
	b := binary.BigEndian.AppendUint64(w.body[:0], fp)
	b = binary.AppendUvarint(b, uint64(len(ids)/2))
	for _, id := range ids {
		b = binary.AppendUvarint(b, uint64(id))
	}
	b = binary.AppendUvarint(b, uint64(len(chunks)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(w.pages)))
	b = append(b, w.pages...)
	w.body = append(b, w.chunks...)
	return w.body
}

// page appends the marker of a page whose chunks come next in w.chunks.
func (w *seriesWriter) page(chunks []ChunkMeta) {
	var kb, entries uint32
	from, through := chunks[0].MinTime, chunks[0].MaxTime
	for i := range chunks {
		kb += chunks[i].KB
		entries += chunks[i].Entries
		through = max(through, chunks[i].MaxTime) // from is that of the first
	}
	b := binary.AppendUvarint(w.pages, uint64(len(chunks)))
	b = binary.BigEndian.AppendUint32(b, kb)
	b = binary.BigEndian.AppendUint32(b, entries)
	b = binary.AppendUvarint(b, uint64(len(w.chunks)))
	b = binary.AppendVarint(b, from)
	w.pages = binary.AppendVarint(b, through-from)
}

// writeLabelIndices writes the values of every name.
func (b *builder) writeLabelIndices() {
	b.mark(tocLabelIndices)
	slices.SortFunc(b.postings, func(x, y posting) int {
		if x.name != y.name {
			return cmp.Compare(x.name, y.name)
		}
		if x.value != y.value {
			return cmp.Compare(x.value, y.value)
		}
		return cmp.Compare(x.ref, y.ref)
	})
	values := 0
	for i := 0; i < len(b.postings); {
		name := b.postings[i].name
		b.pad(4)
		b.labels = append(b.labels, section{name: name, offset: b.offset()})
		at := b.open()
		b.be32(1)
		b.be32(0)
		n := uint32(0)
		for ; i < len(b.postings) && b.postings[i].name == name; i++ {
			if n == 0 || b.postings[i].value != b.postings[i-1].value {
				b.be32(b.postings[i].value)
				n++
				values++
			}
		}
		binary.BigEndian.PutUint32(b.buf[at+4:], n)
		b.close(at)
	}
	b.lists = make([]section, 0, 1+values)
}

// writePostings writes the list of all series, and those of every label.
func (b *builder) writePostings() {
	b.mark(tocPostings)
	b.pad(4)
	b.lists = append(b.lists, section{offset: b.offset()})
	at := b.open()
	b.be32(uint32(len(b.refs)))
	for _, r := range b.refs {
		b.be32(r)
	}
	b.close(at)
	for i := 0; i < len(b.postings); {
		p := b.postings[i]
		b.pad(4)
		b.lists = append(b.lists, section{p.name, p.value, b.offset()})
		at := b.open()
		b.be32(0)
		n := uint32(0)
		for ; i < len(b.postings) && b.postings[i].name == p.name && b.postings[i].value == p.value; i++ {
			b.be32(b.postings[i].ref)
			n++
		}
		binary.BigEndian.PutUint32(b.buf[at:], n)
		b.close(at)
	}
}

func (b *builder) writeTables() {
	b.mark(tocLabelTable)
	at := b.open()
	b.be32(uint32(len(b.labels)))
	for _, l := range b.labels {
		b.uvarint(1)
		b.str(b.text(l.name))
		b.uvarint(l.offset)
	}
	b.close(at)

	b.mark(tocPostingsTable)
	at = b.open()
	b.be32(uint32(len(b.lists)))
	for i, l := range b.lists {
		b.uvarint(2)
		if i == 0 { // all series
			b.str("")
			b.str("")
		} else {
			b.str(b.text(l.name))
			b.str(b.text(l.value))
		}
		b.uvarint(l.offset)
	}
	b.close(at)

	b.mark(tocFingerprints)
	at = b.open()
	b.be32(uint32((len(b.refs) + fpInterval - 1) / fpInterval))
	for i := 0; i < len(b.refs); i += fpInterval {
		b.be64(uint64(b.refs[i]))
		b.be64(b.fps[i])
	}
	b.close(at)

	at = len(b.buf)
	for _, v := range b.toc {
		b.be64(v)
	}
	b.info.Checksum = crc32.Checksum(b.buf[at:], castagnoli)
	b.be32(b.info.Checksum)
}
