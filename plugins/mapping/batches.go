package mapping

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"github.com/loki-go/loki-go/proto/push"
)

// MaxTenants is how many tenants the records of one Batches may belong to: a
// batch is at least one push of its own, so that records which each name
// another tenant would multiply the work of a request.
const MaxTenants = 64

// Batches are the batches that the records of one request become, one for each
// tenant. The zero value is ready for use. It is for one goroutine.
//
//	for each record {
//		if !st.Add(rec, in, g) { // too many tenants
//			push what g has, g.Reset()
//			st.Add(rec, in, g)
//		}
//	}
//	for _, b := range g.Finish() {
//		b.Receiver = ...
//		push b
//	}
//	g.Reset()
type Batches struct {
	list     []*building // in order of the tenants' first records
	byTenant map[string]*building
	last     *building // that the last record went to
	free     []*building
	finished []*push.Batch
	entries  int
	size     int
}

// building is a batch that is being built.
type building struct {
	tenant string
	index  int // in list
	batch  *push.Batch
	bl     push.Builder
	most   int // a bound for the memory that bl holds
}

// What Batches keep allocated from one request to the next.
const (
	maxFree      = 8        // builders
	maxFreeBytes = 16 << 20 // entries in one of them
)

// tenant returns the batch of a tenant, or nil if there are MaxTenants others.
// The name may be memory that is used again.
func (g *Batches) tenant(name string) *building {
	if t := g.last; t != nil && t.tenant == name {
		return t
	}
	t := g.byTenant[name]
	if t == nil {
		if len(g.list) >= MaxTenants {
			return nil
		}
		t = g.open(strings.Clone(name))
	}
	g.last = t
	return t
}

func (g *Batches) open(tenant string) *building {
	var t *building
	if n := len(g.free); n > 0 {
		t, g.free = g.free[n-1], g.free[:n-1]
	} else {
		t = &building{bl: *push.NewBuilder(nil)}
	}
	t.tenant, t.index, t.batch = tenant, len(g.list), push.Get()
	t.batch.Tenant = tenant
	t.bl.Reset(t.batch)
	if g.byTenant == nil {
		g.byTenant = make(map[string]*building)
	}
	g.byTenant[tenant] = t
	g.list = append(g.list, t)
	return t
}

// added notes what has come to t, whose size was before.
func (g *Batches) added(t *building, before int) {
	g.entries++
	g.size += t.bl.Size() - before
}

// Len returns the number of entries so far, Size their encoded size in bytes.
func (g *Batches) Len() int  { return g.entries }
func (g *Batches) Size() int { return g.size }

// Last says where the record went that was added last: to which of the batches
// that Finish will return, and to which of its streams. The entries of a stream
// are in the order in which they were added.
func (g *Batches) Last() (batch, stream int) { return g.last.index, g.last.bl.LastStream() }

// Bury is push.Batch.Bury for the batch of a tenant, which is opened for that
// whatever MaxTenants says: the receiver names it, not a record.
func (g *Batches) Bury(tenant string, reason push.Reason, text string, raw []byte) {
	t := g.byTenant[tenant]
	if t == nil {
		t = g.open(tenant)
	}
	t.batch.Bury(reason, text, raw)
}

// Finish finishes the batches and returns them, with Tenant set, in the order
// of their first records. They may hold buried pieces only. Batches and the
// slice belong to g and are good until Reset, which must be the next call.
func (g *Batches) Finish() []*push.Batch {
	for _, t := range g.list {
		g.finished = append(g.finished, t.bl.Finish())
	}
	return g.finished
}

// Reset gives all batches back, finished or not, and makes g ready for the next
// request. Memory is kept, within bounds.
func (g *Batches) Reset() {
	for i, t := range g.list {
		t.most = max(t.most, t.bl.Size(), 32*t.bl.Len())
		t.batch.Release()
		t.batch, t.tenant = nil, ""
		t.bl.Reset(nil)
		if len(g.free) < maxFree && t.most <= maxFreeBytes {
			g.free = append(g.free, t)
		}
		g.list[i] = nil
	}
	clear(g.byTenant)
	clear(g.finished)
	g.list, g.finished, g.last = g.list[:0], g.finished[:0], nil
	g.entries, g.size = 0, 0
}

// BatchID returns the push id of a tenant's batch in a part of a request, which
// has the id base; the zero base gives the zero id. Part counts how often the
// entries of one request have been pushed before it was read to its end. Two
// batches of a request must not have one id: the second would be taken for the
// first one, sent again, even where different tenants in the records are one
// tenant for the gateway, as authentication is off.
func BatchID(base push.ID, part int, tenant string) push.ID {
	if base == (push.ID{}) {
		return base
	}
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(part))
	h := sha256.New()
	h.Write(base[:])
	h.Write(n[:])
	h.Write([]byte(tenant))
	return push.ID(h.Sum(nil)[:16])
}
