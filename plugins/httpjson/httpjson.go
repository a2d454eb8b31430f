// Package httpjson receives log events over HTTP: as JSON from Logstash's http
// output, Fluent Bit's, Vector's, or curl, and as Fluent Bit's MessagePack.
//
//	POST or PUT /ingest/logstash
//	POST or PUT /ingest/fluentbit
//	POST or PUT /ingest/json
//
// A JSON body is any mix of objects and arrays of objects, with or without
// white space between them, so one object, an array, NDJSON and concatenated
// objects all are. It may be compressed (see package httpbody).
//
// Each event is mapped as package mapping says, with the label job="logstash",
// job="fluentbit" or job="json". X-Scope-OrgID names the tenant, one of
// Config.TagHeaders the tag. The time of an event is mapping.EventTime; one
// without gets the time of arrival, each of a request 1 ns after the one before.
//
// # Logstash
//
// The formats json and json_batch are JSON; message (text/plain) is one line,
// form (application/x-www-form-urlencoded) the fields of one event, or JSON if
// it starts with { or [. With any other content type a body that starts like
// JSON is JSON, else a line. @version is dropped, and so is event.original where
// it repeats message.
//
// # Fluent Bit
//
// The formats json, json_lines, json_stream and msgpack give the same events,
// as far as the formats have the same: JSON has microseconds only, and binary
// values as text in which the characters U+E000 to U+E0FF stand for bytes that
// are no UTF-8; they are kept as they are. What Fluent Bit adds to a JSON event
// is taken out of it: json_date_key, which comes first, is the time;
// __internal__ holds metadata of the event and of its OTLP group, which become
// structured metadata by the rules of msgpack.Events.
//
// # Answers of /ingest/json
//
//	204  all events are durable; also for an empty array
//	200  some were refused for good, the others are durable:
//	     {"stored":2,"rejected":1,
//	     "errors":[{"reason":"line_too_long","count":1,"first":"..."}]}
//	400  all were refused; or the body is broken, and the text says where and
//	     how many events before that place are durable
//	401, 413, 429, 503 as push.Reason.Status has them, with Retry-After; nothing
//	     is known to be stored, or some were refused that may pass later
//
// Senders drop a request that is answered with 400, so what can be read of a
// broken body is stored. With Content-Type application/x-ndjson (or jsonl) a
// broken line is refused alone and reading goes on behind it.
//
// # Answers to Logstash and Fluent Bit
//
// Both drop a request at any other code than 2xx (Fluent Bit: up to 205) and
// those that they repeat, which 429 and 503 are for both; Logstash repeats for
// ever. Neither can do anything about a single event. So, and on /ingest/json
// with the query ?refused=keep too:
//
//	204  all events are durable
//	200  the others are (body as above); what was refused for good, or could not
//	     be read, is in the dead-letter stream of the tenant
//	429, 503  not now; 503, with a line in the log at level error, also where
//	     the configuration on either side must change first: no or a bad tenant,
//	     an unknown Content-Encoding, a body beyond all limits
//
// Behind a broken event reading goes on where the next one seems to start. A
// body larger than Config.MaxDecoded is worked on in pieces, if it is JSON and
// sent plain or in gzip, up to Config.MaxRequest; of an event that is itself
// larger than MaxDecoded the start is a dead letter.
//
// # Retries
//
// A push has an id, by which ingesters know it when it is sent again: from
// Idempotency-Key or X-Request-Id, else from the content, if each event of it
// has a time of its own. Two such requests that are equal could not be told
// apart by a query either; events without a time in them can be equal and
// different, so those have no id.
//
// A Receiver has no goroutines of its own and needs no closing. Its handlers
// may be called concurrently; the memory of a request is bounded by Config.
package httpjson

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/warn"
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
	Sink      Sink
	Mapper    *mapping.Mapper
	Logstash  *mapping.Mapper       // of /ingest/logstash; nil: Mapper
	FluentBit *mapping.Mapper       // of /ingest/fluentbit; nil: Mapper
	Log       *slog.Logger          // nil: no logs
	Metrics   prometheus.Registerer // nil: no metrics
	Now       func() time.Time      // nil: time.Now
}

