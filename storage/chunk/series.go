package chunk

import (
	"iter"

	"github.com/loki-go/loki-go/internal/find"
	"github.com/loki-go/loki-go/internal/labels"
)

// BlockRef is a block that can be loaded: in memory, in a local file, or in an
// object store. It may be used by many goroutines.
type BlockRef interface {
	// Bounds returns times (ns) that enclose all entries of the block.
	Bounds() (mint, maxt int64)
	// NumEntries returns the number of entries, 0 if that is not known yet.
	NumEntries() int
	// Load appends the content to dst, sorted by time and valid, and returns
	// it and the symbols that it refers to. It may block. Data that is missing
	// or damaged is an error.
	Load(dst []byte) (content []byte, symbols []string, err error)
}

// PartedRef is a BlockRef whose content can be had in parts, so that no more of
// it is in memory, or read at all, than is needed.
type PartedRef interface {
	BlockRef
	// Parts prepares the loading of parts. It may block.
	Parts() (Parts, error)
}

// Parts are the parts of a block in order of time: none has an entry that is
// older than one of the parts before it. Together they are the content.
type Parts interface {
	Len() int
	Info(i int) PartInfo
	// Symbols are those that the entries of all parts refer to.
	Symbols() []string
	// Load appends the content of a part to dst. At is the first place of the
	// text in it, -1 if it is not there; the content is then good for nothing
	// else, and need not be valid.
	Load(i int, dst []byte, text *find.Finder) (content []byte, at int, err error)
}

// PartInfo describes a part of a block.
type PartInfo struct {
	MinT, MaxT int64 // ns; they enclose all entries
	Entries    int
	Off        int // not less than the bytes of all parts before it
}

// FilteredRef is a BlockRef that was selected for a query, by somebody who may
// leave out the entries of which the query makes nothing.
type FilteredRef interface {
	BlockRef
	// LoadFiltered is Load without those entries. Next are the blocks that are
	// likely to be loaded after this one, in their order.
	LoadFiltered(dst []byte, next iter.Seq[BlockRef]) (Filtered, error)
}

// Filtered is what is left of a block.
type Filtered struct {
	Content []byte
	Symbols []string
	Whole   bool  // nothing was left out
	Bytes   int64 // of the content that was looked at, unless Whole
	Entries int64 // that were looked at, unless Whole
}

// Series is a stream as reads see it: labels and blocks, in no order. The
// blocks may overlap, and may hold equal entries.
type Series struct {
	Labels labels.Labels
	Blocks []BlockRef
}

// Ref returns block i of c.
func (c *Chunk) Ref(i int) BlockRef { return chunkBlock{c, i} }

type chunkBlock struct {
	c *Chunk
	i int
}

func (b chunkBlock) Bounds() (mint, maxt int64) { return b.c.Blocks[b.i].MinT, b.c.Blocks[b.i].MaxT }
func (b chunkBlock) NumEntries() int            { return b.c.Blocks[b.i].Entries }

func (b chunkBlock) Load(dst []byte) ([]byte, []string, error) {
	content, err := b.c.Content(b.i, dst)
	return content, b.c.Symbols, err
}
