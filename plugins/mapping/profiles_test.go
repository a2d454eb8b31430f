package mapping

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	settings "github.com/loki-go/loki-go/internal/config"
)

func loadProfiles(t *testing.T, yaml string, flags ...string) Profiles {
	t.Helper()
	p := DefaultProfiles()
	b, err := settings.Bind(&p)
	if err != nil {
		t.Fatal(err)
	}
	none := func(string) (string, bool) { return "", false }
	args, errs := settings.ParseArgs(flags, b)
	errs = append(errs, b.LoadYAML("f", []byte(yaml), none)...)
	if errs = append(errs, settings.Apply(args, none)...); len(errs) > 0 {
		t.Fatal(errs)
	}
	return p
}

func TestProfilesInherit(t *testing.T) {
	p := loadProfiles(t, `
label-keys: [level]
line-format: json
forward:
  label-keys: []
  tenant-keys: ["$TAG[0]"]
  line-format:
logstash: {default-labels: false, strip-line: true}
`, "-syslog.labels=a=b,c=d", "-fluentbit.line-keys=", "-line-format=logfmt")
	base := config(func(c *Config) { c.LabelKeys, c.LineFormat = []string{"level"}, "logfmt" })
	f := func(receiver string, change func(c *Config)) {
		t.Helper()
		want := base
		change(&want)
		if got := p.For(receiver); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\n got %+v\nwant %+v", receiver, got, want)
		}
	}
	f("forward", func(c *Config) { c.LabelKeys, c.TenantKeys = nil, []string{"$TAG[0]"} })
	f("json", func(c *Config) {})
	f("logstash", func(c *Config) { c.DefaultLabels, c.StripLine = false, true })
	f("fluentbit", func(c *Config) { c.LineKeys = nil })
	f("elasticsearch", func(c *Config) {})
	f("syslog", func(c *Config) { c.Labels = []string{"a=b", "c=d"} })
	f("otlp", func(c *Config) {})
	if errs := p.Validate(); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestProfilesValidate(t *testing.T) {
	p := loadProfiles(t, "line-keys: ['']\nforward: {labels: [x]}\njson: {line-format: xml}\n")
	var got []string
	for _, err := range p.Validate() {
		got = append(got, err.Error())
	}
	want := []string{
		"line-keys: empty path",
		`forward.labels: "x": want name=value, name=$path or $path`,
		`json.line-format: "xml" is not auto, raw, json or logfmt`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A receiver's section has every setting, under the same name.
func TestOverrideHasAllSettings(t *testing.T) {
	c, o := reflect.TypeFor[Config](), reflect.TypeFor[Override]()
	n := 0
	for i := range c.NumField() {
		f := c.Field(i)
		tag := f.Tag.Get("yaml")
		if tag == "-" {
			continue
		}
		n++
		of, ok := o.FieldByName(f.Name)
		if !ok || of.Tag.Get("yaml") != tag || of.Type != reflect.PointerTo(f.Type) {
			t.Errorf("%s of Config is %+v in Override", f.Name, of)
		}
	}
	if n != o.NumField() {
		t.Errorf("%d settings, %d in Override", n, o.NumField())
	}
	for _, name := range Receivers() {
		if new(Profiles).override(name) == nil {
			t.Errorf("%s has no section", name)
		}
	}
}

// A label map that a program sets does not outlive a file that a section names.
func TestProfilesLabelMap(t *testing.T) {
	p := loadProfiles(t, "forward: {label-map-file: x.json}")
	p.LabelMap = []byte(`{}`)
	if c := p.For("forward"); c.LabelMap != nil || c.LabelMapFile != "x.json" {
		t.Errorf("got %+v", c)
	}
	if c := p.For("json"); c.LabelMap == nil {
		t.Errorf("got %+v", c)
	}
}
