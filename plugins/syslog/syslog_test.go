package syslog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/proto/push"
)

// sorted returns sorted copies of what the entries are.
func sorted(entries []stored) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.String())
	}
	slices.Sort(out)
	return out
}

// realStreams are streams that real senders have sent, each as one connection.
var realStreams = []string{
	// logger -T --rfc5424, twice; --octet-count of two lines.
	"<13>1 2026-11-24T17:54:14.012505+00:00 vm multi - - [timeQuality tzKnown=\"1\" isSynced=\"0\"] line 1\n<13>1 2026-11-24T17:54:14.012772+00:00 vm multi - - [timeQuality tzKnown=\"1\" isSynced=\"0\"] \n",
	"97 <13>1 2026-11-24T17:54:14.062727+00:00 vm multi - - [timeQuality tzKnown=\"1\" isSynced=\"0\"] line 197 <13>1 2026-11-24T17:54:14.062941+00:00 vm multi - - [timeQuality tzKnown=\"1\" isSynced=\"0\"] line 2",
	// rsyslog's three templates.
	"<156>Nov 24 17:54:14 vm filetag: from a file\n<156>Nov 24 17:54:14 vm filetag:  indented \xff\xfe octets\n<26>Nov 24 17:54:14 vm mydaemon[17518]: via dev log\n",
	"<156>2026-11-24T17:54:14.128947+00:00 vm filetag: from a file\n<26>2026-11-24T17:54:14.695047+00:00 vm mydaemon[17518]: via dev log\n",
	"69 <156>1 2026-11-24T17:54:14.128947+00:00 vm filetag - - - from a file\n78 <156>1 2026-11-24T17:54:14.128965+00:00 vm filetag - - -   indented \xff\xfe octets\n74 <26>1 2026-11-24T17:54:14.695047+00:00 vm mydaemon 17518 - -  via dev log\n",
	// syslog-ng's network() and syslog().
	"<13>Nov 24 17:54:49 vm from a file\n<13>Nov 24 17:54:49 vm   indented \xff\xfe octets\n<13>Nov 24 17:54:49 vm viasng[18313]: hi sng\n",
	"75 <13>1 2026-11-24T17:54:49+00:00 vm - - - [meta sequenceId=\"1\"] from a file\n84 <13>1 2026-11-24T17:54:49+00:00 vm - - - [meta sequenceId=\"2\"]   indented \xff\xfe octets\n79 <13>1 2026-11-24T17:54:49+00:00 vm viasng 18313 - [meta sequenceId=\"3\"] hi sng\n",
}

