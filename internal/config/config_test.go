package config

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

type size int64

func (s *size) UnmarshalText(b []byte) error {
	var n int64
	if _, err := fmt.Sscanf(string(b), "%dKB", &n); err != nil {
		return fmt.Errorf("%q is not a size", b)
	}
	*s = size(n << 10)
	return nil
}
func (s size) String() string { return fmt.Sprintf("%dKB", s>>10) }

type sample struct {
	Dir    string `yaml:"data-dir" help:"where data is"`
	Server struct {
		Listen  string        `yaml:"http-listen" help:"address"`
		Timeout time.Duration `yaml:"timeout"`
		TLS     struct {
			On bool `yaml:"on"`
		} `yaml:"tls"`
	} `yaml:"server"`
	Limits struct {
		Rate  float64 `yaml:"rate"`
		Names int     `yaml:"names"`
		Line  size    `yaml:"line"`
		U     uint32  `yaml:"u"`
	} `yaml:"limits"`
	Keys   []string `yaml:"keys" help:"a|b"`
	Secret string   `yaml:"secret" secret:"true" help:"never shown"`
	Hidden chan int `yaml:"-"`
}

func defaults() *sample {
	s := &sample{Dir: "./data", Keys: []string{"log", "msg"}}
	s.Server.Listen, s.Server.Timeout = ":3100", 30*time.Minute
	s.Limits.Line, s.Limits.Rate = 256<<10, 4
	return s
}

func env(pairs ...string) Getenv {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func bind(t *testing.T, ptr any) *Binding {
	t.Helper()
	b, err := Bind(ptr)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func texts(errs []error) string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return strings.Join(out, "\n")
}

func TestFileThenFlags(t *testing.T) {
	s := defaults()
	b := bind(t, s)
	file := `
data-dir: ${ROOT}/x
server:
  http-listen: "127.0.0.1:${PORT:-9}"
  tls: {on: true}
  timeout: 1w2d3h
limits:
  rate: 1.5
  line: 4KB
  u: 7
keys: [a, "b,c"]
secret: $${not}
`
	args, errs := ParseArgs([]string{"--limits.names=3", "-server.http-listen", ":${PORT:-1}", "-server.tls.on=false", "-keys=x, y,"}, b)
	errs = append(errs, b.LoadYAML("f.yaml", []byte(file), env("ROOT", "/r"))...)
	if !reflect.DeepEqual(s.Keys, []string{"a", "b,c"}) || !s.Server.TLS.On {
		t.Errorf("file alone: %+v", s)
	}
	errs = append(errs, Apply(args, env())...)
	if len(errs) > 0 {
		t.Fatal(texts(errs))
	}
	want := defaults()
	want.Dir, want.Server.Listen, want.Server.Timeout = "/r/x", ":1", (9*24+3)*time.Hour
	want.Limits.Rate, want.Limits.Line, want.Limits.U, want.Limits.Names = 1.5, 4096, 7, 3
	want.Keys, want.Secret = []string{"x", "y"}, "${not}"
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v\nwant %+v", s, want)
	}
}

