// Package ingester keeps the newest entries of every stream and turns them
// into stored chunks.
//
// # From push to chunk
//
// Push logs the batch in the WAL, waits until it is as durable as wal.sync
// says, appends the entries to the heads of their streams, and returns. A head
// is the content of a block in order of arrival, outside the Go heap. When it
// is full, or when memory runs short, it is sealed, sorted if it has to be,
// compressed by a cutter and written to a block file (package blocks): once,
// and never rewritten by checkpoints. A replica that is not the first to store the
// stream compresses for the time being (see interim). Blocks make a chunk; a chunk that is full,
// old or idle is closed, durably, and flushed: its objects first, then, with
// others, the index that lists them, then a local record, durably, too, and only
// then are its blocks let go. After a crash between any two of these steps the
// same objects are made again.
//
// # While the store is down
//
// Chunks wait on local disk (flushQueue), one upload at a time tries the store
// (gate), and local disk and memory for what waits have bounds past which pushes
// are refused (room).
//
// # What the WAL has to keep
//
// Every block says which pushes its entries came with, to the entry. So the
// WAL only matters for what is in heads: Replay leaves out what blocks cover,
// and segments behind the oldest push in any head are deleted once the block
// files are synced. When an idle stream's head holds back too much of the WAL, it
// is cut early; small blocks are merged when their chunk is flushed.
//
// # Late entries
//
// An entry up to half of max-chunk-age behind the newest of its stream goes into
// the open chunk. An older one goes to the stream's late lane, which has a chunk
// of its own, back to the tenant's horizon. Chunks whose blocks overlap in time
// become several objects side by side, or are put in order, when they are flushed.
//
// # Concurrency
//
// A stream has a mutex; nothing that waits for disk or network happens under
// it. Open starts the workers, Shutdown stops and waits for them.
package ingester

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/loki-go/loki-go/ingester/blocks"
	"github.com/loki-go/loki-go/ingester/coverage"
	"github.com/loki-go/loki-go/ingester/slab"
	"github.com/loki-go/loki-go/ingester/wal"
	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/vfs"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/storage/chunk"
	"github.com/loki-go/loki-go/storage/index"
)

// Limits are the limits of one tenant that the ingester enforces.
type Limits struct {
	MaxStreams int           // active streams; 0: no limit
	Unordered  bool          // accept entries older than the stream's newest
	Horizon    time.Duration // how far behind; 0: half of max-chunk-age, as Loki
}

// Store is where chunks end up. Both calls return when the data is durable.
type Store interface {
	PutChunk(ctx context.Context, key chunk.Key, object []byte) error
	PutIndex(ctx context.Context, tenant string, series []index.Series) error
}

// Deps is what an ingester needs from outside.
type Deps struct {
	Store      Store
	Limits     func(tenant string) Limits
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // wall clock; time.Now if nil
	Peers      Peers            // other replicas; nil if there are none
}

type state int32

const (
	stateJoining state = iota // replaying
	stateActive
	stateLeaving
)

func (s state) String() string { return [...]string{"JOINING", "ACTIVE", "LEAVING"}[s] }

// Ingester is described in the package comment. Its methods are safe for
// concurrent use.
type Ingester struct {
	cfg    Config
	deps   Deps
	fs     vfs.FS
	dir    string
	log    *slog.Logger
	codec  chunk.Codec
	window int64 // ns behind the newest entry that the open chunk takes
	maxAge int64 // ns
	idle   int64 // ns

	blockSize  int
	targetSize int
	headMemory int64

	slabs  *slab.Pool
	wal    *wal.Log
	blocks *blocks.Store
	state  atomic.Int32
	m      *metrics

	tenantsMu sync.RWMutex
	tenants   map[string]*tenant
	nextRef   atomic.Uint64

	inflight inflight
	ids      pushIDs
	cutq     queue[*head]
	flushq   flushQueue
	index    indexer
	memory   memory
	room     room
	gate     gate
	merges   chan struct{} // has an element for each flusher that decompresses and compresses
	copies   copies

	ctx     context.Context // ends when workers shall stop at once
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	squeeze chan struct{} // heads need more than their memory
	trim    chan struct{} // look after the WAL now
}

