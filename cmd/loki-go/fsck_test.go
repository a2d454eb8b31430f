package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// storeOne puts a chunk of two blocks with three lines, and its index, into a
// filesystem store and returns the directory of the data and the keys.
func storeOne(t *testing.T) (dir, chunkKey, indexKey string) {
	t.Helper()
	dir = t.TempDir()
	b, err := objstore.OpenFilesystem(vfs.OS, filepath.Join(dir, "objects"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	cfg := storage.DefaultConfig()
	s := storage.New(b, cfg, storage.Options{FileKeys: true})
	defer s.Close()
	at := time.Date(2024, 5, 17, 12, 0, 0, 0, time.UTC).UnixNano()
	var blocks []chunk.Block
	for i, content := range [][]byte{
		chunk.AppendEntry(chunk.AppendEntry(nil, at, []byte("first line"), []uint32{0, 1}), at+1e9, []byte("second line"), nil),
		chunk.AppendEntry(nil, at+2e9, []byte("third line"), nil),
	} {
		blk, err := chunk.NewBlock(chunk.Snappy, nil, content)
		if err != nil {
			t.Fatal(i, err)
		}
		blocks = append(blocks, blk)
	}
	m := chunk.NewMeta("team-a", labels.FromMap(map[string]string{"app": "x", "pod": "y"}), at, at+2e9)
	object, err := chunk.Encode(nil, m, chunk.Snappy, []string{"trace", "abc"}, blocks)
	if err != nil {
		t.Fatal(err)
	}
	key := chunk.KeyOf(object, m)
	if err := s.PutChunk(t.Context(), key, object); err != nil {
		t.Fatal(err)
	}
	err = s.PutIndex(t.Context(), "team-a", []index.Series{{Labels: m.Labels, Fingerprint: m.Fingerprint, Chunks: []index.ChunkMeta{{
		MinTime: key.From, MaxTime: key.Through, KB: 1, Entries: 3, Checksum: key.Checksum,
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := b.List(t.Context(), "index/", true)
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	return dir, key.FileKey(), keys[0]
}

// tool runs a subcommand that is not stopped at once.
func tool(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.WithoutCancel(t.Context()), args, func(string) (string, bool) { return "", false }, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestFsck(t *testing.T) {
	dir, chunkKey, indexKey := storeOne(t)
	code, out, errs := tool(t, "fsck", "-data-dir="+dir)
	if code != 0 || !strings.HasSuffix(out, "1 index files with 1 listings\nall is well\n") || !strings.Contains(errs, "memory is bounded by 13421772 listings") {
		t.Fatalf("clean: exit code %d\n%s%s", code, out, errs)
	}
	if err := os.Remove(filepath.Join(dir, "objects", indexKey)); err != nil {
		t.Fatal(err)
	}
	code, out, _ = tool(t, "fsck", "-data-dir="+dir)
	if code != 0 || !strings.HasPrefix(out, "recent: "+chunkKey+": stored ") {
		t.Fatalf("recent: exit code %d\n%s", code, out)
	}
	code, out, _ = tool(t, "fsck", "-data-dir="+dir, "-grace=0s", "-json")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var finding struct{ Kind, Tenant, Key string }
	var summary struct {
		Findings int
		Summary  struct {
			Tenants map[string]struct{ Chunks int }
		}
	}
	if code != 1 || len(lines) != 2 || json.Unmarshal([]byte(lines[0]), &finding) != nil || json.Unmarshal([]byte(lines[1]), &summary) != nil ||
		finding.Kind != "chunk-without-index" || finding.Tenant != "team-a" || finding.Key != chunkKey ||
		summary.Findings != 1 || summary.Summary.Tenants["team-a"].Chunks != 1 {
		t.Fatalf("no index: exit code %d\n%s", code, out)
	}
	code, out, _ = tool(t, "fsck", "-data-dir="+dir, "-grace=0s", "-repair")
	if code != 1 || !strings.Contains(out, "; repaired: listed in a new index file\n") || !strings.HasSuffix(out, "1 findings, 1 repaired\n") {
		t.Fatalf("repair: exit code %d\n%s", code, out)
	}
	code, out, _ = tool(t, "fsck", "-data-dir="+dir, "-grace=0s", "-repair")
	if code != 0 {
		t.Fatalf("again: exit code %d\n%s", code, out)
	}
}

func TestFsckCannotRun(t *testing.T) {
	for name, args := range map[string][]string{
		"no such directory": {"-data-dir=" + filepath.Join(t.TempDir(), "none")},
		"unknown flag":      {"-nonsense"},
		"bad flag":          {"-concurrency=0", "-data-dir=" + t.TempDir()},
		"no bucket":         {"-storage.type=s3"},
	} {
		if code, out, errs := tool(t, append([]string{"fsck"}, args...)...); code != 2 || out != "" || errs == "" {
			t.Errorf("%s: exit code %d, printed %q, %q", name, code, out, errs)
		}
	}
	if code, out, _ := tool(t, "fsck", "-help"); code != 0 || !strings.Contains(out, "-repair=false") {
		t.Errorf("help: exit code %d\n%s", code, out)
	}
	if _, err := os.Stat(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("fsck made a directory")
	}
}
