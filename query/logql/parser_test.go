package logql

import (
	"errors"
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
	f(`{by="b", or="x", rate="y"}`, `{by="b", or="x", rate="y"}`)
	f(`{a!=""}`, `{a!=""}`)
	f(`{é="b"}`, `{é="b"}`)
	f(`vector(1)+vector(1)`, `(vector(1.000000) + vector(1.000000))`)
	f(`vector(0.0000001)`, `vector(0.0000001)`)
	f(`1 + 2 * 3 ^ 2 ^ 2`, `163`)
	f(`2 ^ 3 ^ 2 - 1 - 1`, `510`)
	f(`vector(2) ^ 3 ^ 2`, `(vector(2.000000) ^ 9)`)
	f(`(1 + 2) * -3`, `-9`)
	f(`0x10 % 7 - .5 + 1e+2`, `101.5`)
	f(`7/0`, `(7 / 0)`)
	f(`vector(2) * 3 - 1`, `((vector(2.000000) * 3) - 1)`)
}

func TestParseErrors(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		e, err := Parse(in)
		if err == nil {
			t.Fatalf("%s: no error, got %s", in, e)
		}
		if err.Error() != want {
			t.Fatalf("%s:\n got %s\nwant %s", in, err, want)
		}
	}
	f(``, `parse error : syntax error: unexpected $end`)
	f(`{`, `parse error at line 1, col 2: syntax error: unexpected $end, expecting IDENTIFIER or }`)
	f(`{a="b"`, `parse error at line 1, col 7: syntax error: unexpected $end, expecting } or ,`)
	f(`{foo="bar"`, `parse error at line 1, col 11: syntax error: unexpected $end, expecting } or ,`)
	f(`{a="b",}`, `parse error at line 1, col 8: syntax error: unexpected }, expecting IDENTIFIER`)
	f(`{,}`, `parse error at line 1, col 2: syntax error: unexpected ,, expecting IDENTIFIER or }`)
	f(`{a b="c"}`, `parse error at line 1, col 4: syntax error: unexpected IDENTIFIER, expecting = or =~ or !~ or !=`)
	f(`{a==""}`, `parse error at line 1, col 3: syntax error: unexpected ==, expecting = or =~ or !~ or !=`)
	f(`{a=}`, `parse error at line 1, col 4: syntax error: unexpected }, expecting STRING`)
	f(`{a=b}`, `parse error at line 1, col 4: syntax error: unexpected IDENTIFIER, expecting STRING`)
	f(`{a="b" c="d"}`, `parse error at line 1, col 8: syntax error: unexpected IDENTIFIER, expecting } or ,`)
	f(`{foo="bar`, `parse error at line 1, col 6: literal not terminated`)
	f("{foo=`bar", `parse error at line 1, col 6: literal not terminated`)
	f("{foo=\"b\nar\"}", `parse error at line 1, col 6: literal not terminated`)
	f(`{foo="barr\"}`, `parse error at line 1, col 6: literal not terminated`)
	f(`{app=~"\d"}`, `parse error at line 1, col 7: invalid char escape`)
	f("{\n  é=\"b\",\n  ü }", `parse error at line 3, col 5: syntax error: unexpected }, expecting = or =~ or !~ or !=`)
	f(`{foo="bar"} |~`, `parse error at line 1, col 15: syntax error: unexpected $end, expecting STRING or ip`)
	f(`{foo="bar"} "foo"`, `parse error at line 1, col 13: syntax error: unexpected STRING`)
	f(`{foo="bar"} foo`, `parse error at line 1, col 13: syntax error: unexpected IDENTIFIER`)
	f(`{foo="bar"}}`, `parse error at line 1, col 12: syntax error: unexpected }`)
	f(`{foo="bar"}[5m]`, `parse error at line 1, col 12: syntax error: unexpected RANGE`)
	f(`{foo="bar"}[5m`, `parse error at line 1, col 12: missing closing ']' in duration`)
	f(`{foo="bar"} |= "x" or`, `parse error at line 1, col 22: syntax error: unexpected $end, expecting STRING or ip`)
	f(`{foo="bar"} | |`, `parse error at line 1, col 15: syntax error: unexpected |`)
	f(`{foo="bar"} + 1`, `parse error : unexpected type for left leg of binary operation (+): log query`)
	f(`1 + {foo="bar"}`, `parse error : unexpected type for right leg of binary operation (+): log query`)
	f(`({foo="bar"}`, `parse error at line 1, col 13: syntax error: unexpected $end`)
	f(`(1`, `parse error at line 1, col 3: syntax error: unexpected $end`)
	f(`{1a="b"}`, `parse error at line 1, col 2: syntax error: unexpected NUMBER, expecting IDENTIFIER or }`)
	f(`{a='b'}`, `parse error at line 1, col 4: syntax error: unexpected character '\''`)
	f(`.5.5`, `parse error at line 1, col 1: syntax error: invalid number`)
	f(strings.Repeat("9", 400), `parse error at line 1, col 1: syntax error: invalid number`)
	f(`1.5h`, `parse error at line 1, col 1: syntax error: unexpected DURATION`)
	f(`foo`, `parse error at line 1, col 1: syntax error: unexpected IDENTIFIER`)
	f(`rate`, `parse error at line 1, col 1: syntax error: unexpected IDENTIFIER`)
	f(`unk({foo="bar"}[5m])`, `parse error at line 1, col 1: syntax error: unexpected IDENTIFIER`)
	f(`vector(x)`, `parse error at line 1, col 8: syntax error: unexpected IDENTIFIER, expecting NUMBER`)
	f(`- "x"`, `parse error at line 1, col 3: syntax error: unexpected STRING, expecting NUMBER`)
	f(`1 +`, `parse error at line 1, col 4: syntax error: unexpected $end`)
	f(`5m`, `parse error at line 1, col 1: syntax error: unexpected DURATION`)
	f(`5q`, `parse error at line 1, col 2: syntax error: unexpected IDENTIFIER`)
	f(`$`, `parse error at line 1, col 1: syntax error: unexpected character '$'`)
	const empty = `parse error : queries require at least one regexp or equality matcher that does not have an ` +
		`empty-compatible value. For instance, app=~".*" does not meet this requirement, but app=~".+" will`
	f(`{}`, empty)
	f(`{a=~".*"}`, empty)
	f(`{a!="b"}`, empty)
	f(`{a="", b!~"x"} |= "y"`, empty)
	f(`{a=~"["}`, "parse error : error parsing regexp: missing closing ]: `[`")
	f(`{a=~"a)|(b"}`, "parse error : error parsing regexp: unexpected ): `a)|(b`")
	f(`{a="b"} |~ "*"`, "parse error : stage '|~ \"*\"' : error parsing regexp: missing argument to repetition operator: `*`")
	f(`{a="b"} |~ "((a{100}){10}|(b{1000})){40}"`, "parse error : stage '|~ \"((a{100}){10}|(b{1000})){40}\"' : error parsing regexp: invalid repeat count: `{40}`")
	f(`{a="b"} |~ "`+strings.Repeat(`a{1000}`, 60)+`"`, "parse error : stage '|~ \""+strings.Repeat(`a{1000}`, 60)[:100]+"...\"' : regular expression too complex (120121 > 50000 instructions)")
	f(`{a="b"} |~ "`+strings.Repeat("x", 40000)+`"`, "parse error : stage '|~ \""+strings.Repeat("x", 100)+"...\"' : regular expression too long (40000 > 32768 bytes)")
	f(strings.Repeat(" ", maxQuery+1), "parse error : input size too long (131073 > 131072)")
	f(strings.Repeat("(", 300)+"1", "parse error at line 1, col 201: more than 200 nested parentheses")
	f("vector(1)"+strings.Repeat("+1", 2000), "parse error at line 1, col 2010: more than 1000 operators")
}

