package template

import (
	"strings"
	"testing"
	"time"
)

func execute(t testing.TB, text string, labels map[string]string) (string, error) {
	t.Helper()
	tm, err := New("line", text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	out, err := tm.Execute([]byte("before "), 1_700_000_000_123_456_789, []byte("the line"), labels)
	if !strings.HasPrefix(string(out), "before ") {
		t.Fatalf("%s: %q", text, out)
	}
	return string(out[len("before "):]), err
}

var labels = map[string]string{
	"a": "Hello World", "n": "12", "f": "2.75", "neg": "-7", "empty": "", "d": "1m30s", "b": "2KB",
	"j": `{"x":[1,"two",{"y":null}],"z":true}`, "e": "aGVsbG8=", "oct": "010", "url": "a b&c=d%",
}

func TestExecute(t *testing.T) {
	time.Local = time.UTC
	f := func(text, want string) {
		t.Helper()
		got, err := execute(t, text, labels)
		if err != nil || got != want {
			t.Fatalf("%s: got %q, %v, want %q", text, got, err, want)
		}
	}
	f(`{{.a}}`, "Hello World")
	f(`<{{.missing}}>`, "<>")
	f(`{{__line__}} at {{__timestamp__ | unixEpoch}}`, "the line at 1700000000")
	f(`{{__timestamp__ | date "2006-01-02T15:04:05.000Z07:00"}}`, "2023-11-14T22:13:20.123Z")
	f(`{{__timestamp__ | unixEpochMillis}} {{__timestamp__ | unixEpochNanos}}`, "1700000000123 1700000000123456789")
	f(`{{ToLower .a}} {{ToUpper .a}} {{Replace .a "l" "L" 2}} {{Trim .a "Hd"}} {{TrimLeft .a "H"}} {{TrimRight .a "d"}}`,
		"hello world HELLO WORLD HeLLo World ello Worl ello World Hello Worl")
	f(`{{TrimPrefix .a "Hello "}}|{{TrimSuffix .a "World"}}|{{TrimSpace " x "}}`, "World|Hello |x")
	f(`{{regexReplaceAll "(o) (W)" .a "${2}_$1"}} {{regexReplaceAllLiteral "o" .a "$1"}} {{count "[lo]" .a}}`,
		"HellW_oorld Hell$1 W$1rld 5")
	f(`{{urlencode .url}} {{urldecode "a%20b+c"}}`, "a+b%26c%3Dd%25 a b c")
	f(`{{bytes .b}} {{duration .d}} {{duration_seconds "1500ms"}}`, "2000 90 1.5")
	f(`{{toDateInZone "2006-01-02 15:04" "Europe/Paris" "2023-01-01 12:00" | unixEpoch}}`, "1672570800")
	f(`{{toDateInZone "2006" "no/where" "2023" | unixEpoch}} {{toDate "2006" "2023" | unixEpoch}}`, "1672531200 1672531200")
	f(`{{unixToTime "19373" | unixEpoch}} {{unixToTime "1673798889" | unixEpoch}} {{unixToTime "1673798889902" | unixEpochMillis}}`,
		"1673827200 1673798889 1673798889902")
	f(`{{unixToTime "1673798889902000" | unixEpochNanos}} {{unixToTime "1673798889902000001" | unixEpochNanos}}`,
		"1673798889902000000 1673798889902000001")
	f(`[{{alignLeft 5 "abc"}}] [{{alignLeft 2 "abc"}}] [{{alignRight 5 "äbc"}}] [{{alignRight 2 "abc"}}] [{{alignLeft -1 "abc"}}]`,
		"[abc  ] [ab] [  äbc] [bc] [abc]")
	f(`{{b64enc .a}} {{b64dec .e}} {{b64dec "!"}}`, "SGVsbG8gV29ybGQ= hello illegal base64 data at input byte 0")
	f(`{{lower .a}} {{upper .a}} {{title "the_x of it's äx 9y"}}`, "hello world HELLO WORLD The_x Of It'S Äx 9y")
	f(`{{trunc 4 .a}} {{trunc -4 .a}} {{trunc 99 .a}} {{substr 1 4 .a}} {{substr -1 4 .a}} {{substr 6 -1 .a}}`,
		"Hell orld Hello World ell Hell World")
	f(`{{contains "lo W" .a}} {{hasPrefix "He" .a}} {{hasSuffix "He" .a}}`, "true true false")
	f(`{{indent 2 "x\ny"}}{{nindent 1 "z"}}`, "  x\n  y\n z")
	f(`{{replace "l" "L" .a}} {{repeat 3 "ab"}} {{trim " x "}} {{trimAll "Hd" .a}} {{trimSuffix "d" .a}} {{trimPrefix "H" .a}}`,
		"HeLLo WorLd ababab x ello Worl Hello Worl ello World")
	f(`{{int .n}} {{int "x"}} {{int 2.9}} {{int "2.9"}} {{int .oct}} {{int "0x1f"}} {{int "-.5"}} {{float64 .f}} {{float64 "x"}}`,
		"12 0 2 2 8 31 0 2.75 0")
	f(`{{add 1 .n "3"}} {{sub .n 2}} {{mul 2 3 .n}} {{div .n 5}} {{mod .n 5}}`, "16 10 72 2 2")
	f(`{{addf 0.1 0.2}} {{subf 1 0.9}} {{mulf 1.1 1.1}} {{divf 1 3}} {{divf "10" 4 2}}`, "0.3 0.1 1.21 0.3333333333333333 1.25")
	f(`{{max 1 .n 3}} {{min 1 .neg}} {{maxf 1.5 .f}} {{minf 1.5 .f}} {{ceil .f}} {{floor .f}}`, "12 -7 2.75 1.5 3 2")
	f(`{{round 3.14159 2}} {{round .f 0}} {{round 1.25 1 0.9}}`, "3.14 3 1.2")
	f(`{{$j := fromJson .j}}{{range $j.x}}<{{.}}>{{end}}{{$j.z}}`, "<1><two><map[y:<nil>]>true")
	f(`{{fromJson "{"}}`, "<no value>")
	f(`{{default "d" .empty}} {{default "d" .missing}} {{default "d" .a}} {{.n | default 5}} {{default 1 0}}`, "d d Hello World 12 1")
	f(`{{if eq .n "12"}}yes{{else}}no{{end}}{{with .empty}}x{{else}}y{{end}}`, "yesy")
	f(`{{printf "%-6s|%4.1f" .n (float64 .f)}} {{len .a}} {{html "<&>"}} {{print 1 2 "x"}}`, "12    | 2.8 11 &lt;&amp;&gt; 1 2x")
	f(`{{range $i := 3}}{{$i}}{{end}}{{range fromJson "[]"}}x{{else}}none{{end}}`, "012none")
	f(`{{date "2006" 0}} {{now | date "x"}}`, "1970 x")
}

func TestExecuteErrors(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		_, err := execute(t, text, labels)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("%s: got %v, want %s", text, err, want)
		}
	}
	f(`{{div 1 0}}`, "integer divide by zero")
	f(`{{divf 1 0}}`, "division by 0")
	f(`{{addf "NaN"}}`, "NaN is not a decimal number")
	f(`{{substr 5 2 .a}}`, "out of range")
	f(`{{repeat -1 "x"}}`, "cannot repeat")
	f(`{{regexReplaceAll "(" .a ""}}`, "missing closing )")
	f(`{{bytes "x"}}`, "invalid syntax")
	f(`{{duration "x"}}`, "invalid duration")
	f(`{{unixToTime "x"}}`, "unable to parse time 'x'")
	f(`{{unixToTime "123"}}`, "unable to parse time '123'")
	f(`{{urldecode "%"}}`, "invalid URL escape")
	// What would take memory or time without end.
	f(`{{repeat 2000000 "x"}}`, "more than 1MiB")
	f(`{{indent 2000000 "x"}}`, "more than 1MiB")
	f(`{{alignLeft 2000000 "x"}}`, "more than 1MiB")
	f(`{{printf "%2000000d" 1}}`, "more than 1MiB")
	f(`{{printf "%*d" 2000000 1}}`, "more than 1MiB")
	f(`{{printf "%900000d%900000d" 1 1}}`, "more than 1MiB")
	f(`{{$x := repeat 1000000 "x"}}{{printf "%s%s" $x $x}}`, "more than 1MiB")
	f(`{{$x := repeat 1000000 "x"}}{{print $x $x}}`, "more than 1MiB")
	f(`{{$x := repeat 1000000 "x"}}{{$x}}{{$x}}`, "more than 1MiB")
	f(`{{$x := repeat 1000000 "x"}}{{b64enc $x}}`, "more than 1MiB")
	f(`{{$x := repeat 1000000 "<"}}{{html $x}}`, "more than 1MiB")
	f(`{{$x := repeat 1000000 "x"}}{{replace "x" "yy" $x}}`, "more than 1MiB")
	f(`{{$x := repeat 1000000 "x"}}{{regexReplaceAll "x" $x "yy"}}`, "more than 1MiB")
	f(`{{range 10001}}{{end}}`, "more than 10000 rounds")
	f(`{{range 101}}{{range 101}}{{end}}{{end}}`, "more than 10000 rounds")
}

