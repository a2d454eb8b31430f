package main

import (
	"encoding/binary"
	"os"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/fluent/fluent-bit-go/output"

	"github.com/loki-go/loki-go/internal/testkit/loglines"
	"github.com/loki-go/loki-go/plugins/msgpack"
)

// The decoder of this plugin beside that of fluent-bit-go, which other plugins
// use: both walk the same chunks and look at each time and record.

func ours(e *msgpack.Events, chunk []byte) (records int) {
	for e.Reset(chunk, 1); e.Next(); records++ {
		if e.TS == 0 || len(e.Record.Nodes) < 2 {
			return -1
		}
	}
	return records
}

func theirs(chunk []byte) (records int) {
	d := output.NewDecoder(unsafe.Pointer(unsafe.SliceData(chunk)), len(chunk))
	for ; ; records++ {
		ret, ts, record := output.GetRecord(d)
		if ret != 0 {
			return records
		}
		if t, ok := ts.(output.FLBTime); !ok || t.IsZero() || len(record) == 0 {
			return -1
		}
	}
}

// tailed is a chunk of in_tail's: one field.
func tailed(n int) []byte {
	gen := loglines.New(1)
	return events(1_790_000_000, n, func(p []byte, i int) []byte {
		return appendText(appendText(append(p, 0x81), "log"), string(gen.AppendLine(nil, i%3, int64(i))))
	})
}

// kubernetes is a chunk with the fields that the kubernetes filter adds.
func kubernetes(n int) []byte {
	gen := loglines.New(1)
	return events(1_790_000_000, n, func(p []byte, i int) []byte {
		p = append(p, 0x84)
		p = appendText(appendText(p, "log"), string(gen.AppendLine(nil, i%3, int64(i))))
		p = appendText(appendText(p, "stream"), "stdout")
		p = append(appendText(p, "retries"), 0xcd, 1, byte(i))
		p = append(appendText(p, "kubernetes"), 0x85)
		for _, s := range []string{"pod_name", "web-7d9c5b7f6-abcde", "namespace_name", "shop", "container_name", "web", "host", "node-1"} {
			p = appendText(p, s)
		}
		p = append(appendText(p, "labels"), 0x82)
		for _, s := range []string{"app", "web", "release", "stable"} {
			p = appendText(p, s)
		}
		return p
	})
}

func events(sec uint32, n int, record func(p []byte, i int) []byte) []byte {
	var p []byte
	for i := range n {
		p = append(p, 0x92, 0x92, 0xd7, 0x00)
		p = binary.BigEndian.AppendUint32(p, sec)
		p = binary.BigEndian.AppendUint32(p, uint32(i))
		p = record(append(p, 0x80), i)
	}
	return p
}

func appendText(p []byte, s string) []byte {
	if len(s) < 32 {
		return append(append(p, 0xa0|byte(len(s))), s...)
	}
	return append(binary.BigEndian.AppendUint32(append(p, 0xdb), uint32(len(s))), s...)
}

func TestDecodersAgree(t *testing.T) {
	captured, err := os.ReadFile(chunkFile)
	if err != nil {
		t.Fatal(err)
	}
	var e msgpack.Events
	for name, chunk := range map[string][]byte{"tail": tailed(1000), "kubernetes": kubernetes(1000), "captured": captured} {
		if a, b := ours(&e, chunk), theirs(chunk); a != b || a <= 0 {
			t.Fatalf("%s: %d records, fluent-bit-go finds %d", name, a, b)
		}
	}
}

// BenchmarkDecoder runs both decoders by turns and reports the records per CPU
// second of each, and their ratio.
func BenchmarkDecoder(b *testing.B) {
	for _, x := range []struct {
		name  string
		chunk []byte
	}{{"tail", tailed(10_000)}, {"kubernetes", kubernetes(10_000)}} {
		b.Run(x.name, func(b *testing.B) {
			a, f := decoderSpeeds(b, x.chunk, b.Loop)
			b.ReportMetric(a, "records/s")
			b.ReportMetric(f, "fluent-bit-go-records/s")
			b.ReportMetric(a/f, "times")
			b.ReportMetric(0, "ns/op") // of both together
		})
	}
}

// cpuTime returns what the process has used so far: on a busy machine, the time
// on the wall says nothing. Garbage collection is in it.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// decoderSpeeds returns the records per CPU second of both decoders.
func decoderSpeeds(t testing.TB, chunk []byte, more func() bool) (ourSpeed, theirSpeed float64) {
	var e msgpack.Events
	var times [2]time.Duration
	var counts [2]int
	for more() {
		start := cpuTime(t)
		n := ours(&e, chunk)
		middle := cpuTime(t)
		m := theirs(chunk)
		times[0] += middle - start
		times[1] += cpuTime(t) - middle
		if n != m || n <= 0 {
			t.Fatalf("%d records, fluent-bit-go finds %d", n, m)
		}
		counts[0] += n
		counts[1] += m
	}
	return float64(counts[0]) / times[0].Seconds(), float64(counts[1]) / times[1].Seconds()
}

// TestDecoderSpeed holds the promise that ours is at least five times as fast.
func TestDecoderSpeed(t *testing.T) {
	for name, chunk := range map[string][]byte{"tail": tailed(2000), "kubernetes": kubernetes(2000)} {
		best := 0.0
		for try := 0; try < 5 && best < 5; try++ {
			left := 4
			a, f := decoderSpeeds(t, chunk, func() bool { left--; return left >= 0 })
			best = max(best, a/f)
		}
		if best < 5 {
			t.Fatalf("%s: %.1f times the records per second of fluent-bit-go", name, best)
		}
		t.Logf("%s: %.1f times the records per second of fluent-bit-go", name, best)
	}
}
