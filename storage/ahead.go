package storage

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/loki-go/loki-go/storage/chunk"
)

const (
	// maxReadAhead bounds the requests that one query has under way.
	maxReadAhead = 1024
	// minReserve is set aside for a chunk however small it is: it also bounds
	// how many are fetched at a time.
	minReserve = 64 << 10
	// maxGuesses is after how many loads that fit both orders one is assumed.
	maxGuesses = 4
	// maxTurns is after how many loads that were not foreseen a selection is
	// taken to be read in no order.
	maxTurns = 8
)

// prefetcher is what all selections of a store share: a budget of memory, and
// the goroutines that fetch.
type prefetcher struct {
	s      *Store
	window int
	max    int64
	ctx    context.Context // ends with close
	cancel context.CancelFunc

	mu   sync.Mutex
	used int64
	wg   sync.WaitGroup
}

func newPrefetcher(s *Store, window int, maxBytes int64) *prefetcher {
	p := &prefetcher{s: s, window: window, max: maxBytes}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

func (p *prefetcher) close() {
	p.mu.Lock()
	p.cancel() // no goroutine is started from here on
	p.mu.Unlock()
	p.wg.Wait()
}

// start runs fetch if its memory is within the budget.
func (p *prefetcher) start(bytes int64, fetch func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil || p.used+bytes > p.max {
		return false
	}
	p.add(bytes)
	p.wg.Go(fetch)
	return true
}

// add changes what is set aside. Call with mu held.
func (p *prefetcher) add(bytes int64) {
	p.used += bytes
	p.s.m.aheadBytes.Set(float64(p.used))
}

// ahead is a chunk that is fetched before it is asked for.
type ahead struct {
	p     *prefetcher
	ready chan struct{}
	chunk *chunk.Chunk
	err   error

	// Guarded by p.mu. The memory is given back when nobody has it any more:
	// neither the fetch nor the selection.
	bytes         int64
	fetched, left bool
}

// finish says that the fetch has ended.
func (a *ahead) finish() {
	close(a.ready)
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	a.fetched = true
	size := int64(0)
	if a.chunk != nil && !a.left {
		size = memoryOf(a.chunk)
	}
	a.p.add(size - a.bytes)
	a.bytes = size
}

// leave says that the selection has taken the chunk or does without.
func (a *ahead) leave() {
	a.p.mu.Lock()
	defer a.p.mu.Unlock()
	a.left = true
	if a.fetched {
		a.p.add(-a.bytes)
		a.bytes = 0
	}
}

// readAhead is the reading ahead of one selection. Queries load blocks in the
// order of time, from either end, and leave out those that they can do
// without. From the first load it sees which order that is, then keeps some of
// the next blocks in flight: one at first, more with each load that comes as
// foreseen, since many queries need few blocks.
type readAhead struct {
	mu      sync.Mutex
	order   []int32 // numbers of refs as they will be loaded; nil: not known
	place   []int32 // of each ref in order
	next    int     // behind the last load, in order
	window  int
	guesses int
	turns   int
	off     bool
	pending map[int32]*ahead
	stop    func() bool // lets go of the context
	ctx     context.Context
	cancel  context.CancelFunc
}

// load returns the chunk of r, and has those fetched that come next.
func (a *readAhead) load(r *chunkRef) (*chunk.Chunk, error) {
	ready := a.visit(r)
	if ready == nil {
		return r.sel.s.getChunk(r.sel.ctx, r.key)
	}
	defer ready.leave()
	select {
	case <-ready.ready:
		if ready.err != nil && r.sel.ctx.Err() == nil {
			// Its fetch may have been called off, with the store.
			return r.sel.s.getChunk(r.sel.ctx, r.key)
		}
		return ready.chunk, ready.err
	case <-r.sel.ctx.Done():
		return nil, context.Cause(r.sel.ctx)
	}
}

// visit takes note of a load, starts others, and returns that of r if it was
// started before.
func (a *readAhead) visit(r *chunkRef) *ahead {
	sel := r.sel
	p := sel.s.ahead
	if p.window == 0 || len(sel.refs) < 2 || sel.ctx.Done() == nil {
		return nil // without an end of the query nothing could be called off
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	ready := a.pending[r.n]
	delete(a.pending, r.n)
	if a.off || sel.ctx.Err() != nil || !a.foresee(r, p.window) {
		return ready
	}
	a.skip()
	for i := a.next; i < len(a.order) && i < a.next+a.window; i++ {
		if n := a.order[i]; a.pending[n] == nil && !a.fetch(&sel.refs[n]) {
			break
		}
	}
	return ready
}

// foresee finds the place of r in the order of loads, and reports whether more
// is to be fetched.
func (a *readAhead) foresee(r *chunkRef, window int) bool {
	if a.order == nil && !a.arrange(r) {
		return false
	}
	at := int(a.place[r.n])
	if at < a.next {
		if a.turns++; a.turns > maxTurns {
			a.off = true
			a.abandon()
			return false
		}
		a.window = 0
	}
	a.next = at + 1
	a.window = min(max(1, 2*a.window), window)
	return true
}

// skip lets go of chunks that the query has passed by.
func (a *readAhead) skip() {
	for n, f := range a.pending {
		if int(a.place[n]) < a.next || int(a.place[n]) >= a.next+a.window {
			a.unused(n, f)
		}
	}
}

func (a *readAhead) unused(n int32, f *ahead) {
	delete(a.pending, n)
	f.p.s.m.aheadUnused.Inc()
	f.leave()
}

// abandon lets go of all.
func (a *readAhead) abandon() {
	for n, f := range a.pending {
		a.unused(n, f)
	}
}

// fetch begins to fetch r, if there is room for it.
func (a *readAhead) fetch(r *chunkRef) bool {
	p := r.sel.s.ahead
	if a.ctx == nil {
		a.begin(r.sel, p)
	}
	// The index says how large it is uncompressed. Compression can add to
	// that, and so do labels, but not much.
	f := &ahead{p: p, ready: make(chan struct{}), bytes: max(minReserve, int64(r.kb)<<10+minReserve/2)}
	ctx := a.ctx
	ok := p.start(f.bytes, func() {
		defer f.finish()
		f.chunk, f.err = p.s.getChunk(ctx, r.key)
	})
	if ok {
		p.s.m.ahead.Inc()
		a.pending[r.n] = f
	}
	return ok
}

// begin ties fetches to the query and to the store.
func (a *readAhead) begin(sel *selection, p *prefetcher) {
	a.pending = map[int32]*ahead{}
	a.ctx, a.cancel = context.WithCancel(sel.ctx)
	a.stop = context.AfterFunc(p.ctx, a.cancel)
	context.AfterFunc(sel.ctx, func() {
		a.stop()
		a.mu.Lock()
		defer a.mu.Unlock()
		a.off = true
		a.abandon()
	})
}

// arrange sorts refs in the order that begins nearest to r, if that is clear.
func (a *readAhead) arrange(r *chunkRef) bool {
	sel := r.sel
	o := ordering{sel, seriesOrder(sel.refs)}
	older, newer := 0, 0
	for i := range sel.refs {
		if o.forward(&sel.refs[i], r) < 0 {
			older++
		}
		if o.backward(&sel.refs[i], r) < 0 {
			newer++
		}
	}
	if a.guesses++; older == newer && a.guesses < maxGuesses {
		return false
	}
	compare := o.backward
	if older < newer {
		compare = o.forward
	}
	a.order = make([]int32, len(sel.refs))
	for i := range a.order {
		a.order[i] = int32(i)
	}
	slices.SortFunc(a.order, func(x, y int32) int { return compare(&sel.refs[x], &sel.refs[y]) })
	a.place = make([]int32, len(sel.refs))
	for i, n := range a.order {
		a.place[n] = int32(i)
	}
	return true
}

// ordering compares refs by when a query loads them: by the best entry that
// each can have in the range, then by stream and age.
type ordering struct {
	sel    *selection
	series []int32 // rank of each
}

func (o *ordering) forward(a, b *chunkRef) int {
	x, _ := a.Bounds()
	y, _ := b.Bounds()
	return cmp.Or(cmp.Compare(max(x, o.sel.from), max(y, o.sel.from)), o.tie(a, b))
}

func (o *ordering) backward(a, b *chunkRef) int {
	_, x := a.Bounds()
	_, y := b.Bounds()
	last := o.sel.through - 1
	return cmp.Or(cmp.Compare(min(y, last), min(x, last)), o.tie(b, a))
}

func (o *ordering) tie(a, b *chunkRef) int {
	return cmp.Or(cmp.Compare(o.series[a.series], o.series[b.series]), cmp.Compare(a.key.From, b.key.From),
		cmp.Compare(a.key.Through, b.key.Through), cmp.Compare(a.n, b.n))
}

// seriesOrder ranks series by the text of their labels.
func seriesOrder(refs []chunkRef) []int32 {
	texts := make([]string, refs[len(refs)-1].series+1)
	for i := range refs {
		if t := &texts[refs[i].series]; *t == "" {
			*t = refs[i].labels.String()
		}
	}
	by := make([]int32, len(texts))
	for i := range by {
		by[i] = int32(i)
	}
	slices.SortStableFunc(by, func(a, b int32) int { return strings.Compare(texts[a], texts[b]) })
	rank := make([]int32, len(texts))
	for r, i := range by {
		rank[i] = int32(r)
	}
	return rank
}
