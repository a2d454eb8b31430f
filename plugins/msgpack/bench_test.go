package msgpack

import (
	"encoding/binary"
	"testing"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/plugins/mapping"
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

// containerEvents returns n events as Fluent Bit's tail input with the
// Kubernetes filter makes them, in the form with metadata.
func containerEvents(n int) []byte {
	g := loglines.New(1)
	var b, line []byte
	for i := range n {
		ts := int64(1790000000e9) + int64(i)*1234567
		b = append(b, 0x92, 0x92, 0xd7, 0x00)
		b = binary.BigEndian.AppendUint32(b, uint32(ts/1e9))
		b = binary.BigEndian.AppendUint32(b, uint32(ts%1e9))
		b = append(b, 0x80, 0x83)
		line = g.AppendLine(line[:0], i%loglines.Apps(), ts)
		b = appendStr(appendStr(b, "log"), string(line))
		b = appendStr(appendStr(b, "stream"), "stdout")
		b = append(appendStr(b, "kubernetes"), 0x85)
		for _, kv := range [][2]string{
			{"pod_name", "web-7c9b5d-x2x4z"},
			{"namespace_name", "shop"},
			{"container_name", "web"},
			{"host", "node-17"},
			{"docker_id", "5e0b6d0a3a574a2c8f0e0d9e4f1c2b3a"},
		} {
			b = appendStr(appendStr(b, kv[0]), kv[1])
		}
	}
	return b
}

func TestEventsAllocateNothing(t *testing.T) {
	p := containerEvents(100)
	otlp := unhex(t, "92 92 d700ffffffff00000000 80 81 a16101 92 92 d7006ab13b8000000001 81 a46f746c70 81 a874726163655f6964 c4020102 81 05 06")
	var e Events
	walk := func() {
		n := 0
		for e.Reset(p, 0); e.Next(); n++ {
		}
		for e.Reset(otlp, 0); e.Next(); n++ {
		}
		if n != 101 || e.Dropped() > 0 {
			t.Fatalf("%d events, %d dropped", n, e.Dropped())
		}
	}
	walk()
	if n := testing.AllocsPerRun(10, walk); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkEvents(b *testing.B) {
	p := containerEvents(5000)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	var e Events
	for b.Loop() {
		for e.Reset(p, 0); e.Next(); {
		}
	}
}

func BenchmarkFrame(b *testing.B) {
	p := containerEvents(5000)
	p = append([]byte{0xdd, 0, 0, byte(5000 >> 8), byte(5000 & 0xff)}, p...)
	for _, bench := range []struct {
		name string
		step int
	}{{"whole", len(p)}, {"in 1 KiB reads", 1024}} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				var f Frame
				for n, done := 0, false; !done; {
					n = min(n+bench.step, len(p))
					done, _ = f.Scan(p[:n])
				}
			}
		})
	}
}

func BenchmarkScan(b *testing.B) {
	p := containerEvents(1)[13:]
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	var s Scanner
	var rec mapping.Record
	for b.Loop() {
		s.Scan(&rec, p, 0)
	}
}
