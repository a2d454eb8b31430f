package mapping

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
)

// mapped is a table of records under one config.
type mapped struct {
	t  *testing.T
	st *State
	in Input
}

func with(t *testing.T, change func(c *Config)) *mapped {
	t.Helper()
	return &mapped{t: t, st: newMapper(t, config(change), Limits{}).Acquire(), in: Input{Job: "j", Tenant: "def"}}
}

func (m *mapped) is(src, wantLabels, wantLine, wantMeta string) {
	m.t.Helper()
	got := mapOne(m.st, parse(m.t, src), &m.in)
	if want := (entry{wantLabels, 0, wantLine, wantMeta}); got != want {
		m.t.Fatalf("%s:\n got %+v\nwant %+v", src, got, want)
	}
}

func TestStaticLabels(t *testing.T) {
	m := with(t, func(c *Config) {
		c.Labels = []string{"job=mine", "env=a \"b\"=c", "price=$$5", "namespace=", "empty="}
		c.LabelKeys = []string{"env", "level"}
	})
	m.is(`{"log":"x","job":"no","env":"e","level":"l","kubernetes":{"namespace_name":"ns","container_name":"c"}}`,
		`{container="c", env="a \"b\"=c", env_2="e", job="mine", level="l", price="$5", service_name="c"}`,
		`x`, `job=no kubernetes_namespace_name=ns`)
	if got := StaticLabel("a", "$b"); got != "a=$$b" {
		t.Error(got)
	}
	if got := StaticLabel("a", "b"); got != "a=b" {
		t.Error(got)
	}
	m = with(t, func(c *Config) { c.Labels, c.DefaultLabels = []string{"job="}, false })
	m.is(`{"log":"x","service":"s"}`, `{}`, `x`, `service=s`)
}

func TestLabelsFromPaths(t *testing.T) {
	m := with(t, func(c *Config) {
		c.Labels = []string{"ns=$kubernetes['namespace_name']", "$stream", "src=$TAG", "$TAG[1]", "last=$TAG[-1]", "far=$TAG[7]", "neg=$TAG[-7]"}
		c.LabelKeys = []string{"$kubernetes['labels'][\"app.kubernetes.io/name\"]", "lvl=$level", "lvl=$.severity", "kubernetes.pod_name", "$a['it''s']", "$nope"}
		c.DefaultLabels = false
	})
	m.in.Tag = []byte("kube.var.log")
	m.is(`{"log":"x","stream":"out","severity":"warn","a":{"it's":1},"kubernetes":{"namespace_name":"n","pod_name":"p","labels":{"app.kubernetes.io/name":"app"}}}`,
		`{a_it_s="1", job="j", kubernetes_labels_app_kubernetes_io_name="app", kubernetes_pod_name="p", last="log", lvl="warn", ns="n", src="kube.var.log", stream="out", tag_1="var"}`,
		`x`, `tag=kube.var.log`)
	m.is(`{"log":"x","level":"info","severity":"warn","kubernetes.labels":{"app.kubernetes.io/name":"flat"}}`,
		`{job="j", kubernetes_labels_app_kubernetes_io_name="flat", last="log", lvl="info", src="kube.var.log", tag_1="var"}`,
		`x`, `severity=warn tag=kube.var.log`)
	m.in.Tag = nil
	m.is(`{"log":"x"}`, `{job="j"}`, `x`, ``)
}

