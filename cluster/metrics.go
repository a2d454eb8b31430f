package cluster

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/proto/ingestpb"
)

type serverMetrics struct {
	pushes     *prometheus.CounterVec // result
	blocks     prometheus.Counter
	blockBytes prometheus.Counter
	readBytes  prometheus.Counter
}

func newServerMetrics(reg prometheus.Registerer) (*serverMetrics, error) {
	m := &serverMetrics{
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loki_go_cluster_replicated_pushes_total", Help: "Pushes of gateways, by what became of them: stored, refused in part, or the reason of a failure.",
		}, []string{"result"}),
		blocks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loki_go_cluster_sent_blocks_total", Help: "Blocks sent to queries of other processes.",
		}),
		blockBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loki_go_cluster_sent_block_bytes_total", Help: "Bytes that were sent of those blocks.",
		}),
		readBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loki_go_cluster_read_block_bytes_total", Help: "Bytes that were read of those blocks, to send what the queries have a use for.",
		}),
	}
	return m, register(reg, m.pushes, m.blocks, m.blockBytes, m.readBytes)
}

// sent counts the blocks of an answer.
func (m *serverMetrics) sent(msg *ingestpb.SelectResponse) {
	m.block(msg.Block)
	for _, b := range msg.More {
		m.block(b)
	}
}

func (m *serverMetrics) block(b *ingestpb.BlockContent) {
	m.blocks.Inc()
	m.blockBytes.Add(float64(len(b.Content)))
	if b.Scanned != nil {
		m.readBytes.Add(float64(b.Scanned.Bytes))
	} else {
		m.readBytes.Add(float64(len(b.Content)))
	}
}

func (m *serverMetrics) pushed(r *ingestpb.ReplicationResult) {
	result := "stored"
	switch {
	case r.Failure != nil:
		result = r.Failure.Reason
	case r.Response.RefusedEntries > 0:
		result = "refused_in_part"
	}
	m.pushes.WithLabelValues(result).Inc()
}

type clientMetrics struct {
	connections prometheus.Gauge
	messages    prometheus.Counter
	pushes      prometheus.Counter
	broken      prometheus.Counter
}

func newClientMetrics(reg prometheus.Registerer) (*clientMetrics, error) {
	m := &clientMetrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "loki_go_cluster_connections", Help: "Instances that there is a connection to, made or not.",
		}),
		messages: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loki_go_cluster_messages_total", Help: "Messages with pushes sent to ingesters.",
		}),
		pushes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loki_go_cluster_pushes_total", Help: "Pushes in them.",
		}),
		broken: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loki_go_cluster_broken_calls_total", Help: "Calls for pushes that ended or could not be made.",
		}),
	}
	return m, register(reg, m.connections, m.messages, m.pushes, m.broken)
}

func register(reg prometheus.Registerer, cs ...prometheus.Collector) error {
	if reg == nil {
		return nil
	}
	var errs []error
	for _, c := range cs {
		errs = append(errs, reg.Register(c))
	}
	return errors.Join(errs...)
}
