package forward

import (
	"context"
	"errors"
	"math/bits"
	"sync"
	"time"

	"github.com/loki-go/loki-go/proto/push"
)

const (
	// smallBuffer is what an idle connection has. It needs no admission.
	smallBuffer = 4 << 10
	// freeBuffer is the largest buffer that needs no admission.
	freeBuffer = 16 << 10
)

// buffers are free buffers with sizes that are powers of two.
type buffers struct {
	classes [25]sync.Pool // up to 16 MiB
}

// class returns the exponent of the least power of two that is at least n.
func class(n int) int { return bits.Len(uint(max(n, smallBuffer) - 1)) }

func (b *buffers) get(n int) []byte {
	k := class(n)
	if k < len(b.classes) {
		if p, ok := b.classes[k].Get().(*[]byte); ok {
			return *p
		}
	}
	return make([]byte, 1<<k)
}

func (b *buffers) put(p []byte) {
	if k := class(len(p)); p != nil && k < len(b.classes) {
		b.classes[k].Put(&p)
	}
}

// reservation is memory that the sink has admitted.
type reservation struct{ releases []func() }

func (r *reservation) release() {
	for i, release := range r.releases {
		release()
		r.releases[i] = nil
	}
	r.releases = r.releases[:0]
}

// buffer returns a buffer of at least n bytes, having asked for the memory. The
// entries that come of the bytes in it take memory twice more, as they are
// mapped and as they are laid out for the batch, though not all at once.
func (c *conn) buffer(r *reservation, n int) ([]byte, error) {
	if size := 1 << class(n); size > freeBuffer {
		if err := c.admit(r, int64(size+2*min(size, partSize))); err != nil {
			return nil, err
		}
	}
	return c.s.buffers.get(n), nil
}

const (
	admitTry   = time.Second
	admitPause = 50 * time.Millisecond
)

// admit asks the sink for n bytes, and waits for as long as there are none:
// meanwhile nothing is read, which is how senders learn of it.
//
// Messages ask for more while they have some, so several of them could wait
// for each other for ever. Therefore one connection of the server may go on
// without admission until its message is done.
func (c *conn) admit(r *reservation, n int64) error {
	if c.overdraft {
		return nil
	}
	began := time.Now()
	defer func() { c.began = c.began.Add(time.Since(began)) }()
	for {
		ctx, cancel := context.WithTimeout(c.s.ctx, admitTry)
		release, err := c.s.d.Sink.Admit(ctx, n)
		timeout := ctx.Err() != nil
		cancel()
		if err == nil {
			r.releases = append(r.releases, release)
			return nil
		}
		if c.s.ctx.Err() != nil {
			return errShutdown
		}
		var refused *push.Error
		if errors.As(err, &refused) && !refused.Reason.Retryable() {
			return &closeError{reason: "too_large", err: err}
		}
		if time.Since(began) >= admitTry {
			select {
			case c.s.overdraft <- struct{}{}:
				c.overdraft = true
				return nil
			default:
			}
		}
		c.s.metrics.waits.Inc()
		if !timeout {
			c.s.sleep(admitPause)
		}
	}
}

// settle gives back the turn to go on without admission.
func (c *conn) settle() {
	if c.overdraft {
		c.overdraft = false
		<-c.s.overdraft
	}
}
