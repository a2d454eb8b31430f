package cluster

import (
	"context"
	"crypto/subtle"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/storage/chunk"
)

// Ingester is what a Server stands in front of.
type Ingester interface {
	Push(ctx context.Context, b *push.Batch) error
	Peer
	Source
}

// Source is where entries can be read; see package query for what its methods
// promise.
type Source interface {
	Select(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error)
	LabelSets(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]labels.Labels, error)
}

// Filter leaves out of blocks the entries of which a query makes nothing. It
// serves one goroutine.
type Filter interface {
	// Load appends to dst what the query has a use for in a block of a stream. The
	// symbols are valid until the next call.
	Load(dst []byte, stream labels.Labels, ref chunk.BlockRef) (chunk.Filtered, error)
}

// ServerDeps is what a Server needs.
type ServerDeps struct {
	Ingester Ingester
	// Filter makes the filter that a query sends, for [from, through) in ns. Nil,
	// or an error: the query gets all entries.
	Filter  func(filter string, from, through int64) (Filter, error)
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none
}

// Server answers gateways and queriers for an ingester.
type Server struct {
	ingestpb.UnimplementedIngesterServer
	ing      Ingester
	d        ServerDeps
	cfg      Config
	inflight *semaphore.Weighted
	selects  *semaphore.Weighted
	filters  *semaphore.Weighted // that run
	m        *serverMetrics
	wg       sync.WaitGroup
	drained  chan struct{} // closed by Drain
	drain    sync.Once
}

// NewServer returns a Server. cfg must be valid.
func NewServer(d ServerDeps, cfg Config) (*Server, error) {
	s := &Server{
		ing: d.Ingester, d: d, cfg: cfg,
		inflight: semaphore.NewWeighted(int64(cfg.MaxInflight)),
		selects:  semaphore.NewWeighted(int64(cfg.MaxSelects)),
		// More would only be in memory at the same time.
		filters: semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0))),
		drained: make(chan struct{}),
	}
	var err error
	s.m, err = newServerMetrics(d.Metrics)
	return s, err
}

// Register adds the service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) { ingestpb.RegisterIngesterServer(r, s) }

// Methods are those of the service.
func Methods() []string {
	return []string{
		ingestpb.Ingester_Replicate_FullMethodName, ingestpb.Ingester_Select_FullMethodName, ingestpb.Ingester_LabelSets_FullMethodName,
		ingestpb.Ingester_Covered_FullMethodName, ingestpb.Ingester_StoreFor_FullMethodName,
	}
}

// Drain ends the calls for pushes, which last for as long as both sides live,
// when those that have come are stored. New ones end at once.
func (s *Server) Drain() { s.drain.Do(func() { close(s.drained) }) }

