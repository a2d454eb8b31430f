// Package otlp receives logs by the OpenTelemetry protocol, OTLP 1.x.
//
//	POST /otlp/v1/logs    (Loki's path)
//	POST /v1/logs         (the path that exporters have by themselves)
//	gRPC opentelemetry.proto.collector.logs.v1.LogsService/Export
//
// Over HTTP the body is an ExportLogsServiceRequest as application/x-protobuf or
// application/json, with Content-Encoding gzip, zstd, deflate, snappy or none;
// over gRPC it may be compressed with gzip, zstd or snappy. Requests are decoded
// once, straight from their bytes, and leniently: strings need not be UTF-8
// (Fluent Bit sends such), fields that are not known are passed over.
//
// # What becomes of a record
//
// It is Loki's mapping, as its OTLP endpoint has it without further settings.
//
//	labels     the resource attributes that Config.LabelAttributes names;
//	           service_name, if there is none, is found by the gateway
//	line       the body: a string as it is, anything else as JSON
//	time       time_unix_nano, else observed_time_unix_nano, else now; as sent
//	metadata   attributes of record, resource and scope; scope_name,
//	           scope_version, scope_dropped_attributes_count; and of the record
//	           observed_timestamp (if there are both times), severity_number,
//	           severity_text, dropped_attributes_count, flags, trace_id, span_id
//	           (hex), event_name
//
// Names are push.NormaliseName of the attribute's; an attribute that is a map
// becomes one pair for each value in it, its name that of all keys on the way
// with underscores between. Other values are text, bytes are base64, arrays are
// JSON; one without any text is left out. What a resource says of itself beside its attributes (schema URLs,
// entities, numbers of dropped attributes) is not kept, as in Loki.
//
// # Answers
//
// All in the encoding of the request, as OTLP wants them.
//
//	200  all records are durable, but for those in partial_success, which were
//	     refused for good; also for a request without records
//	400  the body cannot be read, and nothing is stored
//	401, 413, 415
//	429, 503  nothing is known to be stored, or some of it could not be for now:
//	     send all of it again after Retry-After. A client of OTLP drops what 500
//	     answers, so that is never used.
//
// gRPC has InvalidArgument, Unauthenticated, ResourceExhausted and Unavailable,
// the last two with RetryInfo.
//
// X-Scope-OrgID (a header, or metadata of the call) names the tenant. A request
// whose records all have a time of their own is recognised by its content when it
// is sent again; else Idempotency-Key or X-Request-Id can identify it.
//
// # Life cycle
//
// Register adds the HTTP handler to a mux, RegisterGRPC the service to a server
// that has rawgrpc.ServerOption. Open starts a gRPC server of the receiver's own
// if Config has an address for it, Close stops that. Handlers may be called
// concurrently. A request's memory is bounded by Config, and admitted by the
// Sink before it is used.
package otlp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/loki-go/loki-go/internal/warn"
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
	Now     func() time.Time      // nil: time.Now; for records without a time
	GRPC    []grpc.ServerOption   // more options of the gRPC server: who may call it
}

// Receiver is the HTTP handler and the gRPC service.
type Receiver struct {
	d         Deps
	cfg       Config
	labelKeys map[string]struct{}
	metrics   *metrics
	refused   refusalLog
	failed    *warn.Logger
	work      sync.Pool // *work

	listener net.Listener
	server   *grpc.Server
	serving  sync.WaitGroup
}

// work is what a request needs besides its batch.
type work struct {
	body  []byte
	bl    *push.Builder
	e     emitter
	proto protoDecoder
	json  jsonDecoder
}

const receiver = "otlp"

// New returns a Receiver.
func New(d Deps, cfg Config) (*Receiver, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("otlp: %w", errors.Join(errs...))
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	m, err := newMetrics(d.Metrics)
	if err != nil {
		return nil, fmt.Errorf("otlp: register metrics: %w", err)
	}
	rc := &Receiver{d: d, cfg: cfg, metrics: m, failed: warn.New(d.Log), labelKeys: map[string]struct{}{}}
	for _, a := range cfg.LabelAttributes {
		rc.labelKeys[a] = struct{}{}
	}
	rc.refused.log = d.Log
	tooMany := fmt.Errorf("more than %d values in one log record", cfg.MaxValues)
	rc.work.New = func() any {
		w := &work{bl: push.NewBuilder(nil)}
		w.e = emitter{labelKeys: rc.labelKeys, maxValues: cfg.MaxValues, maxRecords: cfg.MaxRecords, tooMany: tooMany}
		w.proto.e, w.json.e = &w.e, &w.e
		return w
	}
	return rc, nil
}

// request is one export while it is served.
type request struct {
	rc     *Receiver
	ctx    context.Context
	tenant string
	id     push.ID // what the client calls it, or zero
	json   bool
	held   []func() // releases of what was admitted

	bytes, records int
}

func (p *request) admit(n int64) error {
	release, err := p.rc.d.Sink.Admit(p.ctx, n)
	if err == nil {
		p.held = append(p.held, release)
	}
	return err
}

func (p *request) release() {
	for _, release := range p.held {
		release()
	}
}

// export decodes body and pushes what is in it.
func (p *request) export(w *work, body []byte) outcome {
	b := push.Get()
	defer b.Release()
	p.bytes = len(body)
	w.bl.Reset(b)
	w.e.reset(w.bl, p.now, memory{admit: p.admit, limit: int64(p.rc.cfg.MaxDecodedSize)})
	var err error
	if p.json {
		err = w.json.decode(body)
	} else {
		err = w.proto.decode(body)
	}
	p.records = w.e.records
	if err != nil {
		return outcome{err: err}
	}
	if w.bl.Len() == 0 {
		return settle(&w.e, nil)
	}
	w.bl.Finish()
	b.Tenant, b.Receiver, b.ID = p.tenant, receiver, p.id
	if b.ID == (push.ID{}) && !w.e.timeless {
		b.ID = contentID(body)
	}
	return settle(&w.e, p.rc.d.Sink.Push(p.ctx, b))
}

func (p *request) now() int64 { return p.rc.d.Now().UnixNano() }

// contentID identifies a request by what it says. Two requests that say the
// same at the same times are one that was sent twice.
func contentID(body []byte) (id push.ID) {
	binary.LittleEndian.PutUint64(id[:], xxhash.Sum64(body))
	seeded := xxhash.NewWithSeed(uint64(len(body)) | 1<<63)
	_, _ = seeded.Write(body) // never fails
	binary.LittleEndian.PutUint64(id[8:], seeded.Sum64())
	return id
}

// maxPooled bounds what is kept between requests.
const maxPooled = 8 << 20

func (rc *Receiver) put(w *work) {
	w.e.release()
	w.proto.release()
	w.json.release()
	if cap(w.body) > maxPooled || w.bl.Size() > maxPooled || w.bl.Len() > maxPooled/64 ||
		w.e.size() > maxPooled || w.json.size() > maxPooled {
		return
	}
	rc.work.Put(w)
}

// Register adds both paths to mux.
func (rc *Receiver) Register(mux *http.ServeMux) {
	mux.Handle("/otlp/v1/logs", rc)
	mux.Handle("/v1/logs", rc)
}
