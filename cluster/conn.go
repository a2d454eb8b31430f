package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/ring"
)

// conn is a connection to one start of an instance. It implements
// gateway.Replica.
type conn struct {
	in     ring.Instance
	cfg    Config
	cc     *grpc.ClientConn
	client ingestpb.IngesterClient
	m      *clientMetrics
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // there is something in queue
	number atomic.Uint64 // of the last push

	mu      sync.Mutex
	closed  bool
	queue   []*sending // to be sent, oldest first
	queued  int        // bytes in it
	waiting map[uint64]*sending
}

// sending is a push that waits for its answer.
type sending struct {
	number uint64
	data   []byte // an encoded ingestpb.Replications; nil once it is sent
	answer chan *ingestpb.ReplicationResult
}

func newConn(in ring.Instance, cfg Config, cc *grpc.ClientConn, m *clientMetrics) *conn {
	c := &conn{
		in: in, cfg: cfg, cc: cc, client: ingestpb.NewIngesterClient(cc), m: m,
		wake: make(chan struct{}, 1), waiting: make(map[uint64]*sending),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.wg.Go(c.run)
	return c
}

// close ends the connection; pushes under way fail.
func (c *conn) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.cc.Close()
	c.wg.Wait()
	c.fail()
}

// failed makes an error that names the instance. What the other side says, a
// *push.Error, stays one.
func (c *conn) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if ingestpb.FromServer(err) {
		return ingestpb.Error(err)
	}
	if s, ok := status.FromError(err); ok {
		return fmt.Errorf("instance %s at %s: %s: %s", c.in.ID, c.in.Addr, s.Code(), s.Message())
	}
	return fmt.Errorf("instance %s at %s: %w", c.in.ID, c.in.Addr, err)
}

// Push stores b in the instance; see docs/architecture.md for what it returns.
// An error that is no *push.Error means that nothing is known.
func (c *conn) Push(ctx context.Context, b *push.Batch) error {
	s := &sending{answer: make(chan *ingestpb.ReplicationResult, 1)}
	if err := c.send(ctx, b, s); err != nil {
		return err
	}
	select {
	case r := <-s.answer:
		return c.answered(b, r)
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, s.number)
		c.mu.Unlock()
		return fmt.Errorf("instance %s at %s: %w", c.in.ID, c.in.Addr, context.Cause(ctx))
	}
}

