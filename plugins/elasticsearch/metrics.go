package elasticsearch

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	bytes    prometheus.Counter
	stored   prometheus.Counter
	ignored  prometheus.Counter
	rejected *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "loki_go_elasticsearch_" + name, Help: help}
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(opts("requests_total", "Requests with documents by status code; 499 was cut off so that its client repeats it."), []string{"code"}),
		bytes:    prometheus.NewCounter(opts("body_bytes_total", "Bytes of request bodies, decompressed.")),
		stored:   prometheus.NewCounter(opts("documents_total", "Documents that were stored.")),
		ignored:  prometheus.NewCounter(opts("ignored_actions_total", "Actions that delete.")),
		rejected: prometheus.NewCounterVec(opts("rejected_documents_total", "Documents that were refused, by reason."), []string{"reason"}),
	}
	var errs []error
	if reg != nil {
		for _, c := range []prometheus.Collector{m.requests, m.bytes, m.stored, m.ignored, m.rejected} {
			errs = append(errs, reg.Register(c))
		}
	}
	return m, errors.Join(errs...)
}

func (m *metrics) count(code int, w *work) {
	m.requests.WithLabelValues(strconv.Itoa(code)).Inc()
	m.bytes.Add(float64(len(w.body)))
	m.stored.Add(float64(w.stored))
	ignoredNow := 0
	for i := range w.items {
		if w.items[i].state == ignored {
			ignoredNow++
		}
	}
	m.ignored.Add(float64(ignoredNow))
	for _, g := range w.rejected.Groups {
		m.rejected.WithLabelValues(g.Reason.String()).Add(float64(g.Count))
	}
}
