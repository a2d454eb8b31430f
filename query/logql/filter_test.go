package logql

import (
	"fmt"
	"math/rand"
	"regexp"
	"strings"
	"testing"
)

func compile(t testing.TB, filters string) *Filter {
	t.Helper()
	e, err := Parse(`{a="b"} ` + filters)
	if err != nil {
		t.Fatal(err)
	}
	var fs []LineFilter
	for _, st := range e.(*LogQuery).Stages {
		fs = append(fs, st.(*LineFilters).Filters...)
	}
	f, err := CompileFilters(fs)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFilter(t *testing.T) {
	f := func(filters, line string, want bool) {
		t.Helper()
		if got := compile(t, filters).Match([]byte(line)); got != want {
			t.Fatalf("%s on %q: got %v", filters, line, got)
		}
	}
	f(``, "", true)
	f(`|= ""`, "", true)
	f(`!= ""`, "x", false)
	f(`|= "b"`, "abc", true)
	f(`|= "x"`, "abc", false)
	f(`!= "b"`, "abc", false)
	f(`!= "x"`, "abc", true)
	f(`|= "a" != "x" |= "c"`, "abc", true)
	f(`|= "x" or "b"`, "abc", true)
	f(`|= "x" or "y"`, "abc", false)
	f(`!= "x" or "b"`, "abc", false)
	f(`!= "x" or "y"`, "abc", true)
	f(`|= "x" or ""`, "abc", false) // what all lines have is no alternative
	f(`|= "" or ""`, "abc", true)
	f(`|> "<_> = <_>ms"`, "took = 5ms", true)
	f(`|> "<_> = <_>ms"`, "took = 5ms.", false)
	f(`|> "<_> = <_>ms"`, " = 5ms", false)
	f(`|> "took<_>"`, "took", false)
	f(`|> "took<_>"`, "took5", true)
	f(`!> "took<_>"`, "took5", false)
	f(`|> ""`, "", true)
	f(`|> ""`, "x", false)
	f(`|> "<_>"`, "x", true)
	f(`|> "<_>"`, "", false)
	f(`|> "a<_>a<_>"`, "aa", false)
	f(`|> "a < b"`, "a < b", true)
	f(`|= ip("10.0.0.0/8")`, "from 10.1.2.3:80 to 9.9.9.9", true)
	f(`|= ip("10.0.0.0/8")`, "from 11.1.2.3", false)
	f(`!= ip("10.0.0.0/8")`, "from 11.1.2.3", true)
	f(`|= ip("192.168.0.1-192.168.0.9")`, "192.168.0.9", true)
	f(`|= ip("192.168.0.1-192.168.0.9")`, "192.168.0.10", false)
	f(`|= ip("192.168.0.1")`, "x192.168.0.1", true)
	f(`|= ip("::1")`, "on ::1 it is", true)
	f(`|= ip("2001:db8::/32")`, "[2001:db8::ff]:443", true)
	f(`|= ip("2001:db8::1-2001:db8::9")`, "2001:db8::5", true)
	f(`|= ip("2001:db8::1-2001:db8::9")`, "2001:db8::a", false)
	f(`|= ip("1.2.3.4") or "x"`, "y 1.2.3.4", true)
	f(`|= "x" or ip("1.2.3.4")`, "y 1.2.3.4", true)
	f(`|~ "x|b"`, "abc", true)
	f(`|~ "^a.c$"`, "abc", true)
	f(`|~ "^b"`, "abc", false)
	f(`!~ "^b" or "c$"`, "abc", false)
	f(`|~ "a.c"`, "a\nc", false) // unlike in a label matcher
	f(`|= "\xff"`, "a\xffb", true)
	f(`|~ "\ufffd"`, "a\xffb", true)
	f(`|= "\ufffd"`, "a\xffb", false)
	f("|~ `(?i)kelvin`", "\u212aelvin", true)
	f("|~ `(?i)sun`", "\u017fun", true)
	f("|~ `(?i)sun`", "xxfun", false)
}

// TestSimplify compares what stands for a regular expression with the engine,
// and checks that what should be simple is.
func TestSimplify(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	words := []string{"", "a", "b", "foo", "FOO", "Error", "err", "\n", " ", "bar", "k", "K", "\u212a", "\u017f", "s", "é", "\xff", "\xc3", "1", "x"}
	line := func() []byte {
		var s strings.Builder
		for range rng.Intn(8) {
			s.WriteString(words[rng.Intn(len(words))])
		}
		return []byte(s.String())
	}
	f := func(expr string, simple bool) {
		t.Helper()
		tree, err := parseLineRegexp(expr)
		if err != nil {
			t.Fatal(err)
		}
		m := simplify(tree)
		if simple != (m != nil) {
			t.Fatalf("%s: simplified to %T", expr, m)
		}
		lf := LineFilter{Op: Matches, Texts: []FilterText{{Text: expr}}}
		if m, err = lf.compile(); err != nil {
			t.Fatal(err)
		}
		re := regexp.MustCompile(expr)
		for range 3000 {
			l := line()
			if got, want := m.match(l), re.Match(l); got != want {
				t.Fatalf("%s on %q: got %v, the engine says %v (%T)", expr, l, got, want, m)
			}
			if m.match(l) && !strings.Contains(string(l), string(m.needle())) {
				t.Fatalf("%s: matches %q without its needle %q", expr, l, m.needle())
			}
			if finder := anyText([]lineMatcher{m}); m.match(l) && finder.Index(l) < 0 {
				t.Fatalf("%s: matches %q without any of its texts", expr, l)
			}
		}
	}
	f(`foo`, true)
	f(`.*foo.*`, true)
	f(`.*?foo(bar)?`, true)
	f(`(foo)`, true)
	f(`foo|bar|x`, true)
	f(`(?:foo|bar)s*`, true)
	f(`(foo|bar)+`, true)
	f(`^foo`, true)
	f(`^foo.*`, true)
	f(`foo$`, true)
	f(`.*foo$`, true)
	f(`^foo$`, true)
	f(`^(foo)$`, true)
	f(`^foo|bar$`, true)
	f(`(?i)foo`, true)
	f(`(?i)error`, true)
	f(`(?i)k`, true)
	f(`(?i)1`, true)
	f(`(?i)xs|kx`, true)
	f(`(?i)é`, false)
	f(`.*`, true)
	f(`a*`, true)
	f(``, true)
	f(`(a|)`, true)
	f(`err|error`, true)
	f("\ufffd", false)
	f(`é`, true)
	f(`^.*foo`, false)
	f(`.+foo`, false)
	f(`foo.bar`, false)
	f(`foo.*bar`, false)
	f(`(?m)^foo$`, false)
	f(`\bfoo\b`, false)
	f(`^`, false)
	f(`$`, false)
	f(`^$`, false)
	f(`(?i)^foo`, false)
	f(`fo{2}`, false)
	f(`x{0,2}foo`, true)
	f(`(?:foo){2}`, false)
	f(`a|b|[^x]`, false)
	f(`\d+foo`, false)
	f(`foo\d+bar|err`, false)
}

// TestFinder: lines that a filter keeps have one of its texts, those of which
// there is something to find.
func TestFinder(t *testing.T) {
	f := func(filters, kept, dropped string) {
		t.Helper()
		c := compile(t, filters)
		if got := c.Finder().Everywhere(); got != (dropped == "") {
			t.Errorf("%s: everywhere is %v", filters, got)
		}
		for line := range strings.SplitSeq(kept, ",") {
			if !c.Match([]byte(line)) || c.Finder().Index([]byte("before "+line)) < 0 {
				t.Errorf("%s: %q is not found", filters, line)
			}
		}
		for line := range strings.SplitSeq(dropped, ",") {
			if dropped != "" && (c.Match([]byte(line)) || c.Finder().Index([]byte(line)) >= 0) {
				t.Errorf("%s: %q is found", filters, line)
			}
		}
	}
	f(``, "x", "")
	f(`|= "needle"`, "a needle", "a needl")
	f(`|= "needle" or "pin"`, "needle,pins", "NEEDLE,pi")
	f(`|~ "needle|pin"`, "needle,pins", "NEEDLE,pi")
	f(`|~ "(?i)timeout|refused"`, "TimeOut,REFUSED,refu\u017fed", "time out,re-fused")
	f(`|~ "(?i)kiosk"`, "KIOSK,\u212aiosk,kio\u017fk", "kios")
	f(`|~ "(?i)a" |~ "(?i)needle" != "x"`, "A NEEDLE", "a needl,b")
	f(`|~ "(?i)needle" |= "pin"`, "Needle pin", "needle")
	f(`!= "needle"`, "x", "")
	f(`|~ "(?i)needle|[0-9]{3}x"`, "needle,123x", "")
	f(`|= "a" or "b" or "c" or "d" or "e" or "f" or "g" or "h" or "i"`, "i", "")
	f(`|= "needle" or ""`, "needle", "needl") // the empty text is passed over
}

func TestNeedle(t *testing.T) {
	f := func(filters, want string) {
		t.Helper()
		if got := string(compile(t, filters).Needle()); got != want {
			t.Fatalf("%s: got %q, want %q", filters, got, want)
		}
	}
	f(``, "")
	f(`|= "a" |= "abc" |= "ab"`, "abc")
	f(`!= "abc"`, "")
	f(`|= "abc" or "abd"`, "")
	f(`|~ "x\\d+foo(bar)+\\d"`, "foo")
	f(`|~ "(?i)foo"`, "")
	f(`|~ "^foo"`, "foo")
	f(`|~ "a(foo)?b{2}\\d"`, "a")
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"foo", "(?i)kS|x", "^a.*b$", ".*foo(bar)?", "é+\\d", "\ufffd", "a{2}|[b-d]x", "(?i:Err)or"} {
		f.Add(s, []byte("an Error foo \xff K\u212a\u017f éé1\nab"))
	}
	f.Fuzz(func(t *testing.T, expr string, line []byte) {
		re, err := regexp.Compile(expr)
		if err != nil || len(expr) > 200 {
			return
		}
		if _, err := parseLineRegexp(expr); err != nil {
			return // too complex
		}
		m, err := LineFilter{Op: Matches, Texts: []FilterText{{Text: expr}}}.compile()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := m.match(line), re.Match(line); got != want {
			t.Fatalf("%q on %q: got %v, the engine says %v", expr, line, got, want)
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	line := []byte(`2026-11-24T10:00:00.123Z level=info component=ingester msg="flushed a chunk" stream="{app=\"api\"}" took=12.3ms size=1572864 status=200`)
	for _, q := range []string{`|= "needle"`, `!= "needle"`, `|~ "(?i)needle"`, `|~ "needle|pin"`, `|~ "needle\\d+"`, `|~ "status=5\\d\\d"`, `|~ "\\d{4}x"`} {
		b.Run(fmt.Sprint(q), func(b *testing.B) {
			f := compile(b, q)
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			for b.Loop() {
				f.Match(line)
			}
		})
	}
}
