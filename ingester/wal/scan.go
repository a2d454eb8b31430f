package wal

// chunks hands out a file's content in pieces, in order. A piece is valid until
// the next call; none is left when it is empty.
type chunks func() ([]byte, error)

// scanner finds the records of one segment. It uses memory for one record and
// one chunk, whatever lengths the file announces.
type scanner struct {
	src  chunks
	size int64 // of the file
	salt uint32
	low  LSN // no record has a number below this

	buf  []byte // unread content
	off  int64  // of buf[0] in the file
	mem  []byte // what buf is in
	eof  bool
	tail damage // what is behind the last record, when next has returned false
}

// record is a record that checks out.
type record struct {
	lsn      LSN
	place    uint32
	off, end int64
	payload  []byte // valid until the next call of next
	skipped  damage // what was left out before it
}

// damage is a part of a segment in which there are no whole records. There is
// none if reason is empty.
type damage struct {
	off    int64
	reason string
	zeros  bool // all of it is zeros
}

// fill makes at least n bytes of buf available if the file has them.
func (s *scanner) fill(n int) error {
	for len(s.buf) < n && !s.eof {
		chunk, err := s.src()
		if err != nil {
			return err
		}
		if len(chunk) == 0 {
			s.eof = true
			return nil
		}
		if free := cap(s.buf) - len(s.buf); free < len(chunk) {
			want := max(n, len(s.buf)+len(chunk))
			if cap(s.mem) < want {
				s.mem = make([]byte, 0, want+want/4)
			}
			s.buf = append(s.mem[:0], s.buf...)
		}
		s.buf = append(s.buf, chunk...)
	}
	return nil
}

func (s *scanner) skip(n int) {
	n = min(n, len(s.buf))
	s.buf = s.buf[n:]
	s.off += int64(n)
}

// next returns the next whole record; false at the end.
func (s *scanner) next() (r record, ok bool, err error) {
	var bad damage
	miss := func(reason string) {
		if bad.reason == "" {
			bad = damage{off: s.off, reason: reason, zeros: true}
		}
	}
	for {
		if err := s.fill(recordHeader); err != nil {
			return record{}, false, err
		}
		if len(s.buf) < recordHeader {
			if len(s.buf) > 0 {
				miss("record header is cut off")
				bad.zeros = bad.zeros && zeros(s.buf)
				s.skip(len(s.buf))
			}
			s.tail = bad
			return record{}, false, nil
		}
		lsn, length, reason := s.check(s.buf)
		if reason != "" {
			miss(reason)
			bad.zeros = s.seek() && bad.zeros
			continue
		}
		if err := s.fill(recordHeader + length); err != nil {
			return record{}, false, err
		}
		if len(s.buf) < recordHeader+length { // the file shrank while it was read
			miss("record is cut off")
			bad.zeros = s.seek() && bad.zeros
			continue
		}
		h, payload := s.buf[:recordHeader], s.buf[recordHeader:recordHeader+length]
		if checksum(payload) != le.Uint32(h[24:]) {
			// What a header says of its length is no reason to pass over a whole
			// record within it.
			miss("checksum of the payload differs")
			bad.zeros = false
			s.seek()
			continue
		}
		s.salt, s.low = le.Uint32(h), lsn+1
		r = record{lsn: lsn, place: le.Uint32(h[20:]), off: s.off, payload: payload, skipped: bad}
		s.jump(recordHeader + length)
		r.end = s.off
		return r, true, nil
	}
}

// jump skips a record of n bytes and its padding, which a file that ends with it
// may lack.
func (s *scanner) jump(n int) {
	padded := align(n)
	if len(s.buf) < padded {
		_ = s.fill(padded) // an error comes again with the next fill
	}
	s.skip(padded)
}

// check looks at the record header p, which is at s.off, and says what is wrong
// with it.
func (s *scanner) check(p []byte) (lsn LSN, length int, reason string) {
	salt := le.Uint32(p)
	if salt == 0 || s.salt != 0 && salt != s.salt {
		return 0, 0, "no record where one should be"
	}
	if recordHeaderCRC(p) != le.Uint32(p[4:]) {
		return 0, 0, "checksum of the record header differs"
	}
	lsn, n := LSN(le.Uint64(p[8:])), le.Uint32(p[16:])
	switch {
	case le.Uint32(p[28:]) != 0:
		return 0, 0, "record header has an unknown flag"
	case lsn < s.low:
		return 0, 0, "number of the record is out of order"
	case n > maxRecord || int64(n) > s.size-s.off-recordHeader:
		return 0, 0, "record is longer than its segment"
	}
	return lsn, int(n), ""
}

// seek moves to the next place in buf that may be a record, but at least by 8
// bytes, and reports whether what it left behind is zeros.
func (s *scanner) seek() (zero bool) {
	p := s.buf
	or := le.Uint64(p)
	i := 8
	for ; i+recordHeader <= len(p); i += 8 {
		v := le.Uint64(p[i:])
		if first := uint32(v); first != 0 && (first == s.salt || s.salt == 0) {
			break
		}
		or |= v
	}
	s.skip(i)
	return or == 0
}

func zeros(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}
