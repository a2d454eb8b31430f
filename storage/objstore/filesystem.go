package objstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/loki-go/loki-go/internal/vfs"
)

// tempDir holds objects that are being written. It is not visible as a key.
const tempDir = ".loki-go-tmp"

// Filesystem is a Bucket in a directory: a key is the path of a file below it.
//
// An object is written to a temporary file, synced, renamed, and its directory
// synced. Objects that come together share these syncs. Temporary files are named after a lock file that their process
// holds, so that a later process knows which of them nobody will finish, and
// removes those.
type Filesystem struct {
	fs   vfs.FS
	root string
	temp string    // prefix of temporary files
	lock io.Closer // of this process's temporary files
	next atomic.Uint64

	mu   sync.Mutex
	dirs map[string]struct{} // directories known to be durable
	open *batch              // objects that wait for the next commit

	committing sync.Mutex // held while a batch is committed
}

// batch is a number of objects that become visible and durable together.
type batch struct {
	items []*item
	done  chan struct{} // closed when every item has its err
}

// item is an object in a temporary file.
type item struct {
	temp, path string
	w          vfs.File
	err        error
}

// syncAllFrom is how many objects it takes until two syncs of the whole volume
// cost less than three for every object.
const syncAllFrom = 4

// maxDirs bounds how many directories are remembered.
const maxDirs = 1 << 16

var _ Bucket = (*Filesystem)(nil)

// OpenFilesystem opens the bucket at root, creating the directory.
func OpenFilesystem(fsys vfs.FS, root string) (*Filesystem, error) {
	root = filepath.Clean(root)
	f := &Filesystem{fs: fsys, root: root, dirs: map[string]struct{}{}}
	temp := filepath.Join(root, tempDir)
	if err := fsys.MkdirAll(temp, 0o755); err != nil {
		return nil, fmt.Errorf("objstore: make %s: %w", temp, err)
	}
	if err := f.clean(temp); err != nil {
		return nil, fmt.Errorf("objstore: remove unfinished objects in %s: %w", temp, err)
	}
	for i := os.Getpid(); ; i++ {
		f.temp = filepath.Join(temp, strconv.Itoa(i))
		lock, err := fsys.Lock(f.temp + lockSuffix)
		if err == nil {
			f.lock = lock
			return f, nil
		}
		if !errors.Is(err, vfs.ErrLocked) {
			return nil, fmt.Errorf("objstore: lock %s: %w", f.temp, err)
		}
	}
}

const lockSuffix = ".lock"

