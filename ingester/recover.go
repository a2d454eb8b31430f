package ingester

import (
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/ingester/coverage"
	"github.com/loki-go/loki-go/ingester/wal"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/storage/chunk"
)

// recovery is the state of a replay.
type recovery struct {
	i       *Ingester
	byRef   map[uint64]*stream
	covered map[uint64][]blocks.Piece // by stream, sorted by push
	chunks  map[uint64]uint64         // by stream, the next free number of a chunk
	stored  map[streamName]*elsewhere // what other replicas have stored
	rec     record
	app     appender
	entries int
	left    int // entries that blocks have already
	bad     int
}

// recover rebuilds streams from block files and replays the WAL into heads.
func (i *Ingester) recover(found *blocks.Recovered) error {
	began := time.Now()
	r := &recovery{i: i, app: appender{replay: true}, byRef: map[uint64]*stream{}, covered: map[uint64][]blocks.Piece{}, chunks: found.NextChunk}
	if err := r.blocks(found); err != nil {
		return err
	}
	said := began
	stats, err := i.wal.Replay(i.ctx, func(lsn wal.LSN, payload []byte) error {
		if now := time.Now(); now.Sub(said) >= progressPeriod {
			said = now
			done, total := i.wal.Progress()
			i.log.Info("replaying the WAL", "done_bytes", done, "total_bytes", total, "entries", r.entries, "took", now.Sub(began))
		}
		if err := r.push(uint64(lsn), payload); err != nil {
			r.bad++
			i.m.badRecords.Inc()
			i.log.Error("a WAL record does not decode, it is skipped", "lsn", uint64(lsn), "err", err)
		}
		if i.slabs.InUse() > i.headMemory {
			i.wantMemory()
			return i.replayWait()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ingester: replay: %w", err)
	}
	// Streams of which nothing is left are not forgotten all at once either.
	now := i.deps.Now().UnixNano()
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		if st.touched == 0 {
			st.touched = st.past(now, never, i.idle/2)
		}
	})
	i.m.badRecords.Add(float64(found.Corruptions))
	i.log.Info("recovered", "streams", len(r.byRef), "blocks", len(found.Blocks), "entries", r.entries, "entries_in_blocks", r.left,
		"wal_bytes", stats.Bytes, "wal_records", stats.Records, "corrupt_wal_records", stats.Corruptions, "bad_records", r.bad,
		"corrupt_blocks", found.Corruptions, "took", time.Since(began))
	return nil
}

// progressPeriod is how often a replay says how far it is.
const progressPeriod = 5 * time.Second

// replayWait holds the replay while heads are over their memory.
func (i *Ingester) replayWait() error {
	for i.slabs.InUse() > i.headMemory+i.headMemory/4 {
		i.wantMemory()
		select {
		case <-i.memory.wait():
		case <-time.After(10 * time.Millisecond):
		case <-i.ctx.Done():
			return i.ctx.Err()
		}
	}
	return nil
}

// blocks puts the blocks that were not flushed into chunks again.
func (r *recovery) blocks(found *blocks.Recovered) error {
	i := r.i
	oldest := uint64(i.wal.Oldest())
	now := i.deps.Now().UnixNano()
	for ref := range found.NextChunk {
		r.ref(ref)
	}
	for _, c := range found.Covers {
		if c.Cover.Max() < oldest {
			continue
		}
		pieces, err := c.Cover.Pieces(r.covered[c.Stream])
		if err != nil {
			return err
		}
		r.covered[c.Stream] = pieces
	}
	for _, pieces := range r.covered {
		sort.Slice(pieces, func(a, b int) bool { return pieces[a].LSN < pieces[b].LSN })
	}
	r.elsewhere(found.Covered)
	type chunkID struct{ stream, seq uint64 }
	chunks := map[chunkID]*openChunk{}
	var order []*openChunk
	for _, b := range found.Blocks {
		codec := chunk.Codec(b.Codec)
		bl := &block{
			ref: b.Ref, codec: codec, interim: codec != i.codec, entries: b.Entries, size: b.Size, mint: b.MinT, maxt: b.MaxT,
			symbols: b.HasSymbols, started: b.Opened,
		}
		if r.isStored(b, bl, found) {
			i.blocks.Drop(b.Ref)
			continue
		}
		st := r.stream(b.Stream, b.Tenant, b.Labels)
		id := chunkID{b.Stream, b.Chunk}
		c := chunks[id]
		if c == nil {
			ln := &st.main
			if b.Late {
				ln = st.lateLane()
			}
			c = &openChunk{stream: st, lane: ln, ref: b.Stream, seq: b.Chunk, opened: b.Opened, restored: now}
			chunks[id] = c
			order = append(order, c)
		}
		c.add(bl)
		c.extend(b.MinT, b.MaxT)
		i.m.localBlocks.Add(1)
		st.newest.Store(max(st.newest.Load(), b.MaxT))
		st.touched = max(st.touched, st.past(now, b.MaxT, i.idle/2))
	}
	// The newest chunk of a lane stays open and goes on filling, unless it was
	// closed; the others had been.
	sort.SliceStable(order, func(a, b int) bool { return order[a].seq < order[b].seq })
	for _, c := range order {
		_, closed := found.Closed[blocks.ChunkID{Stream: c.ref, Chunk: c.seq}]
		c.stage = coverage.Restored(closed)
		r.reopen(c, closed)
	}
	return nil
}

