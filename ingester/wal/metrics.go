package wal

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	appended, records, commits, corruptions, writeErrors prometheus.Counter
	fsync                                                prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, l *Log) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "loki_go_wal_" + name, Help: help})
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "loki_go_wal_segments", Help: "Segments of the WAL."},
		func() float64 { return float64(len(l.Segments())) })
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "loki_go_wal_size_bytes", Help: "Bytes in all segments of the WAL."},
		func() float64 { return float64(l.Size()) })
	return &metrics{
		appended:    counter("appended_bytes_total", "Bytes appended to the WAL, record headers included."),
		records:     counter("records_total", "Records appended to the WAL."),
		commits:     counter("commits_total", "Groups of records that became as durable as the sync mode promises."),
		corruptions: counter("corruptions_total", "Places in the WAL at which acknowledged records were missing."),
		writeErrors: counter("write_errors_total", "Writes, syncs and creations of segments that failed."),
		fsync: f.NewHistogram(prometheus.HistogramOpts{
			Name: "loki_go_wal_fsync_seconds", Help: "Time that syncing the WAL took.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
	}
}
