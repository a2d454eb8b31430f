package flush

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/plugins/grpcpush/pushclient"
	"github.com/loki-go/loki-go/plugins/mapping"
)

// Config is what an [OUTPUT] section says.
type Config struct {
	Addresses []string      // of gateways, HOST:PORT
	Tenant    string        // empty: the server's default
	Labels    labels.Labels // put on every stream
	Mapping   mapping.Config
	Timeout   time.Duration // for one flush
}

// DefaultConfig returns what holds where an [OUTPUT] section says nothing. The
// time for a flush is less than the grace that Fluent Bit grants at its end
// (5 s): it waits for flushes under way, and for no longer.
func DefaultConfig() Config {
	return Config{
		Addresses: []string{"127.0.0.1:9095"},
		Mapping:   mapping.DefaultConfig(),
		Timeout:   4 * time.Second,
	}
}

// options are the keys of a section. Fluent Bit does not care about case, and
// people write both LabelKeys and label_keys.
var options = []struct {
	name string
	set  func(c *Config, value string) error
}{
	{"Address", func(c *Config, v string) (err error) {
		c.Addresses, err = list(v)
		for _, a := range c.Addresses {
			err = errors.Join(err, pushclient.CheckAddress(a))
		}
		return err
	}},
	{"TenantID", func(c *Config, v string) error { c.Tenant = v; return checkTenant(v) }},
	{"Labels", func(c *Config, v string) (err error) { c.Labels, err = parseLabels(v); return err }},
	{"LabelKeys", func(c *Config, v string) (err error) { c.Mapping.LabelKeys, err = list(v); return err }},
	{"LineKeys", func(c *Config, v string) (err error) { c.Mapping.LineKeys, err = list(v); return err }},
	{"LineFormat", func(c *Config, v string) error {
		c.Mapping.LineFormat = strings.ToLower(v)
		if c.Mapping.LineFormat == "key_value" { // what other plugins call it
			c.Mapping.LineFormat = "logfmt"
		}
		return nil
	}},
	{"Timeout", func(c *Config, v string) (err error) { c.Timeout, err = parseTimeout(v); return err }},
}

// foreign are keys of other Loki outputs, with what to do about them. Fluent
// Bit accepts any key and says nothing, so who changes the name of an output
// would not find out that half of its section is without effect.
var foreign = []struct{ name, hint string }{
	{"URL", "write Address HOST:PORT (gRPC)"},
	{"URI", "write Address HOST:PORT (gRPC)"},
	{"Addresses", "write Address A:PORT,B:PORT"},
	{"Label", "write Labels"},
	{"LabelKey", "write LabelKeys"},
	{"LineKey", "write LineKeys"},
	{"MessageKey", "write LineKeys"},
	{"Tenant", "write TenantID"},
	{"TenantIDKey", "it is not supported by this version"},
	{"LabelMapPath", "write LabelKeys"},
	{"AutoKubernetesLabels", "namespace, container and app are labels already; others can be named in LabelKeys"},
	{"RemoveKeys", "it is not supported by this version; what is not line or label is structured metadata"},
	{"DropSingleKey", "LineKeys says which field is the line"},
	{"StructuredMetadata", "all fields that are not line or label are structured metadata"},
	{"StructuredMetadataMapKeys", "all fields that are not line or label are structured metadata"},
	{"BatchWait", "Fluent Bit's flush interval decides"},
	{"BatchSize", "a chunk is a batch"},
	{"MinBackoff", "set scheduler.base in [SERVICE]"},
	{"MaxBackoff", "set scheduler.cap in [SERVICE]"},
	{"MaxRetries", "set retry_limit"},
	{"Buffer", "set storage.type filesystem in the inputs"},
	{"BufferType", "set storage.type filesystem in the inputs"},
	{"DqueDir", "set storage.type filesystem in the inputs"},
	{"LogLevel", "it is not supported by this version"},
	{"HTTPUser", "it is not supported by this version"},
	{"HTTPPasswd", "it is not supported by this version"},
	{"BearerToken", "it is not supported by this version"},
	{"CAFile", "TLS is not supported by this version"},
	{"CertFile", "TLS is not supported by this version"},
	{"KeyFile", "TLS is not supported by this version"},
	{"InsecureSkipVerify", "TLS is not supported by this version"},
}

