package flush

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/loki-go/loki-go/proto/push"
)

// tenantChunk has a record for each of the tenants.
func tenantChunk(tenants ...string) []byte {
	var p []byte
	for i, name := range tenants {
		p = appendEvent(p, t0+int64(i), "log", fmt.Sprint("line ", i), "team", name)
	}
	return p
}

// TestTenants has tenants that end in different ways: none waits for another,
// and what is settled is not sent again.
func TestTenants(t *testing.T) {
	s := &server{}
	o, log := output(t, s, func(c *Config) {
		soon(c)
		c.Tenant = "rest"
		c.Mapping.TenantKeys = []string{"team"}
	})
	var pushed []string
	limited := "b"
	s.answer = func(_ context.Context, b *push.Batch) error {
		pushed = append(pushed, b.Tenant)
		switch {
		case !b.KeepRefused || b.Receiver != "fluentbit":
			return errors.New("not what a plugin says")
		case b.Tenant == limited:
			return push.Errorf(push.RateLimited, "slow down")
		case b.Tenant == "c":
			r := &push.Rejected{Total: 1}
			r.Add(push.TooOld, "{}", 1, 1, func() string { return "too old" })
			b.Entries[0].Reject = push.TooOld
			return r
		}
		return nil
	}
	chunk := append(tenantChunk("a", "b", "c", "d", "a"), appendEvent(nil, t0, "log", "no team")...)
	if r := o.Flush("t", chunk); r != Retry {
		t.Fatalf("got %s: %s", r, log)
	}
	if slices.Sort(pushed); !slices.Equal(slices.Compact(pushed), []string{"a", "b", "c", "d", "rest"}) {
		t.Fatalf("pushed for %q", pushed)
	}
	for _, want := range []string{`msg="entry refused for good"`, "tenant=c", "time=2026-09-21T14:13:20.000000002Z", "bytes=6", "entries=1"} {
		if !strings.Contains(log.String(), want) {
			t.Fatalf("no %s in %s", want, log)
		}
	}
	lines := strings.Count(log.String(), "refused for good")
	pushed, limited = nil, ""
	if r := o.Flush("t", chunk); r != OK || !slices.Equal(pushed, []string{"b"}) {
		t.Fatalf("got %s, pushed for %q", r, pushed)
	}
	if n := strings.Count(log.String(), "refused for good"); n != lines {
		t.Fatalf("%d lines on what was refused before: %s", n-lines, log)
	}
	// The server is gone: others would fare no better.
	pushed = nil
	s.answer = func(_ context.Context, b *push.Batch) error {
		pushed = append(pushed, b.Tenant)
		return push.Errorf(push.Overloaded, "gone")
	}
	if r := o.Flush("t", chunk); r != Retry || len(slices.Compact(pushed)) != 1 {
		t.Fatalf("got %s, pushed for %q", r, pushed)
	}
}

// TestManyTenants has more tenants than go at the same time.
func TestManyTenants(t *testing.T) {
	s := &server{}
	o, log := output(t, s, func(c *Config) { c.Mapping.TenantKeys = []string{"team"} })
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprintf("team-%d", i%150))
	}
	if r := o.Flush("t", tenantChunk(names...)); r != OK || len(s.got) != 300 {
		t.Fatalf("got %s, %d entries: %s", r, len(s.got), log)
	}
}

func TestDeadLetters(t *testing.T) {
	s := &server{}
	o, log := output(t, s, func(c *Config) { c.Tenant = "a" })
	chunk := slices.Concat(appendEvent(nil, t0, "log", "x"), []byte{1}, appendEvent(nil, t0+1, "log", "y"), []byte{0x92, 0xa1, 'x', 0x80})
	if r := o.Flush("t", chunk); r != OK || len(s.got) != 2 {
		t.Fatalf("got %s, %q: %s", r, s.got, log)
	}
	want := []string{`a malformed not a log event: not_an_event "\x01"`, `a malformed not a log event: bad_time "\x92\xa1x\x80"`}
	if !slices.Equal(s.dead, want) {
		t.Fatalf("got %q", s.dead)
	}
	if len(s.ids) != 1 {
		t.Fatalf("%d pushes", len(s.ids))
	}
	o.Flush("t", []byte{2})
	o.Flush("t", []byte{3})
	if len(s.ids) != 3 || s.ids[1] == s.ids[2] {
		t.Fatalf("different garbage has one id: %x", s.ids)
	}
	// Garbage has no tenant; without one by default there is nobody to keep it
	// for, and it must not hold up the rest.
	s2 := &server{}
	o2, log2 := output(t, s2, func(c *Config) { c.Mapping.TenantKeys = []string{"team"} })
	if r := o2.Flush("t", append(tenantChunk("b"), 1)); r != OK || len(s2.dead) != 0 || s2.tenant != "b" || !strings.Contains(log2.String(), "entries=1") {
		t.Fatalf("got %s, %q, %q: %s", r, s2.dead, s2.tenant, log2)
	}
}

