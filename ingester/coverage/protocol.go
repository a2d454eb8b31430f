package coverage

import "slices"

// Effect is what a notice does to a unit: a block, or a head, which is stored or
// let go as a whole.
type Effect uint8

// Effects.
const (
	Nothing Effect = iota // none of its entries are covered
	Part                  // some are: it is kept, and needs only the others covered
	Whole                 // all are: it may be let go
)

// Take removes covered from what is left of a unit. A unit of which nothing is
// known, whose set is empty, is never covered.
func Take(left, covered Set) (Set, Effect) {
	rest, cut := left.Minus(covered)
	switch {
	case !cut:
		return left, Nothing
	case len(rest) == 0:
		return rest, Whole
	}
	return rest, Part
}

// Stage is how far a chunk is. It only grows.
type Stage uint8

// Stages.
const (
	Held    Stage = iota // being filled, or waiting for its turn
	Storing              // its object is being made and uploaded: what is in it is fixed
	Stored               // object and index are durable
	Told                 // every other replica knows, or is to be told again from memory
)

// Restored returns the stage of a chunk that was found on disk at a start. If it
// is on record that it is being stored its object may be there already.
func Restored(noted bool) Stage {
	if noted {
		return Storing
	}
	return Held
}

// Shrinks reports whether notices may take from the chunk. Once it is being
// stored it must stay what it is: each try, also after a crash, has to make the
// same object.
func (s Stage) Shrinks() bool { return s == Held }

// Claims reports whether others may be told to let go of what is in the chunk.
func (s Stage) Claims() bool { return s >= Stored }

// Ends reports whether the replica itself may let go of the chunk.
func (s Stage) Ends() bool { return s >= Told }

// Rank returns the place of self in a stream's walk: 0 stores at once, the
// others later and later. The walk goes on behind the rf replicas: an instance
// there may have got a push in place of one of them, or have been one before the
// ring changed. Who is not in it comes after all.
func Rank(self string, walk []string, rf int) int {
	if k := slices.Index(walk, self); k >= 0 {
		return k
	}
	return max(rf, len(walk))
}

// Turn says when a replica stores a chunk that it has closed, if nobody else has
// until then: who is first at once, the second after a grace, the third after
// two. When the ring changes the time of those who are not first begins anew, so
// that who is first now has as much of it.
type Turn struct {
	Closed int64 // when the chunk was closed, ns
	// Restored is when the replica has read the chunk from its disk, at a start,
	// ns; 0: it has not. Others may have stored the chunk before that, and are given
	// a quarter of the grace to say so.
	Restored int64

	rank  int
	since int64 // ns
}

// longest bounds how often a time that begins anew can put a turn off: at this
// many graces it has come in any case.
const longest = 16

// Come reports whether the turn of the replica, of this rank at the time now, has
// come. Times are in ns. If the clock is set back they count from then on anew.
func (t *Turn) Come(now int64, rank int, grace int64) bool {
	t.Closed, t.Restored, t.since = min(t.Closed, now), min(t.Restored, now), min(t.since, now)
	if t.since == 0 {
		t.rank, t.since = rank, t.Closed
	}
	if rank != t.rank {
		t.rank, t.since = rank, now
	}
	if rank <= 0 {
		return t.Restored == 0 || now-t.Restored >= grace/4
	}
	return (now-t.since)/int64(rank) >= grace || (now-t.Closed)/longest >= grace
}

// Notice says that entries of a stream are stored and indexed.
type Notice struct {
	Tenant, Labels string
	Entries        Set
}

// Size is about what a notice takes in memory, bytes.
func (n *Notice) Size() int { return 64 + len(n.Tenant) + len(n.Labels) + 24*len(n.Entries) }

// Outbox has the notices that replicas did not take yet. What is beyond its
// bound is forgotten, the oldest first: the replica will store a second copy.
type Outbox struct {
	Max    int // bytes for each replica
	queues map[string]*queue
}

type queue struct {
	notices []Notice
	size    int
}

// Add queues notices for a replica and returns how many were forgotten.
func (o *Outbox) Add(to string, ns ...Notice) (forgotten int) {
	if o.queues == nil {
		o.queues = map[string]*queue{}
	}
	q := o.queues[to]
	if q == nil {
		q = new(queue)
		o.queues[to] = q
	}
	for _, n := range ns {
		q.notices = append(q.notices, n)
		q.size += n.Size()
	}
	for q.size > o.Max && len(q.notices) > 0 {
		q.size -= q.notices[0].Size()
		q.notices[0] = Notice{}
		q.notices = q.notices[1:]
		forgotten++
	}
	return forgotten
}

// Peek returns the oldest notices for a replica, up to size bytes but at least
// one if there are any.
func (o *Outbox) Peek(to string, size int) []Notice {
	q := o.queues[to]
	if q == nil {
		return nil
	}
	n := 0
	for n < len(q.notices) && (n == 0 || size > 0) {
		size -= q.notices[n].Size()
		n++
	}
	return q.notices[:n:n]
}

// Done removes notices that a replica took: the n oldest that Peek returned, if
// they are still there.
func (o *Outbox) Done(to string, taken []Notice) {
	q := o.queues[to]
	if q == nil || len(taken) == 0 {
		return
	}
	n := 0
	// Add may have forgotten some of the oldest meanwhile.
	for n < len(taken) && (len(q.notices) == 0 || !same(&taken[n], &q.notices[0])) {
		n++
	}
	for ; n < len(taken) && len(q.notices) > 0 && same(&taken[n], &q.notices[0]); n++ {
		q.size -= q.notices[0].Size()
		q.notices = q.notices[1:]
	}
	if len(q.notices) == 0 {
		delete(o.queues, to)
	}
}

func same(a, b *Notice) bool {
	return a.Labels == b.Labels && a.Tenant == b.Tenant && len(a.Entries) == len(b.Entries) && len(a.Entries) > 0 && &a.Entries[0] == &b.Entries[0]
}

// Forget drops the notices for a replica and returns how many there were.
func (o *Outbox) Forget(to string) int {
	q := o.queues[to]
	if q == nil {
		return 0
	}
	delete(o.queues, to)
	return len(q.notices)
}

// Replicas returns for whom there are notices.
func (o *Outbox) Replicas() []string {
	out := make([]string, 0, len(o.queues))
	for to := range o.queues {
		out = append(out, to)
	}
	return out
}

// Len returns how many notices wait.
func (o *Outbox) Len() int {
	n := 0
	for _, q := range o.queues {
		n += len(q.notices)
	}
	return n
}
