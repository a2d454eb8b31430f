package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/proto/push"
)

// DeadLetters are the settings of dead letters: entries that were refused for
// good although their protocol cannot refuse them, and input that could not
// become an entry. See the package comment.
type DeadLetters struct {
	Enabled     bool        `yaml:"enabled" help:"keep what was refused for good, if its protocol cannot refuse it, in the stream {job=\"loki-go-dead-letter\"} of its tenant"`
	Rate        units.Bytes `yaml:"rate" help:"bytes of dead letters that are kept per second, for each tenant; others are dropped and counted"`
	Burst       units.Bytes `yaml:"burst" help:"bytes of dead letters that are kept at once, for each tenant"`
	MaxLineSize units.Bytes `yaml:"max-line-size" help:"where the lines of dead letters are cut"`
	MaxPerPush  int         `yaml:"max-per-push" help:"dead letters that are kept of one push"`
}

func defaultDeadLetters() DeadLetters {
	return DeadLetters{
		Enabled:     true,
		Rate:        1 * units.MiB,
		Burst:       16 * units.MiB,
		MaxLineSize: 256 * units.KiB,
		MaxPerPush:  1000,
	}
}

func (c DeadLetters) validate() []error {
	var errs []error
	check := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New("dead-letters."+text))
		}
	}
	check(c.Rate > 0, "rate: must be greater than 0")
	check(c.MaxLineSize > 0 && c.MaxLineSize <= 16*units.MiB, "max-line-size: must be 1 byte to 16MB")
	check(c.Burst >= c.MaxLineSize+deadMetaSize, "burst: must be at least max-line-size plus 64KB")
	check(c.MaxPerPush > 0 && c.MaxPerPush <= 100_000, "max-per-push: must be 1 to 100000")
	return errs
}

const (
	deadJob = "loki-go-dead-letter"

	// deadWindow is how far back the time of a push with an id may be for its
	// letters to have it; see letterTime.
	deadWindow = 5 * time.Minute

	// deadAttempts bounds how often letters are sent that an ingester finds too
	// late; each time they have a newer time.
	deadAttempts = 3
)

// keepDead stores the dead letters of the batch. It is called when what else
// there is of the batch is stored. An error says that a retry is needed.
func (c *check) keepDead(ctx context.Context) error {
	b := c.b
	refused := b.KeepRefused && (c.accepted < len(b.Entries) || c.rej.Entries > 0)
	if !refused && len(b.Dead) == 0 && b.DeadLeft == 0 {
		return nil
	}
	l := letters{c: c, cfg: &c.g.cfg.DeadLetters, digest: newDigest(b.ID, forLetters)}
	if refused {
		l.entries()
	}
	l.pieces()
	if err := l.send(ctx); err != nil {
		c.tn.dead.give(float64(l.size)) // they come again
		return err
	}
	l.count()
	return nil
}

// letters are the dead letters of one batch.
type letters struct {
	c   *check
	cfg *DeadLetters

	bl      *push.Builder // nil: there are none yet
	next    int64         // time of the next
	streams map[push.Reason]int
	digest  *digest // of which there are
	size    int     // lines and metadata
	full    bool    // the rest is dropped

	stored  map[push.Reason]int
	dropped map[push.Reason]int
}

// entries takes what is refused for good.
func (l *letters) entries() {
	b := l.c.b
	for i := range b.Streams {
		s := &b.Streams[i]
		why := ""
		for j := range b.StreamEntries(s) {
			n := int(s.First) + j
			e := &b.Entries[n]
			reason := forGood(s, e)
			if reason == push.OK || !l.room(reason) {
				continue
			}
			d := letter{
				reason: reason, stream: s.Labels, ts: e.TS, timed: true,
				line: b.Bytes(e.Line), size: int(e.Line.Len), meta: b.Bytes(e.Meta),
			}
			if d.stream == "" {
				d.stream = string(b.Bytes(s.RawLabels))
			}
			if reason != s.Reject {
				why = l.c.why(reason, s, e)
			} else if why == "" {
				why = l.c.whyStream(s)
			}
			d.why = why
			l.add(&d, n)
		}
	}
}

// forGood returns the reason why e of s will never be accepted, or OK.
func forGood(s *push.Stream, e *push.Entry) push.Reason {
	switch {
	case s.Reject != push.OK && !s.Reject.Retryable():
		return s.Reject
	case e.Reject.Retryable():
		return push.OK
	}
	return e.Reject
}

// pieces takes what never became an entry.
func (l *letters) pieces() {
	b := l.c.b
	for i := range b.Dead {
		p := &b.Dead[i]
		if l.room(p.Reason) {
			l.add(&letter{
				reason: p.Reason, why: p.Text, ts: p.TS, timed: p.TS != 0, line: p.Raw, size: p.Size,
			}, len(b.Entries)+i)
		}
	}
	if b.DeadLeft > 0 {
		l.drop(push.Malformed, b.DeadLeft)
	}
}

// room reports whether there may be one more; if not, it is counted.
func (l *letters) room(r push.Reason) bool {
	l.full = l.full || !l.cfg.Enabled || l.bl != nil && l.bl.Len() == l.cfg.MaxPerPush
	if l.full {
		l.drop(r, 1)
	}
	return !l.full
}

func (l *letters) drop(r push.Reason, n int) {
	if l.dropped == nil {
		l.dropped = make(map[push.Reason]int)
	}
	l.dropped[r] += n
}

