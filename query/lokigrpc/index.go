package lokigrpc

import (
	"context"
	"math"
	"slices"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/lokipb"
	"github.com/loki-go/loki-go/query"
)

// labelSets returns the streams that satisfy one of the selectors; none: all.
func (s *Service) labelSets(ctx context.Context, src query.Source, selectors []string, from, through int64) ([]labels.Labels, error) {
	tenant, err := s.d.Tenant(ctx)
	if err != nil {
		return nil, err
	}
	if len(selectors) == 0 {
		selectors = []string{""}
	}
	var all []labels.Labels
	seen := map[string]bool{}
	for _, text := range selectors {
		ms, err := selector(text)
		if err != nil {
			return nil, err
		}
		sets, err := src.LabelSets(ctx, tenant, ms, from, through)
		if err != nil {
			return nil, err
		}
		for _, ls := range sets {
			if t := ls.String(); !seen[t] {
				seen[t] = true
				all = append(all, ls)
			}
		}
	}
	return all, nil
}

// values returns the values of each label. Like Loki, it looks at all that there
// is, whatever the range of time.
func (s *Service) values(ctx context.Context, selector string) (map[string]map[string]struct{}, error) {
	sets, err := s.labelSets(ctx, s.d.Source, []string{selector}, math.MinInt64, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]struct{}{}
	for _, ls := range sets {
		for _, l := range ls {
			if out[l.Name] == nil {
				out[l.Name] = map[string]struct{}{}
			}
			out[l.Name][l.Value] = struct{}{}
		}
	}
	return out, nil
}

func sorted[T any](m map[string]T) [][]byte {
	out := make([][]byte, 0, len(m))
	for k := range m {
		out = append(out, []byte(k))
	}
	slices.SortFunc(out, slices.Compare)
	return out
}

// Label implements the service.
func (s *Service) Label(ctx context.Context, r *lokipb.LabelRequest) (*lokipb.LabelResponse, error) {
	all, err := s.values(ctx, r.Query)
	if err != nil {
		return nil, failed(err)
	}
	if r.Values {
		return &lokipb.LabelResponse{Values: sorted(all[r.Name])}, nil
	}
	return &lokipb.LabelResponse{Values: sorted(all)}, nil
}

// GetDetectedLabels implements the service.
func (s *Service) GetDetectedLabels(ctx context.Context, r *lokipb.DetectedLabelsRequest) (*lokipb.LabelToValuesResponse, error) {
	all, err := s.values(ctx, r.Query)
	if err != nil {
		return nil, failed(err)
	}
	out := &lokipb.LabelToValuesResponse{Labels: map[string]*lokipb.UniqueLabelValues{}}
	for name, values := range all {
		out.Labels[name] = &lokipb.UniqueLabelValues{Values: sorted(values)}
	}
	return out, nil
}

// Series implements the service.
func (s *Service) Series(ctx context.Context, r *lokipb.SeriesRequest) (*lokipb.SeriesResponse, error) {
	src, err := sharded(s.d.Source, r.Shards)
	if err != nil {
		return nil, failed(err)
	}
	sets, err := s.labelSets(ctx, src, r.Groups, nanos(r.Start, math.MinInt64), nanos(r.End, math.MaxInt64))
	if err != nil {
		return nil, failed(err)
	}
	out := &lokipb.SeriesResponse{}
	for _, ls := range sets {
		id := &lokipb.SeriesIdentifier{}
		for _, l := range ls {
			id.Labels = append(id.Labels, &lokipb.SeriesIdentifier_LabelsEntry{Key: []byte(l.Name), Value: []byte(l.Value)})
		}
		out.Series = append(out.Series, id)
	}
	return out, nil
}

// GetStats implements the service.
func (s *Service) GetStats(ctx context.Context, r *lokipb.IndexStatsRequest) (*lokipb.IndexStatsResponse, error) {
	tenant, err := s.d.Tenant(ctx)
	if err != nil {
		return nil, failed(err)
	}
	ms, err := selector(r.Matchers)
	if err != nil {
		return nil, failed(err)
	}
	st, err := s.d.Engine.On(s.d.Source).Stats(ctx, tenant, ms, fromMillis(r.From), fromMillis(r.Through))
	if err != nil {
		return nil, failed(err)
	}
	return &lokipb.IndexStatsResponse{
		Streams: uint64(st.Streams), Chunks: uint64(st.Chunks), Bytes: uint64(st.Bytes), Entries: uint64(st.Entries),
	}, nil
}

// GetVolume implements the service.
func (s *Service) GetVolume(ctx context.Context, r *lokipb.VolumeRequest) (*lokipb.VolumeResponse, error) {
	tenant, err := s.d.Tenant(ctx)
	if err != nil {
		return nil, failed(err)
	}
	v := query.VolumeRequest{
		Tenant: tenant, Targets: r.TargetLabels, Limit: int(max(r.Limit, 0)),
		Ranges: [][2]int64{{fromMillis(r.From), fromMillis(r.Through)}},
	}
	switch r.AggregateBy {
	case "", "series":
	case "labels":
		v.ByLabel = true
	default:
		return nil, badRequest("invalid aggregation option")
	}
	if v.Matchers, err = selector(r.Matchers); err != nil {
		return nil, failed(err)
	}
	lines, err := s.d.Engine.On(s.d.Source).Volumes(ctx, v)
	if err != nil {
		return nil, failed(err)
	}
	out := &lokipb.VolumeResponse{Limit: r.Limit}
	for _, l := range lines {
		name := l.Labels.AppendString(nil)
		if v.ByLabel {
			name = []byte(l.Labels[0].Name)
		}
		out.Volumes = append(out.Volumes, &lokipb.Volume{Name: name, Volume: uint64(l.Points[0].Value)})
	}
	return out, nil
}