// clean removes the temporary files of processes that are gone.
func (f *Filesystem) clean(temp string) error {
	entries, err := f.fs.ReadDir(temp)
	if err != nil {
		return err
	}
	alive := map[string]bool{}
	for _, e := range entries {
		owner, _, _ := strings.Cut(e.Name(), ".")
		if _, known := alive[owner]; known {
			continue
		}
		lock, err := f.fs.Lock(filepath.Join(temp, owner+lockSuffix))
		if alive[owner] = errors.Is(err, vfs.ErrLocked); alive[owner] {
			continue
		}
		if err != nil {
			return err
		}
		// Held until the end, so that nobody takes the name meanwhile.
		defer lock.Close()
		if err := f.remove(filepath.Join(temp, owner+lockSuffix)); err != nil {
			return err
		}
	}
	for _, e := range entries {
		owner, _, _ := strings.Cut(e.Name(), ".")
		if alive[owner] {
			continue
		}
		if err := f.remove(filepath.Join(temp, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a file that need not exist.
func (f *Filesystem) remove(name string) error {
	if err := f.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Close lets a later process remove what this one left behind. No other method
// may be running or be called after it.
func (f *Filesystem) Close() error {
	err := f.remove(f.temp + lockSuffix)
	return errors.Join(err, f.lock.Close())
}

// path checks key and returns the path of its file.
func (f *Filesystem) path(key string) (string, error) {
	if err := CheckKey(key); err != nil {
		return "", err
	}
	if key == tempDir || strings.HasPrefix(key, tempDir+"/") {
		return "", fmt.Errorf("objstore: key %q is reserved", key)
	}
	return filepath.Join(f.root, filepath.FromSlash(key)), nil
}

// Put is Bucket's.
func (f *Filesystem) Put(ctx context.Context, key string, body []byte) error {
	path, err := f.path(key)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("objstore: put %s: %w", key, err)
	}
	if err := f.put(path, body); err != nil {
		return fmt.Errorf("objstore: put %s: %w", key, err)
	}
	return nil
}

func (f *Filesystem) put(path string, body []byte) error {
	it := &item{path: path, temp: f.temp + "." + strconv.FormatUint(f.next.Add(1), 10)}
	it.err = it.write(f.fs, body)
	if it.err == nil {
		f.join(it)
	}
	if it.err != nil {
		_ = f.fs.Remove(it.temp) // if it fails, the next process tries again
	}
	return it.err
}

// write puts body into the temporary file and leaves that open.
func (it *item) write(fsys vfs.FS, body []byte) error {
	w, err := fsys.OpenFile(it.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := w.Write(body); err != nil {
		return errors.Join(err, w.Close())
	}
	it.w = w
	return nil
}

// join returns when it was committed: by this goroutine, with all that joined
// while the batch before was being committed, or by another.
func (f *Filesystem) join(it *item) {
	f.mu.Lock()
	b := f.open
	lead := b == nil
	if lead {
		b = &batch{done: make(chan struct{})}
		f.open = b
	}
	b.items = append(b.items, it)
	f.mu.Unlock()
	if !lead {
		<-b.done
		return
	}
	f.committing.Lock()
	defer f.committing.Unlock()
	f.mu.Lock()
	f.open = nil
	f.mu.Unlock()
	if len(b.items) < syncAllFrom {
		for _, it := range b.items {
			it.err = f.commitOne(it)
		}
	} else {
		f.commitMany(b.items)
	}
	close(b.done)
}

func (f *Filesystem) commitOne(it *item) error {
	if err := errors.Join(it.w.Sync(), it.w.Close()); err != nil {
		return err
	}
	dir := filepath.Dir(it.path)
	if err := f.rename(it, f.makeDir); err != nil {
		return err
	}
	return f.fs.SyncDir(dir)
}

// rename gives the object its name, in a directory that makeDir makes.
func (f *Filesystem) rename(it *item, makeDir func(string) error) error {
	dir := filepath.Dir(it.path)
	if err := makeDir(dir); err != nil {
		return err
	}
	err := f.fs.Rename(it.temp, it.path)
	if errors.Is(err, fs.ErrNotExist) {
		// Somebody removed the directory.
		f.forget(dir)
		if err = makeDir(dir); err == nil {
			err = f.fs.Rename(it.temp, it.path)
		}
	}
	return err
}

// commitMany syncs the volume before the objects get their names, so that none
// is ever seen in part, and again behind.
func (f *Filesystem) commitMany(items []*item) {
	err := f.fs.SyncAll(f.root)
	for _, it := range items {
		it.err = errors.Join(err, it.w.Close())
		if it.err == nil {
			it.err = f.rename(it, f.makeDirUnsynced)
		}
	}
	if err != nil {
		return
	}
	err = f.fs.SyncAll(f.root)
	for _, it := range items {
		if it.err != nil {
			continue
		}
		if it.err = err; err == nil {
			for d := filepath.Dir(it.path); len(d) > len(f.root) && !f.known(d); d = filepath.Dir(d) {
				f.remember(d)
			}
		}
	}
}

// makeDirUnsynced makes dir, which becomes durable with the next SyncAll.
func (f *Filesystem) makeDirUnsynced(dir string) error {
	if len(dir) <= len(f.root) || f.known(dir) {
		return nil
	}
	err := f.fs.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err = f.makeDirUnsynced(filepath.Dir(dir)); err == nil {
			err = f.fs.Mkdir(dir, 0o755)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// makeDir makes dir and sees to it that it is durable. That a directory exists
// is not enough: another Put, or a process that was killed, may have made it
// and not come to sync its parent.
func (f *Filesystem) makeDir(dir string) error {
	if len(dir) <= len(f.root) || f.known(dir) {
		return nil
	}
	// What MkdirAll makes is durable; what it finds need not be.
	var found, made []string
	for d := dir; len(d) > len(f.root) && !f.known(d); d = filepath.Dir(d) {
		switch _, err := f.fs.Stat(d); {
		case err == nil:
			found = append(found, d)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		made = append(made, d)
	}
	if err := f.fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, d := range found {
		if err := f.fs.SyncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	for _, d := range made { // only now all of the path is durable
		f.remember(d)
	}
	return nil
}

func (f *Filesystem) known(dir string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.dirs[dir]
	return ok
}

func (f *Filesystem) remember(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.dirs) >= maxDirs {
		clear(f.dirs)
	}
	f.dirs[dir] = struct{}{}
}

func (f *Filesystem) forget(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ; len(dir) > len(f.root); dir = filepath.Dir(dir) {
		delete(f.dirs, dir)
	}
}

// notFound maps what a file system says of a missing object.
func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR) {
		return ErrNotFound
	}
	return err
}

// Get is Bucket's.
func (f *Filesystem) Get(ctx context.Context, key string) ([]byte, error) {
	path, err := f.path(key)
	if err != nil {
		return nil, err
	}
	if err = ctx.Err(); err == nil {
		var body []byte
		if body, err = f.read(path); err == nil {
			return body, nil
		}
	}
	return nil, fmt.Errorf("objstore: get %s: %w", key, notFound(err))
}

func (f *Filesystem) read(path string) (body []byte, err error) {
	r, err := f.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	info, err := r.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fs.ErrNotExist
	}
	// Files never change once they have their name.
	body = make([]byte, info.Size())
	_, err = io.ReadFull(r, body)
	return body, err
}

// Stat is Bucket's.
func (f *Filesystem) Stat(ctx context.Context, key string) (Info, error) {
	path, err := f.path(key)
	if err != nil {
		return Info{}, err
	}
	if err = ctx.Err(); err == nil {
		var info fs.FileInfo
		if info, err = f.fs.Stat(path); err == nil && info.IsDir() {
			err = fs.ErrNotExist
		}
		if err == nil {
			return Info{Size: info.Size(), Modified: info.ModTime()}, nil
		}
	}
	return Info{}, fmt.Errorf("objstore: stat %s: %w", key, notFound(err))
}

// Delete is Bucket's. Directories stay.
func (f *Filesystem) Delete(ctx context.Context, key string) error {
	path, err := f.path(key)
	if err != nil {
		return err
	}
	if err = ctx.Err(); err == nil {
		var info fs.FileInfo
		if info, err = f.fs.Stat(path); err == nil && !info.IsDir() {
			if err = f.fs.Remove(path); err == nil {
				err = f.fs.SyncDir(filepath.Dir(path))
			}
		}
	}
	if err = notFound(err); err != nil && !IsNotFound(err) {
		return fmt.Errorf("objstore: delete %s: %w", key, err)
	}
	return nil
}

// List is Bucket's.
func (f *Filesystem) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	if err := CheckPrefix(prefix); err != nil {
		return nil, err
	}
	var keys []string
	dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if err := f.list(ctx, dir, prefix[len(dir):], recursive, &keys); err != nil {
		return nil, fmt.Errorf("objstore: list %s: %w", prefix, err)
	}
	slices.Sort(keys)
	return keys, nil
}

// list adds the keys in dir, which is empty or ends in a slash, whose next part
// begins with start.
func (f *Filesystem) list(ctx context.Context, dir, start string, recursive bool, keys *[]string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := f.fs.ReadDir(filepath.Join(f.root, filepath.FromSlash(dir)))
	if err != nil {
		if err = notFound(err); IsNotFound(err) {
			return nil
		}
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, start) || dir == "" && name == tempDir {
			continue
		}
		switch {
		case !e.IsDir():
			*keys = append(*keys, dir+name)
		case recursive:
			if err := f.list(ctx, dir+name+"/", "", true, keys); err != nil {
				return err
			}
		default:
			*keys = append(*keys, dir+name+"/")
		}
	}
	return nil
}
