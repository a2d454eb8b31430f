package coverage

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// The simulation: replicas with a disk each, one stream, one store, a network
// that loses notices and answers, and a ring whose changes everybody sees at
// another time. Whatever a replica decides it decides with the functions of this
// package. A step is what can happen next; which one does is up to a scheduler:
// all of them (TestAllSchedules) or a random one (TestRandomSchedules).

// TestAllSchedules and TestRandomSchedules do more with the tag integration.
const (
	simRF     = 3
	simQuorum = 2
	simGrace  = int64(8)
)

// world is all there is.
type world struct {
	rules    rules
	now      int64
	replicas []*replica
	pushes   []*pushed
	store    map[string]*object
	budget   map[string]int // what may still go wrong, by kind; "any" bounds all
	failures int
}

// rules says what may happen, and which mistakes the replicas make.
type rules struct {
	prompt bool // time passes only when nobody who is up has anything to do
	whole  bool // a push comes to all replicas at once
	broken string
}

type pushed struct {
	name    Push
	entries uint32
	tried   uint16 // replicas that were asked to take it
	has     map[int]Set
}

func (p *pushed) acked() Set {
	var out []Run
	for k := range p.entries {
		n := 0
		for _, s := range p.has {
			if s.Has(p.name, k) {
				n++
			}
		}
		if n >= simQuorum {
			out = append(out, Run{p.name, k, k + 1})
		}
	}
	return Of(out...)
}

type object struct {
	has     Set
	indexed bool
}

// unit is a block, or a head.
type unit struct{ all, left Set }

// parcel is a chunk. What is on disk of it is units, noted and known.
type parcel struct {
	units  []unit
	closed bool
	stage  Stage
	turn   Turn
	key    string // once it is put
	noted  bool   // that it is being stored is on record
	known  Set    // what was known to be covered when it was noted
	told   uint16 // replicas that were told, or are to be told again
}

func (c *parcel) content() Set {
	var all Set
	for _, u := range c.units {
		all = all.Union(u.all)
	}
	return all
}

type replica struct {
	name    string
	up      bool
	lost    bool // its disk is gone
	away    bool // it has left the ring, and may take its time
	walk    []string
	chunks  []*parcel // the last one may be open
	covered Set       // on record
	outbox  Outbox
}

func newWorld(n, pushes int, entries uint32, r rules, budget map[string]int) *world {
	w := &world{rules: r, store: map[string]*object{}, budget: budget}
	var names []string
	for k := range n {
		names = append(names, string(rune('a'+k)))
	}
	for _, name := range names {
		w.replicas = append(w.replicas, &replica{name: name, up: true, walk: names, outbox: Outbox{Max: 1 << 20}})
	}
	for k := range pushes {
		w.pushes = append(w.pushes, &pushed{name: Push{1, uint64(k) + 1}, entries: entries, has: map[int]Set{}})
	}
	return w
}

func (w *world) clone() *world {
	c := *w
	c.replicas, c.pushes = nil, nil
	for _, r := range w.replicas {
		x := *r
		x.chunks = nil
		for _, p := range r.chunks {
			q := *p
			q.units = slices.Clone(p.units)
			x.chunks = append(x.chunks, &q)
		}
		x.outbox.queues = nil
		for to, q := range r.outbox.queues {
			x.outbox.Add(to, q.notices...)
		}
		c.replicas = append(c.replicas, &x)
	}
	for _, p := range w.pushes {
		x := *p
		x.has = map[int]Set{}
		for k, s := range p.has {
			x.has[k] = s
		}
		c.pushes = append(c.pushes, &x)
	}
	c.store = map[string]*object{}
	for k, o := range w.store {
		x := *o
		c.store[k] = &x
	}
	c.budget = map[string]int{}
	for k, n := range w.budget {
		c.budget[k] = n
	}
	return &c
}

func (s Set) String() string {
	var b strings.Builder
	for _, r := range s {
		fmt.Fprintf(&b, "%d.%d-%d ", r.Number, r.From, r.To)
	}
	return b.String()
}

