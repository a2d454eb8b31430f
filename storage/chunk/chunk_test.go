package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/find"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/internal/golden"
)

func mustParse(t testing.TB, s string) labels.Labels {
	t.Helper()
	ls, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

// build makes an object of contents; each becomes a block.
func build(t testing.TB, codec Codec, symbols []string, contents ...[]byte) []byte {
	t.Helper()
	var blocks []Block
	for _, c := range contents {
		b, err := NewBlock(codec, nil, c)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, b)
	}
	m := NewMeta("t", mustParse(t, `{app="x"}`), blocks[0].MinT, blocks[len(blocks)-1].MaxT)
	object, err := Encode(nil, m, codec, symbols, blocks)
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func TestEntries(t *testing.T) {
	var content []byte
	want := []entry{
		{math.MinInt64, "", ""},
		{-1, "\x00\xff", "a=b;"},
		{0, strings.Repeat("x", 300), ""},
		{math.MaxInt64, "last", "a=b;" + "long=" + "c;"},
	}
	symbols := make([]string, 200)
	symbols[0], symbols[1], symbols[199], symbols[198] = "a", "b", "long", "c"
	refs := [][]uint32{nil, {0, 1}, {}, {0, 1, 199, 198}}
	for i, e := range want {
		content = AppendEntry(content, e.ts, []byte(e.line), refs[i])
	}
	if got := entries(t, content, symbols); !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	s, err := Inspect(content, len(symbols))
	if err != nil || s != (Stats{4, math.MinInt64, math.MaxInt64, 2 + 8 + 300 + 4 + 16, true}) {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := Inspect(content, 199); !errors.Is(err, ErrContent) {
		t.Fatalf("symbol 199 of 199: %v", err)
	}
	// Backwards, and the last one again.
	it := Entries(content)
	for it.Next() {
	}
	it = Entries(content[it.Off:])
	if !it.Next() || it.Sym(3) != 198 || it.Sym(0) != 0 || it.Sym(2) != 199 || it.Sym(2) != 199 {
		t.Fatal("references out of order differ")
	}
	if n := testing.AllocsPerRun(10, func() {
		for it := Entries(content); it.Next(); {
			for i := range 2 * it.NumPairs {
				_ = it.Sym(i)
			}
		}
	}); n != 0 {
		t.Fatalf("iterating allocates %v times", n)
	}
}

func TestEntriesMalformed(t *testing.T) {
	good := AppendEntry(nil, 5, []byte("line"), []uint32{1, 300})
	f := func(content []byte, what string) {
		t.Helper()
		it := Entries(append(bytes.Clone(good), content...))
		n := 0
		for it.Next() {
			n++
		}
		if n != 1 || !errors.Is(it.Err(), ErrContent) || !strings.Contains(it.Err().Error(), what) {
			t.Fatalf("%x: %d entries, %v, want an error about %s", content, n, it.Err(), what)
		}
		if it.Next() {
			t.Fatalf("%x: goes on after an error", content)
		}
	}
	for n := 1; n < len(good); n++ {
		f(good[:n], fmt.Sprintf("offset %d", len(good)))
	}
	f(bytes.Repeat([]byte{0xff}, 11), "time")
	f([]byte{2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 'x'}, "line")
	f([]byte{2, 1, 'x', 0}, "metadata")                                     // no count
	f([]byte{2, 1, 'x', 2, 0, 0}, "metadata")                               // bytes behind the pairs
	f([]byte{2, 1, 'x', 3, 2, 0, 0}, "metadata")                            // too few references
	f([]byte{2, 1, 'x', 3, 1, 0, 0x80}, "metadata")                         // cut reference
	f([]byte{2, 1, 'x', 7, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x1f}, "metadata") // 33 bits
	f([]byte{2, 1, 'x', 8, 1, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0}, "metadata")
}

func TestSortContent(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var content []byte
		var want []entry
		for i := range r.IntN(40) {
			e := entry{ts: int64(r.IntN(8)), line: fmt.Sprint(i)}
			content = AppendEntry(content, e.ts, []byte(e.line), nil)
			want = append(want, e)
		}
		slices.SortStableFunc(want, func(a, b entry) int { return int(a.ts - b.ts) })
		got := SortContent([]byte("pre"), append(content, 0xff))
		if string(got[:3]) != "pre" || got[len(got)-1] != 0xff {
			t.Fatalf("%q", got)
		}
		if got := entries(t, got[3:len(got)-1], nil); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func TestSymbols(t *testing.T) {
	s := NewSymbols(nil)
	for round := range 2 {
		for i := range 100 {
			if got := s.Intern(fmt.Appendf(nil, "symbol-%d", i)); got != uint32(i) {
				t.Fatalf("round %d: symbol %d has number %d", round, i, got)
			}
		}
	}
	early := s.List()
	if s.Intern(nil) != 100 || s.Intern([]byte("")) != 100 || s.Len() != 101 || s.Bytes() != 10*8+90*9 {
		t.Fatalf("%d symbols of %d bytes", s.Len(), s.Bytes())
	}
	if len(early) != 100 || len(s.List()) != 101 {
		t.Fatal("a list given out changed")
	}
	for _, n := range []int{0, 3, 101} {
		c := NewSymbols(s.List()[:n])
		for i, v := range s.List() {
			if got := c.Intern([]byte(v)); got != uint32(i) {
				t.Fatalf("table resumed with %d: %q has number %d, want %d", n, v, got, i)
			}
		}
		if c.Bytes() != s.Bytes() {
			t.Fatalf("table resumed with %d: %d bytes, want %d", n, c.Bytes(), s.Bytes())
		}
	}
	hit := []byte("symbol-42")
	if n := testing.AllocsPerRun(10, func() { s.Intern(hit) }); n != 0 {
		t.Fatalf("a hit allocates %v times", n)
	}
}

func TestBounds(t *testing.T) {
	f := func(first, last, from, through int64) {
		t.Helper()
		if a, b := Bounds(first, last); a != from || b != through {
			t.Fatalf("%d to %d ns: %d to %d ms, want %d to %d", first, last, a, b, from, through)
		}
	}
	f(0, 0, 0, 1)
	f(999_999, 1_000_000, 0, 2)
	f(1_000_000, 1_000_001, 1, 2)
	f(-1, -1, -1, 0)
	f(-1_000_000, -1_000_000, -1, 0)
	f(-1_000_001, -999_999, -2, 0)
}

func TestKey(t *testing.T) {
	k := Key{"golden-a", 0x1372f89b3ccb0f15, 0x1a2008d6c30, 0x1a2008d7402, 0xd455c199}
	const text = "golden-a/1372f89b3ccb0f15/1a2008d6c30:1a2008d7402:d455c199"
	const file = "golden-a/1372f89b3ccb0f15/MWEyMDA4ZDZjMzA6MWEyMDA4ZDc0MDI6ZDQ1NWMxOTk="
	if k.String() != text || k.FileKey() != file {
		t.Fatalf("%s, %s", k, k.FileKey())
	}
	for _, k := range []Key{k, {"fake", 0, 0, 1, 0}, {"!-_.*'()", 1<<64 - 1, -5, -4, 1}} {
		if got, err := ParseKey(k.String()); err != nil || got != k {
			t.Fatalf("%s: %v, %v", k, got, err)
		}
		if got, err := ParseFileKey(k.FileKey()); err != nil || got != k {
			t.Fatalf("%s: %v, %v", k.FileKey(), got, err)
		}
	}
	for _, s := range []string{
		"", "a", "a/b", "/1/1:2:3", "t/1/1:2", "t/1/1:2:3:4", "t/1/1:2:100000000", "t/x/1:2:3", "t/1/1:x:3",
		"t/01/1:2:3", "t/1/1:2:03", "t/1/+1:2:3", "t/A/1:2:3", "t/1/1:2:3/4", "index/index_1/123-x.tsdb.gz", file,
	} {
		if k, err := ParseKey(s); err == nil {
			t.Fatalf("%q parses to %v", s, k)
		}
	}
	for _, s := range []string{text, "golden-a/1/!!!!", "golden-a/1/MTI="} {
		if k, err := ParseFileKey(s); err == nil {
			t.Fatalf("%q parses to %v", s, k)
		}
	}
}

func TestMetadata(t *testing.T) {
	f := func(m Meta, want string) {
		t.Helper()
		got := appendMetadata(nil, &m)
		if string(got) != want+"\n" {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
		back, err := parseMetadata(got)
		if err != nil {
			t.Fatal(err)
		}
		m.Labels = slices.DeleteFunc(slices.Clone(m.Labels), func(l labels.Label) bool { return l.Name == labels.MetricName })
		if fmt.Sprintf("%+v", back) != fmt.Sprintf("%+v", m) {
			t.Fatalf("read back %+v, want %+v", back, m)
		}
	}
	f(Meta{"t", labels.Labels{}, 0, 0, 1},
		`{"fingerprint":0,"userID":"t","from":0,"through":0.001,"metric":{"__name__":"logs"},"encoding":129}`)
	f(Meta{"t", mustParse(t, `{A="1", a="<é>&\"\\\n\r\t\x01\x7f\xff\u2028"}`), 1<<64 - 1, -1500, 1795305600120},
		`{"fingerprint":18446744073709551615,"userID":"t","from":-1.500,"through":1795305600.120,"metric":{"A":"1","__name__":"logs","a":"<é>&\"\\\n\r\t\u0001`+"\x7f\xff\u2028"+`"},"encoding":129}`)
	f(Meta{"t", mustParse(t, `{__name__="other", __a="1", _z="2"}`), 1, -9007199254740580, 9007199254740579},
		`{"fingerprint":1,"userID":"t","from":-9007199254740.580,"through":9007199254740.579,"metric":{"__a":"1","__name__":"logs","_z":"2"},"encoding":129}`)
	// Another writer's order, white space, escapes and numbers.
	m, err := parseMetadata([]byte(` { "encoding" : 129.0 , "x":[1,{"y":[]},null,"\/"], "metric":{"a":"\u00e9\ud83d\ude00\ud83d\b\f"},"through":1.7953056e9,
		"from":12.5,"userID":"t","fingerprint":7,"y":{},"z":-1e3,"ok":true} `))
	if err != nil || m.From != 12500 || m.Through != 1795305600000 || m.Labels.Get("a") != "é😀\ufffd\b\f" || m.Fingerprint != 7 {
		t.Fatalf("%+v, %v", m, err)
	}
}

func TestMetadataErrors(t *testing.T) {
	good := `{"fingerprint":1,"userID":"t","from":0,"through":1,"metric":{},"encoding":129,"x":XXX}`
	for _, x := range []string{
		``, `{`, `[`, `[1`, `[1 2]`, `"a`, `"\`, `"\x"`, `"\u12"`, "\"\x01\"", `nul`, `-`, `{"a"}`, `{"a":1,}`, `{1:2}`, `1 1`,
		strings.Repeat("[", 100) + strings.Repeat("]", 100), strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100),
	} {
		if m, err := parseMetadata([]byte(strings.Replace(good, "XXX", x, 1))); err == nil {
			t.Fatalf("%s: accepted as %+v", x, m)
		}
	}
	good = strings.Replace(good, "XXX", "1", 1)
	for _, r := range [][2]string{
		{`"fingerprint":1,`, ``},
		{`"userID":"t",`, ``},
		{`"from":0,`, ``},
		{`"through":1,`, ``},
		{`"metric":{},`, ``},
		{`129`, `1`},
		{`:1,"userID"`, `:-1,"userID"`},
		{`"from":0`, `"from":""`},
		{`"from":0`, `"from":1e300`},
		{`"from":0`, `"from":-`},
		{`{}`, `[]`},
		{`{}`, `{"a":1}`},
	} {
		if m, err := parseMetadata([]byte(strings.Replace(good, r[0], r[1], 1))); err == nil {
			t.Fatalf("%s instead of %s: accepted as %+v", r[1], r[0], m)
		}
	}
	if _, err := parseMetadata([]byte(good)); err != nil {
		t.Fatal(err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	content := AppendEntry(AppendEntry(nil, 5e6, []byte("a"), nil), 9e6, []byte("b"), nil)
	b, err := NewBlock(None, nil, content)
	if err != nil {
		t.Fatal(err)
	}
	m := NewMeta("t", nil, 5e6, 9e6)
	f := func(what string, m Meta, c Codec, blocks ...Block) {
		t.Helper()
		if _, err := Encode(nil, m, c, nil, blocks); err == nil {
			t.Fatalf("%s: no error", what)
		}
	}
	f("no blocks", m, None)
	f("codec", m, 2, b)
	f("block without entries", m, None, b, Block{MinT: 9e6, MaxT: 9e6})
	f("disorder", m, None, Block{1, 8e6, 9e6, 1, nil}, Block{1, 7e6, 9e6, 1, nil})
	f("before from", NewMeta("t", nil, 6e6, 9e6), None, b)
	f("behind through", NewMeta("t", nil, 5e6, 7e6), None, b)
	if _, err := NewBlock(None, nil, SortContent(nil, nil)); err == nil {
		t.Fatal("empty block")
	}
	if _, err := NewBlock(None, nil, append(content[len(content)-len(content)/2:], content...)); err == nil {
		t.Fatal("unsorted block")
	}
	if _, err := NewBlock(None, nil, []byte{1}); err == nil {
		t.Fatal("malformed block")
	}
}

func TestRoundTrip(t *testing.T) {
	symbols := []string{"trace_id", "abc", "", "user"}
	first := AppendEntry(nil, -3, nil, nil)
	first = AppendEntry(first, -3, nil, []uint32{0, 1, 3, 2})
	second := AppendEntry(nil, 7e9, []byte("line"), nil)
	for _, c := range Codecs() {
		for _, syms := range [][]string{symbols, {"trace_id", "abc", "", "user", strings.Repeat("y", 100_000)}} {
			d := mustDecode(t, build(t, c, syms, first, second))
			if !slices.Equal(d.Symbols, syms) || d.From != -1 || d.Through != 7001 || d.NumEntries() != 3 {
				t.Fatalf("%v: %+v", c, d)
			}
			got := contents(t, d)
			if !bytes.Equal(got[0], first) || !bytes.Equal(got[1], second) {
				t.Fatalf("%v: other content", c)
			}
			ref := d.Ref(1)
			content, s, err := ref.Load([]byte("pre"))
			if mint, maxt := ref.Bounds(); err != nil || mint != 7e9 || maxt != 7e9 || ref.NumEntries() != 1 ||
				string(content) != "pre"+string(second) || !slices.Equal(s, syms) {
				t.Fatalf("%v: %q, %v", c, content, err)
			}
			if KB(d.SymbolBytes(), d.Blocks) != uint32((d.SymbolBytes()+16+4+512)/1024) {
				t.Fatalf("%v: %d KB", c, KB(d.SymbolBytes(), d.Blocks))
			}
		}
		if d := mustDecode(t, build(t, c, nil, second)); len(d.Symbols) != 0 {
			t.Fatalf("%v: symbols %q", c, d.Symbols)
		}
	}
}

// view is everything that a reader can get out of an object.
func view(object []byte) (string, error) {
	c, err := Decode(object)
	if err != nil {
		return "", err
	}
	s := fmt.Sprintf("%s %s %d %d %d %q", c.Tenant, c.Labels, c.Fingerprint, c.From, c.Through, c.Symbols)
	for i := range c.Blocks {
		content, err := c.Content(i, nil)
		if err != nil {
			return "", err
		}
		s += fmt.Sprintf(" %d %x", i, content)
	}
	return s, nil
}

func TestBitFlips(t *testing.T) {
	symbols := []string{"trace_id", "abc"}
	first := AppendEntry(AppendEntry(nil, 1e9, []byte("first line of the first block"), nil), 2e9, []byte("second line"), []uint32{0, 1})
	second := AppendEntry(nil, 7e9, []byte("line of the second block"), nil)
	for _, c := range Codecs() {
		object := build(t, c, symbols, first, second)
		want, err := view(object)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 * len(object) {
			bad := bytes.Clone(object)
			bad[i/8] ^= 1 << (i % 8)
			if got, err := view(bad); err == nil && got != want {
				t.Fatalf("%v: bit %d of byte %d flipped: accepted with other content\n%s\n%s", c, i%8, i/8, got, want)
			}
		}
		for n := range object {
			if _, err := view(object[:n:n]); err == nil {
				t.Fatalf("%v: the first %d of %d bytes are accepted", c, n, len(object))
			}
			if _, err := view(append(object[:n:n], object[n+1:]...)); err == nil {
				t.Fatalf("%v: accepted without byte %d", c, n)
			}
		}
		if _, err := view(append(bytes.Clone(object), 0)); err == nil {
			t.Fatalf("%v: accepted with one byte more", c)
		}
	}
}

// TestFind: the place of a text is that in the content, and content without it
// is as damaged with a bit flipped as any other.
func TestFind(t *testing.T) {
	first := AppendEntry(AppendEntry(nil, 1e9, []byte("first line"), nil), 2e9, []byte("the needle is here"), nil)
	second := AppendEntry(nil, 7e9, []byte("line of the second block"), nil)
	for _, codec := range Codecs() {
		object := build(t, codec, nil, first, second)
		c, err := Decode(object)
		if err != nil {
			t.Fatal(err)
		}
		f := func(block int, text string, want int) {
			t.Helper()
			finder := find.New([]byte(text))
			content, at, err := c.Find(block, []byte("before"), &finder)
			if whole := [][]byte{first, second}[block]; err != nil || at != want || string(content) != "before"+string(whole) {
				t.Errorf("%v, %q: at %d, want %d; %q, %v", codec, text, at, want, content, err)
			}
		}
		f(0, "needle", bytes.Index(first, []byte("needle")))
		f(0, "", 0)
		f(0, "second block", -1)
		f(1, "needle", -1)
		needle := find.New([]byte("needle"))
		for i := range 8 * (len(c.Blocks[1].Data) + crcSize) {
			bad := bytes.Clone(object)
			bad[bytes.Index(object, c.Blocks[1].Data)+i/8] ^= 1 << (i % 8)
			damaged, err := Decode(bad)
			if err != nil {
				t.Fatal(err)
			}
			if content, at, err := damaged.Find(1, nil, &needle); err == nil || at >= 0 || len(content) > 0 {
				t.Fatalf("%v: bit %d flipped: found at %d in %q, %v", codec, i, at, content, err)
			}
		}
	}
}

// TestGoldenBitFlips samples the flips of large objects.
func TestGoldenBitFlips(t *testing.T) {
	for _, o := range golden.Load(t, goldenDir, "chunk") {
		if o.Tenant != "golden-a" || len(o.Data) > 2000 {
			continue
		}
		want, err := view(o.Data)
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(o.Data) {
			bad := bytes.Clone(o.Data)
			bad[i] ^= 1 << (i % 8)
			if got, err := view(bad); err == nil && got != want {
				t.Fatalf("%s: bit %d of byte %d flipped: accepted with other content", o.Path, i%8, i)
			}
		}
	}
}

// TestForged has objects with right checksums and wrong values.
func TestForged(t *testing.T) {
	content := AppendEntry(AppendEntry(nil, 5, []byte("a"), []uint32{0, 1}), 6, []byte("b"), nil)
	m := NewMeta("t", nil, 5, 6)
	good := Block{Entries: 2, MinT: 5, MaxT: 6, Size: 10, Data: content}
	f := func(what string, symbols int, text string, b Block) {
		t.Helper()
		object, err := assemble(nil, &m, None, symbols, []byte(text), []Block{b})
		if err != nil {
			t.Fatal(err)
		}
		_, err = view(object)
		if (err == nil) != (what == "") {
			t.Fatalf("%s: %v", what, err)
		}
	}
	const text = "\x01x\x01y"
	with := func(f func(*Block)) Block { b := good; f(&b); return b }
	f("", 2, text, good)
	f("", 2, text, with(func(b *Block) { b.MinT, b.MaxT = 0, 100 }))
	f("a symbol less", 1, text, good)
	f("a symbol more", 3, text, good)
	f("many symbols", math.MaxInt, text, good)
	f("long symbol", 2, "\xff\xff\xff\xff\xff\x01x\x01y", good)
	f("symbol out of range", 1, "\x01x", good)
	f("an entry less", 2, text, with(func(b *Block) { b.Entries = 1 }))
	f("no entries", 2, text, with(func(b *Block) { b.Entries = 0 }))
	f("many entries", 2, text, with(func(b *Block) { b.Entries = math.MaxInt }))
	f("small", 2, text, with(func(b *Block) { b.Size, b.Entries = 0, 0 }))
	f("huge", 2, text, with(func(b *Block) { b.Size = math.MaxInt }))
	f("bounds the wrong way", 2, text, with(func(b *Block) { b.MinT, b.MaxT = 6, 5 }))
	f("late bounds", 2, text, with(func(b *Block) { b.MinT = 6 }))
	f("early bounds", 2, text, with(func(b *Block) { b.MaxT = 5 }))
	f("disorder", 2, text, with(func(b *Block) { b.Data = append(content[11:len(content):len(content)], content[:11]...) }))
}

func TestMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 200 {
		var contents [][]byte
		var all, want []entry
		for range r.IntN(6) {
			var content []byte
			var in []entry
			for range r.IntN(60) {
				e := entry{ts: int64(r.IntN(1 + round)), line: fmt.Sprint(r.IntN(12))}
				if r.IntN(3) == 0 {
					e.pairs = "a=b;"
				}
				in = append(in, e)
			}
			slices.SortStableFunc(in, func(a, b entry) int { return int(a.ts - b.ts) })
			for _, e := range in {
				var refs []uint32
				if e.pairs != "" {
					refs = []uint32{0, 1}
				}
				content = AppendEntry(content, e.ts, []byte(e.line), refs)
			}
			contents = append(contents, content)
			all = append(all, in...)
		}
		slices.SortStableFunc(all, func(a, b entry) int { return int(a.ts - b.ts) })
		seen := map[entry]bool{}
		for _, e := range all {
			if !seen[e] {
				seen[e] = true
				want = append(want, e)
			}
		}
		blockSize := 1 + r.IntN(400)
		blocks, err := Merge(Snappy, contents, blockSize)
		if err != nil {
			t.Fatal(err)
		}
		var got []entry
		for i, b := range blocks {
			content, err := Snappy.Decompress(nil, b.Data, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Inspect(content, 2)
			if err != nil || s != (Stats{b.Entries, b.MinT, b.MaxT, b.Size, true}) {
				t.Fatalf("block %+v holds %+v, %v", b, s, err)
			}
			if i < len(blocks)-1 && b.Size < blockSize && len(content) < 2*blockSize || b.Size > blockSize+10 {
				t.Fatalf("block %d of %d has %d bytes, asked for %d", i, len(blocks), b.Size, blockSize)
			}
			got = append(got, entries(t, content, []string{"a", "b"})...)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("round %d: got %v, want %v", round, got, want)
		}
	}
}

func TestMergeErrors(t *testing.T) {
	good := AppendEntry(nil, 5, []byte("a"), nil)
	later := AppendEntry(nil, 6, []byte("b"), nil)
	for what, contents := range map[string][][]byte{
		"malformed":           {good, {1}},
		"malformed, second":   {good, append(bytes.Clone(later), 0xff)},
		"not in order":        {append(bytes.Clone(later), good...)},
		"not in order, among": {good, append(bytes.Clone(later), good...), later},
	} {
		if _, err := Merge(None, contents, 100); err == nil {
			t.Fatalf("%s: no error", what)
		}
	}
	if _, err := Merge(2, [][]byte{good}, 100); err == nil {
		t.Fatal("unknown codec: no error")
	}
	if b, err := Merge(None, nil, 100); err != nil || len(b) != 0 {
		t.Fatalf("nothing: %v, %v", b, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, o := range golden.Load(f, goldenDir, "chunk") {
		if len(o.Data) < 2000 {
			f.Add(o.Data)
		}
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		c, err := Decode(object)
		if err != nil {
			return
		}
		var blocks []Block
		for i := range c.Blocks {
			content, err := c.Content(i, nil)
			if err != nil {
				return
			}
			b, err := NewBlock(c.Codec, nil, content)
			if err != nil {
				t.Fatal(err)
			}
			blocks = append(blocks, b)
		}
		again, err := Encode(nil, c.Meta, c.Codec, c.Symbols, blocks)
		if err != nil {
			return // no entries, or bounds of the metadata that do not fit
		}
		a, errA := view(object)
		b, errB := view(again)
		if errA != nil || errB != nil || a != b {
			t.Fatalf("%v, %v\n%s\n%s", errA, errB, a, b)
		}
	})
}

// FuzzInner fuzzes what is under the envelope, with its checksums put right.
func FuzzInner(f *testing.F) {
	for _, o := range golden.Load(f, goldenDir, "chunk") {
		if len(o.Data) < 2000 {
			m := binary.BigEndian.Uint32(o.Data)
			f.Add(o.Data[m+4:])
		}
	}
	f.Fuzz(func(t *testing.T, inner []byte) {
		inner = bytes.Clone(inner)
		fixCRCs(inner)
		c := new(Chunk)
		if err := c.decodeInner(inner, 0); err != nil {
			return
		}
		for i := range c.Blocks {
			content, err := c.Content(i, nil)
			if err != nil {
				continue
			}
			_ = entries(t, content, c.Symbols)
		}
	})
}

// fixCRCs corrects the checksums that can be found.
func fixCRCs(b []byte) {
	if len(b) < headSize+trailerSize+8 {
		return
	}
	end := len(b) - trailerSize
	fix := func(from, n uint64) {
		if from <= uint64(end) && n <= uint64(end) && from+n+crcSize <= uint64(end) {
			binary.BigEndian.PutUint32(b[from+n:], Checksum(b[from:from+n]))
		}
	}
	fix(headSize, binary.BigEndian.Uint64(b[end:]))
	off := binary.BigEndian.Uint64(b[end+24:])
	if off > uint64(end) {
		return
	}
	r := reader{b: b[off:end]}
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		_, _, _ = r.uvarint(), r.varint(), r.varint()
		at, _, size := r.uvarint(), r.uvarint(), r.uvarint()
		fix(at, size)
	}
	fix(off, binary.BigEndian.Uint64(b[end+16:]))
}

func FuzzContent(f *testing.F) {
	f.Add(AppendEntry(AppendEntry(nil, 5, []byte("line"), []uint32{0, 1, 300, 4}), -5, nil, nil), uint16(3))
	f.Add(benchContent(f, 2000), uint16(100))
	f.Fuzz(func(t *testing.T, content []byte, split uint16) {
		s, err := Inspect(content, -1)
		sorted := SortContent(nil, content)
		if len(sorted) != len(content) {
			t.Fatalf("%d bytes sorted are %d", len(content), len(sorted))
		}
		if err != nil {
			return
		}
		again, err := Inspect(sorted, -1)
		s.Sorted = true
		if err != nil || again != s {
			t.Fatalf("%+v sorted is %+v, %v", s, again, err)
		}
		blocks, err := Merge(None, [][]byte{sorted, sorted}, int(split))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, b := range blocks {
			n += b.Entries
		}
		if n > s.Entries {
			t.Fatalf("%d entries merged with themselves are %d", s.Entries, n)
		}
	})
}

func FuzzMetadata(f *testing.F) {
	for _, o := range golden.Load(f, goldenDir, "chunk") {
		f.Add([]byte(o.MetadataJSON))
	}
	f.Add([]byte(`{"x":[{"y":null}],"fingerprint":1,"userID":"\u00e9","from":-1.5e3,"through":1,"metric":{"a":"b"},"encoding":129}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMetadata(b)
		if err != nil {
			return
		}
		again, err := parseMetadata(appendMetadata(nil, &m))
		if err != nil || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", m) {
			t.Fatalf("%+v, %v, want %+v", again, err, m)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	content := benchContent(b, 256<<10)
	bl, err := NewBlock(ZSTD, nil, content)
	if err != nil {
		b.Fatal(err)
	}
	blocks := slices.Repeat([]Block{bl}, 16)
	symbols := make([]string, 500)
	for i := range symbols {
		symbols[i] = fmt.Sprintf("%032x", uint64(i)*0x9e3779b97f4a7c15)
	}
	m := NewMeta("tenant", mustParse(b, `{app="api", env="prod", host="h1"}`), bl.MinT, bl.MaxT)
	var object []byte
	for b.Loop() {
		if object, err = Encode(object[:0], m, ZSTD, symbols, blocks); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(object)))
	b.ReportAllocs()
}

func BenchmarkDecodeContent(b *testing.B) {
	content := benchContent(b, 256<<10)
	for _, codec := range []Codec{Snappy, ZSTD} {
		c := mustDecode(b, build(b, codec, nil, content))
		b.Run(codec.String(), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				var err error
				if dst, err = c.Content(0, dst[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkInspect(b *testing.B) {
	content := benchContent(b, 256<<10)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Inspect(content, 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendEntry(b *testing.B) {
	line := bytes.Repeat([]byte("x"), 120)
	refs := []uint32{0, 1, 2, 300}
	var dst []byte
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	ts := int64(1_700_000_000_000_000_000)
	for b.Loop() {
		if len(dst) > 256<<10 {
			dst = dst[:0]
		}
		ts++
		dst = AppendEntry(dst, ts, line, refs)
	}
}

func BenchmarkSortContent(b *testing.B) {
	content := benchContent(b, 256<<10)
	half := Entries(content)
	for half.Next() && half.Off < len(content)/2 {
	}
	content = append(bytes.Clone(content[half.Off:]), content[:half.Off]...)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		dst = SortContent(dst[:0], content)
	}
}

// BenchmarkMerge puts ten small blocks into one; the codec costs nothing.
func BenchmarkMerge(b *testing.B) {
	var contents [][]byte
	total := 0
	for range 10 {
		contents = append(contents, benchContent(b, 25<<10))
		total += len(contents[0])
	}
	for i, c := range contents {
		// Other times, so that nothing is a duplicate.
		var moved []byte
		for it := Entries(c); it.Next(); {
			moved = AppendEntry(moved, it.TS+int64(i), it.Line, nil)
		}
		contents[i] = moved
	}
	b.SetBytes(int64(total))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Merge(None, contents, 256<<10); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIntern(b *testing.B) {
	s := NewSymbols(nil)
	var names [][]byte
	for i := range 1000 {
		names = append(names, fmt.Appendf(nil, "trace-%d", i))
		s.Intern(names[i])
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Intern(names[i%len(names)])
		i++
	}
}