// reopen makes c the open chunk of its lane, in place of an earlier one. A
// closed one goes on to the flushers.
func (r *recovery) reopen(c *openChunk, closed bool) {
	st := c.stream
	if !closed && c.ref == st.ref.Load() {
		symbols, err := r.i.symbols(values(c.blocks))
		if err != nil {
			// Whoever stores the chunk deals with that.
			r.i.log.Warn("symbols of a chunk cannot be read, it is not filled any further", "stream", st.labels, "err", err)
			closed = true
		} else if len(symbols) > 0 {
			c.syms = chunk.NewSymbols(symbols)
		}
	} else {
		closed = true
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	r.i.closeChunk(c.lane, reasonFull)
	c.lane.chunk = c
	if closed {
		r.i.closeChunk(c.lane, reasonFull)
	}
}

func values(bls []*block) []block {
	out := make([]block, len(bls))
	for k, b := range bls {
		out[k] = *b
	}
	return out
}

// ref keeps new stream numbers apart from old ones.
func (r *recovery) ref(n uint64) {
	if n > r.i.nextRef.Load() {
		r.i.nextRef.Store(n)
	}
}

// stream returns the stream numbered ref, making it if need be.
func (r *recovery) stream(ref uint64, tenantID, canonical string) *stream {
	if st := r.byRef[ref]; st != nil {
		return st
	}
	r.ref(ref)
	tn := r.i.tenant(tenantID)
	tok := token(tenantID, canonical)
	sh := tn.shard(tok)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	st := sh.m[canonical]
	if st == nil {
		st = tn.newStream(ref, canonical, tok)
		r.i.addStream(tn, sh, st)
	} else if st.ref.Load() < ref {
		// The stream had been dropped and made anew. Entries of both numbers
		// go on under the newer one; covers are kept by number.
		st.mu.Lock()
		st.lanes(func(ln *lane) { r.i.closeChunk(ln, reasonFull) }) // what has one number is not mixed with what has another
		st.mu.Unlock()
		st.ref.Store(ref)
	}
	st.mu.Lock()
	st.nextChunk = max(st.nextChunk, r.chunks[ref])
	st.mu.Unlock()
	r.byRef[ref] = st
	return st
}

var errNoLabels = errors.New("ingester: stream without labels in WAL")

// push replays one record.
func (r *recovery) push(lsn uint64, payload []byte) error {
	if len(payload) > 0 && payload[0] == idRecord {
		return r.ids(lsn, payload[1:])
	}
	if err := r.rec.decode(payload); err != nil {
		return err
	}
	b := push.Get()
	defer b.Release()
	if err := b.SetBody(r.rec.body, r.rec.codec, 0); err != nil {
		return err
	}
	if len(b.Streams) != len(r.rec.streams) {
		return fmt.Errorf("ingester: body has %d streams, header %d", len(b.Streams), len(r.rec.streams))
	}
	b.Tenant = r.rec.tenant
	r.app.i, r.app.lsn, r.app.now = r.i, lsn, r.i.deps.Now().UnixNano()
	r.app.named, r.app.part = r.i.copies.peers != nil, coverage.Push(r.rec.part)
	var failed error
	skipFrom := 0
	for k := range b.Streams {
		rs := &r.rec.streams[k]
		skips := r.rec.skips[skipFrom:rs.skips]
		skipFrom = rs.skips
		if rs.ref == 0 {
			continue
		}
		s := &b.Streams[k]
		if rs.labels != nil {
			s.Labels = string(rs.labels)
		} else if st := r.byRef[rs.ref]; st != nil {
			s.Labels = st.labels
		} else {
			// The record with the definition is lost. The client's own labels
			// are the next best: the entries are kept.
			ls, err := labels.Parse(string(b.Bytes(s.RawLabels)))
			if err != nil || len(ls) == 0 {
				failed = errNoLabels
				continue
			}
			s.Labels = ls.String()
			r.i.log.Warn("definition of a stream is lost, taking the labels of the push", "stream", s.Labels)
		}
		st := r.stream(rs.ref, b.Tenant, s.Labels)
		covered := r.of(rs.ref, lsn)
		var stored coverage.Set
		if e := r.stored[streamName{b.Tenant, s.Labels}]; e != nil {
			stored = e.all
		}
		n := 0
		r.app.st = st
		st.mu.Lock()
		r.app.append(b, s, func(k int) bool {
			for len(skips) > 0 && int(skips[0])+int(s.First) < k {
				skips = skips[1:]
			}
			if len(skips) > 0 && int(skips[0])+int(s.First) == k {
				return true
			}
			for _, p := range covered {
				if k >= int(p.From) && k < int(p.To) {
					r.left++
					return true
				}
			}
			if len(stored) > 0 && stored.Has(r.app.part, uint32(k)) {
				r.left++
				return true
			}
			n++
			return false
		})
		st.mu.Unlock()
		r.entries += n
	}
	if failed == nil {
		r.i.ids.add(pushKey{r.i.tenant(b.Tenant), r.rec.id}, lsn, r.app.now)
	}
	return failed
}

// ids takes in a record of push ids.
func (r *recovery) ids(lsn uint64, p []byte) error {
	now := r.i.deps.Now().UnixNano()
	return decodeIDs(p, func(tenant []byte, id push.ID) {
		r.i.ids.add(pushKey{r.i.tenant(string(tenant)), id}, lsn, now)
	})
}

// of returns the pieces of push lsn that blocks of stream ref have.
func (r *recovery) of(ref, lsn uint64) []blocks.Piece {
	all := r.covered[ref]
	k := sort.Search(len(all), func(k int) bool { return all[k].LSN >= lsn })
	end := k
	for end < len(all) && all[end].LSN == lsn {
		end++
	}
	return all[k:end]
}
