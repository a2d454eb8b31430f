package grpcpush

import (
	"fmt"

	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/proto/push"
)

// Config holds the limits of the receiver.
type Config struct {
	MaxRecvSize    units.Bytes `yaml:"max-recv-size" help:"largest message as sent, its body compressed; gRPC reads it whole before anything can refuse it"`
	MaxDecodedSize units.Bytes `yaml:"max-decoded-size" help:"largest push after decompression"`
	MaxStreams     int         `yaml:"max-streams" help:"most pushes at a time in one connection; others wait"`
}

// DefaultConfig returns limits far above what the Fluent Bit plugin sends,
// which splits its pushes at 8 MiB.
func DefaultConfig() Config {
	return Config{MaxRecvSize: 16 * units.MiB, MaxDecodedSize: 512 * units.MiB, MaxStreams: 128}
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	if c.MaxRecvSize <= 0 || c.MaxRecvSize > push.MaxData {
		errs = append(errs, fmt.Errorf("max-recv-size: must be from 1 to 1 GiB, is %d", c.MaxRecvSize))
	}
	if c.MaxDecodedSize <= 0 || c.MaxDecodedSize > push.MaxData {
		errs = append(errs, fmt.Errorf("max-decoded-size: must be from 1 to 1 GiB, is %d", c.MaxDecodedSize))
	}
	if c.MaxStreams <= 0 {
		errs = append(errs, fmt.Errorf("max-streams: must be more than 0, is %d", c.MaxStreams))
	}
	return errs
}
