package query

import (
	"context"
	"errors"
	"testing"

	"github.com/loki-go/loki-go/query/logql"
)

// gone is the error of an instance that went away.
type gone struct{}

func (gone) Error() string { return "the instance is gone" }
func (gone) InstanceLeft() {}

// TestRunAgain: a query that an instance leaves is run again, a few times, and
// none that fails otherwise or that nobody waits for.
func TestRunAgain(t *testing.T) {
	f := func(err error, times, wantAsked int, ok bool, change func(cancel func())) {
		t.Helper()
		for _, run := range []func(ctx context.Context, e *Engine) error{
			func(ctx context.Context, e *Engine) error {
				_, err := e.Run(ctx, Request{Tenant: "t", Query: logQuery(t, `{a="b"}`), Through: 100, Limit: 10})
				return err
			},
			func(ctx context.Context, e *Engine) error {
				expr, err := logql.Parse(`count_over_time({a="b"}[1s])`)
				if err != nil {
					t.Fatal(err)
				}
				_, err = e.RunMetric(ctx, MetricRequest{Tenant: "t", Query: expr, Start: 100, End: 100})
				return err
			},
			func(ctx context.Context, e *Engine) error {
				_, err := e.Stats(ctx, "t", logQuery(t, `{a="b"}`).Matchers, 0, 100)
				return err
			},
			func(ctx context.Context, e *Engine) error {
				_, err := e.Volumes(ctx, VolumeRequest{Tenant: "t", Matchers: logQuery(t, `{a="b"}`).Matchers, Limit: 10, Ranges: ranges{{0, 100}}})
				return err
			},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			b := newBlock(entry{1, "x", ""})
			asked := 0
			src := new(fake).add(`{a="b"}`, b)
			src.asked = func() {
				asked++
				if b.err = err; asked > times {
					b.err = nil
				}
				if change != nil {
					change(cancel)
				}
			}
			if got := run(ctx, newEngine(t, src, nil)); asked != wantAsked || (got == nil) != ok {
				t.Errorf("asked %d times, want %d; %v", asked, wantAsked, got)
			}
			cancel()
		}
	}
	f(nil, 0, 1, true, nil)
	f(gone{}, 1, 2, true, nil)
	f(gone{}, 2, 3, true, nil)
	f(gone{}, 3, 3, false, nil)
	f(errors.New("bad checksum"), 1, 1, false, nil)
	f(gone{}, 1, 1, false, func(cancel func()) { cancel() })
}
