package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

func chunk(id string) pairs { return pairs{"chunk", id} }

// --- acknowledgement ---------------------------------------------------------

func TestAckOnlyWhenStored(t *testing.T) {
	started, goOn := make(chan struct{}), make(chan struct{})
	sink := &fakeSink{onPush: func(context.Context, *push.Batch) error {
		started <- struct{}{}
		<-goOn
		return nil
	}}
	r := newRig(t, sink, "auto", nil)
	c := r.connect(t)
	send(t, c, enc(list{"t", list{event(1, "a")}, chunk("one")}, list{"t", list{event(2, "b")}, chunk("two")}))
	for _, id := range []string{"one", "two"} {
		<-started
		// Nothing may come before Push has returned. A read can only show that
		// for as long as it waits; the order of events in handle does the rest.
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		var buf [16]byte
		if n, err := c.Read(buf[:]); n > 0 || err == nil {
			t.Fatalf("got %q before the push was done", buf[:n])
		}
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		goOn <- struct{}{}
		expect(t, c, ackOf(id))
	}
	if got := strings.Join(sink.lines(), " "); got != "a b" {
		t.Fatalf("stored %s", got)
	}
}

func TestManyChunksInOrder(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", nil)
	c := r.connect(t)
	var out, want []byte
	for i := range 500 {
		id := fmt.Sprint("chunk-", i)
		out = append(out, enc(list{"t", list{event(i+1, id)}, chunk(id)})...)
		if i%7 == 0 {
			out = append(out, enc(nil, list{"t", i + 1, pairs{"log", "between"}})...)
		}
		want = append(want, ackOf(id)...)
	}
	go c.Write(out)
	expect(t, c, want)
	if n := len(r.sink.all()); n != 572 {
		t.Fatalf("%d entries", n)
	}
}

func TestNoAckOnFailure(t *testing.T) {
	for name, err := range map[string]error{
		"overloaded": push.Errorf(push.Overloaded, "too much"),
		"disk":       push.Errorf(push.DiskLow, "no space"),
		"other":      errors.New("it broke"),
	} {
		sink := &fakeSink{onPush: func(context.Context, *push.Batch) error { return err }}
		r := newRig(t, sink, "auto", func(c *Config) { c.Hold = 0 })
		c := r.connect(t)
		send(t, c, enc(list{"t", list{event(1, "a")}, chunk("one")}))
		expectEnd(t, c)
		r.Close()
		if lines := r.log.lines(); len(lines) != 2 || !strings.Contains(lines[1], "reason=not_stored") ||
			!strings.Contains(lines[1], "peer="+c.LocalAddr().String()) || !strings.Contains(lines[1], err.Error()) {
			t.Fatalf("%s: logged %q", name, lines)
		}
		if n := r.value(t, "acks_total", ""); n != 0 {
			t.Fatalf("%s: %v acks", name, n)
		}
	}
}

// While the sink cannot take a message the connection waits, and is not read.
func TestHold(t *testing.T) {
	var tries atomic.Int32
	var ids []push.ID
	sink := &fakeSink{onPush: func(_ context.Context, b *push.Batch) error {
		ids = append(ids, b.ID)
		if tries.Add(1) < 3 {
			return push.Errorf(push.Overloaded, "too much")
		}
		return nil
	}}
	r := newRig(t, sink, "auto", nil)
	c := r.connect(t)
	send(t, c, enc(list{"t", list{event(1, "a")}, chunk("one")}))
	expect(t, c, ackOf("one"))
	if len(ids) != 3 || ids[0] != ids[2] {
		t.Fatalf("ids %v", ids)
	}
	if got := strings.Join(sink.lines(), " "); got != "a" {
		t.Fatalf("stored %s", got)
	}
	if n := r.value(t, "push_retries_total", ""); n != 2 {
		t.Fatalf("%v retries", n)
	}
}

func TestRefusedIsAcknowledged(t *testing.T) {
	f := func(name string, err error, reason string, refused, stored float64) {
		t.Helper()
		sink := &fakeSink{onPush: func(context.Context, *push.Batch) error { return err }}
		r := newRig(t, sink, "auto", nil)
		c := r.connect(t)
		send(t, c, enc(list{"t", list{event(1, "a"), event(2, "b")}, chunk("one")}))
		expect(t, c, ackOf("one"))
		if n := r.value(t, "refused_entries_total", reason); n != refused {
			t.Fatalf("%s: %v refused", name, n)
		}
		if n := r.value(t, "stored_entries_total", ""); n != stored {
			t.Fatalf("%s: %v stored", name, n)
		}
		if lines := r.log.lines(); len(lines) != 2 || !strings.Contains(lines[1], "peer="+c.LocalAddr().String()) {
			t.Fatalf("%s: logged %q", name, lines)
		}
	}
	some := &push.Rejected{Total: 2}
	some.Add(push.TooOld, "{}", 1, 10, func() string { return "too old" })
	f("one of two", some, "greater_than_max_sample_age", 1, 1)
	f("all", push.Errorf(push.MissingLabels, "no labels"), "missing_labels", 2, 0)
}

