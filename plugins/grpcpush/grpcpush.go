// Package grpcpush receives pushes over gRPC: from the Fluent Bit plugin, and
// from other servers of loki-go. Service and messages are those of package
// ingestpb; package pushclient is the other side.
//
// The body of a request is kept as it came, compressed, and becomes that of
// the batch. An answer is sent when the Sink has answered, so OK means durable.
//
// A Receiver has no goroutines of its own and needs no closing; stopping the
// gRPC server waits for its calls. They may be concurrent.
//
// A client that cannot hand single entries back, as an agent's plugin, says so
// (keep_refused): the Sink then keeps those that are refused for good as dead
// letters, together with pieces that never were entries.
package grpcpush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/proto/ingestpb"
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
	// Internal says that the clients are servers of ours: what they say of the
	// receiver is believed, and entries that they mark as refused stay refused.
	Internal bool
}

// Receiver is the service.
type Receiver struct {
	ingestpb.UnimplementedIngestServer
	d       Deps
	cfg     Config
	pushes  *prometheus.CounterVec
	bytes   prometheus.Counter
	entries prometheus.Counter
	refused refusalLog
	failed  *warn.Logger
}

// New returns a Receiver.
func New(d Deps, cfg Config) (*Receiver, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("grpcpush: %w", errors.Join(errs...))
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	rc := &Receiver{
		d: d, cfg: cfg, failed: warn.New(d.Log),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "loki_go_grpcpush_requests_total", Help: "Pushes answered, by gRPC code.",
		}, []string{"code"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loki_go_grpcpush_decoded_bytes_total", Help: "Bytes of decoded pushes, stored or not.",
		}),
		entries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "loki_go_grpcpush_entries_total", Help: "Entries in decoded pushes, stored or not.",
		}),
	}
	rc.refused.log = d.Log
	if d.Metrics != nil {
		for _, c := range []prometheus.Collector{rc.pushes, rc.bytes, rc.entries} {
			if err := d.Metrics.Register(c); err != nil {
				return nil, fmt.Errorf("grpcpush: register metrics: %w", err)
			}
		}
	}
	return rc, nil
}

// Register adds the service to a gRPC server.
func (rc *Receiver) Register(s grpc.ServiceRegistrar) { ingestpb.RegisterIngestServer(s, rc) }

// How much of pushes may be on its way before it is read. A push is some hundred
// KiB as a rule; with gRPC's own 64 KiB it would take a dozen round trips, each
// through four goroutines, until gRPC has found out that it may send more.
const (
	callWindow = 2 << 20
	connWindow = 4 << 20
	readBuffer = 128 << 10
)

// ServerOptions returns what a gRPC server for this service needs: its limits,
// room for a push, and patience with pings, by which clients find out about dead
// connections.
func (c Config) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(int(c.MaxRecvSize)),
		grpc.InitialWindowSize(callWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(readBuffer),
		grpc.MaxConcurrentStreams(uint32(min(c.MaxStreams, 1<<20))),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
	}
}

// Push stores one push.
func (rc *Receiver) Push(ctx context.Context, req *ingestpb.PushRequest) (*ingestpb.PushResponse, error) {
	b := push.Get()
	defer b.Release()
	var rejected *push.Rejected
	err := rc.push(ctx, req, b)
	if errors.As(err, &rejected) {
		rc.pushes.WithLabelValues("OK").Inc()
		rc.refused.note(ctx, rejected)
		return ingestpb.NewResponse(b, rejected), nil
	}
	answer := ingestpb.StatusError(err)
	rc.pushes.WithLabelValues(status.Code(answer).String()).Inc()
	if err == nil {
		return ingestpb.NewResponse(b, nil), nil
	}
	var e *push.Error
	switch {
	case ctx.Err() != nil: // nobody waits for the answer
	case errors.As(err, &e) && e.Reason != push.Internal:
		rc.refused.note(ctx, err)
	default:
		rc.failed.Log(slog.LevelError, "push failed", "receiver", receiver, "peer", peerOf(ctx), "err", err)
	}
	return nil, answer
}

