// Package lokipush receives pushes as Loki's clients send them.
//
//	POST /loki/api/v1/push
//	POST /api/prom/push
//	gRPC logproto.Pusher/Push
//
// Both paths take the same. A body of Content-Type application/json is
//
//	{"streams":[{"stream":{"label":"value"},"values":[
//	    ["<ns>","line"],["<ns>","line",{"metadata":"value"}]]}]}
//
// or, per stream, the older form
//
//	{"labels":"{label=\"value\"}","entries":[
//	    {"ts":"<RFC 3339>","line":"...","structuredMetadata":{}}]}
//
// Any other Content-Type means logproto.PushRequest as one raw block of snappy,
// whether or not Content-Encoding says snappy. All else that Content-Encoding
// may say (gzip, deflate, zstd) is undone first. A request without a
// Content-Type is refused, as Loki does.
//
// Times and lines are kept exactly as sent. The protobuf of a client and its
// compression are kept too: they become the Body of the batch.
//
// A gRPC call carries the same protobuf without snappy; gRPC's own compression
// may be gzip, snappy or zstd.
//
// # Answers
//
//	204  all entries are durable; also for streams without entries
//	400  the body cannot be read, and nothing is stored; or some entries were
//	     refused, the others are durable, and the text says which is which
//	422  no streams
//	401, 413, 429, 503 as push.Reason.Status has them, with Retry-After; nothing
//	     is known to be stored
//
// The gRPC service says the same in the way of Loki's: a status whose code is the
// HTTP code, with the whole answer as an httpgrpc.HTTPResponse in its details.
//
// X-Scope-OrgID (or the metadata of that name) names the tenant. Idempotency-Key or X-Request-Id identifies a
// push that is sent again.
//
// A Receiver has no goroutines of its own and needs no closing. Its handler may
// be called concurrently. A request's memory is bounded by Config, and admitted
// by the Sink before it is used.
package lokipush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/plugins/httpbody"
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

// Deps are what a Receiver works with. Sink must be set.
type Deps struct {
	Sink    Sink
	Log     *slog.Logger          // nil: no logs
	Metrics prometheus.Registerer // nil: no metrics
}

// Receiver is the handler of both paths.
type Receiver struct {
	d       Deps
	cfg     Config
	metrics *metrics
	refused refusalLog
	failed  *warn.Logger
	work    sync.Pool // *work
}

// work is what a request needs besides its batch.
type work struct {
	body []byte
	bl   *push.Builder
	json decoder
}

// New returns a Receiver.
func New(d Deps, cfg Config) (*Receiver, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("lokipush: %w", errors.Join(errs...))
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(d.Metrics)
	if err != nil {
		return nil, fmt.Errorf("lokipush: register metrics: %w", err)
	}
	r := &Receiver{d: d, cfg: cfg, metrics: m, failed: warn.New(d.Log)}
	r.refused.log = d.Log
	r.work.New = func() any { return &work{bl: push.NewBuilder(nil)} }
	return r, nil
}

// Register adds both paths to mux.
func (rc *Receiver) Register(mux *http.ServeMux) {
	mux.Handle("/loki/api/v1/push", rc)
	mux.Handle("/api/prom/push", rc)
}

// ServeHTTP answers one push.
func (rc *Receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "method not allowed: use POST", http.StatusMethodNotAllowed)
		return
	}
	p := request{rc: rc, r: r, ctx: r.Context(), format: "protobuf"}
	err := p.serve()
	if p.json {
		p.format = "json"
	}
	rc.note(&p, httpbody.WriteError(w, err), err, r.RemoteAddr)
}

// note counts and logs a push that was answered.
func (rc *Receiver) note(p *request, code int, err error, peer string) {
	rc.metrics.count(p, code)
	switch {
	case err == nil || errors.Is(err, httpbody.ErrDisconnected) || p.ctx.Err() != nil:
	case code >= 500 && code != http.StatusServiceUnavailable:
		rc.failed.Log(slog.LevelError, "push failed", "receiver", receiver, "peer", peer, "err", err)
	default:
		rc.refused.note(peer, code, err)
	}
}

const receiver = "loki"

// request is one push while it is served.
type request struct {
	rc      *Receiver
	r       *http.Request
	ctx     context.Context
	held    []func() // releases of what was admitted
	json    bool
	format  string
	decoded int // bytes
	entries int
}

