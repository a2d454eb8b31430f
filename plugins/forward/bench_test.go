package forward

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/loki-go/loki-go/internal/testkit"
	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/plugins/mapping"
	"github.com/loki-go/loki-go/proto/push"
)

func appendStr(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n < 256:
		b = append(b, 0xd9, byte(n))
	default:
		b = append(b, 0xda, byte(n>>8), byte(n))
	}
	return append(b, s...)
}

// logEntries returns n entries with lines of many kinds. Those of containers
// have what Fluent Bit's Kubernetes filter adds, of ten pods.
func logEntries(n int, containers, metadata bool) []byte {
	g := loglines.New(1)
	var b, line []byte
	for i := range n {
		ts := int64(1790000000e9) + int64(i)*1234567
		b = append(b, 0x92)
		if metadata {
			b = append(b, 0x92)
		}
		b = append(b, 0xd7, 0x00)
		b = binary.BigEndian.AppendUint32(b, uint32(ts/1e9))
		b = binary.BigEndian.AppendUint32(b, uint32(ts%1e9))
		if metadata {
			b = append(b, 0x80)
		}
		pod := i % 10
		line = g.AppendLine(line[:0], pod, ts)
		if !containers {
			b = append(b, 0x81)
			b = appendStr(appendStr(b, "log"), string(line))
			continue
		}
		b = append(b, 0x83)
		b = appendStr(appendStr(b, "log"), string(line))
		b = appendStr(appendStr(b, "stream"), "stdout")
		b = append(appendStr(b, "kubernetes"), 0x85)
		for _, kv := range [][2]string{
			{"pod_name", fmt.Sprintf("%s-7c9b5d-x2x4%d", loglines.AppName(pod), pod)},
			{"namespace_name", "shop"},
			{"container_name", loglines.AppName(pod)},
			{"host", "node-17"},
			{"docker_id", "5e0b6d0a3a574a2c8f0e0d9e4f1c2b3a"},
		} {
			b = appendStr(appendStr(b, kv[0]), kv[1])
		}
	}
	return b
}

// message around entries, as Fluentd (packed) or Fluent Bit write it.
func benchMessage(entries []byte, count int, packed bool) []byte {
	b := appendStr([]byte{0x93}, "kube.var.log.containers.web")
	if packed {
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(len(entries)))
	} else {
		b = binary.BigEndian.AppendUint32(append(b, 0xdd), uint32(count))
	}
	b = append(b, entries...)
	b = append(b, 0x82)
	b = appendStr(appendStr(b, "chunk"), "mp5Vh8uECtzTq8H0iBUAhg==")
	return append(appendStr(b, "size"), 1)
}

type nullSink struct{ entries int }

func (s *nullSink) Admit(context.Context, int64) (func(), error) { return func() {}, nil }
func (s *nullSink) Push(_ context.Context, b *push.Batch) error {
	s.entries += len(b.Entries)
	return nil
}

// endless is a client that sends one message again and again, n times.
type endless struct {
	scripted
	p  []byte
	at int
	n  int
}

func (c *endless) Read(p []byte) (int, error) {
	if c.n == 0 {
		return 0, io.EOF
	}
	k := copy(p, c.p[c.at:])
	if c.at += k; c.at == len(c.p) {
		c.at = 0
		c.n--
	}
	return k, nil
}

func (c *endless) Write(p []byte) (int, error) { return len(p), nil }

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

// BenchmarkStream is all that happens between the socket and the sink: reading,
// framing, decoding, mapping, encoding, compressing the batch.
func BenchmarkStream(b *testing.B) {
	const count = 8000
	for _, bench := range []struct {
		name                 string
		containers, metadata bool
		packed, gzip         bool
	}{
		{"PackedForward lines", false, false, true, false},
		{"PackedForward containers", true, false, true, false},
		{"Forward containers", true, true, false, false},
		{"Compressed containers", true, false, true, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			entries := logEntries(count, bench.containers, bench.metadata)
			size := len(entries)
			if bench.gzip {
				entries = gzipped1(entries)
			}
			p := benchMessage(entries, count, bench.packed)
			s, sink := benchServer(b)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			newConn(s, &endless{p: p, n: b.N}).serve()
			if sink.entries != b.N*count {
				b.Fatalf("%d entries", sink.entries)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/entry")
		})
	}
}

