//go:build integration

package netns

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"testing"
)

// TestCut: packets are lost one way or both, and no connection is refused.
func TestCut(t *testing.T) {
	n := New(t)
	a, b := n.AddHost(), n.AddHost()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	relay := n.Relay(l.Addr().String())
	host, port, err := net.SplitHostPort(relay)
	if err != nil || host != n.IP {
		t.Fatalf("relay at %s: %v", relay, err)
	}
	// Bash connects by itself; nothing else needs to be installed.
	reach := func(h *Host, ip, port string) error {
		args := append(h.Under()[1:], "timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/"+ip+"/"+port+" && head -c 5 <&3")
		return exec.Command(h.Under()[0], args...).Run()
	}
	timedOut := func(err error) bool {
		var exit *exec.ExitError
		return errors.As(err, &exit) && exit.ExitCode() == 124
	}
	if err := reach(a, n.IP, port); err != nil {
		t.Fatalf("before: %v", err)
	}
	if err := reach(a, b.IP, "9"); err == nil || timedOut(err) {
		t.Fatalf("a port that nobody listens on: %v, want that it is refused", err)
	}
	n.Cut(a.IP, n.IP)
	n.Cut(b.IP, a.IP)
	if err := reach(a, n.IP, port); !timedOut(err) {
		t.Errorf("cut off: %v, want a timeout", err)
	}
	if err := reach(a, b.IP, "9"); !timedOut(err) {
		t.Errorf("answers are cut off: %v, want a timeout", err)
	}
	if err := reach(b, n.IP, port); err != nil {
		t.Errorf("another host: %v", err)
	}
	n.Heal()
	if err := reach(a, n.IP, port); err != nil {
		t.Errorf("healed: %v", err)
	}
}

func TestRemoveStale(t *testing.T) {
	const name = "lg99999999-1" // no process has such a number
	(&Network{t: t}).ip("netns", "add", name)
	if got := removeStale(t); got < 1 {
		t.Errorf("%d removed", got)
	}
	if _, err := os.Stat("/run/netns/" + name); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}
