package elasticsearch

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// state is what became of an action.
type state uint8

const (
	pending state = iota // its document is in a batch
	stored
	refused // see item.reason
	kept    // refused for good, and a dead letter
	ignored // a delete
)

// item is an action and what became of it.
type item struct {
	index, id span
	stream    uint32 // of its batch
	text      uint32 // why it was refused: work.texts
	batch     uint8  // see mapping.Batches.Last
	op        op
	state     state
	reason    push.Reason
}

// maxTexts bounds how many different reasons for a refusal are told.
const maxTexts = 1000

// work is what one request needs. Its memory is used again for others.
type work struct {
	body    []byte
	actions actions
	docs    mapping.Stream
	rec     mapping.Record
	sub     mapping.Record // the document within an update
	meta    mapping.Record
	st      *mapping.State
	g       mapping.Batches
	items   []item
	names   []byte // of indices, ids and pipelines
	texts   []string
	sent    []sent
	out     []byte
	node    mapping.Record // scratch for the answer

	request
}

// request is the part of work that no other request uses.
type request struct {
	r       *Receiver
	ctx     context.Context
	headers http.Header
	base    action // what path and query say
	lines   lines
	in      mapping.Input
	arrival int64 // time of the next document that has none
	known   bool  // all documents have a time or an id of their own
	keep    bool  // the client loses what is refused alone
	logs    bool  // the client is Logstash
	begun   int   // items of earlier parts
	part    int   // how often the batches were pushed

	failure  error         // of a batch: nothing is known to be stored of it
	rejected push.Rejected // by us and by the sink
	stored   int
	other    int // items that are answered otherwise: refused by us, kept or ignored
}

func newWork(st *mapping.State) *work { return &work{st: st} }

// begin makes w ready for req.
func (w *work) begin(r *Receiver, req *http.Request, t target) {
	agent := req.Header.Get("User-Agent")
	w.request = request{
		r: r, ctx: req.Context(), headers: req.Header,
		in:      mapping.Input{Job: name, Tenant: req.Header.Get(httpbody.TenantHeader), LineKey: "message"},
		arrival: r.d.Now().UnixNano(), known: true, keep: r.keeps(agent), logs: strings.HasPrefix(agent, "Logstash"),
	}
	w.actions.reset()
	w.body, w.items, w.names, w.texts, w.out = w.body[:0], w.items[:0], w.names[:0], w.texts[:0], w.out[:0]
	w.base.index = w.name(t.index)
	if req.URL.RawQuery != "" {
		w.base.pipeline = w.name(clip(req.URL.Query().Get("pipeline"), maxIndex))
	}
}

func (w *work) name(s string) span {
	from := len(w.names)
	w.names = append(w.names, s...)
	return span{uint32(from), uint32(len(w.names))}
}

func (w *work) bytes(s span) []byte { return w.names[s.from:s.to:s.to] }

// bulk reads the actions in the body. An error is one of the whole request.
func (w *work) bulk() error {
	w.lines = lines{src: w.body}
	for {
		line, ok := w.lines.next()
		switch {
		case !ok && len(w.items) == 0:
			return push.Errorf(push.Malformed, "request body is required: no actions")
		case !ok:
			return nil
		case blank(line):
			continue
		case len(w.items) >= w.r.cfg.MaxActions:
			return push.Errorf(push.BodyTooLarge, "more than %d actions in one request", w.r.cfg.MaxActions)
		}
		if err := w.action(line); err != nil {
			return err
		}
		if n, most := int64(w.g.Size()), 2*int64(w.r.cfg.MaxDecoded); n > most {
			return push.Errorf(push.BodyTooLarge, "documents take %d bytes with labels and metadata, limit %d", n, most)
		}
	}
}

// action reads what begins with the given line.
func (w *work) action(line []byte) error {
	act, err := w.actions.parse(line, &w.base, &w.names)
	if err != nil {
		if len(w.items) == 0 {
			return push.Errorf(push.Malformed, "malformed action in line %d: %v", w.lines.n, err)
		}
		w.broken(line, err)
		return nil
	}
	it := item{op: act.op, index: act.index, id: act.id}
	if act.op == opDelete {
		it.state = ignored
		w.other++
		w.items = append(w.items, it)
		return nil
	}
	doc, ok := w.lines.next()
	if !ok {
		w.refuse(it, push.Malformed, line, func() string { return fmt.Sprintf("no document behind the action in line %d", w.lines.n) })
		return nil
	}
	w.document(it, act.pipeline, doc)
	return nil
}

