package blocks

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"

	"github.com/loki-go/loki-go/internal/vfs"
)

func testBlock(n int) *Block {
	b := &Block{
		Tenant: "t", Labels: fmt.Sprintf(`{n="%d"}`, n), Stream: uint64(n + 1), Chunk: uint64(n % 3), Late: n%2 == 1, Codec: 9,
		Entries: 10, MinT: int64(n), MaxT: int64(n) + 5, Size: 100, Opened: 42,
		Symbols: []Symbol{{0, "trace"}, {3, fmt.Sprint("id", n)}},
		Data:    bytes.Repeat([]byte{byte(n), 1, 2}, 50+n),
	}
	b.Cover.Add(uint64(100+n), 0, All)
	b.Cover.Add(uint64(90+n), 2, 7)
	return b
}

func open(t testing.TB, fsys vfs.FS, dir string, size int64) (*Store, *Recovered) {
	t.Helper()
	s, rec, err := Open(fsys, dir, Options{FileSize: size})
	if err != nil {
		t.Fatal(err)
	}
	return s, rec
}

func done(b *Block) Done { return Done{ChunkID{b.Stream, b.Chunk}, []Ref{b.Ref}} }

func same(t testing.TB, s *Store, got, want *Block) {
	t.Helper()
	data, err := s.Read(got.Ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	g, w := *got, *want
	if !bytes.Equal(data, want.Data) {
		t.Fatalf("data of %s differs", want.Labels)
	}
	if g.Symbols, err = s.Symbols(got.Ref); err != nil {
		t.Fatal(err)
	}
	if g.HasSymbols = false; got.HasSymbols && len(g.Symbols) == 0 {
		t.Fatalf("%s lost its symbols", want.Labels)
	}
	g.Ref, w.Ref, g.Data, w.Data = Ref{}, Ref{}, nil, nil
	if !reflect.DeepEqual(g, w) {
		t.Fatalf("got %+v, want %+v", g, w)
	}
}

func TestRoundTripAndRelease(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	s, rec := open(t, vfs.OS, dir, 2000)
	if len(rec.Blocks) != 0 {
		t.Fatal("blocks in an empty directory")
	}
	var all []*Block
	for n := range 40 {
		b := testBlock(n)
		if err := s.Append(b); err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, rec = open(t, vfs.OS, dir, 2000)
	if len(rec.Blocks) != 40 || rec.Corruptions != 0 || rec.TornBytes != 0 {
		t.Fatalf("recovered %d blocks, %d corruptions, %d torn bytes", len(rec.Blocks), rec.Corruptions, rec.TornBytes)
	}
	for n, b := range rec.Blocks {
		same(t, s, b, all[n])
	}
	for n := range 20 {
		if err := s.Flushed(done(rec.Blocks[n])); err != nil {
			t.Fatal(err)
		}
	}
	files := s.Stats().Files
	if err := s.Release(50); err != nil { // the WAL still has what they cover
		t.Fatal(err)
	}
	if n := s.Stats().Files; n != files {
		t.Fatalf("%d of %d files left, want all", n, files)
	}
	if err := s.Release(1000); err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().Files; n >= files {
		t.Fatalf("no file was deleted (%d)", n)
	}
	same(t, s, rec.Blocks[0], all[0]) // still readable through its Ref
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, rec = open(t, vfs.OS, dir, 2000)
	if len(rec.Blocks) != 20 {
		t.Fatalf("%d blocks left, want 20", len(rec.Blocks))
	}
	for n, b := range rec.Blocks {
		same(t, s, b, all[20+n])
	}
	s.Close()
}

func TestCopyOn(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, vfs.OS, dir, 1)
	b := testBlock(1)
	for _, x := range []*Block{b, testBlock(2)} {
		if err := s.Append(x); err != nil {
			t.Fatal(err)
		}
	}
	ref, err := s.Copy(b.Ref)
	if err != nil {
		t.Fatal(err)
	}
	s.Drop(b.Ref)
	want := *b
	b.Ref = ref
	same(t, s, b, &want)
	if err := s.Release(1 << 40); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s, rec := open(t, vfs.OS, dir, 1)
	defer s.Close()
	if len(rec.Blocks) != 2 {
		t.Fatalf("%d blocks, want 2", len(rec.Blocks))
	}
	same(t, s, rec.Blocks[1], &want)
}

// TestCutAnywhere cuts the newest file at every length: whole records in front
// of the cut are there, nothing else is, and nothing panics.
func TestCutAnywhere(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, vfs.OS, dir, 1<<20)
	var ends []int64
	for n := range 3 {
		b := testBlock(n)
		if err := s.Append(b); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, align(b.Ref.off+int64(b.Ref.len)))
	}
	s.Close()
	name := s.path(1)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		d := filepath.Join(t.TempDir(), "x")
		os.Mkdir(d, 0o755)
		os.WriteFile(filepath.Join(d, filepath.Base(name)), whole[:n], 0o644)
		s, rec := open(t, vfs.OS, d, 1<<20)
		want := 0
		for _, e := range ends {
			if int64(n) >= e-7 { // padding may be missing
				want++
			}
		}
		if got := len(rec.Blocks); got != want && !(got == want-1 && int64(n) < ends[want-1]) {
			t.Fatalf("cut at %d: %d blocks, want %d", n, got, want)
		}
		for k, b := range rec.Blocks {
			same(t, s, b, testBlock(k))
		}
		s.Close()
	}
}

