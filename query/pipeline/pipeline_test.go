package pipeline

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/logql"
)

func parse(t testing.TB, q string) logql.Expr {
	t.Helper()
	e, err := logql.Parse(q)
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	return e
}

func stream(t testing.TB, s string) labels.Labels {
	t.Helper()
	ls, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

// show runs the stages on a line of {app="web", host="h"}: the line and the
// labels by where they are from, or "dropped".
func show(t testing.TB, stages, line string, meta ...string) string {
	t.Helper()
	p, err := New(parse(t, `{a="b"} `+stages).(*logql.LogQuery).Stages)
	if err != nil {
		t.Fatalf("%s: %v", stages, err)
	}
	p.For(stream(t, `{app="web", host="h"}`))
	var out string
	for range 2 { // state of an entry must not reach the next
		out = "dropped"
		if !p.MatchLine([]byte(line)) {
			continue
		}
		p.Begin()
		for _, m := range meta {
			n, v, _ := strings.Cut(m, "=")
			p.Meta(n, v)
		}
		if p.Match(1_700_000_000_000_000_000, []byte(line)) {
			s, m, parsed := p.Result()
			out = fmt.Sprintf("%s %s %s %s", p.Line(), s, m, parsed)
		}
	}
	return out
}

func TestStages(t *testing.T) {
	f := func(stages, line, want string, meta ...string) {
		t.Helper()
		if got := show(t, stages, line, meta...); got != want {
			t.Errorf("%s on %s:\n got %s\nwant %s", stages, line, got, want)
		}
	}
	const base = `{app="web", host="h"}`
	f(``, `x`, `x `+base+` {} {}`)
	f(`|= "y"`, `x`, `dropped`)
	f(``, `x`, `x `+base+` {host_extracted="2", trace="1"} {}`, "trace=1", "host=2")
	f(``, `x`, `x `+base+` {trace="2"} {}`, "trace=1", "trace=2")

	f(`| json`, `{"a":1,"b":"x\ty\u00e9","c":true,"d":null,"e":[1],"f":{"g":{"h":-2.5e3}},"app":"in","k k":"v"}`,
		`{"a":1,"b":"x\ty\u00e9","c":true,"d":null,"e":[1],"f":{"g":{"h":-2.5e3}},"app":"in","k k":"v"} `+base+
			` {} {a="1", app_extracted="in", b="x\tyé", c="true", f_g_h="-2.5e3", k_k="v"}`)
	f(`| json`, `{"9a":1,"":2," ":3,"é":4}`, `{"9a":1,"":2," ":3,"é":4} `+base+` {} {_="4", _9a="1"}`)
	f(`| json`, `{"a":{"9":1, "":{"b":2}}}`, `{"a":{"9":1, "":{"b":2}}} `+base+` {} {a_9="1", a_b="2"}`)
	f(`| json`, `{"m":"in"}`, `{"m":"in"} `+base+` {m="out"} {m_extracted="in"}`, "m=out")
	f(`| json`, `{"a":{"host":1},"a_host":2}`, `{"a":{"host":1},"a_host":2} `+base+` {} {a_host="1"}`)
	f(`| json | drop __error_details__`, `{"a":1,"b":`, `{"a":1,"b": `+base+` {} {__error__="JSONParserErr", a="1"}`)
	f(`| json | drop a`, `{"a":1 "b":2}`, `{"a":1 "b":2} `+base+
		` {} {__error__="JSONParserErr", __error_details__="Value looks like object, but can't find closing '}' symbol"}`)
	for line, details := range map[string]string{
		``: "Value looks like object, but can't find closing '}' symbol", `[]`: "Value looks like object, but can't find closing '}' symbol",
		`{`: "Malformed JSON error", `{"a`: "Malformed JSON error", `{"a" 1}`: "Malformed JSON error", `{"a":"b}`: "Value is string, but can't find closing '\\\"' symbol",
		`{"a":[1}`: "Value is array, but can't find closing ']' symbol", `{"a":{}`: "Value is array, but can't find closing ']' symbol",
		`{"a":{`: "Value looks like object, but can't find closing '}' symbol", `{"a":x}`: "Unknown value type",
		`{"\q":1}`: "Encountered an invalid escape sequence in a string", `{"a":1,`: "Value is array, but can't find closing ']' symbol",
	} {
		f(`| json | drop a`, line, line+` `+base+` {} {__error__="JSONParserErr", __error_details__="`+details+`"}`)
	}
	f(`| json`, `{"a":"\ud83d\ude00 \ud83d","b":"bad \q","c":"`+"\xff"+`"}`, `{"a":"\ud83d\ude00 \ud83d","b":"bad \q","c":"`+"\xff"+`"} `+base+` {} {a="", b="", c=" "}`)
	f(`| json a="b.c", d="e[1]", f="[\"g h\"]", i="b", n, z="none"`, `{"b":{"c":"x\ny"},"e":[1,{"q":"w"}],"g h":1.0,"n":null}`,
		`{"b":{"c":"x\ny"},"e":[1,{"q":"w"}],"g h":1.0,"n":null} `+base+` {} {a="x\ny", d="{\"q\":\"w\"}", f="1.0", i="{\"c\":\"x\\ny\"}", n="", z=""}`)
	f(`| json a="[1][0].b", c="[2]", d="[9]"`, `[0,[{"b":"x"}],"s"]`, `[0,[{"b":"x"}],"s"] `+base+` {} {a="x", c="s", d=""}`)
	f(`| json a="b"`, `{"x":{"b":1},"b":2,"b":3}`, `{"x":{"b":1},"b":2,"b":3} `+base+` {} {a="2"}`)
	f(`| json a="b"`, `{"x":oops,"b":2`, `{"x":oops,"b":2 `+base+` {} {a="2"}`)
	f(`| json a="b"`, `plain`, `plain `+base+` {} {__error__="JSONParserErr"}`)
	f(`| json a="b"`, ``, ` `+base+` {} {}`)
	f(`| json host="b"`, `{"b":1}`, `{"b":1} `+base+` {} {host_extracted="1"}`)

	f(`| logfmt`, `a=1 b="x \"y\" \u00e9" c= d e.f=g host=in a=2`, `a=1 b="x \"y\" \u00e9" c= d e.f=g host=in a=2 `+base+
		` {} {a="1", b="x \"y\" é", e_f="g", host_extracted="in"}`)
	f(`| logfmt --keep-empty`, `c= d`, `c= d `+base+` {} {c="", d=""}`)
	f(`| logfmt`, `a=1 =2 b"c d=4`, `a=1 =2 b"c d=4 `+base+` {} {a="1", d="4"}`)
	for line, details := range map[string]string{
		`a=1 =2 d=4`: "pos 5 : unexpected '='", `a=1 b"c`: `pos 6 : unexpected '\"'`, `a=1 b=c=d`: "pos 8 : unexpected '='",
		`a=1 b="x`: "pos 9 : unterminated quoted value", `a=1 b="\q"`: "pos 11 : invalid quoted value", "a=1 \xff=2": "pos 6 : invalid key",
	} {
		f(`| logfmt --strict`, line, line+` `+base+` {} {__error__="LogfmtParserErr", __error_details__="logfmt syntax error at `+details+`", a="1"}`)
	}
	f(`| logfmt x="a", y="a", b, z="none"`, `a=1 b=2 c=3`, `a=1 b=2 c=3 `+base+` {} {b="2", x="1", y="1", z=""}`)
	f(`| logfmt host="a"`, `a=1`, `a=1 `+base+` {} {host_extracted="1"}`)

	f(`| regexp "(?P<a>\\d+) (?P<app>\\w+)( (?P<c>z))?"`, `12 ab`, `12 ab `+base+` {} {a="12", app_extracted="ab", c=""}`)
	f(`| regexp "(?P<a>\\d+)"`, `none`, `none `+base+` {} {}`)
	f(`| pattern "<a>-<_>-<host>!"`, `1-2-3!4`, `1-2-3!4 `+base+` {} {a="1", host_extracted="3"}`)
	f(`| pattern "x<a>-<b>"`, `x1`, `x1 `+base+` {} {a="1"}`)
	f(`| pattern "x<a>"`, `y1`, `y1 `+base+` {} {}`)
	f(`| unpack`, `{"a":"b","n":1,"_entry":"the \"line\""}`, `the "line" `+base+` {} {a="b"}`)
	f(`| unpack`, `{"a":"b"}`, `{"a":"b"} `+base+` {} {}`)
	f(`| unpack`, `x`, `x `+base+` {} {__error__="JSONParserErr", __error_details__="expecting json object(6), but it is not"}`)
	f(`| unpack |= "line"`, `{"_entry":"x","line":"y"}`, `dropped`)

	f(`| logfmt | a>5`, `a=6`, `a=6 `+base+` {} {a="6"}`)
	f(`| logfmt | a>5`, `a=5`, `dropped`)
	f(`| logfmt | a>5`, `b=6`, `dropped`)
	f(`| logfmt | a>5`, `a=x`, `a=x `+base+` {} {__error__="LabelFilterErr", __error_details__="strconv.ParseFloat: parsing \"x\": invalid syntax", a="x"}`)
	f(`| logfmt | a>5 | __error__=""`, `a=x`, `dropped`)
	f(`| logfmt | a>=5s or b<1KiB`, `a=4999ms b=1000B`, `a=4999ms b=1000B `+base+` {} {a="4999ms", b="1000B"}`)
	f(`| logfmt | a>=5s, b<1KiB`, `a=4999ms b=1000B`, `dropped`)
	f(`| logfmt | a==0.5 a!=1`, `a=.5`, `a=.5 `+base+` {} {a=".5"}`)
	f(`| logfmt | a=ip("10.0.0.0/8")`, `a=10.1.1.1`, `a=10.1.1.1 `+base+` {} {a="10.1.1.1"}`)
	f(`| logfmt | a!=ip("10.0.0.0/8")`, `a=10.1.1.1`, `dropped`)
	f(`| logfmt | a!=ip("10.0.0.0/8")`, `b=1`, `dropped`)
	f(`| logfmt | b=""`, `a=1`, `a=1 `+base+` {} {a="1"}`)
	f(`| app=~"w.b" | host!~"x|y" | trace="1"`, `x`, `x `+base+` {trace="1"} {}`, "trace=1")
	f(`| logfmt | a=~"x.y"`, "a=\"x\\ny\"", `dropped`) // unlike in a selector
	f(`| json | a="x"`, `{"a":"y","b":oops`, `dropped`)

	f(`| logfmt | line_format "{{.a}}"`, `a=1`, `1 `+base+` {} {a="1"}`)
	f(`| line_format "{{.none}}"`, `a=1`, ` `+base+` {} {}`)
	f(`| line_format "{{.app}}-{{__line__}}-{{.trace}}" | line_format "<{{__line__}}>"`, `x`, `<web-x-1> `+base+` {trace="1"} {}`, "trace=1")
	f(`| line_format "{{div 1 0}}" | drop __error_details__`, `x`, `x `+base+` {} {__error__="TemplateFormatErr"}`)
	f(`| line_format "abc" |= "b" | logfmt`, `x`, `abc `+base+` {} {}`)
	f(`| label_format a=app, b="{{.app}}{{.a}}", host="x"`, `x`, `x {} {} {a="web", b="web", host="x"}`)
	f(`| label_format trace="{{.trace}}!", u=none`, `x`, `x `+base+` {} {trace="1!"}`, "trace=1")
	f(`| label_format t=trace`, `x`, `x `+base+` {} {t="1"}`, "trace=1")
	f(`| decolorize`, "\x1b[31mred\x1b[0m \x1b[1;32mx", `red x `+base+` {} {}`)
	f(`| decolorize |= "red x"`, "\x1b[31mred\x1b[0m x", `dropped`) // line filters go first
	f(`| logfmt | drop a, host, trace, c="3", d="x"`, `a=1 b=2 c=3 d=4`, `a=1 b=2 c=3 d=4 {app="web"} {} {b="2", d="4"}`, "trace=1")
	f(`| logfmt | keep a, app, c="x"`, `a=1 b=2 c=3`, `a=1 b=2 c=3 {app="web"} {} {a="1"}`, "trace=1")
	f(`| json | keep a`, `{`, `{ {} {} {__error__="JSONParserErr", __error_details__="Malformed JSON error"}`)
	f(`| drop app | logfmt`, `app=1`, `app=1 {host="h"} {} {app_extracted="1"}`)
}

func TestErrors(t *testing.T) {
	f := func(stages, want string) {
		t.Helper()
		_, err := New(parse(t, `{a="b"} `+stages).(*logql.LogQuery).Stages)
		var pe *logql.ParseError
		if !errors.As(err, &pe) || err.Error() != "parse error : "+want {
			t.Errorf("%s: got %v, want %s", stages, err, want)
		}
	}
	f(`|= "x" |~ "("`, "stage '|= \"x\" |~ \"(\"' : error parsing regexp: missing closing ): `(`")
	f(`|= ip("x")`, `stage '|= ip("x")' : ip: invalid pattern: "x"`)
	f(`|~ ip("1.1.1.1")`, `stage '|~ ip("1.1.1.1")' : ip: invalid operation`)
	f(`|> "<a>"`, `stage '|> "<a>"' : named captures are not allowed: found '<a>'`)
	f(`| json a="b..c"`, `stage '| json a="b..c"' : cannot parse expression [b..c]: syntax error: unexpected DOT, expecting FIELD`)
	f(`| json a="b c"`, `stage '| json a="b c"' : cannot parse expression [b c]: syntax error: unexpected FIELD`)
	f(`| json a="b$"`, `stage '| json a="b$"' : cannot parse expression [b$]: unexpected char $`)
	f(`| json a="[1"`, `stage '| json a="[1"' : cannot parse expression [[1]: syntax error: unexpected $end, expecting STRING or INDEX`)
	f(`| logfmt a="b.c"`, `stage '| logfmt a="b.c"' : cannot parse expression [b.c]: unexpected char .`)
	f(`| logfmt a=""`, `stage '| logfmt a=""' : cannot parse expression []: syntax error: unexpected $end, expecting STRING or KEY`)
	f(`| line_format "{{"`, `stage '| line_format "{{"' : invalid line template: template: line:1: unclosed action`)
	f(`| label_format a="{{"`, `stage '| label_format a="{{"' : invalid template for label 'a': template: label:1: unclosed action`)
	f(`| label_format a=b, a=c`, `stage '| label_format a=b,a=c' : multiple label name 'a' not allowed in a single format operation`)
	f(`| label_format __error__=b`, `stage '| label_format __error__=b' : __error__ cannot be formatted`)
	f(`| a=ip("x")`, `stage '| a=ip("x")' : ip: invalid pattern: "x"`)
}

// sample returns the sample that an aggregation takes of a line, with its
// labels, the error that these have, and what was parsed.
func sample(t testing.TB, query, line string, meta ...string) string {
	t.Helper()
	e := parse(t, query)
	var outer *logql.Grouping
	if v, ok := e.(*logql.VectorAggregation); ok {
		outer, e = &v.Grouping, v.Inner
	}
	x, err := NewExtractor(e.(*logql.RangeAggregation), outer)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	x.For(stream(t, `{app="web", host="h"}`))
	if !x.MatchLine([]byte(line)) {
		return "none"
	}
	x.Begin()
	for _, m := range meta {
		n, v, _ := strings.Cut(m, "=")
		x.Meta(n, v)
	}
	v, ok := x.Sample(1, []byte(line))
	if !ok {
		return "none"
	}
	ls, failed := x.Labels()
	return fmt.Sprint(v, " ", Own(ls), " ", failed)
}

func TestSamples(t *testing.T) {
	f := func(query, line, want string, meta ...string) {
		t.Helper()
		if got := strings.TrimSpace(sample(t, query, line, meta...)); got != want {
			t.Errorf("%s on %s:\n got %s\nwant %s", query, line, got, want)
		}
	}
	f(`rate({a="b"}[1m])`, `x`, `1 {app="web", host="h", trace="1"}`, "trace=1")
	f(`bytes_rate({a="b"} | line_format "12345" [1m])`, `x`, `5 {app="web", host="h"}`)
	f(`count_over_time({a="b"} | line_format "{{.none.x}}" [1m])`, `x`, `1 {app="web", host="h"}`) // nothing reads the line
	f(`absent_over_time({a="b"}[1m])`, `x`, `1 {}`)
	f(`sum(rate({a="b"} | json [1m]))`, `not json`, `1 {}`) // no label is wanted, so nothing is parsed
	f(`sum by (a) (rate({a="b"} | json [1m]))`, `{"a":1,"b":oops`, `1 {a="1"}`)
	f(`sum by (b) (rate({a="b"} | json [1m]))`, `{"a":1,"b":oops`,
		`1 {__error__="JSONParserErr", __error_details__="Unknown value type", app="web", host="h"} JSONParserErr`)
	f(`sum by (b, __error__) (rate({a="b"} | json [1m]))`, `{"a":1,"b":oops`,
		`1 {__error__="JSONParserErr", __error_details__="Unknown value type", __preserve_error__="true", app="web", host="h"}`)
	f(`sum without (host, trace) (rate({a="b"} | logfmt [1m]))`, `a=1`, `1 {a="1", app="web", u="2"}`, "trace=1", "u=2")
	f(`sum by (host_extracted, trace) (rate({a="b"} | logfmt [1m]))`, `host=1`, `1 {host_extracted="1", trace="2"}`, "trace=2")
	f(`sum_over_time({a="b"} | logfmt | unwrap v [1m])`, `v=1.5 a=1`, `1.5 {a="1", app="web", host="h"}`)
	f(`sum_over_time({a="b"} | logfmt | unwrap v [1m])`, `a=1`, `none`)
	f(`sum_over_time({a="b"} | logfmt | unwrap duration(v) [1m])`, `v=1m30s`, `90 {app="web", host="h"}`)
	f(`sum_over_time({a="b"} | logfmt | unwrap bytes(v) [1m])`, `v=2KiB`, `2048 {app="web", host="h"}`)
	f(`max_over_time({a="b"} | logfmt | unwrap v [1m]) by (host)`, `v=1.5 a=1`, `1.5 {host="h"}`)
	f(`max_over_time({a="b"} | logfmt | unwrap v [1m]) without (a, host)`, `v=1.5 a=1`, `1.5 {app="web"}`)
	f(`max_over_time({a="b"} | logfmt | unwrap v [1m]) by ()`, `v=1.5 a=1`, `1.5 {}`)
	f(`sum_over_time({a="b"} | logfmt | unwrap v | a>1 [1m])`, `v=1.5 a=1`, `none`)
	f(`sum_over_time({a="b"} | logfmt | unwrap v [1m])`, `v=x`,
		`0 {__error__="SampleExtractionErr", __error_details__="strconv.ParseFloat: parsing \"x\": invalid syntax", app="web", host="h", v="x"} SampleExtractionErr`)
	f(`sum_over_time({a="b"} | logfmt | unwrap v | __error__="" [1m])`, `v=x`, `none`)
	f(`sum by (lvl) (rate({a="b"} | logfmt lvl="level" [1m]))`, `level=x lvl=y`, `1 {lvl="y"}`)
}

// TestNoAllocations runs stages that only take apart what is there.
func TestNoAllocations(t *testing.T) {
	f := func(stages, line string) {
		t.Helper()
		p, err := New(parse(t, `{a="b"} `+stages).(*logql.LogQuery).Stages)
		if err != nil {
			t.Fatal(err)
		}
		p.For(stream(t, `{app="web", host="h"}`))
		b := []byte(line)
		run := func() {
			p.Begin()
			p.Meta("trace", "12")
			if !p.Match(1, b) {
				t.Fatal("dropped")
			}
		}
		run()
		if n := testing.AllocsPerRun(100, run); n > 0 {
			t.Errorf("%s: %v allocations", stages, n)
		}
	}
	f(`| json | status="200"`, `{"level":"info","status":200,"nested":{"a":{"b":"x\ny"}}, "app":"in"}`)
	f(`| json st="status", x="nested.a" | st="200"`, `{"level":"info","status":200,"nested":{"a":{"b":"x\ny"}}}`)
	f(`| logfmt | status="200" | drop msg, app`, `level=info status=200 msg="a \"b\"" app=in`)
	f(`| pattern "<a> <b>" | a="x" | line_format "{{.b}}"`, `x y`)
	f(`| label_format t=trace | t="12" | keep t`, `x`)
}

func FuzzPipeline(f *testing.F) {
	seeds := []string{`{"a":{"b":[1,{"c":"d\u00e9"}]},"e":null}`, `a=1 b="c \" d" =x`, `{"_entry":"x","a":"b"}`, "\x1b[31mx", `[1,"2"]`, ``, `{"a":"\ud83d\ude00"`}
	for _, s := range seeds {
		f.Add(s)
	}
	var ps []*Pipeline
	for _, stages := range []string{
		`| json`, `| json a="a.b[1].c", b="[1]", c="a"`, `| logfmt --strict --keep-empty`, `| logfmt a, b="c"`, `| unpack`, `| decolorize`,
		`| pattern "<a>=<b> <_>"`, `| regexp "(?P<a>\\w+)=(?P<b>.*)"`, `| json | logfmt | a>1 or b<1s | c=ip("::/0") | keep a, b`,
	} {
		p, err := New(parse(f, `{a="b"} `+stages).(*logql.LogQuery).Stages)
		if err != nil {
			f.Fatal(err)
		}
		p.For(stream(f, `{app="web"}`))
		ps = append(ps, p)
	}
	f.Fuzz(func(t *testing.T, line string) {
		b := []byte(line)
		for _, p := range ps {
			p.Begin()
			p.Meta("a", "b")
			if p.Match(1, b) {
				_, _, parsed := p.Result()
				for i := 1; i < len(parsed); i++ {
					if parsed[i-1].Name >= parsed[i].Name {
						t.Fatalf("labels out of order: %s", parsed)
					}
				}
			}
			if string(b) != line {
				t.Fatalf("the line was changed to %q", b)
			}
		}
	})
}

func BenchmarkStages(b *testing.B) {
	for _, c := range []struct{ stages, line string }{
		{`| json | status="200"`, `{"level":"info","msg":"GET /api/v1/items","status":200,"took":"12ms","user":{"id":17,"name":"x"},"ok":true}`},
		{`| logfmt | status="200"`, `level=info msg="GET /api/v1/items" status=200 took=12ms user=17 ok=true`},
		{`| pattern "<_> - <user> [<_>] \"<method> <path> <_>\" <status> <_>" | status="200"`, `10.0.0.1 - frank [10/Oct/2026] "GET /x HTTP/1.1" 200 12`},
		{`| regexp "(?P<method>GET|POST) (?P<path>\\S+)"`, `10.0.0.1 - frank [10/Oct/2026] "GET /x HTTP/1.1" 200 12`},
		{`| line_format "{{.app}} {{.host}}"`, `x`},
	} {
		b.Run(strings.Fields(c.stages)[1], func(b *testing.B) {
			p, err := New(parse(b, `{a="b"} `+c.stages).(*logql.LogQuery).Stages)
			if err != nil {
				b.Fatal(err)
			}
			p.For(stream(b, `{app="web", host="h"}`))
			line := []byte(c.line)
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			for b.Loop() {
				p.Begin()
				p.Match(1, line)
			}
		})
	}
}