// limitedSink refuses lines that begin with "limited" until the n-th push, and
// those that begin with "old" for good.
func limitedSink(n int32) (*fakeSink, *atomic.Int32) {
	tries := new(atomic.Int32)
	return &fakeSink{onPush: func(_ context.Context, b *push.Batch) error {
		try := tries.Add(1)
		rej := push.Rejected{Total: len(b.Entries)}
		for i := range b.Entries {
			e := &b.Entries[i]
			switch line := string(b.Bytes(e.Line)); {
			case strings.HasPrefix(line, "limited") && try < n:
				e.Reject = push.StreamRateLimit
			case strings.HasPrefix(line, "old"):
				e.Reject = push.TooOld
			default:
				continue
			}
			rej.Add(e.Reject, "{}", 1, 10, func() string { return "refused" })
		}
		if rej.Entries == 0 {
			return nil
		}
		return &rej
	}}, tries
}

// What a stream's or a tenant's limits refuse for the moment is pushed again,
// alone, and not acknowledged before.
func TestRefusedForTheMoment(t *testing.T) {
	f := func(opts ...any) {
		t.Helper()
		sink, tries := limitedSink(3)
		r := newRig(t, sink, "auto", nil)
		c := r.connect(t)
		send(t, c, enc(append(list{"t", list{event(1, "one"), event(2, "limited"), event(3, "old"), event(4, "two"), 7}}, opts...)))
		if len(opts) > 0 {
			expect(t, c, ackOf("one"))
		}
		c.CloseWrite()
		expectEnd(t, c)
		var each []string
		sink.mu.Lock()
		defer sink.mu.Unlock()
		for _, b := range sink.batches {
			var lines []string
			for _, e := range b.entries {
				lines = append(lines, e.line)
			}
			each = append(each, strings.Join(lines, " "))
		}
		if want := []string{"one limited old two", "limited", "limited"}; !slices.Equal(each, want) || tries.Load() != 3 {
			t.Fatalf("pushed %q, %d times", each, tries.Load())
		}
		if first, rest := sink.batches[0].dead, sink.batches[1].dead; len(first) != 1 || len(rest) != 0 {
			t.Fatalf("dead letters %q, then %q", first, rest)
		}
		if n := r.value(t, "refused_entries_total", ""); n != 1 {
			t.Fatalf("%v refused", n)
		}
		if n := r.value(t, "stored_entries_total", ""); n != 3 {
			t.Fatalf("%v stored", n)
		}
	}
	f(chunk("one"))
	f()
}

// When the sender has waited for as long as it should, it gets no ack.
func TestRefusedForTheMomentTooLong(t *testing.T) {
	sink, _ := limitedSink(1 << 30)
	r := newRig(t, sink, "auto", func(c *Config) { c.Hold = 0 })
	c := r.connect(t)
	send(t, c, enc(list{"t", list{event(1, "one"), event(2, "limited")}, chunk("one")}))
	expectEnd(t, c)
	if n := r.value(t, "acks_total", ""); n != 0 {
		t.Fatalf("%v acks", n)
	}
}

// A message without a chunk has no other copy: it is tried until it is stored.
func TestWithoutChunkIsTriedAgain(t *testing.T) {
	var tries atomic.Int32
	sink := &fakeSink{onPush: func(context.Context, *push.Batch) error {
		if tries.Add(1) < 4 {
			return errors.New("not now")
		}
		return nil
	}}
	r := newRig(t, sink, "auto", func(c *Config) { c.Hold = 0 })
	c := r.connect(t)
	send(t, c, enc(list{"t", list{event(1, "a")}}))
	c.CloseWrite()
	expectEnd(t, c)
	if got := strings.Join(sink.lines(), " "); got != "a" || tries.Load() != 4 {
		t.Fatalf("stored %q after %d tries", got, tries.Load())
	}
}

func TestSmallMessagesArePushedTogether(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", nil)
	var out []byte
	for i := range 10000 {
		out = append(out, enc(list{"t", i + 1, pairs{"log", fmt.Sprint("line ", i)}})...)
	}
	r.play(out)
	if n := len(r.sink.all()); n != 10000 {
		t.Fatalf("%d entries", n)
	}
	if n := len(r.sink.batches); n > 20 {
		t.Fatalf("%d batches for %d bytes", n, len(out))
	}
}

func TestLargeMessageInParts(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", nil)
	line := strings.Repeat("x", 60000)
	entries := make([]byte, 0, 25<<20)
	for i := range 400 {
		entries = append(entries, enc(event(i+1, line))...)
	}
	got := r.play(enc(list{"t", entries, chunk("one")}))
	if !bytes.Equal(bytes.Join(got.answers, nil), ackOf("one")) {
		t.Fatalf("answered %q", got.answers)
	}
	if len(r.sink.batches) != 2 || len(r.sink.all()) != 400 {
		t.Fatalf("%d batches, %d entries", len(r.sink.batches), len(r.sink.all()))
	}
	ids := map[push.ID]bool{}
	for _, b := range r.sink.batches {
		ids[b.id] = true
	}
	if len(ids) != 2 {
		t.Fatalf("%d ids", len(ids))
	}
	if r.sink.admitted != 0 || r.sink.most < 24e6 {
		t.Fatalf("%d bytes still admitted, %d at most", r.sink.admitted, r.sink.most)
	}
}

