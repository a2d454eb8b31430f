package fsck

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/index"
)

// TestClean: a bucket with everything that is normal has no findings, whatever
// way it is looked at, and is not changed by a repair.
func TestClean(t *testing.T) {
	for _, fileKeys := range []bool{false, true} {
		s := fill(t, fileKeys)
		one, _ := s.chunk(s.bucket, "team-b", `{app="x"}`, midnight.Add(time.Hour), 3)
		s.shared(storage.TableOf(midnight.UnixMilli()), "loki-0", map[string][]index.Series{"team-b": {one}})
		s.put("loki_cluster_seed.json", []byte("{}"))
		s.put("index/delete_requests/delete_requests.gz", []byte("x"))
		s.put("loki-go/check-host-1", []byte("x"))
		s.put("loki-go/compactor/lease.json", []byte("{}"))
		before := s.contents()
		for name, cfg := range map[string]Config{
			"full": {}, "quick": {Quick: true}, "repair": {Repair: true}, "quick repair": {Quick: true, Repair: true}, "parts": {MaxMemory: listingBytes * 40},
		} {
			cfg.Concurrency, cfg.MaxMemory = 3, max(cfg.MaxMemory, 1)
			if name != "parts" {
				cfg.MaxMemory = units.MiB
			}
			found, sum := s.check(cfg)
			wantFindings(t, name, found)
			if n := sum.Tenants["team-a"]; n.Chunks != 24 || n.Listings != 36 || n.IndexFiles != 12 || (n.ReadBytes > 0) == cfg.Quick {
				t.Errorf("%s: counted %+v", name, *n)
			}
			if (sum.Parts > 1) != (name == "parts") {
				t.Errorf("%s: %d parts", name, sum.Parts)
			}
			if !equalContents(before, s.contents()) {
				t.Fatalf("%s changed the bucket", name)
			}
		}
	}
}

// damages returns what can happen to an object.
func damages(object []byte, every int) map[string][]byte {
	out := map[string][]byte{"empty": {}, "longer": append(bytes.Clone(object), 0)}
	for i := 0; i < len(object); i += every {
		b := bytes.Clone(object)
		b[i] ^= 1 << (i % 8)
		out[fmt.Sprintf("bit flip at %d", i)] = b
		if i > 0 {
			out[fmt.Sprintf("cut off at %d", i)] = object[:i]
		}
	}
	return out
}

// TestDamagedChunks: every bit flip and truncation of a chunk is one finding,
// of that chunk.
func TestDamagedChunks(t *testing.T) {
	s := newSite(t, false)
	series, key := s.chunk(s.bucket, "a", `{app="x"}`, midnight, 20)
	other, _ := s.chunk(s.bucket, "a", `{app="y"}`, midnight, 5)
	s.index("a", series, other)
	object := s.get(key.String())
	for what, b := range damages(object, 4) {
		s.put(key.String(), b)
		found, _ := s.check(testConfig())
		wantFindings(t, what, found, "damaged-chunk "+key.String())
	}
	s.put(key.String(), object)
	found, _ := s.check(testConfig())
	wantFindings(t, "restored", found)
	// What is not read cannot be seen.
	s.put(key.String(), object[1:])
	cfg := testConfig()
	cfg.Quick = true
	found, _ = s.check(cfg)
	wantFindings(t, "quick", found)
}

// TestDamagedBlocksAreNamed: a finding says what of a chunk is damaged.
func TestDamagedBlocksAreNamed(t *testing.T) {
	s := newSite(t, false)
	series, key := s.chunk(s.bucket, "a", `{app="x"}`, midnight, 20)
	s.index("a", series)
	object := s.get(key.String())
	c, err := chunk.Decode(object)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(object, c.Blocks[2].Data)
	object[at] ^= 4
	s.put(key.String(), object)
	found, _ := s.check(testConfig())
	if len(found) != 1 || !strings.HasSuffix(found[0].Detail, "in block 2 of 7") {
		t.Fatalf("found %+v", found)
	}
}

