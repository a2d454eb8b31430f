//go:build integration

package test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/s3server"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// TestStockLokiReadsWhatWeWrote: stock Loki returns each line that was pushed
// with its time, labels and metadata, once, and nothing else: of two tenants
// and all codecs; from chunks of many blocks, chunks that reach over midnight
// and late chunks; from a file system and S3; from many small index files, from
// those and the file that they were merged into, and from that one alone; and,
// when retention has dropped a stream, all others. A Loki that runs meanwhile
// sees the same as one that starts later.
func TestStockLokiReadsWhatWeWrote(t *testing.T) {
	t.Parallel()
	t.Run("filesystem", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		(&matrix{t: t, dir: dir, store: filesystemBucket(dir)}).run()
	})
	t.Run("s3", func(t *testing.T) {
		t.Parallel()
		(&matrix{t: t, dir: t.TempDir(), store: s3Bucket(s3server.New(t, "logs"), "logs")}).run()
	})
}

var (
	matrixCodecs  = []string{"none", "gzip", "lz4", "snappy", "zstd"}
	matrixTenants = []string{"team-a", "team-b"}
)

// matrix is a bucket that holds a corpus for each codec and tenant.
type matrix struct {
	t      *testing.T
	dir    string // of loki-go
	store  bucket
	bucket objstore.Bucket
	start  int64         // of the corpora
	later  time.Duration // how far the compactor's clock is ahead
	gone   dropOne
}

func (m *matrix) run() {
	midnight := time.Now().UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour)
	m.start = midnight.Add(-350 * time.Second).UnixNano()
	for _, codec := range matrixCodecs {
		m.fill(codec)
	}
	m.bucket = m.store.Open(m.t)
	m.layout()
	first := m.corpus(matrixCodecs[0], matrixTenants[0])[0].Labels[0].Value
	running := startLoki(m.t, m.store)
	for _, state := range []struct {
		name    string
		gone    dropOne
		compact []time.Duration // runs of the compactor, by the time between them
		files   int             // of a tenant in a table
		fresh   bool            // read by a Loki that starts now, too
		watch   time.Duration   // read all the time for so long
	}{
		{name: "as written", files: 3 * len(matrixCodecs)},
		{name: "old and merged files", compact: []time.Duration{2 * time.Hour}, files: 3*len(matrixCodecs) + 1},
		// Loki looks every 5 s, at a listing that is a minute old at most.
		// Whenever it finds out, it misses nothing.
		{name: "merged files", compact: []time.Duration{20 * time.Minute}, files: 1, fresh: true, watch: m.listingAge()},
		{
			name: "after retention", gone: dropOne{matrixTenants[0], first}, files: 1, fresh: true,
			compact: []time.Duration{3 * time.Hour, 20 * time.Minute, 3 * time.Hour, 20 * time.Minute},
		},
	} {
		m.gone = state.gone
		m.compact(state.compact)
		watched := time.Now().Add(state.watch)
		m.countFiles(state.name, state.files)
		if state.gone == (dropOne{}) {
			m.read(state.name, running)
		}
		if state.fresh {
			m.read(state.name+", a Loki that has just started", startLoki(m.t, m.store))
		}
		for i := 0; time.Now().Before(watched); i++ {
			m.readCodec(state.name+", while Loki finds out", running, matrixCodecs[i%len(matrixCodecs)])
			time.Sleep(200 * time.Millisecond)
		}
	}
	if keys, err := m.bucket.List(context.Background(), "loki-go/", true); err != nil || len(keys) != 0 {
		m.t.Errorf("left in the bucket: %s, %v", strings.Join(keys, " "), err)
	}
}

// listingAge is how long a running Loki may take to find out that files were
// deleted. To wait for it once is enough.
func (m *matrix) listingAge() time.Duration {
	if m.store.Type == "filesystem" {
		return 66 * time.Second
	}
	return 0
}

func (m *matrix) corpus(codec, tenant string) []testkit.Stream {
	return corpus(codec, tenant, m.start)
}

