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
	m := &metrics{
		appended:    counter("appended_bytes_total", "Bytes of records appended to the WAL."),
		records:     counter("records_total", "Records appended to the WAL."),
		commits:     counter("commits_total", "Groups of records written."),
		corruptions: counter("corruptions_total", "Places in the WAL at which records were lost."),
		writeErrors: counter("write_errors_total", "Failed writes, syncs and segment creations."),
		fsync: f.NewHistogram(prometheus.HistogramOpts{Name: "loki_go_wal_fsync_seconds", Help: "Duration of fdatasync.",
			Buckets: prometheus.ExponentialBuckets(1e-4, 2, 16)}),
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "loki_go_wal_segments", Help: "Segments on disk."},
		func() float64 { return float64(len(l.Segments())) })
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "loki_go_wal_size_bytes", Help: "Bytes of records in all segments."},
		func() float64 { return float64(l.Size()) })
	return m
}
