package elasticsearch

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/proto/push"
)

// keeps reports whether the client loses what is refused alone.
func (r *Receiver) keeps(agent string) bool {
	for _, a := range r.cfg.KeepRefusedAgents {
		if a == noAgent && agent == "" || a != noAgent && strings.HasPrefix(agent, a) {
			return true
		}
	}
	return false
}

// ingest serves a request with documents.
func (r *Receiver) ingest(w http.ResponseWriter, req *http.Request, t target) {
	var held []func()
	defer func() {
		for _, release := range held {
			release()
		}
	}()
	start := time.Now()
	wk := r.work.Get().(*work)
	defer r.put(wk)
	wk.begin(r, req, t)
	err := wk.read(req, t, func(n int64) error {
		release, err := r.d.Sink.Admit(req.Context(), n)
		if err == nil {
			held = append(held, release)
		}
		return err
	})
	if err == nil {
		wk.push()
		err = wk.whole()
	}
	var code int
	switch {
	case err != nil:
		code = r.fail(w, req, wk, err)
	case t.kind == kindDocument:
		code = wk.answerDocument(w)
	default:
		code = wk.answer(w, parseFilter(req.URL.Query().Get("filter_path")), time.Since(start))
	}
	r.metrics.count(code, wk)
	r.note(req, code, wk, err)
	if code == closed {
		panic(http.ErrAbortHandler)
	}
}

// read reads and maps the documents. An error is one of the whole request.
func (w *work) read(req *http.Request, t target, admit func(int64) error) error {
	cfg := &w.r.cfg
	var err error
	w.body, err = httpbody.Options{MaxWire: int64(cfg.MaxBody), MaxDecoded: int64(cfg.MaxDecoded), Admit: admit}.Read(req, w.body)
	if err != nil {
		return err
	}
	if t.kind == kindBulk {
		return w.bulk()
	}
	w.document(item{op: t.op, index: w.base.index, id: w.name(t.id)}, w.base.pipeline, w.body)
	return nil
}

// whole returns the error that is the answer to the whole request, although
// the batches were pushed: nothing of it is stored, or its client would not
// repeat the part that has to be.
func (w *work) whole() error {
	if w.failure == nil || !w.keep && w.stored+w.other > 0 {
		return nil
	}
	return w.failure
}

// closed is the status of a request whose client was cut off.
const closed = 499

// fail answers the whole request with err, or not at all: see the package
// comment for which client needs that.
func (r *Receiver) fail(w http.ResponseWriter, req *http.Request, wk *work, err error) int {
	code, typ, wait := status(err)
	if wk.keep && req.UserAgent() == "" && (code == http.StatusTooManyRequests || code >= 500) {
		return closed
	}
	if wait > 0 {
		w.Header().Set("Retry-After", retryAfter(wait))
	}
	replyError(w, code, typ, err.Error())
	return code
}

// maxLogged bounds the text of a refusal in the log.
const maxLogged = 500

// note logs what was not stored.
func (r *Receiver) note(req *http.Request, code int, wk *work, err error) {
	var text string
	switch {
	case errors.Is(err, httpbody.ErrDisconnected) || req.Context().Err() != nil:
		return
	case code == http.StatusInternalServerError:
		r.failed.Log(slog.LevelError, "push failed", "receiver", name, "peer", req.RemoteAddr, "err", err)
		return
	case err != nil:
		text = err.Error()
	case wk.failure != nil:
		text = wk.failure.Error()
	case wk.rejected.Entries > 0:
		wk.rejected.Total = len(wk.items)
		text = wk.rejected.Error()
	default:
		return
	}
	r.warn.Warn("documents refused", "receiver", name, "peer", req.RemoteAddr, "status", code, "err", clip(text, maxLogged))
}

// What a work may keep allocated in the pool.
const (
	maxPooledBody  = 8 << 20
	maxPooledNames = 4 << 20
	maxPooledItems = 64 << 10
	maxPooledNodes = 16 << 10
)

func (r *Receiver) put(w *work) {
	w.g.Reset()
	clear(w.texts)
	w.request = request{}
	if cap(w.body) > maxPooledBody || cap(w.names) > maxPooledNames || cap(w.items) > maxPooledItems ||
		cap(w.rec.Nodes)+cap(w.sub.Nodes) > maxPooledNodes {
		r.d.Mapper.Release(w.st)
		return
	}
	r.work.Put(w)
}

// status returns how err is told to a client, and when it may come again.
func status(err error) (code int, typ string, wait time.Duration) {
	code, wait = httpbody.Status(err)
	var e *push.Error
	if errors.As(err, &e) {
		switch e.Reason {
		case push.Overloaded:
			// Elasticsearch's word for it, which Logstash takes without an error in its log.
			code = http.StatusTooManyRequests
		case push.BlockedIngestion:
			// Loki's 260 would pass for success.
			code = http.StatusForbidden
		}
	}
	return code, errorType(code), wait
}

func errorType(code int) string {
	switch code {
	case http.StatusUnauthorized:
		return "security_exception"
	case http.StatusForbidden:
		return "cluster_block_exception"
	case http.StatusRequestEntityTooLarge:
		return "content_too_long_exception"
	case http.StatusTooManyRequests:
		return "es_rejected_execution_exception"
	case http.StatusServiceUnavailable:
		return "unavailable_shards_exception"
	}
	if code >= 500 {
		return "internal_server_error"
	}
	return "illegal_argument_exception"
}

// itemStatus is status for one document. Logstash gives up on 400 and 404 only,
// and fluent-plugin-elasticsearch drops a chunk for an item with the type
// es_rejected_execution_exception, but not for the other one that goes with 429.
func itemStatus(r push.Reason) (code int, typ string) {
	switch {
	case !r.Retryable():
		return http.StatusBadRequest, "document_parsing_exception"
	case r == push.Overloaded || r.Status() == http.StatusTooManyRequests:
		return http.StatusTooManyRequests, "circuit_breaking_exception"
	}
	return http.StatusServiceUnavailable, "unavailable_shards_exception"
}
