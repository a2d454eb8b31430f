package ingester

import (
	"sort"
	"sync/atomic"
	"time"

	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/proto/push"
)

// room knows how much there is for what is not stored yet: local disk for WAL
// and block files, and memory for what the ingester has to know of them. While
// the store is down both fill; past their bounds pushes are refused, and taken
// again when a tenth of the bound is free.
type room struct {
	budget  int64  // bytes of WAL and block files
	minFree uint64 // bytes that are left free on the volume
	memory  int64  // bytes for blocks and closed chunks

	low     atomic.Bool // the volume is nearly full
	full    atomic.Bool // the budget is used up
	crowded atomic.Bool // the memory is

	used, crowd atomic.Int64 // as last seen
	step        int64        // so many bytes later it is time to look again
	taken       atomic.Int64 // bytes since
	kick        chan struct{}

	listed time.Time // when relieve last asked for an index; for the janitor alone
}

// What a block and a closed chunk take in memory, bytes, with what refers to
// them.
const (
	blockCost = 128
	chunkCost = 768
)

func (r *room) init(cfg Config, fsys vfs.FS, dir string, heads int64) {
	r.budget, r.minFree = int64(cfg.DiskBudget), uint64(cfg.DiskReserve)
	_, total, err := fsys.Free(dir)
	if err != nil {
		total = 0 // to be reported by whoever needs the directory
	}
	if r.budget == 0 {
		r.budget = 1 << 40
		if total > 0 {
			r.budget = max(int64(total/4*3), 16<<20)
		}
	}
	if r.minFree == 0 {
		r.minFree = 1 << 30
	}
	if total > 0 { // a volume of a few GB must not be refused from the start
		r.minFree = min(r.minFree, total/20)
	}
	r.memory = max(heads/2, 4<<20)
	r.step = min(max(r.budget/256, 64<<10), 64<<20)
	r.kick = make(chan struct{}, 1)
}

// took notes that n bytes were written.
func (r *room) took(n int) {
	if r.taken.Add(int64(n)) >= r.step {
		r.taken.Store(0)
		select {
		case r.kick <- struct{}{}:
		default:
		}
	}
}

// hasRoom returns why pushes are refused, nil if they are not.
func (i *Ingester) hasRoom() error {
	r := &i.room
	switch {
	case r.low.Load():
		return i.refuse(push.DiskLow, "local disk is full")
	case r.full.Load():
		return i.refuse(push.DiskLow, "%d bytes on local disk wait to be stored, of %d that ingester.disk-budget allows", r.used.Load(), r.budget)
	case r.crowded.Load():
		return i.refuse(push.Overloaded, "what waits to be stored takes %d bytes of memory, of %d that it may", r.crowd.Load(), r.memory)
	}
	return nil
}

// watcher looks after the room.
func (i *Ingester) watcher() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-i.ctx.Done():
			return
		case <-tick.C:
		case <-i.room.kick:
		}
		i.watch()
	}
}

// watch compares what is used with what may be.
func (i *Ingester) watch() {
	r := &i.room
	r.used.Store(i.wal.Size() + i.blocks.Stats().Bytes)
	r.crowd.Store(blockCost*i.m.localBlocks.Load() + chunkCost*i.m.pendingChunks.Load())
	flip := func(state *atomic.Bool, used, limit int64, what string) {
		was := state.Load()
		is := used >= limit || was && used > limit-limit/10
		if is == was {
			return
		}
		state.Store(is)
		_, down := i.gate.state()
		args := []any{"used_bytes", used, "limit_bytes", limit, "store_down", down, "pending_chunks", i.m.pendingChunks.Load()}
		if is {
			i.log.Error(what+" for data that is not stored yet is used up, pushes are refused until some of it is stored", args...)
		} else {
			i.log.Info(what+" for data that is not stored yet is free again, pushes are accepted", args...)
		}
	}
	flip(&r.full, r.used.Load(), r.budget, "local disk")
	flip(&r.crowded, r.crowd.Load(), r.memory, "memory")
	// Cutting heads, which is what makes WAL segments superfluous, takes space,
	// too.
	free, total, err := i.fs.Free(i.dir)
	if err != nil {
		i.log.Warn("asking for free disk space failed", "err", err)
		return
	}
	need := r.minFree
	if r.low.Load() {
		need += need / 10
	}
	if low := free < need; low != r.low.Swap(low) {
		if low {
			i.log.Error("local disk is nearly full, pushes are refused until there is space", "free", free, "total", total)
		} else {
			i.log.Info("local disk has space again", "free", free, "total", total)
		}
	}
}

// relieve brings forward what frees room, while the store works: index files of
// what is stored, and the flush of the largest open chunks. With the store
// down it would only make chunks small.
func (i *Ingester) relieve() {
	r := &i.room
	over := r.used.Load() - r.budget/4*3
	crowd := r.crowd.Load() - r.memory/4*3
	if over <= 0 && crowd <= 0 {
		return
	}
	if _, down := i.gate.state(); down {
		return
	}
	type candidate struct {
		st *stream
		ln *lane
		n  int64
	}
	var open []candidate
	closed, size := int64(0), func(c *openChunk) int64 { return c.onDisk }
	if over <= 0 {
		over, size = crowd, func(c *openChunk) int64 { return int64(blockCost * len(c.blocks)) }
	}
	i.eachStream(func(st *stream) {
		st.mu.Lock()
		defer st.mu.Unlock()
		st.lanes(func(ln *lane) {
			for _, c := range ln.closed {
				closed += size(c)
			}
			if c := ln.chunk; c != nil && len(c.blocks) > 0 {
				open = append(open, candidate{st, ln, size(c)})
			}
		})
	})
	sort.Slice(open, func(a, b int) bool { return open[a].n > open[b].n })
	for _, o := range open {
		if closed >= over {
			break
		}
		o.st.mu.Lock()
		i.closeChunk(o.ln, reasonDisk)
		o.st.mu.Unlock()
		closed += o.n
	}
	i.expedite(i.copies.waiting()) // room is worth more than one copy
	// Each file is to free a tenth of the budget, or all that waits, and then
	// not soon again.
	waiting, now := i.index.bytes.Load(), time.Now()
	if waiting >= r.budget/10 || waiting > 0 && i.flushq.len() == 0 && now.Sub(r.listed) >= i.cfg.IndexInterval/30 {
		r.listed = now
		i.index.request()
	}
}
