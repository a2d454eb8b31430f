package fsck

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestBucketsOfLoki: nothing is wrong with what a real Loki has stored, with
// every encoding; and all of it can be listed anew when its index is lost.
func TestBucketsOfLoki(t *testing.T) {
	const dir = "../testdata/golden"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	buckets := 0
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		s := newSite(t, true)
		root := filepath.Join(dir, e.Name())
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			key, err := filepath.Rel(root, path)
			s.put(filepath.ToSlash(key), b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		chunks := s.chunkKeys()
		if e.Name() == "compacted-by-loki" && len(chunks) == 0 {
			// Only index files were kept of this one.
			found, sum := s.check(testConfig())
			if n := sum.Findings(); n == 0 || n != len(found) || slices.ContainsFunc(found, func(f Finding) bool { return f.Kind != MissingChunk }) {
				t.Errorf("%s: %q", e.Name(), brief(found))
			}
			continue
		}
		buckets++
		found, sum := s.check(testConfig())
		wantFindings(t, e.Name(), found)
		if len(sum.Tenants) < 2 || len(chunks) < 5 {
			t.Errorf("%s: %d chunks, %d tenants", e.Name(), len(chunks), len(sum.Tenants))
		}
		for _, k := range s.indexKeys() {
			s.delete(k)
		}
		cfg := testConfig()
		cfg.Repair = true
		if found, sum := s.check(cfg); len(found) != len(chunks) || sum.Repaired() != len(chunks) {
			t.Errorf("%s: %d chunks, repaired: %q", e.Name(), len(chunks), brief(found))
		}
		found, _ = s.check(cfg)
		wantFindings(t, e.Name()+", repaired", found)
	}
	if buckets < 9 {
		t.Errorf("%d buckets", buckets)
	}
}
