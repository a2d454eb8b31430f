package ingester

import (
	"errors"
	"time"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/ingester/wal"
)

func (i *Ingester) wantTrim() {
	select {
	case i.trim <- struct{}{}:
	default:
	}
}

// janitor keeps WAL and block files short.
func (i *Ingester) janitor() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-i.ctx.Done():
			return
		case <-tick.C:
		case <-i.trim:
		}
		if state(i.state.Load()) == stateJoining {
			continue // what the WAL has is not in heads yet
		}
		i.relieve()
		if err := i.trimWAL(); err != nil {
			i.log.Warn("shortening the WAL failed", "err", err)
		}
	}
}

// trimWAL deletes WAL segments and block files that nothing needs any more.
func (i *Ingester) trimWAL() error {
	if segs := i.wal.Segments(); len(segs) > 1 {
		// The order matters. Pushes with a number below keep have been applied
		// when the heads are looked at; what is in no head by then was appended
		// to a block file before, which the sync makes durable.
		keep := i.inflight.oldest(i.wal.Next)
		i.eachHead(func(st *stream, ln *lane, h *head) {
			if n := h.cover.Min(); n != 0 && n < keep {
				keep = n
			}
		})
		if err := i.blocks.Sync(); err != nil {
			return err
		}
		i.keepIDs(firstKept(segs, keep))
		if err := i.wal.Truncate(wal.LSN(keep)); err != nil {
			return err
		}
		if i.wal.Size() > min(int64(i.cfg.WAL.MaxSize), i.room.budget/4) {
			i.cutPins()
		}
	}
	if err := i.moveStragglers(); err != nil {
		return err
	}
	return i.blocks.Release(uint64(i.wal.Oldest()))
}

// firstKept returns the first record that is left when the WAL, which has segs,
// is truncated to keep.
func firstKept(segs []wal.SegmentInfo, keep uint64) uint64 {
	first := uint64(segs[0].First)
	for _, s := range segs[1:] {
		if uint64(s.First) <= keep {
			first = uint64(s.First)
		}
	}
	return first
}

// eachHead calls fn, with the stream's mutex held, for every head that is not
// cut.
func (i *Ingester) eachHead(fn func(*stream, *lane, *head)) {
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.lanes(func(ln *lane) {
			for _, h := range ln.sealed {
				fn(st, ln, h)
			}
			if ln.head != nil {
				fn(st, ln, ln.head)
			}
		})
	})
}

// cutPins seals the heads that keep the older half of the WAL from being
// deleted.
func (i *Ingester) cutPins() {
	segs := i.wal.Segments()
	limit := uint64(segs[len(segs)/2].First)
	i.eachHead(func(st *stream, ln *lane, h *head) {
		if !h.sealed && h.cover.Min() < limit {
			i.seal(ln)
			i.m.earlyCuts.Inc()
		}
	})
}

// moveStragglers copies the last living blocks of the oldest file on, when
// files are mostly dead weight: files go in order of age, and one block of a
// slow stream would hold up all behind it.
func (i *Ingester) moveStragglers() error {
	st := i.blocks.Stats()
	if st.Files < 4 || st.Live*2 > st.Bytes {
		return nil
	}
	var old []*block
	var owners []*stream
	i.eachStream(func(s *stream) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lanes(func(ln *lane) {
			collect := func(c *openChunk) {
				for _, b := range c.blocks {
					if b.ref.InFile(st.Oldest) {
						old, owners = append(old, b), append(owners, s)
					}
				}
			}
			if ln.chunk != nil {
				collect(ln.chunk)
			}
			for _, c := range ln.closed {
				collect(c)
			}
		})
	})
	for k, b := range old {
		ref, err := i.blocks.Copy(b.ref)
		if errors.As(err, new(*blocks.CorruptionError)) {
			continue // which is said, and counted, when its chunk is stored without it
		}
		if err != nil {
			return err
		}
		s := owners[k]
		s.mu.Lock()
		if b.released {
			s.mu.Unlock()
			i.blocks.Drop(ref)
			continue
		}
		was := b.ref
		b.ref = ref
		s.mu.Unlock()
		i.blocks.Drop(was)
	}
	if len(old) > 0 {
		return i.blocks.Sync() // before the originals go
	}
	return nil
}
