package syslog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

type nullSink struct{ entries int }

func (s *nullSink) Admit(context.Context, int64) (func(), error) { return func() {}, nil }
func (s *nullSink) Push(_ context.Context, b *push.Batch) error {
	s.entries += len(b.Entries)
	return nil
}

func benchServer(b testing.TB) (*Server, *nullSink) {
	m, err := mapping.New(mapping.DefaultConfig(), mapping.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	sink := &nullSink{}
	s, err := New(Deps{Sink: sink, Mapper: m}, DefaultConfig())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s, sink
}

// benchMessages returns n messages of ten programs on ten hosts, with lines of
// many kinds, as rsyslog sends them.
func benchMessages(kind string, n int) []byte {
	g := loglines.New(1)
	var out, line []byte
	for i := range n {
		k := i % 10
		at := arrival.Add(time.Duration(i) * 1234567)
		line = g.AppendLine(line[:0], k, at.UnixNano())
		switch kind {
		case "rfc3164":
			out = fmt.Appendf(out, "<30>%s web%d %s[%d]: %s\n", at.Format(time.Stamp), k, loglines.AppName(k), 1000+k, line)
		case "forward": // RSYSLOG_ForwardFormat
			out = fmt.Appendf(out, "<30>%s web%d %s[%d]: %s\n", at.Format("2006-01-02T15:04:05.000000-07:00"), k, loglines.AppName(k), 1000+k, line)
		default:
			m := fmt.Appendf(nil, `<30>1 %s web%d %s %d - [meta sequenceId="%d"] %s`,
				at.Format("2006-01-02T15:04:05.000000-07:00"), k, loglines.AppName(k), 1000+k, i, line)
			out = append(fmt.Appendf(out, "%d ", len(m)), m...)
		}
	}
	return out
}

// endless is a client that sends the same bytes again and again, n times.
type endless struct {
	scripted
	p  []byte
	at int
	n  int
}

func (c *endless) Read(p []byte) (n int, err error) {
	for n < len(p) && c.n > 0 {
		k := copy(p[n:], c.p[c.at:])
		n += k
		if c.at += k; c.at == len(c.p) {
			c.at = 0
			c.n--
		}
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// BenchmarkStream is all that happens between the socket and the sink: reading,
// framing, parsing, mapping, encoding, compressing the batch.
func BenchmarkStream(b *testing.B) {
	const count = 10_000
	for _, kind := range []string{"rfc3164", "forward", "rfc5424"} {
		b.Run(kind, func(b *testing.B) {
			p := benchMessages(kind, count)
			s, sink := benchServer(b)
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			b.ResetTimer()
			s.newConn(&endless{p: p, n: b.N}, overTCP).serve()
			if sink.entries != b.N*count {
				b.Fatalf("%d entries", sink.entries)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/msg")
		})
	}
}

// BenchmarkParse is what it takes to understand a message.
func BenchmarkParse(b *testing.B) {
	for _, kind := range []string{"rfc3164", "forward", "rfc5424"} {
		b.Run(kind, func(b *testing.B) {
			var messages [][]byte
			fr := framer{max: 64 << 10}
			p := benchMessages(kind, 1000)
			size := len(p)
			for {
				f, n, ok := fr.next(p, true)
				if !ok {
					break
				}
				messages = append(messages, f.text)
				p = p[n:]
			}
			ps := parser{zone: time.Local}
			r := recorder{words: newKeywords()}
			var m message
			b.SetBytes(int64(size / len(messages)))
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				ps.parse(&m, messages[i%len(messages)], arrival.UnixNano())
				r.record(&m, keyNone)
				i++
			}
		})
	}
}

// The memory of messages is re-used: thousands of them take few allocations,
// those of connections and pushes.
func TestNoAllocationPerMessage(t *testing.T) {
	const count = 3000
	for _, kind := range []string{"rfc3164", "forward", "rfc5424"} {
		p := benchMessages(kind, count)
		if !bytes.Contains(p, []byte("web9")) {
			t.Fatal("no messages")
		}
		s, _ := benchServer(t)
		allocs := testing.AllocsPerRun(3, func() {
			s.newConn(&endless{p: p, n: 2}, overTCP).serve()
		})
		if allocs > 2*count/4 {
			t.Fatalf("%s: %v allocations for %d messages", kind, allocs, 2*count)
		}
	}
}
