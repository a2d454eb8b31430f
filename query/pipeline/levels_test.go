package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/level"
	"github.com/loki-go/loki-go/query/logql"
)

func (p *Pipeline) begin(meta []string) {
	p.Begin()
	for _, m := range meta {
		n, v, _ := strings.Cut(m, "=")
		p.Meta(n, v)
	}
}

func TestLevelOfLines(t *testing.T) {
	f := func(query, line, want string, meta ...string) {
		t.Helper()
		q := parse(t, query).(*logql.LogQuery)
		p, err := New(q.Stages)
		if err != nil {
			t.Fatal(err)
		}
		p.Detect(level.DefaultConfig())
		p.For(labels.Labels{{Name: q.Matchers[0].Name, Value: q.Matchers[0].Value}})
		p.begin(meta)
		got := "none"
		if p.Match(1, []byte(line)) {
			_, m, parsed := p.Result()
			got = fmt.Sprintf("%s %s %s", p.Line(), m, parsed)
		}
		if got != want {
			t.Errorf("%s on %s:\n got %s\nwant %s", query, line, got, want)
		}
	}
	f(`{a="b"}`, `x error`, `x error {detected_level="error"} {}`)
	f(`{a="b"}`, `x`, `x {detected_level="error", k="v"} {}`, "k=v", "detected_level=ERR")
	f(`{a="b"}`, `x`, `x {detected_level="odd"} {}`, "detected_level=odd")
	f(`{level="Info"}`, `error`, `error {detected_level="info"} {}`)
	f(`{level="Info"}`, `error`, `error {detected_level="warn"} {}`, "detected_level=wrn")
	f(`{detected_level="Info"}`, `error`, `error {detected_level_extracted="error"} {}`)
	f(`{detected_level="Info"} | detected_level_extracted="error"`, `error`, `error {detected_level_extracted="error"} {}`)
	f(`{detected_level="Info"} | detected_level="error"`, `error`, `none`)
	f(`{detected_level="Info"} | logfmt`, `detected_level=x level=dbg`, `detected_level=x level=dbg {} {detected_level_extracted="x", level="dbg"}`)

	f(`{a="b"} | detected_level="warn"`, `lvl=wrn`, `lvl=wrn {detected_level="warn"} {}`)
	f(`{a="b"} | detected_level!="warn"`, `lvl=wrn`, `none`)
	f(`{a="b"} | json | detected_level="error"`, `{"level":"err"}`, `{"level":"err"} {detected_level="error"} {level="err"}`) // the line does not have the text
	f(`{a="b"} | json | detected_level="error" | level="error"`, `{"level":"err"}`, `none`)
	f(`{a="b"} | json`, `{"detected_level":"error","level":"warn"}`, `{"detected_level":"error","level":"warn"} {detected_level="warn"} {detected_level_extracted="error", level="warn"}`)
	f(`{a="b"} | drop detected_level | json`, `{"detected_level":"error","level":"warn"}`, `{"detected_level":"error","level":"warn"} {} {detected_level="error", level="warn"}`)
	f(`{a="b"} | drop detected_level="info"`, `warn`, `warn {detected_level="warn"} {}`)
	f(`{a="b"} | drop detected_level="warn"`, `warn`, `warn {} {}`)
	f(`{a="b"} | keep a`, `warn`, `warn {} {}`)
	f(`{a="b"} | keep detected_level`, `warn`, `warn {detected_level="warn"} {}`, "k=v")
	f(`{a="b"} | keep detected_level="x"`, `warn`, `warn {} {}`, "k=v")
	f(`{a="b"} | line_format "{{.detected_level}}!"`, `warn`, `warn! {detected_level="warn"} {}`)
	f(`{a="b"} | line_format "{{.detected_level}}"`, `warn`, `warn {detected_level="warn"} {}`)
	f(`{a="b"} | line_format "debug"`, `warn`, `debug {detected_level="warn"} {}`) // of the line as it was
	f(`{a="b"} | drop lvl`, `warn`, `warn {detected_level="error"} {}`, "lvl=err") // and of all metadata
	f(`{a="b"} | label_format lvl=detected_level`, `warn`, `warn {} {lvl="warn"}`)
	f(`{a="b"} | label_format detected_level="x"`, `warn`, `warn {} {detected_level="x"}`)
	f(`{a="b"} | json | drop __error__`, `{`, `{ {detected_level="unknown"} {__error_details__="Malformed JSON error"}`)
}