func TestLabelMap(t *testing.T) {
	file := filepath.Join(t.TempDir(), "map.json")
	text := `{"kubernetes":{"namespace_name":"ns","labels":{"app":"app","tier.x":"tier"}},"stream":"stream","fallback":"stream"}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*mapped{
		with(t, func(c *Config) { c.LabelMapFile, c.DefaultLabels = file, false }),
		with(t, func(c *Config) { c.LabelMap, c.DefaultLabels = []byte(text), false }),
	} {
		m.is(`{"log":"x","stream":"out","fallback":"f","kubernetes":{"namespace_name":"n","labels":{"app":"a","tier.x":"t"}}}`,
			`{app="a", job="j", ns="n", stream="out", tier="t"}`, `x`, `fallback=f`)
		m.is(`{"log":"x","fallback":"f"}`, `{job="j", stream="f"}`, `x`, ``)
	}
}

func TestLabelMapErrors(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if _, err := parseLabelMap([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	f(``, "no JSON object")
	f(`[{"a":"b"}]`, "not a JSON object")
	f(`"a"`, "not a JSON object")
	f(`{"a":"b"`, "unexpected end of input at offset 8")
	f(`{"a":"b"} {}`, "more text behind the object, at offset 9")
	f(`{"a":{"b":"not-a-name"}}`, `"a.b": "not-a-name" is not a label name, "not_a_name" would be one`)
	f(`{"a":{"b":""}}`, `"" is not a label name`)
	f(`{"a":"__x"}`, `"__x" is not a label name`)
	f(`{"a":["b"]}`, `"a": neither the name of a label nor an object`)
	f(`{"`+strings.Repeat("k", 2000)+`":"a"}`, "is longer than")
	c := DefaultConfig()
	c.LabelMapFile = filepath.Join(t.TempDir(), "none")
	if errs := c.Validate(); len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), "label-map-file: open ") {
		t.Error(errs)
	}
	if err := os.WriteFile(c.LabelMapFile, make([]byte, maxLabelMap+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if errs := c.Validate(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "is larger than") {
		t.Error(errs)
	}
}

func TestKubernetesLabels(t *testing.T) {
	m := with(t, func(c *Config) { c.AutoKubernetesLabels = true })
	m.is(`{"log":"x","kubernetes":{"pod_name":"p","container_name":"c","labels":{"app":"a","tier":"web","app.kubernetes.io/part-of":"shop","job":"batch","no":"","list":[1],"9":"n"}}}`,
		`{_9="n", app="a", app_kubernetes_io_part_of="shop", container="c", job="j", service_name="a", tier="web"}`,
		`x`, `kubernetes_labels_job=batch kubernetes_labels_list=[1] kubernetes_labels_no= kubernetes_pod_name=p`)
	m.is(`{"a":1,"kubernetes":{"labels":{"x":{"y":"z"}}}}`, `{job="j", x_y="z"}`, `{"a":1,"kubernetes":{"labels":{"x":{"y":"z"}}}}`, ``)
	// Two that get one name: the first by path.
	m.is(`{"log":"x","kubernetes":{"labels":{"a/b":"2","a.b":"1"}}}`, `{a_b="1", job="j"}`, `x`, `kubernetes_labels_a_b=2`)
	// What is too long for Kubernetes is none of its labels.
	long := strings.Repeat("v", maxAutoValue+1)
	m.is(`{"log":"x","kubernetes":{"labels":{"l":"`+long+`"}}}`, `{job="j"}`, `x`, `kubernetes_labels_l=`+long)
	m = with(t, func(c *Config) { c.AutoKubernetesLabels, c.LineFormat = true, "json" })
	m.is(`{"kubernetes":{"labels":{"tier":"t"}}}`, `{job="j", tier="t"}`, `{"kubernetes":{"labels":{"tier":"t"}}}`, ``)
}

// As many as the limit allows, the same whatever their order, with one kept for
// service_name.
func TestKubernetesLabelsAreBounded(t *testing.T) {
	m := newMapper(t, config(func(c *Config) { c.AutoKubernetesLabels = true }), Limits{Labels: 5}).Acquire()
	f := func(src, want string) {
		t.Helper()
		if got := mapOne(m, parse(t, src), &Input{Job: "j"}); got.labels != want {
			t.Errorf("%s: %s, want %s", src, got.labels, want)
		}
	}
	f(`{"log":"x","kubernetes":{"labels":{"e":"5","d":"4","c":"3","b":"2","a":"1"}}}`, `{a="1", b="2", c="3", job="j"}`)
	f(`{"log":"x","kubernetes":{"labels":{"b":"2","a":"1","c":"3","d":"4","e":"5"}}}`, `{a="1", b="2", c="3", job="j"}`)
	f(`{"log":"x","service":"s","kubernetes":{"labels":{"e":"5","d":"4","c":"3","b":"2","a":"1"}}}`, `{a="1", b="2", c="3", job="j", service_name="s"}`)
	f(`{"log":"x","service":"s","kubernetes":{"namespace_name":"n","labels":{"app":"a","b":"2","a":"1"}}}`, `{a="1", app="a", job="j", namespace="n", service_name="s"}`)
	var many []string
	for i := range 2000 {
		many = append(many, fmt.Sprintf(`"l%04d":"v"`, i))
	}
	f(`{"log":"x",`+strings.Repeat(`"a":1,`, 2000)+`"kubernetes":{"labels":{`+strings.Join(many, ",")+`}}}`, `{job="j", l0000="v", l0001="v", l0002="v"}`)
	if n := len(m.auto); n > maxAuto {
		t.Errorf("%d noted", n)
	}
}

func TestRemoveKeys(t *testing.T) {
	remove := func(c *Config) {
		c.RemoveKeys = []string{"secret", "$kubernetes['annotations']", "kubernetes.docker_id", "a.b.c", "null"}
		c.LabelKeys = []string{"secret"}
	}
	m := with(t, remove)
	m.is(`{"log":"x","secret":"s","kubernetes":{"annotations":{"a":1},"docker_id":"d","host":"h"},"a":{"b":{"c":1,"d":2}}}`,
		`{job="j", secret="s"}`, `x`, `a_b_d=2 kubernetes_host=h`)
	m.is(`{"secret":"s","null":null,"n":null,"kubernetes":{"annotations":{"a":1}},"a":{"b":{"c":1}},"empty":{},"secret":"again"}`,
		`{job="j", secret="s"}`, `{"n":null,"empty":{}}`, ``)
	m.is(`{"secret":"s"}`, `{job="j", secret="s"}`, `{}`, ``)
	m = with(t, func(c *Config) { remove(c); c.LineFormat = "logfmt" })
	m.is(`{"log":"x y","secret":"s","a":{"b":{"c":1,"d":2}},"kubernetes":{"docker_id":"d"}}`, `{job="j", secret="s"}`, `log="x y" a_b_d=2`, ``)
	m = with(t, func(c *Config) { c.RemoveKeys = []string{"log.pw", "message"} })
	m.is(`{"log":{"pw":"p","a":[{"pw":1}]}}`, `{job="j"}`, `{"a":[{"pw":1}]}`, ``)
	m.is(`{"message":"gone","msg":"m"}`, `{job="j"}`, `m`, ``)
	// Behind the limits, too.
	many := strings.Repeat(`"a":1,`, 2000)
	m = with(t, func(c *Config) { c.RemoveKeys = []string{"x.y"} })
	m.is(`{"log":"l",`+many+`"x":{"y":1,"z":2}}`, `{job="j"}`, `{"log":"l",`+many+`"x":{"z":2}}`, ``)
	m.in.Meta = parse(t, `{"x":{"y":3}}`) // not a field of the record
	m.is(`{"log":"l","x":{"y":1}}`, `{job="j"}`, `l`, `x_y=3`)
}

func TestStripLine(t *testing.T) {
	strip := func(c *Config) {
		c.StripLine, c.LineFormat = true, "json"
		c.LabelKeys, c.MetadataKeys = []string{"level", "kubernetes.pod_name"}, []string{"trace"}
		c.RemoveKeys = []string{"rm"}
	}
	m := with(t, strip)
	m.is(`{"log":"x","level":"warn","trace":"t","rm":1,"kubernetes":{"pod_name":"p","namespace_name":"n"}}`,
		`{job="j", kubernetes_pod_name="p", level="warn", namespace="n"}`, `{"log":"x"}`, `trace=t`)
	m.is(`{"level":["no label"],"kubernetes":{"pod_name":""}}`, `{job="j"}`, `{"level":["no label"],"kubernetes":{"pod_name":""}}`, ``)
	rec := parse(t, `{"time":1,"log":"x","date":{"a":{"b":1}}}`)
	rec.Nodes[rec.Field(0, "time")].Used = true
	if got := mapOne(m.st, rec, &m.in); got.line != `{"log":"x","date":{"a":{"b":1}}}` {
		t.Error(got)
	}
	m = with(t, func(c *Config) { strip(c); c.LineFormat = "logfmt" })
	m.is(`{"level":"warn","a":1,"trace":"t"}`, `{job="j", level="warn"}`, `a=1`, `trace=t`)
	m = with(t, func(c *Config) { strip(c); c.LineFormat = "auto" })
	m.is(`{"level":"warn","a":1,"trace":"t"}`, `{job="j", level="warn"}`, `{"a":1}`, `trace=t`)
	m.is(`{"log":"l","level":"warn","a":1,"trace":"t"}`, `{job="j", level="warn"}`, `l`, `a=1 trace=t`)
	// Metadata that has no room stays in the line.
	st := newMapper(t, config(strip), Limits{Pairs: 1}).Acquire()
	got := mapOne(st, parse(t, `{"level":"warn","trace":"t","a":1}`), &Input{Job: "j", Tag: []byte("t")})
	if want := (entry{`{job="j", level="warn"}`, 0, `{"trace":"t","a":1}`, `tag=t`}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestDropSingleKey(t *testing.T) {
	single := func(how, format string) *mapped {
		return with(t, func(c *Config) {
			c.DropSingleKey, c.LineFormat, c.StripLine, c.LabelKeys = how, format, true, []string{"level"}
		})
	}
	one := `{job="j", level="l"}`
	m := single("on", "json")
	m.is(`{"level":"l","log":"a \"b\""}`, one, `"a \"b\""`, ``)
	m.is(`{"level":"l","n":1.50}`, one, `1.50`, ``)
	m.is(`{"level":"l","m":{"a":1}}`, one, `{"a":1}`, ``)
	m.is(`{"level":"l","m":null}`, one, `null`, ``)
	m.is(`{"level":"l","a":1,"b":2}`, one, `{"a":1,"b":2}`, ``)
	m.is(`{"level":"l"}`, one, `{}`, ``)
	m.is(`{"level":"l","a":"x","kubernetes":{"namespace_name":"n"}}`, `{job="j", level="l", namespace="n"}`, `"x"`, ``)
	m = single("raw", "json")
	m.is(`{"level":"l","log":"a \"b\""}`, one, `a "b"`, ``)
	m.is(`{"level":"l","m":{"a":1}}`, one, `{"a":1}`, ``)
	m = single("On", "key_value")
	m.is(`{"level":"l","log":"a b"}`, one, `a b`, ``)
	m.is(`{"level":"l","a":"a b","c":1}`, one, `a="a b" c=1`, ``)
	m = single("off", "json")
	m.is(`{"level":"l","log":"a"}`, one, `{"log":"a"}`, ``)
	m = single("raw", "auto")
	m.is(`{"level":"l","other":"a"}`, one, `a`, ``)
	// Without strip-line the label counts as a field.
	m = with(t, func(c *Config) { c.DropSingleKey, c.LineFormat, c.LabelKeys = "raw", "json", []string{"level"} })
	m.is(`{"level":"l","log":"a"}`, one, `{"level":"l","log":"a"}`, ``)
	m.is(`{"level":"l"}`, one, `l`, ``)
	m = with(t, func(c *Config) { c.DropSingleKey, c.LineFormat, c.RemoveKeys = "raw", "json", []string{"m.x", "rm"} })
	m.is(`{"rm":1,"m":{"x":1,"y":2}}`, `{job="j"}`, `{"y":2}`, ``)
}

func TestMetadataListed(t *testing.T) {
	listed := func(format string) func(c *Config) {
		return func(c *Config) {
			c.StructuredMetadata, c.LineFormat = "listed", format
			c.MetadataKeys = []string{"trace=$ctx['trace_id']", "user", "geo=$client.geo", "$TAG"}
			c.MetadataMapKeys = []string{"$kubernetes['labels']"}
		}
	}
	full := `{"log":"x","ctx":{"trace_id":"t"},"user":{"id":7},"client":{"geo":{"lat":1}},"kubernetes":{"labels":{"x":"y","q":{"r":"s"}}}}`
	meta := `geo_lat=1 q_r=s tag=g trace=t user_id=7 x=y`
	job := `{job="j"}`
	m := with(t, listed("auto"))
	m.in.Tag = []byte("g")
	m.is(full, job, `x`, meta)
	more := strings.TrimSuffix(full, "}") + `,"rest":1}`
	m.is(more, job, more, meta) // what has no place keeps the record whole
	m = with(t, listed("raw"))
	m.in.Tag = []byte("g")
	m.is(more, job, `x`, meta)
	m.is(`{"rest":1,"user":"u"}`, job, `{"rest":1,"user":"u"}`, `tag=g user=u`)
	m = with(t, listed("json"))
	m.in.Tag = []byte("g")
	m.is(more, job, more, meta)
	m.in.Meta = parse(t, `{"user":"agent's","ctx":{"trace_id":"agent"}}`) // names are for fields of the record
	m.is(`{"user":"u"}`, job, `{"user":"u"}`, `ctx_trace_id=agent tag=g user=u user_2=agent's`)

	// Where all fields are metadata, those listed get their names.
	m = with(t, func(c *Config) { listed("auto")(c); c.StructuredMetadata = "all"; c.MetadataKeys[3] = "from=$TAG" })
	m.in.Tag = []byte("g")
	m.is(more, job, `x`, `from=g geo_lat=1 q_r=s rest=1 trace=t user_id=7 x=y`)
	m.is(`{"rest":1}`, job, `{"rest":1}`, `from=g`)
}

