package httpjson

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/plugins/mapping"
)

// seed calls add with the body and the content type of each fixture.
func seed(f *testing.F, add func(body []byte, kind string)) {
	files, err := filepath.Glob("testdata/*.bin")
	if err != nil || len(files) == 0 {
		f.Fatalf("%d fixtures, %v", len(files), err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		head, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
		_, kind, _ := strings.Cut(string(head), "Content-Type: ")
		kind, _, _ = strings.Cut(kind, "\r\n")
		add(body, kind)
	}
}

var fuzzPaths = []string{"/ingest/json", "/ingest/logstash", "/ingest/fluentbit", "/ingest/json?refused=keep"}

// FuzzBody looks for panics, and holds what is stored and refused against the
// body, read by encoding/json.
func FuzzBody(f *testing.F) {
	seed(f, func(body []byte, kind string) {
		f.Add(body, kind, uint8(1))
		f.Add(body, kind, uint8(2))
	})
	for _, s := range []string{
		`{}`, `[]`, `[1,{"time":1e9}]`, `{"event":{"original":"m"},"message":"m"}`, `a=1&b=%zz&&=`, "{\"log\":\"a\"}\n{\n{\"log\":\"b\"}",
		`{"date":1,"__internal__":{"log_metadata":{"otlp":{"trace_id":""}},"group_attributes":{"resource":{"attributes":{"a":1}}}},"x":[]}`,
		`[{"a":1},{"a":tru},{"a":1}]`,
	} {
		for path := range fuzzPaths {
			f.Add([]byte(s), "application/x-ndjson", uint8(path))
			f.Add([]byte(s), "", uint8(path))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, kind string, which uint8) {
		s := &sink{}
		r := newReceiver(t, s, nil)
		path := fuzzPaths[int(which)%len(fuzzPaths)]
		rec := do(mux(r), post(path, string(body), "Content-Type", kind))
		switch {
		case rec.Code == 200 || rec.Code == 204 || rec.Code == 400 && path == "/ingest/json":
		default:
			t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
		}
		if s.held != 0 {
			t.Fatalf("%d bytes still held", s.held)
		}
		if path != "/ingest/json" && (rec.Code == 204) != (len(s.dead)+s.left == 0) {
			t.Fatalf("%s: %d with dead letters %q", path, rec.Code, s.dead)
		}
		jsonKind := strings.Contains(strings.ToLower(kind), "json") && !strings.Contains(kind, ";")
		if !jsonKind || !json.Valid(body) || bytes.Count(body, []byte("{"))+bytes.Count(body, []byte("[")) > mapping.MaxDepth {
			return
		}
		// Objects of a body that encoding/json takes too, if they are not deep.
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			return // a number beyond float64
		}
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		objects := 0
		for _, e := range list {
			if _, ok := e.(map[string]any); ok {
				objects++
			}
		}
		if len(s.entries) != objects {
			t.Fatalf("%s: %d of %d objects stored: %d %s", path, len(s.entries), objects, rec.Code, rec.Body)
		}
		if others := len(list) - objects; path != "/ingest/json" && len(s.dead)+s.left != others {
			t.Fatalf("%s: %d of %d others buried", path, len(s.dead), others)
		}
	})
}

// FuzzLarge reads a list of objects in pieces of any size: those that fit are
// stored, the others buried.
func FuzzLarge(f *testing.F) {
	f.Add([]byte(`[{"log":"a"},{"log":"b","x":"]}\"\\"} , {},{"y":{"z":[1,{}]}}]`), uint16(20), false)
	f.Add([]byte(`[{"log":"a"},{"log":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"},{"log":"c"}]`), uint16(12), true)
	f.Add([]byte(`  [ {"log":"a"} , {"log":"{["} ]  `), uint16(1), false)
	seed(f, func(body []byte, _ string) { f.Add(body, uint16(700), false) })
	f.Fuzz(func(t *testing.T, body []byte, limit uint16, lines bool) {
		s := &sink{}
		most := max(int(limit), 1)
		r := newReceiver(t, s, func(c *Config) { c.MaxDecoded, c.MaxRequest = units.Bytes(most), 1<<20 })
		kind := "application/json"
		if lines {
			kind = "application/x-ndjson"
		}
		rec := do(mux(r), post("/ingest/logstash", string(body), "Content-Type", kind))
		if rec.Code != 200 && rec.Code != 204 || s.held != 0 {
			t.Fatalf("%d %s, %d bytes held", rec.Code, rec.Body, s.held)
		}
		var list []json.RawMessage
		if lines || bytes.Count(body, []byte("{"))+bytes.Count(body, []byte("[")) > mapping.MaxDepth || json.Unmarshal(body, &list) != nil {
			return
		}
		fit := 0
		for _, e := range list {
			if len(e) == 0 || e[0] != '{' {
				return
			}
			if len(e) <= most {
				fit++
			}
		}
		if len(body) <= most {
			fit = len(list)
		}
		if got := strings.Count(strings.Join(s.dead, "\n"), "goes on: "); len(s.entries) != fit || len(s.dead)-got+s.left < len(list)-fit {
			t.Fatalf("%d stored, %d buried, want %d and %d: %s", len(s.entries), len(s.dead), fit, len(list)-fit, rec.Body)
		}
	})
}