// If a later part fails the message is not acknowledged.
func TestPartFails(t *testing.T) {
	n := 0
	sink := &fakeSink{onPush: func(context.Context, *push.Batch) error {
		if n++; n == 2 {
			return errors.New("no")
		}
		return nil
	}}
	r := newRig(t, sink, "auto", func(c *Config) { c.Hold = 0 })
	line := strings.Repeat("x", 60000)
	entries := make([]byte, 0, 25<<20)
	for i := range 400 {
		entries = append(entries, enc(event(i+1, line))...)
	}
	if got := r.play(enc(list{"t", entries, chunk("one")})); len(got.answers) > 0 {
		t.Fatalf("answered %q", got.answers)
	}
	if n != 2 {
		t.Fatalf("%d pushes", n)
	}
}

// --- bad input ---------------------------------------------------------------

func gzipped1(p []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(p)
	w.Close()
	return b.Bytes()
}

func zstd1(t testing.TB, p []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(p, nil)
}

func TestInput(t *testing.T) {
	// After each input comes a good message with the chunk "next"; open says
	// whether the connection is there for it.
	f := func(name string, in []byte, lines string, answer string, open bool, logged string) {
		t.Helper()
		for _, step := range []int{1 + len(in)/50_000, len(in) + 100} {
			r := newRig(t, &fakeSink{}, "auto", nil)
			got := r.play(pieces(append(bytes.Clone(in), enc(list{"t", list{event(1e6, "next")}, chunk("next")})...), step)...)
			want := lines
			if answer != "" {
				answer := answer
				if open {
					answer += string(ackOf("next"))
				}
				if string(bytes.Join(got.answers, nil)) != answer {
					t.Fatalf("%s: answered %q", name, got.answers)
				}
			}
			if open {
				want = strings.TrimSpace(want + " next")
			}
			all := r.sink.lines()
			if s := strings.Join(all, " "); s != want {
				t.Fatalf("%s: stored %q, want %q", name, s, want)
			}
			log := r.log.lines()
			if logged == "" && len(log) > 0 || logged != "" && (len(log) != 1 || !strings.Contains(log[0], logged) || !strings.Contains(log[0], "peer=192.0.2.7:4711")) {
				t.Fatalf("%s: logged %q, want %q", name, log, logged)
			}
		}
	}
	ack := string(ackOf("c"))
	entries := enc(event(1, "a"), event(2, "b"))
	opt := chunk("c")

	// What reference servers disagree about, or get wrong.
	f("nil", enc(nil, nil), "", "", true, "")
	f("float time", enc(list{"t", raw("\xcb\x41\xda\xac\x4e\xe0\x1f\x9a\xdd"), pairs{"log", "a"}, opt}), "a", ack, true, "")
	f("record is no map", enc(list{"t", 1, "text", opt}), "", ack, true, "not_a_map=1")
	f("one bad of three", enc(list{"t", list{event(1, "a"), list{2, "x"}, event(3, "c")}, opt}), "a c", ack, true, "not_a_map=1")
	f("garbage behind", enc(list{"t", append(bytes.Clone(entries), 0xc1, 1), opt}), "a b", ack, true, "garbage=1")
	f("cut short", enc(list{"t", entries[:len(entries)-3], opt}), "a", ack, true, "garbage=1")
	f("broken gzip", enc(list{"t", gzipped1(entries)[:30], pairs{"chunk", "c", "compressed", "gzip"}}), "", ack, true, "cannot be decompressed")
	f("gzip with a bad sum", enc(list{"t", append(bytes.Clone(gzipped1(entries)[:len(gzipped1(entries))-8]), 1, 2, 3, 4, 5, 6, 7, 8), pairs{"compressed", "gzip"}}), "", "", true, "cannot be decompressed")
	f("gzip that is none", enc(list{"t", entries, pairs{"chunk", "c", "compressed", "gzip"}}), "", ack, true, "not compressed with gzip")
	f("broken zstd", enc(list{"t", zstd1(t, entries)[:20], pairs{"compressed", "zstd"}}), "", "", true, "cannot be decompressed")
	f("unknown compression", enc(list{"t", entries, pairs{"compressed", "lz4"}}), "", "", true, `\"lz4\" is unknown`)
	f("chunk is bin", enc(list{"t", list{event(1, "a")}, pairs{"chunk", []byte("c")}}), "a", "\x81\xa3ack"+string(enc([]byte("c"))), true, "")
	f("chunk is a number", enc(list{"t", list{event(1, "a")}, pairs{"chunk", 7}}), "a", "\x81\xa3ack"+string(enc(7)), true, "")
	f("chunk is nil", enc(list{"t", list{event(1, "a")}, pairs{"chunk", nil}}), "a", "", true, "")
	f("large chunk", enc(list{"t", list{event(1, "a")}, chunk(strings.Repeat("c", 2000))}), "", "", false, "chunk id")
	f("empty tag", enc(list{"", list{event(1, "a")}, opt}), "a", ack, true, "")
	f("option nil", enc(list{"t", list{event(1, "a")}, nil}, list{"t", 2, pairs{"log", "b"}, nil}), "a b", "", true, "")
	f("option is no map", enc(list{"t", list{event(1, "a")}, 7}), "", "", false, "option is neither")
	f("empty option", enc(list{"t", list{event(1, "a")}, pairs{}}), "a", "", true, "")
	f("odd options", enc(list{"t", list{event(1, "a")}, pairs{7, 8, nil, nil, list{}, pairs{"chunk", "x"}, "size", 1 << 60, "chunk", "c"}}), "a", ack, true, "")
	f("nested option", enc(list{"t", list{event(1, "a")}, pairs{"x", raw(strings.Repeat("\x91", 100_000) + "\xc0"), "chunk", "c"}}), "a", ack, true, "")
	f("large option", enc(list{"t", list{event(1, "a")}, pairs{"x", raw(strings.Repeat("\x91", 1_000_000) + "\xc0"), "chunk", "c"}}), "", "", false, "its option has")
	f("nested 90", enc(list{"t", list{event(1, "a"), list{2, pairs{"log", raw(strings.Repeat("\x91", 90) + "\xc0")}}}, opt}), "a", ack, true, "too_deep=1")
	f("nested 10,000", enc(list{"t", list{event(1, "a"), list{2, pairs{"log", raw(strings.Repeat("\x91", 10000) + "\xc0")}}}, opt}), "a", ack, true, "too_deep=1")
	f("nested 10,000 at the top", append(bytes.Repeat([]byte{0x91}, 10000), 0xc0), "", "", false, "too few elements")
	f("top-level map", enc(pairs{"a", 1}), "", "", false, "0xdf")
	f("number", []byte{5}, "", "", false, "0x05")
	f("HTTP", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "", "", false, "HTTP")
	f("TLS", []byte("\x16\x03\x01\x02\x00\x01"), "", "", false, "TLS")
	f("2^31 bytes", []byte("\x93\xa1t\xdb\x80\x00\x00\x00"), "", "", false, "too_large")
	f("2^32-1 elements", []byte("\x93\xa1t\xdd\xff\xff\xff\xff"), "", "", false, "too_large")
	f("2^31 pairs", []byte("\x94\xa1t\x01\xdf\x80\x00\x00\x00"), "", "", false, "too_large")
	f("byte that is none", []byte("\x93\xa1t\xc1"), "", "", false, "0xc1")

	// Shapes.
	f("empty array", enc(list{}), "", "", false, "too few")
	f("tag only", enc(list{"t"}), "", "", false, "too few")
	f("no record", enc(list{"t", 1}), "", "", false, "too few")
	f("tag is a number", enc(list{1, list{event(1, "a")}}), "", "", false, "no tag")
	f("long tag", enc(list{strings.Repeat("t", 5000), list{event(1, "a")}}), "", "", false, "no tag")
	f("bin tag", enc(list{[]byte("t"), list{event(1, "a")}, opt}), "a", ack, true, "")
	f("more elements", enc(list{"t", list{event(1, "a")}, opt, 1, 2}, list{"t", 2, pairs{"log", "b"}, pairs{}, 1, 2}), "a b", ack, true, "")
	f("no entries", enc(list{"t", list{}, opt}), "", ack, true, "")
	f("no bytes", enc(list{"t", "", opt}), "", ack, true, "")
	f("no bytes, gzip", enc(list{"t", "", pairs{"chunk", "c", "compressed", "gzip"}}), "", ack, true, "")
	f("empty gzip", enc(list{"t", gzipped1(nil), pairs{"chunk", "c", "compressed", "gzip"}}), "", ack, true, "")
	f("str for a time is PackedForward", enc(list{"t", "x", pairs{"log", "a"}, opt}), "", "", true, "not_an_event=1")
	f("map for a time", enc(list{"t", pairs{}, pairs{"log", "a"}, opt}), "", ack, true, "bad_time=1")
	f("handshake", enc(list{"PING", "host", "salt", "digest", "", ""}), "", "", false, "option is neither")

	// Compression.
	f("gzip", enc(list{"t", gzipped1(entries), pairs{"chunk", "c", "compressed", "gzip"}}), "a b", ack, true, "")
	f("gzip in two", enc(list{"t", append(gzipped1(entries), gzipped1(enc(event(3, "c")))...), pairs{"compressed", "gzip", "chunk", "c"}}), "a b c", ack, true, "")
	f("gzip in two, cut within an event", enc(list{"t", append(gzipped1(entries[:10]), gzipped1(entries[10:])...), pairs{"compressed", "gzip", "chunk", "c"}}), "a b", ack, true, "")
	f("gzip not announced", enc(list{"t", gzipped1(entries), opt}), "a b", ack, true, "")
	f("zstd announced as gzip", enc(list{"t", zstd1(t, entries), pairs{"chunk", "c", "compressed", "gzip"}}), "a b", ack, true, "")
	f("zstd in two", enc(list{"t", append(zstd1(t, entries), zstd1(t, enc(event(3, "c")))...), pairs{"compressed", "zstd", "chunk", "c"}}), "a b c", ack, true, "")
	f("text", enc(list{"t", entries, pairs{"compressed", "text", "chunk", "c"}}), "a b", ack, true, "")

	// Signals.
	f("metrics", enc(list{"t", []byte("anything"), pairs{"fluent_signal", 1, "chunk", "c"}}), "", ack, true, "")
	f("logs", enc(list{"t", list{event(1, "a")}, pairs{"fluent_signal", 0, "chunk", "c"}}), "a", ack, true, "")
	f("metadata in Message", enc(list{"t", 1, pairs{"log", "a"}, pairs{"metadata", pairs{"m", "v"}, "chunk", "c"}}), "a", ack, true, "")
}

