package flush

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// keys is a section for Read: it finds keys as Fluent Bit does.
func keys(kv ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(kv); i += 2 {
			if strings.EqualFold(kv[i], key) {
				return kv[i+1]
			}
		}
		return ""
	}
}

func TestRead(t *testing.T) {
	f := func(want func(*Config), kv ...string) {
		t.Helper()
		c := DefaultConfig()
		want(&c)
		got, err := Read(keys(kv...))
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", c) {
			t.Fatalf("%q: got %+v, %v, want %+v", kv, got, err, c)
		}
	}
	m := func(change func(*mapping.Config)) func(*Config) { return func(c *Config) { change(&c.Mapping) } }
	f(func(*Config) {})

	// Addresses and TLS.
	f(func(c *Config) { c.Addresses = []string{"a:1", "[::1]:2"} }, "Address", " a:1, [::1]:2 ")
	f(func(c *Config) { c.Addresses = []string{"a:1"} }, "URL", "http://a:1/loki/api/v1/push")
	f(func(c *Config) { c.Addresses, c.UseTLS = []string{"a:1", "b:2"}, true }, "Address", "https://a:1,https://b:2")
	f(func(c *Config) { c.Addresses, c.UseTLS = []string{"a:1"}, true }, "Address", "a:1", "UseTLS", "on")
	f(func(c *Config) { c.UseTLS = true }, "use_tls", "true")
	f(func(c *Config) { c.UseTLS, c.TLS.CAFile = true, "ca" }, "ca_file", "ca")
	f(func(c *Config) {
		c.Addresses, c.UseTLS = []string{"a:1"}, true
		c.TLS.CAFile, c.TLS.CertFile, c.TLS.KeyFile = "ca", "cert", "key"
		c.TLS.ServerName, c.TLS.MinVersion, c.TLS.InsecureSkipVerify = "name", "1.3", true
	}, "Address", "a:1", "CAFile", "ca", "cert_file", "cert", "key_file", "key", "server_name", "name", "min_version", "1.3", "insecure_skip_verify", "true")
	f(func(c *Config) {
		c.Addresses, c.TLS.InsecureSkipVerify = []string{"a:1"}, true
		c.Notes = []string{"insecure_skip_verify and the like have no effect: the connections are without TLS"}
	}, "URL", "http://a:1", "insecure_skip_verify", "true")
	f(func(c *Config) {
		c.Addresses, c.UseTLS = []string{"a:1"}, true
		c.Auth = Auth{User: "u", Password: "p@ss"}
	}, "URL", "https://u:p%40ss@a:1")
	plain := "the user's or token's secret goes over the network as it is; UseTLS, or https://, protects it"
	f(func(c *Config) { c.Auth, c.Notes = Auth{Token: "t"}, []string{plain} }, "BearerToken", "t")
	f(func(c *Config) { c.Auth, c.Notes = Auth{User: "u", PasswordFile: "f"}, []string{plain} }, "http_user", "u", "HTTPPasswdFile", "f")
	f(func(c *Config) { c.Headers = []header{{"x-a", "b: c"}, {"x_d", "e f"}} }, "Header", "X-A: b: c; X_D e f;")

	// Tenants.
	f(func(c *Config) { c.Tenant = "t-1" }, "tenant_id", "t-1")
	f(func(c *Config) { c.Tenant = "t-1" }, "TenantID", "t-1", "tenant_id", "t-1")
	f(func(c *Config) { c.Tenant, c.Headers = "t", []header{{"x-scope-orgid", "t"}} }, "Header", "X-Scope-OrgID: t")
	f(m(func(c *mapping.Config) { c.TenantKeys = []string{"$team", "$k['a,b']"} }), "tenant_id_key", "$team, $k['a,b']")

	// What becomes what.
	f(m(func(c *mapping.Config) { c.Labels = []string{"a=b,c", "d=e"} }), "LABELS", `{d="e", a="b,c"}`)
	f(m(func(c *mapping.Config) { c.Labels = []string{"a=b", "d=e, f", "g=$$x"} }), "labels", `a=b, d = "e, f", g="$x"`)
	f(m(func(c *mapping.Config) {
		c.Labels, c.StripLine = []string{"a=b", "c=$d['e']['f,g']", "$h['i']"}, true
	}), "labels", `a=b, c = $d['e']['f,g'], $h['i']`)
	f(m(func(c *mapping.Config) { c.LabelKeys, c.StripLine = []string{"a", "b.c", "$d"}, true }), "label_keys", "a,b.c,$d")
	f(m(func(c *mapping.Config) { c.AutoKubernetesLabels = true }), "AutoKubernetesLabels", "true")
	f(m(func(c *mapping.Config) { c.AutoKubernetesLabels = true }), "auto_kubernetes_labels", "on")
	f(m(func(c *mapping.Config) { c.DefaultLabels = false }), "default_labels", "off")
	f(m(func(c *mapping.Config) { c.LineKeys = []string{"msg"} }), "LineKeys", "msg")
	f(m(func(c *mapping.Config) { c.RemoveKeys = []string{"a", "$b['c']"} }), "RemoveKeys", "a, $b['c']")
	f(m(func(c *mapping.Config) { c.LineFormat = "json" }), "LineFormat", "JSON")
	f(m(func(c *mapping.Config) { c.LineFormat = "key_value" }), "line_format", "key_value")
	for _, x := range []struct{ name, value, want string }{
		{"DropSingleKey", "true", "raw"},
		{"DropSingleKey", "false", "off"},
		{"DropSingleKey", "on", "on"},
		{"drop_single_key", "true", "on"},
		{"drop_single_key", "on", "on"},
		{"drop_single_key", "off", "off"},
		{"drop_single_key", "raw", "raw"},
		{"DropSingleKey", "RAW", "raw"},
	} {
		f(m(func(c *mapping.Config) { c.DropSingleKey = x.want }), x.name, x.value)
	}
	f(m(func(c *mapping.Config) { c.StructuredMetadata = "none" }), "StructuredMetadata", "none")
	f(m(func(c *mapping.Config) {
		c.StructuredMetadata, c.MetadataKeys, c.StripLine = "listed", []string{"pod=$k['pod']", "$trace", "all"}, true
	}), "structured_metadata", "pod = $k['pod'], $trace, all")
	f(m(func(c *mapping.Config) {
		c.StructuredMetadata, c.MetadataMapKeys, c.StripLine = "listed", []string{"$kubernetes['labels']"}, true
	}), "structured_metadata_map_keys", "$kubernetes['labels']")

	// The rest.
	f(func(c *Config) { c.Timeout = 1500 * time.Millisecond }, "Timeout", "1500ms")
	f(func(c *Config) { c.Timeout = 3 * time.Second }, "timeout", "3")
	f(func(c *Config) {
		c.Timeout = 10 * time.Second
		c.Notes = []string{"Timeout 10s is not less than the grace of [SERVICE] (5s by default): let grace be more, or Fluent Bit ends before a flush has its answer"}
	}, "Timeout", "10s")
	f(func(c *Config) { c.LogLevel = slog.LevelWarn }, "LogLevel", "warn")
	f(func(*Config) {}, "Compress", "snappy")
	f(func(c *Config) {
		c.Notes = []string{"Compress gzip: pushes are compressed with S2 in any case, as that is how the server stores them"}
	}, "compress", "gzip")
	f(func(c *Config) {
		c.Notes = []string{
			"BatchWait, BatchSize: without effect, a chunk is a batch (flush in [SERVICE] says how often)",
			"MaxRetries: without effect, Fluent Bit repeats flushes (retry_limit, and scheduler.base and scheduler.cap in [SERVICE])",
			"Buffer, DqueDir: without effect, Fluent Bit keeps chunks until they are stored (storage.type filesystem in the inputs, storage.path in [SERVICE])",
		}
	}, "BatchWait", "1", "batch_size", "1048576", "MaxRetries", "10", "Buffer", "true", "DqueDir", "/tmp/x")
}

