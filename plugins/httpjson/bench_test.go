package httpjson

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/loki-go/loki-go/proto/push"
)

type nullSink struct{}

func (nullSink) Admit(context.Context, int64) (func(), error) { return func() {}, nil }
func (nullSink) Push(context.Context, *push.Batch) error      { return nil }

// events returns a body like Logstash's json_batch.
func events(n int) []byte {
	var b bytes.Buffer
	b.WriteByte('[')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		line := strings.ReplaceAll(line(i), `"`, `\"`)
		fmt.Fprintf(&b, `{"@timestamp":"2026-09-21T14:13:%02d.%09dZ","@version":"1","message":"%s","event":{"original":"%[3]s"},`+
			`"host":{"name":"web-%d"},"log":{"file":{"path":"/var/log/nginx/access.log"}},"service":{"name":"shop-%d"},"tags":["prod","edge"],"bytes":%d,"duration":0.%d}`,
			i%60, i*1234567%1e9, line, i%4, i%3, i*31, i)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// flbEventsJSON are events of containers as Fluent Bit sends them.
func flbEventsJSON(n int, sep string) []byte {
	var b bytes.Buffer
	for i := range n {
		if i > 0 {
			b.WriteString(sep)
		}
		fmt.Fprintf(&b, `{"date":179000%04d.%06d,"log":"%s","stream":"stdout","level":"info","kubernetes":{"pod_name":"web-%d","namespace_name":"prod","container_name":"web","host":"node-1"}}`,
			i%10000, i*1237%1e6, strings.ReplaceAll(line(i), `"`, `\"`), i%4)
	}
	return b.Bytes()
}

func ndjson(n int) []byte { return flbEventsJSON(n, "\n") }

// flbEventsMsgpack are the same as a chunk.
func flbEventsMsgpack(n int) []byte {
	var b []byte
	str := func(s string) {
		b = append(b, 0xda, byte(len(s)>>8), byte(len(s)))
		b = append(b, s...)
	}
	for i := range n {
		b = append(b, 0x92, 0x92, 0xd7, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(1790000000+i%10000))
		b = binary.BigEndian.AppendUint32(b, uint32(i*1237%1e6)*1000)
		b = append(b, 0x80, 0x84)
		for _, kv := range [][2]string{{"log", line(i)}, {"stream", "stdout"}, {"level", "info"}} {
			str(kv[0])
			str(kv[1])
		}
		str("kubernetes")
		b = append(b, 0x84)
		for _, kv := range [][2]string{{"pod_name", fmt.Sprint("web-", i%4)}, {"namespace_name", "prod"}, {"container_name", "web"}, {"host", "node-1"}} {
			str(kv[0])
			str(kv[1])
		}
	}
	return b
}

func line(i int) string {
	return fmt.Sprintf(`10.0.%d.%d - - [21/Sep/2026:14:13:%02d +0000] "GET /api/v1/items/%d?page=%d HTTP/1.1" 200 %d "-" "Mozilla/5.0 (X11; Linux x86_64)"`,
		i%256, i*7%256, i%60, i*7919%100000, i%9, 200+i*31%9000)
}

// BenchmarkHandler is a whole request, from the body in memory to the sink,
// compression of the batch included.
func BenchmarkHandler(b *testing.B) {
	r := newReceiver(b, nullSink{}, nil)
	for _, c := range []struct {
		name, kind, encoding string
		h                    http.Handler
		body                 func(n int) []byte
		events               int
	}{
		{"json_batch", "application/json", "", r.Logstash(), events, 125},
		{"json_batch_gzip", "application/json", "gzip", r.Logstash(), events, 125},
		{"json_batch_5000", "application/json", "", r.Logstash(), events, 5000},
		{"ndjson", "application/x-ndjson", "", r.FluentBit(), ndjson, 5000},
		{"json_stream", "application/json", "", r.FluentBit(), func(n int) []byte { return flbEventsJSON(n, "") }, 5000},
		{"msgpack", "application/msgpack", "", r.FluentBit(), flbEventsMsgpack, 5000},
		{"json", "application/json", "", r.JSON(), events, 5000},
	} {
		b.Run(c.name, func(b *testing.B) {
			plain := c.body(c.events)
			wire := plain
			if c.encoding == "gzip" {
				wire = []byte(gzipped(b, string(plain)))
			}
			req := httptest.NewRequest("POST", "/", nil)
			req.Header.Set("Content-Type", c.kind)
			req.Header.Set("Content-Encoding", c.encoding)
			req.ContentLength = int64(len(wire))
			body := bytes.NewReader(nil)
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				body.Reset(wire)
				req.Body = io.NopCloser(body)
				w := answer{header: http.Header{}}
				c.h.ServeHTTP(&w, req)
				if w.code != 204 {
					b.Fatal(w.code)
				}
				n += c.events
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// TestNoAllocationPerEvent holds requests of many events against requests of
// few.
func TestNoAllocationPerEvent(t *testing.T) {
	if raceEnabled {
		return // the detector makes pools forget
	}
	r := newReceiver(t, nullSink{}, nil)
	for _, c := range []struct {
		name, kind string
		h          http.Handler
		body       func(n int) []byte
	}{
		{"json_batch", "application/json", r.Logstash(), events},
		{"ndjson", "application/x-ndjson", r.FluentBit(), ndjson},
		{"msgpack", "application/msgpack", r.FluentBit(), flbEventsMsgpack},
	} {
		allocs := func(n int) float64 {
			wire := c.body(n)
			req := httptest.NewRequest("POST", "/", nil)
			req.Header.Set("Content-Type", c.kind)
			body := bytes.NewReader(nil)
			return testing.AllocsPerRun(20, func() {
				body.Reset(wire)
				req.Body = io.NopCloser(body)
				w := answer{header: http.Header{}}
				if c.h.ServeHTTP(&w, req); w.code != 204 {
					t.Fatal(w.code)
				}
			})
		}
		few, many := allocs(10), allocs(1010)
		if perEvent := (many - few) / 1000; perEvent > 0.05 {
			t.Errorf("%s: %.2f allocations for each event (%.0f for 10, %.0f for 1010)", c.name, perEvent, few, many)
		}
	}
}

type answer struct {
	header http.Header
	code   int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(p []byte) (int, error) { return len(p), nil }
