package chunk

import (
	"bytes"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestJoinSums(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 1<<17)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	sum := func(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
	for range 300 {
		whole := b[:r.IntN(len(b)>>r.IntN(17))]
		n := 0
		if len(whole) > 0 {
			n = r.IntN(len(whole) + 1)
		}
		if got, want := joinSums(sum(whole[:n]), sum(whole[n:]), len(whole)-n), sum(whole); got != want {
			t.Fatalf("%d and %d bytes: got %08x, want %08x", n, len(whole)-n, got, want)
		}
	}
}

// TestOpen: every damage is found when the object is opened, that of a block
// which was there when the checksum of the object was taken, too.
func TestOpen(t *testing.T) {
	first := AppendEntry(AppendEntry(nil, 1e9, []byte("first line"), nil), 2e9, []byte("second line"), []uint32{0, 1})
	second := AppendEntry(nil, 7e9, []byte("line of the second block"), nil)
	for _, codec := range Codecs() {
		object := build(t, codec, []string{"name", "value"}, first, second)
		sum := Checksum(object)
		c, err := Open(object, sum)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range [][]byte{first, second} {
			if got, err := c.Content(i, nil); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v, block %d: %q, %v", codec, i, got, err)
			}
		}
		for i := range 8 * len(object) {
			bad := bytes.Clone(object)
			bad[i/8] ^= 1 << (i % 8)
			if _, err := Open(bad, sum); !errors.Is(err, ErrChecksum) {
				t.Fatalf("%v: bit %d of byte %d flipped: %v", codec, i%8, i/8, err)
			}
		}
		for n := range object {
			if _, err := Open(object[:n:n], sum); !errors.Is(err, ErrChecksum) {
				t.Fatalf("%v: the first %d of %d bytes: %v", codec, n, len(object), err)
			}
		}
		for i, b := range c.Blocks {
			bad := bytes.Clone(object)
			bad[bytes.Index(object, b.Data)+len(b.Data)/2] ^= 4
			if _, err := Open(bad, Checksum(bad)); err == nil || !strings.Contains(err.Error(), "block") || !errors.Is(err, errCRC) {
				t.Errorf("%v: block %d was damaged before it was stored: %v", codec, i, err)
			}
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	var blocks []Block
	for i := range 25 {
		data := make([]byte, 45<<10)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		blocks = append(blocks, Block{Entries: 1, MinT: int64(i) * 1e9, MaxT: int64(i) * 1e9, Data: data})
	}
	object, err := Encode(nil, NewMeta("t", mustParse(b, `{app="x"}`), 0, 25e9), ZSTD, nil, blocks)
	if err != nil {
		b.Fatal(err)
	}
	sum := Checksum(object)
	b.SetBytes(int64(len(object)))
	for b.Loop() {
		if _, err := Open(object, sum); err != nil {
			b.Fatal(err)
		}
	}
}