// add takes d, which is number n of the batch, if the tenant's rate permits it.
// If not, it is the end of what is kept of the batch, so that a lot of refused
// input costs little.
func (l *letters) add(d *letter, n int) {
	c := l.c
	if l.bl == nil {
		l.bl = push.NewBuilder(push.Get())
		l.streams, l.stored = make(map[push.Reason]int), make(map[push.Reason]int)
		l.next = c.letterTime()
	}
	d.receiver = c.b.Receiver
	d.cut(l.cfg, c.lim)
	size := len(d.line) + d.pairs(l.bl, c.lim)
	if _, ok := c.tn.dead.take(c.now.UnixNano(), float64(size), float64(l.cfg.Rate), float64(l.cfg.Burst)); !ok {
		l.bl.DropPairs()
		l.full = true
		l.drop(d.reason, 1)
		return
	}
	l.size += size
	s, ok := l.streams[d.reason]
	if !ok {
		s = l.bl.Stream([]byte(deadStream(d.reason, c.lim.DiscoverServiceName)))
		l.streams[d.reason] = s
	}
	l.bl.EntryExact(s, l.next, d.line)
	l.next++
	l.stored[d.reason]++
	l.digest.add(uint64(n))
	l.digest.add(uint64(d.reason))
}

// deadStream returns the labels of the letters with a reason. Names are those
// that a client's stream would get, but no limit applies to them.
func deadStream(r push.Reason, discoverFrom []string) string {
	ls := labels.Labels{{Name: "job", Value: deadJob}, {Name: "reason", Value: r.String()}}
	return discover(ls, discoverFrom).String()
}

// letterTime returns the time of the first letter. A push with an id, which may
// come again, gives its letters the same times again: they follow from its
// newest entry, if that is of the last minutes. What follows from the id keeps
// the letters of different pushes apart.
func (c *check) letterTime() int64 {
	now := c.now.UnixNano()
	id := c.b.ID
	if id == (push.ID{}) {
		return now
	}
	newest := now - int64(deadWindow)
	for i := range c.b.Entries {
		if ts := c.b.Entries[i].TS; ts <= now {
			newest = max(newest, ts)
		}
	}
	if newest == now-int64(deadWindow) {
		return now
	}
	return newest + int64(binary.LittleEndian.Uint64(id[:])%1e6)
}

// send stores the letters.
func (l *letters) send(ctx context.Context) error {
	if l.bl == nil {
		return nil
	}
	c := l.c
	b := l.bl.Finish()
	defer b.Release()
	if len(b.Entries) == 0 {
		return nil
	}
	b.Tenant, b.Receiver = c.b.Tenant, c.b.Receiver
	if c.b.ID != (push.ID{}) {
		b.ID = l.digest.id()
	}
	for i := range b.Streams {
		s := &b.Streams[i]
		s.Labels = string(b.Bytes(s.RawLabels))
		s.Token = labels.Token(c.tn.name, s.Labels)
	}
	for attempt := 1; ; attempt++ {
		var rej push.Rejected
		if err := c.g.send(ctx, b, l.size, &rej); err != nil {
			return err
		}
		if rej.Entries == 0 {
			return nil
		}
		if rej.Retryable() {
			return deadRefused(&rej)
		}
		if attempt == deadAttempts {
			l.lose(b)
			return nil
		}
		c.later(b)
	}
}

// deadRefused makes the refusal of letters (the tenant has too many streams)
// that of the push, which would lose them otherwise.
func deadRefused(rej *push.Rejected) error {
	for i := range rej.Groups {
		if g := &rej.Groups[i]; g.Reason.Retryable() {
			return push.Errorf(g.Reason, "dead letters cannot be stored: %s", g.First)
		}
	}
	return push.Errorf(push.Internal, "dead letters cannot be stored: %s", rej.Error())
}

// later leaves in b the letters that came too late for their streams, with
// newer times.
func (c *check) later(b *push.Batch) {
	now := c.g.d.Now().UnixNano()
	for i := range b.Streams {
		s := &b.Streams[i]
		whole := s.Reject != push.OK
		s.Reject = push.OK
		for j := range b.StreamEntries(s) {
			e := &b.Entries[int(s.First)+j]
			if !whole && e.Reject == push.OK {
				e.Reject = push.OutOfOrder // it is stored: leave it out
				continue
			}
			e.Reject = push.OK
			e.TS = now + int64(s.First) + int64(j)
		}
	}
	b.ID = acceptedID(b)
	b.Rebuild()
}

// lose counts as dropped what is still refused in b.
func (l *letters) lose(b *push.Batch) {
	for r, i := range l.streams {
		s := &b.Streams[i]
		for _, e := range b.StreamEntries(s) {
			if s.Reject != push.OK || e.Reject != push.OK {
				l.stored[r]--
				l.drop(r, 1)
			}
		}
	}
}

// count tells metrics and the log what became of the letters.
func (l *letters) count() {
	tn := l.c.tn
	for r, n := range l.stored {
		tn.metrics.deadLetters(r, "stored", n)
	}
	total := 0
	for r, n := range l.dropped {
		tn.metrics.deadLetters(r, "dropped", n)
		total += n
	}
	if total == 0 || !l.cfg.Enabled {
		return
	}
	l.c.g.deadLog.Warn("dead letters dropped, there are more than may be kept",
		"tenant", tn.name, "letters", total, "reasons", fmt.Sprint(l.dropped))
}
