// Package blocks keeps cut blocks on local disk until they are flushed.
//
// A block is written once, when it is cut, to the newest of a row of
// append-only files, and is never rewritten by checkpoints. Beside the
// compressed entries it carries all that is needed to rebuild the ingester's
// state without any other file: tenant, labels, chunk, symbols, and which
// pushes its entries came with (Cover), so that a replay of the WAL can leave
// those out.
//
// Appends reach the operating system; Sync makes them durable, and the WAL may
// be truncated only after it. A file is synced before its successor is
// created, and every file begins by saying how far its predecessor was synced.
// So a crash can damage the newest file only, which is verified to the last
// byte when the store is opened; the others are verified by their headers, and
// by their data where a sync had failed (data is checked whenever it is read,
// too). After a failed sync Sync goes on failing until all that was in doubt is
// flushed: the WAL keeps what it covers for as long.
//
// Files are deleted oldest first: when all blocks in a file are flushed and
// the WAL no longer has any record that they cover (the WAL would otherwise
// bring back what is long stored). Which chunks are flushed is itself recorded
// in the files, and those records are durable before a file goes; losing one
// to a crash costs a second, identical upload. For it to be identical, a chunk
// is recorded as closed, and its blocks are made durable (Ensure), before it is
// uploaded: nothing is added to it after a restart.
//
// A block that was copied on (Copy) may be found twice after a crash; Open keeps
// the later one.
//
// # Format
//
// A file "NNNNNNNNNNNNNNNN.blk" (hexadecimal sequence number) is a row of
// records, each padded with zeros to a multiple of 8 bytes. Integers are
// little-endian.
//
//	u32 magic 0x6B4C4247 · u32 crc32c(header, from here) · u32 header length ·
//	u32 data length · u32 crc32c(data) · u8 type · header · data
//
// The header of a block (type 1) is described at Block.encode, that of a
// flushed chunk (type 2) and of a closed one (type 4) is uvarint stream ·
// uvarint chunk, that of entries that another replica has stored (type 5) is
// described at Covered.encode, that of a link (type 3, first in a file) uvarint sequence
// number of the predecessor · uvarint bytes of it that were synced; all without
// data.
// A record that does not check out is reported, counted, and skipped by
// looking for the next magic that starts a valid header.
package blocks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/loki-go/loki-go/internal/vfs"
)

