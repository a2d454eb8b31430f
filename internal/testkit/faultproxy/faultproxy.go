// Package faultproxy stands between a client and an S3 service on loopback and
// makes the service look bad: it refuses, stays silent, drips, truncates and
// resets, at rates that a seed makes repeatable, or at the very request that a
// test has chosen.
//
// Requests are passed on as they came, with their Host header, so that
// signatures stay valid. A request has two moments at which something can
// happen: Before, when the proxy has read all of it and the service nothing;
// and After, when the service has carried it out and the client knows nothing.
//
// # Life cycle
//
// Start listens. SetRules, OnRequest, Down and Up change what happens from the
// next request on. Close ends all connections and waits for all goroutines. All
// methods may be called at any time, from any goroutine.
package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Phase is a moment of a request.
type Phase uint8

const (
	Before Phase = iota // the service has nothing of it
	After               // the service has carried it out, the client has no answer
)

func (p Phase) String() string { return [...]string{"before", "after"}[p] }

// Action is what is done with a request at one of its moments.
type Action uint8

const (
	Pass      Action = iota
	SlowDown         // answer 503 as S3 does when there are too many requests
	Internal         // answer 500 InternalError
	Silence          // answer nothing until the client gives up
	Reset            // end the connection with a TCP reset
	Drip             // After: send the body in small pieces, over Rule.Drip
	Truncated        // After: announce all of the body, send half, close
	actions
)

var names = [...]string{"pass", "slow down", "internal error", "silence", "reset", "drip", "truncated"}

func (a Action) String() string { return names[a] }

// Rule makes some requests fail. Of several rules the first that applies to a
// request and is drawn decides.
type Rule struct {
	Action Action
	Phase  Phase          // Drip and Truncated are always After
	Rate   float64        // share of the requests that it applies to, 0 to 1
	Method []string       // PUT, GET, HEAD, DELETE, LIST (a GET of a bucket); any if empty
	Key    *regexp.Regexp // found in the key, for LIST in the prefix; nil: any
	Drip   time.Duration  // how long a body takes; a second if 0
}

func (r *Rule) applies(method, key string, phase Phase) bool {
	at := r.Phase
	if r.Action == Drip || r.Action == Truncated {
		at = After
	}
	return at == phase && (len(r.Method) == 0 || slices.Contains(r.Method, method)) && (r.Key == nil || r.Key.MatchString(key))
}

// Hook decides on one moment of a request, before the rules do: they are asked
// if it answers Pass. The request waits for it, others do not. The method is
// LIST for a GET of a bucket, with the prefix as key.
type Hook func(method, key string, phase Phase) Action

// Stats are what happened since the last call of TakeStats.
type Stats struct {
	Requests map[string]int // by method
	Faults   map[Action]int
	// Most is the largest number of requests of a method that were under way at
	// one time, those that the service has not got included.
	Most map[string]int
}

// Proxy is a running proxy.
type Proxy struct {
	URL string // http://127.0.0.1:PORT

	target    *url.URL
	transport *http.Transport
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc

	mu     sync.Mutex
	rng    *rand.Rand
	rules  []Rule
	hook   Hook
	stats  Stats
	flying map[string]int
	server *http.Server // nil while down
	served chan struct{}
}

// maxBody bounds a request and an answer.
const maxBody = 256 << 20

// Start starts a proxy in front of the service at target, an http URL.
func Start(target string, seed uint64) (*Proxy, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("faultproxy: %w", err)
	}
	p := &Proxy{
		target: u, rng: rand.New(rand.NewPCG(seed, seed)), flying: map[string]int{},
		// The client's Accept-Encoding may be signed: nothing is added to it.
		transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.zero()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("faultproxy: %w", err)
	}
	p.URL = "http://" + l.Addr().String()
	p.serve(l)
	return p, nil
}

func (p *Proxy) serve(l net.Listener) {
	p.server = &http.Server{Handler: http.HandlerFunc(p.handle), ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	p.served = served
	go func(s *http.Server) {
		defer close(served)
		_ = s.Serve(l) // ends with the server
	}(p.server)
}

// Down refuses connections until Up, and ends those that there are.
func (p *Proxy) Down() {
	p.mu.Lock()
	s, served := p.server, p.served
	p.server = nil
	p.mu.Unlock()
	if s != nil {
		_ = s.Close() // of a listener and of connections that are gone in any case
		<-served
	}
}

// Up listens again, at the same port.
func (p *Proxy) Up() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return nil
	}
	l, err := net.Listen("tcp", strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		return fmt.Errorf("faultproxy: %w", err)
	}
	p.serve(l)
	return nil
}

// Close ends the proxy and waits until all requests have ended.
func (p *Proxy) Close() {
	p.cancel()
	p.Down()
	for p.underWay() > 0 { // Server.Close does not wait for handlers
		time.Sleep(time.Millisecond)
	}
	p.transport.CloseIdleConnections()
}

func (p *Proxy) underWay() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, f := range p.flying {
		n += f
	}
	return n
}

// SetRules replaces all rules.
func (p *Proxy) SetRules(rules ...Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = slices.Clone(rules)
}

// OnRequest sets the hook; nil removes it.
func (p *Proxy) OnRequest(h Hook) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = h
}

