package query

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/labels"
	"github.com/loki-go/loki-go/query/level"
	"github.com/loki-go/loki-go/query/logql"
	"github.com/loki-go/loki-go/storage/chunk"
)

// entriesOf returns the entries of a block's content as texts.
func entriesOf(t testing.TB, content []byte, symbols []string) (out []string) {
	t.Helper()
	it := chunk.Entries(content)
	for it.Next() {
		text := fmt.Sprintf("%d %s", it.TS, it.Line)
		for i := 0; i < 2*it.NumPairs; i += 2 {
			text += fmt.Sprintf(" %s=%s", symbols[it.Sym(i)], symbols[it.Sym(i+1)])
		}
		out = append(out, text)
	}
	if it.Err() != nil {
		t.Fatal(it.Err())
	}
	return out
}

func TestFilter(t *testing.T) {
	b := newBlock(
		entry{1, "level=info n=1", "id=a"}, entry{2, "level=error n=2", "id=b,user=u"}, entry{3, "nothing", ""},
		entry{4, "level=error n=x", "user=u,id=c"}, entry{5, "level=info n=5", "level=error"},
	)
	stream := labels.Labels{{Name: "app", Value: "x"}, {Name: streamShard, Value: "1"}}
	f := func(query string, from, through int64, want ...int) {
		t.Helper()
		e, err := logql.Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		switch e := e.(type) {
		case *logql.LogQuery:
			text = logFilter(e, level.DefaultConfig())
		case *logql.RangeAggregation:
			text = sampleFilter(e, nil, level.DefaultConfig())
		case *logql.VectorAggregation:
			text = sampleFilter(e.Inner.(*logql.RangeAggregation), &e.Grouping, level.DefaultConfig())
		}
		filter, err := NewFilter(text, from, through)
		if err != nil {
			t.Fatal(err)
		}
		all := entriesOf(t, b.content, b.symbols)
		var expected []string
		for _, i := range want {
			expected = append(expected, all[i-1])
		}
		for range 2 { // a filter is used again
			got, err := filter.Load([]byte("x"), stream, b)
			if err != nil {
				t.Fatal(err)
			}
			if kept := entriesOf(t, got.Content[1:], got.Symbols); !slices.Equal(kept, expected) {
				t.Errorf("%s: kept %q, want %q", query, kept, expected)
			}
			if !got.Whole && (got.Bytes != int64(len(b.content)) || got.Entries > 5) {
				t.Errorf("%s: %d bytes and %d entries read", query, got.Bytes, got.Entries)
			}
			if whole := len(want) == 5 && strings.Contains(text, `any\"}"`); got.Whole != whole {
				t.Errorf("%s: whole is %v", query, got.Whole)
			}
		}
	}
	f(`{app="x"}`, 0, 6, 1, 2, 3, 4, 5)
	f(`{app="x"}`, 2, 5, 2, 3, 4)
	f(`{app="x"} |= "error"`, 0, 6, 2, 4)
	f(`{app="x"} |= "no such text"`, 0, 6)
	f(`{app="x"} | logfmt | level="error"`, 0, 6, 2, 4, 5)
	f(`{app="x"} | level="error"`, 0, 6, 5)
	f(`{app="x"} | user="u" | line_format "{{.id}}" |= "b"`, 0, 6, 2)
	f(`{app="x"} | `+streamShard+`=""`, 0, 6, 1, 2, 3, 4, 5)
	f(`count_over_time({app="x"} |= "info" [1m])`, 0, 6, 1, 5)
	f(`sum_over_time({app="x"} | logfmt | unwrap n [1m])`, 0, 6, 1, 2, 4, 5)
	f(`sum_over_time({app="x"} | logfmt | unwrap n | __error__="" [1m])`, 0, 6, 1, 2, 5)
	f(`sum by (user) (count_over_time({app="x"} | logfmt | n=~".+" [1m]))`, 0, 6, 1, 2, 4, 5)
	f(`{app="x"} | detected_level="error"`, 0, 6, 2, 4, 5)
	f(`{app="x"} |= "level" | logfmt | detected_level!="error"`, 0, 6, 1)
	f(`{app="x"} | label_format l=detected_level | l="unknown"`, 0, 6, 3)
	f(`{app="x"} | line_format "{{range $k, $v := .}}{{$v}}{{end}}" |= "unknown"`, 0, 6, 3)
	f(`sum(count_over_time({app="x"} | detected_level="info" [1m]))`, 0, 6, 1)
	f(`sum_over_time({app="x"} | unwrap detected_level | __error__!="" [1m])`, 0, 6, 1, 2, 3, 4, 5)
}