const (
	magic      = 0x6B4C4247
	fixed      = 21 // bytes before the header
	typeBlock  = 1
	typeFlush  = 2
	typeLink   = 3
	typeClose  = 4
	typeCover  = 5
	maxHeader  = 64 << 20
	suffix     = ".blk"
	defaultMax = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CorruptionError says where a file does not check out.
type CorruptionError struct {
	File   string
	Offset int64
	Reason string
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("blocks: %s: offset %d: %s", e.File, e.Offset, e.Reason)
}

// Options configure a Store. Zero values give defaults.
type Options struct {
	FileSize int64 // start a new file past this size, bytes; 64 MiB
	Log      *slog.Logger
}

// Store is a directory of block files. It is safe for concurrent use.
type Store struct {
	fs  vfs.FS
	dir string
	o   Options

	mu     sync.Mutex
	files  []*file // oldest first; the last one is written to
	cur    *file
	broken bool // the newest file must not be appended to
	buf    []byte
	bytes  int64

	syncMu sync.Mutex
}

// file is one block file. Live counts the blocks in it that are not flushed.
type file struct {
	seq      uint64
	f        vfs.File
	size     int64
	synced   int64
	live     int
	liveSize int64
	maxLSN   uint64 // newest push that a block in it covers
	suspect  bool   // a sync failed: what is behind synced may never reach the disk
}

// Ref says where a block's data is.
type Ref struct {
	f   *file
	off int64 // of the data
	len uint32
	crc uint32
	rec int64 // size of the whole record
}

// Len returns the length of the compressed data in bytes.
func (r Ref) Len() int { return int(r.len) }

// Disk returns the bytes that the block takes in its file.
func (r Ref) Disk() int64 { return r.rec }

// Checksum returns that of the compressed data.
func (r Ref) Checksum() uint32 { return r.crc }

// Damaged returns the error for a block whose data has the right checksum and does
// not decompress.
func (r Ref) Damaged(reason string) error {
	return &CorruptionError{r.f.f.Name(), r.off, reason}
}

// Valid reports whether r is the address of a block.
func (r Ref) Valid() bool { return r.f != nil }

// Symbol is one entry of a chunk's symbol table.
type Symbol struct {
	ID   uint32
	Text string
}

// Block is a cut block and where it belongs.
type Block struct {
	Tenant, Labels string
	Stream         uint64 // the ingester's number of the stream
	Chunk          uint64 // number of the chunk in the stream
	Late           bool   // chunk of the late lane
	Codec          uint8  // of Data, as in storage/chunk; blocks of a chunk may differ
	Entries        uint32
	MinT, MaxT     int64    // ns
	Size           int      // uncompressed bytes as Loki counts them
	Opened         int64    // wall time at which the chunk was opened, ns
	Symbols        []Symbol // nil in what Open returns: see Store.Symbols
	HasSymbols     bool     // set by Open: there are Symbols
	Cover          Cover
	Pushes         []byte // names of the entries, as the caller encodes them; nil if they have none
	Data           []byte // compressed entries; nil in what Open returns
	Ref            Ref    // set by Append and Open
}

// ChunkID names a chunk: a stream's number, and the chunk's in the stream.
type ChunkID struct{ Stream, Chunk uint64 }

// Recovered is what Open found.
type Recovered struct {
	Blocks []*Block // in order of writing; flushed ones are left out
	Covers []StreamCover
	MaxLSN uint64 // newest push that any block covers
	// NextChunk has, by stream, a number above those of all its chunks that the
	// files know of. A number must not be used again: a note that its chunk is
	// flushed may still be there.
	NextChunk map[uint64]uint64
	// Closed has the chunks that CloseChunk was called for, those that are flushed
	// left out.
	Closed      map[ChunkID]Closing
	Covered     []Covered // what Cover was called with, in this order
	Corruptions int
	TornBytes   int64
}

// Closing says when a chunk was closed.
type Closing struct {
	Covered int // elements of Recovered.Covered that were on record by then
}

// StreamCover is what one block, flushed or not, covers.
type StreamCover struct {
	Stream uint64
	Cover  Cover
}

// Open reads the directory, which is created if it is missing.
func Open(fsys vfs.FS, dir string, o Options) (*Store, *Recovered, error) {
	if o.FileSize <= 0 {
		o.FileSize = defaultMax
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{fs: fsys, dir: dir, o: o}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("blocks: create %s: %w", dir, err)
	}
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("blocks: list %s: %w", dir, err)
	}
	var seqs []uint64
	for _, de := range names {
		name, ok := strings.CutSuffix(de.Name(), suffix)
		if !ok {
			continue
		}
		if seq, err := strconv.ParseUint(name, 16, 64); err == nil {
			seqs = append(seqs, seq)
		}
	}
	sort.Slice(seqs, func(i, j int) bool { return seqs[i] < seqs[j] })
	rec := &Recovered{NextChunk: map[uint64]uint64{}, Closed: map[ChunkID]Closing{}}
	used := func(c ChunkID) { rec.NextChunk[c.Stream] = max(rec.NextChunk[c.Stream], c.Chunk+1) }
	flushed := map[ChunkID]bool{}
	var all []*Block
	// Thousands of blocks share few names, and most have a stream in common.
	texts := map[string]string{}
	once := func(s string) string {
		if t, ok := texts[s]; ok {
			return t
		}
		texts[s] = s
		return s
	}
	for _, seq := range seqs {
		f := &file{seq: seq}
		if f.f, err = fsys.OpenFile(s.path(seq), os.O_RDWR, 0o644); err != nil {
			s.closeFiles()
			return nil, nil, fmt.Errorf("blocks: open: %w", err)
		}
		s.files = append(s.files, f)
	}
	for i, f := range s.files {
		// Data in front of sound is known to have reached the disk.
		sound := int64(0)
		if i+1 < len(s.files) {
			sound = linked(s.files[i+1].f, f.seq)
		}
		err := s.scan(f, sound, rec, func(b *Block) {
			b.Tenant, b.Labels = once(b.Tenant), once(b.Labels)
			b.HasSymbols, b.Symbols = len(b.Symbols) > 0, nil
			all = append(all, b)
			used(ChunkID{b.Stream, b.Chunk})
		}, func(typ byte, c ChunkID) {
			if typ == typeFlush {
				flushed[c] = true
			} else {
				rec.Closed[c] = Closing{Covered: len(rec.Covered)}
			}
			used(c)
		}, func(c Covered) {
			c.Tenant, c.Labels = once(c.Tenant), once(c.Labels)
			f.maxLSN = max(f.maxLSN, c.LSN)
			rec.MaxLSN = max(rec.MaxLSN, c.LSN)
			rec.Covered = append(rec.Covered, c)
		})
		if err != nil {
			s.closeFiles()
			return nil, nil, err
		}
		s.bytes += f.size
	}
	for c := range flushed {
		delete(rec.Closed, c)
	}
	copied := originals(all)
	for k, b := range all {
		f := b.Ref.f
		f.maxLSN = max(f.maxLSN, b.Cover.Max())
		rec.MaxLSN = max(rec.MaxLSN, f.maxLSN)
		if copied[k] {
			continue
		}
		rec.Covers = append(rec.Covers, StreamCover{b.Stream, b.Cover})
		if flushed[ChunkID{b.Stream, b.Chunk}] {
			continue
		}
		f.live++
		f.liveSize += b.Ref.rec
		rec.Blocks = append(rec.Blocks, b)
	}
	// Appending goes on in a new file: what is behind the newest file's last
	// record is of no known state.
	s.broken = true
	return s, rec, nil
}

