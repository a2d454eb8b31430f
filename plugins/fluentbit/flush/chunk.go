package flush

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/plugins/msgpack"
	"github.com/loki-go/loki-go/proto/push"
)

// maxPush is the size at which a chunk goes in several pushes. Chunks are 2 MB
// by default; a server takes 16 MiB compressed.
const maxPush = 8 << 20

// flush is one chunk on its way.
type flush struct {
	o   *Output
	ctx context.Context
	tag string
	w   *work

	stored  bool
	retry   bool
	refused bool
	over    bool                // no server can be reached: what is left comes again with the rest
	limited map[string]struct{} // tenants that may not push for the moment
	dropped int
	done    []settlement
}

func (f *flush) run(chunk []byte) {
	g := &f.w.batches
	defer g.Reset()
	in := mapping.Input{Job: job, Tag: []byte(f.tag), Tenant: f.o.cfg.Tenant}
	ev := &f.w.events
	if in.Tenant != "" || len(f.o.cfg.Mapping.TenantKeys) == 0 {
		ev.OnDrop = func(why msgpack.Drop, piece []byte) {
			g.Bury(in.Tenant, push.Malformed, "not a log event: "+why.String(), piece)
		}
	} // else there is no tenant to keep them for
	for ev.Reset(chunk, time.Now().UnixNano()); !f.over && ev.Next(); {
		in.TS, in.Meta = ev.TS, ev.Meta
		if !f.w.state.Add(&ev.Record, &in, g) { // too many tenants
			f.push()
			f.w.state.Add(&ev.Record, &in, g)
		}
		if g.Size() >= f.o.maxPush {
			f.push()
		}
	}
	if !f.over {
		f.push()
	}
	if f.dropped = ev.Dropped(); f.dropped > 0 && !f.retry {
		f.o.log.Warn("chunk has entries that are not log events; the server keeps them as dead letters unless those are off",
			"tag", f.tag, "entries", f.dropped, "why", reasons(ev))
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

// push sends what there is, and empties it.
func (f *flush) push() {
	for _, b := range f.w.batches.Finish() {
		if _, limited := f.limited[b.Tenant]; !f.over && !limited {
			f.send(b)
		}
	}
	f.w.batches.Reset()
}

// send sends one push, unless it is known how it ended before, and notes how.
func (f *flush) send(b *push.Batch) {
	b.Receiver, b.KeepRefused = receiver, true
	b.ID = f.idOf(b)
	if s, ok := f.o.settled.find(b.ID); ok {
		f.settle(s)
		return
	}
	err := f.attempts(b)
	var rejected *push.Rejected
	var refusal *push.Error
	switch {
	case err == nil:
		f.settle(settlement{id: b.ID, stored: len(b.Entries) > 0})
	case errors.As(err, &rejected) && !rejected.Retryable():
		f.logRejected(b, rejected)
		f.settle(settlement{id: b.ID, stored: rejected.Entries < rejected.Total, refused: true})
	case errors.As(err, &refusal) && refusal.Reason == push.BodyTooLarge && len(b.Entries) > 1:
		f.halve(b)
	case errors.As(err, &refusal) && refusal.Reason == push.BodyTooLarge && len(b.Entries) == 1:
		f.bury(b, err)
	case errors.As(err, &refusal) && permanent(refusal.Reason):
		f.o.refusal("push refused for good; its entries are lost", "tag", f.tag, "tenant", b.Tenant,
			"reason", refusal.Reason.String(), "entries", len(b.Entries), "err", err)
		f.settle(settlement{id: b.ID, refused: true})
	default:
		f.later(b, err)
	}
}

// permanent reports whether sending the same again is useless. A tenant that
// is missing, or a user whom the server does not know, is the fault of a
// configuration, here or there, that somebody is about to correct: the logs are
// worth keeping until then.
func permanent(r push.Reason) bool { return !r.Retryable() && r != push.NoTenant }

func (f *flush) settle(s settlement) {
	f.stored = f.stored || s.stored
	f.refused = f.refused || s.refused
	f.done = append(f.done, s)
}

// later notes that b is to be sent again. If that is because of its tenant,
// those of others are sent all the same: they must not wait for one that is at
// its limits.
func (f *flush) later(b *push.Batch, err error) {
	f.retry = true
	f.o.failures.Warn("push failed; the chunk will be sent again", "tag", f.tag, "tenant", b.Tenant, "entries", len(b.Entries), "err", err)
	var rejected *push.Rejected
	var refusal *push.Error
	if !errors.As(err, &rejected) && (!errors.As(err, &refusal) || !ofTenant(refusal.Reason)) {
		f.over = true
		return
	}
	if f.limited == nil {
		f.limited = map[string]struct{}{}
	}
	f.limited[strings.Clone(b.Tenant)] = struct{}{}
}

func ofTenant(r push.Reason) bool {
	switch r {
	case push.NoTenant, push.RateLimited, push.StreamLimit, push.StreamRateLimit:
		return true
	}
	return false
}

// How long to wait before a push is tried again, unless the server says so.
const (
	firstWait = 100 * time.Millisecond
	mostWait  = time.Second
)

// attempts pushes b until there is an answer that stays, or no time for another
// attempt. See the package comment for when it tries once only.
func (f *flush) attempts(b *push.Batch) error {
	for wait := firstWait; ; wait = min(2*wait, mostWait) {
		err := f.o.client.Push(f.ctx, b)
		pause, transient := retryAfter(err)
		if !transient {
			f.o.trouble.Store(false)
			return err
		}
		pause = max(pause, wait/2+rand.N(wait/2))
		if f.o.trouble.Load() || !f.sleep(pause) {
			f.o.trouble.Store(true)
			return err
		}
		clearMarks(b)
	}
}

// retryAfter reports whether the error of a push may be gone later, and when if
// the server has said so.
func retryAfter(err error) (after time.Duration, transient bool) {
	var rejected *push.Rejected
	var refusal *push.Error
	switch {
	case err == nil:
		return 0, false
	case errors.As(err, &rejected):
		return 0, rejected.Retryable()
	case errors.As(err, &refusal):
		return refusal.RetryAfter, refusal.Reason.Retryable()
	}
	return 0, true
}

// sleep waits for d. It returns false, at once, if that leaves less than half of
// the flush's time, which is for pushes.
func (f *flush) sleep(d time.Duration) bool {
	if deadline, ok := f.ctx.Deadline(); ok && time.Until(deadline)-d < f.o.cfg.Timeout/2 {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-f.ctx.Done():
		return false
	}
}

// clearMarks takes back what the last attempt has refused: all of b is sent
// again, and the server knows what of it is stored.
func clearMarks(b *push.Batch) {
	for i := range b.Streams {
		b.Streams[i].Reject = push.OK
	}
	for i := range b.Entries {
		b.Entries[i].Reject = push.OK
	}
}

// halve sends b, which is too large for the server, in two pushes. Each may be
// halved again.
func (f *flush) halve(b *push.Batch) {
	half, n := len(b.Entries)/2, 0
	bl := push.NewBuilder(nil)
	var parts [2]*push.Batch
	for part := range parts {
		parts[part] = push.Get()
		bl.Reset(parts[part])
		n = 0
		for i := range b.Streams {
			s := &b.Streams[i]
			for j := range b.StreamEntries(s) {
				if (n < half) == (part == 0) {
					e := &b.StreamEntries(s)[j]
					for it := b.Pairs(e); it.Next(); {
						bl.Pair(it.Name, it.Value)
					}
					bl.EntryExact(bl.Stream(b.Bytes(s.RawLabels)), e.TS, b.Bytes(e.Line))
				}
				n++
			}
		}
		bl.Finish().Tenant = b.Tenant
	}
	for i := range b.Dead {
		d := &b.Dead[i]
		parts[0].Bury(d.Reason, d.Text, d.Raw)
	}
	parts[0].DeadLeft += b.DeadLeft
	for _, part := range parts {
		if !f.over {
			f.send(part)
		}
		part.Release()
	}
}

// bury sends the start of the one entry of b, which no server takes, as a dead
// letter.
func (f *flush) bury(b *push.Batch, err error) {
	f.o.refusal("entry refused for good; the server keeps its start as a dead letter unless those are off",
		"tag", f.tag, "tenant", b.Tenant, "reason", push.BodyTooLarge.String(), "bytes", b.Entries[0].Line.Len, "err", err)
	dead := push.Get()
	defer dead.Release()
	dead = push.NewBuilder(dead).Finish()
	dead.Tenant = b.Tenant
	dead.Bury(push.BodyTooLarge, err.Error(), b.Bytes(b.Entries[0].Line))
	f.send(dead)
	f.refused = true
}

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

// idOf makes an id of the tag and of what a batch says: tenant, labels, times,
// lines, metadata, dead letters. Two batches of one id would be one for a query
// as well.
func (f *flush) idOf(b *push.Batch) push.ID {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %d %s %d ", len(b.Tenant), b.Tenant, len(f.tag), f.tag, len(b.Data))
	h.Write(b.Data)
	for i := range b.Dead {
		fmt.Fprintf(h, " %d ", b.Dead[i].Size)
		h.Write(b.Dead[i].Raw)
	}
	return push.ID(h.Sum(nil)[:16])
}