// key describes the world; equal ones have equal futures.
func (w *world) key() string {
	var b strings.Builder
	for _, r := range w.replicas {
		fmt.Fprintf(&b, "%s %t %t %t %v %v;", r.name, r.up, r.lost, r.away, r.walk, r.covered)
		for _, c := range r.chunks {
			fmt.Fprintf(&b, "[%t %d %s %t %v %d", c.closed, c.stage, c.key, c.noted, c.known, c.told)
			if c.closed && c.stage == Held {
				fmt.Fprintf(&b, " %d %d %d %d", w.now-c.turn.Closed, w.now-c.turn.Restored, c.turn.rank, w.now-c.turn.since)
			}
			for _, u := range c.units {
				fmt.Fprintf(&b, "(%v/%v)", u.all, u.left)
			}
			b.WriteByte(']')
		}
		for _, o := range w.replicas {
			for _, n := range r.outbox.Peek(o.name, 1<<30) {
				fmt.Fprintf(&b, ">%s %v", o.name, n.Entries)
			}
		}
	}
	for _, p := range w.pushes {
		fmt.Fprintf(&b, "|%d", p.tried)
		for k := range w.replicas {
			fmt.Fprintf(&b, " %v", p.has[k])
		}
	}
	var keys []string
	for k, o := range w.store {
		keys = append(keys, fmt.Sprintf("%s %t", k, o.indexed))
	}
	slices.Sort(keys)
	fmt.Fprint(&b, keys)
	fmt.Fprint(&b, w.budget)
	return b.String()
}

// step is something that may happen.
type step struct {
	name string
	do   func(w *world)
	ends bool // it is work that a replica that is up does by itself
}

func (w *world) spend(kind string) bool { return w.budget[kind] > 0 && w.budget["any"] > 0 }

func (w *world) failed(kind string) {
	w.budget[kind]--
	w.budget["any"]--
	w.failures++
}

// rank is the place of replica r as r sees it: those that are down are not in the
// ring when the ring has noticed.
func (w *world) rank(r *replica) int { return Rank(r.name, r.walk, simRF) }

func (w *world) index(name string) int { return int(name[0] - 'a') }

// steps returns all that may happen next.
func (w *world) steps() []step {
	var out []step
	add := func(ends bool, do func(w *world), format string, args ...any) {
		out = append(out, step{fmt.Sprintf(format, args...), do, ends})
	}
	for k, p := range w.pushes {
		if w.rules.whole {
			if p.tried == 0 && (k == 0 || w.pushes[k-1].tried != 0) {
				add(false, func(w *world) {
					for r := range w.replicas[:simRF] {
						w.take(k, r, w.pushes[k].entries)
					}
				}, "push %d", k)
				for miss := range simRF {
					if w.spend("miss") {
						add(false, func(w *world) {
							w.failed("miss")
							for r := range w.replicas[:simRF] {
								if r != miss {
									w.take(k, r, w.pushes[k].entries)
								} else {
									w.take(k, r, w.pushes[k].entries-1) // it refuses the last entry
								}
							}
						}, "push %d, of which %d misses some", k, miss)
					}
				}
			}
			continue
		}
		for r := range w.replicas {
			if p.tried&(1<<r) == 0 && w.replicas[r].up {
				add(false, func(w *world) { w.take(k, r, w.pushes[k].entries) }, "push %d to %d", k, r)
				if w.spend("refuse") {
					add(false, func(w *world) { w.failed("refuse"); w.take(k, r, w.pushes[k].entries-1) }, "push %d to %d, which refuses some", k, r)
				}
			}
		}
	}
	for n, r := range w.replicas {
		if r.lost {
			continue
		}
		if !r.up {
			add(w.rules.prompt && !r.away, func(w *world) { w.restart(n) }, "%s starts", r.name)
			continue
		}
		if w.spend("crash") {
			add(false, func(w *world) { w.failed("crash"); w.crash(n) }, "%s crashes", r.name)
		}
		if w.spend("gone") {
			add(false, func(w *world) { w.failed("gone"); w.crash(n); w.leave(n) }, "%s crashes and leaves the ring", r.name)
		}
		if w.spend("disk") {
			add(false, func(w *world) { w.failed("disk"); w.crash(n); w.loseDisk(n) }, "%s loses its disk", r.name)
		}
		if w.spend("ring") {
			add(false, func(w *world) {
				w.failed("ring")
				x := w.replicas[n]
				x.walk = slices.Concat(x.walk[1:], x.walk[:1])
			}, "%s sees another ring", r.name)
		}
		for k, c := range r.chunks {
			switch {
			case !c.closed:
				add(true, func(w *world) { w.close(n, k) }, "%s closes", r.name)
			case c.stage == Held && len(c.units) > 0:
				turn := c.turn // a copy: to look does not change it
				if turn.Come(w.now, w.rank(r), simGrace) {
					add(true, func(w *world) { w.begin(n, k) }, "%s begins %d", r.name, k)
				}
			case c.stage == Storing && c.key == "":
				add(true, func(w *world) { w.put(n, k) }, "%s puts %d", r.name, k)
			case c.stage == Storing:
				add(true, func(w *world) { w.list(n, k) }, "%s lists %d", r.name, k)
				if w.rules.broken == "tells early" {
					out = w.tells(out, n, k)
				}
			case c.stage == Stored:
				out = w.tells(out, n, k)
			case c.stage.Ends():
				add(true, func(w *world) { w.end(n, k) }, "%s ends %d", r.name, k)
			}
		}
		for _, to := range r.outbox.Replicas() {
			if w.replicas[w.index(to)].up {
				add(true, func(w *world) {
					x := w.replicas[n]
					ns := x.outbox.Peek(to, 1<<20)
					for _, notice := range ns {
						w.hear(w.index(to), notice.Entries)
					}
					x.outbox.Done(to, ns)
				}, "%s tells %s again", r.name, to)
			}
		}
	}
	busy := slices.ContainsFunc(out, func(s step) bool { return s.ends })
	if !w.rules.prompt && w.waits() && w.now < 3*simGrace {
		add(false, func(w *world) { w.now += simGrace }, "time passes")
	} else if w.rules.prompt && w.waits() && !busy && w.now < 12*simGrace {
		add(false, func(w *world) { w.now += simGrace / 4 }, "time passes")
	}
	return out
}