// sampleLevel is sample where entries have levels; none panics if one is looked
// for in a line that is an object.
func sampleLevel(t *testing.T, query, line string, none bool, meta ...string) string {
	t.Helper()
	e := parse(t, query)
	var outer *logql.Grouping
	if v, ok := e.(*logql.VectorAggregation); ok {
		outer, e = &v.Grouping, v.Inner
	}
	x, err := NewExtractor(e.(*logql.RangeAggregation), outer)
	if err != nil {
		t.Fatal(err)
	}
	x.Detect(level.DefaultConfig())
	if none {
		x.state.levels.detector = &level.Detector{}
	}
	x.For(stream(t, `{app="web"}`))
	x.begin(meta)
	v, ok := x.Sample(1, []byte(line))
	if !ok {
		return "none"
	}
	ls, failed := x.Labels()
	return strings.TrimSpace(fmt.Sprint(v, " ", Own(ls), " ", failed))
}

func TestLevelOfSamples(t *testing.T) {
	f := func(query, line, want string, meta ...string) {
		t.Helper()
		if got := sampleLevel(t, query, line, false, meta...); got != want {
			t.Errorf("%s on %s:\n got %s\nwant %s", query, line, got, want)
		}
	}
	f(`rate({a="b"}[1m])`, `level=err`, `1 {app="web", detected_level="error"}`)
	f(`sum by (level, detected_level) (count_over_time({a="b"}[1m]))`, `level=err`, `1 {detected_level="error"}`)
	f(`sum by (level, detected_level) (count_over_time({a="b"} | drop __error__ [1m]))`, `level=err`, `1 {detected_level="error", level="x"}`, "level=x", "detected_level=Err")
	f(`sum without (app) (count_over_time({a="b"}[1m]))`, `level=err`, `1 {detected_level="error"}`)
	f(`sum without (detected_level) (count_over_time({a="b"} | json [1m]))`, `{"a":1}`, `1 {a="1", app="web"}`)
	f(`sum by (app, __error__) (count_over_time({a="b"}[1m]))`, `level=err`, `1 {app="web"}`)
	f(`sum by (detected_level, __error__) (count_over_time({a="b"}[1m]))`, `level=err`, `1 {detected_level="error"}`)
	f(`sum(count_over_time({a="b"} | detected_level="error" [1m]))`, `level=err`, `1 {}`)
	f(`sum(count_over_time({a="b"} | detected_level="warn" [1m]))`, `level=err`, `none`)
	f(`sum_over_time({a="b"} | unwrap detected_level [1m])`, `x`, `1 {app="web", level="1"}`, "level=1") // an odd level
	f(`count_over_time({a="b"} | logfmt | drop level, detected_level [1m])`, `level=err x=1`, `1 {app="web", x="1"}`)
	f(`sum by (app) (count_over_time({a="b"} | json | x > 5 [1m]))`, `{"x":"y"}`,
		"1 {__error__=\"LabelFilterErr\", __error_details__=\"strconv.ParseFloat: parsing \\\"y\\\": invalid syntax\", app=\"web\", detected_level=\"unknown\", x=\"y\"} LabelFilterErr")
}

// Levels are not looked for where nobody sees them.
func TestLevelNotAskedFor(t *testing.T) {
	line := `{"level":"error","n":"7"}`
	f := func(query, want string) {
		t.Helper()
		if got := sampleLevel(t, query, line, true, "k=v"); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	f(`sum(count_over_time({a="b"}[1m]))`, `1 {}`)
	f(`sum by (app) (count_over_time({a="b"}[1m]))`, `1 {app="web"}`)
	f(`sum by (app) (count_over_time({a="b"} | json | level="error" | k!="x" [1m]))`, `1 {app="web"}`)
	f(`sum without (k, detected_level) (count_over_time({a="b"}[1m]))`, `1 {app="web"}`)
	f(`sum without (k, detected_level) (count_over_time({a="b"} | json [1m]))`, `1 {app="web", level="error", n="7"}`)
	f(`count_over_time({a="b"} | drop detected_level, k [1m])`, `1 {app="web"}`)
	f(`count_over_time({a="b"} | json | keep app, level [1m])`, `1 {app="web", level="error"}`)
	f(`sum by (app) (sum_over_time({a="b"} | json | unwrap n [1m]))`, `7 {app="web"}`)
	f(`count_over_time({a="b"} | json | n > 7 [1m])`, `none`)

	p, err := New(parse(t, `{a="b"} | json | n > 7`).(*logql.LogQuery).Stages)
	if err != nil {
		t.Fatal(err)
	}
	p.state.levels.detector = &level.Detector{}
	p.For(stream(t, `{app="web"}`))
	p.begin(nil)
	if p.Match(1, []byte(line)) {
		t.Error("the line is kept")
	}
	defer func() {
		if recover() == nil {
			t.Error("nothing looked for a level")
		}
	}()
	sampleLevel(t, `count_over_time({a="b"}[1m])`, line, true)
}