// TestReadLabelMap reads the file of other outputs.
func TestReadLabelMap(t *testing.T) {
	name := filepath.Join(t.TempDir(), "map.json")
	if err := os.WriteFile(name, []byte(`{"kubernetes":{"pod_name":"pod"},"stream":"stream"}`), 0o666); err != nil {
		t.Fatal(err)
	}
	s := &server{}
	o, log := output(t, s, func(c *Config) {
		got, err := Read(keys("LabelMapPath", name, "LineFormat", "json"))
		if err != nil {
			t.Fatal(err)
		}
		*c = got
	})
	if r := o.Flush("t", appendEvent(nil, t0, "log", "one", "stream", "stdout", "a", "1")); r != OK {
		t.Fatalf("got %s: %s", r, log)
	}
	want := fmt.Sprintf(`{job="fluent-bit", stream="stdout"} %d "{\"log\":\"one\",\"a\":\"1\"}" tag="t"`, t0)
	if !slices.Equal(s.got, []string{want}) {
		t.Fatalf("got %q, want %q", s.got, want)
	}
	if _, err := Read(keys("label_map_path", name+".not")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Fatalf("a file that is not there: %v", err)
	}
}

// TestOtherOutputs takes sections as they are written for other outputs, with
// another name and address.
func TestOtherOutputs(t *testing.T) {
	f := func(chunk []byte, want string, kv ...string) {
		t.Helper()
		c, err := Read(keys(kv...))
		if err != nil {
			t.Fatalf("%q: %v", kv, err)
		}
		s := &server{}
		o, log := output(t, s, func(old *Config) { *old = c })
		if r := o.Flush("kube.a", chunk); r != OK || len(s.got) != 1 || s.got[0] != want {
			t.Fatalf("%q: got %s, %q, want %q: %s", kv, r, s.got, want, log)
		}
	}
	rec := appendEvent(nil, t0, "log", "hello world", "stream", "stdout", "level", "info", "secret", "x")
	f(rec, fmt.Sprintf(`{job="fluent-bit", stream="stdout"} %d "{\"log\":\"hello world\",\"level\":\"info\"}" tag="kube.a"`, t0),
		"URL", "http://gateway:9095/loki/api/v1/push", "BatchWait", "1", "BatchSize", "30720", "Labels", `{job="fluent-bit"}`,
		"RemoveKeys", "secret,unknown", "LabelKeys", "stream", "LineFormat", "json", "LogLevel", "warn")
	f(rec, fmt.Sprintf(`{job="fluent-bit", stream="stdout"} %d "level=info secret=x"`, t0),
		"Address", "gateway:9095", "labels", "job=fluent-bit, $stream", "remove_keys", "log", "line_format", "key_value", "structured_metadata", "none")
	single := appendEvent(nil, t0, "log", "hello world", "stream", "stdout", "pod", "p")
	f(single, fmt.Sprintf(`{job="x", stream="stdout"} %d "hello world" pod="p"`, t0),
		"labels", "job=x, stream=$stream", "structured_metadata", "$pod", "drop_single_key", "raw", "line_format", "json")
	f(single, fmt.Sprintf(`{job="x", stream="stdout"} %d "\"hello world\"" pod="p"`, t0),
		"labels", "job=x, stream=$stream", "structured_metadata", "$pod", "drop_single_key", "on", "line_format", "json")
}

