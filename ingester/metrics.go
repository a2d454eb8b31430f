package ingester

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	entries, bytes             prometheus.Counter
	waits, earlyCuts           prometheus.Counter
	repeated                   prometheus.Counter
	blockErrors, flushErrors   prometheus.Counter
	badRecords                 prometheus.Counter
	lostEntries, merged        prometheus.Counter
	recompressed               prometheus.Counter
	coveredEntries             prometheus.Counter
	coveredBytes               prometheus.Counter
	noticesForgotten           prometheus.Counter
	notices, copiesStored      *prometheus.CounterVec
	refused                    *prometheus.CounterVec
	flushed                    *prometheus.CounterVec
	flushedBytes               prometheus.Counter
	blockSize                  prometheus.Histogram
	cutSeconds, flushSeconds   prometheus.Histogram
	recoveryFailed             prometheus.Gauge
	sealedBytes, pendingChunks atomic.Int64
	localBlocks                atomic.Int64 // cut, and not stored
}

func newMetrics(reg prometheus.Registerer, i *Ingester) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "loki_go_ingester_" + name, Help: help})
	}
	m := &metrics{
		entries:          counter("received_entries_total", "Entries of acknowledged pushes, refused ones included."),
		bytes:            counter("received_bytes_total", "Decoded bytes of acknowledged pushes."),
		waits:            counter("memory_waits_total", "Pushes that had to wait for heads to be cut."),
		repeated:         counter("repeated_pushes_total", "Pushes that had been stored before, by their id; they are acknowledged and not stored again."),
		earlyCuts:        counter("early_cuts_total", "Heads cut before they were full, for memory or the WAL's sake."),
		blockErrors:      counter("block_write_errors_total", "Failed writes of blocks to local disk."),
		flushErrors:      counter("flush_errors_total", "Failed uploads of chunks and index files; each is tried again."),
		badRecords:       counter("recovery_bad_records_total", "Records of WAL and block files that were skipped at recovery."),
		lostEntries:      counter("lost_entries_total", "Entries in blocks on local disk that turned out to be damaged; each block has a line in the log."),
		merged:           counter("merged_chunks_total", "Chunks of which blocks were decompressed and made anew when they were stored, because they overlap or are small."),
		recompressed:     counter("recompressed_blocks_total", "Blocks that were compressed anew when they were stored: those of a replica that is not the first to store them, and did; see one-copy."),
		refused:          f.NewCounterVec(prometheus.CounterOpts{Name: "loki_go_ingester_refused_pushes_total", Help: "Pushes that the ingester refused as a whole, by reason; clients send them again."}, []string{"reason"}),
		flushed:          f.NewCounterVec(prometheus.CounterOpts{Name: "loki_go_ingester_flushed_chunks_total", Help: "Chunks stored, by reason."}, []string{"reason"}),
		coveredEntries:   counter("covered_entries_total", "Entries that were let go because another replica has stored them."),
		coveredBytes:     counter("covered_bytes_total", "Compressed bytes of those entries."),
		noticesForgotten: counter("notices_forgotten_total", "Notices of what is stored that a replica did not take in time; it stores a second copy."),
		notices:          f.NewCounterVec(prometheus.CounterOpts{Name: "loki_go_ingester_notices_total", Help: "Notices of what is stored to other replicas: sent, and failed, which are sent again."}, []string{"result"}),
		copiesStored:     f.NewCounterVec(prometheus.CounterOpts{Name: "loki_go_ingester_copies_stored_total", Help: "Chunks stored with one-copy, by whether this replica was the first to store them, or another that did not."}, []string{"by"}),
		flushedBytes:     counter("flushed_bytes_total", "Bytes of chunk objects stored."),
		blockSize: f.NewHistogram(prometheus.HistogramOpts{
			Name: "loki_go_ingester_block_bytes", Help: "Compressed size of cut blocks.",
			Buckets: prometheus.ExponentialBuckets(256, 4, 8),
		}),
		cutSeconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "loki_go_ingester_cut_seconds", Help: "Time to sort, compress and write a block.",
			Buckets: prometheus.ExponentialBuckets(1e-4, 4, 9),
		}),
		flushSeconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "loki_go_ingester_flush_seconds", Help: "Time of one attempt to store a chunk.",
			Buckets: prometheus.ExponentialBuckets(1e-3, 4, 9),
		}),
		recoveryFailed: f.NewGauge(prometheus.GaugeOpts{Name: "loki_go_ingester_recovery_failed", Help: "1 if recovery failed and pushes are refused."}),
	}
	gauge := func(name, help string, fn func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "loki_go_ingester_" + name, Help: help}, fn)
	}
	gauge("streams", "Streams in memory.", func() float64 {
		i.tenantsMu.RLock()
		defer i.tenantsMu.RUnlock()
		n := int64(0)
		for _, t := range i.tenants {
			n += t.active.Load()
		}
		return float64(n)
	})
	gauge("replay_done_bytes", "Bytes of the WAL that this start has replayed.", func() float64 {
		done, _ := i.wal.Progress()
		return float64(done)
	})
	gauge("replay_total_bytes", "Bytes of the WAL that this start has to replay.", func() float64 {
		_, total := i.wal.Progress()
		return float64(total)
	})
	gauge("head_bytes", "Memory of heads.", func() float64 { return float64(i.slabs.InUse()) })
	gauge("head_limit_bytes", "Memory that heads may use.", func() float64 { return float64(i.headMemory) })
	gauge("cut_queue_length", "Sealed heads that wait for a cutter.", func() float64 { return float64(i.cutq.len()) })
	gauge("pending_chunks", "Closed chunks that are not stored and indexed yet.", func() float64 { return float64(m.pendingChunks.Load()) })
	gauge("flush_queue_length", "Closed chunks that wait for an upload.", func() float64 { return float64(i.flushq.len()) })
	gauge("index_queue_length", "Stored chunks that wait for their index file.", func() float64 { return float64(i.index.chunks()) })
	gauge("held_chunks", "Closed chunks that another replica is to store; they are stored from here after one-copy-grace.", func() float64 {
		held, _ := i.copies.pending()
		return float64(held)
	})
	gauge("pending_notices", "Notices of what is stored that other replicas are still to take.", func() float64 {
		_, notices := i.copies.pending()
		return float64(notices)
	})
	gauge("flush_limit", "Uploads that may run at one time: flush-concurrency, and fewer after errors of the store.", func() float64 {
		limit, _ := i.gate.state()
		return float64(limit)
	})
	gauge("store_down", "1 while the store counts as down: several requests in a row failed, and one at a time tries it.", func() float64 {
		if _, down := i.gate.state(); down {
			return 1
		}
		return 0
	})
	gauge("local_disk_bytes", "Bytes of WAL and block files.", func() float64 { return float64(i.room.used.Load()) })
	gauge("local_disk_limit_bytes", "Bytes of WAL and block files at which pushes are refused.", func() float64 { return float64(i.room.budget) })
	gauge("backlog_memory_bytes", "Memory for blocks and chunks that are not stored.", func() float64 { return float64(i.room.crowd.Load()) })
	gauge("backlog_memory_limit_bytes", "Memory for blocks and chunks that are not stored at which pushes are refused.", func() float64 { return float64(i.room.memory) })
	gauge("refusing", "1 while pushes are refused for want of local disk or of memory for what is not stored.", func() float64 {
		if i.room.low.Load() || i.room.full.Load() || i.room.crowded.Load() {
			return 1
		}
		return 0
	})
	gauge("block_file_bytes", "Bytes of block files on local disk.", func() float64 { return float64(i.blocks.Stats().Bytes) })
	gauge("block_live_bytes", "Bytes of blocks on local disk that are not flushed.", func() float64 { return float64(i.blocks.Stats().Live) })
	return m
}
