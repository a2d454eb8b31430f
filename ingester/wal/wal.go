// Package wal is a segmented write-ahead log with group commit. It knows
// nothing of what is in a record.
//
// # Use
//
// Open finds the end of what an earlier process left, Replay hands out its
// records once, Append adds one to the group that is being gathered, and
// Ticket.Wait returns when the group is durable. One goroutine writes groups, one
// after the other: while one is being written and synced, the next gathers, so
// that one fdatasync serves every push that waits. Truncate deletes segments
// from the front. All methods are safe for concurrent use.
//
// # Format
//
// A segment "NNNNNNNNNNNNNNNN.wal" (hexadecimal id, no gaps) is preallocated.
// Integers are little-endian.
//
//	segment header, 40 bytes:
//	  u64 magic "LKGOWAL1" · u64 id · u64 first LSN · u64 salt · u32 crc32c(so far) · u32 0
//	record, padded with zeros to a multiple of 8:
//	  u32 magic 0x57A1C0DE · u32 length · u64 LSN · u32 crc32c(payload) ·
//	  u32 crc32c(the fields so far, salt) · payload
//
// A record lies in one segment; its LSN is the number of the record, from 1,
// ascending, with gaps where writing failed. Behind the last record are zeros.
// The salt is random and keeps bytes that a client sent from being taken for a
// record when the log is searched for one.
//
// # Damage
//
// The end of the newest segment is what a crash may tear: it is cut behind the
// last whole record, and nothing is ever appended behind it; a new segment is
// begun. Anywhere else a record that does not check out is corruption: it is
// reported with segment and offset, counted, and skipped by looking for the next
// valid record at a multiple of 8. A segment that is missing in the row, or has
// lost its header, is reported and counted too.
//
// # Failing writes
//
// When a write or a sync fails, every waiter of that group and of those behind
// it in the segment gets the error, and the segment is given up: its pages may be
// lost in spite of a later, successful sync. It is cut behind the last durable
// record and the log goes on in a new one. Records of a failed group should not
// be seen again, but may be, if the cut fails too. A full disk fails Append with
// ErrDiskFull before anything is written, since segments are preallocated; the
// log goes on by itself when there is space.
package wal

import (
	"context"
	"crypto/rand"
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
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/vfs"
)

// LSN is the number of a record.
type LSN uint64

// SegmentID is the number of a segment.
type SegmentID uint64

// SyncMode says when a record counts as durable.
type SyncMode uint8

const (
	SyncAlways   SyncMode = iota // after fdatasync
	SyncInterval                 // after the write; fdatasync follows within an interval
	SyncNever                    // after the write; the system syncs when it likes
)

// ParseSyncMode reads always, interval or never.
func ParseSyncMode(s string) (SyncMode, error) {
	switch s {
	case "always":
		return SyncAlways, nil
	case "interval":
		return SyncInterval, nil
	case "never":
		return SyncNever, nil
	}
	return 0, fmt.Errorf("must be always, interval or never, is %q", s)
}

// Errors of Append and Wait.
var (
	// ErrSegment: the segment that the record was made for is no longer the
	// current one; nothing was appended.
	ErrSegment = errors.New("wal: not the current segment")
	// ErrDiskFull: there is no space for another segment; nothing was appended.
	ErrDiskFull = errors.New("wal: disk full")
	// ErrClosed: the log is closed.
	ErrClosed = errors.New("wal: closed")
)