// TestDamagedIndex: every bit flip and truncation of an index file that a reader
// can notice is one finding, of that file, and its chunks are not listed. With
// a repair all lines are back, the file is aside, and a second run finds
// nothing to do.
func TestDamagedIndex(t *testing.T) {
	s := newSite(t, false)
	series, key := s.chunk(s.bucket, "a", `{app="x"}`, midnight.Add(time.Hour), 5)
	s.index("a", series)
	other, _ := s.chunk(s.bucket, "b", `{app="x"}`, midnight.Add(time.Hour), 5)
	s.index("b", other)
	name := s.indexKeys()[0]
	object := s.get(name)
	whole, err := gunzip(object)
	if err != nil {
		t.Fatal(err)
	}
	harmless := 0
	for what, b := range damages(object, 9) {
		for _, k := range s.indexKeys() {
			if strings.Contains(k, "/a/") {
				s.delete(k)
			}
		}
		s.put(name, b)
		found, _ := s.check(testConfig())
		if got, err := gunzip(b); err == nil && bytes.Equal(got, whole) {
			harmless++ // gzip's header has a time and the like, which no one reads
			wantFindings(t, what, without(found, true))
			continue
		}
		wantFindings(t, what, without(found, true), "damaged-index "+name, "chunk-without-index "+key.String())
		cfg := testConfig()
		cfg.Repair, cfg.Grace = true, 24*time.Hour // though the chunk is young
		found, sum := s.check(cfg)
		wantFindings(t, what+", repair", without(found, true), "damaged-index "+name, "chunk-without-index "+key.String())
		if sum.Repaired() != 2 || sum.Findings() != 2 {
			t.Fatalf("%s: %d of %d are mended: %+v", what, sum.Repaired(), sum.Findings(), found)
		}
		s.wantAll(what)
		aside := SetAsideDir + name + "." + fmt.Sprintf("%08x", chunk.Checksum(b))
		if !bytes.Equal(s.get(aside), b) {
			t.Fatalf("%s: the copy differs", what)
		}
		before := s.contents()
		found, _ = s.check(cfg)
		wantFindings(t, what+", again", without(found, true))
		if !equalContents(before, s.contents()) {
			t.Fatalf("%s: a second repair changed the bucket", what)
		}
	}
	if harmless > 8 {
		t.Errorf("%d damages are not seen", harmless)
	}
}

// TestDamagedPlainIndex: files without the checksum of gzip are read to the last
// section that any reader uses.
func TestDamagedPlainIndex(t *testing.T) {
	s := newSite(t, false)
	series, key := s.chunk(s.bucket, "a", `{app="x", pod="y"}`, midnight.Add(time.Hour), 5)
	s.index("a", series)
	name := s.indexKeys()[0]
	whole, err := gunzip(s.get(name))
	if err != nil {
		t.Fatal(err)
	}
	s.delete(name)
	name = strings.TrimSuffix(name, ".gz")
	seen, same := 0, 0
	for what, b := range damages(whole, 1) {
		s.put(name, b)
		found, _ := s.check(testConfig())
		if len(found) > 0 {
			seen++
			wantFindings(t, what, found, "damaged-index "+name, "chunk-without-index "+key.String())
			continue
		}
		// Padding, and label indices, which loki-go does not read, have nothing
		// that is missed.
		same++
		s.wantAll(what)
	}
	if seen < 5*same {
		t.Errorf("%d damages are seen, %d are not", seen, same)
	}
}

// TestNewerIndex: a file of a format that is not known is left alone.
func TestNewerIndex(t *testing.T) {
	s := newSite(t, false)
	series, key := s.chunk(s.bucket, "a", `{app="x"}`, midnight.Add(time.Hour), 5)
	s.index("a", series)
	name := s.indexKeys()[0]
	b, err := gunzip(s.get(name))
	if err != nil {
		t.Fatal(err)
	}
	b[4]++
	packed, err := storage.PackIndex(b)
	if err != nil {
		t.Fatal(err)
	}
	s.put(name, packed)
	cfg := testConfig()
	cfg.Repair = true
	found, sum := s.check(cfg)
	wantFindings(t, "newer", found, "damaged-index "+name, "chunk-without-index "+key.String())
	if sum.Repaired() != 1 || !slices.Contains(s.keys(""), name) {
		t.Fatalf("found %+v", found)
	}
}