// originals returns the places in all of blocks that are there again, later.
func originals(all []*Block) map[int]bool {
	type identity struct {
		id         ChunkID
		crc, len   uint32
		mint, maxt int64
		cover      string
	}
	last := make(map[identity]int, len(all))
	copied := map[int]bool{}
	for k, b := range all {
		id := identity{ChunkID{b.Stream, b.Chunk}, b.Ref.crc, b.Ref.len, b.MinT, b.MaxT, string(b.Cover.enc)}
		if was, ok := last[id]; ok {
			copied[was] = true
		}
		last[id] = k
	}
	return copied
}

func (s *Store) path(seq uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%016x%s", seq, suffix))
}

// linked returns how much of the file numbered prev was synced, as the link at
// the start of its successor has it; 0 if it cannot be read.
func linked(f vfs.File, prev uint64) int64 {
	var p [fixed + 2*binary.MaxVarintLen64]byte
	n, _ := f.ReadAt(p[:], 0)
	if n < fixed || binary.LittleEndian.Uint32(p[:]) != magic || p[20] != typeLink {
		return 0
	}
	hl := int(binary.LittleEndian.Uint32(p[8:]))
	if hl < 0 || fixed+hl > n || crc32.Checksum(p[8:fixed+hl], castagnoli) != binary.LittleEndian.Uint32(p[4:]) {
		return 0
	}
	r := reader{p: p[fixed : fixed+hl]}
	seq, synced := r.uvarint(), r.uvarint()
	if r.bad || seq != prev {
		return 0
	}
	return int64(synced)
}

