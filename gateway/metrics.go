package gateway

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/proto/push"
)

// maxTenantLabels bounds the tenants that metrics tell apart; those that come
// later are counted together.
const maxTenantLabels = 1000

// otherTenants cannot be a tenant's name, as it has a space.
const (
	otherTenants = "(all other)"
	noTenant     = "(none)"
)

type metrics struct {
	receivedBytes    *prometheus.CounterVec
	receivedEntries  *prometheus.CounterVec
	discardedBytes   *prometheus.CounterVec
	discardedEntries *prometheus.CounterVec
	truncated        *prometheus.CounterVec
	deadLetters      *prometheus.CounterVec
	seconds          *prometheus.HistogramVec
	inflight         prometheus.Gauge
	notAdmitted      prometheus.Counter
	cacheHits        prometheus.Counter
	cacheMisses      prometheus.Counter
	underReplicated  prometheus.Counter
	replaced         prometheus.Counter
	hedged           prometheus.Counter
	failures         prometheus.Counter

	nobody *tenantMetrics // requests without a valid tenant

	mu      sync.Mutex
	tenants map[string]*tenantMetrics
	other   *tenantMetrics
}

// newMetrics registers everything with reg, if there is one.
func newMetrics(reg prometheus.Registerer, g *Gateway) (*metrics, error) {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "loki_go_gateway_" + name, Help: help})
		all = append(all, c)
		return c
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loki_go_gateway_" + name, Help: help}, labels)
		all = append(all, c)
		return c
	}
	gauges := func(name, help string, f func() float64) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "loki_go_gateway_" + name, Help: help}, f))
	}
	m := &metrics{
		receivedBytes:    counters("received_bytes_total", "Bytes of lines and metadata received, refused ones included.", "tenant", "receiver"),
		receivedEntries:  counters("received_entries_total", "Entries received, refused ones included.", "tenant", "receiver"),
		discardedBytes:   counters("discarded_bytes_total", "Bytes of lines and metadata refused.", "tenant", "reason"),
		discardedEntries: counters("discarded_entries_total", "Entries refused.", "tenant", "reason"),
		truncated:        counters("truncated_entries_total", "Entries whose line was cut to max-line-size.", "tenant"),
		deadLetters:      counters("dead_letters_total", "Dead letters that were stored, or dropped because there were too many.", "tenant", "reason", "result"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "loki_go_gateway_push_seconds", Help: "Time from a decoded push to its answer, by result: ok, rejected (in part), error.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16), // to 16 s
		}, []string{"result"}),
		inflight:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "loki_go_gateway_inflight_bytes", Help: "Memory granted to requests."}),
		notAdmitted:     counter("not_admitted_total", "Requests for memory that were refused."),
		cacheHits:       counter("label_cache_hits_total", "Label texts that were known."),
		cacheMisses:     counter("label_cache_misses_total", "Label texts that had to be parsed."),
		underReplicated: counter("under_replicated_pushes_total", "Pushes for which there were less ACTIVE replicas than the replication factor."),
		hedged:          counter("hedged_replicas_total", "Replicas that were asked because others took longer than gateway.hedge-delay."),
		replaced:        counter("replaced_replicas_total", "Replicas that could not take a push and were replaced by the next on the ring."),
		failures:        counter("replica_failures_total", "Pushes that a replica failed to store."),
		tenants:         make(map[string]*tenantMetrics),
	}
	all = append(all, m.seconds, m.inflight)
	gauges("inflight_limit_bytes", "Memory that may be granted to requests.", func() float64 { return float64(g.cfg.MaxInflight) })
	gauges("label_cache_bytes", "Memory of known label texts.", func() float64 { return float64(g.labels.bytes()) })
	m.other, m.nobody = newTenantMetrics(m, otherTenants), newTenantMetrics(m, noTenant)
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range all {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// tenant returns the counters of a tenant.
func (m *metrics) tenant(name string) *tenantMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tenants[name]
	if t == nil {
		if len(m.tenants) >= maxTenantLabels {
			return m.other
		}
		t = newTenantMetrics(m, name)
		m.tenants[name] = t
	}
	return t
}

func (m *metrics) duration(result string, d time.Duration) {
	m.seconds.WithLabelValues(result).Observe(d.Seconds())
}

// refuse counts what err refuses and says what kind of result that is.
func (m *metrics) refuse(t *tenantMetrics, b *push.Batch, err error) (result string) {
	var rej *push.Rejected
	if errors.As(err, &rej) {
		for i := range rej.Groups {
			g := &rej.Groups[i]
			t.discard(g.Reason, g.Count, g.Bytes)
		}
		return "rejected"
	}
	reason := push.Internal
	var e *push.Error
	if errors.As(err, &e) {
		reason = e.Reason
	}
	size := 0
	for i := range b.Entries {
		size += entrySize(b, &b.Entries[i])
	}
	t.discard(reason, len(b.Entries), size)
	return "error"
}

// tenantMetrics are the counters of one tenant, looked up once.
type tenantMetrics struct {
	m         *metrics
	name      string
	truncated prometheus.Counter

	mu        sync.RWMutex
	receivers map[string]*received
}

type received struct{ entries, bytes prometheus.Counter }

func (r *received) add(entries, bytes int) {
	r.entries.Add(float64(entries))
	r.bytes.Add(float64(bytes))
}

func newTenantMetrics(m *metrics, name string) *tenantMetrics {
	return &tenantMetrics{m: m, name: name, truncated: m.truncated.WithLabelValues(name), receivers: make(map[string]*received)}
}

// receiver returns the counters of what came by a receiver. Receivers are few:
// their names are in the program.
func (t *tenantMetrics) receiver(name string) *received {
	t.mu.RLock()
	r := t.receivers[name]
	t.mu.RUnlock()
	if r != nil {
		return r
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if r = t.receivers[name]; r == nil {
		r = &received{t.m.receivedEntries.WithLabelValues(t.name, name), t.m.receivedBytes.WithLabelValues(t.name, name)}
		t.receivers[name] = r
	}
	return r
}

func (t *tenantMetrics) discard(r push.Reason, entries, bytes int) {
	if entries == 0 {
		return
	}
	t.m.discardedEntries.WithLabelValues(t.name, r.String()).Add(float64(entries))
	t.m.discardedBytes.WithLabelValues(t.name, r.String()).Add(float64(bytes))
}

func (t *tenantMetrics) deadLetters(r push.Reason, result string, n int) {
	if n > 0 {
		t.m.deadLetters.WithLabelValues(t.name, r.String(), result).Add(float64(n))
	}
}
