package logql

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		e, err := Parse(in)
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		if got := e.String(); got != want {
			t.Fatalf("%s: got %s, want %s", in, got, want)
		}
		again, err := Parse(e.Pretty())
		if err != nil || again.String() != want {
			t.Fatalf("%s: pretty form %s reads as %v, %v", in, e.Pretty(), again, err)
		}
	}
	f(`{a="b"}`, `{a="b"}`)
	f(`{a="b", c!="d",e=~"f|g", h!~"i"}`, `{a="b", c!="d", e=~"f|g", h!~"i"}`)
	f("{a=`b\\d`}", `{a="b\\d"}`)
	f("{a=`x\r\ny`}", `{a="x\r\ny"}`)
	f(`{a="é\u00e9\"\\\n\xff"}`, `{a="éé\"\\\n\xff"}`)
	f("\t{ # a comment }\n a = \"b\" # }\r\n , c = `#` \n}\n |= \"x\"#end", `{a="b", c="#"} |= "x"`)
	f(`{a=~".+"} |= "x" != "y" |~ "z\\d+" !~ "w"`, `{a=~".+"} |= "x" != "y" |~ "z\\d+" !~ "w"`)
	f("{a=~\".+\"}|=`x`!=`y`|~`z`!~`w`", `{a=~".+"} |= "x" != "y" |~ "z" !~ "w"`)
	f(`{a="b"} |= "x" or "y" or "z" != "v" or "w"`, `{a="b"} |= "x" or "y" or "z" != "v" != "w"`)
	f(`({a="b"} |= "x")`, `{a="b"} |= "x"`)
	f(`{a="b"} |= ""`, `{a="b"} |= ""`)
	f(`{rate="b", vector="x", sum="y"}`, `{rate="b", vector="x", sum="y"}`)
	f(`{a!=""}`, `{a!=""}`)
	f(`{é="b"}`, `{é="b"}`)
	f(`vector(1)+vector(1)`, `(vector(1.000000) + vector(1.000000))`)
	f(`vector(0.0000001)`, `vector(0.0000001)`)
	f(`1 + 2 * 3 ^ 2 ^ 2`, `163`)
	f(`2 ^ 3 ^ 2 - 1 - 1`, `510`)
	f(`vector(2) ^ 3 ^ 2`, `(vector(2.000000) ^ 9)`)
	f(`(1 + 2) * -3`, `-9`)
	f(`16 % 7 - .5 + 1e+2`, `101.5`)
	f(`1 > bool 2`, `0`)
	f(`-00`, `-00`)
	f(`{a="b"} | x>-00`, `{a="b"} | x>-00`)
	f(`{a="b"} | x>000B, x<5B`, `{a="b"} | ( x>00B , x<5B )`)
	f(`2 ^ 70`, `1.1805916207174113e+21`)
	f(`7/0`, `(7 / 0)`)
	f(`vector(2) * 3 - 1`, `((vector(2.000000) * 3) - 1)`)
}

// parseCase is a query with what stock Loki 3.7.8 makes of it: the answer of
// format_query or its error. Where ours differs, there is a reason.
type parseCase struct{ query, formatted, error, ours string }

func readCases(t testing.TB) (cases []parseCase) {
	t.Helper()
	b, err := os.ReadFile("testdata/parse.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var c struct{ Query, Formatted, Error, Ours, Why string }
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if (c.Ours == "") != (c.Why == "") {
			t.Fatalf("%s: a difference needs a reason", line)
		}
		cases = append(cases, parseCase{c.Query, c.Formatted, c.Error, c.Ours})
	}
	return cases
}

// TestParseLikeLoki compares results and messages with those of Loki.
func TestParseLikeLoki(t *testing.T) {
	for _, c := range readCases(t) {
		e, err := Parse(c.query)
		if c.error != "" {
			if err == nil || err.Error() != c.error {
				t.Errorf("%s:\n got %v\nwant %s", c.query, err, c.error)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		want := c.formatted
		if c.ours != "" {
			want = c.ours
		}
		if got := e.Pretty(); got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.query, got, want)
		}
		again, err := Parse(e.Pretty())
		if err != nil || again.String() != e.String() {
			t.Errorf("%s: formatted, it reads as %v, %v", c.query, again, err)
		}
	}
}

