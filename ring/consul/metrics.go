package consul

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/ring"
)

// Why an instance entered the ring.
const (
	atStart     = "start"
	sessionLost = "session_lost" // it expired, or Consul lost its data
	keyLost     = "key_lost"     // somebody removed or replaced it
)

type metrics struct {
	members       *prometheus.GaugeVec // by state
	missing       prometheus.Gauge
	ignored       prometheus.Gauge
	registered    prometheus.Gauge
	updates       prometheus.Counter
	watchErrors   prometheus.Counter
	registrations *prometheus.CounterVec // by reason
	requestErrors *prometheus.CounterVec // by op
	renewals      prometheus.Counter
	all           []prometheus.Collector
}

func newMetrics(m *Membership) *metrics {
	const prefix = "loki_go_ring_"
	x := &metrics{}
	gauge := func(name, help string) prometheus.Gauge {
		return keep(x, prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help}))
	}
	gaugeFunc := func(name, help string, f func() float64) {
		keep(x, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, f))
	}
	counter := func(name, help string) prometheus.Counter {
		return keep(x, prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help}))
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return keep(x, prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{label}))
	}
	x.members = keep(x, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: prefix + "members", Help: "Instances in the ring.",
	}, []string{"state"}))
	x.missing = gauge("missing_members", "Instances that the store lost and that stay for a while.")
	x.ignored = gauge("ignored_entries", "Entries in the store that are no members: of another cluster, or not readable.")
	x.registered = gauge("registered", "Instances of this process that are in the ring.")
	x.updates = counter("updates_total", "Changes of the member list that were seen.")
	x.watchErrors = counter("watch_errors_total", "Requests for the member list that failed.")
	x.registrations = counters("registrations_total", "Times that an instance of this process entered the ring.", "reason")
	x.requestErrors = counters("request_errors_total", "Requests about an instance of this process that failed.", "op")
	x.renewals = counter("session_renewals_total", "Sessions renewed.")
	gaugeFunc("last_contact_seconds", "Time since the store answered; without changes it does so every session-ttl/3 or wait.", m.contactAge)
	gaugeFunc("stale", "1 while the store cannot be reached and the last known ring is used.", m.staleValue)
	for _, reason := range []string{atStart, sessionLost, keyLost} {
		x.registrations.WithLabelValues(reason)
	}
	for s := ring.Joining; s <= ring.Leaving; s++ {
		x.members.WithLabelValues(s.String())
	}
	return x
}

func keep[C prometheus.Collector](m *metrics, c C) C {
	m.all = append(m.all, c)
	return c
}

func (x *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	var errs []error
	for _, c := range x.all {
		errs = append(errs, reg.Register(c))
	}
	return errors.Join(errs...)
}

func (x *metrics) unregister(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, c := range x.all {
		reg.Unregister(c)
	}
}

func (x *metrics) show(members []ring.Member, ignored int) {
	var states [ring.Leaving + 1]int
	missing := 0
	for _, e := range members {
		states[e.State]++
		if e.Missing {
			missing++
		}
	}
	for s, n := range states {
		x.members.WithLabelValues(ring.State(s).String()).Set(float64(n))
	}
	x.missing.Set(float64(missing))
	x.ignored.Set(float64(ignored))
}
