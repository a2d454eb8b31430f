package syslog

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/units"
	"github.com/loki-go/loki-go/plugins/mapping"
)

// FuzzParse: every message gives an entry, whose parts are parts of the message
// and whose text ends it.
func FuzzParse(f *testing.F) {
	for _, s := range realStreams {
		for _, line := range strings.Split(s, "\n") {
			f.Add([]byte(line))
		}
	}
	for _, s := range []string{
		`<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3" eventSource="Appl\"ication"][b] text`,
		"<34>1 - su - - - - \xEF\xBB\xBFx", `<189>29: router1: *Mar  1 2026 00:00:14.123 CEST: %SYS-5-CONFIG_I: Configured`,
		`<189>: 2026 Sep 21 14:13:20 GMT: %ETHPORT-5-IF_UP: x`, `<14>2026-09-21 14:13:20,123 host app[1]:x`, `<13>Feb 29 14:13:20 2025 +02:00 h a: x`,
	} {
		f.Add([]byte(s))
	}
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		f.Fatal(err)
	}
	p := parser{zone: zone}
	r := recorder{words: newKeywords()}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<16 {
			return
		}
		before := bytes.Clone(in)
		var m message
		p.parse(&m, in, arrival.UnixNano())
		if !bytes.HasSuffix(in, m.text) {
			t.Fatalf("the text %q does not end %q", m.text, in)
		}
		for _, part := range [][]byte{m.hostname, m.appName, m.procID, m.msgID, m.sequence} {
			if part != nil && (len(part) == 0 || !bytes.Contains(in, part)) {
				t.Fatalf("%q in %q", part, in)
			}
		}
		if m.priority > 191 || m.format == formatText && m.ts != arrival.UnixNano() {
			t.Fatalf("priority %d, time %d", m.priority, m.ts)
		}
		rec := r.record(&m, nil)
		if !bytes.Equal(in, before) {
			t.Fatal("the message was changed")
		}
		checkTree(t, rec, 0, 1)
		if int(rec.Nodes[0].End) != len(rec.Nodes) || len(rec.Nodes) > mapping.MaxNodes {
			t.Fatalf("%d nodes, the first ends at %d", len(rec.Nodes), rec.Nodes[0].End)
		}
	})
}

// checkTree follows the nodes below map i.
func checkTree(t *testing.T, rec *mapping.Record, i, depth int) {
	t.Helper()
	end := int(rec.Nodes[i].End)
	if end <= i || end > len(rec.Nodes) || depth > 3 {
		t.Fatalf("node %d ends at %d of %d, depth %d", i, end, len(rec.Nodes), depth)
	}
	j := i + 1
	for j < end {
		if rec.Nodes[j].Kind == mapping.Map {
			checkTree(t, rec, j, depth+1)
		}
		j = rec.Next(j)
	}
	if j != end {
		t.Fatalf("the children of node %d end at %d, not at %d", i, j, end)
	}
}

// FuzzFraming lets a client send anything, in pieces of any size. How the bytes
// are cut must not change what is stored, and no byte is lost but those that end
// or count messages.
func FuzzFraming(f *testing.F) {
	for _, s := range realStreams {
		f.Add([]byte(s), uint16(len(s)/3))
	}
	f.Add([]byte("5 <13>a7 <13>b\nc\n999999999 <13>d\n12 <13>a\r\n\x00\x00<1>x"), uint16(1))
	f.Add([]byte("3000 <13>"+strings.Repeat("ü", 1500)+"<34>"+strings.Repeat("y", 5000)), uint16(700))
	// One server for all: what a stream leaves behind must not hurt the next one.
	r := newRig(f, &fakeSink{}, func(c *Config) { c.MaxMessage = 2 * units.KiB })
	f.Fuzz(func(t *testing.T, p []byte, step uint16) {
		if len(p) > 1<<16 {
			return
		}
		var got [2][]string
		for i, n := range []int{len(p) + 1, int(step) + 1 + len(p)/500} {
			r.sink.entries = nil
			if sc := r.play(p, n); !sc.closed || r.sink.admitted != 0 {
				t.Fatalf("closed %v, %d bytes still admitted", sc.closed, r.sink.admitted)
			}
			got[i] = sorted(r.sink.all())
		}
		if !slices.Equal(got[0], got[1]) {
			t.Fatalf("whole: %q\nin pieces of %d: %q", got[0], step, got[1])
		}
		frames := strings.Join(cutFrames(t, string(p), 2<<10, len(p)+1), "")
		if !subsequence(dropEnds(frames), string(p)) {
			t.Fatalf("frames %q of %q", frames, p)
		}
	})
}

// dropEnds removes what cutFrames adds, from what may also be in a message.
func dropEnds(s string) string {
	return strings.NewReplacer("+", "", " (cut)", "", " (count)", "").Replace(s)
}

func subsequence(s, of string) bool {
	i := 0
	for j := 0; i < len(s) && j < len(of); j++ {
		if s[i] == of[j] {
			i++
		}
	}
	return i == len(s)
}