// send queues b.
func (c *conn) send(ctx context.Context, b *push.Batch, s *sending) error {
	item, err := replication(b)
	if err != nil {
		return push.Errorf(push.Internal, "%v", err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		item.Timeout = max(1, int64(time.Until(deadline)))
	}
	s.number = c.number.Add(1)
	item.Number = s.number
	s.data, err = proto.Marshal(&ingestpb.Replications{Items: []*ingestpb.Replication{item}})
	if err != nil {
		return push.Errorf(push.Internal, "%v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return c.failed(ctx, errors.New("it has left the ring"))
	case c.queued > 0 && c.queued+len(s.data) > int(c.cfg.MaxQueued):
		return c.failed(ctx, fmt.Errorf("%d bytes wait for it already, of cluster.max-queued", c.queued))
	}
	c.waiting[s.number] = s
	c.queue = append(c.queue, s)
	c.queued += len(s.data)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

func replication(b *push.Batch) (*ingestpb.Replication, error) {
	p, err := ingestpb.NewRequest(b)
	if err != nil {
		return nil, err
	}
	item := &ingestpb.Replication{Push: p, Gateway: b.Part.Gateway, Part: b.Part.Number}
	for i := range b.Streams {
		st := &b.Streams[i]
		if st.Reject != push.OK || string(b.Bytes(st.RawLabels)) == st.Labels {
			continue
		}
		if item.Labels == nil {
			item.Labels = make([]string, len(b.Streams))
		}
		item.Labels[i] = st.Labels
	}
	return item, nil
}

func (c *conn) answered(b *push.Batch, r *ingestpb.ReplicationResult) error {
	if r == nil {
		return c.failed(context.Background(), errors.New("the connection broke"))
	}
	if f := r.Failure; f != nil {
		reason := push.ReasonByName(f.Reason)
		if reason == push.OK {
			reason = push.Internal
		}
		return &push.Error{Reason: reason, Msg: f.Message, RetryAfter: min(max(0, time.Duration(f.RetryAfter)), time.Hour)}
	}
	rej := r.Response.Rejected()
	if rej == nil {
		return nil
	}
	if err := ingestpb.Apply(b, r.Response.Refused); err != nil {
		return c.failed(context.Background(), err)
	}
	return rej
}

// run keeps a call for the pushes that are queued, as long as there are any.
func (c *conn) run() {
	for {
		select {
		case <-c.wake:
		case <-c.ctx.Done():
			return
		}
		c.call()
		c.fail()
	}
}

// call sends what is queued until that fails.
func (c *conn) call() {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	stream, err := c.cc.NewStream(ctx, &replicateDesc, ingestpb.Ingester_Replicate_FullMethodName,
		grpc.ForceCodecV2(codec{}), grpc.MaxCallSendMsgSize(maxPush), grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		c.m.broken.Inc()
		return
	}
	var receiver sync.WaitGroup
	receiver.Go(func() {
		defer cancel()
		c.receive(stream)
	})
	for {
		batch := c.take()
		if len(batch) == 0 {
			select {
			case <-c.wake:
				continue
			case <-ctx.Done():
			}
			break
		}
		if err := c.write(stream, batch); err != nil {
			break
		}
	}
	cancel()
	receiver.Wait()
	c.m.broken.Inc()
}

// take takes from the queue what goes into the next message.
func (c *conn) take() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch [][]byte
	size, n := 0, 0
	for _, s := range c.queue {
		if size > 0 && size+len(s.data) > together {
			break
		}
		n++
		c.queued -= len(s.data)
		if c.waiting[s.number] == s { // else nobody does
			batch = append(batch, s.data)
			size += len(s.data)
		}
		s.data = nil
	}
	clear(c.queue[:n])
	if c.queue = c.queue[n:]; len(c.queue) == 0 {
		c.queue = nil
	}
	if n > 0 && batch == nil && c.queue != nil {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return batch
}

// write sends one message, or several if the one push that it is for is large.
func (c *conn) write(stream grpc.ClientStream, batch [][]byte) error {
	c.m.messages.Inc()
	c.m.pushes.Add(float64(len(batch)))
	if len(batch[0]) <= maxMessage {
		return stream.SendMsg(rawMessage(batch))
	}
	for rest := batch[0]; ; {
		piece := rest[:min(len(rest), maxMessage)]
		rest = rest[len(piece):]
		if err := stream.SendMsg(rawMessage{pieceHead(piece, len(rest) > 0), piece}); err != nil || len(rest) == 0 {
			return err
		}
	}
}

func (c *conn) receive(stream grpc.ClientStream) {
	for {
		msg := new(ingestpb.ReplicationResults)
		if err := stream.RecvMsg(msg); err != nil {
			return
		}
		c.mu.Lock()
		for _, r := range msg.Items {
			if s := c.waiting[r.Number]; s != nil && (r.Response != nil || r.Failure != nil) {
				delete(c.waiting, r.Number)
				s.answer <- r
			}
		}
		c.mu.Unlock()
	}
}

// fail ends all pushes: nobody will answer them.
func (c *conn) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, s := range c.waiting {
		delete(c.waiting, n)
		s.answer <- nil
	}
	c.queue, c.queued = nil, 0
}

// rawMessage is an encoded message, in pieces.
type rawMessage [][]byte

// codec sends rawMessages and receives what protobuf has.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(rawMessage)
	if !ok {
		return nil, status.Errorf(codes.Internal, "cluster: %T is no message", v)
	}
	out := make(mem.BufferSlice, len(m))
	for i := range m {
		out[i] = mem.SliceBuffer(m[i])
	}
	return out, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "cluster: %T is no message", v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return proto.Unmarshal(buf.ReadOnlyData(), m)
}
