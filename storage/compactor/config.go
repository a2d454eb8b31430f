package compactor

import (
	"errors"
	"time"

	"github.com/loki-go/loki-go/internal/units"
)

// Config holds the settings of a Compactor.
type Config struct {
	Enabled              bool          `yaml:"enabled" help:"merge index files and apply retention in this process; one process at a time does, whichever has the lease in the bucket"`
	Interval             time.Duration `yaml:"interval" help:"time between two looks at the bucket"`
	MinFiles             int           `yaml:"min-files" help:"index files of one tenant and day from which on they are merged at once"`
	MinAge               time.Duration `yaml:"min-age" help:"fewer index files are merged when the newest of them is this old"`
	DeleteDelay          time.Duration `yaml:"delete-delay" help:"how long index files that were merged stay for those who have listed them; Loki's resync_interval and two minutes at least"`
	RetentionInterval    time.Duration `yaml:"retention-interval" help:"time between two searches for chunks that retention does not keep"`
	RetentionDeleteDelay time.Duration `yaml:"retention-delete-delay" help:"how long chunks stay after the index has dropped them"`
	Concurrency          int           `yaml:"concurrency" help:"requests to the object store at a time"`
	MaxMemory            units.Bytes   `yaml:"max-memory" help:"memory for the index files that are merged at a time; that of the result comes on top, 400MB for 1,000,000 series"`
	LeaseTTL             time.Duration `yaml:"lease-ttl" help:"how long after the end of a process another one takes over"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Interval:             10 * time.Minute,
		MinFiles:             8,
		MinAge:               time.Hour,
		DeleteDelay:          15 * time.Minute,
		RetentionInterval:    time.Hour,
		RetentionDeleteDelay: 2 * time.Hour,
		Concurrency:          8,
		MaxMemory:            128 * units.MiB,
		LeaseTTL:             2 * time.Minute,
	}
}

// Validate returns all that is wrong with c.
func (c Config) Validate() []error {
	var errs []error
	check := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	check(c.Interval >= time.Second, "interval: must be 1s or more")
	check(c.MinFiles >= 2, "min-files: must be 2 or more")
	check(c.MinAge >= 0, "min-age: must not be negative")
	check(c.DeleteDelay >= time.Minute, "delete-delay: must be 1m or more")
	check(c.RetentionInterval >= time.Second, "retention-interval: must be 1s or more")
	check(c.RetentionDeleteDelay >= c.DeleteDelay, "retention-delete-delay: must not be less than delete-delay")
	check(c.Concurrency >= 1 && c.Concurrency <= 1000, "concurrency: must be from 1 to 1000")
	check(c.MaxMemory >= units.MiB, "max-memory: must be 1MB or more")
	check(c.LeaseTTL >= 10*time.Second, "lease-ttl: must be 10s or more")
	return errs
}
