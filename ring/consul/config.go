package consul

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/loki-go/loki-go/internal/tlsconf"
)

// Config holds the settings of a membership in Consul.
type Config struct {
	Prefix  string `yaml:"-"` // of the keys, without a slash at its ends
	Cluster string `yaml:"-"` // in every entry; entries of others are ignored

	Address    string `yaml:"address" help:"HOST:PORT of Consul, best that of the agent on the same machine"`
	Datacenter string `yaml:"datacenter" help:"datacenter of the members; empty: that of the agent"`
	Namespace  string `yaml:"namespace" help:"namespace (Consul Enterprise); empty: the token's"`
	Partition  string `yaml:"partition" help:"admin partition (Consul Enterprise); empty: the agent's"`
	Token      string `yaml:"token" secret:"true" help:"ACL token; it needs key:write on the prefix, session:write and service:write"`
	TokenFile  string `yaml:"token-file" help:"file with the ACL token, which is read again for every request; wins over token"`
	TLS        TLS    `yaml:"tls"`

	SessionTTL     time.Duration `yaml:"session-ttl" help:"an instance that has not been heard of for this long, at most twice this long, is no member any more; Consul takes 10s and more, unless its session_ttl_min is lower"`
	LeavingTimeout time.Duration `yaml:"leaving-timeout" help:"an instance that is LEAVING for longer than this is no member any more"`
	Timeout        time.Duration `yaml:"timeout" help:"longest time that Consul may take to answer a request"`
	Wait           time.Duration `yaml:"wait" help:"how long a request for changes waits for one at Consul; also how late it is noticed that Consul is gone without a trace"`
	MaxStale       time.Duration `yaml:"max-stale" help:"any Consul server may answer that has heard of its leader within this time, then only the leader; 0: the leader always"`
	Service        string        `yaml:"service" help:"service as which instances are registered with the agent, with a health check, so that Consul's UI shows them; empty: they are not"`
}

// TLS are the settings of encrypted connections.
type TLS struct {
	Enabled        bool `yaml:"enabled" help:"connect to Consul with TLS"`
	tlsconf.Client `yaml:",inline"`
}

// DefaultConfig returns the defaults: the agent on this machine.
func DefaultConfig() Config {
	return Config{
		Prefix: "loki-go/ring", Cluster: "loki-go", Address: "127.0.0.1:8500",
		SessionTTL: 15 * time.Second, LeavingTimeout: 15 * time.Minute, Timeout: 5 * time.Second,
		Wait: 30 * time.Second, MaxStale: 10 * time.Second, Service: "loki-go",
	}
}

// maxName bounds what becomes a part of keys and values.
const maxName = 128

// Validate returns everything that is wrong. Settings are named as below ring.
func (c Config) Validate() []error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(validPrefix(c.Prefix), "prefix: must be 1 to %d characters without a slash at its ends, got %q", maxName, c.Prefix)
	check(validText(c.Cluster), "cluster: must be 1 to %d printable characters, got %q", maxName, c.Cluster)
	check(validAddress(c.Address), "consul.address: %q is not HOST:PORT", c.Address)
	check(c.SessionTTL >= time.Second && c.SessionTTL <= 24*time.Hour, "consul.session-ttl: must be 1s to 24h")
	check(c.LeavingTimeout >= time.Second, "consul.leaving-timeout: must be at least 1s")
	check(c.Timeout > 0, "consul.timeout: must be above 0")
	check(c.Wait >= time.Second && c.Wait <= 10*time.Minute, "consul.wait: must be 1s to 10m")
	check(c.MaxStale >= 0, "consul.max-stale: must not be negative")
	check(c.Service == "" || validID(c.Service) == nil, "consul.service: must be letters, digits and dashes, got %q", c.Service)
	if c.TLS.Enabled {
		for _, err := range c.TLS.Validate() {
			errs = append(errs, fmt.Errorf("consul.tls.%w", err))
		}
	}
	return errs
}

func validAddress(a string) bool {
	host, port, err := net.SplitHostPort(a)
	if err != nil || host == "" {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n > 0 && n < 1<<16
}

func validPrefix(p string) bool {
	return validText(p) && !strings.HasPrefix(p, "/") && !strings.HasSuffix(p, "/")
}

func validText(s string) bool {
	return s != "" && len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) })
}

// validID returns what is wrong with an instance id, which is a part of a key,
// of a path and of a service's name.
func validID(id string) error {
	if id == "" || len(id) > maxName {
		return fmt.Errorf("an instance id has 1 to %d characters, got %d", maxName, len(id))
	}
	for _, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.', r == ':':
		default:
			return fmt.Errorf("an instance id has letters, digits and any of -_.: only, got %q", id)
		}
	}
	if strings.Trim(id, ".") == "" {
		return errors.New("an instance id is more than dots")
	}
	return nil
}

// renewEvery leaves two more attempts before the session can expire.
func (c Config) renewEvery() time.Duration { return c.SessionTTL / 3 }

// renewTimeout leaves time for another attempt when one gets no answer, as from a
// Consul that has no leader.
func (c Config) renewTimeout() time.Duration { return min(c.Timeout, c.SessionTTL/2) }

// expiry is when a session that is not renewed is gone for sure: Consul waits
// for twice the TTL.
func (c Config) expiry() time.Duration { return 2 * c.SessionTTL }
