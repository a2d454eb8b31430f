package index

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/loki-go/loki-go/internal/labels"
)

// Salvaged is what can be read of a file, for people who look at it.
type Salvaged struct {
	Version  int
	Info     *Info     // nil without a table of contents
	Sections []Section // in order
	Symbols  int       // how many there are; -1: unknown
	Problems []error   // mostly *CorruptionError

	r      Reader
	series [2]int // where they are
}

// Section is a part of a file.
type Section struct {
	Name         string
	Offset, Size int64
}

// Salvage reads as much as possible of a file, which may be damaged.
func Salvage(file []byte) *Salvaged {
	s := &Salvaged{Symbols: -1, r: Reader{b: file}}
	if len(file) > 4 {
		s.Version = int(file[4])
	}
	whole := true
	if err := s.r.readTOC(); err != nil {
		s.Problems = append(s.Problems, err)
		whole = false
	} else {
		s.Info = &s.r.info
	}
	if whole {
		s.sections()
	}
	if len(file) < headerSize+tocSize {
		return s
	}
	if err := s.r.readSymbols(); err != nil {
		s.Problems = append(s.Problems, err)
	} else {
		s.Symbols = len(s.r.heads)
	}
	if !whole {
		if s.Symbols < 0 {
			return s
		}
		// Symbols are first, and series follow them.
		n := int(binary.BigEndian.Uint32(file[headerSize:]))
		s.Sections = append(s.Sections, Section{"symbols", headerSize, int64(n) + 8})
		s.series = [2]int{headerSize + n + 8, len(file)}
		return s
	}
	s.series = [2]int{int(s.r.toc[tocSeries]), int(s.r.toc[tocLabelIndices])}
	for _, err := range []error{s.frames("label index", tocLabelIndices, tocPostings), s.frames("postings", tocPostings, tocLabelTable), s.r.readTable(), s.r.checkUnused()} {
		if err != nil {
			s.Problems = append(s.Problems, err)
		}
	}
	return s
}

func (s *Salvaged) sections() {
	toc := s.r.toc
	s.Sections = append(s.Sections, Section{"header", 0, headerSize})
	for i, name := range []string{"symbols", "series", "label indices", "label index table", "postings", "postings table", "fingerprint table"} {
		s.Sections = append(s.Sections, Section{Name: name, Offset: int64(toc[[7]int{tocSymbols, tocSeries, tocLabelIndices, tocLabelTable, tocPostings, tocPostingsTable, tocFingerprints}[i]])})
	}
	s.Sections = append(s.Sections, Section{"table of contents", int64(len(s.r.b) - tocSize), tocSize})
	slices.SortStableFunc(s.Sections, func(a, b Section) int { return int(a.Offset - b.Offset) })
	for i := range s.Sections[:len(s.Sections)-1] {
		s.Sections[i].Size = s.Sections[i+1].Offset - s.Sections[i].Offset
	}
}

// frames checks a row of framed sections.
func (s *Salvaged) frames(what string, from, to int) error {
	at, end := (s.r.toc[from]+3)&^3, s.r.toc[to]
	for at+8 <= end {
		body, err := s.r.section(what, at)
		if err != nil {
			return err
		}
		at += uint64(len(body)) + 8
		at = (at + 3) &^ 3
	}
	return nil
}

// SalvagedSeries is one of the series in a file.
type SalvagedSeries struct {
	Series
	Offset int64
	Size   int // of the record
}

// Series calls f for the series that can be read, in order of the file, and
// returns what is wrong with others. What f gets is its own.
func (s *Salvaged) Series(f func(SalvagedSeries)) (problems []error) {
	if s.Symbols < 0 || s.series[1] <= s.series[0] {
		return nil
	}
	r := s.r // with bounds of its own
	r.toc[tocSeries], r.toc[tocLabelIndices] = uint64(s.series[0]), uint64(s.series[1])
	lost := false
	for at := (s.series[0] + align - 1) / align * align; at < s.series[1]; {
		size, n := binary.Uvarint(r.b[at:s.series[1]])
		one, err := r.one(uint32(at / align))
		if err == nil {
			lost = false
			f(SalvagedSeries{one, int64(at), n + int(size) + 4})
			at = (at + n + int(size) + 4 + align - 1) / align * align
			continue
		}
		if s.Info == nil && atEnd(r.b[at:]) {
			break // without a table of contents it is not known where series end
		}
		if !lost {
			problems = append(problems, err)
		}
		lost = true
		at += align
	}
	return problems
}

// atEnd reports whether b begins as what follows the series does: a list of the
// values of a label.
func atEnd(b []byte) bool {
	return len(b) >= 8 && b[0] == 0 && binary.BigEndian.Uint32(b[4:]) == 1 && binary.BigEndian.Uint32(b) >= 12
}

// one reads a series.
func (r *Reader) one(ref uint32) (Series, error) {
	rec, err := r.record(ref)
	if err != nil {
		return Series{}, err
	}
	var s Series
	if s.Labels, err = r.labels(&rec, labels.Labels{}); err != nil {
		return s, err
	}
	s.Fingerprint = rec.fp
	s.Chunks, err = r.chunks(&rec, nil, math.MinInt64, math.MaxInt64)
	return s, err
}

// IsFile reports whether b begins as an index file does.
func IsFile(b []byte) bool { return len(b) >= 4 && binary.BigEndian.Uint32(b) == magic }
