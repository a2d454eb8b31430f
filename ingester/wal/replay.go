package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/loki-go/loki-go/internal/vfs"
)

// chunkSize is how much is read at a time, and chunksAhead how many of them are
// read before they are needed.
const (
	chunkSize   = 1 << 20
	chunksAhead = 4
)

// load finds the segments and the end of the log, and cuts the torn tail.
func (l *Log) load() error {
	list, err := l.fs.ReadDir(l.dir) // sorted by name, which is by id
	if err != nil {
		return fmt.Errorf("wal: list %s: %w", l.dir, err)
	}
	for _, e := range list {
		id, ok := parseName(e.Name())
		if !ok {
			l.spares.found(e.Name())
			continue
		}
		s := &segment{id: id}
		if err := l.inspect(s); err != nil {
			return err
		}
		l.segments = append(l.segments, s)
		l.lastID = id
	}
	if err := l.findEnd(); err != nil {
		return err
	}
	// A segment without anything counts as one that ends where the next begins.
	first := l.next
	for i := len(l.segments) - 1; i >= 0; i-- {
		s := l.segments[i]
		if s.dead {
			s.first = first
		}
		first = s.first
		s.written = s.size
		if !s.dead {
			l.total.Add(s.size)
		}
	}
	return nil
}

// inspect reads what s says about itself.
func (l *Log) inspect(s *segment) error {
	f, err := l.fs.OpenFile(segmentName(l.dir, s.id), os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("wal: open segment %d: %w", uint64(s.id), err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("wal: stat segment %d: %w", uint64(s.id), err)
	}
	s.size = info.Size()
	p := make([]byte, headerSize)
	n, err := f.ReadAt(p, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("wal: read segment %d: %w", uint64(s.id), err)
	}
	if s.why, err = s.head.parse(p[:n], s.id); err != nil {
		return err
	}
	if s.why == "" {
		s.whole, s.first, s.salt = true, s.head.first, s.head.salt
		return nil
	}
	// The first record that checks out tells the rest.
	sc := s.scanner(readChunks(f, s.size))
	r, ok, err := sc.next()
	if err != nil {
		return fmt.Errorf("wal: read segment %d: %w", uint64(s.id), err)
	}
	if !ok {
		s.dead = true
		if !zeros(p[:n]) || !sc.tail.zeros && sc.tail.reason != "" {
			l.log.Warn("nothing in a WAL segment can be read", "segment", uint64(s.id), "reason", s.why)
		}
		return nil
	}
	s.first, s.salt = r.lsn, sc.salt
	s.head = header{first: r.lsn, last: r.lsn - 1, sure: r.lsn - 1}
	return nil
}

// scanner returns a scanner for the records in src, the file's content behind the
// header.
func (s *segment) scanner(src chunks) *scanner {
	return &scanner{src: src, size: s.size, off: headerSize, salt: s.salt, low: s.first}
}

// readChunks reads f, of size bytes, from the first record on.
func readChunks(f vfs.File, size int64) chunks {
	off := int64(headerSize)
	var buf []byte
	return func() ([]byte, error) {
		if buf == nil {
			buf = make([]byte, min(chunkSize, max(0, size-off)))
		}
		n, err := f.ReadAt(buf, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		off += int64(n)
		return buf[:n], nil
	}
}

// findEnd reads the newest segment that has records to its end. Behind the last
// record it is cut.
func (l *Log) findEnd() error {
	var s *segment
	for _, c := range l.segments {
		if !c.dead {
			s = c
			// Files that were mixed up may have larger numbers in front; what is
			// appended must come behind all of them.
			l.next = max(l.next, c.first)
		}
	}
	if s == nil {
		return nil
	}
	f, err := l.fs.OpenFile(segmentName(l.dir, s.id), os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("wal: open segment %d: %w", uint64(s.id), err)
	}
	defer f.Close()
	sc := s.scanner(readChunks(f, s.size))
	l.acked, l.sure = s.first-1, s.first-1
	end := int64(headerSize)
	for {
		r, ok, err := sc.next()
		if err != nil {
			return fmt.Errorf("wal: read segment %d: %w", uint64(s.id), err)
		}
		if !ok {
			break
		}
		l.acked, l.sure, end = r.lsn, r.lsn-LSN(min(uint64(r.place), uint64(r.lsn-1)))-1, r.end
	}
	l.next = max(l.next, l.acked+1)
	if sc.tail.reason != "" && !sc.tail.zeros {
		l.log.Warn("the last write to the WAL is torn, which a crash does to what was not acknowledged; cutting it off",
			"segment", uint64(s.id), "offset", end, "reason", sc.tail.reason)
	}
	if end < s.size {
		s.size = end
		l.cut(s)
	}
	return nil
}

// cut shortens s to its size. The log is whole without, so that a disk that
// cannot be written to does not matter here.
func (l *Log) cut(s *segment) {
	f, err := l.fs.OpenFile(segmentName(l.dir, s.id), os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(f.Truncate(s.size), f.Close())
	}
	if err != nil {
		l.log.Warn("cutting the WAL behind its last record failed", "segment", uint64(s.id), "err", err)
	}
}

// ReplayStats says what a replay found.
type ReplayStats struct {
	Records     int
	Bytes       int64  // of the segments
	Corruptions int    // places at which acknowledged records are missing
	Lost        uint64 // acknowledged records that are missing
}

// Progress returns how many bytes of how many the replay has done.
func (l *Log) Progress() (done, total int64) { return l.done.Load(), l.total.Load() }

// Replay calls fn for every record, in order, with a payload that is valid during
// the call. It has to be called once, before the first Append. An error of fn
// ends it. Damage does not: it is logged and counted, see the package comment.
func (l *Log) Replay(ctx context.Context, fn func(lsn LSN, payload []byte) error) (ReplayStats, error) {
	l.mu.Lock()
	var live []*segment
	have := map[SegmentID]bool{}
	for _, s := range l.segments {
		have[s.id] = true
		if !s.dead {
			live = append(live, s)
		}
	}
	replayed := l.replayed
	l.mu.Unlock()
	if replayed {
		return ReplayStats{}, errors.New("wal: replayed twice")
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &replay{l: l, ctx: ctx, fn: fn, segments: live, have: have, ahead: l.readAhead(ctx, live)}
	err := p.run()
	cancel()
	p.ahead.wait()
	if err != nil {
		return p.stats, err
	}
	if n := p.stats.Corruptions; n > maxReports {
		l.log.Error("the WAL has more damage than was logged", "places", n)
	}
	l.settle(live)
	l.mu.Lock()
	l.replayed = true
	l.mu.Unlock()
	l.kick(l.prepare)
	return p.stats, nil
}

// settle makes durable what was replayed. If only the process had died, the end
// of the log may be in the page cache alone. All of that was not acknowledged, so
// that a failure is no reason not to start.
func (l *Log) settle(live []*segment) {
	if len(live) == 0 || l.o.Sync == SyncNever {
		return
	}
	s := live[len(live)-1]
	f, err := l.fs.OpenFile(segmentName(l.dir, s.id), os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(f.Datasync(), f.Close(), l.fs.SyncDir(l.dir))
	}
	if err != nil {
		l.log.Warn("syncing the end of the WAL failed", "segment", uint64(s.id), "err", err)
	}
}

// maxReports bounds the log lines about a log that is damaged all over.
const maxReports = 100

// replay is a Replay that runs.
type replay struct {
	l        *Log
	ctx      context.Context
	fn       func(LSN, []byte) error
	segments []*segment
	have     map[SegmentID]bool // files that are there
	ahead    *readAhead
	stats    ReplayStats
}

func (p *replay) run() error {
	seen := LSN(0)
	for i, s := range p.segments {
		if s.why != "" {
			p.corrupt(CorruptionError{Segment: s.id, Reason: s.why})
		}
		// What is behind s says how far s counts.
		last, sure, missing := p.l.acked, p.l.sure, SegmentID(0)
		if i+1 < len(p.segments) {
			h := p.segments[i+1].head
			last, sure = h.last, h.sure
			if h.prevID != 0 && h.prevID != s.id && !p.have[h.prevID] {
				missing = h.prevID
			}
		}
		if s.first > last+1 { // it has nothing that counts
			last = s.first - 1
		}
		n, err := p.segment(i, s, max(seen, s.first-1), last, sure, missing)
		if err != nil {
			return err
		}
		seen = n
		p.stats.Bytes += s.size
		p.l.done.Store(p.stats.Bytes)
	}
	return nil
}

// segment replays the records of s with numbers above seen, up to last. Missing
// ones up to sure are corruption.
func (p *replay) segment(i int, s *segment, seen, last, sure LSN, missing SegmentID) (LSN, error) {
	sc := s.scanner(func() ([]byte, error) { return p.ahead.next(i) })
	sc.low = seen + 1
	lost := func(upTo LSN, d damage, c CorruptionError) {
		c.First, c.Last = seen+1, min(upTo, sure)
		if d.reason != "" {
			c.Offset, c.Reason = d.off, d.reason
		}
		if c.First <= c.Last {
			p.corrupt(c)
		}
	}
	end := int64(headerSize)
	for {
		if err := p.ctx.Err(); err != nil {
			return seen, err
		}
		r, ok, err := sc.next()
		if err != nil {
			return seen, fmt.Errorf("wal: read segment %d: %w", uint64(s.id), err)
		}
		if !ok || r.lsn > last {
			break
		}
		if r.lsn > seen+1 {
			lost(r.lsn-1, r.skipped, CorruptionError{Segment: s.id, Offset: r.off, Reason: "records are missing"})
		}
		seen, end = r.lsn, r.end
		p.stats.Records++
		if err := p.fn(r.lsn, r.payload); err != nil {
			return seen, err
		}
		p.l.done.Store(p.stats.Bytes + min(r.end, s.size))
	}
	switch {
	case seen >= last:
	case missing != 0:
		lost(last, damage{}, CorruptionError{Segment: missing, Reason: "segment is missing"})
	default:
		lost(last, sc.tail, CorruptionError{Segment: s.id, Offset: end, Reason: "records are missing at the end"})
	}
	return max(seen, last), nil
}

// corrupt reports lost records.
func (p *replay) corrupt(c CorruptionError) {
	p.stats.Corruptions++
	if c.First > 0 {
		p.stats.Lost += uint64(c.Last-c.First) + 1
	}
	p.l.m.corruptions.Inc()
	if p.stats.Corruptions <= maxReports {
		p.l.log.Error("the WAL is damaged", "segment", uint64(c.Segment), "offset", c.Offset, "err", &c)
	}
}

// readAhead reads segments one after the other in a goroutine of its own.
type readAhead struct {
	pieces chan piece
	free   chan []byte
	done   chan struct{}
	ctx    context.Context

	held piece // read, but of a later segment than asked for
	last []byte
}

// piece is a part of segment i; its end if data is empty.
type piece struct {
	i    int
	data []byte
	err  error
}

func (l *Log) readAhead(ctx context.Context, segments []*segment) *readAhead {
	a := &readAhead{
		pieces: make(chan piece, chunksAhead), free: make(chan []byte, chunksAhead), done: make(chan struct{}), ctx: ctx,
		held: piece{i: -1},
	}
	for range chunksAhead {
		a.free <- nil
	}
	go func() {
		defer close(a.done)
		for i, s := range segments {
			if !a.read(l, i, s) {
				return
			}
		}
	}()
	return a
}

// wait returns when the goroutine has ended, for which ctx has to end first.
func (a *readAhead) wait() { <-a.done }

// read reads segment i; false if nobody wants more.
func (a *readAhead) read(l *Log, i int, s *segment) bool {
	f, err := l.fs.OpenFile(segmentName(l.dir, s.id), os.O_RDONLY, 0)
	if err != nil {
		return a.send(piece{i: i, err: err})
	}
	defer f.Close()
	off := int64(headerSize)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.ctx.Done():
			return false
		}
		want := int(min(chunkSize, max(0, s.size-off)))
		if cap(buf) < want {
			buf = make([]byte, want)
		}
		n, err := f.ReadAt(buf[:want], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return a.send(piece{i: i, err: err})
		}
		if n == 0 {
			a.free <- buf
			return a.send(piece{i: i})
		}
		off += int64(n)
		if !a.send(piece{i: i, data: buf[:n]}) {
			return false
		}
	}
}

func (a *readAhead) send(p piece) bool {
	select {
	case a.pieces <- p:
		return p.err == nil
	case <-a.ctx.Done():
		return false
	}
}

// next returns the next piece of segment i, which is valid until the next call.
// Pieces of segments before it are passed over.
func (a *readAhead) next(i int) ([]byte, error) {
	for {
		if a.held.i < i || a.held.i == i && a.held.data != nil {
			if a.last != nil {
				a.free <- a.last
				a.last = nil
			}
			select {
			case a.held = <-a.pieces:
			case <-a.ctx.Done():
				return nil, a.ctx.Err()
			}
			a.last = a.held.data
		}
		if a.held.err != nil {
			return nil, a.held.err
		}
		if a.held.i >= i {
			break
		}
	}
	if a.held.i > i || a.held.data == nil {
		return nil, nil
	}
	return a.held.data, nil
}
