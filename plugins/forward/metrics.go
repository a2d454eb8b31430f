package forward

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connections prometheus.Gauge
	closed      *prometheus.CounterVec // reason
	bytes       prometheus.Counter
	messages    *prometheus.CounterVec // mode
	stored      prometheus.Counter
	dropped     *prometheus.CounterVec // reason
	refused     *prometheus.CounterVec // reason
	groups      prometheus.Counter
	signals     *prometheus.CounterVec // signal
	acks        prometheus.Counter
	retries     prometheus.Counter
	waits       prometheus.Counter
	seconds     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	const prefix = "loki_go_forward_"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	vec := func(name, label, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{label})
	}
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "open_connections", Help: "Connections that are open."}),
		closed:      vec("closed_connections_total", "reason", "Connections that ended, by why."),
		bytes:       counter("received_bytes_total", "Bytes of whole messages as sent."),
		messages:    vec("messages_total", "mode", "Messages received, by how they carry events."),
		stored:      counter("stored_entries_total", "Entries that are durable."),
		dropped:     vec("dropped_entries_total", "reason", "Entries dropped because they are none, or because nothing would store them before the shutdown."),
		refused:     vec("refused_entries_total", "reason", "Entries refused for good, and acknowledged."),
		groups:      counter("dropped_group_metadata_total", "Groups of OTLP records without their metadata, which was too large."),
		signals:     vec("dropped_messages_total", "signal", "Messages dropped because they have no logs."),
		acks:        counter("acks_total", "Acknowledgements sent."),
		retries:     counter("push_retries_total", "Pushes tried again."),
		waits:       counter("admission_waits_total", "Times that memory for a message was refused and asked for again."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "push_duration_seconds", Help: "Time from a whole message to all of it being durable.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.connections, m.closed, m.bytes, m.messages, m.stored, m.dropped, m.refused, m.groups, m.signals,
		m.acks, m.retries, m.waits, m.seconds,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
