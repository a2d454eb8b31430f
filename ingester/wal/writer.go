package wal

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// writer writes one group after the other until Close.
func (l *Log) writer() {
	defer l.writing.Done()
	var tick <-chan time.Time
	if l.o.Sync == SyncInterval {
		t := time.NewTicker(l.o.SyncInterval)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-l.work:
			l.drain(tick)
		case <-tick:
			l.syncActive()
		case <-l.stop:
			l.drain(nil)
			l.syncActive()
			return
		}
	}
}

// drain commits all groups.
func (l *Log) drain(tick <-chan time.Time) {
	for g := l.take(); g != nil; g = l.take() {
		l.commit(g)
		select {
		case <-tick:
			l.syncActive()
		default:
		}
	}
}

// commit writes g and tells those who wait.
func (l *Log) commit(g *group) {
	s := g.seg
	if s.failed != nil {
		l.finish(g, s.failed)
		return
	}
	if err := l.write(g); err != nil {
		l.giveUp(s, err)
		l.finish(g, s.failed)
		return
	}
	l.mu.Lock()
	s.written = g.off + int64(len(g.buf))
	if s != l.active {
		l.segments = append(l.segments, s)
		if l.active != nil && l.active.failed == nil {
			l.full = append(l.full, l.active)
		}
	}
	l.mu.Unlock()
	if s != l.active {
		l.active = s
		l.kick(l.prepare)
	}
	s.dirty = true
	l.acked, l.sure = g.last, g.last
	l.m.commits.Inc()
	if l.failing {
		l.failing = false
		l.log.Info("the WAL can be written again", "segment", uint64(s.id))
	}
	l.finish(g, nil)
}

// write puts g on disk, as far as the sync mode wants it.
func (l *Log) write(g *group) error {
	s := g.seg
	fresh := ""
	if s.f == nil {
		l.syncActive() // segments become durable in order
		var err error
		if s.f, fresh, err = l.spares.take(s.capacity); err != nil {
			return err
		}
		l.header(s).put(g.buf)
	}
	err := l.writeFile(g)
	if fresh == "" {
		return err
	}
	// The name comes last: a file that has it has its header.
	name := segmentName(l.dir, s.id)
	if err == nil {
		if err = l.fs.Rename(fresh, name); err == nil {
			fresh = name
			if l.o.Sync == SyncAlways {
				err = l.fs.SyncDir(l.dir)
			}
		}
	}
	if err != nil {
		s.f.Close()
		s.f = nil
		if rerr := l.fs.Remove(fresh); rerr != nil && fresh == name {
			// Truncate has to remove it in its turn: left alone, it would look
			// one day as if the segments behind it were missing.
			l.mu.Lock()
			l.segments = append(l.segments, s)
			l.mu.Unlock()
		}
		return fmt.Errorf("wal: begin segment %d: %w", uint64(s.id), err)
	}
	return nil
}

func (l *Log) writeFile(g *group) error {
	if _, err := g.seg.f.WriteAt(g.buf, g.off); err != nil {
		return fmt.Errorf("wal: write segment %d: %w", uint64(g.seg.id), err)
	}
	if l.o.Sync != SyncAlways {
		return nil
	}
	return l.sync(g.seg)
}

// header is what s says of itself and of what is before it.
func (l *Log) header(s *segment) *header {
	h := &header{salt: s.salt, id: s.id, first: s.first, last: l.acked, sure: l.sure}
	l.mu.Lock()
	if n := len(l.segments); n > 0 {
		h.prevID = l.segments[n-1].id
	}
	l.mu.Unlock()
	return h
}

func (l *Log) sync(s *segment) error {
	began := time.Now()
	err := s.f.Datasync()
	l.m.fsync.Observe(time.Since(began).Seconds())
	if err != nil {
		return fmt.Errorf("wal: sync segment %d: %w", uint64(s.id), err)
	}
	return nil
}

// syncActive makes what was written durable, in mode interval.
func (l *Log) syncActive() {
	s := l.active
	if l.o.Sync != SyncInterval || s == nil || s.failed != nil || !s.dirty {
		return
	}
	err := l.sync(s)
	if err == nil && !s.named {
		if err = l.fs.SyncDir(l.dir); err == nil {
			s.named = true
		}
	}
	s.dirty = false // a sync that failed is not made good by another
	if err != nil {
		l.giveUp(s, err)
	}
}

// giveUp ends segment s, to which a write or sync failed. Records of it that
// wait are failed by the writer when it gets to them.
func (l *Log) giveUp(s *segment, err error) {
	l.m.writeErrors.Inc()
	if full(err) {
		err = fmt.Errorf("%w: %w", ErrDiskFull, err)
		l.spares.releaseBallast()
	}
	if !l.failing {
		l.failing = true
		l.log.Error("the WAL cannot be written, what waits is refused and the segment given up", "segment", uint64(s.id), "err", err)
	}
	l.mu.Lock()
	s.failed = err
	if l.cur == s {
		l.cur, l.open = nil, nil
	}
	l.mu.Unlock()
	if s.f != nil {
		if err := l.retire(s); err != nil {
			l.log.Warn("cutting a WAL segment that was given up failed", "segment", uint64(s.id), "err", err)
		}
	}
}

// retire cuts s behind its last record and closes it.
func (l *Log) retire(s *segment) error {
	l.mu.Lock()
	end := s.written
	l.mu.Unlock()
	err := s.f.Truncate(end)
	if s.failed != nil && err == nil {
		// What was not acknowledged had better not come back.
		err = s.f.Datasync()
	}
	if cerr := s.f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("wal: cut segment %d: %w", uint64(s.id), err)
	}
	return nil
}

// full reports whether err means that there is no space.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