var realWant = [][]string{
	{
		`{job="syslog", service_name="multi"} "" app_name="multi" connection_ip_address="192.0.2.7" facility="user" hostname="vm" level="info" sd_timeQuality_isSynced="0" sd_timeQuality_tzKnown="1" severity="notice"`,
		`{job="syslog", service_name="multi"} "line 1" app_name="multi" connection_ip_address="192.0.2.7" facility="user" hostname="vm" level="info" sd_timeQuality_isSynced="0" sd_timeQuality_tzKnown="1" severity="notice"`,
	},
	{
		`{job="syslog", service_name="multi"} "line 1" app_name="multi" connection_ip_address="192.0.2.7" facility="user" hostname="vm" level="info" sd_timeQuality_isSynced="0" sd_timeQuality_tzKnown="1" severity="notice"`,
		`{job="syslog", service_name="multi"} "line 2" app_name="multi" connection_ip_address="192.0.2.7" facility="user" hostname="vm" level="info" sd_timeQuality_isSynced="0" sd_timeQuality_tzKnown="1" severity="notice"`,
	},
	{
		`{job="syslog", service_name="filetag"} " indented \xff\xfe octets" app_name="filetag" connection_ip_address="192.0.2.7" facility="local3" hostname="vm" level="warn" severity="warning"`,
		`{job="syslog", service_name="filetag"} "from a file" app_name="filetag" connection_ip_address="192.0.2.7" facility="local3" hostname="vm" level="warn" severity="warning"`,
		`{job="syslog", service_name="mydaemon"} "via dev log" app_name="mydaemon" connection_ip_address="192.0.2.7" facility="daemon" hostname="vm" level="critical" proc_id="17518" severity="critical"`,
	},
	{
		`{job="syslog", service_name="filetag"} "from a file" app_name="filetag" connection_ip_address="192.0.2.7" facility="local3" hostname="vm" level="warn" severity="warning"`,
		`{job="syslog", service_name="mydaemon"} "via dev log" app_name="mydaemon" connection_ip_address="192.0.2.7" facility="daemon" hostname="vm" level="critical" proc_id="17518" severity="critical"`,
	},
	{
		`{job="syslog", service_name="filetag"} "  indented \xff\xfe octets" app_name="filetag" connection_ip_address="192.0.2.7" facility="local3" hostname="vm" level="warn" severity="warning"`,
		`{job="syslog", service_name="filetag"} "from a file" app_name="filetag" connection_ip_address="192.0.2.7" facility="local3" hostname="vm" level="warn" severity="warning"`,
		`{job="syslog", service_name="mydaemon"} " via dev log" app_name="mydaemon" connection_ip_address="192.0.2.7" facility="daemon" hostname="vm" level="critical" proc_id="17518" severity="critical"`,
	},
	{
		`{job="syslog", service_name="viasng"} "hi sng" app_name="viasng" connection_ip_address="192.0.2.7" facility="user" hostname="vm" level="info" proc_id="18313" severity="notice"`,
		`{job="syslog"} "  indented \xff\xfe octets" connection_ip_address="192.0.2.7" facility="user" hostname="vm" level="info" severity="notice"`,
		`{job="syslog"} "from a file" connection_ip_address="192.0.2.7" facility="user" hostname="vm" level="info" severity="notice"`,
	},
	{
		`{job="syslog", service_name="viasng"} "hi sng" app_name="viasng" connection_ip_address="192.0.2.7" facility="user" hostname="vm" level="info" proc_id="18313" sd_meta_sequenceId="3" severity="notice"`,
		`{job="syslog"} "  indented \xff\xfe octets" connection_ip_address="192.0.2.7" facility="user" hostname="vm" level="info" sd_meta_sequenceId="2" severity="notice"`,
		`{job="syslog"} "from a file" connection_ip_address="192.0.2.7" facility="user" hostname="vm" level="info" sd_meta_sequenceId="1" severity="notice"`,
	},
}

// What real senders have sent, cut at every byte.
func TestRealStreams(t *testing.T) {
	for i, in := range realStreams {
		r := newRig(t, &fakeSink{}, nil)
		for n := 1; n <= len(in); n++ {
			r.sink.entries = nil
			if sc := r.play([]byte(in), n); !sc.closed {
				t.Fatal("not closed")
			}
			if got := sorted(r.sink.all()); !slices.Equal(got, realWant[i]) {
				t.Fatalf("stream %d in pieces of %d:\n got %s\nwant %s", i, n, strings.Join(got, "\n     "), strings.Join(realWant[i], "\n     "))
			}
		}
	}
}

func TestLongMessages(t *testing.T) {
	limit := 2 << 10
	r := newRig(t, &fakeSink{}, func(c *Config) { c.MaxMessage = units.Bytes(limit) })
	head := `<34>1 2026-01-02T03:04:05Z h app 7 m [x@1 a="1"] `
	text := strings.Repeat("0123456789", 500)
	bsd := `<34>Jan  2 03:04:05 h tag[8]: `
	r.play(fmt.Appendf(nil, "%s%s\n%d %s%s%s%s\n", head, text, len(head)+len(text), head, text, bsd, text), 1000)
	got := r.sink.all()
	if len(got) != 9 {
		t.Fatalf("%d entries", len(got))
	}
	lines := map[string]string{}
	seen := map[int64]bool{}
	for i, e := range got {
		lines[e.meta["proc_id"]] += e.line
		if e.meta["hostname"] != "h" || e.meta["severity"] != "critical" || len(e.line) > limit ||
			(e.meta["sd_x_1_a"] != "1" || e.labels != `{job="syslog", service_name="app"}`) == (e.meta["proc_id"] == "7") {
			t.Fatalf("entry %d: %s", i, e)
		}
		if at := time.Unix(0, e.ts).UTC().Truncate(time.Second); at.Format("01-02T15:04:05") != "01-02T03:04:05" || seen[e.ts] {
			t.Fatalf("entry %d at %s", i, at)
		}
		seen[e.ts] = true
	}
	if lines["7"] != text+text || lines["8"] != text {
		t.Fatalf("the parts are %d and %d bytes", len(lines["7"]), len(lines["8"]))
	}
	r.expectValue(t, "split_messages_total", "", 6)
	r.expectValue(t, "messages_total", "rfc5424", 6)
	r.expectValue(t, "messages_total", "rfc3164", 3)
}