// waits reports whether somebody waits for its turn.
func (w *world) waits() bool {
	for _, r := range w.replicas {
		for _, c := range r.chunks {
			if r.up && c.closed && c.stage == Held && len(c.units) > 0 {
				return true
			}
		}
	}
	return false
}

func (w *world) take(k, n int, entries uint32) {
	p, r := w.pushes[k], w.replicas[n]
	p.tried |= 1 << n
	if !r.up || entries == 0 {
		return
	}
	s := Of(Run{p.name, 0, entries})
	p.has[n] = s
	// What was covered before it came is not known any more, but on a replay.
	if k := len(r.chunks); k == 0 || r.chunks[k-1].closed {
		r.chunks = append(r.chunks, new(parcel))
	}
	c := r.chunks[len(r.chunks)-1]
	c.units = append(c.units, unit{s, s})
}

func (w *world) close(n, k int) {
	c := w.replicas[n].chunks[k]
	c.closed = true
	c.turn = Turn{Closed: w.now + 1, Restored: c.turn.Restored}
	c.turn.Come(w.now+1, w.rank(w.replicas[n]), simGrace)
}

func (w *world) begin(n, k int) {
	r := w.replicas[n]
	c := r.chunks[k]
	c.turn.Come(w.now, w.rank(r), simGrace)
	if w.rules.broken == "lets go on a timer" && w.rank(r) > 0 {
		c.units = nil
		w.drop(n)
		return
	}
	if !c.noted {
		c.noted, c.known = true, r.covered
	}
	c.stage = Storing
}

func (w *world) put(n, k int) {
	r := w.replicas[n]
	c := r.chunks[k]
	c.key = r.name + c.content().String()
	if w.store[c.key] == nil {
		w.store[c.key] = &object{has: c.content()}
	}
}

func (w *world) list(n, k int) {
	c := w.replicas[n].chunks[k]
	w.store[c.key].indexed = true
	c.stage = Stored
}

