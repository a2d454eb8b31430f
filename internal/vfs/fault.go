package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// Op names an operation to a Hook.
type Op string

// The operations. OpCreate is an OpenFile that may create, OpOpen any other;
// OpRead and OpWrite are also ReadAt and WriteAt. Rename is asked about with
// the old name.
const (
	OpOpen        Op = "open"
	OpCreate      Op = "create"
	OpRename      Op = "rename"
	OpRemove      Op = "remove"
	OpMkdir       Op = "mkdir"
	OpMkdirAll    Op = "mkdirall"
	OpReadDir     Op = "readdir"
	OpStat        Op = "stat"
	OpSyncDir     Op = "syncdir"
	OpSyncAll     Op = "syncall"
	OpFree        Op = "free"
	OpLock        Op = "lock"
	OpRead        Op = "read"
	OpWrite       Op = "write"
	OpSync        Op = "sync"
	OpDatasync    Op = "datasync"
	OpTruncate    Op = "truncate"
	OpPreallocate Op = "preallocate"
	OpClose       Op = "close"
)

// Hook decides about an operation before it is done. nil lets it happen. An
// error is returned in its place, but for two: ErrLie and what ShortWrite
// returns. Hooks are called from any goroutine, before any lock is taken.
type Hook func(op Op, path string) error

// ErrLie makes a Sync, Datasync, SyncDir, SyncAll or write report success and do nothing.
// Other operations return it.
var ErrLie = errors.New("vfs: pretend that it was done")

// ShortWrite makes a write put down its first n bytes and return err. Other
// operations fail with err.
func ShortWrite(n int, err error) error { return &shortWrite{n, err} }

type shortWrite struct {
	n   int
	err error
}

func (s *shortWrite) Error() string { return "vfs: short write: " + s.err.Error() }
func (s *shortWrite) Unwrap() error { return s.err }

// Fault wraps fsys such that hook is asked about every operation.
func Fault(fsys FS, hook Hook) FS { return &faultFS{fsys, hook} }

type faultFS struct {
	fs   FS
	hook Hook
}

// ask wraps what the hook returns as the operating system would.
func (f *faultFS) ask(op Op, path string) error {
	err := f.hook(op, path)
	if err == nil || err == ErrLie {
		return err
	}
	var short *shortWrite
	if errors.As(err, &short) {
		err = short.err
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return err
	}
	return &fs.PathError{Op: string(op), Path: path, Err: err}
}

func (f *faultFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	op := OpOpen
	if flag&os.O_CREATE != 0 {
		op = OpCreate
	}
	if err := f.ask(op, name); err != nil {
		return nil, err
	}
	file, err := f.fs.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f, name: name}, nil
}

func (f *faultFS) Rename(oldname, newname string) error {
	if err := f.ask(OpRename, oldname); err != nil {
		return err
	}
	return f.fs.Rename(oldname, newname)
}

func (f *faultFS) Remove(name string) error {
	if err := f.ask(OpRemove, name); err != nil {
		return err
	}
	return f.fs.Remove(name)
}

func (f *faultFS) Mkdir(name string, perm fs.FileMode) error {
	if err := f.ask(OpMkdir, name); err != nil {
		return err
	}
	return f.fs.Mkdir(name, perm)
}

func (f *faultFS) SyncAll(dir string) error {
	return f.orLie(OpSyncAll, dir, func() error { return f.fs.SyncAll(dir) })
}

func (f *faultFS) MkdirAll(dir string, perm fs.FileMode) error {
	if err := f.ask(OpMkdirAll, dir); err != nil {
		return err
	}
	return f.fs.MkdirAll(dir, perm)
}

func (f *faultFS) ReadDir(dir string) ([]fs.DirEntry, error) {
	if err := f.ask(OpReadDir, dir); err != nil {
		return nil, err
	}
	return f.fs.ReadDir(dir)
}

func (f *faultFS) Stat(name string) (fs.FileInfo, error) {
	if err := f.ask(OpStat, name); err != nil {
		return nil, err
	}
	return f.fs.Stat(name)
}

func (f *faultFS) SyncDir(dir string) error {
	return f.orLie(OpSyncDir, dir, func() error { return f.fs.SyncDir(dir) })
}

func (f *faultFS) Free(dir string) (free, total uint64, err error) {
	if err := f.ask(OpFree, dir); err != nil {
		return 0, 0, err
	}
	return f.fs.Free(dir)
}

func (f *faultFS) Lock(name string) (io.Closer, error) {
	if err := f.ask(OpLock, name); err != nil {
		return nil, err
	}
	return f.fs.Lock(name)
}

func (f *faultFS) orLie(op Op, path string, do func() error) error {
	switch err := f.ask(op, path); err {
	case nil:
		return do()
	case ErrLie:
		return nil
	default:
		return err
	}
}

type faultFile struct {
	File
	fs   *faultFS
	name string // as given to OpenFile, which is what hooks know
}

func (f *faultFile) Read(p []byte) (int, error) {
	if err := f.fs.ask(OpRead, f.name); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask(OpRead, f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) Write(p []byte) (int, error) { return f.write(p, f.File.Write) }

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(p, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *faultFile) write(p []byte, do func([]byte) (int, error)) (int, error) {
	err := f.fs.hook(OpWrite, f.name)
	var short *shortWrite
	switch {
	case err == nil:
		return do(p)
	case err == ErrLie:
		return len(p), nil
	case errors.As(err, &short):
		n, werr := do(p[:max(0, min(short.n, len(p)))])
		if werr != nil {
			return n, werr
		}
		return n, &fs.PathError{Op: "write", Path: f.name, Err: short.err}
	}
	return 0, &fs.PathError{Op: "write", Path: f.name, Err: err}
}

func (f *faultFile) Sync() error { return f.fs.orLie(OpSync, f.name, f.File.Sync) }

func (f *faultFile) Datasync() error { return f.fs.orLie(OpDatasync, f.name, f.File.Datasync) }

func (f *faultFile) Truncate(size int64) error {
	if err := f.fs.ask(OpTruncate, f.name); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Preallocate(off, size int64) error {
	if err := f.fs.ask(OpPreallocate, f.name); err != nil {
		return err
	}
	return f.File.Preallocate(off, size)
}

func (f *faultFile) Stat() (fs.FileInfo, error) {
	if err := f.fs.ask(OpStat, f.name); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

// Close closes the file in any case, as the operating system does.
func (f *faultFile) Close() error {
	err := f.fs.ask(OpClose, f.name)
	if cerr := f.File.Close(); err == nil {
		err = cerr
	}
	return err
}

func (f *faultFile) Name() string { return f.name }
