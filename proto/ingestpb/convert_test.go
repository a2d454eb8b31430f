package ingestpb

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/loki-go/loki-go/proto/push"
)

// batch has streams of 1, 2 and 6 entries.
func batch() *push.Batch {
	bl := push.NewBuilder(push.Get())
	for i, n := range []int{1, 2, 6} {
		for j := range n {
			bl.EntryExact(bl.Stream(fmt.Appendf(nil, `{a="%d"}`, i)), int64(j), []byte("line"))
		}
	}
	return bl.Finish()
}

func marks(b *push.Batch) []push.Reason {
	var out []push.Reason
	for _, s := range b.Streams {
		out = append(out, s.Reject)
	}
	for _, e := range b.Entries {
		out = append(out, e.Reject)
	}
	return out
}

func TestMarks(t *testing.T) {
	b := batch()
	if m := Marks(b); m != nil {
		t.Fatalf("marks in a fresh batch: %v", m)
	}
	b.Streams[0].Reject = push.InvalidLabels
	e := b.StreamEntries(&b.Streams[2])
	e[0].Reject, e[1].Reject, e[2].Reject, e[5].Reject = push.TooOld, push.TooOld, push.TooNew, push.TooNew
	list := Marks(b)
	if len(list) != 4 {
		t.Fatalf("%d runs: %v", len(list), list)
	}
	c := batch()
	if err := Apply(c, list); err != nil {
		t.Fatal(err)
	}
	if got, want := marks(c), marks(b); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for _, bad := range []*Refused{
		{Stream: 3},
		{Stream: 1 << 31},
		{Stream: 1, First: 2, Count: 1},
		{Stream: 1, First: 1, Count: 2},
		{Stream: 1, First: 1<<32 - 1, Count: 2},
		{Stream: 1, First: 1, Count: 1<<32 - 1},
	} {
		if err := Apply(batch(), []*Refused{bad}); err == nil {
			t.Fatalf("%v: no error", bad)
		}
	}
}

func TestRequest(t *testing.T) {
	b := batch()
	b.Tenant, b.Receiver, b.ID = "team-a", "loki", push.ID{1, 2, 3}
	b.Streams[1].Reject = push.LineTooLong
	r, err := NewRequest(b)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var q PushRequest
	if err := proto.Unmarshal(p, &q); err != nil {
		t.Fatal(err)
	}
	if q.Tenant != "team-a" || q.Receiver != "loki" || push.ID(q.PushId) != b.ID || q.Codec != Codec_CODEC_SNAPPY ||
		string(q.Body) != string(b.Body) || len(q.Refused) != 1 || q.Refused[0].Reason != "line_too_long" {
		t.Fatalf("got %v", &q)
	}
	b.ID = push.ID{}
	if r, err = NewRequest(b); err != nil || r.PushId != nil {
		t.Fatalf("no id: %x, %v", r.PushId, err)
	}
	b.Stale = true
	if _, err := NewRequest(b); err == nil {
		t.Fatal("a stale batch is sent")
	}
}

func TestResponse(t *testing.T) {
	b := batch()
	if r := NewResponse(b, nil); r.Rejected() != nil || r.TotalEntries != 9 {
		t.Fatalf("nothing refused: %v", r)
	}
	want := &push.Rejected{Total: 9}
	want.Add(push.TooOld, `{a="1"}`, 2, 8, func() string { return "too old" })
	want.Groups[0].OldestOK = 77
	want.Add(push.StreamLimit, `{a="2"}`, 1, 4, func() string { return "too many streams" })
	if got := NewResponse(b, want).Rejected(); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	// Texts of any kind can be sent.
	odd := &push.Rejected{Total: 9}
	odd.Add(push.TooOld, "{a=\"\xff\"}", 1, 1, func() string { return strings.Repeat("\xff\xfe", 10_000) })
	p, err := proto.Marshal(NewResponse(b, odd))
	if err != nil || len(p) > 4*maxText {
		t.Fatalf("%d bytes, %v", len(p), err)
	}
}