// fill pushes the corpora of a codec with a loki-go that uses it, in three
// parts with an index file each. The last one repeats some of what was pushed.
func (m *matrix) fill(codec string) {
	t, ctx := m.t, context.Background()
	t.Helper()
	s := testkit.NewServer(t, m.dir, append([]string{
		"-auth.enabled=true", "-ingester.chunk-encoding=" + codec,
		"-ingester.chunk-block-size=16KB", "-ingester.chunk-target-size=64KB",
	}, m.store.Args...)...)
	s.Start()
	s.WaitReady()
	for _, part := range [][2]int{{0, 250}, {250, 500}, {500, 700}} {
		for _, tenant := range matrixTenants {
			streams := m.corpus(codec, tenant)
			for i := range streams {
				all := streams[i].Entries
				streams[i].Entries = slices.Clone(all[part[0]:part[1]])
				if part[1] == len(all) {
					streams[i].Entries = append(streams[i].Entries, all[100:110]...) // stored before
					streams[i].Entries = append(streams[i].Entries, all[650:660]...) // in this push
				}
			}
			if err := s.Client(tenant).Push(ctx, streams); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Client("").Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	m.readCodec("loki-go", "http://"+s.HTTP, codec)
	if err := s.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// read compares what a server finds with what was pushed.
func (m *matrix) read(what, url string) {
	m.t.Helper()
	for _, codec := range matrixCodecs {
		m.readCodec(what, url, codec)
	}
	if m.t.Failed() {
		m.t.FailNow()
	}
}

func (m *matrix) readCodec(what, url, codec string) {
	m.t.Helper()
	for _, tenant := range matrixTenants {
		want := m.corpus(codec, tenant)
		if tenant == m.gone.tenant {
			want = want[1:]
		}
		c := &testkit.Client{Base: url, Tenant: tenant}
		got, err := c.QueryAll(context.Background(), `{codec="`+codec+`"}`, m.start-int64(lateBy), m.start+int64(time.Hour))
		if err != nil {
			m.t.Fatalf("%s: %s, %s: %v", what, tenant, codec, err)
		}
		compare(m.t, what+": "+tenant+", "+codec, got, want)
	}
}

// dropOne keeps all but one program's lines of a tenant.
type dropOne struct{ tenant, app string }

func (d dropOne) Retention(tenant string) compactor.Policy {
	if d.tenant == "" || tenant != d.tenant {
		return compactor.Policy{}
	}
	m, err := labels.NewMatcher(labels.MatchEqual, "app", d.app)
	if err != nil {
		panic(err)
	}
	return compactor.Policy{Streams: []compactor.Rule{{Matchers: []*labels.Matcher{m}, Period: time.Hour}}}
}

// laterBucket has the clock of who compacts it later.
type laterBucket struct {
	objstore.Bucket
	later time.Duration
}

func (b laterBucket) Stat(ctx context.Context, key string) (objstore.Info, error) {
	info, err := b.Bucket.Stat(ctx, key)
	info.Modified = info.Modified.Add(b.later)
	return info, err
}

// compact runs the compactor, each time so much later.
func (m *matrix) compact(runs []time.Duration) {
	m.t.Helper()
	for _, after := range runs {
		m.later += after
		c := compactor.New(compactor.DefaultConfig(), compactor.Options{
			Bucket: laterBucket{m.bucket, m.later}, FileKeys: m.store.Type == "filesystem", Retention: m.gone,
			Now: func() time.Time { return time.Now().Add(m.later) },
		})
		if err := c.RunOnce(context.Background()); err != nil {
			m.t.Fatal(err)
		}
	}
}

// indexFiles returns the keys of all index files, by table and tenant.
func (m *matrix) indexFiles() map[string][]string {
	m.t.Helper()
	keys, err := m.bucket.List(context.Background(), storage.TablesPrefix, true)
	if err != nil {
		m.t.Fatal(err)
	}
	out := map[string][]string{}
	for _, k := range keys {
		f, err := storage.ParseIndexKey(k)
		if err != nil {
			m.t.Fatal(err)
		}
		name := fmt.Sprint(f.Day, " ", f.Tenant)
		out[name] = append(out[name], k)
	}
	return out
}

// countFiles wants at most so many files of each tenant in each table, and as
// many in the later one.
func (m *matrix) countFiles(when string, want int) {
	m.t.Helper()
	most := 0
	files := m.indexFiles()
	for name, keys := range files {
		most = max(most, len(keys))
		if len(keys) > want || want > 1 && len(keys) < 2 {
			m.t.Fatalf("%s: %d files of %s, want %d", when, len(keys), name, want)
		}
	}
	if most != want || len(files) != 2*len(matrixTenants) {
		m.t.Fatalf("%s: %d files of one table, want %d: %v", when, most, want, files)
	}
}

// layout checks that the bucket has what the matrix is about: chunks that
// reach over midnight are in both tables, and there are late chunks.
func (m *matrix) layout() {
	m.t.Helper()
	ctx := context.Background()
	tables, late := map[uint32]map[string]bool{}, 0
	for name, keys := range m.indexFiles() {
		for _, key := range keys {
			object, err := m.bucket.Get(ctx, key)
			if err != nil {
				m.t.Fatal(err)
			}
			r, err := storage.UnpackIndex(key, object)
			if err != nil {
				m.t.Fatal(err)
			}
			err = index.Source{Reader: r}.Each(func(_ labels.Labels, _ uint64, chunks []index.ChunkMeta) error {
				for _, c := range chunks {
					if tables[c.Checksum] == nil {
						tables[c.Checksum] = map[string]bool{}
					}
					tables[c.Checksum][name] = true
					if c.MaxTime < m.start/1e6-time.Hour.Milliseconds() {
						late++
					}
				}
				return nil
			})
			if err != nil {
				m.t.Fatal(err)
			}
		}
	}
	both := 0
	for _, in := range tables {
		if len(in) == 2 {
			both++
		}
	}
	if streams := 6 * len(matrixCodecs) * len(matrixTenants); late < streams || both < streams {
		m.t.Fatalf("%d late chunks, %d that reach over midnight, want %d of each", late, both, streams)
	}
}
