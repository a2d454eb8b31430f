package storage

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	chunksPut, chunkBytesPut               prometheus.Counter
	indexesPut, indexBytesPut, seriesPut   prometheus.Counter
	chunksRead, chunkBytesRead, loadErrors prometheus.Counter
	indexesRead, indexBytesRead            prometheus.Counter
	hits, misses                           *prometheus.CounterVec
	bytes                                  *prometheus.GaugeVec
	diskErrors                             prometheus.Counter
	ahead, aheadUnused                     prometheus.Counter
	aheadBytes                             prometheus.Gauge
}

// cacheMetrics are those of one cache.
type cacheMetrics struct {
	hits, misses prometheus.Counter
	bytes        prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "loki_go_storage_" + name, Help: help}))
	}
	cacheCounter := func(name, help string) *prometheus.CounterVec {
		return register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loki_go_storage_" + name, Help: help}, []string{"cache"}))
	}
	return &metrics{
		chunksPut:      counter("chunks_written_total", "Chunks stored."),
		chunkBytesPut:  counter("chunk_written_bytes_total", "Bytes of chunks stored."),
		indexesPut:     counter("index_files_written_total", "Index files stored."),
		indexBytesPut:  counter("index_written_bytes_total", "Bytes of index files stored, compressed."),
		seriesPut:      counter("index_series_written_total", "Series in index files stored."),
		chunksRead:     counter("chunks_read_total", "Chunks fetched."),
		chunkBytesRead: counter("chunk_read_bytes_total", "Bytes of chunks fetched."),
		indexesRead:    counter("index_files_read_total", "Index files fetched by queries."),
		indexBytesRead: counter("index_read_bytes_total", "Bytes of index files fetched by queries, compressed."),
		loadErrors:     counter("chunk_load_errors_total", "Loads of chunks that failed: missing, damaged, or not reachable."),
		hits:           cacheCounter("cache_hits_total", "Look-ups that the cache answered."),
		misses:         cacheCounter("cache_misses_total", "Look-ups that went to the cache behind it, or to the object store."),
		bytes: register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "loki_go_storage_cache_bytes", Help: "Memory, or disk for index_disk, that the cache takes.",
		}, []string{"cache"})),
		diskErrors:  counter("index_disk_errors_total", "Index files on local disk that could not be written, or were damaged."),
		ahead:       counter("read_ahead_chunks_total", "Chunks that were fetched before a query asked for them."),
		aheadUnused: counter("read_ahead_unused_total", "Chunks that were fetched ahead and that no query asked for."),
		aheadBytes: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "loki_go_storage_read_ahead_bytes", Help: "Memory that is set aside for chunks fetched ahead.",
		})),
	}
}

func (m *metrics) cache(name string) cacheMetrics {
	return cacheMetrics{m.hits.WithLabelValues(name), m.misses.WithLabelValues(name), m.bytes.WithLabelValues(name)}
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg != nil {
		reg.MustRegister(c)
	}
	return c
}