// scan reads the records of f. Behind sound it checks the data too.
func (s *Store) scan(f *file, sound int64, rec *Recovered, block func(*Block), note func(typ byte, c ChunkID), cover func(Covered)) (err error) {
	st, err := f.f.Stat()
	if err != nil {
		return fmt.Errorf("blocks: stat %s: %w", f.f.Name(), err)
	}
	end := st.Size()
	f.size, f.synced = end, end
	if sound < end {
		// The process may have died without the machine: what is read here may
		// be in the page cache alone.
		defer func() {
			if serr := f.f.Datasync(); serr != nil && err == nil {
				err = fmt.Errorf("blocks: sync %s: %w", f.f.Name(), serr)
			}
		}()
	}
	var head [fixed]byte
	var hdr, data []byte
	bad := int64(-1) // where trouble began
	report := func(at int64, why string) {
		if bad < 0 {
			bad = at
			s.o.Log.Error("block file does not check out, skipping to the next valid record",
				"component", "blocks", "err", (&CorruptionError{f.f.Name(), at, why}).Error())
		}
	}
	for off := int64(0); off+fixed <= end; {
		why, next := "", off
		if _, err := f.f.ReadAt(head[:], off); err != nil {
			return fmt.Errorf("blocks: read %s: %w", f.f.Name(), err)
		}
		hl := int64(binary.LittleEndian.Uint32(head[8:]))
		dl := int64(binary.LittleEndian.Uint32(head[12:]))
		switch {
		case binary.LittleEndian.Uint32(head[:]) != magic:
			why = "no record starts here"
		case hl > maxHeader || off+fixed+hl+dl > end:
			why = "record is longer than the file"
		default:
			hdr = sized(hdr, int(hl))
			if _, err := f.f.ReadAt(hdr, off+fixed); err != nil {
				return fmt.Errorf("blocks: read %s: %w", f.f.Name(), err)
			}
			if crc := crc32.Update(crc32.Checksum(head[8:], castagnoli), castagnoli, hdr); crc != binary.LittleEndian.Uint32(head[4:]) {
				why = "header checksum differs"
				break
			}
			next = align(off + fixed + hl + dl)
			ref := Ref{f: f, off: off + fixed + hl, len: uint32(dl), crc: binary.LittleEndian.Uint32(head[16:]), rec: next - off}
			if next > sound && dl > 0 {
				if data, err = s.Read(ref, data[:0]); err != nil {
					why = "data checksum differs"
					// A later start, which trusts what is synced by now, must
					// not take it for whole.
					if _, err := f.f.WriteAt(make([]byte, 4), off); err != nil {
						return fmt.Errorf("blocks: void a torn block in %s: %w", f.f.Name(), err)
					}
					break
				}
			}
			switch head[20] {
			case typeBlock:
				b := &Block{Ref: ref}
				if err := b.decode(hdr); err != nil {
					why = err.Error()
					break
				}
				block(b)
			case typeFlush, typeClose:
				r := reader{p: hdr}
				c := ChunkID{r.uvarint(), r.uvarint()}
				if r.bad {
					why = "bad record of a chunk"
					break
				}
				note(head[20], c)
			case typeCover:
				var c Covered
				if err := c.decode(hdr); err != nil {
					why = "bad record of what is stored"
					break
				}
				cover(c)
			case typeLink:
			default:
				why = "unknown record type " + strconv.Itoa(int(head[20]))
			}
		}
		if why == "" {
			if bad >= 0 {
				rec.Corruptions++
				bad = -1
			}
			off = next
			continue
		}
		report(off, why)
		if next > off { // the header is sound: what is behind it can be found
			off = next
			continue
		}
		off += 8
	}
	if bad >= 0 {
		// Nothing valid behind it: the end of the last write, cut off.
		rec.TornBytes += end - bad
		if bad < sound {
			rec.Corruptions++
		}
	}
	return nil
}

func sized(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n, n+n/4)
	}
	return b[:n]
}

func align(n int64) int64 { return (n + 7) &^ 7 }

// Append writes b behind what is there and sets b.Ref. It is durable after
// the next Sync. On error nothing was added.
func (s *Store) Append(b *Block) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ref, err := s.append(typeBlock, b.encode, b.Data)
	if err != nil {
		return err
	}
	f := ref.f
	f.live++
	f.liveSize += ref.rec
	f.maxLSN = max(f.maxLSN, b.Cover.Max())
	b.Ref = ref
	return nil
}

