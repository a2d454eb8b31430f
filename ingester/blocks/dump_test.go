package blocks

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/loki-go/loki-go/internal/vfs"
)

// written returns a file with a block, the note that it is flushed, and another
// block.
func written(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	s, _, err := Open(vfs.OS, dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	one := &Block{Tenant: "a", Labels: `{x="1"}`, Stream: 1, Chunk: 2, Entries: 3, MaxT: 9, Symbols: []Symbol{{4, "s"}}, Data: []byte("some data")}
	one.Cover.Add(5, 0, All)
	two := &Block{Tenant: "b", Labels: `{x="2"}`, Stream: 2, Late: true, Entries: 1, Data: []byte("other")}
	for _, b := range []*Block{one, two} {
		if err := s.Append(b); err != nil {
			t.Fatal(err)
		}
		if b == one {
			if err := s.Flushed(Done{ChunkID{1, 2}, []Ref{b.Ref}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.Cover(Covered{Tenant: "a", Labels: `{x="1"}`, LSN: 9, Entries: []byte("123")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"+FileSuffix))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDump: a file is read to its end; of a damaged one all other records are,
// and where the damage is.
func TestDump(t *testing.T) {
	file := written(t)
	dump := func(b []byte) (all []Dumped, problems []error) {
		problems = Dump("x.blk", b, func(d Dumped) { all = append(all, d) })
		return all, problems
	}
	all, problems := dump(file)
	if len(all) != 4 || all[3].Note != `entries of a {x="1"} are stored by another replica, 3 bytes of names` || len(problems) > 0 || all[0].Block.Tenant != "a" || all[0].Cover != 1 || string(all[0].Block.Data) != "some data" ||
		all[1].Note != "chunk 2 of stream 1 is flushed" || !all[2].Block.Late {
		t.Fatalf("%+v, %v", all, problems)
	}
	for i, d := range all {
		bad := bytes.Clone(file)
		bad[d.Offset+fixed+1] ^= 1 // in its header
		rest, problems := dump(bad)
		if len(rest) != 3 || len(problems) != 1 || problems[0].(*CorruptionError).Offset != d.Offset {
			t.Fatalf("record %d is damaged: %+v, %v", i, rest, problems)
		}
	}
	bad := bytes.Clone(file)
	bad[bytes.Index(bad, []byte("some data"))] ^= 1
	if rest, problems := dump(bad); len(rest) != 4 || rest[0].Err == nil || len(problems) != 1 {
		t.Fatalf("data is damaged: %+v, %v", rest, problems)
	}
}

// FuzzDump: what is shown is within the file and in order.
func FuzzDump(f *testing.F) {
	f.Add(written(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		end := int64(0)
		Dump("x", b, func(d Dumped) {
			if d.Offset < end || d.Offset+int64(d.Size) > int64(len(b)) {
				t.Fatalf("record at %d, after one that ends at %d", d.Offset, end)
			}
			end = d.Offset + int64(d.Size)
		})
	})
}
