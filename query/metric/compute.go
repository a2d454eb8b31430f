package metric

import (
	"math"
	"time"

	"github.com/loki-go/loki-go/query/logql"
)

// computation returns what an ordered aggregation makes of the samples of an
// interval, of which there is at least one.
func computation(e *logql.RangeAggregation) func([]Sample) float64 {
	switch e.Op {
	case "sum_over_time":
		return sum
	case "rate":
		seconds := e.Range.Interval.Seconds()
		return func(s []Sample) float64 { return sum(s) / seconds }
	case "avg_over_time":
		return average
	case "stdvar_over_time":
		return variance
	case "stddev_over_time":
		return func(s []Sample) float64 { return math.Sqrt(variance(s)) }
	case "quantile_over_time":
		var buf []float64
		return func(s []Sample) float64 {
			buf = buf[:0]
			for _, x := range s {
				buf = append(buf, x.Value)
			}
			return quantile(e.Param, buf)
		}
	default: // rate_counter
		return func(s []Sample) float64 { return counterRate(s, e.Range.Interval) }
	}
}

func sum(s []Sample) (total float64) {
	for _, x := range s {
		total += x.Value
	}
	return total
}

// average is the mean, computed so that it does not overflow. A mean that is
// infinite stays so, unless the opposite infinity or no number comes.
func average(s []Sample) (mean float64) {
	for i, x := range s {
		if math.IsInf(mean, 0) {
			if math.IsInf(x.Value, 0) && (mean > 0) == (x.Value > 0) {
				continue
			}
			if !math.IsInf(x.Value, 0) && !math.IsNaN(x.Value) {
				continue
			}
		}
		n := float64(i + 1)
		mean += x.Value/n - mean/n
	}
	return mean
}

// variance is that of the whole population, by Welford's method.
func variance(s []Sample) float64 {
	var mean, squares float64
	for i, x := range s {
		d := x.Value - mean
		mean += d / float64(i+1)
		squares += d * (x.Value - mean)
	}
	return squares / float64(len(s))
}

// quantile reorders vs. Between two values it is their weighted mean.
func quantile(q float64, vs []float64) float64 {
	switch {
	case q < 0:
		return math.Inf(-1)
	case q > 1:
		return math.Inf(1)
	}
	rank := q * float64(len(vs)-1)
	low := math.Floor(rank)
	weight := rank - low
	a, b := ranked(vs, int(low))
	return a*(1-weight) + b*weight
}

// counterRate is the increase per second of a counter that may begin anew. It
// follows Prometheus's rate as Loki does it: Loki counts times in ns where the
// formula wants ms, so that of what is extrapolated to the interval's borders
// next to nothing is left. Answers are to be the same, so it is done so here.
func counterRate(s []Sample, interval time.Duration) float64 {
	if len(s) < 2 {
		return 0
	}
	first, last := s[0], s[len(s)-1]
	increase := last.Value - first.Value
	before := 0.0
	for _, x := range s {
		if x.Value < before {
			increase += before
		}
		before = x.Value
	}
	toStart := float64(interval.Milliseconds()) / 1000
	sampled := float64(last.TS-first.TS) / 1000
	between := sampled / float64(len(s)-1)
	if increase > 0 && first.Value >= 0 {
		toStart = math.Min(toStart, sampled*(first.Value/increase))
	}
	whole := sampled // and nothing to the end, which is taken to be the last sample
	if toStart < between*1.1 {
		whole += toStart
	} else {
		whole += between / 2
	}
	return increase * (whole / sampled) / interval.Seconds()
}