func TestNewErrors(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		_, err := New("line", text)
		if err == nil || err.Error() != want {
			t.Fatalf("%s: got %v, want %s", text, err, want)
		}
	}
	f(`{{.a`, "template: line:1: unclosed action")
	f(`{{nope .a}}`, `template: line:1: function "nope" not defined`)
	f(`{{define "x"}}y{{end}}`, errNested.Error())
	f(`{{template "x"}}`, errNested.Error())
	f(`{{if .a}}{{block "x" .}}y{{end}}{{end}}`, errNested.Error())
}

func TestFields(t *testing.T) {
	f := func(text, want, field string) {
		t.Helper()
		tm, err := New("line", text)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(tm.Fields(), " "); got != want {
			t.Fatalf("%s: fields %s, want %s", text, got, want)
		}
		if got, ok := tm.Field(); got != field || ok != (field != "") {
			t.Fatalf("%s: field %s, want %s", text, got, field)
		}
	}
	f(`{{.a}}`, "a", "a")
	f(`{{.a}} `, "a", "")
	f(`{{.a.b}}`, "a b", "")
	f(`x`, "", "")
	f(`{{if .a}}{{.b | upper}}{{else}}{{with .c}}{{.d}}{{end}}{{end}}{{range .e}}{{.f}}{{else}}{{.g}}{{end}}{{upper (lower .h)}}`,
		"a b c d e f g h", "")
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{`{{.a}}`, `{{range fromJson .j}}{{.}}{{end}}`, `{{printf "%[1]*d" .n}}`, `{{$x := .a | upper}}{{$x}}`, `{{substr 1 2 .a}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tm, err := New("line", text)
		if err != nil {
			return
		}
		tm.Fields()
		if out, err := tm.Execute(nil, 1, []byte("line"), labels); err == nil && len(out) > maxOutput {
			t.Fatalf("%s: %d bytes", text, len(out))
		}
	})
}
