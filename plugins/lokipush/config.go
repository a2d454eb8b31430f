package lokipush

import (
	"fmt"

	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/proto/push"
)

// Config holds the limits of the receiver.
type Config struct {
	MaxRecvSize    units.Bytes `yaml:"max-recv-size" help:"largest push as sent, compressed"`
	MaxDecodedSize units.Bytes `yaml:"max-decoded-size" help:"largest push after decompression"`
}

// DefaultConfig returns Loki's limit for what is sent, and a tenth of its
// limit for what that may decompress to.
func DefaultConfig() Config {
	return Config{MaxRecvSize: 100 * units.MiB, MaxDecodedSize: 512 * units.MiB}
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	if c.MaxRecvSize <= 0 {
		errs = append(errs, fmt.Errorf("max-recv-size: must be more than 0, is %d", c.MaxRecvSize))
	}
	if c.MaxDecodedSize <= 0 || c.MaxDecodedSize > push.MaxData {
		errs = append(errs, fmt.Errorf("max-decoded-size: must be from 1 to 1 GiB, is %d", c.MaxDecodedSize))
	}
	return errs
}
