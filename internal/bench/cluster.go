package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Goals of a cluster with three replicas.
const (
	// goalGateway is the most CPU of the gateway, in parts of one ingester's.
	goalGateway = 0.5
	// goalCluster is the most CPU of all processes, in parts of that of a single
	// process that stores the same lines once.
	goalCluster = 3.5
)

// ClusterResult is what a cluster and a single process took for the same lines.
type ClusterResult struct {
	Single, Gateway Cost
	Ingesters       []Cost
	// Crowd is the mean (of Merged and Anew: the sum) of as many single processes at once as
	// there are ingesters. Where cores are few, it shows by how much processes that
	// share them make each other slower: a cluster's have a machine each.
	Crowd  Cost
	Load   LoadResult // of the cluster
	Singly LoadResult // of the single process
}

// Cost is what a process took: CPU, in seconds, until the last acknowledgement and
// until all is stored.
type Cost struct {
	Ingest, Stored float64
	// Merged is how many chunks were decompressed and made anew when they were
	// stored, because their blocks overlap. Connections of which some get ahead of
	// others cause it: a load has hours of log in a minute.
	Merged int64
	// Anew is how many blocks were compressed a second time: a replica that was not
	// the first had put off the work, and stored them all the same.
	Anew int64
	// WAL and Blocks are bytes of the process's local files, RSS the most memory, in
	// bytes.
	WAL, Blocks, RSS int64
}

// Total returns the CPU of the cluster until all is stored.
func (r ClusterResult) Total() float64 { return r.Gateway.Stored + r.ingesters() }

func (r ClusterResult) ingesters() (sum float64) {
	for _, c := range r.Ingesters {
		sum += c.Stored
	}
	return sum
}

// GatewayPart returns the gateway's CPU in parts of a mean ingester's.
func (r ClusterResult) GatewayPart() float64 {
	return r.Gateway.Stored / (r.ingesters() / float64(len(r.Ingesters)))
}

// Factor returns the CPU of the cluster in parts of a single process's.
func (r ClusterResult) Factor() float64 { return r.Total() / r.Single.Stored }

// CrowdFactor is Factor on equal terms.
func (r ClusterResult) CrowdFactor() float64 { return r.Total() / r.Crowd.Stored }

func (r ClusterResult) print(run *Run) {
	gb := float64(r.Load.Bytes) / 1e9
	row := func(name string, c Cost) {
		raw := float64(r.Load.Bytes)
		fmt.Fprintf(run.Out, "%-18s %7.2f %7.2f %7d %7d %7.3f %7.3f %7.0f\n", name, c.Ingest/gb, c.Stored/gb, c.Merged, c.Anew,
			float64(c.WAL)/raw, float64(c.Blocks)/raw, float64(c.RSS)/1e6)
	}
	fmt.Fprintf(run.Out, "CPU s per GB of lines, Loki push, S3. ingest, +flush: until the last ack, and until all is stored.\nmerged: chunks that had to be made anew, as their blocks overlap.\nanew: blocks that a replica stored in place of the first, compressed a second time. WAL, blocks: local files, bytes per byte of\nlines. RSS: peak, MB.\n\n%-18s %7s %7s %7s %7s %7s %7s %7s\n",
		"", "ingest", "+flush", "merged", "anew", "WAL", "blocks", "RSS")
	row("single process", r.Single)
	row(fmt.Sprintf("%d of these at once", len(r.Ingesters)), r.Crowd)
	row("gateway", r.Gateway)
	for i, c := range r.Ingesters {
		row(fmt.Sprintf("ingester %d", i), c)
	}
	fmt.Fprintf(run.Out, "gateway: %.2f of an ingester (goal: at most %.2f); cluster: %.2f x the single process, %.2f x one of %d at once (goal: at most %.2f)\n",
		r.GatewayPart(), goalGateway, r.Factor(), r.CrowdFactor(), len(r.Ingesters), goalCluster)
	fmt.Fprintf(run.Out, "p50 %.1f ms, p99 %.1f ms, %d retries; single process: %.1f, %.1f, %d; load average: %s\n",
		r.Load.P50, r.Load.P99, r.Load.Retries, r.Singly.P50, r.Singly.P99, r.Singly.Retries, loadAverage())
}