func (s *Store) append(typ byte, header func([]byte) []byte, data []byte) (Ref, error) {
	if s.cur == nil || s.broken || s.cur.size >= s.o.FileSize {
		if err := s.rotate(); err != nil {
			return Ref{}, err
		}
	}
	return s.write(typ, header, data)
}

func (s *Store) write(typ byte, header func([]byte) []byte, data []byte) (Ref, error) {
	f := s.cur
	var pad [fixed]byte
	buf := header(append(s.buf[:0], pad[:]...))
	hl := len(buf) - fixed
	crc := crc32.Checksum(data, castagnoli)
	binary.LittleEndian.PutUint32(buf, magic)
	binary.LittleEndian.PutUint32(buf[8:], uint32(hl))
	binary.LittleEndian.PutUint32(buf[12:], uint32(len(data)))
	binary.LittleEndian.PutUint32(buf[16:], crc)
	buf[20] = typ
	binary.LittleEndian.PutUint32(buf[4:], crc32.Checksum(buf[8:], castagnoli))
	buf = append(buf, data...)
	for len(buf)%8 != 0 {
		buf = append(buf, 0)
	}
	s.buf = buf
	if cap(s.buf) > 4<<20 {
		s.buf = nil
	}
	if _, err := f.f.WriteAt(buf, f.size); err != nil {
		// Half a record may be there. The file goes on at its last whole one if
		// the rest can be cut off, else a new file is begun.
		if terr := f.f.Truncate(f.size); terr != nil {
			s.broken = true
		}
		return Ref{}, fmt.Errorf("blocks: write %s: %w", f.f.Name(), err)
	}
	ref := Ref{f: f, off: f.size + fixed + int64(hl), len: uint32(len(data)), crc: crc, rec: int64(len(buf))}
	f.size += int64(len(buf))
	s.bytes += int64(len(buf))
	return ref, nil
}

// rotate syncs the current file and begins the next one.
func (s *Store) rotate() error {
	if c := s.cur; c != nil && c.synced < c.size && !c.suspect {
		if err := c.f.Datasync(); err != nil {
			c.suspect = true
			s.o.Log.Error("sync of block file failed", "component", "blocks", "file", c.f.Name(), "err", err)
		} else {
			c.synced = c.size
		}
	}
	f := &file{seq: 1}
	link := []byte{}
	if n := len(s.files); n > 0 {
		prev := s.files[n-1]
		f.seq = prev.seq + 1
		link = binary.AppendUvarint(binary.AppendUvarint(link, prev.seq), uint64(prev.synced))
	}
	var err error
	if f.f, err = s.fs.OpenFile(s.path(f.seq), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644); err != nil {
		return fmt.Errorf("blocks: create: %w", err)
	}
	if err = s.fs.SyncDir(s.dir); err != nil {
		f.f.Close()
		return fmt.Errorf("blocks: sync %s: %w", s.dir, err)
	}
	s.files = append(s.files, f)
	s.cur, s.broken = f, false
	if len(link) > 0 {
		_, err = s.write(typeLink, func(b []byte) []byte { return append(b, link...) }, nil)
	}
	return err
}

// Sync makes everything that was appended before the call durable. It fails
// for as long as a file whose sync failed holds blocks that are not flushed.
func (s *Store) Sync() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	err := s.syncNewest()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.files {
		if old.suspect && old.live > 0 && err == nil {
			err = fmt.Errorf("blocks: %s: an earlier sync failed and %d of its blocks are not flushed", old.f.Name(), old.live)
		}
	}
	return err
}

// Ensure makes the records at refs durable, with one sync for all who wait at
// the same time. Refs to files whose sync failed are not durable; they are no
// error here, since storing them elsewhere is what helps.
func (s *Store) Ensure(refs ...Ref) error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.mu.Lock()
	missing := false
	for _, r := range refs {
		if r.f == s.cur && !r.f.suspect && r.off+int64(r.len) > r.f.synced {
			missing = true
			break
		}
	}
	s.mu.Unlock()
	if !missing {
		return nil
	}
	return s.syncNewest()
}

