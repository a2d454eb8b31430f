package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
)

func mustBuild(t testing.TB, series []Series) []byte {
	t.Helper()
	b, info, err := Build(nil, series)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if got, err := BuildTo(&out, series); err != nil || got != info || !bytes.Equal(out.Bytes(), b) {
		t.Fatalf("what is written to a stream differs: %v, %v", got, err)
	}
	return b
}

func matcher(t testing.TB, typ labels.MatchType, name, value string) *labels.Matcher {
	t.Helper()
	m, err := labels.NewMatcher(typ, name, value)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// randomSeries are n different series with few and many values, some labels
// absent, and up to maxChunks chunks each.
func randomSeries(r *rand.Rand, n, maxChunks int) []Series {
	out := make([]Series, n)
	for i := range out {
		m := map[string]string{"id": fmt.Sprint(i), "app": fmt.Sprint("app-", r.IntN(5))}
		if r.IntN(2) == 0 {
			m["env"] = []string{"prod", "dev", "a|b"}[r.IntN(3)]
		}
		if r.IntN(3) == 0 {
			m["pod"] = fmt.Sprint("pod-", r.IntN(n))
		}
		ls := labels.FromMap(m)
		s := Series{Labels: ls, Fingerprint: ls.Fingerprint()}
		if r.IntN(10) == 0 {
			s.Fingerprint = 7 // collisions are ordered by labels
		}
		for range 1 + r.IntN(maxChunks) {
			from := int64(r.IntN(1000)) - 100
			s.Chunks = append(s.Chunks, ChunkMeta{from, from + int64(r.IntN(50)), r.Uint32N(2000), r.Uint32N(1 << 20), r.Uint32()})
		}
		out[i] = s
	}
	return out
}

// expect is Select without an index.
func expect(series []Series, ms []*labels.Matcher, from, through int64) []Series {
	var out []Series
	for _, s := range series {
		if !labels.MatchAll(ms, s.Labels) {
			continue
		}
		var chunks []ChunkMeta
		for _, c := range s.Chunks {
			if c.MinTime <= through && c.MaxTime >= from {
				chunks = append(chunks, c)
			}
		}
		slices.SortFunc(chunks, compareChunks)
		if len(chunks) > 0 {
			out = append(out, Series{s.Labels, s.Fingerprint, chunks})
		}
	}
	slices.SortFunc(out, CompareSeries)
	return out
}

func TestSelect(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 10, 200, 1500} {
		series := randomSeries(r, n, 40)
		rd := open(t, mustBuild(t, series))
		if got, want := render(all(t, rd)), render(expect(series, nil, math.MinInt64, math.MaxInt64)); got != want {
			t.Fatalf("%d series: all differ", n)
		}
		values := []string{
			"", "app-1", "app-2|app-3", "(app-1|app-4)", "(?:app-0|none)", "app-[0-2]", ".*", ".+", "pod-1.*", "prod|", "prod|dev",
			"a|b", `a\|b`, "7", "1|2|3", "none", "(?i)PROD", "(prod|dev)|x", "|", "pod-.*|",
		}
		names := []string{"app", "env", "pod", "id", "none"}
		for range min(200, 20_000/n) {
			var ms []*labels.Matcher
			for range 1 + r.IntN(3) {
				ms = append(ms, matcher(t, labels.MatchType(r.IntN(4)), names[r.IntN(len(names))], values[r.IntN(len(values))]))
			}
			from := int64(r.IntN(1200)) - 150
			through := from + int64(r.IntN(200))
			if r.IntN(2) == 0 {
				from, through = math.MinInt64, math.MaxInt64
			}
			got, err := rd.Select(ms, from, through)
			if err != nil {
				t.Fatal(err)
			}
			if want := expect(series, ms, from, through); render(got) != render(want) {
				t.Fatalf("%d series, %v, %d to %d: got\n%swant\n%s", n, ms, from, through, render(got), render(want))
			}
		}
	}
}

