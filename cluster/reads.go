package cluster

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/storage/chunk"
)

// Select implements the service.
func (s *Server) Select(stream grpc.BidiStreamingServer[ingestpb.SelectRequest, ingestpb.SelectResponse]) error {
	if err := s.allowed(stream.Context()); err != nil {
		return err
	}
	if !s.selects.TryAcquire(1) {
		return status.Errorf(codes.ResourceExhausted, "there are %d queries already, as many as cluster.max-selects allows", s.cfg.MaxSelects)
	}
	defer s.selects.Release(1)
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	sel := first.GetSelection()
	ms, err := matchers(sel)
	if err != nil {
		return err
	}
	series, err := s.ing.Select(ctx, sel.GetTenant(), ms, sel.GetFrom(), sel.GetThrough())
	if err != nil {
		return ingestpb.StatusError(err)
	}
	blocks, err := sendSeries(stream, series)
	if err != nil {
		return err
	}
	return s.serveLoads(stream, blocks)
}

// sendSeries sends what was selected, and returns its blocks in that order.
func sendSeries(stream grpc.BidiStreamingServer[ingestpb.SelectRequest, ingestpb.SelectResponse], series []chunk.Series) ([]chunk.BlockRef, error) {
	const enough = 256 << 10
	var all []chunk.BlockRef
	msg := new(ingestpb.SelectResponse)
	size := 0
	for i := range series {
		st := &ingestpb.SelectedStream{Labels: series[i].Labels.String()}
		for _, b := range series[i].Blocks {
			from, to := b.Bounds()
			block := &ingestpb.SelectedBlock{MinTime: from, MaxTime: to, Entries: uint32(b.NumEntries())}
			if s, ok := b.(sized); ok {
				block.Size = s.Size()
			}
			st.Blocks = append(st.Blocks, block)
			all = append(all, b)
		}
		msg.Streams = append(msg.Streams, st)
		if size += len(st.Labels) + 32*len(st.Blocks); size >= enough {
			if err := stream.Send(msg); err != nil {
				return nil, err
			}
			msg, size = new(ingestpb.SelectResponse), 0
		}
	}
	msg.Done = true
	return all, stream.Send(msg)
}

// sized is a block that knows how large it is.
type sized interface{ Size() int64 }

// serveLoads sends blocks that are asked for, until the client has enough.
func (s *Server) serveLoads(stream grpc.BidiStreamingServer[ingestpb.SelectRequest, ingestpb.SelectResponse], blocks []chunk.BlockRef) error {
	ctx := stream.Context()
	requests := make(chan *ingestpb.SelectRequest)
	s.wg.Go(func() { // ends with the call
		defer close(requests)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	})
	idle := time.NewTimer(s.cfg.SelectIdle)
	defer idle.Stop()
	var buf []byte
	for {
		select {
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			if int64(r.Load) >= int64(len(blocks)) {
				return status.Errorf(codes.InvalidArgument, "block %d of %d", r.Load, len(blocks))
			}
			content := new(ingestpb.BlockContent)
			var err error
			buf, content.Symbols, err = blocks[r.Load].Load(buf[:0])
			if errors.Is(err, fs.ErrClosed) {
				return status.Error(codes.Unavailable, "the ingester is about to end")
			}
			if err != nil {
				content.Symbols, content.Error = nil, text(err.Error())
			} else {
				content.Content = buf
			}
			s.m.blocks.Inc()
			s.m.blockBytes.Add(float64(len(content.Content)))
			if err := stream.Send(&ingestpb.SelectResponse{Block: content}); err != nil {
				return err
			}
			idle.Reset(s.cfg.SelectIdle)
		case <-idle.C:
			return status.Errorf(codes.DeadlineExceeded, "no request for %v", s.cfg.SelectIdle)
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

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
	ctx, cancel := context.WithCancelCause(ctx)
	s := &selected{timeout: r.c.cfg.QueryTimeout, ctx: ctx, cancel: cancel}
	stream, err := r.c.client.Select(ctx, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err == nil {
		s.stream = stream
		err = stream.Send(&ingestpb.SelectRequest{Selection: selection(tenant, ms, from, through)})
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
