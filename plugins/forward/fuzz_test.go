package forward

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/internal/units"
)

// FuzzStream lets a client send anything, in pieces of any size. Nothing may
// panic or keep memory, and how the bytes are cut must not change what is
// stored and answered.
func FuzzStream(f *testing.F) {
	for _, fx := range fixtures(f) {
		for _, c := range fx.Connections {
			if p := readFile(f, c.Sent); len(p) < 10000 {
				f.Add(p, uint16(len(p)/3))
			}
		}
	}
	entries := enc(event(1, "a"), event(2, "b"))
	f.Add(enc(list{"t", zstd1(f, entries), pairs{"compressed", "zstd", "chunk", "c"}}), uint16(7))
	f.Add(enc(list{"t", append(gzipped1(entries), gzipped1(entries)...), pairs{"compressed", "gzip"}}), uint16(7))
	f.Add([]byte(`["t",1,{"log":"a"},{"chunk":"x"}] ["t",[[1,{"log":"a"}]]]`), uint16(2))
	f.Add(append(bytes.Repeat([]byte{0x91}, 1000), 0xc0), uint16(2))
	// One server for all: what a stream leaves behind must not hurt the next one.
	r := newRig(f, &fakeSink{}, "auto", func(c *Config) { c.MaxMessage, c.MaxDecompressed = 64*units.KiB, 256*units.KiB })
	f.Fuzz(func(t *testing.T, p []byte, step uint16) {
		if len(p) > 1<<16 {
			return
		}
		var answers, stored [2]string
		for i, n := range []int{len(p) + 1, int(step) + 1 + len(p)/500} {
			r.sink.batches = nil
			r.log.reset()
			got := r.play(pieces(p, n)...)
			answers[i] = string(bytes.Join(got.answers, []byte("|")))
			lines := r.sink.lines()
			slices.Sort(lines)
			stored[i] = strings.Join(lines, "|")
			if r.sink.admitted != 0 || len(r.overdraft) > 0 || !got.closed {
				t.Fatalf("%d bytes still admitted, closed %v", r.sink.admitted, got.closed)
			}
			for _, a := range got.answers {
				if !bytes.HasPrefix(a, []byte("\x81\xa3ack")) && !bytes.HasPrefix(a, []byte(`{"ack":`)) {
					t.Fatalf("answered %q", a)
				}
			}
		}
		if answers[0] != answers[1] || stored[0] != stored[1] {
			t.Fatalf("whole: answered %q, stored %q\nin pieces of %d: answered %q, stored %q", answers[0], stored[0], step, answers[1], stored[1])
		}
	})
}
