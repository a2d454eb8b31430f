package cluster

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/storage/chunk"
)

// LabelSets implements the service.
func (s *Server) LabelSets(sel *ingestpb.Selection, stream grpc.ServerStreamingServer[ingestpb.LabelSetsResponse]) error {
	if err := s.allowed(stream.Context()); err != nil {
		return err
	}
	ms, err := matchers(sel)
	if err != nil {
		return err
	}
	sets, err := s.ing.LabelSets(stream.Context(), sel.Tenant, ms, sel.From, sel.Through)
	if err != nil {
		return ingestpb.StatusError(err)
	}
	const enough = 2000
	for len(sets) > 0 {
		n := min(len(sets), enough)
		msg := new(ingestpb.LabelSetsResponse)
		for _, ls := range sets[:n] {
			msg.Labels = append(msg.Labels, ls.String())
		}
		if err := stream.Send(msg); err != nil {
			return err
		}
		sets = sets[n:]
	}
	return nil
}

// maxPattern is the longest regular expression in a selection.
const maxPattern = 64 << 10

func matchers(sel *ingestpb.Selection) ([]*labels.Matcher, error) {
	if sel == nil {
		return nil, status.Error(codes.InvalidArgument, "no selection")
	}
	var ms []*labels.Matcher
	for _, m := range sel.Matchers {
		t := labels.MatchType(m.Type)
		if t > labels.MatchNotRegexp || len(m.Value) > maxPattern {
			return nil, status.Errorf(codes.InvalidArgument, "matcher for %q is not one", m.Name)
		}
		lm, err := labels.NewMatcher(t, m.Name, m.Value)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%v", err)
		}
		ms = append(ms, lm)
	}
	return ms, nil
}

func selection(tenant string, ms []*labels.Matcher, from, through int64) *ingestpb.Selection {
	sel := &ingestpb.Selection{Tenant: tenant, From: from, Through: through}
	for _, m := range ms {
		sel.Matchers = append(sel.Matchers, &ingestpb.Matcher{Type: ingestpb.Matcher_Type(m.Type), Name: m.Name, Value: m.Value})
	}
	return sel
}

// text makes s fit for a protobuf string.
func text(s string) string {
	const most = 4 << 10
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// errSelection is the error of loads after one that failed.
var errSelection = errors.New("an earlier load of the query failed")

// remote reads from another instance.
type remote struct {
	c *conn
}

// Select implements Source. The call lasts until ctx ends.
func (r remote) Select(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error) {
	return r.sel(ctx, selection(tenant, ms, from, through))
}

// SelectFiltered implements filtering.
func (r remote) SelectFiltered(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64, filter string) ([]chunk.Series, error) {
	s := selection(tenant, ms, from, through)
	if utf8.ValidString(filter) { // as texts in messages are
		s.Filter = filter
	}
	return r.sel(ctx, s)
}

func (r remote) sel(ctx context.Context, of *ingestpb.Selection) ([]chunk.Series, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &selected{timeout: r.c.cfg.QueryTimeout, filtered: of.Filter != "", ctx: ctx, cancel: cancel}
	stream, err := r.c.client.Select(ctx, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err == nil {
		s.stream = stream
		err = stream.Send(&ingestpb.SelectRequest{Selection: of})
	}
	var out []chunk.Series
	if err == nil || errors.Is(err, errEnd) {
		out, err = s.series()
	}
	if err != nil {
		cancel(err)
		return nil, r.c.failed(ctx, err)
	}
	if len(out) == 0 {
		cancel(nil)
	}
	return out, nil
}

// LabelSets implements Source.
func (r remote) LabelSets(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]labels.Labels, error) {
	ctx, cancel := context.WithTimeout(ctx, r.c.cfg.QueryTimeout)
	defer cancel()
	stream, err := r.c.client.LabelSets(ctx, selection(tenant, ms, from, through), grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return nil, r.c.failed(ctx, err)
	}
	var out []labels.Labels
	for {
		msg, err := stream.Recv()
		if errors.Is(err, errEnd) {
			return out, nil
		}
		if err != nil {
			return nil, r.c.failed(ctx, err)
		}
		for _, s := range msg.Labels {
			ls, err := labels.Parse(s)
			if err != nil {
				return nil, r.c.failed(ctx, err)
			}
			out = append(out, ls)
		}
	}
}
