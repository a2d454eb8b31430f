package chunk

import (
	"bytes"
	"testing"

	"github.com/loki-go/loki-go/storage/internal/golden"
)

// TestSalvageWhole: of whole objects everything is found, and nothing else.
func TestSalvageWhole(t *testing.T) {
	for _, o := range golden.Load(t, goldenDir, "chunk") {
		s := Salvage(o.Data)
		c, err := Decode(o.Data)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Problems) > 0 || len(s.Blocks) != len(c.Blocks) || KeyOf(o.Data, s.Meta) != KeyOf(o.Data, c.Meta) || len(s.Chunk.Symbols) != len(c.Symbols) {
			t.Fatalf("%s: %v", o.Path, s.Problems)
		}
		end := s.Symbols.Offset + s.Symbols.Len
		for i, b := range s.Blocks {
			want, err := c.Content(i, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.BlockContent(i)
			if err != nil || !bytes.Equal(got, want) || b.Offset != end || !bytes.Equal(o.Data[b.Offset:b.Offset+len(b.Data)], b.Data) {
				t.Fatalf("%s: block %d at %d: %v", o.Path, i, b.Offset, err)
			}
			end += b.Len
		}
		if s.Table.Offset != end || s.Table.Offset+s.Table.Len+trailerSize != s.Size {
			t.Fatalf("%s: table at %d, blocks end at %d", o.Path, s.Table.Offset, end)
		}
	}
}

// FuzzSalvage: whatever Decode takes has no problems outside of its blocks, and
// the other way round.
func FuzzSalvage(f *testing.F) {
	for _, o := range golden.Load(f, goldenDir, "chunk") {
		if len(o.Data) < 2000 {
			f.Add(o.Data)
		}
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		s := Salvage(object)
		blocks := 0
		for i, b := range s.Blocks {
			if b.Err != nil {
				blocks++
				continue
			}
			if _, err := s.BlockContent(i); err != nil {
				t.Fatalf("block %d has no error and cannot be read: %v", i, err)
			}
		}
		if _, err := Decode(object); (err == nil) != (len(s.Problems) == blocks) {
			t.Fatalf("decode: %v, salvage: %v", err, s.Problems)
		}
	})
}
