package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"

	"github.com/loki-go/loki-go/internal/bench"
)

// storageOptions are those of -only=index, query and logql.
type storageOptions struct {
	series     int
	files      int
	tools      string
	queryBytes int64
	logqlBytes int64
}

func (o *storageOptions) flags(fs *flag.FlagSet) {
	fs.IntVar(&o.series, "index-series", 1_000_000, "streams of an index (run, index)")
	fs.IntVar(&o.files, "files", 0, "number of the file, or of files (index-build, index-merge)")
	fs.StringVar(&o.tools, "tools", "bin/tools", "directory of versitygw, loki and consul (run: query, logql, cluster)")
	fs.Int64Var(&o.queryBytes, "query-bytes", 500_000_000, "bytes of lines to query (run, query)")
	fs.Int64Var(&o.logqlBytes, "logql-bytes", 1_000_000_000, "bytes of lines of all programs, and of JSON, to query beside Loki (run, logql)")
}

// indexChild is one step of -only=index, in a process of its own.
func indexChild(ctx context.Context, verb string, o options, out io.Writer) error {
	f := bench.BuildIndex
	if verb == "index-merge" {
		f = bench.MergeIndex
	}
	r, err := f(ctx, o.dir, o.spec.Streams, o.files)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

// storage measures what is wanted of the index and of queries.
func (m *measurer) storage(ctx context.Context, wants func(string) bool) error {
	if wants("index") {
		if err := m.r.Index(ctx, m.o.series); err != nil {
			return fmt.Errorf("index: %w", err)
		}
	}
	if wants("query") {
		spec := m.spec("loki", 100, m.o.queryBytes)
		if err := m.r.Query(ctx, spec, m.o.tools); err != nil {
			return fmt.Errorf("query: %w", err)
		}
	}
	if wants("logql") {
		spec := m.spec("loki", 100, m.o.logqlBytes)
		if err := m.r.LogQL(ctx, spec, m.o.tools); err != nil {
			return fmt.Errorf("logql: %w", err)
		}
	}
	if wants("cluster") {
		if err := m.r.Cluster(ctx, m.spec("loki", 100, m.o.spec.Bytes), m.o.tools); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	return nil
}
