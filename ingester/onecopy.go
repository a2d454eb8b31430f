package ingester

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/ingester/coverage"
	"github.com/loki-go/loki-go/proto/push"
)

// Peers are the other replicas of streams; see docs/replication.md. Its methods
// may be called concurrently.
type Peers interface {
	// Place returns the rank of this instance for a stream, as coverage.Rank has
	// it, and the other instances that may have entries of it, in the order of its
	// walk. It does not block.
	Place(token uint32) (rank int, others []string)
	// Covered tells an instance what is stored. nil means that it has that on
	// record.
	Covered(ctx context.Context, instance string, ns []coverage.Notice) error
	// StoreFor has an instance store what it is the first to store and this one
	// has, too. It returns when that is done and this instance was told of all that
	// the other one has stored.
	StoreFor(ctx context.Context, instance string) error
}

// copies is what an ingester knows of its part in storing one copy.
type copies struct {
	peers Peers
	grace int64             // ns
	tick  time.Duration     // how often it is looked whose turn has come
	ask   chan []*openChunk // others are to store these, if they are the first to do so

	using  sync.RWMutex // held for reading by calls of other replicas
	closed bool         // under using

	mu     sync.Mutex
	held   map[*openChunk]*coverage.Turn // closed, and another replica's to store
	outbox coverage.Outbox
}

// Bounds of notices.
const (
	maxOutbox  = 16 << 20         // bytes in memory for each replica
	maxTold    = 1 << 20          // bytes in one call, about
	maxRuns    = 32 << 10         // in one notice
	tellWithin = 5 * time.Second  // for one call
	tellAgain  = 30 * time.Second // at the latest
	tellFor    = 2 * time.Hour    // somebody who never answers
)

func (o *copies) init(cfg Config, p Peers) {
	if !cfg.OneCopy {
		p = nil
	}
	o.peers, o.grace = p, int64(cfg.OneCopyGrace)
	o.tick = min(max(cfg.OneCopyGrace/8, 10*time.Millisecond), time.Second)
	o.ask = make(chan []*openChunk, 1)
	o.held = map[*openChunk]*coverage.Turn{}
	o.outbox.Max = maxOutbox
}

// close waits for calls of other replicas and lets no more in.
func (o *copies) close() {
	o.using.Lock()
	defer o.using.Unlock()
	o.closed = true
}

// remove reports whether c was held back, which it is not any more.
func (o *copies) remove(c *openChunk) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.held[c]
	delete(o.held, c)
	return ok
}

// waiting returns the chunks that are held back.
func (o *copies) waiting() []*openChunk {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Keys(o.held))
}

// come reports whether it is c's turn, which then is not held back any more.
func (o *copies) come(c *openChunk, now int64, rank int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	turn := o.held[c]
	if turn == nil || !turn.Come(now, rank, o.grace) {
		return false
	}
	delete(o.held, c)
	return true
}

func (o *copies) pending() (held, notices int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.held), o.outbox.Len()
}