// BenchmarkDecodeMap is what happens to the entries of one message, without
// reading it and without laying out and compressing the batch.
func BenchmarkDecodeMap(b *testing.B) {
	const count = 8000
	for _, containers := range []bool{false, true} {
		b.Run(fmt.Sprintf("containers=%v", containers), func(b *testing.B) {
			entries := logEntries(count, containers, false)
			s, _ := benchServer(b)
			w := newConn(s, &endless{}).getWorker()
			w.message([]byte("kube.var.log.containers.web"))
			b.SetBytes(int64(len(entries)))
			b.ReportAllocs()
			for b.Loop() {
				w.batches.Reset()
				for w.events.Reset(entries, 0); w.events.Next(); {
					w.in.TS, w.in.Meta = w.events.TS, w.events.Meta
					w.st.Add(&w.events.Record, &w.in, &w.batches)
				}
			}
		})
	}
}

// BenchmarkStreams is BenchmarkStream with the load of make bench: messages of
// 512 KB of lines, of a hundred streams that three fields name.
func BenchmarkStreams(b *testing.B) {
	mc := mapping.DefaultConfig()
	mc.LabelKeys = []string{"app", "instance", "namespace"}
	m, err := mapping.New(mc, mapping.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	sink := &nullSink{}
	s, err := New(Deps{Sink: sink, Mapper: m}, DefaultConfig())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	g := loglines.New(1)
	streams := make([]testkit.Stream, 100)
	size := 0
	for i := 0; size < 512<<10; i++ {
		st := &streams[i%len(streams)]
		if st.Labels == nil {
			st.Labels = []testkit.Pair{{Name: "app", Value: loglines.AppName(i)}, {Name: "instance", Value: fmt.Sprint("host-", i)}, {Name: "namespace", Value: "shop"}}
		}
		ts := int64(1790000000e9) + int64(i)*1234567
		line := string(g.AppendLine(nil, i%len(streams), ts))
		st.Entries = append(st.Entries, testkit.Entry{TS: ts, Line: line})
		size += len(line)
	}
	p := testkit.Forward("bench", testkit.ChunkID(1), streams)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	newConn(s, &endless{p: p, n: b.N}).serve()
	if sink.entries == 0 {
		b.Fatal("no entries")
	}
}

func BenchmarkSmallMessages(b *testing.B) {
	p := enc(list{"app.web", ext{1790000000, 5}, pairs{"log", "GET /api/v1/items 200 12ms", "level", "info"}})
	s, sink := benchServer(b)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	b.ResetTimer()
	newConn(s, &repeated{p: p, n: b.N}).serve()
	if sink.entries != b.N {
		b.Fatalf("%d entries", sink.entries)
	}
}

// repeated fills reads with as many messages as fit, n in all.
type repeated struct {
	scripted
	p  []byte
	at int
	n  int
}

func (c *repeated) Read(p []byte) (n int, err error) {
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

// The memory of a message is re-used for the next one: a message of thousands
// of entries takes few allocations, whatever their number.
func TestNoAllocationPerEntry(t *testing.T) {
	const count = 2000
	p := benchMessage(logEntries(count, true, true), count, false)
	s, _ := benchServer(t)
	allocs := testing.AllocsPerRun(3, func() {
		newConn(s, &endless{p: p, n: 4}).serve()
	})
	if allocs > 4*200 {
		t.Fatalf("%v allocations for 4 messages of %d entries", allocs, count)
	}
}
