package index

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

// Stream is an index file that is read from its beginning to its end, as often
// as it is needed. Only its symbols are in memory, so that files can be merged
// that would not fit. It is safe for concurrent use if open is.
type Stream struct {
	open func() (io.Reader, error)
	r    *Reader // without the file: symbols, bounds and table of contents
	size int64   // of the file
}

const (
	streamBuffer = 64 << 10
	// maxAtOnce is how much memory is taken because a length says so; what is
	// longer gets memory as it comes.
	maxAtOnce = 64 << 20
)

// NewStream reads the file once, to the end, and checks its symbols and its
// table of contents. open returns its bytes from the beginning, and is called
// again for every use.
func NewStream(open func() (io.Reader, error)) (*Stream, error) {
	s := &Stream{open: open, r: &Reader{}}
	src, err := open()
	if err != nil {
		return nil, err
	}
	f := frames{br: bufio.NewReaderSize(src, streamBuffer)}
	var header [headerSize]byte
	if err := f.read(header[:]); err != nil {
		return nil, corrupt("header", 0, err)
	}
	if err := checkHeader(header[:]); err != nil {
		return nil, err
	}
	var body strings.Builder
	if err := f.frame(&body); err != nil {
		return nil, corrupt("symbols", headerSize, err)
	}
	if err := s.r.setSymbols(body.String()); err != nil {
		return nil, err
	}
	tail, err := f.tail(tocSize)
	if err != nil {
		return nil, corrupt("table of contents", f.at, err)
	}
	s.size = int64(f.at)
	return s, s.r.setTOC(tail, f.at-tocSize)
}

// Info returns the file's summary.
func (s *Stream) Info() Info { return s.r.info }

// Size returns about how much memory s takes.
func (s *Stream) Size() int { return len(s.r.text) + 4*(len(s.r.heads)+len(s.r.ends)) + streamBuffer }

// numSeries returns how many series the file has at most: those of the last
// entry of the fingerprint table may be fewer.
func (s *Stream) numSeries() int {
	n := (int(s.size) - tocSize - int(s.r.toc[tocFingerprints]) - 12) / 16
	return max(n, 0) * fpInterval
}

// Check reads the file and checks the sums of all that is in it.
func (s *Stream) Check() error {
	c := cursor{r: s.r, stream: s}
	if err := c.rewind(); err != nil {
		return err
	}
	var ids []uint32
	var chunks []ChunkMeta
	for {
		ok, err := c.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if ids, chunks, err = c.read(ids[:0], chunks[:0]); err != nil {
			return err
		}
	}
	f := &c.scan.frames
	for _, part := range []struct {
		what    string
		end     int
		aligned bool
	}{
		{"label indices", tocPostings, true},
		{"postings", tocLabelTable, true},
		{"label index table", tocPostingsTable, false},
		{"postings table", tocFingerprints, false},
		{"fingerprint table", -1, false},
	} {
		end := int(s.size) - tocSize
		if part.end >= 0 {
			end = int(s.r.toc[part.end])
		}
		for f.at < end {
			if part.aligned {
				if err := f.align(4); err != nil {
					return corrupt(part.what, f.at, err)
				}
			}
			at := f.at
			if err := f.frame(io.Discard); err != nil {
				return corrupt(part.what, at, err)
			}
		}
		if f.at != end {
			return corrupt(part.what, end, errLength)
		}
	}
	return nil
}

// frames reads a file from front to back.
type frames struct {
	br *bufio.Reader
	at int // offset of what comes next
}

// read fills b.
func (f *frames) read(b []byte) error {
	n, err := io.ReadFull(f.br, b)
	f.at += n
	return noEOF(err)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errLength
	}
	return err
}

func (f *frames) align(n int) error {
	pad := -f.at & (n - 1)
	k, err := f.br.Discard(pad)
	f.at += k
	return noEOF(err)
}

// frame copies the body of a framed section to w and checks its sum.
func (f *frames) frame(w io.Writer) error {
	var word [4]byte
	if err := f.read(word[:]); err != nil {
		return err
	}
	left := int(binary.BigEndian.Uint32(word[:]))
	if g, ok := w.(*strings.Builder); ok {
		g.Grow(min(left, maxAtOnce))
	}
	sum := uint32(0)
	for left > 0 {
		piece, err := f.br.Peek(min(left, streamBuffer/2))
		if err != nil {
			return noEOF(err)
		}
		sum = crc32.Update(sum, castagnoli, piece)
		if _, err := w.Write(piece); err != nil {
			return err
		}
		left -= len(piece)
		f.at += len(piece)
		if _, err := f.br.Discard(len(piece)); err != nil {
			return err
		}
	}
	if err := f.read(word[:]); err != nil {
		return err
	}
	if sum != binary.BigEndian.Uint32(word[:]) {
		return errCRC
	}
	return nil
}

// tail reads to the end and returns the last n bytes.
func (f *frames) tail(n int) ([]byte, error) {
	buf := make([]byte, n+streamBuffer)
	have := 0 // of the end, at the front of buf
	for {
		k, err := io.ReadFull(f.br, buf[have:])
		f.at += k
		have += k
		keep := min(have, n)
		copy(buf, buf[have-keep:have])
		have = keep
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if have < n {
		return nil, errors.New("truncated")
	}
	return buf[:n], nil
}

// scan reads the series of a file one after the other.
type scan struct {
	frames
	end  int // of the series
	body []byte
}

func (s *Stream) scan() (*scan, error) {
	src, err := s.open()
	if err != nil {
		return nil, err
	}
	sc := &scan{frames: frames{br: bufio.NewReaderSize(src, streamBuffer)}, end: int(s.r.toc[tocLabelIndices])}
	start := int(s.r.toc[tocSeries])
	sc.at, err = sc.br.Discard(start)
	if err != nil {
		return nil, corrupt("series", sc.at, noEOF(err))
	}
	return sc, nil
}

// next returns the next series, valid until it is called again, or false at
// the end.
func (sc *scan) next() (record, bool, error) {
	if at := (sc.at + align - 1) / align * align; at >= sc.end {
		return record{}, false, sc.align(4)
	}
	if err := sc.align(align); err != nil {
		return record{}, false, corrupt("series", sc.at, err)
	}
	rec := record{at: sc.at}
	fail := func(err error) (record, bool, error) { return record{}, false, corrupt("series", rec.at, err) }
	head, err := sc.br.Peek(binary.MaxVarintLen64) // fewer at the end of the file
	n, k := binary.Uvarint(head)
	if k <= 0 || n < 8 || n > uint64(sc.end-sc.at) {
		if err == nil || errors.Is(err, io.EOF) {
			err = errLength
		}
		return fail(err)
	}
	if _, err := sc.br.Discard(k); err != nil {
		return fail(noEOF(err))
	}
	sc.at += k
	if need := int(n) + 4; cap(sc.body) < need {
		sc.body = make([]byte, need, need+need/4)
	}
	sc.body = sc.body[:n+4]
	if err := sc.read(sc.body); err != nil {
		return fail(err)
	}
	body := sc.body[:n]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(sc.body[n:]) {
		return fail(errCRC)
	}
	rec.fp = binary.BigEndian.Uint64(body)
	rec.rest.b = body[8:]
	return rec, true, nil
}

func checkHeader(b []byte) error {
	if binary.BigEndian.Uint32(b) != magic {
		return corrupt("header", 0, errors.New("no index"))
	}
	if b[4] != version {
		return corrupt("header", 4, fmt.Errorf("version %d is not supported", b[4]))
	}
	return nil
}