func TestParseLimits(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		_, err := Parse(in)
		if err == nil || err.Error() != want {
			t.Fatalf("%.100s:\n got %v\nwant %s", in, err, want)
		}
	}
	f(strings.Repeat(" ", maxQuery), `parse error : input size too long (131072 > 131072)`)
	f(strings.Repeat("(", maxDepth+2)+"1", `parse error at line 1, col 10001: more than 10000 nested parentheses`)
	f("vector(1)"+strings.Repeat("+1", maxNodes+1), `parse error at line 1, col 5010: more than 2500 operators, stages and conditions`)
	f(`{a=~"`+strings.Repeat(`a{1000}`, 60)+`"}`, `parse error : regular expression too complex (120121 > 50000 instructions)`)
	f(`{a=~"`+strings.Repeat("x", 40000)+`"}`, `parse error : regular expression too long (40000 > 32768 bytes)`)
	// What is nearly too much is formatted in linear time and space, about.
	for _, q := range []string{
		"vector(1)" + strings.Repeat(" ^ vector(1)", maxNodes-1), "vector(1)" + strings.Repeat(" - vector(1)", maxNodes-1),
		`{a="b"} | c="d"` + strings.Repeat(`, c="d"`, maxNodes-5), `{a="b"} | c="d"` + strings.Repeat(` or c="d"`, maxNodes-5),
	} {
		e, err := Parse(q)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Pretty()) > 4*len(q) {
			t.Fatalf("%.100s: formatted to %d bytes", q, len(e.Pretty()))
		}
		again, err := Parse(e.Pretty())
		if err != nil || again.String() != e.String() {
			t.Fatalf("%.100s: formatted, it does not read the same: %v", q, err)
		}
	}
}

func TestParseSelector(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		ms, err := ParseSelector(in)
		got := (&LogQuery{Matchers: ms}).String()
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Fatalf("%s: got %s, want %s", in, got, want)
		}
	}
	f(``, `parse error : syntax error: unexpected $end`)
	f(` {} # all`, `{}`)
	f(`{} x`, `parse error at line 1, col 4: syntax error: unexpected IDENTIFIER`)
	f(`vector(1)`, ErrNotSelector.Error())
	f(`{a="b",c=~"d"}`, `{a="b", c=~"d"}`)
	f(`{a=""}`, (&ParseError{Msg: emptyCompatible}).Error())
	f(`{a="b"} |= "x"`, ErrNotSelector.Error())
	f(`a="b"`, `parse error at line 1, col 1: syntax error: unexpected IDENTIFIER`)
	f(`{a="b"`, `parse error at line 1, col 7: syntax error: unexpected $end, expecting } or ,`)
}

func TestPretty(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		e, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Pretty(); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	f(`{a="b"}|="x"`, `{a="b"} |= "x"`)
	long := strings.Repeat("x", 80)
	f(`{a="b"}|="`+long+`"!="y" or "z"`, "{a=\"b\"}\n  |= \""+long+"\" != \"y\" != \"z\"")
}

func TestConstant(t *testing.T) {
	f := func(in string, want float64) {
		t.Helper()
		e, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		v, ok := Constant(e)
		if !ok || v != want && (v == v || want == want) {
			t.Fatalf("%s: got %v, %v", in, v, ok)
		}
	}
	f(`10 % 4`, 2)
	f(`2 ^ 3 - 1 * 2`, 6)
	f(`1 / 0`, math.NaN())
	f(`1 % 0 + 5`, math.NaN())
	f(`2 >= 2`, 1)
	for _, in := range []string{`{a="b"}`, `vector(1)`, `vector(1) + 1`} {
		e, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := Constant(e); ok {
			t.Fatalf("%s: is a constant, %v", in, v)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{-90 * time.Second: "-1m30s", time.Microsecond: "0s", 1500 * time.Microsecond: "1ms"} {
		if got := FormatDuration(d); got != want {
			t.Fatalf("%v: got %s, want %s", d, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	f := func(in string, want time.Duration, text string) {
		t.Helper()
		d, err := ParseDuration(in)
		if err != nil || d != want {
			t.Fatalf("%s: got %v, %v", in, d, err)
		}
		if got := FormatDuration(d); got != text {
			t.Fatalf("%s: formatted as %s, want %s", in, got, text)
		}
	}
	f("0", 0, "0s")
	f("721h", 721*time.Hour, "30d1h")
	f("30d1h", 721*time.Hour, "30d1h")
	f("1w", 7*24*time.Hour, "1w")
	f("1y2w", 379*24*time.Hour, "379d")
	f("1m30s5ms", 90*time.Second+5*time.Millisecond, "1m30s5ms")
	for _, bad := range []string{"", "5", "5x", "-5m", "1.5h", "10us", "m5", "5s5m5q", "300y", "290y290y", "99999999999999999999s"} {
		if d, err := ParseDuration(bad); err == nil {
			t.Fatalf("%q: no error, got %v", bad, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range readCases(f) {
		f.Add(c.query)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse(s)
		if err != nil {
			var pe *ParseError
			if !errors.As(err, &pe) {
				t.Fatalf("%q: error of type %T", s, err)
			}
			return
		}
		for _, text := range []string{e.String(), e.Pretty()} {
			again, err := Parse(text)
			if err != nil {
				t.Fatalf("%q: normal form %q does not parse: %v", s, text, err)
			}
			if again.String() != e.String() {
				t.Fatalf("%q: normal form is not stable: %q, %q", s, e, again)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	const q = `{cluster="eu-1", namespace=~"prod-.*", container!="proxy"} |= "error" != "timeout" |~ "code=5\\d\\d"`
	b.SetBytes(int64(len(q)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(q); err != nil {
			b.Fatal(err)
		}
	}
}
