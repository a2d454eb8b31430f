package elasticsearch

import (
	"errors"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// sent is a batch that was pushed.
type sent struct {
	b      *push.Batch
	err    error
	next   []uint32 // if part of it was refused: the next entry of each stream
	reason push.Reason
	text   uint32 // if nothing is known to be stored: why
}

// push pushes what the batches have and notes what became of the items that
// are in them.
func (w *work) push() {
	if list := w.g.Finish(); len(list) > 0 {
		id := w.id()
		w.sent = w.sent[:0]
		for _, b := range list {
			b.Receiver, b.KeepRefused = name, w.keep
			b.ID = mapping.BatchID(id, w.part, b.Tenant)
			w.sent = append(w.sent, w.note(b, w.r.d.Sink.Push(w.ctx, b)))
		}
		told := map[push.Reason]uint32{}
		for i := w.begun; i < len(w.items); i++ {
			if it := &w.items[i]; it.state == pending {
				w.settle(it, &w.sent[it.batch], told)
			}
		}
		clear(w.sent)
	}
	w.g.Reset()
	w.begun = len(w.items)
	w.part++
}

// note takes in what the sink said of a batch.
func (w *work) note(b *push.Batch, err error) sent {
	s := sent{b: b, err: err}
	var r *push.Rejected
	switch {
	case err == nil:
	case errors.As(err, &r):
		w.rejected.Merge(r)
		s.next = make([]uint32, len(b.Streams))
		for i := range b.Streams {
			s.next[i] = b.Streams[i].First
		}
	default:
		if w.failure == nil {
			w.failure = err
		}
		s.reason = push.Internal
		var e *push.Error
		if errors.As(err, &e) {
			s.reason = e.Reason
		}
		s.text = w.text(err.Error)
	}
	return s
}

// settle says what became of an item whose document was in s. told has the
// texts of reasons.
func (w *work) settle(it *item, s *sent, told map[push.Reason]uint32) {
	if s.err != nil && s.next == nil {
		it.state, it.reason, it.text = refused, s.reason, s.text
		return
	}
	reason := push.OK
	if s.err != nil {
		if reason = s.b.Streams[it.stream].Reject; reason == push.OK {
			reason = s.b.Entries[s.next[it.stream]].Reject
		}
		s.next[it.stream]++
	}
	switch {
	case reason == push.OK:
		it.state = stored
		w.stored++
		return
	case w.keep && !reason.Retryable():
		it.state, it.reason = kept, reason
		w.other++
		return
	}
	it.state, it.reason = refused, reason
	var ok bool
	if it.text, ok = told[reason]; !ok {
		why := w.like(reason)
		it.text = w.text(func() string { return why })
		told[reason] = it.text
		if w.keep && w.failure == nil {
			w.failure = push.Errorf(reason, "%s", why)
		}
	}
	if !w.keep {
		w.other++
	}
}

// like returns what the sink said of the first entry that it refused for a
// reason.
func (w *work) like(reason push.Reason) string {
	for i := range w.rejected.Groups {
		if g := &w.rejected.Groups[i]; g.Reason == reason {
			return reason.String() + ", like: " + g.First
		}
	}
	return reason.String()
}

// id returns what identifies the request when it is sent again.
func (w *work) id() push.ID {
	if w.known && w.headers.Get("Idempotency-Key") == "" {
		scope := append([]byte(name+"\x00"), w.bytes(w.base.index)...)
		scope = append(append(scope, 0), w.bytes(w.base.pipeline)...)
		return httpbody.BodyID(string(scope), w.body)
	}
	return httpbody.PushID(w.headers, w.body)
}