func TestParseUnsupported(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		_, err := Parse(in)
		var pe *ParseError
		if !errors.As(err, &pe) || !pe.Unsupported || err.Error() != want+" is not supported by this version" {
			t.Fatalf("%s: got %v, want %s", in, err, want)
		}
	}
	f(`rate({a="b"}[5m])`, `parse error at line 1, col 1: the function rate`)
	f(`1 + sum by (x) (rate({a="b"}[5m]))`, `parse error at line 1, col 5: the function sum`)
	f(`1 > 2`, `parse error at line 1, col 3: the operator >`)
	f(`vector(1) or vector(2)`, `parse error at line 1, col 11: the operator or`)
	f(`{a="b"} | json`, `parse error at line 1, col 9: the stage | json`)
	f(`{a="b"} |= "x" | level="error"`, `parse error at line 1, col 16: a label filter`)
	f(`{a="b"} |> "<_> x"`, `parse error at line 1, col 9: the pattern filter |>`)
	f(`{a="b"} |= ip("10.0.0.0/8")`, `parse error at line 1, col 12: the filter ip()`)
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
	f(`{a="b"}|="`+long+`"!="y" or "z"`, "{a=\"b\"}\n  |= \""+long+"\"\n  != \"y\"\n  != \"z\"")
}

func TestConstant(t *testing.T) {
	f := func(in string, want float64, vector bool) {
		t.Helper()
		e, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		v, vec, ok := Constant(e)
		if !ok || vec != vector || v != want && (v == v || want == want) {
			t.Fatalf("%s: got %v, %v, %v", in, v, vec, ok)
		}
	}
	nan := 0.0
	nan /= nan
	f(`vector(1)+vector(1)`, 2, true)
	f(`10 % 4`, 2, false)
	f(`2 ^ 3 - vector(1) * 2`, 6, true)
	f(`1 / 0`, nan, false)
	e, err := Parse(`{a="b"}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := Constant(e); ok {
		t.Fatal("a log query is not a constant")
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

var seeds = []string{
	`{a="b"}`, `{a="b", c!="d", e=~"f", g!~"h"} |= "x" != "y" |~ "z" !~ "w"`, "{a=`b`} # c\n|~ `(?i)err(or)?`",
	`{a="b"} |= "x" or "y"`, `vector(1)+vector(1)`, `1 + 2 * -3 ^ 0x4 % .5e-3`, `({a=~".+"} |~ "^a.*b$")`,
	`sum by (x) (rate({a="b"} | json [5m]))`, `{a="\u00e9\xff\n"}`, `{a=~"["}`, `{`, "", `{a="b"} |= ip("::1")`,
	`{a="b"} |~ "(?i)kelvin|ſ|(foo|bar)+x{2,3}$"`,
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
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
		if q, ok := e.(*LogQuery); ok {
			if _, err := q.Compile(); err != nil {
				t.Fatalf("%q: parses but does not compile: %v", s, err)
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
