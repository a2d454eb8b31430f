package level

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
)

// of returns the level of an entry; meta are names and values.
func of(d *Detector, line string, meta ...string) string {
	d.Begin()
	for i := 0; i < len(meta); i += 2 {
		d.Meta(meta[i], []byte(meta[i+1]))
	}
	return string(d.Level([]byte(line)))
}

func TestLine(t *testing.T) {
	d := New(DefaultConfig())
	f := func(line, want string) {
		t.Helper()
		if got := of(d, line); got != want {
			t.Errorf("%q: got %s, want %s", line, got, want)
		}
	}
	// Words.
	f("", "unknown")
	f("nothing to see", "unknown")
	f("Error: disk is full", "error")
	f("2026-01-02 [WARNING] error in the second place", "warn")
	f("an errors count of terror", "unknown")
	f("misc:error", "unknown") // what has a colon in front is a value of something
	f("debug: got fatal", "debug")
	f("(critical)", "critical")
	f("x\tInfo\ty", "info")
	f("\"trace\"", "trace")
	f("err", "error")
	f("error", "error")
	f("warn", "warn")
	f("warning!", "warn")
	f("inf", "unknown") // short names of values only
	f("FATAL", "fatal")
	f("İNFO started", "info")
	f("CRİTİCAL", "critical")
	f("xİNFO", "unknown")
	f("\xc4", "unknown")
	f("the information", "unknown")
	f("{info}", "info")

	// logfmt.
	f("level=debug msg=error", "debug")
	f("msg=error level=debug", "debug")
	f("lvl=WRN x=1", "warn")
	f("severity=info lvl=error", "info")
	f("lvl=error severity=info", "info")
	f("LeVeL=Information", "info")
	f("log.level=err", "error")
	f("\u017feverity=trc \u017feverity=wrn", "trace")
	f("\u017feverity=fatal", "fatal")
	f("level=\"error\"", "error")
	f("level=\"err\\u006fr\"", "error")
	f("level=notice msg=\"an error happened\"", "error") // no name of a level, so a word is looked for
	f("level= msg=warn", "warn")
	f("a=b=c level=dbg", "unknown") // no logfmt from here on
	f("level=trc a=b=c level=debug", "trace")
	f("lvl=trc a=b=c level=debug", "trace")
	f("took=5ms", "unknown")
	f("level = debug", "debug")

	// JSON.
	f(`{"level":"dbg"}`, "debug")
	f(` {"msg":"error","lvl":"Warn"} `, "warn")
	f(`{"LEVEL":"warn","level":"info"}`, "warn") // the first in the line, not in the list
	f(`{"lEvEl":"wrn"}`, "unknown")              // the case of names counts, unlike in logfmt
	f(`{"log":{"level":"fatal"}}`, "fatal")
	f(`{"a":{"b":{"level":"dbg"}}}`, "unknown")
	f(`{"a":[{"level":"fatal"}],"severity":"error"}`, "error")
	f(`{"log.level":"error"}`, "error")
	f(`{"level":3,"severity":"error"}`, "error")
	f(`{"level":"notice","severity":"error"}`, "error") // found as a word: it has quotes around it
	f(`{"level":"notice","severity":"error5"}`, "unknown")
	f(`{"msg":"error in something"}`, "error")
	f(`{"msg":"cut","level":"dbg`, "unknown")
	f(`{"msg":"cut","level":"dbg}`, "unknown")
	f(`{"level":"dbg","msg":"cut}`, "debug")
	f(`{"lev\u0065l":"debug"}`, "debug")
	f(`{"level":"debu\u0067"}`, "unknown") // values are taken as they are written
	f(`{"a":{"level":"wrn"},"level":"info"}`, "warn")
	f("{\"lvl\":\"trc\"}\xa0", "trace")
	f("{\"lvl\":\"trc\"}\u00a0", "unknown") // from the end, a byte is a character
	f("\u2003{\"lvl\":\"trc\"}", "unknown") // JSON has four kinds of white space
	f(`{}`, "unknown")
	f(`{`, "unknown")
	f(`}`, "unknown")
	f(`["level","error"]`, "error")
}

func TestMeta(t *testing.T) {
	d := New(DefaultConfig())
	f := func(want, line string, meta ...string) {
		t.Helper()
		if got := of(d, line, meta...); got != want {
			t.Errorf("%q %q: got %s, want %s", line, meta, got, want)
		}
	}
	f("debug", "error", "level", "DBG")
	f("notice", "error", "level", "notice")
	f("Custom", "error", "severity_text", "Custom")
	f("info", "error", "lvl", "warn", "severity", "info")
	f("warn", "error", "lvl", "warn", "severity_number", "21")
	f("error", "error", "lvl", "", "x", "y")
	f("error", "error", "lEvEl", "info")
	for n, want := range map[string]string{
		"0": "unknown", "1": "trace", "4": "trace", "5": "debug", "9": "info", "12": "info", "13": "warn", "17": "error", "20": "error",
		"21": "fatal", "24": "fatal", "25": "unknown", "-3": "trace", "x": "info", "": "warn", "99999999999999999999": "info",
	} {
		f(want, "warn", "severity_number", n)
	}
}

func TestStream(t *testing.T) {
	d := New(DefaultConfig())
	f := func(want, stream string) {
		t.Helper()
		ls, err := labels.Parse(stream)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(d.Stream(ls)); got != want {
			t.Errorf("%s: got %q, want %q", stream, got, want)
		}
	}
	f("", `{app="x"}`)
	f("error", `{app="x", severity="ERR"}`)
	f("info", `{level="Info", severity="ERR"}`)
	f("verbose", `{level="verbose"}`)
	f("", `{detected_level="info"}`)
}

