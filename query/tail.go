package query

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/query/logql"
)

// A tail asks for what is new once in tailPeriod: for the lines of the last
// tailWindow, of which it leaves out those that it has shown. A line that
// arrives later than tailWindow behind its time is not shown.
const (
	tailPeriod   = time.Second
	tailWindow   = 15 * time.Second
	maxTailDelay = 5  // seconds
	maxTails     = 10 // of a tenant, Loki's default
	tailPage     = 1000
)

// tails are the running tails of a Handler.
type tails struct {
	mu       sync.Mutex
	running  sync.WaitGroup
	byTenant map[string]int
	done     chan struct{} // closed to end them all
	closed   bool
}

// begin counts a tail in.
func (t *tails) begin(tenant string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return push.Errorf(push.Leaving, "the server is about to stop")
	}
	if t.byTenant[tenant] >= maxTails {
		return badRequest("max concurrent tail requests limit exceeded, count > limit (%d > %d)", t.byTenant[tenant]+1, maxTails)
	}
	t.byTenant[tenant]++
	t.running.Add(1)
	return nil
}

func (t *tails) end(tenant string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byTenant[tenant]--; t.byTenant[tenant] == 0 {
		delete(t.byTenant, tenant)
	}
	t.running.Done()
}

// Close ends the connections on which lines are followed, and waits for them.
// Other requests end with the HTTP server.
func (h *Handler) Close() {
	h.tails.mu.Lock()
	if !h.tails.closed {
		h.tails.closed = true
		close(h.tails.done)
	}
	h.tails.mu.Unlock()
	h.tails.running.Wait()
}

// tailRequest is what a tail was asked for.
type tailRequest struct {
	tenant     string
	query      *logql.LogQuery
	start      int64
	delay      time.Duration
	limit      int // entries from before it began
	categorize bool
}

func (h *Handler) parseTail(c *call) (*tailRequest, error) {
	expr, err := logql.Parse(c.Form.Get("query"))
	if err != nil {
		return nil, err
	}
	q, ok := expr.(*logql.LogQuery)
	if !ok {
		return nil, badRequest("only log selector is supported")
	}
	r := &tailRequest{tenant: c.tenant, query: q, categorize: categorize(c.Header)}
	if r.limit, err = parseLimit(c.Form.Get("limit")); err != nil {
		return nil, err
	}
	if r.start, _, err = timeRange(c.Form, c.now); err != nil {
		return nil, err
	}
	if s := c.Form.Get("delay_for"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, badRequest("%v", err)
		}
		if n > maxTailDelay {
			return nil, badRequest("delay_for can't be greater than %d", maxTailDelay)
		}
		r.delay = time.Duration(max(n, 0)) * time.Second
	}
	return r, nil
}

// tail serves a WebSocket on which the lines of a query are sent as they come.
func (h *Handler) tail(w http.ResponseWriter, r *http.Request) {
	m := h.deps.Engine.metrics
	var req *tailRequest
	err := h.prepare(r, true, w, func(c *call) (err error) {
		if req, err = h.parseTail(c); err == nil {
			err = h.tails.begin(c.tenant)
		}
		return err
	})
	if err != nil {
		m.requests.WithLabelValues("tail", strconv.Itoa(h.fail(w, r, "tail", err))).Inc()
		return
	}
	defer h.tails.end(req.tenant)
	s := upgrade(w, r)
	if s == nil {
		return
	}
	defer s.conn.Close()
	m.requests.WithLabelValues("tail", "101").Inc()
	m.running.Inc()
	defer m.running.Dec()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
	defer cancel(nil)
	read := make(chan struct{})
	go func() {
		defer close(read)
		cancel(s.serve())
	}()
	err = h.follow(ctx, req, s)
	switch {
	case errors.Is(err, errStopping):
		s.end(closeNormal, "the server is about to stop")
	case ctx.Err() == nil:
		h.deps.Log.Warn("tail ended", "tenant", req.tenant, "err", err)
		s.end(closeInternal, err.Error())
	}
	s.conn.Close()
	<-read
}

