package chunk

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/storage/internal/golden"
)

const goldenDir = "../testdata/golden"

// entry is a decoded entry; pairs are name=value in order.
type entry struct {
	ts    int64
	line  string
	pairs string
}

func entries(t testing.TB, content []byte, symbols []string) []entry {
	t.Helper()
	var out []entry
	it := Entries(content)
	for it.Next() {
		e := entry{ts: it.TS, line: string(it.Line)}
		for i := range it.NumPairs {
			e.pairs += symbols[it.Sym(2*i)] + "=" + symbols[it.Sym(2*i+1)] + ";"
		}
		out = append(out, e)
	}
	if it.Err() != nil {
		t.Fatal(it.Err())
	}
	return out
}

func wantEntries(t testing.TB, s golden.Stream) []entry {
	t.Helper()
	var out []entry
	for _, raw := range s.Entries {
		var e entry
		var ts string
		meta := map[string]string{}
		for i, v := range []any{&ts, &e.line, &meta} {
			if i < len(raw) {
				if err := json.Unmarshal(raw[i], v); err != nil {
					t.Fatal(err)
				}
			}
		}
		var err error
		if e.ts, err = strconv.ParseInt(ts, 10, 64); err != nil {
			t.Fatal(err)
		}
		names := make([]string, 0, len(meta))
		for n := range meta {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			e.pairs += n + "=" + meta[n] + ";"
		}
		out = append(out, e)
	}
	return out
}

