package index

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/internal/golden"
)

const goldenDir = "../testdata/golden"

// goldenFile is an unpacked index of the golden set.
type goldenFile struct {
	golden.Object
	raw []byte
}

func goldenFiles(t testing.TB) []goldenFile {
	t.Helper()
	var out []goldenFile
	for _, o := range golden.Load(t, goldenDir, "tsdb-index-v3") {
		z, err := gzip.NewReader(bytes.NewReader(o.Data))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, goldenFile{o, raw})
	}
	return out
}

func open(t testing.TB, b []byte) *Reader {
	t.Helper()
	r, err := NewReader(b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func all(t testing.TB, r *Reader) []Series {
	t.Helper()
	s, err := r.All()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantSeries(o golden.Object) string {
	var b strings.Builder
	for _, s := range o.Series {
		fmt.Fprintf(&b, "%s %s", labels.FromMap(s.Labels), s.Fingerprint)
		for _, c := range s.Chunks {
			fmt.Fprintf(&b, " %d-%d %s %d %d", c.Min, c.Max, c.Checksum, c.KB, c.Entries)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func render(series []Series) string {
	var b strings.Builder
	for _, s := range series {
		fmt.Fprintf(&b, "%s %016x", s.Labels, s.Fingerprint)
		for _, c := range s.Chunks {
			fmt.Fprintf(&b, " %d-%d %x %d %d", c.MinTime, c.MaxTime, c.Checksum, c.KB, c.Entries)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	for _, f := range goldenFiles(t) {
		r := open(t, f.raw)
		want := Info{From: f.From, Through: f.Through}
		if r.Info().From != want.From || r.Info().Through != want.Through || fmt.Sprintf("%x", r.Info().Checksum) != f.TOCCRC {
			t.Fatalf("%s: %+v, manifest says %d %d %s", f.Path, r.Info(), f.From, f.Through, f.TOCCRC)
		}
		series := all(t, r)
		if got := render(series); got != wantSeries(f.Object) {
			t.Fatalf("%s: got\n%swant\n%s", f.Path, got, wantSeries(f.Object))
		}
		for _, s := range series {
			own := s.Labels.Map()
			delete(own, "__loki_tenant__")
			if fp := labels.FromMap(own).Fingerprint(); fp != s.Fingerprint {
				t.Fatalf("%s: fingerprint of %s is %x, the index has %x", f.Path, s.Labels, fp, s.Fingerprint)
			}
		}
		// Upside down, behind something else, and with repetitions.
		var shuffled []Series
		for i := range series {
			s := series[len(series)-1-i]
			shuffled = append(shuffled, s, Series{s.Labels, s.Fingerprint, s.Chunks[:1]})
		}
		again, info, err := Build([]byte("before"), shuffled)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again[6:], f.raw) || info != r.Info() {
			t.Fatalf("%s: rebuilt file differs (%+v, %+v)", f.Path, info, r.Info())
		}
	}
}
