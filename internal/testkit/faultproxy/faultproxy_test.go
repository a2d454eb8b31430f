package faultproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// service counts what it carries out and answers with what it got.
type service struct {
	*httptest.Server
	n    atomic.Int64
	last atomic.Pointer[http.Request]
}

const answer = "the answer has some length"

func newService(t *testing.T) *service {
	s := &service{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.n.Add(1)
		s.last.Store(r)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Got", string(body))
		if r.Method != http.MethodPut {
			_, _ = io.WriteString(w, answer)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func start(t *testing.T, s *service) *Proxy {
	t.Helper()
	p, err := Start(s.URL, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// client uses no connection twice: Go's client sends a request again by itself
// when a connection that it had used before is reset.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func do(t *testing.T, c *http.Client, method, url, body string, within time.Duration) (*http.Response, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, string(got), err
}

func TestRequestsArePassedOnAsTheyCame(t *testing.T) {
	s := newService(t)
	p := start(t, s)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, p.URL+"/bucket/a%3Ab%2Fc/1:2?x=y%20z", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "signed.example:9000"
	req.Header.Set("User-Agent", "")
	req.Header.Set("Expect", "100-continue")
	resp, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := s.last.Load()
	if got.RequestURI != "/bucket/a%3Ab%2Fc/1:2?x=y%20z" || got.Host != "signed.example:9000" || got.ContentLength != 4 ||
		got.Header.Get("User-Agent") != "" || got.Header.Get("Accept-Encoding") != "" || resp.Header.Get("X-Got") != "body" {
		t.Errorf("%s of %s, %v, %v; answer %v", got.RequestURI, got.Host, got.ContentLength, got.Header, resp.Header)
	}
}

// TestFaults: what a client sees of each, and whether the service carried the
// request out.
func TestFaults(t *testing.T) {
	s := newService(t)
	p := start(t, s)
	isReset := func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
	isTimeout := func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }
	none := func(err error) bool { return err == nil }
	cut := func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }
	f := func(name, method string, r Rule, status int, text string, fails func(error) bool, done int64) {
		t.Helper()
		before := s.n.Load()
		r.Rate = 1
		p.SetRules(r)
		within := 10 * time.Second
		if r.Action == Silence {
			within = 100 * time.Millisecond
		}
		resp, body, err := do(t, client(t), method, p.URL+"/b/k", "", within)
		if !fails(err) {
			t.Errorf("%s: error %v", name, err)
		}
		if resp != nil && resp.StatusCode != status || resp == nil && status != 0 || !strings.Contains(body, text) {
			t.Errorf("%s: %v, body %q", name, resp, body)
		}
		if got := s.n.Load() - before; got != done {
			t.Errorf("%s: the service carried out %d requests", name, got)
		}
		if n := p.TakeStats().Faults[r.Action]; n != 1 && r.Action != Pass {
			t.Errorf("%s: %d faults are counted", name, n)
		}
	}
	f("none", "GET", Rule{Action: Pass}, 200, answer, none, 1)
	f("slow down", "GET", Rule{Action: SlowDown}, 503, "<Code>SlowDown</Code>", none, 0)
	f("slow down, carried out", "PUT", Rule{Action: SlowDown, Phase: After}, 503, "<Code>SlowDown</Code>", none, 1)
	f("internal error", "GET", Rule{Action: Internal}, 500, "<Code>InternalError</Code>", none, 0)
	f("silence", "GET", Rule{Action: Silence}, 0, "", isTimeout, 0)
	f("silence, carried out", "PUT", Rule{Action: Silence, Phase: After}, 0, "", isTimeout, 1)
	f("reset", "GET", Rule{Action: Reset}, 0, "", isReset, 0)
	f("reset, carried out", "PUT", Rule{Action: Reset, Phase: After}, 0, "", isReset, 1)
	f("drip", "GET", Rule{Action: Drip, Drip: 20 * time.Millisecond}, 200, answer, none, 1)
	f("truncated", "GET", Rule{Action: Truncated}, 200, answer[:len(answer)/2], cut, 1)
	f("truncated, without a body", "PUT", Rule{Action: Truncated}, 0, "", isReset, 1)
}

func TestRulesSelectRequests(t *testing.T) {
	s := newService(t)
	p := start(t, s)
	p.SetRules(
		Rule{Action: SlowDown, Rate: 1, Method: []string{"PUT"}, Key: regexp.MustCompile(`^index/`)},
		Rule{Action: Internal, Rate: 1, Method: []string{"LIST"}, Key: regexp.MustCompile(`^index/$`)},
	)
	c := client(t)
	for _, x := range []struct {
		method, path string
		status       int
	}{
		{"PUT", "/b/index/x", 503},
		{"PUT", "/b/chunk/x", 200},
		{"GET", "/b/index/x", 200},
		{"DELETE", "/b/index/x", 200},
		{"GET", "/b?list-type=2&prefix=index%2F", 500},
		{"GET", "/b/?list-type=2&prefix=chunks%2F", 200},
	} {
		resp, _, err := do(t, c, x.method, p.URL+x.path, "", 10*time.Second)
		if err != nil || resp.StatusCode != x.status {
			t.Errorf("%s %s: %v, %v", x.method, x.path, resp, err)
		}
	}
	if st := p.TakeStats(); st.Requests["LIST"] != 2 || st.Requests["PUT"] != 2 || st.Faults[SlowDown] != 1 || st.Faults[Internal] != 1 {
		t.Errorf("stats %+v", st)
	}
}

// TestRatesAreRepeatable: the same seed gives the same faults, about as many as
// the rate says.
func TestRatesAreRepeatable(t *testing.T) {
	s := newService(t)
	draw := func(seed uint64) (out []bool) {
		p, err := Start(s.URL, seed)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		p.SetRules(Rule{Action: SlowDown, Rate: 0.3})
		for range 300 {
			a, _ := p.decide("GET", "k", Before)
			out = append(out, a == SlowDown)
		}
		return out
	}
	a, b, c := draw(1), draw(1), draw(2)
	n := 0
	for _, x := range a {
		if x {
			n++
		}
	}
	if !slices.Equal(a, b) || slices.Equal(a, c) || n < 60 || n > 120 {
		t.Errorf("%d faults in 300 requests", n)
	}
	rate := 0.0
	for _, r := range Everything(0.3) {
		rate += r.Rate
	}
	if rate < 0.299 || rate > 0.301 {
		t.Errorf("all rules together have the rate %v", rate)
	}
}

// TestHook: it sees both moments, holds its request only, and comes before the
// rules.
func TestHook(t *testing.T) {
	s := newService(t)
	p := start(t, s)
	c := client(t)
	var seen []string
	held, resume := make(chan int64), make(chan struct{})
	p.SetRules(Rule{Action: Internal, Rate: 1, Key: regexp.MustCompile("other")})
	p.OnRequest(func(method, key string, phase Phase) Action {
		if key != "held" {
			return Pass
		}
		seen = append(seen, method+" "+phase.String())
		if phase == After {
			held <- s.n.Load()
			<-resume
			return Reset
		}
		return Pass
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, _, err := do(t, c, "PUT", p.URL+"/b/held", "", 10*time.Second); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("held request: %v", err)
		}
	})
	if n := <-held; n != 1 {
		t.Errorf("%d requests are carried out", n)
	}
	resp, _, err := do(t, c, "PUT", p.URL+"/b/other", "", 10*time.Second)
	if err != nil || resp.StatusCode != 500 {
		t.Errorf("another request meanwhile: %v, %v", resp, err)
	}
	close(resume)
	wg.Wait()
	if !slices.Equal(seen, []string{"PUT before", "PUT after"}) {
		t.Errorf("the hook saw %q", seen)
	}
	if st := p.TakeStats(); st.Most["PUT"] != 2 {
		t.Errorf("stats %+v", st)
	}
	p.OnRequest(nil)
	if _, _, err := do(t, c, "PUT", p.URL+"/b/held", "", 10*time.Second); err != nil {
		t.Error(err)
	}
}

func TestDownAndUp(t *testing.T) {
	s := newService(t)
	p := start(t, s)
	c := client(t)
	// A request that is under way ends with the connection.
	p.SetRules(Rule{Action: Silence, Rate: 1})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, _, err := do(t, c, "GET", p.URL+"/b/k", "", 10*time.Second); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a request under way: %v", err)
		}
	})
	for p.underWay() == 0 {
		time.Sleep(time.Millisecond)
	}
	p.Down()
	p.Down()
	wg.Wait()
	if _, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("down: %v", err)
	}
	p.SetRules()
	for range 2 {
		if err := p.Up(); err != nil {
			t.Fatal(err)
		}
	}
	if _, body, err := do(t, c, "GET", p.URL+"/b/k", "", 10*time.Second); err != nil || body != answer {
		t.Errorf("up again: %q, %v", body, err)
	}
}

// TestServiceIsGone: the proxy answers for it.
func TestServiceIsGone(t *testing.T) {
	s := newService(t)
	p := start(t, s)
	s.Close()
	resp, body, err := do(t, client(t), "GET", p.URL+"/b/k", "", 10*time.Second)
	if err != nil || resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "<Code>") {
		t.Errorf("%v, %q, %v", resp, body, err)
	}
	if _, err := Start("://", 1); err == nil {
		t.Error("a target that is no URL gave no error")
	}
}
