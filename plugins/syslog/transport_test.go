package syslog

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/testcert"
	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/proto/push"
)

func TestTLS(t *testing.T) {
	certs := testcert.New(t)
	client := func(c tlsconf.Client) *tls.Config {
		t.Helper()
		c.CAFile = certs.CA
		out, err := c.Config()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	r := openRig(t, &fakeSink{}, func(c *Config) {
		c.ListenTLS = "127.0.0.1:0"
		c.TLS = tlsconf.Server{CertFile: certs.Cert, KeyFile: certs.Key, ClientCAFile: certs.CA}
	})
	c, err := tls.Dial("tcp", r.TLSAddr().String(), client(tlsconf.Client{CertFile: certs.ClientCert, KeyFile: certs.ClientKey}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, c, "5 <13>a<13>b\n")
	got := r.sink.await(t, 2)
	if got[0].line != "a" || got[1].line != "b" || got[0].meta["connection_ip_address"] != "127.0.0.1" {
		t.Fatalf("got %v", got)
	}
	r.expectValue(t, "messages_total", "tls", 2)

	// Without a certificate, and without TLS.
	if c, err := tls.Dial("tcp", r.TLSAddr().String(), client(tlsconf.Client{})); err == nil {
		send(t, c, "<13>c\n")
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Fatalf("a client without certificate got %v", err)
		}
		c.Close()
	}
	plain, err := net.Dial("tcp", r.TLSAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	send(t, plain, "<13>in the clear\n")
	if _, err := io.ReadAll(plain); err != nil {
		t.Fatal(err)
	}
	// One that never says anything does not hold up the shutdown.
	silent, err := net.Dial("tcp", r.TLSAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for r.value(t, "open_connections", "") != 2 {
		time.Sleep(time.Millisecond)
	}
	// What is sent before the client has seen the end is stored.
	done := make(chan struct{})
	go func() { r.Close(); close(done) }()
	expectEnd(t, c)
	send(t, c, "<13>last\n")
	c.CloseWrite()
	<-done
	if got := r.sink.lines(); !slices.Equal(got, []string{"a", "b", "last"}) {
		t.Fatalf("stored %q", got)
	}
	r.expectValue(t, "closed_connections_total", "handshake", 3)
}

func dialUDP(t testing.TB, addr net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestUDP(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, readers := range []int{1, 3} {
			r := newRig(t, &fakeSink{}, func(c *Config) { c.ListenUDP, c.UDPReaders = addr, readers })
			if err := r.Open(); err != nil {
				t.Fatal(err)
			}
			const clients, each = 5, 20
			for i := range clients {
				c := dialUDP(t, r.UDPAddr())
				for k := range each {
					send(t, c, fmt.Sprintf("<13>1 2026-01-02T03:04:05Z h app%d - - - %d\nsecond line\n", i, k))
				}
			}
			got := r.sink.await(t, clients*each)
			next := map[string]int{}
			for _, e := range got {
				if e.line != fmt.Sprintf("%d\nsecond line", next[e.labels]) {
					t.Fatalf("%d readers: %s instead of %d", readers, e, next[e.labels])
				}
				next[e.labels]++
				want := strings.Trim(strings.TrimSuffix(addr, ":0"), "[]")
				if e.meta["connection_ip_address"] != want {
					t.Fatalf("got %s", e)
				}
			}
			r.expectValue(t, "messages_total", "udp", clients*each)
			r.Close()
		}
	}
}

// IPv4 senders to a socket for both have IPv4 addresses.
func TestUDPBothFamilies(t *testing.T) {
	r := newRig(t, &fakeSink{}, func(c *Config) { c.ListenUDP, c.UDPReaders = ":0", 2 })
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	port := r.UDPAddr().(*net.UDPAddr).Port
	for _, ip := range []string{"127.0.0.1", "::1"} {
		c := dialUDP(t, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(port))))
		send(t, c, "<13>"+ip)
	}
	for _, e := range r.sink.await(t, 2) {
		if e.meta["connection_ip_address"] != e.line {
			t.Fatalf("got %s", e)
		}
	}
}

// A port that another process has is not shared with it.
func TestUDPPortTaken(t *testing.T) {
	first := newRig(t, &fakeSink{}, func(c *Config) { c.ListenUDP, c.UDPReaders = "127.0.0.1:0", 2 })
	if err := first.Open(); err != nil {
		t.Fatal(err)
	}
	second := newRig(t, &fakeSink{}, func(c *Config) { c.ListenUDP, c.UDPReaders = first.UDPAddr().String(), 2 })
	if err := second.Open(); err == nil || !strings.Contains(err.Error(), "listen-udp") {
		t.Fatalf("got %v", err)
	}
}

func TestDatagramsOfAllSizes(t *testing.T) {
	r := newRig(t, &fakeSink{}, func(c *Config) { c.ListenUDP, c.MaxMessage = "127.0.0.1:0", 2*units.KiB })
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	c := dialUDP(t, r.UDPAddr())
	text := strings.Repeat("x", 60_000)
	for _, s := range []string{"", "\n", "\x00", "<13>a\n\x00", "<13>Sep 21 14:13:20 h big: " + text} {
		send(t, c, s)
	}
	var got string
	for _, e := range r.sink.await(t, 31)[1:] {
		if e.meta["app_name"] != "big" {
			t.Fatalf("got %s", e)
		}
		got += e.line
	}
	if got != text {
		t.Fatalf("%d bytes", len(got))
	}
}

// While nothing is stored the queue fills, then the kernel's buffer, and what
// the kernel drops is counted: together it is all that was sent.
func TestUDPOverload(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	entered := make(chan struct{}, 1)
	goOn := make(chan struct{})
	r := newRig(t, &fakeSink{onPush: func(context.Context, *push.Batch) error {
		if down.Load() {
			entered <- struct{}{}
			<-goOn
		}
		return nil
	}}, func(c *Config) {
		c.ListenUDP, c.UDPReaders, c.UDPBuffer, c.UDPQueue = "127.0.0.1:0", 1, 64*units.KiB, 128*units.KiB
	})
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	c := dialUDP(t, r.UDPAddr())
	const sent = 5000
	text := strings.Repeat("x", 500)
	send(t, c, "<13>"+text)
	<-entered
	for range sent - 1 {
		send(t, c, "<13>"+text)
	}
	dropped := r.value(t, "kernel_dropped_datagrams_total", "")
	if dropped < sent/2 {
		t.Fatalf("%v datagrams of %d are dropped", dropped, sent)
	}
	down.Store(false)
	close(goOn)
	if got := r.sink.await(t, sent-int(dropped)); len(got) != sent-int(dropped) {
		t.Fatalf("%d stored and %v dropped of %d", len(got), dropped, sent)
	}
	r.Close()
	r.expectValue(t, "kernel_dropped_datagrams_total", "", dropped)
}

// Datagrams that the kernel has when the server stops are stored.
func TestUDPShutdown(t *testing.T) {
	entered, goOn := make(chan struct{}, 1), make(chan struct{})
	r := newRig(t, &fakeSink{onPush: func(context.Context, *push.Batch) error {
		select {
		case entered <- struct{}{}:
		default: // not the first one
		}
		<-goOn
		return nil
	}}, func(c *Config) { c.ListenUDP, c.UDPQueue = "127.0.0.1:0", 128*units.KiB })
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	c := dialUDP(t, r.UDPAddr())
	send(t, c, "<13>first")
	<-entered
	for range 100 { // more than the queue holds
		send(t, c, "<13>"+strings.Repeat("x", 5000))
	}
	done := make(chan struct{})
	go func() { r.Close(); close(done) }()
	<-r.drainCtx.Done()
	close(goOn)
	<-done
	for _, e := range r.sink.all() {
		if e.meta["connection_ip_address"] != "127.0.0.1" {
			t.Fatalf("got %s", e)
		}
	}
	if n := len(r.sink.all()); n != 101 {
		t.Fatalf("%d entries of 101", n)
	}
}

func TestUDPShutdownWhileNothingIsStored(t *testing.T) {
	entered := make(chan struct{}, 100)
	r := newRig(t, &fakeSink{onPush: func(context.Context, *push.Batch) error {
		entered <- struct{}{}
		return push.Errorf(push.DiskLow, "no space")
	}}, func(c *Config) {
		c.ListenUDP, c.DrainTimeout, c.UDPQueue = "127.0.0.1:0", 50*time.Millisecond, 128*units.KiB
	})
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	c := dialUDP(t, r.UDPAddr())
	for range 100 {
		send(t, c, "<13>"+strings.Repeat("x", 5000))
	}
	<-entered
	r.Close()
	r.expectValue(t, "dropped_entries_total", "", 100)
}

func TestUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for range 2 { // the second one finds what the first one left
		r := newRig(t, &fakeSink{}, func(c *Config) { c.ListenUnix = path })
		if err := r.Open(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != socketMode {
			t.Fatalf("%v, %v", info.Mode(), err)
		}
		c, err := net.Dial("unixgram", path)
		if err != nil {
			t.Fatal(err)
		}
		send(t, c, "<30>Sep 21 14:13:20 app[7]: hi\x00")
		c.Close()
		want := `{job="syslog", service_name="app"} "hi" app_name="app" facility="daemon" level="info" proc_id="7" severity="informational"`
		if got := r.sink.await(t, 1)[0].String(); got != want {
			t.Fatalf("got %s", got)
		}
		r.Close()
	}
	r := newRig(t, &fakeSink{}, func(c *Config) { c.ListenUnix = t.TempDir() })
	if err := r.Open(); err == nil || !strings.Contains(err.Error(), "listen-unix") {
		t.Fatalf("got %v", err)
	}
}
