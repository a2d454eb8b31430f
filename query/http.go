package query

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/query/metric"
)

// BuildInfo is what /loki/api/v1/status/buildinfo tells.
type BuildInfo struct {
	Version, Revision, Branch, BuildUser, BuildDate, GoVersion string
}

// HandlerDeps is what a Handler needs.
type HandlerDeps struct {
	Engine *Engine
	Tenant func(*http.Request) (string, error) // an error is answered with its status if it is a *push.Error, else with 401
	Log    *slog.Logger                        // nil: silent
	Build  BuildInfo
	Now    func() time.Time // nil: time.Now
}

// Handler serves Loki's read API.
type Handler struct {
	deps  HandlerDeps
	tails tails
}

// NewHandler returns a handler.
func NewHandler(deps HandlerDeps) *Handler {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	return &Handler{deps: deps, tails: tails{byTenant: map[string]int{}, done: make(chan struct{})}}
}

// call is a request that is being answered.
type call struct {
	*http.Request
	tenant string
	now    int64
}

// Register adds the routes to mux, for GET and for POST with a form.
func (h *Handler) Register(mux *http.ServeMux) {
	for route, serve := range map[string]func(*call, *jsonWriter) error{
		"query_range":         h.queryRange,
		"query":               h.query,
		"labels":              h.labels,
		"label":               h.labels,
		"label/{name}/values": h.labelValues,
		"series":              h.series,
		"format_query":        h.formatQuery,

		"index/stats":                  h.indexStats,
		"index/volume":                 h.volume,
		"index/volume_range":           h.volumeRange,
		"detected_labels":              h.detectedLabels,
		"detected_fields":              h.detectedFields,
		"detected_field/{name}/values": h.detectedValues,
	} {
		handler := h.wrap(route, true, serve)
		mux.Handle("GET /loki/api/v1/"+route, handler)
		mux.Handle("POST /loki/api/v1/"+route, handler)
	}
	mux.Handle("GET /loki/api/v1/drilldown-limits", h.wrap("drilldown-limits", true, h.drilldownLimits))
	mux.HandleFunc("GET /loki/api/v1/tail", h.tail)
	mux.HandleFunc("GET /loki/api/v1/patterns", h.noPatterns)
	mux.HandleFunc("POST /loki/api/v1/patterns", h.noPatterns)
	mux.Handle("GET /loki/api/v1/status/buildinfo", h.wrap("buildinfo", false, h.buildInfo))
}

const maxForm = 4 << 20 // bytes of a POST body

// wrap makes an http.Handler of serve. What serve returns as an error becomes
// the answer, provided that serve has written nothing.
func (h *Handler) wrap(route string, tenant bool, serve func(*call, *jsonWriter) error) http.Handler {
	m := h.deps.Engine.metrics
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		m.running.Inc()
		defer m.running.Dec()
		out := newResponse(w, r)
		err := h.prepare(r, tenant, w, func(c *call) error { return serve(c, &out.json) })
		code := http.StatusOK
		if err != nil {
			code = h.fail(w, r, route, err)
		} else {
			out.finish()
		}
		out.free()
		m.requests.WithLabelValues(route, strconv.Itoa(code)).Inc()
		m.duration.WithLabelValues(route).Observe(time.Since(start).Seconds())
	})
}

func (h *Handler) prepare(r *http.Request, tenant bool, w http.ResponseWriter, serve func(*call) error) error {
	c := &call{Request: r, now: h.deps.Now().UnixNano()}
	if tenant {
		var err error
		if c.tenant, err = h.deps.Tenant(r); err != nil {
			var pe *push.Error
			if !errors.As(err, &pe) {
				err = push.Errorf(push.NoTenant, "%v", err)
			}
			return err
		}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return badRequest("cannot read the form: %v", err)
	}
	return serve(c)
}

// jsonError is the one kind of bad request that Loki answers in JSON.
type jsonError struct{ body []byte }

func (e *jsonError) Error() string { return string(e.body) }

// limitError is an error of a Source: the query asks for more than its tenant
// may.
type limitError interface {
	error
	QueryLimit() // marks it
}

const statusClientClosed = 499 // as Loki has it from nginx

