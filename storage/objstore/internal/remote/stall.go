package remote

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// stall is how long a service may send nothing in the middle of an answer.
// Whole answers have longer deadlines, as they can be large.
const stall = 20 * time.Second

// ByProgress makes a transport give up answers that stop coming.
func ByProgress(next http.RoundTripper) http.RoundTripper { return byProgress{next, stall} }

type byProgress struct {
	next  http.RoundTripper
	stall time.Duration
}

func (b byProgress) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	resp, err := b.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	p := &progress{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, stall: b.stall}
	p.timer = time.AfterFunc(b.stall, func() {
		cancel(fmt.Errorf("no byte of the answer for %s: %w", b.stall, context.DeadlineExceeded))
	})
	p.timer.Stop() // it runs during reads only
	resp.Body = p
	return resp, nil
}

// CloseIdleConnections is for http.Client's method of that name.
func (b byProgress) CloseIdleConnections() {
	if c, ok := b.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// progress is a body, each read of which has a deadline.
type progress struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func (p *progress) Read(b []byte) (int, error) {
	p.timer.Reset(p.stall)
	n, err := p.ReadCloser.Read(b)
	p.timer.Stop()
	if err != nil && err != io.EOF && p.ctx.Err() != nil {
		err = context.Cause(p.ctx)
	}
	return n, err
}

func (p *progress) Close() error {
	p.timer.Stop()
	err := p.ReadCloser.Close()
	p.cancel(nil)
	return err
}
