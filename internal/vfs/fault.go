package vfs

import "io/fs"

// Op names an operation for the hook of Fault.
type Op string

// Operations that a hook sees.
const (
	OpOpen        Op = "open"   // of a file that exists
	OpCreate      Op = "create" // open with O_CREATE
	OpRename      Op = "rename"
	OpRemove      Op = "remove"
	OpSyncDir     Op = "syncdir"
	OpRead        Op = "read"
	OpWrite       Op = "write"
	OpSync        Op = "sync"
	OpDatasync    Op = "datasync"
	OpTruncate    Op = "truncate"
	OpPreallocate Op = "preallocate"
)

// ErrLie, returned by a hook for OpSync, OpDatasync or OpSyncDir, makes the
// operation report success without doing anything.
var ErrLie error = lie{}

type lie struct{}

func (lie) Error() string { return "vfs: lie" }

// ShortWrite, returned by a hook for OpWrite, writes only the first N bytes and
// then fails with Err.
type ShortWrite struct {
	N   int
	Err error
}

func (e ShortWrite) Error() string { return e.Err.Error() }
func (e ShortWrite) Unwrap() error { return e.Err }

// Fault wraps fsys. Before each operation hook is asked; an error that it
// returns is the operation's outcome. The hook is called from many goroutines.
func Fault(fsys FS, hook func(op Op, path string) error) FS { return &faultFS{fsys, hook} }

type faultFS struct {
	FS
	hook func(Op, string) error
}

func (f *faultFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	op := OpOpen
	if flag&createFlag != 0 {
		op = OpCreate
	}
	if err := f.hook(op, name); err != nil {
		return nil, &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{file, f.hook}, nil
}

func (f *faultFS) Rename(oldname, newname string) error {
	if err := f.hook(OpRename, newname); err != nil {
		return &fs.PathError{Op: "rename", Path: newname, Err: err}
	}
	return f.FS.Rename(oldname, newname)
}

func (f *faultFS) Remove(name string) error {
	if err := f.hook(OpRemove, name); err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return f.FS.Remove(name)
}

func (f *faultFS) SyncDir(dir string) error {
	if err := f.hook(OpSyncDir, dir); err != nil {
		return lieOr(err, OpSyncDir, dir)
	}
	return f.FS.SyncDir(dir)
}

func lieOr(err error, op Op, path string) error {
	if err == ErrLie {
		return nil
	}
	return &fs.PathError{Op: string(op), Path: path, Err: err}
}

type faultFile struct {
	File
	hook func(Op, string) error
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.hook(OpRead, f.Name()); err != nil {
		return 0, &fs.PathError{Op: "read", Path: f.Name(), Err: err}
	}
	return f.File.ReadAt(p, off)
}

func (f *faultFile) Read(p []byte) (int, error) {
	if err := f.hook(OpRead, f.Name()); err != nil {
		return 0, &fs.PathError{Op: "read", Path: f.Name(), Err: err}
	}
	return f.File.Read(p)
}

func (f *faultFile) write(p []byte, do func([]byte) (int, error)) (int, error) {
	err := f.hook(OpWrite, f.Name())
	if err == nil {
		return do(p)
	}
	n := 0
	if s, ok := err.(ShortWrite); ok {
		n, _ = do(p[:min(s.N, len(p))])
		err = s.Err
	}
	return n, &fs.PathError{Op: "write", Path: f.Name(), Err: err}
}

func (f *faultFile) Write(p []byte) (int, error) { return f.write(p, f.File.Write) }

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(p, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *faultFile) Sync() error {
	if err := f.hook(OpSync, f.Name()); err != nil {
		return lieOr(err, OpSync, f.Name())
	}
	return f.File.Sync()
}

func (f *faultFile) Datasync() error {
	if err := f.hook(OpDatasync, f.Name()); err != nil {
		return lieOr(err, OpDatasync, f.Name())
	}
	return f.File.Datasync()
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.hook(OpTruncate, f.Name()); err != nil {
		return &fs.PathError{Op: "truncate", Path: f.Name(), Err: err}
	}
	return f.File.Truncate(size)
}

func (f *faultFile) Preallocate(off, size int64) error {
	if err := f.hook(OpPreallocate, f.Name()); err != nil {
		return &fs.PathError{Op: "preallocate", Path: f.Name(), Err: err}
	}
	return f.File.Preallocate(off, size)
}