func TestMetadataNone(t *testing.T) {
	none := func(format string) func(c *Config) {
		return func(c *Config) {
			c.StructuredMetadata, c.LineFormat, c.LabelKeys = "none", format, []string{"level"}
		}
	}
	job, one := `{job="j"}`, `{job="j", level="l"}`
	m := with(t, none("auto"))
	m.in.Tag = []byte("g")
	m.is(`{"log":"x","level":"l"}`, one, `x`, ``)
	m.is(`{"log":"x","a":1}`, job, `{"log":"x","a":1}`, ``)
	m.in.Meta = parse(t, `{"k":"v"}`)
	m.is(`{"log":"x"}`, job, `{"log":"x","__internal__":{"log_metadata":{"k":"v"}}}`, ``)
	m = with(t, none("raw"))
	m.in.Tag, m.in.Meta = []byte("g"), parse(t, `{"k":"v"}`)
	m.is(`{"log":"x","a":1}`, job, `x`, ``)
	many := `{"log":"x",` + strings.Repeat(`"a":{"b":1},`, 2000) + `"level":"l"}`
	m.in.Meta = nil
	m.is(`{"log":"x","level":"l"}`, one, `x`, ``)
	if got := mapOne(m.st, parse(t, many), &m.in); got.meta != `` || got.labels != one {
		t.Error(got)
	}
	m = with(t, none("logfmt"))
	m.is(`{"a":1}`, job, `a=1`, ``)
	m.in.Meta = parse(t, `{"k":"v"}`)
	m.is(`{"a":1}`, job, `{"a":1,"__internal__":{"log_metadata":{"k":"v"}}}`, ``)
}

