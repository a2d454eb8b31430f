package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/storage"
	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/index"
	"github.com/loki-go/loki-go/storage/objstore"
)

// IndexResult is what it took to write an index.
type IndexResult struct {
	Series       int
	Files        int     // that were read, 0 when it was built from memory
	Object       int64   // bytes of the result, compressed
	Seconds, CPU float64 // of the work alone
	Input        int64   // memory of the process before it, with the series in it
	Peak         int64   // VmHWM of the process
}

const (
	indexTenant = "bench"
	indexDay    = 20_500
)

// indexSeries makes n streams of a cluster, each with two chunks of its own in
// hour file of the day.
func indexSeries(n, file int) []index.Series {
	series := make([]index.Series, n)
	for i := range series {
		app := strconv.Itoa(i % 500)
		ls := labels.Labels{
			{Name: "app", Value: "app-" + app},
			{Name: "cluster", Value: "eu-1"},
			{Name: "container", Value: "main"},
			{Name: "namespace", Value: "ns-" + strconv.Itoa(i%50)},
			{Name: "pod", Value: fmt.Sprintf("app-%s-5d89f7c-%05x", app, i)},
			{Name: "stream", Value: []string{"stdout", "stderr"}[i%2]},
		}
		from := int64(indexDay)*storage.DayMillis + int64(file)*3_600_000 + int64(i%1000)
		series[i] = index.Series{Labels: ls, Fingerprint: ls.Fingerprint(), Chunks: []index.ChunkMeta{
			{MinTime: from, MaxTime: from + 1_800_000, KB: 300, Entries: 2000, Checksum: uint32(i)*2654435761 + uint32(file)},
			{MinTime: from + 1_800_000, MaxTime: from + 3_599_000, KB: 300, Entries: 2000, Checksum: uint32(i)*2246822519 + uint32(file)},
		}}
	}
	return series
}

// measureIndex runs f and says what it took.
func measureIndex(f func() error) (IndexResult, error) {
	var r IndexResult
	runtime.GC()
	before, err := ReadUsage(os.Getpid())
	if err != nil {
		return r, err
	}
	begin, used := time.Now(), cpu()
	if err := f(); err != nil {
		return r, err
	}
	r.Seconds, r.CPU, r.Input = time.Since(begin).Seconds(), cpu()-used, before.RSS
	after, err := ReadUsage(os.Getpid())
	r.Peak = after.PeakRSS
	return r, err
}

// BuildIndex stores the index of n streams that are in memory, as a flush does,
// in the directory dir.
func BuildIndex(ctx context.Context, dir string, n, file int) (IndexResult, error) {
	b, err := objstore.OpenFilesystem(vfs.OS, dir)
	if err != nil {
		return IndexResult{}, err
	}
	defer b.Close()
	s := storage.New(b, storage.DefaultConfig(), storage.Options{})
	defer s.Close()
	series := indexSeries(n, file)
	r, err := measureIndex(func() error { return s.PutIndex(ctx, indexTenant, series) })
	if err != nil {
		return r, err
	}
	r.Series = n
	r.Object, err = DirSize(dir)
	return r, err
}

// MergeIndex has a compactor merge what is in dir, which is files of n streams.
func MergeIndex(ctx context.Context, dir string, n, files int) (IndexResult, error) {
	b, err := objstore.OpenFilesystem(vfs.OS, dir)
	if err != nil {
		return IndexResult{}, err
	}
	defer b.Close()
	before, err := DirSize(dir)
	if err != nil {
		return IndexResult{}, err
	}
	cfg := compactor.DefaultConfig()
	cfg.MinFiles = files
	c := compactor.New(cfg, compactor.Options{Bucket: b, FileKeys: true})
	r, err := measureIndex(func() error { return c.RunOnce(ctx) })
	if err != nil {
		return r, err
	}
	r.Series, r.Files = n, files
	after, err := DirSize(dir)
	r.Object = after - before
	return r, err
}

// Print writes r as a row.
func (r IndexResult) Print(w io.Writer) {
	what := "index built from memory"
	if r.Files > 0 {
		what = fmt.Sprintf("%d index files merged", r.Files)
	}
	fmt.Fprintf(w, "%s, %d streams: %.1f s, %.1f CPU s, peak RSS %.0f MB (%.0f MB before), object %.1f MB\n",
		what, r.Series, r.Seconds, r.CPU, float64(r.Peak)/1e6, float64(r.Input)/1e6, float64(r.Object)/1e6)
}

// Index measures how an index of n streams is built, and how a compactor merges
// four of them, each in a process of its own.
func (r *Run) Index(ctx context.Context, n int) error {
	const files = 4
	dir, err := os.MkdirTemp(r.Dir, "index-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	step := func(verb string, arg int) (res IndexResult, err error) {
		out, err := r.child(ctx, verb, Spec{Streams: n}, "-dir="+dir, "-files="+strconv.Itoa(arg)).Output()
		if err == nil {
			err = json.Unmarshal(out, &res)
		}
		return res, err
	}
	for i := range files {
		built, err := step("index-build", i)
		if err != nil {
			return fmt.Errorf("build an index: %w", err)
		}
		if i == 0 {
			built.Print(r.Out)
		}
	}
	merged, err := step("index-merge", files)
	if err != nil {
		return fmt.Errorf("merge indexes: %w", err)
	}
	merged.Print(r.Out)
	return nil
}
