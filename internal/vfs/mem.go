package vfs

import (
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"
)

// CrashMode says what a power loss does to changes that were not synced.
type CrashMode uint8

const (
	// DropUnsynced loses all of them.
	DropUnsynced CrashMode = iota
	// KeepRandom keeps each 4 KiB page, each file size and each directory
	// operation at random: writes tear and arrive out of order.
	KeepRandom
)

const pageSize = 4096

type page [pageSize]byte

// zeroPage stands for every page that is allocated and was never written. It
// is never written to.
var zeroPage = new(page)

// Mem is a file system in memory that tells what was synced from what was not.
//
// A file's content becomes durable page by page with Sync and Datasync, its
// name with SyncDir. Unlike real file systems, which promise no more but do,
// Mem makes nothing durable on its own, so that code that relies on luck is
// found out. Space is counted in whole pages, holes are free.
type Mem struct {
	mu       sync.Mutex
	root     *node
	locks    map[string]bool
	capacity int64 // 0: no limit
	used     int64
}

// NewMem returns an empty file system with its root and working directory.
func NewMem() *Mem {
	return &Mem{root: newDir(), locks: map[string]bool{}}
}

// node is a file or a directory.
type node struct {
	mode  fs.FileMode
	mtime time.Time

	// A directory: entries as the process sees them, as they are on disk, and
	// the steps that lead from the one to the other.
	entries, durable map[string]*node
	ops              []dirOp

	// A file: the same for pages. A page that is in both lists is immutable,
	// one that is in pages alone is written in place. nil is a hole.
	pages, durPages []*page
	size, durSize   int64
	dirty           map[int]struct{}
	links           int // names and handles; the space is free when there are none
}

// dirOp is a change of one directory: n appears as add, or disappears as del.
type dirOp struct {
	add, del string
	n        *node
}

func newDir() *node {
	return &node{mode: fs.ModeDir | 0o755, mtime: time.Now(), entries: map[string]*node{}, durable: map[string]*node{}}
}

func (n *node) isDir() bool { return n.entries != nil }

// SetCapacity limits the file system to that many bytes: what does not fit
// fails with ENOSPC. 0 lifts the limit.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// Used returns the bytes that files take.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// CrashClone returns what is found after a power loss at this moment. Locks are
// released. m goes on working, apart from the clone: who still uses it is a
// process that the crash has ended, only it does not know yet.
func (m *Mem) CrashClone(rng *rand.Rand, mode CrashMode) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Mem{locks: map[string]bool{}, capacity: m.capacity}
	keep := func() bool { return mode == KeepRandom && rng.IntN(2) == 0 }
	c.root = m.cloneDir(m.root, c, keep, map[*node]*node{})
	return c
}

// cloneDir copies d as a crash leaves it. seen keeps a file that has two names,
// after half of a rename between directories, one file.
func (m *Mem) cloneDir(d *node, c *Mem, keep func() bool, seen map[*node]*node) *node {
	left := make(map[string]*node, len(d.durable))
	for name, n := range d.durable {
		left[name] = n
	}
	for _, op := range d.ops {
		if !keep() {
			continue
		}
		if op.del != "" && left[op.del] == op.n {
			delete(left, op.del)
		}
		if op.add != "" {
			left[op.add] = op.n
		}
	}
	names := make([]string, 0, len(left))
	for name := range left {
		names = append(names, name)
	}
	sort.Strings(names) // one seed, one outcome
	nd := newDir()
	nd.mode, nd.mtime = d.mode, d.mtime
	for _, name := range names {
		n := left[name]
		cn := seen[n]
		if cn == nil {
			if n.isDir() {
				cn = m.cloneDir(n, c, keep, seen)
			} else {
				cn = n.crash(keep)
				c.used += cn.allocated()
			}
			seen[n] = cn
		}
		cn.links++
		nd.entries[name], nd.durable[name] = cn, cn
	}
	return nd
}

// crash copies a file as a crash leaves it.
func (n *node) crash(keep func() bool) *node {
	c := &node{mode: n.mode, mtime: n.mtime, size: n.durSize, dirty: map[int]struct{}{}}
	if n.size != n.durSize && keep() {
		c.size = n.size
	}
	c.pages = make([]*page, pagesOf(c.size))
	for i := range c.pages {
		cur, dur := at(n.pages, i), at(n.durPages, i)
		switch {
		case cur == dur || !keep():
			c.pages[i] = dur
		case cur == nil || cur == zeroPage:
			c.pages[i] = cur
		default:
			p := *cur
			c.pages[i] = &p
		}
	}
	c.durPages = append([]*page(nil), c.pages...) // shared with n: zeroTail must copy
	c.zeroTail()
	c.sync()
	return c
}

func at(pages []*page, i int) *page {
	if i < len(pages) {
		return pages[i]
	}
	return nil
}