// TestFlipAnyByte damages every byte of the newest file: only the record that
// was hit is lost.
func TestFlipAnyByte(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, vfs.OS, dir, 1<<20)
	for n := range 3 {
		if err := s.Append(testBlock(n)); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	name := s.path(1)
	whole, _ := os.ReadFile(name)
	for n := range whole {
		mut := bytes.Clone(whole)
		mut[n] ^= 0x10
		os.WriteFile(name, mut, 0o644)
		s, rec := open(t, vfs.OS, dir, 1<<20)
		if len(rec.Blocks) < 2 {
			t.Fatalf("byte %d: %d of 3 blocks left", n, len(rec.Blocks))
		}
		if len(rec.Blocks) == 2 && rec.Corruptions == 0 && rec.TornBytes == 0 {
			t.Fatalf("byte %d: a block is lost in silence", n)
		}
		for _, b := range rec.Blocks {
			same(t, s, b, testBlock(int(b.Stream-1)))
		}
		s.Close()
	}
}

func TestFailedSyncIsNotTrusted(t *testing.T) {
	failing := false
	fsys := vfs.Fault(vfs.OS, func(op vfs.Op, path string) error {
		if failing && op == vfs.OpDatasync {
			return syscall.EIO
		}
		return nil
	})
	s, _ := open(t, fsys, t.TempDir(), 1<<20)
	defer s.Close()
	b := testBlock(1)
	if err := s.Append(b); err != nil {
		t.Fatal(err)
	}
	failing = true
	if err := s.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	failing = false
	if err := s.Sync(); err == nil {
		t.Fatal("a sync after a failed one succeeded while the blocks in doubt are needed")
	}
	c := testBlock(2)
	if err := s.Append(c); err != nil {
		t.Fatal(err)
	}
	if c.Ref.f == b.Ref.f {
		t.Fatal("appended to a file whose sync failed")
	}
	if err := s.Flushed(done(b)); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Fatalf("sync after all in doubt is flushed: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	full := false
	fsys := vfs.Fault(vfs.OS, func(op vfs.Op, path string) error {
		if full && op == vfs.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	})
	dir := t.TempDir()
	s, _ := open(t, fsys, dir, 1<<20)
	for n := range 9 {
		full = n%3 == 1
		err := s.Append(testBlock(n))
		if full != errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("block %d: %v", n, err)
		}
	}
	full = false
	s.Close()
	s, rec := open(t, vfs.OS, dir, 1<<20)
	defer s.Close()
	if len(rec.Blocks) != 6 || rec.Corruptions != 0 {
		t.Fatalf("%d blocks, %d corruptions", len(rec.Blocks), rec.Corruptions)
	}
}

