package lenient

import (
	"fmt"
	"strings"
	"testing"
)

// pairs reads all pairs of a line: key=value each, "!" for a wrong one.
func pairs(line string) string {
	var r Logfmt
	var scratch []byte
	var out []string
	r.Start([]byte(line))
	for !r.Done() {
		if r.Next(&scratch) {
			out = append(out, string(r.Key)+"="+string(r.Value))
		} else {
			out = append(out, "!")
		}
	}
	if err := r.Err(); err != nil {
		out = append(out, err.Error())
	}
	return strings.Join(out, "|")
}

func TestLogfmt(t *testing.T) {
	f := func(line, want string) {
		t.Helper()
		if got := pairs(line); got != want {
			t.Errorf("%q: got %s, want %s", line, got, want)
		}
	}
	f(``, ``)
	f(`a=1 b="x y" c`, `a=1|b=x y|c=`)
	f(`a="x\"\u00e9\n" b=`, "a=x\"é\n|b=")
	f(`a=b=c d=1`, `!|d=1|logfmt syntax error at pos 4 : unexpected '='`)
	f(`=x a=1`, `!|a=1|logfmt syntax error at pos 1 : unexpected '='`)
	f(`a"b c=1`, `!|c=1|logfmt syntax error at pos 2 : unexpected '"'`)
	f(`a="open`, `!|logfmt syntax error at pos 8 : unterminated quoted value`)
	f(`a="\q" b=1`, `!|b=1|logfmt syntax error at pos 7 : invalid quoted value`)
	f("\xff=1 b=2", `!|b=2|logfmt syntax error at pos 2 : invalid key`)
}

// object reads the pairs of an object and of those in it.
func object(text string) string {
	var out []string
	var scratch []byte
	var each func(key, v []byte, kind Kind) error
	each = func(key, v []byte, kind Kind) error {
		out = append(out, fmt.Sprintf("%s=%s/%d", key, v, kind))
		if kind == Object {
			return NewJSON(v).Object(&scratch, each)
		}
		return nil
	}
	if err := NewJSON([]byte(text)).Object(&scratch, each); err != nil {
		out = append(out, err.Error())
	}
	return strings.Join(out, "|")
}

func TestJSON(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := object(text); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
	f(`{}`, ``)
	f(` {"a":"x","b":1.5,"c":true,"d":null,"e":[1,"]"]} rest`, `a=x/0|b=1.5/1|c=true/2|d=null/3|e=[1,"]"]/5`)
	f(`{"\u0061":"q\"}","o":{"i":"y"}}`, `a=q\"}/0|o={"i":"y"}/4|i=y/0`)
	f(`{"a":"x","b":`, `a=x/0|`+ErrMalformed.Error())
	f(`{"a":"x`, ErrString.Error())
	f(`{"a":{`, ErrObject.Error())
	f(`{"a":[`, ErrArray.Error())
	f(`{"a":nope}`, ErrUnknownType.Error())
	f(`{"\q":1}`, ErrEscape.Error())
	f(`["a"]`, ErrObject.Error())
}

// What is read is at most as long as the text, and reading ends.
func FuzzLenient(f *testing.F) {
	for _, s := range []string{`a=1 b="x y" c`, `a=b=c "`, "\xff=1 x=\"\\u00e9\"", `{"a":{"b":"\n","c":[1,{"d":null}]}} x`, `{"a`, `{"\ud83d\ude00":true,`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Logfmt
		var scratch []byte
		r.Start(b)
		for n := 0; !r.Done(); n++ {
			if n > len(b) {
				t.Fatal("more pairs than bytes")
			}
			if r.Next(&scratch) && len(r.Key)+len(r.Value) > len(b)*3 { // U+FFFD is three bytes
				t.Fatalf("pair %q=%q", r.Key, r.Value)
			}
		}
		n := 0
		_ = NewJSON(b).Object(&scratch, func(key, v []byte, _ Kind) error {
			if n++; n > len(b) || len(key)+len(v) > len(b) {
				t.Fatalf("pair %d %q:%q", n, key, v)
			}
			return nil
		})
	})
}
