package syslog

import (
	"github.com/prometheus/client_golang/prometheus"
)

// transport is how messages arrive.
type transport uint8

const (
	overTCP transport = iota
	overTLS
	overUDP
	overUnix
	numTransports
)

func (t transport) String() string {
	return [numTransports]string{"tcp", "tls", "udp", "unix"}[t]
}

type metrics struct {
	connections prometheus.Gauge
	closed      *prometheus.CounterVec // reason
	received    [numTransports]prometheus.Counter
	messages    [numTransports][numFormats]prometheus.Counter
	split       prometheus.Counter
	framing     *prometheus.CounterVec // problem
	stored      prometheus.Counter
	refused     *prometheus.CounterVec // reason
	dropped     prometheus.Counter
	retries     prometheus.Counter
	waits       prometheus.Counter
	seconds     prometheus.Histogram
}

// newMetrics makes the metrics; kernelDrops counts datagrams that never came to
// be read.
func newMetrics(reg prometheus.Registerer, kernelDrops func() float64) (*metrics, error) {
	const prefix = "loki_go_syslog_"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	}
	received := vec("received_bytes_total", "Bytes of messages as sent, without framing.", "transport")
	messages := vec("messages_total", "Messages received, by how they arrived and what they were understood as.", "transport", "format")
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "open_connections", Help: "Connections that are open."}),
		closed:      vec("closed_connections_total", "Connections that ended, by why.", "reason"),
		split:       counter("split_messages_total", "Entries that go on with a message which was too large for one."),
		framing:     vec("framing_errors_total", "Messages with a length that was too large, or that ended with their connection.", "problem"),
		stored:      counter("stored_entries_total", "Entries that are durable."),
		refused:     vec("refused_entries_total", "Entries refused for good; they are dead letters.", "reason"),
		dropped:     counter("dropped_entries_total", "Entries lost because nothing would store them before the shutdown."),
		retries:     counter("push_retries_total", "Pushes tried again."),
		waits:       counter("admission_waits_total", "Times that memory for a message was refused and asked for again."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "push_duration_seconds", Help: "Time from the first message of a push to all of it being durable.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
	}
	for t := range numTransports {
		m.received[t] = received.WithLabelValues(t.String())
		for f := range numFormats {
			m.messages[t][f] = messages.WithLabelValues(t.String(), f.String())
		}
	}
	if reg == nil {
		return m, nil
	}
	drops := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: prefix + "kernel_dropped_datagrams_total",
		Help: "Datagrams that the kernel dropped because the receive buffer was full, or because they were damaged.",
	}, kernelDrops)
	for _, c := range []prometheus.Collector{
		m.connections, m.closed, received, messages, m.split, m.framing, m.stored, m.refused, m.dropped, m.retries,
		m.waits, m.seconds, drops,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