const receiver = "grpc"

func (rc *Receiver) push(ctx context.Context, req *ingestpb.PushRequest, b *push.Batch) error {
	if len(req.PushId) != 0 && len(req.PushId) != len(push.ID{}) {
		return push.Errorf(push.Malformed, "push_id has %d bytes; it must have %d or none", len(req.PushId), len(push.ID{}))
	}
	if len(req.Refused) > 0 && !rc.d.Internal {
		return push.Errorf(push.Malformed, "entries are marked as refused; only servers may do that")
	}
	// gRPC has read the body already; this makes it count.
	release, err := rc.d.Sink.Admit(ctx, int64(len(req.Body)))
	if err != nil {
		return err
	}
	defer release()
	releaseDecoded, err := rc.decode(ctx, req, b)
	if err != nil {
		return err
	}
	defer releaseDecoded()
	if err := ingestpb.Apply(b, req.Refused); err != nil {
		return push.Errorf(push.Malformed, "%v", err)
	}
	rc.bytes.Add(float64(len(b.Data)))
	rc.entries.Add(float64(len(b.Entries)))
	b.Tenant, b.Receiver = req.Tenant, rc.receiver(req.Receiver)
	copy(b.ID[:], req.PushId)
	ingestpb.Bury(b, req)
	return rc.d.Sink.Push(ctx, b)
}

// decode decompresses the body into b, in memory that it asks for.
func (rc *Receiver) decode(ctx context.Context, req *ingestpb.PushRequest, b *push.Batch) (release func(), err error) {
	n := len(req.Body)
	switch req.Codec {
	case ingestpb.Codec_CODEC_NONE:
	case ingestpb.Codec_CODEC_SNAPPY:
		if n, err = push.DecodedLen(req.Body); err != nil {
			return nil, push.Errorf(push.Malformed, "snappy: %v", err)
		}
	default:
		return nil, push.Errorf(push.Malformed, "unknown codec %d", req.Codec)
	}
	if n > int(rc.cfg.MaxDecodedSize) {
		return nil, rc.tooLarge()
	}
	// Entries of ordinary size take a quarter of their bytes.
	if release, err = rc.d.Sink.Admit(ctx, int64(n)+int64(n)/4); err != nil {
		return nil, err
	}
	if err = b.SetBody(req.Body, push.Codec(req.Codec), max(n, 1)); err != nil {
		release()
		if errors.Is(err, push.ErrTooLarge) {
			return nil, rc.tooLarge()
		}
		return nil, push.Errorf(push.Malformed, "%s", strings.TrimPrefix(err.Error(), "push: "))
	}
	return release, nil
}

func (rc *Receiver) tooLarge() error {
	return push.Errorf(push.BodyTooLarge, "decompressed push is larger than the limit of %d bytes", rc.cfg.MaxDecodedSize)
}

// receiver returns the protocol that the entries came by. Metrics have it as a
// label, so strangers have no free choice.
func (rc *Receiver) receiver(name string) string {
	if name == "fluentbit" || name != "" && rc.d.Internal {
		return name
	}
	return receiver
}

func peerOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}

// refusalLog writes one line a second at most; a client that is refused tends
// to be refused often. The metrics have the numbers.
type refusalLog struct {
	log    *slog.Logger
	mu     sync.Mutex
	last   time.Time
	silent int
}

func (l *refusalLog) note(ctx context.Context, err error) {
	l.mu.Lock()
	now := time.Now()
	if now.Sub(l.last) < time.Second {
		l.silent++
		l.mu.Unlock()
		return
	}
	silent := l.silent
	l.last, l.silent = now, 0
	l.mu.Unlock()
	text := err.Error()
	if len(text) > 500 {
		text = text[:500] + "..."
	}
	l.log.Warn("push refused", "receiver", receiver, "peer", peerOf(ctx), "err", text, "more", silent)
}