// loadAverage returns how busy the machine is: figures of one that does other
// things as well are too high.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// Cluster measures a single process, and a gateway and three ingesters that keep
// three copies, with the same lines, an S3 service, and a Consul.
func (r *Run) Cluster(ctx context.Context, spec Spec, tools string) error {
	var res ClusterResult
	var err error
	if res.Single, res.Singly, err = r.single(ctx, spec, tools); err != nil {
		return fmt.Errorf("single process: %w", err)
	}
	if err := r.replicated(ctx, spec, tools, &res); err != nil {
		return err
	}
	if res.Crowd, err = r.crowd(ctx, spec, tools, len(res.Ingesters)); err != nil {
		return fmt.Errorf("%d single processes: %w", len(res.Ingesters), err)
	}
	res.print(r)
	return nil
}

// bucket starts an S3 service of its own for one measurement.
func (r *Run) bucket(ctx context.Context, tools string) (store *s3, stop func(), err error) {
	dir, err := os.MkdirTemp(r.Dir, "s3-")
	if err != nil {
		return nil, nil, err
	}
	if store, err = startS3(ctx, tools, dir); err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return store, func() {
		store.stop()
		os.RemoveAll(dir)
	}, nil
}

func (r *Run) single(ctx context.Context, spec Spec, tools string) (Cost, LoadResult, error) {
	store, stop, err := r.bucket(ctx, tools)
	if err != nil {
		return Cost{}, LoadResult{}, err
	}
	defer stop()
	s, err := r.start(ctx, store.args()...)
	if err != nil {
		return Cost{}, LoadResult{}, err
	}
	defer s.stop()
	costs, load, err := r.costs(ctx, spec, s.http, []*server{s}, []*server{s})
	if err != nil {
		return Cost{}, load, err
	}
	return costs[0], load, nil
}

// crowd measures n single processes at once, each with its own load, and returns
// their mean.
func (r *Run) crowd(ctx context.Context, spec Spec, tools string, n int) (mean Cost, err error) {
	costs, errs := make([]Cost, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { costs[i], _, errs[i] = r.single(ctx, spec, tools) })
	}
	wg.Wait()
	for _, c := range costs {
		mean.Ingest += c.Ingest / float64(n)
		mean.Stored += c.Stored / float64(n)
		mean.Merged += c.Merged
		mean.Anew += c.Anew
		mean.WAL += c.WAL / int64(n)
		mean.Blocks += c.Blocks / int64(n)
		mean.RSS += c.RSS / int64(n)
	}
	return mean, errors.Join(errs...)
}

func (r *Run) replicated(ctx context.Context, spec Spec, tools string, res *ClusterResult) error {
	store, stop, err := r.bucket(ctx, tools)
	if err != nil {
		return err
	}
	defer stop()
	consul, stopConsul, err := r.startConsul(tools)
	if err != nil {
		return err
	}
	defer stopConsul()
	shared := append(store.args(), "-ring.store=consul", "-ring.consul.address="+consul, "-ring.replication-factor=3")
	var ingesters []*server
	defer func() {
		for _, s := range ingesters {
			s.stop()
		}
	}()
	for i := range 3 {
		addr, err := freeAddr()
		if err != nil {
			return err
		}
		s, err := r.start(ctx, append(shared[:len(shared):len(shared)],
			"-target=ingester", fmt.Sprintf("-ingester.id=ingester-%d", i), "-server.grpc-listen="+addr)...)
		if err != nil {
			return fmt.Errorf("ingester %d: %w", i, err)
		}
		ingesters = append(ingesters, s)
	}
	gateway, err := r.start(ctx, append(shared, "-target=gateway")...)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	defer gateway.stop()
	if err := gateway.meet(ctx, len(ingesters)); err != nil {
		return err
	}
	costs, load, err := r.costs(ctx, spec, gateway.http, append([]*server{gateway}, ingesters...), ingesters)
	if err != nil {
		return err
	}
	res.Load, res.Gateway, res.Ingesters = load, costs[0], costs[1:]
	return nil
}

