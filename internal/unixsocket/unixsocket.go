// Package unixsocket has what it takes to listen at a Unix socket whose name
// may be left over from a process that has ended.
package unixsocket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// RemoveStale removes the socket at path if nobody listens there. Network is
// unix or unixgram. That there is nothing is no error; that there is something
// else is one, and so is a process that listens.
func RemoveStale(network, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for a unix socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen %s %s: there is something that is no socket", network, path)
	}
	c, err := net.DialTimeout(network, path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("listen %s %s: another process listens there", network, path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("look whether the unix socket is in use: %w", err)
	}
	return os.Remove(path)
}
