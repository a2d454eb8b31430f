package forward

import (
	"fmt"
	"time"

	"github.com/loki-go/loki-go/internal/units"
)

// Config says where the receiver listens and what it allows.
type Config struct {
	Listen          string        `yaml:"listen" help:"address of the Fluentd forward receiver, TCP and UDP; empty: off"`
	Heartbeat       bool          `yaml:"heartbeat" help:"answer Fluentd's UDP heartbeats at the same port"`
	Tenant          string        `yaml:"tenant" help:"tenant of all that arrives here, which the protocol cannot name"`
	MaxMessage      units.Bytes   `yaml:"max-message" help:"largest message as sent"`
	MaxDecompressed units.Bytes   `yaml:"max-decompressed" help:"largest message after decompression, and after mapping"`
	MaxConnections  int           `yaml:"max-connections" help:"most connections at a time"`
	ReadTimeout     time.Duration `yaml:"read-timeout" help:"time that a message may take to arrive once it has begun, and a second more for each 64 KB of it"`
	IdleTimeout     time.Duration `yaml:"idle-timeout" help:"time after which a connection without messages is closed; 0: never"`
	Hold            time.Duration `yaml:"hold" help:"how long storing is tried again before a sender that wants an ack is left without one"`
	DrainTimeout    time.Duration `yaml:"drain-timeout" help:"how long a shutdown reads what has been sent already"`
}

// DefaultConfig returns the protocol's port, and limits above what agents send:
// Fluent Bit has 2 MB in a message, Fluentd 8 MB unless told otherwise. Fluent
// Bit keeps idle connections for seconds, Fluentd and loggers for as long as
// they run.
func DefaultConfig() Config {
	return Config{
		Listen:          ":24224",
		Heartbeat:       true,
		MaxMessage:      64 * units.MiB,
		MaxDecompressed: 256 * units.MiB,
		MaxConnections:  4096,
		ReadTimeout:     30 * time.Second,
		// Fluentd waits 190 s for an ack, Fluent Bit for ever, and gives up a
		// chunk after one retry.
		Hold:         30 * time.Second,
		DrainTimeout: 5 * time.Second,
	}
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	size := func(name string, v units.Bytes) {
		if v < 64*units.KiB || v > units.GiB {
			errs = append(errs, fmt.Errorf("%s: must be from 64KB to 1GB, is %s", name, v))
		}
	}
	size("max-message", c.MaxMessage)
	size("max-decompressed", c.MaxDecompressed)
	if c.MaxConnections <= 0 {
		errs = append(errs, fmt.Errorf("max-connections: must be more than 0, is %d", c.MaxConnections))
	}
	if c.ReadTimeout <= 0 {
		errs = append(errs, fmt.Errorf("read-timeout: must be more than 0, is %s", c.ReadTimeout))
	}
	notNegative := func(name string, d time.Duration) {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s: must not be negative, is %s", name, d))
		}
	}
	notNegative("idle-timeout", c.IdleTimeout)
	notNegative("hold", c.Hold)
	notNegative("drain-timeout", c.DrainTimeout)
	return errs
}
