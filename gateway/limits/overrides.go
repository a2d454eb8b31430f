package limits

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/loki-go/loki-go/internal/config"
)

// Config has the limits of all tenants and says where those of single tenants
// are.
type Config struct {
	Limits         `yaml:",inline"`
	OverridesFile  string        `yaml:"overrides-file" help:"YAML file with limits of single tenants: overrides: {TENANT: {NAME: VALUE}}"`
	OverridesCheck time.Duration `yaml:"overrides-check" help:"how often to look for changes in the overrides file; 0 switches it off"`
}

// DefaultConfig returns Loki's defaults and no overrides.
func DefaultConfig() Config {
	return Config{Limits: Default(), OverridesCheck: 10 * time.Second}
}

// Validate returns everything that is wrong. It does not read the file.
func (c Config) Validate() []error {
	errs := c.Limits.Validate()
	if c.OverridesCheck < 0 {
		errs = append(errs, errors.New("overrides-check: must not be negative"))
	}
	return errs
}

// Overrides knows the limits of every tenant. It is safe for concurrent use.
type Overrides struct {
	cfg    Config
	log    *slog.Logger
	getenv config.Getenv

	current atomic.Pointer[set]

	mu   sync.Mutex // held during a reload
	text []byte     // of the file that current was made from
}

type set struct {
	defaults *Limits
	tenants  map[string]*Limits
}

// New returns the limits that cfg describes; it reads the overrides file if one
// is named. getenv expands ${NAME} in it (nil: nothing is set).
func New(cfg Config, getenv config.Getenv, log *slog.Logger) (*Overrides, error) {
	o := &Overrides{cfg: cfg, log: log, getenv: getenv}
	if o.getenv == nil {
		o.getenv = func(string) (string, bool) { return "", false }
	}
	defaults := cfg.Limits
	o.current.Store(&set{defaults: &defaults})
	if err := o.Reload(); err != nil {
		return nil, err
	}
	return o, nil
}

// Static returns limits that are the same for every tenant.
func Static(l Limits) *Overrides {
	o := &Overrides{}
	o.current.Store(&set{defaults: &l})
	return o
}

// For returns the limits of a tenant. They must not be changed.
func (o *Overrides) For(tenant string) *Limits {
	s := o.current.Load()
	if l, ok := s.tenants[tenant]; ok {
		return l
	}
	return s.defaults
}

// Reload reads the overrides file again. All of it takes effect at once, or,
// if anything in it is wrong, nothing: the limits stay as they were. The error
// names every problem with its line.
func (o *Overrides) Reload() error {
	_, err := o.reload(true)
	return err
}

// reload says whether the limits were set anew. Without force it looks no
// further than to see that the file is as it was.
func (o *Overrides) reload(force bool) (bool, error) {
	if o.cfg.OverridesFile == "" {
		return false, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	text, err := os.ReadFile(o.cfg.OverridesFile)
	if err != nil {
		return false, fmt.Errorf("limits: read overrides: %w", err)
	}
	if !force && bytes.Equal(text, o.text) {
		return false, nil
	}
	tenants, err := o.parse(text)
	if err != nil {
		return false, err
	}
	old := o.current.Load()
	for name, l := range tenants {
		// An unchanged tenant keeps its pointer, and so what others remember
		// for it.
		if was, ok := old.tenants[name]; ok && reflect.DeepEqual(was, l) {
			tenants[name] = was
		}
	}
	o.current.Store(&set{defaults: old.defaults, tenants: tenants})
	o.text = text
	return true, nil
}

func (o *Overrides) parse(text []byte) (map[string]*Limits, error) {
	file := o.cfg.OverridesFile
	var doc yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil // an empty file
	} else if err != nil {
		return nil, fmt.Errorf("limits: parse %s: %w", file, err)
	}
	p := parser{file: file, getenv: o.getenv, defaults: o.cfg.Limits, tenants: make(map[string]*Limits)}
	p.each(doc.Content[0], "the file", func(key, val *yaml.Node) {
		if key.Value != "overrides" {
			p.failf(key, "unknown key %s; tenants go under overrides", key.Value)
			return
		}
		p.each(val, "overrides", p.tenant)
	})
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return p.tenants, nil
}

type parser struct {
	file     string
	getenv   config.Getenv
	defaults Limits
	tenants  map[string]*Limits
	errs     []error
}

func (p *parser) failf(n *yaml.Node, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s:%d: %s", p.file, n.Line, fmt.Sprintf(format, args...)))
}

// each calls f for the pairs of a mapping. Null is an empty one.
func (p *parser) each(n *yaml.Node, what string, f func(key, val *yaml.Node)) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.failf(n, "%s must be a mapping", what)
		return
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if line, ok := seen[key.Value]; ok {
			p.failf(key, "%s is already given in line %d", key.Value, line)
			continue
		}
		seen[key.Value] = key.Line
		f(key, n.Content[i+1])
	}
}

func (p *parser) tenant(key, val *yaml.Node) {
	l := p.defaults
	b, err := config.Bind(&l)
	if err != nil {
		p.failf(key, "tenant %s: %v", key.Value, err)
		return
	}
	errs := b.LoadNode(p.file, val, p.getenv)
	if len(errs) == 0 {
		for _, err := range l.Validate() {
			p.failf(key, "tenant %s: %v", key.Value, err)
		}
	}
	p.errs = append(p.errs, errs...)
	p.tenants[key.Value] = &l
}

// Run follows changes of the overrides file until ctx ends. A file that cannot
// be used is reported once for each of its contents.
func (o *Overrides) Run(ctx context.Context) {
	if o.cfg.OverridesFile == "" || o.cfg.OverridesCheck <= 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(o.cfg.OverridesCheck)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			last = o.check(last)
		}
	}
}

// check reloads a file that changed; it returns the error that was reported.
func (o *Overrides) check(last string) string {
	changed, err := o.reload(false)
	switch {
	case err != nil && err.Error() != last:
		o.log.Error("limits stay as they were, the overrides file cannot be used", "err", err)
		return err.Error()
	case err != nil:
		return last
	case changed || last != "":
		o.log.Info("limits read again", "file", o.cfg.OverridesFile, "tenants", len(o.current.Load().tenants))
	}
	return ""
}
