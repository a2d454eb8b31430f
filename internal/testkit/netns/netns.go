// Package netns makes hosts on one machine: network namespaces with an address
// each, between which packets can be lost. It needs Linux, root and iproute2.
//
// All hosts are behind a router, a namespace of its own, so that nothing of the
// machine's own forwarding changes. The test's process reaches them, and is
// reached by them at Network.IP. Cut makes the router drop packets without a
// word, so that a connection over it is neither closed nor refused: what a cable
// does that is pulled out somewhere in between.
package netns

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Network is a router and its hosts. It is for one goroutine.
type Network struct {
	IP string // of the test's process

	t      testing.TB
	router string
	net    string // first three parts of all addresses
	hosts  []*Host
	cut    map[[2]string]bool
}

// Host is a namespace.
type Host struct {
	IP   string
	name string
}

// Under is the beginning of the command line of a process on the host.
func (h *Host) Under() []string { return []string{"ip", "netns", "exec", h.name} }

// New makes a network without hosts that is gone with the test. It fails the
// test if namespaces cannot be made.
func New(t testing.TB) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces, which needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatalf("this test makes network namespaces with iproute2: %v", err)
	}
	removeStale(t)
	// 198.18.0.0/15 is for tests of networks (RFC 2544). Names and addresses
	// follow from the process, so that two of them do not meet.
	pid := os.Getpid()
	n := &Network{
		t: t, router: fmt.Sprintf("lg%d", pid), net: fmt.Sprintf("198.%d.%d", 18+pid/250%2, pid%250), cut: map[[2]string]bool{},
	}
	n.IP = n.net + ".2"
	up := n.router + "u" // the test's end of its cable
	t.Cleanup(func() {
		for _, name := range append(n.names(), n.router) {
			_ = exec.Command("ip", "netns", "del", name).Run() // may not exist
		}
		_ = exec.Command("ip", "link", "del", up).Run() // goes with the router, but later
	})
	n.ip("netns", "add", n.router)
	n.ip("link", "add", up, "type", "veth", "peer", "name", "root", "netns", n.router)
	n.ip("addr", "add", n.IP+"/30", "dev", up)
	n.ip("link", "set", up, "up")
	n.inRouter("addr", "add", n.net+".1/30", "dev", "root")
	n.inRouter("link", "set", "root", "up")
	n.ip("route", "add", n.net+".0/24", "via", n.net+".1")
	n.run("ip", "netns", "exec", n.router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	return n
}

func (n *Network) names() []string {
	var list []string
	for _, h := range n.hosts {
		list = append(list, h.name)
	}
	return list
}

func (n *Network) run(name string, args ...string) {
	n.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (n *Network) ip(args ...string) { n.t.Helper(); n.run("ip", args...) }
func (n *Network) inRouter(args ...string) {
	n.t.Helper()
	n.ip(append([]string{"-n", n.router}, args...)...)
}

// AddHost adds a host.
func (n *Network) AddHost() *Host {
	n.t.Helper()
	i := len(n.hosts) + 1
	if i > 62 {
		n.t.Fatal("a network has 62 hosts at most")
	}
	h := &Host{IP: fmt.Sprintf("%s.%d", n.net, 4*i+2), name: fmt.Sprintf("%s-%d", n.router, i)}
	n.hosts = append(n.hosts, h)
	gateway, port := fmt.Sprintf("%s.%d", n.net, 4*i+1), fmt.Sprintf("h%d", i)
	n.ip("netns", "add", h.name)
	n.inRouter("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", h.name)
	n.inRouter("addr", "add", gateway+"/30", "dev", port)
	n.inRouter("link", "set", port, "up")
	n.ip("-n", h.name, "addr", "add", h.IP+"/30", "dev", "eth0")
	n.ip("-n", h.name, "link", "set", "lo", "up")
	n.ip("-n", h.name, "link", "set", "eth0", "up")
	n.ip("-n", h.name, "route", "add", "default", "via", gateway)
	return h
}

// Cut drops all packets from one address to another from now on; the other way
// is not affected.
func (n *Network) Cut(from, to string) {
	n.t.Helper()
	if n.cut[[2]string{from, to}] {
		return
	}
	n.cut[[2]string{from, to}] = true
	n.inRouter("rule", "add", "from", from, "to", to, "blackhole")
}

// Heal lets all packets through again.
func (n *Network) Heal() {
	n.t.Helper()
	for c := range n.cut {
		n.inRouter("rule", "del", "from", c[0], "to", c[1], "blackhole")
	}
	clear(n.cut)
}

// Relay listens at IP for as long as the test runs, and connects who comes to
// target, HOST:PORT, which hosts cannot reach if it is on loopback. It returns
// the HOST:PORT that they can.
func (n *Network) Relay(target string) string {
	n.t.Helper()
	l, err := net.Listen("tcp", n.IP+":0")
	if err != nil {
		n.t.Fatal(err)
	}
	r := &relay{target: target, open: map[net.Conn]bool{}}
	r.wg.Go(func() { r.serve(l) })
	n.t.Cleanup(func() {
		l.Close()
		r.close()
	})
	return l.Addr().String()
}

// relay has the connections of a Relay.
type relay struct {
	target string
	wg     sync.WaitGroup
	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

func (r *relay) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		r.wg.Go(func() { r.connect(c) })
	}
}

// keep notes connections that close has to end, and reports whether they live.
func (r *relay) keep(list ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range list {
		r.open[c] = true
	}
	return !r.closed
}

func (r *relay) connect(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", r.target)
	if err != nil {
		// Refused, for the client, as it is here.
		_ = from.(*net.TCPConn).SetLinger(0)
		return
	}
	defer to.Close()
	if r.keep(from, to) {
		var back sync.WaitGroup
		back.Go(func() { pipe(from, to) })
		pipe(to, from)
		back.Wait()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, from)
	delete(r.open, to)
}

// pipe copies until there is no more, and says so to the other side.
func pipe(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if err == nil && to.(*net.TCPConn).CloseWrite() == nil {
		return
	}
	to.Close()
	from.Close()
}

func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	for c := range r.open {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// removeStale removes the networks of processes that are gone, killed for
// example, and returns how many namespaces there were.
func removeStale(t testing.TB) int {
	t.Helper()
	names, err := filepath.Glob("/run/netns/lg*")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, file := range names {
		name := filepath.Base(file)
		pid, _, _ := strings.Cut(name[2:], "-")
		if _, err := os.Stat("/proc/" + pid); !os.IsNotExist(err) {
			continue
		}
		if err := exec.Command("ip", "netns", "del", name).Run(); err == nil {
			count++
		}
	}
	return count
}
