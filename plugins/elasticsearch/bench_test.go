package elasticsearch

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

type nullWriter struct {
	header http.Header
	code   int
}

func (a *nullWriter) Header() http.Header         { return a.header }
func (a *nullWriter) WriteHeader(code int)        { a.code = code }
func (a *nullWriter) Write(p []byte) (int, error) { return len(p), nil }

// ecs returns a bulk body like Filebeat's.
func ecs(n int, ids bool) []byte {
	var b bytes.Buffer
	for i := range n {
		line := fmt.Sprintf("10.0.%d.%d - - [21/Sep/2026:14:13:%02d +0000] \\\"GET /api/v1/items/%d?page=%d HTTP/1.1\\\" 200 %d \\\"-\\\" \\\"Mozilla/5.0 (X11; Linux x86_64)\\\"", i%256, i*7%256, i%60, i*7919%100000, i%9, 200+i*31%9000)
		if ids {
			fmt.Fprintf(&b, `{"create":{"_index":"filebeat-8.19.0","_id":"%08x-5b1a-4f60-9d3e-%012x"}}`+"\n", i*2654435761, i)
		} else {
			b.WriteString(`{"create":{"_index":"filebeat-8.19.0"}}` + "\n")
		}
		fmt.Fprintf(&b, `{"@timestamp":"2026-09-21T14:%02d:%02d.%03dZ","message":"%s","input":{"type":"filestream"},"host":{"name":"web-%d"},`+
			`"log":{"offset":%d,"file":{"path":"/var/log/nginx/access.log"}},"service":{"name":"shop-%d"},"agent":{"type":"filebeat","version":"8.19.0"},"ecs":{"version":"8.0.0"},"tags":["prod","edge"]}`+"\n",
			i/600, i/10%60, i%10*100, line, i%4, i*200, i%3)
	}
	return b.Bytes()
}

// BenchmarkHandler is a whole request, from the body in memory to the sink,
// compression of the batch and the answer included.
func BenchmarkHandler(b *testing.B) {
	for _, c := range []struct {
		name    string
		n       int
		gz, ids bool
	}{{"filebeat_1600", 1600, false, false}, {"filebeat_1600_gzip", 1600, true, false}, {"logstash_125_ids", 125, false, true}} {
		b.Run(c.name, func(b *testing.B) {
			plain := ecs(c.n, c.ids)
			wire := plain
			if c.gz {
				var gz bytes.Buffer
				w := gzip.NewWriter(&gz)
				_, _ = w.Write(plain)
				_ = w.Close()
				wire = gz.Bytes()
			}
			h := mux(newReceiver(b, nullSink{}, nil))
			req := httptest.NewRequest("POST", "/_bulk?filter_path=errors,items.*.error,items.*.status", nil)
			req.Header.Set("User-Agent", "Filebeat/8.19.0")
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
				w := nullWriter{header: http.Header{}, code: 200}
				h.ServeHTTP(&w, req)
				if w.code != 200 {
					b.Fatal(w.code)
				}
				n += c.n
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "docs/s")
		})
	}
}
