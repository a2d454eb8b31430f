package objstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptrace"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// RetryConfig says how hard Resilient tries.
type RetryConfig struct {
	Timeout  time.Duration `yaml:"timeout" help:"time in which the object store must begin to answer a request, and a second more for each 256KB that is sent; what it sends has a minute more for an object, four for a list"`
	Attempts int           `yaml:"attempts" help:"tries of a request that fails for a reason that may pass"`
	MaxRate  float64       `yaml:"max-rate" help:"after the store has said that there are too many requests, those of this process grow again up to this many a second, beyond which nothing bounds them"`
}

// DefaultRetryConfig returns the defaults. S3 takes 3500 writes a second to a
// prefix.
func DefaultRetryConfig() RetryConfig {
	return RetryConfig{Timeout: 15 * time.Second, Attempts: 5, MaxRate: 3000}
}

// Validate returns every problem of c.
func (c RetryConfig) Validate() []error {
	var errs []error
	if c.Timeout <= 0 {
		errs = append(errs, errors.New("timeout: must be above 0"))
	}
	if c.Attempts < 1 || c.Attempts > 100 {
		errs = append(errs, errors.New("attempts: must be from 1 to 100"))
	}
	if c.MaxRate < 1 {
		errs = append(errs, errors.New("max-rate: must be 1 or more"))
	}
	return errs
}

// Pauses between tries: a random part of a span that doubles.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
	slowBytes  = 256 << 10 // a second that any connection must bring
)

// Resilient wraps a remote store: every request has a deadline, those that fail
// for a passing reason are tried again with random pauses, and all of them keep
// to one rate, which falls when the store asks for that.
func Resilient(b Bucket, cfg RetryConfig, reg prometheus.Registerer) Bucket {
	return newResilient(b, cfg, reg)
}

func newResilient(b Bucket, cfg RetryConfig, reg prometheus.Registerer) *resilient {
	r := &resilient{b: b, cfg: cfg, pace: NewPacer(cfg.MaxRate, 1), sleep: sleep}
	r.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "loki_go_objstore_requests_total", Help: "Requests to the object store, by what became of each.",
	}, []string{"op", "result"})
	r.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "loki_go_objstore_request_seconds", Help: "Time of requests to the object store.",
		Buckets: prometheus.ExponentialBuckets(1e-3, 3, 10),
	}, []string{"op"})
	if reg != nil {
		reg.MustRegister(r.requests, r.seconds, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "loki_go_objstore_rate_limit_requests", Help: "Requests a second that are sent at most because the store asked for fewer; 0: no such limit.",
		}, r.pace.Rate))
	}
	return r
}

type resilient struct {
	b        Bucket
	cfg      RetryConfig
	pace     *Pacer
	sleep    func(context.Context, time.Duration) error
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errSilent ends a request whose answer does not begin.
var errSilent = errors.New("the answer does not begin")

// patient returns a context that ends after limit, and when an HTTP request
// that is made with it has no first byte of its answer after first: the time
// that a large answer may take is no reason to wait as long for a service that
// is silent. With a context of several requests, one after the other, this is
// so for each.
func patient(ctx context.Context, first, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithTimeout(ctx, limit)
	ctx, cancel := context.WithCancelCause(ctx)
	t := time.AfterFunc(limit, func() { cancel(errSilent) })
	end := func() {
		t.Stop()
		cancel(nil)
		stop()
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:              func(string) { t.Reset(first) },
		GotFirstResponseByte: func() { t.Stop() },
	}), end
}

// gaveUp is the error of a request that took too long. It does not wrap what
// became of the request: that would look as if the caller's own time was over.
func gaveUp(op, key string, was, why error) error {
	var e *Error
	hint := ""
	if errors.As(was, &e) {
		hint = e.Hint
	}
	return &Error{Op: op, Key: key, Kind: Transient, Hint: hint, Err: why}
}

// do runs f until it succeeds, cannot succeed, or was tried often enough. Up is
// how many bytes f sends, down how many it may get, about.
func (r *resilient) do(ctx context.Context, op, key string, up, down int, f func(context.Context) error) error {
	first := r.cfg.Timeout + time.Duration(up)*time.Second/slowBytes
	limit := first + time.Duration(down)*time.Second/slowBytes
	for try, span := 1, firstPause; ; try, span = try+1, min(2*span, lastPause) {
		if err := r.pace.Wait(ctx); err != nil {
			return err
		}
		began := time.Now()
		one, cancel := patient(ctx, first, limit)
		err := f(one)
		late := one.Err() != nil && ctx.Err() == nil
		silent := context.Cause(one) == errSilent
		cancel()
		r.seconds.WithLabelValues(op).Observe(time.Since(began).Seconds())
		if err == nil {
			r.requests.WithLabelValues(op, "ok").Inc()
			return nil
		}
		kind := KindOf(err)
		if late {
			kind = Transient
			if silent || down == 0 {
				err = gaveUp(op, key, err, fmt.Errorf("no answer within %s", first))
			} else {
				err = gaveUp(op, key, err, fmt.Errorf("not done within %s", limit))
			}
		}
		r.requests.WithLabelValues(op, kind.String()).Inc()
		if kind == Throttled {
			r.pace.Slow()
		}
		if ctx.Err() != nil || kind != Transient && kind != Throttled {
			return err
		}
		if try >= r.cfg.Attempts {
			return fmt.Errorf("tried %d times: %w", try, err)
		}
		if r.sleep(ctx, rand.N(span)+span/8) != nil {
			return err
		}
	}
}

func (r *resilient) Put(ctx context.Context, key string, body []byte) error {
	return r.do(ctx, "put", key, len(body), 0, func(ctx context.Context) error { return r.b.Put(ctx, key, body) })
}

func (r *resilient) Get(ctx context.Context, key string) (body []byte, err error) {
	// How large it is shows only when it comes; chunks have a few MB.
	const large = 16 << 20
	err = r.do(ctx, "get", key, 0, large, func(ctx context.Context) (err error) {
		body, err = r.b.Get(ctx, key)
		return err
	})
	return body, err
}

func (r *resilient) Stat(ctx context.Context, key string) (info Info, err error) {
	err = r.do(ctx, "stat", key, 0, 0, func(ctx context.Context) (err error) {
		info, err = r.b.Stat(ctx, key)
		return err
	})
	return info, err
}

func (r *resilient) List(ctx context.Context, prefix string, recursive bool) (keys []string, err error) {
	const pages = 64 << 20 // of a long list
	err = r.do(ctx, "list", prefix, 0, pages, func(ctx context.Context) (err error) {
		keys, err = r.b.List(ctx, prefix, recursive)
		return err
	})
	return keys, err
}

func (r *resilient) Delete(ctx context.Context, key string) error {
	return r.do(ctx, "delete", key, 0, 0, func(ctx context.Context) error { return r.b.Delete(ctx, key) })
}

// Check finds out whether b can be used: it lists, writes, reads and deletes.
// The error is that of the first of these which fails.
func Check(ctx context.Context, b Bucket, name string) error {
	if _, err := b.List(ctx, "index/", false); err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	key, body := "loki-go/check-"+name, "written at start to see whether the bucket can be used"
	if err := b.Put(ctx, key, []byte(body)); err != nil {
		return fmt.Errorf("write an object: %w", err)
	}
	got, err := b.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("read an object: %w", err)
	}
	if string(got) != body {
		return fmt.Errorf("read an object: %s came back different", key)
	}
	if err := b.Delete(ctx, key); err != nil {
		return fmt.Errorf("delete an object: %w", err)
	}
	return nil
}
