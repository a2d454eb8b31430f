package mapping

import (
	"encoding/json"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestEncode(t *testing.T) {
	f := func(n Node, wantText, wantJSON string) {
		t.Helper()
		r := &Record{Nodes: []Node{n}}
		if got := string(AppendText(nil, r, 0)); got != wantText {
			t.Fatalf("text %q, want %q", got, wantText)
		}
		got := AppendJSON([]byte("x"), r, 0)
		if string(got[1:]) != wantJSON || !json.Valid(got[1:]) {
			t.Fatalf("json %q, want %q", got[1:], wantJSON)
		}
	}
	float := func(v float64) Node { return Node{Kind: Float, Num: math.Float64bits(v)} }
	f(Node{}, ``, `null`)
	f(Node{Kind: Bool, Num: 1}, `true`, `true`)
	f(Node{Kind: Bool}, `false`, `false`)
	f(Node{Kind: Int, Num: 1 << 63}, `-9223372036854775808`, `-9223372036854775808`)
	f(Node{Kind: Uint, Num: math.MaxUint64}, `18446744073709551615`, `18446744073709551615`)
	f(float(1), `1`, `1`)
	f(float(-0.001), `-0.001`, `-0.001`)
	f(float(1e300), `1e+300`, `1e+300`)
	f(float(123456789012), `123456789012`, `123456789012`)
	f(float(math.NaN()), `NaN`, `"NaN"`)
	f(float(math.Inf(1)), `+Inf`, `"+Inf"`)
	f(float(math.Inf(-1)), `-Inf`, `"-Inf"`)
	f(Node{Kind: Number, Str: []byte("1.50")}, `1.50`, `1.50`)
	f(Node{Kind: String, Str: []byte("a\xff\"\\\x01é\u2028")}, "a\xff\"\\\x01é\u2028", `"a\ufffd\"\\\u0001é`+"\u2028\"")
	f(Node{Kind: Bytes, Str: []byte("plain")}, `plain`, `"plain"`)
	f(Node{Kind: Bytes, Str: []byte{0, 0xff}}, `base64:AP8=`, `"base64:AP8="`)
	f(Node{Kind: Ext, Str: []byte{0xfe, 1, 2}}, `base64:/gEC`, `"base64:/gEC"`)
}

func TestLogfmt(t *testing.T) {
	f := func(src, want string) {
		t.Helper()
		if got := string(AppendLogfmt(nil, parse(t, src), 0)); got != want {
			t.Fatalf("%s: got %s, want %s", src, got, want)
		}
	}
	f(`{}`, ``)
	f(`{"a":1,"b":"x","c":true,"d":null}`, `a=1 b=x c=true d=null`)
	f(`{"a":"x y","b":"","c":"k=v","d":"q\"","e":"null","f":"\n"}`, `a="x y" b="" c="k=v" d="q\"" e="null" f="\n"`)
	f(`{"a":{"b.c":{"d":1}},"e f":2,"g":{},"h":[1,"x"]}`, `a_b_c_d=1 e_f=2 g={} h="[1,\"x\"]"`)
	f(`{"":{"":1},"é":"é"}`, `key=1 key=é`)
}

func parse(t testing.TB, src string) *Record {
	t.Helper()
	var s Stream
	rec := new(Record)
	s.Reset([]byte(src), false)
	if err := s.Next(rec); err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	return rec
}

func TestField(t *testing.T) {
	r := parse(t, `{"a":{"x":1,"y":2},"b":[1,2],"c":3,"a":4}`)
	f := func(i int, key string, want int) {
		t.Helper()
		if got := r.Field(i, key); got != want {
			t.Fatalf("%s below %d: node %d, want %d", key, i, got, want)
		}
	}
	f(0, "a", 1)
	f(1, "y", 3)
	f(0, "b", 4)
	f(0, "c", 7)
	f(0, "x", -1)
	f(4, "c", -1)
	f(99, "c", -1)
}

func TestTime(t *testing.T) {
	ref := time.Date(2026, 9, 21, 14, 13, 20, 0, time.UTC).UnixNano()
	f := func(s string, want int64) {
		t.Helper()
		if got, ok := ParseTime([]byte(s)); !ok || got != want {
			t.Fatalf("%q: got %d %v, want %d", s, got, ok, want)
		}
	}
	f("2026-09-21T14:13:20Z", ref)
	f("2026-09-21T14:13:20z", ref)
	f("2026-09-21t14:13:20.5Z", ref+5e8)
	f("2026-09-21T14:13:20.123Z", ref+123e6)
	f("2026-09-21T14:13:20,123456Z", ref+123456e3)
	f("2026-09-21T14:13:20.123456789Z", ref+123456789)
	f("2026-09-21T14:13:20.1234567899Z", ref+123456789)
	f("2026-09-21T16:13:20+02:00", ref)
	f("2026-09-21T16:13:20+0200", ref)
	f("2026-09-21T16:13:20+02", ref)
	f("2026-09-21T08:43:20.25-05:30", ref+25e7)
	f("2026-09-21 14:13:20.123456", ref+123456e3)
	f("2026-09-21 14:13:20", ref)
	f("2026-09-21 14:13:20.5 +0000", ref+5e8)
	f("2026-09-21 14:13:20 UTC", ref)
	f("1969-12-31T23:59:59.999999999Z", -1)
	f("2000-02-29T00:00:00Z", 951782400e9)
	f("2016-12-31T23:59:60Z", 1483228800e9)
	f("1790000000", 1790000000e9)
	f("1790000000.0", 1790000000e9)
	f("1790000000.123457", 1790000000123457000)
	f("1790000000.123456789", 1790000000123456789)
	f("1790000000.1234567891", 1790000000123456789)
	f("1790000000123", 1790000000123e6)
	f("1790000000123.25", 1790000000123250000)
	f("1790000000123456", 1790000000123456000)
	f("1790000000123456789", 1790000000123456789)
	f("1790000000123456789.5", 1790000000123456789)
	f("1.79e9", 1790000000e9)
	f("1.790000000123456789E+9", 1790000000123456789)
	f("179000000012e-2", 1790000000120000000)
	f("-1.5", -1500000000)
	f("0", 0)
	f("0.000000001", 1)
	f("00000000000000000000001", 1e9)
	f("9223372036854775807", math.MaxInt64)

	bad := func(s string) {
		t.Helper()
		if got, ok := ParseTime([]byte(s)); ok {
			t.Fatalf("%q: read as %d", s, got)
		}
	}
	for _, s := range []string{
		"", "x", "now", "2026-09-21", "2026-09-21T14:13", "2026-13-01T00:00:00Z", "2026-02-29T00:00:00Z", "2026-00-01T00:00:00Z",
		"2026-09-31T00:00:00Z", "2026-09-21T24:00:00Z", "2026-09-21T14:60:00Z", "2026-09-21T14:13:61Z", "2026-09-21T14:13:20.Z",
		"2026-09-21T14:13:20+2:00", "2026-09-21T14:13:20 x", "2026-09-21_14:13:20Z", "2026/09/21T14:13:20Z", "0001-01-01T00:00:00Z",
		"9999-01-01T00:00:00Z", "2026-09-21T14:13:20+24:00", "1.", ".5", "1e", "1e99999", "1e400", "--1", "+1", "1 ", "0x10", "12a",
		"9223372036854775808", "-", "1..2", "2026-09-21T14:13:20Zjunk",
	} {
		bad(s)
	}
}

func TestNodeTime(t *testing.T) {
	f := func(n Node, want int64, wantOK bool) {
		t.Helper()
		if got, ok := NodeTime(&Record{Nodes: []Node{n}}, 0); ok != wantOK || got != want {
			t.Fatalf("%+v: got %d %v, want %d %v", n, got, ok, want, wantOK)
		}
	}
	f(Node{Kind: String, Str: []byte("2026-09-21T14:13:20Z")}, 1790000000e9, true)
	f(Node{Kind: Number, Str: []byte("1790000000.000005")}, 1790000000000005000, true)
	f(Node{Kind: Int, Num: 1790000000}, 1790000000e9, true)
	f(Node{Kind: Uint, Num: 1 << 63}, 0, false)
	f(Node{Kind: Float, Num: math.Float64bits(1790000000.123457)}, 1790000000123457000, true)
	f(Node{Kind: Float, Num: math.Float64bits(1.790000000123e12)}, 1790000000123000000, true)
	f(Node{Kind: Float, Num: math.Float64bits(math.NaN())}, 0, false)
	f(Node{Kind: Float, Num: math.Float64bits(math.Inf(1))}, 0, false)
	f(Node{Kind: Bool, Num: 1}, 0, false)
	f(Node{Kind: Map, End: 1}, 0, false)
}

var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`)

func FuzzTime(f *testing.F) {
	for _, s := range []string{
		"2026-09-21T14:13:20.123456789Z", "2026-09-21 14:13:20.123456", "1790000000.123457", "1790000000123", "1.5e9", "-1",
		"2000-02-29T23:59:60+14:00", "1677-09-21T00:12:44Z",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := ParseTime([]byte(s))
		// time.Parse takes more than RFC 3339 has: an hour of one digit, a comma.
		want, err := time.Parse(time.RFC3339Nano, s)
		if err == nil && rfc3339.MatchString(s) && want.Year() > 1678 && want.Year() < 2262 && !strings.Contains(s, ":60") {
			if !ok || got != want.UnixNano() {
				t.Fatalf("%q: got %d %v, want %d", s, got, ok, want.UnixNano())
			}
		}
		if !ok {
			return
		}
		// What we read, written as RFC 3339, is read as the same time.
		text := time.Unix(0, got).UTC().Format(time.RFC3339Nano)
		if again, ok := ParseTime([]byte(text)); again != got && ok {
			t.Fatalf("%q is %d, but %s is %d", s, got, text, again)
		}
	})
}

var validLabel = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func TestLabelName(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := string(AppendLabelName([]byte("p="), []byte(in))); got != "p="+want {
			t.Fatalf("%q: got %q, want %q", in, got, want)
		}
	}
	f("app", "app")
	f("app.kubernetes.io/name", "app_kubernetes_io_name")
	f("a.b", "a_b")
	f("a__b", "a__b")
	f("a. b", "a_b")
	f("__name__", "_name__")
	f("_x", "_x")
	f("..x", "_x")
	f("._x", "_x")
	f("1a", "_1a")
	f(".1a", "_1a")
	f("", "_")
	f("日本", "_")
	f("größe", "gr_e") // a run of two
	f("a日b", "a_b")
	f("\xff\xfe", "_")
	f("x-", "x_")
	f("___", "_")
}

func FuzzLabelName(f *testing.F) {
	for _, s := range []string{"", "a", "__a", "1", "._1", "app.kubernetes.io/name", "é\xff_", "a._b", "_.", "._"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := string(AppendLabelName(nil, []byte(s)))
		if !validLabel.MatchString(got) || strings.HasPrefix(got, "__") {
			t.Fatalf("%q gives %q", s, got)
		}
		if again := string(AppendLabelName(nil, []byte(got))); again != got {
			t.Fatalf("%q gives %q, which gives %q", s, got, again)
		}
		if validLabel.MatchString(s) && !strings.HasPrefix(s, "__") && got != s {
			t.Fatalf("%q is valid and became %q", s, got)
		}
	})
}

func BenchmarkParseTime(b *testing.B) {
	for _, s := range []string{"2026-09-21T14:13:20.123456789Z", "1790000000.123457"} {
		b.Run(strconv.Itoa(len(s)), func(b *testing.B) {
			p := []byte(s)
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := ParseTime(p); !ok {
					b.Fatal("not read")
				}
			}
		})
	}
}
