package ingester

import (
	"bytes"
	"math"
	"sync"
	"sync/atomic"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/ingester/coverage"
	"github.com/loki-go/loki-go/ingester/slab"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

// tenant holds the streams of one tenant.
type tenant struct {
	id     string
	active atomic.Int64
	shards [16]shard
}

type shard struct {
	mu sync.RWMutex
	m  map[string]*stream // by canonical labels
}

func (t *tenant) shard(token uint32) *shard { return &t.shards[token%uint32(len(t.shards))] }

// each calls fn for every stream. The stream may be gone from the map by then.
func (t *tenant) each(fn func(*stream)) {
	var batch []*stream
	for i := range t.shards {
		sh := &t.shards[i]
		batch = batch[:0]
		sh.mu.RLock()
		for _, st := range sh.m {
			batch = append(batch, st)
		}
		sh.mu.RUnlock()
		for _, st := range batch {
			fn(st)
		}
	}
}

// never is the newest time of a stream that has no entry.
const never = math.MinInt64

// stream is one label set of a tenant. The fields behind mu are guarded by it.
type stream struct {
	tenant  *tenant
	ref     atomic.Uint64 // number of the stream in WAL and block files; changes in recovery only
	labels  string        // canonical
	token   uint32
	seg     atomic.Uint64 // WAL segment that has its definition
	pending atomic.Int32  // pushes between look-up and the end of apply; raised under the shard's lock
	newest  atomic.Int64  // newest time applied, ns

	mu        sync.Mutex
	touched   int64 // wall time of the last append, ns
	nextChunk uint64
	main      lane
	late      *lane // entries too old for main's open chunk; nil until there are any
}

// lane is a row of chunks of a stream, at most one of them open.
type lane struct {
	late   bool
	head   *head
	chunk  *openChunk   // the one that head belongs to
	closed []*openChunk // complete, on their way to storage
	sealed []*head      // full, on their way to a block
}

// head is the newest entries of a lane, as the content of a block in order of
// arrival. After it was sealed nothing is added; after it was cut its buffer is
// gone and block says where the entries are.
type head struct {
	stream     *stream
	chunk      *openChunk
	buf        slab.Buf
	entries    uint32
	size       int // bytes as Loki counts them: lines, and 8 for each metadata pair
	mint, maxt int64
	last       int64 // time of the entry that came last
	disorder   bool
	started    int64 // wall time of the first append, ns
	cover      blocks.Cover
	pushes     coverage.Log // the same entries, by the names that other replicas know
	taken      coverage.Set // of these, what another replica has stored
	sealed     bool
	block      *block // set when cut
}

// block is a cut block in a block file.
type block struct {
	ref        blocks.Ref
	codec      chunk.Codec
	interim    bool // compressed otherwise than it is stored
	entries    uint32
	size       int
	mint, maxt int64
	symbols    bool // it has metadata: its symbols are in the block file
	released   bool // flushed; ref is no longer counted
	lost       bool // damaged for good

	started int64        // wall time at which the first entry came, ns
	known   bool         // left says what no other replica has stored; else that is in the block file
	left    coverage.Set // names of entries
}

// openChunk is a chunk that is being filled or flushed.
type openChunk struct {
	stream     *stream
	lane       *lane
	ref, seq   uint64         // stream and chunk in block files
	syms       *chunk.Symbols // nil until an entry has metadata, and again when all heads are blocks of a closed chunk
	blocks     []*block
	onDisk     int64   // bytes in block files
	rows       []int64 // ends of the rows that the blocks fall into, see Ingester.rows; at most maxSide+1
	cutting    int     // sealed heads that are no blocks yet
	rawSealed  int     // bytes in them
	raw        int     // uncompressed bytes in blocks
	compressed int     // bytes in blocks that are compressed as they are stored,
	interim    int     // and in the others
	shrink     float64 // bytes that one of the latter takes when it is stored, as a sample says; 0: there was none
	mint, maxt int64
	opened     int64 // wall time, ns
	closed     bool
	reason     string
	stage      coverage.Stage
	restored   int64 // wall time at which it was found in block files, ns; 0: it was not
	urgent     bool  // it is stored whoever else might do it
	taken      bool  // another replica has stored some of it

	// For the flusher that has the chunk, and the indexer after it.
	place uint64            // in the queue
	note  blocks.Ref        // record that the chunk is closed
	tries int               // failed ones
	metas []index.ChunkMeta // of the stored objects

	put  chan struct{} // closed when the chunk objects are stored; made at close
	done chan struct{} // closed when the index has it too
}

func (t *tenant) newStream(ref uint64, labels string, token uint32) *stream {
	st := &stream{tenant: t, labels: labels, token: token}
	st.ref.Store(ref)
	st.newest.Store(never)
	return st
}

// spread returns the share of d that belongs to the stream: the same in every
// process, and even over streams.
func (st *stream) spread(d int64) int64 {
	return d >> 16 * int64(st.token*2654435769>>16) // the constant is 2^32 divided by the golden ratio
}

// deadline returns after how much of d the stream is flushed: up to a tenth
// earlier, so that streams that began together are not flushed together.
func (st *stream) deadline(d int64) int64 { return d - st.spread(d/10) }

// past tells a replay when an entry had come: the WAL does not say. Logs are
// mostly live, so that is the entry's own time; where this is in the future or
// longer ago than keep it is some time within keep, another one for each stream.
func (st *stream) past(now, ts, keep int64) int64 {
	if ts <= now && ts > now-keep {
		return ts
	}
	return now - st.spread(keep)
}

// lateLane returns the late lane, making it on first use.
func (st *stream) lateLane() *lane {
	if st.late == nil {
		st.late = &lane{late: true}
	}
	return st.late
}

// lanes calls fn for the lanes that exist. Call with st.mu held.
func (st *stream) lanes(fn func(*lane)) {
	fn(&st.main)
	if st.late != nil {
		fn(st.late)
	}
}

// empty reports whether nothing of the stream is left here. Call with st.mu
// held.
func (st *stream) empty() bool {
	e := true
	st.lanes(func(ln *lane) {
		if ln.head != nil || ln.chunk != nil || len(ln.closed) > 0 || len(ln.sealed) > 0 {
			e = false
		}
	})
	return e
}

// add takes in a block. Call with the stream's mutex held.
func (c *openChunk) add(b *block) {
	c.blocks = append(c.blocks, b)
	c.raw += b.size
	if b.interim {
		c.interim += b.ref.Len()
	} else {
		c.compressed += b.ref.Len()
	}
	c.onDisk += b.ref.Disk()
	for k, end := range c.rows {
		if b.mint >= end {
			c.rows[k] = b.maxt
			return
		}
	}
	if len(c.rows) <= maxSide {
		c.rows = append(c.rows, b.maxt)
	}
}

// growth returns how many times the target size c may have: more where its
// blocks will go into several objects side by side, which would be small
// otherwise. Call with the stream's mutex held.
func (c *openChunk) growth() int {
	if n := len(c.rows); n <= maxSide {
		return min(max(n, 1), maxSide/2)
	}
	return 1
}

// disk returns the bytes of c in block files. It must be closed and cut.
func (c *openChunk) disk() int64 { return c.onDisk }

func (c *openChunk) extend(mint, maxt int64) {
	if c.mint == 0 && c.maxt == 0 {
		c.mint, c.maxt = mint, maxt
		return
	}
	c.mint, c.maxt = min(c.mint, mint), max(c.maxt, maxt)
}

// appender puts the entries of one push into one stream.
type appender struct {
	i    *Ingester
	st   *stream
	lsn  uint64
	now  int64 // wall time, ns
	syms []uint32

	replay bool // the entries came before now
	named  bool // pushes have names, which heads keep
	part   coverage.Push
}

// came returns when an entry with time ts came.
func (a *appender) came(ts, keep int64) int64 {
	if !a.replay {
		return a.now
	}
	return a.st.past(a.now, ts, keep)
}

// name notes in h that it has entries [from, to) of the push, each of them.
func (a *appender) name(h *head, from, to int) {
	if a.named && from < to {
		h.pushes.Add(a.part, uint32(from), uint32(to))
	}
}

// intern makes a.syms the symbols of metadata in c.
func (a *appender) intern(c *openChunk, p push.PairIter) {
	a.syms = a.syms[:0]
	for p.Next() {
		if c.syms == nil {
			c.syms = chunk.NewSymbols(nil)
		}
		a.syms = append(a.syms, c.syms.Intern(p.Name), c.syms.Intern(p.Value))
	}
}

// append takes the entries of s, except those that skip says (it is given
// their number in the batch). Call with st.mu held.
func (a *appender) append(b *push.Batch, s *push.Stream, skip func(k int) bool) {
	st := a.st
	entries := b.StreamEntries(s)
	// Covers number entries by their place in the batch: a batch may name one
	// stream twice.
	base := int(s.First)
	newest := st.newest.Load()
	window := a.i.window
	age := st.deadline(a.i.maxAge)
	var cur *lane
	var meta []byte        // a.syms are the symbols of this,
	var symbols *openChunk // in this one
	a.syms = a.syms[:0]
	from := base
	run := base // entries from here to the one at hand are in cur.head, all of them
	for k := base; k < base+len(entries); k++ {
		e := &b.Entries[k]
		if skip(k) {
			if cur != nil {
				a.name(cur.head, run, k)
			}
			run = k + 1
			continue
		}
		ln := &st.main
		if newest != never && e.TS < newest-window {
			ln = st.lateLane()
		}
		if ln != cur {
			if cur != nil && cur.head != nil {
				cur.head.cover.Add(a.lsn, uint32(from), uint32(k))
				a.name(cur.head, run, k)
				from, run = k, k
			}
			cur = ln
		}
		line := b.Bytes(e.Line)
		need := 30 + len(line)
		if e.Meta.Len > 0 {
			need += 10 * int(e.Meta.Len) / 4 // a pair takes at least 4 bytes in protobuf, at most 10 here
		}
		if h := cur.head; h != nil && len(h.buf.B)+need > a.i.blockSize {
			h.cover.Add(a.lsn, uint32(from), uint32(k))
			a.name(h, run, k)
			from, run = k, k
			a.i.seal(cur)
		}
		if c := cur.chunk; c != nil && !cur.late && (e.TS-c.mint > age || c.maxt-e.TS > age) {
			if cur.head != nil && from < k {
				cur.head.cover.Add(a.lsn, uint32(from), uint32(k))
				a.name(cur.head, run, k)
				from, run = k, k
			}
			a.i.closeChunk(cur, reasonMaxAge)
		}
		h := a.head(cur, e.TS, need, int(s.Raw.Len))
		// Entries of one stream often have the same metadata.
		if m := b.Bytes(e.Meta); cur.chunk != symbols || !bytes.Equal(m, meta) {
			a.intern(cur.chunk, b.Pairs(e))
			meta, symbols = m, cur.chunk
		}
		h.buf.B = chunk.AppendEntry(h.buf.B, e.TS, line, a.syms)
		h.size += len(line) + 4*len(a.syms)
		if h.entries == 0 {
			h.mint, h.maxt = e.TS, e.TS
		} else {
			if e.TS < h.last {
				h.disorder = true
			}
			h.mint, h.maxt = min(h.mint, e.TS), max(h.maxt, e.TS)
		}
		h.last = e.TS
		h.entries++
		cur.chunk.extend(e.TS, e.TS)
		newest = max(newest, e.TS)
	}
	if cur != nil && cur.head != nil {
		a.name(cur.head, run, base+len(entries))
		if from == 0 && len(b.Streams) == 1 {
			cur.head.cover.Add(a.lsn, 0, blocks.All)
		} else {
			cur.head.cover.Add(a.lsn, uint32(from), uint32(base+len(entries)))
		}
	}
	st.newest.Store(newest)
	st.touched = max(st.touched, a.came(newest, a.i.idle/2))
}

// head returns ln's head with room for need more bytes, making head and chunk
// if there are none, for an entry with time ts. A new one gets room for hint
// bytes, within a block.
func (a *appender) head(ln *lane, ts int64, need, hint int) *head {
	if ln.chunk == nil {
		ln.chunk = &openChunk{stream: a.st, lane: ln, ref: a.st.ref.Load(), seq: a.st.nextChunk, opened: a.came(ts, a.i.maxAge/2)}
		a.st.nextChunk++
	}
	h := ln.head
	if h == nil {
		h = &head{stream: a.st, chunk: ln.chunk, started: a.now}
		h.buf = a.i.slabs.Get(max(need, min(hint, a.i.blockSize)))
		ln.head = h
		return h
	}
	if n := len(h.buf.B); cap(h.buf.B)-n < need {
		grown := a.i.slabs.Get(max(cap(h.buf.B)+1, n+need+n/4))
		grown.B = append(grown.B, h.buf.B...)
		a.i.slabs.Put(h.buf)
		h.buf = grown
	}
	return h
}
