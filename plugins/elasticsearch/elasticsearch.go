// Package elasticsearch receives log events from clients of Elasticsearch:
// Logstash's elasticsearch output, Filebeat and the other Beats, Fluent Bit's
// es output, fluent-plugin-elasticsearch, Vector, rsyslog's omelasticsearch,
// and Elastic's client libraries.
//
//	POST or PUT /_bulk, /{index}/_bulk, /{index}/{type}/_bulk
//	POST or PUT /{index}/_doc, /{index}/_doc/{id}, /{index}/_create/{id}, /{index}/_update/{id}
//	POST or PUT /{index}/{type}, /{index}/{type}/{id} with the types doc and events
//
// and below each of Config.PathPrefixes the same. GET / and the calls by which
// clients set templates, policies, pipelines and data streams up get the
// answers that let them go on (see setup.go). Nothing is kept of those: streams
// need no set-up, and pipelines are not run.
//
// # Bulk requests
//
// The format is that of Elasticsearch's bulk API, by its public reference: a
// line with an action (create, index, update, delete) and, but for delete, one
// with a document. The last line need not end with a newline, lines may end with
// \r\n, and empty ones between a document and the next action are passed over.
// The document of an update is its doc, or its upsert. A delete is answered with
// not_found, as there is nothing that it could delete.
//
// A document is mapped as package mapping says, with the label
// job="elasticsearch" and the metadata _index and pipeline. Its time is the
// first of @timestamp, timestamp, time, ts, date, _time that can be read as one;
// without any it is the time of arrival, 1 ns after the one before.
//
// # Answers
//
// Each action has its item, in order. A document that was refused for good has
// status 400, one that may be sent again 429 or 503; all others are durable. A
// broken line costs its document only. filter_path is obeyed as far as clients
// use it; parameters that have no meaning here are ignored.
//
// What concerns the whole request is an error with Elasticsearch's body:
//
//	400  not a bulk request, or broken compression
//	401, 403, 413, 429, 503  as push.Reason.Status has them, with Retry-After;
//	                         overload is 429; nothing is known to be stored
//
// Logstash repeats items with 429 and 503 and gives those with 400 to its
// dead-letter queue, or logs them; Beats do likewise. Some clients lose
// documents that are refused in an answer which accepts others (Fluent Bit,
// Vector): Config.KeepRefusedAgents names them. For those the gateway keeps
// what is refused for good as dead letters, answered as created, and where a
// retry is needed the whole request is refused. rsyslog before 8.2606 even
// drops all that an error answers and only repeats what got no answer: a client
// of that list without a User-Agent has its connection closed instead.
//
// # Repeated requests
//
// Idempotency-Key identifies a request that is sent again. Without it, one
// whose documents all have a time or an _id of their own is known by its
// content, else by X-Request-Id. X-Opaque-Id is not used: it names the
// application.
//
// A Receiver has no goroutines of its own and needs no closing. Its handlers may
// be called concurrently; the memory of a request is bounded by Config.
package elasticsearch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// name is the receiver's, in labels, batches and logs.
const name = "elasticsearch"

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

// Receiver serves the API.
type Receiver struct {
	d       Deps
	cfg     Config
	info    []byte // the answer to GET /
	metrics *metrics
	warn    *warn.Logger // of refusals
	failed  *warn.Logger
	work    sync.Pool // *work
}

// New returns a Receiver. cfg must be valid.
func New(d Deps, cfg Config) (*Receiver, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("elasticsearch: %w", errors.Join(errs...))
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	m, err := newMetrics(d.Metrics)
	if err != nil {
		return nil, fmt.Errorf("elasticsearch: register metrics: %w", err)
	}
	r := &Receiver{d: d, cfg: cfg, info: clusterInfo(cfg.Version), metrics: m, warn: warn.New(d.Log), failed: warn.New(d.Log)}
	r.work.New = func() any { return newWork(d.Mapper.Acquire()) }
	return r, nil
}

// Patterns that leave the path to us. They are the most general ones of their
// number of segments, so that every other pattern may stand beside them.
const (
	patternOne  = "/{index}"
	patternMore = "/{index}/{rest...}"
)

// Register adds the API to mux. Paths that belong to others keep their
// answers, also to methods that they have not.
func (r *Receiver) Register(mux *http.ServeMux) {
	mux.Handle("GET /{$}", r.Root())
	h := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.serve(w, req, mux) })
	mux.Handle(patternOne, h)
	mux.Handle(patternMore, h)
}