// TestTooLarge halves pushes until the server takes them. An entry that is too
// large by itself is the only one that is lost.
func TestTooLarge(t *testing.T) {
	s := &server{}
	o, log := output(t, s, nil)
	chunk := logs(20)
	chunk = appendEvent(chunk, t0, "log", strings.Repeat("x", 50_000))
	chunk = append(chunk, logs(21)[len(logs(20)):]...)
	stored := map[string]int{}
	s.answer = func(_ context.Context, b *push.Batch) error {
		if len(b.Data) > 2000 {
			return push.Errorf(push.BodyTooLarge, "too large")
		}
		for _, e := range plain(b) {
			stored[e]++
		}
		return nil
	}
	if r := o.Flush("t", chunk); r != OK {
		t.Fatalf("got %s: %s", r, log)
	}
	if len(stored) != 21 {
		t.Fatalf("%d entries of 21", len(stored))
	}
	for e, n := range stored {
		if n != 1 || !strings.Contains(e, `pod=`) {
			t.Fatalf("%s is stored %d times", e, n)
		}
	}
	if len(s.dead) != 1 || !strings.HasPrefix(s.dead[0], ` body_too_large too large "xxxx`) || !strings.Contains(log.String(), "bytes=50000") {
		t.Fatalf("dead letters %.100q: %s", s.dead, log)
	}
}

// TestPatience tries again within a flush, for half of its time; while there is
// trouble, flushes try once.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		o, log := output(t, s, func(c *Config) { c.Timeout = 4 * time.Second })
		n, good := 0, 3
		s.answer = func(context.Context, *push.Batch) error {
			if n++; n < good {
				return push.Errorf(push.Overloaded, "busy")
			}
			return nil
		}
		start := time.Now()
		if r := o.Flush("t", logs(1)); r != OK || n != 3 || time.Since(start) > time.Second || log.String() != "" {
			t.Fatalf("got %s after %d pushes and %s: %s", r, n, time.Since(start), log)
		}
		// The server says how long it takes.
		n, good = 0, 2
		s.answer = func(context.Context, *push.Batch) error {
			if n++; n < good {
				return &push.Error{Reason: push.RateLimited, Msg: "wait", RetryAfter: 1500 * time.Millisecond}
			}
			return nil
		}
		start = time.Now()
		if r := o.Flush("t", logs(1)); r != OK || time.Since(start) != 1500*time.Millisecond {
			t.Fatalf("got %s after %s", r, time.Since(start))
		}
		// Too long for this flush; and the next one does not wait at all.
		s.answer = func(context.Context, *push.Batch) error {
			n++
			return &push.Error{Reason: push.RateLimited, Msg: "wait", RetryAfter: 3 * time.Second}
		}
		n, start = 0, time.Now()
		if r := o.Flush("t", logs(1)); r != Retry || n != 1 || time.Since(start) != 0 {
			t.Fatalf("got %s after %d pushes and %s", r, n, time.Since(start))
		}
		s.answer = func(context.Context, *push.Batch) error { n++; return errors.New("gone") }
		n = 0
		if r := o.Flush("t", logs(1)); r != Retry || n != 1 {
			t.Fatalf("in trouble: got %s after %d pushes", r, n)
		}
		s.answer = nil
		o.Flush("t", logs(1))
		s.answer = func(context.Context, *push.Batch) error { n++; return errors.New("gone") }
		n, start = 0, time.Now()
		if r := o.Flush("t", logs(1)); r != Retry || n < 3 || time.Since(start) > 2*time.Second {
			t.Fatalf("got %s after %d pushes and %s", r, n, time.Since(start))
		}
	})
}

func TestSettledIsBounded(t *testing.T) {
	var s settled
	id := func(i int) push.ID { return push.ID{byte(i), byte(i >> 8), byte(i >> 16), 1} }
	for i := range 3 * maxSettled {
		s.end([]settlement{{id: id(i), stored: true}}, true)
		s.end([]settlement{{id: id(i), stored: true}}, true)
	}
	if len(s.byID) != maxSettled || len(s.order) != maxSettled {
		t.Fatalf("%d pushes, %d ids", len(s.byID), len(s.order))
	}
	if _, ok := s.find(id(3*maxSettled - 1)); !ok {
		t.Fatal("the newest is forgotten")
	}
	for i := range 3 * maxSettled {
		s.end([]settlement{{id: id(i)}}, false)
	}
	if len(s.byID) != 0 || len(s.order) != 0 {
		t.Fatalf("%d pushes, %d ids", len(s.byID), len(s.order))
	}
}
