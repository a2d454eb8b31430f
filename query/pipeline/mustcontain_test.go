package pipeline

import "testing"

// TestMustContain: lines are given up unparsed only where parsing them would
// drop them as well.
func TestMustContain(t *testing.T) {
	f := func(stages, line string, kept bool, meta ...string) {
		t.Helper()
		if got := show(t, stages, line, meta...) != "dropped"; got != kept {
			t.Errorf("%s on %s: kept %v, want %v", stages, line, got, kept)
		}
	}
	f(`| json | a="xyz"`, `{"a":"xyz"}`, true)
	f(`| json | a="xyz"`, `{"a":"xy"}`, false)
	f(`| json | a="xyz"`, `{"a":"x\u0079z"}`, true)
	f(`| json | a="x/z"`, `{"a":"x\/z"}`, true)
	f(`| json | a="x  yz"`, "{\"a\":\"x \xffyz\"}", true) // a space for what is not UTF-8
	f(`| json | a=" "`, "{\"a\":\"\xff\"}", true)
	f(`| json | a=""`, `{}`, true)
	f(`| json | a="xyz" or b="1"`, `{"b":1}`, true)
	f(`| json | a="xyz" and b="1"`, `{"a":"xyz","b":2}`, false)
	f(`| json | a="xyz" and b="1"`, `{"a":"xyz","b":1}`, true)
	f(`| json | a!="xyz"`, `{"a":1}`, true)
	f(`| json | a=~"xyz"`, `{"a":"xyz"}`, true)
	f(`| json | host="h"`, `{"a":1}`, true)                 // of the stream
	f(`| json | trace="t-1"`, `{"a":1}`, true, "trace=t-1") // of the metadata
	f(`| json | host_extracted="m"`, `{"a":1}`, true, "host=m")
	f(`| json | host_extracted="l"`, `{"host":"l"}`, true)
	f(`| json | __error__="JSONParserErr"`, `no`, true)
	f(`| json | a="xyz"`, `no`, false)
	f(`| label_format a="xyz" | json | a="xyz"`, `{"b":1}`, true)
	f(`| json | label_format a="xyz" | a="xyz"`, `{"b":1}`, true)
	f(`| json | line_format "a=xyz" | logfmt | a="xyz"`, `{"b":1}`, true)
	f(`| a="xyz" | json`, `{"a":"xyz"}`, false) // nothing has made it yet
	f(`| decolorize | logfmt | a="xyz"`, "a=x\x1b[1myz", true)
	f(`| logfmt | a="x\ny"`, `a="x\ny"`, true)
	f(`| logfmt | a="xyz" | b="2"`, `a=xyz b=2`, true)
	f(`| logfmt | a="xyz" | b="2"`, `a=xyz b=3`, false)
	f(`| pattern "<_> <a>" | a="xyz"`, `1 xyz`, true)
	f(`| regexp "(?P<a>x.z)" | a="xyz"`, `xyz`, true)
}
