package vfs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	createFlag = os.O_CREATE
	pageSize   = 4096
)

// CrashMode says what of the unsynced state survives a crash.
type CrashMode int

const (
	// DropUnsynced: only what was synced is left.
	DropUnsynced CrashMode = iota
	// KeepRandom: of what was not synced, a random set of pages, sizes and
	// directory operations has reached the disk, in no order.
	KeepRandom
)

// Mem is a file system in memory that can lose power. Directories made with
// MkdirAll are durable at once; names in them are durable after SyncDir, file
// contents after Sync or Datasync, in pages of 4 KiB.
type Mem struct {
	mu       sync.Mutex
	dirs     map[string]bool
	names    map[string]*memNode // as the running process sees them
	durable  map[string]*memNode // names as the disk has them
	locks    map[string]bool
	capacity int64 // bytes; 0: no limit
}

// memNode is an inode.
type memNode struct {
	mu     *sync.Mutex // the file system's
	data   []byte
	synced []byte
	dirty  map[int64]bool // pages that differ from synced, perhaps
}

// NewMem returns an empty file system with a root directory.
func NewMem() *Mem {
	return &Mem{
		dirs: map[string]bool{string(filepath.Separator): true, ".": true}, names: map[string]*memNode{},
		durable: map[string]*memNode{}, locks: map[string]bool{},
	}
}

// SetCapacity limits the sum of all file sizes; operations that would exceed
// it fail with ENOSPC. 0 lifts the limit.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	m.capacity = bytes
	m.mu.Unlock()
}

// Used returns the sum of all file sizes.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used()
}

func (m *Mem) used() int64 {
	n := int64(0)
	for _, f := range m.names {
		n += int64(len(f.data))
	}
	return n
}

// CrashClone returns what a machine would find if the power failed now. The
// old file system goes on working; nothing that is done to it shows in the
// clone.
func (m *Mem) CrashClone(rng *rand.Rand, mode CrashMode) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMem()
	maps.Copy(c.dirs, m.dirs)
	keep := func() bool { return mode == KeepRandom && rng.IntN(2) == 0 }
	all := map[string]bool{}
	for name := range m.names {
		all[name] = true
	}
	for name := range m.durable {
		all[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		node := m.durable[name]
		if m.names[name] != node && keep() {
			node = m.names[name]
		}
		if node == nil {
			continue
		}
		data := slices.Clone(node.synced)
		if len(node.data) != len(data) && keep() {
			if len(node.data) > len(data) {
				data = append(data, make([]byte, len(node.data)-len(data))...)
			} else {
				data = data[:len(node.data)]
			}
		}
		for _, page := range slices.Sorted(maps.Keys(node.dirty)) {
			if off := page * pageSize; keep() && off < int64(len(data)) && off < int64(len(node.data)) {
				copy(data[off:min(off+pageSize, int64(len(data)))], node.data[off:])
			}
		}
		n := &memNode{mu: &c.mu, data: data, synced: slices.Clone(data), dirty: map[int64]bool{}}
		c.names[name], c.durable[name] = n, n
	}
	return c
}

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

func (m *Mem) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[name] {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	}
	n := m.names[name]
	if n != nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	}
	if n == nil {
		if flag&os.O_CREATE == 0 || !m.dirs[filepath.Dir(name)] {
			return nil, notExist("open", name)
		}
		n = &memNode{mu: &m.mu, dirty: map[int64]bool{}}
		m.names[name] = n
	}
	if flag&os.O_TRUNC != 0 {
		n.resize(0)
	}
	return &memFile{fs: m, n: n, name: name, append: flag&os.O_APPEND != 0}, nil
}

func (m *Mem) Rename(oldname, newname string) error {
	oldname, newname = filepath.Clean(oldname), filepath.Clean(newname)
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.names[oldname]
	if n == nil || !m.dirs[filepath.Dir(newname)] {
		return notExist("rename", oldname)
	}
	delete(m.names, oldname)
	m.names[newname] = n
	return nil
}

func (m *Mem) Remove(name string) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] != nil {
		delete(m.names, name)
		return nil
	}
	if !m.dirs[name] {
		return notExist("remove", name)
	}
	if len(m.list(name)) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	delete(m.dirs, name)
	return nil
}

func (m *Mem) MkdirAll(dir string, perm fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for d := filepath.Clean(dir); !m.dirs[d]; d = filepath.Dir(d) {
		if m.names[d] != nil {
			return &fs.PathError{Op: "mkdir", Path: d, Err: syscall.ENOTDIR}
		}
		m.dirs[d] = true
	}
	return nil
}

// list returns the names of what is directly in dir. Call with mu held.
func (m *Mem) list(dir string) []string {
	var out []string
	for name := range m.names {
		if filepath.Dir(name) == dir {
			out = append(out, name)
		}
	}
	for name := range m.dirs {
		if name != dir && filepath.Dir(name) == dir {
			out = append(out, name)
		}
	}
	sort.Strings(out)
	return out
}

func (m *Mem) ReadDir(dir string) ([]fs.DirEntry, error) {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[dir] {
		return nil, notExist("readdir", dir)
	}
	var out []fs.DirEntry
	for _, name := range m.list(dir) {
		out = append(out, fs.FileInfoToDirEntry(m.info(name)))
	}
	return out, nil
}