func TestCover(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var c Cover
		var want []Piece
		for range rng.IntN(20) {
			p := Piece{LSN: 1 + rng.Uint64N(1<<40), To: All}
			if rng.IntN(2) == 0 {
				p.From = rng.Uint32N(1000)
				p.To = p.From + rng.Uint32N(1000)
			}
			c.Add(p.LSN, p.From, p.To)
			want = append(want, p)
		}
		got, err := c.Pieces(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func FuzzScan(f *testing.F) {
	dir := f.TempDir()
	s, _ := open(f, vfs.OS, dir, 1<<20)
	for n := range 3 {
		s.Append(testBlock(n))
	}
	s.Flushed(Done{ChunkID: ChunkID{1, 0}})
	s.CloseChunk(ChunkID{2, 1})
	s.Close()
	whole, err := os.ReadFile(s.path(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Fuzz(func(t *testing.T, p []byte) {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, fmt.Sprintf("%016x%s", 1, suffix)), p, 0o644)
		s, rec, err := Open(vfs.OS, dir, Options{})
		if err != nil {
			return
		}
		defer s.Close()
		for _, b := range rec.Blocks {
			if _, err := s.Read(b.Ref, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Cover.Pieces(nil); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestClosedChunks notes chunks as closed and flushed; Open tells the ones that
// are closed and not flushed, and gives no number twice.
func TestClosedChunks(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, mem, "/b", 1<<20)
	for _, c := range []ChunkID{{1, 4}, {2, 0}} {
		ref, err := s.CloseChunk(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Ensure(ref); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flushed(Done{ChunkID: ChunkID{2, 0}}); err != nil {
		t.Fatal(err)
	}
	// This one is not made durable.
	if _, err := s.CloseChunk(ChunkID{3, 9}); err != nil {
		t.Fatal(err)
	}
	_, rec := open(t, mem.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.DropUnsynced), "/b", 1<<20)
	if want := map[ChunkID]Closing{{1, 4}: {}}; !reflect.DeepEqual(rec.Closed, want) {
		t.Fatalf("closed are %v, want %v", rec.Closed, want)
	}
	if want := map[uint64]uint64{1: 5, 2: 1}; !reflect.DeepEqual(rec.NextChunk, want) {
		t.Fatalf("next numbers are %v, want %v", rec.NextChunk, want)
	}
}

// TestEnsureSyncsOnce asks for what is durable already, and for what is not.
func TestEnsureSyncsOnce(t *testing.T) {
	syncs := 0
	fsys := vfs.Fault(vfs.NewMem(), func(op vfs.Op, path string) error {
		if op == vfs.OpDatasync {
			syncs++
		}
		return nil
	})
	s, _ := open(t, fsys, "/b", 1<<20)
	a, b := testBlock(0), testBlock(1)
	for _, x := range []*Block{a, b} {
		if err := s.Append(x); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := s.Ensure(a.Ref, b.Ref); err != nil {
			t.Fatal(err)
		}
	}
	if syncs != 1 {
		t.Fatalf("%d syncs, want 1", syncs)
	}
}

// TestCopyAndCrash crashes after a block was copied on and before its original
// went: it must come back once.
func TestCopyAndCrash(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, mem, "/b", 200)
	a, b := testBlock(0), testBlock(1)
	for _, x := range []*Block{a, b} {
		if err := s.Append(x); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Copy(a.Ref); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	s, rec := open(t, mem.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.DropUnsynced), "/b", 200)
	if len(rec.Blocks) != 2 || len(rec.Covers) != 2 {
		t.Fatalf("%d blocks and %d covers came back, want 2", len(rec.Blocks), len(rec.Covers))
	}
	same(t, s, rec.Blocks[0], b)
	same(t, s, rec.Blocks[1], a)
	if st := s.Stats(); st.Files < 2 || st.Live >= st.Bytes {
		t.Fatalf("the original counts as needed: %+v", st)
	}
}

// TestReleaseKeepsRecords deletes a file with a part of a flushed chunk: what
// says that it is flushed has to be durable before.
func TestReleaseKeepsRecords(t *testing.T) {
	dirty, removed := false, 0
	fsys := vfs.Fault(vfs.NewMem(), func(op vfs.Op, path string) error {
		switch op {
		case vfs.OpWrite:
			dirty = true
		case vfs.OpDatasync:
			dirty = false
		case vfs.OpRemove:
			if removed++; dirty {
				t.Errorf("%s is removed while records are not durable", path)
			}
		}
		return nil
	})
	s, _ := open(t, fsys, "/b", 200)
	var refs []Ref
	for n := range 4 {
		b := testBlock(n)
		b.Stream, b.Chunk = 1, 0 // one chunk in many files
		if err := s.Append(b); err != nil {
			t.Fatal(err)
		}
		refs = append(refs, b.Ref)
	}
	if err := s.Flushed(Done{ChunkID{1, 0}, refs}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CloseChunk(ChunkID{2, 0}); err != nil { // the newest file is not synced again
		t.Fatal(err)
	}
	if err := s.Release(1 << 40); err != nil {
		t.Fatal(err)
	}
	if removed < 3 {
		t.Fatalf("%d files removed", removed)
	}
}

// TestCovered keeps what other replicas have stored on record for as long as a
// block, or the WAL, may have it.
func TestCovered(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, mem, "/b", 300)
	a, b := testBlock(1), testBlock(2)
	a.Pushes = []byte("names of a")
	for _, x := range []*Block{a, b} {
		if err := s.Append(x); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := s.Pushes(a.Ref); err != nil || string(p) != "names of a" {
		t.Fatalf("%q, %v", p, err)
	}
	if p, err := s.Pushes(b.Ref); err != nil || p != nil {
		t.Fatalf("%q, %v", p, err)
	}
	want := []Covered{
		{Tenant: "t", Labels: `{x="1"}`, LSN: 500, Entries: []byte("first")},
		{Tenant: "t", Labels: `{x="2"}`, LSN: 501, Entries: []byte("second")},
	}
	ref, err := s.Cover(want[0])
	if err != nil {
		t.Fatal(err)
	}
	note, err := s.CloseChunk(ChunkID{7, 8})
	if err != nil {
		t.Fatal(err)
	}
	if ref2, err := s.Cover(want[1]); err != nil || s.Ensure(ref, note, ref2) != nil {
		t.Fatal(err)
	}
	s, rec := open(t, mem.CrashClone(rand.New(rand.NewPCG(1, 1)), vfs.DropUnsynced), "/b", 300)
	if !reflect.DeepEqual(rec.Covered, want) || rec.MaxLSN != 501 || rec.Corruptions != 0 {
		t.Fatalf("%+v", rec)
	}
	if c, ok := rec.Closed[ChunkID{7, 8}]; !ok || c.Covered != 1 {
		t.Fatalf("%+v", rec.Closed)
	}
	same(t, s, rec.Blocks[0], a)
	for _, b := range rec.Blocks {
		s.Drop(b.Ref)
	}
	if err := s.Release(500); err != nil {
		t.Fatal(err)
	}
	if s.Stats().Files == 0 {
		t.Fatal("a record is gone that the WAL may need")
	}
	if err := s.Release(502); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Files != 0 {
		t.Fatalf("%+v is left", st)
	}
}