// Open reads what an earlier process left in dir and starts the workers. It
// returns at once; pushes are refused with push.Replaying until Ready returns
// nil. The WAL's replay goes on in the background.
func Open(fsys vfs.FS, dir string, cfg Config, deps Deps) (*Ingester, error) {
	if errs := cfg.Validate(); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	codec, err := chunk.ParseCodec(cfg.ChunkEncoding)
	if err != nil {
		return nil, err
	}
	sync, err := wal.ParseSyncMode(cfg.WAL.Sync)
	if err != nil {
		return nil, err
	}
	i := &Ingester{
		cfg: cfg, deps: deps, fs: fsys, dir: dir, log: deps.Log.With("component", "ingester"), codec: codec,
		window: int64(cfg.MaxChunkAge / 2), maxAge: int64(cfg.MaxChunkAge), idle: int64(cfg.ChunkIdlePeriod),
		blockSize: int(cfg.ChunkBlockSize), targetSize: int(cfg.ChunkTargetSize), headMemory: cfg.headMemory(),
		slabs: slab.New(), tenants: map[string]*tenant{},
		squeeze: make(chan struct{}, 1), trim: make(chan struct{}, 1),
	}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	i.inflight.init()
	i.room.init(cfg, fsys, dir, i.headMemory)
	i.ids.init(int64(cfg.PushIDWindow), int(min(maxPushIDs, i.fileSize(fsys, dir)/64)))
	i.cutq.init()
	i.flushq.init()
	i.gate.init(cfg.FlushConcurrency)
	i.merges = make(chan struct{}, cutters())
	i.index.init()
	i.copies.init(cfg, deps.Peers)
	i.memory.freed = make(chan struct{})

	var found *blocks.Recovered
	if i.blocks, found, err = blocks.Open(fsys, filepath.Join(dir, "blocks"), blocks.Options{FileSize: i.fileSize(fsys, dir), Log: deps.Log}); err != nil {
		return nil, err
	}
	i.wal, err = wal.Open(fsys, filepath.Join(dir, "wal"), wal.Options{
		Sync: sync, SyncInterval: cfg.WAL.SyncInterval, SegmentSize: i.fileSize(fsys, dir), First: wal.LSN(found.MaxLSN + 1), Log: deps.Log, Registerer: deps.Registerer,
	})
	if err != nil {
		i.blocks.Close()
		return nil, err
	}
	i.m = newMetrics(deps.Registerer, i)
	i.watch()
	i.start(func() {
		if err := i.recover(found); err != nil {
			i.log.Error("recovery failed, pushes stay refused", "err", err)
			i.m.recoveryFailed.Set(1)
			return
		}
		i.state.CompareAndSwap(int32(stateJoining), int32(stateActive))
	})
	for range cutters() {
		i.start(i.cutter)
	}
	for range cfg.FlushConcurrency {
		i.start(i.flusher)
	}
	i.start(i.indexerLoop)
	i.start(i.squeezer)
	i.start(i.watcher)
	i.start(i.janitor)
	i.start(i.sweeper)
	if i.copies.peers != nil {
		i.start(i.waiter)
		i.start(i.teller)
	}
	return i, nil
}

// fileSize is the size of a WAL segment or block file: 64 MiB, or less on a
// small volume, which a few of them must not fill.
func (i *Ingester) fileSize(fsys vfs.FS, dir string) int64 {
	size := int64(64 << 20)
	if _, total, err := fsys.Free(dir); err == nil && total > 0 {
		size = min(size, max(int64(total/64), 1<<20))
	}
	return min(size, max(int64(i.cfg.WAL.MaxSize)/4, 1<<20), max(i.room.budget/16, 1<<20))
}

func (i *Ingester) start(fn func()) {
	i.wg.Add(1)
	go func() {
		defer i.wg.Done()
		fn()
	}()
}

// State returns the instance's state in the ring: JOINING, ACTIVE or LEAVING.
func (i *Ingester) State() string { return state(i.state.Load()).String() }

// Ready returns nil when pushes are accepted, else why not.
func (i *Ingester) Ready() error {
	switch state(i.state.Load()) {
	case stateJoining:
		done, total := i.wal.Progress()
		return fmt.Errorf("ingester is replaying its WAL: %d of %d bytes", done, total)
	case stateLeaving:
		return errors.New("ingester is leaving")
	}
	return nil
}

// inflight knows the pushes between logging and the end of apply.
type inflight struct {
	mu     sync.Mutex
	bounds map[*pushState]uint64 // a number that the push's own is not below
	closed bool
	idle   chan struct{} // closed when closed and nothing is in flight
}

