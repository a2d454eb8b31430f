package syslog

import (
	"slices"
	"strings"
	"testing"
)

// cutFrames runs p through a framer, of which step bytes arrive at a time, and
// renders what comes out: a + stands for a message that goes on.
func cutFrames(t testing.TB, p string, max, step int) []string {
	t.Helper()
	f := framer{max: max}
	var out []string
	var buf []byte
	for at := 0; ; {
		n := min(step, len(p)-at)
		buf = append(buf, p[at:at+n]...)
		at += n
		eof := n == 0
		for {
			fr, size, ok := f.next(buf, eof)
			if size > len(buf) {
				t.Fatalf("%d bytes of %d", size, len(buf))
			}
			if ok && len(fr.text) > max {
				t.Fatalf("%d bytes in a frame", len(fr.text))
			}
			if ok {
				s := string(fr.text)
				if !fr.first {
					s = "+" + s
				}
				if !fr.last {
					s += "+"
				}
				if fr.cut {
					s += " (cut)"
				}
				if fr.disbelieved {
					s += " (count)"
				}
				out = append(out, s)
			}
			buf = buf[size:]
			if !ok {
				break
			}
		}
		if eof {
			if len(buf) > 0 || f.started() {
				t.Fatalf("%q is left, started %v", buf, f.started())
			}
			return out
		}
		if len(buf) > max+smallBuffer {
			t.Fatalf("%d bytes and no frame", len(buf))
		}
	}
}

func TestFraming(t *testing.T) {
	f := func(in string, want ...string) {
		t.Helper()
		const limit = 20
		for step := 1; step <= len(in)+1; step++ {
			if got := cutFrames(t, in, limit, step); !slices.Equal(got, want) {
				t.Fatalf("%q in steps of %d:\n got %q\nwant %q", in, step, got, want)
			}
		}
	}
	f("")
	f("<13>a\n<13>b\n", "<13>a", "<13>b")
	f("<13>a\r\n<13>b\r\n", "<13>a", "<13>b")
	f("<13>a\x00<13>b\x00", "<13>a", "<13>b")
	f("<13>a\n\x00<13>b\x00\n", "<13>a", "<13>b")
	f("<13>a\n\n\n<13>b", "<13>a", "<13>b")
	f("\n\n\x00")
	f("\r\n<13>a\n", "", "<13>a")
	f("no priority\n<13>\r", "no priority", "<13>\r")
	// Counted.
	f("5 <13>a7 <13>b\nc", "<13>a", "<13>b\nc")
	f("5 <13>a\n5 <13>b\n", "<13>a", "<13>b")
	f("6 <13>a\n6 <13>b\n", "<13>a\n", "<13>b\n")
	f("8 <13>a\x00\r\n5 <13>b", "<13>a\x00\r\n", "<13>b")
	// Mixed, message by message.
	f("<13>a\n5 <13>b<13>c\x005 <13>d", "<13>a", "<13>b", "<13>c", "<13>d")
	// Lines that start with digits are lines.
	f("200 OK\n5 <13>a404\n12 monkeys\n", "200 OK", "<13>a", "404", "12 monkeys")
	f("12", "12")
	f("12 ", "12 ")
	f("05 <13>a\n", "05 <13>a")
	f("1234567890 <13>a\n5 <13>b", "1234567890 <13>a", "<13>b")
	// Counts that lie: too small, too large for what comes, too large at all.
	f("3 <13>ab\n5 <13>c", "<13", ">ab", "<13>c")
	f("9 <13>a5 <13>b\n5 <13>c", "<13>a5 <1", "3>b", "<13>c")
	f("9 <13>a", "<13>a (cut)")
	f("999999999 <13>a\n5 <13>b", "999999999 <13>a (count)", "<13>b")
	f("321 <13>a\n5 <13>b", "321 <13>a (count)", "<13>b")
	// Long messages, counted and not.
	ten := "0123456789"
	f("20 <"+ten+"12345678>5 <13>a", "<"+ten+"12345678>", "<13>a")
	f("21 <"+ten+"123456789>5 <13>a", "<"+ten+"123456789+", "+>", "<13>a")
	f("41 <"+ten+ten+ten+"123456789>\n", "<"+ten+"012345678+", "+9"+ten+"123456789+", "+>")
	f("41 <"+ten+ten+"tail", "<"+ten+"012345678+", "+9tail (cut)")
	f("320 <"+strings.Repeat("a", 319), append(append([]string{"<" + strings.Repeat("a", 19) + "+"}, slices.Repeat([]string{"+" + strings.Repeat("a", 20) + "+"}, 14)...), "+"+strings.Repeat("a", 20))...)
	f(ten+ten+"\n"+"x\n", ten+ten, "x")
	f(ten+ten+"\r\n"+"x\n", ten+ten, "x")
	f("a"+ten+ten+"\n"+"x\n", "a"+ten+"012345678+", "+9", "x")
	f(ten+ten+"\rx\n", ten+ten+"+", "+\rx")
	f(ten+ten, ten+ten)
	f(ten+ten+"\r", ten+ten+"+", "+\r")
	f("a"+ten+ten+ten+ten+"\n", "a"+ten+"012345678+", "+9"+ten+"012345678+", "+9")
	// A character is not cut, unless it is none.
	f("a0123456789012345678ü\nx", "a0123456789012345678+", "+ü", "x")
	f("a012345678901234567ü8\nx", "a012345678901234567+", "+ü8", "x")
	f(ten+"0123456"+"\xF0\x9F\x98\x80\n", ten+"0123456+", "+\xF0\x9F\x98\x80")
	f(ten+ten+"\x80\x80\n", ten+"012345678+", "+9\x80\x80")
	f(strings.Repeat("\x80", 22)+"\n", strings.Repeat("\x80", 20)+"+", "+\x80\x80")
	f("40 <"+ten+"0123456ü"+ten+ten+"\n", "<"+ten+"0123456ü+", "+"+ten+ten)
}

// A long line is searched once, not with each byte of it that arrives.
func TestFramingIsLinear(t *testing.T) {
	f := framer{max: 1 << 20}
	p := []byte(strings.Repeat("a", 1<<19))
	for n := range len(p) + 1 {
		if _, size, ok := f.next(p[:n], false); ok || size != 0 {
			t.Fatal("a frame without an end")
		}
		if n > 0 && f.seen != n {
			t.Fatalf("%d bytes of %d are not looked at again", f.seen, n)
		}
	}
}

func TestWholeRunes(t *testing.T) {
	for _, c := range []struct {
		p       string
		n, want int
	}{{"aü", 2, 1}, {"aü", 1, 1}, {"aü", 3, 3}, {"a€b", 3, 1}, {"a€b", 4, 4}, {"aaaa\x80\x80\x80\x80\x80", 8, 8}} {
		if got := wholeRunes([]byte(c.p), c.n); got != c.want {
			t.Errorf("%q cut at %d: got %d, want %d", c.p, c.n, got, c.want)
		}
	}
}
