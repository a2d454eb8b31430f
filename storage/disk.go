package storage

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/loki-go/loki-go/internal/vfs"
)

// diskCache keeps index files uncompressed on local disk, up to a number of
// bytes, and removes those that were not used for longest. It survives a
// restart: each file says which key it is of and when it was used.
//
//	le32 magic · le64 last use, Unix ns · le64 length · le32 CRC-32C of content
//	le32 n · n bytes of key · le32 CRC-32C of all this but the last use · content
//
// Nothing is synced. What a crash leaves is found out by length and checksums,
// and fetched again. The cache never takes the last part of the volume's
// space, which the WAL may need.
//
// A nil *diskCache keeps nothing.
type diskCache struct {
	fs  vfs.FS
	dir string
	max int64
	now func() time.Time
	log *slog.Logger
	m   cacheMetrics
	bad func() // counts what went wrong

	mu    sync.Mutex
	used  int64
	files map[string]*list.Element // of *diskFile, by key
	order *list.List               // last used first
	temp  int                      // number of the last temporary file
}

type diskFile struct {
	key  string
	size int64 // of the whole file
	used time.Time
}

const (
	diskMagic  = 0x3158444c // "LDX1"
	diskUsedAt = 4          // offset of the last use
	diskFixed  = 4 + 8 + 8 + 4 + 4
	diskSuffix = ".index"
	tempSuffix = ".tmp"
	// maxDiskKey is more than an object store takes.
	maxDiskKey = 4096
	// touchAfter is how exact the last use is: it is written when a file is
	// opened.
	touchAfter = 10 * time.Minute
	// keepFree is the part of the volume, 1/keepFree, that is left to others.
	keepFree = 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openDisk takes stock of dir. A cache that cannot be used is no reason to
// stop: the result is nil then.
func openDisk(fsys vfs.FS, dir string, maxBytes int64, now func() time.Time, log *slog.Logger, m *metrics) *diskCache {
	d := &diskCache{
		fs: fsys, dir: dir, max: maxBytes, now: now, log: log.With("component", "index-disk"), m: m.cache("index_disk"), bad: m.diskErrors.Inc,
		files: map[string]*list.Element{}, order: list.New(),
	}
	if err := d.scan(); err != nil {
		d.bad()
		d.log.Error("index files are not kept on local disk", "dir", dir, "err", err)
		return nil
	}
	return d
}

func (d *diskCache) scan() error {
	if err := d.fs.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	names, err := d.fs.ReadDir(d.dir)
	if err != nil {
		return err
	}
	var found []*diskFile
	for _, e := range names {
		name := e.Name()
		if strings.HasSuffix(name, tempSuffix) {
			d.unlink(name)
		}
		if !strings.HasSuffix(name, diskSuffix) {
			continue
		}
		f, err := d.stat(name)
		if err != nil {
			d.bad()
			d.unlink(name)
			continue
		}
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b *diskFile) int { return b.used.Compare(a.used) })
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range found {
		d.files[f.key] = d.order.PushBack(f)
		d.used += f.size
	}
	d.shrink(0)
	return nil
}

// stat reads the header of a file.
func (d *diskCache) stat(name string) (*diskFile, error) {
	f, err := d.fs.OpenFile(d.path(name), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, diskFixed+maxDiskKey+4)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	h, err := parseDiskHeader(head[:n])
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != int64(h.size)+h.length || diskName(h.key) != name {
		return nil, errors.New("torn")
	}
	return &diskFile{h.key, info.Size(), h.used}, nil
}

func (d *diskCache) path(name string) string { return filepath.Join(d.dir, name) }

// unlink removes a file; one that stays is overwritten or found again.
func (d *diskCache) unlink(name string) {
	if err := d.fs.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.bad()
	}
}

// get returns the index file of a key.
func (d *diskCache) get(key string) (file []byte, ok bool) {
	if d == nil {
		return nil, false
	}
	d.mu.Lock()
	e, ok := d.files[key]
	if !ok {
		d.mu.Unlock()
		d.m.misses.Inc()
		return nil, false
	}
	d.order.MoveToFront(e)
	f := e.Value.(*diskFile)
	now := d.now()
	touch := now.Sub(f.used) > touchAfter
	if touch {
		f.used = now
	}
	size := f.size
	d.mu.Unlock()
	file, err := d.read(key, size, touch, now)
	if err != nil {
		d.bad()
		d.log.Warn("an index file on local disk is damaged and fetched again", "key", key, "err", err)
		d.remove(key)
		d.m.misses.Inc()
		return nil, false
	}
	d.m.hits.Inc()
	return file, true
}

