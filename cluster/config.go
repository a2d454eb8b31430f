package cluster

import (
	"fmt"
	"time"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/proto/push"
)

// Config has the settings of both sides.
type Config struct {
	MaxInflight  units.Bytes   `yaml:"max-inflight" help:"memory of an ingester for pushes of gateways that are being stored; others wait in the network"`
	MaxQueued    units.Bytes   `yaml:"max-queued" help:"pushes that a gateway keeps in memory for one ingester; beyond that the ingester counts as too slow"`
	MaxSelects   int           `yaml:"max-selects" help:"queries of other processes that an ingester answers at a time; others get an error"`
	SelectIdle   time.Duration `yaml:"select-idle" help:"after this time without a request an ingester forgets what a query has selected"`
	DialTimeout  time.Duration `yaml:"dial-timeout" help:"how long a connection to an ingester may take"`
	QueryTimeout time.Duration `yaml:"query-timeout" help:"how long an ingester may take to answer one request of a query"`
	Secret       string        `yaml:"secret" secret:"true" help:"what gateways and queriers show to ingesters, the same in all processes; empty: an ingester answers everyone who reaches its gRPC port"`
	TLS          TLS           `yaml:"tls"`
}

// TLS are the settings of connections to ingesters.
type TLS struct {
	Enabled        bool `yaml:"enabled" help:"true: connections to ingesters use TLS, as their server.grpc-tls must say"`
	tlsconf.Client `yaml:",inline"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		MaxInflight:  256 * units.MiB,
		MaxQueued:    64 * units.MiB,
		MaxSelects:   256,
		SelectIdle:   5 * time.Minute,
		DialTimeout:  2 * time.Second,
		QueryTimeout: 30 * time.Second,
	}
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.MaxInflight >= units.MiB, "max-inflight: must be at least 1MB")
	check(c.MaxQueued >= units.MiB, "max-queued: must be at least 1MB")
	check(c.MaxSelects > 0, "max-selects: must be above 0")
	check(c.SelectIdle > 0, "select-idle: must be above 0")
	check(c.DialTimeout > 0, "dial-timeout: must be above 0")
	check(c.QueryTimeout > 0, "query-timeout: must be above 0")
	return append(errs, c.TLS.Validate()...)
}

// Sizes of messages.
const (
	// maxPush is the largest push in a message: what a gateway's client may send,
	// as it comes with entries compressed.
	maxPush = push.MaxData/4 + 1<<20
	// together is how much of pushes goes into one message.
	together = 1 << 20
	// maxAnswer is the largest answer to a query: a block and its symbols.
	maxAnswer = 256 << 20
)
