// Package httpjson receives log events as JSON over HTTP: from Logstash's http
// output, Fluent Bit's, Vector's, or curl.
//
//	POST or PUT /ingest/logstash
//	POST or PUT /ingest/json
//
// A body is any mix of objects and arrays of objects, with or without white
// space between them, so one object, an array, NDJSON and concatenated objects
// all are. It may be compressed (see package httpbody). /ingest/logstash also
// takes Logstash's other formats: text/plain, where the body is one line, and
// application/x-www-form-urlencoded, where it is the fields of one event. A
// body of the latter type that starts with { or [ is JSON: curl -d says so.
//
// Each event is mapped as package mapping says, with the label job="logstash"
// or job="json". Its time is the first of the top-level fields @timestamp,
// timestamp, time, ts, date, _time that can be read as one; a number must be
// after March 1973 in the unit that its size suggests, so that a duration is
// not taken for a time. An event without one gets the time of arrival, each
// event of a request 1 ns after the one before. On /ingest/logstash @version
// is dropped, and so is event.original where it repeats message.
//
// # Answers
//
//	204  all events are durable; also for an empty array
//	200  some were refused, the others are durable: {"stored":2,"rejected":1,
//	     "errors":[{"reason":"line_too_long","count":1,"first":"..."}]}
//	400  all were refused; or the body is broken, and the text says where and
//	     how many events before that place are durable
//	401, 413, 429, 503 as push.Reason.Status has them, with Retry-After; nothing
//	     is known to be stored
//
// Senders drop a request that is answered with 400, so what can be read of a
// broken body is stored. With Content-Type application/x-ndjson (or jsonl) a
// broken line is refused alone and reading goes on behind it.
//
// X-Scope-OrgID names the tenant. Idempotency-Key or X-Request-Id identifies a
// push that is sent again.
//
// A Receiver has no goroutines of its own and needs no closing. Its handlers
// may be called concurrently; the memory of a request is bounded by Config.
package httpjson

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// Sink takes what the receiver has read.
type Sink interface {
	// Admit asks for n bytes of memory for a request; they are given back by
	// release. An error is the answer to the request.
	Admit(ctx context.Context, n int64) (release func(), err error)
	// Push returns when the batch is durable, or *push.Rejected, *push.Error or
	// another error: see docs/architecture.md. It does not keep the batch.
	Push(ctx context.Context, b *push.Batch) error
}

// Deps are what a Receiver works with. Sink and Mapper must be set.
type Deps struct {
	Sink    Sink
	Mapper  *mapping.Mapper
	Log     *slog.Logger          // nil: no logs
	Metrics prometheus.Registerer // nil: no metrics
	Now     func() time.Time      // nil: time.Now
}

// Receiver serves both paths.
type Receiver struct {
	d       Deps
	cfg     Config
	metrics *metrics
	refused refusalLog
	work    sync.Pool // *work
}

// New returns a Receiver. cfg must be valid.
func New(d Deps, cfg Config) (*Receiver, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("httpjson: %w", errors.Join(errs...))
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	m, err := newMetrics(d.Metrics)
	if err != nil {
		return nil, fmt.Errorf("httpjson: register metrics: %w", err)
	}
	r := &Receiver{d: d, cfg: cfg, metrics: m}
	r.refused.log = d.Log
	r.work.New = func() any { return newWork(d.Mapper.Acquire()) }
	return r, nil
}

// Register adds both paths to mux.
func (r *Receiver) Register(mux *http.ServeMux) {
	mux.Handle("/ingest/logstash", r.Logstash())
	mux.Handle("/ingest/json", r.JSON())
}

// Logstash returns the handler of /ingest/logstash.
func (r *Receiver) Logstash() http.Handler { return &handler{r, "logstash", true} }

// JSON returns the handler of /ingest/json.
func (r *Receiver) JSON() http.Handler { return &handler{r, "json", false} }

type handler struct {
	*Receiver
	job      string
	logstash bool
}

func (h *handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost && req.Method != http.MethodPut {
		w.Header().Set("Allow", "POST, PUT")
		http.Error(w, "method not allowed: use POST", http.StatusMethodNotAllowed)
		return
	}
	out := h.ingest(req)
	code := out.write(w)
	h.metrics.count(h.job, code, &out)
	switch {
	case errors.Is(out.err, httpbody.ErrDisconnected) || req.Context().Err() != nil:
	case code >= 500 && code != http.StatusServiceUnavailable:
		h.d.Log.Error("push failed", "receiver", h.job, "peer", req.RemoteAddr, "err", out.err)
	case out.err != nil || out.broken != nil || out.rejected.Entries > 0:
		h.refused.note(h.job, req.RemoteAddr, code, out.text())
	}
}

// ingest reads, maps and pushes the events of req.
func (h *handler) ingest(req *http.Request) outcome {
	ctx := req.Context()
	var held []func()
	defer func() {
		for _, release := range held {
			release()
		}
	}()
	w := h.work.Get().(*work)
	var err error
	w.body, err = httpbody.Options{
		MaxWire: int64(h.cfg.MaxBody), MaxDecoded: int64(h.cfg.MaxDecoded),
		Admit: func(n int64) error {
			release, err := h.d.Sink.Admit(ctx, n)
			if err == nil {
				held = append(held, release)
			}
			return err
		},
	}.Read(req, w.body[:0])
	if err != nil {
		h.put(w)
		return outcome{err: err}
	}
	b := push.Get()
	defer b.Release()
	w.bl.Reset(b)
	out := w.fill(h, req)
	out.bytes = len(w.body)
	if out.err == nil && w.bl.Len() > 0 {
		w.bl.Finish()
		b.Tenant = req.Header.Get(httpbody.TenantHeader)
		b.Receiver = h.job
		b.ID = httpbody.PushID(req.Header, w.body)
	}
	h.put(w)
	if out.err == nil && len(b.Entries) > 0 {
		out.pushed(h.d.Sink.Push(ctx, b), len(b.Entries))
	}
	return out
}

// What a work may keep allocated in the pool.
const (
	maxPooledBody  = 8 << 20
	maxPooledNodes = 16 << 10
)

func (r *Receiver) put(w *work) {
	if cap(w.body) > maxPooledBody || cap(w.rec.Nodes) > maxPooledNodes || w.bl.Size() > 2*maxPooledBody || w.bl.Len() > maxPooledBody/64 {
		r.d.Mapper.Release(w.st)
		return
	}
	r.work.Put(w)
}