func TestReadRefuses(t *testing.T) {
	f := func(want string, kv ...string) {
		t.Helper()
		_, err := Read(keys(kv...))
		if err == nil || err.Error() != want {
			t.Fatalf("%q: got %v, want %s", kv, err, want)
		}
	}
	f(`Address: address "localhost": want HOST:PORT`, "Address", "localhost")
	f(`Address: "ftp://a:1": want http:// (gRPC without TLS) or https:// (with TLS)`, "Address", "ftp://a:1")
	f(`Address: address "a": want HOST:PORT; address "b:0": port must be a number from 1 to 65535`, "Address", "a,b:0")
	f(`Address: "a:1" is there twice`, "Address", "a:1,a:1")
	f(`Address: "a:1" is there twice`, "Address", "http://a:1/x,http://a:1/y")
	f(`Address: empty element in "a:1,"`, "Address", "a:1,")
	f(`Address: all must have the same scheme and the same user, or none`, "Address", "http://a:1,https://b:1")
	f(`Address: all must have the same scheme and the same user, or none`, "Address", "http://u@a:1,http://v@b:1")
	f(`URL: "http://u:xxxxx@a": name the port, 9095 by default`, "URL", "http://u:secret@a")
	f(`URL: not a URL: invalid port ":secret" after host`, "URL", "http://a:secret")
	f(`URL: localhost:3100 is the port for HTTP; this output speaks gRPC, write localhost:9095 (9095 by default)`, "URL", "http://localhost:3100/loki/api/v1/push")
	f(`Address: [::1]:3100 is the port for HTTP; this output speaks gRPC, write [::1]:9095 (9095 by default)`, "Address", "[::1]:3100")
	f(`Address and URL: one is enough`, "Address", "a:1", "URL", "http://a:1")
	f(`UseTLS true and http:// say different things`, "Address", "http://a:1", "UseTLS", "true")
	f(`UseTLS false and https:// say different things`, "Address", "https://a:1", "UseTLS", "false")
	f(`UseTLS: "maybe": want true or false`, "UseTLS", "maybe")
	f(`key-file: must be set when cert-file is`, "cert_file", "x")
	f(`HTTPPasswd: there is no HTTPUser`, "HTTPPasswd", "x")
	f(`HTTPUser and BearerToken: one is enough`, "HTTPUser", "x", "BearerToken", "y")
	f(`BearerToken: must be printable ASCII`, "BearerToken", "ä")
	f(`the address has a user, and there is another or a token: one is enough`, "URL", "https://u:p@a:1", "BearerToken", "y")
	f(`Header: "x": want NAME: VALUE; NAME: VALUE`, "Header", "x")
	f(`Header: "grpc-timeout" belongs to gRPC`, "Header", "grpc-timeout: 1")
	f(`Header: tenant ID 'a/b' contains unsupported character '/'`, "Header", "X-Scope-OrgID: a/b")
	f(`TenantID: tenant ID 'a/b' contains unsupported character '/'`, "TenantID", "a/b")
	f(`TenantID: TenantID and tenant_id say different things`, "TenantID", "a", "tenant_id", "b")
	f(`labels: "a": want name=value, name=$path or $path`, "Labels", "a")
	f(`labels: a is there twice`, "Labels", "a=1,a=2")
	f(`labels: "a-b" is not a label name, "a_b" would be one`, "Labels", "a-b=1")
	f(`labels: "__a" is not a label name, "_a" would be one`, "Labels", `{__a="1"}`)
	f(`labels: path "$b[c]": expected a key in quotes, ['key'], found "[c]"`, "Labels", `a=$b[c]`)
	f(`Labels: couldn't parse labels: "{a=1}": expected a quoted value at offset 3`, "Labels", `{a=1}`)
	f(`line-format: "xml" is not auto, raw, json or logfmt`, "LineFormat", "xml")
	f(`DropSingleKey: want on, off or raw`, "DropSingleKey", "maybe")
	f(`StructuredMetadataMapKeys: StructuredMetadata none leaves nothing to list; structured-metadata: none, but there are metadata-keys or metadata-map-keys`,
		"StructuredMetadata", "none", "StructuredMetadataMapKeys", "$a")
	f(`LogLevel: "loud": want debug, info, warn or error`, "LogLevel", "loud")
	f(`Compress: want s2 (or snappy, gzip, zstd, none)`, "Compress", "lz4")
	f(`Timeout: "soon": want a duration from 10ms to 10m, such as 4s`, "Timeout", "soon")
	f(`Timeout: "0": want a duration from 10ms to 10m, such as 4s`, "Timeout", "0")
	f(`LabelKey is not an option of loki-go: write LabelKeys`, "label_key", "a")
	// All problems at once.
	f(`Address: address "x": want HOST:PORT; Timeout: "x": want a duration from 10ms to 10m, such as 4s; Tenant is not an option of loki-go: write TenantID`,
		"Address", "x", "Timeout", "x", "Tenant", "y")
}

