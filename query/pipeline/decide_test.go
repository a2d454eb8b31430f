package pipeline

import (
	"math/rand/v2"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/level"
	"github.com/loki-go/loki-go/query/logql"
)

// TestDecide: what is left out while only the decision is wanted does not change
// it. The lines are those that parsers read in more than one way: cut off,
// overwritten, with names of the stream, the metadata, and of each other.
func TestDecide(t *testing.T) {
	lines := []string{
		`{"status":503,"duration_ms":12.5,"level":"error","a":{"b":"x","c":{"d":1}},"a_b":"y","app":"own","trace":"t","msg":"x=1 status=2"}`,
		`{"status":"503","status":200,"a_b":"y","a":{"b":"x"},"duration_ms":"no number","ip":"10.0.0.7"}`,
		`{"app_extracted":"z","app":"own","trace_extracted":"u","level":"\u0065rror","status":599,"duration_ms":1e3,"bytes":"1KB"}`,
		`level=error status=503 duration_ms=12.5 app=own trace=t a_b="x y" msg="{\"status\":1}" status=200 empty= ip=10.0.0.7 bytes=2MB`,
		`status="503 level=error`, `=x status=503`, `plain text, status`, `{"status":503`, ``,
	}
	queries := []string{
		`| json`, `| logfmt`, `| logfmt --strict`, `| json | logfmt | json`,
		`| json | status >= 500 and duration_ms > 10`, `| json | status >= 500 or level="error"`, `| json | status >= 500 | duration_ms < 100`,
		`| logfmt | status >= 500 | level != "info"`, `| logfmt --strict | status >= 500`, `| logfmt --keep-empty | empty=""`,
		`| json | a_b="x"`, `| json | a_b="y" and a_c_d=1`, `| json | app_extracted="own"`, `| json | trace_extracted=~"t|u"`, `| json | app="stream" | trace="meta"`,
		`| json | __error__=""`, `| json | __error__!=""`, `| logfmt --strict | __error__=""`, `| json | status > 1 | __error__="" | duration_ms > 1`,
		`| logfmt | json | status >= 500 |= "status"`, `| json | missing=""`, `| json | missing!=""`, `| json | ip=ip("10.0.0.0/8")`, `| logfmt | bytes > 1MB`,
		`| json | detected_level="error"`, `| logfmt | detected_level!="error" | status > 1`,
		`| json | label_format status=level | status="error"`, `| json | drop status | status=""`, `| json | line_format "{{.level}}" |= "error"`,
		`| json s="status" | s >= 500`, `| logfmt s="status" | s >= 500`, `| regexp "(?P<status>[0-9]{3})" | status >= 500`, `| pattern "<_>status=<status> <_>" | status >= 500`,
	}
	rng := rand.New(rand.NewPCG(1, 2))
	kept, dropped := 0, 0
	for _, q := range queries {
		e, err := logql.Parse(`{app="stream"} ` + q)
		if err != nil {
			t.Fatal(err)
		}
		p, err := New(e.(*logql.LogQuery).Stages)
		if err != nil {
			t.Fatal(err)
		}
		p.Detect(level.Config{Discover: true})
		p.For(labels.Labels{{Name: "app", Value: "stream"}})
		match := func(line []byte, decide bool) bool {
			p.Decide(decide)
			p.Begin()
			p.Meta("trace", "meta")
			return p.MatchLine(line) && p.Match(1, line)
		}
		for _, text := range lines {
			for round := range 60 {
				line := []byte(text)
				if round > 0 && len(line) > 0 {
					switch i := rng.IntN(len(line)); rng.IntN(3) {
					case 0:
						line = line[:i]
					case 1:
						line[i] = `"{}:,= x5\`[rng.IntN(10)]
					case 2:
						line = append(line[:i:i], line[rng.IntN(len(line)):]...)
					}
				}
				want := match(line, false)
				if got := match(line, true); got != want {
					t.Fatalf("%s of %q: decided %v, want %v", q, line, got, want)
				}
				if want {
					kept++
				} else {
					dropped++
				}
			}
		}
	}
	if kept < 1000 || dropped < 1000 {
		t.Errorf("%d entries kept, %d dropped", kept, dropped)
	}
}

// TestWordsAreNoNames: the words of a text, which logfmt takes for keys without
// values, leave room for the names of labels that are remembered.
func TestWordsAreNoNames(t *testing.T) {
	e, err := logql.Parse(`{app="x"} | logfmt | level="error"`)
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(e.(*logql.LogQuery).Stages)
	if err != nil {
		t.Fatal(err)
	}
	p.Begin()
	if !p.Match(1, []byte("many words of a text level=error")) {
		t.Fatal("not kept")
	}
	if names := p.stages[0].(*logfmtStage).names; len(names) != 1 {
		t.Errorf("%d names are remembered: %v", len(names), names)
	}
}
