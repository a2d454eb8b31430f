package compactor

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

func name(day int64, tenant string, number int64) string {
	return storage.TenantIndexKey(day, tenant, number, index.Info{From: 1, Through: 2, Checksum: 3})
}

func TestDecodeSuperseded(t *testing.T) {
	shared := "index/index_5/17-ingester.tsdb.gz"
	f := func(ok bool, m superseded) {
		t.Helper()
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeSuperseded(b)
		if (err == nil) != ok {
			t.Fatalf("%s: %v", b, err)
		}
		if ok && (!slices.Equal(got.Sources, m.Sources) || !slices.Equal(got.Covers, m.Covers) || got.Expired != m.Expired) {
			t.Fatalf("%s: %+v", b, got)
		}
	}
	one := []string{name(5, "a", 17)}
	f(true, superseded{1, one, []string{name(5, "a", 18)}, false})
	f(true, superseded{1, one, nil, true})
	f(true, superseded{1, []string{shared}, []string{name(5, "a", 18), name(5, "b", 19)}, false})
	f(false, superseded{2, one, []string{name(5, "a", 18)}, false})
	f(false, superseded{1, nil, []string{name(5, "a", 18)}, false})
	f(false, superseded{1, one, nil, false})
	f(false, superseded{1, one, []string{name(5, "a", 18)}, true})
	f(false, superseded{1, one, one, false})
	f(false, superseded{1, one, []string{name(5, "a", 16)}, false})
	f(false, superseded{1, one, []string{name(5, "b", 18)}, false})
	f(false, superseded{1, one, []string{name(6, "a", 18)}, false})
	f(false, superseded{1, one, []string{"index/index_5/18-ingester.tsdb.gz"}, false})
	f(false, superseded{1, []string{shared, name(5, "a", 17)}, []string{name(5, "a", 18)}, false})
	f(false, superseded{1, []string{"a/1/1:2:3"}, []string{name(5, "a", 18)}, false})
	f(false, superseded{1, []string{"index/index_5/../x/17-ingester.tsdb.gz"}, []string{name(5, "a", 18)}, false})
	for _, bad := range []string{"", "{", "null", "[]", strings.Repeat(" ", maxMarkerSize) + "{}"} {
		if _, err := decodeSuperseded([]byte(bad)); err == nil {
			t.Fatalf("%.20q is accepted", bad)
		}
	}
}

func TestDecodeDeletion(t *testing.T) {
	keys := []chunk.Key{{Tenant: "a", Fingerprint: 0x1234, From: 5, Through: 77, Checksum: 9}, {Tenant: "a", Fingerprint: 1, From: -5, Through: 77, Checksum: 9}}
	b, err := json.Marshal(newDeletion("a", keys))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"version":1,"tenant":"a","chunks":["1234/5:4d:9","1/-5:4d:9"]}`; string(b) != want {
		t.Fatalf("%s, want %s", b, want)
	}
	d, err := decodeDeletion(b)
	if err != nil || !slices.Equal(d.keys, keys) {
		t.Fatalf("%+v, %v", d, err)
	}
	for _, bad := range []string{
		"", "{", "null", `{"version":1,"tenant":"a","chunks":[]}`, `{"version":2,"tenant":"a","chunks":["1/1:2:3"]}`,
		`{"version":1,"tenant":"","chunks":["1/1:2:3"]}`, `{"version":1,"tenant":"a/b","chunks":["1/1:2:3"]}`,
		`{"version":1,"tenant":"a","chunks":["1/2:1:3"]}`, `{"version":1,"tenant":"a","chunks":["../1:2:3"]}`,
		`{"version":1,"tenant":"a","chunks":["1/0:7fffffffffffffff:3"]}`, `{"version":1,"tenant":"a","chunks":["1/01:2:3"]}`,
		`{"version":1,"tenant":"a","unlisted":-1,"chunks":["1/1:2:3"]}`,
		`{"version":1,"tenant":"a","chunks":["1/1:2:3"` + strings.Repeat(`,"1/1:2:3"`, maxMarkerChunks) + `]}`,
	} {
		if d, err := decodeDeletion([]byte(bad)); err == nil {
			t.Fatalf("%.100s is accepted: %.100v", bad, d)
		}
	}
}

func TestMarkerTime(t *testing.T) {
	key := markerKey(deletesDir+"a-b/", 1_700_000_000_123_456_789, 5)
	if want := "loki-go/deletes/a-b/01700000000123456789-00000005.json"; key != want {
		t.Fatalf("%s, want %s", key, want)
	}
	if at, err := markerTime(key); err != nil || !at.Equal(time.Unix(0, 1_700_000_000_123_456_789)) {
		t.Fatalf("%v, %v", at, err)
	}
	for _, bad := range []string{"", "x", "a/5.json", "a/x-5.json", "a/5-5", "a/-5-5.json", "a/99999999999999999999-5.json"} {
		if at, err := markerTime(bad); err == nil {
			t.Fatalf("%q is at %v", bad, at)
		}
	}
}

func FuzzMarker(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(`{"version":1,"sources":[%q],"covers":[%q]}`, name(5, "a", 17), name(5, "a", 18))))
	f.Add([]byte(fmt.Sprintf(`{"version":1,"sources":["index/index_5/17-x.tsdb"],"covers":[%q,%q]}`, name(5, "a", 18), name(5, "b", 18))))
	f.Add([]byte(fmt.Sprintf(`{"version":1,"sources":[%q],"expired":true}`, name(-5, "a", 17))))
	f.Add([]byte(`{"version":1,"tenant":"a","unlisted":1728864000000,"chunks":["967c196aa3e0d6d3/19259c2ed80:19259c2ed81:9922b8a2"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeSuperseded(b); err == nil {
			for _, k := range append(slices.Clone(m.Sources), m.Covers...) {
				if slices.Contains(m.Sources, k) && slices.Contains(m.Covers, k) {
					t.Fatalf("%s covers itself", k)
				}
				if _, err := storage.ParseIndexKey(k); err != nil {
					t.Fatal(err)
				}
			}
		}
		if d, err := decodeDeletion(b); err == nil {
			again := newDeletion(d.Tenant, d.keys)
			if !slices.Equal(again.Chunks, d.Chunks) {
				t.Fatalf("%q, %q", again.Chunks, d.Chunks)
			}
		}
		_, _ = markerTime(string(b))
	})
}
