package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	magic        = "LKGOWAL\n"
	version      = 1
	headerSize   = 64
	recordHeader = 32
	suffix       = ".wal"
	newSuffix    = ".new"
	ballastName  = "ballast"

	// maxRecord bounds a payload. It is far beyond what a request may hold and
	// far below what the format's length field could say.
	maxRecord = 1 << 30
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// align rounds up to the next place at which a record may start.
func align(n int) int { return (n + 7) &^ 7 }

func segmentName(dir string, id SegmentID) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", uint64(id), suffix))
}

// parseName returns the id of a segment file, or false for other names.
func parseName(name string) (SegmentID, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 10, 64)
	return SegmentID(id), err == nil && id > 0
}

// header is what a segment says about itself and what was before it.
type header struct {
	salt   uint32
	id     SegmentID
	first  LSN
	prevID SegmentID
	last   LSN // of the records before this segment
	sure   LSN // likewise
}

func (h *header) put(p []byte) {
	copy(p, magic)
	le.PutUint32(p[8:], version)
	le.PutUint32(p[12:], h.salt)
	le.PutUint64(p[16:], uint64(h.id))
	le.PutUint64(p[24:], uint64(h.first))
	le.PutUint64(p[32:], uint64(h.prevID))
	le.PutUint64(p[40:], uint64(h.last))
	le.PutUint64(p[48:], uint64(h.sure))
	le.PutUint32(p[56:], 0)
	le.PutUint32(p[60:], checksum(p[:60]))
}

// parse reads a segment header. damage says what is wrong with it; err is for a
// header that is whole but not to be read by this program.
func (h *header) parse(p []byte, id SegmentID) (damage string, err error) {
	switch {
	case len(p) < headerSize:
		return "segment header is cut off", nil
	case string(p[:8]) != magic:
		return "segment header has no magic", nil
	case checksum(p[:60]) != le.Uint32(p[60:]):
		return "checksum of the segment header differs", nil
	case le.Uint32(p[8:]) != version:
		return "", fmt.Errorf("wal: segment %d has format version %d, this program reads version %d", uint64(id), le.Uint32(p[8:]), version)
	}
	h.salt = le.Uint32(p[12:])
	h.id = SegmentID(le.Uint64(p[16:]))
	h.first = LSN(le.Uint64(p[24:]))
	h.prevID = SegmentID(le.Uint64(p[32:]))
	h.last = LSN(le.Uint64(p[40:]))
	h.sure = LSN(le.Uint64(p[48:]))
	if h.id != id {
		return fmt.Sprintf("segment header is that of segment %d", uint64(h.id)), nil
	}
	if h.salt == 0 || h.first == 0 || h.last >= h.first || h.sure > h.last {
		return "segment header contradicts itself", nil
	}
	return "", nil
}

// putRecordHeader fills p, which is a record header's size.
func putRecordHeader(p []byte, salt uint32, lsn LSN, length, place, payloadCRC uint32) {
	le.PutUint32(p, salt)
	le.PutUint64(p[8:], uint64(lsn))
	le.PutUint32(p[16:], length)
	le.PutUint32(p[20:], place)
	le.PutUint32(p[24:], payloadCRC)
	le.PutUint32(p[28:], 0)
	le.PutUint32(p[4:], recordHeaderCRC(p))
}

func recordHeaderCRC(p []byte) uint32 {
	return crc32.Update(checksum(p[8:recordHeader]), castagnoli, p[:4])
}

// CorruptionError says what is missing of records that had been acknowledged.
type CorruptionError struct {
	Segment     SegmentID
	Offset      int64  // in the segment's file, of the first byte that does not check out
	First, Last LSN    // numbers of the records that are lost; 0 if none is
	Reason      string // what does not check out
}

func (e *CorruptionError) Error() string {
	lost := "no record is lost"
	if e.First > 0 {
		lost = fmt.Sprintf("records %d to %d are lost", uint64(e.First), uint64(e.Last))
	}
	return fmt.Sprintf("wal: segment %d, offset %d: %s; %s", uint64(e.Segment), e.Offset, e.Reason, lost)
}

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }
