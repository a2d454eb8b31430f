package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loki-go/loki-go/gateway/limits"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/internal/warn"
	"github.com/loki-go/loki-go/proto/push"
	"github.com/loki-go/loki-go/ring"
)

func deadLabels(r push.Reason) string {
	return fmt.Sprintf(`{job="loki-go-dead-letter", reason="%s", service_name="loki-go-dead-letter"}`, r)
}

// keep pushes b with KeepRefused.
func (e *env) keep(b *push.Batch) error {
	b.KeepRefused = true
	return e.g.Push(context.Background(), b)
}

// dead returns the dead letters that replica id has for a reason.
func (e *env) dead(id string, r push.Reason) []string {
	e.drain()
	rep := e.replicas[id]
	rep.mu.Lock()
	defer rep.mu.Unlock()
	return slices.Clone(rep.got[deadLabels(r)])
}

func (e *env) wantDead(id string, r push.Reason, want ...string) {
	e.t.Helper()
	if got := e.dead(id, r); !slices.Equal(got, want) {
		e.t.Fatalf("%s has for %s\n%q\nwant\n%q", id, r, got, want)
	}
}

// late makes a replica refuse entries whose line starts with "late", as
// ingesters do.
func late(_ context.Context, b *push.Batch) error {
	rej := &push.Rejected{Total: len(b.Entries)}
	for i := range b.Streams {
		s := &b.Streams[i]
		if s.Reject != push.OK {
			continue
		}
		for j := range b.StreamEntries(s) {
			e := &b.Entries[int(s.First)+j]
			if e.Reject == push.OK && strings.HasPrefix(string(b.Bytes(e.Line)), "late") && !strings.Contains(s.Labels, deadJob) {
				e.Reject = push.TooFarBehind
				rej.Add(push.TooFarBehind, s.Labels, 1, 1, func() string { return "too far behind" })
			}
		}
	}
	if rej.Entries > 0 {
		return rej
	}
	return nil
}

func TestRefusedEntriesAreKept(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct{ instances, rf int }{{1, 1}, {4, 1}, {3, 3}, {7, 3}} {
		e := newEnv(t, c.instances, func(cfg *Config, l *limits.Limits) {
			cfg.ReplicationFactor = c.rf
			l.MaxLineSize = 40
			l.MaxStructuredMetadataSize = 600
		})
		for _, r := range e.replicas {
			r.push = late
		}
		b := e.batch(
			one(lone, at(0, "good"), at(-30*day, "old", "trace", "1"), at(1, strings.Repeat("ä", 30)), at(2, "late")),
			one(`{broken`, at(3, "lost otherwise")),
		)
		b.Receiver = "forward"
		err := e.keep(b)
		var rej *push.Rejected
		if !errors.As(err, &rej) || rej.Entries != 4 || rej.Total != 5 {
			t.Fatalf("got %v", err)
		}
		b.Release()
		ns := start.UnixNano()
		stored := map[push.Reason]int{}
		for id := range e.replicas {
			for reason, want := range map[push.Reason]string{
				push.TooOld: fmt.Sprintf("%d old dead_letter_error=entry for stream '%s' has timestamp too old: 2025-12-03T03:04:05Z, oldest acceptable timestamp is: 2025-12-26T03:04:05Z dead_letter_receiver=forward dead_letter_stream=%s dead_letter_time=2025-12-03T03:04:05Z trace=1", ns, lone, lone),
				push.LineTooLong: fmt.Sprintf("%d %s dead_letter_error=max entry size '40' bytes exceeded for stream '%s' while adding an entry with length '60' bytes dead_letter_receiver=forward dead_letter_size=60 dead_letter_stream=%s dead_letter_time=2026-01-02T03:04:05.000000001Z",
					ns+1, strings.Repeat("ä", 20), lone, lone),
				push.TooFarBehind: fmt.Sprintf("%d late dead_letter_error=entry for stream '%s' with timestamp 2026-01-02T03:04:05Z refused: too_far_behind dead_letter_receiver=forward dead_letter_stream=%s dead_letter_time=2026-01-02T03:04:05.000000002Z", ns+2, lone, lone),
			} {
				got := e.dead(id, reason)
				stored[reason] += len(got)
				if len(got) > 0 && !slices.Equal(got, []string{want}) {
					t.Errorf("%s has for %s\n%q\nwant\n%q", id, reason, got, want)
				}
			}
			got := e.dead(id, push.InvalidLabels)
			stored[push.InvalidLabels] += len(got)
			prefix := fmt.Sprint(ns+3, " lost otherwise dead_letter_error=couldn't parse labels: ")
			if len(got) > 0 && (!strings.HasPrefix(got[0], prefix) || !strings.Contains(got[0], "dead_letter_stream={broken ")) {
				t.Errorf("%s has %q", id, got)
			}
		}
		for _, r := range []push.Reason{push.TooOld, push.LineTooLong, push.TooFarBehind, push.InvalidLabels} {
			if stored[r] != c.rf {
				t.Errorf("%d instances: %s is stored %d times, want %d", c.instances, r, stored[r], c.rf)
			}
			if n := e.value("dead_letters_total", r.String(), "stored", "fake"); n != 1 {
				t.Errorf("%s: %v counted", r, n)
			}
		}
	}
}

func TestOnlyWhatIsAskedForIsKept(t *testing.T) {
	e := newEnv(t, 1, func(_ *Config, l *limits.Limits) { l.PerStreamRateLimit, l.PerStreamRateLimitBurst = 1, 1 })
	// Not without KeepRefused.
	if err := e.push(one(lone, at(-1000*time.Hour, "old"))); err == nil {
		t.Fatal("an old entry was accepted")
	}
	// Not what may be accepted later.
	b := e.batch(one(lone, at(0, "x")), one(lone, at(0, "y")))
	defer b.Release()
	if err := e.keep(b); err != nil {
		t.Fatal(err)
	}
	b2 := e.batch(one(lone, at(0, "y")), one(`{service_name="t"}`, at(0, "fine")))
	defer b2.Release()
	var rej *push.Rejected
	if err := e.keep(b2); !errors.As(err, &rej) || !rej.Retryable() {
		t.Fatalf("got %v", err)
	}
	for labels := range e.replicas["a"].got {
		if strings.Contains(labels, deadJob) {
			t.Errorf("%s was made", labels)
		}
	}
	// Nor where single entries of the stream are marked.
	b3 := e.batch(one(lone, at(0, "y"), at(-1000*time.Hour, "old")))
	defer b3.Release()
	if err := e.keep(b3); !errors.As(err, &rej) || b3.Entries[0].Reject != push.StreamRateLimit {
		t.Fatalf("got %v", err)
	}
	if old, rate := e.dead("a", push.TooOld), e.dead("a", push.StreamRateLimit); len(old) != 1 || len(rate) != 0 {
		t.Errorf("kept %q and %q", old, rate)
	}
}

func TestEntriesOfARetryableStream(t *testing.T) {
	e := newEnv(t, 1, nil)
	e.replicas["a"].push = func(_ context.Context, b *push.Batch) error {
		if s := &b.Streams[0]; s.Labels == lone {
			s.Reject = push.StreamLimit
			rej := &push.Rejected{Total: len(b.Entries)}
			rej.Add(push.StreamLimit, s.Labels, 1, 1, func() string { return "too many streams" })
			return rej
		}
		return nil
	}
	b := e.batch(one(lone, at(-1000*time.Hour, "old"), at(0, "new")))
	defer b.Release()
	var rej *push.Rejected
	if err := e.keep(b); !errors.As(err, &rej) || !rej.Retryable() || rej.Entries != 2 {
		t.Fatalf("got %v", err)
	}
	if got := e.dead("a", push.TooOld); len(got) != 1 || !strings.Contains(got[0], " old dead_letter_error=entry for stream") {
		t.Errorf("got %q", got)
	}
	if got := e.dead("a", push.StreamLimit); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}

