package lokigrpc

import (
	"math"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/lokipb"
	"github.com/loki-go/loki-go/query"
)

// Sizes of batches: entries and samples as in Loki's, and bytes, so that messages
// of long lines are taken by clients that have gRPC's limit of 4 MiB.
const (
	batchEntries = 128
	batchSamples = 512
	batchBytes   = 1 << 20
)

// Query implements the service.
func (s *Service) Query(r *lokipb.QueryRequest, stream grpc.ServerStreamingServer[lokipb.QueryResponse]) error {
	ctx := stream.Context()
	tenant, err := s.d.Tenant(ctx)
	if err != nil {
		return failed(err)
	}
	q, err := parseLog(r.Selector, r.Plan, r.Deletes)
	if err != nil {
		return failed(err)
	}
	src, err := sharded(s.d.Source, r.Shards)
	if err != nil {
		return failed(err)
	}
	req := query.Request{
		Tenant: tenant, Query: q, Limit: int(r.Limit),
		From: nanos(r.Start, math.MinInt64), Through: nanos(r.End, math.MaxInt64),
	}
	switch r.Direction {
	case lokipb.Direction_FORWARD:
	case lokipb.Direction_BACKWARD:
		req.Direction = query.Backward
	default:
		return badRequest("direction %d is not one", r.Direction)
	}
	var rest *lokipb.IngesterStats // of pages that had no batch
	err = s.d.Engine.On(src).Pages(ctx, req, func(res *query.Result) error {
		cost := costs(&res.Stats)
		err := eachBatch(res, func(b *lokipb.QueryResponse) error {
			b.Stats, cost = cost, &lokipb.IngesterStats{}
			b.Stats.TotalBatches = 1
			for _, st := range b.Streams {
				b.Stats.TotalLinesSent += int64(len(st.Entries))
			}
			return stream.Send(b)
		})
		rest = cost
		return err
	})
	if err != nil {
		return failed(err)
	}
	// The empty batch says that it is the last one.
	return stream.Send(&lokipb.QueryResponse{Stats: rest})
}

// costs returns what a query cost.
func costs(s *query.Stats) *lokipb.IngesterStats {
	m := &s.Memory
	return &lokipb.IngesterStats{
		TotalChunksMatched: int64(m.Blocks),
		Store: &lokipb.StoreStats{
			TotalChunksRef: int64(m.Blocks),
			Chunk: &lokipb.ChunkStats{
				HeadChunkBytes: m.Bytes, HeadChunkLines: m.Lines, TotalDuplicates: m.Duplicates, PostFilterLines: m.Kept,
				HeadChunkStructuredMetadataBytes: m.MetaBytes,
			},
		},
	}
}

// streamID is what makes entries or series belong together.
type streamID struct {
	hash   uint64
	labels string
}

// eachBatch calls f for the entries of a result, some at a time.
func eachBatch(r *query.Result, f func(*lokipb.QueryResponse) error) error {
	hashes := make([]uint64, len(r.Streams))
	for i, ls := range r.Streams {
		hashes[i] = ls.Fingerprint()
	}
	texts := make([]string, len(r.Labels))
	meta, parsed := make([][]*lokipb.Pair, len(r.Labels)), make([][]*lokipb.Pair, len(r.Labels))
	for i := range r.Labels {
		l := &r.Labels[i]
		texts[i], meta[i], parsed[i] = l.All().String(), pairs(l.Meta), pairs(l.Parsed)
	}
	for entries := r.Entries; len(entries) > 0; {
		n, bytes := 0, 0
		for n < min(len(entries), batchEntries) && (n == 0 || bytes+len(entries[n].Line) <= batchBytes) {
			bytes += len(entries[n].Line)
			n++
		}
		b := &lokipb.QueryResponse{}
		streams := make(map[streamID]*lokipb.Stream)
		memory, times := make([]lokipb.Entry, n), make([]timestamppb.Timestamp, n)
		for i := range n {
			e := &entries[i]
			id := streamID{hashes[e.Stream], texts[e.Labels]}
			st := streams[id]
			if st == nil {
				st = &lokipb.Stream{Labels: []byte(id.labels), Hash: id.hash}
				streams[id], b.Streams = st, append(b.Streams, st)
			}
			out := &memory[i]
			out.Timestamp, out.Line = timestamp(&times[i], e.TS), e.Line
			out.StructuredMetadata, out.Parsed = meta[e.Labels], parsed[e.Labels]
			st.Entries = append(st.Entries, out)
		}
		if err := f(b); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

func pairs(ls labels.Labels) []*lokipb.Pair {
	out := make([]*lokipb.Pair, len(ls))
	for i, l := range ls {
		out[i] = &lokipb.Pair{Name: []byte(l.Name), Value: []byte(l.Value)}
	}
	return out
}

// QuerySample implements the service.
func (s *Service) QuerySample(r *lokipb.SampleQueryRequest, stream grpc.ServerStreamingServer[lokipb.SampleQueryResponse]) error {
	ctx := stream.Context()
	tenant, err := s.d.Tenant(ctx)
	if err != nil {
		return failed(err)
	}
	e, err := parse(r.Selector, r.Plan, r.Deletes)
	if err != nil {
		return failed(err)
	}
	src, err := sharded(s.d.Source, r.Shards)
	if err != nil {
		return failed(err)
	}
	b := sampleBatch{send: stream.Send}
	b.begin()
	stats, err := s.d.Engine.On(src).Samples(ctx, query.SampleRequest{
		Tenant: tenant, Query: e, From: nanos(r.Start, math.MinInt64), Through: nanos(r.End, math.MaxInt64),
	}, b.add)
	if err != nil {
		return failed(err)
	}
	if b.n > 0 {
		if err := b.flush(); err != nil {
			return err
		}
	}
	// The empty batch says that it is the last one.
	return stream.Send(&lokipb.SampleQueryResponse{Stats: costs(&stats)})
}

// sampleBatch gathers samples.
type sampleBatch struct {
	send   func(*lokipb.SampleQueryResponse) error
	msg    *lokipb.SampleQueryResponse
	series map[streamID]*lokipb.Series
	n      int
	bytes  int
	memory []lokipb.Sample
}

func (b *sampleBatch) begin() {
	b.msg = &lokipb.SampleQueryResponse{Stats: &lokipb.IngesterStats{TotalBatches: 1}}
	b.series, b.n, b.bytes = map[streamID]*lokipb.Series{}, 0, 0
	b.memory = make([]lokipb.Sample, batchSamples)
}

func (b *sampleBatch) add(x query.OneSample) error {
	id := streamID{x.Stream, x.Labels}
	s := b.series[id]
	if s == nil {
		s = &lokipb.Series{Labels: []byte(id.labels), StreamHash: id.hash}
		b.series[id], b.msg.Series = s, append(b.msg.Series, s)
		b.bytes += len(id.labels)
	}
	out := &b.memory[b.n]
	out.Timestamp, out.Value, out.Hash = x.TS, x.Value, x.Hash
	s.Samples = append(s.Samples, out)
	if b.n++; b.n == batchSamples || b.bytes > batchBytes {
		return b.flush()
	}
	return nil
}

func (b *sampleBatch) flush() error {
	b.msg.Stats.TotalLinesSent = int64(b.n)
	err := b.send(b.msg)
	b.begin()
	return err
}
