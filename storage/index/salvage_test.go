package index

import (
	"bytes"
	"testing"
)

// salvage returns the series of a file that can be read.
func salvage(file []byte) (s *Salvaged, series []Series) {
	s = Salvage(file)
	s.Problems = append(s.Problems, s.Series(func(one SalvagedSeries) { series = append(series, one.Series) })...)
	return s, series
}

// TestSalvageWhole: of whole files everything is found; without the table of
// contents all series are; of files that are cut off those before the end are.
func TestSalvageWhole(t *testing.T) {
	for _, f := range goldenFiles(t) {
		s, series := salvage(f.raw)
		if len(s.Problems) > 0 || *s.Info != open(t, f.raw).Info() || render(series) != wantSeries(f.Object) {
			t.Fatalf("%s: %v, got\n%swant\n%s", f.Path, s.Problems, render(series), wantSeries(f.Object))
		}
		at := int64(0)
		for _, sec := range s.Sections {
			if sec.Offset != at {
				t.Fatalf("%s: %s begins at %d, the one before ends at %d", f.Path, sec.Name, sec.Offset, at)
			}
			at += sec.Size
		}
		if at != int64(len(f.raw)) {
			t.Fatalf("%s: sections end at %d of %d", f.Path, at, len(f.raw))
		}
		b := bytes.Clone(f.raw)
		b[len(b)-20] ^= 1
		if s, series := salvage(b); len(s.Problems) == 0 || render(series) != wantSeries(f.Object) {
			t.Fatalf("%s, without the table of contents: %v, got\n%s", f.Path, s.Problems, render(series))
		}
		last := -1
		for n := 0; n < len(f.raw); n += 7 {
			s, series := salvage(f.raw[:n])
			if len(s.Problems) == 0 || len(series) < last {
				t.Fatalf("%s, %d bytes: %v, %d series", f.Path, n, s.Problems, len(series))
			}
			last = len(series)
		}
	}
}

// FuzzSalvage: nothing is wrong with what NewReader and All take.
func FuzzSalvage(f *testing.F) {
	for _, g := range goldenFiles(f)[:10] {
		f.Add(g.raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		fixCRCs(b)
		s, _ := salvage(b)
		if _, err := NewReader(b); err != nil && len(s.Problems) == 0 {
			t.Fatalf("a reader says: %v", err)
		}
	})
}
