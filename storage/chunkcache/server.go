package chunkcache

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

// queueLength bounds how many objects wait for one server, small ones too.
const queueLength = 1024

// server is a server, the queue of what it is to hold, and whether it works.
type server struct {
	address string
	client  client
	cfg     Config
	log     *slog.Logger
	m       *metrics
	buffers *buffers

	ctx    context.Context // of the writer
	cancel context.CancelFunc

	queue    chan item
	queued   atomic.Int64 // bytes in queue
	maxQueue int64

	fails  atomic.Int64  // in a row
	down   atomic.Bool   // left alone until it answers to a ping
	failed chan struct{} // tells the writer that it is down now
}

// item is an object to be written.
type item struct {
	key    string
	object *[]byte
}

func (s *server) get(ctx context.Context, key string) ([]byte, error) {
	if s.down.Load() {
		return nil, errMiss
	}
	start := time.Now()
	limited, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	object, err := s.client.get(limited, key)
	s.m.took("get", start)
	s.judge(ctx, "get", err)
	return object, err
}

func (s *server) put(key string, object []byte) {
	n := int64(len(object))
	switch {
	case s.ctx.Err() != nil:
		s.drop(closing)
		return
	case s.down.Load():
		s.drop(serverOff)
		return
	case s.queued.Add(n) > s.maxQueue:
		s.queued.Add(-n)
		s.drop(queueFull)
		return
	}
	s.m.queued.Add(float64(n))
	it := item{key, s.buffers.copy(object)}
	select {
	case s.queue <- it:
	default:
		s.done(it)
		s.drop(queueFull)
	}
}

func (s *server) drop(reason string) { s.m.dropped.WithLabelValues(reason).Inc() }

// done gives the memory of an item back.
func (s *server) done(it item) {
	n := int64(len(*it.object))
	s.queued.Add(-n)
	s.m.queued.Sub(float64(n))
	s.buffers.free(it.object)
}

// run writes what is queued, and looks after a server that is down.
func (s *server) run() {
	for {
		select {
		case <-s.ctx.Done():
			s.discard(closing)
			return
		case <-s.failed:
			s.recover()
		case it := <-s.queue:
			s.write(it)
		}
	}
}

func (s *server) write(it item) {
	defer s.done(it)
	switch {
	case s.ctx.Err() != nil:
		s.drop(closing)
		return
	case s.down.Load():
		s.drop(serverOff)
		return
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
	defer cancel()
	err := s.client.set(ctx, it.key, *it.object)
	s.m.took("set", start)
	if errors.Is(err, errTooLarge) {
		s.m.skipped.WithLabelValues(tooLarge).Inc()
		err = nil
	} else if err == nil {
		s.m.writtenBytes.Add(float64(len(*it.object)))
	}
	s.judge(s.ctx, "set", err)
}

// judge counts the outcome of a request of somebody who still waits for it.
func (s *server) judge(ctx context.Context, op string, err error) {
	switch {
	case err == nil, errors.Is(err, errMiss):
		s.fails.Store(0)
		return
	case ctx.Err() != nil:
		return // given up from outside, the server is not to blame
	}
	s.m.errors.WithLabelValues(op).Inc()
	if errors.Is(err, errRefused) {
		return
	}
	if s.fails.Add(1) < int64(s.cfg.Failures) || !s.down.CompareAndSwap(false, true) {
		return
	}
	s.m.down.Inc()
	s.log.Warn("cache server is left alone after failures", "err", err, "retry_after", s.cfg.RetryAfter)
	s.failed <- struct{}{} // has room: it is taken before the server is up again
}

// recover waits until the server answers again.
func (s *server) recover() {
	s.discard(serverOff)
	tick := time.NewTicker(s.cfg.RetryAfter)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		if s.probe() {
			s.fails.Store(0)
			s.down.Store(false)
			s.m.down.Dec()
			s.log.Info("cache server is back")
			return
		}
		s.discard(serverOff)
	}
}

func (s *server) probe() bool {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
	defer cancel()
	start := time.Now()
	err := s.client.ping(ctx)
	s.m.took("ping", start)
	return err == nil
}

// discard drops all that is queued.
func (s *server) discard(reason string) {
	for {
		select {
		case it := <-s.queue:
			s.done(it)
			s.drop(reason)
		default:
			return
		}
	}
}
