package forward

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// identity is what the ids of a message's pushes are made of.
type identity struct {
	chunk []byte // nil: the message has no id
	tag   []byte
	size  int
}

func identify(chunk, tag []byte, size int) identity { return identity{chunk, tag, size} }

// base is what the ids of all pushes of the message are made of; the zero ID for
// none.
func (d identity) base() (id push.ID) {
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
	copy(id[:], h.Sum(nil))
	return id
}

// push makes what has been mapped durable, one tenant after the other. All of it
// is stored or refused for good when the result is nil; the batches are empty in
// any case.
func (c *conn) push(w *worker, d identity) error {
	defer w.discard()
	w.most = max(w.most, w.batches.Size())
	base, part := d.base(), w.part
	w.part++
	batches := w.batches.Finish()
	for i, b := range batches {
		b.Receiver, b.KeepRefused = job, true
		b.ID = mapping.BatchID(base, part, b.Tenant)
		if err := c.pushUntil(b, d.chunk != nil); err != nil {
			return c.notPushed(batches[i:], d.chunk != nil, err)
		}
	}
	c.s.metrics.seconds.Observe(time.Since(w.since).Seconds())
	return nil
}

// notPushed says what becomes of batches that could not be stored.
func (c *conn) notPushed(batches []*push.Batch, wanted bool, err error) error {
	if wanted {
		return &closeError{reason: "not_stored", err: fmt.Errorf("a message could not be stored, it is not acknowledged: %w", err)}
	}
	entries := 0
	for _, b := range batches {
		entries += len(b.Entries)
	}
	c.s.metrics.dropped.WithLabelValues("shutdown").Add(float64(entries))
	c.s.d.Log.Error("entries lost: they could not be stored before the shutdown", "peer", c.peer, "entries", entries, "err", err)
	return errShutdown
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
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		entries := len(b.Entries) // the sink may take refused ones out
		err := c.s.d.Sink.Push(c.s.ctx, b)
		if err == nil {
			c.s.metrics.stored.Add(float64(entries))
			return nil
		}
		if c.settled(b, entries, err) {
			return nil
		}
		entries = len(b.Entries)
		wait := retryAfter(err, pause)
		switch end := time.Now().Add(wait); {
		case c.s.ctx.Err() != nil, wanted && end.After(giveUp), c.s.draining() && end.After(c.s.drainBy):
			return err
		}
		c.s.metrics.retries.Inc()
		c.s.logs.Warn("push failed, it is tried again", "peer", c.peer, "entries", entries, "wait", wait, "err", err)
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

// settled counts and logs what err says of b's n entries. It returns false if
// b has entries that are to be pushed again, and then no others.
func (c *conn) settled(b *push.Batch, n int, err error) bool {
	var some *push.Rejected
	var all *push.Error
	again := false
	switch {
	case errors.As(err, &some):
		c.s.metrics.stored.Add(float64(n - min(n, some.Entries)))
		n = 0
		for _, g := range some.Groups {
			if !g.Reason.Retryable() {
				c.s.metrics.refused.WithLabelValues(g.Reason.String()).Add(float64(g.Count))
				n += g.Count
			}
		}
		if again = some.Retryable(); again {
			b.KeepRetryable()
		}
	case errors.As(err, &all) && !all.Reason.Retryable() && all.Reason != push.NoTenant:
		// That no tenant is set is a mistake on this side; until it is mended
		// clients keep what they have.
		c.s.metrics.refused.WithLabelValues(all.Reason.String()).Add(float64(n))
	default:
		return false
	}
	if n > 0 {
		c.s.logs.Warn("entries refused for good, they are acknowledged", "peer", c.peer, "entries", n, "err", err)
	}
	return !again
}
