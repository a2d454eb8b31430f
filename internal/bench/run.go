package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Run measures servers that it starts.
type Run struct {
	Binary string   // loki-go
	Self   []string // command line of this program, for load and floor
	Dir    string   // scratch space on the disk to measure
	Out    io.Writer
}

// server is a loki-go process with a data directory of its own.
type server struct {
	cmd     *exec.Cmd
	dir     string
	http    string
	forward string
	log     bytes.Buffer
}

// Unlimited are the flags that take the tenant's limits out of the way.
var Unlimited = []string{
	"-limits.ingestion-rate-mb=100000", "-limits.ingestion-burst-size-mb=100000",
	"-limits.per-stream-rate-limit=100GB", "-limits.per-stream-rate-limit-burst=100GB",
	"-limits.max-global-streams-per-user=0",
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start starts a server; more are settings of it.
func (r *Run) start(ctx context.Context, more ...string) (*server, error) {
	dir, err := os.MkdirTemp(r.Dir, "server-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	if s.http, err = freeAddr(); err != nil {
		return nil, err
	}
	if s.forward, err = freeAddr(); err != nil {
		return nil, err
	}
	args := append([]string{
		"-data-dir=" + dir, "-server.http-listen=" + s.http, "-server.grpc-listen=", "-forward.listen=" + s.forward,
		"-otlp.grpc-listen=", "-mapping.label-keys=app,instance,namespace",
		"-ingester.wal.sync=always", "-ingester.chunk-encoding=zstd", "-log.level=warn",
	}, append(Unlimited[:len(Unlimited):len(Unlimited)], more...)...)
	s.cmd = exec.Command(r.Binary, args...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get("http://" + s.http + "/ready"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == 200 {
				return s, nil
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			s.stop()
			return nil, fmt.Errorf("server is not ready:\n%s", s.log.String())
		}
	}
}

func (s *server) stop() {
	// Nothing of it is needed any more; errors mean that it is gone.
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	os.RemoveAll(s.dir)
}

func (s *server) flush(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.http+"/flush?wait=true", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("flush: status %d: %s", resp.StatusCode, text)
	}
	return nil
}

// Result is one measured run.
type Result struct {
	Spec         Spec
	Load         LoadResult
	Ingest       float64 // CPU s while lines came in
	Flushed      float64 // CPU s until all was stored
	FlushSeconds float64
	PeakRSS      int64 // until the end of the flush
	IngestRSS    int64 // peak until the end of ingest
	StartRSS     int64
	Written      int64 // bytes by the server until all was stored
	Stored       int64 // bytes of objects
	// What the server says that it wrote: WAL records, blocks, chunks and index.
	WAL, Blocks, Objects int64
}

// PerGB converts CPU seconds.
func (r Result) PerGB(cpu float64) float64 { return cpu / float64(r.Load.Bytes) * 1e9 }

// Measure starts a server, sends what spec says, and flushes.
func (r *Run) Measure(ctx context.Context, spec Spec) (Result, error) {
	res := Result{Spec: spec}
	s, err := r.start(ctx)
	if err != nil {
		return res, err
	}
	defer s.stop()
	target := s.http
	if spec.Protocol == "forward" {
		target = s.forward
	}
	pid := s.cmd.Process.Pid
	var before Usage
	res.Load, err = r.load(ctx, spec, target, func() error {
		before, err = ReadUsage(pid)
		return err
	})
	if err != nil {
		return res, fmt.Errorf("%w\nserver: %s", err, s.log.String())
	}
	ingested, err := ReadUsage(pid)
	if err != nil {
		return res, err
	}
	begin := time.Now()
	if err := s.flush(ctx); err != nil {
		return res, fmt.Errorf("%w\nserver: %s", err, s.log.String())
	}
	res.FlushSeconds = time.Since(begin).Seconds()
	after, err := ReadUsage(pid)
	if err != nil {
		return res, err
	}
	res.Ingest, res.Flushed = ingested.CPU-before.CPU, after.CPU-before.CPU
	res.PeakRSS, res.IngestRSS, res.StartRSS = after.PeakRSS, ingested.PeakRSS, before.RSS
	res.Written = after.Written - before.Written
	if res.Stored, err = DirSize(filepath.Join(s.dir, "objects")); err != nil {
		return res, err
	}
	return res, s.counters(&res)
}

// counters reads what the server counted.
func (s *server) counters(res *Result) error {
	text, err := s.get(context.Background(), "/metrics")
	if err != nil {
		return err
	}
	res.WAL = counter(text, "loki_go_wal_appended_bytes_total")
	res.Blocks = counter(text, "loki_go_ingester_block_bytes_sum")
	res.Objects = counter(text, "loki_go_storage_chunk_written_bytes_total") + counter(text, "loki_go_storage_index_written_bytes_total")
	return nil
}

// get returns the body at path.
func (s *server) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.http+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: status %d: %.1000s", path, resp.StatusCode, body)
	}
	return string(body), err
}