// Receiver serves all paths.
type Receiver struct {
	d       Deps
	cfg     Config
	metrics *metrics
	refused noteLog
	config  noteLog
	failed  *warn.Logger
	works   [numAgents]works
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
	r := &Receiver{d: d, cfg: cfg, metrics: m, failed: warn.New(d.Log)}
	r.refused = noteLog{log: d.Log, level: slog.LevelWarn, msg: "events refused"}
	r.config = noteLog{log: d.Log, level: slog.LevelError, msg: "events cannot be taken before the configuration is changed; the sender keeps them and tries again"}
	for a, m := range [numAgents]*mapping.Mapper{logstash: d.Logstash, fluentBit: d.FluentBit} {
		r.works[a].mapper = cmp.Or(m, d.Mapper)
	}
	return r, nil
}

// Register adds all paths to mux.
func (r *Receiver) Register(mux *http.ServeMux) {
	mux.Handle("/ingest/logstash", r.Logstash())
	mux.Handle("/ingest/fluentbit", r.FluentBit())
	mux.Handle("/ingest/json", r.JSON())
}

// Logstash returns the handler of /ingest/logstash.
func (r *Receiver) Logstash() http.Handler {
	return &handler{Receiver: r, job: "logstash", agent: logstash, keep: true}
}

// FluentBit returns the handler of /ingest/fluentbit.
func (r *Receiver) FluentBit() http.Handler {
	return &handler{Receiver: r, job: "fluentbit", agent: fluentBit, keep: true}
}

// JSON returns the handler of /ingest/json.
func (r *Receiver) JSON() http.Handler { return &handler{Receiver: r, job: "json"} }

// agent is whose events a path expects.
type agent uint8

const (
	anyone agent = iota
	logstash
	fluentBit
	numAgents
)

// handler serves one path.
type handler struct {
	*Receiver
	job   string
	agent agent
	keep  bool // no single event is refused to the sender, see the package comment
}

func (h *handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !h.takes(req) {
		w.Header().Set("Allow", "POST, PUT")
		http.Error(w, "method not allowed: use POST", http.StatusMethodNotAllowed)
		return
	}
	if !h.keep && req.URL.RawQuery != "" && req.URL.Query().Get("refused") == "keep" {
		kept := *h
		kept.keep = true
		h = &kept
	}
	out := h.ingest(req)
	code := h.answer(w, &out)
	h.metrics.count(h.job, code, &out)
	h.log(req, code, &out)
}

// takes reports whether the method is one to send events with. Logstash can be
// told to use any, and would drop what is answered with 405.
func (h *handler) takes(req *http.Request) bool {
	return req.Method == http.MethodPost || req.Method == http.MethodPut || h.keep && req.ContentLength != 0
}

func (h *handler) log(req *http.Request, code int, o *outcome) {
	var refused *push.Error
	known := errors.As(o.err, &refused)
	switch {
	case o.disconnected() || req.Context().Err() != nil:
	case o.err != nil && (!known || refused.Reason == push.Internal):
		h.failed.Log(slog.LevelError, "push failed", "receiver", h.job, "peer", req.RemoteAddr, "status", code, "err", o.err)
	case o.err != nil && h.keep && !refused.Reason.Retryable():
		h.config.note(h.job, req.RemoteAddr, code, o.text()+hint(refused.Reason))
	case o.err != nil || o.broken != nil || o.rejected.Entries > 0:
		h.refused.note(h.job, req.RemoteAddr, code, o.text())
	}
}

// hint says what to change.
func hint(r push.Reason) string {
	switch r {
	case push.NoTenant:
		return ": have the sender set the header X-Scope-OrgID, or switch auth.enabled off"
	case push.InvalidTenant:
		return ": the sender's header X-Scope-OrgID must change"
	case push.BodyTooLarge:
		return ": have the sender make smaller requests, or raise json.max-request, json.max-decoded or json.max-body"
	}
	return ""
}
