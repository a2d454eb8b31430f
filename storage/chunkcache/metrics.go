package chunkcache

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons of what is not written.
const (
	tooLarge  = "too_large"   // for the server
	badKey    = "key"         // memcached does not take it
	queueFull = "queue_full"  // the server does not keep up
	serverOff = "server_down" // left alone after failures
	closing   = "shutting_down"
)

type metrics struct {
	hits, misses, corrupt   prometheus.Counter
	readBytes, writtenBytes prometheus.Counter
	errors                  *prometheus.CounterVec // by op
	skipped, dropped        *prometheus.CounterVec // by reason
	seconds                 *prometheus.HistogramVec
	down, queued            prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	const prefix = "loki_go_chunkcache_"
	counter := func(name, help string) prometheus.Counter {
		return register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help}))
	}
	vec := func(name, label, help string) *prometheus.CounterVec {
		return register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{label}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help}))
	}
	return &metrics{
		hits:         counter("hits_total", "Chunks that were found in the cache."),
		misses:       counter("misses_total", "Chunks that were looked for and not found, for whatever reason."),
		corrupt:      counter("corrupt_total", "Chunks from the cache whose checksum was not that of their key."),
		readBytes:    counter("read_bytes_total", "Bytes of chunks that were found in the cache."),
		writtenBytes: counter("written_bytes_total", "Bytes of chunks written to the cache."),
		errors:       vec("errors_total", "op", "Requests to cache servers that failed."),
		skipped:      vec("skipped_total", "reason", "Chunks that the cache cannot hold."),
		dropped:      vec("dropped_total", "reason", "Chunks that the cache could hold and that were not written."),
		down:         gauge("servers_down", "Servers that are left alone after failures."),
		queued:       gauge("queue_bytes", "Bytes of chunks that wait to be written."),
		seconds: register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "request_seconds", Help: "Time of requests to cache servers.",
			Buckets: prometheus.ExponentialBuckets(250e-6, 2.5, 10),
		}, []string{"op"})),
	}
}

func (m *metrics) took(op string, since time.Time) {
	m.seconds.WithLabelValues(op).Observe(time.Since(since).Seconds())
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg != nil {
		reg.MustRegister(c)
	}
	return c
}