func (m *Mem) info(name string) fs.FileInfo {
	if n := m.names[name]; n != nil {
		return memInfo{filepath.Base(name), int64(len(n.data)), false}
	}
	return memInfo{filepath.Base(name), 0, true}
}

func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] == nil && !m.dirs[name] {
		return nil, notExist("stat", name)
	}
	return m.info(name), nil
}

func (m *Mem) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[dir] {
		return notExist("syncdir", dir)
	}
	for name := range m.durable {
		if filepath.Dir(name) == dir && m.names[name] == nil {
			delete(m.durable, name)
		}
	}
	for name, n := range m.names {
		if filepath.Dir(name) == dir {
			m.durable[name] = n
		}
	}
	return nil
}

func (m *Mem) Free(dir string) (free, total uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.capacity == 0 {
		return 1 << 40, 1 << 40, nil
	}
	return uint64(max(m.capacity-m.used(), 0)), uint64(m.capacity), nil
}

type memLock struct {
	m    *Mem
	name string
}

func (l memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.name)
	return nil
}

func (m *Mem) Lock(name string) (io.Closer, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[name] {
		return nil, fmt.Errorf("%s: %w", name, ErrLocked)
	}
	if !m.dirs[filepath.Dir(name)] {
		return nil, notExist("lock", name)
	}
	m.locks[name] = true
	return memLock{m, name}, nil
}

type memInfo struct {
	name string
	size int64
	dir  bool
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) IsDir() bool        { return i.dir }
func (i memInfo) Sys() any           { return nil }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// resize sets the length. Call with mu held.
func (n *memNode) resize(size int64) {
	old := int64(len(n.data))
	if size <= old {
		clear(n.data[size:])
		n.data = n.data[:size]
	} else {
		n.data = append(n.data, make([]byte, size-old)...)
	}
	for p := min(size, old) / pageSize; p*pageSize < max(size, old); p++ {
		n.dirty[p] = true
	}
}

type memFile struct {
	fs     *Mem
	n      *memNode
	name   string
	append bool
	closed bool
	pos    int64
}

func (f *memFile) check(op string) error {
	if f.closed {
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrClosed}
	}
	return nil
}

func (f *memFile) readAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: syscall.EINVAL}
	}
	if off >= int64(len(f.n.data)) {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("read"); err != nil {
		return 0, err
	}
	return f.readAt(p, off)
}

func (f *memFile) Read(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("read"); err != nil {
		return 0, err
	}
	n, err := f.readAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *memFile) writeAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: syscall.EINVAL}
	}
	var full error
	if grow := off + int64(len(p)) - int64(len(f.n.data)); f.fs.capacity > 0 && grow > 0 {
		if room := f.fs.capacity - f.fs.used(); grow > room {
			// A disk takes what fits and then says that it is full.
			full = &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
			p = p[:max(int64(len(p))-(grow-max(room, 0)), 0)]
		}
	}
	if end := off + int64(len(p)); len(p) > 0 && end > int64(len(f.n.data)) {
		f.n.resize(end)
	}
	if len(p) > 0 {
		copy(f.n.data[off:], p)
		for page := off / pageSize; page*pageSize < off+int64(len(p)); page++ {
			f.n.dirty[page] = true
		}
	}
	return len(p), full
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("write"); err != nil {
		return 0, err
	}
	return f.writeAt(p, off)
}

func (f *memFile) Write(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("write"); err != nil {
		return 0, err
	}
	if f.append {
		f.pos = int64(len(f.n.data))
	}
	n, err := f.writeAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *memFile) Seek(offset int64, whence int) (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += int64(len(f.n.data))
	}
	if offset < 0 {
		return 0, &fs.PathError{Op: "seek", Path: f.name, Err: syscall.EINVAL}
	}
	f.pos = offset
	return offset, nil
}

func (f *memFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.check("close")
	f.closed = true
	return err
}

func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("sync"); err != nil {
		return err
	}
	n := f.n
	if len(n.synced) > len(n.data) {
		n.synced = n.synced[:len(n.data)]
	} else if d := len(n.data) - len(n.synced); d > 0 {
		n.synced = append(n.synced, make([]byte, d)...)
	}
	for page := range n.dirty {
		if off := page * pageSize; off < int64(len(n.data)) {
			copy(n.synced[off:min(off+pageSize, int64(len(n.data)))], n.data[off:])
		}
	}
	clear(n.dirty)
	return nil
}

func (f *memFile) Datasync() error { return f.Sync() }

func (f *memFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("truncate"); err != nil {
		return err
	}
	if grow := size - int64(len(f.n.data)); f.fs.capacity > 0 && grow > f.fs.capacity-f.fs.used() && grow > 0 {
		return &fs.PathError{Op: "truncate", Path: f.name, Err: syscall.ENOSPC}
	}
	f.n.resize(size)
	return nil
}

func (f *memFile) Preallocate(off, size int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if off+size <= st.Size() {
		return nil
	}
	return f.Truncate(off + size)
}

func (f *memFile) Stat() (fs.FileInfo, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return memInfo{filepath.Base(f.name), int64(len(f.n.data)), false}, nil
}

func (f *memFile) Name() string { return f.name }

// String lists the files and their sizes, for failing tests.
func (m *Mem) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.names)) {
		fmt.Fprintf(&b, "%s %d\n", name, len(m.names[name].data))
	}
	return b.String()
}