// allowed refuses who does not know the secret.
func (s *Server) allowed(ctx context.Context) error {
	if s.cfg.Secret == "" {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	for _, shown := range md.Get(secretKey) {
		if subtle.ConstantTimeCompare([]byte(shown), []byte(s.cfg.Secret)) == 1 {
			return nil
		}
	}
	return status.Error(codes.PermissionDenied, "cluster.secret is missing or another one")
}

// secretKey is where a call has the secret.
const secretKey = "loki-go-cluster-secret"

// Wait returns when nothing of calls is left. The gRPC server must have been
// stopped, and made with grpc.WaitForHandlers.
func (s *Server) Wait() { s.wg.Wait() }

// maxAtOnce is how many pushes of one call are being stored at a time.
const maxAtOnce = 1024

// pushCall is the other side of Replicate.
type pushCall = grpc.BidiStreamingServer[ingestpb.Replications, ingestpb.ReplicationResults]

// Replicate implements the service.
func (s *Server) Replicate(stream pushCall) error {
	if err := s.allowed(stream.Context()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	out := newOutbox()
	var pushes, sender sync.WaitGroup
	sender.Go(func() {
		if !out.sendAll(stream) {
			cancel() // nobody learns what becomes of more
		}
	})
	err := s.receive(ctx, stream, out, &pushes)
	pushes.Wait()
	out.close()
	sender.Wait()
	return err
}

// receive has pushes stored until there are no more.
func (s *Server) receive(ctx context.Context, stream pushCall, out *outbox, pushes *sync.WaitGroup) error {
	messages, failed := make(chan []*ingestpb.Replication), make(chan error, 1)
	s.wg.Go(func() { failed <- receiveAll(ctx, stream, messages) }) // ends with the call
	slots := make(chan struct{}, maxAtOnce)
	for {
		select {
		case items := <-messages:
			for _, item := range items {
				size, err := s.enter(ctx, item, slots)
				if err != nil {
					return err
				}
				pushes.Go(func() {
					defer func() {
						s.inflight.Release(size)
						<-slots
					}()
					out.add(s.store(ctx, item))
				})
			}
		case err := <-failed:
			return err
		case <-s.drained:
			return nil
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// receiveAll receives messages until there are no more.
func receiveAll(ctx context.Context, stream pushCall, messages chan<- []*ingestpb.Replication) error {
	var large []byte // pieces of a push that does not fit in a message
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		items := msg.Items
		if len(msg.Piece) > 0 {
			if large = append(large, msg.Piece...); len(large) > maxPush {
				return status.Errorf(codes.InvalidArgument, "a push has more than %d bytes", maxPush)
			}
			if msg.More {
				continue
			}
			whole := new(ingestpb.Replications)
			if err := proto.Unmarshal(large, whole); err != nil {
				return status.Errorf(codes.InvalidArgument, "the pieces of a push are none: %v", err)
			}
			items, large = append(items, whole.Items...), nil
		}
		select {
		case messages <- items:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// enter waits until there is room for a push. Meanwhile nothing is received,
// which the client notices in the end.
func (s *Server) enter(ctx context.Context, item *ingestpb.Replication, slots chan struct{}) (size int64, err error) {
	body := item.GetPush().GetBody()
	size = int64(len(body))
	if n, err := push.DecodedLen(body); err == nil {
		size += int64(n) + int64(n)/4
	}
	size = min(size, int64(s.cfg.MaxInflight))
	if err := s.inflight.Acquire(ctx, size); err != nil {
		return 0, status.FromContextError(err).Err()
	}
	select {
	case slots <- struct{}{}:
		return size, nil
	case <-ctx.Done():
		s.inflight.Release(size)
		return 0, status.FromContextError(ctx.Err()).Err()
	}
}

// store stores one push and returns the answer.
func (s *Server) store(ctx context.Context, item *ingestpb.Replication) *ingestpb.ReplicationResult {
	if item.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(item.Timeout))
		defer cancel()
	}
	b := push.Get()
	defer b.Release()
	err := fill(b, item)
	if err == nil {
		err = s.ing.Push(ctx, b)
	}
	result := &ingestpb.ReplicationResult{Number: item.Number}
	var some *push.Rejected
	switch {
	case err == nil || errors.As(err, &some):
		result.Response = ingestpb.NewResponse(b, some)
	default:
		result.Failure = failure(err)
	}
	s.m.pushed(result)
	return result
}

// fill makes b the push that item is.
func fill(b *push.Batch, item *ingestpb.Replication) error {
	p := item.Push
	if p == nil {
		return push.Errorf(push.Malformed, "a message has no push")
	}
	if len(p.PushId) != 0 && len(p.PushId) != len(push.ID{}) {
		return push.Errorf(push.Malformed, "push_id has %d bytes; it must have %d or none", len(p.PushId), len(push.ID{}))
	}
	if err := b.SetBody(p.Body, push.Codec(p.Codec), push.MaxData); err != nil {
		return push.Errorf(push.Malformed, "%v", err)
	}
	if err := ingestpb.Apply(b, p.Refused); err != nil {
		return push.Errorf(push.Malformed, "%v", err)
	}
	if len(item.Labels) > len(b.Streams) {
		return push.Errorf(push.Malformed, "labels of %d streams, of which there are %d", len(item.Labels), len(b.Streams))
	}
	b.Tenant, b.Receiver = p.Tenant, p.Receiver
	copy(b.ID[:], p.PushId)
	b.Part = push.Part{Gateway: item.Gateway, Number: item.Part}
	for i := range b.Streams {
		st := &b.Streams[i]
		if st.Reject != push.OK {
			continue
		}
		if i < len(item.Labels) {
			st.Labels = item.Labels[i]
		}
		if st.Labels == "" {
			st.Labels = string(b.Bytes(st.RawLabels))
		}
		st.Token = labels.Token(b.Tenant, st.Labels)
	}
	return nil
}

func failure(err error) *ingestpb.Failure {
	f := &ingestpb.Failure{Reason: push.Internal.String(), Message: text(err.Error())}
	var e *push.Error
	switch {
	case errors.As(err, &e):
		f.Reason, f.RetryAfter = e.Reason.String(), int64(e.RetryAfter)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f.Reason = push.Overloaded.String()
	}
	return f
}

// outbox has the answers of a call that are to be sent.
type outbox struct {
	mu     sync.Mutex
	ready  sync.Cond
	items  []*ingestpb.ReplicationResult
	closed bool
}

func newOutbox() *outbox {
	o := &outbox{}
	o.ready.L = &o.mu
	return o
}

func (o *outbox) add(r *ingestpb.ReplicationResult) {
	o.mu.Lock()
	o.items = append(o.items, r)
	o.mu.Unlock()
	o.ready.Signal()
}

func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.ready.Signal()
}

func (o *outbox) take() []*ingestpb.ReplicationResult {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.items) == 0 && !o.closed {
		o.ready.Wait()
	}
	items := o.items
	o.items = nil
	return items
}

// sendAll sends answers until the outbox is closed, those that have come
// together in one message. It returns false if that failed.
func (o *outbox) sendAll(stream pushCall) bool {
	ok := true
	for {
		items := o.take()
		if items == nil {
			return ok
		}
		ok = ok && stream.Send(&ingestpb.ReplicationResults{Items: items}) == nil
		if !ok {
			return false
		}
	}
}