// costs sends what spec says to target, has the servers in flush store it, and
// returns what all of them took.
func (r *Run) costs(ctx context.Context, spec Spec, target string, all, flush []*server) ([]Cost, LoadResult, error) {
	usage := func() (list []float64, err error) {
		for _, s := range all {
			u, err := ReadUsage(s.cmd.Process.Pid)
			if err != nil {
				return nil, err
			}
			list = append(list, u.CPU)
		}
		return list, nil
	}
	var before []float64
	load, err := r.load(ctx, spec, target, func() (err error) {
		before, err = usage()
		return err
	})
	if err != nil {
		for _, s := range all {
			err = fmt.Errorf("%w\nserver: %s", err, s.log.String())
		}
		return nil, load, err
	}
	ingested, err := usage()
	if err != nil {
		return nil, load, err
	}
	for _, s := range flush {
		if err := s.flush(ctx); err != nil {
			return nil, load, fmt.Errorf("%w\nserver: %s", err, s.log.String())
		}
	}
	stored, err := usage()
	if err != nil {
		return nil, load, err
	}
	costs := make([]Cost, len(all))
	for i := range costs {
		text, err := all[i].get(ctx, "/metrics")
		if err != nil {
			return nil, load, err
		}
		u, err := ReadUsage(all[i].cmd.Process.Pid)
		if err != nil {
			return nil, load, err
		}
		costs[i] = Cost{
			Ingest: ingested[i] - before[i], Stored: stored[i] - before[i], RSS: u.PeakRSS,
			Merged: counter(text, "loki_go_ingester_merged_chunks_total"), Anew: counter(text, "loki_go_ingester_recompressed_blocks_total"),
			WAL: counter(text, "loki_go_wal_appended_bytes_total"), Blocks: counter(text, "loki_go_ingester_block_bytes_sum"),
		}
	}
	return costs, load, nil
}

// meet waits until a gateway sees n ingesters that take pushes.
func (s *server) meet(ctx context.Context, n int) error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text, err := s.get(ctx, "/ring")
		var ring struct{ Instances []struct{ State string } }
		if err == nil {
			err = json.Unmarshal([]byte(text), &ring)
		}
		active := 0
		for _, in := range ring.Instances {
			if in.State == "ACTIVE" {
				active++
			}
		}
		if active == n {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.Join(fmt.Errorf("the gateway sees %d ingesters, not %d", active, n), err)
		}
	}
}

// startConsul starts an agent without data on disk and returns its address.
func (r *Run) startConsul(tools string) (addr string, stop func(), err error) {
	var ports []string
	for _, name := range []string{"http", "serf-lan", "server"} {
		a, err := freeAddr()
		if err != nil {
			return "", nil, err
		}
		if name == "http" {
			addr = a
		}
		ports = append(ports, "-"+name+"-port="+a[strings.LastIndexByte(a, ':')+1:])
	}
	args := append([]string{
		"agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1",
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-serf-wan-port=-1", "-log-level=err",
	}, ports...)
	cmd := exec.Command(filepath.Join(tools, "consul"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("%w (make tools builds it)", err)
	}
	stop = func() {
		// Nothing of it is needed any more; errors mean that it is gone.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if resp, err := http.Get("http://" + addr + "/v1/catalog/nodes"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return addr, stop, nil
			}
		}
		if time.Now().After(deadline) {
			stop()
			return "", nil, errors.New("consul does not answer")
		}
	}
}