// The same line at the same second is two events, in one push and in several.
func TestEqualEvents(t *testing.T) {
	r := newRig(t, &fakeSink{}, nil)
	for range 3 {
		r.play([]byte(strings.Repeat("<13>Sep 21 14:13:20 h app: same\n", 3)+"no time\nno time\n"), 1<<10)
	}
	seen := map[int64]bool{}
	for _, e := range r.sink.all() {
		if seen[e.ts] {
			t.Fatalf("two events at %d", e.ts)
		}
		seen[e.ts] = true
		if e.line == "same" && time.Unix(0, e.ts).UTC().Truncate(time.Microsecond).Format("01-02T15:04:05.999999") != "09-21T14:13:20" {
			t.Fatalf("at %s", time.Unix(0, e.ts).UTC())
		}
	}
	if len(seen) != 15 {
		t.Fatalf("%d entries", len(seen))
	}
}

func TestApart(t *testing.T) {
	var a apart
	f := func(ts, want int64) {
		t.Helper()
		if got := a.time(ts); got != want {
			t.Fatalf("%d: got %d, want %d", ts, got, want)
		}
	}
	f(5e9, 5e9)
	f(5e9, 5e9+1)
	f(6e9, 6e9)
	f(5e9, 5e9+2)
	f(6e9, 6e9+1)
	f(5_001_000_000, 5_001_000_000)
	f(5_001_000_000, 5_001_000_001)
	f(5_000_001_000, 5_000_001_000)
	f(5_000_001_000, 5_000_001_000)
	f(-5e9, -5e9)
	f(-5e9, -5e9+1)
}

// --- durability ----------------------------------------------------------------

// While nothing can be stored nothing more is read, and nothing is lost.
func TestOverloadWithoutLoss(t *testing.T) {
	for name, failure := range map[string]error{
		"overloaded": &push.Error{Reason: push.Overloaded, Msg: "too much", RetryAfter: time.Millisecond},
		"rate":       push.Errorf(push.RateLimited, "too fast"),
		"no tenant":  push.Errorf(push.NoTenant, "no tenant"),
		"other":      errors.New("it broke"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var down atomic.Bool
			down.Store(true)
			tried := make(chan struct{}, 1)
			r := openRig(t, &fakeSink{onPush: func(context.Context, *push.Batch) error {
				if down.Load() {
					select {
					case tried <- struct{}{}:
					default:
					}
					return failure
				}
				return nil
			}}, nil)
			c := r.dial(t)
			const total = 15_000
			filling := strings.Repeat("x", 800) // more than all buffers together
			go func() {
				for i := range total / 100 {
					var b strings.Builder
					for k := range 100 {
						fmt.Fprintf(&b, "<13>Sep 21 14:13:20 h app: %d %s\n", i*100+k, filling)
					}
					if _, err := io.WriteString(c, b.String()); err != nil {
						return
					}
				}
				c.CloseWrite()
			}()
			<-tried
			<-tried
			if n := len(r.sink.all()); n != 0 {
				t.Fatalf("%d entries while nothing is stored", n)
			}
			down.Store(false)
			seen := make([]bool, total)
			for _, e := range r.sink.await(t, total) {
				var i int
				if _, err := fmt.Sscanf(e.line, "%d", &i); err != nil || seen[i] {
					t.Fatalf("%q, %v", e.line, err)
				}
				seen[i] = true
			}
			if r.value(t, "push_retries_total", "") < 1 || !strings.Contains(r.log.String(), "it is tried again") {
				t.Fatal("retries are not counted or not logged")
			}
			r.expectValue(t, "stored_entries_total", "", total)
		})
	}
}