// What cannot become an entry is kept, with the reason.
func TestDeadLetters(t *testing.T) {
	f := func(name string, in []byte, want ...string) {
		t.Helper()
		r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.Tenant = "acme" })
		r.play(in)
		if got := r.sink.dead(); !slices.Equal(got, want) {
			t.Fatalf("%s: dead letters %q, want %q", name, got, want)
		}
		for _, b := range r.sink.batches {
			if b.tenant != "acme" || !b.keep {
				t.Fatalf("%s: batch %+v", name, b)
			}
		}
	}
	const none = "malformed|no log event in a message with the tag \"t\": "
	bad := list{2, "x"}
	f("an entry that is none", enc(list{"t", list{event(1, "a"), bad, event(3, "c")}, chunk("c")}), none+"not_a_map|"+string(enc(bad)))
	f("without ack", enc(list{"t", list{7, event(3, "c")}}), none+"not_an_event|"+string(enc(7)))
	f("Message", enc(list{"t", 1, "text", chunk("c")}), none+"not_a_map|"+string(enc(1, "text")))
	f("garbage", enc(list{"t", append(enc(event(1, "a")), 0xc1, 1, 2), chunk("c")}), none+"garbage|\xc1\x01\x02")
	f("garbage only", enc(list{"t", []byte{0xc1}, chunk("c")}), none+"garbage|\xc1")
	f("compression", enc(list{"t", []byte("bytes"), pairs{"compressed", "lz4", "chunk", "c"}}), `malformed|entries of a message with the tag "t" are lost: the compression "lz4" is unknown|bytes`)
	f("JSON", []byte(`["t",[[1,{"log":"a"}],[1],["x",{}],[1,2]],{"chunk":"c"}]`), none+"not_an_event|[1]", none+"bad_time|{}", none+"not_a_map|2")
	deep := `["t",1,` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `,{"chunk":"c"}]`
	f("deep JSON", []byte(deep), none+"too_many_values|"+deep)
}

