package lokipush

import (
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a Receiver.
type metrics struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	entries  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loki_go_lokipush_" + name, Help: help}, labels)
	}
	m := &metrics{
		requests: counter("requests_total", "Pushes answered, by format (protobuf, json, grpc) and status.", "format", "status"),
		bytes:    counter("decoded_bytes_total", "Bytes of decoded pushes, stored or not.", "format"),
		entries:  counter("entries_total", "Entries in decoded pushes, stored or not.", "format"),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.bytes, m.entries} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) count(p *request, code int) {
	format := p.format
	m.requests.WithLabelValues(format, strconv.Itoa(code)).Inc()
	m.bytes.WithLabelValues(format).Add(float64(p.decoded))
	m.entries.WithLabelValues(format).Add(float64(p.entries))
}

// refusalLog writes one line a second at most; a client that is refused tends
// to be refused often. The metrics have the numbers.
type refusalLog struct {
	log    *slog.Logger
	mu     sync.Mutex
	last   time.Time
	silent int
}

func (l *refusalLog) note(peer string, code int, err error) {
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
	text := err.Error()
	if len(text) > 500 {
		text = text[:500] + "..."
	}
	l.log.Warn("push refused", "receiver", receiver, "peer", peer, "status", code, "err", text, "more", silent)
}
