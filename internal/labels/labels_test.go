package labels

import "testing"

func TestParse(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		ls, err := Parse(in)
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		if got := ls.String(); got != want {
			t.Fatalf("%s: got %s, want %s", in, got, want)
		}
	}
	f(`{}`, `{}`)
	f(` { } `, `{}`)
	f(`{a="b"}`, `{a="b"}`)
	f(`{b="2", a="1",}`, `{a="1", b="2"}`)
	f(`{a="",b="x"}`, `{b="x"}`)
	f("{a='it\\'s'}", `{a="it's"}`)
	f("{a=`back\\slash`}", `{a="back\\slash"}`)
	f(`{a="\u00e9\xff\n"}`, `{a="é\xff\n"}`)
	f(`{"x.y"="1"}`, `{"x.y"="1"}`)
}

func TestParseErrors(t *testing.T) {
	f := func(in string) {
		t.Helper()
		if ls, err := Parse(in); err == nil {
			t.Fatalf("%s: no error, got %s", in, ls)
		}
	}
	f(``)
	f(`{`)
	f(`{,}`)
	f(`{a}`)
	f(`{a=}`)
	f(`{a="b}`)
	f(`{a="b" c="d"}`)
	f(`{a="b",,c="d"}`)
	f(`{a="b"} x`)
	f(`{a="1", a="2"}`)
	f(`{1a="b"}`)
	f(`{a="\q"}`)
}

func TestKnownValues(t *testing.T) {
	f := func(in string, want uint64) {
		t.Helper()
		ls, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := ls.Fingerprint(); got != want {
			t.Fatalf("%s: fingerprint %016x, want %016x", in, got, want)
		}
	}
	f(`{app="api", env="prod", host="h1"}`, 0x8e52f22720fde563)
	f(`{app="midnight"}`, 0x1372f89b3ccb0f15)
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{a="b"}`, `{a='b', "x.y"="\u00e9\xff"}`, "{a=`\\`,}", `{a="1",a="2"}`, `{é="x"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ls, err := Parse(s)
		if err != nil {
			return
		}
		text := ls.String()
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("%q: canonical form %q does not parse: %v", s, text, err)
		}
		if again.String() != text {
			t.Fatalf("%q: canonical form is not stable: %q, %q", s, text, again.String())
		}
		if again.Fingerprint() != ls.Fingerprint() {
			t.Fatalf("%q: fingerprint differs after a round trip", s)
		}
	})
}