// Records and tags can name their tenant. A chunk then is several pushes, each
// with an id of its own, the same when it comes again.
func TestTenants(t *testing.T) {
	mc := mapping.DefaultConfig()
	mc.TenantKeys = []string{"team", "$TAG[1]"}
	r := newMappingRig(t, &fakeSink{}, mc, func(c *Config) { c.Tenant = "default" })
	team := func(i int, name string) list { return list{i, pairs{"log", name, "team", name}} }
	entries := list{event(1, "by tag"), team(2, "blue"), 7, team(3, "red"), team(4, "blue")}
	for range 2 {
		got := r.play(enc(list{"app.green", entries, chunk("c")}, list{"app", list{event(5, "by default")}}))
		if !bytes.Equal(bytes.Join(got.answers, nil), ackOf("c")) {
			t.Fatalf("answered %q", got.answers)
		}
	}
	var got []string
	for _, b := range r.sink.batches {
		var lines []string
		for _, e := range b.entries {
			lines = append(lines, e.line)
		}
		got = append(got, fmt.Sprintf("%s: %s, %d dead", b.tenant, strings.Join(lines, " "), len(b.dead)))
	}
	want := []string{"green: by tag, 0 dead", "blue: blue blue, 0 dead", "default: , 1 dead", "red: red, 0 dead", "default: by default, 0 dead"}
	if !slices.Equal(got, append(want, want...)) {
		t.Fatalf("pushed %q", got)
	}
	ids := map[push.ID]bool{}
	for i := range 4 {
		ids[r.sink.batches[i].id] = true
		if r.sink.batches[i].id != r.sink.batches[i+5].id {
			t.Fatalf("push %d has another id the second time", i)
		}
	}
	if len(ids) != 4 || ids[push.ID{}] {
		t.Fatalf("ids %v", ids)
	}
}

func TestVeryManyTenants(t *testing.T) {
	mc := mapping.DefaultConfig()
	mc.TenantKeys = []string{"team"}
	r := newMappingRig(t, &fakeSink{}, mc, nil)
	var entries list
	for i := range 200 {
		entries = append(entries, list{i + 1, pairs{"log", fmt.Sprint(i), "team", fmt.Sprint("t", i%150)}})
	}
	if got := r.play(enc(list{"t", entries, chunk("c")})); !bytes.Equal(bytes.Join(got.answers, nil), ackOf("c")) {
		t.Fatalf("answered %q", got.answers)
	}
	ids := map[push.ID]bool{}
	for _, b := range r.sink.batches {
		ids[b.id] = true
	}
	if n := len(r.sink.all()); n != 200 || len(ids) != len(r.sink.batches) || len(ids) < 150 {
		t.Fatalf("%d entries, %d ids for %d pushes", n, len(ids), len(r.sink.batches))
	}
}

func TestMessageMetadata(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", nil)
	r.play(enc(list{"t", 0, pairs{"log", "a"}, pairs{"metadata", pairs{"m", "v"}}}))
	got := r.sink.all()
	if len(got) != 1 || got[0].meta["m"] != "v" || got[0].meta["tag"] != "t" || got[0].ts != testNow {
		t.Fatalf("got %+v", got)
	}
}

func TestCutShortIsLogged(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", nil)
	p := enc(list{"t", list{event(1, "a")}, chunk("c")})
	if got := r.play(p[:len(p)-1]); len(got.answers) > 0 || len(r.sink.all()) > 0 {
		t.Fatalf("answered %q, stored %v", got.answers, r.sink.all())
	}
	if log := r.log.lines(); len(log) != 1 || !strings.Contains(log[0], "cut_short") {
		t.Fatalf("logged %q", log)
	}
}

// --- JSON --------------------------------------------------------------------

