package mapping

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/proto/push"
)

// entry is what a record became.
type entry struct {
	labels string
	ts     int64
	line   string
	meta   string // name=value pairs, joined by spaces
}

func newMapper(t testing.TB, c Config, l Limits) *Mapper {
	t.Helper()
	m, err := New(c, l)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func entries(b *push.Batch) []entry {
	var out []entry
	for i := range b.Streams {
		s := &b.Streams[i]
		for j := range b.StreamEntries(s) {
			e := &b.StreamEntries(s)[j]
			var meta []string
			for p := b.Pairs(e); p.Next(); {
				meta = append(meta, string(p.Name)+"="+string(p.Value))
			}
			out = append(out, entry{string(b.Bytes(s.RawLabels)), e.TS, string(b.Bytes(e.Line)), strings.Join(meta, " ")})
		}
	}
	return out
}

func mapOne(st *State, rec *Record, in *Input) entry {
	var g Batches
	defer g.Reset()
	st.Add(rec, in, &g)
	return entries(g.Finish()[0])[0]
}

func config(change func(c *Config)) Config {
	c := DefaultConfig()
	change(&c)
	return c
}

func TestMap(t *testing.T) {
	var m *Mapper
	in := &Input{Job: "json", TS: 5}
	f := func(src, wantLabels, wantLine, wantMeta string) {
		t.Helper()
		got := mapOne(m.Acquire(), parse(t, src), in)
		if want := (entry{wantLabels, 5, wantLine, wantMeta}); got != want {
			t.Fatalf("%s:\n got %+v\nwant %+v", src, got, want)
		}
	}

	m = newMapper(t, DefaultConfig(), Limits{})
	job := `{job="json"}`
	// The line.
	f(`{"log":"a","message":"b","msg":"c"}`, job, `a`, `message=b msg=c`)
	f(`{"msg":"c","message":"b"}`, job, `b`, `msg=c`)
	f(`{"log":null,"msg":"c"}`, job, `c`, ``)
	f(`{"log":""}`, job, ``, ``)
	f(`{"log":12.50}`, job, `12.50`, ``)
	f(`{"log":true}`, job, `true`, ``)
	f(`{"log":{"a":[1,{"b":"x"}]},"z":1}`, job, `{"a":[1,{"b":"x"}]}`, `z=1`)
	f(`{"log":[1,"two"]}`, job, `[1,"two"]`, ``)
	f(`{"log":{"file":{"path":"p"}},"message":5,"msg":"m"}`, job, `m`, `log_file_path=p message=5`)
	f(`{"log":{"file":{"path":"p"}},"message":5}`, job, `5`, `log_file_path=p`)
	f(`{"log":{"a":1},"message":[2]}`, job, `{"a":1}`, `message=[2]`)
	f("{\"log\":\"bad \xff utf8\"}", job, "bad \xff utf8", ``)
	f(`{"log":"a\n"}`, job, "a\n", ``)
	f(`{"log":"first","log":"second"}`, job, `first`, `log=second`)
	// Without a line key.
	f(`{"a":1,"b":{"c":null}}`, job, `{"a":1,"b":{"c":null}}`, ``)
	f(`{}`, job, `{}`, ``)
	// Metadata.
	f(`{"log":"x","z":1,"a":{"b":"c","d":{"e":true}},"f":[1,{"g":2}],"n":null,"em":{},"ea":[],"es":""}`,
		job, `x`, `a_b=c a_d_e=true ea=[] em={} es= f=[1,{"g":2}] z=1`)
	f(`{"log":"x","key with space.and/dots":"v","日本":"j","9":"n","":{"":"deep"}}`, job, `x`, `key=deep key_2=j key_9=n key_with_space_and_dots=v`)
	f(`{"log":"x","a.b":1,"a":{"b":2},"a_b":2,"c.d":1,"c_d":1}`, job, `x`, `a_b=1 a_b_2=2 a_b_3=2 c_d=1`)
	f(`{"log":"x","job":"mine"}`, job, `x`, `job=mine`)
	// The name of the service.
	f(`{"log":"x","service_name":"s"}`, `{job="json", service_name="s"}`, `x`, ``)
	f(`{"log":"x","service":{"name":"s","id":7}}`, `{job="json", service_name="s"}`, `x`, `service_id=7`)
	f(`{"log":"x","service.name":"s"}`, `{job="json", service_name="s"}`, `x`, ``)
	f(`{"log":"x","service":"s"}`, `{job="json", service_name="s"}`, `x`, ``)
	f(`{"log":"x","service":"b","service_name":"a"}`, `{job="json", service_name="a"}`, `x`, `service=b`)
	f(`{"log":"x","service_name":"","service":"b"}`, `{job="json", service_name="b"}`, `x`, `service_name=`)
	f(`{"log":"x","container_name":"/web"}`, `{job="json", service_name="web"}`, `x`, ``)
	f(`{"log":"x","container_name":"/","container_id":"c"}`, job, `x`, `container_id=c container_name=/`)
	f(`{"log":"x","service":["a"]}`, job, `x`, `service=["a"]`)
	// Kubernetes.
	f(`{"log":"x","kubernetes":{"pod_name":"p","namespace_name":"ns","container_name":"c","labels":{"app":"a","app.kubernetes.io/name":"n","tier":"t"}}}`,
		`{app="a", container="c", job="json", namespace="ns", service_name="n"}`, `x`, `kubernetes_labels_tier=t kubernetes_pod_name=p`)
	f(`{"log":"x","kubernetes":{"labels":{"app.kubernetes.io/name":"n"}}}`, `{app="n", job="json", service_name="n"}`, `x`, ``)
	f(`{"log":"x","kubernetes":{"container_name":"c"},"container_name":"/d"}`, `{container="c", job="json", service_name="c"}`, `x`, `container_name=/d`)
	f(`{"log":"x","kubernetes":{"container":{"name":"c"},"namespace":"ns"}}`, `{container="c", job="json", namespace="ns", service_name="c"}`, `x`, ``)
	// Label values are quoted as Loki does.
	f(`{"log":"x","service":"a\"b\\\n"}`, `{job="json", service_name="a\"b\\\n"}`, `x`, ``)
	f("{\"log\":\"x\",\"service\":\"a\xffb\"}", `{job="json", service_name="a�b"}`, `x`, ``)

	in.Tag = []byte("kube.x")
	f(`{"log":"x","u":1,"s":2}`, job, `x`, `s=2 tag=kube.x u=1`)
	f(`{"log":"x","tag":"mine"}`, job, `x`, `tag=kube.x tag_2=mine`)
	f(`{"log":"x","tag":"kube.x"}`, job, `x`, `tag=kube.x`)
	f(`{"a":1}`, job, `{"a":1}`, `tag=kube.x`)
	in.Meta = parse(t, `{"trace_id":"t","nested":{"a":[1]},"log":"m","service":"no"}`)
	f(`{"log":"x","z":1}`, job, `x`, `log=m nested_a=[1] service=no tag=kube.x trace_id=t z=1`)
	f(`{"z":1}`, job, `{"z":1}`, `log=m nested_a=[1] service=no tag=kube.x trace_id=t`)
	in.Tag, in.Meta = nil, nil
	in.LineKey = "message"
	f(`{"log":"l","message":"m","msg":"n"}`, job, `m`, `log=l msg=n`)
	f(`{"log":"l","message":{"a":1}}`, job, `{"a":1}`, `log=l`)
	f(`{"log":{"a":1},"msg":5}`, job, `5`, `log_a=1`)
	f(`{"log":{"a":1},"b":5}`, job, `{"log":{"a":1},"b":5}`, ``)
	in.LineKey = "no"
	f(`{"log":{"a":1},"b":5}`, job, `{"a":1}`, `b=5`)
	in.LineKey = ""

	m = newMapper(t, config(func(c *Config) { c.LineFormat = "json" }), Limits{})
	f(`{"log":"a","b":{"c":1},"kubernetes":{"namespace_name":"ns"}}`, `{job="json", namespace="ns"}`, `{"log":"a","b":{"c":1},"kubernetes":{"namespace_name":"ns"}}`, ``)
	m = newMapper(t, config(func(c *Config) { c.LineFormat = "logfmt" }), Limits{})
	f(`{"log":"a b","b":{"c":1},"service":"s"}`, `{job="json", service_name="s"}`, `log="a b" b_c=1 service=s`, ``)

	m = newMapper(t, config(func(c *Config) { c.LabelKeys = []string{"level", "http.status", "http_status", "ok", "none"} }), Limits{})
	f(`{"log":"x","level":"warn","http":{"status":200,"method":"GET"},"ok":true,"none":""}`,
		`{http_status="200", job="json", level="warn", ok="true"}`, `x`, `http_method=GET none=`)
	f(`{"log":"x","http.status":200,"http_status":404}`, `{http_status="200", http_status_2="404", job="json"}`, `x`, ``)
	f(`{"log":"x","level":["a"],"http":{"status":{"a":1}}}`, job, `x`, `http_status_a=1 level=["a"]`)
	f(`{"level":"warn","a":1}`, `{job="json", level="warn"}`, `{"level":"warn","a":1}`, ``)
	m = newMapper(t, config(func(c *Config) { c.LabelKeys = []string{"app", "job", "log", "é.x", "_x"} }), Limits{})
	f(`{"log":"x","app":"mine","job":"j","kubernetes":{"labels":{"app":"k"}}}`, `{app="mine", job="j", log="x", service_name="k"}`, `x`, ``)
	f(`{"log":"x","kubernetes":{"labels":{"app":"k"}}}`, `{app="k", job="json", log="x", service_name="k"}`, `x`, ``)
	f(`{"msg":"x","é":{"x":"1"},"_x":"2"}`, `{_x="1", _x_2="2", job="json"}`, `x`, ``)
	m = newMapper(t, config(func(c *Config) { c.LineKeys = []string{"a.b", "c"} }), Limits{})
	f(`{"c":"no","a":{"b":"yes","d":1}}`, job, `yes`, `a_d=1 c=no`)
	f(`{"a":{"b":{"log":"l","x":1},"d":1}}`, job, `{"log":"l","x":1}`, `a_d=1`)
	f(`{"log":"l"}`, job, `{"log":"l"}`, ``)
	m = newMapper(t, config(func(c *Config) { c.LineKeys = nil }), Limits{})
	f(`{"log":"l","k":1}`, job, `{"log":"l","k":1}`, ``)
}

// Binary values come from MessagePack, not from JSON.
func TestMapBinary(t *testing.T) {
	m := newMapper(t, DefaultConfig(), Limits{})
	rec := &Record{Nodes: []Node{
		{Kind: Map, End: 4},
		{Kind: Bytes, Key: []byte("log"), Str: []byte("l\xff")},
		{Kind: Bytes, Key: []byte("bin"), Str: []byte{0, 0xfe}},
		{Kind: Ext, Key: []byte("ext"), Str: []byte("plain")},
	}}
	got := mapOne(m.Acquire(), rec, &Input{Job: "forward"})
	if want := (entry{`{job="forward"}`, 0, "l\xff", "bin=base64:AP4= ext=plain"}); got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

func TestMapUsed(t *testing.T) {
	m := newMapper(t, DefaultConfig(), Limits{})
	rec := parse(t, `{"log":"x","time":1,"a":{"b":2,"service":"s"},"c":{"d":3}}`)
	rec.Nodes[rec.Field(0, "time")].Used = true
	rec.Nodes[rec.Field(0, "a")].Used = true
	got := mapOne(m.Acquire(), rec, &Input{Job: "json"})
	if want := (entry{`{job="json"}`, 0, "x", "c_d=3"}); got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
}

func TestMapLimits(t *testing.T) {
	m := newMapper(t, DefaultConfig(), Limits{Pairs: 3, Bytes: 40})
	f := func(src, meta, wantLine, wantMeta string) {
		t.Helper()
		in := &Input{Job: "json", Tag: []byte("t")}
		if meta != "" {
			in.Meta = parse(t, meta)
		}
		got := mapOne(m.Acquire(), parse(t, src), in)
		if got.line != wantLine || got.meta != wantMeta {
			t.Fatalf("%s:\n got %+v\nwant %s %s", src, got, wantLine, wantMeta)
		}
		if !strings.Contains(got.labels, `service_name="s"`) {
			t.Fatalf("%s: labels %s", src, got.labels)
		}
	}
	f(`{"log":"x","a":1,"b":2,"service":"s"}`, ``, `x`, `a=1 b=2 tag=t`)
	f(`{"log":"x","a":1,"b":2,"c":3,"service":"s"}`, ``, `{"log":"x","a":1,"b":2,"c":3,"service":"s"}`, `tag=t`)
	f(`{"log":"x","a":"0123456789012345678901234567890123456789","service":"s"}`, ``,
		`{"log":"x","a":"0123456789012345678901234567890123456789","service":"s"}`, `tag=t`)
	f(`{"log":"x","service":"s"}`, `{"a":1,"b":2}`, `x`, `a=1 b=2 tag=t`)
	f(`{"log":"x","c":3,"service":"s"}`, `{"a":1,"b":2}`, `{"log":"x","c":3,"service":"s"}`, `a=1 b=2 tag=t`)
	f(`{"log":"x","service":"s"}`, `{"a":1,"b":2,"c":3}`, `{"log":"x","service":"s","__internal__":{"log_metadata":{"a":1,"b":2,"c":3}}}`, `tag=t`)
	// Fields far behind the limit still become labels.
	many := `{"log":"x",` + strings.Repeat(`"a":1,`, 500) + `"service":{"x":{},"name":"s"}}`
	f(many, ``, many, `tag=t`)
	long := `{"log":"x","` + strings.Repeat("k", maxPath+1) + `":{"a":1},"service":"s"}`
	f(long, ``, long, `tag=t`)
	maps := `{"log":"x",` + strings.Repeat(`"a":{"b":{"c":null}},`, 500) + `"service":"s"}`
	f(maps, ``, maps, `tag=t`)
}

// Many records in one batch: streams are told apart, equal times spread.
func TestMapBatch(t *testing.T) {
	m := newMapper(t, DefaultConfig(), Limits{})
	st := m.Acquire()
	var g Batches
	defer g.Reset()
	for i := range 4 {
		rec := parse(t, fmt.Sprintf(`{"log":"same","service":"s%d"}`, i%2))
		st.Add(rec, &Input{Job: "j", TS: 1e9}, &g)
	}
	want := []entry{
		{`{job="j", service_name="s0"}`, 1e9, "same", ""},
		{`{job="j", service_name="s0"}`, 1e9 + 1, "same", ""},
		{`{job="j", service_name="s1"}`, 1e9, "same", ""},
		{`{job="j", service_name="s1"}`, 1e9 + 1, "same", ""},
	}
	if got := entries(g.Finish()[0]); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v", got)
	}
}

// The result must not depend on what a State has seen: a retry goes through
// another one.
func TestMapIndependent(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	m := newMapper(t, config(func(c *Config) { c.LabelKeys = []string{"k1", "k2.k3"} }), Limits{Pairs: 20, Bytes: 400})
	used := m.Acquire()
	for range 5000 {
		src := randomObject(rnd, 3)
		rec := parse(t, src)
		in := &Input{Job: "j", Tag: []byte("t")}
		got, want := mapOne(used, rec, in), mapOne(m.newState(), rec, in)
		if got != want {
			t.Fatalf("%s:\n got %+v\nwant %+v", src, got, want)
		}
		if _, err := labels.Parse(got.labels); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(used.keys.sorted); n > maxKeys+500 {
		t.Fatalf("%d keys kept", n)
	}
}

func randomObject(rnd *rand.Rand, depth int) string {
	var b strings.Builder
	b.WriteByte('{')
	for i := range rnd.Intn(8) {
		if i > 0 {
			b.WriteByte(',')
		}
		key := [...]string{"log", "message", "k", "k1", "k2", "k3", "k2.k3", "k_1", "k-1", "service", "tag", "kubernetes", "labels", "app", "x" + fmt.Sprint(rnd.Intn(5000))}[rnd.Intn(15)]
		fmt.Fprintf(&b, "%q:", key)
		switch n := rnd.Intn(7); {
		case n < 2 && depth > 0:
			b.WriteString(randomObject(rnd, depth-1))
		case n == 3:
			b.WriteString(`[1,"a"]`)
		case n == 4:
			b.WriteString(`null`)
		case n == 5:
			b.WriteString(fmt.Sprint(rnd.Intn(3)))
		default:
			fmt.Fprintf(&b, "%q", strings.Repeat("v", rnd.Intn(60)))
		}
	}
	b.WriteByte('}')
	return b.String()
}

// No field is lost: every string value of a record is in its line, labels or
// metadata.
func TestMapKeepsAll(t *testing.T) {
	m := newMapper(t, config(func(c *Config) { c.LabelKeys = []string{"l1", "l2"} }), Limits{Pairs: 6})
	st := m.Acquire()
	rnd := rand.New(rand.NewSource(2))
	for range 5000 {
		fields := map[string]string{}
		for range 1 + rnd.Intn(10) {
			k := [...]string{"log", "msg", "a", "b", "a.b", "a_b", "l1", "l2", "service", "app", "c", "d", "e", "é", "-"}[rnd.Intn(15)]
			fields[k] = fmt.Sprintf("value%d", rnd.Intn(1e6))
		}
		src, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		got := mapOne(st, parse(t, string(src)), &Input{Job: "j"})
		all := got.labels + " " + got.line + " " + got.meta
		for k, v := range fields {
			if !strings.Contains(all, v) {
				t.Fatalf("%s: %s=%s is lost in %+v", src, k, v, got)
			}
		}
	}
}

func TestMapperShared(t *testing.T) {
	m := newMapper(t, DefaultConfig(), Limits{})
	rec := parse(t, `{"log":"x","service":"s","a":{"b":1}}`)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				st := m.Acquire()
				if got := mapOne(st, rec, &Input{Job: "j"}); got.meta != "a_b=1" || got.labels != `{job="j", service_name="s"}` {
					t.Errorf("got %+v", got)
				}
				m.Release(st)
			}
		})
	}
	wg.Wait()
}