// FuzzExtent cuts values in two: they end where they end in one piece.
func FuzzExtent(f *testing.F) {
	f.Add([]byte(`{"a":"}\"","b":[{}]}{"c":1}`), uint16(7))
	f.Add([]byte(`"a\\\""x`), uint16(4))
	f.Add([]byte("garbage {"), uint16(3))
	f.Fuzz(func(t *testing.T, p []byte, at uint16) {
		for _, s := range []splitter{{}, {lines: true}} {
			for i := 0; ; {
				from, to, ok := s.next(p, i)
				if from < i || to < from || to > len(p) || ok && to <= i {
					t.Fatalf("next(%q, %d) = %d, %d, %v", p, i, from, to, ok)
				}
				if !ok {
					break
				}
				i = to
			}
		}
		cut := int(at) % (len(p) + 1)
		var whole, e extent
		n, done := whole.feed(p)
		first, ended := e.feed(p[:cut])
		if !ended {
			var second int
			if first != cut {
				t.Fatalf("%d of %d bytes without an end", first, cut)
			}
			second, ended = e.feed(p[cut:])
			first += second
		}
		if first != n || ended != done {
			t.Fatalf("%q cut at %d: %d, %v; in one piece %d, %v", p, cut, first, ended, n, done)
		}
	})
}

// FuzzMsgpack sends what should be a chunk.
func FuzzMsgpack(f *testing.F) {
	seed(f, func(body []byte, kind string) {
		if kind == "application/msgpack" {
			f.Add(body)
		}
	})
	f.Add([]byte("\x92\xce\x6a\xb1\x3b\x80\x81\xa3log\xa1a\xc1"))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := &sink{}
		rec := do(mux(newReceiver(t, s, nil)), post("/ingest/fluentbit", string(body), "Content-Type", "application/msgpack"))
		if (rec.Code != 200 || len(s.dead)+s.left == 0) && (rec.Code != 204 || len(s.dead) > 0) || s.held != 0 {
			t.Fatalf("%d %s, dead letters %q", rec.Code, rec.Body, s.dead)
		}
		for _, b := range s.batches {
			if !b.KeepRefused {
				t.Fatal("refusals are not kept")
			}
		}
	})
}

// FuzzForm holds forms against net/url.
func FuzzForm(f *testing.F) {
	for _, s := range []string{"a=1&b=2", "a=%41+b&=x&&c", "%zz=%4", "a=1;b=2", "a==&=", "%e9=%ff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var rec mapping.Record
		_, all := parseForm(&rec, nil, body)
		if !all {
			return
		}
		want, err := url.ParseQuery(string(body))
		if err != nil {
			return // a bad escape, which we keep, or a semicolon
		}
		got := url.Values{}
		for _, n := range rec.Nodes[1:] {
			got[string(n.Key)] = append(got[string(n.Key)], string(n.Str))
		}
		if got.Encode() != want.Encode() {
			t.Fatalf("%q: %v, want %v", body, got, want)
		}
	})
}

// FuzzBinary makes text of bytes as Fluent Bit does, and bytes again.
func FuzzBinary(f *testing.F) {
	f.Add([]byte("\x00\xff\xfe\xc3("))
	f.Add([]byte("ab\xe6\x97"))
	f.Fuzz(func(t *testing.T, b []byte) {
		text := strings.ToValidUTF8(string(b), "")
		var s mapping.Stream
		var rec mapping.Record
		s.Reset([]byte(`"`+asText(b)+`"`), false)
		if bytes.ContainsAny(b, `"\`) || bytes.Contains(b, []byte("\xfe\xff")) || strings.ContainsFunc(text, func(c rune) bool { return c >= 0xe000 && c <= 0xe0ff || c == 0xfffd }) {
			return
		}
		if err := s.Next(&rec); err != nil {
			t.Fatal(err)
		}
		if got := appendBinary(nil, rec.Nodes[0].Str); !bytes.Equal(got, b) {
			t.Fatalf("%q became %q", b, got)
		}
	})
}