func TestJSON(t *testing.T) {
	f := func(name, in, lines, answer, logged string) {
		t.Helper()
		for _, step := range []int{1, len(in) + 1} {
			r := newRig(t, &fakeSink{}, "auto", nil)
			got := r.play(pieces([]byte(in), step)...)
			if s := string(bytes.Join(got.answers, nil)); s != answer {
				t.Fatalf("%s: answered %q", name, s)
			}
			if s := strings.Join(r.sink.lines(), " "); s != lines {
				t.Fatalf("%s: stored %q", name, s)
			}
			log := r.log.lines()
			if logged == "" && len(log) > 0 || logged != "" && (len(log) != 1 || !strings.Contains(log[0], logged)) {
				t.Fatalf("%s: logged %q", name, log)
			}
		}
	}
	f("Message", `["t",1790000000,{"log":"a"}]`, "a", "", "")
	f("with option", `["t",1790000000.5,{"log":"a"},{}] `+"\n"+`["t",null,{"log":"b"},null]`+"\n\n", "a b", "", "")
	f("ack", `["t",1,{"log":"a"},{"chunk":"x\n"}]["t",2,{"log":"b"},{"chunk":"y"}]`, "a b", `{"ack":"x\n"}{"ack":"y"}`, "")
	f("escaped option", `["t",1,{"log":"a"},{"chun\u006b":"x"}]`, "a", `{"ack":"x"}`, "")
	f("Forward", `["t\u0021",[[1,{"log":"a"}],[2,{"log":"b","x":[1,{"y":2}]}]],{"chunk":"c"}]`, "a b", `{"ack":"c"}`, "")
	f("brackets in strings", `["t",1,{"log":"]}\"["}]["t",1,{"log":"b"}]`, `]}"[ b`, "", "")
	f("bad entries", `["t",[[1,{"log":"a"}],[1],7,["x",{}],[1,2],[3,{"log":"b"}]],{"chunk":"c"}]`, "a b", `{"ack":"c"}`, "reasons=\"not_an_event=2 bad_time=1 not_a_map=1\"")
	f("too deep", `["t",1,`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`,{"chunk":"c"}]`, "", `{"ack":"c"}`, "too_many_values=1")
	f("object", `{"a":1}`, "", "", "no tag")
	f("no record", `["t",1]`, "", "", "neither")
	f("no time", `["t"]`, "", "", "neither")
	f("no tag", `[]`, "", "", "no tag")
	f("then text", `["t",1,{"log":"a"}]x`, "a", "", "neither an array nor an object")
	f("syntax", `["t",1,{"log":}]`, "", "", "offset 14")
	f("wrong bracket", `["t",1,{"log":1]]`, "", "", "offset 15")
	f("option is a string", `["t",1,{"log":"a"},"chunk"]`, "", "", "option")
	f("unfinished", `["t",1,{"log":"a"}`, "", "", "cut_short")
}

// --- limits ------------------------------------------------------------------

// heap returns the bytes in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// peak runs f and returns by how much the heap grew at most meanwhile, as far
// as sampling sees it.
func peak(f func()) int64 {
	runtime.GC()
	base := heap()
	most := atomic.Int64{}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			most.Store(max(most.Load(), heap()-base))
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return most.Load()
}

// bomb returns what decompresses to a GiB of zeros: members, or frames, of a MiB.
func bomb(t testing.TB, algorithm string) []byte {
	t.Helper()
	zeros := make([]byte, 1<<20)
	if algorithm == "gzip" {
		return bytes.Repeat(gzipped1(zeros), 1<<10)
	}
	return bytes.Repeat(zstd1(t, zeros), 1<<10)
}

func TestBombs(t *testing.T) {
	for _, algorithm := range []string{"gzip", "zstd"} {
		p := enc(list{"t", bomb(t, algorithm), pairs{"compressed", algorithm, "chunk", "c"}})
		r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.MaxDecompressed = 8 << 20 })
		grown := peak(func() {
			if got := r.play(p); len(got.answers) > 0 {
				t.Errorf("answered %q", got.answers)
			}
		})
		if grown > 64<<20 {
			t.Fatalf("%s: the heap grew by %d bytes", algorithm, grown)
		}
		if log := r.log.lines(); len(log) != 1 || !strings.Contains(log[0], "decompresses to more than 8388608 bytes") {
			t.Fatalf("%s: logged %q", algorithm, log)
		}
		if r.sink.most > 64<<20 || r.sink.admitted != 0 {
			t.Fatalf("%s: %d bytes admitted, %d still", algorithm, r.sink.most, r.sink.admitted)
		}
	}
}

// A tag and a group's metadata are stored with each of many tiny entries.
func TestMappedSizeIsBounded(t *testing.T) {
	group := enc(list{list{ext{sec: 0xffffffff}, pairs{}}, pairs{"resource", pairs{"attributes", pairs{"a", strings.Repeat("x", 8000)}}}})
	entries := append(group, bytes.Repeat([]byte{0x92, 0x01, 0x80}, 1<<20)...)
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.MaxDecompressed = 32 << 20 })
	grown := peak(func() { r.play(enc(list{"t", entries, chunk("c")})) })
	if log := r.log.lines(); len(log) != 1 || !strings.Contains(log[0], "take more than") {
		t.Fatalf("logged %q", log)
	}
	if n := len(r.sink.batches); n > 2 || grown > 256<<20 {
		t.Fatalf("%d batches, the heap grew by %d bytes", n, grown)
	}
}

