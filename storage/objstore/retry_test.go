package objstore

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scripted answers each call with the next of errs, then with success.
type scripted struct {
	Bucket
	errs  []error
	calls int
	block bool // wait for the end of the request's time
}

func (s *scripted) Put(ctx context.Context, _ string, _ []byte) error {
	s.calls++
	if s.block {
		<-ctx.Done()
		return ctx.Err()
	}
	if len(s.errs) == 0 {
		return nil
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	return err
}

func kinds(ks ...Kind) (errs []error) {
	for _, k := range ks {
		errs = append(errs, &Error{Op: "put", Key: "k", Kind: k, Err: errors.New("scripted")})
	}
	return errs
}

func TestRetries(t *testing.T) {
	for name, x := range map[string]struct {
		errs  []error
		calls int
		want  string
	}{
		"success":           {nil, 1, ""},
		"passing failures":  {kinds(Transient, Throttled, Transient), 4, ""},
		"denied":            {kinds(Denied, Denied), 1, "scripted"},
		"permanent":         {kinds(Permanent), 1, "scripted"},
		"not found":         {kinds(NotFound), 1, "scripted"},
		"outage":            {kinds(Transient, Transient, Transient, Transient, Transient, Transient), 5, "tried 5 times"},
		"unclassified":      {[]error{errors.New("odd")}, 1, "odd"},
		"deadline of a try": {[]error{context.DeadlineExceeded}, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := &scripted{errs: x.errs}
			r := newResilient(s, DefaultRetryConfig(), prometheus.NewRegistry())
			var slept []time.Duration
			r.sleep = func(_ context.Context, d time.Duration) error { slept = append(slept, d); return nil }
			err := r.Put(t.Context(), "k", nil)
			if s.calls != x.calls || x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
				t.Fatalf("%d calls, %v; want %d, %q", s.calls, err, x.calls, x.want)
			}
			for k, d := range slept {
				if span := firstPause << k; d < span/8 || d > span+span/8 {
					t.Fatalf("pause %d is %s, want a part of %s", k, d, span)
				}
			}
		})
	}
}

// overHTTP lists with one request after the other.
type overHTTP struct {
	Bucket
	url   string
	pages int
}

func (b overHTTP) List(ctx context.Context, _ string, _ bool) ([]string, error) {
	for range b.pages {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url, nil)
		if err != nil {
			return nil, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, &Error{Op: "list", Kind: Transient, Err: err}
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, &Error{Op: "list", Kind: Transient, Err: err}
		}
	}
	return []string{"k"}, nil
}

