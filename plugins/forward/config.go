package forward

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/tlsconf"
	"github.com/loki-go/loki-go/internal/units"
)

// Config says where the receiver listens and what it allows.
type Config struct {
	Listen           []string       `yaml:"listen" help:"addresses of the Fluentd forward receiver, TCP and UDP; empty: off"`
	UnixListen       string         `yaml:"unix-listen" help:"path of a Unix socket to listen at, too; empty: none"`
	UnixMode         string         `yaml:"unix-mode" help:"permissions of the Unix socket, in octal"`
	Heartbeat        bool           `yaml:"heartbeat" help:"answer Fluentd's UDP heartbeats at the same ports"`
	KeepAlive        time.Duration  `yaml:"keepalive" help:"silence after which TCP looks whether a client is still there; 0: never"`
	TLS              tlsconf.Server `yaml:"tls"`
	SharedKey        string         `yaml:"shared-key" secret:"true" help:"key that clients must know; empty, and no users: clients need not identify themselves"`
	Users            []string       `yaml:"users" secret:"true" help:"users of whom clients must be one, as name:password"`
	UserTenants      []string       `yaml:"user-tenants" help:"tenants of users, as name=tenant; of others it is that of the receiver"`
	Hostname         string         `yaml:"hostname" help:"name by which clients know this server, which no agent may have itself; empty: loki-go. and the host's name"`
	HandshakeTimeout time.Duration  `yaml:"handshake-timeout" help:"time for TLS and for a client to identify itself"`
	MaxUnidentified  int            `yaml:"max-unidentified" help:"most connections at a time that have not got that far"`
	Tenant           string         `yaml:"tenant" help:"tenant of all that arrives here, which the protocol cannot name"`
	MaxMessage       units.Bytes    `yaml:"max-message" help:"largest message as sent"`
	MaxDecompressed  units.Bytes    `yaml:"max-decompressed" help:"largest message after decompression, and after mapping"`
	MaxConnections   int            `yaml:"max-connections" help:"most connections at a time"`
	ReadTimeout      time.Duration  `yaml:"read-timeout" help:"time that a message may take to arrive once it has begun, and a second more for each 64 KB of it"`
	IdleTimeout      time.Duration  `yaml:"idle-timeout" help:"time after which a connection without messages is closed; 0: never"`
	Hold             time.Duration  `yaml:"hold" help:"how long storing is tried again before a sender that wants an ack is left without one"`
	DrainTimeout     time.Duration  `yaml:"drain-timeout" help:"how long a shutdown reads what has been sent already"`
}

// DefaultConfig returns the protocol's port, and limits above what agents send:
// Fluent Bit has 2 MB in a message, Fluentd 8 MB unless told otherwise. Fluent
// Bit keeps idle connections for seconds, Fluentd and loggers for as long as
// they run.
func DefaultConfig() Config {
	return Config{
		Listen:    []string{":24224"},
		UnixMode:  "0660",
		Heartbeat: true,
		KeepAlive: time.Minute,
		// Fluentd waits a minute for its handshake.
		HandshakeTimeout: 10 * time.Second,
		MaxUnidentified:  1024,
		MaxMessage:       64 * units.MiB,
		MaxDecompressed:  256 * units.MiB,
		MaxConnections:   4096,
		ReadTimeout:      30 * time.Second,
		// Fluentd waits 190 s for an ack, Fluent Bit for ever, and gives up a
		// chunk after one retry.
		Hold:         30 * time.Second,
		DrainTimeout: 5 * time.Second,
	}
}

// On reports whether there is anything to listen at.
func (c Config) On() bool { return len(c.Listen) > 0 || c.UnixListen != "" }

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
	positive := func(name string, n int64, text any) {
		if n <= 0 {
			errs = append(errs, fmt.Errorf("%s: must be more than 0, is %v", name, text))
		}
	}
	positive("max-connections", int64(c.MaxConnections), c.MaxConnections)
	positive("max-unidentified", int64(c.MaxUnidentified), c.MaxUnidentified)
	positive("read-timeout", int64(c.ReadTimeout), c.ReadTimeout)
	positive("handshake-timeout", int64(c.HandshakeTimeout), c.HandshakeTimeout)
	notNegative := func(name string, d time.Duration) {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s: must not be negative, is %s", name, d))
		}
	}
	notNegative("keepalive", c.KeepAlive)
	notNegative("idle-timeout", c.IdleTimeout)
	notNegative("hold", c.Hold)
	notNegative("drain-timeout", c.DrainTimeout)
	for _, err := range c.TLS.Validate() {
		errs = append(errs, fmt.Errorf("tls.%w", err))
	}
	if _, err := c.unixMode(); err != nil {
		errs = append(errs, err)
	}
	if len(c.Hostname) > maxHostname {
		errs = append(errs, fmt.Errorf("hostname: has %d bytes, more than %d", len(c.Hostname), maxHostname))
	}
	_, userErrs := c.users()
	return append(errs, userErrs...)
}

// maxHostname keeps a PONG below the 512 bytes that Fluentd reads at once.
const maxHostname = 255

func (c Config) unixMode() (os.FileMode, error) {
	v, err := strconv.ParseUint(c.UnixMode, 8, 32)
	if err != nil || v > 0o777 {
		return 0, fmt.Errorf("unix-mode: %q is not a mode from 000 to 777", c.UnixMode)
	}
	return os.FileMode(v), nil
}

// users returns who may send, nil if anybody may.
func (c Config) users() (map[string]user, []error) {
	var users map[string]user
	var errs []error
	for i, s := range c.Users {
		name, password, ok := strings.Cut(s, ":")
		_, twice := users[name]
		switch {
		case !ok || name == "": // not to be shown, it may be a password
			errs = append(errs, fmt.Errorf("users: number %d is not of the form name:password", i+1))
			continue
		case twice:
			errs = append(errs, fmt.Errorf("users: %q is there twice", name))
		case users == nil:
			users = map[string]user{}
		}
		users[name] = user{password: password}
	}
	for _, s := range c.UserTenants {
		name, tenant, ok := strings.Cut(s, "=")
		u, known := users[name]
		switch {
		case !ok || tenant == "":
			errs = append(errs, fmt.Errorf("user-tenants: %q is not of the form name=tenant", s))
		case !known:
			errs = append(errs, fmt.Errorf("user-tenants: %q is not among the users", name))
		case u.tenant != "":
			errs = append(errs, fmt.Errorf("user-tenants: %q is there twice", name))
		default:
			u.tenant = tenant
			users[name] = u
		}
	}
	return users, errs
}
