package unixsocket

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRemoveStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fails := func(with string) {
		t.Helper()
		if err := RemoveStale("unixgram", path); err == nil || !strings.Contains(err.Error(), with) {
			t.Fatalf("got %v, want an error with %q", err, with)
		}
	}
	if err := RemoveStale("unixgram", path); err != nil {
		t.Fatalf("nothing there: %v", err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	fails("another process")
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	c.Close() // leaves the name, as a process that is killed does
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if err := RemoveStale("unixgram", path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fails("no socket")
}
