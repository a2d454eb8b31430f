// Package vfs is the file layer under everything durable in loki-go: the WAL,
// the block files and the filesystem object store.
//
// OS is the real one. Mem keeps files in memory, knows what was synced and
// what was not, and can be crashed: CrashClone returns what a machine would
// find after losing power. Fault wraps any layer and makes operations fail,
// tear or lie on demand. All implementations are safe for concurrent use.
package vfs

import (
	"errors"
	"io"
	"io/fs"
)

// ErrLocked is returned by FS.Lock when another process (or, for Mem, another
// caller) holds the lock.
var ErrLocked = errors.New("vfs: locked by another process")

// FS is what loki-go needs of a file system. Paths use the host's separator.
type FS interface {
	// OpenFile is os.OpenFile. A file that it created is durable under its
	// name only after SyncDir of the directory.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Rename replaces newname atomically; durable after SyncDir.
	Rename(oldname, newname string) error
	// Remove deletes a file or an empty directory; durable after SyncDir.
	Remove(name string) error
	// MkdirAll creates dir and its parents. It is durable on return.
	MkdirAll(dir string, perm fs.FileMode) error
	// Mkdir makes one directory. It is durable after SyncDir of its parent or
	// SyncAll.
	Mkdir(name string, perm fs.FileMode) error
	// ReadDir lists a directory sorted by name.
	ReadDir(dir string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes creations, renames and removals in dir durable.
	SyncDir(dir string) error
	// SyncAll makes everything durable that was done before on the volume of
	// dir, contents and names. With many small files it is much cheaper than
	// syncing each of them.
	SyncAll(dir string) error
	// Free returns the bytes that an unprivileged writer can still use on the
	// volume of dir, and the volume's size.
	Free(dir string) (free, total uint64, err error)
	// Lock takes an exclusive advisory lock on name, creating it; it fails with
	// ErrLocked at once if it is held.
	Lock(name string) (io.Closer, error)
}

// File is an open file.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.WriterAt
	io.Seeker
	io.Closer
	// Sync makes content and size durable (fsync).
	Sync() error
	// Datasync makes content, and the size if it changed, durable (fdatasync).
	Datasync() error
	Truncate(size int64) error
	// Preallocate reserves disk space for [off, off+size) and extends the file
	// to at least off+size with zeros. It fails with ENOSPC when there is none.
	Preallocate(off, size int64) error
	Stat() (fs.FileInfo, error)
	Name() string
}
