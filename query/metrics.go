package query

import "github.com/prometheus/client_golang/prometheus"

// metrics of an Engine and its Handler; usable without a registry.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	running  prometheus.Gauge
	blocks   *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	lines    *prometheus.CounterVec
	dups     prometheus.Counter
	entries  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loki_go_query_requests_total", Help: "Requests to the query API, by route and status code.",
		}, []string{"route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "loki_go_query_duration_seconds", Help: "Time from a request to the end of its answer, by route.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60},
		}, []string{"route"}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "loki_go_query_requests_running", Help: "Requests to the query API that are being answered or wait for it.",
		}),
		blocks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loki_go_query_blocks_loaded_total", Help: "Blocks that log queries loaded, by source.",
		}, []string{"source"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loki_go_query_scanned_bytes_total", Help: "Uncompressed bytes of loaded blocks, by source.",
		}, []string{"source"}),
		lines: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loki_go_query_scanned_lines_total", Help: "Lines that log queries looked at, by source.",
		}, []string{"source"}),
		dups: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loki_go_query_duplicates_total", Help: "Entries left out of answers because an equal one was found before.",
		}),
		entries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loki_go_query_returned_entries_total", Help: "Entries that log queries returned.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.duration, m.running, m.blocks, m.bytes, m.lines, m.dups, m.entries)
	}
	return m
}

func (m *metrics) done(s *Stats) {
	m.source("memory", &s.Memory)
	m.source("store", &s.Store)
	m.entries.Add(float64(s.Entries))
}

func (m *metrics) source(name string, s *SourceStats) {
	m.blocks.WithLabelValues(name).Add(float64(s.BlocksLoaded))
	m.bytes.WithLabelValues(name).Add(float64(s.Bytes))
	m.lines.WithLabelValues(name).Add(float64(s.Lines))
	m.dups.Add(float64(s.Duplicates))
}
