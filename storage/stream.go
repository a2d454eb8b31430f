package storage

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/loki-go/loki-go/storage/index"
)

// StreamIndex opens the object under the key of an index file without making
// room for the file. The stream refers to the object.
func StreamIndex(key string, object []byte) (*index.Stream, error) {
	return index.NewStream(func() (io.Reader, error) {
		b := bytes.NewReader(object)
		if !strings.HasSuffix(key, gzipSuffix) {
			return b, nil
		}
		z, err := gzip.NewReader(b)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		return io.LimitReader(z, maxIndexFile), nil
	})
}

// PackIndexTo appends to dst the object of an index file that write writes.
func PackIndexTo(dst []byte, write func(io.Writer) error) ([]byte, error) {
	z := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(z)
	out := appender{dst}
	z.Reset(&out)
	err := write(z)
	if err == nil {
		err = z.Close()
	}
	z.Reset(io.Discard) // lets go of out
	if err != nil {
		return dst, fmt.Errorf("storage: pack index: %w", err)
	}
	return out.b, nil
}

// appender grows by a quarter: bytes.Buffer doubles, which is much for what is
// large already.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	if len(a.b)+len(p) > cap(a.b) {
		a.b = slices.Grow(a.b, max(len(p), len(a.b)/4))
	}
	a.b = append(a.b, p...)
	return len(p), nil
}
