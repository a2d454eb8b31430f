package wal

import "bytes"

// SegmentSuffix ends the name of a segment file.
const SegmentSuffix = suffix

// DumpedSegment is what a segment file says of itself.
type DumpedSegment struct {
	ID           SegmentID
	First        LSN // number of the first record
	Before       SegmentID
	Last, Sure   LSN // of the records before the segment: that count, that were acknowledged
	HeaderIsGood bool
}

// DumpedRecord is a record of a segment.
type DumpedRecord struct {
	LSN     LSN
	Place   int // in its group
	Offset  int64
	Payload []byte // valid during the call
}

// IsSegment reports whether b begins as a segment does.
func IsSegment(b []byte) bool { return bytes.HasPrefix(b, []byte(magic)) }

// Dump reads the file of a segment, for people who look at it: it calls f for
// each record that checks out, and returns what does not. name is the file's,
// without directories.
func Dump(name string, file []byte, f func(DumpedRecord)) (s DumpedSegment, problems []error) {
	id, ok := parseName(name)
	if !ok && len(file) >= headerSize { // a copy under another name
		id = SegmentID(le.Uint64(file[16:]))
	}
	var h header
	bad := func(off int64, reason string) {
		problems = append(problems, &CorruptionError{Segment: id, Offset: off, Reason: reason})
	}
	why, err := h.parse(file[:min(len(file), headerSize)], id)
	if err != nil {
		return s, append(problems, err)
	}
	s.ID = id
	seg := segment{id: id, size: int64(len(file))}
	if why != "" {
		bad(0, why)
	} else {
		s = DumpedSegment{ID: h.id, First: h.first, Before: h.prevID, Last: h.last, Sure: h.sure, HeaderIsGood: true}
		seg.first, seg.salt = h.first, h.salt
	}
	rest := file[min(len(file), headerSize):]
	sc := seg.scanner(func() ([]byte, error) {
		p := rest
		rest = nil
		return p, nil
	})
	for {
		r, ok, err := sc.next()
		if err != nil {
			return s, append(problems, err)
		}
		if !ok {
			break
		}
		if r.skipped.reason != "" {
			bad(r.skipped.off, r.skipped.reason)
		}
		f(DumpedRecord{r.lsn, int(r.place), r.off, r.payload})
	}
	if sc.tail.reason != "" && !sc.tail.zeros {
		bad(sc.tail.off, sc.tail.reason+"; nothing behind it checks out")
	}
	return s, problems
}