// broken refuses a broken action, together with the line behind it, which is
// its document unless it is an action.
func (w *work) broken(line []byte, err error) {
	raw, n, ahead := line, w.lines.n, w.lines
	if next, ok := ahead.next(); ok && !blank(next) {
		if _, _, notAction := w.actions.read(next); notAction != nil {
			raw, w.lines = next, ahead
		}
	}
	w.refuse(item{op: opIndex, index: w.base.index}, push.Malformed, raw, func() string {
		return fmt.Sprintf("malformed action in line %d: %v", n, err)
	})
}

// document maps a document.
func (w *work) document(it item, pipeline span, doc []byte) {
	refuse := func(r push.Reason, format string, args ...any) {
		w.refuse(it, r, doc, func() string {
			return fmt.Sprintf("document in line %d: %s", max(w.lines.n, 1), fmt.Sprintf(format, args...))
		})
	}
	if most := int(w.r.cfg.MaxDocument); len(doc) > most {
		refuse(push.BodyTooLarge, "%d bytes, limit %d", len(doc), most)
		return
	}
	if at := skipSpace(doc); at == len(doc) || doc[at] != '{' {
		refuse(push.Malformed, "not an object")
		return
	}
	w.docs.Reset(doc, false)
	if err := w.docs.Next(&w.rec); err != nil {
		refuse(push.Malformed, "%v", err)
		return
	}
	if !blank(doc[w.docs.Offset():]) {
		refuse(push.Malformed, "more than one object")
		return
	}
	rec := &w.rec
	if it.op == opUpdate {
		if rec = w.update(); rec == nil {
			refuse(push.Malformed, "an update needs doc or upsert, as there is no document here that a script could change")
			return
		}
	}
	w.add(it, pipeline, rec)
}

// update returns what an update would leave where there was nothing.
func (w *work) update() *mapping.Record {
	for _, field := range [...]string{"doc", "upsert"} {
		i := w.rec.Field(0, field)
		if i < 0 || w.rec.Nodes[i].Kind != mapping.Map || int(w.rec.Nodes[i].End) == i+1 {
			continue
		}
		w.sub.Nodes = append(w.sub.Nodes[:0], w.rec.Nodes[i:w.rec.Nodes[i].End]...)
		w.sub.Nodes[0].Key = nil
		for j := range w.sub.Nodes {
			if n := &w.sub.Nodes[j]; n.Kind >= mapping.Array {
				n.End -= int32(i)
			}
		}
		return &w.sub
	}
	return nil
}

// add adds a document to the batches.
func (w *work) add(it item, pipeline span, rec *mapping.Record) {
	ts, node := mapping.EventTime(rec)
	if node >= 0 {
		rec.Nodes[node].Used = true
	} else {
		ts = w.arrival
		w.arrival++
		w.known = w.known && !it.id.empty()
	}
	if w.logs {
		mapping.DropLogstash(rec)
	}
	w.in.TS = ts
	w.in.Meta = w.metadata(it.index, pipeline)
	if !w.st.Add(rec, &w.in, &w.g) {
		w.push()
		w.st.Add(rec, &w.in, &w.g)
	}
	batch, stream := w.g.Last()
	it.batch, it.stream = uint8(batch), uint32(stream)
	w.items = append(w.items, it)
}

var (
	keyIndex    = []byte("_index")
	keyPipeline = []byte("pipeline")
)

// metadata returns what an action says about its document.
func (w *work) metadata(index, pipeline span) *mapping.Record {
	n := append(w.meta.Nodes[:0], mapping.Node{Kind: mapping.Map})
	if !index.empty() {
		n = append(n, mapping.Node{Kind: mapping.String, Key: keyIndex, Str: w.bytes(index)})
	}
	if !pipeline.empty() {
		n = append(n, mapping.Node{Kind: mapping.String, Key: keyPipeline, Str: w.bytes(pipeline)})
	}
	n[0].End = int32(len(n))
	w.meta.Nodes = n
	return &w.meta
}

// refuse notes that an action was refused for good. raw is what of it becomes a
// dead letter, if its client cannot be told.
func (w *work) refuse(it item, r push.Reason, raw []byte, text func() string) {
	it.state, it.reason = refused, r
	w.other++
	var why string
	tell := func() string {
		if why == "" {
			why = text()
		}
		return why
	}
	w.rejected.Add(r, "", 1, len(raw), tell)
	if w.keep {
		it.state = kept
		w.g.Bury(w.in.Tenant, r, tell(), raw)
	} else {
		it.text = w.text(tell)
	}
	w.items = append(w.items, it)
}

// text keeps a text and returns its number.
func (w *work) text(text func() string) uint32 {
	switch n := len(w.texts); {
	case n < maxTexts:
		w.texts = append(w.texts, text())
	case n == maxTexts:
		w.texts = append(w.texts, "refused, like others before it in this request")
	}
	return uint32(len(w.texts) - 1)
}