const (
	segmentMagic  = 0x314C41574F474B4C // "LKGOWAL1"
	segmentHeader = 40
	recordMagic   = 0x57A1C0DE
	recordHeader  = 24
	suffix        = ".wal"
	// maxRecord bounds a record's payload: it must fit into memory with all
	// around it.
	maxRecord = 1 << 30
	// maxPending is how many bytes may wait to be written; Append blocks
	// beyond it.
	maxPending = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Options configure a Log. Zero values give defaults.
type Options struct {
	Sync         SyncMode
	SyncInterval time.Duration // with SyncInterval; 100 ms
	SegmentSize  int64         // bytes; 64 MiB
	// First is a number that no record may be below: what is known elsewhere
	// of records must not be taken to be about new ones.
	First      LSN
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Log is a write-ahead log.
type Log struct {
	fs  vfs.FS
	dir string
	o   Options
	log *slog.Logger
	m   *metrics

	mu        sync.Mutex
	room      sync.Cond  // pending shrank, preparing ended, or the log was closed
	segments  []*segment // oldest first; the last one is current unless it was given up
	next      LSN
	group     *group // being gathered; nil if empty
	queue     []*group
	pending   int
	closed    bool
	spare     *segment // made ahead, not in segments yet
	preparing bool     // the file of the next segment is being made
	buffers   [][]byte

	work      chan struct{} // something is in queue or group
	wantSpare chan struct{}
	stop      chan struct{}
	wg        sync.WaitGroup

	replayed      bool
	done, total   atomic.Int64 // bytes, of a replay
	corruptAtOpen int
}

// segment is one file.
type segment struct {
	id     SegmentID
	first  LSN
	salt   uint64
	f      vfs.File
	size   int64 // of the file
	end    int64 // where the next record goes
	synced int64 // how far its records are durable; for the writer alone
	dirty  bool  // written since the last sync; for the writer alone
	failed bool  // given up
	sealed bool  // recovered: nothing is appended
}

// group is what one write and one sync make durable.
type group struct {
	seg  *segment
	off  int64
	buf  []byte
	done chan struct{}
	err  error
}

// Ticket stands for an appended record.
type Ticket struct {
	LSN LSN
	g   *group
}

// Wait returns when the record is as durable as the mode promises, or could not
// be made so. ctx ends the waiting, not the write.
func (t Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.g.done:
		return t.g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Open reads dir, which is made if it is missing.
func Open(fsys vfs.FS, dir string, o Options) (*Log, error) {
	if o.SegmentSize <= 0 {
		o.SegmentSize = 64 << 20
	}
	if o.SyncInterval <= 0 {
		o.SyncInterval = 100 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Log{
		fs: fsys, dir: dir, o: o, log: o.Log.With("component", "wal"), next: max(o.First, 1),
		work: make(chan struct{}, 1), wantSpare: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	l.room.L = &l.mu
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("wal: create %s: %w", dir, err)
	}
	if err := l.load(); err != nil {
		l.closeFiles()
		return nil, err
	}
	l.m = newMetrics(o.Registerer, l)
	l.m.corruptions.Add(float64(l.corruptAtOpen))
	l.wg.Add(2)
	go l.writer()
	go l.preparer()
	return l, nil
}

func (l *Log) path(id SegmentID) string {
	return filepath.Join(l.dir, fmt.Sprintf("%016x%s", uint64(id), suffix))
}

// load finds the segments and the end of the log.
func (l *Log) load() error {
	list, err := l.fs.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("wal: list %s: %w", l.dir, err)
	}
	var ids []SegmentID
	for _, de := range list {
		name, ok := strings.CutSuffix(de.Name(), suffix)
		if !ok {
			continue
		}
		if id, err := strconv.ParseUint(name, 16, 64); err == nil {
			ids = append(ids, SegmentID(id))
		}
	}
	sort.Slice(ids, func(a, b int) bool { return ids[a] < ids[b] })
	var headless []*segment
	for _, id := range ids {
		s := &segment{id: id, sealed: true}
		if s.f, err = l.fs.OpenFile(l.path(id), os.O_RDWR, 0o644); err != nil {
			return fmt.Errorf("wal: open: %w", err)
		}
		st, err := s.f.Stat()
		if err != nil {
			s.f.Close()
			return fmt.Errorf("wal: stat %s: %w", s.f.Name(), err)
		}
		s.size, s.end = st.Size(), st.Size()
		ok, err := s.readHeader()
		if err != nil || !ok {
			s.f.Close()
		}
		if err != nil {
			return err
		}
		if !ok {
			headless = append(headless, s)
			continue
		}
		for _, h := range headless {
			if h.size > 0 { // else it was given up before anything in it was durable
				l.corrupt(h.id, 0, "segment header does not check out, the segment is left out")
			}
		}
		headless = nil
		if n := len(l.segments); n > 0 && l.segments[n-1].id+1 != id && !contains(ids, id-1) {
			l.corrupt(l.segments[n-1].id+1, 0, "segment is missing")
		}
		l.segments = append(l.segments, s)
	}
	// At the end they are segments that were made ahead, or whose first write
	// did not reach the disk.
	for _, h := range headless {
		if err := l.fs.Remove(l.path(h.id)); err != nil {
			return fmt.Errorf("wal: remove unused segment: %w", err)
		}
	}
	if n := len(l.segments); n > 0 {
		last := l.segments[n-1]
		if err := l.findEnd(last); err != nil {
			return err
		}
		l.next = max(l.next, last.first)
	}
	for _, s := range l.segments {
		l.total.Add(s.end)
	}
	return nil
}

func contains(ids []SegmentID, id SegmentID) bool {
	for _, x := range ids {
		if x == id {
			return true
		}
	}
	return false
}

// findEnd determines where the newest segment ends and cuts what is behind.
func (l *Log) findEnd(s *segment) error {
	end := int64(segmentHeader)
	_, err := l.read(s, nil, func(lsn LSN, at, next int64, payload []byte) error {
		end = next
		l.next = max(l.next, lsn+1)
		return nil
	}, nil)
	if err != nil {
		return err
	}
	if end < s.size {
		if err := s.f.Truncate(end); err != nil {
			return fmt.Errorf("wal: cut %s: %w", s.f.Name(), err)
		}
	}
	s.size, s.end = end, end
	// The process may have died without the machine: what was read may be in
	// the page cache alone.
	if err := s.f.Datasync(); err != nil {
		return fmt.Errorf("wal: sync %s: %w", s.f.Name(), err)
	}
	return nil
}

func (l *Log) corrupt(id SegmentID, off int64, why string) {
	l.corruptAtOpen++
	l.log.Error("WAL does not check out", "err", (&CorruptionError{id, off, why}).Error())
}

// CorruptionError says where a segment does not check out.
type CorruptionError struct {
	Segment SegmentID
	Offset  int64
	Reason  string
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("wal: segment %016x, offset %d: %s", uint64(e.Segment), e.Offset, e.Reason)
}

func (s *segment) readHeader() (bool, error) {
	var h [segmentHeader]byte
	n, err := s.f.ReadAt(h[:], 0)
	if n < len(h) {
		if err != nil && !errors.Is(err, io.EOF) {
			return false, fmt.Errorf("wal: read %s: %w", s.f.Name(), err)
		}
		return false, nil
	}
	if binary.LittleEndian.Uint64(h[:]) != segmentMagic || SegmentID(binary.LittleEndian.Uint64(h[8:])) != s.id ||
		crc32.Checksum(h[:32], castagnoli) != binary.LittleEndian.Uint32(h[32:]) {
		return false, nil
	}
	s.first, s.salt = LSN(binary.LittleEndian.Uint64(h[16:])), binary.LittleEndian.Uint64(h[24:])
	return true, nil
}

func (s *segment) header() []byte {
	h := make([]byte, segmentHeader)
	binary.LittleEndian.PutUint64(h, segmentMagic)
	binary.LittleEndian.PutUint64(h[8:], uint64(s.id))
	binary.LittleEndian.PutUint64(h[16:], uint64(s.first))
	binary.LittleEndian.PutUint64(h[24:], s.salt)
	binary.LittleEndian.PutUint32(h[32:], crc32.Checksum(h[:32], castagnoli))
	return h
}

// headerCRC is the checksum of a record header whose first 20 bytes are h.
func headerCRC(h []byte, salt uint64) uint32 {
	var s [8]byte
	binary.LittleEndian.PutUint64(s[:], salt)
	return crc32.Update(crc32.Checksum(h[:20], castagnoli), castagnoli, s[:])
}

// CurrentSegment returns the segment that the next record would go to. An
// Append for another one fails.
func (l *Log) CurrentSegment() SegmentID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.currentID()
}

// currentID returns the id of the current segment, or the one that the next
// segment will have. Call with mu held.
func (l *Log) currentID() SegmentID {
	n := len(l.segments)
	if n == 0 {
		return 1
	}
	if s := l.segments[n-1]; !s.sealed && !s.failed {
		return s.id
	}
	return l.segments[n-1].id + 1
}

// Next returns the number that the next record will get, or more.
func (l *Log) Next() LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// Append adds a record, the concatenation of payload, to the current group. If
// seg is not the current segment it returns ErrSegment and the segment that is.
// It blocks while too much waits to be written.
func (l *Log) Append(seg SegmentID, payload ...[]byte) (Ticket, SegmentID, error) {
	size, crc := 0, uint32(0)
	for _, p := range payload {
		size += len(p)
		crc = crc32.Update(crc, castagnoli, p)
	}
	if size > maxRecord {
		return Ticket{}, seg, fmt.Errorf("wal: record of %d bytes is larger than %d", size, maxRecord)
	}
	need := int64(align(recordHeader + size))
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.pending > maxPending && !l.closed {
		l.room.Wait()
	}
	for !l.fits(need) && l.preparing && !l.closed {
		l.room.Wait()
	}
	if l.closed {
		return Ticket{}, seg, ErrClosed
	}
	if cur := l.currentID(); cur != seg {
		return Ticket{}, cur, ErrSegment
	}
	s, err := l.segmentFor(need)
	if err != nil {
		return Ticket{}, seg, err
	}
	if s.id != seg {
		return Ticket{}, s.id, ErrSegment
	}
	g := l.group
	if g == nil {
		g = &group{seg: s, off: s.end, done: make(chan struct{})}
		if n := len(l.buffers); n > 0 {
			g.buf = l.buffers[n-1][:0]
			l.buffers = l.buffers[:n-1]
		}
		l.group = g
	}
	lsn := l.next
	l.next++
	at := len(g.buf)
	g.buf = append(g.buf, make([]byte, recordHeader)...)
	h := g.buf[at:]
	binary.LittleEndian.PutUint32(h, recordMagic)
	binary.LittleEndian.PutUint32(h[4:], uint32(size))
	binary.LittleEndian.PutUint64(h[8:], uint64(lsn))
	binary.LittleEndian.PutUint32(h[16:], crc)
	binary.LittleEndian.PutUint32(h[20:], headerCRC(h, s.salt))
	for _, p := range payload {
		g.buf = append(g.buf, p...)
	}
	for len(g.buf)%8 != 0 {
		g.buf = append(g.buf, 0)
	}
	s.end += need
	l.pending += int(need)
	l.m.appended.Add(float64(need))
	l.m.records.Inc()
	l.signal()
	return Ticket{lsn, g}, seg, nil
}

func align(n int) int { return (n + 7) &^ 7 }

func (l *Log) signal() {
	select {
	case l.work <- struct{}{}:
	default:
	}
}

// fits reports whether the current segment has room for need bytes. Call with
// mu held.
func (l *Log) fits(need int64) bool {
	n := len(l.segments)
	if n == 0 {
		return false
	}
	s := l.segments[n-1]
	return !s.sealed && !s.failed && s.end+need <= s.size
}

// segmentFor returns the current segment if it has room for need bytes, else a
// new one. Call with mu held, and not while the next one is being prepared.
func (l *Log) segmentFor(need int64) (*segment, error) {
	if l.fits(need) {
		return l.segments[len(l.segments)-1], nil
	}
	size := max(l.o.SegmentSize, segmentHeader+need)
	s := l.spare
	l.spare = nil
	if s == nil || s.size < size || s.id != l.nextID() {
		if s != nil {
			s.f.Close()
			_ = l.fs.Remove(l.path(s.id))
		}
		var err error
		if s, err = l.create(l.nextID(), size); err != nil {
			return nil, err
		}
	}
	s.first = l.next
	// The group that was gathered goes to the old segment. The new one begins
	// with its header.
	l.closeGroup()
	l.segments = append(l.segments, s)
	l.group = &group{seg: s, buf: s.header(), done: make(chan struct{})}
	s.end = segmentHeader
	l.pending += segmentHeader
	select {
	case l.wantSpare <- struct{}{}:
	default:
	}
	return s, nil
}

// nextID is the id of the segment behind the newest. Call with mu held.
func (l *Log) nextID() SegmentID {
	if n := len(l.segments); n > 0 {
		return l.segments[n-1].id + 1
	}
	return 1
}

// create makes a segment file of size bytes.
func (l *Log) create(id SegmentID, size int64) (*segment, error) {
	s := &segment{id: id, size: size}
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return nil, fmt.Errorf("wal: salt: %w", err)
	}
	s.salt = binary.LittleEndian.Uint64(salt[:])
	f, err := l.fs.OpenFile(l.path(id), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err == nil {
		s.f = f
		if err = f.Preallocate(0, size); err == nil {
			err = f.Sync() // size and extents, so that a commit has only data to sync
		}
		if err == nil {
			err = l.fs.SyncDir(l.dir)
		}
		if err != nil {
			f.Close()
			_ = l.fs.Remove(l.path(id))
		}
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		l.m.writeErrors.Inc()
		return nil, fmt.Errorf("%w: making a segment of %d bytes: %v", ErrDiskFull, size, err)
	}
	if err != nil {
		l.m.writeErrors.Inc()
		return nil, fmt.Errorf("wal: create segment: %w", err)
	}
	return s, nil
}

// closeGroup queues the group that was gathered. Call with mu held.
func (l *Log) closeGroup() {
	if l.group != nil {
		l.queue = append(l.queue, l.group)
		l.group = nil
	}
}

// preparer makes the next segment ahead of time.
func (l *Log) preparer() {
	defer l.wg.Done()
	for {
		select {
		case <-l.stop:
			return
		case <-l.wantSpare:
		}
		l.mu.Lock()
		id := l.nextID()
		if l.spare != nil || l.closed {
			l.mu.Unlock()
			continue
		}
		l.preparing = true // nobody else makes the file of this name
		l.mu.Unlock()
		s, err := l.create(id, l.o.SegmentSize)
		if err != nil {
			l.log.Warn("making a WAL segment ahead failed", "err", err)
			s = nil
		}
		l.mu.Lock()
		l.spare, l.preparing = s, false
		l.mu.Unlock()
		l.room.Broadcast()
	}
}

// writer writes and syncs groups.
func (l *Log) writer() {
	defer l.wg.Done()
	var tick <-chan time.Time
	if l.o.Sync == SyncInterval {
		t := time.NewTicker(l.o.SyncInterval)
		defer t.Stop()
		tick = t.C
	}
	dirty := map[*segment]bool{}
	for {
		select {
		case <-l.work:
		case <-tick:
			l.syncAll(dirty)
			continue
		case <-l.stop:
			for l.writeNext(dirty) {
			}
			l.syncAll(dirty)
			return
		}
		for l.writeNext(dirty) {
		}
	}
}

// syncAll syncs what was written without.
func (l *Log) syncAll(dirty map[*segment]bool) {
	for s := range dirty {
		// One that was truncated away meanwhile is closed.
		if err := l.sync(s); err != nil && !errors.Is(err, os.ErrClosed) {
			l.giveUp(s, err)
		}
		delete(dirty, s)
	}
}

func (l *Log) sync(s *segment) error {
	began := time.Now()
	err := s.f.Datasync()
	l.m.fsync.Observe(time.Since(began).Seconds())
	return err
}

// writeNext writes the oldest group; false if there is none.
func (l *Log) writeNext(dirty map[*segment]bool) bool {
	l.mu.Lock()
	if len(l.queue) == 0 {
		l.closeGroup()
	}
	if len(l.queue) == 0 {
		l.mu.Unlock()
		return false
	}
	g := l.queue[0]
	l.queue = l.queue[1:]
	failed := g.seg.failed
	l.mu.Unlock()
	var err error
	if failed {
		err = errors.New("an earlier write to the segment failed")
	} else if _, err = g.seg.f.WriteAt(g.buf, g.off); err == nil {
		switch l.o.Sync {
		case SyncAlways:
			err = l.sync(g.seg)
		case SyncInterval, SyncNever:
			dirty[g.seg] = true
		}
	}
	l.m.commits.Inc()
	if err == nil {
		g.seg.synced = g.off + int64(len(g.buf))
	} else {
		if !failed {
			l.giveUp(g.seg, err)
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			err = fmt.Errorf("%w: %v", ErrDiskFull, err)
		}
		g.err = fmt.Errorf("wal: commit: %w", err)
	}
	l.mu.Lock()
	l.pending -= len(g.buf)
	if len(l.buffers) < 2 && cap(g.buf) <= maxPending {
		l.buffers = append(l.buffers, g.buf)
	}
	g.buf = nil
	l.mu.Unlock()
	l.room.Broadcast()
	close(g.done)
	return true
}

// giveUp ends a segment whose write or sync failed.
func (l *Log) giveUp(s *segment, err error) {
	l.m.writeErrors.Inc()
	l.log.Error("writing the WAL failed, the segment is given up", "segment", uint64(s.id), "err", err)
	l.mu.Lock()
	s.failed = true
	l.mu.Unlock()
	end := max(s.synced, 0)
	if l.o.Sync == SyncAlways {
		if terr := s.f.Truncate(end); terr != nil {
			l.log.Warn("cutting a WAL segment that was given up failed", "segment", uint64(s.id), "err", terr)
		}
		_ = s.f.Datasync()
	}
}

// Truncate deletes the segments whose records are all below keep.
func (l *Log) Truncate(keep LSN) error {
	l.mu.Lock()
	var gone []*segment
	for len(l.segments) > 1 && l.segments[1].first <= keep && l.written(l.segments[0]) {
		gone = append(gone, l.segments[0])
		l.segments = l.segments[1:]
	}
	l.mu.Unlock()
	for _, s := range gone {
		s.f.Close()
		if err := l.fs.Remove(l.path(s.id)); err != nil {
			return fmt.Errorf("wal: remove segment: %w", err)
		}
	}
	if len(gone) > 0 {
		if err := l.fs.SyncDir(l.dir); err != nil {
			return fmt.Errorf("wal: sync %s: %w", l.dir, err)
		}
		select { // space may have come back
		case l.wantSpare <- struct{}{}:
		default:
		}
	}
	return nil
}

// written reports whether nothing of s waits to be written. Call with mu held.
func (l *Log) written(s *segment) bool {
	for _, g := range l.queue {
		if g.seg == s {
			return false
		}
	}
	return l.group == nil || l.group.seg != s
}

// Oldest returns the number of the oldest record that the log may have.
func (l *Log) Oldest() LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.segments) > 0 {
		return l.segments[0].first
	}
	return l.next
}

// SegmentInfo describes a segment.
type SegmentInfo struct {
	ID    SegmentID
	First LSN   // number of its first record
	Bytes int64 // of records
}

// Segments lists the segments, oldest first.
func (l *Log) Segments() []SegmentInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]SegmentInfo, 0, len(l.segments))
	for _, s := range l.segments {
		out = append(out, SegmentInfo{s.id, s.first, s.end})
	}
	return out
}

// Size returns the bytes of all records in the log.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(0)
	for _, s := range l.segments {
		n += s.end
	}
	return n
}

// Close writes and syncs what was appended and closes the files.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	l.mu.Unlock()
	l.room.Broadcast()
	close(l.stop)
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.spare; s != nil {
		s.f.Close()
		_ = l.fs.Remove(l.path(s.id))
	}
	return l.closeFiles()
}

func (l *Log) closeFiles() error {
	var errs []error
	for _, s := range l.segments {
		errs = append(errs, s.f.Close())
	}
	return errors.Join(errs...)
}
