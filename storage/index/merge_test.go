package index

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/loki-go/loki-go/internal/labels"
)

// scatter lists the chunks of series in n files, some of them in several.
func scatter(t testing.TB, r *rand.Rand, series []Series, n int) []Source {
	t.Helper()
	parts := make([][]Series, n)
	for _, s := range series {
		chunks := make([][]ChunkMeta, n)
		for _, c := range s.Chunks {
			i := r.IntN(n)
			chunks[i] = append(chunks[i], c)
			if r.IntN(4) == 0 {
				i = r.IntN(n)
				chunks[i] = append(chunks[i], c)
			}
		}
		for i, c := range chunks {
			if len(c) > 0 {
				parts[i] = append(parts[i], Series{s.Labels, s.Fingerprint, c})
			}
		}
	}
	var out []Source
	for _, p := range parts {
		if len(p) > 0 {
			out = append(out, Source{Reader: open(t, mustBuild(t, p))})
		}
	}
	return out
}

func mustMerge(t testing.TB, sources []Source, keep Keep) []byte {
	t.Helper()
	b, info, err := Merge([]byte("front"), sources, keep)
	if err != nil {
		t.Fatal(err)
	}
	if string(b[:5]) != "front" || info != open(t, b[5:]).Info() {
		t.Fatalf("info %v", info)
	}
	mustMergeStreams(t, sources, keep, b[5:])
	return b[5:]
}

// streams returns the same sources as streams.
func streams(t testing.TB, sources []Source) []Source {
	t.Helper()
	var out []Source
	for _, s := range sources {
		st, err := stream(s.Reader.b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Source{Stream: st, Only: s.Only})
	}
	return out
}

func stream(b []byte) (*Stream, error) {
	return NewStream(func() (io.Reader, error) { return iotest.HalfReader(bytes.NewReader(b)), nil })
}

// mustMergeStreams: a merge of streams into a stream is the same file.
func mustMergeStreams(t testing.TB, sources []Source, keep Keep, want []byte) {
	t.Helper()
	var out bytes.Buffer
	info, n, err := MergeTo(&out, streams(t, sources), keep)
	if err != nil || !bytes.Equal(out.Bytes(), want) {
		t.Fatalf("streams are merged to something else: %v", err)
	}
	whole, err := stream(want)
	if err != nil {
		t.Fatal(err)
	}
	if got := open(t, want).Info(); whole.Info() != got || info != got {
		t.Fatalf("infos %v and %v, want %v", whole.Info(), info, got)
	}
	if k, err := (Source{Stream: whole}).NumSeries(); err != nil || k != n || whole.numSeries() < n || whole.numSeries() >= n+fpInterval {
		t.Fatalf("%d series, want %d: %v", k, n, err)
	}
	if err := whole.Check(); err != nil {
		t.Fatal(err)
	}
}

// TestMerge: a merge is what Build makes of the same series.
func TestMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 10, 300, 2500} {
		series := randomSeries(r, n, 40)
		for _, files := range []int{1, 2, 7, 40} {
			if got := mustMerge(t, scatter(t, r, series, files), nil); !bytes.Equal(got, mustBuild(t, series)) {
				t.Fatalf("%d series in %d files: the merge differs", n, files)
			}
		}
	}
}

func TestMergeKeep(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	series := randomSeries(r, 400, 10)
	// All of an app goes, and of the others what is old.
	gone := func(ls labels.Labels, c ChunkMeta) bool { return ls.Get("app") == "app-1" || c.MaxTime < 400 }
	keep := func(ls labels.Labels, fp uint64, chunks []ChunkMeta) []ChunkMeta {
		return slices.DeleteFunc(chunks, func(c ChunkMeta) bool { return gone(ls, c) })
	}
	var left []Series
	for _, s := range series {
		s.Chunks = slices.DeleteFunc(slices.Clone(s.Chunks), func(c ChunkMeta) bool { return gone(s.Labels, c) })
		if len(s.Chunks) > 0 {
			left = append(left, s)
		}
	}
	if len(left) < 100 || len(left) > 390 {
		t.Fatalf("%d of %d series are left", len(left), len(series))
	}
	sources := scatter(t, r, series, 5)
	if got := mustMerge(t, sources, keep); !bytes.Equal(got, mustBuild(t, left)) {
		t.Fatal("the merge differs")
	}
	none := func(labels.Labels, uint64, []ChunkMeta) []ChunkMeta { return nil }
	if b, _, err := Merge([]byte("x"), sources, none); !errors.Is(err, ErrNoSeries) || string(b) != "x" {
		t.Fatalf("nothing is kept: %q, %v", b, err)
	}
	if _, _, err := Merge(nil, nil, nil); !errors.Is(err, ErrNoSeries) {
		t.Fatalf("no sources: %v", err)
	}
}

