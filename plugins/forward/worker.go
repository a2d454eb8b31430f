package forward

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/plugins/msgpack"
	"github.com/loki-go/loki-go/proto/push"
)

const job = "forward"

const (
	// partSize is how much of a large message is pushed at a time.
	partSize = 16 << 20
	// togetherSize is how much of small messages is.
	togetherSize = 1 << 20
)

// worker is what handling messages takes. A connection has one only while it
// handles some.
type worker struct {
	st       *mapping.State
	bl       *push.Builder
	batch    *push.Batch // that bl fills; nil: none
	events   msgpack.Events
	inflater inflater
	plain    []byte      // what has been decompressed
	held     reservation // for all that
	in       mapping.Input
	json     jsonWork

	part   uint32 // of the message, for its push id
	mapped int    // bytes that the message has become in earlier parts
	first  int    // size of the batch before the message
	since  time.Time
	most   int // largest batch so far
}

func newWorker(st *mapping.State) *worker {
	return &worker{st: st, bl: push.NewBuilder(nil), in: mapping.Input{Job: job}}
}

func (c *conn) getWorker() *worker {
	if c.worker == nil {
		c.worker = c.s.workers.Get().(*worker)
	}
	return c.worker
}

// maxPooledNodes bounds the records that a free worker keeps memory for.
const maxPooledNodes = 16 << 10

func (c *conn) putWorker() {
	w := c.worker
	if w == nil {
		return
	}
	c.worker = nil
	w.discard()
	w.dropPlain(c.s)
	w.held.release()
	if w.most > 2*partSize || cap(w.events.Record.Nodes) > maxPooledNodes || cap(w.json.rec.Nodes) > maxPooledNodes {
		c.s.d.Mapper.Release(w.st)
		return
	}
	w.events.Reset(nil, 0)
	w.in.Tag, w.in.Meta = nil, nil
	c.s.workers.Put(w)
}

func (w *worker) dropPlain(s *Server) {
	s.buffers.put(w.plain)
	w.plain = nil
}

// discard forgets the entries that have been mapped and not been pushed.
func (w *worker) discard() {
	if w.batch != nil {
		w.batch.Release()
		w.batch = nil
	}
}

// begin makes the builder ready for entries.
func (w *worker) begin() {
	if w.batch == nil {
		w.batch = push.Get()
		w.bl.Reset(w.batch)
		w.since = time.Now()
	}
}

// handle maps and stores one message, and acknowledges it.
func (c *conn) handle(p []byte) error {
	if c.json != nil {
		return c.handleJSON(p)
	}
	if p[0] == 0xc0 {
		return nil
	}
	m, err := parseMessage(p, &c.frame)
	if err != nil {
		return malformed(err)
	}
	if m.signal != 0 {
		c.s.metrics.bytes.Add(float64(len(p)))
		c.s.metrics.signals.WithLabelValues(signalName(m.signal)).Inc()
		return c.confirm(&m)
	}
	how := plain
	if m.mode == modePacked {
		if how, err = detect(m.body, m.compressed); err != nil {
			return malformed(err)
		}
		if how != plain {
			m.mode = modeCompressed
		}
	}
	if m.chunk != nil {
		// A batch with an id has the entries of one message only.
		if err := c.flush(); err != nil {
			return err
		}
	}
	w := c.getWorker()
	if how != plain {
		if m.body, err = c.inflate(w, m.body, how); err != nil {
			return err
		}
	}
	c.count(m.mode, len(p))
	if err = c.store(w, &m); err != nil && m.chunk != nil {
		w.discard()
	}
	if how != plain {
		w.dropPlain(c.s)
		w.held.release()
	}
	if err != nil {
		return err
	}
	return c.confirm(&m)
}

func (c *conn) count(m mode, size int) {
	c.s.metrics.messages.WithLabelValues(m.String()).Inc()
	c.s.metrics.bytes.Add(float64(size))
}

