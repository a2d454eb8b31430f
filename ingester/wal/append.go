package wal

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
)

// group is what one write and one sync acknowledge. It is filled under Log.mu
// until the writer takes it.
type group struct {
	seg         *segment
	off         int64 // in the file
	first, last LSN
	buf         []byte
	done        chan struct{} // closed when err is set
	err         error
}

// Ticket stands for an appended record.
type Ticket struct {
	LSN LSN
	g   *group
}

// Wait returns when the record is as durable as the sync mode promises, or when
// it could not be made so. ctx ends the waiting, not the write.
func (t Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.g.done:
		return t.g.err
	default:
	}
	select {
	case <-t.g.done:
		return t.g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errNotReplayed = errors.New("wal: append before replay")

// Append adds a record, the concatenation of payload, to the group that is
// gathering. Nothing is known of it before Wait returns. If seg is not the
// current segment, or the record has no room in it, nothing is added, and
// ErrSegment is returned with the segment to make it for. Append blocks while
// too much waits to be written.
func (l *Log) Append(seg SegmentID, payload ...[]byte) (Ticket, SegmentID, error) {
	size, crc := 0, uint32(0)
	for _, p := range payload {
		size += len(p)
		crc = crc32.Update(crc, castagnoli, p)
	}
	if size > maxRecord {
		return Ticket{}, seg, fmt.Errorf("wal: record of %d bytes, more than %d", size, maxRecord)
	}
	need := align(recordHeader + size)

	l.mu.Lock()
	defer l.mu.Unlock()
	for l.pending > l.bound && !l.closed {
		l.room.Wait()
	}
	switch {
	case l.closed:
		return Ticket{}, seg, ErrClosed
	case !l.replayed:
		return Ticket{}, seg, errNotReplayed
	}
	if cur := l.currentID(); cur != seg {
		return Ticket{}, cur, ErrSegment
	}
	if l.cur == nil {
		l.begin(need)
	} else if l.cur.end+int64(need) > l.cur.capacity {
		l.begin(need)
		return Ticket{}, l.cur.id, ErrSegment
	}
	g := l.gather()
	lsn := l.next
	l.next++
	g.last = lsn
	g.buf = slices.Grow(g.buf, need)
	at := len(g.buf)
	g.buf = g.buf[:at+recordHeader]
	putRecordHeader(g.buf[at:], g.seg.salt, lsn, uint32(size), uint32(lsn-g.first), crc)
	for _, p := range payload {
		g.buf = append(g.buf, p...)
	}
	for len(g.buf) < at+need {
		g.buf = append(g.buf, 0)
	}
	if len(g.buf) >= maxGroup {
		l.open = nil
	}
	g.seg.end += int64(need)
	l.pending += need
	l.m.appended.Add(float64(need))
	l.m.records.Inc()
	l.kick(l.work)
	return Ticket{lsn, g}, seg, nil
}

// begin makes a new segment current. The writer creates its file. A segment for
// a record that needs more than the usual size has room for others too: they may
// come first.
func (l *Log) begin(need int) {
	l.lastID++
	size := l.o.SegmentSize
	if int64(need) > size-headerSize {
		size += headerSize + int64(need)
	}
	salt := rand.Uint32()
	for salt == 0 {
		salt = rand.Uint32()
	}
	l.cur = &segment{id: l.lastID, first: l.next, salt: salt, capacity: size, end: headerSize}
	l.open = nil
}

// gather returns the group that is gathering for the current segment.
func (l *Log) gather() *group {
	if l.open != nil {
		return l.open
	}
	g := &group{seg: l.cur, off: l.cur.end, first: l.next, done: make(chan struct{})}
	if n := len(l.buffers); n > 0 {
		g.buf = l.buffers[n-1][:0]
		l.buffers = l.buffers[:n-1]
	}
	if g.off == headerSize {
		// The segment's header goes in front. Only the writer can know what it
		// says of the records before.
		g.off = 0
		g.buf = append(g.buf, make([]byte, headerSize)...)
		l.pending += headerSize
	}
	l.open = g
	l.queue = append(l.queue, g)
	return g
}

// take returns the oldest group for the writer, nil if there is none.
func (l *Log) take() *group {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil
	}
	g := l.queue[0]
	l.queue = l.queue[1:]
	if g == l.open {
		l.open = nil
	}
	return g
}

const (
	// maxGroup is the size at which a group takes no more records. A sync costs
	// little next to writing that much, and buffers stay of a size that can be
	// kept: up to maxBuffers of up to maxBuffer bytes.
	maxGroup   = 4 << 20
	maxBuffer  = 2 * maxGroup
	maxBuffers = 4
)

// finish releases those who wait for g.
func (l *Log) finish(g *group, err error) {
	l.mu.Lock()
	l.pending -= len(g.buf)
	if len(l.buffers) < maxBuffers && cap(g.buf) <= maxBuffer {
		l.buffers = append(l.buffers, g.buf)
	}
	l.mu.Unlock()
	g.buf, g.err = nil, err
	l.room.Broadcast()
	close(g.done)
}
