package cluster

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/ingester/coverage"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/ring"
)

// Peer is an ingester as others see it that have the same streams; see
// docs/replication.md.
type Peer interface {
	// Covered lets go of what others have stored; nil means that this is on
	// record.
	Covered(ctx context.Context, ns []coverage.Notice) error
	// StoreFor stores what the ingester is the first to store and the instance
	// has, too.
	StoreFor(ctx context.Context, instance string) error
}

// Peer returns the ingester that an instance is. It does not block.
func (p *Pool) Peer(in ring.Instance) (Peer, error) {
	c, err := p.conn(in)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// maxNotices is the largest message with notices: an ingester puts about 1 MiB of
// them into one, and a single one has at most as much again.
const maxNotices = 4 << 20

// Covered implements Peer.
func (c *conn) Covered(ctx context.Context, ns []coverage.Notice) error {
	req := new(ingestpb.CoveredRequest)
	for k := range ns {
		n := &ns[k]
		req.Coverage = append(req.Coverage, &ingestpb.Coverage{Tenant: n.Tenant, Labels: n.Labels, Entries: n.Entries.Append(nil)})
	}
	if _, err := c.client.Covered(ctx, req, grpc.MaxCallSendMsgSize(maxNotices)); err != nil {
		return c.failed(ctx, err)
	}
	return nil
}

// StoreFor implements Peer.
func (c *conn) StoreFor(ctx context.Context, instance string) error {
	if _, err := c.client.StoreFor(ctx, &ingestpb.StoreForRequest{Instance: instance}); err != nil {
		return c.failed(ctx, err)
	}
	return nil
}

// Covered implements the service.
func (s *Server) Covered(ctx context.Context, req *ingestpb.CoveredRequest) (*ingestpb.CoveredResponse, error) {
	if err := s.allowed(ctx); err != nil {
		return nil, err
	}
	ns := make([]coverage.Notice, 0, len(req.Coverage))
	for _, c := range req.Coverage {
		set, err := coverage.Decode(c.Entries)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		ns = append(ns, coverage.Notice{Tenant: c.Tenant, Labels: c.Labels, Entries: set})
	}
	if err := s.ing.Covered(ctx, ns); err != nil {
		return nil, ingestpb.StatusError(err)
	}
	return new(ingestpb.CoveredResponse), nil
}

// StoreFor implements the service.
func (s *Server) StoreFor(ctx context.Context, req *ingestpb.StoreForRequest) (*ingestpb.StoreForResponse, error) {
	if err := s.allowed(ctx); err != nil {
		return nil, err
	}
	if err := s.ing.StoreFor(ctx, req.Instance); err != nil {
		return nil, ingestpb.StatusError(err)
	}
	return new(ingestpb.StoreForResponse), nil
}