func signalName(n int64) string {
	switch n {
	case 1:
		return "metrics"
	case 2:
		return "traces"
	case 3:
		return "profiles"
	case 4:
		return "blobs"
	}
	return "other"
}

// confirm sends the ack that m asks for, if any.
func (c *conn) confirm(m *message) error {
	if m.chunk == nil {
		c.deaf = !c.asked
		return nil
	}
	c.asked, c.deaf = true, false
	c.ack = append(c.ack[:0], 0x81, 0xa3, 'a', 'c', 'k')
	c.ack = append(c.ack, m.chunk...)
	return c.writeAck(c.ack)
}

// store maps the events of m. When it returns nil and m has a chunk, all of
// them are durable or dropped for good; without a chunk they may wait in the
// batch for more.
func (c *conn) store(w *worker, m *message) error {
	id := identify(m.chunk, m.tag, len(m.body))
	w.message(m.tag)
	ev := &w.events
	if m.mode == modeMessage {
		if ev.Single(m.raw, m.timeAt, m.recordAt, m.metaAt, c.now()) {
			if err := c.event(w, id); err != nil {
				return err
			}
		}
	} else {
		for ev.Reset(m.body, c.now()); ev.Next(); {
			if err := c.event(w, id); err != nil {
				return err
			}
		}
	}
	c.dropped(ev, m.tag)
	return c.finish(w, id)
}

// message starts a message.
func (w *worker) message(tag []byte) {
	w.in.Tag, w.in.Meta = tag, nil
	w.part, w.mapped, w.first = 0, 0, 0
	if w.batch != nil {
		w.first = w.bl.Size()
	}
}

// event maps the event in w.events.
func (c *conn) event(w *worker, id identity) error {
	w.begin()
	w.in.TS, w.in.Meta = w.events.TS, w.events.Meta
	w.st.Map(&w.events.Record, &w.in, w.bl)
	return c.mapped(w, id)
}

// mapped pushes what has been mapped if that is much. A group's metadata and
// the tag are in each entry, so that a message can grow as it is mapped.
func (c *conn) mapped(w *worker, id identity) error {
	size := w.bl.Size()
	if limit := int(c.s.cfg.MaxDecompressed); w.mapped+size-w.first > limit {
		return &closeError{reason: "too_large", err: fmt.Errorf("the entries of a message take more than %d bytes", limit)}
	}
	if size < partSize {
		return nil
	}
	w.mapped += size - w.first
	w.first = 0
	return c.push(w, id)
}

// finish pushes what is left of a message, unless it can wait for the next one.
func (c *conn) finish(w *worker, id identity) error {
	if w.batch == nil || id.chunk == nil && w.bl.Size() < togetherSize {
		return nil
	}
	return c.push(w, id)
}

// flush pushes what waits in the batch.
func (c *conn) flush() error {
	if c.worker == nil || c.worker.batch == nil {
		return nil
	}
	return c.push(c.worker, identity{})
}

func (c *conn) now() int64 { return c.s.d.Now().UnixNano() }

// dropped counts and logs what has been passed over in a message.
func (c *conn) dropped(ev *msgpack.Events, tag []byte) {
	n := ev.Dropped()
	if g := ev.Drops[msgpack.DropGroup]; g > 0 {
		c.s.metrics.groups.Add(float64(g))
	} else if n == 0 {
		return
	}
	var why []string
	for d, k := range ev.Drops {
		if k == 0 {
			continue
		}
		name := msgpack.Drop(d).String()
		why = append(why, name+"="+strconv.Itoa(k))
		if msgpack.Drop(d) != msgpack.DropGroup {
			c.s.metrics.dropped.WithLabelValues(name).Add(float64(k))
		}
	}
	c.s.logs.warn("dropped what is no log event", "peer", c.peer, "tag", string(tag), "entries", n, "reasons", strings.Join(why, " "))
}

// identity is what the ids of a message's pushes are made of.
type identity struct {
	chunk []byte // nil: the message has no id
	tag   []byte
	size  int
}

func identify(chunk, tag []byte, size int) identity { return identity{chunk, tag, size} }