// TestFilterWithLevels: how levels are found is sent with queries that may keep
// what they keep because of them, and with no others.
func TestFilterWithLevels(t *testing.T) {
	f := func(query string, want bool) {
		t.Helper()
		e, err := logql.Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		filter := func(c level.Config) string {
			switch e := e.(type) {
			case *logql.LogQuery:
				return logFilter(e, c)
			case *logql.VectorAggregation:
				return sampleFilter(e.Inner.(*logql.RangeAggregation), &e.Grouping, c)
			}
			return sampleFilter(e.(*logql.RangeAggregation), nil, c)
		}
		const sent = `,"levels":{"fields":["lvl","x"],"json_depth":3}}`
		if text := filter(level.Config{Discover: true, Fields: []string{"lvl", "x"}, JSONDepth: 3}); strings.HasSuffix(text, sent) != want {
			t.Errorf("%s is sent as %s", query, text)
		}
		if text := filter(level.Config{Fields: []string{"lvl"}}); text == "" || strings.Contains(text, `"levels"`) {
			t.Errorf("%s without levels is sent as %s", query, text)
		}
		if text := filter(level.Config{Discover: true, Fields: []string{"\xff"}}); (text == "") != want {
			t.Errorf("%s with a field that JSON cannot have is sent as %s", query, text)
		}
		if text := filter(level.Config{Discover: true, Fields: []string{strings.Repeat("x", maxSent)}}); (text == "") != want {
			t.Errorf("%s with a field that is too long is sent as %.100s", query, text)
		}
	}
	f(`{detected_level="x"}`, false)
	f(`{a="b"} |= "detected_level"`, false)
	f(`{a="b"} | json | level="error" | line_format "{{.msg}}{{ $x := 1 }}" |= "x"`, false)
	f(`{a="b"} | json | level="error" | line_format "{{if eq .msg $.level}}{{.msg}}{{end}}" |= "x"`, false)
	f(`sum by (level, detected_level) (count_over_time({a="b"} |= "x" [1m]))`, false)
	f(`count_over_time({a="b"}[1m])`, false)
	f(`sum by (a) (count_over_time({a="b"} | json | level="error" [1m]))`, false)
	f(`{a="b"} | detected_level="error"`, true)
	f(`{a="b"} | json | detected_level_extracted="error"`, true)
	f(`{a="b"} | drop detected_level="x" | detected_level=""`, true)
	f(`{a="b"} | label_format x="{{.detected_level}}" | x="error"`, true)
	f(`{a="b"} | label_format x="{{range .}}{{end}}"`, true)
	f(`{a="b"} | line_format "{{index $ (print \"detected\" \"_level\")}}" |= "error"`, true)
	f(`{a="b"} | line_format "{{.}}"`, true)
	f(`{a="b"} | pattern "<detected_level> <_>"`, true)
	f(`sum_over_time({a="b"} | unwrap detected_level [1m])`, true)
	f(`sum(count_over_time({a="b"} | detected_level="error" [1m]))`, true)
	f(`sum by (detected_level) (count_over_time({a="b"} | json | __error__="" [1m]))`, true)
}

// FuzzFilter: whatever the content, and the LogQL, what is kept is content.
func FuzzFilter(f *testing.F) {
	b := newBlock(entry{1, "level=info", "a=b"}, entry{2, "x", ""})
	for _, q := range []string{`{a="b"}`, `{a="b"} |= "info" | logfmt | level="info"`, `rate({a="b"} | json [1m])`, `sum by (a) (rate({a="b"}[1m]))`, `vector(1)`} {
		f.Add(q, b.content, int64(0), int64(9))
	}
	for _, bad := range []string{
		"", "{", `{"query":"{a=\"b\"}","more":1}`, `{"query":"{a=\"b\"}","levels":{"more":1}}`,
		`{"query":"` + strings.Repeat(" ", maxSent) + `"}`, `{a="b"}`,
	} {
		if _, err := NewFilter(bad, 0, 1); err == nil {
			f.Errorf("%q is a filter", bad)
		}
	}
	f.Fuzz(func(t *testing.T, q string, content []byte, from, through int64) {
		text, err := json.Marshal(sentFilter{Query: q, Levels: &sentLevels{}})
		if err != nil {
			t.Fatal(err)
		}
		filter, err := NewFilter(string(text), from, through)
		if err != nil {
			var pe *logql.ParseError
			if !errors.As(err, &pe) {
				t.Fatalf("%q: %v", q, err)
			}
			return
		}
		block := &testBlock{mint: math.MinInt64, maxt: math.MaxInt64, content: content, symbols: []string{"a", "b"}}
		got, err := filter.Load(nil, nil, block)
		if err != nil {
			if !errors.Is(err, chunk.ErrContent) {
				t.Fatal(err)
			}
			return
		}
		if st, err := chunk.Inspect(got.Content, len(got.Symbols)); err != nil || len(got.Content) > 0 && (st.MinT < from || st.MaxT >= through) {
			t.Fatalf("%q: %+v, %v", q, st, err)
		}
	})
}
