package loglines

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// sample returns n lines of every program, each ended by a newline, 256 KiB or
// more for each program.
func sample(seed uint64, n int) [][]byte {
	g := New(seed)
	var out [][]byte
	for app := range Apps() {
		var b []byte
		for i := range n {
			b = append(g.AppendLine(b, app, 1_700_000_000_000_000_000+int64(i)*7e6), '\n')
		}
		out = append(out, b)
	}
	return out
}

func TestLinesAreLikeRealOnes(t *testing.T) {
	const n = 2000
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		t.Fatal(err)
	}
	raw, snappy, zst := 0, 0, 0
	for app, b := range sample(1, n) {
		raw += len(b)
		snappy += len(s2.EncodeSnappy(nil, b))
		zst += len(enc.EncodeAll(b, nil))
		if bytes.ContainsAny(b, "\x00\x01") {
			t.Errorf("%s: a field was not replaced", AppName(app))
		}
		seen := map[string]bool{}
		for _, l := range bytes.Split(b, []byte("\n")) {
			seen[string(l)] = true
		}
		if len(seen) < n*9/10 {
			t.Errorf("%s: only %d of %d lines are different", AppName(app), len(seen), n)
		}
	}
	mean := float64(raw) / float64(n*Apps())
	t.Logf("mean %.0f bytes, snappy %.3f, zstd %.3f", mean, float64(snappy)/float64(raw), float64(zst)/float64(raw))
	if mean < 170 || mean > 230 {
		t.Errorf("mean length is %.0f bytes", mean)
	}
	if r := float64(snappy) / float64(raw); r < .15 || r > .45 {
		t.Errorf("snappy makes %.3f of it", r)
	}
	if r := float64(zst) / float64(raw); r < .08 || r > .25 {
		t.Errorf("zstd makes %.3f of it", r)
	}
}

func TestSameSeedSameLines(t *testing.T) {
	a, b, c := sample(7, 50), sample(7, 50), sample(8, 50)
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			t.Errorf("program %d: lines differ between runs", i)
		}
		if bytes.Equal(a[i], c[i]) {
			t.Errorf("program %d: another seed gives the same lines", i)
		}
	}
}

func BenchmarkAppendLine(b *testing.B) {
	g := New(1)
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	n := 0
	for i := range b.N {
		buf = g.AppendLine(buf[:0], i, int64(i))
		n += len(buf)
	}
	b.SetBytes(int64(n / b.N))
}