// push returns the id of a part of the message.
func (d identity) push(part uint32) (id push.ID) {
	if d.chunk == nil {
		return id
	}
	h := sha256.New()
	var n [8]byte
	for _, s := range [][]byte{d.chunk, d.tag} {
		binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write(s)
	}
	binary.LittleEndian.PutUint64(n[:], uint64(d.size))
	h.Write(n[:])
	binary.LittleEndian.PutUint32(n[:], part)
	h.Write(n[:4])
	copy(id[:], h.Sum(nil))
	return id
}

// push makes the batch durable. Its entries are stored or refused for good when
// the result is nil; the batch is gone in any case.
func (c *conn) push(w *worker, d identity) error {
	b := w.batch
	defer w.discard()
	w.most = max(w.most, w.bl.Size())
	w.bl.Finish()
	b.Tenant, b.Receiver, b.ID = c.tenant, job, d.push(w.part)
	w.part++
	entries := len(b.Entries)
	err := c.pushUntil(b, d.chunk != nil)
	if err == nil {
		c.s.metrics.seconds.Observe(time.Since(w.since).Seconds())
		return nil
	}
	if d.chunk == nil {
		c.s.metrics.dropped.WithLabelValues("shutdown").Add(float64(entries))
		c.s.d.Log.Error("entries lost: they could not be stored before the shutdown", "peer", c.peer, "entries", entries, "err", err)
		return errShutdown
	}
	return &closeError{reason: "not_stored", err: fmt.Errorf("a message could not be stored, it is not acknowledged: %w", err)}
}

// Pauses between tries.
const (
	minPause = 50 * time.Millisecond
	maxPause = 5 * time.Second
)

// pushUntil pushes b again and again, as long as that may help: with an ack
// wanted, for Config.Hold, else until the server must end.
func (c *conn) pushUntil(b *push.Batch, wanted bool) error {
	giveUp := time.Now().Add(c.s.cfg.Hold)
	entries := len(b.Entries) // the sink may take refused ones out
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := c.s.d.Sink.Push(c.s.ctx, b)
		if err == nil {
			c.s.metrics.stored.Add(float64(entries))
			return nil
		}
		if c.refused(entries, err) {
			return nil
		}
		wait := retryAfter(err, pause)
		switch end := time.Now().Add(wait); {
		case c.s.ctx.Err() != nil, wanted && end.After(giveUp), c.s.draining() && end.After(c.s.drainBy):
			return err
		}
		c.s.metrics.retries.Inc()
		c.s.logs.warn("push failed, it is tried again", "peer", c.peer, "entries", entries, "wait", wait, "err", err)
		c.s.sleep(wait)
	}
}

// retryAfter returns how long to wait: as long as err asks for, or pause, with
// some chance in it so that connections do not come back all at once.
func retryAfter(err error, pause time.Duration) time.Duration {
	var e *push.Error
	if errors.As(err, &e) && e.RetryAfter > pause {
		pause = e.RetryAfter
	}
	return pause + rand.N(pause/4+1)
}

// refused counts and logs which of n entries have been refused for good; false
// if err does not say that of any.
func (c *conn) refused(n int, err error) bool {
	var some *push.Rejected
	var all *push.Error
	switch {
	case errors.As(err, &some):
		c.s.metrics.stored.Add(float64(n - min(n, some.Entries)))
		for _, g := range some.Groups {
			c.s.metrics.refused.WithLabelValues(g.Reason.String()).Add(float64(g.Count))
		}
		n = some.Entries
	case errors.As(err, &all) && !all.Reason.Retryable() && all.Reason != push.NoTenant:
		// That no tenant is set is a mistake on this side; until it is mended
		// clients keep what they have.
		c.s.metrics.refused.WithLabelValues(all.Reason.String()).Add(float64(n))
	default:
		return false
	}
	c.s.logs.warn("entries refused for good, they are acknowledged", "peer", c.peer, "entries", n, "err", err)
	return true
}