func mustDecode(t testing.TB, object []byte) *Chunk {
	t.Helper()
	c, err := Decode(object)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func contents(t testing.TB, c *Chunk) [][]byte {
	t.Helper()
	var out [][]byte
	for i := range c.Blocks {
		b, err := c.Content(i, nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

func TestGoldenDecode(t *testing.T) {
	streams := golden.Streams(t, goldenDir)
	for _, o := range golden.Load(t, goldenDir, "chunk") {
		c := mustDecode(t, o.Data)
		if c.Codec != Codec(o.CodecByte) || c.Codec.String() != o.Codec || c.Tenant != o.Tenant {
			t.Fatalf("%s: codec %v, tenant %s", o.Path, c.Codec, c.Tenant)
		}
		if got := fmt.Sprintf("%016x", c.Fingerprint); got != o.Fingerprint || c.Labels.Fingerprint() != c.Fingerprint {
			t.Fatalf("%s: fingerprint %s, of the labels %x", o.Path, got, c.Labels.Fingerprint())
		}
		if !slices.Equal(c.Symbols, o.Symbols) {
			t.Fatalf("%s: symbols %q, want %q", o.Path, c.Symbols, o.Symbols)
		}
		if got, want := string(appendMetadata(nil, &c.Meta)), withoutIngestedAt(o.MetadataJSON); got != want {
			t.Fatalf("%s: metadata %s, want %s", o.Path, got, want)
		}
		key := KeyOf(o.Data, c.Meta)
		if got := fmt.Sprintf("%x", key.Checksum); got != o.ObjectCRC {
			t.Fatalf("%s: checksum %s, want %s", o.Path, got, o.ObjectCRC)
		}
		if got := o.Codec + "/" + key.FileKey(); got != o.Path {
			t.Fatalf("file key %s, want %s", got, o.Path)
		}
		var got []entry
		var counts []int
		for i, content := range contents(t, c) {
			s, err := Inspect(content, len(c.Symbols))
			if err != nil {
				t.Fatal(err)
			}
			b := c.Blocks[i]
			if s != (Stats{b.Entries, b.MinT, b.MaxT, b.Size, true}) {
				t.Fatalf("%s: block %d has %+v, table says %+v", o.Path, i, s, b)
			}
			counts = append(counts, b.Entries)
			got = append(got, entries(t, content, c.Symbols)...)
		}
		s := streams[o.Stream]
		if !slices.Equal(counts, o.BlockEntries) || !slices.Equal(got, wantEntries(t, s)) {
			t.Fatalf("%s: entries differ", o.Path)
		}
		if !slices.Equal(slices.Sorted(mapPairs(c.Labels.Map())), slices.Sorted(mapPairs(s.Labels))) {
			t.Fatalf("%s: labels %v, want %v", o.Path, c.Labels, s.Labels)
		}
	}
}

func mapPairs(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k, v := range m {
			if !yield(k + "=" + v) {
				return
			}
		}
	}
}

// determined reports whether a block's bytes follow from its content. The LZ4
// and zstd libraries are Loki's, but for a newer zstd that finds other matches
// across the border of two 128 KiB blocks; Loki's snappy is another one.
func determined(c Codec, content []byte) bool {
	switch c {
	case None, LZ4x64k, LZ4x256k, LZ4x1M, LZ4:
		return true
	case ZSTD:
		return len(content) <= zstdMaxBlock
	}
	return false
}

func TestGoldenRebuild(t *testing.T) {
	exact := map[Codec]int{}
	for _, o := range golden.Load(t, goldenDir, "chunk") {
		c := mustDecode(t, o.Data)
		all := true
		var ours []Block
		for i, content := range contents(t, c) {
			b, err := NewBlock(c.Codec, nil, content)
			if err != nil {
				t.Fatal(err)
			}
			if determined(c.Codec, content) {
				if !bytes.Equal(b.Data, c.Blocks[i].Data) {
					t.Fatalf("%s: block %d is compressed differently", o.Path, i)
				}
			} else {
				all = false
			}
			ours = append(ours, b)
		}
		again, err := Encode(nil, c.Meta, c.Codec, c.Symbols, ours)
		if err != nil {
			t.Fatal(err)
		}
		want := shorter(o.Data, o.MetadataJSON)
		if all && !bytes.Equal(again, want) {
			t.Fatalf("%s: rebuilt object differs", o.Path)
		}
		if all {
			exact[c.Codec]++
		}
		d := mustDecode(t, again)
		if fmt.Sprint(d.Meta) != fmt.Sprint(c.Meta) || !slices.Equal(d.Symbols, c.Symbols) || !slices.EqualFunc(contents(t, d), contents(t, c), bytes.Equal) {
			t.Fatalf("%s: rebuilt object holds something else", o.Path)
		}
		// With Loki's compressed parts every other byte is determined.
		text := symbolSection(t, o.Data)
		again, err = assemble([]byte("x"), &c.Meta, c.Codec, len(c.Symbols), text, c.Blocks)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again[1:], want) {
			t.Fatalf("%s: object assembled from the original parts differs", o.Path)
		}
	}
	want := map[Codec]int{None: 7, LZ4x64k: 7, LZ4x256k: 7, LZ4x1M: 7, LZ4: 7, ZSTD: 5}
	if fmt.Sprint(exact) != fmt.Sprint(want) {
		t.Fatalf("objects rebuilt exactly: %v, want %v", exact, want)
	}
}

// withoutIngestedAt drops from metadata what the Loki that wrote the files had
// in it, and later ones have not.
func withoutIngestedAt(metadata string) string {
	return strings.Replace(metadata, `"ingestedAt":0,`, "", 1)
}

// shorter returns the object with that left out.
func shorter(object []byte, metadata string) []byte {
	out := appendSnappyFrame(make([]byte, 4), []byte(withoutIngestedAt(metadata)))
	rest := object[binary.BigEndian.Uint32(object):]
	binary.BigEndian.PutUint32(out, uint32(len(out)))
	return append(out, rest...)
}

// symbolSection returns the compressed symbols of an object.
func symbolSection(t testing.TB, object []byte) []byte {
	t.Helper()
	m := binary.BigEndian.Uint32(object)
	inner := object[m+4:]
	n := binary.BigEndian.Uint64(inner[len(inner)-32:])
	s := inner[headSize : headSize+n]
	_, k := binary.Uvarint(s)
	return s[k:]
}