// claims is what others are told.
func (w *world) claims(c *parcel) Set {
	if !c.stage.Claims() && w.rules.broken != "tells early" {
		return nil
	}
	var all Set
	for _, u := range c.units {
		all = all.Union(u.left)
	}
	if w.rules.broken == "claims whole pushes" {
		var runs []Run
		for _, r := range all {
			runs = append(runs, Run{r.Push, 0, w.pushes[r.Number-1].entries})
		}
		all = Of(runs...)
	}
	return all
}

// tells adds how telling the next replica may go.
func (w *world) tells(out []step, n, k int) []step {
	r := w.replicas[n]
	c := r.chunks[k]
	for m, o := range w.replicas {
		if m == n || c.told&(1<<m) != 0 || o.lost {
			continue
		}
		tell := func(reached, answered bool, name, kind string) {
			out = append(out, step{fmt.Sprintf("%s tells %s of %d%s", r.name, o.name, k, name), func(w *world) {
				x := w.replicas[n]
				c := x.chunks[k]
				if kind != "" {
					w.failed(kind)
				}
				if reached {
					w.hear(m, w.claims(c))
				}
				if !answered {
					x.outbox.Add(w.replicas[m].name, Notice{Entries: w.claims(c)})
				}
				c.told |= 1 << m
				w.told(n, k)
			}, kind == ""})
		}
		if !o.up {
			tell(false, false, ", which is down", "")
		} else {
			tell(true, true, "", "")
			if w.spend("notice") {
				tell(false, false, ", in vain", "notice")
				tell(true, false, " without an answer", "notice")
			}
		}
		return out
	}
	if c.stage == Stored {
		out = append(out, step{fmt.Sprintf("%s has told of %d", r.name, k), func(w *world) { w.told(n, k) }, true})
	}
	return out
}

func (w *world) told(n, k int) {
	c := w.replicas[n].chunks[k]
	for m, o := range w.replicas {
		if m != n && c.told&(1<<m) == 0 && !o.lost {
			return
		}
	}
	if c.stage == Stored {
		c.stage = Told
	}
}

// hear is what a notice does.
func (w *world) hear(n int, covered Set) {
	r := w.replicas[n]
	hit := false
	for _, c := range r.chunks {
		if !c.stage.Shrinks() {
			continue
		}
		var kept []unit
		for _, u := range c.units {
			var e Effect
			u.left, e = Take(u.left, covered)
			hit = hit || e != Nothing
			if e != Whole {
				kept = append(kept, u)
			}
		}
		c.units = kept
	}
	if hit {
		r.covered = r.covered.Union(covered)
	}
	w.drop(n)
}

// drop removes chunks of which nothing is left.
func (w *world) drop(n int) {
	r := w.replicas[n]
	r.chunks = slices.DeleteFunc(slices.Clone(r.chunks), func(c *parcel) bool { return len(c.units) == 0 })
}

func (w *world) end(n, k int) {
	r := w.replicas[n]
	r.chunks = slices.Delete(slices.Clone(r.chunks), k, k+1)
}

func (w *world) crash(n int) {
	r := w.replicas[n]
	r.up = false
	r.outbox = Outbox{Max: 1 << 20}
}

func (w *world) loseDisk(n int) {
	r := w.replicas[n]
	r.lost, r.chunks = true, nil
	for _, p := range w.pushes {
		if s, ok := p.has[n]; ok && len(s) > 0 {
			// It was acknowledged all the same: the other replica has it.
			p.has[n] = s
		}
	}
}

// leave puts a replica last in everybody's walk.
func (w *world) leave(n int) {
	gone := w.replicas[n]
	gone.away = true
	for _, r := range w.replicas {
		k := slices.Index(r.walk, gone.name)
		r.walk = slices.Concat(r.walk[:k], r.walk[k+1:], []string{gone.name})
	}
}

// restart reads the disk.
func (w *world) restart(n int) {
	r := w.replicas[n]
	r.up = true
	if r.away {
		r.away = false
		for _, x := range w.replicas {
			x.walk = slices.Sorted(slices.Values(x.walk))
		}
	}
	for _, c := range r.chunks {
		known := r.covered
		c.told = 0
		c.key = ""
		if c.noted {
			known = c.known
			c.closed = true
		}
		c.stage = Restored(c.noted)
		c.turn = Turn{Closed: w.now + 1, Restored: w.now + 1}
		var kept []unit
		for _, u := range c.units {
			var e Effect
			if u.left, e = Take(u.all, known); e != Whole {
				kept = append(kept, u)
			}
		}
		c.units = kept
	}
	w.drop(n)
}

