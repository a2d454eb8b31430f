package storage

import (
	"bytes"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/index"
)

func TestParseIndexKey(t *testing.T) {
	f := func(key string, want IndexFile) {
		t.Helper()
		want.Key = key
		got, err := ParseIndexKey(key)
		if err != nil || got != want {
			t.Fatalf("%s: %+v, want %+v: %v", key, got, want, err)
		}
	}
	f("index/index_20778/a-b.c/1795413168875076882-compactor-1795305598000-1795305600002-81a44023.tsdb.gz", IndexFile{Day: 20778, Tenant: "a-b.c", Number: 1795413168875076882})
	f("index/index_20778/1795411377-vm-1795411377396606661.tsdb.gz", IndexFile{Day: 20778, Number: 1795411377})
	f("index/index_0/1-x.tsdb", IndexFile{Number: 1})
	f(TenantIndexKey(-1, "t", 7, index.Info{From: -86400000, Through: -1, Checksum: 5}), IndexFile{Day: -1, Tenant: "t", Number: 7})
	for _, key := range []string{
		"", "index/", "index/index_1/", "index/index_1/x.tsdb.gz", "index/index_1/1.tsdb.gz", "index/index_1/-1-x.tsdb.gz", "index/index_1/1-x",
		"index/index_01/1-x.tsdb", "index/other_1/1-x.tsdb", "x/index_1/1-x.tsdb", "index/index_1/t/1-x.tsdb.gz",
		"index/index_1/t/u/1-compactor-1-2-3.tsdb.gz", "index/index_1/../1-compactor-1-2-3.tsdb.gz", "t/1/1:2:3",
	} {
		if got, err := ParseIndexKey(key); err == nil {
			t.Fatalf("%s is accepted: %+v", key, got)
		}
	}
	if TableOf(-1) != -1 || TableOf(0) != 0 || TableOf(DayMillis) != 1 {
		t.Fatal("tables")
	}
}

func TestPackIndex(t *testing.T) {
	file, info, err := index.Build(nil, []index.Series{{Labels: labels.Labels{{Name: "a", Value: "b"}}, Chunks: []index.ChunkMeta{{MinTime: 1, MaxTime: 2}}}})
	if err != nil {
		t.Fatal(err)
	}
	object, err := PackIndex(file)
	if err != nil || bytes.Equal(object, file) {
		t.Fatal(err)
	}
	for key, b := range map[string][]byte{"x.tsdb.gz": object, "x.tsdb": file} {
		r, err := UnpackIndex(key, b)
		if err != nil || r.Info() != info {
			t.Fatalf("%s: %v", key, err)
		}
	}
	dst := make([]byte, 0, len(file)+bytes.MinRead)
	for range 2 {
		got, err := unpackIndex(dst, "x.tsdb.gz", object)
		if err != nil || !bytes.Equal(got, file) || &got[0] != &dst[:1][0] {
			t.Fatalf("into a buffer: %v", err)
		}
	}
	if got, err := unpackIndex(make([]byte, 0, 4), "x.tsdb.gz", object); err != nil || !bytes.Equal(got, file) {
		t.Fatalf("into a buffer that is too small: %v", err)
	}
	if _, err := UnpackIndex("x.tsdb.gz", file); err == nil {
		t.Fatal("a file that is not compressed: no error")
	}
}