func TestSelectBounds(t *testing.T) {
	ls := labels.FromMap(map[string]string{"a": "b"})
	rd := open(t, mustBuild(t, []Series{{ls, 1, []ChunkMeta{{10, 20, 1, 2, 3}, {30, 40, 1, 2, 4}}}}))
	f := func(from, through int64, want int) {
		t.Helper()
		got, err := rd.Select(nil, from, through)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, s := range got {
			n += len(s.Chunks)
		}
		if n != want {
			t.Fatalf("%d to %d: %d chunks, want %d", from, through, n, want)
		}
	}
	f(0, 9, 0)
	f(0, 10, 1)
	f(20, 20, 1)
	f(21, 29, 0)
	f(20, 30, 2)
	f(40, 99, 1)
	f(41, 99, 0)
}

func TestLabelNamesAndValues(t *testing.T) {
	series := randomSeries(rand.New(rand.NewPCG(1, 2)), 200, 2)
	rd := open(t, mustBuild(t, series))
	want := map[string]map[string]bool{}
	for _, s := range series {
		for _, l := range s.Labels {
			if want[l.Name] == nil {
				want[l.Name] = map[string]bool{}
			}
			want[l.Name][l.Value] = true
		}
	}
	if got := rd.LabelNames(); !slices.Equal(got, []string{"app", "env", "id", "pod"}) {
		t.Fatalf("names %v", got)
	}
	for name, set := range want {
		got := rd.LabelValues(name)
		if !slices.IsSorted(got) || len(got) != len(set) {
			t.Fatalf("%s: %v", name, got)
		}
		for _, v := range got {
			if !set[v] {
				t.Fatalf("%s: value %s", name, v)
			}
		}
	}
	for _, name := range []string{"", "none"} {
		if got := rd.LabelValues(name); len(got) != 0 {
			t.Fatalf("%q: values %v", name, got)
		}
	}
}

// TestPages checks the markers of a series with many chunks.
func TestPages(t *testing.T) {
	var chunks []ChunkMeta
	for i := range int64(35) {
		chunks = append(chunks, ChunkMeta{i * 10, i*10 + 500 - 20*i, 1, 10, uint32(i)})
	}
	slices.SortFunc(chunks, compareChunks)
	var w seriesWriter
	d := decoder{b: w.encode(7, []uint32{0, 1}, chunks)}
	d.take(8)
	if d.uvarint() != 1 || d.uvarint() != 0 || d.uvarint() != 1 || d.uvarint() != 35 {
		t.Fatal("record does not begin as it should")
	}
	pages := decoder{b: d.take(uint64(d.be32()))}
	if n := pages.uvarint(); n != 3 {
		t.Fatalf("%d pages", n)
	}
	total := len(d.b)
	last := int64(0)
	for _, want := range [][]ChunkMeta{chunks[:16], chunks[16:32], chunks[32:]} {
		n, kb, entries := pages.uvarint(), pages.be32(), pages.be32()
		off, from, span := pages.uvarint(), pages.varint(), pages.varint()
		lo, hi := int64(math.MaxInt64), int64(math.MinInt64)
		if off != uint64(total-len(d.b)) {
			t.Fatalf("page at %d, marker says %d", total-len(d.b), off)
		}
		for _, c := range want {
			lo, hi = min(lo, c.MinTime), max(hi, c.MaxTime)
			if got := last + d.varint(); got != c.MinTime {
				t.Fatalf("chunk from %d, want %d", got, c.MinTime)
			}
			last = c.MinTime + int64(d.uvarint())
			_, _, _ = d.uvarint(), d.uvarint(), d.be32()
		}
		if n != uint64(len(want)) || kb != uint32(n) || entries != 10*uint32(n) || from != lo || from+span != hi {
			t.Fatalf("marker %d %d %d %d %d", n, kb, entries, from, span)
		}
	}
	if d.bad || pages.bad || len(pages.b)+len(d.b) > 0 {
		t.Fatal("lengths differ")
	}
}

