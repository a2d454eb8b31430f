package flush

import (
	"errors"
	"strings"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

// option is a key of a section. Fluent Bit does not care about case, and people
// write both LabelKeys and label_keys.
type option struct {
	name string
	set  func(s *section, value string) error
}

// options are those of this output: its own, those of Grafana's Go plugin and
// those of the Loki output that comes with Fluent Bit, with their names. Keys
// that Fluent Bit keeps for itself (host, tls, tls.ca_file, log_level, ...)
// never arrive here.
var options = []option{
	{"Address", setEndpoint("Address")},
	{"URL", setEndpoint("URL")},
	{"UseTLS", func(s *section, v string) error {
		on, err := parseBool(v)
		s.useTLS = &on
		return err
	}},
	{"CAFile", setTLS("ca_file", func(s *section, v string) error { s.TLS.CAFile = v; return nil })},
	{"CertFile", setTLS("cert_file", func(s *section, v string) error { s.TLS.CertFile = v; return nil })},
	{"KeyFile", setTLS("key_file", func(s *section, v string) error { s.TLS.KeyFile = v; return nil })},
	{"ServerName", setTLS("server_name", func(s *section, v string) error { s.TLS.ServerName = v; return nil })},
	{"MinVersion", setTLS("min_version", func(s *section, v string) error { s.TLS.MinVersion = v; return nil })},
	{"InsecureSkipVerify", func(s *section, v string) (err error) {
		if s.TLS.InsecureSkipVerify, err = parseBool(v); s.TLS.InsecureSkipVerify && s.tls == "" {
			s.tls = "insecure_skip_verify"
		}
		return err
	}},

	{"HTTPUser", func(s *section, v string) error { s.Auth.User = v; return nil }},
	{"HTTPPasswd", func(s *section, v string) error { s.Auth.Password = v; return nil }},
	{"HTTPPasswdFile", func(s *section, v string) error { s.Auth.PasswordFile = v; return nil }},
	{"BearerToken", func(s *section, v string) error {
		s.Auth.Token = v
		if !headerValue(v) {
			return errors.New("must be printable ASCII")
		}
		return nil
	}},
	{"BearerTokenFile", func(s *section, v string) error { s.Auth.TokenFile = v; return nil }},
	{"Header", func(s *section, v string) (err error) { s.Headers, err = parseHeaders(v); return err }},

	{"TenantID", func(s *section, v string) error { s.Tenant = v; return push.CheckTenant(v) }},
	{"TenantIDKey", func(s *section, v string) (err error) { s.Mapping.TenantKeys, err = list(v); return err }},

	{"Labels", setLabels},
	{"LabelKeys", takesKeys(func(s *section, v string) (err error) { s.Mapping.LabelKeys, err = list(v); return err })},
	{"LabelMapPath", takesKeys(func(s *section, v string) error { s.Mapping.LabelMapFile = v; return nil })},
	{"AutoKubernetesLabels", func(s *section, v string) (err error) {
		s.Mapping.AutoKubernetesLabels, err = parseBool(v)
		return err
	}},
	{"DefaultLabels", func(s *section, v string) (err error) { s.Mapping.DefaultLabels, err = parseBool(v); return err }},

	{"RemoveKeys", func(s *section, v string) (err error) { s.Mapping.RemoveKeys, err = list(v); return err }},
	{"LineKeys", func(s *section, v string) (err error) { s.Mapping.LineKeys, err = list(v); return err }},
	{"LineFormat", func(s *section, v string) error { s.Mapping.LineFormat = strings.ToLower(v); return nil }},
	{"DropSingleKey", setDropSingleKey},

	{"StructuredMetadata", setStructuredMetadata},
	{"StructuredMetadataMapKeys", takesKeys(func(s *section, v string) (err error) {
		s.Mapping.MetadataMapKeys, err = list(v)
		return errors.Join(err, listMetadata(s))
	})},

	{"Timeout", func(s *section, v string) (err error) { s.Timeout, err = parseTimeout(v); return err }},
	{"LogLevel", func(s *section, v string) (err error) { s.LogLevel, err = parseLevel(v); return err }},
	{"Compress", func(s *section, v string) error {
		switch strings.ToLower(v) {
		case "snappy", "s2":
			return nil
		case "none", "off", "false", "gzip", "zstd":
			s.note("Compress %s: pushes are compressed with S2 in any case, as that is how the server stores them", v)
			return nil
		}
		return errors.New("want s2 (or snappy, gzip, zstd, none)")
	}},
}

func setEndpoint(name string) func(*section, string) error {
	return func(s *section, v string) error {
		e, err := parseEndpoints(v)
		if s.endpoints == nil {
			s.endpoints = map[string]endpoints{}
		}
		s.endpoints[name] = e
		return err
	}
}

func setTLS(name string, set func(*section, string) error) func(*section, string) error {
	return func(s *section, v string) error {
		if s.tls == "" {
			s.tls = name
		}
		return set(s, v)
	}
}

// takesKeys marks options whose fields, with other outputs, are taken out of
// the line.
func takesKeys(set func(*section, string) error) func(*section, string) error {
	return func(s *section, v string) error {
		s.keys = true
		return set(s, v)
	}
}

// setLabels reads labels in either of the forms that Loki outputs have:
// {a="b", c="d"} and a=b, c=$d['e'], $f.
func setLabels(s *section, v string) error {
	if strings.HasPrefix(v, "{") {
		ls, err := labels.Parse(v)
		if err != nil {
			return err
		}
		for _, l := range ls {
			s.Mapping.Labels = append(s.Mapping.Labels, mapping.StaticLabel(l.Name, l.Value))
		}
		return nil
	}
	items, err := list(v)
	if err != nil {
		return err
	}
	for _, item := range items {
		name, value, ok := strings.Cut(item, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case strings.HasPrefix(item, "$"):
			s.keys = true
		case ok && strings.HasPrefix(value, "$"):
			s.keys = true
			item = name + "=" + value
		case ok:
			item = mapping.StaticLabel(name, unquote(value))
		}
		s.Mapping.Labels = append(s.Mapping.Labels, item)
	}
	return nil
}

// setDropSingleKey reads on, off and raw. A plain true means raw to Grafana's
// plugin, which writes DropSingleKey, and on to Fluent Bit's own output, which
// writes drop_single_key.
func setDropSingleKey(s *section, v string) error {
	v = strings.ToLower(v)
	if on, err := parseBool(v); v == "raw" {
		s.Mapping.DropSingleKey = "raw"
	} else if err != nil {
		return errors.New("want on, off or raw")
	} else if !on {
		s.Mapping.DropSingleKey = "off"
	} else if v == "true" && s.get("drop_single_key") == "" {
		s.Mapping.DropSingleKey = "raw"
	} else {
		s.Mapping.DropSingleKey = "on"
	}
	return nil
}

// setStructuredMetadata reads which fields become metadata: all, none, or
// those of a list.
func setStructuredMetadata(s *section, v string) error {
	if w := strings.ToLower(v); w == "all" || w == "none" {
		s.Mapping.StructuredMetadata = w
		return nil
	}
	items, err := list(v)
	if err != nil {
		return err
	}
	s.keys = true
	for _, item := range items {
		if name, value, ok := strings.Cut(item, "="); ok && !strings.HasPrefix(item, "$") {
			item = strings.TrimSpace(name) + "=" + strings.TrimSpace(value)
		}
		s.Mapping.MetadataKeys = append(s.Mapping.MetadataKeys, item)
	}
	return listMetadata(s)
}

// listMetadata makes only listed fields metadata, as other outputs do.
func listMetadata(s *section) error {
	if s.Mapping.StructuredMetadata == "none" {
		return errors.New("StructuredMetadata none leaves nothing to list")
	}
	s.Mapping.StructuredMetadata = "listed"
	return nil
}

// idle are options of other outputs that are taken and have nothing to do here,
// with who does what they are for.
var idle = []struct {
	names []string
	why   string
}{
	{[]string{"BatchWait", "BatchSize"}, "without effect, a chunk is a batch (flush in [SERVICE] says how often)"},
	{
		[]string{"MinBackoff", "MaxBackoff", "MaxRetries"},
		"without effect, Fluent Bit repeats flushes (retry_limit, and scheduler.base and scheduler.cap in [SERVICE])",
	},
	{
		[]string{"Buffer", "BufferType", "DqueDir", "DqueSegmentSize", "DqueSync", "DqueName"},
		"without effect, Fluent Bit keeps chunks until they are stored (storage.type filesystem in the inputs, storage.path in [SERVICE])",
	},
	{[]string{"URI", "BufferSize"}, "without effect, there is no HTTP"},
	{[]string{"TenantIDKeyErrorHandling"}, "without effect, a chunk is stored when all of its tenants have their part"},
}

// foreign are keys that were meant for an option, with which one. Fluent Bit
// accepts any key and says nothing, so nobody would find out that a part of a
// section is without effect.
var foreign = []struct{ name, hint string }{
	{"Addresses", "write Address A:PORT,B:PORT"},
	{"Endpoint", "write Address HOST:PORT"},
	{"Label", "write Labels"},
	{"ExtraLabels", "write Labels"},
	{"StaticLabels", "write Labels"},
	{"LabelKey", "write LabelKeys"},
	{"LabelMap", "write LabelMapPath"},
	{"LabelMapFile", "write LabelMapPath"},
	{"KubernetesLabels", "write AutoKubernetesLabels"},
	{"ExtractKubernetesLabels", "write AutoKubernetesLabels"},
	{"LineKey", "write LineKeys"},
	{"MessageKey", "write LineKeys"},
	{"MessageField", "write LineKeys"},
	{"RemoveKey", "write RemoveKeys"},
	{"DropSingleKeys", "write DropSingleKey"},
	{"StructuredMetadataKeys", "write StructuredMetadata"},
	{"StructuredMetadataMapKey", "write StructuredMetadataMapKeys"},
	{"MetadataKeys", "write StructuredMetadata"},
	{"Tenant", "write TenantID"},
	{"TenantKey", "write TenantIDKey"},
	{"TenantKeys", "write TenantIDKey"},
	{"OrgID", "write TenantID"},
	{"Headers", "write Header NAME: VALUE; NAME: VALUE"},
	{"HTTPPassword", "write HTTPPasswd"},
	{"Username", "write HTTPUser"},
	{"Password", "write HTTPPasswd"},
	{"Token", "write BearerToken"},
	{"Compression", "pushes are compressed with S2"},
	{"TLSEnabled", "write UseTLS"},
	{"EnableTLS", "write UseTLS"},
	{"TLSCAFile", "write ca_file"},
	{"CACert", "write ca_file"},
	{"CACertFile", "write ca_file"},
	{"TLSCertFile", "write cert_file"},
	{"Cert", "write cert_file"},
	{"Key", "write key_file"},
	{"TLSKeyFile", "write key_file"},
	{"TLSServerName", "write server_name"},
	{"TLSInsecureSkipVerify", "write insecure_skip_verify"},
	{"InsecureTLS", "write insecure_skip_verify"},
	{"RetryLimit", "write retry_limit, which Fluent Bit understands"},
}
