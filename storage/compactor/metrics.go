package compactor

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	runs                              *prometheus.CounterVec
	lastRun, owner                    prometheus.Gauge
	seconds                           prometheus.Histogram
	tables, merges, conflicts, errors prometheus.Counter
	filesMerged, filesDeleted         prometheus.Counter
	series, bytesRead, bytesWritten   prometheus.Counter
	chunksExpired, chunksDeleted      prometheus.Counter
	voided                            prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	const ns = "loki_go_compactor_"
	counter := func(name, help string) prometheus.Counter {
		return register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: ns + name, Help: help}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: ns + name, Help: help}))
	}
	return &metrics{
		runs: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: ns + "runs_total", Help: "Runs over the bucket, by result.",
		}, []string{"result"})),
		lastRun: gauge("last_run_timestamp_seconds", "End of the last run without errors."),
		owner:   gauge("lease_owner", "1 while this process has the lease."),
		seconds: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: ns + "run_seconds", Help: "Time of runs.", Buckets: prometheus.ExponentialBuckets(0.1, 4, 9),
		})),
		tables:        counter("tables_total", "Tables looked at."),
		merges:        counter("merges_total", "Index files written."),
		conflicts:     counter("conflicts_total", "Merges given up because another compactor was faster."),
		errors:        counter("errors_total", "Steps that failed; they are repeated in the next run."),
		filesMerged:   counter("files_merged_total", "Index files that were merged into others."),
		filesDeleted:  counter("files_deleted_total", "Index files deleted after they were merged."),
		series:        counter("series_total", "Series in index files written."),
		bytesRead:     counter("read_bytes_total", "Bytes of index files read, compressed."),
		bytesWritten:  counter("written_bytes_total", "Bytes of index files written, compressed."),
		chunksExpired: counter("chunks_expired_total", "Chunks that retention took out of the index, counted for each table."),
		chunksDeleted: counter("chunks_deleted_total", "Chunks deleted."),
		voided:        counter("markers_voided_total", "Markers dropped because what they rest on is gone."),
	}
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg != nil {
		reg.MustRegister(c)
	}
	return c
}