// TestMisnamedIndex: queries skip a file whose name has other bounds than its
// content.
func TestMisnamedIndex(t *testing.T) {
	s := newSite(t, false)
	series, key := s.chunk(s.bucket, "a", `{app="x"}`, midnight.Add(time.Hour), 5)
	s.index("a", series)
	name := s.indexKeys()[0]
	object := s.get(name)
	s.delete(name)
	info, ok := storage.ParseIndexInfo(name)
	if !ok {
		t.Fatal(name)
	}
	f, err := storage.ParseIndexKey(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string]index.Info{
		"later":  {From: info.From + 1, Through: info.Through, Checksum: info.Checksum},
		"sooner": {From: info.From, Through: info.Through - 1, Checksum: info.Checksum},
		"other":  {From: info.From, Through: info.Through, Checksum: info.Checksum + 1},
	} {
		wrong := storage.TenantIndexKey(f.Day, "a", f.Number, bad)
		s.put(wrong, object)
		found, _ := s.check(testConfig())
		wantFindings(t, what, found, "damaged-index "+wrong, "chunk-without-index "+key.String())
		s.delete(wrong)
	}
}

// TestUnindexed: chunks that are not listed, in one of their tables or in any,
// young and old.
func TestUnindexed(t *testing.T) {
	s := fill(t, true)
	_, lonely := s.chunk(s.bucket, "team-a", `{app="lonely"}`, midnight.Add(time.Hour), 5)
	half, crossing := s.chunk(s.bucket, "team-a", `{app="half"}`, midnight, 5)
	days := [2]int64{storage.TableOf(crossing.From), storage.TableOf(crossing.Through)}
	s.shared(days[1], "half", map[string][]index.Series{"team-a": {half}})
	found, _ := s.check(testConfig())
	wantFindings(t, "old", found, "chunk-without-index "+lonely.FileKey(), "chunk-without-index "+crossing.FileKey())
	for _, f := range found {
		if f.Key == crossing.FileKey() && !strings.HasSuffix(f.Detail, fmt.Sprintf("in index_%d", days[0])) {
			t.Errorf("found %+v", f)
		}
	}
	cfg := testConfig()
	cfg.Grace = time.Hour
	found, sum := s.check(cfg)
	wantFindings(t, "young", found, "recent "+lonely.FileKey(), "recent "+crossing.FileKey())
	if sum.Findings() != 0 {
		t.Errorf("%d findings", sum.Findings())
	}
	cfg.Grace, cfg.Quick, cfg.Repair = 0, true, true
	found, _ = s.check(cfg)
	wantFindings(t, "repair", found, "chunk-without-index "+lonely.FileKey(), "chunk-without-index "+crossing.FileKey())
	s.wantAll("repaired")
	found, _ = s.check(testConfig())
	wantFindings(t, "repaired", found)
	if n := len(s.keys(fmt.Sprintf("index/index_%d/team-a/", days[1]))); n != 4+1 {
		t.Errorf("%d files in a table that listed one of them", n)
	}
}

// TestMissing: listings of chunks that are gone, in files of one tenant and of
// many, and files of which nothing is left.
func TestMissing(t *testing.T) {
	s := newSite(t, false)
	day := storage.TableOf(midnight.UnixMilli())
	var series []index.Series
	var keys []string
	for i := range 8 {
		one, k := s.chunk(s.bucket, "a", fmt.Sprintf(`{app="app-%d"}`, i), midnight.Add(time.Duration(i+1)*time.Hour), 4)
		series, keys = append(series, one), append(keys, k.String())
	}
	s.index("a", series[:4]...)
	s.index("a", series[4])
	own := s.indexKeys()
	foreign, _ := s.chunk(s.bucket, "b", `{app="b"}`, midnight.Add(time.Hour), 4)
	many := s.shared(day, "many", map[string][]index.Series{"a": series[5:7], "b": {foreign}})
	none := s.shared(day, "none", map[string][]index.Series{"a": series[7:]})
	for _, i := range []int{1, 4, 5, 7} {
		s.delete(keys[i])
	}
	want := []string{"index-without-chunk " + keys[1], "index-without-chunk " + keys[4], "index-without-chunk " + keys[5], "index-without-chunk " + keys[7]}
	found, _ := s.check(testConfig())
	wantFindings(t, "found", found, want...)
	for _, f := range found {
		if f.Index != map[string]string{keys[1]: own[0], keys[4]: own[1], keys[5]: many, keys[7]: none}[f.Key] {
			t.Errorf("found %+v", f)
		}
	}
	cfg := testConfig()
	cfg.Repair = true
	found, sum := s.check(cfg)
	wantFindings(t, "repair", found, want...)
	if sum.Repaired() != 4 {
		t.Fatalf("repaired: %+v", found)
	}
	s.lines["a"] = slices.DeleteFunc(s.lines["a"], func(l string) bool {
		return strings.Contains(l, "app-1") || strings.Contains(l, "app-4") || strings.Contains(l, "app-5") || strings.Contains(l, "app-7")
	})
	s.wantAll("repaired")
	before := s.contents()
	found, _ = s.check(cfg)
	wantFindings(t, "again", without(found, true))
	if len(found) != 2 { // the files of which nothing is left
		t.Errorf("set aside: %+v", found)
	}
	if !equalContents(before, s.contents()) {
		t.Fatal("a second repair changed the bucket")
	}
	for _, k := range append(own, many, none) {
		if slices.Contains(s.keys("index/"), k) {
			t.Errorf("%s is still there", k)
		}
	}
}