// check returns what is wrong with the world.
func (w *world) check() error {
	for _, p := range w.pushes {
		left := p.acked()
		for _, o := range w.store {
			if o.indexed {
				left, _ = left.Minus(o.has)
			}
		}
		if len(left) == 0 {
			continue
		}
		// Not stored: as many replicas have it as no failure of one can take.
		need := simQuorum
		for _, r := range w.replicas {
			if r.lost {
				need = 1
			}
		}
		for _, run := range left {
			for k := run.From; k < run.To; k++ {
				n := 0
				for _, r := range w.replicas {
					if r.has(run.Push, k) {
						n++
					}
				}
				if n < need {
					return fmt.Errorf("entry %d of push %d is in no index, and %d replicas have it", k, run.Number, n)
				}
			}
		}
	}
	return nil
}

func (r *replica) has(p Push, k uint32) bool {
	for _, c := range r.chunks {
		for _, u := range c.units {
			if u.all.Has(p, k) {
				return true
			}
		}
	}
	return false
}

// copies returns how many indexed objects have the entry that most have.
func (w *world) copies() int {
	most := 0
	for _, p := range w.pushes {
		for k := range p.entries {
			n := 0
			for _, o := range w.store {
				if o.indexed && o.has.Has(p.name, k) {
					n++
				}
			}
			most = max(most, n)
		}
	}
	return most
}

