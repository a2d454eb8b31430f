package mapping

import (
	"fmt"
	"reflect"
)

// Profiles are the settings of all receivers: the section mapping, and in it one
// section for each receiver with what is different there.
//
//	mapping:
//	  label-keys: [level]
//	  forward:
//	    label-keys: []           # no label level here
//	    tenant-keys: ["$TAG[0]"]
//
// A setting that a receiver's section does not give is that of the section
// mapping. One that it gives replaces it, lists as well: they are not joined. An
// empty list is given ([] in YAML, -mapping.forward.label-keys= as a flag), a
// key without a value is not.
type Profiles struct {
	Config        `yaml:",inline"`
	Forward       Override `yaml:"forward" like:"mapping" help:"any of the settings above, for the forward receiver only; what is not given is as above"`
	JSON          Override `yaml:"json" like:"mapping" help:"the same for /ingest/json"`
	Logstash      Override `yaml:"logstash" like:"mapping" help:"the same for /ingest/logstash"`
	FluentBit     Override `yaml:"fluentbit" like:"mapping" help:"the same for /ingest/fluentbit"`
	Elasticsearch Override `yaml:"elasticsearch" like:"mapping" help:"the same for the Elasticsearch bulk API"`
	Syslog        Override `yaml:"syslog" like:"mapping" help:"the same for syslog"`
}

// Override is what one receiver's section says; nil: as in the section around
// it. It has the fields of Config.
type Override struct {
	Labels               *[]string `yaml:"labels"`
	LabelKeys            *[]string `yaml:"label-keys"`
	LabelMapFile         *string   `yaml:"label-map-file"`
	DefaultLabels        *bool     `yaml:"default-labels"`
	AutoKubernetesLabels *bool     `yaml:"auto-kubernetes-labels"`
	RemoveKeys           *[]string `yaml:"remove-keys"`
	LineKeys             *[]string `yaml:"line-keys"`
	LineFormat           *string   `yaml:"line-format"`
	StripLine            *bool     `yaml:"strip-line"`
	DropSingleKey        *string   `yaml:"drop-single-key"`
	StructuredMetadata   *string   `yaml:"structured-metadata"`
	MetadataKeys         *[]string `yaml:"metadata-keys"`
	MetadataMapKeys      *[]string `yaml:"metadata-map-keys"`
	TenantKeys           *[]string `yaml:"tenant-keys"`
}

// DefaultProfiles returns DefaultConfig for all receivers.
func DefaultProfiles() Profiles { return Profiles{Config: DefaultConfig()} }

// Receivers returns the names of those that have a section.
func Receivers() []string {
	return []string{"forward", "json", "logstash", "fluentbit", "elasticsearch", "syslog"}
}

func (p *Profiles) override(receiver string) *Override {
	switch receiver {
	case "forward":
		return &p.Forward
	case "json":
		return &p.JSON
	case "logstash":
		return &p.Logstash
	case "fluentbit":
		return &p.FluentBit
	case "elasticsearch":
		return &p.Elasticsearch
	case "syslog":
		return &p.Syslog
	}
	return nil
}

// For returns the settings of a receiver: those of the section mapping for one
// that has no section of its own.
func (p Profiles) For(receiver string) Config {
	c := p.Config
	if o := p.override(receiver); o != nil {
		o.apply(&c)
	}
	return c
}

func (o *Override) apply(c *Config) {
	from, to := reflect.ValueOf(o).Elem(), reflect.ValueOf(c).Elem()
	for i := range from.NumField() {
		if f := from.Field(i); !f.IsNil() {
			to.FieldByName(from.Type().Field(i).Name).Set(f.Elem())
		}
	}
	if o.LabelMapFile != nil {
		c.LabelMap = nil
	}
}

// Validate returns every problem of p; those of a receiver's section start with
// its name.
func (p Profiles) Validate() []error {
	errs := p.Config.Validate()
	known := map[string]bool{}
	for _, err := range errs {
		known[err.Error()] = true
	}
	for _, name := range Receivers() {
		if *p.override(name) == (Override{}) {
			continue
		}
		for _, err := range p.For(name).Validate() {
			if !known[err.Error()] {
				errs = append(errs, fmt.Errorf("%s.%w", name, err))
			}
		}
	}
	return errs
}
