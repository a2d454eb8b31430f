package cluster

import (
	"context"
	"fmt"
	"sync"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/storage/chunk"
)

// Members reads from all instances of a ring, whatever their state, as one
// Source. What several replicas hold comes several times.
type Members struct {
	Ring interface{ Current() *ring.Ring }
	// Source returns what reads from an instance. It must not block.
	Source func(in ring.Instance) (Source, error)
	// ReplicationFactor is that of the writes. Too many instances that do not
	// answer, see ring.Readers, make a read fail.
	ReplicationFactor int
	Log               *warn.Logger
}

// Select implements Source.
func (m *Members) Select(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error) {
	return ask(ctx, m, func(s Source) ([]chunk.Series, error) { return s.Select(ctx, tenant, ms, from, through) })
}

// filtering is a Source that can leave out entries, which remote ones can. It is
// what package query asks for.
type filtering interface {
	SelectFiltered(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64, filter string) ([]chunk.Series, error)
}

// SelectFiltered is Select for a query that has a use only for what passes filter.
// An instance of this process gives all that it has: it is here already.
func (m *Members) SelectFiltered(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64, filter string) ([]chunk.Series, error) {
	return ask(ctx, m, func(s Source) ([]chunk.Series, error) {
		if f, ok := s.(filtering); ok {
			return f.SelectFiltered(ctx, tenant, ms, from, through, filter)
		}
		return s.Select(ctx, tenant, ms, from, through)
	})
}

// LabelSets implements Source.
func (m *Members) LabelSets(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]labels.Labels, error) {
	return ask(ctx, m, func(s Source) ([]labels.Labels, error) { return s.LabelSets(ctx, tenant, ms, from, through) })
}

// ask asks all instances at once and returns what they say, in order of their
// names.
func ask[T any](ctx context.Context, m *Members, f func(Source) ([]T, error)) ([]T, error) {
	r := m.Ring.Current()
	instances := r.Instances()
	answers, errs := make([][]T, len(instances)), make([]error, len(instances))
	var wg sync.WaitGroup
	for i, in := range instances {
		wg.Go(func() {
			s, err := m.Source(in)
			if err == nil {
				answers[i], err = f(s)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	var all []T
	var missing []int
	var first error
	for i := range instances {
		if errs[i] == nil {
			all = append(all, answers[i]...)
			continue
		}
		missing = append(missing, i)
		if first == nil {
			first = errs[i]
		}
		m.Log.Warn("an instance does not answer a query", "instance", instances[i].ID, "err", errs[i])
	}
	if !r.Readers(m.ReplicationFactor).Enough(missing) {
		return nil, fmt.Errorf("%d of %d instances do not answer, so that entries may be missing: %w", len(missing), len(instances), first)
	}
	return all, nil
}
