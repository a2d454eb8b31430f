package ingester

import (
	"encoding/binary"
	"errors"

	"github.com/loki-go/loki-go/proto/push"
)

// A WAL record is one push:
//
//	u8 version (1, or 3 with a part) · u8 codec of the body · 16 bytes push id · [u64 gateway · uvarint part ·]
//	str tenant · uvarint streams ·
//	per stream of the body, in its order:
//	    uvarint (stream number << 1 | defined), 0 if all of the stream was refused
//	    if defined: str canonical labels
//	    uvarint n · n × uvarint entry index minus the previous one: entries that were refused
//	body: Loki's protobuf PushRequest, compressed, to the end
//
// A second kind of record keeps push ids, see idRecord.
//
// A stream is defined in the first record of a segment that has entries of it,
// so that segments can be deleted from the front.
const (
	recordVersion = 1
	recordPart    = 3
)

var errRecord = errors.New("ingester: malformed WAL record")

// appendHeader encodes everything in front of the body. Streams are those of
// b; those in sts that are nil were refused. define says whether a stream needs
// its definition. id is zero for a push whose repetition has to be looked at.
func appendHeader(dst []byte, b *push.Batch, id push.ID, sts []*stream, define func(*stream) bool) []byte {
	version := byte(recordVersion)
	if b.Part != (push.Part{}) {
		version = recordPart
	}
	dst = append(dst, version, byte(b.Codec))
	dst = append(dst, id[:]...)
	if version == recordPart {
		dst = binary.LittleEndian.AppendUint64(dst, b.Part.Gateway)
		dst = binary.AppendUvarint(dst, b.Part.Number)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.Tenant)))
	dst = append(dst, b.Tenant...)
	dst = binary.AppendUvarint(dst, uint64(len(b.Streams)))
	for i := range b.Streams {
		st := sts[i]
		if st == nil {
			dst = append(dst, 0)
			continue
		}
		if define(st) {
			dst = binary.AppendUvarint(dst, st.ref.Load()<<1|1)
			dst = binary.AppendUvarint(dst, uint64(len(st.labels)))
			dst = append(dst, st.labels...)
		} else {
			dst = binary.AppendUvarint(dst, st.ref.Load()<<1)
		}
		entries := b.StreamEntries(&b.Streams[i])
		skips := 0
		for k := range entries {
			if entries[k].Reject != push.OK {
				skips++
			}
		}
		dst = binary.AppendUvarint(dst, uint64(skips))
		last := 0
		for k := range entries {
			if skips > 0 && entries[k].Reject != push.OK {
				dst = binary.AppendUvarint(dst, uint64(k-last))
				last = k
			}
		}
	}
	return dst
}

// record is a decoded WAL record.
type record struct {
	tenant  string
	id      push.ID
	part    push.Part
	codec   push.Codec
	streams []recordStream
	skips   []uint32
	body    []byte
}

type recordStream struct {
	ref    uint64 // 0: refused
	labels []byte // nil unless defined here
	skips  int    // end of its range in record.skips; it begins where the one before ends
}

// decode reads p, which must stay unchanged while r is in use.
func (r *record) decode(p []byte) error {
	r.streams, r.skips = r.streams[:0], r.skips[:0]
	if len(p) < 18 || p[0] != recordVersion && p[0] != recordPart {
		return errRecord
	}
	named := p[0] == recordPart
	r.codec = push.Codec(p[1])
	copy(r.id[:], p[2:18])
	p = p[18:]
	r.part = push.Part{}
	if named {
		if len(p) < 8 {
			return errRecord
		}
		n, rest, ok := cutUvarint(p[8:])
		if !ok {
			return errRecord
		}
		r.part = push.Part{Gateway: binary.LittleEndian.Uint64(p), Number: n}
		p = rest
	}
	tenant, p, ok := cutStr(p)
	if !ok {
		return errRecord
	}
	r.tenant = string(tenant)
	n, p, ok := cutUvarint(p)
	if !ok || n > uint64(len(p)) {
		return errRecord
	}
	for ; n > 0; n-- {
		var v uint64
		if v, p, ok = cutUvarint(p); !ok {
			return errRecord
		}
		s := recordStream{ref: v >> 1, skips: len(r.skips)}
		if v != 0 {
			if v&1 == 1 {
				if s.labels, p, ok = cutStr(p); !ok {
					return errRecord
				}
			}
			var skips, d uint64
			if skips, p, ok = cutUvarint(p); !ok || skips > uint64(len(p)) {
				return errRecord
			}
			last := uint64(0)
			for ; skips > 0; skips-- {
				if d, p, ok = cutUvarint(p); !ok {
					return errRecord
				}
				if last += d; last > 1<<31 {
					return errRecord
				}
				r.skips = append(r.skips, uint32(last))
			}
			s.skips = len(r.skips)
		}
		r.streams = append(r.streams, s)
	}
	r.body = p
	return nil
}

func cutUvarint(p []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(p)
	if n <= 0 {
		return 0, nil, false
	}
	return v, p[n:], true
}

func cutStr(p []byte) ([]byte, []byte, bool) {
	n, p, ok := cutUvarint(p)
	if !ok || n > uint64(len(p)) {
		return nil, nil, false
	}
	return p[:n:n], p[n:], true
}
