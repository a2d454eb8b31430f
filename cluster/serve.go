package cluster

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/ingestpb"
	"github.com/loki-go/loki-go/storage/chunk"
)

// selectCall is the other side of Select.
type selectCall = grpc.BidiStreamingServer[ingestpb.SelectRequest, ingestpb.SelectResponse]

// selecting is a selection that is served.
type selecting struct {
	s       *Server
	ctx     context.Context
	blocks  []chunk.BlockRef
	streams []labels.Labels // of the blocks
	filter  Filter          // nil: none
	kept    []byte          // content of the current answer
}

// Select implements the service.
func (s *Server) Select(stream selectCall) error {
	if err := s.allowed(stream.Context()); err != nil {
		return err
	}
	if !s.selects.TryAcquire(1) {
		return status.Errorf(codes.ResourceExhausted, "there are %d queries already, as many as cluster.max-selects allows", s.cfg.MaxSelects)
	}
	defer s.selects.Release(1)
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	sel := first.GetSelection()
	ms, err := matchers(sel)
	if err != nil {
		return err
	}
	q := &selecting{s: s, ctx: stream.Context(), filter: s.filter(sel)}
	series, err := s.ing.Select(q.ctx, sel.GetTenant(), ms, sel.GetFrom(), sel.GetThrough())
	if err != nil {
		return ingestpb.StatusError(err)
	}
	if err := q.sendSeries(stream, series); err != nil {
		return err
	}
	return q.serve(stream)
}

// filter returns the filter of a selection, nil if it has none that is known
// here: then the other side, which may be newer, does without.
func (s *Server) filter(sel *ingestpb.Selection) Filter {
	if sel.Filter == "" || s.d.Filter == nil {
		return nil
	}
	f, err := s.d.Filter(sel.Filter, sel.From, sel.Through)
	if err != nil {
		s.d.Log.Warn("a query's filter is not understood; it gets all entries", "err", err)
		return nil
	}
	return f
}

// sendSeries sends what was selected, and notes its blocks in that order.
func (q *selecting) sendSeries(stream selectCall, series []chunk.Series) error {
	const enough = 256 << 10
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
			q.blocks, q.streams = append(q.blocks, b), append(q.streams, series[i].Labels)
		}
		msg.Streams = append(msg.Streams, st)
		if size += len(st.Labels) + 32*len(st.Blocks); size >= enough {
			if err := stream.Send(msg); err != nil {
				return err
			}
			msg, size = new(ingestpb.SelectResponse), 0
		}
	}
	msg.Done = true
	return stream.Send(msg)
}

// sized is a block that knows how large it is.
type sized interface{ Size() int64 }

// serve sends blocks that are asked for, until the client has enough.
func (q *selecting) serve(stream selectCall) error {
	requests := make(chan *ingestpb.SelectRequest)
	q.s.wg.Go(func() { // ends with the call
		defer close(requests)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- r:
			case <-q.ctx.Done():
				return
			}
		}
	})
	idle := time.NewTimer(q.s.cfg.SelectIdle)
	defer idle.Stop()
	for {
		select {
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			msg, err := q.answer(r)
			if err != nil {
				return err
			}
			q.s.m.sent(msg)
			if err := stream.Send(msg); err != nil {
				return err
			}
			idle.Reset(q.s.cfg.SelectIdle)
		case <-idle.C:
			return status.Errorf(codes.DeadlineExceeded, "no request for %v", q.s.cfg.SelectIdle)
		case <-q.ctx.Done():
			return status.FromContextError(q.ctx.Err()).Err()
		}
	}
}

// Blocks go with the one that was asked for until this much has been kept of
// them, so that one that the client does not need after all costs little, or read
// for them, which takes a fraction of a second.
const (
	moreKept = 64 << 10
	moreRead = 16 << 20
	maxNext  = 64 // numbers of blocks in a request
)

// answer makes the answer to a request.
func (q *selecting) answer(r *ingestpb.SelectRequest) (*ingestpb.SelectResponse, error) {
	q.kept = q.kept[:0]
	first, err := q.block(r.Load)
	if err != nil {
		return nil, err
	}
	msg := &ingestpb.SelectResponse{Block: first}
	read := first.Scanned.GetBytes()
	for _, n := range r.Next[:min(len(r.Next), maxNext)] {
		if first.Scanned == nil || len(q.kept) > moreKept || read > moreRead || q.ctx.Err() != nil {
			break
		}
		b, err := q.block(n)
		if err != nil || b.Error != "" {
			break // which is told when it is asked for
		}
		msg.More = append(msg.More, b)
		read += max(b.Scanned.GetBytes(), int64(len(b.Content)))
	}
	return msg, nil
}

// block returns what there is of a block. The error is one of the call; what is
// wrong with the block is a part of the answer.
func (q *selecting) block(n uint32) (*ingestpb.BlockContent, error) {
	if int64(n) >= int64(len(q.blocks)) {
		return nil, status.Errorf(codes.InvalidArgument, "block %d of %d", n, len(q.blocks))
	}
	at := len(q.kept)
	f := chunk.Filtered{Whole: true}
	var err error
	if q.filter == nil {
		f.Content, f.Symbols, err = q.blocks[n].Load(q.kept)
	} else {
		if err := q.s.filters.Acquire(q.ctx, 1); err != nil {
			return nil, status.FromContextError(err).Err()
		}
		f, err = q.filter.Load(q.kept, q.streams[n], q.blocks[n])
		q.s.filters.Release(1)
	}
	if errors.Is(err, fs.ErrClosed) {
		return nil, status.Error(codes.Unavailable, "the ingester is about to end")
	}
	if err != nil {
		return &ingestpb.BlockContent{Error: text(err.Error())}, nil
	}
	q.kept = f.Content
	out := &ingestpb.BlockContent{Content: f.Content[at:], Symbols: f.Symbols}
	if !f.Whole {
		out.Symbols = slices.Clone(f.Symbols)
		out.Scanned = &ingestpb.Scanned{Bytes: f.Bytes, Entries: f.Entries}
	}
	return out, nil
}
