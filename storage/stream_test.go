package storage

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/loki-go/loki-go/storage/index"
)

// TestIndexStreams: an index file that is packed as it is written is the same
// as one that is packed as a whole, and is read as a stream, compressed or not.
func TestIndexStreams(t *testing.T) {
	file, info, err := index.Build(nil, manySeries(t, 500))
	if err != nil {
		t.Fatal(err)
	}
	object, err := PackIndexTo([]byte("front"), func(w io.Writer) error {
		for part := file; len(part) > 0; {
			n, err := w.Write(part[:min(len(part), 1000)])
			if err != nil {
				return err
			}
			part = part[n:]
		}
		return nil
	})
	if err != nil || !bytes.HasPrefix(object, []byte("front")) {
		t.Fatal(err)
	}
	object = object[5:]
	if r, err := UnpackIndex("x.tsdb.gz", object); err != nil || r.Info() != info {
		t.Fatal(err)
	}
	for key, b := range map[string][]byte{"x.tsdb.gz": object, "x.tsdb": file} {
		s, err := StreamIndex(key, b)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		n, err := index.Source{Stream: s}.NumSeries()
		if err != nil || n != 500 || s.Info() != info {
			t.Fatalf("%s: %d series, %v", key, n, err)
		}
		if err := s.Check(); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
	for i := 0; i < len(object); i += 101 {
		bad := bytes.Clone(object)
		bad[i] ^= 0x10
		if s, err := StreamIndex("x.tsdb.gz", bad); err == nil && s.Check() != nil {
			t.Fatalf("byte %d: an object that opens does not check out", i)
		}
		if _, err := StreamIndex("x.tsdb.gz", object[:i]); err == nil {
			t.Fatalf("an object that ends at %d opens", i)
		}
	}
	if _, err := StreamIndex("x.tsdb.gz", file); err == nil {
		t.Fatal("a file that is not compressed opens")
	}
	failed := errors.New("failed")
	if got, err := PackIndexTo([]byte("x"), func(io.Writer) error { return failed }); !errors.Is(err, failed) || string(got) != "x" {
		t.Fatalf("%q, %v", got, err)
	}
}