// What has been sent before the shutdown is stored, and the client learns of it.
func TestShutdownWithoutLoss(t *testing.T) {
	entered, goOn := make(chan struct{}, 100), make(chan struct{})
	r := openRig(t, &fakeSink{onPush: func(context.Context, *push.Batch) error {
		entered <- struct{}{}
		<-goOn
		return nil
	}}, nil)
	c := r.dial(t)
	idle := r.dial(t)
	send(t, c, "<13>first\n")
	<-entered
	for i := range 1000 {
		send(t, c, fmt.Sprintf("<13>%d\n", i))
	}
	done := make(chan struct{})
	go func() {
		r.Close()
		close(done)
	}()
	expectEnd(t, idle)
	idle.Close()
	close(goOn)
	expectEnd(t, c) // now it knows
	send(t, c, "<13>sent before it looked\n<13>without an end")
	c.CloseWrite()
	<-done
	if n := len(r.sink.all()); n != 1003 {
		t.Fatalf("%d entries of 1003", n)
	}
	r.expectValue(t, "dropped_entries_total", "", 0)
	if _, err := net.Dial("tcp", r.TCPAddr().String()); err == nil {
		t.Fatal("connections are accepted after Close")
	}
}

// A client that is told that its connection ends, while it sends, finds nobody
// to connect to, and one that has connected by then is heard.
func TestShutdownEndsAcceptingFirst(t *testing.T) {
	for range 10 {
		r := openRig(t, &fakeSink{}, func(c *Config) { c.DrainTimeout = time.Minute })
		const clients = 5
		var sent atomic.Int64
		var again atomic.Int32
		var wg sync.WaitGroup
		for range clients {
			c := r.dial(t)
			var ended atomic.Bool
			wg.Go(func() {
				if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
					t.Errorf("the connection did not end: %d, %v", n, err)
				}
				if other, err := net.Dial("tcp", r.TCPAddr().String()); err == nil {
					other.Close()
					again.Add(1)
				}
				ended.Store(true)
			})
			wg.Go(func() {
				for !ended.Load() {
					if _, err := io.WriteString(c, "<13>a\n"); err != nil {
						t.Errorf("send: %v", err)
						break
					}
					sent.Add(1)
					time.Sleep(20 * time.Microsecond) // not more than can be stored
				}
				c.CloseWrite()
			})
		}
		r.sink.await(t, clients)
		late := r.dial(t) // it may not be accepted yet
		send(t, late, "<13>b\n")
		late.CloseWrite()
		r.Close()
		wg.Wait()
		if n := again.Load(); n > 0 {
			t.Fatalf("%d clients have connected again", n)
		}
		if n := len(r.sink.all()); n != int(sent.Load())+1 {
			t.Fatalf("%d entries of %d", n, sent.Load()+1)
		}
	}
}

// A client that never stops does not keep the server from stopping.
func TestShutdownEnds(t *testing.T) {
	r := openRig(t, &fakeSink{}, func(c *Config) { c.DrainTimeout = 50 * time.Millisecond })
	c := r.dial(t)
	go func() {
		for {
			if _, err := io.WriteString(c, "<13>again and again\n"); err != nil {
				return
			}
		}
	}()
	r.sink.await(t, 1)
	r.Close()
}

func TestShutdownWhileNothingIsStored(t *testing.T) {
	entered := make(chan struct{}, 100)
	r := openRig(t, &fakeSink{onPush: func(context.Context, *push.Batch) error {
		entered <- struct{}{}
		return push.Errorf(push.DiskLow, "no space")
	}}, func(c *Config) { c.DrainTimeout = 50 * time.Millisecond })
	send(t, r.dial(t), "<13>a\n<13>b\n")
	<-entered
	r.Close()
	r.expectValue(t, "dropped_entries_total", "", 2)
	if !strings.Contains(r.log.String(), "entries lost") {
		t.Fatal("the loss is not logged")
	}
}