// finish lets everybody work until there is nothing to do, and checks that all is
// stored.
func (w *world) finish() error {
	w.rules.prompt = true
	w.budget = map[string]int{}
	for n, r := range w.replicas {
		if r.away && !r.lost {
			w.restart(n)
		}
	}
	for range 10_000 {
		var next *step
		steps := w.steps()
		for k := range steps {
			if steps[k].ends {
				next = &steps[k]
				break
			}
		}
		if next == nil {
			if !w.waits() {
				break
			}
			next = &step{do: func(w *world) { w.now += simGrace / 4 }}
		}
		next.do(w)
		if err := w.check(); err != nil {
			return err
		}
	}
	for _, p := range w.pushes {
		left := p.acked()
		for _, o := range w.store {
			if o.indexed {
				left, _ = left.Minus(o.has)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("in the end %v is not stored", left)
		}
	}
	for _, r := range w.replicas {
		if len(r.chunks) > 0 {
			return fmt.Errorf("in the end %s has %d chunks", r.name, len(r.chunks))
		}
	}
	for key, o := range w.store {
		if !o.indexed && !w.replicas[w.index(key)].lost {
			return fmt.Errorf("in the end no index has object %s", key)
		}
	}
	return nil
}

// explorer goes through all schedules.
type explorer struct {
	t      *testing.T
	seen   map[uint64]bool
	seed   maphash.Seed
	states int
	ends   int
	most   int // states
	copies map[int]int
	allow  func(w *world) int // copies in the end
	trace  []string
}

func (x *explorer) visit(w *world) error {
	h := maphash.String(x.seed, w.key())
	if x.seen[h] {
		return nil
	}
	x.seen[h] = true
	if x.states++; x.states > x.most {
		return fmt.Errorf("more than %d states", x.most)
	}
	if err := w.check(); err != nil {
		return err
	}
	steps := w.steps()
	if len(steps) == 0 || x.states%16 == 0 {
		x.ends++
		end := w.clone()
		if err := end.finish(); err != nil {
			return err
		}
		n := end.copies()
		x.copies[n]++
		if most := x.allow(end); n > most {
			return fmt.Errorf("%d copies, at most %d may be", n, most)
		}
	}
	for _, s := range steps {
		c := w.clone()
		x.trace = append(x.trace, s.name)
		s.do(c)
		if err := x.visit(c); err != nil {
			return err
		}
		x.trace = x.trace[:len(x.trace)-1]
	}
	return nil
}

func explore(t *testing.T, w *world, allow func(*world) int) (*explorer, error) {
	x := &explorer{t: t, seen: map[uint64]bool{}, seed: maphash.MakeSeed(), most: 3_000_000, copies: map[int]int{}, allow: allow}
	err := x.visit(w)
	return x, err
}

// TestAllSchedules goes through every order of events of small worlds.
func TestAllSchedules(t *testing.T) {
	f := func(name string, w *world, allow func(*world) int) {
		t.Run(name, func(t *testing.T) {
			x, err := explore(t, w, allow)
			if err != nil {
				t.Fatalf("%v, after:\n%s", err, strings.Join(x.trace, "\n"))
			}
			t.Logf("%d states, %d of them run to their end; copies there: %v", x.states, x.ends, x.copies)
		})
	}
	atMost := func(n int) func(*world) int { return func(*world) int { return n } }
	any := func(n int, kinds ...string) map[string]int {
		b := map[string]int{"any": n}
		for _, k := range kinds {
			b[k] = n
		}
		return b
	}
	prompt := rules{prompt: true, whole: true}
	// With the race detector a state takes up to 1 ms; the tag integration has more.
	f("nothing goes wrong", newWorld(3, 2, 2, prompt, any(0)), atMost(1))
	for _, kind := range []string{"notice", "disk", "miss"} {
		f("one "+kind, newWorld(3, 2, 2, prompt, any(1, kind)), atMost(2))
	}
	for _, kind := range []string{"crash", "gone", "ring"} {
		f("one "+kind, newWorld(3, smallWorld, 2, prompt, any(1, kind)), atMost(2))
	}
	f("two failures", newWorld(3, smallWorld, 2, prompt, any(2, "crash", "notice", "miss")), atMost(3))
	if largeWorlds {
		f("nothing goes wrong with three pushes", newWorld(3, 3, 1, prompt, any(0)), atMost(1))
		f("one crash or lost notice with three pushes", newWorld(3, 3, 1, prompt, any(1, "crash", "notice")), atMost(2))
		f("three failures", newWorld(3, 1, 2, prompt, any(3, "crash", "notice", "ring", "miss")), atMost(3))
	}
	// Nobody keeps any time: three copies, but nothing is lost.
	f("no clock", newWorld(3, 1, smallWorld, rules{}, any(1, "crash", "refuse")), atMost(3))
}

// TestSimulationFindsMistakes breaks the protocol in three ways.
func TestSimulationFindsMistakes(t *testing.T) {
	for _, broken := range []string{"tells early", "claims whole pushes", "lets go on a timer"} {
		t.Run(broken, func(t *testing.T) {
			w := newWorld(3, 2, 2, rules{prompt: true, whole: true, broken: broken}, map[string]int{"any": 1, "crash": 1, "miss": 1, "disk": 1})
			x, err := explore(t, w, func(*world) int { return 3 })
			if err == nil {
				t.Fatalf("%d states, and nothing is wrong in any", x.states)
			}
			t.Logf("%v, after %d steps", err, len(x.trace))
		})
	}
}

// TestRandomSchedules runs larger worlds for longer.
func TestRandomSchedules(t *testing.T) {
	copies := map[int]int{}
	steps := 0
	for seed := range randomWorlds {
		rng := rand.New(rand.NewPCG(seed, 1))
		budget := map[string]int{"any": rng.IntN(12), "crash": 8, "gone": 3, "notice": 8, "ring": 4, "refuse": 4, "disk": int(seed % 2)}
		w := newWorld(3+rng.IntN(2), 12, 3, rules{prompt: seed%3 == 0}, budget)
		var trace []string
		fail := func(err error) {
			t.Fatalf("seed %d: %v, after:\n%s", seed, err, strings.Join(trace, "\n"))
		}
		for range 250 {
			list := w.steps()
			if len(list) == 0 {
				break
			}
			s := list[rng.IntN(len(list))]
			trace = append(trace, s.name)
			s.do(w)
			steps++
			if err := w.check(); err != nil {
				fail(err)
			}
		}
		if err := w.finish(); err != nil {
			fail(err)
		}
		copies[w.copies()]++
	}
	t.Logf("%d steps; most copies of an entry, and in how many runs: %v", steps, copies)
}