// TestIndexGone: of a bucket that has nothing but chunks everything is found
// again. What is made is what a flush would have made.
func TestIndexGone(t *testing.T) {
	for _, quick := range []bool{false, true} {
		s := fill(t, true)
		for _, k := range s.indexKeys() {
			s.delete(k)
		}
		cfg := testConfig()
		cfg.Repair, cfg.Quick = true, quick
		found, sum := s.check(cfg)
		if len(found) != len(s.chunkKeys()) || sum.Repaired() != len(found) {
			t.Fatalf("%d findings, %d mended, %d chunks", len(found), sum.Repaired(), len(s.chunkKeys()))
		}
		s.wantAll("repaired")
		fresh := fill(t, true)
		for _, tenant := range []string{"team-a", "index", "loki-go"} {
			from, through := midnight.Add(-48*time.Hour).UnixNano(), midnight.Add(240*time.Hour).UnixNano()
			a, err := s.store.Select(t.Context(), tenant, nil, from, through)
			if err != nil {
				t.Fatal(err)
			}
			b, err := fresh.store.Select(t.Context(), tenant, nil, from, through)
			if err != nil {
				t.Fatal(err)
			}
			if len(a) != 4 || fmt.Sprint(summary(a)) != fmt.Sprint(summary(b)) {
				t.Fatalf("tenant %s:\ngot  %v\nwant %v", tenant, summary(a), summary(b))
			}
		}
		before := s.contents()
		found, _ = s.check(cfg)
		wantFindings(t, "again", found)
		if !equalContents(before, s.contents()) {
			t.Fatal("a second repair changed the bucket")
		}
	}
}

// summary is what an index says of series.
func summary(series []chunk.Series) (out []string) {
	for _, s := range series {
		for _, b := range s.Blocks {
			from, through := b.Bounds()
			out = append(out, fmt.Sprint(s.Labels, from, through, b.NumEntries()))
		}
	}
	return out
}