// TestOptionNames keeps the tables apart: no name may mean two things.
func TestOptionNames(t *testing.T) {
	seen := map[string]bool{}
	add := func(name string) {
		t.Helper()
		for _, n := range slices.Compact([]string{strings.ToLower(name), snakeCase(name)}) {
			if seen[n] {
				t.Errorf("%s is there twice", n)
			}
			seen[n] = true
		}
	}
	for _, o := range options {
		add(o.name)
	}
	for _, i := range idle {
		for _, n := range i.names {
			add(n)
		}
	}
	for _, x := range foreign {
		add(x.name)
	}
}

func TestSecretFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := newCredentials(Auth{TokenFile: name}, nil); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Fatalf("got %v", err)
	}
	write("one\n")
	c, err := newCredentials(Auth{TokenFile: name}, []header{{"x-a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	f := func(want string) {
		t.Helper()
		c.secret.checked = time.Time{}
		if md, err := c.metadata(); err != nil || strings.Join(md, " ") != "x-a b authorization "+want {
			t.Fatalf("got %q, %v", md, err)
		}
	}
	f("Bearer one")
	write("two")
	f("Bearer two")
	write("") // half written
	f("Bearer two")
	write("p\u00e4ss:word")
	if c, err = newCredentials(Auth{User: "u", PasswordFile: name}, []header{{"x-a", "b"}}); err != nil {
		t.Fatal(err)
	}
	f("Basic dTpww6Rzczp3b3Jk")
	if _, err = newCredentials(Auth{TokenFile: name}, nil); err == nil {
		t.Fatal("a token that no header can have is taken")
	}
}

// FuzzRead looks for sections that break something, or that Read takes and New
// does not.
func FuzzRead(f *testing.F) {
	f.Add("Address", "https://u:p@a:1,b:2", "Labels", `a="b,c", $d['e']`)
	f.Add("Header", "K: V; K2 V2", "StructuredMetadata", "a=$b, c")
	f.Add("TenantIDKey", "$TAG[1]", "LabelKeys", "a.b,$c['d']['e']")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		for _, k := range []string{k1, k2} {
			if n := snakeCase(k); strings.HasSuffix(n, "_file") || strings.HasSuffix(strings.ToLower(k), "file") || strings.Contains(n, "path") || strings.Contains(strings.ToLower(k), "path") {
				return // no files of the machine
			}
		}
		c, err := Read(keys(k1, v1, k2, v2))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("more than one line: %v", err)
			}
			return
		}
		o, err := New(c, slog.New(slog.DiscardHandler), "fuzz")
		if err != nil {
			t.Fatalf("Read takes what New does not: %v", err)
		}
		o.Close()
	})
}