func TestErrors(t *testing.T) {
	f := func(err error, wantCode codes.Code, want push.Error) {
		t.Helper()
		sent := StatusError(err)
		if got := status.Code(sent); got != wantCode {
			t.Fatalf("%v: code %s, want %s", err, got, wantCode)
		}
		if got := Error(sent); *got != want {
			t.Fatalf("%v: got %+v, want %+v", err, *got, want)
		}
	}
	if StatusError(nil) != nil {
		t.Fatal("nil is an error")
	}
	e := push.Error{Reason: push.RateLimited, Msg: "slow down", RetryAfter: 1500 * time.Millisecond}
	f(&e, codes.ResourceExhausted, e)
	wrapped := e
	wrapped.Msg = "push: slow down"
	f(fmt.Errorf("push: %w", &e), codes.ResourceExhausted, wrapped)
	f(errors.New("boom"), codes.Internal, push.Error{Reason: push.Internal, Msg: "boom"})
	f(context.Canceled, codes.Canceled, push.Error{Reason: push.Overloaded, Msg: "context canceled"})
	f(context.DeadlineExceeded, codes.DeadlineExceeded, push.Error{Reason: push.Overloaded, Msg: "context deadline exceeded"})
	// Every reason comes back as itself, under a code that agrees on retries.
	for r := push.MissingLabels; r <= push.Internal; r++ {
		sent := StatusError(push.Errorf(r, "no"))
		if got := Error(sent); got.Reason != r {
			t.Fatalf("%s came back as %s", r, got.Reason)
		}
		bare := Error(status.Error(status.Code(sent), "no"))
		if r != push.BlockedIngestion && bare.Reason.Retryable() != r.Retryable() {
			t.Fatalf("%s: code %s means retry=%v", r, status.Code(sent), bare.Reason.Retryable())
		}
	}
}

func TestForeignErrors(t *testing.T) {
	f := func(err error, want push.Reason) {
		t.Helper()
		if got := Error(err); got.Reason != want || got.Msg == "" {
			t.Fatalf("%v: got %+v, want %s", err, got, want)
		}
	}
	f(status.Error(codes.Unavailable, "connection refused"), push.Overloaded)
	f(status.Error(codes.Unavailable, ""), push.Overloaded)
	f(status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5000 vs. 4096)"), push.BodyTooLarge)
	f(status.Error(codes.ResourceExhausted, "quota"), push.RateLimited)
	f(status.Error(codes.Unimplemented, "unknown service"), push.Internal)
	f(status.Error(codes.PermissionDenied, "no"), push.NoTenant)
	f(errors.New("plain"), push.Internal)
}

func TestDeadLetters(t *testing.T) {
	b := batch()
	b.KeepRefused, b.DeadLeft = true, 3
	b.Bury(push.Malformed, "no record", []byte("\xc1rest"))
	b.Bury(push.LineTooLong, "too long", make([]byte, push.MaxDeadRaw+1))
	b.Dead[0].TS = 77
	r, err := NewRequest(b)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var q PushRequest
	if err := proto.Unmarshal(p, &q); err != nil {
		t.Fatal(err)
	}
	c := batch()
	Bury(c, &q)
	if !c.KeepRefused || c.DeadLeft != 3 || !reflect.DeepEqual(c.Dead, b.Dead) {
		t.Fatalf("got %v, %d, %+v", c.KeepRefused, c.DeadLeft, c.Dead)
	}
	// What a stranger says is bounded, and no reason is one that calls for a retry.
	hostile := &PushRequest{DeadLeft: 1 << 62, Dead: []*Dead{
		{Reason: "overloaded", Size: 1 << 62, Raw: []byte("x")}, {Reason: "ok", Size: -1}, {Reason: "what"}, {Reason: "internal"},
	}}
	for range push.MaxDead {
		hostile.Dead = append(hostile.Dead, &Dead{Reason: "malformed"})
	}
	c = batch()
	Bury(c, hostile)
	if len(c.Dead) != push.MaxDead || c.DeadLeft != maxLeft+4 || c.Dead[0].Size != push.MaxData || c.Dead[1].Size != 0 {
		t.Fatalf("%d pieces, %d left, %+v", len(c.Dead), c.DeadLeft, c.Dead[:4])
	}
	for _, d := range c.Dead {
		if d.Reason != push.Malformed {
			t.Fatalf("reason %s", d.Reason)
		}
	}
}