func pagesOf(size int64) int { return int((size + pageSize - 1) / pageSize) }

func (n *node) allocated() int64 {
	var sum int64
	for _, p := range n.pages {
		if p != nil {
			sum += pageSize
		}
	}
	return sum
}

// own makes page i writable in place.
func (n *node) own(i int) *page {
	p := n.pages[i]
	if p == nil || p == zeroPage || p == at(n.durPages, i) {
		c := new(page)
		if p != nil {
			*c = *p
		}
		p = c
		n.pages[i] = p
	}
	n.dirty[i] = struct{}{}
	return p
}

// zeroTail clears what the last page has behind the end of the file.
func (n *node) zeroTail() {
	if rest := int(n.size % pageSize); rest != 0 {
		i := len(n.pages) - 1
		if p := n.pages[i]; p != nil && p != zeroPage {
			clear(n.own(i)[rest:])
		}
	}
}

func (n *node) sync() {
	if len(n.durPages) > len(n.pages) {
		n.durPages = n.durPages[:len(n.pages)]
	}
	for len(n.durPages) < len(n.pages) {
		n.durPages = append(n.durPages, nil)
	}
	for i := range n.dirty {
		if i < len(n.pages) {
			n.durPages[i] = n.pages[i]
		}
	}
	clear(n.dirty)
	n.durSize = n.size
}

// resize sets the size, which takes no space.
func (m *Mem) resize(n *node, size int64) {
	want := pagesOf(size)
	for i := want; i < len(n.pages); i++ {
		if n.pages[i] != nil {
			m.used -= pageSize
		}
		n.dirty[i] = struct{}{}
	}
	if want < len(n.pages) {
		clear(n.pages[want:])
		n.pages = n.pages[:want]
	}
	for len(n.pages) < want {
		// Were there pages before an unsynced truncation, they are not to come
		// back with the next sync.
		n.dirty[len(n.pages)] = struct{}{}
		n.pages = append(n.pages, nil)
	}
	n.size = size
	n.zeroTail()
	n.mtime = time.Now()
}

// reserve allocates page i if it is a hole.
func (m *Mem) reserve(n *node, i int) bool {
	if i < len(n.pages) && n.pages[i] != nil {
		return true
	}
	if m.capacity > 0 && m.used+pageSize > m.capacity {
		return false
	}
	if i >= len(n.pages) {
		m.grow(n, i+1)
	}
	n.pages[i] = zeroPage
	n.dirty[i] = struct{}{}
	m.used += pageSize
	return true
}

func (m *Mem) grow(n *node, pages int) {
	for len(n.pages) < pages {
		n.dirty[len(n.pages)] = struct{}{}
		n.pages = append(n.pages, nil)
	}
}

func (m *Mem) unlink(n *node) {
	if n.links--; n.links == 0 && !n.isDir() {
		m.used -= n.allocated()
	}
}

func pathErr(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// split returns the elements of a path. Relative paths begin at the root.
func split(name string) []string {
	name = strings.Trim(filepath.Clean(string(filepath.Separator)+name), string(filepath.Separator))
	if name == "" {
		return nil
	}
	return strings.Split(name, string(filepath.Separator))
}

// walk returns the node that elems lead to.
func (m *Mem) walk(elems []string) (*node, error) {
	n := m.root
	for _, e := range elems {
		if !n.isDir() {
			return nil, syscall.ENOTDIR
		}
		next, ok := n.entries[e]
		if !ok {
			return nil, syscall.ENOENT
		}
		n = next
	}
	return n, nil
}

// parent returns the directory of name and the last element of name.
func (m *Mem) parent(name string) (*node, string, error) {
	elems := split(name)
	if len(elems) == 0 {
		return nil, "", syscall.EINVAL
	}
	d, err := m.walk(elems[:len(elems)-1])
	if err == nil && !d.isDir() {
		err = syscall.ENOTDIR
	}
	return d, elems[len(elems)-1], err
}

// OpenFile implements FS.
func (m *Mem) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err != nil {
		return nil, pathErr("open", name, err)
	}
	n, ok := d.entries[base]
	writes := flag&(os.O_WRONLY|os.O_RDWR) != 0
	switch {
	case !ok && flag&os.O_CREATE == 0:
		return nil, pathErr("open", name, syscall.ENOENT)
	case ok && flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, pathErr("open", name, syscall.EEXIST)
	case ok && n.isDir() && writes:
		return nil, pathErr("open", name, syscall.EISDIR)
	case !ok:
		n = &node{mode: perm.Perm(), mtime: time.Now(), dirty: map[int]struct{}{}}
		m.link(d, base, n)
	case flag&os.O_TRUNC != 0 && writes:
		m.resize(n, 0)
	}
	n.links++
	return &memFile{m: m, n: n, name: name, flag: flag}, nil
}