func TestConfigValidate(t *testing.T) {
	if errs := DefaultConfig().Validate(); len(errs) > 0 {
		t.Fatal(errs)
	}
	c := Config{LabelKeys: []string{"", "a", "a"}, LineKeys: []string{strings.Repeat("x", 2000)}, LineFormat: "xml"}
	if errs := c.Validate(); len(errs) != 4 {
		t.Fatalf("%d problems: %v", len(errs), errs)
	}
	if _, err := New(c, Limits{}); err == nil {
		t.Fatal("New takes a bad config")
	}
}

// FuzzMap looks for panics, for label text that does not parse, and for
// metadata that is not in normal form.
func FuzzMap(f *testing.F) {
	f.Add(fixture(f, "flb_http_json.req0.bin"), "kubernetes.host,a", "tag")
	f.Add(fixture(f, "constructed_logstash_json_batch.req0.bin"), "type,host.name", "")
	f.Add([]byte(`{"log":{"a":1},"":{"":{"":1}},"a":[{}],"tag":"x","a.b":1,"a":{"b":2}}`), "log,a.b,", "\xff")
	f.Fuzz(func(t *testing.T, src []byte, keys, tag string) {
		c := DefaultConfig()
		for _, k := range strings.Split(keys, ",") {
			if k != "" && len(k) < 100 && !strings.Contains(k, "$") && !strings.Contains(strings.Join(c.LabelKeys, ","), k) {
				c.LabelKeys = append(c.LabelKeys, k)
			}
		}
		for _, format := range []string{"auto", "json", "logfmt"} {
			c.LineFormat = format
			m, err := New(c, Limits{Pairs: 10, Bytes: 500})
			if err != nil {
				t.Fatal(err)
			}
			st := m.Acquire()
			var s Stream
			var rec Record
			s.Reset(src, false)
			for s.Next(&rec) == nil {
				got := mapOne(st, &rec, &Input{Job: "fuzz", Tag: []byte(tag)})
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
			}
		}
	})
}

