package httpjson

import (
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/plugins/msgpack"
	"github.com/loki-go/loki-go/proto/push"
)

// work is memory that one request after the other uses.
type work struct {
	body    []byte // of the request, or the piece of it that is worked on
	form    []byte // decoded form fields
	stream  mapping.Stream
	rec     mapping.Record
	events  msgpack.Events
	flb     flbWork
	st      *mapping.State
	batches mapping.Batches
	in      mapping.Input
	hash    xxhash.Digest
}

// works is a pool of work with states of one mapper.
type works struct {
	mapper *mapping.Mapper
	pool   sync.Pool
}

func (p *works) get() *work {
	if w, ok := p.pool.Get().(*work); ok {
		return w
	}
	return &work{st: p.mapper.Acquire()}
}

// What a work may keep allocated in the pool.
const (
	maxPooledBody  = 8 << 20
	maxPooledNodes = 16 << 10
)

func (p *works) put(w *work) {
	w.batches.Reset()
	w.in = mapping.Input{}
	if cap(w.body) > maxPooledBody || cap(w.form) > maxPooledBody || cap(w.rec.Nodes) > maxPooledNodes ||
		cap(w.events.Record.Nodes) > maxPooledNodes || w.flb.size() > maxPooledNodes {
		p.mapper.Release(w.st)
		return
	}
	w.events.Reset(nil, 0)
	w.events.OnDrop = nil
	p.pool.Put(w)
}

// partSize is how much of a request is pushed at a time where the parts need
// not be refused together.
const partSize = 16 << 20

// request is one that is being served.
type request struct {
	*work
	h   *handler
	req *http.Request
	out outcome

	arrival int64 // time of the next event that has none
	untimed bool  // an event of the present part had none
	part    int   // how often there was a push
	pushed  int   // events in all of them
	size    int   // and their size
}

// ingest reads, maps and pushes the events of req.
func (h *handler) ingest(req *http.Request) outcome {
	ctx := req.Context()
	var held []func()
	defer func() {
		for _, release := range held {
			release()
		}
	}()
	works := &h.works[h.agent]
	w := works.get()
	defer works.put(w)
	r := &request{work: w, h: h, req: req, arrival: h.d.Now().UnixNano()}
	r.in = mapping.Input{Job: h.job, Tenant: req.Header.Get(httpbody.TenantHeader), Tag: h.tag(req)}
	o := httpbody.Options{
		MaxWire: int64(h.cfg.MaxBody), MaxDecoded: int64(h.cfg.MaxDecoded),
		Admit: func(n int64) error {
			release, err := h.d.Sink.Admit(ctx, n)
			if err == nil {
				held = append(held, release)
			}
			return err
		},
	}
	r.run(o)
	return r.out
}

// tag returns what a header says is the tag.
func (h *handler) tag(req *http.Request) []byte {
	for _, name := range h.cfg.TagHeaders {
		if tag := req.Header.Get(name); tag != "" {
			return []byte(tag)
		}
	}
	return nil
}

func (r *request) run(o httpbody.Options) {
	var err error
	if !r.h.keep {
		if r.body, err = o.Read(r.req, r.body[:0]); err != nil {
			r.out.err = err
			return
		}
		r.whole()
		return
	}
	p, err := o.Pieces(r.req, int64(r.h.cfg.MaxRequest))
	if err != nil {
		r.out.err = err
		return
	}
	defer p.Close()
	switch r.body, err = p.Fill(r.body[:0]); {
	case err == io.EOF:
		r.whole()
	case err != nil:
		r.out.err = err
	default:
		r.large(p)
	}
}

// whole maps and pushes what is in r.body, which is all of it.
func (r *request) whole() {
	r.out.bytes = len(r.body)
	switch r.format() {
	case formatNone:
	case formatLines:
		r.json(true)
	case formatMsgpack:
		r.msgpack()
	case formatText:
		r.text()
	case formatForm:
		r.fields()
	default:
		r.json(false)
	}
	if r.out.err == nil {
		r.push()
	}
}

// add maps an event. One that is not timed gets the time of arrival, others
// have theirs in r.in.
func (r *request) add(rec *mapping.Record, timed bool) {
	if !timed {
		r.in.TS = r.arrival
		r.arrival++
	}
	for !r.st.Add(rec, &r.in, &r.batches) {
		if !r.push() {
			return
		}
	}
	r.untimed = r.untimed || !timed
	n, size := r.batches.Len(), r.batches.Size()
	if r.h.keep {
		if n >= r.h.cfg.MaxEvents || size >= partSize {
			r.push()
		}
		return
	}
	r.check(n, size)
}

// check refuses a request that becomes too much.
func (r *request) check(n, size int) {
	most := 2 * int64(r.h.cfg.MaxDecoded)
	switch {
	case int64(r.size+size) > most:
		r.out.err = push.Errorf(push.BodyTooLarge, "events take %d bytes with labels and metadata, limit %d", r.size+size, most)
	case r.pushed+n+r.out.unread > r.h.cfg.MaxEvents:
		r.out.err = push.Errorf(push.BodyTooLarge, "more than %d events in one request", r.h.cfg.MaxEvents)
	}
}

// refuse is for a piece of input that is no event.
func (r *request) refuse(reason push.Reason, raw []byte, why string) {
	r.out.refuse(reason, len(raw), why)
	if r.h.keep {
		r.batches.Bury(r.in.Tenant, reason, why, raw)
		return
	}
	r.check(r.batches.Len(), r.batches.Size())
}

// push makes durable what has been mapped. It returns false if the rest of the
// request must not be looked at: it has failed.
func (r *request) push() bool {
	list := r.batches.Finish()
	n := r.batches.Len()
	id := push.ID{}
	if len(list) > 0 {
		id = r.id()
	}
	for _, b := range list {
		err := r.pushOne(b, mapping.BatchID(id, r.part, b.Tenant))
		if err == nil {
			continue
		}
		if r.out.err == nil {
			r.out.err = err
		}
		// What is stored behind a failure is stored twice when the request comes
		// again, unless it has an id; but one tenant that is over its limits should
		// not keep others waiting.
		if id == (push.ID{}) {
			break
		}
	}
	r.pushed += n
	r.size += r.batches.Size()
	r.part++
	r.untimed = false
	r.batches.Reset()
	return r.out.err == nil
}

// pushOne pushes the batch of one tenant. An error is one of all its entries.
func (r *request) pushOne(b *push.Batch, id push.ID) error {
	entries := len(b.Entries) // the sink may take refused ones out
	b.Receiver, b.ID, b.KeepRefused = r.h.job, id, r.h.keep
	err := r.h.d.Sink.Push(r.req.Context(), b)
	var e *push.Error
	if r.h.keep && errors.As(err, &e) && e.Reason == push.BlockedIngestion {
		// Somebody wants these events dropped.
		r.out.rejected.Add(e.Reason, "", entries, 0, e.Error)
		return nil
	}
	return r.out.pushed(err, entries)
}
