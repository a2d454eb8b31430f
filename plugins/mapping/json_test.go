package mapping

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// fixture returns the body of a captured request.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	_, body, ok := bytes.Cut(raw, []byte("\r\n\r\n"))
	if !ok {
		t.Fatalf("%s: no end of headers", name)
	}
	return body
}

// parseAll returns every value of a body as compact JSON; an error is an
// element too.
func parseAll(src string, lines bool) []string {
	var s Stream
	var rec Record
	s.Reset([]byte(src), lines)
	var out []string
	for {
		err := s.Next(&rec)
		if err == io.EOF {
			return out
		}
		if err != nil {
			out = append(out, "error: "+err.Error())
			continue
		}
		out = append(out, string(AppendJSON(nil, &rec, 0)))
	}
}

func TestStream(t *testing.T) {
	f := func(src string, want ...string) {
		t.Helper()
		if got := parseAll(src, false); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q:\n got %q\nwant %q", src, got, want)
		}
	}
	f(``)
	f(" \n\t\r ")
	f(`[]`)
	f(`[ ] [] `)
	f(`{}`, `{}`)
	f("\xef\xbb\xbf{}", `{}`)
	f(`{"a":1}`, `{"a":1}`)
	f(`{"a":1}{"b":2}`, `{"a":1}`, `{"b":2}`)
	f("{\"a\":1}\n{\"b\":2}\n", `{"a":1}`, `{"b":2}`)
	f(`[{"a":1},{"b":2}]`, `{"a":1}`, `{"b":2}`)
	f(` [ {"a" : 1 } , {"b":2} ] {"c":3} [{"d":4}]`, `{"a":1}`, `{"b":2}`, `{"c":3}`, `{"d":4}`)
	f(`[1,"x",[{"a":1}],null]`, `1`, `"x"`, `[{"a":1}]`, `null`)
	f(`1 2`, `1`, `2`)
	f(`{"a":[1,{"b":[]},"c",{}],"d":{"e":{"f":null}}}`, `{"a":[1,{"b":[]},"c",{}],"d":{"e":{"f":null}}}`)
	f(`{"a":1,"a":2}`, `{"a":1,"a":2}`)
	f(`{"":""}`, `{"":""}`)
	f(`{"n":[-0,0.10,1E+400,123456789012345678901234567890,-1.5e-3]}`, `{"n":[-0,0.10,1E+400,123456789012345678901234567890,-1.5e-3]}`)
	f(`{"s":"\"\\\/\b\f\n\r\t\u0001\u00e9\ud83d\ude00"}`, `{"s":"\"\\/\u0008\u000c\n\r\t\u0001é😀"}`)
	f(`{"s":"\ud83d","t":"\ude00x","u":"\ud83d\u0041","v":"\ud83d\ud83d\ude00"}`, `{"s":"�","t":"�x","u":"�A","v":"�😀"}`)
	f("{\"s\":\"a\xffb\xe2\x82\"}", `{"s":"a\ufffdb\ufffd\ufffd"}`)
	f("{\"s\":\"raw\ttab\nline\"}", `{"s":"raw\ttab\nline"}`)
	f(`{"a":true,"b":false,"c":null}`, `{"a":true,"b":false,"c":null}`)
	f(`{"k\n\"":1,"\u00e9":2}`, `{"k\n\"":1,"é":2}`)
}

