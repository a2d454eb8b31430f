package cluster

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/ingester/coverage"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/proto/push"
)

// TestPeers sends what one ingester tells another.
func TestPeers(t *testing.T) {
	f := &fake{}
	in, _ := serve(t, f, DefaultConfig(), "127.0.0.1:0")
	pool := newPool(t, DefaultConfig(), nil)
	p, err := pool.Peer(in)
	if err != nil {
		t.Fatal(err)
	}
	var many []coverage.Run
	for n := range uint64(50_000) {
		many = append(many, coverage.Run{Push: coverage.Push{Gateway: 1 << 63, Number: n}, From: uint32(n % 2), To: 9})
	}
	want := []coverage.Notice{
		{Tenant: "t", Labels: `{a="1"}`, Entries: coverage.Of(coverage.Run{Push: coverage.Push{Gateway: 3, Number: 4}, From: 0, To: 1})},
		{Tenant: "u", Labels: `{a="2"}`, Entries: coverage.Of(many...)},
	}
	if err := p.Covered(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f.told, want) {
		t.Fatalf("told %d notices", len(f.told))
	}
	if err := p.StoreFor(t.Context(), "b"); err != nil || !slices.Equal(f.asked, []string{"b"}) {
		t.Fatal(err, f.asked)
	}
	f.failReads(&push.Error{Reason: push.Replaying, Msg: "not yet"})
	for _, err := range []error{p.Covered(t.Context(), want), p.StoreFor(t.Context(), "b")} {
		var e *push.Error
		if !asError(err, &e) || e.Reason != push.Replaying || e.Msg != "not yet" {
			t.Fatal(err)
		}
	}
}

func asError(err error, to **push.Error) bool {
	e, ok := err.(*push.Error)
	*to = e
	return ok
}

// TestPeersCheckWhatComes sends what is no set, and calls without the secret.
func TestPeersCheckWhatComes(t *testing.T) {
	f := &fake{}
	cfg := DefaultConfig()
	in, _ := serve(t, f, cfg, "127.0.0.1:0")
	c, err := newPool(t, cfg, nil).conn(in)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.client.Covered(context.Background(), &ingestpb.CoveredRequest{Coverage: []*ingestpb.Coverage{{Entries: []byte("no set")}}})
	if status.Code(err) != codes.InvalidArgument || len(f.told) > 0 {
		t.Fatal(err)
	}
	cfg.Secret = "another"
	in, _ = serve(t, f, cfg, "127.0.0.1:0")
	p, err := newPool(t, DefaultConfig(), nil).Peer(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{p.Covered(t.Context(), nil), p.StoreFor(t.Context(), "b")} {
		if err == nil || !strings.Contains(err.Error(), "PermissionDenied") {
			t.Fatal(err)
		}
	}
}
