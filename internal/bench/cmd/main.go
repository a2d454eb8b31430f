// Command bench measures the loki-go binary; see package bench.
//
//	bench -binary=bin/loki-go -bytes=1000000000
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	spec    bench.Spec
	target  string
	dir     string
	binary  string
	only    string
	idle    int
	smaller int64
	storageOptions
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	verb := "run"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		verb, args = args[0], args[1:]
	}
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.spec.Protocol, "protocol", "loki", "loki, forward or json (load)")
	fs.IntVar(&o.spec.Streams, "streams", 100, "streams (load, floor)")
	fs.Int64Var(&o.spec.Bytes, "bytes", 1_000_000_000, "bytes of lines")
	fs.IntVar(&o.spec.Batch, "batch", 512<<10, "bytes of lines in one request")
	fs.IntVar(&o.spec.Conns, "conns", 4, "connections")
	fs.IntVar(&o.spec.Each, "each", 5, "lines of one stream in one request, when there are many streams")
	fs.Uint64Var(&o.spec.Seed, "seed", 1, "seed of the lines")
	fs.Int64Var(&o.spec.Start, "start", 0, "time of the first line in ns; 0 is a quarter of an hour ago")
	fs.StringVar(&o.spec.App, "app", "", "the one program that writes lines, as checkout; empty is all of them (load, floor)")
	fs.StringVar(&o.target, "target", "", "host:port of the server (load)")
	fs.StringVar(&o.dir, "dir", "", "scratch directory; a temporary one if empty")
	fs.StringVar(&o.binary, "binary", "bin/loki-go", "the server to measure (run)")
	fs.StringVar(&o.only, "only", "100,10000,forward,json,idle", "what to measure (run); besides these: index, query, logql, cluster")
	fs.IntVar(&o.idle, "idle-streams", 100_000, "streams with one line each (run)")
	fs.Int64Var(&o.smaller, "mapped-bytes", 0, "bytes of lines for forward and json; 0 is as many as -bytes (run)")
	o.storageOptions.flags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch verb {
	case "index-build", "index-merge":
		return indexChild(ctx, verb, o, out)
	case "load":
		return load(ctx, o, in, out)
	case "floor":
		r, err := bench.Floor(o.spec, o.dir)
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(r)
	case "run":
		return measure(ctx, o, out)
	}
	return fmt.Errorf("unknown verb %q: run, load or floor", verb)
}

// load says ready when its requests are encoded and starts when stdin ends.
func load(ctx context.Context, o options, in io.Reader, out io.Writer) error {
	start := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, bufio.NewReader(in)) // any end is the end
		close(start)
	}()
	r, err := bench.Load(ctx, o.spec, o.target, func() { fmt.Fprintln(out, "ready") }, start)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

func measure(ctx context.Context, o options, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "loki-go-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.dir)
	}
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	if o.smaller == 0 {
		o.smaller = o.spec.Bytes
	}
	m := measurer{r: bench.Run{Binary: binary, Self: []string{self}, Dir: o.dir, Out: out}, o: o, out: out}
	return m.all(ctx)
}

type measurer struct {
	r     bench.Run
	o     options
	out   io.Writer
	floor float64
	loki  float64 // CPU s/GB of the first run
}

func (m *measurer) all(ctx context.Context) error {
	only := "," + m.o.only + ","
	wants := func(what string) bool { return strings.Contains(only, ","+what+",") }
	if err := m.storage(ctx, wants); err != nil {
		return err
	}
	if !wants("100") && !wants("10000") && !wants("idle") {
		return nil
	}
	bench.Header(m.out)
	for _, streams := range []int{100, 10_000} {
		if wants(fmt.Sprint(streams)) {
			if err := m.loki1(ctx, streams); err != nil {
				return err
			}
		}
	}
	for _, protocol := range []string{"forward", "json"} {
		if wants(protocol) {
			if err := m.mapped(ctx, protocol); err != nil {
				return err
			}
		}
	}
	if wants("idle") {
		per, peak, err := m.r.Idle(ctx, m.o.idle, m.o.spec.Conns)
		if err != nil {
			return err
		}
		fmt.Fprintf(m.out, "%d streams with one line each: %.0f bytes of memory per stream, peak RSS %.0f MB\n", m.o.idle, per, float64(peak)/1e6)
	}
	return nil
}

func (m *measurer) spec(protocol string, streams int, bytes int64) bench.Spec {
	s := m.o.spec
	s.Protocol, s.Streams, s.Bytes = protocol, streams, bytes
	s.Start = time.Now().Add(-15 * time.Minute).UnixNano()
	return s
}

// loki1 measures Loki push and the floor of the same lines.
func (m *measurer) loki1(ctx context.Context, streams int) error {
	spec := m.spec("loki", streams, m.o.spec.Bytes)
	name := fmt.Sprintf("%d streams", streams)
	floor, err := m.r.Floor(ctx, spec)
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	floor.Print(m.out, name)
	res, err := m.r.Measure(ctx, spec)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	res.Print(m.out, "loki push, "+name, floor.Total())
	if m.loki == 0 {
		m.floor, m.loki = floor.Total(), res.PerGB(res.Flushed)
	}
	return nil
}

// mapped measures another protocol and compares it with Loki push.
func (m *measurer) mapped(ctx context.Context, protocol string) error {
	if m.loki == 0 {
		return fmt.Errorf("-only=%s needs 100 or 10000 to compare with", protocol)
	}
	res, err := m.r.Measure(ctx, m.spec(protocol, 100, m.o.smaller))
	if err != nil {
		return fmt.Errorf("%s: %w", protocol, err)
	}
	res.Print(m.out, protocol+", 100 streams", m.floor)
	fmt.Fprintf(m.out, "%22s %.2f x the CPU of loki push\n", "", res.PerGB(res.Flushed)/m.loki)
	return nil
}
