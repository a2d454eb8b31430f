package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ReplayStats says what a replay found.
type ReplayStats struct {
	Records     int
	Bytes       int64 // of segments
	Corruptions int   // places in which records were lost, missing segments included
}

// Replay calls fn for every record, in order, with a payload that is valid
// during the call. It must be called once, before the first Append; an error of
// fn ends it.
func (l *Log) Replay(ctx context.Context, fn func(lsn LSN, payload []byte) error) (ReplayStats, error) {
	l.mu.Lock()
	if l.replayed {
		l.mu.Unlock()
		return ReplayStats{}, errors.New("wal: replayed twice")
	}
	l.replayed = true
	var segs []*segment
	for _, s := range l.segments {
		if s.sealed {
			segs = append(segs, s)
		}
	}
	stats := ReplayStats{Corruptions: l.corruptAtOpen}
	l.mu.Unlock()

	// The next segment is read while this one is being replayed.
	type loaded struct {
		buf []byte
		err error
	}
	load := func(s *segment, buf []byte) chan loaded {
		ch := make(chan loaded, 1)
		go func() {
			buf, err := s.load(buf)
			ch <- loaded{buf, err}
		}()
		return ch
	}
	var ahead chan loaded
	var free []byte
	if len(segs) > 0 {
		ahead = load(segs[0], nil)
	}
	for k, s := range segs {
		cur := <-ahead
		if k+1 < len(segs) {
			ahead = load(segs[k+1], free)
		}
		if cur.err != nil {
			if k+1 < len(segs) {
				<-ahead
			}
			return stats, cur.err
		}
		n, err := l.read(s, cur.buf, func(lsn LSN, at, next int64, payload []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			stats.Records++
			l.done.Store(stats.Bytes + next)
			return fn(lsn, payload)
		}, func(at int64, why string) {
			l.m.corruptions.Inc()
			l.log.Error("WAL does not check out, skipping to the next valid record", "err", (&CorruptionError{s.id, at, why}).Error())
		})
		stats.Corruptions += n
		stats.Bytes += s.end
		l.done.Store(stats.Bytes)
		if err != nil {
			if k+1 < len(segs) {
				<-ahead
			}
			return stats, err
		}
		free = cur.buf
	}
	return stats, nil
}

// Progress returns how many bytes of how many a replay has done.
func (l *Log) Progress() (done, total int64) { return l.done.Load(), l.total.Load() }

// load reads the whole segment into buf.
func (s *segment) load(buf []byte) ([]byte, error) {
	if int64(cap(buf)) < s.size {
		buf = make([]byte, s.size)
	}
	buf = buf[:s.size]
	n, err := s.f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("wal: read %s: %w", s.f.Name(), err)
	}
	return buf[:n], nil
}

// read calls fn for every valid record of s, and bad for every place at which
// records were lost, and returns the number of those. data is the segment's
// content, read here if nil.
func (l *Log) read(s *segment, data []byte, fn func(lsn LSN, at, next int64, payload []byte) error, bad func(at int64, why string)) (int, error) {
	if data == nil {
		var err error
		if data, err = s.load(nil); err != nil {
			return 0, err
		}
	}
	lost := 0
	last := LSN(0)
	if s.first > 0 {
		last = s.first - 1
	}
	for off := segmentHeader; off < len(data); {
		lsn, payload, why := s.record(data, off, last)
		if why != "" {
			next := off + 8
			for ; next < len(data); next += 8 {
				if binary.LittleEndian.Uint32(pad4(data, next)) != recordMagic {
					continue
				}
				if _, _, w := s.record(data, next, last); w == "" {
					break
				}
			}
			if next >= len(data) && zero(data[off:]) {
				return lost, nil // the end of the log
			}
			lost++
			if bad != nil {
				bad(int64(off), why)
			}
			off = next
			continue
		}
		next := off + align(recordHeader+len(payload))
		if err := fn(lsn, int64(off), int64(min(next, len(data))), payload); err != nil {
			return lost, err
		}
		last, off = lsn, next
	}
	return lost, nil
}

func pad4(data []byte, off int) []byte {
	if off+4 <= len(data) {
		return data[off:]
	}
	return make([]byte, 4)
}

func zero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// record reads the record at off, which must have a number above last. why
// says what is wrong with it.
func (s *segment) record(data []byte, off int, last LSN) (lsn LSN, payload []byte, why string) {
	if off+recordHeader > len(data) {
		return 0, nil, "record header is cut off"
	}
	h := data[off : off+recordHeader]
	if binary.LittleEndian.Uint32(h) != recordMagic {
		return 0, nil, "no record starts here"
	}
	if headerCRC(h, s.salt) != binary.LittleEndian.Uint32(h[20:]) {
		return 0, nil, "header checksum differs"
	}
	size := int(binary.LittleEndian.Uint32(h[4:]))
	if size > maxRecord || off+recordHeader+size > len(data) {
		return 0, nil, "record is longer than the segment"
	}
	lsn = LSN(binary.LittleEndian.Uint64(h[8:]))
	if lsn <= last {
		return 0, nil, "record number is out of order"
	}
	payload = data[off+recordHeader : off+recordHeader+size]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(h[16:]) {
		return 0, nil, "checksum differs"
	}
	return lsn, payload, ""
}