// TestParts: a bucket that lists more than fits into memory gives the same
// findings.
func TestParts(t *testing.T) {
	s := fill(t, false)
	keys := s.chunkKeys()
	want := []string{"index-without-chunk " + keys[3], "chunk-without-index " + keys[0], "damaged-chunk " + keys[7], "unknown-object team-a/notes.txt", "unknown-object index/index_19860/x.txt"}
	s.put("team-a/notes.txt", nil)
	s.put("index/index_19860/x.txt", nil)
	s.put(keys[7], []byte("x"))
	s.delete(keys[3])
	// A copy under another checksum is no chunk that the index knows.
	k, err := chunk.ParseKey(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	old := keys[0]
	k.From++
	want[1] = "misplaced-chunk " + k.String()
	s.put(k.String(), s.get(old))
	whole, sum := s.check(testConfig())
	wantFindings(t, "whole", whole, want...)
	if sum.Parts != 1 {
		t.Fatalf("%d parts", sum.Parts)
	}
	cfg := testConfig()
	cfg.MaxMemory = listingBytes * 40
	found, parts := s.check(cfg)
	wantFindings(t, "parts", found, want...)
	if parts.Parts < 16 || parts.Parts > 256 {
		t.Fatalf("%d parts", parts.Parts)
	}
	for tenant, n := range sum.Tenants {
		if m := parts.Tenants[tenant]; fmt.Sprint(*n) != fmt.Sprint(*m) {
			t.Errorf("tenant %s: %+v in parts, %+v at once", tenant, *m, *n)
		}
	}
}

// TestGroups: streams come in groups of a size, each once.
func TestGroups(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var streams []string
	for range 3000 {
		streams = append(streams, fmt.Sprintf("%x", rng.Uint64()>>(4*rng.IntN(14))))
	}
	slices.Sort(streams)
	streams = slices.Compact(streams)
	for _, average := range []int{1, 20, 500, maxGroup + 1} {
		at := 0
		for _, g := range group(nil, streams, "", average) {
			n := 0
			for _, s := range streams {
				if strings.HasPrefix(s+"/", g) {
					n++
				}
			}
			if n == 0 || n > 1 && n*average > maxGroup || !strings.HasPrefix(streams[at]+"/", g) {
				t.Fatalf("average %d: group %q has %d streams", average, g, n)
			}
			at += n
		}
		if at != len(streams) {
			t.Fatalf("average %d: %d of %d streams are in groups", average, at, len(streams))
		}
	}
}

// TestUnknown: what belongs to nothing is named.
func TestUnknown(t *testing.T) {
	s := fill(t, false)
	chunks := s.chunkKeys()
	k, err := chunk.ParseKey(chunks[0])
	if err != nil {
		t.Fatal(err)
	}
	folder := chunks[0][:strings.LastIndexByte(chunks[0], '/')]
	want := []string{
		"readme.txt", "team-a/x", "team-a/abc", "team-a/backup/1", "index/other/1", "loki-go/other", "loki-go/superseded/19860/x.json",
		folder + "/x", folder + "/1/2", "index/index_19860/x", "index/index_19860/team-a/5-y.tsdb.gz", "index/index_x/1-compactor-1-2-3.tsdb.gz",
		k.FileKey(), // of another kind of store
		"team-a/00ab/1:2:3", "team-a/ab/-7fffffffffffffff:7fffffffffffffff:1",
	}
	for _, key := range want {
		s.put(key, []byte("x"))
	}
	s.put("loki-go/deletes/team-a/00000000000000000001-00000001.json", []byte("{"))
	found, _ := s.check(testConfig())
	for i := range want {
		want[i] = "unknown-object " + want[i]
	}
	wantFindings(t, "unknown", found, append(want, "damaged-marker loki-go/deletes/team-a/00000000000000000001-00000001.json")...)
	cfg := testConfig()
	cfg.Repair = true
	before := s.contents()
	s.check(cfg)
	if !equalContents(before, s.contents()) {
		t.Fatal("a repair changed the bucket")
	}
	cfg.Tenant = "loki-go"
	found, _ = s.check(cfg)
	wantFindings(t, "one tenant", found, "unknown-object loki-go/other", "unknown-object loki-go/superseded/19860/x.json")
}

// TestWrongStore: with the setting of another kind of store nothing is taken out
// of the index.
func TestWrongStore(t *testing.T) {
	s := fill(t, true)
	before := s.contents()
	s.fileKeys = false
	cfg := testConfig()
	cfg.Repair = true
	found, sum := s.check(cfg)
	if len(found) != 72 || sum.Tenants["index"].Findings[UnknownObject] != 0 || sum.Repaired() != 0 {
		t.Fatalf("%d findings, %+v", len(found), sum.Tenants)
	}
	for _, f := range found {
		if f.Kind != UnknownObject || !strings.Contains(f.Detail, "storage.type=filesystem") {
			t.Fatalf("found %+v", f)
		}
	}
	if !equalContents(before, s.contents()) {
		t.Fatal("a repair changed the bucket")
	}
}

// TestRetention: chunks on their way out are notes, and stay where they are;
// chunks that have expired without being listed are said to have.
func TestRetention(t *testing.T) {
	s := newSite(t, false)
	_, key := s.chunk(s.bucket, "a", `{app="x"}`, midnight.Add(time.Hour), 5)
	_, expired := s.chunk(s.bucket, "a", `{app="y"}`, midnight.Add(time.Hour), 5)
	marker := fmt.Sprintf("loki-go/deletes/a/%020d-00000001.json", midnight.UnixNano())
	s.put(marker, []byte(fmt.Sprintf(`{"version":1,"tenant":"a","chunks":[%q]}`, strings.TrimPrefix(key.String(), "a/"))))
	kept, _ := s.chunk(s.bucket, "a", `{app="z"}`, midnight.Add(time.Hour), 5)
	s.index("a", kept)
	name := s.indexKeys()[0]
	f, err := storage.ParseIndexKey(name)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := storage.ParseIndexInfo(name)
	covered := storage.TenantIndexKey(f.Day, "a", f.Number-1, info)
	s.put(covered, s.get(name))
	s.put(fmt.Sprintf("loki-go/superseded/%d/%020d-00000001.json", f.Day, midnight.UnixNano()),
		[]byte(fmt.Sprintf(`{"version":1,"sources":[%q],"covers":[%q]}`, covered, name)))

	var found []Finding
	cfg := testConfig()
	c := New(cfg, Deps{
		Bucket: s.bucket, Report: func(f Finding) { found = append(found, f) },
		Retention: policy{Period: time.Hour, Streams: []compactor.Rule{{Period: 0, Priority: 1}}}, Now: time.Now,
	})
	if _, err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(found, func(a, b Finding) int { return strings.Compare(string(a.Kind)+a.Key, string(b.Kind)+b.Key) })
	wantFindings(t, "kept for ever", found, "pending-deletion "+key.String(), "pending-deletion "+covered, "chunk-without-index "+expired.String())
	if strings.Contains(found[0].Detail, "older than") {
		t.Errorf("a rule keeps it: %+v", found[0])
	}
	found = nil
	c = New(cfg, Deps{Bucket: s.bucket, Report: func(f Finding) { found = append(found, f) }, Retention: policy{Period: time.Hour}})
	if _, err := c.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Kind == Unindexed && !strings.Contains(f.Detail, "older than its tenant's retention") {
			t.Errorf("found %+v", f)
		}
	}
	cfg.Repair = true
	if found, _ := s.check(cfg); len(found) != 3 {
		t.Fatalf("repair: %q", brief(found))
	}
	if got := indexed(t, s, "a"); !slices.Equal(got, []string{`{app="y"}`, `{app="z"}`}) {
		t.Fatalf("%v are listed after a repair", got)
	}
}