// syncNewest syncs the file that is appended to. Those before it were synced, or
// never will be. Call with syncMu held.
func (s *Store) syncNewest() error {
	s.mu.Lock()
	f, size := s.cur, int64(0)
	if f != nil {
		size = f.size
	}
	if f == nil || f.suspect || f.synced >= size {
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	err := f.f.Datasync()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		// The kernel may have dropped the pages and forgotten about it: a
		// second sync would succeed and mean nothing.
		f.suspect, s.broken = true, true
		return fmt.Errorf("blocks: sync %s: %w", f.f.Name(), err)
	}
	f.synced = max(f.synced, size)
	return nil
}

// Read appends the compressed data of a block to dst. It fails with a
// *CorruptionError if the checksum differs. A block can be read until the last
// Ref to it is gone, also after its file was deleted.
func (s *Store) Read(r Ref, dst []byte) ([]byte, error) {
	n := len(dst)
	if cap(dst)-n < int(r.len) {
		grown := make([]byte, n, n+int(r.len))
		copy(grown, dst)
		dst = grown
	}
	p := dst[n : n+int(r.len)]
	if _, err := r.f.f.ReadAt(p, r.off); err != nil && !errors.Is(err, io.EOF) {
		return dst, fmt.Errorf("blocks: read %s: %w", r.f.f.Name(), err)
	}
	if crc32.Checksum(p, castagnoli) != r.crc {
		return dst, &CorruptionError{r.f.f.Name(), r.off, "data checksum differs"}
	}
	return dst[:n+len(p)], nil
}

// Symbols returns the symbols that the block at r was appended with.
func (s *Store) Symbols(r Ref) ([]Symbol, error) {
	b, err := s.header(r)
	if err != nil {
		return nil, err
	}
	return b.Symbols, nil
}

// Pushes returns the names of the entries in the block at r.
func (s *Store) Pushes(r Ref) ([]byte, error) {
	b, err := s.header(r)
	if err != nil {
		return nil, err
	}
	return b.Pushes, nil
}

// Cover records that entries were stored by another replica. The record is
// durable when Ensure was called with what is returned. It is kept for as long as
// any block that was appended before it, and as the WAL has records up to c.LSN.
func (s *Store) Cover(c Covered) (Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ref, err := s.append(typeCover, c.encode, nil)
	if err == nil {
		ref.f.maxLSN = max(ref.f.maxLSN, c.LSN)
	}
	return ref, err
}

// header reads all of a block but its data.
func (s *Store) header(r Ref) (*Block, error) {
	start := r.start()
	hdr := make([]byte, r.off-start)
	if _, err := r.f.f.ReadAt(hdr, start); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("blocks: read %s: %w", r.f.f.Name(), err)
	}
	if crc32.Checksum(hdr[8:], castagnoli) != binary.LittleEndian.Uint32(hdr[4:]) {
		return nil, &CorruptionError{r.f.f.Name(), start, "header checksum differs"}
	}
	b := &Block{Ref: r}
	if err := b.decode(hdr[fixed:]); err != nil {
		return nil, &CorruptionError{r.f.f.Name(), start, err.Error()}
	}
	return b, nil
}

// start returns the offset of the record.
func (r Ref) start() int64 { return align(r.off+int64(r.len)) - r.rec }

// CloseChunk records that nothing will be added to a chunk. The record is durable
// when Ensure was called with what is returned.
func (s *Store) CloseChunk(c ChunkID) (Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.note(typeClose, c)
}

func (s *Store) note(typ byte, c ChunkID) (Ref, error) {
	return s.append(typ, func(b []byte) []byte {
		return binary.AppendUvarint(binary.AppendUvarint(b, c.Stream), c.Chunk)
	}, nil)
}

// Done is a chunk that is stored for good, with its index entry.
type Done struct {
	ChunkID
	Refs []Ref // its blocks
}

