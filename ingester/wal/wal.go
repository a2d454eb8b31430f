package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/vfs"
)

// LSN is the number of a record. The first one is 1.
type LSN uint64

// SegmentID is the number of a segment. The first one is 1.
type SegmentID uint64

// SyncMode says when a record is acknowledged.
type SyncMode uint8

const (
	SyncAlways   SyncMode = iota // after fdatasync
	SyncInterval                 // after the write; fdatasync follows within an interval
	SyncNever                    // after the write; the system syncs when it likes
)

// ParseSyncMode reads always, interval or never.
func ParseSyncMode(s string) (SyncMode, error) {
	for _, m := range []SyncMode{SyncAlways, SyncInterval, SyncNever} {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("must be always, interval or never, is %q", s)
}

func (m SyncMode) String() string { return [...]string{"always", "interval", "never"}[m] }

var (
	// ErrSegment is returned by Append when the segment that the record was
	// made for is not the current one.
	ErrSegment = errors.New("wal: not the current segment")
	// ErrDiskFull is returned by Wait when there was no space for the record.
	// Later records may succeed.
	ErrDiskFull = errors.New("wal: disk is full")
	// ErrClosed is returned by Append after Close.
	ErrClosed = errors.New("wal: closed")
)

// Options are the settings of a Log. The zero value gives the defaults.
type Options struct {
	Sync         SyncMode
	SyncInterval time.Duration // between syncs in mode interval; 100 ms
	SegmentSize  int64         // bytes; 64 MiB
	// First is a lower bound for the numbers of new records. Who keeps numbers
	// elsewhere passes one that is above all of them: without syncs a power
	// loss can take records away whose numbers would then be given again.
	First      LSN
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// maxPending is the default of Log.bound.
const maxPending = 64 << 20

// Log is a write-ahead log; see the package comment.
type Log struct {
	fs  vfs.FS
	dir string
	o   Options
	log *slog.Logger
	m   *metrics

	mu       sync.Mutex
	room     sync.Cond  // pending shrank, or the log was closed
	segments []*segment // those on disk, oldest first
	cur      *segment   // what Append adds to, on disk or not yet; nil: a new one
	lastID   SegmentID  // highest ever used
	next     LSN
	queue    []*group // what waits for the writer; the last one may be gathering
	open     *group   // the one that is gathering; nil if there is none
	pending  int
	bound    int      // how many bytes may wait to be written
	buffers  [][]byte // for groups
	full     []*segment
	replayed bool
	closed   bool

	truncating sync.Mutex
	removed    bool // a segment was, and the directory is not synced; guarded by truncating

	// For the writer alone, once it runs.
	active  *segment // the last one written to
	acked   LSN      // last acknowledged record
	sure    LSN      // see the format
	failing bool     // the last group failed

	spares  spares
	work    chan struct{} // the queue is not empty
	prepare chan struct{} // the preparer has something to do
	stop    chan struct{}
	writing sync.WaitGroup
	helping sync.WaitGroup

	done, total atomic.Int64 // bytes of the replay
}

// segment is a file of the log. id, first and salt never change.
type segment struct {
	id    SegmentID
	first LSN
	salt  uint32

	f        vfs.File // while it is written to
	capacity int64    // size to allocate

	// Guarded by Log.mu.
	end     int64 // where the next record goes
	written int64 // how much of it counts
	failed  error // why it takes no more records

	// For the writer alone, in mode interval.
	dirty bool // written to since the last sync
	named bool // its name is durable

	// As found by Open.
	size  int64
	head  header
	whole bool   // the header checks out
	dead  bool   // neither header nor records
	why   string // what is wrong with the header
}

// Open reads what is in dir, which is made if it is missing. The log is ready
// for Replay.
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
		fs: fsys, dir: dir, o: o, bound: maxPending, log: o.Log.With("component", "wal"), next: max(o.First, 1),
		work: make(chan struct{}, 1), prepare: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	l.room.L = &l.mu
	l.spares.l = l
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("wal: create %s: %w", dir, err)
	}
	if err := l.load(); err != nil {
		return nil, err
	}
	l.m = newMetrics(o.Registerer, l)
	l.writing.Add(1)
	go l.writer()
	l.helping.Add(1)
	go l.preparer()
	return l, nil
}

// CurrentSegment returns the segment that the next record goes to. It may not be
// on disk yet.
func (l *Log) CurrentSegment() SegmentID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.currentID()
}

func (l *Log) currentID() SegmentID {
	if l.cur != nil {
		return l.cur.id
	}
	return l.lastID + 1
}

// Next returns a number that no later record will be below.
func (l *Log) Next() LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// Oldest returns a number that no record in the log is below.
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
	First LSN   // no record of it is below
	Bytes int64 // header and records
}

// Segments lists the segments on disk, oldest first.
func (l *Log) Segments() []SegmentInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]SegmentInfo, len(l.segments))
	for i, s := range l.segments {
		out[i] = SegmentInfo{s.id, s.first, s.written}
	}
	return out
}

// Size returns the bytes of all segments, without what is allocated in advance.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(0)
	for _, s := range l.segments {
		n += s.written
	}
	return n
}

// Truncate deletes the segments all of whose records are below keep, but for the
// newest. It returns when they are gone for good.
func (l *Log) Truncate(keep LSN) error {
	l.truncating.Lock()
	defer l.truncating.Unlock()
	for {
		// One by one: were several removals lost in part, a segment in the
		// middle would be missing.
		if l.removed {
			if err := l.fs.SyncDir(l.dir); err != nil {
				return fmt.Errorf("wal: sync %s: %w", l.dir, err)
			}
			l.removed = false
			l.kick(l.prepare) // there may be space again
		}
		l.mu.Lock()
		if len(l.segments) < 2 || l.segments[1].first > keep {
			l.mu.Unlock()
			return nil
		}
		s := l.segments[0]
		l.mu.Unlock()
		if err := l.fs.Remove(segmentName(l.dir, s.id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("wal: remove segment %d: %w", uint64(s.id), err)
		}
		l.removed = true
		l.mu.Lock()
		l.segments = l.segments[1:]
		l.mu.Unlock()
	}
}

// Close writes what was appended and closes the files. A Replay must have
// returned.
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
	l.writing.Wait()
	l.helping.Wait()
	var err error
	if s := l.active; s != nil && s.failed == nil {
		err = l.retire(s)
	}
	return errors.Join(err, l.spares.close())
}

// kick wakes the goroutine that waits for c.
func (l *Log) kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
