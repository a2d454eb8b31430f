package bench

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
)

// Credentials of the S3 service, which listens on the loopback only.
const (
	s3Access, s3Secret, s3Region, s3Bucket = "bench-access", "bench-secret", "us-east-1", "logs"
)

// s3 is a versitygw.
type s3 struct {
	cmd *exec.Cmd
	dir string
	url string
}

func startS3(ctx context.Context, tools, dir string) (*s3, error) {
	s := &s3{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, s3Bucket), 0o755); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s.url = "http://" + addr
	s.cmd = exec.Command(filepath.Join(tools, "versitygw"), "--port", addr, "--region", s3Region, "--quiet", "posix", dir)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s3Access, "ROOT_SECRET_KEY="+s3Secret)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (make tools builds it)", err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get(s.url); err == nil {
			resp.Body.Close()
			return s, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			s.stop()
			return nil, fmt.Errorf("the S3 service does not answer")
		}
	}
}

func (s *s3) stop() {
	// Nothing of it is needed any more; errors mean that it is gone.
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *s3) args() []string {
	return []string{
		"-storage.type=s3", "-storage.s3.endpoint=" + s.url, "-storage.s3.bucket=" + s3Bucket, "-storage.s3.region=" + s3Region,
		"-storage.s3.access-key=" + s3Access, "-storage.s3.secret-key=" + s3Secret, "-storage.s3.path-style=true",
		"-limits.query-timeout=10m",
	}
}

const (
	// partBytes is how much is loaded at a time: the load is in memory.
	partBytes = 1_000_000_000
	// loadSpan is the time that the lines of a load would spread over if one
	// connection sent them, see newMaker.
	loadSpan = 5 * time.Minute
)

// Query fills a bucket of an S3 service with the lines of spec, and then has a
// server that has nothing but the bucket search them: one stream of 100 over
// all of the time, and all streams over a hundredth of the time. No line
// matches, so that each is looked at.
func (r *Run) Query(ctx context.Context, spec Spec, tools string) error {
	dir, err := os.MkdirTemp(r.Dir, "s3-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := startS3(ctx, tools, dir)
	if err != nil {
		return err
	}
	defer store.stop()
	parts := int((spec.Bytes + partBytes - 1) / partBytes)
	part := loadSpan / time.Duration(spec.Conns)
	span := time.Duration(parts) * part
	from := time.Now().Add(-15*time.Minute - span)
	raw, err := r.fill(ctx, store, spec, parts, from, part)
	if err != nil {
		return err
	}
	stored, err := DirSize(dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.Out, "bucket: %.2f GB of lines in %d streams over %v, stored in %.1f MB\n", float64(raw)/1e9, spec.Streams, span, float64(stored)/1e6)
	one := loglines.AppName(0)
	for _, q := range []struct {
		name, query string
		from, to    time.Time
	}{
		{"1 stream of 100, all of the time", fmt.Sprintf(`{instance="%s-%05d"} |= "no such line"`, one, 0), from, from.Add(span)},
		{"all streams, 1 % of the time", `{job="bench"} |= "no such line"`, from.Add(span / 2), from.Add(span/2 + span/100)},
	} {
		if err := r.search(ctx, store, q.name, q.query, q.from, q.to); err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
	}
	return nil
}

func (r *Run) fill(ctx context.Context, store *s3, spec Spec, parts int, from time.Time, part time.Duration) (raw int64, err error) {
	s, err := r.start(ctx, store.args()...)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	total := spec.Bytes
	for i := range parts {
		spec.Bytes, spec.Seed = total/int64(parts), spec.Seed+uint64(spec.Conns)
		spec.Start = from.Add(time.Duration(i) * part).UnixNano()
		res, err := r.load(ctx, spec, s.http, func() error { return nil })
		if err != nil {
			return 0, fmt.Errorf("%w\nserver: %s", err, s.log.String())
		}
		raw += res.Bytes
	}
	if err := s.flush(ctx); err != nil {
		return 0, fmt.Errorf("%w\nserver: %s", err, s.log.String())
	}
	return raw, nil
}

// search runs a query twice on a server that has just started.
func (r *Run) search(ctx context.Context, store *s3, name, query string, from, to time.Time) error {
	s, err := r.start(ctx, store.args()...)
	if err != nil {
		return err
	}
	defer s.stop()
	v := url.Values{
		"query": {query}, "limit": {"5000"},
		"start": {strconv.FormatInt(from.UnixNano(), 10)}, "end": {strconv.FormatInt(to.UnixNano(), 10)},
	}
	last := fetched{}
	for _, state := range []string{"cold", "warm"} {
		before, err := ReadUsage(s.cmd.Process.Pid)
		if err != nil {
			return err
		}
		begin := time.Now()
		if _, err := s.get(ctx, "/loki/api/v1/query_range?"+v.Encode()); err != nil {
			return err
		}
		took := time.Since(begin)
		after, err := ReadUsage(s.cmd.Process.Pid)
		if err != nil {
			return err
		}
		now, err := s.fetched(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(r.Out, "%s, %s: %.2f s, %.2f CPU s; %d chunks of %.1f MB, %d index files of %.1f kB fetched; peak RSS %.0f MB\n",
			name, state, took.Seconds(), after.CPU-before.CPU, now.chunks-last.chunks, float64(now.chunkBytes-last.chunkBytes)/1e6,
			now.indexes-last.indexes, float64(now.indexBytes-last.indexBytes)/1e3, float64(after.PeakRSS)/1e6)
		last = now
	}
	return nil
}

// fetched is what a server has read from the store.
type fetched struct{ chunks, chunkBytes, indexes, indexBytes int64 }

func (s *server) fetched(ctx context.Context) (f fetched, err error) {
	text, err := s.get(ctx, "/metrics")
	if err != nil {
		return f, err
	}
	return fetched{
		chunks:     counter(text, "loki_go_storage_chunks_read_total"),
		chunkBytes: counter(text, "loki_go_storage_chunk_read_bytes_total"),
		indexes:    counter(text, "loki_go_storage_index_files_read_total"),
		indexBytes: counter(text, "loki_go_storage_index_read_bytes_total"),
	}, nil
}