func TestRefused(t *testing.T) {
	some := &push.Rejected{Total: 2}
	some.Add(push.TooOld, "{}", 1, 10, func() string { return "too old" })
	for _, err := range []error{some, push.Errorf(push.MissingLabels, "none")} {
		r := openRig(t, &fakeSink{onPush: func(_ context.Context, b *push.Batch) error {
			if errors.Is(err, error(some)) {
				b.Entries[0].Reject = push.TooOld
			}
			return err
		}}, nil)
		c := r.dial(t)
		send(t, c, "<13>a\n<13>b\n")
		c.CloseWrite()
		expectEnd(t, c)
		if err == error(some) {
			r.expectValue(t, "refused_entries_total", "greater_than_max_sample_age", 1)
			r.expectValue(t, "stored_entries_total", "", 1)
		} else {
			r.expectValue(t, "refused_entries_total", "missing_labels", 2)
		}
		r.Close()
	}
}

// Entries that are refused for the moment are pushed again, and no others.
func TestRefusedForTheMoment(t *testing.T) {
	tries := 0
	r := newRig(t, &fakeSink{onPush: func(_ context.Context, b *push.Batch) error {
		tries++
		var rej push.Rejected
		rej.Total = len(b.Entries)
		refuse := func(reason push.Reason) {
			rej.Add(reason, "", 1, 1, func() string { return "no" })
		}
		for i := range b.Streams {
			for j := range b.StreamEntries(&b.Streams[i]) {
				e := &b.Entries[int(b.Streams[i].First)+j]
				switch line := string(b.Bytes(e.Line)); {
				case line == "limited" && tries < 3:
					e.Reject = push.StreamLimit
					refuse(push.StreamLimit)
				case line == "old":
					e.Reject = push.TooOld
					refuse(push.TooOld)
				}
			}
		}
		if rej.Entries == 0 {
			return nil
		}
		return &rej
	}}, nil)
	r.play([]byte("<13>1 - h a - - - one\n<13>1 - h a - - - limited\n<13>1 - h b - - - old\n<13>1 - h c - - - limited\n<13>1 - h c - - - two\n"), 1<<10)
	got := r.sink.lines()
	slices.Sort(got)
	if want := []string{"limited", "limited", "one", "two"}; !slices.Equal(got, want) || tries != 3 {
		t.Fatalf("stored %q in %d pushes", got, tries)
	}
	r.expectValue(t, "refused_entries_total", "", 1)
	r.expectValue(t, "stored_entries_total", "", 4)
}

// --- connections -----------------------------------------------------------------

func TestTenant(t *testing.T) {
	r := newRig(t, &fakeSink{}, func(c *Config) { c.Tenant = "team-a" })
	r.play([]byte("<13>a\n"), 100)
	if got := r.sink.all(); len(got) != 1 || got[0].tenant != "team-a" {
		t.Fatalf("got %v", got)
	}
}

