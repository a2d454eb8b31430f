package httpjson

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// noteLog writes at most one line a second and says how many it left out: a
// sender that is wrong is wrong often.
type noteLog struct {
	log   *slog.Logger
	level slog.Level
	msg   string
	mu    sync.Mutex
	last  time.Time
	more  int // left out since last
}

func (l *noteLog) note(receiver, peer string, status int, text string) {
	l.mu.Lock()
	now := time.Now()
	if now.Sub(l.last) < time.Second {
		l.more++
		l.mu.Unlock()
		return
	}
	more := l.more
	l.last, l.more = now, 0
	l.mu.Unlock()
	const most = 500
	if len(text) > most {
		text = text[:most] + "..."
	}
	l.log.Log(context.Background(), l.level, l.msg, "receiver", receiver, "peer", peer, "status", status, "err", text, "more", more)
}

// metrics count what all handlers do.
type metrics struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	events   *prometheus.CounterVec
	rejected *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	var errs []error
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "loki_go_httpjson_" + name, Help: help}, labels)
		if reg != nil {
			errs = append(errs, reg.Register(c))
		}
		return c
	}
	m := &metrics{
		requests: vec("requests_total", "Requests by receiver and status code.", "receiver", "code"),
		bytes:    vec("body_bytes_total", "Bytes of request bodies, decompressed.", "receiver"),
		events:   vec("events_total", "Events that were stored.", "receiver"),
		rejected: vec("rejected_events_total", "Events that were refused and pieces of input that were none, by reason; dead letters where the receiver keeps refusals.", "receiver", "reason"),
	}
	return m, errors.Join(errs...)
}

func (m *metrics) count(receiver string, code int, o *outcome) {
	m.requests.WithLabelValues(receiver, strconv.Itoa(code)).Inc()
	m.bytes.WithLabelValues(receiver).Add(float64(o.bytes))
	m.events.WithLabelValues(receiver).Add(float64(o.stored))
	for _, g := range o.rejected.Groups {
		m.rejected.WithLabelValues(receiver, g.Reason.String()).Add(float64(g.Count))
	}
}
