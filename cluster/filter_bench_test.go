package cluster

import (
	"context"
	"syscall"
	"testing"

	"github.com/loki-go/loki-go/query"
	"github.com/loki-go/loki-go/query/logql"
)

// cpu returns the CPU time that the process has used, in seconds.
func cpu(b *testing.B) float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(r.Utime) + seconds(r.Stime)
}

// BenchmarkSelect queries 24 MB of one ingester: in its own process, in another
// one that sends all that is selected, and in one that filters. Both processes
// are this one; wire-B/op is what comes over the connection, cpu-ms/op is of
// both sides.
func BenchmarkSelect(b *testing.B) {
	f := &fake{}
	size := int64(0)
	for _, s := range logs(20, 10_000, 10_000) {
		series := cut(s, 2000)
		f.series = append(f.series, series)
		for _, r := range series.Blocks {
			size += int64(len(r.(*cutBlock).content))
		}
	}
	filtering, plain := newGroup(b, DefaultConfig(), true, f), newGroup(b, DefaultConfig(), false, f)
	for _, text := range []string{
		`{app="x"} |= "needle"`, `{app="x"} | logfmt | msg="needle"`, `{app="x"} | detected_level="error"`, `{app="x"}`,
		`sum(count_over_time({app="x"} |= "needle" [1h]))`, `sum(count_over_time({app="x"}[1h]))`,
	} {
		expr, err := logql.Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		for _, where := range []struct {
			name   string
			g      *group
			remote bool
		}{{"local", plain, false}, {"whole", plain, true}, {"filtered", filtering, true}} {
			b.Run(text+"/"+where.name, func(b *testing.B) {
				e := newEngine(b, where.g.members(where.remote), nil)
				b.SetBytes(size)
				b.ReportAllocs()
				bytes, used := where.g.net.in.Load(), cpu(b)
				for b.Loop() {
					var err error
					if q, ok := expr.(*logql.LogQuery); ok {
						_, err = e.Run(context.Background(), query.Request{Tenant: "t", Query: q, Through: 1e13, Limit: 100, Direction: query.Backward})
					} else {
						_, err = e.RunMetric(context.Background(), query.MetricRequest{Tenant: "t", Query: expr, Start: 1e12, End: 1e12})
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(where.g.net.in.Load()-bytes)/float64(b.N), "wire-B/op")
				b.ReportMetric((cpu(b)-used)*1e3/float64(b.N), "cpu-ms/op")
			})
		}
	}
}
