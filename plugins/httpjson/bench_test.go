package httpjson

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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
		line := fmt.Sprintf("10.0.%d.%d - - [21/Sep/2026:14:13:%02d +0000] \\\"GET /api/v1/items/%d?page=%d HTTP/1.1\\\" 200 %d \\\"-\\\" \\\"Mozilla/5.0 (X11; Linux x86_64)\\\"", i%256, i*7%256, i%60, i*7919%100000, i%9, 200+i*31%9000)
		fmt.Fprintf(&b, `{"@timestamp":"2026-09-21T14:13:%02d.%09dZ","@version":"1","message":"%s","event":{"original":"%[3]s"},`+
			`"host":{"name":"web-%d"},"log":{"file":{"path":"/var/log/nginx/access.log"}},"service":{"name":"shop-%d"},"tags":["prod","edge"],"bytes":%d,"duration":0.%d}`,
			i%60, i*1234567%1e9, line, i%4, i%3, i*31, i)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// BenchmarkHandler is a whole request of 125 events, from the body in memory
// to the sink, compression of the batch included.
func BenchmarkHandler(b *testing.B) {
	for _, c := range []struct {
		name string
		gz   bool
	}{{"identity", false}, {"gzip", true}} {
		b.Run(c.name, func(b *testing.B) {
			plain := events(125)
			wire := plain
			if c.gz {
				var gz bytes.Buffer
				w := gzip.NewWriter(&gz)
				_, _ = w.Write(plain)
				_ = w.Close()
				wire = gz.Bytes()
			}
			h := newReceiver(b, nullSink{}, nil).Logstash()
			req := httptest.NewRequest("POST", "/ingest/logstash", nil)
			req.Header.Set("Content-Type", "application/json")
			req.ContentLength = int64(len(wire))
			if c.gz {
				req.Header.Set("Content-Encoding", "gzip")
			}
			body := bytes.NewReader(nil)
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				body.Reset(wire)
				req.Body = io.NopCloser(body)
				w := answer{header: http.Header{}}
				h.ServeHTTP(&w, req)
				if w.code != 204 {
					b.Fatal(w.code)
				}
				n += 125
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

type answer struct {
	header http.Header
	code   int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(p []byte) (int, error) { return len(p), nil }
