package gateway

import (
	"encoding/binary"
	"slices"
	"sync/atomic"

	"github.com/klauspost/compress/s2"

	"github.com/loki-go/loki-go/proto/push"
)

// part is what one replica set gets of a batch: some of its streams, in memory
// of its own, as replicas may still be at work when the push was answered.
type part struct {
	g       *Gateway
	b       *push.Batch // entries and streams that replicas mark are in copies, see view
	body    []byte      // buffer of b.Body
	streams []int32     // what b's streams are in the parent
	entries []int32     // what b's entries are in the parent; nil: see parent
	walk    []int       // instances to ask, in order; the first of them at once
	state   partState
	refs    atomic.Int32
}

// newPart copies the streams with these numbers from parent. only says that
// there are no others to store, so that all of parent may be copied as it is.
func (g *Gateway) newPart(parent *push.Batch, streams []int32, only bool) *part {
	p := g.parts.Get().(*part)
	p.g, p.b = g, push.Get()
	p.streams = append(p.streams[:0], streams...)
	p.entries = p.entries[:0]
	switch {
	case parent.Stale:
		p.encode(parent)
	case only:
		p.clone(parent)
	default:
		p.cut(parent)
	}
	p.b.Tenant, p.b.Receiver, p.b.ID = parent.Tenant, parent.Receiver, parent.ID
	if g.cfg.ReplicationFactor > 1 {
		p.b.Part = push.Part{Gateway: g.start, Number: g.sent.Add(1)}
	}
	if !only {
		p.b.ID = partID(parent.ID, p.b)
	}
	return p
}

// What a part may keep for re-use.
const maxPooledPart = 16 << 20

// release gives up one of the holds on p.
func (p *part) release() {
	if p.refs.Add(-1) > 0 {
		return
	}
	p.b.Release()
	p.b = nil
	p.state.reset()
	if cap(p.body) > maxPooledPart || cap(p.entries) > maxPooledPart/4 || cap(p.streams) > maxPooledPart/4 {
		return
	}
	p.g.parts.Put(p)
}

// clone copies all of parent.
func (p *part) clone(parent *push.Batch) {
	b := p.b
	b.Data = append(b.Data[:0], parent.Data...)
	b.Entries = append(b.Entries[:0], parent.Entries...)
	b.Streams = append(b.Streams[:0], parent.Streams...)
	p.streams = p.streams[:0]
	for i := range b.Streams {
		p.streams = append(p.streams, int32(i))
	}
	p.body = append(p.body[:0], parent.Body...)
	b.Body, b.Codec = p.body, parent.Codec
}

// cut copies the bytes of the streams as they are. Metadata that was normalised
// lies behind the protobuf, here as there.
func (p *part) cut(parent *push.Batch) {
	b := p.b
	data := b.Data[:0]
	for _, i := range p.streams {
		s := &parent.Streams[i]
		data = append(data, 1<<3|2)
		data = binary.AppendUvarint(data, uint64(s.Raw.Len))
		at := uint32(len(data))
		data = append(data, parent.Bytes(s.Raw)...)
		to := *s
		to.First = uint32(len(b.Entries))
		to.Raw.Off = at
		to.RawLabels = move(s.RawLabels, s.Raw, at)
		b.Streams = append(b.Streams, to)
		for _, e := range parent.StreamEntries(s) {
			e.Line = move(e.Line, s.Raw, at)
			b.Entries = append(b.Entries, e)
		}
	}
	encoded := len(data)
	for k, i := range p.streams {
		s, to := &parent.Streams[i], &b.Streams[k]
		for j, e := range parent.StreamEntries(s) {
			meta := &b.Entries[int(to.First)+j].Meta
			if within(e.Meta, s.Raw) {
				*meta = move(e.Meta, s.Raw, to.Raw.Off)
				continue
			}
			*meta = push.Span{Off: uint32(len(data)), Len: e.Meta.Len}
			data = append(data, parent.Bytes(e.Meta)...)
		}
	}
	b.Data = data
	p.body = slices.Grow(p.body[:0], s2.MaxEncodedLen(encoded))
	p.body = s2.EncodeSnappy(p.body[:cap(p.body)], data[:encoded])
	b.Body, b.Codec = p.body, push.CodecSnappy
}

func within(s, of push.Span) bool {
	return s.Len == 0 || s.Off >= of.Off && s.Off+s.Len <= of.Off+of.Len
}

// move gives the place of s when the span that it is within moves to at.
func move(s, of push.Span, at uint32) push.Span {
	if s.Len == 0 {
		return push.Span{}
	}
	return push.Span{Off: s.Off - of.Off + at, Len: s.Len}
}

// encode makes new protobuf for entries that no longer agree with parent's
// body. What is refused is left out.
func (p *part) encode(parent *push.Batch) {
	bl := push.NewBuilder(p.b)
	var order [][]int32 // entries of each of the builder's streams
	streams := p.streams
	p.streams = nil
	for _, i := range streams {
		s := &parent.Streams[i]
		k := bl.Stream([]byte(s.Labels))
		if k == len(order) {
			order = append(order, nil)
			p.streams = append(p.streams, i)
		}
		for j := range parent.StreamEntries(s) {
			n := int32(s.First) + int32(j)
			e := &parent.Entries[n]
			if e.Reject != push.OK {
				continue
			}
			for it := parent.Pairs(e); it.Next(); {
				bl.Pair(it.Name, it.Value)
			}
			bl.EntryExact(k, e.TS, parent.Bytes(e.Line))
			order[k] = append(order[k], n)
		}
	}
	p.b = bl.Finish()
	for k, i := range p.streams {
		p.b.Streams[k].Labels, p.b.Streams[k].Token = parent.Streams[i].Labels, parent.Streams[i].Token
		p.entries = append(p.entries, order[k]...)
	}
}

// parent returns the number in the parent of entry j of stream k.
func (p *part) parent(parent *push.Batch, k, j int) int {
	if len(p.entries) > 0 {
		return int(p.entries[int(p.b.Streams[k].First)+j])
	}
	return int(parent.Streams[p.streams[k]].First) + j
}

// view returns a batch for one replica: with marks of its own, on the bytes
// that all share.
func (p *part) view(v *push.Batch) {
	b := p.b
	v.Tenant, v.Receiver, v.ID, v.Part = b.Tenant, b.Receiver, b.ID, b.Part
	v.Data, v.Body, v.Codec, v.Stale = b.Data, b.Body, b.Codec, false
	v.Streams = append(v.Streams[:0], b.Streams...)
	v.Entries = append(v.Entries[:0], b.Entries...)
}
