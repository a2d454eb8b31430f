package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/ingester/wal"
	"github.com/loki-go/loki-go/internal/config"
	"github.com/loki-go/loki-go/internal/server"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

// inspectFlags are those of inspect beside all settings of the server.
type inspectFlags struct {
	Entries int  `yaml:"entries" help:"print this many entries of each block of a chunk or block file; -entries alone: all of them"`
	JSON    bool `yaml:"json" help:"print one JSON object"`
}

const (
	// allEntries is what -entries alone means.
	allEntries = -1
	// maxInspect bounds a file in memory, as it is and uncompressed.
	maxInspect = 2 * units.GiB
)

func inspectObject(ctx context.Context, args []string, getenv config.Getenv, stdout, stderr io.Writer) int {
	var f inspectFlags
	s, err := newSettings(&f)
	if err != nil {
		return failWith(stderr, exitFailed, err)
	}
	name := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	flags := make([]string, len(args))
	for i, a := range args {
		if a == "-entries" || a == "--entries" {
			a = fmt.Sprint("-entries=", allEntries)
		}
		flags[i] = a
	}
	errs := s.load(flags, getenv)
	if s.cmd.Help || s.cmd.H {
		fmt.Fprint(stdout, "loki-go inspect FILE|KEY [flags] [settings of the server]\n\n"+
			"Shows what is in a chunk, an index file, a WAL segment or a block file: a local\n"+
			"file, or an object in the bucket that the settings name. Of what is damaged it\n"+
			"shows what can be read. Exit code 0: it is whole, 1: it is damaged, 2: there is\n"+
			"nothing that can be shown.\n\n")
		s.cmdFlags[1].Usage(stdout)
		return exitClean
	}
	if name == "" {
		errs = append(errs, errors.New("inspect: say first what: loki-go inspect FILE|KEY [flags]"))
	}
	if len(errs) > 0 {
		return failWith(stderr, exitFailed, errors.Join(errs...))
	}
	data, err := fetch(ctx, s, name)
	if err != nil {
		return failWith(stderr, exitFailed, err)
	}
	r, err := describe(name, data, f.Entries)
	if err != nil {
		return failWith(stderr, exitFailed, err)
	}
	if f.JSON {
		var b []byte
		if b, err = json.Marshal(r); err == nil {
			_, err = fmt.Fprintf(stdout, "%s\n", b)
		}
	} else {
		p := &textPrinter{w: stdout}
		r.print(p)
		err = p.err
	}
	if err != nil {
		return failWith(stderr, exitFailed, fmt.Errorf("print: %w", err))
	}
	if len(r.Problems) > 0 {
		return exitFindings
	}
	return exitClean
}

// fetch reads a local file, or the object with this key.
func fetch(ctx context.Context, s *settings, name string) ([]byte, error) {
	f, err := os.Open(name)
	if err == nil {
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, int64(maxInspect)+1))
		if err == nil && len(b) > int(maxInspect) {
			err = fmt.Errorf("more than %s", maxInspect)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return b, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	bucket, closer, err := server.OpenBucket(ctx, s.cfg, vfs.OS)
	if err != nil {
		return nil, fmt.Errorf("there is no file %s, and no bucket to look for such an object: %w", name, err)
	}
	b, err := bucket.Get(ctx, name)
	return b, errors.Join(err, closer.Close())
}

// report is what inspect prints. Exactly one of the parts is set.
type report struct {
	Name     string       `json:"name"`
	Type     string       `json:"type"`
	Size     int          `json:"size"`
	Chunk    *chunkReport `json:"chunk,omitempty"`
	Index    *indexReport `json:"index,omitempty"`
	WAL      *walReport   `json:"wal,omitempty"`
	Blocks   *blocksFile  `json:"blocks,omitempty"`
	Problems []string     `json:"problems,omitempty"`
}

func (r *report) problem(errs ...error) {
	for _, err := range errs {
		r.Problems = append(r.Problems, err.Error())
	}
}

// describe finds out what data is, by its name and by its content.
func describe(name string, data []byte, entries int) (*report, error) {
	r := &report{Name: name, Size: len(data)}
	base := filepath.Base(name)
	zipped := bytes.HasPrefix(data, []byte{0x1f, 0x8b})
	_, notIndex := storage.ParseIndexKey(name)
	switch {
	case notIndex == nil || strings.HasSuffix(base, ".tsdb") || strings.HasSuffix(base, ".tsdb.gz") || zipped || index.IsFile(data):
		r.index(name, data, zipped || strings.HasSuffix(base, ".gz") && !index.IsFile(data))
	case strings.HasSuffix(base, wal.SegmentSuffix) || wal.IsSegment(data):
		r.wal(base, data)
	case strings.HasSuffix(base, blocks.FileSuffix) || blocks.IsFile(data):
		r.blocks(base, data, entries)
	default:
		r.chunk(name, data, entries)
		if r.Chunk.MetadataBytes == 0 && r.Chunk.Format == 0 && r.Chunk.Key == "" {
			return nil, fmt.Errorf("%s is no chunk, index file, WAL segment or block file: %s", name, r.Problems[0])
		}
	}
	return r, nil
}

// unzip returns as much of a gzip stream as can be read.
func unzip(b []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("gzip at offset 0: %w", err)
	}
	var out bytes.Buffer
	n, err := out.ReadFrom(io.LimitReader(z, int64(maxInspect)+1))
	if err == nil && n > int64(maxInspect) {
		err = fmt.Errorf("more than %s uncompressed", maxInspect)
	}
	if err != nil {
		err = fmt.Errorf("gzip behind %d uncompressed bytes: %w", n, err)
	}
	return out.Bytes(), err
}

// keyOf reads the key of a chunk, of a store of either kind, in the last three
// parts of name.
func keyOf(name string) (chunk.Key, bool) {
	parts := strings.Split(filepath.ToSlash(name), "/")
	if len(parts) < 3 {
		return chunk.Key{}, false
	}
	key := strings.Join(parts[len(parts)-3:], "/")
	k, err := chunk.ParseKey(key)
	if err != nil {
		k, err = chunk.ParseFileKey(key)
	}
	return k, err == nil
}
