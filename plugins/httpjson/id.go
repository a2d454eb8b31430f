package httpjson

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/loki-go/loki-go/plugins/httpbody"
	"github.com/loki-go/loki-go/proto/push"
)

// id returns an id for the events that are about to be pushed, or the zero id:
// see the package comment. It is the same when the request comes again.
func (r *request) id() push.ID {
	if id := httpbody.PushID(r.req.Header, r.body); id != (push.ID{}) {
		return id
	}
	if r.untimed || r.batches.Len() == 0 {
		return push.ID{}
	}
	return r.contentID()
}

// contentID is an id made of the body and of what else decides on what becomes
// of it. Two hashes of 64 bits are quick and together wide enough that no two
// different requests will ever have one id.
func (r *request) contentID() push.ID {
	buf := make([]byte, 0, 128)
	for seed := range uint64(2) {
		r.hash.ResetWithSeed(seed)
		_, _ = r.hash.Write(r.body)
		buf = binary.LittleEndian.AppendUint64(buf, r.hash.Sum64())
	}
	buf = binary.LittleEndian.AppendUint64(buf, uint64(len(r.body)))
	buf = append(buf, r.h.job...)
	buf = append(buf, 0)
	buf = append(buf, r.in.Tag...)
	sum := sha256.Sum256(buf)
	return push.ID(sum[:16])
}
