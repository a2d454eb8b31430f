package testkit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
)

// Sender sends a batch and returns nil when it was acknowledged. A batch that
// is sent again has the same id and content. A Sender is for one goroutine.
type Sender interface {
	Send(ctx context.Context, id uint64, streams []Stream) error
	Close()
}

// SenderFunc is a Sender without a connection of its own.
type SenderFunc func(ctx context.Context, streams []Stream) error

func (f SenderFunc) Send(ctx context.Context, _ uint64, streams []Stream) error {
	return f(ctx, streams)
}
func (f SenderFunc) Close() {}

type forwardSender struct{ *ForwardClient }

func (f forwardSender) Send(ctx context.Context, id uint64, streams []Stream) error {
	return f.ForwardClient.Send(ctx, f.Batch(id, streams))
}

// ForwardSender returns a Sender over c.
func ForwardSender(c *ForwardClient) Sender { return forwardSender{c} }

// MappedArgs are the flags with which forward and JSON records of a Workload
// get the labels that its Loki pushes have.
const MappedArgs = "-mapping.label-keys=workload,stream"

// Workload sends unique lines over several connections for as long as it runs,
// sends a batch again until it is acknowledged, and knows afterwards what must
// be found, and what may be.
type Workload struct {
	Senders []Sender
	Lines   int           // per batch; 20 if 0
	Pause   time.Duration // between batches; none if 0
	Pad     int           // random letters at the end of each line, which hardly compress

	acked   atomic.Int64 // batches
	retries atomic.Int64
	mu      sync.Mutex
	lines   map[string]fate
	fatal   error
	from    int64
	last    atomic.Int64
}

type fate struct {
	ts     int64
	stream string
	acked  bool
}

// Selector selects all that workloads send.
const Selector = `{workload="chaos"}`

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"

// streamsPerBatch is small so that several connections meet in one stream.
const streamsPerBatch = 3

// Run sends until ctx ends.
func (w *Workload) Run(ctx context.Context) error {
	w.lines = map[string]fate{}
	w.from = time.Now().UnixNano()
	w.last.Store(w.from &^ 1)
	var wg sync.WaitGroup
	for i, s := range w.Senders {
		wg.Go(func() {
			defer s.Close()
			w.connection(ctx, i, s)
		})
	}
	wg.Wait()
	return w.fatal
}

// Acked returns the number of acknowledged batches, Retries how often one was
// sent again.
func (w *Workload) Acked() int64   { return w.acked.Load() }
func (w *Workload) Retries() int64 { return w.retries.Load() }

func (w *Workload) connection(ctx context.Context, conn int, s Sender) {
	rng := rand.New(rand.NewPCG(uint64(conn), 1))
	gen := loglines.New(uint64(conn))
	for batch := uint64(0); ctx.Err() == nil; batch++ {
		streams := w.batch(conn, batch, rng, gen)
		w.note(streams, false)
		if w.deliver(ctx, uint64(conn)<<32|batch, s, streams) {
			w.note(streams, true)
			w.acked.Add(1)
		}
		if w.Pause > 0 {
			time.Sleep(w.Pause)
		}
	}
}

// deliver sends until the batch is acknowledged (true) or ctx ends.
func (w *Workload) deliver(ctx context.Context, id uint64, s Sender, streams []Stream) bool {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		// A request of its own: what ctx ends is not half a batch, and a server
		// that hangs must not hang the test.
		one, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err := s.Send(one, id, streams)
		cancel()
		if err == nil {
			return true
		}
		var se *StatusError
		if errors.As(err, &se) && se.Status/100 == 4 && se.Status != 429 {
			w.fail(fmt.Errorf("a good batch was refused for ever: %w", err))
			return false
		}
		if ctx.Err() != nil {
			return false
		}
		w.retries.Add(1)
		time.Sleep(wait)
	}
}

func (w *Workload) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fatal == nil {
		w.fatal = err
	}
}

func (w *Workload) batch(conn int, batch uint64, rng *rand.Rand, gen *loglines.Generator) []Stream {
	lines := w.Lines
	if lines == 0 {
		lines = 20
	}
	streams := make([]Stream, streamsPerBatch)
	for i := range streams {
		streams[i].Labels = []Pair{{"stream", strconv.Itoa(rng.IntN(4) + 4*i)}, {"workload", "chaos"}}
	}
	for i := range lines {
		s := &streams[rng.IntN(len(streams))]
		// Times of all connections are different, odd (no receiver may take them
		// for those of a coarse clock), and close to each other.
		ts := w.last.Add(2+2*rng.Int64N(50_000)) | 1
		line := gen.AppendLine([]byte(fmt.Sprintf("c%d b%d i%d ", conn, batch, i)), conn, ts)
		for range w.Pad {
			line = append(line, letters[rng.IntN(len(letters))])
		}
		s.Entries = append(s.Entries, Entry{TS: ts, Line: string(line)})
	}
	full := streams[:0]
	for _, s := range streams {
		if len(s.Entries) > 0 {
			full = append(full, s)
		}
	}
	return full
}

func (w *Workload) note(streams []Stream, acked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range streams {
		for _, e := range s.Entries {
			w.lines[e.Line] = fate{e.TS, s.Labels[0].Value, acked}
		}
	}
}

// Check compares what c finds with what was sent: every line that was
// acknowledged before the call must be there once, in its stream, at its time;
// any other line at most once; and nothing that was not sent. It may be called
// while the workload runs. It returns the number of lines found, or the error
// of a query that was answered with one as a *QueryError.
func (w *Workload) Check(ctx context.Context, c *Client) (int, error) {
	acked := w.acknowledged()
	got, err := c.QueryAll(ctx, Selector, w.from, w.last.Load()+2)
	if err != nil {
		return 0, &QueryError{err}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	found := map[string]bool{}
	var problems problems
	for _, s := range got {
		name := ""
		for _, l := range s.Labels {
			if l.Name == "stream" {
				name = l.Value
			}
		}
		for _, e := range s.Entries {
			f, sent := w.lines[e.Line]
			switch {
			case !sent:
				problems.add("a line that nobody sent", e.Line)
			case found[e.Line]:
				problems.add("a line twice", e.Line)
			case f.ts != e.TS:
				problems.add(fmt.Sprintf("a line at %d, not at %d", e.TS, f.ts), e.Line)
			case f.stream != name:
				problems.add("a line in stream "+name, e.Line)
			}
			found[e.Line] = true
		}
	}
	for _, line := range acked {
		if !found[line] {
			problems.add("lost: an acknowledged line", line)
		}
	}
	return len(found), problems.err()
}

// QueryError is an error that a query was answered with: nothing is known to
// be missing.
type QueryError struct{ Err error }

func (e *QueryError) Error() string { return "query: " + e.Err.Error() }
func (e *QueryError) Unwrap() error { return e.Err }

func (w *Workload) acknowledged() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for line, f := range w.lines {
		if f.acked {
			out = append(out, line)
		}
	}
	return out
}

type problems struct {
	count int
	first string
}

func (p *problems) add(what, line string) {
	if p.count++; p.count <= 5 {
		p.first += fmt.Sprintf("\n%s: %.60q", what, line)
	}
}

func (p *problems) err() error {
	if p.count == 0 {
		return nil
	}
	return fmt.Errorf("%d problems:%s", p.count, p.first)
}