func TestFingerprintTable(t *testing.T) {
	series := make([]Series, 2500)
	for i := range series {
		ls := labels.FromMap(map[string]string{"id": fmt.Sprint(i)})
		series[i] = Series{ls, ls.Fingerprint(), []ChunkMeta{{0, 1, 0, 1, 2}}}
	}
	b := mustBuild(t, series)
	rd := open(t, b)
	body, err := rd.section("fingerprint table", rd.toc[tocFingerprints])
	if err != nil {
		t.Fatal(err)
	}
	sorted := all(t, rd)
	if len(body) != 4+3*16 || binary.BigEndian.Uint32(body) != 3 {
		t.Fatalf("table of %d bytes", len(body))
	}
	for i := range 3 {
		ref, fp := binary.BigEndian.Uint64(body[4+16*i:]), binary.BigEndian.Uint64(body[12+16*i:])
		s, err := rd.record(uint32(ref))
		if err != nil || s.fp != fp || fp != sorted[1024*i].Fingerprint {
			t.Fatalf("entry %d: reference %d, fingerprint %x, want %x: %v", i, ref, fp, sorted[1024*i].Fingerprint, err)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	ok := []ChunkMeta{{1, 2, 3, 4, 5}}
	f := func(what string, s ...Series) {
		t.Helper()
		if _, _, err := Build(nil, s); err == nil {
			t.Fatalf("%s: no error", what)
		}
	}
	ls := func(pairs ...string) (out labels.Labels) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, labels.Label{Name: pairs[i], Value: pairs[i+1]})
		}
		return out
	}
	f("nothing")
	f("no chunks", Series{ls("a", "b"), 1, nil})
	f("bounds", Series{ls("a", "b"), 1, []ChunkMeta{{2, 1, 0, 0, 0}}})
	f("empty value", Series{ls("a", ""), 1, ok})
	f("empty name", Series{ls("", "a"), 1, ok})
	f("order", Series{ls("b", "1", "a", "2"), 1, ok})
	f("twice", Series{ls("a", "1", "a", "2"), 1, ok})
	// No labels and extreme times are fine.
	b := mustBuild(t, []Series{{nil, 0, []ChunkMeta{{math.MinInt64, math.MinInt64 + 1, 0, 0, 0}, {math.MaxInt64 - 1, math.MaxInt64, math.MaxUint32, math.MaxUint32, math.MaxUint32}}}})
	if got := all(t, open(t, b)); len(got) != 1 || len(got[0].Chunks) != 2 || got[0].Chunks[1].KB != math.MaxUint32 {
		t.Fatalf("%+v", got)
	}
}

// view is all that a reader can get out of a file.
func view(b []byte) (string, error) {
	r, err := NewReader(b)
	if err != nil {
		return "", err
	}
	series, err := r.All()
	if err != nil {
		return "", err
	}
	s := render(series) + fmt.Sprint(r.Info())
	for _, n := range r.LabelNames() {
		for _, v := range r.LabelValues(n) {
			m, err := labels.NewMatcher(labels.MatchEqual, n, v)
			if err != nil {
				return "", err
			}
			found, err := r.Select([]*labels.Matcher{m}, math.MinInt64, math.MaxInt64)
			if err != nil {
				return "", err
			}
			s += fmt.Sprintf("\n%s=%s: %s", n, v, render(found))
		}
	}
	return s, nil
}