// Flushed records durably that chunks are stored, with one sync, and lets go of
// their blocks. On error records are missing, which a restart answers with
// identical uploads; the blocks are let go all the same.
func (s *Store) Flushed(chunks ...Done) error {
	s.mu.Lock()
	var err error
	for _, c := range chunks {
		if err == nil { // the others would fare no better
			_, err = s.note(typeFlush, c.ChunkID)
		}
		for _, r := range c.Refs {
			r.f.live--
			r.f.liveSize -= r.rec
		}
	}
	s.mu.Unlock()
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	return errors.Join(err, s.syncNewest())
}

// Release deletes the oldest files as long as nothing in them is needed:
// all their blocks are flushed, durably on record, and the WAL, whose oldest
// record is oldestLSN, has nothing that they cover.
func (s *Store) Release(oldestLSN uint64) error {
	dead := func(k int) bool { // call with s.mu held
		f := s.files[k]
		return (f != s.cur || s.broken) && f.live == 0 && f.maxLSN < oldestLSN
	}
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.mu.Lock()
	n := 0
	for n < len(s.files) && dead(n) {
		n++
	}
	s.mu.Unlock()
	if n == 0 {
		return nil
	}
	// Were a record lost that a chunk is flushed, and a file with some of its
	// blocks gone, what is left of it would be stored again as another chunk.
	if err := s.syncNewest(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; n > 0 && len(s.files) > 0 && dead(0); n-- {
		f := s.files[0]
		if err := s.fs.Remove(s.path(f.seq)); err != nil {
			return fmt.Errorf("blocks: remove: %w", err)
		}
		// The handle is not closed: a query may still read from it. The last
		// reference closes it.
		s.bytes -= f.size
		s.files = s.files[1:]
		if f == s.cur {
			s.cur = nil
		}
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return fmt.Errorf("blocks: sync %s: %w", s.dir, err)
	}
	return nil
}

// Stats says how much is on disk and how much of it is still needed.
type Stats struct {
	Files       int
	Bytes, Live int64
	Oldest      uint64 // sequence number of the oldest file
}

// Stats returns current figures.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Files: len(s.files), Bytes: s.bytes}
	for _, f := range s.files {
		st.Live += f.liveSize
	}
	if len(s.files) > 0 {
		st.Oldest = s.files[0].seq
	}
	return st
}

// InFile reports whether r lies in the file with sequence number seq.
func (r Ref) InFile(seq uint64) bool { return r.f != nil && r.f.seq == seq }

// Copy appends the record at r again, as it is, and returns its new address.
// It becomes durable with the next Sync; until the caller Drops one of the two,
// both are counted.
func (s *Store) Copy(r Ref) (Ref, error) {
	start := r.start()
	rec := make([]byte, r.rec)
	if _, err := r.f.f.ReadAt(rec, start); err != nil {
		return Ref{}, fmt.Errorf("blocks: read %s: %w", r.f.f.Name(), err)
	}
	hl := r.off - start - fixed
	hdr, data := rec[fixed:fixed+hl], rec[fixed+hl:fixed+hl+int64(r.len)]
	if crc32.Checksum(rec[8:fixed+hl], castagnoli) != binary.LittleEndian.Uint32(rec[4:]) || crc32.Checksum(data, castagnoli) != r.crc {
		return Ref{}, &CorruptionError{r.f.f.Name(), start, "checksum differs"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ref, err := s.append(typeBlock, func(b []byte) []byte { return append(b, hdr...) }, data)
	if err != nil {
		return Ref{}, err
	}
	ref.f.live++
	ref.f.liveSize += ref.rec
	ref.f.maxLSN = max(ref.f.maxLSN, r.f.maxLSN)
	return ref, nil
}

// Drop says that the block at r is no longer needed there.
func (s *Store) Drop(r Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.f.live--
	r.f.liveSize -= r.rec
}

func (s *Store) closeFiles() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.f.Close())
	}
	return errors.Join(errs...)
}

// Close syncs and closes the files.
func (s *Store) Close() error {
	err := s.Sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(err, s.closeFiles())
}