func TestTenantKeys(t *testing.T) {
	m := newMapper(t, config(func(c *Config) { c.TenantKeys = []string{"$ctx['tenant']", "org", "$TAG[0]"} }), Limits{})
	st := m.Acquire()
	f := func(src, tag, want string) {
		t.Helper()
		var g Batches
		defer g.Reset()
		in := &Input{Job: "j", Tenant: "def", Tag: []byte(tag)}
		if !st.Add(parse(t, src), in, &g) {
			t.Fatal("no room")
		}
		if got := g.Finish()[0].Tenant; got != want {
			t.Errorf("%s %s: tenant %q, want %q", src, tag, got, want)
		}
	}
	f(`{"log":"x","ctx":{"tenant":"a"},"org":"b"}`, "t.x", "a")
	f(`{"log":"x","ctx":{"tenant":""},"org":7}`, "t.x", "7")
	f(`{"log":"x"}`, "t.x", "t")
	f(`{"log":"x"}`, "", "def")
	f(`{"log":"x","org":"not/valid"}`, "", "def")
	f(`{"log":"x","org":["a"]}`, "..", "def")
	f(`{"log":"x","org":"`+strings.Repeat("x", push.MaxTenant+1)+`"}`, "", "def")
	f(`{"log":"x",`+strings.Repeat(`"a":1,`, 2000)+`"org":"far"}`, "", "far")

	// The field stays what it would be without.
	var g Batches
	st.Add(parse(t, `{"log":"x","org":"b"}`), &Input{Job: "j"}, &g)
	if got := entries(g.Finish()[0])[0]; got.meta != "org=b" {
		t.Errorf("got %+v", got)
	}
	g.Reset()

	var many Batches
	defer many.Reset()
	for i := range MaxTenants + 5 {
		ok := st.Add(parse(t, fmt.Sprintf(`{"log":"x","org":"o%d"}`, i)), &Input{Job: "j"}, &many)
		if ok != (i < MaxTenants) {
			t.Fatalf("tenant %d: %v", i, ok)
		}
	}
	if many.Len() != MaxTenants {
		t.Fatalf("%d entries", many.Len())
	}
}