type policy compactor.Policy

func (p policy) Retention(string) compactor.Policy { return compactor.Policy(p) }

// TestCrash kills a repair at every write: nothing that was found before is lost
// then, and the next run completes it.
func TestCrash(t *testing.T) {
	// broken has a table without its index, an index file that cannot be read,
	// one that lists a chunk that is gone, and one that lists nothing else.
	broken := func() (*site, [][]string) {
		s := newSite(t, false)
		var series []index.Series
		var keys []string
		for i := range 8 {
			one, k := s.chunk(s.bucket, "a", fmt.Sprintf(`{app="app-%d"}`, i), midnight.Add(time.Duration(i)*time.Hour), 4)
			series, keys = append(series, one), append(keys, k.String())
		}
		s.index("a", series[2:4]...)
		damaged := s.indexKeys()[0]
		s.index("a", series[4:6]...)
		s.index("a", series[6])
		// Of many tenants, one of which has nothing else.
		foreign, _ := s.chunk(s.bucket, "b", `{app="b"}`, midnight.Add(time.Hour), 4)
		s.shared(storage.TableOf(midnight.UnixMilli()), "many", map[string][]index.Series{"a": series[7:], "b": {foreign}})
		s.put(damaged, s.get(damaged)[:40])
		for _, i := range []int{5, 6, 7} {
			s.delete(keys[i])
			s.lines["a"] = slices.DeleteFunc(s.lines["a"], func(l string) bool { return strings.Contains(l, fmt.Sprintf("app-%d\"", i)) })
		}
		return s, [][]string{keys}
	}
	// listed returns the streams that can be found before the repair.
	listed := []string{`{app="app-4"}`}
	cfg := testConfig()
	cfg.Repair, cfg.Concurrency = true, 1
	writes := 0
	for at := 1; ; at++ {
		done := false
		for _, after := range []bool{false, true} {
			s, _ := broken()
			b := &crashing{Bucket: s.bucket, at: at, after: after}
			_, _, err := s.run(b, cfg)
			when := fmt.Sprintf("write %d (%s), after it: %v", at, b.last, after)
			if !b.crashed() {
				if err != nil {
					t.Fatal(err)
				}
				done = true
				continue
			}
			writes++
			if err == nil {
				t.Fatalf("%s: no error", when)
			}
			// Files that list what is gone fail queries before and after, so
			// that the index is asked, which must list what it did.
			all := indexed(t, s, "a")
			for _, l := range listed {
				if !slices.Contains(all, l) {
					t.Fatalf("%s: %s is not listed", when, l)
				}
			}
			if got := indexed(t, s, "b"); !slices.Equal(got, []string{`{app="b"}`}) {
				t.Fatalf("%s: tenant b has %v", when, got)
			}
			if len(s.keys("a/")) != 5 || len(s.keys("b/")) != 1 {
				t.Fatalf("%s: chunks are gone", when)
			}
			if _, _, err := s.run(s.bucket, cfg); err != nil {
				t.Fatalf("%s: next run: %v", when, err)
			}
			s.wantAll(when)
			before := s.contents()
			found, _ := s.check(cfg)
			wantFindings(t, when, without(found, true))
			if !equalContents(before, s.contents()) {
				t.Fatalf("%s: a third run changed the bucket", when)
			}
			aside := 0
			for _, k := range s.keys(SetAsideDir) {
				if len(s.get(k)) == 40 {
					aside++
				}
			}
			if aside != 1 {
				t.Fatalf("%s: %d copies of the damaged file", when, aside)
			}
		}
		if done {
			break
		}
	}
	if writes < 16 {
		t.Errorf("%d writes in a repair", writes)
	}
}