var errStopping = errors.New("the server stops")

// follow sends entries until ctx ends or something fails.
func (h *Handler) follow(ctx context.Context, r *tailRequest, s *socket) error {
	t := &tailer{e: h.deps.Engine, r: r, shown: map[uint64]int64{}, emit: func(res *Result) error { return r.send(s, res) }}
	tick := time.NewTicker(tailPeriod)
	defer tick.Stop()
	for {
		if err := t.poll(ctx, h.deps.Now()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.tails.done:
			return errStopping
		case <-tick.C:
		}
		if err := s.frame(opPing, nil); err != nil {
			return err
		}
	}
}

// send writes entries.
func (r *tailRequest) send(s *socket, res *Result) error {
	j := jsonWriter{}
	j.raw(`{"streams":[`)
	j.streamList(res, r.categorize, func() {})
	j.raw("]")
	if r.categorize {
		j.raw(`,"encodingFlags":["categorize-labels"]`)
	}
	j.raw("}")
	// A message is one write.
	return s.frame(opText, j.buf)
}

// Follow calls f with the entries of a log query that come from now on, about
// once a second, until ctx ends or something fails; no entries come twice. An
// entry that arrives more than 15 s behind its time is left out. f owns the
// result.
func (e *Engine) Follow(ctx context.Context, tenant string, q *logql.LogQuery, f func(*Result) error) error {
	t := &tailer{e: e, r: &tailRequest{tenant: tenant, query: q, start: math.MinInt64}, begun: true, shown: map[uint64]int64{}}
	t.emit = func(*Result) error { return nil } // what is there is not new
	tick := time.NewTicker(tailPeriod)
	defer tick.Stop()
	for {
		if err := t.poll(ctx, time.Now()); err != nil {
			return err
		}
		t.emit = f
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// tailer is a running tail.
type tailer struct {
	e     *Engine
	r     *tailRequest
	emit  func(*Result) error // gets what is new
	begun bool
	shown map[uint64]int64 // hashes of entries of the window, with their times
}

// poll looks for what is new.
func (t *tailer) poll(ctx context.Context, at time.Time) error {
	now := at.UnixNano()
	through := addTime(now, -t.r.delay) + 1
	if !t.begun {
		t.begun = true
		r, err := t.run(ctx, t.r.start, through, t.r.limit, Backward)
		if err != nil {
			return err
		}
		slices.Reverse(r.Entries)
		if len(r.Entries) == t.r.limit {
			t.r.start = r.Entries[0].TS // what the limit left out is not new
		}
		return t.send(r)
	}
	from := max(t.r.start, addTime(through, -tailWindow))
	for h, ts := range t.shown {
		if ts < from {
			delete(t.shown, h)
		}
	}
	for {
		r, err := t.run(ctx, from, through, tailPage, Forward)
		if err != nil {
			return err
		}
		n := len(r.Entries)
		if n == tailPage {
			from = r.Entries[n-1].TS
			if r.Entries[0].TS == from {
				from++ // a page of one time: what is behind it is not lost, at least
			}
		}
		if err := t.send(r); err != nil || n < tailPage {
			return err
		}
	}
}

func (t *tailer) run(ctx context.Context, from, through int64, limit int, d Direction) (*Result, error) {
	return t.e.Run(ctx, Request{Tenant: t.r.tenant, Query: t.r.query, From: from, Through: through, Limit: limit, Direction: d})
}

// send emits the entries that were not shown yet.
func (t *tailer) send(r *Result) error {
	kept := r.Entries[:0]
	var id []byte
	for _, e := range r.Entries {
		id = r.Streams[e.Stream].AppendString(id[:0])
		id = append(strconv.AppendInt(id, e.TS, 10), e.Line...)
		id = append(id, e.Meta...)
		h := xxhash.Sum64(id)
		if _, ok := t.shown[h]; ok {
			continue
		}
		t.shown[h] = e.TS
		kept = append(kept, e)
	}
	if r.Entries = kept; len(kept) == 0 {
		return nil
	}
	return t.emit(r)
}