func TestConfig(t *testing.T) {
	if New(Config{}) != nil {
		t.Error("a detector that is not wanted")
	}
	d := New(Config{Discover: true, Fields: []string{"prio", "p", "prio", ""}, JSONDepth: 0})
	f := func(want, line string, meta ...string) {
		t.Helper()
		if got := of(d, line, meta...); got != want {
			t.Errorf("%q %q: got %s, want %s", line, meta, got, want)
		}
	}
	f("warn", `{"level":"info","prio":"warn"}`)
	f("warn", `{"a":{"b":{"c":{"d":{"prio":"warn"}}}}}`)
	f("error", "P=err PRIO=x")
	f("error", "x", "p", "err")
	f("info", "level=info", "level", "err")
	deep := strings.Repeat(`{"a":`, 1000) + `{"p":"warn"}` + strings.Repeat(`}`, 1000)
	f("unknown", strings.ReplaceAll(deep, "warn", "wrn"))
}

func TestNormal(t *testing.T) {
	for want, names := range map[string]string{
		"trace": "trace TRC Trace", "debug": "dbg DEBUG", "info": "inf Information INFO", "warn": "Warning wrn WARN", "error": "ERR error", "critical": "Critical", "fatal": "FATAL",
		"notice": "notice", "crit": "crit", "in": "in", "informations": "informations", "\u0130nfo": "\u0130nfo",
	} {
		for n := range strings.SplitSeq(names, " ") {
			if got := string(Normal([]byte(n))); got != want {
				t.Errorf("%s: got %s, want %s", n, got, want)
			}
		}
	}
}

// lines are what benchmarks and the count of allocations read.
var lines = map[string]string{
	"json":   `{"ts":"2026-01-02T03:04:05Z","caller":"main.go:17","msg":"got a request for something","user":{"id":7,"name":"someone"},"status":200,"level":"info"}`,
	"logfmt": `ts=2026-01-02T03:04:05Z caller=main.go:17 msg="got a request for something" user=7 status=200 lvl=info`,
	"text":   `10.0.0.1 - frank [10/Oct/2026:13:55:36 +0000] "GET /api/v1/items HTTP/1.1" 200 5120 "-" "Mozilla/5.0"`,
	"broken": `a=b=c something "else`,
	"escape": `{"m\u0073g":"a\"b","lev\u0065l":"info"}`,
}

func TestAllocations(t *testing.T) {
	d := New(DefaultConfig())
	for name, line := range lines {
		b, number := []byte(line), []byte("17")
		n := testing.AllocsPerRun(100, func() {
			d.Begin()
			d.Meta("trace_id", number)
			d.Level(b)
		})
		m := testing.AllocsPerRun(100, func() {
			d.Begin()
			d.Meta("severity_number", number)
			d.Level(b)
		})
		if n+m > 0 {
			t.Errorf("%s: %v and %v allocations", name, n, m)
		}
	}
}

func BenchmarkLine(b *testing.B) {
	d := New(DefaultConfig())
	for _, name := range []string{"json", "logfmt", "text"} {
		line := []byte(lines[name])
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				d.Begin()
				d.Level(line)
			}
		})
	}
}

// slowWords is ofWords by its description: of all names with something suitable
// on both sides, the one that is furthest in front.
func slowWords(line []byte) string {
	text := strings.ToLower(string(line))
	best, at := "unknown", len(text)
	for name, level := range map[string]string{
		"trace": "trace", "debug": "debug", "fatal": "fatal", "critical": "critical", "error": "error", "err": "error", "warning": "warn", "warn": "warn", "info": "info",
	} {
		for i := 0; i+len(name) <= len(text); i++ {
			if text[i:i+len(name)] != name || i > 0 && !strings.Contains(" \t\n[({\"=", text[i-1:i]) {
				continue
			}
			if j := i + len(name); (j == len(text) || strings.Contains(" \t\n[](){}:,!\"=", text[j:j+1])) && i < at {
				best, at = level, i
			}
		}
	}
	return best
}

func FuzzLevel(f *testing.F) {
	for _, l := range lines {
		f.Add([]byte(l), []byte("17"), uint8(2))
	}
	for _, l := range []string{"", "İNFO x", "K error\xff(warn)", "\xc4\xb0nfo", "xerr err", `{"a":{"b":{"level":"warn"}}}`, "level=\"\\u0065rr\" error"} {
		f.Add([]byte(l), []byte("x"), uint8(0))
	}
	known := []string{"trace", "debug", "info", "warn", "error", "critical", "fatal", "unknown"}
	f.Fuzz(func(t *testing.T, line, meta []byte, depth uint8) {
		if got, want := string(ofWords(line)), slowWords(line); got != want {
			t.Fatalf("first word of %q: got %s, want %s", line, got, want)
		}
		copied := bytes.Clone(line)
		d := New(Config{Discover: true, JSONDepth: int(depth)})
		d.Begin()
		if l := string(d.Level(line)); !slices.Contains(known, l) {
			t.Fatalf("%q has level %q", line, l)
		}
		d.Meta("severity_number", meta)
		if l := string(d.Level(line)); !slices.Contains(known, l) {
			t.Fatalf("number %q has level %q", meta, l)
		}
		d.Meta("severity", meta)
		if got, want := string(d.Level(line)), string(Normal(meta)); len(meta) > 0 && got != want {
			t.Fatalf("severity %q has level %q, want %q", meta, got, want)
		}
		if !bytes.Equal(line, copied) {
			t.Fatal("the line was changed")
		}
	})
}

func Example() {
	d := New(DefaultConfig())
	d.Begin()
	fmt.Printf("%s\n", d.Level([]byte(`{"msg":"no space left","severity":"ERR"}`)))
	// Output: error
}