func TestMaxConnections(t *testing.T) {
	r := openRig(t, &fakeSink{}, func(c *Config) { c.MaxConnections = 1 })
	a := r.dial(t)
	send(t, a, "<13>a\n")
	r.sink.await(t, 1)
	b := r.dial(t)
	var buf [1]byte
	if n, err := b.Read(buf[:]); n != 0 || err == nil {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	r.expectValue(t, "closed_connections_total", "too_many", 1)
	r.expectValue(t, "open_connections", "", 1)
}

func TestIdle(t *testing.T) {
	r := openRig(t, &fakeSink{}, func(c *Config) { c.IdleTimeout = 20 * time.Millisecond })
	c := r.dial(t)
	expectEnd(t, c)
	// What was under way is not lost.
	send(t, c, "<13>a\n")
	c.CloseWrite()
	r.sink.await(t, 1)
	r.Close()
	r.expectValue(t, "closed_connections_total", "end", 1)
}

func TestIdleSilent(t *testing.T) {
	r := openRig(t, &fakeSink{}, func(c *Config) { c.IdleTimeout = 20 * time.Millisecond })
	c := r.dial(t)
	expectEnd(t, c)
	for r.value(t, "closed_connections_total", "idle") == 0 {
		time.Sleep(time.Millisecond)
	}
}

// A message that does not end in time is stored as far as it came.
func TestTooSlow(t *testing.T) {
	for in, want := range map[string]string{"<13>half of a": "half of a", "100 <13>half of a": "half of a"} {
		r := openRig(t, &fakeSink{}, func(c *Config) { c.ReadTimeout = 20 * time.Millisecond })
		c := r.dial(t)
		send(t, c, in)
		expectEnd(t, c)
		if got := r.sink.lines(); !slices.Equal(got, []string{want}) {
			t.Fatalf("stored %q", got)
		}
		r.Close()
		r.expectValue(t, "closed_connections_total", "too_slow", 1)
	}
}

// A connection that sends much gets a large buffer, which has to be admitted,
// and gives it back.
func TestLargeBuffer(t *testing.T) {
	var asked atomic.Int32
	r := openRig(t, &fakeSink{admit: func(context.Context, int64) error { asked.Add(1); return nil }}, nil)
	c := r.dial(t)
	send(t, c, strings.Repeat("<13>"+strings.Repeat("x", 1000)+"\n", 1000))
	r.sink.await(t, 1000)
	if asked.Load() == 0 {
		t.Fatal("no memory was asked for")
	}
	for {
		r.sink.mu.Lock()
		n := r.sink.admitted
		r.sink.mu.Unlock()
		if n == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	send(t, c, "<13>after that\n")
	r.sink.await(t, 1001)
}

// Without memory a connection goes on with the buffer that it has, and waits
// only if a message is larger.
func TestAdmission(t *testing.T) {
	var full atomic.Bool
	full.Store(true)
	waits := make(chan struct{}, 1)
	r := openRig(t, &fakeSink{admit: func(context.Context, int64) error {
		if full.Load() {
			select {
			case waits <- struct{}{}:
			default:
			}
			return push.Errorf(push.Overloaded, "too much")
		}
		return nil
	}}, nil)
	c := r.dial(t)
	small := strings.Repeat("<13>small\n", 2000)
	send(t, c, small)
	r.sink.await(t, 2000)
	large := strings.Repeat("x", 3*smallBuffer)
	for len(waits) > 0 {
		<-waits
	}
	send(t, c, "<13>"+large+"\n")
	<-waits
	<-waits
	full.Store(false)
	if got := r.sink.await(t, 2001); got[2000].line != large {
		t.Fatalf("%d bytes", len(got[2000].line))
	}
	if r.value(t, "admission_waits_total", "") == 0 {
		t.Fatal("waits are not counted")
	}
}

func TestOpenFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r := newRig(t, &fakeSink{}, func(c *Config) {
		c.ListenTCP = taken.Addr().String()
	})
	if err := r.Open(); err == nil || !strings.Contains(err.Error(), "syslog: listen-tcp: ") {
		t.Fatalf("got %v", err)
	}
	if err := r.Open(); err == nil {
		t.Fatal("a closed server opens")
	}
}

func TestConfig(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	for want, change := range map[string]func(*Config){
		"max-message: must be from 2":  func(c *Config) { c.MaxMessage = 100 },
		"max-message: must be":         func(c *Config) { c.MaxMessage = units.GiB },
		"udp-buffer: ":                 func(c *Config) { c.UDPBuffer = 2 * units.GiB },
		"udp-queue: ":                  func(c *Config) { c.UDPQueue = 1 },
		"max-connections: ":            func(c *Config) { c.MaxConnections = 0 },
		"udp-readers: ":                func(c *Config) { c.UDPReaders = -1 },
		"read-timeout: ":               func(c *Config) { c.ReadTimeout = 0 },
		"idle-timeout: ":               func(c *Config) { c.IdleTimeout = -1 },
		"drain-timeout: ":              func(c *Config) { c.DrainTimeout = -1 },
		"time-zone: ":                  func(c *Config) { c.TimeZone = "Europe/Nowhere" },
		"tls.key-file: ":               func(c *Config) { c.TLS.CertFile = "x" },
		"tls.cert-file: must be set w": func(c *Config) { c.ListenTLS = ":6514" },
	} {
		c := DefaultConfig()
		change(&c)
		errs := c.Validate()
		if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), want) {
			t.Errorf("want %s, got %v", want, errs)
		}
		if _, err := New(Deps{}, c); err == nil {
			t.Errorf("%s: New takes it", want)
		}
	}
}