// TestSilentService: an answer that does not begin is given up after the time
// of a small request, also the third of several; one that has begun is not.
func TestSilentService(t *testing.T) {
	f := func(name string, answer func(call int64, w http.ResponseWriter, r *http.Request), calls int64, want string) {
		t.Helper()
		var n atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(n.Add(1), w, r) }))
		defer server.Close()
		cfg := DefaultRetryConfig()
		cfg.Timeout, cfg.Attempts = 300*time.Millisecond, 2
		r := newResilient(overHTTP{url: server.URL, pages: 3}, cfg, nil)
		r.sleep = func(context.Context, time.Duration) error { return nil }
		_, err := r.List(t.Context(), "", true)
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v looks like the end of the caller's context", name, err)
		}
		if n.Load() != calls || (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %d requests", name, err, n.Load())
		}
	}
	f("silent once", func(call int64, _ http.ResponseWriter, r *http.Request) {
		if call == 3 {
			<-r.Context().Done()
		}
	}, 6, "")
	f("silent", func(_ int64, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 2, "no answer within 300ms")
	f("slow", func(_ int64, w http.ResponseWriter, _ *http.Request) {
		for range 5 {
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	}, 3, "")
}

func TestRetryEndsWithItsContext(t *testing.T) {
	s := &scripted{errs: kinds(Transient, Transient, Transient)}
	r := newResilient(s, DefaultRetryConfig(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	r.sleep = func(ctx context.Context, _ time.Duration) error { cancel(); return ctx.Err() }
	if err := r.Put(ctx, "k", nil); err == nil || s.calls != 1 {
		t.Fatalf("%d calls, %v; want one that failed", s.calls, err)
	}
}

func TestDeadlineOfEachTry(t *testing.T) {
	cfg := DefaultRetryConfig()
	cfg.Timeout, cfg.Attempts = 5*time.Millisecond, 3
	s := &scripted{block: true}
	r := newResilient(s, cfg, nil)
	r.sleep = func(context.Context, time.Duration) error { return nil }
	if err := r.Put(t.Context(), "k", nil); s.calls != 3 || err == nil || !strings.Contains(err.Error(), "no answer within 5ms") {
		t.Fatalf("%d calls, %v; want 3 that were cut", s.calls, err)
	}
}

// TestPacer throttles a service for a while and lets it recover.
func TestPacer(t *testing.T) {
	now := time.Unix(1000, 0)
	p := NewPacer(1000, 10)
	p.now = func() time.Time { return now }
	reserve := func() time.Duration {
		_, d := p.reserve()
		return d
	}
	for range 400 {
		if d := reserve(); d != 0 {
			t.Fatalf("a wait of %s without need", d)
		}
	}
	if p.Rate() != 0 {
		t.Fatalf("a bound of %f without need", p.Rate())
	}
	p.Slow()
	p.Slow() // of the same burst
	if got := p.Rate(); got != 200 {
		t.Fatalf("rate %f after the first cut, want half of the 400 that there were", got)
	}
	// Requests are a 1/200 s apart now.
	if first, second := reserve(), reserve(); first != 0 || second != 5*time.Millisecond {
		t.Fatalf("waits %s, %s; want 0 and 5 ms", first, second)
	}
	for range 20 {
		now = now.Add(cutEvery)
		p.Slow()
	}
	if got := p.Rate(); got != 10 {
		t.Fatalf("rate %f, want the least", got)
	}
	now = now.Add(cutEvery + time.Second)
	if got := p.Rate(); math.Abs(got-60) > 1e-6 {
		t.Fatalf("rate %f after a quiet second, want 10 + 5 %% of 1000", got)
	}
	now = now.Add(30 * time.Second)
	if got := p.Rate(); got != 0 || reserve() != 0 {
		t.Fatalf("rate %f after quiet 30 s, want no bound", got)
	}
}

// TestPacerForgetsALine: those who wait, and those who come later, go by the
// rate of the moment, not by the one there was when the line was long; who
// leaves makes room.
func TestPacerForgetsALine(t *testing.T) {
	now := time.Unix(1000, 0)
	p := NewPacer(1000, 1)
	p.now = func() time.Time { return now }
	p.reserve()
	p.Slow()
	var last float64
	var off time.Duration
	for range 101 {
		last, off = p.reserve()
	}
	if off != 100*time.Second {
		t.Fatalf("the last of a line of 101 is %s off", off)
	}
	p.giveBack()
	if d := p.off(last); d != 99*time.Second {
		t.Fatalf("when one has left the last is %s off", d)
	}
	if _, d := p.reserve(); d != off {
		t.Fatalf("who comes then is %s off", d)
	}
	now = now.Add(cutEvery + 2*time.Second)
	if d := p.off(last); d > time.Second {
		t.Fatalf("with a rate of %f the last is %s off", p.Rate(), d)
	}
	now = now.Add(time.Second)
	_, d := p.reserve()
	if d0 := p.off(last); d0 != 0 || d != 0 {
		t.Fatalf("a second later it is %s off, and a new one %s", d0, d)
	}
}

func TestPacerWaitEndsWithItsContext(t *testing.T) {
	p := NewPacer(1000, 0.001)
	p.Slow()
	_ = p.Wait(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}