func TestStreamErrors(t *testing.T) {
	f := func(src string, want ...string) {
		t.Helper()
		got := parseAll(src, false)
		for i := range got {
			got[i] = strings.TrimPrefix(got[i], "error: json: ")
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q:\n got %q\nwant %q", src, got, want)
		}
	}
	f(`{"a":1}{"b":`, `{"a":1}`, `unexpected end of input at offset 12`)
	f(`[{"a":1},`, `{"a":1}`, `unexpected end of input in array at offset 9`)
	f(`[{"a":1}`, `{"a":1}`, `unexpected end of input in array at offset 8`)
	f(`[{"a":1},]`, `{"a":1}`, `expected a value, found ']' at offset 9`)
	f(`[{"a":1} {}]`, `{"a":1}`, `expected ',' or ']' in array, found '{' at offset 9`)
	f(`[`, `unexpected end of input in array at offset 1`)
	f(`{"a":1},{}`, `{"a":1}`, `expected a value, found ',' at offset 7`)
	f(`{a:1}`, `expected a key in double quotes, found 'a' at offset 1`)
	f(`{"a" 1}`, `expected ':' after a key, found '1' at offset 5`)
	f(`{"a":1 "b":2}`, `expected ',' or the end of the object, found '"' at offset 7`)
	f(`{"a":[1}`, `expected ',' or the end of the array, found '}' at offset 7`)
	f(`{"a":1]`, `expected ',' or the end of the object, found ']' at offset 6`)
	f(`{"a":}`, `expected a value, found '}' at offset 5`)
	f(`{"a":1,}`, `expected a key in double quotes, found '}' at offset 7`)
	f(`{"a":"x`, `unexpected end of input in a string at offset 7`)
	f(`{"a":"\`, `unexpected end of input in a string at offset 7`)
	f(`{"a":"\q"}`, `bad escape \q in a string at offset 6`)
	f(`{"a":"\u12g4"}`, `bad \u escape in a string at offset 6`)
	f(`{"a":tru}`, `expected a value, found 't' at offset 5`)
	f(`{"a":01}`, `bad number: found '1' at offset 6`)
	f(`{"a":1.}`, `bad number: found '}' at offset 7`)
	f(`{"a":-}`, `bad number: found '}' at offset 6`)
	f(`{"a":1e}`, `bad number: found '}' at offset 7`)
	f(`{"a":+1}`, `expected a value, found '+' at offset 5`)
	f(`{"a":.5}`, `expected a value, found '.' at offset 5`)
	f(`{"a":NaN}`, `expected a value, found 'N' at offset 5`)
	f(`{"a":1.2.3}`, `bad number: found '.' at offset 8`)
	f(`{"a":"b"`, `unexpected end of input at offset 8`)
	f(`{"a"`, `unexpected end of input at offset 4`)
	f(`{`, `unexpected end of input at offset 1`)
	f(`hello`, `expected a value, found 'h' at offset 0`)
	f("\x1f\x8b", `expected a value, found '\x1f' at offset 0`)
}

func TestStreamLines(t *testing.T) {
	// A line that was cut off takes the next one's start with it before the
	// error shows; the stream goes on behind the broken line's own end.
	got := parseAll("{\"a\":1}\n{\"b\":\n{\"c\":3}\n\n{\"d\":\"x\ny\n{\"e\":5}", true)
	want := []string{
		`{"a":1}`, `error: json: expected ',' or the end of the object, found '{' at offset 23`, `{"c":3}`,
		`error: json: unexpected end of input in a string at offset 30`,
		`error: json: expected a value, found 'y' at offset 31`, `{"e":5}`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
	got = parseAll("{\"a\":1}\n{\"b\":", true)
	want = []string{`{"a":1}`, `error: json: unexpected end of input at offset 13`}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
}

func TestStreamDepth(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	if got := parseAll(deep(MaxDepth), false); len(got) != 1 || got[0] != deep(MaxDepth) {
		t.Fatalf("depth %d: %.200q", MaxDepth, got)
	}
	got := parseAll(`[{"x":1},`+deep(10000)+`,{"y":"]}"},`+strings.Repeat("[", MaxDepth+1)+strings.Repeat("]", MaxDepth+1)+`,{"z":1}]`, false)
	if len(got) != 5 || got[0] != `{"x":1}` || got[2] != `{"y":"]}"}` || got[4] != `{"z":1}` {
		t.Fatalf("%.300q", got)
	}
	if want := "error: json: value at offset 9: nested deeper than 100 (offset 509)"; got[1] != want {
		t.Fatalf("got %q, want %q", got[1], want)
	}
	got = parseAll(strings.Repeat("[", 1<<20), false)
	if len(got) != 1 || got[0] != "error: json: unexpected end of input at offset 1048576" {
		t.Fatalf("%.300q", got)
	}
}

// A body of many small values in one event must not take much more memory than
// its size.
func TestStreamManyValues(t *testing.T) {
	src := `{"a":[` + strings.Repeat("1,", 4<<20) + `1]}{"b":1}`
	var s Stream
	var rec Record
	s.Reset([]byte(src), false)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := s.Next(&rec)
	runtime.ReadMemStats(&after)
	var ve *ValueError
	if !errors.As(err, &ve) || ve.Offset != 0 {
		t.Fatalf("error %v", err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
		t.Fatalf("%d bytes allocated for a body of %d", n, len(src))
	}
	if err := s.Next(&rec); err != nil || string(AppendJSON(nil, &rec, 0)) != `{"b":1}` {
		t.Fatalf("next value: %v", err)
	}
	if err := s.Next(&rec); err != io.EOF {
		t.Fatalf("end: %v", err)
	}
}

// Bodies that make a quadratic scanner slow: eight times the body may take a
// multiple of that, not of its square. What else the machine does at the time
// counts for both.
func TestStreamLinear(t *testing.T) {
	repeat := func(head, part, tail string, n int) func(int) string {
		return func(times int) string { return head + strings.Repeat(part, times*n) + tail }
	}
	for name, src := range map[string]func(times int) string{
		"escapes":    repeat(`{"a":"`, `\n`, `"}`, 1<<14),
		"surrogates": repeat(`{"a":"`, `\ud800`, `"}`, 1<<14),
		"open":       repeat("", `{"a":`, "", 1<<13),
		"spaces":     repeat("", " ", "{}", 1<<16),
		"lines":      repeat("", "{\n", "", 1<<12),
		"deep lines": repeat("", "{\"a\":\n", "", 1<<13),
		"strings":    repeat(`{"`, `a":"`, "", 1<<13),
	} {
		took := func(times int) time.Duration {
			text, best := src(times), time.Hour
			for range 3 {
				start := time.Now()
				parseAll(text, strings.Contains(name, "lines"))
				best = min(best, time.Since(start))
			}
			return best
		}
		if one, eight := took(1), took(8); eight > 40*max(one, time.Millisecond) {
			t.Errorf("%s: %v, and %v for eight times as much", name, one, eight)
		}
	}
}

// oneEach replaces each byte that is not UTF-8 by U+FFFD.
func oneEach(p []byte) string { return string([]rune(string(p))) }

// toAny is an independent reading of a Record.
func toAny(r *Record, i int) any {
	n := &r.Nodes[i]
	switch n.Kind {
	case Null:
		return nil
	case Bool:
		return n.Num == 1
	case Number:
		return json.Number(n.Str)
	case String:
		return oneEach(n.Str)
	case Array:
		a := []any{}
		for j := i + 1; j < int(n.End); j = r.Next(j) {
			if r.Nodes[j].Key != nil {
				panic("key in an array")
			}
			a = append(a, toAny(r, j))
		}
		return a
	case Map:
		m := map[string]any{}
		for j := i + 1; j < int(n.End); j = r.Next(j) {
			if r.Nodes[j].Key == nil {
				panic("no key in a map")
			}
			m[oneEach(r.Nodes[j].Key)] = toAny(r, j)
		}
		return m
	}
	panic(fmt.Sprintf("kind %d", n.Kind))
}

func FuzzStream(f *testing.F) {
	f.Add(fixture(f, "flb_http_json.req0.bin"), false)
	f.Add(fixture(f, "constructed_logstash_json_batch.req0.bin"), false)
	for _, s := range []string{
		`{}`, `[]`, `[1,{"a":[true,false,null]}]{"b":"\u00e9\ud83d\ude00\n"}`, "{\"a\":1}\n{\"b\"\n{\"c\":-1.5e+3}",
		`[[[[{"a":{}}]]]]`, `{"a":"\`, "\xef\xbb\xbf{\"\xff\":\"\xfe\"}", `{"a":01}`, `{"a":1`, `{"a":1,"a":[]}`,
	} {
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, src []byte, lines bool) {
		keep := bytes.Clone(src)
		var s Stream
		var rec Record
		s.Reset(src, lines)
		var values []any
		broken := false
		for n := 0; ; n++ {
			if n > len(src)+1 {
				t.Fatal("the stream does not end")
			}
			err := s.Next(&rec)
			if err == io.EOF {
				break
			}
			if err != nil {
				broken = true
				continue
			}
			checkNodes(t, &rec)
			values = append(values, toAny(&rec, 0))
			text := AppendJSON(nil, &rec, 0)
			if !json.Valid(text) || !utf8.Valid(text) {
				t.Fatalf("not valid JSON: %q", text)
			}
			AppendLogfmt(nil, &rec, 0)
			if rec.Nodes[0].Kind == Array {
				continue // an outermost array would be taken apart
			}
			var s2 Stream
			var rec2 Record
			s2.Reset(text, false)
			if err := s2.Next(&rec2); err != nil {
				t.Fatalf("%q does not parse: %v", text, err)
			}
			if again := toAny(&rec2, 0); !reflect.DeepEqual(again, toAny(&rec, 0)) {
				t.Fatalf("%q is read as %#v", text, again)
			}
		}
		if !bytes.Equal(src, keep) {
			t.Fatal("the input was changed")
		}
		// What encoding/json takes, we take, and read the same.
		if !json.Valid(src) || bytes.Count(src, []byte("{"))+bytes.Count(src, []byte("[")) > MaxDepth {
			return
		}
		if broken {
			t.Fatal("valid JSON refused")
		}
		d := json.NewDecoder(bytes.NewReader(src))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatal(err)
		}
		list, ok := want.([]any)
		if !ok {
			list = []any{want}
		}
		if len(list) != len(values) || len(list) > 0 && !reflect.DeepEqual(list, values) {
			t.Fatalf("got %#v\nwant %#v", values, list)
		}
	})
}

func checkNodes(t *testing.T, r *Record) {
	t.Helper()
	if len(r.Nodes) == 0 || len(r.Nodes) > MaxNodes {
		t.Fatalf("%d nodes", len(r.Nodes))
	}
	if n := r.Next(0); n != len(r.Nodes) {
		t.Fatalf("the top value ends at %d of %d", n, len(r.Nodes))
	}
	for i := range r.Nodes {
		if n := &r.Nodes[i]; n.Kind >= Array && (int(n.End) <= i || int(n.End) > len(r.Nodes)) {
			t.Fatalf("node %d ends at %d of %d", i, n.End, len(r.Nodes))
		}
	}
}

func BenchmarkParseJSON(b *testing.B) {
	for _, c := range []struct{ name, file string }{
		{"fluentbit", "flb_http_json.req0.bin"}, {"logstash", "constructed_logstash_json_batch.req0.bin"},
	} {
		b.Run(c.name, func(b *testing.B) {
			body := fixture(b, c.file)
			var s Stream
			var rec Record
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				s.Reset(body, false)
				for s.Next(&rec) == nil {
				}
			}
		})
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	var s Stream
	var rec Record
	body := fixture(b, "flb_http_json.req0.bin")
	s.Reset(body, false)
	if err := s.Next(&rec); err != nil {
		b.Fatal(err)
	}
	out := AppendJSON(nil, &rec, 0)
	b.SetBytes(int64(len(out)))
	b.ReportAllocs()
	for b.Loop() {
		out = AppendJSON(out[:0], &rec, 0)
	}
}