func TestParseRef(t *testing.T) {
	f := func(in string, want ref) {
		t.Helper()
		if got, err := parseRef(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", in, got, err, want)
		}
	}
	f("a", ref{path: "a"})
	f("a.b.c", ref{path: "a.b.c"})
	f("a['b']", ref{path: "a['b']"}) // a key may look like that
	f("$a", ref{path: "a"})
	f("$a.b", ref{path: "a.b"})
	f("$.a.b", ref{path: "a.b"})
	f("$a['b']", ref{path: "a.b"})
	f(`$a['b.c']["d"]`, ref{path: "a.b.c.d"})
	f("$['a']['b']", ref{path: "a.b"})
	f("$.['a']", ref{path: "a"})
	f("$a['it''s']", ref{path: "a.it's"})
	f(`$a["x]y"]`, ref{path: "a.x]y"})
	f("$a['']", ref{path: "a."})
	f("$TAGS", ref{path: "TAGS"})
	f("$TAG", ref{tag: true})
	f("$TAG[0]", ref{tag: true, cut: true})
	f("$TAG[-2]", ref{tag: true, cut: true, part: -2})
	bad := func(in, want string) {
		t.Helper()
		if got, err := parseRef(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", in, got, err, want)
		}
	}
	bad("", "empty path")
	bad("$", "no key behind $")
	bad("$['']", "empty path")
	bad("$a[", "expected ['key']")
	bad("$a[0]", "elements of arrays")
	bad("$a[x]", "a key in quotes")
	bad("$a['b", "not closed")
	bad("$a['b'", "not closed")
	bad("$a['b'c", "not closed")
	bad("$a['b']c", "expected ['key']")
	bad("$TAG[x]", "number of a part")
	bad("$TAG[1", "number of a part")
	bad("$TAG[99999]", "number of a part")
	bad("$"+strings.Repeat("x", maxPath+1), "longer than")
}