// TakeStats returns what happened since the last call.
func (p *Proxy) TakeStats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	p.zero()
	return s
}

func (p *Proxy) zero() {
	p.stats = Stats{Requests: map[string]int{}, Faults: map[Action]int{}, Most: map[string]int{}}
	for m, n := range p.flying {
		p.stats.Most[m] = n
	}
}

func (p *Proxy) enter(method string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying[method]++
	p.stats.Requests[method]++
	p.stats.Most[method] = max(p.stats.Most[method], p.flying[method])
}

func (p *Proxy) leave(method string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying[method]--
}

// decide returns what to do with a request at a moment.
func (p *Proxy) decide(method, key string, phase Phase) (Action, time.Duration) {
	p.mu.Lock()
	hook := p.hook
	p.mu.Unlock()
	a, drip := Pass, time.Second
	if hook != nil {
		a = hook(method, key, phase)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.rules {
		r := &p.rules[i]
		if a != Pass {
			break
		}
		if r.applies(method, key, phase) && p.rng.Float64() < r.Rate {
			a = r.Action
			if r.Drip > 0 {
				drip = r.Drip
			}
		}
	}
	if a != Pass {
		p.stats.Faults[a]++
	}
	return a, drip
}

// operation names a request: its method and key, LIST and the prefix for a
// list of a bucket.
func operation(r *http.Request) (method, key string) {
	_, key, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if r.Method == http.MethodGet && key == "" {
		return "LIST", r.URL.Query().Get("prefix")
	}
	return r.Method, key
}

func (p *Proxy) handle(w http.ResponseWriter, r *http.Request) {
	method, key := operation(r)
	p.enter(method)
	defer p.leave(method)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil { // the client is gone, or sent less than it said
		panic(http.ErrAbortHandler)
	}
	a, _ := p.decide(method, key, Before)
	if p.instead(w, r, a) {
		return
	}
	resp, answer, err := p.forward(r, body)
	if err != nil {
		if r.Context().Err() == nil && p.ctx.Err() == nil {
			refuse(w, r, http.StatusBadGateway, "BadGateway", err.Error())
			return
		}
		panic(http.ErrAbortHandler)
	}
	a, drip := p.decide(method, key, After)
	if p.instead(w, r, a) {
		return
	}
	if (a == Drip || a == Truncated) && len(answer) == 0 {
		reset(w) // there is nothing else to cut
		return
	}
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	switch a {
	case Drip:
		p.drip(w, r, answer, drip)
	case Truncated:
		_, _ = w.Write(answer[:len(answer)/2]) // the client may be gone
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	default:
		_, _ = w.Write(answer)
	}
}

// instead does what takes the place of passing on a request or its answer.
func (p *Proxy) instead(w http.ResponseWriter, r *http.Request, a Action) bool {
	switch a {
	case SlowDown:
		refuse(w, r, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
	case Internal:
		refuse(w, r, http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again.")
	case Silence:
		select {
		case <-r.Context().Done():
		case <-p.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	case Reset:
		reset(w)
	default:
		return false
	}
	return true
}

// refuse answers as S3 does.
func refuse(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	body := fmt.Sprintf("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>%s</Message><Resource>%s</Resource><RequestId>faultproxy</RequestId></Error>",
		code, escape(message), escape(r.URL.Path))
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace

// reset ends the connection so that the client gets a TCP reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // of a connection that is gone in any case
	}
	conn.Close()
}

// forward sends the request on and returns the answer and its body.
func (p *Proxy) forward(r *http.Request, body []byte) (*http.Response, []byte, error) {
	out := r.Clone(r.Context()) // Host and the path's own escapes stay
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = p.target.Scheme, p.target.Host
	out.Body, out.ContentLength, out.TransferEncoding = http.NoBody, int64(len(body)), nil
	if len(body) > 0 {
		out.Body = io.NopCloser(bytes.NewReader(body))
	}
	// The proxy has the whole body already. No signature has these headers.
	out.Header.Del("Expect")
	out.Header.Del("Connection")
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // else Go adds its own
	}
	resp, err := p.transport.RoundTrip(out)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err == nil && len(answer) > maxBody {
		err = errors.New("the answer is too large")
	}
	return resp, answer, err
}

// drips is the number of pieces of a slow body.
const drips = 16

func (p *Proxy) drip(w http.ResponseWriter, r *http.Request, body []byte, over time.Duration) {
	for i := range drips {
		if _, err := w.Write(body[i*len(body)/drips : (i+1)*len(body)/drips]); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush() // the client may be gone, as r says
		select {
		case <-time.After(over / drips):
		case <-r.Context().Done():
			return
		case <-p.ctx.Done():
			return
		}
	}
}

// Everything returns one rule for each fault, which together make a request
// fail with probability rate at one of its moments.
func Everything(rate float64) []Rule {
	var out []Rule
	for a := SlowDown; a < actions; a++ {
		out = append(out, Rule{Action: a})
		if a == Silence || a == Reset {
			out = append(out, Rule{Action: a, Phase: After})
		}
	}
	// That some requests do not get as far as the later rules is left aside.
	for i := range out {
		out[i].Rate = rate / float64(len(out))
	}
	return out
}