func TestAllProblemsOfAFile(t *testing.T) {
	b := bind(t, defaults())
	got := texts(b.LoadYAML("f.yaml", []byte(`data-dir: [a]
server:
  http-lisen: x
  http-listen: a
  http-listen: b
  timeout: soon
  tls: yes
limits:
  rate: .nan
  names: 1e3
  line: 5
  u: -1
keys: {a: b}
other: 1
secret: ${NOPE}
`), env()))
	want := `f.yaml:1: data-dir must be a single value
f.yaml:3: unknown setting server.http-lisen, did you mean server.http-listen?
f.yaml:5: server.http-listen is already given in line 4
f.yaml:6: server.timeout: "soon" is not a duration like 30s, 5m, 1h30m or 7d
f.yaml:7: server.tls must be a mapping of settings
f.yaml:9: limits.rate: ".nan" is not a number
f.yaml:10: limits.names: "1e3" is not a whole number of 64 bits
f.yaml:11: limits.line: "5" is not a size
f.yaml:12: limits.u: "-1" is not a whole number from 0 to 2^32
f.yaml:13: keys must be a single value
f.yaml:14: unknown setting other
f.yaml:15: secret: environment variable NOPE is not set (${NOPE:-text} gives it a default)`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestBadYAML(t *testing.T) {
	for in, want := range map[string]string{
		"a: b: c":                "f.yaml: mapping values are not allowed",
		"server: {\n  a: [":      "f.yaml:",
		"- a":                    "f.yaml:1: the file must be a mapping",
		"data-dir: a\n---\nb: c": "f.yaml:2: a second document",
		"data-dir: *x":           "f.yaml: unknown anchor",
	} {
		if got := texts(bind(t, defaults()).LoadYAML("f.yaml", []byte(in), env())); !strings.HasPrefix(got, want) {
			t.Errorf("%q: got %q, want %q...", in, got, want)
		}
	}
	for _, in := range []string{"", "# nothing\n", "server:\nkeys:\n", "null"} {
		s := defaults()
		if errs := bind(t, s).LoadYAML("f.yaml", []byte(in), env()); len(errs) > 0 || !reflect.DeepEqual(s, defaults()) {
			t.Errorf("%q: %s %+v", in, texts(errs), s)
		}
	}
}

func TestAllProblemsOfFlags(t *testing.T) {
	b := bind(t, defaults())
	args, errs := ParseArgs([]string{"serve", "-data-dri=x", "-limits.names=x", "-server.tls.on=perhaps", "-keys=${X", "-", "-data-dir"}, b)
	got := texts(append(errs, Apply(args, env())...))
	want := `unexpected argument "serve": settings are given as -name=value
unknown flag -data-dri, did you mean data-dir?
unexpected argument "-": settings are given as -name=value
flag -data-dir needs a value
flag -limits.names: "x" is not a whole number of 64 bits
flag -server.tls.on: "perhaps" is neither true nor false
flag -keys: ${ without a closing }`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPrintedYAMLReadsBack(t *testing.T) {
	s := defaults()
	s.Dir, s.Keys, s.Server.TLS.On = "${x} yes: 1", []string{"1", "a,b", "no"}, true
	s.Server.Listen = "123"
	b := bind(t, s)
	s.Secret = "hunter2"
	out := b.YAML()
	if bytes.Contains(out, []byte("hunter2")) || !bytes.Contains(out, []byte(Masked)) {
		t.Errorf("secret not masked:\n%s", out)
	}
	got := defaults()
	if errs := bind(t, got).LoadYAML("f", out, env()); len(errs) > 0 {
		t.Fatalf("%s\n%s", texts(errs), out)
	}
	s.Secret = Masked
	if !reflect.DeepEqual(got, s) {
		t.Errorf("got %+v\nwant %+v\n%s", got, s, out)
	}
}

func TestHelp(t *testing.T) {
	s := defaults()
	s.Secret = "hunter2"
	b := bind(t, s)
	var usage, md bytes.Buffer
	b.Usage(&usage)
	b.Markdown(&md)
	for _, want := range []string{"  -data-dir=./data\n        where data is\n", "  -server.timeout=30m\n", "  -limits.line=256KB\n", "  -keys=log,msg\n", "-secret=" + Masked} {
		if !strings.Contains(usage.String(), want) {
			t.Errorf("usage lacks %q:\n%s", want, usage.String())
		}
	}
	if !strings.Contains(md.String(), "| `keys` | `log,msg` | a\\|b |") || !strings.Contains(md.String(), "## `server`") {
		t.Errorf("markdown:\n%s", md.String())
	}
}

func TestBindRefuses(t *testing.T) {
	f := func(ptr any, want string) {
		t.Helper()
		if _, err := Bind(ptr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: %v, want %q", ptr, err, want)
		}
	}
	f(sample{}, "not a pointer")
	f(&struct {
		A **int `yaml:"a"`
	}{}, "cannot be configured")
	f(&struct {
		A *size `yaml:"a"`
	}{}, "cannot be configured")
	f(&struct {
		A chan int `yaml:"a"`
	}{}, "cannot be configured")
	f(&struct{ A int }{}, "no yaml tag")
	f(&struct {
		A int `yaml:"a"`
		B int `yaml:"a"`
	}{}, "twice")
}

func TestDurations(t *testing.T) {
	f := func(in string, want time.Duration, out string) {
		t.Helper()
		got, err := ParseDuration(in)
		if err != nil || got != want || FormatDuration(got) != out {
			t.Errorf("%q: %v %v %q", in, got, err, FormatDuration(got))
		}
	}
	f("0", 0, "0s")
	f("7d", 168*time.Hour, "168h")
	f("1w1d1h", 193*time.Hour, "193h")
	f("-1d", -24*time.Hour, "-24h")
	f("90m", 90*time.Minute, "1h30m")
	f("10m", 10*time.Minute, "10m")
	f("1.5s", 1500*time.Millisecond, "1.5s")
	for _, bad := range []string{"", "-", "5", "d", "--1h", "1d-1h", "999999999d", "99999w99999999h", "1x"} {
		if d, err := ParseDuration(bad); err == nil {
			t.Errorf("%q gives %v", bad, d)
		}
	}
}

// A section of pointers overrides another one: what nobody gives stays nil.
func TestOptional(t *testing.T) {
	type over struct {
		Text *string        `yaml:"text"`
		On   *bool          `yaml:"on"`
		List *[]string      `yaml:"list"`
		Wait *time.Duration `yaml:"wait"`
		N    *int           `yaml:"n"`
	}
	type config struct {
		Text string `yaml:"text" help:"a text"`
		Sub  over   `yaml:"sub" like:"text" help:"as above, a|b"`
		End  string `yaml:"end"`
	}
	var c config
	b := bind(t, &c)
	if out := string(b.YAML()); out != "text: \"\"\nend: \"\"\n" {
		t.Errorf("nothing is given, but printed is\n%s", out)
	}
	file := "sub:\n  text: ''\n  list: [a, 'b,c']\n  n:\n"
	args, errs := ParseArgs([]string{"-sub.on", "-sub.wait=1h"}, b)
	errs = append(errs, b.LoadYAML("f", []byte(file), env())...)
	if errs = append(errs, Apply(args, env())...); len(errs) > 0 {
		t.Fatal(texts(errs))
	}
	s := c.Sub
	if s.Text == nil || *s.Text != "" || s.On == nil || !*s.On || s.Wait == nil || *s.Wait != time.Hour || s.N != nil ||
		s.List == nil || !reflect.DeepEqual(*s.List, []string{"a", "b,c"}) {
		t.Fatalf("got %+v", s)
	}
	var again config
	if errs := bind(t, &again).LoadYAML("f", b.YAML(), env()); len(errs) > 0 || !reflect.DeepEqual(again, c) {
		t.Fatalf("%s\n%s", texts(errs), b.YAML())
	}
	if errs := b.LoadYAML("f", []byte("sub: {n: x, list: []}"), env()); len(errs) != 1 || c.Sub.N != nil || len(*c.Sub.List) != 0 {
		t.Fatalf("%s: %+v", texts(errs), c.Sub)
	}

	var usage, md bytes.Buffer
	b.Usage(&usage)
	b.Markdown(&md)
	if want := "  -text=\n        a text\n  -sub.*\n        as above, a|b\n  -end=\n"; usage.String() != want {
		t.Errorf("usage:\n%s", usage.String())
	}
	if strings.Count(md.String(), "sub.") != 1 || !strings.Contains(md.String(), "| `sub.*` |  | as above, a\\|b |") {
		t.Errorf("markdown:\n%s", md.String())
	}
}

func FuzzLoadYAML(f *testing.F) {
	f.Add([]byte("data-dir: ${ROOT}/x\nserver:\n  http-listen: \"127.0.0.1:${PORT:-9}\"\n  tls: {on: true}\n"))
	f.Add([]byte("a: &x [*x]\nkeys: *x\n"))
	f.Add([]byte("limits: {line: 4KB, u: 7}\nkeys: [a, b]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := defaults()
		b, err := Bind(s)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.LoadYAML("f", data, env("ROOT", "r"))) > 0 {
			return
		}
		s.Secret = ""
		again := defaults()
		b2, err := Bind(again)
		if err != nil {
			t.Fatal(err)
		}
		out := b.YAML()
		if errs := b2.LoadYAML("f", out, env()); len(errs) > 0 {
			t.Fatalf("%s\nprinted from\n%s\n%s", out, data, texts(errs))
		}
		if len(s.Keys) == 0 {
			s.Keys, again.Keys = nil, nil
		}
		if !reflect.DeepEqual(s, again) {
			t.Fatalf("%+v\n%+v\n%s", s, again, out)
		}
	})
}