// TestTriedAgain: what a limit refused in a try that failed as a whole is looked
// at again when the receiver comes with the same batch.
func TestTriedAgain(t *testing.T) {
	f := func(name string, streamRate bool, push1 func(b *push.Batch) error) {
		t.Helper()
		e := newEnv(t, 1, func(_ *Config, l *limits.Limits) {
			if streamRate {
				l.PerStreamRateLimit, l.PerStreamRateLimitBurst = 1, 1
			}
		})
		if streamRate {
			if err := e.push(one(lone, at(0, "x"))); err != nil {
				t.Fatal(err)
			}
		}
		tries := 0
		e.replicas["a"].push = func(_ context.Context, b *push.Batch) error {
			if tries++; tries == 1 {
				return push1(b)
			}
			return nil
		}
		b := e.batch(one(lone, at(0, "y")), one(`{service_name="t"}`, at(0, "z")))
		defer b.Release()
		var pe *push.Error
		if err := e.keep(b); !errors.As(err, &pe) || pe.Reason != push.DiskLow {
			t.Fatalf("%s: got %v", name, err)
		}
		e.now.Add(int64(time.Hour))
		if err := e.keep(b); err != nil {
			t.Fatalf("%s: got %v", name, err)
		}
		if got := e.replicas["a"].got[lone]; !strings.HasSuffix(got[len(got)-1], " y") {
			t.Fatalf("%s: stored %q", name, got)
		}
	}
	full := push.Errorf(push.DiskLow, "disk is full")
	f("by the gateway", true, func(*push.Batch) error { return full })
	f("by the ingester, a stream", false, func(b *push.Batch) error {
		b.Streams[0].Reject = push.StreamLimit
		return full
	})
	f("by the ingester, an entry", false, func(b *push.Batch) error {
		b.Entries[0].Reject = push.StreamLimit
		return full
	})
}

func TestBuriedPieces(t *testing.T) {
	e := newEnv(t, 1, nil)
	b := push.Get()
	defer b.Release()
	b.Receiver = "logstash"
	b.Bury(push.Malformed, "unexpected end of JSON", []byte(`{"a":`))
	b.Bury(push.LineTooLong, "too long", bytes.Repeat([]byte("x"), push.MaxDeadRaw+1))
	b.Dead[1].TS = start.UnixNano()
	b.DeadLeft = 3
	if err := e.g.Push(context.Background(), b); err != nil {
		t.Fatalf("a batch of buried pieces gives %v", err)
	}
	ns := start.UnixNano()
	e.wantDead("a", push.Malformed, fmt.Sprint(ns, ` {"a": dead_letter_error=unexpected end of JSON dead_letter_receiver=logstash`))
	e.wantDead("a", push.LineTooLong, fmt.Sprint(ns+1, " ", strings.Repeat("x", push.MaxDeadRaw),
		" dead_letter_error=too long dead_letter_receiver=logstash dead_letter_size=16385 dead_letter_time=2026-01-02T03:04:05Z"))
	if n := e.value("dead_letters_total", "malformed", "dropped"); n != 3 {
		t.Errorf("%v dropped", n)
	}
	if n := e.value("dead_letters_total", "stored"); n != 2 {
		t.Errorf("%v stored", n)
	}
}