// holdBack keeps c from the flushers if another replica is to store it first.
// Call with the stream's mutex held.
func (i *Ingester) holdBack(c *openChunk) bool {
	o := &i.copies
	if o.peers == nil || c.urgent || len(c.blocks) == 0 || !c.stage.Shrinks() {
		return false
	}
	now := i.deps.Now().UnixNano()
	turn := &coverage.Turn{Closed: now, Restored: c.restored}
	if rank, _ := o.peers.Place(c.stream.token); turn.Come(now, rank, o.grace) {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held[c] = turn
	return true
}

// waiter hands chunks to the flushers when their turn has come.
func (i *Ingester) waiter() {
	o := &i.copies
	tick := time.NewTicker(o.tick)
	defer tick.Stop()
	for {
		select {
		case <-i.ctx.Done():
			return
		case list := <-o.ask:
			i.askOthers(i.ctx, list)
			continue
		case <-tick.C:
		}
		now := i.deps.Now().UnixNano()
		for _, c := range o.waiting() {
			rank, _ := o.peers.Place(c.stream.token)
			if o.come(c, now, rank) {
				i.flushq.put(c)
			}
		}
	}
}

// expedite hands chunks to the flushers whose turn has not come.
func (i *Ingester) expedite(list []*openChunk) {
	for _, c := range list {
		c.stream.mu.Lock()
		c.urgent = true
		c.stream.mu.Unlock()
		if i.copies.remove(c) {
			i.flushq.put(c)
		}
	}
}

// askBehind is askOthers for a caller who does not wait.
func (i *Ingester) askBehind(list []*openChunk) {
	if i.copies.peers == nil {
		return
	}
	select {
	case i.copies.ask <- list:
	default: // it was asked a moment ago
		i.expedite(list)
	}
}

// askOthers has the other replicas store what they are the first to store, and
// tell what we were not told. What is left goes to our own flushers.
func (i *Ingester) askOthers(ctx context.Context, list []*openChunk) {
	if i.copies.peers == nil {
		return
	}
	ask := map[string]bool{}
	for _, c := range list {
		rank, others := i.copies.peers.Place(c.stream.token)
		for _, name := range others {
			if rank > 0 || c.restored > 0 {
				ask[name] = true
			}
		}
	}
	// Who does not answer at all is given up by the network much earlier.
	within := 5 * i.cfg.FlushTimeout
	if at, ok := ctx.Deadline(); ok {
		within = min(within, time.Until(at)/2) // the rest is for what they do not store
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var wg sync.WaitGroup
	for name := range ask {
		wg.Go(func() {
			if err := i.copies.peers.StoreFor(ctx, name); err != nil {
				i.log.Info("another replica does not say what it has stored; it may be stored from here, too", "instance", name, "err", err)
			}
		})
	}
	wg.Wait()
	i.expedite(list)
}

// errEnding is the answer to other replicas at the end of the process.
var errEnding = &push.Error{Reason: push.Leaving, Msg: "ingester: shutting down", RetryAfter: time.Second}

// enter lets a call of another replica in, until leave is called.
func (i *Ingester) enter() (leave func(), err error) {
	if state(i.state.Load()) == stateJoining {
		return nil, &push.Error{Reason: push.Replaying, Msg: "ingester: replaying the WAL", RetryAfter: time.Second}
	}
	i.copies.using.RLock()
	if i.copies.closed {
		i.copies.using.RUnlock()
		return nil, errEnding
	}
	return i.copies.using.RUnlock, nil
}

// StoreFor stores what this instance is the first to store and another one may
// have, too. It returns when that is stored and the other one was told, unless it
// could not be reached.
func (i *Ingester) StoreFor(ctx context.Context, instance string) error {
	leave, err := i.enter()
	if err != nil {
		return err
	}
	leave() // what follows ends with the workers
	if i.copies.peers == nil {
		return nil
	}
	var all []*openChunk
	i.eachStream(func(st *stream) {
		rank, others := i.copies.peers.Place(st.token)
		if rank != 0 || !slices.Contains(others, instance) {
			return
		}
		st.mu.Lock()
		defer st.mu.Unlock()
		st.lanes(func(ln *lane) {
			i.closeChunk(ln, reasonRequested)
			all = append(all, ln.closed...)
		})
	})
	i.expedite(all)
	i.flushq.hurry()
	if err := i.await(ctx, all); err != nil {
		return err
	}
	return i.tellLate(ctx, instance)
}

// tellLate tells an instance what it did not take when it was told.
func (i *Ingester) tellLate(ctx context.Context, name string) error {
	o := &i.copies
	for ctx.Err() == nil {
		o.mu.Lock()
		ns := o.outbox.Peek(name, maxTold)
		o.mu.Unlock()
		if len(ns) == 0 {
			return nil
		}
		if err := i.tellOnce(name, ns); err != nil {
			return err
		}
		o.mu.Lock()
		o.outbox.Done(name, ns)
		o.mu.Unlock()
	}
	return ctx.Err()
}

// Covered lets go of what other replicas have stored and indexed. When it
// returns nil that is on record, durably.
func (i *Ingester) Covered(ctx context.Context, ns []coverage.Notice) error {
	leave, err := i.enter()
	if err != nil {
		return err
	}
	defer leave()
	var refs []blocks.Ref
	for k := range ns {
		if err := ctx.Err(); err != nil {
			return err
		}
		ref, err := i.covered(&ns[k])
		if err != nil {
			return err
		}
		if ref.Valid() {
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		return nil
	}
	i.wantTrim()
	return i.blocks.Ensure(refs...)
}

// find returns a stream, nil if there is none.
func (i *Ingester) find(tenantID, canonical string) *stream {
	i.tenantsMu.RLock()
	tn := i.tenants[tenantID]
	i.tenantsMu.RUnlock()
	if tn == nil {
		return nil
	}
	sh := tn.shard(token(tenantID, canonical))
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.m[canonical]
}

// covered lets go of what n covers, and returns the record of that.
func (i *Ingester) covered(n *coverage.Notice) (ref blocks.Ref, err error) {
	st := i.find(n.Tenant, n.Labels)
	if st == nil {
		return ref, nil
	}
	// Names of blocks are read without the stream's mutex; meanwhile heads may
	// become blocks.
	t := taking{i: i, st: st, covered: n.Entries, names: map[*block]coverage.Set{}}
	for {
		st.mu.Lock()
		unknown := t.unknown()
		hit := len(unknown) == 0 && t.take(ref.Valid())
		st.mu.Unlock()
		switch {
		case len(unknown) > 0:
			for _, b := range unknown {
				t.names[b.block] = i.names(b.ref)
			}
		case !hit || ref.Valid():
			return ref, nil
		default:
			// The record goes first: a block file is deleted when its blocks are
			// let go of on record.
			ref, err = i.blocks.Cover(blocks.Covered{
				Tenant: n.Tenant, Labels: n.Labels, LSN: uint64(i.wal.Next()) - 1, Entries: n.Entries.Append(nil),
			})
			if err != nil {
				i.m.blockErrors.Inc()
				return ref, err
			}
		}
	}
}

// names returns the names of the entries in a block; none if that is not known.
func (i *Ingester) names(ref blocks.Ref) coverage.Set {
	p, err := i.blocks.Pushes(ref)
	if err == nil {
		var s coverage.Set
		if s, err = coverage.Decode(p); err == nil {
			return s
		}
	}
	i.log.Warn("the names of the entries in a block cannot be read, it is taken for the only copy", "err", err)
	return nil
}

// taking is what covered does to one stream. Its methods are called with the
// stream's mutex held.
type taking struct {
	i       *Ingester
	st      *stream
	covered coverage.Set
	names   map[*block]coverage.Set
}

type placed struct {
	block *block
	ref   blocks.Ref
}

// chunks calls f for those that may shrink.
func (t *taking) chunks(f func(*openChunk)) {
	t.st.lanes(func(ln *lane) {
		for _, c := range slices.Clone(ln.closed) {
			if c.stage.Shrinks() {
				f(c)
			}
		}
		if ln.chunk != nil {
			f(ln.chunk)
		}
	})
}

// unknown returns the blocks whose names are still to be read.
func (t *taking) unknown() (out []placed) {
	t.chunks(func(c *openChunk) {
		for _, b := range c.blocks {
			if _, ok := t.names[b]; !ok && !b.known {
				out = append(out, placed{b, b.ref})
			}
		}
	})
	return out
}

// take reports whether anything is covered, and lets go of it if apply is set.
func (t *taking) take(apply bool) (hit bool) {
	t.chunks(func(c *openChunk) {
		gone := map[*block]bool{}
		for _, b := range c.blocks {
			left := b.left
			if !b.known {
				left = t.names[b]
			}
			rest, effect := coverage.Take(left, t.covered)
			if effect == coverage.Nothing {
				continue
			}
			hit = true
			if apply {
				b.left, b.known = rest, true
				gone[b] = effect == coverage.Whole
			}
		}
		if len(gone) > 0 {
			t.i.letGo(c, gone)
		}
	})
	t.st.lanes(func(ln *lane) {
		heads := slices.Clone(ln.sealed)
		if ln.head != nil {
			heads = append(heads, ln.head)
		}
		for _, h := range heads {
			left, _ := h.pushes.Set().Minus(h.taken)
			rest, effect := coverage.Take(left, t.covered)
			if effect == coverage.Nothing || !h.chunk.stage.Shrinks() {
				continue
			}
			hit = true
			if !apply {
				continue
			}
			done, _ := left.Minus(rest)
			h.taken = h.taken.Union(done)
			// Queries may be reading it: it goes the way of all heads, and is let
			// go of when it is a block.
			if effect == coverage.Whole && h == ln.head {
				t.i.seal(ln)
			}
		}
	})
	return hit
}

// inherit makes b, which h became, know what other replicas have stored. It
// reports whether that is all.
func (h *head) inherit(b *block) (all bool) {
	if len(h.taken) == 0 {
		return false
	}
	b.left, _ = h.pushes.Set().Minus(h.taken)
	b.known = true
	return len(b.left) == 0
}

// letGo drops those blocks of c that are set in gone: another replica has stored
// them. Call with the stream's mutex held.
func (i *Ingester) letGo(c *openChunk, gone map[*block]bool) {
	all := c.blocks
	c.blocks = nil
	kept := make([]*block, 0, len(all))
	for _, b := range all {
		if !gone[b] {
			kept = append(kept, b)
			continue
		}
		c.taken = true
		b.released = true
		i.blocks.Drop(b.ref)
		i.m.localBlocks.Add(-1)
		i.m.coveredEntries.Add(float64(b.entries))
		i.m.coveredBytes.Add(float64(b.ref.Len()))
	}
	c.recount(kept)
	if len(c.blocks) > 0 || c.cutting > 0 {
		return
	}
	ln := c.lane
	switch {
	case c.closed:
		if i.copies.remove(c) {
			i.flushq.put(c) // which lets go of c
		}
	case ln.chunk == c && ln.head == nil:
		ln.chunk = nil
		if ln.late && len(ln.closed) == 0 && len(ln.sealed) == 0 {
			c.stream.late = nil
		}
	}
}

// recount makes blocks those of c, which had more. It is as old as what is left:
// so it will be full, or old, when the first replica's is. Call with the stream's
// mutex held.
func (c *openChunk) recount(blocks []*block) {
	c.raw, c.compressed, c.interim, c.onDisk, c.rows = 0, 0, 0, 0, nil
	c.mint, c.maxt = 0, 0
	oldest := int64(0)
	left := func(started, mint, maxt int64) {
		if oldest == 0 || started < oldest {
			oldest = started
		}
		c.extend(mint, maxt)
	}
	for _, b := range blocks {
		c.add(b)
		left(b.started, b.mint, b.maxt)
	}
	for _, h := range c.lane.sealed {
		if h.chunk == c {
			left(h.started, h.mint, h.maxt)
		}
	}
	if h := c.lane.head; h != nil && h.chunk == c {
		left(h.started, h.mint, h.maxt)
	}
	if !c.closed { // a closed one has its place in a queue by then
		c.opened = max(c.opened, oldest)
	} else if c.cutting == 0 {
		c.rows = nil
	}
}

// begin says that a flusher has c, which from now on stays what it is. It returns
// false if other replicas have stored all of it; then c is done with.
func (i *Ingester) begin(c *openChunk) bool {
	c.stream.mu.Lock()
	gone := c.taken && len(c.blocks) == 0
	if !gone {
		c.stage = max(c.stage, coverage.Storing)
	}
	c.stream.mu.Unlock()
	if gone {
		i.m.flushed.WithLabelValues(reasonCovered).Inc()
		close(c.put)
		i.index.bytes.Add(c.disk())
		i.forget(c)
	}
	return !gone
}

// storedAs counts who stores what.
func (i *Ingester) storedAs(c *openChunk) {
	if i.copies.peers == nil {
		return
	}
	by := "first"
	if rank, _ := i.copies.peers.Place(c.stream.token); rank > 0 {
		by = "other"
	}
	i.m.copiesStored.WithLabelValues(by).Inc()
}

// claims returns the names of the entries that the objects of c have.
func (i *Ingester) claims(c *openChunk) coverage.Set {
	var known []coverage.Run
	var refs []blocks.Ref
	c.stream.mu.Lock()
	ok := c.stage.Claims()
	for _, b := range c.blocks {
		switch {
		case b.lost:
		case b.known:
			known = append(known, b.left...)
		default:
			refs = append(refs, b.ref)
		}
	}
	c.stream.mu.Unlock()
	if !ok {
		return nil
	}
	for _, ref := range refs {
		known = append(known, i.names(ref)...)
	}
	return coverage.Of(known...)
}

// reach sets how far chunks are.
func reach(list []*openChunk, s coverage.Stage) {
	for _, c := range list {
		c.stream.mu.Lock()
		c.stage = s
		c.stream.mu.Unlock()
	}
}

// announce tells the other replicas that chunks are stored and in an index. It
// comes before that is put on record here: after a crash in between the same
// objects are stored once more, and the others told. Who does not answer at once
// is told later.
func (i *Ingester) announce(list []*openChunk) {
	o := &i.copies
	if o.peers == nil {
		return
	}
	reach(list, coverage.Stored)
	to := map[string][]coverage.Notice{}
	for _, c := range list {
		names := i.claims(c)
		if len(names) == 0 {
			continue
		}
		_, others := o.peers.Place(c.stream.token)
		for _, part := range names.Parts(maxRuns) {
			n := coverage.Notice{Tenant: c.stream.tenant.id, Labels: c.stream.labels, Entries: part}
			for _, name := range others {
				to[name] = append(to[name], n)
			}
		}
	}
	var wg sync.WaitGroup
	for name, ns := range to {
		wg.Go(func() {
			o.mu.Lock()
			busy := len(o.outbox.Peek(name, 1)) > 0 // it does not answer, or is behind
			o.mu.Unlock()
			if !busy {
				ns = i.tell(name, ns)
			}
			if len(ns) == 0 {
				return
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			i.m.noticesForgotten.Add(float64(o.outbox.Add(name, ns...)))
		})
	}
	wg.Wait()
	reach(list, coverage.Told)
}

// tell returns the notices that an instance did not take.
func (i *Ingester) tell(name string, ns []coverage.Notice) []coverage.Notice {
	for len(ns) > 0 {
		n, size := 0, 0
		for n < len(ns) && (n == 0 || size < maxTold) {
			size += ns[n].Size()
			n++
		}
		if err := i.tellOnce(name, ns[:n]); err != nil {
			break
		}
		ns = ns[n:]
	}
	return ns
}

func (i *Ingester) tellOnce(name string, ns []coverage.Notice) error {
	ctx, cancel := context.WithTimeout(i.ctx, tellWithin)
	defer cancel()
	err := i.copies.peers.Covered(ctx, name, ns)
	if err != nil {
		i.m.notices.WithLabelValues("failed").Add(float64(len(ns)))
		i.log.Debug("a replica was not told what is stored, it is told again later", "instance", name, "notices", len(ns), "err", err)
		return err
	}
	i.m.notices.WithLabelValues("sent").Add(float64(len(ns)))
	return nil
}

// teller tells replicas again what they did not take.
func (i *Ingester) teller() {
	o := &i.copies
	failures, first, next := map[string]int{}, map[string]time.Time{}, map[string]time.Time{}
	tick := time.NewTicker(o.tick)
	defer tick.Stop()
	for {
		select {
		case <-i.ctx.Done():
			return
		case <-tick.C:
		}
		o.mu.Lock()
		names := o.outbox.Replicas()
		o.mu.Unlock()
		for _, name := range names {
			if time.Now().Before(next[name]) {
				continue
			}
			err := i.tellLate(i.ctx, name)
			if err != nil && failures[name] == 0 {
				first[name] = time.Now()
			}
			gone := err != nil && time.Since(first[name]) > tellFor
			if gone {
				o.mu.Lock()
				n := o.outbox.Forget(name)
				o.mu.Unlock()
				i.m.noticesForgotten.Add(float64(n))
				i.log.Info("a replica is not told of what is stored any more", "instance", name, "notices", n, "err", err)
			}
			if err == nil || gone {
				delete(failures, name)
				delete(first, name)
				delete(next, name)
				continue
			}
			failures[name]++
			next[name] = time.Now().Add(pause(failures[name], min(tellAgain, time.Duration(o.grace)/8)))
		}
	}
}

// streamName names a stream in all instances.
type streamName struct{ tenant, labels string }

// elsewhere is what other replicas have stored of a stream, as block files have
// it on record.
type elsewhere struct {
	at   []int // places in blocks.Recovered.Covered
	sets []coverage.Set
	all  coverage.Set
}

// elsewhere reads the records of what other replicas have stored.
func (r *recovery) elsewhere(list []blocks.Covered) {
	r.stored = map[streamName]*elsewhere{}
	for k, c := range list {
		s, err := coverage.Decode(c.Entries)
		if err != nil {
			r.i.log.Warn("a record of what is stored does not decode: it may be stored once more", "stream", c.Labels, "err", err)
			continue
		}
		name := streamName{c.Tenant, c.Labels}
		e := r.stored[name]
		if e == nil {
			e = new(elsewhere)
			r.stored[name] = e
		}
		e.at, e.sets = append(e.at, k), append(e.sets, s)
	}
	for _, e := range r.stored {
		e.all = coverage.Of(slices.Concat(e.sets...)...)
	}
}

// isStored reports whether other replicas have stored all of b. Else bl, which is
// to be b, learns what they have stored. A chunk that was being stored stays what
// it was.
func (r *recovery) isStored(b *blocks.Block, bl *block, found *blocks.Recovered) bool {
	e := r.stored[streamName{b.Tenant, b.Labels}]
	if e == nil || len(b.Pushes) == 0 {
		return false
	}
	left, err := coverage.Decode(b.Pushes)
	if err != nil {
		return false
	}
	limit := len(found.Covered)
	if c, ok := found.Closed[blocks.ChunkID{Stream: b.Stream, Chunk: b.Chunk}]; ok {
		limit = c.Covered
	}
	for k, at := range e.at {
		if at >= limit {
			break
		}
		rest, effect := coverage.Take(left, e.sets[k])
		switch effect {
		case coverage.Whole:
			return true
		case coverage.Part:
			left = rest
			bl.left, bl.known = left, true
		case coverage.Nothing:
		}
	}
	return false
}