func TestBitFlips(t *testing.T) {
	file := mustBuild(t, randomSeries(rand.New(rand.NewPCG(1, 2)), 5, 3))
	want, err := view(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(file) {
		bad := bytes.Clone(file)
		bad[i/8] ^= 1 << (i % 8)
		got, err := view(bad)
		if err == nil && got != want {
			t.Fatalf("bit %d of byte %d flipped: accepted with other content", i%8, i/8)
		}
		var c *CorruptionError
		if err != nil && !errors.As(err, &c) {
			t.Fatalf("bit %d of byte %d flipped: %v", i%8, i/8, err)
		}
	}
	for n := range file {
		if _, err := view(file[:n:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are accepted", n, len(file))
		}
		if _, err := view(append(file[:n:n], file[n+1:]...)); err == nil {
			t.Fatalf("accepted without byte %d", n)
		}
	}
}

func TestGoldenBitFlips(t *testing.T) {
	for i, f := range goldenFiles(t) {
		want, err := view(f.raw)
		if err != nil {
			t.Fatal(err)
		}
		for k := i % 7; k < len(f.raw); k += 7 {
			bad := bytes.Clone(f.raw)
			bad[k] ^= 1 << (k % 8)
			if got, err := view(bad); err == nil && got != want {
				t.Fatalf("%s: bit %d of byte %d flipped: accepted with other content", f.Path, k%8, k)
			}
		}
	}
}

// fixCRCs corrects the checksums of a damaged file, as far as it can be read.
func fixCRCs(b []byte) {
	if len(b) < headerSize+tocSize {
		return
	}
	sum := func(from, to int) uint32 { return crc32.Checksum(b[from:to], castagnoli) }
	end := len(b) - tocSize
	frame := func(off uint64) int {
		if off > uint64(end) || end-int(off) < 8 {
			return end
		}
		n := int(binary.BigEndian.Uint32(b[off:]))
		if n > end-int(off)-8 {
			return end
		}
		at := int(off) + 4 + n
		binary.BigEndian.PutUint32(b[at:], sum(int(off)+4, at))
		return at + 4
	}
	var toc [9]uint64
	for i := range toc {
		toc[i] = binary.BigEndian.Uint64(b[end+8*i:])
	}
	for _, i := range []int{tocSymbols, tocLabelTable, tocPostingsTable, tocFingerprints} {
		frame(toc[i])
	}
	for off := toc[tocSeries]; off < toc[tocLabelIndices] && toc[tocLabelIndices] <= uint64(end); {
		off = (off + align - 1) &^ (align - 1)
		if off >= uint64(end) {
			break
		}
		n, k := binary.Uvarint(b[off:end])
		if k <= 0 || n > uint64(end)-off-uint64(k) || uint64(end)-off-uint64(k)-n < 4 {
			break
		}
		at := int(off) + k
		binary.BigEndian.PutUint32(b[at+int(n):], sum(at, at+int(n)))
		off = uint64(at) + n + 4
	}
	for off := toc[tocPostings]; off < toc[tocPostingsTable] && off < uint64(end); {
		off = uint64(frame((off + 3) &^ 3))
	}
	binary.BigEndian.PutUint32(b[len(b)-4:], sum(end, len(b)-4))
}

// TestForged has files with right checksums and wrong values: any byte may be
// anything.
func TestForged(t *testing.T) {
	file := mustBuild(t, randomSeries(rand.New(rand.NewPCG(1, 2)), 12, 3))
	r := rand.New(rand.NewPCG(3, 4))
	for i := range file {
		for _, v := range []byte{[]byte{0, 0xff, file[i] + 1, byte(r.Uint32())}[i%4]} {
			bad := bytes.Clone(file)
			bad[i] = v
			fixCRCs(bad)
			_, _ = view(bad)
		}
	}
	// Random values over the table of contents and the counts.
	for range 300 {
		bad := bytes.Clone(file)
		for range 1 + r.IntN(4) {
			at := r.IntN(len(bad) - 8)
			if r.IntN(2) == 0 {
				at = len(bad) - tocSize + 8*r.IntN(9)
			}
			binary.BigEndian.PutUint64(bad[at:], r.Uint64()>>r.IntN(64))
		}
		fixCRCs(bad)
		_, _ = view(bad)
	}
}

// TestAnnouncedCounts checks that numbers in a small file cost no memory.
func TestAnnouncedCounts(t *testing.T) {
	file := mustBuild(t, []Series{{labels.FromMap(map[string]string{"a": "b"}), 1, []ChunkMeta{{1, 2, 3, 4, 5}}}})
	r := open(t, file)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, at := range []uint64{headerSize + 4, r.toc[tocPostingsTable] + 4, r.toc[tocPostings] + 7, r.toc[tocSeries] + 32} {
		for off := range uint64(8) {
			bad := bytes.Clone(file)
			binary.BigEndian.PutUint32(bad[at+off:], math.MaxUint32>>1)
			fixCRCs(bad)
			_, _ = view(bad)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Fatalf("%d bytes were allocated", n)
	}
}

func TestConcurrent(t *testing.T) {
	series := randomSeries(rand.New(rand.NewPCG(1, 2)), 200, 2)
	rd := open(t, mustBuild(t, series))
	m := []*labels.Matcher{matcher(t, labels.MatchRegexp, "pod", "pod-1.*"), matcher(t, labels.MatchNotEqual, "app", "app-1")}
	want := render(expect(series, m, math.MinInt64, math.MaxInt64))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				got, err := rd.Select(m, math.MinInt64, math.MaxInt64)
				if err != nil || render(got) != want {
					t.Errorf("%v, %s", err, render(got))
				}
			}
		})
	}
	wg.Wait()
}