// Root returns the handler of GET / and HEAD /, by which clients find out
// whether they talk to Elasticsearch.
func (r *Receiver) Root() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, r.info) })
}

func (r *Receiver) serve(w http.ResponseWriter, req *http.Request, mux *http.ServeMux) {
	t := r.target(req.URL.EscapedPath())
	switch t.kind {
	case kindRoot:
		if req.Method == http.MethodGet || req.Method == http.MethodHead {
			reply(w, http.StatusOK, r.info)
			return
		}
	case kindBulk, kindDocument:
		if req.Method == http.MethodPost || req.Method == http.MethodPut {
			r.ingest(w, req, t)
			return
		}
		if t.kind == kindBulk {
			w.Header().Set("Allow", "POST, PUT")
			replyError(w, http.StatusMethodNotAllowed, "illegal_argument_exception", "method not allowed: use POST")
			return
		}
	case kindSetup:
		if t.index == "" || len(t.path) > 1 {
			if r.setup(w, req, t.path) {
				return
			}
		} else if len(methods(req, mux)) == 0 && r.putIndex(w, req, t.index) {
			return
		}
	}
	r.unknown(w, req, mux)
}

// unknown answers what is not part of the API.
func (r *Receiver) unknown(w http.ResponseWriter, req *http.Request, mux *http.ServeMux) {
	if strings.Contains(req.URL.Path, "/_") {
		reason := "loki-go takes documents and has no " + req.Method + " " + clip(req.URL.Path, 200) + "; read with LogQL at /loki/api/v1/query_range"
		replyError(w, http.StatusNotFound, "resource_not_found_exception", reason)
		return
	}
	if allow := methods(req, mux); len(allow) > 0 {
		w.Header().Set("Allow", strings.Join(allow, ", "))
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	http.NotFound(w, req)
}

// methods returns those that others serve at the path of req.
func methods(req *http.Request, mux *http.ServeMux) []string {
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe := *req
		probe.Method = method
		if _, pattern := mux.Handler(&probe); pattern != "" && pattern != patternOne && pattern != patternMore {
			allow = append(allow, method)
		}
	}
	return allow
}

// kind is what a path is for.
type kind uint8

const (
	kindOther    kind = iota
	kindRoot          // the product check, below a prefix
	kindBulk          // _bulk
	kindDocument      // one document
	kindSetup
)

// target is what a path names.
type target struct {
	kind  kind
	op    op     // kindDocument
	index string // "" if the path has none
	id    string // kindDocument
	path  []string
}

// maxIndex is the length of an index name in a path. It is repeated in every
// item of an answer.
const maxIndex = 255

// target reads an escaped path: the name of an index may have a slash in it.
func (r *Receiver) target(path string) target {
	for _, p := range r.cfg.PathPrefixes {
		if rest, ok := strings.CutPrefix(path, p); ok && (rest == "" || rest[0] == '/') {
			path = rest
			break
		}
	}
	path = strings.Trim(path, "/")
	if path == "" {
		return target{kind: kindRoot}
	}
	t := target{path: strings.SplitN(path, "/", 6)}
	n := len(t.path)
	for i, segment := range t.path {
		// An escape that is none stands for itself.
		if s, err := url.PathUnescape(segment); err == nil {
			t.path[i] = s
		}
	}
	reserved := strings.HasPrefix(t.path[0], "_")
	if !reserved {
		t.index = t.path[0]
	}
	switch {
	case len(t.index) > maxIndex:
	case t.path[n-1] == "_bulk" && (n == 1 || !reserved && n <= 3):
		t.kind = kindBulk
	case reserved || n == 1 || strings.HasPrefix(t.path[1], "_") && documentOp(t.path[1]) == 0:
		t.kind = kindSetup
	case n == 2 && documentOp(t.path[1]) == opIndex, n == 3 && documentOp(t.path[1]) != 0:
		t.kind, t.op = kindDocument, documentOp(t.path[1])
		if n == 3 {
			t.id = t.path[2]
		}
	}
	return t
}

// documentOp returns what is done with a document at /{index}/{segment}. Types
// are no more, but doc is what they were called by default, and rsyslog has
// events if nothing is set.
func documentOp(segment string) op {
	switch segment {
	case "_doc", "doc", "events":
		return opIndex
	case "_create":
		return opCreate
	case "_update":
		return opUpdate
	}
	return 0
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "..."
	}
	return s
}