func (p *request) serve() error {
	var err error
	if p.json, err = isJSON(p.r.Header.Get("Content-Type")); err != nil {
		return err
	}
	w := p.rc.work.Get().(*work)
	b := push.Get()
	defer func() {
		b.Release() // before w: the batch may refer to its body
		p.rc.put(w)
		for _, release := range p.held {
			release()
		}
	}()
	w.body, err = httpbody.Options{
		MaxWire:    int64(p.rc.cfg.MaxRecvSize),
		MaxDecoded: int64(p.rc.cfg.MaxDecodedSize),
		KeepSnappy: !p.json,
		Admit:      p.admit,
	}.Read(p.r, w.body[:0])
	if err != nil {
		return err
	}
	if p.json {
		err = p.decodeJSON(w, b)
	} else {
		err = p.decodeProtobuf(w.body, b)
	}
	if err != nil {
		return err
	}
	return p.push(b, p.r.Header, w.body)
}

// push pushes what was decoded of body.
func (p *request) push(b *push.Batch, h http.Header, body []byte) error {
	p.decoded, p.entries = len(b.Data), len(b.Entries)
	b.Tenant = h.Get(httpbody.TenantHeader)
	b.Receiver = receiver
	if b.ID = httpbody.PushID(h, body); b.ID == (push.ID{}) {
		// Entries have their times, so two equal pushes are one, sent again.
		b.ID = httpbody.BodyID("", body)
	}
	return p.rc.d.Sink.Push(p.ctx, b)
}

func (p *request) admit(n int64) error {
	release, err := p.rc.d.Sink.Admit(p.ctx, n)
	if err == nil {
		p.held = append(p.held, release)
	}
	return err
}

// isJSON tells the two formats apart.
func isJSON(contentType string) (bool, error) {
	switch contentType {
	case "application/x-protobuf":
		return false, nil
	case "application/json":
		return true, nil
	}
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false, push.Errorf(push.Malformed, "%v", err)
	}
	return t == "application/json", nil
}

// What decoding takes per entry and stream besides their bytes.
const (
	entryCost  = 32
	streamCost = 64
)

func (p *request) decodeProtobuf(body []byte, b *push.Batch) error {
	n, err := push.DecodedLen(body)
	if err != nil {
		return push.Errorf(push.Malformed, "snappy: %v", err)
	}
	if n > int(p.rc.cfg.MaxDecodedSize) {
		return p.tooLarge()
	}
	return p.decodeInto(n, b, func() error { return b.SetBody(body, push.CodecSnappy, n) })
}

// decodeInto fills b, which will have n bytes of protobuf, in memory that it
// asks for.
func (p *request) decodeInto(n int, b *push.Batch, decode func() error) error {
	// Entries of ordinary size take a quarter of their bytes.
	free := int64(n) + int64(n)/4
	if err := p.admit(free); err != nil {
		return err
	}
	switch err := decode(); {
	case errors.Is(err, push.ErrTooLarge):
		return p.tooLarge()
	case err != nil:
		return push.Errorf(push.Malformed, "%s", strings.TrimPrefix(err.Error(), "push: "))
	}
	used := int64(len(b.Data)) + int64(len(b.Entries))*entryCost + int64(len(b.Streams))*streamCost
	if used > free {
		return p.admit(used - free)
	}
	return nil
}

func (p *request) tooLarge() error {
	return push.Errorf(push.BodyTooLarge, "decompressed push is larger than the limit of %d bytes", p.rc.cfg.MaxDecodedSize)
}

func (p *request) decodeJSON(w *work, b *push.Batch) error {
	w.bl.Reset(b)
	w.json.reset(w.body, w.bl, p.admit, int64(p.rc.cfg.MaxDecodedSize))
	if err := w.json.decode(); err != nil {
		return err
	}
	w.bl.Finish()
	return nil
}

// maxPooled bounds what is kept between requests.
const maxPooled = 8 << 20

func (rc *Receiver) put(w *work) {
	w.json.release()
	if cap(w.body) > maxPooled || w.bl.Size() > maxPooled || w.bl.Len() > maxPooled/64 || w.json.size() > maxPooled {
		return
	}
	rc.work.Put(w)
}