func TestTagParts(t *testing.T) {
	f := func(tag string, part int, want string) {
		t.Helper()
		r := ref{tag: true, cut: true, part: part}
		if got := string(r.tagText([]byte(tag))); got != want {
			t.Errorf("part %d of %q is %q, want %q", part, tag, got, want)
		}
	}
	f("a.b.c", 0, "a")
	f("a.b.c", 1, "b")
	f("a.b.c", 2, "c")
	f("a.b.c", 3, "")
	f("a.b.c", -1, "c")
	f("a.b.c", -3, "a")
	f("a.b.c", -4, "")
	f("", 0, "")
	f("", -1, "")
	f("a..b", 1, "")
}

func TestConfigErrors(t *testing.T) {
	f := func(want string, change func(c *Config)) {
		t.Helper()
		var got []string
		for _, err := range config(change).Validate() {
			got = append(got, err.Error())
		}
		if !reflect.DeepEqual(got, []string{want}) {
			t.Errorf("got %q, want %q", got, want)
		}
		if _, err := New(config(change), Limits{}); err == nil || err.Error() != "mapping: "+want {
			t.Errorf("New: %v, want %q", err, want)
		}
	}
	f(`labels: "x": want name=value, name=$path or $path`, func(c *Config) { c.Labels = []string{"x"} })
	f(`labels: "" is not a label name, "_" would be one`, func(c *Config) { c.Labels = []string{"=x"} })
	f(`labels: "a-b" is not a label name, "a_b" would be one`, func(c *Config) { c.Labels = []string{"a-b=$c"} })
	f(`labels: a is there twice`, func(c *Config) { c.Labels = []string{"a=1", "a=2"} })
	f(`labels: "$a" is there twice`, func(c *Config) { c.Labels = []string{"$a", "$a"} })
	f(`labels: a has a fixed value and comes from b.c`, func(c *Config) { c.Labels, c.LabelKeys = []string{"a=1"}, []string{"a=$b['c']"} })
	f(`labels: a has a fixed value and comes from $TAG[0]`, func(c *Config) { c.Labels = []string{"a=1", "a=$TAG[0]"} })
	f(`label-keys: "$a['b']" is there twice`, func(c *Config) { c.LabelKeys = []string{"a.b", "$a['b']"} })
	f(`line-keys: the tag is no field of the record`, func(c *Config) { c.LineKeys = []string{"$TAG"} })
	f(`remove-keys: path "$a[1]": elements of arrays cannot be named, only keys: ['key']`, func(c *Config) { c.RemoveKeys = []string{"$a[1]"} })
	f(`drop-single-key: "maybe" is not off, on or raw`, func(c *Config) { c.DropSingleKey = "maybe" })
	f(`structured-metadata: "some" is not all, listed or none`, func(c *Config) { c.StructuredMetadata = "some" })
	f(`structured-metadata: none, but there are metadata-keys or metadata-map-keys`, func(c *Config) { c.StructuredMetadata, c.MetadataKeys = "none", []string{"a"} })
	f(`tenant-keys: empty path`, func(c *Config) { c.TenantKeys = []string{""} })
}

