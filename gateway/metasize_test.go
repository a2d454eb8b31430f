package gateway

import (
	"strings"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

// metaOf returns the encoded metadata of these pairs.
func metaOf(pairs ...string) []byte {
	bl := push.NewBuilder(push.Get())
	for i := 0; i+1 < len(pairs); i += 2 {
		bl.Pair([]byte(pairs[i]), []byte(pairs[i+1]))
	}
	bl.EntryExact(bl.Stream([]byte("{}")), 1, nil)
	b := bl.Finish()
	return b.Bytes(b.Entries[0].Meta)
}

func TestMetaSize(t *testing.T) {
	f := func(p []byte, pairs, size int) {
		t.Helper()
		if n, s := metaSize(p); n != pairs || s != size {
			t.Fatalf("% x: got %d pairs, %d bytes, want %d, %d", p, n, s, pairs, size)
		}
	}
	f(nil, 0, 0)
	f(metaOf("a", "b"), 1, 2)
	f(metaOf("trace_id", strings.Repeat("f", 32), "level", "info"), 2, 8+32+9)
	f(metaOf("a", ""), 1, 1)
	f(metaOf("a", strings.Repeat("x", 127)), 1, 128)
	f(metaOf("a", strings.Repeat("x", 200), "b", "c"), 2, 203)
	f(metaOf(strings.Repeat("n", 300), "v"), 1, 301)
	f([]byte{0x1a, 0, 0x1a, 0}, 2, 0)                                  // neither name nor value
	f([]byte{0x1a, 6, 0x12, 1, 'v', 0x0a, 1, 'n'}, 1, 2)               // the value first
	f([]byte{0x1a, 8, 0x0a, 1, 'n', 0x12, 1, 'v', 0x18, 0x01}, 1, 2)   // an unknown field
	f([]byte{0x1a, 9, 0x0a, 1, 'n', 0x12, 1, 'v', 0x12, 1, 'w'}, 1, 2) // the value twice
}

func FuzzMetaSize(f *testing.F) {
	f.Add(metaOf("trace_id", "1", "level", "info"))
	f.Add(metaOf("a", strings.Repeat("x", 200), "b", "c"))
	f.Add([]byte{0x1a, 6, 0x12, 1, 'v', 0x0a, 1, 'n'})
	f.Fuzz(func(t *testing.T, p []byte) {
		pairs, size := 0, 0
		for it := push.PairsOf(p); it.Next(); {
			pairs++
			size += len(it.Name) + len(it.Value)
		}
		if n, s := metaSize(p); n != pairs || s != size {
			t.Fatalf("got %d pairs, %d bytes, the iterator finds %d, %d", n, s, pairs, size)
		}
	})
}
