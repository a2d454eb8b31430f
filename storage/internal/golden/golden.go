// Package golden gives tests the files that a real Loki wrote, with what is
// known of their content.
package golden

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Object describes one file, as manifest.json does.
type Object struct {
	Path        string `json:"path"`
	Kind        string `json:"kind"` // chunk or tsdb-index-v3
	Size        int    `json:"size"`
	Codec       string `json:"codec"`
	CodecByte   uint8  `json:"codec_byte"`
	Tenant      string `json:"tenant"`
	Fingerprint string `json:"fingerprint"`
	Stream      string `json:"stream"`

	MetadataJSON string   `json:"metadata_json"`
	ObjectCRC    string   `json:"object_crc32c"`
	BlockEntries []int    `json:"block_entries"`
	Symbols      []string `json:"symbols"`

	From    int64    `json:"from_ms"`
	Through int64    `json:"through_ms"`
	TOCCRC  string   `json:"toc_crc32c"`
	Series  []Series `json:"series"`

	Data []byte `json:"-"`
}

// Series is a series of an index.
type Series struct {
	Labels      map[string]string `json:"labels"`
	Fingerprint string            `json:"fingerprint"`
	Chunks      []struct {
		Checksum string `json:"checksum"`
		Entries  uint32 `json:"entries"`
		KB       uint32 `json:"kb"`
		Max      int64  `json:"max_ms"`
		Min      int64  `json:"min_ms"`
	} `json:"chunks"`
}

// Stream is what the chunks of a stream hold. An entry is its time, its line
// and, if it has any, its metadata.
type Stream struct {
	Tenant  string              `json:"tenant"`
	Labels  map[string]string   `json:"labels"`
	Entries [][]json.RawMessage `json:"entries"`
}

// Load reads the objects of a kind below dir, the golden folder.
func Load(t testing.TB, dir, kind string) []Object {
	t.Helper()
	var all, out []Object
	read(t, filepath.Join(dir, "manifest.json.gz"), &all)
	for _, o := range all {
		if o.Kind != kind {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, o.Path))
		if err != nil {
			t.Fatal(err)
		}
		o.Data = data
		out = append(out, o)
	}
	if len(out) == 0 {
		t.Fatalf("no golden objects of kind %q in %s", kind, dir)
	}
	return out
}

// Streams reads the content of all streams, by tenant/fingerprint.
func Streams(t testing.TB, dir string) map[string]Stream {
	t.Helper()
	var out map[string]Stream
	read(t, filepath.Join(dir, "streams.json.gz"), &out)
	return out
}

func read(t testing.TB, path string, v any) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
