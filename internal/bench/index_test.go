package bench

import (
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/objstore"
)

// TestIndexIsBuiltAndMerged: what is measured is done.
func TestIndexIsBuiltAndMerged(t *testing.T) {
	const streams = 700
	dir := t.TempDir()
	for file := range 2 {
		r, err := BuildIndex(t.Context(), dir, streams, file)
		if err != nil || r.Series != streams || r.Object <= 0 || r.Peak <= 0 || r.Input <= 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	r, err := MergeIndex(t.Context(), dir, streams, 2)
	if err != nil || r.Files != 2 || r.Object <= 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	b, err := objstore.OpenFilesystem(vfs.OS, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	keys, err := b.List(t.Context(), storage.TablesPrefix, true)
	if err != nil || len(keys) != 3 {
		t.Fatalf("%v, %v", keys, err)
	}
	newest, chunks := keys[2], 0 // the sources stay for a while
	object, err := b.Get(t.Context(), newest)
	if err != nil {
		t.Fatal(err)
	}
	rd, err := storage.UnpackIndex(newest, object)
	if err != nil {
		t.Fatal(err)
	}
	all, err := rd.All()
	if err != nil || len(all) != streams {
		t.Fatalf("%d series, %v", len(all), err)
	}
	for _, s := range all {
		chunks += len(s.Chunks)
	}
	if chunks != 4*streams {
		t.Errorf("%d chunks in the merged file", chunks)
	}
	var out strings.Builder
	r.Print(&out)
	if !strings.Contains(out.String(), "2 index files merged, 700 streams: ") {
		t.Error(out.String())
	}
}