func (f *inflight) init() {
	f.bounds = map[*pushState]uint64{}
	f.idle = make(chan struct{})
}

func (f *inflight) enter(ps *pushState, next func() wal.LSN) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.bounds[ps] = uint64(next())
	return true
}

func (f *inflight) leave(ps *pushState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.bounds, ps)
	if f.closed && len(f.bounds) == 0 {
		close(f.idle)
	}
}

// oldest returns a number below which no push is in flight.
func (f *inflight) oldest(next func() wal.LSN) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := uint64(next())
	for _, b := range f.bounds {
		n = min(n, b)
	}
	return n
}

func (f *inflight) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		if len(f.bounds) == 0 {
			close(f.idle)
		}
	}
}

// memory makes pushes wait while heads hold too much.
type memory struct {
	mu    sync.Mutex
	freed chan struct{} // closed and replaced whenever a head's buffer is given back
}

func (m *memory) wait() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.freed
}

func (m *memory) signal() {
	m.mu.Lock()
	close(m.freed)
	m.freed = make(chan struct{})
	m.mu.Unlock()
}

// maxWait is how long a push waits for memory before it is refused. It must be
// well below the time-outs of clients (10 s without an answer at Logstash).
const maxWait = 3 * time.Second

// admit waits until heads are within 5/4 of their memory.
func (i *Ingester) admit(ctx context.Context) error {
	hard := i.headMemory + i.headMemory/4
	if i.slabs.InUse() <= hard {
		return nil
	}
	i.m.waits.Inc()
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	for {
		freed := i.memory.wait()
		if i.slabs.InUse() <= hard {
			return nil
		}
		i.wantMemory()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return i.refuse(push.Overloaded, "heads use %d bytes, more than their memory of %d, and cutting them takes too long", i.slabs.InUse(), i.headMemory)
		}
	}
}

func (i *Ingester) refuse(r push.Reason, format string, args ...any) *push.Error {
	e := push.Errorf(r, "ingester: "+format, args...)
	i.m.refused.WithLabelValues(r.String()).Inc()
	e.RetryAfter = time.Second
	if r == push.DiskLow {
		e.RetryAfter = 5 * time.Second
	}
	return e
}

func (i *Ingester) wantMemory() {
	select {
	case i.squeeze <- struct{}{}:
	default:
	}
}

// pushState is the scratch memory of a push.
type pushState struct {
	streams []*stream
	header  []byte
	app     appender
}

var pushStates = sync.Pool{New: func() any { return new(pushState) }}

// Push stores b; see docs/architecture.md for what it returns. Streams need
// their canonical labels and tokens, and the batch must not be Stale.
func (i *Ingester) Push(ctx context.Context, b *push.Batch) error {
	switch state(i.state.Load()) {
	case stateJoining:
		return i.refuse(push.Replaying, "replaying the WAL")
	case stateLeaving:
		return i.refuse(push.Leaving, "shutting down")
	}
	tn := i.tenant(b.Tenant)
	if i.ids.window == 0 || b.ID == (push.ID{}) {
		_, err := i.push(ctx, tn, b)
		return err
	}
	key := pushKey{tn, b.ID}
	stored, err := i.ids.enter(ctx, key)
	if stored {
		i.m.repeated.Inc()
	}
	if stored || err != nil {
		return err
	}
	lsn := uint64(0)
	defer func() { i.ids.leave(key, lsn, i.deps.Now().UnixNano()) }()
	lsn, err = i.push(ctx, tn, b)
	return err
}