// indexed returns the streams of a tenant that readable index files list.
func indexed(t *testing.T, s *site, tenant string) (out []string) {
	for _, key := range s.indexKeys() {
		r, err := storage.UnpackIndex(key, s.get(key))
		if err != nil {
			continue
		}
		series, err := r.All()
		if err != nil {
			continue
		}
		f, err := storage.ParseIndexKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range series {
			m := one.Labels.Map()
			if f.Tenant == tenant || m[storage.TenantLabel] == tenant {
				out = append(out, fmt.Sprintf("{app=%q}", m["app"]))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestBesideOthers runs checks and repairs beside a compactor that merges and
// deletes what has expired, and a writer that puts chunks and lists them later,
// in random order: nothing is found, nothing that is kept is lost.
func TestBesideOthers(t *testing.T) {
	rounds := 2
	if testing.Short() {
		rounds = 1
	}
	for round := range rounds {
		synctest.Test(t, func(t *testing.T) { besideOthers(t, round) })
	}
}

func besideOthers(t *testing.T, round int) {
	s := newSite(t, round%2 == 1)
	s.codec = chunk.Snappy // zstd keeps channels between uses, which a bubble does not allow
	defer s.store.Close()
	stop := make(chan struct{})
	var ended []<-chan struct{}
	start := func(f func()) {
		done := make(chan struct{})
		ended = append(ended, done)
		go func() {
			defer close(done)
			f()
		}()
	}
	over := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	// Requests take up to 2 s, and so there are some hundred in delete-delay.
	lazy := slow{s.bucket, 2 * time.Second}
	start(func() {
		cfg := compactor.DefaultConfig()
		cfg.MinFiles, cfg.DeleteDelay, cfg.RetentionDeleteDelay, cfg.MinAge = 2, time.Minute, time.Minute, 0
		c := compactor.New(cfg, compactor.Options{
			Bucket: lazy, FileKeys: s.fileKeys, Now: time.Now,
			Retention: policy{Period: 26 * time.Hour},
		})
		for !over() {
			if err := c.RunOnce(t.Context()); err != nil && !strings.Contains(err.Error(), "half of delete-delay") {
				t.Errorf("compactor: %v", err)
			}
			time.Sleep(10 * time.Second)
		}
	})
	store := storage.New(lazy, storage.DefaultConfig(), storage.Options{FileKeys: s.fileKeys})
	defer store.Close()
	start(func() {
		rng := rand.New(rand.NewPCG(uint64(round), 1))
		for i := 0; !over(); i++ {
			var series []index.Series
			for range 1 + rng.IntN(4) {
				at := time.Now().Add(-time.Duration(rng.IntN(12)) * time.Hour)
				if rng.IntN(3) == 0 { // expires soon
					at = time.Now().Add(-26*time.Hour + time.Duration(rng.IntN(600))*time.Second)
				}
				one, _ := s.chunk(lazy, "a", fmt.Sprintf(`{app="app-%d"}`, rng.IntN(64)), at, 4)
				series = append(series, one)
			}
			time.Sleep(time.Duration(rng.IntN(60)) * time.Second)
			if err := store.PutIndex(t.Context(), "a", series); err != nil {
				t.Error(err)
			}
		}
	})
	time.Sleep(time.Minute)
	kinds := map[Kind]int{}
	for i := range 20 {
		cfg := testConfig()
		cfg.Grace, cfg.Quick, cfg.Repair = 10*time.Minute, i%3 == 1, i%2 == 1
		if i%5 == 4 {
			cfg.MaxMemory = listingBytes * 60
		}
		c := New(cfg, Deps{Bucket: lazy, FileKeys: s.fileKeys, Report: func(f Finding) {
			kinds[f.Kind]++
			if !f.Kind.Note() {
				t.Errorf("round %d, check %d: %+v", round, i, f)
			}
		}})
		if _, err := c.Run(t.Context()); err != nil {
			t.Errorf("round %d, check %d: %v", round, i, err)
		}
		if t.Failed() {
			break
		}
	}
	close(stop)
	for _, done := range ended {
		<-done
	}
	if kinds[Recent] == 0 || kinds[PendingDeletion] == 0 {
		t.Errorf("round %d: nothing was under way: %v", round, kinds)
	}
	if found, _ := s.check(testConfig()); len(without(found, true)) > 0 {
		t.Errorf("round %d: in the end: %q", round, brief(found))
	}
}

// TestChanges: what happens between two requests of a check makes no finding,
// though no chunk is taken for recent.
func TestChanges(t *testing.T) {
	for name, f := range map[string]struct {
		on string // a request, of which the first is meant
		do func(s *site, key string)
	}{
		"a flush after the index was read": {"list a/", func(s *site, _ string) {
			one, _ := s.chunk(s.bucket, "a", `{app="late"}`, midnight, 4)
			s.index("a", one)
		}},
		"a merge while the index is read": {"get index/", func(s *site, _ string) {
			var sources []index.Source
			keys := s.indexKeys()
			for _, k := range keys {
				r, err := storage.UnpackIndex(k, s.get(k))
				if err != nil {
					t.Fatal(err)
				}
				sources = append(sources, index.Source{Reader: r})
			}
			file, info, err := index.Merge(nil, sources, nil)
			if err != nil {
				t.Fatal(err)
			}
			packed, err := storage.PackIndex(file)
			if err != nil {
				t.Fatal(err)
			}
			s.put(storage.TenantIndexKey(storage.TableOf(midnight.UnixMilli()), "a", time.Now().UnixNano(), info), packed)
			for _, k := range keys {
				s.delete(k)
			}
		}},
		"a chunk that expires after the index was read": {"list a/", func(s *site, _ string) {
			s.delete(s.indexKeys()[0])
			s.delete(s.first)
		}},
		"a chunk that expires after it was listed": {"get a/", func(s *site, _ string) {
			s.delete(s.indexKeys()[0])
			s.delete(s.first)
		}},
		"a chunk that expires while what is missing is looked for": {"stat index/", func(s *site, _ string) {
			s.delete(s.indexKeys()[0])
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, false)
			for i := range 3 {
				one, k := s.chunk(s.bucket, "a", fmt.Sprintf(`{app="%d"}`, i), midnight.Add(time.Hour), 4)
				s.index("a", one)
				if i == 0 {
					s.first = k.String()
				}
			}
			if strings.HasPrefix(f.on, "stat") {
				s.delete(s.first)
			}
			done := false
			b := &hooked{s.bucket, func(op, key string) {
				if !done && strings.HasPrefix(op+" "+key, f.on) {
					done = true
					f.do(s, key)
				}
			}}
			cfg := testConfig()
			cfg.Concurrency = 1
			found, _, err := s.run(b, cfg)
			if err != nil || !done {
				t.Fatal(done, err)
			}
			wantFindings(t, name, found)
		})
	}
}

// TestErrors: what cannot be read is an error, not a finding.
func TestErrors(t *testing.T) {
	s := fill(t, false)
	for at := 1; at < 200; at += 7 {
		b := &failing{crashing{Bucket: s.bucket, at: at}}
		found, _, err := s.run(b, testConfig())
		if len(found) > 0 {
			t.Fatalf("request %d: found %q", at, brief(found))
		}
		if b.crashed() != (err != nil) {
			t.Fatalf("request %d: %v", at, err)
		}
	}
}

func TestValidate(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	if errs := (Config{Grace: -1, Concurrency: 1001}).Validate(); len(errs) != 3 {
		t.Fatalf("%d problems: %v", len(errs), errs)
	}
}