// fail answers with a status and a line of text.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, route string, err error) int {
	code, text := http.StatusInternalServerError, err.Error()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	var (
		inv *jsonError
		bad *RequestError
		pe  *push.Error
		lq  *logql.ParseError
		mq  *metric.Error
		lim limitError
	)
	switch {
	case errors.As(err, &inv):
		code = http.StatusBadRequest
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	case errors.As(err, &bad), errors.As(err, &lq), errors.As(err, &mq), errors.As(err, &lim):
		code = http.StatusBadRequest
	case errors.As(err, &pe):
		code = pe.Reason.Status()
		if pe.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int((pe.RetryAfter+time.Second-1)/time.Second)))
		}
	case errors.Is(err, context.Canceled):
		code, text = statusClientClosed, "The request was cancelled by the client."
	case errors.Is(err, context.DeadlineExceeded):
		code, text = http.StatusGatewayTimeout, "Request timed out, decrease the duration of the request or add more label matchers "+
			"(prefer exact match over regex match) to reduce the amount of data processed."
	default:
		h.deps.Log.Error("query failed", "route", route, "path", r.URL.Path, "err", err)
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text)
	return code
}

func (h *Handler) queryRange(c *call, j *jsonWriter) error {
	p, err := parseRange(c.Form, c.now)
	if err != nil {
		return err
	}
	expr, err := logql.Parse(c.Form.Get("query"))
	if err != nil {
		return err
	}
	q, ok := expr.(*logql.LogQuery)
	if !ok {
		return h.metric(c, j, expr, p.start, p.end, int64(p.step))
	}
	r, err := h.deps.Engine.Run(c.Context(), Request{
		Tenant: c.tenant, Query: q, From: p.start, Through: p.end,
		Limit: p.limit, Direction: p.direction, Interval: p.interval,
	})
	if err != nil {
		return err
	}
	h.deps.Log.Debug("log query", "tenant", c.tenant, "took", r.Stats.Exec, "waited", r.Stats.Queue, "entries", r.Stats.Entries,
		"blocks", r.Stats.Memory.BlocksLoaded+r.Stats.Store.BlocksLoaded)
	j.streams(r, categorize(c.Header))
	return nil
}

// categorize reports whether the client wants metadata apart from labels.
func categorize(h http.Header) bool {
	for _, v := range h.Values("X-Loki-Response-Encoding-Flags") {
		for f := range strings.SplitSeq(v, ",") {
			if strings.TrimSpace(f) == "categorize-labels" {
				return true
			}
		}
	}
	return false
}

func (h *Handler) query(c *call, j *jsonWriter) error {
	at, err := parseTime(c.Form.Get("time"), c.now)
	if err != nil {
		return badRequest("%v", err)
	}
	if _, err := parseLimit(c.Form.Get("limit")); err != nil {
		return err
	}
	if _, err := parseDirection(c.Form.Get("direction")); err != nil {
		return err
	}
	expr, err := logql.Parse(c.Form.Get("query"))
	if err != nil {
		return err
	}
	if _, ok := expr.(*logql.LogQuery); ok {
		return badRequest("log queries are not supported as an instant query type, please change your query to a range query type")
	}
	if v, ok := logql.Constant(expr); ok {
		j.scalar(v, at)
		return nil
	}
	r, err := h.deps.Engine.RunMetric(c.Context(), MetricRequest{Tenant: c.tenant, Query: expr, Start: at, End: at})
	if err != nil {
		return err
	}
	j.vector(r)
	return nil
}

// metric answers a metric query over a range, whose ends move outward to
// multiples of the step, as in Loki.
func (h *Handler) metric(c *call, j *jsonWriter, expr logql.Expr, start, end, step int64) error {
	start, end = align(start, end, step)
	r, err := h.deps.Engine.RunMetric(c.Context(), MetricRequest{Tenant: c.tenant, Query: expr, Start: start, End: end, Step: step})
	if err != nil {
		return err
	}
	h.deps.Log.Debug("metric query", "tenant", c.tenant, "took", r.Stats.Exec, "waited", r.Stats.Queue, "series", len(r.Series),
		"blocks", r.Stats.Memory.BlocksLoaded+r.Stats.Store.BlocksLoaded)
	j.matrix(r)
	return nil
}

// labelSets returns the streams in the range of the request.
func (h *Handler) labelSets(c *call, selectors []string) ([]labels.Labels, error) {
	start, end, err := timeRange(c.Form, c.now)
	if err != nil {
		return nil, err
	}
	var groups [][]*labels.Matcher
	for _, s := range selectors {
		ms, err := logql.ParseSelector(s)
		if err != nil {
			return nil, badRequest("%v", err)
		}
		groups = append(groups, ms)
	}
	return h.deps.Engine.LabelSets(c.Context(), c.tenant, groups, start, addTime(end, 1)) // the end is included here
}

// labelQuery returns the streams that the label endpoints look at.
func (h *Handler) labelQuery(c *call) ([]labels.Labels, error) {
	q := c.Form.Get("query")
	if q == "" {
		return h.labelSets(c, nil)
	}
	return h.labelSets(c, []string{q})
}