// link puts n into d as base, in place of what had that name.
func (m *Mem) link(d *node, base string, n *node) {
	if was := d.entries[base]; was != nil {
		m.unlink(was)
	}
	d.entries[base] = n
	d.ops = append(d.ops, dirOp{add: base, n: n})
	n.links++
}

// Rename implements FS.
func (m *Mem) Rename(oldname, newname string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	od, ob, err := m.parent(oldname)
	if err != nil {
		return pathErr("rename", oldname, err)
	}
	nd, nb, err := m.parent(newname)
	if err != nil {
		return pathErr("rename", newname, err)
	}
	n, ok := od.entries[ob]
	if !ok {
		return pathErr("rename", oldname, syscall.ENOENT)
	}
	was := nd.entries[nb]
	switch {
	case was == n:
		return nil
	case was != nil && was.isDir() != n.isDir():
		return pathErr("rename", newname, syscall.EEXIST)
	case was != nil && len(was.entries) > 0:
		return pathErr("rename", newname, syscall.ENOTEMPTY)
	case was != nil:
		m.unlink(was)
	}
	delete(od.entries, ob)
	nd.entries[nb] = n
	if od == nd {
		od.ops = append(od.ops, dirOp{add: nb, del: ob, n: n})
		return nil
	}
	od.ops = append(od.ops, dirOp{del: ob, n: n})
	nd.ops = append(nd.ops, dirOp{add: nb, n: n})
	return nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err != nil {
		return pathErr("remove", name, err)
	}
	n, ok := d.entries[base]
	if !ok {
		return pathErr("remove", name, syscall.ENOENT)
	}
	if len(n.entries) > 0 {
		return pathErr("remove", name, syscall.ENOTEMPTY)
	}
	delete(d.entries, base)
	d.ops = append(d.ops, dirOp{del: base, n: n})
	m.unlink(n)
	return nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(dir string, _ fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.root
	for _, e := range split(dir) {
		n := d.entries[e]
		if n == nil {
			n = newDir()
			d.entries[e] = n
			n.links++
		}
		if !n.isDir() {
			return pathErr("mkdir", dir, syscall.ENOTDIR)
		}
		d.durable[e] = n
		d = n
	}
	return nil
}

// ReadDir implements FS.
func (m *Mem) Mkdir(name string, _ fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.parent(name)
	if err == nil && d.entries[base] != nil {
		err = fs.ErrExist
	}
	if err != nil {
		return pathErr("mkdir", name, err)
	}
	m.link(d, base, newDir())
	return nil
}

func (m *Mem) SyncAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.walk(split(dir)); err != nil {
		return pathErr("syncall", dir, err)
	}
	m.root.syncAll()
	return nil
}

// syncAll makes everything below n durable.
func (n *node) syncAll() {
	if !n.isDir() {
		n.sync()
		return
	}
	n.ops = nil
	clear(n.durable)
	for name, e := range n.entries {
		n.durable[name] = e
		e.syncAll()
	}
}

func (m *Mem) ReadDir(dir string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.walk(split(dir))
	if err == nil && !d.isDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathErr("open", dir, err)
	}
	list := make([]fs.DirEntry, 0, len(d.entries))
	for name, n := range d.entries {
		list = append(list, fs.FileInfoToDirEntry(n.info(name)))
	}
	sort.Slice(list, func(a, b int) bool { return list[a].Name() < list[b].Name() })
	return list, nil
}

// Stat implements FS.
func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.walk(split(name))
	if err != nil {
		return nil, pathErr("stat", name, err)
	}
	return n.info(filepath.Base(name)), nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.walk(split(dir))
	if err == nil && !d.isDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return pathErr("sync", dir, err)
	}
	d.ops = nil
	clear(d.durable)
	for name, n := range d.entries {
		d.durable[name] = n
	}
	return nil
}

// Free implements FS. Without a capacity there is a tebibyte.
func (m *Mem) Free(string) (free, total uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	limit := m.capacity
	if limit == 0 {
		limit = 1 << 40
	}
	return uint64(max(0, limit-m.used)), uint64(limit), nil
}

// Lock implements FS.
func (m *Mem) Lock(name string) (io.Closer, error) {
	f, err := m.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := strings.Join(split(name), "/")
	if m.locks[key] {
		m.unlink(f.(*memFile).n)
		return nil, pathErr("lock", name, ErrLocked)
	}
	m.locks[key] = true
	return &memLock{File: f, m: m, key: key}, nil
}

type memLock struct {
	File
	m   *Mem
	key string
}

func (l *memLock) Close() error {
	if err := l.File.Close(); err != nil {
		return err
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.key)
	return nil
}

// memFile is a handle.
type memFile struct {
	m      *Mem
	n      *node
	name   string
	flag   int
	off    int64
	closed bool
}

