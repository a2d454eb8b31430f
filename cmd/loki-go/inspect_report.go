package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/ingester/wal"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

type chunkReport struct {
	Key           string        `json:"key,omitempty"` // as the object's name says
	Tenant        string        `json:"tenant,omitempty"`
	Labels        string        `json:"labels,omitempty"`
	Fingerprint   string        `json:"fingerprint,omitempty"`
	From          int64         `json:"fromMs,omitempty"`
	Through       int64         `json:"throughMs,omitempty"`
	Checksum      string        `json:"checksum"`
	Format        int           `json:"format,omitempty"`
	Encoding      string        `json:"encoding,omitempty"`
	MetadataBytes int           `json:"metadataBytes,omitempty"`
	SymbolsOffset int           `json:"symbolsOffset,omitempty"`
	SymbolsSize   int           `json:"symbolsSize,omitempty"`
	Symbols       []string      `json:"symbols"` // names and values of structured metadata
	TableOffset   int           `json:"tableOffset,omitempty"`
	TableSize     int           `json:"tableSize,omitempty"`
	Entries       int           `json:"entries"`
	Blocks        []blockReport `json:"blocks"`
}

type blockReport struct {
	Offset       int           `json:"offset"`
	Size         int           `json:"size"` // with the checksum
	Uncompressed int           `json:"uncompressed"`
	Entries      int           `json:"entries"`
	From         int64         `json:"fromNs"`
	Through      int64         `json:"throughNs"`
	Checksum     string        `json:"checksum"`
	Problem      string        `json:"problem,omitempty"`
	Content      []entryReport `json:"content,omitempty"`
}

type entryReport struct {
	Time     int64       `json:"ns"`
	Line     string      `json:"line"`
	Metadata [][2]string `json:"metadata,omitempty"`
}

func (r *report) chunk(name string, data []byte, entries int) {
	s := chunk.Salvage(data)
	sum := chunk.Checksum(data)
	c := &chunkReport{
		Checksum: fmt.Sprintf("%x", sum), Format: s.Format, MetadataBytes: s.MetadataBytes, Symbols: s.Chunk.Symbols, Entries: s.NumEntries(),
		SymbolsOffset: s.Symbols.Offset, SymbolsSize: s.Symbols.Len, TableOffset: s.Table.Offset, TableSize: s.Table.Len,
	}
	r.Type, r.Chunk = "chunk", c
	if s.Format > 0 {
		c.Encoding = s.Codec.String()
	}
	if s.Tenant != "" {
		c.Tenant, c.Labels, c.Fingerprint = s.Tenant, s.Labels.String(), fmt.Sprintf("%x", s.Fingerprint)
		c.From, c.Through = s.From, s.Through
	}
	r.problem(s.Problems...)
	if k, ok := keyOf(name); ok {
		c.Key = k.String()
		switch is := chunk.KeyOf(data, s.Meta); {
		case sum != k.Checksum:
			r.problem(fmt.Errorf("the object's checksum is %x, its key has %x", sum, k.Checksum))
		case s.Tenant != "" && is != k:
			r.problem(fmt.Errorf("the key says something else than the object, which is %s", is))
		}
	}
	for i, b := range s.Blocks {
		one := blockReport{
			Offset: b.Offset, Size: b.Len, Uncompressed: b.Size, Entries: b.Entries, From: b.MinT, Through: b.MaxT, Checksum: fmt.Sprintf("%08x", b.Checksum),
		}
		if b.Err != nil {
			one.Problem = b.Err.Error()
		} else if entries != 0 {
			if content, err := s.BlockContent(i); err == nil { // it was read before
				one.Content = readEntries(content, entries, func(i uint32) string {
					if int(i) < len(s.Chunk.Symbols) {
						return s.Chunk.Symbols[i]
					}
					return fmt.Sprintf("(symbol %d)", i)
				})
			}
		}
		c.Blocks = append(c.Blocks, one)
	}
}

// readEntries returns the first n entries; all if n is negative.
func readEntries(content []byte, n int, symbol func(uint32) string) (out []entryReport) {
	for it := chunk.Entries(content); len(out) != n && it.Next(); {
		e := entryReport{Time: it.TS, Line: string(it.Line)}
		for i := range it.NumPairs {
			e.Metadata = append(e.Metadata, [2]string{symbol(it.Sym(2 * i)), symbol(it.Sym(2*i + 1))})
		}
		out = append(out, e)
	}
	return out
}

