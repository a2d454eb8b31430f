package elasticsearch

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/loki-go/loki-go/internal/units"
)

// Config holds the settings of the receiver.
type Config struct {
	MaxBody           units.Bytes `yaml:"max-body" help:"largest request body as sent"`
	MaxDecoded        units.Bytes `yaml:"max-decoded" help:"largest request body after decompression; what it maps to may be twice that"`
	MaxDocument       units.Bytes `yaml:"max-document" help:"largest document as JSON; a larger one is refused alone"`
	MaxActions        int         `yaml:"max-actions" help:"most actions in one _bulk request"`
	PathPrefixes      []string    `yaml:"path-prefixes" help:"paths below which everything is served, too, for outputs that have a path set"`
	Version           string      `yaml:"version" help:"version that clients are told; Beats ask for one that is not older than they are, or for allow_older_versions"`
	KeepRefusedAgents []string    `yaml:"keep-refused-agents" help:"beginnings of the User-Agent of clients that lose single documents which are refused: those are kept as dead letters, or the whole request is refused for a retry; - stands for no User-Agent"`
}

// DefaultConfig returns limits that are far above what agents send: Logstash
// has 20 MiB in a request, Vector 10, Fluent Bit 2.
func DefaultConfig() Config {
	return Config{
		MaxBody: 32 * units.MiB, MaxDecoded: 64 * units.MiB, MaxDocument: 8 * units.MiB, MaxActions: 250_000,
		PathPrefixes:      []string{"/elasticsearch", "/insert/elasticsearch"},
		Version:           "8.19.0",
		KeepRefusedAgents: []string{"Fluent-Bit", "Vector", noAgent},
	}
}

// noAgent stands for clients without a User-Agent.
const noAgent = "-"

var version = regexp.MustCompile(`^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}$`)

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.MaxBody > 0, "max-body: must be more than 0, is %d", c.MaxBody)
	// The offsets in a batch are 32 bits wide, and it can be twice as large.
	check(c.MaxDecoded > 0 && c.MaxDecoded <= units.GiB, "max-decoded: must be from 1 to 1 GiB, is %d", c.MaxDecoded)
	check(c.MaxDocument > 0, "max-document: must be more than 0, is %d", c.MaxDocument)
	check(c.MaxActions > 0, "max-actions: must be more than 0, is %d", c.MaxActions)
	check(version.MatchString(c.Version), "version: %q is not of the form 8.19.0", c.Version)
	for _, p := range c.PathPrefixes {
		check(len(p) > 1 && p[0] == '/' && !strings.HasSuffix(p, "/") && !strings.Contains(p, "//"),
			"path-prefixes: %q must start with a slash and not end with one", p)
	}
	for _, a := range c.KeepRefusedAgents {
		check(a != "", "keep-refused-agents: empty name; %s stands for clients without one", noAgent)
	}
	return errs
}
