package ingester

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/loki-go/loki-go/ingester/wal"
	"github.com/loki-go/loki-go/proto/push"
)

// pushIDs remembers the ids of pushes that were stored, so that one that is
// sent again after its answer was lost is not stored twice. What it knows is in
// the WAL, too: in the record of the push, and when that is about to be deleted,
// in one that has ids only.
//
// Ids are kept in two generations. The older one is dropped when the newer one
// has half of the window's time or half of the ids that may be kept. So memory
// is bounded, and an id is known for half of the window at least unless there
// are too many. One that was forgotten costs a second copy, which a query hides.
type pushIDs struct {
	window int64 // ns; 0: nothing is remembered
	most   int   // ids in a generation

	mu      sync.Mutex
	flights map[pushKey]chan struct{} // pushes under way; closed at their end
	gens    [2]idGeneration           // the newer one first
	began   int64                     // when that one began, ns
}

type pushKey struct {
	tenant *tenant
	id     push.ID
}

type idGeneration struct {
	known  map[pushKey]struct{}
	logged []loggedID
}

// loggedID says which WAL record has an id.
type loggedID struct {
	key pushKey
	lsn uint64
}

func (p *pushIDs) init(window int64, most int) {
	p.window, p.most = window, max(most/2, 1)
	p.flights = map[pushKey]chan struct{}{}
	for g := range p.gens {
		p.gens[g].known = map[pushKey]struct{}{}
	}
}

// enter reports whether the push was stored before. If not, it is the caller's
// to store, until leave. While another has it, enter waits for how that ends.
func (p *pushIDs) enter(ctx context.Context, key pushKey) (stored bool, err error) {
	for {
		p.mu.Lock()
		if p.has(key) {
			p.mu.Unlock()
			return true, nil
		}
		other, busy := p.flights[key]
		if !busy {
			p.flights[key] = make(chan struct{})
			p.mu.Unlock()
			return false, nil
		}
		p.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// leave ends what enter began. lsn is the push's record, 0 if it was not stored
// or not as a whole.
func (p *pushIDs) leave(key pushKey, lsn uint64, now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.flights[key])
	delete(p.flights, key)
	if lsn != 0 {
		p.put(key, lsn, now)
	}
}

// add takes in what a replay has found.
func (p *pushIDs) add(key pushKey, lsn uint64, now int64) {
	if p.window == 0 || key.id == (push.ID{}) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put(key, lsn, now)
}

func (p *pushIDs) has(key pushKey) bool {
	for g := range p.gens {
		if _, ok := p.gens[g].known[key]; ok {
			return true
		}
	}
	return false
}

func (p *pushIDs) put(key pushKey, lsn uint64, now int64) {
	cur := &p.gens[0]
	if len(cur.known) >= p.most || len(cur.known) > 0 && now-p.began > p.window/2 {
		p.gens[1], *cur = *cur, idGeneration{known: map[pushKey]struct{}{}}
	}
	if len(cur.known) == 0 {
		p.began = now
	}
	cur.known[key] = struct{}{}
	cur.logged = append(cur.logged, loggedID{key, lsn})
}

// below returns the ids whose record is below lsn.
func (p *pushIDs) below(lsn uint64) (out []loggedID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for g := range p.gens {
		for _, l := range p.gens[g].logged {
			if l.lsn < lsn {
				out = append(out, l)
			}
		}
	}
	return out
}

// moved says that the ids below lsn are in the record at now.
func (p *pushIDs) moved(lsn, now uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for g := range p.gens {
		for k := range p.gens[g].logged {
			if l := &p.gens[g].logged[k]; l.lsn < lsn {
				l.lsn = now
			}
		}
	}
}

func (p *pushIDs) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.gens[0].known) + len(p.gens[1].known)
}

// idRecord is the first byte of a WAL record that has ids of pushes:
//
//	u8 2 · n × (str tenant · 16 bytes push id)
const idRecord = 2

func appendIDs(dst []byte, ids []loggedID) []byte {
	dst = append(dst, idRecord)
	for _, l := range ids {
		dst = binary.AppendUvarint(dst, uint64(len(l.key.tenant.id)))
		dst = append(dst, l.key.tenant.id...)
		dst = append(dst, l.key.id[:]...)
	}
	return dst
}

// decodeIDs calls f for each id in p, the record without its first byte.
func decodeIDs(p []byte, f func(tenant []byte, id push.ID)) error {
	for len(p) > 0 {
		tenant, rest, ok := cutStr(p)
		if !ok || len(rest) < len(push.ID{}) {
			return errRecord
		}
		f(tenant, push.ID(rest[:16]))
		p = rest[16:]
	}
	return nil
}

// keepIDs logs the ids again that are in records below lsn, which are about to
// be deleted. A failure only means that some are forgotten: space that waits to
// be given back is worth more.
func (i *Ingester) keepIDs(lsn uint64) {
	ids := i.ids.below(lsn)
	if len(ids) == 0 {
		return
	}
	rec := appendIDs(nil, ids)
	for seg := i.wal.CurrentSegment(); ; {
		ticket, cur, err := i.wal.Append(seg, rec)
		if errors.Is(err, wal.ErrSegment) {
			seg = cur
			continue
		}
		if err == nil {
			err = ticket.Wait(context.Background())
		}
		if err != nil {
			i.log.Warn("the ids of stored pushes could not be logged again: one that is repeated may be stored twice", "ids", len(ids), "err", err)
			return
		}
		i.ids.moved(lsn, uint64(ticket.LSN))
		return
	}
}
