package httpjson

import (
	"fmt"

	"github.com/loki-go/loki-go/internal/units"
)

// Config holds the limits of the receiver.
type Config struct {
	MaxBody    units.Bytes `yaml:"max-body" help:"largest request body as sent"`
	MaxDecoded units.Bytes `yaml:"max-decoded" help:"largest request body after decompression; what it maps to may be twice that"`
	MaxEvents  int         `yaml:"max-events" help:"most events in one request"`
	TagHeaders []string    `yaml:"tag-headers" help:"request headers that can carry the tag of all events, the first that is there is it"`
}

// DefaultConfig returns limits that are far above what agents send: Logstash
// has 125 events in a request, Fluent Bit 2 MB.
func DefaultConfig() Config {
	return Config{
		MaxBody: 32 * units.MiB, MaxDecoded: 64 * units.MiB, MaxEvents: 250_000,
		TagHeaders: []string{"Fluent-Tag", "X-Tag", "X-FLB-Tag"},
	}
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	if c.MaxBody <= 0 {
		errs = append(errs, fmt.Errorf("max-body: must be more than 0, is %d", c.MaxBody))
	}
	// The offsets in a batch are 32 bits wide, and it can be twice as large.
	if c.MaxDecoded <= 0 || c.MaxDecoded > units.GiB {
		errs = append(errs, fmt.Errorf("max-decoded: must be from 1 to 1 GiB, is %d", c.MaxDecoded))
	}
	if c.MaxEvents <= 0 {
		errs = append(errs, fmt.Errorf("max-events: must be more than 0, is %d", c.MaxEvents))
	}
	return errs
}
