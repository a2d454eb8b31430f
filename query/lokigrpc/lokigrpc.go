// Package lokigrpc serves the gRPC service logproto.Querier of Loki 3.7 over what
// an ingester holds: a Loki's queriers can read from it as from one of theirs.
//
// A query is evaluated here, and what it keeps is sent in batches: entries with
// the labels that its stages left them, or samples, by time. The store is no part
// of it; who asks reads that himself. What an ingester has stored and still has in
// memory is in both, and has the same hashes there.
//
// The query is the text in the field selector (of Tail: query). A request that has
// it as a plan alone, the JSON of a syntax tree that changes with Loki's versions,
// is refused, as is one with deletes.
//
// A Service is safe for concurrent use and starts no goroutines. Its calls are
// bounded by the engine's slots and limits; those of Tail by ten a tenant.
package lokigrpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/proto/lokipb"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/query/metric"
)

// Deps is what a Service needs.
type Deps struct {
	Engine *query.Engine // settings and slots; it reads from Source here
	Source query.Source  // what the ingester holds
	// Tenant returns whose data a call is about. Errors are *push.Error.
	Tenant func(context.Context) (string, error)
}

// Service implements logproto.Querier.
type Service struct {
	lokipb.UnimplementedQuerierServer
	d Deps

	mu    sync.Mutex
	tails map[string]int // calls of Tail, by tenant
}

// New returns a Service.
func New(d Deps) *Service { return &Service{d: d, tails: map[string]int{}} }

// Register adds the service to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) { lokipb.RegisterQuerierServer(r, s) }

// maxStatus bounds the text of a status, which must fit in an HTTP/2 header.
const maxStatus = 2 << 10

// failed makes the error of a call. Requests that are wrong get what Loki gives
// them: the code of HTTP in the place of one of gRPC.
func failed(err error) error {
	var parse *logql.ParseError
	var request *query.RequestError
	var eval *metric.Error
	var refused *push.Error
	switch _, is := status.FromError(err); {
	case err == nil || is:
		return err
	case errors.As(err, &parse), errors.As(err, &request), errors.As(err, &eval):
		return status.Error(codes.Code(http.StatusBadRequest), text(err.Error()))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &refused):
		return ingestpb.StatusError(err)
	}
	return status.Error(codes.Internal, text(err.Error()))
}

func text(s string) string {
	if len(s) > maxStatus {
		s = s[:maxStatus] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func badRequest(format string, args ...any) error {
	return status.Error(codes.Code(http.StatusBadRequest), text(fmt.Sprintf(format, args...)))
}

// parse reads the query of a request.
func parse(text string, plan *lokipb.Plan, deletes []*lokipb.Delete) (logql.Expr, error) {
	if len(deletes) > 0 {
		return nil, status.Error(codes.Unimplemented, "deletes are not applied here; lines can be deleted by retention only")
	}
	if text == "" && len(plan.GetRaw()) > 0 {
		return nil, status.Error(codes.Unimplemented, "the query is a plan; it is needed as text, too")
	}
	return logql.Parse(text)
}

func parseLog(text string, plan *lokipb.Plan, deletes []*lokipb.Delete) (*logql.LogQuery, error) {
	e, err := parse(text, plan, deletes)
	if err != nil {
		return nil, err
	}
	q, ok := e.(*logql.LogQuery)
	if !ok {
		return nil, badRequest("only log selector is supported")
	}
	return q, nil
}

// selector reads a stream selector, of which an empty one selects all.
func selector(text string) ([]*labels.Matcher, error) {
	if text == "" {
		return nil, nil
	}
	return logql.ParseSelector(text)
}

// Tail implements the service.
func (s *Service) Tail(r *lokipb.TailRequest, stream grpc.ServerStreamingServer[lokipb.TailResponse]) error {
	tenant, err := s.d.Tenant(stream.Context())
	if err != nil {
		return failed(err)
	}
	q, err := parseLog(r.Query, r.Plan, nil)
	if err != nil {
		return failed(err)
	}
	if err := s.beginTail(tenant); err != nil {
		return err
	}
	defer s.endTail(tenant)
	return failed(s.d.Engine.On(s.d.Source).Follow(stream.Context(), tenant, q, func(res *query.Result) error {
		return eachBatch(res, func(b *lokipb.QueryResponse) error {
			for _, st := range b.Streams {
				st.Hash = 0 // as Loki has it
				if err := stream.Send(&lokipb.TailResponse{Stream: st}); err != nil {
					return err
				}
			}
			return nil
		})
	}))
}

// maxTails is how many tails a tenant may have, Loki's default.
const maxTails = 10

func (s *Service) beginTail(tenant string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tails[tenant] >= maxTails {
		return badRequest("max concurrent tail requests limit exceeded, count > limit (%d > %d)", s.tails[tenant]+1, maxTails)
	}
	s.tails[tenant]++
	return nil
}

func (s *Service) endTail(tenant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tails[tenant]--; s.tails[tenant] == 0 {
		delete(s.tails, tenant)
	}
}

// TailersCount implements the service.
func (s *Service) TailersCount(ctx context.Context, _ *lokipb.TailersCountRequest) (*lokipb.TailersCountResponse, error) {
	tenant, err := s.d.Tenant(ctx)
	if err != nil {
		return nil, failed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &lokipb.TailersCountResponse{Count: uint32(s.tails[tenant])}, nil
}

// GetChunkIDs implements the service. There are none: a chunk is known to the
// store when it is, and until then its entries are in what Query finds.
func (s *Service) GetChunkIDs(ctx context.Context, _ *lokipb.GetChunkIDsRequest) (*lokipb.GetChunkIDsResponse, error) {
	if _, err := s.d.Tenant(ctx); err != nil {
		return nil, failed(err)
	}
	return &lokipb.GetChunkIDsResponse{}, nil
}

// GetDetectedFields implements the service. Loki's ingesters give an example
// here, and its queriers do not ask.
func (s *Service) GetDetectedFields(context.Context, *lokipb.DetectedFieldsRequest) (*lokipb.DetectedFieldsResponse, error) {
	return nil, status.Error(codes.Unimplemented, "ask for detected fields over HTTP: /loki/api/v1/detected_fields")
}
