package chunk

import "github.com/loki-go/loki-go/internal/labels"

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
