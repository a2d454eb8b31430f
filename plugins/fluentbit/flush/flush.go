// Package flush is the Fluent Bit output loki-go without Fluent Bit: it turns
// chunks into pushes. Package fluentbit, around it, is the C side.
//
// One flush is one chunk: its records are mapped (see package mapping), pushed
// over gRPC, and the answer waited for. There is no queue here; Fluent Bit has
// one, and it keeps a chunk until the Result says that it is stored:
//
//	OK     all that can be stored is durable; what was refused for good is logged
//	Retry  some of it is not stored, and may be later
//	Error  nothing of it can ever be stored; the reason is logged
//
// A push has an id made of its content, so that a chunk that is flushed again
// is recognised as the same and stored once.
//
// Records that are not log events are passed over, counted and logged; they do
// not hold up the others. Labels of Config replace those of the same name that
// mapping makes.
//
// An Output's Flush may be called concurrently. Close ends what is under way,
// with Retry, and waits for it.
package flush

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
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

// maxPush is the size at which a chunk goes in several pushes. Chunks are 2 MB
// by default; a server takes 16 MiB compressed.
const maxPush = 8 << 20

// pusher is what an Output needs of its client.
type pusher interface {
	Push(ctx context.Context, b *push.Batch) error
	Close() error
}

// Output is one [OUTPUT] section.
type Output struct {
	cfg    Config
	log    *slog.Logger
	mapper *mapping.Mapper
	client pusher
	work   sync.Pool // *work
	quiet  quiet

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // guards closed, and wg.Add against it
	closed bool
	wg     sync.WaitGroup // flushes
}

// work is what one flush uses.
type work struct {
	events msgpack.Events
	state  *mapping.State
	bl     *push.Builder
	merged map[string]string // label texts with Config.Labels in them, by the text without
}

// maxMerged bounds the memory of label texts.
const maxMerged = 10_000

// New returns an Output. It connects when there is something to push.
func New(cfg Config, log *slog.Logger, version string) (*Output, error) {
	client, err := pushclient.New(pushclient.Options{Addresses: cfg.Addresses, UserAgent: "loki-go-fluentbit/" + version})
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
	o := &Output{cfg: cfg, log: log, mapper: m, client: client}
	o.quiet.log = log
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.work.New = func() any {
		return &work{state: m.Acquire(), bl: push.NewBuilder(nil), merged: make(map[string]string)}
	}
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
	if n := f.dropped; n > 0 {
		o.log.Warn("chunk has entries that are not log events; they are lost", "tag", tag, "entries", n, "why", f.why)
	}
	return f.result()
}

// put keeps w for the next flush, unless it has grown very large, or a panic
// has left it in an unknown state (then put is not reached).
func (o *Output) put(w *work) {
	w.events.Reset(nil, 0)
	if len(w.merged) > maxMerged {
		clear(w.merged)
	}
	o.work.Put(w)
}

// flush is one chunk on its way.
type flush struct {
	o   *Output
	ctx context.Context
	tag string
	w   *work

	stored  bool
	retry   bool
	refused bool
	dropped int
	why     string
}

func (f *flush) run(chunk []byte) {
	w := f.w
	b := push.Get()
	defer func() { b.Release() }()
	w.bl.Reset(b)
	in := mapping.Input{Job: job, Tag: []byte(f.tag)}
	ev := &w.events
	for ev.Reset(chunk, time.Now().UnixNano()); ev.Next(); {
		in.TS, in.Meta = ev.TS, ev.Meta
		w.state.Map(&ev.Record, &in, w.bl)
		if w.bl.Size() >= maxPush {
			if f.push(); f.retry {
				return // what is left comes again with the rest
			}
			b.Release()
			b = push.Get()
			w.bl.Reset(b)
		}
	}
	if w.bl.Len() > 0 {
		f.push()
	}
	if f.dropped = ev.Dropped(); f.dropped > 0 {
		f.why = reasons(ev)
	}
}

