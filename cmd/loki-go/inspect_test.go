package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/ingester/wal"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage/chunk"
)

func wantText(t *testing.T, what, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%s: %q is not in\n%s", what, w, got)
		}
	}
}

func TestInspectChunk(t *testing.T) {
	dir, key, _ := storeOne(t)
	file := filepath.Join(dir, "objects", key)
	code, out, errs := tool(t, "inspect", file, "-entries")
	if code != 0 || errs != "" {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	wantText(t, "file", out, "chunk, ", "tenant      team-a\n", `labels      {app="x", pod="y"}`, "from        2024-05-17T12:00:00.000Z\n",
		"format      4, snappy\n", `["trace" "abc"]`, "entries     3 in 2 blocks\n", "block 1: ", ", 1 entries, 2024-05-17T12:00:02.000000000Z to ",
		`  2024-05-17T12:00:00.000000000Z "first line" trace="abc"`, `"second line"`, `"third line"`)
	code, out, _ = tool(t, "inspect", key, "-data-dir="+dir, "-entries=1", "-json")
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("exit code %d: %v\n%s", code, err, out)
	}
	if b := r.Chunk.Blocks; len(b) != 2 || len(b[0].Content) != 1 || b[0].Content[0].Line != "first line" || b[0].Entries != 2 ||
		len(b[1].Content) != 1 || b[1].Offset != b[0].Offset+b[0].Size || r.Chunk.Tenant != "team-a" || r.Chunk.Key == "" {
		t.Fatalf("printed %s", out)
	}
	code, out, _ = tool(t, "inspect", file)
	if code != 0 || strings.Contains(out, "first line") {
		t.Fatalf("without -entries: exit code %d\n%s", code, out)
	}
}

// TestInspectDamagedChunk: of a chunk that is damaged anywhere, or cut off, the
// rest is shown, and where the damage is; never does it panic.
func TestInspectDamagedChunk(t *testing.T) {
	dir, key, _ := storeOne(t)
	object, err := os.ReadFile(filepath.Join(dir, "objects", key))
	if err != nil {
		t.Fatal(err)
	}
	c, err := chunk.Decode(object)
	if err != nil {
		t.Fatal(err)
	}
	blockAt := bytes.Index(object, c.Blocks[0].Data)
	bad := func(at int) *report {
		b := bytes.Clone(object)
		b[at] ^= 1
		r, err := describe(key, b, allEntries)
		if err != nil {
			t.Fatalf("bit flip at %d: %v", at, err)
		}
		if len(r.Problems) == 0 {
			t.Fatalf("bit flip at %d is not seen", at)
		}
		r.print(&textPrinter{w: new(bytes.Buffer)})
		return r
	}
	for at := range object {
		bad(at)
		if r, err := describe(key, object[:at], allEntries); err != nil || len(r.Problems) == 0 {
			t.Fatalf("cut off at %d: %v, %+v", at, err, r)
		}
		if r, err := describe("some-name", object[:at], allEntries); err == nil && len(r.Problems) == 0 {
			t.Fatalf("cut off at %d, another name: %+v", at, r)
		}
	}
	r := bad(blockAt + 20)
	if b := r.Chunk.Blocks; r.Chunk.Tenant != "team-a" || len(b) != 2 || b[0].Problem == "" || b[0].Content != nil || len(b[1].Content) != 1 {
		t.Errorf("a block is damaged: %+v", r.Chunk)
	}
	wantText(t, "a block is damaged", strings.Join(r.Problems, "\n"), fmt.Sprintf("block 0 at offset %d: checksum differs", blockAt))
	r = bad(30)
	if b := r.Chunk.Blocks; r.Chunk.Tenant != "" || len(b) != 2 || len(b[0].Content) != 2 || b[0].Content[0].Metadata[0] != [2]string{"trace", "abc"} {
		t.Errorf("metadata is damaged: %+v", r.Chunk)
	}
	symbolsAt := r.Chunk.SymbolsOffset
	r = bad(symbolsAt + 3)
	if b := r.Chunk.Blocks; len(b) != 2 || len(b[0].Content) != 2 || b[0].Content[0].Metadata[0] != [2]string{"(symbol 0)", "(symbol 1)"} {
		t.Errorf("symbols are damaged: %+v", r.Chunk)
	}
	wantText(t, "symbols are damaged", strings.Join(r.Problems, "\n"), fmt.Sprintf("symbols at offset %d: checksum differs", symbolsAt))
	r = bad(0)
	if len(r.Chunk.Blocks) != 2 {
		t.Errorf("the first length is damaged: %+v", r.Chunk)
	}
}

