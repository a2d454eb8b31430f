package syslog

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

const job = "syslog"

const (
	// togetherSize is how much is pushed at a time.
	togetherSize = 1 << 20
	// smallTogether is that for a connection with a small buffer, which has
	// not asked for memory.
	smallTogether = 64 << 10
)

// worker maps messages. A connection has one only while it handles some.
type worker struct {
	s       *Server
	st      *mapping.State
	batches mapping.Batches
	parser  parser
	msg     message
	rec     recorder
	in      mapping.Input
	since   time.Time         // when the first message of the batches came
	formats [numFormats]int64 // messages in the batches
	bytes   int64
}

func (s *Server) newWorker() *worker {
	return &worker{
		s: s, st: s.d.Mapper.Acquire(), parser: parser{zone: s.zone}, rec: recorder{words: s.words},
		in: mapping.Input{Job: job, Tenant: s.cfg.Tenant, LineKey: "message"},
	}
}

// source is where messages come from.
type source struct {
	name      string // for logs
	transport transport
	ip        []byte // of the peer; nil: it has none
	together  int    // how much to push at a time
	head      []byte // header of a message that comes in parts
}

// deliver adds a frame that arrived at now, and pushes if that makes it enough.
func (w *worker) deliver(src *source, fr *frame, now time.Time) error {
	text := fr.text
	if fr.last {
		text = trim(text)
	}
	w.bytes += int64(len(fr.text))
	switch {
	case !fr.first:
		if len(text) == 0 {
			return nil
		}
		w.s.metrics.split.Inc()
		w.parser.parse(&w.msg, src.head, coarse(now))
		w.msg.text = text
	case len(text) == 0 && fr.last:
		return nil
	default:
		w.parser.parse(&w.msg, text, coarse(now))
		if !fr.last {
			// With a text of one byte it is a message like the first one.
			src.head = append(append(src.head[:0], text[:len(text)-len(w.msg.text)]...), 'x')
		}
	}
	return w.add(src, now)
}

// coarse returns the time for a message without one, which apart makes unique.
func coarse(now time.Time) int64 { return now.UnixMilli() * 1e6 }

// add maps w.msg.
func (w *worker) add(src *source, now time.Time) error {
	rec := w.rec.record(&w.msg, src.ip)
	w.in.TS = w.s.apart.time(w.msg.ts)
	if w.batches.Len() == 0 {
		w.since = now
	}
	if !w.st.Add(rec, &w.in, &w.batches) {
		if err := w.push(src); err != nil {
			return err
		}
		w.st.Add(rec, &w.in, &w.batches)
	}
	w.formats[w.msg.format]++
	if w.batches.Size() >= src.together {
		return w.push(src)
	}
	return nil
}

// push makes what has been added durable. It fails only if the server must end
// before that; what is lost then is counted and logged.
func (w *worker) push(src *source) error {
	m := w.s.metrics
	m.received[src.transport].Add(float64(w.bytes))
	w.bytes = 0
	for f, n := range w.formats {
		if n > 0 {
			m.messages[src.transport][f].Add(float64(n))
		}
	}
	w.formats = [numFormats]int64{}
	if w.batches.Len() == 0 {
		return nil
	}
	defer w.batches.Reset()
	var failed error
	for _, b := range w.batches.Finish() {
		b.Receiver, b.KeepRefused = job, true
		if err := w.s.pushUntil(b, src.name); err != nil {
			m.dropped.Add(float64(len(b.Entries)))
			w.s.d.Log.Error("entries lost: they could not be stored before the shutdown", "from", src.name, "entries", len(b.Entries), "err", err)
			failed = errShutdown
		}
	}
	m.seconds.Observe(time.Since(w.since).Seconds())
	return failed
}

// Pauses between tries.
const (
	minPause = 50 * time.Millisecond
	maxPause = 5 * time.Second
)

// pushUntil pushes b until all of it is stored or refused for good, or the
// server must end: nobody else has a copy.
func (s *Server) pushUntil(b *push.Batch, from string) error {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		entries := len(b.Entries)
		err := s.d.Sink.Push(s.ctx, b)
		if err == nil {
			s.metrics.stored.Add(float64(entries))
			return nil
		}
		if s.settled(b, err, from) {
			return nil
		}
		if s.ctx.Err() != nil {
			return err
		}
		s.metrics.retries.Inc()
		wait := retryAfter(err, pause)
		s.warn.Warn("push of syslog messages failed, it is tried again", "from", from, "entries", entries, "wait", wait, "err", err)
		s.sleep(wait)
	}
}

// retryAfter returns how long to wait: as long as err asks for, or pause, with
// some chance in it so that connections do not come back all at once.
func retryAfter(err error, pause time.Duration) time.Duration {
	var e *push.Error
	if errors.As(err, &e) && e.RetryAfter > pause {
		pause = min(e.RetryAfter, maxPause)
	}
	return pause + rand.N(pause/4+1)
}

// settled counts what err says of b's entries. It returns false if b has
// entries that are to be pushed again, and then no others.
func (s *Server) settled(b *push.Batch, err error, from string) bool {
	entries := len(b.Entries)
	var some *push.Rejected
	var all *push.Error
	switch {
	case errors.As(err, &some):
		s.metrics.stored.Add(float64(entries - min(entries, some.Entries)))
		for _, g := range some.Groups {
			if !g.Reason.Retryable() {
				s.metrics.refused.WithLabelValues(g.Reason.String()).Add(float64(g.Count))
			}
		}
		if some.Retryable() {
			b.KeepRetryable()
			return false
		}
	case errors.As(err, &all) && !all.Reason.Retryable() && all.Reason != push.NoTenant:
		// That no tenant is set is a mistake on this side; until it is mended
		// senders keep what they have.
		s.metrics.refused.WithLabelValues(all.Reason.String()).Add(float64(entries))
	default:
		return false
	}
	s.warn.Warn("syslog messages refused for good", "from", from, "err", err)
	return true
}
