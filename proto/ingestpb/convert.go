package ingestpb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/loki-go/loki-go/proto/push"
)

// Domain of the ErrorInfo in our statuses.
const Domain = "loki-go"

// NewRequest returns the message that carries b. It refers to b's memory and
// must not be used after b has been released. b must not be stale.
func NewRequest(b *push.Batch) (*PushRequest, error) {
	if b.Stale {
		return nil, errors.New("ingestpb: batch is stale: its body is not what it says")
	}
	r := &PushRequest{
		Tenant: b.Tenant, Receiver: b.Receiver, Codec: Codec(b.Codec), Body: b.Body, Refused: Marks(b),
		KeepRefused: b.KeepRefused, DeadLeft: int64(b.DeadLeft),
	}
	if b.ID != (push.ID{}) {
		r.PushId = b.ID[:]
	}
	for i := range b.Dead {
		d := &b.Dead[i]
		r.Dead = append(r.Dead, &Dead{
			Reason: d.Reason.String(), Text: strings.ToValidUTF8(d.Text, "\uFFFD"), Raw: d.Raw, Size: int64(d.Size), Time: d.TS,
		})
	}
	return r, nil
}

// Bury gives b what the request says of dead letters, within the bounds that
// push.Batch has for them.
func Bury(b *push.Batch, r *PushRequest) {
	b.KeepRefused = r.KeepRefused
	for _, d := range r.Dead {
		reason, before := push.ReasonByName(d.Reason), len(b.Dead)
		if reason == push.OK || reason.Retryable() {
			reason = push.Malformed
		}
		b.Bury(reason, d.Text, d.Raw)
		if len(b.Dead) > before {
			last := &b.Dead[before]
			last.Size, last.TS = max(last.Size, int(max(0, min(d.Size, push.MaxData)))), d.Time
		}
	}
	b.DeadLeft += int(max(0, min(r.DeadLeft, maxLeft)))
}

// maxLeft is the most pieces that a sender may say it has left out.
const maxLeft = 1 << 30

// Marks lists what of b is marked as refused.
func Marks(b *push.Batch) []*Refused {
	var out []*Refused
	for i := range b.Streams {
		s := &b.Streams[i]
		if s.Reject != push.OK {
			out = append(out, &Refused{Stream: uint32(i), Reason: s.Reject.String()})
			continue
		}
		var run *Refused
		var reason push.Reason
		for j := range b.StreamEntries(s) {
			r := b.Entries[int(s.First)+j].Reject
			switch {
			case r == push.OK:
				run = nil
			case run != nil && r == reason:
				run.Count++
			default:
				run = &Refused{Stream: uint32(i), First: uint32(j), Count: 1, Reason: r.String()}
				reason = r
				out = append(out, run)
			}
		}
	}
	return out
}

// Apply marks in b what the list says.
func Apply(b *push.Batch, marks []*Refused) error {
	for _, m := range marks {
		if uint64(m.Stream) >= uint64(len(b.Streams)) {
			return fmt.Errorf("ingestpb: stream %d of %d is marked as refused", m.Stream, len(b.Streams))
		}
		s := &b.Streams[m.Stream]
		reason := push.ReasonByName(m.Reason)
		if m.Count == 0 {
			s.Reject = reason
			continue
		}
		if uint64(m.First)+uint64(m.Count) > uint64(s.Count) {
			return fmt.Errorf("ingestpb: entries %d+%d of %d are marked as refused", m.First, m.Count, s.Count)
		}
		entries := b.StreamEntries(s)[m.First : m.First+m.Count]
		for i := range entries {
			entries[i].Reject = reason
		}
	}
	return nil
}

// NewResponse returns the answer for a batch that was stored but for what r
// says and b is marked with. A nil r means all of it.
func NewResponse(b *push.Batch, r *push.Rejected) *PushResponse {
	if r == nil {
		return &PushResponse{TotalEntries: int64(len(b.Entries))}
	}
	p := &PushResponse{RefusedEntries: int64(r.Entries), TotalEntries: int64(r.Total), Refused: Marks(b)}
	for _, g := range r.Groups {
		p.Groups = append(p.Groups, &Group{
			Reason: g.Reason.String(), Stream: text(g.Stream), Count: int64(g.Count), Bytes: int64(g.Bytes),
			First: text(g.First), OldestOk: g.OldestOK,
		})
	}
	return p
}

// Rejected is the inverse of NewResponse; nil if nothing was refused.
func (p *PushResponse) Rejected() *push.Rejected {
	if len(p.Groups) == 0 && p.RefusedEntries == 0 {
		return nil
	}
	r := &push.Rejected{Entries: int(p.RefusedEntries), Total: int(p.TotalEntries)}
	for _, g := range p.Groups {
		r.Groups = append(r.Groups, push.RejectGroup{
			Reason: push.ReasonByName(g.Reason), Stream: g.Stream, Count: int(g.Count), Bytes: int(g.Bytes),
			First: g.First, OldestOK: g.OldestOk,
		})
	}
	return r
}

// maxText bounds a text; metadata of an answer must fit in an HTTP/2 header.
const maxText = 2 << 10

// text makes s fit for a protobuf string.
func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// code returns the gRPC code that stands for r.
func code(r push.Reason) codes.Code {
	switch r {
	case push.NoTenant:
		return codes.Unauthenticated
	case push.BlockedIngestion:
		return codes.FailedPrecondition
	case push.RateLimited, push.StreamLimit, push.StreamRateLimit:
		return codes.ResourceExhausted
	case push.Overloaded, push.DiskLow, push.Leaving, push.Replaying, push.NoQuorum:
		return codes.Unavailable
	case push.Internal:
		return codes.Internal
	}
	return codes.InvalidArgument
}

// StatusError returns err as an error that gRPC sends with all it says.
func StatusError(err error) error {
	var e *push.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, text(err.Error()))
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, text(err.Error()))
	default:
		e = &push.Error{Reason: push.Internal}
	}
	s := status.New(code(e.Reason), text(err.Error()))
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: Domain, Reason: e.Reason.String()}}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	full, derr := s.WithDetails(details...)
	if derr != nil { // cannot be: the details are sound
		return s.Err()
	}
	return full.Err()
}

// FromServer reports whether the error of a call is what a server of ours
// answered, and not the fault of the way there.
func FromServer(err error) bool {
	s, _ := status.FromError(err)
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == Domain {
			return true
		}
	}
	return false
}

// Error is the inverse of StatusError for the error of a call. What does not
// come from a server of ours gets the reason that says the same about retries.
func Error(err error) *push.Error {
	s, _ := status.FromError(err)
	e := &push.Error{Msg: s.Message()}
	if s.Message() == "" {
		e.Msg = s.Code().String()
	}
	known := false
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.Domain == Domain {
				e.Reason, known = push.ReasonByName(d.Reason), true
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = max(0, min(d.RetryDelay.AsDuration(), time.Hour))
		}
	}
	if known && e.Reason != push.OK {
		return e
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		e.Reason = push.Overloaded
	case codes.ResourceExhausted:
		e.Reason = push.RateLimited
		if strings.Contains(e.Msg, "larger than max") { // grpc-go's limit on messages
			e.Reason = push.BodyTooLarge
		}
	case codes.InvalidArgument:
		e.Reason = push.Malformed
	case codes.Unauthenticated, codes.PermissionDenied:
		e.Reason = push.NoTenant
	default:
		e.Reason = push.Internal
	}
	return e
}