// push stores b, which is no repetition. It returns the number of its record,
// or 0 if something was refused: what is sent again then has to be looked at
// again.
func (i *Ingester) push(ctx context.Context, tn *tenant, b *push.Batch) (uint64, error) {
	if err := i.hasRoom(); err != nil {
		return 0, err
	}
	if err := i.admit(ctx); err != nil {
		return 0, err
	}
	ps := pushStates.Get().(*pushState)
	defer pushStates.Put(ps)
	if !i.inflight.enter(ps, i.wal.Next) {
		return 0, i.refuse(push.Leaving, "shutting down")
	}
	defer i.inflight.leave(ps)

	lim := i.deps.Limits(b.Tenant)
	var rej push.Rejected
	ps.streams = ps.streams[:0]
	accepted := 0
	defer func() {
		for _, st := range ps.streams {
			if st != nil {
				st.pending.Add(-1)
			}
		}
		clear(ps.streams)
	}()
	for k := range b.Streams {
		s := &b.Streams[k]
		ps.streams = append(ps.streams, nil)
		if s.Reject != push.OK {
			continue
		}
		st := i.stream(tn, s.Labels, s.Token, lim.MaxStreams)
		if st == nil {
			s.Reject = push.StreamLimit
			rej.Add(push.StreamLimit, s.Labels, int(s.Count), streamBytes(b, s), func() string {
				return fmt.Sprintf("maximum active stream limit exceeded when trying to create stream %s, reduce the number of active streams (reduce labels or reduce label values), or contact your administrator to see if the limit can be increased, user: '%s', limit: %d", s.Labels, b.Tenant, lim.MaxStreams)
			})
			continue
		}
		n := i.check(st, b, s, lim, &rej)
		if n == 0 {
			st.pending.Add(-1)
			continue
		}
		ps.streams[k] = st
		accepted += n
	}
	id := b.ID
	if rej.Entries > 0 {
		id = push.ID{}
	}
	lsn := uint64(0)
	if accepted > 0 {
		var err error
		if lsn, err = i.commit(ctx, ps, b, id); err != nil {
			return 0, err
		}
	}
	if rej.Entries > 0 {
		rej.Total = len(b.Entries)
		return 0, &rej
	}
	return lsn, nil
}

// commit logs the accepted entries under id and appends them to their heads.
func (i *Ingester) commit(ctx context.Context, ps *pushState, b *push.Batch, id push.ID) (uint64, error) {
	if b.Stale {
		return 0, push.Errorf(push.Internal, "ingester: batch has entries that its body has not")
	}
	sts := ps.streams
	seg := i.wal.CurrentSegment()
	var logged wal.Ticket
	for {
		ps.header = appendHeader(ps.header[:0], b, id, sts, func(st *stream) bool { return st.seg.Load() != uint64(seg) })
		var cur wal.SegmentID
		var err error
		logged, cur, err = i.wal.Append(seg, ps.header, b.Body)
		if err == nil {
			break
		}
		if errors.Is(err, wal.ErrSegment) {
			seg = cur
			continue
		}
		return 0, i.walError(err)
	}
	for _, st := range sts {
		if st != nil {
			st.seg.Store(uint64(seg))
		}
	}
	// A client that goes away changes nothing: its entries are logged, so they
	// are applied too.
	if err := logged.Wait(context.WithoutCancel(ctx)); err != nil {
		return 0, i.walError(err)
	}
	refused := func(k int) bool { return b.Entries[k].Reject != push.OK }
	ps.app.i, ps.app.lsn, ps.app.now = i, uint64(logged.LSN), i.deps.Now().UnixNano()
	ps.app.named, ps.app.part = i.copies.peers != nil, coverage.Push(b.Part)
	for k, st := range sts {
		if st == nil {
			continue
		}
		ps.app.st = st
		st.mu.Lock()
		ps.app.append(b, &b.Streams[k], refused)
		st.mu.Unlock()
	}
	i.m.entries.Add(float64(len(b.Entries)))
	i.m.bytes.Add(float64(len(b.Data)))
	i.room.took(len(ps.header) + len(b.Body))
	if i.slabs.InUse() > i.headMemory {
		i.wantMemory()
	}
	return uint64(logged.LSN), nil
}

// walError turns an error of the WAL into what the client may know. Entries of
// a failed commit are in no head; should they have reached the disk, a restart
// brings them back, which to the client is an answer that got lost.
func (i *Ingester) walError(err error) error {
	switch {
	case errors.Is(err, wal.ErrDiskFull):
		i.room.low.Store(true)
		i.wantTrim()
		return i.refuse(push.DiskLow, "local disk is full: %v", err)
	}
	return push.Errorf(push.Internal, "ingester: %v", err)
}

func streamBytes(b *push.Batch, s *push.Stream) int {
	n := 0
	for _, e := range b.StreamEntries(s) {
		n += int(e.Line.Len) + int(e.Meta.Len)
	}
	return n
}

