package pushclient

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// CheckAddress reports what is wrong with a HOST:PORT.
func CheckAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("address %q: want HOST:PORT", a)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("address %q: port must be a number from 1 to 65535", a)
	}
	if host == "" || strings.ContainsAny(host, "/ ,@") {
		return fmt.Errorf("address %q: want HOST:PORT", a)
	}
	return nil
}
