package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// FloorResult is the CPU that the unavoidable work took.
type FloorResult struct {
	Bytes  int64   // of lines
	Stored int64   // compressed blocks
	Decode float64 // CPU s: snappy, protobuf scan, checksum, one copy
	Write  float64 // CPU s: write and fdatasync of the compressed bodies
	Zstd   float64 // CPU s
}

// Total is the sum in CPU seconds per GB (10^9 bytes) of lines.
func (r FloorResult) Total() float64 {
	return (r.Decode + r.Write + r.Zstd) / float64(r.Bytes) * 1e9
}

// blockSize is that of the server's blocks.
const blockSize = 256 << 10

// Floor does to the lines of spec what every ingester has to do, and nothing
// else, on one thread: decode the request, find the entries, checksum, copy
// each line once to its stream, write the request's body to a file and sync
// it, compress each stream in blocks. Making the lines is not counted.
func Floor(spec Spec, dir string) (FloorResult, error) {
	spec.Protocol = "loki"
	var r FloorResult
	f, err := os.Create(filepath.Join(dir, "floor"))
	if err != nil {
		return r, err
	}
	defer f.Close()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return r, err
	}
	w := floorWork{r: &r, f: f, enc: enc, streams: map[string]*[]byte{}}
	// Buffers of the right size from the start: growing them would be copies
	// that can be avoided, and so no part of the floor.
	w.size = min(blockSize+64<<10, int(spec.Bytes/int64(spec.Streams))*5/4+4096)
	for c := range spec.Conns {
		m := newMaker(spec, c)
		for {
			streams, _, bytes := m.batch()
			if streams == nil {
				break
			}
			body, _ := m.encode(streams)
			r.Bytes += bytes
			if err := w.request(body); err != nil {
				return r, err
			}
		}
	}
	begin := cpu()
	for _, b := range w.streams {
		w.compress(b)
	}
	r.Zstd += cpu() - begin
	return r, nil
}

type floorWork struct {
	r       *FloorResult
	f       *os.File
	enc     *zstd.Encoder
	streams map[string]*[]byte
	full    []*[]byte // to be compressed, then free
	free    []*[]byte
	size    int
	data    []byte
	block   []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (w *floorWork) request(body []byte) error {
	begin := cpu()
	var err error
	if w.data, err = s2.Decode(w.data[:cap(w.data)], body); err != nil {
		return err
	}
	sum := crc32.Checksum(body, castagnoli)
	if err := w.scan(w.data); err != nil {
		return err
	}
	decoded := cpu()
	var header [8]byte
	binary.BigEndian.PutUint32(header[:], sum)
	binary.BigEndian.PutUint32(header[4:], uint32(len(body)))
	if _, err := w.f.Write(header[:]); err != nil {
		return err
	}
	if _, err := w.f.Write(body); err != nil {
		return err
	}
	if err := syscall.Fdatasync(int(w.f.Fd())); err != nil {
		return fmt.Errorf("fdatasync: %w", err)
	}
	written := cpu()
	for _, b := range w.full {
		w.compress(b)
	}
	w.full = w.full[:0]
	w.r.Decode += decoded - begin
	w.r.Write += written - decoded
	w.r.Zstd += cpu() - written
	return nil
}

func (w *floorWork) compress(b *[]byte) {
	w.block = w.enc.EncodeAll(*b, w.block[:0])
	w.r.Stored += int64(len(w.block))
	*b = (*b)[:0]
	w.free = append(w.free, b)
}

func (w *floorWork) buffer() *[]byte {
	if n := len(w.free); n > 0 {
		b := w.free[n-1]
		w.free = w.free[:n-1]
		return b
	}
	b := make([]byte, 0, w.size)
	return &b
}

var errMalformed = errors.New("malformed protobuf")

// field reads one field with a length; the encoder of the load makes no other
// at these levels.
func field(p []byte) (num int, val, rest []byte, err error) {
	tag, n := binary.Uvarint(p)
	if n <= 0 || tag&7 != 2 {
		return 0, nil, nil, errMalformed
	}
	size, k := binary.Uvarint(p[n:])
	if k <= 0 || size > uint64(len(p)-n-k) {
		return 0, nil, nil, errMalformed
	}
	p = p[n+k:]
	return int(tag >> 3), p[:size], p[size:], nil
}

func (w *floorWork) scan(p []byte) error {
	for len(p) > 0 {
		_, stream, rest, err := field(p)
		if err != nil {
			return err
		}
		_, labels, entries, err := field(stream)
		if err != nil {
			return err
		}
		b := w.streams[string(labels)]
		if b == nil {
			b = w.buffer()
			w.streams[string(labels)] = b
		}
		for len(entries) > 0 {
			var e []byte
			if _, e, entries, err = field(entries); err != nil {
				return err
			}
			_, ts, e, err := field(e)
			if err != nil {
				return err
			}
			_, line, _, err := field(e)
			if err != nil {
				return err
			}
			*b = append(append(*b, ts...), line...)
			if len(*b) >= blockSize {
				w.full = append(w.full, b)
				// Compressed after the write; what follows until then belongs to the
				// same block, as in a server that compresses in the background.
				b = w.buffer()
				w.streams[string(labels)] = b
			}
		}
		p = rest
	}
	return nil
}

// cpu returns the CPU seconds of this process, user and system.
func cpu() float64 {
	var u syscall.Rusage
	// It fails for a bad first argument only.
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}