func (d *diskCache) read(key string, size int64, touch bool, now time.Time) ([]byte, error) {
	mode := os.O_RDONLY
	if touch {
		mode = os.O_RDWR
	}
	f, err := d.fs.OpenFile(d.path(diskName(key)), mode, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != size {
		return nil, fmt.Errorf("%d bytes long instead of %d", info.Size(), size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, err
	}
	h, err := parseDiskHeader(b)
	if err != nil {
		return nil, err
	}
	content := b[h.size:]
	if h.key != key || int64(len(content)) != h.length || crc32.Checksum(content, castagnoli) != h.sum {
		return nil, errors.New("the checksum differs")
	}
	if touch {
		_, err = f.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(now.UnixNano())), diskUsedAt)
	}
	return content, err
}

// remove forgets a key.
func (d *diskCache) remove(key string) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, ok := d.files[key]; ok {
		d.drop(e)
		d.m.bytes.Set(float64(d.used))
	}
}

// drop removes a file. Call with mu held.
func (d *diskCache) drop(e *list.Element) {
	f := d.order.Remove(e).(*diskFile)
	delete(d.files, f.key)
	d.used -= f.size
	d.unlink(diskName(f.key))
}

// shrink makes room for n bytes. Call with mu held.
func (d *diskCache) shrink(n int64) {
	for d.used+n > d.max && d.order.Len() > 0 {
		d.drop(d.order.Back())
	}
	d.m.bytes.Set(float64(d.used))
}

// put keeps an index file.
func (d *diskCache) put(key string, file []byte) {
	if d == nil || len(key) > maxDiskKey {
		return
	}
	head := appendDiskHeader(nil, key, file, d.now())
	size := int64(len(head) + len(file))
	if !d.reserve(key, size) {
		return
	}
	err := d.write(key, head, file)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used -= size
	if err == nil {
		if e, ok := d.files[key]; ok { // another has written it meanwhile
			d.used -= d.order.Remove(e).(*diskFile).size
		}
		d.files[key] = d.order.PushFront(&diskFile{key, size, d.now()})
		d.used += size
	}
	d.m.bytes.Set(float64(d.used))
	if err != nil {
		d.bad()
		d.log.Warn("an index file could not be kept on local disk", "key", key, "err", err)
	}
}

// reserve takes room for a file.
func (d *diskCache) reserve(key string, size int64) bool {
	if size > d.max {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.files[key]; ok {
		return false
	}
	d.shrink(size)
	free, total, err := d.fs.Free(d.dir)
	if err != nil || free < uint64(size)+total/keepFree {
		return false
	}
	d.used += size
	return true
}

func (d *diskCache) write(key string, parts ...[]byte) (err error) {
	d.mu.Lock()
	d.temp++
	temp := d.path(fmt.Sprint(d.temp, tempSuffix))
	d.mu.Unlock()
	f, err := d.fs.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err == nil {
			_, err = f.Write(p)
		}
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = d.fs.Rename(temp, d.path(diskName(key)))
	}
	if err != nil {
		// Best effort: a start removes it, too.
		_ = d.fs.Remove(temp)
	}
	return err
}

// diskName returns the name of a key's file.
func diskName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16]) + diskSuffix
}

type diskHeader struct {
	used   time.Time
	length int64  // of the content
	sum    uint32 // of the content
	key    string
	size   int // of the header
}

func appendDiskHeader(b []byte, key string, file []byte, now time.Time) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, diskMagic)
	b = le.AppendUint64(b, uint64(now.UnixNano()))
	b = le.AppendUint64(b, uint64(len(file)))
	b = le.AppendUint32(b, crc32.Checksum(file, castagnoli))
	b = le.AppendUint32(b, uint32(len(key)))
	b = append(b, key...)
	return le.AppendUint32(b, diskHeaderSum(b))
}

// diskHeaderSum leaves out the last use, which changes in place.
func diskHeaderSum(b []byte) uint32 {
	sum := crc32.Checksum(b[:diskUsedAt], castagnoli)
	return crc32.Update(sum, castagnoli, b[diskUsedAt+8:])
}

// parseDiskHeader reads the header at the start of b.
func parseDiskHeader(b []byte) (h diskHeader, err error) {
	le := binary.LittleEndian
	if len(b) < diskFixed || le.Uint32(b) != diskMagic {
		return h, errors.New("no index file of this cache")
	}
	h.used = time.Unix(0, int64(le.Uint64(b[diskUsedAt:])))
	length := le.Uint64(b[12:])
	h.sum = le.Uint32(b[20:])
	n := le.Uint32(b[24:])
	if n > maxDiskKey || len(b) < diskFixed+int(n)+4 || length > maxIndexFile {
		return h, errors.New("torn header")
	}
	end := diskFixed + int(n)
	if le.Uint32(b[end:]) != diskHeaderSum(b[:end]) {
		return h, errors.New("the header's checksum differs")
	}
	h.length, h.key, h.size = int64(length), string(b[diskFixed:end]), end+4
	return h, nil
}
