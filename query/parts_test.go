package query

import (
	"context"
	"math/rand"
	"slices"
	"testing"

	"github.com/loki-go/loki-go/internal/find"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/storage/chunk"
)

// partedBlock is a block that is read in parts, as those of chunks are.
type partedBlock struct {
	*testBlock
	infos  []chunk.PartInfo
	pieces [][]byte
	loaded []int // numbers of the parts that were loaded
}

// cut makes parts of b, each of which ends after some entries.
func cut(b *testBlock, entries func() int) *partedBlock {
	p := &partedBlock{testBlock: b}
	it := chunk.Entries(b.content)
	for off := 0; off < len(b.content); {
		info := chunk.PartInfo{Off: 2 * off}
		for n := max(1, entries()); info.Entries < n && it.Next(); info.Entries++ {
			if info.Entries == 0 {
				info.MinT = it.TS
			}
			info.MaxT = it.TS
		}
		p.infos, p.pieces = append(p.infos, info), append(p.pieces, b.content[off:it.Off+it.Len])
		off = it.Off + it.Len
	}
	return p
}

// Parts is PartedRef's.
func (p *partedBlock) Parts() (chunk.Parts, error) { return cutParts{p}, p.err }

// Load is BlockRef's: who can read parts does not ask for the whole.
func (p *partedBlock) Load([]byte) ([]byte, []string, error) { panic("loaded as a whole") }

type cutParts struct{ *partedBlock }

func (p cutParts) Len() int                  { return len(p.infos) }
func (p cutParts) Info(i int) chunk.PartInfo { return p.infos[i] }
func (p cutParts) Symbols() []string         { return p.symbols }

func (p cutParts) Load(i int, dst []byte, text *find.Finder) ([]byte, int, error) {
	p.loaded = append(p.loaded, i)
	content := append(dst, p.pieces[i]...)
	at := text.Index(content[len(dst):])
	if at < 0 {
		clear(content[len(dst):]) // good for nothing
	}
	return content, at, nil
}

// inParts returns f with its blocks in parts.
func inParts(f *fake, entries func() int) *fake {
	out := &fake{}
	for _, s := range f.series {
		parted := chunk.Series{Labels: s.Labels}
		for _, b := range s.Blocks {
			parted.Blocks = append(parted.Blocks, cut(b.(*testBlock), entries))
		}
		out.series = append(out.series, parted)
	}
	return out
}

// TestPartsAreTheBlock: entries come out in the same order, each once, whether
// blocks are read as a whole or in parts. The cases have copies of entries and
// entries of one time on both sides of the cuts.
func TestPartsAreTheBlock(t *testing.T) {
	rng := rand.New(rand.NewSource(3))
	found := 0
	for range 1500 {
		c := randomCase(rng)
		want, err := newEngine(t, c.memory, c.store).Run(context.Background(), c.req)
		if err != nil {
			t.Fatal(err)
		}
		few := func() int { return rng.Intn(5) }
		got, err := newEngine(t, inParts(c.memory, few), inParts(c.store, few)).Run(context.Background(), c.req)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(text(got), text(want)) {
			t.Fatalf("request %+v of %s\n got %v\nwant %v", c.req, c.req.Query, text(got), text(want))
		}
		found += len(got.Entries)
	}
	if found < 1500 {
		t.Errorf("only %d entries were found", found)
	}
}

// TestPartsThatAreRead: no part is read that the answer does not need.
func TestPartsThatAreRead(t *testing.T) {
	var es []entry
	for ts := range int64(30) {
		es = append(es, entry{ts, []string{"x", "y", "z"}[ts%3], ""})
	}
	b := newBlock(es...)
	f := func(dir Direction, limit int, from, through int64, query string, lines int64, want ...int) {
		t.Helper()
		p := cut(b, func() int { return 5 })
		src := &fake{series: []chunk.Series{{Labels: labels.Labels{{Name: "a", Value: "b"}}, Blocks: []chunk.BlockRef{p}}}}
		r, err := newEngine(t, src, nil).Run(context.Background(), Request{Tenant: "t", Query: logQuery(t, query), From: from, Through: through, Limit: limit, Direction: dir})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(p.loaded, want) {
			t.Errorf("%s: read %v, want %v", query, p.loaded, want)
		}
		bytes := int64(0)
		for _, i := range want {
			bytes += int64(len(p.pieces[i]))
		}
		if st := r.Stats.Memory; st.Lines != lines || st.Bytes != bytes {
			t.Errorf("%s: %d lines of %d bytes, want %d of %d", query, st.Lines, st.Bytes, lines, bytes)
		}
	}
	f(Forward, 1, 0, 100, `{a="b"}`, 2, 0)
	f(Forward, 7, 0, 100, `{a="b"}`, 8, 0, 1)
	f(Backward, 1, 0, 100, `{a="b"}`, 5, 5)
	f(Backward, 6, 0, 100, `{a="b"}`, 10, 5, 4)
	f(Backward, 100, 0, 100, `{a="b"} |= "nothing"`, 30, 5, 4, 3, 2, 1, 0)
	f(Forward, 100, 7, 11, `{a="b"} |= "nothing"`, 10, 1, 2)
	f(Forward, 1, 7, 100, `{a="b"} |= "z"`, 5, 1)
}

// TestSamplesOfParts counts copies of an entry once, also where one ends a part
// and one begins the next.
func TestSamplesOfParts(t *testing.T) {
	b := newBlock(entry{1, "x", ""}, entry{2, "x", ""}, entry{2, "x", ""}, entry{2, "x", ""}, entry{2, "y", ""}, entry{3, "x", "k=v"}, entry{3, "x", "k=v"}, entry{3, "x", ""})
	expr, err := logql.Parse(`sum(count_over_time({a="b"}[1s]))`)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 9; n++ {
		src := &fake{series: []chunk.Series{{Labels: labels.Labels{{Name: "a", Value: "b"}}, Blocks: []chunk.BlockRef{cut(b, func() int { return n })}}}}
		r, err := newEngine(t, src, nil).RunMetric(context.Background(), MetricRequest{Tenant: "t", Query: expr, Start: 1e8, End: 1e8})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Series) != 1 || r.Series[0].Points[0].Value != 5 || r.Stats.Memory.Lines != 8 {
			t.Errorf("parts of %d entries: got %+v after %d lines, want 5 after 8", n, r.Series, r.Stats.Memory.Lines)
		}
	}
}