// TestMergeOnly takes single tenants out of files of many, where labels of
// streams come before and behind that of the tenant.
func TestMergeOnly(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	const label = "__tenant__"
	var all []Series
	want := map[string][]Series{}
	for i := range 3 {
		tenant := fmt.Sprint("t", i)
		series := randomSeries(r, 200, 5)
		// Streams of one fingerprint whose order changes with the label.
		for _, m := range []map[string]string{{"a": "1"}, {"a": "1", "B": "x"}, {}, {"B": "x"}} {
			ls := labels.FromMap(m)
			series = append(series, Series{ls, 7, []ChunkMeta{{MinTime: 1, MaxTime: 2, Checksum: r.Uint32()}}})
		}
		want[tenant] = series
		for _, s := range series {
			m := s.Labels.Map()
			m[label] = tenant
			all = append(all, Series{labels.FromMap(m), s.Fingerprint, s.Chunks})
		}
	}
	sources := scatter(t, r, all, 3)
	for tenant, series := range want {
		own := slices.Clone(sources)
		for i := range own {
			own[i].Only = labels.Label{Name: label, Value: tenant}
		}
		if got := mustMerge(t, own, nil); !bytes.Equal(got, mustBuild(t, series)) {
			t.Fatalf("%s: the merge differs", tenant)
		}
		n, chunks, announced := 0, 0, 0
		for _, s := range own {
			k, err := s.NumSeries()
			if err != nil {
				t.Fatal(err)
			}
			announced += k
			err = s.Each(func(ls labels.Labels, fp uint64, cs []ChunkMeta) error {
				if ls.Get(label) != "" || fp != 7 && fp != ls.Fingerprint() {
					return fmt.Errorf("series %s, %x", ls, fp)
				}
				n++
				chunks += len(cs)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if n < len(series) || chunks < n || n != announced {
			t.Fatalf("%d series, announced were %d, %d chunks", n, announced, chunks)
		}
		for i := range own {
			own[i].Only.Value = "nobody"
		}
		if _, _, err := Merge(nil, own, nil); !errors.Is(err, ErrNoSeries) {
			t.Fatalf("an unknown tenant: %v", err)
		}
	}
	stop := errors.New("stop")
	if err := sources[0].Each(func(labels.Labels, uint64, []ChunkMeta) error { return stop }); err != stop {
		t.Fatal(err)
	}
}

// TestMergeGolden: files that Loki wrote, merged with themselves, stay as they
// are.
func TestMergeGolden(t *testing.T) {
	for _, f := range goldenFiles(t) {
		r := open(t, f.raw)
		if got := mustMerge(t, []Source{{Reader: r}, {Reader: r}}, nil); !bytes.Equal(got, f.raw) {
			t.Fatalf("%s changes", f.Path)
		}
	}
}

// TestMergeDamaged: a merge of a file with a wrong bit is an error, or what it
// would be without.
func TestMergeDamaged(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	series := randomSeries(r, 30, 5)
	good := mustBuild(t, series)
	other := open(t, mustBuild(t, randomSeries(r, 10, 2)))
	want := mustMerge(t, []Source{{Reader: open(t, good)}, {Reader: other}}, nil)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		st, err := stream(bad)
		if err == nil && i%3 == 0 {
			var out bytes.Buffer
			if _, _, err := MergeTo(&out, []Source{{Stream: st}, {Reader: other}}, nil); err == nil && !bytes.Equal(out.Bytes(), want) {
				t.Fatalf("byte %d: the merge of streams differs without an error", i)
			}
			// What lies between sections has no sum, and is not used.
			if err := st.Check(); err == nil && bad[i] != good[i] && !padding(t, good, bad) {
				t.Fatalf("byte %d is not found to be wrong", i)
			}
		}
		rd, err := NewReader(bad)
		if err != nil {
			continue
		}
		got, _, err := Merge(nil, []Source{{Reader: rd}, {Reader: other}}, nil)
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("byte %d: the merge differs without an error", i)
		}
	}
}

// padding reports whether bad differs from good only where good has a zero that
// aligns what follows: a file with another value there reads the same.
func padding(t *testing.T, good, bad []byte) bool {
	t.Helper()
	a, err := open(t, good).All()
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(t, bad).All()
	return err == nil && reflect.DeepEqual(a, b)
}

// TestStreamEnds: a file that ends early or cannot be read is an error, at
// every byte.
func TestStreamEnds(t *testing.T) {
	file := mustBuild(t, randomSeries(rand.New(rand.NewPCG(5, 5)), 10, 3))
	broken := errors.New("broken")
	for n := range file {
		if _, err := stream(file[:n]); err == nil {
			t.Fatalf("%d bytes are a file", n)
		}
		_, err := NewStream(func() (io.Reader, error) {
			return io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(broken)), nil
		})
		if !errors.Is(err, broken) {
			t.Fatalf("broken at %d: %v", n, err)
		}
	}
	reads := 0
	st, err := NewStream(func() (io.Reader, error) {
		if reads++; reads == 1 {
			return bytes.NewReader(file), nil
		}
		return bytes.NewReader(file[:len(file)/2]), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Check(); err == nil {
		t.Fatal("the file ends early, when it is read again")
	}
	if _, err := NewStream(func() (io.Reader, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if _, _, err := MergeTo(failingWriter{}, []Source{{Stream: mustStream(t, file)}}, nil); !errors.Is(err, errNoRoom) {
		t.Fatal(err)
	}
}

func mustStream(t testing.TB, b []byte) *Stream {
	t.Helper()
	st, err := stream(b)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

var errNoRoom = errors.New("no room")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errNoRoom }

// FuzzMerge: whatever a file holds, a merge is an error or a file.
func FuzzMerge(f *testing.F) {
	r := rand.New(rand.NewPCG(11, 12))
	small := mustBuild(f, randomSeries(r, 3, 2))
	f.Add(small)
	f.Add(mustBuild(f, randomSeries(r, 20, 3)))
	other := open(f, small)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		fixCRCs(b)
		st, streamErr := stream(b)
		var streamed bytes.Buffer
		if streamErr == nil {
			_, _, streamErr = MergeTo(&streamed, []Source{{Stream: st}, {Reader: other}}, nil)
			streamErr = errors.Join(streamErr, st.Check())
		}
		rd, err := NewReader(b)
		if err != nil {
			return
		}
		out, info, err := Merge(nil, []Source{{Reader: rd}, {Reader: other}}, nil)
		if err != nil {
			return
		}
		merged, err := NewReader(out)
		if err != nil || merged.Info() != info {
			t.Fatalf("merged file: %v", err)
		}
		if streamErr == nil && !bytes.Equal(streamed.Bytes(), out) {
			t.Fatal("merged as a stream, it is another file")
		}
		_ = Source{Reader: merged}.Each(func(labels.Labels, uint64, []ChunkMeta) error { return nil })
	})
}

// BenchmarkMerge merges 8 files of 20,000 series, of which half are in all of
// them.
func BenchmarkMerge(b *testing.B) {
	var sources []Source
	size := 0
	for f := range 8 {
		series := benchSeries(20_000)
		for i := range series {
			if i%2 == 0 {
				series[i].Labels = append(slices.Clone(series[i].Labels), labels.Label{Name: "zone", Value: fmt.Sprint(f)})
				series[i].Fingerprint = series[i].Labels.Fingerprint()
			}
			for k := range series[i].Chunks {
				series[i].Chunks[k].Checksum += uint32(f)
			}
		}
		file := mustBuild(b, series)
		size += len(file)
		sources = append(sources, Source{Reader: open(b, file)})
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var out []byte
	for b.Loop() {
		var err error
		if out, _, err = Merge(out[:0], sources, nil); err != nil {
			b.Fatal(err)
		}
	}
}
