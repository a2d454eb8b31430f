package gateway

import (
	"context"
	"time"

	"github.com/loki-go/loki-go/proto/push"
)

// Admit asks for n bytes of the memory that all requests share; release gives
// them back. If they are not free in time, the error is a *push.Error with the
// reason Overloaded. A request may ask several times; what it asks for at once
// counts as half of the memory at most, so that one that is larger than the
// memory is let in when others are not, instead of never.
func (g *Gateway) Admit(ctx context.Context, n int64) (release func(), err error) {
	n = min(max(n, 0), int64(g.cfg.MaxInflight)/2)
	if !g.inflight.TryAcquire(n) {
		if err := g.waitAdmit(ctx, n); err != nil {
			return nil, err
		}
	}
	g.m.inflight.Add(float64(n))
	return func() {
		g.m.inflight.Add(float64(-n))
		g.inflight.Release(n)
	}, nil
}

func (g *Gateway) waitAdmit(ctx context.Context, n int64) error {
	wait, cancel := context.WithTimeout(ctx, g.cfg.AdmitWait)
	defer cancel()
	if g.inflight.Acquire(wait, n) == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err // the client has gone
	}
	g.m.notAdmitted.Inc()
	e := push.Errorf(push.Overloaded, "gateway: too many bytes in flight: the limit is %d", int64(g.cfg.MaxInflight))
	e.RetryAfter = time.Second
	return e
}
