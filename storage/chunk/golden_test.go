package chunk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/klauspost/compress/zstd"

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
		if got := string(appendMetadata(nil, &c.Meta)); got != o.MetadataJSON {
			t.Fatalf("%s: metadata %s, want %s", o.Path, got, o.MetadataJSON)
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

// streamZstd compresses as Loki does, through a stream, which does not know
// the size of what is to come and so writes another frame header than
// EncodeAll when there is more than one block in the frame.
func streamZstd(t testing.TB, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestGoldenRebuild(t *testing.T) {
	for _, o := range golden.Load(t, goldenDir, "chunk") {
		c := mustDecode(t, o.Data)
		var blocks []Block
		same := true
		for i, content := range contents(t, c) {
			b, err := NewBlock(c.Codec, nil, content)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Data, c.Blocks[i].Data) {
				same = false
				t.Logf("%s: block %d differs %d %d", o.Path, i, len(b.Data), len(c.Blocks[i].Data))
				if c.Codec == ZSTD {
					b.Data = streamZstd(t, content)
					if !bytes.Equal(b.Data, c.Blocks[i].Data) {
						t.Log("and stream too")
					}
				}
			}
			blocks = append(blocks, b)
		}
		_ = same
		again, err := Encode(nil, c.Meta, c.Codec, c.Symbols, blocks)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, o.Data) {
			t.Logf("%s: rebuilt object differs", o.Path)
		}
	}
}
