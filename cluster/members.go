package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/ring"
	"github.com/loki-go/loki-go/storage/chunk"
)

// Members reads from all instances of a ring, whatever their state, as one
// Source. What several replicas hold comes several times.
type Members struct {
	Ring interface{ Current() *ring.Ring }
	// Source returns what reads from an instance. It must not block.
	Source func(in ring.Instance) (Source, error)
	// Quorum is how many replicas have an entry when it is acknowledged. With as
	// many instances that do not answer, or more, a read fails.
	Quorum int
	Log    *slog.Logger
}

// Select implements Source.
func (m *Members) Select(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]chunk.Series, error) {
	return ask(ctx, m, func(s Source) ([]chunk.Series, error) { return s.Select(ctx, tenant, ms, from, through) })
}

// LabelSets implements Source.
func (m *Members) LabelSets(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) ([]labels.Labels, error) {
	return ask(ctx, m, func(s Source) ([]labels.Labels, error) { return s.LabelSets(ctx, tenant, ms, from, through) })
}

// ask asks all instances at once and returns what they say, in order of their
// names.
func ask[T any](ctx context.Context, m *Members, f func(Source) ([]T, error)) ([]T, error) {
	instances := m.Ring.Current().Instances()
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
	missing := 0
	var first error
	for i := range instances {
		if errs[i] == nil {
			all = append(all, answers[i]...)
			continue
		}
		missing++
		if first == nil {
			first = errs[i]
		}
		m.Log.Warn("an instance does not answer a query", "instance", instances[i].ID, "err", errs[i])
	}
	if missing >= max(1, m.Quorum) {
		return nil, fmt.Errorf("%d of %d instances do not answer, so that entries may be missing: %w", missing, len(instances), first)
	}
	return all, nil
}