// everything is a config with all settings in use.
func everything(c *Config) {
	c.Labels = []string{"env=prod", "src=$TAG[0]", "$stream"}
	c.LabelKeys = []string{"lvl=$level", "lvl=$severity", "k1", "kubernetes.pod_name"}
	c.LabelMap = []byte(`{"host":{"name":"host"},"k2":"k2"}`)
	c.AutoKubernetesLabels, c.StripLine = true, true
	c.RemoveKeys = []string{"kubernetes.annotations", "secret", "k3"}
	c.DropSingleKey, c.StructuredMetadata = "raw", "listed"
	c.MetadataKeys = []string{"trace=$ctx['trace_id']", "$TAG", "k"}
	c.MetadataMapKeys = []string{"$kubernetes"}
	c.TenantKeys = []string{"tenant", "$TAG[-1]"}
}

func TestOptionsAllocs(t *testing.T) {
	for _, format := range []string{"auto", "raw", "json", "logfmt"} {
		m := newMapper(t, config(func(c *Config) { everything(c); c.LineFormat = format }), Limits{})
		st := m.Acquire()
		recs := []*Record{
			parse(t, `{"log":"GET / 200","stream":"stdout","n":1.5,"a":[1,2],"secret":{"a":1},"kubernetes":{"pod_name":"p","namespace_name":"ns","container_name":"c","labels":{"app":"a","x":"y"}}}`),
			parse(t, `{"level":"info","user":{"id":7},"tenant":"t1","ctx":{"trace_id":"t"}}`),
		}
		in := &Input{Job: "json", Tag: []byte("kube.x"), TS: 1790000000e9}
		var g Batches
		run := func() {
			for i := range 1000 {
				st.Add(recs[i&1], in, &g)
			}
			g.Reset()
		}
		run()
		if n := testing.AllocsPerRun(10, run); n > 20 {
			t.Errorf("%s: %v allocations for 1000 records", format, n)
		}
	}
}