type indexReport struct {
	Table        string          `json:"table,omitempty"` // this and the next as the name says
	Tenant       string          `json:"tenant,omitempty"`
	Version      int             `json:"version"`
	Uncompressed int             `json:"uncompressed"`
	From         int64           `json:"fromMs,omitempty"`
	Through      int64           `json:"throughMs,omitempty"`
	Checksum     string          `json:"checksum,omitempty"` // of the table of contents
	Sections     []sectionReport `json:"sections"`
	Symbols      int             `json:"symbols"`
	LabelNames   []string        `json:"labelNames"`
	Chunks       int             `json:"chunks"`
	Series       []seriesReport  `json:"series"`
}

type sectionReport struct {
	Name   string `json:"name"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
}

type seriesReport struct {
	Offset      int64      `json:"offset"`
	Size        int        `json:"size"`
	Tenant      string     `json:"tenant,omitempty"` // in files of many
	Labels      string     `json:"labels"`
	Fingerprint string     `json:"fingerprint"`
	Chunks      []chunkRef `json:"chunks"`
}

type chunkRef struct {
	From     int64  `json:"fromMs"`
	Through  int64  `json:"throughMs"`
	Checksum string `json:"checksum"`
	KB       uint32 `json:"kb"`
	Entries  uint32 `json:"entries"`
	Key      string `json:"key,omitempty"`
}

func (r *report) index(name string, data []byte, zipped bool) {
	r.Type, r.Index = "index", &indexReport{}
	i := r.Index
	file := data
	if zipped {
		var err error
		if file, err = unzip(data); err != nil {
			r.problem(err)
		}
	}
	key := name
	if at := strings.LastIndex(name, storage.TablesPrefix); at > 0 {
		key = name[at:] // a file in a copy of a bucket
	}
	f, err := storage.ParseIndexKey(key)
	if err == nil {
		i.Tenant, i.Table = f.Tenant, strings.TrimSuffix(strings.TrimPrefix(storage.TableDir(f.Day), "index/"), "/")
	}
	s := index.Salvage(file)
	i.Version, i.Uncompressed, i.Symbols = s.Version, len(file), s.Symbols
	r.problem(s.Problems...)
	if s.Info != nil {
		i.From, i.Through, i.Checksum = s.Info.From, s.Info.Through, fmt.Sprintf("%x", s.Info.Checksum)
		if named, ok := storage.ParseIndexInfo(key); ok && f.Tenant != "" && named != *s.Info {
			r.problem(fmt.Errorf("the name is that of a file from %d to %d ms with checksum %x", named.From, named.Through, named.Checksum))
		}
	}
	for _, sec := range s.Sections {
		i.Sections = append(i.Sections, sectionReport{sec.Name, sec.Offset, sec.Size})
	}
	names := map[string]bool{}
	r.problem(s.Series(func(one index.SalvagedSeries) {
		sr := seriesReport{Offset: one.Offset, Size: one.Size, Fingerprint: fmt.Sprintf("%x", one.Fingerprint), Tenant: one.Labels.Get(storage.TenantLabel)}
		tenant := f.Tenant
		if sr.Tenant != "" {
			tenant = sr.Tenant
		}
		own := slices.DeleteFunc(one.Labels, func(l labels.Label) bool { return l.Name == storage.TenantLabel })
		sr.Labels = own.String()
		for _, l := range own {
			names[l.Name] = true
		}
		for _, m := range one.Chunks {
			ref := chunkRef{From: m.MinTime, Through: m.MaxTime, Checksum: fmt.Sprintf("%x", m.Checksum), KB: m.KB, Entries: m.Entries}
			if tenant != "" {
				ref.Key = chunk.Key{Tenant: tenant, Fingerprint: one.Fingerprint, From: m.MinTime, Through: m.MaxTime, Checksum: m.Checksum}.String()
			}
			sr.Chunks = append(sr.Chunks, ref)
		}
		i.Chunks += len(sr.Chunks)
		i.Series = append(i.Series, sr)
	})...)
	for n := range names {
		i.LabelNames = append(i.LabelNames, n)
	}
	slices.Sort(i.LabelNames)
}

type walReport struct {
	ID      uint64            `json:"id"`
	First   uint64            `json:"firstRecord,omitempty"`
	Before  uint64            `json:"segmentBefore,omitempty"`
	Last    uint64            `json:"lastRecordBefore,omitempty"`
	Sure    uint64            `json:"acknowledgedBefore,omitempty"`
	Bytes   int64             `json:"payloadBytes"`
	Records []walRecordReport `json:"records"`
}

type walRecordReport struct {
	Number uint64 `json:"number"`
	Offset int64  `json:"offset"`
	Size   int    `json:"size"`
	Place  int    `json:"place"` // in its group
}

func (r *report) wal(name string, data []byte) {
	w := &walReport{}
	r.Type, r.WAL = "WAL segment", w
	s, problems := wal.Dump(name, data, func(d wal.DumpedRecord) {
		w.Records = append(w.Records, walRecordReport{uint64(d.LSN), d.Offset, len(d.Payload), d.Place})
		w.Bytes += int64(len(d.Payload))
	})
	w.ID, w.First, w.Before, w.Last, w.Sure = uint64(s.ID), uint64(s.First), uint64(s.Before), uint64(s.Last), uint64(s.Sure)
	r.problem(problems...)
}

type blocksFile struct {
	Entries int                 `json:"entries"`
	Records []blockRecordReport `json:"records"`
}

type blockRecordReport struct {
	Offset   int64         `json:"offset"`
	Size     int           `json:"size"`
	Note     string        `json:"note,omitempty"`
	Tenant   string        `json:"tenant,omitempty"`
	Labels   string        `json:"labels,omitempty"`
	Stream   uint64        `json:"stream,omitempty"`
	Chunk    uint64        `json:"chunk,omitempty"`
	Late     bool          `json:"late,omitempty"`
	Encoding string        `json:"encoding,omitempty"`
	Entries  uint32        `json:"entries,omitempty"`
	From     int64         `json:"fromNs,omitempty"`
	Through  int64         `json:"throughNs,omitempty"`
	Data     int           `json:"data,omitempty"` // bytes, compressed
	FirstLSN uint64        `json:"firstRecord,omitempty"`
	LastLSN  uint64        `json:"lastRecord,omitempty"`
	Symbols  int           `json:"symbols,omitempty"`
	Problem  string        `json:"problem,omitempty"`
	Content  []entryReport `json:"content,omitempty"`
}

// maxBlockContent bounds a block of a block file, uncompressed.
const maxBlockContent = 1 << 28

func (r *report) blocks(name string, data []byte, entries int) {
	r.Type, r.Blocks = "block file", &blocksFile{}
	problems := blocks.Dump(name, data, func(d blocks.Dumped) {
		one := blockRecordReport{Offset: d.Offset, Size: d.Size, Note: d.Note}
		if d.Err != nil {
			one.Problem = d.Err.Error()
		}
		if b := d.Block; b != nil {
			codec := chunk.Codec(b.Codec)
			one.Tenant, one.Labels, one.Stream, one.Chunk, one.Late = b.Tenant, b.Labels, b.Stream, b.Chunk, b.Late
			one.Encoding, one.Entries, one.From, one.Through = codec.String(), b.Entries, b.MinT, b.MaxT
			one.Data, one.Symbols, one.FirstLSN, one.LastLSN = len(b.Data), len(b.Symbols), b.Cover.Min(), b.Cover.Max()
			r.Blocks.Entries += int(b.Entries)
			if entries != 0 && d.Err == nil {
				content, err := codec.Decompress(nil, b.Data, maxBlockContent)
				if err != nil {
					r.problem(fmt.Errorf("block at offset %d: %w", d.Offset, err))
				}
				one.Content = readEntries(content, entries, func(id uint32) string {
					i := slices.IndexFunc(b.Symbols, func(s blocks.Symbol) bool { return s.ID == id })
					if i < 0 {
						return fmt.Sprintf("(symbol %d)", id)
					}
					return b.Symbols[i].Text
				})
			}
		}
		r.Blocks.Records = append(r.Blocks.Records, one)
	})
	r.problem(problems...)
}

// textPrinter writes for people, and keeps the first error.
type textPrinter struct {
	w   io.Writer
	err error
}

func (p *textPrinter) f(format string, args ...any) {
	_, err := fmt.Fprintf(p.w, format, args...)
	p.err = errors.Join(p.err, err)
}

func ms(t int64) string { return time.UnixMilli(t).UTC().Format("2006-01-02T15:04:05.000Z") }
func ns(t int64) string { return time.Unix(0, t).UTC().Format("2006-01-02T15:04:05.000000000Z") }

func (r *report) print(p *textPrinter) {
	p.f("%s: %s, %d bytes\n", r.Name, r.Type, r.Size)
	switch {
	case r.Chunk != nil:
		r.Chunk.print(p)
	case r.Index != nil:
		r.Index.print(p)
	case r.WAL != nil:
		r.WAL.print(p)
	case r.Blocks != nil:
		r.Blocks.print(p)
	}
	for _, problem := range r.Problems {
		p.f("damaged: %s\n", problem)
	}
}

func (c *chunkReport) print(p *textPrinter) {
	if c.Key != "" {
		p.f("key         %s\n", c.Key)
	}
	if c.Tenant != "" {
		p.f("tenant      %s\nlabels      %s\nfingerprint %s\nfrom        %s\nthrough     %s\n", c.Tenant, c.Labels, c.Fingerprint, ms(c.From), ms(c.Through))
	}
	p.f("checksum    %s\n", c.Checksum)
	if c.Format > 0 {
		p.f("format      %d, %s\n", c.Format, c.Encoding)
	}
	p.f("metadata    %d bytes at the start\n", c.MetadataBytes)
	if c.SymbolsSize > 0 {
		p.f("symbols     %d in %d bytes at %d: %q\n", len(c.Symbols), c.SymbolsSize, c.SymbolsOffset, c.Symbols)
		p.f("table       %d bytes at %d\n", c.TableSize, c.TableOffset)
	}
	p.f("entries     %d in %d blocks\n", c.Entries, len(c.Blocks))
	for i, b := range c.Blocks {
		p.f("block %d: %d bytes at %d, %d uncompressed, %d entries, %s to %s, checksum %s", i, b.Size, b.Offset, b.Uncompressed, b.Entries, ns(b.From), ns(b.Through), b.Checksum)
		if b.Problem != "" {
			p.f(", damaged: %s", b.Problem)
		}
		p.f("\n")
		printEntries(p, b.Content)
	}
}

func printEntries(p *textPrinter, entries []entryReport) {
	for _, e := range entries {
		p.f("  %s %q", ns(e.Time), e.Line)
		for _, m := range e.Metadata {
			p.f(" %s=%q", m[0], m[1])
		}
		p.f("\n")
	}
}

func (i *indexReport) print(p *textPrinter) {
	if i.Table != "" {
		p.f("table       %s\n", i.Table)
		if i.Tenant == "" {
			p.f("tenant      many\n")
		} else {
			p.f("tenant      %s\n", i.Tenant)
		}
	}
	p.f("version     %d, %d bytes uncompressed\n", i.Version, i.Uncompressed)
	if i.Checksum != "" {
		p.f("from        %s\nthrough     %s\nchecksum    %s\n", ms(i.From), ms(i.Through), i.Checksum)
	}
	for _, s := range i.Sections {
		p.f("section     %s: %d bytes at %d\n", s.Name, s.Size, s.Offset)
	}
	p.f("symbols     %d\nlabel names %s\n", i.Symbols, strings.Join(i.LabelNames, ", "))
	p.f("%d series, %d chunks\n", len(i.Series), i.Chunks)
	for _, s := range i.Series {
		p.f("series at %d, %d bytes: ", s.Offset, s.Size)
		if s.Tenant != "" {
			p.f("tenant %s ", s.Tenant)
		}
		p.f("%s %s\n", s.Labels, s.Fingerprint)
		for _, c := range s.Chunks {
			name := c.Key
			if name == "" {
				name = "checksum " + c.Checksum
			}
			p.f("  %s to %s, %d entries, %d KB, %s\n", ms(c.From), ms(c.Through), c.Entries, c.KB, name)
		}
	}
}

func (w *walReport) print(p *textPrinter) {
	p.f("segment     %d, behind segment %d\n", w.ID, w.Before)
	p.f("before it   records up to %d count, up to %d were acknowledged\n", w.Last, w.Sure)
	p.f("records     %d with %d bytes\n", len(w.Records), w.Bytes)
	for _, r := range w.Records {
		p.f("record %d: %d bytes at %d, number %d of its group\n", r.Number, r.Size, r.Offset, r.Place)
	}
}

func (b *blocksFile) print(p *textPrinter) {
	p.f("records     %d with %d entries\n", len(b.Records), b.Entries)
	for _, r := range b.Records {
		p.f("%d bytes at %d: ", r.Size, r.Offset)
		switch {
		case r.Note != "":
			p.f("%s", r.Note)
		case r.Labels != "":
			p.f("block of tenant %s, stream %d %s, chunk %d", r.Tenant, r.Stream, r.Labels, r.Chunk)
			if r.Late {
				p.f(", late")
			}
			p.f(": %d bytes of %s, %d entries, %s to %s, %d symbols, from WAL records %d to %d", r.Data, r.Encoding, r.Entries, ns(r.From), ns(r.Through), r.Symbols, r.FirstLSN, r.LastLSN)
		}
		if r.Problem != "" {
			p.f(" damaged: %s", r.Problem)
		}
		p.f("\n")
		printEntries(p, r.Content)
	}
}