func TestBuriedBesideEntries(t *testing.T) {
	e := newEnv(t, 1, nil)
	b := e.batch(one(lone, at(0, "fine")))
	defer b.Release()
	b.Bury(push.Malformed, "broken", []byte("\xff\xfe"))
	if err := e.g.Push(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	ns := start.UnixNano()
	e.wantStored("a", map[string][]string{
		lone:                       {fmt.Sprint(ns, " fine")},
		deadLabels(push.Malformed): {fmt.Sprint(ns, " \xff\xfe dead_letter_error=broken dead_letter_receiver=test")},
	})
}

func TestWhatCannotBeStoredLeavesNoLetters(t *testing.T) {
	e := newEnv(t, 1, func(cfg *Config, _ *limits.Limits) { cfg.AuthEnabled = true })
	f := func(tenant string, reason push.Reason) {
		t.Helper()
		b := push.Get()
		defer b.Release()
		b.Tenant = tenant
		b.Bury(push.Malformed, "broken", []byte("x"))
		var pe *push.Error
		if err := e.keep(b); !errors.As(err, &pe) || pe.Reason != reason {
			t.Errorf("got %v, want %s", err, reason)
		}
	}
	f("", push.NoTenant)
	f("a/b", push.InvalidTenant)
	e.setLimits(func(l *limits.Limits) { l.BlockIngestionUntil.Time = start.Add(time.Hour) })
	f("t", push.BlockedIngestion)
	if n := e.replicas["a"].calls; n != 0 {
		t.Errorf("%d calls", n)
	}
}

// TestLettersFail: a push is not answered with success before its letters are
// stored, and what they were charged is given back.
func TestLettersFail(t *testing.T) {
	e := newEnv(t, 1, func(cfg *Config, _ *limits.Limits) { cfg.DeadLetters.Burst = 64*units.KiB + 256*units.KiB })
	fail := &push.Error{Reason: push.DiskLow, Msg: "disk full", RetryAfter: 5 * time.Second}
	e.replicas["a"].push = func(_ context.Context, b *push.Batch) error {
		if strings.Contains(b.Streams[0].Labels, deadJob) {
			return fail
		}
		return nil
	}
	b := e.batch(one(lone, at(0, "good"), at(-1000*time.Hour, strings.Repeat("old", 1000))))
	defer b.Release()
	for range 300 {
		var pe *push.Error
		if err := e.keep(b); !errors.As(err, &pe) || pe != fail {
			t.Fatalf("got %v", err)
		}
		b.Entries[1].Reject = push.OK
	}
	if n := e.value("dead_letters_total"); n != 0 {
		t.Errorf("%v counted", n)
	}
	e.replicas["a"].push = nil
	var rej *push.Rejected
	if err := e.keep(b); !errors.As(err, &rej) || rej.Retryable() {
		t.Fatalf("got %v", err)
	}
	if got := e.dead("a", push.TooOld); len(got) != 1 {
		t.Errorf("%d letters", len(got))
	}
}

// TestLettersRespectTheStreamLimit: the push is to be sent again then.
func TestLettersRespectTheStreamLimit(t *testing.T) {
	e := newEnv(t, 1, nil)
	e.replicas["a"].push = func(_ context.Context, b *push.Batch) error {
		s := &b.Streams[0]
		s.Reject = push.StreamLimit
		rej := &push.Rejected{Total: 1}
		rej.Add(push.StreamLimit, s.Labels, 1, 1, func() string { return "too many streams" })
		return rej
	}
	b := push.Get()
	defer b.Release()
	b.Bury(push.Malformed, "broken", []byte("x"))
	var pe *push.Error
	if err := e.keep(b); !errors.As(err, &pe) || pe.Reason != push.StreamLimit || pe.Msg != "dead letters cannot be stored: too many streams" {
		t.Fatalf("got %v", err)
	}
}

// TestLateLetters: letters that come too late for their stream get a newer time.
func TestLateLetters(t *testing.T) {
	f := func(refusals int, stored, dropped float64) {
		t.Helper()
		e := newEnv(t, 1, nil)
		var times [][]int64
		var ids []push.ID
		e.replicas["a"].push = func(_ context.Context, b *push.Batch) error {
			var ts []int64
			rej := &push.Rejected{Total: len(b.Entries)}
			for j := range b.Entries {
				ts = append(ts, b.Entries[j].TS)
				if len(times) < refusals && j%2 == 0 {
					b.Entries[j].Reject = push.OutOfOrder
					rej.Add(push.OutOfOrder, "s", 1, 1, func() string { return "late" })
				}
			}
			times, ids = append(times, ts), append(ids, b.ID)
			e.now.Add(int64(time.Second))
			if rej.Entries > 0 {
				return rej
			}
			return nil
		}
		b := push.Get()
		defer b.Release()
		b.ID = push.ID{1}
		for i := range 4 {
			b.Bury(push.Malformed, "broken", []byte(fmt.Sprint(i)))
		}
		if err := e.keep(b); err != nil {
			t.Fatal(err)
		}
		if n := e.value("dead_letters_total", "stored"); n != stored {
			t.Errorf("%d refusals: %v counted as stored", refusals, n)
		}
		if n := e.value("dead_letters_total", "dropped"); n != dropped {
			t.Errorf("%d refusals: %v counted as dropped", refusals, n)
		}
		for k, ts := range times {
			if !slices.IsSorted(ts) || len(slices.Compact(slices.Clone(ts))) != len(ts) {
				t.Errorf("times do not increase: %v", ts)
			}
			if k > 0 && (ts[0] < times[k-1][0]+int64(time.Second) || ids[k] == ids[k-1]) {
				t.Errorf("attempt %d: times %v after %v, ids %x", k, ts, times[k-1], ids)
			}
		}
		if got := len(e.dead("a", push.Malformed)); got != int(stored) {
			t.Errorf("%d refusals: %d stored", refusals, got)
		}
	}
	f(0, 4, 0)
	f(1, 4, 0)
	f(2, 4, 0)
	f(3, 3, 1) // of 4, 2 are refused, then 1 of these, then this one
}

func TestLettersAreBounded(t *testing.T) {
	var logged bytes.Buffer
	e := newEnv(t, 1, func(cfg *Config, l *limits.Limits) {
		cfg.DeadLetters.MaxPerPush = 10
		cfg.DeadLetters.MaxLineSize = 10 * units.KiB
		cfg.DeadLetters.Rate, cfg.DeadLetters.Burst = 10*units.KiB, 74*units.KiB
		l.IngestionRateMB, l.IngestionBurstSizeMB = 0.001, 0.001 // not theirs
	})
	e.g.deadLog = warn.New(slog.New(slog.NewTextHandler(&logged, nil)))
	f := func(n, size int) (stored int) {
		t.Helper()
		before := len(e.dead("a", push.TooOld))
		var lines []line
		for range n {
			lines = append(lines, at(-1000*time.Hour, strings.Repeat("x", size)))
		}
		b := e.batch(one(lone, lines...))
		defer b.Release()
		var rej *push.Rejected
		if err := e.keep(b); !errors.As(err, &rej) || rej.Entries != n {
			t.Fatalf("got %v", err)
		}
		return len(e.dead("a", push.TooOld)) - before
	}
	if n := f(25, 1); n != 10 {
		t.Errorf("%d of a push are stored, want 10", n)
	}
	if n := f(9, 50<<10); n != 6 { // 10 KiB each, and the first 10 letters
		t.Errorf("%d within the burst are stored, want 6", n)
	}
	if n := f(5, 50<<10); n != 0 {
		t.Errorf("%d beyond the burst are stored", n)
	}
	e.now.Add(int64(2 * time.Second))
	if n := f(5, 50<<10); n != 2 {
		t.Errorf("%d after 2 s are stored, want 2", n)
	}
	if n := e.value("dead_letters_total", "dropped"); n != 15+3+5+3 { // so far
		t.Errorf("%v dropped", n)
	}
	for _, want := range []string{"letters=15 ", "letters=3 reasons=map[greater_than_max_sample_age:3]", "letters=5 "} {
		if out := logged.String(); !strings.Contains(out, want) {
			t.Errorf("%q is not in the log:\n%s", want, out)
		}
	}
	for range 300 { // a flood of them is not a flood of lines
		f(1, 50<<10)
	}
	if n := strings.Count(logged.String(), "dead letters dropped"); n > 30 {
		t.Errorf("%d lines", n)
	}
	// Another tenant has a rate of its own.
	e.g.cfg.AuthEnabled = true
	b := push.Get()
	defer b.Release()
	b.Tenant = "other"
	b.Bury(push.Malformed, "broken", []byte("x"))
	if err := e.keep(b); err != nil {
		t.Fatal(err)
	}
	e.wantDead("a", push.Malformed, fmt.Sprint(e.now.Load(), " x dead_letter_error=broken dead_letter_receiver="))
}

func TestLettersSwitchedOff(t *testing.T) {
	e := newEnv(t, 1, func(cfg *Config, _ *limits.Limits) { cfg.DeadLetters.Enabled = false })
	b := e.batch(one(lone, at(-1000*time.Hour, "old")))
	defer b.Release()
	b.Bury(push.Malformed, "broken", []byte("x"))
	var rej *push.Rejected
	if err := e.keep(b); !errors.As(err, &rej) {
		t.Fatalf("got %v", err)
	}
	if e.replicas["a"].calls != 0 {
		t.Error("something was stored")
	}
	if n := e.value("dead_letters_total", "dropped"); n != 2 {
		t.Errorf("%v counted", n)
	}
}

func TestLetterMetadataIsBounded(t *testing.T) {
	e := newEnv(t, 1, func(_ *Config, l *limits.Limits) {
		l.MaxStructuredMetadataEntriesCount, l.MaxStructuredMetadataSize = 12, 6*units.KiB
		l.MaxLabelValueLength = 10
	})
	meta := []string{"dead_letter_error", "mine", "large", strings.Repeat("v", 4<<10)}
	for i := range 20 {
		meta = append(meta, fmt.Sprintf("m%02d", i), "v\xff")
	}
	b := e.batch(one(`{a="`+strings.Repeat("x", 8<<10)+`"}`, at(0, "line", meta...)))
	defer b.Release()
	b.Streams[0].Raw.Len-- // the body is not looked at again
	if err := e.keep(b); err == nil {
		t.Fatal("accepted")
	}
	got := e.dead("a", push.LabelValueTooLong)
	if len(got) != 1 {
		t.Fatalf("%d letters", len(got))
	}
	if n := len(got[0]); n > 7<<10 {
		t.Errorf("%d bytes", n)
	}
	for _, want := range []string{
		" dead_letter_error=stream '{a=\"xxx", "xxx... dead_letter_error_2=mine ", " dead_letter_metadata_left_out=15 ", " m05=v\xff",
	} {
		if !strings.Contains(got[0], want) {
			t.Errorf("%q is not in %q", want, got[0])
		}
	}
	if strings.Contains(got[0], "m06") || strings.Contains(got[0], "large=") {
		t.Errorf("too much in %q", got[0])
	}
}

func TestLetterOfAStreamWithoutDiscovery(t *testing.T) {
	e := newEnv(t, 1, func(_ *Config, l *limits.Limits) { l.DiscoverServiceName, l.MaxLabelNamesPerSeries = nil, 1 })
	b := push.Get()
	defer b.Release()
	b.Bury(push.Malformed, "broken", []byte("x"))
	if err := e.keep(b); err != nil {
		t.Fatal(err)
	}
	if got := e.replicas["a"].got[`{job="loki-go-dead-letter", reason="malformed"}`]; len(got) != 1 {
		t.Errorf("got %v", e.replicas["a"].got)
	}
}

func TestLettersAreForOneGoroutineEach(t *testing.T) {
	e := newEnv(t, 5, func(cfg *Config, _ *limits.Limits) { cfg.ReplicationFactor = 3 })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 20 {
				b := e.batch(one(lone, at(0, fmt.Sprint(i, k)), at(-1000*time.Hour, fmt.Sprint(i, "-", k))))
				var rej *push.Rejected
				if err := e.keep(b); !errors.As(err, &rej) {
					t.Errorf("got %v", err)
				}
				b.Release()
			}
		})
	}
	wg.Wait()
	total := 0
	for id := range e.replicas {
		total += len(e.dead(id, push.TooOld))
	}
	if total != 3*160 {
		t.Errorf("%d letters stored, want %d", total, 3*160)
	}
}

func BenchmarkDeadLetters(b *testing.B) {
	for _, keep := range []bool{false, true} {
		b.Run(fmt.Sprintf("keep=%v", keep), func(b *testing.B) {
			e := benchEnv(b, 1, 1)
			e.g.cfg.DeadLetters.Rate, e.g.cfg.DeadLetters.Burst = units.Bytes(1<<50), units.Bytes(1<<50)
			e.g.d.Dial = func(ring.Instance) (Replica, error) { return nullReplica{}, nil }
			batch, size := benchBatch(e, 100, 50, false)
			for i := 0; i < len(batch.Entries); i += 50 {
				batch.Entries[i].TS = 0
			}
			batch.KeepRefused = keep
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for i := 0; i < len(batch.Entries); i += 50 {
					batch.Entries[i].Reject = push.OK
				}
				var rej *push.Rejected
				if err := e.g.Push(context.Background(), batch); !errors.As(err, &rej) {
					b.Fatal(err)
				}
			}
		})
	}
}
