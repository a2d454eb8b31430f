package query

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/query/metric"
	"github.com/loki-go/loki-go/storage/chunk"
)

// sizedBlock is a block that knows the length of its content. Others are loaded
// where that is asked for.
type sizedBlock interface {
	Size() int64 // bytes, uncompressed
}

// IndexStats is how much a selector finds.
type IndexStats struct{ Streams, Chunks, Bytes, Entries int64 }

// amount is a part of IndexStats.
type amount struct{ bytes, entries float64 }

// ranges are times in order that do not overlap, [from, through) in ns.
type ranges [][2]int64

// Stats tells how much there is in a range: from inclusive, through exclusive.
// Of a block that is not all in it a part is taken, by its time. What is in
// memory and in the store at once counts twice.
func (e *Engine) Stats(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) (IndexStats, error) {
	return again(ctx, func() (IndexStats, error) { return e.indexStats(ctx, tenant, ms, from, through) })
}

func (e *Engine) indexStats(ctx context.Context, tenant string, ms []*labels.Matcher, from, through int64) (IndexStats, error) {
	var out IndexStats
	var total amount
	streams := map[uint32]bool{}
	err := e.measure(ctx, tenant, ms, ranges{{from, through}}, func(_ *plan, b *block, parts []amount) error {
		streams[b.stream] = true
		out.Chunks++
		total.bytes += parts[0].bytes
		total.entries += parts[0].entries
		return nil
	})
	out.Streams, out.Bytes, out.Entries = int64(len(streams)), int64(total.bytes), int64(total.entries)
	return out, err
}

// measure calls f for every block, with what it has in each range.
func (e *Engine) measure(ctx context.Context, tenant string, ms []*labels.Matcher, rs ranges, f func(*plan, *block, []amount) error) error {
	from, through := rs[0][0], rs[len(rs)-1][1]
	lim := e.deps.Limits(tenant)
	if err := checkLength(lim, from, through); err != nil {
		return err
	}
	ctx, release, _, err := e.begin(ctx, lim)
	if err != nil {
		return err
	}
	defer release()
	var stats Stats
	p := &plan{stats: stats.sources()}
	if err := e.selectBlocks(ctx, p, tenant, ms, from, through); err != nil {
		return err
	}
	var content []byte
	parts := make([]amount, len(rs))
	for i := range p.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := &p.blocks[i]
		clear(parts)
		if s, ok := b.ref.(sizedBlock); ok {
			rs.share(b, float64(s.Size()), float64(b.ref.NumEntries()), parts)
		} else if content, err = rs.count(b, content, parts); err != nil {
			return p.broken(b, err)
		}
		if err := f(p, b, parts); err != nil {
			return err
		}
	}
	return nil
}

// share divides a block by time.
func (rs ranges) share(b *block, bytes, entries float64, parts []amount) {
	for i, r := range rs {
		lo, hi := max(r[0], b.mint), min(r[1]-1, b.maxt)
		if lo > hi {
			continue
		}
		// Differences of times, which do not overflow without a sign.
		part := (float64(uint64(hi)-uint64(lo)) + 1) / (float64(uint64(b.maxt)-uint64(b.mint)) + 1)
		parts[i] = amount{bytes * part, entries * part}
	}
}

// count reads a block.
func (rs ranges) count(b *block, buf []byte, parts []amount) ([]byte, error) {
	content, symbols, err := b.ref.Load(buf[:0])
	if err != nil {
		return content, err
	}
	it := chunk.Entries(content)
	for i := 0; it.Next(); {
		for i < len(rs) && it.TS >= rs[i][1] {
			i++
		}
		if i == len(rs) {
			return content, nil
		}
		if it.TS < rs[i][0] {
			continue
		}
		n := len(it.Line)
		for s := range 2 * it.NumPairs {
			text, err := symbol(&it, s, symbols, it.Off)
			if err != nil {
				return content, err
			}
			n += len(text)
		}
		parts[i].bytes += float64(n)
		parts[i].entries++
	}
	return content, it.Err()
}

// VolumeRequest asks for the volume of groups of streams.
type VolumeRequest struct {
	Tenant   string
	Matchers []*labels.Matcher
	Targets  []string // labels that groups have; none: those of Matchers, or all
	ByLabel  bool     // groups are label names, else sets of labels
	Limit    int      // groups of each range
	Ranges   ranges
}

// maxVolumeSeries is how many groups there may be, Loki's default.
const maxVolumeSeries = 1000

var errVolumeSeries = errors.New("too many groups")

// Volumes returns the bytes of each group in each range, with the times of the
// ends, the largest first.
func (e *Engine) Volumes(ctx context.Context, r VolumeRequest) ([]metric.Line, error) {
	return again(ctx, func() ([]metric.Line, error) { return e.volumes(ctx, r) })
}