func reasons(ev *msgpack.Events) string {
	var out []string
	for d, n := range ev.Drops {
		if n > 0 {
			out = append(out, fmt.Sprintf("%s: %d", msgpack.Drop(d), n))
		}
	}
	return strings.Join(out, ", ")
}

// push sends what the builder has and notes the answer.
func (f *flush) push() {
	w := f.w
	if len(f.o.cfg.Labels) > 0 {
		w.bl.MapLabels(w.withLabels(f.o.cfg.Labels))
	}
	b := w.bl.Finish()
	b.Tenant, b.Receiver = f.o.cfg.Tenant, receiver
	b.ID = idOf(b)
	err := f.o.client.Push(f.ctx, b)
	var rejected *push.Rejected
	var refusal *push.Error
	switch {
	case err == nil:
		f.stored = true
	case errors.As(err, &rejected):
		if rejected.Entries < rejected.Total {
			f.stored = true
		}
		if rejected.Retryable() {
			f.retry = true
			f.o.quiet.warn("server refused a part for now; the chunk will be sent again", "tag", f.tag, "err", err)
			return
		}
		f.refused = true
		for _, g := range rejected.Groups {
			f.o.log.Error("entries refused for good; they are lost", "tag", f.tag, "reason", g.Reason.String(),
				"entries", g.Count, "of", rejected.Total, "stream", g.Stream, "first", g.First)
		}
	case errors.As(err, &refusal) && permanent(refusal.Reason):
		f.refused = true
		f.o.log.Error("push refused for good; its entries are lost", "tag", f.tag, "reason", refusal.Reason.String(),
			"entries", len(b.Entries), "err", err)
	default:
		f.retry = true
		f.o.quiet.warn("push failed; the chunk will be sent again", "tag", f.tag, "err", err)
	}
}

// permanent reports whether sending the same again is useless. A tenant that
// is missing is the fault of a configuration, here or there, that somebody is
// about to correct: the logs are worth keeping until then.
func permanent(r push.Reason) bool { return !r.Retryable() && r != push.NoTenant }

func (f *flush) result() Result {
	switch {
	case f.retry:
		return Retry
	case f.stored:
		return OK
	case f.refused || f.dropped > 0:
		return Error
	}
	return OK // there was nothing to store
}

// idOf makes an id of what a batch says: tenant, labels, times, lines,
// metadata. Two batches of one id would be one for a query as well.
func idOf(b *push.Batch) push.ID {
	h := sha256.New()
	h.Write(append([]byte(b.Tenant), 0))
	h.Write(b.Data)
	return push.ID(h.Sum(nil)[:16])
}

// withLabels returns a function that puts ls into a label text.
func (w *work) withLabels(ls labels.Labels) func(string) string {
	return func(text string) string {
		if out, ok := w.merged[text]; ok {
			return out
		}
		out := merge(text, ls)
		w.merged[text] = out
		return out
	}
}

// merge puts ls into a label text, in the place of labels with their names.
func merge(text string, ls labels.Labels) string {
	old, err := labels.Parse(text)
	if err != nil { // mapping makes canonical texts only; the server says more
		return text
	}
	out := append(labels.Labels{}, ls...)
	for _, l := range old {
		if ls.Get(l.Name) == "" {
			out = append(out, l)
		}
	}
	out.Sort()
	return out.String()
}

// quiet logs what is said over and over once in a while only.
type quiet struct {
	log    *slog.Logger
	mu     sync.Mutex
	last   time.Time
	silent int
}

// repeatAfter is how long a line of a kind that repeats is not repeated.
const repeatAfter = 5 * time.Second

func (q *quiet) warn(msg string, args ...any) {
	q.mu.Lock()
	now := time.Now()
	if !q.last.IsZero() && now.Sub(q.last) < repeatAfter {
		q.silent++
		q.mu.Unlock()
		return
	}
	silent := q.silent
	q.last, q.silent = now, 0
	q.mu.Unlock()
	q.log.Warn(msg, append(args, "more", silent)...)
}
