// Package index reads and writes Loki's TSDB index files, version 3.
//
// An index file lists series and, for each, the chunks that hold its entries,
// and finds series by label matchers. Files are immutable: Build makes one
// from series in memory, byte for byte as Loki would; NewReader looks into
// one. A Reader needs nothing but the file's bytes, may be used by many
// goroutines, and has no state to release.
//
// # Format
//
// Big-endian; a framed section is be32 length · body · be32 CRC-32C of body.
//
//	be32 magic · u8 version
//	symbols, framed: be32 count · count × (uvarint len · bytes), sorted
//	series, each aligned to 16: uvarint len · body · be32 CRC-32C of body
//	label indices, aligned to 4, framed: be32 1 · be32 n · n × be32 symbol
//	postings, aligned to 4, framed: be32 n · n × be32 series reference
//	label index table, postings table, fingerprint table; framed
//	table of contents: 9 × be64 · be32 CRC-32C
//
// A series reference is the offset of the series divided by 16.
package index

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/loki-go/loki-go/internal/labels"
)

const (
	magic       = 0xBAAAD700
	version     = 3
	headerSize  = 5
	tocSize     = 9*8 + 4
	align       = 16 // of series
	pageChunks  = 16 // chunks that one page marker describes
	fpInterval  = 1024
	minChunkLen = 8 // bytes of the smallest chunk in a series record
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ChunkMeta is what an index says of a chunk. Times are those of the chunk's
// key; the checksum is the last part of it.
type ChunkMeta struct {
	MinTime, MaxTime int64  // ms
	KB               uint32 // uncompressed, see chunk.KB
	Entries          uint32
	Checksum         uint32
}

// Series is a stream and its chunks.
type Series struct {
	Labels      labels.Labels
	Fingerprint uint64
	Chunks      []ChunkMeta
}

// Info is the summary of a file: the bounds of its chunks, and the checksum
// of its table of contents, which together name it.
type Info struct {
	From, Through int64 // ms
	Checksum      uint32
}

// CorruptionError says where a file does not check out.
type CorruptionError struct {
	Section string
	Offset  int64 // in the file
	Err     error
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("index: %s at offset %d: %v", e.Section, e.Offset, e.Err)
}

func (e *CorruptionError) Unwrap() error { return e.Err }

var (
	errLength = errors.New("length does not fit")
	errCRC    = errors.New("checksum differs")
	errOrder  = errors.New("not sorted")
)
