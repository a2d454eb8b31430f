package httpjson

import (
	"fmt"

	"github.com/loki-go/loki-go/internal/units"
)

// Config holds the limits of the receiver.
type Config struct {
	MaxBody    units.Bytes `yaml:"max-body" help:"largest request body as sent; where refusals are kept as dead letters, of bodies in zstd and snappy only, see max-request"`
	MaxDecoded units.Bytes `yaml:"max-decoded" help:"largest request body after decompression that is held in memory; what it maps to may be twice that"`
	MaxRequest units.Bytes `yaml:"max-request" help:"largest JSON body after decompression where refusals are kept as dead letters (Logstash, Fluent Bit); what is above max-decoded is stored in pieces of that size"`
	MaxEvents  int         `yaml:"max-events" help:"most events in one request; where refusals are kept as dead letters, in one push"`
	TagHeaders []string    `yaml:"tag-headers" help:"request headers that can carry the tag of all events (Fluent Bit's header_tag), the first that is there is it"`
	DateKeys   []string    `yaml:"date-keys" help:"names that Fluent Bit's json_date_key may have, beside date, @timestamp, timestamp, time, ts and _time"`
}

// DefaultConfig returns limits that are far above what agents send: Logstash
// has 125 events in a request, Fluent Bit 2 MB.
func DefaultConfig() Config {
	return Config{
		MaxBody: 32 * units.MiB, MaxDecoded: 64 * units.MiB, MaxRequest: units.GiB, MaxEvents: 250_000,
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
	if c.MaxRequest < c.MaxDecoded {
		errs = append(errs, fmt.Errorf("max-request: must be at least max-decoded, %d, is %d", c.MaxDecoded, c.MaxRequest))
	}
	if c.MaxEvents <= 0 {
		errs = append(errs, fmt.Errorf("max-events: must be more than 0, is %d", c.MaxEvents))
	}
	return errs
}
