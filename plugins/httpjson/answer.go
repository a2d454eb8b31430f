package httpjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// outcome is what became of a request.
type outcome struct {
	err      error                // nothing is known to be stored
	broken   *mapping.SyntaxError // the body could be read up to here
	rejected push.Rejected        // by us and by the sink
	stored   int
	bytes    int // of the body, decoded
}

// refuse counts one event of n bytes that cannot be mapped.
func (o *outcome) refuse(n int, text func() string) {
	o.rejected.Add(push.Malformed, "", 1, n, text)
}

// pushed takes in what the sink said of a batch of n entries.
func (o *outcome) pushed(err error, n int) {
	var r *push.Rejected
	switch {
	case err == nil:
		o.stored = n
	case errors.As(err, &r):
		o.stored = n - r.Entries
		o.rejected.Merge(r)
	default:
		o.err = err
	}
}

// text says in one line what was refused and why.
func (o *outcome) text() string {
	switch {
	case o.err != nil:
		return o.err.Error()
	case o.broken != nil && o.rejected.Entries > 0:
		return fmt.Sprintf("%v; %d events before it are stored; %s", o.broken, o.stored, o.rejected.Error())
	case o.broken != nil:
		return fmt.Sprintf("%v; %d events before it are stored", o.broken, o.stored)
	}
	return o.rejected.Error()
}

// write answers the request and returns the status.
func (o *outcome) write(w http.ResponseWriter) int {
	o.rejected.Total = o.stored + o.rejected.Entries
	switch {
	case o.err != nil:
		return httpbody.WriteError(w, o.err)
	case o.broken != nil:
		return httpbody.WriteError(w, push.Errorf(push.Malformed, "%s", o.text()))
	case o.rejected.Entries == 0:
		w.WriteHeader(http.StatusNoContent)
		return http.StatusNoContent
	case o.stored == 0:
		return httpbody.WriteError(w, &o.rejected)
	}
	return o.writePartial(w)
}

func (o *outcome) writePartial(w http.ResponseWriter) int {
	type reason struct {
		Reason string `json:"reason"`
		Count  int    `json:"count"`
		First  string `json:"first"`
	}
	body := struct {
		Stored   int      `json:"stored"`
		Rejected int      `json:"rejected"`
		Errors   []reason `json:"errors"`
	}{o.stored, o.rejected.Entries, []reason{}}
	for _, g := range o.rejected.Groups {
		body.Errors = append(body.Errors, reason{g.Reason.String(), g.Count, g.First})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone does not matter here
	return http.StatusOK
}

// refusalLog writes at most one line a second and says how many it left out:
// a sender that is wrong is wrong often.
type refusalLog struct {
	log  *slog.Logger
	mu   sync.Mutex
	last time.Time
	more int // left out since last
}

func (l *refusalLog) note(receiver, peer string, status int, text string) {
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
	l.log.Warn("events refused", "receiver", receiver, "peer", peer, "status", status, "err", text, "more", more)
}

// metrics count what both handlers do.
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
		rejected: vec("rejected_events_total", "Events that were refused, by reason.", "receiver", "reason"),
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