func FuzzReader(f *testing.F) {
	for _, g := range goldenFiles(f)[:10] {
		f.Add(g.raw)
	}
	f.Add(mustBuild(f, randomSeries(rand.New(rand.NewPCG(1, 2)), 12, 3)))
	ms := []*labels.Matcher{matcher(f, labels.MatchRegexp, "app", "a.*"), matcher(f, labels.MatchNotEqual, "env", "prod")}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		fixCRCs(b)
		r, err := NewReader(b)
		if err != nil {
			return
		}
		if _, err = r.Select(ms, 0, math.MaxInt64); err != nil && !strings.HasPrefix(err.Error(), "index: ") {
			t.Fatal(err)
		}
		_, _ = view(b)
	})
}

// FuzzRaw leaves the checksums as they are.
func FuzzRaw(f *testing.F) {
	for _, g := range goldenFiles(f)[:10] {
		f.Add(g.raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = view(b) })
}

// benchSeries are n series as a cluster has them: few apps, many pods.
func benchSeries(n int) []Series {
	out := make([]Series, n)
	for i := range out {
		ls := labels.FromMap(map[string]string{
			"cluster": "eu-1", "namespace": fmt.Sprint("ns-", i%50), "app": fmt.Sprint("app-", i%500),
			"pod": fmt.Sprintf("app-%d-5d89f7c-%05x", i%500, i), "container": "main", "stream": []string{"stdout", "stderr"}[i%2],
		})
		from := int64(1_700_000_000_000 + i)
		out[i] = Series{ls, ls.Fingerprint(), []ChunkMeta{{from, from + 1800_000, 300, 2000, uint32(i)}, {from + 1800_000, from + 3600_000, 300, 2000, uint32(i)}}}
	}
	return out
}

func BenchmarkBuild(b *testing.B) {
	series := benchSeries(100_000)
	b.ReportAllocs()
	var file []byte
	for b.Loop() {
		var err error
		if file, _, err = Build(nil, series); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(file)))
	b.ReportMetric(float64(len(file)), "file-bytes")
}

func BenchmarkOpen(b *testing.B) {
	file := mustBuild(b, benchSeries(100_000))
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewReader(file); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSelect(b *testing.B) {
	rd := open(b, mustBuild(b, benchSeries(100_000)))
	for _, c := range []struct {
		name string
		ms   []*labels.Matcher
	}{
		{"one-series", []*labels.Matcher{matcher(b, labels.MatchEqual, "pod", "app-7-5d89f7c-00007")}},
		{"200-of-500-apps", []*labels.Matcher{matcher(b, labels.MatchEqual, "app", "app-7")}},
		{"app-and-stream", []*labels.Matcher{matcher(b, labels.MatchEqual, "app", "app-7"), matcher(b, labels.MatchEqual, "stream", "stderr"), matcher(b, labels.MatchNotRegexp, "pod", ".*0000.*")}},
		{"regexp-over-500", []*labels.Matcher{matcher(b, labels.MatchRegexp, "app", "app-4[0-9]")}},
		{"all", nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				got, err := rd.Select(c.ms, 1_700_000_000_000, 1_700_003_600_000)
				if err != nil {
					b.Fatal(err)
				}
				n = len(got)
			}
			b.ReportMetric(float64(n), "series")
		})
	}
}
