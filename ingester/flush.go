package ingester

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// Reasons of a flush.
const (
	reasonFull      = "full"
	reasonIdle      = "idle"
	reasonMaxAge    = "max_age"
	reasonRequested = "requested"
	reasonCovered   = "covered" // not stored: other replicas have stored it
	reasonDisk      = "disk"    // local disk, or the memory that blocks on it take, runs short
)

// sweeper closes chunks that are idle or old and removes streams that are
// empty.
func (i *Ingester) sweeper() {
	for {
		// Jitter, so that ingesters do not go to the store together.
		d := i.cfg.FlushCheckPeriod
		d += time.Duration(rand.Int64N(int64(d)/4 + 1))
		select {
		case <-i.ctx.Done():
			return
		case <-time.After(d):
		}
		if state(i.state.Load()) == stateActive {
			i.sweep(i.deps.Now().UnixNano())
		}
	}
}

func (i *Ingester) sweep(now int64) {
	idle := int64(i.cfg.ChunkIdlePeriod)
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		// The clock may have been set back. What came by the former one is not
		// kept until that time comes again.
		st.touched = min(st.touched, now)
		quiet := now-st.touched >= st.deadline(idle)
		st.lanes(func(ln *lane) {
			if c := ln.chunk; c != nil {
				c.opened = min(c.opened, now)
				if quiet {
					i.closeChunk(ln, reasonIdle)
				} else if now-c.opened >= st.deadline(i.maxAge) {
					i.closeChunk(ln, reasonMaxAge)
				}
			}
		})
		gone := quiet && st.empty()
		st.mu.Unlock()
		if gone {
			i.removeStream(st, now-st.deadline(idle))
		}
	})
}

// removeStream forgets a stream that has nothing and was not touched since.
func (i *Ingester) removeStream(st *stream, since int64) {
	sh := st.tenant.shard(st.token)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st.pending.Load() != 0 {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.empty() && st.touched <= since && sh.m[st.labels] == st {
		delete(sh.m, st.labels)
		st.tenant.active.Add(-1)
	}
}

// Flush closes every chunk, late ones too. With wait it returns when all that
// was pushed before the call is in the store, chunks and index, or with an
// error when ctx ends first.
func (i *Ingester) Flush(ctx context.Context, wait bool) error {
	if state(i.state.Load()) == stateJoining {
		return i.Ready()
	}
	var all []*openChunk
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.lanes(func(ln *lane) {
			i.closeChunk(ln, reasonRequested)
			all = append(all, ln.closed...)
		})
	})
	i.flushq.hurry()
	i.gate.hurry()
	if !wait {
		i.index.request()
		i.askBehind(all)
		return nil
	}
	i.askOthers(ctx, all)
	return i.await(ctx, all)
}

// await returns when chunks are stored and in an index.
func (i *Ingester) await(ctx context.Context, all []*openChunk) error {
	for _, c := range all {
		select {
		case <-c.put:
		case <-ctx.Done():
			return i.flushTimeout(ctx, all)
		case <-i.ctx.Done():
			return i.Ready()
		}
	}
	i.index.request()
	for _, c := range all {
		select {
		case <-c.done:
		case <-ctx.Done():
			return i.flushTimeout(ctx, all)
		case <-i.ctx.Done():
			return i.Ready()
		}
	}
	return nil
}

func (i *Ingester) flushTimeout(ctx context.Context, all []*openChunk) error {
	left := 0
	for _, c := range all {
		select {
		case <-c.done:
		default:
			left++
		}
	}
	return fmt.Errorf("ingester: flush: %w: %d of %d chunks are not stored yet (they are safe on local disk and will be)", ctx.Err(), left, len(all))
}

// flusher stores closed chunks.
func (i *Ingester) flusher() {
	var w flushWork
	n := 0
	for {
		// Which chunk is next is decided when it may be stored: the oldest.
		if !i.flushq.wait() || !i.gate.enter(i.ctx) {
			return
		}
		c := i.flushq.take()
		if c == nil {
			i.gate.leave()
			continue
		}
		if !i.begin(c) {
			i.gate.leave()
			continue
		}
		began := time.Now()
		err := i.upload(&w, c)
		i.gate.leave()
		if i.ctx.Err() != nil {
			return
		}
		i.m.flushSeconds.Observe(time.Since(began).Seconds())
		if err == nil {
			if n++; c.tries > 0 {
				i.flushq.promote(2) // what had failed may work again
			} else if n%16 == 0 {
				i.flushq.promote(1)
			}
			i.m.flushed.WithLabelValues(c.reason).Inc()
			i.storedAs(c)
			i.index.add(c) // before Flush, which waits for put, asks for the index
			close(c.put)
			continue
		}
		i.m.flushErrors.Inc()
		c.tries++
		i.log.Warn("storing a chunk failed, it will be tried again", "tenant", c.stream.tenant.id, "stream", c.stream.labels, "tries", c.tries, "err", err)
		i.flushq.park(c, pause(c.tries, longestPark))
	}
}

// longestPark is how long a chunk that could not be stored waits at most: the
// gate knows whether the store works, this is for what is wrong with the chunk.
const longestPark = 30 * time.Second