// FuzzOptions holds the grown config to what FuzzMap asks of the default one,
// and to its own promises: a removed field is nowhere, the result does not
// depend on what the State has seen.
func FuzzOptions(f *testing.F) {
	f.Add(fixture(f, "flb_http_json.req0.bin"), "kubernetes.host", "tag.x", uint16(0))
	f.Add(fixture(f, "constructed_logstash_json_batch.req0.bin"), "type", "", uint16(0xffff))
	f.Add([]byte(`{"log":{"a":1},"":{"":{"":1}},"kubernetes":{"labels":{"a.b":"c","a_b":"d"},"x":null},"tag":"x","a":{"b":2}}`), "$a['b']", "\xff", uint16(0x1234))
	formats := []string{"auto", "raw", "json", "logfmt"}
	f.Fuzz(func(t *testing.T, src []byte, path, tag string, bits uint16) {
		c := config(everything)
		c.LineFormat = formats[bits&3]
		c.StructuredMetadata = []string{"all", "listed", "none", "all"}[bits>>2&3]
		c.DropSingleKey = []string{"off", "on", "raw", "off"}[bits>>4&3]
		c.StripLine, c.DefaultLabels, c.AutoKubernetesLabels = bits>>6&1 != 0, bits>>7&1 != 0, bits>>8&1 != 0
		if c.StructuredMetadata == "none" {
			c.MetadataKeys, c.MetadataMapKeys = nil, nil
		}
		if bits>>9&1 != 0 {
			c.LabelKeys = append(c.LabelKeys, path)
		}
		if bits>>10&1 != 0 && c.StructuredMetadata != "none" {
			c.MetadataKeys = append(c.MetadataKeys, "own=$"+path)
		}
		if bits>>11&1 != 0 {
			c.LineKeys = append(c.LineKeys, path)
		}
		m, err := New(c, Limits{Pairs: 10, Bytes: 500, Labels: 8})
		if err != nil {
			return // the path
		}
		st := m.Acquire()
		var s Stream
		var rec Record
		var g Batches
		in := &Input{Job: "fuzz", Tag: []byte(tag), Tenant: "def"}
		s.Reset(src, false)
		for s.Next(&rec) == nil {
			if rec.Nodes[0].Kind != Map {
				continue
			}
			got := mapOne(st, &rec, in)
			if again := mapOne(m.newState(), &rec, in); got != again {
				t.Fatalf("%+v by a used state, %+v by a new one", got, again)
			}
			ls, err := labels.Parse(got.labels)
			if err != nil {
				t.Fatal(err)
			}
			if text := ls.String(); text != got.labels {
				t.Fatalf("labels %s are not canonical: %s", got.labels, text)
			}
			for _, l := range ls {
				if !validLabel.MatchString(l.Name) || strings.HasPrefix(l.Name, "__") {
					t.Fatalf("label %q", l.Name)
				}
			}
			if !st.Add(&rec, in, &g) {
				g.Reset()
				if !st.Add(&rec, in, &g) {
					t.Fatal("no room in empty batches")
				}
			}
		}
		for _, b := range g.Finish() {
			if !push.ValidTenant(b.Tenant) {
				t.Fatalf("tenant %q", b.Tenant)
			}
		}
		g.Reset()
	})
}

// FuzzParseRef looks for panics, and for paths that are not what the form without
// dollar says.
func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"a.b", "$a['b']", `$a["b"]['c''d']`, "$TAG[-1]", "$.a.b", "name=$a", "$a[0]", "$["} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := parseKeyed(s)
		if err != nil {
			return
		}
		if len(k.path) > maxPath || k.tag != (k.path == "") {
			t.Fatalf("%q: %+v", s, k)
		}
		if k.tag || k.path[0] == '$' {
			return
		}
		if again, err := parseRef(k.path); err != nil || again != k.ref {
			t.Fatalf("%q: %+v, then %+v, %v", s, k.ref, again, err)
		}
		// The same as keys in brackets.
		if bracketed, err := parseRef("$['" + strings.ReplaceAll(k.path, "'", "''") + "']"); err != nil || bracketed != k.ref {
			t.Fatalf("%q in brackets: %+v, %v", k.path, bracketed, err)
		}
	})
}

func FuzzLabelMap(f *testing.F) {
	f.Add([]byte(`{"kubernetes":{"namespace_name":"ns","labels":{"app":"app"}},"stream":"stream"}`))
	f.Add([]byte(`{"a":{"":{"b":"x"}}}`))
	f.Add([]byte(`{"a":["b"]} x`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseLabelMap(data)
		if err != nil {
			return
		}
		for _, k := range keys {
			if !validLabel.MatchString(k.name) || strings.HasPrefix(k.name, "__") {
				t.Fatalf("label %q", k.name)
			}
		}
		if len(data) > 0 && len(keys) < 1000 {
			if _, err := New(Config{LabelMap: data}, Limits{}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