func (e *Engine) volumes(ctx context.Context, r VolumeRequest) ([]metric.Line, error) {
	names, ms := r.Targets, r.Matchers
	if len(names) == 0 {
		for _, m := range ms {
			names = append(names, m.Name)
		}
	}
	for _, n := range r.Targets {
		if !slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return m.Name == n }) {
			m, err := labels.NewMatcher(labels.MatchRegexp, n, ".+")
			if err != nil {
				return nil, badRequest("%v", err)
			}
			ms = append(slices.Clip(ms), m)
		}
	}
	type group struct {
		labels labels.Labels
		bytes  []float64
	}
	groups := map[string]*group{}
	add := func(ls labels.Labels, parts []amount) error {
		g := groups[ls.String()]
		if g == nil {
			if len(groups) == maxVolumeSeries {
				return errVolumeSeries
			}
			g = &group{labels: ls, bytes: make([]float64, len(r.Ranges))}
			groups[ls.String()] = g
		}
		for i, p := range parts {
			g.bytes[i] += p.bytes
		}
		return nil
	}
	err := e.measure(ctx, r.Tenant, ms, r.Ranges, func(p *plan, b *block, parts []amount) error {
		ls := p.streams[b.stream]
		var kept labels.Labels
		for _, l := range ls {
			if len(names) == 0 || slices.Contains(names, l.Name) || r.ByLabel && len(r.Targets) == 0 {
				kept = append(kept, l)
			}
		}
		if !r.ByLabel {
			return add(kept, parts)
		}
		for _, l := range kept {
			if err := add(labels.Labels{{Name: l.Name}}, parts); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errVolumeSeries) {
		return nil, badRequest("the query hit the max number of series limit (limit: %d series)", maxVolumeSeries)
	}
	if err != nil {
		return nil, err
	}
	all := make([]*group, 0, len(groups))
	for _, g := range groups {
		all = append(all, g)
	}
	lines := make([]metric.Line, len(all))
	for i, g := range all {
		lines[i].Labels = g.labels
	}
	for k, rg := range r.Ranges {
		order := make([]int, 0, len(all))
		for i, g := range all {
			if g.bytes[k] >= 1 {
				order = append(order, i)
			}
		}
		slices.SortFunc(order, func(i, j int) int {
			return cmp.Or(cmp.Compare(all[j].bytes[k], all[i].bytes[k]), cmp.Compare(all[i].labels.String(), all[j].labels.String()))
		})
		for _, i := range order[:min(len(order), r.Limit)] {
			lines[i].Points = append(lines[i].Points, metric.Point{MS: (rg[1] - 1) / 1e6, Value: float64(int64(all[i].bytes[k]))})
		}
	}
	lines = slices.DeleteFunc(lines, func(l metric.Line) bool { return len(l.Points) == 0 })
	slices.SortFunc(lines, func(a, b metric.Line) int {
		return cmp.Or(cmp.Compare(b.Points[0].Value, a.Points[0].Value), cmp.Compare(a.Labels.String(), b.Labels.String()))
	})
	return lines, nil
}

// volumeRanges divides a range at multiples of step, 0 for one range. An end is
// in its range, and a ms before the next one if there is one.
func volumeRanges(start, end int64, step time.Duration) ranges {
	if step <= 0 {
		return ranges{{start, addTime(end, 1)}}
	}
	var rs ranges
	first, _ := align(start, start, int64(step))
	for at := first; at < end; at += int64(step) {
		through := at + int64(step)
		if through >= end {
			through = addTime(end, 1)
		} else {
			through -= int64(time.Millisecond) - 1
		}
		rs = append(rs, [2]int64{max(at, start), through})
	}
	if rs == nil {
		rs = ranges{{start, addTime(end, 1)}}
	}
	return rs
}

// selection reads the parameters of an endpoint for a stream selector.
func selection(c *call, all bool) (start, end int64, ms []*labels.Matcher, err error) {
	if start, end, err = timeRange(c.Form, c.now); err != nil {
		return 0, 0, nil, err
	}
	if end < start {
		return 0, 0, nil, badRequest("end timestamp must not be before or equal to start time")
	}
	ms, err = selectorQuery(c.Form.Get("query"), all)
	return start, end, ms, err
}

// selectorQuery reads a query that is a stream selector; {} only where all is a
// valid answer.
func selectorQuery(query string, all bool) ([]*labels.Matcher, error) {
	ms, err := logql.ParseSelector(query)
	if err == nil && len(ms) == 0 && !all {
		_, err = logql.Parse(query)
	}
	if err != nil {
		return nil, badRequest("%v", err)
	}
	return ms, nil
}