// check marks entries that the tenant's ordering rules refuse and returns how
// many are left. What was decided here stands, whatever other pushes do until
// the entries are appended.
func (i *Ingester) check(st *stream, b *push.Batch, s *push.Stream, lim Limits, rej *push.Rejected) int {
	newest := st.newest.Load()
	back := int64(lim.Horizon)
	if lim.Horizon == 0 {
		back = i.window
	}
	if !lim.Unordered {
		back = 0
	}
	left := 0
	entries := b.StreamEntries(s)
	for k := range entries {
		e := &entries[k]
		if e.Reject != push.OK {
			continue
		}
		if e.TS >= newest {
			newest = e.TS
			left++
			continue
		}
		floor := newest - back
		if e.TS >= floor || newest < math.MinInt64+back {
			left++
			continue
		}
		e.Reject = push.OutOfOrder
		if lim.Unordered {
			e.Reject = push.TooFarBehind
		}
		rej.Add(e.Reject, st.labels, 1, int(e.Line.Len)+int(e.Meta.Len), func() string {
			why := "entry out of order"
			if lim.Unordered {
				why = fmt.Sprintf("entry too far behind, entry timestamp is: %s, oldest acceptable timestamp is: %s",
					time.Unix(0, e.TS).UTC().Format(time.RFC3339), time.Unix(0, floor).UTC().Format(time.RFC3339))
			}
			return fmt.Sprintf("entry with timestamp %s ignored, reason: '%s', user '%s', stream: %s", time.Unix(0, e.TS).UTC(), why, b.Tenant, st.labels)
		})
		for g := range rej.Groups {
			if r := &rej.Groups[g]; r.Reason == e.Reject && r.OldestOK == 0 {
				r.OldestOK = floor
			}
		}
	}
	return left
}

func (i *Ingester) tenant(id string) *tenant {
	i.tenantsMu.RLock()
	tn := i.tenants[id]
	i.tenantsMu.RUnlock()
	if tn != nil {
		return tn
	}
	i.tenantsMu.Lock()
	defer i.tenantsMu.Unlock()
	if tn = i.tenants[id]; tn == nil {
		tn = &tenant{id: id}
		for k := range tn.shards {
			tn.shards[k].m = map[string]*stream{}
		}
		i.tenants[id] = tn
	}
	return tn
}

// stream returns the stream with pending raised, making it if it is new, or
// nil if the tenant may have no more.
func (i *Ingester) stream(tn *tenant, canonical string, token uint32, limit int) *stream {
	sh := tn.shard(token)
	sh.mu.RLock()
	st := sh.m[canonical]
	if st != nil {
		st.pending.Add(1)
	}
	sh.mu.RUnlock()
	if st != nil {
		return st
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st = sh.m[canonical]; st == nil {
		if limit > 0 && tn.active.Load() >= int64(limit) {
			return nil
		}
		st = tn.newStream(i.nextRef.Add(1), canonical, token)
		i.addStream(tn, sh, st)
	}
	st.pending.Add(1)
	return st
}

// addStream puts st on the map. Call with sh.mu held.
func (i *Ingester) addStream(tn *tenant, sh *shard, st *stream) {
	sh.m[st.labels] = st
	tn.active.Add(1)
}

// eachStream calls fn for every stream of every tenant.
func (i *Ingester) eachStream(fn func(*stream)) {
	i.tenantsMu.RLock()
	all := make([]*tenant, 0, len(i.tenants))
	for _, tn := range i.tenants {
		all = append(all, tn)
	}
	i.tenantsMu.RUnlock()
	for _, tn := range all {
		tn.each(fn)
	}
}

// Shutdown stops taking pushes, waits for those in flight, stores everything if
// flush is set, and closes the files. What was not stored is in WAL and block
// files for the next start. ctx bounds the flush, not the rest.
func (i *Ingester) Shutdown(ctx context.Context, flush bool) error {
	wasActive := state(i.state.Swap(int32(stateLeaving))) == stateActive
	i.inflight.close()
	<-i.inflight.idle
	var err error
	if flush && wasActive {
		err = i.Flush(ctx, true)
	}
	i.cancel()
	i.cutq.close()
	i.flushq.close()
	i.wg.Wait()
	i.copies.close()
	err = errors.Join(err, i.wal.Close(), i.blocks.Close())
	i.slabs.Close()
	return err
}

// token returns the ring token of a stream whose labels come from disk.
func token(tenant, canonical string) uint32 { return labels.Token(tenant, canonical) }