// Read makes a Config of what get returns for the keys of a section ("" for
// keys that are not there). The error names all that is wrong, on one line.
func Read(get func(key string) string) (Config, error) {
	c := DefaultConfig()
	var problems []string
	for _, o := range options {
		v, err := either(get, o.name)
		if err == nil && v != "" {
			err = o.set(&c, v)
		}
		if err != nil {
			problems = append(problems, o.name+": "+oneLine(err))
		}
	}
	for _, f := range foreign {
		if v, err := either(get, f.name); v != "" || err != nil {
			problems = append(problems, f.name+" is not an option of loki-go: "+f.hint)
		}
	}
	for _, err := range c.Mapping.Validate() {
		problems = append(problems, oneLine(err))
	}
	if len(problems) > 0 {
		return Config{}, errors.New(strings.Join(problems, "; "))
	}
	return c, nil
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// either returns the value of a key, with or without underscores between its
// words.
func either(get func(string) string, name string) (string, error) {
	a := strings.TrimSpace(get(name))
	snake := snakeCase(name)
	if strings.EqualFold(snake, name) {
		return a, nil
	}
	b := strings.TrimSpace(get(snake))
	if a != "" && b != "" && a != b {
		return "", fmt.Errorf("%s and %s say different things", name, snake)
	}
	if a == "" {
		return b, nil
	}
	return a, nil
}

// snakeCase makes label_keys of LabelKeys and tenant_id of TenantID.
func snakeCase(name string) string {
	var b strings.Builder
	upper := func(i int) bool { return i < len(name) && name[i] >= 'A' && name[i] <= 'Z' }
	for i := range len(name) {
		if i > 0 && upper(i) && (!upper(i-1) || i+1 < len(name) && !upper(i+1)) {
			b.WriteByte('_')
		}
		b.WriteByte(name[i])
	}
	return strings.ToLower(b.String())
}

// list splits a comma list.
func list(v string) ([]string, error) {
	var out []string
	for s := range strings.SplitSeq(v, ",") {
		s = strings.TrimSpace(s)
		if s == "" {
			return nil, fmt.Errorf("empty element in %q", v)
		}
		if slices.Contains(out, s) {
			return nil, fmt.Errorf("%q is there twice", s)
		}
		out = append(out, s)
	}
	return out, nil
}

// checkTenant applies Loki's rule for the names of tenants.
func checkTenant(v string) error {
	if len(v) > 150 || v == "." || v == ".." {
		return fmt.Errorf("%q is not a tenant: must have 150 characters at most and not be one or two dots", v)
	}
	for _, c := range v {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("!-_.*'()", c) {
			continue
		}
		return fmt.Errorf("%q is not a tenant: %q is not allowed in it", v, c)
	}
	return nil
}

// parseLabels reads labels in either of the forms that Loki outputs have:
// {a="b", c="d"} and a=b, c=d.
func parseLabels(v string) (labels.Labels, error) {
	var ls labels.Labels
	if strings.HasPrefix(v, "{") {
		var err error
		if ls, err = labels.Parse(v); err != nil {
			return nil, err
		}
	} else {
		pairs, err := list(v)
		if err != nil {
			return nil, err
		}
		m := map[string]string{}
		for _, p := range pairs {
			name, value, ok := strings.Cut(p, "=")
			name, value = strings.TrimSpace(name), strings.TrimSpace(value)
			if u, err := strconv.Unquote(value); err == nil {
				value = u
			}
			if _, twice := m[name]; !ok || twice {
				return nil, fmt.Errorf("%q: want name=value, each name once", p)
			}
			if strings.HasPrefix(value, "$") {
				return nil, fmt.Errorf("%q: labels from fields are named in LabelKeys", p)
			}
			m[name] = value
		}
		ls = labels.FromMap(m)
	}
	for _, l := range ls {
		if !labels.ValidName(l.Name) || strings.HasPrefix(l.Name, "__") {
			return nil, fmt.Errorf("%q is not a label name", l.Name)
		}
	}
	return ls, nil
}

// parseTimeout reads a duration (4s, 500ms) or a number of seconds.
func parseTimeout(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if n, nerr := strconv.ParseUint(v, 10, 16); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 10*time.Millisecond || d > 10*time.Minute {
		return 0, fmt.Errorf("%q: want a duration from 10ms to 10m, such as 4s", v)
	}
	return d, nil
}