// counter returns a value of Prometheus' text format.
func counter(text, name string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if f, err := strconv.ParseFloat(strings.TrimSpace(rest), 64); err == nil {
				return int64(f)
			}
		}
	}
	return 0
}

// load runs the load generator as a process. started is called when its
// requests are encoded, right before the first is sent.
func (r *Run) load(ctx context.Context, spec Spec, target string, started func() error) (LoadResult, error) {
	var res LoadResult
	cmd := r.child(ctx, "load", spec, "-target="+target)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return res, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return res, err
	}
	if err := cmd.Start(); err != nil {
		return res, err
	}
	br := bufio.NewReader(stdout)
	line, err := br.ReadString('\n')
	if err == nil && strings.TrimSpace(line) == "ready" {
		err = started()
	}
	stdin.Close() // go, or give up
	if err == nil {
		err = json.NewDecoder(br).Decode(&res)
	}
	return res, errors.Join(err, cmd.Wait())
}

// Floor measures the floor of spec in a process of its own.
func (r *Run) Floor(ctx context.Context, spec Spec) (FloorResult, error) {
	var res FloorResult
	dir, err := os.MkdirTemp(r.Dir, "floor-")
	if err != nil {
		return res, err
	}
	defer os.RemoveAll(dir)
	out, err := r.child(ctx, "floor", spec, "-dir="+dir).Output()
	if err != nil {
		return res, err
	}
	return res, json.Unmarshal(out, &res)
}

func (r *Run) child(ctx context.Context, verb string, s Spec, extra ...string) *exec.Cmd {
	args := append([]string{
		verb, "-protocol=" + s.Protocol, "-streams=" + strconv.Itoa(s.Streams), "-bytes=" + strconv.FormatInt(s.Bytes, 10),
		"-batch=" + strconv.Itoa(s.Batch), "-conns=" + strconv.Itoa(s.Conns), "-each=" + strconv.Itoa(s.Each), "-seed=" + strconv.FormatUint(s.Seed, 10),
		"-start=" + strconv.FormatInt(s.Start, 10), "-app=" + s.App,
	}, extra...)
	cmd := exec.CommandContext(ctx, r.Self[0], append(r.Self[1:len(r.Self):len(r.Self)], args...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

// Idle measures what a stream costs that got one line and no more: the growth
// of the server's memory over n streams, before and after they are flushed.
func (r *Run) Idle(ctx context.Context, n, conns int) (perStream float64, peak int64, err error) {
	s, err := r.start(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer s.stop()
	pid := s.cmd.Process.Pid
	before, err := ReadUsage(pid)
	if err != nil {
		return 0, 0, err
	}
	// About one line for each stream: as many bytes as n lines have.
	spec := Spec{Protocol: "loki", Streams: n, Bytes: int64(n) * 215, Batch: 200 * 5000, Conns: conns, Seed: 3, Each: 1}
	if _, err := r.load(ctx, spec, s.http, func() error { return nil }); err != nil {
		return 0, 0, fmt.Errorf("%w\nserver: %s", err, s.log.String())
	}
	after, err := ReadUsage(pid)
	if err != nil {
		return 0, 0, err
	}
	return float64(after.RSS-before.RSS) / float64(n), after.PeakRSS, nil
}
