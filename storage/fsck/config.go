package fsck

import (
	"errors"
	"fmt"
	"time"

	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/storage/compactor"
	"github.com/loki-go/loki-go/storage/objstore"
)

// Config says what to do.
type Config struct {
	Tenant      string        `yaml:"tenant" help:"look at this tenant only"`
	Repair      bool          `yaml:"repair" help:"list chunks that no index file lists, take chunks that are gone out of the index, move index files that cannot be read to loki-go/damaged; nothing else is deleted"`
	Quick       bool          `yaml:"quick" help:"compare lists only, do not read the chunks"`
	Grace       time.Duration `yaml:"grace" help:"how long a chunk may wait for its index file, which is written after it"`
	Concurrency int           `yaml:"concurrency" help:"requests to the object store at a time"`
	MaxMemory   units.Bytes   `yaml:"max-memory" help:"memory for what index files list; a bucket with more is looked at in parts"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{Grace: 3 * time.Hour, Concurrency: 8, MaxMemory: 256 * units.MiB}
}

// Validate returns every problem of c.
func (c Config) Validate() []error {
	var errs []error
	if c.Grace < 0 {
		errs = append(errs, errors.New("grace: must not be negative"))
	}
	if c.Concurrency < 1 || c.Concurrency > maxConcurrency {
		errs = append(errs, fmt.Errorf("concurrency: must be from 1 to %d", maxConcurrency))
	}
	if c.MaxMemory < units.MiB {
		errs = append(errs, errors.New("max-memory: must be 1MB or more"))
	}
	return errs
}

const (
	maxConcurrency = 1000
	// listingBytes is what a listing takes at most while the list of them
	// grows.
	listingBytes = 20
	// maxGroup is about how many names of chunks one request lists.
	maxGroup = 16 << 10
	// maxRebuild is how many chunks wait to be listed.
	maxRebuild = 20_000
	// maxTables bounds over how many days a chunk may reach.
	maxTables = 1000
	// maxRelists bounds how often a table is listed again because files that
	// were listed are gone.
	maxRelists = 20
)

// Deps is what a Checker works on. Bucket and Report must be set.
type Deps struct {
	Bucket    objstore.Bucket
	FileKeys  bool                // chunks are named as Loki's filesystem client does
	Retention compactor.Retention // tells what has expired; nil: nothing does
	Now       func() time.Time    // time.Now if nil
	// Report gets every finding, one after the other.
	Report func(Finding)
}