// An announced length costs nothing, nor does a client that sends it slowly.
func TestAnnouncedLengthsCostNothing(t *testing.T) {
	const clients = 200
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.ReadTimeout = 300 * time.Millisecond })
	var conns []*net.TCPConn
	grown := peak(func() {
		for range clients {
			c := r.connect(t)
			send(t, c, []byte("\x93\xa1t\xdb\x03\x00\x00\x00slow")) // 48 MiB are to come
			conns = append(conns, c)
		}
		for _, c := range conns {
			expectEnd(t, c)
		}
	})
	if per := grown / clients; per > 16<<10 {
		t.Fatalf("%d bytes for each connection", per)
	}
	r.Close()
	if n := r.value(t, "closed_connections_total", "too_slow"); n != clients {
		t.Fatalf("%v closed as too slow", n)
	}
	if r.sink.most > 0 {
		t.Fatalf("%d bytes admitted", r.sink.most)
	}
}

func TestSlowLoris(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.ReadTimeout = 200 * time.Millisecond })
	c := r.connect(t)
	began := time.Now()
	p := enc(list{"t", list{event(1, "a")}, chunk("c")})
	for _, b := range p {
		if _, err := c.Write([]byte{b}); err != nil {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("still served")
		}
		time.Sleep(50 * time.Millisecond) // this client's speed is what is tested
	}
	r.Close()
	if log := r.log.lines(); len(log) != 2 || !strings.Contains(log[1], "reason=too_slow") || !strings.Contains(log[1], "peer="+c.LocalAddr().String()) {
		t.Fatalf("logged %q", log)
	}
	if len(r.sink.all()) > 0 {
		t.Fatal("stored something")
	}
}

func TestIdle(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.ReadTimeout, c.IdleTimeout = 50*time.Millisecond, 200*time.Millisecond })
	c := r.connect(t)
	send(t, c, enc(list{"t", list{event(1, "a")}, chunk("c")}))
	expect(t, c, ackOf("c"))
	began := time.Now()
	expectEnd(t, c)
	if d := time.Since(began); d < 100*time.Millisecond {
		t.Fatalf("closed after %s", d)
	}
	r.Close()
	if n := r.value(t, "closed_connections_total", "idle"); n != 1 {
		t.Fatalf("%v closed as idle", n)
	}
}

func TestTooManyConnections(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.MaxConnections = 1 })
	first := r.connect(t)
	p := enc(list{"t", list{event(1, "a")}, chunk("c")})
	send(t, first, p)
	expect(t, first, ackOf("c"))
	expectEnd(t, r.connect(t))
	send(t, first, p)
	expect(t, first, ackOf("c"))
}

func TestMaxMessage(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.MaxMessage = 64 << 10 })
	var many list
	for i := range 10000 {
		many = append(many, event(i, "abc"))
	}
	r.play(enc(list{"t", many, chunk("c")}))
	if log := r.log.lines(); len(log) != 1 || !strings.Contains(log[0], "reason=too_large") {
		t.Fatalf("logged %q", log)
	}
}

// --- memory that is not there --------------------------------------------------

// budget admits up to n bytes at a time and lets callers wait for more.
type budget struct {
	fakeSink
	room chan struct{}
	unit int64
}

func newBudget(n, unit int64) *budget {
	return &budget{room: make(chan struct{}, n/unit), unit: unit}
}

func (b *budget) Admit(ctx context.Context, n int64) (func(), error) {
	units := int((n + b.unit - 1) / b.unit)
	if units > cap(b.room) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for i := range units {
		select {
		case b.room <- struct{}{}:
		case <-ctx.Done():
			for range i {
				<-b.room
			}
			return nil, ctx.Err()
		}
	}
	return func() {
		for range units {
			<-b.room
		}
	}, nil
}

// Messages that wait for each other's memory all get through.
func TestScarceMemory(t *testing.T) {
	sink := newBudget(1<<20, 16<<10)
	r := newRig(t, &sink.fakeSink, "auto", nil)
	r.d.Sink = sink
	entries := []byte{}
	for i := range 20 {
		entries = append(entries, enc(event(i+1, strings.Repeat("x", 10000)))...)
	}
	p := enc(list{"t", entries, chunk("c")})
	var conns []*net.TCPConn
	for range 6 {
		c := r.connect(t)
		send(t, c, p[:len(p)-1])
		conns = append(conns, c)
	}
	for _, c := range conns {
		send(t, c, p[len(p)-1:])
	}
	for _, c := range conns {
		expect(t, c, ackOf("c"))
	}
	if n := len(sink.all()); n != 120 {
		t.Fatalf("%d entries", n)
	}
	r.Close()
	if len(sink.room) > 0 || len(r.overdraft) > 0 {
		t.Fatalf("%d units were not given back", len(sink.room))
	}
}

// A sink that has no memory is asked again; the connection waits.
func TestAdmissionRefused(t *testing.T) {
	n := 0
	sink := &fakeSink{admit: func(context.Context, int64) error {
		if n++; n < 3 {
			return push.Errorf(push.Overloaded, "full")
		}
		return nil
	}}
	r := newRig(t, sink, "auto", nil)
	c := r.connect(t)
	send(t, c, enc(list{"t", list{event(1, strings.Repeat("x", 60000))}, chunk("c")}))
	expect(t, c, ackOf("c"))
	if n < 3 || r.value(t, "admission_waits_total", "") != 2 {
		t.Fatalf("asked %d times", n)
	}
}

