package chunkcache

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/internal/units"
)

// Types of a cache.
const (
	None      = "none"
	Memcached = "memcached"
	Redis     = "redis"
)

// Placements.
const (
	Rendezvous = "rendezvous"
	Loki       = "loki"
)

// Config holds the settings of a Cache.
type Config struct {
	Type        string        `yaml:"type" help:"cache of chunks that all processes share: none, memcached or redis"`
	Addresses   []string      `yaml:"addresses" help:"servers, HOST:PORT; chunks are spread over them"`
	Placement   string        `yaml:"placement" help:"which of several servers has a chunk: rendezvous (a server that comes or goes moves its own share only) or loki (where Loki's memcached client looks, to share the servers with it)"`
	Timeout     time.Duration `yaml:"timeout" help:"longest time that a request to a server may take, with connecting; then the object store is asked"`
	Failures    int           `yaml:"failures" help:"failed requests in a row after which a server is left alone"`
	RetryAfter  time.Duration `yaml:"retry-after" help:"pause between two looks at a server that is left alone"`
	Expiration  time.Duration `yaml:"expiration" help:"how long chunks stay in the cache; 0: until it needs the room"`
	MaxItemSize units.Bytes   `yaml:"max-item-size" help:"largest object that is cached; 0: for memcached what it takes with its default -I of 1MB, for redis 64MB"`
	QueueSize   units.Bytes   `yaml:"queue-size" help:"memory for chunks that wait to be written to the cache; those that find no room are not cached"`
	Connections int           `yaml:"connections" help:"connections to each server that are kept"`
	TLS         TLS           `yaml:"tls"`
	Redis       RedisConfig   `yaml:"redis"`
}

// TLS are the settings of encrypted connections.
type TLS struct {
	Enabled        bool `yaml:"enabled" help:"connect to the servers with TLS"`
	tlsconf.Client `yaml:",inline"`
}

// RedisConfig are the settings that only Redis has.
type RedisConfig struct {
	Username string `yaml:"username" help:"user; empty: the default one"`
	Password string `yaml:"password" secret:"true" help:"password; empty: none is sent"`
	DB       int    `yaml:"db" help:"number of the database"`
}

// DefaultConfig returns the defaults: no cache.
func DefaultConfig() Config {
	return Config{
		Type: None, Placement: Rendezvous, Timeout: 200 * time.Millisecond, Failures: 3, RetryAfter: 5 * time.Second,
		Expiration: 24 * time.Hour, QueueSize: 64 * units.MiB, Connections: 8,
	}
}

const (
	// memcachedItem is the default of memcached's -I, less what an item takes
	// beside its value: a header, the key of at most 250 bytes, a line end.
	memcachedItem = units.MiB - 512
	redisItem     = 64 * units.MiB
	// largestItem bounds what a server can make a reader allocate; it is also
	// what Redis takes at most.
	largestItem = 512 * units.MiB
	// maxServers bounds the work of placing a key.
	maxServers = 1024
)

// maxItem returns the largest object that is cached.
func (c Config) maxItem() int {
	switch {
	case c.MaxItemSize > 0:
		return int(c.MaxItemSize)
	case c.Type == Memcached:
		return int(memcachedItem)
	}
	return int(redisItem)
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !slices.Contains([]string{None, Memcached, Redis}, c.Type) {
		bad("type: %q is not none, memcached or redis", c.Type)
	}
	if !slices.Contains([]string{Rendezvous, Loki}, c.Placement) {
		bad("placement: %q is not rendezvous or loki", c.Placement)
	}
	if c.Timeout <= 0 {
		bad("timeout: must be above 0")
	}
	if c.Failures < 1 {
		bad("failures: must be 1 or more")
	}
	if c.RetryAfter <= 0 {
		bad("retry-after: must be above 0")
	}
	if c.Expiration < 0 || c.Expiration > 0 && c.Expiration < time.Second {
		bad("expiration: must be 0, or 1s or more")
	}
	if c.MaxItemSize < 0 || c.MaxItemSize > largestItem {
		bad("max-item-size: must be from 0 to 512MB")
	}
	if c.QueueSize < 0 {
		bad("queue-size: must not be negative")
	}
	if c.Connections < 1 {
		bad("connections: must be 1 or more")
	}
	if c.Redis.DB < 0 {
		bad("redis.db: must not be negative")
	}
	for _, err := range c.TLS.Validate() {
		bad("tls.%w", err)
	}
	if c.Type != None {
		errs = append(errs, c.checkAddresses()...)
	}
	return errs
}

func (c Config) checkAddresses() []error {
	var errs []error
	if len(c.Addresses) == 0 {
		errs = append(errs, errors.New("addresses: must be set"))
	}
	if len(c.Addresses) > maxServers {
		errs = append(errs, fmt.Errorf("addresses: more than %d", maxServers))
	}
	seen := map[string]bool{}
	for _, a := range c.Addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil || host == "" || port == "" {
			errs = append(errs, fmt.Errorf("addresses: %q is not HOST:PORT", a))
		}
		if seen[a] {
			errs = append(errs, fmt.Errorf("addresses: %q is there twice", a))
		}
		seen[a] = true
	}
	return errs
}