func TestInspectIndex(t *testing.T) {
	dir, chunkKey, key := storeOne(t)
	file := filepath.Join(dir, "objects", key)
	k, err := chunk.ParseFileKey(chunkKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{file}, {key, "-data-dir=" + dir}} {
		code, out, errs := tool(t, append([]string{"inspect"}, args...)...)
		if code != 0 || errs != "" {
			t.Fatalf("exit code %d: %s", code, errs)
		}
		wantText(t, args[0], out, "index, ", "table       index_19860\n", "tenant      team-a\n", "version     3, ", "section     postings table: ",
			"label names app, pod\n", "1 series, 1 chunks\n", `{app="x", pod="y"} `, "3 entries, 1 KB, "+k.String())
	}
	object, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := describe("x.tsdb", plain, 0)
	if err != nil || len(whole.Problems) > 0 {
		t.Fatal(whole.Problems, err)
	}
	seriesAt := whole.Index.Series[0].Offset
	seen := 0
	for at := range plain {
		b := bytes.Clone(plain)
		b[at] ^= 1
		r, err := describe("x.tsdb", b, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Problems) > 0 {
			seen++
		}
		if at == int(seriesAt)+10 {
			wantText(t, "a series is damaged", strings.Join(r.Problems, "\n"), fmt.Sprintf("series at offset %d: checksum differs", seriesAt))
			if len(r.Index.Sections) != len(whole.Index.Sections) {
				t.Errorf("a series is damaged: %+v", r.Index)
			}
		}
		if at == len(plain)-10 && len(r.Index.Series) != 1 { // without the table of contents
			t.Errorf("the table of contents is damaged: %+v", r.Index)
		}
		for _, name := range []string{"x.tsdb", "x.tsdb.gz", key} {
			if r, err := describe(name, plain[:at], 0); err != nil || len(r.Problems) == 0 {
				t.Fatalf("%s, cut off at %d: %v, %+v", name, at, err, r)
			}
		}
	}
	if seen < len(plain)*9/10 {
		t.Errorf("%d of %d bit flips are seen", seen, len(plain))
	}
	for at := range object {
		if r, err := describe(key, object[:at], 0); err != nil || len(r.Problems) == 0 {
			t.Fatalf("cut off at %d: %v, %+v", at, err, r)
		}
	}
}

func TestInspectLocalFiles(t *testing.T) {
	dir := t.TempDir()
	l, err := wal.Open(vfs.OS, filepath.Join(dir, "wal"), wal.Options{Sync: wal.SyncNever})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Replay(t.Context(), func(wal.LSN, []byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		ticket, _, err := l.Append(l.CurrentSegment(), bytes.Repeat([]byte{'x'}, 100+i))
		if err != nil {
			t.Fatal(err)
		}
		if err := ticket.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s, _, err := blocks.Open(vfs.OS, filepath.Join(dir, "blocks"), blocks.Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := chunk.Snappy.Compress(nil, chunk.AppendEntry(nil, 1_700_000_000_000_000_000, []byte("a line"), []uint32{7, 8}))
	if err != nil {
		t.Fatal(err)
	}
	b := &blocks.Block{
		Tenant: "team-a", Labels: `{app="x"}`, Stream: 3, Chunk: 4, Codec: uint8(chunk.Snappy), Entries: 1, MinT: 1_700_000_000_000_000_000,
		MaxT: 1_700_000_000_000_000_000, Symbols: []blocks.Symbol{{ID: 7, Text: "trace"}, {ID: 8, Text: "abc"}}, Data: data,
	}
	b.Cover.Add(2, 0, blocks.All)
	if err := s.Append(b); err != nil {
		t.Fatal(err)
	}
	if err := s.Flushed(blocks.Done{ChunkID: blocks.ChunkID{Stream: 3, Chunk: 4}, Refs: []blocks.Ref{b.Ref}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	only := func(pattern string) string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		return found[0]
	}
	for file, want := range map[string][]string{
		only("wal/*.wal"):    {"WAL segment, ", "segment     1, behind segment 0\n", "records     3 with 303 bytes\n", "record 2: 101 bytes at "},
		only("blocks/*.blk"): {"block file, ", "records     2 with 1 entries\n", `block of tenant team-a, stream 3 {app="x"}, chunk 4: `, "WAL records 2 to 2", `"a line" trace="abc"`, "chunk 4 of stream 3 is flushed\n"},
	} {
		code, out, errs := tool(t, "inspect", file, "-entries")
		if code != 0 || errs != "" {
			t.Fatalf("%s: exit code %d: %s\n%s", file, code, errs, out)
		}
		wantText(t, file, out, want...)
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		end := len(bytes.TrimRight(whole, "\x00"))
		seen := 0
		for at := range end {
			b := bytes.Clone(whole)
			b[at] ^= 1
			r, err := describe(file, b, allEntries)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Problems) > 0 {
				seen++
			}
			if _, err := describe(file, whole[:at], allEntries); err != nil {
				t.Fatal(err)
			}
		}
		if seen < end*9/10 {
			t.Errorf("%s: %d of %d bit flips are seen", file, seen, end)
		}
	}
}

func TestInspectCannotRun(t *testing.T) {
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("something else"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir, _, _ := storeOne(t)
	for name, args := range map[string][]string{
		"no name":        {"-json"},
		"no file":        {"nothing", "-data-dir=" + t.TempDir()},
		"no object":      {"nothing", "-data-dir=" + dir},
		"something else": {other},
		"unknown flag":   {other, "-nonsense"},
	} {
		if code, out, errs := tool(t, append([]string{"inspect"}, args...)...); code != 2 || out != "" || !strings.HasPrefix(errs, "loki-go: ") {
			t.Errorf("%s: exit code %d, printed %q, %q", name, code, out, errs)
		}
	}
	if code, out, _ := tool(t, "inspect", "-help"); code != 0 || !strings.Contains(out, "-entries=") {
		t.Errorf("help: exit code %d\n%s", code, out)
	}
}