func TestAdmissionRefusedForGood(t *testing.T) {
	sink := &fakeSink{admit: func(context.Context, int64) error { return push.Errorf(push.BodyTooLarge, "never") }}
	r := newRig(t, sink, "auto", nil)
	r.play(enc(list{"t", list{event(1, strings.Repeat("x", 60000))}, chunk("c")}))
	if log := r.log.lines(); len(log) != 1 || !strings.Contains(log[0], "never") {
		t.Fatalf("logged %q", log)
	}
}

// --- life cycle ----------------------------------------------------------------

// What has been sent before the shutdown is stored and acknowledged.
func TestCloseDrains(t *testing.T) {
	block, pushing := make(chan struct{}), make(chan struct{}, 16)
	sink := &fakeSink{onPush: func(context.Context, *push.Batch) error {
		pushing <- struct{}{}
		<-block
		return nil
	}}
	r := newRig(t, sink, "auto", nil)
	withAck, without, idle, partial := r.connect(t), r.connect(t), r.connect(t), r.connect(t)
	send(t, withAck, enc(list{"t", list{event(1, "a")}, chunk("1")}, list{"t", list{event(2, "b")}, chunk("2")}))
	send(t, without, enc(list{"t", list{event(3, "c")}}))
	<-pushing
	<-pushing
	for r.value(t, "open_connections", "") < 4 { // all are accepted
		time.Sleep(time.Millisecond)
	}
	// These are in the socket's buffer while the server stops.
	send(t, withAck, enc(list{"t", list{event(4, "d")}, chunk("3")}))
	send(t, without, enc(list{"t", list{event(5, "e")}}))
	p := enc(list{"t", list{event(6, "f")}, chunk("4")})
	send(t, partial, p[:10])
	send(t, idle, enc(nil))
	closed := make(chan error)
	go func() { closed <- r.Close() }()
	<-r.drain
	close(block)
	expect(t, withAck, slices.Concat(ackOf("1"), ackOf("2"), ackOf("3")))
	expectEnd(t, withAck)
	expectEnd(t, without)
	expectEnd(t, idle)
	send(t, partial, p[10:])
	expect(t, partial, ackOf("4"))
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	got := sink.lines()
	slices.Sort(got)
	if s := strings.Join(got, " "); s != "a b c d e f" {
		t.Fatalf("stored %s", s)
	}
	if _, err := net.Dial("tcp", r.Addr().String()); err == nil {
		t.Fatal("it still accepts")
	}
}

// A shutdown does not wait for ever: not for the sink, not for clients that go
// on sending.
func TestCloseGivesUp(t *testing.T) {
	sink := &fakeSink{onPush: func(ctx context.Context, _ *push.Batch) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	r := newRig(t, sink, "auto", func(c *Config) { c.DrainTimeout = 300 * time.Millisecond })
	c, partial, lost := r.connect(t), r.connect(t), r.connect(t)
	send(t, c, enc(list{"t", list{event(1, "a")}, chunk("1")}))
	send(t, partial, enc(list{"t", list{event(1, "a")}})[:5])
	send(t, lost, enc(list{"t", list{event(1, "a")}}))
	for r.value(t, "messages_total", "") < 2 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	r.Close()
	if d := time.Since(began); d > 5*time.Second {
		t.Fatalf("took %s", d)
	}
	expectEnd(t, c)
	expectEnd(t, partial)
	if n := r.value(t, "dropped_entries_total", "shutdown"); n != 1 {
		t.Fatalf("%v entries counted as lost", n)
	}
}

func TestCloseWithoutOpen(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", nil)
	r.Close()
	r.Close()
	if err := r.Open(); err == nil {
		t.Fatal("opened after Close")
	}
}

func TestListenOff(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.Listen = nil })
	if err := r.Open(); err != nil || r.Addr() != nil {
		t.Fatalf("error %v, address %v", err, r.Addr())
	}
}

func TestListenFails(t *testing.T) {
	first := newRig(t, &fakeSink{}, "auto", nil)
	if err := first.Open(); err != nil {
		t.Fatal(err)
	}
	second := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.Listen = []string{first.Addr().String()} })
	if err := second.Open(); err == nil || !strings.HasPrefix(err.Error(), "forward: listen tcp") {
		t.Fatalf("error %v", err)
	}
}

func TestServe(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- r.Serve(ln) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, c, enc(list{"t", list{event(1, "a")}, chunk("c")}))
	expect(t, c, ackOf("c"))
	r.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := r.Serve(ln); err == nil {
		t.Fatal("served after Close")
	}
}

func TestHeartbeat(t *testing.T) {
	r := newRig(t, &fakeSink{}, "auto", func(c *Config) { c.Heartbeat = true })
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	send(t, c, []byte("something longer than what is read of it"))
	send(t, c, []byte{0})
	var buf [16]byte
	for range 2 {
		if n, err := c.Read(buf[:]); n != 1 || buf[0] != 0 || err != nil {
			t.Fatalf("got %q, %v", buf[:n], err)
		}
	}
}

func TestConfig(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	if errs := (Config{IdleTimeout: -1, Hold: -1, DrainTimeout: -1}).Validate(); len(errs) != 10 {
		t.Fatalf("%d problems: %v", len(errs), errs)
	}
	if _, err := New(Deps{}, Config{}); err == nil || !strings.HasPrefix(err.Error(), "forward: max-message") {
		t.Fatalf("error %v", err)
	}
}