func TestMapAllocs(t *testing.T) {
	m := newMapper(t, DefaultConfig(), Limits{})
	st := m.Acquire()
	recs := []*Record{
		parse(t, `{"log":"GET / 200","stream":"stdout","n":1.5,"a":[1,2],"kubernetes":{"pod_name":"p","namespace_name":"ns","container_name":"c","labels":{"app":"a","x":"y"}}}`),
		parse(t, `{"level":"info","user":{"id":7}}`),
	}
	var g Batches
	in := &Input{Job: "json", Tag: []byte("kube.x"), TS: 1790000000e9}
	run := func() {
		for i := range 1000 {
			st.Add(recs[i&1], in, &g)
		}
		g.Reset()
	}
	run()
	// What is left is the builder's: the text of each stream, once a batch.
	if n := testing.AllocsPerRun(10, run); n > 10 {
		t.Fatalf("%v allocations for 1000 records", n)
	}
}

func BenchmarkMap(b *testing.B) {
	for _, c := range []struct{ name, file, format string }{
		{"fluentbit", "flb_http_json.req0.bin", "auto"},
		{"logstash", "constructed_logstash_json_batch.req0.bin", "auto"},
		{"logstash-json", "constructed_logstash_json_batch.req0.bin", "json"},
		{"logstash-logfmt", "constructed_logstash_json_batch.req0.bin", "logfmt"},
		{"fluentbit-everything", "flb_http_json.req0.bin", "json"},
	} {
		b.Run(c.name, func(b *testing.B) {
			body := fixture(b, c.file)
			var recs []*Record
			var s Stream
			for s.Reset(body, false); ; {
				rec := new(Record)
				if err := s.Next(rec); err == io.EOF {
					break
				} else if err != nil {
					b.Fatal(err)
				}
				for i := range rec.Nodes { // the parser's buffer is used again
					n := &rec.Nodes[i]
					n.Key, n.Str = bytes.Clone(n.Key), bytes.Clone(n.Str)
				}
				recs = append(recs, rec)
			}
			m := newMapper(b, config(func(cfg *Config) {
				if strings.HasSuffix(c.name, "everything") {
					everything(cfg)
				}
				cfg.LineFormat = c.format
			}), Limits{})
			st := m.Acquire()
			var g Batches
			in := &Input{Job: "json", Tag: []byte("kube.var.log"), TS: 1790000000e9}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n++; n%1000 == 0 {
					g.Reset()
				}
				in.TS++
				st.Add(recs[n%len(recs)], in, &g)
			}
			b.SetBytes(int64(len(body) / len(recs)))
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
