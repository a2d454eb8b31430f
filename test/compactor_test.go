//go:build integration

package test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/s3server"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/objstore"
	"github.com/loki-go/loki-go/storage/objstore/s3"
)

// TestStockLokiReadsWhatWeCompacted: every line, before our compactor was at
// the bucket, while both the old and the new index files are there, and after;
// by a Loki that runs all the time and by one that starts at the end. Streams
// reach over midnight, and those of one tenant are subject to retention at the
// end.
func TestStockLokiReadsWhatWeCompacted(t *testing.T) {
	t.Run("filesystem", func(t *testing.T) {
		dir := t.TempDir()
		stockLokiReadsCompacted(t, dir, filesystemBucket(dir), func() objstore.Bucket {
			b, err := objstore.OpenFilesystem(vfs.OS, filepath.Join(dir, "objects"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			return b
		}, true, 75*time.Second)
	})
	t.Run("s3", func(t *testing.T) {
		server := s3server.New(t, "logs")
		stockLokiReadsCompacted(t, t.TempDir(), s3Bucket(server, "logs"), func() objstore.Bucket {
			c := s3.DefaultConfig()
			c.Endpoint, c.Bucket, c.PathStyle = server.URL, "logs", true
			c.AccessKey, c.SecretKey = s3server.AccessKey, s3server.SecretKey
			b, err := s3.Open(context.Background(), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close() })
			return objstore.Resilient(b, objstore.DefaultRetryConfig(), nil)
		}, false, 0)
	})
}

// dropOne keeps all but one program's lines of a tenant.
type dropOne struct{ tenant, app string }

func (d dropOne) Retention(tenant string) compactor.Policy {
	if tenant != d.tenant {
		return compactor.Policy{}
	}
	m, err := labels.NewMatcher(labels.MatchEqual, "app", d.app)
	if err != nil {
		panic(err)
	}
	return compactor.Policy{Streams: []compactor.Rule{{Matchers: []*labels.Matcher{m}, Period: time.Hour}}}
}

func stockLokiReadsCompacted(t *testing.T, dir string, store bucket, open func() objstore.Bucket, fileKeys bool, resync time.Duration) {
	ctx := context.Background()
	midnight := time.Now().UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour)
	start := midnight.Add(-350 * time.Second).UnixNano()
	end := midnight.Add(time.Hour).UnixNano()
	codecs := []string{"snappy", "zstd", "gzip"}
	tenants := []string{"team-a", "team-b"}
	s := testkit.NewServer(t, dir, append([]string{"-auth.enabled=true", "-ingester.chunk-block-size=16KB", "-ingester.chunk-target-size=64KB"}, store.Args...)...)
	s.Start()
	s.WaitReady()
	for _, codec := range codecs { // here just a label; each makes index files
		for _, tenant := range tenants {
			if err := s.Client(tenant).Push(ctx, corpus(codec, tenant, start)); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Client("").Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}

	var gone dropOne
	read := func(when, url string) {
		t.Helper()
		for _, tenant := range tenants {
			for _, codec := range codecs {
				want := corpus(codec, tenant, start)
				if tenant == gone.tenant {
					want = want[1:]
				}
				got, err := (&testkit.Client{Base: url, Tenant: tenant}).QueryAll(ctx, `{codec="`+codec+`"}`, start-30e9, end)
				if err != nil {
					t.Fatalf("%s: %s, %s: %v", when, tenant, codec, err)
				}
				compare(t, when+": "+tenant+", "+codec, got, want)
			}
		}
	}
	b := open()
	files := func(when string, most int) {
		t.Helper()
		keys, err := b.List(ctx, storage.TablesPrefix, true)
		if err != nil {
			t.Fatal(err)
		}
		n := map[string]int{}
		for _, k := range keys {
			f, err := storage.ParseIndexKey(k)
			if err != nil {
				t.Fatal(err)
			}
			n[fmt.Sprint(f.Day, " ", f.Tenant)]++
		}
		for k, v := range n {
			if v > most || most > 1 && v < 2 {
				t.Fatalf("%s: %d files of %s", when, v, k)
			}
		}
		if len(n) != 2*len(tenants) {
			t.Fatalf("%s: files of %v", when, n)
		}
	}
	later := time.Duration(0)
	run := func(after time.Duration) {
		t.Helper()
		later += after
		c := compactor.New(compactor.DefaultConfig(), compactor.Options{Bucket: b, FileKeys: fileKeys, Retention: gone, Now: func() time.Time { return time.Now().Add(later) }})
		if err := c.RunOnce(ctx); err != nil {
			t.Fatal(err)
		}
	}
	loki := startLoki(t, store)
	read("before", loki)
	files("before", len(codecs))
	run(2 * time.Hour)
	files("merged", len(codecs)+1)
	read("merged", loki)
	run(20 * time.Minute)
	files("after the delay", 1)
	// Loki looks every 5 s, at a listing that is a minute old at most. Whenever
	// it finds out, it misses nothing.
	read("right after the deletion", loki)
	for resynced := time.Now().Add(resync); time.Now().Before(resynced); {
		read("while Loki finds out", loki)
	}
	read("by a Loki that starts after the deletion", startLoki(t, store))

	gone = dropOne{tenants[0], corpus(codecs[0], tenants[0], start)[0].Labels[0].Value}
	for _, d := range []time.Duration{3 * time.Hour, 20 * time.Minute, 3 * time.Hour, 20 * time.Minute} {
		run(d)
	}
	files("after retention", 1)
	if keys, err := b.List(ctx, "loki-go/", true); err != nil || len(keys) != 0 {
		t.Fatalf("left in the bucket: %s, %v", strings.Join(keys, " "), err)
	}
	read("after retention", startLoki(t, store))
}