// begin locks the file system for an operation of the handle.
func (f *memFile) begin(op string, writes bool) error {
	f.m.mu.Lock()
	var err error
	switch {
	case f.closed:
		err = fs.ErrClosed
	case f.n.isDir():
		err = syscall.EISDIR
	case writes && f.flag&(os.O_WRONLY|os.O_RDWR) == 0, !writes && f.flag&os.O_WRONLY != 0:
		err = syscall.EBADF
	}
	if err != nil {
		f.m.mu.Unlock()
		return pathErr(op, f.name, err)
	}
	return nil
}

func (f *memFile) Read(p []byte) (int, error) {
	if err := f.begin("read", false); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	n := f.n.read(p, f.off)
	f.off += int64(n)
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.begin("read", false); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if off < 0 {
		return 0, pathErr("read", f.name, syscall.EINVAL)
	}
	n := f.n.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (n *node) read(p []byte, off int64) int {
	done := 0
	for done < len(p) && off < n.size {
		within := int(off % pageSize)
		part := p[done : done+int(min(int64(len(p)-done), int64(pageSize-within), n.size-off))]
		if pg := n.pages[off/pageSize]; pg != nil {
			copy(part, pg[within:])
		} else {
			clear(part)
		}
		done += len(part)
		off += int64(len(part))
	}
	return done
}

func (f *memFile) Write(p []byte) (int, error) {
	if err := f.begin("write", true); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if f.flag&os.O_APPEND != 0 {
		f.off = f.n.size
	}
	n, err := f.write(p, f.off)
	f.off += int64(n)
	return n, err
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.begin("write", true); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if off < 0 || f.flag&os.O_APPEND != 0 {
		return 0, pathErr("write", f.name, syscall.EINVAL)
	}
	return f.write(p, off)
}

// write writes as much as there is space for.
func (f *memFile) write(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		i, within := int(off/pageSize), int(off%pageSize)
		if !f.m.reserve(f.n, i) {
			return done, pathErr("write", f.name, syscall.ENOSPC)
		}
		c := copy(f.n.own(i)[within:], p[done:])
		done += c
		off += int64(c)
		f.n.size = max(f.n.size, off)
	}
	f.n.mtime = time.Now()
	return done, nil
}

func (f *memFile) Seek(offset int64, whence int) (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	switch {
	case f.closed:
		return 0, pathErr("seek", f.name, fs.ErrClosed)
	case whence == io.SeekCurrent:
		offset += f.off
	case whence == io.SeekEnd:
		offset += f.n.size
	case whence != io.SeekStart:
		return 0, pathErr("seek", f.name, syscall.EINVAL)
	}
	if offset < 0 {
		return 0, pathErr("seek", f.name, syscall.EINVAL)
	}
	f.off = offset
	return offset, nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return pathErr("sync", f.name, fs.ErrClosed)
	}
	if !f.n.isDir() {
		f.n.sync()
	}
	return nil
}

func (f *memFile) Datasync() error { return f.Sync() }

func (f *memFile) Truncate(size int64) error {
	if err := f.begin("truncate", true); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if size < 0 {
		return pathErr("truncate", f.name, syscall.EINVAL)
	}
	f.m.resize(f.n, size)
	return nil
}

// Preallocate reserves all or nothing.
func (f *memFile) Preallocate(off, size int64) error {
	if err := f.begin("fallocate", true); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if off < 0 || size <= 0 {
		return pathErr("fallocate", f.name, syscall.EINVAL)
	}
	first, end := int(off/pageSize), pagesOf(off+size)
	missing := int64(0)
	for i := first; i < end; i++ {
		if at(f.n.pages, i) == nil {
			missing += pageSize
		}
	}
	if f.m.capacity > 0 && f.m.used+missing > f.m.capacity {
		return pathErr("fallocate", f.name, syscall.ENOSPC)
	}
	for i := first; i < end; i++ {
		f.m.reserve(f.n, i)
	}
	f.n.size = max(f.n.size, off+size)
	return nil
}

func (f *memFile) Stat() (fs.FileInfo, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return nil, pathErr("stat", f.name, fs.ErrClosed)
	}
	return f.n.info(filepath.Base(f.name)), nil
}

func (f *memFile) Name() string { return f.name }

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return pathErr("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	f.m.unlink(f.n)
	return nil
}

// memInfo is a snapshot.
type memInfo struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
}

func (n *node) info(name string) memInfo { return memInfo{name, n.size, n.mode, n.mtime} }

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) Mode() fs.FileMode  { return i.mode }
func (i memInfo) ModTime() time.Time { return i.mtime }
func (i memInfo) IsDir() bool        { return i.mode.IsDir() }
func (i memInfo) Sys() any           { return nil }
