package compactor

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/storage/index"
)

// Retention knows how long a tenant's chunks are kept. It is asked in every
// run and may change its answer.
type Retention interface {
	Retention(tenant string) Policy
}

// Policy says how long chunks are kept. The zero value keeps all.
type Policy struct {
	Period  time.Duration // of streams that no rule matches; 0: for ever
	Streams []Rule
}

// Rule is the period of some streams. Of the rules that match a stream the one
// with the highest priority applies, of equal ones that with the shortest
// period.
type Rule struct {
	Matchers []*labels.Matcher
	Priority int
	Period   time.Duration // 0: for ever
}

// NoRetention keeps everything.
type NoRetention struct{}

// Retention is Retention's.
func (NoRetention) Retention(string) Policy { return Policy{} }

// period returns how long the chunks of a stream are kept; 0: for ever.
func (p Policy) period(ls labels.Labels) time.Duration {
	var best *Rule
	for i := range p.Streams {
		r := &p.Streams[i]
		if best != nil && (r.Priority < best.Priority || r.Priority == best.Priority && !shorter(r.Period, best.Period)) {
			continue
		}
		if labels.MatchAll(r.Matchers, ls) {
			best = r
		}
	}
	if best != nil {
		return max(best.Period, 0)
	}
	return max(p.Period, 0)
}

// shorter compares periods, of which 0 is the longest.
func shorter(a, b time.Duration) bool { return a > 0 && (b <= 0 || a < b) }

// shortest returns the shortest period of any stream; 0: all are kept for ever.
func (p Policy) shortest() time.Duration {
	s := max(p.Period, 0)
	for _, r := range p.Streams {
		if shorter(r.Period, s) {
			s = r.Period
		}
	}
	return s
}

// String is the same for equal policies.
func (p Policy) String() string {
	var b strings.Builder
	fmt.Fprint(&b, p.Period)
	for _, r := range p.Streams {
		fmt.Fprintf(&b, " %v %d %v", r.Matchers, r.Priority, r.Period)
	}
	return b.String()
}

// judge applies a policy at one moment.
type judge struct {
	policy Policy
	now    int64 // ms
	next   int64 // when the first of the chunks that stay expires
}

func newJudge(p Policy, now time.Time) *judge {
	return &judge{policy: p, now: now.UnixMilli(), next: math.MaxInt64}
}

// expires returns the time before which a chunk of the stream must end to be
// expired.
func (j *judge) expires(ls labels.Labels) (before int64, period int64, ok bool) {
	p := j.policy.period(ls).Milliseconds()
	return j.now - p, p, p > 0
}

// keep is index.Keep.
func (j *judge) keep(ls labels.Labels, _ uint64, chunks []index.ChunkMeta) []index.ChunkMeta {
	before, period, ok := j.expires(ls)
	if !ok {
		return chunks
	}
	out := chunks[:0]
	for _, c := range chunks {
		if c.MaxTime >= before {
			j.next = min(j.next, c.MaxTime+period+1)
			out = append(out, c)
		}
	}
	return out
}
