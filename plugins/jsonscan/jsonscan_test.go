package jsonscan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// tree reads any document, to hold it against encoding/json.
func tree(s *Scanner, depth int) (any, error) {
	s.Space()
	switch s.Peek() {
	case '{':
		out := map[string]any{}
		err := s.Object(func(key []byte) error {
			k := string(key)
			v, err := tree(s, depth+1)
			out[k] = v
			return err
		})
		return out, err
	case '[':
		out := []any{}
		err := s.Array(func() error {
			v, err := tree(s, depth+1)
			out = append(out, v)
			return err
		})
		return out, err
	case '"':
		var buf []byte
		v, err := s.Str(&buf)
		return string(v), err
	}
	if s.Null() {
		return nil, nil
	}
	raw, err := s.Raw()
	return json.Number(raw), err
}

func TestAgainstEncodingJSON(t *testing.T) {
	f := func(doc string) {
		t.Helper()
		var s Scanner
		s.Reset([]byte(doc), nil)
		got, err := tree(&s, 0)
		if err == nil {
			err = s.End()
		}
		if err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
		d := json.NewDecoder(strings.NewReader(doc))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
			t.Fatalf("%s:\ngot  %#v\nwant %#v", doc, got, want)
		}
	}
	f(`{}`)
	f(` [ ] `)
	f(`null`)
	f(`{"a":[1,-2.5e+7,"x",null,{"b":{}},[[]]],"c":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud83dx"}`)
	f("\t{ \"\\u0061\" :\n\"b\" , \"c\" : [ 0 ] }\r")
}

func TestErrors(t *testing.T) {
	f := func(doc, want string) {
		t.Helper()
		var s Scanner
		s.Reset([]byte(doc), func() string { return "here: " })
		_, err := tree(&s, 0)
		if err == nil {
			err = s.End()
		}
		if err == nil || err.Error() != "json: here: "+want {
			t.Fatalf("%s: %v", doc, err)
		}
	}
	f(``, `unexpected end at offset 0`)
	f(`{`, `expected a key at offset 1`)
	f(`{"a"}`, `expected ':' at offset 4`)
	f(`{"a":1`, `expected ',' or '}' at offset 6`)
	f(`[1 2]`, `expected ',' or ']' at offset 3`)
	f(`["a`, `string without an end at offset 1`)
	f(`["\x"]`, `bad escape sequence at offset 2`)
	f(`["\u12"]`, `bad escape sequence at offset 2`)
	f(`[@]`, `unexpected '@' at offset 1`)
	f(`[] x`, `text behind the end of the push at offset 3`)
}

func TestSkipAndSeek(t *testing.T) {
	deep := strings.Repeat("[", 1e5) + strings.Repeat("]", 1e5)
	doc := `{"skip":` + deep + `,"keep":"\n"}`
	var s Scanner
	s.Reset([]byte(doc), nil)
	at := -1
	err := s.Object(func(key []byte) error {
		if string(key) == "keep" {
			at = s.Offset()
		}
		return s.Skip()
	})
	if err != nil || at < 0 {
		t.Fatal(err)
	}
	s.Seek(at)
	var buf []byte
	if v, err := s.Str(&buf); err != nil || string(v) != "\n" {
		t.Fatalf("%q, %v", v, err)
	}
	s.Reset([]byte(`[}`), nil)
	if err := s.Skip(); err != nil {
		t.Fatalf("brackets are counted, not matched: %v", err)
	}
}

func FuzzScanner(f *testing.F) {
	for _, doc := range []string{`{"a":[1,"x\n\ud83d\ude00",null,{"b":true}]}`, `[[],{}]`, `"`, `{"a":`, "[\"\xff\"]"} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var s Scanner
		if strings.Count(string(doc), "[")+strings.Count(string(doc), "{") > 10_000 {
			return // the test's own recursion
		}
		s.Reset(doc, nil)
		_, err := tree(&s, 0)
		if err == nil {
			err = s.End()
		}
		if json.Valid(doc) && utf8.Valid(doc) && err != nil {
			t.Fatalf("%q: %v", doc, err)
		}
		s.Reset(doc, nil)
		_ = s.Skip()
		if s.Offset() > len(doc) {
			t.Fatalf("%q: offset %d", doc, s.Offset())
		}
	})
}
