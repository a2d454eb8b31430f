// Package flush is the Fluent Bit output loki-go without Fluent Bit: it turns
// chunks into pushes. Package fluentbit, around it, is the C side.
//
// One flush is one chunk: its records are mapped (see package mapping), pushed
// over gRPC, in a push for each tenant, and the answers waited for. There is no
// queue here; Fluent Bit has one, and it keeps a chunk until the Result says
// that it is stored:
//
//	OK     all that can be stored is durable; what was refused for good is logged
//	Retry  some of it is not stored, and may be later
//	Error  nothing of it can ever be stored; the reason is logged
//
// A push has an id made of its content and the tag, so that a chunk that is
// flushed again is recognised as the same and stored once. What a flush has
// settled, stored or refused, before it ended with Retry is not even sent again
// when the chunk comes back, as far as it is remembered.
//
// Servers keep what they refuse for good as dead letters, and so they do with
// records that are not log events, which are passed over, counted and logged;
// neither holds up the others.
//
// A push that fails for the moment is tried again within the flush for a while,
// as Fluent Bit comes back after 5 seconds at the earliest, and later each time.
// That is so for the first flush that fails; while there is trouble, flushes
// try once only, so that they do not add up to a standstill at Fluent Bit's end.
//
// An Output's Flush may be called concurrently. Close ends what is under way,
// with Retry, and waits for it.
package flush

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/plugins/grpcpush/pushclient"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/plugins/msgpack"
	"github.com/loki-go/loki-go/proto/push"
)

// Result is what Fluent Bit is told; the numbers are its own.
type Result int

// Results of a flush.
const (
	Error Result = 0
	OK    Result = 1
	Retry Result = 2
)

func (r Result) String() string { return [...]string{"error", "ok", "retry"}[r] }

// job is the label by which other Loki outputs of Fluent Bit mark their
// streams if nobody says otherwise.
const job = "fluent-bit"

// receiver names the protocol in batches.
const receiver = "fluentbit"

// pusher is what an Output needs of its client.
type pusher interface {
	Push(ctx context.Context, b *push.Batch) error
	Close() error
}

// Output is one [OUTPUT] section.
type Output struct {
	cfg     Config
	log     *slog.Logger
	mapper  *mapping.Mapper
	client  pusher
	work    sync.Pool // *work
	settled settled
	trouble atomic.Bool // the last push failed for the moment
	maxPush int

	failures *warn.Logger // of pushes that failed for the moment
	refusals *warn.Logger // of entries

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // guards closed, and wg.Add against it
	closed bool
	wg     sync.WaitGroup // flushes
}

// work is what one flush uses.
type work struct {
	events  msgpack.Events
	state   *mapping.State
	batches mapping.Batches
}

// New returns an Output. It connects when there is something to push.
func New(cfg Config, log *slog.Logger, version string) (*Output, error) {
	creds, err := newCredentials(cfg.Auth, cfg.Headers)
	if err != nil {
		return nil, err
	}
	o := pushclient.Options{Addresses: cfg.Addresses, UserAgent: "loki-go-fluentbit/" + version, Metadata: creds.metadata}
	if cfg.UseTLS {
		if o.TLS, err = cfg.TLS.Config(); err != nil {
			return nil, err
		}
	}
	client, err := pushclient.New(o)
	if err != nil {
		return nil, err
	}
	return newOutput(cfg, log, client)
}

func newOutput(cfg Config, log *slog.Logger, client pusher) (*Output, error) {
	m, err := mapping.New(cfg.Mapping, mapping.Limits{})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	o := &Output{cfg: cfg, log: log, mapper: m, client: client, maxPush: maxPush, failures: warn.New(log), refusals: warn.New(log)}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.work.New = func() any { return &work{state: m.Acquire()} }
	return o, nil
}

// Close makes flushes under way end with Retry, waits for them, and closes the
// connections. Later flushes are answered with Retry.
func (o *Output) Close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.cancel()
	o.wg.Wait()
	if err := o.client.Close(); err != nil {
		o.log.Warn("close connections", "err", err)
	}
}

func (o *Output) enter() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.wg.Add(1)
	return true
}

// Flush pushes the events in chunk, which must not change meanwhile and is not
// referred to afterwards. It returns within Config.Timeout.
func (o *Output) Flush(tag string, chunk []byte) (result Result) {
	if !o.enter() {
		return Retry
	}
	defer o.wg.Done()
	defer func() {
		if p := recover(); p != nil {
			o.log.Error("panic in a flush; please report it", "tag", tag, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			result = Retry
		}
	}()
	ctx, cancel := context.WithTimeout(o.ctx, o.cfg.Timeout)
	defer cancel()
	f := flush{o: o, ctx: ctx, tag: tag, w: o.work.Get().(*work)}
	f.run(chunk)
	o.put(f.w)
	result = f.result()
	o.settled.end(f.done, result == Retry)
	return result
}

// maxNodes bounds the records that work which is not in use keeps memory for.
const maxNodes = 16 << 10

// put keeps w for the next flush, unless it has grown very large, or a panic
// has left it in an unknown state (then put is not reached).
func (o *Output) put(w *work) {
	w.events.Reset(nil, 0)
	w.events.OnDrop = nil
	if cap(w.events.Record.Nodes) > maxNodes {
		o.mapper.Release(w.state)
		return
	}
	o.work.Put(w)
}
