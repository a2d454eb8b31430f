package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/loki-go/loki-go/internal/vfs"
)

// spares keeps one segment's worth of disk space allocated ahead, and the
// ballast.
type spares struct {
	l       *Log
	mu      sync.Mutex
	f       vfs.File // the spare; nil if there is none
	path    string
	n       uint64   // of the last file made
	left    []string // spares of an earlier process, not looked at yet
	ballast bool
	warned  bool
}

// preparer does what need not be done while somebody waits for a commit.
func (l *Log) preparer() {
	defer l.helping.Done()
	for {
		select {
		case <-l.prepare:
			l.retireFull()
			l.spares.fill()
		case <-l.stop:
			l.writing.Wait() // it may fill another segment
			l.retireFull()
			return
		}
	}
}

func (l *Log) retireFull() {
	l.mu.Lock()
	list := l.full
	l.full = nil
	l.mu.Unlock()
	for _, s := range list {
		if err := l.retire(s); err != nil {
			l.log.Warn("closing a full WAL segment failed", "err", err)
		}
	}
}

// found notes a file that an earlier process left.
func (sp *spares) found(name string) {
	if name == ballastName {
		sp.ballast = true
		return
	}
	if digits, ok := strings.CutSuffix(name, newSuffix); ok {
		if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
			sp.n = max(sp.n, n)
			sp.left = append(sp.left, filepath.Join(sp.l.dir, name))
		}
	}
}

// adopt takes the spare of an earlier process over, if it was not written to:
// on a full disk there may be no other. Call with mu held.
func (sp *spares) adopt() {
	for _, path := range sp.left {
		if sp.f == nil {
			if f := sp.unwritten(path); f != nil {
				sp.f, sp.path = f, path
				continue
			}
		}
		if err := sp.l.fs.Remove(path); err != nil {
			sp.l.log.Warn("removing a spare WAL segment failed", "err", err)
		}
	}
	sp.left = nil
}

func (sp *spares) unwritten(path string) vfs.File {
	f, err := sp.l.fs.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	var p [headerSize]byte
	info, err := f.Stat()
	if err == nil && info.Size() == sp.l.o.SegmentSize {
		if _, err = io.ReadFull(io.NewSectionReader(f, 0, headerSize), p[:]); err == nil && zeros(p[:]) {
			return f
		}
	}
	f.Close()
	return nil
}

// take returns a file of at least size bytes and its name.
func (sp *spares) take(size int64) (vfs.File, string, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.adopt()
	if sp.f != nil && size <= sp.l.o.SegmentSize {
		f := sp.f
		sp.f = nil
		return f, sp.path, nil
	}
	return sp.create(size)
}

// fill makes a spare and the ballast if they are missing.
func (sp *spares) fill() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.adopt()
	if sp.f == nil {
		f, path, err := sp.create(sp.l.o.SegmentSize)
		if err != nil {
			if !sp.warned {
				sp.l.log.Warn("allocating a WAL segment ahead failed", "err", err)
			}
			sp.warned = true
			return
		}
		sp.f, sp.path, sp.warned = f, path, false
	}
	if !sp.ballast {
		sp.makeBallast()
	}
}

// ballastSize is how much space others have when there is none for segments.
func (sp *spares) ballastSize() int64 { return sp.l.o.SegmentSize / 4 }

// create allocates a file. Call with mu held.
func (sp *spares) create(size int64) (vfs.File, string, error) {
	if !sp.ballast {
		// What was released for others is not to be taken for the log.
		free, _, err := sp.l.fs.Free(sp.l.dir)
		if want := size + sp.ballastSize(); err == nil && free < uint64(want) {
			return nil, "", fmt.Errorf("wal: allocate segment: %w: %d bytes are free, %d needed", syscall.ENOSPC, free, want)
		}
	}
	sp.n++
	path := filepath.Join(sp.l.dir, fmt.Sprintf("%020d%s", sp.n, newSuffix))
	f, err := sp.l.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, "", fmt.Errorf("wal: create segment: %w", err)
	}
	err = f.Preallocate(0, size)
	if err == nil && sp.l.o.Sync != SyncNever {
		err = f.Sync() // so that a commit has less to sync
	}
	if err != nil {
		f.Close()
		_ = sp.l.fs.Remove(path) // if it fails, too, the next start does it
		return nil, "", fmt.Errorf("wal: allocate segment of %d bytes: %w", size, err)
	}
	return f, path, nil
}

// makeBallast allocates the ballast if that leaves space for others.
func (sp *spares) makeBallast() {
	l := sp.l
	size := sp.ballastSize()
	if free, _, err := l.fs.Free(l.dir); err != nil || free < uint64(l.o.SegmentSize+2*size) {
		return
	}
	path := filepath.Join(l.dir, ballastName)
	f, err := l.fs.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		err = errors.Join(f.Preallocate(0, size), f.Close())
		if err != nil {
			_ = l.fs.Remove(path)
		}
	}
	if err != nil {
		l.log.Warn("allocating the ballast of the WAL failed", "err", err)
		return
	}
	sp.ballast = true
}

// releaseBallast gives the ballast's space to others.
func (sp *spares) releaseBallast() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if !sp.ballast {
		return
	}
	if err := sp.l.fs.Remove(filepath.Join(sp.l.dir, ballastName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		sp.l.log.Warn("removing the ballast of the WAL failed", "err", err)
		return
	}
	sp.ballast = false
	sp.l.log.Warn("disk is full, the ballast of the WAL is released", "bytes", sp.ballastSize())
}

// close leaves the spare for the next start.
func (sp *spares) close() error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.f == nil {
		return nil
	}
	f := sp.f
	sp.f = nil
	return f.Close()
}