func (h *Handler) labels(c *call, j *jsonWriter) error {
	sets, err := h.labelQuery(c)
	if err != nil {
		return err
	}
	names := map[string]struct{}{}
	for _, ls := range sets {
		for _, l := range ls {
			names[l.Name] = struct{}{}
		}
	}
	j.strings(sorted(names))
	return nil
}

func (h *Handler) labelValues(c *call, j *jsonWriter) error {
	sets, err := h.labelQuery(c)
	if err != nil {
		return err
	}
	values := map[string]struct{}{}
	for _, ls := range sets {
		if v := ls.Get(c.PathValue("name")); v != "" {
			values[v] = struct{}{}
		}
	}
	j.strings(sorted(values))
	return nil
}

func sorted(set map[string]struct{}) []string {
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	sort.Strings(out)
	return out
}

// series answers with all streams if there is no selector.
func (h *Handler) series(c *call, j *jsonWriter) error {
	sets, err := h.labelSets(c, slices.Concat(c.Form["match[]"], c.Form["match"]))
	if err != nil {
		return err
	}
	j.series(sets)
	return nil
}

func (h *Handler) formatQuery(c *call, j *jsonWriter) error {
	expr, err := logql.Parse(c.Form.Get("query"))
	if err != nil {
		b := append([]byte(nil), `{"status":"invalid-query","error":`...)
		return &jsonError{append(appendJSON(b, err.Error(), false), "}\n"...)}
	}
	j.raw(`{"status":"success","data":`)
	j.buf = appendJSON(j.buf, expr.Pretty(), false)
	j.raw("}\n")
	return nil
}

func (h *Handler) buildInfo(_ *call, j *jsonWriter) error {
	b := &h.deps.Build
	sep := "{"
	for _, kv := range [][2]string{
		{"version", b.Version},
		{"revision", b.Revision},
		{"branch", b.Branch},
		{"buildUser", b.BuildUser},
		{"buildDate", b.BuildDate},
		{"goVersion", b.GoVersion},
	} {
		j.raw(sep + `"` + kv[0] + `":`)
		j.buf = appendJSON(j.buf, kv[1], false)
		sep = ","
	}
	j.raw("}\n")
	return nil
}

// response sends the JSON of an answer, compressed if the client takes that
// and it is worth it. The header goes out with the first piece.
type response struct {
	w    http.ResponseWriter
	gzip bool
	zw   *gzip.Writer
	sent bool
	json jsonWriter
}

const (
	gzipFrom     = 1 << 10 // smaller answers are sent as they are
	keepResponse = 1 << 20 // larger buffers are not kept
)

var (
	responsePool = sync.Pool{New: func() any { return new([]byte) }}
	gzipPool     = sync.Pool{New: func() any {
		zw, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is a constant
		}
		return zw
	}}
)

func newResponse(w http.ResponseWriter, r *http.Request) *response {
	out := &response{w: w, gzip: acceptsGzip(r.Header)}
	out.json.w = out
	out.json.buf = (*responsePool.Get().(*[]byte))[:0]
	return out
}

// Write is called by the jsonWriter, with all of the answer or with pieces.
func (o *response) Write(b []byte) (int, error) {
	if !o.sent {
		o.sent = true
		hd := o.w.Header()
		hd.Set("Content-Type", "application/json; charset=UTF-8")
		hd.Add("Vary", "Accept-Encoding")
		if o.gzip && len(b) >= gzipFrom {
			hd.Set("Content-Encoding", "gzip")
			o.zw = gzipPool.Get().(*gzip.Writer)
			o.zw.Reset(o.w)
		}
	}
	if o.zw != nil {
		return o.zw.Write(b)
	}
	return o.w.Write(b)
}

// finish sends what is left. Errors mean that the client is gone.
func (o *response) finish() {
	o.json.flush()
	if o.zw != nil && o.json.err == nil {
		o.json.err = o.zw.Close()
	}
}

func (o *response) free() {
	if b := o.json.buf; cap(b) <= keepResponse {
		responsePool.Put(&b)
	}
	if o.zw != nil {
		o.zw.Reset(nil)
		gzipPool.Put(o.zw)
	}
}

func acceptsGzip(h http.Header) bool {
	for _, v := range h.Values("Accept-Encoding") {
		for e := range strings.SplitSeq(v, ",") {
			name, q, _ := strings.Cut(e, ";")
			if name = strings.TrimSpace(name); name != "gzip" && name != "*" {
				continue
			}
			q = strings.TrimPrefix(strings.ReplaceAll(q, " ", ""), "q=")
			if w, err := strconv.ParseFloat(q, 64); err != nil || w > 0 {
				return true
			}
		}
	}
	return false
}
