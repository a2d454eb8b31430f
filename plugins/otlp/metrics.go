package otlp

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a Receiver.
type metrics struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	records  *prometheus.CounterVec
	refused  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loki_go_otlp_" + name, Help: help}, labels)
	}
	m := &metrics{
		requests: counter("requests_total", "Requests answered, by format (protobuf, json, grpc) and status.", "format", "status"),
		bytes:    counter("received_bytes_total", "Bytes of decompressed requests.", "format"),
		records:  counter("records_total", "Log records in decoded requests, stored or not.", "format"),
		refused:  counter("refused_records_total", "Log records told as rejected in a partial success.", "format"),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.bytes, m.records, m.refused} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) count(format, status string, bytes, records, refused int) {
	m.requests.WithLabelValues(format, status).Inc()
	m.bytes.WithLabelValues(format).Add(float64(bytes))
	m.records.WithLabelValues(format).Add(float64(records))
	m.refused.WithLabelValues(format).Add(float64(refused))
}

// refusalLog writes one line a second at most; a client that is refused tends
// to be refused often. The metrics have the numbers.
type refusalLog struct {
	log    *slog.Logger
	mu     sync.Mutex
	last   time.Time
	silent int
}

func (l *refusalLog) note(peer, status, text string) {
	l.mu.Lock()
	now := time.Now()
	if now.Sub(l.last) < time.Second {
		l.silent++
		l.mu.Unlock()
		return
	}
	silent := l.silent
	l.last, l.silent = now, 0
	l.mu.Unlock()
	if len(text) > 500 {
		text = text[:500] + "..."
	}
	l.log.Warn("push refused", "receiver", receiver, "peer", peer, "status", status, "err", text, "more", silent)
}
