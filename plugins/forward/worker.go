package forward

import (
	"errors"
	"fmt"
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
	batches  mapping.Batches // entries that have been mapped and not been pushed
	open     bool            // there are some, or dead letters
	events   msgpack.Events
	options  *options
	inflater inflater
	plain    []byte      // what has been decompressed
	held     reservation // for all that
	in       mapping.Input
	json     jsonWork

	part   int // of the message, for its push id
	mapped int // bytes that the message has become in earlier parts
	first  int // size of the batches before the message
	since  time.Time
	most   int                      // size of the largest push
	why    [msgpack.NumDrops]string // texts for the message's dead letters
}

func newWorker(st *mapping.State) *worker {
	w := &worker{st: st, options: newOptions(), in: mapping.Input{Job: job}}
	w.events.OnDrop = w.bury
	return w
}

func (c *conn) getWorker() *worker {
	if c.worker == nil {
		select {
		case c.worker = <-c.s.free:
		default:
			c.worker = c.s.workers.Get().(*worker)
		}
		c.worker.in.Tenant = c.tenant
	}
	return c.worker
}

const (
	// maxPooledNodes bounds the records that a free worker keeps memory for.
	maxPooledNodes = 16 << 10
	// maxFreeBatch is the size of batches up to which a worker stays at hand.
	maxFreeBatch = 4 << 20
)

func (c *conn) putWorker() {
	w := c.worker
	if w == nil {
		return
	}
	c.worker = nil
	w.discard()
	w.dropPlain(c.s)
	w.held.release()
	if cap(w.events.Record.Nodes) > maxPooledNodes || cap(w.json.rec.Nodes) > maxPooledNodes {
		c.s.d.Mapper.Release(w.st)
		return
	}
	w.events.Reset(nil, 0)
	w.in.Tag, w.in.Meta = nil, nil
	if w.most <= maxFreeBatch {
		select {
		case c.s.free <- w:
			return
		default:
		}
	}
	w.most = 0
	c.s.workers.Put(w)
}

func (w *worker) dropPlain(s *Server) {
	s.buffers.put(w.plain)
	w.plain = nil
}

// discard forgets the entries that have been mapped and not been pushed.
func (w *worker) discard() {
	w.batches.Reset()
	w.open = false
}

// begin notes that the batches get something.
func (w *worker) begin() {
	if !w.open {
		w.open, w.since = true, time.Now()
	}
}

// bury keeps what was passed over in a message, because nobody else will.
func (w *worker) bury(why msgpack.Drop, raw []byte) {
	if w.why[why] == "" {
		w.why[why] = fmt.Sprintf("no log event in a message with the tag %q: %s", w.in.Tag, why)
	}
	w.buryPiece(w.why[why], raw)
}

func (w *worker) buryPiece(why string, raw []byte) {
	w.begin()
	w.batches.Bury(w.in.Tenant, push.Malformed, why, raw)
}

// handle maps and stores one message, and acknowledges it.
func (c *conn) handle(p []byte) error {
	if c.json != nil {
		return c.handleJSON(p)
	}
	if p[0] == 0xc0 {
		return nil
	}
	w := c.getWorker()
	m, err := parseMessage(p, &c.frame, w.options)
	if err != nil {
		return malformed(err)
	}
	if m.signal != 0 {
		c.s.metrics.bytes.Add(float64(len(p)))
		c.s.metrics.signals.WithLabelValues(signalName(m.signal)).Inc()
		return c.confirm(&m)
	}
	if m.chunk != nil {
		// A batch with an id has the entries of one message only.
		if err := c.flush(); err != nil {
			return err
		}
	}
	if err = c.handleEvents(w, &m); err != nil {
		if m.chunk != nil {
			w.discard()
		}
		return err
	}
	return c.confirm(&m)
}

// handleEvents decompresses and stores the events of a message.
func (c *conn) handleEvents(w *worker, m *message) error {
	id := identify(m.chunk, m.tag, len(m.body))
	how, err := plain, error(nil)
	if m.mode == modePacked {
		how, err = detect(m.body, m.compressed)
	}
	if how != plain {
		m.mode = modeCompressed
		defer func() {
			w.dropPlain(c.s)
			w.held.release()
		}()
		packed := m.body
		if m.body, err = c.inflate(w, packed, how); err != nil {
			m.body = packed
		}
	}
	if err == nil {
		c.count(m.mode, len(m.raw))
		return c.store(w, m, identify(m.chunk, m.tag, len(m.body)))
	}
	if bad, ok := errors.AsType[*undecodable](err); ok {
		// It would be the same the next time.
		c.count(m.mode, len(m.raw))
		return c.buryBody(w, m, id, bad)
	}
	return err
}

// buryBody keeps the body of a packed message that cannot be decompressed.
func (c *conn) buryBody(w *worker, m *message, id identity, why *undecodable) error {
	w.message(m.tag)
	w.buryPiece(fmt.Sprintf("entries of a message with the tag %q are lost: %v", m.tag, why), m.body)
	c.s.metrics.dropped.WithLabelValues("undecodable").Inc()
	c.s.logs.Warn("entries cannot be decompressed", "peer", c.peer, "tag", string(m.tag), "bytes", len(m.body), "err", why)
	return c.finish(w, id)
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
// batches for more.
func (c *conn) store(w *worker, m *message, id identity) error {
	w.message(m.tag)
	ev := &w.events
	if m.mode == modeMessage {
		if ev.Single(m.raw, m.timeAt, m.recordAt, m.meta, c.now()) {
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
	w.part, w.mapped, w.first = 0, 0, w.batches.Size()
	w.why = [msgpack.NumDrops]string{}
}

// event maps the event in w.events.
func (c *conn) event(w *worker, id identity) error {
	w.in.TS, w.in.Meta = w.events.TS, w.events.Meta
	return c.add(w, &w.events.Record, id)
}

// add maps a record, and pushes what there is if that is much. A group's
// metadata and the tag are in each entry, so that a message can grow as it is
// mapped.
func (c *conn) add(w *worker, rec *mapping.Record, id identity) error {
	w.begin()
	if !w.st.Add(rec, &w.in, &w.batches) { // too many tenants for one push
		if err := c.pushPart(w, id); err != nil {
			return err
		}
		w.begin()
		w.st.Add(rec, &w.in, &w.batches)
	}
	size := w.batches.Size()
	if limit := int(c.s.cfg.MaxDecompressed); w.mapped+size-w.first > limit {
		return &closeError{reason: "too_large", err: fmt.Errorf("the entries of a message take more than %d bytes", limit)}
	}
	if size < partSize {
		return nil
	}
	return c.pushPart(w, id)
}

// pushPart pushes what has been mapped before the end of a message.
func (c *conn) pushPart(w *worker, id identity) error {
	w.mapped += w.batches.Size() - w.first
	w.first = 0
	return c.push(w, id)
}

// finish pushes what is left of a message, unless it can wait for the next one.
func (c *conn) finish(w *worker, id identity) error {
	if !w.open || id.chunk == nil && w.batches.Size() < togetherSize {
		return nil
	}
	return c.push(w, id)
}

// flush pushes what waits in the batches.
func (c *conn) flush() error {
	if c.worker == nil || !c.worker.open {
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
	c.s.logs.Warn("dropped what is no log event", "peer", c.peer, "tag", string(tag), "entries", n, "reasons", strings.Join(why, " "))
}
